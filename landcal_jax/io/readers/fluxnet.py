"""Readers of FLUXNET CSV: FLUXNET2015 and its successors (ONEFlux), AmeriFlux FLUXNET and BASE, ICOS ETC archives.

Names, units and flags are those of the documentation of the products:
- FLUXNET2015 FULLSET, https://fluxnet.org/data/fluxnet2015-dataset/fullset-data-product/ ; Pastorello et al. (2020).
  Carbon in umol m-2 s-1 at HH and HR, in gC m-2 d-1 at DD and MM; precipitation in mm a step at HH and HR, in mm d-1 at DD
  and MM; VPD in hPa, PA in kPa, RH and SWC in percent. `_QC` below a day: 0 measured, 1 good, 2 medium, 3 poor filling
  (TA_F and its like: 2 is reanalysis); at DD and MM the fraction measured or filled well.
- AmeriFlux BASE, https://ameriflux.lbl.gov/data/aboutdata/data-variables/ : names with positions _H_V_R, V = 1 the highest
  (of soil the shallowest); `_PI` made by the tower's team, `_F` gap-filled by it; FC the turbulent flux, SC the storage change.
- Time is local standard time; TIMESTAMP_START and TIMESTAMP_END bound each step; missing is -9999. Files of towers carry other
  marks as well (-6999, -99.99): one that stands twice, far from all other values, is masked and counted (`fills`).
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.fills import without_marks
from landcal_jax.io.normal import Column, normalise
from landcal_jax.io.quantities import quantity
from landcal_jax.io.readers.delimited import Sheet, compact_stamps
from landcal_jax.io.recognition import Format, Head
from landcal_jax.io.units import convert

FLUXNET2015 = ("Pastorello, G. et al. (2020): The FLUXNET2015 dataset and the ONEFlux processing pipeline for eddy "
               "covariance data. Scientific Data 7, 225. https://doi.org/10.1038/s41597-020-0534-3")
AMERIFLUX = ("AmeriFlux data of the site (cite its DOI, https://ameriflux.lbl.gov). Chu, H. et al. (2023): AmeriFlux BASE data "
             "pipeline to support network growth and data sharing. Scientific Data 10, 614. https://doi.org/10.1038/s41597-023-02531-2")
ICOS = "ICOS RI, Ecosystem Thematic Centre: data of the station (cite the DOI of the file, https://data.icos-cp.eu)"
MISSING = -9999.0
CARBON = "umol m-2 s-1 | gC m-2 d-1"  # below a day | at days and months
RAIN = "mm per step | mm d-1"

# Quantity -> columns by preference, and the unit in the file. What ends on _ERA is reanalysis.
CHOICES: dict[str, tuple[tuple[str, ...], str]] = {
    "nee": (("NEE_VUT_REF", "NEE_CUT_REF", "NEE_VUT_USTAR50", "NEE_CUT_USTAR50", "NEE"), CARBON),
    "gpp": (("GPP_NT_VUT_REF", "GPP_NT_CUT_REF", "GPP_DT_VUT_REF", "GPP_DT_CUT_REF", "GPP"), CARBON),
    "reco": (("RECO_NT_VUT_REF", "RECO_NT_CUT_REF", "RECO_DT_VUT_REF", "RECO_DT_CUT_REF", "RECO"), CARBON),
    "latent_heat": (("LE_F_MDS", "LE", "LE_CORR"), "W m-2"),
    "sensible_heat": (("H_F_MDS", "H", "H_CORR"), "W m-2"),
    "ground_heat": (("G_F_MDS", "G"), "W m-2"),
    "net_radiation": (("NETRAD",), "W m-2"),
    "temperature": (("TA_F", "TA_F_MDS", "TA", "TA_ERA"), "degC"),
    "shortwave": (("SW_IN_F", "SW_IN_F_MDS", "SW_IN", "SW_IN_ERA"), "W m-2"),
    "longwave": (("LW_IN_F", "LW_IN_F_MDS", "LW_IN", "LW_IN_ERA"), "W m-2"),
    "vpd": (("VPD_F", "VPD_F_MDS", "VPD", "VPD_ERA"), "hPa"),
    "pressure": (("PA_F", "PA", "PA_ERA"), "kPa"),
    "precipitation": (("P_F", "P", "P_ERA"), RAIN),
    "wind_speed": (("WS_F", "WS", "WS_ERA"), "m s-1"),
    "friction_velocity": (("USTAR",), "m s-1"),
    "co2": (("CO2_F_MDS", "CO2"), "ppm"),
    "relative_humidity": (("RH",), "percent"),
    "ppfd": (("PPFD_IN",), "umol m-2 s-1"),
    "soil_moisture": (("SWC_F_MDS_1", "SWC"), "percent"),
    "soil_temperature": (("TS_F_MDS_1", "TS"), "degC"),
}
METHANE = {"methane": (("FCH4",), "nmol m-2 s-1"), "ch4_mole_fraction": (("CH4",), "ppb")}  # only below a day
SPIKES = {"FLUXNET": 0.001, "BASE": 0.01}  # fraction of a column that may be impossible and is then masked
STEPS = {"HH": "PT30M", "HR": "PT1H", "DD": "P1D", "MM": "P1M"}
AUXILIARY = {"VARIABLE", "PARAMETER", "VALUE", "TIMESTAMP"}
SITE = re.compile(r"[A-Z]{2}-[A-Za-z0-9]{3}")


def read_fluxnet(path: str | Path, *, columns: Mapping[str, str | None] | None = None) -> xr.Dataset:
    """Read a CSV file of FLUXNET2015, AmeriFlux (FLUXNET or BASE) or ICOS ETC at HH, HR, DD or MM into the normal form.

    `columns` chooses other columns than those of `CHOICES`, or none: {"nee": "NEE_CUT_REF", "co2": None}, also uncertainties,
    {"nee_uncertainty": "NEE_VUT_REF_JOINTUNC"}. The history names the column that was taken and those that were not.
    These files do not say where the site is: latitude and longitude are NaN.
    Raises ValueError for a broken time axis, a column that is not there, a quality flag of another kind, or impossible values.
    """
    sheet = Sheet(path, what="a CSV file of FLUXNET")
    if AUXILIARY <= set(sheet.names):
        raise ValueError(complain("series of fluxes or weather", f"{Path(path).name}, parameters of the processing (AUXMETEO or AUXNEE)",
                                  "read the FULLSET, SUBSET or BASE file of HH, HR, DD or MM beside it"))
    path, columns = Path(path), dict(columns or {})
    odd = [name for name in columns if name.removesuffix("_uncertainty") not in CHOICES | METHANE]
    if odd:
        raise ValueError(complain(f"columns= for any of {', '.join(CHOICES | METHANE)}, or x_uncertainty of one", repr(odd[0]),
                                  "columns={\"nee\": \"NEE_CUT_REF\"}"))
    site, base = _site(sheet), _is_base(sheet)
    names = _stamp_names(sheet)
    chosen = {name: _candidates(name, sheet.names, columns, base) for name in (*CHOICES, *METHANE)}
    wanted = [one for many in chosen.values() for one in many] + [n for n in sheet.names if re.search(r"_QC$|UNC$|^SC(_|$)", n)]
    wanted += [name for name in columns.values() if name]
    _known(wanted, sheet)
    frame = sheet.read([name for name in wanted if name not in names], texts=names)
    time, label, step = _time(frame, names, sheet)
    dates = frame[names[0]].str.len().max() < 12  # YYYYMMDD or YYYYMM: no hour
    reading = _Reading(frame, step, base, sheet)
    reading.skip = {name for name in columns if name.endswith("_uncertainty")}
    for name, many in chosen.items():
        if many and not (name in METHANE and step in ("P1D", "P1M")):
            reading.take(name, many, explicit=name in columns)
    for name, column in columns.items():
        if column and name.endswith("_uncertainty"):
            values = without_marks(frame[column], column, reading.said)
            reading.columns[name] = Column(values, _unit(name.removesuffix("_uncertainty"), step), column)
            reading.said.append(f"{name} is {column}, as the user has chosen.")
    if not reading.columns:
        raise ValueError(complain(f"values in {path.name}, such as NEE_VUT_REF, LE_F_MDS or TA_F", "no such column, or only -9999",
                                  "check which product the file is; AUXMETEO and AUXNEE hold no series"))
    reading.say_flags()
    about = _about(path, sheet, base)
    ds = normalise(reading.columns, time, path=path, site=site, label=label, step=step, dates=dates, title=f"Tower observations at {site}",
                   history=[*sheet.history, *reading.said], **about)
    for name, attrs in reading.attrs.items():
        ds[name].attrs.update(attrs)
    return ds


# ---------------------------------------------------------------------- what the file is


def _is_base(sheet: Sheet) -> bool:
    """Whether the names are those of towers (BASE and its like) and not those of the ONEFlux products."""
    return not any(re.match(r"(NEE_[VC]UT|.*_F(_MDS.*)?$|.*_ERA$)", name) for name in sheet.names if not name.endswith("_PI_F"))


def _site(sheet: Sheet) -> str:
    commented = next((m.group(1) for line in sheet.comments if (m := re.match(r"Site:\s*(\S+)", line, re.IGNORECASE))), "")
    named = SITE.search(sheet.path.name)
    if commented and named and commented != named.group():
        raise ValueError(complain(f"one site in {sheet.path.name}", f"{commented} in its comment, {named.group()} in its name",
                                  "rename the file"))
    if not commented and not named:
        sheet.history.append("Neither the file nor its name says which site this is: give site=\"XX-Abc\" (or --site).")
    sheet.history.append("The file does not say where the site is: give latitude= and longitude= (or --latitude and --longitude).")
    return commented or (named.group() if named else "unknown")


def _about(path: Path, sheet: Sheet, base: bool) -> dict[str, str]:
    name = path.name.upper()
    if "ICOS" in name:
        source, references, licence = "ICOS Ecosystem Thematic Centre", ICOS, "CC-BY-4.0 (ICOS)"
    elif base:
        source, references = "AmeriFlux BASE or a file of its form", AMERIFLUX
        licence = "AmeriFlux CC-BY-4.0 or AmeriFlux Legacy, as the site says"
    elif name.startswith("AMF_"):
        source, references, licence = "AmeriFlux FLUXNET", "\n".join((FLUXNET2015, AMERIFLUX)), "CC-BY-4.0 (AmeriFlux)"
    else:
        source, references, licence = "FLUXNET", FLUXNET2015, "CC-BY-4.0 for most sites of FLUXNET2015; the site's page says which"
    version = next((f", {line}" for line in sheet.comments if line.lower().startswith("version:")), "")
    return {"source": f"{source}, {path.name}{version}", "references": references, "license": licence}


# ---------------------------------------------------------------------- time


def _stamp_names(sheet: Sheet) -> list[str]:
    names = [name for name in ("TIMESTAMP_START", "TIMESTAMP_END", "TIMESTAMP") if name in sheet.names]
    if not names:
        raise ValueError(complain(f"a column TIMESTAMP_START, TIMESTAMP_END or TIMESTAMP in {sheet.path.name}",
                                  f"{', '.join(sheet.names[:8])}", "download the file again; a plain table needs a row of units"))
    return names if "TIMESTAMP" not in names else ["TIMESTAMP"] if len(names) == 1 else names[:-1]


def _time(frame: pd.DataFrame, names: list[str], sheet: Sheet) -> tuple[pd.DatetimeIndex, Any, str]:
    """Stamps, what they label, and the step (ISO 8601)."""
    path, cells = sheet.path, frame[names[0]]
    digits = len(cells.iloc[0]) if cells.iloc[0].isdigit() or names[0] == "TIMESTAMP" else 12
    resolution = {12: "", 8: "DD", 6: "MM"}.get(digits, "")
    if digits == 8 and len(names) == 2:
        raise ValueError(complain(f"half-hours, hours, days or months (HH, HR, DD or MM) in {path.name}",
                                  "steps bounded by dates, such as the weeks of WW, which begin anew on each 1 January",
                                  "read the DD file of this site, in the same archive: means over weeks can be made of its days"))
    if digits not in (12, 8, 6) or (digits != 12 and len(names) == 2) or (digits == 12 and names[0] == "TIMESTAMP"):
        raise ValueError(complain(
            f"TIMESTAMP_START or _END as YYYYMMDDHHMM, or TIMESTAMP as YYYYMMDD or YYYYMM, in {path.name}",
            f"{names[0]} {frame[names[0]].iloc[0]!r} in line {frame.index[0]}", "read the file of HH, HR, DD or MM of this site"))
    stamps = [compact_stamps(frame[name], path, digits) for name in names]
    if resolution:
        step = STEPS[resolution]
    else:
        step = _length(stamps, frame.index, path)
        resolution = {"PT30M": "HH", "PT1H": "HR"}.get(step, step)
    named = re.search(r"_(HH|HR|DD|WW|MM|YY)(_|\.|$)", path.name)
    if named and named.group(1) != resolution:
        raise ValueError(complain(f"steps of {named.group(1)} in {path.name}, as its name says", f"steps of {step}", "rename the file"))
    return stamps[0], "end" if names == ["TIMESTAMP_END"] else "start", step


def _length(stamps: list[pd.DatetimeIndex], lines: pd.Index, path: Path) -> str:
    if len(stamps) == 2:
        lengths = stamps[1] - stamps[0]
        usual = lengths[0]
        odd = np.flatnonzero(lengths != usual)
        if odd.size:
            raise ValueError(complain(f"TIMESTAMP_END after TIMESTAMP_START by {usual} on each row of {path.name}",
                                      f"by {lengths[odd[0]]} in line {lines[odd[0]]}, and {odd.size - 1} more such rows",
                                      "correct the stamps; daylight saving time must not be used"))
    else:
        steps = pd.Series(np.diff(stamps[0].values))
        usual = pd.Timedelta(steps.mode().iloc[0]) if len(steps) else pd.Timedelta(0)
    found = {pd.Timedelta("30min"): "PT30M", pd.Timedelta("1h"): "PT1H"}.get(usual)
    if found is None:
        raise ValueError(complain(f"steps of 30 minutes or one hour in {path.name}", f"{usual}", "aggregate the file to half-hours"))
    return found


# ---------------------------------------------------------------------- columns


def _candidates(name: str, header: list[str], columns: Mapping[str, str | None], base: bool) -> list[str]:
    """Columns of the file that hold a quantity, best first: measured before filled, the tower's team last."""
    if name in columns:
        return [columns[name]] if columns[name] else []
    listed = list((CHOICES | METHANE)[name][0])
    if "_CUT_" in str(columns.get("nee", "")):
        listed.sort(key=lambda column: "_CUT_" not in column)
    found = [column for column in listed if column in header]
    if base:
        plain = [column for column in listed if "_" not in column or column in ("SW_IN", "LW_IN", "PPFD_IN")]
        for stem in [*plain, *(["FC"] if name == "nee" else [])]:
            placed = re.compile(rf"{stem}(?P<pi>_PI)?(?P<f>_F)?(_\d+(_\d+_(\d+|A))?)?$")
            matches = [(bool(m["f"]), bool(m["pi"]), column) for column in header if (m := placed.fullmatch(column))]
            found += [column for _, _, column in sorted(matches) if column not in found]
        found.sort(key=lambda column: bool(re.search(r"_PI_F|_F(_\d|$)", column)))
    return found


def _known(wanted: list[str], sheet: Sheet) -> None:
    absent = [name for name in wanted if name not in sheet.names]
    if absent:
        raise ValueError(complain(f"a column {absent[0]} in {sheet.path.name}", f"{', '.join(sheet.names[:12])} ...",
                                  "columns= takes a name of the header, or None"))


def _unit(name: str, step: str) -> str:
    below, above = ((CHOICES | METHANE)[name][1].split(" | ") * 2)[:2]
    return below if step in ("PT30M", "PT1H") else above


class _Reading:
    """Columns on their way into the normal form, with what was said about them."""

    def __init__(self, frame: pd.DataFrame, step: str, base: bool, sheet: Sheet):
        self.frame, self.step, self.base, self.sheet, self.path = frame, step, base, sheet, sheet.path
        self.columns: dict[str, Column] = {}
        self.attrs: dict[str, dict[str, str]] = {}
        self.said: list[str] = []
        self.skip: set[str] = set()
        self.below_a_day = step in ("PT30M", "PT1H")

    def take(self, name: str, candidates: list[str], explicit: bool) -> None:
        """Put the first candidate that has values, its flags and its uncertainty into `columns`."""
        have = [column for column in candidates if (self.frame[column].notna() & (self.frame[column] != MISSING)).any()]
        empty = [column for column in candidates if column not in have]
        if not have:
            self.said.append(f"{name}: {', '.join(empty)} holds no values; the quantity is left out.")
            return
        column, values = have[0], without_marks(self.frame[have[0]], have[0], self.said)
        why = "as the user has chosen" if explicit else "first by preference"
        others = [*have[1:], *self._variants(name, column, have)]
        self.said.append(f"{name} is {column} ({why})" + (f"; not taken: {', '.join(others)}" if others else "")
                         + (f"; without values: {', '.join(empty)}" if empty else "") + ".")
        if re.match(r"FC(_|$)", column):
            values, column = self._with_storage(column, values)
        units = _unit(name, self.step)
        values = self._possible(name, column, values, units)
        self.columns[name] = Column(values, units, column)
        self._flags(name, column)
        self._uncertainty(name, column, units)

    def _variants(self, name: str, column: str, have: list[str]) -> list[str]:
        """Other versions of a flux that stand in the file: thresholds of friction velocity, energy closure."""
        stem = {"nee": r"NEE_[VC]UT_(REF|MEAN|50|USTAR50)", "latent_heat": "LE_CORR", "sensible_heat": "H_CORR"}.get(name)
        return [other for other in self.sheet.names if stem and re.fullmatch(stem, other) and other not in have and other != column]

    def _with_storage(self, column: str, values: np.ndarray) -> tuple[np.ndarray, str]:
        """NEE from the turbulent flux and the change of storage below the sensor, where both are there."""
        self.said.append("nee of a tower's file is not filtered for calm nights (low friction velocity) and not gap-filled.")
        storage = [name for name in self.frame if name == "SC" + column[2:]] or [n for n in self.frame if re.match(r"SC(_|$)", n)]
        change = without_marks(self.frame[storage[0]], storage[0], self.said) if storage else np.full(len(values), MISSING)
        there = np.isfinite(change) & (change != MISSING)
        if not there.any():
            self.said.append(f"The file has no change of storage (SC): nee is {column} alone, too small in calm nights.")
            return values, column
        flux = np.isfinite(values) & (values != MISSING)
        self.said.append(f"nee is {column} + {storage[0]} on the {(flux & there).sum()} steps that have both; "
                         f"{(flux & ~there).sum()} steps without a storage change are missing.")
        return np.where(flux & there, values + change, MISSING), f"{column} + {storage[0]}"

    def _possible(self, name: str, column: str, values: np.ndarray, units: str) -> np.ndarray:
        """`values` with the few that cannot be masked, and humidity a little above saturation set to it; both counted."""
        inside = np.where((values == MISSING) | (np.abs(values) > 1e19), np.nan, values)
        if units == RAIN.split(" | ")[0]:
            inside, units = inside * (48 if self.step == "PT30M" else 24), "mm d-1"
        inside = convert(inside, units, quantity(name).units, name)
        low, high = quantity(name).limits(not self.below_a_day)
        if name == "vpd" and ((inside < 0) & (inside > -1)).any():
            damp = (inside < 0) & (inside > -1)
            self.said.append(f"vpd: {damp.sum()} values between -1 and 0 hPa (humidity above 100 %) were set to zero.")
            values, inside = np.where(damp, 0.0, values), np.where(damp, 0.0, inside)
        slack = 2.0 if name in ("shortwave", "ppfd") else 1e-3
        spikes = (inside < low - slack) | (inside > high)
        valid = int(np.isfinite(inside).sum())
        limit = SPIKES["BASE" if self.base else "FLUXNET"] * valid
        if not spikes.any() or spikes.sum() > limit:  # too many are a wrong unit, which normalise refuses
            return values
        first = int(np.argmax(spikes))
        self.said.append(f"{name} ({column}): {spikes.sum()} of {valid} values outside {low:g} to {high:g} {quantity(name).units} were "
                         f"masked, the first {inside[first]:g} in line {self.frame.index[first]}.")
        return np.where(spikes, MISSING, values)

    def _flags(self, name: str, column: str) -> None:
        """`x_filled` from the flag of the column."""
        of = column if name not in ("gpp", "reco") else re.sub(r"(GPP|RECO)_[ND]T_", "NEE_", column)
        flag = {"LE_CORR": "LE_F_MDS", "H_CORR": "H_F_MDS"}.get(of, of) + "_QC"
        filled = bool(re.search(r"_F(_MDS|_\d|$)|[VC]UT|_CORR$", column))
        if column.endswith("_ERA"):
            self.columns[f"{name}_filled"] = Column(np.ones(len(self.frame)), "1")
            self.said.append(f"{name} is reanalysis ({column}), none of it measured.")
        elif name == "reco" or (filled and flag not in self.frame):
            self.attrs.setdefault(name, {})["gap_filled"] = "included, not marked"
            self.said.append(f"{name} ({column}) is {'modelled' if name == 'reco' else 'gap-filled'} and the file does not mark where.")
        elif filled:
            if name == "gpp":
                self.said.append(f"gpp_filled is that of the NEE that it was partitioned from ({flag}).")
            self.columns[f"{name}_filled"] = Column(self._filled(flag), "1", flag)

    def _filled(self, flag: str) -> np.ndarray:
        qc = self.frame[flag].replace(MISSING, np.nan).to_numpy(dtype=float)
        kinds = "0, 1, 2 or 3" if self.below_a_day else "from 0 to 1"
        known = np.isin(qc, (0, 1, 2, 3)) if self.below_a_day else (qc >= 0) & (qc <= 1 + 1e-6)
        wrong = np.isfinite(qc) & ~known
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(complain(f"{flag} {kinds} in {self.path.name}", f"{qc[first]:g} in line {self.frame.index[first]}",
                                      "check whether the file is of the step that it says"))
        return np.where(np.isnan(qc), np.nan, qc > 0) if self.below_a_day else np.clip(1.0 - qc, 0.0, 1.0)

    def _uncertainty(self, name: str, column: str, units: str) -> None:
        """Random uncertainty of a flux; the joint one, which adds the threshold of friction velocity, where there is no other."""
        stem = column.replace("_F_MDS", "")
        many = [n for n in (f"{stem}_RANDUNC", f"{stem}_JOINTUNC") if n in self.frame]
        valid = [n for n in many if (self.frame[n].notna() & (self.frame[n] != MISSING)).any()]
        if name not in ("nee", "latent_heat", "sensible_heat") or not valid or f"{name}_uncertainty" in self.skip:
            return
        self.columns[f"{name}_uncertainty"] = Column(without_marks(self.frame[valid[0]], valid[0], self.said), units, valid[0])
        what = "random error only" if valid[0].endswith("RANDUNC") else "random error and the choice of the friction velocity threshold"
        self.said.append(f"{name}_uncertainty is {valid[0]}, {what}" + (f"; not taken: {', '.join(valid[1:])}." if valid[1:] else "."))

    def say_flags(self) -> None:
        """Say what `x_filled` means here, and which tests of the tower's team were not applied."""
        if any(column.name.endswith("_QC") for column in self.columns.values()):
            self.said.append("x_filled is 1 where the flag _QC is above 0." if self.below_a_day else
                             "x_filled is 1 - _QC; at this step _QC counts good filling as measured, so the fraction filled is larger.")
        tests = [name for name in self.sheet.names if "_SSITC_TEST" in name]
        if tests:
            self.said.append(f"Quality tests in the file that were not applied: {', '.join(tests)}.")


def looks_like_fluxnet(head: Head) -> bool:
    """A header with TIMESTAMP columns and, below it, a stamp of digits only; or the auxiliary files, to be refused."""
    lines = [line for line in head.lines[:20] if line.strip() and not line.startswith("#")]
    if len(lines) < 2:
        return False
    names = [cell.strip().strip('"') for cell in lines[0].split(",")]
    if AUXILIARY <= set(names):
        return True
    first = dict(zip(names, (cell.strip().strip('"') for cell in lines[1].split(",")), strict=False))
    stamp = first.get("TIMESTAMP_START", first.get("TIMESTAMP_END", first.get("TIMESTAMP", "")))
    return {"TIMESTAMP_START", "TIMESTAMP_END"} <= set(names) and stamp[:1].isdigit() and "-" not in stamp or (
        stamp.replace(".", "").isdigit() and len(names) > 1)


FORMATS = (Format("FLUXNET, AmeriFlux or ICOS CSV", looks_like_fluxnet, read_fluxnet,
                  "nee, gpp, reco, latent, sensible and ground heat with uncertainty and marks of filling; meteorology, soil"),)
