"""Density: fresh snow, and how snow settles under its weight, by metamorphism, by liquid water and by wind (srfsn_rsn)."""

import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.column import PLACE, Column
from landcal_jax.models.snow.constants import DAY, DENSEST, FREEZING, GRAVITY

WIND_TIME = 2 * DAY  # s


def fresh(theta, temperature: Array, wind: Array) -> Array:
    """Density of falling snow [kg m-3] from air temperature [K] and wind [m s-1]."""
    warm, windy = theta["RHOMINSNB"] * (temperature - FREEZING), theta["RHOMINSNC"] * jnp.sqrt(wind)
    return jnp.maximum(theta["RHOMINSND"], theta["RHOMINSNA"] + warm + windy)


def settled(theta, before: Column, after: Column, active: Array, fraction, snowfall, falling: Array, wind: Array, dt) -> Array:
    """Density [kg m-3] of each layer at the end of the step, from the column on its new grid `before` and `after` heat and water.

    `snowfall` [kg m-2] of the step, `falling` its density: it is mixed into layer 1, whose rates are still those of the older snow.
    """
    mass, density, cold = before.mass, before.density, FREEZING - before.temperature
    viscosity = theta["RSNDTOVERA"] * jnp.exp(theta["RSNDTOVERB"] * cold + theta["RSNDTOVERC"] * density)
    weight = (jnp.cumsum(mass) - 0.5 * mass) * GRAVITY / viscosity
    ageing = theta["RSNDTDESTA"] * jnp.exp(
        -theta["RSNDTDESTB"] * cold - theta["RSNDTDESTC_ML"] * jnp.maximum(0.0, density - theta["RSNDTDESTROI"]))
    some = jnp.where(mass > 0, mass, 1.0)
    wetting = jnp.where(mass > 0, jnp.maximum(0.0, after.liquid - before.liquid) / (dt * some), 0.0)
    mobility = theta["RSNDAMOB"] * (1 - jnp.maximum(0.0, (density - theta["RHOMINSND"]) / theta["RSNDMOB"]))
    drift = 1 - theta["RSNDAW"] * jnp.exp(-theta["RSNDBW"] * wind) + mobility
    sheltered = jnp.cumsum(mass / (density * fraction) * (theta["RSNDBTAUW"] - drift))
    packing = jnp.maximum(0.0, theta["RSNDWCOMPMAX"] - density) * jnp.maximum(0.0, drift) * jnp.exp(
        -theta["RSNDATAUW"] * sheltered) / WIND_TIME
    volume = snowfall / falling + mass[0] / density[0]
    mixed = jnp.where(volume > 0, (mass[0] + snowfall) / jnp.where(volume > 0, volume, 1.0), density[0])
    start = jnp.where(PLACE == 0, mixed, density)
    new = jnp.clip(start * (1 + dt * (weight + ageing + wetting)) + dt * packing, theta["RHOMINSND"], DENSEST)
    return jnp.where(active, new, density)
