"""DALEC with water, model 1005 of CARDAMOM: carbon and water coupled, 37 parameters (Yang et al. 2022, GMD 15, 1789).

Adds to DALEC2 a plant-available and an unavailable water store, evapotranspiration from the underlying water-use
efficiency of GPP (Zhou et al. 2014) plus a term in radiation (Boese et al. 2017), water stress on GPP, rain in the
temperature factor of decay, and parameters for fire.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from landcal_jax.model import AbstractModel
from landcal_jax.models import dalec_parts as parts
from landcal_jax.models.dalec import (
    CARBON_TABLE,
    INITIAL_POOLS,
    Forcing,
    carbon_balance,
    carbon_constants,
    forcing_from_dataset,
    parameter_table,
)
from landcal_jax.models.dalec_numerics import AbstractNumerics, Conserving, Published
from landcal_jax.parameters import Parameter

WATER_TABLE = (
    ("water_use_efficiency", 0.5, 30.0, "gC kg-1 hPa0.5", "underlying water-use efficiency"),
    ("paw_focal_point", 1.0, 1e5, "mm", "runoff focal point of plant-available water, four times its storage"),
    ("wilting_point", 1.0, 1e4, "mm", "plant-available water below which GPP is stressed"),
    # Not the median, 100 mm, which is the wilting point's too: the first day would stand on the kink of the stress.
    ("paw_0", 1.0, 1e4, "mm", "plant-available water at the start", 200.0),
    ("foliar_combustion", 0.01, 1.0, "1", "combusted fraction of foliage"),
    ("ligneous_combustion", 0.01, 1.0, "1", "combusted fraction of labile, roots and wood"),
    ("dom_combustion", 0.01, 1.0, "1", "combusted fraction of soil organic matter"),
    ("fire_resilience", 0.01, 1.0, "1", "fraction of what is not combusted that survives a fire"),
    ("labile_lifespan", 1.001, 8.0, "yr", "lifespan of the labile pool"),
    ("moisture_factor", 0.01, 1.0, "1", "sensitivity of decay to precipitation"),
    ("unavailable_share", 0.01, 1.0, "1", "share of drainage that goes to plant-unavailable water"),
    ("puw_focal_point", 1.0, 1e5, "mm", "runoff focal point of plant-unavailable water"),
    ("puw_0", 1.0, 1e4, "mm", "plant-unavailable water at the start"),
    ("radiation_evaporation", 0.01, 0.3, "mm MJ-1 m2", "evaporation per shortwave radiation"),
)
# Model 1005 releases labile carbon and drops leaves over a month at least, since it was made for monthly steps.
PERIOD_LOWS = {"onset_period": 30.4375, "fall_period": 30.4375}


class CarbonWater(NamedTuple):
    """Carbon pools [gC m-2] and water stores [mm]."""

    labile: Array
    foliar: Array
    root: Array
    wood: Array
    litter: Array
    som: Array
    available_water: Array
    unavailable_water: Array


class DalecWaterOutput(NamedTuple):
    """Output of one step: carbon in gC m-2 d-1, `lai` in m2 m-2, water in mm d-1, `latent_heat` in W m-2."""

    nee: Array
    latent_heat: Array
    evapotranspiration: Array
    lai: Array
    gpp: Array
    respiration: Array
    runoff: Array
    to_unavailable: Array
    unavailable_runoff: Array
    fluxes: parts.CarbonFluxes


class DalecWater(AbstractModel):
    """DALEC with water (CARDAMOM model 1005): NEE, evapotranspiration and latent heat, daily or monthly.

    `step_days`: length of the step [d], one constant for the run. `numerics`: `Conserving()` (default) or `Published()`.
    Latent heat is evapotranspiration times 2.45 MJ kg-1, the constant that daily flux files were made with.
    """

    step_days: float = eqx.field(static=True, default=1.0)
    numerics: AbstractNumerics = Conserving()

    @classmethod
    def reference(cls, step_days: float = 1.0) -> "DalecWater":
        """The published arithmetic, quirks included."""
        return cls(step_days, Published())

    def parameters(self) -> dict[str, Parameter]:
        """The 37 parameters with CARDAMOM's log-uniform priors."""
        carbon = [(name, PERIOD_LOWS.get(name, low), *rest) for name, low, *rest in CARBON_TABLE]
        return parameter_table([*carbon, *WATER_TABLE])

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names in CARDAMOM's order."""
        return tuple(row[0] for row in (*CARBON_TABLE, *WATER_TABLE))

    @property
    def output_units(self) -> dict[str, str]:
        """Units by output field."""
        water = dict.fromkeys(("evapotranspiration", "runoff", "to_unavailable", "unavailable_runoff"), "mm d-1")
        carbon = dict.fromkeys(("nee", "gpp", "respiration"), "gC m-2 d-1")
        return carbon | water | {"latent_heat": "W m-2", "lai": "m2 m-2"}

    @property
    def periods(self) -> dict[str, float]:
        """Days of phenology have the same effect a year later."""
        return {"onset_day": 365.25, "fall_day": 365.25}

    def forcing(self, dataset) -> Forcing:
        """Drivers from a Dataset in the normal form, vpd and precipitation included; raises as `Dalec2.forcing`."""
        return forcing_from_dataset(dataset, self.step_days, self.numerics.pi, water=True)

    def prepare(self, theta, forcing: Forcing):
        """Shares, losses and pulses; canopy, dryness and the temperature and rain factors of decay."""
        constants = carbon_constants(theta, self.step_days, self.numerics.pi, theta["labile_lifespan"])
        warmth = 0.5 * (forcing.temperature_min + forcing.temperature_max)
        inputs = (
            parts.canopy(forcing.temperature_min, forcing.temperature_max, forcing.shortwave, forcing.co2, forcing.day_hours),
            warmth - self.numerics.reference_temperature(forcing.mean_temperature),
            forcing.precipitation / forcing.mean_precipitation - 1,
            forcing.season_sine, forcing.season_cosine, forcing.burned_fraction,
            jnp.sqrt(forcing.vpd), forcing.shortwave, forcing.precipitation)
        return (theta, *constants), inputs

    def initial_state(self, theta) -> CarbonWater:
        """The six initial pools and two water stores of theta."""
        return CarbonWater(*(theta[name] for name in (*INITIAL_POOLS, "paw_0", "puw_0")))

    def step(self, constants, state: CarbonWater, inputs):
        """One step: stressed GPP, water balance, carbon balance, fire."""
        theta, carbon, release, fall = constants
        canopy, warmth, wetness, sine, cosine, burned, dryness, shortwave, rain = inputs
        lai = state.foliar / theta["lma"]
        stress = self.numerics.stress(state.available_water, theta["wilting_point"])
        gross = parts.gpp(lai, theta["canopy_efficiency"], canopy) * stress
        demand = gross * dryness / theta["water_use_efficiency"] + shortwave * theta["radiation_evaporation"]
        water = self.numerics.water(
            state.available_water, state.unavailable_water, rain, demand, theta["paw_focal_point"],
            theta["puw_focal_point"], theta["unavailable_share"], self.step_days)
        factor = jnp.exp(theta["temperature_exponent"] * warmth) * (wetness * theta["moisture_factor"] + 1)
        pools, fluxes = carbon_balance(
            self, theta, carbon, release, fall, parts.Carbon(*state[:6]), gross, factor, (sine, cosine),
            self._burning(theta, burned))
        respiration = fluxes.autotrophic_respiration + fluxes.litter_respiration + fluxes.som_respiration
        output = DalecWaterOutput(
            respiration + fluxes.fire - gross, water.evapotranspiration * parts.LATENT_HEAT_PER_EVAPORATION,
            water.evapotranspiration, lai, gross, respiration, water.runoff, water.to_unavailable,
            water.unavailable_runoff, fluxes)
        return CarbonWater(*pools, water.available, water.unavailable), output

    def _burning(self, theta, burned):
        if burned is None:
            return None
        foliar, ligneous, dom = theta["foliar_combustion"], theta["ligneous_combustion"], theta["dom_combustion"]
        combustion = (ligneous, foliar, ligneous, ligneous, (ligneous + foliar) / 2, dom)
        return burned, combustion, theta["fire_resilience"], self.numerics.fire_moves_litter_to_som
