"""The calibration problem: parameters with priors, a forward map and observations; the cost J(z) and its derivatives.

    J(z) = 1/2 z'z + 1/2 (y - H(x))' R^-1 (y - H(x)) + soft constraints,      x = T(z)

J is available term by term, whitened residual by residual, with exact tangent-linear and adjoint products. The
minimum of J over z is the MAP in z. Where priors are Gaussian and unbounded that is the MAP in x; where they are
bounded it is not, because densities change under the transform: it is then the mode in the whitened space.
Where errors in R are parameters too (`with_error_parameters`), or the forward map knows its own error, which joins R (an emulator),
J has 1/2 log det R as one more term.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh

from landcal_jax import devices as several
from landcal_jax import error_parameters, map_error
from landcal_jax.error_parameters import ErrorParameters
from landcal_jax.errors import complain
from landcal_jax.forward import AbstractForward
from landcal_jax.map_error import MapError
from landcal_jax.model import Theta
from landcal_jax.observations import Observations
from landcal_jax.parameters import Parameter, ParameterSpace


class Linearisation(NamedTuple):
    """Whitened residuals r(z) as one vector (m,), with products of their derivative.

    `r` includes the prior's z, so J = r'r / 2, its gradient is `vjp(r)` and the Gauss-Newton product `vjp(jvp(v))`.
    """

    r: Array
    jvp: Callable[[Array], Array]
    vjp: Callable[[Array], Array]


class Problem(eqx.Module):
    """`Problem(space, forward, observations)`: the cost J(z) and everything that one does with it.

    Printing it shows parameters, streams with counts, errors and weights, and the kind of forward map. It is a pytree:
    pass it to your own jitted functions as an argument.
    """

    space: ParameterSpace
    forward: AbstractForward
    observations: Observations
    difference_step: float | None = eqx.field(static=True, default=None)
    mesh: Mesh | None = eqx.field(static=True, default=None)
    """The devices among which members are divided, see `spread`; None is one device."""
    errors: ErrorParameters | None = None
    """Which parameters are errors of the streams, see `with_error_parameters`; None if R is given."""

    def __check_init__(self):
        if self.mesh is not None and self.forward.mesh is not None:
            raise ValueError(complain("members or sites divided among devices", "both", "spread the original problem once"))
        if self.space.default.dtype == jnp.float32:
            # The one warning of the library: nothing that it returns could say that all of it has seven digits.
            warnings.warn("This problem is in single precision: J, its derivatives and posteriors have 7 digits, and solvers may stop "
                          "early. Call landcal_jax.configure() before anything else.", UserWarning, stacklevel=4)
        units = self.forward.output_units
        if units:
            self.observations.check_units(units)
        if self.forward.uncertain:
            for name, stream in self.observations.items():
                map_error.check(name, stream)

    @eqx.filter_jit
    def predict(self, z: Array) -> dict[str, Array]:
        """Modelled observations by stream, each (site, n_obs), at the control vector z (n,)."""
        return _run(self, z) if self.difference_step is None else _differenced(z, self)

    def observations_at(self, theta: Theta) -> Observations:
        """The observations with the errors that theta has for them: `observations` themselves where R is given."""
        return self.observations if self.errors is None else self.errors.observations(self.observations, theta)

    def residuals(self, z: Array) -> dict[str, Array]:
        """Whitened residuals by term: `prior` is z itself, then one array a stream; zero where nothing was observed."""
        return {"prior": z} | self.observations_at(self.theta(z)).residuals(self.predict(z))

    def terms(self, z: Array) -> dict[str, Array]:
        """J term by term: half the sum of squares of each of `residuals`, and `log_determinant` where R depends on z.

        Of a map that knows its own error the squares are those of departures whitened by R and this error together.
        """
        return _terms(self.space, self.observations, self.errors, z, self.predict(z), self.error_of_map(z))

    def cost(self, z: Array) -> Array:
        """J(z), the sum of its terms."""
        return sum(self.terms(z).values())

    def log_density(self, z: Array) -> Array:
        """Log of the posterior density of z up to the evidence: prior and likelihood with their constants."""
        # Those of the observations as they are: what log det R differs by at z is a term of J.
        constants = sum(stream.log_normalisation for _, stream in self.observations.items())
        return constants - 0.5 * self.space.size * jnp.log(2 * jnp.pi) - self.cost(z)

    def residual_vector(self, z: Array) -> Array:
        """All whitened residuals as one vector (m,), the prior's first. TypeError where J is no such sum, see `least_squares`."""
        self.require_least_squares("residuals as one vector")
        return ravel_pytree(tuple(self.residuals(z).values()))[0]

    def linearise(self, z: Array) -> Linearisation:
        """Residuals at z with tangent-linear (`jvp`) and adjoint (`vjp`) products, exact to rounding."""
        r, jvp = jax.linearize(self.residual_vector, z)
        transposed = jax.linear_transpose(jvp, z)
        return Linearisation(r, jvp, lambda w: transposed(w)[0])

    def jacobian(self, z: Array) -> tuple[Array, Array]:
        """Residuals (m,) and their Jacobian (m, n) by forward mode: n tangents share one run."""
        # Not jax.linearize, which would store what is inside every step: tangents run along with the model.
        def along(v):
            return jax.jvp(self.residual_vector, (z,), (v,))

        return jax.vmap(along, out_axes=(None, 1))(jnp.eye(z.size, dtype=z.dtype))

    def ensemble(self, Z: Array, *, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Modelled observations of many members: Z (member, n) -> {stream: (member, site, n_obs)}.

        Members run in batches of `batch_size`, of each device if they are spread over several; a member that fails is NaN. Those
        of an external model are all given to it at once.
        """
        if not self.forward.traceable:
            operators = {name: stream.operator for name, stream in self.observations.items()}
            return self.forward.many(self._of_model(_physical(self.space, jnp.asarray(Z))), operators)
        return _in_batches(_predict_many, self, Z, batch_size)

    def with_observations(self, observations: Observations) -> "Problem":
        """The same problem with other observations, such as the held-out ones."""
        if self.errors is not None:
            observations = self.errors.prepared(observations, self.observations)
        return dataclasses.replace(self, observations=observations)

    def with_error_parameters(
        self, parts: Mapping[str, Sequence[str]] | Sequence[str], *, priors: Mapping[str, Parameter] | None = None, by_site: bool = False,
        z: Array | None = None,
    ) -> "Problem":
        """The same problem with errors of its streams among the parameters, to be estimated or sampled together with theta.

        `parts`: stream -> parts of its `ModelError`, of "constant", "proportional", "days" (its memory) and "seasonal"; a list of
        streams frees the constant. The parameters are called `<stream>_model_error` [units of the stream], `<stream>_proportional_error`
        [1], `<stream>_error_days` [d], `<stream>_error_cosine` and `_sine` [1]. Their priors are log-normal about the present values
        by a factor of e (of e^1.5 for a constant), normal with 0.5 for the season; `priors` replaces them by name. A constant that is zero
        starts at what the residuals of a run have beyond the measurement error, a memory that is not there at three days, a share at 0.1
        of the modelled values: those of the level of the error, or of the run. The run is that at `z` (n,), or at the default parameters.
        One number serves all sites, or `by_site` one for each.

        A prior about errors that were estimated from the same observations, such as those of `estimate_errors`, uses these twice: that
        narrows the posterior of an error by less than one per cent where there are 25 independent values, and matters where there are few.
        Free the errors of the problem from before the estimation then, or give `priors` that come from elsewhere.

        J gets the term `log_determinant`, 1/2 log det R relative to its present value, and is no sum of squares any more: take
        `LBFGS`, a sampler, or `laplace(curvature="hessian")`.
        Raises KeyError for unknown streams; ValueError for unknown parts, and for a season or memory of a stream without times.
        """
        space, observations, errors = error_parameters.free(
            self.space, self.observations, parts, priors, by_site, lambda: self.predict(self.space.default_z if z is None else z))
        if self.errors is not None:
            errors = ErrorParameters(self.errors.entries + errors.entries)
        return dataclasses.replace(self, space=space, observations=observations, errors=errors)

    @property
    def least_squares(self) -> bool:
        """Whether J is half a sum of squares, as Gauss-Newton methods need it: R is given, and does not depend on z."""
        return self.errors is None and not self.forward.uncertain

    def error_of_map(self, z: Array) -> dict[str, MapError]:
        """What the forward map says of its own error at z, by stream; empty for a map that says nothing."""
        if not self.forward.uncertain:
            return {}
        operators = {name: stream.operator for name, stream in self.observations.items()}
        return self.forward.covariance(self._of_model(self.space.physical(z)), operators)

    def _of_model(self, theta: Theta) -> Theta:
        """What the forward map knows of theta."""
        if self.errors is None:
            return theta
        return {name: value for name, value in theta.items() if name not in self.errors.names}

    def with_forward(self, forward: AbstractForward) -> "Problem":
        """The same problem with another forward map, such as an emulator."""
        return dataclasses.replace(self, forward=forward)

    def finite_difference(self, step: float = 1e-6) -> "Problem":
        """The same problem with derivatives by forward differences of `step` in z: for comparison, or for want of exact ones.

        Every solver that takes the problem takes this twin, and gradient solvers take that of an external model without derivatives
        too, all runs of a Jacobian at once. It costs n extra runs whenever a derivative of any kind is asked for; `Result.counts`
        counts them. Choose `step` larger than 1e-6 for a model whose output is rounded, such as numbers in a text file.
        """
        return dataclasses.replace(self, difference_step=step)

    def spread(self, over: Literal["members", "sites"] = "members", devices: Sequence[jax.Device] | None = None) -> "Problem":
        """The same problem on several devices, by default on all of them, those of other processes included.

        `over="members"`: every ensemble is divided, a share of the members to each device. That serves ensemble and search
        solvers, `costs`, multi-start (candidates and starts) and the draws of a posterior. `over="sites"`: every run is divided, and
        each device holds the forcing of its own sites alone; that serves gradient solvers, and records that are too long for one device.
        The numbers need not divide each other: what is missing is filled with copies, which are cut off from the results.
        Results are those of one device to rounding. `landcal_jax.devices` says what to set on a laptop and on a cluster.

        Raises ValueError for a model that JAX does not compile, for sites where the map has none, and for a problem whose
        sites are spread already.
        """
        if over not in ("members", "sites"):
            raise ValueError(complain('"members" or "sites"', repr(over), "problem.spread() divides the members of ensembles"))
        if not self.forward.traceable:
            raise ValueError(complain("a model that JAX compiles, to divide it among devices", self.forward.description,
                                      "run members of an external model on several workers: BlackBoxForward(..., client=)"))
        mesh = several.line_of(devices)
        return dataclasses.replace(self, mesh=mesh) if over == "members" else dataclasses.replace(self, forward=self.forward.spread(mesh))

    @property
    def shared(self) -> bool:
        """Whether it is spread over the devices of several processes, which then have to do the same with it, in the same order."""
        return several.shared(self.mesh or self.forward.mesh)

    @property
    def speaks(self) -> bool:
        """Whether this process shows and writes what is done with the problem: of those that share it, the first."""
        return not self.shared or jax.process_index() == 0

    @property
    def differentiable(self) -> bool:
        """Whether J has derivatives: those of the forward map, or finite differences."""
        return self.forward.differentiable or self.difference_step is not None

    @property
    def has_tangent(self) -> bool:
        """Whether there are tangent-linear products, which a map with nothing but an adjoint of its own lacks."""
        return self.forward.has_tangent or self.difference_step is not None

    def require_gradient(self, what: str) -> None:
        """Raise TypeError with advice if the forward map cannot be differentiated."""
        if not self.differentiable:
            raise TypeError(complain(
                f"a differentiable forward map for {what}", self.forward.description,
                "an ensemble or search solver, problem.finite_difference(), or an emulator (problem.with_forward(emulator))"))

    def require_least_squares(self, what: str) -> None:
        """Raise TypeError with advice if R depends on z, so that J is no sum of squares."""
        if self.least_squares:
            return
        free = self.errors is not None
        got = f"free errors of {', '.join(self.errors.streams)}" if free else f"{self.forward.description}, whose error joins R"
        other = "estimate_errors, which alternates" if free else "the map without its error"
        raise TypeError(complain(f"a J that is a sum of squares, for {what}", f"{got}: log det R is in it and depends on z",
                                 f'LBFGS() and laplace(curvature="hessian"), a sampler, or {other}'))

    def theta(self, z: Array) -> Theta:
        """Physical parameters at z: `space.physical(z)`."""
        return self.space.physical(z)

    def __str__(self) -> str:
        def indent(text):
            return "\n".join("  " + line for line in str(text).splitlines())

        over = "members" if self.mesh is not None else "sites"
        mesh = self.mesh or self.forward.mesh
        spread = "" if mesh is None else f"devices: {over} on {mesh.size} of {mesh.devices.flat[0].device_kind}\n"
        return (f"Problem: {self.space.size} free parameters, {int(self.observations.count)} observed values\n"
                f"forward: {self.forward.description}\n{spread}"
                f"observations:\n{indent(self.observations)}\nparameters:\n{indent(self.space)}")


def _run(problem: Problem, z: Array) -> dict[str, Array]:
    operators = {name: stream.operator for name, stream in problem.observations.items()}
    return problem.forward(problem._of_model(problem.space.physical(z)), operators)


@eqx.filter_custom_jvp
def _differenced(z: Array, problem: Problem) -> dict[str, Array]:
    """What `_run` gives, with a derivative that is the matrix of forward differences: one run more for every element of z."""
    return _run(problem, z)


@_differenced.def_jvp
def _differenced_jvp(primals, tangents):
    (z, problem), (tangent, _) = primals, tangents
    value = _differenced(z, problem)
    ahead = jax.vmap(lambda z: _differenced(z, problem))(z + problem.difference_step * jnp.eye(z.size, dtype=z.dtype))

    def of_stream(name):
        # Zero where nothing was observed: NaN there, which J leaves out, would come back through the transpose.
        mask = problem.observations[name].mask.reshape(value[name].shape)
        return jnp.tensordot(tangent, jnp.where(mask, (ahead[name] - value[name]) / problem.difference_step, 0.0), 1)

    return value, {name: of_stream(name) for name in value}


@eqx.filter_jit
def _predict_many(problem: Problem, Z: Array) -> dict[str, Array]:
    return _divided(jax.vmap(problem.predict), problem, Z)


@eqx.filter_jit
def _physical(space: ParameterSpace, Z: Array) -> Theta:
    return jax.vmap(space.physical)(Z)


@eqx.filter_jit
def _cost_many(problem: Problem, Z: Array) -> Array:
    return _divided(jax.vmap(problem.cost), problem, Z)


def _divided(function, problem: Problem, Z: Array):
    return function(Z) if problem.mesh is None else several.by_rows(function, problem.mesh)(Z)


def costs(problem: Problem, Z: Array, *, batch_size: int = 256) -> np.ndarray:
    """J of many members, Z (member, n) -> (member,); NaN where one fails."""
    if not problem.forward.traceable:
        return np.asarray(_costs_of(problem.space, problem.observations, problem.errors, jnp.asarray(Z), problem.ensemble(Z)))
    return _in_batches(_cost_many, problem, Z, batch_size)


@eqx.filter_jit
def _costs_of(space: ParameterSpace, observations: Observations, errors: ErrorParameters | None, Z: Array, predicted: dict[str, Array]):
    return jax.vmap(lambda z, modelled: sum(_terms(space, observations, errors, z, modelled).values()))(Z, predicted)


def _terms(space, observations, errors, z, modelled, of_map: Mapping[str, MapError] | None = None) -> dict[str, Array]:
    """J by term at z, whose run gave `modelled`, with the errors `of_map` where the map knows them."""
    now = observations if errors is None else errors.observations(observations, space.physical(z))
    terms = {name: 0.5 * jnp.sum(part**2) for name, part in ({"prior": z} | now.residuals(modelled)).items()}
    if errors is not None:
        terms["log_determinant"] = error_parameters.log_determinant(now, observations, errors.streams)
    for name, error in (of_map or {}).items():
        terms[name], more = map_error.term(now[name], modelled[name], error)
        terms["log_determinant"] = terms.get("log_determinant", 0.0) + more
    return terms


def _in_batches(function, problem: Problem, Z: Array, batch_size: int):
    devices = 1 if problem.mesh is None else problem.mesh.size
    Z, parts = np.asarray(Z), []
    size = min(batch_size, -(-len(Z) // devices)) * devices
    for start in range(0, len(Z), size):
        # The last batch is filled with copies, so that one compiled function serves all.
        members = several.fill(Z[start : start + size], size)
        parts.append(jax.tree.map(several.gathered, function(problem, jnp.asarray(members))))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[: len(Z)], *parts)


@eqx.filter_jit
def evaluate(problem: Problem, z: Array) -> tuple[Array, Array, dict[str, Array]]:
    """J, its gradient (n,) and its terms, compiled once a problem shape."""
    def cost(z):
        terms = problem.terms(z)
        return sum(terms.values()), terms

    (value, terms), gradient = jax.value_and_grad(cost, has_aux=True)(z)
    return value, gradient, terms
