"""What analyses of sensitivity say of outputs without variation or definition, of defaults that fail, and to the wrong figure."""

import jax.numpy as jnp
import numpy as np
import pytest
from test_sensitivity import BY_PFT, ISHIGAMI_PROBLEM, SEASON, SERIES, problem_of, uniform

from landcal_jax import plot_sensitivity
from landcal_jax.findings import sentences
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter
from landcal_jax.sensitivity import kept_runs, morris, one_at_a_time, ranked, screened, sobol
from landcal_jax.sensitivity_gradient import gradient_sensitivity, local_sensitivity


def test_what_varies_by_rounding_alone_neither_ranks_nor_screens():
    def function(theta):
        return {"y": (theta["a"] + 0.8 * theta["c"]).reshape(1, 1), "snow": ((theta["b"] + 0.1) - theta["b"]).reshape(1, 1)}

    streams = {name: Stream(np.zeros((1, 1)), 1.0) for name in ("y", "snow")}
    problem = problem_of(function, uniform(0.0, 1.0, ["a", "b", "c", "d"]), streams)
    for ds in (morris(problem, runs=100, key=0), sobol(problem, runs=640, key=0), one_at_a_time(problem)):
        assert np.isnan(ds[ds.attrs["measure"]].sel(output="snow")).all() and np.isfinite(ds[ds.attrs["measure"]].sel(output="y")).all()
        assert any("nothing is sensitive: snow" in line for line in sentences(ds))
        assert screened(problem.space, ds, number=2).labels == screened(problem.space, ds).labels == ("a", "c")
        assert ranked(ds)[:2] == ["a", "c"]


def test_an_output_that_is_undefined_in_a_run_is_no_failed_run():
    def function(theta):
        return {"y": jnp.where(theta["a"] > 0.9, jnp.nan, jnp.stack([jnp.where(theta["b"] > 0.5, jnp.nan, theta["a"]), theta["b"]]))[None]}

    problem = problem_of(function, uniform(0.0, 1.0, ["a", "b"]), {"y": Stream(np.zeros(2), 1.0)})
    ds = sobol(problem, runs=6 * 64, key=0, keep_runs=True)
    lost, undefined = (np.isnan(ds["value"].values)).all(axis=1), np.isnan(ds["value"].values[:, 0])
    assert 0 < ds.attrs["failed_runs"] == lost.sum() < undefined.sum()
    assert any(f"that did not fail, of {384 - lost.sum()}: y[0] ({undefined.sum() - lost.sum()})." in line for line in sentences(ds))


def test_defaults_that_fail_are_said():
    problem = problem_of(lambda theta: {"y": jnp.where(jnp.abs(theta["a"] - 0.5) < 1e-3, jnp.nan, theta["a"] + theta["b"]).reshape(1, 1)},
                         {"a": Parameter.uniform(0.0, 1.0, default=0.5), "b": Parameter.uniform(0.0, 1.0)})
    ds = one_at_a_time(problem)
    assert np.isnan(ds["range"]).all() and any("The run at the defaults failed" in line for line in sentences(ds))
    assert screened(problem.space, ds, number=1).labels == ("a", "b")  # nothing was ruled out


def test_what_parameters_do_together_is_said_with_its_interval():
    def said(function):
        ds = sobol(problem_of(function, uniform(0.0, 1.0, ["a", "b"])), runs=6 * 256, key=0)
        return ds["alone"].item(), ds["alone_interval"].item(), [line for line in sentences(ds) if "do together" in line]

    alone, half, lines = said(lambda theta: {"y": (theta["a"] + theta["b"]).reshape(1, 1)})
    assert abs(alone - 1) < half and not lines
    # (a - 1/2) (b - 1/2) + (a + b) / 4 and a constant: variances 1/144, and 1/192 twice.
    alone, half, lines = said(lambda theta: {"y": ((theta["a"] - 0.25) * (theta["b"] - 0.25)).reshape(1, 1)})
    assert abs(alone - 0.6) < half and f"{alone:.0%} ± {half:.0%}" in lines[0]


def test_a_result_does_not_free_parameters_by_accident():
    ds = morris(ISHIGAMI_PROBLEM, runs=40, key=0)
    with pytest.raises(TypeError, match=r"screened\(space, ds\)"):
        ISHIGAMI_PROBLEM.space.free(ds)
    for number in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="one or more"):
            screened(ISHIGAMI_PROBLEM.space, ds, number=number)


def test_kept_runs_are_those_of_the_streams():
    ds = morris(SEASON, runs=16, key=0, keep_runs=True)
    z, values = kept_runs(SEASON, ds)
    for name, of_runs in SEASON.ensemble(z).items():
        seen = np.isfinite(values[name])
        np.testing.assert_allclose(values[name][seen], np.asarray(of_runs)[seen], rtol=1e-12)
        assert seen.all() or not seen.any(axis=0).all()
    flux = SEASON.with_observations(Observations({"flux": SERIES["flux"]}))
    for other in (ds.drop_vars("value"), morris(flux, runs=16, key=0, mean="season", keep_runs=True)):
        with pytest.raises(ValueError, match="without mean="):
            kept_runs(SEASON, other)


def test_figures_say_in_words_which_result_they_need():
    flat = problem_of(lambda theta: {"y": (0 * theta["a"] + 0.1).reshape(1, 1)}, uniform(0.0, 1.0, ["a", "b"]))
    of_flat, single = morris(flat, runs=30, key=0), one_at_a_time(BY_PFT)
    local = local_sensitivity(flat)
    for figure, words in ((lambda: plot_sensitivity.morris_plane(of_flat), "varies from run to run"),
                          (lambda: plot_sensitivity.subspace(gradient_sensitivity(flat, runs=4, key=0)), "varies from run to run"),
                          (lambda: plot_sensitivity.butterfly(single, names=["x"]), "parameter of this dataset"),
                          (lambda: plot_sensitivity.by_output(local), "over_time"), (lambda: plot_sensitivity.bars(local), "over_time"),
                          (lambda: plot_sensitivity.interactions(of_flat), "second_order=True"),
                          (lambda: plot_sensitivity.morris_plane(single), "a result of morris")):
        with pytest.raises(ValueError, match=words):
            figure()
