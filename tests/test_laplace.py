"""Curvature at the minimum: three ways to the same Gaussian, with and without a matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm, truncnorm, uniform
from test_gradient_solvers import toy

import landcal_jax
from landcal_jax.covariance import LowRankCovariance, root_of, squared_distances, times_root
from landcal_jax.error_model import ExponentialCorrelation, ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import GaussNewton
from landcal_jax.laplace import _cut_normal, _gibbs, laplace, leading_eigenpairs, truncated_normal
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.solving import solve

CURVATURES = ("gauss-newton", "hessian", "low-rank")
N, M = 6, 40


def correlated_problem(kind):
    """A linear model with a full B, and a daily series with gaps whose errors remember; its oracle has the dense R."""
    rng = np.random.default_rng(5)
    A, x_b = rng.standard_normal((M, N)), rng.standard_normal(N)
    root = np.tril(rng.standard_normal((N, N))) + 2 * np.eye(N)
    y, sigma = 3 * rng.standard_normal(M), 0.5 + rng.random(M)
    seen = rng.random(M) > 0.3
    seen[11:20] = False
    day = np.arange(M)
    memory = np.exp(-np.abs(day[:, None] - day) / 5.0)
    if kind == "whole":
        errors = {"model_error": 0.4, "correlation": ExponentialCorrelation(5.0)}
        total = np.sqrt(sigma**2 + 0.4**2)
        R = total[:, None] * memory * total
    else:
        errors = {"model_error": ModelError(0.8, correlation_days=5.0)}
        R = np.diag(sigma**2) + 0.8**2 * memory
    stream = Stream(np.where(seen, y, np.nan), sigma, time=np.datetime64("2005-01-01") + day, **errors)
    space = ParameterSpace({"x": Parameter.normal(x_b, np.ones(N), dims="entry")}, coords={"entry": [str(i) for i in range(N)]},
                           covariance=root @ root.T)
    forward = FunctionForward(lambda theta: {"y": (jnp.asarray(A) @ theta["x"])[None]})
    oracle = LinearGaussian(A[seen], x_b, root @ root.T, y[seen], R[np.ix_(seen, seen)])
    return Problem(space, forward, Observations({"y": stream})), oracle


@pytest.mark.parametrize("kind", ["whole", "model"])
def test_mean_and_covariance_are_the_closed_form_with_full_b_and_correlated_errors_with_gaps(kind):
    problem, oracle = correlated_problem(kind)
    result = solve(problem, GaussNewton(), progress=False)
    exact = np.asarray(oracle.posterior_covariance())
    sd, root = np.sqrt(np.diag(exact)), np.linalg.cholesky(oracle.B)
    for curvature in CURVATURES:
        posterior = laplace(problem, result, curvature=curvature, draws=5)
        assert (np.abs(problem.theta(posterior.centre)["x"] - oracle.posterior_mean()) < 1e-8 * sd).all()
        found = root @ np.asarray(posterior.covariance) @ root.T
        assert (np.abs(found - exact) < 1e-8 * np.outer(sd, sd)).all()
        assert curvature in posterior.method and posterior.gaussian and posterior.z.shape == (5, N)
        assert (posterior.details["eigenvalues"][:-1] >= posterior.details["eigenvalues"][1:]).all()


def test_the_hessian_sees_what_gauss_newton_leaves_out():
    problem = toy(lambda theta: [theta["a"] ** 2], [1.5], sigma=0.5, a=Parameter.normal(0.0, 1.0))
    # J = z^2 / 2 + 2 (1.5 - z^2)^2: dJ = z + 8 z (z^2 - 1.5), d2J = 1 + 24 z^2 - 12, Gauss-Newton 1 + 16 z^2.
    z = jnp.array([np.sqrt(1.5 - 1 / 8)])
    for curvature, expected in (("hessian", 24 * 1.375 - 11), ("gauss-newton", 1 + 16 * 1.375), ("low-rank", 1 + 16 * 1.375)):
        posterior = laplace(problem, z, curvature=curvature)
        np.testing.assert_allclose(posterior.covariance, [[1 / expected]], rtol=1e-10)
        np.testing.assert_allclose(posterior.details["eigenvalues"], [expected - 1], rtol=1e-10)
    with pytest.raises(ValueError, match="(?s)positive definite.*eigenvalue -11.*gauss-newton"):
        laplace(problem, jnp.zeros(1), curvature="hessian")
    np.testing.assert_allclose(laplace(problem, jnp.zeros(1)).covariance, [[1.0]])
    flat = laplace(problem, jnp.zeros(1), curvature="low-rank", draws=50)
    assert flat.details["rank"] == 0 and "0 of 1 directions" in flat.method
    np.testing.assert_allclose(flat.covariance, [[1.0]])


def test_what_laplace_does_not_take_is_refused():
    problem = toy(lambda theta: [theta["a"] ** 2], [1.5], a=Parameter.normal(0.0, 1.0))
    with pytest.raises(ValueError, match="(?s)gauss-newton.*'fisher'"):
        laplace(problem, jnp.zeros(1), curvature="fisher")
    for options in ({"threshold": 0.1}, {"threshold": 0.0, "curvature": "low-rank"}):
        with pytest.raises(ValueError, match="(?s)threshold above zero"):
            laplace(problem, jnp.zeros(1), **options)
    broken = toy(lambda theta: [jnp.sqrt(theta["a"] - 5.0)], [1.5], a=Parameter.normal(0.0, 1.0))
    with pytest.raises(ValueError, match="(?s)finite tangents and adjoints.*check"):
        laplace(broken, jnp.zeros(1), curvature="low-rank")


@pytest.mark.parametrize("kind", ["gauss-newton", "hessian", "low-rank"])
def test_a_point_that_is_no_minimum_is_told_by_how_much_j_would_fall(kind):
    problem = toy(lambda theta: [2.0 * theta["a"] + theta["b"], theta["b"]], [1.5, -0.5], a=Parameter.normal(0.0, 1.0),
                  b=Parameter.normal(1.0, 2.0))
    lowest = solve(problem, GaussNewton(), progress=False)
    found = laplace(problem, lowest, curvature=kind)
    assert found.details["decrement"] == pytest.approx(0.0, abs=1e-12) and "warning" not in found.details
    away = jnp.array([1.0, -2.0])
    found = laplace(problem, away, curvature=kind)
    # J is a parabola: a Newton step is the whole way.
    assert found.details["decrement"] == pytest.approx(float(problem.cost(away)) - lowest.cost, rel=1e-9)
    assert "no minimum" in found.details["warning"] and "no minimum" in str(found)


@pytest.mark.parametrize(("point", "match"), [
    ({"a": 1.5}, "(?s)a mapping of a.*whiten"), ("a", "(?s)a str.*solve"), (jnp.zeros(3), r"(?s)shape \(3,\).*whiten")])
def test_what_is_no_point_is_refused_with_the_way_to_one(point, match):
    problem = toy(lambda theta: [theta["a"]], [1.5], a=Parameter.normal(0.0, 1.0))
    with pytest.raises(ValueError, match=match):
        laplace(problem, point)
    with pytest.raises(ValueError, match="(?s)a Posterior.*centre"):
        laplace(problem, laplace(problem, jnp.zeros(1)))


# ------------------------------------------------------------------------------------------------------ many parameters


@pytest.fixture(scope="module")
def wide():
    """400 parameters with a smooth prior, seen by 30 weighted means: most directions stay those of the prior."""
    n, m = 400, 30
    rng = np.random.default_rng(2)
    place = np.arange(n)
    B = np.exp(-np.abs(place[:, None] - place) / 30.0)
    H = np.exp(-0.5 * ((place - rng.uniform(0, n, m)[:, None]) / 15.0) ** 2) / 15.0
    space = ParameterSpace({"x": Parameter.normal(np.zeros(n), np.ones(n), dims="cell")}, coords={"cell": [str(i) for i in place]},
                           covariance=B)
    forward = FunctionForward(lambda theta: {"y": (jnp.asarray(H) @ theta["x"])[None]})
    return Problem(space, forward, Observations({"y": Stream(rng.standard_normal(m), 0.3 + rng.random(m))}))


def test_low_rank_is_the_dense_covariance_up_to_its_threshold(wide):
    z = solve(wide, GaussNewton(), progress=False)
    dense, fine = laplace(wide, z, draws=2), laplace(wide, z, curvature="low-rank", threshold=1e-6, draws=2)
    assert isinstance(fine.covariance, LowRankCovariance) and fine.covariance.shape == (400, 400)
    np.testing.assert_allclose(fine.covariance, dense.covariance, atol=1e-6)
    coarse = laplace(wide, z, curvature="low-rank", threshold=0.5, draws=2)
    assert 3 <= coarse.details["rank"] < fine.details["rank"] <= 30
    np.testing.assert_allclose(coarse.details["eigenvalues"], dense.details["eigenvalues"][: coarse.details["rank"]], rtol=1e-8)
    np.testing.assert_allclose(coarse.details["left_out"], dense.details["eigenvalues"][coarse.details["rank"]], rtol=0.05)
    assert coarse.details["left_out"] < 0.5 and coarse.details["jvp"] <= 96
    # Never too narrow, and too wide by the eigenvalues that were left out alone.
    excess = np.linalg.eigvalsh(np.asarray(coarse.covariance) - np.asarray(dense.covariance))
    assert -1e-9 < excess[0] and excess[-1] < 0.5 / 1.5
    assert "above 0.5" in coarse.details["note"] and f", {coarse.details['rank']} of 400" in coarse.method
    # The same without a matrix.
    v = np.linspace(-1, 1, 400)
    np.testing.assert_allclose(coarse.covariance @ v, np.asarray(coarse.covariance) @ v, atol=1e-12)
    np.testing.assert_allclose(coarse.covariance.diagonal(), np.diag(coarse.covariance), atol=1e-12)
    np.testing.assert_allclose(np.linalg.inv(np.asarray(coarse.covariance)) @ v @ v, coarse.covariance.squared(v[None])[0], rtol=1e-9)


def test_draws_and_bands_of_low_rank_are_those_of_its_gaussian(wide):
    result = solve(wide, GaussNewton(), progress=False)
    posterior = laplace(wide, result, curvature="low-rank", draws=1000, key=3)
    root = np.asarray(posterior.covariance.times_root(jnp.eye(400)))
    np.testing.assert_allclose(root @ root.T, posterior.covariance, atol=1e-12)
    noise = (np.asarray(posterior.z) - np.asarray(posterior.centre)) @ np.linalg.inv(root)
    np.testing.assert_allclose(noise, jax.random.normal(jax.random.key(3), (1000, 400)), atol=1e-8)
    exact = laplace(wide, result, draws=2).predictive()
    for name, bands in posterior.predictive().items():
        np.testing.assert_allclose(bands, exact[name], rtol=5e-3, atol=2e-3)
    # The Gaussian is exact but for what was left out: weights are all alike.
    found = posterior.importance()
    assert found.passed and found.effective > 0.95 * 1000


@pytest.mark.parametrize("n", [3, 16, 60])
def test_eigenpairs_of_a_matrix_known_by_its_products(n):
    rng = np.random.default_rng(n)
    vectors = np.linalg.qr(rng.standard_normal((n, n)))[0]
    for values in (10.0 ** rng.uniform(-6, 6, n), np.r_[np.full(n // 2, 3.0), np.zeros(n - n // 2)], np.zeros(n)):
        matrix = (vectors * values) @ vectors.T
        found, basis, left_out, products = leading_eigenpairs(lambda rows, matrix=matrix: rows @ matrix, n, 0.5)
        expected = np.sort(values[values > 0.5])[::-1]
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9 * max(values.max(), 1))
        np.testing.assert_allclose(basis.T @ basis, np.eye(len(expected)), atol=1e-9)
        np.testing.assert_allclose(matrix @ basis, basis * found, atol=1e-7 * max(values.max(), 1))
        assert left_out < 0.5 and products <= n


# ------------------------------------------------------------------------------------------------- cut at the bounds


def test_a_normal_cut_at_its_bounds_has_its_moments():
    # J = z^2 / 2 + (2 - 10 a)^2 / 2 of a uniform a: a normal of a about its MAP, cut at 0 and 1.
    problem = toy(lambda theta: [10 * theta["a"]], [0.2], a=Parameter.uniform(0.0, 1.0))
    result = solve(problem, GaussNewton(), progress=False)
    posterior = truncated_normal(problem, result, draws=8000, curvature="gauss-newton")
    middle, slope = float(result.theta["a"]), float(norm.pdf(result.z[0]))
    sd = 1 / np.sqrt(100 + 1 / slope**2)
    exact = truncnorm(-middle / sd, (1 - middle) / sd, middle, sd)
    a = np.asarray(posterior.theta()["a"])
    assert 0 <= a.min() < 1e-3 and abs(a.mean() - exact.mean()) < 4 * exact.std() / np.sqrt(8000)
    assert kstest(a, exact.cdf).pvalue > 0.01 and posterior.method == "truncated normal (gauss-newton)"
    assert posterior.details["raised"] == 0 and posterior.chains == 4 and not posterior.gaussian
    np.testing.assert_array_equal(posterior.z, truncated_normal(problem, result.z, draws=8000, curvature="gauss-newton").z)
    assert np.isfinite(posterior.z).all() and np.isfinite(posterior.covariance).all()


def test_chains_of_a_normal_with_bounds_far_away_are_the_laplace_posterior():
    problem, oracle = correlated_problem("whole")
    posterior = truncated_normal(problem, solve(problem, GaussNewton(), progress=False), draws=20000, key=1)
    mean, covariance = np.asarray(oracle.posterior_mean()), np.asarray(oracle.posterior_covariance())
    sd, x = np.sqrt(np.diag(covariance)), posterior.matrix()
    # Gibbs sampling of correlated parameters: fewer independent draws than draws.
    assert (np.abs(x.mean(axis=0) - mean) < 0.1 * sd).all()
    np.testing.assert_allclose(np.cov(x.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=0.1)


def test_correlated_parameters_are_cut_together():
    rng = np.random.default_rng(0)
    precision = np.linalg.inv([[1.0, 0.8], [0.8, 1.0]])
    low, high = np.array([-0.5, -np.inf]), np.array([np.inf, 0.3])
    found = np.asarray(_gibbs(jnp.asarray(precision), jnp.asarray(low), jnp.asarray(high), jax.random.split(jax.random.key(0), 20), 3000))
    found = found[:, 100:].reshape(-1, 2)
    drawn = rng.standard_normal((400000, 2)) @ np.linalg.cholesky(np.linalg.inv(precision)).T
    drawn = drawn[((drawn >= low) & (drawn <= high)).all(axis=1)]
    assert ((found >= low) & (found <= high)).all()
    np.testing.assert_allclose(found.mean(axis=0), drawn.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(np.cov(found.T), np.cov(drawn.T), atol=0.02)


def test_far_tails_keep_their_digits():
    for low, high in ((5.0, 6.0), (30.0, np.inf), (-9.0, -8.5), (-1.0, 20.0), (-np.inf, np.inf)):
        share = np.array([0.0, 0.1, 0.5, 0.9, 1 - 1e-16])
        found = np.asarray(_cut_normal(*(jnp.full(5, bound) for bound in (low, high)), jnp.asarray(share)))
        inner = slice(1, 4)
        np.testing.assert_allclose(found[inner], truncnorm(low, high).ppf(share)[inner], rtol=1e-6, atol=1e-9)
        assert ((found >= low) & (found <= high)).all() and not np.isnan(found).any()
    assert _cut_normal(jnp.array(60.0), jnp.array(61.0), jnp.array(0.3)) == 60.0


def test_a_hessian_that_is_not_positive_definite_is_raised_to_one():
    problem = toy(lambda theta: [theta["a"] ** 2, theta["b"]], [1.5, 0.1], sigma=0.5,
                  a=Parameter.uniform(-1.0, 1.0), b=Parameter.normal(0.0, 1.0))
    # At a = 0 J has a ridge: the normal is so wide in a that it fills the range.
    posterior = truncated_normal(problem, jnp.array([0.0, 0.1]), draws=4000)
    assert posterior.details["raised"] == 1 and "1 of 2 eigenvalues" in posterior.details["note"]
    theta = posterior.theta()
    assert kstest(theta["a"], uniform(-1, 2).cdf).pvalue > 0.01
    np.testing.assert_allclose(theta["b"].std(), 5**-0.5, rtol=0.05)
    for options in ({"curvature": "low-rank"}, {"draws": 10, "chains": 3}):
        with pytest.raises(ValueError, match="(?s)as many draws in each chain"):
            truncated_normal(problem, jnp.zeros(2), **options)


# ---------------------------------------------------------------------------------------------------------- covariances


def test_covariances_of_both_kinds_do_the_same():
    rng = np.random.default_rng(1)
    vectors = jnp.asarray(np.linalg.qr(rng.standard_normal((7, 2)))[0])
    low = LowRankCovariance(vectors, jnp.array([5.0, 0.3]))
    dense, rows = jnp.asarray(np.asarray(low)), jnp.asarray(rng.standard_normal((4, 7)))
    np.testing.assert_allclose(jnp.asarray(low), np.linalg.inv(np.eye(7) + (vectors * jnp.array([5.0, 0.3])) @ vectors.T), atol=1e-12)
    np.testing.assert_allclose(squared_distances(low, rows), squared_distances(dense, rows), rtol=1e-10)
    for covariance in (low, dense):
        root = times_root(covariance, jnp.eye(7))
        np.testing.assert_allclose(root.T @ root, dense, atol=1e-12)
    np.testing.assert_allclose(np.sqrt(np.diag(low)), np.sqrt(np.diag(dense)), rtol=1e-12)
    singular = np.outer(np.arange(3.0), np.arange(3.0))
    np.testing.assert_allclose(root_of(singular) @ root_of(singular).T, singular, atol=1e-12)
    with pytest.raises(ValueError, match="(?s)all 3 directions.*some along 1"):
        squared_distances(jnp.asarray(singular), rows[:, :3])


def test_the_public_name_is_the_function_whatever_was_imported_first():
    assert landcal_jax.laplace is laplace
