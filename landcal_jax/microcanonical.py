"""Microcanonical Langevin Monte Carlo: a walker of constant speed that is steered by the gradient of J.

    dz = u dt,      du = (1 - u u') (-grad J / (n - 1)) dt + noise,      |u| = 1

One step costs two gradients, all of which move the chain: there are no trajectories that are thrown away, and nothing is ever rejected
(Robnik, De Luca, Silverstein and Seljak 2023, Journal of Machine Learning Research 24, 311; Robnik and Seljak 2023, arXiv:2303.18221).
That makes it the cheapest chain by the gradient where there are many parameters, and leaves a bias that the step size sets: it is
tuned to a variance of the energy of 5e-4 a parameter (Robnik et al. 2023), which on a Gaussian leaves a bias below the
Monte Carlo error of a thousand independent draws. Where J has kinks and narrow places the same variance hides more: compare the
spread of its draws with those of `nuts` or `smc`, which have no such bias.

Without tuning it is of no use (7 effective draws of 4,000 at a flux tower). It is run in the coordinates in which the Laplace
approximation is N(0, I), and blackjax's tuner (three stages of equal length: step size, variances, length of memory) does the rest.
"""

import math
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import checkpoint as checkpoints
from landcal_jax import progress as progress_line
from landcal_jax.covariance import root_of
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.laplace import check_draws
from landcal_jax.particles import counts_of
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem, costs
from landcal_jax.sampling import start_of
from landcal_jax.solvers import Result
from landcal_jax.solving import Clock

GRADIENTS = 2
"""Gradients of one step of the integrator (McLachlan's of second order)."""
ENERGY = 5e-4
"""Variance of the energy a step and parameter that the step size is tuned to."""
AGREE = 4.0
"""A variance of the energy this many times as large as that is said in the note."""
PIECES = 20
"""Into which the draws are divided, so that progress can be shown."""
NAMES = ("position", "momentum", "log_density_of_walker", "gradient", "length", "step", "variances", "z", "log_density", "energy", "lost",
         "thin", "tried", "steps", "seconds_warmup")
"""Of the state of a run: four arrays of the walkers, three of the tuner, four of the draws, and numbers."""


class _Tuned(NamedTuple):
    """What the tuner found: length of memory and step size, in the coordinates of Laplace over the roots of `variances` (n,)."""

    length: Array
    step: Array
    variances: Array


def mclmc(
    problem: Problem,
    result: Result | Array,
    *,
    chains: int = 4,
    draws: int = 1000,
    warmup: int | None = None,
    thin: int | None = None,
    key: Array | int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
    posterior: Posterior | None = None,
) -> Posterior:
    """Draws from the posterior by tuned microcanonical Langevin Monte Carlo, unadjusted.

    `result`: a Result, or z (n,), at the minimum. `posterior`: the Gaussian there that gives the chains their coordinates,
    `laplace(problem, result)` without it (by the full Hessian where errors are parameters). `chains` run side by side; `draws` are
    kept of each, every `thin`-th step, by default as many as take the walker to forget its direction. `warmup`: steps of the tuner,
    150 for each root of the number of parameters and at least 1,500 without it. `checkpoint`, `checkpoint_seconds`: see `nuts`; the tuner
    runs as a whole.

    `details` of the posterior: `log_density` (draw,), `forward` and `gradient` (model runs, warm-up included), `step`, `length` and `thin`
    as tuned, `energy_variance`, that of the energy a step and parameter over the run, `failed`, the steps that left the
    region where J is finite and were taken back, seconds, a `note`, and a `warning` where the bias may be large.

    Raises TypeError for a forward map without derivatives that JAX compiles, ValueError for fewer than two parameters, or where the
    tuner finds no step size, or for a checkpoint of another run.
    """
    problem.require_gradient("mclmc")
    _check(problem, chains, draws)
    warmup = max(1500, int(150 * math.sqrt(problem.space.size))) if warmup is None else warmup
    key, posterior = key_of(key), start_of(problem, result, posterior)
    run = _Run(problem, posterior.centre, jnp.asarray(root_of(posterior.covariance)), (chains, draws, warmup, thin), key,
               checkpoint, checkpoint_seconds)
    return progress_line.sampled(run, run.begin, progress and problem.speaks, "part")


class _Run:
    """One run on its way: the tuner, then pieces of draws. All that it is made of lies in `state`, arrays by name; see `sampling`."""

    def __init__(self, problem, centre, root, options, key, file, every):
        self.problem, self.centre, self.root, self.key, self.every = problem, centre, root, key, every
        self.chains, self.draws, self.warmup, self.thin = options
        self.belongs_to = "" if file is None else checkpoints.fingerprint(problem, ("mclmc", *options), centre, root, key)
        self.file, self.clock, self.spent = None if file is None else Path(file), Clock(), {}
        self.state, self.saved, self.saved_at, self.piece = {}, None, 0.0, -(-self.draws // PIECES)

    @property
    def done(self) -> int:
        """Pieces so far."""
        return self.state["z"].shape[1] // self.piece if self.state else 0

    @property
    def finished(self) -> bool:
        return self.done * self.piece >= self.draws

    def shown(self) -> tuple[int, int, dict[str, float]]:
        """Pieces so far, all of them, and the median of J."""
        return self.done, -(-self.draws // self.piece), {"median J": float(np.median(-self.state["log_density"][:, -self.piece:]))}

    def begin(self) -> None:
        """Tune the chains, or take what the file has."""
        found = None if self.file is None else checkpoints.load(self.file, self.belongs_to, shared=self.problem.shared)
        if found is not None:
            self.state, self.spent, self.saved = dict(zip(NAMES, found.leaves, strict=True)), found.seconds, found.done
            return
        of_start, of_tuning, _ = jax.random.split(self.key, 3)
        w, tried = _start(self.problem, self.centre, self.root, self.chains, of_start)
        walkers, tuned, steps = _tune(self.problem, self.centre, self.root, w, jax.random.split(of_tuning, self.chains), self.warmup)
        tuned, none = _agreed(tuned), np.zeros((self.chains, 0))
        thin = max(1, round(float(tuned.length / tuned.step))) if self.thin is None else self.thin
        kept = (np.zeros((self.chains, 0, len(self.centre))), none, none, none.astype(int))
        numbers = (thin, tried, steps, self.seconds()["run"])
        self.state = dict(zip(NAMES, map(np.asarray, (*walkers, *tuned, *kept, *numbers)), strict=True))

    def advance(self) -> None:
        """One piece of draws of all chains."""
        import blackjax

        state = self.state
        keys = jax.random.split(jax.random.fold_in(jax.random.split(self.key, 3)[2], self.done), self.chains)
        walkers = blackjax.mcmc.mclmc.IntegratorState(*(jnp.asarray(state[name]) for name in NAMES[:4]))
        tuned = _Tuned(*(jnp.asarray(state[name]) for name in NAMES[4:7]))
        walkers, part = _run(self.problem, self.centre, self.root, walkers, keys, tuned, jnp.asarray(state["thin"]), self.piece)
        added = {name: np.concatenate([state[name], new], axis=1) for name, new in zip(NAMES[7:11], part, strict=True)}
        self.state = state | dict(zip(NAMES[:4], map(np.asarray, walkers), strict=True)) | added
        if self.file is not None and self.clock.seconds()["run"] - self.saved_at > self.every:
            self.save()

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def save(self) -> None:
        if self.file is None or not self.state or self.saved == self.done or not self.problem.speaks:
            return
        shape = self.state["position"].shape
        checkpoints.save(self.file, self.belongs_to, shape, list(self.state.values()), self.done, {}, self.seconds())
        self.saved, self.saved_at = self.done, self.clock.seconds()["run"]

    def posterior(self) -> Posterior:
        problem, state, seconds, n = self.problem, self.state, self.seconds(), len(self.centre)
        z, log_density, energy, lost = (state[name][:, : self.draws] for name in NAMES[7:11])
        constants = float(problem.log_density(self.centre) + problem.cost(self.centre))
        variance, thin, warm = float(np.mean(energy) / n), int(state["thin"]), float(state["seconds_warmup"])
        gradients = self.chains * (1 + GRADIENTS * (int(state["steps"]) + self.done * self.piece * thin))
        details = {
            "log_density": constants + log_density.reshape(-1), **counts_of(problem, int(state["tried"]), gradients),
            "starts": "about one minimum of J", "step": float(state["step"]), "length": float(state["length"]), "thin": thin,
            "energy_variance": variance, "failed": int(lost.sum()),
            "seconds_compile": seconds["compile"], "seconds_warmup": warm, "seconds_run": seconds["run"] - warm,
            **_notes(variance, int(lost.sum()), thin)}
        return from_draws(problem, z.reshape(-1, n), method=f"MCLMC ({self.chains} chains, unadjusted)", chains=self.chains,
                          centre=self.centre, details=details)


def _check(problem: Problem, chains: int, draws: int) -> None:
    """Complain of a model that JAX does not compile, and of numbers that are too small."""
    if not problem.forward.traceable:
        raise TypeError(complain("a gradient that JAX compiles for mclmc", problem.forward.description, "smc(problem)"))
    check_draws(draws, 4)
    if problem.space.size < 2 or chains < 1:
        raise ValueError(complain("two parameters and one chain, or more", f"{problem.space.size} and {chains}",
                                  "nuts(problem, result)"))


def _notes(variance: float, lost: int, thin: int) -> dict[str, str]:
    """A `note` of how it went, and a `warning` where the bias may be large."""
    notes, warned = [f"unadjusted: its bias is that of the step size; one draw every {thin} steps"], {}
    if variance > AGREE * ENERGY:
        said = (f"the energy varies {variance / ENERGY:.0f} times as much as was asked for: J has kinks or narrow places that the tuner "
                "did not see, and the bias may be large: compare nuts() or smc()")
        notes.append(said)
        warned = {"warning": f"T{said[1:]}."}
    if lost:
        notes.append(f"{lost} steps left the region where J is finite, and were taken back")
    return {"note": "; ".join(notes)} | warned


def _start(problem: Problem, centre, root, chains: int, key: Array) -> tuple[Array, int]:
    """Starts (chain, n) in the coordinates of Laplace, and the runs that took.

    Draws of a Gaussian that fits J badly can lie where the chain would never come, and its first steps would be as small as they are
    there. So each is drawn back to the centre until J has risen by no more than the number of parameters, twice what is usual.
    """
    w, runs = np.asarray(jax.random.normal(key, (chains, len(centre)))), 0
    highest = float(problem.cost(centre)) + len(centre)
    for _ in range(20):
        J = costs(problem, np.asarray(centre + w @ root.T))
        runs += chains
        high = ~(J <= highest)
        if not high.any():
            break
        w = np.where(high[:, None], 0.5 * w, w)
    return jnp.asarray(w), runs


def _log_density(problem: Problem, centre: Array, root: Array):
    return lambda w: -problem.cost(centre + root @ w)


@eqx.filter_jit
def _tune(problem: Problem, centre: Array, root: Array, w: Array, keys: Array, warmup: int):
    """States of the chains after the tuner, what it found for each, and its steps."""
    import blackjax  # here, because most users of the package never sample

    log_density, kernel = _log_density(problem, centre, root), blackjax.mclmc.build_kernel()
    share = 1.0 / (3 + 1 / 3)  # its second stage is a third longer than it says

    def one(w, key):
        of_state, of_tuner = jax.random.split(key)
        return blackjax.mclmc_find_L_and_step_size(
            mclmc_kernel=kernel, num_steps=warmup, state=blackjax.mclmc.init(w, log_density, of_state), rng_key=of_tuner,
            logdensity_fn=log_density, frac_tune1=share, frac_tune2=share, frac_tune3=share, desired_energy_var=ENERGY)

    states, tuned, steps = jax.vmap(one, out_axes=(0, 0, None))(w, keys)
    return states, _Tuned(tuned.L, tuned.step_size, tuned.inverse_mass_matrix), steps


def _agreed(tuned: _Tuned) -> _Tuned:
    """One tuning for all chains, the median of theirs, so that a chain that began badly does not stay behind."""
    agreed = jax.tree.map(lambda leaf: jnp.median(leaf, axis=0), tuned)
    if not all(np.isfinite(leaf).all() and (np.asarray(leaf) > 0).all() for leaf in agreed):
        raise ValueError(complain("a step size, a length and variances above zero from the tuner", f"{agreed}",
                                  "a longer warmup, a result at a minimum, or nuts(problem, result)"))
    return agreed


@eqx.filter_jit
def _run(problem: Problem, centre: Array, root: Array, states, keys: Array, tuned: _Tuned, thin: Array, draws: int):
    """States after `draws` more of each chain; these z (chain, draw, n), -J, mean squares of energy errors, steps taken back."""
    import blackjax

    log_density, kernel = _log_density(problem, centre, root), blackjax.mclmc.build_kernel()

    def draw(state, key):
        def step(number, carry):
            state, energy, lost = carry
            state, info = kernel(jax.random.fold_in(key, number), state, log_density, tuned.variances, tuned.length, tuned.step)
            return state, energy + info.energy_change**2, lost + ~info.nonans

        state, energy, lost = jax.lax.fori_loop(0, thin, step, (state, jnp.asarray(0.0), jnp.asarray(0)))
        return state, (centre + root @ state.position, state.logdensity, energy / thin, lost)

    return jax.vmap(lambda state, key: jax.lax.scan(draw, state, jax.random.split(key, draws)))(states, keys)
