"""External models as forward maps: runs side by side, failures that are told, members that are never run twice."""

import json
import os
import signal
import sys
import threading
import time
from _thread import interrupt_main
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import progress
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.errors import complaint_of
from landcal_jax.executable import Executable, RunFailed
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.member_store import MemberStore, key_of, rounded
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs
from landcal_jax.solving import solve

SPACE = ParameterSpace({"a": Parameter.normal(1.0, 0.5), "k": Parameter.normal([0.5, 1.5], 0.3, dims=("pft",))}, {"pft": ["C3", "C4"]})
TIMES = np.linspace(0.0, 2.0, 5)
OBSERVATIONS = Observations({
    "decay": Stream(np.array([[2.0, 1.1, 0.9, 0.5, np.nan], [2.0, 1.0, 0.5, 0.2, 0.1]]), 0.1, mask=True),
    "total": Stream([[3.0], [2.0]], 0.5)})


def in_jax(theta):
    """What `in_numpy` computes, for comparison."""
    decay = theta["a"] * jnp.exp(-theta["k"][:, None] * TIMES)
    return {"decay": decay, "total": decay.sum(axis=1, keepdims=True)}


def in_numpy(theta):
    decay = theta["a"] * np.exp(-theta["k"][:, None] * TIMES)
    return {"decay": decay, "total": decay.sum(axis=1, keepdims=True)}


def breaks(theta):
    """Fails in each of the ways a function can, decided by its parameters."""
    if theta["a"] > 1.4:
        raise FloatingPointError("the soil has frozen over")
    if theta["a"] > 1.2:
        return {"decay": np.zeros(7), "total": np.zeros((2, 1))}
    if theta["a"] > 1.1:
        return {"decay": np.zeros((2, 5))}
    return in_numpy(theta)


class Diary(list):
    """What a model keeps of its runs, and what is no part of what it computes."""

    def identity(self):
        return "diary"


def black(run, **options):
    return Problem(SPACE, BlackBoxForward(run, observations=OBSERVATIONS, **options), OBSERVATIONS)


WHITE = Problem(SPACE, FunctionForward(in_jax), OBSERVATIONS)
Z = np.random.default_rng(0).standard_normal((7, 3))


def close(one, other, rtol=1e-11):
    for name in other:
        np.testing.assert_allclose(one[name], other[name], rtol=rtol, atol=1e-12, err_msg=name)


def test_one_run_is_that_of_the_same_function_in_jax():
    problem = black(in_numpy)
    z = Z[0]
    close(problem.predict(z), WHITE.predict(z))
    close(problem.terms(z), WHITE.terms(z))
    close({"J": jax.jit(lambda problem, z: problem.cost(z))(problem, z)}, {"J": WHITE.cost(z)})
    close({"J": jax.vmap(problem.cost)(Z)}, {"J": jax.vmap(WHITE.cost)(Z)})
    close({"J": jax.jit(jax.vmap(jax.vmap(problem.cost)))(Z[:6].reshape(2, 3, 3))}, {"J": jax.vmap(WHITE.cost)(Z[:6]).reshape(2, 3)})
    assert "external model in_numpy (no derivatives)" in str(problem)


def test_an_ensemble_runs_its_members_side_by_side():
    arrived = threading.Barrier(4, timeout=20)

    def waits(theta):
        arrived.wait()
        return in_numpy(theta)

    problem = black(waits, workers=4)
    close(problem.ensemble(Z[:4]), WHITE.ensemble(Z[:4]))
    assert problem.forward.counts == {"run": 4, "found": 0, "failed": 0}


def test_costs_of_many_and_the_same_member_twice():
    calls = Diary()

    def counted(theta):
        calls.append(theta)
        return in_numpy(theta)

    twice = np.concatenate([Z, Z[:3]])
    np.testing.assert_allclose(costs(black(counted), twice), costs(WHITE, twice), rtol=1e-11)
    assert len(calls) == 7 and type(calls[0]["a"]) is float and calls[0]["k"].shape == (2,)


def test_members_that_fail_are_nan_and_say_why(tmp_path):
    a = np.array([1.0, 1.15, 1.3, 1.5, 0.9])
    problem = black(breaks, store=tmp_path)
    predicted = problem.ensemble(np.column_stack([(a - 1.0) / 0.5, np.zeros((5, 2))]))
    assert np.isnan(predicted["decay"]).all(axis=(1, 2)).tolist() == [False, True, True, True, False]
    said = {round(member.theta["a"], 3): member.message for member in MemberStore(tmp_path).members() if not member.finished}
    assert said[1.15] == "the run gave decay instead of the streams decay, total"
    assert said[1.3] == "the run gave decay in the shape (1, 7) instead of (2, 5) (site, n_obs)"
    assert said[1.5].startswith("FloatingPointError: the soil has frozen over (line ") and "test_blackbox.py" in said[1.5]
    assert {member.message for member in problem.forward.failures} == set(said.values())


def test_members_are_told_as_they_end(monkeypatch):
    heard = []
    monkeypatch.setattr(progress, "members", lambda done, total: heard.append((done, total)))
    problem = black(in_numpy, workers=1)
    problem.ensemble(np.concatenate([Z, Z[:2]]))
    assert heard == [(n, 7) for n in range(1, 8)]


def test_nothing_runs_twice_and_another_model_is_another(tmp_path):
    calls = Diary()

    def made(slope):
        def model(theta):
            calls.append(1)
            return {name: slope * value for name, value in in_numpy(theta).items()}
        return model

    first = black(made(1.0), store=tmp_path).ensemble(Z)
    again = black(made(1.0), store=tmp_path)
    assert all(np.array_equal(values, first[name]) for name, values in again.ensemble(Z).items())
    assert len(calls) == 7 and again.forward.counts == {"run": 0, "found": 7, "failed": 0}
    again.ensemble(Z + 1e-16 * np.sign(Z))  # another processor
    float(again.cost(Z[2]))
    assert len(calls) == 7
    black(made(2.0), store=tmp_path).ensemble(Z)  # another number in the model
    black(made(1.0), store=tmp_path, version="new forcing").ensemble(Z)
    assert len(calls) == 21


def test_the_key_depends_on_every_part():
    theta = rounded({"a": 0.1 + 0.2, "k": np.array([1 / 3, 2.0])})
    assert theta["a"] == 0.3 and theta["k"][0] == 0.3333333333333
    shapes = {"y": (1, 2)}
    keys = {key_of(theta, "model", shapes), key_of(theta | {"a": 0.31}, "model", shapes), key_of(theta, "other", shapes),
            key_of(theta, "model", {"y": (2, 1)}), key_of({"a": 0.3}, "model", shapes)}
    assert len(keys) == 5


def test_failed_members_run_again_only_when_asked(tmp_path):
    calls, broken = Diary(), Diary([True])

    def model(theta):
        calls.append(1)
        if theta["a"] > 1.0 and broken[0]:
            raise OSError("no licence server")
        return in_numpy(theta)

    bad = int((np.asarray(SPACE.physical(jnp.asarray(Z))["a"]) > 1.0).sum())
    assert 0 < bad < 7
    black(model, store=tmp_path, retries=2).ensemble(Z)
    assert len(calls) == 7 + 2 * bad
    black(model, store=tmp_path, retries=2).ensemble(Z)
    assert len(calls) == 7 + 2 * bad
    black(model, store=tmp_path, retries=3).ensemble(Z)
    assert len(calls) == 7 + 3 * bad
    broken[0] = False
    mended = black(model, store=tmp_path, rerun_failed=True)
    close(mended.ensemble(Z), WHITE.ensemble(Z))
    assert len(calls) == 7 + 4 * bad and mended.forward.counts == {"run": bad, "found": 7 - bad, "failed": 0}


def test_damaged_members_run_again(tmp_path):
    problem = black(in_numpy, store=tmp_path)
    whole = problem.ensemble(Z)
    arrays, records = sorted(tmp_path.rglob("*.npz")), sorted(tmp_path.rglob("*.json"))
    assert len(arrays) == len(records) == 7
    arrays[0].write_bytes(arrays[0].read_bytes()[:100])
    arrays[1].unlink()
    records[2].write_text('{"version": 1')
    records[3].unlink()
    again = black(in_numpy, store=tmp_path)
    assert all(np.array_equal(values, whole[name]) for name, values in again.ensemble(Z).items())
    assert again.forward.counts["run"] == 4
    record = json.loads(records[5].read_text())
    assert record["status"] == "finished" and set(record["theta"]) == {"a", "k"} and record["seconds"] >= 0


def test_a_function_may_ask_for_a_directory_of_its_own(tmp_path):
    def model(theta, folder):
        assert not list(folder.iterdir())
        (folder / "note.txt").write_text("here")
        if theta["a"] > 1.0:
            raise ValueError("wet")
        return in_numpy(theta)

    problem = black(model, store=tmp_path)
    problem.ensemble(Z)
    kept = list((tmp_path / "work").iterdir())
    assert len(kept) == problem.forward.counts["failed"] > 0
    assert {str(path) for path in kept} == {member.folder for member in problem.forward.failures}
    assert [path.name for path in kept[0].iterdir()] == ["note.txt"]


def test_no_gradient_is_refused():
    with pytest.raises(TypeError, match="a differentiable forward map for LevenbergMarquardt"):
        solve(black(in_numpy), LevenbergMarquardt())
    for derive in (jax.grad, lambda function: jax.jit(jax.vmap(jax.grad(function)))):
        with pytest.raises(TypeError, match="(?s)a model with derivatives.*no derivatives.*finite_difference") as error:
            derive(black(in_numpy).cost)(Z[0] if derive is jax.grad else Z)
        assert complaint_of(error.value)


# ---------------------------------------------------------------------- programs

PROGRAM = """
import json, pathlib, subprocess, sys, time
import f90nml
values = f90nml.read("model.nml")["physics"]
table = dict(line.split(" = ") for line in open("sub/soil.txt").read().splitlines() if " = " in line)
scale = float(open("scale.txt").read())
mode = float(table["switch"])
if mode == 1:
    sys.exit("snow pack is negative")
if mode == 2:
    subprocess.Popen(["sleep", "60"])
    time.sleep(60)
if mode == 3:
    raise SystemExit(0)
print(values["gain"], table["shape"], file=sys.stderr)
y = [scale * values["gain"] * shape for shape in map(float, table["shape"].split())] + [float(table["second"]) + values["level"][1]]
pathlib.Path("y.json").write_text(json.dumps(y))
"""
NAMELIST = "&physics ! gains\n  gain = 1.0, level = 3*0.5\n/\n&else\n  gain = 7\n/\n"
TEXT = "# soil\nshape = ${shape}\nsecond = ${shape[2]}\nswitch = ${switch}\n"
THETA = {"gain": 2.0, "level": np.array([0.1, 0.2, 0.3]), "shape": np.array([1.0, 3.0]), "switch": 0.0}


@pytest.fixture
def model(tmp_path):
    for name, text in (("model.py", PROGRAM), ("model.nml", NAMELIST), ("soil.txt", TEXT), ("scale.txt", "10")):
        (tmp_path / name).write_text(text)

    def made(**options):
        given = {"namelists": {"model.nml": tmp_path / "model.nml"}, "names": {"gain": "physics.gain"}, "timeout": 20.0,
                 "templates": {"sub/soil.txt": tmp_path / "soil.txt"}, "inputs": [tmp_path / "scale.txt"],
                 "outputs": lambda folder: {"y": json.loads((folder / "y.json").read_text())}}
        return Executable([sys.executable, tmp_path / "model.py"], **(given | options))

    return made


def test_a_program_gets_its_parameters_and_gives_its_streams(model):
    assert model().once(THETA)["y"] == [20.0, 60.0, 3.2]


@pytest.mark.parametrize(("mode", "sentence"), [
    (1.0, "ended with exit code 1: snow pack is negative"), (2.0, "was killed after 1.5 seconds without an end"),
    (3.0, "ended well, but wrote no y.json")])
def test_a_program_that_fails_says_how(model, mode, sentence):
    with pytest.raises(RunFailed, match=sentence):
        model(timeout=1.5).once(THETA | {"switch": mode})
    assert processes_below("landcal-") == []


def processes_below(part):
    """Working directories with `part` in which a process is at work."""
    if not Path("/proc/self/cwd").exists():
        pytest.skip("processes are looked up in /proc, which only Linux has")
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            where = os.readlink(path)
        except OSError:
            continue
        found += [where] if part in where else []
    return found


def program_problem(model, store, **options):
    observations = Observations({"y": Stream([20.0, 60.0, 3.2], 1.0)})
    space = ParameterSpace(
        {"gain": Parameter.normal(2.0, 0.5), "level": Parameter.normal([0.1, 0.2, 0.3], 0.1, dims=("layer",)),
         "shape": Parameter.normal([1.0, 3.0], 0.2, dims=("mode",)), "switch": Parameter.normal(0.0, 1.0)},
        {"layer": ["1", "2", "3"], "mode": ["1", "2"]}, fixed={"level": None, "shape": None})
    return Problem(space, BlackBoxForward(model, observations=observations, store=store, **options), observations)


def test_an_ensemble_of_a_program(model, tmp_path):
    problem = program_problem(model(timeout=3.0), tmp_path / "runs", workers=4)
    y = problem.ensemble(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]]))["y"]
    np.testing.assert_allclose(y[[0, 3], 0], [[25.0, 75.0, 3.2], [15.0, 45.0, 3.2]])
    assert np.isnan(y[1:3]).all()
    assert float(problem.terms(np.array([1.0, 0.0]))["y"]) == pytest.approx(0.5 * (25 + 225))
    crashed = next(member for member in problem.forward.failures if "exit code" in member.message)
    assert crashed.errors == "snow pack is negative\n" and sorted(path.name for path in Path(crashed.folder).iterdir()) == [
        "landcal.err", "landcal.out", "model.nml", "scale.txt", "sub"]
    assert (Path(crashed.folder) / "model.nml").read_text() == NAMELIST.replace("1.0", "2.0").replace("3*0.5", "0.1, 0.2, 0.3")
    again = program_problem(model(timeout=60.0), tmp_path / "runs")
    again.ensemble(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]]))
    assert again.forward.counts == {"run": 0, "found": 4, "failed": 2}
    (tmp_path / "scale.txt").write_text("11")
    other = program_problem(model(), tmp_path / "runs")
    assert other.ensemble(np.array([[1.0, 0.0]]))["y"][0, 0, 0] == 27.5


def test_an_interruption_ends_the_programs_and_records_nothing(model, tmp_path):
    # A shell starts what runs in the background with this signal ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    problem = program_problem(model(timeout=60.0), tmp_path / "runs", workers=2)
    threading.Timer(2.0, interrupt_main).start()
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        problem.ensemble(np.array([[0.0, 2.0], [0.5, 2.0], [0.7, 2.0]]))
    assert time.perf_counter() - start < 15
    assert list(MemberStore(tmp_path / "runs").members()) == [] and processes_below(str(tmp_path)) == []


def test_netcdf_output_is_read_by_name(tmp_path):
    script = "import xarray as xr; xr.Dataset({'y': ('t', [1.0, 2.0, ${a}])}).to_netcdf('out.nc')"
    (tmp_path / "model.py").write_text(script)
    made = Executable([sys.executable, "run.py"], outputs="out.nc", templates={"run.py": tmp_path / "model.py"})
    assert made.once({"a": 0.5})["y"].tolist() == [1.0, 2.0, 0.5]


def test_mistakes_in_a_program_are_told_before_or_at_once(model, tmp_path):
    for options, words in (
            ({"namelists": {"../model.nml": tmp_path / "model.nml"}}, "a file in the member's directory"),
            ({"namelists": {"/etc/model.nml": tmp_path / "model.nml"}}, "a file in the member's directory"),
            ({"inputs": [tmp_path / "gone.nc"]}, "no such file"), ({"timeout": 0.0}, "a timeout above zero"),
            ({"templates": {"soil.txt": tmp_path / "gone.txt"}}, "no such file")):
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            model(**options)
    with pytest.raises(ValueError, match="a list of arguments"):
        Executable("model.exe -f; rm -r /", outputs=dict)
    with pytest.raises(FileNotFoundError, match="a program no_such_model that can be run"):
        Executable(["no_such_model"], outputs=dict)
    with pytest.raises(ValueError, match="a place for unknown in a template or namelist") as error:
        model(namelists={}).once({"unknown": 1.0, "shape": np.ones(2), "switch": 0.0})
    assert complaint_of(error.value)
    with pytest.raises(ValueError, match="shape"):
        model().once({name: value for name, value in THETA.items() if name != "shape"})
    # A mistake of every member is no failure of one: nothing is recorded.
    problem = program_problem(model(names={"gain": "phisics.gain"}), tmp_path / "runs")
    with pytest.raises(ValueError, match="physics"):
        problem.ensemble(np.zeros((2, 2)))
    assert list(MemberStore(tmp_path / "runs").members()) == []


# ---------------------------------------------------------------------- a cluster


def test_members_on_a_cluster_that_loses_a_worker(tmp_path):
    distributed = pytest.importorskip("dask.distributed", reason="the extra `dask` is not installed")
    (tmp_path / "log").mkdir()
    log = str(tmp_path / "log")

    def model(theta, folder):
        Path(log, folder.name).touch()
        time.sleep(0.4)
        return in_numpy(theta)

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, \
            distributed.Client(cluster) as client:
        problem = black(model, store=tmp_path / "runs", client=client)
        Z = np.random.default_rng(1).standard_normal((20, 3))
        first = client.run(os.getpid)
        killer = threading.Timer(2.0, os.kill, (min(first.values()), 9))
        killer.start()
        predicted = problem.ensemble(Z)
        killer.join()
        close(predicted, WHITE.ensemble(Z))
        counts = problem.forward.counts
        assert counts["failed"] == 0
        # Only what was on its way on the worker that died has been run twice.
        by_member = [path.name.split("-")[0] for path in (tmp_path / "log").iterdir()]
        assert len(set(by_member)) == 20 and len(by_member) <= 21
        black(model, store=tmp_path / "runs", client=client).ensemble(Z)
        assert len(list((tmp_path / "log").iterdir())) == len(by_member)
