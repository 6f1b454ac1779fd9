"""The errors of a stream, its part of R: measurement error per value, and the error of the model with memory in time.

    R = diag(sigma^2) + S C S        S = diag(s_i), C_ij = exp(-|t_i - t_j| / days)

`sigma` is what the instrument is uncertain by, independent from value to value. `s` is how far the model may be from the
truth even with the best parameters: constant, growing with the flux, or changing with the season; what a model lacks
today it lacks tomorrow, so that these errors are correlated.

R of this kind is quasi-separable (Foreman-Mackey et al. 2017, Astronomical Journal 154, 220): the correlated part is a Markov
process that is observed with noise, so a Kalman filter gives the whitened residuals R^(-1/2) (y - h) and log det R
exactly, in O(n), with gaps of any length. Written for one state it is two recursions of a few operations, which JAX compiles to a
tight loop; scanned in parallel (Sarkka and Garcia-Fernandez 2021) it took fifty times as long on a processor.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

YEAR = 365.25 * 1440.0
"""Minutes of a mean year."""


class ExponentialCorrelation(eqx.Module):
    """Correlation exp(-dt / days) between the whole errors at two times dt apart, measurement and model alike: R = D C D.

    For instruments that drift. Where the model is what errs with memory, give `ModelError(correlation_days=)` instead.
    """

    days: Array

    def __init__(self, days: float):
        if not (np.isfinite(days) and days > 0):
            raise ValueError(complain("an e-folding time above zero, in days", f"{days}",
                                      "leave `correlation` out for independent errors"))
        self.days = jnp.asarray(days, jnp.result_type(float))


class ModelError(eqx.Module):
    """Standard deviation and memory of the error of the model in one stream, in the units of the stream.

        s_i = (constant + proportional * level_i) * exp(a cos(phi_i) + b sin(phi_i)),   (a, b) = seasonal

    phi runs once through a year from 1 January. `level` (site, n_obs), zero or more, is what a share (`proportional` above zero)
    multiplies: the size of the modelled flux of a run (see `at`). Error estimation, error parameters and twins set it; a stream
    whose error has a share without a level raises ValueError as soon as its errors are asked for. The size of the observed values
    would not do: what was observed too small would be trusted most, and would drag the fit below the truth.
    `correlation_days` is the e-folding time of the correlation in time; None for errors that are independent.
    All but `level` are scalars, or one for each site; `seasonal` is a pair, or one for each site. The field `proportional` is None
    where it is zero everywhere.
    Raises ValueError for negative numbers, those that are not finite, or a correlation time that is not above zero.
    """

    constant: Array
    proportional: Array | None
    seasonal: Array
    days: Array | None
    level: Array | None

    def __init__(self, constant: ArrayLike = 0.0, *, proportional: ArrayLike = 0.0, seasonal: ArrayLike = (0.0, 0.0),
                 correlation_days: ArrayLike | None = None, level: ArrayLike | None = None):
        for name, value in (("model_error", constant), ("proportional", proportional), ("level", level)):
            if value is not None and not _numbers(value, least=0.0):
                raise ValueError(complain(f"a `{name}` of zero or more", f"{np.asarray(value).tolist()}",
                                          "give a finite standard deviation, share or level"))
        if correlation_days is not None and not (_numbers(correlation_days, least=0.0) and np.all(np.asarray(correlation_days) > 0)):
            raise ValueError(complain("an e-folding time above zero, in days", f"{correlation_days}",
                                      "leave `correlation_days` out for independent errors"))
        if np.shape(seasonal)[-1:] != (2,) or not np.isfinite(np.asarray(seasonal, float)).all():
            raise ValueError(complain("`seasonal` as two finite numbers, of the cosine and of the sine", f"{seasonal}",
                                      "(0.0, 0.0) for none"))

        def real(value):
            return None if value is None else jnp.asarray(value, jnp.result_type(float))

        self.constant, self.seasonal, self.days, self.level = real(constant), real(seasonal), real(correlation_days), real(level)
        # Whether there is a share is structure, so that a level that is missing is noticed inside jit too.
        self.proportional = real(proportional) if np.any(np.asarray(proportional)) else None

    @property
    def plain(self) -> bool:
        """Whether it is nothing but a constant."""
        return self.days is None and self.proportional is None and not np.any(np.asarray(self.seasonal))

    @property
    def complete(self) -> bool:
        """Whether it has the level that it grows with, or does not grow."""
        return self.proportional is None or self.level is not None

    def at(self, modelled: ArrayLike) -> "ModelError":
        """The same error, growing with the size of these modelled values (site, n_obs). Usable inside jit."""
        level = jnp.abs(jnp.atleast_2d(jnp.asarray(modelled)))
        return eqx.tree_at(lambda error: error.level, self, level, is_leaf=lambda node: node is None)

    def completed(self, modelled: ArrayLike) -> "ModelError":
        """The same error where it is `complete`, otherwise that `at` these modelled values (site, n_obs). Usable inside jit."""
        return self if self.complete else self.at(modelled)

    def for_sites(self, sites: int, n_obs: int) -> "ModelError":
        """With one number for each of `sites`, as a `Stream` keeps it; ValueError where the shapes are others."""
        def shaped(name, value, shape):
            try:
                return None if value is None else jnp.broadcast_to(value, shape)
            except ValueError:
                raise ValueError(complain(f"a `{name}` of one number, or shape {shape}", f"shape {value.shape}",
                                          "give a scalar or one for each site")) from None

        shapes = {"constant": (sites,), "proportional": (sites,), "seasonal": (sites, 2), "days": (sites,), "level": (sites, n_obs)}
        fields = [shaped("model_error" if name == "constant" else name, getattr(self, name), shape) for name, shape in shapes.items()]
        return eqx.tree_at(lambda error: [getattr(error, name) for name in shapes], self, fields, is_leaf=lambda node: node is None)

    def deviation(self, mask: Array, minutes: Array | None) -> Array:
        """s (site, n_obs), at times in minutes since 1970 (needed by a season). Raises ValueError without its level.

        A level that is not finite where the `mask` (site, n_obs) says that nothing was observed counts as zero.
        """
        if not self.complete:
            raise ValueError(complain(
                "the level that a `proportional` model error grows with", "none",
                'stream.with_model_error(error.at(problem.predict(z)["nee"])) and problem.with_observations, or estimate_errors'))
        base = self.constant[:, None]
        if self.proportional is not None:
            # Guarded here, since the derivative by the share would be NaN even where the mask takes s out.
            base = base + self.proportional[:, None] * jnp.where(mask | jnp.isfinite(self.level), self.level, 0.0)
        if minutes is None:
            return jnp.broadcast_to(base, mask.shape)
        phase = 2.0 * jnp.pi * minutes / YEAR
        return base * jnp.exp(self.seasonal[:, :1] * jnp.cos(phase) + self.seasonal[:, 1:] * jnp.sin(phase))

    def __str__(self) -> str:
        def words(array, unit=""):
            return " to ".join(f"{end:.3g}{unit}" for end in sorted({float(np.min(array)), float(np.max(array))}))

        parts = [words(self.constant)]
        if self.proportional is not None:
            missing = "" if self.complete else ", which is not given yet"
            parts.append(f"{words(100 * self.proportional, ' %')} of the modelled value{missing}")
        line = " + ".join(parts)
        if np.any(np.asarray(self.seasonal)):
            # Hypot: the largest factor of the year is exp of it.
            line += f", times up to {words(np.exp(np.hypot(*np.moveaxis(np.asarray(self.seasonal), -1, 0))))} with the season"
        return line if self.days is None else f"{line}, correlated over {words(self.days)} days"


def check_memory(error: ModelError, correlation: ExponentialCorrelation | None, minutes: ArrayLike | None) -> None:
    """Errors that need times have them, and errors remember in one way only."""
    if correlation is not None and error.days is not None:
        raise ValueError(complain("a correlation of the whole error, or one of the model error", "both", "leave `correlation` out"))
    # Inside jit the numbers of a season are not known: whoever puts them there has looked at the times.
    season = not isinstance(error.seasonal, jax.core.Tracer) and np.any(np.asarray(error.seasonal))
    if minutes is None and (correlation is not None or error.days is not None or season):
        raise ValueError(complain("the times of observations whose errors are correlated or change with the season", "no `time`",
                                  "pass time=, datetimes"))


def _numbers(value: ArrayLike, least: float) -> bool:
    array = np.asarray(value, float)
    return bool((np.isfinite(array) & (array >= least)).all())


class Chain(eqx.Module):
    """The observed value before each observed value: whether there is one, and the days between the two (1 where none)."""

    linked: Array
    gap: Array

    def __init__(self, minutes: np.ndarray, mask: np.ndarray):
        place = np.where(mask, np.arange(mask.shape[1]), -1)
        latest = np.maximum.accumulate(place, axis=1)
        previous = np.concatenate([np.full((len(mask), 1), -1), latest[:, :-1]], axis=1)
        linked = mask & (previous >= 0)
        gap = minutes - np.take_along_axis(minutes, np.maximum(previous, 0), axis=1)
        self.linked = jnp.asarray(linked)
        self.gap = jnp.asarray(np.where(linked, gap / 1440.0, 1.0), jnp.result_type(float))

    def decay(self, days: Array) -> tuple[Array, Array]:
        """rho_i and 1 - rho_i^2, 0 and 1 for the first value of a site. `days` is a scalar or (site, 1)."""
        return (jnp.where(self.linked, jnp.exp(-self.gap / days), 0.0),
                jnp.where(self.linked, -jnp.expm1(-2.0 * self.gap / days), 1.0))


def squared_correlations(share: Array, decay: tuple[Array, Array], mask: Array) -> Array:
    """Sum of the squares of all entries of the correlation matrix of errors, (site,), of which `share` (site, n_obs) of the variance has
    memory: C_ij^2 = share_i share_j rho_ij^2 beside the diagonal of ones. In O(n)."""
    rho, _ = decay

    def after(known, now):
        share, rho2, observed = now
        ahead = rho2 * known
        return jnp.where(observed, ahead + share, known), share * ahead

    share = jnp.where(mask, share, 0.0)
    return jnp.sum(mask, axis=1) + 2.0 * jnp.sum(_along(after, (share, rho**2, mask)), axis=1)


def correlated_sums(deviation: Array, rho: Array) -> Array:
    """What each error (site, n) adds to the variance of the sum of those before it and itself: s_i^2 + 2 s_i rho_i a_(i-1),
    a_i = s_i + rho_i a_(i-1), where rho_i is its correlation with the one before it, zero where a sum begins."""
    def after(before, now):
        s, rho = now
        ahead = rho * before
        return s + ahead, s * (s + 2.0 * ahead)

    return _along(after, (deviation, rho))


class Whitening(eqx.Module):
    """L^-1 with L L' = R for R = diag(white^2) + diag(s) C diag(s), by a Kalman filter; arrays (site, n_obs).

    `innovation` is the standard deviation of each error given those before it, `weight` what of the latest state is
    expected in the next error, `keep` and `gain` move the state on.
    """

    innovation: Array
    weight: Array
    keep: Array
    gain: Array
    mask: Array

    @classmethod
    def of(cls, correlated: Array, white: Array, decay: tuple[Array, Array], mask: Array) -> "Whitening":
        """From standard deviations of the two parts, and rho_i with 1 - rho_i^2 of `Chain.decay`."""
        rho, rest = decay
        # Guarded where nothing is observed: what is there must reach neither values nor derivatives.
        s, w = jnp.where(mask, correlated, 0.0), jnp.where(mask, white, 1.0)

        def after(variance, now):
            s2, w2, rho2, rest, observed = now
            ahead = rho2 * variance + rest
            return jnp.where(observed, ahead * w2 / (s2 * ahead + w2), variance), ahead

        ahead = _along(after, (s**2, w**2, rho**2, rest, mask))
        total = s**2 * ahead + w**2
        return cls(jnp.where(mask, jnp.sqrt(total), 1.0), jnp.where(mask, s * rho, 0.0), jnp.where(mask, rho * w**2 / total, 1.0),
                   jnp.where(mask, s * ahead / total, 0.0), mask)

    def __call__(self, error: Array) -> Array:
        """L^-1 error, (site, n_obs); zero where nothing was observed."""
        def after(state, now):
            keep, gain, weight, innovation, error = now
            return keep * state + gain * error, (error - weight * state) / innovation

        return jnp.where(self.mask, _along(after, (self.keep, self.gain, self.weight, self.innovation, error)), 0.0)

    @property
    def log_determinant(self) -> Array:
        """log det R, (site,)."""
        return 2.0 * jnp.sum(jnp.where(self.mask, jnp.log(self.innovation), 0.0), axis=1)


def _along(after, series: tuple[Array, ...]) -> Array:
    """What `after(state, values of one time) -> state, output` gives along each site, (site, n_obs), from a state of zero."""
    def one(series):
        return jax.lax.scan(after, jnp.zeros((), series[0].dtype), series)[1]

    # A batch of one costs several times a plain run: its loop works on arrays instead of registers.
    return jax.vmap(one)(series) if len(series[0]) > 1 else one(tuple(values[0] for values in series))[None]
