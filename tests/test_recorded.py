"""Runs that were made elsewhere, looked up by their parameters."""

import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.emulator import emulate, latin_hypercube
from landcal_jax.history_matching import History
from landcal_jax.model_identity import identity_of
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.recorded import RecordedRuns

SPACE = ParameterSpace(
    {"a": Parameter.uniform(100.0, 300.0), "k": Parameter.log_normal([0.5, 1.5], 0.3, dims=("pft",))}, {"pft": ["C3", "C4"]})
# Of a = 200, k = 0.5 and 1.5.
OBSERVED = Observations({"p": Stream([[1.0], [3.0]], 0.1), "q": Stream([[1.0, 1.0], [3.0, np.nan]], 0.1, mask=True)})


def made(z):
    """theta and streams of a model that ran elsewhere; the fourth of its runs failed."""
    theta = {name: np.asarray(value) for name, value in SPACE.physical(jnp.asarray(z)).items()}
    p = theta["a"][:, None, None] / 100.0 * theta["k"][:, :, None]
    p[3] = np.nan
    return theta, {"p": p, "q": np.concatenate([p, p**2], axis=2)}


def problem_of(runs):
    return Problem(SPACE, BlackBoxForward(runs, observations=OBSERVED, workers=1), OBSERVED)


@pytest.fixture(scope="module")
def design():
    blank = problem_of(RecordedRuns({"a": [1.0]}, {"p": np.zeros((1, 2, 1)), "q": np.zeros((1, 2, 2))}))
    return latin_hypercube(blank, 40, key=0)


def test_runs_are_found_by_their_parameters_in_any_order(design):
    theta, streams = made(design)
    problem = problem_of(RecordedRuns(theta, streams))
    order = np.random.default_rng(0).permutation(40)
    found = problem.ensemble(design[order])
    np.testing.assert_array_equal(found["p"], streams["p"][order])
    np.testing.assert_array_equal(found["q"], streams["q"][order])
    np.testing.assert_array_equal(problem.predict(jnp.asarray(design[5]))["p"], streams["p"][5])
    # A file that keeps ten digits.
    short = RecordedRuns({name: np.vectorize(lambda x: float(f"{x:.10e}"))(values) for name, values in theta.items()}, streams)
    np.testing.assert_array_equal(problem_of(short).ensemble(design)["p"], streams["p"])


def test_a_run_that_nobody_made_has_failed_with_a_reason(design):
    theta, streams = made(design)
    runs = RecordedRuns({name: values[:30] for name, values in theta.items()}, {name: values[:30] for name, values in streams.items()})
    problem = problem_of(runs)
    found = problem.ensemble(design)["p"]
    assert np.isnan(found[30:]).all() and np.isnan(found[3]).all() and np.isfinite(np.delete(found[:30], 3, axis=0)).all()
    assert "no run was made at these parameters" in problem.forward.failure_words()
    again = runs.joined({name: values[30:] for name, values in theta.items()}, {name: values[30:] for name, values in streams.items()})
    assert len(again) == 40 and np.isfinite(problem_of(again).ensemble(design)["p"][30:]).all()
    assert identity_of(again).text != identity_of(runs).text and identity_of(again).text == identity_of(RecordedRuns(theta, streams)).text


def test_they_serve_emulators_and_history_matching(design):
    problem = problem_of(RecordedRuns(*made(design)))
    emulator = emulate(problem, design)
    assert emulator.failed == 1 and not emulator.refused
    history = History.of(problem, points=1024).told(design, problem.ensemble(design))
    assert "1 of 40 runs failed" in str(history) and 0 < history.fraction < 0.5


def test_scalars_at_one_site_need_no_more_axes():
    runs = RecordedRuns({"x": [1.0, 2.0]}, {"rmsd": [3.0, 4.0]})
    np.testing.assert_array_equal(runs({"x": 2.0, "other": 7.0})["rmsd"], [[4.0]])


@pytest.mark.parametrize(("theta", "streams", "words"), [
    ({"x": [1.0, 2.0]}, {"y": [1.0]}, "one row for each run"), ({"x": [1.0, np.nan]}, {"y": [1.0, 2.0]}, "1 of them with NaN"),
    ({}, {"y": [1.0]}, "one row for each run"), ({"x": 1.0}, {"y": [1.0]}, "one row for each run"),
    ({"x": [1.0, 2.0, 1.0]}, {"y": [1.0, 2.0, 3.0]}, "runs 0 and 2 with the same parameters")])
def test_mistakes_are_said(theta, streams, words):
    with pytest.raises(ValueError, match=words):
        RecordedRuns(theta, streams)
    with pytest.raises(KeyError, match="the same names in every wave"):
        RecordedRuns({"x": [1.0]}, {"y": [1.0]}).joined({"z": [2.0]}, {"y": [1.0]})
