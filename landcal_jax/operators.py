"""Observation operators: pure functions from one model run to what an instrument saw.

An operator is called with a `Run` and returns an array (site, n_obs). A monthly mean is compared with a monthly mean
of the *same* days: the `Windows` of `WindowMean` and `WindowSum` give every model step the number of the window that
it belongs to, or none, so that the days that the tower missed are left out of the modelled mean too. All bookkeeping
with dates happens here, once, before anything is compiled.

The observed series has to be transformed as the modelled one is. Every operator of this module does that with
`observed(values, sigma)`, which takes the series on the model's steps and propagates its errors (independent from
step to step; give the stream a correlation or a model error where they are not).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

NO_TIME = np.iinfo(np.int32).min
"""How a missing time (padding of a short site) is written among integer minutes."""


def to_minutes(time: ArrayLike) -> np.ndarray:
    """Datetimes -> int32 minutes since 1970, which fit into a JAX array and are exact; NaT becomes `NO_TIME`."""
    array = np.asarray(time)
    if array.dtype.kind not in "MUO":
        raise ValueError(complain("times as datetime64", f"an array of {array.dtype}",
                                  "pass ds.time.values, or np.datetime64(start) + days.astype('timedelta64[D]')"))
    try:
        minutes = array.astype("datetime64[m]")
    except (TypeError, ValueError) as error:
        raise ValueError(complain("times of the standard calendar as datetime64", str(error),
                                  "convert cftime dates to real days of the standard calendar first")) from error
    return np.where(np.isnat(minutes), NO_TIME, minutes.astype(np.int64)).astype(np.int32)


def from_minutes(minutes: ArrayLike) -> np.ndarray:
    """The inverse of `to_minutes`: datetime64[m], NaT where there is no time."""
    minutes = np.asarray(minutes, np.int64)
    return np.where(minutes == NO_TIME, np.datetime64("NaT", "m"), minutes.astype("datetime64[m]"))


def broadcast_like(array: ArrayLike, shape: tuple[int, int], name: str) -> np.ndarray:
    """A scalar, (n_obs,) or (site or 1, n_obs) array -> one of this shape (site, n_obs)."""
    array = np.asarray(array)
    if array.shape not in ((), shape[1:], (1, shape[1]), shape):
        raise ValueError(complain(f"`{name}` for an array of shape {shape} (site, n_obs)", f"shape {array.shape}",
                                  "give a scalar, (n_obs,) or that shape, on the same time axis"))
    return np.broadcast_to(array, shape)


def pad_times(axes: Sequence[ArrayLike]) -> np.ndarray:
    """Time axes of sites -> one array (site, time) of datetime64[m], the shorter ones padded with NaT."""
    axes = [from_minutes(to_minutes(axis)) for axis in axes]
    padded = np.full((len(axes), max(len(axis) for axis in axes)), np.datetime64("NaT"), "datetime64[m]")
    for row, axis in zip(padded, axes, strict=True):
        row[:len(axis)] = axis
    return padded


def match_times(time: ArrayLike, axis: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Where `time` (observations) and `axis` (model steps, NaT in padding) agree: the places in each."""
    time = from_minutes(to_minutes(time))
    if not (np.diff(time) > np.timedelta64(0, "m")).all():
        raise ValueError(complain("strictly increasing times of the observations", "a step back, duplicate or gap",
                                  "sort by time, drop duplicates and missing times when reading"))
    _, at, place = np.intersect1d(time, axis, return_indices=True)
    return at, place


class Windows(eqx.Module):
    """Which window every model step belongs to.

    `index` is (site, time), or (time,) for a calendar that all sites share: the number of the window, from 0; -1
    belongs to none. `start` are the datetimes (site, n) at which the windows begin (labels, which the calendar
    helpers give), also of windows that hold no step. Those have the value NaN, and NaN in the observations.
    """

    index: Array
    size: Array
    start_minutes: Array | None
    count: int = eqx.field(static=True)

    def __init__(self, index: ArrayLike, start: ArrayLike | None = None):
        index = np.atleast_2d(np.asarray(index))
        if index.dtype.kind not in "iu" or index.ndim != 2 or index.min() < -1 or index.max() < 0:
            raise ValueError(complain("an integer window for every step (site, time), -1 for no window",
                                      f"{index.dtype} of shape {index.shape}, from {index.min()} to {index.max()}",
                                      "build it with monthly_windows, n_day_windows or yearly_windows"))
        starts = None if start is None else np.atleast_2d(to_minutes(start))
        self.count = int(index.max()) + 1 if starts is None else starts.shape[1]
        if index.max() >= self.count:
            raise ValueError(complain(f"windows below {self.count}, the number of starts", f"window {index.max()}",
                                      "give one start for every window"))
        size = _sizes(index, self.count)
        # One window more than there are takes the steps of no window, and is cut off after the sum.
        self.index = jnp.asarray(np.where(index < 0, self.count, index), jnp.int32)
        self.size = jnp.asarray(size, jnp.result_type(float))
        self.start_minutes = None if starts is None else jnp.asarray(starts)

    def sum(self, values: Array) -> Array:
        """Sums of `values` (site, time), (site, n); a step in no window has no influence, be it NaN."""
        if values.shape[-1] != self.index.shape[1] or self.index.shape[0] not in (1, values.shape[0]):
            raise ValueError(complain(f"a series (site, time) like its windows, {self.index.shape}",
                                      f"shape {values.shape}", "build the windows from the time axis of the model run"))
        index = jnp.broadcast_to(self.index, values.shape)
        kept = jnp.where(index < self.count, values, 0.0)

        def one_site(series: Array, window: Array) -> Array:
            return jax.ops.segment_sum(series, window, num_segments=self.count + 1)[:-1]

        return jax.vmap(one_site)(kept, index)

    def start(self) -> np.ndarray:
        """The datetimes (site, n) at which the windows begin, NaT where a site has no such window."""
        if self.start_minutes is None:
            raise ValueError(complain("windows that know when they begin", "windows from an integer array alone",
                                      "pass start= to Windows, or build it with monthly_windows and its like"))
        return from_minutes(self.start_minutes)


def monthly_windows(time: ArrayLike, observed: ArrayLike | None = None, *, minimum: int = 1) -> Windows:
    """Calendar months of the standard calendar, from the first to the last step of a site.

    `time` is (time,) or (site, time), NaT where a short site is padded. `observed` (boolean, broadcast to the steps)
    keeps only those steps. A window with fewer than `minimum` steps is left empty.
    """
    minutes, seen = _steps(time, observed)
    month = minutes.astype("datetime64[M]").astype(np.int64)
    return _assemble(seen, month, lambda number: number.astype("datetime64[M]"), minimum)


def yearly_windows(time: ArrayLike, observed: ArrayLike | None = None, *, minimum: int = 1) -> Windows:
    """Calendar years; arguments as in `monthly_windows`."""
    minutes, seen = _steps(time, observed)
    year = minutes.astype("datetime64[Y]").astype(np.int64)
    return _assemble(seen, year, lambda number: number.astype("datetime64[Y]"), minimum)


def n_day_windows(time: ArrayLike, n: int, observed: ArrayLike | None = None, *, minimum: int = 1,
                  restart_yearly: bool = False) -> Windows:
    """Windows of `n` days from the first step of a site; other arguments as in `monthly_windows`.

    With `restart_yearly` the windows begin again every 1 January, as 8-day and 16-day composites of satellites do;
    the last window of a year is then shorter.
    """
    if n < 1:
        raise ValueError(complain("a window of at least 1 day", f"n={n}", "use Pick for the values as they are"))
    minutes, seen = _steps(time, observed)
    length = np.timedelta64(n, "D").astype("timedelta64[m]")
    if restart_yearly:
        each_year = -(-366 // n)
        year = minutes.astype("datetime64[Y]")
        number = year.astype(np.int64) * each_year + (minutes - year) // length

        def start(number: np.ndarray) -> np.ndarray:
            return (number // each_year).astype("datetime64[Y]").astype("datetime64[m]") + number % each_year * length
    else:
        first = minutes.min(axis=1, keepdims=True).astype("datetime64[D]").astype("datetime64[m]")
        number = (minutes - first) // length

        def start(number: np.ndarray) -> np.ndarray:
            return first + number * length

    return _assemble(seen, number, start, minimum)


class AbstractOperator(eqx.Module):
    """From a model run to what was observed, (site, n_obs). A user's own operator needs these two and no more."""

    variables: eqx.AbstractVar[tuple[str, ...]]
    """Names of the output fields that are read."""

    @abstractmethod
    def __call__(self, run) -> Array:
        """The modelled counterpart of the observations, (site, n_obs), as a differentiable function of the run."""


class AbstractSeriesOperator(AbstractOperator):
    """An operator that can also be applied to an observed series on the steps of the model."""

    @abstractmethod
    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Values and standard deviations (site, time), NaN where missing -> the same for the stream (site, n_obs)."""

    @abstractmethod
    def times(self, time: ArrayLike) -> np.ndarray:
        """Time axis of the model (time,) or (site, time) -> the label of every observation."""

    @abstractmethod
    def units(self, outputs: Mapping[str, str]) -> str | None:
        """Units of the result, from the units of the model's outputs; None where they cannot be compared as text."""


class Pick(AbstractSeriesOperator):
    """The values of an output field, step by step, as they are."""

    variable: str = eqx.field(static=True)

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    def __call__(self, run) -> Array:
        return _read(run, self.variable)

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        return _series(values, sigma)

    def times(self, time: ArrayLike) -> np.ndarray:
        return np.asarray(time)

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return outputs.get(self.variable)

    def __str__(self) -> str:
        return self.variable


class _OverWindows(AbstractSeriesOperator):
    """What is made of an output field over the steps of every window; `_over` makes it."""

    variable: str = eqx.field(static=True)
    windows: Windows

    def __init__(self, variable: str, windows: Windows | ArrayLike):
        self.variable = variable
        self.windows = windows if isinstance(windows, Windows) else Windows(windows)

    @property
    def variables(self) -> tuple[str, ...]:
        return (self.variable,)

    def __call__(self, run) -> Array:
        return self._over(_read(run, self.variable))

    def times(self, time: ArrayLike) -> np.ndarray:
        return self.windows.start()

    @abstractmethod
    def _over(self, values: Array) -> Array:
        """Values (site, time) -> (site, window)."""


class WindowMean(_OverWindows):
    """The mean of an output field over the steps of every window; NaN for a window without any."""

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        values, sigma = _windowed(self.windows, values, sigma)
        spread = np.sqrt(self.windows.sum(sigma**2)) / np.maximum(self.windows.size, 1)
        return np.asarray(self._over(values)), np.where(self.windows.size > 0, spread, np.nan)

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return outputs.get(self.variable)

    def _over(self, values: Array) -> Array:
        size = self.windows.size
        return jnp.where(size > 0, self.windows.sum(values) / jnp.maximum(size, 1.0), jnp.nan)

    def __str__(self) -> str:
        return f"mean of {self.variable} over {self.windows.count} windows"


class WindowSum(_OverWindows):
    """The sum of an output field over the steps of every window; NaN for a window without any.

    A rate per day becomes an amount per window, so its units are not compared with those of the output.
    """

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        values, sigma = _windowed(self.windows, values, sigma)
        return np.asarray(self._over(values)), np.sqrt(self._over(sigma**2))

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return None

    def _over(self, values: Array) -> Array:
        return jnp.where(self.windows.size > 0, self.windows.sum(values), jnp.nan)

    def __str__(self) -> str:
        return f"sum of {self.variable} over {self.windows.count} windows"


class Anomaly(AbstractSeriesOperator):
    """What `operator` gives, minus its own mean at the site over the observed values.

    `mask` (site, n_obs) says which values are observed: the mean is over these and no others, for the model as for
    the observations, so that a gap shifts neither against the other. It stays as it is when a stream is split, so that
    the calibrated and the held-out half are the same quantity. The error of the subtracted mean is neglected.
    """

    operator: AbstractSeriesOperator
    mask: Array

    def __init__(self, operator: AbstractSeriesOperator, mask: ArrayLike):
        self.operator = operator
        self.mask = jnp.atleast_2d(jnp.asarray(mask, bool))

    @property
    def variables(self) -> tuple[str, ...]:
        return self.operator.variables

    def __call__(self, run) -> Array:
        return self._centred(self.operator(run))

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        values, sigma = self.operator.observed(values, sigma)
        missing = np.asarray(self.mask) & np.isnan(values)
        if missing.any():
            raise ValueError(complain("a value at every place that the mask of the anomaly calls observed",
                                      f"{missing.sum()} missing, first at {_first(missing)}",
                                      "pass mask=~np.isnan(values)"))
        return np.asarray(self._centred(values)), sigma

    def times(self, time: ArrayLike) -> np.ndarray:
        return self.operator.times(time)

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return self.operator.units(outputs)

    def _centred(self, values: Array) -> Array:
        number = jnp.maximum(jnp.sum(self.mask, axis=1, keepdims=True), 1)
        return values - jnp.sum(jnp.where(self.mask, values, 0.0), axis=1, keepdims=True) / number

    def __str__(self) -> str:
        return f"anomaly of ({self.operator})"


class Log(AbstractSeriesOperator):
    """Natural logarithm of max(what `operator` gives, `floor`).

    At and below the floor the gradient is zero, never infinite. `observed` takes the logarithm of the observations
    with the same floor, and divides their standard deviation by the floored value (first order).
    """

    operator: AbstractSeriesOperator
    floor: Array

    def __init__(self, operator: AbstractSeriesOperator, floor: float):
        if not (np.isfinite(floor) and floor > 0):
            raise ValueError(complain("a floor above zero, in the units of the observed quantity", f"{floor}",
                                      "take about the smallest value that the instrument can tell from zero"))
        self.operator = operator
        self.floor = jnp.asarray(floor, jnp.result_type(float))

    @property
    def variables(self) -> tuple[str, ...]:
        return self.operator.variables

    def __call__(self, run) -> Array:
        return self._log(self.operator(run))

    def observed(self, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        values, sigma = self.operator.observed(values, sigma)
        return np.asarray(self._log(values)), sigma / np.maximum(values, float(self.floor))

    def times(self, time: ArrayLike) -> np.ndarray:
        return self.operator.times(time)

    def units(self, outputs: Mapping[str, str]) -> str | None:
        return None

    def _log(self, values: Array) -> Array:
        # A run that failed stays NaN or infinite, but nothing of it goes through the logarithm: the derivative there
        # would turn the zero weight of a masked value into NaN.
        finite = jnp.isfinite(values)
        return jnp.where(finite, jnp.log(jnp.where(finite & (values > self.floor), values, self.floor)), values)

    def __str__(self) -> str:
        return f"log of ({self.operator})"


def _read(run, variable: str) -> Array:
    if not hasattr(run.output, variable):
        known = ", ".join(getattr(run.output, "_fields", ())) or "no named outputs"
        raise ValueError(complain(f"an output of the model: {known}", f"'{variable}'",
                                  "name one of these in the operator, or add the field to the Output of the model"))
    return jnp.atleast_2d(getattr(run.output, variable))


def _first(where: np.ndarray) -> str:
    site, place = np.argwhere(where)[0]
    return f"site {site}, value {place}"


def _sizes(index: np.ndarray, count: int) -> np.ndarray:
    return np.stack([np.bincount(row[row >= 0], minlength=count) for row in index])


def _series(values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values = np.atleast_2d(np.asarray(values, float))
    return values, broadcast_like(sigma, values.shape, "sigma").astype(float)


def _windowed(windows: Windows, values: ArrayLike, sigma: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, sigma = _series(values, sigma)
    gap = (np.asarray(windows.index) < windows.count) & np.isnan(values)
    if gap.any():
        raise ValueError(complain("windows of observed steps only",
                                  f"{gap.sum()} missing values inside windows, first at {_first(gap)}",
                                  "build the windows with observed=~np.isnan(values): the model skips them too"))
    return values, sigma


def _steps(time: ArrayLike, observed: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Datetimes (site, time), padding replaced by the first time of its site, and which of the steps count."""
    minutes = np.atleast_2d(from_minutes(to_minutes(time)))
    seen = np.atleast_2d(np.asarray(True if observed is None else observed, bool))
    minutes = broadcast_like(minutes, (max(len(minutes), len(seen)), minutes.shape[1]), "time")
    seen = broadcast_like(seen if seen.size > 1 else seen.item(), minutes.shape, "observed")
    missing = np.isnat(minutes)
    if missing.all(axis=1).any():
        raise ValueError(complain("a time axis at every site", "a site whose times are all missing", "leave it out"))
    return np.where(missing, np.nanmin(minutes, axis=1, keepdims=True), minutes), seen & ~missing


def _assemble(seen: np.ndarray, number: np.ndarray, start: Callable[[np.ndarray], np.ndarray], minimum: int) -> Windows:
    """Windows of every site, counted from its first step, whatever the numbers of the calendar are."""
    first, last = number.min(axis=1, keepdims=True), number.max(axis=1, keepdims=True)
    numbers = first + np.arange(int((last - first).max()) + 1)
    index = np.where(seen, number - first, -1)
    enough = _sizes(index, numbers.shape[1]) >= minimum
    index = np.where(np.take_along_axis(enough, np.maximum(index, 0), axis=1), index, -1)
    if (index < 0).all():
        raise ValueError(complain(f"a window with at least {minimum} observed steps", "none",
                                  "lower `minimum`, or check that `observed` is not all False"))
    return Windows(index, np.where(numbers <= last, start(numbers), np.datetime64("NaT", "m")))
