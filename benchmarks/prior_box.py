"""Is there a NaN or an infinity in value or gradient of the shipped models anywhere in the prior box?

One is enough to end a calibration, and it comes where nobody looks: a pool that is empty, a fraction at its bound, a
day without sun or rain. So both models in their default arithmetic (DALEC2, 23 parameters; DALEC with water, 37) are
run, with their exact gradient by all parameters, at 10,000 points for each of two time steps and five climates, from
the weather generator of the package: two years of days, and twenty years of months. The climates are its four, of
which the savanna burns (one day in eleven or so burns a fifth, one burns everything), and a polar one at 78 degrees
north, with night in winter. Corners are exact: theta at its bounds.

Points, uniform in the logarithm of the range: a tenth at corners (all low and all high among them), a tenth near
corners (each parameter at a relative distance of 1e-12 to 1e-2 of its range from a bound), a tenth on faces (a third
of the parameters at each bound), the rest inside.

Judged: the sum over all steps of log(1 + |x|) of every output x with units, and of the pools at the end, and its
gradient by theta: the logarithm keeps large outputs from hiding small ones. Then J and its gradient by z, as a
calibration sees them, with `landcal_jax.testing.scan` at 10,000 points up to z = +-6 of the problems that `landcal
check` verifies. Seconds are those of one core, compiling included.

Control: the same survey of DALEC with water in its published arithmetic (daily, savanna), which a calibration by
gradient cannot use: it has to find something.
"""

import time
from dataclasses import replace

import harness
import jax
import jax.numpy as jnp
import numpy as np

from landcal_jax import cli, testing
from landcal_jax.model import simulate
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.weather import BOREAL, CLIMATES, SAVANNA, weather

POINTS, BATCH, MONTH = 10_000, 250, 365.25 / 12
POLAR = replace(BOREAL, name="polar", latitude=78.0, temperature=-9.0, precipitation=200.0)
PLACES = (*CLIMATES.values(), POLAR)
KINDS = ("corner", "near corner", "face", "inside")


def drivers(climate, step_days: float, quick: bool):
    """Two years of days or twenty of months; the savanna burns."""
    if step_days > 1:
        days = weather(climate, years=4 if quick else 20, seed=1)
        dataset = days.resample(time="MS").mean(keep_attrs=True)
    else:
        dataset = weather(climate, years=1 if quick else 2, seed=1)
    if climate is SAVANNA:
        burned = np.zeros(dataset.sizes["time"])
        burned[3::11], burned[15] = 0.2, 1.0
        dataset["burned_fraction"] = "time", burned, {"units": "1"}
    return dataset


def box(model, number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points (number, n) of the prior box, and the kind of each as an index into `KINDS`."""
    table = model.parameters()
    low, high = (
        np.array([float(getattr(table[name], side)) for name in model.parameter_names]) for side in ("low", "high"))
    rng = np.random.default_rng(seed)
    kind = np.minimum(np.arange(number) // max(1, number // 10), 3)
    inside = rng.random((number, low.size))
    corner = rng.integers(0, 2, (number, low.size)).astype(float)
    corner[0], corner[1] = 0, 1
    distance = 10.0 ** rng.uniform(-12, -2, (number, low.size))
    share = np.choose(kind[:, None], [corner, np.abs(corner - distance), np.clip(3 * inside - 1, 0, 1), inside])
    points = np.exp(np.log(low) + share * np.log(high / low))
    # At a bound, the bound itself and not what rounding makes of it.
    return np.where(share <= 0, low, np.where(share >= 1, high, np.clip(points, low, high))), kind


@jax.jit
def survey(model, vectors, forcing):
    """Sum of log(1 + |x|) over all outputs x and final pools of every point, and its gradient."""
    def total(vector):
        run = simulate(model, dict(zip(model.parameter_names, vector, strict=True)), forcing, save=None)
        parts = [getattr(run.output, name) for name in model.output_units] + [pool[-1] for pool in run.state]
        return sum(jnp.sum(jnp.log1p(jnp.abs(part))) for part in parts)

    return jax.lax.map(jax.value_and_grad(total), vectors, batch_size=BATCH)


def report_models(bench: harness.Benchmark, number: int) -> int:
    """Every model, step and climate; returns the number of points that were tried."""
    tried = 0
    for make in (Dalec2, DalecWater):
        for step, step_days in (("daily", 1.0), ("monthly", MONTH)):
            model = make(step_days)
            points, kind = box(model, number)
            begin, wrong = time.process_time(), np.zeros(number, int)
            for climate in PLACES:
                forcing = model.forcing(drivers(climate, step_days, bench.quick))
                value, gradient = survey(model, jnp.asarray(points), forcing)
                wrong += ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
            name = f"{make.__name__}, {step}"
            bench.figure(f"{name}: non-finite points", wrong.sum(), "1", "<= 0")
            for index, what in enumerate(KINDS):
                if wrong[kind == index].any():
                    bench.figure(f"{name}: of these, {what}", wrong[kind == index].sum(), "1")
            bench.figure(f"{name}: {len(PLACES)} climates, points in each {number}", time.process_time() - begin, "s")
            tried += number * len(PLACES)
    return tried


def report_control(bench: harness.Benchmark, number: int) -> None:
    """The published arithmetic at the same points."""
    model = DalecWater.reference()
    forcing = model.forcing(drivers(SAVANNA, 1.0, bench.quick))
    value, gradient = survey(model, jnp.asarray(box(model, number)[0]), forcing)
    wrong = ~(np.isfinite(value) & np.isfinite(gradient).all(axis=1))
    bench.figure("control, published arithmetic: share of non-finite points", wrong.mean(), "1")


def report_problems(bench: harness.Benchmark, number: int) -> None:
    """J and its gradient by z."""
    for name, problem in cli.shipped_problems().items():
        begin = time.process_time()
        found = testing.scan(problem, number)
        bench.figure(f"{name}, J of a twin: non-finite points of {number}", len(found.z), "1", "<= 0")
        bench.figure(f"{name}, J of a twin: scan", time.process_time() - begin, "s")


def main() -> None:
    """Measure and report."""
    bench = harness.Benchmark("prior_box", __doc__)
    number = 500 if bench.quick else POINTS
    bench.figure("points tried, with their gradients", report_models(bench, number), "1")
    report_control(bench, number)
    report_problems(bench, number)
    bench.finish()


if __name__ == "__main__":
    main()
