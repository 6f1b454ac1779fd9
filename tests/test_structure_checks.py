"""Tests of residuals: as rare as they say in right models, also short, weighted or with memory; their tails; what cannot be tested."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

import landcal_jax as lc
from landcal_jax import structure
from landcal_jax.forward import FunctionForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.structure import tails, tested
from landcal_jax.structure.checks import joint_test, memories, seasons, size_of, sizes
from landcal_jax.structure.findings import Finding, p_text
from landcal_jax.structure.lags import autocorrelation, pairs_of, remembered
from landcal_jax.structure.score_tests import Whitened
from landcal_jax.structure.subsets import own_optimum


def left_by(noise, G, times, weight=None, streams=None) -> tested.Tested:
    """What calibration of a linear problem with these errors (m,) leaves; the first n rows are the prior's; `weight` (m,) of J."""
    n, m = G.shape[1], len(noise)
    weight = np.ones(m) if weight is None else weight
    root = np.sqrt(weight)
    Q = np.linalg.qr(G * root[:, None])[0]
    e = noise * root
    sites = np.r_[np.full(n, -1), np.zeros(m - n)].astype(int)
    rows = {"y": np.arange(n, m)} if streams is None else streams
    whitened = Whitened(e - Q @ (Q.T @ e), G * root[:, None], rows, sites, np.r_[np.full(n, np.nan), times], Q)
    return tested.Tested(whitened, weight, tuple(rows))


def smooth(n: int, number: int) -> np.ndarray:
    """Jacobian of `number` smooth parameters that the data decide, the prior's rows first."""
    return np.r_[np.eye(number), 4 * np.stack([np.cos(np.pi * k * np.arange(n) / n) for k in range(number)], axis=1)]


def remembering(rng, n: int, days: float) -> np.ndarray:
    e, phi = rng.standard_normal(n), np.exp(-1 / days)
    for step in range(1, n):
        e[step] = phi * e[step - 1] + np.sqrt(1 - phi**2) * e[step]
    return e


def problem_of(streams: dict, function, number: int = 1) -> Problem:
    space = ParameterSpace({name: Parameter.normal(0.0, 2.0) for name in "abcdefgh"[:number]})
    return Problem(space, FunctionForward(function), Observations(streams))


def level(problem_streams: dict[str, int]):
    return lambda theta: {name: jnp.broadcast_to(theta["a"], (1, count)) for name, count in problem_streams.items()}


def dates(n: int) -> np.ndarray:
    return np.datetime64("2001-01-01") + np.arange(n).astype("timedelta64[D]")


def optimum(problem):
    return lc.solve(problem, lc.GaussNewton(), progress=False)


def test_tails_hold_where_floating_point_ends():
    """Degrees 2 and 4 in closed form; continuity where SciPy ends; p-values always have words."""
    assert tails.above(9000.0, 2) == pytest.approx(-4500.0) and tails.above(1e5, 4) == pytest.approx(-5e4 + np.log1p(5e4), rel=1e-12)
    assert tails.below(1e-300, 4) == pytest.approx(2 * np.log(0.5e-300) - np.log(2), rel=1e-12)
    for degrees, x in ((10, 1180.0), (3000, 6700.0)):
        assert tails.above(x, degrees) == pytest.approx(float(chi2.logsf(x, degrees)), abs=1e-6) or tails.above(x, degrees) < -600
        steps = [tails.above(x * f, degrees) for f in (1.0, 1.01, 1.02, 1.03)]
        assert np.all(np.diff(steps) < 0) and np.ptp(np.diff(steps)) < 0.05 * abs(np.diff(steps).mean())
    assert np.isfinite(tails.below(30.0, 3000)) and tails.below(30.0, 3000) < -5000
    assert p_text(-1e5).startswith("p = ") and p_text(-1e5).endswith("e-43430") and p_text(-np.inf) == "p = 0" and "no" in p_text(np.nan)


def test_sums_of_chi_squares_have_both_tails():
    """Weights 1 and 1/4 with two degrees each: P(above x) = (4 exp(-x/2) - exp(-2 x)) / 3."""
    weights, degrees = np.array([1.0, 0.25]), np.array([2.0, 2.0])
    for x in (0.5, 2.5, 2.51, 10.0, 60.0, 5000.0):
        exact = -x / 2 + np.log((4 - np.exp(-1.5 * x)) / 3)
        below, above = tails.of_sum(x, weights, degrees)
        assert above == pytest.approx(exact, abs=0.1)
        if x < 60:
            assert below == pytest.approx(np.log1p(-np.exp(exact)), abs=0.1)
    assert tails.of_sum(7.0, np.ones(2), np.array([1.0, 3.0]))[1] == pytest.approx(float(chi2.logsf(7.0, 4)))


def test_large_misfits_are_examined():
    """2000 days with errors stated 2.5 times too small, which ended in an OverflowError."""
    rng = np.random.default_rng(0)
    problem = problem_of({"y": Stream(1 + 0.5 * rng.standard_normal(2000), 0.2, time=dates(2000))}, level({"y": 2000}))
    findings = structure.examine(problem, optimum(problem), refits=False)
    size = next(each for each in findings.alarms if each.kind == "chi-square")
    assert size.numbers["ratio"] == pytest.approx(6.25, rel=0.1) and size.log_p < -800 and "p = " in size.sentence


def test_what_cannot_be_tested_is_said():
    """Residuals that do not vary; as many parameters as values; a stream without weight; one without times."""
    constant = left_by(np.r_[0.0, np.full(40, 0.3)], np.r_[np.eye(1), np.zeros((40, 1))], np.arange(40.0))
    assert "do not vary" in next(iter(memories(constant, ("s",))))
    found = list(sizes(left_by(np.r_[np.zeros(4), np.ones(4)], np.r_[np.eye(4), 1e3 * np.eye(4)], np.arange(4.0)), ("s",)))
    assert all(isinstance(each, str) for each in found) and "can make all" in found[1] and "4 values" in found[0]
    rng = np.random.default_rng(1)
    streams = {"y": Stream(1 + 0.5 * rng.standard_normal(60), 0.5, time=dates(60)), "e": Stream(np.full(30, 9.0), 0.5, weight=0.0),
               "f": Stream(1 + 0.5 * rng.standard_normal(40), 0.5)}
    problem = problem_of(streams, level({"y": 60, "e": 30, "f": 40}))
    findings = structure.examine(problem, optimum(problem), refits=False)
    assert not any(each.subject == "e" for each in findings) and findings.quiet
    assert any("e was not tested" in note.lower() for note in findings.notes) and any("F has no times" in note for note in findings.notes)
    assert {each.kind for each in findings if each.subject == "f"} >= {"chi-square", "predictive", "stream conflict"}


def test_a_short_stream_is_tested_for_its_size_and_its_mean():
    """14 values far off beside 400 that are right: they were not tested at all."""
    rng = np.random.default_rng(2)
    streams = {"y": Stream(1 + 0.5 * rng.standard_normal(400), 0.5, time=dates(400)),
               "b": Stream(1 + 4.0 * rng.standard_normal(14), 0.5, time=dates(14))}
    problem = problem_of(streams, level({"y": 400, "b": 14}))
    findings = structure.examine(problem, optimum(problem), refits=False)
    loud = [each for each in findings.alarms if each.kind == "chi-square"]
    assert [each.subject for each in loud] == ["b"] and loud[0].log_p < -100
    assert any("14 values" in note for note in findings.notes)
    one = left_by(np.r_[0.0, 5.0], np.r_[np.eye(1), np.zeros((1, 1))], np.zeros(1))
    assert size_of(one, np.array([1]))["log_p"] == pytest.approx(np.log(2) + float(chi2.logsf(25.0, 1)))


def test_memory_is_as_rare_as_promised_whatever_was_fitted():
    """25 values and 8 smooth parameters: 5 % were 45 %, 1 % were 18 %."""
    rng = np.random.default_rng(3)
    G = smooth(25, 8)
    log_p = np.array([remembered(left_by(rng.standard_normal(33), G, 15.0 * np.arange(25)), np.arange(8, 33)).log_p for _ in range(120)])
    assert np.mean(log_p < np.log(0.05)) < 0.11 and np.mean(log_p < np.log(0.01)) < 0.04 and 0.3 < np.mean(log_p < np.log(0.5)) < 0.7


def test_memory_is_seen_and_has_its_size():
    rng = np.random.default_rng(4)
    found = remembered(left_by(np.r_[rng.standard_normal(3), remembering(rng, 800, 3.0)], smooth(800, 3), np.arange(800.0)),
                       np.arange(3, 803))
    assert found.log_p < -100 and found.correlation[0] == pytest.approx(np.exp(-1 / 3), abs=0.08)
    assert found.spread[0] == pytest.approx(1 / np.sqrt(800), rel=0.05)


def test_residuals_with_memory_have_no_seasons_for_it():
    """Errors that remember 10 days, which R does not know: seasons, years and sizes alarmed in 20, 18 and 13 of 20 runs."""
    rng = np.random.default_rng(5)
    G, found = smooth(1000, 3), []
    for _ in range(8):
        left = left_by(np.r_[rng.standard_normal(3), remembering(rng, 1000, 10.0)], G, 11000.0 + np.arange(1000))
        found += [each.log_p for each in (*sizes(left, ("s",)), *seasons(left)) if isinstance(each, Finding)]
    assert len(found) == 56 and np.mean(np.array(found) < np.log(0.05)) < 0.15 and min(found) > np.log(1e-4)
    cycle = np.r_[np.zeros(3), 1.5 * np.cos(2 * np.pi * np.arange(1000) / 365.25)]
    left = left_by(cycle + np.r_[rng.standard_normal(3), rng.standard_normal(1000)], G, 11000.0 + np.arange(1000))
    assert joint_test(left, "y", left.patterns("y")["seasonality"])[2] < -30


def test_weights_of_j_do_not_count_as_errors():
    """One of two streams with the weight 0.1: its size is tested as it is, and its conflict has the spread that it has."""
    rng = np.random.default_rng(6)
    G, n = smooth(400, 3), 403
    streams, weight = {"y": np.arange(3, 203), "e": np.arange(203, n)}, np.r_[np.ones(203), np.full(200, 0.1)]
    times = np.r_[np.arange(200.0), np.arange(200.0)]
    log_p, statistics = [], []
    for _ in range(60):
        left = left_by(rng.standard_normal(n), G, times, weight, streams)
        found = size_of(left, streams["e"])
        log_p.append(found["log_p"])
        _, statistic, degrees = own_optimum(left, streams["e"])
        statistics.append(statistic / degrees)
    assert np.isnan(found["desroziers"]) and found["expected"] == pytest.approx(199, abs=3)
    assert np.mean(np.array(log_p) < np.log(0.05)) < 0.15 and np.mean(statistics) == pytest.approx(1, abs=0.25)


def test_pairs_at_irregular_times_are_all_there():
    """Two days apart, then twenty: 61 values collided into 36 places of a grid."""
    times = np.cumsum(np.r_[0, np.tile([1, 1, 20, 20, 20], 12)]).astype(float)
    pairs = pairs_of(times)
    distance = np.abs(times[:, None] - times[None])[np.triu_indices(61, 1)]
    assert pairs.counts[0] == np.sum(distance < 30) and pairs.counts.sum() == np.sum(distance < 210)
    assert pairs.days[0] == pytest.approx(distance[distance < 30].mean())
    values = np.random.default_rng(7).standard_normal((5, 61))
    lags, correlation, counts = autocorrelation(values, times)
    assert correlation.shape == (5, len(lags)) and lags[0] == pairs.days[0]
    np.testing.assert_allclose(correlation[2], autocorrelation(values[2], times)[1])
