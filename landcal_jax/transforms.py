"""Whitening maps: theta = T(z) with z ~ N(0, 1), so that theta has its prior distribution.

One class a family of priors; the fields of a class are arrays with one entry an element, in the words of a parameter
table (`mean`, `sd`, `median`, `sd_of_log`, `low`, `high`). Every map is elementwise over the last axis.

The normal distribution function Phi(z) rounds to 1 at z = 8.3, and then a parameter sticks to its upper bound with a
gradient of zero. The maps of bounded priors therefore work in the smaller tail, Phi(-|z|), and measure the distance
from the nearer bound, which keeps full relative precision. The reflection is written `where(z > 0, -z, z)` because the
derivative of |z| at z = 0, where every calibration starts, is 0 in JAX.
"""

import abc
import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import scipy.special
from jax.scipy.special import ndtr, ndtri

from landcal_jax.errors import complain

# A Gaussian whose mean lies further outside its bounds than this is a mistake, and its mass would underflow.
FURTHEST_MEAN_OUTSIDE = 30.0
HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


def _log_tail(y: jax.Array) -> jax.Array:
    """log Phi(y) for y below about -10, by the asymptotic series."""
    v = 1.0 / y**2
    series = 1.0 - v * (1.0 - v * (3.0 - v * (15.0 - v * (105.0 - v * 945.0))))
    return -0.5 * y**2 - HALF_LOG_2PI + jnp.log(series / -y)


def _is_double(x: jax.Array) -> bool:
    return jnp.asarray(x).dtype == jnp.float64


@jax.custom_jvp
def log_ndtr(x: jax.Array) -> jax.Array:
    """log Phi(x) of finite x to rounding. The function of jax.scipy is wrong in the ninth digit near x = -20."""
    start = -30.0 if _is_double(x) else -10.0
    far = x < start
    return jnp.where(far, _log_tail(jnp.where(far, x, start)), jnp.log(ndtr(jnp.where(far, 0.0, x))))


@log_ndtr.defjvp
def _log_ndtr_jvp(primals, tangents):
    (x,), (x_dot,) = primals, tangents
    value = log_ndtr(x)
    return value, jnp.exp(-0.5 * x**2 - HALF_LOG_2PI - value) * x_dot


@jax.custom_jvp
def quantile_of_log(log_p: jax.Array) -> jax.Array:
    """Standard normal quantile of a probability that is given as its logarithm, log_p <= log(1/2).

    Exact where the probability itself would underflow: Newton's method on log Phi, from the asymptotic expansion.
    """
    start = -600.0 if _is_double(log_p) else -80.0
    far = log_p < start
    target = jnp.where(far, log_p, start)
    square = -2.0 * (target + HALF_LOG_2PI)
    y = -jnp.sqrt(square - jnp.log(square))
    for _ in range(2):
        y = y + (_log_tail(y) - target) / (y + 1.0 / y)  # Newton; the derivative to third order is enough
    return jnp.where(far, y, ndtri(jnp.exp(jnp.where(far, -1.0, log_p))))


@quantile_of_log.defjvp
def _quantile_of_log_jvp(primals, tangents):
    (log_p,), (log_p_dot,) = primals, tangents
    y = quantile_of_log(log_p)
    return y, jnp.exp(log_p + 0.5 * y**2 + HALF_LOG_2PI) * log_p_dot


def log_phi(x: jax.Array) -> jax.Array:
    """log of the standard normal distribution function; exact limits (-inf, 0) and no NaN gradient at infinite x."""
    finite = jnp.isfinite(x)
    limit = jnp.where(x < 0, -jnp.inf, 0.0)
    return jnp.where(finite, log_ndtr(jnp.where(finite, x, 0.0)), limit)


def log_interval_mass(lower: jax.Array, upper: jax.Array, width: jax.Array) -> jax.Array:
    """log(Phi(upper) - Phi(lower)); `width` = upper - lower is given apart: it may be far smaller than either."""
    flip = lower > 0  # the difference of the two upper tails is the precise one there
    low, high = jnp.where(flip, -upper, lower), jnp.where(flip, -lower, upper)
    middle = 0.5 * (low + high)
    narrow = jnp.isfinite(middle) & (width * (1.0 + jnp.abs(middle)) < 1e-2)
    m, w = jnp.where(narrow, middle, 0.0), jnp.where(narrow, width, 1e-3)
    series = (m**2 - 1.0) * w**2 / 24.0 + (m**4 - 6.0 * m**2 + 3.0) * w**4 / 1920.0
    of_narrow = -0.5 * m**2 - HALF_LOG_2PI + jnp.log(w) + jnp.log1p(series)
    log_low, log_high = log_phi(jnp.stack([jnp.where(narrow, -1.0, low), jnp.where(narrow, 1.0, high)]))
    of_wide = log_high + jnp.log(-jnp.expm1(log_low - log_high))
    return jnp.where(narrow, of_narrow, of_wide)


def _at_least_rounding(distance: jax.Array, bound: jax.Array) -> jax.Array:
    """Move a value that lies exactly on its bound by less than rounding, so that it has a finite z that maps back.

    Both arguments are in units of the spread of the prior.
    """
    rounding = jnp.finfo(jnp.result_type(distance, float))
    return jnp.maximum(distance, 0.25 * rounding.eps * jnp.abs(bound) + 16.0 * rounding.tiny)


class AbstractTransform(eqx.Module):
    """The map of one family of priors, for arrays of elements."""

    kind: eqx.AbstractClassVar[str]

    @abc.abstractmethod
    def physical(self, z: jax.Array) -> jax.Array:
        """theta = T(z)."""

    @abc.abstractmethod
    def whiten(self, theta: jax.Array) -> jax.Array:
        """z with T(z) = theta; theta must lie inside the bounds."""

    @abc.abstractmethod
    def support(self) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bound, -inf and inf where there is none."""

    @abc.abstractmethod
    def distribution(self) -> dist.Distribution:
        """The prior as a numpyro distribution."""


class NormalTransform(AbstractTransform):
    """theta = mean + sd z."""

    mean: jax.Array
    sd: jax.Array
    kind: ClassVar[str] = "normal"

    def physical(self, z):
        return self.mean + self.sd * z

    def whiten(self, theta):
        return (theta - self.mean) / self.sd

    def support(self):
        return np.full(np.shape(self.mean), -np.inf), np.full(np.shape(self.mean), np.inf)

    def distribution(self):
        return dist.Normal(self.mean, self.sd)


class LogNormalTransform(AbstractTransform):
    """theta = median exp(sd_of_log z)."""

    median: jax.Array
    sd_of_log: jax.Array
    kind: ClassVar[str] = "log_normal"

    def physical(self, z):
        return self.median * jnp.exp(self.sd_of_log * z)

    def whiten(self, theta):
        # A theta of 0 is what a very negative z underflows to: its z is finite too.
        positive = jnp.maximum(theta, jnp.finfo(jnp.result_type(theta, float)).tiny)
        return (jnp.log(positive) - jnp.log(self.median)) / self.sd_of_log

    def support(self):
        return np.zeros(np.shape(self.median)), np.full(np.shape(self.median), np.inf)

    def distribution(self):
        return dist.LogNormal(jnp.log(self.median), self.sd_of_log)


class UniformTransform(AbstractTransform):
    """theta = low + (high - low) Phi(z)."""

    low: jax.Array
    high: jax.Array
    kind: ClassVar[str] = "uniform"

    def physical(self, z):
        upper = z > 0
        distance = (self.high - self.low) * ndtr(jnp.where(upper, -z, z))
        return jnp.where(upper, self.high - distance, self.low + distance)

    def whiten(self, theta):
        width = self.high - self.low
        above = _at_least_rounding((theta - self.low) / width, self.low / width)
        below = _at_least_rounding((self.high - theta) / width, self.high / width)
        upper = below < above
        tail = ndtri(jnp.where(upper, below, above))
        return jnp.where(upper, -tail, tail)

    def support(self):
        return self.low, self.high

    def distribution(self):
        return dist.Uniform(self.low, self.high)


class LogUniformTransform(AbstractTransform):
    """log(theta) uniform between log(low) and log(high)."""

    low: jax.Array
    high: jax.Array
    kind: ClassVar[str] = "log_uniform"

    def physical(self, z):
        upper = z > 0
        distance = jnp.log(self.high / self.low) * ndtr(jnp.where(upper, -z, z))
        return jnp.where(upper, self.high * jnp.exp(-distance), self.low * jnp.exp(distance))

    def whiten(self, theta):
        above = jnp.log1p(_at_least_rounding((theta - self.low) / self.low, 1.0))
        below = -jnp.log1p(-_at_least_rounding((self.high - theta) / self.high, 1.0))
        upper = below < above
        tail = ndtri(jnp.where(upper, below, above) / jnp.log(self.high / self.low))
        return jnp.where(upper, -tail, tail)

    def support(self):
        return self.low, self.high

    def distribution(self):
        return dist.LogUniform(self.low, self.high)


class TruncatedNormalTransform(AbstractTransform):
    """A Gaussian with `mean` and `sd` (before the cut), cut at `low` and `high`; one of them may be infinite."""

    mean: jax.Array
    sd: jax.Array
    low: jax.Array
    high: jax.Array
    kind: ClassVar[str] = "truncated_normal"

    def _bounds_in_sd(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        low, high = (self.low - self.mean) / self.sd, (self.high - self.mean) / self.sd
        return low, high, log_interval_mass(low, high, (self.high - self.low) / self.sd)

    def physical(self, z):
        # By reflection the nearer bound is always seen from above: tail = z or -z is never positive.
        upper = z > 0
        sign, tail = jnp.where(upper, -1.0, 1.0), jnp.where(upper, -z, z)
        low, high, log_mass = self._bounds_in_sd()
        near, far = jnp.where(upper, -high, low), jnp.where(upper, -low, high)
        # The two parts of Phi(x) and of 1 - Phi(x) are positive, so no digit cancels; the smaller one is inverted.
        # One call for all: the function is long, and its compilation would dominate that of a small problem.
        at_near, at_far, above_near, above_far = log_phi(jnp.stack(jnp.broadcast_arrays(near, far, -near, -far)))
        log_other, log_tail = log_ndtr(jnp.stack([-tail, tail]))
        log_below = jnp.logaddexp(at_near + log_other, at_far + log_tail)
        log_above = jnp.logaddexp(above_near + log_other, above_far + log_tail)
        is_below = log_below < log_above
        quantile = quantile_of_log(jnp.where(is_below, log_below, log_above))
        central = self.mean + sign * self.sd * jnp.where(is_below, quantile, -quantile)
        # Rounding alone can leave the bounds; the derivative is not to notice the correction.
        central = central + jax.lax.stop_gradient(jnp.clip(central, self.low, self.high) - central)

        # Close to a bound: the expansion of the quantile about it, in t = probability / density at the bound.
        bounded = jnp.isfinite(near)
        a = jnp.where(bounded, near, 0.0)
        log_t = log_mass + log_tail + 0.5 * a**2 + HALF_LOG_2PI
        is_near = bounded & (log_t < math.log(1e-4) - jnp.log1p(jnp.abs(a)))
        t = jnp.exp(jnp.where(is_near, log_t, -10.0))
        distance = self.sd * t * (1.0 + t * (a / 2.0 + t * (2.0 * a**2 + 1.0) / 6.0))
        bound = jnp.where(upper, self.high, self.low)
        return jnp.where(is_near, jnp.where(is_near, bound, 0.0) + sign * distance, central)

    def whiten(self, theta):
        low, high, log_mass = self._bounds_in_sd()
        finite_low, finite_high = (jnp.where(jnp.isfinite(side), side, 0.0) for side in (self.low, self.high))
        above = _at_least_rounding((theta - self.low) / self.sd, finite_low / self.sd)
        below = _at_least_rounding((self.high - theta) / self.sd, finite_high / self.sd)
        x = (theta - self.mean) / self.sd
        log_above, log_below = log_interval_mass(low, x, above), log_interval_mass(x, high, below)
        upper = log_below < log_above
        tail = quantile_of_log(jnp.where(upper, log_below, log_above) - log_mass)
        return jnp.where(upper, -tail, tail)

    def support(self):
        return self.low, self.high

    def distribution(self):
        return dist.TruncatedNormal(self.mean, self.sd, low=self.low, high=self.high)


class QuantileTransform(AbstractTransform):
    """Any other continuous numpyro distribution, through its own quantile function.

    It sees Phi(z), which rounds to 1 at z = 8.3 (5.3 in single precision): above z = 8 (5), and below z = -12 (-8)
    where second derivatives would overflow, theta stays where it is.
    """

    prior: dist.Distribution
    kind: ClassVar[str] = "other"

    def _shaped(self, values: jax.Array) -> jax.Array:
        return values.reshape(values.shape[:-1] + self.prior.batch_shape) if self.prior.batch_shape else values

    def physical(self, z):
        lowest, highest = (-12.0, 8.0) if _is_double(z) else (-8.0, 5.0)
        return self.prior.icdf(self._shaped(ndtr(jnp.clip(z, lowest, highest)))).reshape(z.shape)

    def whiten(self, theta):
        rounding = jnp.finfo(theta.dtype)
        probability = self.prior.cdf(self._shaped(theta)).reshape(theta.shape)
        return ndtri(jnp.clip(probability, rounding.tiny, 1.0 - rounding.epsneg))

    def support(self):
        low = getattr(self.prior.support, "lower_bound", -np.inf)
        high = getattr(self.prior.support, "upper_bound", np.inf)
        shape = self.prior.batch_shape
        return jnp.broadcast_to(jnp.asarray(low, float), shape), jnp.broadcast_to(jnp.asarray(high, float), shape)

    def distribution(self):
        return self.prior


TABLE_KINDS: dict[str, type[AbstractTransform]] = {
    family.kind: family
    for family in (NormalTransform, LogNormalTransform, UniformTransform, LogUniformTransform, TruncatedNormalTransform)
}


def transform_of(prior: dist.Distribution | AbstractTransform) -> AbstractTransform:
    """The whitening map of a numpyro distribution (a transform is handed through)."""
    if isinstance(prior, AbstractTransform):
        return prior
    if not isinstance(prior, dist.Distribution):
        raise ValueError(complain("a numpyro distribution as prior", f"{type(prior).__name__}: {prior!r}",
                                  "Parameter.normal(...), or Parameter(numpyro.distributions.Normal(...))"))
    if prior.event_shape or prior.support.is_discrete:
        raise ValueError(complain("a continuous prior of one number an element",
                                  f"{type(prior).__name__} with event shape {prior.event_shape}",
                                  "a univariate prior, and `correlation=` of ParameterSpace"))
    shape, inner = prior.batch_shape, prior
    while isinstance(inner, dist.ExpandedDistribution):
        inner = inner.base_dist
    truncated = (dist.TwoSidedTruncatedDistribution, dist.LeftTruncatedDistribution, dist.RightTruncatedDistribution)
    family: type[AbstractTransform]
    if isinstance(inner, dist.Normal):
        family, values = NormalTransform, (inner.loc, inner.scale)
    elif isinstance(inner, dist.LogNormal):
        family, values = LogNormalTransform, (np.exp(inner.loc), inner.scale)
    elif isinstance(inner, dist.Uniform):
        family, values = UniformTransform, (inner.low, inner.high)
    elif isinstance(inner, dist.LogUniform):
        family, values = LogUniformTransform, (inner.low, inner.high)
    elif isinstance(inner, dist.HalfNormal):
        family, values = TruncatedNormalTransform, (0.0, inner.scale, 0.0, np.inf)
    elif isinstance(inner, truncated) and isinstance(inner.base_dist, dist.Normal):
        low, high = getattr(inner, "low", -np.inf), getattr(inner, "high", np.inf)
        family, values = TruncatedNormalTransform, (inner.base_dist.loc, inner.base_dist.scale, low, high)
    else:
        return _quantile_transform(prior)
    return family(*(np.broadcast_to(np.asarray(value, float), shape) for value in values))


def _quantile_transform(prior: dist.Distribution) -> QuantileTransform:
    middle = jnp.full(prior.batch_shape, 0.5)
    try:
        value, slope = jax.jvp(prior.icdf, (middle,), (jnp.ones_like(middle),))
        usable = np.allclose(prior.cdf(value), 0.5) and bool(np.all(np.isfinite(slope)))
        reason = "" if usable else " that does not match its distribution function"
    except (NotImplementedError, ImportError, AttributeError, TypeError) as error:
        usable, reason = False, f" that can be used ({type(error).__name__})"
    if not usable:
        raise ValueError(complain("a prior with a quantile function `icdf`, its inverse `cdf`, and a derivative",
                                  f"{type(prior).__name__} without one{reason}",
                                  "a normal, log-normal, uniform, log-uniform or truncated normal prior"))
    return QuantileTransform(prior)


def table_values(transform: AbstractTransform) -> dict[str, np.ndarray]:
    """The numbers of a prior by their names in a parameter table."""
    return {field.name: np.asarray(getattr(transform, field.name), float) for field in dataclasses.fields(transform)}


def in_words(transform: AbstractTransform) -> str:
    """The prior for people: "truncated normal: mean 2 to 3, sd 0.4, low 0, high 9"."""
    if isinstance(transform, QuantileTransform):
        return type(transform.prior).__name__

    def span(values):
        low, high = f"{np.min(values):.6g}", f"{np.max(values):.6g}"
        return low if low == high else f"{low} to {high}"

    parts = [f"{name.replace('_', ' ')} {span(values)}" for name, values in table_values(transform).items()]
    return f"{transform.kind.replace('_', ' ')}: {', '.join(parts)}"


def median_of(transform: AbstractTransform) -> np.ndarray:
    """T(0) by NumPy: as exact, and at once, where a compilation for every table of parameters would take seconds."""
    if isinstance(transform, QuantileTransform):
        return np.asarray(transform.physical(jnp.zeros(transform.prior.batch_shape)))
    values = table_values(transform)
    if isinstance(transform, UniformTransform):
        return values["low"] + 0.5 * (values["high"] - values["low"])
    if isinstance(transform, LogUniformTransform):
        return values["low"] * np.sqrt(values["high"] / values["low"])
    if isinstance(transform, TruncatedNormalTransform):
        low, high = ((values[side] - values["mean"]) / values["sd"] for side in ("low", "high"))
        below = 0.5 * (scipy.special.ndtr(low) + scipy.special.ndtr(high))
        above = 0.5 * (scipy.special.ndtr(-low) + scipy.special.ndtr(-high))
        quantile = np.where(below < above, scipy.special.ndtri(below), -scipy.special.ndtri(above))
        return np.clip(values["mean"] + values["sd"] * quantile, values["low"], values["high"])
    return values["median" if isinstance(transform, LogNormalTransform) else "mean"]


def check_transform(transform: AbstractTransform, who: str) -> None:
    """Raise ValueError when the numbers of a prior make no distribution; `who` names the parameter."""
    if isinstance(transform, QuantileTransform):
        return

    def refuse(wrong, expected, names, advice):
        wrong = np.broadcast_to(np.asarray(wrong), values_shape)
        if wrong.any():
            first = np.unravel_index(np.argmax(wrong), wrong.shape)
            got = ", ".join(f"{name} = {float(np.broadcast_to(values[name], values_shape)[first])!r}" for name in names)
            element = f" in element {[int(axis) for axis in first]}" if first else ""
            raise ValueError(complain(f"{expected} for {who}", f"{got}{element}", advice))

    values = table_values(transform)
    values_shape = np.broadcast_shapes(*(array.shape for array in values.values()))
    may_be_infinite = {"low": -np.inf, "high": np.inf} if transform.kind == "truncated_normal" else {}
    for name, array in values.items():
        infinite_is_fine = (array == may_be_infinite[name]) if name in may_be_infinite else False
        refuse(~(np.isfinite(array) | infinite_is_fine), f"a finite {name}", [name], "correct the number")
    for name in {"sd", "sd_of_log", "median"} & set(values):
        refuse(values[name] <= 0, f"{name} > 0", [name], "a positive number in the units of the parameter")
    if "low" in values:
        refuse(values["low"] >= values["high"], "low < high", ["low", "high"], "swap or correct the bounds")
    if transform.kind == "log_uniform":
        refuse(values["low"] <= 0, "low > 0 for a log-uniform prior", ["low"], "a positive bound, or a uniform prior")
    if transform.kind == "truncated_normal":
        limit = FURTHEST_MEAN_OUTSIDE * values["sd"]
        outside = (values["low"] - values["mean"] > limit) | (values["mean"] - values["high"] > limit)
        refuse(outside, f"a mean at most {FURTHEST_MEAN_OUTSIDE:g} sd outside the bounds", list(values),
               "a mean inside the bounds, or a larger sd")
