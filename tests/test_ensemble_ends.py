"""How 4DEnVar ends, and what it says then: spans, models of few digits, failed means, where there is no posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_conformance import BY_RUNS, ROWS, TIMES, linear_gaussian, problem_of
from test_ensemble_solvers import DECAY, answer, decay

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.forward import FunctionForward
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.solvers import Status

T = np.linspace(0, 1, 30)


# ------------------------------------------------------------------------------------------------------------------ the span


def linear(n):
    """y = A x with a random A, x ~ N(0, I), and its minimum."""
    rng = np.random.default_rng(1)
    A, y = rng.standard_normal((80, n)), rng.standard_normal(80)
    space = ParameterSpace({"x": Parameter.normal(np.zeros(n), np.ones(n), dims="entry")}, coords={"entry": [str(i) for i in range(n)]})
    problem = Problem(space, FunctionForward(lambda theta: {"y": (jnp.asarray(A) @ theta["x"])[None]}), Observations({"y": Stream(y, 1.0)}))
    return problem, 0.5 * y @ np.linalg.solve(np.eye(80) + A @ A.T, y)


def test_the_default_ensemble_spans_every_space_and_a_smaller_one_says_what_it_spans():
    problem, exact = linear(60)
    result = answer(problem, IterativeFourDEnVar())
    np.testing.assert_allclose(result.cost, exact, rtol=1e-8)
    assert result.status is Status.CONVERGED and str(result.details["span"]) == "the members span all directions"
    few = answer(problem, IterativeFourDEnVar(size=50))
    assert few.status is Status.SUBSPACE and "50 members span 49 of 60 directions" in str(few.details["span"])
    assert few.cost > 1.05 * exact
    drawn = problem.space.sample(jax.random.key(0), 61)
    flat = answer(problem, IterativeFourDEnVar(members=drawn.at[:, 3].set(0.5), scaling=None))
    assert flat.status is Status.SUBSPACE and "61 members span 59 of 60" in str(flat.details["span"])


def test_a_single_loop_in_a_subspace_is_no_plain_analysis_but_doubts_come_first():
    problem, _ = linear(12)
    assert answer(problem, FourDEnVar(size=13)).status is Status.ANALYSIS
    few = answer(problem, FourDEnVar(size=12))
    assert few.status is Status.SUBSPACE and "12 members span 11 of 12 directions" in str(few.details["span"])
    doubtful = answer(decay(truth={"a": 30.0, "k": 0.05}), FourDEnVar(size=2), throw=False)
    assert doubtful.status is Status.OUT_OF_SPAN and "2 members span 1 of 2" in str(doubtful.details["span"])


# --------------------------------------------------------------------------------------------------- models of few digits


def growth(theta):
    return theta["a"] * np.exp(theta["b"] * T) + theta["c"] * T


def printed(decimals=None, run=growth):
    """a exp(b t) + c t, as a model prints it."""
    space = ParameterSpace({"a": Parameter.normal(1.0, 0.5), "b": Parameter.normal(0.5, 0.5), "c": Parameter.normal(0.0, 1.0)})
    y = growth({"a": 1.7, "b": 0.9, "c": 0.4}) + 0.1 * np.random.default_rng(0).standard_normal(30)
    observations = Observations({"y": Stream(y, 0.1)})

    def rounded(theta):
        return {"y": run(theta) if decimals is None else np.round(run(theta), decimals)}

    return Problem(space, BlackBoxForward(rounded, observations=observations), observations)


SMOOTH = answer(printed(), IterativeFourDEnVar())


def spread(problem, result):
    return np.sqrt(np.diag(from_ensemble(problem, result).covariance))


@pytest.mark.parametrize("decimals", [2, 3, 4, 6])
def test_a_model_that_prints_few_digits_is_brought_to_its_minimum(decimals):
    problem = printed(decimals)
    result = answer(problem, IterativeFourDEnVar())
    assert result.status is Status.CONVERGED and result.counts["forward"] < 250
    np.testing.assert_allclose(result.cost, SMOOTH.cost, rtol=0.03)
    np.testing.assert_allclose(spread(problem, result), spread(printed(), SMOOTH), rtol=0.2)
    # The fewer digits, the wider the bundle; without rounding it is as narrow as it may be.
    width = {2: 0.1, 3: 0.01, 4: 1e-3, 6: 1e-5}[decimals]
    assert width < result.details["width"].max() <= 1.0
    np.testing.assert_allclose(SMOOTH.details["width"], 1e-4)


@pytest.mark.parametrize("scaling", [1e-6, 1e-4])
def test_a_bundle_that_changes_no_observed_value_is_widened(scaling):
    # At the prior mean, which is the start, it would look like the minimum.
    problem = printed(3)
    result = answer(problem, IterativeFourDEnVar(scaling=scaling))
    assert result.cost < 1.05 * SMOOTH.cost and result.details["width"].max() > 1e-2
    deaf = answer(printed(run=lambda theta: 0 * T), IterativeFourDEnVar())
    assert deaf.status is Status.CONVERGED and (deaf.details["width"] == 1.0).all()
    np.testing.assert_allclose(spread(printed(), deaf), 1.0)


def test_the_transform_form_keeps_the_root_of_members_that_tell_something():
    problem = printed(2)
    result = answer(problem, IterativeFourDEnVar(scaling=None))
    np.testing.assert_allclose(result.cost, SMOOTH.cost, rtol=0.05)
    np.testing.assert_allclose(spread(problem, result), spread(printed(), SMOOTH), rtol=0.3)


# --------------------------------------------------------------------------------------------------------------- the mean


def holed(width=0.05):
    """The growth without rounding, which fails close to its prior mean, and for large a."""
    def run(theta):
        if abs(theta["a"] - 1.0) < width and abs(theta["b"] - 0.5) < width or theta["a"] > 2.2:
            raise ValueError("dry")
        return growth(theta)

    return printed(run=run)


def shown(problem, solver, **options):
    """Result, and z with J at each iteration."""
    steps = []
    result = answer(problem, solver, watch=lambda now: steps.append((now.z, sum(map(float, now.terms.values())))), **options)
    return result, steps


def members_about_the_mean(problem):
    drawn = np.asarray(problem.space.sample(jax.random.key(2), 20))
    return jnp.asarray(drawn - drawn.mean(axis=0))


def test_a_mean_that_fails_does_not_cost_the_members():
    problem, members = holed(), members_about_the_mean(holed())
    result, steps = shown(problem, FourDEnVar(members=members))
    assert result.status >= 0 and result.details["failed_runs"] == 1 and result.details["left_out"] == 0
    assert "run of the mean of the members failed" in str(result.details["span"])
    assert np.isnan(steps[0][1])
    np.testing.assert_allclose(steps[1][1], problem.cost(steps[1][0]), rtol=1e-9)
    # By hand, about the mean of the predictions.
    h = np.stack([growth(dict(zip("abc", [1 + 0.5 * z[0], 0.5 + 0.5 * z[1], z[2]], strict=True))) for z in np.asarray(members)]) / 0.1
    Y, X = (h - h.mean(axis=0)) / np.sqrt(19), np.asarray(members) / np.sqrt(19)
    w = np.linalg.solve(np.eye(20) + Y @ Y.T, Y @ (np.asarray(problem.observations["y"].values)[0] / 0.1 - h.mean(axis=0)))
    np.testing.assert_allclose(result.z, X.T @ w, rtol=1e-8)
    with_mean = answer(printed(), FourDEnVar(members=members))
    assert "mean of the members" not in str(with_mean.details["span"])
    # The first run of the iterated form is where it stands: without it there is no J to go on from.
    lost = answer(problem, IterativeFourDEnVar(), throw=False, failed=FailedRuns(limit=1.0))
    assert lost.status is Status.RUN_FAILED


def test_a_mean_that_is_pulled_in_shows_the_cost_of_where_it_ran():
    # The member that fails first, at the edge, leaves the others with a mean outside of the hole.
    problem = holed(0.02)
    members = members_about_the_mean(problem)
    members = members.at[:, 0].add(-3.0 / 20).at[3, 0].add(3.0)
    assert np.abs(members.mean(axis=0)).max() < 1e-12 and members[3, 0] > 2.5
    rule = FailedRuns("pull in")
    result, steps = shown(problem, FourDEnVar(members=members), failed=rule)
    # J of a point that was run, each time; the mean of the predictions stands for the mean.
    assert np.abs(steps[0][0]).max() > 0.04 and result.details["failed_runs"] == 2
    assert "mean of the members failed" in str(result.details["span"])
    np.testing.assert_allclose([cost for _, cost in steps], [problem.cost(z) for z, _ in steps], rtol=1e-9)
    # The start of the iterated form fails, its bundle of width one does not.
    result, steps = shown(problem, IterativeFourDEnVar(scaling=1.0), failed=rule)
    assert np.abs(steps[0][0]).max() > 0.04 and result.details["failed_runs"] > 0
    np.testing.assert_allclose([cost for _, cost in steps], [problem.cost(z) for z, _ in steps], rtol=1e-9)
    np.testing.assert_allclose(result.cost, SMOOTH.cost, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_RUNS)
def test_what_is_shown_is_the_cost_at_what_is_shown(name):
    parts = {"y": np.arange(25), "b": np.arange(25, TIMES)}
    problem = problem_of(linear_gaussian(parts.values()), parts)
    _, steps = shown(problem, ROWS[name][0], max_steps=30, throw=False)
    np.testing.assert_allclose([cost for _, cost in steps], [problem.cost(z) for z, _ in steps], rtol=1e-9)


# ----------------------------------------------------------------------------------------------- no posterior, predicted cost


@pytest.mark.parametrize(("solver", "options", "words"), [
    (FourDEnVar(size=30, damping=60.0), {}, "a damping of 60"), (FourDEnVar(size=30), {"max_steps": 1}, "no run at its analysis"),
    (IterativeFourDEnVar(), {"max_steps": 2}, "stopped before its end"),
    (IterativeFourDEnVar(), {"watch": lambda now: True}, "stopped before its end")], ids=["damped", "early", "iterated", "watched"])
def test_where_the_theory_gives_no_posterior_none_is_given(solver, options, words):
    result = answer(DECAY, solver, **options)
    assert "posterior_z" not in result.details and "posterior_gaussian" not in result.details
    with pytest.raises(ValueError, match=f"(?s)ends with a posterior ensemble.*{words}.*laplace"):
        from_ensemble(DECAY, result)
    assert len(from_ensemble(DECAY, answer(DECAY, IterativeFourDEnVar())).z) == 1000


@pytest.mark.parametrize("damping", [1.0, 10.0])
def test_the_predicted_cost_is_reached_where_the_model_is_linear(damping):
    problem, _ = linear(12)
    members = problem.space.sample(jax.random.key(0), 30)
    for localisation in (None, {"y": 1.0}, {"y": np.linspace(0, 1, 12)[:, None, None] * np.ones((1, 1, 80))}):
        result = answer(problem, FourDEnVar(members=members, damping=damping, localisation=localisation), throw=False)
        np.testing.assert_allclose(result.details["predicted_cost"], result.terms["y"], rtol=1e-8)
        assert "not linear" not in str(result.details["span"])
