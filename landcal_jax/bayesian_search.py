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

from landcal_jax import acquisition, bayesian_optimum
from landcal_jax import checkpoint as checkpoints
from landcal_jax.bayesian_optimum import Model, Optimum, Runs
from landcal_jax.errors import complain
from landcal_jax.gp import GaussianProcesses
from landcal_jax.keys import key_of
from landcal_jax.members import region_words
from landcal_jax.parameters import ParameterSpace
from landcal_jax.search import EDGE

LEAST = 3  # finished runs that a process with a constant mean needs
KNOWN = 16  # best places at which values are drawn; those that run still come to them, in steps of `ROOM`
ROOM = 8
NEAR = 5  # best places about which the acquisition is searched closely
LABEL_SD = 0.1  # of the labels -1 and +1 of finished and failed runs: one failure among many others may be chance


class BayesianSearch:
    """Places to run, one batch after the other: `ask(number)`, `tell(Z, values)`, `result()`.

    `constraints`: names of values that have to be zero or less. `noise`: None for random errors of unknown size, which is fitted,
    or their standard deviation in units of the objective, 0 for none. `logarithm`: model the logarithm of the objective, for a positive one
    that grows by orders of magnitude away from its minimum. `design`: how many places come before the first proposal, 2 (n + 1)
    without it: `z0` (n,), the default of the space without it, so that the gain over it is known, and a Sobol sequence.
    `checkpoint`: a file that keeps what was asked and told; a search that is made again in the same way goes on from it. `about`: what the
    file belongs to besides, such as a text that names the objective. The same key and values give the same places.

    Raises ValueError for a design of fewer than three runs, a z0 of another shape, and a checkpoint of another search.
    """

    def __init__(
        self, space: ParameterSpace, *, constraints: Sequence[str] = (), noise: float | None = None, logarithm: bool = False,
        design: int | None = None, z0: ArrayLike | None = None, key: Array | int = 0, checkpoint: str | Path | None = None,
        about: Any = None,
    ):
        n = space.size
        self.space, self.constraints, self.noise, self.logarithm = space, tuple(constraints), noise, logarithm
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
        self.seconds = {"search": 0.0, "runs": 0.0}
        self._fitted: tuple[int, Model] | None = None
        self._file = None if checkpoint is None else Path(checkpoint)
        if self._file is not None:
            options = (self.constraints, noise, logarithm, self.design)
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
            z, gain = self._proposed(number)
        self._asked = self._asked.extended(z=z, gain=gain, iteration=np.full(number, self._iteration))
        self._iteration += 1
        self.seconds["search"] += time.perf_counter() - begin
        self._save()
        return z

    def tell(
        self, Z: ArrayLike, values: ArrayLike, *, constraints: Mapping[str, ArrayLike] | None = None, noise: ArrayLike | None = None,
        seconds: float = 0.0,
    ) -> None:
        """What runs at Z (run, n) gave: `values` (run,) of the objective and of each constraint by name; a NaN among them: it has failed.

        Z need not be what was asked for, nor in that order: earlier runs may be told too. `noise` (run,): the standard deviation
        of each value, where it is not the same for all; `seconds`: how long the runs took.
        Raises ValueError for other shapes, other constraints, and values of zero or less where the logarithm is modelled.
        """
        Z, values = np.asarray(Z, float), np.asarray(values, float)
        if Z.ndim != 2 or Z.shape[1] != self.space.size or values.shape != Z.shape[:1] or not np.isfinite(Z).all():
            raise ValueError(complain(f"finite Z of shape (run, {self.space.size}), values of shape (run,)",
                                      f"shapes {Z.shape} and {values.shape}", "the places that ask() gave"))
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
            z=Z, values=np.where(finished, values, np.nan), noise=noise, limits=limits, gain=gain, iteration=iteration)
        self.seconds["runs"] += seconds
        self._save()

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

    def _filling(self, number: int) -> np.ndarray:
        """The next places of the design: the first guess and a scrambled Sobol sequence, which goes on as long as one likes."""
        from scipy.stats import qmc  # here, because scipy.stats takes a second to import

        self._given += number
        rows = max(self._given - 1, 1)
        sequence = qmc.Sobol(self.space.size, rng=np.random.default_rng(self._seed)).random_base2(int(np.ceil(np.log2(rows))))
        return np.concatenate([self.z0[None], ndtri(np.clip(sequence, EDGE, 1 - EDGE))])[self._given - number : self._given]

    def _proposed(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Places z (number, n) one after the other, each with those before it pending, and the log of what each is expected to gain."""
        model = self._model()
        best, ahead = model.x[model.order], list(2 * ndtr(self._asked.z) - 1)
        # Where the mean is low, or may be: a place of which little is known may be the best.
        hopeful = model.x[np.lexsort((model.mean - model.sd, model.likely < bayesian_optimum.EVEN))[:KNOWN]]
        edge, gains = np.full(self.space.size, 1 - 2 * EDGE), []
        for turn in range(number):
            room = KNOWN + ROOM * max(1, -(-len(ahead) // ROOM))  # so that batches of up to `ROOM` share what is compiled
            known = np.concatenate([hopeful, *(place[None] for place in ahead)])
            known = np.concatenate([known, np.repeat(best[:1], room - len(known), axis=0)])
            seed = [self._seed, self.done, len(ahead), turn]
            gain = acquisition.fantasies(model.processes, known, success=model.success, seed=seed)
            place, value = acquisition.maximise(gain, -edge, edge, best[:NEAR], away=np.array(ahead), seed=seed)
            ahead.append(place)
            gains.append(value)
        self._trace = np.concatenate([self._trace, [self._standing(model, gains[0])]])
        return ndtri(np.clip((np.array(ahead[-number:]) + 1) / 2, EDGE, 1 - EDGE)), np.array(gains)

    def _model(self) -> Model:
        """The processes, fitted once for the runs that were told."""
        if self._fitted is not None and self._fitted[0] == self.done:
            return self._fitted[1]
        told, finished, key = self._told, self._told.finished, jax.random.fold_in(self.key, self.done)
        everywhere = 2 * ndtr(told.z) - 1
        x, values, noise = everywhere[finished], told.values[finished], told.noise[finished]
        if self.logarithm:
            values, noise = np.log(values), noise / values
        objective = GaussianProcesses.fit(
            x, values[:, None], mean="constant", noise=None if np.isnan(noise).any() else noise[:, None], key=key)
        limits, likely = told.limits[finished], np.ones(len(x))
        # A constraint that has had one value alone says nothing of where it would be broken.
        varies = np.ptp(limits, axis=0) > 0
        processes = (objective,)
        if varies.any():
            processes += (GaussianProcesses.fit(x, limits[:, varies], mean="constant", key=key),)
            mean, variance = processes[1].predict(x, nugget=False)
            likely = np.exp(np.sum(np.asarray(acquisition.log_probability_below(mean, variance)), axis=1))
        likely = np.where((limits[:, ~varies] > 0).any(axis=1), 0.0, likely)
        success = None
        if not finished.all():
            labels = np.where(finished, -1.0, 1.0)[:, None]
            success = GaussianProcesses.fit(everywhere, labels, mean="constant", noise=LABEL_SD, key=key)
        mean, variance = objective.predict(x, nugget=False)
        model = Model(processes, success, x, np.asarray(mean)[:, 0], np.sqrt(np.asarray(variance)[:, 0]), likely)
        self._fitted = self.done, model
        return model

    def _standing(self, model: Model, gain: float) -> np.ndarray:
        """One row of the trace, see `bayesian_optimum.TRACE`."""
        best = model.order[0]
        noise = float(model.processes[0].nugget[0]) if np.isnan(self._told.noise).any() else np.nan
        return np.array([self.done, (~self._told.finished).sum(), model.mean[best], model.sd[best], model.likely[best],
                         bayesian_optimum.lowest(self._told), noise, np.flatnonzero(self._told.finished)[best], gain])

    def _save(self) -> None:
        if self._file is not None:
            state = jax.tree.map(jnp.asarray, (self._told, self._asked, self._trace, np.array([self._given, self._iteration])))
            checkpoints.save(self._file, self._belongs_to, (), state, self.done, {}, self.seconds)

    def _load(self) -> None:
        saved = checkpoints.load(self._file, self._belongs_to)
        if saved is None:
            return
        structure = jax.tree.structure((self._told, self._asked, self._trace, self._given))
        if len(saved.leaves) != structure.num_leaves:
            raise ValueError(complain(f"a checkpoint of this version of the search at {self._file}", "another number of arrays",
                                      "remove the file to start from the beginning"))
        self._told, self._asked, self._trace, (self._given, self._iteration) = jax.tree.unflatten(structure, saved.leaves)
        self._given, self._iteration, self.seconds = int(self._given), int(self._iteration), dict(saved.seconds)
