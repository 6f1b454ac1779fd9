"""Posterior predictive checks: does the calibrated model make data like those that were observed?

Draws of the posterior make replicated observations; the p-value of a discrepancy is how often that of a replicate is above the observed
one (Gelman, Meng and Stern 1996, Statist. Sinica 6:733). Predictions are those of the model linearised at the MAP: draws of a Gaussian
posterior lie where a curved J is far too high. Such p-values lean to 1/2, since the data are used twice, so a small one means more.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.checks import FEWEST, autocorrelation, two_sided
from landcal_jax.structure.findings import Finding, p_text, phase_of
from landcal_jax.structure.score_tests import Whitened, slopes_of
from landcal_jax.structure.signals import quantity_words
from landcal_jax.testing import draw_errors

DRAWS = 400


def _cycle(values: np.ndarray, days: np.ndarray) -> float:
    phase = phase_of(days)
    return float(np.hypot(np.mean(values * np.cos(phase)), np.mean(values * np.sin(phase))) * 2)


def _remembered(values: np.ndarray, days: np.ndarray) -> float:
    found = autocorrelation(values, days)
    return np.nan if found is None else float(found[1][0])


STATISTICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "mean": lambda values, days: float(np.mean(values)),
    "standard deviation": lambda values, days: float(np.std(values)),
    "seasonal amplitude": _cycle,
    "correlation from step to step": _remembered,
    "lowest hundredth": lambda values, days: float(np.quantile(values, 0.01)),
    "highest hundredth": lambda values, days: float(np.quantile(values, 0.99)),
}


def predictive_checks(problem: Problem, observations: Observations, whitened: Whitened, z: np.ndarray, draws: np.ndarray, seed: int,
                      ) -> Iterator[Finding]:
    """One finding a stream, site and statistic; `draws` (draw, n) of the posterior, z (n,) the MAP."""
    predicted, slopes = problem.predict(z), slopes_of(problem, z)
    away = np.asarray(draws)[:DRAWS] - np.asarray(z)
    for number, (name, stream) in enumerate(observations.items()):
        rows = whitened.rows[name]
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), number), len(away))
        noise = np.asarray(jax.vmap(lambda key, stream=stream: draw_errors(stream, key))(keys))[:, mask]
        replicated = np.asarray(predicted[name])[mask] + away @ np.asarray(slopes[name])[:, mask] + noise
        observed = np.asarray(stream.values)[mask]
        for n, site in enumerate(observations.sites):
            here = whitened.sites[rows] == n
            if here.sum() < FEWEST or stream.time is None:
                continue
            where = f" at {site}" if len(observations.sites) > 1 else ""
            for statistic, function in STATISTICS.items():
                days = whitened.times[rows][here]
                of_observed = function(observed[here], days)
                of_replicates = np.array([function(each[here], days) for each in replicated])
                yield from _finding(f"{quantity_words(name)}{where}", name, site, statistic, of_observed, of_replicates, stream.units)


def _finding(what: str, stream: str, site: str, statistic: str, observed: float, replicates: np.ndarray, units: str) -> Iterator[Finding]:
    spread, middle = float(np.std(replicates)), float(np.mean(replicates))
    if not (np.isfinite(observed) and np.isfinite(spread) and spread > 0):
        return
    share = (1 + np.sum(replicates >= observed)) / (1 + len(replicates))
    # What lies beyond all replicates is placed by their mean and standard deviation.
    log_p = float(np.log(2 * min(share, 1 - share + 1 / (1 + len(replicates)))))
    log_p = min(log_p, 0.0) if abs(observed - middle) < 2.5 * spread else two_sided((observed - middle) / spread)
    unit = f" {units}" if units and not statistic.startswith("correlation") else ""
    sentence = (f"The {statistic} of observed {what} is {observed:.3g}{unit}; the calibrated model with its errors makes "
                f"{middle:.3g} ± {spread:.2g} (posterior predictive {p_text(log_p)}).")
    yield Finding("predictive", sentence, "What the replicates lack the model or its errors lack: see the causes, or the errors R.", log_p,
                  figure="predictive", subject=stream, numbers={
                      "stream": stream, "site": site, "statistic": statistic, "observed": observed, "replicates": replicates})
