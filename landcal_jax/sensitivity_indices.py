"""Statistics of Morris and Sobol designs for many outputs at once, equal to those of SALib for each.

SALib analyses one output at a time, and resamples its rows a hundred times for every index: thousands of outputs of a series would
take hours. Here a resample is a row of whole-number weights (how often each trajectory or row was drawn), so that all statistics
of all resamples and all outputs are products of one matrix of weights (1 + resample, row), whose first row is ones, with matrices
(row, output): the index itself and its resamples are one piece of code. The random numbers are drawn as SALib draws them, once for all
outputs, so that intervals are equal too and not only alike.

A run that failed (NaN) takes with it only what is computed from it: two elementary effects of Morris, or the row of those indices of
Sobol in which it appears. Its whole trajectory, or row, would cost most of a design of many parameters at a few failures in a hundred.

References: Morris (1991), Technometrics 33, 161; Campolongo, Cariboni and Saltelli (2007), Environmental Modelling and Software 22,
1509 (mu*, groups); Saltelli et al. (2010), Computer Physics Communications 181, 259 (first and total order); Saltelli (2002), ibid.
145, 280 (second order).
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from landcal_jax.sensitivity_runs import Factors, ratio

AT_ONCE = 2**23  # numbers in one temporary array
LEAST = 2  # effects, or rows, of which there is a spread


class MorrisStatistics(NamedTuple):
    """By factor and output: `mu`, `mu_star`, `sigma` (NaN for a group), half the interval of `mu_star`, effects that count."""

    mu: np.ndarray
    mu_star: np.ndarray
    sigma: np.ndarray
    mu_star_interval: np.ndarray
    effects: np.ndarray


class SobolIndices(NamedTuple):
    """Indices by factor and output with half their intervals; second order by pair, symmetric; rows that count for each factor.

    By output: `alone`, the sum of the first order, with half its interval.
    """

    first: np.ndarray
    first_interval: np.ndarray
    total: np.ndarray
    total_interval: np.ndarray
    second: np.ndarray | None
    second_interval: np.ndarray | None
    rows: np.ndarray
    alone: np.ndarray
    alone_interval: np.ndarray


def elementary_effects(design: np.ndarray, values: np.ndarray, factors: int, delta: float) -> np.ndarray:
    """Effects (n, trajectory, output) of a Morris design (run, n) with outputs (run, output): differences along the axis over `delta`."""
    n, steps = design.shape[1], factors + 1
    moves = np.diff(design.reshape(-1, steps, n), axis=1)
    which = np.argmax(np.abs(moves), axis=1)  # (trajectory, n): the one step in which the element moves
    sign = np.sign(np.take_along_axis(moves, which[:, None], axis=1)[:, 0])
    change = np.diff(values.reshape(-1, steps, values.shape[1]), axis=1)
    return np.stack([sign[:, j, None] * change[np.arange(len(which)), which[:, j]] for j in range(n)]) / delta


def morris_statistics(
    design: np.ndarray, values: np.ndarray, factors: Factors, delta: float, *, seed: int, resamples: int, level: float
) -> MorrisStatistics:
    """Statistics of the effects, each over those whose two runs finished; NaN below two of them.

    A group has the mean over its elements, as in SALib: effects of one move have their signs, so that only mu* of a group tells.
    """
    n, trajectories = design.shape[1], len(design) // (len(factors.names) + 1)
    rng = np.random.default_rng(seed)
    weights = np.stack([_counts(rng.integers(trajectories, size=(resamples, trajectories)), trajectories) for _ in range(n)])
    size = max(1, AT_ONCE // (n * max(trajectories, resamples)))
    parts = [_morris(elementary_effects(design, values[:, start:start + size], len(factors.names), delta), weights, level)
             for start in range(0, values.shape[1], size)]
    by_element = [np.concatenate(part, axis=1) for part in zip(*parts, strict=True)]
    number = np.bincount(factors.of)[:, None]
    mu, star, sigma, interval, effects = (factors.summed(part) / number for part in by_element)
    return MorrisStatistics(mu, star, np.where(number == 1, sigma, np.nan), interval, np.rint(effects).astype(int))


def _morris(effects: np.ndarray, weights: np.ndarray, level: float) -> tuple[np.ndarray, ...]:
    known = np.isfinite(effects)
    number, effects = known.sum(axis=1), np.where(known, effects, 0.0)
    enough = number >= LEAST
    over = np.where(enough, number, np.nan)
    mu, star = effects.sum(axis=1) / over, np.abs(effects).sum(axis=1) / over
    sigma = np.sqrt(np.where(known, (effects - mu[:, None]) ** 2, 0.0).sum(axis=1) / (over - 1))
    again = ratio(weights @ np.abs(effects), weights @ known)
    return mu, star, sigma, np.where(enough, _half(again, level, axis=1), np.nan), number


def sobol_indices(
    values: np.ndarray, factors: int, *, second_order: bool, seed: int, resamples: int, level: float
) -> SobolIndices:
    """Indices of a Saltelli design in the order of SALib, outputs (run, output), each over the rows that have all its runs.

    NaN for outputs that do not vary and where fewer than two rows are left; nothing is cut to 0 to 1.
    """
    step = (2 * factors if second_order else factors) + 2
    rows = len(values) // step
    resampled = np.random.default_rng(seed).integers(rows, size=(rows, resamples))
    weights = np.vstack([np.ones(rows), _counts(resampled.T, rows)])
    size = max(1, AT_ONCE // max(len(values), (resamples + 1) * factors))
    parts = [_sobol(values[:, start:start + size].reshape(rows, step, -1), weights, factors, second_order, level)
             for start in range(0, values.shape[1], size)]
    return SobolIndices(*(None if part[0] is None else np.concatenate(part, axis=-1) for part in zip(*parts, strict=True)))


def _sobol(values: np.ndarray, weights: np.ndarray, factors: int, second_order: bool, level: float) -> SobolIndices:
    known = np.isfinite(values)
    values, known = _standardised(values, known), None if known.all() else known
    a, b = values[:, 0], values[:, -1]
    total = np.full((len(weights), factors, values.shape[2]), np.nan)
    first, rows = total.copy(), np.zeros(total.shape[1:], int)
    for j in range(factors):
        mixed, mean = values[:, 1 + j], _Mean(weights, known, (0, -1, 1 + j))
        variance = mean.variance(a, b)
        first[:, j] = ratio(mean(b * (mixed - a)), variance)
        total[:, j] = ratio(0.5 * mean((a - mixed) ** 2), variance)
        rows[j] = mean.rows
    pairs = np.full((2, factors, factors, values.shape[2]), np.nan) if second_order else (None, None)
    for j in range(factors if second_order else 0):
        for k in range(j + 1, factors):
            mean = _Mean(weights, known, (0, -1, 1 + j, 1 + k, 1 + factors + j))
            both = ratio(mean(values[:, 1 + factors + j] * values[:, 1 + k] - a * b), mean.variance(a, b))
            index = both - first[:, j] - first[:, k]
            pairs[:, j, k] = pairs[:, k, j] = index[0], _half(index[1:], level)
    alone = first.sum(axis=1)
    return SobolIndices(first[0], _half(first[1:], level), total[0], _half(total[1:], level), *pairs, rows,
                        alone[0], _half(alone[1:], level))


class _Mean:
    """Weighted means over the rows of which all runs at `places` finished: (row, output) -> (1 + resample, output)."""

    def __init__(self, weights: np.ndarray, known: np.ndarray | None, places: tuple[int, ...]):
        self.weights = weights
        self.known = None if known is None else known[:, list(places)].all(axis=1)
        if known is None:
            self.number, self.rows = np.full((len(weights), 1), float(weights.shape[1])), weights.shape[1]
        else:
            number = weights @ self.known
            self.number, self.rows = np.where(number[0] >= LEAST, number, np.nan), self.known.sum(axis=0)

    def __call__(self, of: np.ndarray) -> np.ndarray:
        return ratio(self.weights @ (of if self.known is None else np.where(self.known, of, 0.0)), self.number)

    def variance(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """That of both together, about their common mean."""
        return 0.5 * self(a**2 + b**2) - (0.5 * self(a + b)) ** 2


def _standardised(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """With mean 0 and variance 1 by output over all runs that finished, as the estimators are the better the nearer the mean is to 0.

    Zero for a run that failed (its row is left out) and for an output that does not vary.
    """
    number = np.maximum(known.sum(axis=(0, 1)), 1)
    apart = np.where(known, values, 0.0)
    apart = np.where(known, values - apart.sum(axis=(0, 1)) / number, 0.0)
    deviation = np.sqrt((apart**2).sum(axis=(0, 1)) / number)
    varies = np.where(known, values, -np.inf).max(axis=(0, 1)) > np.where(known, values, np.inf).min(axis=(0, 1))
    return np.where(varies, apart, 0.0) / np.where(varies, deviation, 1.0)


def _counts(drawn: np.ndarray, size: int) -> np.ndarray:
    """How often each of `size` was drawn in each resample, `drawn` (resample, draw) -> (resample, size)."""
    return np.stack([np.bincount(row, minlength=size) for row in drawn]).astype(float)


def _half(resampled: np.ndarray, level: float, axis: int = 0) -> np.ndarray:
    """Half the width of the interval of `level`, that of a Gaussian with the spread of the resamples."""
    return norm.ppf(0.5 + level / 2) * resampled.std(axis=axis, ddof=1)
