"""Several places in one run: indices of parameters, padding of shorter records, and the errors of building them."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from test_model import MODEL, THETA, Forcing

from landcal_jax.forward import SiteForward
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.weather import BOREAL, SAVANNA, weather

LENGTHS = {"A": 90, "B": 60, "C": 75}


def season(name, start="2001-01-01"):
    """Drivers of the two-pool model at one site."""
    steps = LENGTHS[name]
    values = 1 + 0.5 * np.random.default_rng(ord(name)).standard_normal(steps)
    time = np.datetime64(start, "ns") + np.arange(steps) * np.timedelta64(1, "D")
    return xr.Dataset({"season": ("time", values)}, coords={"time": time, "site": name})


@pytest.fixture(scope="module")
def sites():
    return Sites.from_datasets(
        [season("A"), season("B", "2004-02-20"), season("C")], MODEL,
        rows={"pft": ["grass", "tree", "grass"], "soil": ["clay", "sand", "sand"]},
        coords={"pft": ["tree", "grass"], "soil": ["sand", "silt", "clay"]})


def test_sites_know_their_names_days_and_lengths(sites):
    assert sites.names == ("A", "B", "C")
    np.testing.assert_array_equal(sites.lengths, [90, 60, 75])
    np.testing.assert_array_equal(sites.real.sum(axis=1), [90, 60, 75])
    assert sites.forcing.season.shape == sites.days.shape == (3, 90)
    assert sites.time[1, 0] == np.datetime64("2004-02-20")
    assert sites.time[1, 9] == np.datetime64("2004-02-29")
    assert (np.isnat(sites.time) == ~sites.real).all()
    assert str(sites).splitlines()[1] == "B: 60 steps, 2004-02-20 to 2004-04-19"


def test_padding_repeats_the_last_step(sites):
    np.testing.assert_array_equal(sites.forcing.season[1, :60], season("B")["season"])
    assert (sites.forcing.season[1, 60:] == season("B")["season"].values[-1]).all()
    assert (sites.days[1, 60:] == sites.days[1, 59]).all()


def test_one_dataset_is_one_site():
    nameless = Sites.from_datasets(season("A").drop_vars("site"), MODEL)
    assert nameless.names == ("site 1",)
    assert nameless.forcing.season.shape == (1, 90)


def test_parameters_are_gathered_by_their_dimensions(sites):
    theta = {
        "of_all": jnp.asarray(3.0), "of_pft": jnp.array([10.0, 20.0]), "of_site": jnp.array([1.0, 2.0, 3.0]),
        "of_both": jnp.arange(6.0).reshape(3, 2)}  # soil x pft
    dims = {"of_pft": ("pft",), "of_site": ("site",), "of_both": ("soil", "pft")}
    local = sites.gather(theta, dims)
    np.testing.assert_array_equal(local["of_all"], [3, 3, 3])
    np.testing.assert_array_equal(local["of_pft"], [20, 10, 20])
    np.testing.assert_array_equal(local["of_site"], [1, 2, 3])
    np.testing.assert_array_equal(local["of_both"], [5, 0, 1])


def test_what_the_sites_do_not_know_is_refused(sites):
    with pytest.raises(ValueError, match=r"(?s)know their biome, since lma.*\['pft', 'site', 'soil'\].*rows="):
        sites.gather({"lma": jnp.ones(2)}, {"lma": ("biome",)})
    with pytest.raises(ValueError, match=r"(?s)share with the dims \(\).*shape \(3,\)"):
        sites.gather({"share": jnp.ones(3)}, {})  # as many as there are sites by accident
    with pytest.raises(ValueError, match=r"(?s)own name.*\('A', 'A'\)"):
        Sites.from_datasets([season("A"), season("A")], MODEL)
    with pytest.raises(ValueError, match="one Dataset a site"):
        Sites.from_datasets([], MODEL)
    with pytest.raises(ValueError, match="(?s)a pft among tree, grass.*'shrub' for site A"):
        Sites.from_datasets(season("A"), MODEL, rows={"pft": ["shrub"]}, coords={"pft": ["tree", "grass"]})
    with pytest.raises(ValueError, match="(?s)a pft among none"):
        Sites.from_datasets(season("A"), MODEL, rows={"pft": ["tree"]})
    with pytest.raises(ValueError, match="(?s)one pft for each of 2 sites.*1"):
        Sites.from_datasets([season("A"), season("B")], MODEL, rows={"pft": ["tree"]}, coords={"pft": ["tree"]})


def test_a_driver_that_only_some_sites_have_is_zero_at_the_others():
    sets = [weather(climate, years=1).isel(time=slice(40)) for climate in (BOREAL, SAVANNA)]
    assert Sites.from_datasets(sets, Dalec2()).forcing.burned_fraction is None
    sets[1]["burned_fraction"][5] = 0.5
    burned = Sites.from_datasets(sets, Dalec2()).forcing.burned_fraction
    np.testing.assert_array_equal(burned.sum(axis=1), [0.0, 0.5])


def test_scalars_of_a_site_are_of_its_own_record():
    sets = [weather(climate, years=1).isel(time=slice(steps)) for climate, steps in ((BOREAL, 40), (SAVANNA, 30))]
    forcing = Sites.from_datasets(sets, DalecWater()).forcing
    mean = [float((one.temperature_min + one.temperature_max).mean() / 2) for one in sets]
    np.testing.assert_allclose(forcing.mean_temperature, mean, rtol=1e-12)
    np.testing.assert_allclose(forcing.mean_precipitation, [one.precipitation.mean() for one in sets], rtol=1e-12)


# ------------------------------------------------------------------------------------------------------- runs at the sites


SPACE = ParameterSpace(
    {name: Parameter.log_normal(float(value), 0.3) for name, value in THETA.items() if name not in ("share", "fast_0")}
    | {"share": Parameter.uniform([0.1, 0.2], [0.8, 0.9], dims="pft"), "fast_0": Parameter.log_normal([40.0] * 3, 0.5, dims="site")},
    coords={"pft": ["tree", "grass"], "site": ["A", "B", "C"]})
DIMS = {"share": ("pft",), "fast_0": ("site",)}
Z = 0.5 * jax.random.normal(jax.random.key(1), (SPACE.size,))


def observed(sites, rows):
    values = np.where(sites.real & (np.arange(90) % 4 == 0), 2.0, np.nan)[rows]
    return Observations({"lost": Stream(values, 0.3, Pick("lost"))})


@eqx.filter_jit
def value_and_gradient(problem, z):
    return jax.value_and_grad(lambda z: problem.cost(z) - 0.5 * z @ z)(z)


def part(sites, row):
    """One of the sites, cut to its own length."""
    length = int(sites.lengths[row])
    return Sites(
        Forcing(*(leaf[row : row + 1, :length] for leaf in sites.forcing)), sites.days[row : row + 1, :length],
        sites.lengths[row : row + 1], {dim: index[row : row + 1] for dim, index in sites.index.items()}, (sites.names[row],))


def test_together_is_one_by_one_in_value_and_gradient(sites):
    together = value_and_gradient(Problem(SPACE, SiteForward(MODEL, sites, DIMS), observed(sites, slice(None))), Z)
    value, gradient = 0.0, 0.0
    for row in range(3):
        alone = part(sites, row)
        stream = observed(sites, slice(row, row + 1))["lost"]
        cut = Stream(np.where(stream.mask, stream.values, np.nan)[:, : LENGTHS["ABC"[row]]], 0.3, Pick("lost"))
        more = value_and_gradient(Problem(SPACE, SiteForward(MODEL, alone, DIMS), Observations({"lost": cut})), Z)
        value, gradient = value + more[0], gradient + more[1]
    np.testing.assert_allclose(together[0], value, rtol=1e-12)
    np.testing.assert_allclose(together[1], gradient, rtol=1e-11, atol=1e-13 * np.abs(gradient).max())
    # Each parameter is seen by its own sites: fast_0 of B by B alone.
    assert (np.asarray(together[1]) != 0).all()


def test_a_run_has_arrays_by_site(sites):
    run = SiteForward(MODEL, sites, DIMS).run(SPACE.physical(Z))
    assert run.output.lost.shape == (3, 90)
    assert run.state.slow.shape == (3, 91)
    assert run.theta["share"].shape == (3,)
    alone = SiteForward(MODEL, part(sites, 1), DIMS).run(SPACE.physical(Z))
    assert alone.output.lost.shape == (1, 60)
    np.testing.assert_allclose(alone.output.lost[0], run.output.lost[1, :60], rtol=1e-13)


def test_a_short_site_spins_up_on_its_own_record(sites):
    @eqx.filter_jit
    def start(forward, row):
        return jax.value_and_grad(lambda z: forward.run(SPACE.physical(z), save=("state",)).state.slow[row, 0])(Z)

    together = start(SiteForward(MODEL, sites, DIMS, spin_up=True), 1)
    alone = start(SiteForward(MODEL, part(sites, 1), DIMS, spin_up=True), 0)
    np.testing.assert_allclose(together[0], alone[0], rtol=1e-8)
    np.testing.assert_allclose(together[1], alone[1], rtol=1e-7, atol=1e-9 * np.abs(alone[1]).max())
