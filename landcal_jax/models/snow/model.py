"""The ecLand multi-layer snow scheme as a differentiable model of one column: energy, mass, density and albedo of snow over soil.

Arduini et al. 2019 (doi:10.1029/2019MS001725); routines srfsn_driver and below, surfseb and surfbc of ecLand.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.model import AbstractModel
from landcal_jax.models.snow import heat, soil, table
from landcal_jax.models.snow.albedo import AbstractAlbedo, EcLandAlbedo, Weather
from landcal_jax.models.snow.column import Column, clipped, cover, depth, no_snow, regrid, water_equivalent
from landcal_jax.models.snow.constants import DAY, FREEZING, LATENT_SUBLIMATION, LATENT_VAPOUR, LAYERS
from landcal_jax.models.snow.density import fresh, settled
from landcal_jax.models.snow.forcing import forcing_from_dataset
from landcal_jax.models.snow.surface import CALM, Air, Skin, balance
from landcal_jax.models.snow.switches import AbstractSwitches, Smooth, lies
from landcal_jax.parameters import Parameter

LEAST_FRACTION = 1e-7
SOME_SNOW = Column(*(np.full(LAYERS, each) for each in (10.0, FREEZING - 5, 200.0, 0.1)))
SOIL_START = (282.98, 284.17, 284.70, 284.70)  # K
SNOW_ROUGHNESS, BARE_ROUGHNESS = (0.0013, 0.00013), (0.013, 0.00013)  # m, momentum and heat
BARE_ALBEDO, BARE_WETNESS, BARE_CONDUCTANCE = 0.2, 0.5, 15.0  # 1, 1, W m-2 K-1


class State(NamedTuple):
    """The snow, the memory of its albedo, the temperatures [K] of both skins and of the soil."""

    column: Column
    albedo: Array
    snow_skin: Array
    bare_skin: Array
    soil: soil.Soil


class Output(NamedTuple):
    """Output of a step: depth [m], mass and liquid water of snow [kg m-2], albedo of the ground and of snow [1], surface temperature
    [degC], runoff and sublimation [kg m-2 d-1], snow fraction [1], heat into the soil [W m-2].

    Snow is as it is after the step; albedo, fraction and temperature of the ground are those of the fluxes of the step."""

    snow_depth: Array
    snow_water_equivalent: Array
    albedo: Array
    snow_albedo: Array
    surface_temperature: Array
    runoff: Array
    snow_fraction: Array
    liquid_water: Array
    sublimation: Array
    ground_heat: Array


class SnowStep(NamedTuple):
    """What one step of snow gives: the column, the memory of albedo, heat to the soil [W m-2], runoff [kg m-2 s-1], rain on bare soil."""

    column: Column
    albedo: Array
    ground_heat: Array
    runoff: Array
    rain: Array


def snow_step(
    theta, switches: AbstractSwitches, albedo: AbstractAlbedo, column: Column, memory: Array, fraction: Array, skin: Skin, air: Air,
    ground: heat.Ground, dt: float,
) -> SnowStep:
    """One step of the snow, under the fluxes of its `skin` per snow-covered area and above the `ground`."""
    bare, there = clipped(column), switches.there(fraction, water_equivalent(column))
    part = jnp.maximum(fraction, LEAST_FRACTION)
    # Where no snow lies some other stands in: what is made of it is not taken, but its derivatives must be numbers.
    column = jax.tree.map(lambda one, other: jnp.where(there, one, other), bare, SOME_SNOW)
    grid = switches.grid(depth(column))
    placed = regrid(column, grid)
    downward = heat.solar(theta, placed, grid.active, part, skin.shortwave)
    surface = part * (skin.sensible + LATENT_SUBLIMATION * skin.vapour + skin.shortwave + skin.longwave)
    conduction = heat.conduct(theta, placed, grid.active, part, surface, downward, air.pressure, ground, dt)
    gained = dt * (air.snowfall + part * skin.vapour)
    drained = heat.melt_and_drain(theta, placed, grid.active, conduction, gained, dt * part * air.rainfall, downward[-1], dt)
    density = settled(
        theta, placed, drained.column, grid.active, part, dt * air.snowfall, fresh(theta, air.temperature, air.wind), air.wind, dt)
    aged = albedo.step(theta, memory, Weather(
        air.snowfall, air.rainfall, skin.temperature, placed.temperature[0], switches.wet(drained.phase_change), there, dt))
    zero = jnp.zeros_like(fraction)
    left = no_snow(jnp.maximum(0.0, bare.mass[0] + gained))
    mine = SnowStep(drained.column._replace(density=density), aged, drained.ground_heat, drained.runoff, (1 - part) * air.rainfall)
    return jax.tree.map(lambda one, other: jnp.where(there, one, other), mine, SnowStep(left, aged, zero, zero, air.rainfall))


class Snow(AbstractModel):
    """Five layers of snow over four of soil, sub-daily steps of `step_seconds`.

    `switches`: how thresholds are passed, `Exact()` as published or `Smooth()` (default) for calibration. `albedo`: the scheme of albedo.
    """

    step_seconds: float = eqx.field(static=True, default=3600.0)
    switches: AbstractSwitches = Smooth()
    albedo: AbstractAlbedo = EcLandAlbedo()

    def parameters(self) -> dict[str, Parameter]:
        """Those of the namelist NAMPARSNOW, and those of the scheme of albedo."""
        return table.parameters() | self.albedo.parameters()

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names in the order of the table."""
        with jax.ensure_compile_time_eval():
            return tuple(self.parameters())

    @property
    def output_units(self) -> dict[str, str]:
        """Units by output field."""
        return {"snow_depth": "m", "snow_water_equivalent": "kg m-2", "albedo": "1", "snow_albedo": "1", "surface_temperature": "degC",
                "runoff": "kg m-2 d-1", "snow_fraction": "1", "liquid_water": "kg m-2", "sublimation": "kg m-2 d-1", "ground_heat": "W m-2"}

    def forcing(self, dataset) -> Air:
        """Sub-daily drivers from a Dataset in the normal form; raises as `forcing_from_dataset`."""
        return forcing_from_dataset(dataset, self.step_seconds)

    def initial_state(self, theta) -> State:
        """No snow, fresh skins, soil as at Col de Porte on 1 October."""
        zero = jnp.zeros(())
        ground = tuple(zero + each for each in SOIL_START)
        return State(no_snow(zero), self.albedo.fresh(theta), zero + FREEZING, ground[0], ground)

    def step(self, constants, state: State, air: Air):
        """Skins, snow, soil."""
        theta, dt = constants, self.step_seconds
        air = air._replace(wind=jnp.maximum(air.wind, CALM))
        fraction = jnp.where(lies(state.column.mass[0]), self.switches.covered(cover(state.column)), 0.0)
        value = self.albedo.value(theta, state.albedo, state.snow_skin)
        snow, bare = self._skins(theta, state, fraction, value, air)
        ground = heat.Ground(state.soil[0], soil.conductivity(state.soil[0]))
        stepped = snow_step(theta, self.switches, self.albedo, state.column, state.albedo, fraction, snow, air, ground, dt)
        warmed = soil.conduct(state.soil, stepped.ground_heat + (1 - fraction) * bare.ground, dt)
        after = State(stepped.column, stepped.albedo, snow.temperature, bare.temperature, warmed)
        column = stepped.column
        return after, Output(
            depth(column), water_equivalent(column), fraction * value + (1 - fraction) * BARE_ALBEDO, stepped.albedo,
            fraction * snow.temperature + (1 - fraction) * bare.temperature - 273.15, DAY * stepped.runoff, fraction,
            jnp.sum(column.liquid), -DAY * fraction * snow.vapour, stepped.ground_heat)

    def _skins(self, theta, state: State, fraction: Array, albedo: Array, air: Air) -> tuple[Skin, Skin]:
        conductance = self.switches.skin_conductance(theta["RSNSNOW"], state.snow_skin, state.column.temperature[0])
        heights = (1.5, 10.0)
        snow = balance(state.snow_skin, state.column.temperature[0], air, albedo=albedo, conductivity=conductance,
                       latent_heat=LATENT_SUBLIMATION, wetness=1.0, heights=heights, roughness=SNOW_ROUGHNESS)
        none = Skin(jnp.minimum(FREEZING, air.temperature), *(jnp.zeros_like(fraction),) * 5)
        snow = jax.tree.map(lambda one, other: jnp.where(fraction > 0, one, other), snow, none)
        bare = balance(state.bare_skin, state.soil[0], air, albedo=BARE_ALBEDO, conductivity=BARE_CONDUCTANCE,
                       latent_heat=LATENT_VAPOUR, wetness=BARE_WETNESS, heights=heights, roughness=BARE_ROUGHNESS)
        return snow, bare
