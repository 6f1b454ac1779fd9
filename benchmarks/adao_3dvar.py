"""Do landcal_jax and ADAO compute the same J, gradient, analysis and posterior covariance, and at what price?

ADAO (EDF R&D, https://pypi.org/project/adao; `pip install 'landcal_jax[peers]'`) is an independent data-assimilation
package, developed since 2008, whose 3DVAR minimises the same J(x). Four problems, all with a full B:

* linear: `models.linear_gaussian.LinearGaussian`, whose posterior is also known in closed form, once with 5 parameters
  and 40 observations, once with 60 and 400. R is full, exponential in time: a `Stream` with `ExponentialCorrelation`.
* curves: six parameters of two decaying litter pools (full R, exponential in time, irregular times) and of a saturating
  light response (another full R, whitened in the forward function: values L^-1 y, sigma 1). ADAO gets its own NumPy
  code of the model with derivatives written by hand, so that nothing is shared.
* optic: the toy carbon model, 600 steps of a generated forcing, four parameters, diagonal R. ADAO gets the compiled JAX
  model with its tangent-linear and adjoint, so that what is compared is the number of runs that either needs.

What is compared ("relative" and "sd" are largest differences, sd in posterior standard deviations). J at every state
that ADAO's minimiser visited. The gradient at the same states: ADAO does not store it, but it hands R^-1 (y - H(x)) to
the adjoint operator, where the product is noted. The analysis. The posterior covariance, for nonlinear problems at
ADAO's own analysis, where both are that of Gauss-Newton; "as it is" with the machine precision times the trace that
ADAO adds to the diagonal, which shows where variances differ by many orders. Then the price of a solve with its
posterior covariance: runs, process seconds taken in turn, and how far from the minimum either ends by its own stopping
rule.

What was tried with ADAO 9.16. BFGS with a tight tolerance measures agreement, as it comes closest. Its default, LBFGSB,
stops at rounding of J; in optic its first step leaves the region where J is finite, and it ends ten standard deviations
away unless parameters are bounded, which they are here for the price. TNC agrees at two to three times the runs; CG
needs 12577 runs for curves and ends 0.1 standard deviations away. Variant 3DVAR-VAN stops with an error of shapes,
3DVAR-Incr takes 15000 inner steps for the linear problem, 3DVAR-PSAS reports a dual J that is another number.
Where a run of the model costs less than a millisecond, as in all four, neither time says much about large models: that
of landcal_jax is mostly the fixed cost of `solve`, and the runs are what carries over.

The file is not called adao.py because that would hide the package of this name from every script in this folder.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import harness
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from landcal_jax.errors import complain
from landcal_jax.forward import FunctionForward
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.laplace import laplace
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.models.optic import ACTIVE, Optic, generate_forcing
from landcal_jax.observations import ExponentialCorrelation, Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem, evaluate
from landcal_jax.solving import solve

CURVES = {"fast": 3.0, "k_fast": 0.15, "slow": 5.0, "k_slow": 0.01, "saturation": 12.0, "half": 250.0}
"""Litter of two pools [g] and their rates [d-1]; light response: maximum [umol m-2 s-1], half saturation [W m-2]."""
DAYS_OF_ERROR = 8.0  # e-folding time of the errors of the litter [d]


class Case(NamedTuple):
    """One problem in the words of both: `problem` for landcal_jax, the rest for ADAO, in physical units.

    R is (m, m), or (m,) where it is diagonal, which ADAO is then told. `direct(x)` is H(x) (m,) and `jacobian(x)` its
    derivative (m, n); `tangent(x, dx)` and `adjoint(x, w)` are its products.
    """

    problem: Problem
    x_b: np.ndarray
    B: np.ndarray
    y: np.ndarray
    R: np.ndarray
    direct: Callable
    jacobian: Callable
    tangent: Callable
    adjoint: Callable


def correlated(sd: np.ndarray, neighbour: float) -> np.ndarray:
    """Covariance with standard deviations `sd` and correlation neighbour^|i - j|."""
    lag = np.abs(np.subtract.outer(np.arange(len(sd)), np.arange(len(sd))))
    return np.outer(sd, sd) * neighbour**lag


def gaussian_space(names, x_b, B) -> ParameterSpace:
    """Priors N(x_b, B) without bounds."""
    priors = {name: Parameter(dist.Normal(mean, 1.0)) for name, mean in zip(names, x_b, strict=True)}
    return ParameterSpace(priors, covariance=B)


def linear(n: int, m: int, seed: int = 0) -> tuple[Case, LinearGaussian]:
    """The linear problem and its oracle. Its R, exp(-lag / 3), is that of daily observations correlated over 3 days."""
    oracle = LinearGaussian.random(jax.random.key(seed), n, m)
    A, x_b, B, y, R = (np.asarray(part) for part in (oracle.A, oracle.x_b, oracle.B, oracle.y, oracle.R))
    prior = Parameter(dist.Normal(x_b, 1.0), dims="i")
    space = ParameterSpace({"x": prior}, {"i": [str(i) for i in range(n)]}, covariance=B)
    days = np.datetime64("2001-01-01") + np.arange(m)
    stream = Stream(y, np.sqrt(np.diag(R)), correlation=ExponentialCorrelation(3.0), time=days)
    forward = FunctionForward(lambda theta: {"y": (oracle.A @ theta["x"])[None]})
    problem = Problem(space, forward, Observations({"y": stream}))
    case = Case(problem, x_b, B, y, R, lambda x: A @ x, lambda x: A, lambda x, dx: A @ dx, lambda x, w: A.T @ w)
    return case, oracle


def litter_and_light(fast, k_fast, slow, k_slow, saturation, half, days, light):
    """Litter left after `days`, and uptake at `light`; NumPy or JAX arrays."""
    exp = jnp.exp if isinstance(fast, jax.Array) else np.exp
    return fast * exp(-k_fast * days) + slow * exp(-k_slow * days), saturation * light / (light + half)


def litter_and_light_jacobian(x, days, light):
    """Derivative of the two by hand, stacked, (m, 6)."""
    fast, k_fast, slow, k_slow, saturation, half = x
    E, e, s = np.exp(-k_fast * days), np.exp(-k_slow * days), light / (light + half)
    litter = np.stack([E, -fast * days * E, e, -slow * days * e, 0 * days, 0 * days], axis=1)
    zero = np.zeros((len(light), 4))
    return np.concatenate([litter, np.column_stack([zero, s, -saturation * light / (light + half) ** 2])])


def curves(seed: int = 1) -> Case:
    """The mildly nonlinear problem: 40 litter masses and 30 uptakes, errors correlated in both."""
    rng = np.random.default_rng(seed)
    days, light = np.sort(rng.choice(200, 40, replace=False)).astype(float), np.sort(rng.uniform(10.0, 900.0, 30))
    x_b = np.array(list(CURVES.values()))
    B = correlated(0.25 * x_b, -0.4)
    sd = 0.05 + 0.03 * rng.random(40)
    R_litter = np.outer(sd, sd) * np.exp(-np.abs(np.subtract.outer(days, days)) / DAYS_OF_ERROR)
    near = np.exp(-((np.subtract.outer(light, light) / 200.0) ** 2))
    R_uptake = 0.4**2 * (0.7 * near + 0.3 * np.eye(30))
    root_litter, root_uptake = np.linalg.cholesky(R_litter), np.linalg.cholesky(R_uptake)
    truth = x_b + np.linalg.cholesky(B) @ rng.standard_normal(6)
    litter, uptake = litter_and_light(*truth, days, light)
    litter, uptake = litter + root_litter @ rng.standard_normal(40), uptake + root_uptake @ rng.standard_normal(30)
    whitening = np.linalg.inv(root_uptake)

    def model(theta):
        litter, uptake = litter_and_light(*(theta[name] for name in CURVES), jnp.asarray(days), jnp.asarray(light))
        return {"litter": litter[None], "uptake": (whitening @ uptake)[None]}

    time_of = np.datetime64("2001-01-01") + days.astype(int)
    observations = Observations({
        "litter": Stream(litter, sd, correlation=ExponentialCorrelation(DAYS_OF_ERROR), time=time_of),
        "uptake": Stream(whitening @ uptake, 1.0)})
    problem = Problem(gaussian_space(CURVES, x_b, B), FunctionForward(model), observations)
    R = np.block([[R_litter, np.zeros((40, 30))], [np.zeros((30, 40)), R_uptake]])

    def direct(x):
        return np.concatenate(litter_and_light(*x, days, light))

    def jacobian(x):
        return litter_and_light_jacobian(x, days, light)

    return Case(problem, x_b, B, np.concatenate([litter, uptake]), R, direct, jacobian,
                lambda x, dx: jacobian(x) @ dx, lambda x, w: jacobian(x).T @ w)


def carbon(steps: int = 600, seed: int = 2) -> Case:
    """The toy carbon model, both pools observed at every step with independent errors of variance 0.1 y."""
    model, rng = Optic(generate_forcing(seed, steps), initial=(4.0, 9.0)), np.random.default_rng(seed)
    x_b = np.array([1.3, 0.8, 0.22, 0.09])
    B = correlated(0.25 * x_b, 0.4)

    @jax.jit
    def direct(x):
        return jnp.concatenate([series[0] for series in model(dict(zip(ACTIVE, x, strict=True))).values()])

    clean = np.asarray(direct(np.array(list(ACTIVE.values()))))
    sd = np.sqrt(0.1 * clean)
    y = clean + sd * rng.standard_normal(len(clean))
    halves = zip(("biomass", "soil"), np.split(y, 2), np.split(sd, 2), strict=True)
    observations = Observations({name: Stream(values, sigma) for name, values, sigma in halves})
    problem = Problem(gaussian_space(ACTIVE, x_b, B), FunctionForward(model), observations)
    compiled = (jax.jit(jax.jacfwd(direct)), jax.jit(lambda x, dx: jax.jvp(direct, (x,), (dx,))[1]),
                jax.jit(lambda x, w: jax.vjp(direct, x)[1](w)[0]))
    return Case(problem, x_b, B, y, sd**2, *(
        lambda *arguments, f=function: np.asarray(f(*arguments)) for function in (direct, *compiled)))


class Adao(NamedTuple):
    """What a 3DVAR of ADAO leaves: analysis, posterior covariance, J at the visited `states`, and what it called.

    `gradients` are pairs (x, dJ/dx) at the calls of the adjoint; `counts` calls of H, its tangent and its adjoint.
    """

    analysis: np.ndarray
    covariance: np.ndarray
    states: np.ndarray
    costs: np.ndarray
    gradients: list[tuple[np.ndarray, np.ndarray]]
    counts: dict[str, int]


def adao_3dvar(case: Case, start: np.ndarray | None = None, notes: bool = True, **parameters: Any) -> Adao:
    """Run ADAO's 3DVAR on `case`; `parameters` are those of its algorithm, its defaults without them.

    `notes=False` leaves out what only a comparison needs: the visited states, J and gradients.
    """
    from adao import adaoBuilder

    counts, calls = {"forward": 0, "tangent": 0, "adjoint": 0}, []

    def direct(x):
        counts["forward"] += 1
        return case.direct(np.ravel(x))

    def tangent(pair):
        counts["tangent"] += 1
        x, dx = pair
        return case.jacobian(np.ravel(x)) if dx is None else case.tangent(np.ravel(x), np.ravel(dx))

    def adjoint(pair):
        counts["adjoint"] += 1
        x, w = pair
        if w is None:
            return case.jacobian(np.ravel(x)).T
        product = case.adjoint(np.ravel(x), np.ravel(w))
        if notes:
            calls.append((np.ravel(x).copy(), product))
        return product

    stored = ["Analysis", "APosterioriCovariance"] + ["CostFunctionJ", "CurrentState"] * notes
    parameters = {"StoreSupplementaryCalculations": stored} | parameters
    if start is not None:
        parameters["InitializationPoint"] = start
    study = adaoBuilder.New()
    study.set("AlgorithmParameters", Algorithm="3DVAR", Parameters=parameters)
    study.set("Background", Vector=case.x_b)
    study.set("BackgroundError", Matrix=case.B)
    study.set("Observation", Vector=case.y)
    study.set("ObservationError", **({"Matrix": case.R} if case.R.ndim == 2 else {"DiagonalSparseMatrix": case.R}))
    study.set("ObservationOperator", ThreeFunctions={"Direct": direct, "Tangent": tangent, "Adjoint": adjoint})
    with np.errstate(over="ignore", invalid="ignore"):  # its line searches go far
        study.execute()
    states = [np.ravel(state) for state in study.get("CurrentState")] if notes else []
    costs = list(study.get("CostFunctionJ")) if notes else []
    gradients = [(x, np.linalg.solve(case.B, x - case.x_b) - product) for x, product in calls]
    analysis, covariance = (np.asarray(study.get(what)[-1]) for what in ("Analysis", "APosterioriCovariance"))
    return Adao(analysis.ravel(), covariance, np.array(states), np.array(costs), gradients, counts)


TIGHT = {"Minimizer": "BFGS", "GradientNormTolerance": 1e-9}
"""The setting with which ADAO's minimiser comes closest to the minimum."""


class Affine(NamedTuple):
    """x = x_b + L z of a problem with Gaussian priors, as matrices."""

    x_b: np.ndarray
    L: np.ndarray

    @classmethod
    def of(cls, space: ParameterSpace) -> "Affine":
        """Read off from the space itself, so that its map is what is tested."""
        points = jnp.concatenate([jnp.zeros((1, space.size)), jnp.eye(space.size)])
        x = np.asarray(space.flatten(space.physical(points)))
        return cls(x[0], (x[1:] - x[0]).T)

    def z(self, x: np.ndarray) -> np.ndarray:
        """Control vector(s) of physical parameters, (..., n)."""
        return np.linalg.solve(self.L, (x - self.x_b).T).T


@eqx.filter_jit
def _costs(problem: Problem, Z):
    return jax.vmap(problem.cost)(Z)


def compare(case: Case, peer: Adao) -> dict[str, float]:
    """Largest differences between landcal_jax and `peer`, a run with notes.

    J is relative, at the states where it is finite; the gradient in z is relative to its norm or, near the minimum
    where it vanishes, to that at the first state; analysis and covariance are in posterior standard deviations (the
    latter: a correlation). ADAO adds the machine precision times the trace to the diagonal of its covariance, which
    shows where variances differ by many orders: `covariance` is without that term, `covariance as it is` with it.
    """
    map_ = Affine.of(case.problem.space)
    finite = np.isfinite(peer.costs)
    costs = np.asarray(_costs(case.problem, jnp.asarray(map_.z(peer.states[finite]))))
    gradients = [(x, map_.L.T @ gradient) for x, gradient in peer.gradients if np.abs(gradient).max() < 1e100]
    ours = [np.asarray(evaluate(case.problem, jnp.asarray(map_.z(x)))[1]) for x, _ in gradients]
    theirs = [gradient for _, gradient in gradients]
    first = np.linalg.norm(theirs[0])
    covariance = posterior_covariance(case, map_.z(peer.analysis))
    sd = np.sqrt(np.diag(covariance))
    added = np.finfo(float).eps * np.trace(covariance) * np.eye(len(sd))
    result = solve(case.problem, LevenbergMarquardt(tolerance=1e-18), progress=False)
    return {
        "J": np.abs(costs / peer.costs[finite] - 1).max(),
        "gradient": max(np.linalg.norm(a - b) / max(np.linalg.norm(b), first)
                        for a, b in zip(ours, theirs, strict=True)),
        "analysis": np.abs((physical(case, result) - peer.analysis) / sd).max(),
        "J at the analysis": abs(result.cost / peer.costs[finite].min() - 1),
        "covariance": np.abs((covariance - (peer.covariance - added)) / np.outer(sd, sd)).max(),
        "covariance as it is": np.abs((covariance - peer.covariance) / np.outer(sd, sd)).max(),
    }


def physical(case: Case, result) -> np.ndarray:
    """The free parameters at the end of a solve, (n,)."""
    return np.asarray(case.problem.space.flatten(result.theta))


def posterior_covariance(case: Case, z: np.ndarray) -> np.ndarray:
    """Laplace covariance of landcal_jax at `z` in physical units, (n, n)."""
    L = Affine.of(case.problem.space).L
    return L @ np.asarray(laplace(case.problem, jnp.asarray(z), draws=1).covariance) @ L.T


def positive(case: Case) -> dict[str, Any]:
    """Bounds that keep parameters above a thousandth of their prior mean, for ADAO's default minimiser."""
    return {"Bounds": [[1e-3 * mean, None] for mean in case.x_b]}


def price(bench: harness.Benchmark, name: str, case: Case, settings: dict[str, dict[str, Any]]) -> None:
    """Runs, process seconds and distance from the minimum of either, each with its own stopping rule."""
    tight = solve(case.problem, LevenbergMarquardt(tolerance=1e-18), progress=False)
    sd = np.sqrt(np.diag(posterior_covariance(case, tight.z)))
    begin = time.process_time()
    ours = solve(case.problem, LevenbergMarquardt(), progress=False)
    bench.figure(f"{name}: landcal_jax, compile and solve", time.process_time() - begin, "s")
    bench.figure(f"{name}: landcal_jax, forward", ours.counts["forward"], "runs")
    bench.figure(f"{name}: landcal_jax, tangents", ours.counts["jvp"], "runs")
    left = np.abs((physical(case, ours) - physical(case, tight)) / sd).max()
    bench.figure(f"{name}: landcal_jax, to minimum", left, "sd")
    calls: dict[str, Callable] = {"landcal_jax": lambda: laplace(
        case.problem, solve(case.problem, LevenbergMarquardt(), progress=False), draws=1).covariance}
    for words, parameters in settings.items():
        end = adao_3dvar(case, notes=False, **parameters)
        bench.figure(f"{name}: {words}, forward", end.counts["forward"], "runs")
        bench.figure(f"{name}: {words}, adjoints", end.counts["adjoint"], "runs")
        left = np.abs((end.analysis - physical(case, tight)) / sd).max()
        bench.figure(f"{name}: {words}, to minimum", left, "sd")
        calls[words] = lambda parameters=parameters: adao_3dvar(case, notes=False, **parameters).covariance
    for words, timing in harness.interleave(calls, 3 if bench.quick else 11, clock=time.process_time).items():
        bench.figure(f"{name}: {words}, time", 1e3 * timing.median, "ms")


def main() -> None:
    """Compare and report."""
    bench = harness.Benchmark("adao_3dvar", __doc__)
    try:
        import adao  # noqa: F401
    except ImportError as error:
        raise SystemExit(complain("the package adao", "no such package", "pip install 'landcal_jax[peers]'")) from error
    cases = {"linear, 5 x 40": linear(5, 40)[0], "curves": curves()}
    if not bench.quick:
        cases |= {"linear, 60 x 400": linear(60, 400)[0], "optic": carbon()}
    for name, case in cases.items():
        differences = compare(case, adao_3dvar(case, **TIGHT))
        for what in ("J", "gradient", "J at the analysis", "covariance"):
            bench.figure(f"{name}: {what}", differences[what], "relative", "<= 1e-10")
        bench.figure(f"{name}: analysis", differences["analysis"], "sd", "<= 1e-6")
        bench.figure(f"{name}: covariance as it is", differences["covariance as it is"], "relative")
        bounds = {} if name.startswith("linear") else positive(case)
        price(bench, name, case, {"ADAO LBFGSB": bounds, "ADAO BFGS": {"Minimizer": "BFGS"}})
    bench.finish()


if __name__ == "__main__":
    main()
