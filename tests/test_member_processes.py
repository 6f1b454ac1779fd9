"""Members on processes of their own: those that crash, hang or raise, and an ensemble that is interrupted or killed."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from pathlib import Path

import numpy as np
import pytest
from test_blackbox import black, in_numpy, processes_below

from landcal_jax.member_store import MemberStore

FRAGILE = """
import os
import subprocess
import time
import numpy as np

def model(theta, folder):
    with open({log!r}, "a") as log:
        log.write(f"{{theta['a']}}\\n")
    (folder / "note.txt").write_text("here")
    if theta["a"] > 1.6:
        os.abort()
    if theta["a"] > 1.4:
        subprocess.Popen(["sleep", "60"], cwd=folder)
        time.sleep(60)
    if theta["a"] > 1.2:
        raise ValueError("wet")
    return {{"decay": np.full((2, 5), theta["a"]), "total": np.ones((2, 1))}}
"""
CRASHES, HANGS, WET, FINE = 1.7, 1.5, 1.3, (0.9, 0.8, 0.7, 0.6)


@pytest.fixture
def fragile(tmp_path, monkeypatch):
    """A model that crashes, hangs, raises or is fine, on two processes; the file tells which members it has run."""
    (tmp_path / "fragile_model.py").write_text(FRAGILE.format(log=str(tmp_path / "log.txt")))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "fragile_model", raising=False)
    return importlib.import_module("fragile_model").model


def at(*a):
    return np.column_stack([(np.array(a) - 1.0) / 0.5, np.zeros((len(a), 2))])


def test_processes_outlive_members_that_crash_or_hang(fragile, tmp_path):
    problem = black(fragile, processes=True, workers=2, timeout=1.0, store=tmp_path / "runs", retries=1)
    start, members = time.perf_counter(), (CRASHES, HANGS, WET, *FINE)
    predicted = problem.ensemble(at(*members))
    assert time.perf_counter() - start < 30
    assert np.isnan(predicted["total"]).all(axis=(1, 2)).tolist() == [True] * 3 + [False] * 4
    np.testing.assert_allclose(predicted["decay"][3:, 0, 0], FINE)
    failed = {round(member.theta["a"], 9): member for member in problem.forward.failures}
    assert failed[CRASHES].message.startswith("the run ended the process it was in")
    assert failed[HANGS].message == "the run was killed after 1 seconds without an end"
    assert failed[WET].message.startswith("ValueError: wet") and problem.forward.counts == {"run": 7, "found": 0, "failed": 3}
    # Each of the three was run once more, and no other; what they have left is kept, and what they have started is ended.
    runs = [round(float(line), 9) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert sorted(runs) == sorted([*members, CRASHES, HANGS, WET])
    assert {member.attempts for member in failed.values()} == {2} and failed[HANGS].seconds > 1.0
    assert all((Path(member.folder) / "note.txt").exists() for member in failed.values())
    assert len(list((tmp_path / "runs" / "work").iterdir())) == 3 and processes_below(str(tmp_path)) == []
    again = black(fragile, processes=True, timeout=1.0, store=tmp_path / "runs", retries=1)
    again.ensemble(at(*members))
    assert again.forward.counts == {"run": 0, "found": 7, "failed": 3}


def test_retries_are_counted_without_a_store(fragile, tmp_path):
    problem = black(fragile, processes=True, workers=1, timeout=0.5, retries=2)
    predicted = problem.ensemble(at(HANGS, 0.9))
    assert np.isnan(predicted["total"]).all(axis=(1, 2)).tolist() == [True, False]
    assert problem.forward.failures[0].attempts == 3 and problem.forward.failures[0].folder == ""
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 4


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import test_member_processes
import fragile_model
problem = test_member_processes.black(fragile_model.model, processes=True, workers=2)
problem.ensemble(test_member_processes.at(*{members!r}))
"""


def test_processes_end_with_the_one_that_has_started_them(fragile, tmp_path):
    paths = [str(tmp_path), str(Path(__file__).parent)]
    guarded = SCRIPT.format(paths=paths, members=(HANGS, 1.55)).replace("\nproblem", '\nif __name__ == "__main__":\n  problem')
    (tmp_path / "driver.py").write_text(guarded.replace("problem.ensemble", "  problem.ensemble"))
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "driver.py"], cwd=tmp_path, env=settings)
    wait_for(lambda: len(processes_below(str(tmp_path))) > 3)  # two members with a process each of their own
    process.kill()
    process.wait()
    wait_for(lambda: processes_below(str(tmp_path)) == [])


def wait_for(true, seconds=60.0):
    end = time.perf_counter() + seconds
    while not true():
        assert time.perf_counter() < end
        time.sleep(0.05)


def test_what_cannot_run_on_processes_is_refused(fragile, tmp_path):
    with pytest.raises(ValueError, match="that another process can import"):
        black(lambda theta: theta, processes=True)
    for options, place in (({}, "1 s on threads"), ({"processes": True, "client": object()}, "1 s on a dask client")):
        with pytest.raises(ValueError, match=f"(?s)timeout above zero, of a function on processes.*{place}"):
            black(in_numpy, timeout=1.0, **options)
    with pytest.raises(ValueError, match="0 s on processes"):
        black(fragile, timeout=0.0, processes=True)
    # A script that starts processes whenever it is imported would start them for ever.
    (tmp_path / "driver.py").write_text(SCRIPT.format(paths=[str(tmp_path), str(Path(__file__).parent)], members=FINE))
    settings = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    said = subprocess.run([sys.executable, "driver.py"], cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert said.returncode and 'below `if __name__ == "__main__":`' in said.stderr


def test_an_interruption_ends_processes_and_records_nothing(fragile, tmp_path):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    problem = black(fragile, processes=True, workers=2, store=tmp_path / "runs")
    def interrupt():
        wait_for(lambda: len(processes_below(str(tmp_path / "runs"))) > 0)
        interrupt_main()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        problem.ensemble(at(HANGS, 1.55))
    assert list(MemberStore(tmp_path / "runs").members()) == []
    assert processes_below(str(tmp_path)) == []
