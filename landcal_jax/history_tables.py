"""What a history match found, as Datasets: by wave, by pairs of parameters, and the runs of each wave as time series.

`landcal_jax.plot_history_matching` draws them. Points are handled by their ranks, the prior quantiles of each parameter, so that
a parameter of any prior has bins of equal prior probability.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray as xr
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from landcal_jax.errors import complain
from landcal_jax.problem import Problem

History = Any
"""A `history_matching.History`, which is above this module."""


def waves(history: History) -> xr.Dataset:
    """Everything by wave: `fraction` and `fraction_error` (wave,) of the prior; of each target `r2`, `inflation` and `used` (wave, target),
    `target_value`, `target_sd` (observation error and discrepancy) and `target_units`; `design` (wave, run, parameter) in physical units
    and `values` (wave, run, target), NaN where a run failed or a wave had fewer; `left` (draw, parameter), points of what is left."""
    _require(history)
    targets, space = history.targets, history.problem.space
    number, runs = len(history.waves), max(len(wave.z) for wave in history.waves)
    design, values = np.full((number, runs, space.size), np.nan), np.full((number, runs, len(targets.labels)), np.nan)
    for place, wave in enumerate(history.waves):
        design[place, : len(wave.z)] = _flat(history, wave.z)
        values[place, : len(wave.z)] = wave.values
    judged = {name: np.array([getattr(wave.judge, name) for wave in history.waves]) for name in ("used", "r2", "inflation")}
    left = np.zeros((0, space.size)) if history.empty else _flat(history, ndtri(history.cloud.points))
    return xr.Dataset(
        {"fraction": ("wave", [wave.cloud.fraction for wave in history.waves], {"units": "1"}),
         "fraction_error": ("wave", [wave.cloud.fraction_error for wave in history.waves], {"units": "1"}),
         "runs": ("wave", [len(wave.z) for wave in history.waves]),
         "failed": ("wave", [int((~wave.finished).sum()) for wave in history.waves]),
         "note": ("wave", ["; ".join(wave.notes) for wave in history.waves]),
         **{name: (("wave", "target"), array) for name, array in judged.items()},
         "target_value": ("target", targets.values), "target_sd": ("target", np.sqrt(targets.variance)),
         "target_units": ("target", list(targets.units)),
         "design": (("wave", "run", "parameter"), design), "values": (("wave", "run", "target"), values),
         "left": (("draw", "parameter"), left)},
        coords={"wave": np.arange(1, number + 1), "target": list(targets.labels), "parameter": list(space.labels)},
        attrs={"cutoff": history.cutoff, "valmax": history.valmax, "status": history.status, "model_runs": history.runs})


def matrix(history: History, *, bins: int = 15, points: int = 8192) -> xr.Dataset:
    """What is left, by pairs of parameters: `density`, the fraction of the prior in a bin of the pair that is not ruled out, and
    `least_implausibility`, the least of the implausibilities that count (the largest of all waves) among the points in the bin.

    Both are (parameter, other, bin, other_bin), symmetric, NaN for a parameter with itself. `edges` (parameter, edge), physical units;
    bins hold equal shares of the prior of each parameter, and end at ranks of 1e-9. The least is taken over `points` spread over the
    prior, a power of two, and all those that the waves left; in bins that none of them lies in it is NaN.
    """
    _require(history)
    if points < 2 or points & (points - 1) or bins < 2:
        raise ValueError(complain("two bins or more, a power of two of points", f"bins={bins}, points={points}", "bins=15, points=8192"))
    n = history.problem.space.size
    first = qmc.Sobol(n, rng=0).random(points)
    everywhere = np.concatenate([first, *(wave.cloud.points for wave in history.waves)])
    scores = history.scores(ndtri(everywhere)).max(axis=0)
    places = _bins(history, everywhere, bins)
    weights = np.zeros(0) if history.empty else np.repeat(history.cloud.fractions[history.cloud.fractions > 0], history.cloud.u.shape[1])
    inside = _bins(history, history.cloud.points, bins)
    least, density = np.full((n, n, bins, bins), np.inf), np.zeros((n, n, bins, bins))
    for i, j in combinations(range(n), 2):
        np.minimum.at(least[i, j], (places[:, i], places[:, j]), scores)
        np.add.at(density[i, j], (inside[:, i], inside[:, j]), weights)
        density[i, j] *= history.fraction / (max(weights.sum(), 1e-300) * _prior_shares(history, i, j, bins))
        least[j, i], density[j, i] = least[i, j].T, density[i, j].T
    least[~np.isfinite(least)] = density[np.arange(n), np.arange(n)] = np.nan
    dims, labels = ("parameter", "other", "bin", "other_bin"), list(history.problem.space.labels)
    edges = _physical_of_ranks(history, np.linspace(0, 1, bins + 1))
    return xr.Dataset(
        {"density": (dims, density, {"units": "1"}), "least_implausibility": (dims, least, {"units": "1"}),
         "edges": (("parameter", "edge"), edges.T)},
        coords={"parameter": labels, "other": labels},
        attrs={"cutoff": history.cutoff, "fraction": history.fraction, "fraction_error": history.fraction_error,
               "waves": len(history.waves)})


def envelopes(history: History, series: Problem, *, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> xr.Dataset:
    """Quantiles over the runs of each wave of the streams of `series`, a problem with the same parameters whose streams are series.

    `<stream>` (wave, quantile, site, <stream>_obs), `<stream>_observed` (site, <stream>_obs), NaN where nothing was, and `<stream>_time`
    where it has times. Designs are run again; runs that fail are left out, their number is `failed` (wave,).
    Raises ValueError for a problem with other parameters, RuntimeError for a wave in which no run finishes.
    """
    _require(history)
    if series.space.labels != history.problem.space.labels:
        raise ValueError(complain(f"a problem with the parameters {', '.join(history.problem.space.labels)}",
                                  ", ".join(series.space.labels), "the problem that with_metrics was given"))
    predicted = [{name: np.asarray(values, float) for name, values in series.ensemble(jnp.asarray(wave.z)).items()}
                 for wave in history.waves]
    masks = {name: np.asarray(stream.mask) for name, stream in series.observations.items()}
    finished = [np.all([np.isfinite(np.where(mask, runs[name], 0.0)).all(axis=(1, 2)) for name, mask in masks.items()], axis=0)
                for runs in predicted]
    if lost := [number for number, good in enumerate(finished, 1) if not good.any()]:
        raise RuntimeError(complain("runs that finish in every wave", f"none in wave {', '.join(map(str, lost))}"
                                    f"{series.forward.failure_words()}", "look at the messages of the model"))
    failed, variables = [int((~good).sum()) for good in finished], {}
    for name, stream in series.observations.items():
        mask, dims = masks[name], ("site", f"{name}_obs")
        bands = np.array([np.quantile(runs[name][good], quantiles, axis=0) for runs, good in zip(predicted, finished, strict=True)])
        variables[name] = (("wave", "quantile", *dims), bands, {"units": stream.units})
        variables[f"{name}_observed"] = (dims, np.where(mask, np.asarray(stream.values), np.nan), {"units": stream.units})
        if stream.time is not None:
            variables[f"{name}_time"] = (dims, stream.time)
    return xr.Dataset(variables | {"failed": ("wave", failed)}, coords={
        "wave": np.arange(1, len(history.waves) + 1), "quantile": list(quantiles), "site": list(series.observations.sites)})


def _require(history: History) -> None:
    if not history.waves:
        raise ValueError(complain("a history with a wave or more", "none", "history_match(problem), or history.told(z, values)"))


def _flat(history: History, z: np.ndarray) -> np.ndarray:
    """Free physical parameters (point, n) of z (point, n)."""
    space = history.problem.space
    return np.asarray(space.flatten(space.physical(jnp.asarray(z))))


def _bins(history: History, u: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each parameter of points u (point, n): that of its rank, which is u itself where parameters are independent."""
    factor = history.problem.space.factor
    ranks = u if factor is None else ndtr(ndtri(u) @ np.asarray(factor).T)
    return np.minimum((ranks * bins).astype(int), bins - 1)


def _prior_shares(history: History, i: int, j: int, bins: int) -> np.ndarray:
    """The shares of the prior in the bins of two parameters, (bin, bin), which differ where these are correlated."""
    factor = history.problem.space.factor
    if factor is None:
        return np.full((bins, bins), bins**-2.0)
    factor = np.asarray(factor)
    r = factor[i] @ factor[j]
    # Given the first rank the second is normal: its chances, in the mean over each bin of the first (Gauss and Legendre).
    node, weight = np.polynomial.legendre.leggauss(20)
    first = ndtri((np.arange(bins)[:, None] + 0.5 * (node + 1.0)) / bins)
    second = ndtri(np.linspace(0.0, 1.0, bins + 1))
    chances = ndtr((second - r * first[..., None]) / np.sqrt(1.0 - r**2))
    return np.einsum("q,iqj->ij", 0.5 * weight / bins, np.diff(chances, axis=-1))


def _physical_of_ranks(history: History, ranks: np.ndarray) -> np.ndarray:
    """Physical values (rank, parameter) of every parameter at these ranks."""
    factor, n = history.problem.space.factor, history.problem.space.size
    correlated = np.repeat(ndtri(np.clip(ranks, 1e-9, 1 - 1e-9))[:, None], n, axis=1)
    return _flat(history, correlated if factor is None else np.linalg.solve(np.asarray(factor), correlated.T).T)
