"""What observations say about parameters: the algebra of information in whitened space, where the prior is N(0, I).

With G the Jacobian of the whitened residuals of some observations, F = G'G is their information about z (the Gauss-Newton part of the
prior-preconditioned Hessian I + G'G of J), and (I + F)^-1 the covariance that they leave. Observations whose errors are independent of
each other add: F of two streams is the sum of theirs. An eigenvalue l of F is the ratio of prior to error variance along its direction
(Rodgers 2000, Inverse Methods for Atmospheric Sounding, section 2.4): 1/2 log(1 + l) is the information gained there, in nats, and
l / (1 + l) the degrees of freedom for signal.

Errors that are correlated count right, since the residuals are whitened by all of R.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.laplace import leading_eigenpairs
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem

ALL_DIRECTIONS_UP_TO = 300  # parameters; of more, those directions alone about which the data say something
LEAST = 0.01  # eigenvalue of what they say: below it a direction brings less than 0.007 bits


class Spectrum(NamedTuple):
    """The information F = vectors diag(values) vectors' of some observations about z (n,).

    `values` (k,), the largest first, and `vectors` (n, k), orthonormal. What lies outside the k directions counts as not seen.
    """

    values: np.ndarray
    vectors: np.ndarray

    @property
    def degrees_of_freedom(self) -> float:
        """Degrees of freedom for signal, sum of l / (1 + l): how many directions the data decide rather than the prior."""
        return float(np.sum(self.values / (1 + self.values)))

    @property
    def information(self) -> float:
        """Entropy of the prior less that of the posterior, 1/2 log det (I + F) [nats]."""
        return float(0.5 * np.sum(np.log1p(self.values)))

    def covariance(self, directions: np.ndarray) -> np.ndarray:
        """Posterior covariance (q, q) of the linear functions `directions` (q, n) of z; of z itself with the identity."""
        along = directions @ self.vectors
        left = directions - along @ self.vectors.T if self.values.size < self.vectors.shape[0] else np.zeros((len(directions), 0))
        return (along / (1 + self.values)) @ along.T + left @ left.T

    def variance(self, directions: np.ndarray) -> np.ndarray:
        """The diagonal (q,) of `covariance`."""
        along = directions @ self.vectors
        inside = np.sum(along**2 / (1 + self.values), axis=1)
        if self.values.size == self.vectors.shape[0]:
            return inside
        return inside + np.sum((directions - along @ self.vectors.T) ** 2, axis=1)

    @property
    def matrix(self) -> np.ndarray:
        """F (n, n)."""
        return (self.vectors * self.values) @ self.vectors.T


Informed = Callable[[Sequence[str]], Spectrum]
"""Names of streams -> the information that they hold together."""


def spectrum(matrix: np.ndarray) -> Spectrum:
    """All directions of an F (n, n)."""
    values, vectors = np.linalg.eigh(matrix)
    # F has no negative eigenvalues but those that rounding makes.
    return Spectrum(np.maximum(values[::-1], 0.0), vectors[:, ::-1])


def informed_by(problem: Problem, z: Array, threshold: float | None = None) -> Informed:
    """The information of any of the streams of `problem` at z (n,), as a function of their names.

    By the Jacobian, one tangent a parameter, without `threshold`; with it by products with G and G' alone (block Lanczos), those
    directions of every set of streams that is asked for whose eigenvalue is above it: G is never formed.
    Raises TypeError for a model without tangent-linear, ValueError where a derivative is not finite or the threshold is not above zero.
    """
    n = problem.space.size
    if threshold is not None:
        if not threshold > 0:
            raise ValueError(complain("a threshold above zero for the eigenvalues", f"{threshold}", "leave it out, or 0.01"))
        return _by_products(problem, z, threshold)
    blocks = {name: block.T @ block for name, block in jacobians(problem, z).items()}

    def of(names: Sequence[str]) -> Spectrum:
        return spectrum(sum((blocks[name] for name in names), np.zeros((n, n))))

    return of


def jacobians(problem: Problem, z: Array) -> dict[str, np.ndarray]:
    """Derivatives of the whitened residuals by stream at z (n,), each (site * n_obs, n); rows of what was not observed are zero.

    Raises TypeError for a model without tangent-linear, ValueError where a derivative is not finite.
    """
    require_linear(problem)
    jacobian, found = np.asarray(_jacobian(problem, z)), {}
    for name, rows in _rows(problem).items():
        block = jacobian[rows]
        wrong = [label for label, column in zip(problem.space.labels, block.T, strict=True) if not np.isfinite(column).all()]
        if wrong:
            raise ValueError(complain(f"finite derivatives of {name}", f"NaN or infinity for {listed(wrong)}",
                                      "another z; landcal_jax.testing.check(problem) says more"))
        found[name] = block
    return found


def require_linear(problem: Problem) -> None:
    """Raise TypeError with advice if the model has no tangent-linear, or R is not given: J is then no sum of squares."""
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear, to see what observations say", problem.forward.description,
                                 "problem.finite_difference(), one run more for every parameter"))
    problem.require_least_squares("what observations say")


def root_of(space: ParameterSpace) -> np.ndarray:
    """L (n, n) with u = L z: u_i has the prior N(0, 1) and belongs to parameter i alone, also where the prior is correlated."""
    return np.eye(space.size) if space.factor is None else np.asarray(space.factor)


def correlation_of(covariance: np.ndarray) -> np.ndarray:
    """Correlation matrix of a covariance (n, n)."""
    sd = np.sqrt(np.diag(covariance))
    return covariance / np.outer(sd, sd)


def collinearity_index(information: np.ndarray, subset: Sequence[int]) -> float:
    """Collinearity index of Brun et al. (2001, WRR 37, 1015, eq. 3) of the parameters `subset`, from G'G (n, n) in their units.

    1 / sqrt(smallest eigenvalue of S'S), S the columns of G scaled to length one: a change of one parameter can be made up for by the
    others to a share of 1 / index. 1 is orthogonal; they hold 10 to 15 for the limit of what data alone can tell apart. Infinite where
    the data do not see one of the parameters, or cannot tell them apart at all.
    """
    chosen = np.asarray(subset, int)
    gram = information[np.ix_(chosen, chosen)]
    length = np.sqrt(np.diag(gram))
    if not (length > 0).all():
        return np.inf
    smallest = np.linalg.eigvalsh(gram / np.outer(length, length))[0]
    return float(1 / np.sqrt(smallest)) if smallest > len(chosen) * np.finfo(float).eps else np.inf


def told_apart(information: np.ndarray, limit: float) -> list[int]:
    """Parameters that the data alone tell apart: the most sensitive first, each kept if the index of all kept stays below `limit`.

    Only those of which one prior standard deviation moves the data by one of their errors in all. A greedy choice, not the only one
    (Brun et al. 2001, section 2.3): where two parameters are collinear it keeps the more sensitive.
    """
    kept: list[int] = []
    for index in np.argsort(-np.diag(information), kind="stable"):
        if information[index, index] >= 1 and collinearity_index(information, [*kept, index]) <= limit:
            kept.append(int(index))
    return kept


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence: "a, b and c", and how many more than `most` there are."""
    shown = [str(name) for name in names[:most]] + ([f"{len(names) - most} more"] if len(names) > most else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else "".join(shown)


@eqx.filter_jit
def _jacobian(problem: Problem, z: Array) -> Array:
    return problem.jacobian(z)[1]


def _rows(problem: Problem) -> Mapping[str, slice]:
    """The rows of each stream in the residual vector, which begins with the prior."""
    rows, start = {}, problem.space.size
    for name, stream in problem.observations.items():
        rows[name] = slice(start, start + stream.values.size)
        start += stream.values.size
    return rows


def _by_products(problem: Problem, z: Array, threshold: float) -> Informed:
    require_linear(problem)
    n, rows = problem.space.size, _rows(problem)

    def of(names: Sequence[str]) -> Spectrum:
        keep = np.zeros(n + sum(stream.values.size for _, stream in problem.observations.items()))
        for name in names:
            keep[rows[name]] = 1.0
        keep = jnp.asarray(keep)
        values, vectors, *_ = leading_eigenpairs(lambda block: np.asarray(_products(problem, z, jnp.asarray(block), keep)), n, threshold)
        return Spectrum(values, vectors)

    return of


@eqx.filter_jit
def _products(problem: Problem, z: Array, block: Array, keep: Array) -> Array:
    """G'G v of each row v of `block` (k, n), of the rows of residuals (m,) that `keep` has."""
    back = jax.vjp(problem.residual_vector, z)[1]
    along = jax.vmap(lambda v: jax.jvp(problem.residual_vector, (z,), (v,))[1])(block)
    return jax.vmap(lambda weights: back(weights)[0])(jnp.where(keep > 0, along, 0.0))
