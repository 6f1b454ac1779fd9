"""The model error of an observed series in other outputs of the same variable: its sum over a year, its mean over a month, every step.

Errors with memory do not average out as independent ones do. Of the sum over a window W of errors with the deviations s_i,

    var = sum over i, j in W of s_i s_j exp(-|t_i - t_j| / days)

exactly, in O(n): with a_i = s_i + rho_i a_(i-1) along the steps of a window, step i adds s_i^2 + 2 s_i rho_i a_(i-1).
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.error_model import correlated_sums
from landcal_jax.error_transfer import has_error
from landcal_jax.forward import SiteForward
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import AbstractOperator, Pick, WindowMean, Windows, WindowSum
from landcal_jax.problem import Problem


class Carried(eqx.Module):
    """How the model errors of `stream`, one for each step of the model, come into an output: through windows, or step by step (None)."""

    stream: str = eqx.field(static=True)
    mean: bool = eqx.field(static=True)
    windows: Windows | None
    order: Array | None
    """Places (site, step) that sort the steps by their windows."""

    @classmethod
    def through(cls, operator: Pick | WindowSum | WindowMean, stream: str, shape: tuple[int, int]) -> "Carried":
        """The way from a stream (site, step) of this shape through an operator on the steps of the model."""
        if isinstance(operator, Pick):
            return cls(stream, False, None, None)
        index = np.broadcast_to(np.asarray(operator.windows.index), shape)
        return cls(stream, isinstance(operator, WindowMean), operator.windows, jnp.asarray(np.argsort(index, axis=1, kind="stable")))

    def deviation(self, stream: Stream) -> Array:
        """Standard deviation of the model error in the output, (site, n_obs), by that of its stream; NaN for an empty window."""
        single = stream.model_error_deviation
        if self.windows is None:
            return single
        index = jnp.take_along_axis(jnp.broadcast_to(self.windows.index, single.shape), self.order, axis=1)
        rho = self._rho(stream, index)
        parts = correlated_sums(jnp.take_along_axis(single, self.order, axis=1), rho)
        count = self.windows.count
        variance = jax.vmap(lambda part, index: jax.ops.segment_sum(part, index, num_segments=count + 1)[:-1])(parts, index)
        size = self.windows.size
        scale = jnp.maximum(size, 1.0) if self.mean else 1.0
        return jnp.where(size > 0, jnp.sqrt(variance) / scale, jnp.nan)

    def _rho(self, stream: Stream, index: Array) -> Array:
        """What of each error is in that of the step before it in the same window, (site, step)."""
        days = stream.model_error.days if stream.correlation is None else jnp.broadcast_to(stream.correlation.days, stream.weight.shape)
        if days is None:
            return jnp.zeros(index.shape)
        minutes = jnp.take_along_axis(stream.minutes, self.order, axis=1).astype(days.dtype)
        first = jnp.ones((len(index), 1), bool)
        linked = ~jnp.concatenate([first, index[:, 1:] != index[:, :-1]], axis=1)
        gap = jnp.concatenate([jnp.zeros((len(index), 1)), jnp.diff(minutes, axis=1)], axis=1) / 1440.0
        return jnp.where(linked, jnp.exp(-jnp.where(linked, gap, 0.0) / days[:, None]), 0.0)


def carried(problem: Problem, outputs: Mapping[str, AbstractOperator | None]) -> tuple[dict[str, Carried], dict[str, str]]:
    """The outputs into which the model error of a stream comes, and of every output what its bands have, in words."""
    found, said = {}, {}
    for name, operator in outputs.items():
        found[name], said[name] = _way(problem, operator)
    return {name: way for name, way in found.items() if way is not None}, said


def _way(problem: Problem, operator: AbstractOperator | None) -> tuple[Carried | None, str]:
    if type(operator) not in (Pick, WindowSum, WindowMean) or not isinstance(problem.forward, SiteForward):
        return None, "none: a model error is carried to Pick, WindowSum and WindowMean of a variable with sites alone"
    shape, variable = problem.forward.sites.days.shape, operator.variables[0]
    streams = {name: stream for name, stream in problem.observations.items()
               if type(stream.operator) is Pick and stream.operator.variables == (variable,) and stream.values.shape == shape}
    if not streams:
        return None, f"none: no stream has {variable} on the steps of the model"
    free = () if problem.errors is None else problem.errors.streams
    name = next((name for name, stream in streams.items() if name in free or has_error(stream.model_error)), None)
    if name is None:
        return None, f"none: the stream {next(iter(streams))} has none"
    return Carried.through(operator, name, shape), f"that of the stream {name}, with its memory"


def with_carried(errors: dict[str, tuple[Array, Array]], observations: Observations, ways: Mapping[str, Carried]):
    """Standard deviations of model and measurement errors by stream, with those that come into outputs; streams have their levels."""
    return errors | {name: (way.deviation(observations[way.stream]), errors[name][1]) for name, way in ways.items()}
