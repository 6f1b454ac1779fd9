"""The Laplace approximation: a Gaussian with the curvature of J at its minimum, in whitened space.

    N(z_map, A^-1),      A = I + G'G   or   d2J/dz2      (G: derivative of the whitened residuals)

In physical units A^-1 is B' = (H'R^-1 H + B^-1)^-1 of the textbooks. Draws of z are mapped to physical parameters, so that they
cannot leave the bounds of the priors; `truncated_normal` is what is used elsewhere instead.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr, ndtri

from landcal_jax.covariance import LowRankCovariance
from landcal_jax.errors import complain
from landcal_jax.keys import key_of
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, point_of

BLOCK = 16  # vectors of a batch of products: for a model in JAX these cost little more than one
NO_MINIMUM = 0.1
"""Fall of J that a Newton step promises, above which a point is no minimum: it is then 0.45 posterior standard deviations from one."""
THRESHOLD = 0.01  # below it an eigenvalue narrows its direction by less than half a per cent


def check_draws(draws: int, least: int = 1) -> None:
    """Raise ValueError for what is no number of draws, or one below `least`."""
    if not isinstance(draws, int | np.integer) or draws < least:
        raise ValueError(complain(f"a number of draws, {least} or more", f"{draws!r}", "draws=1000"))


def laplace(
    problem: Problem, result: Result | Array, *, curvature: str = "gauss-newton", draws: int = 1000, key: Array | int = 0,
    threshold: float | None = None,
) -> Posterior:
    """Gaussian approximation of the posterior at the MAP: N(z_map, A^-1), A the curvature of J in z.

    `result`: a Result, or z itself (n,). `curvature`:

    * "gauss-newton", I + G'G, always positive definite (B' = (H'R^-1 H + B^-1)^-1 of the textbooks); n tangents.
    * "hessian", the full second derivative, which also sees how G changes, and the only one of a problem with free error
      parameters; n tangents of the gradient.
    * "low-rank", I + V diag(l) V' with the leading eigenpairs l, V of G'G alone, for hundreds or thousands of parameters: those above
      `threshold` (0.01 without it; half of it is what the standard deviation of a direction loses, at most). They are found
      without a matrix, by tangents and adjoints. `Posterior.covariance` is then a `LowRankCovariance`. Directions that are left
      out keep the variance of the prior, so that the approximation is never too narrow.

    `details` of the posterior: `eigenvalues`, those of A - I, the largest first: a direction with l has the standard deviation
    (1 + l)^(-1/2); `decrement`, by how much J would fall in a Newton step from z, 0 at a minimum; `gradient` and `jvp`, the adjoints and
    tangents that it took; `note`, in words, and a `warning` where z is no minimum. "low-rank" adds `rank` and `left_out`, the largest
    eigenvalue that was seen below the threshold.

    Raises ValueError for another curvature, a threshold without "low-rank", or where the full Hessian is not positive definite: there
    z is not a minimum; TypeError for a model without tangent-linear, and where J is no sum of squares for all but "hessian".
    """
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear for laplace", problem.forward.description,
                                 "from_ensemble(problem, solve(problem, IterativeFourDEnVar(), z0=result, key=0)), by runs alone"))
    if curvature not in ("gauss-newton", "hessian", "low-rank"):
        raise ValueError(complain('curvature "gauss-newton", "hessian" or "low-rank"', repr(curvature), "one of the three"))
    check_draws(draws)
    if threshold is not None and (curvature != "low-rank" or not threshold > 0):
        raise ValueError(complain('a threshold above zero, with curvature="low-rank"', f"{threshold!r} with {curvature!r}",
                                  "leave it out"))
    z, key = point_of(problem, result), key_of(key)
    noise = jax.random.normal(key, (draws, z.size), dtype=z.dtype)
    if curvature == "low-rank":
        return _low_rank(problem, z, noise, THRESHOLD if threshold is None else threshold)
    exact = curvature == "hessian"
    gradient, matrix = (np.asarray(each) for each in (_newton if exact else _gauss_newton)(problem, z))
    values, vectors = np.linalg.eigh(matrix)
    if not np.isfinite(values).all() or values[0] <= 0:
        other = ', or curvature="gauss-newton"' if problem.least_squares else ""
        raise ValueError(complain("a positive definite Hessian at the MAP", f"smallest eigenvalue {values[0]:.3g}",
                                  f"solve on to a minimum (smaller tolerance, other starts){other}"))
    root = vectors / np.sqrt(values)
    details = {"eigenvalues": values[::-1] - 1.0, "gradient": z.size if exact else 0, "jvp": z.size,
               "note": f"curvature by {'the full Hessian' if exact else 'Gauss-Newton, I + G_transposed G'} at the MAP",
               **_distance(0.5 * float(np.sum((gradient @ root) ** 2)))}
    return Posterior(problem, z + noise @ root.T, z, jnp.asarray(root @ root.T), f"Laplace ({curvature})", gaussian=True, details=details)


def _low_rank(problem: Problem, z: Array, noise: Array, threshold: float) -> Posterior:
    def product(rows):
        # One shape for all batches of a model that is compiled; each row of an external one is a run.
        more = BLOCK - len(rows) if problem.forward.traceable else 0
        return np.asarray(_products(problem, z, jnp.pad(jnp.asarray(rows), ((0, more), (0, 0)))))[: len(rows)]

    # The start of the iteration has no part in the result, so that the key of the draws does not change the covariance.
    values, vectors, left_out, products = leading_eigenpairs(product, z.size, threshold)
    covariance = LowRankCovariance(jnp.asarray(vectors), jnp.asarray(values))
    rest = f"; the largest seen of those left out, {left_out:.2g}, would narrow its direction by {1 - (1 + left_out) ** -0.5:.2%}"
    gradient = np.asarray(_slope(problem, z))
    along = gradient @ vectors
    details = {"eigenvalues": values, "rank": len(values), "left_out": left_out, "gradient": products + 1, "jvp": products,
               **_distance(0.5 * float(gradient @ gradient - np.sum(along**2 * values / (1 + values)))),
               "note": f"{len(values)} of {z.size} directions, whose eigenvalues of G_transposed G are above {threshold:g}"
                       f"{rest if len(values) < z.size else ''}"}
    method = f"Laplace (low-rank, {len(values)} of {z.size} directions)"
    return Posterior(problem, z + covariance.times_root(noise), z, covariance, method, gaussian=True, details=details)


def _distance(decrement: float) -> dict[str, float | str]:
    """How far z is from a minimum, and a `warning` where that is too far."""
    if not np.isfinite(decrement):
        raise ValueError(complain("a finite gradient at the MAP", f"a Newton step that would change J by {decrement}",
                                  "landcal_jax.testing.check(problem)"))
    if decrement < NO_MINIMUM:
        return {"decrement": decrement}
    return {"decrement": decrement, "warning": f"J would fall by about {decrement:.3g} in a Newton step: this is no minimum, and the "
                                               "Gaussian is not about the posterior. Solve on from here."}


def truncated_normal(
    problem: Problem, result: Result | Array, *, curvature: str = "hessian", draws: int = 10_000, chains: int = 4, warmup: int = 500,
    key: Array | int = 0,
) -> Posterior:
    """A Gaussian in physical parameters around the MAP, cut at the bounds of the priors, as adJULES draws it: for comparison.

    The Hessian of J (`curvature`: "hessian" or "gauss-newton") is taken to x = T(z) by the slope of the transform, replaced by
    the nearest positive definite matrix (in units of the ranges of the parameters, or of prior standard deviations where there
    is none; eigenvalues below 1e-8 of the largest are raised to that, Higham 1988, Linear Algebra Appl. 103, 103), and draws are
    made by Gibbs sampling of one parameter after the other (Raoult et al. 2016, Geosci. Model Dev. 9, 2833, and the scripts of adJULES).
    Unlike `laplace` it does not know how the transform curves: where the data say little it fills the range evenly to the bound.

    `draws` in all, in `chains` that begin at the MAP after `warmup` sweeps each: they are correlated. `details` of the posterior:
    `raised`, the number of eigenvalues, and a `note`. Raises ValueError for another curvature, draws that chains cannot share, and
    derivatives that are not finite; TypeError for a model without tangent-linear.
    """
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear for truncated_normal", problem.forward.description, "from_ensemble"))
    if curvature not in ("gauss-newton", "hessian") or chains < 1 or warmup < 0 or draws < 2 or draws % chains:
        raise ValueError(complain(
            'curvature "gauss-newton" or "hessian", and as many draws in each chain',
            f"{curvature!r}, {draws} draws in {chains} chains, {warmup} before them", "leave them out for the defaults"))
    space, z = problem.space, point_of(problem, result)
    matrix, slope = (np.asarray(part) for part in _in_x(problem, z, curvature == "hessian"))
    if not np.isfinite(matrix).all():
        raise ValueError(complain("a finite Hessian at the MAP", f"{(~np.isfinite(matrix)).sum()} values that are not",
                                  "landcal_jax.testing.check(problem)"))
    low, high = (np.asarray(bound) for bound in space.bounds())
    sd = np.concatenate([np.ravel(values) for values in space.prior_sd.values()])[np.asarray(space.layout.free_index)]
    scale = np.where(np.isfinite(high - low), high - low, sd)
    turned = np.linalg.solve(slope, np.diag(scale))
    values, vectors = np.linalg.eigh(turned.T @ matrix @ turned)
    raised = int((values < 1e-8 * values[-1]).sum())
    precision = (vectors * np.maximum(values, 1e-8 * values[-1])) @ vectors.T
    middle = np.asarray(space.flatten(space.physical(z)))
    key = key_of(key)
    bounds = jnp.asarray((low - middle) / scale), jnp.asarray((high - middle) / scale)
    found = np.asarray(_gibbs(jnp.asarray(precision), *bounds, jax.random.split(key, chains), warmup + draws // chains))[:, warmup:]
    # Rounding alone can leave the bounds.
    x = np.clip(middle + found.reshape(draws, z.size) * scale, low, high)
    drawn = np.asarray(space.whiten(space.unflatten(x)))
    details = {"raised": raised, "note": f"normal in physical parameters, cut at their bounds; {raised} of {z.size} eigenvalues of "
                                         f"the {curvature} curvature raised to make it positive definite"}
    spread = np.cov(drawn, rowvar=False).reshape(z.size, z.size)
    return Posterior(problem, jnp.asarray(drawn), z, jnp.asarray(spread), f"truncated normal ({curvature})", chains=chains, details=details)


def leading_eigenpairs(product: Callable[[np.ndarray], np.ndarray], n: int, threshold: float) -> tuple[np.ndarray, np.ndarray, float, int]:
    """All eigenpairs above `threshold` of a symmetric matrix (n, n) that is known by its products with rows (k, n) -> (k, n).

    Block Lanczos with full orthogonalisation (Golub and Van Loan 2013, Matrix Computations, chapter 10), which goes on until every pair
    that may be above the threshold has its residual at 1e-8 of 1 + eigenvalue, or at rounding. It is written here because the routine of
    SciPy (ARPACK) multiplies one vector at a time, where a batch costs little more, has to be told the number of pairs, and
    begins again when that was too small. A last batch in new random directions looks for what the start did not lead to, such as
    an eigenvalue that is there many times.

    Returns eigenvalues (rank,), the largest first, vectors (n, rank), the largest eigenvalue seen that is not above, and the number of
    products.
    """
    rng = np.random.default_rng(0)
    basis, images = np.zeros((n, 0)), np.zeros((n, 0))
    block, known = rng.standard_normal((n, min(BLOCK, n))), -1
    while True:
        fresh = _orthonormal(basis, block)
        if not fresh.shape[1]:
            fresh = _orthonormal(basis, rng.standard_normal((n, BLOCK)))
        block = product(fresh.T).T
        if not np.isfinite(block).all():
            raise ValueError(complain("finite tangents and adjoints at the MAP", f"{(~np.isfinite(block)).sum()} values that are not",
                                      "landcal_jax.testing.check(problem)"))
        basis, images = np.hstack([basis, fresh]), np.hstack([images, block])
        projected = basis.T @ images
        values, inner = np.linalg.eigh(0.5 * (projected + projected.T))
        residual = np.linalg.norm(images @ inner - basis @ inner * values, axis=0)
        rounding = 50 * n * np.finfo(float).eps * np.abs(values).max()
        settled = residual <= np.maximum(1e-8 * (1 + np.abs(values)), rounding)
        above, done = values > threshold, (settled | (values + residual < threshold)).all()
        if basis.shape[1] == n or (done and known == above.sum()):
            left_out = float(values[~above].max()) if not above.all() else 0.0
            return values[above][::-1], (basis @ inner[:, above])[:, ::-1], max(left_out, 0.0), basis.shape[1]
        known = above.sum() if done else -1
        if done:
            block = rng.standard_normal((n, BLOCK))


def _orthonormal(basis: np.ndarray, block: np.ndarray) -> np.ndarray:
    """An orthonormal basis (n, k) of what `block` (n, b) adds to `basis` (n, j); k is less than b where it adds less."""
    size = np.linalg.norm(block)
    for _ in range(2):
        # Twice is enough: the first pass leaves errors of rounding along the basis.
        block = block - basis @ (basis.T @ block)
    left, values, _ = np.linalg.svd(block, full_matrices=False)
    left = left[:, values > 1e-10 * size][:, : len(basis) - basis.shape[1]]
    return np.linalg.qr(left - basis @ (basis.T @ left))[0]


@eqx.filter_jit
def _gauss_newton(problem: Problem, z: Array) -> tuple[Array, Array]:
    """Gradient (n,) of J and I + G'G (n, n)."""
    residuals, jacobian = problem.jacobian(z)
    return jacobian.T @ residuals, jacobian.T @ jacobian


@eqx.filter_jit
def _newton(problem: Problem, z: Array) -> tuple[Array, Array]:
    """Gradient (n,) and second derivative (n, n) of J."""
    def twice(z):
        gradient = jax.grad(problem.cost)(z)
        return gradient, gradient

    second, gradient = jax.jacfwd(twice, has_aux=True)(z)
    return gradient, second


@eqx.filter_jit
def _slope(problem: Problem, z: Array) -> Array:
    return jax.grad(problem.cost)(z)


@eqx.filter_jit
def _products(problem: Problem, z: Array, rows: Array) -> Array:
    """G'G v of each row v of `rows` (k, n), G the derivative of the residuals of the streams."""
    # Not jax.linearize, which would store what is inside every step; a tangent and an adjoint run the model again.
    back = jax.vjp(problem.residual_vector, z)[1]
    along = jax.vmap(lambda row: jax.jvp(problem.residual_vector, (z,), (row,))[1])(rows)
    return jax.vmap(lambda weights: back(weights)[0])(along) - rows


@eqx.filter_jit
def _in_x(problem: Problem, z: Array, exact: bool) -> tuple[Array, Array]:
    """The curvature of J in z, and the slope dx/dz of physical parameters, both (n, n)."""
    slope = jax.jacfwd(lambda z: problem.space.flatten(problem.space.physical(z)))(z)
    return (_newton if exact else _gauss_newton)(problem, z)[1], slope


@eqx.filter_jit
def _gibbs(precision: Array, low: Array, high: Array, keys: Array, sweeps: int) -> Array:
    """Chains of a normal with mean 0 and this precision (n, n), cut at `low` and `high` (n,): (chain, sweep, n), all beginning at 0."""
    n = low.size
    sd = jnp.diagonal(precision) ** -0.5

    def sweep(x, key):
        share = jax.random.uniform(key, (n,), precision.dtype)

        def one(i, x):
            mean = x[i] - precision[i] @ x * sd[i] ** 2
            return x.at[i].set(mean + sd[i] * _cut_normal((low[i] - mean) / sd[i], (high[i] - mean) / sd[i], share[i]))

        x = jax.lax.fori_loop(0, n, one, x)
        return x, x

    return jax.vmap(lambda key: jax.lax.scan(sweep, jnp.zeros(n), jax.random.split(key, sweeps))[1])(keys)


def _cut_normal(low: Array, high: Array, share: Array) -> Array:
    """The value of N(0, 1) between two bounds below which lies this share of what is between them."""
    # In the lower tail probabilities keep their digits: what lies above zero is turned round.
    turned = low > 0
    a, b = jnp.where(turned, -high, low), jnp.where(turned, -low, high)
    below_a, below_b, share = ndtr(a), ndtr(b), jnp.where(turned, 1.0 - share, share)
    probability = jnp.minimum(below_a + share * (below_b - below_a), 1.0 - jnp.finfo(share.dtype).epsneg)
    # Beyond 37 standard deviations all of it is at the nearer bound, to a few hundredths of one.
    value = jnp.clip(jnp.where(probability > 0, ndtri(probability), b), a, b)
    return jnp.where(turned, -value, value)
