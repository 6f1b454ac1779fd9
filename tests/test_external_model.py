"""A Fortran program calibrated through its namelist, with members that crash and hang, killed half-way and resumed."""

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import landcal_jax
from landcal_jax.solving import solve

EXAMPLES = Path(__file__).parent.parent / "examples"
SHARES = {"LAND_CRASH": "0.05", "LAND_HANG": "0.02"}
MEMBERS = {"FourDEnVar": 60, "EKI": 30}
# Run as a program of its own, since it is killed; one argument is the solver.
DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {examples!r})
import external_model
import numpy as np
import landcal_jax as lc

if __name__ == "__main__":
    faults = {shares!r} | {{"LAND_LOG": str(Path("log").absolute())}}
    problem = external_model.problem(".", faults=faults, timeout=4.0, workers=2)
    solver = getattr(lc, sys.argv[1])(size={members!r}[sys.argv[1]])
    result = lc.solve(problem, solver, key=0, progress=False, max_steps=4)
    np.savez("result.npz", z=result.z, theta=problem.space.flatten(result.theta), terms=list(result.terms.values()),
             failed_runs=result.details["failed_runs"], **problem.forward.counts)
"""

pytestmark = pytest.mark.skipif(shutil.which("gfortran") is None, reason="no gfortran on this machine: the program cannot be built")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """The program, built once."""
    folder = tmp_path_factory.mktemp("program")
    subprocess.run(["gfortran", "-O2", str(EXAMPLES / "fortran_model" / "land.f90"), "-o", str(folder / "land")], check=True)
    return folder / "land"


def prepared(folder, program):
    """A folder with the program and the script that calibrates it."""
    (folder / "log").mkdir(parents=True)
    shutil.copy2(program, folder / "land")
    (folder / "driver.py").write_text(DRIVER.format(examples=str(EXAMPLES), shares=SHARES, members=MEMBERS))
    return folder


def started(folder, *arguments):
    settings = {"PYTHONPATH": str(EXAMPLES.parent), "JAX_COMPILATION_CACHE_DIR": str(Path(__file__).parent / ".xla_cache")}
    with (folder / "said.txt").open("ab") as said:
        return subprocess.Popen([sys.executable, "driver.py", *arguments], cwd=folder, stdout=said, stderr=said, env=os.environ | settings)


def finished(folder, *arguments):
    process = started(folder, *arguments)
    assert process.wait(300) == 0, (folder / "said.txt").read_text()
    with np.load(folder / "result.npz") as file:
        return dict(file)


def runs(folder):
    """How often the program was run, by parameters: it has left a file for each run."""
    return Counter(tuple(path.read_text().split()) for path in (folder / "log").iterdir())


def recorded(folder):
    """Parameters of the members with a record, as the program writes them."""
    names = ("light_use_efficiency", "biomass_turnover", "soil_turnover", "q10", "bucket_depth")
    records = [json.loads(path.read_text()) for path in (folder / "runs" / "members").glob("*/[!.]*.json")]
    return {tuple(f"{record['theta'][name]:.15E}" for name in names): record for record in records}


def as_written(parameters):
    """Numbers in one form; Fortran writes E+003 where Python writes E+03."""
    return tuple(f"{float(text):.12e}" for text in parameters)


@pytest.fixture(scope="module", params=list(MEMBERS))
def calibrated(request, program, tmp_path_factory):
    """The name of a solver, the folder of a calibration that nothing has broken, and its result."""
    folder = prepared(tmp_path_factory.mktemp(request.param), program)
    return request.param, folder, finished(folder, request.param)


@pytest.mark.slow
def test_killed_half_way_and_resumed(calibrated, program, tmp_path):
    (solver, whole, unbroken), broken = calibrated, prepared(tmp_path / "broken", program)
    number = len(recorded(whole))
    process = started(broken, solver)
    while len(recorded(broken)) < number // 2 and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "it was finished before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # what was running ends with it
    done = {as_written(theta) for theta in recorded(broken)}
    before = {as_written(theta): count for theta, count in runs(broken).items()}
    assert number // 2 <= len(done) < number and max(before.values()) == 1
    resumed = finished(broken, solver)

    after = {as_written(theta): count for theta, count in runs(broken).items()}
    assert all(after[theta] == 1 for theta in done), "a finished member was run again"
    assert set(after) == {as_written(theta) for theta in runs(whole)}
    again = {theta for theta, count in after.items() if count > 1}
    assert again <= set(before) - done and len(again) <= 2  # those that were on their way when it was killed
    assert resumed["found"] >= len(done) and resumed["run"] == number - len(done)
    for name in ("z", "terms", "failed_runs"):
        assert np.array_equal(resumed[name], unbroken[name]), name
    failed = [record["message"] for record in recorded(broken).values() if record["status"] == "failed"]
    assert any("exit code 7: land: energy balance not closed" in message for message in failed)
    assert any("killed after 4 seconds" in message for message in failed)
    # 292 observations: J is half of that where the errors are all that is left; at the first guess it is 323.
    assert unbroken["terms"].sum() < 165, unbroken


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker_half_way(calibrated, program, tmp_path, monkeypatch):
    distributed = pytest.importorskip("dask.distributed", reason="the extra `dask` is not installed")
    monkeypatch.syspath_prepend(EXAMPLES)
    external_model = importlib.import_module("external_model")
    (name, whole, unbroken), folder = calibrated, prepared(tmp_path / "cluster", program)
    number, done, killed = len(recorded(whole)), [], threading.Event()
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, \
            distributed.Client(cluster) as client:
        problem = external_model.problem(folder, faults=SHARES | {"LAND_LOG": str(folder / "log")}, timeout=4.0, client=client)
        victim = min(client.run(os.getpid).values())

        def kill():
            while len(recorded(folder)) < number // 2:
                time.sleep(0.01)
            done.extend(as_written(theta) for theta in recorded(folder))
            os.kill(victim, signal.SIGKILL)
            killed.set()

        threading.Thread(target=kill, daemon=True).start()
        result = solve(problem, getattr(landcal_jax, name)(size=MEMBERS[name]), key=0, progress=False, max_steps=4)
    assert killed.is_set() and number // 2 <= len(done) < number
    counted = Counter(as_written(theta) for theta in runs(folder).elements())
    assert set(counted) == {as_written(theta) for theta in runs(whole)}
    assert all(counted[theta] == 1 for theta in done), "a finished member was run again"
    assert sum(counted.values()) <= number + 1  # the one that was on its way on the worker that was killed
    np.testing.assert_allclose(result.z, unbroken["z"], rtol=1e-9)
    np.testing.assert_allclose(list(result.terms.values()), unbroken["terms"], rtol=1e-9)
    assert result.details["failed_runs"] == unbroken["failed_runs"] > 0


@pytest.mark.slow
def test_the_example_finds_its_truth(program, tmp_path):
    folder = tmp_path / "landcal-out-external"
    folder.mkdir()
    shutil.copy2(program, folder / "land")
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, str(EXAMPLES / "external_model.py")], capture_output=True, text=True, check=False,
                              cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(EXAMPLES.parent)})
        assert done.returncode == 0 and "Warning" not in done.stderr, done.stderr
        said.append(done.stdout)
    rows = re.findall(r"^(\w+) +(\S+) +(\S+) +(\S+)$", said[0].split("parameter  ")[1], re.MULTILINE)
    assert len(rows) == 5
    assert all(abs(float(found) - float(truth)) < 3 * float(spread) for _, truth, found, spread in rows), rows
    assert re.search(r"J = 14\d\.", said[0]) and "converged" in said[0]
    # The second time everything is there already, and the result is the same.
    assert "'run': 0," in said[1] and said[1].split("parameter  ")[1] == said[0].split("parameter  ")[1]
