"""Resilient propagation: the minimum, the count of gradients, and the edge of where the model runs."""

import numpy as np
from test_comparison import LM, PROBLEM, TWIN, decay

from landcal_jax.resilient import Rprop
from landcal_jax.solvers import Status
from landcal_jax.solving import solve


def test_steps_by_signs_reach_the_minimum_and_stay_where_the_model_runs():
    """An iteration is one gradient; in a model that fails above k = 0.25 the way leads along the edge."""
    lowest = solve(TWIN.problem, LM, progress=False).cost
    result = solve(TWIN.problem, Rprop(), z0=np.array([-1.5, 1.0]), progress=False)
    assert result.cost < lowest + 1e-6 and result.status in (Status.CONVERGED, Status.NO_DECREASE)
    assert result.counts == {"forward": 0, "gradient": len(result.history["prior"]), "jvp": 0}
    failing = decay(fails=0.25).with_observations(TWIN.problem.observations)
    start = PROBLEM.space.whiten({"a": 1.0, "k": 0.249})
    assert solve(failing, Rprop(first=0.5), z0=start, progress=False).cost < lowest + 1e-6
