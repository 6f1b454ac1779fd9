"""What every reader does the same way: open the file, make day stamps, look for impossible values, say what it did.

Each reader gives one xarray.Dataset a site with dimension `time` (datetime64[ns], the label is the start of the day,
strictly increasing), scalar coordinates `site`, `latitude`, `longitude`, and attributes that tell where the numbers
come from and, in `history`, one sentence a line about everything that was masked, corrected or inserted.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.units import convert

FILL = 1e19  # CF files of the field mark a missing value with 1e20; nothing physical comes near


class Variable(NamedTuple):
    """A variable of the normal form: its unit, what it is, and the values that can occur on Earth."""

    units: str
    long_name: str
    low: float
    high: float


def sha256(path: Path) -> str:
    """Return the SHA256 checksum of a file as 64 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def existing(path: str | Path, what: str) -> Path:
    """Return `path` as a Path; raise FileNotFoundError if there is no such file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(complain(what, f"no file {path}", "check the name of the file and its folder"))
    return path


def open_netcdf(path: str | Path, what: str) -> xr.Dataset:
    """Load a NetCDF file whole, fill values as NaN and times undecoded; `what` says which kind of file is meant."""
    path = existing(path, what)
    try:
        with xr.open_dataset(path, decode_times=False) as dataset:
            return dataset.load()
    except (OSError, ValueError) as error:
        raise ValueError(complain(what, f"{path}, which cannot be read as NetCDF ({error})",
                                  "download the file again; `ncdump -h` shows whether it is whole")) from error


def read_days(raw: xr.Dataset, name: str, units: str, path: Path) -> np.ndarray:
    """Return the daily series `name` of an open file in `units`, missing values as NaN."""
    if name not in raw:
        raise ValueError(complain(f"variable {name!r} in {path.name}", f"only {', '.join(sorted(map(str, raw)))}",
                                  "check that the file is of the kind that the reader is for"))
    variable = raw[name].squeeze()
    if variable.dims != ("time",):
        raise ValueError(complain(f"{name!r} of {path.name} along time only, one site a file",
                                  f"dimensions {dict(raw[name].sizes)}", "select one site and save it by itself"))
    given = variable.attrs.get("units")
    if given is None:
        raise ValueError(complain(f"a units attribute on {name!r} of {path.name}, to become {units!r}", "none",
                                  f"set it, for example with ncatted -a units,{name},c,c,'{units}'"))
    try:
        values = convert(variable.values, str(given), units)
    except ValueError as error:
        raise ValueError(f"In variable {name!r} of {path.name}:\n{error}") from error
    return np.where(np.abs(values) < FILL, values, np.nan)


def day_stamps(raw: xr.Dataset, path: Path) -> pd.DatetimeIndex:
    """Return the days of an open file: real dates, one a day, strictly increasing, all stamped at the same hour."""
    expected = f"one time stamp a day, increasing, in {path.name}"
    time = raw.get("time")
    if time is None or " since " not in str(time.attrs.get("units", "")):
        raise ValueError(complain(expected, "no variable `time` with units such as 'days since 2001-01-01'",
                                  "add the units attribute to `time`"))
    calendar = time.attrs.get("calendar", "standard")
    if calendar not in ("standard", "gregorian", "proleptic_gregorian"):
        raise ValueError(complain(f"{expected}, in the standard calendar", f"calendar {calendar!r}",
                                  "convert with cdo -setcalendar,standard, or insert the missing days"))
    return whole_days(pd.DatetimeIndex(xr.decode_cf(raw[["time"]])["time"].values), path)


def whole_days(stamps: pd.DatetimeIndex, path: Path) -> pd.DatetimeIndex:
    """Return `stamps` floored to the start of their day, after checking that there is one a day and none twice."""
    expected = f"one time stamp a day, increasing, in {path.name}"
    if not len(stamps):
        raise ValueError(complain(expected, "no time stamp at all", "download the file again"))
    days, hours = stamps.normalize(), (stamps - stamps.normalize()).unique()
    steps = np.diff(days.values) / np.timedelta64(1, "D")
    if len(hours) > 1:
        other = stamps[np.argmax((stamps - days) != hours[0])]
        raise ValueError(complain(
            expected, f"stamps at {len(hours)} different hours of the day, such as {stamps[0]} and {other}",
            "aggregate to days and label each day by its start"))
    if (steps <= 0).any():
        first = int(np.argmax(steps <= 0))
        what = "twice" if steps[first] == 0 else f"after {days[first]:%Y-%m-%d}"
        raise ValueError(complain(expected, f"{days[first + 1]:%Y-%m-%d} {what} (position {first + 1})",
                                  "sort the file along time and drop the repeated days"))
    if len(steps) and np.median(steps) != 1:
        raise ValueError(complain(expected, f"steps of {np.median(steps):g} days", "use the daily file of this site"))
    return days.as_unit("ns")


def possible(values: np.ndarray, name: str, variable: Variable, days: pd.DatetimeIndex, path: Path) -> None:
    """Raise ValueError when a value cannot occur on Earth; NaN is allowed."""
    outside = (values < variable.low) | (values > variable.high)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(complain(
            f"{name} between {variable.low:g} and {variable.high:g} {variable.units} in {path.name}",
            f"{values[first]:g} on {days[first]:%Y-%m-%d}, and {outside.sum() - 1} more such days",
            "check the unit and the fill value of this variable; set impossible observations to NaN"))


def site_code(raw: xr.Dataset, path: Path) -> str:
    """Return the site of an open file: its attribute `site_code`, its coordinate `site`, or the start of its name."""
    given = raw.attrs.get("site_code") or (str(raw["site"].values) if "site" in raw.coords else None)
    match = re.match(r"[A-Z]{2}-[A-Za-z0-9]{3}(?![A-Za-z0-9])", path.name)
    if given and match and str(given) != match[0]:
        raise ValueError(complain("one site a file", f"{path.name} says in its attribute that it is {given!r}",
                                  "rename the file, or correct its attribute site_code"))
    if not given and not match:
        raise ValueError(complain(
            f"the site of {path.name}",
            "no attribute site_code, and no code such as FI-Hyy at the start of the file name",
            "set the global attribute site_code"))
    return str(given or match[0])


def position(latitude: object, longitude: object, path: Path) -> dict[str, float]:
    """Return latitude and longitude as scalars, after checking that they are on the globe."""
    found = {}
    for name, value, limit in (("latitude", latitude, 90.0), ("longitude", longitude, 360.0)):
        value = np.asarray(value, dtype=float).ravel()
        if value.size != 1 or not abs(value[0]) <= limit:
            raise ValueError(complain(f"one {name} in degrees in {path.name}", f"{value.tolist()}",
                                      "one file holds one site; check that the value is in degrees"))
        found[name] = float(value[0])
    return found


def normal_form(columns: Mapping[str, np.ndarray], table: Mapping[str, Variable], days: pd.DatetimeIndex, *,
                site: str, place: Mapping[str, float], path: Path, history: Sequence[str],
                attrs: Mapping[str, str]) -> xr.Dataset:
    """Put daily columns together as one Dataset of the normal form, with its units and its provenance."""
    dataset = xr.Dataset(coords={"time": ("time", days, {"long_name": "day, labelled by its start"})})
    for name, values in columns.items():
        dataset[name] = ("time", values, {"units": table[name].units, "long_name": table[name].long_name})
    dataset = dataset.assign_coords(
        site=((), site, {"long_name": "site code"}),
        latitude=((), place["latitude"], {"units": "degrees_north", "long_name": "latitude"}),
        longitude=((), place["longitude"], {"units": "degrees_east", "long_name": "longitude"}))
    dataset.attrs = dict(attrs) | {"history": "\n".join(history), "sha256": sha256(path)}
    return dataset


def provenance(raw: xr.Dataset) -> dict[str, str]:
    """The provenance that a file of the normal form brings with it; what it does not say is "not stated"."""
    return {key: str(raw.attrs.get(key, "not stated")) for key in ("title", "source", "references", "license")}


def earlier_history(raw: xr.Dataset) -> list[str]:
    """What earlier readers said about a file of the normal form, a sentence each."""
    return [line for line in str(raw.attrs.get("history", "")).split("\n") if line]
