"""What a file holds, before anything is calibrated against it: `print(inspect("FLX_FI-Hyy_..._HH.csv", latitude=61.85))`.

The report says what was recognised, what was corrected on reading, how much was observed in each season and by day and by
night, what looks suspicious, and what is missing for which model. Nothing is changed.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complaint_of
from landcal_jax.io.aggregation import is_subdaily
from landcal_jax.io.coverage import coverage, void_days
from landcal_jax.io.model_data import DRIVERS, candidates, fluxes
from landcal_jax.io.normal import missing_steps, place, step_of
from landcal_jax.io.quantities import COMPANIONS, FLUXES, METEOROLOGY, SNOW
from landcal_jax.io.suspicion import equal_extremes, suspicions

WITHOUT_WATER = tuple(name for name in DRIVERS if name not in ("vpd", "precipitation"))
# What the models take (their `forcing(dataset)`), and which of the streams of an experiment they give.
MODELS = {"Dalec2": (WITHOUT_WATER, ("nee",)), "DalecWater": (DRIVERS, ("nee", "latent_heat"))}
STEPS = {"PT30M": "half-hourly", "PT1H": "hourly", "P1D": "daily", "P1M": "monthly", "P1Y": "yearly", "irregular": "irregular"}
COUNTS = re.compile(r"\w+( \(.*\))?: \d+ values on \d+ steps(; \d+ blank or NaN are missing)?\.")
GROUPS = {"meteorology": METEOROLOGY, "fluxes": FLUXES, "snow": SNOW}
VEGETATION = ("nee", "gpp", "reco", "evapotranspiration", "lai", "biomass", "soil_carbon", "soil_respiration", "methane")
NAMED = 12  # variables of a field that are named before the table of all
WHOLE = 0.995  # a share that is shown as 100 %


class Lacks(NamedTuple):
    """What one model lacks in one file; empty where it lacks nothing. `notes`: sentences on what it has, but badly, and why."""

    drivers: tuple[str, ...]
    fluxes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Inspection:
    """What `inspect` found in a file; `print` it for a report in sentences and tables.

    `variables`: a row for each variable (name in the file and here, units of both, number of values and of missing ones, share
    that was gap-filled, minimum, median, maximum). `coverage`: share of the steps of the record that were observed (a value that
    was not gap-filled), by months of a season and, for steps shorter than a day, by day and night. `suspicious` and `corrected`:
    sentences. `missing_for`: model -> what it lacks. Of a field, a table or an array, only what applies is there.
    """

    name: str
    format: str
    what: str
    period: tuple[str, str] | None
    step: str
    site: str
    place: tuple[float, float]
    label: str
    time_zone: str
    variables: pd.DataFrame
    coverage: pd.DataFrame = field(default_factory=pd.DataFrame)
    suspicious: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()
    missing_for: dict[str, Lacks] = field(default_factory=dict)

    def __str__(self) -> str:
        """The report."""
        parts = [f"{self.name}: {self.format}", self._about()]
        parts.append("Variables\n" + _aligned(_shown_variables(self.variables)))
        if not self.coverage.empty:
            title = "Observed, % of the steps of the record (values marked as gap-filled do not count)"
            parts.append(f"{title}\n" + _shown_coverage(self.coverage))
        said = tuple(line for line in self.corrected if not COUNTS.fullmatch(line))  # the table above has the plain counts
        nothing = "Nothing that the checks look for." if self.period else "Not checked: the checks are for a series at one site."
        for title, sentences, none in (("Suspicious (nothing was changed)", self.suspicious, nothing),
                                       ("On reading", said, "Nothing was corrected.")):
            parts.append(title + "\n" + "\n".join(_wrapped(each) for each in (sentences or (none,))))
        if self.missing_for:
            parts.append("For a model\n" + "\n".join(_wrapped(_lacking(model, lacks)) for model, lacks in self.missing_for.items()))
        return "\n\n".join(parts)

    def _about(self) -> str:
        lines = [textwrap.fill(self.what, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)]
        if self.period:
            where = ", ".join(f"{abs(value):.4g} {ends[value < 0]}" for value, ends in zip(self.place, ("NS", "EW"), strict=True)
                              if np.isfinite(value)) or "place not known"
            lines.append(f"Site {self.site} ({where}), {self.period[0]} to {self.period[1]}, {self.step}.")
            shown = "" if self.label == "start" else ", here each has the stamp of its start"
            lines.append(f"Times: {self.time_zone}; the file stamps the {self.label} of each step{shown}.")
        return "\n".join(lines)


def inspect(
    path_or_dataset: str | Path | xr.Dataset, *, reader: Callable[[Path], xr.Dataset] | None = None, site: str | None = None,
    latitude: float | None = None, longitude: float | None = None,
) -> Inspection:
    """Inspect a file of any known format, or a Dataset of the normal form; options as those of `landcal_jax.io.read`.

    Raises what `read` raises for a file that cannot be read.
    """
    if isinstance(path_or_dataset, xr.Dataset):
        ds, name = path_or_dataset, str(path_or_dataset.attrs.get("source") or "Dataset")
        given = {key: value for key, value in (("site", site), ("latitude", latitude), ("longitude", longitude)) if value is not None}
        if given:
            now = {key: ds[key].item() if key in ds.coords else None for key in ("site", "latitude", "longitude")}
            ds = ds.assign_coords(place(**(now | given), path=Path(name)))
    else:
        from landcal_jax.io.formats import read

        name = Path(path_or_dataset).name
        ds = read(path_or_dataset, reader=reader, site=site, latitude=latitude, longitude=longitude)
    known = {"name": name, "format": str(ds.attrs.get("format", "normal form")), "what": _what(ds), "variables": _variables(ds),
             "corrected": tuple(line for line in str(ds.attrs.get("history", "")).splitlines() if line)}
    if ds.attrs.get("kind") or "time" not in ds.dims or not {"site", "latitude", "longitude"} <= set(ds.coords):
        return Inspection(**known, period=None, step="", site="", place=(np.nan, np.nan), label="", time_zone="")
    time = ds.indexes["time"]
    form = "%Y-%m-%d %H:%M" if is_subdaily(ds) else "%Y-%m-%d"
    return Inspection(
        **known, period=(f"{time[0]:{form}}", f"{time[-1]:{form}}"), step=_step_in_words(ds), site=str(ds["site"].item()),
        place=(float(ds["latitude"]), float(ds["longitude"])), label=str(ds["time"].attrs.get("label_in_file", "start")),
        time_zone=str(ds["time"].attrs.get("time_zone", "not stated")), coverage=coverage(ds), suspicious=tuple(suspicions(ds)),
        missing_for={model: _lacks(ds, *needs) for model, needs in MODELS.items()} if _concerns_models(ds) else {})


def _what(ds: xr.Dataset) -> str:
    names = [str(name) for name in ds.data_vars if not str(name).endswith(COMPANIONS)]
    kind = ds.attrs.get("kind")
    if kind or "site" not in ds.coords:
        sizes = ", ".join(f"{name} {size}" for name, size in ds.sizes.items())
        article, more = "An" if str(kind)[:1] in "aeiou" else "A", len(names) - NAMED
        listed = ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
        return f"{article} {kind or 'Dataset'} with dimensions {sizes or 'none'}; variables {listed or 'none'}."
    groups = {group: [name for name in names if name in members] for group, members in GROUPS.items()}
    other = [name for name in names if not any(name in members for members in GROUPS.values())]
    listed = [f"{group} ({', '.join(members)})" for group, members in (groups | {"other": other}).items() if members]
    step = _step_in_words(ds)
    return f"{step[:1].upper()}{step[1:]} series at one site: {'; '.join(listed) or 'no variable'}."


def _step_in_words(ds: xr.Dataset) -> str:
    step = step_of(ds)
    parts = re.fullmatch(r"P(T?)(\d+)([DHMSY])", step)
    if step in STEPS or not parts:
        return STEPS.get(step, step)
    unit = {"TM": "minute", "TH": "hour", "TS": "second", "D": "day", "M": "month", "Y": "year"}[parts[1] + parts[3]]
    return f"{parts[2]}-{unit}"


# ---------------------------------------------------------------------- tables


def _variables(ds: xr.Dataset) -> pd.DataFrame:
    rows = []
    absent = missing_steps(ds.indexes["time"], step_of(ds)) if "time" in ds.dims and "site" in ds.coords and not ds.attrs.get("kind") else 0
    for name in map(str, ds.data_vars):
        values = np.asarray(ds[name].values)
        if name.endswith("_filled") or values.dtype.kind not in "fiub":
            continue
        values = values.astype(float)
        finite = values[np.isfinite(values)]
        row = {"name": name, "units": str(ds[name].attrs.get("units", "")), "name_in_file": str(ds[name].attrs.get("name_in_file", "")),
               "units_in_file": str(ds[name].attrs.get("units_in_file", "")), "values": finite.size,
               "missing": values.size - finite.size + (absent if ds[name].dims == ("time",) else 0),
               "filled": float(ds[f"{name}_filled"].mean()) if f"{name}_filled" in ds else np.nan}
        extremes = (finite.min(), float(np.median(finite)), finite.max()) if finite.size else (np.nan,) * 3
        rows.append(row | dict(zip(("min", "median", "max"), extremes, strict=True)))
    columns = ["name", "units", "name_in_file", "units_in_file", "values", "missing", "filled", "min", "median", "max"]
    return pd.DataFrame(rows, columns=columns)


def _concerns_models(ds: xr.Dataset) -> bool:
    """Whether a file may be for a model of vegetation: it has its fluxes, or drivers or heat fluxes without anything of snow."""
    if any(name in ds for name in VEGETATION):
        return True
    return any(name in METEOROLOGY or name in FLUXES for name in ds.data_vars) and not any(name in SNOW for name in ds.data_vars)


def _lacks(ds: xr.Dataset, drivers: Sequence[str], streams: Sequence[str]) -> Lacks:
    """Which drivers and streams of a model a file does not give, with the number of gaps in those that it gives."""
    notes: list[str] = []
    try:
        found = candidates(ds, drivers)
    except ValueError as error:
        lacking = [_got(error)]
    else:
        lacking = [name for name in drivers if name not in found]
        steps = _absent(found)
        for name in (each for each in drivers if each in found and each != "burned_fraction"):
            gaps = ~np.isfinite(found[name].values)
            if gaps.any():
                lacking.append(f"{name} on {gaps.sum()} of {gaps.size} steps, the first {found.indexes['time'][np.argmax(gaps)]:%Y-%m-%d}")
        if steps and any(name in found for name in drivers if name != "burned_fraction"):
            lacking.append(f"{steps} step{'s' * (steps > 1)} without a row")
        if not np.isfinite(float(ds["latitude"])):
            lacking.append("the latitude")
        notes += [equal_extremes(found)] * bool(equal_extremes(found))
    missing, voided = _unobserved(ds, streams)
    return Lacks(tuple(lacking), tuple(missing), (*notes, *voided))


def _absent(ds: xr.Dataset) -> int:
    """Days or months without a row; none where only leap days are absent, which `drivers` fills."""
    if step_of(ds) not in ("P1D", "P1M"):
        return 0
    time, steps = ds.indexes["time"], missing_steps(ds.indexes["time"], step_of(ds))
    if steps and step_of(ds) == "P1D":
        absent = pd.date_range(time[0], time[-1]).difference(time)
        steps = 0 if ((absent.month == 2) & (absent.day == 29)).all() else steps
    return steps


def _unobserved(ds: xr.Dataset, streams: Sequence[str]) -> tuple[list[str], list[str]]:
    """The streams without an observed value, and a sentence on each that the rule of gap-filled shares has emptied."""
    try:
        seen = fluxes(ds)
    except ValueError:
        return list(streams), []
    missing = [name for name in streams if name not in seen or not np.isfinite(seen[name].values).any()]
    void, sentences = void_days(seen), []
    for name in (each for each in missing if each in void):
        count, most = void[name]
        options = {share: int(np.isfinite(fluxes(ds, most_filled=share)[name].values).sum()) for share in (0.5, 0.75, 1.0)}
        kept = next(((share, days) for share, days in options.items() if days), None)
        advice = "no --most-filled would keep a day"
        if kept:
            advice = f"--most-filled {kept[0]:g} would keep {kept[1]} days, filled values in them"
        sentences.append(f"{name} is there, but {count} of {seen.sizes['time']} days are void by the rule that at most {most:g} % of a day "
                         f"may be gap-filled or missing: {advice}.")
    return missing, sentences


def _got(error: ValueError) -> str:
    text = complaint_of(error) or str(error)
    return next((line.removeprefix("Got:").strip() for line in text.splitlines() if line.startswith("Got:")), text)


# ---------------------------------------------------------------------- text


def _shown_variables(table: pd.DataFrame) -> pd.DataFrame:
    number = "{:.4g}".format
    shown = pd.DataFrame({"": table["name"], "unit": table["units"]})
    if table["name_in_file"].any():
        shown["in the file"] = [f"{name} [{units}]" if name else "-"
                                for name, units in zip(table["name_in_file"], table["units_in_file"], strict=True)]
    shown["values"], shown["missing"] = table["values"].astype(str), table["missing"].astype(str)
    if table["filled"].notna().any():
        shown["filled"] = ["-" if np.isnan(share) else f"{100 * share:.0f} %" for share in table["filled"]]
    for name in ("min", "median", "max"):
        shown[name] = ["-" if np.isnan(value) else number(value) for value in table[name]]
    return shown.set_index("")


def _shown_coverage(table: pd.DataFrame) -> str:
    """Shares in percent; variables that were observed throughout share one line."""
    whole = (table.fillna(1.0) >= WHOLE).all(axis=1)
    if whole.sum() < 3:
        whole[:] = False
    shown = [_aligned((100 * table[~whole]).map(lambda share: "-" if np.isnan(share) else f"{share:.0f}"))] * bool((~whole).any())
    if whole.any():
        shown.append(textwrap.fill(f"100 throughout: {', '.join(table.index[whole])}", 118, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(shown)


def _aligned(table: pd.DataFrame) -> str:
    """A table as text: names and units to the left, numbers to the right, two blanks between."""
    cells = [["", *map(str, table.columns)]]
    cells += [[str(name), *map(str, row)] for name, row in zip(table.index, table.to_numpy(), strict=True)]
    left = [not column or column in ("unit", "in the file") for column in cells[0]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) if west else cell.rjust(width) for cell, width, west in zip(row, widths, left, strict=True))
             for row in cells]
    return "\n".join(f"  {line.rstrip()}" for line in lines)


def _wrapped(sentence: str) -> str:
    """A sentence as an item of a list; lines below its first are those of a table and stay as they are."""
    first, *rows = sentence.split("\n")
    item = textwrap.fill(first, 118, initial_indent="  - ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join([item, *(f"      {row}" for row in rows)])


def _lacking(model: str, lacks: Lacks) -> str:
    needs, streams = MODELS[model]
    if set(needs) - {"burned_fraction"} <= set(lacks.drivers):
        wanted = ", ".join(name for name in needs if name != "burned_fraction")  # without it there is no fire
        drivers = f"finds none of its drivers here ({wanted}): give them in a file of their own"
    else:
        drivers = f"lacks drivers: {', '.join(lacks.drivers)}" if lacks.drivers else "has every driver"
    seen = [name for name in streams if name not in lacks.fluxes]
    observed = f"can be calibrated against {' and '.join(seen)}" if seen else f"lacks observed {' or '.join(lacks.fluxes)}"
    return " ".join([f"{model} {drivers}; it {observed}.", *lacks.notes])
