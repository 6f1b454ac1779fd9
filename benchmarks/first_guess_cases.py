"""The twin experiments of `first_guesses`: DALEC under the weather of real sites, a known truth, noisy NEE and latent heat.

DALEC with water runs over two years of daily weather at one site, or at four that share all parameters. The truth is that of
`landcal_jax.twin_experiment`, a temperate deciduous forest; every day is observed, and noise is drawn from R. Free are all 33
parameters that these sites can see, with CARDAMOM's priors; those of fire are fixed, since nothing burns.
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
SEASON = ("onset_day", "fall_day")
YEAR = 365.25  # days, of which DALEC sees the remainder only


class Case(NamedTuple):
    """A problem with pseudo-observations, and truths (turn, n) that cannot be told apart: days of the year, some turns later."""

    problem: Problem
    truths: np.ndarray


def case(sites: tuple[str, ...]) -> Case:
    """The twin at these sites of the catalogue."""
    model, forcings = DalecWater(), [data.load_site(name)[0].sel(time=slice(*YEARS)) for name in sites]
    time = np.stack([forcing["time"].values.astype("datetime64[D]") for forcing in forcings])
    streams = {name: Stream(np.zeros(time.shape), error, Pick(name), time=time, units=model.output_units[name])
               for name, error in TWIN_ERRORS.items()}
    problem = dalec_problem(forcings, Observations(streams, sites=sites), model)
    space = problem.space
    truth = space.default_theta | {name: jnp.asarray(TRUTH[name]) for name in space.names if name in TRUTH}
    truths = turned(problem, truth)
    return Case(twin(problem, truths[0], key=0).problem, truths)


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
