"""The twins of `coverage.py`, what is taken for their errors, and the methods: functions that another process can import."""

import dataclasses
import functools
import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.linalg import block_diag

from landcal_jax import data
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI
from landcal_jax.error_estimation import estimate_errors
from landcal_jax.error_model import ModelError
from landcal_jax.experiment import TRUTH, TWIN_ERRORS, dalec_problem
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.laplace import laplace
from landcal_jax.models import DalecWater
from landcal_jax.observations import Observations, StreamSpec
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import Posterior, from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.solvers import Result
from landcal_jax.solving import solve

SITE, YEARS = "FR-Pue", ("2007", "2008")
MEASUREMENT = 0.1  # of the whole error, so that nearly all of it is what can be estimated
DAYS = 5.0
PARTS, ENDINGS = ("constant", "days"), ("model_error", "error_days")
# Wide, and the same whatever the first guess of the errors is: a factor of two about the size, of three about a memory of two days.
ERROR_PRIORS = {
    "nee_model_error": Parameter.log_normal(0.6, 0.7, units="gC m-2 d-1"), "nee_error_days": Parameter.log_normal(2.0, 1.0, units="d"),
    "latent_heat_model_error": Parameter.log_normal(10.0, 0.7, units="W m-2"),
    "latent_heat_error_days": Parameter.log_normal(2.0, 1.0, units="d")}
FREE = (
    "canopy_efficiency", "autotrophic_fraction", "foliar_fraction", "labile_fraction", "lma", "labile_0", "foliar_0",
    "onset_day", "onset_period", "fall_day", "fall_period", "litter_turnover", "litter_0", "som_turnover", "temperature_exponent",
    "moisture_factor", "water_use_efficiency", "radiation_evaporation", "wilting_point", "paw_focal_point", "paw_0")
SPREAD = 0.3  # standard deviation of the logarithm under the prior
SPREADS = {"autotrophic_fraction": 0.1, "foliar_fraction": 0.2, "labile_fraction": 0.2, "onset_period": 0.2, "fall_period": 0.2}
SEASON = {"onset_day": 8.0, "fall_day": 8.0}  # days


@functools.cache
def problem(correlated: bool = False) -> Problem:
    """DALEC with water at the site, on the observed days of the real record, whose values a twin replaces.

    The error of each stream is that of the twin experiments of the package, one part in a hundred of its variance by measurement;
    the rest is model error, `correlated` over five days or independent.
    """
    forcing, flux, _ = data.load_site(SITE)
    forcing, flux = (ds.sel(time=slice(*YEARS)) for ds in (forcing, flux))
    days = DAYS if correlated else None
    specs = {name: StreamSpec(name, uncertainty=MEASUREMENT * error,
                              model_error=ModelError(math.sqrt(1 - MEASUREMENT**2) * error, correlation_days=days))
             for name, error in TWIN_ERRORS.items()}
    observations = Observations.from_dataset(flux, specs, time=np.asarray(forcing["time"].values, "datetime64[D]"))
    whole = dalec_problem(forcing, observations, DalecWater())
    space = ParameterSpace(
        {name: _prior(name, parameter) for name, parameter in whole.space.parameters.items()},
        fixed={name: TRUTH.get(name) for name in whole.space.parameters if name not in FREE})
    return Problem(space, whole.forward, whole.observations)


def _prior(name: str, parameter: Parameter) -> Parameter:
    about = {"units": parameter.units, "description": parameter.description}
    if name not in FREE:
        return parameter
    if name in SEASON:
        return Parameter.normal(TRUTH[name], SEASON[name], **about)
    return Parameter.log_normal(TRUTH[name], SPREADS.get(name, SPREAD), **about)


# ------------------------------------------------------------------------------------------------- what is taken for the errors


def scaled(problem: Problem, factor: float) -> Problem:
    """The same observations with an R that is `factor` times theirs."""
    def one(stream):
        parts = [stream.sigma, stream.model_error.constant]
        return eqx.tree_at(lambda s: [s.sigma, s.model_error.constant], stream, [math.sqrt(factor) * part for part in parts])

    return problem.with_observations(problem.observations.with_streams({name: one(s) for name, s in problem.observations.items()}))


def white(problem: Problem) -> Problem:
    """The same observations with errors of the same size, taken for independent."""
    streams = {name: s.with_model_error(ModelError(s.model_error.constant)) for name, s in problem.observations.items()}
    return problem.with_observations(problem.observations.with_streams(streams))


TAKEN = {"right": lambda problem: problem, "half": functools.partial(scaled, factor=0.5), "double": functools.partial(scaled, factor=2.0),
         "white": white}


# ------------------------------------------------------------------------------------------------------------------- the methods


def minimum(problem: Problem, key: Array) -> Result:
    """The lowest end of four starts."""
    return solve(problem, MultiStart(LevenbergMarquardt(), number=4, candidates=64), key=key, progress=False)


def by_laplace(problem: Problem, key: Array) -> Posterior:
    """Gauss-Newton curvature at the minimum."""
    return laplace(problem, minimum(problem, key), key=key)


def by_nuts(problem: Problem, key: Array) -> Posterior:
    """Sixteen short chains in one batch, which costs four times one: started and scaled from Laplace they need little warm-up."""
    return nuts(problem, minimum(problem, key), chains=16, draws=50, key=key, progress=False)


def by_ensemble(problem: Problem, key: Array, *, solver) -> Posterior:
    """What an ensemble solver ends with."""
    return from_ensemble(problem, solve(problem, solver, key=key, progress=False), key=key)


def by_estimated_laplace(problem: Problem, key: Array) -> Posterior:
    """Errors first, by their marginal likelihood, then Laplace as if they were known."""
    found = estimate_errors(problem, minimum(problem, key), parts=dict.fromkeys(problem.observations.names, PARTS))
    made = laplace(found.problem, found.result, key=key)
    return told(made, {name: stream.model_error for name, stream in found.problem.observations.items()})


def by_nuts_with_errors(problem: Problem, key: Array) -> Posterior:
    """Errors among the parameters of the sampler, from where their marginal likelihood is highest."""
    found = estimate_errors(problem, minimum(problem, key), parts=dict.fromkeys(problem.observations.names, PARTS))
    free = found.problem.with_error_parameters(dict.fromkeys(problem.observations.names, PARTS), priors=ERROR_PRIORS)
    errors = {f"{name}_{ending}": getattr(stream.model_error, part)[0] for name, stream in found.problem.observations.items()
              for part, ending in zip(PARTS, ENDINGS, strict=True)}
    # The Hessian of J with its log det R would be one compilation more; the sampler finds the scale of four numbers by itself.
    z = free.space.whiten(found.problem.theta(found.result.z) | errors)
    covariance = block_diag(laplace(found.problem, found.result, draws=2).covariance, 0.04 * np.eye(len(errors)))
    start = Posterior(free, z[None], z, jnp.asarray(covariance), "start", gaussian=True)
    made = nuts(free, z, chains=16, draws=50, key=key, progress=False, posterior=start)
    draws = made.theta()
    return told(made, {name: ModelError(jnp.median(draws[f"{name}_model_error"]), correlation_days=jnp.median(draws[f"{name}_error_days"]))
                       for name in problem.observations.names})


def told(made: Posterior, errors: dict[str, ModelError]) -> Posterior:
    """A posterior that tells the errors it was made with: deviation and memory of each stream."""
    numbers = {}
    for name, error in errors.items():
        numbers |= {f"{name}_model_error": np.mean(error.constant), f"{name}_error_days": np.mean(error.days)}
    return dataclasses.replace(made, details=made.details | numbers)


METHODS = {
    "NUTS": by_nuts, "Laplace": by_laplace, "4DEnVar": functools.partial(by_ensemble, solver=FourDEnVar()),
    "iterated 4DEnVar": functools.partial(by_ensemble, solver=IterativeFourDEnVar()),
    "EKI": functools.partial(by_ensemble, solver=EKI(to="posterior")),
    "errors estimated, Laplace": by_estimated_laplace, "errors sampled, NUTS": by_nuts_with_errors}


def posterior(problem: Problem, key: Array, *, method: str, taken: str) -> Posterior:
    """The posterior of a twin by one of METHODS, with what is TAKEN for its errors."""
    return METHODS[method](TAKEN[taken](problem), key)
