"""From what a file brings to what a model needs: complete drivers, observed fluxes, and both on the same days.

A model cannot run over a gap, so a missing driver is an error; an impossible value is an error that names the day; a
negative of rounding size is set to zero and counted. Values that are possible but look odd, such as spikes of CO2 in
canopy air, are counted and kept: they are what was measured. Fluxes are never filled: NaN where nothing was observed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.aggregation import daily, file_of, is_subdaily
from landcal_jax.io.clocks import same_clock
from landcal_jax.io.normal import ROUNDING, said, step_of
from landcal_jax.io.quantities import FLUXES, quantity
from landcal_jax.io.units import PHOTONS_PER_JOULE, VAPORISATION, convert

DRIVERS = ("temperature_min", "temperature_max", "shortwave", "co2", "vpd", "precipitation", "burned_fraction")
ODD = {"co2": (330.0, 450.0), "precipitation": (0.0, 300.0)}
MOST_FILLED = 0.25  # the rule of CalLMIP: a day with more of it gap-filled is no observation
STEPS = {"P1D": ("D", "day", "%Y-%m-%d"), "P1M": ("M", "month", "%Y-%m")}
DRY_TO_MOIST = 0.622  # ratio of the molar masses of water and dry air
SATURATION = "saturation vapour pressure of Allen et al. (1998), FAO-56, equation 11"
APART = {"P1D": 0.1, "P1M": 0.3}  # degrees; monthly drivers are cells of a grid of half a degree


def read_forcing(path: str | Path, **options: Any) -> xr.Dataset:
    """Read the complete drivers of one site from a file of any known format: `drivers(read(path, ...))`.

    Raises FileNotFoundError, or ValueError for a fault of the file, a driver that is absent, a gap or an impossible value.
    """
    from landcal_jax.io.formats import read

    return drivers(read(path, **options))


def read_flux(path: str | Path, *, most_filled: float = MOST_FILLED, correlation_hours: float | None = None, **options: Any) -> xr.Dataset:
    """Read the observed fluxes of one site from a file of any known format: `fluxes(read(path, ...))`.

    Raises FileNotFoundError, or ValueError for a fault of the file or when it holds no flux.
    """
    from landcal_jax.io.formats import read

    return fluxes(read(path, **options), most_filled=most_filled, correlation_hours=correlation_hours)


def drivers(ds: xr.Dataset, needs: Sequence[str] = DRIVERS) -> xr.Dataset:
    """Return the drivers `needs` of a Dataset of the normal form, daily or monthly, a value on every step.

    Steps shorter than a day become days (see `daily`). What the file has in another form is derived: precipitation as the
    sum of rain and snow; vpd from temperature and humidity; shortwave from ppfd with 2.04 umol J-1; temperature_min and
    temperature_max as the daily mean where there is no other; burned_fraction is 0 where it is absent; 29 February, where it
    alone is absent from a daily file, is the mean of its neighbours. The history says so. All other variables are left out.
    Raises ValueError for a driver that is absent, a gap, an impossible value, or an unknown latitude.
    """
    _series(ds, "drivers")
    if not np.isfinite(float(ds["latitude"])):
        raise ValueError(complain(f"the latitude of {file_of(ds)}, from which a model takes the length of the day", "none in the file",
                                  "give it: read(..., latitude=61.85), or --latitude 61.85 on the command line"))
    ds = candidates(ds, needs)
    absent = [name for name in needs if name not in ds]
    if absent:
        raise ValueError(complain(f"drivers {', '.join(needs)} in {file_of(ds)}", f"no {', '.join(absent)}",
                                  _advice(absent[0])))
    return _checked(_with_leap_days(ds[list(needs)]))


def candidates(ds: xr.Dataset, needs: Sequence[str] = DRIVERS) -> xr.Dataset:
    """Those of the drivers `needs` that a Dataset has or that can be derived, daily or monthly, with whatever gaps they have."""
    ds = _with_derived(ds, needs)
    wanted = {*needs, *({"temperature"} if {"temperature_min", "temperature_max"} & set(needs) else ())}
    # drop_vars rather than a selection: a Dataset without any variable left still has its time.
    ds = ds.drop_vars([name for name in ds.data_vars if str(name).removesuffix("_filled") not in wanted])
    filled = [f"{name}: {100 * float(ds[f'{name}_filled'].mean()):.3g} % of it was gap-filled in the file."
              for name in map(str, ds.data_vars) if f"{name}_filled" in ds]
    if is_subdaily(ds):
        ds = daily(ds)
    ds = said(ds, *filled)
    ds = _with_extremes(ds, needs)
    if "burned_fraction" in needs and "burned_fraction" not in ds:
        ds = said(ds.assign(burned_fraction=_variable("burned_fraction", np.zeros(ds.sizes["time"]))),
                  "burned_fraction is not in the file and was set to 0.")
    return ds.drop_vars([name for name in ds.data_vars if name not in needs])


def fluxes(ds: xr.Dataset, *, most_filled: float = MOST_FILLED, correlation_hours: float | None = None) -> xr.Dataset:
    """Return the observed fluxes of a Dataset of the normal form, daily or monthly, each with `_uncertainty` where it has one.

    Steps shorter than a day become days (see `daily`, also for `correlation_hours` of their errors). A day of which more than
    `most_filled` was gap-filled is NaN, wherever the file marks filled values; months are kept and their share is said. A value
    without a positive uncertainty is masked where its series has uncertainties, except in series that are gap-filled without
    marks: those serve checks rather than as observations. `latent_heat` is derived from `evapotranspiration` where only that
    exists, with the heat of vaporisation of its attribute `vaporisation_heat` [J kg-1], or else 2.45 MJ kg-1.
    Raises ValueError when there is no flux.
    """
    _series(ds, "fluxes")
    present = [name for name in FLUXES if name in ds]
    if not present:
        raise ValueError(complain(f"fluxes in {file_of(ds)}: any of {', '.join(FLUXES)}",
                                  f"variables {', '.join(map(str, ds.data_vars)) or 'none'}",
                                  "name the file that holds the fluxes, or rename its variables"))
    companions = [f"{name}{end}" for name in present for end in ("_uncertainty", "_filled")]
    light = [name for name in ("shortwave", "ppfd") if is_subdaily(ds)]  # tells day from night
    ds = ds[[name for name in (*present, *companions, *light) if name in ds]]
    if is_subdaily(ds):
        about = ds.attrs
        ds = daily(ds, most_filled=most_filled, correlation_hours=correlation_hours)
        lines = [line for line in ds.attrs["history"].split("\n") if not line.startswith(("shortwave: ", "ppfd: "))
                 or line in about["history"].split("\n")]
        ds = ds.drop_vars(light, errors="ignore").assign_attrs(history="\n".join(lines))
    columns, lines = {}, []
    for name in present:
        values = _values(ds, name)
        values = _not_filled(ds, name, values, most_filled, lines)
        columns |= _with_uncertainty(ds, name, values, lines)
    if "evapotranspiration" in columns and "latent_heat" not in columns:
        heat = float(columns["evapotranspiration"].attrs.get("vaporisation_heat", VAPORISATION))
        for end in ("", "_uncertainty"):
            if f"evapotranspiration{end}" in columns:
                given = columns[f"evapotranspiration{end}"]
                power = convert(given.values, "mm d-1", "W m-2", "evapotranspiration") * (heat / VAPORISATION)
                columns[f"latent_heat{end}"] = _variable(f"latent_heat{end}", power, given.attrs)
        why = "" if heat == VAPORISATION else ", with which the file's evapotranspiration was made"
        lines.append(f"latent_heat is evapotranspiration times {heat / 1e6:.5g} MJ kg-1{why}: the file has only the latter.")
    # The companions `_filled` have done their work above; they are no observations.
    return said(xr.Dataset(columns, coords=ds.coords, attrs=ds.attrs), *lines)


def align(forcing: xr.Dataset, flux: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both on the days (or months) of `forcing`: fluxes outside are dropped and counted in the history of `flux`.

    Raises ValueError when site, place or step differ, or when nothing was observed in the period of the forcing.
    """
    ours, theirs = str(forcing["site"].values), str(flux["site"].values)
    if ours != theirs:
        raise ValueError(complain(f"fluxes of {ours}, the site of the forcing", f"fluxes of {theirs}",
                                  "pair the files of one site, or name the site with site="))
    steps = step_of(forcing), step_of(flux)
    if steps[0] != steps[1]:
        raise ValueError(complain(f"forcing and fluxes of {ours} with the same step", f"{steps[0]} and {steps[1]}",
                                  "use files of one step; landcal_jax.io.aggregation makes days of half-hours"))
    # Raises where the days of the two files begin at different times.
    forcing, flux, lines_of_clock = same_clock(forcing, flux, steps[0])
    apart = _degrees_apart(forcing, flux)
    if apart > APART.get(steps[0], 0.1):
        raise ValueError(complain(f"forcing and fluxes of {ours} at the same place",
                                  f"positions {apart:.2f} degrees apart", "check latitude and longitude of both files"))
    _, unit, form = STEPS.get(steps[0], STEPS["P1D"])
    streams = [name for name in flux.data_vars if not str(name).endswith("_uncertainty")]
    aligned, lines = flux.reindex(time=forcing["time"]), list(lines_of_clock)
    for name in streams:
        before, inside = int(flux[name].notnull().sum()), int(aligned[name].notnull().sum())
        lines.append(f"{name}: {inside} observed {unit}s inside the forcing, {before - inside} outside were dropped.")
    first, last = (forcing.indexes["time"][end].strftime(form) for end in (0, -1))
    if not any(aligned[name].notnull().any() for name in streams):
        raise ValueError(complain(f"observed {unit}s of {ours} in the period of the forcing, {first} to {last}", "none",
                                  "use forcing and fluxes that overlap in time"))
    if apart > 0.1:
        lines.insert(0, f"forcing and fluxes lie {apart:.2f} degrees apart: the forcing is a cell of a grid.")
    return forcing, said(aligned, f"The fluxes were put on the {unit}s of the forcing, {first} to {last}.", *lines)


def _degrees_apart(one: xr.Dataset, other: xr.Dataset) -> float:
    """Largest difference of latitude or longitude; what one of them does not know is no difference."""
    north = abs(float(one["latitude"]) - float(other["latitude"]))
    east = abs((float(one["longitude"]) - float(other["longitude"]) + 180.0) % 360.0 - 180.0)
    return max((value for value in (north, east) if np.isfinite(value)), default=0.0)


# ---------------------------------------------------------------------- derived drivers


def _with_derived(ds: xr.Dataset, needs: Sequence[str]) -> xr.Dataset:
    """`ds` with precipitation, vpd and shortwave where they can be had from others; before daily means, since vpd is not linear."""
    if "precipitation" in needs and "precipitation" not in ds and {"rainfall", "snowfall"} <= set(ds):
        total = _values(ds, "rainfall") + _values(ds, "snowfall")
        ds = said(ds.assign(precipitation=_variable("precipitation", total)), "precipitation is the sum of rainfall and snowfall.")
    if "vpd" in needs and "vpd" not in ds:
        ds = _with_vpd(ds)
    if "shortwave" in needs and "shortwave" not in ds and "ppfd" in ds:
        power = convert(_values(ds, "ppfd") * 1e-6 / PHOTONS_PER_JOULE, "W m-2", quantity("shortwave").units)
        ds = ds.assign(shortwave=_variable("shortwave", power))
        if "ppfd_filled" in ds:
            ds = ds.assign(shortwave_filled=ds["ppfd_filled"])
        ds = said(ds, f"shortwave was derived from ppfd by {PHOTONS_PER_JOULE * 1e6:g} umol J-1 (Meek et al. 1984): the file has no other.")
    return ds


def _with_leap_days(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with 29 February as the mean of its neighbours, where it is the only day absent; any other gap stays as it is."""
    if step_of(ds) != "P1D":
        return ds
    days = ds.indexes["time"]
    gaps = pd.date_range(days[0], days[-1]).as_unit("ns").difference(days)
    if not len(gaps) or not ((gaps.month == 2) & (gaps.day == 29)).all():
        return ds
    whole = ds.reindex(time=days.union(gaps))
    for name in ds.data_vars:
        values = whole[name].values.copy()
        places = np.flatnonzero(whole.indexes["time"].isin(gaps))
        values[places] = 0.5 * (values[places - 1] + values[places + 1])
        whole[name] = ("time", values, ds[name].attrs)
    whole["time"].attrs = ds["time"].attrs
    return said(whole, f"29 February is missing in the file: {len(gaps)} days inserted, each the mean of its neighbours.")


def _with_vpd(ds: xr.Dataset) -> xr.Dataset:
    saturated, from_what = _saturation(ds)
    if saturated is None:
        return ds
    if "vapour_pressure" in ds:
        actual, humidity = _values(ds, "vapour_pressure"), "vapour pressure"
    elif {"specific_humidity", "pressure"} <= set(ds):
        moist = _values(ds, "specific_humidity")
        actual = moist * _values(ds, "pressure") / (DRY_TO_MOIST + (1.0 - DRY_TO_MOIST) * moist)
        humidity = "specific humidity and pressure (e = q p / (0.622 + 0.378 q))"
    elif "relative_humidity" in ds:
        actual, humidity = _values(ds, "relative_humidity") * saturated, "relative humidity"
    else:
        return ds
    values = saturated - actual
    below = values < 0
    clipped = f" {below.sum()} values below zero, down to {values[below].min():.2g} hPa, were set to zero." if below.any() else ""
    return said(ds.assign(vpd=_variable("vpd", np.where(below, 0.0, values))),
                f"vpd was derived from {from_what} and {humidity}, with the {SATURATION}.{clipped}")


def _saturation(ds: xr.Dataset) -> tuple[np.ndarray | None, str]:
    """Saturation vapour pressure [hPa] and what it is from; of days, the mean of that at the two extremes (FAO-56, eq. 12)."""
    if not is_subdaily(ds) and {"temperature_min", "temperature_max"} <= set(ds):
        low, high = (saturation_pressure(_values(ds, f"temperature_{end}")) for end in ("min", "max"))
        return 0.5 * (low + high), "the daily extremes of temperature"
    if "temperature" in ds:
        return saturation_pressure(_values(ds, "temperature")), "temperature"
    return None, ""


def saturation_pressure(temperature: np.ndarray) -> np.ndarray:
    """Saturation vapour pressure over water [hPa] at `temperature` [degC]: Allen et al. (1998), FAO-56, equation 11.

    >>> float(saturation_pressure(np.array(20.0)).round(3))
    23.383
    """
    return 6.108 * np.exp(17.27 * temperature / (temperature + 237.3))


def _with_extremes(ds: xr.Dataset, needs: Sequence[str]) -> xr.Dataset:
    extremes = {"temperature_min", "temperature_max"}
    if not extremes & set(needs) or extremes & set(ds) or "temperature" not in ds:
        return ds
    mean = _values(ds, "temperature")
    ds = ds.assign({name: _variable(name, mean) for name in sorted(extremes)})
    return said(ds, "temperature_min and temperature_max both are the mean temperature: the file has no others.")


def _advice(name: str) -> str:
    return {
        "vpd": "add vpd, or temperature with vapour_pressure, relative_humidity, or specific_humidity and pressure",
        "precipitation": "add precipitation, or rainfall and snowfall; if what the file calls rainfall is all of it, rename it",
        "co2": "add a column co2 [ppm]; the annual global mean of NOAA does where the tower has none",
        "shortwave": "add shortwave or ppfd, from a reanalysis if the tower has none",
    }.get(name, "name the file that holds the drivers; `landcal inspect FILE` shows what a file has")


# ---------------------------------------------------------------------- checks


def _series(ds: xr.Dataset, what: str) -> None:
    """Raise ValueError unless `ds` is a series at one site with a step that a model can take."""
    if ds.attrs.get("kind") or "time" not in ds.dims or not {"site", "latitude", "longitude"} <= set(ds.coords):
        raise ValueError(complain(f"{what} of one site, a series along time", f"{file_of(ds)}, a {ds.attrs.get('kind', 'Dataset')} "
                                  f"with dimensions {dict(ds.sizes)}", "name a file of one site"))
    if not ds.sizes["time"]:
        raise ValueError(complain(f"{what} in {file_of(ds)}", "no time step at all", "download the file again"))
    step = step_of(ds)
    if step not in STEPS and not is_subdaily(ds):
        raise ValueError(complain(f"{what} of {file_of(ds)} in steps of minutes, hours, a day or a month", f"steps {step}",
                                  "aggregate the file to months, or take a daily one"))


def _variable(name: str, values: np.ndarray, attrs: dict | None = None) -> xr.Variable:
    about = quantity(name)
    return xr.Variable("time", values, dict(attrs or {}) | {"units": about.units, "long_name": about.long_name})


def _values(ds: xr.Dataset, name: str) -> np.ndarray:
    """Values of a variable in the unit of the normal form."""
    given = str(ds[name].attrs.get("units", quantity(name).units))
    try:
        return convert(ds[name].values, given, quantity(name).units, name)
    except ValueError as error:
        raise ValueError(complain(f"{name} of {file_of(ds)} in a unit that can become {quantity(name).units!r}", repr(given),
                                  "correct its attribute units")) from error


def _checked(ds: xr.Dataset) -> xr.Dataset:
    """Drivers without gaps or impossible values; corrections and oddities go to the history with counts."""
    frequency, unit, form = STEPS[step_of(ds)]
    steps, columns, lines = ds.indexes["time"], {}, []
    whole = pd.period_range(steps[0], steps[-1], freq=frequency).to_timestamp()
    absent = whole.difference(steps)
    if len(absent):
        raise ValueError(complain(f"drivers on every {unit} in {file_of(ds)}", f"{len(absent)} {unit}s absent, the first "
                                  f"{absent[0]:{form}}", "fill the gap from a reanalysis, or cut the record before it"))
    for name in map(str, ds.data_vars):
        columns[name] = _checked_column(ds, name, _values(ds, name), lines)
    if {"temperature_min", "temperature_max"} <= set(columns):
        columns["temperature_max"] = _ordered(ds, columns, lines)
    # What a model gets is complete, so nothing is left that `_filled` or the like could mark.
    return said(ds.assign({name: _variable(name, values, ds[name].attrs) for name, values in columns.items()}), *lines)


def _checked_column(ds: xr.Dataset, name: str, values: np.ndarray, lines: list[str]) -> np.ndarray:
    _, unit, form = STEPS[step_of(ds)]
    steps, about, gap = ds.indexes["time"], quantity(name), ~np.isfinite(values)
    if gap.any():
        raise ValueError(complain(f"{name} on every {unit} in {file_of(ds)}",
                                  f"{gap.sum()} missing values, the first on {steps[np.argmax(gap)]:{form}}",
                                  "fill the gap from a reanalysis, or cut the record before it"))
    slight = (values < 0) & (values >= -ROUNDING) & (about.low == 0)
    if slight.any():
        values = np.where(slight, 0.0, values)
        lines.append(f"{name}: {slight.sum()} negative values of rounding size were set to zero.")
    outside = (values < about.low) | (values > about.high)
    if outside.any():
        first = int(np.argmax(outside))
        raise ValueError(complain(
            f"{name} between {about.low:g} and {about.high:g} {about.units} in {file_of(ds)}",
            f"{values[first]:g} on {steps[first]:{form}}, and {outside.sum() - 1} more such {unit}s",
            "check the unit and the fill value of this variable"))
    low, high = ODD.get(name, (-np.inf, np.inf))
    odd = (values < low) | (values > high)
    if odd.any():
        extreme = values[np.argmax(np.abs(values - np.median(values)))]
        lines.append(f"{name}: {odd.sum()} {unit}s outside {low:g} to {high:g} {about.units} look suspicious "
                     f"(the most extreme {extreme:.4g}) and were kept.")
    return values


def _ordered(ds: xr.Dataset, columns: dict[str, np.ndarray], lines: list[str]) -> np.ndarray:
    """The maximum of temperature, raised to the minimum where it lies below by rounding only."""
    _, unit, form = STEPS[step_of(ds)]
    low, high = columns["temperature_min"], columns["temperature_max"]
    crossed = high < low - ROUNDING
    if crossed.any():
        first = int(np.argmax(crossed))
        raise ValueError(complain(
            f"temperature_max of at least temperature_min in {file_of(ds)}",
            f"{high[first]:g} below {low[first]:g} degC on {ds.indexes['time'][first]:{form}}, {crossed.sum()} such {unit}s",
            "check that the two columns are not exchanged"))
    if (high < low).any():
        lines.append(f"temperature_max: {(high < low).sum()} {unit}s below temperature_min by rounding, raised to it.")
    return np.maximum(low, high)


def _not_filled(ds: xr.Dataset, name: str, values: np.ndarray, most_filled: float, lines: list[str]) -> np.ndarray:
    """`values` with days NaN of which too much was gap-filled, where the file marks it."""
    if f"{name}_filled" not in ds:
        return values
    share = _values(ds, f"{name}_filled")
    if step_of(ds) == "P1M":
        middle = np.median(share[np.isfinite(values) & np.isfinite(share)]) if np.isfinite(values + share).any() else np.nan
        lines.append(f"{name}: months are kept whatever of them was gap-filled (median {100 * middle:.0f} %).")
        return values
    # A value whose mark is missing is not known to be measured.
    unmarked = np.isfinite(values) & ~np.isfinite(share)
    if unmarked.any():
        lines.append(f"{name}: {unmarked.sum()} days have a value but no mark of how much was gap-filled; they count as filled.")
    void = np.isfinite(values) & (np.where(unmarked, 1.0, share) > most_filled)
    if void.any():
        lines.append(f"{name}: {void.sum()} days of which more than {100 * most_filled:g} % was gap-filled are masked.")
    return np.where(void, np.nan, values)


def _with_uncertainty(ds: xr.Dataset, name: str, values: np.ndarray, lines: list[str]) -> dict[str, xr.Variable]:
    """A flux and its uncertainty, after the rule for values that have none."""
    _, unit, _ = STEPS[step_of(ds)]
    error = _values(ds, f"{name}_uncertainty") if f"{name}_uncertainty" in ds else np.full_like(values, np.nan)
    error = np.where((error > 0) & np.isfinite(values), error, np.nan)
    lone = np.isfinite(values) & np.isnan(error)
    if np.isnan(error).all():
        if lone.any():
            lines.append(f"{name}: {lone.sum()} {unit}s, none with an uncertainty.")
        return {name: _variable(name, values, ds[name].attrs)}
    if lone.any() and "gap_filled" in ds[name].attrs:
        lines.append(f"{name}: {lone.sum()} of {np.isfinite(values).sum()} {unit}s have no positive uncertainty and were kept.")
    elif lone.any():
        values = np.where(lone, np.nan, values)
        lines.append(f"{name}: {lone.sum()} {unit}s masked for want of a positive uncertainty.")
    return {name: _variable(name, values, ds[name].attrs),
            f"{name}_uncertainty": _variable(f"{name}_uncertainty", error, ds[f"{name}_uncertainty"].attrs)}
