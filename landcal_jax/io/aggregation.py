"""Days from half-hours or hours, by the rule of CalLMIP, with an error that does not assume independent half-hours.

Fluxes and other observations: a day is void when more than a quarter of its steps is gap-filled or missing, or when its
series has uncertainties and no step of the day has one; otherwise it is the mean of the steps that are there. (CalLMIP
Phase 1, and sums of half-hours are 24 hours times such a mean.) That rule is for gap-filled series. Where steps are missing,
mostly at night as a rule, the mean of the others is not that of the day: a day is void, too, when more than a quarter of its
light steps, or of its dark ones, is missing. Meteorology, which is gap-filled by design, needs every step.

The error of a daily mean depends on how the errors of its steps go together, which no file says. Root sums of squares,
as in CalLMIP's files, are right only for independent errors; a daily error that is too small makes a calibration believe a
single day more than it should. The default is therefore the upper bound, fully correlated errors within the day;
`correlation_hours` says otherwise.
"""

import math

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.clocks import is_utc as is_utc
from landcal_jax.io.clocks import offset_hours, to_local
from landcal_jax.io.normal import said, step_of
from landcal_jax.io.quantities import COMPANIONS, METEOROLOGY, QUANTITIES, quantity
from landcal_jax.io.sun import radiation_at
from landcal_jax.io.units import convert

EXTREMES = {"temperature_min": np.min, "temperature_max": np.max}
DARK = {"shortwave": (10.0, "W m-2"), "ppfd": (20.0, "umol m-2 s-1")}  # at most this at night, with the noise of the sensors
ROOM = 1e-9  # a quarter of the steps exactly is not more than a quarter, whatever the rounding


def is_subdaily(ds: xr.Dataset) -> bool:
    """Whether the steps of a Dataset of the normal form are shorter than a day."""
    return step_of(ds).startswith("PT")


def daily(ds: xr.Dataset, *, most_filled: float = 0.25, correlation_hours: float | None = None) -> xr.Dataset:
    """Return the daily means of a half-hourly or hourly Dataset of the normal form, in local standard time.

    `most_filled`: a day of observations is NaN when a larger share of its steps is gap-filled or missing, or when of its steps by
    day, or of those by night, a larger share is missing (rounded up to a step); where steps are missing and the day is kept,
    it is the mean of the others (counted in the history). Night is where shortwave or ppfd is 0 but for noise, without them where
    the sun is down, without a latitude from 18 to 6 h. Meteorology is NaN on a day with any step missing.
    `temperature` also gives temperature_min and temperature_max; `albedo` is weighted by shortwave where that is there.
    `correlation_hours` [h]: how the errors of the steps of a day go together. None: fully correlated, so that the daily error is
    the mean of those of the steps (the upper bound); 0: independent (root sum of squares, as in CalLMIP's files); otherwise
    the correlation exp(-|dt| / correlation_hours). Steps without an error get the root mean square of that day.
    A file in UTC is shifted by round(longitude / 15) hours first. An incomplete first or last day is dropped. The
    history says all of it, with counts; `x_filled` becomes the share of the day that was gap-filled or missing.
    Raises ValueError for steps of a day or longer, for UTC without a longitude, or when no whole day is left.
    """
    _check_options(most_filled, correlation_hours)
    if not is_subdaily(ds):
        raise ValueError(complain(f"steps shorter than a day in {file_of(ds)}", f"steps {step_of(ds)}",
                                  "use it as it is, or name the half-hourly file"))
    lines: list[str] = []
    starts, per_day = _local(ds, lines), _steps_per_day(ds)
    days, rows = _days(ds, starts, per_day, lines)
    table = {str(name): _by_day(ds[name].values, rows, len(days), per_day) for name in ds.data_vars if ds[name].dims == ("time",)}
    columns: dict[str, np.ndarray] = {}
    light = _is_light(ds, table, days, per_day)
    for name in table:
        if name.endswith(COMPANIONS) and name.rsplit("_", 1)[0] in table:
            continue
        columns |= _one(name, table, ds[name].attrs, light, most_filled, correlation_hours, lines)
    return _dataset(ds, days, columns, lines)


def error_of_mean(errors: np.ndarray, step_hours: float, correlation_hours: float | None) -> np.ndarray:
    """Standard deviation of the mean of a row of values with standard deviations `errors` (row, step); NaN: no value there.

    The errors have the correlation exp(-|dt| / correlation_hours): None, 1 throughout; 0, none.
    """
    there = np.isfinite(errors)
    count, known = there.sum(axis=1), np.where(there, errors, 0.0)
    if correlation_hours is None:
        total = known.sum(axis=1)
    elif correlation_hours == 0:
        total = np.sqrt((known**2).sum(axis=1))
    else:
        hours = step_hours * np.arange(errors.shape[1])
        correlation = np.exp(-np.abs(hours[:, None] - hours) / correlation_hours)
        total = np.sqrt(((known @ correlation) * known).sum(axis=1))
    return np.divide(total, count, out=np.full(len(errors), np.nan), where=count > 0)


def _check_options(most_filled: float, correlation_hours: float | None) -> None:
    if not 0 <= most_filled <= 1:
        raise ValueError(complain("most_filled between 0 and 1, a share of the day", f"{most_filled:g}", "0.25 is the rule of CalLMIP"))
    if correlation_hours is not None and not 0 <= correlation_hours < math.inf:
        raise ValueError(complain("correlation_hours of 0 (independent) or more, or None (fully correlated)", f"{correlation_hours}",
                                  "a few hours, or None for the upper bound"))


def file_of(ds: xr.Dataset) -> str:
    """The name under which errors speak of a Dataset: its source, which names the file."""
    return str(ds.attrs.get("source") or ds.attrs.get("title") or "the Dataset")


# ---------------------------------------------------------------------- time


def _steps_per_day(ds: xr.Dataset) -> int:
    per_day = pd.Timedelta("1D") / pd.Timedelta(step_of(ds))
    if per_day != int(per_day):
        raise ValueError(complain(f"steps in {file_of(ds)} that divide a day", f"steps {step_of(ds)}", "aggregate it to hours first"))
    return int(per_day)


def _local(ds: xr.Dataset, lines: list[str]) -> pd.DatetimeIndex:
    """Starts of the steps in local standard time."""
    starts, line = to_local(ds)
    lines += [line] * bool(line)
    return starts


def _days(ds: xr.Dataset, starts: pd.DatetimeIndex, per_day: int, lines: list[str]) -> tuple[pd.DatetimeIndex, np.ndarray]:
    """The days, and for each row of the file its place in a table of `per_day` steps a day (-1: on a day that is dropped)."""
    step = pd.Timedelta("1D") / per_day
    off = np.flatnonzero((starts - starts.normalize()) % step != pd.Timedelta(0))
    if off.size:
        raise ValueError(complain(f"steps of {step_of(ds)} in {file_of(ds)} that begin at midnight", f"one that begins at {starts[off[0]]}",
                                  "correct the label of the steps (start, middle, end) in the reader"))
    of_day, inverse, count = np.unique(starts.normalize(), return_inverse=True, return_counts=True)
    first, last = (int(count[end] < per_day) for end in (0, -1))
    if first:
        lines.append(f"{pd.Timestamp(of_day[0]):%Y-%m-%d}, the first day, has {count[0]} of {per_day} steps and was dropped.")
    if last and len(of_day) > first:
        lines.append(f"{pd.Timestamp(of_day[-1]):%Y-%m-%d}, the last day, has {count[-1]} of {per_day} steps and was dropped.")
    kept = of_day[first:len(of_day) - last]
    if not len(kept):
        raise ValueError(complain(f"at least one whole day in {file_of(ds)}", f"{len(starts)} steps of {step_of(ds)} from {starts[0]}",
                                  "use a longer record"))
    days = pd.date_range(kept[0], kept[-1]).as_unit("ns")
    place = np.asarray((starts - days[0]) // step)
    return days, np.where((place >= 0) & (place < len(days) * per_day), place, -1)


def _by_day(values: np.ndarray, rows: np.ndarray, days: int, per_day: int) -> np.ndarray:
    table = np.full(days * per_day, np.nan)
    table[rows[rows >= 0]] = values[rows >= 0]
    return table.reshape(days, per_day)


# ---------------------------------------------------------------------- values


def _is_light(ds: xr.Dataset, table: dict[str, np.ndarray], days: pd.DatetimeIndex, per_day: int) -> np.ndarray:
    """Whether each step is by day: from the radiation of the file, else from the sun, else from 6 to 18 h."""
    starts = days.values[:, None] + np.arange(per_day) * (pd.Timedelta("1D") / per_day).to_timedelta64()
    middles = pd.DatetimeIndex(starts.ravel()) + pd.Timedelta("1D") / per_day / 2
    latitude, longitude = float(ds["latitude"]), float(ds["longitude"])
    if np.isfinite(latitude):
        ahead = longitude / 15.0 - offset_hours(longitude) if np.isfinite(longitude) else 0.0
        ahead = (ahead + 12.0) % 24.0 - 12.0  # a longitude may be written from 0 to 360
        light = radiation_at(middles, latitude, ahead).reshape(starts.shape) > 0
    else:
        light = ((middles.hour >= 6) & (middles.hour < 18)).reshape(starts.shape)
    for name in reversed(DARK):
        if name in table:
            dark = convert(DARK[name][0], DARK[name][1], quantity(name).units)
            light = np.where(np.isfinite(table[name]), table[name] > dark, light)
    return light


def _one_sided(there: np.ndarray, light: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Days on which more than the share `most` of the steps by day, and by night, is missing, rounded up to a whole step."""
    gone = [(~there & part).sum(axis=1) for part in (light, ~light)]
    size = [part.sum(axis=1) for part in (light, ~light)]
    by_day, by_night = (lost > np.ceil(most * whole - ROOM) for lost, whole in zip(gone, size, strict=True))
    return by_day, by_night


def _one(name: str, table: dict[str, np.ndarray], attrs: dict, light: np.ndarray, most_filled: float,
         correlation_hours: float | None, lines: list[str]) -> dict[str, np.ndarray]:
    """Daily columns of one variable and of its companions."""
    values, per_day = table[name], light.shape[1]
    if name in METEOROLOGY:
        columns = _meteorology(name, values, lines)
        if f"{name}_filled" in table:
            columns[f"{name}_filled"] = _bad(values, table[f"{name}_filled"]).mean(axis=1)
        return columns
    bad = _bad(values, table.get(f"{name}_filled"))
    if name == "albedo" and "shortwave" in table:
        day, share = _weighted(values, bad, table["shortwave"])
        lines.append("albedo: daily means are weighted by shortwave; what was held or filled at night has no weight.")
    else:
        day, share = _mean(values), bad.mean(axis=1)
    void = ~(share <= most_filled + ROOM)
    line = (f"{int(void.sum())} are void, with more than {100 * most_filled:g} % of their steps gap-filled or missing")
    partial = ~void & ~np.isfinite(values).all(axis=1)
    if partial.any() and name != "albedo":
        line += _partial_said(partial, _one_sided(np.isfinite(values), light, most_filled), void)
    lines.append(f"{name}: {int((~void).sum())} of {len(void)} days; {line}.")
    columns = {name: np.where(void, np.nan, day)}
    if f"{name}_uncertainty" in table:
        columns |= _errors(name, columns[name], values, table[f"{name}_uncertainty"], attrs, per_day, correlation_hours, lines)
    if f"{name}_filled" in table:
        columns[f"{name}_filled"] = bad.mean(axis=1)
    return columns


def _partial_said(partial: np.ndarray, sides: tuple[np.ndarray, np.ndarray], void: np.ndarray) -> str:
    """What there is to say of days with missing steps; those that lack mostly the day or the night become `void`, in place."""
    by_day, by_night = (partial & side for side in sides)
    lost = by_day | by_night
    void |= lost
    line = f"; {int(partial.sum())} of the others have missing steps"
    if lost.any():
        line += (f", of which {int(lost.sum())} are void, since mostly nights ({int(by_night.sum())}) or mostly hours of light "
                 f"({int(by_day.sum())}) are missing")
    return line + f"; {int((partial & ~lost).sum())} are the mean of the steps that are there"


def _bad(values: np.ndarray, filled: np.ndarray | None) -> np.ndarray:
    """Share of each step that is gap-filled or missing; a step whose mark is missing counts as filled."""
    marks = 0.0 if filled is None else np.where(np.isfinite(filled), filled, 1.0)
    return np.where(np.isfinite(values), marks, 1.0)


def _mean(values: np.ndarray) -> np.ndarray:
    there = np.isfinite(values)
    count = there.sum(axis=1)
    return np.divide(np.where(there, values, 0.0).sum(axis=1), count, out=np.full(len(values), np.nan), where=count > 0)


def _weighted(values: np.ndarray, bad: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean weighted by radiation, and the share of the radiation at which the value is gap-filled or missing."""
    weight = np.where(np.isfinite(weight), np.maximum(weight, 0.0), 0.0)
    there = np.where(np.isfinite(values), weight, 0.0)
    nothing = np.full(len(values), np.nan)
    mean = np.divide((np.nan_to_num(values) * there).sum(axis=1), there.sum(axis=1), out=nothing.copy(), where=there.sum(axis=1) > 0)
    share = np.divide((bad * weight).sum(axis=1), weight.sum(axis=1), out=np.ones(len(values)), where=weight.sum(axis=1) > 0)
    return mean, share


def _meteorology(name: str, values: np.ndarray, lines: list[str]) -> dict[str, np.ndarray]:
    short = ~np.isfinite(values).all(axis=1)
    if short.any():
        lines.append(f"{name}: {int(short.sum())} of {len(short)} days are void, since a step is missing; meteorology needs every step.")
    if name in EXTREMES:
        return {name: EXTREMES[name](values, axis=1)}
    columns = {name: values.mean(axis=1)}  # NaN where a step is
    if name == "temperature":
        columns |= {each: function(values, axis=1) for each, function in EXTREMES.items()}
        lines.append("temperature_min and temperature_max are the lowest and the highest step of each day.")
    return columns


def _errors(name: str, day: np.ndarray, values: np.ndarray, errors: np.ndarray, attrs: dict, per_day: int,
            correlation_hours: float | None, lines: list[str]) -> dict[str, np.ndarray]:
    """The daily value, void where no step has an error, and the error of the daily mean."""
    known = np.isfinite(values) & (errors > 0)
    count = known.sum(axis=1)
    typical = np.sqrt(_mean(np.where(known, errors, np.nan)**2))
    errors = np.where(np.isfinite(values), np.where(known, errors, typical[:, None]), np.nan)
    error = error_of_mean(errors, 24.0 / per_day, correlation_hours)
    lone, short = np.isfinite(day) & (count == 0), np.isfinite(day) & (count > 0) & (count < np.isfinite(values).sum(axis=1))
    if lone.any() and known.any() and "gap_filled" not in attrs:
        day = np.where(lone, np.nan, day)
        lines.append(f"{name}: {int(lone.sum())} more days are void, since no step of theirs has a positive uncertainty.")
    error = np.where(np.isfinite(day), error, np.nan)
    if short.any():
        lines.append(f"{name}: on {int(short.sum())} days some steps have no uncertainty; they were given the root mean square of the "
                     "others of that day.")
    if np.isfinite(error).any():
        alone = np.where(np.isfinite(error), error_of_mean(errors, 24.0 / per_day, 0.0), np.nan)
        median, units = np.nanmedian(error), f" {QUANTITIES[name].units}" if name in QUANTITIES else ""
        lines.append(f"{name}_uncertainty: errors of the steps of a day were taken as {_named(correlation_hours)}; the median daily error "
                     f"is {median:.3g}{units}, {median / np.nanmedian(alone):.3g} times that of independent steps.")
    return {name: day, f"{name}_uncertainty": error}


def _named(correlation_hours: float | None) -> str:
    if correlation_hours is None:
        return "fully correlated (the upper bound)"
    return "independent" if correlation_hours == 0 else f"correlated over {correlation_hours:g} hours (exponential)"


def _dataset(ds: xr.Dataset, days: pd.DatetimeIndex, columns: dict[str, np.ndarray], lines: list[str]) -> xr.Dataset:
    time = ("time", days, ds["time"].attrs | {"step": "P1D", "time_zone": "local standard time", "long_name": "start of the day"})
    made = xr.Dataset(coords={"time": time} | {name: each for name, each in ds.coords.items() if name != "time" and not each.dims})
    for name, values in columns.items():
        attrs = dict(ds[name].attrs) if name in ds else {}
        if name not in ds:
            attrs = {"units": quantity(name).units, "long_name": quantity(name).long_name}
        made[name] = ("time", values, attrs)
    made = made.assign({name: each.variable for name, each in ds.data_vars.items() if "time" not in each.dims})
    made.attrs = dict(ds.attrs)
    per_day = _steps_per_day(ds)
    return said(made, f"{len(days)} days were made of steps of {24 / per_day:g} hours: means of rates.", *lines)
