"""Readers of CARDAMOM: monthly drivers and observations of a site as .cbf (binary) and .cbf.nc, and validation data as CSV.

The binary format (CARDAMOM_READ_BINARY_FILEFORMAT.m) is a row of little-endian float64: 100 static numbers, 50 priors and
50 uncertainties of parameters, as many of other priors, then a table with a row a month: drivers, then observations. It knows
neither its site nor its longitude nor a date; its drivers are a cell of a grid of half a degree. Observations have no
uncertainty of their own: one for the whole series stands in the attributes, under the names of the .cbf.nc files. It is
a factor (of the logarithm) for positive quantities, and an absolute number for NBE.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import existing, open_netcdf
from landcal_jax.io.normal import Column, normalise, said
from landcal_jax.io.readers import site_tables
from landcal_jax.io.readers.callmip_flux import FLUXNET2015
from landcal_jax.io.readers.netcdf import SITE, number, series, stamps
from landcal_jax.io.readers.site_tables import read_site_table, row_of
from landcal_jax.io.recognition import Format, Head

CARDAMOM = ("Yang, Y. et al.: CARDAMOM-FluxVal Version 1.0: a FLUXNET-based Validation System for CARDAMOM Carbon and Water Flux "
            "Estimates. https://github.com/CARDAMOM-framework/CARDAMOM")
LICENCE = "CC-BY-4.0 (FLUXNET2015); repository Apache-2.0"
REFERENCES = "\n".join((FLUXNET2015, CARDAMOM))
EPOCH = pd.Timestamp("2001-01-01")
MONTH = 30.4375  # days: a twelfth of 365.25
MISSING = -9999.0

STATIC, PRIORS = 100, 50
HEADER = STATIC + 4 * PRIORS
MOST_ROWS, MOST_COLUMNS = 100_000, 200

MET = (("time", "d"), ("temperature_min", "degC"), ("temperature_max", "degC"), ("shortwave", "MJ m-2 d-1"), ("co2", "ppm"), ("DOY", "d"),
       ("burned_fraction", "1"), ("vpd", "hPa"), ("precipitation", "mm d-1"))
OBS = (("GPP", "gpp", "gC m-2 d-1"), ("LAI", "lai", "m2 m-2"), ("NBE", "nee", "gC m-2 d-1"), ("ABGB", "biomass", "gC m-2"),
       ("ET", "evapotranspiration", "mm d-1"), ("EWT", "", "mm"), *((f"BAND{band}", "", "") for band in (1, 2, 3, 4)),
       ("SOM", "soil_carbon", "gC m-2"), ("CH4", "methane", "mgC m-2 d-1"), ("SCF", "snow_cover", "1"))
# Place in the static numbers of what is said about the errors of a whole series (the reader in MATLAB counts from 1).
ERRORS = {"nee": {"single_annual_unc": 13, "single_unc": 15},
          "evapotranspiration": {"single_annual_unc": 14, "single_unc": 16, "min_threshold": 21},
          "gpp": {"single_annual_unc": 19, "single_unc": 20, "min_threshold": 22},
          "methane": {"single_annual_unc": 24, "single_unc": 25, "min_threshold": 26},
          "snow_cover": {"single_annual_unc": 28, "single_unc": 29, "min_threshold": 30}}
NETCDF = {"T2M_MIN": ("temperature_min", "degC"), "T2M_MAX": ("temperature_max", "degC"), "SSRD": ("shortwave", "MJ m-2 d-1"),
          "STRD": ("longwave", "MJ m-2 d-1"), "SKT": ("surface_temperature", "degC"), "CO2": ("co2", "ppm"), "VPD": ("vpd", "hPa"),
          "TOTAL_PREC": ("precipitation", "mm d-1"), "SNOWFALL": ("snowfall", "mm d-1"), "BURNED_AREA": ("burned_fraction", "1")}
NETCDF |= {theirs: (name, units) for theirs, name, units in OBS if name}


# ---------------------------------------------------------------------- .cbf


def read_cbf(path: str | Path, locations: str | Path | None = None) -> xr.Dataset:
    """Read monthly drivers and observations of one site from a binary file of CARDAMOM (.cbf), in the normal form.

    `locations`: the table location_fluxnet.csv whose row k is the site of flux_site_k.cbf; by default it lies beside the file or
    one folder up. Without it the site is the name of the file and the longitude NaN, and latitude that of the grid cell.
    Priors and static numbers are attributes: `static` (100), `parameter_priors`, `parameter_prior_uncertainties`, `other_priors`,
    `other_prior_uncertainties` (50 each, NaN where there is none).
    Raises FileNotFoundError, or ValueError when header and size disagree or for any other fault.
    """
    path = existing(path, "a CARDAMOM binary file (.cbf)")
    header, table = _unpacked(path)
    nomet = int(header[3])
    columns, left = _columns(table, nomet)
    site, where, history = _located(path, float(header[1]), locations)
    ds = normalise(
        columns, _mid_months(table, path), label="middle", path=path, site=site, **where, step="P1M", history=history,
        title=f"Monthly drivers of the grid cell of {site}, and observations there", source=f"CARDAMOM, {path.name}", references=REFERENCES,
        license=LICENCE)
    for name, places in ERRORS.items():
        if name in ds:
            ds[name].attrs |= {key: header[place] for key, place in places.items() if header[place] != MISSING}
    if "biomass" in ds and header[251] != MISSING:
        ds["biomass"].attrs["single_unc"] = header[251]
    blocks = {"static": header[:STATIC]} | {
        name: header[STATIC + PRIORS * block:STATIC + PRIORS * (block + 1)] for block, name in enumerate(
            ("parameter_priors", "parameter_prior_uncertainties", "other_priors", "other_prior_uncertainties"))}
    ds.attrs |= {name: np.where(values == MISSING, np.nan, values) for name, values in blocks.items()}
    ds.attrs["latitude_of_grid_cell"] = header[1]
    return said(ds, *_sentences(), *([f"Left out, without a name in the normal form: {', '.join(left)}."] if left else []))


def _sentences() -> tuple[str, ...]:
    return ("The drivers are a cell of a grid (0.5 degrees), not measured at the tower.",
            f"Months of the file are {MONTH} days long, counted from 2001-01-01; each value stands here at its calendar month.",
            "nee is NBE of the file, which has the carbon of fires in it.")


def _unpacked(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Header and table of a .cbf file, after checking that the header and the size of the file agree."""
    size = path.stat().st_size
    what = f"{path.name} as a CARDAMOM binary file: float64, {HEADER} numbers of header, then nodays rows of nomet + noobs"
    if size % 8 or size < 8 * HEADER:
        raise ValueError(complain(what, f"{size} bytes", "download the file again"))
    with path.open("rb") as file:
        header = np.frombuffer(file.read(8 * HEADER), "<f8")
        shape = header[2:5]
        whole = np.isfinite(shape).all() and (shape == np.round(np.where(np.isfinite(shape), shape, 0.5))).all()
        if not whole or not (1 <= shape[0] <= MOST_ROWS and len(MET) <= shape[1] <= MOST_COLUMNS and 0 <= shape[2] <= MOST_COLUMNS):
            raise ValueError(complain(what, f"nodays {shape[0]:g}, nomet {shape[1]:g}, noobs {shape[2]:g}",
                                      "check that it is a .cbf file with the bytes of a PC (little-endian)"))
        nodays, width = int(shape[0]), int(shape[1] + shape[2])
        if size != 8 * (HEADER + nodays * width):
            said_by_header = 8 * (HEADER + nodays * width)
            raise ValueError(complain(f"{said_by_header} bytes in {path.name}, as its header says ({nodays} rows of {width})",
                                      f"{size} bytes", "download the file again: it was cut short or changed"))
        table = np.frombuffer(file.read(), "<f8").reshape(nodays, width)
    if not np.isfinite(table).all():
        row, column = map(int, np.argwhere(~np.isfinite(table))[0])
        raise ValueError(complain(f"numbers in {path.name}, or -9999 for missing",
                                  f"{table[row, column]} in row {row + 1}, column {column + 1}", "download the file again"))
    return header, table


def _columns(table: np.ndarray, nomet: int) -> tuple[dict[str, Column], list[str]]:
    """Columns of the normal form, and the names of those that it has no name for but that hold values."""
    columns = {name: Column(table[:, place], units, f"MET column {place + 1}") for place, (name, units) in enumerate(MET)
               if name not in ("time", "DOY")}
    left = [f"MET column {place + 1}" for place in range(len(MET), nomet)]
    for place in range(nomet, table.shape[1]):
        theirs, name, units = OBS[place - nomet] if place - nomet < len(OBS) else (f"observation column {place - nomet + 1}", "", "")
        if (table[:, place] == MISSING).all():
            continue
        if name:
            columns[name] = Column(table[:, place], units, theirs)
        else:
            left.append(theirs)
    return columns, left


def _mid_months(table: np.ndarray, path: Path) -> pd.DatetimeIndex:
    """The middle of each month: days since 2001-01-01, checked against the column DOY."""
    count, doy = table[:, 0], table[:, 5]
    expected = (count[0] // MONTH + 0.5 + np.arange(len(count))) * MONTH
    wrong = ~(np.abs(count - expected) < 1.0) | (np.abs(count) > 1e5)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(complain(f"mid-months in the first column of {path.name}, days since 2001-01-01 in steps of {MONTH}",
                                  f"{count[row]:g} in row {row + 1}",
                                  "this reader is for monthly files; daily ones have no fixed origin of time"))
    apart = np.abs((count - doy + 100.0) % 365.25 - 100.0)
    if (doy != MISSING).all() and (apart > 1.5).any():
        row = int(np.argmax(apart > 1.5))
        raise ValueError(complain(f"the day of the year in column 6 of {path.name} in step with the days since 2001-01-01",
                                  f"day {doy[row]:g} at {count[row]:g} days, row {row + 1}", "download the file again"))
    return EPOCH + pd.to_timedelta(count, unit="D").round("s")


def _located(path: Path, latitude: float, locations: str | Path | None) -> tuple[str, dict, list[str]]:
    """Site, place and what there is to say, from the table of sites; the file has the latitude of its grid cell only."""
    match = re.search(r"_(\d{1,6})\.cbf$", path.name.lower())
    beside = (folder / "location_fluxnet.csv" for folder in (path.parent, path.parent.parent))
    table = Path(locations) if locations else next((file for file in beside if file.is_file()), None)
    if table is None or (not match and not locations):
        return path.stem, {"latitude": latitude}, [
            f"The site is not in the file and no table location_fluxnet.csv was found: it is called {path.stem}, without a "
            "longitude, at the latitude of its grid cell."]
    if not match:
        raise ValueError(complain(f"a number at the end of the name of {path.name}, the row of its site in {table.name}", path.name,
                                  "name the file like flux_site_76.cbf"))
    site, north, east = row_of(read_site_table(table), int(match[1]), table)
    if not abs(north - latitude) <= 0.5:
        raise ValueError(complain(f"the latitude of {path.name} within half a degree of {site}, {north:g}, row {match[1]} of {table.name}",
                                  f"{latitude:g}", "check that file and table belong together"))
    return site, {"latitude": north, "longitude": east}, [
        f"The site is not in the file: it is {site}, row {match[1]} of {table.name}, whose position was taken; the grid cell is at "
        f"latitude {latitude:g}."]


# ---------------------------------------------------------------------- .cbf.nc


def read_cbf_netcdf(path: str | Path) -> xr.Dataset:
    """Read monthly drivers and observations of one site from a NetCDF file of CARDAMOM (.cbf.nc), in the normal form.

    Attributes of the observations (`single_unc`, `min_threshold`, `opt_unc_type`, ...) are kept; scalars of the file
    (`PEQ_CUE`, `ID`, `EDC`, ...) with their attributes are attributes of the Dataset.
    Raises FileNotFoundError, or ValueError for a fault of the file.
    """
    raw = open_netcdf(path, "a NetCDF file of CARDAMOM (.cbf.nc)")
    path = Path(path)
    columns, kept = {}, {}
    for theirs, (name, units) in NETCDF.items():
        if theirs not in raw:
            continue
        column = series(raw, theirs, path, units)
        if np.isfinite(column.values).any():
            columns[name] = column._replace(units=_units(column.units))
            kept[name] = {key: value for key, value in raw[theirs].attrs.items() if key != "units"}
    if not columns:
        raise ValueError(complain(f"variables {', '.join(NETCDF)} in {path.name}", f"only {', '.join(map(str, raw.variables))[:300]}",
                                  "check that the file is one of CARDAMOM"))
    match = SITE.search(path.name.replace("_", " "))
    site = match[0] if match else path.stem.removesuffix(".cbf")
    history = [] if match else [f"The site is not in the file; the name of the file was taken, {site}."]
    ds = normalise(
        columns, stamps(raw, path), label=_label(raw, path), path=path, site=site,
        latitude=_scalar(raw, "LAT"), longitude=_scalar(raw, "LON"),
        title=f"Monthly drivers of the grid cell of {site}, and observations there", source=f"CARDAMOM, {path.name}", references=REFERENCES,
        license=LICENCE, history=history)
    for name, attrs in kept.items():
        ds[name].attrs |= attrs
        if "units" not in raw[columns[name].name].attrs:
            ds[name].attrs["units_in_file"] = "not stated"
    ds.attrs |= _scalars(raw)
    used = {column.name for column in columns.values()} | {"time", "LAT", "LON"}
    left = [str(name) for name in raw.variables if raw[name].ndim and name not in used]
    ds = said(ds, *([f"Left out, without a name in the normal form or without a value: {', '.join(left)}."] if left else []))
    return said(ds, "Observations of this format carry no units attribute; the units that its authors state were taken.",
                *_sentences()[::2])


def _units(text: str) -> str:
    """Units such as "deg C", or "CO2 [ppm]" with a name before them."""
    match = re.search(r"\[([^\]]+)\]", text)
    return match[1] if match else text.replace("**", "")


def _label(raw: xr.Dataset, path: Path) -> str:
    """Mid-month stamps are the middle of their step; stamps of other steps are taken as its start."""
    steps = np.diff(stamps(raw, path).values) / np.timedelta64(1, "D")
    return "middle" if steps.size and 28 <= np.median(steps) <= 31 else "start"


def _scalar(raw: xr.Dataset, name: str) -> np.ndarray | None:
    values = number(raw, name)
    return values if values.size else None


def _scalars(raw: xr.Dataset) -> dict[str, float]:
    """Scalars of the file and their attributes, as attributes: PEQ_CUE, PEQ_CUE_unc, ..."""
    found = {}
    for name, variable in raw.variables.items():
        if variable.size == 1 and "time" not in variable.dims and variable.dtype.kind in "fiu":
            found[str(name)] = float(variable.values.ravel()[0])
            found |= {f"{name}_{key}": value for key, value in variable.attrs.items()}
    return found


# ---------------------------------------------------------------------- validation


def read_cardamom_validation(path: str | Path, locations: str | Path | None = None) -> xr.Dataset:
    """Read validation_<site>.csv of CARDAMOM-FLUXVAL: monthly GPP, NEE and ET of the months that were held out, in the normal form.

    The month is read from Date (YYYYMM) and checked against ID, which is 1 in January 2001. `locations` as in `read_cbf`.
    Raises FileNotFoundError, or ValueError for a fault of the file.
    """
    from landcal_jax.io.readers.delimited import Sheet, compact_stamps

    path = existing(path, "a CSV file of CARDAMOM-FLUXVAL")
    sheet = Sheet(path, what="a CSV file of CARDAMOM-FLUXVAL")
    date = next((name for name in sheet.names if name.startswith("Date")), None)
    names = {"GPP": ("gpp", "gC m-2 d-1"), "NEE": ("nee", "gC m-2 d-1"), "ET": ("evapotranspiration", "mm d-1")}
    missing = [name for name in ("ID", "Date", *names) if name not in sheet.names and not (name == "Date" and date)]
    if missing or date is None:
        raise ValueError(complain(f"columns ID, Date, GPP, NEE, ET in {path.name}", f"no {', '.join(missing)}",
                                  "use a file validation_<site>.csv"))
    frame = sheet.read(("ID", *names), (date,))
    months = compact_stamps(frame[date], path, 6)
    count = (months.year - EPOCH.year) * 12 + months.month
    wrong = frame["ID"].to_numpy() != count
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(complain(f"ID of {path.name} counting the months from January 2001 (ID 1)",
                                  f"ID {frame['ID'].iloc[row]:g} for {frame[date].iloc[row]} in line {frame.index[row]}",
                                  "correct the row"))
    match = SITE.search(path.name.replace("_", " "))
    site, where, history = _validation_site(path, match[0] if match else "", locations)
    columns = {name: Column(frame[theirs].to_numpy(), units, theirs) for theirs, (name, units) in names.items()}
    return normalise(columns, months, step="P1M", path=path, site=site, **where, title=f"Monthly fluxes at {site}, held out for validation",
                     source=f"CARDAMOM, {path.name}", references=REFERENCES, license=LICENCE, history=[
                         *history, *sheet.history, "Units are those that the authors state; the file has none."])


def _validation_site(path: Path, code: str, locations: str | Path | None) -> tuple[str, dict, list[str]]:
    beside = (folder / "location_fluxnet.csv" for folder in (path.parent, path.parent.parent))
    table = Path(locations) if locations else next((file for file in beside if file.is_file()), None)
    if table is None:
        return code or path.stem, {}, ["The position of the site is not in the file, and no table location_fluxnet.csv was found."]
    site, north, east = row_of(read_site_table(table), code, table)
    return site, {"latitude": north, "longitude": east}, [f"The position of the site was taken from {table.name}."]


def _is_cbf(head: Head) -> bool:
    return head.name.endswith(".cbf")


def _is_netcdf(head: Head) -> bool:
    dated = " since " in str(head.variables.get("time", {}).get("units", ""))
    return head.is_netcdf and dated and {"T2M_MIN", "T2M_MAX", "SSRD"} <= set(head.variables)


def _is_validation(head: Head) -> bool:
    names = head.columns()
    return bool(head.text) and names[:1] == ["ID"] and {"GPP", "NEE", "ET"} <= set(names) and names[1].startswith("Date")


def _brings(extra: str = "") -> str:
    return f"monthly drivers; gpp, nee, lai, evapotranspiration, biomass{extra}"


FORMATS: tuple[Format, ...] = (
    Format("CARDAMOM binary, .cbf", _is_cbf, read_cbf, _brings()),
    Format("CARDAMOM NetCDF, .cbf.nc", _is_netcdf, read_cbf_netcdf, _brings(", snow_cover")),
    Format("CARDAMOM-FLUXVAL validation, CSV", _is_validation, read_cardamom_validation, "monthly gpp, nee, evapotranspiration"),
    *site_tables.FORMATS)
