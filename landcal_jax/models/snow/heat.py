"""Heat and water in the snow: solar absorption, implicit conduction, melt, refreezing and percolation (srfsn_ssrabs, srfsn_webal).

Fluxes are positive downwards and per grid box: each surface flux comes times the snow fraction f. Layers that are not in use take no
part; where layers follow each other they hand on what they are given.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.column import PLACE, Column, thickness
from landcal_jax.models.snow.constants import FREEZING, HEAT_CAPACITY_ICE, LATENT_FUSION, LAYERS, THERMAL_DEPTH

SOIL_THICKNESS = (0.07, 0.21, 0.72, 1.89)  # m
VAPOUR_FACTOR, VAPOUR_SCALE, VAPOUR_TEMPERATURE, VAPOUR_PRESSURE = -0.06023, 2.5425, 289.99, 1e5
"""Heat that vapour carries through snow: SNHCONDAV, SNHCONDBV, SNHCONDCV and SNHCONDPOV."""
SMALLEST_GRAIN, GRAIN_GROWTH, LARGEST_GRAIN = 1.6e-4, 1.1e-13, 2.796e-3  # m, m / (kg m-3)^4, m: SSAG1, SSAG3 and SSAGSNSMAX
LEAST_EXTINCTION, MOST_EXTINCTION = 5.0, 50.0  # m-1: SSASNEXTMIN and SSASNEXTMAX


class Balance(NamedTuple):
    """What a step of heat and water leaves: the column, heat to the soil [W m-2], runoff [kg m-2 s-1], phase change of layer 1 [W m-2]."""

    column: Column
    ground_heat: Array
    runoff: Array
    phase_change: Array


def solar(theta, column: Column, active: Array, fraction: Array, absorbed: Array) -> Array:
    """Net shortwave [W m-2 of the grid box] that leaves each layer downwards, (5,); `absorbed` is per snow-covered area."""
    thick = jnp.minimum(THERMAL_DEPTH, thickness(column) / fraction)
    grain = jnp.minimum(LARGEST_GRAIN, SMALLEST_GRAIN + GRAIN_GROWTH * column.density**4)
    extinction = jnp.clip(theta["SSASNEXTCNST"] * column.density / jnp.sqrt(grain), LEAST_EXTINCTION, MOST_EXTINCTION)
    return fraction * absorbed * jnp.exp(-jnp.cumsum(jnp.where(active, extinction * thick, 0.0)))


def conductivity(theta, temperature: Array, density: Array, pressure: Array) -> Array:
    """Heat conductivity of snow [W m-1 K-1]: Calonne et al. 2011, and heat that vapour carries."""
    solid = theta["FSNTCONDC"] * density**2 + theta["FSNTCONDB"] * density + theta["FSNTCONDA"]
    vapour = VAPOUR_FACTOR - VAPOUR_SCALE / (temperature - VAPOUR_TEMPERATURE)
    return solid + VAPOUR_PRESSURE / pressure * jnp.maximum(0.0, vapour)


class Ground(NamedTuple):
    """The first layer of the soil: temperature [K] and heat conductivity [W m-1 K-1]."""

    temperature: Array
    conductivity: Array


class Conduction(NamedTuple):
    """Temperatures [K] after conduction, heat capacities over the step [W m-2 K-1], and the heat that flows into the soil [W m-2]."""

    temperature: Array
    capacity: Array
    to_soil: Array


def conduct(theta, column: Column, active: Array, fraction, surface, downward: Array, pressure, ground: Ground, dt) -> Conduction:
    """Implicit conduction over the layers above a soil of fixed temperature; a surface that would pass the freezing point stays there.

    `surface` [W m-2]: what the atmosphere gives to layer 1 before `downward`, the shortwave that leaves each layer, is taken off.
    Elimination runs upwards, T_k = a_k + b_k T_(k-1), so that a melting surface needs no second solution.
    """
    thick = jnp.minimum(THERMAL_DEPTH, thickness(column))
    capacity = HEAT_CAPACITY_ICE * column.density * thick / dt
    following = jnp.append(active[1:], False)
    below = _conductances(theta, column, following, thick, fraction, pressure, ground)
    stored = capacity * column.temperature + jnp.append(surface, downward[:-1]) - downward
    a, b, eliminated = ground.temperature, jnp.zeros_like(surface), [None] * LAYERS
    for k in reversed(range(LAYERS)):
        # What lies below layer k: the soil, or the layers that are eliminated already.
        eliminated[k] = (a, b)
        if k:
            diagonal = jnp.where(active[k], capacity[k] + below[k - 1] + below[k] * (1 - b), 1.0)
            warm = (stored[k] + below[k] * a) / diagonal
            a, b = jnp.where(active[k], warm, ground.temperature), jnp.where(active[k], below[k - 1] / diagonal, 0.0)
    first = (stored[0] + below[0] * a) / (capacity[0] + below[0] * (1 - b))
    pinned = jnp.minimum(first, FREEZING)
    # Snow that stores no heat cannot melt here, and its branch must not divide by zero.
    melting = (first > FREEZING) & (capacity[0] > 0)
    pinned_first = (stored[0] - below[0] * (pinned - (a + b * pinned))) / jnp.where(melting, capacity[0], 1.0)
    temperature, above, to_soil = [jnp.where(melting, pinned_first, first)], pinned, jnp.zeros_like(surface)
    for k in range(LAYERS):
        a, b = eliminated[k]
        to_soil = to_soil + jnp.where(active[k] & ~following[k], below[k] * (above - ground.temperature), 0.0)
        if k + 1 < LAYERS:
            above = jnp.where(following[k], a + b * above, above)
            temperature.append(jnp.where(following[k], above, column.temperature[k + 1]))
    return Conduction(jnp.stack(temperature), capacity, to_soil)


def _conductances(theta, column: Column, following: Array, thick: Array, fraction, pressure, ground: Ground) -> Array:
    """From each layer to what follows it [W m-2 K-1]; to the soil it is half of that in series, as through litter."""
    depths = thick * conductivity(theta, column.temperature, column.density, pressure)
    soil = SOIL_THICKNESS[0]
    both = jnp.where(following, thick + jnp.append(thick[1:], 0.0), thick + soil)
    joint = jnp.where(following, 2 * (depths + jnp.append(depths[1:], 0.0)), depths + soil * ground.conductivity)
    return fraction * joint / both**2


def melt_and_drain(theta, column: Column, active: Array, conduction: Conduction, gained: Array, rain: Array, passed: Array, dt) -> Balance:
    """Melt, refreezing and percolation from the top: `gained` [kg m-2] snow and rime on layer 1, `rain` [kg m-2] on top.

    `passed` [W m-2]: shortwave that leaves the lowest layer. Heat that a layer without ice has left goes to the next.
    """
    loose = jnp.maximum(0.0, theta["RLWCSWEA"] - column.density) / theta["RLWCSWEA"]
    holds = theta["RLWCSWEB"] + (theta["RLWCSWEC"] - theta["RLWCSWEB"]) * loose
    energy = conduction.capacity * (conduction.temperature - FREEZING)
    ices = column.mass - column.liquid + jnp.where(PLACE == 0, gained, 0.0)
    melts = jnp.maximum(0.0, jnp.minimum(energy, LATENT_FUSION * ices / dt))
    safe = jnp.where(active & (conduction.capacity > 0), conduction.capacity, 1.0)
    water, unused, changes, left, kept = rain, jnp.zeros_like(rain), [], [], []
    for k in range(LAYERS):
        wet = column.liquid[k] + water
        freeze = jnp.minimum(0.0, jnp.maximum(energy[k], -LATENT_FUSION * wet / dt))
        change = melts[k] + freeze
        excess = jnp.minimum(0.0, change + unused - energy[k])
        wet, ice = wet + change * dt / LATENT_FUSION, ices[k] - change * dt / LATENT_FUSION
        drained = jnp.maximum(0.0, wet - ice * holds[k])
        changes.append(change + unused)
        left.append(ice)
        kept.append(wet - drained)
        unused, water = jnp.where(active[k], excess, unused), jnp.where(active[k], drained, water)
        if k == 0:
            phase_change = melts[k] - freeze
    warm = conduction.temperature - jnp.stack(changes) / safe
    kept, temperature = jnp.stack(kept), jnp.clip(warm, 100.0, FREEZING)
    total = jnp.maximum(0.0, kept + jnp.stack(left))
    lowest = jnp.sum(jnp.where(PLACE == jnp.sum(active) - 1, temperature, 0.0))
    after = Column(jnp.where(active, total, column.mass), jnp.where(active, temperature, lowest), column.density,
                   jnp.where(active, jnp.clip(kept, 0.0, total), column.liquid))
    return Balance(after, conduction.to_soil - unused + passed, water / dt, phase_change)
