"""What a posterior says of what the model computes: bands with parametric, model-error and observation parts apart.

A Gaussian is propagated through the tangent-linear model, H B' H' of the textbooks, or through runs on either side of its centre;
draws are run. Both for what was observed, for any other output of the model, and at other sites and periods. At the end
of the way stands a projection: `emergent_constraint`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from numpy.typing import ArrayLike
from scipy.special import ndtri

from landcal_jax.carried_errors import Carried, with_carried
from landcal_jax.covariance import Covariance, LowRankCovariance, root_of, times_root
from landcal_jax.error_transfer import handed_on, has_error, same_axis
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import AbstractOperator, Pick
from landcal_jax.problem import Problem

BATCH = 64  # tangents at a time
BLOCK = 2_000_000  # numbers of all draws whose quantiles are taken at a time
Outputs = Sequence[str] | Mapping[str, AbstractOperator | None]


class Bands(NamedTuple):
    """Of one stream: quantiles (quantile, site, n_obs) by parameters alone, with model error, and with measurement error too; standard
    deviations (site, n_obs) of the three parts; and the number of runs that failed."""

    parameters: np.ndarray
    model: np.ndarray
    total: np.ndarray
    sd_parameters: np.ndarray
    sd_model_error: np.ndarray
    sd_observation: np.ndarray
    failed: int


# -------------------------------------------------------------------------------------------------- what is to be predicted


def elsewhere(own: Problem, other: Problem, Z: Array) -> Problem:
    """`other`, if a z of `own` means the same parameters there; checked at Z (k, n).

    Raises ValueError where free parameters have other labels or other priors.
    """
    if other.space.labels != own.space.labels:
        here, there = set(own.space.labels), set(other.space.labels)
        got = [f"{words} {', '.join(sorted(labels)[:6])}{' and more' if len(labels) > 6 else ''}"
               for words, labels in (("without", here - there), ("with also", there - here)) if labels] or ["the same in another order"]
        raise ValueError(complain(
            f"a problem with the {len(here)} free parameters of the posterior", f"one {', '.join(got)}",
            "posterior.problem.with_forward(...).with_observations(...), or the same space with other parameters fixed"))
    values, others = (np.stack([space.flatten(space.physical(z)) for z in Z]) for space in (own.space, other.space))
    wrong = ~np.isclose(values, others, rtol=1e-9, atol=0.0).all(axis=0)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ValueError(complain(
            "a problem with the priors of the posterior, in whose space its draws are",
            f"{own.space.labels[at]} = {others[0, at]:.6g} there for {values[0, at]:.6g} here",
            "posterior.problem.with_forward(...).with_observations(...)"))
    return other


def with_errors_of(own: Problem, other: Problem) -> tuple[Problem, dict[str, str]]:
    """`other` with the model errors of `own` in streams of the same name that have none, and what is said of them, by stream."""
    free = () if other.errors is None else other.errors.streams
    changed, said, mine = {}, {}, own.observations
    for name, stream in other.observations.items():
        if name in free or name not in mine.names or has_error(stream.model_error) or not has_error(mine[name].model_error):
            continue
        # The same times of another model give another run, with which a share grows.
        level = own.forward is other.forward and same_axis(mine[name], stream)
        error, words = handed_on(mine[name], mine.sites, stream, other.observations.sites, level=level)
        said[name] = words if error is None else "; ".join(filter(None, ("that of the calibrated stream", words)))
        if error is not None:
            changed[name] = stream.with_model_error(error)
    return other.with_observations(other.observations.with_streams(changed)), said


def checked_quantiles(quantiles: ArrayLike) -> np.ndarray:
    """Quantiles (quantile,) between zero and one; ValueError for anything else, such as per cents."""
    array = np.asarray(quantiles, float)
    if array.ndim != 1 or not array.size or not ((array > 0) & (array < 1)).all():
        raise ValueError(complain("a list of quantiles between zero and one", f"{quantiles!r}", "quantiles=(0.05, 0.5, 0.95)"))
    return array


def operators_of(problem: Problem, outputs: Outputs) -> dict[str, AbstractOperator | None]:
    """Outputs by name with their operators: a name alone is every step of a model with sites."""
    if isinstance(outputs, str):
        raise ValueError(complain("a list of names of outputs, or a mapping to operators", f"{outputs!r}", f'outputs=["{outputs}"]'))
    if isinstance(outputs, Mapping):
        return dict(outputs)
    return {name: Pick(name) if isinstance(problem.forward, SiteForward) else None for name in outputs}


def with_outputs(problem: Problem, operators: Mapping[str, AbstractOperator | None]) -> Problem:
    """The problem with streams added that nobody observed, outputs of the model by their operators, see `operators_of`.

    Raises ValueError for a name that a stream has, or that the model does not know.
    """
    stepwise = isinstance(problem.forward, SiteForward)
    taken = [name for name in operators if name in problem.observations.names]
    if taken:
        raise ValueError(complain(
            f"outputs with names of their own, beside the streams {', '.join(problem.observations.names)}", ", ".join(taken),
            f'a mapping: outputs={{"{taken[0]}_every_step": Pick("{taken[0]}")}}'))
    if not operators:
        return problem
    shapes = jax.eval_shape(lambda z: problem.forward(problem._of_model(problem.theta(z)), operators), jnp.zeros(problem.space.size))
    units = problem.forward.output_units or {}
    streams = {}
    for name, operator in operators.items():
        shape = (1,) * (2 - len(shapes[name].shape)) + shapes[name].shape
        # What the model makes of the padding of a short site is nothing.
        real = problem.forward.sites.real if stepwise and shape == problem.forward.sites.days.shape else True
        unit = operator.units(units) if hasattr(operator, "units") else units.get(name)
        streams[name] = Stream(np.zeros(shape), 1.0, operator, mask=real, units=unit or "")
    return problem.with_observations(problem.observations.with_streams(streams))


# ------------------------------------------------------------------------------------------------------------- propagation


def linear_bands(
    problem: Problem, centre: Array, covariance: Covariance, quantiles: ArrayLike, ways: Mapping[str, Carried],
) -> dict[str, Bands]:
    """Bands of a Gaussian by stream: H B' H' by tangents, or by runs for a model without. Error parameters are those of the centre.

    `ways`: outputs into which the model error of a stream comes.
    """
    steps, bands = ndtri(np.asarray(quantiles))[:, None, None], {}
    middle, variance, failed = (_by_tangents if problem.has_tangent else _by_runs)(problem, centre, covariance)
    errors = _errors_of(problem.observations_at(problem.theta(centre)), middle, ways)
    for name in problem.observations:
        mean, squares = np.asarray(middle[name]), [np.asarray(part) ** 2 for part in errors[name]]
        sums = np.cumsum([np.asarray(variance[name]), *squares], axis=0)
        parts = np.sqrt([variance[name], *squares])
        bands[name] = Bands(*(mean + steps * np.sqrt(total) for total in sums), *parts, failed.get(name, 0))
    return bands


def sampled_bands(problem: Problem, Z: Array, key: Array, quantiles: ArrayLike, ways: Mapping[str, Carried]) -> dict[str, Bands]:
    """Bands of draws Z (draw, n) by stream, each run once; `key` draws errors, for every draw with its own error parameters.

    `ways`: outputs into which the model error of a stream comes. Raises ValueError where all runs fail.
    """
    ran, bands = problem.ensemble(Z), {}
    errors = _errors(problem, Z, ran, ways)
    keys = jax.random.split(key, len(problem.observations))
    for name, subkey in zip(list(ran), keys, strict=True):
        members = ran.pop(name)
        good = _finished(problem.observations[name], members)
        if not good.any():
            raise ValueError(complain(
                f"a draw whose run gives finite {name}", f"{len(good)} runs that all fail", "landcal_jax.testing.check(problem)"))
        bands[name] = _banded(members, good, errors[name], subkey, np.asarray(quantiles))
    return bands


def _quantiles(values: np.ndarray, quantiles: np.ndarray) -> np.ndarray:
    """What np.quantile gives along the last axis of values (place, draw), (quantile, place), in less than half of its time."""
    at = quantiles * (values.shape[1] - 1)
    low = np.floor(at).astype(int)
    high = np.minimum(low + 1, values.shape[1] - 1)
    ordered = np.partition(values, np.unique([low, high]), axis=1)
    return (ordered[:, low] + (at - low) * (ordered[:, high] - ordered[:, low])).T


def _banded(members: np.ndarray, good: np.ndarray, errors: tuple[np.ndarray, np.ndarray], key: Array, quantiles: np.ndarray) -> Bands:
    """Bands of one stream from its runs (draw, site, n_obs), of which the `good` ones count: a block of places at a time, so that thousands
    of draws of a long record need neither the memory for all their errors nor the time to sort them across it."""
    shape, lost = members.shape[1:], int((~good).sum())
    rows = members.reshape(len(members), -1)
    model, measured = (np.broadcast_to(part, members.shape).reshape(len(members), -1) if np.ndim(part) == 3
                       else np.broadcast_to(part, shape).reshape(1, -1) for part in errors)
    sums, spreads = np.empty((3, len(quantiles), rows.shape[1])), np.empty((3, rows.shape[1]))
    width = max(1, BLOCK // len(members))
    for number, start in enumerate(range(0, rows.shape[1], width)):
        block = slice(start, start + width)
        values = np.ascontiguousarray(rows[good, block].T)
        noise = np.asarray(jax.random.normal(jax.random.fold_in(key, number), values.shape))
        parts = [(part[good, block] if len(part) > 1 else part[:, block]).T for part in (model, measured)]
        spreads[:, block] = [values.std(axis=1), *(np.sqrt(np.mean(part**2, axis=1)) for part in parts)]
        # Bands are of one place and one sum at a time, so that one draw serves both sums.
        for place, error in enumerate((None, parts[0], np.hypot(*parts))):
            sums[place, :, block] = _quantiles(values if error is None else values + error * noise, quantiles)
    return Bands(*sums.reshape(3, len(quantiles), *shape), *spreads.reshape(3, *shape), lost)


def to_dataset(
    problem: Problem, bands: Mapping[str, Bands], quantiles: ArrayLike, outputs: Sequence[str], ways: Mapping[str, Carried],
    said: Mapping[str, str],
) -> xr.Dataset:
    """The Dataset that `Posterior.predictive` returns; `outputs` are the streams that nobody observed, those of `ways` with a model error,
    of which what is `said`, by stream, becomes an attribute."""
    out = xr.Dataset(coords={"quantile": list(quantiles), "site": list(problem.observations.sites)})
    for name, found in bands.items():
        stream = problem.observations[name]
        attrs = {"units": stream.units, "failed": found.failed} | ({"model_error": said[name]} if name in said else {})
        places = ("site", f"{name}_obs")
        if name in outputs:
            stepwise = isinstance(problem.forward, SiteForward) and stream.values.shape == problem.forward.sites.days.shape
            places = ("site", "step") if stepwise else places
            out[name] = ("quantile", *places), np.where(stream.mask, found.parameters, np.nan), attrs
            out[f"{name}_sd_parameters"] = places, np.where(stream.mask, found.sd_parameters, np.nan), attrs
            if name in ways:
                out[f"{name}_model"] = ("quantile", *places), np.where(stream.mask, found.model, np.nan), attrs
                out[f"{name}_sd_model_error"] = places, np.where(stream.mask, found.sd_model_error, np.nan), attrs
            continue
        for ending, values in (("", found.parameters), ("_model", found.model), ("_total", found.total)):
            out[name + ending] = ("quantile", *places), values, attrs
        for ending in ("sd_parameters", "sd_model_error", "sd_observation"):
            out[f"{name}_{ending}"] = places, getattr(found, ending), attrs
        if stream.time is not None:
            out.coords[f"{name}_time"] = places, stream.time.astype("datetime64[ns]")
    if "step" in out.dims:
        out.coords["time"] = ("site", "step"), problem.forward.sites.time.astype("datetime64[ns]")
    return out


def _errors(problem: Problem, Z: Array, ran: Mapping[str, np.ndarray], ways: Mapping[str, Carried]):
    """Standard deviations of model and measurement errors by stream: (site, n_obs), or (draw, site, n_obs) where draws differ in them."""
    differ = set() if problem.errors is None else set(problem.errors.streams)
    differ |= {name for name, stream in problem.observations.items() if not stream.model_error.complete}
    once = _errors_of(problem.observations, {name: members[0] for name, members in ran.items()}, ways)
    differ |= {name for name, way in ways.items() if way.stream in differ}
    model = _model_errors_of_draws(problem, Z, dict(ran), ways) if differ else {}
    return {name: (np.asarray(model[name] if name in differ else each[0]), np.asarray(each[1])) for name, each in once.items()}


@eqx.filter_jit
def _model_errors_of_draws(problem: Problem, Z: Array, ran: dict[str, Array], ways: Mapping[str, Carried]) -> dict[str, Array]:
    def one(z, modelled):
        return {name: model for name, (model, _) in _errors_of(problem.observations_at(problem.theta(z)), modelled, ways).items()}

    return jax.vmap(one)(Z, ran)


def _errors_of(observations: Observations, modelled: Mapping[str, Array], ways: Mapping[str, Carried]) -> dict[str, tuple[Array, Array]]:
    """Standard deviations (site, n_obs) of model and measurement error by stream, beside what is modelled."""
    # Observations of another place or time may have no run yet with which their error would grow.
    grown = observations.with_streams({name: stream.with_model_error(stream.model_error.completed(modelled[name]))
                                       for name, stream in observations.items() if not stream.model_error.complete})
    return with_carried({name: (stream.model_error_deviation, stream.sigma) for name, stream in grown.items()}, grown, ways)


def _by_tangents(problem: Problem, centre: Array, covariance: Covariance):
    """Predictions at the centre by stream, their variance, and no runs that failed."""
    low_rank = isinstance(covariance, LowRankCovariance)
    return *_propagate(problem, centre, covariance if low_rank else jnp.asarray(root_of(covariance)).T), {}


@eqx.filter_jit
def _propagate(problem: Problem, z: Array, axes: Array | LowRankCovariance):
    """Predictions at z by stream, and the sum of squares of their derivatives along each axis: the rows of `axes`."""
    def along(number):
        # Axes of a covariance of low rank are made one by one, so that no matrix of all of them is.
        row = axes[number] if isinstance(axes, Array) else axes.times_root(jnp.zeros((1, z.size)).at[0, number].set(1.0))[0]
        return jax.jvp(problem.predict, (z,), (row,))

    # A batch at a time, and only the sum is kept: hundreds of parameters times a long record need not fit in memory.
    batches = -(-z.size // BATCH)
    numbers = jnp.arange(batches * -(-z.size // batches)).reshape(batches, -1)

    def add(total, batch):
        centre, found = jax.vmap(along, out_axes=(None, 0))(jnp.minimum(batch, z.size - 1))
        inside = (batch < z.size)[:, None, None]
        return jax.tree.map(lambda sums, leaf: sums + jnp.sum(jnp.where(inside, leaf**2, 0.0), axis=0), total, found), centre

    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(problem.predict, z))
    variance, centre = jax.lax.scan(add, nothing, numbers)
    return jax.tree.map(lambda leaf: leaf[0], centre), variance


def _by_runs(problem: Problem, centre: Array, covariance: Covariance):
    """The same from runs on either side of the centre."""
    axes = np.asarray(times_root(covariance, jnp.eye(centre.size)) if isinstance(covariance, LowRankCovariance) else root_of(covariance).T)
    axes = axes[np.any(axes != 0, axis=1)]
    members = np.asarray(centre) + np.concatenate([np.zeros((1, centre.size)), axes, -axes])
    middle, variance, failed = {}, {}, {}
    for name, values in problem.ensemble(jnp.asarray(members)).items():
        good = _finished(problem.observations[name], values)
        if not good[0]:
            raise ValueError(complain(f"a run at the centre of the posterior that gives finite {name}", "one that fails",
                                      "predictive(draws=200), by runs elsewhere"))
        # One side stands for both where the other one failed.
        above, below = np.split(np.where(good[1:, None, None], values[1:] - values[0], np.nan), 2)
        above, below = np.where(np.isnan(above), -below, above), np.where(np.isnan(below), -above, below)
        lost = ~good[1 : len(axes) + 1] & ~good[len(axes) + 1 :]
        middle[name], variance[name] = values[0], np.sum((0.5 * (above - below)[~lost]) ** 2, axis=0)
        failed[name] = int((~good).sum())
    return middle, variance, failed


def _finished(stream: Stream, members: np.ndarray) -> np.ndarray:
    """Which members (member, site, n_obs) of a stream ran to their end."""
    finite = np.isfinite(members)
    # A place that no member fills and nobody observed, such as a window without steps, is no failure.
    return (finite | ~(finite.any(axis=0) | np.asarray(stream.mask))).all(axis=(1, 2))


# -------------------------------------------------------------------------------------------------------------- projection


class Projection(NamedTuple):
    """What an emergent relationship makes of a constraint.

    `mean`, `sd`: of the projected quantity, given the constraint; `prior_mean`, `prior_sd`: of all models alike. The
    relationship: `slope`, `intercept`, `correlation`, and `residual_sd`, the scatter of models about it.
    """

    mean: float
    sd: float
    prior_mean: float
    prior_sd: float
    slope: float
    intercept: float
    correlation: float
    residual_sd: float


def emergent_constraint(x: ArrayLike, y: ArrayLike, mean: float, sd: float) -> Projection:
    """Project a calibrated quantity along a relationship that holds among models: an emergent constraint.

    `x` (model,): what can be constrained now, such as a parameter, in each model or run of an ensemble; `y` (model,): what each of them
    projects; `mean`, `sd`: x by a posterior, in the same units. A straight line y = a + b x is fitted by least squares, and
    its prediction error s^2 (1 + 1/n + (x - x_mean)^2 / Sxx), s^2 the residual variance with n - 2 degrees of freedom, is integrated
    over the posterior of x (Cox et al. 2013, Nature 494, 341, Methods; for the temperature of photosynthesis Booth et al. 2012,
    Environ. Res. Lett. 7, 024002). The moments of that integral are exact for any posterior with this mean and sd:

        E y = a + b mean,    var y = s^2 (1 + 1/n + ((mean - x_mean)^2 + sd^2) / Sxx) + b^2 sd^2

    Nothing says that the real world lies on the line: it is another model, at best. Raises ValueError for fewer than four models, models
    that all have the same x, or values that are not finite.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    square = np.sum((x - x.mean()) ** 2) if x.size else 0.0
    if x.ndim != 1 or x.shape != y.shape or len(x) < 4 or not np.isfinite([*x, *y, mean, sd]).all() or square == 0 or sd < 0:
        raise ValueError(complain("x and y of four or more models (model,), finite and not all at one x, and sd of zero or more",
                                  f"shapes {x.shape} and {y.shape}, {mean:g} +- {sd:g}", "leave out models without a projection"))
    slope = np.sum((x - x.mean()) * (y - y.mean())) / square
    intercept = y.mean() - slope * x.mean()
    residual = np.sum((y - intercept - slope * x) ** 2) / (len(x) - 2)
    variance = residual * (1 + 1 / len(x) + ((mean - x.mean()) ** 2 + sd**2) / square) + (slope * sd) ** 2
    relationship = slope, intercept, np.corrcoef(x, y)[0, 1], np.sqrt(residual)
    return Projection(*map(float, (intercept + slope * mean, np.sqrt(variance), y.mean(), y.std(ddof=1), *relationship)))
