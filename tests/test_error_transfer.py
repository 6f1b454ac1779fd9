"""Model errors handed on to other sites and periods, and predictions with them."""

import numpy as np
import pytest
from error_example import columns_of, days, linear, one_stream, solved

from landcal_jax.error_estimation import estimate_errors
from landcal_jax.error_model import ExponentialCorrelation, ModelError
from landcal_jax.error_transfer import handed_on
from landcal_jax.laplace import laplace
from landcal_jax.observations import Observations, Stream
from landcal_jax.posterior import from_draws

SITES = ("A", "B", "C")
ERROR = ModelError([0.3, 0.6, 5.0], proportional=[0.1, 0.2, 9.0], seasonal=[[0.4, 0.0], [0.0, 0.2], [9.0, 9.0]],
                   correlation_days=[2.0, 8.0, 99.0], level=np.full((3, 20), 1.5))
"""Of three sites, at the last of which nothing was observed."""


def calibrated(number=20, start="2001-01-01"):
    mask = np.repeat([[True], [True], [False]], number, axis=1)
    return Stream(np.zeros((3, number)), 1.0, time=days(number, start), mask=mask, model_error=ERROR)


# ---------------------------------------------------------------------------------------------------------------- handed on


def test_sites_keep_their_errors_and_new_ones_have_those_of_all_together():
    other = Stream(np.zeros((2, 7)), 1.0, time=days(7, "2009-03-01"))
    error, said = handed_on(calibrated(), SITES, other, ("B", "new"), level=True)
    np.testing.assert_allclose(error.constant, [0.6, np.sqrt((0.3**2 + 0.6**2) / 2)])
    np.testing.assert_allclose(error.proportional, [0.2, np.sqrt((0.1**2 + 0.2**2) / 2)])
    np.testing.assert_allclose(error.seasonal, [[0.0, 0.2], [0.2, 0.1]])
    np.testing.assert_allclose(error.days, [8.0, 4.0])
    assert error.level is None
    assert said == "at new, not calibrated, that of the 2 calibrated sites together; its share is of the run there"
    # In another order, on the same times.
    swapped, said = handed_on(calibrated(), SITES, calibrated(), ("C", "B", "A"), level=True)
    np.testing.assert_allclose(swapped.constant, [5.0, 0.6, 0.3])
    assert swapped.level is None
    same, said = handed_on(calibrated(), SITES, calibrated(), SITES, level=True)
    np.testing.assert_array_equal(same.level, ERROR.level)
    assert said == ""


def test_a_season_needs_times_and_a_memory_goes_without_them():
    bare = Stream(np.zeros((3, 7)), 1.0)
    error, said = handed_on(calibrated(), SITES, bare, SITES, level=False)
    assert error is None and "its season needs times" in said
    plain = calibrated().with_model_error(ModelError([0.3, 0.6, 5.0], correlation_days=4.0))
    error, said = handed_on(plain, SITES, bare, SITES, level=False)
    np.testing.assert_allclose(bare.with_model_error(error).mean_model_error, [0.3, 0.6, 5.0])
    assert said == "without its memory, since there are no times"
    drifting = Stream(np.zeros((3, 7)), 1.0, time=days(7), correlation=ExponentialCorrelation(3.0))
    assert handed_on(plain, SITES, drifting, SITES, level=False)[0].days is None


def test_estimated_errors_go_to_other_years_and_sites():
    problem = one_stream(200, 2, ModelError(1.0, correlation_days=4.0), 4)
    estimate = estimate_errors(problem, solved(problem), rounds=1)
    own = estimate.problem.observations["flux"].model_error
    later = Observations({"flux": Stream(np.zeros((2, 90)), 0.1, time=days(90, "2005-01-01"))}, sites=("site 0", "Elsewhere"))
    applied = estimate.applied(later)
    for name in ("constant", "proportional", "seasonal", "days"):
        np.testing.assert_allclose(getattr(applied["flux"].model_error, name), np.repeat(getattr(own, name), 2, axis=0))
    assert len(applied.notes) == 1 and applied.notes[0].startswith("model error of flux: at Elsewhere, not calibrated")
    with pytest.raises(ValueError, match="times in the stream flux"):
        estimate.applied(Observations({"flux": Stream(np.zeros(90), 0.1)}))


# ------------------------------------------------------------------------------------------------------------ in predictions


def straight(number, error, start="2001-01-01", site="A", seed=0, timed=True):
    """A straight line that is known but for little, with errors of one and a measurement error of 0.1."""
    A = columns_of(number, 2, seed + 10)
    values = A @ np.ones(2) + np.hypot(1.0, 0.1) * np.random.default_rng(seed).standard_normal(number)
    stream = Stream(values, 0.1, time=days(number, start) if timed else None, model_error=error)
    problem = linear({"flux": (A, stream)}, 2, prior=3.0)
    return problem.with_observations(Observations({"flux": problem.observations["flux"]}, sites=(site,)))


@pytest.mark.parametrize("draws", [None, 200])
def test_predictions_elsewhere_have_the_model_error_of_the_calibrated_stream(draws):
    own = straight(400, ModelError(0.9, proportional=0.1, correlation_days=3.0).at(np.ones((1, 400))))
    posterior = laplace(own, solved(own), draws=200)
    there = straight(300, 0.0, "2005-01-01", "B", 1)
    bands = posterior.predictive(problem=there, draws=draws)
    run = np.abs(np.asarray(there.predict(posterior.centre)["flux"]))
    np.testing.assert_allclose(bands["flux_sd_model_error"], 0.9 + 0.1 * run, rtol=1e-6 if draws is None else 0.02)
    assert bands["flux"].attrs["model_error"] == (
        "that of the calibrated stream; at B, not calibrated, that of the 1 calibrated sites together; its share is of the run there")
    values, total = np.asarray(there.observations["flux"].values), bands["flux_total"].values
    assert 0.85 < np.mean((total[0] <= values) & (values <= total[-1])) < 0.95
    # An error that is given there stays, and nothing is said.
    given = posterior.predictive(problem=straight(300, 0.2, "2005-01-01", "B", 1), draws=draws)
    np.testing.assert_allclose(given["flux_sd_model_error"], 0.2)
    assert "model_error" not in given["flux"].attrs


def test_a_model_error_that_cannot_be_handed_on_is_said_to_be_missing():
    own = straight(400, ModelError(0.9, seasonal=(0.3, 0.0)))
    bands = laplace(own, solved(own), draws=5).predictive(problem=straight(300, 0.0, timed=False))
    np.testing.assert_array_equal(bands["flux_sd_model_error"], 0.0)
    assert bands["flux"].attrs["model_error"].startswith("none, though the calibrated stream has one: its season needs times")


@pytest.mark.parametrize("quantiles", [(5, 50, 95), (0.0, 0.5), (0.5, 1.0), (0.5, np.nan), 0.5, ()])
def test_quantiles_are_numbers_between_zero_and_one(quantiles):
    own = straight(30, 0.5)
    posterior = from_draws(own, np.zeros((3, 2)) + np.arange(3)[:, None], method="a sample")
    with pytest.raises(ValueError, match="a list of quantiles between zero and one"):
        posterior.predictive(quantiles=quantiles)


def test_bands_of_draws_in_blocks_are_those_of_all_at_once(monkeypatch):
    own = straight(50, 0.5)
    posterior = from_draws(own, np.random.default_rng(3).standard_normal((41, 2)), method="a sample")
    levels = (0.013, 0.5, 0.95)
    whole = posterior.predictive(quantiles=levels)
    runs = own.ensemble(posterior.z)["flux"]
    np.testing.assert_allclose(whole["flux"].values, np.quantile(runs, levels, axis=0), rtol=1e-12)
    np.testing.assert_allclose(whole["flux_sd_parameters"].values, runs.std(axis=0), rtol=1e-12)
    monkeypatch.setattr("landcal_jax.propagation.BLOCK", 41 * 7)
    blocks = posterior.predictive(quantiles=levels)
    for name in ("flux", "flux_sd_parameters", "flux_sd_model_error", "flux_sd_observation"):
        np.testing.assert_allclose(blocks[name], whole[name], rtol=1e-12)
    assert np.all(np.diff(blocks["flux_total"], axis=0) > 0)
