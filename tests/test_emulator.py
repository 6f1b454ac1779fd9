"""Emulators of scalars and series: error, refusal, J, and solvers and samplers that take them for the model."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtr

from landcal_jax import plot_emulator
from landcal_jax.emulator import emulate, latin_hypercube
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LBFGS, LevenbergMarquardt
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.solving import solve

TIME = np.datetime64("2001-01-01") + np.arange(40).astype("timedelta64[D]")
AXIS = jnp.linspace(0.0, 1.0, 40)
MASK = np.random.default_rng(0).random((1, 40)) < 0.7


def model(theta):
    a, b = theta["a"], theta["b"]
    # The last day is of no run finite, and nobody saw it.
    flux = (jnp.sin(6.0 * AXIS * (0.5 + a)) + b * AXIS).at[-1].set(jnp.nan)
    return {"flux": flux[None], "total": (a * b + a)[None, None], "constant": jnp.ones((1, 1))}


def made(*streams):
    space = ParameterSpace({"a": Parameter.uniform(0.0, 1.0), "b": Parameter.normal(0.0, 1.0)})
    truth = space.physical(jnp.array([0.3, 0.4]))
    mask = {"flux": MASK & (np.arange(40) < 39), "total": True, "constant": True}
    noise = 0.1 * np.random.default_rng(1).standard_normal((1, 40))
    observed = {name: Stream(np.nan_to_num(model(truth)[name]) + (noise if name == "flux" else 0.0), 0.1, mask=mask[name],
                             time=TIME if name == "flux" else None) for name in streams}
    return Problem(space, FunctionForward(model), Observations(observed))


@pytest.fixture(scope="module")
def problem():
    return made("flux", "total")


@pytest.fixture(scope="module")
def emulator(problem):
    return emulate(problem, latin_hypercube(problem, 40, key=0), keep=0.999)


@pytest.fixture(scope="module")
def checked(emulator):
    return emulator.check()


def test_a_latin_hypercube_has_one_run_in_each_share_of_the_prior(problem):
    Z = latin_hypercube(problem, 25, key=3)
    assert np.array_equal(np.sort(np.floor(25 * ndtr(Z)).astype(int), axis=0), np.tile(np.arange(25), (2, 1)).T)
    assert np.array_equal(Z, latin_hypercube(problem, 25, key=3))


def test_it_gives_what_the_model_gives_within_the_error_that_it_says(problem, emulator):
    Z = 0.8 * np.asarray(problem.space.sample(jnp.array([0, 7], jnp.uint32), 200))
    true = problem.ensemble(Z)
    mean, variance = emulator.mean_variance(jnp.asarray(Z))
    for name, stream in problem.observations.items():
        seen = np.asarray(stream.mask)
        error = (true[name] - np.asarray(mean[name]))[:, seen]
        assert 1 - np.mean(error**2) / np.var(true[name][:, seen]) > 0.98
        assert 0.88 < np.mean(np.abs(error) < 1.96 * np.sqrt(np.asarray(variance[name]))[:, seen]) <= 1.0


def test_the_map_and_its_covariance_are_those_of_mean_and_variance(problem, emulator):
    z = jnp.array([0.2, -0.5])
    theta, streams = problem.space.physical(z), dict.fromkeys(problem.observations)
    values, errors = emulator(theta, streams), emulator.covariance(theta, streams)
    mean, variance = emulator.mean_variance(z)
    for name in streams:
        error = errors[name]
        whole = error.diagonal + jnp.tensordot(error.variances, error.basis**2, 1)
        assert np.allclose(values[name], mean[name], equal_nan=True)
        assert np.allclose(whole, variance[name], equal_nan=True)
        assert np.allclose(whole, emulator.variance(theta)[name], equal_nan=True)
    assert len(errors["total"].variances) == 0
    assert len(errors["flux"].variances) > 1
    assert np.isnan(values["flux"][0, -1])
    assert np.isfinite(values["flux"][0, :-1]).all()


def test_checks_are_those_of_leaving_one_out(emulator, checked):
    mean, variance = emulator.processes.leave_one_out()
    y = emulator.processes.y
    assert np.allclose(checked["r2"], 1 - np.sum((y - mean) ** 2, axis=0) / np.sum((y - y.mean(axis=0)) ** 2, axis=0))
    assert np.allclose(checked["coverage"], np.mean(np.abs(y - mean) < 1.959964 * np.sqrt(variance), axis=0))
    assert (checked["stream_r2"] > 0.98).all()
    assert list(checked["output"].values) == [*[f"flux {n + 1}" for n in range(checked.sizes["output"] - 1)], "total"]
    assert float(checked["truncated"].sel(stream="flux")) <= 1e-3
    assert "40 runs of 2 parameters" in checked.attrs["verdict"]
    figure = plot_emulator.leave_one_out(checked, ["flux 1", "total"])
    assert [axis.get_title(loc="left").split(":")[0] for axis in figure.axes] == ["flux 1", "total"]


def test_solvers_find_the_minimum_of_the_model_through_it(problem, emulator):
    exact = solve(problem, LevenbergMarquardt(), progress=False).z
    mean_only = solve(problem.with_forward(emulator.mean_only()), LevenbergMarquardt(), progress=False).z
    with_error = solve(problem.with_forward(emulator), LBFGS(), progress=False).z
    assert np.allclose(mean_only, exact, atol=0.05)
    assert np.allclose(with_error, exact, atol=0.05)


@pytest.mark.slow
def test_nuts_samples_the_posterior_through_it(problem, emulator):
    exact = solve(problem, LevenbergMarquardt(), progress=False).z
    draws = nuts(problem.with_forward(emulator), exact, draws=150, warmup=6, key=0, progress=False).matrix()
    theta = problem.space.flatten(problem.space.physical(exact))
    assert (np.abs(draws.mean(axis=0) - theta) < draws.std(axis=0)).all()


def test_what_was_not_learned_is_refused():
    problem = made("flux", "constant")
    Z = latin_hypercube(problem, 40, key=1)
    values = problem.ensemble(Z)
    noise = np.random.default_rng(2).standard_normal((40, 1, 1))
    learned = emulate(problem, Z, values)
    assert set(learned.refused) == {"constant"}
    with pytest.raises(ValueError, match="the same in all 40 runs"):
        problem.with_forward(learned).predict(jnp.zeros(2))
    total = made("total")
    useless = emulate(total, Z, {"total": noise})
    assert "R2" in useless.refused["total"]
    refusal = useless.check()
    assert "total is refused" in refusal.attrs["verdict"]
    assert "The emulator is refused: it learned nothing" in refusal.attrs["verdict"]
    assert not refusal["learned"].any()
    assert "The emulator is refused" not in learned.check().attrs["verdict"]
    with pytest.raises(ValueError, match="leave-one-out R2"):
        total.with_forward(useless).cost(jnp.zeros(2))
    with pytest.raises(ValueError, match="streams that vary"):
        emulate(made("constant"), Z)


def test_runs_that_failed_are_left_out_and_counted(problem):
    Z = latin_hypercube(problem, 40, key=0)
    values = problem.ensemble(Z)
    values = {name: np.where(np.isin(np.arange(40), [3, 8])[:, None, None], np.nan, array) for name, array in values.items()}
    emulator = emulate(problem, Z, values, keep=0.999)
    assert emulator.failed == 2
    assert emulator.z.shape == (38, 2)
    assert "2 more failed" in emulator.check().attrs["verdict"]
    with pytest.raises(ValueError, match="none of 40"):
        emulate(problem, Z, {name: np.full_like(array, np.nan) for name, array in values.items()})


def test_it_says_where_it_extrapolates(problem, emulator):
    assert emulator.caveats(problem.space.physical(jnp.zeros(2))) == ()
    assert "b outside of its 40 runs" in emulator.caveats(problem.space.physical(jnp.array([0.0, 4.0])))[0]


def test_values_of_another_shape_and_unknown_streams_are_refused(problem, emulator):
    Z = latin_hypercube(problem, 40, key=0)
    with pytest.raises(ValueError, match=r"\(40, 1, 40\)"):
        emulate(problem, Z, {"flux": np.zeros((40, 3)), "total": np.zeros((40, 1, 1))})
    with pytest.raises(ValueError, match="a stream of the emulator"):
        emulator(problem.space.physical(jnp.zeros(2)), {"snow": None})
