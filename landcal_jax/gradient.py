"""Gradient solvers: any optax optimiser, L-BFGS, Gauss-Newton, Levenberg-Marquardt, and many starts of any of them.

Which one? `LevenbergMarquardt()` for up to a few hundred parameters: J is a sum of squares, and using that needs ten
times fewer runs than anything that sees gradients only. `MultiStart(LevenbergMarquardt())` where J has several minima,
as it has with phenology. `LBFGS()` for thousands of parameters. `Rprop()` (module `resilient`) where a few dozen gradients
have to do, from far away. `Optax(optax.adam(1e-2))` for noisy or rough J.

All work in whitened space, where the prior's part of the Hessian is the identity, so no scaling has to be chosen.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from jax import Array
from scipy.special import ndtri

from landcal_jax import devices
from landcal_jax.errors import complain
from landcal_jax.members import run_costs
from landcal_jax.problem import Linearisation, evaluate
from landcal_jax.solvers import AbstractGradientSolver, Counts, Progress, Starts, Status

DAMPING_FACTORS = (0.0, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
STEP_FRACTIONS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 1e-3)
DAMPING_GROWTH = 1e4  # after a step without decrease: the next dampings begin where the last ones ended
STALL_LIMIT = 4  # steps without a decrease before a solver gives up; the damping has grown 1e14 times by then


class LeastSquaresState(eqx.Module):
    """z, J by term, damping, number of steps without decrease, status and work of a least-squares solver."""

    z: Array
    terms: dict[str, Array]
    damping: Array
    stalled: Array
    status: Array
    counts: Counts


class _LeastSquares(AbstractGradientSolver):
    """What Gauss-Newton and Levenberg-Marquardt share: where they start, when they stop, and how they report."""

    tolerance: float = eqx.field(static=True, default=1e-8)
    dense_limit: int = eqx.field(static=True, default=100)
    default_max_steps: int = eqx.field(static=True, default=100)
    steps_per_call: int = eqx.field(static=True, default=1)

    def init(self, problem, z):
        terms = problem.terms(z)
        finite = jnp.isfinite(sum(terms.values()))
        return LeastSquaresState(
            z, terms, jnp.asarray(1.0, z.dtype), jnp.asarray(0), jnp.where(finite, Status.RUNNING, Status.NOT_FINITE), Counts.of(forward=1))

    def progress(self, state):
        return Progress(state.z, state.terms, state.status, state.counts)


class GaussNewton(_LeastSquares):
    """Gauss-Newton with a line search: z + s dz, (I + G'G) dz = -dJ/dz, the best of seven fractions s tried at once.

    `tolerance`: stop when the expected further decrease of J, g'H^-1 g / 2, is below it (relative to J above 1); 1e-8
    leaves z within 2e-4 sqrt(J) posterior standard deviations of the minimum. Up to `dense_limit` parameters the Jacobian is
    formed in forward mode; beyond, (I + G'G) dz = -g is solved matrix-free by conjugate gradients.
    Nocedal & Wright 2006, section 10.3.
    """

    def step(self, problem, state):
        def directions(system):
            full, work = system.solve(jnp.zeros(1))
            # After a step without decrease the next fractions begin where the last ones ended.
            fractions = jnp.asarray(STEP_FRACTIONS) * STEP_FRACTIONS[-1] ** state.stalled
            return fractions[:, None] * full, jnp.zeros_like(fractions), full[0], work

        return _least_squares_step(problem, state, directions, self.tolerance, self.dense_limit)


class LevenbergMarquardt(_LeastSquares):
    """Levenberg-Marquardt: (I + G'G + d I) dz = -dJ/dz, the best of seven dampings d tried at once.

    The trial runs share one batch, which costs less than one Jacobian, so no step is wasted on a rejected damping.
    d = 0, the Gauss-Newton step, is always among them. `tolerance` and `dense_limit` as in `GaussNewton`.
    Marquardt 1963; Nocedal & Wright 2006, section 10.3.
    """

    def step(self, problem, state):
        def directions(system):
            dampings = state.damping * jnp.asarray(DAMPING_FACTORS)
            steps, work = system.solve(dampings)
            return steps, dampings, steps[0], work

        return _least_squares_step(problem, state, directions, self.tolerance, self.dense_limit)


class _DenseSystem(eqx.Module):
    """(G'G + d I) dz = -g through the eigenvectors of G'G, which serve every d. G includes the prior's identity."""

    gradient: Array
    values: Array
    vectors: Array

    @classmethod
    def at(cls, problem, z):
        r, jacobian = problem.jacobian(z)
        values, vectors = jnp.linalg.eigh(jacobian.T @ jacobian)
        # The identity of the prior bounds the eigenvalues from below; rounding may not.
        return cls(jacobian.T @ r, jnp.maximum(values, 1.0), vectors)

    def solve(self, dampings):
        """Steps (damping, n), and the work of the Jacobian and of the solve."""
        steps = -(self.vectors.T @ self.gradient / (self.values + dampings[:, None])) @ self.vectors.T
        return steps, Counts.of(forward=1, jvp=self.gradient.size)


class _MatrixFreeSystem(eqx.Module):
    """The same by conjugate gradients on tangent and adjoint products, for many parameters."""

    linear: Linearisation
    gradient: Array
    products: int = eqx.field(static=True)  # an iteration: one tangent and one adjoint, none where all tangents are differences at hand

    @classmethod
    def at(cls, problem, z):
        linear = problem.linearise(z)
        return cls(linear, linear.vjp(linear.r), 2 if problem.difference_step is None and problem.forward.has_adjoint else 0)

    def solve(self, dampings):
        """Steps (damping, n), and the work of the gradient and of the solve."""
        structure = jax.ShapeDtypeStruct(self.gradient.shape, self.gradient.dtype)
        conjugate = lx.CG(rtol=1e-6, atol=1e-12, max_steps=4 * self.gradient.size)

        def one(damping):
            operator = lx.FunctionLinearOperator(
                lambda v: self.linear.vjp(self.linear.jvp(v)) + damping * v, structure, lx.positive_semidefinite_tag)
            solution = lx.linear_solve(operator, -self.gradient, conjugate, throw=False)
            return solution.value, solution.stats["num_steps"]

        steps, iterations = jax.vmap(one)(dampings)
        # All dampings iterate until the last has converged.
        return steps, Counts.of(gradient=1, jvp=self.products * dampings.size * jnp.max(iterations))


def _least_squares_step(problem, state, directions, tolerance, dense_limit):
    def advance(state):
        system = (_DenseSystem if state.z.size <= dense_limit else _MatrixFreeSystem).at(problem, state.z)
        steps, dampings, newton, work = directions(system)
        before = sum(state.terms.values())
        expected = -0.5 * system.gradient @ newton
        trials = jax.vmap(problem.terms)(state.z + steps)
        costs = sum(trials.values())
        best = jnp.argmin(jnp.where(jnp.isfinite(costs), costs, jnp.inf))
        better = costs[best] < before
        stalled = jnp.where(better, 0, state.stalled + 1)
        converged = expected <= tolerance * jnp.maximum(1.0, before)
        status = jnp.where(converged, Status.CONVERGED, jnp.where(stalled >= STALL_LIMIT, Status.NO_DECREASE, Status.RUNNING))
        status = jnp.where(jnp.isfinite(expected), status, Status.NOT_FINITE)
        chosen = jnp.clip(jnp.where(better, dampings[best], state.damping * DAMPING_GROWTH), 1e-4, 1e12)
        pick = jnp.where(better, best, 0)
        return LeastSquaresState(
            jnp.where(better, state.z + steps[pick], state.z),
            {name: jnp.where(better, values[pick], state.terms[name]) for name, values in trials.items()},
            chosen, stalled, status, state.counts + work + Counts.of(forward=len(steps)))

    return jax.lax.cond(state.status == Status.RUNNING, advance, lambda state: state, state)


class FirstOrderState(eqx.Module):
    """State of an optax optimiser at z with J by term and its gradient there, and the best point so far with the square of its gradient."""

    z: Array
    terms: dict[str, Array]
    gradient: Array
    best_z: Array
    best_terms: dict[str, Array]
    best_slope: Array
    inner: optax.OptState
    stalled: Array
    status: Array
    counts: Counts


class LBFGS(AbstractGradientSolver):
    """Limited-memory BFGS with a zoom line search (optax.lbfgs; Nocedal & Wright 2006, algorithms 7.5 and 3.5).

    `tolerance`: stop when |dJ/dz|^2 / 2 is below it (relative to J above 1), an upper bound of the expected decrease,
    since the prior bounds the Hessian from below by the identity. `memory`: pairs kept.
    """

    tolerance: float = eqx.field(static=True, default=1e-8)
    memory: int = eqx.field(static=True, default=20)
    default_max_steps: int = eqx.field(static=True, default=500)
    steps_per_call: int = eqx.field(static=True, default=5)

    @property
    def optimiser(self):
        """The optax optimiser."""
        return optax.lbfgs(memory_size=self.memory)

    def init(self, problem, z):
        return _first_order_start(problem, z, self.optimiser)

    def step(self, problem, state):
        def update(state):
            value, gradient = sum(state.terms.values()), state.gradient
            updates, inner = self.optimiser.update(gradient, state.inner, state.z, value=value, grad=gradient, value_fn=problem.cost)
            z = optax.apply_updates(state.z, updates)
            # The line search has been where it ends, but knows nothing of terms.
            work = Counts.of(forward=1, gradient=optax.tree.get(inner, "info").num_linesearch_steps)
            return z, problem.terms(z), optax.tree.get(inner, "grad"), inner, work

        return _first_order_step(state, update, self.tolerance, stall_limit=3)

    def progress(self, state):
        return Progress(state.best_z, state.best_terms, state.status, state.counts)


class Optax(AbstractGradientSolver):
    """Any optax optimiser: `Optax(optax.adam(1e-2))`. The best point seen is the result.

    `tolerance` as in `LBFGS`; first-order methods rarely reach it and end at `max_steps`. Runs of a line search inside
    the optimiser are not counted.
    """

    optimiser: optax.GradientTransformation
    tolerance: float = eqx.field(static=True, default=1e-8)
    default_max_steps: int = eqx.field(static=True, default=5000)
    steps_per_call: int = eqx.field(static=True, default=50)

    def init(self, problem, z):
        return _first_order_start(problem, z, self.optimiser)

    def step(self, problem, state):
        def update(state):
            # Those with a line search need more than the gradient.
            update = optax.with_extra_args_support(self.optimiser).update
            value = sum(state.terms.values())
            updates, inner = update(state.gradient, state.inner, state.z, value=value, grad=state.gradient, value_fn=problem.cost)
            z = optax.apply_updates(state.z, updates)
            # J and its gradient come from one sweep, and serve the next iteration.
            _, gradient, terms = evaluate(problem, z)
            return z, terms, gradient, inner, Counts.of(gradient=1)

        return _first_order_step(state, update, self.tolerance, stall_limit=self.default_max_steps)

    def progress(self, state):
        return Progress(state.best_z, state.best_terms, state.status, state.counts)


def _first_order_start(problem, z, optimiser):
    value, gradient, terms = evaluate(problem, z)
    status = jnp.where(jnp.isfinite(value) & jnp.all(jnp.isfinite(gradient)), Status.RUNNING, Status.NOT_FINITE)
    return FirstOrderState(
        z, terms, gradient, z, terms, gradient @ gradient, optimiser.init(z), jnp.asarray(0), status, Counts.of(gradient=1))


def _first_order_step(state, update, tolerance, stall_limit):
    def advance(state):
        z, terms, gradient, inner, work = update(state)
        cost, best, slope = sum(terms.values()), sum(state.best_terms.values()), gradient @ gradient
        better = is_better(cost, slope, best, state.best_slope)
        stalled = jnp.where(better, 0, state.stalled + 1)
        keep = (z, terms, slope), (state.best_z, state.best_terms, state.best_slope)
        best_z, best_terms, best_slope = jax.tree.map(lambda new, old: jnp.where(better, new, old), *keep)
        small = 0.5 * best_slope <= tolerance * jnp.maximum(1.0, sum(best_terms.values()))
        status = jnp.where(small, Status.CONVERGED, jnp.where(stalled >= stall_limit, Status.NO_DECREASE, Status.RUNNING))
        # J has left what can be run.
        status = jnp.where(jnp.all(jnp.isfinite(gradient)), status, Status.NO_DECREASE)
        return FirstOrderState(z, terms, gradient, best_z, best_terms, best_slope, inner, stalled, status, state.counts + work)

    return jax.lax.cond(state.status == Status.RUNNING, advance, lambda state: state, state)


def is_better(cost: Array, slope: Array, best: Array, best_slope: Array) -> Array:
    """Whether J is lower, or the same to rounding with a smaller square of the gradient, which sees the minimum where J is flat."""
    rounding = 1e-13 * jnp.abs(best)
    return (cost < best - rounding) | ((cost <= best + rounding) & (slope < best_slope))


class MultiStartState(eqx.Module):
    """States of all starts (leading axis), J at each start, iterations done."""

    starts: Any
    first: Array
    iterations: Array


class MultiStart(AbstractGradientSolver):
    """Many starts of one solver; the result is the best end.

    `number` starts: the first guess, and the lowest-J of `candidates` points of a Latin hypercube of the prior
    (`candidates=None`: no selection, the hypercube has `number - 1` points). After `explore` iterations only the
    `finalists` lowest go on (`explore=None`: all go on to their end). `Result.details` keeps the start and the
    end of each (`start_cost`, `end_cost`, `end_z`, `end_status`), because their spread tells how rough J is.

    `batch_size` starts are run together by vmap, the others after them. Without it that is all on an accelerator and one on
    a CPU, where the tangents of one start fill the vector units already and finished starts then cost nothing. On a problem that
    is spread over devices (`problem.spread()`) each of them runs a share of the starts, `batch_size` at a time.
    """

    solver: AbstractGradientSolver
    number: int = eqx.field(static=True, default=16)
    candidates: int | None = eqx.field(static=True, default=256)
    explore: int | None = eqx.field(static=True, default=None)
    finalists: int = eqx.field(static=True, default=3)
    batch_size: int | None = eqx.field(static=True, default=None)

    @property
    def default_max_steps(self):
        """That of the solver."""
        return self.solver.default_max_steps

    @property
    def steps_per_call(self):
        """That of the solver."""
        return self.solver.steps_per_call

    def starts(self, problem, z0, key, failed):
        if key is None:
            raise ValueError(complain("a seed or key for a solver that draws its starts", "key=None", "solve(problem, solver, key=0)"))
        from scipy.stats import qmc  # here, because scipy.stats takes a second to import

        wanted = self.number - 1
        seed = int(jax.random.bits(key, dtype=jnp.uint32))
        design = qmc.LatinHypercube(problem.space.size, rng=np.random.default_rng(seed)).random(max(wanted, self.candidates or 0))
        tried = run_costs(problem, ndtri(design), failed)
        Z, cost = tried.z[tried.finished], tried.cost[tried.finished]
        Z = Z[np.argsort(cost)[:wanted]] if self.candidates else Z
        return Starts(jnp.concatenate([z0[None], jnp.asarray(Z)]), tried.runs, tried.failures)

    def init(self, problem, z):
        states = jax.vmap(lambda z: self.solver.init(problem, z))(z)
        return MultiStartState(states, self._costs(states), jnp.asarray(0))

    def step(self, problem, state):
        def advance(states):
            most = len(jax.tree.leaves(states)[0])
            size = min(self.batch_size or (1 if jax.default_backend() == "cpu" else most), most)
            # With a batch of one lax.map stays a loop, in which a finished start is skipped.
            return jax.lax.map(lambda one: self.solver.step(problem, one), states, batch_size=size if size > 1 else None)

        starts = (advance if problem.mesh is None else devices.divided(advance, problem.mesh))(state.starts)
        state = MultiStartState(starts, state.first, state.iterations + 1)
        return state if self.explore is None else self._select(state)

    def _select(self, state):
        """Leave all but the finalists once the exploration is over."""
        rank = jnp.argsort(jnp.argsort(self._costs(state.starts)))
        running = state.starts.status == Status.RUNNING
        leave = (state.iterations == self.explore) & (rank >= self.finalists) & running
        return eqx.tree_at(lambda s: s.starts.status, state, jnp.where(leave, Status.LEFT, state.starts.status))

    def _costs(self, states):
        costs = sum(jax.vmap(self.solver.progress)(states).terms.values())
        return jnp.where(jnp.isfinite(costs), costs, jnp.inf)

    def progress(self, state):
        shown = jax.vmap(self.solver.progress)(state.starts)
        best = jnp.argmin(self._costs(state.starts))
        running = jnp.any(shown.status == Status.RUNNING)
        return Progress(
            shown.z[best], {name: values[best] for name, values in shown.terms.items()},
            jnp.where(running, Status.RUNNING, shown.status[best]), jax.tree.map(jnp.sum, shown.counts))

    def details(self, state):
        shown = jax.vmap(self.solver.progress)(state.starts)
        return {"start_cost": np.asarray(state.first), "end_cost": np.asarray(self._costs(state.starts)),
                "end_z": np.asarray(shown.z), "end_status": np.asarray(shown.status)}
