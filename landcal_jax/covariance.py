"""Covariances of z, of which a posterior has one: a matrix, or the prior narrowed along a few directions.

A full matrix is an array (n, n). With hundreds or thousands of parameters the data narrow the prior along few directions only, and
`LowRankCovariance` holds these. Both know `@ vector`, `.diagonal()` and `.shape`; `np.asarray` makes a matrix of either.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain


class LowRankCovariance(eqx.Module):
    """I - V diag(l / (1 + l)) V': the inverse of I + V diag(l) V', as it is and without a matrix (n, n).

    `vectors` V (n, rank), orthonormal; `eigenvalues` l (rank,) of what the data add to the curvature of J. Along each direction the
    variance of the prior, 1, becomes 1 / (1 + l) (Bui-Thanh et al. 2013, SIAM J. Sci. Comput. 35, A2494).
    """

    vectors: Array
    eigenvalues: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n), as of the matrix."""
        return (self.vectors.shape[0],) * 2

    @property
    def ndim(self) -> int:
        """2, as of the matrix."""
        return 2

    def diagonal(self) -> Array:
        """Variances (n,)."""
        return 1.0 - self.vectors**2 @ (self.eigenvalues / (1.0 + self.eigenvalues))

    def __matmul__(self, other: Array) -> Array:
        """The product with a vector (n,) or a matrix (n, k)."""
        other = jnp.asarray(other)
        share = self.eigenvalues / (1.0 + self.eigenvalues)
        return other - (self.vectors * share) @ (self.vectors.T @ other)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        """The matrix (n, n), for those who want it."""
        V, eigenvalues = np.asarray(self.vectors), np.asarray(self.eigenvalues)
        return (np.eye(len(V)) - (V * (eigenvalues / (1.0 + eigenvalues))) @ V.T).astype(dtype or V.dtype, copy=False)

    def times_root(self, rows: Array) -> Array:
        """rows (k, n) times the symmetric square root I - V diag(1 - (1 + l)^(-1/2)) V'; usable inside jit."""
        return rows - (rows @ self.vectors * (1.0 - (1.0 + self.eigenvalues) ** -0.5)) @ self.vectors.T

    def squared(self, departures: Array) -> Array:
        """d' (I + V diag(l) V') d of each row d of `departures` (k, n): its squared distance from the centre, (k,)."""
        return jnp.sum(departures**2, axis=1) + (departures @ self.vectors) ** 2 @ self.eigenvalues


Covariance = Array | LowRankCovariance


def root_of(covariance: Array) -> np.ndarray:
    """root root' = covariance (n, n), by principal axes; an ensemble that does not span the space leaves it singular."""
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    return vectors * np.sqrt(_without_rounding(values))


def rank_of(covariance: Array) -> int:
    """The number of directions along which a covariance (n, n) has any variance."""
    return int(np.count_nonzero(_without_rounding(np.linalg.eigvalsh(np.asarray(covariance)))))


def times_root(covariance: Covariance, rows: Array) -> Array:
    """Rows (k, n) with covariance I -> rows with this covariance."""
    if isinstance(covariance, LowRankCovariance):
        return covariance.times_root(rows)
    return rows @ jnp.asarray(root_of(covariance)).T


def squared_distances(covariance: Covariance, departures: Array) -> np.ndarray:
    """d' covariance^-1 d of each row d of `departures` (k, n), (k,). Raises ValueError for a singular covariance."""
    if isinstance(covariance, LowRankCovariance):
        return np.asarray(covariance.squared(jnp.asarray(departures)))
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    spanned = np.count_nonzero(_without_rounding(values))
    if spanned < len(values):
        raise ValueError(complain(
            f"a covariance with variance along all {len(values)} directions", f"one that has some along {spanned}",
            "an ensemble of more members than parameters, or laplace() at the minimum"))
    return np.sum((np.asarray(departures) @ (vectors / np.sqrt(values))) ** 2, axis=1)


def _without_rounding(values: np.ndarray) -> np.ndarray:
    """Eigenvalues (n,), ascending, with zero for what rounding leaves of directions without variance, which may be negative."""
    return np.where(values > len(values) * np.finfo(float).eps * values[-1], values, 0.0)
