"""Sensitivity from runs alone: analytic indices, SALib's own results, groups, failed runs, seasons, and screening that carries over."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from SALib.analyze import morris as salib_morris
from SALib.analyze import sobol as salib_sobol
from scipy.special import ndtr

from landcal_jax import metrics, plot_sensitivity
from landcal_jax.blackbox import BlackBoxForward
from landcal_jax.forward import FunctionForward
from landcal_jax.identifying import sentences
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sensitivity import influence, morris, one_at_a_time, ranked, screened, sobol
from landcal_jax.sensitivity_indices import sobol_indices

A, B = 7.0, 0.1
# Ishigami and Homma (1990): variances of the parts of sin x1 + a sin^2 x2 + b x3^4 sin x1 with x uniform in (-pi, pi).
V1, V2, V13 = 0.5 * (1 + B * np.pi**4 / 5) ** 2, A**2 / 8, 8 * B**2 * np.pi**8 / 225
ISHIGAMI = {"first": np.array([V1, V2, 0]) / (V1 + V2 + V13), "total": np.array([V1 + V13, V2, V13]) / (V1 + V2 + V13)}
G = np.array([0.0, 1.0, 4.5, 9.0, 99.0, 99.0])


def ishigami(theta):
    x1, x2, x3 = (theta[f"x{i}"] for i in (1, 2, 3))
    return {"y": (jnp.sin(x1) + A * jnp.sin(x2) ** 2 + B * x3**4 * jnp.sin(x1)).reshape(1, 1)}


def g_function(theta):
    """Sobol' (1993): the product of (|4 u - 2| + a) / (1 + a) over u uniform in (0, 1)."""
    u = jnp.stack([theta[f"x{i}"] for i in range(len(G))])
    return {"y": jnp.prod((jnp.abs(4 * u - 2) + G) / (1 + G)).reshape(1, 1)}


def problem_of(function, parameters, streams=None, **space):
    return Problem(ParameterSpace(parameters, **space), FunctionForward(function),
                   Observations(streams or {"y": Stream(np.zeros((1, 1)), 1.0)}))


def uniform(low, high, names):
    return {name: Parameter.uniform(low, high) for name in names}


ISHIGAMI_PROBLEM = problem_of(ishigami, uniform(-np.pi, np.pi, ["x1", "x2", "x3"]))
DAYS = np.datetime64("2003-01-01") + np.arange(730)
SERIES = {"flux": Stream(np.zeros(730), 1.0, time=DAYS, units="gC m-2 d-1"), "stock": Stream(np.zeros(3), 1.0)}


def season(theta):
    """A flux with an amplitude that matters in summer, an offset that always does, and a stock that knows of `idle` alone."""
    day = jnp.arange(730)
    summer = jnp.maximum(jnp.sin(2 * jnp.pi * (day - 80) / 365.25), 0.0)
    flux = theta["offset"] + theta["amplitude"] * summer + 0.3 * theta["offset"] * theta["amplitude"] * summer
    return {"flux": flux[None], "stock": theta["idle"] * jnp.ones((1, 3))}


SEASON = problem_of(season, {"offset": Parameter.normal(0.0, 0.5), "amplitude": Parameter.uniform(0.0, 4.0),
                             "idle": Parameter.log_uniform(1.0, 100.0)}, SERIES)


@pytest.fixture(scope="module")
def of_season():
    return sobol(SEASON, runs=8 * 64, key=1, keep_runs=True)


# -------------------------------------------------------------------------------------------------------------- closed forms


def within(ds, name, exact):
    difference = np.abs(ds[name].values[:, 0] - exact)
    return difference <= ds[f"{name}_interval"].values[:, 0]


def test_sobol_of_ishigami_is_within_its_intervals_of_the_analytic_indices():
    ds = sobol(ISHIGAMI_PROBLEM, runs=20_000, key=0)
    assert ds.attrs["runs"] == 2048 * 8 <= ds.attrs["budget"]
    for name, exact in ISHIGAMI.items():
        assert within(ds, name, exact).all(), name
        assert ds[f"{name}_interval"].max() < 0.08
    second = ds["second"].values[:, :, 0]
    exact = np.zeros((3, 3))
    exact[0, 2] = exact[2, 0] = V13 / (V1 + V2 + V13)
    off = ~np.eye(3, dtype=bool)
    assert (np.abs(second - exact) <= ds["second_interval"].values[:, :, 0])[off].all()
    assert np.isnan(np.diag(second)).all()


def test_sobol_of_the_g_function_is_within_its_intervals_of_the_analytic_indices():
    ds = sobol(problem_of(g_function, uniform(0.0, 1.0, [f"x{i}" for i in range(6)])), runs=2048 * 8, key=2, second_order=False)
    part = 1 / (3 * (1 + G) ** 2)
    variance = np.prod(1 + part) - 1
    assert within(ds, "first", part / variance).all()
    assert within(ds, "total", part * np.prod(1 + part) / (1 + part) / variance).all()
    assert "second" not in ds


def test_morris_of_a_linear_model_is_its_slopes():
    problem = problem_of(lambda theta: {"y": (3 * theta["a"] - 5 * theta["b"]).reshape(1, 1)},
                         {"a": Parameter.uniform(0.0, 1.0), "b": Parameter.uniform(2.0, 4.0), "c": Parameter.uniform(0.0, 1.0)})
    ds = morris(problem, runs=43, key=0, tail=0.05)
    assert ds.attrs["runs"] == 40
    # An effect is per length of the grid, which holds 0.9 of the prior.
    np.testing.assert_allclose(ds["mu"].values[:, 0], 0.9 * np.array([3.0, -10.0, 0.0]), atol=1e-10)
    np.testing.assert_allclose(ds["mu_star"].values[:, 0], 0.9 * np.array([3.0, 10.0, 0.0]), atol=1e-10)
    np.testing.assert_allclose(ds["sigma"].values[:, 0], 0.0, atol=1e-10)


# ------------------------------------------------------------------------------------------------------------- SALib's own results


def same_as_salib(ds, own, output, names):
    for name, theirs in names.items():
        np.testing.assert_allclose(ds[name].values[..., output], own[theirs], rtol=1e-9, atol=1e-12, err_msg=name)


MORRIS = {"mu": "mu", "mu_star": "mu_star", "sigma": "sigma", "mu_star_interval": "mu_star_conf"}
SOBOL = {"first": "S1", "first_interval": "S1_conf", "total": "ST", "total_interval": "ST_conf"}


def test_sobol_of_many_outputs_is_what_salib_finds_for_each(of_season):
    assert of_season.sizes["output"] == 733
    said = {"num_vars": 3, "names": list(SEASON.space.labels), "bounds": [[0, 1]] * 3}
    for output in (0, 180, 400, 731):
        own = salib_sobol.analyze(said, of_season["value"].values[:, output], seed=of_season.attrs["seed"])
        same_as_salib(of_season, own, output, SOBOL)
        upper = np.triu_indices(3, 1)
        np.testing.assert_allclose(of_season["second"].values[..., output][upper], own["S2"][upper], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(of_season["second_interval"].values[..., output][upper], own["S2_conf"][upper], rtol=1e-9, atol=1e-10)


def test_morris_is_what_salib_finds_for_the_same_design():
    ds = morris(SEASON, runs=60, key=3, keep_runs=True)
    U = ndtr(ds["z"].values)
    said = {"num_vars": 3, "names": list(SEASON.space.labels), "bounds": [[0.01, 0.99]] * 3}
    for output in (10, 200, 731):
        same_as_salib(ds, salib_morris.analyze(said, U, ds["value"].values[:, output], seed=ds.attrs["seed"]), output, MORRIS)


def pfts(theta):
    return {"y": (jnp.sum(theta["k"] * jnp.array([1.0, 2.0, 0.0])) + theta["c"] ** 2 * theta["d"]).reshape(1, 1)}


BY_PFT = problem_of(
    pfts, {"k": Parameter.uniform(0.0, 1.0, dims="pft"), "c": Parameter.uniform(0.0, 2.0), "d": Parameter.uniform(0.0, 1.0)},
    coords={"pft": ["DBF", "ENF", "EBF"]})
GROUPS = {"k": ["k"], "both": ["c", "d"]}


def test_groups_and_dims_are_what_salib_makes_of_groups():
    said = {"num_vars": 5, "names": list(BY_PFT.space.labels), "bounds": [[0.01, 0.99]] * 5, "groups": ["k", "k", "k", "both", "both"]}
    ds = morris(BY_PFT, runs=30, key=0, groups=GROUPS, keep_runs=True)
    assert list(ds["parameter"].values) == ["k", "both"] and ds.attrs["runs"] == 30
    own = salib_morris.analyze(said, ndtr(ds["z"].values), ds["value"].values[:, 0], seed=ds.attrs["seed"])
    same_as_salib(ds, own, 0, MORRIS)
    assert np.isnan(ds["sigma"]).all()
    ds = sobol(BY_PFT, runs=6 * 32, key=0, groups=GROUPS, keep_runs=True)
    own = salib_sobol.analyze(said, ds["value"].values[:, 0], seed=ds.attrs["seed"])
    same_as_salib(ds, own, 0, SOBOL)


def test_elements_of_a_parameter_with_dims_count_by_themselves():
    ds = sobol(BY_PFT, runs=12 * 256, key=0)
    assert list(ds["parameter"].values) == ["k[DBF]", "k[ENF]", "k[EBF]", "c", "d"]
    assert ds["total"].sel(parameter="k[EBF]").item() < 1e-12 < ds["total"].sel(parameter="k[DBF]").item()
    part = screened(BY_PFT.space, ds)
    assert part.labels == ("k[DBF]", "k[ENF]", "c", "d")


# ------------------------------------------------------------------------------------------------------------------- failed runs


def fails_above(limit):
    """Ishigami, which fails where x1 is above `limit`."""
    return problem_of(lambda theta: {"y": jnp.where(theta["x1"] > limit, jnp.nan, ishigami(theta)["y"])},
                      uniform(-np.pi, np.pi, ["x1", "x2", "x3"]))


def test_failed_runs_are_counted_and_only_what_needs_them_is_left_out():
    ds = sobol(fails_above(3.0), runs=1024 * 8, key=0, keep_runs=True)
    lost = np.isnan(ds["value"].values[:, 0])
    assert ds.attrs["failed_runs"] == lost.sum() > 100
    assert any(f"{lost.sum()} of 8192 runs failed, at x1" in line for line in sentences(ds))
    rows = lost.reshape(1024, 8)
    np.testing.assert_array_equal(ds["rows"].values[:, 0], [(~rows[:, [0, 7, 1 + j]].any(axis=1)).sum() for j in range(3)])
    np.testing.assert_allclose(ds["total"].values[:, 0], ISHIGAMI["total"], atol=0.1)


def test_sobol_without_a_whole_row_is_salib_without_that_row(of_season):
    values = of_season["value"].values[:, [100, 500]].copy()
    values[8 * 5 : 8 * 6] = np.nan
    found = sobol_indices(values, 3, second_order=True, seed=4, resamples=20, level=0.95)
    said = {"num_vars": 3, "names": list(SEASON.space.labels), "bounds": [[0, 1]] * 3}
    for output in (0, 1):
        own = salib_sobol.analyze(said, np.delete(values[:, output], range(40, 48)), seed=4)
        np.testing.assert_allclose(found.first[:, output], own["S1"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.total[:, output], own["ST"], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.second[0, 1, output], own["S2"][0, 1], rtol=1e-9, atol=1e-10)
    assert (found.rows == 63).all()


def test_morris_leaves_out_effects_next_to_a_failed_run():
    ds = morris(fails_above(3.0), runs=80, key=0, keep_runs=True)
    whole = morris(ISHIGAMI_PROBLEM, runs=80, key=0, keep_runs=True)
    lost = np.isnan(ds["value"].values[:, 0]).reshape(20, 4)
    assert 0 < lost.sum() == ds.attrs["failed_runs"]
    U, Y = ndtr(whole["z"].values).reshape(20, 4, 3), whole["value"].values[:, 0].reshape(20, 4)
    moved, effects = np.abs(np.diff(U, axis=1)).argmax(axis=2), [[], [], []]
    for t, k in np.ndindex(20, 3):
        if not lost[t, k : k + 2].any():
            j = moved[t, k]
            effects[j].append(abs(Y[t, k + 1] - Y[t, k]) / (2 / 3))
    np.testing.assert_array_equal(ds["effects"].values[:, 0], [len(each) for each in effects])
    np.testing.assert_allclose(ds["mu_star"].values[:, 0], [np.mean(each) for each in effects], rtol=1e-10)


def test_what_cannot_be_known_is_not_a_number_and_said():
    problem = problem_of(lambda theta: {"y": jnp.stack([theta["a"], 0 * theta["a"] + 0.1, theta["a"] * jnp.nan])[None]},
                         uniform(0.0, 1.0, ["a", "b"]), {"y": Stream(np.zeros(3), 1.0)})
    for ds, name in ((sobol(problem, runs=96, key=0), "total"), (morris(problem, runs=30, key=0), "mu_star")):
        assert ds.attrs["failed_runs"] == 0
        assert np.isfinite(ds[name].values[:, 0]).all() and np.isnan(ds[name].values[:, 2]).all()
        assert any("No run has y[2]" in line for line in sentences(ds))
        assert any("nothing is sensitive: y[1]" in line for line in sentences(ds))
    nothing = problem_of(lambda theta: {"y": theta["a"].reshape(1, 1) * jnp.nan}, uniform(0.0, 1.0, ["a", "b"]))
    with pytest.raises(RuntimeError, match="finite outputs"):
        morris(nothing, runs=30, key=0)


# ------------------------------------------------------------------------------------------------------- outputs and one at a time


def test_seasons_are_means_of_the_modelled_series(of_season):
    ds = morris(SEASON, runs=80, key=1, keep_runs=True)
    by_season = morris(SEASON.with_observations(Observations({"flux": SERIES["flux"]})), runs=80, key=1, mean="season", keep_runs=True)
    assert list(by_season["output"].values) == ["flux[DJF]", "flux[MAM]", "flux[JJA]", "flux[SON]"]
    assert (by_season["units"] == "gC m-2 d-1").all() and (by_season["stream"] == "flux").all()
    summer = np.isin(DAYS.astype("datetime64[M]").astype(int) % 12, [5, 6, 7])
    np.testing.assert_allclose(by_season["value"].sel(output="flux[JJA]"), ds["value"].values[:, :730][:, summer].mean(axis=1), rtol=1e-12)
    ratio = by_season["mu_star"].sel(parameter="amplitude") / by_season["mu_star"].sel(parameter="offset")
    assert ratio.sel(output="flux[JJA]") > 0.8 > 1e-3 > ratio.sel(output="flux[DJF]")
    assert of_season["time"].values[:730].astype("datetime64[D]").tolist() == DAYS.tolist()
    assert of_season["output"].values[[0, 732]].tolist() == ["flux[2003-01-01]", "stock[2]"]
    with pytest.raises(ValueError, match="times in the stream 'stock'"):
        morris(SEASON, runs=80, key=1, mean="season")
    with pytest.raises(ValueError, match="a mean over season"):
        morris(SEASON, runs=80, key=1, mean="week")


def test_padding_of_short_sites_is_no_output():
    time = np.stack([DAYS[:4], DAYS[:4]])
    time[1, 2:] = np.datetime64("NaT")
    stream = Stream(np.array([[0.0, np.nan, 0.0, 0.0], [0.0, 0.0, np.nan, np.nan]]), 1.0, time=time)
    problem = problem_of(lambda theta: {"y": theta["a"] * jnp.ones((2, 4))}, uniform(0.0, 1.0, ["a"]), {"y": stream})
    problem = problem.with_observations(Observations({"y": stream}, sites=["FR-Pue", "DK-Sor"]))
    ds = one_at_a_time(problem)
    assert ds["output"].values.tolist() == [f"y[FR-Pue,2003-01-0{d}]" for d in (1, 2, 3, 4)] + [f"y[DK-Sor,2003-01-0{d}]" for d in (1, 2)]
    assert one_at_a_time(problem, mean="record")["output"].values.tolist() == ["y[FR-Pue]", "y[DK-Sor]"]


def test_one_at_a_time_runs_default_minimum_and_maximum():
    names = {"a": Parameter.uniform(1.0, 5.0, default=2.0), "b": Parameter.normal(0.0, 3.0), "k": Parameter.uniform(0.0, 1.0, dims="pft")}
    problem = problem_of(lambda theta: {"y": (theta["a"] ** 2 + theta["b"] + 10 * theta["k"].sum()).reshape(1, 1)}, names,
                         coords={"pft": ["DBF", "ENF"]})
    ds = one_at_a_time(problem, tail=0.05, groups={"k": ["k"]})
    assert ds.attrs["runs"] == 7 and list(ds["parameter"].values) == ["a", "b", "k"]
    np.testing.assert_allclose(ds["default"], 4 + 10)
    np.testing.assert_allclose(ds["low"].values[:, 0], [1 - 4, -3 * 1.6448536, -10], rtol=1e-6)
    np.testing.assert_allclose(ds["high"].values[:, 0], [25 - 4, 3 * 1.6448536, 10], rtol=1e-6)
    np.testing.assert_allclose(ds["range"].values[:, 0], [24, 6 * 1.6448536, 20], rtol=1e-6)
    np.testing.assert_allclose(ds["maximum"], [5, 3 * 1.6448536, 1, 1], rtol=1e-6)


def test_one_at_a_time_moves_one_parameter_under_a_correlated_prior_too():
    space = {"correlation": np.array([[1.0, 0.9], [0.9, 1.0]])}
    problem = problem_of(lambda theta: {"y": (theta["a"] + 100 * theta["b"]).reshape(1, 1)}, uniform(0.0, 1.0, ["a", "b"]), **space)
    ds = one_at_a_time(problem)
    np.testing.assert_allclose(ds["high"].values[:, 0], [0.5, 50.0], rtol=1e-9)
    for method in (morris, sobol):
        with pytest.raises(ValueError, match="independent parameters"):
            method(problem, runs=100, key=0)


# ------------------------------------------------------------------------------------------------------------------- screening


def test_screening_carries_over_and_keeps_whole_groups():
    ds = morris(SEASON, runs=80, key=0)
    flux = ds.sel(output=ds["stream"] == "flux")
    assert screened(SEASON.space, flux).names == ("offset", "amplitude")
    assert screened(SEASON.space, ds).names == ("offset", "amplitude", "idle")
    assert screened(SEASON.space, flux, number=1).names == (ranked(flux)[0],)
    grouped = morris(BY_PFT, runs=60, key=0, groups=GROUPS)
    assert screened(BY_PFT.space, grouped, number=1).labels in (("k[DBF]", "k[ENF]", "k[EBF]"), ("c", "d"))
    assert json.loads(grouped.attrs["members"])["both"] == ["c", "d"]
    assert influence(flux).max() == 1.0
    with pytest.raises(ValueError, match="a result of morris"):
        influence(flux.drop_attrs())


def test_wrong_budgets_and_groups_are_refused():
    for method in (morris, sobol):
        with pytest.raises(TypeError, match="a number of runs"):
            method(SEASON, runs="690", key=0)
    for groups in (["offset"], {"one": "offset"}):
        with pytest.raises(TypeError, match="groups=|groups"):
            morris(SEASON, runs=80, key=0, groups=groups)
    with pytest.raises(ValueError, match="at least 8 runs"):
        morris(SEASON, runs=7, key=0)
    with pytest.raises(ValueError, match="at least 16 runs"):
        sobol(SEASON, runs=15, key=0)
    for groups, match in (({"one": ["offset"], "two": ["offset"]}, "in one group"), ({"offset": ["idle"]}, "no parameter outside"),
                          ({"one": ["ofset"]}, "offset")):
        with pytest.raises(ValueError, match=match):
            morris(SEASON, runs=80, key=0, groups=groups)
    with pytest.raises(ValueError, match="one free parameter in the group"):
        morris(problem_of(season, SEASON.space.parameters, SERIES, fixed={"idle": None}), runs=80, key=0, groups={"one": ["idle"]})


# ---------------------------------------------------------------------------------------------------- metrics, external models, figures


def test_metrics_and_external_models_are_outputs_like_any_other():
    flux = SEASON.with_observations(Observations({"flux": SERIES["flux"]}))
    problem = metrics.with_metrics(flux, {"flux_mean": metrics.Metric("flux", metrics.mean)}, key=0)
    of_metric, of_mean = morris(problem, runs=40, key=0), morris(flux, runs=40, key=0, mean="record")
    assert list(of_metric["output"].values) == ["flux_mean"] and list(of_mean["output"].values) == ["flux"]
    np.testing.assert_allclose(of_metric["mu_star"], of_mean["mu_star"], rtol=1e-10)

    def outside(theta):
        if theta["x1"] > 3:
            raise RuntimeError("too large")
        return {"y": np.array([np.sin(theta["x1"]) + A * np.sin(theta["x2"]) ** 2 + B * theta["x3"] ** 4 * np.sin(theta["x1"])])}

    external = ISHIGAMI_PROBLEM.with_forward(BlackBoxForward(outside, observations=ISHIGAMI_PROBLEM.observations))
    one, other = (sobol(problem, runs=8 * 16, key=0) for problem in (external, fails_above(3.0)))
    np.testing.assert_allclose(one["total"], other["total"], rtol=1e-6)
    assert one.attrs["failed_runs"] == other.attrs["failed_runs"] > 0
    assert any("too large" in line for line in sentences(one))


def bar_lengths(axis):
    return [[patch.get_width() for patch in bars] for bars in axis.containers if hasattr(bars, "patches")]


def test_figures_show_what_the_datasets_hold(of_season):
    found = sobol(ISHIGAMI_PROBLEM, runs=8 * 1024, key=0)
    figure = plot_sensitivity.bars(found)
    total, first = bar_lengths(figure.axes[0])
    order = ranked(found)
    np.testing.assert_allclose(total, found["total"].sel(parameter=order).values[:, 0])
    np.testing.assert_allclose(first, found["first"].sel(parameter=order).values[:, 0])
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == order
    matrix = plot_sensitivity.interactions(found, names=["x1", "x2", "x3"]).axes[0].images[0].get_array()
    np.testing.assert_allclose(np.diag(matrix), found["first"].values[:, 0])
    assert matrix.mask[0, 2] and not matrix.mask[2, 0]
    summer = plot_sensitivity.over_time(of_season, "flux", names=["offset"], smooth=5).axes[0]
    np.testing.assert_allclose(summer.lines[0].get_ydata()[100], of_season["total"].sel(parameter="offset").values[98:103].mean())
    plane = morris(ISHIGAMI_PROBLEM, runs=80, key=0)
    x = plot_sensitivity.morris_plane(plane).axes[0].containers[0].lines[0].get_xdata()
    np.testing.assert_allclose(x, plane["mu_star"].values[:, 0])
    assert plot_sensitivity.by_output(plane).axes[0].images[0].get_array().max() == 1.0
    wings = plot_sensitivity.butterfly(one_at_a_time(BY_PFT, groups=GROUPS), names=["k", "both"]).axes[0]
    np.testing.assert_allclose(bar_lengths(wings), [[-1.5, -0.5], [1.5, 3.5]])


def test_figures_refuse_what_they_cannot_show(of_season):
    with pytest.raises(ValueError, match="at most 30 outputs"):
        plot_sensitivity.by_output(of_season)
    with pytest.raises(ValueError, match="a series with times"):
        plot_sensitivity.over_time(of_season, "stock")
    with pytest.raises(ValueError, match="a output of this dataset|an output of this dataset"):
        plot_sensitivity.bars(of_season, ["gpp"])
    with pytest.raises(ValueError, match="in no group"):
        plot_sensitivity.morris_plane(morris(BY_PFT, runs=30, key=0, groups=GROUPS))
