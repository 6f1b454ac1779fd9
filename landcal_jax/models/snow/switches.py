"""Where the scheme as published jumps, and what stands there while one calibrates: this file, and nowhere else.

| threshold | `Exact` | `Smooth` |
|---|---|---|
| layers in use | one to five with the depth of the snow | all five, `ContinuousGrid` |
| albedo of wet snow | any change of phase in layer 1 | share 1 - exp(-change / `phase_width`) |
| conductance of the snow's skin, 7 to 50 W m-2 K-1 | skin as warm as layer 1 and above 272.96 K | two logistic steps of `skin_width` |
| snow cover of 0.99 | counts as one | as it is |
| no snow | cover below 1e-6 | mass below 1e-4 kg m-2 runs off |

Kinks (melt, refreezing, what snow can hold, bounds of density and albedo) are the same in both: their one-sided derivatives are right, and
smoothing them would break the balances. Widths are numbers that a calibration may narrow as it goes: they are no part of what is compiled.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.column import AbstractGrid, ContinuousGrid, EcLandGrid
from landcal_jax.models.snow.constants import COVERED, EPSILON, TRACE

STICKY = 272.96  # K (RSNRTTEMP): skin above which snow may conduct as if it melted
MELTING_SKIN = 50.0  # W m-2 K-1 (RSNLARGESN)
LEAST_MASS = 1e-4  # kg m-2


class AbstractSwitches(eqx.Module):
    """How the thresholds of the scheme are passed."""

    grid: eqx.AbstractVar[AbstractGrid]

    @abc.abstractmethod
    def wet(self, phase_change: Array) -> Array:
        """From 0 (dry) to 1: whether water froze or melted in layer 1, from the heat of that [W m-2]."""

    @abc.abstractmethod
    def skin_conductance(self, cold: Array, skin: Array, first_layer: Array) -> Array:
        """Conductance [W m-2 K-1] between skin and snow, `cold` where nothing melts; from the temperatures of skin and layer 1 [K]."""

    @abc.abstractmethod
    def covered(self, fraction: Array) -> Array:
        """The snow fraction that counts."""

    @abc.abstractmethod
    def there(self, fraction: Array, mass: Array) -> Array:
        """Whether the snow is more than a trace, from its fraction and mass [kg m-2]."""


class Exact(AbstractSwitches):
    """The published scheme."""

    grid: AbstractGrid = EcLandGrid()

    def wet(self, phase_change):
        return jnp.where(phase_change > 0, 1.0, 0.0)

    def skin_conductance(self, cold, skin, first_layer):
        return jnp.where((skin >= first_layer) & (skin > STICKY), MELTING_SKIN, cold)

    def covered(self, fraction):
        return jnp.where(fraction >= COVERED, 1.0, fraction)

    def there(self, fraction, mass):
        return fraction >= TRACE


class Smooth(AbstractSwitches):
    """The scheme without jumps: `phase_width` [W m-2] and `skin_width` [K] say over how much they are spread."""

    phase_width: Array | float = 5.0
    skin_width: Array | float = 0.2
    grid: AbstractGrid = ContinuousGrid()

    def wet(self, phase_change):
        return -jnp.expm1(-phase_change / self.phase_width)

    def skin_conductance(self, cold, skin, first_layer):
        warm = jax.nn.sigmoid((skin - STICKY) / self.skin_width) * jax.nn.sigmoid((skin - first_layer) / self.skin_width)
        return cold + (MELTING_SKIN - cold) * warm

    def covered(self, fraction):
        return fraction

    def there(self, fraction, mass):
        return mass >= LEAST_MASS


def lies(mass: Array) -> Array:
    """Whether there is any snow in a layer of that mass [kg m-2]."""
    return mass > EPSILON
