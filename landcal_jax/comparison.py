"""Solvers side by side on one problem, at equal budgets of model runs, from several first guesses: what the papers compare.

    ds = compare(problem, {"LM": LevenbergMarquardt(), "by differences": ByDifferences(LBFGS()),
                           "4DEnVar": lambda budget: FourDEnVar(size=budget - 2),
                           "both": Hybrid(IterativeFourDEnVar(size=30), LevenbergMarquardt(), runs=100)},
                 budgets=(100, 300, 1000), first_guesses=16, key=0)
    print(table(ds))

The unit of work is the model-run equivalent: a forward run counts 1, a tangent product 1, an adjoint gradient 3 (`RUN_EQUIVALENTS`;
for DALEC a value with its gradient takes the time of 2.1 to 3.2 runs, a tangent in a batch less than that of one). Exact derivatives
are so charged in full, and what a solver has at a budget is the last state that it reached with that much work or less. A state
that came out of a batch too large for the budget does not count, whatever the solver would have made of a part of it.

What a solver shows has been run. The mean of a Kalman ensemble (EKI, ETKI, ESMDA) runs along with the next batch of its members, and
that of the unscented inversion likewise: at a budget they have the mean before the step that their last batch made, and are credited
with that step one batch later. The second solver of a hybrid begins at the point that the first has shown, which is that mean too
where the first was cut short by its share of the budget.

What is drawn of it is in `landcal_jax.plot_comparison`. The design is that of Bastrikov et al. (2018), Geoscientific Model Development
11, 4739: sixteen first guesses, median and spread of the reduction of RMSE, pseudo-observations of a known truth.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import xarray as xr
from jax import Array
from jax.typing import ArrayLike
from scipy.special import ndtri

from landcal_jax.comparison_scores import posterior_sd, scores_of
from landcal_jax.errors import complain, complaint_of
from landcal_jax.gradient import Optax
from landcal_jax.keys import key_of
from landcal_jax.members import FailedRuns
from landcal_jax.problem import Problem
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Progress, SolveError, Status
from landcal_jax.solving import Clock, solve
from landcal_jax.testing import Twin

RUN_EQUIVALENTS = {"forward": 1.0, "gradient": 3.0, "jvp": 1.0}
"""Forward runs that one of each kind of work is charged as."""

PARTS = ("compile", "run")
ABOUT = {
    "cost": ("J", "1"), "terms": ("J by term", "1"), "runs": ("work, model-run equivalents", "1"), "seconds": ("time", "s"),
    "reduction": ("reduction of RMSE to the observations", "%"), "reduction_truth": ("reduction of RMSE to the noise-free truth", "%"),
    "parameter_error": ("distance to the true parameter", "prior sd"),
    "parameter_error_posterior": ("distance to the true parameter", "posterior sd")}
"""Long names and units of what is drawn."""

Solver = AbstractGradientSolver | AbstractEnsembleSolver


@dataclass(frozen=True)
class ByDifferences:
    """A solver that gets derivatives by forward differences of `step` in z, as from a model without adjoint; runs are counted."""

    solver: Solver
    step: float = 1e-6


@dataclass(frozen=True)
class Hybrid:
    """`first`, and then `second` from where it ends: at its own end, or once it has spent `runs` run equivalents.

    The work of both is charged to one budget. `second` may be a hybrid itself.
    """

    first: "Solver | ByDifferences | Hybrid"
    second: "Solver | ByDifferences | Hybrid"
    runs: float = math.inf


Entry = Solver | ByDifferences | Hybrid


def compare(
    cases: Problem | Twin | Mapping[str, Problem | Twin],
    solvers: Mapping[str, Entry | Callable[[int], Entry | None]],
    budgets: Sequence[int],
    *,
    first_guesses: ArrayLike | int | None = None,
    truth_z: ArrayLike | Mapping[str, ArrayLike] | None = None,
    key: Array | int = 0,
    weights: Mapping[str, float] = RUN_EQUIVALENTS,
    failed: FailedRuns | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Run every solver from every first guess, and read off what it has at each budget.

    `cases`: a problem, a twin, or several by name, which gives the result a dimension `case`.
    `solvers`: by name. A solver is run once, up to the largest budget, and read off at each; a function of the budget that returns a
    solver (or None where there is none) is run for each, for solvers that have to know how much they may spend.
    `budgets`: in run equivalents, rising; `weights` says what each kind of work is charged as.
    `first_guesses`: (guess, n) in z, or how many to draw by `latin_hypercube`; without it one, the space's default. Each has a seed of
    its own, the same for all solvers: those that draw their members from the prior know only that.
    `truth_z` (n,), where it is known; that of a twin is known by itself. (k, n): truths that cannot be told apart, such as a day of the
    year one turn later; the first is run, and each parameter is compared with the nearest. For several cases a mapping.
    `failed`: what is done with runs that fail. `progress` shows how far the comparison is.

    Returned, by solver, budget and guess: `cost` (J) and `terms`; `rmse` by stream to the observations and `rmse_truth` to the run
    of the truth, in their units, over all sites; `reduction` and `reduction_truth`, how much less that is than at the first guess,
    in %; `z`; `parameter_error`, |z - truth| in prior standard deviations, and `parameter_error_posterior`, in those of the posterior
    (Gauss-Newton, at the truth); `counts` by kind, `runs` (equivalents), `seconds` compiling and running; `status` and `sentence`;
    `failed_runs`, those of the whole solve. J and RMSE come from a run at z that is not charged. `first_cost`, `first_rmse`,
    `first_z`, `truth_z`, `same_truth_z` (all of them), `truth_cost` and `posterior_sd` are what they are compared with. The attribute
    `work` says what a run equivalent is.
    NaN where a solver has nothing at a budget or has failed within it; `sentence` says which.
    Raises TypeError for a gradient solver on a forward map without derivatives or for what is no solver, ValueError for shapes, budgets
    and names that cannot be, and for an optax optimiser with a line search inside, whose runs are not counted.
    """
    if not isinstance(solvers, Mapping) or not solvers:
        raise TypeError(complain("solvers by name", f"{solvers!r}"[:100], 'compare(problem, {"LM": LevenbergMarquardt()}, budgets)'))
    budgets = np.asarray(budgets)
    if budgets.ndim != 1 or not budgets.size or (np.diff(budgets, prepend=0) <= 0).any() or (budgets % 1).any():
        raise ValueError(complain("rising whole budgets above zero", f"{budgets}", "for example budgets=(100, 300, 1000)"))
    if set(weights) != set(RUN_EQUIVALENTS):
        raise ValueError(complain(f"a weight for each of {', '.join(RUN_EQUIVALENTS)}", f"{', '.join(weights)}", "RUN_EQUIVALENTS"))
    key = key_of(key)
    several = isinstance(cases, Mapping)
    given = dict(cases) if several else {"": cases}
    truths = _truths(truth_z, list(given)) if several else {"": truth_z}
    race = _Race(solvers, budgets.astype(int), np.array([weights[kind] for kind in RUN_EQUIVALENTS], float), failed)
    set_up = {name: _set_up(case, truths.get(name), first_guesses, key) for name, case in given.items()}
    for problem, *_ in set_up.values():
        for entry in solvers.values():
            _check(problem, entry, race.budgets)
    with _bar(progress, len(solvers) * sum(len(Z0) for _, _, Z0 in set_up.values())) as advance:
        parts = [race.run(*one, jax.random.fold_in(key, 1), advance) for one in set_up.values()]
    if not several:
        return parts[0]
    names = xr.DataArray(np.array(list(given), object), dims="case", name="case")
    return xr.concat(parts, names, data_vars="all", join="outer", combine_attrs="override")


def latin_hypercube(problem: Problem, number: int, key: Array | int = 0) -> np.ndarray:
    """First guesses (number, n) in z: a Latin hypercube of the prior, each parameter once in each of `number` equal parts of it."""
    from scipy.stats import qmc  # here, because scipy.stats takes a second to import

    key = key_of(key)
    seed = int(jax.random.bits(key, dtype=jnp.uint32))
    return ndtri(qmc.LatinHypercube(problem.space.size, rng=np.random.default_rng(seed)).random(number))


def table(ds: xr.Dataset, budget: float | None = None) -> pd.DataFrame:
    """One row a solver (and case): medians over the first guesses at `budget`, the largest without it, with quartiles of J.

    `less RMSE` is the reduction to the noise-free truth where that is known, else to the observations; `error` the root mean square
    over the parameters of their error in prior standard deviations; `run s` and `compile s` are seconds, those of compiling all together;
    `without` how many solves have nothing at this budget, which count as the worst in the quartiles and are left out of runs and seconds.
    """
    if budget is not None and budget not in ds["budget"].values:
        there = ", ".join(map(str, ds["budget"].values))
        raise ValueError(complain(f"one of the budgets {there}", f"{budget}", "compare(..., budgets=) with it among them"))
    at = ds.sel(budget=ds["budget"][-1] if budget is None else budget)
    if "case" in ds.dims:
        return pd.concat({str(name): table(ds.sel(case=name), budget) for name in ds["case"].values}, names=["case"])
    low, middle, high = quartiles(at["cost"]).transpose("quantile", "solver").values
    columns = {"J": middle, "J, 25 %": low, "J, 75 %": high}
    less = quartiles(at["reduction_truth" if "reduction_truth" in at else "reduction"], -np.inf).sel(quantile=0.5)
    columns |= {f"less RMSE {name} [%]": less.sel(stream=name).values for name in ds["stream"].values}
    if "parameter_error" in at:
        columns["error [sd]"] = quartiles(root_mean_square(at["parameter_error"], "parameter")).sel(quantile=0.5).values
    there = at["cost"].notnull()
    kept = there | ~there.any("guess")  # a median of nothing is that of zeros, and left out
    spent = {"runs": at["runs"], "run s": at["seconds"].sel(part="run")}
    columns |= {name: values.fillna(0.0).where(kept).median("guess").where(there.any("guess")).values for name, values in spent.items()}
    columns |= {"compile s": at["seconds"].sel(part="compile").sum("guess").values, "without": (~there).sum("guess").values}
    return pd.DataFrame(columns, index=pd.Index(ds["solver"].values, name="solver"))


def quartiles(values: xr.DataArray, worst: float = np.inf) -> xr.DataArray:
    """The quantiles 0.25, 0.5 and 0.75 over the first guesses, where a solve without a value counts as `worst`; NaN where that shows."""
    with np.errstate(invalid="ignore"):
        found = values.fillna(worst).quantile([0.25, 0.5, 0.75], "guess")
    return found.where(np.isfinite(found))


def root_mean_square(values: xr.DataArray, dim: str) -> xr.DataArray:
    """Root of the mean square over `dim`; NaN where any is."""
    return np.sqrt((values**2).mean(dim, skipna=False))


@dataclass
class _Point:
    """What a solver showed: best point z (n,), work by kind, seconds by part, and its status."""

    z: np.ndarray
    counts: np.ndarray
    seconds: dict[str, float]
    status: Status = Status.RUNNING


@dataclass(frozen=True)
class _Cell:
    """What there is of a solver at a budget: its point or none, how things stand in words, and the failed runs of its solve."""

    point: _Point | None
    sentence: str
    failed_runs: int


@dataclass
class _Trail:
    """One run of an entry: what it showed after every iteration, and how it ended."""

    weight: np.ndarray
    failed: FailedRuns | None
    points: list[_Point] = field(default_factory=list)
    before: np.ndarray = field(default_factory=lambda: np.zeros(3, int))
    failed_runs: int = 0
    failure: str = ""
    clock: Clock = field(default_factory=Clock)

    def run(self, problem: Problem, entry: Entry, z0: Array, key: Array, budget: float) -> None:
        """Run `entry` until its end, or until all its work together has reached `budget`; its points go onto the trail."""
        if isinstance(entry, Hybrid):
            of_first, of_second = jax.random.split(key)
            spent = self.weight @ self.before
            self.run(problem, entry.first, z0, of_first, min(spent + entry.runs, budget))
            if not self.failure and self.weight @ self.before < budget:
                self.run(problem, entry.second, jnp.asarray(self.points[-1].z), of_second, budget)
            return
        if isinstance(entry, ByDifferences):
            problem, entry = problem.finite_difference(entry.step), entry.solver

        def watch(shown: Progress) -> bool:
            counts = self.before + np.array([int(getattr(shown.counts, kind)) for kind in RUN_EQUIVALENTS])
            self.points.append(_Point(np.asarray(shown.z), counts, self.clock.seconds()))
            return bool(self.weight @ counts >= budget)

        try:
            result = solve(problem, entry, key=key, z0=z0, progress=False, failed=self.failed, watch=watch)
        except SolveError as error:
            result, self.failure = error.result, error.result.status.sentence.removeprefix("failed: ")
        except RuntimeError as error:
            if complaint_of(error) is None:
                raise
            # More runs failed than the rule allows; nothing is known of the work after the last point.
            self.failure = " ".join(str(error).split())
            return
        self.failed_runs += int(result.details["failed_runs"])
        if self.points:
            self.before, self.points[-1].status = self.points[-1].counts, result.status

    def at(self, budget: float) -> _Cell:
        """The last point within `budget`; none where there is none, or where the solver failed before it was spent."""
        within = [index for index, point in enumerate(self.points) if self.weight @ point.counts <= budget]
        at_end = bool(within) and within[-1] == len(self.points) - 1
        if self.failure and (at_end or not self.points):
            return _Cell(None, f"failed: {self.failure}", self.failed_runs)
        if not within:
            first = self.weight @ self.points[0].counts
            return _Cell(None, f"no state yet: the first needs {first:g} run equivalents", self.failed_runs)
        point = self.points[within[-1]]
        ended = at_end and point.status is not Status.STOPPED
        return _Cell(point, point.status.sentence if ended else "the budget was spent before the end", self.failed_runs)


@dataclass(frozen=True)
class _Race:
    """What is the same for all cases: solvers, budgets, what work is charged as, the rule for failed runs."""

    solvers: Mapping[str, Any]
    budgets: np.ndarray
    weight: np.ndarray
    failed: FailedRuns | None

    def run(self, problem: Problem, truth: np.ndarray | None, Z0: np.ndarray, key: Array, advance: Callable[[str], None]) -> xr.Dataset:
        """All solvers from all first guesses of one case; every guess has its own seed, the same for all solvers."""
        cells = []
        for name, entry in self.solvers.items():
            columns = []
            for guess, z0 in enumerate(jnp.asarray(Z0)):
                advance(name)
                columns.append(self._read(problem, entry, z0, jax.random.fold_in(key, guess)))
            cells += [cell for row in zip(*columns, strict=True) for cell in row]
        return _dataset(problem, self, cells, Z0, truth)

    def _read(self, problem: Problem, entry: Any, z0: Array, key: Array) -> list["_Cell"]:
        """What there is at each budget."""
        if isinstance(entry, Entry):
            return self._trail(problem, entry, z0, key, self.budgets)
        cells = []
        for number, made in enumerate(map(entry, self.budgets.tolist())):
            budget = self.budgets[number : number + 1]
            cells += [_Cell(None, "no solver for this budget", 0)] if made is None else self._trail(problem, made, z0, key, budget)
        return cells

    def _trail(self, problem: Problem, entry: Entry, z0: Array, key: Array, budgets: np.ndarray) -> list["_Cell"]:
        trail = _Trail(self.weight, self.failed)
        trail.run(problem, entry, z0, key, float(budgets[-1]))
        return [trail.at(budget) for budget in budgets]


def _check(problem: Problem, entry: Any, budgets: np.ndarray) -> None:
    """Raise before anything is run for what is no solver, or one that needs derivatives which are not there."""
    if isinstance(entry, Hybrid):
        _check(problem, entry.first, budgets)
        _check(problem, entry.second, budgets)
    elif isinstance(entry, ByDifferences):
        _check(problem, entry.solver, budgets)
    elif isinstance(entry, AbstractGradientSolver):
        problem.require_gradient(type(entry).__name__)
        # That of LBFGS is counted; the one of a multi-start is that of its solver.
        inside = getattr(entry, "solver", entry)
        state = inside.optimiser.init(problem.space.default_z) if isinstance(inside, Optax) else ()
        if optax.tree.get_all_with_path(state, "num_linesearch_steps"):
            raise ValueError(complain("solvers whose work is counted", f"{type(entry).__name__} with a line search inside",
                                      "LBFGS(), which counts that of its own, or an optimiser without"))
    elif callable(entry) and not isinstance(entry, type):
        for made in map(entry, budgets.tolist()):
            if made is not None:
                _check(problem, made, budgets)
    elif isinstance(entry, type) or not isinstance(entry, AbstractEnsembleSolver):
        raise TypeError(complain("a solver, Hybrid, ByDifferences, or a function of the budget that returns one",
                                 f"{entry!r}", "LevenbergMarquardt(), or lambda budget: FourDEnVar(size=budget - 2)"))


def _truths(given: Any, cases: list[str]) -> dict[str, ArrayLike]:
    """The truths by case, of cases that are there."""
    if given is not None and (not isinstance(given, Mapping) or set(given) - set(cases)):
        got = f"also {', '.join(map(str, set(given) - set(cases)))}" if isinstance(given, Mapping) else f"{type(given).__name__}"
        raise ValueError(complain(f"truth_z by case, of {', '.join(cases)}", got, "truth_z={case: z}; a twin knows its own"))
    return dict(given or {})


def _set_up(case: Problem | Twin, truth: ArrayLike | None, first_guesses: ArrayLike | int | None,
            key: Array) -> tuple[Problem, np.ndarray | None, np.ndarray]:
    """The problem of a case, its truths (k, n) if they are known, and the first guesses (guess, n)."""
    problem, own = (case.problem, case.z) if isinstance(case, Twin) else (case, None)
    truth = own if truth is None else truth
    if first_guesses is None:
        Z0 = np.asarray(problem.space.default_z)[None]
    elif np.ndim(first_guesses) == 0:
        Z0 = latin_hypercube(problem, int(first_guesses), key)
    else:
        Z0 = _vectors(problem, first_guesses, "first_guesses")
    return problem, None if truth is None else _vectors(problem, truth, "truth_z"), Z0


def _vectors(problem: Problem, given: ArrayLike, name: str) -> np.ndarray:
    if isinstance(given, Mapping):
        raise TypeError(complain(f"{name} (k, {problem.space.size}) in z", "a mapping, for one problem", "several cases by name have one"))
    vectors = np.atleast_2d(np.asarray(given, float))
    if vectors.ndim != 2 or vectors.shape[1] != problem.space.size or not np.isfinite(vectors).all():
        raise ValueError(complain(f"finite {name} of shape (k, {problem.space.size})", f"shape {np.shape(given)}",
                                  "problem.space.whiten(theta) makes one from physical parameters"))
    return vectors


def _dataset(problem: Problem, race: _Race, cells: list[_Cell], Z0: np.ndarray, truth: np.ndarray | None) -> xr.Dataset:
    """Everything in one Dataset, from cells in the order solver, budget, guess; the runs that give J and RMSE are made here."""
    shape, axes = (len(race.solvers), len(race.budgets), len(Z0)), ("solver", "budget", "guess")
    nothing = _Point(np.full(problem.space.size, np.nan), np.full(3, np.nan), dict.fromkeys(PARTS, np.nan))
    points = [cell.point or nothing for cell in cells]
    scores = scores_of(problem, np.concatenate([[point.z for point in points], Z0]), truth)
    streams = list(problem.observations.names)
    ds = xr.Dataset(coords={
        "solver": list(race.solvers), "budget": race.budgets, "guess": np.arange(len(Z0)), "stream": streams,
        "units": ("stream", [stream.units for _, stream in problem.observations.items()]),
        "term": ["prior", *streams], "parameter": list(problem.space.labels), "kind": list(RUN_EQUIVALENTS), "part": list(PARTS)})

    def keep(name, values, *more):
        ds[name] = (*axes, *more), np.reshape(values, shape + tuple(ds.sizes[dim] for dim in more))

    keep("z", [point.z for point in points], "parameter")
    keep("counts", [point.counts for point in points], "kind")
    keep("seconds", [[point.seconds[part] for part in PARTS] for point in points], "part")
    keep("status", np.array([cell.point.status.name.lower() if cell.point else "" for cell in cells], object))
    keep("sentence", np.array([cell.sentence for cell in cells], object))
    keep("failed_runs", [cell.failed_runs for cell in cells])
    ds["runs"] = ds["counts"] @ xr.DataArray(race.weight, dims="kind")
    ds.attrs["work"] = ", ".join(f"{word} {weight:g}" for word, weight in zip(("run", "gradient", "tangent"), race.weight, strict=True))
    ds["first_z"] = ("guess", "parameter"), Z0
    number = len(points)
    keep("terms", scores["terms"][:number], "term")
    ds["cost"] = ds["terms"].sum("term", skipna=False)
    ds["first_cost"] = "guess", scores["terms"][number : number + len(Z0)].sum(axis=1)
    for name in ("rmse", "rmse_truth") if truth is not None else ("rmse",):
        keep(name, scores[name][:number], "stream")
        ds[f"first_{name}"] = ("guess", "stream"), scores[name][number : number + len(Z0)]
        ds[name.replace("rmse", "reduction")] = 100 * (1 - ds[name] / ds[f"first_{name}"])
    if truth is not None:
        _add_truth(ds, problem, truth, scores["terms"][-1].sum())
    for name, (words, unit) in ABOUT.items():
        if name in ds:
            ds[name].attrs |= {"long_name": words, "units": unit}
    return ds


def _add_truth(ds: xr.Dataset, problem: Problem, truth: np.ndarray, cost: float) -> None:
    ds["truth_z"], ds["same_truth_z"], ds["truth_cost"] = ("parameter", truth[0]), (("same", "parameter"), truth), cost
    apart = abs(ds["z"] - ds["same_truth_z"]).min("same", skipna=False)
    ds["parameter_error"] = apart.transpose(*ds["z"].dims)
    if problem.forward.has_tangent:
        ds["posterior_sd"] = "parameter", posterior_sd(problem, truth[0])
        ds["parameter_error_posterior"] = ds["parameter_error"] / ds["posterior_sd"]


@contextlib.contextmanager
def _bar(wanted: bool, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over all solves; what is given is called with the name of the solver before each."""
    if not wanted:
        yield lambda name: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("comparing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                  TextColumn("{task.description}"), transient=True) as bar:
        task = bar.add_task("", total=total, completed=-1)
        yield lambda name: bar.update(task, advance=1, description=name)
