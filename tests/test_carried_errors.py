"""The model error of a stream in sums, means and steps of the same variable, against the whole matrix."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_problem import STEPS, two_pool_problem

from landcal_jax.error_model import ExponentialCorrelation, ModelError
from landcal_jax.laplace import laplace
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Anomaly, Pick, WindowMean, WindowSum

TIME = np.datetime64("2001-01-01") + np.cumsum(1 + np.arange(STEPS) % 3)
SEEN = np.arange(STEPS) % 2 == 0
# With steps of no window, and windows whose steps lie between each other.
WINDOWS = {"thirds": np.where(np.arange(STEPS) % 10 == 9, -1, np.arange(STEPS) // 20)[None], "turns": np.arange(STEPS)[None] % 2}
ERRORS = {
    "white": ModelError(0.4), "memory": ModelError(0.4, correlation_days=6.0),
    "season and share": ModelError(0.4, proportional=0.2, seasonal=(0.5, -0.4), correlation_days=15.0)}


def problem_with(error, **options):
    problem = two_pool_problem()
    stream = Stream(np.ones((1, STEPS)), 0.5, Pick("lost"), mask=SEEN, time=TIME, units="gC m-2 d-1", model_error=error, **options)
    return problem.with_observations(Observations({"lost": stream}))


def outputs():
    return {f"{kind.__name__}_{name}": kind("lost", windows) for kind in (WindowSum, WindowMean) for name, windows in WINDOWS.items()}


def wanted(s, days, operator):
    """Root of the diagonal of W S C S W', with W from the operator itself on unit series."""
    t = (TIME - TIME[0]).astype(float)
    C = np.eye(STEPS) if days is None else np.exp(-abs(t[:, None] - t) / days)
    W = np.stack([np.asarray(operator._over(jnp.asarray(row)[None]))[0] for row in np.eye(STEPS)], axis=1)
    return np.sqrt(np.diag(W @ (np.outer(s, s) * C) @ W.T))


@pytest.mark.parametrize("error", ERRORS)
def test_sums_and_means_have_the_model_error_of_their_steps_with_its_memory(error):
    problem = problem_with(ERRORS[error])
    posterior = laplace(two_pool_problem(), jnp.zeros(6), draws=5)
    named = outputs()
    bands = posterior.predictive(problem=problem, outputs=named | {"steps": Pick("lost")})
    run = np.abs(np.asarray(problem.predict(posterior.centre)["lost"]))
    stream = problem.observations["lost"].with_model_error(problem.observations["lost"].model_error.completed(run))
    s, days = np.asarray(stream.model_error_deviation)[0], None if stream.model_error.days is None else float(stream.model_error.days[0])
    for name, operator in named.items():
        np.testing.assert_allclose(bands[f"{name}_sd_model_error"][0], wanted(s, days, operator), rtol=1e-9)
        assert bands[name].attrs["model_error"] == "that of the stream lost, with its memory" and f"{name}_total" not in bands
        spread = np.hypot(bands[f"{name}_sd_parameters"], bands[f"{name}_sd_model_error"])
        half = (bands[f"{name}_model"][-1] - bands[f"{name}_model"][0]) / 2
        np.testing.assert_allclose(half / spread, 1.6449, rtol=1e-4)
    np.testing.assert_allclose(bands["steps_sd_model_error"][0], s, rtol=1e-9)


def test_draws_have_it_too_each_with_its_own_error():
    base = problem_with(ModelError(0.4, correlation_days=6.0))
    posterior = laplace(base, jnp.zeros(6), draws=400)
    bands = posterior.predictive(outputs=outputs(), draws=400)
    linear = posterior.predictive(outputs=outputs())
    for name in outputs():
        np.testing.assert_allclose(bands[f"{name}_sd_model_error"], linear[f"{name}_sd_model_error"], rtol=1e-9)
        assert np.all(bands[f"{name}_model"][-1] > bands[name][-1])
    growing = posterior.predictive(outputs=outputs(), draws=50, problem=problem_with(ModelError(0.0, proportional=0.3)))
    runs = np.abs(base.ensemble(posterior.some(50))["lost"])
    thirds = np.where(WINDOWS["thirds"][0] == 0, 0.3 * runs[:, 0], 0.0)
    np.testing.assert_allclose(growing["WindowSum_thirds_sd_model_error"][0, 0], np.sqrt(np.mean(np.sum(thirds**2, axis=1))), rtol=1e-9)


def test_the_memory_of_the_whole_error_is_that_of_the_model_part():
    posterior = laplace(two_pool_problem(), jnp.zeros(6), draws=5)
    means = {"mean": WindowMean("lost", WINDOWS["thirds"])}
    found = [posterior.predictive(problem=problem, outputs=means)["mean_sd_model_error"].values for problem in (
        problem_with(0.4, correlation=ExponentialCorrelation(6.0)), problem_with(ModelError(0.4, correlation_days=6.0)))]
    np.testing.assert_allclose(*found, rtol=1e-12)


def test_what_has_the_part_of_the_parameters_alone_says_so():
    posterior = laplace(two_pool_problem(), jnp.zeros(6), draws=5)
    problem = problem_with(0.4)
    other = {"anomaly": Anomaly(Pick("lost"), np.ones((1, STEPS), bool)), "store": WindowMean("total", WINDOWS["thirds"])}
    bands = posterior.predictive(problem=problem, outputs=other)
    assert "carried to Pick, WindowSum and WindowMean" in bands["anomaly"].attrs["model_error"]
    assert bands["store"].attrs["model_error"] == "none: no stream has total on the steps of the model"
    assert "store_model" not in bands and "anomaly_sd_model_error" not in bands
    none = laplace(problem_with(0.0), jnp.zeros(6), draws=5).predictive(outputs={"sum": WindowSum("lost", WINDOWS["turns"])})
    assert none["sum"].attrs["model_error"] == "none: the stream lost has none" and "sum_model" not in none
