"""Trajectories of Hamiltonian Monte Carlo on the posterior of a problem, of many chains in one compiled run.

A chain moves in coordinates u in which the posterior is nearly N(0, I); `Coordinates` has the map u -> z, and the density of u is that
of z times the volume of the map. `trajectories` moves an ensemble of chains by orbits of given lengths (Duane et al. 1987, Physics
Letters B 195, 216), which is what adaptation learns from; `no_u_turn` moves chains by the No-U-Turn sampler (Hoffman & Gelman 2014,
JMLR 15, 1593; multinomial, Betancourt 2017), whose trees are those of numpyro.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import devices as several
from landcal_jax.problem import Problem
from landcal_jax.turns import Turns

MAX_ENERGY_ERROR = 1000.0
"""A trajectory whose energy is wrong by more than this has diverged, as in Stan and numpyro."""


STRAIGHT = 1.6
"""|x| beyond which a bend is straight: z = 3.2 for the bend of flat priors."""


class Coordinates(eqx.Module):
    """u -> z in two steps: x = centre + root u, `centre` (n,), `root` (n, n), then each z = x + bend x^5, `bend` (n,).

    Data often determine products of parameters: a turnover rate times a pool. Where priors are log-uniform such ridges are straight
    in log theta, that is in Phi(z), and curved in z, where they force a sampler to steps less than half as long. With a bend, x is nearly
    linear in Phi(z) where most of the prior is, and no bound is in its way; z as a function of x needs no iteration. Beyond |x| =
    `STRAIGHT`, where hardly any prior is left, z goes on linearly: J would else rise so fast that trajectories diverge there.
    """

    centre: Array
    root: Array
    bend: Array
    turns: Turns | None = None
    """Periodic parameters, whose prior is summed over turns."""

    def z(self, u: Array) -> Array:
        """Where u (..., n) lies in whitened space."""
        x = self.centre + u @ self.root.T
        inner = jnp.clip(x, -STRAIGHT, STRAIGHT)
        return x + self.bend * (inner**5 + 5.0 * inner**4 * (x - inner))

    def log_volume(self, u: Array) -> Array:
        """log |dz/du| at u (n,), up to a constant."""
        return jnp.sum(jnp.log(self._slope(self.centre + u @ self.root.T)))

    def u(self, z: Array) -> Array:
        """The inverse of `z`."""
        return (straightened(z, self.bend) - self.centre) @ jnp.linalg.inv(self.root).T

    def _slope(self, x: Array) -> Array:
        return 1.0 + 5.0 * self.bend * jnp.clip(x, -STRAIGHT, STRAIGHT) ** 4


@jax.jit
def straightened(z: Array, bend: Array) -> Array:
    """x of z, both (..., n), the inverse of a bend: by Newton's method from above, where it converges without fail."""
    size = jnp.abs(z)
    edge, slope = STRAIGHT + bend * STRAIGHT**5, 1.0 + 5.0 * bend * STRAIGHT**4
    near = jnp.minimum(size, edge)
    x = jax.lax.fori_loop(0, 30, lambda _, x: x - (x + bend * x**5 - near) / (1.0 + 5.0 * bend * x**4), jnp.minimum(near, STRAIGHT))
    return jnp.sign(z) * (x + (size - near) / slope)


class Draws(NamedTuple):
    """What `no_u_turn` gives, (draw, chain) each, `u` (draw, chain, n): energy there, leapfrog steps, acceptance, whether it diverged."""

    u: Array
    energy: Array
    steps: Array
    acceptance: Array
    diverging: Array


def by_chains(function, problem: Problem, *arrays: Array):
    """`function` of one chain, for all of them: on the devices among which the problem is spread."""
    many = jax.vmap(function)
    return many(*arrays) if problem.mesh is None else several.divided(many, problem.mesh)(*arrays)


def energy_of(problem: Problem, coordinates: Coordinates, u: Array) -> Array:
    """Minus the log density of u (n,), up to a constant: J less `extra_of`."""
    return problem.cost(coordinates.z(u)) - extra_of(problem, coordinates, u)


def extra_of(problem: Problem, coordinates: Coordinates, u: Array) -> Array:
    """What the log density of u (n,) has beside -J: the volume of the map, and the prior of other turns."""
    turns = 0.0 if coordinates.turns is None else coordinates.turns.log_mass(problem.space, coordinates.z(u))
    return coordinates.log_volume(u) + turns


@eqx.filter_jit
def trajectories(problem: Problem, coordinates: Coordinates, z: Array, step: Array, lengths: Array, key: Array) -> tuple[Array, Array]:
    """Move chains z (chain, n) along one orbit after another, `lengths` (orbit,) leapfrog steps each.

    Returns z after each orbit (chain, orbit, n), and the acceptance probabilities (chain, orbit). All chains make as many steps, so
    that none waits; each has a step size of its own within a fifth of `step`.
    """
    def energy_and_slope(u):
        value, slope = jax.value_and_grad(lambda u: energy_of(problem, coordinates, u))(u)
        return jnp.where(jnp.isfinite(value), value, jnp.inf), slope

    def orbit(carry, inputs):
        u, energy, slope = carry
        length, seed = inputs
        of_momentum, of_choice, of_step = jax.random.split(jax.random.wrap_key_data(seed), 3)
        momentum = jax.random.normal(of_momentum, u.shape, u.dtype)
        size = step * jax.random.uniform(of_step, (), u.dtype, 0.8, 1.2)

        def leap(_, state):
            u, momentum, _, slope = state
            momentum = momentum - 0.5 * size * slope
            u = u + size * momentum
            energy, slope = energy_and_slope(u)
            return u, momentum - 0.5 * size * slope, energy, slope

        there = jax.lax.fori_loop(0, length, leap, (u, momentum, energy, slope))
        excess = there[2] + 0.5 * there[1] @ there[1] - energy - 0.5 * momentum @ momentum
        acceptance = jnp.where(jnp.isnan(excess), 0.0, jnp.exp(-jnp.maximum(excess, 0.0)))
        taken = jax.random.uniform(of_choice, (), u.dtype) < acceptance
        carry = tuple(jnp.where(taken, new, old) for new, old in zip((there[0], *there[2:]), carry, strict=True))
        return carry, (carry[0], acceptance)

    def chain(u, seeds):
        energy, slope = energy_and_slope(u)
        return jax.lax.scan(orbit, (u, energy, slope), (lengths, seeds))[1]

    number = len(z) * len(lengths)
    seeds = jax.random.key_data(jax.random.split(key, number)).reshape(len(z), len(lengths), -1)
    u, acceptance = by_chains(chain, problem, coordinates.u(z), seeds)
    return coordinates.z(u), acceptance


@eqx.filter_jit
def no_u_turn(problem: Problem, coordinates: Coordinates, u: Array, step: Array, key: Array, draws: int, depth: int) -> Draws:
    """`draws` draws of each chain from where it is, u (chain, n), with `step` and trees of at most 2^`depth` - 1 leapfrog steps."""
    from numpyro.infer.hmc_util import IntegratorState, build_tree, euclidean_kinetic_energy, velocity_verlet

    n = u.shape[1]
    mass = jnp.ones(n, u.dtype)

    def potential(u):
        value = energy_of(problem, coordinates, u)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    begin, advance = velocity_verlet(potential, euclidean_kinetic_energy)

    def draw(state, seed):
        of_momentum, of_tree = jax.random.split(jax.random.wrap_key_data(seed))
        state = state._replace(r=jax.random.normal(of_momentum, (n,), u.dtype))
        tree = build_tree(advance, euclidean_kinetic_energy, state, mass, step, of_tree, MAX_ENERGY_ERROR, depth)
        state = IntegratorState(tree.z_proposal, state.r, tree.z_proposal_pe, tree.z_proposal_grad)
        acceptance = tree.sum_accept_probs / tree.num_proposals
        return state, Draws(tree.z_proposal, tree.z_proposal_pe, tree.num_proposals, acceptance, tree.diverging)

    def chain(u, seeds):
        return jax.lax.scan(draw, begin(u, jnp.zeros(n, u.dtype)), seeds)[1]

    seeds = jax.random.key_data(jax.random.split(key, len(u) * draws)).reshape(len(u), draws, -1)
    return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), by_chains(chain, problem, u, seeds))


def depth_of(steps: np.ndarray) -> np.ndarray:
    """Depth of the trees with so many leapfrog steps: an incomplete last doubling counts."""
    return np.ceil(np.log2(np.asarray(steps) + 1)).astype(int)
