"""History matching: what of the parameter space the observations rule out, with as few runs of the model as possible.

    problem = with_metrics(problem, {"nee_rmsd": Metric("nee", rmsd), ...})
    history = history_match(problem, waves=5, folder="waves")
    print(history)
    posterior = history.posterior(1000)

A wave runs the model at a design of ten points a parameter, fits emulators to what it gave for each target, and rules out what
these say is implausible (see `landcal_jax.implausibility`). What is left is the space not ruled out yet, NROY; the next wave is designed
there, where its emulators, which have less to explain, see more (Williamson et al. 2013, Climate Dynamics 41, 1703; for land surface
models Raoult et al. 2024, Geoscientific Model Development 17, 5779). A point must pass all waves. What is left has no probabilities:
nothing in it is more likely than anything else, and an empty one says that the model, as it is, cannot meet the targets together.

Each wave begins with the points that the last one left, uniform in its NROY: those that pass are kept, and others walk to where those
that fail should be (`landcal_jax.nroy`). So the fraction of the prior that is left is a product of one factor a wave, with its error, and
a space of a millionth of the prior costs no more than a large one. Emulators learn from the runs of their wave and from as many of
the earlier ones, those that are least implausible.

For a model that runs elsewhere, with nothing but files in between, `History.design` and `History.told` are the two halves of a wave, and
`save` and `resumed` keep what is known between them; runs that are there already are a forward map by `landcal_jax.recorded`:

    z = history.design()                                            # write space.flatten(space.physical(z)) for the cluster
    history = history.told(z, values)                               # (run, target) as read back, NaN for runs that failed
    history.save("waves")                                           # next week: History.of(problem).resumed("waves")
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from landcal_jax import history_files, history_tables, nroy
from landcal_jax import progress as progress_line
from landcal_jax.emulator import latin_hypercube
from landcal_jax.errors import complain
from landcal_jax.gp import MEANS
from landcal_jax.gp_fitting import basis_size
from landcal_jax.implausibility import Judge, Targets, judge_of, targets_of, values_of
from landcal_jax.keys import key_of
from landcal_jax.members import FailedRuns, region_words, run_members
from landcal_jax.nroy import Cloud
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem

RUNS = 10
"""Runs of a wave for each parameter (Loeppky, Sacks and Welch 2009, Technometrics 51, 366)."""
SETTLED = 0.05
"""Two waves in a row that rule out less than this share each say that more waves will not rule out more."""
CERTAIN = 0.1
"""Variance of an emulator over that of its target below which more runs would change nothing."""
Rule = Literal["settled", "certain"]


@dataclass(frozen=True)
class Wave:
    """One wave: `z` (run, n) of its design; `values` (run, target) that the model gave, NaN where it failed; `judge`: what its emulators
    say; `cloud`: points that are uniform in what is left after it; `learned_from`: how many runs the emulators saw; `key`: of their fit, as
    numbers; `notes` in words."""

    z: np.ndarray
    values: np.ndarray
    judge: Judge
    cloud: Cloud
    learned_from: int
    key: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> np.ndarray:
        """Which runs gave all targets, (run,)."""
        return np.isfinite(self.values).all(axis=1)


@dataclass(frozen=True)
class History:
    """Waves so far, and what they leave of the parameter space; `history_match` makes it, or `History.of(problem)` and `told`.

    `first`: the points that are spread over the prior; `status`: why it ended, in a sentence, or that it may go on.
    """

    problem: Problem
    targets: Targets
    first: Cloud
    cutoff: float
    valmax: int
    mean: str
    reuse: bool
    least: float
    waves: tuple[Wave, ...] = ()
    status: str = "no wave yet"

    @classmethod
    def of(
        cls, problem: Problem, *, cutoff: float = 3.0, valmax: int = 0, discrepancy: Mapping[str, ArrayLike] | None = None,
        mean: str = "linear", reuse: bool = True, points: int = 2048, least: float = 1e-9, key: Array | int = 0,
    ) -> "History":
        """A history without waves; the options are those of `history_match`."""
        targets = targets_of(problem.observations, discrepancy)
        # All that could be refused only after the runs of a wave, which may be days, is refused here.
        if not cutoff > 0 or not 0 <= valmax < len(targets.labels) or mean not in MEANS or not 0 < least < 1:
            raise ValueError(complain(
                f"a cutoff above 0, a valmax of 0 to {len(targets.labels) - 1}, one less than the targets, a mean of {', '.join(MEANS)}, "
                "least in 0 to 1", f"cutoff={cutoff:g}, valmax={valmax}, mean={mean!r}, least={least:g}", "leave them out"))
        first = nroy.begin(problem.space.size, points=points, key=key)
        return cls(problem, targets, first, float(cutoff), valmax, mean, reuse, least)

    # ------------------------------------------------------------------ what is left

    @property
    def cloud(self) -> Cloud:
        """Points that are uniform in what is left now, in the unit cube u = Phi(z)."""
        return self.waves[-1].cloud if self.waves else self.first

    @property
    def fraction(self) -> float:
        """The fraction of the prior that is not ruled out yet."""
        return self.cloud.fraction

    @property
    def fraction_error(self) -> float:
        """Standard error of `fraction`; of an empty space, the fraction that it may still have."""
        return self.cloud.fraction_error

    @property
    def empty(self) -> bool:
        """Whether everything is ruled out."""
        return self.cloud.empty

    @property
    def runs(self) -> int:
        """Model runs so far, failed ones too."""
        return sum(len(wave.z) for wave in self.waves)

    def scores(self, z: ArrayLike) -> np.ndarray:
        """The implausibility that counts of each wave at z (point, n): (wave, point)."""
        u = ndtr(np.asarray(z, float))
        return np.array([wave.judge.score(u) for wave in self.waves]).reshape(len(self.waves), len(u))

    def kept(self, z: ArrayLike) -> np.ndarray:
        """Whether z (point, n) has passed all waves, (point,)."""
        return self._inside(ndtr(np.asarray(z, float)))

    def draws(self, number: int, key: Array | int = 0) -> np.ndarray:
        """z (number, n), uniform under the prior in what is left. Raises ValueError if that is empty, or for more than `points`."""
        return ndtri(self.cloud.draws(number, key))

    def posterior(self, draws: int = 1000, key: Array | int = 0) -> Posterior:
        """Draws of the prior, as far as it is not ruled out, as a `Posterior`, to be compared with others and propagated.

        Its bands are those of all that is left, all alike: wider than a posterior, which has preferences there.
        Raises ValueError if nothing is left.
        """
        details = {"fraction": self.fraction, "fraction_error": self.fraction_error, "waves": len(self.waves), "forward": self.runs,
                   "note": f"{self.share_words()}; the prior restricted to it"}
        return from_draws(self.problem, self.draws(draws, key), method=f"history matching ({len(self.waves)} waves)", details=details)

    def to_xarray(self) -> xr.Dataset:
        """Fractions, targets, emulators, designs and values by wave, and points of what is left: see `history_tables.waves`."""
        return history_tables.waves(self)

    def matrix(self, *, bins: int = 15, points: int = 8192) -> xr.Dataset:
        """What is left by pairs of parameters, for `plot_history_matching.matrix`: see `history_tables.matrix`."""
        return history_tables.matrix(self, bins=bins, points=points)

    def envelopes(self, series: Problem, *, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> xr.Dataset:
        """Bands of time series by wave, for `plot_history_matching.envelopes`: see `history_tables.envelopes`."""
        return history_tables.envelopes(self, series, quantiles=quantiles)

    def share_words(self) -> str:
        """What is left, in words."""
        if self.empty:
            return f"nothing is left: less than {self.cloud.least:.0e} of the prior"
        return f"{100 * self.fraction:.3g} +- {100 * self.fraction_error:.1g} % of the prior is left"

    # ------------------------------------------------------------------ one wave

    def design(self, runs: int | None = None, key: Array | int = 0) -> np.ndarray:
        """z (run, n) where the model should be run next: ten runs for each parameter without a number.

        For the first wave a Latin hypercube. Later the points of the present NROY that, with the runs that are there already, represent all
        of it best (least energy distance, one point at a time: Mak and Joseph 2018, Annals of Statistics 46, 2562).
        Raises ValueError if nothing is left, and for fewer runs than emulators of a first wave, or of one without reuse, can learn from.
        """
        n = self.problem.space.size
        runs = RUNS * n if runs is None else runs
        if runs < (needed := basis_size(self.mean, n) + 2) and not (self.waves and self.reuse):
            raise ValueError(complain(f"{needed} runs or more, for emulators with a {self.mean} mean of {n} parameters", f"{runs}",
                                      "ten for each parameter, or a simpler mean="))
        if not self.waves:
            return np.asarray(latin_hypercube(self.problem, runs, key=key))
        among = self.cloud.draws(min(len(self.cloud.points), max(20 * runs, 1000)), key)
        before = np.concatenate([ndtr(wave.z) for wave in self.waves])
        taken = np.concatenate([before[self._inside(before)], np.zeros((0, n))])
        return ndtri(spread(among, runs, taken))

    def told(self, z: ArrayLike, values: ArrayLike | Mapping[str, ArrayLike], key: Array | int = 0) -> "History":
        """The history with one more wave, whose runs at z (run, n) gave `values`.

        `values`: (run, target) in the order of `targets.labels`, or {stream: (run, site, n_obs)} as `problem.ensemble` gives them; NaN
        for runs that failed, which are left out and counted. Raises ValueError for other shapes, for too few runs that finished, and
        if nothing was left before.
        """
        z = np.asarray(z, float)
        values = values_of(self.problem.observations, values) if isinstance(values, Mapping) else np.asarray(values, float)
        if z.ndim != 2 or z.shape[1] != self.problem.space.size or values.shape != (len(z), len(self.targets.labels)) or self.empty:
            raise ValueError(complain(
                f"z (run, {self.problem.space.size}) and values (run, {len(self.targets.labels)}) where something is left",
                f"{z.shape} and {values.shape}, {self.share_words()}", "one row for each run, in the order of history.targets.labels"))
        of_fit, of_walk = jax.random.split(key_of(key))
        wave = self.learned(z, values, np.asarray(jax.random.key_data(of_fit)))
        cloud = nroy.shrink(self.cloud, wave.judge.score, self.cutoff, inside=self._inside, key=of_walk, least=self.least)
        return self.joined(dataclasses.replace(wave, cloud=cloud))

    def learned(self, z: np.ndarray, values: np.ndarray, key: np.ndarray) -> Wave:
        """What emulators learn from runs at z (run, n) that gave `values` (run, target): a wave that has ruled out nothing yet.

        `key`: numbers of a key of JAX, for their fit.
        """
        finished = np.isfinite(values).all(axis=1)
        u, lessons = self._lessons(ndtr(z[finished]), values[finished])
        judge = judge_of(u, lessons, self.targets, valmax=self.valmax, mean=self.mean, key=jax.random.wrap_key_data(jnp.asarray(key)))
        return Wave(z, values, judge, self.cloud, len(u), key, self._notes(z, finished, judge))

    def save(self, folder: str | Path) -> None:
        """Keep all waves in a folder, one file each; those that are there stay. Raises ValueError for a folder of another history."""
        history_files.save(self, folder, history_files.belongs_to(self))

    def resumed(self, folder: str | Path) -> "History":
        """The history with the waves after its own that `save` kept; the same without any.

        Raises ValueError for a folder of another history: other parameters, targets, options or key of `History.of`.
        """
        return history_files.waves(self, folder, history_files.belongs_to(self))

    def joined(self, wave: Wave) -> "History":
        """The history with this wave at its end, and what it says of going on."""
        after = dataclasses.replace(self, waves=(*self.waves, wave))
        return dataclasses.replace(after, status=_status(after))

    def _lessons(self, u: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The runs of a wave with as many of the earlier ones, where these are to be used: those that are least implausible so far."""
        if not self.waves or not self.reuse:
            return u, values
        before = np.concatenate([ndtr(wave.z[wave.finished]) for wave in self.waves])
        given = np.concatenate([wave.values[wave.finished] for wave in self.waves])
        order = np.argsort(self.scores(ndtri(before)).max(axis=0), kind="stable")[: len(u)]
        return np.concatenate([u, before[order]]), np.concatenate([values, given[order]])

    def _inside(self, u: np.ndarray) -> np.ndarray:
        good = np.ones(len(u), bool)
        for wave in reversed(self.waves):
            if good.any():
                good[good] = wave.judge.score(u[good]) <= self.cutoff
        return good

    def _notes(self, z: np.ndarray, finished: np.ndarray, judge: Judge) -> tuple[str, ...]:
        notes = []
        if not finished.all():
            where = region_words(self.problem, z, finished)
            notes.append(f"{(~finished).sum()} of {len(z)} runs failed and are left out{where}")
        if not judge.used.all():
            unused = ", ".join(f"{name} (R2 {r2:.2f})" for name, r2, used in zip(self.targets.labels, judge.r2, judge.used, strict=True)
                               if not used)
            notes.append(f"not used, since its emulator learned nothing: {unused}")
        wide = [f"{name} ({factor:.1f} times)" for name, factor in zip(self.targets.labels, judge.inflation, strict=True) if factor > 2]
        if wide:
            notes.append(f"emulators whose leave-one-out errors are larger than they say have a larger variance now: {', '.join(wide)}")
        return tuple(notes)

    def __str__(self) -> str:
        lines = [f"History matching: {self.problem.space.size} parameters, {len(self.targets.labels)} targets, cutoff {self.cutoff:g}"
                 + (f", {self.valmax} of them may fail" if self.valmax else "")]
        for number, wave in enumerate(self.waves, 1):
            left = dataclasses.replace(self, waves=self.waves[:number]).share_words()
            lines.append("; ".join((f"wave {number}: {len(wave.z)} runs, {left}", *wave.notes)))
        return "\n".join([*lines, self.status])


def history_match(
    problem: Problem, *, waves: int = 5, runs_a_wave: int | None = None, cutoff: float = 3.0, valmax: int = 0,
    discrepancy: Mapping[str, ArrayLike] | None = None, mean: str = "linear", reuse: bool = True, points: int = 2048,
    least: float = 1e-9, stop: Sequence[Rule] = ("settled", "certain"), failed: FailedRuns | None = None, folder: str | Path | None = None,
    progress: bool = True, key: Array | int = 0,
) -> History:
    """Rule out what the observations of `problem` rule out, in at most `waves` waves of `runs_a_wave` runs (ten for each parameter).

    `cutoff`: the implausibility above which a point is ruled out; of k targets with normal errors the truth itself is above three with a
    chance of 1 - 0.9973^k, 2 % of 9 and 24 % of 100. `valmax`: how many targets may be above it all the same, at each wave.
    `discrepancy`: stream -> standard deviation of what the model may be wrong by at its best, in units of the stream. `mean`: of the
    emulators, "constant", "linear" or "quadratic". `reuse`: whether they learn from runs of earlier waves too. `points`: how many
    follow what is left, a power of two times eight; more make its fraction more precise. `least`: the fraction of the prior below
    which it counts as empty. `failed`: the rule for runs that fail; they are left out of the emulators, counted and said. `folder`:
    keeps each wave when it is done; a run that finds waves there goes on after them, also with more `waves` than the one before, and
    ends with the same bits (runs of a wave that was cut short are kept by `BlackBoxForward(store=)`).

    It ends before the last wave when nothing is left, and by the rules in `stop`: "settled", two waves in a row ruled out less than 5 %
    each; "certain", everywhere in what is left the variance of all emulators is below a tenth of that of their target. `History.status`
    says which.

    Raises ValueError for options out of their range, a problem without targets or with too many, and a folder of another run;
    RuntimeError if more runs fail than `failed` allows.
    """
    key = key_of(key)
    if waves < 1 or (runs_a_wave is not None and runs_a_wave < 1) or any(rule not in ("settled", "certain") for rule in stop):
        raise ValueError(complain('one wave or more of one run or more, stop of "settled" and "certain"',
                                  f"waves={waves}, runs_a_wave={runs_a_wave}, stop={stop!r}", "waves=5, and leave the others out"))
    history = History.of(problem, cutoff=cutoff, valmax=valmax, discrepancy=discrepancy, mean=mean, reuse=reuse, points=points,
                         least=least, key=jax.random.fold_in(key, 0))
    owner = "" if folder is None else history_files.belongs_to(history, problem, runs_a_wave, failed, key)
    if folder is not None:
        history = history_files.waves(history, folder, owner, waves)
    with progress_line.display(progress and problem.speaks, "history matching", "wave", "") as show:
        while len(history.waves) < waves and not ended(history, stop):
            of_design, of_wave = jax.random.split(jax.random.fold_in(key, len(history.waves) + 1), 2)
            ran = run_members(problem, jnp.asarray(history.design(runs_a_wave, of_design)), failed)
            history = history.told(np.asarray(ran.z), ran.predicted, of_wave)
            if folder is not None:
                history_files.save(history, folder, owner)
            show(len(history.waves), waves, {"percent of the prior": 100 * history.fraction})
    return history


def ended(history: History, stop: Sequence[Rule] = ("settled", "certain")) -> bool:
    """Whether more waves have nothing to do: nothing is left, or one of the rules `stop` holds (see `history_match`)."""
    if not history.waves:
        return False
    return history.empty or ("settled" in stop and _settled(history)) or ("certain" in stop and _certain(history))


def _settled(history: History) -> bool:
    left = np.array([history.first.fraction, *(wave.cloud.fraction for wave in history.waves)])
    return len(left) > 2 and bool((left[-2:] > (1 - SETTLED) * left[-3:-1]).all())


def _certain(history: History) -> bool:
    judge = history.waves[-1].judge
    return bool(judge.used.all()) and float(np.quantile(judge.doubt(history.cloud.points), 0.99)) < CERTAIN


def _status(history: History) -> str:
    """Why there is an end, or that there is none yet, in a sentence."""
    wave = history.waves[-1]
    unused = [name for name, used in zip(history.targets.labels, wave.judge.used, strict=True) if not used]
    if history.empty:
        least, lowest = f"{wave.cloud.least:.0e}", f"{wave.cloud.lowest:.3g}"
        return (
            f"Structural error: wave {len(history.waves)} rules out everything. Less than {least} of the prior may be left; the least "
            f"implausible point that was seen has {lowest}, above the cutoff {history.cutoff:g}. Nowhere does the model meet all targets "
            "together: a process is missing, an error is too small (discrepancy=), or they are too many (valmax=)")
    if len(unused) == len(history.targets.labels):
        return (f"Wave {len(history.waves)} rules out nothing: no emulator learned anything. More runs (runs_a_wave=), fewer free "
                "parameters (landcal_jax.screened), or targets that parameters move")
    if _certain(history):
        return "Emulators are certain: their variance is below a tenth of that of the targets everywhere in what is left"
    if _settled(history):
        without = f"; nothing was learned of {', '.join(unused)}, which rules out nothing: more runs might" if unused else ""
        return f"Settled: two waves in a row ruled out less than {SETTLED:.0%} each{without}"
    return "Another wave may rule out more"


def spread(among: np.ndarray, number: int, taken: np.ndarray) -> np.ndarray:
    """`number` of the points `among` (point, n) that, with those `taken` (point, n) already, are distributed as all of `among` are.

    Each in turn is the one that lowers the energy distance to `among` most, in units of its principal axes; none that is taken is
    chosen. Raises ValueError for too few points.
    """
    mean = among.mean(axis=0)
    scale, axes = np.linalg.svd(among - mean, full_matrices=False)[1:]
    axes = axes.T / np.maximum(scale, 1e-12 * scale[0])
    x, old = (among - mean) @ axes, (taken - mean) @ axes

    def distances(points):
        return np.sqrt(np.maximum((x**2).sum(1)[:, None] + (points**2).sum(1) - 2.0 * x @ points.T, 0.0))

    # By rows, so that memory stays small; those taken are sums of their own.
    to_all = np.concatenate([distances(part).mean(axis=0) for part in np.array_split(x, -(-len(x) // 512))])
    to_taken, chosen = distances(old).sum(axis=1), []
    free = distances(old).min(axis=1, initial=np.inf) > 1e-9 * np.median(to_all)
    if free.sum() < number:
        raise ValueError(complain(f"{number} points that were not run before", f"{free.sum()}", "more points=, or fewer runs_a_wave"))
    for _ in range(number):
        gain = np.where(free, to_all - to_taken / (len(old) + len(chosen) + 1.0), np.inf)
        chosen.append(int(np.argmin(gain)))
        free[chosen[-1]] = False
        to_taken += distances(x[chosen[-1:]])[:, 0]
    return among[chosen]

