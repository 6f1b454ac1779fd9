"""The twin experiments of `first_guesses`: DALEC under the weather of real sites, a known truth, noisy NEE and latent heat.

DALEC with water runs over two years of daily weather at one site, or at four that share all parameters. The truth is that of
`landcal_jax.twin_experiment`, a temperate deciduous forest; every day is observed, and noise is drawn from R. Free are all 33
parameters that these sites can see (those of fire are fixed where nothing burns), with CARDAMOM's priors; or twelve, as many as one
chooses after a sensitivity analysis, with the others at the truth.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from landcal_jax import data
from landcal_jax.experiment import TRUTH, TWIN_ERRORS, dalec_problem
from landcal_jax.models import DalecWater
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.problem import Problem
from landcal_jax.testing import twin

SITES = {"one site": ("DK-Sor",), "four sites": ("DK-Sor", "DE-Tha", "NL-Loo", "RU-Fyo")}
YEARS = ("2008", "2009")
FEW = ("autotrophic_fraction", "foliar_fraction", "leaf_lifespan", "temperature_exponent", "canopy_efficiency", "onset_day",
       "labile_fraction", "fall_day", "lma", "water_use_efficiency", "litter_turnover", "som_turnover")
SEASON = ("onset_day", "fall_day")
YEAR = 365.25  # days, of which DALEC sees the remainder only


class Case(NamedTuple):
    """A problem with pseudo-observations, and truths (turn, n) that cannot be told apart: days of the year, some turns later."""

    problem: Problem
    truths: np.ndarray


def case(sites: tuple[str, ...], *, few: bool = False, years: tuple[str, str] = YEARS, seed: int = 0) -> Case:
    """The twin at these sites of the catalogue; `seed` draws the noise."""
    model, forcings = DalecWater(), [data.load_site(name)[0].sel(time=slice(*years)) for name in sites]
    time = np.stack([forcing["time"].values.astype("datetime64[D]") for forcing in forcings])
    streams = {name: Stream(np.zeros(time.shape), error, Pick(name), time=time, units=model.output_units[name])
               for name, error in TWIN_ERRORS.items()}
    problem = dalec_problem(forcings, Observations(streams, sites=sites), model)
    space = problem.space
    truth = space.default_theta | {name: jnp.asarray(TRUTH[name]) for name in space.names if name in TRUTH}
    if few:
        kept = {name: float(truth[name]) for name in space.names if name not in FEW}
        problem = Problem(space.fix(**kept), problem.forward, problem.observations)
    truths = turned(problem, truth)
    return Case(twin(problem, truths[0], key=seed).problem, truths)


def turned(problem: Problem, truth: dict) -> np.ndarray:
    """z (turn, n) of the truth, and with the days of the year some turns sooner or later, as far as the bounds allow."""
    low, high = (np.asarray(side) for side in problem.space.bounds())
    season = np.isin(problem.space.labels, SEASON)
    vector = np.asarray(problem.space.flatten(truth))
    rows = [vector]
    for turn in (-2, -1, 1, 2):
        other = np.where(season, vector + turn * YEAR, vector)
        rows.append(np.where((other > low) & (other < high), other, vector))
    return np.stack([np.asarray(problem.space.whiten(problem.space.unflatten(row))) for row in rows])
