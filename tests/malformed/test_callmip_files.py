"""CalLMIP output files with one fault each, as `landcal validate` meets them: status 1 and the finding; 2 where nothing can be read."""

import re
from pathlib import Path

import netCDF4
import numpy as np
import pytest
from good_files import CALLMIP, callmip
from malformed_case import Case, check, landcal

from landcal_jax.io.callmip.output import FILL, VARIABLES, record_days

NAME = "Model.v1_Phase1b_Scen1_US-SRG_Cal_Prior.nc"
DAYS = record_days("US-SRG")
LEVELS = {"nep": 1e-8, "hfls": 60.0, "hfss": 50.0, "gpp": 5e-8, "reco": 4e-8, "lai": 2.0}


class Content:
    """Everything that stands in a right file, to be changed by a case."""

    def __init__(self):
        wave = 1 + 0.3 * np.sin(2 * np.pi * np.arange(DAYS.size) / 365.25)
        self.name = NAME
        self.attrs = {"Model": "Model.v1", "CalLMIP_Phase": "Phase1b", "Calibration_Scenario": "Scen1", "Calibration_stage": "Prior",
                      "Cal_Val": "Calibration", "Conventions": "CF-1.11"}
        self.dims = {"time": DAYS.size, "lat": 1, "lon": 1}
        self.values = {name: level * wave for name, level in LEVELS.items()}
        self.values["nep"] = self.values["gpp"] - self.values["reco"]
        self.units = {name: VARIABLES[name].units[0] for name in LEVELS} | {
            "time": "days since 2009-01-01 00:00:00", "lat": "degrees_north", "lon": "degrees_east"}
        self.values |= {"time": np.arange(DAYS.size, dtype=float), "lat": 31.7894, "lon": -110.8277}
        self.calendar = "standard"

    def write(self):
        with netCDF4.Dataset(self.name, "w", format="NETCDF3_64BIT_OFFSET") as file:
            file.setncatts(self.attrs)
            for name, size in self.dims.items():
                file.createDimension(name, size)
            for name, values in self.values.items():
                made = file.createVariable(name, "f8", (name,) if name in self.dims else tuple(self.dims),
                                           fill_value=None if name in self.dims else FILL)
                made.units = self.units[name]
                made[:] = np.asarray(values).reshape(made.shape)
            file["time"].calendar = self.calendar


def absent(name):
    def change(it):
        del it.values[name]
    return change


def attribute(name, value):
    def change(it):
        it.attrs[name] = value
    return change


def units(name, text):
    def change(it):
        it.units[name] = text
    return change


def values(name, function):
    def change(it):
        it.values[name] = function(np.array(it.values[name]))
    return change


def put(name, **what):
    def change(it):
        setattr(it, name, what["to"])
    return change


def at(place, value):
    return lambda old: np.where(np.arange(old.size) == place, value, old)


def shorter(it):
    """Without its last day."""
    it.dims["time"] -= 1
    it.values = {name: one[:-1] if np.ndim(one) else one for name, one in it.values.items()}


def one_day_less(it):
    """Without one day in the middle."""
    it.dims["time"] -= 1
    it.values = {name: np.delete(one, 59) if np.ndim(one) else one for name, one in it.values.items()}


# What is wrong -> (the change, what a finding has to say: expected, got).
FAULTS = {
    "name of the file": (put("name", to="results.nc"), "a name <model>.<version>_Phase1b", "results.nc"),
    "site": (put("name", to=NAME.replace("US-SRG", "US-SRX")), "one of the 21 calibration and 10 validation sites", "US-SRX"),
    "period of the site": (lambda it: (setattr(it, "name", NAME.replace("_Cal_", "_Val_")), it.attrs.update(Cal_Val="Validation")),
                           "Cal for US-SRG, a calibration site", "Val in the name"),
    "no target": (absent("nep"), "nep in kgC m-2 s-1, which Scenario 1", "no such variable"),
    "units of nep": (units("nep", "gC m-2 d-1"), "units = 'kgC m-2 s-1', letter by letter", "units = 'gC m-2 d-1'"),
    "invisible character": (units("hfls", "W m\u200b-2"), "without invisible characters", "U+200B"),
    "stage": (attribute("Calibration_stage", "prior"), "Calibration_stage = 'Prior'", "'prior'"),
    "phase": (attribute("CalLMIP_Phase", "Phase1a"), "CalLMIP_Phase = 'Phase1b'", "'Phase1a'"),
    "latitude": (values("lat", lambda old: 912.0 + 0 * old), "degrees, at most 90", "912"),
    "another place": (values("lat", lambda old: old + 5), "31.7894, where US-SRG is", "36.7894"),
    "calendar": (put("calendar", to="noleap"), "calendar = 'standard', with leap days", "noleap"),
    "units of time": (units("time", "months since 2009-01-01"), "days since", "months since"),
    "a day twice": (values("time", at(60, 59.0)), "one row a day", "59 in row 59 and 59 after it (twice or backwards)"),
    "last day missing": (shorter, "2191 days from 2009-01-01 to 2014-12-31", "2190 days from 2009-01-01 to 2014-12-30, 1 fewer"),
    "a day missing": (one_day_less, "one row a day", "58 in row 58 and 60 after it (a gap)"),
    "sign of nep": (values("nep", np.negative), "nep positive into the land, rising with gpp - reco",
                    "a correlation of -1.00 over 2191 days"),
    "fill value in a target": (values("hfss", at(7, 1e20)), "a value of hfss on every day", "1 of 2191 missing, the first in row 7"),
    "impossible value": (values("hfls", at(7, 60000.0)), "daily hfls between -300 and 700 W m-2",
                         "1 of 2191 values outside, the farthest 60000"),
    "uncertainty in a prior": (lambda it: (it.values.update(nep_post_unc=it.values["gpp"]), it.units.update(nep_post_unc="kgC m-2 s-1")),
                               "posterior uncertainties in posterior files only", "nep_post_unc"),
    "other name of a variable": (lambda it: (it.values.update(GPP=it.values.pop("gpp")), it.units.update(GPP=it.units["gpp"])),
                                 "the name gpp", "'GPP'"),
}
FINDING = re.compile(r"expected:? (.+?)\s+got:? (.+?)\s+try:? (.+?)(?=\n\S|\n\n|\Z)", re.DOTALL | re.IGNORECASE)


def test_a_right_file_passes():
    Content().write()
    status, said, complained = landcal(f"validate {NAME}")
    assert (status, complained) == (0, ""), said
    assert "0 faults" in said


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_one_finding(fault):
    change, expected, got = FAULTS[fault]
    it = Content()
    change(it)
    it.write()
    status, said, complained = landcal(f"validate {it.name}")
    assert (status, complained) == (1, ""), said
    found = [one.groups() for one in FINDING.finditer(said)]
    assert any(expected in one and got in other for one, other, _ in found), said
    assert int(re.search(r"(\d+) faults?,", said)[1]) == 1, said


def test_fluxes_of_another_site():
    Content().write()
    callmip()
    status, said, complained = landcal(f"validate {NAME} --flux {CALLMIP}")
    assert (status, complained) == (1, "")
    assert "Expected: fluxes of US-SRG" in said and "Got:      those of FI-Xxx" in said


UNREADABLE = [
    Case("no file", "validate x.nc", lambda: None, "an output file of CalLMIP", "no file x.nc", "check the name"),
    Case("a folder", "validate x.nc", lambda: Path("x.nc").mkdir(), "an output file of CalLMIP", "x.nc, which is a folder",
         "check the name"),
    Case("no flux file", f"validate {NAME} --flux {CALLMIP}", lambda: Content().write(), "a NetCDF file of CalLMIP Phase 1",
         f"no file {CALLMIP}", "check the name"),
    Case("a flux file of another kind", f"validate {NAME} --flux {NAME}", lambda: Content().write(), f"variable 'NEE_daily' in {NAME}",
         "only gpp, hfls",
         "check that the file is of the kind"),
]


@pytest.mark.parametrize("case", UNREADABLE, ids=[case.name for case in UNREADABLE])
def test_what_cannot_be_read(case):
    check(case)


@pytest.mark.parametrize(("content", "got"), [(b"", "an empty file"), (b"nothing", "x.nc"), (b"CDF\x01" + bytes(20), "x.nc")])
def test_a_file_that_is_none_has_a_finding(content, got):
    Path("x.nc").write_bytes(content)
    status, said, complained = landcal("validate x.nc")
    assert status == 1 and complained == "" and "1 fault," in said and got in said
