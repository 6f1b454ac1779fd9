"""Time in output files of CalLMIP: the axis by the rules, and the comparison with the observed fluxes of the site.

Part of `callmip_validator`, whose `Check` these functions take.
"""

import re
from pathlib import Path

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.callmip.check import UNDECLARED, Check
from landcal_jax.io.callmip.output import record_days

UNITS = re.compile(r"days since (\d{4})-(\d{2})-(\d{2}) (\d{2}:\d{2}:\d{2})")
LOOSE = re.compile(r"days since (\d{4})-(\d{1,2})-(\d{1,2})")
CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
FIRSTS = (0.0, 0.5, 1.0)
WRONG_SIGN, UNCLEAR, ENOUGH = -0.2, 0.2, 20
# nep against -NEE in gC m-2 d-1: a model may miss the amplitude of a site, but not by this.
SAME_FLUX = {"nep": ("nee", -1e-3 / 86400), "hfls": ("latent_heat", 1.0), "hfss": ("sensible_heat", 1.0)}


def observed(flux: str | Path | xr.Dataset | None) -> xr.Dataset | None:
    """The observed fluxes of a site, read if a path is given; ValueError if it is none with `nee` and `time`."""
    if flux is None:
        return None
    if not isinstance(flux, xr.Dataset):
        from landcal_jax.io.readers.callmip_flux import read_callmip

        flux = read_callmip(flux)
    if "time" not in flux.indexes or not {"nee", "latent_heat", "sensible_heat"} & set(flux.data_vars):
        raise ValueError(complain("observed fluxes in the normal form (time with nee, latent_heat or sensible_heat)",
                                  f"variables {', '.join(map(str, flux.variables))}", "landcal_jax.io.read(path)"))
    return flux


def check_axis(check: Check) -> None:
    """Units, calendar, values and length of the time axis."""
    found = check.variables.get("time")
    if found is None or found.raw is None or found.dims != ("time",):
        got = "none" if found is None else f"{found.dtype} time({', '.join(found.dims)})"
        check.fault("variable time", "a variable time(time) of numbers", got, "write days since 1 January of the first year")
        return
    _check_units(check, found.attrs)
    values = found.values
    if not np.isfinite(values).all():
        check.fault("variable time", "a day in every row", f"a missing value in row {int(np.argmax(~np.isfinite(values)))}",
                    "write the days")
    elif values.size and _check_values(check, values):
        _check_record(check, values)


def _check_units(check: Check, attrs: dict) -> None:
    units, where = attrs.get("units"), "attribute units of time"
    exact = UNITS.fullmatch(units) if isinstance(units, str) else None
    try_ = "count from 1 January of the first year of the meteorology, such as 'days since 1997-01-01 00:00:00'"
    if exact is None or (exact[2], exact[3]) != ("01", "01"):
        check.fault(where, "units = 'days since YYYY-01-01 00:00:00', from the first of January", ascii(units), try_)
    elif exact[4] != "00:00:00":
        check.fault(where, "an origin at 00:00:00", exact[4], "give half a day in the values: 0.5, 1.5, ...")
    calendar = attrs.get("calendar")
    if calendar is None:
        check.remark("attribute calendar of time", "calendar = 'standard'", "none", "add it; without it readers take the standard calendar")
    elif calendar not in CALENDARS:
        check.fault("attribute calendar of time", "calendar = 'standard', with leap days", ascii(calendar),
                    "insert 29 February (the mean of its neighbours will do), and write calendar = 'standard'")


def _check_values(check: Check, values: np.ndarray) -> bool:
    steps, where = np.diff(values), "variable time"
    bad = np.abs(steps - 1.0) > 1e-6
    if bad.any():
        row = int(np.argmax(bad))
        what = "twice or backwards" if steps[row] <= 0 else "a gap" if steps[row] > 1 else "a step that is no day"
        check.fault(where, "one row a day: 0, 1, 2, ... or 1, 2, 3, ... or 0.5, 1.5, 2.5, ...",
                    f"{values[row]:.10g} in row {row} and {values[row + 1]:.10g} after it ({what})",
                    "write daily values, every day once, leap days included")
    elif min(abs(values[0] - first) for first in FIRSTS) > 1e-6:
        check.fault(where, "days from 0, 0.5 or 1", f"{values[0]:.10g} in the first row",
                    "count whole or half days from 1 January of the first year")
    return not bad.any()


def _days(check: Check, values: np.ndarray) -> np.ndarray | None:
    """The days of the rows, whichever of the three ways they are counted; None if the origin cannot be read."""
    units = check.variables["time"].attrs.get("units")
    found = LOOSE.match(units) if isinstance(units, str) else None
    if found is None:
        return None
    try:
        origin = np.datetime64(f"{found[1]}-{int(found[2]):02d}-{int(found[3]):02d}")
    except ValueError:
        return None
    # 1, 2, 3 from 1 January may be meant as the first day, the second, ...; from 31 December it is just that.
    shift = 1 if abs(values[0] - 1.0) < 1e-6 and (int(found[2]), int(found[3])) == (1, 1) else 0
    return origin + np.floor(values + 1e-6).astype(int) - shift


def _check_record(check: Check, values: np.ndarray) -> None:
    """The days against those of the flux file, or those that the protocol knows of the site."""
    days = _days(check, values)
    if check.flux is not None:
        right, whose = check.flux.indexes["time"].values.astype("datetime64[D]"), "the flux file"
    else:
        right, whose = record_days(check.name.site) if check.name else None, "the record of the site"
    if days is None or right is None or np.array_equal(days, right):
        return
    leap = int(((_month(right) == 2) & (_day(right) == 29)).sum())
    lost, more = np.setdiff1d(right, days), np.setdiff1d(days, right)
    got = f"{len(days)} days from {days[0]} to {days[-1]}"
    if leap and len(days) == len(right) - leap:
        got += f", {leap} fewer: leap days, or the last {leap}, were left out"
    elif len(lost):
        got += f", without {len(lost)} days, the first {lost[0]}"
    elif len(more):
        got += f", {len(more)} days too many, the first {more[0]}"
    check.fault("variable time", f"{len(right)} days from {right[0]} to {right[-1]}, as in {whose}", got,
                "write every day of that record, leap days included, and none else")


def _month(days: np.ndarray) -> np.ndarray:
    return days.astype("datetime64[M]").astype(int) % 12 + 1


def _day(days: np.ndarray) -> np.ndarray:
    return (days - days.astype("datetime64[M]")).astype(int) + 1


def compare(check: Check) -> None:
    """Signs: of nep against gpp - reco inside the file, and of the fluxes against those that were observed."""
    fluxes = check.fluxes
    if {"nep", "gpp", "reco"} <= set(fluxes):
        nep, gpp, reco = (fluxes[name].values.ravel() for name in ("nep", "gpp", "reco"))
        r, number = _correlation(nep, gpp - reco)
        if r < WRONG_SIGN:
            check.fault("variable nep", "nep positive into the land, rising with gpp - reco",
                        f"a correlation of {r:.2f} over {number} days",
                        "change its sign: nep is -NEE")
    if check.flux is None:
        return
    site = str(check.flux["site"].item()) if "site" in check.flux.coords else ""
    if check.name and site and site != check.name.site:
        check.fault("the file", f"fluxes of {check.name.site}", f"those of {site}", "validate it against the flux file of its own site")
        return
    time = check.variables.get("time")
    if time is None or time.raw is None or time.dims != ("time",):
        return
    days = _days(check, time.values) if time.raw.size and np.isfinite(time.values).all() else None
    for name, (theirs, factor) in SAME_FLUX.items():
        if days is not None and name in fluxes and theirs in check.flux:
            _compare_one(check, name, days, fluxes[name].values.ravel(), check.flux[theirs], factor)


def _compare_one(check: Check, name: str, days: np.ndarray, values: np.ndarray, seen: xr.DataArray, factor: float) -> None:
    _, mine, theirs = np.intersect1d(days, seen.indexes["time"].values.astype("datetime64[D]"), return_indices=True)
    ours, other = values[mine], factor * np.asarray(seen.values, float)[theirs]
    r, number = _correlation(ours, other)
    where = f"variable {name}"
    expected = f"{name} that rises with observed {'-NEE' if name == 'nep' else seen.name}"
    if r < WRONG_SIGN:
        check.fault(where, expected, f"a correlation of {r:.2f} over {number} observed days",
                    "change its sign: nep is -NEE" if name == "nep" else "change its sign: positive is to the atmosphere")
    elif r < UNCLEAR:
        check.remark(where, expected, f"a correlation of {r:.2f} over {number} observed days", "check the order of days and the site")
    if number:
        both = np.isfinite(ours) & np.isfinite(other)
        ratio = float(np.std(ours[both]) / np.std(other[both]))
        if not 0.05 < ratio < 20:
            check.remark(where, f"{name} about as variable as observed", f"{ratio:.2g} times its standard deviation", "check the units")


def _correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, int]:
    """(r, number of days), (NaN, 0) where there are too few or one does not vary."""
    both = np.isfinite(one) & np.isfinite(other) & (np.abs(one) < UNDECLARED) & (np.abs(other) < UNDECLARED)
    if both.sum() < ENOUGH or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0:
        return float("nan"), 0
    return float(np.corrcoef(one[both], other[both])[0, 1]), int(both.sum())
