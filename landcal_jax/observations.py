"""What was observed, how far it is trusted, and how it is compared with the model.

A `Stream` holds one kind of observation at all sites, arrays (site, n_obs), with its operator and its part of R. What
is missing becomes a mask once, at construction; from then on a masked value changes neither J nor its gradient, even
where the model is NaN. R is the measurement error of each value and the error of the model, with its memory in time: see
`landcal_jax.error_model`. Measurement error alone rarely serves as R: give a model error, or estimate it (`estimate_errors`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax import operators
from landcal_jax.error_model import Chain, ModelError, Whitening, check_memory, squared_correlations
from landcal_jax.error_model import ExponentialCorrelation as ExponentialCorrelation
from landcal_jax.errors import complain
from landcal_jax.observation_checks import by_site, check_stream
from landcal_jax.operators import AbstractOperator, AbstractSeriesOperator, Pick

METRICS = ("rmse", "bias", "r", "kge", "chi_square", "n")


class Stream(eqx.Module):
    """One kind of observation, with its operator and its errors.

    `values` and `sigma` (measurement standard deviation) are (site, n_obs); one dimension means one site, a scalar
    `sigma` holds everywhere. NaN and the numbers in `fill` are missing; `mask` (True = observed) can take out more.
    `model_error` is a `ModelError`, or its constant standard deviation (units of the values; a scalar or one number a site).
    `weight`, a scalar or one number a site, multiplies the stream's term of J. `time` (datetimes, (n_obs,) or (site, n_obs)) is
    needed by a correlation, by a season and to split by date. `operator` may be None where the forward map gives the stream
    by its name.
    """

    values: Array
    sigma: Array
    mask: Array
    model_error: ModelError
    weight: Array
    operator: AbstractOperator | None
    correlation: ExponentialCorrelation | None
    minutes: Array | None
    chain: Chain | None
    units: str = eqx.field(static=True)
    description: str = eqx.field(static=True)

    def __init__(self, values: ArrayLike, sigma: ArrayLike, operator: AbstractOperator | None = None, *,
                 mask: ArrayLike = True, model_error: ArrayLike | ModelError = 0.0,
                 correlation: ExponentialCorrelation | None = None, weight: ArrayLike = 1.0, units: str = "",
                 description: str = "", time: ArrayLike | None = None, fill: Sequence[float] = ()):
        values = np.atleast_2d(np.asarray(values, float))
        observed = operators.broadcast_like(mask, values.shape, "mask").astype(bool)
        observed = observed & ~np.isnan(values) & ~np.isin(values, np.asarray(fill, float))
        sigma = operators.broadcast_like(sigma, values.shape, "sigma").astype(float)
        minutes = None if time is None else operators.broadcast_like(operators.to_minutes(time), values.shape, "time")
        check_stream(description or "the stream", values, sigma, observed, minutes)
        model_error = model_error if isinstance(model_error, ModelError) else ModelError(model_error)
        check_memory(model_error, correlation, minutes)
        self.values = jnp.asarray(np.where(observed, values, 0.0))
        self.sigma = jnp.asarray(np.where(observed, sigma, np.median(sigma[observed])))
        self.mask = jnp.asarray(observed)
        self.model_error = model_error.for_sites(*values.shape)
        self.weight = by_site(weight, len(values), "weight")
        self.operator, self.correlation, self.units, self.description = operator, correlation, units, description
        self.minutes = None if minutes is None else jnp.asarray(minutes)
        self.chain = None if correlation is None and model_error.days is None else Chain(minutes, observed)

    @property
    def count(self) -> Array:
        """Number of observed values."""
        return jnp.sum(self.mask)

    @property
    def time(self) -> np.ndarray | None:
        """Datetimes (site, n_obs), NaT where there is none; None if the stream was built without."""
        return None if self.minutes is None else operators.from_minutes(self.minutes)

    @property
    def model_error_deviation(self) -> Array:
        """Standard deviation of the model error, (site, n_obs)."""
        return self.model_error.deviation(self.mask, self.minutes)

    @property
    def mean_model_error(self) -> Array:
        """Root of the mean variance of the model error over the observed values, (site,); NaN where there are none."""
        return jnp.sqrt(jnp.mean(self.model_error_deviation**2, axis=1, where=self.mask))

    @property
    def standard_deviation(self) -> Array:
        """Total standard deviation sqrt(sigma^2 + model error^2), (site, n_obs); with the median sigma where nothing was observed."""
        return jnp.sqrt(self.sigma**2 + self.model_error_deviation**2)

    @property
    def whitening(self) -> Whitening | None:
        """R^(-1/2) of errors with memory; None where they are independent."""
        if self.correlation is not None:
            return Whitening.of(self.standard_deviation, jnp.zeros_like(self.sigma), self.chain.decay(self.correlation.days), self.mask)
        if self.model_error.days is None:
            return None
        return Whitening.of(self.model_error_deviation, self.sigma, self.chain.decay(self.model_error.days[:, None]), self.mask)

    def residuals(self, modelled: Array) -> Array:
        """Whitened residuals R^(-1/2) (y - h) times sqrt(weight), (site, n_obs); exactly zero where masked."""
        return jnp.sqrt(self.weight)[:, None] * self.whitened(modelled)

    def whitened(self, modelled: Array) -> Array:
        """Whitened residuals without the weight: independent and of variance one if R is right."""
        return self._white(self._error(modelled))

    def _white(self, error: Array) -> Array:
        whitening = self.whitening
        return error / jnp.where(self.mask, self.standard_deviation, 1.0) if whitening is None else whitening(error)

    @property
    def effective_number(self) -> Array:
        """How many independent values with the same variances would tell as much of a common offset, (site,), without the weight.

            n (1' R^-1 1) / (1' diag(R)^-1 1)

        The number of values where errors are independent, mostly less where they have memory, and more where errors of different size
        have one: those that are large tell then what to take off the small ones.
        """
        ones, white = jnp.where(self.mask, 1.0, 0.0), jnp.where(self.mask, self.standard_deviation, 1.0)
        alone = jnp.sum((ones / white) ** 2, axis=1)
        return jnp.sum(ones, axis=1) * jnp.sum(self._white(ones) ** 2, axis=1) / jnp.where(alone > 0, alone, 1.0)

    @property
    def effective_squares(self) -> Array:
        """How many independent values would tell as much of the size of the errors, (site,): n^2 / sum of C_ij^2, C the correlation of R.

        By it the mean square of correlated Gaussian errors varies. Between one and the number of values.
        """
        if self.chain is None:
            return jnp.sum(self.mask, axis=1).astype(self.sigma.dtype)
        whole = self.correlation is not None
        share = jnp.ones_like(self.sigma) if whole else (self.model_error_deviation / self.standard_deviation) ** 2
        decay = self.chain.decay(self.correlation.days if whole else self.model_error.days[:, None])
        # As a number with a point: the square of 50,000 is no whole number of 32 bits.
        number = jnp.sum(self.mask, axis=1).astype(self.sigma.dtype)
        return number**2 / jnp.maximum(squared_correlations(share, decay, self.mask), 1.0)

    def chi_square(self, modelled: Array) -> Array:
        """Mean squared whitened residual over all observed values, without the weight; NaN if there are none."""
        return jnp.sum(self.whitened(modelled) ** 2) / jnp.where(self.count > 0, self.count, jnp.nan)

    @property
    def log_determinant(self) -> Array:
        """log det R over the observed values, one number a site, without the weight."""
        whitening = self.whitening
        if whitening is not None:
            return whitening.log_determinant
        return 2.0 * jnp.sum(jnp.log(jnp.where(self.mask, self.standard_deviation, 1.0)), axis=1)

    @property
    def log_normalisation(self) -> Array:
        """What the log density has beside -J: -(n log 2 pi + log det R) / 2, times the weight: p(y | theta)^weight."""
        number = jnp.sum(self.mask, axis=1)
        return -0.5 * jnp.sum(self.weight * (number * jnp.log(2.0 * jnp.pi) + self.log_determinant))

    def split(self, keep: ArrayLike) -> tuple["Stream", "Stream"]:
        """The observed values where `keep` (site, n_obs) is True, and the others: (calibrated, held out).

        Both keep all values and have complementary masks. With a correlation, each half is whitened by itself.
        """
        keep = operators.broadcast_like(keep, self.values.shape, "keep").astype(bool)
        mask = np.asarray(self.mask)
        return self._with_mask(mask & keep), self._with_mask(mask & ~keep)

    def with_model_error(self, value: ArrayLike | ModelError) -> "Stream":
        """The same stream with another model error: a `ModelError`, or a constant one, a scalar or one number a site.

        Usable inside jit, except that memory is taken up outside. Raises ValueError for a constant below zero or not finite.
        """
        if not isinstance(value, ModelError):
            # Not by its constructor, which looks at numbers: inside jit there are none.
            checked = value if isinstance(value, jax.core.Tracer) else by_site(value, len(self.weight), "model_error")
            constant = jnp.broadcast_to(jnp.asarray(checked, self.sigma.dtype), self.weight.shape)
            value = eqx.tree_at(lambda error: error.constant, ModelError(), constant)
        value, chain = value.for_sites(*self.values.shape), self.chain
        check_memory(value, self.correlation, self.minutes)
        if (value.days is None) != (self.model_error.days is None):
            remembers = value.days is not None or self.correlation is not None
            chain = Chain(np.asarray(self.minutes), np.asarray(self.mask)) if remembers else None
        return eqx.tree_at(lambda stream: (stream.model_error, stream.chain), self, (value, chain), is_leaf=lambda node: node is None)

    def with_values(self, values: Array) -> "Stream":
        """The same stream with other values (site, n_obs), for twin experiments; the mask stays. Usable inside jit."""
        values = jnp.where(self.mask, self._shaped(values), 0.0)
        return eqx.tree_at(lambda stream: stream.values, self, values.astype(self.values.dtype))

    def estimate_model_error(self, modelled: Array) -> Array:
        """The constant model error (site,) with which mean(e^2 / (sigma^2 + model_error^2)) is one; 0 where it is below one.

        In the spirit of Desroziers et al. (2005), QJRMS 131:3385: what the residuals show beyond the measurement error
        is laid to the model. e = y - h is taken at one run, best the MAP of a first calibration, and independent of
        the correlation; residuals after a fit are smaller than the errors, by the parameters that were fitted.
        """
        square = self._error(modelled) ** 2
        number = jnp.maximum(jnp.sum(self.mask, axis=1), 1)

        def mean_ratio(variance: Array) -> Array:
            return jnp.sum(square / (self.sigma**2 + variance[:, None]), axis=1) / number

        def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = 0.5 * (low + high)
            above = mean_ratio(middle) > 1.0
            return jnp.where(above, middle, low), jnp.where(above, high, middle)

        # The ratio falls with the variance, and at the mean square error it is one at most: the root is in between.
        zero, upper = jnp.zeros_like(self.weight), jnp.sum(square, axis=1) / number
        low, high = jax.lax.fori_loop(0, 60, halve, (zero, upper))
        return jnp.where(mean_ratio(zero) <= 1.0, 0.0, jnp.sqrt(0.5 * (low + high)))

    def scores(self, modelled: ArrayLike) -> dict[str, np.ndarray]:
        """`METRICS` at every site, each (site,), over the observed values; NaN where fewer than two.

        `bias` is model minus observation. `kge` is the efficiency of Gupta et al. (2009), J. Hydrol. 377:80,
        1 - sqrt((r - 1)^2 + (sd_h / sd_y - 1)^2 + (mean_h / mean_y - 1)^2): its last part means little for a flux
        whose mean is near zero. `chi_square` is the mean squared whitened residual.
        """
        squares = np.asarray(self.whitened(modelled)) ** 2
        modelled, values, mask = (np.asarray(array) for array in (self._shaped(modelled), self.values, self.mask))
        table = np.full((len(METRICS), len(values)), np.nan)
        for site, observed in enumerate(mask):
            if observed.sum() > 1:
                y, h = values[site, observed], modelled[site, observed]
                with np.errstate(divide="ignore", invalid="ignore"):
                    r = np.mean((h - h.mean()) * (y - y.mean())) / (h.std() * y.std())
                    ratios = np.array([r, h.std() / y.std(), h.mean() / y.mean()])
                rmse, kge = np.sqrt(np.mean((h - y) ** 2)), 1.0 - np.sqrt(np.sum((ratios - 1.0) ** 2))
                table[:-1, site] = rmse, h.mean() - y.mean(), r, kge, squares[site].sum() / len(y)
        table[-1] = mask.sum(axis=1)
        return dict(zip(METRICS, table, strict=True))

    def check_units(self, outputs: Mapping[str, str]) -> None:
        """Raise ValueError if the units of the model's outputs say that this stream compares different quantities."""
        modelled = self.operator.units(outputs) if isinstance(self.operator, AbstractSeriesOperator) else None
        if self.units and modelled and modelled.split() != self.units.split():
            raise ValueError(complain(f"observations in the units of the model's {self.operator}, {modelled}",
                                      f"{self.units}", "convert values and sigma before building the stream"))

    def _error(self, modelled: Array) -> Array:
        # Guarded before the subtraction and not only after: the derivative of a masked NaN would be NaN.
        return jnp.where(self.mask, self.values - jnp.where(self.mask, self._shaped(modelled), 0.0), 0.0)

    def _shaped(self, modelled: Array) -> Array:
        modelled = jnp.atleast_2d(jnp.asarray(modelled))
        if modelled.shape != self.values.shape:
            got = f"{modelled.shape} from {self.operator or 'the forward map'}"
            raise ValueError(complain(f"modelled observations of shape {self.values.shape} (site, n_obs)", got,
                                      "build values and operator from the same time axis as the model run"))
        return modelled

    def _with_mask(self, mask: np.ndarray) -> "Stream":
        chain = None if self.chain is None else Chain(np.asarray(self.minutes), mask)
        return eqx.tree_at(lambda stream: (stream.mask, stream.chain), self, (jnp.asarray(mask), chain),
                           is_leaf=lambda node: node is None)


@dataclass(frozen=True)
class StreamSpec:
    """How `Observations.from_dataset` makes a stream from a variable of a flux Dataset.

    `uncertainty` is the name of a variable (by default that of `variable` with `_uncertainty`), or a number.
    `operator(time, observed)` builds the operator from the model's times and the observed steps, both (site, time),
    e.g. `lambda time, observed: WindowMean("nee", monthly_windows(time, observed))`; without it the output of the
    model that has the name of the variable is picked. The others go to `Stream`.
    """

    variable: str
    uncertainty: str | float | None = None
    operator: Callable[[np.ndarray, np.ndarray], AbstractSeriesOperator] | None = None
    model_error: ArrayLike | ModelError = 0.0
    correlation: ExponentialCorrelation | None = None
    weight: ArrayLike = 1.0


class Observations(eqx.Module):
    """Streams by name: a mapping, and all that is done for every stream at once."""

    names: tuple[str, ...] = eqx.field(static=True)
    sites: tuple[str, ...] = eqx.field(static=True)
    notes: tuple[str, ...] = eqx.field(static=True)
    _streams: tuple[Stream, ...]

    def __init__(self, streams: Mapping[str, Stream], *, sites: Sequence[str] = (), notes: Sequence[str] = ()):
        shapes = {name: stream.values.shape for name, stream in streams.items()}
        number = {shape[0] for shape in shapes.values()}
        if len(number) != 1 or (sites and len(sites) not in number):
            raise ValueError(complain(f"at least one stream, and the same sites in all ({len(sites) or 'any'} named)",
                                      f"streams of shape {shapes}", "mask a stream where a site has no such data"))
        self.names, self._streams = tuple(streams), tuple(streams.values())
        self.sites, self.notes = tuple(sites) or tuple(f"site {i}" for i in range(number.pop())), tuple(notes)

    @classmethod
    def from_dataset(cls, data: xr.Dataset | Sequence[xr.Dataset], specs: Sequence[str] | Mapping[str, StreamSpec], *,
                     time: ArrayLike | None = None) -> "Observations":
        """Streams from flux Datasets in normal form, one Dataset a site, in the order of the sites of the model.

        `specs` is a list of variables (`["nee", "latent_heat"]`) or a mapping of stream name to `StreamSpec`. `time`
        is the axis of the model, (time,) or (site, time) with NaT where a short site is padded; without it that of
        the Datasets. Observations outside it are left out, and counted in `notes`.
        """
        sets = [data] if isinstance(data, xr.Dataset) else list(data)
        sites = [str(ds["site"].values) if "site" in ds.coords else f"site {i}" for i, ds in enumerate(sets)]
        if len(set(sites)) < len(sites):
            raise ValueError(complain("one Dataset a site", ", ".join(sites), "merge the files of a site when reading"))
        axes = [ds["time"].values for ds in sets] if time is None else np.atleast_2d(time)
        axis = np.broadcast_to(padded := operators.pad_times(axes), (len(sets), padded.shape[1]))
        specs = dict(specs) if isinstance(specs, Mapping) else {name: StreamSpec(name) for name in specs}
        notes: list[str] = []
        streams = {name: _build(spec, sets, sites, axis, notes) for name, spec in specs.items()}
        return cls(streams, sites=sites, notes=notes)

    def __getitem__(self, name: str) -> Stream:
        if name not in self.names:
            raise KeyError(complain(f"one of the streams {', '.join(self.names)}", f"'{name}'", "check the name"))
        return self._streams[self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def items(self) -> Iterator[tuple[str, Stream]]:
        return zip(self.names, self._streams, strict=True)

    @property
    def count(self) -> Array:
        """Number of observed values."""
        return sum(stream.count for stream in self._streams)

    def residuals(self, modelled: Mapping[str, Array]) -> dict[str, Array]:
        """`Stream.residuals` of every stream."""
        return {name: stream.residuals(modelled[name]) for name, stream in self.items()}

    def with_streams(self, streams: Mapping[str, Stream]) -> "Observations":
        """The same observations with these streams replaced or added."""
        return Observations({**dict(self.items()), **streams}, sites=self.sites, notes=self.notes)

    def split(self, keep: str | np.datetime64 | Callable[[np.ndarray], np.ndarray] | Mapping[str, ArrayLike],
              ) -> tuple["Observations", "Observations"]:
        """(calibrated, held out): `keep` is a date (what is before it is calibrated), a function from the times
        (site, n_obs) of a stream to booleans, or such booleans by the name of the stream."""
        halves = {}
        for name, stream in self.items():
            if isinstance(keep, Mapping):
                halves[name] = stream.split(keep[name])
            elif stream.time is None:
                raise ValueError(complain(f"times in the stream '{name}', to split by date", "none",
                                          "pass time= to Stream, or a mapping of boolean arrays to split"))
            else:
                halves[name] = stream.split(keep(stream.time) if callable(keep) else stream.time < np.datetime64(keep))
        return tuple(self.with_streams({name: pair[i] for name, pair in halves.items()}) for i in (0, 1))

    def check_units(self, outputs: Mapping[str, str]) -> None:
        """`Stream.check_units` of every stream, with the units of the model's outputs by name."""
        for _, stream in self.items():
            stream.check_units(outputs)

    def scores(self, modelled: Mapping[str, ArrayLike]) -> dict[str, tuple]:
        """`Stream.scores` of every stream, (stream, site), in the form that `xr.Dataset(...)` takes."""
        tables = [stream.scores(modelled[name]) for name, stream in self.items()]
        scores = {metric: (("stream", "site"), np.stack([table[metric] for table in tables])) for metric in METRICS}
        return {**scores, "stream": ("stream", list(self.names)), "site": ("site", list(self.sites))}

    def __str__(self) -> str:
        expected = [float(jnp.sum(stream.weight[:, None] * stream.mask)) for stream in self._streams]
        lines = [f"Observations: {len(self)} streams, {len(self.sites)} sites, {self.count} observed values"]
        for (name, stream), part in zip(self.items(), expected, strict=True):
            branch, stem = ("└─", "  ") if name == self.names[-1] else ("├─", "│ ")
            lines.append(f"{branch} {name} [{stream.units or 'no units'}]  {stream.operator or ''}".rstrip())
            lines += [f"{stem}   {line}" for line in _facts(stream, self.sites, part / (sum(expected) or 1.0))]
        return "\n".join([*lines, *(f"Note: {note}" for note in self.notes)])


def _build(spec: StreamSpec, sets: Sequence[xr.Dataset], sites: Sequence[str], axis: np.ndarray,
           notes: list[str]) -> Stream:
    values, sigma = np.full(axis.shape, np.nan), np.full(axis.shape, np.nan)
    units = {}
    for row, (ds, site) in enumerate(zip(sets, sites, strict=True)):
        if spec.variable not in ds:
            notes.append(f"{site} has no {spec.variable}")
            continue
        units[site] = ds[spec.variable].attrs.get("units", "")
        _align(spec, ds, site, axis[row], values[row], sigma[row], notes)
    if not units or len(set(units.values())) > 1:
        raise ValueError(complain(f"'{spec.variable}', in the same units at every site", f"{units or 'none'}",
                                  f"choose among {', '.join(map(str, sets[0].data_vars))}; convert units when reading"))
    operator = Pick(spec.variable) if spec.operator is None else spec.operator(axis, ~np.isnan(values))
    return Stream(*operator.observed(values, sigma), operator, model_error=spec.model_error,
                  correlation=spec.correlation, weight=spec.weight, units=set(units.values()).pop(),
                  description=spec.variable, time=operator.times(axis))


def _align(spec: StreamSpec, ds: xr.Dataset, site: str, axis: np.ndarray, values: np.ndarray, sigma: np.ndarray,
           notes: list[str]) -> None:
    """Write the values of one site into its row of the model's steps."""
    source = spec.uncertainty or f"{spec.variable}_uncertainty"
    if isinstance(source, str) and source not in ds:
        raise ValueError(complain(f"'{source}' in the data of {site}", ", ".join(map(str, ds.data_vars)),
                                  "name the variable, or give a number, in StreamSpec(uncertainty=...)"))
    series, time = ds[spec.variable].values, ds["time"].values
    at, place = operators.match_times(time, axis)
    seen, used = int(np.isfinite(series).sum()), int(np.isfinite(series[at]).sum())
    if seen and not used:
        raise ValueError(complain(f"observations of {spec.variable} at {site} on the steps of the model, "
                                  f"{np.nanmin(axis)} to {np.nanmax(axis)}", f"none from {time[0]} to {time[-1]}",
                                  "check the years, and that both label a day by its start"))
    if used < seen:
        notes.append(f"{seen - used} of {seen} values of {spec.variable} at {site} are outside the steps of the model")
    values[place] = series[at]
    sigma[place] = ds[source].values[at] if isinstance(source, str) else source


def _facts(stream: Stream, sites: Sequence[str], share: float) -> list[str]:
    """The lines that describe one stream in the printed tree."""
    mask = np.asarray(stream.mask)
    numbers = mask.sum(axis=1)
    few = ", ".join(f"{site} {number}" for site, number in zip(sites, numbers, strict=True))
    many = f"{len(sites)} sites, {numbers.min()} to {numbers.max()} each"
    lines = [f"observed     {mask.sum()}: {few if len(sites) <= 6 else many}"]
    if not mask.any():
        return lines
    if stream.time is not None:
        days = stream.time[mask].astype("datetime64[D]")
        lines.append(f"period       {days.min()} to {days.max()}")
    sigma = f"{np.median(np.asarray(stream.sigma)[mask]):.3g}"
    weight = " to ".join(f"{end:.3g}" for end in sorted({float(stream.weight.min()), float(stream.weight.max())}))
    lines.append(f"errors       median sigma {sigma}, model error {stream.model_error}")
    days = "none" if stream.correlation is None else f"exponential, {float(stream.correlation.days):.3g} days"
    if stream.chain is not None and stream.model_error.complete:
        lines.append(f"independent  as many as {float(jnp.sum(stream.effective_number)):.0f} values without memory")
    return [*lines, f"correlation  {days}", f"weight       {weight}, share of J {share:.1%} if every R is right"]
