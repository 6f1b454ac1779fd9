"""Correlation of residuals over time, with gaps and at irregular times, and what of it calibration itself leaves.

Pairs of values go into classes by their distance in time, in steps: the first takes all that are nearer than one and a half. Each class
has its product c_k = r'L_k r. A right model leaves residuals with the covariance S that `tested` has, so that r'(L_k - b_k I) r
with b_k = tr(L_k S) / tr(S) has the mean zero, and these products have the covariances 2 tr(A_j S A_k S), A_k = L_k - b_k I.
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array

from landcal_jax.error_moments import step_of
from landcal_jax.structure.tails import above, simulated
from landcal_jax.structure.tested import FEWEST, Tested

LAGS = 10  # steps over which memory is looked for
MINUTES = 1440.0
SHORT, DRAWN = 300, 2000
"""Values up to which the distribution of the memory of right residuals is drawn: that of fewer has a longer tail than a chi-square."""


class Pairs(NamedTuple):
    """Pairs of values by class: `first`, `second` (pair,) places in the series, `place` (pair,) their class, `days` (class,) its mean
    distance and `counts` (class,)."""

    first: np.ndarray
    second: np.ndarray
    place: np.ndarray
    days: np.ndarray
    counts: np.ndarray


def pairs_of(times: np.ndarray) -> Pairs | None:
    """All pairs within `LAGS` steps, in classes of `FEWEST` or more; None if there is no such class, or a value has no time."""
    if len(times) < FEWEST or not np.isfinite(times).all():
        return None
    order = np.argsort(times, kind="stable")
    ordered = times[order]
    if ordered[0] == ordered[-1]:
        return None
    step = step_of(np.round(ordered * MINUTES)) / MINUTES
    firsts, seconds, places, days = [], [], [], []
    for offset in range(1, len(times)):
        distance = ordered[offset:] - ordered[:-offset]
        near = np.flatnonzero(distance < (LAGS + 0.5) * step)
        if not len(near):
            break
        firsts.append(order[near])
        seconds.append(order[near + offset])
        places.append(np.maximum(np.round(distance[near] / step).astype(int), 1) - 1)
        days.append(distance[near])
    if not firsts:
        return None
    first, second, place, day = (np.concatenate(parts) for parts in (firsts, seconds, places, days))
    counts = np.bincount(place, minlength=LAGS)
    mean = np.bincount(place, day, minlength=LAGS) / np.maximum(counts, 1)
    kept = np.flatnonzero(counts >= FEWEST)
    if not len(kept):
        return None
    number = np.full(LAGS + 1, -1)
    number[kept] = np.arange(len(kept))
    chosen = number[place] >= 0
    return Pairs(first[chosen], second[chosen], number[place[chosen]], mean[kept], counts[kept])


def products(r: np.ndarray, pairs: Pairs) -> np.ndarray:
    """Sums of products (..., class) of the pairs, of series r (..., n)."""
    return np.stack([np.sum(r[..., pairs.first[own]] * r[..., pairs.second[own]], axis=-1)
                     for own in (pairs.place == k for k in range(len(pairs.days)))], axis=-1)


def autocorrelation(r: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Lags [d], correlations (..., class) and numbers of pairs of series (..., n); None where they are too short or have no time.

    NaN for a series that does not vary.
    """
    pairs = pairs_of(times)
    if pairs is None:
        return None
    r = r - r.mean(axis=-1, keepdims=True)
    square = np.mean(r**2, axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        return pairs.days, products(r, pairs) / pairs.counts / square, pairs.counts


class Remembered(NamedTuple):
    """`correlation` (class,) over `days`, less what calibration leaves, its standard deviation in a right model, log p of all together."""

    days: np.ndarray
    correlation: np.ndarray
    spread: np.ndarray
    log_p: float


def remembered(tested: Tested, rows: np.ndarray) -> Remembered | str:
    """The memory of the residuals in `rows`, those of one stream at one site, about their mean; a sentence's end if there is no test."""
    pairs = pairs_of(tested.times[rows])
    if pairs is None:
        return f"too few of its {len(rows)} values lie near each other in time"
    n = len(rows)
    r = tested.r[rows] - tested.r[rows].mean()
    if np.std(r) < 1e-9 * np.sqrt(np.mean(tested.r[rows] ** 2)) or not np.any(r):
        return "its residuals do not vary"
    U, S = tested.low_rank(rows)
    # Without the mean: the part of the ones is taken out as well.
    U = np.concatenate([U - U.mean(axis=0), np.full((n, 1), n**-0.5)], axis=1)
    S = np.block([[S, np.zeros((len(S), 1))], [np.zeros((1, len(S))), -np.ones((1, 1))]])
    left = n + np.sum((U @ S) * U)
    if left < 1:
        return "the parameters take up nearly all of it"
    moved, offsets = [], []
    for k in range(len(pairs.days)):
        own = pairs.place == k
        L = coo_array((np.full(own.sum(), 0.5), (pairs.first[own], pairs.second[own])), shape=(n, n)).tocsr()
        LU = (L + L.T) @ U
        offsets.append(np.sum((U.T @ LU) * S.T) / left)
        moved.append(LU - offsets[-1] * U)
    b = np.array(offsets)
    inner = [S @ (U.T @ X) for X in moved]
    covariance = np.diag(pairs.counts / 2.0) + n * np.outer(b, b)
    covariance += [[2 * np.sum((S @ X.T) * Y.T) + np.sum(P * Q.T) for Y, Q in zip(moved, inner, strict=True)]
                   for X, P in zip(moved, inner, strict=True)]
    covariance *= 2
    inverse = np.linalg.inv(covariance)

    def statistic(r):
        square = np.sum(r**2, axis=-1, keepdims=True)
        value = (products(r, pairs) - b * square) / (square / left)
        return value, np.einsum("...i,ij,...j", value, inverse, value)

    value, found = statistic(r)
    log_p = above(float(found), len(value)) if n > SHORT else simulated(float(found), statistic(_drawn(tested, rows))[1])
    return Remembered(pairs.days, value / pairs.counts, np.sqrt(np.diag(covariance)) / pairs.counts, log_p)


def _drawn(tested: Tested, rows: np.ndarray) -> np.ndarray:
    """Residuals (draw, row) about their mean that calibration of a right model leaves in `rows`."""
    e = np.random.default_rng(0).standard_normal((DRAWN, len(tested.r)))
    r = e[:, rows] - (e @ tested.B) @ tested.A[rows].T
    return r - r.mean(axis=-1, keepdims=True)
