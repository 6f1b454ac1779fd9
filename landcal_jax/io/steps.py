"""Steps of time: the start and the length of each from the stamps of a file, and amounts per step, month or year as rates."""

import re
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

DAY = np.timedelta64(1, "D")
Label = Literal["start", "middle", "end"]
STEP = re.compile(r"P[1-9]\d{0,2}D|PT[1-9]\d{0,3}[HM]|P1M|P1Y|irregular")
PER = {what: re.compile(rf"\s*(?:\bper |/\s*\(?)(?:{names})\b\)?|\s*\b(?:{names})\s*(?:\^|\*\*)?\s*\(?-1\b\)?", re.IGNORECASE)
       for what, names in (("step", "step|time step"), ("month", "months?|mon"), ("year", "years?|yr|a"))}


def step_starts(time: ArrayLike, label: Label, step: str | None, path: Path, dates: bool = False) -> tuple[pd.DatetimeIndex, str]:
    """Start of each step and the step's length (ISO 8601), after checking that time increases in equal steps.

    `dates`: the stamps are dates without an hour, which name a day (or a month); see `are_dates`.
    """
    if label not in get_args(Label):
        raise ValueError(complain(f"the label of the stamps in {path.name}: {', '.join(get_args(Label))}", repr(label), "label='start'"))
    if step is not None and not STEP.fullmatch(step):
        raise ValueError(complain(f"the step of {path.name} as an ISO 8601 duration: PT30M, PT1H, P1D, P1M or the like", repr(step),
                                  "correct step=, or leave it out to find it from the stamps"))
    stamps, dates = _stamps(time, path), dates or are_dates(time)
    steps = np.diff(stamps.values)
    if (steps <= np.timedelta64(0, "ns")).any():
        first = int(np.argmax(steps <= np.timedelta64(0, "ns")))
        what = "twice" if steps[first] == np.timedelta64(0, "ns") else f"after {stamps[first]}"
        raise ValueError(complain(f"increasing time stamps in {path.name}, none twice",
                                  f"{stamps[first + 1]} {what} (value {first + 2} of time)",
                                  "sort the rows by time and remove the repeated ones; daylight saving time must not be used"))
    step = step or _found_step(steps, path)
    if step == "irregular":
        return stamps, step
    if step in ("P1M", "P1Y"):
        return _calendar_starts(stamps, "M" if step == "P1M" else "Y", label, dates, path), step
    length = pd.Timedelta(step)
    if length >= pd.Timedelta("1D"):
        starts = _day_starts(stamps, label, dates, length.days, path)
    else:
        starts = stamps - {"start": 0 * length, "middle": length / 2, "end": length}[label]
    odd = np.flatnonzero((starts - starts[0]) % length != pd.Timedelta(0))
    if odd.size:
        raise ValueError(complain(f"stamps in steps of {step} in {path.name}",
                                  f"{stamps[odd[0]]} off that grid (value {odd[0] + 1} of time)",
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
        got = f"an empty one, value {int(np.argmax(stamps.isna())) + 1} of time" if len(stamps) else "none at all"
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


def _day_starts(stamps: pd.DatetimeIndex, label: Label, dates: bool, length: int, path: Path) -> pd.DatetimeIndex:
    """Starts of steps of `length` days. As an end, an instant at midnight ends the day before; a date is the last day itself."""
    days, hours = stamps.normalize(), (stamps - stamps.normalize()).unique()
    if len(hours) > 1:
        other = stamps[np.argmax((stamps - days) != hours[0])]
        raise ValueError(complain(f"one stamp a day in {path.name}, all at the same hour",
                                  f"stamps at {len(hours)} different hours, such as {stamps[0]} and {other}",
                                  "aggregate to days and label each day by its start"))
    if label == "middle":
        return days - pd.Timedelta(days=length // 2)
    if label == "end":
        midnight = hours[0] == pd.Timedelta(0) and not dates
        return days - pd.Timedelta(days=length - 1 + midnight)
    return days


def _calendar_starts(stamps: pd.DatetimeIndex, unit: str, label: Label, dates: bool, path: Path) -> pd.DatetimeIndex:
    if label == "end" and not dates:
        stamps = stamps - pd.Timedelta("1min")
    starts = stamps.to_period(unit).to_timestamp().as_unit("ns")
    if starts.has_duplicates:
        twice = stamps[int(np.argmax(starts.duplicated()))]
        raise ValueError(complain(f"one stamp a {'month' if unit == 'M' else 'year'} in {path.name}", f"a second one, {twice}",
                                  "aggregate, or correct the stamps"))
    return starts


def missing_steps(starts: pd.DatetimeIndex, step: str) -> int:
    """Number of steps between the first and the last that have no row."""
    if step == "irregular" or len(starts) < 2:
        return 0
    if step in ("P1M", "P1Y"):
        unit = "M" if step == "P1M" else "Y"
        return len(pd.period_range(starts[0], starts[-1], freq=unit)) - len(starts)
    return int(round((starts[-1] - starts[0]) / pd.Timedelta(step))) + 1 - len(starts)


def are_dates(time: Any) -> bool:
    """Whether stamps are dates without an hour: text such as 2005-06-30 or 2005-06, or datetime64 of days, months or years."""
    values = np.asarray(time)
    if values.dtype.kind == "M":
        return np.datetime_data(values.dtype)[0] in ("D", "W", "M", "Y")
    if values.dtype.kind not in "OUST" or not values.size:
        return False
    return all(isinstance(each, str) and re.fullmatch(r"\s*\d{4}(-?\d\d){0,2}\s*", each) for each in values.ravel())


def label_said(label: Label, step: str, dates: bool, time: Any) -> list[str]:
    """The sentences about stamps that are not the start of their step."""
    if label == "start" or step == "irregular":
        return []
    lines = [f"The stamps of the file are the {label} of each step; here they are its start."]
    if label == "end" and dates:
        named = {"P1M": "month", "P1Y": "year", "P1D": "day"}.get(step, "last day of the step")
        lines.append(f"The stamps are dates without an hour: each was taken as the {named} that it names.")
    elif label == "end" and not step.startswith("PT") and isinstance(time, pd.DatetimeIndex) and (time == time.normalize()).all():
        lines.append("Stamps at 00:00 end the day before. If they are dates that name their own day, the label is start.")
    return lines


def as_rate(values: np.ndarray, units: str, starts: pd.DatetimeIndex, step: str, path: Path) -> tuple[np.ndarray, str, str]:
    """Amounts "per step", "month-1" or "year-1" as amounts a day, their new unit, and what to say of it ("" where nothing was done).

    Months and years have their own length, 28 to 31 and 365 or 366 days.
    Raises ValueError for "month-1" where the step is not a month, and alike.
    """
    what = next((what for what, pattern in PER.items() if pattern.search(units)), "")
    if not what:
        return values, units, ""
    rest = PER[what].sub("", units).strip()
    if what != "step" and step != {"month": "P1M", "year": "P1Y"}[what]:
        raise ValueError(complain(f"{units!r} in {path.name} only where the step is a {what}",
                                  f"steps of {step}; a {what} has no one length",
                                  "give the rate a day, such as d-1, with the length that was meant"))
    days = lengths(starts, step)
    if days is None:
        raise ValueError(complain(f"{units!r} in {path.name} only where the steps are equal", "irregular stamps", "give the rate a day"))
    one = f"times {1 / days[0]:g} it is {rest} d-1" if step not in ("P1M", "P1Y") else (
        f"divided by the {days.min():g} to {days.max():g} days of each it is {rest} d-1")
    return values / days, f"{rest} d-1", f"a sum over the {what} in {rest}; {one}"


def lengths(starts: pd.DatetimeIndex, step: str) -> np.ndarray | None:
    """Length of each step in days; None for irregular ones."""
    if step == "irregular":
        return None
    if step in ("P1M", "P1Y"):
        return np.asarray(starts.days_in_month if step == "P1M" else 365 + starts.is_leap_year.astype(int), dtype=float)
    return np.full(len(starts), pd.Timedelta(step) / pd.Timedelta("1D"))
