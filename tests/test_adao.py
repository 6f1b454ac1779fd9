"""J, gradient, analysis and posterior covariance equal those of ADAO's 3DVAR with full B and R."""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("adao", reason="ADAO is not installed: pip install 'landcal_jax[peers]' to compare with it")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import adao_3dvar  # noqa: E402

from landcal_jax.problem import evaluate  # noqa: E402

# ADAO's own, about numpy.matrix
pytestmark = pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")


@pytest.fixture(scope="module")
def linear():
    case, oracle = adao_3dvar.linear(5, 40)
    return case, oracle, adao_3dvar.adao_3dvar(case, **adao_3dvar.TIGHT)


@pytest.fixture(scope="module")
def curves():
    case = adao_3dvar.curves()
    return case, adao_3dvar.adao_3dvar(case, **adao_3dvar.TIGHT)


def test_linear_problem_agrees_with_adao_and_with_the_closed_form(linear):
    case, oracle, peer = linear
    found = adao_3dvar.compare(case, peer)
    assert len(peer.costs) > 10
    assert found["J"] < 1e-13
    assert found["gradient"] < 1e-12
    assert found["analysis"] < 1e-9
    assert found["covariance"] < 1e-12
    assert found["covariance as it is"] < 1e-12
    np.testing.assert_allclose(peer.analysis, oracle.posterior_mean(), rtol=1e-9)
    np.testing.assert_allclose(peer.covariance, oracle.posterior_covariance(), rtol=1e-10)


def test_nonlinear_problem_agrees_with_adao(curves):
    found = adao_3dvar.compare(*curves)
    assert found["J"] < 1e-11
    assert found["gradient"] < 1e-11
    assert found["analysis"] < 1e-6
    assert found["J at the analysis"] < 1e-12
    assert found["covariance"] < 1e-10


def test_gradient_agrees_with_differences_of_adaos_cost(curves):
    case, _ = curves
    map_ = adao_3dvar.Affine.of(case.problem.space)
    z, step = np.full(6, 0.3), 1e-4

    def cost(z):
        run = adao_3dvar.adao_3dvar(case, map_.x_b + map_.L @ z, MaximumNumberOfIterations=2)
        np.testing.assert_allclose(map_.z(run.states[0]), z, atol=1e-12)
        return run.costs[0]

    differences = [(cost(z + step * unit) - cost(z - step * unit)) / (2 * step) for unit in np.eye(6)]
    np.testing.assert_allclose(evaluate(case.problem, jnp.asarray(z))[1], differences, rtol=1e-6)
