"""Where a search for errors may end: at a maximum, or one on a bound, and nowhere else."""

from types import SimpleNamespace

import numpy as np
import pytest

from landcal_jax.error_fitting import _unfinished

WIDE = np.array([[-10.0, 10.0], [-10.0, 10.0]])


def ended(gradient, x=(0.0, 0.0)):
    return SimpleNamespace(x=np.array(x), jac=np.array(gradient), nit=3, message="STOP")


@pytest.mark.parametrize(("gradient", "curvature", "said"), [
    ((0.0, 0.0), np.diag([5.0, 1.0]), ""),
    # A step of (0.7, -0.7) along a ridge, of which no diagonal tells: one standard error.
    ((0.7, -0.7), [[1000.0, 999.0], [999.0, 1000.0]], "0.99 standard errors"),
    # Twenty thousand values: a hundredth of a logarithm is many standard errors.
    ((400.0, 0.0), np.diag([4e4, 1.0]), "2 standard errors"),
    ((0.0, 0.0), np.diag([-5.0, 1.0]), "no maximum"),
    # Nothing is known of the second, and rounding is no gradient.
    ((0.0, 1e-9), np.diag([5.0, 0.0]), ""),
])
def test_a_newton_step_in_standard_errors_says_whether_a_search_is_done(gradient, curvature, said):
    found = _unfinished(ended(gradient), np.array(curvature), WIDE)
    assert (found == "") if not said else (said in found)


def test_a_maximum_on_a_bound_is_one_but_only_with_the_gradient_outwards():
    curvature = np.diag([5.0, 1.0])
    assert _unfinished(ended((3.0, 0.0), x=(-10.0, 0.0)), curvature, WIDE) == ""
    assert "standard errors" in _unfinished(ended((-3.0, 0.0), x=(-10.0, 0.0)), curvature, WIDE)
