"""The normal form, and the one function that makes it: `normalise`. A reader of your own format is one call of it.

    def read_mine(path):
        table = pandas.read_csv(path)
        return normalise(
            {"nee": (table["Fc"], "umol m-2 s-1"), "temperature": (table["T"], "K")}, time=table["date"], label="end",
            path=path, site="XX-Abc", latitude=46.1, longitude=11.3, source="my tower")

`normalise` puts values into the units of `landcal_jax.io.quantities`, turns fill values into NaN, labels each step by
its start, refuses what cannot be, and says in the attribute `history`, with counts, what it did.

The normal form is a Dataset with
- dimension `time`: datetime64[ns], the start of the step, strictly increasing, no step twice. Attributes: `step`, an ISO
  8601 duration ("PT30M", "P1D", "P1M"), `time_zone`, and `label_in_file`;
- scalar coordinates `site`, `latitude`, `longitude` (NaN where the file does not say);
- variables named and in the units of `quantities`, each with `units`, `long_name`, and the name it had in the file;
- attributes `title`, `source`, `references`, `license`, `sha256`, and `history`, one sentence a line.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.io.files import sha256
from landcal_jax.io.quantities import QUANTITIES, quantity
from landcal_jax.io.units import convert

FILL = 1e19  # CF files of the field mark a missing value with 1e20; nothing physical comes near
FILLS = (-9999.0,)
NIGHT_OFFSET = -2.0  # MJ m-2 d-1 (-23 W m-2): thermal offset of a pyranometer at night
ROUNDING = 1e-3  # in the unit of the quantity: what arithmetic in single precision leaves behind
DAY = np.timedelta64(1, "D")
Label = Literal["start", "middle", "end"]
STEP = re.compile(r"P[1-9]\d{0,2}D|PT[1-9]\d{0,3}[HM]|P1M|P1Y|irregular")


class Column(NamedTuple):
    """Values as they stand in a file, with their unit there and their name there."""

    values: ArrayLike
    units: str
    name: str = ""


def normalise(
    columns: Mapping[str, Column | tuple[ArrayLike, str]], time: ArrayLike, *, path: str | Path, site: str,
    latitude: float | None = None, longitude: float | None = None, label: Label = "start", step: str | None = None,
    time_zone: str = "local standard time", fills: Iterable[float] = FILLS, title: str = "", source: str = "",
    references: str = "not stated", license: str = "not stated", history: Sequence[str] = (),
) -> xr.Dataset:
    """Return the normal form of series that were read from `path`.

    `columns`: name of `quantities` -> (values, unit in the file), or a `Column`. `time`: one stamp a row, of the
    `label` of its step: datetime64, or text of ISO 8601. `step`: ISO 8601 duration; None finds it from the stamps. `fills`:
    literal values that mean missing, besides NaN and whatever is beyond 1e19.
    Raises ValueError for an unknown name, a unit of another kind, a broken time axis or an impossible value.
    """
    path, said = Path(path), list(history)
    if not columns:
        raise ValueError(complain(f"at least one quantity in {path.name}", "none: no column of it has a name that its format knows",
                                  "check the header; it may be damaged"))
    starts, step = step_starts(time, label, step, path)
    ds = xr.Dataset(coords={"time": ("time", starts, {
        "standard_name": "time", "long_name": "start of the step", "step": step, "time_zone": time_zone, "label_in_file": label})})
    for name, column in columns.items():
        column = Column(*column)
        values = _values(name, column, fills, len(starts), path, said)
        values = _in_range(name, values, starts, _daily(step), path, said)
        about = _about(name)
        attrs = {"units": about.units, "long_name": about.long_name}
        if about.standard_name:
            attrs["standard_name"] = about.standard_name
        if column.name:
            attrs["name_in_file"], attrs["units_in_file"] = column.name, column.units
        ds[name] = ("time", values, attrs)
    absent = missing_steps(starts, step)
    if absent:
        said.append(f"{absent} steps between the first and the last are absent from the file.")
    if label != "start":
        said.append(f"The stamps of the file are the {label} of each step; here they are its start.")
    ds = ds.assign_coords(place(site, latitude, longitude, path))
    ds.attrs = {"title": title or f"Observations at {site}", "source": source or f"{path.name}", "references": references,
                "license": license, "sha256": sha256(path), "history": "\n".join(said)}
    return ds


def place(site: str, latitude: Any, longitude: Any, path: Path) -> dict[str, Any]:
    """The coordinates site, latitude and longitude, after checking that they are on the globe; NaN where not known."""
    found: dict[str, Any] = {"site": ((), str(site), {"long_name": "site code"})}
    for name, value, limit, units in (
            ("latitude", latitude, 90.0, "degrees_north"), ("longitude", longitude, 360.0, "degrees_east")):
        value = np.asarray(np.nan if value is None else value, dtype=float).ravel()
        if value.size != 1 or abs(value[0]) > limit:
            raise ValueError(complain(f"one {name} in degrees in {path.name}", f"{value[:5].tolist()}",
                                      "one file holds one site; check that the value is in degrees"))
        found[name] = ((), float(value[0]), {"units": units, "long_name": name, "standard_name": name})
    return found


# ---------------------------------------------------------------------- values


def _about(name: str):
    try:
        return quantity(name)
    except KeyError as error:
        raise ValueError(complain(f"a name of the normal form ({', '.join(QUANTITIES)})", repr(name),
                                  "give the column one of these names, or leave it out")) from error


def _values(name: str, column: Column, fills, length: int, path: Path, said: list[str]) -> np.ndarray:
    """The column in the unit of the normal form, missing values as NaN, counts in `said`."""
    about, shown = _about(name), f" ({column.name})" if column.name else ""
    try:
        values = np.array(column.values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(complain(f"numbers in {name}{shown} of {path.name}", str(error),
                                  "correct the cell, or mark it as missing (-9999 or blank)")) from error
    if values.shape != (length,):
        raise ValueError(complain(f"{length} values of {name}{shown} in {path.name}, one a step", f"shape {values.shape}",
                                  "one file holds one site; select it first"))
    blank, filled = np.isnan(values), np.isin(values, list(fills)) | (np.abs(values) >= FILL)
    values = np.where(filled, np.nan, values)
    try:
        values = convert(values, column.units, about.units, name)
    except ValueError as error:
        raise ValueError(complain(f"{name}{shown} of {path.name} in a unit that can become {about.units!r}", repr(column.units),
                                  "correct the units, or the column")) from error
    marks = [f"{filled.sum()} fill values"] * bool(filled.any()) + [f"{blank.sum()} blank or NaN"] * bool(blank.any())
    if not name.endswith("_filled"):
        said.append(f"{name}{shown}: {np.isfinite(values).sum()} values on {length} steps"
                    + (f"; {' and '.join(marks)} are missing." if marks else "."))
    return values


def _in_range(name: str, values: np.ndarray, starts, daily: bool, path: Path, said: list[str]) -> np.ndarray:
    """`values` with negatives of rounding size set to zero (and counted); ValueError when one cannot occur on Earth."""
    about = _about(name)
    low, high = about.limits(daily)
    slack = NIGHT_OFFSET if name in ("shortwave", "shortwave_up", "ppfd") else -ROUNDING
    slight = (values < low) & (values >= slack) & (low == 0)
    if slight.any():
        said.append(f"{name}: {slight.sum()} negative values down to {values[slight].min():.3g} {about.units} were set to zero.")
        values = np.where(slight, 0.0, values)
    outside = (values < low) | (values > high)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(complain(
            f"{name} between {low:g} and {high:g} {about.units} in {path.name}",
            f"{values[first]:g} on {starts[first]:{'%Y-%m-%d' if daily else '%Y-%m-%d %H:%M'}}, and {outside.sum() - 1} more such steps",
            "check the unit and the fill value of this variable; set impossible values to NaN"))
    return values


# ---------------------------------------------------------------------- time


def step_starts(time: ArrayLike, label: Label, step: str | None, path: Path) -> tuple[pd.DatetimeIndex, str]:
    """Start of each step and the step's length (ISO 8601), after checking that time increases in equal steps."""
    if label not in get_args(Label):
        raise ValueError(complain(f"the label of the stamps in {path.name}: {', '.join(get_args(Label))}", repr(label), "label='start'"))
    if step is not None and not STEP.fullmatch(step):
        raise ValueError(complain(f"the step of {path.name} as an ISO 8601 duration: PT30M, PT1H, P1D, P1M or the like", repr(step),
                                  "correct step=, or leave it out to find it from the stamps"))
    stamps = _stamps(time, path)
    steps = np.diff(stamps.values)
    if (steps <= np.timedelta64(0, "ns")).any():
        first = int(np.argmax(steps <= np.timedelta64(0, "ns")))
        what = "twice" if steps[first] == np.timedelta64(0, "ns") else f"after {stamps[first]}"
        raise ValueError(complain(f"increasing time stamps in {path.name}, none twice", f"{stamps[first + 1]} {what} (row {first + 2})",
                                  "sort the rows by time and remove the repeated ones; daylight saving time must not be used"))
    step = step or _found_step(steps, path)
    if step == "irregular":
        return stamps, step
    if step in ("P1M", "P1Y"):
        return _calendar_starts(stamps, "M" if step == "P1M" else "Y", label, path), step
    length = pd.Timedelta(step)
    if length >= pd.Timedelta("1D"):
        starts = _day_starts(stamps, label, path)
    else:
        starts = stamps - {"start": 0 * length, "middle": length / 2, "end": length}[label]
    odd = np.flatnonzero((starts - starts[0]) % length != pd.Timedelta(0))
    if odd.size:
        raise ValueError(complain(f"stamps in steps of {step} in {path.name}", f"{stamps[odd[0]]} off that grid (row {odd[0] + 1})",
                                  "aggregate the series to equal steps"))
    return starts, step


def _stamps(time: ArrayLike, path: Path) -> pd.DatetimeIndex:
    given = time if isinstance(time, pd.Series | pd.DatetimeIndex) else pd.Series(np.asarray(time))
    if pd.api.types.is_numeric_dtype(given) and given.notna().any():
        raise ValueError(complain(f"time stamps in {path.name}, as datetime64 or text", f"numbers, such as {given[given.notna()].iloc[0]}",
                                  "make dates of them first, with pandas.to_datetime(..., format=\"%Y%m%d%H%M\") or the like"))
    try:
        # Of other text pandas guesses whether day or month stands first, and takes it without a word.
        form = None if pd.api.types.is_datetime64_any_dtype(given) else "ISO8601"
        stamps = pd.DatetimeIndex(pd.to_datetime(given, format=form)).as_unit("ns")
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError(complain(f"time stamps in {path.name}", str(error).splitlines()[0].split(". ")[0][:160],
                                  "write them like 2005-06-30 23:30")) from error
    if stamps.tz is not None:
        raise ValueError(complain(f"time stamps without an offset in {path.name}", f"{stamps[0]}",
                                  "convert to UTC or to local standard time, and say which with time_zone="))
    if not len(stamps) or stamps.isna().any():
        got = f"an empty one in row {int(np.argmax(stamps.isna())) + 1}" if len(stamps) else "none at all"
        raise ValueError(complain(f"a time stamp on every row of {path.name}", got, "remove the row, or download the file again"))
    return stamps


def _found_step(steps: np.ndarray, path: Path) -> str:
    if not steps.size:
        raise ValueError(complain(f"more than one time stamp in {path.name}, or step=", "one", "say the step, such as step='P1D'"))
    # Record gaps are longer than the step, so the step is the most frequent difference.
    values, counts = np.unique(steps, return_counts=True)
    usual = pd.Timedelta(values[np.argmax(counts)])
    days = usual / pd.Timedelta("1D")
    if 28 <= np.median(steps) / DAY <= 31 and 28 <= days <= 31:
        return "P1M"
    if 365 <= days <= 366:
        return "P1Y"
    minutes = usual / pd.Timedelta("1min")
    if days >= 1 and days == int(days):
        return f"P{int(days)}D"
    if minutes == int(minutes) and 1 <= minutes and 1440 % minutes == 0:
        return f"PT{int(minutes) // 60}H" if minutes % 60 == 0 else f"PT{int(minutes)}M"
    raise ValueError(complain(f"a step of minutes, hours, days, months or years in {path.name}", f"mostly {usual}",
                              "aggregate the series to equal steps"))


def _day_starts(stamps: pd.DatetimeIndex, label: Label, path: Path) -> pd.DatetimeIndex:
    days, hours = stamps.normalize(), (stamps - stamps.normalize()).unique()
    if len(hours) > 1:
        other = stamps[np.argmax((stamps - days) != hours[0])]
        raise ValueError(complain(f"one stamp a day in {path.name}, all at the same hour",
                                  f"stamps at {len(hours)} different hours, such as {stamps[0]} and {other}",
                                  "aggregate to days and label each day by its start"))
    # A day that ends at midnight is the day before.
    return days - pd.Timedelta("1D") if label == "end" and hours[0] == pd.Timedelta(0) else days


def _calendar_starts(stamps: pd.DatetimeIndex, unit: str, label: Label, path: Path) -> pd.DatetimeIndex:
    if label == "end":
        stamps = stamps - pd.Timedelta("1min")
    starts = stamps.to_period(unit).to_timestamp().as_unit("ns")
    if starts.has_duplicates:
        twice = stamps[int(np.argmax(starts.duplicated()))]
        raise ValueError(complain(f"one stamp a {'month' if unit == 'M' else 'year'} in {path.name}", f"a second one, {twice}",
                                  "aggregate, or correct the stamps"))
    return starts


def _daily(step: str) -> bool:
    return step == "irregular" or not step.startswith("PT")


def missing_steps(starts: pd.DatetimeIndex, step: str) -> int:
    """Number of steps between the first and the last that have no row."""
    if step == "irregular" or len(starts) < 2:
        return 0
    if step in ("P1M", "P1Y"):
        unit = "M" if step == "P1M" else "Y"
        return len(pd.period_range(starts[0], starts[-1], freq=unit)) - len(starts)
    return int(round((starts[-1] - starts[0]) / pd.Timedelta(step))) + 1 - len(starts)


def step_of(ds: xr.Dataset) -> str:
    """The step of a Dataset of the normal form, an ISO 8601 duration such as "P1D"."""
    step = ds["time"].attrs.get("step")
    return step if step else step_starts(ds["time"].values, "start", None, Path(str(ds.attrs.get("source", "the Dataset"))))[1]


def is_daily(ds: xr.Dataset) -> bool:
    """Whether the step of a Dataset of the normal form is one day."""
    return step_of(ds) == "P1D"


def said(ds: xr.Dataset, *sentences: str) -> xr.Dataset:
    """`ds` with sentences added to its history."""
    lines = [line for line in (ds.attrs.get("history", ""), *sentences) if line]
    return ds.assign_attrs(history="\n".join(lines))


def merge(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put series of one site, read from several files, side by side; steps that one file lacks are NaN there, and counted.

    Raises ValueError for other sites, places or steps, or a variable that stands in two files with different values.
    """
    first, *rest = datasets
    merged = first
    for ds in rest:
        _same_place(merged, ds)
        for name in set(merged.data_vars) & set(ds.data_vars):
            ours, theirs = xr.align(merged[name], ds[name], join="inner")
            if not np.array_equal(ours.values, theirs.values, equal_nan=True):
                sources = f"{merged.attrs['source']} and {ds.attrs['source']}"
                raise ValueError(complain(f"{name} in one of the files", f"different values in {sources}", "leave it out of one of them"))
        before = merged.sizes["time"], ds.sizes["time"]
        attrs = {key: _both(merged.attrs.get(key, ""), ds.attrs.get(key, "")) for key in merged.attrs.keys() | ds.attrs.keys()}
        merged = xr.merge([merged, ds], join="outer", compat="no_conflicts", combine_attrs="override").assign_attrs(attrs)
        if merged.sizes["time"] > max(before):
            merged = said(merged, f"The files have {before[0]} and {before[1]} steps, together {merged.sizes['time']}.")
    return merged


def _same_place(one: xr.Dataset, other: xr.Dataset) -> None:
    for ds in (one, other):
        if "kind" in ds.attrs or "time" not in ds.dims:
            raise ValueError(complain("files of series at one site to put side by side",
                                      f"{ds.attrs.get('source')}, a {ds.attrs.get('kind', 'Dataset without time')}", "leave it out"))
    here, there = (f"{ds['site'].item()} in steps of {step_of(ds)}" for ds in (one, other))
    if here != there:
        raise ValueError(complain(f"files of one site and one step: {here}", f"{there} in {other.attrs['source']}",
                                  "files of one site; aggregate them to the same step first"))
    for axis in ("latitude", "longitude"):
        first, second = float(one[axis]), float(other[axis])
        if abs(first - second) > 1e-6:  # false where one does not say
            raise ValueError(complain(f"files of one place, {axis} {first:g}", f"{second:g} in {other.attrs['source']}",
                                      f"give {axis}= for both"))


def _both(one: str, other: str) -> str:
    """Two attributes as lines, each line once."""
    return "\n".join(dict.fromkeys(line for text in (one, other) for line in str(text).split("\n") if line))
