"""What a Bayesian search knows: Gaussian processes of the runs so far, and what they say of the objective at each of them.

Processes expect what changes by similar amounts everywhere. An objective does not: far from its minimum it may be a thousand times
as large, and what a process learns there it applies to the neighbourhood of the minimum. So values above the median of the first
runs count by their logarithm (`Warp`), below it as they are: nothing is assumed of the sign, and noise keeps its size
where it matters. Of a sum of squares the residuals have processes, not the sum (`landcal_jax.acquisition`); each counts by its inverse
hyperbolic sine in units of its median size. More than `MOST` residuals, such as series, are replaced by as many directions
in which runs differ most, each run counting as much as any other, and the size of what these leave: J of every run remains exact.

Hyperparameters are found anew whenever runs have grown by a `REFIT`th; between, the new runs condition the old processes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import chdtri, ndtr

from landcal_jax import acquisition
from landcal_jax.acquisition import SumOfSquares
from landcal_jax.gp import GaussianProcesses

LEAST = 3  # finished runs that a process with a constant mean needs
EVEN = 0.5  # the probability of all constraints from which a run counts as keeping them
SDS = 1.959964  # of a normal distribution to either side of its mean, between which lie 95 %
MOST = 12  # residuals that have a process each
REFIT = 16
ODDS = 0.9  # that the noise is smaller than the bound which repeated runs give
LABEL_SD = 0.1  # of the labels -1 and +1 of finished and failed runs: one failure among many others may be chance
SMALL = 0.03  # share of the better half of the values, as the process sees them: a gain for which no failed run is risked
SMALL_OF_J = 0.1  # the same of J, which has units of its own
DRAWS = 512  # of J at a run, where residuals have noise


class Runs(NamedTuple):
    """Runs that were asked for or told.

    Arrays with one row a run: `z` (run, n); `values`, NaN where one has failed (or was not made yet), and the `noise` of each,
    NaN where it is not known; `limits` (run, constraint); `residuals` (run, m) of which the value is a sum of squares, m = 0 where it is
    not; `gain`: the log of the improvement that was expected of it, NaN where it was not proposed; `iteration`: the batch.
    """

    z: np.ndarray
    values: np.ndarray
    noise: np.ndarray
    limits: np.ndarray
    residuals: np.ndarray
    gain: np.ndarray
    iteration: np.ndarray

    @classmethod
    def none(cls, n: int, constraints: int) -> "Runs":
        """No runs of n parameters."""
        empty = np.zeros(0)
        return cls(np.zeros((0, n)), empty, empty, np.zeros((0, constraints)), np.zeros((0, 0)), empty, np.zeros(0, int))

    @property
    def finished(self) -> np.ndarray:
        """Which have not failed (run,)."""
        return np.isfinite(self.values)

    def extended(self, **new: np.ndarray) -> "Runs":
        """With more of them; what is not given is NaN."""
        rows, old = len(new["z"]), self._asdict()
        if not len(self.z) and "residuals" in new:
            old["residuals"] = np.zeros((0, new["residuals"].shape[1]))
        missing = {name: np.full((rows, *array.shape[1:]), np.nan) for name, array in old.items() if name not in new}
        return Runs(**{name: np.concatenate([array, (new | missing)[name]]) for name, array in old.items()})

    def without(self, Z: np.ndarray, iteration: int) -> tuple["Runs", np.ndarray, np.ndarray]:
        """Those that are not in Z (run, n), and gain and iteration (run,) of those in Z: NaN and `iteration` for what is not here."""
        gain, of, left = np.full(len(Z), np.nan), np.full(len(Z), iteration), np.ones(len(self.z), bool)
        for row, z in enumerate(Z):
            here = np.flatnonzero(left & (self.z == z).all(axis=1))
            if here.size:
                gain[row], of[row], left[here[0]] = self.gain[here[0]], self.iteration[here[0]], False
        return Runs(*(array[left] for array in self)), gain, of


class Warp(NamedTuple):
    """Values as the process sees them: in logarithms if so wished, and above `level` as level + scale log(1 + (value - level) / scale)."""

    logarithm: bool
    level: float
    scale: float

    @classmethod
    def of(cls, values: np.ndarray, logarithm: bool) -> "Warp":
        """Made for values (run,) that are not all the same."""
        values = np.log(values) if logarithm else values
        level = float(np.median(values))
        return cls(logarithm, level, float(level - values.min() or np.ptp(values)))

    def __call__(self, values: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and standard deviations of their noise, as the process sees them."""
        if self.logarithm:
            values, noise = np.log(values), noise / values
        above = np.maximum(values - self.level, 0.0) / self.scale
        return np.minimum(values, self.level) + self.scale * np.log1p(above), noise / (1.0 + above)

    def back(self, warped: np.ndarray) -> np.ndarray:
        """The values."""
        values = np.minimum(warped, self.level) + self.scale * np.expm1(np.maximum(warped - self.level, 0.0) / self.scale)
        return np.exp(values) if self.logarithm else values


class Residuals(NamedTuple):
    """Residuals as the processes see them: `basis` (m, direction) where there are too many, None where each has its own.

    `scale` (output,): as in `SumOfSquares`; `varies` (output,): which are not the same in all runs.
    """

    basis: np.ndarray | None
    scale: np.ndarray
    varies: np.ndarray

    @classmethod
    def of(cls, residuals: np.ndarray) -> "Residuals":
        """Made for residuals (run, m)."""
        basis = None
        if residuals.shape[1] > MOST:
            even = residuals / np.maximum(np.linalg.norm(residuals, axis=1, keepdims=True), 1e-300)
            basis = np.linalg.svd(even, full_matrices=False)[2][: MOST - 1].T
        outputs = cls(basis, np.ones(1), np.ones(1))._combined(residuals)
        scale = np.median(np.abs(outputs), axis=0)
        return cls(basis, np.where(scale > 0, scale, np.maximum(np.abs(outputs).max(axis=0), 1.0)), np.ptp(outputs, axis=0) > 0)

    def _combined(self, residuals: np.ndarray) -> np.ndarray:
        if self.basis is None:
            return residuals
        along = residuals @ self.basis
        return np.column_stack([along, np.linalg.norm(residuals - along @ self.basis.T, axis=1)])

    def __call__(self, residuals: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, np.ndarray, SumOfSquares]:
        """Outputs and standard deviations of their noise, both (run, m) -> (run, k), as processes see them; and how J is made of them."""
        if self.basis is not None:
            noise = np.sqrt(np.column_stack([noise**2 @ self.basis**2, np.mean(noise**2, axis=1)]))
        noise = noise[:, self.varies]
        relative = self._combined(residuals)[:, self.varies] / self.scale[self.varies]
        scale = self.scale[self.varies]
        constant = 0.5 * np.sum(self._combined(residuals[:1])[0, ~self.varies] ** 2)
        return (scale * np.arcsinh(relative), noise / np.sqrt(1.0 + relative**2),
                SumOfSquares(jnp.asarray(scale), jnp.asarray(constant)))


class Model(NamedTuple):
    """Processes fitted to the finished runs, and what they say of the objective there.

    `processes`: that of the objective, or those of the residuals that make it by `squares`, and where there are any those of the
    constraints; `success`: below zero where runs finish; `x` (finished, n) in [-1, 1]; `mean`, `low` and `high` (finished,): objective
    without noise and the 95 % interval, the values themselves where `exact`; `likely` (finished,): probability that all constraints hold;
    `excess` (finished,): orders those that keep none; `noise`: standard deviation of a run, where it is not given;
    `small`: a gain for which no failed run is risked.
    """

    processes: tuple[GaussianProcesses, ...]
    success: GaussianProcesses | None
    squares: SumOfSquares | None
    exact: bool
    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    likely: np.ndarray
    excess: np.ndarray
    noise: float
    small: float

    @property
    def order(self) -> np.ndarray:
        """Finished runs, the best first: those that keep the constraints at even chance, by mean; then the others, by their excess."""
        keeps = self.likely >= EVEN
        return np.lexsort((np.where(keeps, self.mean, self.excess), ~keeps))

    @property
    def best(self) -> float:
        """The lowest value, where values are exact: the highest if no run keeps the constraints; infinite with noise."""
        first = self.order[0]
        if not self.exact:
            return np.inf
        return float(self.mean[first] if self.likely[first] >= EVEN else self.mean.max())


Fits = dict[str, tuple[int, GaussianProcesses]]


def fitted(told: Runs, key: Array, logarithm: bool, fits: Fits) -> Model:
    """The model of the runs that were told; the same runs and key give the same bits, however they came.

    `fits`: the last processes by what they are of, with how many runs they were fitted to, which are kept from one call to the next.
    """
    finished = told.finished
    x, noise = _inside(told.z)[finished], told.noise[finished]
    values, residuals, limits = told.values[finished], told.residuals[finished], told.limits[finished]
    first = len(x) - len(x) % max(1, len(x) // REFIT)
    alone, each, most = repeated(told, first)
    asked = np.isnan(noise).any()
    exact = alone == 0.0 if asked else bool((noise == 0).all())
    back: Callable = np.asarray
    squares, small = None, SMALL_OF_J
    if residuals.shape[1]:
        noise = np.broadcast_to(each if asked else noise[:, None], residuals.shape)
        outputs, sds, squares = Residuals.of(residuals[:first])(residuals, noise)
        objective = _process(x, outputs, None if np.isnan(sds).any() else sds, first, key, fits, "objective")
    else:
        warp = Warp.of(values[:first], logarithm)
        objective, alone = _of_values(x, values, warp, most if asked else noise, first, key, fits)
        back, small = warp.back, SMALL * warp.scale
    processes, likely, excess = _of_constraints((objective,), x, limits, first, exact, key, fits)
    if exact:
        moments = (values,) * 3
    elif squares is None:
        mean, variance = (np.asarray(part)[:, 0] for part in objective.predict(x, nugget=False))
        moments = tuple(back(mean + sign * SDS * np.sqrt(variance)) for sign in (0, -1, 1))
    else:
        moments = _of_squares(objective, squares, x, key)
    return Model(processes, _of_failures(told, key), squares, exact, x, *moments, likely, excess, alone, small)


def repeated(told: Runs, first: int | None = None) -> tuple[float, np.ndarray, float]:
    """Standard deviation of the noise of values, and of each residual (m,), from finished runs at the same place; NaN without any.

    Of the `first` finished runs, or of all. The third number is what that of values is below at odds of `ODDS`, which few repeats leave
    far above it (chi-square); infinite without any.
    """
    rows = np.flatnonzero(told.finished)[:first]
    _, group = np.unique(told.z[rows], axis=0, return_inverse=True)
    number = np.bincount(group)
    columns = np.column_stack([told.values[rows], told.residuals[rows]])
    sums = np.zeros((len(number), columns.shape[1]))
    np.add.at(sums, group, columns)
    spare = len(group) - len(number)
    if not spare:
        return np.nan, np.full(columns.shape[1] - 1, np.nan), np.inf
    sd = np.sqrt(np.sum((columns - (sums / number[:, None])[group]) ** 2, axis=0) / spare)
    # Means of equal numbers differ from these by rounding.
    sd = np.where(sd <= 1e-12 * np.abs(columns).max(axis=0, initial=0.0), 0.0, sd)
    return float(sd[0]), sd[1:], float(sd[0] * np.sqrt(spare / chdtri(spare, ODDS)))


def _of_values(x, values, warp: Warp, noise, first: int, key: Array, fits: Fits) -> tuple[GaussianProcesses, float]:
    """The process of values with `noise` (run,); or, if that is a number, with a fitted one that is at most so large, and the noise.

    A nugget also takes what the process does not resolve. Where repeated runs say that there is less noise, it has to resolve it.
    """
    if np.ndim(noise) or noise == 0.0:
        outputs, sds = warp(values, np.broadcast_to(noise, values.shape))
        return _process(x, outputs[:, None], sds[:, None], first, key, fits, "objective"), np.nan
    outputs, sds = warp(values, np.full(len(x), noise))
    process = _process(x, outputs[:, None], None, first, key, fits, "objective")
    if process.nugget[0] <= noise:
        return process, float(process.nugget[0])
    return _process(x, outputs[:, None], sds[:, None], first, key, fits, "objective with less noise"), noise


def _inside(z: np.ndarray) -> np.ndarray:
    return 2 * ndtr(z) - 1


def _process(x: np.ndarray, y: np.ndarray, noise: np.ndarray | None, first: int, key: Array, fits: Fits, what: str) -> GaussianProcesses:
    """Fitted to the `first` runs and conditioned on all."""
    if fits.get(what, (0, None))[0] != first:
        given = None if noise is None else noise[:first]
        process = GaussianProcesses.fit(x[:first], y[:first], mean="constant", noise=given, searches=2, key=jax.random.fold_in(key, first))
        fits[what] = first, process
    process = fits[what][1]
    return process if first == len(x) else process.updated(x[first:], y[first:], 0.0 if noise is None else noise[first:])


def _of_constraints(processes, x: np.ndarray, limits: np.ndarray, first: int, exact: bool, key: Array, fits: Fits):
    """Processes with those of the constraints, the probability that all hold at each run, and what orders those that do not."""
    # A constraint that has had one value alone says nothing of where it would be broken.
    varies = np.ptp(limits[:first], axis=0) > 0
    if varies.any():
        noise = np.zeros((len(x), varies.sum())) if exact else None
        processes += (_process(x, limits[:, varies], noise, first, key, fits, "constraints"),)
    if exact:
        broken = np.maximum(limits, 0.0)
        return processes, np.where((broken > 0).any(axis=1), 0.0, 1.0), np.sum(broken / np.maximum(broken.max(axis=0), 1e-300), axis=1)
    likely = np.ones(len(x))
    if varies.any():
        mean, variance = processes[1].predict(x, nugget=False)
        likely = np.exp(np.sum(np.asarray(acquisition.log_probability_below(mean, variance)), axis=1))
    likely = np.where((limits[:, ~varies] > 0).any(axis=1), 0.0, likely)
    return processes, likely, -likely


def _of_failures(told: Runs, key: Array) -> GaussianProcesses | None:
    """Below zero where runs finish; None where all did."""
    if told.finished.all():
        return None
    labels = np.where(told.finished, -1.0, 1.0)[:, None]
    return GaussianProcesses.fit(_inside(told.z), labels, mean="constant", noise=LABEL_SD, searches=2, key=key)


def _of_squares(process: GaussianProcesses, squares: SumOfSquares, x: np.ndarray, key: Array) -> tuple[np.ndarray, ...]:
    """Mean of J at x (run, n) and the quantiles at the ends of 95 %, by draws of the residuals."""
    mean, variance = (np.asarray(part).T for part in process.predict(x, nugget=False))
    normal = np.asarray(jax.random.normal(key, (len(mean), 1, DRAWS)))
    drawn = squares.squares(jnp.asarray(mean[:, :, None] + np.sqrt(variance)[:, :, None] * normal))
    drawn = np.asarray(squares.prior(jnp.asarray(x)))[:, None] + np.asarray(drawn)
    return drawn.mean(axis=1), *np.quantile(drawn, [0.025, 0.975], axis=1)
