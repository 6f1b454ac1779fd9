"""Does exact 4DVar reach the minimum of J where 4DEnVar stops short, from the same prior and at what number of runs?

Data: the five twin experiments of Douglas, Quaife and Bannister (2025), Environmental Modelling & Software 186, 106361,
from the files of https://github.com/NatalieDouglas/4DEnVar. Their toy carbon model has two pools and four parameters;
both pools are seen at all 1001 times without noise, R = 0.1 diag(y). The prior is N(x_b, B), mean and covariance of
their published ensemble of 50 (200 in C2) parameter vectors. The farther the truth is from it, the harder the case:
ref, A, B, C1, C2.

Measured: the reduction of the RMSE of the two pools, from the run at x_b to that at the analysis, and what it costs.

* 4DEnVar: the published result, by its closed form, from the published ensemble.
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

import functools
import time
from pathlib import Path
from typing import Any, NamedTuple

import harness
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from scipy.optimize import least_squares

from landcal_jax import data
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt, MultiStart
from landcal_jax.models.optic import ACTIVE, BOUNDS, Optic, optic
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.posterior import laplace
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result
from landcal_jax.solving import solve

POOLS = ("biomass", "soil")
SKIPPED, STEPS = 200, 1000  # steps before the observed window, and in it
QUANTILE = 1.6449  # of the standard normal: a 90 % interval


class Published(NamedTuple):
    """A case: true (p1, p2, k1, k2), file of its ensemble, and what is to be reached.

    `envar`: RMSE reductions of 4DEnVar [%]; `reduction` and `evaluations`: those of the Gauss-Newton before.
    """

    truth: tuple[float, ...]
    ensemble: str
    envar: tuple[float, float]
    reduction: tuple[float, float]
    evaluations: int | None


CASES = {
    "ref": Published((1.0, 1.0, 0.2, 0.1), "ideal_ensemble_50.npy", (99.3, 91.7), (99.94, 99.94), 16),
    "A": Published((1.04, 1.35, 0.23, 0.08), "ideal_ensemble_50.npy", (96.6, 98.9), (99.96, 99.97), 14),
    "B": Published((2.44, 2.45, 0.11, 0.031), "ideal_ensemble_50_B.npy", (75.9, 94.7), (99.98, 99.99), 16),
    "C1": Published((2.44, 2.45, 0.11, 0.011), "ideal_ensemble_50.npy", (75.4, 63.7), (99.92, 99.96), 22),
    "C2": Published((0.77, 2.73, 0.033, 0.025), "ideal_ensemble_200_C2.npy", (92.6, 76.6), (99.77, 99.86), None)}
ENVAR_REF = (0.97893686, 1.13467435, 0.19840601, 0.09397948)
"""The published 4DEnVar analysis of the reference case."""


class Experiment(NamedTuple):
    """A case ready to solve: `truth` (time, 2) is the trajectory that is observed, `ensemble` (4, member) the prior."""

    problem: Problem
    truth: np.ndarray
    ensemble: np.ndarray
    published: Published

    @property
    def x_b(self) -> np.ndarray:
        """Prior mean (4,)."""
        return self.ensemble.mean(axis=1)

    @property
    def B(self) -> np.ndarray:
        """Prior covariance (4, 4)."""
        return np.cov(self.ensemble)

    def trajectory(self, x) -> np.ndarray:
        """Both pools of the run with parameters `x` (4,), (time, 2)."""
        forward = self.problem.forward.function
        return np.asarray(_optic(dict(zip(ACTIVE, x, strict=True)), forward.forcing, forward.initial))

    def rmse(self, x) -> np.ndarray:
        """RMSE of the two pools to the truth."""
        return np.sqrt(np.mean((self.trajectory(x) - self.truth) ** 2, axis=0))

    def reduction(self, x) -> np.ndarray:
        """How much smaller that is than at x_b [%]."""
        return 100 * (1 - self.rmse(x) / self.rmse(self.x_b))

    def noisy(self, seed: int) -> "Experiment":
        """The same with errors drawn from R in the observations."""
        noise = np.random.default_rng(seed).standard_normal(self.truth.shape) * np.sqrt(0.1 * self.truth)
        streams = {name: self.problem.observations[name].with_values(jnp.asarray(series[None]))
                   for name, series in zip(POOLS, (self.truth + noise).T, strict=True)}
        observations = self.problem.observations.with_streams(streams)
        return self._replace(problem=self.problem.with_observations(observations))


_optic = jax.jit(optic)


@functools.cache
def files() -> dict[str, np.ndarray]:
    """Forcing and ensembles by the name of the file."""
    return {Path(source.path).name: np.load(data.fetch(source)) for source in data.DOUGLAS_FILES}


def experiment(name: str) -> Experiment:
    """The case `name`, with the Gaussian prior N(x_b, B)."""
    published, forcing = CASES[name], files()["forcing.npy"]
    ensemble = files()[published.ensemble]
    truth = dict(zip(ACTIVE, published.truth, strict=True))
    observed = np.asarray(_optic(truth, forcing[: SKIPPED + STEPS]))[SKIPPED:]
    priors = {name: Parameter(dist.Normal(mean, 1.0)) for name, mean in zip(ACTIVE, ensemble.mean(axis=1), strict=True)}
    streams = {name: Stream(series, np.sqrt(0.1 * series)) for name, series in zip(POOLS, observed.T, strict=True)}
    # The paper starts the window from the true pools: they are known, not estimated.
    forward = FunctionForward(Optic(forcing[SKIPPED : SKIPPED + STEPS], observed[0]))
    problem = Problem(ParameterSpace(priors, covariance=np.cov(ensemble)), forward, Observations(streams))
    return Experiment(problem, observed, ensemble, published)


def within_bounds(case: Experiment) -> Problem:
    """The problem with the prior as a Gaussian copula of normals truncated at the bounds of the paper."""
    sd = np.sqrt(np.diag(case.B))
    priors = {name: Parameter(dist.TruncatedNormal(mean, spread, low=low, high=high), default=mean)
              for (name, (low, high)), mean, spread in zip(BOUNDS.items(), case.x_b, sd, strict=True)}
    space = ParameterSpace(priors, correlation=case.B / np.outer(sd, sd))
    return Problem(space, case.problem.forward, case.problem.observations)


def four_d_en_var(case: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Analysis (4,) and posterior covariance (4, 4) of 4DEnVar in closed form: w = (I + Y'R^-1 Y)^-1 Y'R^-1 (y - h).

    Anomalies are taken from x_b and h(x_b), as in the paper.
    """
    problem, number = case.problem, case.ensemble.shape[1]
    members = np.concatenate([case.x_b[:, None], case.ensemble], axis=1)
    Z = problem.space.whiten(dict(zip(ACTIVE, members, strict=True)))
    runs = problem.ensemble(Z, batch_size=number + 1)
    sigma = {name: np.asarray(stream.standard_deviation) for name, stream in problem.observations.items()}
    h = np.concatenate([(runs[name] / sigma[name])[:, 0] for name in POOLS], axis=1).T
    y = np.concatenate([np.asarray(problem.observations[name].values / sigma[name])[0] for name in POOLS])
    X = (case.ensemble - case.x_b[:, None]) / np.sqrt(number - 1)
    Y = (h[:, 1:] - h[:, :1]) / np.sqrt(number - 1)
    inverse = np.linalg.inv(np.eye(number) + Y.T @ Y)
    return case.x_b + X @ inverse @ Y.T @ (y - h[:, 0]), X @ inverse @ X.T


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
        bench.figure("ref: 4DEnVar, x_a from the published", np.abs(x_a - ENVAR_REF).max(), "1", "<= 1e-8")
    result = solve(case.problem, LevenbergMarquardt(), progress=False)
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
    distance: dict[str, list[float]] = {"4DVar": [], "4DEnVar": []}
    for name in names:
        clean, ratios, spent = experiment(name), [], []
        for seed in range(seeds):
            case = clean.noisy(seed)
            result = solve(case.problem, LevenbergMarquardt(), progress=False)
            ends = {"4DVar": (physical(result), posterior(case, result)), "4DEnVar": four_d_en_var(case)}
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
    report_seconds(bench)
    if bench.figures_folder is not None:
        draw(names, results, bench.figures_folder / "douglas2025_trajectories.png")
    bench.finish()


if __name__ == "__main__":
    main()
