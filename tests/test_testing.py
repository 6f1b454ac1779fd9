"""The verification tools: what is right must pass, and what is wrong by one per cent must be found."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.forward import FunctionForward
from landcal_jax.models.optic import ACTIVE, BOUNDS, Optic, generate_forcing, parameters
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.testing import adjoint_dot_test, check, draw_errors, scan, taylor_order, twin

STEPS = 60
Z = jnp.array([0.3, -0.5, 0.2, 0.4])


def toy_problem(function, **parameters) -> Problem:
    """One stream `y` of three values, each known to 0.1, from a function of theta."""
    parameters = parameters or {"a": Parameter.normal(1.0, 0.5), "b": Parameter.normal(-0.5, 0.5)}
    observations = Observations({"y": Stream(np.array([0.4, 1.0, 2.0]), 0.1)})
    forward = FunctionForward(lambda theta: {"y": function(theta)[None]})
    return Problem(ParameterSpace(parameters), forward, observations)


def smooth(theta):
    a, b = theta["a"], theta["b"]
    return jnp.array([jnp.sin(a) * b, jnp.exp(0.3 * a), a * b**2])


def scaled_derivative(factor):
    """The identity with a derivative that is wrong by `factor`."""
    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def _(primals, tangents):
        return primals[0], factor * tangents[0]

    return identity


@pytest.fixture(scope="module")
def optic_problem():
    model = Optic(generate_forcing(seed=0, n=STEPS))
    space = ParameterSpace(parameters())
    observed = model({name: jnp.asarray(value) for name, value in ACTIVE.items()})
    streams = {name: Stream(values, 0.1 * np.sqrt(values)) for name, values in observed.items()}
    return Problem(space, FunctionForward(model), Observations(streams))


def test_right_derivatives_have_order_two(optic_problem):
    for key in range(4):
        assert 1.9 < taylor_order(optic_problem, Z, key=key) < 2.1
        assert adjoint_dot_test(optic_problem, Z, key) < 1e-13


def test_a_direction_is_used_and_its_length_is_not():
    problem = toy_problem(smooth)
    z = jnp.array([0.3, -0.5])
    one = taylor_order(problem, z, jnp.array([1.0, 0.0]))
    assert 1.9 < one < 2.1
    np.testing.assert_allclose(taylor_order(problem, z, jnp.array([500.0, 0.0])), one)


def test_a_quadratic_cost_has_order_two_at_any_scale():
    for sigma in (1e-4, 1.0, 1e4):
        observations = Observations({"y": Stream(np.array([0.4, 1.0]), sigma)})
        space = ParameterSpace({"a": Parameter.normal(1.0, 0.5)})
        forward = FunctionForward(lambda theta: {"y": jnp.stack([theta["a"], 3.0 * theta["a"]])[None]})
        order = taylor_order(Problem(space, forward, observations), jnp.array([0.7]))
        np.testing.assert_allclose(order, 2.0, atol=0.05)


@pytest.mark.parametrize("error", [0.01, -0.01, 1e-4])
def test_a_derivative_wrong_by_one_per_cent_is_found(error):
    wrong = scaled_derivative(1.0 + error)
    problem = toy_problem(lambda theta: smooth({"a": wrong(theta["a"]), "b": theta["b"]}))
    z = jnp.array([0.3, -0.5])
    assert taylor_order(problem, z) < 1.1
    # Both products come from the same wrong rule, so they agree: only the Taylor test can see it.
    assert adjoint_dot_test(problem, z) < 1e-13
    report = check(problem, n=2)
    assert not report.passed
    assert report.suspects[0] == ("a",)
    assert "along a: a wrong derivative" in report.problems[0]


def test_a_derivative_wrong_in_one_parameter_of_many_is_found(optic_problem):
    wrong = scaled_derivative(1.01)
    model = optic_problem.forward.function
    forward = FunctionForward(lambda theta: model(theta | {"p2": wrong(theta["p2"])}))
    assert taylor_order(optic_problem.with_forward(forward), Z) < 1.1


def test_an_adjoint_that_is_no_transpose_is_found():
    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def _(primals, tangents):
        # What a hand-written linear solve may do: forward exact, its transpose wrong.
        pushed = jax.custom_derivatives.linear_call(lambda _, t: t, lambda _, t: 1.01 * t, None, tangents[0])
        return primals[0], pushed

    problem = toy_problem(lambda theta: smooth({"a": identity(theta["a"]), "b": identity(theta["b"])}))
    assert 1e-4 < adjoint_dot_test(problem, jnp.array([0.3, -0.5])) < 2e-2
    fault = check(problem, n=1).problems[0]
    assert "wrong derivative" in fault
    assert "tangent-linear and adjoint differ" in fault


def test_a_kink_at_the_point_is_found_and_one_beside_it_is_not():
    problem = toy_problem(lambda theta: jnp.maximum(jnp.array([1.0, 2.0, 3.0]) * theta["a"], 1.0) + theta["b"])
    at_kink = jnp.array([0.0, 0.3])  # a = 1: the first value is exactly at its threshold
    assert taylor_order(problem, at_kink, jnp.array([1.0, 0.0])) < 1.1
    assert taylor_order(problem, at_kink + 0.05, jnp.array([1.0, 0.0])) > 1.9


def test_a_noisy_cost_is_judged_above_its_noise():
    def noisy(theta):
        return smooth(theta) * (1.0 + 1e-9 * jax.lax.stop_gradient(jnp.sin(1e14 * theta["a"])))

    assert 1.9 < taylor_order(toy_problem(noisy), jnp.array([0.3, -0.5])) < 2.2


def test_what_cannot_be_decided_is_nan():
    problem = toy_problem(lambda theta: jnp.log(theta["a"]) * jnp.ones(3))
    assert np.isnan(taylor_order(problem, jnp.array([-4.0, 0.0])))
    # A huge, constant misfit drowns everything else in its rounding.
    drowned = toy_problem(lambda theta: jnp.array([1e12, 0.0, 0.0]) + 0.0 * theta["a"])
    assert np.isnan(taylor_order(drowned, jnp.array([0.3, -0.5])))


def test_check_passes_a_good_model_and_prints_a_table(optic_problem):
    report = check(optic_problem, n=3, key=1)
    assert report.passed, str(report)
    assert report.kind == ("default",) + 3 * ("prior",) + 3 * ("corner",)
    corner = optic_problem.space.physical(jnp.asarray(report.z[4]))
    np.testing.assert_allclose([corner[name] for name in BOUNDS], [low for low, _ in BOUNDS.values()], rtol=1e-6)
    text = str(report)
    assert text.count("good") == 8
    assert "All 7 points are good" in text


def test_check_names_what_is_not_finite():
    # The classical trap: the value is guarded, the derivative of the branch not taken is not.
    def trap(theta):
        return jnp.where(theta["a"] > 0.0, jnp.sqrt(theta["a"]), 0.0) * jnp.ones(3) + theta["b"]

    problem = toy_problem(trap, a=Parameter.normal(0.5, 0.4), b=Parameter.normal(0.0, 1.0))
    report = check(problem, n=4)
    assert not report.passed
    assert any("d/d a" in sentence and "corner" in sentence for sentence in report.problems)
    assert np.isnan(report.order[[bool(names) for names in report.not_finite]]).all()
    assert "FAILS" in str(report)

    report = check(toy_problem(lambda theta: jnp.log(theta["a"]) * jnp.ones(3)), n=4)
    assert any("not finite: y" in sentence for sentence in report.problems)


def test_a_scan_finds_the_points_and_names_the_entries():
    good = scan(toy_problem(smooth), 101, batch_size=40)
    assert good.passed and good.points == 101 and "finite at all 101 points" in str(good)

    def trap(theta):
        return jnp.where(theta["a"] > 0.0, jnp.sqrt(theta["a"]), 0.0) * jnp.ones(3) + theta["b"]

    found = scan(toy_problem(trap, a=Parameter.normal(0.5, 0.4), b=Parameter.normal(0.0, 1.0)), 101, batch_size=40)
    assert found.entries == ("d/d a",)
    # a is below zero there, where z is below -1.25; and it is so at every such point, the last batch included.
    assert (found.z[:, 0] <= -1.25).all() and 5 < len(found.z) < 60
    assert f"{len(found.z)} of 101" in str(found)


def test_corners_of_a_correlated_prior_stay_in_reach():
    covariance = np.array([[1.0, 0.95], [0.95, 1.0]])
    space = ParameterSpace({"a": Parameter.normal(0.0, 1.0), "b": Parameter.normal(0.0, 1.0)}, covariance=covariance)
    toy = toy_problem(smooth)
    report = check(Problem(space, toy.forward, toy.observations), n=4)
    corners = np.array([np.stack(list(space.physical(jnp.asarray(z)).values())) for z in report.z[5:]])
    assert len(corners) == 4
    np.testing.assert_allclose(np.abs(corners).max(axis=1), 3.0)


def test_a_twin_without_noise_is_fitted_exactly(optic_problem):
    made = twin(optic_problem, Z, noise=False)
    terms = made.problem.terms(made.z)
    np.testing.assert_allclose([terms["biomass"], terms["soil"]], 0.0, atol=1e-20)
    np.testing.assert_array_equal(made.z, Z)
    np.testing.assert_allclose(made.theta["k1"], optic_problem.space.physical(Z)["k1"])


def test_a_twin_with_noise_is_as_far_as_its_errors(optic_problem):
    made = twin(optic_problem, key=3)
    observed = 2 * (STEPS + 1)
    terms = made.problem.terms(made.z)
    misfit = 2 * float(terms["biomass"] + terms["soil"])
    assert abs(misfit - observed) < 4 * np.sqrt(2 * observed)
    again, other = twin(optic_problem, key=3), twin(optic_problem, key=4)
    np.testing.assert_array_equal(made.z, again.z)
    assert not np.allclose(made.z, other.z)


def test_a_twin_whose_truth_fails_is_refused():
    problem = toy_problem(lambda theta: jnp.log(theta["a"]) * jnp.ones(3))
    with pytest.raises(ValueError, match="(?s)finite y.*3 values"):
        twin(problem, jnp.array([-4.0, 0.0]))


def test_errors_are_drawn_from_a_correlated_error_covariance_with_gaps():
    days = np.sort(np.random.default_rng(0).choice(400, size=150, replace=False))
    time = np.datetime64("2001-01-01") + days
    values = np.zeros((2, 150))
    values[1, ::3] = np.nan
    stream = Stream(values, np.linspace(0.5, 2.0, 150), model_error=0.3, time=time,
                    correlation=ExponentialCorrelation(5.0))
    keys = jax.random.split(jax.random.key(0), 4000)
    draws = np.asarray(jax.jit(jax.vmap(lambda key: draw_errors(stream, key)))(keys))
    assert (draws[:, 1, ::3] == 0.0).all()
    total = np.sqrt(np.linspace(0.5, 2.0, 150) ** 2 + 0.3**2)
    np.testing.assert_allclose(draws[:, 0].std(axis=0), total, rtol=0.06)
    scaled = draws / total
    found = np.mean(scaled[:, 0, :-1] * scaled[:, 0, 1:], axis=0)
    np.testing.assert_allclose(found, np.exp(-np.diff(days) / 5.0), atol=0.07)
    # Across a gap: the values before and after it are correlated over their own distance.
    found = np.mean(scaled[:, 1, 2:-2:3] * scaled[:, 1, 4::3], axis=0)
    np.testing.assert_allclose(found, np.exp(-(days[4::3] - days[2:-2:3]) / 5.0), atol=0.07)
    # The whitening of the stream undoes the drawing.
    white = np.asarray(jax.vmap(lambda error: stream.whitened(stream.values - error))(jnp.asarray(draws)))
    np.testing.assert_allclose(white[:, 0].std(axis=0), 1.0, rtol=0.06)
    assert abs(np.mean(white[:, 0, 1:] * white[:, 0, :-1])) < 0.01


def test_wrong_arguments_are_refused():
    problem = toy_problem(smooth)
    with pytest.raises(ValueError, match=r"z of shape \(2,\)"):
        taylor_order(problem, jnp.ones(3))
    with pytest.raises(ValueError, match="direction other than zero"):
        taylor_order(problem, jnp.ones(2), jnp.zeros(2))
