"""Tempered Monte Carlo: several modes with their weights, models without gradient, runs that fail, and a run that is killed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from test_gradient_solvers import toy

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.gradient import LBFGS
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.smc import _notes, _Run, smc
from landcal_jax.solving import solve

SIGMA = 0.1


def two_modes():
    """a^2 and b are observed: a is near 1 or near -1, and its prior prefers the first."""
    return toy(lambda theta: (theta["a"] ** 2, theta["b"]), [1.0, 0.5], SIGMA, a=Parameter.normal(0.3, 1.0), b=Parameter.normal(0.0, 1.0))


def exact():
    """Share of the mode a > 0, and the logarithm of the evidence, by quadrature."""
    def density(a):
        return np.exp(-0.5 * (a - 0.3) ** 2 - 0.5 * ((a**2 - 1) / SIGMA) ** 2) / np.sqrt(2 * np.pi) / (np.sqrt(2 * np.pi) * SIGMA)

    upper, lower = (quad(density, *sorted((0.0, side)), points=(0.5 * side,))[0] for side in (2.0, -2.0))
    of_b = np.exp(-0.5 * 0.5**2 / (1 + SIGMA**2)) / np.sqrt(2 * np.pi * (1 + SIGMA**2))
    return upper / (upper + lower), np.log((upper + lower) * of_b)


PROBLEM = two_modes()
OPTIONS = {"particles": 512, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize("moves", ["hmc", "random walk"])
def test_both_modes_have_their_weights_where_a_chain_sticks_in_one(moves):
    share, log_evidence = exact()
    posteriors = [smc(PROBLEM, key=key, moves=moves, **OPTIONS) for key in range(4)]
    found = np.array([np.mean(posterior.matrix()[:, 0] > 0) for posterior in posteriors])
    # The weight of a mode is as uncertain as the resampling makes it.
    assert abs(found.mean() - share) < 3 * 0.05 / np.sqrt(4)
    assert (np.abs(found - share) < 0.2).all()
    evidence = np.array([posterior.details["log_evidence"] for posterior in posteriors])
    assert abs(evidence.mean() - log_evidence) < 3 * 1.5 * float(posteriors[0].details["log_evidence_error"]) / np.sqrt(4)
    assert "separate modes" in str(posteriors[0].details["note"])
    upper = posteriors[0].matrix()[posteriors[0].matrix()[:, 0] > 0, 0]
    np.testing.assert_allclose(upper.std(), SIGMA / 2, rtol=0.2)


@pytest.mark.slow
def test_one_chain_stays_where_it_began():
    chain = nuts(PROBLEM, jnp.array([0.7, 0.5]), chains=1, draws=200, key=0, progress=False)
    assert (chain.matrix()[:, 0] > 0).all()


def test_details_count_what_was_run_and_tell_the_way():
    posterior = smc(PROBLEM, key=0, **OPTIONS)
    details, steps = posterior.details, len(posterior.details["power"])
    assert details["power"][-1] == 1.0
    assert (np.diff(details["power"]) > 0).all()
    # Each power but the last is where the weights are worth half of the particles.
    np.testing.assert_allclose(details["ess"][:-1], 256, rtol=1e-3)
    assert all(details[name].shape == (steps,) for name in ("ess", "moves", "acceptance", "correlation", "step"))
    assert int(details["forward"]) == 512 and int(details["gradient"]) >= 512 * (1 + 2 * details["moves"].sum())
    np.testing.assert_allclose(details["log_density"][:5], jax.vmap(PROBLEM.log_density)(posterior.z[:5]), rtol=1e-10)
    best = np.argmax(details["log_density"])
    np.testing.assert_array_equal(posterior.centre, posterior.z[best])


def external(run):
    observations = Observations({"y": Stream([[1.0, 0.5]], SIGMA)})
    space = ParameterSpace({"a": Parameter.normal(0.3, 1.0), "b": Parameter.normal(0.0, 1.0)})
    return Problem(space, BlackBoxForward(run, observations=observations, workers=1), observations)


def model(theta):
    if theta["a"] < 0:
        raise FloatingPointError("no such soil")
    return {"y": np.array([[theta["a"] ** 2, theta["b"]]])}


def test_an_external_model_is_run_in_batches_and_has_no_likelihood_where_it_fails():
    problem = external(model)
    posterior = smc(problem, particles=200, key=1, most_moves=8, correlation=0.3, progress=False)
    share, log_evidence = exact()
    a = posterior.matrix()[:, 0]
    assert (a > 0).all()
    assert abs(a.mean() - 1) < 0.05 and abs(a.std() - SIGMA / 2) < 0.02
    assert "random walk" in posterior.method
    # What is left is the evidence of the mode where the model runs.
    assert abs(posterior.details["log_evidence"] - (log_evidence + np.log(share))) < 0.6
    assert int(posterior.details["gradient"]) == 0
    assert int(posterior.details["forward"]) == 200 * (1 + int(posterior.details["moves"].sum()))
    assert int(posterior.details["failed"]) > 30


def test_a_killed_run_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    whole = smc(PROBLEM, key=3, **OPTIONS)
    advance, file = _Run.advance, tmp_path / "particles.npz"

    def killed(run):
        if run.done == 7:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(_Run, "advance", killed)
    with pytest.raises(KeyboardInterrupt):
        smc(PROBLEM, key=3, checkpoint=file, **OPTIONS)
    monkeypatch.undo()
    resumed = smc(PROBLEM, key=3, checkpoint=file, **OPTIONS)
    np.testing.assert_array_equal(resumed.z, whole.z)
    for name in ("log_evidence", "log_density", "power", "moves", "forward", "gradient"):
        np.testing.assert_array_equal(resumed.details[name], whole.details[name])
    with pytest.raises(ValueError, match="checkpoint of this problem"):
        smc(PROBLEM, key=4, checkpoint=file, **OPTIONS)


def test_known_minima_are_another_way_to_the_same_posterior():
    share, log_evidence = exact()
    posterior = smc(PROBLEM, near=[[0.7, 0.5], [-1.3, 0.5]], key=5, **OPTIONS)
    assert abs(np.mean(posterior.matrix()[:, 0] > 0) - share) < 0.12
    assert abs(posterior.details["log_evidence"] - log_evidence) < 0.25
    assert len(posterior.details["power"]) < len(smc(PROBLEM, key=5, **OPTIONS).details["power"])


def test_free_errors_have_a_posterior_and_an_evidence():
    free = free_errors()
    posterior = smc(free, particles=256, key=0, progress=False)
    assert posterior.z.shape == (256, 3)
    np.testing.assert_allclose(posterior.details["log_density"][:5], jax.vmap(free.log_density)(posterior.z[:5]), rtol=1e-10)


def free_errors():
    stream = PROBLEM.observations["y"].with_model_error(0.05)
    return PROBLEM.with_observations(PROBLEM.observations.with_streams({"y": stream})).with_error_parameters(["y"])


def test_free_errors_can_be_sampled_near_a_minimum():
    free = free_errors()
    start = solve(free, LBFGS(), z0=jnp.array([0.7, 0.5, 0.0]), progress=False)
    posterior = smc(free, near=start, particles=256, key=0, progress=False)
    a = posterior.matrix()[:, 0]
    assert a.shape == (256,) and (a > 0).mean() > 0.95 and abs(np.median(a) - 1) < 0.05


def test_what_is_a_warning_is_in_details_too():
    assert "warning" not in _notes(history(correlation=[0.2, 0.05], acceptance=[0.7, 0.7]), 0.1)
    found = _notes(history(correlation=[0.2, 0.5], acceptance=[0.7, 0.05]), 0.1)
    assert str(found["warning"]).startswith("The particles still remember") and "Acceptance of the last moves 0.05" in str(found["warning"])


def history(**values):
    return {name: np.array(of_one) for name, of_one in values.items()}


def test_where_runs_fail_the_advice_is_one_that_smc_follows():
    def fails(theta):
        raise FloatingPointError("no such soil")

    with pytest.raises(RuntimeError) as error:
        smc(external(fails), particles=16, failed=FailedRuns("pull in", limit=0.5), progress=False)
    assert "FailedRuns(limit=0.75)" in str(error.value) and "pull in" not in str(error.value)


@pytest.mark.parametrize(("options", "message"), [
    ({"particles": 3}, "at least 16 particles"), ({"moves": "gibbs"}, 'moves "hmc" or "random walk"'), ({"ess": 1.5}, "between 0 and 1"),
    ({"near": np.zeros(3)}, "minima of shape"), ({"most_moves": 0}, "at least one move")])
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        smc(PROBLEM, progress=False, **options)


def test_no_gradient_no_trajectories():
    with pytest.raises(TypeError, match="a gradient that JAX compiles"):
        smc(external(model), moves="hmc", progress=False)
