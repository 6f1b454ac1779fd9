"""Pathfinder: Gaussians along paths, weights of modes, and what k-hat says of a posterior that is no Gaussian."""

import jax
import numpy as np
import pytest
from test_gradient_solvers import toy
from test_smc import PROBLEM, exact, external, model

from landcal_jax.diagnostics import diagnose
from landcal_jax.problem import evaluate
from landcal_jax.variational import _along, pathfinder


def test_modes_have_their_weights_however_many_paths_found_each():
    share, _ = exact()
    for key in (0, 1):
        posterior = pathfinder(PROBLEM, key=key, progress=False)
        paths = posterior.details["path"]
        assert abs(np.mean(posterior.matrix()[:, 0] > 0) - share) < 0.03
        assert posterior.details["k_hat"] < 0.7 and "warning" not in posterior.details
        assert posterior.z.shape == (1000, 2) and set(np.unique(paths)) <= set(range(8))
        np.testing.assert_allclose(posterior.details["log_density"][:5], jax.vmap(PROBLEM.log_density)(posterior.z[:5]), rtol=1e-9)
        assert posterior.details["forward"] > 4000 and posterior.details["gradient"] > 8
    again = pathfinder(PROBLEM, key=1, progress=False)
    np.testing.assert_array_equal(again.z, posterior.z)


def test_a_curved_valley_is_told_by_k_hat():
    valley = toy(lambda theta: (theta["b"] - theta["a"] ** 2,), [0.0], 0.02)
    posterior = pathfinder(valley, paths=2, key=4, progress=False)
    assert posterior.details["k_hat"] > posterior.details["k_limit"]
    assert "starts of chains" in posterior.details["note"] and "nuts" in posterior.details["note"]
    assert str(posterior.details["warning"]) == str(posterior.details["note"])
    with pytest.raises(ValueError, match="no order and no memory"):
        diagnose(posterior)


def test_the_gaussian_of_an_iterate_is_a_newton_step_further_down():
    # In one direction of a parabola two points tell its whole curvature: the step ends at the minimum, whatever it came from.
    Z = np.array([[3.0, 0.0], [2.5, 0.0]])
    slopes = np.array([[12.0, 0.0], [10.0, 0.0]])
    centres = np.asarray(_along(Z, slopes, jax.random.key(0))[2])
    np.testing.assert_allclose(centres[1], [0.0, 0.0], atol=1e-6)


def test_paths_can_begin_around_a_result():
    z = np.array([0.7, 0.5])
    posterior = pathfinder(PROBLEM, z, paths=2, key=0, progress=False)
    assert (posterior.matrix()[:, 0] > 0).mean() > 0.3
    assert np.linalg.norm(evaluate(PROBLEM, posterior.centre)[1]) < 1e-2


@pytest.mark.parametrize("options", [{"paths": 0}, {"draws": 10}, {"max_steps": 0}])
def test_wrong_numbers_are_refused(options):
    with pytest.raises(ValueError, match="one path, 25 draws"):
        pathfinder(PROBLEM, progress=False, **options)


def test_wrong_problems_and_results_are_refused():
    with pytest.raises(TypeError, match="pathfinder"):
        pathfinder(external(model), progress=False)
    with pytest.raises(ValueError, match="a Result, or z of shape"):
        pathfinder(PROBLEM, np.zeros(3), progress=False)
