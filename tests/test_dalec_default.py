"""The arithmetic that one calibrates with: mass, signs, finite derivatives over the whole prior box, kinks and limits."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.forward import SiteForward
from landcal_jax.model import simulate
from landcal_jax.models import Conserving, Dalec2, DalecWater
from landcal_jax.models import dalec_parts as parts
from landcal_jax.models.dalec_numerics import drainage, limited
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.testing import check
from landcal_jax.weather import BOREAL, MEDITERRANEAN, SAVANNA, weather

POLAR = replace(BOREAL, name="polar", latitude=70.0, temperature=-4.0)
DAYS, MONTH = 200, 30.4375
POINTS = 1250  # at each of two climates, for two models and two steps: 10,000 runs with their gradients


def drivers(climate, step_days, seed=1):
    """200 days from March, or two years of months, with fires: one of them burns all there is."""
    days = weather(climate, "2003-03-01", years=2, seed=seed)
    if step_days > 1:
        dataset = days.resample(time="MS").mean(keep_attrs=True)
    else:
        dataset = days.isel(time=slice(DAYS))
    burned = np.zeros(dataset.sizes["time"])
    burned[3::11], burned[15] = 0.2, 1.0
    dataset["burned_fraction"] = "time", burned, {"units": "1"}
    return dataset


def thetas(model, number, seed=0):
    """Points (number, n) of the whole box, uniform in the logarithm: the corner of all lows, that of all highs, other
    corners (a tenth), faces (a tenth), the inside."""
    table = model.parameters()
    low, high = (np.array([float(getattr(table[name], side)) for name in model.parameter_names]) for side in ("low", "high"))
    rng = np.random.default_rng(seed)
    share = rng.random((number, low.size))
    corner = number // 10
    share[:corner] = rng.integers(0, 2, (corner, low.size))
    share[corner : 2 * corner] = np.clip(3 * share[corner : 2 * corner] - 1, 0, 1)
    share[0], share[1] = 0, 1
    return np.clip(low ** (1 - share) * high**share, low, high)


def as_theta(model, vector):
    return dict(zip(model.parameter_names, vector, strict=True))


def imbalances(model, forcing, run):
    """What is created or lost in the run, carbon and water, relative to what there was and what was moved."""
    def relative(change, gain, stock):
        return jnp.abs(change - jnp.sum(gain) * model.step_days) / (jnp.max(stock) + jnp.sum(jnp.abs(gain)) * model.step_days)

    carbon = sum(run.state[:6])
    found = [relative(carbon[-1] - carbon[0], -run.output.nee, carbon)]
    if len(run.state) > 6:
        water, out = sum(run.state[6:]), run.output
        gain = forcing.precipitation - out.evapotranspiration - out.runoff - out.unavailable_runoff
        found.append(relative(water[-1] - water[0], gain, water))
    return jnp.stack(found)


@jax.jit
def survey(model, vectors, forcing):
    """Of every member: the gradient of a sum of all outputs, the smallest value of any pool, the imbalances."""
    def member(vector):
        run = simulate(model, as_theta(model, vector), forcing, checkpoint=None)
        pools = jnp.stack(run.state)
        # Logarithms, so that no large output hides what another one does.
        total = jnp.sum(jnp.log1p(jnp.abs(run.output.nee))) + jnp.sum(jnp.log1p(pools[:, -1])) + jnp.sum(jnp.log1p(run.output.lai))
        if isinstance(model, DalecWater):
            total = total + jnp.sum(jnp.log1p(run.output.latent_heat))
        return total, (jnp.min(pools), imbalances(model, forcing, run))

    def all_of(vector):
        (value, (least, lost)), gradient = jax.value_and_grad(member, has_aux=True)(vector)
        return value, least, lost, gradient

    return jax.lax.map(all_of, vectors, batch_size=250)


@pytest.mark.parametrize("step_days", [1.0, MONTH], ids=["daily", "monthly"])
@pytest.mark.parametrize("kind", [Dalec2, DalecWater])
def test_the_whole_prior_box_is_finite_conserving_and_never_negative(kind, step_days):
    model = kind(step_days)
    for seed, climate in enumerate((POLAR, SAVANNA)):
        value, least, lost, gradient = survey(model, thetas(model, POINTS, seed), model.forcing(drivers(climate, step_days)))
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()
        assert lost.max() < 1e-12
        assert least.min() >= 0.0


# ---------------------------------------------------------------------------------------------------- one step, by hand


def published_gpp(lai, efficiency, low, high, shortwave, co2, hours):
    """The aggregated canopy model as it is printed: it divides by LAI and subtracts two concentrations."""
    conductance = 2.0**0.789798 / (0.37836 + 0.5 * (high - low))
    p = lai / conductance * efficiency * np.exp(0.011136 * high)
    q = 4.22273 - 208.868
    inside = 0.5 * (co2 + q - p + np.sqrt((co2 + q - p) ** 2 - 4 * (co2 * q - p * 4.22273)))
    light = 7.19298 * lai**2 / (lai**2 + 2.1001) * shortwave
    supply = conductance * (co2 - inside)
    return light * supply / (light + supply) * (0.0156935 * hours + 0.0453194)


def test_photosynthesis_is_the_published_one_and_ends_at_a_bare_canopy():
    lai = np.array([0.05, 0.5, 2.0, 6.0, 300.0])
    for low, high, shortwave, hours in ((4.0, 15.0, 18.0, 15.0), (-20.0, -8.0, 0.5, 3.0), (22.0, 22.0, 30.0, 12.0)):
        found = parts.gpp(lai, 17.0, parts.canopy(low, high, shortwave, 380.0, hours))
        np.testing.assert_allclose(found, published_gpp(lai, 17.0, low, high, shortwave, 380.0, hours), rtol=1e-10)
    bare, slope = jax.value_and_grad(lambda lai: parts.gpp(lai, 17.0, parts.canopy(4.0, 15.0, 18.0, 380.0, 15.0)))(0.0)
    assert bare == 0.0 and np.isfinite(slope)
    np.testing.assert_array_equal(parts.gpp(lai, 17.0, parts.canopy(-9.0, -2.0, 0.0, 380.0, 0.0)), 0.0)


@pytest.mark.parametrize(("lifespan", "offset"), [(1.001, -0.8831796877), (2.0, -0.1884597673), (8.0, -0.0368519236)])
def test_the_pulse_of_phenology_is_the_published_one(lifespan, offset):
    period, day, t = 45.0, 130.0, np.arange(1.0, 731.0)
    width, season = period * 2**0.5 / 2, 365.25 / np.pi
    height = 2 / np.pi**0.5 * (np.log(lifespan) - np.log(lifespan - 1)) / 2 / width
    expected = height * np.exp(-((np.sin((t - day + offset * width) / season) * season / width) ** 2))
    found = parts.pulse(jnp.asarray(lifespan), period, day, np.pi).at(np.sin(t / season), np.cos(t / season))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("days", [1.0, MONTH])
def test_decay_is_first_order_and_shared_by_the_rates(days):
    numerics = Conserving()
    respired, moved = numerics.litter_loss(3e-3, 1e-3, 2.0, days)
    np.testing.assert_allclose((respired + moved) * days, 1 - np.exp(-4e-3 * 2 * days), rtol=1e-12)
    np.testing.assert_allclose(respired / moved, 3.0, rtol=1e-12)
    np.testing.assert_allclose(numerics.som_loss(1e-3, 5.0, days) * days, 1 - np.exp(-5e-3 * days), rtol=1e-12)
    assert numerics.reference_temperature(14.0) == 14.0
    assert numerics.stress(30.0, 40.0) == 0.75 and numerics.stress(50.0, 40.0) == 1.0


@pytest.mark.parametrize(("store", "demand", "expected"), [
    (100.0, 3.0, dict(evapotranspiration=3.0, runoff=0.7 * 25, to_unavailable=0.3 * 25, available=100 + 2 - 3 - 25)),
    (300.0, 3.0, dict(evapotranspiration=3.0, runoff=0.7 * 200, to_unavailable=0.3 * 200, available=300 + 2 - 3 - 200)),
    (4.0, 9.0, dict(evapotranspiration=4 + 2 - 0.04, runoff=0.7 * 0.04, to_unavailable=0.3 * 0.04, available=0.0)),
], ids=["below the focal point", "above it", "dry"])
def test_water_of_one_day(store, demand, expected):
    step = Conserving().water(store, 60.0, 2.0, demand, 400.0, 200.0, 0.3, 1.0)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(step, name), value, rtol=1e-13, err_msg=name)
    np.testing.assert_allclose(step.unavailable_runoff, 60.0**2 / 200, rtol=1e-13)
    np.testing.assert_allclose(step.unavailable, 60 - 18 + expected["to_unavailable"], rtol=1e-13)


# ------------------------------------------------------------------------------------------------- kinks and their limits


def test_nothing_jumps_where_a_store_passes_a_threshold():
    numerics, h = Conserving(), 1e-9
    focal = jnp.array([3.0, 400.0, 1e5])

    def drained(share):
        return drainage(share * focal, focal)

    np.testing.assert_allclose(drained(0.5 + h), drained(0.5 - h), rtol=1e-8)
    slope = jax.grad(lambda share: jnp.sum(drained(share)))
    np.testing.assert_allclose(slope(0.5 + h), slope(0.5 - h), rtol=1e-8)
    assert (drained(0.5 + h) <= 0.5 * focal).all()
    np.testing.assert_allclose(numerics.stress(1 - h, 1.0), numerics.stress(1 + h, 1.0), atol=2e-9)
    for share in (0.01, 1.0):
        below, above = (numerics.water(x * 400.0, 50.0, 2.0, 3.0, 400.0, 90.0, share, 1.0) for x in (0.5 - h, 0.5 + h))
        np.testing.assert_allclose(below, above, rtol=1e-8)


def test_a_whole_run_passes_thresholds_without_a_jump():
    model = DalecWater()
    forcing = model.forcing(drivers(MEDITERRANEAN, 1.0))
    theta = {name: parameter.default for name, parameter in model.parameters().items()}
    run = jax.jit(lambda theta: simulate(model, theta, forcing, save=("nee", "evapotranspiration", "state")))
    for name, at in (("paw_focal_point", 2.0), ("wilting_point", 1.0)):
        below, above = (run(theta | {name: theta["paw_0"] * at * (1 + h)}) for h in (-1e-9, 1e-9))
        for one, other in zip(jax.tree.leaves((below.output, below.state)), jax.tree.leaves((above.output, above.state)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)


def test_the_smoothed_minimum_is_below_both_and_tends_to_the_minimum():
    a, b = np.meshgrid([0.0, 1e-30, 1e-3, 0.5, 1.0, 1.0 + 1e-7, 40.0, 1e30], [0.0, 1e-3, 1.0, 50.0])
    exact = np.minimum(a, b)
    np.testing.assert_array_equal(limited(a, b, 0.0), exact)
    for smoothing in (0.3, 0.1, 0.01, 1e-4):
        found = limited(a, b, smoothing)
        assert (found <= exact).all()
        assert (found >= 2**-smoothing * exact * (1 - 1e-15)).all()
        gradients = jax.vmap(jax.grad(limited, (0, 1)), (0, 0, None))(a.ravel(), b.ravel(), smoothing)
        assert np.isfinite(gradients).all()
        np.testing.assert_allclose(found, limited(b, a, smoothing), rtol=1e-15)


def test_a_smoothed_run_tends_to_the_exact_one_and_conserves_mass():
    forcing = DalecWater().forcing(drivers(MEDITERRANEAN, 1.0))
    vectors = thetas(DalecWater(), 200, seed=5)

    @jax.jit
    def runs(model):
        def one(vector):
            run = simulate(model, as_theta(model, vector), forcing)
            return jnp.stack(run.state), imbalances(model, forcing, run)
        return jax.vmap(one)(vectors)

    exact, _ = runs(DalecWater())
    distance = []
    for smoothing in (0.1, 0.01):
        pools, lost = runs(DalecWater(numerics=Conserving(smoothing=smoothing)))
        assert lost.max() < 1e-12
        assert pools.min() >= 0
        distance.append(np.abs(pools - exact).max(axis=(1, 2)) / np.abs(exact).max(axis=(1, 2)))
    assert distance[0].max() > 1e-3  # it does something
    assert np.median(distance[1] / np.maximum(distance[0], 1e-15)) < 0.2
    assert distance[1].max() < 0.02


# ------------------------------------------------------------------------------------------- against the published form


@pytest.mark.parametrize(("kind", "same_pi", "tolerance"), [
    (Dalec2, True, 1e-11), (Dalec2, False, 1e-6), (DalecWater, True, 1e-11)], ids=["carbon", "carbon with pi", "water"])
def test_published_and_conserving_agree_where_their_differences_vanish(kind, same_pi, tolerance):
    """They vanish with slow decay (one or two losses, exp or power), without fire, with a record whose mean temperature
    is zero, and where water is ample: evapotranspiration within supply, drainage below half the focal point."""
    days = weather(BOREAL, "2003-03-01", years=1).isel(time=slice(DAYS))
    published = kind.reference()
    conserving = kind(numerics=Conserving(pi=published.numerics.pi) if same_pi else Conserving())
    theta = {name: parameter.default for name, parameter in conserving.parameters().items()}
    theta |= dict.fromkeys(("litter_turnover", "decomposition_rate", "som_turnover"), jnp.asarray(1e-9))
    theta |= {"paw_0": jnp.asarray(2000.0), "paw_focal_point": jnp.asarray(1e5), "wilting_point": jnp.asarray(3000.0)}
    theta |= {"puw_0": jnp.asarray(100.0)}

    @jax.jit
    def pools(model):
        forcing = model.forcing(days)
        if kind is DalecWater:
            forcing = forcing._replace(mean_temperature=jnp.zeros(()))
        run = simulate(model, theta, forcing)
        return jnp.stack([*run.state, jnp.append(run.output.nee, 0), jnp.append(run.output.gpp, 0)])

    one, other = np.asarray(pools(published)), np.asarray(pools(conserving))
    size = np.abs(one).max(axis=1, keepdims=True)
    assert (np.abs(one - other) / size).max() < tolerance
    # The year is one in which something happens.
    assert one[-1].max() > 1 and np.ptp(one[1]) > 1


def test_the_two_differ_where_they_should():
    forcing = DalecWater().forcing(drivers(SAVANNA, 1.0))
    fast = thetas(DalecWater(), 300, seed=9)

    @jax.jit
    def water(model):
        return jax.vmap(lambda vector: simulate(model, as_theta(model, vector), forcing, save=("state",)).state.available_water)(fast)

    assert water(DalecWater.reference()).min() < -1.0  # the published store goes below zero
    assert water(DalecWater()).min() >= 0.0


# --------------------------------------------------------------------------------------------------- the year and the day


def test_day_length_at_the_pole_the_equator_and_between():
    day = np.arange(1, 367)
    polar = parts.day_length(70.0, day, np.pi)
    assert polar[171] == 24.0 and polar[354] == 0.0
    assert ((polar > 0) & (polar < 24)).sum() > 200
    assert np.abs(np.diff(polar)).max() < 2.2  # no jump into the polar night
    np.testing.assert_allclose(parts.day_length(0.0, day, np.pi), 12.0)
    np.testing.assert_allclose(parts.day_length(-51.0, day, np.pi), 24 - parts.day_length(51.0, day, np.pi), atol=1e-12)
    assert np.isin(parts.day_length(90.0, day, np.pi).round(9), [0.0, 24.0]).all()


def test_the_season_counts_leap_days_and_starts_at_new_year():
    days = weather(BOREAL, "2003-01-01", years=2)
    forcing = Dalec2().forcing(days)
    count = np.arange(1, 732)
    np.testing.assert_allclose(forcing.season_sine, np.sin(np.pi * count / 365.25), atol=1e-13)
    np.testing.assert_allclose(forcing.season_cosine, np.cos(np.pi * count / 365.25), atol=1e-13)
    assert days.time[424].dt.strftime("%m-%d").item() == "02-29"
    later = Dalec2().forcing(days.isel(time=slice(100, None)))
    np.testing.assert_allclose(later.season_sine, forcing.season_sine[100:], atol=1e-13)
    np.testing.assert_allclose(later.day_hours, forcing.day_hours[100:])
    monthly = Dalec2(MONTH).forcing(days.resample(time="MS").mean(keep_attrs=True))
    middle = np.arcsin(np.asarray(monthly.season_sine[:6])) * 365.25 / np.pi
    np.testing.assert_allclose(middle, (np.arange(6) + 0.5) * MONTH, atol=2.5)


# ------------------------------------------------------------------------------------------------------ sites, derivatives


def problem_at(model, sets, checkpoint=None):
    """A wave of NEE (and latent heat), observed on every third step."""
    sites = Sites.from_datasets(sets, model)
    wave = np.sin(np.arange(sites.real.shape[1]))
    values = np.where(sites.real & (np.arange(wave.size) % 3 == 0), wave, np.nan)
    streams = {"nee": Stream(values, 0.7, Pick("nee"), units="gC m-2 d-1")}
    if isinstance(model, DalecWater):
        streams["latent_heat"] = Stream(40 + 30 * values, 15.0, Pick("latent_heat"), units="W m-2")
    return Problem(ParameterSpace(model.parameters()), SiteForward(model, sites, checkpoint=checkpoint), Observations(streams))


@pytest.mark.parametrize(("kind", "checkpoint"), [(Dalec2, None), (DalecWater, 64)], ids=["carbon", "water"])
def test_derivatives_are_exact_over_the_prior(kind, checkpoint):
    report = check(problem_at(kind(), drivers(MEDITERRANEAN, 1.0), checkpoint), n=4, key=2)
    assert report.passed, str(report)


@jax.jit
def cost_and_gradient(problem, z):
    return jax.value_and_grad(lambda z: problem.cost(z) - 0.5 * z @ z)(z)


def test_sites_of_different_lengths_together_are_the_sites_one_by_one():
    model = Dalec2()
    # The first burns, the second has no fire: alone it has no such driver at all.
    sets = [drivers(POLAR, 1.0), weather(SAVANNA, "2003-03-21", years=1).isel(time=slice(130))]
    together = problem_at(model, sets)
    z = 0.5 * jax.random.normal(jax.random.key(0), (together.space.size,))
    value, gradient = cost_and_gradient(together, z)
    apart = [cost_and_gradient(problem_at(model, one), z) for one in sets]
    np.testing.assert_allclose(value, sum(part[0] for part in apart), rtol=1e-12)
    np.testing.assert_allclose(gradient, sum(part[1] for part in apart), rtol=1e-9, atol=1e-11 * np.abs(gradient).max())
