"""A Bayesian search that is asked for places and told what runs there gave; `landcal_jax.bayesopt` says what it does and why."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from scipy.special import ndtr, ndtri

from landcal_jax import acquisition, bayesian_model, bayesian_optimum
from landcal_jax import checkpoint as checkpoints
from landcal_jax.bayesian_model import EVEN, LEAST, Model, Runs
from landcal_jax.bayesian_optimum import Optimum
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.members import region_words
from landcal_jax.parameters import ParameterSpace
from landcal_jax.search import EDGE

KNOWN = 16  # best places at which values with noise are drawn
ROOM = 8  # places that still run come in steps of this
NEAR = 5  # best places about which the acquisition is searched closely
REPEATS = 3  # of the best place of the design, where the noise is not known
WIDTHS = (0.01, 0.25, 0.5)  # of the trust region to either side of the best place, as a share of the range: least, first, most
SUCCESSES = 2  # in a row, after which it doubles; it halves after as many failures in a row as half the parameters, at least three


class BayesianSearch:
    """Places to run, one batch after the other: `ask(number)`, `tell(Z, values)`, `result()`.

    `constraints`: names of values that have to be zero or less. `noise`: None where random errors are of unknown size, if there are
    any: the best place of the design is run again, up to three times, which tells; or their standard deviation in units of the
    objective, 0 for none. `least_squares`: the objective is J = 1/2 z'z + 1/2 r'r, and what is told are whitened residuals r, the
    noise in units of these. `logarithm`: model the logarithm of the objective, for a positive one that goes to zero at its minimum over
    orders of magnitude. `design`: how many places come before the first proposal, 2 (n + 1)
    without it: `z0` (n,), the default of the space without it, so that the gain over it is known, and a Sobol sequence.
    `checkpoint`: a file that keeps what was asked and told; a search that is made again in the same way goes on from it. `about`: what the
    file belongs to besides, such as a text that names the objective. The same key and values give the same places.

    Raises ValueError for a design of fewer than three runs, a z0 of another shape, and a checkpoint of another search.
    """

    def __init__(
        self, space: ParameterSpace, *, constraints: Sequence[str] = (), noise: float | None = None, least_squares: bool = False,
        logarithm: bool = False, design: int | None = None, z0: ArrayLike | None = None, key: Array | int = 0,
        checkpoint: str | Path | None = None, about: Any = None,
    ):
        n = space.size
        self.space, self.constraints, self.noise = space, tuple(constraints), noise
        self.least_squares, self.logarithm = least_squares, logarithm
        if least_squares and logarithm:
            raise ValueError(complain("residuals, or the logarithm of values", "least_squares=True and logarithm=True", "one of them"))
        self.design = 2 * (n + 1) if design is None else design
        if self.design < LEAST or (noise is not None and not 0 <= noise < np.inf):
            raise ValueError(complain(f"a design of {LEAST} runs or more, and noise None or a standard deviation",
                                      f"{self.design} runs, {noise}", "design=None, noise=None"))
        self.z0 = np.asarray(space.default_z if z0 is None else z0, float)
        if self.z0.shape != (n,) or not np.isfinite(self.z0).all():
            raise ValueError(complain(f"a finite first guess z0 of shape ({n},)", f"{self.z0}", "z0=None takes the default"))
        self.key = key_of(key)
        self._seed = int(jax.random.bits(self.key, dtype=jnp.uint32))
        self._told, self._asked = Runs.none(n, len(self.constraints)), Runs.none(n, len(self.constraints))
        self._trace = np.zeros((0, len(bayesian_optimum.TRACE)))
        self._given, self._iteration = 0, 0  # places of the design, batches
        self._repeats, self._proposals = 0, 0
        self._width, self._streak, self._before = WIDTHS[1], 0, 0  # of the trust region
        self.seconds = {"search": 0.0, "runs": 0.0}
        self._fitted: tuple[int, Model] | None = None
        self._fits: bayesian_model.Fits = {}
        self._file = None if checkpoint is None else Path(checkpoint)
        if self._file is not None:
            options = (self.constraints, noise, least_squares, logarithm, self.design)
            problem, *more = about if isinstance(about, tuple) else (None, about)
            self._belongs_to = checkpoints.fingerprint(problem, options, space, self.z0, self.key, *more)
            self._load()

    @property
    def done(self) -> int:
        """Runs that were told, failed ones included."""
        return len(self._told.values)

    @property
    def pending(self) -> np.ndarray:
        """Places z (point, n) that were asked for and not told yet."""
        return self._asked.z.copy()

    @property
    def lowest(self) -> float:
        """The lowest value of a finished run whose constraints were kept, noise and all; NaN if there is none."""
        return bayesian_optimum.lowest(self._told)

    def ask(self, number: int = 1) -> np.ndarray:
        """The next `number` places z (number, n), all those asked for before being taken to run still.

        Places of the design, as long as it lasts, as long as fewer than three runs have finished, and where all gave the same value.
        """
        begin = time.perf_counter()
        values = self._told.values[self._told.finished]
        if self._given < self.design or len(values) < LEAST or np.ptp(values) == 0:
            z, gain = self._filling(number), np.full(number, np.nan)
        else:
            again = self._again()
            z, gain = self._proposed(number - len(again), again)
        self._asked = self._asked.extended(z=z, gain=gain, iteration=np.full(number, self._iteration))
        self._iteration += 1
        self.seconds["search"] += time.perf_counter() - begin
        self._save()
        return z

    def tell(
        self, Z: ArrayLike, values: ArrayLike, *, constraints: Mapping[str, ArrayLike] | None = None, noise: ArrayLike | None = None,
        seconds: float = 0.0,
    ) -> None:
        """What runs at Z (run, n) gave: `values` of the objective (run,) and of each constraint by name; a NaN among them: it has failed.

        With `least_squares` the values are whitened residuals (run, m). Z need not be what was asked for, nor in that order: earlier runs
        may be told too. `noise` (run,): the standard deviation of each value, where it is not the same for all; `seconds`: how long the
        runs took. Raises ValueError for other shapes, other constraints, and values of zero or less where the logarithm is modelled.
        """
        Z, values, residuals = self._checked(Z, values)
        given = dict(constraints or {})
        if set(given) != set(self.constraints):
            raise ValueError(complain(f"the constraints {', '.join(self.constraints) or 'of none'}", f"{', '.join(given) or 'none'}",
                                      "BayesianSearch(constraints=[...]) names them"))
        limits = np.array([np.broadcast_to(given[name], values.shape) for name in self.constraints], float).reshape(-1, len(values)).T
        finished = np.isfinite(values) & np.isfinite(limits).all(axis=1)
        if self.logarithm and (values[finished] <= 0).any():
            raise ValueError(complain("values above zero, whose logarithm is modelled", f"{values[finished].min():g}", "logarithm=False"))
        alone = np.nan if self.noise is None else self.noise
        noise = np.array(np.broadcast_to(alone if noise is None else noise, values.shape), float)
        if len({*np.isnan(self._told.noise), *np.isnan(noise)}) > 1:
            raise ValueError(complain("the noise of every run, or of none", "that of some", "tell(..., noise=) each time, or never"))
        self._asked, gain, iteration = self._asked.without(Z, self._iteration)
        self._told = self._told.extended(
            z=Z, values=np.where(finished, values, np.nan), noise=noise, limits=limits, gain=gain, iteration=iteration, residuals=residuals)
        self.seconds["runs"] += seconds
        self._save()

    def _checked(self, Z: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Places, values (run,) and residuals (run, m), m = 0 where values are no sums of squares."""
        Z, given = np.asarray(Z, float), np.asarray(values, float)
        number = self._told.residuals.shape[1] if self.done else given.shape[-1] if given.ndim else 0
        shape, words = (Z.shape[:1], "(run,)") if not self.least_squares else ((*Z.shape[:1], number), f"(run, {number or 'm'}), residuals")
        if Z.ndim != 2 or Z.shape[1] != self.space.size or given.shape != shape or not np.isfinite(Z).all() or shape[-1:] == (0,):
            raise ValueError(complain(f"finite Z of shape (run, {self.space.size}), values of shape {words}",
                                      f"shapes {Z.shape} and {given.shape}", "the places that ask() gave"))
        if not self.least_squares:
            return Z, given, np.zeros((len(Z), 0))
        with np.errstate(over="ignore", invalid="ignore"):
            return Z, 0.5 * np.sum(Z**2, axis=1) + 0.5 * np.sum(given**2, axis=1), given

    def result(self) -> Optimum:
        """The best run so far by the posterior mean, with all runs. Raises RuntimeError where fewer than three have finished."""
        finished = self._told.finished
        if finished.sum() < LEAST or np.ptp(self._told.values[finished]) == 0:
            raise RuntimeError(complain(
                f"at least {LEAST} finished runs of different values", f"{finished.sum()} of {self.done}{self._where_failed()}",
                "more runs, a narrower prior, or look at the messages of the model"))
        model, trace = self._model(), self._trace
        if not len(trace) or trace[-1, 0] != self.done:
            trace = np.concatenate([trace, [self._standing(model, np.nan)]])
        return bayesian_optimum.report(
            self.space, self._told, self.constraints, self.logarithm, model, trace, dict(self.seconds), self._where_failed())

    def _where_failed(self) -> str:
        return "" if self._told.finished.all() else region_words(self, self._told.z, self._told.finished)

    def _again(self) -> np.ndarray:
        """The best place (1, n), where the noise is still to be learned from runs at one place; none, (0, n), once two of them were equal.

        One in a batch: others may be proposed beside it.
        """
        told, finished = self._told, self._told.finished
        waits = (self._asked.z[:, None] == told.z).all(axis=2).any()
        known = self.noise is not None or not np.isnan(told.noise).all() or bayesian_model.repeated(told)[0] == 0.0
        if known or waits or self._repeats == REPEATS:
            return told.z[:0]
        self._repeats += 1
        return told.z[finished][[np.argmin(told.values[finished])]]

    def _filling(self, number: int) -> np.ndarray:
        """The next places of the design: the first guess and a scrambled Sobol sequence, which goes on as long as one likes."""
        from scipy.stats import qmc  # here, because scipy.stats takes a second to import

        self._given += number
        rows = max(self._given - 1, 1)
        sequence = qmc.Sobol(self.space.size, rng=np.random.default_rng(self._seed)).random_base2(int(np.ceil(np.log2(rows))))
        places = np.concatenate([self.z0[None], ndtri(np.clip(sequence, EDGE, 1 - EDGE))])
        return places[self._given - number : self._given]

    def _proposed(self, number: int, again: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`again`, and `number` places z one after the other, each with those before it pending; log of what each is expected to gain."""
        if not number:
            return again, np.full(len(again), np.nan)
        model = self._model()
        self._adapt(model)
        best, ahead = model.x[model.order], list(2 * ndtr(np.concatenate([self._asked.z, again])) - 1)
        # Where the mean is low, or may be: a place of which little is known may be the best.
        hopeful = model.x[np.lexsort((model.low, model.likely < EVEN))[: 0 if model.exact else KNOWN]]
        edge, gains = np.full(self.space.size, 1 - 2 * EDGE), []
        for turn in range(number):
            room = len(hopeful) + ROOM * -(-len(ahead) // ROOM)  # so that batches of up to `ROOM` share what is compiled
            known = np.concatenate([hopeful, *(place[None] for place in ahead)])
            known = np.concatenate([known, np.repeat(best[:1], room - len(known), axis=0)])
            seed = [self._seed, self.done, len(ahead), turn]
            gain = acquisition.fantasies(
                model.processes, known, squares=model.squares, best=model.best, success=model.success, least=model.small, seed=seed)
            # Every other place is sought in the trust region alone: of many parameters, far corners are always the least known places.
            local = (self._proposals + turn) % 2 == 1
            low, high = np.clip(best[0] + 2 * self._width * np.array([[-1], [1]]), -edge, edge) if local else (-edge, edge)
            place, value = acquisition.maximise(gain, low, high, best[: 1 if local else NEAR], away=np.array(ahead), seed=seed)
            ahead.append(place)
            gains.append(value)
        self._proposals += number
        self._trace = np.concatenate([self._trace, [self._standing(model, gains[0])]])
        z = ndtri(np.clip((np.array(ahead[-number:]) + 1) / 2, EDGE, 1 - EDGE))
        return np.concatenate([again, z]), np.concatenate([np.full(len(again), np.nan), gains])

    def _adapt(self, model: Model) -> None:
        """Widen the trust region where runs since the last proposals gave a new best place, narrow it where none did for long."""
        if self._proposals:
            new = np.flatnonzero(self._told.finished)[model.order[0]] >= self._before
            self._streak = max(self._streak, 0) + 1 if new else min(self._streak, 0) - 1
        least, first, most = WIDTHS
        if self._streak >= SUCCESSES:
            self._width, self._streak = min(2 * self._width, most), 0
        elif -self._streak >= max(3, self.space.size):
            self._width, self._streak = self._width / 2, 0
        if self._width < least:
            self._width = first
        self._before = self.done

    def _model(self) -> Model:
        """The processes, fitted once for the runs that were told."""
        if self._fitted is None or self._fitted[0] != self.done:
            self._fitted = self.done, bayesian_model.fitted(self._told, self.key, self.logarithm, self._fits)
        return self._fitted[1]

    def _standing(self, model: Model, gain: float) -> np.ndarray:
        """One row of the trace, see `bayesian_optimum.TRACE`."""
        best = model.order[0]
        noise = np.nan if self.least_squares or not np.isnan(self._told.noise).any() else model.noise
        return np.array([self.done, (~self._told.finished).sum(), model.mean[best], model.low[best], model.high[best], model.likely[best],
                         bayesian_optimum.lowest(self._told), noise, np.flatnonzero(self._told.finished)[best], gain])

    def _save(self) -> None:
        if self._file is not None:
            numbers = [self._given, self._iteration, self._repeats, self._proposals, self._streak, self._before, self._width]
            state = jax.tree.map(jnp.asarray, (self._told, self._asked, self._trace, np.array(numbers)))
            checkpoints.save(self._file, self._belongs_to, (), state, self.done, {}, self.seconds)

    def _load(self) -> None:
        saved = checkpoints.load(self._file, self._belongs_to)
        if saved is None:
            return
        structure = jax.tree.structure((self._told, self._asked, self._trace, self._given))
        if len(saved.leaves) != structure.num_leaves:
            raise ValueError(complain(f"a checkpoint of this version of the search at {self._file}", "another number of arrays",
                                      "remove the file to start from the beginning"))
        self._told, self._asked, self._trace, (*numbers, width) = jax.tree.unflatten(structure, saved.leaves)
        self._given, self._iteration, self._repeats, self._proposals, self._streak, self._before = map(int, numbers)
        self._width, self.seconds = float(width), dict(saved.seconds)
