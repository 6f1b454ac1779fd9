"""Several devices and several processes: the results of one, and arrays that are where they should be."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from devices_example import derivatives, ensembles, members, problem, searches, solved

import landcal_jax as lc
from landcal_jax import devices

FOLDER = Path(__file__).parent
# What JAX is told before its first computation; the imports after it compute.
FOUR_DEVICES = "jax.config.update('jax_num_cpu_devices', 4)"
PROCESS = "jax.distributed.initialize('localhost:{port}', 2, {n}, initialization_timeout=60, heartbeat_timeout_seconds=30)"
SCRIPT = """
import pathlib, sys
import jax, landcal_jax, numpy
landcal_jax.configure(cache={cache!r})
{begin}
import devices_example
numpy.savez(sys.argv[1], **devices_example.{work})
"""


@pytest.fixture(scope="module")
def alone():
    """Results of one device, by name."""
    whole = problem()
    return ensembles(whole) | searches(whole) | derivatives(whole) | solved(whole)


def start(file, work, begin):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("XLA_")}
    script = SCRIPT.format(cache=str(FOLDER / ".xla_cache"), work=work, begin=begin)
    return subprocess.Popen(
        [sys.executable, "-c", script, file], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=clean | {"PYTHONPATH": os.pathsep.join([str(FOLDER), str(FOLDER.parent)])})


def finish(processes, seconds):
    """Wait for all; a hang or an error of one ends the others."""
    try:
        for process in processes:
            said, _ = process.communicate(timeout=seconds)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()


def same(found, alone, kind, names):
    for name in names.split():
        # The end of a solve moves with the rounding of the derivatives on the way to it.
        tolerance = 1e-12 if name in ("ensemble", "costs", "cost", "gradient") else 1e-10
        np.testing.assert_allclose(found[f"{kind} {name}"], alone[name], rtol=tolerance, atol=tolerance, err_msg=f"{kind} {name}")


@pytest.mark.slow
def test_four_devices_give_the_results_of_one(alone, tmp_path):
    finish([start(tmp_path / "found.npz", "on_devices()", FOUR_DEVICES)], seconds=120)
    found = np.load(tmp_path / "found.npz")
    assert found["devices"] == 4
    same(found, alone, "members", "ensemble costs kalman starts")
    same(found, alone, "sites", "ensemble costs cost gradient z J")
    # Five sites on four devices are eight rows, two on each device.
    assert found["parts"].tolist() == [[2, 24]] * 4


def test_two_processes_give_the_results_of_one(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
    finish([start(folder / "found.npz", "in_processes(pathlib.Path(sys.argv[1]).parent)", PROCESS.format(port=port, n=n))
            for n, folder in enumerate(folders)], seconds=90)
    for folder in folders:
        found = np.load(folder / "found.npz")
        assert found["parts"].tolist() == [[3, 24]]  # half of the forcing
        same(found, alone, "members", "ensemble")
        same(found, alone, "sites", "z J")
        # The first one writes the checkpoint, and reads it for both.
        np.testing.assert_array_equal(found["again z"], found["sites z"])
        assert found["written"] == (folder.name == "first")


def test_one_device_is_a_line_of_one(alone):
    """What a script does on many devices it does on one."""
    spread = problem().spread()
    assert str(spread).splitlines()[2] == "devices: members on 1 of cpu"
    np.testing.assert_array_equal(ensembles(spread)["ensemble"], alone["ensemble"])


def test_members_that_search_their_equilibrium_can_be_spread():
    """The search is optimistix's, which cannot be traced inside of shard_map."""
    spun_up = problem(spin_up=True)
    Z = members(spun_up, 2)
    np.testing.assert_allclose(spun_up.spread().ensemble(Z)["lost"], spun_up.ensemble(Z)["lost"], rtol=1e-9)


def test_what_cannot_be_spread_is_refused():
    whole = problem()
    toy = lc.Problem(whole.space, lc.FunctionForward(lambda theta: {"lost": theta["fast_0"]}), whole.observations)
    with pytest.raises(ValueError, match='(?s)"members" or "sites".*pixels'):
        whole.spread("pixels")
    with pytest.raises(ValueError, match="(?s)a SiteForward.*function"):
        toy.spread("sites")
    with pytest.raises(ValueError, match="(?s)at least one device"):
        whole.spread(devices=[])
    with pytest.raises(ValueError, match="(?s)each of them once"):
        whole.spread(devices=2 * jax.devices())
    with pytest.raises(ValueError, match="(?s)on one device.*1 devices"):
        whole.spread("sites").spread("sites")
    with pytest.raises(ValueError, match="(?s)members or sites.*both"):
        whole.spread("sites").spread("members")


def test_rows_are_filled_with_copies_of_the_last():
    filled = devices.fill({"a": np.arange(5), "b": jax.numpy.ones((5, 2))}, 4)
    np.testing.assert_array_equal(filled["a"], [0, 1, 2, 3, 4, 4, 4, 4])
    assert filled["b"].shape == (8, 2)
    assert devices.fill(np.arange(8), 4).shape == (8,)
