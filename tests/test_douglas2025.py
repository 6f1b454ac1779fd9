"""Exact 4DVar on the twin experiments of Douglas et al. (2025), in the easiest and the hardest case."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from landcal_jax.ensemble import FourDEnVar
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.solvers import Status
from landcal_jax.solving import solve

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import douglas2025  # noqa: E402
import douglas_methods  # noqa: E402


@pytest.fixture(scope="module", params=["ref", "C2"])
def case(request, data_dir):
    return douglas2025.experiment(request.param)


def test_reproduces_the_published_4denvar(case):
    x_a, covariance = douglas2025.four_d_en_var(case)
    np.testing.assert_allclose(case.reduction(x_a), case.published.envar, atol=0.06)
    assert (np.linalg.eigvalsh(covariance) > 0).all()
    if case.published is douglas2025.CASES["ref"]:
        np.testing.assert_allclose(x_a, douglas2025.ENVAR_REF, atol=1e-8)


@pytest.mark.parametrize("name", douglas2025.CASES)
def test_4denvar_is_the_published_and_its_iteration_the_minimum(name, data_dir):
    case = douglas2025.experiment(name)
    x_a, _ = douglas2025.four_d_en_var(case)
    np.testing.assert_allclose(case.reduction(x_a), case.published.envar, atol=0.06)
    result = douglas2025.iterated(case)
    assert result.status is Status.CONVERGED and result.counts["forward"] < 100
    assert (case.reduction(douglas2025.physical(result)) > 99).all()
    np.testing.assert_allclose(case.reduction(douglas2025.physical(result)), case.published.reduction, atol=0.006)
    exact = solve(case.problem, LevenbergMarquardt(), progress=False)
    np.testing.assert_allclose(result.cost, exact.cost, rtol=1e-6)
    covariance = douglas2025.posterior(case, exact)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((douglas_methods.spread(case, result) - covariance) / (sd[:, None] * sd)).max() < 0.05


def test_the_detector_names_the_cases_where_the_truth_is_out_of_reach(data_dir):
    """C1 and C2, where the published analyses are worst and the paper's ensemble does not bracket the observations."""
    found = {}
    for name in douglas2025.CASES:
        case = douglas2025.experiment(name)
        solver = FourDEnVar(members=jnp.asarray(case.ensemble.T), space="physical")
        found[name] = solve(case.problem, solver, progress=False).status
    assert {name for name, status in found.items() if status is Status.OUT_OF_SPAN} == {"C1", "C2"}


def test_4dvar_converges_from_the_prior_mean(case):
    result = solve(case.problem, LevenbergMarquardt(), progress=False)
    x = douglas2025.physical(result)
    assert result.status is Status.CONVERGED
    assert douglas2025.evaluations(result) <= 12
    assert douglas2025.evaluations(result) == len(result.history["prior"]) - 1
    np.testing.assert_allclose(case.reduction(x), case.published.reduction, atol=0.006)
    cost, _, _ = douglas2025.scipy_solve(case, bounded=False)
    np.testing.assert_allclose(result.cost, cost, rtol=1e-6)
    error = x - case.published.truth
    assert (np.abs(error) < 2 * np.sqrt(np.diag(douglas2025.posterior(case, result)))).all()


def test_multi_start_and_bounded_prior_converge(case):
    solver = MultiStart(LevenbergMarquardt(), number=3, candidates=8)
    result = solve(case.problem, solver, key=0, progress=False)
    np.testing.assert_allclose(case.reduction(douglas2025.physical(result)), case.published.reduction, atol=0.006)
    bounded = solve(douglas2025.within_bounds(case), LevenbergMarquardt(), progress=False)
    assert bounded.status is Status.CONVERGED
    assert case.reduction(douglas2025.physical(bounded)).min() > 99.7
    for name, (low, high) in douglas2025.BOUNDS.items():
        assert low < bounded.theta[name] < high
