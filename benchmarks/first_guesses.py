"""Which solver gets how far with how many model runs, from sixteen first guesses? DALEC at real sites, the truth known.

The design of Bastrikov et al. (2018), Geoscientific Model Development 11, 4739, who compared L-BFGS with a genetic algorithm for
ORCHIDEE: pseudo-observations of NEE and latent heat, sixteen random first guesses (here a Latin hypercube of the prior), single-site and
multi-site. Problems: `first_guess_cases`.

Measured: median and quartiles over the first guesses of J, of the reduction of RMSE to the noise-free truth and of the error of the
parameters (nearest truth, days of the year modulo a year), against work in model-run equivalents: run 1, tangent 1, gradient 3.
Differences are charged as the runs they are. Seconds are those on the wall.

Solvers, each with its defaults where nothing is said: L-BFGS with exact gradients and with forward differences, Gauss-Newton,
Levenberg-Marquardt (33 tangents and 8 runs an iteration); 4DEnVar, of as many members as the budget allows, iterated 4DEnVar, EKI and
ETKI of 50; the genetic algorithm of 30 in 40 generations (1122 runs), CMA-ES; multi-starts and hybrids as below. Methods that draw their members
from the prior do not know the first guess: their spread is over seeds.

Target: a multi-start with exact gradients has, with a tenth of the runs of the genetic algorithm, a J as low as that has at its end.
"""

import harness
import numpy as np
import optax
import xarray as xr
from first_guess_cases import SITES, case

from landcal_jax import plot_comparison
from landcal_jax.comparison import ByDifferences, Entry, Hybrid, compare, table
from landcal_jax.ensemble import FourDEnVar, IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ETKI
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt, MultiStart, Optax
from landcal_jax.search import CMAES, GeneticAlgorithm

TENTH = 112  # run equivalents, a tenth of the 1122 runs of the genetic algorithm
BUDGETS = (28, 56, TENTH, 224, 448, 10 * TENTH + 2)


def signs(solver=optax.rprop(0.1, max_step_size=1.0)) -> Optax:
    """Steps by the sign of each derivative, which grow while it stays (Riedmiller & Braun 1993): no scale of J can mislead them."""
    return Optax(solver, steps_per_call=1)


def solvers() -> dict[str, Entry]:
    """The solvers by name."""
    starts = MultiStart(signs(), number=2, candidates=20, explore=1, finalists=1)
    return {
        "L-BFGS": LBFGS(),
        "L-BFGS, differences": ByDifferences(LBFGS()),
        "Gauss-Newton": GaussNewton(),
        "Levenberg-Marquardt": LevenbergMarquardt(),
        "multi-start": starts,
        "multi-start LM": MultiStart(LevenbergMarquardt(), number=4, candidates=20, explore=1, finalists=1),
        "4DEnVar": lambda budget: FourDEnVar(size=budget - 2),
        "iterated 4DEnVar": IterativeFourDEnVar(),
        "EKI": EKI(size=50),
        "ETKI": ETKI(size=50),
        "GA": GeneticAlgorithm(population=30, generations=40),
        "CMA-ES": CMAES(),
        "GA, then LM": Hybrid(GeneticAlgorithm(population=30, generations=40), LevenbergMarquardt(), runs=TENTH),
        "multi-start, then LM": Hybrid(starts, LevenbergMarquardt(), runs=2 * TENTH),
    }


def report(bench: harness.Benchmark, name: str, ds: xr.Dataset) -> None:
    """Figures of one case: medians over the first guesses."""
    for budget in (TENTH, BUDGETS[-1]):
        rows = table(ds, budget)
        print(f"\n{name}, {budget} run equivalents\n{rows.to_string(float_format='{:.4g}'.format)}")
        for solver, row in rows.iterrows():
            for column, unit in (("J", "1"), ("J, 25 %", "1"), ("J, 75 %", "1"), ("less RMSE nee [%]", "%"),
                                 ("less RMSE latent_heat [%]", "%"), ("error [sd]", "prior sd"), ("runs", "1"), ("run s", "s")):
                bench.figure(f"{name}, {budget} runs: {solver}, {column}", row[column], unit)
    at_tenth, at_end = (float(ds["cost"].sel(solver=solver, budget=budget).median("guess"))
                        for solver, budget in (("multi-start", TENTH), ("GA", BUDGETS[-1])))
    bench.figure(f"{name}: J, multi-start at a tenth of the runs / GA at its end", at_tenth / at_end, "1", "<= 1")
    wins = ds["cost"].sel(solver="multi-start", budget=TENTH) <= ds["cost"].sel(solver="GA", budget=BUDGETS[-1])
    bench.figure(f"{name}: first guesses from which that holds", 100 * float(wins.mean()), "%")


def draw(bench: harness.Benchmark, name: str, ds: xr.Dataset) -> None:
    """All figures of one case."""
    figures = {
        "cost": plot_comparison.against_runs(ds, "cost"), "reduction": plot_comparison.against_runs(ds, "reduction_truth"),
        "error": plot_comparison.against_runs(ds, "parameter_error"), "spread": plot_comparison.spread(ds),
        "spread_cost": plot_comparison.spread(ds, "cost"), "recovery": plot_comparison.recovery(ds), "seconds": plot_comparison.seconds(ds)}
    for which, figure in figures.items():
        figure.savefig(bench.figures_folder / f"first_guesses_{name.replace(' ', '_')}_{which}.png", dpi=150)


def main() -> None:
    """Measure and report."""
    bench = harness.Benchmark("first_guesses", __doc__, cores=None)
    for name, sites in SITES.items():
        one = case(sites)
        chosen = solvers()
        if bench.quick:
            chosen = {solver: chosen[solver] for solver in ("Levenberg-Marquardt", "multi-start", "4DEnVar", "GA")}
        ds = compare(one.problem, chosen, BUDGETS[2::3] if bench.quick else BUDGETS, first_guesses=2 if bench.quick else 16,
                     truth_z=one.truths, key=0)
        report(bench, name, ds)
        if bench.figures_folder is not None:
            draw(bench, name, ds)
            ds.to_netcdf(bench.figures_folder / f"first_guesses_{name.replace(' ', '_')}.nc")
        if bench.quick:
            break
    bench.finish()


if __name__ == "__main__":
    main()
