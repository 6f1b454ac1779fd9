"""Bands of observed streams and of other outputs, in their parts, here and elsewhere; and a projection."""

import runpy
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from test_gradient_solvers import toy
from test_model import MODEL, Forcing
from test_problem import STEPS, two_pool_problem

from landcal_jax.error_model import ModelError
from landcal_jax.forward import FunctionForward, SiteForward
from landcal_jax.gradient import LBFGS
from landcal_jax.laplace import laplace
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick, WindowMean
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import from_draws
from landcal_jax.problem import Problem
from landcal_jax.propagation import emergent_constraint
from landcal_jax.sites import Sites
from landcal_jax.solving import solve

ONE_SD = [norm.cdf(1.0)]
EXAMPLE = Path(__file__).parents[1] / "examples" / "emergent_constraint.py"


@pytest.fixture(scope="module")
def posterior():
    problem = two_pool_problem()
    return laplace(problem, jnp.array([0.3, -0.4, 0.2, 0.3, -0.5, 0.5]), draws=400)


@eqx.filter_jit
def slopes(problem, z):
    return jax.jacfwd(problem.predict)(z)


@pytest.fixture(scope="module")
def spread(posterior):
    """Standard deviation by the parameters alone, by stream, from the whole Jacobian."""
    found = slopes(posterior.problem, posterior.centre)
    return {name: np.sqrt(np.einsum("si,ij,sj->s", J[0], posterior.covariance, J[0])) for name, J in found.items()}


# ------------------------------------------------------------------------------------------------------ the three parts


def test_bands_are_apart_by_parameters_model_and_measurement(posterior, spread):
    bands, middle = posterior.predictive(quantiles=ONE_SD), posterior.problem.predict(posterior.centre)
    for name, of_model, of_instrument in (("lost", 0.2, 0.5), ("total", 0.0, 4.0)):
        parts, seen = (spread[name], of_model, of_instrument), np.asarray(posterior.problem.observations[name].mask)[0]
        for ending, number in (("", 1), ("_model", 2), ("_total", 3)):
            sd = np.sqrt(sum(np.square(part) for part in parts[:number]))
            places = seen if number == 3 else slice(None)  # the instrument is unknown where nothing was observed
            np.testing.assert_allclose(bands[name + ending][0, 0][places], (middle[name][0] + sd)[places], rtol=1e-9)
            assert bands[name + ending].dims == ("quantile", "site", f"{name}_obs")
        for ending, part in zip(("parameters", "model_error", "observation"), parts, strict=True):
            found = bands[f"{name}_sd_{ending}"]
            assert found.dims == ("site", f"{name}_obs") and found.attrs["units"] == bands[name].attrs["units"]
            np.testing.assert_allclose(found[0][seen], np.broadcast_to(part, seen.shape)[seen], rtol=1e-9)


def test_draws_that_are_run_have_the_same_parts():
    problem = toy(lambda theta: [2 * theta["a"], -theta["a"]], [1.0, 2.0], sigma=[0.3, 0.6], a=Parameter.normal(0.0, 1.0))
    problem = problem.with_observations(Observations({"y": problem.observations["y"].with_model_error(0.4)}))
    z = np.random.default_rng(0).standard_normal((20000, 1))
    bands = from_draws(problem, 0.5 * z, method="a sample").predictive(1, quantiles=ONE_SD)
    error = 4 * np.sqrt(0.16 * 0.84 / 20000) / norm.pdf(1.0)
    for place, (slope, sigma) in enumerate(((2.0, 0.3), (-1.0, 0.6))):
        parts = (0.5 * slope, 0.4, sigma)
        for ending, number in (("", 1), ("_model", 2), ("_total", 3)):
            sd = np.sqrt(np.sum(np.square(parts[:number])))
            assert abs(bands["y" + ending][0, 0, place] - sd) < error * sd
        np.testing.assert_allclose(bands["y_sd_parameters"][0, place], abs(parts[0]), rtol=0.02)
        np.testing.assert_allclose([bands["y_sd_model_error"][0, place], bands["y_sd_observation"][0, place]], parts[1:], rtol=1e-12)


def test_a_model_error_that_grows_goes_by_its_level_or_by_each_run_where_it_has_none():
    error = ModelError(0.1, proportional=0.5)
    forward = FunctionForward(lambda theta: {"y": theta["a"] * jnp.array([[1.0, 10.0]])})
    problem = Problem(ParameterSpace({"a": Parameter.normal(2.0, 1e-6)}), forward,
                      Observations({"y": Stream([4.0, np.nan], 0.3, model_error=error.at([[4.0, 6.0]]))}))
    posterior = laplace(problem, jnp.zeros(1), draws=30)
    later = problem.with_observations(Observations({"y": Stream([4.0, np.nan], 0.3, model_error=error)}))
    for draws in (None, 30):
        bands = posterior.predictive(draws=draws)
        np.testing.assert_allclose(bands["y_sd_model_error"][0], [0.1 + 0.5 * 4.0, 0.1 + 0.5 * 6.0], rtol=1e-5)
        bands = posterior.predictive(draws=draws, problem=later)
        np.testing.assert_allclose(bands["y_sd_model_error"][0], [0.1 + 0.5 * 2.0, 0.1 + 0.5 * 20.0], rtol=1e-5)


def test_error_parameters_vary_from_draw_to_draw():
    problem = toy(lambda theta: [theta["a"], 2 * theta["a"]], [1.0, 2.0], sigma=0.3, a=Parameter.normal(0.0, 1.0))
    problem = problem.with_observations(Observations({"y": problem.observations["y"].with_model_error(0.4)}))
    free = problem.with_error_parameters(["y"])
    assert free.space.labels == ("a", "y_model_error")
    with pytest.raises(TypeError, match="(?s)sum of squares.*hessian"):
        laplace(free, jnp.zeros(2))
    z = np.random.default_rng(3).standard_normal((30000, 2)) * [1e-9, 1.0]
    drawn = from_draws(free, z, method="a sample")
    errors = np.asarray(drawn.theta()["y_model_error"])
    assert errors.std() > 0.2
    bands = drawn.predictive(5, quantiles=ONE_SD)
    np.testing.assert_allclose(bands["y_sd_model_error"], np.sqrt(np.mean(errors**2)), rtol=1e-9)
    # A mixture of Gaussians, one for each drawn error.
    for ending, sigma in (("_model", 0.0), ("_total", 0.3)):
        at = bands["y" + ending].values[0, 0, 0] - float(bands["y"][0, 0, 0])
        assert abs(norm.cdf(at / np.hypot(errors, sigma)).mean() - ONE_SD[0]) < 4 * np.sqrt(0.16 * 0.84 / 30000)
    # Observations of another period have the same errors.
    later = free.with_observations(Observations({"y": Stream([3.0, np.nan], [0.2, 0.1])}))
    np.testing.assert_allclose(drawn.predictive(problem=later)["y_sd_model_error"], bands["y_sd_model_error"], rtol=1e-9)
    # A Gaussian takes the errors of its centre.
    gaussian = laplace(free, solve(free, LBFGS(tolerance=1e-14), progress=False), curvature="hessian", draws=30)
    bands = gaussian.predictive()
    np.testing.assert_allclose(bands["y_sd_model_error"], float(free.theta(gaussian.centre)["y_model_error"]), rtol=1e-12)
    np.testing.assert_allclose(bands["y_sd_parameters"][0], np.sqrt(gaussian.covariance[0, 0]) * np.array([1.0, 2.0]), rtol=1e-9)


# ------------------------------------------------------------------------------------------------------- other outputs


@pytest.mark.parametrize("draws", [None, 40])
def test_outputs_nobody_observed_have_bands_on_every_step(posterior, spread, draws):
    problem = posterior.problem
    alone = problem.with_observations(Observations({"total": problem.observations["total"]}))
    bands = posterior.predictive(problem=alone, outputs=["lost"], quantiles=ONE_SD, draws=draws)
    assert bands["lost"].dims == ("quantile", "site", "step") and bands["lost"].shape == (1, 1, STEPS)
    assert bands["lost_sd_parameters"].dims == ("site", "step") and "lost_total" not in bands and "total_total" in bands
    assert bands["lost"].attrs["units"] == "gC m-2 d-1" and list(bands["site"].values) == ["site 0"]
    np.testing.assert_array_equal(bands["time"][0], np.arange(STEPS).astype("datetime64[D]"))
    # The same as those of the stream that observes it.
    both = posterior.predictive(quantiles=ONE_SD, draws=draws)
    np.testing.assert_array_equal(both["lost_time"][0], posterior.problem.observations["lost"].time[0])
    np.testing.assert_allclose(bands["lost"].values, both["lost"].values, rtol=1e-12)
    np.testing.assert_allclose(bands["total"].values, both["total"].values, rtol=1e-12)
    if draws is None:
        np.testing.assert_allclose(bands["lost_sd_parameters"][0], spread["lost"], rtol=1e-9)


def test_outputs_through_operators_have_names_of_their_own(posterior):
    halves = WindowMean("total", np.repeat([0, 1], STEPS // 2)[None])
    bands = posterior.predictive(outputs={"every": Pick("total"), "halves": halves})
    assert bands["every"].dims == ("quantile", "site", "step") and bands["halves"].dims == ("quantile", "site", "halves_obs")
    np.testing.assert_allclose(bands["halves"].sel(quantile=0.5)[0], bands["every"].sel(quantile=0.5)[0].values.reshape(2, -1).mean(axis=1))
    with pytest.raises(ValueError, match='(?s)names of their own.*total.*{"total_every_step": Pick'):
        posterior.predictive(outputs=["total"])
    with pytest.raises(ValueError, match="(?s)names of outputs of TwoPools.*leaf"):
        posterior.predictive(outputs=["leaf"])


def test_a_function_has_its_other_outputs_too():
    forward = FunctionForward(lambda theta: {"y": theta["a"] * jnp.ones((1, 2)), "more": theta["a"] ** 2 * jnp.ones((1, 3))})
    problem = Problem(ParameterSpace({"a": Parameter.normal(0.0, 1.0)}), forward, Observations({"y": Stream([1.0, 2.0], 1.0)}))
    posterior = laplace(problem, jnp.array([0.7]), draws=3)
    bands = posterior.predictive(outputs=["more"])
    # Derivative 2 a, curvature 1 + 2.
    np.testing.assert_allclose(bands["more_sd_parameters"], np.full((1, 3), 1.4 / np.sqrt(3)), rtol=1e-9)
    assert bands["more"].dims == ("quantile", "site", "more_obs")


# ----------------------------------------------------------------------------------------------------------- elsewhere


def moved(problem, space=None):
    """The same parameters at two other sites, the second with a shorter record."""
    rng, lengths = np.random.default_rng(1), jnp.array([50, 30])
    season = jnp.asarray(1 + 0.3 * rng.random((2, 50)))
    sites = Sites(Forcing(season, jnp.zeros((2, 50))), jnp.arange(50) + jnp.array([[100], [200]]), lengths, {}, ("B", "C"))
    stream = Stream(np.ones((2, 50)), 0.5, Pick("lost"), mask=sites.real, model_error=0.2, units="gC m-2 d-1")
    return Problem(problem.space if space is None else space, SiteForward(MODEL, sites), Observations({"lost": stream}, sites=sites.names))


def test_bands_at_other_sites_and_periods_are_those_of_the_problem_there(posterior):
    there = moved(posterior.problem)
    bands = posterior.predictive(problem=there, outputs=["total"], quantiles=ONE_SD)
    J, middle = slopes(there, posterior.centre)["lost"], there.predict(posterior.centre)["lost"]
    sd = np.sqrt(np.einsum("sti,ij,stj->st", J, posterior.covariance, J))
    real = there.forward.sites.real
    np.testing.assert_allclose(bands["lost"].values[0][real], (middle + sd)[real], rtol=1e-9)
    np.testing.assert_allclose(bands["lost_total"].values[0][real], (middle + np.sqrt(sd**2 + 0.2**2 + 0.5**2))[real], rtol=1e-9)
    np.testing.assert_array_equal(np.isfinite(bands["total"].values[0]), real)
    np.testing.assert_array_equal(np.isnat(bands["time"].values), ~real)
    run = posterior.predictive(problem=there, outputs=["total"], draws=50)
    np.testing.assert_array_equal(np.isfinite(run["total"].values[0]), real)
    assert run["lost"].attrs["failed"] == 0


def test_other_parameters_or_priors_are_refused(posterior):
    space = posterior.problem.space
    with pytest.raises(ValueError, match="(?s)6 free parameters of the posterior.*without supply"):
        posterior.predictive(problem=moved(posterior.problem, space.fix("supply")))
    priors = {name: Parameter.log_normal(own.default, 0.31 if name == "share" else 0.3) for name, own in space.parameters.items()}
    with pytest.raises(ValueError, match="(?s)priors of the posterior.*share = .* there for .* here"):
        posterior.predictive(problem=moved(posterior.problem, ParameterSpace(priors)))
    order = ParameterSpace(dict(reversed(space.parameters.items())))
    with pytest.raises(ValueError, match="(?s)the same in another order"):
        posterior.predictive(problem=moved(posterior.problem, order))


# ---------------------------------------------------------------------------------------------------------- projection


def test_the_emergent_constraint_of_photosynthesis_on_carbon_dioxide(capsys):
    example = runpy.run_path(str(EXAMPLE), run_name="__main__")
    temperature, change = np.transpose(example["RUNS"])
    found = emergent_constraint(temperature, change, example["MEAN"], example["SD"])
    assert round(found.mean) == 486 and round(found.sd) == 92
    assert round(found.prior_mean) == 600 and round(found.prior_sd) == 132
    assert round(found.slope, 1) == -33.7 and round(found.correlation, 2) == -0.81 and round(found.residual_sd, 1) == 80.9
    said = capsys.readouterr().out
    assert "at 35.392 +- 0.922 degC: 486 +- 92 ppm" in said and "all runs alike:              600 +- 132 ppm" in said


def test_its_moments_are_those_of_the_integral():
    rng = np.random.default_rng(4)
    x = rng.normal(10, 2, 9)
    y = 3 - 0.7 * x + rng.normal(0, 0.5, 9)
    found = emergent_constraint(x, y, 13.0, 1.5)
    slope, intercept = np.polyfit(x, y, 1)
    residual = np.sum((y - intercept - slope * x) ** 2) / 7
    drawn = rng.normal(13.0, 1.5, 2_000_000)
    error = np.sqrt(residual * (1 + 1 / 9 + (drawn - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)))
    projected = intercept + slope * drawn + error * rng.standard_normal(drawn.size)
    np.testing.assert_allclose([found.mean, found.sd], [projected.mean(), projected.std()], rtol=3e-3)
    # Without a relationship the constraint says nothing, beyond what so few models allow.
    none = emergent_constraint([1.0, 2.0, 3.0, 4.0], [1.0, -1.0, -1.0, 1.0], 2.5, 0.1)
    assert none.mean == none.prior_mean == 0 and none.sd > none.prior_sd
    for x, y in (([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), ([1.0] * 5, range(5)), ([1.0, 2.0, 3.0, np.nan], range(4))):
        with pytest.raises(ValueError, match="(?s)four or more models"):
            emergent_constraint(x, y, 1.0, 0.1)
