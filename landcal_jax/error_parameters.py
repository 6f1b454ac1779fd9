"""Parameters of the errors R among those that are estimated.

`Problem.with_error_parameters` makes numbers of a `ModelError` parameters like all others, with priors, labels and units. J then
has a term "log_determinant", 1/2 log det R, without which large errors would always fit best.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.error_model import ModelError
from landcal_jax.error_transfer import same_axis
from landcal_jax.errors import complain
from landcal_jax.model import Theta
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace

SPREAD = {"constant": 1.5, "proportional": 1.0, "days": 1.0}
"""Standard deviations of the log-normal priors, of logarithms. That of a constant is wide, since it is about residuals before a fit."""
LEAST_OF_SIGMA = 0.1
"""The least constant that the prior is about, as a share of the measurement error: zero has no logarithm."""
PARTS = {
    "constant": ("model_error",), "proportional": ("proportional_error",), "days": ("error_days",),
    "seasonal": ("error_cosine", "error_sine")}
"""The parts of a ModelError that may be free, with the endings of the names of their parameters."""


class ErrorParameters(eqx.Module):
    """Which entries of theta are the errors of which streams: (stream, part, names of its parameters)."""

    entries: tuple[tuple[str, str, tuple[str, ...]], ...] = eqx.field(static=True)

    @property
    def names(self) -> frozenset[str]:
        """The parameters that no forward map knows."""
        return frozenset(name for _, _, names in self.entries for name in names)

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams of which an error is free."""
        return tuple(dict.fromkeys(stream for stream, _, _ in self.entries))

    def observations(self, observations: Observations, theta: Theta) -> Observations:
        """The observations with the errors of theta; what is not there is passed over."""
        changed = {}
        for stream, part, names in self.entries:
            if stream not in observations.names:
                continue
            now = changed.get(stream, observations[stream])
            value = theta[names[0]] if len(names) == 1 else jnp.stack([theta[name] for name in names], axis=-1)
            like = getattr(now.model_error, part)
            value = jnp.broadcast_to(value, like.shape).astype(jnp.result_type(like, value))
            changed[stream] = now.with_model_error(eqx.tree_at(lambda error, part=part: getattr(error, part), now.model_error, value))
        return observations.with_streams(changed)

    def prepared(self, observations: Observations, like: Observations) -> Observations:
        """Other observations with the memory and the share that the errors of `like` have, so that both can be set inside jit.

        A level that they lack is that of `like` where the operator is the same, whose run is the same then.
        """
        changed = {}
        for stream, part, _ in self.entries:
            if part not in ("days", "proportional") or stream not in observations.names:
                continue
            now, there = changed.get(stream, observations[stream]), like[stream]
            names = [part] if getattr(now.model_error, part) is None else []
            if part == "proportional" and now.model_error.level is None and same_axis(now, there):
                names.append("level")
            changed[stream] = now.with_model_error(_replaced(now.model_error, {name: getattr(there.model_error, name) for name in names}))
        return observations.with_streams(changed)


def _replaced(error: ModelError, fields: Mapping[str, Array | None]) -> ModelError:
    return eqx.tree_at(lambda error: [getattr(error, name) for name in fields], error, list(fields.values()),
                       is_leaf=lambda node: node is None)


def log_determinant(now: Observations, before: Observations, streams: Sequence[str]) -> Array:
    """1/2 log det R of these streams, times their weights, relative to that of the observations `before`."""
    return 0.5 * sum(jnp.sum(now[name].weight * (now[name].log_determinant - before[name].log_determinant))
                     for name in streams if name in now.names)


def free(
    space: ParameterSpace, observations: Observations, wanted: Mapping[str, Sequence[str]] | Sequence[str],
    priors: Mapping[str, Parameter] | None, by_site: bool, run: Callable[[], Mapping[str, Array]],
) -> tuple[ParameterSpace, Observations, ErrorParameters]:
    """What `Problem.with_error_parameters` puts into the problem; `run` gives the modelled values (site, n_obs) by stream."""
    wanted = dict(wanted) if isinstance(wanted, Mapping) else dict.fromkeys(wanted, ("constant",))
    made, entries, streams = {}, [], {}
    for name, parts in wanted.items():
        unknown = [part for part in parts if part not in PARTS]
        if unknown or isinstance(parts, str):
            raise ValueError(complain(f"parts of the model error of {name}: a list of {', '.join(PARTS)}", f"{parts!r}",
                                      f'{{"{name}": ["constant", "days"]}}'))
        streams[name] = _started(name, observations[name], parts, run)
        for part in parts:
            parameters = dict(_parameters(name, streams[name], part, by_site))
            entries.append((name, part, tuple(parameters)))
            made |= parameters
    foreign = sorted(set(priors or ()) - set(made))
    taken = sorted(set(made) & set(space.parameters))
    if foreign or taken or not made:
        got = f"priors for {', '.join(foreign)}" if foreign else f"{', '.join(taken)}, free already" if taken else "none"
        raise ValueError(complain("error parameters of streams, with priors for these alone", got,
                                  f"the names are {', '.join(made)}" if made else '{"nee": ["constant", "days"]}'))
    coords = space.coords | ({"site": observations.sites} if by_site else {})
    correlation = space.correlation
    if correlation is not None:
        old, new = len(space.layout.labels), sum(int(np.prod([len(coords[dim]) for dim in each.dims])) for each in made.values())
        correlation = np.eye(old + new)
        correlation[:old, :old] = space.correlation
    whole = ParameterSpace({**space.parameters, **made, **(priors or {})}, coords, correlation=correlation, fixed=space.fixed)
    return whole, observations.with_streams(streams), ErrorParameters(tuple(entries))


def _started(name: str, stream: Stream, parts: Sequence[str], run: Callable[[], Mapping[str, Array]]) -> Stream:
    """The stream with a start for what is free: an error that is zero has no scale from which a search could go."""
    timed = {"seasonal", "days"} & set(parts)
    if stream.minutes is None and timed:
        raise ValueError(complain(f"the times of {name}, for an error with {' and '.join(sorted(timed))}", "no `time`",
                                  f'pass time= to Stream, or {{"{name}": ["constant"]}}'))
    error, fields = stream.model_error, {}
    if "constant" in parts:
        fields["constant"] = error.constant
        if bool(jnp.any(error.constant <= 0)):
            fields["constant"] = jnp.where(error.constant > 0, error.constant, _beyond_sigma(stream, _finite(name, stream, run()[name])))
    if "proportional" in parts:
        share = jnp.zeros_like(error.constant) if error.proportional is None else error.proportional
        fields["proportional"] = jnp.where(share > 0, share, 0.1)
        if error.level is None:
            fields["level"] = jnp.abs(_finite(name, stream, run()[name]))
    if "days" in parts and error.days is None:
        fields["days"] = jnp.full(error.constant.shape, 3.0)
    return stream.with_model_error(_replaced(error, fields))


def _beyond_sigma(stream: Stream, modelled: Array) -> Array:
    """What the mean square residual of all sites has beyond the measurement error, as a standard deviation; never zero."""
    square, measured = (jnp.mean(part**2, where=stream.mask) for part in (stream.values - modelled, stream.sigma))
    return jnp.sqrt(jnp.maximum(square - measured, LEAST_OF_SIGMA**2 * measured))


def _finite(name: str, stream: Stream, modelled: Array) -> Array:
    lost = int(jnp.sum(stream.mask & ~jnp.isfinite(modelled)))
    if lost:
        raise ValueError(complain(f"a finite run of {name} at the default parameters, by which the priors of its errors are set",
                                  f"{lost} values that are not finite",
                                  f'stream.with_model_error(error.at(problem.predict(z)["{name}"])) at another z before'))
    return modelled


def _parameters(name: str, stream: Stream, part: str, by_site: bool) -> Iterator[tuple[str, Parameter]]:
    """Priors: log-normal about the start, by factors of exp(`SPREAD`); normal by half the log for a season."""
    units = {"constant": stream.units or "1", "days": "d"}.get(part, "1")
    about = {
        "constant": "model error (standard deviation)", "proportional": "model error as a share of the flux",
        "days": "e-folding time of the model error", "seasonal": "season of the log of the model error"}[part]
    start = np.asarray(getattr(stream.model_error, part))
    start = start if by_site else np.exp(np.log(start).mean()) if part != "seasonal" else start.mean(axis=0)
    for place, ending in enumerate(PARTS[part]):
        kind = {"dims": "site" if by_site else (), "units": units, "description": f"{name}: {about}"}
        yield f"{name}_{ending}", (Parameter.normal(start[..., place], 0.5, **kind) if part == "seasonal"
                                   else Parameter.log_normal(start, SPREAD[part], **kind))
