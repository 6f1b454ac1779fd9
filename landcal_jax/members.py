"""Runs of many members, and one rule for those that fail: shared by every method that sees runs only.

A run has failed when a value that was observed comes back NaN or infinite: a crash, a timeout, or a model that blew up. What
happens then is one object, `FailedRuns`, and what happened is counted.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.problem import Problem, costs

NAMED = 3  # parameters at most that are named where runs fail
CHANCE = 0.05  # that a parameter is named which has nothing to do with it


@dataclass(frozen=True)
class FailedRuns:
    """What is done with members whose run fails.

    `rule`: "leave out", the method goes on with the others; or "pull in", the member is moved half-way towards the mean of those
    that ran and run again, up to `attempts` times, and left out after that. Refused (RuntimeError, with the region of parameter
    space where runs fail) when more than the fraction `limit` of the members of one call is left out.

    The rule holds for members. Points that a solver only tries on its way are exempt, since all of them may fail and it goes on: the
    trial steps of the iterated 4DEnVar, the mean at the end of a Kalman solver, the generations of CMAES after the first. They count in
    `details["failed_runs"]`, so that more of the runs of a solve may have failed than `limit` says.
    """

    rule: Literal["leave out", "pull in"] = "leave out"
    limit: float = 0.5
    attempts: int = 3

    def __post_init__(self) -> None:
        if self.rule not in ("leave out", "pull in") or not 0 <= self.limit <= 1 or self.attempts < 1:
            raise ValueError(complain('rule "leave out" or "pull in", a limit in 0 to 1, at least one attempt',
                                      f"{self.rule!r}, {self.limit:g}, {self.attempts}", "FailedRuns() has the defaults"))


class Ran(NamedTuple):
    """What became of members.

    `z` (member, n): where they ran, which "pull in" may have moved; `predicted`: stream -> (member, site, n_obs), NaN for the
    failed; `finished` (member,): whether each ran in the end; `runs`: runs made; `failures`: runs that failed.
    """

    z: Array
    predicted: dict[str, np.ndarray]
    finished: np.ndarray
    runs: int
    failures: int


class Costs(NamedTuple):
    """J of members: `z` (member, n) as in `Ran`, `cost` (member,), `finished` (member,) where J is finite, runs, failures."""

    z: np.ndarray
    cost: np.ndarray
    finished: np.ndarray
    runs: int
    failures: int


def run_members(problem: Problem, Z: Array, failed: FailedRuns | None = None) -> Ran:
    """Run members Z (member, n) of `problem` under the rule `failed` (default `FailedRuns()`).

    Raises RuntimeError if more than its limit fail, and TypeError where R depends on z: members are judged by their residuals.
    """
    problem.require_least_squares("a solver that works on members")

    def run(Z):
        predicted = {name: np.array(values) for name, values in problem.ensemble(jnp.asarray(Z)).items()}
        return predicted, _finished(problem, predicted)

    Z, predicted, *ended = _under_rule(problem, Z, failed, run)
    return Ran(jnp.asarray(Z), predicted, *ended)


def run_costs(
    problem: Problem, Z: Array, failed: FailedRuns | None = None, way_out: str = 'FailedRuns("pull in")',
) -> Costs:
    """J of members Z (member, n) under the same rule; a run whose J is not finite has failed. For designs of many members.

    Raises RuntimeError if more than its limit fail, with `way_out` as the last advice.
    """
    def run(Z):
        found = np.array(costs(problem, jnp.asarray(Z)))
        return {"cost": found}, np.isfinite(found)

    Z, found, *ended = _under_rule(problem, Z, failed, run, way_out)
    return Costs(Z, found["cost"], *ended)


def _under_rule(problem: Problem, Z: Array, failed: FailedRuns | None, run, way_out: str = 'FailedRuns("pull in")'):
    """Members, what `run` gives for them by name, which of them finished, the runs made, and those that failed."""
    failed = FailedRuns() if failed is None else failed
    Z = np.array(Z, dtype=float)
    found, finished = run(Z)
    runs, failures = len(Z), int((~finished).sum())
    for _ in range(failed.attempts if failed.rule == "pull in" else 0):
        wrong = np.flatnonzero(~finished)
        if not wrong.size or not finished.any():
            break
        Z[wrong] = 0.5 * (Z[wrong] + Z[finished].mean(axis=0))
        again, finished[wrong] = run(Z[wrong])
        for name, values in again.items():
            found[name][wrong] = values
        runs += wrong.size
        failures += int((~finished).sum())
    if (~finished).mean() > failed.limit:
        raise RuntimeError(complain(
            f"at most {failed.limit:.0%} of the members to fail",
            f"{(~finished).sum()} of {len(Z)}{region_words(problem, Z, finished)}{problem.forward.failure_words()}",
            f"narrow the prior there, look at the messages of the model, or {way_out}"))
    return Z, found, finished, runs, failures


def draw_members(problem: Problem, key: Array | None, size: int, exact: bool = True) -> Array:
    """`size` members (member, n) drawn from the prior N(0, I) of z.

    With `exact` their mean is that of the prior, and so is their covariance if there are more members than parameters (sampling
    of second order; Pham 2001, Monthly Weather Review 129, 1194). Raises ValueError without a key or for fewer than two members.
    """
    if key is None:
        raise ValueError(complain("a seed or key for a solver that draws members", "key=None", "solve(..., key=0)"))
    if size < 2:
        raise ValueError(complain("at least two members", f"{size}", "ten for each parameter are usual"))
    Z = np.asarray(problem.space.sample(key, size))
    if exact:
        Z = Z - Z.mean(axis=0)
        if size > Z.shape[1]:
            root = np.linalg.cholesky(Z.T @ Z / (size - 1))
            Z = np.linalg.solve(root, Z.T).T
    return jnp.asarray(Z)


def whitened(problem: Problem, predicted: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whitened residuals R^(-1/2) (y - h) of members by stream, each (member, observed values); what is masked is not there.

    R may be of any kind, correlated in time too: each stream whitens itself, with the square root of its weight.
    """
    residuals = _residuals(problem.observations, {name: jnp.asarray(values) for name, values in predicted.items()})
    return {name: np.asarray(residuals[name], float)[:, np.asarray(stream.mask)] for name, stream in problem.observations.items()}


def cost_terms(z: Array, residuals: dict[str, np.ndarray], member: int = 0) -> dict[str, Array]:
    """J by term of one member at z, from the residuals of `whitened`."""
    terms = {"prior": 0.5 * jnp.sum(jnp.asarray(z) ** 2)}
    with np.errstate(over="ignore"):
        return terms | {name: jnp.asarray(0.5 * np.sum(values[member] ** 2)) for name, values in residuals.items()}


def no_terms(problem: Problem) -> dict[str, Array]:
    """J by term where nothing was run: NaN."""
    return {name: jnp.asarray(jnp.nan) for name in ("prior", *problem.observations.names)}


@eqx.filter_jit
def _residuals(observations, predicted):
    return jax.vmap(observations.residuals)(predicted)


def _finished(problem: Problem, predicted: dict[str, np.ndarray]) -> np.ndarray:
    good = [np.isfinite(np.where(np.asarray(stream.mask), predicted[name], 0.0)).all(axis=tuple(range(1, predicted[name].ndim)))
            for name, stream in problem.observations.items()]
    return np.logical_and.reduce(good)


def region_words(problem: Problem, Z: np.ndarray, finished: np.ndarray) -> str:
    """Where runs fail: the ranges of up to `NAMED` parameters that tell the failed members from the others.

    These are told by the largest distance between the two empirical distributions (Kolmogorov and Smirnov), which sees regions on both
    sides too; named if it is above what chance gives in one of twenty cases, in any of the n parameters (Bonferroni).
    """
    theta, labels = np.asarray(problem.space.flatten(problem.space.physical(jnp.asarray(Z)))), problem.space.labels
    bad, good = theta[~finished], theta[finished]
    if not len(good):
        ranges = [f"{label} {low:.4g} to {high:.4g}" for label, low, high in zip(labels, bad.min(axis=0), bad.max(axis=0), strict=True)]
        more = f" and {len(ranges) - NAMED} more" if len(ranges) > NAMED else ""
        return f", all of them, wherever they were: {', '.join(ranges[:NAMED])}{more}"
    distance = np.array([_distance(*pair) for pair in zip(bad.T, good.T, strict=True)])
    chance = np.sqrt(-0.5 * np.log(CHANCE / len(labels) / 2) * (1 / len(bad) + 1 / len(good)))
    order = np.argsort(-distance, kind="stable")[:NAMED]
    told = [n for n in order if distance[n] > chance]
    where = ", ".join(f"{labels[n]} {_range(bad[:, n], good[:, n])}" for n in told or order[:1])
    return f", at {where}" if told else f", at {where}, which may be chance: no single parameter tells them from the others"


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two empirical distribution functions."""
    at = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(values), at, side="right") / len(values) for values in (one, other)]
    return np.abs(shares[0] - shares[1]).max()


def _range(bad: np.ndarray, good: np.ndarray) -> str:
    low, high = good.min(), good.max()
    around = bad.min() < low and bad.max() > high and ((bad < low) | (bad > high)).mean() > 0.5
    return f"outside {low:.4g} to {high:.4g}" if around else f"{bad.min():.4g} to {bad.max():.4g}"
