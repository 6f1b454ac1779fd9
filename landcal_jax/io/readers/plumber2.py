"""Reader of half-hourly tower data in the ALMA names of PLUMBER2 (made by FluxnetLSM): its Met and its Flux files.

What these files are, from the code that wrote them (aukkola/FluxnetLSM, R/Handlers_NetCDF.R, and the post-processing of PLUMBER2):
- stamps are the start of each step in local standard time; the attribute `time_zone` of `time` only names the zone of the place
  (Europe/Helsinki). Where it says UTC or hours from it, as other ALMA files do, the stamps are taken as it says;
- flags `x_qc`: 0 measured, 1 to 3 good to poor filling by FLUXNET, 4 ERA-Interim, 5 statistical filling, 101 post-processed.
  Their own percentage of gap-filling counts every flag above 0, and so does this reader;
- dimensions (time, y, x), in old files also z; fill value -9999; latitude and longitude along y and x;
- ALMA signs as FLUXNET has them: NEE, Qle and Qh positive to the atmosphere, Qg and Rnet positive to the surface. The
  standard_name of NEE says downward in newer files; the sign is checked with the data.
"""

import re
from pathlib import Path

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.clocks import LOCAL, clock
from landcal_jax.io.files import open_netcdf
from landcal_jax.io.normal import FILL, Column, normalise, said
from landcal_jax.io.readers.callmip_flux import FLUXNET2015, PLUMBER2, sign_of_nee
from landcal_jax.io.readers.netcdf import code_or_complaint, decoded_clock, number, series, stamps
from landcal_jax.io.recognition import Format, Head

MET = {"temperature": ("Tair",), "specific_humidity": ("Qair",), "relative_humidity": ("RH",), "vpd": ("VPD",), "wind_speed": ("Wind",),
       "pressure": ("Psurf", "PSurf"), "shortwave": ("SWdown",), "longwave": ("LWdown",), "co2": ("CO2air",),
       "lai": ("LAI", "LAI_alternative")}
FLUX = {"nee": ("NEE",), "gpp": ("GPP", "GPP_DT"), "reco": ("Resp", "Reco"), "net_radiation": ("Rnet",), "ground_heat": ("Qg",),
        "friction_velocity": ("Ustar",)}
HEAT = {"latent_heat": "Qle", "sensible_heat": "Qh"}
MARKS = {0: "measured", 1: "well filled", 2: "filled", 3: "poorly filled", 4: "ERA-Interim", 5: "statistically filled",
         101: "post-processed"}
TEXTS = {"IGBP_veg_short": "igbp", "IGBP_veg_long": "igbp_long"}
NUMBERS = ("elevation", "canopy_height", "reference_height", "tower_height")
KEPT = ("site_name", "country", "Fluxnet_dataset_version", "vegetation_description", "soil_type", "disturbance", "QC_flag_descriptions",
        "Gapfilling_method", "Input_file")
LICENCE = "CC-BY-4.0 (PLUMBER2; FLUXNET2015 Tier 1, La Thuile and OzFlux as their own policies say)"


def read_plumber2(path: str | Path, corrected: bool = False) -> xr.Dataset:
    """Read a Met or a Flux file of PLUMBER2, or another ALMA file of one tower, in the normal form at its half-hourly or hourly step.

    Gap-filled steps are kept and marked: `x_filled` is 1 where the flag `x_qc` is above 0. `corrected`: take Qle_cor and Qh_cor,
    which close the energy balance, for latent_heat and sensible_heat; by default these are Qle and Qh as measured. The
    uncertainty of heat is that of the corrected flux where the file has no other (as in CalLMIP Phase 1), and said so.
    Raises FileNotFoundError, or ValueError for a fault of the file or a flux of the wrong sign.
    """
    raw = open_netcdf(path, "a NetCDF file with ALMA names (PLUMBER2 Met or Flux)")
    path = Path(path)
    site = code_or_complaint(raw, path)
    columns: dict[str, Column] = {}
    notes: list[str] = []
    for name, candidates in (MET | FLUX).items():
        theirs = next((each for each in candidates if each in raw), None)
        if theirs:
            _add(columns, raw, name, theirs, path, notes)
    _add_water(columns, raw, path, notes)
    _add_heat(columns, raw, corrected, path, notes)
    if not columns:
        raise ValueError(complain(f"ALMA variables such as Tair, SWdown, NEE, Qle or Qh in {path.name}",
                                  f"only {', '.join(sorted(map(str, raw.variables)))[:300]}",
                                  "check that the file is a Met or Flux file of PLUMBER2"))
    attrs = raw["time"].attrs if "time" in raw.variables else {}
    label, zone = _labelled(str(attrs.get("info", "")), notes), decoded_clock(raw, _zone(attrs))
    ds = normalise(
        columns, stamps(raw, path), path=path, site=site, latitude=_place(raw, "latitude"), longitude=_place(raw, "longitude"),
        label=label, time_zone=zone,
        title=f"{'Meteorology' if 'temperature' in columns else 'Fluxes'} at {site} ({raw.attrs.get('site_name', site)})",
        source=f"PLUMBER2, {path.name}", references="\n".join((FLUXNET2015, PLUMBER2)), license=LICENCE)
    ds = said(ds, *notes, *_signs(ds, raw, path), *_left_out(raw, columns))
    return ds.assign_attrs(_about(raw, attrs))


def _labelled(info: str, notes: list[str]) -> str:
    """What the stamps label, by the words of the attribute `info`: "calendar" has no "end" in it."""
    ends = re.search(r"\b(?:end|ends|ending)\b", info, re.IGNORECASE)
    if ends and re.search(r"\b(?:start|starts|starting|begin|begins|beginning)\b", info, re.IGNORECASE):
        notes.append(f"The attribute info of time speaks of start and of end ({info[:80]!r}); the stamps were taken as the start.")
        return "start"
    return "end" if ends else "middle" if re.search(r"\b(?:middle|midpoint|centre|center)\b", info, re.IGNORECASE) else "start"


def _zone(attrs: dict) -> str:
    """The clock of the stamps: that of the attribute `time_zone` where it is UTC or hours from it, and not the name of a place."""
    try:
        return clock(str(attrs["time_zone"]), "time")
    except (KeyError, ValueError):
        return LOCAL


def _add(columns: dict[str, Column], raw: xr.Dataset, name: str, theirs: str, path: Path, notes: list[str], error: str = "",
         flag: str = "") -> None:
    """Add a variable with its uncertainty and the share of each step that was gap-filled."""
    value = series(raw, theirs, path)
    columns[name] = value
    error = error or next((f"{theirs}{end}" for end in ("_uc", "_se") if f"{theirs}{end}" in raw), "")
    if error:
        uncertainty = series(raw, error, path)
        columns[f"{name}_uncertainty"] = uncertainty._replace(values=np.where(uncertainty.values <= 0, -9999.0, uncertainty.values))
    flag = flag or f"{theirs}_qc"
    if flag in raw:
        marks = series(raw, flag, path, "1").values
        if not np.isfinite(marks).any():
            notes.append(f"{name}: {flag} has no value, so that filled steps are not known.")
            return
        columns[f"{name}_filled"] = Column(_filled(name, value.values, marks, flag, path, notes), "1", flag)


def _filled(name: str, values: np.ndarray, marks: np.ndarray, flag: str, path: Path, notes: list[str]) -> np.ndarray:
    """1 where the flag says that a step was not measured, 0 where it was, NaN where there is no value."""
    marks = np.where(marks == -9999.0, np.nan, marks)
    known = np.unique(marks[np.isfinite(marks)])
    odd = [mark for mark in known if mark not in MARKS]
    if odd:
        raise ValueError(complain(f"flags {', '.join(map(str, MARKS))} in {flag} of {path.name}", f"{odd[0]:g}",
                                  "convert them: 0 measured, 1 or more filled; a fraction of good data is another convention"))
    there, blank = np.abs(values) < FILL, np.isnan(marks)
    if (there & blank).any():
        notes.append(f"{name}: {(there & blank).sum()} values without a flag were taken as filled.")
    counts = ", ".join(f"{int(((marks == mark) & there).sum())} {MARKS[int(mark)]}" for mark in known)
    notes.append(f"{name}: {counts} ({flag}).")
    return np.where(there, np.where(blank | (marks > 0), 1.0, 0.0), np.nan)


def _add_water(columns: dict[str, Column], raw: xr.Dataset, path: Path, notes: list[str]) -> None:
    """Precip is all of it; Rainf is rain only where Snowf stands beside it, and in older files all of it."""
    if "Precip" in raw:
        _add(columns, raw, "precipitation", "Precip", path, notes)
    if "Snowf" in raw:
        _add(columns, raw, "snowfall", "Snowf", path, notes)
    if "Rainf" in raw:
        alone = "Precip" not in raw and "Snowf" not in raw
        _add(columns, raw, "precipitation" if alone else "rainfall", "Rainf", path, notes)
        if alone:
            notes.append("Rainf was taken as rain and snow together: the file has no Snowf.")


def _add_heat(columns: dict[str, Column], raw: xr.Dataset, corrected: bool, path: Path, notes: list[str]) -> None:
    for name, theirs in HEAT.items():
        given, other = (f"{theirs}_cor", theirs) if corrected else (theirs, f"{theirs}_cor")
        if given not in raw:
            if other not in raw:
                continue
            if corrected:
                raise ValueError(complain(f"variable {given!r} in {path.name}", f"only {other!r}", "read it with corrected=False"))
            given, other = other, given
            notes.append(f"{name} is {given}, closed to the energy balance: the file has no {other}.")
        error = next((each for each in (f"{given}_uc", f"{theirs}_cor_uc") if each in raw), "")
        # Corrected values have no flag of their own: what was filled is filled in both.
        _add(columns, raw, name, given, path, notes, error, f"{given}_qc" if f"{given}_qc" in raw else f"{theirs}_qc")
        if error == f"{theirs}_cor_uc" and given == theirs:
            notes.append(f"{name}_uncertainty is {error}, that of the flux closed to the energy balance: the file has no other.")


def _signs(ds: xr.Dataset, raw: xr.Dataset, path: Path) -> list[str]:
    """The sentences about signs; ValueError when evaporation or uptake has the sign of the other convention."""
    lines = []
    if "nee" in ds:
        lines.append(sign_of_nee(ds, "NEE", str(raw["NEE"].attrs.get("standard_name", "")), path))
    mean = float(np.nanmean(ds["latent_heat"])) if "latent_heat" in ds and ds["latent_heat"].notnull().any() else np.nan
    if mean < -1.0:
        raise ValueError(complain(f"Qle of {path.name} positive to the atmosphere",
                                  f"a mean of {mean:.1f} W m-2, as if evaporation were negative", "multiply Qle (and Qh) by -1"))
    if {"sensible_heat", "net_radiation"} <= set(ds):
        heat, net = ds["sensible_heat"].values, ds["net_radiation"].values
        both = np.isfinite(heat) & np.isfinite(net)
        if both.sum() >= 30 and np.std(heat[both]) > 0 and np.std(net[both]) > 0:
            r = float(np.corrcoef(heat[both], net[both])[0, 1])
            if r < -0.3:
                raise ValueError(complain(f"Qh of {path.name} positive to the atmosphere, rising with Rnet", f"a correlation of {r:+.2f}",
                                          "multiply Qh by -1"))
            lines.append(f"sensible_heat is positive to the atmosphere: its correlation with net radiation is {r:+.2f}.")
    return lines


def _left_out(raw: xr.Dataset, columns: dict[str, Column]) -> list[str]:
    used = {column.name for column in columns.values()}
    left = [str(name) for name in raw.data_vars if "time" in raw[name].dims and name not in used]
    return [f"Left out: {', '.join(left)}."] if left else []


def _place(raw: xr.Dataset, name: str) -> np.ndarray | None:
    values = number(raw, name)
    return values if values.size else None


def _about(raw: xr.Dataset, time: dict) -> dict:
    """What the file says about the site, as attributes."""
    found = {key: str(raw.attrs[key]) for key in KEPT if key in raw.attrs}
    found |= {key: float(number(raw, key)[0]) for key in NUMBERS if number(raw, key).size == 1}
    for theirs, ours in TEXTS.items():
        if theirs in raw.variables and raw[theirs].dtype.kind in "SUO":
            letters = np.ravel(raw[theirs].values)
            found[ours] = "".join(each.decode("latin-1") if isinstance(each, bytes) else str(each) for each in letters).strip()
    if "time_zone" in time:
        found["time_zone_of_place"] = str(time["time_zone"])
    return found


def _recognised(head: Head) -> bool:
    names = set(head.variables)
    return head.is_netcdf and " since " in str(head.variables.get("time", {}).get("units", "")) and (
        {"Tair", "SWdown"} <= names or bool({"Qle", "Qh", "Qle_cor"} & names))


FORMATS = (Format("PLUMBER2 / ALMA Met or Flux, NetCDF", _recognised, read_plumber2,
                  "half-hourly meteorology, or nee, gpp, latent_heat, sensible_heat, each with uncertainty and filled steps"),)
