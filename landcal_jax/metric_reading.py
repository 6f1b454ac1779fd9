"""What a metric reads: which values of which series count, with their calendar, known before the model runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax import operators
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.measures import Measure, Series, around, name_of, scalar_of
from landcal_jax.operators import AbstractOperator, AbstractSeriesOperator
from landcal_jax.problem import Problem

Keep = Callable[[np.ndarray], np.ndarray] | ArrayLike


@dataclass(frozen=True)
class Metric:
    """A scalar of one series at every site: `Metric("nee", rmsd)`.

    `stream`: name of a stream of the problem; or an operator such as `Pick("gpp")` of an output that nobody observes (of a model with
    sites); or the name of an output that a `FunctionForward` gives besides. `function`: a measure, or any function of a `Series` that
    returns a scalar by JAX. `units`: those of the metric; without them the measure derives them from those of the stream. `keep`: which
    values count, of those that are observed: a function from times (site, n_obs) to booleans such as `months(6, 7, 8)`, or booleans.
    `time`: datetimes (n_obs,) or (site, n_obs) of a series that nobody observes, where the model does not know them. `south`: names
    of sites whose seasons are those of the south: there the windows of `slope` and the years of `yearly` lie half a year later.
    Raises TypeError for a `function` that cannot be called.
    """

    stream: str | AbstractOperator
    function: Measure | Callable[[Series], Array]
    units: str | None = None
    keep: Keep | None = None
    time: ArrayLike | None = None
    south: Sequence[str] = ()
    description: str = ""

    def __post_init__(self):
        if not callable(self.function):
            raise TypeError(complain("a measure, or a function of a Series", f"{self.function!r}",
                                     'Metric("nee", rmsd), with rmsd of landcal_jax.metrics'))
        if isinstance(self.south, str):
            raise TypeError(complain("names of sites in south=", f"{self.south!r}", f"south=[{self.south!r}]"))

    def __str__(self) -> str:
        return self.description or f"{name_of(self.function)} of {self.stream}"


class Stock(AbstractSeriesOperator):
    """A pool of the model at the start of every step, (site, time), whether spun up or not; its units are those of the model's state.

    `Metric(Stock("wood"), initial, units="gC m-2")` is the initial stock.
    """

    pool: str = eqx.field(static=True)

    @property
    def variables(self) -> tuple[str, ...]:
        return ("state",)

    def __call__(self, run) -> Array:
        if not hasattr(run.state, self.pool):
            raise ValueError(complain(f"a pool of the model: {', '.join(getattr(run.state, '_fields', ()))}", f"'{self.pool}'",
                                      "name one of these"))
        return jnp.atleast_2d(getattr(run.state, self.pool))[:, :-1]

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        values = np.atleast_2d(np.asarray(values, float))
        return values, operators.broadcast_like(sigma, values.shape, "sigma").astype(float)

    def times(self, time: ArrayLike) -> np.ndarray:
        return np.asarray(time)

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return None

    def __str__(self) -> str:
        return f"stock of {self.pool}"


def months(*numbers: int) -> Callable[[np.ndarray], np.ndarray]:
    """For `keep`: the values in these calendar months, 1 is January.

    Raises ValueError for numbers that are no months.
    """
    if not numbers or not all(isinstance(number, int | np.integer) and number in range(1, 13) for number in numbers):
        raise ValueError(complain("months from 1 to 12", f"{numbers}", "months(6, 7, 8)"))

    def keep(time: np.ndarray) -> np.ndarray:
        return np.isin(time.astype("datetime64[M]").astype(int) % 12 + 1, numbers) & ~np.isnat(time)

    return keep


class Reading(eqx.Module):
    """The series that a metric reads, without its modelled values: arrays (site, n_obs), and what is computed of them.

    `source`: its name; `operator`: what makes it of a model run. `there` (site,): where the metric can be computed. `target` (site,), NaN
    where there is none: within half a circle of which values on a circle are given, such as days of the year.
    """

    source: str = eqx.field(static=True)
    operator: AbstractOperator | None
    function: Callable[[Series], Array]
    series: Series
    there: Array
    target: Array

    def value(self, modelled: Array, observed: Array | None = None) -> Array:
        """The metric (site, 1) of this modelled series (site, n_obs); NaN where one of the values that count is not finite."""
        modelled = self._shaped(modelled)
        # Where it cannot be computed its derivative may be NaN, which no mask can stop later.
        modelled = jnp.where(self.there[:, None], modelled, jax.lax.stop_gradient(modelled))
        values = jax.vmap(self._at_site)(self.series, modelled, self.series.observed if observed is None else observed)
        circle = self.function.circle if isinstance(self.function, Measure) else None
        if circle:
            values = jnp.where(jnp.isfinite(self.target), around(values, jnp.nan_to_num(self.target), circle), values)
        return values[:, None]

    def _shaped(self, modelled: Array) -> Array:
        modelled, shape = jnp.atleast_2d(modelled), self.series.mask.shape
        if modelled.shape != shape:
            raise ValueError(complain(f"{self.source} of shape {shape} (site, n_obs)", f"{modelled.shape} from the forward map",
                                      "a forward map and observations of the same time axis"))
        return modelled

    def _at_site(self, series: Series, modelled: Array, observed: Array) -> Array:
        def counted(values):
            return jnp.where(series.mask, values, jnp.nan)

        value = scalar_of(self.function, dataclasses.replace(series, modelled=counted(modelled), observed=counted(observed)))
        # Comparisons inside a measure make a finite number of NaN.
        return jnp.where(jnp.all(jnp.isfinite(modelled) | ~series.mask), value, jnp.nan)


def reading_of(problem: Problem, name: str, metric: Metric) -> Reading:
    """The series that a metric reads, of a stream or of what nobody observes."""
    if isinstance(metric.stream, str) and metric.stream in problem.observations:
        if metric.time is not None:
            raise ValueError(complain(f"{name} without time=, since the stream '{metric.stream}' has its own", "times", "leave time= out"))
        stream = problem.observations[metric.stream]
        stream = stream.with_model_error(stream.model_error.completed(stream.values))
        mask = np.asarray(stream.mask)
        series = _series(name, metric, mask, stream.time, np.asarray(stream.values), np.asarray(stream.standard_deviation))
        return _reading(problem, metric, metric.stream, stream.operator, series, np.ones(len(mask), bool))
    if not isinstance(metric.stream, str | AbstractOperator):
        raise ValueError(complain(f"a stream or an operator for {name}", f"{metric.stream!r}",
                                  'Metric("nee", rmsd) or Metric(Pick("gpp"), mean)'))
    if isinstance(metric.stream, str) and isinstance(problem.forward, SiteForward):
        raise KeyError(complain(f"one of the streams {', '.join(problem.observations)} for {name}", f"'{metric.stream}'",
                                f'correct it, or Metric(Pick("{metric.stream}"), ...) for an output of the model that nobody observes'))
    source, operator = (metric.stream, None) if isinstance(metric.stream, str) else (f"{name} from {metric.stream}", metric.stream)
    shape = _shape(problem, source, operator)
    time, real = metric.time, np.ones(shape, bool)
    if time is None and isinstance(problem.forward, SiteForward) and isinstance(operator, AbstractSeriesOperator):
        time = operator.times(problem.forward.sites.time)
    if time is not None:
        time = operators.from_minutes(operators.broadcast_like(operators.to_minutes(time), shape, "time"))
        real = ~np.isnat(time)
    nothing = np.full(shape, np.nan)
    return _reading(problem, metric, source, operator, _series(name, metric, real, time, nothing, nothing), real.any(axis=1))


def _reading(
    problem: Problem, metric: Metric, source: str, operator: AbstractOperator | None, series: Series, there: np.ndarray,
) -> Reading:
    sites = problem.observations.sites
    if unknown := [site for site in metric.south if site not in sites]:
        raise KeyError(complain(f"sites among {', '.join(sites)} in south=", ", ".join(unknown), "correct the names"))
    south = jnp.asarray([site in metric.south for site in sites]) if metric.south else None
    return Reading(source, operator, metric.function, dataclasses.replace(series, south=south), jnp.asarray(there),
                   jnp.full(len(sites), jnp.nan))


def _shape(problem: Problem, source: str, operator: AbstractOperator | None) -> tuple[int, int]:
    """Of an output (site, n_obs) that no stream has; nothing is run for it."""
    given = eqx.filter_eval_shape(lambda problem, z: problem.forward(problem.theta(z), {source: operator})[source],
                                  problem, problem.space.default_z)
    sites, shape = len(problem.observations.sites), (1, 1)[len(given.shape) :] + given.shape
    if len(shape) != 2 or shape[0] != sites:
        raise ValueError(complain(f"{source} of shape ({sites}, n_obs), one row a site", f"shape {given.shape}",
                                  "return arrays (site, n_obs) from the function or operator"))
    return shape


def _series(name: str, metric: Metric, mask: np.ndarray, time: np.ndarray | None, observed: np.ndarray, sigma: np.ndarray) -> Series:
    """What is known of the series before any model run, (site, n_obs)."""
    mask = mask & _kept(name, metric, mask.shape, time)
    if not mask.any():
        raise ValueError(complain(f"values that count for {name}", "none at any site", "let keep= take in some that are observed"))
    return series_of(mask, time, observed, sigma)


def series_of(mask: np.ndarray, time: np.ndarray | None, observed: np.ndarray, sigma: np.ndarray) -> Series:
    """Series of all sites, arrays (site, n_obs), without their modelled values; `time` as datetimes, NaT where there is none."""
    calendar = {} if time is None else _calendar(time, mask)
    observed, sigma = (jnp.asarray(np.where(mask, values, np.nan)) for values in (observed, sigma))
    return Series(jnp.full(mask.shape, jnp.nan), observed, jnp.asarray(mask), sigma, **calendar)


def _kept(name: str, metric: Metric, shape: tuple[int, int], time: np.ndarray | None) -> np.ndarray:
    if metric.keep is None:
        return np.ones(shape, bool)
    if callable(metric.keep) and time is None:
        raise ValueError(complain(f"times of {metric.stream}, for keep= of {name}", "none",
                                  "Stream(..., time=), or keep= as booleans (site, n_obs)"))
    keep = np.asarray(metric.keep(time) if callable(metric.keep) else metric.keep)
    if keep.dtype != bool:
        raise TypeError(complain(f"booleans for keep= of {name}", f"{keep.dtype}", "keep=months(6, 7, 8), or a comparison of times"))
    return operators.broadcast_like(keep, shape, "keep").astype(bool)


def _calendar(time: np.ndarray, mask: np.ndarray) -> dict:
    """`day_of_year`, `year`, `days` and `years` of a `Series`; times that are missing do not count and have those of 1970-01-01."""
    time = np.where(np.isnat(time), np.datetime64(0, "m"), time).astype("datetime64[m]")
    year = time.astype("datetime64[Y]")
    day = (time - year) / np.timedelta64(1, "D")
    number = year.astype(int) + 1970
    leap = (number % 4 == 0) & ((number % 100 != 0) | (number % 400 == 0))
    day = day - (leap & (day >= 59))  # 29 February counts as 28 February
    counted = number[mask] if mask.any() else number
    return {"day_of_year": jnp.asarray(1.0 + day), "year": jnp.asarray(number), "days": jnp.asarray(time.astype(float) / 1440.0),
            "years": (int(counted.min()), int(counted.max()))}
