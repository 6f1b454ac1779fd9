"""Readers of snow stations: FSM, PROMICE (as icemodel gives it), SMET, PANGAEA's daily file of Col de Porte, GEOtop.

When an hour's stamp means its start or its end is in none of these files. It was found from the sun: the hour of a row
is where the file's shortwave follows the sun above the station best, and exceeds it least.

- FSM (Col de Porte 2005-06, Alptal 2004-05, Sodankyla 2013-14): UTC, the **end** of the hour, whether hours run 0..23 or
  1..24; an hour 24 is 00:00 of the next day. (Centroid of shortwave at Col de Porte 12.12 on clear days; noon there is
  11.62 UTC, so the mean of an hour stands half an hour late.)
- PROMICE, hourly: UTC, the **start** of the hour (best at +0.5 h, both stations).
- SMET (module `smet`): the end of the step (documentation of MeteoIO); the header gives the time zone.
- GEOtop's Col de Porte: the end of the hour, UTC.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import read_text
from landcal_jax.io.normal import Column, normalise
from landcal_jax.io.readers import smet
from landcal_jax.io.readers.rows import is_number, split_rows
from landcal_jax.io.recognition import Format, Head

# Stations whose files do not say where they are: latitude, longitude in degrees (Morin et al. 2012, doi:10.5194/essd-4-13-2012;
# Staehli and Gustafsson 2006, doi:10.1002/hyp.6158; Essery et al. 2016, doi:10.5194/gi-5-219-2016; Fausto et al. 2021,
# doi:10.5194/essd-13-3819-2021).
STATIONS = {
    "CdP": (45.30, 5.77), "Alptal": (47.05, 8.72), "Sod": (67.37, 26.63),
    "KAN_L": (67.10, -49.95), "KAN_M": (67.07, -48.84), "KAN_U": (67.00, -47.03)}
MORIN = ("Morin, S. et al. (2012): An 18-yr long (1993-2011) snow and meteorological dataset from a mid-altitude mountain site. "
         "Earth System Science Data 4, 13-21. https://doi.org/10.5194/essd-4-13-2012")
FAUSTO = ("Fausto, R. S. et al. (2021): Programme for Monitoring of the Greenland Ice Sheet (PROMICE) automatic weather station data. "
          "Earth System Science Data 13, 3819-3845. https://doi.org/10.5194/essd-13-3819-2021")
FSM_REFERENCE = "Essery, R. (2015): A factorial snowpack model (FSM 1.0). https://doi.org/10.5194/gmd-8-3867-2015"
MISSING = (-99.0, -9999.0)

# name of the normal form, unit in the file, name in the file
FSM_MET = (("shortwave", "W m-2", "SW"), ("longwave", "W m-2", "LW"), ("snowfall", "kg m-2 s-1", "Sf"), ("rainfall", "kg m-2 s-1", "Rf"),
           ("temperature", "K", "Ta"), ("relative_humidity", "percent", "RH"), ("wind_speed", "m s-1", "Ua"), ("pressure", "Pa", "Ps"))
# The 13 columns of ESM-SnowMIP, which FSM reads too, have rain before snow and specific humidity before relative.
SNOWMIP_MET = (*FSM_MET[:2], FSM_MET[3], FSM_MET[2], FSM_MET[4], ("specific_humidity", "kg kg-1", "Qa"), *FSM_MET[5:])
FSM_OBSERVED = (("albedo", "1", "albedo"), ("runoff", "kg m-2 d-1", "runoff"), ("snow_depth", "m", "depth"),
                ("snow_water_equivalent", "kg m-2", "SWE"), ("surface_temperature", "degC", "Tsurf"),
                ("soil_temperature", "degC", "Tsoil20"))
PROMICE = (("temperature", "K", "tair"), ("shortwave", "W m-2", "swd"), ("longwave", "W m-2", "lwd"), ("albedo", "1", "albedo"),
           ("wind_speed", "m s-1", "wspd"), ("relative_humidity", "percent", "rh"), ("pressure", "Pa", "psfc"),
           ("surface_temperature", "K", "tsfc"), ("sensible_heat", "W m-2", "shf"), ("latent_heat", "W m-2", "lhf"))
PANGAEA = {"Snow thick": "snow_depth", "SWE": "snow_water_equivalent", "Runoff": "runoff", "Albedo": "albedo"}
GEOTOP = {"prec": ("precipitation", "mm h-1"), "iprec": ("precipitation", "mm h-1"), "ws": ("wind_speed", "m s-1"),
          "windsp": ("wind_speed", "m s-1"), "windspeed": ("wind_speed", "m s-1"), "rh": ("relative_humidity", "percent"),
          "tair": ("temperature", "degC"), "airt": ("temperature", "degC"), "sw": ("shortwave", "W m-2"), "swglob": ("shortwave", "W m-2"),
          "swglobal": ("shortwave", "W m-2"), "lw": ("longwave", "W m-2"), "lwin": ("longwave", "W m-2")}


# ---------------------------------------------------------------------- FSM


def read_fsm_met(path: str | Path) -> xr.Dataset:
    """Read hourly driving data of FSM or FSM2: 12 columns without a header, or the 13 of ESM-SnowMIP (rain before snow).

    Raises ValueError for a row of another width, a cell that is no number, an hour outside 0..24, or impossible values.
    """
    path = Path(path)
    lines = read_text(path, "a file of FSM").split("\n")
    width = 13 if len(lines[0].split()) == 13 else 12
    rows = split_rows(path, lines, 0, width, "driving data of FSM, year month day hour SW LW ...")
    hours = rows.numbers(3, "hour")
    wrong = (hours < 0) | (hours > 24) | np.isnan(hours)
    if wrong.any():
        raise ValueError(complain(f"hours from 0 to 24 in column 4 of {path.name}",
                                  f"{hours[np.argmax(wrong)]:g} on line {rows.lines[int(np.argmax(wrong))]}", "correct the row"))
    stamps = pd.DatetimeIndex(rows.days() + pd.to_timedelta(np.round(hours * 60), unit="min"))
    columns = {name: Column(rows.numbers(4 + place, theirs), units, theirs)
               for place, (name, units, theirs) in enumerate(SNOWMIP_MET if width == 13 else FSM_MET)}
    snow, rain = (np.asarray(columns[name].values) for name in ("snowfall", "rainfall"))
    missing = np.isin(snow, MISSING) | np.isin(rain, MISSING)
    columns["precipitation"] = Column(np.where(missing, np.nan, snow + rain), "kg m-2 s-1", "Sf + Rf")
    site, latitude, longitude = _station(path)
    said = [*rows.said, "Hours were taken as UTC and as the end of each step, as the sun over Col de Porte, Alptal and Sodankyla shows.",
            *([f"The hour 24 ({(hours == 24).sum()} times) is 00:00 of the next day."] if (hours == 24).any() else []),
            *_humid(columns["relative_humidity"].values)]
    return normalise(columns, stamps, path=path, site=site, latitude=latitude, longitude=longitude, label="end", time_zone="UTC",
                     fills=MISSING, title=f"Driving data of FSM at {site}", source=f"FSM, {path.name}",
                     references="\n".join([FSM_REFERENCE, *[MORIN] * (site == "CdP")]), license=_licence(site), history=said)


def read_fsm_observations(path: str | Path) -> xr.Dataset:
    """Read daily observations for FSM: 9 columns without a header (year month day albedo runoff depth SWE Tsurf Tsoil20), -99 missing.

    Raises ValueError for a row of another width, a cell that is no number, or impossible values.
    """
    path = Path(path)
    rows = split_rows(path, read_text(path, "a file of FSM").split("\n"), 0, 9, "observations for FSM, year month day albedo runoff ...")
    columns = {name: Column(rows.numbers(3 + place, theirs), units, theirs) for place, (name, units, theirs) in enumerate(FSM_OBSERVED)}
    site, latitude, longitude = _station(path)
    surface = np.asarray(columns["surface_temperature"].values)
    said = [*rows.said]
    if (surface > 0).any():
        said.append(f"surface_temperature: {(surface > 0).sum()} days are above 0 degC, up to {surface.max():.2f}: no snow, or an error of "
                    "the radiometer.")
    return normalise(columns, rows.days(), path=path, site=site, latitude=latitude, longitude=longitude, step="P1D", time_zone="UTC",
                     fills=MISSING, title=f"Observed snow at {site}", source=f"FSM, {path.name}",
                     references="\n".join([FSM_REFERENCE, *[MORIN] * (site == "CdP")]), license=_licence(site), history=said)


# ---------------------------------------------------------------------- PROMICE


def read_promice(path: str | Path) -> xr.Dataset:
    """Read an hourly PROMICE file as icemodel gives it (.csv or .csv.gz): filled by its authors, nothing marked.

    Turbulent fluxes are positive towards the surface in the file and are turned. `albedo_filled` is 1 in hours without
    light. Precipitation that is 0 throughout is a placeholder and is not taken.
    Raises ValueError for a missing column, a row of another width, or impossible values.
    """
    path = Path(path)
    lines = read_text(path, "an hourly PROMICE file").split("\n")
    names = [cell.strip() for cell in lines[0].split(",")]
    absent = [name for name in ("time_utc", *(each[2] for each in PROMICE)) if name not in names]
    if absent:
        raise ValueError(complain(f"columns time_utc, tair, swd ... of icemodel in {path.name}", f"no column {', '.join(absent)}",
                                  "download the file again"))
    rows = split_rows(path, lines, 1, len(names), "an hourly PROMICE file", ",")
    stamps = rows.stamps(rows.text(names.index("time_utc")), "ISO8601", "2012-01-01 00:00:00")
    raw = {name: rows.numbers(names.index(name), name, np.nan) for name in names if name != "time_utc"}
    columns = {name: Column(raw[theirs], units, theirs) for name, units, theirs in PROMICE}
    site, latitude, longitude = _station(path)
    said = [*rows.said, "The authors of the file have filled all gaps and have marked none.", *_heat_turned(columns, raw, path)]
    dark, held = raw["swd"] <= 0, np.append(False, np.diff(raw["albedo"]) == 0)
    columns["albedo_filled"] = Column(dark.astype(float), "1")
    said += [f"albedo: {held.sum()} hours repeat the hour before (held); albedo_filled is 1 in the {dark.sum()} hours without light. "
             "Weight albedo by shortwave.",
             *_precipitation_said(raw), *_pressure_said(raw["psfc"]),
             f"Columns without a name in the normal form were not taken: {', '.join(sorted({'wdir', 'cfrac'} & set(raw)))}."]
    ds = normalise(columns, stamps, path=path, site=site, latitude=latitude, longitude=longitude, label="start", time_zone="UTC",
                   title=f"Hourly PROMICE record at {site}", source=f"PROMICE by way of icemodel, {path.name}", references=FAUSTO,
                   history=said)
    for name in ds.data_vars:
        if not str(name).endswith("_filled"):
            ds[name].attrs["gap_filled"] = "included, not marked"
    return ds


def _heat_turned(columns: dict[str, Column], raw: dict[str, np.ndarray], path: Path) -> list[str]:
    """Turn the turbulent fluxes, after checking that sensible heat goes to the surface when the air is warmer."""
    gradient, flux = (raw["tair"] - raw["tsfc"]) * raw["wspd"], raw["shf"]
    both = np.isfinite(gradient) & np.isfinite(flux)
    r = np.corrcoef(gradient[both], flux[both])[0, 1] if both.sum() > 2 and flux[both].std() > 0 and gradient[both].std() > 0 else np.nan
    if r < -0.3:
        raise ValueError(complain(f"shf of {path.name} positive towards the surface, as icemodel writes it",
                                  f"a correlation of {r:.2f} with wspd (tair - tsfc)", "multiply shf and lhf by -1"))
    for name in ("sensible_heat", "latent_heat"):
        columns[name] = columns[name]._replace(values=-np.asarray(columns[name].values))
    return [f"sensible_heat and latent_heat are positive towards the surface in the file (r = {r:.2f} with wspd (tair - tsfc)) and were "
            "multiplied by -1."]


def _precipitation_said(raw: dict[str, np.ndarray]) -> list[str]:
    if "ppt" not in raw:
        return []
    why = "is 0 throughout, a placeholder" if not np.nan_to_num(raw["ppt"]).any() else "has no stated unit"
    return [f"precipitation (ppt) {why}; it was not taken."]


def _pressure_said(pressure: np.ndarray) -> list[str]:
    far = np.abs(pressure - np.nanmedian(pressure)) > 8000.0
    if not far.any():
        return []
    return [f"pressure: {far.sum()} hours are more than 80 hPa from the median, up to {np.nanmax(pressure):.0f} Pa; they were kept."]


# ---------------------------------------------------------------------- Col de Porte, daily, and GEOtop


def read_snow_tab(path: str | Path, series: dict[str, str] | None = None) -> xr.Dataset:
    """Read a daily file of snow from PANGAEA (.tab, header in /* */), such as CDP_daily_eval.tab of Col de Porte.

    `series`: text in the heading of the column to take, where there are several of one quantity, such as
    {"snow_water_equivalent": "(pit)", "runoff": "1 m"}; otherwise the first is taken, and the history names the others.
    Raises ValueError for a file without the tab separated heading, or for text that no heading has.
    """
    path = Path(path)
    lines = read_text(path, "a PANGAEA file of snow").split("\n")
    first = next((place for place, line in enumerate(lines) if line.startswith("Date/Time\t")), None)
    if first is None:
        raise ValueError(complain(f"a heading that begins with Date/Time in {path.name}, tab separated", "none",
                                  "download the file again as text"))
    top, heads = "\n".join(lines[:first]), lines[first].split("\t")
    rows = split_rows(path, lines, first + 1, len(heads), "a PANGAEA file", "\t")
    stamps = rows.stamps(rows.text(0), "ISO8601", "1993-09-21")
    said, columns, left = [*rows.said], {}, []
    for name, place in _chosen(heads, series or {}, left, path).items():
        columns[name] = _tab_column(name, heads[place], rows.numbers(place, heads[place], np.nan), said)
    if left:
        said.append(f"Columns not taken: {', '.join(left)}; read_snow_tab(path, series=) chooses.")
    event = re.search(r"Event\(s\):\s*(\S+)", top)
    spot = re.search(r"LATITUDE: (-?[\d.]+) \* LONGITUDE: (-?[\d.]+)", top)
    licence = re.search(r"License:\s*(.+)", top)
    site, latitude, longitude = _station(path) if spot is None else (event[1] if event else path.stem, float(spot[1]), float(spot[2]))
    site = {"CDP": "CdP"}.get(site, site)
    citation = re.search(r"Citation:\s*(.+(?:\n\tIn supplement to:.+)?)", top)
    return normalise(columns, stamps, path=path, site=site, latitude=latitude, longitude=longitude, step="P1D", time_zone="UTC",
                     title=f"Daily snow at {site}", source=f"PANGAEA, {path.name}", history=said,
                     references=re.sub(r"\s+", " ", citation[1]) if citation else MORIN if site == "CdP" else "not stated",
                     license=licence[1].strip() if licence else "not stated")


def _chosen(heads: list[str], series: dict[str, str], left: list[str], path: Path) -> dict[str, int]:
    """Quantity -> place of its column; the headings of the others go to `left`."""
    chosen: dict[str, int] = {}
    for place, head in enumerate(heads[1:], 1):
        name = next((name for start, name in PANGAEA.items() if head.startswith(start)), None)
        if name is None or name in chosen or series.get(name, "") not in head:
            left.append(head)
        else:
            chosen[name] = place
    lacking = [name for name in series if name not in chosen]
    if lacking or not chosen:
        wanted = "".join(f", {name} with {series[name]!r} in its heading" for name in lacking)
        raise ValueError(complain(f"columns of snow in {path.name}{wanted}",
                                  "; ".join(heads[1:])[:300], "choose by a text that one heading has"))
    return chosen


def _tab_column(name: str, head: str, values: np.ndarray, said: list[str]) -> Column:
    units = (re.search(r"\[(.*?)\]", head) or ["", "1"])[1]
    if name == "albedo" and units == "%" and np.isfinite(values).any() and np.nanmax(values) <= 1.0:
        low, high = np.nanmin(values), np.nanmax(values)
        said.append(f"albedo is headed [%] but lies between {low:.2f} and {high:.2f}: it was read as a fraction.")
        units = "1"
    return Column(values, units, head)


def read_geotop(path: str | Path) -> xr.Dataset:
    """Read hourly driving data of GEOtop (`meteo0001.txt`): a header of names, dates as dd/mm/yyyy hh:mm, -9999 missing.

    Raises ValueError for a row of another width, a stamp of another form, or a file without a known column.
    """
    path = Path(path)
    lines = read_text(path, "a meteorological file of GEOtop").split("\n")
    names = [cell.strip() for cell in lines[0].split(",")]
    rows = split_rows(path, lines, 1, len(names), "a meteorological file of GEOtop", ",")
    stamps = rows.stamps(rows.text(0), "%d/%m/%Y %H:%M", "21/09/2001 00:00")
    columns, left = {}, []
    for place, theirs in enumerate(names[1:], 1):
        name, units = GEOTOP.get(theirs.lower(), ("", ""))
        if not name or name in columns:
            left.append(theirs)
        else:
            columns[name] = Column(rows.numbers(place, theirs), units, theirs)
    if not columns:
        raise ValueError(complain(f"a column of GEOtop ({', '.join(sorted(GEOTOP))}) in {path.name}", ", ".join(names),
                                  "rename the columns"))
    said = [*rows.said, "Hours were taken as UTC and as the end of each step, as the sun over Col de Porte shows.",
            *_humid(columns["relative_humidity"].values if "relative_humidity" in columns else [])]
    if left:
        said.append(f"Columns without a name in the normal form, or of which another was taken: {', '.join(left)}; they were not taken.")
    return normalise(columns, stamps, path=path, site=path.stem, label="end", time_zone="UTC", title=f"Driving data of GEOtop, {path.name}",
                     source=f"GEOtop, {path.name}", history=said)


# ---------------------------------------------------------------------- shared


def _station(path: Path) -> tuple[str, float | None, float | None]:
    """Site, latitude and longitude of a file named after one of `STATIONS`; otherwise the name of the file."""
    words = re.split(r"[_.\-]", path.name.lower())
    for site, (latitude, longitude) in STATIONS.items():
        if site.lower() in words or site.lower().replace("_", "") in words or site.lower() in path.name.lower().split("."):
            return site, latitude, longitude
    return path.name.split(".")[0], None, None


def _licence(site: str) -> str:
    """Of the files that come with FSM and FSM2; nothing is known of others."""
    known = {"CdP": "CC-BY-3.0 (data of Morin et al. 2012); repository MIT", "Alptal": "repository MIT", "Sod": "repository MIT"}
    return known.get(site, "not stated")


def _humid(percent) -> list[str]:
    over = np.asarray(percent, dtype=float) > 100
    return [f"relative_humidity: {over.sum()} values are above 100 %, up to {np.max(percent):g}; they were kept."] * bool(over.any())


def _dated(head: Head, widths: tuple[int, ...]) -> bool:
    """Whether the first line is numbers only, as many as one of `widths`, that begin with year, month and day."""
    cells = head.lines[0].split() if head.lines else []
    if len(cells) not in widths or not all(map(is_number, cells)):
        return False
    year, month, day = map(float, cells[:3])
    return 1800 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= 31


def _looks_geotop(head: Head) -> bool:
    return (len(head.lines) > 1 and head.columns()[0].lower().startswith("date")
            and re.match(r"\d\d/\d\d/\d{4} \d\d:\d\d,", head.lines[1]) is not None
            and any(name.lower() in GEOTOP for name in head.columns()))


def _looks_promice(head: Head) -> bool:
    return {"time_utc", "tair", "swd", "albedo", "tsfc"} <= set(head.columns())


def _looks_pangaea(head: Head) -> bool:
    line = next((line for line in head.lines if line.startswith("Date/Time\t")), "")
    return any(cell.startswith(tuple(PANGAEA)) for cell in line.split("\t"))


FORMATS = (
    Format("FSM driving data, 12 or 13 columns", lambda head: _dated(head, (12, 13)), read_fsm_met,
           "meteorology with snow and rain, hourly"),
    Format("FSM observations, 9 columns", lambda head: _dated(head, (9,)), read_fsm_observations, "albedo, runoff, snow depth, SWE, daily"),
    Format("PROMICE hourly CSV of icemodel", _looks_promice, read_promice, "meteorology, albedo, turbulent fluxes, hourly"),
    *smet.FORMATS,
    Format("PANGAEA .tab of snow", _looks_pangaea, read_snow_tab, "snow depth, SWE, runoff, albedo, daily"),
    Format("GEOtop meteorological file", _looks_geotop, read_geotop, "meteorology, hourly"),
)
