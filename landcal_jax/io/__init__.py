"""Readers of the field's files. Whatever the format, one site is one Dataset in the same normal form.

The normal form has dimension `time` (datetime64[ns], labelled by the start of the day, strictly increasing) and scalar
coordinates `site`, `latitude` and `longitude`. Every variable has `units` and `long_name`. The attributes `title`,
`source`, `references`, `license` and `sha256` say where the numbers come from, and `history` says, a sentence a line
and with counts, what the reader masked, corrected or inserted. Nothing is changed in silence.

- forcing: `temperature_min`, `temperature_max` [degC], `shortwave` [MJ m-2 d-1], `co2` [ppm], `vpd` [hPa],
  `precipitation` [mm d-1], `burned_fraction` [1]; a value on every day.
- flux: `nee` [gC m-2 d-1, positive to the atmosphere], `latent_heat`, `sensible_heat` [W m-2], each with
  `_uncertainty`; optionally `gpp` [gC m-2 d-1], `et` [mm d-1], `lai` [m2 m-2]; NaN where nothing was observed.
"""

from pathlib import Path

import xarray as xr

from landcal_jax.io.checks import open_netcdf
from landcal_jax.io.flux import read_callmip_flux as read_callmip_flux
from landcal_jax.io.flux import read_normal_flux
from landcal_jax.io.forcing import align as align
from landcal_jax.io.forcing import read_differland_flux as read_differland_flux
from landcal_jax.io.forcing import read_differland_forcing as read_differland_forcing
from landcal_jax.io.forcing import read_fluxdatakit_forcing as read_fluxdatakit_forcing
from landcal_jax.io.forcing import read_normal_forcing
from landcal_jax.io.units import convert as convert


def read_forcing(path: str | Path) -> xr.Dataset:
    """Read the daily drivers of one site: an `.rds` of FluxDataKit, a DifferLand file, or NetCDF in the normal form."""
    if Path(path).suffix.lower() == ".rds":
        return read_fluxdatakit_forcing(path)
    if "T2M_MIN" in open_netcdf(path, "a NetCDF file of daily drivers"):
        return read_differland_forcing(path)
    return read_normal_forcing(path)


def read_flux(path: str | Path) -> xr.Dataset:
    """Read the daily fluxes of one site: a CalLMIP file, a DifferLand file, or NetCDF in the normal form."""
    raw = open_netcdf(path, "a NetCDF file of daily fluxes")
    if "NEE_daily" in raw:
        return read_callmip_flux(path)
    return read_differland_flux(path) if "NBE" in raw else read_normal_flux(path)
