"""DALEC2, model 400 of CARDAMOM: six carbon pools, 23 parameters (Bloom & Williams 2015, Biogeosciences 12, 1299).

    from landcal_jax.models import Dalec2
    model = Dalec2()                       # daily, the arithmetic that one calibrates with
    model = Dalec2.reference()             # as published, see dalec_numerics for the differences
    model = Dalec2(step_days=30.4375)      # monthly
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.model import AbstractModel
from landcal_jax.models import dalec_parts as parts
from landcal_jax.models.dalec_numerics import AbstractNumerics, Conserving, Published, power_loss
from landcal_jax.models.dalec_parts import Carbon
from landcal_jax.parameters import Parameter

# name, low, high, units, description: CARDAMOM's ranges for model 400, in the order of its parameter vector
CARBON_TABLE = (
    ("decomposition_rate", 1e-5, 0.01, "d-1", "litter to soil organic matter at 0 degC"),
    ("autotrophic_fraction", 0.2, 0.8, "1", "fraction of GPP respired by plants"),
    ("foliar_fraction", 0.01, 0.5, "1", "fraction of NPP to foliage"),
    ("root_fraction", 0.01, 1.0, "1", "fraction of the then remaining NPP to roots"),
    ("leaf_lifespan", 1.001, 8.0, "yr", "leaf lifespan"),
    ("wood_turnover", 2.5e-5, 1e-3, "d-1", "wood turnover rate"),
    ("root_turnover", 1e-4, 0.01, "d-1", "root turnover rate"),
    ("litter_turnover", 1e-4, 0.01, "d-1", "litter mineralisation rate at 0 degC"),
    ("som_turnover", 1e-7, 1e-3, "d-1", "soil organic matter mineralisation rate at 0 degC"),
    ("temperature_exponent", 0.018, 0.08, "degC-1", "exponent of heterotrophic respiration"),
    ("canopy_efficiency", 5.0, 50.0, "gC m-2 d-1", "canopy photosynthetic efficiency per leaf area"),
    ("onset_day", 365.25, 1461.0, "d", "day of labile release, modulo 365.25"),
    ("labile_fraction", 0.01, 0.5, "1", "fraction of the then remaining NPP to the labile pool"),
    ("onset_period", 10.0, 100.0, "d", "duration of labile release"),
    ("fall_day", 365.25, 1461.0, "d", "day of leaf fall, modulo 365.25"),
    ("fall_period", 20.0, 150.0, "d", "duration of leaf fall"),
    ("lma", 5.0, 200.0, "gC m-2", "leaf carbon mass per leaf area"),
    ("labile_0", 1.0, 2000.0, "gC m-2", "labile carbon at the start"),
    ("foliar_0", 1.0, 2000.0, "gC m-2", "foliar carbon at the start"),
    ("root_0", 1.0, 2000.0, "gC m-2", "root carbon at the start"),
    ("wood_0", 1.0, 1e5, "gC m-2", "wood carbon at the start"),
    ("litter_0", 1.0, 2000.0, "gC m-2", "litter carbon at the start"),
    ("som_0", 1.0, 2e5, "gC m-2", "soil organic carbon at the start"),
)
INITIAL_POOLS = tuple(f"{pool}_0" for pool in Carbon._fields)
DRIVERS = {
    "temperature_min": "degC", "temperature_max": "degC", "shortwave": "MJ m-2 d-1", "co2": "ppm",
    "burned_fraction": "1", "vpd": "hPa", "precipitation": "mm d-1"}


def parameter_table(table) -> dict[str, Parameter]:
    """Log-uniform priors on the published ranges, the prior of CARDAMOM; the default is the median or a sixth entry."""
    return {
        name: Parameter.log_uniform(low, high, *default, units=units, description=description)
        for name, low, high, units, description, *default in table}


class Forcing(NamedTuple):
    """Drivers of DALEC, (time,) each: temperatures [degC], shortwave [MJ m-2 d-1], co2 [ppm], day_hours [h].

    `season_sine` and `season_cosine` are of the angle pi t / 365.25, t the day number that phenology counts.
    `burned_fraction` [1 per step], `vpd` [hPa] and `precipitation` [mm d-1] are None where a model has no use for
    them (no fire, no water). `mean_temperature` and `mean_precipitation` are scalars: means over the record.
    """

    temperature_min: Array
    temperature_max: Array
    shortwave: Array
    co2: Array
    day_hours: Array
    season_sine: Array
    season_cosine: Array
    burned_fraction: Array | None = None
    vpd: Array | None = None
    precipitation: Array | None = None
    mean_temperature: Array | None = None
    mean_precipitation: Array | None = None


def make_forcing(
    columns: dict, latitude: float, day: np.ndarray, day_of_year: np.ndarray, pi: float, water: bool
) -> Forcing:
    """Forcing from plain columns: `day` is the day number of phenology, `day_of_year` that of day length."""
    angle = pi * np.asarray(day) / 365.25
    mean_temperature = np.mean((columns["temperature_min"] + columns["temperature_max"]) / 2)
    burned = np.asarray(columns["burned_fraction"])
    arrays = dict(
        temperature_min=columns["temperature_min"], temperature_max=columns["temperature_max"],
        shortwave=columns["shortwave"], co2=columns["co2"], day_hours=parts.day_length(latitude, day_of_year, pi),
        season_sine=np.sin(angle), season_cosine=np.cos(angle), burned_fraction=burned if np.any(burned > 0) else None)
    if water:
        arrays |= dict(
            vpd=columns["vpd"], precipitation=columns["precipitation"], mean_temperature=mean_temperature,
            mean_precipitation=np.mean(columns["precipitation"]))
    return Forcing(**{name: None if value is None else jnp.asarray(value, float) for name, value in arrays.items()})


def forcing_from_dataset(dataset, step_days: float, pi: float, *, water: bool) -> Forcing:
    """Check a Dataset in the normal form and turn it into the drivers of DALEC; see `Dalec2.forcing`."""
    site = str(dataset["site"].item()) if "site" in dataset.coords else "the site"
    names = [name for name in DRIVERS if water or name not in ("vpd", "precipitation")]
    columns = {}
    for name in names:
        if name not in dataset:
            raise ValueError(complain(
                f"forcing of {site} with {', '.join(names)}", f"no {name}",
                "read the file with landcal_jax.io, or add the variable"))
        units = dataset[name].attrs.get("units", "")
        if units != DRIVERS[name]:
            raise ValueError(complain(
                f"{name} of {site} in {DRIVERS[name]}", f"units {units!r}", "convert it with landcal_jax.io.units.convert"))
        columns[name] = np.asarray(dataset[name].values, float)
        missing = ~np.isfinite(columns[name])
        if missing.any():
            raise ValueError(complain(
                f"{name} of {site} on every day: a model cannot step over a gap",
                f"{missing.sum()} missing values, the first on {dataset['time'].values[missing][0]!s:.10}",
                "fill the driver by a rule of your own before, and say so in its history"))
    check_ranges(columns, site)
    time = dataset.indexes["time"]
    spacing = np.diff(time.values) / np.timedelta64(1, "D")
    if spacing.size and np.max(np.abs(spacing - step_days)) > max(0.0, 3.5 * (step_days > 27)):
        raise ValueError(complain(
            f"steps of {step_days:g} days at {site}", f"steps of {spacing.min():g} to {spacing.max():g} days",
            "give the model the step of the forcing (step_days=), or fill the gap in time"))
    middle = time + np.timedelta64(round(43200 * step_days), "s") if step_days > 1 else time
    day = (middle - np.datetime64(f"{time[0].year}-01-01")) / np.timedelta64(1, "D") + 1
    return make_forcing(columns, float(dataset["latitude"]), np.asarray(day), np.asarray(middle.day_of_year), pi, water)


def check_ranges(columns: dict, site: str) -> None:
    """Refuse drivers that DALEC cannot run on, naming the first bad step."""
    spread = columns["temperature_max"] - columns["temperature_min"]
    light, co2, burned = columns["shortwave"], columns["co2"], columns["burned_fraction"]
    rules = [
        ("temperature_max at or above temperature_min", spread < 0, spread, "are the two columns swapped?"),
        ("shortwave of 0 or more", light < 0, light, "set night-time offsets to 0"),
        ("co2 above 50 ppm", co2 < 50, co2, "check the units: ppm, not a fraction"),
        ("burned fraction in 0 to 1", np.abs(burned - 0.5) > 0.5, burned, "divide percent by 100"),
    ]
    if "vpd" in columns:
        rain, dryness = columns["precipitation"], columns["vpd"]
        rules += [
            ("vapour pressure deficit of 0 or more", dryness < 0, dryness, "set rounding below 0 to 0"),
            ("precipitation of 0 or more", rain < 0, rain, "check the units and fill values"),
            ("some precipitation in the record, over whose mean DALEC scales decay", np.full(1, np.mean(rain) <= 0), rain,
             "check the column, or use Dalec2, which has no water"),
        ]
    for expected, bad, values, advice in rules:
        if bad.any():
            first = int(np.argmax(bad))
            raise ValueError(complain(
                f"{expected} at {site}", f"{int(bad.sum())} steps against it, the first is step {first} with {values[first]:g}", advice))


class Dalec2Output(NamedTuple):
    """Output of one step: NEE and LAI, then the fluxes of CARDAMOM in its order; gC m-2 d-1 except `lai` [m2 m-2]."""

    nee: Array
    lai: Array
    gpp: Array
    respiration: Array
    fluxes: parts.CarbonFluxes


class Dalec2(AbstractModel):
    """DALEC2 (CARDAMOM model 400): net ecosystem exchange and leaf area from daily or monthly weather.

    `step_days`: length of the step [d], one constant for the run as in CARDAMOM (1, or 30.4375 for months).
    `numerics`: `Conserving()` (default) or `Published()`.
    """

    step_days: float = eqx.field(static=True, default=1.0)
    numerics: AbstractNumerics = Conserving()

    @classmethod
    def reference(cls, step_days: float = 1.0) -> "Dalec2":
        """The published arithmetic, quirks included."""
        return cls(step_days, Published(fire_moves_litter_to_som=True))

    def parameters(self) -> dict[str, Parameter]:
        """The 23 parameters with CARDAMOM's log-uniform priors."""
        return parameter_table(CARBON_TABLE)

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The names in CARDAMOM's order."""
        return tuple(row[0] for row in CARBON_TABLE)

    @property
    def output_units(self) -> dict[str, str]:
        """Units by output field."""
        return {"nee": "gC m-2 d-1", "lai": "m2 m-2", "gpp": "gC m-2 d-1", "respiration": "gC m-2 d-1"}

    @property
    def periods(self) -> dict[str, float]:
        """Days of phenology have the same effect a year later."""
        return {"onset_day": 365.25, "fall_day": 365.25}

    def forcing(self, dataset) -> Forcing:
        """Drivers from a Dataset with temperature_min, temperature_max, shortwave, co2 and burned_fraction.

        Raises ValueError for a missing variable, other units, a gap, an impossible value or another time step.
        """
        return forcing_from_dataset(dataset, self.step_days, self.numerics.pi, water=False)

    def prepare(self, theta, forcing):
        """Shares, losses and pulses; canopy drivers."""
        constants = carbon_constants(theta, self.step_days, self.numerics.pi, jnp.asarray(parts.LABILE_LIFESPAN))
        inputs = (
            parts.canopy(forcing.temperature_min, forcing.temperature_max, forcing.shortwave, forcing.co2, forcing.day_hours),
            0.5 * (forcing.temperature_min + forcing.temperature_max), forcing.season_sine, forcing.season_cosine,
            forcing.burned_fraction)
        return (theta, *constants), inputs

    def initial_state(self, theta) -> Carbon:
        """The six initial pools of theta."""
        return Carbon(*(theta[name] for name in INITIAL_POOLS))

    def step(self, constants, state: Carbon, inputs):
        """One step: GPP, allocation, turnover, fire."""
        theta, carbon, release, fall = constants
        canopy, temperature, sine, cosine, burned = inputs
        lai = state.foliar / theta["lma"]
        gross = parts.gpp(lai, theta["canopy_efficiency"], canopy)
        factor = jnp.exp(theta["temperature_exponent"] * temperature)
        burning = None if burned is None else (burned, tuple(parts.COMBUSTION.values()), parts.RESILIENCE, True)
        after, fluxes = carbon_balance(self, theta, carbon, release, fall, state, gross, factor, (sine, cosine), burning)
        respiration = fluxes.autotrophic_respiration + fluxes.litter_respiration + fluxes.som_respiration
        return after, Dalec2Output(respiration + fluxes.fire - gross, lai, gross, respiration, fluxes)


def carbon_constants(theta, step_days: float, pi: float, labile_lifespan: Array):
    """Constants of the carbon balance and the two pulses of phenology (release, fall)."""
    carbon = parts.CarbonConstants(
        theta["autotrophic_fraction"], theta["foliar_fraction"], theta["labile_fraction"], theta["root_fraction"],
        power_loss(theta["wood_turnover"], step_days), power_loss(theta["root_turnover"], step_days))
    release = parts.pulse(labile_lifespan, theta["onset_period"], theta["onset_day"], pi)
    fall = parts.pulse(theta["leaf_lifespan"], theta["fall_period"], theta["fall_day"], pi)
    return carbon, release, fall


def carbon_balance(model, theta, carbon, release, fall, pools, gross, factor, season, burning):
    """The carbon part of a step, the same for DALEC with and without water."""
    days, numerics = model.step_days, model.numerics
    release_factor, fall_factor = release.at(*season), fall.at(*season)
    litter = numerics.litter_loss(theta["litter_turnover"], theta["decomposition_rate"], factor, days)
    som = numerics.som_loss(theta["som_turnover"], factor, days)
    pulses = ((release_factor, power_loss(release_factor, days)), (fall_factor, power_loss(fall_factor, days)))
    return parts.carbon_step(carbon, pools, (gross, factor), pulses, litter, som, burning, days)
