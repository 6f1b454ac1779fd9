"""Twin experiments: observations of a truth that is known, with errors drawn from R. Public in `landcal_jax.testing`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.model import Theta
from landcal_jax.observations import Stream
from landcal_jax.problem import Problem


class Twin(NamedTuple):
    """A twin experiment: the problem with pseudo-observations, and the truth they come from."""

    problem: Problem
    z: Array
    theta: Theta


def twin(problem: Problem, truth_z: ArrayLike | None = None, *, key: Array | int = 0, noise: bool = True) -> Twin:
    """Replace the observations of `problem` by those of a known truth.

    `truth_z` (n,) is drawn from the prior without it. `noise` adds errors drawn from R: measurement and model error,
    correlated in time where the stream is. A model error in proportion to a level that is not given goes by the run of the truth, here
    and in the problem that is returned: its R is the one that the errors are drawn from. Gaps stay gaps.
    Raises ValueError if the run of the truth is not finite where something was observed.
    """
    of_z, of_noise = jax.random.split(key_of(key))
    z = problem.space.sample(of_z, 1)[0] if truth_z is None else checked_vector(problem, truth_z, "truth_z")
    predicted, theta = problem.predict(z), problem.space.physical(z)
    streams = {}
    # Errors are those of the truth, where the truth has some.
    for index, (name, stream) in enumerate(problem.observations_at(theta).items()):
        lost = int(jnp.sum(stream.mask & ~jnp.isfinite(predicted[name])))
        if lost:
            raise ValueError(complain(
                f"a truth whose run gives finite {name}", f"{lost} values that are not finite",
                "take another key or truth_z; landcal_jax.testing.check(problem) scans the prior for such runs"))
        of_truth, given = (each.with_model_error(each.model_error.completed(predicted[name]))
                           for each in (stream, problem.observations[name]))
        error = draw_errors(of_truth, jax.random.fold_in(of_noise, index)) if noise else 0.0
        streams[name] = given.with_values(predicted[name] + error)
    return Twin(problem.with_observations(problem.observations.with_streams(streams)), z, theta)


def draw_errors(stream: Stream, key: Array) -> Array:
    """One draw of the observation errors of `stream` from its R, (site, n_obs); zero where nothing was observed."""
    def drawn(key):
        return jax.random.normal(key, stream.values.shape, stream.values.dtype)

    if stream.model_error.days is None:
        whole = drawn(key)
        if stream.correlation is not None:
            whole = _remembering(whole, stream.chain.decay(stream.correlation.days), stream.mask)
        return jnp.where(stream.mask, stream.standard_deviation * whole, 0.0)
    of_model, of_instrument = jax.random.split(key)
    modelled = _remembering(drawn(of_model), stream.chain.decay(stream.model_error.days[:, None]), stream.mask)
    return jnp.where(stream.mask, stream.sigma * drawn(of_instrument) + stream.model_error_deviation * modelled, 0.0)


def _remembering(white: Array, decay: tuple[Array, Array], mask: Array) -> Array:
    """A Markov process of variance one along the observed values, from independent draws (site, n_obs)."""
    rho, remainder = decay

    def forwards(previous, now):
        rho, remainder, white, observed = now
        error = jnp.where(observed, rho * previous + jnp.sqrt(remainder) * white, previous)
        return error, error

    _, errors = jax.lax.scan(forwards, jnp.zeros(len(white), white.dtype), (rho.T, remainder.T, white.T, mask.T))
    return errors.T


def checked_vector(problem: Problem, vector: ArrayLike, name: str) -> Array:
    """`vector` (n,) as an array; ValueError, with its `name`, for another shape."""
    vector = jnp.asarray(vector, float)
    if vector.shape != (problem.space.size,):
        raise ValueError(complain(f"{name} of shape ({problem.space.size},)", f"shape {vector.shape}",
                                  "problem.space.whiten(theta) makes one from physical parameters"))
    return vector
