"""NUTS: the linear-Gaussian posterior in closed form, resuming with the same bits, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax import sampling
from landcal_jax.forward import FunctionForward
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts

N, TIMES, DAYS = 6, 30, 4.0
HIDDEN = np.array([3, 4, 11, 12, 13, 20])


@pytest.fixture(scope="module")
def oracle():
    """Full B; R of errors with exponential correlation in time, over a record with gaps."""
    drawn = LinearGaussian.random(jax.random.key(5), n=N, m=TIMES)
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    sd = np.sqrt(np.diag(drawn.R))[seen]
    R = sd[:, None] * sd * np.exp(-np.abs(seen[:, None] - seen) / DAYS)
    return LinearGaussian(drawn.A[seen], drawn.x_b, drawn.B, drawn.y[seen], R)


@pytest.fixture(scope="module")
def problem(oracle):
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    A, y, sd = np.full((TIMES, N), 1e6), np.full(TIMES, np.nan), np.full(TIMES, np.nan)
    A[seen], y[seen], sd[seen] = oracle.A, oracle.y, np.sqrt(np.diag(oracle.R))
    prior = Parameter.normal(np.asarray(oracle.x_b), np.ones(N), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(N)]}, covariance=oracle.B)
    time = np.datetime64("2001-01-01") + np.arange(TIMES)
    stream = Stream(y, sd, correlation=ExponentialCorrelation(DAYS), time=time)
    return Problem(space, FunctionForward(lambda theta: {"y": (jnp.asarray(A) @ theta["x"])[None]}), Observations({"y": stream}))


@pytest.fixture(scope="module")
def posterior(problem):
    return nuts(problem, problem.space.default_z, draws=500, key=1, progress=False)


def test_mean_and_covariance_are_those_of_the_closed_form(oracle, posterior):
    x, P = posterior.matrix(), np.asarray(oracle.posterior_covariance())
    d = np.linalg.solve(np.linalg.cholesky(P), (x - np.asarray(oracle.posterior_mean())).T)
    # 2000 draws of antithetic chains: at least as good as that many independent ones, five standard errors are allowed.
    assert np.abs(d.mean(axis=1)).max() < 5 / np.sqrt(2000)
    assert np.abs(np.cov(d) - np.eye(N)).max() < 5 * np.sqrt(2 / 1000)
