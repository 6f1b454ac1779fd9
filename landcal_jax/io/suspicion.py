"""What looks wrong in a series of the normal form, in sentences with counts and the worst time. Nothing is changed here.

Each check takes a Dataset and yields sentences; `CHECKS` lists them. A check says what it saw and what that may mean: data
that look odd may be right, and a file without a sentence may be wrong. A check that concerns several variables gives one
sentence with a line for each of them.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.io.aggregation import is_subdaily
from landcal_jax.io.clocks import hours_ahead, offset_hours
from landcal_jax.io.coverage import SEASONS, ahead_of_clock, coverage, series_of, span_days
from landcal_jax.io.model_data import ODD
from landcal_jax.io.normal import step_of
from landcal_jax.io.plausibility import implausible
from landcal_jax.io.quantities import FLUXES
from landcal_jax.io.sun import MJ_A_DAY, clock_lag, highest_of_step, radiation_of_day

LATE, CLEAR = 0.4, 0.75  # hours: what a shift by one half-hour leaves to see, and what needs no such reading to be odd
SPARE = {"PT": 50.0, "P": 6.0}  # W m-2 above the top of the atmosphere: precision of a pyranometer, at once and over a day
# Steps of the running median; a spike is so many robust standard deviations from it, and so many times what 1 in 20 exceeds.
WIDTH, OUTLIER, OFTEN = 5, 20.0, 4.0
STILL_DAYS, STILL_HOURS = 10, 72  # a run of one value that long, in daily and in shorter steps
FEW = 30
STEADY = ("precipitation", "rainfall", "snowfall", "burned_fraction", "co2", "canopy_height", "lai", "fapar", "biomass", "soil_carbon",
          "snow_cover", "snow_depth", "snow_water_equivalent", "runoff", "salinity", "water_table")
EDDY = ("nee", "latent_heat", "sensible_heat")
FRACTIONS = ("relative_humidity", "albedo", "fapar", "snow_cover", "soil_moisture")
FULL = 0.97
WINDOW, FAR = 15, 5.5  # days to both sides of a day that make its season; robust standard deviations from it
SMALL = 0.01  # of the standard deviation of a series: an uncertainty below is hardly one


def suspicions(ds: xr.Dataset) -> list[str]:
    """Every sentence of every check about a series of the normal form."""
    return [sentence for check in CHECKS for sentence in check(ds)]


def _length(ds: xr.Dataset) -> pd.Timedelta:
    return pd.Timedelta(step_of(ds))


def _when(ds: xr.Dataset, index: int) -> str:
    return f"{ds.indexes['time'][int(index)]:{'%Y-%m-%d %H:%M' if is_subdaily(ds) else '%Y-%m-%d'}}"


def _listed(title: str, rows: Sequence[Sequence[str]]) -> str:
    """A sentence with a line for each row below it, their cells aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([title, *lines])


def _unit(ds: xr.Dataset, name: str) -> str:
    units = str(ds[name].attrs.get("units", ""))
    return "" if units in ("", "1") else f" {units}"


def _has_days(ds: xr.Dataset) -> bool:
    return is_subdaily(ds) or step_of(ds) == "P1D"


# ---------------------------------------------------------------------- sun and clock


def _above_the_atmosphere(ds: xr.Dataset) -> Iterator[str]:
    latitude = float(ds["latitude"])
    if "shortwave" not in ds or not np.isfinite(latitude) or not _has_days(ds):
        return
    starts, values = ds.indexes["time"], ds["shortwave"].values
    if is_subdaily(ds):
        if not np.isfinite(float(ds["longitude"])):
            return
        # A clock that is off is another finding: what is said here has to stand whatever the clock.
        lag = _lag(ds, "shortwave")[1].abs().max()
        margin = float(np.nan_to_num(lag)) * (pd.Timedelta("1h") / _length(ds))
        limit = highest_of_step(starts, _length(ds), latitude, ahead_of_clock(ds), margin)
    else:
        limit = radiation_of_day(starts, latitude)
    excess = values - limit - SPARE["PT" if is_subdaily(ds) else "P"] * MJ_A_DAY
    above = excess > 0
    if above.any():
        worst, many = int(np.nanargmax(excess)), "s" * bool(above.sum() > 1)
        yield (f"shortwave: {above.sum()} value{many} above what arrives at the top of the atmosphere, the worst on {_when(ds, worst)}: "
               f"{values[worst] / MJ_A_DAY:.0f} W m-2 against {limit[worst] / MJ_A_DAY:.0f}. Spikes, or another unit, place or clock.")


def _clock(ds: xr.Dataset) -> Iterator[str]:
    name = next((each for each in ("shortwave", "ppfd") if each in ds), None)
    latitude, longitude = float(ds["latitude"]), float(ds["longitude"])
    if name is None or not is_subdaily(ds) or not np.isfinite(latitude) or _length(ds) > pd.Timedelta("3h"):
        return
    lag, months = _lag(ds, name)
    if months.empty:
        return
    if abs(lag) > (LATE if np.isfinite(longitude) else CLEAR):
        meaning = _reading(ds, lag)
        if meaning or abs(lag) > CLEAR:
            clock = f"of {ds['time'].attrs.get('time_zone', 'local standard time')}"
            yield (f"{name}: the centre of its daily course is {abs(lag):.2f} hours {'after' if lag > 0 else 'before'} solar noon {clock}. "
                   f"{meaning or 'Check the label of the steps and the time zone.'}")
    summer = (months.index >= 4) & (months.index <= 10)
    if 3 <= summer.sum() <= len(months) - 3:
        jump = float(months[summer].median() - months[~summer].median())
        if 0.7 < abs(jump) < 1.3:
            yield (f"{name}: the sun is {abs(jump):.2f} hours {'later' if jump > 0 else 'earlier'} from April to October. It looks like "
                   "daylight saving time.")


def _lag(ds: xr.Dataset, name: str) -> tuple[float, pd.Series]:
    """Hours by which measured light is later than the sun (0 where the clock is right or nothing is known), and that by month."""
    latitude = float(ds["latitude"])
    if _length(ds) > pd.Timedelta("3h"):
        return 0.0, pd.Series(dtype=float)
    months = clock_lag(ds.indexes["time"], ds[name].values, _length(ds), latitude, ahead_of_clock(ds))
    if months.empty:
        return 0.0, months
    return float(np.angle(np.exp(1j * np.pi * months.to_numpy() / 12).mean()) * 12 / np.pi), months


def _reading(ds: xr.Dataset, lag: float) -> str:
    """What a lag of the measured sun behind the sun may mean; empty if it fits nothing."""
    step, longitude = _length(ds) / pd.Timedelta("1h"), float(ds["longitude"])
    hours = offset_hours(longitude) if np.isfinite(longitude) else 0
    around = (lag + 12.0) % 24.0 - 12.0
    # The lag that each other clock would give: the stamps of a clock that is ahead of the one named make the sun late.
    stated, zone = hours_ahead(ds), str(ds["time"].attrs.get("time_zone", "local standard time"))
    names = {"UTC": 0.0, f"local standard time (UTC{hours:+d})": float(hours)}
    said = next((name for name, ahead in names.items() if name.startswith(zone) and ahead == stated), zone)
    for name, ahead in names.items() if np.isfinite(stated) else ():
        # One hour is as well explained by a label or by legal time, unless the file says UTC.
        if abs(ahead - stated) > (0 if zone == "UTC" else 1) and abs((around - (ahead - stated) + 12.0) % 24.0 - 12.0) < LATE:
            return f"It looks like {name}, not {said}."
    near = 0.3 * step if step < 1 else LATE
    found = []
    if abs(lag - step) < near:
        found.append("an end label taken as the start of the step")
    if abs(lag + step) < near:
        found.append("a start label taken as the end of the step")
    if abs(lag - 1.0) < LATE:
        found.append("a legal time one hour ahead of the sun, as in France and Spain")
    return f"It looks like {', or '.join(found)}." if found else ""


def _albedo_at_night(ds: xr.Dataset) -> Iterator[str]:
    if not {"albedo", "shortwave"} <= set(ds) or not is_subdaily(ds):
        return
    albedo, dark = ds["albedo"].values, ds["shortwave"].values <= 0
    night = dark[1:] & np.isfinite(albedo[1:]) & np.isfinite(albedo[:-1])
    held = night & (albedo[1:] == albedo[:-1])
    if night.sum() >= FEW and held.sum() > 0.5 * night.sum():
        yield (f"albedo: {held.sum()} of {night.sum()} values without sun repeat the value before, the first on "
               f"{_when(ds, np.argmax(held) + 1)}. They are held or filled, not measured: weight albedo by shortwave.")


# ---------------------------------------------------------------------- values


def _still(ds: xr.Dataset) -> Iterator[str]:
    if not _has_days(ds):
        return
    day = _length(ds) / pd.Timedelta("1D")
    least = round(STILL_HOURS / 24 / day) if is_subdaily(ds) else STILL_DAYS
    rows = []
    for name in series_of(ds):
        if name in STEADY or name.endswith("_mole_fraction") or (name == "albedo" and is_subdaily(ds)):
            continue
        values = ds[name].values
        change = np.flatnonzero(~(values[1:] == values[:-1])) + 1
        begins, lengths = np.r_[0, change], np.diff(np.r_[0, change, len(values)])
        # Zero is where many quantities rest: radiation in the polar night, a melting surface.
        long = (lengths >= least) & np.isfinite(values[begins]) & (values[begins] != 0)
        if long.any():
            worst, count = np.flatnonzero(long)[np.argmax(lengths[long])], int(long.sum())
            rows.append((name, f"{count} such run{'s' * (count > 1)}, the longest from {_when(ds, begins[worst])} for "
                               f"{lengths[worst] * day:.4g} days: {values[begins[worst]]:.6g}{_unit(ds, name)}"))
    if rows:
        yield _listed(f"The same value for {least * day:g} days or more: a sensor that was stuck, a limit, or a gap that was filled with a "
                      "constant.", rows)


def _spikes(ds: xr.Dataset) -> Iterator[str]:
    rows = []
    for name in series_of(ds):
        values = ds[name].values
        if (name in STEADY and name != "co2") or np.isfinite(values).sum() < 10 * WIDTH:
            continue
        middle = pd.Series(values).rolling(WIDTH, center=True, min_periods=3).median().to_numpy()
        residual = np.abs(values - middle)
        moving = residual[residual > 0]  # where most values repeat, the median of all residuals would be zero
        if not moving.size:
            continue
        # Days differ from nights, so that the median alone would call a cloud at noon a spike.
        limit = max(OUTLIER * 1.4826 * np.median(moving), OFTEN * np.quantile(moving, 0.95))
        spike = residual > limit
        if spike.any():
            worst, count = int(np.nanargmax(residual)), int(spike.sum())
            rows.append((name, f"{count} by more than {limit:.3g}{_unit(ds, name)}, the worst on {_when(ds, worst)}: {values[worst]:.4g} "
                               f"against {middle[worst]:.4g}"))
    if rows:
        yield _listed(f"Spikes, single values far from the median of the {WIDTH} around them:", rows)


def _outliers(ds: xr.Dataset) -> Iterator[str]:
    """Days of a flux that are far from what its season has; slower than spikes, which stand beside their neighbours."""
    if step_of(ds) != "P1D":
        return
    rows, day = [], ds.indexes["time"].day_of_year.to_numpy()
    for name in (each for each in FLUXES if each in ds and each not in STEADY):
        values, known = ds[name].values, np.isfinite(ds[name].values)
        if known.sum() < 10 * FEW:
            continue
        middle, spread = np.full(367, np.nan), np.full(367, np.nan)
        for one in range(1, 367):
            around = values[known & (np.abs((day - one + 183) % 366 - 183) <= WINDOW)]
            if around.size >= FEW:
                middle[one] = np.median(around)
                spread[one] = 1.4826 * np.median(np.abs(around - middle[one]))
        # In a season at rest the spread is small, and a little of anything would be far.
        spread = np.maximum(spread, 0.5 * np.nanmedian(spread)) if np.isfinite(spread).any() else spread
        away = np.abs(values - middle[day]) / np.where(spread > 0, spread, np.nan)[day]
        far = away > FAR
        if far.any():
            worst = int(np.nanargmax(away))
            rows.append((name, f"{far.sum()} of {known.sum()}, the farthest on {_when(ds, worst)}: {values[worst]:.4g}{_unit(ds, name)}, "
                               f"where the season has {middle[day[worst]]:.3g} +- {spread[day[worst]]:.2g}"))
    if rows:
        yield _listed(f"Days more than {FAR:g} robust standard deviations from the median of their season. They may be right (pulses after "
                      "rain in dry places), or faults that would weigh in J.", rows)


def equal_extremes(ds: xr.Dataset) -> str:
    """A sentence if no step has a daily course of temperature, so that a model sees the mean twice; else ""."""
    if not {"temperature_min", "temperature_max"} <= set(ds):
        return ""
    low, high = ds["temperature_min"].values, ds["temperature_max"].values
    both = np.isfinite(low) & np.isfinite(high)
    if not both.any() or (low[both] != high[both]).any():
        return ""
    each = {"P1D": "day", "P1M": "month"}.get(step_of(ds), "step")
    return (f"temperature_min equals temperature_max on every {each} ({both.sum()}): both are the mean, and a model that uses the range of "
            "the day, or frost, misses it.")


def _range_of_the_day(ds: xr.Dataset) -> Iterator[str]:
    sentence = equal_extremes(ds)
    if sentence:
        yield sentence


def _odd(ds: xr.Dataset) -> Iterator[str]:
    for name, (low, high) in ODD.items():
        if name not in ds or is_subdaily(ds):
            continue
        values = ds[name].values
        odd = (values < low) | (values > high)
        if odd.any():
            worst = int(np.nanargmax(np.where(odd, np.abs(values - np.nanmedian(values)), np.nan)))
            yield (f"{name}: {odd.sum()} values outside {low:g} to {high:g}{_unit(ds, name)}, the most extreme on {_when(ds, worst)}: "
                   f"{values[worst]:.4g}.")


def _percent(ds: xr.Dataset) -> Iterator[str]:
    for name in FRACTIONS:
        if name not in ds or not np.isfinite(ds[name].values).any():
            continue
        values = ds[name].values
        high = float(np.nanmax(values))
        worst = _when(ds, np.nanargmax(values))
        if high > 1.5:
            yield f"{name}: values up to {high:.4g} (on {worst}) for a fraction, {(values > 1.5).sum()} above 1. They look like percent."
        elif 0 < high <= 0.02:
            yield (f"{name}: none of {np.isfinite(values).sum()} values is above {high:.3g} (on {worst}). They look like fractions that "
                   "were divided by 100, as when a fraction is labelled as percent.")


def _sign(ds: xr.Dataset) -> Iterator[str]:
    if not {"nee", "latent_heat"} <= set(ds):
        return
    nee, heat = ds["nee"].values, ds["latent_heat"].values
    both = np.isfinite(nee) & np.isfinite(heat)
    if both.sum() < FEW or np.std(nee[both]) == 0 or np.std(heat[both]) == 0:
        return
    r = float(np.corrcoef(nee[both], heat[both])[0, 1])
    if r > 0.3:
        worst = int(np.flatnonzero(both)[np.argmax(nee[both])])
        yield (f"nee: it rises with latent heat (r = {r:+.2f} over {both.sum()} steps; highest on {_when(ds, worst)}), as if uptake were "
               "positive. It may be net ecosystem production: multiply it by -1.")


def _closure(ds: xr.Dataset) -> Iterator[str]:
    if not {"latent_heat", "sensible_heat", "net_radiation"} <= set(ds):
        return
    heat = ds["latent_heat"].values + ds["sensible_heat"].values
    available = ds["net_radiation"].values - (ds["ground_heat"].values if "ground_heat" in ds else 0.0)
    both = np.isfinite(heat) & np.isfinite(available)
    if both.sum() < FEW or available[both].sum() <= 0:
        return
    closed = heat[both].sum() / available[both].sum()
    if not 0.9 <= closed <= 1.1:
        worst = int(np.flatnonzero(both)[np.argmax(np.abs(heat - available)[both])])
        ground = "net radiation less ground heat" if "ground_heat" in ds else "net radiation (there is no ground heat)"
        yield (f"Energy balance: latent and sensible heat are {100 * closed:.0f} % of {ground} over {both.sum()} steps, furthest apart on "
               f"{_when(ds, worst)} by {abs(heat - available)[worst]:.0f} W m-2. 70 to 90 % is usual for eddy "
                   "covariance; a model closes it.")


# ---------------------------------------------------------------------- what was measured, and when


def _filled_like_measured(ds: xr.Dataset) -> Iterator[str]:
    marks: dict[str, list[str]] = {}
    for name in series_of(ds):
        if "gap_filled" in ds[name].attrs:
            marks.setdefault(str(ds[name].attrs["gap_filled"]), []).append(name)
        elif name in EDDY and f"{name}_filled" not in ds and len(ds["time"]) >= 10 * FEW:
            share = float(np.isfinite(ds[name].values).mean())
            if share >= FULL:
                yield (f"{name}: {100 * share:.0f} % of the {len(ds['time'])} steps have a value and no mark says that any was gap-filled; "
                       "eddy covariance is rarely so complete, so part of it probably was.")
    for mark, names in marks.items():
        yield f"{', '.join(names)}: gap-filled values are {mark}, so that they look like measured ones."


def _small_errors(ds: xr.Dataset) -> Iterator[str]:
    rows = []
    for name in FLUXES:
        if name not in ds or f"{name}_uncertainty" not in ds:
            continue
        errors, values = ds[f"{name}_uncertainty"].values, ds[name].values
        known = np.isfinite(errors) & np.isfinite(values) & (errors > 0)
        if known.sum() < FEW:
            continue
        middle, spread = float(np.median(errors[known])), float(np.std(values[known]))
        least = int(np.flatnonzero(known)[np.argmin(errors[known])])
        tiny = int((errors[known] < SMALL * spread).sum())
        if middle < 2 * SMALL * spread:
            yield (f"{name}_uncertainty: its median, {middle:.2g}, is {100 * middle / spread:.2g} % of the standard deviation of {name} "
                   f"({known.sum()} values; the smallest, {errors[least]:.2g}, on {_when(ds, least)}). A calibration would believe every "
                   "value: give a model error, or inflate it.")
        elif tiny:
            weight = float(f"{(middle / errors[least])**2:.2g}")
            rows.append((name, f"{tiny} of {known.sum()}, the smallest on {_when(ds, least)}: {errors[least]:.2g}{_unit(ds, name)}, with "
                               f"the weight of {weight:,.0f} median ones ({middle:.2g})"))
    if rows:
        yield _listed(f"Uncertainties below {100 * SMALL:g} % of the standard deviation of their series: such steps dominate J unless a "
                      "model error is added to them.", rows)


def _unseen(ds: xr.Dataset) -> Iterator[str]:
    table = coverage(ds)
    year = span_days(ds) > 330
    for name in table.index:
        row, seasons = table.loc[name], table.loc[name, [season for season in SEASONS if season in table]].dropna()
        if {"day", "night"} <= set(table.columns) and row["night"] < 0.05 < 0.2 < row["day"]:
            yield (f"{name}: observed on {100 * row['day']:.0f} % of the steps by day and {100 * row['night']:.1f} % by night. "
                   "What is not seen at night biases a mean.")
        enough = year and len(seasons) == len(SEASONS) and np.isfinite(ds[name].values).sum() >= FEW
        if enough and seasons.min() < 0.25 * seasons.max():
            yield (f"{name}: observed on {100 * seasons.max():.3g} % of the steps in {seasons.idxmax()} but {100 * seasons.min():.2g} % in "
                   f"{seasons.idxmin()}. It is not missing at random: an annual mean of it is biased.")
        elif row["all"] < 0.05:
            yield f"{name}: observed on {100 * row['all']:.2g} % of the steps only."


def _calendar(ds: xr.Dataset) -> Iterator[str]:
    if not _has_days(ds):
        return
    days = ds.indexes["time"].normalize().unique()
    leap = [year for year in range(days[0].year, days[-1].year + 1)
            if pd.Timestamp(year, 1, 1).is_leap_year and days[0] <= pd.Timestamp(year, 2, 28) and days[-1] >= pd.Timestamp(year, 3, 1)]
    if leap and not ((days.month == 2) & (days.day == 29)).any():
        years = f"every one of the {len(leap)} leap years" if len(leap) > 1 else "the only leap year"
        yield f"29 February is absent in {years}, {leap[0]} first."
    if (days[-1].month, days[-1].day) == (12, 30):
        yield f"The record ends on {days[-1]:%Y-%m-%d}, one day before the end of the year: its last day is missing."
    if is_subdaily(ds):
        per_day = int(pd.Timedelta("1D") / _length(ds))
        for which, day in (("first", days[0]), ("last", days[-1])):
            count = int((ds.indexes["time"].normalize() == day).sum())
            if count < per_day:
                yield f"The {which} day, {day:%Y-%m-%d}, has {count} of {per_day} steps."


CHECKS: tuple[Callable[[xr.Dataset], Iterator[str]], ...] = (
    implausible, _above_the_atmosphere, _clock, _calendar, _odd, _percent, _range_of_the_day, _sign, _spikes, _outliers, _still,
    _albedo_at_night, _filled_like_measured, _unseen, _small_errors, _closure)
