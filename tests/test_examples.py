"""The examples, run as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"


def run(*arguments: str, cwd: Path) -> str:
    """What a Python process prints; it ends well and warns of nothing."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent / ".xla_cache"))
    settings = {"JAX_COMPILATION_CACHE_DIR": cache, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd, env=os.environ | settings)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return done.stdout


def test_quickstart_draws_the_fit(tmp_path):
    said = run(str(EXAMPLES / "quickstart.py"), "fit.png", cwd=tmp_path)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert "Problem: 23 free parameters" in said and "converged" in said
    before, after = (float(number) for number in re.search(r"held_out +([\d.]+) +([\d.]+)", said).groups())
    assert after < 0.5 * before
    low, high = (float(number) for number in re.search(r"interval: ([\d.]+) to ([\d.]+)", said).groups())
    assert low < 60.0 < high


def test_own_model_finds_its_truth(tmp_path):
    said = run(str(EXAMPLES / "own_model.py"), cwd=tmp_path)
    rows = re.findall(r"^(\w+) +(\S+) +(\S+) +(\S+) +(\S+)$", said[said.index("parameter  ") :], re.MULTILINE)
    assert len(rows) == 6
    inside = [float(low) < float(truth) < float(high) for _, truth, _, low, high in rows]
    assert sum(inside) >= 5, rows
    assert list(tmp_path.iterdir()) == []


def test_own_model_passes_the_check():
    command = "from landcal_jax.cli import main; main()"
    said = run("-c", command, "check", "examples/own_model.py:problem", "--points", "2", "--scan", "50", cwd=ROOT)
    assert "All 5 points are good" in said and "finite at all 50 points" in said


def test_own_reader_reads_what_it_has_written(tmp_path):
    said = run(str(EXAMPLES / "own_reader.py"), cwd=tmp_path)
    assert "The stamps of the file are the end of each step" in said and "nee (Fc): 92 values on 96 steps; 4 fill values" in said
    # Two days of half-hours; the second has 4 of 48 steps missing, fewer than a quarter, so both days count.
    assert re.search(r"^2005-06-01 +-?[\d.]+\n2005-06-02 +-?[\d.]+$", said, re.MULTILINE)


def test_own_reader_on_the_command_line(tmp_path):
    run(str(EXAMPLES / "own_reader.py"), cwd=tmp_path)
    command = "from landcal_jax.cli import main; main()"
    said = run("-c", command, "inspect", "tower.txt", "--reader", f"{EXAMPLES / 'own_reader.py'}:read_mine", cwd=tmp_path)
    assert "reader of the user" in said and "Half-hourly series at one site" in said


@pytest.mark.slow
def test_which_data_finds_what_the_fluxes_do_not_see(tmp_path):
    said = run(str(EXAMPLES / "which_data.py"), cwd=tmp_path)
    drawn = {file.name: file.read_bytes()[:4] for file in (tmp_path / "which_data").iterdir()}
    assert drawn == {f"{name}.png": b"\x89PNG" for name in ("spectrum", "streams", "constrained", "ranking", "expected")}
    unseen = re.search(r"Not seen by any stream .*: (.*)\. Their", said).group(1)
    assert "wood_0" in unseen and "temperature_exponent" not in unseen
    assert "1. another year of nee (365 values)" in said and re.search(r"\d\. wood inventory \(1 value\): \d", said)
    left = re.search(r"fall most for wood_0 \(to (\d+)% of today's\)", said).group(1)
    assert int(left) < 20


@pytest.mark.slow
def test_hierarchical_shares_a_distribution_among_sites(tmp_path):
    said = run(str(EXAMPLES / "hierarchical.py"), cwd=tmp_path)
    rows = re.findall(r"^(\w+) +(\d+) +([\d.]+) +([\d.]+) \+- ([\d.]+) +([\d.]+) \+- ([\d.]+)$", said, re.MULTILINE)
    assert len(rows) == 6 and "4 chains of 500 draws agree" in said
    for _, _, truth, *numbers in rows:
        alone, spread, together, narrower = map(float, numbers)
        assert abs(together - float(truth)) < 3 * narrower and abs(alone - together) < spread
    for truth, mean, sd in re.findall(r"truth ([\d.]+), posterior ([\d.]+) \+- ([\d.]+)", said):
        assert abs(float(truth) - float(mean)) < 3 * float(sd)


@pytest.mark.slow
def test_equifinality_shows_what_four_methods_leave(tmp_path):
    said = run(str(EXAMPLES / "equifinality.py"), cwd=tmp_path)
    assert (tmp_path / "equifinality.png").read_bytes().startswith(b"\x89PNG")
    rows = {name: [float(number) for number in re.findall(r"\d\.\d{3}", line)] for line in said.splitlines()
            for name in ("history matching", "Laplace", "NUTS", "ES-MDA") if line.startswith(f"{name} ")}
    assert all(len(row) == 4 for row in rows.values()) and len(rows) == 4
    # Two numbers rule out less than all observations do, and NUTS and Laplace see the same ones.
    assert (np.array(rows["history matching"]) > np.array(rows["NUTS"])).all()
    np.testing.assert_allclose(rows["Laplace"], rows["NUTS"], rtol=0.5)


@pytest.mark.parametrize(
    "name", ["equifinality.py", "hierarchical.py", "which_data.py", "quickstart.py", "own_model.py", "own_reader.py", "external_model.py"])
def test_examples_use_public_names_only(name):
    text = (EXAMPLES / name).read_text()
    assert not re.findall(r"\b_[a-z]\w*|\._\w+", text.replace("__name__", "").replace("__main__", ""))
