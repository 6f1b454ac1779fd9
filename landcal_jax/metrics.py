"""Metrics: a problem whose observations are scalars of its series.

    metrics = {"nee_rmsd": Metric("nee", rmsd), "le_spring": Metric("latent_heat", slope("03-01", "05-31"))}
    problem = with_metrics(problem, metrics)

A `Metric` is a measure (`landcal_jax.measures`, or any function of a `Series` of yours) of one stream, or of an output that nobody
observes. `with_metrics` gives a `Problem` with the same parameters, each of whose streams is one metric, (site, 1). All that serves
a problem then serves metrics: sensitivity analysis, emulators, history matching, any solver and sampler. The model may be in JAX or not.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.forward import AbstractForward
from landcal_jax.keys import key_of
from landcal_jax.measures import Measure as Measure
from landcal_jax.measures import Series as Series
from landcal_jax.measures import bias as bias
from landcal_jax.measures import correlation as correlation
from landcal_jax.measures import deviation as deviation
from landcal_jax.measures import initial as initial
from landcal_jax.measures import kge as kge
from landcal_jax.measures import mean as mean
from landcal_jax.measures import nse as nse
from landcal_jax.measures import rmsd as rmsd
from landcal_jax.metric_reading import Metric as Metric
from landcal_jax.metric_reading import Reading, reading_of
from landcal_jax.metric_reading import Stock as Stock
from landcal_jax.metric_reading import months as months
from landcal_jax.metric_targets import correlated, drawn_errors, of_observed, stream_of
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.seasons import amplitude as amplitude
from landcal_jax.seasons import autumn_slope as autumn_slope
from landcal_jax.seasons import day_of_peak as day_of_peak
from landcal_jax.seasons import peak as peak
from landcal_jax.seasons import season_end as season_end
from landcal_jax.seasons import season_start as season_start
from landcal_jax.seasons import sink as sink
from landcal_jax.seasons import slope as slope
from landcal_jax.seasons import spring_slope as spring_slope
from landcal_jax.seasons import yearly as yearly


class MetricsForward(AbstractForward):
    """A forward map whose streams are metrics of those of another one, `inner`; streams without a reading are passed on."""

    inner: AbstractForward
    readings: dict[str, Reading]

    def __check_init__(self):
        if self.inner.uncertain:
            raise ValueError(complain("metrics of a map without an error of its own, which would be lost in them", self.inner.description,
                                      "metrics of the model itself, and an emulator of these: emulate(with_metrics(problem, ...), ...)"))

    def __call__(self, theta, operators):
        return self._of(self.inner(theta, self._wanted(operators)), operators)

    def many(self, theta, operators):
        if self.inner.traceable:
            return super().many(theta, operators)
        predicted = {name: jnp.asarray(values) for name, values in self.inner.many(theta, self._wanted(operators)).items()}
        return {name: np.asarray(values) for name, values in _of_members(self, predicted, tuple(operators)).items()}

    def _wanted(self, operators: Mapping[str, Callable | None]) -> dict[str, Callable | None]:
        """Which series the inner map has to give, each with its operator."""
        read = (self.readings[name] for name in operators if name in self.readings)
        passed = {name: operator for name, operator in operators.items() if name not in self.readings}
        return passed | {reading.source: reading.operator for reading in read}

    def _of(self, predicted: Mapping[str, Array], names: Sequence[str]) -> dict[str, Array]:
        return {
            name: self.readings[name].value(predicted[self.readings[name].source]) if name in self.readings else predicted[name]
            for name in names}

    @property
    def differentiable(self):
        return self.inner.differentiable

    @property
    def traceable(self):
        return self.inner.traceable

    @property
    def has_tangent(self):
        return self.inner.has_tangent

    @property
    def has_adjoint(self):
        return self.inner.has_adjoint

    def caveats(self, theta):
        return self.inner.caveats(theta)

    def failure_words(self):
        return self.inner.failure_words()

    @property
    def name(self):
        return self.inner.name

    @property
    def description(self):
        return f"{len(self.readings)} metrics of {self.inner.description}"

    @property
    def periods(self):
        return self.inner.periods

    @property
    def mesh(self):
        return self.inner.mesh

    def spread(self, mesh):
        return dataclasses.replace(self, inner=self.inner.spread(mesh))


@eqx.filter_jit
def _of_members(forward: MetricsForward, predicted: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    return jax.vmap(lambda predicted: forward._of(predicted, names))(predicted)


def with_metrics(
    problem: Problem, metrics: Mapping[str, Metric], *, targets: Mapping[str, ArrayLike] | None = None,
    sigma: Mapping[str, ArrayLike] | None = None, streams: Sequence[str] = (), draws: int = 200, key: Array | int = 0,
) -> Problem:
    """The same problem with metrics in place of its streams, each (site, 1); `streams` names those that stay beside them.

    `targets` and `sigma` (standard deviations): by metric, a number or one for each site; NaN masks a site. Without a target it is the
    metric of the observed series itself: 0 for an RMSD, 1 for an NSE, the observed mean for a mean. Without a sigma it is what errors
    drawn from R (`draws` of them, with `key`) make of it: the root mean square of metric minus target, were the model perfect
    and the errors of the observations those draws. The observed series stands for the perfect model there, and its values are the level
    of a model error in proportion to the modelled values that has none yet. A metric of what nobody observes has a target only if it
    is given one, with its sigma; without it is masked: predicted, but no part of J.

    R of the new problem takes metrics as independent. Those of one stream are not; what the draws say of it stands in the notes of
    its observations, as does every site at which a metric is masked because it cannot be computed there.

    Raises KeyError for names that are not there; TypeError for a measure that JAX cannot follow; ValueError for a metric that no site
    has, one that compares with observations where there are none, one that errors do not move (give its sigma), fewer than two draws, a
    problem whose errors are parameters, and a forward map with an error of its own.
    """
    if problem.errors is not None:
        raise ValueError(complain("a problem whose R is given", f"errors of {', '.join(problem.errors.streams)} among the parameters",
                                  "metrics of the problem before with_error_parameters, or of one with estimated errors"))
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 2:
        raise ValueError(complain("two draws of the errors or more", f"draws={draws!r}", "draws=200"))
    targets, sigma = dict(targets or {}), dict(sigma or {})
    _check_names(problem, metrics, {"targets": targets, "sigma": sigma}, streams)
    readings = {name: reading_of(problem, name, metric) for name, metric in metrics.items()}
    seen = {name: reading for name, reading in readings.items() if reading.source in problem.observations}
    observed = of_observed(seen)
    errors = drawn_errors(problem, {name: reading for name, reading in seen.items() if name not in sigma}, draws, key_of(key))
    made, notes = {}, list(problem.observations.notes)
    for name, metric in metrics.items():
        given = (values.get(name) for values in (observed, targets, sigma, errors))
        made[name], readings[name] = stream_of(problem, name, metric, readings[name], *given, notes)
    notes += correlated(errors)
    kept = {name: problem.observations[name] for name in streams}
    observations = Observations(made | kept, sites=problem.observations.sites, notes=notes)
    return dataclasses.replace(problem, forward=MetricsForward(problem.forward, readings), observations=observations)


def _check_names(problem: Problem, metrics: Mapping[str, Metric], given: Mapping[str, Mapping], streams: Sequence[str]) -> None:
    if not isinstance(metrics, Mapping) or not metrics or not all(isinstance(metric, Metric) for metric in metrics.values()):
        raise ValueError(complain("at least one metric by name, each a Metric", f"{metrics!r}", '{"nee_rmsd": Metric("nee", rmsd)}'))
    for what, names in given.items():
        if unknown := [name for name in names if name not in metrics]:
            raise KeyError(complain(f"{what} of the metrics {', '.join(metrics)}", ", ".join(unknown), "correct the names"))
    for name in streams:
        if name not in problem.observations or name in metrics:
            raise KeyError(complain(f"streams to keep among {', '.join(problem.observations)}, with names that no metric has", f"'{name}'",
                                    "correct the name, or give the metric another one"))
