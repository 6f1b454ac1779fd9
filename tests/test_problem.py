"""The cost and its derivatives: terms, linearisation, density, batches of members, and the twin by finite differences."""

import os
import subprocess
import sys
import tempfile

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import multivariate_normal
from test_model import MODEL, THETA, constant_season

from landcal_jax.forward import AbstractForward, FunctionForward, SiteForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.operators import Pick, WindowMean
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs, evaluate
from landcal_jax.sites import Sites
from landcal_jax.solving import solve

STEPS = 60


def two_pool_problem(values=0.0, weight=1.0, units="gC m-2 d-1"):
    """Two streams of the two-pool model at one site: every second loss, correlated in time, and mean stores of ten days."""
    rng = np.random.default_rng(0)
    time = np.datetime64("2001-01-01") + np.arange(STEPS)
    lost = np.where(np.arange(STEPS) % 2, 2 + rng.standard_normal(STEPS) + values, np.nan)
    sites = Sites(
        jax.tree.map(lambda leaf: leaf[None], constant_season(STEPS)), jnp.arange(STEPS)[None], jnp.array([STEPS]), {}, ("A",))
    means = WindowMean("total", np.repeat(np.arange(6), 10)[None])
    streams = {
        "lost": Stream(lost, 0.5, Pick("lost"), model_error=0.2, correlation=ExponentialCorrelation(4.0), time=time, units=units),
        "total": Stream(50 + 5 * rng.standard_normal(6), 4.0, means, weight=weight, units="gC m-2")}
    space = ParameterSpace({name: Parameter.log_normal(float(value), 0.3) for name, value in THETA.items()})
    return Problem(space, SiteForward(MODEL, sites), Observations(streams))


@pytest.fixture(scope="module")
def problem():
    return two_pool_problem()


Z = jnp.array([0.3, -0.4, 0.2, 1.0, -1.2, 0.5])


def predictions(z):
    """The two-pool model in NumPy."""
    theta = {name: float(value) * np.exp(0.3 * float(step)) for (name, value), step in zip(THETA.items(), z, strict=True)}
    fast, slow, lost, total = theta["fast_0"], theta["slow_0"], [], []
    for _ in range(STEPS):
        decay, loss = theta["fast_rate"] * fast, theta["slow_rate"] * slow
        lost.append((1 - theta["share"]) * decay + loss)
        total.append(fast + slow)
        fast, slow = fast + theta["supply"] - decay, slow + theta["share"] * decay - loss
    return {"lost": np.array(lost), "total": np.array(total).reshape(6, 10).mean(axis=1)}


def test_predictions_and_terms_are_those_of_the_definition(problem):
    expected = predictions(Z)
    found = problem.predict(Z)
    for name in expected:
        np.testing.assert_allclose(found[name][0], expected[name], rtol=1e-12)
    at = np.arange(1, STEPS, 2)
    stream = problem.observations["lost"]
    R = (0.5**2 + 0.2**2) * np.exp(-np.abs(at[:, None] - at) / 4.0)
    error = np.asarray(stream.values)[0, at] - expected["lost"][at]
    terms = problem.terms(Z)
    np.testing.assert_allclose(terms["prior"], 0.5 * Z @ Z)
    np.testing.assert_allclose(terms["lost"], 0.5 * error @ np.linalg.solve(R, error), rtol=1e-12)
    error = np.asarray(problem.observations["total"].values)[0] - expected["total"]
    np.testing.assert_allclose(terms["total"], 0.5 * np.sum(error**2) / 16, rtol=1e-12)
    assert list(terms) == ["prior", "lost", "total"]
    np.testing.assert_allclose(problem.cost(Z), sum(terms.values()), rtol=1e-15)
    np.testing.assert_allclose(problem.cost(Z), 0.5 * np.sum(problem.residual_vector(Z) ** 2), rtol=1e-14)


def test_a_weight_multiplies_its_term_alone(problem):
    heavy = two_pool_problem(weight=3.0).terms(Z)
    for name, value in problem.terms(Z).items():
        np.testing.assert_allclose(heavy[name], value * (3 if name == "total" else 1), rtol=1e-14)


@eqx.filter_jit
def derivatives(problem, z, v, w):
    at = problem.linearise(z)
    r, jacobian = problem.jacobian(z)
    return at.r, at.jvp(v), at.vjp(w), at.vjp(at.r), r, jacobian, jax.jacrev(problem.residual_vector)(z)


def test_linearisation_and_jacobian_are_the_same_derivative(problem):
    of_v, of_w = jax.random.split(jax.random.key(0))
    v, w = jax.random.normal(of_v, (6,)), jax.random.normal(of_w, (6 + STEPS + 6,))
    r, jvp, vjp, gradient, value, jacobian, reverse = derivatives(problem, Z, v, w)
    assert jacobian.shape == (72, 6)
    np.testing.assert_allclose(value, problem.residual_vector(Z), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(r, value, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(jacobian, reverse, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(jvp, jacobian @ v, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(vjp, jacobian.T @ w, rtol=1e-11)
    np.testing.assert_array_equal(jacobian[:6], np.eye(6))
    cost, exact, terms = evaluate(problem, Z)
    np.testing.assert_allclose(gradient, exact, rtol=1e-11)
    np.testing.assert_allclose(cost, problem.cost(Z), rtol=1e-13)
    np.testing.assert_allclose(sum(terms.values()), cost, rtol=1e-14)
    step = 1e-5
    central = (costs(problem, Z + step * np.eye(6)) - costs(problem, Z - step * np.eye(6))) / (2 * step)
    np.testing.assert_allclose(exact, central, rtol=1e-7)


# ------------------------------------------------------------------------------------------------------------ the density


def linear_problem(oracle):
    """The oracle as a Problem: full B in the space; its full R by whitening the observations, whose sigma is then one."""
    n, root = oracle.x_b.size, jnp.linalg.cholesky(oracle.R)
    prior = Parameter.normal(np.asarray(oracle.x_b), np.ones(n), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(n)]}, covariance=oracle.B)

    def function(theta):
        return {"y": jax.scipy.linalg.solve_triangular(root, oracle(theta["x"]), lower=True)[None]}

    return Problem(space, FunctionForward(function), Observations({"y": Stream(np.linalg.solve(root, oracle.y), 1.0)}))


def test_density_is_the_joint_normal_of_parameters_and_observations():
    oracle = LinearGaussian.random(jax.random.key(2), n=3, m=5)
    problem = linear_problem(oracle)
    z = jnp.array([0.4, -1.0, 0.3])
    x = np.asarray(problem.theta(z)["x"])
    np.testing.assert_allclose(x, oracle.x_b + np.linalg.cholesky(oracle.B) @ z, rtol=1e-12)
    likelihood = multivariate_normal(np.asarray(oracle(x)), np.asarray(oracle.R)).logpdf(np.asarray(oracle.y))
    # Of whitened observations the density is larger by the determinant of the whitening.
    whitening = 0.5 * np.linalg.slogdet(np.asarray(oracle.R))[1]
    expected = multivariate_normal(np.zeros(3), np.eye(3)).logpdf(z) + likelihood + whitening
    np.testing.assert_allclose(problem.log_density(z), expected, rtol=1e-12)


def test_density_integrates_to_the_evidence_and_counts_what_is_observed():
    def problem(values):
        forward = FunctionForward(lambda theta: {"y": jnp.stack([2 * theta["a"], theta["a"], -theta["a"]])[None]})
        space = ParameterSpace({"a": Parameter.normal(1.0, 0.5)})
        return Problem(space, forward, Observations({"y": Stream(values, [0.3, 0.4, 0.5], model_error=0.2)}))

    for values in ([1.5, np.nan, 0.1], [1.5, 0.7, 0.1]):
        one = problem(values)
        density = eqx.filter_jit(one.log_density)
        area = quad(lambda z, density=density: float(jnp.exp(density(jnp.array([z])))), -9, 9, epsabs=0, epsrel=1e-10, limit=200)[0]
        at = np.flatnonzero(~np.isnan(values))
        A = np.array([2.0, 1.0, -1.0])[at]
        cover = np.outer(A, A) * 0.25 + np.diag(np.array([0.3, 0.4, 0.5])[at] ** 2 + 0.04)
        np.testing.assert_allclose(area, multivariate_normal(A, cover).pdf(np.array(values)[at]), rtol=1e-8)


# ------------------------------------------------------------------------------------------------------ members and failures


def failing(theta):
    a = theta["a"]
    return {"y": jnp.stack([jnp.sqrt(a), a**2])[None]}  # NaN below zero


def failing_problem():
    space = ParameterSpace({"a": Parameter.normal(1.0, 1.0)})
    return Problem(space, FunctionForward(failing), Observations({"y": Stream([1.0, 1.0], 0.1)}))


def test_members_in_batches_are_the_members_one_by_one(problem):
    Z = np.asarray(problem.space.sample(jax.random.key(0), 7))
    for batch_size in (3, 7, 100):
        found = problem.ensemble(Z, batch_size=batch_size)
        assert found["lost"].shape == (7, 1, STEPS) and found["total"].shape == (7, 1, 6)
        for member, z in enumerate(Z):
            for name, one in problem.predict(z).items():
                np.testing.assert_allclose(found[name][member], one, rtol=1e-13)
    np.testing.assert_allclose(costs(problem, Z, batch_size=4), [problem.cost(z) for z in Z], rtol=1e-13)


def test_a_member_that_fails_is_nan_and_harms_no_other():
    problem = failing_problem()
    found = problem.ensemble(np.array([[0.0], [-3.0], [1.0]]))["y"]
    assert np.isnan(found[1, 0, 0])
    np.testing.assert_allclose(found[::2, 0], [[1, 1], [np.sqrt(2), 4]])
    np.testing.assert_array_equal(np.isnan(costs(problem, np.array([[0.0], [-3.0], [1.0]]))), [False, True, False])


def test_what_is_masked_changes_neither_the_cost_nor_its_gradient():
    def problem(values):
        forward = FunctionForward(lambda theta: {"y": jnp.stack([theta["a"], jnp.nan, theta["a"] ** 2])[None]})
        return Problem(ParameterSpace({"a": Parameter.normal(1.0, 1.0)}), forward, Observations({"y": Stream(values, 0.5)}))

    z = jnp.array([0.5])
    value, gradient, terms = evaluate(problem([1.0, np.nan, 3.0]), z)
    np.testing.assert_allclose(terms["y"], 2 * (0.5**2 + 0.75**2))
    np.testing.assert_allclose(gradient, [0.5 + 4 * (0.5 - 3 * (3 - 2.25))])
    assert np.isfinite(problem([1.0, np.nan, 3.0]).jacobian(z)[1]).all()
    both = Stream([1.0, 77.0, 3.0], [0.5, 1e-9, 0.5], mask=[True, False, True])
    other = problem([1.0, 2.0, 3.0]).with_observations(Observations({"y": both}))
    assert other.cost(z) == value
    np.testing.assert_array_equal(evaluate(other, z)[1], gradient)


# ------------------------------------------------------------------------------------------------------ finite differences


def test_the_twin_by_finite_differences_has_the_same_cost_and_nearly_its_derivatives(problem):
    twin = problem.finite_difference(1e-6)
    exact, near = (derivatives(one, Z, Z, jnp.ones(72)) for one in (problem, twin))
    np.testing.assert_allclose(twin.cost(Z), problem.cost(Z), rtol=1e-14)
    size = np.abs(exact[5]).max()
    error = np.abs(near[5] - exact[5]).max()
    assert 1e-11 * size < error < 1e-5 * size  # near, but not the exact one
    np.testing.assert_allclose(near[1], exact[1], atol=1e-5 * size)
    np.testing.assert_allclose(near[2], exact[2], atol=1e-4 * size)
    # With a larger step the error of forward differences grows in proportion.
    coarse = derivatives(problem.finite_difference(1e-3), Z, Z, jnp.ones(72))
    np.testing.assert_allclose(np.abs(coarse[5] - exact[5]).max() / error, 1000, rtol=0.1)


def test_a_twin_stays_one_with_other_observations_and_forward_map(problem):
    twin = problem.finite_difference(1e-5)
    assert twin.with_observations(problem.observations).difference_step == 1e-5
    assert twin.with_forward(problem.forward).difference_step == 1e-5


# ----------------------------------------------------------------------------------------------------- pytree, errors, text


def test_other_numbers_do_not_compile_again(problem):
    @eqx.filter_jit
    def cost(problem, z):
        traced.append(1)
        return problem.cost(z)

    traced = []
    first = cost(problem, Z)
    other = two_pool_problem(values=1.0, weight=2.0)
    values = {cost(other, Z).item(), cost(problem, 2 * Z).item(), cost(other, -Z).item(), first.item()}
    assert len(traced) == 1
    assert len(values) == 4
    np.testing.assert_allclose(first, problem.cost(Z), rtol=1e-14)
    assert all(eqx.is_array(leaf) or callable(leaf) for leaf in jax.tree.leaves(problem))


class Blind(AbstractForward):
    """A forward map without derivatives."""

    differentiable: bool = eqx.field(static=True, default=False)
    description = "an executable"
    name = "executable"

    def __call__(self, theta, operators):
        return {"y": jnp.zeros((1, 2))}


def test_a_problem_without_derivatives_says_what_would_work():
    blind = failing_problem().with_forward(Blind())
    with pytest.raises(TypeError, match="(?s)differentiable forward map for LevenbergMarquardt.*an executable.*ensemble or search"):
        solve(blind, LevenbergMarquardt())
    assert blind.cost(jnp.zeros(1)) == 100.0


def test_units_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="(?s)gC m-2 d-1.*umol"):
        two_pool_problem(units="umol m-2 s-1")


def test_a_function_that_lacks_a_stream_or_is_given_an_operator_is_refused(problem):
    space = ParameterSpace({"a": Parameter.normal(1.0, 1.0)})
    lacking = Problem(space, FunctionForward(failing), Observations({"x": Stream([1.0], 1.0)}))
    with pytest.raises(ValueError, match="(?s)streams x.*y"):
        lacking.cost(jnp.zeros(1))
    operated = Problem(space, FunctionForward(failing), Observations({"y": Stream([1.0, 1.0], 1.0, Pick("lost"))}))
    with pytest.raises(ValueError, match="without operator"):
        operated.cost(jnp.zeros(1))
    shaped = Problem(space, FunctionForward(failing), Observations({"y": Stream([1.0, 1.0, 2.0], 1.0)}))
    with pytest.raises(ValueError, match=r"(?s)shape \(1, 3\).*\(1, 2\)"):
        shaped.cost(jnp.zeros(1))
    with pytest.raises(ValueError, match="6"):
        problem.cost(jnp.zeros(4))


def test_printing_shows_parameters_streams_counts_and_weights():
    text = str(two_pool_problem(weight=2.5))
    assert text.splitlines()[0] == "Problem: 6 free parameters, 36 observed values"
    for part in ("TwoPools at A (initial pools from theta)", "lost [gC m-2 d-1]", "observed     30", "mean of total over 6 windows",
                 "exponential, 4 days", "model error 0.2", "weight       2.5", "slow_rate"):
        assert part in text
    assert "function failing" in str(failing_problem())


def test_single_precision_is_noticed():
    """In a process of its own, since the precision is one of the process."""
    script = """
import jax, numpy as np, warnings, landcal_jax as lc
space = lc.ParameterSpace({"a": lc.Parameter.normal(0.0, 1.0)})
forward = lc.FunctionForward(lambda theta: {"y": theta["a"][None, None]})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    problem = lc.Problem(space, forward, lc.Observations({"y": lc.Stream([1.0], 1.0)}))
assert any("single precision" in str(each.message) for each in caught)
draws = [lc.smc(problem, particles=32, progress=False, checkpoint=__import__("sys").argv[1]).z for _ in range(2)]
assert draws[0].dtype == "float32" and np.array_equal(*draws)
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-W", "ignore", "-c", script, f"{folder}/state.npz"], check=True,
                       env=os.environ | {"JAX_ENABLE_X64": "0"})
