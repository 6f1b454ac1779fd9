"""Measures of the course of a year: slopes of spring and autumn, amplitude, peak, sink, and their timing.

Peak and amplitude are those of the mean seasonal cycle: the mean of all values that count within `smooth` days about each day of
the year, of all years together, each value with the same weight. So gaps leave out values and add none, and noise of single days, which
would raise every peak, is averaged. `yearly` takes a measure of each year by itself instead.

Timing needs a cycle without steps: means of a window over a series of every 8 days jump as its values enter and leave. Its
cycle is the mean of each day of the year, straight lines between days with values, no further apart than `smooth` + 1 days, and the mean
over the window taken twice. A cosine of a year that is seen every 8 or 16 days keeps its timing to 0.1 days.

Days are those of `Series.day_of_year`, on a calendar of 365 days. They lie on a circle: where nothing else is asked for, a modelled day
is the one within half a year of the observed day of the same site, so that 2 January is four days after 29 December. All measures
are differentiable wherever the day of an extreme, or between which days a threshold is crossed, does not change; there they have
kinks (levels) or jumps (days, where another peak becomes the highest).
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.measures import Measure, Series, around, in_days, name_of, per_day, root, same_units, share

YEAR = 365
MIDDLE = 183.0  # of the year: days of a series without observations are those from 1 to 365
SEASONS = ("DJF", "MAM", "JJA", "SON")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
LENGTHS = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])


def season_of(time: np.ndarray) -> np.ndarray:
    """The season of the year of each time, named after its months: DJF, MAM, JJA, SON; empty for NaT."""
    month = np.where(np.isnat(time), 0, time.astype("datetime64[M]").astype(int) % 12 + 1)
    return np.where(np.isnat(time), "", np.asarray(SEASONS)[month % 12 // 3])


def month_of(time: np.ndarray) -> np.ndarray:
    """The month of each time, "Jan" to "Dec"; empty for NaT."""
    month = np.where(np.isnat(time), 0, time.astype("datetime64[M]").astype(int) % 12)
    return np.where(np.isnat(time), "", np.asarray(MONTHS)[month])


def year_of(time: np.ndarray) -> np.ndarray:
    """The calendar year of each time, in words; empty for NaT."""
    return np.where(np.isnat(time), "", np.datetime_as_string(time, unit="Y"))


def day_of(date: str) -> int:
    """The day of the year of "month-day", 1 for "01-01" and 365 for "12-31". Raises ValueError for what is no date of a common year."""
    match = re.fullmatch(r"(\d\d)-(\d\d)", date)
    month, day = (int(match[1]), int(match[2])) if match else (0, 0)
    if not (1 <= month <= 12 and 1 <= day <= LENGTHS[month - 1]):
        raise ValueError(complain("a date as month-day, of a year without 29 February", repr(date), '"03-01" for 1 March'))
    return int(LENGTHS[: month - 1].sum()) + day


def half_a_year_later(date: str) -> str:
    """The same day six months later, "month-day"; the last of the month where that has no such day."""
    day_of(date)
    month = (int(date[:2]) + 5) % 12 + 1
    return f"{month:02d}-{min(int(date[3:]), LENGTHS[month - 1]):02d}"


# ---------------------------------------------------------------------- slopes


def slope(start: str, end: str, *, least: int = 10) -> Measure:
    """Least-squares slope over the days from `start` to `end` [units of the series a day], both "month-day" and included.

    A line with one slope for all years and a level for each: years of other gaps and levels do not bend it. A window over the end of
    the year belongs to the year in which it begins. NaN where fewer than `least` values count within the window. At sites of
    the south, `Metric(..., south=[...])`, the window is that half a year later. Raises ValueError for what is no date, and for a line
    through fewer than two values.
    """
    windows = [tuple(map(day_of, dates)) for dates in ((start, end), (half_a_year_later(start), half_a_year_later(end)))]
    if least < 2:
        raise ValueError(complain("at least two values for a slope", f"least={least}", "least=10"))

    def function(series: Series) -> Array:
        series.require_time("a slope")
        first, last = (jnp.asarray(series.by_hemisphere(*days)) for days in zip(*windows, strict=True))
        after = jnp.floor(series.day_of_year) >= first
        before = jnp.floor(series.day_of_year) <= last
        over = first > last
        within = series.where(jnp.where(over, after | before, after & before))
        x = series.day_of_year + jnp.where(over & before, YEAR, 0)
        year = series.year - jnp.where(over & before, 1, 0) - series.years[0] + 1
        number = series.years[1] - series.years[0] + 2
        x, h = (_about_years(values, within, year, number) for values in (x, within.modelled))
        slope = share(jnp.sum(x * h), jnp.sum(x**2))
        return jnp.where(within.number >= least, slope, jnp.nan)

    return Measure(function, f"slope from {start} to {end} (at least {least} values)", per_day)


def _about_years(values: Array, series: Series, year: Array, number: int) -> Array:
    """`values` (n,) minus their mean of each of `number` years; zero where they do not count."""
    values = jnp.where(series.mask, values, 0.0)
    total, count = (jax.ops.segment_sum(part, year, num_segments=number) for part in (values, series.mask.astype(values.dtype)))
    return jnp.where(series.mask, values - (total / jnp.maximum(count, 1.0))[year], 0.0)


spring_slope = slope("03-01", "05-31")
"""Slope from 1 March to 31 May, spring of the north, and from 1 September to 30 November at sites of `Metric(..., south=[...])`."""
autumn_slope = slope("09-01", "11-30")
"""Slope from 1 September to 30 November, autumn of the north, and from 1 March to 30 May at sites of `Metric(..., south=[...])`."""


# ---------------------------------------------------------------------- the mean seasonal cycle


def cycle(series: Series, smooth: int) -> tuple[Array, Array]:
    """The mean seasonal cycle (365,) of the modelled values, and on which days it is known; zero on the others."""
    total, count = (_over_window(part, smooth) for part in _by_day(series))
    return total / jnp.maximum(count, 1.0), count > 0


def _by_day(series: Series) -> tuple[Array, Array]:
    """Sum and number of the modelled values of each day of the year, (365,) each."""
    series.require_time("a seasonal cycle")
    day = jnp.floor(series.day_of_year).astype(int) - 1
    values = jnp.where(series.mask, series.modelled, 0.0)
    return tuple(jax.ops.segment_sum(part, day, num_segments=YEAR) for part in (values, series.mask.astype(values.dtype)))


def _over_window(values: Array, smooth: int) -> Array:
    """Sums over `smooth` days about each day of the year."""
    return values[(jnp.arange(YEAR)[:, None] + jnp.arange(smooth) - smooth // 2) % YEAR].sum(axis=1)


def continuous_cycle(series: Series, smooth: int) -> tuple[Array, Array]:
    """The cycle (365,) for timing, and whether it is known: whether days with values are `smooth` + 1 days apart at most.

    On days without values mean and number of values lie on straight lines between the days before and after; of both the mean over
    `smooth` days is taken twice, which is smooth where values are far apart.
    """
    total, count = _by_day(series)
    seen, day = count > 0, jnp.arange(3 * YEAR)
    thrice = jnp.tile(seen, 3)  # the year before and the year after, since the cycle has no ends
    before = jax.lax.cummax(jnp.where(thrice, day, -1))[YEAR : 2 * YEAR]
    after = jax.lax.cummin(jnp.where(thrice, day, 3 * YEAR), reverse=True)[YEAR : 2 * YEAR]
    apart = after - before
    part = (day[YEAR : 2 * YEAR] - before) / jnp.maximum(apart, 1)

    def between(values):
        return (1.0 - part) * values[before % YEAR] + part * values[after % YEAR]

    number = between(count)
    values = between(total / jnp.maximum(count, 1.0)) * number
    for _ in range(2):
        values, number = _over_window(values, smooth), _over_window(number, smooth)
    return values / jnp.where(seen.any(), number, 1.0), seen.any() & (apart <= smooth + 1).all()


def _check(smooth: int, coverage: float) -> None:
    if isinstance(smooth, Series):
        raise TypeError(complain("a measure", "the function that makes one",
                                 'call it: Metric("nee", peak()), Metric("nee", amplitude(15))'))
    if not (isinstance(smooth, int) and 1 <= smooth < YEAR and smooth % 2 and 0 < coverage <= 1):
        raise ValueError(complain("an odd number of days to smooth over, and a coverage above 0 and up to 1", f"{smooth}, {coverage}",
                                  "amplitude(smooth=15, coverage=0.9)"))


def _of_cycle(name: str, smooth: int, coverage: float, of: Callable[[Array, Array], Array]) -> Measure:
    _check(smooth, coverage)

    def function(series: Series) -> Array:
        values, known = cycle(series, smooth)
        return jnp.where(jnp.mean(known) >= coverage, of(values, known), jnp.nan)

    return Measure(function, f"{name} of the mean seasonal cycle ({smooth} days, coverage {coverage:g})", same_units)


def _highest(values: Array, known: Array) -> Array:
    return jnp.max(jnp.where(known, values, -jnp.inf))


def _lowest(values: Array, known: Array) -> Array:
    return jnp.min(jnp.where(known, values, jnp.inf))


def amplitude(smooth: int = 15, *, coverage: float = 0.9) -> Measure:
    """Highest minus lowest value of the mean seasonal cycle.

    `smooth`: odd number of days that each value of the cycle is the mean of; 1 is the days as they are. `coverage`: on which share of
    the days of the year the cycle must be known, else NaN; lower it where `keep` leaves one season. Raises ValueError for others.
    """
    return _of_cycle("amplitude", smooth, coverage, lambda values, known: _highest(values, known) - _lowest(values, known))


def peak(smooth: int = 15, *, coverage: float = 0.9) -> Measure:
    """Highest value of the mean seasonal cycle; arguments as of `amplitude`."""
    return _of_cycle("peak", smooth, coverage, _highest)


def sink(smooth: int = 15, *, coverage: float = 0.9) -> Measure:
    """Lowest value of the mean seasonal cycle: of NEE the strongest uptake, negative; arguments as of `amplitude`."""
    return _of_cycle("sink", smooth, coverage, _lowest)


# ---------------------------------------------------------------------- timing


def day_of_peak(smooth: int = 15, *, lowest: bool = False, centre: float | None = None) -> Measure:
    """Day of the year of the highest value of the mean seasonal cycle [d], or of the lowest (the sink of NEE).

    Between days by a parabola through the highest and its neighbours. The day is given within half a year of `centre`; without it, of
    the observed day at the same site (and of the target, for a metric), which itself is from 1 to 365; so is that of a series that
    nobody observes. NaN where neighbouring days with values are more than `smooth` + 1 days apart: take a wider `smooth`.
    It jumps where another peak becomes the highest: derivatives know nothing of that.
    """
    def find(values: Array) -> Array:
        at = jnp.argmax(values)
        before, top, after = values[(at - 1) % YEAR], values[at], values[(at + 1) % YEAR]
        bend = 2.0 * top - before - after
        return at + jnp.where(bend > 0, 0.5 * (after - before) / jnp.where(bend > 0, bend, 1.0), 0.0)

    what = "lowest" if lowest else "highest"
    return _timing(f"day of the {what} value", smooth, lowest, centre, find)


def season_start(threshold: float = 0.2, smooth: int = 15, *, lowest: bool = False, centre: float | None = None) -> Measure:
    """Day of the year on which the mean seasonal cycle rises through a threshold for the last time before its peak [d].

    `threshold`: share of the amplitude above the lowest value. `lowest`: the season is the one of low values, as the uptake of NEE, and
    the cycle falls through it. Linear between days; other arguments and gaps as of `day_of_peak`.
    Raises ValueError for a threshold outside 0 to 1.
    """
    return _season("start", threshold, smooth, lowest, centre, -1)


def season_end(threshold: float = 0.2, smooth: int = 15, *, lowest: bool = False, centre: float | None = None) -> Measure:
    """Day of the year on which the mean seasonal cycle first falls through a threshold after its peak [d]; see `season_start`."""
    return _season("end", threshold, smooth, lowest, centre, 1)


def _season(which: Literal["start", "end"], threshold: float, smooth: int, lowest: bool, centre: float | None, step: int) -> Measure:
    if not 0 < threshold < 1:
        raise ValueError(complain("a threshold between 0 and 1, a share of the amplitude", f"{threshold}", "threshold=0.2"))

    def find(values: Array) -> Array:
        low = jnp.min(values)
        top = jnp.argmax(values)
        above = values[(top + step * jnp.arange(YEAR)) % YEAR] - (low + threshold * (values[top] - low))
        # The lowest value lies below the threshold, so that there is a first one, and the peak before it lies above.
        first = jnp.argmax(above < 0)
        inside, outside = above[first - 1], above[first]
        fall = inside - outside
        day = top + step * (first - 1 + jnp.where(fall > 0, inside / jnp.where(fall > 0, fall, 1.0), 0.0))
        return jnp.where(values[top] > low, day, jnp.nan)

    season = "of low values" if lowest else "of high values"
    return _timing(f"{which} of the season {season} (threshold {threshold:g})", smooth, lowest, centre, find)


def _timing(name: str, smooth: int, lowest: bool, centre: float | None, find: Callable[[Array], Array]) -> Measure:
    _check(smooth, 1.0)

    def of_cycle(series: Series) -> Array:
        values, known = continuous_cycle(series, smooth)
        day = around(1.0 + find(-values if lowest else values), MIDDLE if centre is None else centre, YEAR)
        # The place of a maximum is a number even where values are not.
        return jnp.where(known & jnp.isfinite(values).all(), day, jnp.nan)

    def function(series: Series) -> Array:
        day = of_cycle(series)
        if centre is not None:
            return day
        seen = of_cycle(dataclasses.replace(series, modelled=series.observed))
        return jnp.where(jnp.isfinite(seen), around(day, jnp.nan_to_num(seen), YEAR), day)

    about = "" if centre is None else f", about day {centre:g}"
    return Measure(function, f"{name} ({smooth} days{about})", in_days, float(YEAR))


# ---------------------------------------------------------------------- year by year


def yearly(
    measure: Measure | Callable[[Series], Array], *, spread: bool = False, least: int = 1, start: str = "01-01",
) -> Measure:
    """The mean over years of a measure of each year by itself, or with `spread` its standard deviation: how the years differ.

    Years begin on `start`, "month-day", and half a year later at sites of the south, `Metric(..., south=[...])`: "07-01" keeps a southern
    summer whole. Years for which the measure gives NaN, such as one whose summer is missing, are left out; NaN where fewer than
    `least` years remain (two for a spread, divided by n - 1). A season over the end of a year is cut there. Days of the year are
    averaged on their circle. Raises ValueError for what is no date, TypeError for what is no function.
    """
    if not callable(measure):
        raise TypeError(complain("a measure, or a function of a Series", f"{measure!r}", "yearly(peak())"))
    begins, least = [day_of(start), day_of(half_a_year_later(start))], max(least, 2 if spread else 1)
    circle = measure.circle if isinstance(measure, Measure) else None

    def by_year(series: Series) -> Array:
        year = series.year - (jnp.floor(series.day_of_year) < series.by_hemisphere(*begins))
        years = jnp.arange(series.years[0] - 1, series.years[1] + 1)
        return jax.vmap(lambda one: measure(series.where(year == one)))(years)

    def function(series: Series) -> Array:
        series.require_time("a measure by year")
        values = by_year(series)
        if circle:
            seen = by_year(dataclasses.replace(series, modelled=series.observed))
            values = around(values, _middle(jnp.where(jnp.isfinite(seen).any(), seen, jax.lax.stop_gradient(values)), circle), circle)
        there = jnp.isfinite(values)
        number = jnp.sum(there)
        mean = share(jnp.sum(jnp.where(there, values, 0.0)), number)
        if spread:
            mean = root(share(jnp.sum(jnp.where(there, values - mean, 0.0) ** 2), number - 1.0))
        return jnp.where(number >= least, mean, jnp.nan)

    since = "" if start == "01-01" else f" from {start}"
    units_of = measure.units_of if isinstance(measure, Measure) else same_units
    return Measure(function, f"{'spread' if spread else 'mean'} over years{since} of {name_of(measure)} (at least {least})", units_of,
                   None if spread else circle)


def _middle(values: Array, circle: float) -> Array:
    """The mean direction of values on a circle, from half a unit to half a unit more than the circle; those that are NaN are left out."""
    there, angle = jnp.isfinite(values), 2.0 * jnp.pi * jnp.nan_to_num(values) / circle
    east, north = (jnp.sum(jnp.where(there, part, 0.0)) for part in (jnp.cos(angle), jnp.sin(angle)))
    return around(circle * jnp.arctan2(north, east) / (2.0 * jnp.pi), 0.5 * (circle + 1.0), circle)
