"""Pathfinder: Gaussians along the way down J, the best of them, and weights that say whether it will do.

A quasi-Newton solver learns the inverse Hessian of J on its way. Each of its iterates gives a Gaussian, and of these the one that is
nearest to the posterior (in Kullback-Leibler divergence, by a few runs of draws from each) stands for it: often not the last one, and
for the price of one minimisation. Several paths from different starts find several modes; their draws are weighted by Pareto-smoothed
importance sampling, whose k-hat says whether the Gaussians cover the posterior at all (Zhang, Carpenter, Gelman and Vehtari 2022,
Journal of Machine Learning Research 23, 306).

Three things are not as in blackjax 1.7.1, whose factors of the inverse Hessian and draws are used:

* The mean of a Gaussian is a Newton step down from its iterate, x - H grad J (Zhang et al., algorithm 4); blackjax adds it, which
  puts all Gaussians before the last on the wrong side of theirs.
* The weight of a draw is over the density of the mixture of all paths (Owen and Zhou 2000, Journal of the American Statistical
  Association 95, 135), not over that of its own path: a mode that six of eight paths find would count six times.
* The path is that of `LBFGS` here, which ends where J has kinks, and counts its work.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import devices as several
from landcal_jax import progress as progress_line
from landcal_jax.errors import complain
from landcal_jax.gradient import LBFGS
from landcal_jax.importance import importance_of, resampled
from landcal_jax.keys import key_of
from landcal_jax.members import FailedRuns, run_costs
from landcal_jax.particles import counts_of
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem, costs, evaluate
from landcal_jax.solvers import Result, point_of
from landcal_jax.solving import Clock, solve

MEMORY = 10
"""Steps whose curvature a Gaussian knows."""
TRIED = 10
"""Draws of each Gaussian that are run to compare it with the others."""
BATCH = 64
"""Draws in one compiled run, always as many, so that it is compiled once."""
POOL = 4
"""Draws that are run for each one that is kept: more of them, fewer copies."""


def pathfinder(
    problem: Problem,
    result: Result | Array | None = None,
    *,
    paths: int = 8,
    draws: int = 1000,
    key: Array | int = 0,
    max_steps: int = 200,
    progress: bool = True,
    failed: FailedRuns | None = None,
) -> Posterior:
    """Draws of the posterior by multi-path Pathfinder: in seconds, and roughly; `details["k_hat"]` says how roughly.

    `paths`: L-BFGS minimisations of at most `max_steps` iterations each. They begin at those of 8 draws of the prior a path that
    have the lowest J, or, where `result` (a Result, or z itself (n,)) is given, at draws of half the prior's spread around it. `draws`: how
    many are kept of four times as many that are run, by their smoothed weights, so that some are there more than once.
    `failed`: the rule for draws of the prior that fail.

    `details` of the posterior: `log_density` and `path` (draw,), which path each draw is from; `elbo` (path,), the lower bound of the
    evidence by the Gaussian of each path, NaN for a path that gave none; `k_hat`, `k_limit` and `effective` of `Importance`, `distinct`,
    the number of different draws; `forward` and `gradient` (runs), `failed`, seconds, and a `note` that says
    whether k-hat allows to use the draws. Where it does not they are good starts for chains, and nothing else; there is a `warning` then.

    Raises TypeError for a forward map without derivatives that JAX compiles, ValueError for fewer than one path or 25 draws,
    RuntimeError if too many draws of the prior fail or no path gives a Gaussian.
    """
    problem.require_gradient("pathfinder")
    _check(problem, paths, draws, max_steps)
    clock, key = Clock(), key_of(key)
    of_start, of_paths, of_draws, of_choice = jax.random.split(key, 4)
    starts, *tried = _starts(problem, result, paths, of_start, failed)
    found, counts, failures = _along_paths(problem, starts, of_paths, (paths, max_steps), progress, tried)
    good = [gaussian for gaussian in found if math.isfinite(gaussian.elbo)]
    if not good:
        raise RuntimeError(complain("a path along which J and its gradient are finite", f"none of {paths}",
                                    "landcal_jax.testing.check(problem) shows where they are not; or other starts: another key"))
    z, log_mixture, of_path = _pool(good, draws, of_draws)
    J = costs(problem, z, batch_size=BATCH)
    importance = importance_of(-J - log_mixture)
    places = resampled(importance.weights, draws, of_choice)
    constants = float(problem.log_density(good[0].centre) + problem.cost(good[0].centre))
    seconds, numbers = clock.seconds(), np.flatnonzero([math.isfinite(gaussian.elbo) for gaussian in found])
    details = {
        "log_density": constants - J[places], "path": numbers[of_path[places]],
        "elbo": np.array([gaussian.elbo + constants if math.isfinite(gaussian.elbo) else np.nan for gaussian in found]),
        "k_hat": importance.k_hat, "k_limit": importance.limit, "effective": importance.effective, "distinct": len(np.unique(places)),
        "forward": counts["forward"] + len(J), "gradient": counts["gradient"], "failed": failures + importance.failed,
        "seconds_compile": seconds["compile"], "seconds_warmup": 0.0, "seconds_run": seconds["run"],
        **_notes(importance, found, good)}
    best = min(good, key=lambda gaussian: gaussian.cost)
    return from_draws(problem, z[places], method=f"Pathfinder ({len(good)} of {paths} paths, k-hat {importance.k_hat:.2f})",
                      centre=best.lowest, details=details)


class _Gaussian(eqx.Module):
    """The best Gaussian of one path: centre (n,), covariance (n, n), its ELBO up to a constant; the end of the path and J there."""

    centre: np.ndarray
    covariance: np.ndarray
    elbo: float
    lowest: np.ndarray
    cost: float


def _check(problem: Problem, paths: int, draws: int, max_steps: int) -> None:
    """Complain of a model that JAX does not compile, and of numbers that are too small."""
    if not problem.forward.traceable:
        raise TypeError(complain("a gradient that JAX compiles for pathfinder", problem.forward.description, "smc(problem)"))
    if paths < 1 or draws < 25 or max_steps < 1:
        raise ValueError(complain("one path, 25 draws and one step, or more", f"{paths}, {draws}, {max_steps}", "pathfinder(problem)"))


def _notes(importance, found, good) -> dict[str, str]:
    """A `note` on the weights, which is a `warning` too where k-hat does not allow to use the draws."""
    lost = f" {len(found) - len(good)} of {len(found)} paths gave no Gaussian." if len(good) < len(found) else ""
    if importance.passed:
        return {"note": importance.sentence + lost}
    said = (f"{importance.sentence} Of these draws {importance.effective:.1f} count: take them as starts of chains, not as a "
            f"posterior.{lost}")
    return {"note": said, "warning": said}


def _starts(problem: Problem, result, paths: int, key: Array, failed):
    """Where the paths begin (path, n), the runs that took, and those that failed."""
    if result is not None:
        z = point_of(problem, result)
        return z + 0.5 * jax.random.normal(key, (paths, z.size)), 0, 0
    ran = run_costs(problem, problem.space.sample(key, 8 * paths), failed)
    order = np.argsort(np.where(ran.finished, ran.cost, np.inf), kind="stable")
    return jnp.asarray(ran.z[order[: min(paths, int(ran.finished.sum()))]]), ran.runs, ran.failures


def _along_paths(problem: Problem, starts: Array, key: Array, limits: tuple[int, int], progress: bool, tried: list[int]):
    """The best Gaussian of each path, with the runs of each kind and those that failed, which have `tried` already."""
    paths, max_steps = limits
    found, (forward, failures), gradient = [], tried, 0
    with progress_line.display(progress and problem.speaks, "sampling", "path", "") as show:
        for number, start in enumerate(starts):
            Z, slopes, work = _path(problem, start, max_steps)
            gaussian, runs = _best(problem, Z, slopes, jax.random.fold_in(key, number), max_steps)
            found.append(gaussian)
            forward, gradient = forward + work["forward"] + runs, gradient + work["gradient"]
            show(number + 1, paths, {"lowest J": min(gaussian.cost for gaussian in found)})
    return found, {"forward": forward, "gradient": gradient}, failures


def _path(problem: Problem, start: Array, max_steps: int):
    """Iterates (iterate, n) from the start on, the gradient of J at each, and the work."""
    seen = []
    result = solve(problem, LBFGS(), z0=start, max_steps=max_steps, throw=False, progress=False,
                   watch=lambda shown: seen.append(np.asarray(shown.z)))
    Z = np.array([z for n, z in enumerate(seen) if n == 0 or not np.array_equal(z, seen[n - 1])])
    slopes = np.array([evaluate(problem, jnp.asarray(z))[1] for z in Z])
    more = counts_of(problem, 0, len(Z))
    return Z, slopes, {name: result.counts[name] + more[name] for name in more}


def _best(problem: Problem, Z: np.ndarray, slopes: np.ndarray, key: Array, max_steps: int) -> tuple[_Gaussian, int]:
    """The Gaussian of the iterate whose draws are best, and how many were run."""
    # Filled up, so that paths of every length share what is compiled; a step of length zero teaches nothing.
    filled = tuple(jnp.asarray(np.concatenate([part, np.repeat(part[-1:], max_steps + 1 - len(part), axis=0)])) for part in (Z, slopes))
    z, log_q, centres, factors = (np.asarray(part) if not isinstance(part, tuple) else part for part in _along(*filled, key))
    number = len(Z)
    J = costs(problem, several.fill(z[:number].reshape(-1, Z.shape[1]), BATCH), batch_size=BATCH)[: number * TRIED]
    elbo = np.mean(-J.reshape(number, TRIED) - log_q[:number], axis=1)
    elbo = np.where(np.isfinite(elbo), elbo, -np.inf)
    at = int(np.argmax(elbo))
    alpha, beta, gamma = (np.asarray(part[at]) for part in factors)
    covariance = np.diag(alpha) + beta @ gamma @ beta.T
    return _Gaussian(centres[at], 0.5 * (covariance + covariance.T), float(elbo[at]), Z[-1], float(problem.cost(jnp.asarray(Z[-1])))), \
        number * TRIED


@jax.jit
def _along(Z: Array, slopes: Array, key: Array):
    """For each iterate of a path (iterate, n): draws (iterate, draw, n), their log densities, the centre and the factors of H."""
    from blackjax.optimizers import lbfgs  # here, because most users of the package never sample

    steps, bends = jnp.diff(Z, axis=0), jnp.diff(slopes, axis=0)

    def learn(alpha, pair):
        alpha, kept = lbfgs.lbfgs_recover_alpha(alpha, *pair)
        return alpha, (alpha, kept)

    first = jnp.ones(Z.shape[1])
    _, (alphas, kept) = jax.lax.scan(learn, first, (steps, bends))
    alphas = jnp.concatenate([first[None], alphas])
    steps, bends = (jnp.pad(jnp.where(kept, part, 0.0), ((MEMORY, 0), (0, 0))) for part in (steps, bends))

    def one(number, key):
        window = number + jnp.arange(MEMORY)
        alpha = alphas[number]
        beta, gamma = lbfgs.lbfgs_inverse_hessian_factors(steps[window].T, bends[window].T, alpha)
        # blackjax goes up this gradient; with its sign turned, down.
        z, log_q = lbfgs.bfgs_sample(key, TRIED, Z[number], -slopes[number], alpha, beta, gamma)
        centre = Z[number] - alpha * slopes[number] - beta @ (gamma @ (beta.T @ slopes[number]))
        return z, log_q, centre, (alpha, beta, gamma)

    # One at a time: their factors are small, and all at once are many.
    return jax.lax.map(lambda pair: one(*pair), (jnp.arange(len(Z)), jax.random.split(key, len(Z))))


def _pool(gaussians: list[_Gaussian], draws: int, key: Array):
    """Draws of all Gaussians (draw, n), the log density of their mixture there, and which of them each is from."""
    each, n = math.ceil(POOL * draws / len(gaussians)), len(gaussians[0].centre)
    noise = np.asarray(jax.random.normal(key, (len(gaussians), each, n)))
    roots = [np.linalg.cholesky(gaussian.covariance) for gaussian in gaussians]
    z = np.concatenate([gaussian.centre + part @ root.T for gaussian, part, root in zip(gaussians, noise, roots, strict=True)])
    log_q = np.array([
        -0.5 * np.sum(np.linalg.solve(root, (z - gaussian.centre).T) ** 2, axis=0) - np.sum(np.log(np.diag(root)))
        for gaussian, root in zip(gaussians, roots, strict=True)]) - 0.5 * n * math.log(2 * math.pi)
    top = log_q.max(axis=0)
    return z, top + np.log(np.mean(np.exp(log_q - top), axis=0)), np.repeat(np.arange(len(gaussians)), each)
