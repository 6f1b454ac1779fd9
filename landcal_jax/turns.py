"""Parameters that have the same effect a period later, such as a day of phenology: their posterior has copies of each mode.

No trajectory crosses from one copy to the next, a year away. But nothing is unknown about them: the likelihood is that of the phase,
and only the prior tells the turns apart. A sampler therefore takes the prior of the phase, summed over turns (`Turns.log_mass`), in
which all copies are the same, and each draw is given a turn afterwards with the probability that the prior gives it
(`Turns.drawn`): draws of the whole posterior, copies in their right proportions, from chains that never left one of them.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.parameters import ParameterSpace
from landcal_jax.transforms import LogUniformTransform, UniformTransform


class Turns(eqx.Module):
    """The periodic elements of z: `where` (k,) they are, `low` (k,) ends of their priors, `period` (k,), the `number` of turns of each.

    `logarithmic` (k,): whether the prior is log-uniform or uniform, density 1/theta or 1.
    """

    where: Array
    low: Array
    period: Array
    logarithmic: Array
    number: tuple[int, ...] = eqx.field(static=True)

    def log_mass(self, space: ParameterSpace, z: Array) -> Array:
        """Logarithm of the prior density of the phases at z (n,), summed over turns, less that of the turns which z has."""
        if not self.number:
            return jnp.zeros((), z.dtype)
        here = space.flatten(space.physical(z))[self.where]
        return jnp.sum(jax.nn.logsumexp(self._log_density(self._turns(here)) - self._log_density(here)[:, None], axis=1))

    def drawn(self, space: ParameterSpace, z: Array, key: Array) -> Array:
        """z (draw, n) with each phase on a turn that is drawn by the prior."""
        if not self.number:
            return z

        def one(z, key):
            theta = space.flatten(space.physical(z))
            places = self._turns(theta[self.where])
            chosen = jax.random.categorical(key, self._log_density(places), axis=1)
            moved = jnp.take_along_axis(places, chosen[:, None], axis=1)[:, 0]
            return z.at[self.where].set(space.whiten(space.unflatten(theta.at[self.where].set(moved)))[self.where])

        return jax.jit(jax.vmap(one))(z, jax.random.split(key, len(z)))

    def _turns(self, here: Array) -> Array:
        """The phases of `here` (k,) on every turn, (k, most turns); NaN beyond the last of an element."""
        phase = here - self.period * jnp.floor((here - self.low) / self.period)
        step = jnp.arange(max(self.number))
        return jnp.where(step < jnp.asarray(self.number)[:, None], phase[:, None] + step * self.period[:, None], jnp.nan)

    def _log_density(self, places: Array) -> Array:
        logarithmic = self.logarithmic if places.ndim == 1 else self.logarithmic[:, None]
        there = jnp.where(jnp.isnan(places), 1.0, places)
        return jnp.where(jnp.isnan(places), -jnp.inf, jnp.where(logarithmic, -jnp.log(there), 0.0))


def turns_of(space: ParameterSpace, periods: Mapping[str, float]) -> Turns:
    """The elements of `space` with one of these periods, by name of the parameter, whose prior covers whole turns, two or more.

    Where priors are correlated there are none: turns of one parameter are then not alike to the others. A prior of another kind than
    uniform and log-uniform is left as it is, and so is one that does not end where a turn ends.
    Raises ValueError for a parameter that does not exist and for a period that is not positive.
    """
    names = {label.split("[")[0] for label in space.layout.labels}
    for name, period in periods.items():
        if name not in names or not period > 0:
            raise ValueError(complain("periods above zero of parameters of the problem", f"{name!r}: {period!r}", 
                                      "the names of problem.space"))
    found = []
    if space.factor is None:
        low, high = (np.asarray(end) for end in space.bounds())
        for i, label in enumerate(space.labels):
            name = label.split("[")[0]
            if name not in periods:
                continue
            transform, number = space.parameters[name].transform, (high[i] - low[i]) / periods[name]
            if isinstance(transform, UniformTransform | LogUniformTransform) and abs(number - round(number)) < 1e-9 and round(number) > 1:
                found.append((i, low[i], periods[name], isinstance(transform, LogUniformTransform), round(number)))
    where, lows, lengths, logarithmic, number = zip(*found, strict=True) if found else ((),) * 5
    return Turns(jnp.asarray(where, int), jnp.asarray(lows, float), jnp.asarray(lengths, float), jnp.asarray(logarithmic, bool), number)
