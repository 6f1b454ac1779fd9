"""Heat and water in the snow: solar absorption, implicit conduction, melt, refreezing and percolation (srfsn_ssrabs, srfsn_webal).

Fluxes are positive downwards and per grid box: each surface flux comes times the snow fraction f. Layers that are not in use take no
part; in the unrolled loops they hand on what they are given.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.column import Column, Layers
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


def solar(theta, column: Column, active: Layers, fraction: Array, absorbed: Array) -> Layers:
    """Net shortwave [W m-2 of the grid box] that leaves each layer downwards, five; `absorbed` is per snow-covered area."""
    left, fluxes = fraction * absorbed, []
    for mass, density, used in zip(column.mass, column.density, active, strict=True):
        thick = jnp.minimum(THERMAL_DEPTH, mass / (fraction * density))
        grain = jnp.minimum(LARGEST_GRAIN, SMALLEST_GRAIN + GRAIN_GROWTH * density**4)
        extinction = jnp.clip(theta["SSASNEXTCNST"] * density / jnp.sqrt(grain), LEAST_EXTINCTION, MOST_EXTINCTION)
        left = jnp.where(used, left * jnp.exp(-extinction * thick), left)
        fluxes.append(left)
    return tuple(fluxes)


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

    temperature: Layers
    capacity: Layers
    to_soil: Array


def conduct(theta, column: Column, active: Layers, fraction, surface, downward: Layers, pressure, ground: Ground, dt) -> Conduction:
    """Implicit conduction over the layers above a soil of fixed temperature; a surface that would pass the freezing point stays there.

    `surface` [W m-2]: what the atmosphere gives to layer 1 before `downward`, the shortwave that leaves each layer, is taken off.
    Elimination runs upwards, T_k = a_k + b_k T_(k-1), so that a melting surface needs no second solution.
    """
    thick = [jnp.minimum(THERMAL_DEPTH, mass / density) for mass, density in zip(column.mass, column.density, strict=True)]
    capacity = tuple(HEAT_CAPACITY_ICE * density * each / dt for density, each in zip(column.density, thick, strict=True))
    source = [surface - downward[0], *(downward[k - 1] - downward[k] for k in range(1, LAYERS))]
    following = (*active[1:], jnp.zeros_like(active[0]))
    below = _conductances(theta, column, following, thick, fraction, pressure, ground)
    a, b, eliminated = ground.temperature, jnp.zeros_like(surface), [None] * LAYERS
    for k in reversed(range(LAYERS)):
        # What lies below layer k: the soil, or the layers that are eliminated already.
        eliminated[k] = (a, b)
        if k:
            diagonal = jnp.where(active[k], capacity[k] + below[k - 1] + below[k] * (1 - b), 1.0)
            warm = (capacity[k] * column.temperature[k] + source[k] + below[k] * a) / diagonal
            a, b = jnp.where(active[k], warm, ground.temperature), jnp.where(active[k], below[k - 1] / diagonal, 0.0)
    heat = source[0] + capacity[0] * column.temperature[0]
    first = (heat + below[0] * a) / (capacity[0] + below[0] * (1 - b))
    pinned = jnp.minimum(first, FREEZING)
    # Snow that stores no heat cannot melt here, and its branch must not divide by zero.
    melting = (first > FREEZING) & (capacity[0] > 0)
    pinned_first = (heat - below[0] * (pinned - (a + b * pinned))) / jnp.where(melting, capacity[0], 1.0)
    temperature, above, to_soil = [jnp.where(melting, pinned_first, first)], pinned, jnp.zeros_like(surface)
    for k in range(LAYERS):
        a, b = eliminated[k]
        to_soil = to_soil + jnp.where(active[k] & ~following[k], below[k] * (above - ground.temperature), 0.0)
        if k + 1 < LAYERS:
            above = jnp.where(following[k], a + b * above, above)
            temperature.append(jnp.where(following[k], above, column.temperature[k + 1]))
    return Conduction(tuple(temperature), capacity, to_soil)


def _conductances(theta, column: Column, following: Layers, thick, fraction, pressure, ground: Ground) -> list[Array]:
    """From each layer to what follows it [W m-2 K-1]; to the soil it is half of that in series, as through litter."""
    conductive = [conductivity(theta, *each, pressure) for each in zip(column.temperature, column.density, strict=True)]
    soil = SOIL_THICKNESS[0] * ground.conductivity
    below = [fraction * (d * k + soil) / (d + SOIL_THICKNESS[0]) ** 2 for d, k in zip(thick, conductive, strict=True)]
    for k in range(LAYERS - 1):
        both = jnp.where(following[k], thick[k] + thick[k + 1], 1.0)
        joint = 2 * fraction * (thick[k] * conductive[k] + thick[k + 1] * conductive[k + 1]) / both**2
        below[k] = jnp.where(following[k], joint, below[k])
    return below


def melt_and_drain(theta, column: Column, active: Layers, conduction: Conduction, gained: Array, rain: Array, passed: Array, dt) -> Balance:
    """Melt, refreezing and percolation from the top: `gained` [kg m-2] snow and rime on layer 1, `rain` [kg m-2] on top.

    `passed` [W m-2]: shortwave that leaves the lowest layer. Heat that a layer without ice has left goes to the next.
    """
    water, unused, phase_change = rain, jnp.zeros_like(rain), None
    layers, lowest = [], None
    for k in range(LAYERS):
        mass, density, liquid = column.mass[k], column.density[k], column.liquid[k]
        ice = mass - liquid + (gained if k == 0 else 0.0)
        wet = liquid + water
        energy = conduction.capacity[k] * (conduction.temperature[k] - FREEZING)
        melt = jnp.maximum(0.0, jnp.minimum(energy, LATENT_FUSION * ice / dt))
        freeze = jnp.minimum(0.0, jnp.maximum(energy, -LATENT_FUSION * wet / dt))
        change = melt + freeze
        capacity = jnp.where(active[k] & (conduction.capacity[k] > 0), conduction.capacity[k], 1.0)
        warm = conduction.temperature[k] - (change + unused) / capacity
        wet, ice = wet + change * dt / LATENT_FUSION, ice - change * dt / LATENT_FUSION
        loose = jnp.maximum(0.0, theta["RLWCSWEA"] - density) / theta["RLWCSWEA"]
        holds = ice * (theta["RLWCSWEB"] + (theta["RLWCSWEC"] - theta["RLWCSWEB"]) * loose)
        drained = jnp.maximum(0.0, wet - holds)
        over = jnp.where(warm > FREEZING, conduction.capacity[k] * (FREEZING - warm), 0.0)
        unused, water = jnp.where(active[k], over, unused), jnp.where(active[k], drained, water)
        kept = wet - drained
        total = jnp.maximum(0.0, kept + ice)
        temperature = jnp.clip(warm, 100.0, FREEZING)
        lowest = temperature if lowest is None else jnp.where(active[k], temperature, lowest)
        phase_change = melt - freeze if k == 0 else phase_change
        layers.append((jnp.where(active[k], total, mass), jnp.where(active[k], temperature, lowest), density,
                       jnp.where(active[k], jnp.clip(kept, 0.0, total), liquid)))
    after = Column(*(tuple(field) for field in zip(*layers, strict=True)))
    return Balance(after, conduction.to_soil - unused + passed, water / dt, phase_change)
