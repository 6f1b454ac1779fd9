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

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.io.clocks import LOCAL, clock
from landcal_jax.io.files import sha256
from landcal_jax.io.fills import undeclared_marks
from landcal_jax.io.quantities import QUANTITIES, quantity
from landcal_jax.io.steps import STEP as STEP
from landcal_jax.io.steps import Label, are_dates, as_rate, label_said, step_starts
from landcal_jax.io.steps import missing_steps as missing_steps
from landcal_jax.io.units import convert

FILL = 1e19  # CF files of the field mark a missing value with 1e20; nothing physical comes near
FILLS = (-9999.0,)
NIGHT_OFFSET = -2.0  # MJ m-2 d-1 (-23 W m-2): thermal offset of a pyranometer at night
ROUNDING = 1e-3  # in the unit of the quantity: what arithmetic in single precision leaves behind


class Column(NamedTuple):
    """Values as they stand in a file, with their unit there and their name there."""

    values: ArrayLike
    units: str
    name: str = ""


def normalise(
    columns: Mapping[str, Column | tuple[ArrayLike, str]], time: ArrayLike, *, path: str | Path, site: str,
    latitude: float | None = None, longitude: float | None = None, label: Label = "start", step: str | None = None,
    time_zone: str = LOCAL, dates: bool = False, fills: Iterable[float] = FILLS, title: str = "", source: str = "",
    references: str = "not stated", license: str = "not stated", history: Sequence[str] = (),
) -> xr.Dataset:
    """Return the normal form of series that were read from `path`.

    `columns`: name of `quantities` -> (values, unit in the file), or a `Column`. `time`: one stamp a row, of the
    `label` of its step: datetime64, or text of ISO 8601. `step`: ISO 8601 duration; None finds it from the stamps. `time_zone`:
    UTC, hours from it such as UTC+1, or local standard time. `dates`: the stamps were dates without an hour, so that an end
    names the day (or month) itself; text and datetime64 of days are known as such. `fills`: literal values that mean missing,
    besides NaN and whatever is beyond 1e19. Units "mm per step", "gC m-2 month-1" and "mm year-1" become rates a day.
    Raises ValueError for an unknown name, a unit of another kind, a broken time axis, an impossible value, or a mark of missing
    values that is not among `fills` (-99.99 twice in NEE).
    """
    path, said = Path(path), list(history)
    if not columns:
        raise ValueError(complain(f"at least one quantity in {path.name}", "none: no column of it has a name that its format knows",
                                  "check the header; it may be damaged"))
    dates, time_zone = dates or are_dates(time), clock(time_zone, path.name)
    starts, step = step_starts(time, label, step, path, dates)
    ds = xr.Dataset(coords={"time": ("time", starts, {
        "standard_name": "time", "long_name": "start of the step", "step": step, "time_zone": time_zone, "label_in_file": label})})
    for name, column in columns.items():
        column = Column(*column)
        values = _values(name, column, fills, (starts, step), path, said)
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
    said += label_said(label, step, dates, time)
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


def _values(name: str, column: Column, fills, steps: tuple[pd.DatetimeIndex, str], path: Path, said: list[str]) -> np.ndarray:
    """The column in the unit of the normal form, missing values as NaN, counts in `said`."""
    about, shown, length = _about(name), f" ({column.name})" if column.name else "", len(steps[0])
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
    _check_marks(name, shown, values, steps[0], fills, path)
    values, units, summed = as_rate(values, column.units, *steps, path)
    if summed and not name.endswith("_uncertainty"):
        said.append(f"{column.name or name} is {summed}.")
    try:
        values = convert(values, units, about.units, name)
        if name.endswith("_uncertainty"):
            # A spread has no origin: 1 K is 1 degC, not -272.15.
            values = values - convert(0.0, units, about.units, name)
    except ValueError as error:
        raise ValueError(complain(f"{name}{shown} of {path.name} in a unit that can become {about.units!r}", repr(column.units),
                                  "correct the units, or the column")) from error
    marks = [f"{filled.sum()} fill values"] * bool(filled.any()) + [f"{blank.sum()} blank or NaN"] * bool(blank.any())
    if not name.endswith("_filled"):
        said.append(f"{name}{shown}: {np.isfinite(values).sum()} values on {length} steps"
                    + (f"; {' and '.join(marks)} are missing." if marks else "."))
    return values


def _check_marks(name: str, shown: str, values: np.ndarray, starts: pd.DatetimeIndex, fills, path: Path) -> None:
    """Raise ValueError where a number repeats, far from all others, that somebody somewhere writes for a missing value."""
    for mark in [] if name.endswith("_filled") else undeclared_marks(values):
        known = ", ".join(f"{each:g}" for each in (*fills, mark.value))
        raise ValueError(complain(
            f"missing values of {name}{shown} in {path.name} as NaN, blank or {', '.join(f'{each:g}' for each in fills)}",
            f"{mark}, the first on {starts[int(np.argmax(mark.where))]:%Y-%m-%d %H:%M}",
            f"declare it: `# missing: {mark.value:g}` at the top of a table, fills=({known}) in normalise, the attribute missing_value in "
            "NetCDF; or make it NaN"))


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


def _daily(step: str) -> bool:
    return step == "irregular" or not step.startswith("PT")


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
