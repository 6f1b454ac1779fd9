"""Measures: scalars of one series at one site, such as RMSD, seasonal amplitude or the day of the peak.

    rmsd(series), slope("03-01", "05-31")(series), amplitude(smooth=15)(series)

A `Series` holds what was modelled, what was observed and which values count. Every measure of this module leaves out the values that
do not count, from the modelled series as from the observed one, and gives NaN where too few are left: never a number that gaps have
made. All are traceable by JAX; the docstring says where one is only piecewise differentiable. A measure of your own is any function
of a series that returns a scalar; `Measure` adds a name and the rule for its units.
"""

import dataclasses
import re
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from landcal_jax.errors import complain

ROUNDING = 1e-20  # variance over mean square that is no more than rounding: the mean of 0.1 is not exactly 0.1


class Series(eqx.Module):
    """One series at one site, arrays (n,).

    `modelled` and `observed` are NaN where `mask` is False (a value that does not count: not observed, or not of the season), so that
    a function that forgets the mask gives NaN instead of a wrong number; `observed` is NaN throughout where nobody observes the
    series. `sigma`: standard deviation of the observation, model error included. `day_of_year`: 1.0 on 1 January at 00:00, on a calendar
    of 365 days, where 29 February counts as 28 February; so 1 March is day 60 of every year. `year`: calendar year. `days`: since
    1970-01-01. These three are None where the series has no times. `years`: the first and the last year of all sites. `south`: whether
    the seasons of the site are those of the south, scalar; None where nobody says so.
    """

    modelled: Array
    observed: Array
    mask: Array
    sigma: Array
    day_of_year: Array | None = None
    year: Array | None = None
    days: Array | None = None
    years: tuple[int, int] | None = eqx.field(static=True, default=None)
    south: Array | None = None

    @property
    def number(self) -> Array:
        """How many values count."""
        return jnp.sum(self.mask)

    def by_hemisphere(self, north: int, south: int) -> Array | int:
        """`north`, or `south` at a site whose seasons are those of the south."""
        return north if self.south is None else jnp.where(self.south, south, north)

    def require_time(self, what: str) -> None:
        """Raise ValueError if the series has no times, which `what` needs."""
        if self.day_of_year is None:
            raise ValueError(complain(f"times of the series, for {what}", "none", "Stream(..., time=), or Metric(..., time=)"))

    def where(self, keep: Array) -> "Series":
        """The same series with those values alone for which `keep` (n,) is True."""
        mask = self.mask & keep
        modelled, observed, sigma = (jnp.where(mask, values, jnp.nan) for values in (self.modelled, self.observed, self.sigma))
        return dataclasses.replace(self, modelled=modelled, observed=observed, mask=mask, sigma=sigma)


class Measure(eqx.Module):
    """A function of a `Series` that returns a scalar, with its `name` and `units_of`, from units of the series to its own.

    `circle`: after how much its values begin again, 365 for days of the year; None for others. Raises TypeError for a `function` or
    `units_of` that cannot be called.
    """

    function: Callable[[Series], Array]
    name: str = eqx.field(static=True)
    units_of: Callable[[str], str] = eqx.field(static=True)
    circle: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        if not (callable(self.function) and callable(self.units_of)):
            raise TypeError(complain("a function of a Series, and one of its units", f"{self.function!r}, {self.units_of!r}",
                                     'Measure(lambda series: ..., "name", same_units)'))

    def __call__(self, series: Series) -> Array:
        return self.function(series)

    def __str__(self) -> str:
        return self.name


def name_of(function: Callable) -> str:
    """What a measure, or a function of your own, is called."""
    return str(function) if isinstance(function, Measure) else getattr(function, "__name__", type(function).__name__)


def scalar_of(function: Callable[[Series], Array], series: Series) -> Array:
    """The scalar that a measure gives for a series.

    Raises ValueError for a function that returns an array, and TypeError for one that JAX cannot follow.
    """
    try:
        value = jnp.asarray(function(series))
    except jax.errors.JAXTypeError as error:
        raise TypeError(complain(
            f"a measure of operations of JAX from {name_of(function)}", str(error).splitlines()[0],
            "jax.numpy instead of numpy and scipy, jnp.where instead of `if`, and no float(): values are not known yet when it is compiled",
        )) from error
    if value.shape != ():
        raise ValueError(complain(f"a scalar of the series at one site from {name_of(function)}", f"an array of shape {value.shape}",
                                  "return one number, such as jnp.mean(series.modelled, where=series.mask)"))
    return value


def around(value: Array, about: Array | float, circle: float) -> Array:
    """`value` on a circle of this length, as the number within half of it of `about`."""
    return (value - about + 0.5 * circle) % circle - 0.5 * circle + about


def departure(function: Callable[[Series], Array], one: Array, other: Array) -> Array:
    """What a measure is for one series minus what it is for another, the short way where its values lie on a circle."""
    circle = function.circle if isinstance(function, Measure) else None
    return around(one - other, 0.0, circle) if circle else one - other


def same_units(units: str) -> str:
    """Those of the series."""
    return units


def dimensionless(units: str) -> str:
    """1, whatever the series is in."""
    return "1"


def in_days(units: str) -> str:
    """d, whatever the series is in."""
    return "d"


def per_day(units: str) -> str:
    """Those of the series, a day.

    >>> per_day("W m-2"), per_day("gC m-2 d-1")
    ('W m-2 d-1', 'gC m-2 d-2')
    """
    if not units:
        return ""
    factors = units.split()
    power = re.fullmatch(r"d-(\d+)", factors[-1])
    return " ".join([*factors[:-1], f"d-{int(power[1]) + 1}"] if power else [*(factor for factor in factors if factor != "1"), "d-1"])


# ---------------------------------------------------------------------- levels and scores


def _of(values: Array, series: Series) -> Array:
    """`values` (n,) with zero where they do not count: a NaN there may not reach a derivative."""
    return jnp.where(series.mask, values, 0.0)


def share(part: Array, whole: Array) -> Array:
    """part / whole, NaN where `whole` is not above zero; its derivative is finite wherever it is."""
    there = whole > 0
    return jnp.where(there, part / jnp.where(there, whole, 1.0), jnp.nan)


def root(square: Array) -> Array:
    """The square root, whose derivative at zero is zero instead of infinite."""
    above = square > 0
    return jnp.where(above, jnp.sqrt(jnp.where(above, square, 1.0)), 0.0 * square)


def average(values: Array, series: Series) -> Array:
    """Mean of `values` (n,) over those that count; NaN where there are none."""
    return share(jnp.sum(_of(values, series)), series.number)


def _moments(series: Series) -> tuple[Array, Array, Array, Array, Array]:
    """Means of the modelled and observed series, their variances, and their covariance."""
    h, y = _of(series.modelled, series), _of(series.observed, series)
    mean_h, mean_y = average(h, series), average(y, series)
    from_h, from_y = _of(h - mean_h, series), _of(y - mean_y, series)
    of_h, of_y = (_variance(away, values, series) for away, values in ((from_h, h), (from_y, y)))
    return mean_h, mean_y, of_h, of_y, average(from_h * from_y, series)


def _variance(away: Array, values: Array, series: Series) -> Array:
    """Mean square of `away`, zero where that is no more than the rounding errors of a constant."""
    square = average(away**2, series)
    return jnp.where(square > ROUNDING * average(values**2, series), square, 0.0 * square)


def _rmsd(series: Series) -> Array:
    return root(average(_of(series.modelled - series.observed, series) ** 2, series))


def _bias(series: Series) -> Array:
    return average(series.modelled - series.observed, series)


def _nse(series: Series) -> Array:
    return 1.0 - share(average(_of(series.modelled - series.observed, series) ** 2, series), _moments(series)[3])


def _correlation(series: Series) -> Array:
    _, _, of_h, of_y, together = _moments(series)
    return share(together, root(of_h * of_y))


def _kge(series: Series) -> Array:
    mean_h, mean_y, of_h, of_y, _ = _moments(series)
    beta = share(mean_h * jnp.sign(mean_y), jnp.abs(mean_y))
    parts = jnp.stack([_correlation(series), share(root(of_h), root(of_y)), beta])
    return 1.0 - root(jnp.sum((parts - 1.0) ** 2))


rmsd = Measure(_rmsd, "RMSD", same_units)
"""Root of the mean squared difference; its derivative is zero where the two are the same."""
bias = Measure(_bias, "bias", same_units)
"""Mean of model minus observation."""
mean = Measure(lambda series: average(series.modelled, series), "mean", same_units)
"""Mean of the modelled values that count."""
deviation = Measure(lambda series: root(_moments(series)[2]), "standard deviation", same_units)
"""Standard deviation of the modelled values that count (divided by n)."""
nse = Measure(_nse, "NSE", dimensionless)
"""Efficiency of Nash and Sutcliffe (1970), J. Hydrol. 10:282: 1 - mean squared difference / variance of the observations."""
correlation = Measure(_correlation, "correlation", dimensionless)
"""Pearson's r between model and observation; NaN where one of them does not vary."""
kge = Measure(_kge, "KGE", dimensionless)
"""Efficiency of Gupta et al. (2009), J. Hydrol. 377:80: 1 - sqrt((r - 1)^2 + (sd_h / sd_y - 1)^2 + (mean_h / mean_y - 1)^2).

Its last part means little for a flux whose mean is near zero."""


def _initial(series: Series) -> Array:
    first = jnp.argmax(series.mask)
    return jnp.where(series.mask[first], series.modelled[first], jnp.nan)


initial = Measure(_initial, "initial value", same_units)
"""The first modelled value that counts: the initial stock of a pool, `Metric(Stock("wood"), initial)`."""
