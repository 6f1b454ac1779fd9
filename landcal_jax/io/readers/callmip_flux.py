"""Reader of observed daily carbon and energy fluxes: files of CalLMIP Phase 1.

A day counts only with both its value and its uncertainty. The daily uncertainties of CalLMIP are root sums of squares
of half-hours, that is random error only. They are given as they are: model error and error correlation belong to the
observation errors of a calibration, not to its data.
"""

import re
from pathlib import Path

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import open_netcdf
from landcal_jax.io.normal import normalise, said
from landcal_jax.io.readers.netcdf import code_or_complaint, days, number, series
from landcal_jax.io.recognition import Format, Head

FLUXNET2015 = ("Pastorello, G. et al. (2020): The FLUXNET2015 dataset and the ONEFlux processing pipeline for eddy "
               "covariance data. Scientific Data 7, 225. https://doi.org/10.1038/s41597-020-0534-3")
PLUMBER2 = ("Ukkola, A. M., Abramowitz, G. and De Kauwe, M. G. (2022): A flux tower dataset tailored for land model "
            "evaluation. Earth System Science Data 14, 449-461. https://doi.org/10.5194/essd-14-449-2022")
CALLMIP = "CalLMIP Phase 1 observations (MacBean, N. and Deepak, R. S. N.). https://github.com/callmip-org/Phase1"
LICENCE = "CC-BY-4.0 (FLUXNET2015 Tier 1 and PLUMBER2); repository MIT"

NAMES = {"nee": "NEE", "latent_heat": "Qle", "sensible_heat": "Qh"}
KEPT = ("site_name", "country", "PFT_fraction", "Soil_Layer_Depth_(cm)", "Soil_Texture_(%_sand_silt_clay)", "QC_flag_descriptions",
        "processing_description", "scaling_factor_NEE", "Input_file")


def read_callmip(path: str | Path) -> xr.Dataset:
    """Read one CalLMIP Phase 1 file (`SITE_daily_aggregated_YEARS_FLUXNET2015_Flux.nc`), Phase 1a or 1b, in the normal form.

    `nee` [gC m-2 d-1, positive to the atmosphere], `latent_heat`, `sensible_heat` [W m-2], each with `_uncertainty`. Hourly
    records that were summed with the factor of half-hours (US-MMS) are corrected, and said so in `history`.
    Raises FileNotFoundError, or ValueError for a fault of the file or when its uptake is positive.
    """
    raw = open_netcdf(path, "a NetCDF file of CalLMIP Phase 1 with NEE_daily, Qle_daily, Qh_daily and their _uc_")
    path = Path(path)
    site = code_or_complaint(raw, path)
    columns = {}
    for name, theirs in NAMES.items():
        columns[name] = series(raw, f"{theirs}_daily", path)
        columns[f"{name}_uncertainty"] = series(raw, f"{theirs}_uc_daily", path)
    if twice := _hours_summed_as_half_hours(raw):
        for name in ("nee", "nee_uncertainty"):
            values = np.asarray(columns[name].values)
            columns[name] = columns[name]._replace(values=np.where(values == -9999.0, values, 2.0 * values))
    ds = normalise(
        columns, days(raw, path), path=path, site=site, latitude=number(raw, "latitude"), longitude=number(raw, "longitude"), step="P1D",
        time_zone="local standard time", source=f"CalLMIP Phase 1, {path.name}", references="\n".join((FLUXNET2015, PLUMBER2, CALLMIP)),
        license=LICENCE, title=f"Observed daily fluxes at {site} ({raw.attrs.get('site_name', site)})")
    for name in NAMES:
        ds = _with_both(ds, name)
    if twice:
        ds = said(ds, "nee and nee_uncertainty were multiplied by 2: the source record is hourly but was summed with 1800 s a step.")
    ds = said(ds, sign_of_nee(ds, "NEE_daily", str(raw["NEE_daily"].attrs.get("standard_name", "")), path))
    return ds.assign_attrs({key: str(raw.attrs[key]) for key in KEPT if key in raw.attrs})


def _with_both(ds: xr.Dataset, name: str) -> xr.Dataset:
    """`ds` with a flux masked on days that lack either its value or its uncertainty, and counted."""
    value, error = ds[name].values, ds[f"{name}_uncertainty"].values
    both = np.isfinite(value) & (error > 0)
    ds = ds.assign({name: ("time", np.where(both, value, np.nan), ds[name].attrs),
                    f"{name}_uncertainty": ("time", np.where(both, error, np.nan), ds[f"{name}_uncertainty"].attrs)})
    single = int((np.isfinite(value) & ~both).sum())
    return said(ds, f"{name}: {both.sum()} observed days of {both.size}"
                + (f", {single} more masked for want of a positive uncertainty." if single else "."))


def _hours_summed_as_half_hours(raw: xr.Dataset) -> bool:
    """Whether the source record is hourly while the daily sum took 1800 s a step; verified at US-MMS (slope 0.499)."""
    source = str(raw.attrs.get("Input_file", ""))
    hourly = re.search(r"(?<![a-z0-9])(?<!half[-_ ])hourly", source, re.IGNORECASE) or "_HR_" in source
    return bool(hourly) and "1800" in str(raw.attrs.get("scaling_factor_NEE", ""))


def sign_of_nee(ds: xr.Dataset, theirs: str, attribute: str, path: Path) -> str:
    """Return the sentence about the sign of `nee`; raise ValueError when uptake looks positive.

    A vegetated surface takes carbon up when it transpires, so NEE that is positive to the atmosphere falls with latent
    heat: r is between -0.24 and -0.82 at 15 sites of CalLMIP. `theirs`: name in the file; `attribute`: its standard name.
    """
    wrong = ""
    if "downward" in attribute:
        wrong = " The standard_name attribute in the file says downward; that is wrong and was not copied."
    empty = np.full(ds.sizes["time"], np.nan)
    nee, heat = (ds[name].values if name in ds else empty for name in ("nee", "latent_heat"))
    both = np.isfinite(nee) & np.isfinite(heat)
    step = "days" if ds["time"].attrs["step"] == "P1D" else "steps"
    if both.sum() < 30 or np.std(nee[both]) == 0 or np.std(heat[both]) == 0:
        return (f"nee was taken as positive to the atmosphere, FLUXNET's convention; its sign could not be checked "
                f"({both.sum()} {step} with latent heat).{wrong}")
    r = float(np.corrcoef(nee[both], heat[both])[0, 1])
    if r > 0.3:
        raise ValueError(complain(f"{theirs} of {path.name} positive to the atmosphere, falling with latent heat",
                                  f"a correlation of {r:+.2f} over {both.sum()} {step}, as if uptake were positive",
                                  f"multiply {theirs} by -1 if it is net ecosystem production"))
    return (f"nee is positive to the atmosphere: FLUXNET's convention, and its correlation with latent heat is {r:+.2f}"
            f" over {both.sum()} {step}.{wrong}")


def _recognised(head: Head) -> bool:
    return head.is_netcdf and any(f"{name}_daily" in head.variables for name in NAMES.values())


FORMATS = (Format("CalLMIP Phase 1 fluxes, NetCDF", _recognised, read_callmip, "daily nee, latent_heat, sensible_heat with uncertainties"),)
