"""The optimum through an emulator that follows it: the minimum of the model, by how many runs, failures, refusals."""

import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.emulator_loop import costs_of, emulated
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs
from landcal_jax.solving import solve

TIME = np.datetime64("2001-01-01") + np.arange(60).astype("timedelta64[D]")
AXIS = np.linspace(0.0, 1.0, 60)
TRUTH = {"a": 0.35, "b": 0.4, "c": 0.6}


def series(a, b, c, library=np):
    """A season whose timing, height and decline are the parameters."""
    return 4.0 * b * library.exp(-0.5 * ((AXIS - 0.2 - 0.5 * a) / 0.15) ** 2) + library.exp(-3.0 * c * AXIS)


OBSERVED = series(**TRUTH) + 0.05 * np.random.default_rng(0).standard_normal(60)
OBSERVATIONS = Observations({"flux": Stream(OBSERVED[None], 0.05, time=TIME)})


def made(forward):
    return Problem(ParameterSpace({name: Parameter.uniform(0.0, 1.0) for name in "abc"}), forward, OBSERVATIONS)


@pytest.fixture(scope="module")
def problem():
    return made(FunctionForward(lambda theta: {"flux": series(theta["a"], theta["b"], theta["c"], jnp)[None]}))


@pytest.fixture(scope="module")
def exact(problem):
    result = solve(problem, LevenbergMarquardt(), z0=problem.space.whiten(TRUTH), progress=False)
    return result, np.asarray(laplace(problem, result, draws=1).covariance)


@pytest.fixture(scope="module")
def found(problem):
    return emulated(problem, key=0)


def test_it_finds_the_minimum_of_the_model(problem, exact, found):
    result, covariance = exact
    deviation = np.sqrt(np.diag(covariance))
    assert deviation.max() < 0.1
    assert found.settled
    assert found.runs <= 60
    assert (np.abs(found.z - result.z) < 0.2 * deviation).all()
    assert np.allclose(np.sqrt(np.diag(found.covariance)) / deviation, 1.0, atol=0.25)
    assert float(found.problem.cost(found.z)) == pytest.approx(float(sum(result.terms.values())), abs=0.5)


def test_its_history_is_that_of_its_runs(problem, found):
    history = found.history
    assert found.Z.shape == (found.runs, 3)
    J = costs(problem, found.Z)
    assert np.allclose(costs_of(problem, found.Z, found.values), J)
    assert history["runs"].values.tolist() == [15 + 4 * turn for turn in range(history.sizes["turn"])]
    assert np.allclose(history["lowest"], [J[:runs].min() for runs in history["runs"].values])
    assert np.allclose(history["model"], J[history["runs"].values])
    assert np.allclose(history["z"], found.Z[history["runs"].values])
    assert history["moved"][-1] < 0.1 <= history["moved"][:-1].min()
    assert f"{found.runs} runs, of which 0 failed" in history.attrs["verdict"]


@pytest.mark.slow
def test_runs_of_an_external_model_that_fail_are_left_out_and_counted(problem, exact):
    def run(theta):
        if theta["c"] > 0.9:
            raise RuntimeError("out of range")
        return {"flux": series(**{name: float(theta[name]) for name in "abc"})[None]}

    result, covariance = exact
    # Of the same name: what was compiled for the other serves this one too.
    found = emulated(made(BlackBoxForward(run, observations=OBSERVATIONS, name=problem.forward.name)), key=1)
    assert found.history.attrs["failed"] == int(np.isnan(found.values["flux"]).any(axis=(1, 2)).sum()) > 0
    assert f"{found.history.attrs['failed']} failed" in found.history.attrs["verdict"]
    assert (np.abs(found.z - result.z) < 0.2 * np.sqrt(np.diag(covariance))).all()


def test_what_cannot_be_learned_is_refused_and_runs_that_are_spent_are_said(problem):
    def noise(theta):
        return {"flux": jnp.sin(1e7 * (theta["a"] + 3.0 * theta["b"] + AXIS))[None] + 0.0 * theta["c"]}

    with pytest.raises(ValueError, match="leave-one-out R2") as caught:
        emulated(made(FunctionForward(noise)), most=40, key=0)
    assert "most=40" in str(caught.value)
    spent = emulated(problem, most=20, key=0)
    assert not spent.settled
    assert "runs were spent" in spent.history.attrs["verdict"]
    assert np.isfinite(spent.z).all()


def test_numbers_that_leave_nothing_to_learn_from_are_refused(problem):
    for wrong in ({"first": 4}, {"learned": 5}, {"added": 0}, {"most": 10}, {"tolerance": 0.0}):
        with pytest.raises(ValueError, match="learned and first of 6 or more"):
            emulated(problem, **wrong)
