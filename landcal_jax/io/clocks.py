"""Which clock the stamps of a file keep: UTC, a fixed number of hours from it, or local standard time.

Names with summer time (CET, America/Denver) are refused: an hour that comes twice, or not at all, cannot be put right
here. Local standard time is that of the sun, round(longitude / 15) hours ahead of UTC.
"""

import math
import re

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain

LOCAL = "local standard time"
GREENWICH = ("UTC", "GMT", "Z")
LOCAL_NAMES = (LOCAL, "lst", "local standard", "standard time")
FIXED = re.compile(r"(?:UTC|GMT)?\s*([+-])\s*(?:(\d{1,2})(?::(\d\d)|(\.\d+))?|(\d\d)(\d\d))", re.IGNORECASE)
FURTHEST = 14.0  # hours from UTC, Kiribati


def clock(text: str, where: str) -> str:
    """The time zone that `text` names, as "UTC", "UTC+1", "UTC-3:30" or "local standard time"; `where`: what is read, for the error.

    >>> [clock(text, "x.csv") for text in ("GMT", "+01:00", "UTC-0330", "LST", "UTC+5.5")]
    ['UTC', 'UTC+1', 'UTC-3:30', 'local standard time', 'UTC+5:30']

    Raises ValueError for everything else: names of places and zones, which may keep summer time.
    """
    plain = " ".join(str(text).replace("_", " ").split())
    if plain.lower() in LOCAL_NAMES:
        return LOCAL
    if plain.upper() in GREENWICH:
        return "UTC"
    hours = _fixed(plain)
    if hours is None:
        raise ValueError(complain(
            f"the time zone of {where} as UTC, hours from it such as UTC+1 or -08:00, or local standard time", repr(str(text)[:40]),
            "say its hours in winter, such as UTC+1 for CET, where the stamps do not change to summer time; if they do, shift them first"))
    whole, minutes = divmod(round(abs(hours) * 60), 60)
    return f"UTC{'-' if hours < 0 else '+'}{whole}{f':{minutes:02d}' if minutes else ''}" if hours else "UTC"


def _fixed(text: str) -> float | None:
    found = FIXED.fullmatch(text)
    if not found:
        return None
    sign, hours, minutes, part, both, rest = found.groups()
    total = float(both or hours) + float(rest or minutes or 0) / 60 + float(part or 0)
    return (-total if sign == "-" else total) if total <= FURTHEST and (total * 4) % 1 == 0 else None


def offset_hours(longitude: float) -> int:
    """Hours of local standard time ahead of UTC at `longitude` [degrees east], by the sun rather than by law."""
    return math.floor(((longitude + 180.0) % 360.0 - 180.0) / 15.0 + 0.5)


def is_utc(ds: xr.Dataset) -> bool:
    """Whether the times of a Dataset of the normal form are in UTC."""
    return str(ds["time"].attrs.get("time_zone", "")).strip().upper() in GREENWICH


def hours_ahead(ds: xr.Dataset) -> float:
    """Hours by which the clock of a Dataset is ahead of UTC; NaN for local standard time at a longitude that is not known.

    Raises ValueError for a time zone that is not understood.
    """
    zone = clock(ds["time"].attrs.get("time_zone", LOCAL), str(ds.attrs.get("source") or "the Dataset"))
    if zone != LOCAL:
        return _fixed(zone) or 0.0
    longitude = float(ds["longitude"])
    return float(offset_hours(longitude)) if np.isfinite(longitude) else np.nan


def to_local(ds: xr.Dataset, longitude: float | None = None) -> tuple[pd.DatetimeIndex, str]:
    """Starts of the steps in local standard time, and the sentence that says what was done ("" where nothing had to be).

    `longitude`: where that of the Dataset is not known. Raises ValueError where neither is.
    """
    starts, named = ds.indexes["time"], str(ds.attrs.get("source") or ds.attrs.get("title") or "the Dataset")
    zone = clock(ds["time"].attrs.get("time_zone", LOCAL), named)
    if zone == LOCAL:
        return starts, ""
    known = [east for east in (float(ds["longitude"]), longitude) if east is not None and np.isfinite(east)]
    if not known:
        raise ValueError(complain(f"the longitude of {named}, whose times are {zone}, to make days of local standard time",
                                  "none in the file", "give it: read(..., longitude=24.3), or --longitude 24.3 on the command line"))
    hours = offset_hours(known[0]) - (_fixed(zone) or 0.0)
    if not hours and zone != "UTC":
        return starts, f"Times in {zone} are local standard time here (longitude {known[0]:g} / 15, rounded)."
    return starts + pd.Timedelta(hours=hours), (
        f"Times were shifted from {zone} to local standard time, by {hours:+g} hours (longitude {known[0]:g} / 15, rounded).")


def same_clock(one: xr.Dataset, other: xr.Dataset, step: str) -> tuple[xr.Dataset, xr.Dataset, list[str]]:
    """Both Datasets on one clock, that of the first where they agree and local standard time otherwise, and what there is to say.

    Raises ValueError where their clocks differ and the longitude is not known, or for days that begin at different times.
    """
    zones = [clock(ds["time"].attrs.get("time_zone", LOCAL), str(ds.attrs.get("source", "the Dataset"))) for ds in (one, other)]
    if zones[0] == zones[1]:
        return one, other, []
    named = " and ".join(f"{ds.attrs.get('source')} in {zone}" for ds, zone in zip((one, other), zones, strict=True))
    if step in ("P1M", "P1Y"):
        return one, other, [f"Months or years of {named} were put side by side."]
    east = next((float(ds["longitude"]) for ds in (one, other) if np.isfinite(float(ds["longitude"]))), np.nan)
    if not np.isfinite(east):
        raise ValueError(complain("files of one clock, or the longitude to shift one of them to local standard time", named,
                                  "give longitude= (or --longitude), or say in the file in which time zone its stamps really are"))
    shifted, lines = [], []
    for ds in (one, other):
        starts, line = to_local(ds, east)
        if not step.startswith("PT") and not starts.equals(ds.indexes["time"]):
            raise ValueError(complain("days that begin at the same time in both files", named,
                                      "make days of the hourly file, whose clock can be shifted; or say in the file that its days are "
                                      "of local standard time, if they are"))
        lines += [f"{ds.attrs.get('source')}: {line}"] * bool(line)
        shifted.append(ds.assign_coords(time=("time", starts, ds["time"].attrs | {"time_zone": LOCAL})))
    return shifted[0], shifted[1], lines
