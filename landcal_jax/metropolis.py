"""Random-walk adaptive Metropolis, as CARDAMOM samples: for comparison, and for a density whose gradient is of no use.

The chain proposes z + sqrt(2.38^2 / n) C^(1/2) e with the covariance C of all that it has visited (Haario et al. 2001, Bernoulli 7, 223;
scaling of Gelman et al. 1996), and one time in twenty a small step that knows nothing of C (Roberts & Rosenthal 2009, J. Comp. Graph.
Stat. 18, 349, section 2). Bloom & Williams 2015 (Biogeosciences 12, 1299) sample DALEC by such a walk in parameters scaled by their prior
ranges, with 10^7 to 10^8 runs; z is scaled by the priors too. Unlike there, chains may begin with the covariance of Laplace.
"""

import math
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import checkpoint as checkpoints
from landcal_jax import progress as progress_line
from landcal_jax.errors import complain
from landcal_jax.hamiltonian import by_chains
from landcal_jax.keys import key_of
from landcal_jax.laplace import check_draws
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.sampling import cholesky_of, start_of, starts
from landcal_jax.solvers import Result
from landcal_jax.solving import Clock

SCALE = 2.38
SMALL, SMALL_SHARE = 0.1, 0.05
"""Standard deviation of the small steps times sqrt(n), and how often they are made."""
CHUNK = 1000
"""Proposals between two updates of the covariance."""


class _Chains(eqx.Module):
    """Chains on their way: `z` (chain, n), J there (chain,), `count` visits with their `mean` (chain, n) and `scatter` (chain, n, n)."""

    z: Array
    cost: Array
    count: Array
    mean: Array
    scatter: Array


def adaptive_metropolis(
    problem: Problem,
    result: Result | Array,
    *,
    chains: int = 4,
    draws: int = 1000,
    thin: int = 100,
    warmup: int | None = None,
    key: Array | int = 0,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
    posterior: Posterior | None = None,
) -> Posterior:
    """Draws from the posterior by adaptive Metropolis: of each of `chains` chains every `thin`th place, `draws` times.

    `result`, `posterior`: where chains start and their first covariance, as in `nuts`. `warmup`: proposals before the first draw, as many
    as the draws take without it; the covariance of each chain is that of all its places so far, updated every `CHUNK` proposals.
    `checkpoint`: see `nuts`.

    Returns a `Posterior` whose details are `log_density` (draw,), `acceptance` (share of the proposals of draws), `forward` (runs),
    `gradient` (0, but for those of Laplace), `seconds_compile`, `seconds_warmup` and `seconds_run`.
    Raises TypeError for a model that JAX does not compile, ValueError where J is not finite at the start and for a singular
    covariance of `posterior`.
    """
    if not problem.forward.traceable:
        raise TypeError(complain("a model that JAX compiles for adaptive_metropolis", problem.forward.description,
                                 'smc(problem, moves="random walk"), whose particles run together'))
    check_draws(draws)
    if chains < 1 or thin < 1 or (warmup is not None and warmup < 0):
        raise ValueError(complain("at least one chain, and a proposal for each draw", f"{chains}, {thin}, warmup {warmup}",
                                  "adaptive_metropolis(problem, result) has the defaults"))
    posterior = start_of(problem, result, posterior)
    key, root = key_of(key), cholesky_of(posterior.covariance)
    size = max(thin, thin * (CHUNK // thin))
    before = -(-(draws * thin if warmup is None else warmup) // size)
    run = _Run(problem, (chains, draws, thin, size, before), key, checkpoint, checkpoint_seconds)
    return progress_line.sampled(
        run, lambda: run.begin(np.asarray(posterior.centre), np.asarray(posterior.covariance), root), progress and problem.speaks, "chunk")


class _Run:
    """One run on its way, chunk by chunk; see `sampling`."""

    def __init__(self, problem, options, key, file, every):
        self.problem, self.options, self.key, self.every = problem, options, key, every
        self.number, self.draws, self.thin, self.size, self.before = options
        self.total = self.before + -(-self.draws * self.thin // self.size)
        self.file, self.clock, self.spent = None if file is None else Path(file), Clock(), {}
        self.done, self.saved, self.saved_at = 0, None, 0.0

    def shown(self) -> tuple[int, int, dict[str, float]]:
        """Chunks so far, all of them, and the mean of J."""
        return self.done, self.total, {"mean J of the chains": float(np.mean(self.chains.cost))}

    def begin(self, centre: np.ndarray, covariance: np.ndarray, root: np.ndarray) -> None:
        n, per_chunk = centre.size, self.size // self.thin
        self.first = jnp.asarray(covariance)
        self.belongs_to = "" if self.file is None else checkpoints.fingerprint(self.problem, self.options, centre, covariance, self.key)
        # All draws have their place from the beginning: a checkpoint then has the same shapes whenever it is written.
        rows = (self.total - self.before) * per_chunk
        self.kept = {"z": np.zeros((self.number, rows, n)), "cost": np.zeros((self.number, rows)),
                     "accepted": np.zeros(self.total), "runs": np.zeros(()), "seconds_warmup": np.zeros(())}
        found = None if self.file is None else checkpoints.load(self.file, self.belongs_to, shared=self.problem.shared)
        zero = jnp.zeros((self.number, n))
        self.chains = _Chains(zero, zero[:, 0], jnp.zeros(self.number), zero, jnp.zeros((self.number, n, n)))
        if found is not None:
            state = checkpoints.restore(eqx.filter_eval_shape(lambda: self._state()), found.leaves, self.file)
            self.chains, kept = state
            self.kept = {name: np.array(value) for name, value in kept.items()}
            self.done = self.saved = found.done
            self.spent = found.seconds
            return
        z, runs = starts(self.problem, centre, root, self.number, jax.random.fold_in(self.key, 0))
        self.kept["runs"] += runs + self.number
        cost = _costs(self.problem, jnp.asarray(z))
        self.chains = _Chains(jnp.asarray(z), cost, self.chains.count, self.chains.mean, self.chains.scatter)

    def _state(self):
        return self.chains, jax.tree.map(jnp.asarray, self.kept)

    @property
    def finished(self) -> bool:
        return self.done >= self.total

    def advance(self) -> None:
        """One chunk of proposals of all chains."""
        key = jax.random.fold_in(self.key, self.done + 1)
        self.chains, z, cost, accepted = _walk(self.problem, self.chains, self.first, key, self.size, self.thin)
        if self.done >= self.before:
            rows = slice((self.done - self.before) * z.shape[1], (self.done - self.before + 1) * z.shape[1])
            self.kept["z"][:, rows], self.kept["cost"][:, rows] = z, cost
        self.kept["accepted"][self.done] = float(np.mean(accepted))
        self.kept["runs"] += self.size * self.number
        self.done += 1
        if self.done == self.before:
            self.kept["seconds_warmup"] = np.asarray(self.seconds()["run"])
        if self.file is not None and self.clock.seconds()["run"] - self.saved_at > self.every:
            self.save()

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def save(self) -> None:
        if self.file is not None and self.saved != self.done and self.problem.speaks:
            checkpoints.save(self.file, self.belongs_to, self.chains.z.shape, self._state(), self.done, {}, self.seconds())
            self.saved, self.saved_at = self.done, self.clock.seconds()["run"]

    def posterior(self) -> Posterior:
        problem, seconds, n = self.problem, self.seconds(), self.chains.z.shape[1]
        z, cost = self.kept["z"][:, : self.draws].reshape(-1, n), self.kept["cost"][:, : self.draws].ravel()
        constants = float(sum(stream.log_normalisation for _, stream in problem.observations.items()))
        warm = float(self.kept["seconds_warmup"])
        details = {
            "log_density": constants - 0.5 * n * math.log(2 * math.pi) - cost, "acceptance": self.kept["accepted"][self.before :].mean(),
            "forward": int(self.kept["runs"]), "gradient": 0, "seconds_compile": seconds["compile"], "seconds_warmup": warm,
            "seconds_run": seconds["run"] - warm, "starts": "about one minimum of J",
            "note": f"adaptive Metropolis, {self.size * self.before} proposals of warm-up, every {self.thin}th place kept"}
        return Posterior(problem, jnp.asarray(z), jnp.asarray(z[np.argmin(cost)]), jnp.asarray(np.cov(z.T).reshape(n, n)),
                         f"adaptive Metropolis ({self.number} chains of {self.draws} draws)", chains=self.number,
                         details={name: np.asarray(value) for name, value in details.items()})


@eqx.filter_jit
def _costs(problem: Problem, z: Array) -> Array:
    return jax.vmap(problem.cost)(z)


@eqx.filter_jit
def _walk(problem: Problem, chains: _Chains, first: Array, key: Array, size: int, thin: int):
    """`size` proposals of each chain: the chains after them, every `thin`th place (chain, draw, n), J there, shares accepted (chain,)."""
    n = chains.z.shape[1]

    def one(z, cost, count, mean, scatter, seed):
        # As many visits as proposals of one chunk stand for what is known before.
        covariance = (size * first + scatter) / (size + count)
        root = SCALE / math.sqrt(n) * jnp.linalg.cholesky(covariance)

        def propose(state, seed):
            z, cost, count, mean, scatter = state
            of_kind, of_step, of_choice = jax.random.split(jax.random.wrap_key_data(seed), 3)
            noise = jax.random.normal(of_step, (n,), z.dtype)
            small = jax.random.uniform(of_kind, (), z.dtype) < SMALL_SHARE
            there = z + jnp.where(small, SMALL / math.sqrt(n) * noise, root @ noise)
            cost_there = problem.cost(there)
            taken = jax.random.uniform(of_choice, (), z.dtype) < jnp.where(jnp.isnan(cost_there), 0.0, jnp.exp(cost - cost_there))
            z, cost = jnp.where(taken, there, z), jnp.where(taken, cost_there, cost)
            count, away = count + 1, z - mean
            mean = mean + away / count
            return (z, cost, count, mean, scatter + jnp.outer(away, z - mean)), (z, cost, taken)

        state, (visited, costs, taken) = jax.lax.scan(propose, (z, cost, count, mean, scatter), seed)
        return *state, visited[thin - 1 :: thin], costs[thin - 1 :: thin], jnp.mean(taken)

    seeds = jax.random.key_data(jax.random.split(key, size * len(chains.z))).reshape(len(chains.z), size, -1)
    *state, z, cost, taken = by_chains(
        one, problem, chains.z, chains.cost, chains.count, chains.mean, chains.scatter, seeds)
    return _Chains(*state), z, cost, taken
