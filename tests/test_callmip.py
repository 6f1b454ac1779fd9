"""Files for CalLMIP from a calibration: a twin without data, and the real site DK-Sor from end to end."""

import csv
import json
import shutil
import subprocess
from dataclasses import replace

import equinox as eqx
import netCDF4
import numpy as np
import pytest
import xarray as xr

from landcal_jax.calibration import Calibration, with_estimated_model_error
from landcal_jax.callmip import COMMENTS, check, planned, scenario_of, write_callmip, write_files
from landcal_jax.callmip_information import ENDINGS, OPEN, QUESTIONS
from landcal_jax.experiment import dalec_problem, site_experiment, twin_experiment
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.io.callmip.output import FILL, record_days
from landcal_jax.io.callmip.validator import validate
from landcal_jax.laplace import laplace
from landcal_jax.models import Dalec2
from landcal_jax.observations import ExponentialCorrelation
from landcal_jax.sites import Sites
from landcal_jax.solving import solve
from landcal_jax.weather import TEMPERATE_FOREST, weather

PER_SECOND = 1e-3 / 86400  # kgC m-2 s-1 of one gC m-2 d-1
NAMES = {"model_name": "DALEC", "model_version": "v2"}
PLACE = {"places": {"temperate_forest": (48.7, 7.1)}}
ANSWERS = {key: f"The group says {key}." for key in QUESTIONS}


def short(experiment, steps: int, draws: int = 50) -> Calibration:
    """A calibration that stops early: what is written is the same as of one that has converged."""
    result = solve(experiment.problem, LevenbergMarquardt(), max_steps=steps, progress=False)
    if experiment.estimate_model_error:
        experiment = with_estimated_model_error(experiment, result)
    return Calibration(experiment, result, laplace(experiment.problem, result, draws=draws), {"seed": 0, "solver": "LevenbergMarquardt"})


@pytest.fixture(scope="module")
def twin() -> Calibration:
    return short(twin_experiment(0, years=2, held_out_years=1, model=Dalec2()), 2)


@pytest.fixture(scope="module")
def files(twin, tmp_path_factory):
    return write_callmip(twin, tmp_path_factory.mktemp("twin") / "callmip", **NAMES, **PLACE)


def test_a_twin_gives_files_of_the_form_of_the_protocol(twin, files):
    stem = "DALEC.v2_Phase1b_Scen2"
    assert set(files) == {f"{stem}_temperate-forest_Cal_{stage}.nc" for stage in ("Prior", "Posterior")} | {stem + end for end in ENDINGS}
    assert all(path.is_file() for path in files.values())
    assert any("temperate_forest is no site of CalLMIP" in remark for remark in files.remarks)
    assert any("Dalec2 has no hfls, hfss, tran, evspsblsoi, ts, mrso, mrsos: left out" in remark for remark in files.remarks)
    found = validate(files[f"{stem}_temperate-forest_Cal_Posterior.nc"])
    assert [one.where for one in found.faults] == ["the file"], str(found)
    assert "21 calibration and 10 validation sites" in found.faults[0].sentence


def test_values_are_those_of_the_runs(twin, files):
    run = twin.experiment.problem.forward.run(twin.result.theta)
    with xr.open_dataset(files["DALEC.v2_Phase1b_Scen2_temperate-forest_Cal_Posterior.nc"]) as ds:
        nep, stores = ds["nep"].values.ravel(), run.state
        np.testing.assert_allclose(nep, -np.asarray(run.output.nee[0]) * PER_SECOND, rtol=1e-12)
        np.testing.assert_allclose(ds["gpp"].values.ravel() - ds["reco"].values.ravel(), nep, atol=1e-20)
        soil = np.asarray(stores.litter[0] + stores.som[0])
        np.testing.assert_allclose(ds["cSoil"].values.ravel(), 1e-3 * (soil[1:] + soil[:-1]) / 2, rtol=1e-12)
        wood = np.asarray(stores.foliar[0] + stores.wood[0])
        np.testing.assert_allclose(ds["cLiveBioAbove"].values.ravel(), 1e-3 * (wood[1:] + wood[:-1]) / 2, rtol=1e-12)
        np.testing.assert_allclose(ds["lai"].values.ravel(), np.asarray(run.output.lai[0]), rtol=1e-12)
        assert ds["nep"].attrs["comment"] == COMMENTS["nep"]
        expected = np.asarray(twin.experiment.problem.forward.sites.time[0], "datetime64[D]")
        assert np.array_equal(ds.indexes["time"].values.astype("datetime64[D]"), expected)
        assert (float(ds["lat"][0]), float(ds["lon"][0])) == (48.7, 7.1)
    start = twin.experiment.problem.forward.run(twin.experiment.problem.space.default_theta)
    with xr.open_dataset(files["DALEC.v2_Phase1b_Scen2_temperate-forest_Cal_Prior.nc"]) as ds:
        np.testing.assert_allclose(ds["nep"].values.ravel(), -np.asarray(start.output.nee[0]) * PER_SECOND, rtol=1e-12)
        assert not [name for name in ds if name.endswith("_post_unc")]


def test_uncertainty_is_the_spread_by_parameters(twin, files):
    """Checked by a finite difference along one posterior axis: the sum of squares over all axes is the variance."""
    posterior, problem = twin.posterior, twin.experiment.problem
    root = np.linalg.cholesky(np.asarray(posterior.covariance))
    variance = 0.0
    for axis in root.T:
        up, down = (np.asarray(problem.predict(posterior.centre + sign * 1e-4 * axis)["nee"][0]) for sign in (1, -1))
        variance = variance + ((up - down) / 2e-4) ** 2
    with xr.open_dataset(files["DALEC.v2_Phase1b_Scen2_temperate-forest_Cal_Posterior.nc"]) as ds:
        np.testing.assert_allclose(ds["nep_post_unc"].values.ravel(), np.sqrt(variance) * PER_SECOND, rtol=1e-4)
        assert ds["nep_post_unc"].attrs["units"] == "kgC m-2 s-1"
        assert "model error" in ds["nep_post_unc"].attrs["comment"]


def test_the_information_is_filled_and_what_is_open_is_said(files):
    content = json.loads(files["DALEC.v2_Phase1b_Scen2_model_information.json"].read_text())
    answers = {item["key"]: item["answer"] for item in content["items"]}
    assert list(answers) == list(QUESTIONS) and len(answers) == 14
    assert files.open_items == [item["key"] for item in content["items"] if item["open"]] == [
        "operational_set", "other_uncertainties", "scenarios"]
    assert all(OPEN in answers[key] for key in files.open_items)
    assert "23 of 23 parameters" in answers["parameter_selection"]
    assert "labile_0, foliar_0, root_0, wood_0, litter_0, som_0" in answers["initial_conditions"]
    assert "LevenbergMarquardt; 2 iterations" in answers["method"] and "NEE alone" in answers["several_streams"]
    assert "Scenario 2 (NEE)" in answers["scenarios"]
    text = files["DALEC.v2_Phase1b_Scen2_model_information.md"].read_text()
    assert f"**{OPEN}**" in text and "operational_set, other_uncertainties, scenarios" in text
    with files["DALEC.v2_Phase1b_Scen2_parameters.csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 23 and rows[16]["parameter"] == "lma" and rows[16]["prior"] == "log_uniform"
    assert (float(rows[16]["lower"]), float(rows[16]["upper"]), rows[16]["units"]) == (5.0, 200.0, "gC m-2")
    assert str(files).splitlines()[-1].startswith("To be said by the group in the model information: operational_set")


def test_answers_of_the_group_take_their_place(twin, tmp_path):
    files = write_callmip(twin, tmp_path, **NAMES, **PLACE, information=ANSWERS)
    assert files.open_items == []
    text = files["DALEC.v2_Phase1b_Scen2_model_information.md"].read_text()
    assert all(answer in text for answer in ANSWERS.values()) and OPEN not in text and "Every question is answered" in text
    with pytest.raises(ValueError, match="operational"):
        write_callmip(twin, tmp_path / "b", **NAMES, **PLACE, information={"operational": "?"})
    assert not (tmp_path / "b").exists()


def test_nothing_is_overwritten_unasked_and_nothing_is_left_half(twin, files, tmp_path, monkeypatch):
    folder = next(iter(files.values())).parent
    with pytest.raises(FileExistsError, match="without results"):
        write_callmip(twin, folder, **NAMES, **PLACE)
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    write_callmip(twin, folder, **NAMES, **PLACE, overwrite=True)
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.*")}
    assert set(before) == set(after) and all(after[name] > before[name] for name in files)

    def fails(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("landcal_jax.callmip_information.write", fails)
    with pytest.raises(OSError, match="full disk"):
        write_callmip(twin, tmp_path / "full", **NAMES, **PLACE)
    assert not list((tmp_path / "full").glob("*.nc")), "files that are whole get their names together, or not at all"


@pytest.mark.parametrize(("change", "words"), [
    ({"scenario": 5}, "Scenario 2 .NEE., which is what the calibrated streams make"),
    ({"scenario": 9}, "scenario=2"),
    ({"places": {}}, "latitude and longitude of temperate_forest"),
    ({"cal_val": "Calibration"}, '"Cal" or "Val"'),
    ({"cal_val": "Val"}, "sites of the validation"),
    ({"model_name": "my model"}, "letters, digits"),
    ({"model_version": ""}, "letters, digits"),
])
def test_what_cannot_be_written_is_refused_before_anything_is_run(twin, tmp_path, change, words):
    with pytest.raises(ValueError, match=words):
        write_callmip(twin, tmp_path / "out", **(NAMES | PLACE | change))
    assert not (tmp_path / "out").exists()


def test_an_experiment_is_checked_before_it_is_calibrated(twin):
    checked = check(twin.experiment, **NAMES, **PLACE)
    assert (checked.scenario, checked.places) == (2, PLACE["places"])
    with pytest.raises(ValueError, match="latitude and longitude"):
        check(twin.experiment, **NAMES)
    problem = twin.experiment.problem.with_forward(FunctionForward(lambda theta: {}))
    with pytest.raises(TypeError, match="a model at sites"):
        check(replace(twin.experiment, problem=problem), **NAMES)


def test_monthly_runs_are_refused(twin):
    sites = twin.experiment.problem.forward.sites
    monthly = replace_field(sites, "days", 30 * (sites.days - sites.days[0, 0]) + sites.days[0, 0])
    with pytest.raises(ValueError, match="daily steps at temperate_forest"):
        check(twin.experiment, **NAMES, **PLACE, sites=monthly)


def test_scenarios_by_streams(twin):
    observations = twin.experiment.problem.observations
    assert scenario_of(observations) == (2, [])
    stream = observations["nee"]
    water = {name: replace_operator(stream, name) for name in ("latent_heat", "sensible_heat", "evapotranspiration", "lai")}
    assert scenario_of(observations.with_streams({"le": water["latent_heat"]}))[0] == 5
    assert scenario_of(observations.with_streams({"et": water["evapotranspiration"]}))[0] == 5
    assert scenario_of(observations.with_streams({"le": water["latent_heat"], "h": water["sensible_heat"]}))[0] == 1
    assert scenario_of(observations.with_streams({"nee": water["latent_heat"]}))[0] == 3
    assert scenario_of(observations.with_streams({"nee": water["sensible_heat"]}))[0] == 4
    assert scenario_of(observations.with_streams({"nee": water["sensible_heat"], "le": water["latent_heat"]}))[0] == 6
    number, remarks = scenario_of(observations.with_streams({"lai": water["lai"]}))
    assert number == 2 and remarks == ["Beside the targets of Scenario 2 (NEE), lai entered the cost."]
    with pytest.raises(ValueError, match="calibrate nee"):
        scenario_of(observations.with_streams({"nee": water["lai"]}))


def replace_operator(stream, field):
    return replace_field(stream, "operator", type(stream.operator)(field))


def replace_field(stream, name, value):
    return eqx.tree_at(lambda one: getattr(one, name), stream, value)


def test_validation_sites_are_run_with_the_calibrated_parameters(twin, tmp_path):
    """Weather made for two sites of the validation, one of another length; the parameters are those of the twin."""
    sets = [weather(replace(TEMPERATE_FOREST, name=name), years=years, seed=3).assign_coords(site=name)
            for name, years in (("US-Ha1", 2), ("US-UMB", 1))]
    sites = Sites.from_datasets(sets, Dalec2())
    files = write_callmip(twin, tmp_path, **NAMES, cal_val="Val", sites=sites)
    assert sum(name.endswith(".nc") for name in files) == 4
    posterior = files["DALEC.v2_Phase1b_Scen2_US-UMB_Val_Posterior.nc"]
    found = validate(posterior)
    assert found.passed, str(found)
    run = replace(twin.experiment.problem.forward, sites=sites).run(twin.result.theta)
    with xr.open_dataset(posterior) as ds:
        days = ds.sizes["time"]
        assert days in (365, 366), "the padding of the shorter site is not written"
        np.testing.assert_allclose(ds["nep"].values.ravel(), -np.asarray(run.output.nee[1, :days]) * PER_SECOND, rtol=1e-10)
        assert (ds["nep_post_unc"].values > 0).all() and ds.attrs["Cal_Val"] == "Validation"
    with pytest.raises(ValueError, match="US-Ha1, a validation site"):
        write_callmip(twin, tmp_path / "b", **NAMES, cal_val="Cal", sites=sites)


def test_days_outside_the_forcing_are_missing_and_said(twin, tmp_path):
    """A site of the protocol whose forcing covers a part of its record: the file has all days, the validator sees the gap."""
    forcing = weather(years=2, seed=3).assign_coords(site="US-SRG")
    forcing = forcing.assign_coords(time=forcing["time"].values - forcing["time"].values[0] + np.datetime64("2008-12-31", "ns"))
    files = write_callmip(twin, tmp_path, **NAMES, sites=Sites.from_datasets(forcing, Dalec2()))
    days = np.asarray(forcing["time"].values, "datetime64[D]")
    lost = np.setdiff1d(record_days("US-SRG"), days).size
    said = f"{lost} of 2191 days of the record of US-SRG are outside the forcing and missing in its files; 1 days of the forcing"
    assert said in " ".join(files.remarks)
    path = files["DALEC.v2_Phase1b_Scen2_US-SRG_Cal_Posterior.nc"]
    with netCDF4.Dataset(path) as file:
        file.set_auto_mask(False)
        assert (file["nep"][:] == FILL).sum() == lost and file["time"].size == 2191
    found = validate(path)
    assert [one.where for one in found.faults] == ["variable nep"] and f"{lost} of 2191 missing" in found.faults[0].sentence


def test_the_parts_can_be_written_into_another_transaction(twin, tmp_path):
    plan = planned(twin, **NAMES, **PLACE)
    files = write_files(plan, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(plan.results) == sorted(files)


def test_errors_that_are_correlated_are_in_the_information(twin, tmp_path):
    stream = twin.experiment.problem.observations["nee"]
    other = type(stream)(np.asarray(stream.values), np.asarray(stream.sigma), stream.operator, mask=np.asarray(stream.mask),
                         units=stream.units, time=stream.time, correlation=ExponentialCorrelation(4.0))
    problem = twin.experiment.problem
    problem = problem.with_observations(problem.observations.with_streams({"nee": other}))
    files = write_callmip(replace(twin, experiment=replace(twin.experiment, problem=problem)), tmp_path, **NAMES, **PLACE)
    assert "errors correlated over 4 days" in files["DALEC.v2_Phase1b_Scen2_model_information.md"].read_text()


def test_dalec_problem_is_the_same_map_elsewhere(twin):
    """The forward map with other sites is that of a problem built for these sites."""
    forcing = weather(years=1, seed=5)
    sites = Sites.from_datasets(forcing, Dalec2())
    one = replace(twin.experiment.problem.forward, sites=sites).run(twin.result.theta).output.nee
    other = dalec_problem(forcing, twin.experiment.problem.observations, Dalec2()).forward.run(twin.result.theta).output.nee
    np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.fixture(scope="session")
def dk_sor(data_dir, tmp_path_factory):
    """DK-Sor with three steps of a solver: files in the form of a full calibration."""
    calibration = short(site_experiment("DK-Sor"), 3)
    files = write_callmip(calibration, tmp_path_factory.mktemp("dk_sor"), model_name="landcal-DALEC", model_version="1005", scenario=5)
    return calibration, files, next((data_dir / "flux_daily" / "callmip_phase1").glob("DK-Sor_*_Flux.nc"))


POSTERIOR, PRIOR = (f"landcal-DALEC.1005_Phase1b_Scen5_DK-Sor_Cal_{stage}.nc" for stage in ("Posterior", "Prior"))


@pytest.mark.parametrize("name", [PRIOR, POSTERIOR])
def test_files_of_dk_sor_pass_the_validator(dk_sor, name):
    _, files, flux = dk_sor
    found = validate(files[name], flux=flux, scenario=5)
    assert found.passed, str(found)
    assert [one.where for one in found.remarks if "not in the file" in one.sentence] == ["variables hfss, tran, evspsblsoi, ts, mrsos"]


def test_files_of_dk_sor_open_decoded(dk_sor):
    calibration, files, flux = dk_sor
    with xr.open_dataset(files[POSTERIOR]) as ds, xr.open_dataset(flux) as seen:
        assert ds.sizes == {"time": 6574, "lat": 1, "lon": 1}
        assert np.array_equal(ds.indexes["time"], seen.indexes["time"])
        assert str(ds.indexes["time"][-1])[:10] == "2014-12-31" and np.datetime64("2012-02-29") in ds["time"].values
        assert ds["nep"].sel(time="2005-07-01", lat=55.48587, lon=11.64464, method="nearest").size == 1
        assert {name for name in ds.data_vars} == {"nep", "hfls", "gpp", "reco", "lai", "cLiveBioAbove", "cSoil", "mrso", "nep_post_unc",
                                                  "hfls_post_unc"}
        nee = calibration.experiment.problem.observations["nee"]
        ours = -1000 * 86400 * ds["nep"].values.ravel()
        theirs = np.asarray(calibration.experiment.problem.predict(calibration.result.z)["nee"][0])
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
        assert f"{float(nee.model_error.constant[0]) * PER_SECOND:.3g} kgC m-2 s-1 at DK-Sor" in ds["nep_post_unc"].attrs["comment"]
        water = ds["mrso"].values.ravel()
        assert 0 < water.min() and water.max() < 2e4


def header(path) -> str:
    """What `ncdump -h` shows; the same from the library of NetCDF where the program is not installed."""
    if shutil.which("ncdump"):
        return subprocess.run(["ncdump", "-h", str(path)], check=True, capture_output=True, text=True).stdout
    with netCDF4.Dataset(path) as file:
        sizes = [f"\t{name} = {dim.size} ;" for name, dim in file.dimensions.items()]
        lines = [f"netcdf {path.stem} {{", "dimensions:", *sizes, "variables:"]
        for name, one in file.variables.items():
            lines.append(f"\tdouble {name}({', '.join(one.dimensions)}) ;")
            lines += [f'\t\t{name}:{key} = "{one.getncattr(key)}" ;' for key in one.ncattrs()]
        lines += ["", "// global attributes:", *(f'\t\t:{key} = "{file.getncattr(key)}" ;' for key in file.ncattrs()), "}"]
    return "\n".join(lines)


def test_the_header_of_dk_sor_is_that_of_the_protocol(dk_sor, capsys):
    text = header(dk_sor[1][POSTERIOR])
    print(text)
    for line in ("time = 6574 ;", "lat = 1 ;", "lon = 1 ;", "double nep(time, lat, lon) ;", 'nep:units = "kgC m-2 s-1" ;',
                 'hfls:units = "W m-2" ;', 'time:units = "days since 1997-01-01 00:00:00" ;', 'lat:units = "degrees_north" ;',
                 'lon:units = "degrees_east" ;', "double nep_post_unc(time, lat, lon) ;", ':Model = "landcal-DALEC.1005" ;',
                 ':CalLMIP_Phase = "Phase1b" ;', ':Calibration_Scenario = "Scen5" ;', ':Calibration_stage = "Posterior" ;',
                 ':Cal_Val = "Calibration" ;'):
        assert line in text, line
    assert text.isascii(), "no invisible character anywhere"
    assert "netcdf landcal-DALEC" in capsys.readouterr().out
