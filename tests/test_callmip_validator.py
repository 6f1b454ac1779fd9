"""The validator of CalLMIP files: a file without a fault, one broken thing at a time, and the published template rebuilt."""

from pathlib import Path
from types import SimpleNamespace

import netCDF4
import numpy as np
import pytest
import xarray as xr

from landcal_jax.io.callmip.output import FILL, VARIABLES, FileName, record_days, write_file
from landcal_jax.io.callmip.validator import validate

SITE = "US-SRG"
NAME = FileName("Model", "v1.0", 1, SITE, "Cal", "Posterior")
DAYS = record_days(SITE)
LEVELS = {"nep": 1e-8, "hfls": 60.0, "hfss": 50.0, "gpp": 5e-8, "reco": 4e-8, "tran": 2e-5, "evspsblsoi": 1e-5, "hfg": 5.0, "ts": 290.0,
          "lai": 2.0, "cLiveBioAbove": 3.0, "cSoil": 10.0, "mrso": 400.0, "mrsos": 20.0}
SPREADS = ("nep_post_unc", "hfls_post_unc", "hfss_post_unc")


def season(level: float, swing: float = 0.3) -> np.ndarray:
    return level * (1 + swing * np.sin(2 * np.pi * np.arange(DAYS.size) / 365.25))


def variable(values, units, dims=("time", "lat", "lon"), fill=FILL, kind="f8", **attrs) -> SimpleNamespace:
    return SimpleNamespace(values=values, dims=dims, fill=fill, kind=kind, attrs={"units": units} | attrs)


def content(stage: str = "Posterior") -> SimpleNamespace:
    """Everything that stands in a right file, to be changed by a test."""
    columns = {name: variable(season(level, 0.05 if name == "ts" else 0.3), VARIABLES[name].units[0]) for name, level in LEVELS.items()}
    columns["nep"].values = columns["gpp"].values - columns["reco"].values
    if stage == "Posterior":
        columns |= {name: variable(season(0.1 * LEVELS[name[:-9]], 0.1), columns[name[:-9]].attrs["units"]) for name in SPREADS}
    columns["time"] = variable(np.arange(DAYS.size), "days since 2009-01-01 00:00:00", ("time",), None, calendar="standard")
    columns["lat"] = variable(31.7894, "degrees_north", ("lat",), None)
    columns["lon"] = variable(-110.8277, "degrees_east", ("lon",), None)
    attrs = {"Model": "Model.v1.0", "CalLMIP_Phase": "Phase1b", "Calibration_Scenario": "Scen1", "Calibration_stage": stage,
             "Cal_Val": "Calibration", "Conventions": "CF-1.11"}
    return SimpleNamespace(name=str(NAME._replace(stage=stage)), dims={"time": DAYS.size, "lat": 1, "lon": 1}, attrs=attrs,
                           columns=columns, format="NETCDF3_64BIT_OFFSET")


def written(folder: Path, it: SimpleNamespace) -> Path:
    path = folder / it.name
    with netCDF4.Dataset(path, "w", format=it.format) as file:
        file.setncatts(it.attrs)
        for name, size in it.dims.items():
            file.createDimension(name, size)
        for name, column in it.columns.items():
            made = file.createVariable(name, column.kind, column.dims, fill_value=column.fill)
            made.set_auto_maskandscale(False)
            made.setncatts({key: value for key, value in column.attrs.items() if value is not None})
            made[...] = np.resize(np.asarray(column.values, None if column.kind is str else column.kind), made.shape)
    return path


@pytest.fixture(scope="module")
def flux() -> xr.Dataset:
    """Observed fluxes of the same days, one in three seen; nep of a right file follows -NEE."""
    it = content()
    seen = np.where(np.arange(DAYS.size) % 3 == 0, 1.0, np.nan)
    rng = np.random.default_rng(0)
    nee = -1000 * 86400 * it.columns["nep"].values + rng.normal(0, 0.05, DAYS.size)
    return xr.Dataset(
        {"nee": ("time", nee * seen), "latent_heat": ("time", it.columns["hfls"].values * seen),
         "sensible_heat": ("time", it.columns["hfss"].values * seen)},
        coords={"time": DAYS.astype("datetime64[ns]"), "site": SITE})


@pytest.mark.parametrize("stage", ["Prior", "Posterior"])
@pytest.mark.parametrize("format", ["NETCDF4", "NETCDF4_CLASSIC", "NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET"])
def test_a_right_file_has_no_finding(tmp_path, flux, stage, format):
    it = content(stage)
    it.format = format
    found = validate(written(tmp_path, it), flux=flux, scenario=1)
    assert found.passed and len(found) == 0, str(found)
    assert "keeps the rules of CalLMIP Phase 1b: 0 faults, 0 remarks" in str(found)


@pytest.mark.parametrize("first", [0.0, 0.5, 1.0])
def test_the_three_ways_to_count_days_are_right(tmp_path, flux, first):
    it = content()
    it.columns["time"].values = np.arange(DAYS.size) + first
    assert len(validate(written(tmp_path, it), flux=flux)) == 0


def test_what_the_writer_makes_is_right(tmp_path, flux):
    it = content()
    series = {name: column.values for name, column in it.columns.items() if name not in ("time", "lat", "lon")}
    write_file(tmp_path / it.name, NAME, DAYS, series, latitude=31.7894, longitude=-110.8277)
    found = validate(tmp_path / it.name, flux=flux, scenario=1)
    assert len(found) == 0, str(found)
    with xr.open_dataset(tmp_path / it.name) as ds:
        assert ds["nep"].dims == ("time", "lat", "lon") and ds.sizes == {"time": 2191, "lat": 1, "lon": 1}
        assert np.array_equal(ds.indexes["time"].values.astype("datetime64[D]"), DAYS)
        np.testing.assert_array_equal(ds["nep"].values.ravel(), series["nep"])


def column(name, **change):
    def mutate(it):
        vars(it.columns[name]).update(change)
    return mutate


def values(name, change):
    def mutate(it):
        it.columns[name].values = change(np.array(it.columns[name].values, float))
    return mutate


def attribute(name, **change):
    def mutate(it):
        it.columns[name].attrs.update(change)
    return mutate


def overall(**change):
    def mutate(it):
        it.attrs.update(change)
        it.attrs = {key: value for key, value in it.attrs.items() if value is not None}
    return mutate


def renamed(old, new):
    def mutate(it):
        it.columns = {new if name == old else name: value for name, value in it.columns.items()}
    return mutate


def without(name):
    def mutate(it):
        del it.columns[name]
    return mutate


def rows(keep):
    """Only some rows, in all series."""
    def mutate(it):
        it.dims["time"] = int(keep.sum())
        for name, one in it.columns.items():
            if name not in ("lat", "lon"):
                one.values = np.asarray(one.values)[keep]
    return mutate


def file_name(**change):
    def mutate(it):
        it.name = str(NAME._replace(**change))
    return mutate


def named(name):
    def mutate(it):
        it.name = name
    return mutate


def put(name, made):
    def mutate(it):
        it.columns[name] = made
    return mutate


def both(*parts):
    def mutate(it):
        for part in parts:
            part(it)
    return mutate


def at(row, value):
    def change(series):
        series[row] = value
        return series
    return change


def transposed(it):
    it.columns["gpp"].dims = ("lat", "lon", "time")


def no_dimension(it):
    it.dims = {"time": DAYS.size, "y": 1, "x": 1}
    for one in it.columns.values():
        one.dims = tuple({"lat": "y", "lon": "x"}.get(dim, dim) for dim in one.dims)


def two_cells(it):
    it.dims["lat"] = 2


def netcdf4(it):
    it.format = "NETCDF4"


def noleap(it):
    rows(~((DAYS.astype("datetime64[M]").astype(int) % 12 == 1) & (DAYS - DAYS.astype("datetime64[M]") == np.timedelta64(28, "D"))))(it)
    it.columns["time"].values = np.arange(it.dims["time"])


# what is broken: how, severity, where it must be found, and words of the sentence
MUTATIONS = {
    "name of no pattern": (named("Model_v1_US-SRG_Posterior.nc"), "fault", "the file", "<model>.<version>_Phase1b"),
    "phase 1a name": (named("Model.v1.0_Expt1_US-SRG_Cal_Posterior.nc"), "fault", "the file", "Scen<1-6>"),
    "scenario 7": (named("Model.v1.0_Phase1b_Scen7_US-SRG_Cal_Posterior.nc"), "fault", "the file", "Scen<1-6>"),
    "unknown site": (file_name(site="US-SRX"), "fault", "the file", "did you mean US-SR"),
    "wrong part of the protocol": (both(file_name(period="Val"), overall(Cal_Val="Validation")), "fault", "the file", "calibration site"),
    "AU-How is a validation site": (file_name(site="AU-How"), "fault", "the file", "although its flux file"),
    "Model against the name": (overall(Model="Model.v2"), "fault", "attribute Model", "'Model.v2'"),
    "phase against the name": (overall(CalLMIP_Phase="1b"), "fault", "attribute CalLMIP_Phase", "Phase1b"),
    "scenario against the name": (overall(Calibration_Scenario="Scen5"), "fault", "attribute Calibration_Scenario", "Scen1"),
    "stage against the name": (overall(Calibration_stage="Prior"), "fault", "attribute Calibration_stage", "Posterior"),
    "Cal instead of Calibration": (overall(Cal_Val="Cal"), "fault", "attribute Cal_Val", "'Calibration'"),
    "attribute lost": (overall(Cal_Val=None), "fault", "attribute Cal_Val", "add it"),
    "attribute in other case": (overall(Calibration_stage=None, calibration_stage="Posterior"), "fault", "attribute Calibration_stage",
                                "'calibration_stage' instead"),
    "no CF": (overall(Conventions="COARDS"), "remark", "attribute Conventions", "CF-1.11"),
    "lat and lon not dimensions": (no_dimension, "fault", "dimension lat", "time, y, x"),
    "two cells": (two_cells, "fault", "dimension lat", "length 2"),
    "other order": (transposed, "fault", "variable gpp", "gpp(lat, lon, time)"),
    "one-dimensional": (column("hfls", dims=("time",)), "fault", "variable hfls", "hfls(time)"),
    "ALMA name": (renamed("nep", "NEE"), "fault", "variable 'NEE'", "rename it to nep"),
    "case of a name": (renamed("cSoil", "csoil"), "fault", "variable 'csoil'", "rename it to cSoil"),
    "misspelt name": (renamed("cLiveBioAbove", "cLiveBioAbov"), "fault", "variable 'cLiveBioAbov'", "rename it to cLiveBioAbove"),
    "invisible letter in a name": (renamed("gpp", "gpp\u200b"), "fault", "variable 'gpp\\u200b'", "U+200B"),
    "another suffix": (renamed("nep_post_unc", "nep_uc"), "fault", "variable 'nep_uc'", "rename it to nep_post_unc"),
    "a variable of nobody": (put("albedo", variable(season(0.2), "1")), "remark", "variable 'albedo'", "none of them"),
    "required variable lost": (without("hfss"), "fault", "variable hfss", "Scenario 1 (NEE and LE and H) calibrates"),
    "other variable lost": (without("tran"), "remark", "variable tran", "write what the model has"),
    "several lost": (both(without("tran"), without("mrso"), without("ts")), "remark", "variables tran, ts, mrso", "not in the file"),
    "lai of 32": (values("lai", at(slice(0, 418), 32.0)), "fault", "variable lai", "418 of 2191 values outside, the farthest 32"),
    "zero-width space in units": (attribute("cSoil", units="kg m-2\u200b"), "fault", "attribute 'units' of cSoil", "zero width space"),
    "no-break space in units": (attribute("gpp", units="kgC\u00a0m-2 s-1"), "fault", "attribute 'units' of gpp", "U+00A0"),
    "other spelling of units": (attribute("nep", units="kg C m-2 s-1"), "fault", "attribute units of nep", "'kgC m-2 s-1'"),
    "blank after units": (attribute("ts", units="K "), "fault", "attribute 'units' of ts", "'K'"),
    "no units": (attribute("ts", units=None), "fault", "attribute units of ts", "no units"),
    "units of an uncertainty": (attribute("hfls_post_unc", units="W/m2"), "fault", "attribute units of hfls_post_unc", "W m-2"),
    "uncertainty lost": (without("hfls_post_unc"), "fault", "variable hfls_post_unc", "posterior standard deviation of hfls"),
    "uncertainty below zero": (values("nep_post_unc", at(7, -1e-9)), "fault", "variable nep_post_unc", "1 below zero, the first in row 7"),
    "uncertainty missing": (values("hfss_post_unc", at(9, FILL)), "fault", "variable hfss_post_unc", "1 missing, the first in row 9"),
    "uncertainty in gC m-2 d-1": (values("nep_post_unc", lambda x: 8.64e7 * x), "fault", "variable nep_post_unc", "whole range"),
    "uncertainty zero": (values("nep_post_unc", lambda x: 0 * x), "fault", "variable nep_post_unc", "zero on every day"),
    "uncertainty in kgC a thousand times too small": (values("nep_post_unc", lambda x: 1e-3 * x), "fault", "variable nep_post_unc",
                                                      "not negligible: above 0.001 of the standard deviation of nep"),
    "uncertainty the same on every day": (values("hfls_post_unc", lambda x: 0 * x + 6), "remark",
                                          "variable hfls_post_unc", "6 on every day"),
    "uncertainty without parent": (both(without("lai"), put("lai_post_unc", variable(season(0.1), "1"))), "fault", "variable lai_post_unc",
                                   "lai beside lai_post_unc"),
    "origin in the year before": (both(attribute("time", units="days since 2008-12-31 00:00:00"), values("time", lambda x: x + 1)), "fault",
                                  "attribute units of time", "first of January"),
    "origin without time": (attribute("time", units="days since 2009-01-01"), "fault", "attribute units of time", "00:00:00"),
    "seconds": (attribute("time", units="seconds since 2009-01-01 00:00:00"), "fault", "attribute units of time", "days since"),
    "origin at noon": (attribute("time", units="days since 2009-01-01 12:00:00"), "fault", "attribute units of time", "12:00:00"),
    "another first year": (attribute("time", units="days since 2008-01-01 00:00:00"), "fault", "variable time", "2009-01-01 to 2014-12-31"),
    "calendar without leap days": (attribute("time", calendar="noleap"), "fault", "attribute calendar of time", "29 February"),
    "no calendar": (attribute("time", calendar=None), "remark", "attribute calendar of time", "'standard'"),
    "odd fraction": (values("time", lambda x: x + 0.45833333), "fault", "variable time", "0.45833333 in the first row"),
    "hours": (values("time", lambda x: 24 * x), "fault", "variable time", "24 after it"),
    "gap": (values("time", lambda x: x + (x > 99)), "fault", "variable time", "99 in row 99 and 101 after it (a gap)"),
    "day twice": (values("time", lambda x: x - (x > 99)), "fault", "variable time", "twice"),
    "leap days left out": (noleap, "fault", "variable time", "1 fewer: leap days"),
    "last week missing": (rows(np.arange(DAYS.size) < DAYS.size - 7), "fault", "variable time", "the first 2014-12-25"),
    "last day missing": (rows(np.arange(DAYS.size) < DAYS.size - 1), "fault", "variable time", "or the last 1, were left out"),
    "time lost": (without("time"), "fault", "variable time", "time(time)"),
    "lat lost": (without("lat"), "fault", "variable lat", "degrees_north"),
    "latitude instead of lat": (renamed("lat", "latitude"), "fault", "variable lat", "latitude is not accepted"),
    "latitude beside lat": (put("latitude", variable(31.79, "degrees_north", ("lat",), None)), "remark", "variable latitude",
                            "latitude = 31.79 beside lat = 31.7894"),
    "lat without units": (attribute("lat", units=None), "fault", "attribute units of lat", "degrees_north"),
    "lon as text": (both(column("lon", kind=str, values="111 W"), netcdf4), "fault", "variable lon", "floating-point number"),
    "lat a whole number": (column("lat", kind="i4"), "fault", "variable lat", "floating-point number"),
    "lat at every time": (column("lat", dims=("time",)), "fault", "variable lat", "lat(time)"),
    "lat and lon swapped": (both(values("lat", lambda x: -110.8277), values("lon", lambda x: 31.7894)), "fault", "variable lat",
                            "at most 90"),
    "another place": (values("lon", lambda x: 110.8277), "fault", "variable lon", "-110.828, where US-SRG is"),
    "scalar beside a dimension": (column("lat", dims=()), "remark", "variable lat", "xarray can open"),
    "no fill value": (column("gpp", fill=None), "fault", "variable gpp", "_FillValue declared"),
    "NaN without fill value": (both(column("gpp", fill=None), values("gpp", at(3, np.nan))), "fault", "variable gpp", "NaN on 1 days"),
    "1e20 not declared": (both(column("gpp", fill=-9999.0), values("gpp", at(5, 1e20))), "fault", "variable gpp",
                           "1e+20, the first in row 5"),
    "infinite": (values("gpp", at(5, np.inf)), "fault", "variable gpp", "inf, the first in row 5"),
    "NaN beside another fill value": (values("lai", at(3, np.nan)), "remark", "variable lai", "NaN on 1 days"),
    "two fill values": (attribute("lai", missing_value=-9999.0), "remark", "variable lai", "leave missing_value out"),
    "missing days of a target": (values("nep", at(slice(0, 30), FILL)), "fault", "variable nep", "30 of 2191 missing"),
    "missing days of another": (values("mrso", at(slice(0, 30), FILL)), "remark", "variable mrso", "30 of 2191 missing"),
    "nep in gC m-2 d-1": (values("nep", lambda x: 8.64e7 * x), "fault", "variable nep", "kgC m-2 s-1"),
    "gpp in gC m-2 s-1": (values("gpp", lambda x: 1000 * x), "fault", "variable gpp", "times the largest that can be"),
    "hfls in mm d-1": (values("hfls", lambda x: x / 28.4), "remark", "variable hfls", "exceeds 15"),
    "ts in degC": (values("ts", lambda x: x - 273.15), "fault", "variable ts", "between 170 and 350 K"),
    "mrso in m": (values("mrso", lambda x: x / 1000), "remark", "variable mrso", "another unit"),
    "cSoil in g": (values("cSoil", lambda x: 1000 * x), "fault", "variable cSoil", "convert to kg m-2"),
    "lai below zero": (values("lai", at(1, -1.0)), "fault", "variable lai", "between 0 and 20"),
    "tran in mm d-1": (values("tran", lambda x: 86400 * x), "fault", "variable tran", "kg m-2 s-1"),
    "sign of nep": (values("nep", lambda x: -x), "fault", "variable nep", "nep is -NEE"),
    "constant flux": (values("hfss", lambda x: 0 * x + 50), "remark", "variable hfss", "50 on every day"),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_one_broken_thing_is_named(tmp_path, what):
    mutate, severity, where, words = MUTATIONS[what]
    it = content()
    mutate(it)
    found = validate(written(tmp_path, it))
    hits = [one for one in found if one.severity == severity and one.where == where and words in one.sentence]
    assert hits, f"{what} is not named {severity} in {where} with {words!r}:\n{found}"
    assert len(found) <= 8, f"one mistake sends the user to many places:\n{found}"
    assert severity == "fault" or found.passed, str(found)
    for line, head in zip(hits[0].sentence.splitlines(), ("Expected: ", "Got:      ", "Try:      "), strict=True):
        assert line.startswith(head) and len(line) > len(head)


def test_an_uncertainty_in_a_prior_file(tmp_path):
    it = content("Prior")
    it.columns["nep_post_unc"] = variable(season(1e-9), "kgC m-2 s-1")
    found = validate(written(tmp_path, it))
    assert [(one.where, "in a prior file" in one.sentence) for one in found] == [("variable nep_post_unc", True)]


def test_a_file_of_another_scenario_than_asked_for(tmp_path):
    it = content("Prior")
    del it.columns["hfss"]
    found = validate(written(tmp_path, it), scenario=5)
    assert ["Scenario 5 (NEE and LE)" in one.sentence for one in found.faults] == [True]
    assert "Scen5_US-SRG" in found.faults[0].sentence, "H is not of scenario 5: its absence is no fault"
    with pytest.raises(ValueError, match="Scenario 6"):
        validate(tmp_path / it.name, scenario=7)


def test_signs_against_the_observed_fluxes(tmp_path, flux):
    it = content()
    for name in ("gpp", "reco"):
        del it.columns[name]
    it.columns["nep"].values = -it.columns["nep"].values
    it.columns["hfls"].values = 120 - it.columns["hfls"].values
    found = validate(written(tmp_path, it), flux=flux)
    assert [one.where for one in found.faults] == ["variable nep", "variable hfls"]
    assert "observed -NEE" in found.faults[0].sentence and "731 observed days" in found.faults[0].sentence
    assert "positive is to the atmosphere" in found.faults[1].sentence
    assert not any("variable nep" in one.where for one in validate(tmp_path / it.name).faults), "without fluxes nothing tells the sign"


def test_another_amplitude_and_no_relation_to_the_observed_fluxes_are_remarked(tmp_path, flux):
    it = content()
    it.columns["hfss"].values = 50 + 1e-3 * (it.columns["hfss"].values - 50)
    it.columns["hfls"].values = np.random.default_rng(1).normal(60, 5, DAYS.size)
    found = validate(written(tmp_path, it), flux=flux)
    assert found.passed
    assert {one.where for one in found.remarks} == {"variable hfss", "variable hfls"}


def test_days_against_the_flux_file(tmp_path, flux):
    it = content()
    path = written(tmp_path, it)
    found = validate(path, flux=flux.isel(time=slice(0, 2000)))
    assert ["191 days too many, the first 2014-06-24" in one.sentence for one in found] == [True]
    found = validate(path, flux=flux.isel(time=np.arange(2191) != 59))
    assert ["1 days too many, the first 2009-03-01" in one.sentence for one in found] == [True]
    found = validate(path, flux=flux.assign_coords(site="US-SRM"))
    assert ["those of US-SRM" in one.sentence for one in found] == [True]
    with pytest.raises(ValueError, match="normal form"):
        validate(path, flux=flux[["nee"]].rename(nee="x"))


def test_groups_and_files_that_are_none(tmp_path):
    it = content()
    netcdf4(it)
    path = written(tmp_path, it)
    with netCDF4.Dataset(path, "a") as file:
        file.createGroup("daily")
    assert [one.where for one in validate(path).faults] == ["the file"]
    whole = path.read_bytes()
    classic = written(tmp_path, content()).read_bytes()
    for broken, words in ((whole[: len(whole) // 2], "can be read"), (classic[: len(classic) // 2], "cut short"),
                          (b"no NetCDF", "can be read"), (b"", "empty")):
        path.write_bytes(broken)
        found = validate(path)
        assert not found.passed and words in str(found)
    with pytest.raises(FileNotFoundError, match="no file"):
        validate(tmp_path / "nothing.nc")


def test_random_bytes_give_findings_and_never_a_traceback(tmp_path):
    it = content("Prior")
    it.format = "NETCDF3_CLASSIC"
    path = written(tmp_path, it)
    whole, rng = bytearray(path.read_bytes()), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, 4000, 3):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        validate(path)


def test_the_faults_of_the_published_template(tmp_path):
    """Rebuilt by code: the metadata of the example file for DK-Sor that the protocol links to (June 2026)."""
    days = record_days("DK-Sor")
    units = {name: ("m2 m-2" if name == "lai" else about.units[0]) for name, about in VARIABLES.items()}
    with netCDF4.Dataset(tmp_path / "CLASSIC.v2_Phase1b_Scen1_DK-Sor_Cal_Prior.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.setncatts({"Conventions": "COARDS", "Model": "CLASSIC.v2", "CalLMIP_Phase": "Phase1b", "Calibration_Scenario": "Scen1",
                        "Calibration_stage": "Prior", "Cal_Val": "Calibration"})
        for name, size in (("lon", 1), ("lat", 1), ("time", days.size)):
            file.createDimension(name, size)
        for name, value in (("lat", 55.4849), ("lon", 11.6446)):
            file.createVariable(name, "f8", ())[...] = value
        for name, dim, value, unit in (("longitude", "lon", 11.64, "degrees_east"), ("latitude", "lat", 55.49, "degrees_north")):
            place = file.createVariable(name, "f8", (dim,))
            place.units, place[:] = unit, value
        time = file.createVariable("time", "f8", ("time",))
        time.units, time.calendar, time[:] = "days since 1996-12-31 00:00", "standard", np.arange(days.size) + 1
        for name in VARIABLES:
            made = file.createVariable(name, "f8", ("time", "lat", "lon"), fill_value=1e38)
            made.units = units[name] + ("\u200b" if name == "cSoil" else "")
            made[:, 0, 0] = LEVELS[name] * (1 + (0.05 if name == "ts" else 0.3) * np.sin(np.arange(days.size) / 58.1))
    found = validate(tmp_path / "CLASSIC.v2_Phase1b_Scen1_DK-Sor_Cal_Prior.nc")
    assert {one.where for one in found.faults} == {
        "attribute 'units' of cSoil", "attribute units of lat", "attribute units of lon", "attribute units of time"}
    assert {one.where for one in found.remarks} == {
        "attribute Conventions", "variable latitude", "variable longitude", "variable lat", "variable lon"}
    text = str(found)
    assert "U+200B (zero width space)" in text and "'days since 1996-12-31 00:00'" in text and "4 faults, 5 remarks" in text
    assert "variable time" not in text, "values count right from that origin: only its units are against the rules"
    with pytest.raises(ValueError, match="already exists as a scalar variable"):
        xr.open_dataset(found.path)
