"""How the values of streams belong to the cells of a scorecard, variable by region by column, and the errors in them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.measures import Series, departure, scalar_of
from landcal_jax.metric_reading import series_of
from landcal_jax.observations import Observations, Stream
from landcal_jax.seasons import MONTHS, SEASONS, month_of, season_of, year_of

WORDS = {"season": season_of, "month": month_of, "year": year_of}
LEAD = "lead time [d]"


@dataclass(frozen=True)
class DaysSince:
    """What `days_since` gives: a function from times to classes of lead time."""

    begun: np.ndarray
    edges: np.ndarray

    def __call__(self, time: np.ndarray) -> np.ndarray:
        time, begun, edges = np.asarray(time, "datetime64[m]"), self.begun, self.edges
        last = np.searchsorted(begun, time, side="right") - 1
        days = np.where((last < 0) | np.isnat(time), np.nan, (time - begun[np.maximum(last, 0)]) / np.timedelta64(1, "D"))
        place = np.searchsorted(edges, days, side="right")
        inside = (place > 0) & (place < edges.size) & np.isfinite(days)
        return np.where(inside, edges[np.minimum(place, edges.size - 1)], np.nan)


def days_since(starts: ArrayLike, edges: Sequence[float]) -> DaysSince:
    """For `by`: the lead time of each value, the days since the last of `starts` (datetimes), in classes between `edges` [d].

    A class is named by its upper edge; a value outside of all belongs to none. For runs that are started again and again, one after the
    other; where they overlap, take a stream for each lead time and `Leads`. Raises ValueError for edges that do not rise.
    """
    begun, edges = np.sort(np.atleast_1d(np.asarray(starts, "datetime64[m]"))), np.asarray(edges, float)
    if edges.size < 2 or not (np.diff(edges) > 0).all() or not begun.size:
        raise ValueError(complain("a start, and two edges or more, rising [d]", f"{begun.size} starts, edges {edges.tolist()}",
                                  "days_since(starts, [0, 1, 3, 5, 10])"))
    return DaysSince(begun, edges)


@dataclass(frozen=True)
class Leads:
    """For `by`: streams that are one variable at several lead times, `Leads({"sm_24h": ("soil moisture", 1.0), ...})` with days."""

    of: Mapping[str, tuple[str, float]]


By = str | Callable[[np.ndarray], np.ndarray] | Mapping[str, ArrayLike] | Leads | None


class Part(eqx.Module):
    """One stream: its row in the card, its series, and column and block of every value, (site, n_obs); column -1 is none."""

    row: int = eqx.field(static=True)
    series: Series
    column: Array
    block: Array


class Card(eqx.Module):
    """Everything about a scorecard but the runs; `shares` (region, site) is one for the sites of a region."""

    parts: dict[str, Part]
    shares: Array
    score: Callable[[Series], Array]
    blocks: int = eqx.field(static=True)
    variables: tuple[str, ...] = eqx.field(static=True)
    regions: tuple[str, ...] = eqx.field(static=True)
    columns: tuple = eqx.field(static=True)
    kind: str = eqx.field(static=True)

    @eqx.filter_jit
    def errors(self, predicted: Mapping[str, Array], without: Array | int = -1) -> Array:
        """|m(h, y) - m(y, y)| (variable, column, site), without the block of this number; NaN where there is none."""
        table = jnp.full((len(self.variables), len(self.columns), self.shares.shape[1]), jnp.nan)
        for name, part in self.parts.items():
            found = self._of_part(part, jnp.atleast_2d(predicted[name]), without)
            table = table.at[part.row].set(jnp.where(jnp.isnan(found), table[part.row], found))
        return table

    def _of_part(self, part: Part, modelled: Array, without: Array | int) -> Array:
        def at_site(series, h, column, block):
            finite = jnp.all(jnp.isfinite(h) | ~series.mask)

            def error(number):
                one = _with(series, h).where((column == number) & (block != without))
                run, best = (scalar_of(self.score, each) for each in (one, _with(one, one.observed)))
                return jnp.where(finite, jnp.abs(departure(self.score, run, best)), jnp.nan)

            return jax.vmap(error)(jnp.arange(len(self.columns)))

        return jax.vmap(at_site, out_axes=1)(part.series, modelled, part.column, part.block)

    def of_regions(self, experiment: Array, reference: Array) -> tuple[Array, Array]:
        """Mean errors (variable, region, column) of both over the sites for which the reference has one.

        That of the experiment is NaN if it has none at one of these sites: a score that is lost is no better than a bad one.
        """
        there = jnp.isfinite(reference)
        number = jnp.einsum("rs,vcs->vrc", self.shares, there.astype(reference.dtype))

        def over_sites(errors):
            total = jnp.einsum("rs,vcs->vrc", self.shares, jnp.where(there, errors, 0.0))
            return jnp.where(number > 0, total / jnp.maximum(number, 1.0), jnp.nan)

        return over_sites(experiment), over_sites(reference)


def _with(series: Series, modelled: Array) -> Series:
    return eqx.tree_at(lambda one: one.modelled, series, modelled)


def card_of(
    observations: Observations, names: Sequence[str], regions: Mapping[str, Sequence[str]] | None, by: By,
    score: Callable[[Series], Array], block_days: float | None,
) -> tuple[Card, np.ndarray]:
    """The card and the numbers of its blocks in time (block,)."""
    if not names:
        raise ValueError(complain(f"runs of some of the streams {', '.join(observations)}", "none of them", "problem.predict(z)"))
    if not callable(score):
        raise TypeError(complain("a measure, or a function of a Series, as score", f"{score!r}", "rmsd of landcal_jax.metrics"))
    regions = {"all": observations.sites} if regions is None else regions
    if text := [f"{name}: {sites!r}" for name, sites in regions.items() if isinstance(sites, str)]:
        raise TypeError(complain("a list of names of sites for each region", ", ".join(text), 'regions={"boreal": ["FI-Hyy"]}'))
    unknown = sorted({site for sites in regions.values() for site in sites} - set(observations.sites))
    if unknown or not regions or not all(regions.values()):
        raise KeyError(complain(f"regions of the sites {', '.join(observations.sites)}, each with some", f"{dict(regions)}",
                                "correct the names"))
    streams = {name: observations[name] for name in names}
    rows, columns, places, kind = _columns(streams, by)
    blocks = {name: _blocks(name, stream, block_days) for name, stream in streams.items()}
    starts = np.unique(np.concatenate([blocks[name][np.asarray(stream.mask)] for name, stream in streams.items()]))
    variables = tuple(dict.fromkeys(rows.values()))
    parts = {
        name: Part(variables.index(rows[name]), _series(stream), jnp.asarray(places[name]),
                    jnp.asarray(np.searchsorted(starts, blocks[name])))
        for name, stream in streams.items()}
    shares = np.array([[site in sites for site in observations.sites] for sites in regions.values()], float)
    return Card(parts, jnp.asarray(shares), score, len(starts), variables, tuple(regions), columns, kind), starts


def _series(stream: Stream) -> Series:
    mask = np.asarray(stream.mask)
    deviation = stream.with_model_error(stream.model_error.completed(stream.values)).standard_deviation
    return series_of(mask, stream.time, np.asarray(stream.values), np.asarray(deviation))


def _columns(streams: Mapping[str, Stream], by: By) -> tuple[dict[str, str], tuple, dict[str, np.ndarray], str]:
    """Variable by stream, labels of the columns in order, the column of each value by stream, and what columns are."""
    if isinstance(by, Leads):
        if unknown := [name for name in streams if name not in by.of]:
            raise KeyError(complain("a variable and a lead time for every stream", f"none for {', '.join(unknown)}",
                                    "Leads({stream: (variable, days)})"))
        columns = tuple(sorted({float(by.of[name][1]) for name in streams}))
        places = {name: np.full(stream.mask.shape, columns.index(float(by.of[name][1]))) for name, stream in streams.items()}
        return {name: by.of[name][0] for name in streams}, columns, places, LEAD
    rows = {name: name for name in streams}
    if isinstance(by, str):
        if by not in WORDS:
            raise ValueError(complain(f"columns by {', '.join(WORDS)}, a function of times, labels by stream, Leads, or None", repr(by),
                                      'by="season"'))
        by = WORDS[by]
    if not (by is None or callable(by) or isinstance(by, Mapping)):
        raise TypeError(complain("columns by a word, a function of times, labels by stream, Leads, or None", f"{by!r}", 'by="season"'))
    if by is None:
        return rows, ("all",), {name: np.zeros(stream.mask.shape, int) for name, stream in streams.items()}, "all values"
    labels = {name: _labels(name, stream, by) for name, stream in streams.items()}
    found = {label for name, stream in streams.items() for label in labels[name][np.asarray(stream.mask)].tolist()}
    found = {label for label in found if label not in ("", None) and label == label}
    if not found:
        raise ValueError(complain("labels of columns for some observed values", "none", "by=season_of, or by=None for one column"))
    columns = next((tuple(label for label in words if label in found) for words in (SEASONS, MONTHS) if found <= set(words)),
                   tuple(sorted(found)))
    places = {name: sum(np.where(each == label, place + 1, 0) for place, label in enumerate(columns)) - 1 for name, each in labels.items()}
    kind = LEAD if isinstance(by, DaysSince) else next((word for word, function in WORDS.items() if by is function), "column")
    return rows, columns, places, kind


def _labels(name: str, stream: Stream, by: Callable | Mapping[str, ArrayLike]) -> np.ndarray:
    if not callable(by):
        if name not in by:
            raise KeyError(complain(f"labels of the stream {name}", f"labels of {', '.join(by)}", "by={stream: labels (site, n_obs), ...}"))
        labels = by[name]
    elif stream.time is None:
        raise ValueError(complain(f"times of the stream {name}, for the columns of the card", "none", "Stream(..., time=), or by=None"))
    else:
        labels = by(stream.time)
    labels = np.asarray(labels)
    if labels.shape not in (stream.mask.shape, stream.mask.shape[1:]):
        raise ValueError(complain(f"labels of shape {stream.mask.shape} for {name}", f"shape {labels.shape}", "one label for each value"))
    return np.broadcast_to(labels, stream.mask.shape)


def _blocks(name: str, stream: Stream, block_days: float | None) -> np.ndarray:
    """The number of the block of each value in time (site, n_obs); all the same without blocks."""
    if block_days is None:
        return np.zeros(stream.mask.shape, int)
    if stream.time is None:
        raise ValueError(complain(f"times of the stream {name}, for blocks of days", "none", "Stream(..., time=)"))
    time = np.where(np.isnat(stream.time), np.datetime64(0, "m"), stream.time)
    return np.floor(time.astype("datetime64[m]").astype(float) / 1440.0 / block_days).astype(int)


def checked(observations: Observations, names: Sequence[str], run: Mapping[str, ArrayLike], what: str) -> dict[str, Array]:
    """The streams `names` of a run, finite wherever something was observed."""
    streams = {}
    for name in names:
        if name not in run:
            raise KeyError(complain(f"the stream {name} in the {what}, as in the other run", ", ".join(run), "give both the same streams"))
        mask, values = np.asarray(observations[name].mask), np.atleast_2d(np.asarray(run[name], float))
        if values.shape != mask.shape:
            raise ValueError(complain(f"{name} of the {what} of shape {mask.shape} (site, n_obs)", f"shape {values.shape}",
                                      "problem.predict(z)"))
        if lost := int((mask & ~np.isfinite(values)).sum()):
            raise ValueError(complain(f"a finite {name} in the {what} wherever it was observed", f"{lost} values that are not",
                                      "a run that did not fail"))
        streams[name] = jnp.asarray(values)
    return streams
