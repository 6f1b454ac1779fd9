"""A stochastic daily weather generator, so that examples, twins and tests need no data set.

It follows the Richardson (1981) family, as in WGEN (Richardson and Wright, 1984). A two-state, first-order Markov chain
with seasonal probabilities says whether a day is wet; the amount on a wet day is gamma distributed; the anomalies of
maximum and minimum temperature and of radiation are a trivariate first-order autoregression with the published
matrices of WGEN, added to seasonal means and standard deviations that depend on wet or dry. Two things differ from
WGEN, so that no value ever has to be clipped:

* The temperature anomalies enter as daily mean (maximum plus minimum) and as the logarithm of the daily range
  (maximum minus minimum): the maximum is above the minimum by construction.
* Radiation enters as the logit of the transmissivity, between 0 and the clear-sky limit of 0.78 of extraterrestrial
  radiation: a sunlit day is never dark, never brighter than a clear one, and the polar night is dark.

Vapour pressure deficit is that of FAO-56 (Allen et al., 1998) with the dew point at the minimum temperature on wet
days and a little below it on dry days: a mean over 24 hours, in hPa. CO2 is one smooth observed-like rise. What it
lacks: persistence beyond some days (no interannual modes, no blocking), snow, and weather that is shared by sites.

References: Richardson (1981), Water Resources Research 17, 182-190; Richardson and Wright (1984), WGEN: a model for
generating daily weather variables, USDA ARS-8; Allen et al. (1998), FAO Irrigation and Drainage Paper 56.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain

DAYS_PER_YEAR = 365.25
CLEAR_SKY_TRANSMISSIVITY = 0.78  # [1], share of extraterrestrial radiation on a clear day at about 1 km

# WGEN: anomalies x of (maximum temperature, minimum temperature, radiation) obey x_t = LAG x_(t-1) + SPREAD e_t.
WGEN_LAG = np.array([[0.567, 0.086, -0.002], [0.253, 0.504, -0.050], [-0.006, -0.039, 0.244]])
WGEN_SPREAD = np.array([[0.781, 0.0, 0.0], [0.328, 0.637, 0.0], [0.238, -0.341, 0.873]])
# The correlation of maximum and minimum temperature that follows from them; variances are 1 to three digits.
WGEN_CORRELATION = 0.634

LONG_NAMES = {
    "temperature_min": ("degC", "daily minimum air temperature"),
    "temperature_max": ("degC", "daily maximum air temperature"),
    "shortwave": ("MJ m-2 d-1", "downwelling shortwave radiation"),
    "co2": ("ppm", "atmospheric CO2 mole fraction"),
    "vpd": ("hPa", "vapour pressure deficit, mean over 24 hours"),
    "precipitation": ("mm d-1", "precipitation"),
    "burned_fraction": ("1", "burned fraction of the area"),
}


@dataclass(frozen=True)
class Climate:
    """The climate of one place: what `weather` is drawn from.

    Seasons are counted in days after the summer solstice of the hemisphere (21 June north, 21 December south), so
    that a climate moved across the equator keeps its summer. Vary one with `dataclasses.replace`.
    """

    name: str
    """Name of the climate; it becomes the name of the site."""
    latitude: float
    """Latitude [degrees_north], -90 to 90."""
    temperature: float
    """Annual mean of the daily mean temperature [degC]."""
    temperature_amplitude: float
    """Half the difference of the warmest and the coldest time of the mean year [K]."""
    temperature_lag: float
    """Days from the summer solstice to the warmest time [d]."""
    temperature_sd_summer: float
    """Standard deviation of the daily mean temperature about its season, at the summer solstice [K]."""
    temperature_sd_winter: float
    """The same at the winter solstice [K]."""
    diurnal_range_dry: float
    """Median of maximum minus minimum temperature on dry days [K]."""
    diurnal_range_wet: float
    """The same on wet days [K]."""
    precipitation: float
    """Annual precipitation [mm yr-1]."""
    wet_fraction: float
    """Share of wet days in the year [1]."""
    wet_persistence: float
    """Lag-one autocorrelation of wet and dry days: P(wet | wet before) - P(wet | dry before) [1], 0 to 0.9."""
    wet_seasonality: float
    """Relative amplitude of the seasonal cycle of the wet-day probability [1], 0 to 0.95."""
    wet_season: float
    """Days from the summer solstice to the wettest time [d]: 0 is summer rain, 182 winter rain."""
    transmissivity_dry: float
    """Median share of extraterrestrial radiation that reaches the ground on dry days [1], below 0.78."""
    transmissivity_wet: float
    """The same on wet days [1]."""
    dryness: float = 1.0
    """Minimum temperature minus dew point on dry days [K]; on wet days they are equal."""
    amount_shape: float = 0.75
    """Shape of the gamma distribution of precipitation on wet days [1]; below 1, small amounts are the most likely."""
    diurnal_range_spread: float = 0.3
    """Standard deviation of the logarithm of the diurnal range [1]."""
    transmissivity_spread: float = 0.9
    """Standard deviation of the logit of transmissivity / 0.78 [1]."""

    def __post_init__(self):
        ranges = {
            "latitude": (-90.0, 90.0), "temperature": (-60.0, 50.0), "temperature_amplitude": (0.0, 50.0),
            "temperature_sd_summer": (0.0, 20.0), "temperature_sd_winter": (0.0, 20.0),
            "diurnal_range_dry": (0.1, 40.0), "diurnal_range_wet": (0.1, 40.0), "precipitation": (0.0, 20000.0),
            "wet_fraction": (0.001, 0.95), "wet_persistence": (0.0, 0.9), "wet_seasonality": (0.0, 0.95),
            "transmissivity_dry": (0.01, 0.77), "transmissivity_wet": (0.01, 0.77), "dryness": (0.0, 30.0),
            "amount_shape": (0.05, 20.0), "diurnal_range_spread": (0.0, 2.0), "transmissivity_spread": (0.0, 5.0),
        }
        for field, (lower, upper) in ranges.items():
            value = getattr(self, field)
            if not lower <= value <= upper:
                raise ValueError(complain(
                    f"Climate.{field} between {lower:g} and {upper:g}", f"{value!r} in climate {self.name!r}",
                    f"see the units of `{field}` in the docstring of landcal_jax.weather.Climate"))
        wettest = self.wet_fraction * (1 + self.wet_seasonality)
        if wettest > 0.95:
            raise ValueError(complain(
                "a wet-day probability of at most 0.95 in the wettest season",
                f"wet_fraction * (1 + wet_seasonality) = {wettest:.3g} in climate {self.name!r}",
                "lower `wet_fraction` or `wet_seasonality`"))


TEMPERATE_FOREST = Climate(
    "temperate_forest", latitude=51.0, temperature=9.0, temperature_amplitude=8.5, temperature_lag=30,
    temperature_sd_summer=2.9, temperature_sd_winter=4.2, diurnal_range_dry=10.0, diurnal_range_wet=6.0,
    precipitation=800, wet_fraction=0.45, wet_persistence=0.35, wet_seasonality=0.1, wet_season=180,
    transmissivity_dry=0.57, transmissivity_wet=0.31)
BOREAL = Climate(
    "boreal", latitude=62.0, temperature=3.5, temperature_amplitude=12.5, temperature_lag=30,
    temperature_sd_summer=3.3, temperature_sd_winter=6.3, diurnal_range_dry=9.5, diurnal_range_wet=5.5,
    precipitation=620, wet_fraction=0.43, wet_persistence=0.3, wet_seasonality=0.15, wet_season=50,
    transmissivity_dry=0.58, transmissivity_wet=0.33)
MEDITERRANEAN = Climate(
    "mediterranean", latitude=43.7, temperature=13.5, temperature_amplitude=8.5, temperature_lag=33,
    temperature_sd_summer=2.6, temperature_sd_winter=3.5, diurnal_range_dry=11.5, diurnal_range_wet=7.0,
    precipitation=750, wet_fraction=0.23, wet_persistence=0.35, wet_seasonality=0.55, wet_season=160,
    transmissivity_dry=0.64, transmissivity_wet=0.34, dryness=2.0)
SAVANNA = Climate(
    "savanna", latitude=-15.0, temperature=22.5, temperature_amplitude=3.5, temperature_lag=-45,
    temperature_sd_summer=1.6, temperature_sd_winter=2.0, diurnal_range_dry=14.0, diurnal_range_wet=9.0,
    precipitation=900, wet_fraction=0.28, wet_persistence=0.4, wet_seasonality=0.92, wet_season=25,
    transmissivity_dry=0.66, transmissivity_wet=0.45, dryness=5.0, diurnal_range_spread=0.2)
CLIMATES = {climate.name: climate for climate in (TEMPERATE_FOREST, BOREAL, MEDITERRANEAN, SAVANNA)}


def weather(
    climate: Climate = TEMPERATE_FOREST, start: str = "2001-01-01", years: int = 6, seed: int = 0
) -> xr.Dataset:
    """Draw daily weather: a forcing Dataset of one site, leap days included.

    `start` is the first day, `years` the number of whole years that follow it. The same climate, start and seed give
    the same weather, and a longer record begins with the shorter one.

    Variables: temperature_min, temperature_max [degC], shortwave [MJ m-2 d-1], co2 [ppm], vpd [hPa], precipitation
    [mm d-1] and burned_fraction [1], which is 0. The attributes say that the data are synthetic.
    """
    if not (isinstance(years, int | np.integer) and years >= 1):
        raise ValueError(complain("a whole number of years, 1 or more", f"years={years!r}", "give for example years=6"))
    first = pd.Timestamp(start)
    if first != first.normalize():
        raise ValueError(complain("a date as `start`: days begin at midnight", f"start={start!r}", "give '2001-01-01'"))
    time = pd.date_range(first, first + pd.DateOffset(years=int(years)), inclusive="left", unit="ns")
    day = time.day_of_year.to_numpy()
    chain, amounts, anomalies = np.random.default_rng(seed).spawn(3)

    wet = _wet_days(climate, day, chain)
    amount = climate.precipitation / (DAYS_PER_YEAR * climate.wet_fraction * climate.amount_shape)
    precipitation = np.where(wet, amount * amounts.standard_gamma(climate.amount_shape, day.size), 0.0)

    mean_anomaly, range_anomaly, sky_anomaly = _anomalies(day.size, anomalies)
    mean = climate.temperature + _cycle(climate, day, climate.temperature_amplitude, climate.temperature_lag)
    spread = 0.5 * (climate.temperature_sd_summer + climate.temperature_sd_winter) + _cycle(
        climate, day, 0.5 * (climate.temperature_sd_summer - climate.temperature_sd_winter), 0.0)
    mean = mean + spread * mean_anomaly
    diurnal = np.where(wet, climate.diurnal_range_wet, climate.diurnal_range_dry) * np.exp(
        climate.diurnal_range_spread * range_anomaly)
    low, high = mean - 0.5 * diurnal, mean + 0.5 * diurnal

    relative = np.where(wet, climate.transmissivity_wet, climate.transmissivity_dry) / CLEAR_SKY_TRANSMISSIVITY
    logit = np.log(relative / (1 - relative)) + climate.transmissivity_spread * sky_anomaly
    shortwave = CLEAR_SKY_TRANSMISSIVITY / (1 + np.exp(-logit)) * extraterrestrial_radiation(climate.latitude, day)

    dew_point = np.where(wet, low, low - climate.dryness)
    vpd = 0.5 * (saturation_vapour_pressure(low) + saturation_vapour_pressure(high)) - saturation_vapour_pressure(
        dew_point)
    values = {
        "temperature_min": low, "temperature_max": high, "shortwave": shortwave, "co2": _co2(time), "vpd": vpd,
        "precipitation": precipitation, "burned_fraction": np.zeros(day.size),
    }
    return _dataset(climate, time, values, seed)


def extraterrestrial_radiation(latitude: float, day_of_year: np.ndarray) -> np.ndarray:
    """Radiation on a horizontal plane above the atmosphere [MJ m-2 d-1]: FAO-56, equation 21.

    `latitude` in degrees_north; `day_of_year` 1 to 366. Polar day and night are included.
    """
    angle = 2 * np.pi * np.asarray(day_of_year) / 365
    distance = 1 + 0.033 * np.cos(angle)
    declination = 0.409 * np.sin(angle - 1.39)
    phi = np.deg2rad(latitude)
    # Beyond +-1 the sun does not set or does not rise: the hour angle of sunset is then pi or 0.
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1.0, 1.0))
    height = sunset * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(sunset)
    # At the pole itself rounding leaves -1e-16 at night.
    return 24 * 60 / np.pi * 0.0820 * distance * np.maximum(height, 0.0)


def saturation_vapour_pressure(temperature: np.ndarray) -> np.ndarray:
    """Saturation vapour pressure over water [hPa] at a temperature [degC]: FAO-56, equation 11."""
    return 6.108 * np.exp(17.27 * temperature / (temperature + 237.3))


def _cycle(climate: Climate, day: np.ndarray, amplitude: float, peak: float) -> np.ndarray:
    """Annual cosine of the given amplitude that peaks `peak` days after the summer solstice."""
    solstice = 172 if climate.latitude >= 0 else 355
    return amplitude * np.cos(2 * np.pi * (day - solstice - peak) / DAYS_PER_YEAR)


def _wet_days(climate: Climate, day: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The Markov chain: True on wet days.

    With p the wanted probability of today, q that of yesterday and r the persistence, P(wet | wet) = p + r (1 - q) and
    P(wet | dry) = p - r q make the probability of a wet day exactly p on every day of the year.
    """
    probability = climate.wet_fraction * (1 + _cycle(climate, day, climate.wet_seasonality, climate.wet_season))
    persistence = climate.wet_persistence
    uniform = rng.random(day.size)
    wet = np.zeros(day.size, dtype=bool)
    wet[0] = uniform[0] < probability[0]
    for n in range(1, day.size):
        wet[n] = uniform[n] < probability[n] + persistence * (wet[n - 1] - probability[n - 1])
    return wet


def _anomalies(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Standardised anomalies of daily mean temperature, daily range and radiation from the WGEN autoregression."""
    noise = rng.standard_normal((size, 3)) @ WGEN_SPREAD.T
    x = np.empty((size, 3))
    # The first day is drawn from the stationary correlation of the temperatures; radiation forgets within two days.
    x[0] = np.linalg.solve(WGEN_SPREAD, noise[0])
    x[0, 1] = WGEN_CORRELATION * x[0, 0] + np.sqrt(1 - WGEN_CORRELATION**2) * x[0, 1]
    for n in range(1, size):
        x[n] = WGEN_LAG @ x[n - 1] + noise[n]
    high, low, sky = x.T
    return (
        (high + low) / np.sqrt(2 + 2 * WGEN_CORRELATION),
        (high - low) / np.sqrt(2 - 2 * WGEN_CORRELATION),
        sky,
    )


def _co2(time: pd.DatetimeIndex) -> np.ndarray:
    """Annual mean CO2 [ppm]: an exponential rise above 280, within 1.5 ppm of the global mean of 1980 to 2024."""
    year = time.year + (time.day_of_year - 0.5) / DAYS_PER_YEAR
    return 280 + 88.1 * np.exp(0.01988 * (year.to_numpy() - 2000))


def _dataset(climate: Climate, time: pd.DatetimeIndex, values: dict[str, np.ndarray], seed: int) -> xr.Dataset:
    """The normal form of forcing, with the provenance of synthetic data."""
    digest = hashlib.sha256()
    for value in values.values():
        digest.update(np.ascontiguousarray(value, dtype="<f8").tobytes())
    dataset = xr.Dataset(
        {name: ("time", value, dict(zip(("units", "long_name"), LONG_NAMES[name], strict=True)))
         for name, value in values.items()},
        coords={
            "time": ("time", time, {"long_name": "start of the day"}),
            "site": climate.name,
            "latitude": ((), climate.latitude, {"units": "degrees_north", "long_name": "latitude"}),
        },
    )
    dataset.attrs = {
        "title": f"Synthetic daily weather, climate {climate.name}",
        "source": "synthetic: stochastic weather generator landcal_jax.weather, no observation is in it",
        "references": "Richardson (1981), doi:10.1029/WR017i001p00182; Richardson and Wright (1984), USDA ARS-8; "
                      "Allen et al. (1998), FAO-56",
        "license": "CC0-1.0: synthetic data",
        "history": f"Drawn with seed {seed} for {time.size} days from {climate!r}. Nothing was corrected.",
        "sha256": digest.hexdigest(),
    }
    return dataset
