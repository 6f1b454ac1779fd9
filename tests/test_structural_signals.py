"""Candidates for structural errors over truths of the prior, where predictions are flat, and where residuals have a memory."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri_exp

import landcal_jax as lc
from landcal_jax.forward import FunctionForward, SiteForward
from landcal_jax.model import AbstractModel
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.structure.memory import fitted
from landcal_jax.structure.score_tests import Whitened, refitted, score_tests, threshold_of, whitened_at, whitened_directions
from landcal_jax.structure.signals import Candidate, signals_of


def days(number: int, step: int = 1) -> np.ndarray:
    return np.datetime64("2001-01-01") + (np.arange(number) * step).astype("timedelta64[D]")


def scored(problem: Problem, candidates=None):
    """Scores of a problem at its minimum, and what is left to calibrate anew with them."""
    z = lc.solve(problem, lc.GaussNewton(), progress=False).z
    whitened, signals = whitened_at(problem, z, problem.observations), signals_of(problem, z, candidates)
    D = whitened_directions(problem.observations, signals, problem.predict(z), whitened)
    scores = score_tests(whitened, signals.candidates, D)
    return scores, signals, lambda: refitted(scores, signals, problem.observations, z, whitened)


def statistic(scores, name: str) -> float:
    return float(scores.t[[candidate.name for candidate in scores.candidates].index(name)])


# ------------------------------------------------------------------------------------------ factors, over truths drawn from the prior

BASIS, CYCLE = np.random.default_rng(7).standard_normal((400, 12)), 3 * np.cos(np.arange(400) / 9.0)
NAMES = tuple(f"p{n}" for n in range(12))


def background(theta):
    """A part that no parameter can change, and twelve that the parameters make alone."""
    return {"y": (jnp.asarray(CYCLE) + jnp.asarray(BASIS) @ jnp.stack([theta[name] for name in NAMES]))[None]}


def factor_problem(seed: int, factor: float = 1.0, shift: float | None = None) -> Problem:
    """Twelve parameters N(0, 2^2), drawn, or `shift` prior standard deviations away from their mean."""
    rng = np.random.default_rng(seed)
    truth = 2 * (rng.standard_normal(12) if shift is None else np.full(12, shift))
    y = factor * (CYCLE + BASIS @ truth) + 0.5 * rng.standard_normal(400)
    space = ParameterSpace({name: Parameter.normal(0.0, 2.0) for name in NAMES})
    return Problem(space, FunctionForward(background), Observations({"y": Stream(y, 0.5, time=days(400))}))


def test_a_factor_of_the_observations_is_normal_over_truths_of_the_prior():
    """With the prediction as its shape it would have the mean of sqrt(12) in 12 parameters' prior."""
    found = [scored(factor_problem(seed))[0] for seed in range(60)]
    t = np.array([statistic(scores, "y_factor") for scores in found])
    assert abs(t.mean()) < 3 / np.sqrt(60) and 0.73 < t.std() < 1.27
    assert sum(scores.loud.any() for scores in found) <= 5  # 1.5 expected
    assert not any(scored(factor_problem(seed, shift=2.0))[0].loud.any() for seed in range(2))


def test_a_factor_of_the_observations_is_found():
    scores, _, anew = scored(factor_problem(0, factor=1.2))
    assert statistic(scores, "y_factor") > 10
    named = anew()[0]
    assert named.group == ("observation", "y") and named.refit.coefficient == pytest.approx(0.2, abs=4 * named.refit.spread)
    assert named.refit.spread < 0.02


class Light(NamedTuple):
    shortwave: jax.Array
    place: jax.Array


class Kept(NamedTuple):
    store: jax.Array


class Gone(NamedTuple):
    flux: jax.Array


class Gains(AbstractModel):
    """flux = gain of the present eighth of the record times shortwave: a factor on the driver is what the gains do together."""

    parameter_names = NAMES[:8]
    output_units = {"flux": "gC m-2 d-1"}

    def parameters(self):
        return {name: Parameter.normal(0.5, 1.0) for name in self.parameter_names}

    def forcing(self, dataset):
        raise NotImplementedError

    def initial_state(self, theta):
        return Kept(jnp.asarray(0.0))

    def step(self, constants, state, inputs):
        gains = jnp.stack([constants[name] for name in self.parameter_names])
        flux = gains[inputs.place.astype(int)] * inputs.shortwave
        return Kept(state.store + flux), Gone(flux)


def light_problem(seed: int) -> Problem:
    rng = np.random.default_rng(seed)
    shortwave, place = 5 + 3 * np.cos(np.arange(160) / 5.0), np.repeat(np.arange(8), 20)
    y = (0.5 + rng.standard_normal(8))[place] * shortwave + 1.5 * rng.standard_normal(160)
    sites = Sites(Light(jnp.asarray(shortwave[None]), jnp.asarray(place[None])), jnp.asarray(days(160).astype(int)[None]),
                  jnp.asarray([160]), {"site": jnp.asarray([0])}, ("one",))
    space = ParameterSpace(Gains().parameters())
    return Problem(space, SiteForward(Gains(), sites), Observations({"flux": Stream(y, 1.5, Pick("flux"), time=days(160))}))


def test_a_factor_of_a_driver_is_normal_over_truths_of_the_prior():
    """Uncorrected, the mean of its t is -sqrt(8 / 1.25) = -2.5."""
    found = [scored(light_problem(seed))[0] for seed in range(20)]
    t = np.array([statistic(scores, "shortwave_factor") for scores in found])
    assert abs(t.mean()) < 3 / np.sqrt(20) and 0.6 < t.std() < 1.4


# ------------------------------------------------------------------------------------------- flat predictions, single values, no times

def level(streams) -> Problem:
    """One parameter, the level of all streams."""
    lengths = {name: stream.values.shape[1] for name, stream in streams.items()}
    return Problem(ParameterSpace({"a": Parameter.normal(0.0, 2.0)}),
                   FunctionForward(lambda theta: {name: jnp.broadcast_to(theta["a"], (1, n)) for name, n in lengths.items()}),
                   Observations(streams))


def test_a_drift_is_named_where_the_prediction_is_flat():
    y = 1 + 0.5 * np.random.default_rng(2).standard_normal(400) + 0.25 * np.linspace(-1, 1, 400)
    scores, signals, anew = scored(level({"y": Stream(y, 0.5, time=days(400))}))
    named = anew()[0]
    assert 0.2 < {candidate.name: candidate.size for candidate in signals.candidates}["y_drift"] < 2
    assert named.alarm and named.evidence > 5 and scores.candidates[named.best].name == "y_drift"
    assert named.refit.coefficient == pytest.approx(0.5 * 365.25 / 400, abs=3 * named.refit.spread)


def test_an_offset_of_a_single_value_is_named():
    y = 1 + 0.5 * np.random.default_rng(2).standard_normal(400)
    scores, _, anew = scored(level({"y": Stream(y, 0.5, time=days(400)), "biomass": Stream([9.0], 0.5, time=days(1))}))
    assert abs(statistic(scores, "biomass_offset")) > 10
    named = {each.group: each for each in anew()}
    assert named["observation", "biomass"].evidence > 20


def test_streams_without_times_have_no_candidates_and_say_so():
    scores, signals, anew = scored(level({"y": Stream(1 + 0.5 * np.random.default_rng(0).standard_normal(50), 0.5)}))
    assert signals.candidates == () and len(scores.t) == 0 and anew() == []
    assert signals.notes[0].startswith("y: without times")


def test_what_stands_out_keeps_its_alarm_where_the_evidence_is_against_it():
    """A loud one, t = 4.05, of 150 in 1500 values: the chance of the many, and of its size, takes more from it than its t gives."""
    rng = np.random.default_rng(0)
    patterns, noise = rng.standard_normal((150, 1500)), 0.45 * rng.standard_normal(1500)
    left = patterns[0] - patterns[0].mean()
    noise -= left * (noise @ left) / (left @ left)
    y = 1 + noise + 4.05 * 0.5 * patterns[0] / np.linalg.norm(left)
    scores, _, anew = scored(level({"y": Stream(y, 0.5, time=days(1500))}), {f"c{n}": {"y": each} for n, each in enumerate(patterns)})
    assert scores.loud.sum() == 1 and statistic(scores, "c0") == pytest.approx(4.05, abs=0.02)
    named = anew()
    assert len(named) == 1 and named[0].alarm and -2 < named[0].evidence < 0


# ------------------------------------------------------------------------------------------------------------------- memory

def remembering(seed: int, times: np.ndarray, e_folding: float, share: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    keep, white = np.exp(-np.diff(times, prepend=times[0]) / e_folding), rng.standard_normal(len(times))
    e = np.zeros(len(times))
    e[0] = white[0]
    for n in range(1, len(times)):
        e[n] = keep[n] * e[n - 1] + np.sqrt(1 - keep[n] ** 2) * white[n]
    return np.sqrt(share) * e + np.sqrt(1 - share) * rng.standard_normal(len(times))


def about_a_level(e: np.ndarray, times: np.ndarray) -> Whitened:
    """The residuals of a level whose prior is N(0, 1), with the prior's row first."""
    m = len(e)
    G = np.ones((m + 1, 1))
    noise, Q = np.r_[np.random.default_rng(m).standard_normal(), e], np.linalg.qr(G)[0]
    return Whitened(noise - Q @ (Q.T @ noise), G, {"y": np.arange(1, m + 1)}, np.r_[-1, np.zeros(m, int)], np.r_[np.nan, times], Q)


def test_the_memory_is_that_of_the_dense_likelihood():
    """Weights of the grid against the restricted likelihood by dense matrices, at irregular times and two sites."""
    rng = np.random.default_rng(1)
    m = 24
    times, sites = np.tile(np.cumsum(rng.uniform(0.5, 4, m // 2)), 2), np.repeat([0, 1], m // 2)
    G = np.concatenate([np.eye(2), rng.standard_normal((m, 2))])
    Q, noise = np.linalg.qr(G)[0], rng.standard_normal(m + 2)
    whitened = Whitened(noise - Q @ (Q.T @ noise), G, {"y": np.arange(2, m + 2)}, np.r_[-1, -1, sites], np.r_[np.nan, np.nan, times], Q)
    memory = fitted(whitened, whitened.rows["y"])
    y = whitened.r[2:] - G[2:] @ whitened.r[:2]  # the innovation, whose covariance is s^2 (C + G G')
    logs, dense = [], {}
    for tau, share in zip(memory.days, memory.shares, strict=True):
        C = (1 - share) * np.eye(m) + share * np.where(sites[:, None] == sites, np.exp(-np.abs(times[:, None] - times) / tau), 0)
        V = C + G[2:] @ G[2:].T
        logs.append(-0.5 * np.linalg.slogdet(V)[1] - 0.5 * m * np.log(y @ np.linalg.solve(V, y)))
        dense[tau, share] = C
    weights = np.exp(np.array(logs) - max(logs)) * np.r_[len(logs) - 1, np.ones(len(logs) - 1)]
    np.testing.assert_allclose(memory.weights[:, 0], weights / weights.sum(), rtol=1e-6)
    columns = rng.standard_normal((m, 3))
    expected = sum(w * s * C for w, s, C in zip(memory.weights[:, 0], memory.variances[:, 0], dense.values(), strict=True))
    np.testing.assert_allclose(memory.covariance(columns), columns.T @ expected @ columns, rtol=1e-8)
    added = np.diag(columns.T @ expected @ columns) - memory.variance * np.sum(columns**2, axis=0)
    np.testing.assert_allclose(memory.added(columns), added, rtol=1e-8)


@pytest.mark.parametrize(("times", "e_folding"), [
    (np.arange(120) * 30.44, 30.44 / -np.log(0.7)), (np.arange(800.0), 20.0), (np.arange(800.0), 1e-3)], ids=["monthly", "daily", "white"])
def test_memory_raises_no_alarms(times, e_folding):
    """A drift, at 2.5 % the threshold: with lags of 30 days there were 30 % (months) and 16 % (20 days)."""
    drift = np.r_[0.0, np.linspace(-1, 1, len(times))][:, None]
    mine = (Candidate("drift", "user", ("user", "drift"), "drift", "drift"),)
    found = [score_tests(about_a_level(remembering(seed, times, e_folding), times), mine, drift) for seed in range(60)]
    assert np.mean([scores.loud[0] for scores in found]) < 0.08
    t = np.array([scores.t[0] for scores in found])
    assert 0.6 < t.std() < 1.25


def test_a_white_record_loses_no_power():
    times = np.arange(800.0)
    drift = np.r_[0.0, np.linspace(-1, 1, len(times))][:, None]
    mine = (Candidate("drift", "user", ("user", "drift"), "drift", "drift"),)
    found = [score_tests(about_a_level(remembering(seed, times, 1e-3) + 0.25 * drift[1:, 0], times), mine, drift) for seed in range(20)]
    assert np.mean([scores.inflation[0] for scores in found]) < 1.1


def test_standard_errors_and_odds_have_the_memory_in_them():
    """AR(1) of 10 days and a drift: the drift planted lies within its standard errors, which white residuals would make 4 times smaller."""
    times = np.arange(600.0)
    away, spread = [], []
    for seed in range(6):
        y = 1 + 0.5 * remembering(seed, times, 10.0) + np.linspace(-1, 1, 600)
        scores, _, anew = scored(level({"y": Stream(y, 0.5, time=days(600))}))
        named = anew()[0]
        assert scores.candidates[named.best].name == "y_drift"
        assert named.evidence < 0.6 * (named.refit.coefficient / named.refit.spread) ** 2
        away.append((named.refit.coefficient - 2 * 365.25 / 600) / named.refit.spread)
        spread.append(named.refit.spread / (0.5 / np.linalg.norm(np.linspace(-1, 1, 600)) * 2 * 365.25 / 600))
    assert 0.5 < np.sqrt(np.mean(np.square(away))) < 1.6 and 2.5 < np.median(spread) < 7


# --------------------------------------------------------------------------------------------------------------- alarms

def test_thresholds_in_the_far_tail():
    one = -float(ndtri_exp(np.log(1e-9) - np.log(2)))
    assert threshold_of(np.eye(60)[:, :1], 1e-9, 500, 0) == pytest.approx(one, abs=0.01)
    assert threshold_of(np.repeat(np.eye(60)[:, :1], 9, axis=1), 1e-9, 500, 0) == pytest.approx(one, abs=0.01)
    # Independent ones: 1 - (1 - p)^k is the alarm.
    for alarm in (0.3, 0.025, 1e-12):
        p = -np.expm1(np.log1p(-alarm) / 40)
        assert threshold_of(np.eye(60)[:, :40], alarm, 4000, 0) == pytest.approx(-float(ndtri_exp(np.log(p / 2))), abs=0.02)


@pytest.mark.parametrize("alarm", [0.0, -1.0, 1.0, 5.0, np.nan])
def test_an_alarm_that_is_no_chance_is_refused(alarm):
    with pytest.raises(ValueError, match="above 0 and below 1"):
        score_tests(about_a_level(np.ones(20), np.arange(20.0)), (), np.zeros((21, 0)), alarm=alarm)


def test_candidates_of_the_wrong_form_are_refused_without_their_numbers():
    problem = level({"y": Stream(np.ones(400), 0.5, time=days(400))})
    for given, said in (({"mine": np.full((1, 400), 0.123)}, "ndarray of shape (1, 400) and type float64"), ([1.0], "list")):
        with pytest.raises(ValueError, match="by stream") as refused:
            lc.structure.examine(problem, jnp.zeros(1), candidates=given)
        assert said in str(refused.value) and "0.123" not in str(refused.value) and len(str(refused.value)) < 300
