"""Global search, from runs only: a genetic algorithm and CMA-ES, for J with several minima or with jumps.

Both end with one point and without a posterior: the members of the last generation lie where selection left them, which says
nothing of the spread of the posterior. `laplace` takes the curvature of J at the point, and any gradient solver goes on from it
(`solve(problem, LevenbergMarquardt(), z0=result)`). Neither has a test that finds the lowest minimum: another seed may end lower.
A run that fails has the worst rank, is counted, and is never the result.
"""

import contextlib
import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtr, ndtri

from landcal_jax.ensemble_space import changed
from landcal_jax.errors import complain
from landcal_jax.members import Ran, cost_terms, no_terms, whitened
from landcal_jax.solvers import AbstractEnsembleSolver, Counts, Progress, Status

EDGE = float(ndtr(-5.0))  # genes lie in EDGE to 1 - EDGE, which is five standard deviations of the prior to either side
SHRUNK = ("tolfun", "tolfunhist", "tolx")  # pycma's words for a distribution that has drawn together; all others: it cannot go on


def _costs(ran: Ran, residuals: dict[str, np.ndarray]) -> np.ndarray:
    """J of members (member,), infinite where the run has failed."""
    with np.errstate(over="ignore", invalid="ignore"):
        costs = 0.5 * np.sum(np.asarray(ran.z) ** 2, axis=1) + sum(0.5 * np.sum(values**2, axis=1) for values in residuals.values())
    return np.where(ran.finished & np.isfinite(costs), costs, np.inf)


def _best(state, ran: Ran, residuals: dict[str, np.ndarray], costs: np.ndarray) -> dict[str, Any]:
    """The fields `z` and `terms` of a state after these members: those of the lowest J so far."""
    best, before = int(np.argmin(costs)), float(sum(state.terms.values()))
    if not np.isfinite(costs[best]) or costs[best] >= before:
        return {"z": state.z, "terms": state.terms}
    return {"z": ran.z[best], "terms": cost_terms(ran.z[best], residuals, best)}


def _seed(key: Array | None) -> Array:
    if key is None:
        raise ValueError(complain("a seed or key for a solver that draws", "key=None", "solve(..., key=0)"))
    return jax.random.bits(key, dtype=jnp.uint32)


class GeneticState(eqx.Module):
    """A generation: `members` (population, n) in z with J of each in `costs`, infinite if its run failed, NaN before it has run.

    `z` and `terms`: the lowest J so far; `generation`: how many have run; `seed` of all draws.
    """

    members: Array
    costs: Array
    z: Array
    terms: dict[str, Array]
    generation: Array
    status: Array
    seed: Array


class GeneticAlgorithm(AbstractEnsembleSolver):
    """A real-coded genetic algorithm in the tradition of ORCHIDAS, the calibration of ORCHIDEE.

    A chromosome is a set of parameters. Its genes are quantiles of the prior, u = Phi(z) in 0 to 1: where priors are uniform, the
    fraction of the range. The first generation is a Latin hypercube of the prior with the first guess z0 of `solve` (or the end of
    another solve) in it. Each later one has the `elite` best of the generation before, which do not run again, and children:
    the share `crossover` of them by crossover of two parents, the others by mutation of one. A solve makes
    `generations` of them, the first included: population + (generations - 1) (population - elite) runs.

    From that tradition (Santaren et al. 2014, Biogeosciences 11, 7137; Bastrikov et al. 2018, Geoscientific Model Development 11,
    4739) are real genes within the range, a population of about 30, some 40 generations and about four crossovers to one mutation.
    The operators are ours, and not meant to be theirs: parents by rank, which needs no scale of J, with the chance to win a
    `tournament` of so many members (of 2 it falls linearly with the rank, of more faster; Goldberg & Deb 1991, Foundations of Genetic
    Algorithms 1, 69); children of a crossover anywhere between the genes of their parents and up to the fraction `blend` of their
    distance beyond, so that steps shrink as the population does (BLX; Eshelman & Schaffer 1993, Foundations of Genetic Algorithms
    2, 187); `mutated` genes drawn anew from the prior in a mutation; and the elite.

    Genes end five standard deviations of the prior to either side: no child is farther out. A first guess may be, and runs where it is.
    `details`: `members_z` (population, n) and `members_cost` of the last generation. Draws: needs a key.
    """

    population: int = eqx.field(static=True, default=30)
    generations: int = eqx.field(static=True, default=40)
    elite: int = eqx.field(static=True, default=2)
    crossover: float = eqx.field(static=True, default=0.8)
    tournament: int = eqx.field(static=True, default=3)
    blend: float = eqx.field(static=True, default=0.5)
    mutated: int = eqx.field(static=True, default=1)
    resumable: bool = eqx.field(static=True, default=True)

    @property
    def default_max_steps(self):
        """The generations."""
        return self.generations

    def __check_init__(self):
        if self.population < 2 or self.generations < 1 or not 0 <= self.elite < self.population:
            raise ValueError(complain("two members or more, a generation or more, an elite smaller than the population",
                                      f"{self.population}, {self.generations}, {self.elite}", "GeneticAlgorithm() has the defaults"))
        if not 0 <= self.crossover <= 1 or not 1 <= self.tournament <= self.population or self.blend < 0 or self.mutated < 1:
            raise ValueError(complain(
                "a share of crossovers in 0 to 1, a tournament of 1 to all members, a blend of zero or more, a mutated gene or more",
                f"{self.crossover:g}, {self.tournament}, {self.blend:g}, {self.mutated}", "GeneticAlgorithm() has the defaults"))

    def init(self, problem, z0, key):
        seed, number = _seed(key), problem.space.size
        if self.mutated > number:
            raise ValueError(complain(f"at most {number} mutated genes, one a parameter", f"{self.mutated}", "mutated=1"))
        from scipy.stats import qmc  # here, because scipy.stats takes a second to import

        design = qmc.LatinHypercube(number, rng=_generator(seed, 0)).random(self.population - 1)
        members = np.concatenate([np.asarray(z0)[None], ndtri(np.clip(design, EDGE, 1 - EDGE))])
        return GeneticState(
            jnp.asarray(members), jnp.full(self.population, jnp.nan), jnp.asarray(z0), no_terms(problem), jnp.asarray(0),
            jnp.asarray(int(Status.RUNNING)), seed)

    def ask(self, problem, state):
        return state.members[np.isnan(np.asarray(state.costs))]

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        found = _costs(ran, residuals)
        members, costs = np.array(state.members), np.array(state.costs)
        new = np.isnan(costs)
        members[new], costs[new] = ran.z, found  # "pull in" may have moved them
        best, generation = _best(state, ran, residuals, found), int(state.generation) + 1
        status = Status.RUNNING if generation < self.generations else Status.SEARCHED
        if not np.isfinite(costs).any():
            status = Status.NOT_FINITE
        if status is Status.RUNNING:
            members, costs = self._bred(members, costs, _generator(state.seed, generation))
        return changed(state, members=members, costs=costs, generation=generation, status=int(status), **best)

    def progress(self, state):
        return Progress(state.z, state.terms, state.status, Counts.of())

    def details(self, state):
        return {"method": np.array("genetic algorithm"), "members_z": np.asarray(state.members), "members_cost": np.asarray(state.costs)}

    def _bred(self, members: np.ndarray, costs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The next generation and its J: the elite, known, and children that have to run."""
        order = np.argsort(costs, kind="stable")[: np.isfinite(costs).sum()]  # what has failed has no children
        genes, kept = np.clip(ndtr(members[order]), EDGE, 1 - EDGE), order[: self.elite]
        number = self.population - len(kept)
        crossed = round(self.crossover * number) if len(order) > 1 else 0
        # The largest of log p + Gumbel noise are drawn with the chances p, without replacement: two parents are never the same.
        drawn = np.log(self._chances(len(order))) + rng.gumbel(size=(number, len(order)))
        parents = genes[np.argsort(-drawn, axis=1)[:, :2]]
        children = [self._crossed(parents[:crossed], rng), self._mutants(parents[crossed:, 0], rng)]
        return np.concatenate([members[kept], ndtri(np.concatenate(children))]), np.concatenate([costs[kept], np.full(number, np.nan)])

    def _chances(self, number: int) -> np.ndarray:
        """The chance of each rank, the best first, to win a tournament among members drawn with replacement."""
        at_least = (np.arange(number, -1, -1) / number) ** min(self.tournament, number)
        return at_least[:-1] - at_least[1:]

    def _crossed(self, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Children (child, n) of parents (child, 2, n): within the bounds, without heaping up there."""
        low, high = parents.min(axis=1), parents.max(axis=1)
        beyond = self.blend * (high - low)
        return rng.uniform(np.maximum(low - beyond, EDGE), np.minimum(high + beyond, 1 - EDGE))

    def _mutants(self, parents: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Children (child, n) of parents (child, n), each with `mutated` genes that are drawn anew."""
        which = np.argsort(rng.random(parents.shape), axis=1)[:, : self.mutated]
        children = parents.copy()
        np.put_along_axis(children, which, rng.uniform(EDGE, 1 - EDGE, which.shape), axis=1)
        return children


def _generator(seed: Array, generation: int) -> np.random.Generator:
    """The draws of one generation: nothing but the seed and its number has to be kept to go on."""
    return np.random.default_rng([int(seed), generation])


class CMAESState(eqx.Module):
    """What the search was told: J of each member, `told` (generations, population), from the point `start` (n,) and `seed`.

    `generation`: how many it was told; `z` and `terms`: the lowest J so far. `strategy`: the optimiser as it stands; it is no array,
    so no part of a checkpoint, and is made again from the rest.
    """

    start: Array
    seed: Array
    told: Array
    z: Array
    terms: dict[str, Array]
    generation: Array
    status: Array
    strategy: "_Strategy"


class CMAES(AbstractEnsembleSolver):
    """Evolution strategy with adaptation of the covariance, by the library pycma (Hansen, Akimoto and Baudis 2019, `cma`).

    Members are drawn from N(m, s^2 C) in z. Rank by rank of J the mean m moves to the better ones, s and C learn from the steps
    that did well: with time C comes near to the inverse Hessian of J, up to a factor (Hansen 2016, arXiv:1604.00772). Ranks alone
    count, so no rescaling of J changes it, and a noisy or kinked J harms little. It starts at the first guess z0, which runs too,
    and `sigma` is the first s: 0.5 of the standard deviation of the prior, more where J has many minima. `population`: members a
    generation, 4 + 3 log n without it; several times as many find lower minima of a rugged J, for as many more runs.

    `tolerance`: stop when J has changed by less among the members of a generation and over the last ones (status COLLAPSED), or
    where pycma finds that the search cannot go on (NO_DECREASE); `details["stopped_by"]` has its words. `generations`: at most so many.
    Failed runs have the worst ranks, the nearer to the best point so far the better, which leads back to where the model runs. The rule
    of `solve` for them holds for the first generation; later ones may fail as a whole. A member that "pull in" has moved may be the
    result, but ranks as failed: the search did not ask for it. Runs: 1 + population a generation. Draws: needs a key; NumPy's global
    random numbers are left alone.
    """

    sigma: float = eqx.field(static=True, default=0.5)
    population: int | None = eqx.field(static=True, default=None)
    generations: int = eqx.field(static=True, default=2000)
    tolerance: float = eqx.field(static=True, default=1e-8)
    resumable: bool = eqx.field(static=True, default=True)

    @property
    def default_max_steps(self):
        """The generations."""
        return self.generations

    def __check_init__(self):
        if self.sigma <= 0 or self.tolerance <= 0:
            raise ValueError(complain("sigma and tolerance above zero", f"{self.sigma:g} and {self.tolerance:g}", "sigma=0.5"))
        if self.generations < 1 or self.population is not None and self.population < 6:
            raise ValueError(complain("one generation or more, of six members or more", f"{self.generations} of {self.population}",
                                      "population=None takes 4 + 3 log n"))

    def init(self, problem, z0, key):
        seed, number = _seed(key), problem.space.size
        if number < 2:
            raise ValueError(complain("two parameters or more for CMAES", f"{number}", "GeneticAlgorithm(), which takes one"))
        population = self.population or 4 + int(3 * np.log(number))
        start = jnp.asarray(z0)
        return CMAESState(
            start, seed, jnp.full((self.generations, population), jnp.nan), start, no_terms(problem), jnp.asarray(0),
            jnp.asarray(int(Status.RUNNING)), _Strategy(np.asarray(start, float), int(seed), population, self.sigma, self.tolerance))

    def ask(self, problem, state):
        members = state.strategy.members(state)
        return jnp.asarray(np.concatenate([state.start[None], members]) if int(state.generation) == 0 else members)

    def tries(self, state):
        return int(state.generation) > 0

    def tell(self, problem, state, ran):
        residuals, generation = whitened(problem, ran.predicted), int(state.generation)
        costs, asked = _costs(ran, residuals), self.ask(problem, state)
        best = _best(state, ran, residuals, costs)
        lowest = float(sum(best["terms"].values()))
        if not np.isfinite(lowest):
            return changed(state, status=int(Status.NOT_FINITE), **best)
        moved = np.asarray((ran.z != asked).any(axis=1))
        good = np.isfinite(costs) & ~moved
        worst = costs[good].max(initial=lowest)
        away = np.sum((np.asarray(asked) - np.asarray(best["z"])) ** 2, axis=1)
        told = np.where(good, costs, worst + abs(worst) + 1 + away)[-state.told.shape[1]:]  # without the first guess
        state = changed(state, told=state.told.at[generation].set(told), generation=generation + 1, **best)
        reasons = state.strategy.reasons(state)
        status = Status.MAX_STEPS if generation + 1 == self.generations else Status.RUNNING
        if reasons:
            status = Status.COLLAPSED if set(reasons) & set(SHRUNK) else Status.NO_DECREASE
        return changed(state, status=int(status))

    def progress(self, state):
        return Progress(state.z, state.terms, state.status, Counts.of())

    def details(self, state):
        return {"method": np.array("CMA-ES"), "stopped_by": np.array(", ".join(state.strategy.reasons(state)))}


class _Strategy:
    """pycma's evolution strategy, which cannot go back: it is run again from the start where a state is not the one it stands at."""

    def __init__(self, start: np.ndarray, seed: int, population: int, sigma: float, tolerance: float):
        self.settings, self.generation = (start, seed, population, sigma, tolerance), None

    def members(self, state: CMAESState) -> np.ndarray:
        """The members (population, n) of the generation that `state` waits for."""
        self._to(state)
        return np.array(self.drawn)

    def reasons(self, state: CMAESState) -> list[str]:
        """pycma's words for why the search is over at `state`; empty if it is not."""
        self._to(state)
        return self.ended

    def _to(self, state: CMAESState) -> None:
        wanted = int(state.generation)
        if self.generation is None or self.generation > wanted:
            self._begin()
        for costs in np.asarray(state.told, float)[self.generation:wanted]:
            with _quiet():
                self.search.tell(self.drawn, costs.tolist())
                self.ended = sorted(self.search.stop())
                self.drawn = self.search.ask()
            self.generation += 1

    def _begin(self) -> None:
        import cma  # here, because it takes a second to import

        start, seed, population, sigma, tolerance = self.settings
        rng = np.random.default_rng(seed)
        # Without these it would seed NumPy's global generator, read a file of signals and write a log.
        alone = {"randn": lambda *shape: rng.standard_normal(shape), "seed": np.nan, "signals_filename": None, "verbose": -9, "verb_log": 0}
        with _quiet():
            self.search = cma.CMAEvolutionStrategy(start, sigma, alone | {
                "popsize": population, "tolfun": tolerance, "tolfunhist": 0.1 * tolerance, "maxiter": np.inf})
            self.drawn = self.search.ask()
        self.generation, self.ended = 0, []


@contextlib.contextmanager
def _quiet():
    """Without pycma's warnings, and without the filter for them that it would leave behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
