"""Posterior predictive checks: does the calibrated model make data like those that were observed?

Draws of the posterior make replicated observations; the p-value of a discrepancy is how often that of a replicate is above the observed
one (Gelman, Meng and Stern 1996, Statist. Sinica 6:733). Predictions are those of the model linearised at the MAP: draws of a Gaussian
posterior lie where a curved J is far too high. Such p-values lean to 1/2, since the data are used twice, so a small one means more.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.findings import Finding, p_text, phase_of
from landcal_jax.structure.lags import autocorrelation
from landcal_jax.structure.score_tests import slopes_of
from landcal_jax.structure.signals import quantity_words
from landcal_jax.structure.tails import two_sided
from landcal_jax.structure.tested import FEWEST, Tested
from landcal_jax.testing import draw_errors

Series = np.ndarray  # (..., n): the observed series, or all replicates of it


def _cycle(values: Series, days: np.ndarray) -> np.ndarray:
    phase = phase_of(days)
    return 2 * np.hypot(np.mean(values * np.cos(phase), axis=-1), np.mean(values * np.sin(phase), axis=-1))


def _remembered(values: Series, days: np.ndarray) -> np.ndarray:
    found = autocorrelation(values, days)
    return np.full(values.shape[:-1], np.nan) if found is None else found[1][..., 0]


class Statistic(NamedTuple):
    """A discrepancy: its name, the function of series (..., n) and days (n,), the least number of values, whether it needs times."""

    name: str
    of: Callable[[Series, np.ndarray], np.ndarray]
    fewest: int = FEWEST
    timed: bool = False


STATISTICS = (
    Statistic("mean", lambda values, days: np.mean(values, axis=-1), 1),
    Statistic("standard deviation", lambda values, days: np.std(values, axis=-1), 5),
    Statistic("seasonal amplitude", _cycle, timed=True),
    Statistic("correlation from step to step", _remembered, timed=True),
    Statistic("lowest hundredth", lambda values, days: np.quantile(values, 0.01, axis=-1)),
    Statistic("highest hundredth", lambda values, days: np.quantile(values, 0.99, axis=-1)))


def predictive_checks(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, draws: np.ndarray, seed: int,
                      ) -> Iterator[Finding]:
    """One finding a stream, site and statistic; `draws` (draw, n) of the posterior, z (n,) the MAP."""
    predicted, slopes = problem.predict(z), slopes_of(problem, z)
    away = np.asarray(draws) - np.asarray(z)
    for number, (name, rows) in enumerate(tested.rows.items()):
        stream = observations[name]
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), len(away))
        noise = np.asarray(jax.vmap(lambda key, stream=stream: draw_errors(stream, key))(keys))[:, mask]
        replicated = np.asarray(predicted[name])[mask] + away @ np.asarray(slopes[name])[:, mask] + noise
        observed = np.asarray(stream.values)[mask]
        for n, site in enumerate(observations.sites):
            here = tested.sites[rows] == n
            days = tested.times[rows][here]
            where = f" at {site}" if len(observations.sites) > 1 else ""
            for statistic in STATISTICS:
                if here.sum() >= statistic.fewest and (np.isfinite(days).all() or not statistic.timed):
                    yield from _finding(f"{quantity_words(name)}{where}", name, site, statistic.name,
                                        float(statistic.of(observed[here], days)), statistic.of(replicated[:, here], days), stream.units)


def _finding(what: str, stream: str, site: str, statistic: str, observed: float, replicates: np.ndarray, units: str) -> Iterator[Finding]:
    spread, middle = float(np.std(replicates)), float(np.mean(replicates))
    if not (np.isfinite(observed) and np.isfinite(spread) and spread > 0):
        return
    share = (1 + np.sum(replicates >= observed)) / (1 + len(replicates))
    # What lies beyond all replicates is placed by their mean and standard deviation.
    log_p = float(np.log(2 * min(share, 1 - share + 1 / (1 + len(replicates)))))
    log_p = min(log_p, 0.0) if abs(observed - middle) < 2.5 * spread else two_sided((observed - middle) / spread)
    unit = f" {units}" if units not in ("", "1") and not statistic.startswith("correlation") else ""
    sentence = (f"The {statistic} of observed {what} is {observed:.3g}{unit}; the calibrated model with its errors makes "
                f"{middle:.3g} ± {spread:.2g} (posterior predictive {p_text(log_p)}).")
    yield Finding("predictive", sentence, "What the replicates lack the model or its errors lack: see the causes, or the errors R.", log_p,
                  figure="predictive", subject=stream, numbers={
                      "stream": stream, "site": site, "statistic": statistic, "observed": observed, "replicates": replicates})
