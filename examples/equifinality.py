"""Many parameter sets fit alike: what history matching, Laplace, NUTS and an ensemble make of that, on one twin.

    python examples/equifinality.py                    # the figure goes to equifinality.png

Four parameters of DALEC with water make up for each other: leaves that are cheaper, more numerous or more efficient give the same carbon
uptake. The truth is known. History matching sees two RMSDs and rules out what they rule out; the other three see every observation.
"""

import sys

import numpy as np

import landcal_jax as lc
from landcal_jax import plot_equifinality
from landcal_jax.history_matching import history_match
from landcal_jax.measures import rmsd

lc.configure()

FREE = ("canopy_efficiency", "lma", "foliar_fraction", "autotrophic_fraction")

# One year of daily NEE and latent heat under generated weather; all other parameters are known here.
experiment = lc.twin_experiment(seed=0, years=2, held_out_years=1)
truth, whole = experiment.truth, experiment.problem
space = whole.space.fix(**{name: truth[name] for name in whole.space.names if name not in FREE})
problem = lc.Problem(space, whole.forward, whole.observations)

# The minimum of J, and a Gaussian with its curvature.
result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False)
posteriors = {"Laplace": lc.laplace(problem, result, draws=2000, key=0)}

# Draws from the posterior itself, and the ensemble of a method that needs no gradient.
posteriors["NUTS"] = lc.nuts(problem, result, draws=500, key=0, progress=False)
ensemble = lc.solve(problem, lc.ESMDA(), key=0, progress=False)
posteriors["ES-MDA"] = lc.from_ensemble(problem, ensemble)

# What two RMSDs do not rule out, with an emulator for each.
metrics = lc.with_metrics(problem, {"nee_rmsd": lc.Metric("nee", rmsd), "le_rmsd": lc.Metric("latent_heat", rmsd)}, key=0)
history = history_match(metrics, waves=3, key=0, progress=False)
posteriors = {"history matching": history.posterior(2000, key=0)} | posteriors
print(history, "\n")

# Spread of each parameter against its prior, and whether the truth lies in the middle 95 %.
prior = np.array([float(space.prior_sd[name]) for name in space.labels])
true = np.asarray(space.flatten({name: truth[name] for name in space.default_theta}))
print(f"{'standard deviation over the prior one':38}" + "".join(f"{name:>22}" for name in space.labels))
for name, posterior in posteriors.items():
    draws = posterior.matrix()
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    cells = [f"{ratio:.3f}{'' if inside else ' (truth outside)'}"
             for ratio, inside in zip(draws.std(axis=0) / prior, (low <= true) & (true <= high), strict=True)]
    print(f"{name:38}" + "".join(f"{cell:>22}" for cell in cells))

file = sys.argv[1] if len(sys.argv) > 1 else "equifinality.png"
plot_equifinality.matrix(posteriors, truth).savefig(file, dpi=150)
print(f"\nThe figure is in {file}")
