"""The soft constraints: zero where they hold, known where they fail, in agreement with the hard ones of CARDAMOM."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.forward import SiteForward
from landcal_jax.model import Run, equilibrium, simulate
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.models.dalec import make_forcing
from landcal_jax.models.edc import STATIC, EcologicalConstraints, log_ratio
from landcal_jax.observations import Observations
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.weather import BOREAL, SAVANNA, TEMPERATE_FOREST, weather

MONTH = 30.4375
DRIVERS = ("m1_fluxval70_lat64", "m2_fluxval183_lat52", "m4_example_fire_lat-18", "m6_fluxval186_polar_lat70")
COLUMNS = ("time", "temperature_min", "temperature_max", "shortwave", "co2", "doy", "burned_fraction", "vpd", "precipitation")


def months(climate, years, seed=0):
    return weather(climate, years=years, seed=seed).resample(time="MS").mean(keep_attrs=True)


def sites_of(forcing, steps):
    """One site from ready-made forcing."""
    return Sites(jax.tree.map(lambda leaf: leaf[None], forcing), jnp.arange(steps)[None], jnp.array([steps]), {}, ("A",))


def batched(run):
    return Run(jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], run.theta), *jax.tree.map(
        lambda leaf: leaf[None], (run.forcing, run.state, run.output)))


# ------------------------------------------------------------------------------------------------ against CARDAMOM's flags


@eqx.filter_jit
def residuals_of(constraints, run):
    return constraints(run)[0]


@eqx.filter_jit
def all_residuals(constraints, model, vectors, forcing):
    def one(vector):
        return constraints(batched(simulate(model, dict(zip(model.parameter_names, vector, strict=True)), forcing, checkpoint=None)))[0]

    return jax.vmap(one)(vectors)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("kind", [Dalec2, DalecWater])
def test_constraints_fail_where_those_of_cardamom_fail(golden_dir, kind, driver):
    number = "400" if kind is Dalec2 else "1005"
    golden = np.load(golden_dir / "dalec" / f"dalec{number}_{driver}.npz")
    model = kind.reference(float(golden["deltat"]))
    columns = dict(zip(COLUMNS, golden["met"].T, strict=False))
    forcing = make_forcing(columns, float(golden["lat"]), columns["time"], columns["doy"], model.numerics.pi, water=kind is DalecWater)
    if kind is DalecWater:
        forcing = forcing._replace(mean_temperature=jnp.asarray(golden["meantemp"]), mean_precipitation=jnp.asarray(golden["meanprec"]))
    constraints = EcologicalConstraints.of(model, sites_of(forcing, len(golden["met"])))

    found = dict(zip(constraints.names, np.asarray(all_residuals(constraints, model, golden["pars"], forcing)).T, strict=True))
    passed = golden["edc_passfail"] > 0.5
    for flag, name in enumerate(STATIC):
        np.testing.assert_array_equal(found[name] == 0, passed[:, flag], err_msg=name)
    pools = ["labile", "foliar", "root", "wood", "litter", "som"] + ["available water", "unavailable water"] * (kind is DalecWater)
    steady, drift = (np.stack([found[f"{pool} {what}"] for pool in pools], axis=1) for what in ("near steady state", "without drift"))
    # From our two residuals CARDAMOM's two ratios follow, and its hard rule on them.
    to_steady = np.exp(steady * np.log(2))
    to_growth = to_steady / np.exp(drift * np.log(1.1))
    held = (np.abs(steady) <= 1) & (np.abs(to_steady - to_growth) <= 0.1)
    np.testing.assert_array_equal(held, passed[:, 6 : 6 + len(pools)])
    below = np.all([found[f"{pool} below its limit"] == 0 for pool in pools[:7]], axis=0)  # it leaves the last pool out
    np.testing.assert_array_equal(below, passed[:, 34])
    if kind is DalecWater:
        np.testing.assert_array_equal(found["wilting point below mean water"] == 0, passed[:, 14])
        fire = [found["foliage burns before wood"], found["foliage burns before soil"]]
        np.testing.assert_array_equal(np.all(np.equal(fire, 0), axis=0), passed[:, 15])


# ------------------------------------------------------------------------------------------------------- held and violated

GOOD = {
    "decomposition_rate": 1e-3, "autotrophic_fraction": 0.5, "foliar_fraction": 0.2, "root_fraction": 0.5, "leaf_lifespan": 1.2,
    "wood_turnover": 1e-4, "root_turnover": 4e-3, "litter_turnover": 3e-3, "som_turnover": 4e-5, "temperature_exponent": 0.03,
    "canopy_efficiency": 20.0, "onset_day": 470.0, "labile_fraction": 0.2, "onset_period": 40.0, "fall_day": 640.0,
    "fall_period": 60.0, "lma": 60.0, "water_use_efficiency": 8.0, "paw_focal_point": 900.0, "wilting_point": 20.0,
    "foliar_combustion": 0.8, "ligneous_combustion": 0.2, "dom_combustion": 0.1, "puw_focal_point": 900.0,
    "radiation_evaporation": 0.03, "labile_lifespan": 1.1, "root_0": 200.0, "foliar_0": 200.0, "unavailable_share": 0.3}


class Steady(NamedTuple):
    model: object
    constraints: EcologicalConstraints
    run: Run


@pytest.fixture(scope="module", params=[Dalec2, DalecWater], ids=["carbon", "water"])
def steady(request):
    """A run in a climate whose years are all the same, from its equilibrium: every constraint holds."""
    model = request.param(MONTH)
    year = model.forcing(months(TEMPERATE_FOREST, 1))
    forcing = jax.tree.map(lambda leaf: jnp.tile(leaf, 3) if leaf.ndim else leaf, year)
    names = model.parameters()
    theta = {name: jnp.asarray(GOOD.get(name, parameter.default)) for name, parameter in names.items()}
    run = eqx.filter_jit(lambda theta: simulate(
        model, theta, forcing, initial_state=equilibrium(model, theta, year), checkpoint=None))(theta)
    return Steady(model, EcologicalConstraints.of(model, sites_of(forcing, 36)), batched(run))


def test_all_are_zero_in_a_steady_climate(steady):
    found = dict(zip(steady.constraints.names, residuals_of(steady.constraints, steady.run), strict=True))
    assert {name: float(value) for name, value in found.items() if not abs(value) < 1e-7} == {}
    static = [name for name in found if "steady" not in name and "drift" not in name]
    assert all(found[name] == 0 for name in static)
    assert len(found) == 6 + 3 * (6 if isinstance(steady.model, Dalec2) else 8) + (0 if isinstance(steady.model, Dalec2) else 3)


def changed(run, **theta):
    return eqx.tree_at(lambda run: run.theta, run, run.theta | {name: jnp.array([value]) for name, value in theta.items()})


@pytest.mark.parametrize(("name", "change", "excess"), [
    ("som slower than litter", {"litter_turnover": 2e-5}, np.log(2)),
    ("decomposition faster than som", {"decomposition_rate": 1e-5}, np.log(4)),
    ("wood slower than leaves", {"leaf_lifespan": 1e4 * 3 / 365.25}, np.log(3)),
    ("allocation to leaves and roots", {"root_fraction": 0.02}, np.log(0.18 / (0.32 * 0.02)) - np.log(5)),
    ("wilting point below mean water", {"wilting_point": 1e6}, None),
    ("foliage burns before wood", {"ligneous_combustion": 0.9}, np.log(9 / 8)),
    ("foliage burns before soil", {"dom_combustion": 1.0}, np.log(10 / 8)),
], ids=lambda part: part if isinstance(part, str) else "")
def test_one_that_fails_has_the_known_value(steady, name, change, excess):
    if name not in steady.constraints.names:
        pytest.skip("a constraint of the water model")
    place = steady.constraints.names.index(name)
    found = residuals_of(steady.constraints, changed(steady.run, **change))
    if excess is None:
        excess = np.log(1e6 / np.mean(steady.run.state.available_water))
    np.testing.assert_allclose(found[place], excess / 0.1, rtol=1e-10)


def test_constraints_that_need_the_run_have_the_known_value(steady):
    run = steady.run
    warm = run.theta["som_turnover"] * np.exp(0.03 * np.mean(run.forcing.temperature_min + run.forcing.temperature_max) / 2)
    found = residuals_of(steady.constraints, changed(run, root_turnover=float(warm[0]) / 7))
    np.testing.assert_allclose(found[STATIC.index("roots faster than som")], np.log(7) / 0.1, rtol=1e-10)
    for few, many in (("root", "foliar"), ("foliar", "root")):
        unequal = eqx.tree_at(lambda run: run.state, run, run.state._replace(**{
            few: jnp.full((1, 37), 10.0), many: jnp.full((1, 37), 90.0)}))
        np.testing.assert_allclose(residuals_of(steady.constraints, unequal)[STATIC.index("foliage and roots")], np.log(9 / 5) / 0.1)


def test_a_pool_that_drifts_is_seen(steady):
    # The whole record doubles one pool from year to year: of four Januaries, the mean is (1 + 2 + 4 + 8) / 4.
    growth = jnp.asarray(2.0 ** (np.arange(37) / 12))[None]
    run = eqx.tree_at(lambda run: run.state.wood, steady.run, 1000.0 * growth)
    found = dict(zip(steady.constraints.names, residuals_of(steady.constraints, run), strict=True))
    np.testing.assert_allclose(found["wood without drift"], np.log(15 / 4) / np.log(1.1), rtol=1e-12)
    np.testing.assert_allclose(found["wood near steady state"], np.log(15 / 4) / np.log(2), rtol=1e-7)
    run = eqx.tree_at(lambda run: run.state.wood, steady.run, jnp.full((1, 37), 2e5))
    found = dict(zip(steady.constraints.names, residuals_of(steady.constraints, run), strict=True))
    np.testing.assert_allclose(found["wood below its limit"], np.log(2) / 0.1, rtol=1e-12)


def test_factor_and_width_scale_the_residuals(steady):
    model, sites = steady.model, sites_of(jax.tree.map(lambda leaf: leaf[0], steady.run.forcing), 36)
    other = EcologicalConstraints.of(model, sites, equilibrium_factor=10.0, width=0.3)
    run = changed(eqx.tree_at(lambda run: run.state.wood, steady.run, 9.0 * steady.run.state.wood.at[0, 0].divide(3)), litter_turnover=2e-5)
    one, ten = (dict(zip(c.names, residuals_of(c, run), strict=True)) for c in (steady.constraints, other))
    np.testing.assert_allclose(ten["som slower than litter"], one["som slower than litter"] / 3)
    np.testing.assert_allclose(ten["wood near steady state"], one["wood near steady state"] * np.log(2) / np.log(10))
    np.testing.assert_allclose(ten["wood without drift"], one["wood without drift"])


# ------------------------------------------------------------------------------------------------------------- in a problem


@pytest.fixture(scope="module")
def problem():
    """The constraints as the only stream, at a site of three years and one of two, with a fire at one of them."""
    model = DalecWater(MONTH)
    sets = [months(SAVANNA, 3), months(BOREAL, 2)]
    sets[1]["burned_fraction"][7] = 1.0
    sites = Sites.from_datasets(sets, model)
    constraints = EcologicalConstraints.of(model, sites)
    forward = SiteForward(model, sites, checkpoint=None)
    return Problem(ParameterSpace(model.parameters()), forward, Observations({"edc": constraints.stream()}))


@eqx.filter_jit
def costs_and_gradients(problem, Z):
    return jax.vmap(jax.value_and_grad(lambda z: problem.terms(z)["edc"]))(Z)


def test_the_penalty_is_finite_with_its_gradient_over_the_whole_box(problem):
    size = problem.space.size
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (20, size))
    Z = np.concatenate([np.zeros((1, size)), -7 * np.ones((1, size)), 7 * np.ones((1, size)), 7 * signs, signs * np.linspace(0, 4, size)])
    value, gradient = costs_and_gradients(problem, jnp.asarray(Z))
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert (value > 0).all()
    # At the far corners nothing is left to constrain; in the middle every parameter but the insensible ones is seen.
    assert (gradient[0] != 0).sum() > 25


def test_padding_of_a_shorter_site_has_no_influence(problem):
    z = 0.3 * jax.random.normal(jax.random.key(3), (problem.space.size,))
    # Fast soil and slow roots, so that the constraint on the mean temperature of the record fails.
    z = z.at[jnp.array([problem.space.labels.index(name) for name in ("som_turnover", "root_turnover")])].set(jnp.array([3.0, -3.0]))
    both = problem.predict(z)["edc"]
    assert (both[:, STATIC.index("roots faster than som")] > 1).all()
    model = problem.forward.model
    for row, climate in enumerate((SAVANNA, BOREAL)):
        data = months(climate, 3 - row)
        if row:
            data["burned_fraction"][7] = 1.0
        sites = Sites.from_datasets(data, model)
        alone = EcologicalConstraints.of(model, sites).stream()
        found = Problem(problem.space, SiteForward(model, sites, checkpoint=None), Observations({"edc": alone})).predict(z)["edc"]
        np.testing.assert_allclose(both[row], found[0], rtol=1e-9, atol=1e-9)


def test_the_term_is_half_the_sum_of_squares(problem):
    z = jnp.zeros(problem.space.size)
    residuals = problem.predict(z)["edc"]
    np.testing.assert_allclose(problem.terms(z)["edc"], 0.5 * jnp.sum(residuals**2))
    assert "ecological constraints" in problem.observations["edc"].description


def test_the_logarithm_of_an_empty_pool_is_finite():
    value, slopes = jax.value_and_grad(log_ratio, (0, 1))(0.0, 0.0)
    assert value == 0.0
    assert np.isfinite(slopes).all()
