"""The snow scheme against columns of ecLand's own routines (SRFSN_*, in double precision) behind a driver for one column."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.io import read
from landcal_jax.model import simulate
from landcal_jax.models.snow import Exact, Snow, soil
from landcal_jax.models.snow.column import Column, GlacierGrid, MountainGrid
from landcal_jax.models.snow.heat import Ground
from landcal_jax.models.snow.model import snow_step
from landcal_jax.models.snow.surface import CALM, Air, Skin

NAMES = {"destc_ml": "RSNDTDESTC_ML"}
DAILY = {"snow_depth": "snd", "snow_water_equivalent": "swe", "snow_albedo": "alb_snow", "liquid_water": "liq", "snow_fraction": "scf",
         "surface_temperature": "tsf"}


@pytest.fixture(scope="module")
def golden(golden_dir):
    folder = golden_dir / "ecland_snow"
    return lambda name: np.load(folder / f"{name}.npz", allow_pickle=True)


@pytest.fixture(scope="module")
def winter(golden):
    d = golden("col_default_hourly")
    columns = {str(name): values for name, values in zip(d["names"], d["trace"].T, strict=True)}
    return Air(*(jnp.asarray(columns[name]) for name in ("SW", "LW", "Sf", "Rf", "Ta", "qa", "Ua", "Ps")))


def test_forcing_of_the_file_is_that_of_the_reference(data_dir, winter):
    forcing = Snow().forcing(read(data_dir / "snow" / "fsm_col_de_porte" / "met_CdP_0506.txt"))
    for name, ours, theirs in zip(Air._fields, forcing, winter, strict=True):
        # The reference has no wind below 0.1 m s-1, the file has.
        np.testing.assert_allclose(jnp.maximum(ours, CALM) if name == "wind" else ours, theirs, rtol=1e-12, atol=1e-12, err_msg=name)


def defaults() -> dict:
    return {name: jnp.asarray(parameter.default, float) for name, parameter in Snow().parameters().items()}


@pytest.mark.parametrize("rugged", [False, True])
def test_one_step_of_3000_columns(golden, rugged):
    d = golden("unit_onestep_3000_dt1800")
    v = {str(name): values for name, values in zip(d["v_cols"], d["v"].T, strict=True)}
    rows = np.flatnonzero((v["sdor"] >= 50) == rugged)
    model = Snow(1800.0, Exact(MountainGrid()) if rugged else Exact())

    def one(theta, layers, v):
        air = Air(0.0, 0.0, v["snowf"], v["rainf"], v["Ta"], 0.0, v["wind"], v["ps"])
        skin = Skin(v["Ta"], v["H"], v["E"], v["SWnet"], v["LWnet"], 0.0)
        ground = Ground(v["Tsoil1"], soil.conductivity(v["Tsoil1"], v["wsoil1"]))
        return snow_step(theta, model.switches, model.albedo, Column(*layers), v["asn"], v["fsn"], skin, air,
                         ground, model.step_seconds)

    out = jax.jit(jax.vmap(one, (None, 0, 0)))(
        defaults(), [d[name][rows] for name in "STRW"], {name: values[rows] for name, values in v.items()})
    assert len(rows) > 1000
    for name, field in zip(("So", "To", "Ro", "Wo"), out.column, strict=True):
        expected = d[name][rows]
        np.testing.assert_allclose(field, expected, rtol=1e-10, atol=1e-10 * np.abs(expected).max())
    for name, field in zip(("asn_new", "Gsn", "Msn", "rain_left"), (out.albedo, out.ground_heat, out.runoff, out.rain), strict=True):
        expected = d["out"][rows, list(d["out_cols"]).index(name)]
        np.testing.assert_allclose(field, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max())


def season(winter):
    model = Snow(3600.0, Exact())
    return lambda theta: simulate(model, theta, winter, save=(*DAILY, "runoff")).output


def daily(values) -> np.ndarray:
    return np.asarray(values).reshape(*np.shape(values)[:-1], -1, 24)


def test_a_season_at_col_de_porte_and_members_around_it(golden, winter):
    members = golden("col_ensemble64_daily")
    theta = {name: jnp.full(65, value) for name, value in defaults().items()}
    for number, name in enumerate(members["names"]):
        theta[NAMES.get(str(name), str(name))] = theta[NAMES.get(str(name), str(name))].at[1:].set(members["params"][:, number])
    out = jax.jit(jax.vmap(season(winter)))(theta)
    base, columns = golden("col_default_hourly"), list(members["cols"])
    for name, column in DAILY.items():
        found, number = daily(getattr(out, name)).mean(-1), columns.index(column)
        np.testing.assert_allclose(found[0], base["daily"][:, number], atol=1e-8, rtol=0, err_msg=name)
        if name == "snow_water_equivalent":
            np.testing.assert_allclose(found[1:], members["daily"][:, :, number], atol=1e-2, rtol=0)
    np.testing.assert_allclose(daily(out.runoff)[0].mean(-1), base["daily"][:, columns.index("rof")], atol=1e-8, rtol=0)


def test_over_ice_layers_are_half_a_metre():
    grid = GlacierGrid()(jnp.asarray(3.2))
    assert [float(each) for each in grid.thickness] == pytest.approx([0.5, 0.5, 0.5, 0.5, 1.2])
