"""posterior.nc, parameters.csv and report.html: what is in them, how they are written, and what they warn of."""

import json
import re
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax import caveats, output, report
from landcal_jax.calibration import Calibration, calibrate
from landcal_jax.experiment import Experiment
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.solving import solve

DAYS, SEEN = 500, 400
TIME = np.datetime64("2003-01-01") + np.arange(DAYS).astype("timedelta64[D]")
SEASON = np.sin(2 * np.pi * np.arange(DAYS) / 365.25)
UNITS = {"nee": "gC m-2 d-1", "latent_heat": "W m-2"}
TRUTH = {"uptake": 3.0, "respiration": 1.0}
PARAMETERS = {
    "uptake": Parameter.bounded(2.0, 2.0, 0.0, 10.0, units="gC m-2 d-1", description="amplitude of uptake"),
    "respiration": Parameter.log_uniform(0.1, 20.0, units="gC m-2 d-1", description="respiration")}
SOURCE = {
    "file": "a.nc", "sha256": "0" * 64, "source": "https://example.org", "license": "CC-BY-4.0",
    "citation": "Somebody (2020)"}


def fluxes(theta):
    """Two series that are linear in two parameters."""
    nee = theta["respiration"] - theta["uptake"] * (1 + SEASON)
    return {"nee": nee[None], "latent_heat": (20 + 10 * theta["uptake"] * (1 + SEASON))[None]}


def stream(name, error, values=None, **more):
    """A stream of `fluxes` at the truth with white noise of `error`, a fifth of it missing."""
    rng = np.random.default_rng(len(name))
    exact = np.asarray(fluxes(TRUTH)[name][0]) if values is None else values
    noisy = np.where(rng.random(DAYS) < 0.8, exact + error * rng.standard_normal(DAYS), np.nan)
    return Stream(noisy, **({"sigma": error} | more), units=UNITS[name], time=TIME, description=name)


def experiment(forward=fluxes, parameters=PARAMETERS, held_out=True, **streams):
    streams = streams or {"nee": stream("nee", 0.5), "latent_heat": stream("latent_heat", 8.0)}
    calibrated, later = Observations(streams, sites=["here"]).split(TIME[SEEN])
    problem = Problem(ParameterSpace(parameters), FunctionForward(forward), calibrated)
    truth = {name: jnp.asarray(TRUTH[name]) for name in parameters} if set(parameters) <= set(TRUTH) else None
    return Experiment(problem, later if held_out else None, "Two series", truth, False, [SOURCE], ["made by a test"])


def done(made, **options):
    solver = LevenbergMarquardt(**options)
    return calibrate(made, solver, seed=5, draws=150, progress=False, about={"command": "landcal test"})


def warned(made, posterior=laplace, **options):
    """The sentences of warning of a calibration."""
    result = solve(made.problem, LevenbergMarquardt(**options), progress=False)
    found = posterior(made.problem, result)
    return caveats.caveats(made, result, found, {"map": made.problem.predict(result.z)}, found.predictive())


@pytest.fixture(scope="module")
def calibration():
    return done(experiment())


@pytest.fixture(scope="module")
def ds(calibration) -> xr.Dataset:
    return calibration.to_xarray()


@pytest.fixture(scope="module")
def written(ds, tmp_path_factory):
    return output.write(ds, tmp_path_factory.mktemp("out") / "new" / "folder")


# --------------------------------------------------------------------------------------------------------- the Dataset

@pytest.mark.parametrize("name", UNITS)
def test_every_series_has_units_names_and_time(ds, name):
    series = [str(variable) for variable in ds.data_vars if str(variable).startswith(f"{name}_")]
    assert len(series) == 11
    for variable in series:
        assert ds[variable].attrs["long_name"]
        if variable.endswith("held_out"):
            assert ds[variable].dims == (f"{name}_time",)
        else:
            assert ds[variable].dims == ("site", f"{name}_time")
            assert ds[variable].attrs["units"] == UNITS[name]
    assert ds[f"{name}_time"].attrs["standard_name"] == "time"
    np.testing.assert_array_equal(ds[f"{name}_time"].values, TIME.astype("datetime64[ns]"))
    standard = ds[f"{name}_observed"].attrs.get("standard_name")
    assert standard == {"latent_heat": "surface_upward_latent_heat_flux"}.get(name)
    assert "standard_name" not in ds[f"{name}_total_sd"].attrs
    assert len({ds[variable].attrs["long_name"] for variable in series}) == len(series)


def test_sites_keep_their_own_dates_and_padding_is_nothing():
    time = np.array([["2001-01-01", "2001-01-02", "2001-01-03"], ["2004-05-01", "2004-05-02", "NaT"]], "datetime64[D]")
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, np.nan]])
    stream = Stream(values, 1.0, time=time, units="1")
    run = {"y": np.where(np.isnan(values), 99.0, values)}
    bands = xr.Dataset({name: (("quantile", "site", "n"), np.stack([run["y"]] * 3)) for name in ("y", "y_total")},
                       coords={"quantile": list(output.LEVELS)})
    made = output._series("y", stream, None, {"prior": run, "map": run}, bands, ("A", "B"), None)
    assert made.sizes["y_time"] == 5
    for kind in ("observed", "map", "predictive_median"):
        for row, site in enumerate("AB"):
            series = made[f"y_{kind}"].sel(site=site).dropna("y_time")
            np.testing.assert_array_equal(series, values[row][np.isfinite(values[row])])
            np.testing.assert_array_equal(series["y_time"].values.astype("datetime64[D]"), time[row][: series.size])


def test_the_series_are_the_observations_and_the_runs(ds, calibration):
    problem, held_out = calibration.experiment.problem, calibration.experiment.held_out
    for name in UNITS:
        both = np.asarray(problem.observations[name].mask | held_out[name].mask)
        np.testing.assert_array_equal(np.isfinite(ds[f"{name}_observed"].values), both)
        np.testing.assert_array_equal(ds[f"{name}_observed"].values[both], problem.observations[name].values[both])
        np.testing.assert_array_equal(ds[f"{name}_map"], problem.predict(calibration.result.z)[name])
        np.testing.assert_array_equal(ds[f"{name}_prior"], problem.predict(problem.space.default_z)[name])
        kinds = ("predictive_lower", "model_lower", "predictive_median", "model_upper", "predictive_upper")
        order = [f"{name}_{kind}" for kind in kinds]
        for below, above in zip(order[:-1], order[1:], strict=True):
            assert (ds[below] < ds[above]).all()
        held = ds[f"{name}_held_out"].values
        assert not held[: SEEN - 1].any() and held[SEEN + 10 :].all()


def test_the_scores_are_those_of_the_streams(ds, calibration):
    run = calibration.experiment.problem.predict(calibration.result.z)["nee"]
    made = calibration.experiment
    for period, observations in (("calibrated", made.problem.observations), ("held_out", made.held_out)):
        scores = observations["nee"].scores(run)
        found = ds["score"].sel(stream="nee", site="here", period=period, stage="posterior")
        assert float(found.sel(metric="rmse")) == scores["rmse"][0] and float(found.sel(metric="n")) == scores["n"][0]
    assert ds["score"].sel(stage="posterior", metric="rmse", stream="nee").values == pytest.approx(0.5, rel=0.2)


def test_parameters_have_units_bounds_and_truth(ds, calibration):
    assert list(ds["parameter"].values) == ["uptake", "respiration"]
    assert list(ds["unit"].values) == ["gC m-2 d-1"] * 2
    np.testing.assert_array_equal(ds["lower"], [0.0, 0.1])
    np.testing.assert_array_equal(ds["truth"], [3.0, 1.0])
    np.testing.assert_allclose(ds["map"], [3.0, 1.0], rtol=0.1)
    assert ((ds["posterior_lower"] < ds["map"]) & (ds["map"] < ds["posterior_upper"])).all()
    np.testing.assert_allclose(np.diag(ds["correlation"]), 1.0)
    assert float(ds["z_sd"].max()) < 1
    # The draws of one parameter are there under its name too, with its units.
    np.testing.assert_array_equal(ds["uptake"], ds["theta"].sel(parameter="uptake"))
    assert ds["uptake"].attrs["units"] == "gC m-2 d-1"


def test_the_cost_is_there_by_term_and_iteration(ds, calibration):
    result = calibration.result
    assert set(ds["term"].values) == {"prior", "nee", "latent_heat"}
    assert float(ds["cost"].isel(iteration=-1).sum()) == pytest.approx(result.cost)
    assert ds.sizes["iteration"] == len(result.history["prior"])


def test_provenance(ds):
    attrs = ds.attrs
    assert attrs["Conventions"].startswith("CF-")
    assert attrs["title"] == "Two series" and attrs["site"] == "here" and attrs["model"] == "fluxes"
    assert attrs["solver"] == "LevenbergMarquardt" and attrs["seed"] == 5 and attrs["command"] == "landcal test"
    assert attrs["posterior_method"] == "Laplace (gauss-newton)" and "converged" in attrs["status"]
    assert pd.Timestamp(attrs["created"]).tzinfo is not None
    assert {"python", "jax", "landcal_jax"} <= set(json.loads(attrs["versions"]))
    assert json.loads(attrs["data"]) == [SOURCE]
    assert json.loads(attrs["counts"])["forward"] > 0 and set(json.loads(attrs["seconds"])) == {"compile", "run"}
    assert attrs["history"] == "made by a test" and attrs["problem"].startswith("Problem: 2 free parameters")


def test_a_parameter_may_have_the_name_of_something_else_in_the_file():
    def forward(theta):
        return {"nee": (theta["map"] * (1 + SEASON))[None]}

    made = experiment(forward, {"map": Parameter.normal(1.0, 5.0)}, nee=stream("nee", 0.5))
    ds = done(made).to_xarray()
    np.testing.assert_array_equal(ds["map_draws"], ds["theta"].sel(parameter="map"))
    assert ds["map"].dims == ("parameter",)


# ----------------------------------------------------------------------------------------------------------- the files

@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_the_file_opens_with_xarray(ds, written, engine):
    needed = {"netcdf4": "netCDF4", "h5netcdf": "h5py"}[engine]
    pytest.importorskip(needed, reason=f"{engine} reads with {needed}, which is not installed")
    with xr.open_dataset(written["posterior.nc"], engine=engine) as found:
        xr.testing.assert_identical(found.drop_attrs(), ds.drop_attrs())
        assert found.attrs["history"] == ds.attrs["history"] and int(found.attrs["seed"]) == 5
        assert found["nee_observed"].attrs["units"] == "gC m-2 d-1"


def test_the_table_is_that_of_the_dataset(ds, written):
    table = pd.read_csv(written["parameters.csv"])
    assert list(table.columns) == [
        "parameter", "unit", "default", "lower", "upper", "prior_median", "prior_sd", "map", "posterior_mean",
        "posterior_median", "posterior_sd", "posterior_lower", "posterior_upper", "z_map", "z_sd", "truth",
        "description"]
    for column in table.columns:
        np.testing.assert_array_equal(table[column].to_numpy(), ds[column].values)


def test_the_report_can_be_made_again(written):
    with xr.open_dataset(written["posterior.nc"]) as found:
        assert report.render(found.load()) == written["report.html"].read_text()


def seen(folder):
    """Names in a folder, without the hidden lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_files_can_be_read_by_others(written):
    assert seen(written["report.html"].parent) == sorted(output.FILES)
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in written.values())


@pytest.mark.parametrize(
    ("where", "name"), [(xr.Dataset, "to_netcdf"), (pd.DataFrame, "to_csv"), (report, "write")], ids=output.FILES)
def test_a_failure_leaves_nothing_half_written(ds, tmp_path, monkeypatch, where, name):
    def fails(what, path, **options):
        path.write_text("half a file")
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(where, name, fails)
    with pytest.raises(RuntimeError, match="disk is full"):
        output.write(ds, tmp_path)
    assert seen(tmp_path) == []


def test_a_failure_leaves_the_old_file_as_it_was(ds, tmp_path, monkeypatch):
    (tmp_path / "posterior.nc").write_text("old")
    monkeypatch.setattr(xr.Dataset, "to_netcdf", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        output.write(ds, tmp_path, overwrite=True)
    assert seen(tmp_path) == ["posterior.nc"]
    assert (tmp_path / "posterior.nc").read_text() == "old"


def test_results_are_replaced_only_when_asked(ds, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda ds, path: path.write_text("report"))
    output.write(ds, tmp_path)
    before = (tmp_path / "posterior.nc").stat().st_mtime_ns
    with pytest.raises(FileExistsError, match=r"Got: +posterior.nc, parameters.csv, report.html in it\nTry: "):
        output.write(ds, tmp_path)
    assert (tmp_path / "posterior.nc").stat().st_mtime_ns == before
    output.write(ds.assign_attrs(title="another"), tmp_path, overwrite=True)
    with xr.open_dataset(tmp_path / "posterior.nc") as found:
        assert found.attrs["title"] == "another"


def test_other_files_in_the_folder_do_not_matter(ds, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    output.write(ds, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


# -------------------------------------------------------------------------------------------------------- the warnings

def test_warns_of_a_posterior_of_few_members(calibration):
    few = eqx.tree_at(lambda posterior: posterior.z, calibration.posterior, calibration.posterior.z[:12])
    found = replace(calibration, posterior=few).to_xarray()
    assert any("12 members" in sentence for sentence in output.read_warnings(found))


def test_a_good_fit_warns_of_nothing(ds):
    assert output.read_warnings(ds) == []
    assert output.read_warnings(xr.Dataset()) == []


def test_warns_of_a_solver_that_has_not_converged():
    sentences = warned(experiment(), default_max_steps=1, tolerance=0.0)
    assert sentences[0].startswith("The solver has not reached the minimum (stopped at the largest number of steps")


def test_warns_of_a_posterior_that_is_not_gaussian():
    def bent(theta):
        ridge = theta["respiration"] - 10 * theta["uptake"] ** 2
        return {"nee": (theta["uptake"] + ridge * (1 + SEASON))[None]}

    parameters = {name: Parameter.normal(0.0, 1.0) for name in TRUTH}
    sentences = warned(experiment(bent, parameters, nee=stream("nee", 0.5, values=np.zeros(DAYS), sigma=3.0)))
    assert any("The posterior is not Gaussian: its draws raise J" in sentence for sentence in sentences)


def test_an_indefinite_hessian_gives_way_to_gauss_newton():
    def folded(theta):
        return {"nee": (theta["uptake"] ** 2 + 0 * SEASON)[None]}

    made = experiment(folded, {"uptake": Parameter.normal(0.1, 1.0)}, nee=stream("nee", 0.5, values=np.full(DAYS, 4.0)))
    at_start = LevenbergMarquardt(default_max_steps=0)
    ds = calibrate(made, at_start, posterior="hessian", draws=20, progress=False).to_xarray()
    assert ds.attrs["posterior_method"] == "Laplace (gauss-newton)"
    assert ds.attrs["history"].startswith("Posterior by Gauss-Newton curvature instead of hessian: smallest eigenvalue")


def test_warns_of_a_parameter_at_its_bound():
    parameters = PARAMETERS | {"uptake": Parameter.bounded(1.0, 1.0, 0.0, 2.0)}
    sentences = warned(experiment(fluxes, parameters, nee=stream("nee", 0.1, sigma=0.1)))
    assert any("within 1 % of the prior range from a bound for uptake = 2 (upper)" in each for each in sentences)


@pytest.mark.parametrize(("sigma", "word"), [(0.2, "smaller"), (1.5, "larger")])
def test_warns_of_errors_that_are_not_the_residuals(sigma, word):
    (sentence,) = warned(experiment(nee=stream("nee", 0.5, sigma=sigma)))
    assert sentence.startswith("Chi-square of nee is") and f"its errors R are {word} than the residuals" in sentence


def test_no_warning_of_chi_square_where_the_model_error_is_estimated():
    made = experiment(nee=stream("nee", 0.5, sigma=0.2))
    sentences = warned(Experiment(made.problem, made.held_out, estimate_model_error=True))
    assert not any("Chi-square" in sentence for sentence in sentences)


def test_warns_of_errors_with_a_memory():
    values = np.asarray(fluxes(TRUTH)["nee"][0]) + autoregression(0.8, DAYS)
    made = experiment(nee=stream("nee", 0.0, values=values, sigma=1.0))
    (sentence,) = [sentence for sentence in warned(made) if sentence.startswith("Residuals")]
    said = re.match(r"Residuals of nee are correlated over about (\d+) days, .* factor of up to ([\d.]+) in", sentence)
    assert int(said[1]) in (3, 4, 5)  # -1 / log 0.8 = 4.5 steps, less what the parameters fitted
    assert float(said[2]) == pytest.approx(3.0, rel=0.15)
    known = experiment(nee=stream("nee", 0.0, values=values, sigma=1.0, correlation=ExponentialCorrelation(4.5)))
    assert not any(sentence.startswith("Residuals") for sentence in warned(known))


def test_warns_of_a_posterior_that_is_not_quite_gaussian():
    values = np.asarray(fluxes(TRUTH)["nee"][0]) + autoregression(0.8, DAYS)
    said = [sentence for sentence in warned(experiment(nee=stream("nee", 0.0, values=values, sigma=1.0))) if "k-hat" in sentence]
    assert len(said) == 1 and said[0].startswith("The posterior is not quite Gaussian") and "nuts(problem" in said[0]
    assert not any("k-hat" in sentence for sentence in warned(experiment(nee=stream("nee", 0.5))))


def test_shows_what_a_sampler_warns_of():
    made = experiment(nee=stream("nee", 0.5))

    def sampled(problem, result):
        return Posterior(problem, laplace(problem, result).z, result.z, jnp.eye(result.z.size), "by hand", details={"warning": "It stuck."})

    assert "Of the posterior: It stuck." in warned(made, sampled)


def test_warns_of_runs_that_fail():
    def fragile(theta):
        # Finite only below the truth: NaN for half of the draws.
        return {"nee": (theta["uptake"] + 0 * jnp.sqrt(3.0 - theta["uptake"]) - 3 * SEASON)[None]}

    def sampled(problem, result):
        draws = problem.space.whiten({"uptake": 3.0}) + jnp.linspace(-0.9, 0.9, 40)[:, None]
        return Posterior(problem, draws, result.z, jnp.eye(1), "by hand")

    made = experiment(fragile, {"uptake": Parameter.normal(2.0, 2.0)}, nee=stream("nee", 0.5, values=3 - 3 * SEASON))
    sentences = warned(made, sampled, default_max_steps=3)
    assert "20 posterior runs of nee failed and are not in its band." in sentences


# ---------------------------------------------------------------------------------------------- memory of the residuals

def autoregression(rho, number, seed=0):
    """A first-order autoregression with unit variance."""
    noise = np.random.default_rng(seed).standard_normal(number) * np.sqrt(1 - rho**2)
    series = np.zeros(number)
    series[0] = noise[0] / np.sqrt(1 - rho**2)
    for n in range(1, number):
        series[n] = rho * series[n - 1] + noise[n]
    return series


@pytest.mark.parametrize("rho", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("share", [1.0, 0.6])
def test_memory_of_a_known_autoregression(rho, share):
    number = 40_000
    values = np.where(np.random.default_rng(1).random(number) < share, autoregression(rho, number), np.nan)
    correlation, memory = caveats.residual_memory(Stream(values, 1.0), np.zeros((1, number)))
    assert memory == pytest.approx(-1 / np.log(rho), rel=0.1)
    assert correlation == pytest.approx(rho, rel=0.02)
    # Variance of the mean of an autoregression over that of independent values.
    assert caveats.memory_inflation(rho) == pytest.approx((1 + rho) / (1 - rho))


def test_white_residuals_and_few_pairs_have_no_memory():
    white = np.random.default_rng(2).standard_normal(2000)
    assert caveats.residual_memory(Stream(white, 1.0), np.zeros((1, 2000))) == (0.0, 0.0)
    assert caveats.residual_memory(Stream(autoregression(0.9, 25), 1.0), np.zeros((1, 25))) == (0.0, 0.0)
    assert caveats.residual_memory(Stream(np.full(100, 0.5), 1.0), np.zeros((1, 100))) == (0.0, 0.0)
    every_other = np.where(np.arange(2000) % 2, autoregression(0.9, 2000), np.nan)
    assert caveats.residual_memory(Stream(every_other, 1.0), np.zeros((1, 2000))) == (0.0, 0.0)


def test_monthly_residuals_are_judged_by_their_steps():
    """A month is a long time, but white monthly residuals have no memory; the factor is that of the correlation from month to month."""
    time = np.datetime64("2000-01") + np.arange(240)
    white = Stream(np.random.default_rng(4).standard_normal(240), 1.0, time=time.astype("datetime64[D]"))
    assert caveats.residual_memory(white, np.zeros((1, 240))) == (0.0, 0.0)
    slow = Stream(autoregression(0.7, 240), 1.0, time=time.astype("datetime64[D]"))
    correlation, memory = caveats.residual_memory(slow, np.zeros((1, 240)))
    assert correlation == pytest.approx(0.7, abs=0.1) and memory == pytest.approx(-31 / np.log(correlation))


@pytest.mark.parametrize(("count", "parameters"), [(14, 0), (14, 3), (1000, 0), (1000, 30)])
def test_chi_square_of_a_right_model_is_seldom_accused(count, parameters):
    low, high = caveats.expected_chi_square(count, parameters)
    found = np.random.default_rng(5).chisquare(count - parameters, 20_000) / count
    assert np.mean((found < low) | (found > high)) < 0.012


def test_the_posterior_is_too_narrow_by_the_factor_of_the_warning():
    rho, number, sets = 0.8, 400, 300
    means = [autoregression(rho, number, seed).mean() for seed in range(sets)]
    assert np.var(means) * number == pytest.approx(caveats.memory_inflation(rho), rel=0.2)


def test_solve_and_laplace_alone_give_the_same_file(calibration, ds):
    made = calibration.experiment
    result = solve(made.problem, LevenbergMarquardt(), key=5, progress=False)
    other = Calibration(made, result, laplace(made.problem, result, draws=150, key=5), {"seed": 5}).to_xarray()
    xr.testing.assert_equal(other, ds)
