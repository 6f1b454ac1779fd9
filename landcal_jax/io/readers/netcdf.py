"""What readers of NetCDF files of one site share: series with their units, time stamps, the code of the site.

Nothing is guessed: a variable without units, along other dimensions than time, or a calendar without leap days is an
error that names the variable, unless the reader knows the unit that the authors of its format state.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.normal import Column, step_starts

SITE = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}-[A-Za-z0-9]{3}(?![A-Za-z0-9])")
REFERENCE = re.compile(r"\w+ since \d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}(:\d{1,2}(:\d{1,2}(\.\d*)?)?)?)?( ?(Z|UTC|GMT|[+-]\d{1,2}(:?\d\d)?))?",
                       re.ASCII)
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")


def series(raw: xr.Dataset, name: str, path: Path, units: str = "") -> Column:
    """The variable `name` of an open file along time, as it stands there.

    `units`: those that the authors of the format state, taken where the file has none; none: a missing attribute is an error.
    Raises ValueError when it is absent, not along time only, no number, or has no units.
    """
    if name not in raw:
        raise ValueError(complain(f"variable {name!r} in {path.name}", f"only {', '.join(sorted(map(str, raw.variables)))[:400]}",
                                  "check that the file is of the kind that the reader is for"))
    variable = raw[name].variable
    length = {dimension: size for dimension, size in variable.sizes.items() if dimension != "time"}
    if "time" not in variable.dims or any(size != 1 for size in length.values()):
        raise ValueError(complain(f"{name!r} of {path.name} along time only, one site a file", f"dimensions {dict(variable.sizes)}",
                                  "select one site and save it by itself"))
    given = variable.attrs.get("units")
    if not units and not isinstance(given, str):
        raise ValueError(complain(f"a units attribute on {name!r} of {path.name}", "none" if given is None else repr(given),
                                  f"set it, for example with ncatted -a units,{name},c,c,'W m-2'"))
    if variable.dtype.kind not in "fiub":
        raise ValueError(complain(f"numbers in {name!r} of {path.name}", f"type {variable.dtype}", "convert them"))
    with np.errstate(invalid="ignore"):  # signalling NaN in a damaged file
        values = variable.isel(dict.fromkeys(length, 0)).values.astype(float)
    return Column(values, given if isinstance(given, str) else units, name)


def stamps(raw: xr.Dataset, path: Path) -> pd.DatetimeIndex:
    """The time stamps of an open file whose times are undecoded, to the second.

    Raises ValueError when `time` is absent, has no units such as "days since 2001-01-01", or another calendar than the standard one.
    """
    expected = f"time stamps in {path.name}, in the standard calendar"
    time = raw.variables.get("time")
    units = "" if time is None else str(time.attrs.get("units", ""))
    if " since " not in units:
        raise ValueError(complain(expected, "no variable `time` with units such as 'days since 2001-01-01'",
                                  "add the units attribute to `time`"))
    check_reference(units, expected)
    calendar = str(time.attrs.get("calendar", "standard")).lower()
    if calendar not in CALENDARS:
        raise ValueError(complain(expected, f"calendar {calendar!r}",
                                  "convert with cdo -setcalendar,standard, or insert the missing days"))
    if time.dims != ("time",) or time.dtype.kind not in "fiu" or not time.size:
        raise ValueError(complain(expected, f"`time` with dimensions {dict(time.sizes)} and type {time.dtype}", "write one number a step"))
    missing = ~np.isfinite(time.values.astype(float))
    if missing.any():
        raise ValueError(complain(expected, f"{missing.sum()} of its values missing, the first at position {int(np.argmax(missing)) + 1}",
                                  "write one number a step"))
    coder = xr.coders.CFDatetimeCoder(use_cftime=False)
    try:
        decoded = pd.DatetimeIndex(xr.decode_cf(raw[["time"]], decode_times=coder)["time"].values)
    except (ValueError, OverflowError, TypeError) as error:
        low, high = float(np.min(time.values)), float(np.max(time.values))
        raise ValueError(complain(expected, f"units {units!r} with values from {low:g} to {high:g}",
                                  "correct the units of `time`, such as 'days since 2001-01-01'")) from error
    # Fractions of days in float64 miss the full second by microseconds.
    return decoded.as_unit("ns").round("s")


def decoded_clock(raw: xr.Dataset, otherwise: str) -> str:
    """The clock of decoded stamps: UTC where the units of time end with it or with hours from it (decoding takes them off), else
    `otherwise`."""
    units = str(raw["time"].attrs.get("units", "")).strip() if "time" in raw.variables else ""
    named = re.search(r"\d ?(UTC|GMT|Z)$", units, re.IGNORECASE)
    offset = re.search(r"(?:\d:\d{1,2}(?:\.\d*)?|\d{4}-\d{1,2}-\d{1,2} ) ?[+-][\d:]+$", units)
    return "UTC" if named or offset else otherwise


def check_reference(units: str, expected: str) -> None:
    """Raise ValueError for units of time whose date is not written in full: what decodes it would guess at a damaged one."""
    if not REFERENCE.fullmatch(units.strip()):
        raise ValueError(complain(expected, f"units {units!r}", "correct the units of `time`, such as 'days since 2001-01-01 00:00:00'"))


def days(raw: xr.Dataset, path: Path) -> pd.DatetimeIndex:
    """The days of an open file that has to be daily; ValueError when its step is another."""
    starts, step = step_starts(stamps(raw, path), "start", None, path)
    if step != "P1D":
        raise ValueError(complain(f"one time stamp a day in {path.name}", f"steps of {step}", "use the daily file of this site"))
    return starts


def site_code(raw: xr.Dataset, path: Path) -> str | None:
    """The site of an open file: its attribute `site_code`, its coordinate `site`, or a code such as FI-Hyy in its name.

    None where nothing says it. Raises ValueError when the name begins with the code of another site.
    """
    given = raw.attrs.get("site_code")
    if not given and "site" in raw.variables and raw.variables["site"].size == 1:
        given = raw.variables["site"].values.ravel()[0]
    match = SITE.search(path.name)
    if given and match and match.start() == 0 and str(given) != match[0]:
        raise ValueError(complain("one site a file", f"{path.name} says in its attribute that it is {str(given)!r}",
                                  "rename the file, or correct its attribute site_code"))
    return str(given) if given else match[0] if match else None


def code_or_complaint(raw: xr.Dataset, path: Path) -> str:
    """The site of an open file as `site_code` finds it; ValueError where nothing says it."""
    code = site_code(raw, path)
    if code is None:
        raise ValueError(complain(f"the site of {path.name}", "no attribute site_code, and no code such as FI-Hyy in the file name",
                                  "set the global attribute site_code"))
    return code


def number(raw: xr.Dataset, name: str) -> np.ndarray:
    """The values of a variable such as `latitude`, empty where the file has none."""
    if name not in raw.variables or raw.variables[name].dtype.kind not in "fiu":
        return np.array([])
    return raw.variables[name].values.astype(float).ravel()
