"""Where to run an expensive model next: log expected improvement, with noise, points that still run, and constraints.

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
from scipy.special import ndtri

from landcal_jax.gp import GaussianProcesses

FAR = -5.0  # below it the direct formula would lose more than two digits
TERMS = 40  # of the continued fraction: converged to rounding at FAR, sooner farther out
ROUNDING = 1e-10  # share of the variance of a process below which a direction of its posterior is known
DRAWS = 64  # a power of two, for which a Sobol sequence is balanced
CANDIDATES, SEARCHES = 256, 4  # of each kind, everywhere and about the best places; powers of two for the same reason
APART = 0.01  # of the range, in the input in which two places of a batch differ most
SCALES = (-4.0, -0.5)  # decimal logarithms of distances about the best places, as a share of the range


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


class LogNoisyExpectedImprovement(eqx.Module):
    """The acquisition: a function of one point x (n,), larger where a run is worth more, with exact gradients. `fantasies` makes it.

    `processes`: of the objective and then of constraints, k outputs in all; `success`: of what is below zero where runs finish.
    `known` (point, n): places where the draws are; `whitened` (k, point, direction): directions of the posterior there over
    their standard deviation; `normal` (k, draw, direction): the draws; `best` (draw,): lowest value in each; `floor` (k,): the variance
    that counts as none.
    """

    processes: tuple[GaussianProcesses, ...]
    success: GaussianProcesses | None
    known: Array
    whitened: Array
    normal: Array
    best: Array
    floor: Array

    def __call__(self, x: Array) -> Array:
        mean, covariance = joint(self.processes, jnp.concatenate([x[None], self.known]))
        loading = jnp.einsum("kp,kpd->kd", covariance[:, 0, 1:], self.whitened)
        # What is known in a draw has no variance left; the floor keeps the logarithm and its slope where x is such a place.
        variance = jnp.maximum(covariance[:, 0, 0] - jnp.sum(loading**2, axis=1), self.floor)
        means = mean[:, :1] + jnp.einsum("kd,ksd->ks", loading, self.normal)
        each = log_expected_improvement(means[0], variance[0], self.best)
        each += jnp.sum(log_probability_below(means[1:], variance[1:, None]), axis=0)
        return jax.scipy.special.logsumexp(each) - math.log(each.size) + log_success(self.success, x)


def log_success(success: GaussianProcesses | None, x: Array) -> Array:
    """log of the probability that a run at x (n,) finishes; zero where none has failed so far."""
    if success is None:
        return jnp.zeros(())
    return jnp.sum(log_probability_below(*success.predict(x, nugget=False)))


def joint(processes: tuple[GaussianProcesses, ...], x: Array) -> tuple[Array, Array]:
    """Mean (k, point) and covariance (k, point, point) of all outputs at x (point, n)."""
    means, covariances = zip(*(each.joint(x) for each in processes), strict=True)
    return jnp.concatenate(means, axis=1).T, jnp.concatenate(covariances)


def fantasies(
    processes: tuple[GaussianProcesses, ...], known: Array, *, success: GaussianProcesses | None = None, draws: int = DRAWS,
    seed: int | Sequence[int] = 0,
) -> LogNoisyExpectedImprovement:
    """The acquisition with f drawn at `known` (point, n): the best places so far, and those whose runs are pending.

    A place may be given twice, which changes nothing: so one may fill `known` up to a size that is compiled already.
    `draws`: a power of two; `seed` of the scrambled Sobol sequence. Where no drawn place is feasible, b is the highest
    value drawn: a run gains by being feasible at all.
    """
    from scipy.stats import qmc  # here, because scipy.stats takes a second to import

    mean, covariance = (np.asarray(part) for part in _joint(processes, jnp.asarray(known)))
    outputs, points = mean.shape
    variances, vectors = np.linalg.eigh(covariance)
    floor = ROUNDING * np.concatenate([np.asarray(each.signal) ** 2 for each in processes])
    sure = variances <= points * floor[:, None]
    sd = np.sqrt(np.where(sure, 1.0, variances))[:, None]
    whitened, root = (np.where(sure[:, None], 0.0, directions) for directions in (vectors / sd, vectors * sd))
    uniform = qmc.Sobol(outputs * points, rng=np.random.default_rng(seed)).random_base2(int(math.log2(draws)))
    normal = ndtri(uniform).reshape(draws, outputs, points).transpose(1, 0, 2)
    drawn = mean[:, None] + np.einsum("kpd,ksd->ksp", root, normal)
    lowest = np.where((drawn[1:] <= 0).all(axis=0), drawn[0], np.inf).min(axis=1)
    best = np.where(np.isfinite(lowest), lowest, drawn[0].max(axis=1))
    return LogNoisyExpectedImprovement(processes, success, *map(jnp.asarray, (known, whitened, normal, best, floor)))


def maximise(
    acquisition: Callable[[Array], Array], low: np.ndarray, high: np.ndarray, near: np.ndarray, *, away: np.ndarray | None = None,
    seed: int | Sequence[int] = 0,
) -> tuple[np.ndarray, float]:
    """The point x (n,) between `low` and `high` (n,) where `acquisition` is largest, and its value.

    `CANDIDATES` of a Sobol sequence, and as many about `near` (point, n) at distances of all scales, are tried; the best of both
    kinds start searches by L-BFGS-B with exact gradients. Of all these points the best is taken that differs from each of `away` (point, n)
    by `APART` of the range in some input: processes that believe to know everything would see a batch heaped up at one place.
    """
    from scipy.optimize import minimize
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

    def downhill(x):
        value, slope = _value_and_slope(acquisition, jnp.asarray(x))
        return -float(value), -np.asarray(slope)

    bounds = list(zip(low, high, strict=True))
    ends = [minimize(downhill, candidates[start], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 100}) for start in starts]
    points = np.concatenate([[np.clip(end.x, low, high) for end in ends], candidates])
    values = np.concatenate([[-end.fun for end in ends], values])
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
def _value_and_slope(acquisition, x):
    return jax.value_and_grad(acquisition)(x)
