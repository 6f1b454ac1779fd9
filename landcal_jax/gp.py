"""Gaussian processes: what a function of the parameters is between the runs that were made, and how far that can be trusted.

    processes = GaussianProcesses.fit(x, y)            # x (run, n) in [-1, 1], y (run, k): k outputs, fitted in one batch
    mean, variance = processes.predict(points)         # both (point, k)
    mean, variance = processes.leave_one_out()         # both (run, k), each run predicted from the others

    y = H b + f(x) + e,    f ~ GP(0, s^2 c(x, x'; lengths)),    e ~ N(0, nugget + noise^2)

Each output has its own lengths (one for each input: what does not matter gets a long one), signal, nugget and coefficients b of its
mean function. b is not a number but integrated out under a flat prior, so that its uncertainty is in the variance (universal kriging;
Santner, Williams & Notz 2018, The Design and Analysis of Computer Experiments, section 4.1). How hyperparameters are found, and how
their own uncertainty widens the signal so that intervals hold what they promise, stands in `landcal_jax.gp_fitting`. Kernels are
those of tinygp. Everything is in float64: call `landcal_jax.configure()` first.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from tinygp.kernels import ExpSquared, Matern32, Matern52

from landcal_jax import gp_fitting
from landcal_jax.errors import complain
from landcal_jax.gp_fitting import JITTER, Hyperparameters
from landcal_jax.keys import key_of

MEANS = ("constant", "linear", "quadratic")
KERNELS = {
    "matern52": Matern52,
    "matern32": Matern32,
    "squared_exponential": ExpSquared,
}
ROOM = 32
"""Runs are filled up to a multiple of this, so that a design that grows run by run compiles once in 32 runs."""
BATCH, FEW = 2048, 64


class Factors(eqx.Module):
    """What one output needs for its predictions: a point with correlations k (run,) and basis h (p,) has

    mean = h'b + k'weights,   variance = signal - |whiten k|^2 + |remain k + root h|^2.
    """

    coefficients: Array
    weights: Array
    whiten: Array
    remain: Array
    root: Array

    def moments(self, correlations: Array, basis: Array, signal: Array) -> tuple[Array, Array]:
        """Mean and variance (point,) from correlations (point, run) and basis (point, p)."""
        mean = basis @ self.coefficients + correlations @ self.weights
        half = len(self.weights) // 2
        # A lower triangle: a quarter of the products would be with zeros.
        seen = jnp.sum((correlations[:, :half] @ self.whiten[:half, :half].T) ** 2, axis=1)
        seen = seen + jnp.sum((correlations @ self.whiten[half:].T) ** 2, axis=1)
        unknown_mean = jnp.sum((correlations @ self.remain.T + basis @ self.root.T) ** 2, axis=1)
        return mean, signal - seen + unknown_mean


class GaussianProcesses(eqx.Module):
    """k Gaussian processes on the same runs; make them with `fit`. Inputs and outputs are standardised inside.

    A pytree: pass it to your own jitted functions as an argument. `hyperparameters` and `log_posterior` (k,) are those of the standardised
    numbers; `lengths`, `signal` and `nugget` are in the units of inputs and outputs.
    """

    hyperparameters: Hyperparameters
    log_posterior: Array
    factors: Factors
    scaled_x: Array
    scaled_y: Array
    scaled_noise: Array
    present: Array
    x_scale: tuple[Array, Array]
    y_scale: tuple[Array, Array]
    kernel: str = eqx.field(static=True)
    mean: str = eqx.field(static=True)

    @classmethod
    def fit(
        cls, x: ArrayLike, y: ArrayLike, *, mean: str = "linear", noise: ArrayLike | None = None, kernel: str = "matern52",
        searches: int = 5, key: Array | int = 0,
    ) -> "GaussianProcesses":
        """Fit x (run, n) and y (run, k).

        `mean`: "constant", "linear" or "quadratic" (with products), whose coefficients are integrated out. `noise`: None for a nugget that
        is fitted, for models whose output has a fine structure that no design resolves, or random errors of unknown size (Gramacy &
        Lee 2012, Statistics and Computing 22, 713); or the standard deviation of each value in units of y, a scalar, (k,) or (run, k),
        0 for a deterministic function that is to be interpolated. `kernel`: "matern52", "matern32" or "squared_exponential".
        `searches`: how many of 32 starts, drawn by `key`, are improved.

        Raises ValueError for other shapes, values that are not finite (leave failed runs out), inputs or outputs that do not vary,
        fewer than p + 2 runs with p the coefficients of the mean, and where no hyperparameters were found.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        _check_runs(x, y, mean, kernel)
        low, high = x.min(axis=0), x.max(axis=0)
        x_scale, y_scale = (0.5 * (low + high), 0.5 * (high - low)), (y.mean(axis=0), y.std(axis=0))
        arrays = _standardised(x, y, _noise_of(noise, y.shape), x_scale, y_scale)
        found, log_posterior = gp_fitting.search(
            KERNELS[kernel], mean, *arrays, key_of(key), fit_nugget=noise is None, searches=searches)
        found = gp_fitting.widened(KERNELS[kernel], mean, found, *arrays, fit_nugget=noise is None)
        processes = _conditioned(found, log_posterior, arrays, x_scale, y_scale, kernel, mean)
        lost = ~np.isfinite(np.asarray(processes.factors.weights)).all(axis=1) | ~np.isfinite(np.asarray(log_posterior))
        if lost.any():
            raise ValueError(complain(
                "a covariance that can be inverted, in float64", f"none for output {', '.join(map(str, np.flatnonzero(lost)))}",
                "landcal_jax.configure() first; leave out runs that are there twice; a simpler mean; noise=None"))
        return processes

    def updated(self, x: ArrayLike, y: ArrayLike, noise: ArrayLike = 0.0) -> "GaussianProcesses":
        """With more runs, x (run, n) and y (run, k), and the hyperparameters and scales as they are; not inside jit.

        `noise`: standard deviation of the new values, as in `fit`. Raises ValueError as `fit` does.
        """
        x, y = np.asarray(x, float), np.asarray(y, float)
        _check_shapes(x, y, (self.scaled_x.shape[1], self.scaled_y.shape[1]))
        x, y = np.concatenate([self.x, x]), np.concatenate([self.y, y])
        noise = np.concatenate([self.noise, _noise_of(noise, (len(y) - len(self.y), y.shape[1]))])
        arrays = _standardised(x, y, noise, self.x_scale, self.y_scale)
        return _conditioned(self.hyperparameters, self.log_posterior, arrays, self.x_scale, self.y_scale, self.kernel, self.mean)

    def only(self, outputs: Sequence[int]) -> "GaussianProcesses":
        """The processes of these outputs alone, in this order."""
        chosen = np.asarray(outputs, int)
        by_output = (self.hyperparameters, self.log_posterior, self.factors)
        parts = jax.tree.map(lambda leaf: leaf[chosen], by_output)
        return dataclasses.replace(
            self, hyperparameters=parts[0], log_posterior=parts[1], factors=parts[2], scaled_y=self.scaled_y[:, chosen],
            scaled_noise=self.scaled_noise[:, chosen], y_scale=tuple(part[chosen] for part in self.y_scale))

    @property
    def x(self) -> np.ndarray:
        """Inputs of the runs (run, n)."""
        return np.asarray(self.scaled_x * self.x_scale[1] + self.x_scale[0])[np.asarray(self.present)]

    @property
    def y(self) -> np.ndarray:
        """Outputs of the runs (run, k)."""
        return np.asarray(self.scaled_y * self.y_scale[1] + self.y_scale[0])[np.asarray(self.present)]

    @property
    def noise(self) -> np.ndarray:
        """Standard deviation of the noise that was given, (run, k), in units of y."""
        return np.sqrt(np.asarray(self.scaled_noise))[np.asarray(self.present)] * np.asarray(self.y_scale[1])

    @property
    def lengths(self) -> Array:
        """Length scales (k, n) in units of x."""
        return self.hyperparameters.lengths * self.x_scale[1]

    @property
    def signal(self) -> Array:
        """Standard deviation (k,) of what the mean function leaves, in units of y; widened by what is unknown of the hyperparameters."""
        return jnp.sqrt(self.hyperparameters.signal) * self.y_scale[1]

    @property
    def nugget(self) -> Array:
        """Standard deviation (k,) of the fitted nugget in units of y; zero where it was not fitted."""
        return jnp.sqrt(self.hyperparameters.signal * self.hyperparameters.nugget) * self.y_scale[1]

    def predict(self, x: ArrayLike, *, nugget: bool = True) -> tuple[Array, Array]:
        """Mean and variance of each output at x (point, n) -> (point, k), or (n,) -> (k,); any number of points, in batches.

        The variance is that of another run of the model, with the fitted nugget, or without it where `nugget` is False: of the smooth
        part alone, which is what a search under random errors wants. Noise that was given is never in it. It is never less than the
        jitter, 1e-9 of the signal. Differentiable, and usable inside jit.
        """
        points, chunks = _chunked(self._scaled(x))
        mean, variance = _predicted(self, chunks, nugget)
        shape = jnp.shape(x)[:-1] + (-1,)
        return tuple(array.reshape(-1, array.shape[-1])[:points].reshape(shape) for array in (mean, variance))

    def joint(self, x: ArrayLike) -> tuple[Array, Array]:
        """Mean (point, k) and covariance (k, point, point) of the smooth part at some points (point, n); usable inside jit.

        The jitter, 1e-9 of the signal's variance, is on its diagonal, so that it has a Cholesky factor.
        """
        x = self._scaled(x)
        basis = gp_fitting.basis(self.mean, x)

        def one(h: Hyperparameters, factors: Factors):
            k = h.signal * self._correlations(h, x)
            seen, unknown = k @ factors.whiten.T, k @ factors.remain.T + basis @ factors.root.T
            between = h.signal * (_correlations(self.kernel, h, x, x) + JITTER * jnp.eye(len(x)))
            return basis @ factors.coefficients + k @ factors.weights, between - seen @ seen.T + unknown @ unknown.T

        mean, covariance = jax.vmap(one)(self.hyperparameters, self.factors)
        centre, scale = self.y_scale
        return centre + scale * mean.T, scale[:, None, None] ** 2 * covariance

    def leave_one_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (run, k) of every run's values given all other runs, with nugget and noise; hyperparameters are kept.

        In closed form, the uncertainty of the mean function included: with Q = K^-1 - K^-1 H (H'K^-1 H)^-1 H'K^-1, the mean is
        y_i - (Q y)_i / Q_ii and the variance 1 / Q_ii (Dubrule 1983, Mathematical Geology 15, 687).
        """
        mean, variance = _left_out(self)
        present = np.asarray(self.present)
        centre, scale = map(np.asarray, self.y_scale)
        return centre + scale * np.asarray(mean).T[present], scale**2 * np.asarray(variance).T[present]

    def _scaled(self, x: ArrayLike) -> Array:
        x = jnp.asarray(x, jnp.result_type(float))
        if x.ndim == 0 or x.shape[-1] != len(self.x_scale[0]):
            raise ValueError(complain(f"points of shape (point, {len(self.x_scale[0])})", f"shape {x.shape}", "one column for each input"))
        return jnp.atleast_2d((x - self.x_scale[0]) / self.x_scale[1])

    def _correlations(self, h: Hyperparameters, x: Array) -> Array:
        return jnp.where(self.present, _correlations(self.kernel, h, x, self.scaled_x), 0.0)


def _correlations(kernel: str, h: Hyperparameters, first: Array, second: Array) -> Array:
    return gp_fitting.correlation(KERNELS[kernel](), gp_fitting.squared_distances(h.lengths, first, second))


def _check_runs(x: np.ndarray, y: np.ndarray, mean: str, kernel: str) -> None:
    if mean not in MEANS or kernel not in KERNELS:
        raise ValueError(complain(f"a mean of {', '.join(MEANS)} and a kernel of {', '.join(KERNELS)}", f"{mean!r} and {kernel!r}",
                                  'mean="linear", kernel="matern52"'))
    _check_shapes(x, y)
    for what, array, advice in (("inputs", x, "fix that parameter"), ("outputs", y, "leave that output out: it tells nothing")):
        constant = np.flatnonzero(np.ptp(array, axis=0) <= 1e-12 * np.abs(array).max(axis=0))
        if constant.size:
            columns = ", ".join(map(str, constant))
            raise ValueError(complain(f"{what} that vary from run to run", f"equal numbers in column {columns}", advice))
    least = gp_fitting.basis_size(mean, x.shape[1]) + 2
    if len(x) < least:
        raise ValueError(complain(f"at least {least} runs for a {mean} mean of {x.shape[1]} inputs", f"{len(x)} runs",
                                  "more runs (ten for each parameter is the usual rule), or a simpler mean"))


def _check_shapes(x: np.ndarray, y: np.ndarray, columns: tuple[int | None, int | None] = (None, None)) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or any(n not in (None, a.shape[1]) for n, a in zip(columns, (x, y), strict=True)):
        n, k = (name if size is None else size for name, size in zip(("n", "k"), columns, strict=True))
        raise ValueError(complain(f"x of shape (run, {n}) and y of shape (run, {k})", f"{x.shape} and {y.shape}", "one row for each run"))
    for name, array in (("x", x), ("y", y)):
        lost = ~np.isfinite(array).all(axis=1)
        if lost.any():
            raise ValueError(complain(f"finite numbers in {name}", f"{lost.sum()} of {len(lost)} runs with NaN or infinity",
                                      "leave the runs out that failed, and say how many there were"))


def _noise_of(noise: ArrayLike | None, shape: tuple[int, int]) -> np.ndarray:
    """Standard deviations (run, k)."""
    noise = np.asarray(0.0 if noise is None else noise, float)
    if noise.shape not in ((), shape[1:], shape) or not (np.isfinite(noise) & (noise >= 0)).all():
        raise ValueError(complain(f"noise as a standard deviation of zero or more: a scalar, {shape[1:]} or {shape}",
                                  f"shape {noise.shape}" if noise.ndim else f"{noise}", "noise=None fits it"))
    return np.broadcast_to(noise, shape)


def _standardised(x, y, noise, x_scale, y_scale) -> tuple[Array, Array, Array, Array]:
    """x, y, variance of the noise and which rows are runs, filled up to a multiple of `ROOM` rows."""
    empty = -len(x) % ROOM
    x, y = ((array - np.asarray(centre)) / np.asarray(scale) for array, (centre, scale) in ((x, x_scale), (y, y_scale)))
    filled = (np.pad(array, ((0, empty), (0, 0))) for array in (x, y, (noise / np.asarray(y_scale[1])) ** 2))
    return *map(jnp.asarray, filled), jnp.asarray(np.arange(len(x) + empty) < len(x))


def _conditioned(hyperparameters, log_posterior, arrays, x_scale, y_scale, kernel, mean) -> GaussianProcesses:
    factors = _factors(hyperparameters, *arrays, kernel=kernel, mean=mean)
    x_scale, y_scale = (tuple(map(jnp.asarray, scale)) for scale in (x_scale, y_scale))
    return GaussianProcesses(hyperparameters, log_posterior, factors, *arrays, x_scale, y_scale, kernel, mean)


@partial(jax.jit, static_argnames=("kernel", "mean"))
def _factors(hyperparameters: Hyperparameters, x: Array, y: Array, noise: Array, present: Array, *, kernel: str, mean: str) -> Factors:
    H, squares = gp_fitting.basis(mean, x, present), gp_fitting.differences(x)

    def one(output):
        h, y, noise = output
        whiten = gp_fitting.inverse_factor(gp_fitting.covariance(KERNELS[kernel](), h, squares, noise, present))
        B, e = whiten @ H, whiten @ y
        root = gp_fitting.inverse_factor(B.T @ B)
        coefficients = root.T @ (root @ (B.T @ e))
        return Factors(coefficients, whiten.T @ (e - B @ coefficients), whiten, -root @ (B.T @ whiten), root)

    return jax.lax.map(one, (hyperparameters, y.T, noise.T))


@eqx.filter_jit
def _left_out(processes: GaussianProcesses) -> tuple[Array, Array]:
    def one(factors: Factors, y):
        # `remain` is -C^-1 H'K^-1, `weights` are Q y.
        diagonal = jnp.sum(factors.whiten**2, axis=0) - jnp.sum(factors.remain**2, axis=0)
        return y - factors.weights / diagonal, 1.0 / diagonal

    return jax.vmap(one, in_axes=(0, 1))(processes.factors, processes.scaled_y)


def _chunked(x: Array) -> tuple[int, Array]:
    """The number of points, and x as batches (batch, point, n), filled up so that few shapes are ever compiled."""
    points = len(x)
    size = min(BATCH, 1 << max(points - 1, 0).bit_length())
    batches = -(-points // size)
    return points, jnp.pad(x, ((0, batches * size - points), (0, 0))).reshape(batches, size, x.shape[1])


@eqx.filter_jit
def _predicted(processes: GaussianProcesses, chunks: Array, nugget: bool) -> tuple[Array, Array]:
    """Mean and variance, each (batch, point, k), of standardised points (batch, point, n)."""
    centre, scale = processes.y_scale

    def batch(x):
        basis = gp_fitting.basis(processes.mean, x)

        def one(output: tuple[Hyperparameters, Factors]):
            h, factors = output
            mean, variance = factors.moments(h.signal * processes._correlations(h, x), basis, h.signal)
            return mean, jnp.maximum(variance, JITTER * h.signal) + nugget * h.signal * (h.nugget + JITTER)

        outputs = (processes.hyperparameters, processes.factors)
        # Many points: one output after the other, since products of single matrices are a third faster than those of a batch.
        mean, variance = jax.lax.map(one, outputs) if len(x) > FEW else jax.vmap(one)(outputs)
        return centre + scale * mean.T, scale**2 * variance.T

    return jax.lax.map(batch, chunks)
