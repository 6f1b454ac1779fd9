"""The error of a forward map in J, against dense matrices."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.map_error import MapError
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.solving import solve

TIME = np.datetime64("2001-01-01") + np.arange(12).astype("timedelta64[D]")
KEEP = np.random.default_rng(0).random((2, 12)) < 0.7
A, W = (np.random.default_rng(seed).standard_normal(shape) for seed, shape in ((1, (2, 12, 3)), (2, (2, 2, 12))))
Y = np.random.default_rng(3).standard_normal((2, 12))


class Uncertain(FunctionForward):
    """A linear map that says how wrong it is: more where theta is larger."""

    patterns: int = 2
    scale: jax.Array = eqx.field(default_factory=lambda: jnp.ones(()))

    @property
    def uncertain(self):
        return True

    def covariance(self, theta, operators):
        size = self.scale * jnp.exp(0.3 * theta["a"])
        variances = size * jnp.arange(1.0, 1 + self.patterns)
        return {"flux": MapError(0.2 * size * jnp.ones(Y.shape), jnp.asarray(W)[: self.patterns], variances)}


def problem(model_error=0.0, patterns=2, weight=1.0, **keywords):
    space = ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in "abc"})
    stream = Stream(Y, 0.5, mask=KEEP, model_error=model_error, weight=weight, time=TIME, **keywords)
    forward = Uncertain(lambda theta: {"flux": jnp.asarray(A) @ jnp.stack([theta[name] for name in "abc"])}, patterns=patterns)
    return Problem(space, forward, Observations({"flux": stream}))


def dense(z, days, patterns):
    """Departures and S of the observed values, sites one after the other."""
    size = np.exp(0.3 * z[0])
    far = np.abs(np.subtract.outer(np.arange(12), np.arange(12)))
    model = 0.0 if days is None else np.kron(np.eye(2), 0.6**2 * np.exp(-far / days))
    R = 0.25 * np.eye(24) + model
    S = R + 0.2 * size * np.eye(24) + sum((1 + k) * size * np.outer(W[k].ravel(), W[k].ravel()) for k in range(patterns))
    seen = KEEP.ravel()
    return (Y - A @ z).ravel()[seen], S[np.ix_(seen, seen)], R[np.ix_(seen, seen)]


@pytest.mark.parametrize("patterns", [0, 2])
@pytest.mark.parametrize("days", [None, 3.0])
def test_j_is_that_of_dense_matrices(days, patterns):
    made = problem(0.0 if days is None else ModelError(0.6, correlation_days=days), patterns)
    z = np.array([0.4, -0.3, 1.1])
    e, S, R = dense(z, days, patterns)
    terms = made.terms(jnp.asarray(z))
    assert float(terms["flux"]) == pytest.approx(0.5 * e @ np.linalg.solve(S, e), rel=1e-11)
    assert float(terms["log_determinant"]) == pytest.approx(0.5 * (np.linalg.slogdet(S)[1] - np.linalg.slogdet(R)[1]), rel=1e-11)
    density = -0.5 * (z @ z + 3 * np.log(2 * np.pi) + e @ np.linalg.solve(S, e) + np.linalg.slogdet(S)[1] + len(e) * np.log(2 * np.pi))
    assert float(made.log_density(jnp.asarray(z))) == pytest.approx(density, rel=1e-12)


def test_a_weight_is_a_power_of_the_likelihood():
    z = jnp.array([0.4, -0.3, 1.1])
    once, half = (problem(weight=weight).terms(z) for weight in (1.0, 0.5))
    for name in ("flux", "log_determinant"):
        assert float(half[name]) == pytest.approx(0.5 * float(once[name]), rel=1e-12)


def test_the_gradient_is_exact():
    made, z = problem(ModelError(0.6, correlation_days=3.0)), jnp.array([0.4, -0.3, 1.1])
    step = 1e-5 * jnp.eye(3)
    differences = jnp.array([(made.cost(z + h) - made.cost(z - h)) / 2e-5 for h in step])
    np.testing.assert_allclose(jax.grad(made.cost)(z), differences, rtol=1e-7)


def test_a_variance_of_zero_has_a_derivative():
    """An emulator that interpolates has none at its runs."""
    made = problem()
    forward = eqx.tree_at(lambda forward: forward.scale, made.forward, jnp.zeros(()))
    exact, z = made.with_forward(forward), jnp.array([0.4, -0.3, 1.1])
    assert np.isfinite(jax.grad(exact.cost)(z)).all()
    assert float(exact.terms(z)["log_determinant"]) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.slow
def test_solvers_of_sums_of_squares_are_refused_and_the_others_work():
    made = problem()
    with pytest.raises(TypeError, match="whose error joins R"):
        solve(made, LevenbergMarquardt(), progress=False)
    # By default it ends where half the square of the gradient is 1e-8 of J, which is 25 here: at a gradient of 4e-4.
    result = solve(made, LBFGS(tolerance=1e-10), progress=False)
    assert float(jnp.linalg.norm(jax.grad(made.cost)(result.z))) < 1e-4
    with pytest.raises(TypeError, match="depends on z"):
        laplace(made, result, curvature="gauss-newton")
    hessian = np.asarray(jax.hessian(made.cost)(result.z))
    posterior = laplace(made, result, curvature="hessian", draws=1)
    np.testing.assert_allclose(posterior.covariance, np.linalg.inv(hessian), rtol=1e-6)


@pytest.mark.slow
def test_nuts_samples_about_its_minimum():
    made = problem()
    result = solve(made, LBFGS(), progress=False)
    draws = nuts(made, result, draws=100, warmup=6, key=0, progress=False)
    assert np.abs(np.asarray(draws.z).mean(axis=0) - np.asarray(result.z)).max() < 0.3


def test_errors_correlated_as_a_whole_are_refused():
    with pytest.raises(ValueError, match="independent measurement errors of flux"):
        problem(correlation=ExponentialCorrelation(3.0))
