"""Errors R from products of departures, as the field estimates them: Desroziers' diagnostics and the covariance of residuals.

With d_b = y - H(x_b) before and d_a = y - H(x_a) after an analysis whose B and R are right and whose H is linear, E[d_a d_b'] = R
(Desroziers, Berre, Chapnik and Poli 2005, QJRMS 131, 3385, eq. 2): with another R it gives a better one, and one goes on. The loop
of adJULES (Raoult et al. 2016, GMD 9, 2833, and its code) takes the covariance of the residuals after each fit over their degrees
of freedom. Both give variances from days apart, so that no likelihood is needed; neither has an answer where the model
fits better than the measurement error allows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar

from landcal_jax.error_fitting import SPREADS, STARTS
from landcal_jax.error_model import YEAR
from landcal_jax.observations import Stream

MOMENT_PARTS = ("constant", "seasonal", "days")
SEASONS = ("DJF", "MAM", "JJA", "SON")
LAGS = 30
"""Steps of a stream up to which every lag is looked at, and days up to which those further apart are."""
FURTHER = 20  # lags between these two, evenly spaced in their logarithm
SHORTEST, LONGEST = 0.05, 1000.0  # memories that are looked for, in steps
COMMON = 0.1
"""Share of the distances between neighbours that makes one of them the step of a stream; without such the median is."""
LEAST = 0.01
"""The smallest model error that is set, as a share of the root mean square residual: zero has no logarithm."""
LEAST_OF_SIGMA = 1e-3
"""The same as a share of the measurement error, for residuals that are zero themselves."""


class Moments(NamedTuple):
    """What products say of one stream: arrays by site, `by_season` (site, 4); NaN where nothing was observed.

    `variance` is that of the whole error, measurement included, and `by_season` its parts by season; `constant`, `seasonal` (site, 2) and
    `days` are those of the model error, with `standard_error` (of the logarithm of the constant). `negative`: no model error is seen,
    and of what is not seen there is neither season nor memory: none, and that of the prior.
    """

    variance: np.ndarray
    by_season: np.ndarray
    constant: np.ndarray
    seasonal: np.ndarray
    days: np.ndarray
    standard_error: np.ndarray
    negative: np.ndarray


def moments(stream: Stream, left: np.ndarray, right: np.ndarray, factor: float, parts: Sequence[str], prior_weight: float) -> Moments:
    """Errors from the products `factor` * left * right (site, n_obs), whose mean is the variance of the errors.

    What sites say is drawn to what they say together, by a prior whose weight against n values is that of one or two of them.
    """
    mask, sigma, sites = np.asarray(stream.mask), np.asarray(stream.sigma), len(stream.values)
    with np.errstate(invalid="ignore"):
        excess = np.where(mask, factor * left * right - sigma**2, np.nan)
    phase = None if stream.minutes is None else np.asarray(stream.minutes) / YEAR * 2 * np.pi
    season = None if stream.minutes is None else _season(stream)
    floor = max(LEAST * np.sqrt(np.mean(left[mask] ** 2)), LEAST_OF_SIGMA * np.sqrt(np.mean(sigma[mask] ** 2)))
    pooled = np.sqrt(max(np.mean(excess[mask]), floor**2))
    numbers = np.maximum(np.asarray(stream.effective_squares), 1.0)
    variance, negative, error = np.full(sites, np.nan), np.zeros(sites, bool), np.full(sites, np.nan)
    by_season, seasonal = np.full((sites, 4), np.nan), np.zeros((sites, 2))
    constant, days = np.full(sites, pooled), np.full(sites, STARTS["days"])
    for site in np.flatnonzero(mask.any(axis=1)):
        there = mask[site]
        own = np.mean(excess[site, there])
        variance[site] = own + np.mean(sigma[site, there] ** 2)
        negative[site] = own <= floor**2
        known, prior = 2.0 * numbers[site], prior_weight / SPREADS["constant"] ** 2 * (sites > 1)
        constant[site] = np.exp((known * 0.5 * np.log(max(own, floor**2)) + prior * np.log(pooled)) / (known + prior))
        error[site] = (max(variance[site], floor**2) / constant[site] ** 2) / np.sqrt(known + prior)
        if season is not None:
            groups = [there & (season[site] == number) for number in range(4)]
            by_season[site] = [np.mean(excess[site, group] + sigma[site, group] ** 2) if group.any() else np.nan for group in groups]
        if "seasonal" in parts and not negative[site]:
            constant[site], seasonal[site] = _seasons(excess[site], phase[site], groups, constant[site], floor, numbers[site], prior_weight)
    if "days" in parts:
        scale = constant[:, None] * (1.0 if phase is None else np.exp(seasonal[:, :1] * np.cos(phase) + seasonal[:, 1:] * np.sin(phase)))
        for site in np.flatnonzero(~negative & mask.any(axis=1)):
            days[site] = _memory(stream, site, factor * left / scale, right / scale, prior_weight)
    return Moments(variance, by_season, constant, seasonal, days, error, negative)


def _season(stream: Stream) -> np.ndarray:
    """0 for December to February, and so on, (site, n_obs)."""
    month = stream.time.astype("datetime64[M]").astype(int) % 12
    return (month + 1) % 12 // 3


def _seasons(excess, phase, groups, constant, floor, number, prior_weight) -> tuple[float, np.ndarray]:
    """A constant and the amplitudes of its season, from the mean products of four seasons, by least squares of their logarithms."""
    share = number / sum(group.sum() for group in groups)
    rows, logs, weights = [], [], []
    for group in groups:
        if group.any():
            rows.append([1.0, np.cos(phase[group]).mean(), np.sin(phase[group]).mean()])
            logs.append(0.5 * np.log(max(np.mean(excess[group]), floor**2)))
            weights.append(2.0 * share * group.sum())
    rows, weights = np.array(rows), np.array(weights)
    prior = np.diag([1e-9, *(2 * [prior_weight / SPREADS["seasonal"] ** 2])])
    solved = np.linalg.lstsq(rows.T @ (weights[:, None] * rows) + prior, rows.T @ (weights * np.array(logs)), rcond=None)[0]
    # The level is that of the variance over all days, whatever the logarithms say.
    observed = np.logical_or.reduce(groups)
    shape = np.exp(solved[1] * np.cos(phase[observed]) + solved[2] * np.sin(phase[observed]))
    return constant / np.sqrt(np.mean(shape**2)), solved[1:]


def step_of(minutes: np.ndarray) -> float:
    """The step of times (value,) in order, in minutes: the commonest distance between neighbours if a tenth have it, or their median."""
    apart = np.diff(minutes)
    found, counts = np.unique(apart[apart > 0], return_counts=True)
    if not found.size:
        return 1440.0
    return float(found[np.argmax(counts)] if counts.max() >= COMMON * apart.size else np.median(apart))


def lags_of(step: float) -> np.ndarray:
    """Lags to look at, in steps of so many minutes: each of the first `LAGS`, and some of those up to so many days."""
    longest = max(LAGS, round(LAGS * 1440.0 / step))
    return np.unique(np.concatenate([np.arange(1, LAGS + 1), np.round(np.geomspace(LAGS, longest, FURTHER)).astype(int)]))


def lagged(stream: Stream, site: int, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lags (lag,) in days, the mean of left_i right_j over pairs of observed values so far apart, and the number of pairs.

    Times are rounded to steps of the stream at the site, and lags are those of `lags_of` its step.
    """
    there = np.asarray(stream.mask)[site]
    minutes = np.asarray(stream.minutes)[site][there].astype(float)
    left, right = left[site][there], right[site][there]
    step = step_of(minutes)
    lags, places = lags_of(step), np.round((minutes - minutes[0]) / step).astype(int)
    length = places[-1] + lags[-1] + 1
    sums = [np.bincount(places, each, length) for each in (left, right)]
    count = np.bincount(places, minlength=length)
    products, pairs = np.zeros(lags.size), np.zeros(lags.size)
    for place, lag in enumerate(lags):
        products[place] = np.sum(sums[0][lag:] * sums[1][:-lag] + sums[1][lag:] * sums[0][:-lag])
        pairs[place] = 2 * np.sum(count[lag:] * count[:-lag])
    return lags * step / 1440.0, np.where(pairs > 0, products / np.maximum(pairs, 1), 0.0), 0.5 * pairs


def _memory(stream: Stream, site: int, left: np.ndarray, right: np.ndarray, prior_weight: float) -> float:
    """The days with which exp(-lag / days) fits the lagged products of scaled departures best, each as good as its pairs are many.

    Measurement errors, which are independent, have no part in products at a lag.
    """
    lags, products, pairs = lagged(stream, site, left, right)
    middle = np.log(STARTS["days"])

    def misfit(log_days: float) -> float:
        departure = products - np.exp(-lags / np.exp(log_days))
        return float(np.sum(pairs * departure**2) + prior_weight * ((log_days - middle) / SPREADS["days"]) ** 2)

    bounds = np.log(SHORTEST * lags[0]), np.log(LONGEST * lags[0])
    return float(np.exp(minimize_scalar(misfit, bounds=bounds, method="bounded", options={"xatol": 1e-10}).x))


def common_correlation(streams: dict[str, Stream], residuals: dict[str, np.ndarray]) -> np.ndarray:
    """Correlation of the residuals of two streams on the times that both have, (stream, stream); NaN where fewer than three."""
    table = np.full((len(streams), len(streams)), np.nan)
    for i, one in enumerate(streams):
        for j, other in enumerate(streams):
            pairs = _common(streams[one], streams[other], residuals[one], residuals[other])
            if pairs.shape[1] > 2:
                product = np.mean(pairs[0] * pairs[1])
                table[i, j] = product / np.sqrt(np.mean(pairs[0] ** 2) * np.mean(pairs[1] ** 2))
    return table


def _common(one: Stream, other: Stream, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    if one.minutes is None or other.minutes is None:
        return np.zeros((2, 0))
    found = []
    for site in range(len(left)):
        masks = np.asarray(one.mask)[site], np.asarray(other.mask)[site]
        times = np.asarray(one.minutes)[site][masks[0]], np.asarray(other.minutes)[site][masks[1]]
        _, first, second = np.intersect1d(*times, return_indices=True)
        found.append(np.stack([left[site][masks[0]][first], right[site][masks[1]][second]]))
    return np.concatenate(found, axis=1)
