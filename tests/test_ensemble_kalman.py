"""Ensemble Kalman solvers: what too few members see, what is left when the last run fails, and how long their steps are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.ensemble_kalman import EKI, ESMDA, ETKI, UnscentedKalmanInversion
from landcal_jax.forward import FunctionForward
from landcal_jax.members import draw_members
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.solvers import SolveError, Status
from landcal_jax.solving import solve


def answer(problem, solver, **options):
    return solve(problem, solver, **{"key": 0, "progress": False} | options)


class Linear:
    """y = A x, NaN where the distance of x from a point is below `radius`: a model that crashes in the middle of the members."""

    def __init__(self, A, middle=0.0, radius=0.0):
        self.A, self.middle, self.radius = A, middle, radius

    def __call__(self, theta):
        near = jnp.sqrt(jnp.sum((theta["x"] - self.middle) ** 2)) < self.radius
        return {"y": jnp.where(near, jnp.nan, self.A @ theta["x"])[None]}


def linear(A, y, middle=0.0, radius=0.0):
    """Observations y with error one of A x, x from N(0, I): z is x."""
    number = A.shape[1]
    prior = Parameter.normal(np.zeros(number), np.ones(number), dims="element")
    space = ParameterSpace({"x": prior}, coords={"element": [str(n) for n in range(number)]})
    return Problem(space, FunctionForward(Linear(A, middle, radius)), Observations({"y": Stream(y, 1.0)}))


def wide(number=12, observed=20):
    rng = np.random.default_rng(1)
    A = rng.standard_normal((observed, number))
    return linear(A, A @ rng.standard_normal(number) + rng.standard_normal(observed))


def minimum(problem):
    A, y = problem.forward.function.A, np.asarray(problem.observations["y"].values)[0]
    return np.linalg.solve(np.eye(A.shape[1]) + A.T @ A, A.T @ y)


WIDE = wide()

# ------------------------------------------------------------------------------------------------------------ too few members


@pytest.mark.parametrize("make", [EKI, ETKI, ESMDA, lambda size: ETKI(size=size, to="minimum")], ids=["EKI", "ETKI", "ESMDA", "minimum"])
def test_members_that_do_not_span_the_space_say_so(make):
    lowest = float(WIDE.cost(minimum(WIDE)))
    few, enough = (answer(WIDE, make(size=size)) for size in (12, 13))
    assert few.status is Status.SUBSPACE and few.status >= 0
    assert str(few.details["span"]) == "12 members span 11 of 12 directions"
    assert few.cost > lowest + 0.1
    assert enough.status in (Status.ANALYSIS, Status.COLLAPSED) and "span" not in enough.details
    # Copies add nothing.
    members = jnp.tile(draw_members(WIDE, jax.random.key(2), 9), (3, 1))
    if make is ETKI:
        copies = answer(WIDE, ETKI(members=members))
        assert copies.status is Status.SUBSPACE and str(copies.details["span"]) == "27 members span 8 of 12 directions"
        np.testing.assert_allclose(enough.cost, lowest, rtol=1e-9)


def test_members_that_failed_do_not_span_either():
    A = np.eye(3)
    members = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    whole = answer(linear(A, np.ones(3)), ETKI(members=members))
    assert whole.status is Status.ANALYSIS
    result = answer(linear(A, np.ones(3), middle=np.array([1.0, 0, 0]), radius=1e-3), ETKI(members=members))
    assert result.status is Status.SUBSPACE and "3 members span 2 of 3" in str(result.details["span"])


@pytest.mark.parametrize("make", [EKI, ETKI, ESMDA])
def test_without_a_number_there_are_more_members_than_parameters(make):
    assert len(answer(WIDE, make(), max_steps=1).details["members_z"]) == 100
    sixty = wide(60, 30)
    result = answer(sixty, make())
    assert len(result.details["members_z"]) == 120 and result.status is Status.ANALYSIS
    if make is ETKI:
        np.testing.assert_allclose(result.cost, sixty.cost(minimum(sixty)), rtol=1e-9)
        exact = np.linalg.inv(np.eye(60) + sixty.forward.function.A.T @ sixty.forward.function.A)
        np.testing.assert_allclose(from_ensemble(sixty, result).covariance, exact, atol=1e-9)


# --------------------------------------------------------------------------------------------------- runs that fail at the end


def test_a_last_mean_that_fails_leaves_the_members():
    """Two members, one to each side of the last mean, where the model crashes."""
    A, y = np.eye(2), np.array([2.0, -1.0])
    good, failing = linear(A, y), linear(A, y, middle=minimum(linear(A, y)), radius=1e-3)
    expected = answer(good, ETKI(size=20))
    with pytest.raises(SolveError, match="(?s)the run at the analysis, or at the mean of the members, failed") as caught:
        answer(failing, ETKI(size=20))
    result = caught.value.result
    assert result.status is Status.RUN_FAILED and result.status < 0 and "start" not in str(caught.value)
    np.testing.assert_allclose(result.z, minimum(good), atol=1e-9)
    np.testing.assert_allclose(result.details["posterior_z"], expected.details["posterior_z"])
    np.testing.assert_allclose(from_ensemble(failing, result).covariance, np.eye(2) / 2, atol=1e-9)
    assert result.details["failed_runs"] == 1


def test_an_unscented_mean_that_fails_leaves_the_gaussian_and_a_start_that_fails_is_the_start():
    A, y = np.eye(2), np.array([2.0, -1.0])
    good = linear(A, y)
    end = minimum(good)
    # The means of the linear case halve their distance from the end with each step: the failing ones are the last.
    result = answer(linear(A, y, middle=end, radius=1.5e-3), UnscentedKalmanInversion(tolerance=0.002), throw=False)
    assert result.status is Status.RUN_FAILED
    np.testing.assert_allclose(result.details["posterior_covariance"], np.eye(2) / 2, rtol=0.01)
    start = answer(linear(A, y, radius=1e-3), UnscentedKalmanInversion(), throw=False)
    assert start.status is Status.NOT_FINITE and start.counts["forward"] == 5
    on_the_way = answer(linear(A, y, middle=end, radius=0.5), UnscentedKalmanInversion(), throw=False)
    assert on_the_way.status is Status.RUN_FAILED and on_the_way.counts["forward"] > 5


# ------------------------------------------------------------------------------------------------------------------- the steps


def misfits(problem, members):
    return 0.5 * np.sum((np.asarray(problem.observations["y"].values)[0] - members @ problem.forward.function.A.T) ** 2, axis=1)


@pytest.mark.parametrize(("scale", "ruling"), [(0.2, "spread"), (4.0, "mean")])
def test_adaptive_steps_are_those_of_iglesias_and_yang(scale, ruling):
    """1/alpha = max(m / (2 <Phi>), sqrt(m / (2 var Phi))) of Iglesias & Yang (2021), for the first step of given members."""
    rng = np.random.default_rng(3)
    members, problem = scale * rng.standard_normal((15, 4)), linear(2 * rng.standard_normal((7, 4)), 5 + rng.standard_normal(7))
    phi = misfits(problem, members)
    of_mean, of_spread = 7 / 2 / np.mean(phi), np.sqrt(7 / 2 / np.mean((phi - phi.mean()) ** 2))
    expected = {"mean": of_mean, "spread": of_spread}[ruling]
    assert expected == max(of_mean, of_spread) < 0.5
    for solver in (ETKI, EKI):
        result = answer(problem, solver(members=jnp.asarray(members)), max_steps=1)
        np.testing.assert_allclose(result.details["time"], expected, rtol=1e-9)


def test_the_number_of_steps_is_that_of_the_recursion():
    """Steps and their times of the transform, repeated by hand with the formulas of Kalman in the space of the parameters."""
    rng = np.random.default_rng(0)
    A, y = 3 * rng.standard_normal((6, 3)), 8 + rng.standard_normal(6)
    problem = linear(A, y)
    members = np.asarray(draw_members(problem, jax.random.key(7), 30))
    time, steps, mean, covariance = 0.0, 0, members.mean(axis=0), np.cov(members, rowvar=False)
    X = members
    while time < 1 - 1e-9:
        phi = misfits(problem, X)
        inverse = min(max(6 / (2 * phi.mean()), np.sqrt(6 / (2 * phi.var()))), 1 - time)
        gain = covariance @ A.T @ np.linalg.inv(A @ covariance @ A.T + np.eye(6) / inverse)
        # The symmetric square root in the space of the members keeps the moments; members by the same transform.
        anomalies = (X - mean) / np.sqrt(len(X) - 1)
        values, vectors = np.linalg.eigh(np.eye(len(X)) + inverse * anomalies @ A.T @ A @ anomalies.T)
        mean = mean + gain @ (y - A @ mean)
        X = mean + np.sqrt(len(X) - 1) * (vectors / np.sqrt(values)) @ vectors.T @ anomalies
        covariance = np.cov(X, rowvar=False)
        time, steps = time + inverse, steps + 1
    result = answer(problem, ETKI(members=jnp.asarray(members)))
    assert steps > 4 and result.details["steps"] == steps
    assert result.counts["forward"] == steps * 31 + 1
    np.testing.assert_allclose(result.details["posterior_z"], X, rtol=1e-7, atol=1e-9)


# -------------------------------------------------------------------------------------------------------------- wrong settings


def test_inflations_are_a_whole_number_or_one_a_step():
    one, same, listed = (answer(WIDE, ESMDA(size=20, inflations=given)) for given in (4, np.int64(4), [4, 4, 4, 4]))
    np.testing.assert_array_equal(one.z, same.z)
    np.testing.assert_array_equal(one.z, listed.z)
    for wrong in (4.0, "4", None):
        with pytest.raises(TypeError, match="(?s)Expected: a whole number of steps.*Got:.*Try:"):
            ESMDA(inflations=wrong)
    with pytest.raises(ValueError, match="sum to one"):
        ESMDA(inflations=0)
