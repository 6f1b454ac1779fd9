"""Resilient propagation: steps by the sign of each derivative, for the first part of the way from a poor first guess.

Far from the minimum J of a land model differs by orders of magnitude between directions, and its gradient says how steep each one is, not
how far it goes. Resilient propagation takes from it the signs alone. It serves where a handful of gradients has to bring most of the way
(`benchmarks/first_guesses.py`); near the minimum a Gauss-Newton method is far better: `solve(problem, LevenbergMarquardt(), z0=result)`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from landcal_jax.gradient import is_better
from landcal_jax.problem import evaluate
from landcal_jax.solvers import AbstractGradientSolver, Counts, Progress, Status


class ResilientState(eqx.Module):
    """z with the gradient there, the step of each parameter, the best point so far with the square of its gradient, status, work."""

    z: Array
    gradient: Array
    step: Array
    best_z: Array
    best_terms: dict[str, Array]
    best_slope: Array
    status: Array
    counts: Counts


class Rprop(AbstractGradientSolver):
    """Resilient propagation: each parameter moves by its own step against the sign of its derivative.

    A step grows by `longer` while the sign stays and shrinks by `shorter` when it changes, after which the parameter waits for one
    iteration (iRprop-; Riedmiller & Braun 1993, IEEE International Conference on Neural Networks, 586; Igel & Huesken 2003,
    Neurocomputing 50, 105). `first` and `longest`: steps in standard deviations of the prior. An iteration is one value with its
    gradient. `tolerance` as in `LBFGS`; it also ends when every step is below `shortest`.
    """

    first: float = eqx.field(static=True, default=0.1)
    longest: float = eqx.field(static=True, default=1.0)
    shortest: float = eqx.field(static=True, default=1e-6)
    longer: float = eqx.field(static=True, default=1.2)
    shorter: float = eqx.field(static=True, default=0.5)
    tolerance: float = eqx.field(static=True, default=1e-8)
    default_max_steps: int = eqx.field(static=True, default=2000)
    steps_per_call: int = eqx.field(static=True, default=1)

    def init(self, problem, z):
        _, gradient, terms = evaluate(problem, z)
        good = jnp.isfinite(sum(terms.values())) & jnp.isfinite(gradient).all()
        status = jnp.where(good, Status.RUNNING, Status.NOT_FINITE)
        return ResilientState(z, gradient, jnp.full(z.shape, self.first), z, terms, gradient @ gradient, status, Counts.of(gradient=1))

    def step(self, problem, state):
        return jax.lax.cond(state.status == Status.RUNNING, lambda state: self._advance(problem, state), lambda state: state, state)

    def progress(self, state):
        return Progress(state.best_z, state.best_terms, state.status, state.counts)

    def _advance(self, problem, state):
        z = state.z - state.step * jnp.sign(state.gradient)
        _, gradient, terms = evaluate(problem, z)
        cost, lowest = sum(terms.values()), sum(state.best_terms.values())
        good = jnp.isfinite(cost) & jnp.isfinite(gradient).all()
        same, slope = gradient * state.gradient, gradient @ gradient
        factor = jnp.where(same > 0, self.longer, jnp.where(same < 0, self.shorter, 1.0))
        # Where the model cannot run the steps were too long: the next ones begin at the same point, shorter.
        step = jnp.where(good, jnp.minimum(state.step * factor, self.longest), state.step * self.shorter)
        small = 0.5 * slope <= self.tolerance * jnp.maximum(1.0, cost)
        ended = jnp.where(jnp.max(step) < self.shortest, Status.NO_DECREASE, Status.RUNNING)
        better = good & is_better(cost, slope, lowest, state.best_slope)
        keep = (z, terms, slope), (state.best_z, state.best_terms, state.best_slope)
        best_z, best_terms, best_slope = jax.tree.map(lambda new, old: jnp.where(better, new, old), *keep)
        # After a change of sign the parameter waits: its next derivative is compared with none.
        waiting = jnp.where(same < 0, 0.0, gradient)
        return ResilientState(
            jnp.where(good, z, state.z), jnp.where(good, waiting, state.gradient), step, best_z, best_terms, best_slope,
            jnp.where(good & small, Status.CONVERGED, ended), state.counts + Counts.of(gradient=1))
