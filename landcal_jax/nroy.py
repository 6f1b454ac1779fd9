"""Uniform draws from a small region of the prior, and what share of the prior it holds, without rejection from the prior.

The region is {u in (0, 1)^n : score(u) <= cutoff}, in the unit cube u = Phi(z) in which the prior is uniform, whatever the prior of theta;
the score of a history match is the largest implausibility that counts. Of a region of a millionth of the prior, draws of the prior find
nothing. It is reached through regions that shrink, each holding about half of the one before (multilevel splitting; subset simulation:
Au and Beck 2001, Probabilistic Engineering Mechanics 16, 263; Cerou, Del Moral, Furon and Guyader 2012, Statistics and Computing 22, 795):

* points that are uniform in one region are kept where they lie in the next, whose level is the median of their scores; the share that is
  kept estimates the ratio of the two volumes, and the volume of the last region is the product of the shares, without bias (Brehier,
  Gazeau, Goudenege, Lelievre and Rousset 2016, Annals of Applied Probability 26, 3559);
* each of the others takes the place of one that was kept and walks from there inside the next region until nothing reminds of where
  it began (the correlation with that along any principal axis, and of the score, is below `correlation`, or no longer falls);
* a step is a difference of two points that were kept (differential evolution; ter Braak 2006, Statistics and Computing 16, 239), of all
  or some of the coordinates; who leaves the cube on one side comes in on the other. It has the shape of the region where that is thin or
  slanting, and now and then its full length, which leads from one of several separate regions into another. Those kept stand still
  meanwhile, so that steps are symmetric and the walk leaves the uniform distribution as it is.

Batches of points do this independently of each other: the mean of their volumes is the estimate, their spread its standard error.
Where separate regions are shared unequally among batches, those with more volume count for more in `Cloud.draws`.
A pin-prick whose surroundings look no better than the rest is not found: no method that sees scores alone finds it. More points find
smaller ones.
"""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import jax
import numpy as np
from jax import Array
from scipy.stats import qmc

from landcal_jax.errors import complain
from landcal_jax.keys import key_of

Score = Callable[[np.ndarray], np.ndarray]
"""Scores (point,) of points u (point, n) of the unit cube; compiled functions are wanted, thousands of points come at once."""
Inside = Callable[[np.ndarray], np.ndarray]
"""Whether points u (point, n) are in the region so far, (point,)."""

ACCEPTANCE = 0.25
"""The share of steps that should be accepted, near the best for a random walk (Roberts and Rosenthal 2001, Statistical Science 16, 351)."""
FULL_LENGTH = 0.1
"""The share of steps that are a whole difference of two points, which may lead from one separate region into another."""
NO_LONGER = 0.9
"""A correlation that is above this share of what it was half of the steps ago no longer falls."""


@dataclass(frozen=True)
class Cloud:
    """Points that are uniform in a region of the unit cube, in independent batches, and the volume of the region.

    `u` (batch, point, n); `fractions` (batch,): the volume by each batch, zero for one that found nothing; `least`: the volume below which
    the search was given up; `lowest`: the lowest score that was seen; `evaluations`: points whose score was wanted.
    `steps`: by step of the descent, of all batches together: `level` (their mean), `share` that was kept, `moves`, `acceptance` and
    `correlation` of the walks.
    """

    u: np.ndarray
    fractions: np.ndarray
    least: float = 0.0
    lowest: float = -math.inf
    evaluations: int = 0
    steps: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """The volume of the region as a fraction of the cube, which is a fraction of the prior."""
        return float(self.fractions.mean())

    @property
    def fraction_error(self) -> float:
        """Standard error of `fraction`, from the spread of the batches; where none found the region, the volume it may still have."""
        return self.least if self.empty else float(self.fractions.std(ddof=1) / math.sqrt(len(self.fractions)))

    @property
    def empty(self) -> bool:
        """Whether no batch found a point of the region: its volume is then below `least` or so."""
        return not self.fractions.any()

    @property
    def points(self) -> np.ndarray:
        """All points of the batches that found the region, (point, n); see `draws` for their weights."""
        return self.u[self.fractions > 0].reshape(-1, self.u.shape[2])

    def draws(self, number: int, key: Array | int = 0) -> np.ndarray:
        """`number` different points (number, n), uniform in the region: from each batch in proportion to its volume, as chance has it.

        Raises ValueError for an empty region, and for more draws than there are points.
        """
        points = self.points
        if self.empty or number > len(points):
            raise ValueError(complain(f"a region with {number} points", f"{len(points)} points", "shrink(begin(..., points=))"))
        weights = np.repeat(self.fractions[self.fractions > 0], self.u.shape[1])
        # Keys of an exponential race: a sample without replacement whose chances are the weights.
        race = generator(key).exponential(size=len(points)) / weights
        return points[np.argsort(race, kind="stable")[:number]]


def generator(key: Array | int) -> np.random.Generator:
    """The generator of NumPy that belongs to a key."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key_of(key))).tolist())


def begin(n: int, *, points: int = 4096, batches: int = 8, key: Array | int = 0) -> Cloud:
    """Points spread over the whole unit cube of n dimensions: a scrambled Sobol sequence in each batch.

    `points`: how many in all, a power of two in each of the `batches`. Raises ValueError for fewer than 2 n or 16 in a batch,
    another number, or fewer than two batches.
    """
    size = points // max(batches, 1)
    if batches < 2 or size * batches != points or size & (size - 1) or size < max(16, 2 * n):
        raise ValueError(complain(f"two or more batches, of a power of two of points each, {max(16, 2 * n)} at least",
                                  f"points={points}, batches={batches}", "points=4096, batches=8"))
    rng = generator(key)
    u = [qmc.Sobol(n, rng=child).random(size) for child in rng.spawn(batches)]
    return Cloud(np.array(u), np.ones(batches))


def shrink(
    cloud: Cloud, score: Score, cutoff: float, *, inside: Inside | None = None, key: Array | int = 0, keep: float = 0.5,
    correlation: float = 0.2, most_moves: int | None = None, least: float = 1e-9,
) -> Cloud:
    """The part of the region of `cloud` where score(u) <= cutoff, with new points that are uniform in it.

    `inside`: what the region of `cloud` is; the cube without it. `keep`: the share of the points that each step keeps. `correlation`,
    `most_moves`: the walks end when their memory is below the one, at the latest after the other (100 steps for each parameter). `least`:
    the fraction of the cube below which the search for the region is given up. The error of the result includes that of `cloud`.

    A batch whose points all have the same score above the cutoff cannot go down, and has found nothing.
    Raises ValueError where the score is NaN, and for options out of their range.
    """
    if not 0.1 <= keep <= 0.9 or not 0 < correlation < 1 or not 0 < least < 1:
        raise ValueError(complain("keep in 0.1 to 0.9, correlation and least in 0 to 1", f"{keep:g}, {correlation:g}, {least:g}",
                                  "leave them out"))
    descent = _Descent(cloud, score, float(cutoff), inside, generator(key), (keep, correlation, least),
                       100 * cloud.u.shape[2] if most_moves is None else most_moves)
    while descent.active.any():
        descent.step()
    return descent.ended()


class _Descent:
    """Batches of points on their way to the region: what `shrink` does, step by step."""

    def __init__(self, cloud, score, cutoff, inside, rng, options, most_moves):
        self.cloud, self.score, self.cutoff, self.inside, self.rng = cloud, score, cutoff, inside, rng
        (self.keep, self.correlation, self.least), self.most_moves = options, most_moves
        self.u, self.fractions, self.evaluations, self.stride = cloud.u.copy(), cloud.fractions.copy(), 0, 1.0
        batches, size, n = self.u.shape
        self.values = self._scores(self.u.reshape(-1, n)).reshape(batches, size)
        self.level = np.full(batches, math.inf)
        self.steps = {name: [] for name in ("level", "share", "moves", "acceptance", "correlation")}
        self.lowest = float(self.values.min())

    @property
    def active(self) -> np.ndarray:
        """The batches that are neither there nor given up."""
        return (self.level > self.cutoff) & (self.fractions > 0)

    def _scores(self, u: np.ndarray) -> np.ndarray:
        found = np.asarray(self.score(u))
        self.evaluations += len(u)
        if found.shape != (len(u),) or np.isnan(found).any():
            raise ValueError(complain(f"scores ({len(u)},), none of them NaN", f"shape {found.shape}, {np.isnan(found).sum()} NaN",
                                      "a score of inf for points that are to be left out"))
        return found

    def step(self) -> None:
        """One level down in each active batch: keep the points below it, and let the others walk inside."""
        active, size = self.active, self.u.shape[1]
        place = math.ceil(self.keep * size)
        # Just below the best of those that go: the product of the shares is then free of bias (Brehier et al. 2016).
        below = np.nextafter(np.partition(self.values, place, axis=1)[:, place], -math.inf)
        self.level = np.where(active, np.maximum(below, self.cutoff), self.level)
        passing = (self.values <= self.level[:, None]) | ~active[:, None]
        share = passing.mean(axis=1)
        # A single point has no differences to go by.
        self.fractions *= np.where(passing.sum(axis=1) > 1, share, 0.0)
        self.fractions[self.fractions < self.least] = 0.0
        going = active & (self.fractions > 0)
        moved = self._walk(passing, ~passing & going[:, None]) if (share[going] < 1).any() else (0, math.nan, math.nan)
        if active.any():
            for name, value in zip(self.steps, (self.level[active].mean(), share[active].mean(), *moved), strict=True):
                self.steps[name].append(float(value))

    def _walk(self, passing: np.ndarray, movers: np.ndarray) -> tuple[int, float, float]:
        """Put `movers` (batch, point) on points that pass and let them walk; returns moves, acceptance and memory."""
        batch, _ = np.nonzero(movers)
        # Those that pass come first in each batch, so that a random one is a random place.
        kept, many = np.argsort(~passing, axis=1, kind="stable"), passing.sum(axis=1)[batch]
        parent = kept[batch, self._parents(batch, many)]
        start, x, value = self.u[batch, parent], self.u[batch, parent], self.values[batch, parent]
        memory = _Memory(start, value)
        accepted, trail = [], []
        for move in range(self.most_moves):
            first = (self.rng.random(len(batch)) * many).astype(int)
            second = (first + 1 + (self.rng.random(len(batch)) * (many - 1)).astype(int)) % many
            difference = self.u[batch, kept[batch, first]] - self.u[batch, kept[batch, second]]
            proposal, whole = self._proposal(x, difference)
            found = self._scores(proposal)
            good = found <= self.level[batch]
            if self.inside is not None and good.any():
                good[good] = self.inside(proposal[good])
                self.evaluations += int(good.sum())
            x, value = np.where(good[:, None], proposal, x), np.where(good, found, value)
            self.lowest = min(self.lowest, float(value.min()))
            accepted.append(good[~whole].mean() if not whole.all() else ACCEPTANCE)
            self.stride *= math.exp((accepted[-1] - ACCEPTANCE) * min(1.0, 3.0 / math.sqrt(move + 1.0)))
            self.stride = min(max(self.stride, 1e-3), 3.0)
            trail.append(memory(x, value))
            if self._enough(trail, len(batch)):
                break
        self.u[movers], self.values[movers] = x, value
        return len(trail), float(np.mean(accepted)), trail[-1]

    def _parents(self, batch: np.ndarray, many: np.ndarray) -> np.ndarray:
        """A place among those kept for each mover: in turn from a random one, so that none is taken twice before all are once."""
        turn = np.arange(len(batch)) - np.searchsorted(batch, batch)
        offset = (self.rng.random(len(self.level))[batch] * many).astype(int)
        return (turn + offset) % many

    def _proposal(self, x: np.ndarray, difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where each walk would go, and whether that step has its full length."""
        many, n = x.shape
        chance = np.where(self.rng.random(many) < 0.5, 1.0, self.rng.random(many))
        some = self.rng.random((many, n)) < chance[:, None]
        some[np.arange(many), self.rng.integers(n, size=many)] = True
        whole = self.rng.random(many) < FULL_LENGTH
        some |= whole[:, None]
        stride = 2.38 / np.sqrt(2.0 * some.sum(axis=1)) * self.stride * np.exp(0.5 * self.rng.standard_normal(many))
        to = x + np.where(whole, 1.0, stride)[:, None] * np.where(some, difference, 0.0)
        # Where it leaves the cube it comes in again on the other side: reflected steps that slant would no longer be symmetric.
        return np.mod(to, 1.0), whole

    def _enough(self, trail: list[float], many: int) -> bool:
        """Whether the walks have forgotten where they began, up to what chance makes of it, or forget no more."""
        moves, found = len(trail), trail[-1]
        stuck = moves >= 8 * self.u.shape[2] and found > NO_LONGER * trail[moves // 2 - 1]
        return found < self.correlation + 2.0 / math.sqrt(many) or stuck

    def ended(self) -> Cloud:
        """The cloud at the end, which has all that was spent on it."""
        steps = {name: np.array(values) for name, values in self.steps.items()}
        return dataclasses.replace(self.cloud, u=self.u, fractions=self.fractions, least=self.least, lowest=self.lowest,
                                   evaluations=self.cloud.evaluations + self.evaluations, steps=steps)


class _Memory:
    """The largest correlation of walks with their starts: along the principal axes of the starts, and of the score."""

    def __init__(self, start: np.ndarray, value: np.ndarray):
        self.mean = start.mean(axis=0)
        self.axes = np.linalg.svd(start - self.mean, full_matrices=False)[2].T
        self.start = self._whole(start, value)

    def _whole(self, x: np.ndarray, value: np.ndarray) -> np.ndarray:
        features = np.column_stack([(x - self.mean) @ self.axes, value])
        features = features - features.mean(axis=0)
        return features / np.maximum(np.sqrt(np.mean(features**2, axis=0)), 1e-300)

    def __call__(self, x: np.ndarray, value: np.ndarray) -> float:
        return float(np.mean(self.start * self._whole(x, value), axis=0).max())
