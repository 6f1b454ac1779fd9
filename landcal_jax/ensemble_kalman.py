"""Ensemble Kalman inversion and smoothing, in z with the prior N(0, I): from runs only, several sets of them.

From the prior to the posterior in steps: the likelihood is taken in parts, exp(-|d|^2 / 2) to the power of 1/alpha in each,
with 1/alpha summing to one at t = 1. Where the model is linear and the ensemble large (or, for the transform, of second order
exactly), the members at t = 1 are a sample of the posterior; where it is not, they are an approximation that gets no better
with more members. Which method ends with a posterior:

* `ESMDA`: yes, to sampling error: the steps are set before, the observations perturbed.
* `EKI`: yes, to sampling error, with steps chosen on the way (`to="posterior"`).
* `ETKI`: yes; without perturbations, exact in the linear case when the ensemble spans the space.
* `UnscentedKalmanInversion`: a Gaussian, N(mean, covariance); exact in the linear case.
* `EKI` and `ETKI` with `to="minimum"`: no. They go on beyond t = 1 with the prior among the observations, towards the minimum
  of J, and the ensemble draws together to a point.

Members that fail or blow up are left out, and counted in `details["left_out"]`; a sigma point is mirrored instead. An ensemble
moves within the span of its members: those of no more than n say so (status SUBSPACE, `details["span"]`), and J may be lower elsewhere.
If the run at the last mean fails (RUN_FAILED), the members are still in the details.

What is shown has been run: the mean of the members runs along with their next step, so z and J are those before that step until
the last mean runs. A solve that is stopped between shows the mean before its last step; `details["members_z"]` has taken it.

References: Emerick and Reynolds (2013), Computers & Geosciences 55, 3; Iglesias, Law and Stuart (2013), Inverse Problems 29,
045001; Iglesias and Yang (2021), Inverse Problems 37, 025008; Chada, Stuart and Tong (2020), SIAM Journal on Numerical Analysis
58, 1263; Huang, Huang, Reich and Stuart (2022), Inverse Problems 38, 125006.
"""

import abc
from collections.abc import Sequence
from numbers import Integral
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.ensemble_space import changed, given_members, near
from landcal_jax.errors import complain
from landcal_jax.members import cost_terms, draw_members, no_terms, whitened
from landcal_jax.solvers import AbstractEnsembleSolver, Counts, Progress, Status

SMALLEST = 100  # members where no number is given, and not fewer than TIMES the parameters
TIMES = 2
VANISHED = 1e-12  # a posterior standard deviation, in those of the prior, that no observations can bring about


class KalmanState(eqx.Module):
    """Members (member, n) in z, those that are still `alive`, the mean that ran last with J there, and how far it is.

    `time`: sum of 1/alpha so far; `steps`: how many; `last`: the ensemble is done, its mean has to run; `key`: data of the key.
    """

    members: Array
    alive: Array
    z: Array
    terms: dict[str, Array]
    time: Array
    steps: Array
    last: Array
    status: Array
    key: Array


class _EnsembleKalman(AbstractEnsembleSolver):
    """What these methods share: an ensemble from the prior, moved step by step; its mean is run along for J."""

    members: eqx.AbstractVar[Array | None]
    size: eqx.AbstractVar[int | None]

    def init(self, problem, z0, key):
        if key is None and (self.members is None or self._perturbs()):
            raise ValueError(complain("a seed or key for a solver that draws", "key=None", "solve(..., key=0)"))
        of_members, of_noise = (None, jax.random.key(0)) if key is None else jax.random.split(key)
        given = self.members is not None
        size = max(SMALLEST, TIMES * problem.space.size) if self.size is None else self.size
        members = given_members(problem, self.members) if given else draw_members(problem, of_members, size)
        return KalmanState(
            members, jnp.ones(len(members), bool), members.mean(axis=0), no_terms(problem), jnp.asarray(0.0), jnp.asarray(0),
            jnp.asarray(False), jnp.asarray(int(Status.RUNNING)), jax.random.key_data(of_noise))

    def ask(self, problem, state):
        alive = state.members[np.asarray(state.alive)]
        mean = alive.mean(axis=0, keepdims=True)
        return mean if bool(state.last) else jnp.concatenate([mean, alive])

    def tries(self, state):
        return bool(state.last)

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        D = np.concatenate(list(residuals.values()), axis=1)
        terms = cost_terms(ran.z[0], residuals)
        if bool(state.last):
            good = ran.finished[0] and np.isfinite(sum(terms.values()))
            end = self._end() if _rank(state) == problem.space.size else Status.SUBSPACE
            return changed(state, z=ran.z[0], terms=terms, status=int(end if good else Status.RUN_FAILED))
        with np.errstate(over="ignore"):
            misfit = 0.5 * np.sum(D[1:] ** 2, axis=1)
        good = near(D[1:], ran.finished[1:] & np.isfinite(misfit))
        alive, members = np.array(state.alive), np.array(state.members)
        members[alive] = ran.z[1:]
        alive[alive] = good
        if alive.sum() < 2:
            lost = Status.NOT_FINITE if int(state.steps) == 0 else Status.RUN_FAILED
            return changed(state, alive=alive, terms=terms, status=int(lost))
        inverse = self._inverse_step(misfit[good], D.shape[1], float(state.time), int(state.steps))
        X, D = members[alive], D[1:][good]
        if self._to_minimum():
            # The prior is one more observation: z itself, seen as zero with error one.
            D = np.concatenate([D, -X], axis=1)
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), int(state.steps))
        members[alive] = self._moved(X, D, 1.0 / inverse, key)
        time = float(state.time) + inverse
        # Summing parts of one leaves it off by rounding.
        last = self._drawn_together(members[alive]) if self._to_minimum() else time > 1 - 1e-9
        return changed(state, members=members, alive=alive, z=ran.z[0], terms=terms, time=time, steps=int(state.steps) + 1, last=last)

    def progress(self, state):
        return Progress(state.z, state.terms, state.status, Counts.of())

    def details(self, state):
        members = np.asarray(state.members)[np.asarray(state.alive)]
        out = {"method": np.array(type(self).__name__), "members_z": members, "time": np.asarray(state.time),
               "steps": np.asarray(state.steps), "left_out": np.asarray((~state.alive).sum())}
        rank, number = _rank(state), members.shape[1]
        if rank < number:
            out["span"] = np.array(f"{len(members)} members span {rank} of {number} directions")
        # Before t = 1 the members have seen a part of the observations only, and are no posterior.
        return out | ({"posterior_z": members} if bool(state.last) and not self._to_minimum() else {})

    def _perturbs(self) -> bool:
        return True

    def _to_minimum(self) -> bool:
        return False

    def _end(self) -> Status:
        return Status.COLLAPSED if self._to_minimum() else Status.ANALYSIS

    def _drawn_together(self, members: np.ndarray) -> bool:
        return False

    @abc.abstractmethod
    def _inverse_step(self, misfit: np.ndarray, number: int, time: float, steps: int) -> float:
        """1/alpha of the next step, from |d|^2 / 2 of the members and the number of observations."""

    @abc.abstractmethod
    def _moved(self, X: np.ndarray, D: np.ndarray, alpha: float, key: Array) -> np.ndarray:
        """Members after a step: X (member, n), their whitened residuals D (member, m) = R^(-1/2) (y - h)."""


def _rank(state: KalmanState) -> int:
    """How many directions the members that are left span."""
    members = np.asarray(state.members)[np.asarray(state.alive)]
    # An ensemble that has drawn together lies about its mean to the rounding of the mean.
    return int(np.linalg.matrix_rank(members - members.mean(axis=0), tol=VANISHED * np.linalg.norm(members))) if len(members) > 1 else 0


def _adaptive(misfit: np.ndarray, number: int) -> float:
    """The data misfit controller of Iglesias and Yang (2021): steps that change the misfits by what noise allows.

    1/alpha = max(m / (2 <Phi>), sqrt(m / (2 var Phi))), with Phi = |d|^2 / 2 of each member and m = `number` observed values. The
    variance is that of the members, divided by their number.
    """
    mean, spread = misfit.mean(), misfit.std()
    # The limits stand for members without misfit, or all with the same: then the whole rest may be taken at once.
    return max(number / max(2 * mean, 1e-300), np.sqrt(number / 2) / max(spread, 1e-300))


def _perturbed(X: np.ndarray, D: np.ndarray, alpha: float, key: Array) -> np.ndarray:
    """The stochastic update: every member sees its own observations, with errors of variance alpha R."""
    scale = 1 / np.sqrt(len(X) - 1)
    Y = -scale * (D - D.mean(axis=0))
    noise = np.asarray(jax.random.normal(key, D.shape), float)
    U, s, Vt = np.linalg.svd(Y, full_matrices=False)
    seen = (D + np.sqrt(alpha) * (noise - noise.mean(axis=0))) @ Vt.T
    return X + (seen * (s / (alpha + s**2))) @ U.T @ (scale * (X - X.mean(axis=0)))


def _transformed(X: np.ndarray, D: np.ndarray, alpha: float) -> np.ndarray:
    """The deterministic update: the mean by the gain, the anomalies by the symmetric square root."""
    mean, scale = X.mean(axis=0), 1 / np.sqrt(len(X) - 1)
    anomalies, Y = scale * (X - mean), -scale * (D - D.mean(axis=0))
    U, s, Vt = np.linalg.svd(Y, full_matrices=False)
    w = U @ (s / (alpha + s**2) * (Vt @ D.mean(axis=0)))
    smaller = anomalies + (U * (1 / np.sqrt(1 + s**2 / alpha) - 1)) @ (U.T @ anomalies)
    return mean + w @ anomalies + smaller / scale


class EKI(_EnsembleKalman):
    """Ensemble Kalman inversion with perturbed observations and adaptive steps (Iglesias & Yang 2021).

    `to="posterior"` ends at t = 1: the members are a sample of the posterior where the model is linear, to sampling error.
    `to="minimum"` goes on with the prior among the observations until the standard deviation of each z is below `tolerance`: the mean
    tends to the minimum of J, no posterior is left. `members` (member, n) in z, or `size` draws of the prior: without it 100, or two for
    each parameter where these are more. n + 1 are the fewest that span the space; twice as many keep the spurious correlations of
    perturbed observations, about 1 / sqrt(size), from eating up the spread, and average slopes where the model is curved.
    """

    members: Array | None = None
    size: int | None = eqx.field(static=True, default=None)
    to: Literal["posterior", "minimum"] = eqx.field(static=True, default="posterior")
    tolerance: float = eqx.field(static=True, default=1e-3)
    default_max_steps: int = eqx.field(static=True, default=200)
    resumable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if self.to not in ("posterior", "minimum") or self.tolerance <= 0:
            raise ValueError(complain('to "posterior" or "minimum", a tolerance above zero', f"{self.to!r}, {self.tolerance:g}",
                                      'to="posterior" where the spread is wanted'))

    def _to_minimum(self):
        return self.to == "minimum"

    def _drawn_together(self, members):
        return bool((members.std(axis=0) < self.tolerance).all())

    def _inverse_step(self, misfit, number, time, steps):
        step = _adaptive(misfit, number)
        if not self._to_minimum():
            return min(step, 1 - time)
        # The misfit left at the minimum would keep the steps short for ever: beyond t = 1, t doubles at least.
        return min(max(step, time), 10 * time) if time > 1 else min(step, 1.0)

    def _moved(self, X, D, alpha, key):
        return _perturbed(X, D, alpha, key)


class ETKI(EKI):
    """Ensemble transform Kalman inversion: like `EKI`, without perturbed observations.

    With `to="posterior"` mean and covariance are those of the posterior exactly, when the model is linear and the ensemble, drawn of
    second order exactly, has more members than parameters.
    """

    def _perturbs(self):
        return False

    def _moved(self, X, D, alpha, key):
        return _transformed(X, D, alpha)


def _plain(inflations: Any) -> Any:
    """Whole numbers and sequences of any kind as Python has them; what is neither is left for the check."""
    if isinstance(inflations, Integral):
        return int(inflations)
    return tuple(map(float, inflations)) if isinstance(inflations, Sequence | np.ndarray) and np.ndim(inflations) == 1 else inflations


class ESMDA(_EnsembleKalman):
    """Ensemble smoother with multiple data assimilation (Emerick & Reynolds 2013): EKI with steps that are set before.

    `inflations`: alpha of each step, whose inverses sum to one; a whole number k stands for k steps of alpha = k. `members`, `size`
    as in `EKI`. The members at the end are a sample of the posterior where the model is linear, to sampling error.
    """

    members: Array | None = None
    size: int | None = eqx.field(static=True, default=None)
    inflations: tuple[float, ...] | int = eqx.field(static=True, default=4, converter=_plain)
    default_max_steps: int = eqx.field(static=True, default=100)
    resumable: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if not isinstance(self.inflations, int | tuple):
            raise TypeError(complain("a whole number of steps, or the inflation coefficient of each", f"{self.inflations!r}",
                                     "inflations=4, or inflations=(8.0, 8.0, 4.0, 2.0)"))
        steps = self._alphas()
        if not steps or min(steps) <= 0 or abs(sum(1 / alpha for alpha in steps) - 1) > 1e-6:
            total = f"{sum(1 / alpha for alpha in steps if alpha):.6g}"
            raise ValueError(complain("inflation coefficients above zero whose inverses sum to one", f"{steps}, {total}",
                                      "4 for four equal steps, or (9.333, 7, 4, 2) scaled to a sum of one"))

    def _alphas(self):
        return (float(self.inflations),) * self.inflations if isinstance(self.inflations, int) else self.inflations

    def _inverse_step(self, misfit, number, time, steps):
        return 1 / self._alphas()[steps]

    def _moved(self, X, D, alpha, key):
        return _perturbed(X, D, alpha, key)


class UnscentedState(eqx.Module):
    """A Gaussian N(mean, covariance) of z, J at the mean that ran last, and whether that was the last mean."""

    mean: Array
    covariance: Array
    z: Array
    terms: dict[str, Array]
    last: Array
    status: Array


class UnscentedKalmanInversion(AbstractEnsembleSolver):
    """Unscented Kalman inversion to a Gaussian posterior, from 2 n + 1 runs an iteration (Huang, Huang, Reich & Stuart 2022).

    It starts at z0 with the covariance of the prior, and has N(posterior mean, posterior covariance) as its fixed point where the
    model is linear: errors halve with each iteration. Without draws; no key is needed. A sigma point whose run fails or blows up is
    mirrored from the one across, and tells nothing when both do. There is no step control: far from linear the mean may overshoot to
    where the model blows up, which ends the solve as failed (RUN_FAILED); a first guess z0 nearer to the minimum helps.
    `tolerance`: stop when the mean moves by less in posterior standard deviations, and the variances relative to themselves.
    `details`: `posterior_covariance`, and 2 n `posterior_z` with it; `from_ensemble` draws from that Gaussian.
    """

    tolerance: float = eqx.field(static=True, default=1e-4)
    default_max_steps: int = eqx.field(static=True, default=100)
    resumable: bool = eqx.field(static=True, default=True)

    def init(self, problem, z0, key):
        return UnscentedState(jnp.asarray(z0), jnp.eye(problem.space.size), jnp.asarray(z0), no_terms(problem), jnp.asarray(False),
                              jnp.asarray(int(Status.RUNNING)))

    def ask(self, problem, state):
        if bool(state.last):
            return state.mean[None]
        away = _sigma(2 * np.asarray(state.covariance), _reach(len(state.mean)))
        return state.mean + jnp.concatenate([jnp.zeros((1, len(state.mean))), jnp.asarray(away), -jnp.asarray(away)])

    def tries(self, state):
        return bool(state.last)

    def tell(self, problem, state, ran):
        residuals = whitened(problem, ran.predicted)
        terms = cost_terms(ran.z[0], residuals)
        if not ran.finished[0] or not np.isfinite(sum(terms.values())):
            # At z0 nothing has run before: that is the start, which has no J.
            first = np.isnan(float(state.terms["prior"]))
            return changed(state, z=ran.z[0], terms=terms, status=int(Status.NOT_FINITE if first else Status.RUN_FAILED))
        if bool(state.last):
            return changed(state, z=ran.z[0], terms=terms, status=int(Status.ANALYSIS))
        Z, D, n = np.asarray(ran.z), np.concatenate(list(residuals.values()), axis=1), len(state.mean)
        good = near(D, ran.finished & np.isfinite(D).all(axis=1), np.abs(D[0]).max())
        for one in np.flatnonzero(~good):
            across = one + n if one <= n else one - n
            D[one] = 2 * D[0] - D[across] if good[across] else D[0]
        # The prior is one more observation: z itself, seen as zero with error one. Half of each is taken in a step.
        D = np.concatenate([D, -Z], axis=1)
        weight = 1 / np.sqrt(2 * _reach(n) ** 2)
        X, Y = weight * (Z[1:] - Z[0]), -weight * (D[1:] - D[0])
        # By factors: the squares of sigma points far out would bury those of the others.
        U, s, Vt = np.linalg.svd(Y, full_matrices=len(Y) > Y.shape[1])
        length = np.hypot(np.sqrt(2), s)
        mean = Z[0] + X.T @ (U[:, : len(s)] @ (s / length * (Vt[: len(s)] @ D[0]) / length))
        root = np.sqrt(2) / np.pad(length, (0, 2 * n - len(s)), constant_values=np.sqrt(2))[:, None] * (U.T @ X)
        covariance = root.T @ root
        sd = np.sqrt(np.diag(covariance))
        if not (np.isfinite(mean).all() and (sd > VANISHED).all()):
            # The mean has gone where the model blows up.
            return changed(state, z=ran.z[0], terms=terms, status=int(Status.RUN_FAILED))
        moved = max(np.abs((mean - Z[0]) / sd).max(), np.abs(np.diag(state.covariance) / sd**2 - 1).max())
        return changed(state, mean=mean, covariance=covariance, z=ran.z[0], terms=terms, last=moved < self.tolerance)

    def progress(self, state):
        return Progress(state.z, state.terms, state.status, Counts.of())

    def details(self, state):
        out: dict[str, Any] = {"method": np.array("unscented Kalman inversion")}
        if bool(state.last):
            covariance, n = np.asarray(state.covariance), len(state.mean)
            away = _sigma(covariance, np.sqrt((2 * n - 1) / 2))  # the sample covariance of the points is that of the Gaussian
            out |= {"posterior_z": np.asarray(state.mean) + np.concatenate([away, -away]), "posterior_covariance": covariance,
                    "posterior_gaussian": np.array(True)}
        return out


def _reach(n: int) -> float:
    """How many standard deviations out the sigma points lie, in n dimensions."""
    return min(2.0, np.sqrt(n))


def _sigma(covariance: np.ndarray, reach: float) -> np.ndarray:
    # Far from linear a direction may come out with a variance below the rounding of the largest: it is given that, and grows again.
    rounding = len(covariance) * np.finfo(float).eps * np.trace(covariance)
    return reach * np.linalg.cholesky(covariance + rounding * np.eye(len(covariance))).T
