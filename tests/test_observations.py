"""Streams and Observations: masks, error models against dense algebra, scores, splits, datasets, refusals."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.observations import METRICS, ExponentialCorrelation, Observations, Stream, StreamSpec
from landcal_jax.operators import Log, Pick, WindowMean, WindowSum, monthly_windows

N = 60
TIME = np.datetime64("2004-01-20") + np.arange(N) * np.timedelta64(1, "D")


class Output(NamedTuple):
    nee: Any


class Run(NamedTuple):
    output: Output


@pytest.fixture(scope="module")
def data():
    """Two sites of 60 days, a good third missing: values, sigma, model."""
    generator = np.random.default_rng(3)
    values, modelled = generator.normal(1.0, 2.0, (2, 2, N))
    sigma = generator.uniform(0.2, 0.8, (2, N))
    values[generator.random((2, N)) < 0.35] = np.nan
    values[0, 20:33] = np.nan
    return values, sigma, jnp.asarray(modelled)


@pytest.fixture(scope="module")
def correlated(data):
    values, sigma, _ = data
    return Stream(values, sigma, Pick("nee"), model_error=[0.7, 0.0], time=TIME, units="gC m-2 d-1",
                  correlation=ExponentialCorrelation(4.0), weight=0.3, description="nee of the tower")


def cost(stream, modelled):
    return 0.5 * jnp.sum(stream.residuals(modelled) ** 2)


def dense(stream, modelled, site, days):
    """Sum of squares and log det R of one site from the whole covariance matrix."""
    mask = np.asarray(stream.mask)[site]
    sd = np.sqrt(np.asarray(stream.sigma)[site, mask] ** 2 + float(stream.model_error.constant[site]) ** 2)
    lag = np.abs(np.subtract.outer(*[TIME[mask].astype(float)] * 2))
    factor = np.linalg.cholesky(np.outer(sd, sd) * np.exp(-lag / days))
    whitened = np.linalg.solve(factor, (np.asarray(stream.values) - np.asarray(modelled))[site, mask])
    return whitened @ whitened, 2 * np.log(np.diag(factor)).sum()


def test_independent_errors_have_their_closed_form(data):
    values, sigma, modelled = data
    stream = Stream(values, sigma, model_error=[0.7, 0.1], weight=[4.0, 1.0])
    expected = (values - modelled) / np.sqrt(sigma**2 + np.array([[0.7], [0.1]]) ** 2)
    np.testing.assert_allclose(stream.whitened(modelled), np.nan_to_num(expected), rtol=1e-12)
    np.testing.assert_allclose(stream.residuals(modelled)[0], 2 * stream.whitened(modelled)[0])
    np.testing.assert_allclose(stream.chi_square(modelled), np.nanmean(expected**2))
    assert int(stream.count) == np.isfinite(values).sum()


@pytest.mark.parametrize("days", [0.05, 4.0, 3000.0])
def test_correlated_errors_equal_the_dense_covariance(data, days):
    values, sigma, modelled = data
    stream = Stream(values, sigma, model_error=[0.7, 0.1], time=TIME, correlation=ExponentialCorrelation(days))
    square, log_determinant = np.transpose([dense(stream, modelled, site, days) for site in (0, 1)])
    np.testing.assert_allclose(jnp.sum(stream.whitened(modelled) ** 2, axis=1), square, rtol=1e-10)
    np.testing.assert_allclose(stream.log_determinant, log_determinant, rtol=1e-10, atol=1e-10)


def test_log_density_is_that_of_the_normal_distribution(correlated, data):
    square, log_determinant = np.transpose([dense(correlated, data[2], site, 4.0) for site in (0, 1)])
    density = -0.5 * (square + log_determinant + np.asarray(correlated.mask).sum(axis=1) * np.log(2 * np.pi)).sum()
    result = correlated.log_normalisation - cost(correlated, data[2])
    np.testing.assert_allclose(result, 0.3 * density, rtol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_masked_value_changes_neither_cost_nor_gradient(correlated, data, bad):
    modelled = data[2]
    spoilt = jnp.where(correlated.mask, modelled, bad)
    value, gradient = jax.value_and_grad(cost, argnums=1)(correlated, spoilt)
    reference, expected = jax.value_and_grad(cost, argnums=1)(correlated, modelled)
    assert value == reference
    np.testing.assert_array_equal(gradient, expected)
    assert (np.asarray(gradient)[~np.asarray(correlated.mask)] == 0).all()
    tangent = jax.jvp(lambda h: cost(correlated, h), (spoilt,), (jnp.ones_like(spoilt),))[1]
    np.testing.assert_allclose(tangent, expected.sum())


@pytest.mark.parametrize("kind", ["log", "monthly"])
def test_a_nan_of_the_model_stops_at_the_mask_behind_an_operator_too(data, kind):
    values, _, modelled = data
    mask = ~np.isnan(values)
    operator = Log(Pick("nee"), 0.1) if kind == "log" else WindowMean("nee", monthly_windows(TIME, mask))
    stream = Stream(*operator.observed(np.abs(values), 0.5), operator)

    def through(series):
        return cost(stream, operator(Run(Output(series))))

    gradient = jax.grad(through)(jnp.where(mask, modelled, jnp.nan))
    np.testing.assert_array_equal(gradient, jax.grad(through)(modelled) * mask)


def test_fill_values_nan_and_mask_are_the_same_thing(data):
    values, sigma, modelled = data
    missing = np.isnan(values)
    reference = Stream(values, sigma)
    for stream in (Stream(np.where(missing, -9999.0, values), np.where(missing, -9999.0, sigma), fill=[1e20, -9999.0]),
                   Stream(np.where(missing, 5.0, values), np.where(missing, np.nan, sigma), mask=~missing)):
        np.testing.assert_array_equal(stream.residuals(modelled), reference.residuals(modelled))
        assert (np.asarray(stream.values)[missing] == 0).all()
        # Where nothing was observed, what would be: bands of new observations need an error there.
        assert (np.asarray(stream.sigma)[missing] == np.median(sigma[~missing])).all()


def test_one_dimension_is_one_site(data):
    values, sigma, modelled = data
    stream = Stream(values[0], 0.5)
    assert stream.values.shape == (1, N)
    np.testing.assert_array_equal(stream.residuals(modelled[0]), stream.residuals(modelled[:1]))


def test_split_gives_complementary_halves(correlated, data):
    calibrated, held_out = correlated.split(np.arange(N) % 3 > 0)
    np.testing.assert_array_equal(calibrated.mask ^ held_out.mask, correlated.mask)
    np.testing.assert_array_equal(calibrated.values, correlated.values)
    for half in (calibrated, held_out):
        square = sum(dense(half, data[2], site, 4.0)[0] for site in (0, 1))
        np.testing.assert_allclose(jnp.sum(half.whitened(data[2]) ** 2), square, rtol=1e-10)
    everything, nothing = correlated.split(True)
    assert int(everything.count) == int(correlated.count) and float(cost(nothing, data[2])) == 0
    assert np.isnan(nothing.chi_square(data[2]))


def test_estimated_model_error_makes_chi_square_one(data):
    values, sigma, modelled = data
    values = np.stack([values[0], np.asarray(modelled[1]) + 0.1 * sigma[1]])
    stream = Stream(values, sigma, model_error=9.0)
    estimate = stream.estimate_model_error(modelled)
    assert estimate.shape == (2,) and estimate[0] > 1 and estimate[1] == 0
    scores = stream.with_model_error(estimate).scores(modelled)
    np.testing.assert_allclose(scores["chi_square"], [1.0, 0.01], rtol=1e-12)
    failed = stream.estimate_model_error(modelled.at[0, 1].set(jnp.nan))
    assert np.isnan(failed[0]) and failed[1] == 0, "a failed run must not pass for a perfect one"


def test_derivatives_with_respect_to_the_error_model_are_exact(correlated, data):
    def log_density(model_error, days):
        stream = Stream(data[0], data[1], time=TIME, correlation=ExponentialCorrelation(4.0))
        stream = eqx.tree_at(lambda tree: tree.correlation.days, stream.with_model_error(model_error), days)
        return stream.log_normalisation - cost(stream, data[2])

    point, step = (0.6, 4.0), 1e-5
    gradient = jax.grad(log_density, argnums=(0, 1))(*point)
    for i in (0, 1):
        up, down = ([x + sign * step * (j == i) for j, x in enumerate(point)] for sign in (1, -1))
        np.testing.assert_allclose(gradient[i], (log_density(*up) - log_density(*down)) / (2 * step), rtol=1e-7)


def test_other_numbers_do_not_compile_again(correlated, data):
    values, sigma, modelled = data
    compiled = jax.jit(cost)
    other = Stream(np.flip(values, axis=1), 0.9, Pick("nee"), model_error=2.0, time=TIME, units="gC m-2 d-1",
                   correlation=ExponentialCorrelation(40.0), description="nee of the tower")
    half = correlated.split(np.arange(N) < 30)[0]
    for stream in (correlated, other, half, half.with_model_error(3), half.with_values(values)):
        np.testing.assert_allclose(compiled(stream, modelled), cost(stream, modelled), rtol=1e-12)
    assert compiled._cache_size() == 1
    batch = jax.vmap(cost, in_axes=(None, 0))(correlated, jnp.stack([modelled, modelled + 1]))
    np.testing.assert_allclose(batch[0], cost(correlated, modelled))


def test_scores_have_their_closed_form(data):
    values, sigma, modelled = data
    values = np.stack([values[0], np.full(N, np.nan)])
    values[1, 4] = 1.0
    scores = Stream(values, sigma).scores(modelled)
    seen = ~np.isnan(values[0])
    y, h = values[0, seen], np.asarray(modelled)[0, seen]
    r = np.corrcoef(y, h)[0, 1]
    kge = 1 - np.sqrt((r - 1) ** 2 + (h.std() / y.std() - 1) ** 2 + (h.mean() / y.mean() - 1) ** 2)
    chi_square = np.mean((y - h) ** 2 / sigma[0, seen] ** 2)
    expected = [np.sqrt(np.mean((y - h) ** 2)), h.mean() - y.mean(), r, kge, chi_square, seen.sum()]
    np.testing.assert_allclose([scores[metric][0] for metric in METRICS], expected, rtol=1e-12)
    assert scores["n"][1] == 1 and all(np.isnan(scores[metric][1]) for metric in METRICS[:-1])
    perfect = Stream(values, sigma).scores(np.nan_to_num(values))
    assert perfect["kge"][0] == pytest.approx(1.0)


def dataset(site, start, days, seed=0):
    generator = np.random.default_rng(seed)
    time = np.datetime64(start) + np.arange(days) * np.timedelta64(1, "D")
    nee, heat = generator.normal(size=(2, days))
    nee[::4] = np.nan
    variables = {"nee": nee, "nee_uncertainty": np.full(days, 0.3), "latent_heat": heat,
                 "latent_heat_uncertainty": np.full(days, 5.0)}
    units = {"nee": "gC m-2 d-1", "latent_heat": "W m-2"}
    return xr.Dataset({name: ("time", values, {"units": units[name.removesuffix("_uncertainty")]})
                       for name, values in variables.items()}, {"time": time, "site": site})


@pytest.fixture(scope="module")
def two_sites():
    return [dataset("DK-Sor", "2003-12-20", 400), dataset("FI-Hyy", "2004-02-10", 90, seed=1)]


def test_sites_of_different_length_are_padded_and_masked(two_sites):
    observations = Observations.from_dataset(two_sites, ["nee", "latent_heat"])
    assert observations.names == ("nee", "latent_heat") and observations.sites == ("DK-Sor", "FI-Hyy")
    nee = observations["nee"]
    assert nee.values.shape == (2, 400) and nee.mask.sum(axis=1).tolist() == [300, 67]
    np.testing.assert_array_equal(nee.values[1, :90], np.nan_to_num(two_sites[1].nee.values))
    assert np.isnat(nee.time[1, 90:]).all() and nee.units == "gC m-2 d-1" and observations.notes == ()


def test_observations_are_put_on_the_steps_of_the_model(two_sites):
    axis = np.datetime64("2004-01-01") + np.arange(60) * np.timedelta64(1, "D")
    observations = Observations.from_dataset(two_sites, ["nee"], time=axis)
    nee = observations["nee"]
    for row, ds in enumerate(two_sites):
        expected = ds.nee.reindex(time=axis).values
        np.testing.assert_array_equal(np.where(nee.mask[row], nee.values[row], np.nan), expected)
    assert observations.notes[0] == "255 of 300 values of nee at DK-Sor are outside the steps of the model"


def test_monthly_means_of_a_dataset_are_those_of_pandas(two_sites):
    spec = StreamSpec("nee", operator=lambda time, seen: WindowMean("nee", monthly_windows(time, seen)))
    stream = Observations.from_dataset(two_sites, {"monthly nee": spec})["monthly nee"]
    for row, ds in enumerate(two_sites):
        expected = pd.Series(ds.nee.values, ds.time.values).resample("MS").mean()
        np.testing.assert_allclose(stream.values[row, :expected.size], expected, rtol=1e-12)
        np.testing.assert_array_equal(stream.time[row, :expected.size], expected.index.values.astype("datetime64[m]"))
    modelled = stream.operator(Run(Output(jnp.ones((2, 400)))))
    np.testing.assert_allclose(np.asarray(modelled)[np.asarray(stream.mask)], 1.0)


def test_a_site_without_the_variable_is_masked_and_noted(two_sites):
    observations = Observations.from_dataset([two_sites[0], two_sites[1].drop_vars("nee")], ["nee", "latent_heat"])
    assert observations["nee"].mask.sum(axis=1).tolist() == [300, 0]
    assert observations.notes == ("FI-Hyy has no nee",)


def test_observations_split_by_date_function_or_mask(two_sites):
    observations = Observations.from_dataset(two_sites, ["nee", "latent_heat"])
    early, late = observations.split("2004-03-01")
    for name, stream in observations.items():
        np.testing.assert_array_equal(early[name].mask ^ late[name].mask, stream.mask)
        assert early[name].time[np.asarray(early[name].mask)].max() < np.datetime64("2004-03-01")
    by_function = observations.split(lambda time: time < np.datetime64("2004-03-01"))[0]
    by_mask = observations.split({name: np.arange(400) < 50 for name in observations})[1]
    assert by_function["nee"].count == early["nee"].count and not by_mask["nee"].mask[:, :50].any()
    assert late.sites == observations.sites


def test_scores_make_a_dataset(two_sites):
    observations = Observations.from_dataset(two_sites, ["nee", "latent_heat"])
    modelled = {name: np.zeros((2, 400)) for name in observations}
    table = xr.Dataset(observations.scores(modelled))
    assert table.rmse.dims == ("stream", "site") and set(table.data_vars) == set(METRICS)
    expected = np.sqrt(np.nanmean(two_sites[1].nee.values ** 2))
    np.testing.assert_allclose(table.rmse.sel(stream="nee", site="FI-Hyy"), expected)


def test_streams_keep_their_order_and_can_be_replaced(two_sites):
    observations = Observations.from_dataset(two_sites, ["nee", "latent_heat"])
    rebuilt = jax.tree.unflatten(jax.tree.structure(observations), jax.tree.leaves(observations))
    assert list(rebuilt) == ["nee", "latent_heat"] and len(rebuilt) == 2
    changed = observations.with_streams({"nee": observations["nee"].with_model_error(2.0)})
    assert changed["nee"].model_error.constant.tolist() == [2.0, 2.0] and changed.names == observations.names


def test_the_printed_tree_says_what_enters_the_cost(two_sites):
    specs = {"nee": StreamSpec("nee", model_error=1.5, correlation=ExponentialCorrelation(5.0), weight=2.0),
             "latent_heat": StreamSpec("latent_heat")}
    text = str(Observations.from_dataset(two_sites, specs))
    for part in ("2 streams, 2 sites, 857 observed values", "├─ nee [gC m-2 d-1]  nee", "DK-Sor 300, FI-Hyy 67",
                 "2003-12-21 to 2005-01-22", "median sigma 0.3, model error 1.5", "exponential, 5 days",
                 f"weight       2, share of J {2 * 367 / (2 * 367 + 490):.1%}", "correlation  none", "└─ latent_heat"):
        assert part in text, part


def test_units_are_compared_with_those_of_the_model(two_sites):
    observations = Observations.from_dataset(two_sites, ["nee"])
    observations.check_units({"nee": "gC m-2 d-1", "gpp": "W m-2"})
    observations.check_units({})
    Stream([1.0], 1.0, WindowSum("nee", [[0]]), units="gC m-2").check_units({"nee": "gC m-2 d-1"})
    with pytest.raises(ValueError, match="Expected: observations in the units of the model's nee, umol m-2 s-1"):
        observations.check_units({"nee": "umol m-2 s-1"})


GOOD = Stream([1.0, 2.0], 1.0, Pick("nee"))


@pytest.mark.parametrize(("mistake", "message"), [
    (lambda ds: Stream(np.ones((2, 3)), np.ones((3, 2))), r"`sigma` .* \(2, 3\)"),
    (lambda ds: Stream([1.0, 2.0, 3.0], [1.0, -1.0, 0.0], description="lai", time=TIME[:3]),
     r"sigma above zero at every observed place of lai\nGot:      2 without, first at site 0, value 1 \(2004-01-21"),
    (lambda ds: Stream([1.0, 2.0], [1.0, np.nan]), "1 without, first at site 0, value 1"),
    (lambda ds: Stream([1.0, np.inf], 1.0), "finite values"),
    (lambda ds: Stream([np.nan, np.nan], 1.0), "some of them observed"),
    (lambda ds: Stream(np.ones((1, 1, 2)), 1.0), "some of them observed"),
    (lambda ds: Stream([1.0, 2.0], 1.0, time=TIME[[1, 0]]), "a time after that of the one before"),
    (lambda ds: Stream([1.0, 2.0], 1.0, time=TIME[[1, 1]]), "a time after that of the one before"),
    (lambda ds: Stream([1.0, 2.0], 1.0, time=[TIME[0], np.datetime64("NaT")]), "a time at every observed place"),
    (lambda ds: Stream([1.0, 2.0], 1.0, time=[0.0, 1.0]), "times as datetime64"),
    (lambda ds: Stream([1.0], 1.0, correlation=ExponentialCorrelation(3.0)), "pass time="),
    (lambda ds: ExponentialCorrelation(0.0), "above zero"),
    (lambda ds: Stream([1.0], 1.0, model_error=-1.0), "`model_error`"),
    (lambda ds: Stream([1.0], 1.0, weight=[1.0, 2.0]), "`weight`"),
    (lambda ds: GOOD.residuals(jnp.ones((1, 3))), r"shape \(1, 2\) .*\nGot:      \(1, 3\) from nee"),
    (lambda ds: GOOD.split(np.ones(3, bool)), "`keep`"),
    (lambda ds: Observations({}), "at least one stream"),
    (lambda ds: Observations({"a": GOOD, "b": Stream(np.ones((2, 2)), 1.0)}), "same sites"),
    (lambda ds: Observations({"a": GOOD}).split("2004-01-01"), "times in the stream 'a'"),
    (lambda ds: Observations({"a": GOOD})["nee"], "one of the streams a"),
    (lambda ds: Observations.from_dataset(ds, ["gpp"]), "'gpp', in the same units"),
    (lambda ds: Observations.from_dataset(ds.drop_vars("nee_uncertainty"), ["nee"]), "'nee_uncertainty' in the data"),
    (lambda ds: Observations.from_dataset([ds, ds.assign(nee=ds.nee.assign_attrs(units="umol m-2 s-1")).assign_coords(
        site="CH-Dav")], ["nee"]), "'CH-Dav': 'umol m-2 s-1'"),
    (lambda ds: Observations.from_dataset([ds, ds], ["nee"]), "one Dataset a site"),
    (lambda ds: Observations.from_dataset(ds, ["nee"], time=ds.time.values + np.timedelta64(12, "h")),
     "Got:      none from"),
    (lambda ds: Observations.from_dataset(ds.isel(time=slice(None, None, -1)), ["nee"], time=ds.time.values),
     "strictly increasing"),
    (lambda ds: Observations.from_dataset(ds, {"nee": StreamSpec("nee", operator=lambda time, seen: WindowMean(
        "nee", monthly_windows(time)))}), "missing values inside windows"),
])
def test_mistakes_are_explained(two_sites, mistake, message):
    with pytest.raises((ValueError, KeyError)) as caught:
        mistake(two_sites[0])
    text = caught.value.args[0]
    assert pd.Series([text]).str.contains(message).all(), text
    assert text.startswith("Expected: ") and "\nGot: " in text and "\nTry: " in text
