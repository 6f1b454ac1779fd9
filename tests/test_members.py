"""Members: draws of the prior, their whitened residuals, and the rule for runs that fail."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_problem import two_pool_problem

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.forward import FunctionForward
from landcal_jax.members import FailedRuns, cost_terms, draw_members, no_terms, run_members, whitened
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.solving import solve


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
    with pytest.raises(RuntimeError, match=r"(?s)at most 20% of the members.*1 of 4, at a 6 to 6, which may be chance.*pull in"):
        run_members(cliff(), Z, FailedRuns(limit=0.2))
    with pytest.raises(RuntimeError, match=r"4 of 4, all of them, wherever they were: a -2 to 6, b 0 to 2\n"):
        run_members(cliff(-9.0), Z)
    assert not run_members(cliff(-9.0), Z, FailedRuns(limit=1.0)).finished.any()


def six(fails):
    """Six parameters a to f, each observed; NaN where `fails` of them by name."""
    def function(theta):
        return {"y": jnp.where(fails(theta), jnp.nan, jnp.stack([theta[name] for name in "abcdef"]))[None]}

    space = ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in "abcdef"})
    return Problem(space, FunctionForward(function), Observations({"y": Stream(np.zeros(6), 1.0)}))


def words(problem, size=60, limit=0.01):
    """Where the runs of `size` draws of the prior fail, as the error says it, and the draws."""
    Z = problem.space.sample(jax.random.key(3), size)
    with pytest.raises(RuntimeError) as caught:
        run_members(problem, Z, FailedRuns(limit=limit))
    return str(caught.value).splitlines()[1].split(" of 60, ")[1], np.asarray(Z)


def test_the_parameters_that_tell_where_runs_fail_are_named_and_no_other():
    said, Z = words(six(lambda theta: jnp.abs(theta["d"]) > 0.5))
    inside = Z[np.abs(Z[:, 3]) <= 0.5, 3]
    assert said == f"at d outside {inside.min():.4g} to {inside.max():.4g}"
    said, Z = words(six(lambda theta: theta["b"] > 0.3))
    above = Z[Z[:, 1] > 0.3, 1]
    assert said == f"at b {above.min():.4g} to {above.max():.4g}"
    # Failures in the middle lie within the good ones.
    said, Z = words(six(lambda theta: jnp.abs(theta["e"]) < 0.6))
    within = Z[np.abs(Z[:, 4]) < 0.6, 4]
    assert said == f"at e {within.min():.4g} to {within.max():.4g}"
    said, _ = words(six(lambda theta: (theta["a"] > 1) | (theta["f"] > 1)))
    assert sorted(part.split()[0] for part in said.removeprefix("at ").split(", ")) == ["a", "f"]
    # By chance: the fifth decimal of a parameter decides.
    said, _ = words(six(lambda theta: (theta["a"] * 1e4) % 1 > 0.5))
    assert said.endswith("may be chance: no single parameter tells them from the others") and said.count(" to ") == 1
    said, Z = words(six(lambda theta: theta["a"] > -99))
    assert said.startswith(f"all of them, wherever they were: a {Z[:, 0].min():.4g} to {Z[:, 0].max():.4g}, b ")
    assert said.endswith(" and 3 more")


def test_a_black_box_says_why_its_runs_failed(tmp_path):
    observations = Observations({"y": Stream(np.zeros(2), 1.0)})

    def model(theta, folder):
        if theta["a"] > 0.3:
            raise ValueError("pools below zero" if theta["a"] > 0.5 else "no spin-up")
        return {"y": np.full(2, theta["a"])}

    space = ParameterSpace({"a": Parameter.normal(0.0, 1.0)})
    forward = BlackBoxForward(model, observations=observations, store=tmp_path, workers=1)
    problem = Problem(space, forward, observations)
    assert forward.failure_words() == "" and cliff().forward.failure_words() == ""
    with pytest.raises(RuntimeError) as caught:
        run_members(problem, jnp.array([[0.0], [0.4], [1.0], [2.0], [3.0]]))
    got = str(caught.value).splitlines()[1]
    assert "4 of 5, at a 0.4 to 3" in got and "most often said 'ValueError: pools below zero" in got
    assert "(3 of 4 failed runs, one of them kept in " in got
    kept = Path(got.split("kept in ")[1].rstrip(")"))
    assert kept.is_dir() and tmp_path in kept.parents


def test_points_that_are_only_tried_are_exempt_from_the_limit_and_counted():
    """The cliff is close to the minimum: trial steps of the iterated 4DEnVar fall off it."""
    result = solve(cliff(0.3), IterativeFourDEnVar(), failed=FailedRuns(limit=0.0), key=0, progress=False)
    # J is lowest at a = 0.4: the solve ends at the edge, and most of its runs were trials beyond it.
    np.testing.assert_allclose(result.theta["a"], 0.3, atol=1e-6)
    assert result.details["failed_runs"] > 0.5 * result.counts["forward"] > 10
    assert "exempt" in FailedRuns.__doc__ and "failed_runs" in FailedRuns.__doc__ and "only tries" in solve.__doc__


@pytest.mark.parametrize("wrong", [{"rule": "drop"}, {"limit": 1.5}, {"attempts": 0}])
def test_a_wrong_rule_is_refused(wrong):
    with pytest.raises(ValueError, match="leave out"):
        FailedRuns(**wrong)
