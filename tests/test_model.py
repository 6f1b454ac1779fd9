"""The loop over a model: a linear model of two pools whose runs, steady states and derivatives are known in closed form."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.model import AbstractModel, equilibrium, simulate
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.parameters import Parameter
from landcal_jax.weather import BOREAL, weather

NAMES = ("supply", "fast_rate", "share", "slow_rate", "fast_0", "slow_0")
THETA = dict(zip(NAMES, map(jnp.asarray, (2.0, 0.05, 0.3, 1e-3, 40.0, 7.0)), strict=True))


class Forcing(NamedTuple):
    season: jax.Array
    warmth: jax.Array


class Pools(NamedTuple):
    fast: jax.Array
    slow: jax.Array


class Output(NamedTuple):
    lost: jax.Array
    total: jax.Array


class TwoPools(AbstractModel):
    """fast' = fast + supply season - fast_rate fast; slow' = slow + share fast_rate fast - slow_rate slow."""

    parameter_names = NAMES
    output_units = {"lost": "gC m-2 d-1", "total": "gC m-2"}

    def parameters(self):
        return {name: Parameter.log_normal(float(value), 0.2) for name, value in THETA.items()}

    def forcing(self, dataset):
        return Forcing(jnp.asarray(dataset["season"].values), jnp.zeros(dataset.sizes["time"]))

    def initial_state(self, theta):
        return Pools(theta["fast_0"], theta["slow_0"])

    def step(self, constants, state, inputs):
        decay, loss = constants["fast_rate"] * state.fast, constants["slow_rate"] * state.slow
        fed = constants["supply"] * inputs.season
        kept = constants["share"] * decay
        # The sine makes it not linear, where the forcing has warmth.
        respired = decay - kept + loss + inputs.warmth * jnp.sin(state.fast)
        return Pools(state.fast + fed - decay, state.slow + kept - loss), Output(respired, state.fast + state.slow)


MODEL = TwoPools()


def constant_season(steps):
    return Forcing(jnp.ones(steps), jnp.zeros(steps))


def varied_season(steps):
    rng = np.random.default_rng(0)
    return Forcing(jnp.asarray(1 + 0.5 * rng.standard_normal(steps)), jnp.asarray(rng.random(steps)))


def transition(theta):
    """Matrix and vector of one step with a season of one."""
    k, s, h = (float(theta[name]) for name in ("fast_rate", "slow_rate", "share"))
    return np.array([[1 - k, 0.0], [h * k, 1 - s]]), np.array([float(theta["supply"]), 0.0])


run = jax.jit(simulate, static_argnames=("save", "checkpoint"))


# ---------------------------------------------------------------------------------------------------------- simulate


def test_a_run_is_the_closed_form():
    found = run(MODEL, THETA, constant_season(150))
    A, b = transition(THETA)
    steady = np.linalg.solve(np.eye(2) - A, b)
    start = np.array([40.0, 7.0])
    expected = np.array([steady + np.linalg.matrix_power(A, n) @ (start - steady) for n in range(151)])
    np.testing.assert_allclose(np.stack(found.state, axis=1), expected, rtol=1e-13)
    np.testing.assert_allclose(found.output.total, expected[:-1].sum(axis=1), rtol=1e-13)
    np.testing.assert_allclose(found.output.lost, expected[:-1] @ [0.7 * 0.05, 1e-3], rtol=1e-13)
    assert found.theta == THETA
    np.testing.assert_array_equal(found.forcing.season, np.ones(150))


def test_a_run_starts_where_it_is_told():
    begun = run(MODEL, THETA, constant_season(40))
    rest = run(MODEL, THETA, constant_season(60), initial_state=Pools(begun.state.fast[-1], begun.state.slow[-1]))
    whole = run(MODEL, THETA, constant_season(100))
    np.testing.assert_allclose(rest.output.total, whole.output.total[40:], rtol=1e-14)
    # Whole numbers are a state too.
    assert run(MODEL, THETA, constant_season(5), initial_state=Pools(1, 2)).state.fast.dtype == np.float64


def test_only_what_is_wanted_is_kept():
    forcing = constant_season(10)
    everything = run(MODEL, THETA, forcing)
    lost = run(MODEL, THETA, forcing, save=("lost",))
    assert lost.state is None and lost.output.total is None
    np.testing.assert_array_equal(lost.output.lost, everything.output.lost)
    state = run(MODEL, THETA, forcing, save=("state",))
    assert state.output == Output(None, None)
    np.testing.assert_array_equal(state.state.slow, everything.state.slow)
    assert run(MODEL, THETA, forcing, save=()).output == Output(None, None)
    with pytest.raises(ValueError, match="(?s)lost, total or state.*Got: +gpp, lai"):
        simulate(MODEL, THETA, forcing, save=("lost", "lai", "gpp"))


@partial(jax.jit, static_argnames="checkpoint")
def all_derivatives(theta, forcing, checkpoint):
    def outcome(theta):
        kept = simulate(MODEL, theta, forcing, checkpoint=checkpoint)
        return jnp.concatenate([kept.output.lost, kept.state.slow])

    def cost(theta):
        return jnp.sum(outcome(theta) ** 2)

    return outcome(theta), jax.grad(cost)(theta), jax.jacfwd(outcome)(theta), jax.hessian(cost)(theta)


@pytest.mark.parametrize(("steps", "checkpoint"), [(150, 64), (150, 50), (150, 1), (10, 64)])
def test_memory_policy_changes_no_number(steps, checkpoint):
    forcing = varied_season(steps)
    plain = jax.tree.leaves(all_derivatives(THETA, forcing, None))
    for expected, found in zip(plain, jax.tree.leaves(all_derivatives(THETA, forcing, checkpoint)), strict=True):
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13 * np.abs(expected).max())


# ------------------------------------------------------------------------------------------------------- equilibrium


def steady(theta):
    """Closed form of the steady state under a constant season."""
    return jnp.stack([
        theta["supply"] / theta["fast_rate"], theta["share"] * theta["supply"] / theta["slow_rate"]])


@jax.jit
def spun_up(theta):
    return jnp.stack(equilibrium(MODEL, theta, constant_season(365), cycles=3))


@jax.jit
def spun_up_derivatives(logs):
    def state(logs):
        return jnp.log(jnp.stack(equilibrium(MODEL, jax.tree.map(jnp.exp, logs), constant_season(365), cycles=3)))

    def weighted(logs):
        return state(logs) @ jnp.array([1.0, 3.0])

    return jax.jacfwd(state)(logs), jax.jacrev(state)(logs), jax.jacfwd(jax.grad(weighted))(logs)


@pytest.mark.parametrize("slow_rate", [1e-3, 1e-7])
def test_spin_up_is_the_closed_form(slow_rate):
    theta = THETA | {"slow_rate": jnp.asarray(slow_rate)}
    np.testing.assert_allclose(spun_up(theta), steady(theta), rtol=1e-9)


def test_an_empty_pool_is_an_equilibrium_too():
    theta = THETA | {"share": jnp.asarray(0.0), "slow_0": jnp.asarray(0.0)}
    np.testing.assert_allclose(spun_up(theta), [40.0, 0.0], rtol=1e-9)


def test_spin_up_has_exact_first_and_second_derivatives():
    # Of logarithms by logarithms the derivatives are whole numbers, and the second ones are zero ...
    theta = THETA | {"slow_rate": jnp.asarray(1e-7)}
    forward, reverse, second = spun_up_derivatives(jax.tree.map(jnp.log, theta))
    expected = {"supply": (1, 1), "fast_rate": (-1, 0), "share": (0, 1), "slow_rate": (0, -1), "fast_0": (0, 0), "slow_0": (0, 0)}
    for name in NAMES:
        np.testing.assert_allclose(forward[name], expected[name], atol=1e-8)
        np.testing.assert_allclose(reverse[name], expected[name], atol=1e-8)
        np.testing.assert_allclose([second[name][other] for other in NAMES], 0.0, atol=1e-6)
    # ... while that of the pool itself by its rate is not.
    curvature = jax.grad(jax.grad(lambda rate: equilibrium(MODEL, theta | {"slow_rate": rate}, constant_season(365), cycles=3).slow))
    np.testing.assert_allclose(jax.jit(curvature)(jnp.asarray(1e-3)), 2 * 0.6 / 1e-9, rtol=1e-8)


def test_a_model_without_equilibrium_is_a_failed_run_that_harms_no_other():
    @jax.jit
    def members(rates):
        def slow(rate):
            return equilibrium(MODEL, THETA | {"slow_rate": rate}, constant_season(365), cycles=3).slow
        return jax.vmap(slow)(rates), jax.vmap(jax.grad(slow))(rates)

    values, gradients = members(jnp.array([1e-3, 0.0, 1e-2]))
    np.testing.assert_allclose(values, [600.0, np.nan, 60.0], rtol=1e-9)
    np.testing.assert_allclose(gradients[::2], [-6e5, -6e3], rtol=1e-9)
    assert not np.isfinite(gradients[1])


@pytest.mark.parametrize("model", [Dalec2(step_days=30.4375), DalecWater(step_days=30.4375)], ids=["carbon", "water"])
def test_dalec_comes_back_after_a_cycle(model):
    months = weather(BOREAL, years=3).resample(time="MS").mean(keep_attrs=True)
    forcing = model.forcing(months)

    @jax.jit
    def cycle(theta):
        start = equilibrium(model, theta, forcing)
        again = simulate(model, theta, forcing, initial_state=start, save=("state",)).state
        return jnp.stack(start), jnp.stack([pool[-1] for pool in again])

    space = {name: parameter.default for name, parameter in model.parameters().items()}
    start, after = cycle(space | {"som_turnover": jnp.asarray(1e-7)})
    assert np.isfinite(start).all()
    np.testing.assert_allclose(after, start, rtol=1e-8)
    assert start[5] > 1e5  # the soil of such a slow turnover is far from its first guess
