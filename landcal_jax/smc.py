"""Tempered sequential Monte Carlo: particles that go from the prior to the posterior, in as many modes as it has.

Particles drawn from the prior of z follow the densities

    p_t(z)  ~  p_0(z) exp(-t (J(z) + log p_0(z))),        p_0 = N(0, I),        t = 0 (prior) ... 1 (posterior).

At each power t of the likelihood they are weighted, resampled, and moved by Markov steps that leave p_t as it is (Del Moral, Doucet and
Jasra 2006, Journal of the Royal Statistical Society B 68, 411). Where two modes part, each keeps its share of the particles, which no
chain that sits in one of them finds out. The product of the mean weights estimates the evidence of the model.

A mode that is deep but narrow holds few particles while t is small, and may lose them all: more particles find it, and a run with another
key, whose evidence is then higher, shows it. Where minima are known, p_0 is better a mixture of Gaussians about them (`near`).
Each has the covariance half-way, geometrically, between the prior and Laplace there: wider than the posterior, so that what is weighted
covers what is sought, and far nearer to it than the prior. Posterior and evidence are the same; modes far from all of them are not found.

What is chosen by the problem, and from which source:

* The powers: the next t is where the effective sample size of the weights falls to `ess` of the particles (Jasra et al. 2011,
  Scandinavian Journal of Statistics 38, 1). A density that is far from the prior takes more of them.
* The moves, with a gradient: Hamiltonian Monte Carlo with the covariance of the particles as the inverse mass matrix and
  trajectories of a quarter turn, pi/2, which take a Gaussian to an independent point (Neal 2011, Handbook of Markov Chain Monte
  Carlo, chapter 5; Buchholz, Chopin and Jacob 2021, Bayesian Analysis 16, 745). Step sizes vary from particle to particle; their mean
  goes to an acceptance of 0.7, which many particles measure almost without noise.
* The moves, without: random-walk Metropolis with that covariance, scaled to an acceptance of 0.234 (Roberts and Rosenthal 2001,
  Statistical Science 16, 351). All particles are run at once, as an external model wants it.
* How many: particles are moved until neither J nor any principal axis of their cloud remembers how it was when they were resampled: until
  the largest correlation with that is below `correlation` (Buchholz et al. 2021, section 3.3) and what chance adds to it, or no longer
  falls: separate modes remember for ever. Particles that are moved too little make the evidence noisier than its stated error.

The kernel of a trajectory, the search for t and the resampling are those of blackjax; the loop is not. Its own runs the model twice more
for each power, cannot see an external model, moves a number of times that is given, and keeps no checkpoint.
"""

import math
from pathlib import Path
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from landcal_jax import checkpoint as checkpoints
from landcal_jax import progress as progress_line
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.members import FailedRuns, run_costs
from landcal_jax.particles import (
    ACCEPTANCE,
    BATCH,
    LARGEST,
    State,
    by_batches,
    cost_and_slope,
    counts_of,
    densities_of,
    memory_of,
    move_by_gradient,
    reference_of,
    resampled,
    temper,
    walk,
)
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result
from landcal_jax.solving import Clock

NO_LONGER = 0.9
"""A correlation that is above this share of what it was half of the moves ago no longer falls."""


def smc(
    problem: Problem,
    *,
    near: Result | ArrayLike | None = None,
    particles: int | None = None,
    key: Array | int = 0,
    ess: float = 0.5,
    moves: Literal["hmc", "random walk"] | None = None,
    correlation: float = 0.1,
    most_moves: int | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
    failed: FailedRuns | None = None,
) -> Posterior:
    """Draws from the posterior by tempered sequential Monte Carlo: for several modes, for the evidence, and without gradients.

    `near`: one or several minima, a Result, z (n,) or (minimum, n), about which the particles begin instead of all over the prior; it
    takes a model with tangent-linear. `particles`: how many, which is the number of draws; 16 for each parameter and at least 512
    without it. `ess`: the effective sample size that decides the next power, as a share of the particles; nearer to 1 is slower and
    safer. `moves`: "hmc" where JAX has a gradient, else "random walk". `correlation`: the particles move until theirs with what they
    were is below it, at most `most_moves` times at one power (25, or 20 for each parameter by random walk). `failed`: its `limit` says
    how many of the first particles may fail; its rule has no part, since a point whose run fails has no likelihood, and none is moved.
    `checkpoint`: a file that keeps the particles, written at most every `checkpoint_seconds`; a run that finds it goes on from it and
    ends with the same bits.

    Returns a `Posterior` of equally weighted draws whose details are, beside `log_density` (draw,): `log_evidence`, the logarithm of
    the density of the observations with the parameters integrated out, and `log_evidence_error`, its standard error if the moves
    decorrelate; by power `power`, `ess`, `moves`, `acceptance`, `correlation`, `step`; `forward` and `gradient` (runs), `failed`
    (runs that gave no J), `seconds_compile`, `seconds_warmup` (0: the way from the prior is the method), `seconds_run`, a `note` and, where
    the particles did not move as they should, a `warning`.

    Raises ValueError for fewer than two particles a parameter or a checkpoint of another run, RuntimeError if too many draws of
    the prior fail, TypeError for "hmc" without a gradient that JAX compiles.
    """
    particles, moves, most_moves = _choices(problem, particles, ess, moves, correlation, most_moves)
    key = key_of(key)
    reference = reference_of(problem, near)
    belongs_to = "" if checkpoint is None else checkpoints.fingerprint(
        problem, ("smc", particles, ess, moves, correlation, most_moves, failed), reference, key)
    run = _Run(problem, reference, (particles, ess, moves, correlation, most_moves), key, checkpoint, belongs_to, checkpoint_seconds)
    return progress_line.sampled(run, lambda: run.begin(failed), progress and problem.speaks, "move")


class _Run:
    """One run on its way: the state, what happened at each power, and the file that keeps both."""

    def __init__(self, problem, reference, options, key, file, belongs_to, every):
        self.problem, self.reference, self.key, self.belongs_to, self.every = problem, reference, key, belongs_to, every
        self.particles, self.ess, self.kind, self.correlation, self.most_moves = options
        self.file, self.clock, self.state = None if file is None else Path(file), Clock(), None
        self.done, self.kept, self.spent, self.saved_at = 0, None, {}, 0.0
        self.history = {name: [] for name in ("power", "ess", "moves", "acceptance", "correlation", "step")}

    def begin(self, failed) -> None:
        """Draw the particles from the prior, or take them from the file."""
        n, number = self.problem.space.size, self.particles
        saved = None if self.file is None else checkpoints.load(self.file, self.belongs_to, shared=self.problem.shared)
        if saved is None:
            self.state = self._first(failed)
            return
        # The types that JAX has for these numbers now: without its 64 bits they are others than Python's.
        real, count = jnp.result_type(float), jnp.result_type(int)

        def shape(*sizes, of=real):
            return jax.ShapeDtypeStruct(sizes, of)

        each, slope, whole = shape(number), shape(number, n if self.kind == "hmc" else 0), shape(of=count)
        structure = State(shape(number, n), shape(number, n), each, each, slope, shape(), shape(), shape(), shape(self.most_moves),
                          whole, whole, whole, whole, shape(of=bool))
        self.state = checkpoints.restore(structure, saved.leaves, self.file)
        self.done, self.kept, self.spent = saved.done, saved.done, saved.seconds
        self.history = {name: values.tolist() for name, values in saved.history.items()}

    def _first(self, failed) -> State:
        of_start, of_failed = jax.random.split(self.key)
        Z, n = self.reference.draw(of_start, self.particles), self.problem.space.size
        if self.kind == "hmc":
            cost, misfit, slope = by_batches(cost_and_slope, self.problem, (Z,), self.reference)
            _require_finite(self.problem, Z, cost, failed)
        else:
            ran = _run_first(self.problem, Z, failed)
            misfit, slope = ran.cost + np.asarray(densities_of(self.reference, jnp.asarray(Z))), np.zeros((len(Z), 0))
        good = np.isfinite(misfit) & np.isfinite(slope).all(axis=1)
        at = np.arange(len(Z)) if good.all() else resampled(of_failed, good / good.sum())
        Z, misfit = Z[at], misfit[at]
        counts = (jnp.asarray(number) for number in (len(Z), len(Z) if self.kind == "hmc" else 0, int((~good).sum())))
        step = min(n**-0.25, LARGEST) if self.kind == "hmc" else 2.38 / math.sqrt(n)
        # Draws that fail have no likelihood at any power: they are the first to be left behind.
        numbers = (Z, Z, misfit, misfit, slope[at], 0.0, math.log(good.mean()), step, np.full(self.most_moves, np.nan), 0)
        return State(*map(jnp.asarray, numbers), *counts, jnp.asarray(True))

    @property
    def enough(self) -> float:
        """The correlation that is wanted, above what chance gives the largest of some among so many particles."""
        return self.correlation + 2.0 / math.sqrt(self.ess * self.particles)

    @property
    def finished(self) -> bool:
        return bool(self.state.settled) and float(self.state.power) == 1.0

    def advance(self) -> None:
        """Go to the next power where the particles have settled; move them once."""
        of_resampling, of_move = jax.random.split(jax.random.fold_in(self.key, self.done))
        if bool(self.state.settled):
            self.state, ess = temper(self.state, of_resampling, self.ess)
            for name, value in {"power": self.state.power, "ess": ess, "moves": 0, "acceptance": 0, "correlation": 1, "step": 0}.items():
                self.history[name].append(float(value))
        step = float(self.state.step)
        move = move_by_gradient if self.kind == "hmc" else walk
        self.state, acceptance = move(self.problem, self.reference, self.state, of_move)
        self._look(acceptance, step)
        self.done += 1
        if self.file is not None and self.clock.seconds()["run"] - self.saved_at > self.every:
            self.save()

    def _look(self, acceptance, step) -> None:
        """Note the move, and whether it was the last one that is needed at this power."""
        moves = int(self.state.moves)
        found = memory_of(self.state)
        trail = self.state.trail.at[moves - 1].set(found)
        # A walk forgets slowly; before it could have gone around its cloud nothing can be said of modes.
        patience = 8 if self.kind == "hmc" else 4 * self.problem.space.size
        stuck = moves >= patience and found > NO_LONGER * float(trail[moves // 2 - 1])
        settled = found < self.enough or stuck or moves >= self.most_moves
        self.state = eqx.tree_at(lambda state: (state.trail, state.settled), self.state, (trail, jnp.asarray(settled)))
        for name, value in {"moves": moves, "acceptance": acceptance, "correlation": found, "step": step}.items():
            self.history[name][-1] = float(value)

    def costs(self) -> Array:
        """J of the particles (particle,)."""
        return self.state.misfit - densities_of(self.reference, self.state.z)

    def shown(self) -> tuple[int, None, dict[str, float]]:
        """Moves so far, of a number that nobody knows, and what is shown of the particles."""
        J = np.asarray(self.costs())
        return self.done, None, {"likelihood to the power": float(self.state.power), "median J": np.median(J), "lowest J": J.min()}

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def save(self) -> None:
        if self.file is not None and self.state is not None and self.kept != self.done and self.problem.speaks:
            checkpoints.save(self.file, self.belongs_to, self.state.z.shape, self.state, self.done, self.history, self.seconds())
            self.kept, self.saved_at = self.done, self.clock.seconds()["run"]

    def posterior(self) -> Posterior:
        problem, state = self.problem, self.state
        z, history = state.z, {name: np.array(values) for name, values in self.history.items()}
        J = self.costs()
        constants = float(sum(stream.log_normalisation for _, stream in problem.observations.items()))
        seconds = self.seconds()
        details = history | {
            "log_density": np.asarray(constants - 0.5 * z.shape[1] * math.log(2 * math.pi) - J),
            "log_evidence": np.asarray(constants + float(state.log_evidence)),
            "log_evidence_error": np.sqrt(np.sum(1 / history["ess"] - 1 / len(z))),
            **counts_of(problem, int(state.runs), int(state.gradients)), "failed": np.asarray(state.failed),
            "seconds_compile": np.asarray(seconds["compile"]), "seconds_warmup": np.asarray(0.0), "seconds_run": np.asarray(seconds["run"]),
            **_notes(history, self.enough)}
        return from_draws(problem, z, method=f"tempered SMC ({self.kind}, {len(z)} particles, {len(history['power'])} powers)",
                          centre=z[jnp.argmin(J)], details=details)


def _choices(problem, particles, ess, moves, correlation, most_moves):
    """The choices that were left to the problem, and complaints about those that were not."""
    n, gradient = problem.space.size, problem.differentiable and problem.forward.traceable
    particles = max(512, BATCH * math.ceil(16 * n / BATCH)) if particles is None else particles
    moves = ("hmc" if gradient else "random walk") if moves is None else moves
    if moves not in ACCEPTANCE:
        raise ValueError(complain('moves "hmc" or "random walk"', repr(moves), "leave it out: the problem decides"))
    if moves == "hmc" and not gradient:
        raise TypeError(complain('a gradient that JAX compiles for moves="hmc"', problem.forward.description, 'moves="random walk"'))
    if particles < max(2 * n, 16):
        raise ValueError(complain(f"at least {max(2 * n, 16)} particles, two for each parameter", f"{particles}",
                                  "leave it out for 16 a parameter: their covariance guides the moves"))
    if not 0 < ess < 1 or not 0 < correlation < 1:
        raise ValueError(complain("ess and correlation between 0 and 1", f"{ess:g} and {correlation:g}", "smc(problem) has the defaults"))
    most_moves = (25 if moves == "hmc" else 20 * n) if most_moves is None else most_moves
    if most_moves < 1:
        raise ValueError(complain("at least one move at each power", f"{most_moves}", "leave it out"))
    return particles, moves, most_moves


def _notes(history, enough: float) -> dict[str, np.ndarray]:
    """What a reader has to know of how it went: a `note`, and of that what is a `warning`."""
    stuck = history["correlation"] >= enough
    notes, warned = [f"{len(stuck)} powers from prior to posterior"], []
    if stuck[-1]:
        warned.append(f"the particles still remember where they were (correlation {history['correlation'][-1]:.2f}): separate modes, or "
                      "too few moves; weights of modes then rest on resampling alone: compare log_evidence of another key, or take more")
    elif stuck.mean() > 0.2:
        notes.append(f"at {stuck.sum()} powers on the way the particles were not decorrelated")
    if history["acceptance"][-1] < 0.1:
        warned.append(f"acceptance of the last moves {history['acceptance'][-1]:.2f}: the particles are copies of few, too many parameters "
                      "or too few particles for their covariance")
    found = {"note": np.asarray("; ".join([*notes, *warned]))}
    return found | ({"warning": np.asarray(". ".join(said[0].upper() + said[1:] for said in warned) + ".")} if warned else {})


def _require_finite(problem, Z, cost, failed) -> None:
    """The complaint of `run_costs`, with the region where runs fail, for costs that came with their gradients."""
    if (~np.isfinite(cost)).mean() > (failed or FailedRuns()).limit:
        _run_first(problem, Z, failed)


def _run_first(problem, Z, failed):
    """J of the first particles: none of those that fail is moved, it would no longer be a draw of where they come from."""
    limit = (failed or FailedRuns()).limit
    return run_costs(problem, Z, FailedRuns(limit=limit), f"failed=FailedRuns(limit={0.5 * (1 + limit):.2g}) and more particles")
