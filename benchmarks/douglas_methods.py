"""Every method on the cases of Douglas et al. (2025): what each ends with, with noise, and against the size of its ensemble."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import harness
import jax.numpy as jnp
import numpy as np
from douglas_cases import POOLS, Experiment, experiment

from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ESMDA, ETKI, UnscentedKalmanInversion
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.models.optic import ACTIVE, BOUNDS
from landcal_jax.posterior import from_ensemble
from landcal_jax.search import CMAES, GeneticAlgorithm
from landcal_jax.solvers import Result
from landcal_jax.solving import solve

QUANTILE = 1.6449  # of the standard normal: a 90 % interval
SIZES = (5, 10, 15, 20, 25, 30, 35, 40, 45)  # of the published curve
GRADIENT = 3  # model runs that a gradient is charged with; a tangent is charged with one


def as_published(case: Experiment) -> FourDEnVar:
    """4DEnVar of the paper: its ensemble, in physical space."""
    return FourDEnVar(members=jnp.asarray(case.ensemble.T), space="physical", root="cholesky")


def in_z(case: Experiment) -> jnp.ndarray:
    """The same ensemble in z (member, 4)."""
    return case.problem.space.whiten(case.problem.space.unflatten(jnp.asarray(case.ensemble.T)))


# All ensemble methods have the published ensemble, whose mean and covariance are the prior.
METHODS: dict[str, Callable[[Experiment], Any]] = {
    "4DVar": lambda case: LevenbergMarquardt(),
    "4DEnVar": as_published,
    "iterated 4DEnVar": lambda case: IterativeFourDEnVar(members=in_z(case)),
    "transform 4DEnVar": lambda case: IterativeFourDEnVar(members=in_z(case), scaling=None),
    "UKI": lambda case: UnscentedKalmanInversion(),
    "EKI": lambda case: EKI(members=in_z(case)),
    "ETKI": lambda case: ETKI(members=in_z(case)),
    "ES-MDA": lambda case: ESMDA(members=in_z(case)),
    "GA": lambda case: GeneticAlgorithm(),
    "CMA-ES": lambda case: CMAES(tolerance=1e-3),  # of J, far below what noise makes of it
}
DRAWN = ("EKI", "ES-MDA", "GA", "CMA-ES")  # another seed is another result, without noise too


class End(NamedTuple):
    """Where a method has ended: parameters `x` (4,), their `covariance` (4, 4) or None, and model runs with derivatives charged.

    `x` is NaN, and J in `cost` infinite, if the solve failed, or refused to go on because too many of its runs did.
    """

    x: np.ndarray
    covariance: np.ndarray | None
    runs: float
    cost: float


def end(case: Experiment, words: str, seed: int = 0) -> End:
    """What the method called `words` makes of a case."""
    try:
        result = solve(case.problem, METHODS[words](case), key=seed, progress=False, throw=False)
    except RuntimeError:
        return End(np.full(len(ACTIVE), np.nan), None, np.nan, np.inf)
    runs = result.counts["forward"] + result.counts["jvp"] + GRADIENT * result.counts["gradient"]
    if result.status < 0:
        return End(np.full(len(ACTIVE), np.nan), None, runs, np.inf)
    if words == "4DVar":
        covariance = posterior(case, result)
    else:
        covariance = spread(case, result) if "posterior_z" in result.details else None
    return End(physical(result), covariance, runs, result.cost)


def physical(result: Result) -> np.ndarray:
    """The four parameters of a result."""
    return np.array([float(result.theta[name]) for name in ACTIVE])


def posterior(case: Experiment, result: Result) -> np.ndarray:
    """Laplace covariance (4, 4) in physical units; x = x_b + L z with L the Cholesky factor of B."""
    L = np.linalg.cholesky(case.B)
    return L @ np.asarray(laplace(case.problem, result, draws=1).covariance) @ L.T


def spread(case: Experiment, result: Result) -> np.ndarray:
    """Posterior covariance (4, 4) in physical units of an ensemble solver."""
    L = np.linalg.cholesky(case.B)
    return L @ np.asarray(from_ensemble(case.problem, result).covariance) @ L.T


def distance(case: Experiment, end: End) -> float:
    """Squared Mahalanobis distance of the truth from the posterior, a parameter: 1 on average where that is right."""
    if end.covariance is None:
        return np.nan
    error = end.x - case.published.truth
    return float(error @ np.linalg.solve(end.covariance, error) / len(error))


def reductions(case: Experiment, ends: Iterable[End]) -> np.ndarray:
    """Reduction of the RMSE of the worse pool by each end [%]; a run of NaN counts as no reduction."""
    return np.array([np.nan_to_num(case.reduction(each.x), nan=0.0, neginf=0.0).min() for each in ends])


class Noisy(NamedTuple):
    """One method in one case with noise, by seed: `rmse` (seed, 2) to the truth, `distance` (seed,), `runs` (seed,).

    `inside` (seed, 4): which true parameters lie in their 90 % intervals.
    """

    rmse: np.ndarray
    distance: np.ndarray
    runs: np.ndarray
    inside: np.ndarray


def report_noise(bench: harness.Benchmark, names: list[str], seeds: int) -> dict[str, dict[str, Noisy]]:
    """Noisy observations: RMSE to the truth, whether the posterior holds the true parameters, and runs, by case and method."""
    found: dict[str, dict[str, Noisy]] = {}
    for name in names:
        cases = [experiment(name).noisy(seed) for seed in range(seeds)]
        found[name] = {words: _noisy(cases, words) for words in METHODS}
        for words, noisy in found[name].items():
            for pool, rmse in zip(POOLS, np.median(noisy.rmse, axis=0), strict=True):
                bench.figure(f"{name}, noise: {words}, RMSE of {pool}", rmse, "pool units")
            if np.isfinite(noisy.distance).any():
                bench.figure(f"{name}, noise: {words}, squared distance of the truth", np.mean(noisy.distance), "1")
            bench.figure(f"{name}, noise: {words}, model runs", np.median(noisy.runs), "1")
        exact, once = found[name]["4DVar"], found[name]["4DEnVar"]
        for pool, ratio in zip(POOLS, np.median(once.rmse / exact.rmse, axis=0), strict=True):
            bench.figure(f"{name}, noise: RMSE 4DEnVar / 4DVar, {pool}", ratio, "1", "> 1")
    for words in METHODS:
        every = [found[name][words] for name in names]
        if np.isfinite(every[0].distance).any():
            share = 100 * np.mean([noisy.inside for noisy in every])
            bench.figure(f"noise: {words}, truth in 90 % intervals", share, "%", ">= 85" if words == "4DVar" else None)
    return found


def _noisy(cases: list[Experiment], words: str) -> Noisy:
    ends = [end(case, words, seed) for seed, case in enumerate(cases)]
    rmse = [np.nan_to_num(case.rmse(each.x), nan=np.inf) for case, each in zip(cases, ends, strict=True)]
    inside = [np.zeros(len(ACTIVE), bool) if each.covariance is None else
              np.abs(each.x - case.published.truth) < QUANTILE * np.sqrt(np.diag(each.covariance))
              for case, each in zip(cases, ends, strict=True)]
    distances = [distance(case, each) for case, each in zip(cases, ends, strict=True)]
    return Noisy(np.array(rmse), np.array(distances), np.array([each.runs for each in ends]), np.array(inside))


def report_methods(bench: harness.Benchmark, names: list[str], seeds: int) -> None:
    """Without noise: the worse pool and the model runs of the methods that draw, median over seeds; and J against that of 4DVar."""
    for name in names:
        case = experiment(name)
        minimum = end(case, "4DVar").cost
        for words in METHODS:
            if words in ("4DVar", "4DEnVar", "iterated 4DEnVar"):
                continue  # `report_case` has them
            ends = [end(case, words, seed) for seed in range(seeds if words in DRAWN else 1)]
            bench.figure(f"{name}: {words}, worse pool", np.median(reductions(case, ends)), "% less RMSE")
            bench.figure(f"{name}: {words}, J - J(4DVar)", np.median([each.cost for each in ends]) - minimum, "1")
            bench.figure(f"{name}: {words}, model runs", np.median([each.runs for each in ends]), "1")


def report_sizes(bench: harness.Benchmark, names: list[str], repeats: int) -> dict[str, np.ndarray]:
    """RMSE against the size of the ensemble, which is drawn anew for each repeat; (size, repeat, pool) by case.

    Members are drawn from N(x_b, B) within the bounds of the parameters, and their mean and covariance are the prior, as published.
    An analysis outside the bounds stays in, and is counted; the paper drew such ensembles again.
    """
    found = {}
    low, high = np.array(list(BOUNDS.values())).T
    for name in names:
        case = experiment(name)
        rmse, outside = np.full((len(SIZES), repeats, len(POOLS)), np.inf), 0
        for row, size in enumerate(SIZES):
            for seed in range(repeats):
                members = drawn_within(case, size, low, high, np.random.default_rng([size, seed]))
                result = solve(case.problem, FourDEnVar(members=members, space="physical"), progress=False, throw=False)
                x = physical(result)
                rmse[row, seed] = np.nan_to_num(case.rmse(x), nan=np.inf)
                outside += bool(((x < low) | (x > high)).any())
            for column, pool in enumerate(POOLS):
                # By rank: an analysis that has blown up is the last.
                reduction = 100 * (1 - np.median(rmse[row, :, column]) / case.rmse(case.x_b)[column])
                bench.figure(f"{name}: 4DEnVar of {size}, {pool}", reduction, "% less RMSE")
        bench.figure(f"{name}: 4DEnVar of 5 to 45, analyses out of bounds", 100 * outside / (len(SIZES) * repeats), "%")
        found[name] = rmse
    return found


def drawn_within(case: Experiment, size: int, low: np.ndarray, high: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`size` draws (member, 4) of the prior of a case, those outside the bounds replaced."""
    members = np.empty((0, len(low)))
    while len(members) < size:
        more = rng.multivariate_normal(case.x_b, case.B, 4 * size)
        members = np.concatenate([members, more[((more > low) & (more < high)).all(axis=1)]])
    return members[:size]
