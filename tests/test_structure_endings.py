"""How a calibration ended: minima, starts, chains, weights, emulators, bounds and failed runs, each with a sentence and what to do."""

import jax.numpy as jnp
import numpy as np
import pytest

import landcal_jax as lc
from landcal_jax import structure
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.forward import FunctionForward
from landcal_jax.map_error import MapError
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior, from_draws
from landcal_jax.problem import Problem
from landcal_jax.solvers import Status
from landcal_jax.structure import endings
from landcal_jax.structure.parameters import bounds, moved
from landcal_jax.structure.score_tests import whitened_at

N = 60
TIME = np.datetime64("2001-01-01") + np.arange(N).astype("timedelta64[D]")
PATTERN = np.cos(np.arange(N) / 9.0)


def model(theta):
    return {"y": (theta["a"] * jnp.asarray(PATTERN))[None]}


def problem_with(forward=None, prior=None, truth: float = 1.0) -> Problem:
    stream = Stream(truth * PATTERN + 0.5 * np.random.default_rng(0).standard_normal(N), 0.5, time=TIME)
    space = ParameterSpace({"a": prior or Parameter.normal(0.0, 2.0)})
    return Problem(space, forward or FunctionForward(model), Observations({"y": stream}))


@pytest.fixture(scope="module")
def problem():
    return problem_with()


@pytest.fixture(scope="module")
def result(problem):
    return lc.solve(problem, lc.LevenbergMarquardt(), progress=False)


def whitened(problem, z):
    return whitened_at(problem, z, problem.observations)


def test_a_point_that_is_no_minimum_is_said_first(problem, result):
    """z = 0, given as an array, has no status: its J falls by what the data know."""
    findings = structure.examine(problem, jnp.zeros(1), refits=False)
    fall = float(problem.cost(jnp.zeros(1)) - problem.cost(result.z))
    assert findings.top.kind == "solver" and findings.top.numbers["fall"] == pytest.approx(fall, rel=1e-6)
    assert "not at a minimum" in findings.top.sentence
    assert not list(endings.of_solve(problem, result.z, np.asarray(result.z), whitened(problem, result.z)))
    # A result that says it has converged is looked at too.
    wrong = result._replace(z=jnp.zeros(1), status=Status.CONVERGED)
    found = list(endings.of_solve(problem, wrong, np.zeros(1), whitened(problem, jnp.zeros(1))))
    assert found[0].alarm and "converged" in found[0].sentence


def test_starts_that_were_left_do_not_count(problem, result):
    z, at = np.asarray(result.z), whitened(problem, result.z)

    def lonely(statuses):
        details = {"end_cost": np.array([10.0, 50.0, 60.0, 70.0]), "end_status": np.array(statuses)}
        return list(endings.of_solve(problem, result._replace(details=details), z, at))

    assert not lonely([Status.CONVERGED, Status.LEFT, Status.LEFT, Status.LEFT])
    found = lonely([Status.CONVERGED, Status.CONVERGED, Status.LEFT, Status.LEFT])
    assert "Only one of the 2 starts" in found[0].sentence and found[0].figure == "starts"


def test_chains_that_disagree_are_found_without_being_asked_for(problem, result):
    rng = np.random.default_rng(1)
    z = np.r_[rng.normal(-3, 0.1, (200, 1)), rng.normal(3, 0.1, (200, 1))]
    posterior = from_draws(problem, z, method="two chains", chains=2, details={"warning": "The sampler has not warmed up."})
    found = {each.kind: each for each in structure.examine(problem, result, posterior, refits=False).alarms}
    assert "Chains disagree" in found["chains"].sentence or "effective" in found["chains"].sentence
    assert "has not warmed up" in found["posterior"].sentence
    advice = [each.advice for each in endings.of_posterior(problem, posterior, None) if each.kind == "chains"]
    assert len(set(advice)) > 1 and any("smc(problem)" in each for each in advice)


def test_a_gaussian_that_misses_the_posterior_is_said_without_an_alarm(problem, result):
    rng = np.random.default_rng(2)
    variance = 1.0 / np.sum(whitened(problem, result.z).G ** 2)

    def gaussian(scale):
        z = np.asarray(result.z) + np.sqrt(scale * variance) * rng.standard_normal((200, 1))
        return Posterior(problem, jnp.asarray(z), result.z, jnp.full((1, 1), scale * variance), "Gaussian", gaussian=True)

    assert not list(endings.of_posterior(problem, gaussian(1.0), None))
    found = list(endings.of_posterior(problem, gaussian(0.02), None))
    assert [each.kind for each in found] == ["posterior"] and not found[0].alarm and "k-hat" in found[0].sentence


def test_a_gaussian_that_says_nothing_of_the_posterior_is_an_alarm_and_one_that_misses_some_is_in_the_verdict(problem, result):
    """Six standard deviations beside the posterior: k-hat of several, at which the report was quiet."""
    spread = 1 / np.sqrt(np.sum(whitened(problem, result.z).G ** 2))

    def examined(centre, scale):
        z = centre + scale * spread * np.random.default_rng(5).standard_normal((400, 1))
        covariance = jnp.full((1, 1), (scale * spread) ** 2)
        gaussian = Posterior(problem, jnp.asarray(z), jnp.asarray(centre), covariance, "Gaussian", gaussian=True)
        return structure.examine(problem, result, gaussian, refits=False, members=10)

    right = examined(np.asarray(result.z), 1.0)
    assert right.quiet and "Gaussian" not in str(right)
    narrow = examined(np.asarray(result.z), 0.1)
    assert narrow.quiet and "But: The posterior is not the Gaussian" in str(narrow) and "k-hat" in str(narrow)
    beside = examined(np.asarray(result.z) + 6 * spread, 1.0)
    loud = next(each for each in beside.alarms if each.kind == "posterior")
    assert loud.numbers["k_hat"] > 1 and not beside.quiet


def test_a_posterior_of_another_problem_and_an_alarm_that_is_none_are_refused(problem, result):
    other = Problem(ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in "ab"}), problem.forward, problem.observations)
    posterior = from_draws(other, np.random.default_rng(3).standard_normal((20, 2)), method="draws")
    with pytest.raises(ValueError, match="same parameters"):
        structure.examine(problem, result, posterior)
    for alarm in (0, -1, 5):
        with pytest.raises(ValueError, match="chance"):
            structure.examine(problem, result, alarm=alarm)


class Emulator(FunctionForward):
    """A function that knows that it is wrong by `error`, and where it was never tried."""

    error: float = 0.0

    @property
    def uncertain(self):
        return True

    def covariance(self, theta, operators):
        return {"y": MapError(jnp.full((1, N), self.error**2), jnp.zeros((0, 1, N)), jnp.zeros(0))}

    def caveats(self, theta):
        return (f"The emulator was never run near a = {float(theta['a']):.2f}.",) if float(theta["a"]) > 0.5 else ()


def test_an_emulator_out_of_its_depth_is_found():
    good, bad = (problem_with(Emulator(model, error)) for error in (0.1, 1.5))
    z = lc.solve(problem_with(), lc.LevenbergMarquardt(), progress=False).z
    found = list(endings.of_emulator(bad, bad.observations, np.asarray(z)))
    assert [each.kind for each in found] == ["emulator"] * 2 and found[1].numbers["share"] == pytest.approx(3.0)
    assert "never run near a = " in found[0].sentence and all(each.alarm and each.advice for each in found)
    assert len(list(endings.of_emulator(good, good.observations, np.zeros(1)))) == 0
    # Residuals are judged by the errors of the observations and of the emulator together.
    wide = endings.in_force(bad, np.asarray(z))["y"]
    np.testing.assert_allclose(np.asarray(wide.standard_deviation), np.sqrt(0.25 + 2.25))


def test_a_log_normal_has_no_wider_bound():
    """k = 0.0105 of a log-normal leaned on the bound 0, "try it as the lower bound"; a uniform prior still has bounds."""
    found = {}
    for name, prior, z in (("log-normal", Parameter.log_normal(1.0, 1.0), -4.5), ("uniform", Parameter.uniform(0.0, 2.0), -4.5),
                           ("upper", Parameter.log_uniform(0.1, 2.0), 4.5), ("cut", Parameter.bounded(1.0, 1.0, 0.0, np.inf), -4.5)):
        problem = problem_with(prior=prior)
        at = np.array([z])
        found[name] = [each.kind for each in (*bounds(problem, whitened(problem, at), at), *moved(problem, at))]
    assert found == {"log-normal": ["prior outlier"], "uniform": ["bound"], "upper": ["bound"], "cut": ["bound"]}


def test_failed_runs_of_a_black_box_are_looked_for_when_asked():
    def run(theta):
        a = float(np.asarray(theta["a"]))
        return {"y": (np.nan if a > 1.5 else a) * PATTERN[None]}

    observations = problem_with().observations
    problem = Problem(problem_with().space, BlackBoxForward(run, observations=observations), observations).finite_difference()
    result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False)
    findings = structure.examine(problem, result, refits=False)
    assert any("Runs over the prior" in note and "members=50" in note for note in findings.notes)
    failed = next(each for each in structure.examine(problem, result, refits=False, members=40) if each.kind == "failed runs")
    assert failed.alarm and "fail, at a 1." in failed.sentence and len(failed.numbers["finished"]) == 40
    lost = result._replace(details={"failed_runs": 7}, counts={"forward": 100, "gradient": 0, "jvp": 0})
    assert "7 of 100 runs" in next(each for each in structure.examine(problem, lost, refits=False) if each.kind == "failed runs").sentence


def test_the_page_says_how_the_calibration_ended_and_what_was_asked_for(problem, result, tmp_path):
    rng = np.random.default_rng(4)
    posterior = from_draws(problem, np.r_[rng.normal(-3, 0.1, (200, 1)), rng.normal(3, 0.1, (200, 1))], method="two chains", chains=2)
    page = structure.examine(problem, result, posterior, refits=False, alarm=0.1).write(tmp_path / "structure.html").read_text()
    assert "How the calibration ended" in page and "10 % of the reports" in page and "one report of twenty" not in page
    assert "winter" not in page and " 1;" not in page
