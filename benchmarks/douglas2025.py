"""Does exact 4DVar reach the minimum of J where 4DEnVar stops short, from the same prior and at what number of runs?

Data: the five twin experiments of Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361,
from the files of https://github.com/NatalieDouglas/4DEnVar. Their toy carbon model has two pools and four parameters;
both pools are seen at all 1001 times without noise, R = 0.1 diag(y). The prior is N(x_b, B), mean and covariance of
their published ensemble of 50 (200 in C2) parameter vectors. The farther the truth is from it, the harder the case:
ref, A, B, C1, C2.

Measured: the reduction of the RMSE of the two pools, from the run at x_b to that at the analysis, and what it costs.

* 4DEnVar: `FourDEnVar` from the published ensemble in physical space: the published result, by its closed form; its RMSE
  against the size of ensembles drawn from the prior, 20 of each size. Iterated: `IterativeFourDEnVar`, by runs only, to the same minimum.
* other methods by runs only (`douglas_methods.METHODS`; all from the published ensemble): the worse of the two pools, J, model runs.
* 4DVar: `LevenbergMarquardt` from x_b with its defaults, the same x_b, B and R. An evaluation is one linearisation (the
  run and the tangents of four parameters) with its batch of seven trial runs; all runs are counted as well, and the
  seconds of either relative to one run. Targets are an earlier bounded Gauss-Newton with finite differences on the same
  J: its reductions, less half a unit of their last digit, and 16, 14, 16 and 22 evaluations; it got stuck in C2.
* SciPy: `least_squares` ("trf", finite differences) on the same whitened residuals, free and within the bounds.
* starts: `MultiStart` in C2, and the share of random draws of the prior from which the minimum is found.
* bounded: the same prior as a Gaussian copula that is truncated at the bounds of the paper; a different J.
* truth: error of the analysis in standard deviations of its posterior (largest of four).
* noise: errors drawn from R are added to the observations, 20 seeds a case, for all methods: median RMSE of either pool to the
  truth, mean squared distance of the true parameters from the posterior (Mahalanobis, a parameter: 1 is right), how many
  of them lie in 90 % intervals, and median model runs, where a tangent is charged as one run and a gradient as three. A genetic
  algorithm and CMA-ES end without a posterior.

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

import harness
import jax
import jax.numpy as jnp
import numpy as np
from douglas_cases import CASES, ENVAR_REF, POOLS, Experiment, experiment, within_bounds
from douglas_methods import as_published, physical, posterior, report_methods, report_noise, report_sizes
from scipy.optimize import least_squares

from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.models.optic import ACTIVE, BOUNDS
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result
from landcal_jax.solving import solve


def four_d_en_var(case: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Analysis (4,) and posterior covariance (4, 4) of 4DEnVar as published, from the published ensemble."""
    result = solve(case.problem, as_published(case), progress=False, throw=False)
    return result.details["analysis"], result.details["posterior_covariance"]


def iterated(case: Experiment) -> Result:
    """4DEnVar iterated, in the span of a drawn ensemble: four directions of four."""
    return solve(case.problem, IterativeFourDEnVar(), key=0, progress=False)


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


def main() -> None:
    """Measure and report."""
    bench = harness.Benchmark("douglas2025", __doc__)
    names = ["ref", "C2"] if bench.quick else list(CASES)
    results = {name: report_case(bench, name) for name in names}
    report_starts(bench, {name: result.cost for name, result in results.items()}, 8 if bench.quick else 48)
    report_methods(bench, names, 1 if bench.quick else 5)
    noisy = report_noise(bench, names, 2 if bench.quick else 20)
    sizes = report_sizes(bench, names[:1] if bench.quick else names, 2 if bench.quick else 20)
    report_seconds(bench)
    if bench.figures_folder is not None:
        import douglas_figures  # here, because Matplotlib takes a while

        douglas_figures.trajectories(names, results, bench.figures_folder / "douglas2025_trajectories.png")
        douglas_figures.sizes(sizes, results, bench.figures_folder / "douglas2025_sizes.png")
        douglas_figures.noise(noisy, bench.figures_folder / "douglas2025_noise.png")
    bench.finish()


if __name__ == "__main__":
    main()
