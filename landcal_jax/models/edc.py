"""Ecological and dynamic constraints (EDCs) of DALEC as soft terms of J.

CARDAMOM rejects a parameter vector outright when one constraint fails (Bloom & Williams 2015, section 2.3; files
EDC1_400.c, EDC2_400.c, and the ones of 1005). A hard edge has no gradient, and almost no draw of the prior passes, so
here each constraint is a residual, zero where it holds, and J gets half its square: an inequality a <= b costs
(ln(a / b) / width)^2 / 2 once it fails; the trajectory constraints are Gaussian in logarithms, the form that
CARDAMOM v3 has adopted.

    constraints = EcologicalConstraints.of(model, sites)
    observations = observations.with_streams({"edc": constraints.stream()})
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.model import AbstractModel
from landcal_jax.models.dalec import INITIAL_POOLS, Dalec2
from landcal_jax.observations import Stream
from landcal_jax.operators import AbstractOperator
from landcal_jax.sites import Sites

SMALL = 1e-9  # gC m-2 or mm: below it a pool is empty and its logarithm means nothing
STATIC = ("som slower than litter", "decomposition faster than som", "wood slower than leaves", "roots faster than som",
          "allocation to leaves and roots", "foliage and roots")


def log_ratio(above: Array, below: Array) -> Array:
    """ln(above / below), finite where a pool is empty."""
    return jnp.log(jnp.maximum(above, SMALL)) - jnp.log(jnp.maximum(below, SMALL))


class EcologicalConstraints(AbstractOperator):
    """The constraints of DALEC as an operator: Run -> (site, constraint) residuals, all zero where every one holds.

    `equilibrium_factor`: EQF, how far a pool may be from its steady state (2 in CARDAMOM, 10 in FluxVal). `width`:
    tolerance of the inequalities in ln units. `real`: (site, time) true where a step is not padding; `years`: steps a year;
    `capacity`: largest mean of each pool, from the prior of its initial value.
    """

    real: Array
    capacity: Array
    water: bool = eqx.field(static=True)
    steps_a_year: int = eqx.field(static=True)
    step_days: float = eqx.field(static=True)
    equilibrium_factor: float = eqx.field(static=True, default=2.0)
    width: float = eqx.field(static=True, default=0.1)

    @classmethod
    def of(cls, model: AbstractModel, sites: Sites, *, equilibrium_factor: float = 2.0, width: float = 0.1) -> "EcologicalConstraints":
        """Constraints for a DALEC `model` at `sites`."""
        names = [*INITIAL_POOLS] + ([] if isinstance(model, Dalec2) else ["paw_0", "puw_0"])
        capacity = jnp.asarray([float(model.parameters()[name].high) for name in names])
        return cls(
            jnp.asarray(sites.real, float), capacity, not isinstance(model, Dalec2), max(1, round(365.25 / model.step_days)),
            model.step_days, equilibrium_factor, width)

    @property
    def variables(self) -> tuple[str, ...]:
        """What a run has to keep for the constraints."""
        return ("state", "fluxes") + (("evapotranspiration", "runoff", "to_unavailable", "unavailable_runoff") if self.water else ())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the constraints, in the order of the residuals."""
        pools = ("labile", "foliar", "root", "wood", "litter", "som") + (("available water", "unavailable water") if self.water else ())
        water = ("wilting point below mean water", "foliage burns before wood", "foliage burns before soil") if self.water else ()
        return (*STATIC, *(f"{pool} near steady state" for pool in pools), *(f"{pool} without drift" for pool in pools),
                *(f"{pool} below its limit" for pool in pools), *water)

    def stream(self) -> Stream:
        """The constraints as a stream of zeros observed with unit error: its term of J is the penalty."""
        shape = (self.real.shape[0], len(self.names))
        return Stream(np.zeros(shape), np.ones(shape), self, units="1", description="ecological constraints")

    def __str__(self) -> str:
        return f"ecological constraints on {self.real.shape[0]} sites, equilibrium factor {self.equilibrium_factor:g}"

    def __call__(self, run: Any) -> Array:
        theta, pools = run.theta, jnp.stack(run.state, axis=1)
        # A pool has one value more than there are steps: its first is always real.
        weight = jnp.concatenate([jnp.ones_like(self.real[:, :1]), self.real], axis=1)[:, None]
        mean = jnp.sum(pools * weight, axis=2) / jnp.sum(weight, axis=2)
        static = self._static(theta, run, mean)
        inputs, outputs = self._totals(run)
        growth = log_ratio(inputs, outputs)
        drift = log_ratio(self._january(pools), pools[:, :, 0])
        limits = self._penalty(log_ratio(mean, self.capacity))
        parts = [static, (growth + drift) / np.log(self.equilibrium_factor), drift / np.log(1.1), limits]
        if self.water:
            parts.append(self._penalty(jnp.stack([
                log_ratio(theta["wilting_point"], mean[:, 6]),
                log_ratio(theta["ligneous_combustion"], theta["foliar_combustion"]),
                log_ratio(theta["dom_combustion"], theta["foliar_combustion"])], axis=1)))
        return jnp.concatenate(parts, axis=1)

    def _penalty(self, excess: Array) -> Array:
        return jnp.maximum(excess, 0.0) / self.width

    def _static(self, theta, run, mean):
        rest = 1 - theta["autotrophic_fraction"]
        foliar = rest * theta["foliar_fraction"]
        labile = (rest - foliar) * theta["labile_fraction"]
        root = (rest - foliar - labile) * theta["root_fraction"]
        warmth = 0.5 * (run.forcing.temperature_min + run.forcing.temperature_max)
        temperature = jnp.sum(warmth * self.real, axis=1) / jnp.sum(self.real, axis=1)
        return self._penalty(jnp.stack([
            log_ratio(theta["som_turnover"], theta["litter_turnover"]),
            log_ratio(theta["som_turnover"], theta["decomposition_rate"]),
            log_ratio(theta["wood_turnover"] * theta["leaf_lifespan"] * 365.25, jnp.ones_like(rest)),
            log_ratio(theta["som_turnover"] * jnp.exp(theta["temperature_exponent"] * temperature), theta["root_turnover"]),
            jnp.abs(log_ratio(foliar + labile, root)) - np.log(5),
            jnp.abs(log_ratio(mean[:, 1], mean[:, 2])) - np.log(5)], axis=1))

    def _totals(self, run):
        """Sums of all inputs and of all outputs of each pool [gC m-2 or mm], (site, pool)."""
        flux, burnt, killed = run.output.fluxes, run.output.fluxes.burnt, run.output.fluxes.killed
        inputs = [flux.to_labile, flux.to_foliar + flux.labile_release, flux.to_root, flux.to_wood,
                  flux.foliar_litter + flux.root_litter + killed.labile + killed.foliar + killed.root,
                  flux.wood_litter + flux.litter_to_som + killed.wood + killed.litter]
        outputs = [flux.labile_release, flux.foliar_litter, flux.root_litter, flux.wood_litter,
                   flux.litter_respiration + flux.litter_to_som, flux.som_respiration]
        outputs = [loss + burnt[n] + killed[n] for n, loss in enumerate(outputs)]
        if self.water:
            water = run.output
            inputs += [run.forcing.precipitation, water.to_unavailable]
            outputs += [water.evapotranspiration + water.runoff + water.to_unavailable, water.unavailable_runoff]

        def total(fluxes):
            return jnp.stack([jnp.sum(flux * self.real, axis=1) for flux in fluxes], axis=1) * self.step_days

        return total(inputs), total(outputs)

    def _january(self, pools):
        """Mean of each pool at the same season of every year, (site, pool): the samples of the trajectory constraints."""
        weight = jnp.concatenate([jnp.ones_like(self.real[:, :1]), self.real], axis=1)[:, None, :: self.steps_a_year]
        return jnp.sum(pools[:, :, :: self.steps_a_year] * weight, axis=2) / jnp.sum(weight, axis=2)
