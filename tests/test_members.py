"""Members: draws of the prior, their whitened residuals, and the rule for runs that fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_problem import two_pool_problem

from landcal_jax.forward import FunctionForward
from landcal_jax.members import FailedRuns, cost_terms, draw_members, no_terms, run_members, whitened
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem


def cliff(limit=1.0):
    """One stream of two values of a and b; the model is NaN where a > limit, and at a third, masked value everywhere."""
    def function(theta):
        a = jnp.where(theta["a"] > limit, jnp.nan, theta["a"])
        return {"y": jnp.stack([a, theta["b"], jnp.nan * a])[None]}

    space = ParameterSpace({"a": Parameter.normal(0.0, 2.0), "b": Parameter.normal(0.0, 1.0)})
    return Problem(space, FunctionForward(function), Observations({"y": Stream([0.5, 0.5, np.nan], 1.0)}))


Z = jnp.array([[0.0, 1.0], [0.2, 0.0], [3.0, 2.0], [-1.0, 0.5]])  # the third fails


@pytest.fixture(scope="module")
def pools():
    return two_pool_problem()


def test_draws_have_the_moments_of_the_prior_exactly(pools):
    Z = np.asarray(draw_members(pools, jax.random.key(0), 7))
    assert Z.shape == (7, 6)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-14)
    np.testing.assert_allclose(np.cov(Z, rowvar=False), np.eye(6), atol=1e-12)
    few = np.asarray(draw_members(pools, jax.random.key(0), 4))
    np.testing.assert_allclose(few.mean(axis=0), 0, atol=1e-14)
    plain = np.asarray(draw_members(pools, jax.random.key(0), 7, exact=False))
    np.testing.assert_array_equal(plain, pools.space.sample(jax.random.key(0), 7))
    with pytest.raises(ValueError, match="(?s)seed or key.*key=None"):
        draw_members(pools, None, 7)
    with pytest.raises(ValueError, match="two members"):
        draw_members(pools, jax.random.key(0), 1)


def test_residuals_are_those_of_the_problem_where_something_was_observed(pools):
    # R is correlated in time here, and every second value is masked.
    Z = pools.space.sample(jax.random.key(3), 5)
    residuals = whitened(pools, pools.ensemble(Z))
    for member, z in enumerate(Z):
        expected = pools.residuals(z)
        for name, stream in pools.observations.items():
            assert residuals[name].shape == (5, int(stream.count))
            np.testing.assert_allclose(residuals[name][member], np.asarray(expected[name])[np.asarray(stream.mask)], rtol=1e-10, atol=1e-10)
        terms = cost_terms(z, residuals, member)
        for name, value in pools.terms(z).items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-10)
    assert list(no_terms(pools)) == list(pools.terms(Z[0]))


def test_members_that_fail_are_left_out_and_counted():
    ran = run_members(cliff(), Z)
    assert ran.finished.tolist() == [True, True, False, True]
    assert ran.runs == 4 and ran.failures == 1
    np.testing.assert_array_equal(ran.z, Z)
    np.testing.assert_allclose(ran.predicted["y"][1, 0, :2], [0.4, 0.0])
    # A masked value is NaN in every member, and none has failed by it.
    assert np.isnan(ran.predicted["y"][:, 0, 2]).all()


def test_members_that_fail_are_pulled_in():
    ran = run_members(cliff(), Z, FailedRuns("pull in"))
    # Half-way to the mean of those that ran: a at 3, 1.37, 0.55 and then 0.14 standard deviations of 2.
    centre = np.array([-0.8 / 3, 0.5])
    expected = np.asarray(Z[2])
    for _ in range(3):
        expected = 0.5 * (expected + centre)
        if 2 * expected[0] <= 1:
            break
    assert ran.finished.all()
    np.testing.assert_allclose(ran.z[2], expected)
    np.testing.assert_allclose(ran.predicted["y"][2, 0, :2], [2 * expected[0], expected[1]])
    assert ran.runs == 4 + 3 and ran.failures == 3
    short = run_members(cliff(), Z, FailedRuns("pull in", attempts=1))
    assert short.finished.tolist() == [True, True, False, True] and short.runs == 5 and short.failures == 2


def test_too_many_failures_are_refused_with_where_they_are():
    with pytest.raises(RuntimeError, match=r"(?s)at most 20% of the members.*1 of 4, at a 6 to 6.*pull in"):
        run_members(cliff(), Z, FailedRuns(limit=0.2))
    with pytest.raises(RuntimeError, match=r"4 of 4, all of them"):
        run_members(cliff(-9.0), Z)
    assert not run_members(cliff(-9.0), Z, FailedRuns(limit=1.0)).finished.any()


@pytest.mark.parametrize("wrong", [{"rule": "drop"}, {"limit": 1.5}, {"attempts": 0}])
def test_a_wrong_rule_is_refused(wrong):
    with pytest.raises(ValueError, match="leave out"):
        FailedRuns(**wrong)
