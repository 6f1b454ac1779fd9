"""Which observation constrains what, and which one to take next: on a twin, without any data.

    python examples/which_data.py                    # figures go to the folder `which_data`

Before a campaign one can ask what it would tell: the covariance of a posterior depends on errors and operators, and not on the values
that will be observed. All of this is linear about one point, here the truth of the twin; after a calibration of your own give its
result, `lc.identifiability(problem, result)`.
"""

import sys
from pathlib import Path

import numpy as np

import landcal_jax as lc
from landcal_jax.identifying import sentences
from landcal_jax.observations import Stream
from landcal_jax.operators import AbstractOperator, Pick, WindowSum, yearly_windows

lc.configure()

# DALEC with water under three years of generated weather; NEE and latent heat are observed on 60 % of the days of the first two.
experiment = lc.twin_experiment(seed=0, years=3, held_out_years=1)
problem = experiment.problem
z = problem.space.whiten(experiment.truth)

# What do the two streams say? The Dataset has all numbers, its sentences the findings.
seen = lc.identifiability(problem, z)
print("What the observations of today see\n")
for sentence in sentences(seen):
    print("-", sentence)


# Candidates: what could be observed besides, with its errors. The values are not known, and do not matter: only where there is one.
# An operator says what an instrument sees of a run; a stock at the end of the record is one that the library does not have.
class Stock(AbstractOperator):
    """A pool at the end of the record [gC m-2]."""

    pool: str
    variables = ("state",)

    def __call__(self, run):
        return getattr(run.state, self.pool)[:, -1:]


days = problem.observations["nee"].time[0]
nowhere = np.full(days.size, np.nan)


def every(interval):
    """Zero on every so many days, missing on the others."""
    values = nowhere.copy()
    values[::interval] = 0.0
    return values


candidates = {
    "lai every 8 days": Stream(every(8), 0.5, Pick("lai"), units="m2 m-2", time=days),
    "respiration every 30 days": Stream(every(30), 0.5, Pick("respiration"), units="gC m-2 d-1", time=days),
    "wood inventory": Stream([0.0], 1000.0, Stock("wood"), units="gC m-2"),
    "soil carbon": Stream([0.0], 2000.0, Stock("som"), units="gC m-2"),
    "litter": Stream([0.0], 40.0, Stock("litter"), units="gC m-2"),
    "another year of nee": Stream(every(1), 0.6, Pick("nee"), mask=days >= np.datetime64("2003-01-01"), units="gC m-2 d-1", time=days)}

# In which order, for all parameters? And which one to take for a prediction, here the sum of NEE of the last year?
ranked = lc.rank_observations(problem, z, candidates)
print("\nWhat to observe next, for the parameters\n")
print("\n".join(sentences(ranked)))
year = {"nee of the last year": Stream([np.nan, np.nan, 0.0], 1.0, WindowSum("nee", yearly_windows(days)), units="gC m-2 yr-1")}
for_year = lc.rank_observations(problem, z, candidates, criterion="A", outputs=year)
print("\nAnd for the sum of NEE of the last year\n")
print("\n".join(sentences(for_year)))

# What the two stocks would leave of the uncertainty.
stocks = {name: candidates[name] for name in ("wood inventory", "soil carbon")}
expected = lc.expected_posterior(problem, z, stocks, outputs=year)
print("\nWith both stocks\n")
print("\n".join(sentences(expected)))

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "which_data")
folder.mkdir(exist_ok=True)
figures = {
    "spectrum": lc.plot_identifiability.spectrum(seen), "streams": lc.plot_identifiability.streams(seen),
    "constrained": lc.plot_identifiability.constrained(seen), "ranking": lc.plot_identifiability.ranking(ranked),
    "expected": lc.plot_identifiability.expected(expected)}
for name, figure in figures.items():
    figure.savefig(folder / f"{name}.png", dpi=120)
