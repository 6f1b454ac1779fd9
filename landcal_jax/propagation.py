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

from landcal_jax.covariance import Covariance, LowRankCovariance, root_of, times_root
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.observations import Stream
from landcal_jax.operators import AbstractOperator, Pick
from landcal_jax.problem import Problem

BATCH = 64  # tangents at a time
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


def with_outputs(problem: Problem, outputs: Outputs) -> Problem:
    """The problem with streams added that nobody observed: `outputs` of the model, by name on all its steps, or {name: operator}.

    Raises ValueError for a name that a stream has, or that the model does not know.
    """
    named = isinstance(outputs, Mapping)
    stepwise = isinstance(problem.forward, SiteForward)
    operators = dict(outputs) if named else {name: Pick(name) if stepwise else None for name in outputs}
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


def linear_bands(problem: Problem, centre: Array, covariance: Covariance, quantiles: ArrayLike) -> dict[str, Bands]:
    """Bands of a Gaussian by stream: H B' H' by tangents, or by runs for a model without. Error parameters are those of the centre."""
    steps, bands = ndtri(np.asarray(quantiles))[:, None, None], {}
    middle, variance, failed = (_by_tangents if problem.has_tangent else _by_runs)(problem, centre, covariance)
    for name, stream in problem.observations_at(problem.theta(centre)).items():
        mean, squares = np.asarray(middle[name]), [np.asarray(part) ** 2 for part in _errors_of(stream, middle[name])]
        sums = np.cumsum([np.asarray(variance[name]), *squares], axis=0)
        parts = np.sqrt([variance[name], *squares])
        bands[name] = Bands(*(mean + steps * np.sqrt(total) for total in sums), *parts, failed.get(name, 0))
    return bands


def sampled_bands(problem: Problem, Z: Array, key: Array, quantiles: ArrayLike) -> dict[str, Bands]:
    """Bands of draws Z (draw, n) by stream, each run once; `key` draws errors, for every draw with its own error parameters.

    Raises ValueError where all runs fail.
    """
    ran, bands = problem.ensemble(Z), {}
    errors = _errors(problem, Z, ran)
    keys = jax.random.split(key, len(problem.observations))
    for (name, members), subkey in zip(ran.items(), keys, strict=True):
        good = _finished(problem.observations[name], members)
        if not good.any():
            raise ValueError(complain(
                f"a draw whose run gives finite {name}", f"{len(good)} runs that all fail", "landcal_jax.testing.check(problem)"))
        noise = np.asarray(jax.random.normal(subkey, (2, *members.shape)))
        with_model = members + noise[0] * errors[name][0]
        sums = [np.quantile(values[good], quantiles, axis=0) for values in (members, with_model, with_model + noise[1] * errors[name][1])]
        spreads = (np.sqrt(np.mean(np.broadcast_to(part, members.shape)[good] ** 2, axis=0)) for part in errors[name])
        bands[name] = Bands(*sums, members[good].std(axis=0), *spreads, int((~good).sum()))
    return bands


def to_dataset(problem: Problem, bands: Mapping[str, Bands], quantiles: ArrayLike, outputs: Sequence[str]) -> xr.Dataset:
    """The Dataset that `Posterior.predictive` returns; `outputs` are the streams that nobody observed."""
    out = xr.Dataset(coords={"quantile": list(quantiles), "site": list(problem.observations.sites)})
    for name, found in bands.items():
        stream = problem.observations[name]
        attrs = {"units": stream.units, "failed": found.failed}
        places = ("site", f"{name}_obs")
        if name in outputs:
            stepwise = isinstance(problem.forward, SiteForward) and stream.values.shape == problem.forward.sites.days.shape
            places = ("site", "step") if stepwise else places
            out[name] = ("quantile", *places), np.where(stream.mask, found.parameters, np.nan), attrs
            out[f"{name}_sd_parameters"] = places, np.where(stream.mask, found.sd_parameters, np.nan), attrs
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


def _errors(problem: Problem, Z: Array, ran: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Standard deviations of model and measurement errors by stream: (site, n_obs), or (draw, site, n_obs) where draws differ in them."""
    grows = any(not stream.model_error.complete for _, stream in problem.observations.items())
    if grows or problem.errors is not None:
        return {name: tuple(np.asarray(part) for part in parts) for name, parts in _errors_of_draws(problem, Z, dict(ran)).items()}
    return {name: (np.asarray(stream.model_error_deviation), np.asarray(stream.sigma)) for name, stream in problem.observations.items()}


@eqx.filter_jit
def _errors_of_draws(problem: Problem, Z: Array, ran: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    def one(z, modelled):
        return {name: _errors_of(stream, modelled[name]) for name, stream in problem.observations_at(problem.theta(z)).items()}

    return jax.vmap(one)(Z, ran)


def _errors_of(stream: Stream, modelled: Array) -> tuple[Array, Array]:
    """Standard deviations (site, n_obs) of model and measurement error, beside what is modelled."""
    # Observations of another place or time may have no run yet with which their error would grow.
    return stream.with_model_error(stream.model_error.completed(modelled)).model_error_deviation, stream.sigma


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
