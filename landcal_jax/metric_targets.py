"""Targets of metrics and their errors: given, or made of the observed series and of errors drawn from R."""

from collections.abc import Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.measures import Measure, departure
from landcal_jax.metric_reading import Metric, Reading
from landcal_jax.observations import Stream
from landcal_jax.operators import AbstractSeriesOperator
from landcal_jax.problem import Problem
from landcal_jax.twins import draw_errors

CORRELATED = 0.5  # from which on the notes say that errors of metrics correlate


def drawn_errors(problem: Problem, readings: Mapping[str, Reading], draws: int, key: Array) -> dict[str, np.ndarray]:
    """Metric minus target of a perfect model under `draws` of the errors in R, (draw, site), by metric."""
    found = {}
    for index, (source, stream) in enumerate(problem.observations.items()):
        of_stream = {name: reading for name, reading in readings.items() if reading.source == source}
        if of_stream:
            stream = stream.with_model_error(stream.model_error.completed(stream.values))
            found |= _departures(stream, of_stream, jax.random.split(jax.random.fold_in(key, index), draws))
    return {name: np.asarray(found[name]) for name in readings}  # in their order, which jit does not keep


@eqx.filter_jit
def of_observed(readings: Mapping[str, Reading]) -> dict[str, Array]:
    """The metrics (site,) of the observed series themselves."""
    return {name: reading.value(reading.series.observed)[:, 0] for name, reading in readings.items()}


@eqx.filter_jit
def _departures(stream: Stream, readings: dict[str, Reading], keys: Array) -> dict[str, Array]:
    def one(key):
        noisy = stream.values + draw_errors(stream, key)
        return {name: departure(reading.function, reading.value(stream.values, noisy), reading.value(noisy, noisy))[:, 0]
                for name, reading in readings.items()}

    return jax.lax.map(one, keys, batch_size=20)


def stream_of(
    problem: Problem, name: str, metric: Metric, reading: Reading, observed: Array | None, target: ArrayLike | None,
    sigma: ArrayLike | None, errors: np.ndarray | None, notes: list[str],
) -> tuple[Stream, Reading]:
    """The stream (site, 1) of one metric, and its reading, which knows now where it can be computed.

    `observed`: the metric of the observed series (site,), `errors` the departures from it of draws (draw, site); None where there are none.
    """
    sites = problem.observations.sites
    if observed is not None:
        reading = _where_there(name, metric, reading, np.isfinite(observed), sites, notes)
        target = observed if target is None else target
        if sigma is None:
            sigma = _spread(name, errors, np.asarray(reading.there), sites, notes)
    else:
        _require_no_observations(name, metric, reading)
    units = _units(problem, metric)
    if target is None:
        stream = Stream(np.zeros((len(sites), 1)), 1.0, units=units, description=str(metric))
        notes.append(f"{name} has no target: it is predicted, and no part of J")
        return stream.split(False)[0], reading
    if sigma is None:
        raise ValueError(complain(f"a sigma for the target of {name}, which nobody observes", "none", f"sigma={{'{name}': ...}}"))
    target, sigma = (np.array(_at_sites(name, what, values, len(sites)), float)
                     for what, values in (("target", target), ("sigma", sigma)))
    target[~np.asarray(reading.there)] = np.nan
    reading = eqx.tree_at(lambda one: one.target, reading, jnp.asarray(target))
    return Stream(target[:, None], sigma[:, None], units=units, description=str(metric)), reading


def _require_no_observations(name: str, metric: Metric, reading: Reading) -> None:
    """Raise ValueError if the metric of a series that nobody observes is NaN for want of observations, found out on made-up series."""
    modelled, observed = np.random.default_rng(0).standard_normal((2, *reading.series.mask.shape))
    alone, beside = (np.isfinite(reading.value(modelled, given)) for given in (None, observed))
    if beside.any() and not alone.any():
        raise ValueError(complain(f"observations of {metric.stream} for {metric}", f"none, so that {name} would never be a number",
                                  "a measure of the modelled series alone, such as mean, or a stream with observations"))


def _where_there(name: str, metric: Metric, reading: Reading, there: np.ndarray, sites: Sequence[str], notes: list[str]) -> Reading:
    number = np.asarray(reading.series.mask).sum(axis=1)
    lost = [f"{site} ({count} values)" for site, count, one in zip(sites, number, there, strict=True) if not one]
    if not there.any():
        raise ValueError(complain(
            f"a finite {metric} from the observed series at one site at least", f"NaN at {', '.join(lost)}",
            "a measure for which there are enough values (its docstring says how many), and that leaves out what series.mask does"))
    if lost:
        notes.append(f"{name} is masked at {', '.join(lost)}: the values there do not suffice for {metric}")
    return eqx.tree_at(lambda one: one.there, reading, jnp.asarray(there))


def _spread(name: str, errors: np.ndarray, there: np.ndarray, sites: Sequence[str], notes: list[str]) -> np.ndarray:
    """Root mean square of the departures by site (site,)."""
    good = np.isfinite(errors)
    failed = int((~good[:, there]).sum())
    if failed:
        notes.append(f"{failed} of {errors[:, there].size} draws of the errors give no {name}; its sigma is that of the others")
    with np.errstate(invalid="ignore"):
        sigma = np.sqrt(np.sum(np.where(good, errors, 0.0) ** 2, axis=0) / good.sum(axis=0))
    still = there & ~(sigma > 0)
    if still.any():
        where = ", ".join(site for site, one in zip(sites, still, strict=True) if one)
        raise ValueError(complain(f"a {name} that errors in R move", f"no change in {len(errors)} draws at {where}",
                                  f"sigma={{'{name}': ...}}"))
    return sigma


def _at_sites(name: str, what: str, values: ArrayLike, sites: int) -> np.ndarray:
    values = np.asarray(values, float)
    if values.shape not in ((), (sites,)):
        raise ValueError(complain(f"a {what} of {name}: a number, or one for each of {sites} sites", f"shape {values.shape}",
                                  "give them in the order of the sites"))
    return np.broadcast_to(values, (sites,))


def _units(problem: Problem, metric: Metric) -> str:
    """Those of the metric, from those of its series by the rule of its measure; empty where either is not known."""
    if metric.units is not None:
        return metric.units
    if not isinstance(metric.function, Measure):
        return ""
    if isinstance(metric.stream, str):
        known = problem.observations[metric.stream].units if metric.stream in problem.observations else ""
    else:
        outputs = problem.forward.output_units
        known = metric.stream.units(outputs) if outputs and isinstance(metric.stream, AbstractSeriesOperator) else ""
    return metric.function.units_of(known or "")


def correlated(errors: Mapping[str, np.ndarray]) -> list[str]:
    """A sentence about metrics whose errors, drawn together, have a correlation that R does not know."""
    names, pairs = list(errors), []
    for first, one in enumerate(names):
        for other in names[first + 1 :]:
            a, b = errors[one], errors[other]
            for site in range(a.shape[1]):
                good = np.isfinite(a[:, site] + b[:, site])
                if good.sum() > 2 and a[good, site].std() > 0 and b[good, site].std() > 0:
                    pairs.append((np.corrcoef(a[good, site], b[good, site])[0, 1], one, other))
    pairs = sorted((pair for pair in pairs if abs(pair[0]) > CORRELATED), key=lambda pair: -abs(pair[0]))
    if not pairs:
        return []
    r, one, other = pairs[0]
    others = len({pair[1:] for pair in pairs}) - 1
    more = f"; so do {others} other pairs, by more than {CORRELATED} in size" if others else ""
    return [f"Errors of metrics are taken as independent, but those of {one} and {other} correlate by {r:.2f}{more}"]
