"""Bayesian optimisation: acquisitions against integrals and sampling, batches, constraints, failed and noisy runs, resuming."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import chi2, norm

from landcal_jax import acquisition, bayesian_model, plot_bayesopt
from landcal_jax.bayesopt import BayesianSearch, bayesopt
from landcal_jax.forward import FunctionForward
from landcal_jax.gp import GaussianProcesses
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.solving import solve

SPACE = ParameterSpace({"a": Parameter.uniform(0.0, 1.0), "b": Parameter.uniform(0.0, 1.0)})
CENTRE = np.array([0.7, 0.3])


def bowl(theta):
    """A bowl with its lowest value of 1 at CENTRE."""
    return 1 + 4 * float((theta["a"] - CENTRE[0]) ** 2 + 2 * (theta["b"] - CENTRE[1]) ** 2)


def point(found):
    return np.array([float(found.theta["a"]), float(found.theta["b"])])


@pytest.fixture(scope="module")
def processes():
    """A noisy objective and a constraint, each fitted to the same twenty runs."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (20, 2))
    objective = np.sum((x - 0.2) ** 2, axis=1) + 0.2 * rng.standard_normal(20)
    limit = x[:, 0] + 0.5 * x[:, 1] + 0.3 * rng.standard_normal(20)
    return tuple(GaussianProcesses.fit(x, y[:, None], mean="constant", noise=sd, key=0) for y, sd in ((objective, 0.2), (limit, 0.3)))


# ---------------------------------------------------------------------------------------------------------- the acquisition


def scaled_integral(a, power):
    """Integral of v^power exp(-v - v^2 / (2 a^2)) over v > 0: of w^power phi(w + a) over w, in v = a w and without phi(a)."""
    return quad(lambda v: v**power * np.exp(-v - 0.5 * (v / a) ** 2), 0, 60, epsabs=0, epsrel=1e-13, limit=200)[0]


@pytest.mark.parametrize("t", [-1.0, -4.99, -5.0, -5.01, -7.0, -20.0, -38.5, -1e3])
def test_log_h_and_its_slope_equal_numerical_integrals_far_into_the_tail(t):
    value, slope = jax.value_and_grad(acquisition.log_h)(t)
    first, zeroth = scaled_integral(-t, 1) / t**2, scaled_integral(-t, 0) / -t
    np.testing.assert_allclose(value, norm.logpdf(t) + np.log(first), rtol=1e-14, atol=1e-13)
    np.testing.assert_allclose(slope, zeroth / first, rtol=1e-13)
    if t < -38:
        assert norm.pdf(t) + t * norm.cdf(t) <= 1e-320  # what the textbook formula has here: nothing to climb on


def test_log_expected_improvement_is_the_expectation():
    mean, sd, best = 1.3, 0.4, 1.0
    expected = quad(lambda f: (best - f) * norm.pdf(f, mean, sd), -5, best, epsabs=1e-14)[0]
    np.testing.assert_allclose(acquisition.log_expected_improvement(mean, sd**2, best), np.log(expected), rtol=1e-10)


@pytest.mark.slow
def test_noisy_acquisition_is_the_expectation_over_the_joint_posterior(processes):
    rng = np.random.default_rng(1)
    known, x = rng.uniform(-1, 1, (5, 2)), np.array([0.0, 0.1])
    value = float(acquisition.fantasies(processes, known, draws=4096)(jnp.asarray(x)))
    mean, covariance = map(np.asarray, acquisition.joint(processes, jnp.asarray(np.vstack([x, known]))))
    f, c = (rng.multivariate_normal(m, C, 400_000) for m, C in zip(mean, covariance, strict=True))
    best = np.where(c[:, 1:] <= 0, f[:, 1:], np.inf).min(axis=1)
    best = np.where(np.isfinite(best), best, f[:, 1:].max(axis=1))
    # A run counts as feasible by its constraint given what is drawn elsewhere: the same as the joint draw.
    gained = np.maximum(best - f[:, 0], 0) * (c[:, 0] <= 0)
    assert abs(np.exp(value) - gained.mean()) < 4 * gained.std() / np.sqrt(gained.size) + 2e-3 * gained.mean()


def test_without_noise_and_pending_runs_it_is_plain_expected_improvement():
    x = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    y = np.sin(3 * x[:, :1]) + x[:, 1:]
    process = GaussianProcesses.fit(x, y, mean="constant", noise=0.0)
    at = jnp.asarray([-0.5, -0.8])
    mean, variance = process.predict(at, nugget=False)
    plain = acquisition.log_expected_improvement(mean[0], variance[0], y.min())
    np.testing.assert_allclose(acquisition.fantasies((process,), x)(at), plain, atol=0.02)


def test_gradients_are_exact(processes):
    rng = np.random.default_rng(2)
    labels = np.where(processes[0].x[:, :1] > 0.5, 1.0, -1.0)
    success = GaussianProcesses.fit(processes[0].x, labels, mean="constant", noise=0.1)
    gain = eqx.filter_jit(acquisition.fantasies(processes, rng.uniform(-1, 1, (5, 2)), success=success))
    for x in (np.array([-0.4, -0.2]), np.array([-0.6, 0.5]), np.array([0.1, 0.3]), np.array([0.9, -0.9])):
        slope = jax.grad(lambda x: gain(x))(jnp.asarray(x))
        # Of fourth order, so that the step may be large against the rounding of the covariances.
        values = np.array([[gain(jnp.asarray(x + step)) for step in multiple * 1e-3 * np.eye(2)] for multiple in (-2, -1, 1, 2)])
        differences = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / 12e-3
        np.testing.assert_allclose(slope, differences, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_pending_place_gains_little_and_copies_change_nothing(processes):
    known, x = np.array([[0.2, 0.2], [-0.5, 0.5]]), np.array([0.9, -0.9])
    before, after = (float(acquisition.fantasies(processes, places)(jnp.asarray(x))) for places in (known, np.vstack([known, x])))
    assert after < before - 5
    elsewhere = jnp.asarray([0.0, -0.3])
    once, twice = (float(acquisition.fantasies(processes, places, draws=4096)(elsewhere)) for places in (known, known[[0, 1, 0, 0]]))
    assert abs(once - twice) < 0.01


@pytest.mark.slow
def test_a_tighter_constraint_never_makes_a_place_better(processes):
    x = jnp.asarray(np.random.default_rng(3).uniform(-1, 1, (50, 2)))
    limits = processes[1]
    tighter = GaussianProcesses.fit(limits.x, limits.y + 0.5, mean="constant", noise=0.3, key=0)
    chances = [acquisition.log_probability_below(*each.predict(x, nugget=False)) for each in (limits, tighter)]
    assert (chances[1] < chances[0]).all() and (chances[0] <= 0).all()
    free, bound = (jax.vmap(acquisition.fantasies(each, np.zeros((1, 2))))(x) for each in (processes[:1], processes))
    # With the same place to beat in every draw a constraint can only take away; where none is feasible the worst drawn is to beat.
    assert (bound <= free + 1e-9).all()


def test_maximise_finds_the_highest_of_many_peaks():
    peaks = lambda x: jnp.cos(9 * x[0]) + jnp.cos(9 * x[1]) - jnp.sum((x - jnp.array([0.6, -0.6])) ** 2)  # noqa: E731
    x, value = acquisition.maximise(peaks, -np.ones(2), np.ones(2), np.zeros((1, 2)))
    fine = np.stack(np.meshgrid(*[np.linspace(-1, 1, 401)] * 2), axis=-1).reshape(-1, 2)
    assert value >= np.asarray(jax.vmap(peaks)(jnp.asarray(fine))).max() and (np.abs(x) <= 1).all()


# ---------------------------------------------------------------------------------------------------------------- the model


@pytest.mark.parametrize("m", [3, 40])
def test_outputs_of_residuals_make_the_same_sum_of_squares(m):
    residuals = np.random.default_rng(0).standard_normal((20, m)) * np.geomspace(1, 1e4, 20)[:, None]
    residuals[:, 1] = 2.0  # the same in all runs
    outputs, noise, squares = bayesian_model.Residuals.of(residuals[:15])(residuals, np.zeros(residuals.shape))
    assert outputs.shape == noise.shape == (20, 2 if m == 3 else bayesian_model.MOST)
    x = np.full((20, 2), 0.5)
    J = np.asarray(squares.prior(jnp.asarray(x)) + squares.squares(jnp.asarray(outputs.T)))
    np.testing.assert_allclose(J, 0.5 * np.sum(residuals**2, axis=1) + norm.ppf(0.75) ** 2, rtol=1e-10)


def test_values_are_warped_above_the_median_alone_and_back():
    values = np.array([1.0, 2.0, 3.0, 50.0, 900.0])
    for logarithm in (False, True):
        warp = bayesian_model.Warp.of(values, logarithm)
        warped, noise = warp(values, np.full(5, 0.1))
        np.testing.assert_allclose(warp.back(warped), values, rtol=1e-13)
        np.testing.assert_allclose(warped[:3], np.log(values[:3]) if logarithm else values[:3], rtol=1e-15)
        slopes = (warp(values * (1 + 1e-7), noise)[0] - warped) / (values * 1e-7)
        np.testing.assert_allclose(noise, 0.1 * slopes, rtol=1e-5)


def test_repeated_runs_tell_the_noise():
    told = bayesian_model.Runs.none(1, 0)
    z, values = np.array([[0.0], [1.0], [0.0], [2.0], [0.0], [1.0]]), np.array([1.0, 5.0, 1.3, np.nan, 0.7, 5.2])
    told = told.extended(z=z, values=values, limits=np.zeros((6, 0)), residuals=np.zeros((6, 0)))
    sd, each, most = bayesian_model.repeated(told)
    np.testing.assert_allclose(sd, np.sqrt((0.18 + 0.02) / 3), rtol=1e-12)
    np.testing.assert_allclose(most, sd * np.sqrt(3 / chi2.ppf(0.1, 3)), rtol=1e-12)
    assert each.size == 0 and np.isnan(bayesian_model.repeated(told, 2)[0])
    equal = bayesian_model.Runs.none(1, 0).extended(
        z=np.zeros((3, 1)), values=np.full(3, 0.1), limits=np.zeros((3, 0)), residuals=np.zeros((3, 0)))
    assert bayesian_model.repeated(equal)[0] == 0.0


# --------------------------------------------------------------------------------------------------------------- the search


def test_the_lowest_value_is_found_and_said():
    found = bayesopt(bowl, SPACE, runs=18, noise=0.0, progress=False)
    assert found.value - 1 < 1e-3 and np.abs(point(found) - CENTRE).max() < 0.02
    assert found.counts == {"forward": 18, "failed": 0}
    assert found.convergence["runs"].values.tolist() == list(range(6, 19))
    best = found.convergence["best"].values
    assert (np.diff(best) <= 1e-4).all() and best[-1] == found.value
    assert found.runs["theta"].sel(parameter="a").values[0] == 0.5  # the default of the space comes first
    assert "The lowest posterior mean is 1 " in str(found) and set(found.seconds) == {"search", "runs"}
    for figure in (plot_bayesopt.convergence(found, truth=1.0), plot_bayesopt.explored(found)):
        figure.canvas.draw()


def test_the_logarithm_of_a_positive_function_and_runs_that_repeat_themselves():
    found = bayesopt(bowl, SPACE, runs=9, logarithm=True, progress=False)
    assert found.convergence["gain"].attrs["long_name"].endswith("of the logarithm")
    # One run was made twice, which has told that there is no noise.
    assert len(np.unique(found.runs["z"].values, axis=0)) == 8
    assert found.value == bowl(found.theta) == found.runs["value"].values.min()


@pytest.mark.slow
def test_under_noise_the_best_is_not_the_luckiest():
    rng = np.random.default_rng(0)
    found = bayesopt(lambda theta: bowl(theta) + 0.3 * rng.standard_normal(), SPACE, runs=30, batch=4, progress=False)
    assert np.abs(point(found) - CENTRE).max() < 0.15 and bowl(found.theta) < 1.1
    assert found.interval[0] < 1.0 < found.interval[1] + 0.1
    noise = float(found.convergence["noise"][-1])
    assert 0.15 < noise < 0.5
    assert float(found.runs["value"].min()) < found.value  # luck, which is not reported as the value


def test_batches_are_of_different_places():
    search = BayesianSearch(SPACE, key=1)
    Z = search.ask(6)
    search.tell(Z, [bowl(SPACE.physical(z)) for z in Z])
    Z = np.concatenate([search.ask(3), search.ask(1)])
    assert len(search.pending) == 4
    u = norm.cdf(Z)
    apart = np.linalg.norm(u[:, None] - u[None], axis=2)[np.triu_indices(4, 1)]
    assert apart.min() >= acquisition.APART


@pytest.mark.slow
def test_constraints_hold_at_the_end():
    found = bayesopt(lambda theta: {"objective": bowl(theta), "left": float(theta["a"]) - 0.4}, SPACE, runs=16, constraints=["left"],
                     progress=False)
    a, b = point(found)
    assert 0.36 < a <= 0.4 + 1e-3 and abs(b - CENTRE[1]) < 0.05
    assert "It keeps left with probability" in str(found)


def test_failed_runs_are_counted_kept_away_from_and_have_no_value():
    def fails(theta):
        return np.nan if theta["a"] > 0.75 and theta["b"] < 0.6 else bowl(theta)

    found = bayesopt(fails, SPACE, runs=25, design=9, progress=False)
    failed, proposed = found.runs["failed"].values, np.isfinite(found.runs["gain"].values)
    assert found.counts["failed"] == failed.sum() > 0 and np.isnan(found.runs["value"].values[failed]).all()
    assert np.isnan(found.runs["mean"].values[failed]).all()
    # A quarter of random places near the optimum would fail.
    assert (failed & proposed).sum() <= 4 and found.value < 1.05
    assert f"{failed.sum()} of 25 runs failed, at a" in str(found)


def test_a_search_without_finished_runs_says_so():
    with pytest.raises(RuntimeError, match=r"3 finished runs[\s\S]*0 of 5, all of them"):
        bayesopt(lambda theta: np.nan, SPACE, runs=5, progress=False)


def same(one, other):
    assert np.array_equal(one.z, other.z) and one.value == other.value and one.counts == other.counts
    for a, b in ((one.runs, other.runs), (one.convergence, other.convergence)):
        assert a.identical(b)


def test_a_search_goes_on_from_its_file_with_the_same_bits(tmp_path):
    options = {"batch": 2, "key": 3, "progress": False}
    whole = bayesopt(bowl, SPACE, runs=12, **options)
    file = tmp_path / "search.npz"
    bayesopt(bowl, SPACE, runs=8, checkpoint=file, **options)
    same(bayesopt(bowl, SPACE, runs=12, checkpoint=file, **options), whole)
    with pytest.raises(ValueError, match="another run"):
        bayesopt(bowl, SPACE, runs=12, checkpoint=file, **options | {"key": 4})

    class Killed(Exception):
        pass

    made = []

    def broken(theta):
        made.append(theta)
        if len(made) == 10:
            raise Killed
        return bowl(theta)

    search = tmp_path / "killed.npz"
    with pytest.raises(Killed):
        run_by_hand(broken, search)
    same(run_by_hand(bowl, search), whole)


def run_by_hand(function, file):
    """The loop of `bayesopt` as a user writes it, in the same batches."""
    search = BayesianSearch(SPACE, key=3, checkpoint=file, about="bowl")
    while search.done < 12:
        Z = search.pending if len(search.pending) else search.ask(6 if search.done == 0 else 2)
        search.tell(Z, [function(SPACE.physical(z)) for z in Z])
    return search.result()


# ---------------------------------------------------------------------------------------------------------- what is searched


def exponential():
    """Two parameters of an exponential, seen at five times."""
    times = jnp.arange(5.0)
    forward = FunctionForward(lambda theta: {"y": (theta["a"] * jnp.exp(-theta["b"] * times))[None]})
    return Problem(SPACE, forward, Observations({"y": Stream(0.7 * np.exp(-0.3 * np.arange(5.0)), 0.05)}))


def test_j_of_a_problem_and_a_score_of_what_it_predicts():
    problem = exponential()
    lowest = solve(problem, LevenbergMarquardt(), progress=False)
    found = bayesopt(problem, runs=24, batch=3, progress=False)
    assert found.value - lowest.cost < 0.02
    np.testing.assert_allclose(float(problem.cost(found.z)), found.value, rtol=1e-3)

    def distance(predicted):
        return np.abs(predicted["y"][:, 0, 2] - 0.2)

    held = bayesopt(problem, runs=16, score=distance, constraints={"first": lambda predicted: 0.6 - predicted["y"][:, 0, 0]},
                    progress=False)
    a, b = point(held)
    assert abs(a * np.exp(-2 * b) - 0.2) < 0.02 and a > 0.59


def test_earlier_runs_are_taken_and_mistakes_are_said():
    search = BayesianSearch(SPACE, design=3)
    earlier = np.random.default_rng(0).standard_normal((8, 2))
    search.tell(earlier, [bowl(SPACE.physical(z)) for z in earlier], seconds=2.0)
    assert search.done == 8 and search.seconds["runs"] == 2.0
    assert search.result().counts["forward"] == 8
    with pytest.raises(ValueError, match="values of shape"):
        search.tell(earlier, [1.0])
    with pytest.raises(ValueError, match="noise of every run"):
        search.tell(earlier[:1], [1.0], noise=[0.1])
    with pytest.raises(ValueError, match="of none"):
        search.tell(earlier[:1], [1.0], constraints={"left": [0.0]})
    with pytest.raises(ValueError, match="above zero"):
        BayesianSearch(SPACE, logarithm=True).tell(earlier[:1], [-1.0])
    with pytest.raises(ValueError, match="with its space"):
        bayesopt(bowl, runs=10)
    with pytest.raises(ValueError, match="three runs"):
        bayesopt(bowl, SPACE, runs=2)
