"""Does a posterior say what it should? Coverage and simulation-based calibration over many twins; `landcal_jax.testing.coverage`.

    ds = testing.coverage(problem, lambda twin, key: laplace(twin, solve(twin, LevenbergMarquardt()), key=key), twins=200)
    print("\\n".join(testing.verdict(ds)))
    plot_coverage.ranks(ds)

A truth is drawn from the prior, observations are drawn from the truth with errors of R, and the posterior of these observations is
asked where the truth lies. Over many twins the rank of the truth among the draws is uniform, and intervals of 90 % hold it in 90 % of
the twins, if and only if (for the quantities that are ranked) the posterior is right: Cook, Gelman and Rubin (2006), Talts et al.
(2018). Ranked are all parameters and J itself, which sees what no single parameter shows: a posterior that is the prior has uniform
ranks of the parameters, but not of J (Modrak et al. 2025, Bayesian Analysis 20, 461).

The theorem holds for truths that are draws of the very prior that the posterior takes. With truths of another distribution (`truth=`) no
rank has to be uniform: what is counted then is coverage where one chose to look. To keep truths to a region, narrow the prior of the
problem itself. What R does not say is tested in the same way: let `posterior_of` change the observations of the twin
(another model error, no correlation) before it makes the posterior.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import pickle
import queue
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from landcal_jax import checkpoint
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem, costs
from landcal_jax.rank_statistics import (
    UniformBand,
    chi_square_p,
    effective_draws,
    normalised_ranks,
    number_of_bins,
    proportion_interval,
    shape_of,
    thinned,
)
from landcal_jax.twins import Twin, draw_errors, twin

HOPELESS = 3
"""After so many failed twins and none that worked, the fault is not one of chance."""
SETTINGS = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_enable_compilation_cache", "jax_persistent_cache_min_compile_time_secs")

Record = dict[str, np.ndarray]


def coverage(
    problem: Problem,
    posterior_of: Callable[[Problem, Array], Any],
    *,
    twins: int = 200,
    key: Array | int = 0,
    levels: Sequence[float] = (0.5, 0.9),
    truth: str | Callable[[Array], Array] = "prior",
    draws: int = 200,
    predictions: bool = True,
    store: str | Path | None = None,
    processes: int = 1,
    progress: bool = True,
) -> xr.Dataset:
    """Rank statistics and coverage of a posterior over many twins of `problem`.

    `posterior_of(twin, key)`: the posterior of one twin, a Problem with the same parameters and other observations. It returns a
    Posterior, or draws z (draw, n). A Posterior of another space, such as one with error parameters too, is compared by the labels that
    the problem has. Twins have the same shapes, so functions that take the problem as an argument are compiled once.
    `truth`: "prior", or a function of a key that gives z (n,); see the top of this module. `draws`: how many draws are ranked at most; of
    those of a chain as many as its effective sample size says, as far apart as can be. `levels` of central intervals.
    `predictions`: also count how much of the noise-free truth lies in bands of every stream, and of new observations in bands with
    observation errors: those of `posterior.predictive` where there is one, else of the draws.
    `store`: a folder with one file a twin; a call that finds some there makes the others. It knows the problem, key and options, and
    `posterior_of` by its name alone: give another one another folder. `processes`: twins are divided among as many processes, each on its
    share of the cores; `posterior_of` has to be importable then, and the script guarded by `if __name__ == "__main__"`. The
    results are the same.

    A twin whose truth cannot be run, or whose posterior raises an exception, is counted as failed, with its message; with a store the
    next call tries it again. All shares are of the other twins. If failures depend on the truth, they are not what they seem.

    Returns a Dataset: `rank` (twin, quantity) in (0, 1), see `rank_statistics`, quantity: the labels of the parameters and "J";
    `p_chi_square` and `p_ecdf` (quantity) of uniform ranks; `coverage` (quantity, level) with its 95 % interval `coverage_low`,
    `coverage_high` (binomial, Wilson); `parameters_coverage` (level), the mean over parameters, with its standard error over twins
    `parameters_coverage_error`; `predicted_coverage`, `observed_coverage` (stream, level) and their standard errors over twins;
    `truth`, `mean`, `sd` (twin, parameter) in whitened space; `ranked` (twin), the number of draws that were ranked; `detail` (twin,
    name), every single number in `posterior.details`; `seconds` and `failure` (twin). Attributes: `failed`, `twins`,
    `weighted`, the streams whose weight is not one.

    Raises ValueError for arguments out of range, and for a store of another run; RuntimeError if no twin of the first three works.
    """
    _check(twins, levels, draws, processes, truth)
    sampler = None if truth == "prior" else truth
    data = np.asarray(jax.random.key_data(key_of(key)))
    recipe = _Recipe(problem, posterior_of, sampler, data, tuple(levels), draws, predictions)
    with contextlib.ExitStack() as stack:
        folder = store
        if store is None and processes > 1:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        kept = _Store(folder, "" if folder is None else recipe.fingerprint())
        records = {index: record for index in range(twins) if (record := kept.read(index)) is not None and "failure" not in record}
        missing = [index for index in range(twins) if index not in records]
        bar = stack.enter_context(_bar(progress, twins, len(records)))
        made = _in_processes(recipe, kept, missing, processes) if processes > 1 and missing else _one_by_one(recipe, kept, missing)
        records |= _collected(made, bar, None if records else min(HOPELESS, twins))
    return _dataset(recipe, [records[index] for index in range(twins)])


def _collected(made: Iterator[tuple[int, Record]], bar: Callable[[int], None], hopeless: int | None) -> dict[int, Record]:
    """All records that are made, by twin. Raises RuntimeError if the first `hopeless` ones have failed."""
    new, failed = {}, []
    for index, record in made:
        new[index] = record
        failed += [str(record["failure"])] if "failure" in record else []
        bar(len(failed))
        if hopeless is not None and len(failed) == len(new) >= hopeless:
            raise RuntimeError(complain("a posterior of one of the first twins", f"{len(failed)} that failed; {failed[0]}",
                                        "posterior_of(testing.twin(problem).problem, jax.random.key(0)) alone"))
    return new


def verdict(ds: xr.Dataset, *, p: float = 0.01) -> list[str]:
    """Sentences on what `coverage` returned: ranks that are not uniform and how, intervals that are off, failures.

    A quantity is named if both p-values, or one by a factor of the number of quantities (Bonferroni), are below `p`.
    """
    out, many = [], ds.sizes["quantity"]
    if ds.attrs["weighted"]:
        out.append(f"Weights temper the likelihood of {ds.attrs['weighted']}: ranks would not be uniform for an exact posterior either.")
    before = len(out)
    if ds.attrs["failed"]:
        messages = [str(text) for text in ds["failure"].values if text]
        out.append(f"{ds.attrs['failed']} of {ds.attrs['twins']} twins failed, the first with: {messages[0]}")
    for name in ds["quantity"].values:
        row = ds.sel(quantity=name)
        pair = np.array([float(row["p_chi_square"]), float(row["p_ecdf"])])
        if (pair < p).all() or (pair < p / many).any():
            ranks = row["rank"].values
            out.append(f"{name}: ranks are not uniform (p = {pair.min():.2g}); {shape_of(ranks[np.isfinite(ranks)])}.")
    if len(out) == before + bool(ds.attrs["failed"]):
        least = float(np.fmin(ds["p_chi_square"], ds["p_ecdf"]).min())
        out.append(f"Ranks of all {many} quantities agree with uniform ones over {int(ds['rank'].notnull().all('quantity').sum())} twins "
                   f"(smallest p = {least:.2g}).")
    for level in ds["level"].values:
        share, error = (float(ds[f"parameters_coverage{end}"].sel(level=level)) for end in ("", "_error"))
        out.append(f"Intervals of {level:.0%} hold {share:.1%} +- {error:.1%} of the true parameters.")
    return out


def _check(twins, levels, draws, processes, truth) -> None:
    if twins < 1 or draws < 1 or processes < 1:
        raise ValueError(complain("at least one twin, draw and process", f"twins={twins}, draws={draws}, processes={processes}",
                                  "twins=200, draws=200, processes=1"))
    if not len(levels) or not all(0 < level < 1 for level in levels):
        raise ValueError(complain("levels between 0 and 1", f"{levels}", "levels=(0.5, 0.9)"))
    if not (truth == "prior" or callable(truth)):
        raise ValueError(complain('truth="prior" or a function of a key that gives z (n,)', f"{truth!r}",
                                  "lambda key: problem.space.sample(key, 1)[0]"))


@dataclasses.dataclass(frozen=True)
class _Recipe:
    """How one twin is made and judged; `truth` None is the prior, `key` the data of a JAX key."""

    problem: Problem
    posterior_of: Callable
    truth: Callable | None
    key: np.ndarray
    levels: tuple[float, ...]
    draws: int
    predictions: bool

    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.problem, repr(self.posterior_of), repr(self.truth), self.key, self.levels, self.draws,
                                      self.predictions)

    def record(self, index: int) -> Record:
        """All numbers of twin `index`, or why it failed."""
        begin = time.perf_counter()
        keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(self.key)), index), 4)
        try:
            drawn = self.problem.space.sample(keys[0], 1)[0] if self.truth is None else jnp.asarray(self.truth(keys[0]), float)
            made = twin(self.problem, drawn, key=keys[1])
            record = self._judged(made, self.posterior_of(made.problem, keys[2]), keys[3])
        except Exception as error:  # whatever a solver or a model raises is a twin that failed
            record = {"failure": np.array(f"{type(error).__name__}: {' '.join(str(error).split())}")}
        return record | {"seconds": np.array(time.perf_counter() - begin)}

    def _judged(self, made: Twin, found: Any, key: Array) -> Record:
        z, matrix = _draws(found, made.problem)
        of_ranks, of_bands = jax.random.split(key)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(of_ranks)))
        kept = thinned(len(z), effective_draws(z, getattr(found, "chains", 1)), self.draws)
        # The truth and as many draws as there may be, so that one compiled function serves all twins.
        members = np.concatenate([np.asarray(made.z)[None], np.resize(z[kept], (self.draws, z.shape[1]))])
        cost = costs(made.problem, members)[: len(kept) + 1]
        cost = np.where(np.isfinite(cost), cost, np.inf)
        values = np.column_stack([matrix[kept], cost[1:]])
        truth = np.append(np.asarray(made.problem.space.flatten(made.theta)), cost[0])
        details = {f"detail_{name}": np.array(float(value)) for name, value in getattr(found, "details", {}).items()
                   if np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.number)}
        record = {"rank": normalised_ranks(values, truth, rng), "ranked": np.array(len(kept)), "truth": np.asarray(made.z),
                  "mean": z.mean(axis=0), "sd": z.std(axis=0, ddof=1)} | details
        return record | self._shares(made, found, members[1 : len(kept) + 1], of_bands) if self.predictions else record

    def _shares(self, made: Twin, found: Any, z: np.ndarray, key: Array) -> Record:
        """Which part of the truth, and of new observations, the bands of each level hold: (stream, level) each."""
        of_bands, of_new = jax.random.split(key)
        quantiles = [side for level in self.levels for side in (0.5 - 0.5 * level, 0.5 + 0.5 * level)]
        if hasattr(found, "predictive"):
            bands = found.predictive(of_bands, quantiles=quantiles)
            bands = {str(name): bands[name].values for name in bands.data_vars}
        else:
            bands = self._bands(made.problem, z, quantiles, of_bands)
        exact = made.problem.predict(made.z)
        shares = {"predicted": [], "observed": []}
        for index, (name, stream) in enumerate(made.problem.observations_at(made.theta).items()):
            true, mask = np.asarray(exact[name]), np.asarray(stream.mask)
            new = true + np.asarray(draw_errors(stream, jax.random.fold_in(of_new, index)))
            shares["predicted"].append(_inside(bands[name], true, np.isfinite(true)))
            shares["observed"].append(_inside(bands[f"{name}_total"], new, mask))
        return {name: np.array(rows) for name, rows in shares.items()}

    def _bands(self, problem: Problem, z: np.ndarray, quantiles: Sequence[float], key: Array) -> dict[str, np.ndarray]:
        """Quantiles of predictions at draws `z`, and with observation errors, as `Posterior.predictive` names them."""
        # Filled up for the same reason as above.
        filled = np.resize(z, (self.draws, z.shape[1]))
        drawn, bands = _many_errors(problem, jnp.asarray(filled), jax.random.split(key, self.draws)), {}
        for name, values in problem.ensemble(filled).items():
            values, errors = values[: len(z)], np.asarray(drawn[name])[: len(z)]
            good = np.isfinite(values).all(axis=(1, 2))
            bands[name], bands[f"{name}_total"] = (np.quantile(part[good], quantiles, axis=0) for part in (values, values + errors))
        return bands


def _draws(found: Any, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Draws of a posterior in the z of `problem`, (draw, n), and in its physical parameters, (draw, n)."""
    space, own = problem.space, getattr(getattr(found, "problem", None), "space", problem.space)
    z = jnp.asarray(getattr(found, "z", found), float)
    if z.ndim != 2 or z.shape[1] != own.size or len(z) < 2:
        raise ValueError(complain(f"two or more draws z (draw, {own.size}), or a Posterior", f"shape {z.shape}",
                                  "return what laplace, nuts or from_ensemble return"))
    if not np.isfinite(z).all():
        raise ValueError(complain("finite draws", f"{int((~np.isfinite(z)).sum())} values that are not", "look at this twin alone"))
    matrix = np.asarray(_physical(own, z))
    if own is space:
        return np.asarray(z), matrix
    absent = [label for label in space.labels if label not in own.labels]
    if absent:
        raise ValueError(complain(f"a posterior of {', '.join(space.labels)}", f"none of {', '.join(absent)}", "keep them free"))
    matrix = matrix[:, [own.labels.index(label) for label in space.labels]]
    return np.asarray(space.whiten(space.unflatten(matrix))), matrix


@eqx.filter_jit
def _physical(space: ParameterSpace, z: Array) -> Array:
    return jax.vmap(lambda z: space.flatten(space.physical(z)))(z)


@eqx.filter_jit
def _many_errors(problem: Problem, Z: Array, keys: Array) -> dict[str, Array]:
    """Observation errors by stream, (draw, site, n_obs), of the R that each draw has."""
    def one(z, key):
        streams = problem.observations_at(problem.theta(z)).items()
        return {name: draw_errors(stream, jax.random.fold_in(key, index)) for index, (name, stream) in enumerate(streams)}

    return jax.vmap(one)(Z, keys)


def _inside(bands: np.ndarray, values: np.ndarray, where: np.ndarray) -> list[float]:
    """Share of `values` (site, n) `where` they count inside each pair of `bands` (2 x level, site, n)."""
    pairs = zip(bands[::2], bands[1::2], strict=True)
    return [float(((low <= values) & (values <= high))[where].mean()) if where.any() else np.nan for low, high in pairs]


class _Store:
    """A folder with one file a twin; without a folder nothing is kept."""

    def __init__(self, folder: str | Path | None, belongs_to: str):
        self.folder, self.belongs_to = None if folder is None else Path(folder), belongs_to
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)

    def read(self, index: int) -> Record | None:
        """What is kept of a twin, None if nothing is. Raises ValueError for the file of another run."""
        if self.folder is None or not self._path(index).is_file():
            return None
        with np.load(self._path(index), allow_pickle=False) as file:
            record = dict(file)
        if str(record.pop("belongs_to", "")) != self.belongs_to:
            raise ValueError(complain(f"twins of this problem, key, options and posterior in {self.folder}", "those of another run",
                                      "another folder, or remove this one"))
        return record

    def write(self, index: int, record: Mapping[str, np.ndarray]) -> None:
        if self.folder is not None:
            with checkpoint.whole(self._path(index)) as temporary, temporary.open("wb") as file:
                np.savez(file, belongs_to=np.array(self.belongs_to), **record)

    def _path(self, index: int) -> Path:
        return self.folder / f"twin_{index:05d}.npz"


def _one_by_one(recipe: _Recipe, store: _Store, indices: Sequence[int]) -> Iterator[tuple[int, Record]]:
    for index in indices:
        record = recipe.record(index)
        store.write(index, record)
        yield index, record


def _in_processes(recipe: _Recipe, store: _Store, indices: Sequence[int], processes: int) -> Iterator[tuple[int, Record]]:
    """The same, by fresh processes that take one twin after the other and write it."""
    try:
        content = pickle.dumps((recipe, store))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(complain("a problem and a posterior_of that another process can import", f"{error}",
                                  "a function at the top of a module instead of a lambda, or processes=1")) from error
    context = multiprocessing.get_context("spawn")
    waiting, done = context.Queue(), context.Queue()
    for index in indices:
        waiting.put(index)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    settings = {name: getattr(jax.config, name) for name in SETTINGS}
    workers = [context.Process(target=_serve, args=(content, settings, cores[n::processes], waiting, done), daemon=True)
               for n in range(min(processes, len(indices)))]
    try:
        for worker in workers:
            worker.start()
        for _ in indices:
            index = _heard(done, workers)
            yield index, store.read(index)
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def _heard(done, workers) -> int:
    """The next twin that was written. Raises RuntimeError if a process has died."""
    while True:
        with contextlib.suppress(queue.Empty):
            return done.get(timeout=0.5)
        dead = [worker.exitcode for worker in workers if not worker.is_alive()]
        if dead and done.empty():
            raise RuntimeError(complain(
                "processes that take twins until there are no more", f"one that ended with {dead[0]}",
                'start the script below `if __name__ == "__main__":`, since processes import it; twins that are done are in the store'))


def _serve(content: bytes, settings: Mapping[str, Any], cores: Sequence[int], waiting, done) -> None:
    """What a process does. Settings come before anything is unpickled: arrays would lose half of their digits."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cores:
        os.sched_setaffinity(0, cores)
    for name, value in settings.items():
        jax.config.update(name, value)
    recipe, store = pickle.loads(content)
    while True:
        index = waiting.get()
        store.write(index, recipe.record(index))
        done.put(index)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextlib.contextmanager
def _bar(wanted: bool, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar over all twins; what is given is called after each with the number that failed."""
    if not wanted:
        yield lambda failed: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("twins"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
                  transient=True) as bar:
        task = bar.add_task("", total=total, completed=done)
        yield lambda failed: bar.update(task, advance=1, description=f"{failed} failed" if failed else "")


def _dataset(recipe: _Recipe, records: Sequence[Record]) -> xr.Dataset:
    labels = recipe.problem.space.labels
    good = [record for record in records if "failure" not in record]

    def table(name: str, *shape: int) -> np.ndarray:
        return np.array([record.get(name, np.full(shape, np.nan)) for record in records]).reshape(-1, *shape)

    n, levels = len(labels), np.array(recipe.levels)
    ds = xr.Dataset(coords={
        "twin": np.arange(len(records)), "parameter": list(labels), "quantity": [*labels, "J"], "level": levels,
        "stream": list(recipe.problem.observations.names)})
    ds["rank"] = ("twin", "quantity"), table("rank", n + 1)
    for name in ("truth", "mean", "sd"):
        ds[name] = ("twin", "parameter"), table(name, n)
    ds["ranked"], ds["seconds"] = ("twin", table("ranked")), ("twin", table("seconds"))
    ds["seconds"].attrs["units"] = "s"
    ds["failure"] = "twin", np.array([str(record.get("failure", "")) for record in records])
    names = sorted({name for record in good for name in record if name.startswith("detail_")})
    if names:
        ds = ds.assign_coords(name=[name.removeprefix("detail_") for name in names])
        ds["detail"] = ("twin", "name"), np.column_stack([table(name) for name in names])
    weighted = [name for name, stream in recipe.problem.observations.items() if np.any(np.asarray(stream.weight) != 1)]
    ds.attrs |= {"twins": len(records), "failed": len(records) - len(good), "weighted": ", ".join(weighted)}
    return _with_shares(_with_uniformity(ds), table if recipe.predictions else None)


def _with_uniformity(ds: xr.Dataset) -> xr.Dataset:
    ranks = ds["rank"].values[ds["failure"].values == ""]
    number, levels = len(ranks), ds["level"].values
    band = UniformBand(number)
    ds["p_chi_square"] = "quantity", [chi_square_p(column, number_of_bins(number)) for column in ranks.T]
    ds["p_ecdf"] = "quantity", [band.p_value(column) for column in ranks.T]
    inside = np.abs(ranks[:, :, None] - 0.5) < 0.5 * levels
    low, high = proportion_interval(inside.sum(axis=0), number)
    for name, values in {"coverage": inside.mean(axis=0), "coverage_low": low, "coverage_high": high}.items():
        ds[name] = ("quantity", "level"), values
    # Parameters of one twin are judged together: the twins are what is independent.
    return _with_mean(ds, "parameters_coverage", ("level",), inside[:, :-1].mean(axis=1))


def _with_shares(ds: xr.Dataset, table: Callable | None) -> xr.Dataset:
    for name in ("predicted", "observed") if table else ():
        shares = table(name, ds.sizes["stream"], ds.sizes["level"])
        ds = _with_mean(ds, f"{name}_coverage", ("stream", "level"), shares[ds["failure"].values == ""])
    return ds


def _with_mean(ds: xr.Dataset, name: str, dims: tuple[str, ...], values: np.ndarray) -> xr.Dataset:
    """The mean over twins of `values` (twin, *dims), and its standard error."""
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.full(values.shape[1:], np.nan)
    ds[name], ds[f"{name}_error"] = (dims, values.mean(axis=0)), (dims, error)
    return ds
