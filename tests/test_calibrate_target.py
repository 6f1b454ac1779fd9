"""`landcal calibrate FILE.py:problem`: problems of the user, with and without derivatives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

ROOT = Path(__file__).parent.parent
MODEL = """
import jax.numpy as jnp
import numpy as np
import landcal_jax as lc

lc.configure()
time = np.datetime64("2001-01-01") + np.arange(60)
runs = []

def decay(theta):
    open("runs.txt", "a").write("run\\n")
    return {"water": theta["a"] * np.exp(-theta["k"] * np.arange(60) / 30)}

def tangent(theta, direction):
    shape = np.exp(-theta["k"] * np.arange(60) / 30)
    return {"water": direction["a"] * shape - direction["k"] * theta["a"] * np.arange(60) / 30 * shape}

space = lc.ParameterSpace({"a": lc.Parameter.normal(1.0, 0.5, units="mm"), "k": lc.Parameter.normal(1.0, 0.5)})
exact = 1.4 * np.exp(-0.7 * np.arange(60) / 30)
observations = lc.Observations(
    {"water": lc.Stream(exact + 0.05 * np.random.default_rng(0).standard_normal(60), 0.05, units="mm", time=time)})

def problem():
    return lc.Problem(space, lc.BlackBoxForward(decay, observations=observations, store="runs"), observations)

def without_store():
    return lc.Problem(space, lc.BlackBoxForward(decay, observations=observations), observations)

def with_tangent():
    return lc.Experiment(lc.Problem(space, lc.BlackBoxForward(decay, observations=observations, tangent=tangent), observations),
                         title="Water that runs out")

def adjoint(theta, weights):
    shape, step = np.exp(-theta["k"] * np.arange(60) / 30), np.arange(60) / 30
    return {"a": (weights["water"] * shape).sum(), "k": -(weights["water"] * theta["a"] * step * shape).sum()}

def with_adjoint():
    return lc.Problem(space, lc.BlackBoxForward(decay, observations=observations, adjoint=adjoint), observations)

def with_both():
    return lc.Problem(space, lc.BlackBoxForward(decay, observations=observations, tangent=tangent, adjoint=adjoint), observations)

def by_differences():
    return without_store().finite_difference()

step = np.arange(60) / 30
in_jax = lc.Problem(space, lc.FunctionForward(lambda theta: {"water": (theta["a"] * jnp.exp(-theta["k"] * step))[None]}), observations)
number = 3

def whose_examination_fails():
    def examine(*args, **kwargs):
        raise OverflowError("no number is large enough")

    lc.structure.examine = examine
    return in_jax
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def landcal(folder, *arguments):
    """(status, what it prints, errors) of `landcal calibrate`, as a user runs it in `folder`."""
    settings = {"PYTHONPATH": str(ROOT), "COLUMNS": "200", "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent / ".xla_cache")}
    done = subprocess.run([sys.executable, "-m", "landcal_jax", "calibrate", *arguments],
                          capture_output=True, text=True, check=False, cwd=folder, env=os.environ | settings)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_model_without_derivatives_goes_to_an_ensemble(folder):
    status, said, errors = landcal(folder, "mine.py:problem", "--members", "20")
    assert status == 0, errors
    assert "decay calibrated" in said and "Report: file://" in said
    with xr.open_dataset(folder / "landcal-out" / "posterior.nc") as ds:
        a, k = ds["map"].values
        assert abs(a - 1.4) < 0.05 and abs(k - 0.7) < 0.05
        assert ds.attrs["solver"] == "IterativeFourDEnVar" and ds.attrs["posterior_method"] == "Gaussian (iterated 4DEnVar)"
        assert ds.attrs["model"] == "decay" and ds.sizes["draw"] > 2
        assert (ds["posterior_lower"] < ds["map"]).all() and (ds["map"] < ds["posterior_upper"]).all()
        assert json.loads(ds.attrs["counts"])["gradient"] == 0
    number = len((folder / "runs.txt").read_text().splitlines())
    assert landcal(folder, "mine.py:problem", "--members", "20", "--resume")[1].strip().endswith("nothing to resume.")
    # From the beginning: all runs are in the store of the model.
    assert landcal(folder, "mine.py:problem", "--members", "20", "--overwrite", "--quiet")[0] == 0
    assert len((folder / "runs.txt").read_text().splitlines()) == number
    (folder / "mine.py").write_text(MODEL + "\n# edited\n")
    status, _, errors = landcal(folder, "mine.py:problem", "--members", "20", "--resume")
    assert status == 2 and "the options of the finished run" in errors and "inputs" in errors


def test_a_model_with_a_tangent_linear_goes_to_a_gradient_solver(folder):
    status, said, errors = landcal(folder, "mine.py:with_tangent", "--out", "out")
    assert status == 0, errors
    assert "Water that runs out" in said
    with xr.open_dataset(folder / "out" / "posterior.nc") as ds:
        assert ds.attrs["solver"] == "LevenbergMarquardt" and ds.attrs["posterior_method"] == "Laplace (gauss-newton)"
        assert abs(ds["map"].values[0] - 1.4) < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_both", "by_differences"])
def test_all_that_has_a_tangent_linear_goes_to_a_gradient_solver(folder, name):
    # Without derivatives, and with a tangent-linear alone, see above; an adjoint alone is refused below.
    status, said, errors = landcal(folder, f"mine.py:{name}")
    assert status == 0, errors
    with xr.open_dataset(folder / "landcal-out" / "posterior.nc") as ds:
        assert ds.attrs["solver"] == "LevenbergMarquardt" and ds.attrs["posterior_method"] == "Laplace (gauss-newton)"
        assert abs(ds["map"].values[0] - 1.4) < 0.05 and ds.sizes["draw"] > 2


@pytest.mark.slow
def test_chains_and_the_report_on_structure(folder):
    status, said, errors = landcal(folder, "mine.py:in_jax", "--posterior", "nuts", "--examine", "--starts", "4")
    assert status == 0, errors
    assert "Examined: " in said and "structure.html" in said
    assert "<html" in (folder / "landcal-out" / "structure.html").read_text()
    with xr.open_dataset(folder / "landcal-out" / "posterior.nc") as ds:
        assert "No-U-Turn" in ds.attrs["posterior_method"] or "NUTS" in ds.attrs["posterior_method"]
        assert ds.sizes["draw"] == 4000 and (ds["posterior_lower"] < ds["map"]).all() and (ds["map"] < ds["posterior_upper"]).all()
    again = landcal(folder, "mine.py:in_jax", "--posterior", "nuts", "--examine", "--starts", "4", "--resume")
    assert again[1].strip().endswith("nothing to resume.")


def test_results_are_kept_where_the_examination_fails(folder):
    status, said, errors = landcal(folder, "mine.py:whose_examination_fails", "--examine", "--solver", "lbfgs", "--starts", "1")
    assert status == 0, errors
    assert "Examined: no report, since it failed (OverflowError: no number is large enough)." in " ".join(said.split())
    assert (folder / "landcal-out" / "posterior.nc").is_file() and not (folder / "landcal-out" / "structure.html").exists()


@pytest.mark.parametrize("arguments, message", [
    (("mine.py:problem", "--posterior", "nuts"), "--posterior smc, which needs runs alone"),
    (("mine.py:problem", "--examine"), "--examine with a model that has a tangent-linear"),
    (("mine.py:in_jax", "--errors", "marginal"), "whose R is given")])
def test_what_a_posterior_needs_is_said_before_anything_runs(folder, arguments, message):
    status, _, errors = landcal(folder, *arguments)
    assert status == 2 and message in errors and not (folder / "runs.txt").exists()


def test_a_function_without_a_name_has_a_title(folder):
    status, said, errors = landcal(folder, "mine.py:in_jax", "--starts", "1", "--solver", "lbfgs", "--posterior", "hessian")
    assert status == 0, errors
    assert "in_jax of mine.py calibrated" in said and "lambda" not in said


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "solver", "method"), [
    (["--solver", "ga", "--members", "8"], "GeneticAlgorithm, then IterativeFourDEnVar", "iterated 4DEnVar"),
    (["--solver", "cma-es"], "CMAES, then IterativeFourDEnVar", "iterated 4DEnVar"),
    (["--solver", "unscented"], "UnscentedKalmanInversion", "unscented Kalman inversion")], ids=["ga", "cma-es", "unscented"])
def test_a_search_without_derivatives_ends_with_a_posterior(folder, arguments, solver, method):
    # A search ends with a point; what goes on from there to a posterior is said with it.
    status, said, errors = landcal(folder, "mine.py:without_store", *arguments)
    assert status == 0, errors
    with xr.open_dataset(folder / "landcal-out" / "posterior.nc") as ds:
        assert ds.attrs["solver"] == solver and method in ds.attrs["posterior_method"]
        counts = json.loads(ds.attrs["counts"])
        # The report has runs of its own.
        assert 0 < counts["forward"] < len((folder / "runs.txt").read_text().splitlines()) and counts["gradient"] == 0
        for value, truth, low, high in zip(ds["map"].values, (1.4, 0.7), ds["posterior_lower"].values, ds["posterior_upper"].values,
                                           strict=True):
            assert abs(value - truth) < 0.08 and low < value < high and high - low < 0.3
    assert "J = " in said and "Report: file://" in said


@pytest.mark.slow
def test_a_search_on_a_model_with_derivatives_ends_with_their_posterior(folder):
    status, _, errors = landcal(folder, "mine.py:with_tangent", "--solver", "ga", "--members", "8", "--seed", "3")
    assert status == 0, errors
    with xr.open_dataset(folder / "landcal-out" / "posterior.nc") as ds:
        assert ds.attrs["solver"] == "GeneticAlgorithm, then LevenbergMarquardt" and "Laplace" in ds.attrs["posterior_method"]
        assert abs(ds["map"].values[0] - 1.4) < 0.05 and ds.sizes["iteration"] > 40


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "words"), [
    (["mine.py:problem", "--solver", "cma-es", "--members", "4"], ["of six members or more"]),
    (["mine.py:problem", "--solver", "lbfgs"], ["a differentiable forward map for LBFGS", "an ensemble or search solver"]),
    (["mine.py:with_adjoint"], ["with a tangent-linear, for the Laplace posterior", "one with an adjoint only"]),
    (["mine.py:problem", "--model", "dalec", "--most-filled", "0"], ["mine.py:problem alone", "--model and --most-filled too"]),
    (["mine.py:problem", "--held-out-years", "0"], ["--held-out-years too"]),
    (["mine.py:problem", "--starts", "4"], ["that starts from points", "iterative-4denvar, which draws an ensemble"]),
    (["mine.py:with_both", "--starts", "4"], ["one start for an external model", "--starts 4"]),
    (["mine.py:problem", "--posterior", "hessian"], ["--posterior hessian with a solver that uses derivatives", "iterative-4denvar"]),
    (["mine.py:problem", "--solver", "ga", "--posterior", "hessian"], ["--posterior hessian with a solver that uses derivatives"]),
    (["mine.py:in_jax", "--members", "20"], ["--members with a solver that chooses them", "levenberg-marquardt, which has no ensemble"]),
    (["mine.py:in_jax", "--solver", "unscented", "--members", "20"], ["unscented, whose number of members follows"]),
    (["mine.py:number"], ["a landcal_jax Problem or Experiment at mine.py:number", "a int"]),
    (["mine.py:gone"], ["'gone' in mine.py", "check the name"]),
    (["mine.py:problem", "--site", "FR-Pue", "--constraints"], ["mine.py:problem alone", "--site and --constraints too"]),
    (["FR-Pue"], ["FILE.py:name", "'FR-Pue'"])])
def test_what_cannot_be_calibrated_is_told(folder, arguments, words):
    status, _, errors = landcal(folder, *arguments)
    assert status == 2 and all(word in errors for word in words), errors
    assert "Traceback" not in errors and not (folder / "landcal-out" / "posterior.nc").exists()
