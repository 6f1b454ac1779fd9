"""Are the numbers of a series those of its unit? What a series of the normal form is, against what occurs at sites on Earth.

A mistake of unit leaves values that are possible one by one and wrong as a whole: a vapour pressure deficit in kPa that is
labelled hPa, half-hourly sums of rain that are labelled mm d-1. Each check compares one number of a whole series, such as
its median, with what is usual, and its sentence says what that number would be if the file's figures were in another unit.
Part of `suspicion`; nothing is changed.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.io.aggregation import is_subdaily
from landcal_jax.io.coverage import ahead_of_clock, span_days
from landcal_jax.io.model_data import saturation_pressure
from landcal_jax.io.normal import step_of
from landcal_jax.io.quantities import quantity
from landcal_jax.io.sun import MJ_A_DAY, radiation_at, radiation_of_day
from landcal_jax.io.units import PHOTONS_PER_JOULE, convert

YEAR = 300.0  # days: a record as long as this has every season
FEW = 20
PHOTONS = PHOTONS_PER_JOULE * 1e6  # umol of photosynthetic photons for one joule of sunlight
# Global mean of carbon dioxide in air [ppm] in some years: ice cores, then NOAA.
AIR_YEARS, AIR_CO2 = (1700, 1850, 1900, 1950, 1980, 2000, 2010, 2020, 2025), (277, 285, 296, 311, 339, 369, 389, 413, 426)


class Usual(NamedTuple):
    """What a number of a whole series usually is.

    `statistic`: "median", "mean", "standard deviation", "95th percentile"; between `low` and `high` in the unit of the normal form.
    `others`: units that are taken for each other, with their factor to the unit of the normal form. `days`: records that are
    shorter are not judged.
    """

    statistic: str
    low: float
    high: float
    others: Mapping[str, float]
    days: float = 0.0


WATTS = {"W m-2": 1.0, "MJ m-2 d-1": 1 / MJ_A_DAY}
CARBON = {"gC m-2 d-1": 1.0, "umol m-2 s-1": 1.038, "kgC m-2 s-1": 8.64e7, "gC m-2 s-1": 86400.0, "gC m-2 h-1": 24.0,
          "gC m-2 a-1": 1 / 365.25, "mgC m-2 d-1": 1e-3}
USUAL: dict[str, Usual] = {
    "longwave": Usual("median", 90.0, 500.0, WATTS, 10),
    "wind_speed": Usual("median", 0.15, 10.0, {"m s-1": 1.0, "km h-1": 1 / 3.6, "knots": 0.5144}, 10),
    "snow_depth": Usual("95th percentile", 0.0, 5.0, {"m": 1.0, "dm": 0.1, "cm": 0.01}),
    "specific_humidity": Usual("median", 2e-4, 0.025, {"kg kg-1": 1.0, "g kg-1": 1e-3}, 10),
    "latent_heat": Usual("95th percentile", 6.0, 450.0, WATTS | {"mm d-1": 28.4}, YEAR),
    "sensible_heat": Usual("standard deviation", 4.0, 300.0, WATTS, YEAR),
    "evapotranspiration": Usual("95th percentile", 0.2, 16.0, {"mm d-1": 1.0, "W m-2": 1 / 28.4, "mm s-1": 86400.0, "mm h-1": 24.0}, YEAR),
    "nee": Usual("standard deviation", 0.02, 25.0, CARBON, YEAR),
    "gpp": Usual("95th percentile", 0.05, 60.0, CARBON, YEAR),
    "reco": Usual("95th percentile", 0.05, 40.0, CARBON, YEAR),
    "lai": Usual("95th percentile", 0.0, 10.0, {"m2 m-2": 1.0, "0.1 m2 m-2, as stored by MODIS,": 0.1}),
}
RAIN = {"mm d-1": 1.0, "mm h-1": 24.0, "mm per half-hour": 48.0, "mm a month": 1 / 30.4375, "mm s-1 (kg m-2 s-1)": 86400.0, "cm d-1": 10.0,
        "m d-1": 1000.0}
SUN = {"MJ m-2 d-1": 1.0, "W m-2": MJ_A_DAY, "umol m-2 s-1 (photons)": MJ_A_DAY / PHOTONS, "MJ m-2 h-1": 24.0, "MJ m-2 per half-hour": 48.0,
       "J cm-2 d-1": 0.01, "kWh m-2 d-1": 3.6}
LIGHT = {"umol m-2 s-1": 1.0, "mol m-2 d-1": 1e6 / 86400, "mmol m-2 s-1": 1e3, "W m-2 (of sunlight)": PHOTONS,
         "MJ m-2 d-1 (of sunlight)": PHOTONS / MJ_A_DAY}
MOISTURE = {"hPa": 1.0, "kPa": 10.0, "Pa": 0.01}


def implausible(ds: xr.Dataset) -> Iterator[str]:
    """A sentence for each series whose size does not fit its unit."""
    for check in (_by_table, _temperature, _sunlight, _rain, _carbon_dioxide, _humidity, _pressure, _snow):
        yield from check(ds)


def _finite(ds: xr.Dataset, name: str) -> np.ndarray:
    values = ds[name].values
    return values[np.isfinite(values)]


def _labelled(ds: xr.Dataset, name: str) -> tuple[str, float]:
    """The unit that the file states for `name`, and the factor from it to the unit of the normal form."""
    own, stated = quantity(name).units, str(ds[name].attrs.get("units_in_file", "")).strip()
    try:
        factor = float(convert(np.array([1.0]), stated, own, name)[0]) if stated else 0.0
    except ValueError:
        factor = 0.0
    return (stated, factor) if factor > 0 else (own, 1.0)


def _otherwise(ds: xr.Dataset, name: str, value: float, low: float, high: float, others: Mapping[str, float],
               show: Callable[[float], str]) -> str:
    """What `value` [unit of the normal form] would be if the figures of the file were in another unit."""
    stated, factor = _labelled(ds, name)
    fits = {unit: value / factor * other for unit, other in others.items() if low <= value / factor * other <= high}
    fits = {unit: one for unit, one in fits.items() if abs(one / value - 1) > 0.1}
    if not fits:
        return "No unit that is often taken for it makes it usual: check the file's description."
    told = " or ".join(f"{show(one)} if they are {unit}" for unit, one in list(fits.items())[:2])
    return f"The figures are labelled {stated}; it would be {told}."


def _unusual(ds: xr.Dataset, name: str, what: str, value: float, low: float, high: float, others: Mapping[str, float]) -> Iterator[str]:
    if not np.isfinite(value) or low <= value <= high:
        return
    units = quantity(name).units

    def show(number: float) -> str:
        return f"{number:.3g}{'' if units in ('', '1') else ' ' + units}"

    yield (f"{name}: its {what} is {show(value)}, where {low:g} to {show(high)} is usual. "
           f"{_otherwise(ds, name, value, low, high, others, show)}")


STATISTICS: dict[str, Callable[[np.ndarray], float]] = {
    "median": np.median, "mean": np.mean, "standard deviation": np.std, "95th percentile": lambda values: np.quantile(values, 0.95)}


def _by_table(ds: xr.Dataset) -> Iterator[str]:
    days = span_days(ds)
    for name, usual in USUAL.items():
        if name not in ds or days < usual.days or _finite(ds, name).size < FEW:
            continue
        value = float(STATISTICS[usual.statistic](_finite(ds, name)))
        yield from _unusual(ds, name, usual.statistic, value, usual.low, usual.high, usual.others)


def _temperature(ds: xr.Dataset) -> Iterator[str]:
    """Fahrenheit that is labelled Celsius passes every limit in a cool climate, but not the mean of a year at its latitude."""
    name = next((each for each in ("temperature", "temperature_max") if each in ds), None)
    latitude = float(ds["latitude"])
    if name is None or span_days(ds) < YEAR or not np.isfinite(latitude) or not _finite(ds, name).size:
        return
    warmest = 36.0 - 0.35 * max(abs(latitude) - 25.0, 0.0) + (6.0 if name == "temperature_max" else 0.0)
    mean = float(_finite(ds, name).mean())
    if mean > warmest:
        yield (f"{name}: its mean is {mean:.3g} degC, above {warmest:.3g} degC, the warmest that occurs at latitude {latitude:.3g}. If the "
               f"figures are degrees Fahrenheit, it would be {(mean - 32) / 1.8:.3g} degC.")


def _expected_sunlight(ds: xr.Dataset) -> np.ndarray | None:
    """Mean radiation of each step at the top of the atmosphere [MJ m-2 d-1]; None where it cannot be known."""
    latitude, starts, step = float(ds["latitude"]), ds.indexes["time"], step_of(ds)
    if not np.isfinite(latitude) or step not in ("P1D", "P1M") and not is_subdaily(ds):
        return None
    if is_subdaily(ds):
        length = pd.Timedelta(step)
        return np.mean([radiation_at(starts + length * part, latitude, ahead_of_clock(ds)) for part in (1 / 6, 0.5, 5 / 6)], axis=0)
    return radiation_of_day(starts + pd.Timedelta("15D") if step == "P1M" else starts, latitude)


def _sunlight(ds: xr.Dataset) -> Iterator[str]:
    limit = _expected_sunlight(ds) if {"shortwave", "ppfd"} & set(ds) else None
    if limit is None or span_days(ds) < 10:
        return
    for name, to_mj, others in (("shortwave", 1.0, SUN), ("ppfd", MJ_A_DAY / PHOTONS, LIGHT)):
        seen = np.isfinite(ds[name].values) if name in ds else np.zeros(0, bool)
        if seen.sum() < FEW or limit[seen].mean() < 1.0:
            continue
        mean, top = float(ds[name].values[seen].mean()), float(limit[seen].mean()) / to_mj
        if not 0.1 * top <= mean <= 0.9 * top:
            units = quantity(name).units

            def show(value: float, units: str = units) -> str:
                return f"{value:.3g} {units}"

            otherwise = _otherwise(ds, name, mean, 0.15 * top, 0.85 * top, others, show)
            yield (f"{name}: its mean is {show(mean)}, {_percent(mean / top)} % of what arrives at the top of the atmosphere "
                   f"({show(top)}); 25 to 75 % is usual. {otherwise}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share > 0.1 else f"{100 * share:.2g}"


def _rain(ds: xr.Dataset) -> Iterator[str]:
    name = next((each for each in ("precipitation", "rainfall") if each in ds), None)
    if name is None or span_days(ds) < YEAR or not _finite(ds, name).size or (name == "rainfall" and "snowfall" in ds):
        return
    total = 365.25 * float(_finite(ds, name).mean())
    if total == 0:
        yield f"{name}: it is 0 throughout {span_days(ds):.0f} days. It looks like a placeholder."
    elif not 20.0 <= total <= 9000.0:
        otherwise = _otherwise(ds, name, total, 60.0, 5000.0, RAIN, lambda value: f"{value:.3g} mm a year")
        climate = "as little as in the driest deserts" if total < 20 else "more than falls at the wettest sites"
        yield f"{name}: it adds up to {total:.3g} mm a year, {climate}. {otherwise}"


def _carbon_dioxide(ds: xr.Dataset) -> Iterator[str]:
    for name in ("co2", "co2_mole_fraction"):
        if name not in ds or _finite(ds, name).size < 3:
            continue
        years = ds.indexes["time"].year[np.isfinite(ds[name].values)]
        middle, air = float(np.median(_finite(ds, name))), float(np.median(np.interp(years, AIR_YEARS, AIR_CO2)))
        if not 0.85 * air <= middle <= 1.3 * air:
            fits = f" If the figures are mg m-3, it would be {0.55 * middle:.0f} ppm." if 0.9 * air < 0.55 * middle < 1.15 * air else ""
            yield (f"{name}: its median is {middle:.4g} ppm, while the air of {int(np.median(years))} had about {air:.0f} ppm. It looks "
                   f"like another unit, or the years of another record.{fits}")


def _saturation(ds: xr.Dataset) -> np.ndarray | None:
    """Saturation vapour pressure [hPa] on steps above freezing by some degrees, NaN on others; None without temperature."""
    if "temperature" in ds:
        temperature = ds["temperature"].values
    elif {"temperature_min", "temperature_max"} <= set(ds):
        temperature = 0.5 * (ds["temperature_min"].values + ds["temperature_max"].values)
    else:
        return None
    return np.where(temperature > 5.0, saturation_pressure(temperature), np.nan)


def _humidity(ds: xr.Dataset) -> Iterator[str]:
    saturated = _saturation(ds)
    for name, low, high in (("vpd", 0.12, 1.02), ("vapour_pressure", 0.1, 1.3)):
        if name not in ds or _finite(ds, name).size < FEW:
            continue
        share = np.full(1, np.nan) if saturated is None else ds[name].values / saturated
        share = share[np.isfinite(share)]
        if share.size >= FEW:
            high_share = float(np.quantile(share, 0.95))
            if low <= high_share <= high:
                continue
            value = float(np.median(_finite(ds, name)))
            scale = value / high_share if high_share > 0 else np.nan
            otherwise = _otherwise(ds, name, value, low * scale, high * scale, MOISTURE, lambda one: f"{one:.3g} hPa")
            yield (f"{name}: its median is {value:.3g} hPa. On 95 % of the steps above 5 degC it is below {100 * high_share:.3g} % of the "
                   f"vapour pressure of saturated air, where {100 * low:.0f} to {100 * high:.0f} % is usual. {otherwise}")
        elif name == "vpd" and (span_days(ds) >= 200 or abs(float(ds["latitude"])) < 40):
            value = float(np.quantile(_finite(ds, name), 0.95))
            yield from _unusual(ds, name, "95th percentile", value, 3.0, 100.0, MOISTURE)


def _pressure(ds: xr.Dataset) -> Iterator[str]:
    if "pressure" not in ds or not _finite(ds, "pressure").size:
        return
    middle = float(np.median(_finite(ds, "pressure")))
    if 735 <= middle <= 775:
        yield (f"pressure: its median is {middle:.4g} hPa, that of a site at about {8000 * np.log(1013 / middle):.0f} m. If the site lies "
               f"near sea level, the figures look like mm of mercury: {middle * 1.33322:.0f} hPa.")


def _snow(ds: xr.Dataset) -> Iterator[str]:
    if not {"snow_depth", "snow_water_equivalent"} <= set(ds):
        return
    depth, water = ds["snow_depth"].values, ds["snow_water_equivalent"].values
    both = (depth > 0) & (water > 0)
    if both.sum() < FEW:
        return
    density = float(np.median(water[both] / depth[both]))
    if not 25 <= density <= 920:
        yield (f"snow_depth, snow_water_equivalent: together they make a median density of {density:.3g} kg m-3, where 50 to 600 is usual "
               "and ice has 917. One of them is in another unit (depth in cm or mm, or water in m).")
