"""What all sensitivity analyses share: the factors that are varied, the outputs that are looked at, and the runs.

A *factor* is one element of z, labelled as in `space.labels`, or a group of them that moves together. An *output* is one number of a
run: a metric, one value of a series, or the mean of a series over a period. Outputs lie along one dimension `output` with the
coordinates `stream`, `site`, `period`, `time` and `units`, whatever the lengths of the streams.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jax import Array
from scipy.special import ndtri

from landcal_jax import parameter_layout
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.members import region_words
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.seasons import MONTHS, SEASONS, month_of, season_of

MEANS: dict[str, Callable[[pd.DatetimeIndex], np.ndarray]] = {
    "season": lambda time: season_of(time.values),
    "month": lambda time: month_of(time.values),
    "year": lambda time: time.year.values.astype(str),
    "record": lambda time: np.full(len(time), "record"),
}
ORDERED = (*MONTHS, *SEASONS)
Mean = str | Callable[[pd.DatetimeIndex], np.ndarray] | None
Groups = Mapping[str, Sequence[str]] | None
CHUNK = 2048  # members of which whole series are held at a time, at most
BYTES = 2**28  # of such series
STILL = 1e-10  # spread over size up to which an output does not vary: differences there are those of rounding
LARGEST = 5  # parameters named in a sentence
TOLD = 12  # outputs at most that get a sentence of their own
EDGE = 2.0**-31  # half a cell of the grid of SciPy's Sobol points, which holds 0 but not 1: they are moved to the middle of their cells


class Factors(NamedTuple):
    """What is varied: `names` (factor,), and the factor of each element of z, `of` (n,), labelled `labels` (n,)."""

    names: tuple[str, ...]
    of: np.ndarray
    labels: tuple[str, ...]

    @property
    def grouped(self) -> bool:
        """Whether any factor has several elements."""
        return len(self.names) < len(self.labels)

    @property
    def members(self) -> dict[str, list[str]]:
        """Factor -> labels of its elements."""
        return {name: [label for label, factor in zip(self.labels, self.of, strict=True) if factor == number]
                for number, name in enumerate(self.names)}

    def salib(self, low: float = 0.0, high: float = 1.0) -> dict:
        """The same as SALib says it, every element between `low` and `high` in u."""
        said = {"num_vars": len(self.labels), "names": list(self.labels), "bounds": [[low, high]] * len(self.labels)}
        return said | ({"groups": [self.names[factor] for factor in self.of]} if self.grouped else {})

    def summed(self, of_elements: np.ndarray) -> np.ndarray:
        """Sums over the elements of each factor: (n, ...) -> (factor, ...)."""
        total = np.zeros((len(self.names), *of_elements.shape[1:]))
        np.add.at(total, self.of, of_elements)
        return total


def factors(space: ParameterSpace, groups: Groups) -> Factors:
    """Factors of `space`, where `groups` maps the name of a group to names or labels of parameters; all others are by themselves.

    Fixed elements of a group stay fixed. Raises ValueError for unknown names, an element in two groups, a group in which nothing is
    free, and a group with the name of a factor that is not in it.
    """
    if groups is not None and not isinstance(groups, Mapping):
        raise TypeError(complain("groups as names of groups with their parameters", f"{groups!r}", 'groups={"leaf": ["lma", "lifespan"]}'))
    if text := [f"{group}: {names!r}" for group, names in (groups or {}).items() if isinstance(names, str)]:
        raise TypeError(complain("a list of parameters for each group", ", ".join(text), 'groups={"leaf": ["lma", "lifespan"]}'))
    free, group_of = {element: position for position, element in enumerate(space.layout.free_index)}, {}
    for group, names in (groups or {}).items():
        elements = {element for name in names for element in parameter_layout.elements_of(space.layout, name)} & set(free)
        if not elements:
            raise ValueError(complain(f"at least one free parameter in the group {group!r}", f"{list(names)}, all fixed", "leave it out"))
        for element in elements:
            label = space.layout.labels[element]
            if free[element] in group_of:
                raise ValueError(complain(f"{label} in one group", f"{group_of[free[element]]!r} and {group!r}", "one of them"))
            group_of[free[element]] = group
    of_elements = [group_of.get(position, label) for position, label in enumerate(space.labels)]
    for group in groups or {}:
        if group in space.labels and space.labels.index(group) not in group_of:
            raise ValueError(complain("a group name that is no parameter outside the group", repr(group), "another name"))
    # In the order in which they first appear, which is that of SALib.
    names = tuple(dict.fromkeys(of_elements))
    return Factors(names, np.array([names.index(name) for name in of_elements]), space.labels)


def require_independent(space: ParameterSpace, what: str) -> None:
    """Raise ValueError for a prior with correlations, under which variances cannot be shared out among parameters."""
    if space.factor is not None and not np.array_equal(np.asarray(space.factor), np.eye(space.size)):
        raise ValueError(complain(f"independent parameters for {what}", "a correlated prior",
                                  "the space without its correlation, one_at_a_time or local_sensitivity"))


def require_runs(runs: int) -> None:
    """Raise TypeError for a budget that is no number."""
    if isinstance(runs, bool) or not isinstance(runs, int | float | np.integer | np.floating):
        raise TypeError(complain("a number of runs", f"{runs!r}", "runs=690"))


def seed_of(key: Array | int) -> int:
    """A whole number from 1 to 2^31 for SALib, which takes zero for none."""
    return 1 + int(jax.random.bits(key_of(key), dtype=jnp.uint32) >> 1)


def z_of(u: np.ndarray) -> np.ndarray:
    """z of points u (run, n) in [0, 1)^n of a Sobol sequence."""
    return ndtri(u * (1 - 2 * EDGE) + EDGE)


# -------------------------------------------------------------------------------------------------------------- outputs


class Outputs(eqx.Module):
    """Which numbers of a run are looked at: means over places of the streams, as a map {stream: (site, n_obs)} -> (output,)."""

    places: tuple[Array, ...]
    of: tuple[Array, ...]
    counts: tuple[Array, ...]
    names: tuple[str, ...] = eqx.field(static=True)

    def __call__(self, predicted: Mapping[str, Array]) -> Array:
        parts = []
        for name, places, of, counts in zip(self.names, self.places, self.of, self.counts, strict=True):
            values = jnp.ravel(predicted[name])[places]
            parts.append(jax.ops.segment_sum(values, of, counts.size, indices_are_sorted=True) / counts)
        return jnp.concatenate(parts)


def outputs(observations: Observations, mean: Mean) -> tuple[Outputs, xr.Dataset]:
    """The outputs of a problem with their coordinates: every value of each stream, or its means over periods.

    A place counts where the stream has a time or an observed value: also days without observation, never the padding of short sites. Of
    a stream without times that nobody observes all count.
    `mean`: "season", "month", "year", "record" (all of it), or a function from times to the label of a period each.
    Raises ValueError for other words, and for periods of a stream without times.
    """
    if isinstance(mean, str) and mean not in MEANS:
        raise ValueError(complain(f"a mean over {', '.join(MEANS)}, or a function of the times", repr(mean), 'mean="season"'))
    parts, rows = [], []
    for name, stream in observations.items():
        start, places, of = len(rows), [], []
        periods = _periods_of(name, stream, mean)
        for site, site_name in enumerate(observations.sites):
            for label, time, at in periods(site):
                of += [len(rows) - start] * len(at)
                places += (site * stream.values.shape[1] + at).tolist()
                rows.append((name, site_name, label, time, stream.units))
        parts.append((places, of, np.bincount(np.asarray(of, int))))
    table = pd.DataFrame(rows, columns=["stream", "site", "period", "time", "units"])
    coords = {name: ("output", table[name].values if name == "time" else table[name].values.astype(str)) for name in table}
    ds = xr.Dataset(coords={"output": _labels(table), **coords})
    ds["time"] = "output", table["time"].values.astype("datetime64[ns]")
    places, of, counts = zip(*parts, strict=True)
    as_arrays = (tuple(jnp.asarray(np.asarray(part, int)) for part in each) for each in (places, of))
    return Outputs(*as_arrays, tuple(jnp.asarray(count, float) for count in counts), observations.names), ds.set_coords("time")


def _periods_of(name: str, stream: Stream, mean: Mean) -> Callable[[int], list[tuple[str, np.datetime64, np.ndarray]]]:
    """A site -> label, time (the first) and places of each output of the stream there."""
    mask, time = np.asarray(stream.mask), stream.time
    if time is None:
        if mean not in (None, "record"):
            raise ValueError(complain(f"times in the stream '{name}', to take means over periods", "none", 'mean=None, or mean="record"'))
        never = np.datetime64("NaT")
        mask = mask if mask.any() else np.ones_like(mask)  # of an output that nobody observes, such as a metric without a target
        return lambda site: (
            [(str(place), never, np.array([place])) for place in np.flatnonzero(mask[site])] if mean is None
            else [("record", never, np.flatnonzero(mask[site]))] * bool(mask[site].any()))
    there = ~np.isnat(time)
    unit = "D" if (time[there] == time[there].astype("datetime64[D]")).all() else "m"
    label_of = MEANS[mean] if isinstance(mean, str) else mean

    def periods(site: int) -> list[tuple[str, np.datetime64, np.ndarray]]:
        seen = np.flatnonzero(there[site])
        if label_of is None:
            return [(np.datetime_as_string(time[site, place], unit=unit), time[site, place], np.array([place])) for place in seen]
        of = np.asarray(label_of(pd.DatetimeIndex(time[site, seen].astype("datetime64[ns]")))).astype(str)
        # Months and seasons in the order of the year, others in that in which they come.
        labels = sorted(dict.fromkeys(of), key=lambda label: ORDERED.index(label) if label in ORDERED else -1)
        return [(label, time[site, seen[of == label][0]], seen[of == label]) for label in labels]

    return periods


def _labels(table: pd.DataFrame) -> list[str]:
    """The name of the stream, with site and period in brackets where there are several of them."""
    labels, sites = [], table["site"].nunique() > 1
    several = {name: rows.groupby("site").size().max() > 1 for name, rows in table.groupby("stream")}
    for row in table.itertuples():
        inside = [row.site] * sites + [row.period] * bool(several[row.stream])
        labels.append(f"{row.stream}[{','.join(inside)}]" if inside else row.stream)
    return labels


# ----------------------------------------------------------------------------------------------------------------- runs


def run(problem: Problem, Z: np.ndarray, chosen: Outputs) -> np.ndarray:
    """Outputs of members Z (member, n), (member, output); NaN where one failed or is infinite."""
    a_member = 8 * sum(np.size(stream.mask) for _, stream in problem.observations.items())
    step = min(CHUNK, max(1, BYTES // a_member)) if problem.forward.traceable else max(len(Z), 1)
    parts = [np.asarray(_looked_at(chosen, {name: jnp.asarray(values) for name, values in problem.ensemble(Z[start:start + step]).items()}))
             for start in range(0, len(Z), step)]
    values = np.concatenate(parts)
    return np.where(np.isfinite(values), values, np.nan)


@eqx.filter_jit
def _looked_at(chosen: Outputs, predicted: Mapping[str, Array]) -> Array:
    return jax.vmap(chosen)(predicted)


def failures(problem: Problem, Z: np.ndarray, values: np.ndarray, labels: Sequence[str]) -> tuple[int, list[str]]:
    """How many runs failed, and sentences about them and about outputs that some runs, or all, do not have.

    A run has failed when it has none of the outputs (run, output) that other runs have; a metric that is undefined for a run is
    counted by itself. Raises RuntimeError if no run has any.
    """
    known = np.isfinite(values).any(axis=0)
    if not known.any():
        raise RuntimeError(complain("runs with finite outputs", f"none of {len(values)}{problem.forward.failure_words()}",
                                    "look at problem.predict(problem.space.default_z), and at the messages of the model"))
    finished, found = np.isfinite(values[:, known]).any(axis=1), []
    failed = int((~finished).sum())
    if failed:
        found.append(f"{failed} of {len(values)} runs failed{region_words(problem, Z, finished)}{problem.forward.failure_words()}. What "
                     "is compared with them is left out: results hold for the part of the prior where the model runs.")
    undefined = (~np.isfinite(values[finished])).sum(axis=0)
    if (known & (undefined > 0)).any():
        found.append(f"Not a number in runs that did not fail, of {int(finished.sum())}: "
                     f"{listed([f'{label} ({count})' for label, count in zip(labels, undefined, strict=True)], known & (undefined > 0))}. "
                     "Results of these outputs hold for the part of the prior where they are defined.")
    if not known.all():
        found.append(f"No run has {listed(labels, ~known)}: not a number.")
    return failed, found


def unvarying(values: np.ndarray, labels: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Which outputs (run, output) do not vary by more than rounding errors, (output,), and a sentence about them."""
    known = np.isfinite(values)
    high, low = (of(np.where(known, values, none), axis=0) for of, none in ((np.max, -np.inf), (np.min, np.inf)))
    with np.errstate(invalid="ignore"):
        still = known.any(axis=0) & (high - low <= STILL * np.maximum(np.abs(high), np.abs(low)))
    return still, [f"The same in all runs, so that nothing is sensitive: {listed(labels, still)}."] if still.any() else []


def listed(labels: Sequence[str], where: np.ndarray) -> str:
    """The labels of outputs where `where` (output,), the first few."""
    names = [labels[number] for number in np.flatnonzero(where)]
    return ", ".join(names[:TOLD]) + (f" and {len(names) - TOLD} more outputs" if len(names) > TOLD else "")


def largest(ds: xr.Dataset, measure: str) -> list[str]:
    """What moves each output most, where there are few of them."""
    said = []
    for output in ds["output"].values if ds.sizes["output"] <= TOLD else ():
        values = ds[measure].sel(output=output).values
        order = [n for n in np.argsort(-np.where(np.isfinite(values), values, -np.inf), kind="stable") if values[n] > 0][:LARGEST]
        words = ", ".join(f"{ds['parameter'].values[n]} ({values[n]:.3g})" for n in order)
        said += [f"{output}: most by {words} ({ds[measure].attrs['long_name']})."] if words else []
    return said


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is not above zero."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)


def about(long_name: str, units: str = "1") -> dict[str, str]:
    """Attributes of a variable."""
    return {"long_name": long_name, "units": units}


def described(ds: xr.Dataset, found: Factors, sentences: Sequence[str], **attrs: str | int | float) -> xr.Dataset:
    """`ds` with the attributes that all results have: method, runs, members of the factors, sentences."""
    ds.attrs = attrs | {"members": json.dumps(found.members), "sentences": json.dumps(list(sentences))}
    return ds
