"""The pieces that the DALEC models share: photosynthesis, phenology, carbon balance and fire.

Equations: Bloom & Williams 2015 (Biogeosciences 12, 1299), Williams et al. 1997 (ACM), Fox et al. 2009 (ACM
constants), as the CARDAMOM code has them. Pools in gC m-2, fluxes in gC m-2 d-1.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

# Aggregated canopy model, Fox et al. 2009: day-length coefficients, CO2 half saturation and compensation [ppm],
# hydraulic resistance, canopy and temperature coefficients; PSI is the soil-leaf water potential difference [MPa].
D1, D2, COMPENSATION, HALF_SATURATION = 0.0156935, 0.0453194, 4.22273, 208.868
B2, C1, C2, A2, EB = 0.37836, 7.19298, 2.1001, 0.011136, 0.789798
PSI, HYDRAULIC_RESISTANCE = -2.0, 1.0
LABILE_LIFESPAN = 1.001  # years, of model 400
OFFSET_POLYNOMIAL = (  # phase of the leaf-fall pulse by ln(lifespan - 1), highest power first
    0.000023599784710, 0.000332730053021, 0.000901865258885, -0.005437736864888,
    -0.020836027517787, 0.126972018064287, -0.188459767342504)
COMBUSTION = {"labile": 0.1, "foliar": 0.9, "root": 0.1, "wood": 0.1, "litter": 0.5, "som": 0.01}
RESILIENCE = 0.5
LATENT_HEAT_PER_EVAPORATION = 2.45e6 / 86400  # W m-2 per mm d-1, the constant that the flux files were made with


class Canopy(NamedTuple):
    """Factors of GPP that depend on the drivers alone, (time,) each."""

    light: Array
    demand: Array
    uptake: Array
    co2: Array
    day: Array


class Carbon(NamedTuple):
    """Carbon pools [gC m-2]."""

    labile: Array
    foliar: Array
    root: Array
    wood: Array
    litter: Array
    som: Array


class CarbonFluxes(NamedTuple):
    """Fluxes of one step [gC m-2 d-1]; factors and pulses are as in CARDAMOM's list of 28."""

    gpp: Array
    temperature_factor: Array
    autotrophic_respiration: Array
    to_foliar: Array
    to_labile: Array
    to_root: Array
    to_wood: Array
    labile_release: Array
    fall_factor: Array
    foliar_litter: Array
    wood_litter: Array
    root_litter: Array
    litter_respiration: Array
    som_respiration: Array
    litter_to_som: Array
    release_factor: Array
    fire: Array
    burnt: Carbon
    killed: Carbon


def day_length(latitude, day_of_year, pi: float):
    """Day length [h] at `latitude` [degrees north] on `day_of_year`, 0 to 24 (polar day and night included)."""
    declination = -23.4 * np.cos((360 * (np.asarray(day_of_year) + 10) / 365) * pi / 180) * pi / 180
    cosine = np.tan(latitude * pi / 180) * np.tan(declination)
    return np.where(cosine >= 1, 24.0, np.where(cosine <= -1, 0.0, 24 * np.arccos(-np.clip(cosine, -1, 1)) / pi))


def canopy(temperature_min, temperature_max, shortwave, co2, day_hours) -> Canopy:
    """Driver-only factors of the aggregated canopy model.

    Temperatures [degC], shortwave [MJ m-2 d-1], co2 [ppm], day length [h].
    """
    conductance = abs(PSI) ** EB / (B2 * HYDRAULIC_RESISTANCE + 0.5 * (temperature_max - temperature_min))
    warmth = jnp.exp(A2 * temperature_max)
    return Canopy(
        light=C1 * shortwave, demand=2 * warmth * (co2 - COMPENSATION), uptake=warmth / conductance,
        co2=co2 - COMPENSATION + HALF_SATURATION, day=D1 * day_hours + D2)


def gpp(lai: Array, efficiency: Array, canopy: Canopy) -> Array:
    """Gross primary production [gC m-2 d-1] of the aggregated canopy model, with no 0/0 at a bare canopy.

    The published form divides by LAI and subtracts two nearly equal CO2 concentrations at low LAI. Written with the
    conjugate of the root and both factors of the light response divided by LAI, it is the same number, exact to zero.
    """
    pull = efficiency * lai * canopy.uptake
    root = canopy.co2 + pull + jnp.sqrt((canopy.co2 - pull) ** 2 + 4 * HALF_SATURATION * pull)
    light, demand = canopy.light * lai, canopy.demand * efficiency
    return lai * light * demand * canopy.day / (light * root + demand * (lai**2 + C2))


class Pulse(NamedTuple):
    """A yearly pulse of phenology: scale * exp(-(sine * sin(a) - cosine * cos(a))^2), a the angle of the season."""

    scale: Array
    sine: Array
    cosine: Array

    def at(self, season_sine: Array, season_cosine: Array) -> Array:
        """Daily fraction [d-1] of the pool that the pulse moves."""
        return self.scale * jnp.exp(-((self.sine * season_sine - self.cosine * season_cosine) ** 2))


def pulse(lifespan: Array, period: Array, day: Array, pi: float) -> Pulse:
    """The pulse that empties a pool of `lifespan` [yr] around `day` [day of year] over `period` [d].

    Bloom & Williams 2015, eqs A7 and A8. The published sin((t - day + offset) / s) is split by the angle-sum rule, so
    that the sine over time is a driver and each step needs one exponential only.
    """
    season = 365.25 / pi
    width = period * 2**0.5 / 2
    log_rest = jnp.log(lifespan - 1)
    fall = (jnp.log(lifespan) - log_rest) / 2
    polynomial = 0.0
    for coefficient in OFFSET_POLYNOMIAL:  # Horner's rule: jnp.polyval traces a loop of its own, which takes longer
        polynomial = polynomial * log_rest + coefficient
    offset = width * polynomial
    phase, sharpness = (day - offset) / season, season / width
    return Pulse(2 / pi**0.5 * fall / width, sharpness * jnp.cos(phase), sharpness * jnp.sin(phase))


class CarbonConstants(NamedTuple):
    """What the carbon balance needs and does not change in a run: shares of GPP and daily losses [d-1]."""

    autotrophic: Array
    foliar_share: Array
    labile_share: Array
    root_share: Array
    wood_loss: Array
    root_loss: Array


def carbon_step(constants, pools: Carbon, production, pulses, litter_losses, som_loss, burning, days) -> tuple[Carbon, CarbonFluxes]:
    """Carbon balance of one step of `days`, then fire on the updated pools (fact: every flux uses the pools before).

    `production`: (GPP, temperature factor); `pulses`: daily fractions (release, fall) with their per-step losses;
    `burning`: (burnt fraction, combustion factors, resilience, whether dead litter goes to SOM) or None.
    """
    gross, factor = production
    (release_factor, release_loss), (fall_factor, fall_loss) = pulses
    respired = constants.autotrophic * gross
    to_foliar = (gross - respired) * constants.foliar_share
    to_labile = (gross - respired - to_foliar) * constants.labile_share
    rest = gross - respired - to_foliar - to_labile
    # As products both are never negative, also where the roots take everything.
    to_root, to_wood = rest * constants.root_share, rest * (1 - constants.root_share)
    release, fall = pools.labile * release_loss, pools.foliar * fall_loss
    wood_litter, root_litter = pools.wood * constants.wood_loss, pools.root * constants.root_loss
    litter_respiration, litter_to_som = pools.litter * litter_losses[0], pools.litter * litter_losses[1]
    som_respiration = pools.som * som_loss
    grown = Carbon(
        labile=pools.labile + (to_labile - release) * days,
        foliar=pools.foliar + (to_foliar - fall + release) * days,
        root=pools.root + (to_root - root_litter) * days,
        wood=pools.wood + (to_wood - wood_litter) * days,
        litter=pools.litter + (fall + root_litter - litter_respiration - litter_to_som) * days,
        som=pools.som + (litter_to_som - som_respiration + wood_litter) * days)
    after, total, burnt, killed = fire(grown, burning, days)
    return after, CarbonFluxes(
        gross, factor, respired, to_foliar, to_labile, to_root, to_wood, release, fall_factor, fall, wood_litter,
        root_litter, litter_respiration, som_respiration, litter_to_som, release_factor, total, burnt, killed)


def fire(pools: Carbon, burning, days) -> tuple[Carbon, Array, Carbon, Carbon]:
    """Pools after a fire, all carbon burnt, carbon burnt by pool and carbon killed by pool [gC m-2 d-1]."""
    if burning is None:
        zero = jnp.zeros_like(pools.labile)
        return pools, zero, Carbon(*[zero] * 6), Carbon(*[zero] * 6)
    burnt_fraction, combustion, resilience, litter_to_som = burning
    burnt = Carbon(*(burnt_fraction * share for share in combustion))
    killed = Carbon(*(burnt_fraction * (1 - share) * (1 - resilience) for share in combustion))
    killed = killed._replace(som=jnp.zeros_like(burnt_fraction))
    if not litter_to_som:
        killed = killed._replace(litter=jnp.zeros_like(burnt_fraction))
    # What stays is a product, not a difference, so that a pool that burns as a whole ends at zero and not just below.
    after = Carbon(*(pool * (1 - (b + k)) for pool, b, k in zip(pools, burnt, killed, strict=True)))
    burnt, killed = (Carbon(*(pool * share / days for pool, share in zip(pools, part, strict=True))) for part in (burnt, killed))
    return after._replace(
        litter=after.litter + (killed.labile + killed.foliar + killed.root) * days,
        som=after.som + (killed.wood + killed.litter) * days), sum(burnt), burnt, killed
