"""Particles of tempered Monte Carlo and what moves them: see `smc`, which is the way they go.

Each knows its misfit J + log p_0 and the gradient of that, so that its density at any power t needs no new run.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from landcal_jax import devices as several
from landcal_jax import progress as progress_line
from landcal_jax.errors import complain
from landcal_jax.laplace import laplace
from landcal_jax.problem import Problem, costs
from landcal_jax.solvers import Result

BATCH = 64
"""Particles in one compiled run: a larger batch of a land model is no faster a particle, and takes more memory."""
ACCEPTANCE = {"hmc": 0.7, "random walk": 0.234}
MOST_STEPS = 64
"""Steps of one trajectory at most."""
JITTER = (0.6, 1.1)
"""Range of the step sizes of single particles over their common one: no orbit fits them all. Much beyond a quarter turn particles end on
the other side of the cloud, at the height they came from: their positions seem to forget, J does not."""
LARGEST = 0.25 * math.pi
"""Largest step: a quarter turn takes two at least."""


class Reference(eqx.Module):
    """Where the particles come from: a mixture of Gaussians, `centres` (k, n) and `roots` (k, n, n) of their covariances."""

    centres: Array
    roots: Array

    def draw(self, key: Array, number: int) -> np.ndarray:
        """Draws (number, n), as many of each Gaussian."""
        noise = jax.random.normal(key, (number, self.centres.shape[1]))
        which = jnp.arange(number) % len(self.centres)
        return np.asarray(self.centres[which] + jnp.einsum("pij,pj->pi", self.roots[which], noise))

    def log_density(self, z: Array) -> Array:
        """At z (n,), without the n/2 log 2 pi that J lacks too."""
        def one(centre, root):
            scaled = jax.scipy.linalg.solve_triangular(root, z - centre, lower=True)
            return -0.5 * scaled @ scaled - jnp.sum(jnp.log(jnp.diagonal(root)))

        return jax.scipy.special.logsumexp(jax.vmap(one)(self.centres, self.roots)) - math.log(len(self.centres))


class State(eqx.Module):
    """Particles on their way.

    `z`, `start` (particle, n): now, and when they were resampled; `misfit`, `first` (particle,): J + log p_0 now and then; `slope`
    (particle, n) its gradient now, (particle, 0) without; `power` t; `log_evidence`, of the powers so far; `step`: step size or scale;
    `trail` (most moves,): the correlation after each move at this power; `moves`, `runs`, `gradients`, `failed`: counts; `settled`:
    whether the particles have moved enough.
    """

    z: Array
    start: Array
    misfit: Array
    first: Array
    slope: Array
    power: Array
    log_evidence: Array
    step: Array
    trail: Array
    moves: Array
    runs: Array
    gradients: Array
    failed: Array
    settled: Array


def counts_of(problem: Problem, forward: int, gradient: int) -> dict[str, int]:
    """Runs of each kind, where gradients by finite differences are n + 1 runs each."""
    if problem.difference_step is None:
        return {"forward": forward, "gradient": gradient}
    return {"forward": forward + gradient * (problem.space.size + 1), "gradient": 0}


def temper(state: State, key: Array, target: float) -> tuple[State, float]:
    """The next power, with the particles resampled for it; and the effective sample size of the weights."""
    delta, weights, increment, ess = _weights(state.misfit, state.power, target)
    at = resampled(key, weights)
    power = jnp.where(state.power + delta >= 1.0, 1.0, state.power + delta)
    z, misfit = state.z[at], state.misfit[at]
    return State(z, z, misfit, misfit, state.slope[at], power, state.log_evidence + increment, state.step,
                  jnp.full_like(state.trail, jnp.nan), jnp.zeros_like(state.moves), state.runs, state.gradients, state.failed,
                  jnp.asarray(False)), float(ess)


@jax.jit
def _weights(misfit, power, target):
    from blackjax.smc import ess, solver  # here, because most users of the package never sample

    delta = ess.ess_solver(lambda values: values, -misfit, target, 1.0 - power, solver.dichotomy)
    logarithms = -delta * misfit
    total = jax.scipy.special.logsumexp(logarithms)
    return delta, jnp.exp(logarithms - total), total - jnp.log(len(misfit)), ess.ess(logarithms)


@jax.jit
def resampled(key: Array, weights: Array) -> Array:
    """Which particles (particle,) go on, by systematic resampling in proportion to `weights` (particle,), which sum to one."""
    from blackjax.smc.resampling import systematic

    return systematic(key, weights, len(weights))


@jax.jit
def memory_of(state: State) -> Array:
    """The largest correlation, of either sign, between what particles were and are: along the principal axes of their cloud, and of J.

    Or the share of particles that have not moved at all, where that is more.
    """
    axes = jnp.linalg.eigh(_covariance(state.start))[1]
    before, now = (jnp.column_stack([z @ axes, misfit]) for z, misfit in ((state.start, state.first), (state.z, state.misfit)))
    before, now = before - before.mean(axis=0), now - now.mean(axis=0)
    found = jnp.abs(jnp.sum(before * now, axis=0)) / jnp.sqrt(jnp.sum(before**2, axis=0) * jnp.sum(now**2, axis=0))
    return jnp.maximum(jnp.max(found), jnp.mean(jnp.all(state.start == state.z, axis=1)))


def _covariance(z: Array) -> Array:
    return jnp.cov(z.T).reshape(2 * z.shape[1:])


def move_by_gradient(problem: Problem, reference: Reference, state: State, key: Array) -> tuple[State, float]:
    """One trajectory of every particle, and the mean acceptance."""
    steps = min(math.ceil(0.5 * math.pi / float(state.step)), MOST_STEPS)
    size = min(float(state.step), 0.5 * math.pi / steps)
    keys = np.asarray(jax.random.key_data(jax.random.split(key, len(state.z))))
    rows = (keys, *(np.asarray(part) for part in (state.z, state.misfit, state.slope)))
    z, misfit, slope, acceptance = by_batches(
        _trajectories, problem, rows, reference, state.power, jnp.asarray(size), jnp.asarray(steps), _covariance(state.z))
    mean = float(acceptance.mean())
    return eqx.tree_at(
        lambda state: (state.z, state.misfit, state.slope, state.step, state.moves, state.gradients), state,
        (jnp.asarray(z), jnp.asarray(misfit), jnp.asarray(slope), jnp.minimum(size * math.exp(mean - ACCEPTANCE["hmc"]), LARGEST),
         state.moves + 1, state.gradients + steps * len(z))), mean


def walk(problem: Problem, reference: Reference, state: State, key: Array) -> tuple[State, float]:
    """One step of random-walk Metropolis of every particle, all of them in one batch of runs, and the mean acceptance."""
    of_step, of_choice = jax.random.split(key)
    root = jnp.linalg.cholesky(_covariance(state.z))
    proposed = state.z + state.step * jax.random.normal(of_step, state.z.shape) @ root.T
    found = costs(problem, np.asarray(proposed))
    finite = np.isfinite(found)
    before, then = (densities_of(reference, z) for z in (state.z, proposed))
    misfit = jnp.where(finite, found, jnp.inf) + then
    rise = before - then + state.power * (misfit - state.misfit)
    chance = jnp.exp(jnp.minimum(-rise, 0.0))
    taken = jax.random.uniform(of_choice, chance.shape) < chance
    mean = float(chance.mean())
    return eqx.tree_at(
        lambda state: (state.z, state.misfit, state.step, state.moves, state.runs, state.failed), state,
        (jnp.where(taken[:, None], proposed, state.z), jnp.where(taken, misfit, state.misfit),
         state.step * math.exp(2 * (mean - ACCEPTANCE["random walk"])), state.moves + 1,
         state.runs + len(found), state.failed + int((~finite).sum()))), mean


def reference_of(problem: Problem, near: Result | ArrayLike | None) -> Reference:
    """The prior, or what is half-way between it and Laplace at each minimum `near`."""
    n = problem.space.size
    if near is None:
        return Reference(jnp.zeros((1, n)), jnp.eye(n)[None])
    centres = jnp.atleast_2d(near.z if isinstance(near, Result) else jnp.asarray(near, float))
    if centres.ndim != 2 or centres.shape[1] != n:
        raise ValueError(complain(f"minima of shape ({n},) or (minimum, {n})", f"{jnp.shape(centres)}", "near=result"))
    roots, curvature = [], "gauss-newton" if problem.least_squares else "hessian"
    for centre in centres:
        values, vectors = np.linalg.eigh(np.asarray(laplace(problem, centre, curvature=curvature, draws=2).covariance))
        roots.append(np.linalg.cholesky((vectors * np.sqrt(values)) @ vectors.T))
    return Reference(centres, jnp.asarray(np.array(roots)))


@jax.jit
def densities_of(reference: Reference, Z: Array) -> Array:
    """Log density of the reference at particles Z (particle, n), (particle,)."""
    return jax.vmap(reference.log_density)(Z)


@eqx.filter_jit
def cost_and_slope(problem: Problem, rows: tuple, reference: Reference):
    """J, the misfit (J plus the log density of the reference) and its gradient for particles `rows` = (Z (particle, n),)."""
    def one(z):
        def misfit(z):
            cost = problem.cost(z)
            return cost + reference.log_density(z), cost

        (misfit, cost), slope = jax.value_and_grad(misfit, has_aux=True)(z)
        return cost, misfit, slope

    return _divided(jax.vmap(one), problem, rows)


@eqx.filter_jit
def _trajectories(problem: Problem, rows: tuple, reference: Reference, power, step, steps, covariance):
    from blackjax.mcmc import hmc

    kernel, start = hmc.build_kernel(), jax.value_and_grad(reference.log_density)

    def log_density(z):
        before = reference.log_density(z)
        return before - power * (problem.cost(z) + before)

    def one(key, z, misfit, slope):
        of_step, of_move = jax.random.split(jax.random.wrap_key_data(key))
        size = step * jax.random.uniform(of_step, minval=JITTER[0], maxval=JITTER[1])
        # What is known at this point serves any power: nothing is run again.
        before, uphill = start(z)
        here = hmc.HMCState(z, before - power * misfit, uphill - power * slope)
        there, info = kernel(of_move, here, log_density, size, covariance, steps)
        before, uphill = start(there.position)
        return (there.position, (before - there.logdensity) / power, (uphill - there.logdensity_grad) / power, info.acceptance_rate)

    return _divided(jax.vmap(one), problem, rows)


def _divided(function, problem, rows):
    return function(*rows) if problem.mesh is None else several.by_rows(function, problem.mesh)(*rows)


def by_batches(function, problem: Problem, rows: tuple, *shared):
    """`function(problem, rows, *shared)` for arrays with many rows, a batch at a time; the results as NumPy arrays."""
    devices = 1 if problem.mesh is None else problem.mesh.size
    number = len(rows[0])
    size = min(BATCH, -(-number // devices)) * devices
    # All are started before the first is waited for, so that they share the cores.
    parts = [function(problem, several.fill(tuple(jnp.asarray(part[start : start + size]) for part in rows), size), *shared)
             for start in range(0, number, size)]
    gathered = []
    for done, part in enumerate(parts, start=1):
        gathered.append(jax.tree.map(several.gathered, part))
        progress_line.members(min(done * size, number), number)
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:number], *gathered)
