"""Twins with a planted structural error, for structural_error.py: the truth, what is calibrated instead, what a top finding must name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import xarray as xr

import landcal_jax as lc
from landcal_jax import testing
from landcal_jax.experiment import TRUTH, Experiment, dalec_problem
from landcal_jax.models import DalecWater
from landcal_jax.models.dalec_numerics import Conserving
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.problem import Problem
from landcal_jax.weather import MEDITERRANEAN, TEMPERATE_FOREST, Climate, weather

YEARS = 6
SITES, SITE_YEARS = ("north", "middle", "south"), 2
BIASED = "middle"
"""The site of those that has the bias."""
ERRORS, OBSERVED = {"nee": 0.6, "latent_heat": 10.0}, 0.6
"""Standard deviations of the errors at several sites, and the share of the days that are observed, those of a twin of one site."""


class LloydTaylor(DalecWater):
    """DALEC with water whose decay follows Lloyd and Taylor (1994, Funct. Ecol. 8:315, eq. 11) and not an exponential of temperature."""

    def prepare(self, theta, forcing):
        constants, (canopy, warmth, *rest) = super().prepare(theta, forcing)
        temperature = 0.5 * (forcing.temperature_min + forcing.temperature_max)
        mean = temperature - warmth

        def log_factor(t):
            return -308.56 / jnp.maximum(t + 46.02, 5.0)

        # The step takes the exponential of this times the exponent of temperature.
        return constants, (canopy, (log_factor(temperature) - log_factor(mean)) / theta["temperature_exponent"], *rest)


class Optimum(DalecWater):
    """DALEC with water whose decay has its optimum at 18 degC, a Gaussian of 9 K, and falls where it is warmer."""

    def prepare(self, theta, forcing):
        constants, (canopy, _, *rest) = super().prepare(theta, forcing)
        temperature = 0.5 * (forcing.temperature_min + forcing.temperature_max)
        return constants, (canopy, -0.5 * ((temperature - 18.0) / 9.0) ** 2 / theta["temperature_exponent"], *rest)


class Unstressed(Conserving):
    """The arithmetic of DALEC without water stress of photosynthesis."""

    def stress(self, available, wilting_point):
        return jnp.ones_like(available)


@dataclass(frozen=True)
class Case:
    """A planted error: model of the truth, model that is calibrated, what is done to its forcing, and the right answer.

    `several`: at `SITES`, whose weather differs and whose parameters are the same; the bias is that of one of them.
    """

    name: str
    truth: DalecWater
    calibrated: DalecWater
    climate: Climate = TEMPERATE_FOREST
    theta: tuple[tuple[str, float], ...] = ()
    bias: Callable | None = None
    answer: Callable | None = None
    several: bool = False


def problem_of(case: Case, seed: int) -> Problem:
    """The twin of a case with one site or several, observed with the noise of this seed."""
    return problem_at_sites(case, seed) if case.several else experiment_of(case, seed).problem


def problem_at_sites(case: Case, seed: int) -> Problem:
    """A twin at `SITES`, `SITE_YEARS` each: one true theta, weather, gaps and noise of their own, and the forcing of one of them biased."""
    true = [weather(case.climate, years=SITE_YEARS, seed=len(SITES) * seed + n).assign_coords(site=name) for n, name in enumerate(SITES)]
    rng, time = np.random.default_rng(seed), np.asarray(true[0].indexes["time"].values, "datetime64[D]")
    empty = {name: Stream(np.where(rng.random((len(SITES), len(time))) < OBSERVED, 0.0, np.nan), error, Pick(name), time=time,
                          units=case.truth.output_units[name]) for name, error in ERRORS.items()}
    problem = dalec_problem(true, Observations(empty, sites=SITES), case.truth)
    theta = problem.space.default_theta | {n: jnp.asarray(v) for n, v in TRUTH.items() if n in problem.space.names}
    made = testing.twin(problem, problem.space.whiten(theta), key=seed).problem

    def given(forcing: xr.Dataset) -> xr.Dataset:
        return case.bias(forcing.copy(deep=True)) if case.bias is not None and forcing["site"].item() == BIASED else forcing

    return dalec_problem([given(forcing) for forcing in true], made.observations, case.calibrated)


def experiment_of(case: Case, seed: int) -> Experiment:
    """The twin of a case: weather, gaps and noise of this seed, observations of the true model, the problem of the other one."""
    forcing = weather(case.climate, years=YEARS, seed=seed)
    twin = lc.twin_experiment(seed, years=YEARS, held_out_years=0, climate=case.climate, model=case.truth)
    problem = twin.problem
    theta = problem.space.default_theta | {n: jnp.asarray(v) for n, v in (TRUTH | dict(case.theta)).items() if n in problem.space.names}
    problem = testing.twin(problem, problem.space.whiten(theta), key=seed).problem
    given = forcing if case.bias is None else case.bias(forcing.copy(deep=True))
    return replace(twin, problem=dalec_problem(given, problem.observations, case.calibrated), truth=theta)


def scaled(name: str, factor: float) -> Callable:
    """A bias that multiplies a driver."""
    return lambda forcing: forcing.assign({name: (forcing[name] * factor).assign_attrs(forcing[name].attrs)})


def shifted(names: tuple[str, ...], offset: float) -> Callable:
    """A bias that adds to drivers."""
    return lambda forcing: forcing.assign({name: (forcing[name] + offset).assign_attrs(forcing[name].attrs) for name in names})


def about_respiration(group: tuple[str, str]) -> bool:
    """The response of respiration to temperature."""
    return group == ("respiration", "temperature")


def about_stress(group: tuple[str, str]) -> bool:
    """Photosynthesis in a dry soil."""
    return group == ("gross primary production", "dryness")


def about_driver(*name: str) -> Callable[[tuple[str, ...]], bool]:
    """A bias of this driver, at one site where it is named."""
    return lambda group: group == ("driver", *name)


WATER = DalecWater()
TARGETED = (
    Case("no error", WATER, WATER),
    Case("respiration with an optimum of temperature", Optimum(), WATER, answer=about_respiration),
    Case("water stress missing", WATER, DalecWater(1.0, Unstressed()), theta=(("wilting_point", 300.0),), answer=about_stress),
    Case("radiation 2 MJ m-2 d-1 too high", WATER, WATER, bias=shifted(("shortwave",), 2.0), answer=about_driver("shortwave")),
    Case("no error, three sites", WATER, WATER, several=True),
    Case("radiation 3 MJ m-2 d-1 too high at one of three sites", WATER, WATER, bias=shifted(("shortwave",), 3.0),
         answer=about_driver("shortwave", BIASED), several=True),
)
OTHERS = (
    Case("respiration of Lloyd and Taylor", LloydTaylor(), WATER, answer=about_respiration),
    Case("water stress missing, Mediterranean", WATER, DalecWater(1.0, Unstressed()), MEDITERRANEAN, (("wilting_point", 200.0),),
         answer=about_stress),
    Case("vapour pressure deficit 2 hPa too high", WATER, WATER, bias=shifted(("vpd",), 2.0), answer=about_driver("vpd")),
    Case("precipitation 30 % too low", WATER, WATER, bias=scaled("precipitation", 0.7), answer=about_driver("precipitation")),
    Case("radiation 15 % too high", WATER, WATER, bias=scaled("shortwave", 1.15), answer=about_driver("shortwave")),
    Case("temperature 2 K too high", WATER, WATER, bias=shifted(("temperature_min", "temperature_max"), 2.0),
         answer=about_driver("temperature")),
)
