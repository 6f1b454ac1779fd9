"""Readers of air: mole fractions of CO2 and CH4, footprints of transport models, fluxes on a grid, and plain arrays.

Mole fractions are series at a site, in the normal form. Footprints and gridded fluxes keep their own dimensions and units
and carry the attribute kind = "field"; a .npy file becomes kind = "array".

A standard deviation within the month or the minute is `_variability`, not `_uncertainty`: it says how the air varied,
not how well its mean is known.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import open_netcdf, read_npy, read_text, sha256
from landcal_jax.io.normal import Column, normalise
from landcal_jax.io.readers.netcdf import check_reference
from landcal_jax.io.readers.rows import Rows, is_number, split_rows
from landcal_jax.io.recognition import Format, Head

# Stations of files that do not say where they are: latitude, longitude in degrees (site pages of NOAA GML; openghg).
STATIONS = {"MLO": (19.5362, -155.5763), "SMO": (-14.2474, -170.5644), "BRW": (71.3230, -156.6114), "SPO": (-89.98, -24.80),
            "MKO": (19.8231, -155.4694), "ALT": (82.4508, -62.5072), "TAC": (52.5177, 1.1386)}
SPECIES = {"co2": ("co2_mole_fraction", "ppm"), "ch4": ("ch4_mole_fraction", "ppb")}
NOAA_FILLS = (-999.99, -999.999, -99.99, -9.99)
CC0 = "CC0-1.0 (NOAA)"
LAN = "Lan, X., Tans, P. and Thoning, K. W.: Trends in CO2, NOAA Global Monitoring Laboratory. https://doi.org/10.15138/9N0H-ZH07"
TRENDY = re.compile(r"Annee_(\d{4})=(\S+)")
WITHIN = {"fp": (0.0, 1e6), "flux": (-1.0, 1.0)}  # footprint [(mol/mol)/(mol/m2/s)] and flux [mol/m2/s] on Earth


# ---------------------------------------------------------------------- NOAA GML


def read_noaa(path: str | Path) -> xr.Dataset:
    """Read a text file of NOAA GML: in-situ series (qcflag, value_std_dev, nvalue) or the monthly means of flasks.

    Values with a rejection flag (first character of qcflag other than a point) are masked; those with a selection flag
    are kept and counted. Raises ValueError for another gas than CO2 and CH4, a row of another width, or an impossible value.
    """
    path = Path(path)
    lines = read_text(path, "a text file of NOAA GML").split("\n")
    first = next((place for place, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = _noaa_header(lines[:first], path)
    if "data_fields" in header:
        return _noaa_flask(path, lines, first, header)
    names = lines[first].split() if first < len(lines) else []
    absent = [name for name in ("datetime", "value", "qcflag") if name not in names]
    if absent:
        raise ValueError(complain(f"columns datetime, value and qcflag in {path.name}", f"no {', '.join(absent)} in line {first + 1}",
                                  "download the file again"))
    rows = split_rows(path, lines, first + 1, len(names), "a text file of NOAA GML")
    stamps = rows.stamps(rows.text(names.index("datetime")), "%Y-%m-%dT%H:%M:%SZ", "1974-01-01T00:00:00Z")
    _check_columns(stamps, rows, names, path)
    name, units = _species(header.get("dataset_parameter", ""), path)
    units = header.get("value:units", units)
    columns, said = _noaa_columns(rows, names, name, units)
    site = header.get("site_code", rows.cells[0][0])
    near = STATIONS.get(site, (np.nan, np.nan))
    return normalise(columns, stamps, path=path, site=site, latitude=_place(header, "site_latitude", near[0]),
                     longitude=_place(header, "site_longitude", near[1]), label="start", time_zone="UTC", fills=NOAA_FILLS,
                     title=header.get("dataset_description", f"{name} at {site}"), source=f"NOAA GML, {path.name}",
                     references=header.get("dataset_citation", LAN), license=CC0 if "CC0" in " ".join(header.values()) else "not stated",
                     history=said)


def _check_columns(stamps: pd.DatetimeIndex, rows: Rows, names: list[str], path: Path) -> None:
    """Raise ValueError where datetime and the columns year, month, day, hour name different times."""
    for what in ("year", "month", "day", "hour"):
        if what in names:
            found = rows.numbers(names.index(what), what)
            wrong = found != getattr(stamps, what)
            if wrong.any():
                row = int(np.argmax(wrong))
                raise ValueError(complain(f"datetime and {what} of one time on each row of {path.name}",
                                          f"{stamps[row]} and {what} {found[row]:g} on line {rows.lines[row]}", "download the file again"))


def _noaa_header(lines: list[str], path: Path) -> dict[str, str]:
    header: dict[str, str] = {}
    for line in lines:
        key, colon, value = line.lstrip("# ").partition(" : " if " : " in line else ": ")
        if colon:
            header.setdefault(key.strip(), value.strip())
    stated = header.get("header_lines", header.get("number_of_header_lines", ""))
    found = len(lines) + ("header_lines" in header)  # the newer form counts the line of names
    if stated.isdigit() and int(stated) != found:
        raise ValueError(complain(f"{stated} lines of header in {path.name}, as its first line says", f"{found}",
                                  "download the file again"))
    return header


def _noaa_columns(rows: Rows, names: list[str], name: str, units: str) -> tuple[dict[str, Column], list[str]]:
    """Value and companions, without what NOAA has rejected, and what is to be said."""
    flags = rows.text(names.index("qcflag"))
    rejected, selected = (np.array([flag[place:place + 1] not in (".", "") for flag in flags]) for place in (0, 1))
    value = rows.numbers(names.index("value"), "value")
    missing = np.isin(value, NOAA_FILLS)
    gone = rejected | missing
    columns = {name: Column(np.where(rejected & ~missing, np.nan, value), units, "value")}
    companions = (("uncertainty", "value_unc", units), ("variability", "value_std_dev", units), ("number", "nvalue", "1"))
    for companion, theirs, unit in companions:
        if theirs in names:
            values = rows.numbers(names.index(theirs), theirs)
            columns[f"{name}_{companion}"] = Column(np.where(gone | np.isin(values, (*NOAA_FILLS, -9.0)), np.nan, values), unit, theirs)
    said = [*rows.said,
            f"{name}: {rejected.sum()} rows have a rejection flag in qcflag ({missing.sum()} have the fill value) and were masked; "
            f"{(selected & ~rejected).sum()} rows with a selection flag were kept."]
    return columns, said


def _noaa_flask(path: Path, lines: list[str], first: int, header: dict[str, str]) -> xr.Dataset:
    fields = header["data_fields"].split()
    if fields != ["site", "year", "month", "value"]:
        raise ValueError(complain(f"data_fields: site year month value in {path.name}", header["data_fields"],
                                  "take the monthly file (_month.txt)"))
    rows = split_rows(path, lines, first, 4, "a monthly flask file of NOAA GML")
    months = rows.stamps([f"{year}-{month:0>2}" for year, month in zip(rows.text(1), rows.text(2), strict=True)], "%Y-%m", "2024 1")
    sites = sorted(set(rows.text(0)))
    if len(sites) > 1:
        raise ValueError(complain(f"one site in {path.name}", ", ".join(sites[:5]), "select one site first"))
    name, units = _species(path.name.split("_")[0], path)
    latitude, longitude = STATIONS.get(sites[0], (None, None))
    return normalise({name: Column(rows.numbers(3, "value"), units, "value")}, months, path=path, site=sites[0], latitude=latitude,
                     longitude=longitude, step="P1M", time_zone="UTC", fills=NOAA_FILLS, title=f"Monthly means of flasks at {sites[0]}",
                     source=f"NOAA GML, {path.name}", references=LAN, license=CC0,
                     history=[*rows.said, f"The file states no unit; NOAA gives {path.name.split('_')[0].upper()} in {units}."])


def _species(text: str, path: Path) -> tuple[str, str]:
    if text.lower() not in SPECIES:
        raise ValueError(complain(f"CO2 or CH4 in {path.name}", repr(text), "other gases have no name in the normal form yet"))
    return SPECIES[text.lower()]


def _place(header: dict[str, str], key: str, otherwise: float) -> float:
    return float(header[key]) if is_number(header.get(key, "")) else otherwise


# ---------------------------------------------------------------------- datasets/co2-ppm and TRENDY


def read_co2_ppm(path: str | Path) -> xr.Dataset:
    """Read a CSV of github.com/datasets/co2-ppm: co2-mm-mlo, co2-mm-gl, co2-annmean-mlo or co2-annmean-gl.

    The headers of the monthly files name fewer columns than their rows have: they are of an older edition. The columns
    are those of NOAA: date, decimal date, mean, mean without the season, days, standard deviation of the days,
    uncertainty (Mauna Loa, 7), or date, decimal date, mean, its uncertainty, trend, its uncertainty (global, 6).
    Missing are -99.99, -9.99, -0.99, and -1 for days. Raises ValueError for other rows, or dates that contradict each other.
    """
    path = Path(path)
    lines = read_text(path, "a CSV file of CO2").split("\n")
    width = len(lines[1].split(",")) if len(lines) > 1 else 0
    header = [cell.strip() for cell in lines[0].split(",")]
    rows = split_rows(path, lines, 1, width, "a CSV file of CO2", ",")
    annual, name = header[0] == "Year", "co2_mole_fraction"
    if not (annual and width == 3 or not annual and width in (6, 7)):
        raise ValueError(complain(f"3 (annual), 6 (global) or 7 (Mauna Loa) cells on each row of {path.name}", f"{width}",
                                  "download the file again"))
    if width == 7 and "Interpolated" not in header:
        raise ValueError(complain(f"7 cells on each row of {path.name} below a header of Mauna Loa (Interpolated, Number of Days)",
                                  ", ".join(header), "download the file again"))
    stamps = rows.stamps(rows.text(0), "%Y" if annual else "%Y-%m", "1979" if annual else "1979-01")
    if not annual:
        _check_decimal(stamps, rows, path)
    place = 1 if annual else 2
    columns, said = {name: Column(rows.numbers(place, "mean"), "ppm", header[place])}, [*rows.said]
    if not annual and width != len(header):
        said.append(f"The header names {len(header)} columns but rows have {width}: it is of an older edition, and the columns were taken "
                    "by their place.")
    if not annual and width == len(header):
        said.append("Average is the monthly mean; columns Interpolated, Trend and Number of Days were not taken.")
    elif width == 7:
        _mauna_loa_columns(rows, stamps, columns, said)
    else:
        uncertainty = _masked(rows.numbers(2 if annual else 3, "uncertainty"), -0.99)
        columns[f"{name}_uncertainty"] = Column(uncertainty, "ppm", "uncertainty of the mean")
    site = "MLO" if width == 7 or "mlo" in path.name.lower() or (not annual and width == len(header)) else "global"
    latitude, longitude = STATIONS.get(site, (None, None))
    return normalise(columns, stamps, path=path, site=site, latitude=latitude, longitude=longitude, step="P1Y" if annual else "P1M",
                     time_zone="UTC", fills=(-99.99,), title=f"CO2 in air, {'Mauna Loa' if site == 'MLO' else 'mean of marine sites'}",
                     source=f"NOAA GML by way of datasets/co2-ppm, {path.name}", references=LAN, license="ODC-PDDL-1.0", history=said)


def _masked(values: np.ndarray, *fills: float) -> np.ndarray:
    return np.where(np.isin(values, fills), np.nan, values)


def _mauna_loa_columns(rows: Rows, stamps: pd.DatetimeIndex, columns: dict[str, Column], said: list[str]) -> None:
    """Companions of the means of Mauna Loa: an uncertainty of 0.00 stands where NOAA could compute none."""
    days, error = _masked(rows.numbers(4, "days"), -1.0), rows.numbers(6, "uncertainty")
    filled = ~(days > 0) & np.asarray(stamps >= "1974-05-01")
    columns |= {"co2_mole_fraction_uncertainty": Column(_masked(error, -0.99, 0.0), "ppm", "uncertainty of the mean"),
                "co2_mole_fraction_variability": Column(_masked(rows.numbers(5, "deviation"), -9.99), "ppm", "standard deviation of days"),
                "co2_mole_fraction_number": Column(days, "1", "number of days"),
                "co2_mole_fraction_filled": Column(filled.astype(float), "1")}
    said.append(f"{np.isnan(days).sum()} months have no number of days; before May 1974 they are measurements of Scripps, and a mean that "
                f"was interpolated is not marked. Later, {filled.sum()} months without a day have co2_mole_fraction_filled = 1.")
    if (error == 0).any():
        said.append(f"{(error == 0).sum()} uncertainties of 0.00 were masked: NOAA could compute none.")


def _check_decimal(stamps: pd.DatetimeIndex, rows: Rows, path: Path) -> None:
    off = np.abs(rows.numbers(1, "decimal date") - (stamps.year + (stamps.month - 0.5) / 12))
    if (off > 0.05).any():
        row = int(np.argmax(off))
        raise ValueError(complain(f"date and decimal date of one month on each row of {path.name}",
                                  f"{', '.join(rows.cells[row][:2])} on line {rows.lines[row]}", "download the file again"))


def read_trendy_co2(path: str | Path) -> xr.Dataset:
    """Read the annual CO2 of TRENDY as CalLMIP gives it: lines Annee_1700=277.57, in ppm.

    Years that are absent are counted in the history. Raises ValueError for a line of another form, or years out of order.
    """
    path = Path(path)
    text = read_text(path, "the annual CO2 of TRENDY")
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    found = [TRENDY.fullmatch(line) for line in lines]
    wrong = next((place for place, match in enumerate(found) if match is None or not is_number(match[2])), None)
    if wrong is not None:
        raise ValueError(complain(f"lines like Annee_1700=277.57 in {path.name}", f"{lines[wrong][:60]!r} on line {wrong + 1}",
                                  "download the file again"))
    years, values = [match[1] for match in found if match], [float(match[2]) for match in found if match]
    whole = [] if text.endswith("\n") else ["The last line has no line end, as in the original: check that the last year is whole."]
    rows = Rows(path, [[year] for year in years], list(range(1, len(years) + 1)), whole)
    return normalise({"co2_mole_fraction": Column(values, "ppm", "Annee")}, rows.stamps(years, "%Y", "1700"), path=path, site="global",
                     step="P1Y", time_zone="UTC", title="Annual CO2 in air, global mean",
                     source=f"TRENDY by way of CalLMIP Phase 1, {path.name}",
                     references="https://github.com/callmip-org/Phase1", license="repository MIT",
                     history=[*rows.said, "The file states no unit; values are mole fractions in ppm."])


# ---------------------------------------------------------------------- Picarro


def read_picarro(path: str | Path) -> xr.Dataset:
    """Read a Picarro file of GCWerks (SITE.picarro.1minute.100m.dat): three lines of header, yymmdd HHMMSS, C, stdev and N a gas.

    Minutes are stamped at their middle, hours at the mean time of their measurements. Only rows of the type air count.
    Raises ValueError for another header, a row of another width, or a stamp twice.
    """
    path = Path(path)
    lines = read_text(path, "a Picarro file").split("\n")
    gases, names = (lines[place].split() if len(lines) > place else [] for place in (1, 2))
    if names[:4] != ["date", "time", "type", "port"] or len(gases) != len(names):
        raise ValueError(complain(f"names of gases on line 2 and 'date time type port C stdev N' on line 3 of {path.name}",
                                  repr(" ".join(names))[:80], "download the file again"))
    rows = split_rows(path, lines, 3, len(names), "a Picarro file")
    stamps = rows.stamps([f"{day} {time}" for day, time in zip(rows.text(0), rows.text(1), strict=True)], "%y%m%d %H%M%S", "140630 000430")
    air = np.array(rows.text(2)) == "air"
    columns = {}
    for place, (gas, what) in enumerate(zip(gases, names, strict=True)):
        if gas in SPECIES and what in ("C", "stdev", "N"):
            name, units = SPECIES[gas]
            suffix, unit = {"C": ("", units), "stdev": ("_variability", units), "N": ("_number", "1")}[what]
            columns[name + suffix] = Column(np.where(air, rows.numbers(place, f"{gas} {what}"), np.nan), unit, f"{gas} {what}")
    words = path.name.split(".")
    step = {"1minute": "PT1M", "hourly": "PT1H"}.get(words[2] if len(words) > 2 else "")
    middle = bool(((stamps - stamps.floor("min")) == pd.Timedelta("30s")).all())
    site = words[0].upper()
    latitude, longitude = STATIONS.get(site, (None, None))
    said = [*rows.said, "The file states no unit; GCWerks writes CO2 in ppm and CH4 in ppb, dry air, UTC.",
            *[f"{(~air).sum()} rows of another type than air were masked."] * bool((~air).any())]
    if step == "PT1H":
        stamps, middle = stamps.floor("h"), False
        said.append("Stamps are the mean time of the measurements of each hour; here they are its start.")
    gone = sorted(set(gases) - set(SPECIES) - {"-"})
    if gone:
        said.append(f"Gases without a name in the normal form were not taken: {', '.join(gone)}.")
    ds = normalise(columns, stamps, path=path, site=site, latitude=latitude, longitude=longitude, label="middle" if middle else "start",
                   step=step, time_zone="UTC", title=f"Mole fractions at {site}", source=f"Picarro, {path.name}", history=said)
    return ds.assign_attrs(inlet=words[3]) if len(words) > 4 else ds


# ---------------------------------------------------------------------- fields and arrays


def read_openghg(path: str | Path) -> xr.Dataset:
    """Read a footprint (fp), a flux on a grid (flux) or mole fractions at the edges of a domain (vmr_n ...) of openghg.

    Dimensions and units stay as they are; times are decoded. Raises ValueError for a grid off the globe, times without a
    unit, or values that cannot be.
    """
    path = Path(path)
    raw = open_netcdf(path, "a NetCDF file of openghg")
    main = next((name for name in ("fp", "flux", "vmr_n") if name in raw), "")
    if not main:
        raise ValueError(complain(f"a variable fp, flux or vmr_n in {path.name}", ", ".join(map(str, raw)), "see the tutorial of openghg"))
    said = []
    for axis, limit in (("lat", 90.0), ("lon", 360.0)):
        _check_axis(raw, axis, limit, path)
    ds = _decoded(raw, path)
    for name, (low, high) in WITHIN.items():
        if name in ds:
            wrong = (ds[name].values < low) | (ds[name].values > high)  # land is NaN in fluxes of the ocean
            if wrong.any():
                units, first = ds[name].attrs.get("units", ""), ds[name].values[wrong][0]
                raise ValueError(complain(f"{name} between {low:g} and {high:g} {units} in {path.name}",
                                          f"{first:g} and {wrong.sum() - 1} more such values", "download the file again"))
    for name, variable in ds.data_vars.items():
        gaps = int(np.isnan(variable.values).sum()) if variable.dtype.kind == "f" else 0
        if gaps:
            said.append(f"{name}: {gaps} of {variable.size} values are NaN in the file and were left so.")
        if not variable.attrs.get("units"):
            variable.attrs.pop("units", None)
            said.append(f"{name} has no units in the file.")
    attrs = {"kind": "field", "title": str(raw.attrs.get("title", f"{main} of {path.stem}")), "source": f"openghg, {path.name}",
             "references": "https://github.com/openghg/openghg",
             "license": "Apache-2.0 (test data of openghg)" if "TEST" in path.name else "not stated",
             "sha256": sha256(path), "history": "\n".join(said or ["Values and units are those of the file."])}
    return ds.assign_attrs(attrs)


def _check_axis(raw: xr.Dataset, axis: str, limit: float, path: Path) -> None:
    if axis not in raw.coords or raw[axis].ndim != 1:
        raise ValueError(complain(f"a coordinate {axis} in {path.name}", ", ".join(map(str, raw.coords)), "see the tutorial of openghg"))
    values = raw[axis].values.astype(float)
    steps = np.diff(values)
    if not (np.abs(values) <= limit).all() or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(complain(f"{axis} in degrees, in order, in {path.name}", f"{values[:4].tolist()} ...", "download the file again"))


def _decoded(raw: xr.Dataset, path: Path) -> xr.Dataset:
    """`raw` with its times as dates."""
    if "time" not in raw.variables:
        return raw
    check_reference(str(raw["time"].attrs.get("units", "none")), f"times in CF units in {path.name}")
    try:
        time = xr.decode_cf(raw[["time"]])["time"]
    except (ValueError, OverflowError, TypeError) as error:
        raise ValueError(complain(f"times in CF units in {path.name}", str(raw["time"].attrs.get("units", "none"))[:80],
                                  "download the file again")) from error
    if time.dtype.kind != "M" or (time.ndim and not (np.diff(time.values) > np.timedelta64(0, "ns")).all()):
        raise ValueError(complain(f"times in CF units, increasing, in {path.name}", str(raw["time"].attrs.get("units", "no units")),
                                  "sort by time"))
    return raw.assign_coords(time=time)


def read_array(path: str | Path) -> xr.Dataset:
    """Read a .npy file of numbers as the variable `array`, with dimensions dim_0, dim_1 ...; nothing is unpickled.

    Raises ValueError for anything but whole or real numbers, or an empty array.
    """
    path = Path(path)
    values = read_npy(path)
    if values.dtype.kind not in "iuf" or not values.size:
        raise ValueError(complain(f"whole or real numbers in {path.name}", f"{values.size} values of type {values.dtype}",
                                  "save it as float64"))
    gaps = int((~np.isfinite(values)).sum()) if values.dtype.kind == "f" else 0
    said = "The file states neither units nor dimensions." + f" {gaps} values are not finite." * bool(gaps)
    return xr.Dataset({"array": (tuple(f"dim_{place}" for place in range(values.ndim)), values)}, attrs={
        "kind": "array", "title": f"Array of {path.name}", "source": path.name, "references": "not stated", "license": "not stated",
        "sha256": sha256(path), "history": said})


# ---------------------------------------------------------------------- recognition


def _looks_noaa(head: Head) -> bool:
    start = head.lines[0] if head.lines else ""
    return start.startswith(("# header_lines :", "# number_of_header_lines:")) and "GML" in head.text


def _looks_openghg(head: Head) -> bool:
    names = head.variables
    return {"lat", "lon"} <= set(names) and ("fp" in names or "vmr_n" in names or "mol/m2/s" in str(names.get("flux", {}).get("units", "")))


def _looks_co2_ppm(head: Head) -> bool:
    return head.columns()[:3] == ["Date", "Decimal Date", "Average"] or (
        head.columns() == ["Year", "Mean", "Uncertainty"] and head.name.startswith("co2"))


FORMATS = (
    Format("NOAA GML text", _looks_noaa, read_noaa, "mole fraction of CO2 or CH4, monthly"),
    Format("co2-ppm CSV", _looks_co2_ppm, read_co2_ppm, "mole fraction of CO2, monthly or annual"),
    Format("TRENDY annual CO2", lambda head: bool(head.lines) and TRENDY.match(head.lines[0]) is not None, read_trendy_co2, "CO2, annual"),
    Format("Picarro .dat of GCWerks", lambda head: head.name.endswith(".dat") and len(head.lines) > 2
           and head.lines[2].split()[:4] == ["date", "time", "type", "port"], read_picarro, "mole fractions, minutes"),
    Format("openghg NetCDF", _looks_openghg, read_openghg, "footprint, gridded flux or mole fractions at the edges"),
    Format("NumPy array, .npy", lambda head: head.bytes.startswith(b"\x93NUMPY"), read_array, "one array"),
)
