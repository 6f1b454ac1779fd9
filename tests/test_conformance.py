"""Every public solver on one problem whose posterior is known in closed form: 20 parameters, correlated B and R, gaps.

One row a solver, and a test that fails for a public solver without one. Ensemble solvers run it twice: as a JAX function of
which members are batched by vmap, and as a model in NumPy that JAX cannot see into.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import landcal_jax
from landcal_jax import (
    CMAES,
    EKI,
    ESMDA,
    ETKI,
    LBFGS,
    FourDEnVar,
    FunctionForward,
    GaussNewton,
    GeneticAlgorithm,
    IterativeFourDEnVar,
    LevenbergMarquardt,
    MultiStart,
    Observations,
    Optax,
    Parameter,
    ParameterSpace,
    Problem,
    Rprop,
    Stream,
    UnscentedKalmanInversion,
    from_ensemble,
    laplace,
    solve,
)
from landcal_jax.forward import AbstractForward
from landcal_jax.models.linear_gaussian import LinearGaussian
from landcal_jax.observations import ExponentialCorrelation
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Status

# Solver -> (what the analysis is off in posterior standard deviations at most, the covariance relative to itself).
# No number for the covariance: the method has no posterior, or (gradient solvers) `laplace` makes it.
ROWS = {
    "GaussNewton": (GaussNewton(), 1e-8, None),
    "GaussNewton, matrix-free": (GaussNewton(dense_limit=0), 1e-8, None),
    "LevenbergMarquardt": (LevenbergMarquardt(), 1e-8, None),
    "LevenbergMarquardt, matrix-free": (LevenbergMarquardt(dense_limit=0), 1e-8, None),
    "LBFGS": (LBFGS(tolerance=1e-18), 1e-8, None),
    "Optax": (Optax(optax.lbfgs(), tolerance=1e-18, default_max_steps=200, steps_per_call=20), 1e-8, None),
    "Rprop": (Rprop(tolerance=1e-18, shortest=1e-14, default_max_steps=5000, steps_per_call=500), 1e-8, None),
    "MultiStart": (MultiStart(LevenbergMarquardt(), number=3, candidates=8), 1e-8, None),
    "FourDEnVar": (FourDEnVar(size=41), 1e-8, 1e-8),
    "FourDEnVar, fewest members": (FourDEnVar(size=21), 1e-8, 1e-8),
    "FourDEnVar, physical": (FourDEnVar(size=41, space="physical", root="cholesky"), 1e-8, 1e-8),
    "FourDEnVar, minimised": (FourDEnVar(size=41, minimiser="L-BFGS"), 1e-8, 1e-8),
    "IterativeFourDEnVar": (IterativeFourDEnVar(size=41), 1e-8, 1e-8),
    "IterativeFourDEnVar, transform": (IterativeFourDEnVar(size=41, scaling=None), 1e-8, 1e-8),
    "ETKI": (ETKI(size=41), 1e-8, 1e-8),
    "ETKI, minimum": (ETKI(size=41, to="minimum", tolerance=1e-5), 1e-8, None),
    "UnscentedKalmanInversion": (UnscentedKalmanInversion(tolerance=1e-9), 1e-8, 1e-8),
    # To the sampling error of 2000 members.
    "EKI": (EKI(size=2000), 0.15, 0.15),
    "EKI, minimum": (EKI(size=200, to="minimum"), 1e-4, None),
    "ESMDA": (ESMDA(size=2000), 0.15, 0.15),
    "ESMDA, decreasing": (ESMDA(size=2000, inflations=(16.0, 8.0, 4.0, 16 / 9)), 0.15, 0.15),
    "CMAES": (CMAES(), 1e-5, None),
    # No local search: 20 000 runs bring J from 432 to half a unit of its minimum of 27.
    "GeneticAlgorithm": (GeneticAlgorithm(population=100, generations=200), 0.7, None),
}
TIMES, DAYS = 40, 3.0
HIDDEN = [3, 4, 17, 39]  # no observation; the model is far off there, and that in NumPy NaN
BY_RUNS = [name for name, (solver, *_) in ROWS.items() if isinstance(solver, AbstractEnsembleSolver)]


class NumpyForward(AbstractForward):
    """The same model in NumPy, as an executable would be: JAX cannot see into it."""

    A: np.ndarray
    differentiable: bool = False

    def __call__(self, theta, operators):
        return {name: values[0] for name, values in self.many({"x": np.asarray(theta["x"])[None]}, operators).items()}

    def many(self, theta, operators):
        return {"y": np.stack([self.A @ x for x in np.asarray(theta["x"])])[:, None]}

    traceable = property(lambda self: False)
    name = property(lambda self: "numpy")
    description = property(lambda self: "a model in NumPy")


def linear_gaussian(parts):
    """Random A and B; R of errors with exponential correlation in time, over the observed times of each part alone."""
    drawn = LinearGaussian.random(jax.random.key(5), n=20, m=TIMES)
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    sd, part = np.sqrt(np.diag(drawn.R))[seen], np.concatenate([np.full(len(times), n) for n, times in enumerate(parts)])[seen]
    R = sd[:, None] * sd * np.exp(-np.abs(seen[:, None] - seen) / DAYS) * (part[:, None] == part)
    return LinearGaussian(drawn.A[seen], drawn.x_b, drawn.B, drawn.y[seen], R)


def problem_of(oracle, parts):
    """The same as a Problem: a stream for each part, by name its times."""
    seen = np.setdiff1d(np.arange(TIMES), HIDDEN)
    A, y, sd = np.full((TIMES, 20), 1e6), np.full(TIMES, np.nan), np.full(TIMES, np.nan)
    A[seen], y[seen], sd[seen] = oracle.A, oracle.y, np.sqrt(np.diag(oracle.R))
    prior = Parameter.normal(np.asarray(oracle.x_b), np.ones(20), dims="entry")
    space = ParameterSpace({"x": prior}, coords={"entry": [str(i) for i in range(20)]}, covariance=oracle.B)
    time = np.datetime64("2001-01-01") + np.arange(TIMES)
    streams = {name: Stream(y[part], sd[part], correlation=ExponentialCorrelation(DAYS), time=time[part]) for name, part in parts.items()}
    forward = FunctionForward(lambda theta: {name: (jnp.asarray(A[part]) @ theta["x"])[None] for name, part in parts.items()})
    return Problem(space, forward, Observations(streams))


@pytest.fixture(scope="module")
def oracle():
    return linear_gaussian([np.arange(TIMES)])


@pytest.fixture(scope="module")
def problem(oracle):
    return problem_of(oracle, {"y": np.arange(TIMES)})


def black_box(problem, oracle):
    A = np.full((TIMES, 20), np.nan)
    A[np.setdiff1d(np.arange(TIMES), HIDDEN)] = oracle.A
    return problem.with_forward(NumpyForward(A))


def test_every_public_solver_has_a_row():
    public = {found for _, found in inspect.getmembers(landcal_jax, inspect.isclass)
              if issubclass(found, AbstractGradientSolver | AbstractEnsembleSolver)}
    assert len(public) > 9
    assert public == {type(solver) for solver, *_ in ROWS.values()}


@pytest.mark.parametrize("name", ROWS)
def test_the_posterior_in_closed_form_is_found(problem, oracle, name):
    solver, off, spread = ROWS[name]
    result = solve(problem, solver, key=0, progress=False)
    mean, covariance = np.asarray(oracle.posterior_mean()), np.asarray(oracle.posterior_covariance())
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((result.theta["x"] - mean) / sd).max() < off
    np.testing.assert_allclose(result.cost, oracle.cost(mean), rtol=10 * off**2 + 1e-12)
    assert result.status >= 0 and result.status is not Status.MAX_STEPS
    gradient = isinstance(solver, AbstractGradientSolver)
    if spread is None and not gradient:
        with pytest.raises(ValueError, match="(?s)ends with a posterior ensemble.*ESMDA"):
            from_ensemble(problem, result)
        return
    posterior = laplace(problem, result) if gradient else from_ensemble(problem, result)
    root = np.linalg.cholesky(oracle.B)
    difference = (root @ posterior.covariance @ root.T - covariance) / (sd[:, None] * sd)
    assert np.abs(difference).max() < (spread or 1e-8)
    if not gradient:
        # The members themselves have these moments too; those by the root of Cholesky are off their mean.
        draws = np.asarray(posterior.z) @ root.T + np.asarray(oracle.x_b)
        if name != "FourDEnVar, physical":
            assert np.abs((draws.mean(axis=0) - mean) / sd).max() < max(off, 1e-8)
            assert np.abs((np.cov(draws, rowvar=False) - covariance) / (sd[:, None] * sd)).max() < spread
        else:
            about = (draws - mean).T @ (draws - mean) / (len(draws) - 1)
            assert np.abs((about - covariance) / (sd[:, None] * sd)).max() < spread


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_RUNS)
def test_a_model_in_numpy_gives_the_same(problem, oracle, name):
    solver = ROWS[name][0]
    one, other = (solve(which, solver, key=0, progress=False) for which in (problem, black_box(problem, oracle)))
    np.testing.assert_allclose(other.z, one.z, rtol=1e-7, atol=1e-8)
    assert other.counts == one.counts and other.status is one.status
    assert set(other.counts) == {"forward", "gradient", "jvp"} and other.counts["gradient"] == other.counts["jvp"] == 0
    for part in set(one.details) & {"posterior_z", "members_z", "posterior_covariance"}:
        np.testing.assert_allclose(other.details[part], one.details[part], rtol=1e-6, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_RUNS)
def test_streams_may_come_in_any_order(name):
    # JAX gives the dictionaries of a state back in the order of the alphabet, which is not that of the observations.
    parts = {"y": np.arange(25), "b": np.arange(25, TIMES)}
    oracle = linear_gaussian(parts.values())
    problem = problem_of(oracle, parts)
    solver, off, spread = ROWS[name]
    result = solve(problem, solver, key=0, progress=False)
    mean, covariance = np.asarray(oracle.posterior_mean()), np.asarray(oracle.posterior_covariance())
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((result.theta["x"] - mean) / sd).max() < off
    for term, value in problem.terms(result.z).items():
        np.testing.assert_allclose(result.terms[term], value, rtol=1e-9)
        np.testing.assert_allclose(result.history[term][-1], value, rtol=1e-9)
    if spread is not None:
        root = np.linalg.cholesky(oracle.B)
        found = root @ from_ensemble(problem, result).covariance @ root.T
        assert np.abs((found - covariance) / (sd[:, None] * sd)).max() < spread


@pytest.mark.parametrize("name", [name for name in ROWS if name not in BY_RUNS])
def test_a_gradient_solver_refuses_a_model_in_numpy(problem, oracle, name):
    with pytest.raises(TypeError, match="(?s)differentiable forward map.*ensemble or search solver"):
        solve(black_box(problem, oracle), ROWS[name][0], key=0, progress=False)
