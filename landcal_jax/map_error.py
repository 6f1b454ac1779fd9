"""The error of a forward map that knows its own, such as an emulator: it joins R, and J has the log determinant of what that becomes.

    S(z) = R + diag(d(z)) + W' diag(v(z)) W          J has 1/2 (y - h)' S^-1 (y - h) + 1/2 (log det S - log det R)

with d the variance of each modelled value and W (k, n) patterns that err together: the principal components of a series. d goes to the
measurement error, which is whitened in O(n) whatever the memory of the model error is; the rest costs O(n k^2) by Woodbury's
identity. S changes with z, so that J is no sum of squares, as where errors of streams are parameters.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.observations import Stream


class MapError(NamedTuple):
    """Error covariance of the modelled values of a stream: `diagonal` (site, n_obs) + `basis` (k, site, n_obs) with `variances` (k,)."""

    diagonal: Array
    basis: Array
    variances: Array


def widened(stream: Stream, diagonal: Array) -> Stream:
    """The stream with the variance `diagonal` (site, n_obs) added to that of its measurements."""
    variance = stream.sigma**2 + jnp.where(stream.mask, diagonal, 0.0)
    return eqx.tree_at(lambda stream: stream.sigma, stream, jnp.sqrt(variance))


def term(stream: Stream, modelled: Array, error: MapError) -> tuple[Array, Array]:
    """1/2 (y - h)' S^-1 (y - h) and 1/2 (log det S - log det R) of one stream, each times its weight.

    Where sites have different weights each multiplies its own departures by its root, and the patterns count with the mean weight.
    """
    wide = widened(stream, error.diagonal)
    r = wide.residuals(modelled)
    quadratic = jnp.sum(r**2)
    log_determinant = jnp.sum(stream.weight * (wide.log_determinant - stream.log_determinant))
    if len(error.variances):
        # As departures of their own: R^(-1/2) is linear.
        zero = stream.with_values(jnp.zeros_like(stream.values))
        patterns = jax.vmap(lambda row: widened(zero, error.diagonal).whitened(-row))(error.basis)
        W = patterns.reshape(len(patterns), -1)
        # Without a root of the variances, which at a run of an emulator are zero: the root has no derivative there.
        inner = jnp.eye(len(W), dtype=W.dtype) + error.variances[:, None] * (W @ W.T)
        b = W @ r.ravel()
        quadratic = quadratic - b @ jnp.linalg.solve(inner, error.variances * b)
        log_determinant = log_determinant + jnp.mean(stream.weight) * jnp.linalg.slogdet(inner)[1]
    return 0.5 * quadratic, 0.5 * log_determinant


def check(name: str, stream: Stream) -> None:
    """Raise ValueError for a stream whose R leaves no place for the error of the map."""
    if stream.correlation is not None:
        raise ValueError(complain(f"independent measurement errors of {name}, to which the error of the map can be added",
                                  "errors that are correlated as a whole",
                                  "ModelError(..., correlation_days=) instead, or the map without its error"))
