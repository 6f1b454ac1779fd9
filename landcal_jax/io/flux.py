"""Readers of observed carbon and energy fluxes: daily files of CalLMIP Phase 1, and files of the normal form.

The result is in the normal form of `landcal_jax.io`: `nee` in gC m-2 d-1, positive to the atmosphere, `latent_heat` and
`sensible_heat` in W m-2, each with `_uncertainty`, NaN where nothing was observed. Nothing is gap-filled here, and a
day counts only with both its value and its uncertainty.

The daily uncertainties of CalLMIP are root sums of squares of half-hours, that is random error only. They are given
as they are: model error and error correlation belong to the observation errors of a calibration, not to its data.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.checks import (
    Variable,
    day_stamps,
    earlier_history,
    normal_form,
    open_netcdf,
    position,
    possible,
    provenance,
    read_days,
    site_code,
)

FLUXNET2015 = ("Pastorello, G. et al. (2020): The FLUXNET2015 dataset and the ONEFlux processing pipeline for eddy "
               "covariance data. Scientific Data 7, 225. https://doi.org/10.1038/s41597-020-0534-3")
PLUMBER2 = ("Ukkola, A. M., Abramowitz, G. and De Kauwe, M. G. (2022): A flux tower dataset tailored for land model "
            "evaluation. Earth System Science Data 14, 449-461. https://doi.org/10.5194/essd-14-449-2022")
CALLMIP = "CalLMIP Phase 1 observations (MacBean, N. and Deepak, R. S. N.). https://github.com/callmip-org/Phase1"
LICENCE = "CC-BY-4.0 (FLUXNET2015 Tier 1 and PLUMBER2); repository MIT"


def _pair(name: str, units: str, long_name: str, limit: float) -> dict[str, Variable]:
    error = Variable(units, f"standard deviation of the random error of {name}", 0.0, np.inf)
    return {name: Variable(units, long_name, -limit, limit), f"{name}_uncertainty": error}


FLUX = (_pair("nee", "gC m-2 d-1", "net ecosystem exchange of carbon, positive to the atmosphere", 100.0)
        | _pair("latent_heat", "W m-2", "latent heat flux, positive to the atmosphere", 1000.0)
        | _pair("sensible_heat", "W m-2", "sensible heat flux, positive to the atmosphere", 1000.0)
        | _pair("gpp", "gC m-2 d-1", "gross primary production", 100.0)
        | _pair("et", "mm d-1", "evapotranspiration", 50.0)
        | _pair("lai", "m2 m-2", "leaf area index", 20.0))

CALLMIP_NAMES = {"nee": "NEE", "latent_heat": "Qle", "sensible_heat": "Qh"}


def read_normal_flux(path: str | Path) -> xr.Dataset:
    """Read a NetCDF file of fluxes whose names and units are those of the normal form, or can be converted to them."""
    raw = open_netcdf(path, "a NetCDF file of daily fluxes")
    path = Path(path)
    present = [name for name in FLUX if name in raw and not name.endswith("_uncertainty")]
    if not present:
        raise ValueError(complain(
            f"daily fluxes in {path.name}: NEE_daily (CalLMIP), NBE (DifferLand) or any of nee, latent_heat, "
            "sensible_heat, gpp, et, lai", f"variables {', '.join(sorted(map(str, raw)))}",
            "rename the variables of the file"))
    days, history, columns = day_stamps(raw, path), earlier_history(raw), {}
    for name in present:
        columns |= _observed(raw, name, (name, f"{name}_uncertainty"), days, path, history)
    return normal_form(columns, FLUX, days, site=site_code(raw, path), path=path, history=history,
                       attrs=provenance(raw), place=position(raw.get("latitude", []), raw.get("longitude", []), path))


def read_callmip_flux(path: str | Path) -> xr.Dataset:
    """Read one CalLMIP Phase 1 file (`SITE_daily_aggregated_YEARS_FLUXNET2015_Flux.nc`), Phase 1a or 1b.

    Hourly records that were summed with the factor of half-hours (US-MMS) are corrected, and said so in `history`.
    """
    raw = open_netcdf(path, "a NetCDF file of CalLMIP Phase 1 with NEE_daily, Qle_daily, Qh_daily and their _uc_")
    path = Path(path)
    days, site, history, columns = day_stamps(raw, path), site_code(raw, path), [], {}
    for name, theirs in CALLMIP_NAMES.items():
        columns |= _observed(raw, name, (f"{theirs}_daily", f"{theirs}_uc_daily"), days, path, history)
    if _hours_summed_as_half_hours(raw):
        columns["nee"], columns["nee_uncertainty"] = 2.0 * columns["nee"], 2.0 * columns["nee_uncertainty"]
        history.append("nee and nee_uncertainty were multiplied by 2: the source record is hourly but was summed with "
                       "1800 s a step.")
    history.append(_check_sign(raw, columns, path))
    gaps = len(pd.date_range(days[0], days[-1])) - len(days)
    if gaps:
        history.append(f"{gaps} days between the first and the last are absent from the file.")
    name = raw.attrs.get("site_name", site)
    attrs = {"title": f"Observed daily fluxes at {site} ({name})", "source": f"CalLMIP Phase 1, {path.name}",
             "references": "\n".join((FLUXNET2015, PLUMBER2, CALLMIP)), "license": LICENCE}
    return normal_form(columns, FLUX, days, site=site, path=path, history=history, attrs=attrs,
                       place=position(raw.get("latitude", []), raw.get("longitude", []), path))


def _observed(raw: xr.Dataset, name: str, theirs: tuple[str, str], days: pd.DatetimeIndex, path: Path,
              history: list[str]) -> dict[str, np.ndarray]:
    """Read a flux with its uncertainty, keep the days that have both, and add the counts to `history`."""
    value, error = (read_days(raw, each, FLUX[name].units, path) for each in theirs)
    possible(value, name, FLUX[name], days, path)
    both = np.isfinite(value) & (error > 0)
    single = int((np.isfinite(value) & ~both).sum())
    lost = f", {single} more masked for want of a positive uncertainty" if single else ""
    history.append(f"{name}: {both.sum()} observed days of {len(days)}; the others are missing in the file (fill value "
                   f"or NaN) and masked{lost}.")
    return {name: np.where(both, value, np.nan), f"{name}_uncertainty": np.where(both, error, np.nan)}


def _hours_summed_as_half_hours(raw: xr.Dataset) -> bool:
    """Whether the source record is hourly while the daily sum took 1800 s a step; verified at US-MMS (slope 0.499)."""
    source = str(raw.attrs.get("Input_file", ""))
    hourly = re.search(r"(?<!half)hourly", source, re.IGNORECASE) or "_HR_" in source
    return bool(hourly) and "1800" in str(raw.attrs.get("scaling_factor_NEE", ""))


def _check_sign(raw: xr.Dataset, columns: Mapping[str, np.ndarray], path: Path) -> str:
    """Return the sentence about the sign of NEE; raise ValueError when uptake looks positive.

    A vegetated surface takes carbon up on the days on which it transpires, so NEE that is positive to the atmosphere
    falls with latent heat: r is between -0.24 and -0.82 at 15 sites of CalLMIP.
    """
    attribute = raw["NEE_daily"].attrs.get("standard_name", "")
    wrong = ""
    if "downward" in attribute:
        wrong = " The standard_name attribute in the file says downward; that is wrong and was not copied."
    both = np.isfinite(columns["nee"]) & np.isfinite(columns["latent_heat"])
    if both.sum() < 30 or np.std(columns["nee"][both]) == 0 or np.std(columns["latent_heat"][both]) == 0:
        return (f"nee was taken as positive to the atmosphere, FLUXNET's convention; its sign could not be checked "
                f"({both.sum()} days with latent heat).{wrong}")
    r = float(np.corrcoef(columns["nee"][both], columns["latent_heat"][both])[0, 1])
    if r > 0.3:
        raise ValueError(complain(f"NEE_daily of {path.name} positive to the atmosphere, falling with latent heat",
                                  f"a correlation of {r:+.2f} over {both.sum()} days, as if uptake were positive",
                                  "multiply NEE_daily by -1 if it is net ecosystem production"))
    return (f"nee is positive to the atmosphere: FLUXNET's convention, and its correlation with latent heat is {r:+.2f}"
            f" over {both.sum()} days.{wrong}")
