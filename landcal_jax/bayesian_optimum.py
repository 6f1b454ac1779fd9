"""What a Bayesian search has found: the best run by the posterior mean, every run, and how it came there."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.special import ndtr

from landcal_jax.gp import GaussianProcesses
from landcal_jax.model import Theta
from landcal_jax.parameters import ParameterSpace

EVEN = 0.5  # the probability of all constraints from which a run counts as keeping them
SDS = 1.959964  # of a normal distribution to either side of its mean, between which lie 95 %
NEAR_EDGE = 0.005  # quantile of the prior that counts as its edge
TRACE = ("runs", "failed", "mean", "sd", "likely", "lowest", "noise", "row", "gain")


class Runs(NamedTuple):
    """Runs that were asked for or told.

    Arrays with one row a run: `z` (run, n); `values`, NaN where one has failed (or was not made yet), and the `noise` of each,
    NaN where it is not known; `limits` (run, constraint); `gain`: the log of the improvement that was expected of it, NaN where it was not
    proposed; `iteration`: the batch.
    """

    z: np.ndarray
    values: np.ndarray
    noise: np.ndarray
    limits: np.ndarray
    gain: np.ndarray
    iteration: np.ndarray

    @classmethod
    def none(cls, n: int, constraints: int) -> "Runs":
        """No runs of n parameters."""
        empty = np.zeros(0)
        return cls(np.zeros((0, n)), empty, empty, np.zeros((0, constraints)), empty, np.zeros(0, int))

    @property
    def finished(self) -> np.ndarray:
        """Which have not failed (run,)."""
        return np.isfinite(self.values)

    def extended(self, **new: np.ndarray) -> "Runs":
        """With more of them; what is not given is NaN."""
        rows = len(new["z"])
        missing = {name: np.full((rows, *old.shape[1:]), np.nan) for name, old in self._asdict().items() if name not in new}
        return Runs(**{name: np.concatenate([old, (new | missing)[name]]) for name, old in self._asdict().items()})

    def without(self, Z: np.ndarray, iteration: int) -> tuple["Runs", np.ndarray, np.ndarray]:
        """Those that are not in Z (run, n), and gain and iteration (run,) of those in Z: NaN and `iteration` for what is not here."""
        gain, of, left = np.full(len(Z), np.nan), np.full(len(Z), iteration), np.ones(len(self.z), bool)
        for row, z in enumerate(Z):
            here = np.flatnonzero(left & (self.z == z).all(axis=1))
            if here.size:
                gain[row], of[row], left[here[0]] = self.gain[here[0]], self.iteration[here[0]], False
        return Runs(*(array[left] for array in self)), gain, of


class Model(NamedTuple):
    """Processes fitted to the finished runs, with moments of the objective at these.

    `processes`: that of the objective and, where there are any, those of the constraints; `success`: below zero where runs finish;
    `x` (finished, n) in [-1, 1], `mean`, `sd` and `likely` (finished,), the last the probability that all constraints hold.
    """

    processes: tuple[GaussianProcesses, ...]
    success: GaussianProcesses | None
    x: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    likely: np.ndarray

    @property
    def order(self) -> np.ndarray:
        """Finished runs, the best first: those that keep the constraints at even chance, by mean; then the others, by that chance."""
        keeps = self.likely >= EVEN
        return np.lexsort((np.where(keeps, self.mean, -self.likely), ~keeps))


class Optimum(NamedTuple):
    """What a search has found; printing it gives its sentences.

    `z` (n,), `theta`, `parameters` (Dataset with units): the run with the lowest posterior mean, among those that keep all constraints
    with at least even chance. `value` and `interval`: the objective there without the noise of a run, and the bounds between which
    it lies with 95 %; where the logarithm was modelled `value` is the median. `runs`: a Dataset of every run; `convergence`: one of
    the best as it was known after so many runs. `counts`: {"forward": runs, "failed": of them}; `seconds`: {"search", "runs"};
    `sentences`: what a reader has to know.
    """

    z: Array
    theta: Theta
    parameters: xr.Dataset
    value: float
    interval: tuple[float, float]
    runs: xr.Dataset
    convergence: xr.Dataset
    counts: dict[str, int]
    seconds: dict[str, float]
    sentences: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.sentences)


def lowest(told: Runs) -> float:
    """The lowest value of a finished run whose constraints were kept; NaN if there is none."""
    kept = told.finished & (told.limits <= 0).all(axis=1)
    return float(told.values[kept].min()) if kept.any() else np.nan


def report(
    space: ParameterSpace, told: Runs, constraints: Sequence[str], logarithm: bool, model: Model, trace: np.ndarray,
    seconds: dict[str, float], where_failed: str,
) -> Optimum:
    """The result of a search from its runs, the processes fitted to them and the trace of the best; `where_failed`: in words."""
    back = np.exp if logarithm else np.asarray
    place = model.order[0]
    row = int(np.flatnonzero(told.finished)[place])
    z = jnp.asarray(told.z[row])
    theta = space.physical(z)
    interval = tuple(float(back(model.mean[place] + sign * SDS * model.sd[place])) for sign in (-1, 1))
    value = float(back(model.mean[place]))
    counts = {"forward": len(told.values), "failed": int((~told.finished).sum())}
    sentences = _sentences(space, told, constraints, logarithm, model, trace, row, value, interval, where_failed)
    return Optimum(z, theta, space.to_dataset(theta), value, interval, _runs(space, told, constraints, model, back),
                   _convergence(trace, back, logarithm), counts, seconds, sentences)


def _runs(space, told, constraints, model, back) -> xr.Dataset:
    """Every run: where, what it gave, what the processes make of it now."""
    theta = np.asarray(space.flatten(space.physical(jnp.asarray(told.z))))
    smooth = np.full((3, len(told.values)), np.nan)
    smooth[:, told.finished] = back(model.mean + SDS * model.sd * np.array([[0], [-1], [1]]))
    columns = {"value": (told.values, "value of the run, NaN where it failed"), "mean": (smooth[0], "posterior, without noise"),
               "low": (smooth[1], "2.5 % quantile of the posterior"), "high": (smooth[2], "97.5 % quantile of the posterior"),
               "gain": (np.exp(told.gain), "improvement that was expected of the run, of the logarithm where that is modelled"),
               "iteration": (told.iteration, "batch of the run"), "failed": (~told.finished, "whether the run failed")}
    data = {name: ("run", values, {"long_name": text}) for name, (values, text) in columns.items()}
    data |= {name: ("run", told.limits[:, k], {"long_name": "constraint, kept where zero or less"}) for k, name in enumerate(constraints)}
    data |= {"theta": (("run", "parameter"), theta, {"long_name": "parameters in their units"}),
             "z": (("run", "parameter"), told.z, {"long_name": "control vector", "units": "1"})}
    return xr.Dataset(data, coords={"run": np.arange(1, len(told.values) + 1), "parameter": list(space.labels)})


def _convergence(trace: np.ndarray, back, logarithm: bool) -> xr.Dataset:
    """The best after so many runs, as it was known then."""
    of = dict(zip(TRACE, trace.T, strict=True))
    columns = {
        "best": (back(of["mean"]), "lowest posterior mean of a run"), "low": (back(of["mean"] - SDS * of["sd"]), "its 2.5 % quantile"),
        "high": (back(of["mean"] + SDS * of["sd"]), "its 97.5 % quantile"), "lowest": (of["lowest"], "lowest value of a run"),
        "noise": (of["noise"], "fitted standard deviation of a run" + ", of its logarithm" * logarithm),
        "gain": (np.exp(of["gain"]), "expected improvement of the next run" + ", of the logarithm" * logarithm),
        "run": (of["row"].astype(int) + 1, "number of the best run"),
        "likely": (of["likely"], "probability that the best keeps all constraints"), "failed": (of["failed"].astype(int), "failed runs")}
    return xr.Dataset({name: ("runs", values, {"long_name": text}) for name, (values, text) in columns.items()},
                      coords={"runs": of["runs"].astype(int)})


def _sentences(space, told, constraints, logarithm, model, trace, row, value, interval, where_failed) -> tuple[str, ...]:
    """What a reader has to know of the result."""
    number = len(told.values)
    said = [f"The lowest posterior mean is {value:.4g} (95 % interval {interval[0]:.4g} to {interval[1]:.4g}, without noise), "
            f"at run {row + 1} of {number}."]
    last = dict(zip(TRACE, trace[-1], strict=True))
    of_what = " of the logarithm" if logarithm else ""
    if np.isfinite(last["noise"]):
        said.append(f"Noise of a single run{of_what}, fitted: standard deviation {last['noise']:.2g}.")
    lucky = np.where(told.finished & (told.limits <= 0).all(axis=1), told.values, np.inf)
    if lucky.min() < interval[0]:
        said.append(f"The lowest single value, {lucky.min():.4g} at run {int(np.argmin(lucky)) + 1}, is taken for luck or noise.")
    if constraints:
        chance = model.likely[model.order[0]]
        said.append(f"It keeps {', '.join(constraints)} with probability {chance:.2g}." if chance >= EVEN else
                    f"No run keeps {', '.join(constraints)} with even chance: this is the one that does most likely ({chance:.2g}).")
    if not told.finished.all():
        said.append(f"{(~told.finished).sum()} of {number} runs failed{where_failed}. They have no value; later places were "
                    "weighed by the probability that a run finishes.")
    at_edge = [label for label, u in zip(space.labels, ndtr(told.z[row]), strict=True) if min(u, 1 - u) < NEAR_EDGE]
    if at_edge:
        said.append(f"{', '.join(at_edge)}: at the edge of the prior, beyond which nothing was searched.")
    proposed = trace[np.isfinite(trace[:, -1])]
    if len(proposed):
        gain, after = np.exp(proposed[-1, -1]), int(proposed[-1, 0])
        said.append(f"After {after} runs another one was expected to lower the {'logarithm of the ' * logarithm}objective by {gain:.2g}.")
    return tuple(said)
