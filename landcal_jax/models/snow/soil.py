"""The soil below: four layers that conduct heat, of constant wetness, with no flux at the bottom."""

import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.heat import SOIL_THICKNESS

SATURATED = 0.439  # m3 m-3
WETNESS = 0.30  # m3 m-3
HEAT_CAPACITY = 2.19e6  # J m-3 K-1

Soil = tuple[Array, Array, Array, Array]


def conductivity(temperature: Array, wetness: Array | float = WETNESS) -> Array:
    """Heat conductivity [W m-1 K-1] (Johansen 1975, as in ecLand): from dry to saturated by Kersten's number, frozen as it is cold."""
    solid = (1 - SATURATED) * 2700
    dry = (0.135 * solid + 64.7) / (2700 - 0.947 * solid)
    kersten = jnp.log10(jnp.maximum(0.1, wetness / SATURATED)) + 1
    frozen = 0.5 * (1 - jnp.sin(0.5 * jnp.pi * jnp.clip(temperature - 273.16, -1.0, 1.0)))
    saturated = (7.7**0.4 * 2**0.6) ** (1 - SATURATED) * 2.2 ** (SATURATED * frozen) * 0.57 ** (SATURATED * (1 - frozen))
    return jnp.clip(dry + kersten * (saturated - dry), 0.19, 2.0)


def conduct(soil: Soil, flux: Array, dt) -> Soil:
    """Temperatures [K] after a step with the heat `flux` [W m-2] into the first layer, implicit."""
    resistance = [thick / conductivity(each) for thick, each in zip(SOIL_THICKNESS, soil, strict=True)]
    between = [2 / (one + other) for one, other in zip(resistance, resistance[1:], strict=False)]
    capacity = [HEAT_CAPACITY * thick / dt for thick in SOIL_THICKNESS]
    # Upwards: T_k = a_k + b_k T_(k-1).
    a, b, below = 0.0, 0.0, 0.0
    eliminated = []
    for k in reversed(range(1, 4)):
        above = between[k - 1]
        diagonal = capacity[k] + above + below * (1 - b)
        a, b = (capacity[k] * soil[k] + below * a) / diagonal, above / diagonal
        eliminated.append((a, b))
        below = above
    after = [(capacity[0] * soil[0] + flux + below * a) / (capacity[0] + below * (1 - b))]
    for a, b in reversed(eliminated):
        after.append(a + b * after[-1])
    return tuple(after)
