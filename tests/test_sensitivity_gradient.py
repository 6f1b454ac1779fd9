"""Sensitivity from exact derivatives: closed forms, the bound on Sobol's index, SALib's derivatives, subspaces, failed runs, time."""

import jax.numpy as jnp
import numpy as np
import pytest
from SALib.analyze import dgsm
from SALib.sample import finite_diff
from test_sensitivity import ISHIGAMI, ISHIGAMI_PROBLEM, SEASON, A, B, g_function, problem_of, uniform

from landcal_jax import plot_sensitivity
from landcal_jax.forward import FunctionForward
from landcal_jax.identifying import sentences
from landcal_jax.observations import Stream
from landcal_jax.parameters import Parameter
from landcal_jax.posterior import from_draws
from landcal_jax.sensitivity import ranked, screened, sobol
from landcal_jax.sensitivity_gradient import gradient_sensitivity, local_sensitivity

# E[(dh/dx)^2] (2 pi)^2 with x uniform in (-pi, pi): dh/dx1 = cos x1 (1 + b x3^4), dh/dx2 = a sin 2 x2, dh/dx3 = 4 b x3^3 sin x1.
NU = (2 * np.pi) ** 2 * np.array([0.5 * (1 + 2 * B * np.pi**4 / 5 + B**2 * np.pi**8 / 9), 0.5 * A**2, 8 * B**2 * np.pi**6 / 7])


@pytest.fixture(scope="module")
def of_ishigami():
    return gradient_sensitivity(ISHIGAMI_PROBLEM, runs=5000, key=0)


def test_derivative_measures_of_ishigami_are_the_closed_forms_and_bound_the_total_index(of_ishigami):
    assert of_ishigami.attrs["runs"] == 4096 and of_ishigami.attrs["failed_runs"] == 0
    np.testing.assert_allclose(of_ishigami["derivative_measure"].values[:, 0], NU, rtol=0.02)
    variance = (1 + B * np.pi**4 / 5) ** 2 / 2 + A**2 / 8 + 8 * B**2 * np.pi**8 / 225
    np.testing.assert_allclose(of_ishigami["poincare_uniform"].values[:, 0], NU / np.pi**2 / variance, rtol=0.02)
    for name in ("poincare_uniform", "poincare_normal", "total_bound"):
        assert (of_ishigami[name].values[:, 0] > ISHIGAMI["total"]).all(), name


def test_derivative_measures_are_those_of_salib(of_ishigami):
    said = {"num_vars": 3, "names": ["x1", "x2", "x3"], "bounds": [[-np.pi, np.pi]] * 3}
    X = finite_diff.sample(said, 2048, delta=1e-4)
    Y = np.asarray(FunctionForward(lambda theta: {"y": jnp.sin(theta["x1"]) + A * jnp.sin(theta["x2"]) ** 2
                                                  + B * theta["x3"] ** 4 * jnp.sin(theta["x1"])})(
        {f"x{i + 1}": X[:, i] for i in range(3)}, {"y": None})["y"])
    own = dgsm.analyze(said, X, Y)
    np.testing.assert_allclose(of_ishigami["poincare_uniform"].values[:, 0], own["dgsm"], rtol=0.03)


def test_the_bound_holds_for_the_g_function_and_sobol_estimates_too():
    problem = problem_of(g_function, uniform(0.0, 1.0, [f"x{i}" for i in range(6)]))
    bound = gradient_sensitivity(problem, runs=1024, key=0)
    total = sobol(problem, runs=8 * 1024, key=0, second_order=False)
    assert ((bound["total_bound"] + bound["total_bound_interval"]) >= total["total"]).all()
    assert ranked(bound)[:4] == ["x0", "x1", "x2", "x3"]
    assert screened(problem.space, bound).labels == ("x0", "x1", "x2", "x3")


def test_one_parameter_of_a_gaussian_or_uniform_prior_has_the_bound_of_poincare():
    linear = {name: problem_of(lambda theta: {"y": theta["a"].reshape(1, 1)}, {"a": prior})
              for name, prior in (("normal", Parameter.normal(3.0, 2.0)), ("uniform", Parameter.uniform(2.0, 7.0)))}
    ds = gradient_sensitivity(linear["normal"], runs=1024, key=0)
    # Equality for a linear function of a Gaussian: the derivative is the standard deviation.
    np.testing.assert_allclose(ds["total_bound"], 1.0, rtol=0.01)
    assert np.isnan(ds["poincare_uniform"]).all()
    ds = gradient_sensitivity(linear["uniform"], runs=1024, key=0)
    np.testing.assert_allclose(ds["poincare_uniform"], 12 / np.pi**2, rtol=0.01)
    np.testing.assert_allclose(ds["poincare_normal"], 12 / (2 * np.sqrt(3) * np.pi), rtol=0.01)
    np.testing.assert_allclose(ds["total_bound"], ds["poincare_normal"])


def test_bounds_of_a_group_add():
    one, two = (gradient_sensitivity(ISHIGAMI_PROBLEM, runs=256, key=0, groups=groups) for groups in (None, {"odd": ["x1", "x3"]}))
    assert list(two["parameter"].values) == ["odd", "x2"]
    np.testing.assert_allclose(two["total_bound"].sel(parameter="odd"), one["total_bound"].sel(parameter=["x1", "x3"]).sum("parameter"))


def test_a_ridge_function_has_one_active_direction():
    w = np.array([0.6, 0.0, -0.8])
    problem = problem_of(lambda theta: {"y": jnp.exp(0.3 * sum(w[i] * theta[f"x{i}"] for i in range(3))).reshape(1, 1)},
                         {f"x{i}": Parameter.normal(0.0, 1.0) for i in range(3)})
    ds = gradient_sensitivity(problem, runs=1024, key=0)
    assert ds["active"].item() == 1
    # E[(0.3 exp(0.3 w'z))^2] = 0.09 exp(2 0.09)
    np.testing.assert_allclose(ds["eigenvalue"].values[:, 0], [0.09 * np.exp(0.18), 0, 0], rtol=0.02, atol=1e-12)
    np.testing.assert_allclose(np.abs(ds["eigenvector"].values[0, :, 0]), np.abs(w), atol=1e-10)
    assert 0 < ds["eigenvalue_interval"].values[0, 0] < 0.02


def test_few_outputs_of_many_parameters_are_done_by_adjoints_with_the_same_result():
    many = {f"x{i}": Parameter.uniform(0.0, 1.0) for i in range(20)}
    scalar = problem_of(lambda theta: {"y": sum((i + 1) * theta[f"x{i}"] ** 2 for i in range(20)).reshape(1, 1)}, many)
    twice = problem_of(lambda theta: {"y": sum((i + 1) * theta[f"x{i}"] ** 2 for i in range(20)) * jnp.ones((1, 3))}, many,
                       {"y": Stream(np.zeros(3), 1.0)})
    one, other = (gradient_sensitivity(problem, runs=64, key=0) for problem in (scalar, twice))
    assert one.attrs["derivatives"] == "1 adjoint" and other.attrs["derivatives"] == "20 tangents"
    np.testing.assert_allclose(one["total_bound"].values[:, 0], other["total_bound"].values[:, 1], rtol=1e-10)
    np.testing.assert_allclose(one["eigenvalue"].values[:, 0], other["eigenvalue"].values[:, 2], rtol=1e-8)


def test_local_sensitivity_is_resolved_in_time_and_seasons():
    theta = {"offset": 0.5, "amplitude": 1.0, "idle": 10.0}
    z = np.asarray(SEASON.space.whiten(theta))
    ds = local_sensitivity(SEASON, z)
    day = np.arange(730)
    summer = np.maximum(np.sin(2 * np.pi * (day - 80) / 365.25), 0)
    flux = ds.sel(output=ds["stream"] == "flux")
    np.testing.assert_allclose(flux["derivative"].sel(element="amplitude"), summer * 1.15, atol=1e-12)
    np.testing.assert_allclose(flux["derivative"].sel(element="offset"), 1 + 0.3 * summer, rtol=1e-12)
    np.testing.assert_allclose(flux["sensitivity"].sel(element="offset"), 0.5 * (1 + 0.3 * summer), rtol=1e-12)
    np.testing.assert_allclose(ds["sensitivity_lower"], ds["sensitivity_upper"])
    draws = local_sensitivity(SEASON, np.stack([z - 0.1, z, z + 0.1]))
    assert draws.attrs["runs"] == 3
    assert (draws["sensitivity_upper"] - draws["sensitivity_lower"]).sel(element="offset").max() > 0.01


def test_under_a_correlated_prior_one_parameter_moves_and_the_others_stay():
    problem = problem_of(lambda theta: {"y": (theta["a"] + 100 * theta["b"]).reshape(1, 1)},
                         {"a": Parameter.normal(0.0, 2.0), "b": Parameter.normal(0.0, 3.0)}, correlation=np.array([[1, 0.9], [0.9, 1]]))
    ds = local_sensitivity(problem)
    np.testing.assert_allclose(ds["sensitivity"].values[:, 0], [2.0, 300.0], rtol=1e-10)
    np.testing.assert_allclose(ds["derivative"].values[:, 0], [1.0, 100.0], rtol=1e-10)
    with pytest.raises(ValueError, match="independent parameters"):
        gradient_sensitivity(problem, runs=64, key=0)


def test_failed_points_are_left_out_and_counted():
    problem = problem_of(lambda theta: {"y": jnp.where(theta["a"] > 0.9, jnp.nan, theta["a"] + 2 * theta["b"]).reshape(1, 1)},
                         uniform(0.0, 1.0, ["a", "b"]))
    ds = gradient_sensitivity(problem, runs=256, key=0)
    assert 20 < ds.attrs["failed_runs"] < 32
    assert any("runs failed, at a 0.9" in line for line in sentences(ds))
    np.testing.assert_allclose(ds["derivative_measure"].values[:, 0], [1.0, 4.0], rtol=1e-10)
    variance = 0.81 / 12 + 4 / 12
    np.testing.assert_allclose(ds["poincare_uniform"].values[:, 0], np.array([1.0, 4.0]) / np.pi**2 / variance, rtol=0.02)


def test_bounds_of_an_output_with_jumps_are_disproved():
    """Derivatives see 0.1 b alone, and the step in a is 99.7 % of the variance."""
    problem = problem_of(lambda theta: {"y": (jnp.where(theta["a"] > 0.5, 1.0, 0.0) + 0.1 * theta["b"]).reshape(1, 1),
                                        "smooth": (theta["a"] + 0.01 * theta["b"]).reshape(1, 1)},
                         uniform(0.0, 1.0, ["a", "b"]), {name: Stream(np.zeros((1, 1)), 1.0) for name in ("y", "smooth")})
    ds = gradient_sensitivity(problem, runs=256, key=0)
    assert ds["jumps"].values.tolist() == [True, False]
    assert np.isnan(ds["total_bound"].sel(output="y")).all() and np.isfinite(ds["total_bound"].sel(output="smooth")).all()
    assert any("y has jumps" in line and "take morris or sobol" in line for line in sentences(ds))
    smooth = ds.sel(output=["smooth"])
    assert screened(problem.space, ds).labels == ("a", "b") and screened(problem.space, smooth).labels == ("a",)
    with pytest.raises(ValueError, match="outputs without jumps"):
        screened(problem.space, ds, number=1)
    assert sobol(problem, runs=6 * 256, key=0)["total"].sel(parameter="a", output="y") > 0.9


def test_no_point_alone_says_that_nothing_is_sensitive():
    flat = problem_of(lambda theta: {"y": jnp.stack([theta["a"], 0 * theta["a"] + 0.1])[None]}, uniform(0.0, 1.0, ["a"]),
                      {"y": Stream(np.zeros(2), 1.0)})
    assert not any("sensitive" in line for line in sentences(local_sensitivity(SEASON)))
    [line] = [line for line in sentences(local_sensitivity(flat)) if "sensitive" in line]
    assert "y[1]" in line and "y[0]" not in line


def test_local_sensitivity_takes_a_posterior_and_counts_its_cost():
    problem = problem_of(lambda theta: {"y": (theta["a"] ** 2 + theta["b"]).reshape(1, 1)}, uniform(0.0, 1.0, ["a", "b"]))
    draws = np.random.default_rng(0).standard_normal((8, 2))
    ds = local_sensitivity(problem, from_draws(problem, draws, method="draws"))
    np.testing.assert_array_equal(ds["sensitivity"], local_sensitivity(problem, draws)["sensitivity"])
    assert ds.attrs["run_equivalents"] == 8 * 3
    with pytest.raises(TypeError, match="whiten"):
        local_sensitivity(problem, {"a": 0.5})


def test_subspaces_of_a_series_are_made_when_asked_for():
    assert "eigenvalue" not in gradient_sensitivity(SEASON, runs=4, key=0, resamples=2)
    assert "eigenvalue" in gradient_sensitivity(SEASON, runs=4, key=0, resamples=2, subspace=True)


def test_what_cannot_be_done_is_refused():
    with pytest.raises(ValueError, match="at least two runs"):
        gradient_sensitivity(ISHIGAMI_PROBLEM, runs=1, key=0)
    with pytest.raises(ValueError, match="268435456 derivatives"):
        gradient_sensitivity(SEASON, runs=2**17, key=0)
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        local_sensitivity(SEASON, np.zeros(2))


def test_figures_of_bounds_directions_and_bands(of_ishigami):
    axis = plot_sensitivity.bars(of_ishigami).axes[0]
    widths = [patch.get_width() for patch in axis.containers[0].patches]
    np.testing.assert_allclose(widths, of_ishigami["total_bound"].sel(parameter=ranked(of_ishigami)).values[:, 0])
    shares, directions = plot_sensitivity.subspace(of_ishigami).axes
    eigenvalues = of_ishigami["eigenvalue"].values[:, 0]
    np.testing.assert_allclose(shares.containers[0].lines[0].get_ydata(), eigenvalues / eigenvalues.sum())
    assert len(directions.containers) == 2
    draws = local_sensitivity(SEASON, np.random.default_rng(0).standard_normal((16, 3)))
    lines = plot_sensitivity.over_time(draws, "flux").axes[0].lines
    assert [line.get_label() for line in lines][:2] == ["offset", "amplitude"]
    np.testing.assert_allclose(lines[0].get_ydata(), draws["sensitivity"].sel(element="offset").values[:730])
