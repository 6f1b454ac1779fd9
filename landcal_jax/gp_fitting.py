"""Hyperparameters of Gaussian processes: the restricted likelihood, a prior that keeps them from running away, and the search.

    y = H b + f(x) + e,    f ~ GP(0, s^2 c(x, x'; lengths)),    e ~ N(0, nugget s^2 + noise)

The coefficients b of the mean function have a flat prior and are integrated out (restricted likelihood; Santner, Williams & Notz
2018, section 3.3). Inverse lengths and nugget have the jointly robust prior of Gu (2019, Bayesian Analysis 14, 857;
arXiv:1804.09329), with the defaults of `rgasp` in his package RobustGaSP (a and b: manual of version 0.6.6; C_l: its R/rgasp.R):

    p ~ t^a exp(-b t),    t = sum_l C_l / length_l + nugget,    a = 0.2,  b = N^(-1/n) (a + n),  C_l = N^(-1/n) range_l

It vanishes both where all runs are independent (lengths to zero) and where all are equal (lengths to infinity), the two ends at
which the likelihood of few runs may be flat (Gu, Wang & Berger 2018, Annals of Statistics 46, 3038). It was derived for products
of one-dimensional correlations and serves radial ones as a weak prior.

The mode is that of the density of the logarithms of the lengths, not of the inverse lengths as in RobustGaSP: there it lies at lengths
that are too long, by about a half for four inputs and 40 runs, threefold and more for six inputs and 60 runs (100 processes each, drawn
from the kernel), with mean squares of errors larger by 9 and 19 % and intervals too narrow. A length without influence still grows long.

What the mode does not say, that another mode was nearly as good, widens the signal: see `widening`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from tinygp.kernels.stationary import Stationary

JITTER = 1e-9
"""Variance on the diagonal relative to the signal's, for the Cholesky factor alone: 3e-5 of its standard deviation."""
ROBUST_POWER = 0.2  # a of the jointly robust prior
# Where hyperparameters may be, for inputs and outputs that are standardised: far outside of what a design can tell.
LENGTHS, SIGNALS, NUGGETS = (0.03, 200.0), (1e-4, 1e6), (1e-8, 1e2)
# Where searches begin.
START_LENGTHS, START_SIGNALS, START_NUGGETS = (0.3, 10.0), (0.1, 10.0), (1e-7, 0.3)
FARTHEST = 2.0
"""Standard deviation of the logarithm of a hyperparameter of which the runs say nothing, in what `widening` makes of it."""
CANDIDATES = 32
BLOCK = 64
MOST_TURNS = 250
ENOUGH = 1e-3
"""Slope of the log posterior in any unbounded hyperparameter at which a search ends: the maximum is then known to 1e-3 or better."""


class Hyperparameters(NamedTuple):
    """Of one standardised output: lengths (n,) in units of the standardised inputs, variance of the signal, nugget relative to it."""

    lengths: Array
    signal: Array
    nugget: Array


def correlation(kernel: Stationary, square: Array) -> Array:
    """c of pairs whose squared distance, in lengths, is `square` (any shape)."""
    # Away from zero, where the root has no slope; that of the square is zero there itself. All pairs at once, not
    # by tinygp's loops over them, whose derivative took fifteen times as long.
    distance = jnp.sqrt(jnp.maximum(square, 1e-20))
    return jax.vmap(lambda r: kernel.evaluate(r, jnp.zeros_like(r)))(distance.ravel()).reshape(square.shape)


def squared_distances(lengths: Array, first: Array, second: Array) -> Array:
    """Of all pairs, in lengths: (point, n) and (run, n) -> (point, run); to 1e-16 of the squares of the points."""
    first, second = first / lengths, second / lengths
    return jnp.sum(first**2, axis=1)[:, None] + jnp.sum(second**2, axis=1) - 2.0 * first @ second.T


def differences(x: Array) -> Array:
    """Squared differences of the runs by input, (n, run, run)."""
    return (x.T[:, :, None] - x.T[:, None, :]) ** 2


def covariance(kernel: Stationary, h: Hyperparameters, squares: Array, noise: Array, present: Array) -> Array:
    """Covariance of the runs (run, run) from their `differences`: identity where there is no run, so that what fills up changes nothing."""
    both = present[:, None] & present[None, :]
    of_signal = jnp.where(both, h.signal * correlation(kernel, jnp.tensordot(h.lengths**-2, squares, 1)), 0.0)
    return of_signal + jnp.diag(jnp.where(present, h.signal * (h.nugget + JITTER) + noise, 1.0))


def inverse_factor(K: Array) -> Array:
    """L^-1 with L L' = K, (m, m); NaN where K is not positive definite.

    By halves, which are products of matrices, down to blocks of `BLOCK`: LAPACK's triangular solves and its larger factors are shared
    among threads at sizes that do not repay it, and took thirty times as long on two busy cores.
    """
    if len(K) <= BLOCK:
        return _inverse_of_triangle(jnp.linalg.cholesky(K))
    half = BLOCK * (-(-len(K) // BLOCK) // 2)
    first = inverse_factor(K[:half, :half])
    below = K[half:, :half] @ first.T
    second = inverse_factor(K[half:, half:] - below @ below.T)
    return jnp.block([[first, jnp.zeros_like(below.T)], [-second @ below @ first, second]])


def _inverse_of_triangle(L: Array) -> Array:
    """L^-1 of a lower triangle, blocks on the diagonal growing by doubling."""
    size = 1 << (len(L) - 1).bit_length()
    rest = size - len(L)
    whole = jnp.pad(L, ((0, rest), (0, rest))) + jnp.diag(jnp.arange(size) >= len(L)).astype(L.dtype)
    inverse = 1.0 / jnp.diag(whole)[:, None, None]
    while len(inverse) > 1:
        edge, pairs = inverse.shape[1], jnp.arange(len(inverse) // 2)
        below = whole.reshape(len(pairs), 2 * edge, len(pairs), 2 * edge)[pairs, edge:, pairs, :edge]
        first, second = inverse[0::2], inverse[1::2]
        upper = jnp.concatenate([first, jnp.zeros_like(first)], axis=2)
        inverse = jnp.concatenate([upper, jnp.concatenate([-second @ (below @ first), second], axis=2)], axis=1)
    return inverse[0, : len(L), : len(L)]


@jax.custom_vjp
def restricted(K: Array, H: Array, y: Array) -> Array:
    """Minus the restricted log likelihood of y (run,) with covariance K and mean H b, up to a constant."""
    return _restricted(K, H, y)[0]


def _restricted(K, H, y):
    inverse = inverse_factor(K)
    B, e = inverse @ H, inverse @ y
    root = inverse_factor(B.T @ B)
    outside = root @ B.T
    e = e - outside.T @ (outside @ e)
    value = 0.5 * e @ e - jnp.sum(jnp.log(jnp.diag(inverse))) - jnp.sum(jnp.log(jnp.diag(root)))
    return value, (inverse, outside, e)


def _restricted_forward(K, H, y):
    return _restricted(K, H, y)


def _restricted_backward(saved, slope):
    # With Q = K^-1 - K^-1 H (H'K^-1 H)^-1 H'K^-1 the derivative by K is (Q - Q y y'Q) / 2: cheaper than through both factors.
    inverse, outside, e = saved
    projected = outside @ inverse
    Q = inverse.T @ inverse - projected.T @ projected
    weights = inverse.T @ e
    return 0.5 * slope * (Q - jnp.outer(weights, weights)), None, None


restricted.defvjp(_restricted_forward, _restricted_backward)


def log_prior(h: Hyperparameters, x: Array, present: Array) -> Array:
    """Logarithm of the jointly robust prior, as a density of the logarithms of the lengths and of the nugget, up to a constant."""
    rate, shares = _robust(h, x, present)
    t = jnp.sum(shares) + h.nugget
    return ROBUST_POWER * jnp.log(t) - rate * t - jnp.sum(jnp.log(h.lengths))


def _robust(h: Hyperparameters, x: Array, present: Array) -> tuple[Array, Array]:
    """b of the jointly robust prior, and C_l / length_l (n,)."""
    n = x.shape[1]
    spacing = jnp.sum(present) ** (-1.0 / n)
    extent = jnp.max(jnp.where(present[:, None], x, -jnp.inf), axis=0) - jnp.min(jnp.where(present[:, None], x, jnp.inf), axis=0)
    return spacing * (ROBUST_POWER + n), spacing * extent / h.lengths


@partial(jax.jit, static_argnames=("kernel", "mean", "fit_nugget"))
def widened(kernel, mean: str, h: Hyperparameters, x: Array, y: Array, noise: Array, present: Array, *, fit_nugget: bool):
    """The hyperparameters of every output with the `widening` of its signal; y and noise (run, k)."""
    def one(output):
        h, y, noise = output
        return h._replace(signal=h.signal * widening(kernel(), mean, h, x, y, noise, present, fit_nugget=fit_nugget))

    return jax.lax.map(one, (h, y.T, noise.T))


def widening(kernel: Stationary, mean: str, h: Hyperparameters, x: Array, y: Array, noise: Array, present: Array, *, fit_nugget: bool):
    """The factor (above one) by which the variance of one output is larger than it would be were its hyperparameters known.

    With m_i and v_i the mean and variance (without given noise) of run i from the others, p the logarithms of the hyperparameters
    and S their covariance, the inverse of the expected information of the restricted likelihood (Abt 1999, Scandinavian Journal of
    Statistics 26, 563) and a weak prior, all runs together:

        exp(2 R + V),    R = sum_i m_i' S m_i / sum_i v_i,    V = sum_i v_i |d log v_i|_S^2 / sum_i v_i        (slopes by p)

    R is the mean's share of the error (Zimmerman & Cressie 1992, Annals of the Institute of Statistical Mathematics 44, 27), and
    counts twice, (1 + R) / (1 - R), since what the search fitted is missing from the residuals by which the signal was measured.
    V is what comes of a variance that is itself uncertain: for a signal known from n - q contrasts, 2 / (n - q), to first order
    the variance (n - q) / (n - q - 2) of Student's t.

    Intervals of 95 % at random points held 93.0 to 95.3 % of the values in eight cases, of 200 processes each, drawn from the kernel,
    with 20 to 120 runs of 1 to 6 inputs; with modes of inverse lengths and without the factor it was 86 to 93 %.
    """
    n, squares, H = x.shape[1], differences(x), basis(mean, x, present)

    def covariance_of(p):
        values = jnp.exp(p)
        nugget = values[n + 1] if fit_nugget else jnp.zeros((), p.dtype)
        return covariance(kernel, Hyperparameters(values[:n], values[n], nugget), squares, noise, present)

    p = jnp.log(jnp.concatenate([h.lengths, h.signal[None]] + [h.nugget[None]] * fit_nugget))
    inverse = inverse_factor(covariance_of(p))
    B = inverse @ H
    outside = inverse_factor(B.T @ B) @ B.T @ inverse
    Q = inverse.T @ inverse - outside.T @ outside
    QK = jnp.einsum("ij,jkp->pik", Q, jax.jacfwd(covariance_of)(p))
    diagonal, weights = jnp.diag(Q), Q @ y
    slope = -jnp.einsum("pij,ji->pi", QK, Q)
    of_mean = jnp.where(present, (QK @ weights + weights / diagonal * slope) / diagonal, 0.0)
    of_variance = jnp.where(present, -slope / diagonal**2, 0.0)
    variance = jnp.where(present, 1.0 / diagonal - noise, 1.0)
    rate, shares = _robust(h, x, present)
    curvature = jnp.pad(rate * shares, (0, len(p) - n)) + FARTHEST**-2
    information = 0.5 * jnp.einsum("pij,qji->pq", QK, QK) + jnp.diag(curvature)

    def size(slopes):
        return jnp.sum(slopes * jnp.linalg.solve(information, slopes), axis=0)

    return jnp.exp(jnp.sum(2.0 * size(of_mean) + size(of_variance) / variance) / jnp.sum(jnp.where(present, variance, 0.0)))


def _box(n: int, fit_nugget: bool, lengths, signals, nuggets) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.log([lengths] * n + [signals] + [nuggets] * fit_nugget).T
    return low, high


def _hyperparameters(p: Array, n: int, fit_nugget: bool) -> Hyperparameters:
    """From unbounded numbers: a logistic map to the logarithms within their box."""
    low, high = _box(n, fit_nugget, LENGTHS, SIGNALS, NUGGETS)
    values = jnp.exp(low + (high - low) * jax.nn.sigmoid(p))
    return Hyperparameters(values[:n], values[n], values[n + 1] if fit_nugget else jnp.zeros((), p.dtype))


@partial(jax.jit, static_argnums=(1, 2))
def _starts(key: Array, n: int, fit_nugget: bool) -> Array:
    """Unbounded numbers (candidate, size) whose logarithms are uniform where searches begin."""
    low, high = _box(n, fit_nugget, START_LENGTHS, START_SIGNALS, START_NUGGETS)
    bottom, top = _box(n, fit_nugget, LENGTHS, SIGNALS, NUGGETS)
    logs = low + (high - low) * jax.random.uniform(key, (CANDIDATES, low.size))
    # Half of them have one length for all inputs: with many inputs, different ones at random are never all long.
    shared = jnp.arange(CANDIDATES) % 2 == 0
    logs = logs.at[:, :n].set(jnp.where(shared[:, None], logs[:, :1], logs[:, :n]))
    share = (logs - bottom) / (top - bottom)
    return jnp.log(share) - jnp.log1p(-share)


def search(kernel, mean: str, x: Array, y: Array, noise: Array, present: Array, key: Array, *, fit_nugget: bool, searches: int):
    """The most probable hyperparameters of every output: y and noise (run, k) -> `Hyperparameters` with k in front, log posterior (k,).

    Of 32 candidates the best `searches` are improved, all of them and all outputs in one batch.
    """
    n, k = x.shape[1], y.shape[1]
    data = (x, y, noise, present)
    lanes = np.repeat(np.arange(k), searches)

    def evaluate(points, active):
        found = _losses(kernel, mean, fit_nugget, data, jnp.asarray(points), lanes, active)
        return tuple(np.array(array) for array in found)

    candidates = np.asarray(_starts(key, n, fit_nugget))
    everywhere = np.ones(len(lanes), bool)
    # In as many rounds as it takes, each of one candidate a lane, so that one compiled function serves all.
    rounds = [np.arange(first, first + searches) % CANDIDATES for first in range(0, CANDIDATES, searches)]
    values = np.concatenate([evaluate(np.tile(candidates[each], (k, 1)), everywhere)[0].reshape(k, -1) for each in rounds], axis=1)
    order = np.argsort(np.nan_to_num(values[:, :CANDIDATES], nan=np.inf), axis=1)[:, :searches]
    ends, values = minimise(evaluate, candidates[order].reshape(k * searches, -1))
    values = np.nan_to_num(values.reshape(k, searches), nan=np.inf)
    best = np.argmin(values, axis=1)
    chosen = jnp.asarray(ends.reshape(k, searches, -1)[np.arange(k), best])
    return _all_hyperparameters(chosen, n, fit_nugget), jnp.asarray(-values[np.arange(k), best])


@partial(jax.jit, static_argnums=(1, 2))
def _all_hyperparameters(points: Array, n: int, fit_nugget: bool) -> Hyperparameters:
    return jax.vmap(lambda p: _hyperparameters(p, n, fit_nugget))(points)


@partial(jax.jit, static_argnames=("kernel", "mean", "fit_nugget"))
def _losses(kernel, mean: str, fit_nugget: bool, data, points: Array, outputs: Array, active: Array) -> tuple[Array, Array]:
    """Minus the log posterior and its slope at points (lane, size), of these outputs; zero for lanes that are not active."""
    x, y, noise, present = data
    squares, H = differences(x), basis(mean, x, present)

    def loss(p, output):
        h = _hyperparameters(p, x.shape[1], fit_nugget)
        K = covariance(kernel(), h, squares, noise[:, output], present)
        return restricted(K, H, y[:, output]) - log_prior(h, x, present)

    def lane(each):
        point, output, active = each
        nothing = (jnp.zeros((), point.dtype), jnp.zeros_like(point))
        return jax.lax.cond(active, jax.value_and_grad(loss), lambda *_: nothing, point, output)

    return jax.lax.map(lane, (points, outputs, active))


def minimise(evaluate: Callable, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BFGS with backtracking (Nocedal & Wright 2006, algorithms 6.1 and 3.1) from many starts (lane, size), in lockstep.

    `evaluate(points (lane, size), active (lane,))` gives values (lane,) and slopes (lane, size). Every turn calls it once, whether the step
    of a lane is then taken or shortened, so that no lane waits for the line search of another; lanes that are done are not active.
    Returns the ends (lane, size) and their values (lane,). The loop is NumPy, so that nothing but `evaluate` has to be compiled.
    """
    lanes, size = starts.shape
    point, step, first = starts.copy(), np.ones(lanes), np.ones(lanes, bool)
    value, slope = evaluate(point, np.ones(lanes, bool))
    inverse = np.broadcast_to(np.eye(size), (lanes, size, size)).copy()
    direction = -slope * np.minimum(1.0, 1.0 / np.abs(slope).max(axis=1))[:, None]
    for _ in range(MOST_TURNS):
        active = (np.abs(slope).max(axis=1) > ENOUGH) & (step > 1e-10)  # False where the slope is NaN
        if not active.any():
            break
        ahead = point + step[:, None] * direction
        there, slope_there = evaluate(ahead, active)
        taken = active & (there <= value + 1e-4 * step * np.sum(slope * direction, axis=1))  # False for NaN
        moved, change = (ahead - point)[taken], (slope_there - slope)[taken]
        point[taken], value[taken], slope[taken] = ahead[taken], there[taken], slope_there[taken]
        inverse[taken] = _updated(inverse[taken], moved, change, first[taken])
        direction[taken] = -np.einsum("lij,lj->li", inverse[taken], slope[taken])
        # Three in logits is most of a box.
        direction[taken] *= np.minimum(1.0, 3.0 / np.maximum(np.abs(direction[taken]).max(axis=1), 1e-300))[:, None]
        step = np.where(taken, 1.0, np.where(active, 0.4 * step, step))
        first &= ~taken
    return point, value


def _updated(inverse: np.ndarray, moved: np.ndarray, change: np.ndarray, first: np.ndarray) -> np.ndarray:
    """The inverse Hessians (lane, size, size) after steps `moved` that changed the slopes by `change`; the first step tells their scale."""
    curvature = np.sum(moved * change, axis=1)
    sound = curvature > 1e-12
    safe = np.where(sound, curvature, 1.0)
    scale = np.where(first & sound, safe / np.where(sound, np.sum(change**2, axis=1), 1.0), 1.0)
    keep = np.eye(moved.shape[1]) - moved[:, :, None] * change[:, None, :] / safe[:, None, None]
    after = keep @ (scale[:, None, None] * inverse) @ keep.transpose(0, 2, 1) + moved[:, :, None] * moved[:, None, :] / safe[:, None, None]
    return np.where(sound[:, None, None], after, inverse)


def basis_size(mean: str, n: int) -> int:
    """Number of coefficients of a mean function of n inputs."""
    return {"constant": 1, "linear": 1 + n, "quadratic": 1 + n + math.comb(n + 1, 2)}[mean]


def basis(mean: str, x: Array, present: Array | bool = True) -> Array:
    """What the mean function is a combination of, x (point, n) -> (point, p): 1; x_i; x_i x_j with i <= j. Zero where not `present`."""
    columns = [jnp.ones_like(x[:, :1])]
    if mean != "constant":
        columns.append(x)
    if mean == "quadratic":
        i, j = np.triu_indices(x.shape[1])
        columns.append(x[:, i] * x[:, j])
    return jnp.where(jnp.reshape(present, (-1, 1)), jnp.concatenate(columns, axis=1), 0.0)
