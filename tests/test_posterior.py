"""The posterior against closed forms: covariance, draws, bands of what would be observed, and runs that fail."""

import arviz_stats
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from test_gradient_solvers import toy
from test_problem import linear_problem

from landcal_jax.calibration import calibrate
from landcal_jax.experiment import Experiment
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import GaussNewton, LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior, from_draws, from_xarray
from landcal_jax.problem import Problem, costs
from landcal_jax.solving import solve

QUANTILES = (0.05, 0.5, 0.95)


@pytest.fixture(scope="module")
def oracle():
    return LinearGaussian.random(jax.random.key(3), n=5, m=9)


@pytest.fixture(scope="module")
def problem(oracle):
    return linear_problem(oracle)


@pytest.fixture(scope="module")
def result(problem):
    return solve(problem, GaussNewton(), progress=False)


def in_x(oracle, covariance):
    root = np.linalg.cholesky(oracle.B)
    return root @ np.asarray(covariance) @ root.T


# --------------------------------------------------------------------------------------------------------- the Gaussian case


def test_draws_are_of_that_gaussian(oracle, problem, result):
    posterior = laplace(problem, result, draws=20000, key=4)
    x = posterior.matrix()
    assert x.shape == (20000, 5) and posterior.gaussian and posterior.method == "Laplace (gauss-newton)"
    assert posterior.details["jvp"] == 5 and posterior.details["gradient"] == 0
    np.testing.assert_allclose(x, posterior.theta()["x"])
    mean, covariance = oracle.posterior_mean(), np.asarray(oracle.posterior_covariance())
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(axis=0) - mean) < 4 * sd / np.sqrt(20000)).all()
    np.testing.assert_allclose(np.cov(x.T) / np.outer(sd, sd), covariance / np.outer(sd, sd), atol=4 * np.sqrt(2 / 20000))
    # On a quadratic J the median rise to a draw is that of chi-squared over its mean.
    assert abs(posterior.excess_cost(2000) - 4.351 / 5) < 0.05


def test_the_same_key_gives_the_same_draws_from_a_result_or_a_point(problem, result):
    one, same, other = laplace(problem, result, key=1), laplace(problem, result.z, key=jax.random.key(1)), laplace(problem, result)
    np.testing.assert_array_equal(one.z, same.z)
    assert not np.allclose(one.z, other.z)


def observed_closed_form(oracle, problem):
    """Mean, and standard deviation without and with observation errors, of the whitened observations of the problem."""
    H = np.linalg.solve(np.linalg.cholesky(oracle.R), oracle.A)
    spread = np.einsum("ij,jk,ik->i", H, np.asarray(oracle.posterior_covariance()), H)
    return H @ np.asarray(oracle.posterior_mean()), np.sqrt(spread), np.sqrt(spread + 1)


def test_bands_of_a_gaussian_are_exact(oracle, problem, result):
    bands = laplace(problem, result, draws=3).predictive(0)
    mean, model, total = observed_closed_form(oracle, problem)
    steps = norm.ppf(QUANTILES)[:, None]
    np.testing.assert_allclose(bands["y"][:, 0], mean + steps * model, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(bands["y_total"][:, 0], mean + steps * total, rtol=1e-7, atol=1e-9)
    assert bands["y"].dims == ("quantile", "site", "y_obs") and bands["y"].attrs["failed"] == 0
    np.testing.assert_array_equal(bands["quantile"], QUANTILES)


def test_bands_of_runs_are_near_and_reproducible(oracle, problem, result):
    posterior = laplace(problem, result, draws=8000)
    bands = posterior.predictive(2, draws=6000)
    mean, model, total = observed_closed_form(oracle, problem)
    # Standard error of a quantile: sqrt(q (1 - q) / n) over the density there.
    steps = norm.ppf(QUANTILES)[:, None]
    error = np.sqrt(np.multiply(QUANTILES, np.subtract(1, QUANTILES)) / 6000)[:, None] / norm.pdf(steps)
    assert (np.abs(bands["y"][:, 0] - mean - steps * model) < 4.5 * error * model).all()
    assert (np.abs(bands["y_total"][:, 0] - mean - steps * total) < 4.5 * error * total).all()
    np.testing.assert_array_equal(bands["y_total"], posterior.predictive(jax.random.key(2), draws=6000)["y_total"])
    # What is no Gaussian by construction is run, all of it.
    sample = Posterior(problem, posterior.z, posterior.centre, posterior.covariance, "a sample").predictive(2, quantiles=[0.5])
    assert (np.abs(sample["y"][0, 0] - mean) < 4.5 * np.sqrt(np.pi / 2 / 8000) * model).all()


def test_model_error_belongs_to_the_band_of_what_is_observed():
    forward = FunctionForward(lambda theta: {"y": theta["a"] * jnp.ones((1, 2))})
    stream = Stream([0.5, np.nan], [0.3, 0.3], model_error=0.4, units="gC m-2 d-1")
    problem = Problem(ParameterSpace({"a": Parameter.normal(0.0, 2.0)}), forward, Observations({"y": stream}))
    bands = laplace(problem, solve(problem, GaussNewton(), progress=False)).predictive(quantiles=[norm.cdf(1.0)])
    variance = 1 / (1 / 4 + 1 / 0.25)
    mean = variance * 0.5 / 0.25
    np.testing.assert_allclose(bands["y"][0, 0], mean + np.sqrt(variance), rtol=1e-6)
    np.testing.assert_allclose(bands["y_total"][0, 0, 0], mean + np.sqrt(variance + 0.25), rtol=1e-6)
    assert bands["y"].attrs["units"] == "gC m-2 d-1"


# ------------------------------------------------------------------------------------------------------------- not Gaussian


def test_draws_stay_inside_the_bounds():
    problem = toy(lambda theta: [theta["a"], theta["b"]], [0.999, 40.0], sigma=[0.5, 100.0],
                  a=Parameter.uniform(0.0, 1.0), b=Parameter.log_uniform(1e-3, 50.0))
    posterior = laplace(problem, solve(problem, LevenbergMarquardt(), progress=False), draws=3000)
    theta = posterior.theta()
    assert 0 < theta["a"].min() < 0.2 and 0.99 < theta["a"].max() < 1
    assert 1e-3 <= theta["b"].min() and 45 < theta["b"].max() <= 50
    # Far from Gaussian in z, the rise of J to the draws says so or is near one; it is finite in any case.
    assert np.isfinite(posterior.excess_cost())


def test_runs_that_fail_are_left_out_and_counted():
    # The square root of a draw below zero is NaN.
    problem = toy(lambda theta: [jnp.sqrt(theta["a"])], [1.0], sigma=1.0, a=Parameter.normal(1.0, 1.0))
    posterior = laplace(problem, jnp.zeros(1), draws=4000)
    below = int((posterior.theta()["a"] < 0).sum())
    assert below > 100
    bands = posterior.predictive(draws=4000)
    assert bands["y"].attrs["failed"] == bands["y_total"].attrs["failed"] == below
    assert np.isfinite(bands["y"]).all()
    kept = np.sqrt(np.asarray(posterior.theta()["a"])[np.asarray(posterior.theta()["a"]) >= 0])
    np.testing.assert_allclose(bands["y"][:, 0, 0], np.quantile(kept, QUANTILES), rtol=1e-12)
    nothing = toy(lambda theta: [jnp.sqrt(-1 - theta["a"] ** 2)], [1.0], a=Parameter.normal(1.0, 1.0))
    with pytest.raises(ValueError, match="(?s)finite y.*50 runs that all fail"):
        Posterior(nothing, posterior.z[:50], posterior.centre, posterior.covariance, "a sample").predictive()


@pytest.mark.parametrize("draws", [None, 300])
def test_a_window_without_steps_is_no_failure(draws):
    # An operator gives NaN where there is nothing to average, and nothing is observed there.
    problem = toy(lambda theta: [theta["a"], jnp.nan, 2 * theta["a"]], [1.0, np.nan, 2.0], a=Parameter.normal(0.0, 1.0))
    bands = laplace(problem, jnp.zeros(1), draws=300).predictive(draws=draws)
    assert bands["y"].attrs["failed"] == 0
    np.testing.assert_array_equal(np.isnan(bands["y"]), np.broadcast_to([False, True, False], (3, 1, 3)))


# --------------------------------------------------------------------------------------------------------- how good it is


def moments(problem):
    """Mean and standard deviation of a posterior of one parameter, by quadrature."""
    at = np.linspace(-6, 6, 4001)[:, None]
    density = np.exp(-costs(problem, at))
    mean = (density @ at / density.sum())[0]
    return mean, np.sqrt(density @ (at[:, 0] - mean) ** 2 / density.sum())


def test_weights_of_an_exact_gaussian_are_all_alike(oracle, problem, result):
    found = laplace(problem, result, draws=200).importance(150)
    assert found.passed and found.k_hat == -np.inf and found.failed == 0 and len(found.weights) == 150
    np.testing.assert_allclose([found.effective, found.limit], [150, 1 - 1 / np.log10(150)])
    assert "can be used as they are" in found.sentence


def test_weights_mend_a_gaussian_that_is_nearly_right():
    problem = toy(lambda theta: [theta["a"] + 0.2 * theta["a"] ** 2], [1.0], sigma=0.5, a=Parameter.normal(0.0, 1.0))
    posterior = laplace(problem, solve(problem, GaussNewton(), progress=False), draws=20000)
    found = posterior.importance()
    assert found.passed and found.limit == 0.7 and 0.5 * 20000 < found.effective < 20000
    np.testing.assert_allclose(found.weights.sum(), 1.0)
    better, (mean, sd) = posterior.reweighted(found, key=2), moments(problem)
    assert not better.gaussian and better.method == "Laplace (gauss-newton), reweighted" and len(better.z) == 20000
    assert abs(posterior.z.mean() - mean) > 0.05 and abs(better.z.mean() - mean) < 4 * sd / np.sqrt(found.effective)
    assert abs(better.z.std() - sd) < 4 * sd / np.sqrt(2 * found.effective)
    assert better.details["distinct"] == len(np.unique(better.z)) < 20000 and better.details["k_hat"] == found.k_hat
    np.testing.assert_allclose(better.covariance, sd**2, rtol=0.05)
    np.testing.assert_array_equal(better.z, posterior.reweighted(key=2).z)


def test_a_gaussian_that_misses_the_tails_is_found_out():
    # Nothing is learnt of a far below the threshold, where the Gaussian has no draws: k = 1 - 1 / curvature.
    problem = toy(lambda theta: [jnp.tanh(3 * theta["a"])], [0.2], sigma=0.5, a=Parameter.normal(0.0, 1.0))
    posterior = laplace(problem, solve(problem, GaussNewton(), progress=False), draws=4000)
    found = posterior.importance()
    assert not found.passed and found.k_hat > 0.7 and "above 0.70" in found.sentence and "nuts(" in found.sentence
    with pytest.raises(ValueError, match="(?s)k-hat below 0.70.*nuts"):
        posterior.reweighted(found)
    with pytest.raises(ValueError, match="(?s)draws of a Gaussian.*a sample.*laplace"):
        from_draws(problem, posterior.z, method="a sample").importance()
    with pytest.raises(ValueError, match="(?s)25 draws or more.*10 of 10"):
        posterior.importance(10)


def test_runs_that_fail_have_no_weight():
    problem = toy(lambda theta: [jnp.sqrt(theta["a"])], [1.0], sigma=1.0, a=Parameter.normal(1.0, 0.7))
    posterior = laplace(problem, jnp.zeros(1), draws=2000)
    below = np.asarray(posterior.theta()["a"] < 0)
    found = posterior.importance()
    assert found.failed == below.sum() > 20 and not found.weights[below].any()
    assert f"{found.failed} runs failed" in found.sentence and (posterior.reweighted(found).theta()["a"] > 0).all()


# ------------------------------------------------------------------------------------------------- draws of anything


def test_draws_with_weights_become_draws_without(problem):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((4000, 5))
    weights = np.exp(z[:, 0])  # of N(0, 1) they make N(1, 1)
    posterior = from_draws(problem, z, method="a history match", weights=weights, details={"log_density": z[:, 0], "note": "wave 3"})
    assert abs(posterior.z[:, 0].mean() - 1) < 0.1 and abs(posterior.z[:, 1].mean()) < 0.1 and posterior.z.shape == z.shape
    share = weights / weights.sum()
    np.testing.assert_allclose(posterior.centre, share @ z)
    np.testing.assert_allclose(posterior.covariance, np.cov(z.T, aweights=weights))
    np.testing.assert_array_equal(posterior.details["log_density"], posterior.z[:, 0])
    np.testing.assert_allclose(posterior.details["effective"], 1 / np.sum(share**2))
    assert posterior.details["note"].startswith("wave 3; 4000 draws resampled by their weights") and not posterior.gaussian
    # Systematic: each as often as its weight says, rounded up or down.
    times = np.array([(np.asarray(posterior.z)[:, 0] == value).sum() for value in z[:, 0]])
    assert (np.abs(times - 4000 * share) < 1).all()
    plain = from_draws(problem, z, method="chains", chains=4, centre=np.ones(5))
    assert plain.chains == 4 and plain.details == {} and (plain.centre == 1).all()
    np.testing.assert_array_equal(plain.z, z)
    np.testing.assert_allclose(plain.covariance, np.cov(z.T))


def test_draws_of_another_kind_are_refused(problem):
    z = np.zeros((10, 5))
    for draws, options in ((z[:, :4], {}), (z[:1], {}), (z * np.nan, {}), (z, {"chains": 3})):
        with pytest.raises(ValueError, match=r"(?s)draws z \(draw, 5\).*whiten"):
            from_draws(problem, draws, method="mine", **options)
    for options in ({"weights": np.ones(9)}, {"weights": -np.ones(10)}, {"weights": np.zeros(10)}, {"weights": np.ones(10), "chains": 2}):
        with pytest.raises(ValueError, match="(?s)one weight of zero or more for each of 10 draws"):
            from_draws(problem, z, method="mine", **options)


def test_a_dataset_of_draws_has_dims_units_and_names():
    space = ParameterSpace(
        {"lma": Parameter.uniform([10.0, 20.0], [90.0, 200.0], dims="pft", units="gC m-2", description="leaf mass"),
         "k": Parameter.normal(1.0, 0.5, units="d-1"), "fixed": Parameter.normal(3.0, 0.5)},
        coords={"pft": ["DBF", "ENF"]}, fixed={"fixed": 3.5})
    forward = FunctionForward(lambda theta: {"y": jnp.append(theta["lma"], theta["k"] * theta["fixed"])[None]})
    problem = Problem(space, forward, Observations({"y": Stream([30.0, 80.0, 4.0], [9.0, 9.0, 1.0])}))
    posterior = laplace(problem, jnp.zeros(3), draws=40)
    draws = posterior.to_xarray()
    assert draws["lma"].dims == ("draw", "pft") and list(draws["pft"].values) == ["DBF", "ENF"]
    assert draws["lma"].attrs == {"units": "gC m-2", "long_name": "leaf mass"}
    assert draws["k"].attrs == {"units": "d-1", "long_name": "k"}
    assert (draws["fixed"] == 3.5).all() and draws["k"].shape == (40,)
    assert "Laplace (gauss-newton)" in draws.attrs["posterior_method"]
    np.testing.assert_allclose(posterior.matrix(), np.column_stack([draws["lma"], draws["k"]]))
    assert problem.space.labels == ("lma[DBF]", "lma[ENF]", "k")
    tree = from_draws(problem, np.asarray(posterior.z), method="by hand", chains=4, details={
        "log_density": np.arange(40.0), "diverging": np.zeros(40, bool), "seconds_run": 3.0, "note": "as told"}).to_inference_data()
    assert tree["posterior"]["lma"].dims == ("chain", "draw", "pft") and tree["posterior"]["lma"].shape == (4, 10, 2)
    assert tree["posterior"]["lma"].attrs["units"] == "gC m-2" and list(tree["posterior"]["pft"].values) == ["DBF", "ENF"]
    np.testing.assert_array_equal(tree["posterior"]["lma"].values.reshape(40, 2), draws["lma"])
    assert "fixed" not in tree["posterior"] and tree["constant_data"]["fixed"] == 3.5
    assert list(tree["sample_stats"].data_vars) == ["lp", "diverging"] and tree["sample_stats"]["lp"][3, 9] == 39
    assert tree["observed_data"]["y"].dims == ("site", "y_obs") and tree["posterior"].attrs["note"] == "as told"
    table = arviz_stats.summary(tree, var_names=["lma", "k"])
    assert list(table.index) == ["lma[DBF]", "lma[ENF]", "k"] and "r_hat" in table


def test_draws_come_back_from_a_file(tmp_path):
    space = ParameterSpace({"lma": Parameter.uniform([10.0, 20.0], [90.0, 200.0], dims="pft", units="gC m-2"),
                            "k": Parameter.normal(1.0, 0.5), "fixed": Parameter.normal(3.0, 0.5)},
                           coords={"pft": ["DBF", "ENF"]}, fixed={"fixed": 3.5})
    forward = FunctionForward(lambda theta: {"y": jnp.append(theta["lma"], theta["k"] * theta["fixed"])[None]})
    problem = Problem(space, forward, Observations({"y": Stream([30.0, 80.0, 4.0], [9.0, 9.0, 1.0])}))
    posterior = laplace(problem, jnp.zeros(3), draws=40)
    posterior.to_xarray().to_netcdf(tmp_path / "draws.nc")
    with xr.open_dataset(tmp_path / "draws.nc") as dataset:
        again = from_xarray(problem, dataset, chains=4)
    np.testing.assert_allclose(again.z, posterior.z, atol=1e-9)
    assert again.chains == 4 and again.method == posterior.method
    # As posterior.nc has them: free elements in one array.
    table = xr.Dataset({"theta": (("draw", "parameter"), posterior.matrix())}, {"parameter": list(space.labels)})
    np.testing.assert_allclose(from_xarray(problem, table).z, posterior.z, atol=1e-9)
    with pytest.raises(ValueError, match="(?s)lma.DBF., lma.ENF., k.*k, lma"):
        from_xarray(problem, table.assign_coords(parameter=["k", "lma[DBF]", "lma[ENF]"]))
    with pytest.raises(ValueError, match="(?s)pft DBF, ENF.*ENF, DBF"):
        from_xarray(problem, posterior.to_xarray().isel(pft=[1, 0]))
    assert from_xarray(problem, again.to_xarray()).chains == 4
    with pytest.raises(ValueError, match="draws of k"):
        from_xarray(problem, posterior.to_xarray().drop_vars("k"))
    text = str(posterior)
    assert text.splitlines()[0] == "Posterior: Laplace (gauss-newton), 40 draws" and "lma[ENF]" in text and "gC m-2" in text


def test_some_draws_are_of_all_chains(problem):
    z = np.repeat([-3.0, -1.0, 1.0, 3.0], 25)[:, None] * np.ones(5)
    posterior = from_draws(problem, z, method="chains", chains=4)
    assert np.asarray(posterior.some(8))[:, 0].tolist() == [-3, -3, -1, -1, 1, 1, 3, 3]
    np.testing.assert_array_equal(posterior.some(100), z)
    np.testing.assert_array_equal(posterior.some(), z)
    for number in (0, -1, 101, 2.5):
        with pytest.raises(ValueError, match="a number of draws between 1 and 100"):
            posterior.predictive(draws=number)


@pytest.mark.parametrize(("posterior", "draws"), [("gauss-newton", 1), ("gauss-newton", 2.5), ("nuts", 3), ("smc", -3)])
def test_a_calibration_refuses_too_few_draws_before_it_runs(problem, posterior, draws):
    with pytest.raises(ValueError, match="a number of draws, [24] or more"):
        calibrate(Experiment(problem), GaussNewton(), posterior=posterior, draws=draws)
    with pytest.raises(ValueError, match="a number of draws, 1 or more"):
        laplace(problem, jnp.zeros(5), draws=0)
