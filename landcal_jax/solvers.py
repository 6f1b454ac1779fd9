"""What a solver is, of either kind, and what a solve returns. This file knows no concrete solver; the loop is in `solving`.

A gradient solver is a value with `init(problem, z)` and `step(problem, state)`, both pure and traced by JAX; an ensemble
solver asks for members and is told what they predict. What either shows of its state are the fields of `Progress`.
"""

import abc
import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.members import FailedRuns, Ran
from landcal_jax.model import Theta
from landcal_jax.problem import Problem


class Status(enum.IntEnum):
    """How a solve ended; `sentence` says it in words. Negative is a failure, zero is still running."""

    RUNNING = 0
    CONVERGED = 1
    NO_DECREASE = 2
    MAX_STEPS = 3
    LEFT = 4
    ANALYSIS = 5
    OUT_OF_SPAN = 6
    OUT_OF_BOUNDS = 7
    COLLAPSED = 8
    STOPPED = 9
    SEARCHED = 10
    SUBSPACE = 11
    NOT_FINITE = -1
    RUN_FAILED = -2

    @property
    def sentence(self) -> str:
        """The status in words."""
        return {
            Status.RUNNING: "still running",
            Status.CONVERGED: "converged: the expected further decrease of J is below the tolerance, or the noise of the model",
            Status.NO_DECREASE: "stopped: no step that was tried decreases J, as happens at kinks and at the limit of rounding",
            Status.LEFT: "left: other starts were lower",
            Status.ANALYSIS: "done: this is the analysis of the method, the minimum of J where the model is linear",
            Status.OUT_OF_SPAN: "done, but in doubt: the ensemble cannot reach the observations, see details['span']",
            Status.OUT_OF_BOUNDS: "done, but the analysis, details['analysis'], lies outside the bounds: z is the nearest point inside",
            Status.COLLAPSED: "converged: the ensemble has drawn together to a point, which says nothing of the posterior",
            Status.STOPPED: "stopped by who watched it",
            Status.SEARCHED: "done: the search has made its generations; that no lower minimum is left is not shown by it",
            Status.SUBSPACE: "done within the span of the ensemble, which has too few members for all parameters: J may be lower elsewhere",
            Status.MAX_STEPS: "stopped at the largest number of steps before it converged",
            Status.NOT_FINITE: "failed: J is NaN or infinite at the start, or its gradient is where the solver stands",
            Status.RUN_FAILED: "failed: the run at the analysis, or at the mean of the members, failed",
        }[self]

    @property
    def advice(self) -> str:
        """What to try after a failure."""
        if self is Status.RUN_FAILED:
            return "another z0 or seed, a narrower prior, or a solver that goes by steps; the messages of the model say more"
        return "problem.terms(z0) shows the term; `landcal check` scans the prior box"


class Counts(NamedTuple):
    """Work done: forward runs of the map, reverse-mode gradients, tangent-linear (or adjoint) products."""

    forward: Array
    gradient: Array
    jvp: Array

    @classmethod
    def of(cls, forward=0, gradient=0, jvp=0) -> "Counts":
        """Counts from whole numbers."""
        return cls(*(jnp.asarray(number, jnp.int64 if jax.config.jax_enable_x64 else jnp.int32) for number in (forward, gradient, jvp)))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Progress(eqx.Module):
    """What every solver shows of its state: the best point so far, J by term there, status code and work done."""

    z: Array
    terms: dict[str, Array]
    status: Array
    counts: Counts


class Starts(NamedTuple):
    """The first point `z` (n,), or points (start, n), of a gradient solver; runs made to find them, and those that failed."""

    z: Array
    runs: int = 0
    failures: int = 0


class AbstractGradientSolver(eqx.Module):
    """A solver that uses derivatives of the problem: `init` and `step` are traced by JAX.

    `default_max_steps` bounds the loop when the caller does not; `steps_per_call` iterations run between two looks.
    """

    default_max_steps: eqx.AbstractVar[int]
    steps_per_call: eqx.AbstractVar[int]

    def starts(self, problem: Problem, z0: Array, key: Array | None, failed: FailedRuns | None) -> "Starts":
        """Where to begin from the first guess z0 (n,); `failed` is the rule for runs that fail on the search for better starts."""
        return Starts(z0)

    @abc.abstractmethod
    def init(self, problem: Problem, z: Array) -> Any:
        """State at the start."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: Any) -> Any:
        """State after one iteration; a state whose status is not RUNNING must be returned as it is."""

    @abc.abstractmethod
    def progress(self, state: Any) -> Progress:
        """What `state` shows; a multi-start shows its best member, RUNNING while any member runs."""

    def details(self, state: Any) -> dict[str, np.ndarray]:
        """More to keep in `Result.details`, such as the end of every start."""
        return {}


class AbstractEnsembleSolver(eqx.Module):
    """A solver that sees runs only: `ask` says which members to run, `tell` takes what they predict.

    The runs are outside of the solver, so that a JAX model, an executable and an emulator look alike. Nothing here is traced
    by JAX. A state that is a pytree of arrays can be kept in a checkpoint; a solver whose state is not sets `resumable` False.
    """

    default_max_steps: eqx.AbstractVar[int]
    resumable: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def init(self, problem: Problem, z0: Array, key: Array | None) -> Any:
        """State before anything was run; raises ValueError without a key where the solver draws."""

    @abc.abstractmethod
    def ask(self, problem: Problem, state: Any) -> Array:
        """The members (member, n) to run next."""

    def tries(self, state: Any) -> bool:
        """Whether the next members are points tried on the way, of which all may fail: no rule for failed runs applies to them."""
        return False

    @abc.abstractmethod
    def tell(self, problem: Problem, state: Any, ran: Ran) -> Any:
        """State after these members have run; those that failed are marked in `ran.finished`."""

    @abc.abstractmethod
    def progress(self, state: Any) -> Progress:
        """What `state` shows: the best point so far (or the analysis), J by term there, status; `counts` are kept outside.

        Before anything was run the terms are NaN. The history of a solve begins with the first members that were run.
        """

    def details(self, state: Any) -> dict[str, np.ndarray]:
        """More to keep in `Result.details`, such as the members of the analysis."""
        return {}


class Result(NamedTuple):
    """What a solve returns.

    `z` (n,): MAP in whitened space; `theta`: the same in physical units by name; `parameters`: a Dataset with units;
    `terms`: J by term; `history`: term -> (iteration,) with the start first; `status`; `counts`: forward runs,
    gradients and tangent products; `seconds`: {"compile", "run"}; `details`: more from the solver, by name.
    `details["failed_runs"]` counts those of the ensemble, or of the candidates of a multi-start. Where the theory gives a posterior
    ensemble an ensemble solver brings `posterior_z` (member, n); see `from_ensemble`.
    """

    z: Array
    theta: Theta
    parameters: xr.Dataset
    terms: dict[str, float]
    history: dict[str, np.ndarray]
    status: Status
    counts: dict[str, int]
    seconds: dict[str, float]
    details: dict[str, np.ndarray]

    @property
    def cost(self) -> float:
        """J at the solution."""
        return sum(self.terms.values())

    def __str__(self) -> str:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        iterations = max(len(self.history["prior"]) - 1, 0)
        return f"J = {self.cost:.6g} ({terms}) after {iterations} iterations; {self.status.sentence}"


def point_of(problem: Problem, result: Result | Array) -> Array:
    """z (n,) of a Result, or z itself. ValueError for anything else, with the way to z from what it is."""
    expected = f"a Result, or z of shape ({problem.space.size},)"
    if isinstance(result, Mapping):
        raise ValueError(complain(expected, f"a mapping of {', '.join(map(str, result))}", "problem.space.whiten(theta)"))
    if not isinstance(result, Result) and hasattr(result, "centre"):
        raise ValueError(complain(expected, f"a {type(result).__name__}", "posterior.centre"))
    try:
        z = result.z if isinstance(result, Result) else jnp.asarray(result, float)
    except (TypeError, ValueError):
        raise ValueError(complain(expected, f"a {type(result).__name__}", "the result of solve(problem, solver)")) from None
    if z.shape != (problem.space.size,):
        raise ValueError(complain(expected, f"shape {z.shape}", "problem.space.whiten(theta) makes z from physical parameters"))
    return z


class SolveError(RuntimeError):
    """A solve failed; `result` holds what there is."""

    def __init__(self, message: str, result: Result):
        super().__init__(message)
        self.result = result
