"""Where to run an expensive model next: log expected improvement, with noise, points that still run, constraints, and sums of squares.

The improvement of a run at x over the best value b so far is max(b - f(x), 0). Under a Gaussian process with mean m and standard
deviation s its expectation is s h(t), t = (b - m)/s, h(t) = phi(t) + t Phi(t) (Jones et al. 1998, J. Global Optimization 13, 455). Far from
promising places h underflows, with its gradient, and a search for its maximum stands still; its logarithm does not (Ament et al. 2023,
NeurIPS 36, LogEI). `log_h` has it to rounding for any t: below -5 by the continued fraction of Mills' ratio, in which nothing cancels.

With noise nobody knows b, and of runs that are still pending nobody knows f. Both are drawn: `fantasies` of f at the best places so far
and at the pending ones, jointly, from their posterior, by quasi Monte Carlo. Given such a draw, b is known, and the expected improvement
at x has the closed form above under the process conditioned on the draw; the acquisition is the mean over draws, in logarithms (noisy
expected improvement, Letham et al. 2019, Bayesian Analysis 14, 495). Points of a batch are chosen one after the other, those before as
pending. The sum of what they gain is the joint expected improvement of the batch, since f at pending points is part of the
draw; choosing greedily reaches 63 % of the best possible at least (Wilson et al. 2018, NeurIPS 31) and searches n dimensions at a
time. The other way, drawing f at x too (qLogEI), searches q n dimensions and has an integrand with a kink instead of a closed form.

J is a sum of squares of many residuals, each of which is far smoother than J, and has a sign. So each has a process, and J of a draw is
made of theirs ("composite functions", Astudillo & Frazier 2019, ICML): where two runs have residuals of opposite sign there is something
lower between them, which no process of J itself can see. J at x then is no normal variable, so that it is drawn too, with the same
numbers at every x, and the kink of the improvement is smoothed (`SMOOTH`; the softplus with a tail of Ament et al. 2023).

Constraints c(x) <= 0 each have a process of their own and count by the probability that they hold (Gardner et al. 2014, ICML); in a draw,
b is the best among places where the drawn constraints hold.
"""

import math
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtri as quantile
from scipy.special import ndtri

from landcal_jax import gp_fitting
from landcal_jax.gp import KERNELS, GaussianProcesses

FAR = -5.0  # below it the direct formula would lose more than two digits
TERMS = 40  # of the continued fraction: converged to rounding at FAR, sooner farther out
ROUNDING = 1e-10  # share of the variance of a process below which a direction of its posterior is known
ROOM = 8  # directions of a draw are filled up to a multiple of this, so that few shapes are compiled
DRAWS = 64  # a power of two, for which a Sobol sequence is balanced
SMOOTH, TAIL = 1e-3, 0.01  # of J, in which differences of 1e-3 mean nothing: width of the kink, weight of the tail
LARGEST = 30.0  # of what sinh is taken of
CANDIDATES, SEARCHES = 256, 4  # of each kind, everywhere and about the best places; powers of two for the same reason
APART = 0.01  # of the range, in the input in which two places of a batch differ most
SCALES = (-4.0, -0.5)  # decimal logarithms of distances about the best places, as a share of the range
UNIT = 0.1  # radians that count as one in a search: its first step is that long at most


@jax.custom_jvp
def log_h(t: Array) -> Array:
    """log(phi(t) + t Phi(t)) to rounding, with its derivative Phi/h, for any t; phi and Phi of the standard normal."""
    return _log_h(t)[0]


@log_h.defjvp
def _log_h_jvp(primals, tangents):
    value, slope = _log_h(primals[0])
    return value, slope * tangents[0]


def _log_h(t: Array) -> tuple[Array, Array]:
    """log h and its derivative."""
    far = t < FAR
    near = jnp.where(far, 0.0, t)
    below = jax.scipy.special.ndtr(near)
    h = jnp.exp(-0.5 * near**2) / math.sqrt(2 * math.pi) + near * below
    # With a = -t and Mills' ratio Phi(t)/phi(t) = 1/(a + K), K = 1/(a + 2/(a + 3/(a + ...))): h = phi K/(a + K), in which nothing cancels.
    a = jnp.where(far, -t, -FAR)
    K = jax.lax.fori_loop(0, TERMS, lambda turn, fraction: (TERMS - turn) / (a + fraction), jnp.zeros_like(a))
    tail = -0.5 * a**2 - 0.5 * math.log(2 * math.pi) + jnp.log(K) - jnp.log(a + K)
    return jnp.where(far, tail, jnp.log(h)), jnp.where(far, 1.0 / K, below / h)


def log_expected_improvement(mean: Array, variance: Array, best: Array) -> Array:
    """log E max(best - f, 0) for f normal with `mean` and `variance` above zero; arrays of one shape, or that broadcast."""
    sd = jnp.sqrt(variance)
    return jnp.log(sd) + log_h((best - mean) / sd)


def log_probability_below(mean: Array, variance: Array, limit: float = 0.0) -> Array:
    """log P(c <= limit) for c normal with `mean` and `variance` above zero."""
    return jax.scipy.special.log_ndtr((limit - mean) / jnp.sqrt(variance))


def log_smooth_improvement(gain: Array) -> Array:
    """log of max(gain, 0) with the kink smoothed over `SMOOTH`, and a tail of power -2 below it, which has a slope everywhere."""
    relative = gain / SMOOTH
    return jnp.log(SMOOTH) + jnp.log(jax.nn.softplus(relative) + TAIL / (1.0 + relative**2))


class SumOfSquares(eqx.Module):
    """J = 1/2 z'z + 1/2 sum_k r_k^2 + constant, with residuals r = scale sinh(f / scale) of outputs f of processes.

    `scale` (k,): the size of a residual above which its process sees the logarithm; `constant` (): what all runs share.
    """

    scale: Array
    constant: Array

    def prior(self, x: Array) -> Array:
        """1/2 z'z + constant at places x (..., n) in (-1, 1)."""
        return 0.5 * jnp.sum(quantile(0.5 * (x + 1.0)) ** 2, axis=-1) + self.constant

    def squares(self, f: Array) -> Array:
        """1/2 sum_k r_k^2 of outputs f (k, ...)."""
        scale = self.scale.reshape(-1, *(1,) * (f.ndim - 1))
        # Where a draw is beyond it, 1e13 times the scale, it may be so large that its square would not be a number.
        return 0.5 * jnp.sum((scale * jnp.sinh(jnp.clip(f / scale, -LARGEST, LARGEST))) ** 2, axis=0)


class Draws(eqx.Module):
    """Draws of k outputs at some places, and what each draw makes known elsewhere.

    `known` (point, n): where the draws are; `whitened` (k, point, direction): directions of the posterior there over
    their standard deviation, `seen` and `unknown` what the runs and the mean function make of them; `normal` (k, draw, direction):
    the draws; `floor` (k,): the variance that counts as none.
    """

    processes: tuple[GaussianProcesses, ...]
    known: Array
    whitened: tuple[Array, ...]
    seen: tuple[Array, ...]
    unknown: tuple[Array, ...]
    normal: Array
    floor: Array

    def at(self, x: Array) -> tuple[Array, Array]:
        """Means (k, draw) and variances (k,) of the outputs at x (n,), given the draws."""
        parts = zip(self.processes, self.whitened, self.seen, self.unknown, strict=True)
        means, variances, loadings = map(jnp.concatenate, zip(*(_conditioned(*part, self.known, x) for part in parts), strict=True))
        # What is known in a draw has no variance left; the floor keeps the logarithm and its slope where x is such a place.
        variances = jnp.maximum(variances - jnp.sum(loadings**2, axis=1), self.floor)
        return means[:, None] + jnp.einsum("kd,ksd->ks", loadings, self.normal), variances


class LogNoisyExpectedImprovement(eqx.Module):
    """The acquisition: a function of one point x (n,), larger where a run is worth more, with exact gradients. `fantasies` makes it.

    `draws`: of the objective, or of the residuals that make it (`squares`, with `fresh` (k, draw) the normal numbers that residuals at x
    are drawn with), and then of constraints; `success`: of what is below zero where runs finish; `best` (draw,): lowest value in each;
    `least`: a gain for which no failed run is risked: where all gains are smaller, places are sought where runs finish.
    """

    draws: Draws
    success: GaussianProcesses | None
    squares: SumOfSquares | None
    fresh: Array
    best: Array
    least: Array

    def __call__(self, x: Array) -> Array:
        means, variances = self.draws.at(x)
        if self.squares is None:
            first = 1
            each = log_expected_improvement(means[0], variances[0], self.best)
        else:
            first = len(self.fresh)
            residuals = means[:first] + jnp.sqrt(variances[:first, None]) * self.fresh
            each = log_smooth_improvement(self.best - self.squares.prior(x) - self.squares.squares(residuals))
        each += jnp.sum(log_probability_below(means[first:], variances[first:, None]), axis=0)
        gain = jax.scipy.special.logsumexp(each) - math.log(each.size)
        return gain if self.success is None else jnp.logaddexp(gain, jnp.log(self.least)) + log_success(self.success, x)


def log_success(success: GaussianProcesses, x: Array) -> Array:
    """log of the probability that a run at x (n,) finishes."""
    return jnp.sum(log_probability_below(*success.predict(x, nugget=False)))


def joint(processes: tuple[GaussianProcesses, ...], x: Array) -> tuple[Array, Array]:
    """Mean (k, point) and covariance (k, point, point) of all outputs at x (point, n)."""
    means, covariances = zip(*(each.joint(x) for each in processes), strict=True)
    return jnp.concatenate(means, axis=1).T, jnp.concatenate(covariances)


def fantasies(
    processes: tuple[GaussianProcesses, ...], known: Array, *, squares: SumOfSquares | None = None, best: float = np.inf,
    success: GaussianProcesses | None = None, least: float = 0.0, draws: int = DRAWS, seed: int | Sequence[int] = 0,
) -> LogNoisyExpectedImprovement:
    """The acquisition with f drawn at `known` (point, n): the best places so far, and those whose runs are pending.

    `processes`: of the objective, or of the residuals that make it by `squares`, and then of constraints. `best`: a value that is known
    without noise to be there. A place may be given twice, which changes nothing: so one may fill `known` up to a size that is compiled
    already. `least`: see `LogNoisyExpectedImprovement`. `draws`: a power of two; `seed` of the scrambled Sobol sequence. Where no
    drawn place is feasible, b is the highest value drawn: a run gains by being feasible at all.
    """
    known = np.asarray(known, float)
    mean, covariance = (np.asarray(part) for part in _joint(processes, jnp.asarray(known)))
    floor = ROUNDING * np.concatenate([np.asarray(each.signal) ** 2 for each in processes])
    root, whitened = _directions(covariance, floor)
    first = 1 if squares is None else len(squares.scale)
    numbers = [_normal(root.shape[2] + (squares is not None and output < first), draws, seed, output) for output in range(len(mean))]
    normal = np.stack([each[:, : root.shape[2]] for each in numbers])
    fresh = np.zeros((0, draws)) if squares is None else np.stack([each[:, -1] for each in numbers[:first]])
    drawn = mean[:, None] + np.einsum("kpd,ksd->ksp", root, normal)
    values = drawn[0] if squares is None else np.asarray(squares.prior(jnp.asarray(known)) + squares.squares(jnp.asarray(drawn[:first])))
    lowest = np.minimum(np.where((drawn[first:] <= 0).all(axis=0), values, np.inf).min(axis=1, initial=np.inf), best)
    lowest = np.where(np.isfinite(lowest), lowest, values.max(axis=1, initial=-np.inf))
    return LogNoisyExpectedImprovement(
        _draws(processes, known, whitened, normal, floor), success, squares, jnp.asarray(fresh), jnp.asarray(lowest), jnp.asarray(least))


def _normal(size: int, draws: int, seed: int | Sequence[int], output: int) -> np.ndarray:
    """Normal numbers (draw, size) of one output, which do not depend on how many others there are: a Sobol sequence in random order."""
    from scipy.stats import qmc  # here, because scipy.stats takes a second to import

    rng = np.random.default_rng([*np.atleast_1d(seed), output])
    if not size:
        return np.zeros((draws, 0))
    return rng.permutation(ndtri(qmc.Sobol(size, rng=rng).random_base2(int(math.log2(draws)))))


def _directions(covariance: np.ndarray, floor: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions in which a posterior (k, point, point) is not known, times and over their standard deviation, (k, point, direction)."""
    points = covariance.shape[1]
    if not points:
        return (np.zeros((len(covariance), 0, 0)),) * 2
    variances, vectors = np.linalg.eigh(covariance)
    sure = variances <= points * floor[:, None]
    number = -(-int((~sure).sum(axis=1).max()) // ROOM) * ROOM
    sd = np.sqrt(np.where(sure, 1.0, variances))[:, None]
    # The last of them vary most; zeros where there are not so many.
    return tuple(np.pad(np.where(sure[:, None], 0.0, directions), ((0, 0), (0, 0), (max(number - points, 0), 0)))[:, :, -number or points :]
                 for directions in (vectors * sd, vectors / sd))


def _draws(processes, known, whitened, normal, floor) -> Draws:
    """With what does not depend on x worked out."""
    parts, begin = [], 0
    for each in processes:
        parts.append((jnp.asarray(whitened[begin : begin + len(each.log_posterior)]), jnp.asarray(known)))
        begin += len(each.log_posterior)
    seen, unknown = zip(*(_loadings(each, *part) for each, part in zip(processes, parts, strict=True)), strict=True)
    return Draws(processes, jnp.asarray(known), tuple(part[0] for part in parts), seen, unknown, jnp.asarray(normal), jnp.asarray(floor))


def _scaled(process: GaussianProcesses, x: Array) -> Array:
    return (x - process.x_scale[0]) / process.x_scale[1]


def _covariances(process: GaussianProcesses, h: gp_fitting.Hyperparameters, first: Array, second: Array) -> Array:
    """Prior covariance of the smooth part, (point, run)."""
    return h.signal * gp_fitting.correlation(KERNELS[process.kernel](), gp_fitting.squared_distances(h.lengths, first, second))


@eqx.filter_jit
def _loadings(process: GaussianProcesses, whitened: Array, known: Array) -> tuple[Array, Array]:
    """What runs (k, run, direction) and mean function (k, p, direction) make of `whitened` (k, point, direction)."""
    known = _scaled(process, known)
    basis = gp_fitting.basis(process.mean, known)

    def one(h, factors, whitened):
        k = jnp.where(process.present, _covariances(process, h, known, process.scaled_x), 0.0)
        return (k @ factors.whiten.T).T @ whitened, (k @ factors.remain.T + basis @ factors.root.T).T @ whitened

    return jax.vmap(one)(process.hyperparameters, process.factors, whitened)


def _conditioned(process: GaussianProcesses, whitened: Array, seen: Array, unknown: Array, known: Array, x: Array):
    """Mean (k,), variance (k,), and covariance with the directions of the draws (k, direction), of one process at x (n,)."""
    x, known = _scaled(process, x)[None], _scaled(process, known)
    basis = gp_fitting.basis(process.mean, x)[0]

    def one(h, factors, whitened, seen, unknown):
        k = jnp.where(process.present, _covariances(process, h, x, process.scaled_x)[0], 0.0)
        of_runs, of_mean = factors.whiten @ k, factors.remain @ k + factors.root @ basis
        variance = h.signal * (1.0 + gp_fitting.JITTER) - of_runs @ of_runs + of_mean @ of_mean
        loading = _covariances(process, h, x, known)[0] @ whitened - of_runs @ seen + of_mean @ unknown
        return basis @ factors.coefficients + k @ factors.weights, variance, loading

    mean, variance, loading = jax.vmap(one)(process.hyperparameters, process.factors, whitened, seen, unknown)
    centre, scale = process.y_scale
    return centre + scale * mean, scale**2 * variance, scale[:, None] ** 2 * loading


def maximise(
    acquisition: Callable[[Array], Array], low: np.ndarray, high: np.ndarray, near: np.ndarray, *, away: np.ndarray | None = None,
    seed: int | Sequence[int] = 0,
) -> tuple[np.ndarray, float]:
    """The point x (n,) between `low` and `high` (n,) where `acquisition` is largest, and its value.

    `CANDIDATES` of a Sobol sequence, and as many about `near` (point, n) at distances of all scales, are tried; the best of both
    kinds start searches with exact gradients, all in one batch, in angles: x = middle + half the range times sin(angle), which has every
    point between the bounds and no bounds. Of all these points the best is taken that differs from each of `away` (point, n)
    by `APART` of the range in some input: processes that believe to know everything would see a batch heaped up at one place.
    """
    from scipy.stats import qmc

    rng = np.random.default_rng(seed)
    everywhere = low + (high - low) * qmc.Sobol(len(low), rng=rng).random_base2(int(math.log2(CANDIDATES)))
    centres = near[rng.integers(len(near), size=CANDIDATES)]
    scales = 10.0 ** rng.uniform(*SCALES, (CANDIDATES, 1))
    about = np.clip(centres + scales * (high - low) * rng.standard_normal(centres.shape), low, high)
    candidates = np.concatenate([everywhere, about])
    values = np.asarray(_values(acquisition, jnp.asarray(candidates)))
    order = np.argsort(-values, kind="stable")
    starts = np.concatenate([order[order < CANDIDATES][:SEARCHES], order[order >= CANDIDATES][:SEARCHES]])
    middle, half = 0.5 * (low + high), 0.5 * (high - low)

    def downhill(angles, active):
        x = middle + half * np.sin(UNIT * angles)
        value, slope = (np.array(part) for part in _values_and_slopes(acquisition, jnp.asarray(x)))
        return -value, -slope * half * np.cos(UNIT * angles) * UNIT

    # At a bound itself an angle has no slope.
    inside = np.clip((candidates[starts] - middle) / half, -0.9999, 0.9999)
    ends, lowest = gp_fitting.minimise(downhill, np.arcsin(inside) / UNIT)
    points = np.concatenate([np.clip(middle + half * np.sin(UNIT * ends), low, high), candidates])
    values = np.concatenate([-lowest, values])
    if away is not None and len(away):
        distance = np.abs((points[:, None] - away) / (high - low)).max(axis=2).min(axis=1)
        values = np.where(distance >= APART, values, -np.inf)
    best = int(np.argmax(values))
    return points[best], float(values[best])


@eqx.filter_jit
def _joint(processes, x):
    return joint(processes, x)


@eqx.filter_jit
def _values(acquisition, x):
    return jax.vmap(acquisition)(x)


@eqx.filter_jit
def _values_and_slopes(acquisition, x):
    return jax.vmap(jax.value_and_grad(acquisition))(x)
