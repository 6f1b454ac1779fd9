"""Score tests of expansions: their distribution, their size, and the directions of DALEC's candidates."""

import jax.numpy as jnp
import numpy as np
import pytest

import landcal_jax as lc
from landcal_jax.models import Dalec2
from landcal_jax.structure.checks import size_of
from landcal_jax.structure.drivers import drivers_of, memory, responses_of, soil_dryness
from landcal_jax.structure.lags import autocorrelation
from landcal_jax.structure.score_tests import Whitened, groups_of, score_tests, threshold_of
from landcal_jax.structure.signals import Candidate, signals_of
from landcal_jax.structure.tested import Tested as Unweighted

M, N = 300, 4


def whitened_of(noise: np.ndarray, G: np.ndarray) -> Whitened:
    """What is left of `noise` (m,) at the optimum of a linear problem; the first n rows are the prior's."""
    Q = np.linalg.qr(G)[0]
    r = noise - Q @ (Q.T @ noise)
    sites = np.r_[np.full(N, -1), np.zeros(M)].astype(int)
    return Whitened(r, G, {"y": np.arange(N, N + M)}, sites, np.r_[np.full(N, np.nan), np.arange(M)], Q)


def jacobian(rng) -> np.ndarray:
    time = np.arange(M) / M
    return np.concatenate([np.eye(N), np.stack([np.cos(2 * np.pi * k * time) for k in range(N)], axis=1)])


def candidates(D: np.ndarray, size: float = 1.0) -> tuple[Candidate, ...]:
    return tuple(Candidate(f"c{n}", "process", ("p", f"c{n}"), f"c{n}", f"c{n}", "1", size) for n in range(D.shape[1]))


def patterns(rng, number: int) -> np.ndarray:
    return np.concatenate([np.zeros((N, number)), rng.standard_normal((M, number))])


def test_t_is_standard_normal_and_alarms_are_as_rare_as_promised():
    rng = np.random.default_rng(0)
    G, D = jacobian(rng), patterns(rng, 30)
    scores = [score_tests(whitened_of(rng.standard_normal(N + M), G), candidates(D), D, alarm=0.1, draws=2000) for _ in range(300)]
    t = np.array([each.t * each.inflation for each in scores])
    assert abs(t.mean()) < 0.05 and abs(t.std() - 1) < 0.05
    rate = np.mean([each.loud.any() for each in scores])
    assert 0.01 < rate < 0.15  # below 0.1, since autocorrelation can only widen


def test_t_squared_is_twice_the_fall_of_the_cost():
    rng = np.random.default_rng(1)
    G, D = jacobian(rng), patterns(rng, 1)
    noise = rng.standard_normal(N + M) + 0.3 * D[:, 0]
    scores = score_tests(whitened_of(noise, G), candidates(D), D)
    both = np.linalg.qr(np.concatenate([G, D], axis=1))[0]
    before, after = (0.5 * np.sum((noise - Q @ (Q.T @ noise)) ** 2) for Q in (np.linalg.qr(G)[0], both))
    assert (scores.t * scores.inflation)[0] ** 2 == pytest.approx(2 * (before - after), rel=1e-10)
    assert scores.coefficient[0] == pytest.approx(np.linalg.lstsq(np.concatenate([G, D], axis=1), noise, rcond=None)[0][-1], rel=1e-8)
    assert abs(scores.coefficient[0] - 0.3) < 4 * scores.spread[0]


def test_what_parameters_can_do_is_no_candidate():
    rng = np.random.default_rng(2)
    G = jacobian(rng)
    D = np.stack([np.r_[np.zeros(N), 100 * G[N:, 1]], np.zeros(N + M)], axis=1)
    D[:N] = 100 * G[:N, 1:2] * [1, 0]
    D = np.c_[D, patterns(rng, 1)]
    scores = score_tests(whitened_of(rng.standard_normal(N + M), G), candidates(D), D)
    assert [candidate.name for candidate in scores.candidates] == ["c2"]


def test_memory_in_the_residuals_widens_the_test():
    rng = np.random.default_rng(3)
    noise = np.zeros(N + M)
    for step in range(N, N + M):
        noise[step] = 0.8 * noise[step - 1] + 0.6 * rng.standard_normal()
    slow = np.r_[np.zeros(N), np.sin(2 * np.pi * np.arange(M) / 70)][:, None]
    G = jacobian(rng)
    assert score_tests(whitened_of(noise, G), candidates(slow), slow).inflation[0] > 1.5
    assert score_tests(whitened_of(rng.standard_normal(N + M), G), candidates(slow), slow).inflation[0] < 1.5


def test_absurd_coefficients_do_not_win():
    """Of two candidates of the same signal, the one that needs a coefficient of 100 loses to the one that needs 1."""
    rng = np.random.default_rng(4)
    G, one = jacobian(rng), patterns(rng, 1)
    noise = rng.standard_normal(N + M) + one[:, 0]
    D = np.concatenate([one / 100, one], axis=1)
    named = groups_of(score_tests(whitened_of(noise, G), candidates(D), D))
    assert [each.group[1] for each in named] == ["c1", "c0"] and named[0].evidence - named[1].evidence > 20


def test_the_threshold_of_one_candidate_is_that_of_a_normal():
    unit = np.eye(50)[:, :1]
    assert threshold_of(unit, 0.05, 40000, 0) == pytest.approx(1.96, abs=0.03)
    assert threshold_of(np.repeat(unit, 9, axis=1), 0.05, 40000, 0) == pytest.approx(1.96, abs=0.03)


def test_the_size_of_residuals_allows_for_what_was_fitted():
    rng = np.random.default_rng(5)
    G = jacobian(rng)
    found = [size_of(Unweighted(whitened_of(rng.standard_normal(N + M), G), np.ones(N + M), ("y",)), np.arange(N, N + M))
             for _ in range(200)]
    assert found[0]["expected"] == pytest.approx(M - np.sum(np.linalg.qr(G)[0][N:] ** 2))
    assert np.mean([each["ratio"] for each in found]) == pytest.approx(1, abs=0.02)
    assert np.mean([each["desroziers"] for each in found]) == pytest.approx(1, abs=0.03)
    assert np.mean([each["log_p"] < np.log(0.1) for each in found]) == pytest.approx(0.1, abs=0.06)


def test_autocorrelation_with_gaps():
    rng = np.random.default_rng(6)
    series = np.zeros(4000)
    for step in range(1, 4000):
        series[step] = 0.6 * series[step - 1] + 0.8 * rng.standard_normal()
    kept = rng.random(4000) < 0.5
    lags, correlation, pairs = autocorrelation(series[kept], np.arange(4000.0)[kept])
    np.testing.assert_allclose(correlation[:3], [0.6, 0.36, 0.216], atol=0.07)
    assert lags[0] == 1 and abs(pairs[0] - 1000) < 100


def test_memory_and_dryness_by_hand():
    days = np.arange(400.0)[None]
    step = np.where(days < 200, 0.0, 1.0)
    assert memory(step, days, 30.0)[0, 230] == pytest.approx(1 - np.exp(-31 / 30) * (1 - 0.5 * np.exp(-200 / 30)), abs=1e-9)
    wet = soil_dryness(np.full((1, 400), 50.0), np.full((1, 400), 10.0), np.full((1, 400), 10.0), days)
    dry = soil_dryness(np.zeros((1, 400)), np.full((1, 400), 20.0), np.full((1, 400), 20.0), days)
    assert wet[0, -1] == pytest.approx(0, abs=1e-12) and dry[0, -1] > 0.99
    assert np.all(np.diff(dry[0]) >= 0)


@pytest.fixture(scope="module")
def dalec():
    experiment = lc.twin_experiment(0, years=1, held_out_years=0, model=Dalec2())
    problem = experiment.problem
    return problem, problem.space.whiten(experiment.truth)


@pytest.fixture(scope="module")
def signals(dalec):
    return signals_of(*dalec)


def test_drivers_and_responses_of_dalec(dalec):
    forward = dalec[0].forward
    drivers = {driver.name: driver for driver in drivers_of(forward)}
    assert set(drivers) == {"temperature", "shortwave", "co2"}
    assert drivers["temperature"].fields == ("temperature_min", "temperature_max") and drivers["temperature"].words == "air temperature"
    for response in responses_of(forward):
        assert abs(response.values.mean()) < 1e-10 and response.values.std() == pytest.approx(1)


def test_directions_are_those_of_runs_with_the_change(dalec, signals):
    """A factor on radiation and a response of a parameter, against runs of the expanded model with a small coefficient."""
    problem, z = dalec
    assert signals.notes == ()
    names = [candidate.name for candidate in signals.candidates]
    for name, step in (("shortwave_factor", 0.01), ("som_turnover x temperature", 1e-3), ("litter_turnover x temperature_curved", 1e-4)):
        index = names.index(name)
        ahead = signals.expanded.predict(z, jnp.asarray(step), signals.expansion(index))["nee"]
        slope = (np.asarray(ahead) - np.asarray(problem.predict(z)["nee"])) / step
        size = np.abs(slope).max()
        np.testing.assert_allclose(signals.directions["nee"][index], slope, atol=0.02 * size)


def test_processes_are_named_by_the_flux_that_they_move(signals):
    groups = {candidate.name: candidate for candidate in signals.candidates}
    assert groups["som_turnover x temperature"].group == ("respiration", "temperature")
    assert groups["canopy_efficiency x temperature"].words == "the response of gross primary production to air temperature"
    assert groups["lma x shortwave"].group == ("gross primary production", "shortwave")
    assert groups["fall_day x temperature"].group[0] in ("the store foliar", "the store litter")
    assert groups["shortwave_offset"].group == ("driver", "shortwave")
