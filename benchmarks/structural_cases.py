"""Twins with a planted structural error, for structural_error.py: the truth, what is calibrated instead, and what a top finding must name."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import landcal_jax as lc
from landcal_jax import testing
from landcal_jax.experiment import TRUTH, TWIN_ERRORS, TWIN_OBSERVED, Experiment, dalec_problem
from landcal_jax.models import DalecWater
from landcal_jax.models.dalec_numerics import Conserving
from landcal_jax.weather import MEDITERRANEAN, TEMPERATE_FOREST, Climate, weather

YEARS = 6


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
    """A planted error: model of the truth, model that is calibrated, what is done to its forcing, and the right answer."""

    name: str
    truth: DalecWater
    calibrated: DalecWater
    climate: Climate = TEMPERATE_FOREST
    theta: tuple[tuple[str, float], ...] = ()
    bias: Callable | None = None
    answer: Callable | None = None


def experiment_of(case: Case, seed: int) -> Experiment:
    """The twin of a case: weather, gaps and noise of this seed, observations of the true model, the problem of the other one."""
    forcing = weather(case.climate, years=YEARS, seed=seed)
    twin = lc.twin_experiment(seed, years=YEARS, held_out_years=0, climate=case.climate, model=case.truth)
    problem = twin.problem
    theta = problem.space.default_theta | {n: jnp.asarray(v) for n, v in (TRUTH | dict(case.theta)).items() if n in problem.space.names}
    problem = testing.twin(problem, problem.space.whiten(theta), key=seed).problem
    given = forcing if case.bias is None else case.bias(forcing.copy(deep=True))
    return replace(twin, problem=dalec_problem(given, problem.observations, case.calibrated), truth=theta)
