"""An external model with a tangent-linear, an adjoint or both of its own, against the same model in JAX."""

from collections import Counter

import jax
import numpy as np
import pytest
from test_blackbox import WHITE, Z, black, close, in_jax, in_numpy

from landcal_jax import checkpoint
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.solving import solve
from landcal_jax.testing import adjoint_dot_test


def tangent(theta, direction):
    """dH theta . direction, as a model with a tangent-linear of its own gives it."""
    return {name: np.asarray(value) for name, value in jax.jvp(in_jax, (theta,), (direction,))[1].items()}


def adjoint(theta, weights):
    return {name: np.asarray(value) for name, value in jax.vjp(in_jax, theta)[1](weights)[0].items()}


def test_a_tangent_linear_of_the_model_serves_gradient_solvers():
    problem = black(in_numpy, tangent=tangent)
    close(dict(enumerate(problem.jacobian(Z[1]))), dict(enumerate(WHITE.jacobian(Z[1]))))
    close({"gradient": jax.grad(problem.cost)(Z[1])}, {"gradient": jax.grad(WHITE.cost)(Z[1])}, 1e-9)
    one, other = (solve(each, LevenbergMarquardt(), progress=False) for each in (problem, WHITE))
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    np.testing.assert_allclose(laplace(problem, one).covariance, laplace(WHITE, other).covariance, atol=1e-6)


def test_an_adjoint_of_the_model_serves_gradient_solvers():
    problem = black(in_numpy, adjoint=adjoint)
    close({"gradient": jax.vmap(jax.grad(problem.cost))(Z)}, {"gradient": jax.vmap(jax.grad(WHITE.cost))(Z)}, 1e-9)
    one, other = (solve(each, LBFGS(), progress=False) for each in (problem, WHITE))
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)


@pytest.fixture
def both():
    """A model with tangent-linear and adjoint, and how often each was called."""
    calls = Counter()

    def counted(function):
        def call(theta, other):
            assert set(other) in ({"a", "k"}, {"decay", "total"}) and type(theta["a"]) is float
            calls[function.__name__] += 1
            return function(theta, other)

        return call

    return black(in_numpy, tangent=counted(tangent), adjoint=counted(adjoint)), calls


def test_with_tangent_and_adjoint_each_solver_calls_the_one_it_needs(both):
    problem, calls = both
    one, other = (solve(each, LevenbergMarquardt(), progress=False) for each in (problem, WHITE))
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    assert calls == {"tangent": one.counts["jvp"]} and one.counts["gradient"] == 0
    calls.clear()
    one, other = (solve(each, LBFGS(), progress=False) for each in (problem, WHITE))
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    assert calls == {"adjoint": one.counts["gradient"]} and one.counts["jvp"] == 0
    calls.clear()
    np.testing.assert_allclose(laplace(problem, one).covariance, laplace(WHITE, other).covariance, atol=1e-6)
    assert calls == {"tangent": 3}


def test_tangent_and_adjoint_are_each_others_transposes_and_those_of_the_model(both):
    problem, calls = both
    assert adjoint_dot_test(problem, Z[1], key=0) < 1e-12
    assert calls["tangent"] and calls["adjoint"]
    for mode in (jax.jacfwd, jax.jacrev):
        for derive in (mode, lambda function, mode=mode: jax.jit(mode(function))):
            close(derive(problem.predict)(Z[1]), mode(WHITE.predict)(Z[1]), 1e-9)
    found, expected = (jax.vmap(jax.jacfwd(each.residual_vector))(Z) for each in (problem, WHITE))
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)
    found, expected = (jax.jit(jax.vmap(jax.grad(each.cost)))(Z) for each in (problem, WHITE))
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    calls.clear()
    one, other = (solve(each, GaussNewton(dense_limit=0), progress=False) for each in (problem, WHITE))
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    assert calls["tangent"] and calls["adjoint"]
    assert "external model in_numpy (its own tangent-linear and adjoint)" in str(problem)
    with pytest.raises(TypeError, match="(?s)first derivatives of an external model.*second ones"):
        laplace(problem, one, curvature="hessian")


def test_a_wrong_adjoint_is_found():
    def wrong(theta, weights):
        return {name: 1.01 * value for name, value in adjoint(theta, weights).items()}

    assert adjoint_dot_test(black(in_numpy, tangent=tangent, adjoint=wrong), Z[1], key=0) > 1e-4


@pytest.mark.parametrize("solver", [LevenbergMarquardt(), LBFGS(), GaussNewton(dense_limit=0)], ids=lambda solver: type(solver).__name__)
def test_finite_differences_serve_gradient_solvers_of_a_model_without_derivatives(solver):
    # The model counts its runs itself.
    calls = Counter()

    def run(theta):
        calls["run"] += 1
        return in_numpy(theta)

    twin = black(run).finite_difference()
    one = solve(twin, solver, progress=False)
    assert one.counts == {"forward": calls["run"], "gradient": 0, "jvp": 0} and twin.forward.counts["run"] == calls["run"] > 20
    other = solve(WHITE.finite_difference(), solver, progress=False)
    assert other.counts == one.counts
    np.testing.assert_allclose(one.z, other.z, atol=1e-6)
    np.testing.assert_allclose(laplace(twin, one).covariance, laplace(WHITE, other).covariance, atol=1e-5)
    calls.clear()
    jax.jit(lambda z: twin.jacobian(z))(Z[1])
    assert calls["run"] == 4  # one at z, and one ahead in each of three directions


def test_checkpoints_know_the_model_in_every_process():
    def mark(**options):
        problem = black(in_numpy, **options)
        return checkpoint.fingerprint(problem, 1, problem.space.default_z)

    assert mark() == mark() != mark(version="2") and mark(tangent=tangent) == mark(tangent=tangent) != mark()
