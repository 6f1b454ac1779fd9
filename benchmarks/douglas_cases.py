"""The five twin experiments of Douglas et al. (2025) as problems; `douglas2025` says what they are."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from landcal_jax import data
from landcal_jax.forward import FunctionForward
from landcal_jax.models.optic import ACTIVE, BOUNDS, Optic, optic
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem

POOLS = ("biomass", "soil")
SKIPPED, STEPS = 200, 1000  # steps before the observed window, and in it


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
        """RMSE of the two pools to the truth; infinite where the run blows up."""
        with np.errstate(over="ignore"):
            return np.sqrt(np.mean((self.trajectory(x) - self.truth) ** 2, axis=0))

    def reduction(self, x) -> np.ndarray:
        """How much smaller that is than at x_b [%]."""
        with np.errstate(over="ignore"):
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
