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


@dataclass(frozen=True)
class FailedRuns:
    """What is done with members whose run fails.

    `rule`: "leave out", the method goes on with the others; or "pull in", the member is moved half-way towards the mean of those
    that ran and run again, up to `attempts` times, and left out after that. Refused (RuntimeError, with the region of parameter
    space where runs fail) when more than the fraction `limit` of the members of one call is left out.
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

    Raises RuntimeError if more than its limit fail.
    """
    def run(Z):
        predicted = {name: np.array(values) for name, values in problem.ensemble(jnp.asarray(Z)).items()}
        return predicted, _finished(problem, predicted)

    Z, predicted, *ended = _under_rule(problem, Z, failed, run)
    return Ran(jnp.asarray(Z), predicted, *ended)


def run_costs(problem: Problem, Z: Array, failed: FailedRuns | None = None) -> Costs:
    """J of members Z (member, n) under the same rule; a run whose J is not finite has failed. For designs of many members.

    Raises RuntimeError if more than its limit fail.
    """
    def run(Z):
        found = np.array(costs(problem, jnp.asarray(Z)))
        return {"cost": found}, np.isfinite(found)

    Z, found, *ended = _under_rule(problem, Z, failed, run)
    return Costs(Z, found["cost"], *ended)


def _under_rule(problem: Problem, Z: Array, failed: FailedRuns | None, run):
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
            f"at most {failed.limit:.0%} of the members to fail", f"{(~finished).sum()} of {len(Z)}{_region(problem, Z, finished)}",
            'narrow the prior there, look at the messages of the model, or FailedRuns("pull in")'))
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


def _region(problem: Problem, Z: np.ndarray, finished: np.ndarray) -> str:
    """The parameters that tell failed members from the others best, with the range in which they failed."""
    if not finished.any():
        return ", all of them"
    theta = np.asarray(problem.space.flatten(problem.space.physical(jnp.asarray(Z))))
    bad, good = Z[~finished], Z[finished]
    spread = np.std(Z, axis=0) + 1e-300
    apart = np.abs(bad.mean(axis=0) - good.mean(axis=0)) / spread
    worst = np.argsort(apart)[::-1][:3]
    ranges = [f"{problem.space.labels[n]} {theta[~finished, n].min():.4g} to {theta[~finished, n].max():.4g}" for n in worst]
    return f", at {', '.join(ranges)}"
