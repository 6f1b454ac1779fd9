"""What a Bayesian search has found: the best run by the posterior mean, every run, and how it came there."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.special import ndtr

from landcal_jax.bayesian_model import EVEN, Model, Runs
from landcal_jax.model import Theta
from landcal_jax.parameters import ParameterSpace

NEAR_EDGE = 0.005  # quantile of the prior that counts as its edge
TRACE = ("runs", "failed", "best", "low", "high", "likely", "lowest", "noise", "row", "gain")


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
    place = model.order[0]
    row = int(np.flatnonzero(told.finished)[place])
    z = jnp.asarray(told.z[row])
    theta = space.physical(z)
    value, interval = float(model.mean[place]), (float(model.low[place]), float(model.high[place]))
    counts = {"forward": len(told.values), "failed": int((~told.finished).sum())}
    sentences = _sentences(space, told, constraints, logarithm, model, trace, row, value, interval, where_failed)
    return Optimum(z, theta, space.to_dataset(theta), value, interval, _runs(space, told, constraints, model),
                   _convergence(trace, logarithm), counts, seconds, sentences)


def _runs(space, told, constraints, model) -> xr.Dataset:
    """Every run: where, what it gave, what the processes make of it now."""
    theta = np.asarray(space.flatten(space.physical(jnp.asarray(told.z))))
    smooth = np.full((3, len(told.values)), np.nan)
    smooth[:, told.finished] = model.mean, model.low, model.high
    columns = {"value": (told.values, "value of the run, NaN where it failed"), "mean": (smooth[0], "posterior, without noise"),
               "low": (smooth[1], "2.5 % quantile of the posterior"), "high": (smooth[2], "97.5 % quantile of the posterior"),
               "gain": (np.exp(told.gain), "improvement that was expected of the run, of the logarithm where that is modelled"),
               "iteration": (told.iteration, "batch of the run"), "failed": (~told.finished, "whether the run failed")}
    data = {name: ("run", values, {"long_name": text}) for name, (values, text) in columns.items()}
    data |= {name: ("run", told.limits[:, k], {"long_name": "constraint, kept where zero or less"}) for k, name in enumerate(constraints)}
    data |= {"theta": (("run", "parameter"), theta, {"long_name": "parameters in their units"}),
             "z": (("run", "parameter"), told.z, {"long_name": "control vector", "units": "1"})}
    return xr.Dataset(data, coords={"run": np.arange(1, len(told.values) + 1), "parameter": list(space.labels)})


def _convergence(trace: np.ndarray, logarithm: bool) -> xr.Dataset:
    """The best after so many runs, as it was known then."""
    of = dict(zip(TRACE, trace.T, strict=True))
    columns = {
        "best": (of["best"], "lowest posterior mean of a run"), "low": (of["low"], "its 2.5 % quantile"),
        "high": (of["high"], "its 97.5 % quantile"), "lowest": (of["lowest"], "lowest value of a run"),
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
        said.append(f"Noise of a single run{of_what}, standard deviation {last['noise']:.2g}.")
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
