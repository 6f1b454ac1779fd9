"""Reader of DifferLand files: nine years of daily drivers and gap-filled fluxes measured at a tower, with MODIS leaf area."""

from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import open_netcdf, read_text
from landcal_jax.io.normal import normalise, place, said
from landcal_jax.io.readers.callmip_flux import FLUXNET2015
from landcal_jax.io.readers.netcdf import code_or_complaint, number, series
from landcal_jax.io.recognition import Format, Head

DIFFERLAND = ("Fang, J. and Gentine, P. (2024): Exploring Optimal Complexity for Water Stress Representation in "
              "Terrestrial Carbon Models: A Hybrid-Machine Learning Model Approach. Journal of Advances in Modeling "
              "Earth Systems 16, e2024MS004308. https://doi.org/10.1029/2024MS004308")
DIFFERLAND_LICENCE = "CC-BY-4.0 (FLUXNET2015, ICOS, OzFlux); repository MIT"

DRIVERS = {"temperature_min": "T2M_MIN", "temperature_max": "T2M_MAX", "shortwave": "SSRD", "co2": "CO2", "vpd": "VPD",
           "precipitation": "TOTAL_PREC"}
# Units that the authors state; these variables have no attribute.
FLUXES = {"gpp": ("GPP", "gC m-2 d-1"), "nee": ("NBE", "gC m-2 d-1"), "reco": ("RECO", "gC m-2 d-1"),
          "evapotranspiration": ("ET", "mm d-1"), "lai": ("LAI", "m2 m-2"), "biomass": ("ABGB", "gC m-2"),
          "soil_carbon": ("SOM", "gC m-2")}
ALWAYS = ("gpp", "nee", "evapotranspiration", "lai")
VAPORISATION_HEAT = 2.4417e6  # J kg-1, with which their evapotranspiration was made: CalLMIP's latent heat divided by it, at five sites
GAP_FILLED = "included, not marked"
EPOCH = pd.Timestamp("2001-01-01")  # of the column `time`, in all 16 files of the authors


def read_differland(path: str | Path, coordinates: str | Path | None = None) -> xr.Dataset:
    """Read drivers and fluxes of one site from a DifferLand NetCDF file (measured at the tower), in the normal form.

    Day 0 is 1 January of `start_year` in the table `site_coords.csv`, which `coordinates` names (by default it lies beside
    the file); the columns DOY and time of the file are checked against it. The fluxes are gap-filled and the days are
    not marked: they serve checks on held-out days rather than as observations. A value may stand without its uncertainty.
    Raises FileNotFoundError, or ValueError for a fault of the file or of the table.
    """
    raw = open_netcdf(path, "a NetCDF file of the drivers of DifferLand")
    path = Path(path)
    site = code_or_complaint(raw, path)
    days, where, history = _dated(raw, site, path, Path(coordinates) if coordinates else path.with_name("site_coords.csv"))
    columns = {name: series(raw, theirs, path) for name, theirs in DRIVERS.items()}
    if "PA" in raw:
        columns["pressure"] = series(raw, "PA", path, "kPa")
    columns |= _flux_columns(raw, path)
    if "SWC" in raw:
        columns["soil_moisture"] = series(raw, "SWC", path, "%")
    ds = normalise(
        columns, days, path=path, site=site, step="P1D", history=history, **where, source=f"DifferLand v1.0 drivers, {path.name}",
        title=f"Daily drivers measured at {site}, with gap-filled fluxes and leaf area",
        references="\n".join((FLUXNET2015, DIFFERLAND)), license=DIFFERLAND_LICENCE)
    return _without_marks(ds, raw, columns)


def _flux_columns(raw: xr.Dataset, path: Path) -> dict:
    columns = {}
    for name, (theirs, units) in FLUXES.items():
        if name not in ALWAYS and (theirs not in raw or not np.isfinite(raw[theirs].values.astype(float)).any()):
            continue
        columns[name] = series(raw, theirs, path, units)
        if name in ALWAYS or f"{theirs}unc" in raw:
            columns[f"{name}_uncertainty"] = _positive(series(raw, f"{theirs}unc", path, units))
    return columns


def _positive(column):
    """Uncertainties of zero say that there is none: -9999, which is counted as missing."""
    return column._replace(values=np.where(column.values == 0.0, -9999.0, column.values))


def _without_marks(ds: xr.Dataset, raw: xr.Dataset, columns: dict) -> xr.Dataset:
    """`ds` with the sentences about gap-filling, units and what was left out."""
    filled = [name for name in ds.data_vars if name in FLUXES or name == "soil_moisture"]
    for name in filled:
        ds[name].attrs["gap_filled"] = GAP_FILLED
    for name, column in columns.items():
        if "units" not in raw[column.name].attrs:
            ds[name].attrs["units_in_file"] = "not stated"
    ds["evapotranspiration"].attrs["vaporisation_heat"] = VAPORISATION_HEAT
    lines = []
    for name in filled:
        if f"{name}_uncertainty" in ds:
            value, error = ds[name].values, ds[f"{name}_uncertainty"].values
            lacking = int((np.isfinite(value) & ~(error > 0)).sum())
            lines.append(f"{name}: {np.isfinite(value).sum()} values on {value.size} days, gap-filled days included; "
                         f"{lacking} of them have no positive uncertainty.")
    lines += [f"Gap-filled days are included and not marked in {', '.join(filled)}.",
              "Fluxes of this format carry no units attribute; the units that its authors state were taken.",
              "nee is NBE of the file: at a tower without fire the two are the same.",
              f"evapotranspiration was made from latent heat with {VAPORISATION_HEAT / 1e6:g} MJ kg-1 (found against CalLMIP at "
              "five sites), its attribute vaporisation_heat."]
    used = {column.name for column in columns.values()} | {"time", "DOY", "LAT", "nodays"}
    left = [str(name) for name in raw.variables if name not in used]
    return said(ds, *lines, *([f"Left out, without a name in the normal form or without a value: {', '.join(left)}."] if left else []))


def _dated(raw: xr.Dataset, site: str, path: Path, table: Path) -> tuple[pd.DatetimeIndex, dict, list[str]]:
    """The days of a file, where its site is, and what there is to say: from the table of sites, checked against DOY and time."""
    row = _row(site, table)
    where = {name: float(place(site, row["lat"], row["lon"], table)[name][1]) for name in ("latitude", "longitude")}
    latitude = number(raw, "LAT")
    if latitude.size and not abs(latitude[0] - where["latitude"]) <= 0.05:
        raise ValueError(complain(
            f"LAT of {path.name} equal to the latitude of {site} in {table.name}, {where['latitude']:g}",
            f"{latitude[0]:g}", "check that the file has the name of its site"))
    first, last = (pd.Timestamp(year=int(row[name]), month=month, day=day)
                   for name, month, day in (("start_year", 1, 1), ("end_year", 12, 31)))
    length = raw.sizes.get("time", 0)
    if not length:
        raise ValueError(complain(f"days along `time` in {path.name}", "none", "download the file again"))
    days, whole = pd.date_range(first, periods=length, unit="ns"), (last - first).days + 1
    _check_day_of_year(raw, days, path, table)
    counted = _check_time(raw, days, path, table)
    history = [f"Time was taken from the table of sites: day 0 is {first:%Y-%m-%d}, the start_year of {table.name}{counted}."]
    if length != whole:
        history.append(f"The file has {length} days of the {whole} from {first:%Y-%m-%d} to {last:%Y-%m-%d}; its last is "
                       f"{days[-1]:%Y-%m-%d}.")
    return days, where, history


def _check_day_of_year(raw: xr.Dataset, days: pd.DatetimeIndex, path: Path, table: Path) -> None:
    if "DOY" not in raw:
        return
    found = number(raw, "DOY")
    wrong = found != days.day_of_year.values if found.size == len(days) else np.ones(len(days), dtype=bool)
    if wrong.any():
        index = int(np.argmax(wrong))
        shown = f"{found[index]:g}" if index < found.size else "nothing"
        raise ValueError(complain(f"DOY of {path.name} counting the days from {days[0]:%Y-%m-%d}",
                                  f"DOY {shown} at index {index}, which is {days[index]:%Y-%m-%d}",
                                  f"correct start_year in {table.name}"))


def _check_time(raw: xr.Dataset, days: pd.DatetimeIndex, path: Path, table: Path) -> str:
    """What the column time adds: a plain index says nothing, days since 2001 agree or are an error."""
    counts = number(raw, "time")
    if counts.size != len(days) or np.array_equal(counts, np.arange(len(days))):
        return "" if days[0] != EPOCH else ", as its column time says (days since 2001-01-01)"
    expected = np.arange(len(days)) + (days[0] - EPOCH).days
    if not np.array_equal(counts, expected):
        index = int(np.argmax(counts != expected))
        raise ValueError(complain(f"`time` of {path.name} as an index from 0, or as days since 2001-01-01 beginning with {expected[0]} "
                                  f"({days[0]:%Y-%m-%d})", f"{counts[index]:g} at index {index}", f"correct start_year in {table.name}"))
    return ", as its column time says (days since 2001-01-01)"


def _row(site: str, table: Path) -> pd.Series:
    """The row of a site in DifferLand's table of sites."""
    text = read_text(table, f"the table site_coords.csv with the start_year of {site}")
    try:
        rows = pd.read_csv(StringIO(text), dtype={"SITE_ID": str})
    except ValueError as error:
        raise ValueError(complain(f"a table of sites as CSV in {table}", str(error).splitlines()[0][:120],
                                  "download site_coords.csv again")) from error
    needed = ("lat", "lon", "start_year", "end_year")
    found = rows[rows["SITE_ID"] == site] if "SITE_ID" in rows else rows[:0]
    if len(found) != 1 or not set(needed) <= set(rows):
        listed = ", ".join(map(str, rows["SITE_ID"])) if "SITE_ID" in rows else "none"
        raise ValueError(complain(
            f"one row with {', '.join(needed)} of {site} in {table}",
            f"sites {listed[:400]} with columns {', '.join(map(str, rows))[:200]}",
            "name the table of the same repository with coordinates="))
    row = pd.to_numeric(found[list(needed)].iloc[0], errors="coerce")
    if not np.isfinite(row.astype(float)).all() or not 1900 <= row["start_year"] <= row["end_year"] <= 2200:
        raise ValueError(complain(f"numbers for {', '.join(needed)} of {site} in {table}", f"{found[list(needed)].iloc[0].tolist()}",
                                  "download site_coords.csv again"))
    return row


def _recognised(head: Head) -> bool:
    time = head.variables.get("time", {})
    return {"T2M_MIN", "T2M_MAX", "SSRD", "NBE"} <= set(head.variables) and " since " not in str(time.get("units", ""))


FORMATS = (Format("DifferLand, NetCDF", _recognised, read_differland,
                  "daily drivers; gap-filled gpp, nee, reco, evapotranspiration, lai, soil_moisture"),)
