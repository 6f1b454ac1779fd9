"""The C peer of the benchmarks computes the model that it is compared with."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import compiled  # noqa: E402

pytestmark = pytest.mark.skipif(compiled.compiler() is None, reason="no C compiler on this machine")

DRIVERS = ["d1_FI-Hyy_lat62", "d2_US-Var_lat38", "d3_AU-How_lat-12", "m1_fluxval70_lat64", "m2_fluxval183_lat52",
           "m4_example_fire_lat-18", "m6_fluxval186_polar_lat70"]


@pytest.mark.parametrize("hoisted", [False, True])
@pytest.mark.parametrize("driver", DRIVERS)
def test_agrees_with_reference_trajectories(golden_dir, driver, hoisted):
    path = golden_dir / "dalec" / f"dalec400_{driver}.npz"
    with np.load(path) as golden:
        model = compiled.Dalec400(golden["met"], float(golden["lat"]), float(golden["deltat"]), hoisted=hoisted)
        for i, parameters in enumerate(golden["pars"]):
            run = model(parameters)
            expected = {"pools": golden["pools"][i], "nee": golden["nee"][i], "lai": golden["lai"][i],
                        "gpp": golden["fluxes"][i, :, 0]}
            for name, series in expected.items():
                error = np.abs(getattr(run, name) - series).max(axis=0)
                assert np.all(error <= 1e-10 * np.abs(series).max(axis=0)), (name, i)


def test_carbon_is_conserved():
    n, rng = 730, np.random.default_rng(3)
    t = np.arange(n) + 0.5
    warm = 10 - 12 * np.cos(2 * np.pi * t / 365.25)
    met = np.stack([t, warm - 5, warm + 5, 10 - 7 * np.cos(2 * np.pi * t / 365.25), np.full(n, 400.0), t % 365.25,
                    rng.random(n) < 0.01], axis=1)
    parameters = np.array([1e-3, 0.45, 0.1, 0.5, 2.0, 1e-4, 2e-3, 3e-3, 2e-5, 0.04, 15.0, 500.0, 0.2, 40.0, 700.0, 60.0,
                           50.0, 100.0, 80.0, 150.0, 4e3, 200.0, 1e4])
    run = compiled.Dalec400(met, 50.0, 1.0)(parameters)
    gained = np.diff(run.pools.sum(axis=1))
    np.testing.assert_allclose(gained, -run.nee, atol=1e-9)


def test_wrong_number_of_parameters_is_refused():
    model = compiled.Dalec400(np.ones((5, 7)), 50.0, 1.0)
    with pytest.raises(ValueError, match="23 parameters"):
        model(np.ones(17))


def test_missing_compiler_is_said(monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(FileNotFoundError, match="C compiler"):
        compiled.build()
