"""The twin of `benchmarks/many_parameters`: 54 parameters by plant functional type, observations that are integrals over sites."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.testing import adjoint_dot_test, taylor_order

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import many_cases  # noqa: E402


@pytest.fixture(scope="module")
def design():
    return many_cases.design(sites_per_pft=1, years=1, stations=3)


@pytest.fixture(scope="module")
def twin(design):
    return many_cases.twin(design, 0)


def test_nine_parameters_of_six_types_are_free(design):
    space = design.problem.space
    assert space.size == 54 and len(space.names) == 9
    assert set(space.dims[name] for name in space.names) == {("pft",)}
    assert {name: space.dims[name] for name in many_cases.INITIAL_POOLS} == dict.fromkeys(many_cases.INITIAL_POOLS, ("site",))
    # Every method begins where the ensembles have their mean.
    np.testing.assert_allclose(space.default_z, 0.0, atol=1e-12)


def test_observations_are_integrals_over_sites_and_weeks(design, twin):
    integrals, nee = (np.asarray(array) for array in many_cases.clean(design, twin.z))
    weights = np.asarray(design.footprints.weights)
    weeks = 365 // 7
    assert nee.shape == (6, weeks) and integrals.shape == (3, weeks - 3)
    assert (weights > 0).all()  # no station without any site, no site without any station
    np.testing.assert_allclose(weights.sum(axis=2), np.broadcast_to(np.exp(-np.arange(4) / 2), (3, 4)))
    # One value by hand: station 2 in the week that is number 10 of its series, 13 of the model.
    by_hand = 7 * many_cases.PPM_PER_CARBON * sum(weights[1, lag] @ nee[:, 13 - lag] for lag in range(4))
    np.testing.assert_allclose(integrals[1, 10], by_hand, rtol=1e-12)
    assert many_cases.PPM_PER_CARBON == pytest.approx(0.2337, abs=1e-4)
    start = twin.problem.observations["co2"].time[0, 0]
    assert start == np.datetime64("2001-01-22")  # day 21: the week whose footprint of four weeks lies within the run


def test_weekly_nee_is_that_of_the_daily_run(design, twin):
    daily = np.asarray(jax.jit(lambda theta: design.footprints.land.run(theta, save=["nee"]).output.nee)(twin.theta))
    _, nee = many_cases.clean(design, twin.z)
    np.testing.assert_allclose(np.asarray(nee)[:, 5], daily[:, 35:42].mean(axis=1), rtol=1e-12)


def test_truth_is_a_draw_of_the_prior_seen_through_noise_from_r(design, twin):
    other = many_cases.twin(design, 1)
    assert twin.z.shape == (54,) and not np.allclose(twin.z, other.z)
    residual = np.concatenate([np.asarray(each.problem.residuals(each.z)["co2"]).ravel() for each in (twin, other)])
    # 294 standard normal numbers: mean and variance within three standard errors.
    assert abs(residual.mean()) < 3 / np.sqrt(residual.size)
    assert abs(residual.var() - 1) < 3 * np.sqrt(2 / residual.size)


def test_each_parameter_moves_its_own_type_only(design, twin):
    labels = design.problem.space.labels
    nee = np.asarray(jax.vmap(lambda z: many_cases.clean(design, z)[1])(twin.z + 0.3 * jnp.concatenate([jnp.zeros((1, 54)), jnp.eye(54)])))
    moved = np.abs(nee[1:] - nee[0]).max(axis=2)  # (parameter, site), one site a type
    own = np.array([[label.endswith(f"[{pft}]") for pft in many_cases.PFTS] for label in labels])
    assert (moved[own] > 1e-4).all() and (moved[~own] < 1e-12).all()


def test_gradient_is_exact(twin):
    assert taylor_order(twin.problem, twin.z, key=1) > 1.9
    assert adjoint_dot_test(twin.problem, twin.z, key=1) < 1e-12
