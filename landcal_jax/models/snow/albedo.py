"""Albedo of snow: one object a scheme. Each keeps one number a column, its memory: the albedo itself, or an age."""

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jax import Array

from landcal_jax.models.snow.constants import DAY, FREEZING
from landcal_jax.parameters import Parameter

MELTING_POINT = 273.15  # K, in the schemes of ORCHIDEE and FSM
HOUR = 3600.0


class Weather(NamedTuple):
    """What albedo may depend on: snow and rain [kg m-2 s-1], temperature of the snow's surface and of layer 1 [K], `wet` from 0 to 1:
    whether water froze or melted in layer 1 in this step, `there` whether snow lies, and the length of the step [s]."""

    snowfall: Array
    rainfall: Array
    surface: Array
    first_layer: Array
    wet: Array
    there: Array
    dt: float


class AbstractAlbedo(eqx.Module):
    """A scheme: parameters with defaults and ranges, the memory of fresh snow, the albedo that a memory means, and one step."""

    @abc.abstractmethod
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of the scheme."""

    @abc.abstractmethod
    def fresh(self, theta) -> Array:
        """Memory before the first snow."""

    @abc.abstractmethod
    def value(self, theta, memory: Array, surface: Array) -> Array:
        """Albedo [1] from the memory, and from the temperature of the surface [K] before the step."""

    @abc.abstractmethod
    def step(self, theta, memory: Array, weather: Weather) -> Array:
        """Memory after a step."""


def _table(rows) -> dict[str, Parameter]:
    return {name: Parameter.uniform(low, high, default, units=units, description=what) for name, default, low, high, units, what in rows}


class EcLandAlbedo(AbstractAlbedo):
    """ecLand (srfsn_asn, after Douville et al. 1995): linear decay of dry snow, exponential of wet snow, refreshed by 10 kg m-2 of snow."""

    def parameters(self):
        return _table((
            ("RALFMINSN", 0.50, 0.40, 0.65, "1", "least albedo of snow"),
            ("RALFMAXSN", 0.85, 0.75, 0.95, "1", "albedo of fresh snow"),
            ("RTAUF", 0.24, 0.1, 0.4, "d-1", "exponential decay of the albedo of wet snow"),
            ("RTAUA", 0.008, 0.002, 0.02, "d-1", "linear decay of the albedo of dry snow"),
        ))

    def fresh(self, theta):
        return theta["RALFMAXSN"]

    def value(self, theta, memory, surface):
        return memory

    def step(self, theta, memory, weather):
        least, most, days = theta["RALFMINSN"], theta["RALFMAXSN"], weather.dt / DAY
        wet = least + (memory - least) * jnp.exp(-theta["RTAUF"] * days)
        dry = jnp.maximum(least, memory - theta["RTAUA"] * days)
        aged = weather.wet * wet + (1 - weather.wet) * dry
        covered = jnp.minimum(1.0, weather.snowfall * weather.dt / 10.0)
        return jnp.where(weather.there, jnp.clip(aged + covered * (most - aged), least, most), most)


class ChalitaLeTreut(AbstractAlbedo):
    """ORCHIDEE on land (Chalita and Le Treut 1994): aged albedo plus a part that decays with the age of the snow [d].

    The broadband albedo of bare soil's class; with `land_ice` cold snow ages more slowly and rain doubles its ageing, as on ice sheets
    (Raoult et al. 2023, doi:10.5194/tc-17-2705-2023).
    """

    land_ice: bool = eqx.field(static=True, default=False)

    def parameters(self):
        ice = self.land_ice
        rows = [
            ("albedo_aged", 0.465 if ice else 0.59, 0.3, 0.7, "1", "albedo of old snow"),
            ("albedo_decaying", 0.365 if ice else 0.215, 0.05, 0.5, "1", "what fresh snow has above it"),
            ("albedo_decay_time", 2.0 if ice else 10.0, 1.0, 20.0, "d", "e-folding age of fresh snow's albedo"),
            ("snowfall_depth", 1.0 if ice else 0.2, 0.1, 10.0, "kg m-2", "snowfall that renews the surface"),
            ("age_limit", 50.0, 20.0, 80.0, "d", "age that snow does not pass"),
        ]
        if ice:
            rows += [("cold_scale", 7.0, 2.0, 15.0, "K", "cold at which ageing is halved"),
                     ("cold_exponent", 4.0, 2.0, 8.0, "1", "exponent of the effect of cold on ageing")]
        return _table(rows)

    def fresh(self, theta):
        return jnp.zeros_like(theta["albedo_aged"])

    def value(self, theta, memory, surface):
        return theta["albedo_aged"] + theta["albedo_decaying"] * jnp.exp(-memory / theta["albedo_decay_time"])

    def step(self, theta, memory, weather):
        older = memory + (1 - memory / theta["age_limit"]) * weather.dt / DAY
        change = older * jnp.exp(-weather.snowfall * weather.dt / theta["snowfall_depth"]) - memory
        if self.land_ice:
            cold = jnp.maximum(MELTING_POINT - weather.surface, 0.0) / theta["cold_scale"]
            # A power of zero with a fitted exponent has no derivative; at the melting point nothing slows ageing.
            slowed = 1 + jnp.where(cold > 0, jnp.where(cold > 0, cold, 1.0) ** theta["cold_exponent"], 0.0)
            ageing = change / slowed * jnp.where(weather.rainfall > 0, 2.0, 1.0)
            change = jnp.where(change > 0, ageing, change)
        return jnp.where(weather.there, jnp.maximum(memory + change, 0.0), 0.0)


class FsmPrognostic(AbstractAlbedo):
    """FSM (Essery 2015): albedo relaxes to its least value, slowly where cold and fast where melting, and is renewed by snowfall."""

    def parameters(self):
        return _table((
            ("asmn", 0.5, 0.3, 0.65, "1", "albedo of melting snow"),
            ("asmx", 0.8, 0.7, 0.95, "1", "albedo of fresh snow"),
            ("Salb", 10.0, 2.0, 20.0, "kg m-2", "snowfall that refreshes albedo"),
            ("tcld", 1000.0, 300.0, 3000.0, "h", "decay time of the albedo of cold snow"),
            ("tmlt", 100.0, 20.0, 300.0, "h", "decay time of the albedo of melting snow"),
        ))

    def fresh(self, theta):
        return theta["asmx"]

    def value(self, theta, memory, surface):
        return memory

    def step(self, theta, memory, weather):
        cold, melting = 1 / (HOUR * theta["tcld"]), 1 / (HOUR * theta["tmlt"])
        ageing = jnp.where(weather.surface >= MELTING_POINT, melting, cold)
        renewing = weather.snowfall / theta["Salb"]
        rate = ageing + renewing
        limit = (ageing * theta["asmn"] + renewing * theta["asmx"]) / rate
        return jnp.where(weather.there, limit + (memory - limit) * jnp.exp(-rate * weather.dt), theta["asmx"])


class FsmDiagnostic(AbstractAlbedo):
    """FSM's other option (Essery 2015): albedo falls linearly as the surface comes near the melting point."""

    def parameters(self):
        return _table((
            ("asmn", 0.5, 0.3, 0.65, "1", "albedo of melting snow"),
            ("asmx", 0.8, 0.7, 0.95, "1", "albedo of cold snow"),
            ("Talb", -2.0, -10.0, -0.5, "K", "temperature below melting at which albedo begins to fall"),
        ))

    def fresh(self, theta):
        return jnp.asarray(FREEZING)

    def value(self, theta, memory, surface):
        share = jnp.clip((surface - MELTING_POINT) / theta["Talb"], 0.0, 1.0)
        return theta["asmn"] + (theta["asmx"] - theta["asmn"]) * share

    def step(self, theta, memory, weather):
        return weather.surface
