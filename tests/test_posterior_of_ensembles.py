"""The posterior of ensemble solvers: draws where the method ends with a Gaussian, members where it has them, bands by runs alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from test_gradient_solvers import toy
from test_posterior import QUANTILES, in_x, observed_closed_form
from test_problem import linear_problem

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import ETKI, UnscentedKalmanInversion
from landcal_jax.gradient import LBFGS, GaussNewton
from landcal_jax.laplace import laplace
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.solving import solve


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(3), n=5, m=9)


@pytest.fixture(scope="module")
def problem(oracle):
    return linear_problem(oracle)


def external(problem, oracle, fails=lambda x: False, **options):
    """The same model in NumPy, whose runs fail where `fails(x)`."""
    H = np.linalg.solve(np.linalg.cholesky(oracle.R), np.asarray(oracle.A))

    def run(theta):
        if fails(theta["x"]):
            raise ValueError("dry")
        return {"y": H @ theta["x"]}

    return problem.with_forward(BlackBoxForward(run, observations=problem.observations, **options))


def answer(problem, solver):
    return solve(problem, solver, key=0, progress=False)


@pytest.mark.parametrize("solver", [IterativeFourDEnVar(size=12), UnscentedKalmanInversion(tolerance=1e-9)], ids=["iterated", "unscented"])
def test_a_gaussian_is_drawn_from_with_its_moments_exactly(oracle, problem, solver):
    result = answer(problem, solver)
    posterior = from_ensemble(problem, result, draws=4000, key=1)
    assert posterior.gaussian and posterior.method.startswith("Gaussian (") and posterior.z.shape == (4000, 5)
    np.testing.assert_allclose(posterior.z.mean(axis=0), result.z, atol=1e-12)
    np.testing.assert_allclose(np.cov(posterior.z, rowvar=False), posterior.covariance, atol=1e-12)
    mean, covariance = np.asarray(oracle.posterior_mean()), np.asarray(oracle.posterior_covariance())
    np.testing.assert_allclose(in_x(oracle, posterior.covariance), covariance, atol=1e-7)
    sd = np.sqrt(np.diag(covariance))
    # Standard error of a quantile: sqrt(q (1 - q) / n) over the density there.
    found, steps = np.quantile(posterior.matrix(), QUANTILES, axis=0), norm.ppf(QUANTILES)[:, None]
    error = np.sqrt(np.multiply(QUANTILES, np.subtract(1, QUANTILES)) / 4000)[:, None] / norm.pdf(steps)
    assert (np.abs(found - mean - steps * sd) < 4 * error * sd).all()
    assert len(from_ensemble(problem, result).z) == 1000
    np.testing.assert_array_equal(posterior.z, from_ensemble(problem, result, draws=4000, key=jax.random.key(1)).z)
    assert not np.allclose(posterior.z, from_ensemble(problem, result, draws=4000).z)


@pytest.mark.parametrize("solver", [FourDEnVar(size=12), ETKI(size=12), IterativeFourDEnVar(size=12, scaling=None)],
                         ids=["4denvar", "etki", "transform"])
def test_members_of_a_method_that_has_them_are_its_draws(problem, solver):
    result = answer(problem, solver)
    posterior = from_ensemble(problem, result, draws=4000)
    assert not posterior.gaussian and posterior.method.startswith("ensemble (")
    np.testing.assert_array_equal(posterior.z, result.details["posterior_z"])
    assert len(posterior.z) == 12


def test_an_ensemble_that_spans_less_than_the_space_leaves_the_rest_without_spread(problem):
    result = answer(problem, IterativeFourDEnVar(size=4))
    posterior = from_ensemble(problem, result)
    np.testing.assert_allclose(np.cov(posterior.z, rowvar=False), posterior.covariance, atol=1e-12)
    assert np.linalg.matrix_rank(posterior.z - posterior.centre, tol=1e-6) == np.linalg.matrix_rank(posterior.covariance, tol=1e-12) == 3
    assert "spread along 3 of 5 directions" in posterior.method and posterior.details["rank"] == 3
    assert "spans 3 of 5 directions" in posterior.details["note"]
    with pytest.raises(ValueError, match="(?s)all 5 directions.*some along 3"):
        posterior.importance()
    assert "spread along" not in from_ensemble(problem, answer(problem, IterativeFourDEnVar(size=12))).method
    bands = posterior.predictive()
    J = problem.jacobian(posterior.centre)[1][5:]
    width = np.sqrt(np.einsum("ij,jk,ik->i", J, posterior.covariance, J))
    np.testing.assert_allclose(bands["y"][2, 0] - bands["y"][1, 0], norm.ppf(0.95) * width, rtol=1e-7)


# ----------------------------------------------------------------------------------------------------- bands without tangents


def test_bands_of_a_model_without_tangents_are_those_of_its_slopes(oracle, problem):
    black = external(problem, oracle)
    result = answer(black, IterativeFourDEnVar(size=12))
    posterior = from_ensemble(black, result)
    before = black.forward.counts["run"]
    bands = posterior.predictive()
    assert black.forward.counts["run"] - before == 2 * 5 + 1
    mean, model, total = observed_closed_form(oracle, problem)
    steps = norm.ppf(QUANTILES)[:, None]
    np.testing.assert_allclose(bands["y"][:, 0], mean + steps * model, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(bands["y_total"][:, 0], mean + steps * total, rtol=1e-6, atol=1e-7)
    assert bands["y"].attrs["failed"] == 0
    # Its draws are run when that is asked for.
    before = black.forward.counts["run"]
    posterior.predictive(draws=30)
    assert black.forward.counts["run"] - before == 30
    assert abs(posterior.excess_cost(1000) - 4.351 / 5) < 0.1
    before = black.forward.counts["run"]
    posterior.excess_cost()
    assert black.forward.counts["run"] - before == 50 + 1


def test_one_side_of_an_axis_stands_for_the_other_where_that_fails(oracle, problem):
    result = answer(problem, IterativeFourDEnVar(size=12))
    centre = np.asarray(result.theta["x"])
    sd = np.sqrt(np.diag(np.asarray(oracle.posterior_covariance())))
    # Axes where the first parameter goes up by more than a tenth of its spread have one side left.
    black = external(problem, oracle, lambda x: x[0] > centre[0] + 0.1 * sd[0])
    bands = from_ensemble(black, result).predictive()
    mean, model, _ = observed_closed_form(oracle, problem)
    assert 0 < bands["y"].attrs["failed"] <= 5
    np.testing.assert_allclose(bands["y"][2, 0], mean + norm.ppf(0.95) * model, rtol=1e-6, atol=1e-7)
    # Both sides of an axis: what is along it is missing from the band, and said.
    black = external(problem, oracle, lambda x: abs(x[0] - centre[0]) > 0.1 * sd[0])
    narrow = from_ensemble(black, result).predictive()
    assert narrow["y"].attrs["failed"] == 2 * bands["y"].attrs["failed"]
    spread, whole = narrow["y"][2, 0] - narrow["y"][1, 0], norm.ppf(0.95) * model
    assert (spread < whole * (1 + 1e-6)).all() and (spread < 0.99 * whole).any()
    nothing = external(problem, oracle, lambda x: True)
    with pytest.raises(ValueError, match="(?s)at the centre of the posterior that gives finite y.*one that fails"):
        from_ensemble(nothing, result).predictive()


def test_a_place_that_nobody_fills_is_no_failure_of_runs_either():
    def run(theta):
        return {"y": np.array([theta["a"], np.nan, 2 * theta["a"]])}

    observations = Observations({"y": Stream([1.0, np.nan, 2.0], 1.0)})
    made = Problem(ParameterSpace({"a": Parameter.normal(0.0, 1.0)}), BlackBoxForward(run, observations=observations), observations)
    bands = from_ensemble(made, answer(made, UnscentedKalmanInversion(tolerance=1e-9))).predictive()
    assert bands["y"].attrs["failed"] == 0
    # Prior precision 1, observations 1 + 4.
    np.testing.assert_allclose(bands["y"][2, 0], [5 / 6 + norm.ppf(0.95) / 6**0.5, np.nan, 10 / 6 + 2 * norm.ppf(0.95) / 6**0.5], rtol=1e-6)


def test_a_model_with_an_adjoint_alone_gets_its_posterior_from_runs(oracle, problem):
    H = np.linalg.solve(np.linalg.cholesky(oracle.R), np.asarray(oracle.A))
    black = external(problem, oracle, adjoint=lambda theta, weights: {"x": H.T @ weights["y"][0]})
    result = solve(black, LBFGS(tolerance=1e-14), progress=False)
    with pytest.raises(TypeError, match="(?s)model with a tangent-linear for laplace.*its own adjoint.*IterativeFourDEnVar"):
        laplace(black, result)
    posterior = from_ensemble(black, solve(black, IterativeFourDEnVar(size=12), key=0, z0=result.z, progress=False))
    np.testing.assert_allclose(in_x(oracle, posterior.covariance), oracle.posterior_covariance(), atol=1e-6)
    bands = posterior.predictive()
    np.testing.assert_allclose(bands["y"][1, 0], observed_closed_form(oracle, problem)[0], atol=1e-5)
    derivatives = {"tangent": lambda theta, along: {"y": H @ along["x"]}, "adjoint": lambda theta, weights: {"x": H.T @ weights["y"][0]}}
    for names in (["tangent"], ["tangent", "adjoint"]):
        exact = black.with_forward(BlackBoxForward(
            black.forward.members.run, observations=problem.observations, **{name: derivatives[name] for name in names}))
        result = solve(exact, GaussNewton(), progress=False)
        for curvature in ("gauss-newton", "low-rank"):
            assert np.allclose(laplace(exact, result, curvature=curvature).covariance, posterior.covariance, atol=1e-6)
        np.testing.assert_allclose(laplace(exact, result).predictive()["y"], posterior.predictive()["y"], atol=1e-5)


def test_the_root_of_a_curved_model_is_where_it_stands():
    # y = a^2 at a = 1 +- 0.5: slopes of runs at one standard deviation are those at the centre, for a parabola exactly.
    made = toy(lambda theta: [theta["a"] ** 2], [1.0], sigma=0.01, a=Parameter.normal(1.0, 0.5))
    result = answer(made, UnscentedKalmanInversion())
    posterior = from_ensemble(made, result)
    sd = float(jnp.sqrt(posterior.covariance[0, 0])) * 0.5
    bands = posterior.predictive()
    a = float(result.theta["a"])
    np.testing.assert_allclose(bands["y"][2, 0] - bands["y"][1, 0], norm.ppf(0.95) * 2 * a * sd, rtol=1e-7)
