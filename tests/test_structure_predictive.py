"""Posterior predictive checks: draws along a curved ridge are run, with their own errors, and extremes have the tail of extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landcal_jax as lc
from landcal_jax import structure
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import ModelError, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem
from landcal_jax.structure.predictive import log_p_of
from landcal_jax.structure.tails import two_sided

N = 365
TIME = np.datetime64("2001-01-01") + np.arange(N).astype("timedelta64[D]")
CYCLE = 1 + 0.5 * np.sin(2 * np.pi * np.arange(N) / 365.25)


def ridge(theta):
    """Nothing but the product is seen."""
    return {"nee": (theta["rate"] * theta["pool"] * jnp.asarray(CYCLE))[None]}


def problem_with(function=ridge, **given) -> Problem:
    y = 3 * CYCLE + 0.3 * np.random.default_rng(0).standard_normal(N)
    space = ParameterSpace({"rate": Parameter.log_uniform(1e-3, 1.0), "pool": Parameter.log_uniform(1.0, 1e3)})
    return Problem(space, FunctionForward(function), Observations({"nee": Stream(y, 0.3, time=TIME, **given)}))


def along(problem: Problem, number: int = 200, **errors) -> jax.Array:
    """Draws (draw, n) along rate * pool = 3, with a spread of half a per cent."""
    rng = np.random.default_rng(1)
    rate = np.exp(rng.uniform(np.log(5e-3), np.log(0.9), number))
    pool = 3 / rate * (1 + 0.005 * rng.standard_normal(number))
    return jnp.stack([problem.space.whiten({"rate": r, "pool": p} | {name: values[k] for name, values in errors.items()})
                      for k, (r, p) in enumerate(zip(rate, pool, strict=True))])


def replicates(findings, statistic: str) -> np.ndarray:
    return next(each.numbers["replicates"] for each in findings if each.kind == "predictive" and each.numbers["statistic"] == statistic)


def test_draws_along_a_ridge_are_run_and_not_linearised():
    """Linearised at the MAP the mean of the replicates was 3.8 with a standard deviation of 0.9."""
    problem = problem_with()
    z = lc.solve(problem, lc.LevenbergMarquardt(), progress=False).z
    drawn = along(problem)
    found = replicates(structure.examine(problem, z, from_draws(problem, drawn, method="draws"), refits=False, members=10), "mean")
    assert len(found) >= 2000 and found.mean() == pytest.approx(3.0 * CYCLE.mean(), abs=0.01)
    assert found.std() == pytest.approx(np.hypot(0.015 * CYCLE.mean(), 0.3 / np.sqrt(N)), rel=0.15)
    gaussian = Posterior(problem, drawn[:50], z, jnp.eye(2) * 1e-8, "Gaussian", gaussian=True)
    tangent = replicates(structure.examine(problem, z, gaussian, refits=False, members=10), "mean")
    assert tangent.std() > 0.1  # of a Gaussian the tangent is kept, whatever its draws


def test_errors_that_were_sampled_are_those_of_each_draw():
    problem = problem_with(model_error=ModelError(0.2)).with_error_parameters(["nee"])
    sampled = np.geomspace(0.2, 2.0, 200)
    z = along(problem, nee_model_error=sampled)
    found = structure.examine(problem, z[0], from_draws(problem, z, method="draws"), refits=False, members=10)
    spread = np.std(replicates(found, "standard deviation"))
    expected = np.sqrt(np.var(3 * CYCLE) + 0.09 + sampled**2)
    assert spread == pytest.approx(expected.std(), rel=0.1)


def test_draws_that_fail_are_left_out_and_counted():
    problem = problem_with(lambda theta: {"nee": jnp.where(theta["rate"] > 0.3, jnp.nan, ridge(theta)["nee"])})
    drawn = along(problem)
    failing = int((np.asarray(jax.vmap(problem.space.physical)(drawn)["rate"]) > 0.3).sum())
    z = drawn[int(np.argmin(np.asarray(drawn[:, 0])))]
    findings = structure.examine(problem, z, from_draws(problem, drawn, method="draws"), refits=False, members=10)
    assert failing > 10 and any(note.startswith(f"{failing} of 200 draws of the posterior") for note in findings.notes)
    assert np.isfinite(replicates(findings, "mean")).all()


def test_a_model_that_may_take_long_is_not_run_unasked():
    traced = problem_with()
    forward = BlackBoxForward(lambda theta: {"nee": np.asarray(ridge(theta)["nee"])}, observations=traced.observations)
    problem = Problem(traced.space, forward, traced.observations).finite_difference()
    drawn = along(problem)
    posterior = from_draws(problem, drawn, method="draws")
    findings = structure.examine(problem, drawn[0], posterior, refits=False)
    assert not any(each.kind == "predictive" for each in findings)
    assert any("Replicates of the observations were not made" in note and "members=50" in note for note in findings.notes)
    asked = replicates(structure.examine(problem, drawn[0], posterior, refits=False, members=20), "mean")
    assert asked.std() == pytest.approx(np.hypot(0.015 * CYCLE.mean(), 0.3 / np.sqrt(N)), rel=0.5)


@pytest.mark.parametrize("number", [20, 100])
def test_extremes_of_right_data_are_as_rare_as_stated(number):
    """The lowest hundredth of normal values: with a normal tail a stated 1e-4 was 1e-3 in truth, and 1e-3 was 2.5e-3."""
    rng = np.random.default_rng(number)
    drawn = np.quantile(rng.standard_normal((2000, number)), 0.01, axis=1)
    observed = np.sort(np.quantile(rng.standard_normal((100_000, number)), 0.01, axis=1))[:1000]
    log_p = np.array([log_p_of(value, drawn) for value in observed])
    normal = np.array([two_sided((value - drawn.mean()) / drawn.std()) for value in observed])
    for stated in (1e-3, 1e-4):
        assert np.sum(log_p < np.log(stated)) / 1e5 < 1.2 * stated
    assert np.sum(normal < np.log(1e-4)) / 1e5 > 3e-4
    assert log_p_of(drawn.min() - 5 * drawn.std(), drawn) < np.log(1e-6)  # what is really far off is still seen


def test_what_is_in_the_middle_has_no_small_p():
    drawn = np.random.default_rng(3).standard_normal(2000)
    assert np.exp(log_p_of(0.0, drawn)) > 0.95 and np.exp(log_p_of(1.0, drawn)) == pytest.approx(0.317, abs=0.04)
