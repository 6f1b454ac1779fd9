"""Linear problems whose errors are drawn from a model error that is known, for the tests of error estimation."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.solving import solve
from landcal_jax.testing import draw_errors

SIGMA = 0.1
WIDE = 100.0  # standard deviation of a prior that says nothing


class Matrices(eqx.Module):
    """x -> A x by stream; arrays, so that problems of the same shape are compiled once."""

    matrices: dict

    def __call__(self, theta):
        return {name: A @ theta["x"] for name, A in self.matrices.items()}


def days(number, start="2001-01-01"):
    return np.datetime64(start) + np.arange(number)


def columns_of(number, parameters, seed=7):
    return np.random.default_rng(seed).standard_normal((number, parameters))


def linear(streams: dict[str, tuple[np.ndarray, Stream]], parameters: int, prior: float = WIDE) -> Problem:
    """y = A x + e: stream -> (A (site, n_obs, parameters), Stream)."""
    matrices = {name: jnp.asarray(np.atleast_3d(A) if A.ndim == 3 else A[None]) for name, (A, _) in streams.items()}
    space = ParameterSpace({"x": Parameter.normal(np.zeros(parameters), prior, dims="item")}, {"item": list(range(parameters))})
    return Problem(space, FunctionForward(Matrices(matrices)), Observations({name: stream for name, (_, stream) in streams.items()}))


def one_stream(number, parameters, error: ModelError, seed, *, gaps=0.0, prior=WIDE) -> Problem:
    """One stream with errors drawn from `error` and measurement errors of `SIGMA`; the truth is x = 1."""
    A = columns_of(number, parameters)
    observed = np.random.default_rng(99).random(number) >= gaps
    stream = Stream(np.zeros(number), SIGMA, time=days(number), mask=observed, model_error=error)
    made = np.asarray(draw_errors(stream, jax.random.key(seed)))[0] + A @ np.ones(parameters)
    return linear({"flux": (A, stream.with_values(made[None]).with_model_error(0.3))}, parameters, prior)


def solved(problem):
    return solve(problem, LevenbergMarquardt(), progress=False)
