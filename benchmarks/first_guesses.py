"""Which solver gets how far with how many model runs, from sixteen first guesses? DALEC at real sites, the truth known.

The design of Bastrikov et al. (2018), Geoscientific Model Development 11, 4739, who compared L-BFGS with a genetic algorithm for
ORCHIDEE: pseudo-observations of NEE and latent heat, sixteen random first guesses (here a Latin hypercube of the prior), single-site and
multi-site. Problems: `first_guess_cases`.

Measured: median and quartiles over the first guesses of J, of the reduction of RMSE to the noise-free truth and of the error of the
parameters (nearest truth, days of the year modulo a year), against work in model-run equivalents: run 1, tangent 1, gradient 3.
Differences are charged as the runs they are. Seconds are those on the wall.

Solvers, each with its defaults where nothing is said: L-BFGS with exact gradients and with forward differences, Gauss-Newton,
Levenberg-Marquardt (33 tangents and 8 runs an iteration); 4DEnVar, of as many members as the budget allows, iterated 4DEnVar, EKI and
ETKI of 50; the genetic algorithm of 30 in 40 generations (1122 runs), CMA-ES. Multi-starts take the first guess and the two lowest
of 14 points of the prior, and after two iterations the best goes on: with resilient propagation (`Rprop`, steps by the signs of the
derivatives), and with Levenberg-Marquardt. Hybrids: a tenth of the genetic algorithm, or twice that of the multi-start, then
Levenberg-Marquardt. Methods that draw their members from the prior do not know the first guess: their spread is over seeds.

Target: a multi-start with exact gradients has, with a tenth of the runs of the genetic algorithm, a J as low as that has at its end.

What was tried for it (one site, three years, 33 parameters, 6 to 32 first guesses): median J at 112 run equivalents, where the genetic
algorithm ended at 3600 after 1122.

    Levenberg-Marquardt, from the first guess            12700    two iterations: 33 tangents are dear before they pay
    the same from the best of 20 points                   5800
    its Jacobian updated by Broyden's formula             5300    from the best of 20 points
    L-BFGS, from the first guess                          6900    and of J's logarithm or root, no better
    L-BFGS from the best of 20, and from both             3700, 5800
    Adam with steps of 0.1, 0.2, 0.4                      5200, 5600, 7400
    steps of Polyak's length along the gradient           7300
    optax.rprop from the best of 12, of 20                4400, 4900    an iteration is charged 4: it runs J once more
    Rprop, the same without that run                      2300
    Rprop with first steps of 0.05 to 0.2, growing by 1.2 or 1.5, up to 0.4 or 1, from 6 to 30 points: 2100 to 2900

With twelve parameters free (photosynthesis, phenology, allocation, turnover) and the others at the truth an iteration of
Levenberg-Marquardt is 20: at 112, one site and four, it has 2700 and 10200 from the first guess, L-BFGS 2300 and 14200, the
genetic algorithm at its end 2200 and 6900: short of the target. At 200 they are ahead of it, with 1500 and 5600, 1300 and 6800.
Whoever counts seconds needs none of it: the 41 run equivalents of an iteration of Levenberg-Marquardt with all parameters are two
batches.
"""

from pathlib import Path

import harness
import pandas as pd
import xarray as xr
from first_guess_cases import SITES, case

from landcal_jax import plot_comparison
from landcal_jax.comparison import ByDifferences, Hybrid, compare, table
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ETKI
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt, MultiStart
from landcal_jax.resilient import Rprop
from landcal_jax.search import CMAES, GeneticAlgorithm

TENTH = 112  # run equivalents, a tenth of the 1122 runs of the genetic algorithm
BUDGETS = (28, 56, TENTH, 224, 448, 10 * TENTH + 2)
COLUMNS = {"J": "1", "less RMSE nee [%]": "%", "less RMSE latent_heat [%]": "%", "error [sd]": "prior sd"}
GENETIC = GeneticAlgorithm(population=30, generations=40)
STARTS = MultiStart(Rprop(), number=3, candidates=14, explore=2, finalists=1)
SOLVERS = {
    "L-BFGS": LBFGS(),
    "L-BFGS, differences": ByDifferences(LBFGS()),
    "Gauss-Newton": GaussNewton(),
    "LM": LevenbergMarquardt(),
    "multi-start": STARTS,
    "multi-start LM": MultiStart(LevenbergMarquardt(), number=3, candidates=14, explore=2, finalists=1),
    "4DEnVar": lambda budget: FourDEnVar(size=budget - 2),
    "iterated 4DEnVar": IterativeFourDEnVar(),
    "EKI": EKI(size=50),
    "ETKI": ETKI(size=50),
    "GA": GENETIC,
    "CMA-ES": CMAES(),
    "GA, then LM": Hybrid(GENETIC, LevenbergMarquardt(), runs=TENTH),
    "multi-start, then LM": Hybrid(STARTS, LevenbergMarquardt(), runs=2 * TENTH)}
QUICK = ("LM", "multi-start", "4DEnVar", "GA")


def report(bench: harness.Benchmark, name: str, ds: xr.Dataset) -> None:
    """Medians over the first guesses: all in two tables, the main ones as figures."""
    for budget in (TENTH, BUDGETS[-1]):
        rows = table(ds, budget)
        print(f"\n{name}, {budget} run equivalents\n{rows.to_string(float_format='{:.4g}'.format)}", flush=True)
        for column, unit in COLUMNS.items():
            for solver, value in rows[column].items():
                bench.figure(f"{name}, {budget}: {solver}, {column}", value, unit)
    multi, genetic = ds["cost"].sel(solver="multi-start", budget=TENTH), ds["cost"].sel(solver="GA", budget=BUDGETS[-1])
    bench.figure(f"{name}: J, multi-start at a tenth of the runs / GA", float(multi.median() / genetic.median()), "1", "<= 1")
    bench.figure(f"{name}: first guesses from which that holds", 100 * float((multi <= genetic).mean()), "%")


def draw(ds: xr.Dataset, folder: Path, stem: str) -> None:
    """All figures of one case, and all that was found: everything as netCDF, the tables of all budgets as CSV."""
    plots = plot_comparison
    figures = {
        "cost": plots.against_runs(ds), "reduction": plots.against_runs(ds, "reduction_truth"),
        "error": plots.against_runs(ds, "parameter_error"), "spread": plots.spread(ds), "spread_tenth": plots.spread(ds, budget=TENTH),
        "spread_cost": plots.spread(ds, "cost"), "recovery": plots.recovery(ds), "seconds": plots.seconds(ds)}
    for which, figure in figures.items():
        figure.savefig(folder / f"{stem}_{which}.png", dpi=150)
    ds.to_netcdf(folder / f"{stem}.nc")
    pd.concat({budget: table(ds, budget) for budget in ds["budget"].values}, names=["budget"]).to_csv(folder / f"{stem}.csv")


def main() -> None:
    """Measure and report."""
    bench = harness.Benchmark("first_guesses", __doc__, cores=None)
    solvers = {name: SOLVERS[name] for name in QUICK} if bench.quick else SOLVERS
    budgets, guesses = (BUDGETS[2::3], 2) if bench.quick else (BUDGETS, 16)
    for name, sites in list(SITES.items())[: 1 if bench.quick else None]:
        one = case(sites)
        ds = compare(one.problem, solvers, budgets, first_guesses=guesses, truth_z=one.truths, key=0)
        report(bench, name, ds)
        if bench.figures_folder is not None:
            draw(ds, bench.figures_folder, f"first_guesses_{name.replace(' ', '_')}")
    bench.finish()


if __name__ == "__main__":
    main()
