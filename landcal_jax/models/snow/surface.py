"""The skin of the ground, one of snow and one of bare soil: turbulence and one linearised energy balance each (surfseb, vupdz0).

Fluxes are positive downwards, W m-2 and kg m-2 s-1, per area of the skin.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.constants import (
    FREEZING,
    GAS_CONSTANT_AIR,
    GAS_CONSTANT_VAPOUR,
    GRAVITY,
    HEAT_CAPACITY_AIR,
    STEFAN_BOLTZMANN,
)

EMISSIVITY = 0.98
CALM = 0.1  # m s-1, the least wind
DERIVATIVE_STEP = 0.01  # K, of the humidity at saturation


class Air(NamedTuple):
    """The forcing of a step: shortwave and longwave [W m-2], snow and rain [kg m-2 s-1], temperature [K], specific humidity [kg kg-1],
    wind [m s-1] and pressure [Pa]."""

    shortwave: Array
    longwave: Array
    snowfall: Array
    rainfall: Array
    temperature: Array
    humidity: Array
    wind: Array
    pressure: Array


class Skin(NamedTuple):
    """Skin temperature [K], sensible heat, vapour, net shortwave and longwave, and the heat that goes into the ground."""

    temperature: Array
    sensible: Array
    vapour: Array
    shortwave: Array
    longwave: Array
    ground: Array


def saturation(temperature: Array, pressure: Array, over_ice: Array | bool) -> Array:
    """Specific humidity at saturation [kg kg-1] (Tetens with ecLand's constants, over water or ice)."""
    slope, offset = jnp.where(over_ice, 22.587, 17.502), jnp.where(over_ice, -0.7, 32.19)
    vapour = 611.21 * jnp.exp(slope * (temperature - FREEZING) / (temperature - offset))
    ratio = GAS_CONSTANT_AIR / GAS_CONSTANT_VAPOUR
    return ratio * vapour / (pressure - (1 - ratio) * vapour)


def exchange(skin: Array, air: Air, heights: tuple[float, float], roughness: tuple[float, float]) -> Array:
    """Transfer coefficient of heat and vapour [1]: logarithmic profiles times Louis's function of the bulk Richardson number.

    `heights` [m] of temperature and wind, `roughness` lengths [m] for momentum and heat.
    """
    z_temperature, z_wind = heights
    z_momentum, z_heat = roughness
    momentum, heat = jnp.log(z_wind / z_momentum), jnp.log(z_temperature / z_heat)
    richardson = GRAVITY * (air.temperature - skin) * z_wind**2 / (z_temperature * air.temperature * air.wind**2)
    stable, unstable = jnp.maximum(richardson, 0.0), jnp.minimum(richardson, 0.0)
    drag = (0.4 / momentum) ** 2
    # The root has no derivative at neutral, where the branch that has it is not the one that counts.
    root = jnp.sqrt(jnp.where(unstable < 0, -unstable * z_wind / z_momentum, 1.0))
    factor = jnp.where(unstable < 0, 1 - 15 * unstable / (1 + 75 * drag * root), 1 / (1 + 15 * stable * jnp.sqrt(1 + 5 * stable)))
    return 0.16 / (momentum * heat) * factor


def balance(
    before: Array, ground: Array, air: Air, *, albedo: Array, conductivity: Array, latent_heat: float, wetness: Array,
    heights: tuple[float, float], roughness: tuple[float, float],
) -> Skin:
    """The skin whose fluxes, linear in its temperature about `before` [K], close over `conductivity` [W m-2 K-1] to the `ground` [K].

    `wetness`: which share of the difference of humidity drives vapour where the skin is the wetter one; dew knows no such share.
    """
    transfer = air.pressure / (GAS_CONSTANT_AIR * air.temperature) * exchange(before, air, heights, roughness) * air.wind
    over_ice = before <= FREEZING
    humidity = saturation(before, air.pressure, over_ice)
    slope = (saturation(before + DERIVATIVE_STEP, air.pressure, over_ice)
             - saturation(before - DERIVATIVE_STEP, air.pressure, over_ice)) / (2 * DERIVATIVE_STEP)
    wet = transfer * jnp.where(humidity < air.humidity, 1.0, wetness)
    shortwave = (1 - albedo) * air.shortwave
    emitted = EMISSIVITY * STEFAN_BOLTZMANN * before**3
    gain = (shortwave + EMISSIVITY * air.longwave + 3 * emitted * before + transfer * HEAT_CAPACITY_AIR * air.temperature
            + latent_heat * wet * (air.humidity - humidity + slope * before) + conductivity * ground)
    loss = 4 * emitted + transfer * HEAT_CAPACITY_AIR + latent_heat * wet * slope + conductivity
    temperature = gain / loss
    return Skin(
        temperature, transfer * HEAT_CAPACITY_AIR * (air.temperature - temperature),
        wet * (air.humidity - humidity - slope * (temperature - before)), shortwave,
        EMISSIVITY * air.longwave + 3 * emitted * before - 4 * emitted * temperature, conductivity * (temperature - ground))
