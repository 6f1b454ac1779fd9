"""Forcing of the snow model from a Dataset in the normal form."""

import jax.numpy as jnp
import numpy as np

from landcal_jax.errors import complain
from landcal_jax.models.snow.constants import DAY
from landcal_jax.models.snow.surface import Air, saturation

DRIVERS = {"shortwave": "MJ m-2 d-1", "longwave": "W m-2", "snowfall": "mm d-1", "rainfall": "mm d-1", "temperature": "degC",
           "wind_speed": "m s-1", "pressure": "hPa"}
HUMIDITY = {"specific_humidity": "kg kg-1", "relative_humidity": "1"}
MEGAJOULE_A_DAY = 1e6 / DAY  # W m-2


def forcing_from_dataset(dataset, step_seconds: float) -> Air:
    """Drivers (time,) in SI units. Relative humidity is over water, whatever the temperature.

    Raises ValueError for a driver that lacks, has another unit or a gap, and for steps of another length.
    """
    site = str(dataset["site"].item()) if "site" in dataset.coords else "the site"
    moist = next((name for name in HUMIDITY if name in dataset), None)
    if moist is None:
        raise ValueError(complain(f"forcing of {site} with {' or '.join(HUMIDITY)}", "neither", "add one of them"))
    columns = {name: _column(dataset, name, units, site) for name, units in (DRIVERS | {moist: HUMIDITY[moist]}).items()}
    spacing = np.diff(dataset["time"].values) / np.timedelta64(1, "s")
    if spacing.size and np.max(np.abs(spacing - step_seconds)) > 0.5:
        raise ValueError(complain(f"steps of {step_seconds:g} s at {site}", f"steps of {spacing.min():g} to {spacing.max():g} s",
                                  "give the model the step of the forcing (step_seconds=), or fill the gap in time"))
    temperature, pressure = columns["temperature"] + 273.15, 100 * columns["pressure"]
    humidity = columns[moist]
    if moist == "relative_humidity":
        humidity = humidity * saturation(temperature, pressure, False)
    rates = (columns[name] / DAY for name in ("snowfall", "rainfall"))
    return Air(*(jnp.asarray(each, float) for each in (
        columns["shortwave"] * MEGAJOULE_A_DAY, columns["longwave"], *rates, temperature, humidity, columns["wind_speed"], pressure)))


def _column(dataset, name: str, units: str, site: str) -> np.ndarray:
    if name not in dataset:
        raise ValueError(complain(f"forcing of {site} with {', '.join(DRIVERS)}", f"no {name}",
                                  "read the file with landcal_jax.io, or add the variable"))
    if dataset[name].attrs.get("units", "") != units:
        raise ValueError(complain(f"{name} of {site} in {units}", f"units {dataset[name].attrs.get('units', '')!r}",
                                  "convert it with landcal_jax.io.units.convert"))
    values = np.asarray(dataset[name].values, float)
    if (missing := ~np.isfinite(values)).any():
        raise ValueError(complain(f"{name} of {site} at every step: a model cannot step over a gap",
                                  f"{missing.sum()} missing values, the first at {dataset['time'].values[missing][0]!s:.16}",
                                  "fill the driver by a rule of your own before, and say so in its history"))
    return values
