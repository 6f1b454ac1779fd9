"""Other packages on our problems, for `peers`: each sees the problem through one object, `Counted`, which counts.

Every method here is `method(exam, counted, seed, budget) -> Found`. What is not an argument is the package's own default or what
its documentation recommends; `peers` says which, and what else was tried. Packages are imported where they are used, so that one
that is missing takes only itself away.
"""

import contextlib
import io
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from adao_3dvar import Affine, Case, adao_3dvar
from jax import Array

from landcal_jax.problem import Problem

_IN_MEMORY = {"dbname": "peers", "dbformat": "ram", "save_sim": False}  # of SPOTPY: no files
GRADIENT_RUNS = 3  # model runs that an adjoint gradient is charged; measured at 2.1 to 3.2 with DALEC
BOUND = 6.0  # of z, for packages that need bounds: the prior has 2e-9 beyond them


class Exam(NamedTuple):
    """A problem whose answer is known.

    `mean` (n,) and `covariance` (n, n) of its posterior in z; `minimum` of J. What ADAO is given: x = x_b + L z with
    prior covariance B (n, n), observations y (m,) with errors R, (m, m) or variances (m,).
    """

    name: str
    problem: Problem
    mean: np.ndarray
    covariance: np.ndarray
    minimum: float
    affine: Affine
    B: np.ndarray
    y: np.ndarray
    R: np.ndarray


class Found(NamedTuple):
    """The end of a method: the point z (n,) that it returns, and mean (n,) and covariance (n, n) if it gives a posterior."""

    z: np.ndarray
    mean: np.ndarray | None = None
    covariance: np.ndarray | None = None

    @classmethod
    def of(cls, draws: np.ndarray, z: np.ndarray | None = None) -> "Found":
        """From draws (draw, n) of a posterior; the point is their mean unless given."""
        mean = draws.mean(axis=0)
        return cls(mean if z is None else z, mean, np.cov(draws.T))


@eqx.filter_jit
def _modelled(problem: Problem, z: Array) -> Array:
    """What is modelled where it is observed (m,), in physical units."""
    predicted = problem.predict(z)
    return jnp.concatenate([predicted[name].ravel() for name in problem.observations.names])


@eqx.filter_jit
def _residuals(problem: Problem, Z: Array) -> Array:
    """Whitened residuals of members (member, n + m), the n of the prior first."""
    return jax.vmap(problem.residual_vector)(Z)


@eqx.filter_jit
def _run(problem: Problem, z: Array) -> tuple[Array, Array]:
    return _modelled(problem, z), problem.residual_vector(z)


@eqx.filter_jit
def _tangents(problem: Problem, z: Array, directions: Array) -> Array:
    return jax.vmap(lambda dz: jax.jvp(lambda z: _modelled(problem, z), (z,), (dz,))[1])(directions)


@eqx.filter_jit
def _adjoint(problem: Problem, z: Array, w: Array) -> Array:
    return jax.vjp(lambda z: _modelled(problem, z), z)[1](w)[0]


class Counted:
    """A problem as others see it. Whatever runs is counted, and compiled by JAX, for all of them alike.

    `counts`: forward runs, tangents and adjoints. `enough`: a J; `reached` becomes the work when it was first met, in model runs.
    `best` and `best_cost`: the point z (n,) of lowest J that was run.
    """

    def __init__(self, problem: Problem, enough: float = -np.inf):
        self.problem, self.enough, self.size = problem, enough, problem.space.size
        self.counts = {"forward": 0, "jvp": 0, "gradient": 0}
        self.reached: int | None = None
        self.best, self.best_cost = np.zeros(self.size), np.inf

    @property
    def runs(self) -> int:
        """Work so far: a forward run and a tangent are one model run each, a gradient is three."""
        return self.counts["forward"] + self.counts["jvp"] + GRADIENT_RUNS * self.counts["gradient"]

    def residuals(self, Z: np.ndarray) -> np.ndarray:
        """Whitened residuals of members Z (member, n), as one batch: (member, n + m), those of the prior first."""
        residuals = np.asarray(_residuals(self.problem, jnp.asarray(Z)))
        self.counts["forward"] += len(Z)
        self._note(Z, 0.5 * np.sum(residuals**2, axis=1))
        return residuals

    def residual(self, z: np.ndarray) -> np.ndarray:
        """Those of one point (n,): (n + m,)."""
        return self.residuals(np.asarray(z, float)[None])[0]

    def costs(self, Z: np.ndarray) -> np.ndarray:
        """J of members Z (member, n), as one batch: (member,)."""
        return 0.5 * np.sum(self.residuals(Z) ** 2, axis=1)

    def modelled(self, z: np.ndarray) -> np.ndarray:
        """What is modelled at z (n,) where it is observed (m,), in physical units."""
        modelled, residual = _run(self.problem, jnp.asarray(z))
        self.counts["forward"] += 1
        self._note(z[None], 0.5 * np.sum(np.asarray(residual)[None] ** 2, axis=1))
        return np.asarray(modelled)

    def tangents(self, z: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """The derivative of `modelled` along each row of `directions`, (row, m)."""
        self.counts["jvp"] += len(directions)
        return np.asarray(_tangents(self.problem, jnp.asarray(z), jnp.asarray(directions)))

    def adjoint(self, z: np.ndarray, w: np.ndarray) -> np.ndarray:
        """The transpose of the derivative of `modelled` times w (m,): (n,)."""
        self.counts["gradient"] += 1
        return np.asarray(_adjoint(self.problem, jnp.asarray(z), jnp.asarray(w)))

    def met(self, cost: float, runs: int) -> None:
        """Note that J was `cost` after the work of `runs` model runs."""
        if self.reached is None and cost <= self.enough:
            self.reached = runs

    def _note(self, Z, costs):
        lowest = int(np.argmin(np.where(np.isfinite(costs), costs, np.inf)))
        if costs[lowest] < self.best_cost:
            self.best, self.best_cost = np.array(Z[lowest]), float(costs[lowest])
        self.met(self.best_cost, self.runs)


def adao(exam: Exam, counted: Counted, seed: int, budget: int, **parameters) -> Found:
    """3DVAR of ADAO with full B and R, and its posterior covariance."""
    affine = exam.affine
    inverse = np.linalg.inv(affine.L)
    case = Case(
        exam.problem, affine.x_b, exam.B, exam.y, exam.R,
        direct=lambda x: counted.modelled(affine.z(x)),
        jacobian=lambda x: counted.tangents(affine.z(x), inverse.T).T,
        tangent=lambda x, dx: counted.tangents(affine.z(x), (inverse @ dx)[None])[0],
        adjoint=lambda x, w: inverse.T @ counted.adjoint(affine.z(x), w))
    # A call of its minimiser is a run and an adjoint.
    limit = max(budget // (1 + GRADIENT_RUNS), 1)
    end = adao_3dvar(case, notes=False, **{"MaximumNumberOfFunctionEvaluations": limit} | parameters)
    z = affine.z(end.analysis)
    return Found(z, z, inverse @ end.covariance @ inverse.T)


def dfo_ls(exam: Exam, counted: Counted, seed: int, budget: int, **settings) -> Found:
    """DFO-LS from the prior mean; as posterior the Gauss-Newton one of the Jacobian that it has interpolated."""
    import dfols

    np.random.seed(seed)
    end = dfols.solve(counted.residual, np.zeros(counted.size), maxfun=budget, do_logging=False, **settings)
    return Found(end.x, end.x, np.linalg.inv(end.jacobian.T @ end.jacobian))


def pycma(exam: Exam, counted: Counted, seed: int, budget: int, sigma: float = 0.5, **options) -> Found:
    """CMA-ES of pycma from the prior mean, `sigma` its first standard deviation in z; a generation is one batch."""
    import cma

    # A seed of zero would be the time of day.
    fixed = {"seed": seed + 1, "maxfevals": budget, "verbose": -9}
    strategy = cma.CMAEvolutionStrategy(np.zeros(counted.size), sigma, fixed | options)
    while not strategy.stop() and counted.runs + strategy.popsize <= budget:
        members = strategy.ask()
        strategy.tell(members, counted.costs(np.array(members)))
    return Found(counted.best)


def es_mda(exam: Exam, counted: Counted, seed: int, budget: int, steps: int = 4, truncation: float | None = None) -> Found:
    """ES-MDA of iterative_ensemble_smoother with equal steps, from draws of the prior."""
    import iterative_ensemble_smoother as smoother

    rng, n = np.random.default_rng(seed), counted.size
    members = rng.standard_normal((n, budget // steps))
    observed = np.zeros(exam.problem.residual_vector(np.zeros(n)).size - n)
    # In whitened units: errors one, and zero is what is observed.
    method = smoother.ESMDA(np.ones_like(observed), observed, alpha=steps, seed=rng)
    for _ in range(method.num_assimilations()):
        modelled = np.ascontiguousarray(-counted.residuals(members.T)[:, n:].T)
        method.prepare_assimilation(Y=modelled, **({} if truncation is None else {"truncation": truncation}))
        members = method.assimilate_batch(X=members)
    return Found.of(members.T)


class _Spent(Exception):
    """The budget is spent."""


def _spotpy_setup(counted: Counted, sign: float, budget: int):
    import spotpy

    class Setup:
        def __init__(self):
            self.free = [spotpy.parameter.Normal(f"z{i}", 0.0, 1.0, minbound=-BOUND, maxbound=BOUND) for i in range(counted.size)]

        def parameters(self):
            return spotpy.parameter.generate(self.free)

        def simulation(self, z):
            if counted.runs >= budget:
                raise _Spent
            return counted.residual(np.array(z, float))[counted.size :]

        def evaluation(self):
            return [0.0]

        def objectivefunction(self, simulation, evaluation, params):
            # SCE-UA asks for other parameters than those of the last simulation: what it hands over is what counts.
            z = np.asarray(params[0], float)
            return sign * 0.5 * float(np.sum(np.asarray(simulation) ** 2) + z @ z)

    return Setup()


def sce_ua(exam: Exam, counted: Counted, seed: int, budget: int, **settings) -> Found:
    """SCE-UA of SPOTPY, begun with draws of the prior."""
    import spotpy

    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(_Spent):
        sampler = spotpy.algorithms.sceua(_spotpy_setup(counted, 1.0, budget), random_state=seed, **_IN_MEMORY)
        # It counts some runs twice, and would stop before the budget is spent.
        sampler.sample(2 * budget, **settings)
    return Found(counted.best)


def dream(
    exam: Exam, counted: Counted, seed: int, budget: int, acceptance_test_option: int = 2, database: bool = False, **settings
) -> Found:
    """DREAM of SPOTPY on the log posterior: the second half of each chain.

    `acceptance_test_option=2` takes the ratio of two log-likelihoods as it is; the default, 6, halves it. `database`: what
    the database holds in place of the chains.
    """
    import spotpy

    with contextlib.redirect_stdout(io.StringIO()):
        sampler = spotpy.algorithms.dream(_spotpy_setup(counted, -1.0, budget), random_state=seed, **_IN_MEMORY)
        # Without a limit of convergence it uses the whole budget: its chains end 100 runs after it otherwise.
        sampler.sample(budget, acceptance_test_option=acceptance_test_option, **{"convergence_limit": 0.0} | settings)
    if database:
        rows = sampler.getdata()
        draws = np.stack([rows[f"parz{i}"] for i in range(counted.size)], axis=1)
        return Found.of(draws[len(draws) // 2 :], counted.best)
    chains = [chain[length // 2 : length] for chain, length in zip(sampler.bestpar, sampler.nChainruns, strict=True)]
    return Found.of(np.concatenate(chains), counted.best)
