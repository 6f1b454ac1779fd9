"""Error estimation where streams differ: short beside long, empty, without times, run from outside; what is not seen or refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from error_example import SIGMA, columns_of, days, linear, one_stream, solved

from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.error_estimation import default_parts, estimate_errors
from landcal_jax.error_model import ModelError
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.testing import draw_errors

# --------------------------------------------------------------------------------------------------------- short and long streams

@pytest.mark.slow
def test_fourteen_days_beside_a_thousand():
    """Two sites in one J: the short one leans on the prior, which is about both, and says so."""
    A = columns_of(2000, 2).reshape(2, 1000, 2)
    mask = np.ones((2, 1000), bool)
    mask[1, 14:] = False
    stream = Stream(np.zeros((2, 1000)), SIGMA, time=days(1000), mask=mask, model_error=ModelError(1.0, correlation_days=6.0))
    made = np.asarray(draw_errors(stream, jax.random.key(1))) + A.sum(axis=2)
    problem = linear({"flux": (A, stream.with_values(made).with_model_error(0.5))}, 2)
    estimate = estimate_errors(problem, solved(problem))
    table = estimate.table.isel(round=-1, stream=0)
    assert np.isfinite(table["constant"]).all() and 0.3 < float(table["constant"][1]) < 3.0
    assert float(table["constant_standard_error"][1]) > 2 * float(table["constant_standard_error"][0])
    assert float(table["effective_number"][1]) < 14 and float(table["number"][1]) == 14
    assert any("the prior, since there are few" in sentence and "site 1" in sentence for sentence in estimate.sentences)
    assert not any("the prior, since" in sentence and "site 0" in sentence for sentence in estimate.sentences)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["marginal", "desroziers"])
def test_streams_of_fourteen_and_of_three_thousand_days_in_one_cost(method):
    """Each has its own errors; the long one is found as if it were alone, the short one says how little it knows."""
    streams = {}
    for seed, (name, number) in enumerate({"short": 14, "long": 3000}.items()):
        A = columns_of(number, 2, seed)
        stream = Stream(np.zeros(number), SIGMA, time=days(number), model_error=ModelError(1.0, correlation_days=4.0))
        made = np.asarray(draw_errors(stream, jax.random.key(seed))) + A.sum(axis=1)
        streams[name] = A, stream.with_values(made).with_model_error(0.5)
    problem = linear(streams, 2)
    estimate = estimate_errors(problem, solved(problem), method=method, parts=dict.fromkeys(streams, ("constant", "days")))
    table = estimate.table.isel(round=-1, site=0)
    assert estimate.converged and list(table["number"]) == [14, 3000]
    assert float(table["constant"].sel(stream="long")) == pytest.approx(1.0, rel=0.1)
    assert float(table["days"].sel(stream="long")) == pytest.approx(4.0, rel=0.25)
    # Of a memory of four days, 3,000 count for 3000 (1 - rho) / (1 + rho) = 373, more with the part that has none.
    assert float(table["effective_number"].sel(stream="long")) == pytest.approx(373, rel=0.25)
    assert 1 < float(table["effective_number"].sel(stream="short")) < 14
    assert 0.3 < float(table["constant"].sel(stream="short")) < 3.0
    for number in (14, 3000):
        assert any(f"; {number} values tell as much of a mean as" in sentence for sentence in estimate.sentences)


@pytest.mark.slow
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("method", ["marginal", "cross-validation", "desroziers", "residuals"])
def test_a_stream_without_values_is_left_out_and_named(method):
    A = columns_of(800, 2)
    made = A.sum(axis=1) + np.random.default_rng(0).standard_normal(800)
    later = Stream(A.sum(axis=1), SIGMA, time=days(800, "2011-01-01"), model_error=0.2)
    problem = linear({"flux": (A, Stream(made, SIGMA, time=days(800), model_error=0.3)), "later": (A, later)}, 2)
    problem = problem.with_observations(problem.observations.split("2010-01-01")[0])
    assert int(problem.observations["later"].count) == 0
    estimate = estimate_errors(problem, solved(problem), method=method)
    assert list(estimate.parts) == ["flux"]
    assert "later: its errors are left as they are, since it has nothing observed." in estimate.sentences
    assert float(estimate.problem.observations["flux"].mean_model_error[0]) == pytest.approx(1.0, rel=0.15)
    assert float(estimate.problem.observations["later"].model_error.constant[0]) == 0.2
    with pytest.raises(ValueError, match="observed values in the stream later"):
        estimate_errors(problem, jnp.zeros(2), method=method, parts={"later": ["constant"]})


def test_a_constant_needs_no_times():
    A = columns_of(60, 2)
    problem = linear({"flux": (A, Stream(A.sum(axis=1) + np.random.default_rng(0).standard_normal(60), SIGMA, model_error=0.3))}, 2)
    estimate = estimate_errors(problem, solved(problem))
    assert estimate.parts == {"flux": ("constant",)}
    assert float(estimate.problem.observations["flux"].model_error.constant[0]) == pytest.approx(1.0, rel=0.25)


def test_a_model_that_is_run_from_outside_has_its_errors_by_an_ensemble():
    """The advice of the refusal, taken by its word, and the same errors as with tangents."""
    problem = one_stream(60, 2, ModelError(1.0), 2, prior=2.0)
    A = columns_of(60, 2)
    outside = problem.with_forward(BlackBoxForward(lambda theta: {"flux": A @ np.asarray(theta["x"])}, observations=problem.observations))
    with pytest.raises(TypeError, match='method="residuals"'):
        estimate_errors(outside, jnp.zeros(2))
    found = [float(estimate_errors(each, jnp.zeros(2), method="residuals", parts={"flux": ["constant"]}).problem.observations[
        "flux"].model_error.constant[0]) for each in (problem, outside)]
    # Without tangents each parameter counts as one degree of freedom.
    assert found[1] == pytest.approx(found[0], rel=0.01)


def test_errors_that_are_not_there_are_said_to_be_unseen():
    problem = one_stream(200, 2, ModelError(0.0), 1)
    stream = problem.observations["flux"]
    too_sure = problem.with_observations(problem.observations.with_streams({
        "flux": Stream(stream.values, 5.0, time=days(200), model_error=0.3)}))
    estimate = estimate_errors(too_sure, solved(too_sure), method="residuals", parts={"flux": ["constant"]})
    assert any("no model error is seen" in sentence for sentence in estimate.sentences)
    assert bool(estimate.table["unseen"][-1, 0, 0])


def said_of(number, error, parts, seed=1):
    problem = one_stream(number, 2, error, seed)
    estimate = estimate_errors(problem, solved(problem), parts={"flux": parts})
    return [sentence for sentence in estimate.sentences if "is the prior" in sentence]


@pytest.mark.slow
def test_what_leans_on_the_prior_is_said_with_its_reason():
    """Of a constant: nothing to be seen, or few values. Of a season and a memory that the values do not tell either."""
    unseen = [sentence for seed in range(4) for sentence in said_of(300, ModelError(0.0), ("constant",), seed)]
    assert len(unseen) > 1 and all("no model error is seen beside the measurement error of 0.1" in sentence for sentence in unseen)
    few = said_of(5, ModelError(1.0), ("constant",))
    assert len(few) == 1 and "since there are few independent values" in few[0]
    assert said_of(300, ModelError(1.0), ("constant",)) == []
    short = said_of(14, ModelError(1.0), ("constant", "seasonal", "days"))
    assert any("known of the season" in sentence for sentence in short) and any("known of the memory" in sentence for sentence in short)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("method", ["desroziers", "residuals"])
def test_what_is_not_seen_has_no_memory(method):
    """A fit without any residual: the memory stays that of the prior, and is not talked of."""
    A = columns_of(200, 2)
    problem = linear({"flux": (A, Stream(A.sum(axis=1), SIGMA, time=days(200), model_error=0.3))}, 2)
    estimate = estimate_errors(problem, solved(problem), method=method)
    assert float(estimate.table["days"][-1, 0, 0]) == pytest.approx(5.0) and bool(estimate.table["unseen"][-1, 0, 0])
    assert not np.any(estimate.problem.observations["flux"].model_error.seasonal)
    assert "no model error is seen" in str(estimate) and "correlated over" not in str(estimate) and "season" not in str(estimate)


# ----------------------------------------------------------------------------------------------------------------- what is refused

def test_defaults_leave_out_what_has_no_times():
    whole = Stream(np.zeros(30), 1.0, time=days(30), correlation=ExponentialCorrelation(3.0))
    observations = Observations({"flux": Stream(np.zeros(30), 1.0, time=days(30)), "drifting": whole, "limits": Stream(np.zeros(3), 1.0)})
    parts = default_parts(observations, "marginal")
    assert list(parts) == ["flux", "drifting"]
    assert "days" in parts["flux"] and "days" not in parts["drifting"]
    problem = linear({"flux": (columns_of(60, 2), Stream(np.ones(60), 0.5, time=days(60), model_error=0.3)),
                      "limits": (columns_of(3, 2), Stream(np.zeros(3), 1.0))}, 2)
    assert "limits: its errors are left as they are, since it has no times;" in str(estimate_errors(problem, solved(problem), rounds=1))


@pytest.mark.parametrize(("options", "error", "said"), [
    ({"method": "guess"}, ValueError, "a method of marginal"),
    ({"parts": {"flux": ["days"]}}, ValueError, '"constant", and more'),
    ({"parts": {"flux": "constant"}}, ValueError, "parts="),
    ({"parts": {"flux": ["constant", "proportional"]}, "method": "desroziers"}, ValueError, "seasonal, days, for flux by desroziers"),
    ({"parts": {"fluxes": ["constant"]}}, KeyError, "fluxes"),
    ({"parts": {}}, ValueError, "a stream whose error"),
    ({"prior_weight": -1.0}, ValueError, "a prior_weight of zero or more"),
    ({"block_years": 2}, ValueError, "block_years of one or more"),
    ({"rounds": 0}, ValueError, "one round or more"),
])
def test_what_cannot_be_estimated(options, error, said):
    problem = one_stream(30, 2, ModelError(1.0), 0)
    with pytest.raises(error, match=said):
        estimate_errors(problem, jnp.zeros(2), **options)


@pytest.mark.parametrize("method", ["desroziers", "residuals"])
def test_products_do_not_tell_a_constant_from_a_share(method):
    problem = one_stream(30, 2, ModelError(1.0), 0)
    shared = problem.observations["flux"].with_model_error(ModelError(0.3, proportional=0.2).at(np.ones((1, 30))))
    with pytest.raises(ValueError, match="without a share"):
        estimate_errors(problem.with_observations(Observations({"flux": shared})), jnp.zeros(2), method=method)


def test_a_problem_with_free_errors_is_refused():
    problem = one_stream(30, 2, ModelError(1.0), 0).with_error_parameters(["flux"])
    with pytest.raises(TypeError, match="free errors of flux"):
        estimate_errors(problem, jnp.zeros(problem.space.size))
