"""Where the published DALEC arithmetic and ours differ: this file, and nowhere else.

`Published` repeats the CARDAMOM code (models 400 and 1005 of CARDAMOM v2.2), quirks included, and exists for comparison
with its output. `Conserving` is the default that one calibrates with. The differences:

* pi is 3.1415927 as published, pi here: the seven digits change results by 1e-8.
* Litter: as published, respiration and transfer to SOM each take their share of the same pool, which long steps or warm
  wet days overdraw. Here it is one first-order decay exp(-k dt), divided between the two by their rates.
* SOM: (1 - k)^dt as published; exp(-k dt) here. k > 1 d-1, reached on days of heavy rain in model 1005, would make the
  pool negative.
* Temperature factor of 1005: exp(Theta (T - Tm/2)) as published; exp(Theta (T - Tm)) here. The half is a slip: the rates
  are meant at the mean temperature, as in model 813.
* Fire in 1005: what it kills of litter never reaches SOM as published (a loop is one pool short, mass is lost); it does
  here, as in CARDAMOM v3.
* Evapotranspiration: not limited as published, so that the store goes negative and the run becomes unstable. Here it is
  at most what drainage leaves and rain brings.
* Drainage above half the focal point: the share x/(1-x) goes to PUW as published, which jumps there, drains more than
  there is and divides by 0 at x = 1. Here it is the share x.

Everything else (photosynthesis, phenology, allocation, root and wood turnover, fire) is the same code for both.
`Conserving` keeps two exact kinks, where the value matters: the stress factor at PAW = wilting point and the limit of
evapotranspiration. Both have finite one-sided derivatives; `smoothing` rounds them.
"""

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array


def power_loss(rate: Array, days: float) -> Array:
    """Mean daily loss [d-1] of a pool that loses the fraction `rate` each day, over a step of `days`.

    Bloom & Williams 2015, after CARDAMOM: (1 - (1 - r)^dt) / dt.
    """
    return rate if days == 1 else (1 - (1 - rate) ** days) / days


def limited(demand: Array, supply: Array, smoothing: float) -> Array:
    """The smaller of two amounts that are not negative; `smoothing` > 0 rounds the corner.

    The rounded form is (a^-n + b^-n)^(-1/n) with n = 1/smoothing: never above either amount, so that supply is never
    overdrawn, and 2^(-smoothing) times the smaller where both are equal.
    """
    small, large = jnp.minimum(demand, supply), jnp.maximum(demand, supply)
    if smoothing == 0:
        return small
    ratio = small / jnp.where(large > 0, large, 1.0)
    return small * (1 + ratio ** (1 / smoothing)) ** -smoothing


class WaterStep(NamedTuple):
    """Fluxes of the two water stores over one step [mm d-1], and the stores at its end [mm]."""

    evapotranspiration: Array
    runoff: Array
    to_unavailable: Array
    unavailable_runoff: Array
    available: Array
    unavailable: Array


class AbstractNumerics(eqx.Module):
    """The arithmetic of one step of DALEC; see the table at the top of this file."""

    pi: eqx.AbstractVar[float]
    fire_moves_litter_to_som: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def litter_loss(self, respiration: Array, transfer: Array, factor: Array, days: float) -> tuple[Array, Array]:
        """Daily loss fractions [d-1] of litter by respiration and by transfer to SOM, from their rates at factor 1."""

    @abc.abstractmethod
    def som_loss(self, rate: Array, factor: Array, days: float) -> Array:
        """Daily loss fraction [d-1] of soil organic matter."""

    @abc.abstractmethod
    def reference_temperature(self, mean_temperature: Array) -> Array:
        """Temperature [degC] at which the temperature factor of the water model is one."""

    @abc.abstractmethod
    def stress(self, available: Array, wilting_point: Array) -> Array:
        """Factor of GPP by available water, 0 to 1."""

    @abc.abstractmethod
    def water(self, available, unavailable, rain, demand, focal, unavailable_focal, share, days) -> WaterStep:
        """One step of the water stores from stores [mm], rain and evaporative demand [mm d-1] and focal points [mm]."""


def drainage(store: Array, focal: Array) -> Array:
    """Water [mm] that drains from a store in one step, whatever its length: store^2 / focal, linear above focal / 2."""
    return jnp.where(store > focal / 2, store - focal / 4, store**2 / focal)


class Published(AbstractNumerics):
    """CARDAMOM v2.2, quirks included."""

    pi: float = eqx.field(static=True, default=3.1415927)
    fire_moves_litter_to_som: bool = eqx.field(static=True, default=False)  # of the water model; model 400 moves it

    def litter_loss(self, respiration, transfer, factor, days):
        return self.som_loss(respiration, factor, days), self.som_loss(transfer, factor, days)

    def som_loss(self, rate, factor, days):
        # Not `power_loss`: at one day 1 - (1 - r) keeps the rounding of the published code, 1e-9 of the slowest rates.
        return (1 - (1 - factor * rate) ** days) / days

    def reference_temperature(self, mean_temperature):
        return mean_temperature / 2

    def stress(self, available, wilting_point):
        return jnp.minimum(available / wilting_point, 1)

    def water(self, available, unavailable, rain, demand, focal, unavailable_focal, share, days):
        high = available > focal / 2
        drained = drainage(available, focal) / days
        moved = jnp.where(high, drained * share / (1 - share), drained * share)
        runoff = drained * (1 - share)
        lost = drainage(unavailable, unavailable_focal) / days
        return WaterStep(
            demand, runoff, moved, lost,
            available + (rain - runoff - moved - demand) * days, unavailable + (moved - lost) * days)


class Conserving(AbstractNumerics):
    """The default: mass is conserved, no store becomes negative, every gradient is finite.

    `smoothing` (0: exact) rounds the two remaining kinks over that relative width; see `limited`.
    """

    smoothing: float = eqx.field(static=True, default=0.0)
    pi: float = eqx.field(static=True, default=3.141592653589793)
    fire_moves_litter_to_som: bool = eqx.field(static=True, default=True)

    def litter_loss(self, respiration, transfer, factor, days):
        rate = respiration + transfer
        lost = -jnp.expm1(-rate * factor * days) / days
        return lost * (respiration / rate), lost * (transfer / rate)

    def som_loss(self, rate, factor, days):
        return -jnp.expm1(-rate * factor * days) / days

    def reference_temperature(self, mean_temperature):
        return mean_temperature

    def stress(self, available, wilting_point):
        return limited(available / wilting_point, jnp.ones_like(available), self.smoothing)

    def water(self, available, unavailable, rain, demand, focal, unavailable_focal, share, days):
        drained = drainage(available, focal) / days
        supply = available / days - drained + rain
        evapotranspiration = limited(demand, supply, self.smoothing)
        moved = drained * share
        lost = drainage(unavailable, unavailable_focal) / days
        # The store is formed from the supply, so that a day that uses all of it ends at exactly zero.
        return WaterStep(
            evapotranspiration, drained - moved, moved, lost,
            (supply - evapotranspiration) * days, unavailable + (moved - lost) * days)
