"""Does a file keep the rules of CalLMIP Phase 1b? `validate(path)` names everything that is against them.

    print(validate("CLASSIC.v2_Phase1b_Scen1_DK-Sor_Cal_Prior.nc", flux="DK-Sor_daily_aggregated_1997-2014_FLUXNET2015_Flux.nc"))

A fault is what the protocol forbids, or a number that cannot be what its name and units say. A remark is what deserves a
look: a variable that a model may not have, metadata that a tool may stumble over. The file is read as it is on disk,
without any decoding, so that fill values, invisible characters and odd time axes are seen. The rules stand as data in
`callmip_output`; each function here checks one part of them.
"""

import difflib
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landcal_jax.errors import complain, complaint_of
from landcal_jax.io.callmip import time_axis as callmip_time
from landcal_jax.io.callmip import values as callmip_values
from landcal_jax.io.callmip.check import Check, Fault, Found, Validation, shown
from landcal_jax.io.callmip.output import (
    PATTERN_IN_WORDS,
    PERIODS,
    PHASE,
    SCENARIOS,
    SITES,
    STAGES,
    UNCERTAINTY,
    VARIABLES,
    scenario_in_words,
)
from landcal_jax.io.files import existing
from landcal_jax.io.netcdf_classic import check_classic

DIMENSIONS = ("time", "lat", "lon")
PLACES = {"lat": ("degrees_north", 90.0, ("latitude", "y", "nav_lat")), "lon": ("degrees_east", 360.0, ("longitude", "x", "nav_lon"))}
LARGEST = 1e8  # bytes; a century of days of forty variables is a tenth of it
SPREADS = ("_uc", "_unc", "_sd", "_std", "_post_uc", "_uncertainty")  # how others call a posterior uncertainty
SHIFT = 0.05  # degrees between the file and the tower


def validate(path: str | Path, *, flux: str | Path | xr.Dataset | None = None, scenario: int | None = None) -> Validation:
    """Check an output file against the protocol of CalLMIP Phase 1b.

    `flux`: the file of observed fluxes of the same site (or its Dataset in the normal form, with `nee`): time is then
    compared day by day, and the sign of nep is checked. `scenario`: the one it should be of, otherwise that of its name.
    Raises FileNotFoundError if there is no such file, ValueError for an unknown scenario or a flux file that is none;
    whatever is wrong with the file itself is a finding.
    """
    if scenario is not None and scenario not in SCENARIOS:
        raise ValueError(complain(f"a scenario of CalLMIP: {', '.join(map(scenario_in_words, SCENARIOS))}", f"{scenario}",
                                  "correct scenario="))
    path = Path(path)
    if path.is_file() and path.stat().st_size == 0:
        return Validation(path, (Fault("fault", "the file", complain("a NetCDF file", "an empty file", "write it again")),))
    check = Check(existing(path, "an output file of CalLMIP"), scenario, callmip_time.observed(flux))
    if _opened(check):
        for part in (_structure, _invisible, _name, _site, _attributes, _dimensions, _spelling, _required, _places, callmip_time.check_axis,
                     callmip_values.check_series, callmip_values.check_uncertainties, callmip_time.compare):
            part(check)
    return Validation(path, tuple(check.findings))


def _opened(check: Check) -> bool:
    import netCDF4

    try:
        check_classic(check.path, "an output file that is whole")
        with netCDF4.Dataset(check.path) as file:
            file.set_auto_maskandscale(False)
            check.dims = {name: dimension.size for name, dimension in file.dimensions.items()}
            check.attrs = {name: file.getncattr(name) for name in file.ncattrs()}
            check.groups = tuple(file.groups)
            announced = sum(int(np.prod(variable.shape)) * 8 for variable in file.variables.values())
            if announced > LARGEST:
                check.fault("the file", f"daily series of one site, at most {LARGEST / 1e6:g} MB", f"variables of {announced / 1e6:.3g} MB",
                            "write one file a site, with daily means")
                return False
            for name, variable in file.variables.items():
                number = getattr(variable.dtype, "kind", "O") in "fiu"
                attrs = {key: variable.getncattr(key) for key in variable.ncattrs()}
                check.variables[name] = Found(variable.dimensions, attrs, variable.dtype, np.asarray(variable[...]) if number else None)
    except (OSError, RuntimeError, ValueError, AttributeError, KeyError, TypeError, UnicodeError) as error:
        if complaint_of(error):
            check.findings.append(Fault("fault", "the file", complaint_of(error)))
            return False
        reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        check.fault("the file", "a NetCDF file that can be read", f"{check.path.name}: {reason}",
                    "write or copy it again; `ncdump -h` shows whether it is whole")
        return False
    return True


def _structure(check: Check) -> None:
    if check.groups:
        check.fault("the file", "all variables at the top of the file", f"groups {', '.join(check.groups)}", "write without groups")
    conventions = check.attrs.get("Conventions")
    if not isinstance(conventions, str) or "CF-" not in conventions:
        check.remark("attribute Conventions", "metadata of CF, such as Conventions = 'CF-1.11'", shown(conventions),
                     "set the global attribute")


def _invisible(check: Check) -> None:
    """Characters that one does not see, in names and units; both are compared letter by letter by whoever reads the file."""
    texts = [("the file", "name of the file", check.path.name)]
    texts += [(f"dimension {ascii(name)}", "name", name) for name in check.dims]
    texts += [(f"attribute {ascii(key)}", word, text) for key, value in check.attrs.items()
              for word, text in (("name", key), ("value", value)) if word == "name" or key in _expected(check)]
    for name, found in check.variables.items():
        texts.append((f"variable {ascii(name)}", "name", name))
        texts += [(f"attribute {ascii(key)} of {name}", word, text) for key, value in found.attrs.items()
                  for word, text in (("name", key), ("value", value)) if word == "name" or key in ("units", "calendar", "standard_name")]
    for where, what, text in texts:
        odd = [letter for letter in text if _unseen(letter)] if isinstance(text, str) else []
        if odd:
            named = ", ".join(
                f"U+{ord(letter):04X} ({unicodedata.name(letter, 'control character').lower()})" for letter in dict.fromkeys(odd))
            check.fault(where, f"a {what} without invisible characters", f"{ascii(text)}, with {named}",
                        f"{ascii(_visible(text))}, typed anew")
        elif isinstance(text, str) and text != text.strip():
            check.fault(where, f"a {what} without blanks around it", repr(text), repr(text.strip()))


def _unseen(letter: str) -> bool:
    return letter != " " and unicodedata.category(letter) in ("Cf", "Cc", "Co", "Cn", "Zs", "Zl", "Zp")


def _visible(text: str) -> str:
    return "".join(letter for letter in text if not _unseen(letter))


def _name(check: Check) -> None:
    if check.name is None:
        check.fault("the file", f"a name {PATTERN_IN_WORDS}, such as CLASSIC.v2_Phase1b_Scen1_DK-Sor_Cal_Prior.nc", check.path.name,
                    "rename the file")
    elif check.asked is not None and check.name.scenario != check.asked:
        check.fault("the file", f"a file of {scenario_in_words(check.asked)}", f"Scen{check.name.scenario} in its name",
                    f"rename it to {check.name._replace(scenario=check.asked)}, or validate it as scenario {check.name.scenario}")


def _site(check: Check) -> None:
    if check.name is None:
        return
    site, period = check.name.site, check.name.period
    if site not in SITES:
        close = difflib.get_close_matches(site, SITES, n=2, cutoff=0.6)
        check.fault("the file", "one of the 21 calibration and 10 validation sites of Phase 1", f"{site}",
                    f"did you mean {' or '.join(close)}?" if close else "a site of section 2.3 of the protocol")
    elif SITES[site].period != period:
        also = " (although its flux file lies beside those of the calibration sites)" if site == "AU-How" else ""
        check.fault("the file", f"{SITES[site].period} for {site}, a {PERIODS[SITES[site].period].lower()} site{also}",
                    f"{period} in the name of the file", f"rename it to {check.name._replace(period=SITES[site].period)}")


def _expected(check: Check) -> dict[str, str]:
    """Global attributes and the values that they may have, in words where there are several."""
    if check.name:
        return check.name.attributes
    return {"Model": "<model>.<version>", "CalLMIP_Phase": PHASE, "Calibration_Scenario": "Scen1 to Scen6",
            "Calibration_stage": " or ".join(STAGES), "Cal_Val": " or ".join(PERIODS.values())}


def _attributes(check: Check) -> None:
    for key, expected in _expected(check).items():
        where = f"attribute {key}"
        if key not in check.attrs:
            close = [other for other in check.attrs if _plain(other) == _plain(key)] or difflib.get_close_matches(key, check.attrs, 1, 0.8)
            check.fault(where, f"the global attribute {key} = {expected!r}", f"{close[0]!r} instead" if close else "none",
                        f"rename it to {key}" if close else "add it")
        elif check.name and check.attrs[key] != expected:
            check.fault(where, f"{key} = {expected!r}, as the name of the file says", shown(check.attrs[key]),
                        "correct the attribute, or the name of the file")
        elif not check.name and not _fits(key, check.attrs[key]):
            check.fault(where, f"{key} = {expected}", shown(check.attrs[key]), "correct the attribute")


def _fits(key: str, value: Any) -> bool:
    allowed = {"CalLMIP_Phase": (PHASE,), "Calibration_Scenario": [f"Scen{number}" for number in SCENARIOS],
               "Calibration_stage": STAGES, "Cal_Val": tuple(PERIODS.values())}
    return isinstance(value, str) and (value in allowed[key] if key in allowed else "." in value.strip("."))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.casefold() if letter.isalnum())


def _dimensions(check: Check) -> None:
    for name in DIMENSIONS:
        if name not in check.dims:
            check.fault(f"dimension {name}", f"the dimensions {', '.join(DIMENSIONS)}", f"{', '.join(check.dims) or 'none'}",
                        "rename dimensions, and add those that are missing with length 1")
        elif name != "time" and check.dims[name] != 1:
            check.fault(f"dimension {name}", f"{name} of length 1: one site a file", f"length {check.dims[name]}",
                        "select the cell of the site")
    others: dict[tuple[str, ...], list[str]] = {}
    for name, found in check.variables.items():
        if name.removesuffix(UNCERTAINTY) in VARIABLES and found.dims != DIMENSIONS:
            others.setdefault(found.dims, []).append(name)
    for dims, names in others.items():  # a program that writes one of them wrongly writes all of them so
        check.fault(f"variable {', '.join(names)}", f"{names[0]}({', '.join(DIMENSIONS)})", f"{names[0]}({', '.join(dims)})",
                    "put time first, and add lat and lon of length 1")


def _spelling(check: Check) -> None:
    """Variables under another name than that of the protocol, and units that are not letter by letter those."""
    aliases = {alias: name for name, about in VARIABLES.items() for alias in about.aliases}
    known = {*VARIABLES, *(name + UNCERTAINTY for name in VARIABLES), *DIMENSIONS, "latitude", "longitude"}
    for name, found in check.variables.items():
        if name in known:
            _units(check, name, found)
            continue
        visible = _visible(name)
        plain = [other for other in known if _plain(other) == _plain(visible)]
        close = difflib.get_close_matches(visible, known, n=1, cutoff=0.85)
        stem = next((name.removesuffix(end) for end in SPREADS if name.endswith(end)), "")
        meant = (plain or [aliases[name]] if plain or name in aliases else [stem + UNCERTAINTY] if stem in VARIABLES else close)
        if meant:
            check.fault(f"variable {ascii(name)}", f"the name {meant[0]}, if it is what it seems to be", ascii(name),
                        f"rename it to {meant[0]}")
        elif not name.endswith(("_bnds", "_bounds")):
            check.remark(f"variable {ascii(name)}", "variables of the protocol", f"{ascii(name)}, which is none of them",
                         "leave it out, or keep it: nobody will read it")


def _units(check: Check, name: str, found: Found) -> None:
    parent = name.removesuffix(UNCERTAINTY)
    if parent not in VARIABLES:
        return
    units, right = found.attrs.get("units"), VARIABLES[parent].units
    # What is hidden in otherwise right units is named by itself.
    if units not in right and not (isinstance(units, str) and _visible(units) in right):
        given = "no units" if units is None else f"units = {shown(units)}"
        check.fault(f"attribute units of {name}", f"units = {' or '.join(map(repr, right))}, letter by letter", given,
                    "convert the values, and write the units as in Table 3 of the protocol")


def _required(check: Check) -> None:
    absent = []
    for name, about in VARIABLES.items():
        if name in check.variables:
            continue
        if name in check.optimised:
            check.fault(f"variable {name}", f"{name} in {about.units[0]}, which {scenario_in_words(check.scenario)} calibrates",
                        "no such variable", f"write it ({about.long_name})")
        elif not about.optional:
            absent.append(name)
    if absent:
        check.remark(f"variable{'s' * (len(absent) > 1)} {', '.join(absent)}", "every variable of Table 3 that the model has",
                     "not in the file", "write what the model has")


def _places(check: Check) -> None:
    for name, (units, limit, others) in PLACES.items():
        found, where = check.variables.get(name), f"variable {name}"
        there = [other for other in others if other in check.variables]
        if found is None:
            check.fault(where, f"a variable {name} in {units}, one number", f"{', '.join(there) or 'none'}",
                        f"add it{f'; the name {there[0]} is not accepted' if there else ''}")
            continue
        if there:
            check.remark(f"variable {there[0]}", f"the position as {name} alone; other names are not accepted",
                         f"{there[0]} = {_number(check.variables[there[0]])} beside {name} = {_number(found)}", f"leave {there[0]} out")
        if found.raw is None or found.dtype.kind != "f" or found.raw.size != 1 or "time" in found.dims:
            check.fault(where, f"{name} as one floating-point number that does not depend on time",
                        f"{found.dtype} {name}({', '.join(found.dims)})", "write a scalar, or a coordinate of length 1")
            continue
        if found.dims == () and name in check.dims:
            check.remark(where, f"{name} of one number that xarray can open", f"a scalar variable {name} beside a dimension {name}",
                         f"write {name}({name}) with length 1, which reads as the same number everywhere")
        if found.attrs.get("units") != units:
            check.fault(f"attribute units of {name}", f"units = {units!r}", shown(found.attrs.get("units")), "set the attribute")
        _on_the_globe(check, name, float(found.values.ravel()[0]), limit)


def _number(found: Found) -> str:
    return f"{found.raw.ravel()[0]:g}" if found.raw is not None and found.raw.size == 1 else f"{found.dtype}"


def _on_the_globe(check: Check, name: str, value: float, limit: float) -> None:
    if not abs(value) <= limit:
        check.fault(f"variable {name}", f"degrees, at most {limit:g}", f"{value:g}", "write the coordinate of the tower")
        return
    place = SITES.get(check.name.site) if check.name else None
    right = None if place is None else place.latitude if name == "lat" else place.longitude
    if right is not None:
        off = abs((value - right + 180.0) % 360.0 - 180.0)
        if off > SHIFT:
            check.fault(f"variable {name}", f"{right:g}, where {check.name.site} is", f"{value:g}",
                        "write the coordinate of the tower; are lat and lon swapped, or of another site?")
