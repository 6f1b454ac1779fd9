"""Calibrate a land surface model on a twin: generated weather, a known truth, noisy observations of it. No data needed.

    python examples/quickstart.py fit.png

For those who know NumPy and xarray and not much of JAX. What there is to know of it: an array of JAX behaves like a
NumPy array that cannot be changed in place, and a function written with `jax.numpy` can be compiled and differentiated
exactly. Compiling happens by itself when a function is first called, so that the first call takes seconds and the
next ones milliseconds. All of that is inside landcal_jax; nothing here has to be a JAX program.
"""

import sys

import numpy as np

import landcal_jax as lc
from landcal_jax.models import Dalec2

# First of all, before anything is computed: 64-bit numbers (JAX has 32 by default), the option of its compiler that
# makes a time loop fast on a CPU, and a cache folder, so that the second run of this script need not compile again.
lc.configure()

# An experiment is a calibration problem with what belongs to it: held-out observations, and here the truth, since we
# made it ourselves. Dalec2 is the carbon model of CARDAMOM, driven with three years of generated weather; NEE is
# "observed" on 60 % of the days, with an error of 0.6 gC m-2 d-1. With your own site it is lc.observed_experiment(
# forcing, flux), two xarray Datasets, and with a public one lc.site_experiment("FR-Pue").
experiment = lc.twin_experiment(seed=0, years=3, held_out_years=1, model=Dalec2())

# The problem is the cost J = prior + observations, each term weighted by its errors. Printing it shows all that decides
# the result: every parameter with unit, range and prior, every stream of observations with its number and errors.
problem = experiment.problem
print(problem)

# Solvers work in z, the parameters transformed such that the prior of each is a standard normal distribution. So no
# scaling has to be chosen, and no parameter can leave its bounds. z = 0 is the prior median:
z = np.zeros(problem.space.size)
print("J at the prior median, by term:", {name: round(float(term), 1) for name, term in problem.terms(z).items()})

# J is a sum of squares, for which Levenberg-Marquardt needs the fewest runs. It finds the next minimum downhill, and J
# has several (leaves that open a month too late fit badly everywhere near), so we start from four points. `key` is the
# seed of whatever is drawn: the same key gives the same result. On real data take the 16 starts of the default.
solver = lc.MultiStart(lc.LevenbergMarquardt(), number=4, explore=15, finalists=1)
result = lc.solve(problem, solver, key=0)
print(result)

# The result in physical units is a dict of arrays (result.theta), or a Dataset with units, bounds and priors:
lma = result.parameters["lma"]
print(f"leaf mass per area: {float(lma):.1f} {lma.attrs['units']}, truth {float(experiment.truth['lma']):.1f}")

# How far to trust it? The curvature of J at its minimum gives the posterior covariance: this is exact for a model that
# is linear in its parameters, and an approximation for one that is not.
posterior = lc.laplace(problem, result, key=0)
low, high = posterior.to_xarray()["lma"].quantile([0.05, 0.95]).values
print(f"its 90 % interval: {low:.1f} to {high:.1f}")

# Solver and posterior together with the experiment are a Calibration, whose Dataset has all there is to draw and to
# keep: series, bands, scores, draws. The shaded year of the figure was held out; the solver has never seen it.
dataset = lc.Calibration(experiment, result, posterior).to_xarray()
print("RMSE of NEE at the first guess and at the MAP [gC m-2 d-1]:")
print(dataset["score"].sel(stream="nee", metric="rmse").isel(site=0).to_pandas().round(2))
lc.plot.fit(dataset, "nee").savefig(sys.argv[1] if len(sys.argv) > 1 else "fit.png", dpi=150)

# All of this in one call, with a report: lc.calibrate(experiment).write("out"), or `landcal calibrate` in a shell.
