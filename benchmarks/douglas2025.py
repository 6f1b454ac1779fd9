"""Does exact 4DVar reach the minimum of J where 4DEnVar stops short, from the same prior and at what number of runs?

Data: the five twin experiments of Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361,
from the files of https://github.com/NatalieDouglas/4DEnVar. Their toy carbon model has two pools and four parameters;
both pools are seen at all 1001 times without noise, R = 0.1 diag(y). The prior is N(x_b, B), mean and covariance of
their published ensemble of 50 (200 in C2) parameter vectors. The farther the truth is from it, the harder the case:
ref, A, B, C1, C2.

Measured: the reduction of the RMSE of the two pools, from the run at x_b to that at the analysis, and what it costs.

* 4DEnVar: `FourDEnVar` from the published ensemble in physical space: the published result, by its closed form; its RMSE
  reduction against the size of ensembles drawn from the prior. Iterated: `IterativeFourDEnVar`, by runs only, to the same minimum.
* other ensemble methods, 50 members, from the prior: the worse of the two pools, and the runs.
* 4DVar: `LevenbergMarquardt` from x_b with its defaults, the same x_b, B and R. An evaluation is one linearisation (the
  run and the tangents of four parameters) with its batch of seven trial runs; all runs are counted as well, and the
  seconds of either relative to one run. Targets are an earlier bounded Gauss-Newton with finite differences on the same
  J: its reductions, less half a unit of their last digit, and 16, 14, 16 and 22 evaluations; it got stuck in C2.
* SciPy: `least_squares` ("trf", finite differences) on the same whitened residuals, free and within the bounds.
* starts: `MultiStart` in C2, and the share of random draws of the prior from which the minimum is found.
* bounded: the same prior as a Gaussian copula that is truncated at the bounds of the paper; a different J.
* truth: error of the analysis in standard deviations of its posterior (largest of four); with noise from R added, how
  often the truth lies in the 90 % interval of each parameter, and its mean squared distance, which should be one.

What was tried: evaluations from x_b in ref, A, B, C1, C2, and the share of 48 random starts that reach the minimum.

    LevenbergMarquardt as it is                          9,  9,  8,  9,  7    97 %
    GaussNewton as it is (line search)                   9,  7,  6,  7,  7    97 %
    Marquardt's scaling by the diagonal of G'G          11, 10,  7, 14, 11    96 %
    first damping relative to the mean eigenvalue        9,  7,  7,  9, 10    97 %
    dampings a factor of 100 apart                       7,  8,  7, 11,  6    97 %
    dampings fixed, relative to the largest eigenvalue   7,  9,  6,  -,  -    60 %
    four of these and three fractions of the full step   7,  7,  6,  8,  7    97 %

In B, C1 and C2 the full step from x_b makes rates negative and J as large as 1e192, so it has to be damped by orders of
magnitude, shortened, or clipped; a solver that does any of it well converges in C2 as well, SciPy's in bounds and a
Gauss-Newton that is clipped at them included. C2 is no trap of J, only of some solvers: a logit transform of the bounds
with the Gaussian prior kept in x stuck at p2 = 5 in C1 and C2 under a Levenberg-Marquardt with one trial at a time.
The few starts that fail in ref and A are of a dormant biosphere; most end where p1 or p2 is negative or far out of
bounds. No change of the solver was needed. SciPy makes fewer single runs, as it tries one step at a time; but a batch
of seven trials costs about two runs, and so does a run with its four tangents, which leaves about the same time.
"""

import time
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
from douglas_cases import CASES, ENVAR_REF, POOLS, Experiment, experiment, within_bounds
from scipy.optimize import least_squares

from landcal_jax.ensemble import FourDEnVar, IterativeFourDEnVar
from landcal_jax.ensemble_kalman import EKI, ESMDA, ETKI, UnscentedKalmanInversion
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.models.optic import ACTIVE, BOUNDS
from landcal_jax.posterior import laplace
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, SolveError
from landcal_jax.solving import solve

QUANTILE = 1.6449  # of the standard normal: a 90 % interval
SIZES = (5, 10, 15, 20, 25, 30, 35, 40, 45)  # of the published curve


def four_d_en_var(case: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Analysis (4,) and posterior covariance (4, 4) of 4DEnVar as published, from the published ensemble."""
    solver = FourDEnVar(members=jnp.asarray(case.ensemble.T), space="physical", root="cholesky")
    result = solve(case.problem, solver, progress=False, throw=False)
    return result.details["analysis"], result.details["posterior_covariance"]


def iterated(case: Experiment) -> Result:
    """4DEnVar iterated, in the span of a drawn ensemble: four directions of four."""
    return solve(case.problem, IterativeFourDEnVar(), key=0, progress=False)


def spread(case: Experiment, result: Result) -> np.ndarray:
    """Posterior covariance (4, 4) in physical units of an ensemble solver."""
    L = np.linalg.cholesky(case.B)
    return L @ result.details["posterior_covariance"] @ L.T


def physical(result: Result) -> np.ndarray:
    """The four parameters of a result."""
    return np.array([float(result.theta[name]) for name in ACTIVE])


def posterior(case: Experiment, result: Result) -> np.ndarray:
    """Laplace covariance (4, 4) in physical units; x = x_b + L z with L the Cholesky factor of B."""
    L = np.linalg.cholesky(case.B)
    return L @ np.asarray(laplace(case.problem, result, draws=1).covariance) @ L.T


def evaluations(result: Result) -> int:
    """Linearisations, each of which brought its batch of trial runs."""
    return result.counts["jvp"] // len(ACTIVE)


def scipy_solve(case: Experiment, bounded: bool) -> tuple[float, int, int]:
    """J, evaluations and model runs of SciPy's trust-region solver with finite differences, from x_b."""
    L, runs = np.linalg.cholesky(case.B), 0

    def residuals(z):
        nonlocal runs
        runs += 1
        return np.asarray(_residuals(case.problem, jnp.asarray(z)))

    if bounded:
        end = least_squares(lambda x: residuals(np.linalg.solve(L, x - case.x_b)), case.x_b,
                            bounds=np.array(list(BOUNDS.values())).T)
    else:
        end = least_squares(residuals, np.zeros(len(L)))
    return float(end.cost), end.nfev, runs


@jax.jit
def _residuals(problem: Problem, z):
    return problem.residual_vector(z)


def report_case(bench: harness.Benchmark, name: str) -> Result:
    """Figures of one case without noise: 4DEnVar, 4DVar from x_b, SciPy, bounded prior, posterior."""
    case = experiment(name)
    published = case.published
    x_a, covariance = four_d_en_var(case)
    for pool, value, there in zip(POOLS, case.reduction(x_a), published.envar, strict=True):
        bench.figure(f"{name}: 4DEnVar, {pool}", value, "% less RMSE", f">= {there - 0.05:.2f}")
    if name == "ref":
        bench.figure("ref: 4DEnVar, x_a from the published", np.abs(x_a - ENVAR_REF).max(), "1", "<= 1e-6")
    again = iterated(case)
    for pool, value in zip(POOLS, case.reduction(physical(again)), strict=True):
        bench.figure(f"{name}: iterated 4DEnVar, {pool}", value, "% less RMSE", ">= 99")
    bench.figure(f"{name}: iterated 4DEnVar, forward runs", again.counts["forward"], "1")
    result = solve(case.problem, LevenbergMarquardt(), progress=False)
    bench.figure(f"{name}: iterated 4DEnVar, J - J(4DVar)", again.cost - result.cost, "1")
    x = physical(result)
    for pool, value, there in zip(POOLS, case.reduction(x), published.reduction, strict=True):
        bench.figure(f"{name}: 4DVar, {pool}", value, "% less RMSE", f">= {there - 0.005:.3f}")
    target = published.evaluations and f"<= {published.evaluations}"
    bench.figure(f"{name}: 4DVar, J", result.cost, "1")
    bench.figure(f"{name}: 4DVar, evaluations", evaluations(result), "1", target)
    bench.figure(f"{name}: 4DVar, forward runs", result.counts["forward"], "1")
    bench.figure(f"{name}: 4DVar, tangents", result.counts["jvp"], "1")
    for words, bounded in (("SciPy", False), ("SciPy in bounds", True)):
        cost, number, runs = scipy_solve(case, bounded)
        bench.figure(f"{name}: {words}, J - J(4DVar)", cost - result.cost, "1")
        bench.figure(f"{name}: {words}, evaluations", number, "1")
        bench.figure(f"{name}: {words}, forward runs", runs, "1")
    inside = solve(within_bounds(case), LevenbergMarquardt(), progress=False)
    bench.figure(f"{name}: bounded, worse pool", case.reduction(physical(inside)).min(), "% less RMSE")
    bench.figure(f"{name}: bounded, evaluations", evaluations(inside), "1")
    error = np.abs(x - published.truth) / np.sqrt(np.diag(posterior(case, result)))
    bench.figure(f"{name}: 4DVar, truth", error.max(), "sd")
    bench.figure(f"{name}: 4DEnVar, truth", (np.abs(x_a - published.truth) / np.sqrt(np.diag(covariance))).max(), "sd")
    return result


def report_starts(bench: harness.Benchmark, minima: dict[str, float], number: int) -> None:
    """Multi-start in C2, and the share of random starts of each case that end in its minimum."""
    case = experiment("C2")
    result = solve(case.problem, MultiStart(LevenbergMarquardt()), key=0, progress=False)
    for pool, value, there in zip(POOLS, case.reduction(physical(result)), case.published.reduction, strict=True):
        bench.figure(f"C2: multi-start, {pool}", value, "% less RMSE", f">= {there - 0.005:.3f}")
    bench.figure("C2: multi-start, forward runs", result.counts["forward"], "1")
    solver = MultiStart(LevenbergMarquardt(), number=number + 1, candidates=None)
    for name, minimum in minima.items():
        ends = solve(experiment(name).problem, solver, key=1, progress=False).details["end_cost"][1:]
        bench.figure(f"{name}: starts in the minimum", 100 * np.mean(ends < minimum * (1 + 1e-6)), "%")


def report_noise(bench: harness.Benchmark, names: list[str], seeds: int) -> None:
    """Noisy observations: RMSE to the truth, and whether the posterior holds the true parameters."""
    inside: list[np.ndarray] = []
    distance: dict[str, list[float]] = {"4DVar": [], "4DEnVar": [], "iterated 4DEnVar": []}
    for name in names:
        clean, ratios, spent = experiment(name), [], []
        for seed in range(seeds):
            case = clean.noisy(seed)
            result = solve(case.problem, LevenbergMarquardt(), progress=False)
            again = iterated(case)
            ends = {"4DVar": (physical(result), posterior(case, result)), "4DEnVar": four_d_en_var(case),
                    "iterated 4DEnVar": (physical(again), spread(case, again))}
            for words, (x, covariance) in ends.items():
                error = x - case.published.truth
                distance[words].append(error @ np.linalg.solve(covariance, error) / len(error))
                if words == "4DVar":
                    inside.append(np.abs(error) < QUANTILE * np.sqrt(np.diag(covariance)))
            ratios.append(case.rmse(ends["4DEnVar"][0]) / case.rmse(ends["4DVar"][0]))
            spent.append(evaluations(result))
        for pool, ratio in zip(POOLS, np.median(ratios, axis=0), strict=True):
            bench.figure(f"{name}, noise: RMSE 4DEnVar / 4DVar, {pool}", ratio, "1", "> 1")
        bench.figure(f"{name}, noise: most evaluations", max(spent), "1")
    bench.figure("noise: truth in 90 % intervals", 100 * np.mean(inside), "%", ">= 85")
    for words, values in distance.items():
        bench.figure(f"noise: {words}, squared distance of the truth", np.mean(values), "1")


def report_ensembles(bench: harness.Benchmark, names: list[str], seeds: int) -> None:
    """The worse pool and the runs of other ensemble methods: median over seeds; a run of NaN counts as no reduction."""
    solvers = {"EKI": EKI(size=50), "ETKI": ETKI(size=50), "ESMDA": ESMDA(size=50), "UKI": UnscentedKalmanInversion(),
               "transform 4DEnVar": IterativeFourDEnVar(size=50, scaling=None)}
    for name in names:
        case = experiment(name)
        for words, solver in solvers.items():
            worse, runs = [], []
            for seed in range(1 if words == "UKI" else seeds):
                try:
                    result = solve(case.problem, solver, key=seed, progress=False)
                except (SolveError, RuntimeError):
                    worse.append(0.0)
                    continue
                worse.append(np.nan_to_num(case.reduction(physical(result)), nan=0.0).min())
                runs.append(result.counts["forward"])
            bench.figure(f"{name}: {words}, worse pool", np.median(worse), "% less RMSE")
            bench.figure(f"{name}: {words}, forward runs", np.median(runs) if runs else 0, "1")


def report_sizes(bench: harness.Benchmark, names: list[str], repeats: int) -> None:
    """RMSE reduction against the size of the ensemble, drawn from the prior anew for each repeat: median of the worse pool."""
    for name in names:
        case = experiment(name)
        for size in SIZES:
            solver = FourDEnVar(size=size, exact=False)
            ends = [solve(case.problem, solver, key=seed, progress=False, throw=False) for seed in range(repeats)]
            worse = [np.nan_to_num(case.reduction(physical(end)), nan=0.0, neginf=0.0).min() for end in ends]
            bench.figure(f"{name}: 4DEnVar of {size}, worse pool", np.median(worse), "% less RMSE")


def report_seconds(bench: harness.Benchmark) -> None:
    """What an evaluation costs in runs of the model."""
    problem, n = experiment("ref").problem, len(ACTIVE)
    z, trials = jnp.full(n, 0.01), 0.01 * jnp.arange(1.0, 8.0)[:, None] * jnp.ones(n)
    run, jacobian = jax.jit(lambda z: problem.cost(z)), jax.jit(lambda z: problem.jacobian(z))
    batch = jax.jit(jax.vmap(problem.cost))
    calls = {"run": lambda: run(z), "linearisation": lambda: jacobian(z), "trials": lambda: batch(trials)}
    timing = harness.interleave(calls, 5 if bench.quick else 101, clock=time.process_time)
    one = timing["run"].median
    bench.figure("one run", 1e3 * one, "ms")
    bench.figure("linearisation / run", timing["linearisation"].median / one, "1")
    bench.figure("seven trials / run", timing["trials"].median / one, "1")
    both = (timing["linearisation"].median + timing["trials"].median) / one
    bench.figure("evaluation / run (differences need 5)", both, "1", "<= 5")


def draw(names: list[str], results: dict[str, Result], path: Path) -> None:
    """Truth, prior, 4DEnVar and 4DVar of both pools, one row a case."""
    from landcal_jax.plot_style import PRIOR, new_figure, tidy

    figure = new_figure(11.0, 1.0 + 1.9 * len(names))
    axes = figure.subplots(len(names), 2, sharex=True, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        case = experiment(name)
        x_a = four_d_en_var(case)[0]
        lines: list[tuple[str, Any, dict[str, Any]]] = [
            ("truth, observed", case.truth, {"color": "#b5b5b5", "linewidth": 4.0}),
            ("prior mean", case.trajectory(case.x_b), {"color": PRIOR, "linewidth": 1.0, "linestyle": "--"}),
            ("4DEnVar", case.trajectory(x_a), {"color": "#cc79a7", "linewidth": 1.2}),
            ("4DVar", case.trajectory(physical(results[name])), {"color": "#0072b2", "linewidth": 1.0})]
        both = case.reduction(x_a), case.reduction(physical(results[name]))
        for column, (axis, pool) in enumerate(zip(row, POOLS, strict=True)):
            for label, series, style in lines:
                axis.plot(series[:, column], label=label, **style)
            less = f"RMSE less by {both[0][column]:.1f} % (4DEnVar), {both[1][column]:.2f} % (4DVar)"
            tidy(axis, "time step" if name == names[-1] else "", f"{pool}, pool units", f"{name}: {less}")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncol=4, fontsize=9, frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure and report."""
    bench = harness.Benchmark("douglas2025", __doc__)
    names = ["ref", "C2"] if bench.quick else list(CASES)
    results = {name: report_case(bench, name) for name in names}
    report_starts(bench, {name: result.cost for name, result in results.items()}, 8 if bench.quick else 48)
    report_noise(bench, names, 2 if bench.quick else 20)
    report_ensembles(bench, names, 1 if bench.quick else 5)
    report_sizes(bench, names[:1] if bench.quick else names, 2 if bench.quick else 20)
    report_seconds(bench)
    if bench.figures_folder is not None:
        draw(names, results, bench.figures_folder / "douglas2025_trajectories.png")
    bench.finish()


if __name__ == "__main__":
    main()
