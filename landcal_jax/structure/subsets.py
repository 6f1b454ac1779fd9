"""Do parts of the data agree on the parameters? Calibration on one stream, or one site, alone, the others always scored.

Linearised at the joint MAP, a part s of the data has its own optimum z_s. If the model is right, z_s - z is N(0, C_s - C), C_s and C the
posterior covariances of the part and of all (a Hausman test: Hausman 1978, Econometrica 46:1251). Where streams have weights in J it is
N(0, D D'), z_s - z = D e the same linear function of the errors e. What the fit of a part costs the others is shown by a calibration
on it with the model itself.
"""

from collections.abc import Iterator, Mapping

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.information import listed, root_of
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.solving import solve
from landcal_jax.structure.findings import Finding, count_text, p_text
from landcal_jax.structure.signals import quantity_words
from landcal_jax.structure.tails import above
from landcal_jax.structure.tested import Tested

STEPS = 20  # iterations of a calibration on a part, from the joint one
DIFFERS = 0.1
"""Least share of the variance of the part's posterior that the other data must take away for a direction to be compared."""


def parted(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, refits: bool) -> Iterator[Finding]:
    """One finding a stream (if there are several) and one a site (if there are several), of those that have a value with weight."""
    rows_of, sites = tested.whitened.rows, tested.sites
    if len(observations) > 1:
        for name in observations:
            weights = {other: np.where(other == name, 1.0, 0.0) for other in observations}
            yield from _compared(problem, observations, tested, z, rows_of[name], weights, name, "stream", refits)
    if len(observations.sites) > 1:
        for n, site in enumerate(observations.sites):
            weights = {name: np.arange(len(observations.sites)) == n for name in observations}
            yield from _compared(problem, observations, tested, z, np.flatnonzero(sites == n), weights, site, "site", refits)


def own_optimum(tested: Tested, rows: np.ndarray) -> tuple[np.ndarray, float, int]:
    """z_s - z (n,) of the data in `rows`, the statistic of the difference, and its degrees of freedom."""
    G, r = tested.whitened.G, tested.whitened.r
    kept = np.concatenate([np.flatnonzero(tested.sites < 0), rows])
    part, whole = G[kept].T @ G[kept], G.T @ G
    away = np.linalg.solve(whole, G.T @ r) - np.linalg.solve(part, G[kept].T @ r[kept])
    heavy = G * np.sqrt(tested.weight)[:, None]
    D = np.linalg.solve(whole, heavy.T)
    D[:, kept] -= np.linalg.solve(part, heavy[kept].T)
    # In units of the part's own posterior: directions whose variance the other data hardly change are not compared.
    root = np.linalg.cholesky(part).T
    values, vectors = np.linalg.eigh(root @ D @ D.T @ root.T)
    seen = values > DIFFERS
    told = vectors.T @ (root @ away)
    return away, float(np.sum(told[seen] ** 2 / values[seen])), int(seen.sum())


def _compared(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, rows: np.ndarray,
              weights: Mapping[str, np.ndarray], name: str, what: str, refits: bool) -> Iterator[Finding]:
    if not len(rows):
        return
    away, statistic, degrees = own_optimum(tested, rows)
    if not degrees:
        return
    log_p = above(statistic, degrees)
    L, labels = root_of(problem.space), problem.space.labels
    shift = L @ away
    furthest = [labels[i] for i in np.argsort(-np.abs(shift))[:3]]
    scores = _scores(problem, observations, z, weights, name, what) if refits else {}
    numbers = {what: name, "shift": shift, "statistic": statistic, "degrees": degrees, "scores": scores}
    words = quantity_words(name) if what == "stream" else name
    degraded = "; ".join(
        f"chi-square per value of {quantity_words(other) if what == 'stream' else other} {before:.2f} fitted together, "
        f"{alone:.2f} fitted to {words} alone"
        for other, (before, alone) in scores.items() if np.isfinite(before))
    first = (f"{words[:1].upper()}{words[1:]} alone wants other parameters than all streams together" if what == "stream" else
             f"{name} alone wants other parameters than all sites together")
    yield Finding(
        "stream conflict" if what == "stream" else "site conflict",
        f"{first}, above all {listed(furthest)} (chi-square {count_text(statistic)} for {degrees} directions; {p_text(log_p)}"
        + (f"; {degraded})." if degraded else ")."),
        "One set of parameters cannot serve both: a process that they share is wrong, or one of them is biased (see the causes)."
        if what == "stream" else
        f"Check the drivers and the observations of {name} first (a bias of one site is among the candidates for a cause); if they are "
        "right, let the parameters named vary from site to site or between plant functional types (dims), or look for what this site "
        "has that the model lacks.", log_p, figure="conflict", subject=name, numbers=numbers)


def _scores(problem: Problem, observations: Observations, z: np.ndarray, weights: Mapping[str, np.ndarray], name: str, what: str,
            ) -> dict[str, tuple[float, float]]:
    """Chi-square per value by stream (or site): with the joint calibration, and with one on the part alone."""
    alone = observations.with_streams({
        other: eqx.tree_at(lambda stream: stream.weight, stream, stream.weight * jnp.asarray(weights[other], float))
        for other, stream in observations.items()})
    found = solve(problem.with_observations(alone), LevenbergMarquardt(), z0=jnp.asarray(z), max_steps=STEPS, throw=False,
                  progress=False)
    both = [_squares(problem, observations, at) for at in (jnp.asarray(z), found.z)]
    if what == "stream":
        return {other: tuple(float(np.nanmean(squares[other])) for squares in both) for other in observations}
    return {site: tuple(float(np.nanmean(np.concatenate([squares[other][n] for other in observations]))) for squares in both)
            for n, site in enumerate(observations.sites)}


def _squares(problem: Problem, observations: Observations, z: Array) -> dict[str, np.ndarray]:
    predicted = problem.predict(z)
    return {name: np.where(np.asarray(stream.mask), np.asarray(stream.whitened(predicted[name])) ** 2, np.nan)
            for name, stream in observations.items()}
