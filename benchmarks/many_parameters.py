"""With 54 parameters and observations that are integrals over sites, what do exact gradients, finite differences and
ensembles reach at equal budgets of model runs?

Design: that of Beylat et al. (2025), Geoscientific Model Development 18, 7501, a twin experiment in which atmospheric CO2
is assimilated to find parameters of the plant functional types of a land model. There 4DEnVar was better than 4DVar with
gradients by finite differences, in computing time, fit and recovery of parameters. Here the model is DALEC2 and the
transport is made up (see `many_cases`: 24 sites, six types with nine parameters each, ten stations, 1530 weekly
values), and 4DVar has exact derivatives as well. Truths are drawn from the prior, each with noise of its own from R. All
methods have the same J, with the prior and the R that the truth was made with, and begin at the prior mean. Two priors:
the standard deviation is 25 % of the range of each parameter, or 10 %, where the model is nearly linear over the prior.

Work is counted in model-run equivalents, as everywhere: a run 1, a tangent 1, an adjoint gradient 3. Methods:

* 4DVar: L-BFGS with the adjoint (about 4 equivalents an iteration), Gauss-Newton and Levenberg-Marquardt with 54 tangents
  (62 an iteration, the seven trials among them), Gauss-Newton without a matrix (conjugate gradients on tangents and
  adjoints), L-BFGS with finite differences (about 57).
* 4DEnVar of as many members as the budget has; ten for each parameter are usual, 540. Iterated 4DEnVar of 60 members.
* EKI and ETKI to t = 1 with adaptive steps, of a quarter of the budget in members, since they take three or four steps.
* ETKI of 60 members and then Gauss-Newton.

Measured at each budget, median and quartiles over the truths: J above the minimum (the lowest J that any method found);
reduction of the RMSE to the truth, without noise, of the integrals that are observed, and of the weekly NEE of the sites,
which nobody observes; error of the parameters in prior standard deviations, and the share of them that are nearer to the
truth than the prior mean; both also for those "seen", whose Laplace posterior at the truth is less than half as wide as the
prior. Of the methods with a posterior: its width against that of Laplace at the minimum, and the mean squared error of
the parameters in its own standard deviations, one if the width is right.

What the figures cannot say: DALEC2 costs so little that seconds are those of the algorithms and of the load of the
machine. Where a run takes minutes only the counts matter, and an ensemble has all its members at once on as many cores,
while L-BFGS waits for one gradient after the other.

What was tried: Levenberg-Marquardt with finite differences. A column of the Jacobian by a difference is charged as a tangent
is, and it took the same iterations to the same minimum. By this count differences are dear for methods that need gradients
only; what exact tangents save is time (in a batch one costs less than a run) and the choice of a step.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness
import jax.numpy as jnp
import many_cases
import numpy as np
import xarray as xr
from many_cases import Design

from landcal_jax.comparison import ByDifferences, Hybrid, compare
from landcal_jax.ensemble import FourDEnVar
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ETKI
from landcal_jax.gradient import LBFGS, GaussNewton, LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.plot_style import new_figure, tidy
from landcal_jax.posterior import from_ensemble
from landcal_jax.solving import solve

BUDGETS = (90, 135, 200, 270, 380, 540, 760, 1080, 1500, 2160, 3200, 5400, 10800)
SIZED = (135, 270, 540, 1080)  # budgets for which an ensemble is drawn anew
REPORTED = (270, 540, 1080, 10800)
SEEN = 0.5  # posterior / prior standard deviation below which a parameter counts as seen by the stations
PRIORS = {"wide prior": 0.25, "narrow prior": 0.10}  # standard deviation, share of the range
TRUTHS = {"wide prior": 5, "narrow prior": 3}
FLOOR, LIMITS, TICKS = 1e-2, (0.0, 100.0), (100, 300, 1000, 3000, 10000)  # figures: J above the minimum, RMSE reductions [%], budgets
QUANTILE = 1.6449  # of the standard normal: a 90 % interval
GRADIENTS = "4DVar, L-BFGS, adjoint"
EXACT = "4DVar, Gauss-Newton, tangents"
DIFFERENCES = "4DVar, L-BFGS, differences"
PUBLISHED = "4DEnVar"
STYLES: dict[str, dict[str, Any]] = {
    GRADIENTS: {"color": "#0072b2"}, EXACT: {"color": "#009e73"},
    "4DVar, Levenberg-Marquardt, tangents": {"color": "#009e73", "linestyle": "--"},
    "4DVar, Gauss-Newton, matrix-free": {"color": "#56b4e9", "linestyle": "--"},
    DIFFERENCES: {"color": "#444444"},
    PUBLISHED: {"color": "#d55e00", "marker": "o", "markersize": 4}, "iterated 4DEnVar": {"color": "#e69f00", "linestyle": "--"},
    "EKI": {"color": "#cc79a7", "marker": "s", "markersize": 3.5}, "ETKI": {"color": "#8a2d6b", "marker": "^", "markersize": 4},
    "ETKI, then Gauss-Newton": {"color": "#8a6d1b", "linestyle": "-."}}


def methods(quick: bool) -> dict[str, Any]:
    """What is compared, by name; few of them for a quick run, which compiles more than it runs."""
    def sized(make):
        return lambda budget: make(budget) if budget in SIZED else None

    every = {
        GRADIENTS: LBFGS(),
        EXACT: GaussNewton(),
        "4DVar, Levenberg-Marquardt, tangents": LevenbergMarquardt(),
        "4DVar, Gauss-Newton, matrix-free": GaussNewton(dense_limit=0),
        DIFFERENCES: ByDifferences(LBFGS()),
        PUBLISHED: sized(lambda budget: FourDEnVar(size=budget - 2)),
        "iterated 4DEnVar": IterativeFourDEnVar(size=60),
        "EKI": sized(lambda budget: EKI(size=budget // 4 - 2)),
        "ETKI": sized(lambda budget: ETKI(size=budget // 4 - 2)),
        "ETKI, then Gauss-Newton": Hybrid(ETKI(size=60), GaussNewton())}
    return {name: every[name] for name in (EXACT, PUBLISHED, "ETKI")} if quick else every


def one_truth(design: Design, seed: int, solvers: Mapping[str, Any], budgets: tuple[int, ...]) -> xr.Dataset:
    """`compare` for the truth `seed`, with draws of its own; `nee_reduction` [%] is that of the sites' NEE, beside the integrals."""
    twin = many_cases.twin(design, seed)
    ds = compare(twin, solvers, budgets, key=seed, progress=False).isel(guess=0)
    z = ds["z"].values.reshape(-1, design.problem.space.size)
    Z = jnp.asarray(np.concatenate([z, ds["first_z"].values[None], np.asarray(twin.z)[None]]))
    nee = np.asarray(many_cases.clean_many(design, Z)[1])
    rmse = np.sqrt(np.mean((nee - nee[-1]) ** 2, axis=(1, 2)))
    ds["nee_reduction"] = ("solver", "budget"), 100 * (1 - rmse[:-2] / rmse[-2]).reshape(ds["cost"].shape)
    return ds


def race(design: Design, truths: int, solvers: Mapping[str, Any], budgets: tuple[int, ...]) -> xr.Dataset:
    """All truths along the dimension `case`; `above` is J above the lowest that any method found for the same truth."""
    parts = [one_truth(design, seed, solvers, budgets) for seed in range(truths)]
    ds = xr.concat(parts, "case", data_vars="all", coords="minimal", compat="override")
    ds["above"] = ds["cost"] - ds["cost"].min(("solver", "budget"))
    return ds


def posteriors(design: Design, ds: xr.Dataset) -> dict[str, np.ndarray]:
    """Method -> (truth, 3): median width of the parameters against Laplace at the minimum, mean squared error in posterior
    standard deviations, share of the true parameters in 90 % intervals."""
    solvers = {"4DEnVar of 538": FourDEnVar(size=538), "iterated 4DEnVar": IterativeFourDEnVar(size=60),
               "EKI of 179": EKI(size=179), "ETKI of 179": ETKI(size=179)}
    found: dict[str, list[tuple[float, float, float]]] = {"Laplace": [], **{name: [] for name in solvers}}
    for seed in range(ds.sizes["case"]):
        twin = many_cases.twin(design, seed)
        one = ds.isel(case=seed)
        best = one["cost"].fillna(np.inf).argmin(("solver", "budget"))
        exact = laplace(twin.problem, jnp.asarray(one["z"].isel(best).values), draws=1)
        widths = {"Laplace": (exact.centre, np.sqrt(np.diag(exact.covariance)))}
        for name, solver in solvers.items():
            posterior = from_ensemble(twin.problem, solve(twin.problem, solver, key=seed, progress=False, throw=False))
            widths[name] = posterior.centre, np.sqrt(np.diag(posterior.covariance))
        for name, (centre, sd) in widths.items():
            error = np.abs(np.asarray(centre - twin.z)) / sd
            ratio = np.median(sd / widths["Laplace"][1])
            found[name].append((float(ratio), float(np.mean(error**2)), float(np.mean(error < QUANTILE))))
    return {name: np.array(rows) for name, rows in found.items()}


def report_race(bench: harness.Benchmark, words: str, ds: xr.Dataset) -> None:
    """Figures of one prior: every method at the budgets that are reported."""
    seen = ds["posterior_sd"] < SEEN
    improved = (ds["parameter_error"] < abs(ds["first_z"] - ds["truth_z"])).where(ds["parameter_error"].notnull())
    bench.figure(f"{words}: J at the prior mean", ds["first_cost"].median(), "1")
    bench.figure(f"{words}: J at the minimum", (ds["cost"] - ds["above"]).median(), "1")
    bench.figure(f"{words}: J at the truth", ds["truth_cost"].median(), "1")
    bench.figure(f"{words}: parameters seen", seen.sum("parameter").median(), "of 54")
    for solver in ds["solver"].values:
        for budget in (budget for budget in REPORTED if budget in ds["budget"]):
            at, name = ds.sel(solver=solver, budget=budget), f"{words}: {solver}, {budget}"
            if not np.isfinite(at["cost"]).any():
                continue
            for quantile in (0.25, 0.5, 0.75):
                bench.figure(f"{name}: J above minimum, quantile {quantile:g}", at["above"].quantile(quantile), "1")
            bench.figure(f"{name}: integrals", at["reduction_truth"].median(), "% less RMSE")
            bench.figure(f"{name}: NEE of sites", at["nee_reduction"].median(), "% less RMSE")
            error, better = at["parameter_error"], improved.sel(solver=solver, budget=budget)
            bench.figure(f"{name}: parameter error", error.median("parameter").median(), "prior sd")
            bench.figure(f"{name}: parameter error, seen", error.where(seen).median("parameter").median(), "prior sd")
            bench.figure(f"{name}: parameters improved", 100 * better.mean(), "%")
            bench.figure(f"{name}: parameters improved, seen", 100 * better.where(seen).mean(), "%")
            bench.figure(f"{name}: equivalents", at["runs"].median(), "1")
            bench.figure(f"{name}: seconds without compiling", at["seconds"].sel(part="run").median(), "s")


def report_reach(bench: harness.Benchmark, words: str, ds: xr.Dataset) -> None:
    """The smallest budget at which the median J is within 1 of the minimum, 1.4 posterior standard deviations away along one axis."""
    for solver in ds["solver"].values:
        median = ds["above"].sel(solver=solver).median("case", skipna=False)
        within = ds["budget"].values[np.asarray(median < 1)]
        bench.figure(f"{words}: {solver}: budget for J within 1", within[0] if len(within) else np.nan, "1")


def draw_curves(races: Mapping[str, xr.Dataset], path: Path) -> None:
    """J above the minimum and both reductions against the budget, one row a prior: medians, quartiles shaded."""
    figure = new_figure(12.5, 1.2 + 3.2 * len(races))
    axes = figure.subplots(len(races), 3, sharex=True, squeeze=False)
    what = (("above", f"J above its minimum ({FLOOR:g}: or less)"), ("reduction_truth", "RMSE of the integrals, reduction (%)"),
            ("nee_reduction", "RMSE of the sites' NEE, reduction (%)"))
    for row, (words, ds) in zip(axes, races.items(), strict=True):
        for axis, (name, label) in zip(row, what, strict=True):
            for solver, style in ((solver, STYLES[solver]) for solver in ds["solver"].values):
                values = ds[name].sel(solver=solver)
                values = values.isel(stream=0) if "stream" in values.dims else values
                values = values.clip(min=FLOOR) if name == "above" else values
                low, middle, high = (values.quantile(q, "case", skipna=False).values for q in (0.25, 0.5, 0.75))
                there = np.isfinite(middle)
                axis.plot(ds["budget"].values[there], middle[there], label=solver, **style)
                axis.fill_between(ds["budget"].values[there], low[there], high[there], color=style["color"], alpha=0.10, linewidth=0)
            axis.axvline(540, color="#888888", linewidth=0.7, linestyle=":")
            tidy(axis, "model-run equivalents" if axis in axes[-1] else "", label, words if name == "above" else "")
            axis.set_xscale("log")
            axis.set_xticks(TICKS, [f"{tick:,}".replace(",", " ") for tick in TICKS])
            axis.minorticks_off()
            if name == "above":
                axis.set_yscale("log")
            else:
                axis.set_ylim(*LIMITS)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncol=4, fontsize=8.5, frameon=False)
    figure.savefig(path, dpi=150)


def draw_recovery(ds: xr.Dataset, path: Path) -> None:
    """True against found parameters in prior standard deviations, all truths; colour: how well the stations see the parameter."""
    chosen = [(EXACT, int(ds["budget"][-1])), (GRADIENTS, 540), (DIFFERENCES, 540), (PUBLISHED, 540), ("ETKI", 540),
              (DIFFERENCES, int(ds["budget"][-1]))]
    chosen = [(solver, budget) for solver, budget in chosen if budget in ds["budget"] and solver in ds["solver"]]
    rows = -(-len(chosen) // 3)
    figure = new_figure(12.0, 0.6 + 3.6 * rows)
    axes = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat[len(chosen):]:
        axis.set_visible(False)
    for axis, (solver, budget) in zip(axes.flat, chosen, strict=False):
        at = ds.sel(solver=solver, budget=budget)
        found = axis.scatter(ds["truth_z"], at["z"], c=ds["posterior_sd"], s=14, cmap="viridis", vmin=0, vmax=1, linewidth=0)
        axis.plot([-3, 3], [-3, 3], color="#888888", linewidth=0.8)
        errors = at["parameter_error"]
        seen = errors.where(ds["posterior_sd"] < SEEN)
        title = f"{solver}, {budget} equivalents\nmedian error {errors.median():.2f}, of those seen {seen.median():.2f}"
        tidy(axis, "true, prior sd", "found, prior sd" if axis in axes[:, 0] else "", title)
    bar = figure.colorbar(found, ax=axes, shrink=0.6)
    bar.set_label("posterior / prior standard deviation", fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Race, report, draw."""
    bench = harness.Benchmark("many_parameters", __doc__, cores=None, cache=True)
    small = {"sites_per_pft": 1, "years": 1, "stations": 6} if bench.quick else {}
    priors = dict(list(PRIORS.items())[:1]) if bench.quick else PRIORS
    designs = {words: many_cases.design(share=share, **small) for words, share in priors.items()}
    budgets = BUDGETS[:2] if bench.quick else BUDGETS
    races = {}
    for words, design in designs.items():
        races[words] = race(design, 1 if bench.quick else TRUTHS[words], methods(bench.quick), budgets)
        report_race(bench, words, races[words])
        report_reach(bench, words, races[words])
    for words, design in designs.items():
        for name, rows in posteriors(design, races[words]).items():
            width, square, inside = np.median(rows, axis=0)
            bench.figure(f"{words}: posterior of {name}: width", width, "Laplace")
            bench.figure(f"{words}: posterior of {name}: squared error", square, "variance")
            bench.figure(f"{words}: posterior of {name}: truth in 90 % intervals", 100 * inside, "%")
    if bench.figures_folder is not None:
        draw_curves(races, bench.figures_folder / "many_parameters_budgets.png")
        draw_recovery(races[next(iter(races))], bench.figures_folder / "many_parameters_recovery.png")
    bench.finish()


if __name__ == "__main__":
    main()
