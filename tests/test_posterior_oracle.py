"""Samplers against the closed form of a linear model with a full B and errors that are correlated in time, with gaps."""

import jax
import numpy as np
import pytest

from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import GaussNewton
from landcal_jax.microcanonical import mclmc
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.smc import smc
from landcal_jax.solving import solve
from landcal_jax.variational import pathfinder

N, TIMES, DAYS = 5, 30, 4.0
SEEN = np.setdiff1d(np.arange(TIMES), [3, 4, 5, 11, 20, 21])


@pytest.fixture(scope="module")
def oracle():
    """What was seen of `TIMES` days, with R = D C D and C = exp(-dt / DAYS)."""
    rng = np.random.default_rng(2)
    random = LinearGaussian.random(jax.random.key(8), n=N, m=TIMES)
    sd = 0.3 + 0.4 * rng.random(TIMES)
    R = sd[:, None] * sd * np.exp(-np.abs(np.arange(TIMES)[:, None] - np.arange(TIMES)) / DAYS)
    y = np.asarray(random.A @ random.x_b) + np.linalg.cholesky(random.A @ random.B @ random.A.T + R) @ rng.standard_normal(TIMES)
    return LinearGaussian(random.A, random.x_b, random.B, y, R), LinearGaussian(
        random.A[SEEN], random.x_b, random.B, y[SEEN], R[np.ix_(SEEN, SEEN)])


@pytest.fixture(scope="module")
def problem(oracle):
    everything, _ = oracle
    values = np.full(TIMES, np.nan)
    values[SEEN] = np.asarray(everything.y)[SEEN]
    stream = Stream(values, np.sqrt(np.diag(everything.R)), correlation=ExponentialCorrelation(DAYS),
                    time=np.datetime64("2001-01-01") + np.arange(TIMES))
    prior = Parameter.normal(np.asarray(everything.x_b), np.ones(N), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(N)]}, covariance=everything.B)
    A = everything.A
    return Problem(space, FunctionForward(lambda theta: {"y": (A @ theta["x"])[None]}), Observations({"y": stream}))


def tempered(problem, key):
    return smc(problem, particles=2048, key=key, progress=False)


def walking(problem, key):
    return smc(problem, particles=2048, key=key, moves="random walk", progress=False)


def gaussians(problem, key):
    return pathfinder(problem, draws=2000, paths=4, key=key, progress=False)


def microcanonical(problem, key):
    return mclmc(problem, solve(problem, GaussNewton(), progress=False), draws=1000, key=key, progress=False)


# The number of independent draws that each is worth, at least; MCLMC has more draws, of chains that remember.
SAMPLERS = {tempered: 1500, walking: 700, gaussians: 1500, microcanonical: 1500}


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda sampler: sampler.__name__)
def test_mean_and_covariance_are_those_of_the_closed_form(oracle, problem, sampler):
    _, seen = oracle
    posterior = sampler(problem, 1)
    x, independent = posterior.matrix(), SAMPLERS[sampler]
    mean, covariance = np.asarray(seen.posterior_mean()), np.asarray(seen.posterior_covariance())
    # In coordinates in which the posterior is N(0, I) every entry has the same Monte Carlo error.
    w = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
    assert (np.abs(w.mean(axis=1)) < 3.5 / np.sqrt(independent)).all()
    np.testing.assert_allclose(np.cov(w), np.eye(N), atol=3.5 * np.sqrt(2 / independent))
    some = slice(None, None, 400)
    np.testing.assert_allclose(posterior.details["log_density"][some], jax.vmap(problem.log_density)(posterior.z[some]), rtol=1e-9)


@pytest.mark.parametrize("sampler", [tempered, walking], ids=lambda sampler: sampler.__name__)
def test_the_evidence_is_that_of_the_closed_form(oracle, problem, sampler):
    _, seen = oracle
    details = [sampler(problem, key).details for key in range(3)]
    found = np.array([each["log_evidence"] for each in details])
    error = np.array([each["log_evidence_error"] for each in details])
    assert (error < 0.1).all()
    # The error that is stated is that of particles which forget: it may be half as much again.
    assert (np.abs(found - seen.log_evidence()) < 3 * 1.5 * error).all()


def test_the_best_gaussian_of_a_path_is_the_posterior(oracle, problem):
    _, seen = oracle
    details = gaussians(problem, 2).details
    assert details["k_hat"] < 0.5
    # The bound is the evidence itself where the Gaussian is the posterior; it is the mean of ten draws.
    np.testing.assert_allclose(details["elbo"], seen.log_evidence(), atol=0.3)
