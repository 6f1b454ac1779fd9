"""R with model errors that remember: against dense matrices; and errors among the parameters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import testing
from landcal_jax.error_model import ExponentialCorrelation, ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, LevenbergMarquardt
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs
from landcal_jax.search import CMAES
from landcal_jax.solving import solve

N = 60
TIME = np.datetime64("2001-03-01") + np.arange(N)
FULL = {"proportional": 0.2, "seasonal": (0.3, -0.2), "correlation_days": 6.0}


def in_proportion(values, constant, options):
    """All parts of an error, about a level that has nothing to do with what was observed."""
    return ModelError(constant, **options).at(1.0 + np.cos(np.arange(values.size)).reshape(values.shape))


def gappy(n=N, sites=2, seed=0):
    rng = np.random.default_rng(seed)
    values = 2.0 * rng.normal(size=(sites, n))
    values[:, n // 5 : n // 3] = np.nan
    values[rng.random(values.shape) < 0.3] = np.nan
    return values, rng.uniform(0.1, 0.6, values.shape), rng.normal(size=values.shape)


def dense(stream, modelled, site, days):
    """Quadratic form, log det R, n 1' R^-1 1 / 1' diag(R)^-1 1 and n^2 / sum of C_ij^2 from the whole matrix."""
    mask = np.asarray(stream.mask)[site]
    t, sigma = np.asarray(stream.minutes)[site, mask] / 1440.0, np.asarray(stream.sigma)[site, mask]
    s = np.asarray(stream.model_error_deviation)[site, mask]
    R = np.diag(sigma**2) + np.outer(s, s) * np.exp(-abs(t[:, None] - t) / days)
    error, sd = (np.asarray(stream.values) - modelled)[site, mask], np.sqrt(np.diag(R))
    of_mean = len(sd) * np.linalg.solve(R, np.ones(len(sd))).sum() / np.sum(sd**-2)
    return error @ np.linalg.solve(R, error), np.linalg.slogdet(R)[1], of_mean, len(sd) ** 2 / np.sum((R / np.outer(sd, sd)) ** 2)


@pytest.mark.parametrize("days", [0.2, 6.0, 400.0])
def test_the_whitening_is_that_of_the_dense_matrix(days):
    values, sigma, modelled = gappy()
    stream = Stream(values, sigma, time=TIME, model_error=in_proportion(values, [0.8, 0.3], FULL | {"correlation_days": days}))
    white = stream.whitened(modelled)
    for site in (0, 1):
        square, log_determinant, of_mean, of_squares = dense(stream, modelled, site, days)
        np.testing.assert_allclose(jnp.sum(white[site] ** 2), square, rtol=1e-11)
        np.testing.assert_allclose(stream.log_determinant[site], log_determinant, rtol=1e-11)
        np.testing.assert_allclose(stream.effective_number[site], of_mean, rtol=1e-11)
        np.testing.assert_allclose(stream.effective_squares[site], of_squares, rtol=1e-11)
    assert (np.asarray(white)[np.isnan(values)] == 0).all()


def test_errors_that_change_in_size_tell_as_much_of_an_offset_as_the_whole_matrix_says():
    """Of 700 days with a season or a share and long memory: 59 and 2030, since the large errors tell what to take off the small ones."""
    time = np.datetime64("2001-01-01") + np.arange(700)
    level = 3.0 * np.abs(np.random.default_rng(0).standard_normal((1, 700)))
    for error, days, wanted in ((ModelError(1.0, seasonal=(2.0, 0.0), correlation_days=200.0), 200.0, 59),
                                (ModelError(0.1, proportional=1.0, correlation_days=300.0).at(level), 300.0, 2030)):
        stream = Stream(np.zeros(700), 0.3, time=time, model_error=error)
        of_mean, of_squares = dense(stream, np.zeros((1, 700)), 0, days)[2:]
        np.testing.assert_allclose([stream.effective_number[0], stream.effective_squares[0]], [of_mean, of_squares], rtol=1e-9)
        assert round(of_mean) == wanted and 1 < of_squares < 700


def test_the_memory_of_the_whole_error_counts_in_both_numbers():
    values, _, _ = gappy()
    stream = Stream(values, 1.3, time=TIME, correlation=ExponentialCorrelation(4.0))
    for site in (0, 1):
        t = np.asarray(stream.minutes)[site, np.asarray(stream.mask)[site]] / 1440.0
        C = np.exp(-abs(t[:, None] - t) / 4.0)
        np.testing.assert_allclose(stream.effective_number[site], np.linalg.solve(C, np.ones(len(t))).sum(), rtol=1e-11)
        np.testing.assert_allclose(stream.effective_squares[site], len(t) ** 2 / np.sum(C**2), rtol=1e-11)
    alone = Stream(values, 1.3, time=TIME)
    np.testing.assert_allclose(alone.effective_squares, alone.mask.sum(axis=1))


@pytest.mark.parametrize("constant", [-1.0, np.nan, np.inf, [0.1, -0.1]])
def test_a_constant_that_is_no_standard_deviation_is_refused(constant):
    stream = Stream(np.zeros((2, 5)), 1.0)
    with pytest.raises(ValueError, match="`model_error` of zero or more"):
        stream.with_model_error(constant)
    # Inside jit there are no numbers to look at.
    assert jax.jit(lambda value: stream.with_model_error(value).standard_deviation)(0.0).shape == (2, 5)


def test_a_record_of_2000_days_equals_the_dense_likelihood_to_1e_10():
    values, sigma, modelled = gappy(2000, 1)
    stream = Stream(values, sigma, time=np.datetime64("2001-01-01") + np.arange(2000), model_error=in_proportion(values, 0.8, FULL))
    square, log_determinant, *_ = dense(stream, modelled, 0, 6.0)
    likelihood = -0.5 * (square + log_determinant + int(stream.count) * np.log(2 * np.pi))
    ours = stream.log_normalisation - 0.5 * jnp.sum(stream.whitened(modelled) ** 2)
    assert abs(float(ours) / likelihood - 1) < 1e-10


def test_the_memory_of_the_whole_error_is_that_of_a_model_error_without_measurement_error():
    values, _, modelled = gappy()
    whole = Stream(values, 1.3, time=TIME, correlation=ExponentialCorrelation(4.0))
    of_model = Stream(values, 1e-9, time=TIME, model_error=ModelError(1.3, correlation_days=4.0))
    np.testing.assert_allclose(whole.whitened(modelled), of_model.whitened(modelled), rtol=1e-7)
    no_model = Stream(values, 1.3, time=TIME, model_error=ModelError(0.0, correlation_days=4.0))
    np.testing.assert_allclose(no_model.whitened(modelled), Stream(values, 1.3).whitened(modelled), rtol=1e-13)


def test_the_error_grows_with_its_level_and_with_the_season():
    error = ModelError(0.5, proportional=0.1, seasonal=(0.4, 0.0)).at([[2.0, -3.0]]).for_sites(1, 2)
    new_year, mid_year = 0.0, 0.5 * 365.25 * 1440
    s = error.deviation(jnp.ones((1, 2), bool), jnp.array([[new_year, mid_year]]))
    np.testing.assert_allclose(s, [[0.7 * np.exp(0.4), 0.8 * np.exp(-0.4)]], rtol=1e-12)
    stream = Stream([[1.0, np.nan]], 0.2, time=TIME[:2]).with_model_error(ModelError(0.5, proportional=0.1).at([[2.0, np.nan]]))
    assert np.isfinite(stream.whitened(jnp.zeros((1, 2)))).all() and np.isfinite(stream.log_determinant).all()

    def with_share(share):
        error = eqx.tree_at(lambda error: error.proportional, stream.model_error, share[None])
        return stream.with_model_error(error).log_determinant[0]

    # s = 0.5 + share * 2, R = 0.2^2 + s^2: where nothing was observed, a run that is not finite touches no derivative.
    np.testing.assert_allclose(jax.grad(with_share)(jnp.array(0.1)), 2 * 0.7 * 2.0 / (0.04 + 0.49), rtol=1e-12)


def flux(error, number=200):
    """A constant that is observed `number` times."""
    return Problem(ParameterSpace({"a": Parameter.normal(5.0, 2.0)}),
                   FunctionForward(lambda theta: {"y": theta["a"] * jnp.ones((1, number))}),
                   Observations({"y": Stream(np.zeros(number), 0.01, model_error=error)}))


def test_an_error_in_proportion_wants_a_level_before_anything_is_compared():
    """A stream can be built before there is a run, but no J comes of it: not in jit, not by a solver, and printing it says so."""
    problem = flux(ModelError(0.1, proportional=0.3))
    stream = problem.observations["y"]
    assert "30 % of the modelled value, which is not given yet" in str(problem)
    for asked in (lambda: problem.cost(jnp.zeros(1)), lambda: eqx.filter_jit(problem.cost)(jnp.zeros(1)), lambda: stream.log_determinant,
                  lambda: solve(problem, LevenbergMarquardt(), progress=False), lambda: costs(problem, jnp.zeros((2, 1)))):
        with pytest.raises(ValueError, match="(?s)the level that.*estimate_errors"):
            asked()
    with_level = stream.with_model_error(stream.model_error.at(problem.predict(jnp.zeros(1))["y"]))
    np.testing.assert_allclose(with_level.model_error_deviation, 0.1 + 0.3 * 5.0, rtol=1e-12)
    assert ModelError(0.1, proportional=0.0).complete and not stream.model_error.plain


def test_the_errors_of_a_twin_are_those_of_its_r():
    """Not larger where the observed value happens to be large, so that the fit is not dragged to the small ones."""
    problem = flux(ModelError(0.1, proportional=0.3))
    found = []
    for key in range(20):
        made = testing.twin(problem, [0.0], key=key).problem
        np.testing.assert_allclose(made.observations["y"].model_error_deviation, 1.6, rtol=1e-12)
        found.append(float(solve(made, LevenbergMarquardt(), progress=False).theta["a"]))
    # Each has a standard deviation of 1.6 / sqrt(200) = 0.113; the mean of twenty 0.025.
    assert np.mean(found) == pytest.approx(5.0, abs=0.1) and np.std(found) == pytest.approx(0.113, rel=0.5)
    given = problem.with_observations(problem.observations.with_streams({
        "y": problem.observations["y"].with_model_error(ModelError(0.1, proportional=0.3).at(np.full((1, 200), 2.0)))}))
    np.testing.assert_allclose(testing.twin(given, [0.0]).problem.observations["y"].model_error_deviation, 0.7, rtol=1e-12)


def test_draws_have_the_covariance_of_r():
    values, _, _ = gappy(24, 1)
    stream = Stream(values, 0.5, time=TIME[:24], model_error=ModelError(1.0, correlation_days=5.0))
    many = eqx.filter_jit(jax.vmap(testing.draw_errors, in_axes=(None, 0)))
    draws = np.asarray(many(stream, jax.random.split(jax.random.key(0), 20000)))[:, 0]
    mask = np.asarray(stream.mask)[0]
    days = np.arange(24)[mask]
    expected = 0.25 * np.eye(len(days)) + np.exp(-abs(days[:, None] - days) / 5.0)
    np.testing.assert_allclose(np.cov(draws[:, mask].T), expected, atol=0.06)
    assert (draws[:, ~mask] == 0).all()


@pytest.mark.parametrize("make, message", [
    (lambda: ModelError(-1.0), "`model_error`"), (lambda: ModelError(1.0, proportional=-0.1), "`proportional`"),
    (lambda: ModelError(1.0, correlation_days=0.0), "e-folding time above zero"),
    (lambda: ModelError(1.0, seasonal=0.3), "two finite numbers"), (lambda: ModelError(1.0, seasonal=(np.nan, 0.0)), "two finite numbers"),
    (lambda: Stream([1.0], 1.0).with_model_error(ModelError(1.0, seasonal=(0.1, 0.0))), "pass time="),
    (lambda: Stream([1.0], 1.0, model_error=ModelError(1.0, correlation_days=3.0)), "pass time="),
    (lambda: Stream([1.0], 1.0, model_error=ModelError(1.0, seasonal=(0.1, 0.0))), "pass time="),
    (lambda: Stream([1.0, 2.0], 1.0, model_error=[1.0, 2.0]), "one for each site"),
    (lambda: Stream([1.0], 1.0, time=TIME[:1], model_error=ModelError(1.0, correlation_days=3.0),
                    correlation=ExponentialCorrelation(2.0)), "leave `correlation` out")])
def test_wrong_errors_are_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------ errors among the parameters


@pytest.fixture(scope="module")
def problem():
    time = np.datetime64("2001-01-01") + np.arange(200)
    x = np.linspace(-1, 1, 200)[None]
    base = Problem(
        ParameterSpace({"a": Parameter.normal(0.0, 3.0), "b": Parameter.normal(0.0, 3.0)}),
        FunctionForward(lambda theta: {"y": theta["a"] + theta["b"] * x}),
        Observations({"y": Stream(np.where(np.arange(200) % 4 == 0, np.nan, 0.0), 0.3, time=time, units="m",
                                  model_error=ModelError(1.2, correlation_days=4.0))}))
    return testing.twin(base, [0.3, -0.6], key=3).problem


def test_j_with_free_errors_is_minus_the_log_density_of_the_dense_problem(problem):
    free = problem.with_error_parameters({"y": ("constant", "days")})
    assert free.space.labels == ("a", "b", "y_model_error", "y_error_days")
    assert free.space.parameters["y_model_error"].units == "m" and free.space.parameters["y_error_days"].units == "d"
    z = jnp.array([0.2, -0.1, 0.4, -0.7])
    theta = free.theta(z)
    stream = problem.observations["y"].with_model_error(ModelError(theta["y_model_error"], correlation_days=theta["y_error_days"]))
    square, log_determinant, *_ = dense(stream, np.asarray(free.predict(z)["y"]), 0, float(theta["y_error_days"]))
    expected = -0.5 * (square + log_determinant + float(z @ z) + (int(stream.count) + 4) * np.log(2 * np.pi))
    np.testing.assert_allclose(free.log_density(z), expected, rtol=1e-12)
    assert set(free.terms(z)) == {"prior", "y", "log_determinant"}
    np.testing.assert_allclose(costs(free, z[None]), [free.cost(z)], rtol=1e-12)
    at_start = jnp.zeros(4).at[:2].set(z[:2])
    np.testing.assert_allclose(free.cost(at_start), problem.cost(z[:2]), rtol=1e-12)
    assert abs(testing.taylor_order(free, z) - 2) < 0.1


def test_free_errors_are_found_again(problem):
    free = problem.with_error_parameters({"y": ("constant", "days")})
    wrong = problem.with_observations(Observations({"y": problem.observations["y"].with_model_error(
        ModelError(0.4, correlation_days=20.0))})).with_error_parameters({"y": ("constant", "days")})
    for start in (free, wrong):
        result = solve(start, LBFGS(), max_steps=200, progress=False)
        assert result.theta["y_model_error"] == pytest.approx(1.2, rel=0.3) and result.theta["y_error_days"] == pytest.approx(4.0, rel=0.6)


def test_what_needs_a_sum_of_squares_or_members_says_what_to_take(problem):
    free = problem.with_error_parameters(["y"])
    for solver in (LevenbergMarquardt(), CMAES()):
        with pytest.raises(TypeError, match="LBFGS"):
            solve(free, solver, key=0, max_steps=2, progress=False)


def test_more_errors_can_be_freed_one_after_the_other_and_other_observations_follow(problem):
    plain = problem.with_observations(Observations({"y": problem.observations["y"].with_model_error(1.2)}))
    free = plain.with_error_parameters(["y"]).with_error_parameters({"y": ["days", "seasonal", "proportional"]})
    assert free.space.labels[2:] == ("y_model_error", "y_error_days", "y_error_cosine", "y_error_sine", "y_proportional_error")
    z = jnp.zeros(free.space.size)
    other = free.with_observations(plain.observations)
    assert float(other.log_density(z)) == pytest.approx(float(free.log_density(z)), rel=1e-12)
    by_site = plain.with_error_parameters(["y"], by_site=True)
    assert by_site.space.labels[2] == "y_model_error[site 0]"
    np.testing.assert_allclose(by_site.cost(z[:3]), plain.cost(z[:2]), rtol=1e-12)


@pytest.mark.parametrize("parts, message", [
    ({"y": ["sigma"]}, "constant, proportional, days, seasonal"), ({"y": "days"}, "a list of"), ({}, "error parameters of streams")])
def test_unknown_parts_are_refused(problem, parts, message):
    with pytest.raises(ValueError, match=message):
        problem.with_error_parameters(parts)


def test_an_error_of_zero_starts_at_what_residuals_have_beyond_the_measurement_error(problem):
    """Of a run at the defaults or at a z that is given; by a factor of e^1.5 about it, and never zero."""
    bare = problem.with_observations(Observations({"y": problem.observations["y"].with_model_error(0.0)}))
    mask, y = np.asarray(bare.observations["y"].mask), np.asarray(bare.observations["y"].values)
    for z in (None, jnp.array([0.3, -0.6])):
        none = bare.with_error_parameters(["y"], z=z)
        run = np.asarray(bare.predict(bare.space.default_z if z is None else z)["y"])
        wanted = np.sqrt(np.mean((y - run)[mask] ** 2) - 0.3**2)
        assert float(none.theta(jnp.zeros(3))["y_model_error"]) == pytest.approx(wanted, rel=1e-9)
        assert float(none.observations["y"].model_error.constant[0]) == pytest.approx(wanted, rel=1e-9)
        above = float(none.theta(jnp.array([0.0, 0.0, 1.0]))["y_model_error"])
        assert np.log(above / wanted) == pytest.approx(1.5, rel=1e-9)
    assert wanted == pytest.approx(1.2, rel=0.3)
    exact = testing.twin(bare, [0.3, -0.6], noise=False).problem.with_error_parameters(["y"], z=jnp.array([0.3, -0.6]))
    assert float(exact.theta(jnp.zeros(3))["y_model_error"]) == pytest.approx(0.03)


def test_a_share_goes_by_the_default_run_and_keeps_a_level_that_is_there():
    problem = flux(ModelError(0.2), 10)
    free = problem.with_error_parameters({"y": ["proportional"]})
    np.testing.assert_allclose(free.observations["y"].model_error_deviation, 0.2 + 0.1 * 5.0, rtol=1e-12)
    other = free.with_observations(problem.observations)
    assert float(other.cost(jnp.array([0.1, 0.3]))) == pytest.approx(float(free.cost(jnp.array([0.1, 0.3]))), rel=1e-12)
    levelled = problem.observations["y"].with_model_error(ModelError(0.2, proportional=0.3).at(np.full((1, 10), 2.0)))
    kept = problem.with_observations(Observations({"y": levelled})).with_error_parameters({"y": ["proportional"]})
    np.testing.assert_allclose(kept.observations["y"].model_error_deviation, 0.8, rtol=1e-12)
    broken = Problem(problem.space, FunctionForward(lambda theta: {"y": theta["a"] * jnp.full((1, 10), jnp.nan)}), problem.observations)
    with pytest.raises(ValueError, match="10 values that are not finite"):
        broken.with_error_parameters({"y": ["proportional"]})


@pytest.mark.parametrize("part", ["seasonal", "days"])
def test_a_season_or_memory_of_a_stream_without_times_is_refused(part):
    with pytest.raises(ValueError, match=f"an error with {part}"):
        flux(ModelError(0.2), 10).with_error_parameters({"y": ["constant", part]})
