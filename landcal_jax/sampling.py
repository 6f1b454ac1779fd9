"""The No-U-Turn sampler on the posterior of a problem: started and preconditioned from Laplace, warmed up until estimates settle.

    posterior = nuts(problem, result)
    print(diagnose(posterior))

Warm-up is by an ensemble of many chains (`ENSEMBLE`), because sixteen of them in one compiled run cost four times as much as one: they
start from over-dispersed draws of the Laplace approximation, move by Hamiltonian trajectories, and their pooled covariance and
acceptance give the coordinates. It ends when the chains of the ensemble agree, or agree no better than they did ten rounds before.
The step size then settles on a few No-U-Turn draws of every member, because a few chains see one region only and settle on a step that
is too long for the others. Chains of the sampler go on from members of the ensemble, in these coordinates and with this step.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import checkpoint as checkpoints
from landcal_jax import progress as progress_line
from landcal_jax.covariance import Covariance
from landcal_jax.errors import complain
from landcal_jax.hamiltonian import STRAIGHT, Coordinates, depth_of, extra_of, no_u_turn, straightened, trajectories
from landcal_jax.keys import key_of
from landcal_jax.laplace import check_draws, laplace
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem, costs
from landcal_jax.solvers import Result
from landcal_jax.solving import Clock
from landcal_jax.transforms import LogUniformTransform, UniformTransform
from landcal_jax.turns import turns_of

ENSEMBLE = 32
"""Chains of the warm-up."""
ORBITS = 10
"""Orbits of each in one round; every second place is kept."""
LONGEST = 64
"""Leapfrog steps of an orbit of the warm-up at most."""
ACCEPTANCE = 0.7
"""That the orbits of the warm-up aim at, whatever the draws aim at: they go far, and across kinks of J smaller steps gain little."""
DISPERSION = 1.5
"""Standard deviation of the starts over that of the Laplace approximation."""
BEND = 0.15
"""Of z = x + bend x^5: x is linear in Phi(z) to a tenth up to |z| = 1.3."""
AGREED = 1.1
"""R-hat of the ensemble below which warm-up ends: the chains of it then are worth some 10 draws each."""
STILL, GAIN = 10, 0.02
"""Warm-up ends too where the least R-hat of the last so many rounds is not below that of the rounds before by this share."""
MOST_ROUNDS = 40
LEAST_ROUNDS = 6
MOST_PULLS = 25
CHUNK = 25
"""Draws between two looks at the clock."""
SETTLING, SETTLING_DRAWS = 8, 2
"""Chunks over which the step size settles, and draws of each member in one of them."""


def nuts(
    problem: Problem,
    result: Result | Array,
    *,
    chains: int = 4,
    draws: int = 1000,
    warmup: int | None = None,
    key: Array | int = 0,
    target_accept: float = 0.9,
    max_tree_depth: int = 10,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
    posterior: Posterior | None = None,
    periods: Mapping[str, float] | None = None,
) -> Posterior:
    """Draws from the posterior by the No-U-Turn sampler (numpyro's trees): `chains` chains of `draws` draws each.

    `result`: a minimum of J, a Result or z (n,). `posterior`: a Gaussian to start from, `laplace(problem, result)` without it (by the
    full Hessian where errors are parameters). `warmup`: rounds of the ensemble before (ten orbits each); without it until it agrees, or
    no longer comes nearer to that. `target_accept`: mean acceptance that the step size aims at; nearer to 1 is slower and safer. A
    problem that is spread over devices has its chains divided among them. `periods`: parameters that have the same effect a period
    later, by name, those that the model knows without it; draws are then of all such copies, see `turns`. `checkpoint`: a file that
    keeps everything, written at most every `checkpoint_seconds`; a call that finds it goes on from it and ends with the same bits.

    Returns a `Posterior` whose details are, by draw, `log_density`, `steps` (leapfrog), `tree_depth`, `acceptance`, `diverging`; and
    `forward`, `gradient` (runs, warm-up included), `gradient_warmup`, `step`, `rounds`, `warmup_rhat`, `max_tree_depth`, the `seconds_`
    of `compile`, `warmup` and `run`; in words `starts`, a `note` and, where the warm-up did not agree, a `warning`; with periodic
    parameters `z_one_turn` (draw, n), the draws before each was given a turn. `diagnose` says whether they can be trusted.

    Raises TypeError for a model without a gradient that JAX compiles; ValueError where J is not finite at `result`, for a singular
    covariance of `posterior`, or for a checkpoint of another run.
    """
    _check(problem, chains, draws, warmup, target_accept, max_tree_depth)
    posterior = start_of(problem, result, posterior)
    if periods is None:
        periods = problem.forward.periods
    turns, key = turns_of(problem.space, periods), key_of(key)
    centre, root = np.asarray(posterior.centre), cholesky_of(posterior.covariance)
    options = chains, draws, warmup, target_accept, max_tree_depth
    belongs_to = "" if checkpoint is None else checkpoints.fingerprint(problem, ("nuts", *options), centre, root, turns, key)
    run = _Run(problem, turns, options, key, checkpoint, belongs_to, checkpoint_seconds)
    return progress_line.sampled(run, lambda: run.begin(centre, root), progress and problem.speaks, "draw")


def start_of(problem: Problem, result: Result | Array, posterior: Posterior | None) -> Posterior:
    """The Gaussian that chains start from: `posterior`, or Laplace at the result.

    Raises TypeError for what is no Posterior, ValueError for that of another problem.
    """
    if posterior is None:
        return laplace(problem, result, curvature="gauss-newton" if problem.least_squares else "hessian", draws=2)
    if not isinstance(posterior, Posterior):
        raise TypeError(complain("a Posterior to start from", f"a {type(posterior).__name__}", "posterior=laplace(problem, result)"))
    if posterior.z.shape[1] != problem.space.size:
        raise ValueError(complain(f"a posterior of the {problem.space.size} free parameters of this problem",
                                  f"one of {posterior.z.shape[1]}", "posterior=laplace(problem, result)"))
    return posterior


def _check(problem: Problem, chains: int, draws: int, warmup: int | None, target_accept: float, depth: int) -> None:
    """Complain of a model without a gradient that JAX compiles, and of numbers that make no run."""
    if not problem.differentiable or not problem.forward.traceable:
        raise TypeError(complain("a model with a gradient that JAX compiles, for nuts", problem.forward.description,
                                 "smc(problem, moves=\"random walk\"), by runs alone, or an emulator: problem.with_forward(emulator)"))
    check_draws(draws)
    if chains < 1 or not 0 < target_accept < 1 or (warmup is not None and warmup < 1) or depth < 1:
        raise ValueError(complain("at least one chain, one round of warm-up and a tree one deep, and a target_accept between 0 and 1",
                                  f"{chains}, {warmup}, {depth} and {target_accept:g}", "nuts(problem, result) has the defaults"))


class _Run:
    """One run on its way: rounds of warm-up, then chunks in which the step size settles, then chunks of draws.

    All that it is made of lies in `state`, arrays by name, and every random number follows from `done`, which counts rounds and chunks: a
    run that goes on from a file ends with the same bits.
    """

    def __init__(self, problem, turns, options, key, file, belongs_to, every):
        self.problem, self.turns, self.key, self.belongs_to, self.every = problem, turns, key, belongs_to, every
        self.chains, self.draws, self.rounds, self.target, self.depth = options
        self.file, self.clock = None if file is None else Path(file), Clock()
        self.state, self.spent, self.saved_at, self.saved = {}, {}, 0.0, None

    def begin(self, centre: np.ndarray, root: np.ndarray) -> None:
        """Starts of the ensemble about the centre (n,), covariance root root', or what the file has."""
        n, members = centre.size, max(ENSEMBLE, self.chains)
        bend = bends(self.problem)
        x = np.asarray(straightened(jnp.asarray(centre), jnp.asarray(bend)))
        slope = 1 + 5 * bend * np.clip(x, -STRAIGHT, STRAIGHT) ** 4
        self.state = {
            "z": np.zeros((members, n)), "centre": x, "root": root / slope[:, None], "bend": bend, "step": 0.5 * n**-0.25,
            "forward": 0, "gradient": 0, "gradient_warmup": 0, "seconds_warmup": 0.0, "done": 0, "rounds": 0, "settled": 0, "warm": False,
            "rhat": np.zeros((0, 2)), "mean_acceptance": np.nan, "trail": np.zeros((members, 0, n)), "u": np.zeros((0, self.chains, n)),
            "energy": np.zeros((0, self.chains)), "steps": np.zeros((0, self.chains), int), "acceptance": np.zeros((0, self.chains)),
            "diverging": np.zeros((0, self.chains), bool)}
        found = None if self.file is None else checkpoints.load(self.file, self.belongs_to, shared=self.problem.shared)
        if found is not None:
            self.state = dict(zip(sorted(self.state), found.leaves, strict=True))
            self.spent, self.saved = found.seconds, int(self.state["done"])
            return
        self.state["z"], self.state["forward"] = starts(
            self.problem, centre, root, members, jax.random.fold_in(self.key, 0))

    @property
    def finished(self) -> bool:
        return len(self.state["energy"]) >= self.draws

    def advance(self) -> None:
        """One round or chunk."""
        self.state["done"] = int(self.state["done"]) + 1
        key = jax.random.fold_in(self.key, self.state["done"])
        if not self.state["warm"]:
            self._explore(key)
        else:
            self._sample(key)
        if self.file is not None and self.clock.seconds()["run"] - self.saved_at > self.every:
            self.save()

    def _explore(self, key: Array) -> None:
        """One round of the ensemble; what it has learned where it is time to; its end where the members agree."""
        state, rounds = self.state, int(self.state["rounds"]) + 1
        longest = int(np.clip(math.ceil(math.pi / float(state["step"])), 1, LONGEST))
        lengths = np.random.default_rng(rounds).integers(1, longest + 1, ORBITS)
        visited, acceptance = trajectories(
            self.problem, self._coordinates(), jnp.asarray(state["z"]), jnp.asarray(state["step"]), jnp.asarray(lengths), key)
        visited, acceptance = np.asarray(visited), float(np.mean(acceptance))
        trail = np.concatenate([state["trail"], visited[:, 1::2]], axis=1)
        # The way from the starts is no part of the posterior: the older half is forgotten.
        trail = trail[:, -((rounds + 1) // 2) * (ORBITS // 2):] if rounds % 2 == 0 else trail
        state |= {"z": visited[:, -1], "rounds": rounds, "trail": trail, "mean_acceptance": acceptance,
                  "step": float(state["step"]) * math.exp(acceptance - ACCEPTANCE),
                  "gradient": int(state["gradient"]) + len(visited) * (int(lengths.sum()) + 1)}
        if _is_look(rounds) or rounds == self.rounds:
            fitted = pooled(trail.reshape(-1, trail.shape[2]), self._coordinates())
            agreement = rhat(np.asarray(fitted.u(jnp.asarray(trail))))
            state |= {"rhat": np.vstack([state["rhat"], (rounds, np.max(agreement))]),
                      "centre": np.asarray(fitted.centre), "root": np.asarray(fitted.root)}
        if rounds == self.rounds or (self.rounds is None and _is_look(rounds) and ended(state["rhat"])):
            state |= {"warm": True, "z": np.asarray(self._coordinates().u(jnp.asarray(state["z"])))}

    def _sample(self, key: Array) -> None:
        """One chunk of draws of the chains; before, while the step size settles, of the whole ensemble."""
        state, settling = self.state, int(self.state["settled"]) < SETTLING
        size = SETTLING_DRAWS if settling else CHUNK
        found = jax.tree.map(np.asarray, no_u_turn(
            self.problem, self._coordinates(), jnp.asarray(state["z"]), jnp.asarray(state["step"]), key, size, self.depth))
        state |= {"z": found.u[-1], "gradient": int(state["gradient"]) + int(found.steps.sum()), "mean_acceptance": found.acceptance.mean()}
        if settling:
            number = int(state["settled"]) + 1
            gain = 4.0 / (3 + number)
            state |= {"settled": number, "step": float(state["step"]) * math.exp(gain * (float(found.acceptance.mean()) - self.target)),
                      "gradient_warmup": state["gradient"], "seconds_warmup": self.seconds()["run"]}
            if number == SETTLING:
                chosen = jax.random.choice(jax.random.fold_in(key, 1), len(state["z"]), (self.chains,), replace=False)
                state["z"] = state["z"][np.asarray(chosen)]
            return
        state |= {"u": np.concatenate([state["u"], found.u]), "energy": np.concatenate([state["energy"], found.energy]),
                  "steps": np.concatenate([state["steps"], found.steps]),
                  "acceptance": np.concatenate([state["acceptance"], found.acceptance]),
                  "diverging": np.concatenate([state["diverging"], found.diverging])}

    def _coordinates(self) -> Coordinates:
        return Coordinates(*(jnp.asarray(self.state[name]) for name in ("centre", "root", "bend")), self.turns)

    def shown(self) -> tuple[int, int, dict[str, float]]:
        """Draws so far, all of them, and what else is shown on the way."""
        state, agreement = self.state, self.state["rhat"]
        where = {} if state["warm"] else {"round of warm-up": state["rounds"]}
        known = {"R-hat": agreement[-1, 1]} if len(agreement) and not state["warm"] else {}
        words = where | known | {"acceptance": float(state["mean_acceptance"]), "step size": float(state["step"])}
        return min(len(state["energy"]), self.draws), self.draws, words

    @property
    def done(self) -> int:
        """Rounds and chunks so far."""
        return int(self.state["done"])

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def save(self) -> None:
        if self.file is None or not self.state or self.saved == self.done or not self.problem.speaks:
            return
        state = [np.asarray(self.state[name]) for name in sorted(self.state)]
        checkpoints.save(self.file, self.belongs_to, self.state["z"].shape, state, self.done, {}, self.seconds())
        self.saved, self.saved_at = self.done, self.clock.seconds()["run"]

    def posterior(self) -> Posterior:
        problem, state, seconds = self.problem, self.state, self.seconds()
        n = state["centre"].size

        def by_chain(name):
            return np.swapaxes(state[name][: self.draws], 0, 1).reshape(self.chains * self.draws, *state[name].shape[2:])

        coordinates, u = self._coordinates(), jnp.asarray(by_chain("u"))
        found = coordinates.z(u)
        z = np.asarray(self.turns.drawn(problem.space, found, jax.random.fold_in(self.key, 2**31)))
        cost = by_chain("energy") + np.asarray(jax.vmap(lambda u: extra_of(problem, coordinates, u))(u))
        # On another turn the likelihood is the same, and the prior another.
        cost = cost + 0.5 * np.sum(z**2 - np.asarray(found) ** 2, axis=1)
        constants = float(sum(stream.log_normalisation for _, stream in problem.observations.items()))
        details = {
            "log_density": constants - 0.5 * n * math.log(2 * math.pi) - cost, "steps": by_chain("steps"),
            "tree_depth": depth_of(by_chain("steps")), "acceptance": by_chain("acceptance"), "diverging": by_chain("diverging"),
            "starts": "about one minimum of J", "max_tree_depth": self.depth, "step": float(state["step"]), "rounds": int(state["rounds"]),
            "warmup_rhat": state["rhat"][-1, 1] if len(state["rhat"]) else np.nan,
            "forward": int(state["forward"]), "gradient": int(state["gradient"]), "gradient_warmup": int(state["gradient_warmup"]),
            "seconds_compile": seconds["compile"], "seconds_warmup": float(state["seconds_warmup"]),
            "seconds_run": seconds["run"] - float(state["seconds_warmup"]),
            **_notes(int(state["rounds"]), state["rhat"], self.rounds)}
        if self.turns.number:
            details["z_one_turn"] = found
        return Posterior(problem, jnp.asarray(z), jnp.asarray(z[np.argmin(cost)]), jnp.asarray(np.cov(z.T).reshape(n, n)),
                         f"NUTS ({self.chains} chains of {self.draws} draws)", chains=self.chains,
                         details={name: np.asarray(value) for name, value in details.items()})


def starts(problem: Problem, centre: np.ndarray, root: np.ndarray, members: int, key: Array) -> tuple[np.ndarray, int]:
    """Over-dispersed draws (member, n) about `centre`, pulled towards it where J is out of all proportion; and the runs that took.

    Each draw is of `DISPERSION` times the Gaussian with the covariance root root'. Along a curved ridge that leaves the posterior: a draw
    whose J is further above that of the centre than such a Gaussian would have it is moved a fifth of the way to the centre,
    until it is not. Raises ValueError where J is not finite at the centre.
    """
    n = centre.size
    lowest = costs(problem, centre[None])[0]
    if not np.isfinite(lowest):
        raise ValueError(complain("a finite J where the sampler starts from", f"{lowest}", "the result of solve(problem, solver)"))
    noise, scale, runs = np.asarray(jax.random.normal(key, (members, n))), np.full(members, DISPERSION), 1
    for _ in range(MOST_PULLS):
        z = centre + scale[:, None] * noise @ root.T
        rise = costs(problem, z) - lowest
        runs += members
        wild = ~(rise < 0.5 * DISPERSION**2 * (n + 3 * math.sqrt(2 * n)))
        if not wild.any():
            return z, runs
        scale[wild] *= 0.8
    # What is left lies within a hundredth of a standard deviation of the centre.
    return z, runs


def cholesky_of(covariance: Covariance) -> np.ndarray:
    """root (n, n) with root root' = covariance; ValueError where that is singular: chains would never leave the plane."""
    covariance = np.asarray(covariance)
    values = np.linalg.eigvalsh(covariance) if np.isfinite(covariance).all() else np.full(len(covariance), np.nan)
    if not values[0] > len(values) * np.finfo(float).eps * values[-1]:
        raise ValueError(complain("a Gaussian with spread in every direction, for chains to start from",
                                  f"a covariance whose eigenvalues are {values[0]:.3g} to {values[-1]:.3g}",
                                  "laplace(problem, result), which is what they start from where no `posterior` is given"))
    return np.linalg.cholesky(covariance)


def bends(problem: Problem) -> np.ndarray:
    """How much each element of z is bent, (n,): `BEND` where its prior is uniform or log-uniform, 0 elsewhere.

    Also 0 where priors are correlated: an element of z is then no single parameter.
    """
    space = problem.space
    if space.factor is not None:
        return np.zeros(space.size)
    kinds = UniformTransform | LogUniformTransform
    alike = {name for name, parameter in space.parameters.items() if isinstance(parameter.transform, kinds)}
    return np.array([BEND if label.split("[")[0] in alike else 0.0 for label in space.labels])


def pooled(z: np.ndarray, before: Coordinates) -> Coordinates:
    """Coordinates by mean and covariance of z (place, n), drawn towards those `before` by as many places as there are parameters."""
    u = np.asarray(before.u(jnp.asarray(z)))
    n, weight = u.shape[1], len(u) / (len(u) + u.shape[1])
    covariance = weight * np.cov(u.T).reshape(n, n) + (1 - weight) * np.eye(n)
    centre = before.centre + before.root @ jnp.asarray(u.mean(axis=0))
    return Coordinates(centre, before.root @ jnp.asarray(np.linalg.cholesky(covariance)), before.bend, before.turns)


def rhat(values: np.ndarray) -> np.ndarray:
    """R-hat of each column of `values` (chain, draw, n), by ranks of the halves of chains (Vehtari et al. 2021)."""
    from arviz_stats.base import array_stats

    return array_stats.rhat(values, chain_axis=0, draw_axis=1)


def _is_look(rounds: int) -> bool:
    """Rounds after which the coordinates are fitted anew: 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, ..."""
    return rounds > 1 and rounds % max(1, 2 ** (int(math.log2(rounds)) - 2)) == 0


def ended(agreement: np.ndarray) -> bool:
    """Whether warm-up is over, by its rounds and R-hat of the ensemble after them, rows of `agreement` (look, 2)."""
    rounds, found = agreement[-1]
    late = agreement[:, 0] > rounds - STILL
    still = not late.all() and agreement[late, 1].min() > (1 - GAIN) * agreement[~late, 1].min()
    return rounds >= LEAST_ROUNDS and (found < AGREED or still or rounds >= MOST_ROUNDS)


def _notes(rounds: int, agreement: np.ndarray, wanted: int | None) -> dict[str, str]:
    """What a reader has to know of the warm-up: a `note`, and the same as a `warning` where its chains did not agree."""
    if not len(agreement):
        return {"note": f"warm-up of {rounds} rounds, too few to compare its chains"}
    found = agreement[-1, 1]
    if wanted is not None or found < AGREED:
        return {"note": f"warm-up of {rounds} rounds, R-hat of its ensemble {found:.2f}"}
    said = (f"The chains of the warm-up did not agree after {rounds} rounds (R-hat {found:.2f}, above {AGREED:g}): the "
            "posterior may have several modes, of which the draws know those that their few chains sit in. Compare smc(problem).")
    return {"note": said, "warning": said}
