"""Runs that survive: checkpoints that end with the same bits, one run a folder, results that are whole or not there."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landcal_jax import checkpoint, solving
from landcal_jax.cli.sentences import sentence_of
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt, MultiStart, Optax
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.run_folder import RunFolder
from landcal_jax.solving import solve


def valley(theta):
    """The valley of Rosenbrock: many steps, each different."""
    return {"y": jnp.stack([10 * (theta["b"] - theta["a"] ** 2), theta["a"]])[None]}


PROBLEM = Problem(
    ParameterSpace({"a": Parameter.normal(-2.0, 3.0), "b": Parameter.normal(2.0, 3.0)}), FunctionForward(valley),
    Observations({"y": Stream([0.0, 1.0], 0.1)}))
SOLVERS = {
    "multistart": MultiStart(LevenbergMarquardt(), number=4, candidates=16, explore=3, finalists=2),
    "gauss-newton": GaussNewton(), "lbfgs": LBFGS(), "adam": Optax(optax.adam(1e-2))}


def same(one, other) -> None:
    """Two results are equal to the last bit, work included."""
    assert np.array_equal(one.z, other.z) and one.status == other.status and one.counts == other.counts
    assert one.history.keys() == other.history.keys() and one.details.keys() == other.details.keys()
    assert all(np.array_equal(one.history[name], other.history[name]) for name in one.history)
    assert all(np.array_equal(one.details[name], other.details[name]) for name in one.details)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solve_in_pieces_ends_with_the_same_bits(name, tmp_path):
    solver, file = SOLVERS[name], tmp_path / "state.npz"
    steps = 4 * solver.steps_per_call
    whole = solve(PROBLEM, solver, key=0, max_steps=steps, progress=False)
    for part in (1, 2):
        solve(PROBLEM, solver, key=0, max_steps=part * solver.steps_per_call, progress=False, checkpoint=file)
    resumed = solve(PROBLEM, solver, key=0, max_steps=steps, progress=False, checkpoint=file)
    same(whole, resumed)
    same(whole, solve(PROBLEM, solver, key=0, max_steps=steps, progress=False, checkpoint=file))


def test_an_interrupted_solve_keeps_its_last_state(tmp_path, monkeypatch):
    solver, file = LevenbergMarquardt(), tmp_path / "state.npz"
    whole = solve(PROBLEM, solver, progress=False)
    advance, calls = solving._advance, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return advance(*args)

    monkeypatch.setattr(solving, "_advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        solve(PROBLEM, solver, progress=False, checkpoint=file, checkpoint_seconds=1e9)
    monkeypatch.setattr(solving, "_advance", advance)
    problem_print = checkpoint.fingerprint(PROBLEM, solver, PROBLEM.space.default_z, None)
    assert checkpoint.load(file, problem_print).done == 2
    same(whole, solve(PROBLEM, solver, progress=False, checkpoint=file))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    file = tmp_path / "state.npz"
    solve(PROBLEM, LevenbergMarquardt(), max_steps=1, progress=False, checkpoint=file)
    others = (
        (PROBLEM, LevenbergMarquardt(tolerance=1e-4), None), (PROBLEM, LevenbergMarquardt(), jnp.full(2, 0.1)),
        (PROBLEM, GaussNewton(), None),
        (PROBLEM.with_observations(Observations({"y": Stream([0.0, 1.1], 0.1)})), LevenbergMarquardt(), None))
    for problem, solver, z0 in others:
        with pytest.raises(ValueError, match="(?s)checkpoint of this problem, solver, first guess and seed.*one of another run"):
            solve(problem, solver, z0=z0, progress=False, checkpoint=file)


def test_a_model_that_was_edited_is_another_run(tmp_path):
    def problem(slope):
        return PROBLEM.with_forward(FunctionForward(lambda theta: {"y": jnp.stack([slope * theta["a"], theta["b"]])[None]}))

    file = tmp_path / "state.npz"
    solve(problem(1.0), LevenbergMarquardt(), progress=False, checkpoint=file)
    with pytest.raises(ValueError, match="another version of the model"):
        solve(problem(5.0), LevenbergMarquardt(), progress=False, checkpoint=file)


@pytest.mark.parametrize("damage", ["cut", "text", "pickle"])
def test_a_damaged_checkpoint_gives_a_sentence(damage, tmp_path):
    file = tmp_path / "state.npz"
    solve(PROBLEM, LevenbergMarquardt(), max_steps=1, progress=False, checkpoint=file)
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif damage == "text":
        file.write_text("no checkpoint")
    else:
        np.savez(file, about=np.array([{"an": "object"}], dtype=object))
    with pytest.raises(ValueError, match=r"Expected: a checkpoint of landcal_jax at .*state.npz\nGot: .*\nTry: "):
        solve(PROBLEM, LevenbergMarquardt(), progress=False, checkpoint=file)


def test_fingerprints_are_the_same_in_each_process():
    code = ("from test_survival import PROBLEM; from landcal_jax import checkpoint; from landcal_jax.gradient import LBFGS;"
            "print(checkpoint.fingerprint(PROBLEM, LBFGS()))")
    here = checkpoint.fingerprint(PROBLEM, LBFGS())
    path = os.pathsep.join(str(folder) for folder in (Path(__file__).parents[1], Path(__file__).parent))
    env = os.environ | {"JAX_ENABLE_X64": "1", "PYTHONPATH": path, "PYTHONHASHSEED": "7"}
    there = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout.strip()
    assert there == here != checkpoint.fingerprint(PROBLEM, LBFGS(memory=3))


# ---------------------------------------------------------------------- the folder of a run


def write_two(folder: Path) -> None:
    (folder / "a.txt").write_text("new a")
    (folder / "b.txt").write_text("new b")


def opened(folder, **kwargs):
    return RunFolder(folder, results=("a.txt", "b.txt"), command="landcal calibrate --out out", **kwargs)


def test_results_are_published_together_and_nothing_else_stays(tmp_path):
    with opened(tmp_path / "out") as run:
        run.begin()
        assert not run.finished
        paths = run.publish(write_two)
        assert run.finished
    assert sorted(paths) == ["a.txt", "b.txt"] and (tmp_path / "out" / "a.txt").read_text() == "new a"
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")) == ["a.txt", "b.txt"]


def test_a_failure_while_writing_leaves_the_old_results(tmp_path):
    with opened(tmp_path) as run:
        run.publish(write_two)
    (tmp_path / "a.txt").write_text("old a")

    def fails(folder):
        (folder / "a.txt").write_text("half of")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="full disk") as caught, opened(tmp_path, overwrite=True) as run:
        run.begin()
        run.publish(fails)
    assert "--resume" in sentence_of(caught.value)
    assert (tmp_path / "a.txt").read_text() == "old a" and (tmp_path / "b.txt").read_text() == "new b"


def test_a_run_that_died_between_two_moves_is_ended_by_the_next(tmp_path):
    unfinished = tmp_path / "unfinished"
    (unfinished / "new").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("new a")  # moved already
    (tmp_path / "b.txt").write_text("old b")
    (unfinished / "new" / "b.txt").write_text("new b")
    (unfinished / "complete").write_text("a.txt\nb.txt")
    (unfinished / "options.json").write_text('{"options": {}, "command": "landcal"}')
    with opened(tmp_path, resume=True) as run:
        assert run.finished
    assert (tmp_path / "b.txt").read_text() == "new b" and not unfinished.exists()


def test_results_that_were_not_complete_are_not_taken(tmp_path):
    (tmp_path / "unfinished" / "new").mkdir(parents=True)
    (tmp_path / "unfinished" / "new" / "a.txt").write_text("half of")
    with opened(tmp_path, resume=True) as run:
        assert not run.finished and not (tmp_path / "a.txt").exists()
        run.publish(write_two)
    assert (tmp_path / "a.txt").read_text() == "new a"


def test_what_is_there_is_not_replaced_unless_asked(tmp_path):
    with opened(tmp_path) as run:
        run.begin()
    with pytest.raises(FileExistsError, match="(?s)unfinished run.*begun by `landcal calibrate --out out`"), opened(tmp_path):
        pass
    with opened(tmp_path, overwrite=True) as run:
        assert not run.interrupted
        run.publish(write_two)
    with pytest.raises(FileExistsError, match="a.txt, b.txt in it"), opened(tmp_path):
        pass


def test_resuming_with_other_options_names_them(tmp_path):
    with opened(tmp_path, options={"seed": 0, "site": None}) as run:
        run.begin()
    with pytest.raises(ValueError, match="seed 0 then, 1 now"), opened(tmp_path, options={"seed": 1, "site": None}, resume=True):
        pass
    with opened(tmp_path, options={"seed": 0, "site": None}, resume=True) as run:
        assert run.interrupted


def test_a_finished_run_is_resumed_only_with_its_own_options(tmp_path):
    with opened(tmp_path, options={"seed": 0}) as run:
        run.begin()
        run.publish(write_two)
    with opened(tmp_path, options={"seed": 0}, resume=True) as run:
        assert run.finished
    with pytest.raises(ValueError, match="(?s)options of the finished run.*seed 0 then, 5 now"):
        opened(tmp_path, options={"seed": 5}, resume=True).__enter__()
    (tmp_path / ".landcal.json").unlink()
    with pytest.raises(ValueError, match="(?s)options of the finished run.*no such file"):
        opened(tmp_path, options={"seed": 0}, resume=True).__enter__()


def test_a_second_run_in_the_folder_is_refused(tmp_path):
    code = ("import sys, time; from landcal_jax.run_folder import RunFolder\n"
            "with RunFolder(sys.argv[1]) as run:\n    print('in', flush=True); time.sleep(60)")
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=env, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with pytest.raises(BlockingIOError, match="another run at work"), opened(tmp_path, overwrite=True):
            pass
        other.send_signal(signal.SIGKILL)
    with opened(tmp_path) as run:  # the lock of a dead process does not stay
        run.publish(write_two)


def test_a_place_that_cannot_be_a_folder_gives_a_sentence(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    for place in (file, file / "below"):
        with pytest.raises(OSError) as caught, opened(place):
            pass
        assert f"a folder that can be written to at {place}" in sentence_of(caught.value)


def test_a_folder_without_the_right_to_write_gives_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(PermissionError) as caught, opened(tmp_path):
        pass
    assert "permission denied" in sentence_of(caught.value)


# ---------------------------------------------------------------------- the command line


def landcal(*arguments: str, file_limit: int | None = None):
    """A process of the command line; `file_limit` bounds the size of files as a full disk would."""
    root = Path(__file__).parents[1]
    code = (f"import sys; sys.path.insert(0, {str(root)!r}); import landcal_jax;"
            f"landcal_jax.configure(cache={str(root / 'tests/.xla_cache')!r});"
            "from landcal_jax.cli import main; main()")

    limit = f"trap '' XFSZ; ulimit -f {file_limit // 1024}; " if file_limit else ""
    return subprocess.Popen(["bash", "-c", limit + 'exec "$@"', "bash", sys.executable, "-c", code, *arguments],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


SMALL = ("calibrate", "--model", "dalec", "--starts", "1", "--quiet", "--out")


def contents(folder: Path) -> bytes:
    import xarray as xr

    ds = xr.load_dataset(folder / "posterior.nc")
    ds.attrs = {key: ds.attrs[key] for key in ds.attrs if key not in ("created", "seconds", "command")}
    return json.dumps(ds.to_dict(encoding=False), default=str, sort_keys=True).encode()


@pytest.mark.slow
def test_a_killed_command_goes_on_and_ends_the_same(tmp_path):
    unbroken = landcal(*SMALL, str(tmp_path / "unbroken"))
    assert unbroken.wait(300) == 0, unbroken.stderr.read()
    broken = tmp_path / "broken"
    stopped_after_the_first_checkpoint(broken, signal.SIGKILL)
    assert not any((broken / name).exists() for name in ("posterior.nc", "parameters.csv", "report.html"))
    again = landcal(*SMALL, str(broken))
    assert again.wait(300) == 2 and "unfinished run" in again.stderr.read()
    resumed = landcal(*SMALL, str(broken), "--resume")
    assert resumed.wait(300) == 0, resumed.stderr.read()
    assert contents(broken) == contents(tmp_path / "unbroken") and not (broken / "unfinished").exists()


def stopped_after_the_first_checkpoint(folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Begin a run and send it a signal while it solves; its exit status and what it said."""
    with landcal(*SMALL, str(folder)) as process:
        deadline = time.monotonic() + 120
        while not (folder / "unfinished" / "solve_0.npz").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        return process.wait(60), process.stderr.read()


def test_ctrl_c_and_the_end_of_a_batch_job_say_how_to_go_on(tmp_path):
    code, said = stopped_after_the_first_checkpoint(tmp_path / "out", signal.SIGTERM)
    assert code == 130 and "Traceback" not in said
    assert said.startswith("Interrupted. Nothing in ") and said.rstrip().endswith("--resume")
    assert (tmp_path / "out" / "unfinished" / "solve_0.npz").exists() and not (tmp_path / "out" / "posterior.nc").exists()


@pytest.mark.slow
def test_a_full_disk_gives_a_sentence_and_loses_nothing(tmp_path):
    full = landcal(*SMALL, str(tmp_path / "out"), file_limit=102400)
    assert full.wait(300) == 2
    said = full.stderr.read()
    # What NetCDF reports for it has no number to know it by, so the sentence can only ask.
    assert "the disk is full" in said and "--resume" in said and "Traceback" not in said
    assert not (tmp_path / "out" / "posterior.nc").exists() and (tmp_path / "out" / "unfinished" / "solve_0.npz").exists()
    resumed = landcal(*SMALL, str(tmp_path / "out"), "--resume")
    assert resumed.wait(300) == 0, resumed.stderr.read()
    assert (tmp_path / "out" / "posterior.nc").exists() and not (tmp_path / "out" / "unfinished").exists()
