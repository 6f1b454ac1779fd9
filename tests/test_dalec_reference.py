"""DALEC against the reference trajectories and quad-precision gradients of the CARDAMOM C code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.model import simulate
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.models.dalec import make_forcing

DRIVERS = ("m1_fluxval70_lat64", "m2_fluxval183_lat52", "m4_example_fire_lat-18", "m6_fluxval186_polar_lat70",
           "d1_FI-Hyy_lat62", "d2_US-Var_lat38", "d3_AU-How_lat-12")
GRADIENTS = ("m1_fluxval70_lat64", "m4_example_fire_lat-18", "d1_FI-Hyy_lat62")
COLUMNS = ("time", "temperature_min", "temperature_max", "shortwave", "co2", "doy", "burned_fraction", "vpd", "precipitation")
MODELS = {"400": Dalec2, "1005": DalecWater}


def load(folder, number, driver):
    golden = np.load(folder / "dalec" / f"dalec{number}_{driver}.npz")
    model = MODELS[number].reference(float(golden["deltat"]))
    columns = dict(zip(COLUMNS, golden["met"].T, strict=False))
    forcing = make_forcing(
        columns, float(golden["lat"]), columns["time"], columns["doy"], model.numerics.pi, water=number == "1005")
    if number == "1005":
        forcing = forcing._replace(
            mean_temperature=jnp.asarray(golden["meantemp"]), mean_precipitation=jnp.asarray(golden["meanprec"]))
    return golden, model, forcing


def as_theta(model, vector):
    return dict(zip(model.parameter_names, vector, strict=True))


@jax.jit
def run_all(model, vectors, forcing):
    return jax.vmap(lambda vector: simulate(model, as_theta(model, vector), forcing))(vectors)


def flux_matrix(run, number):
    """Fluxes in CARDAMOM's order (members, time, flux)."""
    flux = run.output.fluxes
    columns = [*flux[:16], flux.fire, *flux.burnt, *flux.killed[:5]]
    if number == "1005":
        water = run.output
        columns += [water.evapotranspiration, water.runoff, water.to_unavailable, water.unavailable_runoff]
    return np.stack(columns, axis=-1)


def deviation(mine, reference):
    """Largest difference of each series, relative to its maximum."""
    size = np.abs(reference).max(axis=1)
    return np.max(np.abs(mine - reference).max(axis=1) / np.where(size > 0, size, 1.0))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("number", MODELS)
def test_every_series_of_every_vector_is_reproduced(golden_dir, number, driver):
    golden, model, forcing = load(golden_dir, number, driver)
    run = run_all(model, golden["pars"], forcing)
    assert deviation(np.stack(run.state, axis=-1), golden["pools"]) < 1e-10
    assert deviation(np.asarray(run.output.nee), golden["nee"]) < 1e-10
    assert deviation(np.asarray(run.output.lai), golden["lai"]) < 1e-10
    assert deviation(flux_matrix(run, number), golden["fluxes"]) < 1e-10


@jax.jit
def summary_and_jacobian(model, vectors, forcing):
    """The twelve scalars of the reference gradients with their derivatives, (member, 12) and (member, 12, parameter)."""
    def scalars(vector):
        run = simulate(model, as_theta(model, vector), forcing)
        ends = jnp.stack([pool[-1] for pool in run.state])
        means = jnp.stack([run.output.nee.mean(), run.output.gpp.mean(), run.output.lai.mean()])
        water = jnp.stack([run.output.evapotranspiration.mean(), *ends[6:]]) if len(ends) > 6 else jnp.zeros(3)
        return jnp.concatenate([means, ends[:6], water])

    return jax.vmap(scalars)(vectors), jax.vmap(jax.jacrev(scalars))(vectors)


@pytest.mark.parametrize("driver", GRADIENTS)
@pytest.mark.parametrize("number", MODELS)
def test_gradients_agree_with_quad_precision_derivatives_of_the_c_code(golden_dir, number, driver):
    golden, model, forcing = load(golden_dir, number, driver)
    reference = np.load(golden_dir / "dalec" / f"grad_dalec{number}_{driver}.npz")
    stored = {int(vec): row for row, vec in enumerate(golden["vec"])} if "vec" in golden else {n: n for n in range(20)}
    rows = [(stored[int(vec)], row) for row, vec in enumerate(reference["vec"]) if int(vec) in stored]
    steps = int(reference["nsteps"])
    forcing = jax.tree.map(lambda leaf: leaf[:steps] if leaf.ndim else leaf, forcing)
    mine = np.asarray([row for row, _ in rows])
    theirs = np.asarray([row for _, row in rows])
    value, jacobian = summary_and_jacobian(model, golden["pars"][mine], forcing)
    # Derivatives are compared as elasticities, parameters spanning nine orders of magnitude.
    scale = golden["pars"][mine][:, None, :]
    expected, got = reference["grad"][theirs] * scale, np.asarray(jacobian) * scale
    assert np.allclose(value, reference["value"][theirs], rtol=1e-9, atol=1e-30)
    row_maximum = np.abs(expected).max(axis=2)
    # An extinct canopy has leaves of 1e-40 gC m-2: there float64 and quad precision differ, as the golden README says.
    alive = (row_maximum > 0) & (np.abs(reference["value"][theirs]) > 1e-25)
    error = np.abs(got - expected).max(axis=2)[alive] / row_maximum[alive]
    assert alive.sum() > 0.6 * alive[:, : (12 if number == "1005" else 9)].size
    assert error.max() < 1e-8
