"""Readers of daily meteorological drivers: DifferLand (tower), FluxDataKit (reanalysis), and files of the normal form.

All give the same Dataset: `temperature_min`, `temperature_max` [degC], `shortwave` [MJ m-2 d-1], `co2` [ppm], `vpd`
[hPa], `precipitation` [mm d-1] and `burned_fraction` [1], a value on every day. A model cannot run over a gap, so a
missing driver is an error; an impossible value is an error that names the day; a negative of rounding size is set to
zero and counted. Values that are possible but look odd, such as spikes of CO2 in canopy air, are counted and kept:
they are what was measured.
"""

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
    existing,
    normal_form,
    open_netcdf,
    position,
    possible,
    provenance,
    read_days,
    site_code,
    whole_days,
)
from landcal_jax.io.flux import FLUX, FLUXNET2015
from landcal_jax.io.units import convert

DIFFERLAND = ("Fang, J. and Gentine, P. (2024): Exploring Optimal Complexity for Water Stress Representation in "
              "Terrestrial Carbon Models: A Hybrid-Machine Learning Model Approach. Journal of Advances in Modeling "
              "Earth Systems 16, e2024MS004308. https://doi.org/10.1029/2024MS004308")
DIFFERLAND_LICENCE = "CC-BY-4.0 (FLUXNET2015, ICOS, OzFlux); repository MIT"
FLUXDATAKIT = ("Hufkens, K. and Stocker, B.: FluxDataKit, drivers of the P-model, state of 28 February 2022. "
               "https://github.com/geco-bern/FluxDataKit; later releases https://doi.org/10.5281/zenodo.12092555")
FLUXDATAKIT_LICENCE = "none stated for the data (repository AGPL-3.0); derived from WFDEI and WorldClim"
WFDEI = ("Weedon, G. P. et al. (2014): The WFDEI meteorological forcing data set: WATCH Forcing Data methodology "
         "applied to ERA-Interim reanalysis data. Water Resources Research 50, 7505-7514. "
         "https://doi.org/10.1002/2014WR015638")

FORCING = {
    "temperature_min": Variable("degC", "daily minimum of air temperature", -95.0, 60.0),
    "temperature_max": Variable("degC", "daily maximum of air temperature", -95.0, 60.0),
    "shortwave": Variable("MJ m-2 d-1", "downward shortwave radiation", 0.0, 48.0),
    "co2": Variable("ppm", "mole fraction of carbon dioxide in air", 150.0, 2000.0),
    "vpd": Variable("hPa", "vapour pressure deficit, daily mean", 0.0, 150.0),
    "precipitation": Variable("mm d-1", "precipitation, rain and snow", 0.0, 2000.0),
    "burned_fraction": Variable("1", "fraction of the area burned", 0.0, 1.0),
}
ROUNDING = 1e-3  # in the unit of the variable: what arithmetic in single precision leaves behind
ODD = {"co2": (330.0, 450.0), "precipitation": (0.0, 300.0)}

DIFFERLAND_NAMES = {"temperature_min": "T2M_MIN", "temperature_max": "T2M_MAX", "shortwave": "SSRD", "co2": "CO2",
                    "vpd": "VPD", "precipitation": "TOTAL_PREC"}
DIFFERLAND_FLUXES = {"gpp": "GPP", "nee": "NBE", "et": "ET", "lai": "LAI"}

# Photons per joule of shortwave, the constant with which ingestr made `ppfd` from shortwave radiation (its kfFEC):
# Meek, D. W. et al. (1984), Agronomy Journal 76, 939-945. Undoing their conversion needs their constant.
PHOTONS_PER_JOULE = 2.04e-6  # mol J-1


def read_normal_forcing(path: str | Path) -> xr.Dataset:
    """Read a NetCDF file of drivers whose names and units are those of the normal form, or can be converted to them."""
    raw = open_netcdf(path, "a NetCDF file of daily drivers")
    path, columns = Path(path), {}
    days, history = day_stamps(raw, path), earlier_history(raw)
    for name, variable in FORCING.items():
        if name == "burned_fraction" and name not in raw:
            columns[name] = _no_fire(days, history)
        else:
            columns[name] = read_days(raw, name, variable.units, path)
    checked = _checked(columns, days, path, history)
    return normal_form(checked, FORCING, days, site=site_code(raw, path), path=path, history=history,
                       attrs=provenance(raw), place=position(raw.get("latitude", []), raw.get("longitude", []), path))


def read_differland_forcing(path: str | Path, coordinates: str | Path | None = None) -> xr.Dataset:
    """Read the drivers of one site from a DifferLand NetCDF file (measured at the tower).

    Time in these files is only an index. Day 0 is 1 January of `start_year` in the table `site_coords.csv`, which
    `coordinates` names (by default it lies beside the file); the column DOY of the file is checked against it.
    """
    raw, days, site, place, history = _open_differland(path, coordinates)
    path = Path(path)
    columns = {name: _without_marks(read_days(raw, theirs, FORCING[name].units, path))
               for name, theirs in DIFFERLAND_NAMES.items()}
    columns["burned_fraction"] = _no_fire(days, history)
    attrs = {"title": f"Daily meteorological drivers measured at {site}",
             "source": f"DifferLand v1.0 drivers, {path.name}",
             "references": "\n".join((FLUXNET2015, DIFFERLAND)), "license": DIFFERLAND_LICENCE}
    return normal_form(_checked(columns, days, path, history), FORCING, days, site=site, place=place, path=path,
                       history=history, attrs=attrs)


def read_differland_flux(path: str | Path, coordinates: str | Path | None = None) -> xr.Dataset:
    """Read GPP, NBE (as `nee`), ET and LAI of a DifferLand file, with their uncertainties, in the normal form.

    The series are gap-filled: they serve checks on held-out days rather than as observations. A value may stand here
    without its uncertainty.
    """
    raw, days, site, place, history = _open_differland(path, coordinates)
    path, columns = Path(path), {}
    for name, theirs in DIFFERLAND_FLUXES.items():
        values = []
        for column in (theirs, f"{theirs}unc"):
            if column in raw:
                raw[column].attrs.setdefault("units", FLUX[name].units)
            values.append(_without_marks(read_days(raw, column, FLUX[name].units, path)))
        value, error = values
        possible(value, name, FLUX[name], days, path)
        columns |= {name: value, f"{name}_uncertainty": np.where(error > 0, error, np.nan)}
        lacking = int((np.isfinite(value) & ~(error > 0)).sum())
        history.append(f"{name}: {np.isfinite(value).sum()} values on {len(days)} days, gap-filled days included; "
                       f"{lacking} of them have no positive uncertainty.")
    history.append("Fluxes of this format carry no units attribute; the units that its authors state were taken.")
    attrs = {"title": f"Gap-filled daily fluxes and leaf area at {site}",
             "source": f"DifferLand v1.0 drivers, {path.name}",
             "references": "\n".join((FLUXNET2015, DIFFERLAND)), "license": DIFFERLAND_LICENCE}
    return normal_form(columns, FLUX, days, site=site, place=place, path=path, history=history, attrs=attrs)


def read_fluxdatakit_forcing(path: str | Path) -> xr.Dataset:
    """Read the P-model drivers of one site from an `.rds` file of FluxDataKit (state of February 2022).

    These drivers are not tower data: they are the grid cell of the reanalysis WFDEI (0.5 degrees), with its monthly
    means corrected towards WorldClim, and CO2 is a global annual mean. They hold a daily mean temperature only, and no
    29 February; that day is inserted as the mean of its neighbours, as the protocol of CalLMIP allows.
    """
    path = existing(path, "an .rds file with the P-model drivers of one site")
    site, table, info = _read_rds(path)
    needed = ("date", "tmin", "tmax", "ppfd", "vpd", "rain", "snow", "co2")
    missing = [name for name in needed if name not in table]
    if missing:
        raise ValueError(complain(f"columns {', '.join(needed)} in the drivers of {path.name}",
                                  f"no {', '.join(missing)}",
                                  "use the files of FluxDataKit's data/p_model_drivers of February 2022"))
    days = whole_days(pd.to_datetime(np.asarray(table["date"], dtype=float), unit="D"), path)
    history = []
    columns = {name: np.asarray(table[name], dtype=float) for name in needed[1:]}
    days, columns = _with_leap_days(days, columns, path, history)
    watts = columns["ppfd"] / PHOTONS_PER_JOULE
    drivers = {
        "temperature_min": columns["tmin"], "temperature_max": columns["tmax"],
        "shortwave": convert(watts, "W m-2", "MJ m-2 d-1"), "co2": columns["co2"],
        "vpd": convert(columns["vpd"], "Pa", "hPa"),
        "precipitation": convert(columns["rain"] + columns["snow"], "kg m-2 s-1", "mm d-1"),
        "burned_fraction": _no_fire(days, history)}
    history.append("The drivers are not tower data: they are the grid cell of a reanalysis (WFDEI, 0.5 degrees) with "
                   "its monthly means corrected towards WorldClim; co2 is a global annual mean.")
    history.append(f"shortwave was derived from the photon flux density by {PHOTONS_PER_JOULE * 1e6:g} umol J-1.")
    if np.array_equal(columns["tmin"], columns["tmax"]):
        history.append("temperature_min and temperature_max both are the daily mean: the file has no others.")
    attrs = {"title": f"Daily meteorological drivers at {site}, from a reanalysis",
             "source": f"FluxDataKit, {path.name}", "references": "\n".join((FLUXDATAKIT, WFDEI)),
             "license": FLUXDATAKIT_LICENCE}
    return normal_form(_checked(drivers, days, path, history), FORCING, days, site=site, path=path, history=history,
                       attrs=attrs, place=position(info["lat"].iloc[0], info["lon"].iloc[0], path))


def align(forcing: xr.Dataset, flux: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """Return both with the days of `forcing`: fluxes outside are dropped and counted in the history of `flux`."""
    ours, theirs = str(forcing["site"].values), str(flux["site"].values)
    if ours != theirs:
        raise ValueError(complain(f"fluxes of {ours}, the site of the forcing", f"fluxes of {theirs}",
                                  "pair the files of one site"))
    apart = max(abs(float(forcing[axis]) - float(flux[axis])) for axis in ("latitude", "longitude"))
    if apart > 0.1:
        raise ValueError(complain(f"forcing and fluxes of {ours} at the same place",
                                  f"positions {apart:.2f} degrees apart", "check latitude and longitude of both files"))
    streams = [name for name in flux.data_vars if not str(name).endswith("_uncertainty")]
    aligned, lines = flux.reindex(time=forcing["time"]), []
    for name in streams:
        before, inside = int(flux[name].notnull().sum()), int(aligned[name].notnull().sum())
        lines.append(f"{name}: {inside} observed days inside the forcing, {before - inside} outside were dropped.")
    first, last = (str(forcing["time"].values[end])[:10] for end in (0, -1))
    if not any(aligned[name].notnull().any() for name in streams):
        raise ValueError(complain(f"observed days of {ours} in the period of the forcing, {first} to {last}", "none",
                                  "use forcing and fluxes that overlap in time"))
    lines = [flux.attrs.get("history", ""), f"The fluxes were put on the days of the forcing, {first} to {last}.",
             *lines]
    aligned.attrs["history"] = "\n".join(lines).strip()
    return forcing, aligned


def _open_differland(path: str | Path, coordinates: str | Path | None) -> tuple[
        xr.Dataset, pd.DatetimeIndex, str, dict[str, float], list[str]]:
    """Open a DifferLand file and date it: (raw, days, site, place, history)."""
    raw = open_netcdf(path, "a NetCDF file of the drivers of DifferLand")
    path = Path(path)
    site = site_code(raw, path)
    row = _coordinates_row(site, Path(coordinates) if coordinates else path.with_name("site_coords.csv"))
    place = position(row["lat"], row["lon"], path)
    if "LAT" in raw and abs(float(raw["LAT"]) - place["latitude"]) > 0.05:
        raise ValueError(complain(
            f"LAT of {path.name} equal to the latitude of {site} in site_coords.csv, {place['latitude']:g}",
            f"{float(raw['LAT']):g}", "check that the file has the name of its site"))
    first, last = f"{row['start_year']:.0f}-01-01", f"{row['end_year']:.0f}-12-31"
    days, whole = pd.date_range(first, periods=raw.sizes["time"], unit="ns"), len(pd.date_range(first, last))
    if "DOY" in raw:
        wrong = raw["DOY"].values != days.day_of_year.values
        if wrong.any():
            index = int(np.argmax(wrong))
            raise ValueError(complain(
                f"DOY of {path.name} counting the days from {first}",
                f"DOY {raw['DOY'].values[index]:g} at index {index}, which is {days[index]:%Y-%m-%d}",
                "correct start_year in site_coords.csv"))
    history = [f"Time is an index in the file: day 0 was taken as {first}, the start_year of site_coords.csv."]
    if len(days) != whole:
        history.append(f"The file has {len(days)} days of the {whole} from {first} to {last}; its last is "
                       f"{days[-1]:%Y-%m-%d}.")
    return raw, days, site, place, history


def _coordinates_row(site: str, table: Path) -> pd.Series:
    """The row of a site in DifferLand's table of sites."""
    rows = pd.read_csv(existing(table, f"the table site_coords.csv with the start_year of {site}")).set_index("SITE_ID")
    needed = ("lat", "lon", "start_year", "end_year")
    if site not in rows.index or not set(needed) <= set(rows):
        raise ValueError(complain(
            f"{', '.join(needed)} of {site} in {table}",
            f"sites {', '.join(map(str, rows.index))} with columns {', '.join(rows)}",
            "name the table of the same repository with coordinates="))
    return rows.loc[site]


def _read_rds(path: Path) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Return (site, drivers, information) of an .rds file: a table of one row with nested tables, or a list of them."""
    import rdata

    # R's dates and tibbles, which rdata would otherwise report as unknown on stderr.
    classes = dict(rdata.conversion.DEFAULT_CLASS_MAP) | {
        "Date": lambda value, attributes: value,
        "tbl_df": rdata.conversion.dataframe_constructor, "tbl": rdata.conversion.dataframe_constructor}
    try:
        record = rdata.read_rds(path, constructor_dict=classes)
    except Exception as error:  # the parser has no exception of its own: whatever it meets means a damaged file
        raise ValueError(complain("an .rds file of R with the P-model drivers of one site",
                                  f"{path}, which cannot be read ({error})", "download the file again")) from error
    names = ("sitename", "forcing", "siteinfo")
    if not isinstance(record, (pd.DataFrame, dict)) or not set(names) <= set(record):
        raise ValueError(complain(f"a table with sitename, forcing and siteinfo in {path.name}",
                                  f"a {type(record).__name__} without them",
                                  "use the files of FluxDataKit's data/p_model_drivers of February 2022"))
    if isinstance(record, pd.DataFrame):
        record = {name: record[name].iloc[0] for name in names}
    return str(np.ravel(record["sitename"])[0]), record["forcing"], record["siteinfo"]


def _with_leap_days(days: pd.DatetimeIndex, columns: Mapping[str, np.ndarray], path: Path,
                    history: list[str]) -> tuple[pd.DatetimeIndex, dict[str, np.ndarray]]:
    """Insert 29 February, where it alone is missing, as the mean of its neighbours; any other gap is an error."""
    gaps = pd.date_range(days[0], days[-1], unit="ns").difference(days)
    other = gaps[(gaps.month != 2) | (gaps.day != 29)]
    if len(other):
        raise ValueError(_gap(other, path))
    table = pd.DataFrame(dict(columns), index=days).reindex(days.union(gaps))
    # Only the inserted days are filled: a missing value of the file itself has to stay visible.
    table.loc[gaps] = table.interpolate(method="linear").loc[gaps]
    history.append(f"29 February is missing in the file: {len(gaps)} days inserted, each the mean of its neighbours.")
    return pd.DatetimeIndex(table.index), {str(name): table[name].to_numpy() for name in table}


def _gap(gaps: pd.DatetimeIndex, path: Path) -> str:
    return complain(f"drivers on every day in {path.name}", f"{len(gaps)} days absent, the first {gaps[0]:%Y-%m-%d}",
                    "fill the gap from a reanalysis, or cut the record before it")


def _without_marks(values: np.ndarray) -> np.ndarray:
    """Turn the literal -9999 of this format into NaN."""
    return np.where(values == -9999.0, np.nan, values)


def _no_fire(days: pd.DatetimeIndex, history: list[str]) -> np.ndarray:
    history.append("burned_fraction is not in the file and was set to 0.")
    return np.zeros(len(days))


def _checked(columns: Mapping[str, np.ndarray], days: pd.DatetimeIndex, path: Path,
             history: list[str]) -> dict[str, np.ndarray]:
    """Return drivers without gaps or impossible values; corrections and oddities go to `history` with counts."""
    absent = pd.date_range(days[0], days[-1]).difference(days)
    if len(absent):
        raise ValueError(_gap(absent, path))
    columns = dict(columns)
    for name, values in columns.items():
        variable, gap = FORCING[name], ~np.isfinite(values)
        if gap.any():
            raise ValueError(complain(f"{name} on every day in {path.name}",
                                      f"{gap.sum()} missing values, the first on {days[np.argmax(gap)]:%Y-%m-%d}",
                                      "fill the gap from a reanalysis, or cut the record before it"))
        slight = (values < 0) & (values >= -ROUNDING) & (variable.low == 0)
        if slight.any():
            columns[name] = values = np.where(slight, 0.0, values)
            history.append(f"{name}: {slight.sum()} negative values of rounding size were set to zero.")
        possible(values, name, variable, days, path)
        low, high = ODD.get(name, (-np.inf, np.inf))
        odd = (values < low) | (values > high)
        if odd.any():
            extreme = values[np.argmax(np.abs(values - np.median(values)))]
            history.append(f"{name}: {odd.sum()} days outside {low:g} to {high:g} {variable.units} look suspicious "
                           f"(the most extreme {extreme:.4g}) and were kept.")
    return columns | {"temperature_max": _ordered(columns, days, path, history)}


def _ordered(columns: Mapping[str, np.ndarray], days: pd.DatetimeIndex, path: Path, history: list[str]) -> np.ndarray:
    """Return the daily maximum, raised to the minimum where it lies below by rounding only."""
    low, high = columns["temperature_min"], columns["temperature_max"]
    crossed = high < low - ROUNDING
    if crossed.any():
        first = int(np.argmax(crossed))
        raise ValueError(complain(
            f"temperature_max of at least temperature_min in {path.name}",
            f"{high[first]:g} below {low[first]:g} degC on {days[first]:%Y-%m-%d}, {crossed.sum()} such days",
            "check that the two columns are not exchanged"))
    if (high < low).any():
        history.append(f"temperature_max: {(high < low).sum()} days below temperature_min by rounding, raised to it.")
    return np.maximum(low, high)
