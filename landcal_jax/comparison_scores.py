"""What a comparison of solvers is read off from: J by term and RMSE by stream of points, and the spread of the posterior."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.members import whitened
from landcal_jax.problem import Problem


def scores_of(problem: Problem, Z: np.ndarray, truth: np.ndarray | None) -> dict[str, np.ndarray]:
    """J by term (member, term) and RMSE by stream (member, stream) of members Z; NaN where z is or where the run fails.

    With a truth its terms are added as the last row.
    """
    Z = Z if truth is None else np.concatenate([Z, truth[:1]])
    there = np.isfinite(Z).all(axis=1)
    # What is the same at several budgets is run once: a model may be dear.
    unique, where = np.unique(Z[there], axis=0, return_inverse=True)
    predicted = problem.ensemble(jnp.asarray(unique))
    terms = {"prior": 0.5 * np.sum(unique**2, axis=1)}
    rmse, rmse_truth = [], []
    with np.errstate(over="ignore", invalid="ignore"):
        for name, residuals in whitened(problem, predicted).items():
            stream = problem.observations[name]
            mask = np.asarray(stream.mask)
            terms[name] = 0.5 * np.sum(residuals**2, axis=1)
            rmse.append(_rms(predicted[name][:, mask] - np.asarray(stream.values)[mask]))
            if truth is not None:
                rmse_truth.append(_rms(predicted[name][:, mask] - predicted[name][where.ravel()[-1]][mask]))
    columns = {"terms": list(terms.values()), "rmse": rmse} | ({"rmse_truth": rmse_truth} if truth is not None else {})
    scores = {}
    for name, values in columns.items():
        scores[name] = np.full((len(Z), len(values)), np.nan)
        scores[name][there] = np.stack(values, axis=1)[where.ravel()]
    return scores


def _rms(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=1))


def posterior_sd(problem: Problem, z: np.ndarray) -> np.ndarray:
    """Standard deviations (n,) of the Gauss-Newton posterior at z (n,), in those of the prior."""
    jacobian = np.asarray(_jacobian(problem, jnp.asarray(z)))
    return np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))


@eqx.filter_jit
def _jacobian(problem: Problem, z: Array) -> Array:
    return problem.jacobian(z)[1]
