"""Posterior predictive checks: does the calibrated model make data like those that were observed?

Draws of the posterior make replicated observations; the p-value of a discrepancy is how often that of a replicate is above the observed
one (Gelman, Meng and Stern 1996, Statist. Sinica 6:733). Such p-values lean to 1/2, since the data are used twice, so a small one means
more.

Predictions of a Gaussian posterior are those of the model linearised at the MAP: where J is curved its draws lie where J is far too
high. Draws of a sampler or of an ensemble follow the curve, on which the tangent is wrong: the model is run with them, and their errors are
those that each draw has for them where errors were sampled.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.endings import in_force
from landcal_jax.structure.findings import Finding, p_text, phase_of
from landcal_jax.structure.lags import autocorrelation
from landcal_jax.structure.score_tests import slopes_of
from landcal_jax.structure.signals import quantity_words
from landcal_jax.structure.tails import simulated, two_sided
from landcal_jax.structure.tested import FEWEST, Tested
from landcal_jax.twins import draw_errors

REPLICATES = 2000
"""Replicates that a check has at least, by several draws of the errors for each of the posterior: the tail is carried on from a tenth."""

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


class Replicated(NamedTuple):
    """What replicates are made of: `draws` (draw, n) of the posterior, `predicted` stream -> (draw, value) where something was observed.

    `own_errors`: whether each draw has errors of its own. `notes`: sentences about draws that could not be run.
    """

    draws: np.ndarray
    predicted: Mapping[str, np.ndarray]
    own_errors: bool
    notes: tuple[str, ...] = ()


def replicated(problem: Problem, tested: Tested, z: np.ndarray, draws: np.ndarray, gaussian: bool) -> Replicated:
    """Predictions of `draws` (draw, n): of a Gaussian by the tangent at z (n,), of others by runs of the model; see the module.

    Draws whose run fails are left out, which a note says.
    """
    used = {name: np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
            for name, stream in problem.observations.items() if name in tested.rows}
    if gaussian:
        base, slopes, away = problem.predict(jnp.asarray(z)), slopes_of(problem, jnp.asarray(z)), draws - z
        return Replicated(draws, {name: np.asarray(base[name])[mask] + away @ np.asarray(slopes[name])[:, mask]
                                  for name, mask in used.items()}, False)
    runs = problem.ensemble(jnp.asarray(draws))
    predicted = {name: np.asarray(runs[name])[:, mask] for name, mask in used.items()}
    good = np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in predicted.values()])
    notes = () if good.all() else (f"{(~good).sum()} of {len(good)} draws of the posterior have no finite run and are left out of the "
                                   "predictive checks.",)
    own = problem.errors is not None or problem.forward.uncertain
    return Replicated(draws[good], {name: values[good] for name, values in predicted.items()}, own, notes)


def predictive_checks(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, draws: np.ndarray, gaussian: bool,
                      seed: int) -> Iterator[Finding | str]:
    """One finding a stream, site and statistic; `draws` (draw, n) of the posterior, `gaussian` or not, z (n,) the MAP."""
    made = replicated(problem, tested, np.asarray(z), np.asarray(draws), gaussian)
    yield from made.notes
    if not len(made.draws):
        return
    rounds = -(-REPLICATES // len(made.draws))
    for number, (name, rows) in enumerate(tested.rows.items()):
        stream = observations[name]
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        observed, found = np.asarray(stream.values)[mask], {}
        for keys in jax.random.split(jax.random.fold_in(jax.random.key(seed), number), (rounds, len(made.draws))):
            noise = (_errors_of_draws(problem, name, jnp.asarray(made.draws), keys) if made.own_errors else _errors(stream, keys))
            replicates = made.predicted[name] + np.asarray(noise)[:, mask]
            for key, value in _values(tested, rows, observations.sites, observed, replicates):
                found.setdefault(key, []).append(value)
        for (n, statistic), values in found.items():
            site = observations.sites[n]
            where = f" at {site}" if len(observations.sites) > 1 else ""
            yield from _finding(f"{quantity_words(name)}{where}", name, site, statistic, values[0][0],
                                np.concatenate([replicates for _, replicates in values]), stream.units)


@eqx.filter_jit
def _errors(stream, keys: Array) -> Array:
    return jax.vmap(lambda key: draw_errors(stream, key))(keys)


@eqx.filter_jit
def _errors_of_draws(problem: Problem, name: str, draws: Array, keys: Array) -> Array:
    """Errors of one stream (draw, site, n_obs), by the errors that each draw has for it."""
    return jax.lax.map(lambda given: draw_errors(in_force(problem, given[0])[name], given[1]), (draws, keys), batch_size=64)


def _values(tested: Tested, rows: np.ndarray, sites: tuple[str, ...], observed: np.ndarray, replicates: np.ndarray):
    """(site, statistic) and its values, observed and replicated (draw,), of all that there are values enough for."""
    for n in range(len(sites)):
        here = tested.sites[rows] == n
        days = tested.times[rows][here]
        for statistic in STATISTICS:
            if here.sum() >= statistic.fewest and (np.isfinite(days).all() or not statistic.timed):
                yield (n, statistic.name), (float(statistic.of(observed[here], days)), statistic.of(replicates[:, here], days))


def log_p_of(observed: float, replicates: np.ndarray) -> float:
    """Log of the two-sided p-value of an observed discrepancy among replicates (draw,).

    Beyond them it is that of their tail carried on, which is longer than a normal one for extremes; and no less than the normal one, for
    a tenth of few draws may end short by chance.
    """
    spread = float(np.std(replicates))
    tail = np.log(2) + min(simulated(observed, replicates), simulated(-observed, -replicates))
    return float(min(max(tail, two_sided((observed - np.mean(replicates)) / spread)), 0.0))


def _finding(what: str, stream: str, site: str, statistic: str, observed: float, replicates: np.ndarray, units: str) -> Iterator[Finding]:
    spread, middle = float(np.std(replicates)), float(np.mean(replicates))
    if not (np.isfinite(observed) and np.isfinite(spread) and spread > 0):
        return
    log_p = log_p_of(observed, replicates)
    unit = f" {units}" if units not in ("", "1") and not statistic.startswith("correlation") else ""
    sentence = (f"The {statistic} of observed {what} is {observed:.3g}{unit}; the calibrated model with its errors makes "
                f"{middle:.3g} ± {spread:.2g} (posterior predictive {p_text(log_p)}).")
    yield Finding("predictive", sentence, "What the replicates lack the model or its errors lack: see the causes, or the errors R.", log_p,
                  figure="predictive", subject=stream, numbers={
                      "stream": stream, "site": site, "statistic": statistic, "observed": observed, "replicates": replicates})
