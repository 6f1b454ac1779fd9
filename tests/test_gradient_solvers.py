"""Every gradient solver on the same problems, with its counts, its ways of ending, and many starts of it."""

import inspect
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import least_squares
from test_problem import linear_problem

from landcal_jax import gradient
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt, MultiStart, Optax
from landcal_jax.members import FailedRuns
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, costs
from landcal_jax.solvers import AbstractGradientSolver, SolveError, Status
from landcal_jax.solving import solve

# One row for every public solver: (what it is, the distance to the minimum that it is asked to reach).
SOLVERS = {
    "gauss_newton": (GaussNewton(), 1e-8),
    "gauss_newton_matrix_free": (GaussNewton(dense_limit=0), 1e-8),
    "levenberg_marquardt": (LevenbergMarquardt(), 1e-8),
    "levenberg_marquardt_matrix_free": (LevenbergMarquardt(dense_limit=0), 1e-8),
    "lbfgs": (LBFGS(tolerance=1e-18), 1e-8),
    "optax_lbfgs": (Optax(optax.lbfgs(), tolerance=1e-18, default_max_steps=200, steps_per_call=20), 1e-8),
    "optax_adam": (Optax(optax.adam(optax.exponential_decay(0.1, 300, 0.5)), tolerance=1e-12, default_max_steps=3000), 1e-4),
    "multi_start": (MultiStart(LevenbergMarquardt(), number=3, candidates=8), 1e-8),
}


def answer(problem, solver, **options):
    return solve(problem, solver, key=0, progress=False, **options)


def toy(function, observed, sigma=1.0, **parameters):
    """One stream of a function of theta."""
    parameters = parameters or {"a": Parameter.normal(0.0, 3.0), "b": Parameter.normal(0.0, 3.0)}
    forward = FunctionForward(lambda theta: {"y": jnp.stack(function(theta))[None]})
    return Problem(ParameterSpace(parameters), forward, Observations({"y": Stream(observed, sigma)}))


def rosenbrock(theta):
    return 10 * (theta["b"] - theta["a"] ** 2), theta["a"]


# One object for all tests that follow its valley: what is compiled for it is shared.
VALLEY = toy(rosenbrock, [0.0, 1.0])
BEND = jnp.array([-0.4, 1 / 3])


def test_every_public_solver_has_a_row():
    public = {found for name, found in inspect.getmembers(gradient, inspect.isclass) if not name.startswith("_")
              and issubclass(found, AbstractGradientSolver) and found is not AbstractGradientSolver}
    assert public == {type(solver) for solver, _ in SOLVERS.values()}


# ------------------------------------------------------------------------------------------------- where the answer is known


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(5), n=20, m=35)


@pytest.fixture(scope="module")
def linear(oracle):
    return linear_problem(oracle)


@pytest.mark.parametrize("name", SOLVERS)
def test_the_linear_gaussian_problem_is_solved_to_its_closed_form(oracle, linear, name):
    solver, tolerance = SOLVERS[name]
    result = answer(linear, solver, z0=jnp.linspace(-1, 2, 20))
    x = result.theta["x"]
    sd = np.sqrt(np.diag(oracle.posterior_covariance()))
    assert np.abs((x - oracle.posterior_mean()) / sd).max() < tolerance
    np.testing.assert_allclose(result.cost, oracle.cost(oracle.posterior_mean()), rtol=1e-7)
    assert result.status in (Status.CONVERGED, Status.NO_DECREASE)
    # The result says the same in all its forms.
    np.testing.assert_array_equal(linear.theta(result.z)["x"], x)
    np.testing.assert_allclose(result.parameters["x"], x)
    np.testing.assert_allclose(list(result.terms.values()), list(linear.terms(result.z).values()), rtol=1e-12)
    total = sum(result.history.values())
    np.testing.assert_allclose(total[-1], result.cost, rtol=1e-14)
    # The best so far; of points whose J is the same to rounding, the one with the smaller gradient.
    assert (np.diff(total) <= 1e-13 * total[-1]).all()
    assert f"{len(total) - 1} iterations" in str(result) and "prior" in str(result)


@pytest.mark.parametrize("name", ["gauss_newton", "levenberg_marquardt", "levenberg_marquardt_matrix_free", "lbfgs"])
def test_the_valley_of_rosenbrock_is_followed_to_its_end(name):
    minimum = least_squares(
        lambda z: [z[0], z[1], 10 * (3 * z[1] - 9 * z[0] ** 2), 3 * z[0] - 1], [0.3, 0.3], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    result = answer(VALLEY, SOLVERS[name][0], z0=BEND)
    np.testing.assert_allclose(result.z, minimum.x, atol=1e-4)
    np.testing.assert_allclose(result.cost, minimum.cost, rtol=1e-7)
    assert len(result.history["prior"]) < 80


def test_matrix_free_is_dense_step_by_step():
    names = ("levenberg_marquardt", "levenberg_marquardt_matrix_free")
    dense, free = (answer(VALLEY, SOLVERS[name][0], z0=BEND, max_steps=4) for name in names)
    np.testing.assert_allclose(dense.z, free.z, atol=1e-5)
    np.testing.assert_allclose(dense.history["y"], free.history["y"], rtol=1e-5)


# ------------------------------------------------------------------------------------------------------------- hard ground


def steep(theta):
    """Flat, then so steep that a Gauss-Newton step lands where J is infinite; a first step is easy."""
    a = theta["a"]
    return 1e5 * (jnp.exp(a) - 3), 1e3 * (a + 10) * (a < -9.9)


@pytest.mark.parametrize("name", ["gauss_newton", "levenberg_marquardt"])
def test_a_step_that_overshoots_by_decades_is_cut(name):
    # A damping of 1e5 is needed after one of zero: a solver that gives up before ends far up the slope.
    problem = toy(steep, [0.0, 0.0], a=Parameter.normal(-12.0, 1.0))
    result = answer(problem, SOLVERS[name][0])
    np.testing.assert_allclose(result.theta["a"], np.log(3), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gauss_newton", "levenberg_marquardt", "lbfgs", "optax_adam", "multi_start"])
def test_regions_of_nan_are_stepped_around(name):
    # log(a) is NaN below zero, and a Gauss-Newton step from 4.5 goes there.
    problem = toy(lambda theta: [jnp.log(theta["a"]) + 1.0] * 3, [0.0] * 3, a=Parameter.normal(1.0, 1.0))
    result = answer(problem, SOLVERS[name][0], z0=jnp.array([3.5]))
    minimum = least_squares(lambda z: [z[0], 3**0.5 * (np.log(1 + z[0]) + 1)], [-0.6], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    np.testing.assert_allclose(result.z, minimum.x, atol=1e-4)
    assert np.isfinite(result.history["y"]).all()


@pytest.mark.parametrize("name", ["levenberg_marquardt", "lbfgs", "optax_adam", "multi_start"])
def test_a_start_that_fails_raises_with_the_result(name):
    # Always NaN, so that no start of many is good.
    problem = toy(lambda theta: [jnp.sqrt(-1 - theta["a"] ** 2)], [0.0], a=Parameter.normal(1.0, 1.0))
    with pytest.raises(SolveError, match="(?s)finite J.*NaN or infinite.*terms") as caught:
        answer(problem, SOLVERS[name][0], failed=FailedRuns(limit=1.0))
    assert caught.value.result.status is Status.NOT_FINITE
    assert np.isnan(caught.value.result.terms["y"])
    result = answer(problem, SOLVERS[name][0], throw=False, failed=FailedRuns(limit=1.0))
    assert result.status is Status.NOT_FINITE and len(result.history["y"]) == 1
    assert result.details["failed_runs"] == (8 if name == "multi_start" else 0)


@pytest.mark.parametrize("name", ["levenberg_marquardt", "lbfgs", "optax_adam"])
def test_a_finite_cost_without_a_finite_gradient_is_a_failure_and_no_minimum(name):
    problem = toy(lambda theta: [jnp.sqrt(theta["a"]) - 1], [0.0], a=Parameter.normal(0.0, 1.0))
    result = answer(problem, SOLVERS[name][0], throw=False)
    assert result.status is Status.NOT_FINITE and result.cost == 0.5
    with pytest.raises(SolveError, match="gradient"):
        answer(problem, SOLVERS[name][0])


def test_a_step_out_of_what_can_be_run_ends_at_the_best_point():
    problem = toy(lambda theta: [jnp.log(theta["a"]) - 1], [0.0], a=Parameter.normal(1.0, 1.0))
    # The first step of Adam is its rate: from a = 1 to 1.9 for the sign of the slope, or far below zero.
    for rate, ends in ((0.9, Status.MAX_STEPS), (-2.0, Status.NO_DECREASE)):
        result = answer(problem, Optax(optax.adam(rate), steps_per_call=1), max_steps=1)
        assert result.status is ends and np.isfinite(result.cost) and result.counts == {"forward": 0, "gradient": 2, "jvp": 0}
    assert result.theta["a"] == 1.0


def test_a_kink_at_the_minimum_ends_without_decrease():
    problem = toy(lambda theta: [jnp.abs(theta["a"] - 1) + 2], [0.0], sigma=0.1, a=Parameter.normal(0.0, 1.0))
    for solver in (GaussNewton(), LevenbergMarquardt()):
        result = answer(problem, solver)
        np.testing.assert_allclose(result.z, [1.0], atol=1e-6)
        assert result.status is Status.NO_DECREASE and "kinks" in result.status.sentence


# ------------------------------------------------------------------------------------------------------------------- ending


@pytest.mark.parametrize(("name", "steps"), [("levenberg_marquardt", 2), ("lbfgs", 7), ("lbfgs", 0)])
def test_the_largest_number_of_steps_is_kept(name, steps):
    result = answer(VALLEY, SOLVERS[name][0], max_steps=steps, z0=BEND)
    assert result.status is Status.MAX_STEPS and "largest number of steps" in result.status.sentence
    assert {len(values) for values in result.history.values()} == {steps + 1}


def test_history_begins_at_the_start_and_ends_at_the_end():
    result = answer(VALLEY, SOLVERS["lbfgs"][0], z0=BEND)
    for name, value in VALLEY.terms(BEND).items():
        np.testing.assert_allclose(result.history[name][0], value)
        np.testing.assert_allclose(result.history[name][-1], result.terms[name])
    default = answer(VALLEY, SOLVERS["lbfgs"][0], max_steps=0)
    np.testing.assert_array_equal(default.z, VALLEY.space.default_z)
    assert set(result.seconds) == {"compile", "run"} and min(result.seconds.values()) >= 0


def test_the_seconds_of_running_are_not_taken_for_compiling():
    def slow(theta):
        jax.debug.callback(lambda _: time.sleep(0.1), theta["a"], ordered=False)
        return rosenbrock(theta)

    began = time.perf_counter()
    result = answer(toy(slow, [0.0, 1.0]), LBFGS(), max_steps=1)
    assert result.seconds["run"] >= 0.1 * (result.counts["forward"] + result.counts["gradient"])
    assert 0.02 < result.seconds["compile"] < time.perf_counter() - began - result.seconds["run"]


def test_wrong_arguments_are_refused():
    problem = VALLEY
    with pytest.raises(ValueError, match=r"(?s)z0 of shape \(2,\).*shape \(3,\).*whiten"):
        answer(problem, LBFGS(), z0=jnp.zeros(3))
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        answer(problem, LBFGS(), z0=jnp.zeros((1, 2)))
    with pytest.raises(ValueError, match="(?s)seed or key.*key=None.*key=0"):
        solve(problem, MultiStart(LBFGS()))


# ------------------------------------------------------------------------------------------------------------------- counts


class Tally:
    """Counts runs of the model and tangents through it as they happen, whatever asked for them."""

    def __init__(self):
        self.runs = self.tangents = 0

        @jax.custom_jvp
        def watched(a):
            jax.debug.callback(self.run, a)
            return a

        @watched.defjvp
        def _(primals, tangents):
            jax.debug.callback(self.tangent, tangents[0])
            return watched(primals[0]), tangents[0]

        self.watched = watched

    def run(self, _):
        self.runs += 1

    def tangent(self, _):
        self.tangents += 1

    def problem(self):
        return toy(lambda theta: rosenbrock(theta | {"a": self.watched(theta["a"])}), [0.0, 1.0])


@pytest.mark.parametrize(("solver", "difference"), [
    (GaussNewton(), False), (LevenbergMarquardt(), True), (MultiStart(LevenbergMarquardt(), number=4, candidates=3), False),
], ids=["GaussNewton", "LevenbergMarquardt by differences", "MultiStart"])
def test_runs_and_tangents_are_counted_as_they_happen(solver, difference):
    tally = Tally()
    problem = tally.problem()
    result = answer(problem.finite_difference() if difference else problem, solver, max_steps=3, z0=BEND)
    jax.effects_barrier()
    assert result.counts["forward"] == tally.runs
    assert result.counts["jvp"] == tally.tangents
    assert result.counts["gradient"] == 0
    assert (result.counts["jvp"] == 0) == difference


class Reverse(Tally):
    """Counts runs alone: a tangent that is counted cannot be transposed."""

    def problem(self):
        def function(theta):
            jax.debug.callback(self.run, theta["a"])
            return rosenbrock(theta)

        return toy(function, [0.0, 1.0])


@pytest.mark.parametrize(("solver", "difference"), [
    (LBFGS(), False), (LBFGS(), True), (Optax(optax.adam(0.01), steps_per_call=10), False),
    (LevenbergMarquardt(dense_limit=0), False), (LevenbergMarquardt(dense_limit=0), True),
], ids=["LBFGS", "LBFGS by differences", "Adam", "matrix free", "matrix free by differences"])
def test_gradients_are_counted_as_they_happen(solver, difference):
    tally = Reverse()
    problem = tally.problem()
    result = answer(problem.finite_difference() if difference else problem, solver, max_steps=6, z0=BEND)
    jax.effects_barrier()
    # Every exact gradient holds one run; by differences there is nothing but runs.
    assert result.counts["forward"] + result.counts["gradient"] == tally.runs
    assert (result.counts["gradient"] == 0) == difference
    assert (result.counts["jvp"] > 0) == (hasattr(solver, "dense_limit") and not difference)


def test_a_twin_by_finite_differences_finds_the_same_minimum_for_more_runs():
    exact, near = (answer(one, SOLVERS["levenberg_marquardt"][0], z0=BEND) for one in (VALLEY, VALLEY.finite_difference()))
    np.testing.assert_allclose(near.z, exact.z, atol=1e-4)
    assert near.counts["gradient"] == near.counts["jvp"] == 0
    assert near.counts["forward"] > exact.counts["forward"]


# -------------------------------------------------------------------------------------------------------------- many starts


@pytest.fixture(scope="module")
def wells():
    """Two minima: near a = -2 with J of about 20, near a = 2 with J below 1. The default is in the wrong one."""
    return toy(lambda theta: [3 * (theta["a"] ** 2 - 4), 1.5 * (theta["a"] - 2), theta["b"]], [0.0, 0.0, 0.3],
               a=Parameter.normal(-2.2, 3.0), b=Parameter.normal(0.0, 1.0))


def test_many_starts_find_the_lower_of_two_minima(wells):
    alone = answer(wells, LevenbergMarquardt())
    assert alone.theta["a"] < -1.5 and alone.status is Status.CONVERGED
    result = answer(wells, MultiStart(LevenbergMarquardt(), number=6, candidates=20))
    assert result.theta["a"] > 1.5 and result.status is Status.CONVERGED
    details = result.details
    assert {name: values.shape for name, values in details.items()} == {
        "failed_runs": (), "start_cost": (6,), "end_cost": (6,), "end_z": (6, 2), "end_status": (6,)}
    np.testing.assert_allclose(details["start_cost"][0], wells.cost(wells.space.default_z))
    np.testing.assert_allclose(details["end_cost"][0], alone.cost)
    np.testing.assert_allclose(result.cost, details["end_cost"].min())
    np.testing.assert_array_equal(result.z, details["end_z"][details["end_cost"].argmin()])
    # The candidates were chosen by J: each start but the first is below the median of the prior.
    assert (details["start_cost"][1:] < np.median(costs(wells, wells.space.sample(jax.random.key(1), 50)))).all()


def test_many_starts_are_the_same_for_the_same_key_and_in_any_batches(wells):
    solver = MultiStart(LevenbergMarquardt(), number=5, candidates=None)
    one, same, other = (solve(wells, solver, key=key, progress=False, max_steps=4) for key in (7, jax.random.key(7), 8))
    np.testing.assert_array_equal(one.details["end_z"], same.details["end_z"])
    assert not np.allclose(one.details["start_cost"][1:], other.details["start_cost"][1:])
    together = MultiStart(LevenbergMarquardt(), number=5, candidates=None, batch_size=2)
    batched = solve(wells, together, key=7, progress=False, max_steps=4)
    np.testing.assert_allclose(batched.details["end_z"], one.details["end_z"], rtol=1e-9, atol=1e-9)


def test_exploration_leaves_all_but_the_finalists(wells):
    result = answer(wells, MultiStart(LevenbergMarquardt(), number=7, candidates=None, explore=1, finalists=2))
    statuses = result.details["end_status"]
    assert (statuses == Status.LEFT).sum() == 5
    left = result.details["end_cost"][statuses == Status.LEFT]
    assert result.status is Status.CONVERGED and result.cost < left.min()
    assert "lower" in Status.LEFT.sentence


def test_one_failing_start_does_not_stop_the_others():
    problem = toy(lambda theta: [jnp.log(theta["a"])], [0.0], a=Parameter.normal(1.0, 1.0))
    result = answer(problem, MultiStart(LevenbergMarquardt(), number=4, candidates=16), z0=jnp.array([-3.0]))
    assert result.status is Status.CONVERGED
    assert result.details["end_status"][0] == Status.NOT_FINITE and np.isinf(result.details["start_cost"][0])
    # Of a Latin hypercube of 16 those below P(a < 0) = 0.159 fail: two or three.
    assert result.details["failed_runs"] in (2, 3)


def test_candidates_that_fail_follow_the_rule_of_all_methods():
    problem = toy(lambda theta: [jnp.log(theta["a"] - 2)], [0.0], a=Parameter.normal(1.0, 1.0))
    solver = MultiStart(LevenbergMarquardt(), number=6, candidates=None)
    with pytest.raises(RuntimeError, match=r"(?s)at most 50%.*of 5, at a -?\d.*narrow the prior"):
        answer(problem, solver)
    left_out = answer(problem, solver, failed=FailedRuns(limit=0.9))
    assert left_out.details["failed_runs"] == 4 and len(left_out.details["end_z"]) == 2
    np.testing.assert_allclose(left_out.theta["a"], 3.0, atol=0.6)
    pulled = answer(problem, solver, failed=FailedRuns("pull in", limit=0.9, attempts=8))
    assert len(pulled.details["end_z"]) == 6 and pulled.details["failed_runs"] > 4
    assert pulled.counts["forward"] > left_out.counts["forward"]


def test_a_watch_sees_every_iteration_with_its_work_and_may_stop(wells):
    seen = []
    solver = LBFGS()
    assert solver.steps_per_call > 1
    result = answer(wells, solver, watch=lambda shown: seen.append((float(sum(shown.terms.values())), int(shown.counts.gradient))))
    np.testing.assert_allclose([cost for cost, _ in seen], sum(result.history.values()))
    assert seen[0][1] == 1 and seen[-1][1] == result.counts["gradient"] and (np.diff([work for _, work in seen]) >= 0).all()
    early = answer(wells, solver, watch=lambda shown: int(shown.counts.gradient) >= 3)
    assert early.status is Status.STOPPED and len(early.history["y"]) < len(result.history["y"])
    assert sum(early.history.values())[-1] == early.cost
    start = answer(wells, solver, watch=lambda shown: True)
    assert start.status is Status.STOPPED and len(start.history["y"]) == 1
    np.testing.assert_array_equal(start.z, wells.space.default_z)


def test_a_watch_of_differences_sees_runs(wells):
    seen = []
    answer(wells.finite_difference(), LevenbergMarquardt(), max_steps=2, watch=lambda shown: seen.append(shown.counts))
    # The start, then: a run with its two differences, and seven trials.
    assert [int(counts.forward) for counts in seen] == [1, 11, 21] and all(int(counts.jvp) == 0 for counts in seen)


def test_a_result_is_a_first_guess(wells):
    found = answer(wells, MultiStart(LevenbergMarquardt(), number=6, candidates=20), max_steps=1)
    on = answer(wells, LevenbergMarquardt(), z0=found)
    assert on.history["y"][0] == found.terms["y"] and on.theta["a"] > 1.5
