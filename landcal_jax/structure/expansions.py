"""A model with one more coefficient: what a candidate error is, as a run that can be made with it.

    drivers(t) + c f(t),     theta(t) = theta exp(c s(t)) for one parameter,     H(x) + c o

with f, s or o given by the candidate and the others zero. At c = 0 it is the calibrated model; the tangent there is the direction of the
score tests, and with c free it is calibrated again to see what the candidate really explains.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.forward import SiteForward
from landcal_jax.io.quantities import METEOROLOGY
from landcal_jax.model import AbstractModel, Run, equilibrium, simulate
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem

TOLERANCE, ROUNDS = 1e-3, 25
FLOOR = 1e-6
"""Drivers that cannot be negative stay this far above zero, where square roots have a slope."""


class Expansion(eqx.Module):
    """What c multiplies: `drivers` field -> (site, time), `coefficients` (parameter, response), `predictions` stream -> (site, n_obs)."""

    drivers: dict[str, Array]
    coefficients: Array
    predictions: dict[str, Array]


class Expanded(eqx.Module):
    """A problem that can be run with an `Expansion`: `names` of the parameters that may vary, `responses` (site, time, response).

    `stepwise` False: parameters are never varied, since the model cannot be run step by step.
    """

    problem: Problem
    responses: Array
    names: tuple[str, ...] = eqx.field(static=True)
    stepwise: bool = eqx.field(static=True, default=True)

    def predict(self, z: Array, c: Array, expansion: Expansion) -> dict[str, Array]:
        """Modelled observations by stream, (site, n_obs)."""
        problem = self.problem
        if not isinstance(problem.forward, SiteForward):
            predicted = problem.predict(z)
        elif not self.stepwise:
            forcing = _driven(problem.forward, c, expansion)
            predicted = eqx.tree_at(lambda p: p.forward.sites.forcing, problem, forcing, is_leaf=lambda leaf: leaf is None).predict(z)
        else:
            predicted = self._varied(z, c, expansion)
        return {name: values + c * expansion.predictions[name] for name, values in predicted.items()}

    def _varied(self, z, c, expansion):
        forward, operators = self.problem.forward, {name: stream.operator for name, stream in self.problem.observations.items()}
        save = sorted({name for operator in operators.values() for name in getattr(operator, "variables", ())})
        model = Varying(forward.model, self.names)
        local = forward.sites.gather(self.problem.theta(z), forward.dims)
        coefficients = c * expansion.coefficients

        def one(theta, forcing, steps, responses):
            # The spin-up is that of constant parameters: what varies has its mean there.
            start = equilibrium(forward.model, theta, forcing, steps=steps) if forward.spin_up else None
            run = simulate(model, theta | {"coefficients": coefficients}, (forcing, responses), initial_state=start, save=save,
                           checkpoint=None)
            return Run(theta, forcing, run.state, run.output)

        run = jax.vmap(one)(local, _driven(forward, c, expansion), forward.sites.lengths, self.responses)
        return {name: operator(run) for name, operator in operators.items()}

    def with_constants(self) -> "Expanded":
        """The same without parameters that vary."""
        return Expanded(self.problem, self.responses, self.names, False)

    def nothing(self) -> Expansion:
        """The expansion that changes nothing, to be filled."""
        forcing = self.problem.forward.sites.forcing if isinstance(self.problem.forward, SiteForward) else None
        fields = () if forcing is None else [name for name in forcing._fields if getattr(forcing, name) is not None]
        streams = {name: jnp.zeros(stream.values.shape) for name, stream in self.problem.observations.items()}
        return Expansion({name: jnp.zeros(jnp.shape(getattr(forcing, name))) for name in fields},
                         jnp.zeros((len(self.names), self.responses.shape[-1])), streams)


def _driven(forward: SiteForward, c: Array, expansion: Expansion):
    def changed(name, along):
        values = getattr(forward.sites.forcing, name)
        if name not in METEOROLOGY or METEOROLOGY[name].low != 0:
            return values + c * along
        return jnp.where(along == 0, values, jnp.maximum(values + c * along, FLOOR))

    return forward.sites.forcing._replace(**{name: changed(name, along) for name, along in expansion.drivers.items()})


class Varying(AbstractModel):
    """A model whose parameters are theta exp(c s(t)): the coefficients c (parameter, response) ride along in theta.

    `prepare` of the model is called anew for every step, with the parameters of that step.
    """

    model: AbstractModel
    names: tuple[str, ...] = eqx.field(static=True)

    def parameters(self):
        return self.model.parameters()

    @property
    def parameter_names(self):
        return self.model.parameter_names

    @property
    def output_units(self):
        return self.model.output_units

    def forcing(self, dataset):
        return self.model.forcing(dataset)

    def prepare(self, theta, forcing):
        forcing, responses = forcing
        series = eqx.filter(forcing, lambda leaf: jnp.ndim(leaf) > 0)
        scalars = eqx.filter(forcing, lambda leaf: jnp.ndim(leaf) == 0)
        return (theta, scalars), (series, responses)

    def initial_state(self, theta):
        return self.model.initial_state(theta)

    def step(self, constants, state, inputs):
        (theta, scalars), (series, response) = constants, inputs
        factor = jnp.exp(theta["coefficients"] @ response)
        varied = dict(theta) | {name: theta[name] * factor[n] for n, name in enumerate(self.names)}
        now = eqx.combine(jax.tree.map(lambda leaf: leaf[None], series), scalars)
        inner, prepared = self.model.prepare(varied, now)
        return self.model.step(inner, state, jax.tree.map(lambda leaf: leaf[0], prepared))


@dataclass(frozen=True)
class Refit:
    """A calibration with one expansion: J before and after (the prior of c included), z (n,) and c after, its standard error,
    the whitened residuals after, stream -> (site, n_obs), and the logarithm of the determinant of the curvature of J in z after."""

    before: float
    after: float
    z: np.ndarray
    coefficient: float
    spread: float
    residuals: Mapping[str, np.ndarray]
    log_curvature: float


def refit(expanded: Expanded, observations: Observations, z: Array, expansion: Expansion, size: float, guess: float = 0.0) -> Refit:
    """Calibrate z (n,) and c, whose prior is N(0, size^2), by Levenberg and Marquardt from z and c = 0, or the `guess` where J is lower."""
    scaled = jax.tree.map(lambda leaf: leaf * size, expansion)
    starts = [jnp.concatenate([jnp.asarray(z, float), jnp.full(1, c)]) for c in (0.0, np.clip(guess / size, -2.0, 2.0))]
    costs = [float(_cost(expanded, observations, scaled, start)) for start in starts]
    before, cost = costs[0], np.nanmin(costs)
    at, damping = starts[int(np.nanargmin(costs))], 1e-3
    for _ in range(ROUNDS):
        gradient, curvature = _normal(expanded, observations, scaled, at)
        fell = 0.0
        for _ in range(8):
            step = -jnp.linalg.solve(curvature + damping * jnp.diag(jnp.diag(curvature)), gradient)
            # One is a standard deviation of the prior: a longer step leaves what the tangent is good for.
            step = step * jnp.minimum(1.0, 1.0 / jnp.max(jnp.abs(step)))
            tried = float(_cost(expanded, observations, scaled, at + step))
            if tried < cost:
                fell, at, cost, damping = cost - tried, at + step, tried, damping / 5
                break
            damping = damping * 5
        if fell < TOLERANCE * max(before - cost, 1.0):
            break
    _, curvature = _normal(expanded, observations, scaled, at)
    curvature = np.asarray(curvature)
    spread = float(np.sqrt(np.linalg.inv(curvature)[-1, -1])) * size
    residuals = {name: np.asarray(values) for name, values in _residuals(expanded, observations, scaled, at).items()}
    return Refit(before, float(cost), np.asarray(at[:-1]), float(at[-1]) * size, spread, residuals,
                 float(np.linalg.slogdet(curvature[:-1, :-1])[1]))


@eqx.filter_jit
def _residuals(expanded, observations, expansion, at):
    return observations.residuals(expanded.predict(at[:-1], at[-1], expansion))


@eqx.filter_jit
def _cost(expanded, observations, expansion, at):
    return 0.5 * (at @ at + sum(jnp.sum(part**2) for part in _residuals(expanded, observations, expansion, at).values()))


@eqx.filter_jit
def _normal(expanded, observations, expansion, at):
    def vector(at):
        return jnp.concatenate([at, *(part.ravel() for part in _residuals(expanded, observations, expansion, at).values())])

    r = vector(at)
    G = jax.vmap(lambda v: jax.jvp(vector, (at,), (v,))[1], out_axes=1)(jnp.eye(at.size))
    return G.T @ r, G.T @ G
