"""A model is written for ONE site and ONE step; `simulate` owns the loop.

The author of a model writes `initial_state` and `step` (and `prepare`, for what depends on time alone). The loop over
time, what is kept of a run, the memory of its adjoint and the spin-up live here, so that physics reads as physics.

State, forcing and output are NamedTuples. A state whose fields are scalars is several times faster on a CPU than one
stacked vector, because the fields then live in registers.
"""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jax import Array
from jax.flatten_util import ravel_pytree

from landcal_jax.errors import complain
from landcal_jax.parameters import Parameter

Theta = dict[str, Array]


class AbstractModel(eqx.Module):
    """A land surface model: one site, one step, pure functions of JAX arrays.

    Structural choices (which numerics, which albedo scheme) are fields that hold objects.
    """

    @abc.abstractmethod
    def parameters(self) -> dict[str, Parameter]:
        """The default parameter table: name -> prior, units, description, in the order of `parameter_names`."""

    @property
    @abc.abstractmethod
    def parameter_names(self) -> tuple[str, ...]:
        """Names in the order of the published tables: `dict(zip(model.parameter_names, vector))` is a theta."""

    @property
    @abc.abstractmethod
    def output_units(self) -> dict[str, str]:
        """Units of every field of the output, by name."""

    @property
    def periods(self) -> dict[str, float]:
        """Parameters that have the same effect a period later, such as a day of the year: name -> period in units of the parameter."""
        return {}

    @abc.abstractmethod
    def forcing(self, dataset) -> tuple:
        """Drivers of one site from a Dataset in the normal form of `landcal_jax.io`; raises ValueError on a lack."""

    def prepare(self, theta: Theta, forcing: tuple) -> tuple[Any, Any]:
        """Return (constants, inputs): what is constant in a run, and what `step` needs at each time.

        `inputs` is a container of arrays whose first axis is time. Terms that depend on time and theta but not on
        the state belong here, where they are computed for all steps at once.
        """
        return theta, forcing

    @abc.abstractmethod
    def initial_state(self, theta: Theta) -> tuple:
        """State at the start of the first step."""

    @abc.abstractmethod
    def step(self, constants: Any, state: tuple, inputs: Any) -> tuple[tuple, tuple]:
        """Advance one step: returns (state at its end, output of the step)."""


class Run(eqx.Module):
    """What one run of a model knows; observation operators are functions of it.

    `theta` holds arrays shaped () for one site or (site,); `forcing` and `output` have (site, time) or (time,) arrays;
    `state` has one more time: index n is the start of step n. Fields that were not asked for are None.
    """

    theta: Theta
    forcing: Any
    state: Any
    output: Any


def simulate(
    model: AbstractModel,
    theta: Theta,
    forcing: tuple,
    *,
    initial_state: tuple | None = None,
    save: Sequence[str] | None = None,
    checkpoint: int | None = 64,
) -> Run:
    """Run `model` over `forcing` at one site.

    `theta`: name -> array shaped (); `forcing`: NamedTuple of (time,) arrays (and scalars of the site).
    `initial_state` defaults to `model.initial_state(theta)`; give `equilibrium(...)` for a spun-up start.
    `save`: names of the output fields to keep, `"state"` for the trajectory of the state; None keeps everything.
    `checkpoint`: memory policy of the adjoint. It stores the state every `checkpoint` steps and recomputes the steps
    between, which for a batch of members is several times faster than storing what is inside every step, because
    memory is slower than arithmetic; None stores everything.

    Returns a `Run` with arrays shaped (time,), state (time + 1,). Raises ValueError for a name in `save` that the model does not have.
    """
    # Plain numbers are welcome; everything below takes arrays.
    theta = {name: jnp.asarray(value, float) for name, value in theta.items()}
    start = model.initial_state(theta) if initial_state is None else initial_state
    _, (outputs, states) = _scan(model, theta, forcing, start, save, checkpoint)
    if states is not None:
        states = jax.tree.map(lambda first, rest: jnp.concatenate([jnp.asarray(first, float)[None], rest]), start, states)
    return Run(theta, forcing, states, outputs)


def _scan(model, theta, forcing, start, save, checkpoint):
    """(final state, None with checkpoints; (outputs, states after each step))."""
    constants, inputs = model.prepare(theta, forcing)
    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), start)

    def body(state, now):
        after, output = model.step(constants, state, now)
        unknown = set(save or ()) - {*output._fields, "state"}
        if unknown:
            raise ValueError(complain(
                f"names of outputs of {type(model).__name__}: {', '.join(output._fields)} or state",
                ", ".join(sorted(unknown)), "leave `save` out to keep everything"))
        kept = output if save is None else output._replace(**{name: None for name in output._fields if name not in save})
        return after, (kept, after if save is None or "state" in save else None)

    if checkpoint is None:
        return jax.lax.scan(body, start, inputs)
    return None, segmented_scan(body, start, inputs, checkpoint)


def segmented_scan(body, start, inputs, segment: int):
    """Outputs of a scan whose adjoint stores the carry once a `segment` and recomputes what lies between.

    Segments are of one length, the last filled up with copies of the last input, whose outputs are cut off: a second
    loop for the rest would double the time of compiling.
    """
    # Within a segment each step is recomputed once more: only then does its adjoint stay in registers.
    body = jax.checkpoint(body, prevent_cse=False)
    inner = jax.checkpoint(lambda carry, part: jax.lax.scan(body, carry, part), prevent_cse=False)
    steps = jax.tree.leaves(inputs)[0].shape[0]
    parts = -(-steps // segment)
    segment = -(-steps // parts)  # as even as they can be: 72 steps are twice 36, not 64 and 8

    def divide(leaf):
        filled = jnp.concatenate([leaf, jnp.broadcast_to(leaf[-1:], (parts * segment - steps, *leaf.shape[1:]))])
        return filled.reshape(parts, segment, *leaf.shape[1:])

    outputs = jax.lax.scan(inner, start, jax.tree.map(divide, inputs))[1]
    return jax.tree.map(lambda leaf: leaf.reshape(parts * segment, *leaf.shape[2:])[:steps], outputs)


def equilibrium(
    model: AbstractModel, theta: Theta, forcing: tuple, *, steps: Array | None = None, cycles: int = 20,
    rtol: float = 1e-10, max_steps: int = 50,
) -> tuple:
    """The state that one pass over `forcing` leaves unchanged: spin-up as a fixed point.

    `steps`: number of leading steps that make up the pass, all without it (a short site is padded at its end).

    First `cycles` passes from `model.initial_state(theta)`, which choose the living branch of the equilibria, then
    Newton steps on "state after a pass minus state before" with the exact Jacobian (one tangent per pool), because the
    slow pools would need ten thousands of passes. The derivative with respect to theta is the implicit one, exact in
    forward and reverse mode, whatever path led there (Christianson 1994).

    A state that has no equilibrium within `max_steps` is returned as NaN, so that a calibration sees a failed run.
    """
    constants, inputs = model.prepare(theta, forcing)
    number = jax.tree.leaves(inputs)[0].shape[0]

    def body(state, now):
        index, inputs = now
        after = model.step(constants, state, inputs)[0]
        if steps is not None:
            after = jax.tree.map(lambda new, old: jnp.where(index < steps, new, old), after, state)
        return after, None

    def one_pass(state, _=None):
        return jax.lax.scan(body, state, (jnp.arange(number), inputs))[0], None

    start = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), model.initial_state(theta))
    guess = jax.lax.stop_gradient(jax.lax.scan(one_pass, start, length=cycles)[0])
    scale = jax.tree.map(lambda leaf: jnp.abs(leaf) + 1.0, guess)

    def imbalance(scaled):
        state = jax.tree.map(jnp.multiply, scaled, scale)
        return jax.tree.map(lambda after, before, size: (after - before) / size, one_pass(state)[0], state, scale)

    # Not the implicit derivative of optimistix: where a run has no equilibrium it raises an error, for a whole batch.
    start, restore = ravel_pytree(jax.tree.map(jnp.divide, guess, scale))

    def find(imbalance, start):
        found = optx.root_find(
            lambda state, _: imbalance(state), optx.Newton(rtol=rtol, atol=rtol), start, max_steps=max_steps, throw=False)
        return jnp.where(found.result == optx.RESULTS.successful, found.value, jnp.nan)

    def tangent(linear, change):
        return jnp.linalg.solve(jax.vmap(linear, out_axes=1)(jnp.eye(change.size, dtype=change.dtype)), change)

    root = jax.lax.custom_root(lambda state: ravel_pytree(imbalance(restore(state)))[0], start, find, tangent)
    return jax.tree.map(jnp.multiply, restore(root), scale)
