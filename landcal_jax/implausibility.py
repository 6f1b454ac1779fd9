"""How far a point of the parameter space is from what was observed, in standard deviations, by an emulator of the model.

    I_k(u) = |E[f_k(u)] - y_k| / sqrt(Var[f_k(u)] + R_kk + D_kk)

(Craig, Goldstein, Seheult and Smith 1997, in Case Studies in Bayesian Statistics III; Williamson et al. 2013, Climate Dynamics 41, 1703).
f_k is what the model gives for the k-th observed value, E and Var are those of its emulator, R is the variance of the error of the
observation and D that of the discrepancy, what the model may be wrong by at its best. Above three a point is implausible whatever
the distribution of the errors, if that has one peak (the rule of Pukelsheim 1994, American Statistician 48, 88).
Every observed value of a problem is one target: problems of a few scalars are meant, such as `with_metrics` makes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax.emulator import LEAST
from landcal_jax.errors import complain
from landcal_jax.gp import GaussianProcesses
from landcal_jax.gp_fitting import basis_size
from landcal_jax.observations import Observations

MOST_TARGETS = 200
BLOCKS = (2048, 256)  # points that go through the emulators at once
MOST_FITTED = 160
"""Runs from which hyperparameters are found, which takes the cube of their number: they are known from fewer runs than predictions need."""


class Targets(NamedTuple):
    """What the model is to meet: labels, values and variances (observation error and discrepancy), each (target,); units by label."""

    labels: tuple[str, ...]
    values: np.ndarray
    observation: np.ndarray
    discrepancy: np.ndarray
    units: tuple[str, ...]

    @property
    def variance(self) -> np.ndarray:
        """Of observation error and discrepancy together (target,)."""
        return self.observation + self.discrepancy


def targets_of(observations: Observations, discrepancy: Mapping[str, ArrayLike] | None = None) -> Targets:
    """The observed values of all streams as targets, in the order of streams, sites and observations; what is masked is none.

    `discrepancy`: stream -> standard deviation in units of the stream, a number or (site, n_obs). Weights of streams have no part.
    Raises KeyError for unknown streams, ValueError for negative numbers, and where there are no targets, or more than 200.
    """
    labels, units, parts = [], [], []
    if unknown := [name for name in discrepancy or {} if name not in observations]:
        raise KeyError(complain(f"discrepancies of the streams {', '.join(observations)}", ", ".join(unknown), "correct the names"))
    for name, stream in observations.items():
        mask = np.asarray(stream.mask)
        more = np.asarray((discrepancy or {}).get(name, 0.0), float)
        if not (np.isfinite(more) & (more >= 0)).all():
            raise ValueError(complain(f"a discrepancy of {name} of zero or more", f"{more}", "a standard deviation in units of the stream"))
        parts.append([np.asarray(stream.values)[mask], np.asarray(stream.standard_deviation)[mask] ** 2,
                      np.broadcast_to(more, mask.shape)[mask] ** 2])
        labels += [_label(name, observations.sites, mask.shape, *place) for place in np.argwhere(mask)]
        units += [stream.units] * int(mask.sum())
    if not 0 < len(labels) <= MOST_TARGETS:
        raise ValueError(complain(f"1 to {MOST_TARGETS} observed values", f"{len(labels)}",
                                  "metrics of the series: landcal_jax.metrics.with_metrics"))
    return Targets(tuple(labels), *np.concatenate(parts, axis=1), tuple(units))


def _label(name: str, sites, shape: tuple[int, int], site: int, place: int) -> str:
    where = ([str(sites[site])] if shape[0] > 1 else []) + ([str(place)] if shape[1] > 1 else [])
    return f"{name}[{', '.join(where)}]" if where else name


def values_of(observations: Observations, predicted: Mapping[str, np.ndarray]) -> np.ndarray:
    """What members give for the targets, (member, target), of the streams {name: (member, site, n_obs)} that `ensemble` gives."""
    return np.concatenate([np.asarray(predicted[name], float)[:, np.asarray(stream.mask)] for name, stream in observations.items()], axis=1)


def implausibility(mean: ArrayLike, variance: ArrayLike, targets: Targets) -> np.ndarray:
    """I of each target, (point, target), from mean and variance (point, target) of an emulator; variance 0 is the model itself."""
    return np.abs(np.asarray(mean) - targets.values) / np.sqrt(np.asarray(variance) + targets.variance)


def largest(values: np.ndarray, valmax: int = 0) -> np.ndarray:
    """The largest implausibility (point,) of those (point, target) that is left when `valmax` may fail; 0 if there are no more."""
    return np.partition(values, -1 - valmax, axis=1)[:, -1 - valmax] if values.shape[1] > valmax else np.zeros(len(values))


@dataclass(frozen=True)
class Judge:
    """What one wave says of any point: emulators of the targets that they learned something of.

    `used` (target,): which; `processes`: their emulators, None where none learned anything. `r2` (target,): the share of the variance that
    leave-one-out predictions explain; `inflation` (target,): by what the variance of the emulator is multiplied, the mean squared
    standardised leave-one-out error where that is above one.
    """

    targets: Targets
    processes: GaussianProcesses | None
    used: np.ndarray
    r2: np.ndarray
    inflation: np.ndarray
    valmax: int = 0

    def moments(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and variance (point, used target) of the emulators at u (point, n)."""
        if self.processes is None or not len(u):
            return np.zeros((len(u), self.used.sum())), np.ones((len(u), self.used.sum()))
        # Of a few fixed lengths, filled up: every other one would be compiled.
        parts, start = [], 0
        while start < len(u):
            size = BLOCKS[0] if len(u) - start >= BLOCKS[0] else BLOCKS[1]
            block = u[start : start + size]
            found = self.processes.predict(2.0 * np.pad(block, ((0, size - len(block)), (0, 0))) - 1.0)
            parts.append([np.asarray(array)[: len(block)] for array in found])
            start += size
        mean, variance = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, variance * self.inflation[self.used]

    def implausibility(self, u: np.ndarray) -> np.ndarray:
        """I (point, used target) at u (point, n)."""
        return implausibility(*self.moments(u), self._wanted)

    def score(self, u: np.ndarray) -> np.ndarray:
        """The implausibility that counts (point,) at u (point, n)."""
        return largest(self.implausibility(u), self.valmax)

    def doubt(self, u: np.ndarray) -> np.ndarray:
        """Variance of the emulators over that of observations and discrepancy, (point, used target), at u (point, n)."""
        return self.moments(u)[1] / self._wanted.variance

    @property
    def _wanted(self) -> Targets:
        chosen = tuple(np.asarray(part)[self.used] for part in self.targets[1:4])
        return self.targets._replace(values=chosen[0], observation=chosen[1], discrepancy=chosen[2])


def judge_of(u: np.ndarray, values: np.ndarray, targets: Targets, *, valmax: int = 0, mean: str = "linear", key: Array | int = 0) -> Judge:
    """Fit emulators to runs at u (run, n) that gave `values` (run, target), all finite.

    Of more than `MOST_FITTED` runs (and twice the coefficients of the mean) every so manieth is what hyperparameters are found from; all
    of them are then learned with these.

    Those that learned nothing, with a leave-one-out R2 below `emulator.LEAST`, are not used. A target whose values are the same in all
    runs is not used either: nothing can be learned of it there. `mean`: of the Gaussian processes, see `GaussianProcesses.fit`, which
    raises ValueError for too few runs.
    """
    most = max(MOST_FITTED, 2 * basis_size(mean, u.shape[1]))
    first = np.unique(np.linspace(0, len(u) - 1, min(len(u), most)).round().astype(int))
    rest = np.setdiff1d(np.arange(len(u)), first)
    varies = np.ptp(values[first], axis=0) > 1e-9 * np.maximum(np.abs(values[first]).max(axis=0), 1e-300)
    r2, inflation = np.zeros(len(targets.labels)), np.ones(len(targets.labels))
    if not varies.any():
        return Judge(targets, None, varies, r2, inflation, valmax)
    fitted = GaussianProcesses.fit(2.0 * u[first] - 1.0, values[first][:, varies], mean=mean, key=key)
    if len(rest):
        fitted = fitted.updated(2.0 * u[rest] - 1.0, values[rest][:, varies])
    values = np.concatenate([values[first], values[rest]])
    predicted, variance = fitted.leave_one_out()
    square = (values[:, varies] - predicted) ** 2
    r2[varies] = 1.0 - square.mean(axis=0) / values[:, varies].var(axis=0)
    inflation[varies] = np.maximum(1.0, (square / variance).mean(axis=0))
    used = varies & (r2 > LEAST)
    processes = fitted.only(np.flatnonzero(used[varies])) if used.any() else None
    return Judge(targets, processes, used, r2, inflation, valmax)
