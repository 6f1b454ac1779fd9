"""Values in output files of CalLMIP: fill values, gaps, numbers that cannot be, posterior uncertainties.

Part of `callmip_validator`, whose `Check` these functions take.
"""

import numpy as np

from landcal_jax.io.callmip.check import UNDECLARED, Check, shown
from landcal_jax.io.callmip.output import SCENARIOS, UNCERTAINTY, VARIABLES, scenario_in_words

SMALL = 1e-3  # of the standard deviation of a flux: no posterior of a land model knows it so well


def check_series(check: Check) -> None:
    """Missing values, their declaration, and numbers that cannot be what their name and units say."""
    for name, found in check.fluxes.items():
        raw, values, where = found.raw.astype(np.float64).ravel(), found.values.ravel(), f"variable {name}"
        fill = found.attrs.get("_FillValue")
        missing = np.isnan(values)
        bare = np.isnan(raw) if fill is None or not np.isnan(fill) else np.zeros(raw.shape, bool)
        if fill is None:
            check.fault(where, f"_FillValue declared for {name}", "none" + (f", and NaN on {bare.sum()} days" if bare.any() else ""),
                        "declare it when the variable is made (1e20 is usual)")
        elif bare.any():
            check.remark(where, f"missing values of {name} as its _FillValue {fill:g}", f"NaN on {bare.sum()} days", "write the fill value")
        other = found.attrs.get("missing_value")
        if fill is not None and other is not None and not np.array_equal(fill, other, equal_nan=True):
            check.remark(where, f"missing_value equal to _FillValue {fill:g}", f"{other}", "leave missing_value out")
        huge = np.isfinite(values) & (np.abs(values) >= UNDECLARED)
        wrong = huge | np.isinf(values)
        if wrong.any():
            check.fault(where, f"finite values of {name}, missing ones as the declared _FillValue ({shown(fill)})",
                        f"{wrong.sum()} values such as {values[wrong][0]:g}, the first in row {int(np.argmax(wrong))}",
                        "declare this number as _FillValue, or write the one that is declared")
        _gaps(check, name, missing)
        if not name.endswith(UNCERTAINTY):
            _plausible(check, name, values[~missing & ~wrong])


def _gaps(check: Check, name: str, missing: np.ndarray) -> None:
    if name.endswith(UNCERTAINTY) or not missing.any():
        return
    expected = f"a value of {name} on every day"
    got = f"{missing.sum()} of {missing.size} missing, the first in row {int(np.argmax(missing))}"
    if name in check.optimised or missing.all():
        check.fault(f"variable {name}", expected, got, "run the model over the whole record of the flux file")
    else:
        check.remark(f"variable {name}", expected, got, "say in an attribute why")


def _plausible(check: Check, name: str, values: np.ndarray) -> None:
    if not values.size:
        return
    about, where = VARIABLES[name], f"variable {name}"
    units, outside = about.units[0], (values < about.low) | (values > about.high)
    if outside.any():
        farthest = values[np.argmax(np.abs(values - (about.low + about.high) / 2))]
        limit = about.high if farthest > about.high else about.low
        factor = f", {farthest / limit:.2g} times the largest that can be" if limit and farthest / limit > 2 else ""
        # A factor of some hundred is another unit; what is a little too much is more often a run that left what land can be.
        advice = f"convert to {units}: is it in another unit?"
        if factor == "" or farthest / limit < 5:
            advice = f"look at the run (parameters at the edge of their ranges?), or convert to {units} if it is in another unit"
        check.fault(where, f"daily {name} between {about.low:g} and {about.high:g} {units}, what land can have",
                    f"{outside.sum()} of {values.size} values outside, the farthest {farthest:g}{factor}", advice)
    elif np.max(np.abs(values)) < about.tiny:
        check.remark(where, f"{name} in {units} that exceeds {about.tiny:g} on some day", f"{np.max(np.abs(values)):g} at most",
                     f"convert to {units}, if it is in another unit")
    elif values.size > 1 and name in SCENARIOS[1] and np.ptp(values) == 0:
        check.remark(where, f"{name} that varies from day to day", f"{values[0]:g} on every day", "check that the run was written")


def check_uncertainties(check: Check) -> None:
    """Posterior uncertainties: in posterior files only, of every optimised variable, and of a size that one can believe."""
    present = [name for name in check.variables if name.endswith(UNCERTAINTY) and name.removesuffix(UNCERTAINTY) in VARIABLES]
    if check.stage == "Prior":
        for name in present:
            check.fault(f"variable {name}", "posterior uncertainties in posterior files only", f"{name} in a prior file", "leave it out")
        return
    if check.stage == "Posterior":
        for name in check.optimised:
            if name + UNCERTAINTY not in check.variables:
                check.fault(f"variable {name}{UNCERTAINTY}",
                            f"{name}{UNCERTAINTY} in a posterior file of {scenario_in_words(check.scenario)}", "no such variable",
                            f"write the posterior standard deviation of {name}, or ensemble members")
    fluxes = check.fluxes
    for name in present:
        parent = name.removesuffix(UNCERTAINTY)
        if parent not in check.variables:
            check.fault(f"variable {name}", f"{parent} beside {name}", "no such variable", f"write {parent} too, or leave {name} out")
        elif name in fluxes and parent in fluxes:
            _uncertainty(check, name, fluxes[name].values.ravel(), fluxes[parent].values.ravel())


def _uncertainty(check: Check, name: str, spread: np.ndarray, parent: np.ndarray) -> None:
    where, about = f"variable {name}", VARIABLES[name.removesuffix(UNCERTAINTY)]
    negative, lost = spread < 0, np.isfinite(parent) & ~np.isfinite(spread)
    width = about.high - about.low
    if negative.any():
        check.fault(where, "a standard deviation of zero or more",
                    f"{negative.sum()} below zero, the first in row {int(np.argmax(negative))}",
                    "write the standard deviation, not a difference")
    if lost.any():
        check.fault(where, f"an uncertainty wherever {name.removesuffix(UNCERTAINTY)} has a value",
                    f"{lost.sum()} missing, the first in row {int(np.argmax(lost))}", "compute it for every day")
    given = spread[np.isfinite(spread) & (np.abs(spread) < UNDECLARED)]
    known = parent[np.isfinite(parent) & (np.abs(parent) < UNDECLARED)]
    varies = float(np.std(known)) if known.size else 0.0
    if given.size and not given.any():
        check.fault(where, "an uncertainty above zero", "zero on every day", "write the posterior spread")
        return
    if given.size and (given >= 0).all() and np.median(given) < SMALL * varies:
        check.fault(where, f"an uncertainty that is not negligible: above {SMALL:g} of the standard deviation of "
                    f"{name.removesuffix(UNCERTAINTY)} ({varies:.3g} {about.units[0]})", f"{np.median(given):.3g} in the median",
                    f"write the posterior standard deviation in {about.units[0]}")
    elif given.size > 2 and np.ptp(given) == 0:
        check.remark(where, "an uncertainty that follows the flux from day to day", f"{given[0]:g} on every day",
                     "write the spread of the ensemble of each day")
    if given.size and given.max() > width:
        check.fault(where, f"a standard deviation below {width:g} {about.units[0]}, the whole range of the flux", f"{given.max():g}",
                    f"convert to {about.units[0]}")
