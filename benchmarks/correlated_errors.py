"""The likelihood of errors with memory: exact, and in time that grows with the length of the record alone?

A daily record with gaps (a fifth of its days, and one of half a year) and R = diag(sigma^2) + S C S: measurement error of each value, and a
model error that changes with the season and remembers for six days (`landcal_jax.error_model`, a Kalman filter of one state).

* Exactness, 2,000 days: log p against that of the whole matrix by Cholesky's decomposition, relative; its derivatives by the
  numbers of the error against those of the whole matrix by JAX, relative to the largest.
* Time, 20,000 days (55 years): log p with its gradient by all modelled values and by the four numbers of the error
  (constant, two of the season, memory). Milliseconds of the processor's one core, median; target: below 50.
* The same work by tinygp's quasi-separable solver, if that is installed, in turn in one run: ratio of the medians, above 1 where ours is
  faster. It has the same recursions for kernels of any number of states, as matrices.

    python benchmarks/correlated_errors.py
"""

import importlib.util
import time

import equinox as eqx
import harness
import jax
import jax.numpy as jnp
import numpy as np

from landcal_jax.error_model import ModelError
from landcal_jax.observations import Stream

NUMBERS = np.array([0.8, 0.3, -0.2, 6.0])
"""Constant, cosine and sine of the season, memory in days."""


def record(number: int) -> tuple[Stream, jax.Array]:
    """A stream of as many days, with gaps, and what a model gives for it (1, n_obs)."""
    rng = np.random.default_rng(0)
    values = 2.0 * rng.standard_normal(number)
    values[rng.random(number) < 0.2] = np.nan
    values[number // 3 : number // 3 + min(180, number // 10)] = np.nan
    stream = Stream(values, rng.uniform(0.1, 0.6, number), time=np.datetime64("1960-01-01") + np.arange(number),
                    model_error=ModelError(NUMBERS[0], seasonal=NUMBERS[1:3], correlation_days=NUMBERS[3]))
    return stream, jnp.asarray(rng.standard_normal((1, number)))


def with_numbers(stream: Stream, numbers: jax.Array) -> Stream:
    error = stream.model_error
    fields = [numbers[:1], numbers[None, 1:3], numbers[3:]]
    for name, value in zip(("constant", "seasonal", "days"), fields, strict=True):
        error = eqx.tree_at(lambda error, name=name: getattr(error, name), error, value)
    return stream.with_model_error(error)


def ours(stream: Stream, modelled: jax.Array, numbers: jax.Array) -> jax.Array:
    """log p of the observed values."""
    stream = with_numbers(stream, numbers)
    return stream.log_normalisation - 0.5 * jnp.sum(stream.whitened(modelled) ** 2)


def parts(stream: Stream) -> tuple[np.ndarray, np.ndarray, jax.Array, jax.Array]:
    """Of what was observed alone: its places, days, values and measurement errors."""
    places = np.flatnonzero(np.asarray(stream.mask)[0])
    return places, np.asarray(stream.minutes)[0, places] / 1440.0, stream.values[0, places], stream.sigma[0, places]


def dense(stream: Stream, modelled: jax.Array, numbers: jax.Array) -> jax.Array:
    """The same from the whole matrix."""
    places, days, values, sigma = parts(stream)
    s = with_numbers(stream, numbers).model_error_deviation[0, places]
    R = jnp.diag(sigma**2) + s[:, None] * jnp.exp(-jnp.abs(days[:, None] - days) / numbers[3]) * s
    return jax.scipy.stats.multivariate_normal.logpdf(values, modelled[0, places], R)


def quasiseparable(stream: Stream, modelled: jax.Array, numbers: jax.Array) -> jax.Array:
    """The same by tinygp. Its kernel is stationary: errors are divided by s, and so is the measurement error."""
    import tinygp

    places, days, values, sigma = parts(stream)
    s = with_numbers(stream, numbers).model_error_deviation[0, places]
    process = tinygp.GaussianProcess(tinygp.kernels.quasisep.Exp(scale=numbers[3]), days, diag=(sigma / s) ** 2)
    return process.log_probability((values - modelled[0, places]) / s) - jnp.sum(jnp.log(s))


def compiled(function, stream: Stream, modelled: jax.Array):
    """The value and its derivatives by the modelled values and the numbers of the error, as a call without arguments."""
    made = jax.jit(jax.value_and_grad(lambda modelled, numbers: function(stream, modelled, numbers), argnums=(0, 1)))
    return lambda: made(modelled, jnp.asarray(NUMBERS))


def exactness(bench: harness.Benchmark) -> None:
    number = 300 if bench.quick else 2000
    stream, modelled = record(number)
    (value, (_, slope)), (whole, (_, whole_slope)) = (compiled(each, stream, modelled)() for each in (ours, dense))
    bench.figure(f"log p against the whole matrix, {number} days, relative", abs(float(value / whole) - 1), "1", "< 1e-10")
    apart = float(jnp.max(jnp.abs(slope - whole_slope)) / jnp.max(jnp.abs(whole_slope)))
    bench.figure("its derivatives by the numbers of the error, relative", apart, "1", "< 1e-10")


def speed(bench: harness.Benchmark) -> None:
    number = 2000 if bench.quick else 20000
    stream, modelled = record(number)
    calls = {"ours": compiled(ours, stream, modelled)}
    if importlib.util.find_spec("tinygp"):
        calls["tinygp"] = compiled(quasiseparable, stream, modelled)
        value, other = (float(call()[0]) for call in calls.values())
        bench.figure(f"log p against tinygp, {number} days, relative", abs(value / other - 1), "1", "< 1e-10")
    times = harness.interleave(calls, 5 if bench.quick else 40, warm=3, clock=time.process_time)
    bench.figure(f"log p with its gradient, {number} days", 1e3 * times["ours"].median, "ms", "< 50")
    if "tinygp" in times:
        bench.figure("tinygp / ours", times["tinygp"].median / times["ours"].median, "1")


def main() -> None:
    bench = harness.Benchmark("correlated_errors", __doc__)
    exactness(bench)
    speed(bench)
    bench.finish()


if __name__ == "__main__":
    main()
