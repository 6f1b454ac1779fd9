"""Readers of tower data in the files that models and packages bring: JAX-CanVeg, bigleaf, REddyProc, rsofun, PEPRMT.

None of these files says its units or where the site is, so both stand here, with where they are written down.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import sha256
from landcal_jax.io.fills import without_marks
from landcal_jax.io.normal import Column, normalise
from landcal_jax.io.quantities import quantity
from landcal_jax.io.readers.delimited import Sheet, iso_stamps, light_centroid, ordinal_stamps
from landcal_jax.io.recognition import Format, Head
from landcal_jax.io.units import convert

PLACE = "The file does not say where the site is: give latitude= and longitude= (or --latitude and --longitude)."
FLUXNET2015 = ("Pastorello, G. et al. (2020): The FLUXNET2015 dataset and the ONEFlux processing pipeline for eddy "
               "covariance data. Scientific Data 7, 225. https://doi.org/10.1038/s41597-020-0534-3")
CANVEG = ("Jiang, P. et al. (2025): JAX-CanVeg: A Differentiable Land Surface Model. Water Resources Research 61, e2024WR038116. "
          "https://doi.org/10.1029/2024WR038116. https://github.com/pnnl/JAX-CanVeg")
BIGLEAF = ("Knauer, J. et al. (2018): Bigleaf - An R package for the calculation of physical and physiological ecosystem properties "
           "from eddy covariance data. PLoS ONE 13, e0201114. https://doi.org/10.1371/journal.pone.0201114")
REDDYPROC = ("Wutzler, T. et al. (2018): Basic and extensible post-processing of eddy covariance flux data with REddyProc. "
             "Biogeosciences 15, 5015-5030. https://doi.org/10.5194/bg-15-5015-2018")
RSOFUN = ("Stocker, B. D. et al. (2020): P-model v1.0. Geoscientific Model Development 13, 1545-1581. "
          "https://doi.org/10.5194/gmd-13-1545-2020. https://github.com/geco-bern/rsofun")
PEPRMT = ("Oikawa, P. Y. et al. (2024): A new coupled biogeochemical modeling approach provides accurate predictions of methane and "
          "carbon dioxide fluxes across diverse tidal wetlands. Journal of Geophysical Research: Biogeosciences 129, e2023JG007943. "
          "https://doi.org/10.1029/2023JG007943. https://github.com/abbylewis/PEPRMT-Tidal")

# Column of the file -> quantity, unit in the file.
CANVEG_COLUMNS = {
    "TA_F": ("temperature", "degC"), "SW_IN_F": ("shortwave", "W m-2"), "eair": ("vapour_pressure", "kPa"),
    "WS_F": ("wind_speed", "m s-1"), "CO2_F_MDS": ("co2", "ppm"), "PA_F": ("pressure", "kPa"), "USTAR": ("friction_velocity", "m s-1"),
    "SWC_F_MDS_1": ("soil_moisture", "m3 m-3"), "veg_ht": ("canopy_height", "m"), "LAI": ("lai", "m2 m-2"),
    "P_F": ("precipitation", "mm per step"), "LE_F_MDS": ("latent_heat", "W m-2"), "H_F_MDS": ("sensible_heat", "W m-2"),
    "NETRAD": ("net_radiation", "W m-2"), "G_F_MDS": ("ground_heat", "W m-2"), "PPFD_IN": ("ppfd", "umol m-2 s-1"),
    "NEE_VUT_REF": ("nee", "umol m-2 s-1")}
CANVEG_FORCINGS, CANVEG_FLUXES = {"TIMESTAMP_END", "TA_F", "eair"}, {"TIMESTAMP_END", "LE_F_MDS", "P_F"}
BIGLEAF_COLUMNS = {
    "Tair": ("temperature", "degC"), "PPFD": ("ppfd", "umol m-2 s-1"), "VPD": ("vpd", "kPa"), "pressure": ("pressure", "kPa"),
    "precip": ("precipitation", "mm per step"), "ustar": ("friction_velocity", "m s-1"), "wind": ("wind_speed", "m s-1"),
    "Ca": ("co2", "ppm"), "LW_down": ("longwave", "W m-2"), "Rn": ("net_radiation", "W m-2"), "LE": ("latent_heat", "W m-2"),
    "H": ("sensible_heat", "W m-2"), "G": ("ground_heat", "W m-2"), "NEE": ("nee", "umol m-2 s-1"), "GPP": ("gpp", "umol m-2 s-1"),
    "Reco": ("reco", "umol m-2 s-1"), "SW_down": ("shortwave", "W m-2"), "Rg": ("shortwave", "W m-2")}
REDDYPROC_COLUMNS = {
    "NEE": ("nee", "umol m-2 s-1"), "LE": ("latent_heat", "W m-2"), "H": ("sensible_heat", "W m-2"), "Rg": ("shortwave", "W m-2"),
    "Tair": ("temperature", "degC"), "Tsoil": ("soil_temperature", "degC"), "rH": ("relative_humidity", "percent"),
    "VPD": ("vpd", "hPa"), "Ustar": ("friction_velocity", "m s-1")}
REDDYPROC_UNITS = {"umolm-2s-1": "umol m-2 s-1", "umol_m-2_s-1": "umol m-2 s-1", "Wm-2": "W m-2", "W_m-2": "W m-2", "ms-1": "m s-1",
                   "m_s-1": "m s-1", "%": "percent"}
RSOFUN_COLUMNS = {
    "temp": ("temperature", "degC"), "tmin": ("temperature_min", "degC"), "tmax": ("temperature_max", "degC"), "vpd": ("vpd", "Pa"),
    "ppfd": ("ppfd", "mol m-2 s-1"), "netrad": ("net_radiation", "W m-2"), "patm": ("pressure", "Pa"),
    "rain": ("rainfall", "mm s-1"), "snow": ("snowfall", "mm s-1"), "fapar": ("fapar", "1"), "co2": ("co2", "ppm")}
RSOFUN_TABLES = {
    "lon": ("degrees_east", "longitude"), "lat": ("degrees_north", "latitude"), "elv": ("m", "elevation"),
    "whc": ("mm", "water holding capacity of the rooting zone"), "spinup": ("1", "whether the model is spun up"),
    "spinupyears": ("yr", "years of spin-up"), "recycle": ("yr", "years of forcing that are repeated in the spin-up"),
    "outdt": ("d", "step of the output")}
PEPRMT_COLUMNS = {
    "TA_C": ("temperature", "degC"), "WTD_cm": ("water_table", "cm"), "PAR_umol_m2_day": ("ppfd", "umol m-2 s-1"),
    "LAI": ("lai", "m2 m-2"), "EVI": ("evi", "1"), "Salinity_daily_ave_ppt": ("salinity", "g kg-1"), "CO2_gC_m2_day": ("nee", "gC m-2 d-1"),
    "GPP_gC_m2_day": ("gpp", "gC m-2 d-1"), "Reco_gC_m2_day": ("reco", "gC m-2 d-1"), "CH4_gC_m2_day": ("methane", "gC m-2 d-1")}
PAR_LIMIT = 1000.0  # umol m-2 s-1 as a mean over a day: 485 W m-2 above the atmosphere at midsummer (40 deg N) times 2.06 umol J-1


def saturation_vapour_pressure(temperature: np.ndarray) -> np.ndarray:
    """Saturation vapour pressure over water in hPa, of temperature in degC: Allen et al. (1998), FAO 56, equation 11."""
    return 6.108 * np.exp(17.27 * temperature / (temperature + 237.3))


def _site_of(name: str) -> str:
    found = re.search(r"([A-Z]{2})[-_]([A-Z][A-Za-z0-9]{2})(?![A-Za-z0-9])", name)
    return f"{found.group(1)}-{found.group(2)}" if found else "unknown"


def _columns(frame: pd.DataFrame, table: dict[str, tuple[str, str]], said: list[str]) -> dict[str, Column]:
    """Columns of a frame by a table of names and units, without marks of missing values that nobody declares (-6999, -99.99)."""
    columns = {}
    for theirs, (name, units) in table.items():
        if theirs not in frame:
            continue
        columns[name] = Column(without_marks(frame[theirs], theirs, said), units, theirs)
    return columns


def _not_read(sheet: Sheet, used: set[str]) -> str:
    rest = [name for name in sheet.names if name and name not in used]
    return f"Columns that are not read: {', '.join(rest)}." if rest else ""


def _need(sheet: Sheet, names: set[str], what: str) -> None:
    absent = sorted(names - set(sheet.names))
    if absent:
        raise ValueError(complain(f"columns {', '.join(sorted(names))} in {sheet.path.name} ({what})", f"no {', '.join(absent)}",
                                  "take the file as it was published"))


# ---------------------------------------------------------------------- JAX-CanVeg


def read_jax_canveg(path: str | Path) -> xr.Dataset:
    """Read one file of the pair `SITE-forcings.csv`, `SITE-fluxes.csv` of JAX-CanVeg: gap-filled half-hours of FLUXNET.

    Stamps are the end of each half-hour, local standard time. The vapour pressure `eair` also gives the deficit, with saturation
    after FAO 56. `LE_MODIS` is not in W m-2 and is not read.
    Raises ValueError when light says that the stamps are no ends, or for what `normalise` refuses.
    """
    sheet = Sheet(path, what="a CSV file of JAX-CanVeg")
    path, said = Path(path), list[str]()
    _need(sheet, CANVEG_FORCINGS if "eair" in sheet.names else CANVEG_FLUXES, "JAX-CanVeg")
    soil = [name for name in sheet.names if re.fullmatch(r"TS_F_MDS_\d+", name)]
    table = CANVEG_COLUMNS | {name: ("soil_temperature", "degC") for name in soil[:1]}
    frame = sheet.read([name for name in table if name in sheet.names], texts=["TIMESTAMP_END"])
    time = iso_stamps(frame["TIMESTAMP_END"], path)
    columns = _columns(frame, table, said)
    if "vapour_pressure" in columns and "temperature" in columns:
        columns["vpd"] = Column(_deficit(frame, said), "hPa", "eair and TA_F")
    light = next((frame[name].to_numpy() for name in ("SW_IN_F", "PPFD_IN") if name in frame), None)
    if light is not None:
        said.append(_end_label(time, light, path))
    if "LE_MODIS" in sheet.names:
        said.append("LE_MODIS was not read: its values are no W m-2 (they do not follow the day), though its name is that of a flux.")
    said += [_not_read(sheet, {*table, "TIMESTAMP_END", "LE_MODIS", "Year", "DoY", "Hour"}), PLACE,
             "The file is gap-filled and does not mark where (no _QC)."]
    ds = normalise(columns, time, path=path, site=_site_of(path.name), label="end", step="PT30M", source=f"JAX-CanVeg, {path.name}",
                   references="\n".join((FLUXNET2015, CANVEG)), license="CC-BY-4.0 (AmeriFlux); repository Simplified BSD",
                   title=f"Tower observations at {_site_of(path.name)}", history=[*sheet.history, *filter(None, said)])
    for name in ds.data_vars:
        if name not in ("lai", "canopy_height", "friction_velocity"):
            ds[name].attrs["gap_filled"] = "included, not marked"
    return ds


def _deficit(frame: pd.DataFrame, said: list[str]) -> np.ndarray:
    temperature, vapour = (frame[name].replace(-9999.0, np.nan).to_numpy() for name in ("TA_F", "eair"))
    deficit = saturation_vapour_pressure(temperature) - 10.0 * vapour
    damp, wrong = (deficit < 0) & (deficit >= -1), deficit < -1
    said.append("vpd is saturation vapour pressure (FAO 56, equation 11: 0.6108 exp(17.27 T / (T + 237.3)) kPa) less eair"
                + f"; {damp.sum()} values between -1 and 0 hPa were set to zero" * bool(damp.any()) + ".")
    if 0 < wrong.sum() <= 0.01 * len(deficit):  # more are a fault of the file, which normalise refuses
        said.append(f"vpd: {wrong.sum()} steps with air above saturation by more than 1 hPa were masked; eair stands as it is.")
        deficit = np.where(wrong, np.nan, deficit)
    return np.where(damp, 0.0, deficit)


def _end_label(time: pd.DatetimeIndex, light: np.ndarray, path: Path) -> str:
    """The sentence about the label; ValueError when light is centred where only stamps of another kind could have it."""
    days = len(time) / 48
    centroid = light_centroid(time, light)
    if days < 5 or not np.isfinite(centroid):
        return "The stamps were taken as ends, as their name says; the record is too short to check them by the light."
    # Solar noon in local standard time lies within a time zone's half-width, the equation of time and clouds of 12 h.
    if not 11.0 <= centroid - 0.25 <= 13.5:
        raise ValueError(complain(f"light around noon, local standard time, in {path.name}", f"light centred on {centroid:.2f} h",
                                  "the stamps are in UTC or in summer time: shift them to local standard time"))
    return (f"Light is centred on {centroid:.2f} h of the stamps, so on {centroid - 0.25:.2f} h in the middle of the steps if the stamps "
            "are ends, as their name says.")


# ---------------------------------------------------------------------- bigleaf


def read_bigleaf(path: str | Path) -> xr.Dataset:
    """Read a half-hourly CSV file of the R package bigleaf (`DE_Tha_Jun_2014` and its like).

    `hour` is the start of each half-hour, local standard time; pressure and VPD in kPa, precipitation in mm a step, `_qc` 0 measured,
    1 good, 2 medium, 3 poor filling. Raises ValueError for what `normalise` refuses.
    """
    sheet = Sheet(path, what="a CSV file of bigleaf")
    path, said = Path(path), list[str]()
    _need(sheet, {"year", "month", "doy", "hour"}, "bigleaf")
    table = {name: what for name, what in BIGLEAF_COLUMNS.items() if name in sheet.names}
    flags = {name: f"{name}_qc" for name in table if f"{name}_qc" in sheet.names}
    frame = sheet.read(["year", "month", "doy", "hour", *table, *flags.values()])
    time = ordinal_stamps(frame["year"], frame["doy"], frame["hour"], path)
    other = np.flatnonzero(time.month != frame["month"])
    if other.size:
        line = frame.index[other[0]]
        raise ValueError(complain(f"month and doy of the same day in {path.name}", f"month {frame['month'][line]:g} and doy "
                                  f"{frame['doy'][line]:g} of {frame['year'][line]:g} in line {line}", "correct the row"))
    columns = _columns(frame, table, said)
    for theirs, flag in flags.items():
        columns[f"{table[theirs][0]}_filled"] = Column(_flag(frame, flag, path), "1", flag)
    said += ["x_filled is 1 where the flag _qc is above 0.", _not_read(sheet, {*frame, "month"}), PLACE]
    if "gpp" in columns:
        said.append("gpp and reco are a partitioning of nee by respiration at night; gpp can be negative.")
    if "Reco" in frame:
        said.append("reco (Reco) is modelled and the file does not mark where.")
    ds = normalise(columns, time, path=path, site=_site_of(path.name), label="start", step="PT30M", source=f"bigleaf, {path.name}",
                   references="\n".join((FLUXNET2015, BIGLEAF)), license="FLUXNET2015 (CC-BY-4.0); package GPL (>= 2)",
                   title=f"Tower observations at {_site_of(path.name)}", history=[*sheet.history, *filter(None, said)])
    if "reco" in ds:
        ds["reco"].attrs["gap_filled"] = "included, not marked"
    return ds


def _flag(frame: pd.DataFrame, flag: str, path: Path) -> np.ndarray:
    qc = frame[flag].replace(-9999.0, np.nan)
    wrong = qc.notna() & ~qc.isin((0, 1, 2, 3))
    if wrong.any():
        raise ValueError(complain(f"{flag} 0, 1, 2 or 3 in {path.name}", f"{qc[wrong].iloc[0]:g} in line {wrong.idxmax()}",
                                  "take the file as it was published"))
    return np.where(qc.isna(), np.nan, qc > 0)


# ---------------------------------------------------------------------- REddyProc


def read_reddyproc(path: str | Path) -> xr.Dataset:
    """Read a half-hourly text file of REddyProc: tab separated, a second row of units, -9999 missing, any kind of line end.

    Year, DoY and Hour are the end of each half-hour (REddyProc's fGetBeginOfEddyPeriod subtracts the step): day 366 of a common
    year is the last midnight, and hour 24 is 0 of the next day. Real gaps: nothing is filled.
    Raises ValueError for a unit that is not known or what `normalise` refuses.
    """
    sheet = Sheet(path, separator="\t", header_lines=1, what="a text file of REddyProc")
    path, said = Path(path), list[str]()
    _need(sheet, {"Year", "DoY", "Hour"}, "REddyProc")
    table = {}
    for theirs, unit in zip(sheet.names, sheet.below[0] if sheet.below else [], strict=False):
        if theirs in REDDYPROC_COLUMNS:
            table[theirs] = (REDDYPROC_COLUMNS[theirs][0], REDDYPROC_UNITS.get(unit, unit))
    frame = sheet.read(["Year", "DoY", "Hour", *table])
    time = ordinal_stamps(frame["Year"], frame["DoY"], frame["Hour"], path)
    beyond = int(((frame["DoY"] == 366) & (frame["Year"] % 4 != 0)).sum())
    if beyond:
        said.append(f"{beyond} rows on day 366 of a common year are of 1 January of the next, as the end of the last step.")
    columns = _columns(frame, table, said)
    said += [_not_read(sheet, set(frame)), PLACE, "Nothing in the file is gap-filled."]
    site = _site_of(path.name) if _site_of(path.name) != "unknown" else _reddyproc_site(path.name)
    return normalise(columns, time, path=path, site=site, label="end", source=f"REddyProc, {path.name}", references=REDDYPROC,
                     license="not stated in the file; package GPL (>= 2)", title=f"Tower observations at {site}",
                     history=[*sheet.history, *filter(None, said)])


def _reddyproc_site(name: str) -> str:
    """The site in names such as Example_DETha98.txt."""
    found = re.search(r"(?:^|_)([A-Z]{2})([A-Z][a-z][a-z0-9])\d\d", name)
    return f"{found.group(1)}-{found.group(2)}" if found else "unknown"


# ---------------------------------------------------------------------- rsofun


def read_rsofun(path: str | Path) -> xr.Dataset:
    """Read a CSV file of the R package rsofun: drivers of the P-model, GPP to validate it, or a table of sites or settings.

    Drivers (`date,temp,vpd,ppfd,...`): degC, Pa, mol m-2 s-1, mm s-1, a mean over each day; 29 February is absent. The site's place is
    taken from `..._site_info.csv` beside the file. Validation: gC m-2 d-1. Tables come back as `kind="table"`.
    Raises ValueError for what `normalise` refuses.
    """
    sheet = Sheet(path, what="a CSV file of rsofun")
    if "date" not in sheet.names:
        return _rsofun_table(sheet)
    path, said = Path(path), list[str]()
    forcing = "gpp" not in sheet.names
    table = RSOFUN_COLUMNS if forcing else {"gpp": ("gpp", "gC m-2 d-1"), "gpp_unc": ("gpp_uncertainty", "gC m-2 d-1")}
    _need(sheet, {"temp", "vpd", "ppfd"} if forcing else {"sitename", "gpp"}, "rsofun")
    frame = sheet.read([name for name in table if name in sheet.names], texts=["date", *([] if forcing else ["sitename"])])
    columns = _columns(frame, table, said)
    if {"rain", "snow"} <= set(frame):
        both = frame[["rain", "snow"]].replace(-9999.0, np.nan).sum(axis=1, skipna=False)
        columns["precipitation"] = Column(both.to_numpy(), "mm s-1", "rain + snow")
        said.append("precipitation is rain + snow.")
    time = iso_stamps(frame["date"], path)
    leap = {year for year in time.year if pd.Timestamp(year, 1, 1).is_leap_year}
    years = sorted(leap - set(time.year[(time.month == 2) & (time.day == 29)]))
    if years:
        said.append(f"29 February is absent from the file in {', '.join(map(str, years))}.")
    site, latitude, longitude = _rsofun_place(path, frame, said)
    said.append(_not_read(sheet, set(frame)))
    if forcing:
        said.append("The drivers are gap-filled and not marked where.")
    ds = normalise(columns, time, path=path, site=site, latitude=latitude, longitude=longitude, step="P1D", source=f"rsofun, {path.name}",
                   references="\n".join((FLUXNET2015, RSOFUN)), license="FLUXNET2015 (CC-BY-4.0); repository GPL-3",
                   title=f"{'Drivers of the P-model' if forcing else 'Gross primary production'} at {site}",
                   history=[*sheet.history, *filter(None, said)])
    for name in ds.data_vars if forcing else ():
        ds[name].attrs["gap_filled"] = "included, not marked"
    return ds


def _rsofun_place(path: Path, frame: pd.DataFrame, said: list[str]) -> tuple[str, float | None, float | None]:
    """Site and place: of the column sitename, else of the folder's name; latitude and longitude of the table beside the file."""
    if "sitename" in frame:
        sites = sorted(frame["sitename"].unique())
        if len(sites) != 1:
            raise ValueError(complain(f"one site in {path.name}", f"{', '.join(sites[:5])}", "select the rows of one site first"))
        site = sites[0]
    else:
        site = _site_of(path.resolve().parent.name)
        said.append(f"The file does not name its site: {site} is that of its folder." if site != "unknown" else
                    "Neither the file nor its folder names the site: give site=\"XX-Abc\" (or --site).")
    beside = path.with_name("p_model_drivers_site_info.csv")
    if not beside.is_file():
        said.append(PLACE)
        return site, None, None
    info = Sheet(beside).read(["lon", "lat"])
    if len(info) != 1:
        said.append(f"{beside.name} beside the file holds {len(info)} sites. {PLACE}")
        return site, None, None
    said.append(f"latitude and longitude are of {beside.name} beside the file.")
    return site, float(info["lat"].iloc[0]), float(info["lon"].iloc[0])


def _rsofun_table(sheet: Sheet) -> xr.Dataset:
    """A table of settings or of sites, with units; TRUE and FALSE as 1 and 0."""
    frame = sheet.read([], texts=sheet.names)
    values = frame.replace({"TRUE": "1", "FALSE": "0"}).apply(pd.to_numeric, errors="coerce")
    wrong = values.isna() & (frame != "")
    if wrong.any(axis=None):
        line, name = wrong.stack().idxmax()
        got = f"{frame.loc[line, name]!r} in column {name}, line {line}"
        raise ValueError(complain(f"numbers, TRUE or FALSE in {sheet.path.name}", got, "correct the cell"))
    columns = {name: (values[name].to_numpy(dtype=float), *RSOFUN_TABLES.get(name, ("1", f"switch {name} of rsofun"))) for name in values}
    return _as_table(columns, {}, sheet, f"rsofun, {sheet.path.name}", RSOFUN, "repository GPL-3", [f"{len(values)} rows."])


def _as_table(columns: dict, coords: dict, sheet: Sheet, source: str, references: str, licence: str, said: list[str]) -> xr.Dataset:
    ds = xr.Dataset(
        {name: ("row", values, {"units": units, "long_name": long_name}) for name, (values, units, long_name) in columns.items()},
        coords={name: ("row", values) for name, values in coords.items()})
    ds.attrs = {"kind": "table", "title": source, "source": source, "references": references, "license": licence,
                "sha256": sha256(sheet.path), "history": "\n".join([*sheet.history, *said])}
    return ds


# ---------------------------------------------------------------------- PEPRMT


def read_peprmt(path: str | Path, site: str | None = None) -> xr.Dataset:
    """Read the daily CSV file of PEPRMT-Tidal: several tidal marshes in one file, gap-filled, without uncertainties.

    `site`: its code, such as "US_EDN" or "US-EDN", for the normal form of that site; without it a file of several sites comes back as a
    table of all rows, `kind="table"`. GPP is negative for uptake in the file and turned here. Units are those of the package's
    documentation (R/example_data.R); PAR is a mean over the day ("average"), so its "umol m-2 d-1" there is umol m-2 s-1.
    Raises ValueError when the site is not in the file.
    """
    sheet = Sheet(path, what="a CSV file of PEPRMT")
    path = Path(path)
    _need(sheet, {"Year", "DOY_disc", "site_char"}, "PEPRMT")
    table = {name: what for name, what in PEPRMT_COLUMNS.items() if name in sheet.names}
    frame = sheet.read(["Year", "DOY_disc", *table], texts=["site_char"])
    sites = list(dict.fromkeys(frame["site_char"]))
    wanted = site.upper().replace("-", "_") if site else sites[0] if len(sites) == 1 else None
    said = ["gpp was multiplied by -1: uptake is negative in the file.", "ppfd is a mean over the day, though its column is named _day.",
            "The fluxes are gap-filled and not marked where; the file has no uncertainties.",
            _not_read(sheet, {*frame}), PLACE]
    if wanted is None:
        return _peprmt_table(frame, table, sites, sheet, said)
    if wanted not in {code.upper() for code in sites}:
        raise ValueError(complain(f"a site of {path.name}: {', '.join(sites)}", repr(site), "name one of these sites"))
    if len(sites) > 1:
        said.insert(0, f"The file holds {len(sites)} sites ({', '.join(sites)}); this is {wanted}.")
    frame = frame[frame["site_char"].str.upper() == wanted]
    ds = normalise(_peprmt_columns(frame, table, said), ordinal_stamps(frame["Year"], frame["DOY_disc"], None, path), path=path,
                   site=wanted.replace("_", "-"), step="P1D", title=f"Tidal marsh {wanted.replace('_', '-')}",
                   source=f"PEPRMT-Tidal, {path.name}", references=PEPRMT, license="repository MIT; AmeriFlux CC-BY-4.0",
                   history=[*sheet.history, *filter(None, said)])
    for name in ("nee", "gpp", "reco", "methane"):
        if name in ds:
            ds[name].attrs["gap_filled"] = "included, not marked"
    return ds


def _peprmt_columns(frame: pd.DataFrame, table: dict[str, tuple[str, str]], said: list[str]) -> dict[str, Column]:
    """Columns of one site, without those that hold nothing, impossible light masked, uptake turned."""
    columns = _columns(frame, table, said)
    for name in [name for name, column in columns.items() if np.isnan(column.values).all()]:
        said.append(f"{name} ({columns.pop(name).name}) holds no values at this site and is left out.")
    if "gpp" in columns:
        columns["gpp"] = columns["gpp"]._replace(values=-np.asarray(columns["gpp"].values))
    if "ppfd" in columns:
        par = np.asarray(columns["ppfd"].values)
        high = par > PAR_LIMIT
        if high.any():
            said.append(f"ppfd: {high.sum()} daily means above {PAR_LIMIT:g} umol m-2 s-1, more than reaches the top of the atmosphere "
                        f"(up to {par[high].max():.0f}, lines {frame.index[high][0]} to {frame.index[high][-1]}), were masked.")
            columns["ppfd"] = columns["ppfd"]._replace(values=np.where(high, np.nan, par))
    if "water_table" in columns and np.nanstd(columns["water_table"].values) < 1.0:
        said.append(f"water_table varies by {np.nanstd(columns['water_table'].values):.2g} cm (standard deviation), as if it were in m; "
                    "it was taken as cm, as its name says. Check it before use.")
    return columns


def _peprmt_table(frame: pd.DataFrame, table: dict[str, tuple[str, str]], sites: list[str], sheet: Sheet, said: list[str]) -> xr.Dataset:
    columns = {}
    for theirs, (name, units) in table.items():
        about = quantity(name)
        values = convert(frame[theirs].to_numpy(), units, about.units, name)
        columns[name] = (-values if name == "gpp" else values, about.units, about.long_name)
    said.insert(0, f"The file holds {len(sites)} sites ({', '.join(sites)}), so this is a table of all {len(frame)} rows; "
                   f"read(path, site=\"{sites[0]}\") (or --site {sites[0]}) gives one of them as a series.")
    said.append("The values of a table are as they stand in the file, impossible ones too; a series is checked.")
    coords = {"site": frame["site_char"].to_numpy(), "time": ordinal_stamps(frame["Year"], frame["DOY_disc"], None, sheet.path)}
    return _as_table(columns, coords, sheet, f"PEPRMT-Tidal, {sheet.path.name}", PEPRMT, "repository MIT; AmeriFlux CC-BY-4.0",
                     [line for line in said if line])


# ---------------------------------------------------------------------- recognition


def _has(*names: str, separator: str = ","):
    def looks_like(head: Head) -> bool:
        return set(names) <= set(head.columns(separator))
    return looks_like


FORMATS = (
    Format("JAX-CanVeg CSV (forcings or fluxes)", lambda head: CANVEG_FORCINGS <= set(head.columns()) or (
        CANVEG_FLUXES <= set(head.columns()) and "TIMESTAMP_START" not in head.columns()), read_jax_canveg,
           "half-hourly meteorology, or nee, latent, sensible and ground heat; gap-filled"),
    Format("bigleaf CSV", _has("year", "month", "doy", "hour"), read_bigleaf, "half-hourly meteorology, fluxes and marks of filling"),
    Format("REddyProc text", _has("Year", "DoY", "Hour", separator="\t"), read_reddyproc, "half-hourly fluxes with gaps, meteorology"),
    Format("rsofun CSV", lambda head: any(set(names) <= set(head.columns()) for names in (
        ("date", "temp", "vpd", "ppfd"), ("sitename", "date", "gpp"), ("lon", "lat", "elv", "whc"), ("spinup", "spinupyears", "recycle"))),
           read_rsofun, "daily drivers of the P-model, gpp with uncertainty, tables of sites and settings"),
    Format("PEPRMT CSV", _has("DOY_disc", "Year", "site_char"), read_peprmt,
           "daily nee, gpp, reco, methane, temperature, light, water table"),
)
