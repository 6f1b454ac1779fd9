"""Forward maps: from physical parameters to what was observed.

A forward map is called with theta and the observation operators of the streams, and returns one array a stream. A
model with sites (`SiteForward`), any JAX function (`FunctionForward`) and an emulator look the same from outside.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from landcal_jax import devices
from landcal_jax.errors import complain
from landcal_jax.map_error import MapError
from landcal_jax.model import AbstractModel, Run, Theta, equilibrium, simulate
from landcal_jax.sites import Sites


class AbstractForward(eqx.Module):
    """theta, operators -> {stream: array}. `differentiable` says whether JAX can differentiate it."""

    differentiable: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def __call__(self, theta: Theta, operators: Mapping[str, Callable | None]) -> dict[str, Array]:
        """What each stream would have observed, arrays shaped like the values of the streams."""

    def many(self, theta: Theta, operators: Mapping[str, Callable | None]) -> dict[str, Array]:
        """The map for many members at once: theta (member, *dims) -> {stream: (member, site, n_obs)}."""
        return jax.vmap(lambda theta: self(theta, operators))(theta)

    @property
    def traceable(self) -> bool:
        """Whether JAX compiles the map; ensembles of one that it cannot compile are run by `many`, outside of JAX."""
        return True

    @property
    def has_tangent(self) -> bool:
        """Whether forward mode works: a map with nothing but an adjoint of its own has derivatives, but no tangents."""
        return self.differentiable

    @property
    def has_adjoint(self) -> bool:
        """Whether a gradient is one adjoint; of a map with tangents alone it takes one for each element of theta."""
        return self.differentiable

    @property
    def uncertain(self) -> bool:
        """Whether the map knows its own error, as an emulator does: J then has it beside R, see `landcal_jax.map_error`."""
        return False

    def covariance(self, theta: Theta, operators: Mapping[str, Callable | None]) -> dict[str, MapError]:
        """The error of what `__call__` gives, by stream, of a map that is `uncertain`; streams without one are exact."""
        return {}

    def caveats(self, theta: Theta) -> tuple[str, ...]:
        """What a reader must know of the map at this theta, in sentences, such as that an emulator is outside of its design there."""
        return ()

    def failure_words(self) -> str:
        """Why runs failed, to follow the sentence that says how many did; empty where the map does not know."""
        return ""

    @property
    @abc.abstractmethod
    def description(self) -> str:
        """One line for the printed problem."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name of the model behind the map."""

    @property
    def output_units(self) -> dict[str, str] | None:
        """Unit of each stream where the map knows it (a stream in another unit is then refused); None where not."""
        return None

    @property
    def periods(self) -> Mapping[str, float]:
        """Parameters that have the same effect a period later, such as days of the year: name -> period in the unit of the parameter."""
        return {}

    @property
    def mesh(self) -> Mesh | None:
        """The devices among which its sites are divided; None is one device."""
        return None

    def spread(self, mesh: Mesh) -> "AbstractForward":
        """The same map with its sites divided among the devices of `mesh`. Raises ValueError for a map that has no sites."""
        raise ValueError(complain("a SiteForward, whose sites can be divided among devices", self.description,
                                  'problem.spread("members"), which divides its ensembles'))


class SiteForward(AbstractForward):
    """A model run at every site, then the operator of each stream.

    `dims`: name -> dimensions of each parameter that is not one value for all (`space.dims`). `spin_up`: start from
    the equilibrium with the forcing instead of the initial pools of theta (these then only start the search for it).
    `checkpoint`: see `simulate`.
    """

    model: AbstractModel
    sites: Sites
    dims: dict[str, tuple[str, ...]] = eqx.field(static=True, default_factory=dict)
    spin_up: bool = eqx.field(static=True, default=False)
    checkpoint: int | None = eqx.field(static=True, default=64)
    differentiable: bool = eqx.field(static=True, default=True, init=False)

    def __call__(self, theta, operators):
        save = {name for operator in operators.values() for name in getattr(operator, "variables", ())}
        run = self.run(theta, save=sorted(save))
        return {name: operator(run) for name, operator in operators.items()}

    def run(self, theta: Theta, save=None) -> Run:
        """Run the model at every site: a `Run` with arrays (site, time)."""
        local = self.sites.gather(theta, self.dims)

        mesh, lengths = self.sites.mesh, self.sites.lengths
        if mesh is not None:
            # As one array, so that the devices exchange its derivative at once.
            rows, lengths = devices.along((jnp.stack(list(local.values()), axis=1), lengths), mesh)
            local = {name: rows[:, n] for n, name in enumerate(local)}

        def one(theta, forcing, steps):
            start = equilibrium(self.model, theta, forcing, steps=steps) if self.spin_up else None
            return simulate(self.model, theta, forcing, initial_state=start, save=save, checkpoint=self.checkpoint)

        if len(lengths) > 1:
            run = jax.vmap(one)(local, self.sites.forcing, lengths)
            return run if mesh is None else devices.whole(run, mesh, len(self.sites.names))
        # A batch of one costs twice the time of a plain run: its loop works on arrays instead of registers.
        alone = one(*jax.tree.map(lambda leaf: leaf[0], (local, self.sites.forcing)), None)
        return jax.tree.map(lambda leaf: leaf[None], alone)

    def spread(self, mesh):
        return dataclasses.replace(self, sites=self.sites.spread(mesh))

    @property
    def mesh(self):
        return self.sites.mesh

    @property
    def name(self):
        return type(self.model).__name__

    @property
    def output_units(self):
        return self.model.output_units

    @property
    def periods(self):
        return self.model.periods

    @property
    def description(self):
        start = "spun up to equilibrium" if self.spin_up else "initial pools from theta"
        return f"{self.name} at {', '.join(self.sites.names)} ({start})"


class FunctionForward(AbstractForward):
    """Any JAX function of theta that returns {stream: array}: toy problems, transport operators."""

    function: Callable[[Theta], dict[str, Array]]
    differentiable: bool = eqx.field(static=True, default=True, init=False)

    def __call__(self, theta, operators):
        predicted = self.function(theta)
        if not isinstance(predicted, Mapping) or set(operators) - set(predicted):
            got = ", ".join(predicted) if isinstance(predicted, Mapping) else f"a {type(predicted).__name__}"
            raise ValueError(complain(f"a function that returns the streams {', '.join(operators)}", got, "return {stream: array}"))
        given = [name for name, operator in operators.items() if operator is not None]
        if given:
            raise ValueError(complain(
                "streams without operator: the function returns what was observed itself", f"an operator for {', '.join(given)}",
                "apply it in the function, and give the stream operator=None"))
        return {name: jnp.asarray(predicted[name]) for name in operators}

    @property
    def name(self):
        return getattr(self.function, "__name__", type(self.function).__name__)

    @property
    def description(self):
        return f"function {self.name}"
