"""Estimation of R: closed forms in linear problems, dense likelihoods, fixed points, and what short streams lean on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from error_example import SIGMA, columns_of, days, linear, one_stream, solved

from landcal_jax.calibration import calibrate
from landcal_jax.error_estimation import blocks_of_years, estimate_errors
from landcal_jax.error_fitting import ErrorVector, Terms, counting, log_marginal, log_score, most_likely, prepared, tangents
from landcal_jax.error_model import ModelError
from landcal_jax.error_moments import lagged
from landcal_jax.experiment import Experiment
from landcal_jax.gradient import LevenbergMarquardt, Optax
from landcal_jax.observations import Observations, Stream
from landcal_jax.solving import solve
from landcal_jax.testing import draw_errors


def ordinary(problem):
    """Residuals of ordinary least squares, and how many values there are."""
    stream = problem.observations["flux"]
    mask = np.asarray(stream.mask)[0]
    G = np.asarray(jax.jacobian(lambda z: problem.predict(z)["flux"][0])(jnp.zeros(problem.space.size)))[mask]
    y = np.asarray(stream.values)[0][mask]
    return y - G @ np.linalg.lstsq(G, y, rcond=None)[0], mask.sum()


# ------------------------------------------------------------------------------------------------------- the marginal likelihood

def test_parameters_that_fit_noise_do_not_make_it_look_small():
    """Restricted maximum likelihood: the sum of squares over n - p, exactly, where the prior of theta says nothing."""
    problem = one_stream(40, 12, ModelError(1.0), 3)
    estimate = estimate_errors(problem, solved(problem), parts={"flux": ["constant"]}, prior_weight=0.0)
    residuals, n = ordinary(problem)
    variance = float(estimate.problem.observations["flux"].model_error.constant[0]) ** 2 + SIGMA**2
    assert variance == pytest.approx(np.sum(residuals**2) / (n - 12), rel=1e-3)
    assert estimate.converged
    # The variance of a logarithm of a variance from k values is 2 / k.
    relative = float(estimate.table["constant_standard_error"][-1, 0, 0]) / np.sqrt(variance - SIGMA**2)
    assert relative == pytest.approx(1 / np.sqrt(2 * (n - 12)), rel=0.1)


@pytest.mark.parametrize("method", ["marginal", "residuals"])
def test_the_variance_is_unbiased_over_seeds(method):
    found = []
    for seed in range(30):
        problem = one_stream(30, 10, ModelError(1.0), seed)
        estimate = estimate_errors(problem, solved(problem), method=method, parts={"flux": ["constant"]}, prior_weight=0.0)
        found.append(float(estimate.problem.observations["flux"].model_error.constant[0]) ** 2 + SIGMA**2)
    # Of 20 degrees of freedom each: relative standard error sqrt(2 / 20 / 30) = 6 %; dividing by n would give 0.67.
    assert np.mean(found) == pytest.approx(1.0 + SIGMA**2, abs=0.17)


def dense_problem():
    error = ModelError([0.8, 0.5], proportional=[0.1, 0.0], seasonal=[[0.3, -0.2], [0.0, 0.4]], correlation_days=[4.0, 9.0],
                       level=np.abs(columns_of(2, 50)))
    rng = np.random.default_rng(4)
    stream = Stream(rng.standard_normal((2, 50)), 0.3, time=days(50), mask=rng.random((2, 50)) > 0.3, model_error=error)
    other = Stream(rng.standard_normal((2, 20)), 0.5, model_error=0.2)
    observations = Observations({"flux": stream, "other": other})
    departures = {name: jnp.where(each.mask, each.values, 0.0) for name, each in observations.items()}
    columns = {name: jnp.where(each.mask, rng.standard_normal((3, *each.values.shape)), 0.0) for name, each in observations.items()}
    return observations, departures, columns


def dense_covariance(stream):
    """R of all observed values of a stream, sites one after the other."""
    blocks = []
    for site, mask in enumerate(np.asarray(stream.mask)):
        s, sigma = (np.asarray(array)[site][mask] for array in (stream.model_error_deviation, stream.sigma))
        C = np.eye(mask.sum())
        if stream.model_error.days is not None:
            time = np.asarray(stream.minutes)[site][mask] / 1440.0
            C = np.exp(-np.abs(time[:, None] - time) / float(stream.model_error.days[site]))
        blocks.append(np.diag(sigma**2) + s[:, None] * C * s)
    return blocks


def block_diagonal(blocks):
    whole = np.zeros((sum(map(len, blocks)),) * 2)
    start = 0
    for block in blocks:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return whole


def test_the_density_equals_the_dense_one_with_gaps_memory_season_and_share():
    observations, departures, columns = dense_problem()
    R = block_diagonal([block for _, stream in observations.items() for block in dense_covariance(stream)])
    masks = {name: np.asarray(stream.mask) for name, stream in observations.items()}
    d = np.concatenate([np.asarray(departures[name])[mask] for name, mask in masks.items()])
    F = np.concatenate([np.asarray(columns[name])[:, mask] for name, mask in masks.items()], axis=1)
    whole = R + F.T @ F
    wanted = -0.5 * (np.linalg.slogdet(whole)[1] + d @ np.linalg.solve(whole, d))
    assert float(log_marginal(Terms(observations, departures, columns, {}))) == pytest.approx(wanted, rel=1e-11)


def test_the_score_is_that_of_single_days():
    observations, departures, columns = dense_problem()
    wanted = 0.0
    for name, stream in observations.items():
        for site, mask in enumerate(np.asarray(stream.mask)):
            variance = (np.asarray(stream.standard_deviation) ** 2 + np.sum(np.asarray(columns[name]) ** 2, axis=0))[site][mask]
            each = -0.5 * (np.log(variance) + np.asarray(departures[name])[site][mask] ** 2 / variance)
            R = dense_covariance(stream)[site]
            sd = np.sqrt(np.diag(R))
            wanted += each.mean() * len(sd) ** 2 / np.sum((R / np.outer(sd, sd)) ** 2)
    assert float(log_score(Terms(observations, departures, columns, counting(observations)))) == pytest.approx(wanted, rel=1e-11)


@pytest.mark.parametrize("density", [log_marginal, log_score])
def test_the_density_and_its_gradient_agree(density):
    """By finite differences, with memory: how much a day counts does not change along the way."""
    observations, departures, columns = dense_problem()
    vector = ErrorVector.of(observations, {"flux": ("constant", "seasonal", "days")})
    start, days = jnp.asarray(vector.start(observations)), counting(observations)

    def value(values):
        return density(Terms(vector.observations(observations, values), departures, columns, days))

    gradient = np.asarray(jax.grad(value)(start))
    steps = 1e-5 * np.eye(start.size)
    differences = [(float(value(start + step)) - float(value(start - step))) / 2e-5 for step in steps]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6 * np.abs(gradient).max())


def test_a_search_that_ends_short_of_its_maximum_says_so():
    """A density whose gradient is wrong stops the search where it starts; one that is right ends with nothing to say."""
    observations, departures, columns = dense_problem()
    vector = ErrorVector.of(observations, {"flux": ("constant", "days")})
    terms = [Terms(observations, departures, columns, counting(observations))]
    start = vector.start(observations)

    def wrong(terms):
        right = log_marginal(terms)
        return 2.0 * jax.lax.stop_gradient(right) - right

    assert most_likely(vector, start, terms, 1.0).unfinished == ""
    assert "ended after 0 steps" in most_likely(vector, start, terms, 1.0, density=wrong).unfinished


def test_errors_under_a_theta_that_never_reached_its_minimum_have_not_converged():
    problem = one_stream(200, 2, ModelError(0.5), seed=0)
    assert estimate_errors(problem, solved(problem), parts={"flux": ("constant",)}).converged
    stuck = estimate_errors(problem, problem.space.default_z + 2.0, parts={"flux": ("constant",)},
                            solver=Optax(optax.sgd(1e-12), default_max_steps=2, steps_per_call=1))
    assert not stuck.converged and "has not reached its minimum" in stuck.sentences[-1]


def test_an_estimate_whose_search_ends_short_has_not_converged(monkeypatch):
    monkeypatch.setattr("landcal_jax.error_fitting.FINISHED", -1.0)
    problem = one_stream(40, 2, ModelError(1.0), 3)
    estimate = estimate_errors(problem, solved(problem), parts={"flux": ["constant"]})
    assert not estimate.converged and "are no maximum: the search ended after" in estimate.sentences[0]


def test_tangents_come_in_batches_and_those_of_too_many_parameters_are_refused(monkeypatch):
    problem = one_stream(12, 70, ModelError(1.0), 3)
    run, columns = tangents(problem, jnp.zeros(70))
    np.testing.assert_allclose(columns["flux"][:, 0], np.asarray(jax.jacobian(lambda z: problem.predict(z)["flux"][0])(jnp.zeros(70))).T)
    np.testing.assert_array_equal(run["flux"], problem.predict(jnp.zeros(70))["flux"])
    monkeypatch.setattr("landcal_jax.error_fitting.LARGEST", 5000.0)
    with pytest.raises(ValueError, match='(?s)70 parameters: .*method="desroziers"'):
        tangents(problem, jnp.zeros(70))


@pytest.mark.parametrize("method", ["marginal", "desroziers"])
def test_a_known_memory_is_found(method):
    """Memory of four days under measurement noise, 40 % gaps: right on average, and within its standard error where there is one."""
    logs, pulls = [], []
    for seed in range(8):
        problem = one_stream(500, 3, ModelError(1.0, correlation_days=4.0), seed, gaps=0.4, prior=1.0)
        estimate = estimate_errors(problem, solved(problem), method=method, parts={"flux": ["constant", "days"]})
        table = estimate.table.isel(round=-1, stream=0, site=0)
        logs.append(np.log(float(table["days"]) / 4.0))
        pulls.append(logs[-1] / float(table["days_standard_error"] / table["days"]))
        assert float(table["constant"]) == pytest.approx(1.0, rel=0.35)
    assert abs(np.mean(logs)) < 0.15
    if method == "marginal":
        assert 0.4 < np.sqrt(np.mean(np.square(pulls))) < 1.7


def test_share_and_season_are_found():
    A = columns_of(1500, 3)
    level = 3.0 * np.abs(np.sin(np.arange(1500) / 60.0))
    A = np.concatenate([A, level[:, None]], axis=1)
    error = ModelError(0.4, proportional=0.3, seasonal=(0.5, -0.3), level=np.abs(A @ np.array([0.0, 0.0, 0.0, 1.0])))
    stream = Stream(np.zeros(1500), SIGMA, time=days(1500), model_error=error)
    made = np.asarray(draw_errors(stream, jax.random.key(2))) + (A @ np.array([0.0, 0.0, 0.0, 1.0]))
    problem = linear({"flux": (A, stream.with_values(made).with_model_error(0.3))}, 4)
    estimate = estimate_errors(problem, solved(problem), parts={"flux": ["constant", "proportional", "seasonal"]})
    table = estimate.table.isel(round=-1, stream=0, site=0)
    for name, truth in {"constant": 0.4, "proportional": 0.3, "cosine": 0.5, "sine": -0.3}.items():
        assert float(table[name]) == pytest.approx(truth, abs=3.5 * float(table[f"{name}_standard_error"]))
    assert estimate.converged


# ------------------------------------------------------------------------------------------------------------------ by products

def test_the_loop_over_residuals_ends_at_its_fixed_point():
    """s^2 = e'e / (n - trace of the hat matrix) - sigma^2 at the MAP under s, solved apart from the package by halving."""
    problem = one_stream(60, 8, ModelError(1.0), 5, prior=0.5)
    estimate = estimate_errors(problem, solved(problem), method="residuals", parts={"flux": ["constant"]})
    assert estimate.converged and float(estimate.table["moved"][-1]) < 1e-5
    stream = problem.observations["flux"]
    G = np.asarray(jax.jacobian(lambda z: problem.predict(z)["flux"][0])(jnp.zeros(8)))
    y = np.asarray(stream.values)[0]

    def excess(s):
        variance = s**2 + SIGMA**2
        P = np.linalg.inv(np.eye(8) + G.T @ G / variance)
        e = y - G @ (P @ G.T @ y / variance)
        return e @ e / (len(y) - np.trace(G @ P @ G.T) / variance) - SIGMA**2 - s**2

    low, high = 0.3, 3.0
    assert excess(low) > 0 > excess(high)
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    assert float(estimate.problem.observations["flux"].model_error.constant[0]) == pytest.approx(low, rel=1e-5)


def test_desroziers_ends_where_its_products_are_the_errors():
    problem = one_stream(400, 5, ModelError(1.0), 6, prior=1.0)
    estimate = estimate_errors(problem, solved(problem), method="desroziers", parts={"flux": ["constant"]})
    stream = estimate.problem.observations["flux"]
    before, after = (np.asarray(stream.values - estimate.problem.predict(z)["flux"]) for z in (jnp.zeros(5), estimate.result.z))
    assert float(stream.model_error.constant[0]) ** 2 + SIGMA**2 == pytest.approx(np.mean(before * after), rel=0.01)
    assert float(stream.model_error.constant[0]) == pytest.approx(1.0, rel=0.12)
    assert estimate.table["variance_by_season"].dims == ("round", "stream", "site", "season")
    # What the seasons have, taken together, is the variance.
    season = (stream.time[0].astype("datetime64[M]").astype(int) % 12 + 1) % 12 // 3
    last = estimate.table.isel(round=-1, stream=0, site=0)
    assert np.average(last["variance_by_season"], weights=np.bincount(season)) == pytest.approx(float(last["variance"]))


def test_lagged_products_are_those_of_all_pairs():
    mask = np.random.default_rng(1).random(80) > 0.4
    stream = Stream(np.zeros(80), 1.0, time=days(80), mask=mask)
    left, right = columns_of(2, 80)[:, None]
    lags, products, pairs = lagged(stream, 0, left, right)
    np.testing.assert_array_equal(lags, np.arange(1, 31))
    for lag in (1, 7, 30):
        each = [left[0, i] * right[0, i + lag] + left[0, i + lag] * right[0, i] for i in range(80 - lag) if mask[i] and mask[i + lag]]
        assert products[lag - 1] == pytest.approx(np.mean(each) / 2)
        assert pairs[lag - 1] == len(each)


@pytest.mark.parametrize("method", ["desroziers", "residuals"])
@pytest.mark.parametrize(("hours", "least", "most"), [(0.0, 1400, 1920), (3.0, 120, 220)])
def test_the_memory_of_half_hours_is_looked_for_in_half_hours(method, hours, least, most):
    """1920 half-hours, white or with a memory of three hours, which are worth 162 independent ones."""
    n = 48 * 40
    time = np.datetime64("2001-01-01T00:00") + np.arange(n) * np.timedelta64(30, "m")
    A = columns_of(n, 1)
    stream = Stream(np.zeros(n), SIGMA, time=time, model_error=ModelError(1.0, correlation_days=hours / 24 if hours else None))
    made = np.asarray(draw_errors(stream, jax.random.key(3))) + A[:, 0]
    problem = linear({"flux": (A, stream.with_values(made).with_model_error(0.5))}, 1, prior=3.0)
    estimate = estimate_errors(problem, solved(problem), method=method, parts={"flux": ["constant", "days"]})
    table = estimate.table.isel(round=-1, stream=0, site=0)
    assert least < float(table["effective_number"]) <= most
    assert float(table["days"]) == pytest.approx(hours / 24, rel=0.25) if hours else float(table["days"]) < 0.02


def test_what_two_streams_share_is_reported():
    A, rng = columns_of(300, 2), np.random.default_rng(3)
    shared, y = rng.standard_normal(300), {}
    for name in ("one", "other"):
        y[name] = A @ np.ones(2) + 0.8 * shared + 0.6 * rng.standard_normal(300)
    streams = {name: (A, Stream(values, SIGMA, time=days(300))) for name, values in y.items()}
    problem = linear(streams, 2)
    table = estimate_errors(problem, solved(problem), method="residuals").table
    assert float(table["correlation"].sel(stream="one", other="other")[-1]) == pytest.approx(0.64, abs=0.1)
    np.testing.assert_allclose(np.diag(table["correlation"][-1]), 1.0)


# --------------------------------------------------------------------------------------------------------------- years left out

def shifting(shift):
    """Six years of a flux whose level shifts from year to year by more than the two parameters can know."""
    number = 6 * 365
    rng, time = np.random.default_rng(0), days(number)
    year = time.astype("datetime64[Y]").astype(int) - 31
    A = np.stack([np.ones(number), np.sin(2 * np.pi * np.arange(number) / 365.25)], axis=1)
    values = A @ np.ones(2) + shift * np.array([1.0, -1.0, 1.0, -1.0, 1.0, -1.0])[np.minimum(year, 5)] + rng.standard_normal(number)
    keep = rng.random(number) < 0.2
    return linear({"flux": (A, Stream(values, SIGMA, time=time, mask=keep, model_error=1.0))}, 2)


def test_years_left_out_give_the_same_errors_where_the_model_is_right():
    problem = shifting(0.0)
    start = solved(problem)
    found = {method: float(estimate_errors(problem, start, method=method, parts={"flux": ["constant"]}).table["constant"][-1, 0, 0])
             for method in ("marginal", "cross-validation")}
    assert found["cross-validation"] == pytest.approx(found["marginal"], rel=0.03)
    assert found["marginal"] == pytest.approx(1.0, rel=0.1)


def test_years_left_out_find_what_a_fit_hides():
    """A parameter that only one year sees is fitted to that year, and of no use in another: its error shows when the year is left out."""
    problem = shifting(0.0)
    stream = problem.observations["flux"]
    year = stream.time[0].astype("datetime64[Y]").astype(int) - 31
    A = np.stack([np.ones(year.size), *(np.asarray(year == each, float) for each in range(1, 6))], axis=1)
    values = stream.values + 2.0 * jnp.asarray(np.array([0.0, 1.0, -1.0, 1.0, -1.0, 1.0])[np.minimum(year, 5)])
    free = linear({"flux": (A, Stream(values, SIGMA, time=stream.time, mask=stream.mask, model_error=1.0))}, 6, prior=0.3)
    tight = {method: float(estimate_errors(free, solved(free), method=method, parts={"flux": ["constant"]}, block_years=years).table[
        "constant"][-1, 0, 0]) for method, years in (("marginal", None), ("cross-validation", 1))}
    assert tight["cross-validation"] > 1.3 * tight["marginal"]


def test_years_left_out_say_how_far_bands_hold_in_other_years():
    """Two of six years have errors three times as large: chi-square there is nine times that of the others, and one over all days."""
    problem = shifting(0.0)
    stream = problem.observations["flux"]
    year = stream.time[0].astype("datetime64[Y]")
    last = jnp.asarray(year >= np.unique(year)[-2])
    noise = np.random.default_rng(5).standard_normal(stream.values.shape)
    louder = problem.with_observations(problem.observations.with_streams({
        "flux": stream.with_values(problem.predict(problem.space.default_z)["flux"] + jnp.where(last, 3.0, 1.0) * noise)}))
    estimate = estimate_errors(louder, solved(louder), method="cross-validation", parts={"flux": ["constant"]})
    table = estimate.table.isel(round=-1, stream=0)
    chi_square = table["chi_square_left_out"].values
    counts = [int(jnp.sum(stream.mask[0] & jnp.asarray(np.isin(year, pair)))) for pair in np.split(np.unique(year)[:6], 3)]
    assert table["first_year_left_out"].values.tolist() == [2001, 2003, 2005]
    assert chi_square[2] / chi_square[:2].mean() == pytest.approx(9.0, rel=0.1)
    assert np.average(chi_square, weights=counts) == pytest.approx(1.0, abs=0.02)
    assert table["inside_left_out"].values[2] < 0.8 and table["inside_left_out"].values[0] > 0.98
    said = [sentence for sentence in estimate.sentences if "in years that were left out" in sentence]
    assert len(said) == 1 and f"{chi_square.max():.2f}" in said[0]


@pytest.mark.parametrize(("years", "lengths"), [(2, [1, 1]), (3, [1, 1, 1]), (6, [2, 2, 2]), (7, [3, 2, 2]), (15, [3] * 5)])
def test_blocks_are_a_third_of_the_years_three_at_most(years, lengths):
    stream = Stream(np.zeros(365 * years), 1.0, time=days(365 * years))
    assert [len(block) for block in blocks_of_years(Observations({"flux": stream}))] == lengths


def test_one_year_cannot_be_left_out():
    problem = one_stream(100, 2, ModelError(1.0), 0)
    with pytest.raises(ValueError, match="two blocks of years or more"):
        estimate_errors(problem, solved(problem), method="cross-validation")


def remembering_season():
    """Six years of errors of ten days' memory whose size has a season of exp(0.7 cos)."""
    number = 6 * 365
    A = np.stack([np.ones(number), np.sin(2 * np.pi * np.arange(number) / 365.25)], axis=1)
    stream = Stream(np.zeros(number), 0.5, time=days(number), model_error=ModelError(1.0, seasonal=(0.7, 0.0), correlation_days=10.0))
    made = np.asarray(draw_errors(stream, jax.random.key(1))) + A @ np.ones(2)
    return linear({"flux": (A, stream.with_values(made).with_model_error(0.5))}, 2, prior=3.0)


def test_years_left_out_find_a_planted_season_with_memory():
    problem = remembering_season()
    start, plain = solved(problem), ("constant", "seasonal")
    found = {parts: estimate_errors(problem, start, method="cross-validation", parts={"flux": parts})
             for parts in (plain, (*plain, "days"))}
    table = found[*plain, "days"].table.isel(round=-1, stream=0, site=0)
    for name, truth in {"constant": 1.0, "cosine": 0.7, "sine": 0.0}.items():
        assert float(table[name]) == pytest.approx(truth, abs=min(0.25, 3.0 * float(table[f"{name}_standard_error"])))
    assert float(table["days"]) == pytest.approx(10.0, rel=0.25)
    assert all(estimate.converged for estimate in found.values())
    # The memory helps the fit of the other years, and no longer spoils the season.
    scores = [float(estimate.table["score_left_out"][-1, 0]) for estimate in found.values()]
    assert scores[1] > scores[0]


# ------------------------------------------------------------------------------------------------------------- masks and other observations

def test_a_masked_value_changes_nothing():
    whole = one_stream(200, 3, ModelError(1.0, correlation_days=3.0), 4, gaps=0.3)
    stream = whole.observations["flux"]
    spoilt = whole.with_observations(whole.observations.with_streams({
        "flux": stream.with_model_error(0.3).with_values(jnp.where(stream.mask, stream.values, 1e6))}))
    tables = [estimate_errors(problem, solved(whole), parts={"flux": ["constant", "days"]}).table for problem in (whole, spoilt)]
    np.testing.assert_array_equal(tables[0]["constant"], tables[1]["constant"])
    np.testing.assert_array_equal(tables[0]["days"], tables[1]["days"])


def test_the_errors_go_to_other_observations():
    problem = one_stream(200, 3, ModelError(1.0), 4)
    calibrated, held_out = problem.observations.split(np.datetime64("2001-05-01"))
    problem = problem.with_observations(calibrated)
    estimate = estimate_errors(problem, solved(problem), parts={"flux": ["constant", "proportional"]})
    applied = estimate.applied(held_out)["flux"]
    own = estimate.problem.observations["flux"]
    np.testing.assert_array_equal(applied.model_error_deviation, own.model_error_deviation)
    assert not np.any(applied.mask & own.mask)
    assert estimate.applied(held_out).notes == held_out.notes
    # The level of the share is the run: what was observed does not widen its own band.
    level = prepared(problem.observations, {"flux": ("proportional",)}, {"flux": jnp.full((1, 200), -2.0)})["flux"].model_error.level
    np.testing.assert_array_equal(level, 2.0)


# ------------------------------------------------------------------------------------------------------------- in a calibration

@pytest.mark.slow
@pytest.mark.parametrize("method", ["marginal", "cross-validation"])
def test_a_calibration_with_these_errors(method, tmp_path):
    whole = shifting(0.0)
    kept, held_out = whole.observations.split(np.datetime64("2005-01-01"))
    experiment = Experiment(whole.with_observations(kept), held_out, estimate_model_error=True)
    done = calibrate(experiment, LevenbergMarquardt(), errors=method, draws=10, progress=False, checkpoint=tmp_path)
    stream, other = done.experiment.problem.observations["flux"], done.experiment.held_out["flux"]
    np.testing.assert_array_equal(stream.model_error_deviation, other.model_error_deviation)
    assert float(stream.mean_model_error[0]) == pytest.approx(1.0, rel=0.1)
    assert any(method in note for note in done.experiment.notes)
    # The posterior is that of the last errors, the work that of all solves.
    assert done.result.cost == pytest.approx(float(done.experiment.problem.cost(done.result.z)), rel=1e-9)
    start = solve(experiment.problem, LevenbergMarquardt(), progress=False)
    assert done.result.counts["jvp"] > start.counts["jvp"]
    again = calibrate(experiment, LevenbergMarquardt(), errors=method, draws=10, progress=False, checkpoint=tmp_path)
    np.testing.assert_array_equal(again.result.z, done.result.z)
    assert (tmp_path / "errors_round_0.npz").exists() == (method == "marginal")


def test_memory_is_kept_only_where_years_left_out_gain_by_it():
    """Independent errors gain nothing; the sentence gives both scores, and the chosen one is the larger."""
    problem = shifting(0.0)
    estimate = estimate_errors(problem, solved(problem), method="cross-validation")
    scores = estimate.table.attrs["score_without_memory"], estimate.table.attrs["score_with_memory"]
    assert (estimate.problem.observations["flux"].model_error.days is not None) == (scores[1] > scores[0])
    assert estimate.sentences[-1].startswith("Years left out are predicted with a mean log score of")
    assert len(estimate.others) == 3 * len(estimate.results)
    assert estimate.results[-1] is estimate.result


def test_a_calibration_refuses_an_unknown_word():
    problem = one_stream(30, 2, ModelError(1.0), 0)
    with pytest.raises(ValueError, match="errors by chi-square, marginal"):
        calibrate(Experiment(problem), LevenbergMarquardt(), errors="guess")
