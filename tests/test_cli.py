"""The command `landcal`, run in this process; one full calibration is shared by most tests."""

import contextlib
import importlib.metadata
import io
import os
import re
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest
import typer
import xarray as xr

from landcal_jax import cli, experiment
from landcal_jax.cli.calibrate import Solver, _solver
from landcal_jax.cli.check import shipped_problems
from landcal_jax.output import FILES, read_warnings

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True, scope="module")
def terminal():
    """A terminal of 100 characters, and the compile cache of the tests instead of the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "100")
        patch.setenv("TERM", "dumb")
        if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
            patch.setenv("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".xla_cache"))
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Each test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def landcal(*arguments: str) -> tuple[int, str, str]:
    """Exit status, output and error output of `landcal ARGUMENTS`."""
    said, complained = io.StringIO(), io.StringIO()
    before, sys.argv = sys.argv, ["landcal", *arguments]
    path = list(sys.path)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            cli.main()
    except SystemExit as end:
        return end.code or 0, said.getvalue(), complained.getvalue()
    finally:
        sys.argv, sys.path[:] = before, path
    return 0, said.getvalue(), complained.getvalue()


def refused(*arguments: str) -> str:
    """The one thing that a mistaken command says: status 2, nothing on the output, no traceback."""
    status, said, complained = landcal(*arguments)
    assert status == 2 and said == "" and "Traceback" not in complained
    return complained


@pytest.fixture(scope="module")
def small_twin():
    """A smaller twin than the default, for the time that it takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "twin_experiment", partial(experiment.twin_experiment, years=3, held_out_years=1))
        yield


@pytest.fixture(scope="module")
def full_run(small_twin, tmp_path_factory):
    """`landcal calibrate` and nothing else: (folder, what it said)."""
    where = tmp_path_factory.mktemp("full")
    with contextlib.chdir(where):
        status, said, complained = landcal("calibrate")
    assert status == 0, complained
    assert complained == ""
    return where, said


# ---------------------------------------------------------------------------------------------------------------- help

def test_help_lists_the_commands():
    status, said, _ = landcal("--help")
    assert status == 0
    assert "Calibrate land surface models with exact gradients" in said
    assert all(f" {command} " in said for command in ("calibrate", "check", "sites"))
    assert landcal()[1].strip() == said.strip()


@pytest.mark.parametrize(("command", "words"), [
    ("calibrate", [
        "twin experiment", "It needs no data and no network", "--site", "--forcing", "--flux", "--out", "landcal-out",
        "--seed", "--solver", "levenberg-marquardt", "--starts", "--posterior", "--held-out-years", "3, in a twin 2",
        "--constraints", "--overwrite", "--quiet"]),
    ("check", [
        "Taylor order, adjoint dot product, NaN", "FILE.py:problem", "--points", "--scan", "--seed", "status 1"]),
    ("sites", ["List the public sites"])])
def test_help_of_every_command_is_complete(command, words):
    status, said, _ = landcal(command, "--help")
    assert status == 0
    said = " ".join(re.sub(r"[│╭╮╰╯─]", " ", said).split())
    assert [word for word in words if word not in said] == []


def test_every_option_says_in_words_what_it_does():
    for command in typer.main.get_command(cli.app).commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.help and parameter.help.endswith("."), f"{command.name} {parameter.name}"


def test_help_does_not_start_jax():
    probe = """
        import sys, jax
        from landcal_jax import cli
        sys.argv = ["landcal", "--help"]
        try:
            cli.main()
        finally:
            print("started" if jax._src.xla_bridge.backends_are_initialized() else "not started")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(probe)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout.splitlines()[-1] == "not started"


def test_version():
    assert landcal("--version") == (0, f"landcal_jax {importlib.metadata.version('landcal_jax')}\n", "")


def test_an_unknown_option_names_itself():
    status, _, complained = landcal("calibrate", "--solvers", "lbfgs")
    assert status == 2 and "--solvers" in complained


def test_sites_lists_the_catalogue():
    status, said, _ = landcal("sites")
    assert status == 0
    lines = said.splitlines()
    assert any(line.split()[:2] == ["FR-Pue", "EBF"] and "differland/FR-Pue.nc" in line for line in lines)
    assert any(line.split()[:2] == ["DK-Sor", "DBF"] and "fluxdatakit/DK-Sor.rds" in line for line in lines)
    assert "CC-BY-4.0" in said


# ----------------------------------------------------------------------------------------------------------- calibrate

def test_calibrate_alone_leaves_three_files(full_run):
    where, said = full_run
    assert sorted(path.name for path in (where / "landcal-out").iterdir() if not path.name.startswith(".")) == sorted(FILES)
    assert f"Report: {(where / 'landcal-out' / 'report.html').as_uri()}" in said


def test_calibrate_says_what_it_does_and_found(full_run):
    _, said = full_run
    assert said.startswith("Twin experiment: DalecWater, temperate_forest weather\nObservations: 2 streams")
    rows = {tuple(re.split(r"  +", line.strip())[:2]): re.split(r"  +", line.strip())[2:]
            for line in said.splitlines() if line.strip().startswith(("nee [", "latent_heat ["))}
    assert len(rows) == 4
    assert not any("…" in cell for row in rows.values() for cell in row)
    for stream, error in (("nee [gC m-2 d-1]", 0.6), ("latent_heat [W m-2]", 10.0)):
        before, after = (float(number) for number in rows[stream, "calibrated"][1:3])
        assert after < 1.2 * error < before
    assert re.search(r"J = [\d.]+ \(latent_heat [\d.]+, nee [\d.]+, prior [\d.]+\) after \d+ iterations", said)


def test_warnings_are_shown(full_run):
    where, said = full_run
    with xr.open_dataset(where / "landcal-out" / "posterior.nc") as ds:
        found = read_warnings(ds)
    assert said.count("Note: ") == len(found)
    flat = " ".join(said.split())
    assert all(sentence in flat for sentence in found)


def test_the_command_is_recorded(full_run):
    with xr.open_dataset(full_run[0] / "landcal-out" / "posterior.nc") as ds:
        assert ds.attrs["command"] == "landcal calibrate"
        assert ds.attrs["solver"] == "LevenbergMarquardt from 16 starts" and ds.attrs["seed"] == 0
        assert ds.sizes["parameter"] == 33


def test_results_are_not_overwritten_unasked(full_run):
    where, _ = full_run
    complained = refused("calibrate", "--out", str(where / "landcal-out"))
    assert complained.startswith("Expected: a folder without results")
    assert "--overwrite" in complained and len(complained.splitlines()) == 3


def test_overwrite_quietly_gives_the_same_numbers(full_run):
    where, _ = full_run
    with xr.open_dataset(where / "landcal-out" / "posterior.nc") as ds:
        before = ds.load()
    assert landcal("calibrate", "--out", str(where / "landcal-out"), "--overwrite", "--quiet") == (0, "", "")
    with xr.open_dataset(where / "landcal-out" / "posterior.nc") as ds:
        assert ds.attrs["command"].endswith("--overwrite --quiet")
        xr.testing.assert_equal(ds, before)


@pytest.mark.slow
def test_another_model(small_twin):
    status, said, complained = landcal("calibrate", "--model", "dalec", "--starts", "1")
    assert status == 0, complained
    assert said.startswith("Twin experiment: Dalec2") and "latent_heat" not in said
    with xr.open_dataset("landcal-out/posterior.nc") as ds:
        assert ds.attrs["model"] == "Dalec2" and ds.attrs["solver"] == "LevenbergMarquardt"


def test_a_folder_that_cannot_be_made(folder, small_twin):
    (folder / "file").touch()
    assert refused("calibrate", "--out", "file").startswith("Expected: a folder that can be written to at file")


# ------------------------------------------------------------------------------------------------ mistakes of the user

def test_a_wrong_site_is_told_with_close_matches(folder):
    complained = refused("calibrate", "--site", "FI-Hyt")
    assert "Got:      'FI-Hyt'" in complained and "did you mean FI-Hyy?" in complained
    assert list(folder.iterdir()) == []  # not even an empty folder


def test_no_network_and_no_copy(folder, monkeypatch):
    monkeypatch.delenv("LANDCAL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr("landcal_jax.data.cache_folder", lambda: folder / "cache")
    monkeypatch.setenv("LANDCAL_DATA_URL", "http://127.0.0.1:9/data")
    complained = refused("calibrate", "--site", "FR-Pue")
    assert len(complained.splitlines()) == 3
    assert "FR-Pue_daily_aggregated_2000-2014_FLUXNET2015_Flux.nc (180232 bytes) on this machine or" in complained
    assert "from http://127.0.0.1:9/data/flux_daily/callmip_phase1/FR-Pue" in complained
    assert "LANDCAL_DATA" in complained and "runs a twin experiment and needs no download" in complained
    assert not (folder / "landcal-out").exists()


@pytest.mark.parametrize(("options", "got"), [
    (("--forcing", "a.nc"), "--forcing alone"), (("--flux", "a.nc"), "--flux alone"),
    (("--site", "FR-Pue", "--forcing", "a.nc"), "--site and --forcing")])
def test_options_that_do_not_go_together(folder, options, got):
    (folder / "a.nc").touch()
    complained = refused("calibrate", *options)
    assert f"Got:      {got}\n" in complained and "--forcing FILE with --flux FILE" in complained


@pytest.mark.parametrize("options", [("--most-filled", "0"), ("--correlation-hours", "0"), ("--latitude", "43")])
def test_options_of_files_without_files(options):
    assert f"--forcing and --flux with {options[0]}" in refused("calibrate", "--site", "FR-Pue", *options)


def test_a_file_that_is_not_there():
    status, _, complained = landcal("calibrate", "--forcing", "nothing.nc", "--flux", "nothing.nc")
    assert status == 2 and "nothing.nc" in complained and "Traceback" not in complained


def test_more_years_held_out_than_there_are():
    assert "a record longer than the 9 years held out" in refused("calibrate", "--held-out-years", "9")


def test_an_interrupt_is_no_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    status, said, complained = landcal("sites")
    assert (status, said) == (130, "") and complained.startswith("Interrupted.") and len(complained.splitlines()) == 1


def test_a_fault_of_ours_is_a_traceback(monkeypatch):
    monkeypatch.setattr(cli, "app", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        landcal("sites")


@pytest.mark.parametrize("name", list(Solver))
def test_every_solver_of_the_command_line_exists(name, small_twin):
    problem = experiment.twin_experiment(0).problem
    assert _solver(name, 1, 20, problem).default_max_steps > 0
    many = _solver(name, 4, 20, problem)
    sizes = {"number": 4, "size": 20, "population": 20}
    found = {size: getattr(many, size) for size in sizes if hasattr(many, size)}
    assert found.items() <= sizes.items() and bool(found) == (name is not Solver.UNSCENTED)


# --------------------------------------------------------------------------------------------------------------- check

PROBLEM = """
    from __future__ import annotations
    from dataclasses import dataclass

    import jax
    import jax.numpy as jnp
    import numpy as np
    import landcal_jax as lc

    @dataclass
    class Truth:
        rate: float

    @jax.custom_jvp
    def decay(rate):
        return jnp.exp(-rate * jnp.arange(30.0))

    @decay.defjvp
    def _(primals, tangents):
        return decay(*primals), FACTOR * -jnp.arange(30.0) * decay(*primals) * tangents[0]

    def problem():
        observed = np.exp(-Truth(0.1).rate * np.arange(30.0))
        space = lc.ParameterSpace({"rate": lc.Parameter.bounded(0.2, 0.1, 0.0, 1.0)})
        forward = lc.FunctionForward(lambda theta: {"mass": decay(theta["rate"])[None]})
        return lc.Problem(space, forward, lc.Observations({"mass": lc.Stream(observed, 0.05)}))

    ready = problem()
    number = 3
"""


def problem_file(factor: float) -> str:
    Path("mymodel.py").write_text(textwrap.dedent(PROBLEM).replace("FACTOR", str(factor)))
    return "mymodel.py"


@pytest.mark.parametrize("name", ["problem", "ready"])
def test_check_passes_right_derivatives(name):
    status, said, complained = landcal("check", f"{problem_file(1.0)}:{name}", "--points", "3", "--scan", "20")
    assert (status, complained) == (0, "")
    assert said.startswith(f"mymodel.py:{name}\n") and "are good" in said and "finite at all 20 points" in said


def test_check_fails_wrong_derivatives():
    status, said, complained = landcal("check", f"{problem_file(1.01)}:problem", "--points", "3", "--scan", "20")
    assert (status, complained) == (1, "")
    assert "FAILS" in said and "Taylor order 1.0" in said and "along rate: a wrong derivative" in said


@pytest.mark.parametrize(("target", "expected", "got"), [
    ("mymodel", "FILE.py:name", "'mymodel'"), ("mymodel.py", "FILE.py:name", "'mymodel.py'"),
    ("other.py:problem", "a Python file other.py", "no such file"),
    ("mymodel.py:model", "'model' in mymodel.py", "problem, ready, number"),
    ("mymodel.py:number", "a landcal_jax Problem at mymodel.py:number", "a int")])
def test_check_says_what_is_wrong_with_its_target(target, expected, got):
    problem_file(1.0)
    complained = refused("check", target)
    assert len(complained.splitlines()) == 3
    assert complained.startswith(f"Expected: {expected}") and got in complained


def test_check_names_a_file_that_does_not_run():
    Path("broken.py").write_text("import landcal_jax\nproblem = landcal_jax.Problm()\n")
    complained = refused("check", "broken.py:problem")
    assert complained.startswith("Expected: a file broken.py that runs\nGot:      AttributeError:")
    assert "Try:      python broken.py" in complained


def test_check_without_a_file_takes_the_shipped_models():
    problems = shipped_problems()
    assert list(problems) == ["Dalec2", "DalecWater"]
    assert all(int(problem.observations.count) > 100 for problem in problems.values())


# ----------------------------------------------------------------------------------------------------------- real data

@pytest.mark.slow
def test_a_real_site_from_the_shell(data_dir, tmp_path):
    command = "from landcal_jax.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "calibrate", "--site", "fr-pue", "--starts", "3", "--out", "out"],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "Cite: Pastorello" in done.stdout
    with xr.open_dataset(tmp_path / "out" / "posterior.nc") as ds:
        score = ds["score"].isel(site=0)
        after, before = (score.sel(stage=stage, metric="rmse") for stage in ("posterior", "prior"))
        assert (after.sel(period="calibrated") < 0.7 * before.sel(period="calibrated")).all()
        assert (after.sel(period="held_out") < before.sel(period="held_out")).all()
        assert abs(score.sel(stage="posterior", metric="chi_square", period="calibrated") - 1).max() < 0.1
        assert ds.attrs["site"] == "FR-Pue" and "sha256" in ds.attrs["data"]
