"""A bias at one of several sites: named with its site, apart from one at all of them, and quiet where there is none."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import landcal_jax as lc
from landcal_jax import structure
from landcal_jax.forward import FunctionForward, SiteForward
from landcal_jax.model import AbstractModel
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.structure.memory import fitted
from landcal_jax.structure.score_tests import score_tests, whitened_at, whitened_directions
from landcal_jax.structure.signals import signals_of

NAMES, N = ("one", "two", "three"), 240
TIME = np.datetime64("2001-01-01") + np.arange(N).astype("timedelta64[D]")
CYCLE = 2.0 + 1.5 * np.cos(np.arange(N) / 9.0)
PATTERNS = np.random.default_rng(5).standard_normal((2, 3, N))


def optimum(problem: Problem):
    return lc.solve(problem, lc.GaussNewton(), progress=False).z


def linear(seed: int, added: np.ndarray | float = 0.0) -> Problem:
    """Two parameters that three sites share, in one stream; `added` (site, n) to what was observed."""
    def model(theta):
        return {"nee": jnp.asarray(CYCLE) + theta["a"] * jnp.asarray(PATTERNS[0]) + theta["b"] * jnp.asarray(PATTERNS[1])}

    noise = 0.5 * np.random.default_rng(seed).standard_normal((3, N))
    values = np.asarray(model({"a": 0.7, "b": -0.4})["nee"]) + noise + added
    space = ParameterSpace({name: Parameter.normal(0.0, 1.0) for name in "ab"})
    return Problem(space, FunctionForward(model), Observations({"nee": Stream(values, 0.5, time=TIME)}, sites=NAMES))


AT_TWO = np.array([0.0, 1.0, 0.0])[:, None]


def test_an_offset_of_the_observations_of_one_site_is_named_with_the_site(tmp_path):
    problem = linear(0, 0.4 * AT_TWO)
    findings = structure.examine(problem, optimum(problem))
    assert findings.top.kind == "cause" and findings.top.numbers["group"] == ("observation", "nee", "two")
    assert "at two" in findings.top.sentence and findings.top.numbers["candidate"] == "two: nee_offset"
    refit = findings.named[0].refit
    assert refit.coefficient == pytest.approx(0.4, abs=4 * refit.spread) and refit.spread < 0.05
    table = findings.to_xarray()
    assert set(table["candidate_site"].values) == {"", *NAMES}
    assert "at two" in findings.write(tmp_path / "structure.html").read_text()


def test_an_offset_of_all_sites_is_not_laid_upon_one():
    problem = linear(1, 0.4)
    assert structure.examine(problem, optimum(problem)).top.numbers["group"] == ("observation", "nee")


@pytest.mark.slow
def test_three_right_sites_are_quiet_nearly_always():
    loud = [seed for seed in range(12) if not structure.examine(problem := linear(seed), optimum(problem), refits=False, seed=seed).quiet]
    assert len(loud) <= 2


def test_candidates_of_one_site_are_counted_among_themselves():
    """Of three sites there are thrice as many as of all together; a stream that one site alone has brings none."""
    problem = linear(0)
    z = optimum(problem)
    whitened, signals = whitened_at(problem, z, problem.observations), signals_of(problem, z)
    scores = score_tests(whitened, signals.candidates, whitened_directions(problem.observations, signals, problem.predict(z), whitened))
    assert set(scores.thresholds) == {"observation", "observation at a site"} and len(scores.t) == 12
    assert scores.thresholds["observation at a site"] > scores.thresholds["observation"]
    one = Observations({"nee": Stream(np.where(AT_TWO > 0, np.asarray(problem.observations["nee"].values), np.nan), 0.5, time=TIME)},
                       sites=NAMES)
    assert all(not each.site for each in signals_of(problem.with_observations(one), z).candidates)


class Light(NamedTuple):
    shortwave: jax.Array


class Kept(NamedTuple):
    store: jax.Array


class Gone(NamedTuple):
    flux: jax.Array


class Gain(AbstractModel):
    """flux = gain * shortwave + loss * store, the store what came in lately."""

    parameter_names = ("gain", "loss")
    output_units = {"flux": "gC m-2 d-1"}

    def parameters(self):
        return {"gain": Parameter.normal(0.5, 0.3), "loss": Parameter.normal(0.1, 0.05)}

    def forcing(self, dataset):
        raise NotImplementedError

    def initial_state(self, theta):
        return Kept(jnp.asarray(0.0))

    def step(self, constants, state, inputs):
        store = 0.95 * state.store + inputs.shortwave
        return Kept(store), Gone(constants["gain"] * inputs.shortwave + constants["loss"] * jnp.sqrt(store))


def light(bias: float) -> Problem:
    """Three sites whose shortwave differs; that given for the second is `bias` too high."""
    rng = np.random.default_rng(2)
    shortwave = 12 + 6 * np.sin(2 * np.pi * (np.arange(N) + 30 * np.arange(3)[:, None]) / 180) + rng.standard_normal((3, N))

    def sites(values):
        return Sites(Light(jnp.asarray(values)), jnp.asarray(np.tile(TIME.astype(int), (3, 1))), jnp.full(3, N),
                     {"site": jnp.arange(3)}, NAMES)

    stream = Stream(np.zeros((3, N)), 0.5, Pick("flux"), time=TIME, units="gC m-2 d-1")
    true = Problem(ParameterSpace(Gain().parameters()), SiteForward(Gain(), sites(shortwave)), Observations({"flux": stream}, sites=NAMES))
    y = np.asarray(true.predict(jnp.zeros(2))["flux"]) + 0.5 * rng.standard_normal((3, N))
    return Problem(true.space, SiteForward(Gain(), sites(shortwave + bias * AT_TWO)), Observations({
        "flux": stream.with_values(jnp.asarray(y))}, sites=NAMES))


def test_a_driver_that_is_biased_at_one_site_is_named_with_the_site():
    problem = light(0.8)
    findings = structure.examine(problem, optimum(problem), members=10)
    assert findings.top.numbers["group"] == ("driver", "shortwave", "two")
    named = findings.named[0]
    assert findings.top.numbers["candidate"] == "two: shortwave_offset"
    assert named.refit.coefficient == pytest.approx(-0.8, abs=4 * named.refit.spread) and named.refit.spread < 0.15


def test_directions_of_one_site_are_those_of_runs_with_the_change_there():
    problem = light(0.0)
    z = optimum(problem)
    whitened, signals = whitened_at(problem, z, problem.observations), signals_of(problem, z)
    D = whitened_directions(problem.observations, signals, problem.predict(z), whitened)
    for name in ("two: shortwave_offset", "three: shortwave_drift"):
        index = [each.name for each in signals.candidates].index(name)
        ahead = signals.expanded.predict(z, jnp.asarray(1e-3), signals.expansion(index))["flux"]
        slope = (np.asarray(ahead) - np.asarray(problem.predict(z)["flux"])) / 1e-3 / 0.5
        assert np.abs(D[:2, index]).max() == 0
        np.testing.assert_allclose(D[whitened.rows["flux"], index], slope.ravel(), atol=0.02 * np.abs(slope).max())


def test_a_site_conflict_that_speaks_louder_than_the_cause_comes_first():
    """Sites with other true values of a parameter, and a slight drift of all observations, which is the only cause to be found."""
    drift = 0.25 * np.linspace(-1, 1, N)
    problem = linear(3, 0.5 * PATTERNS[0] * np.array([1.0, -1.0, 0.0])[:, None] + drift)
    findings = structure.examine(problem, optimum(problem), refits=False)
    cause = next(each for each in findings if each.kind == "cause")
    assert cause.alarm and findings.top.kind == "site conflict" and findings.top.log_p < cause.log_p - 20
    assert "stands out far more than the likeliest of the causes" in findings.top.sentence and "Check the drivers" in findings.top.advice
    explained = structure.examine(problem := linear(0, 0.4 * AT_TWO), optimum(problem), refits=False)
    assert explained.top.kind == "cause"


def test_memories_of_many_candidates_are_those_of_each():
    """All at once or one by one; and what is taken up may be in the residuals or not."""
    problem = linear(4)
    whitened = whitened_at(problem, optimum(problem), problem.observations)
    rng = np.random.default_rng(4)
    U, rows = whitened.project(np.cumsum(rng.standard_normal((len(whitened.r), 12)), axis=0)).reshape(-1, 4, 3), whitened.rows["nee"]
    together = fitted(whitened, rows, each=U)
    for k in range(4):
        alone = fitted(whitened, rows, each=U[:, [k]], residuals=whitened.r + U[:, k] @ np.array([0.3, -2.0, 1.0]))
        np.testing.assert_allclose(together.weights[:, k], alone.weights[:, 0], rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(together.variances[:, k], alone.variances[:, 0], rtol=1e-8)
