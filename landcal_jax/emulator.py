"""Emulators: Gaussian processes of what a model would give, learned from some runs, as a forward map with derivatives and known errors.

    Z = latin_hypercube(problem, 10 * problem.space.size, key=0)
    emulator = emulate(problem, Z)                       # runs the model at Z; external models too
    print(emulator.check().attrs["verdict"])
    fast = problem.with_forward(emulator)                # any solver, NUTS included; J knows the emulator's error

Inputs are x = 2 Phi(z) - 1, in (-1, 1), uniform under the prior. A stream of one value at each site has one process for each value; a
series is expanded into principal components, computed on its observed values in units of its errors, with one process for each
(Higdon et al. 2008, Journal of the American Statistical Association 103, 570; Salter & Williamson 2019, Bayesian Analysis 14, 899).
The error of a series is W' diag(v(theta)) W + diag(d): that of the components, which errs together, and what truncation left out.

An emulator that learned nothing is refused: from a stream whose leave-one-out R2 is below `LEAST` no J is made.
"""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from jax.scipy.special import erf
from jax.typing import ArrayLike
from scipy.special import ndtri
from scipy.stats import qmc

from landcal_jax.errors import complain
from landcal_jax.forward import AbstractForward
from landcal_jax.gp import GaussianProcesses
from landcal_jax.keys import key_of
from landcal_jax.map_error import MapError
from landcal_jax.observations import Stream
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem

LEAST = 0.1
"""Leave-one-out R2 below which a stream counts as not learned."""
NORMAL_95 = 1.959964


class Pattern(eqx.Module):
    """How one stream is made of outputs of the processes: values = centre + sum_k output_k basis_k, error beside `truncated`.

    `centre` (site, n_obs); `truncated`, a variance of this shape; `basis` (k, site, n_obs). `weights` (k,): the share that each output
    has of the variance of the observed values, in units of their errors; what is missing from one was truncated. `series`: whether an
    output makes several values, which then err together.
    """

    centre: Array
    basis: Array
    truncated: Array
    weights: Array
    columns: tuple[int, int] = eqx.field(static=True)
    series: bool = eqx.field(static=True)

    def of(self, outputs: Array) -> Array:
        """Values (site, n_obs) from all outputs (k,)."""
        return self.centre + jnp.tensordot(outputs[slice(*self.columns)], self.basis, 1)


class Emulator(AbstractForward):
    """What `emulate` gives: a forward map. Without its error in J, see `mean_only`.

    `z` (run, n) and `values` {stream: (run, site, n_obs)} are the runs it learned from; `failed` says how many others failed and were
    left out. `refused`: streams that were not learned, with the reason; calling the map for one of them raises ValueError.
    """

    space: ParameterSpace
    processes: GaussianProcesses
    patterns: dict[str, Pattern]
    z: Array
    values: dict[str, Array]
    model: str = eqx.field(static=True)
    units: dict[str, str] | None = eqx.field(static=True)
    refused: dict[str, str] = eqx.field(static=True)
    failed: int = eqx.field(static=True)
    with_error: bool = eqx.field(static=True, default=True)
    differentiable: bool = eqx.field(static=True, default=True, init=False)

    def __call__(self, theta, operators):
        self._require(operators)
        outputs, _ = self.processes.predict(self.inputs(theta))
        return {name: self.patterns[name].of(outputs) for name in operators}

    @property
    def uncertain(self):
        return self.with_error

    def covariance(self, theta, operators):
        """{stream: MapError(diagonal (site, n_obs), basis (k, site, n_obs), variances (k,))} at theta."""
        self._require(operators)
        _, variance = self.processes.predict(self.inputs(theta))

        def of(pattern: Pattern) -> MapError:
            own = variance[slice(*pattern.columns)]
            if pattern.series:
                return MapError(pattern.truncated, pattern.basis, own)
            return MapError(pattern.truncated + jnp.tensordot(own, pattern.basis**2, 1), pattern.basis[:0], own[:0])

        return {name: of(self.patterns[name]) for name in operators}

    def mean_only(self) -> "Emulator":
        """The same emulator as if it were exact: J is then a sum of squares, for `LevenbergMarquardt` and `GaussNewton`."""
        return dataclasses.replace(self, with_error=False)

    def inputs(self, theta: Mapping[str, ArrayLike]) -> Array:
        """x = 2 Phi(z) - 1 of theta, (n,)."""
        return _inputs(self.space.whiten(theta))

    @eqx.filter_jit
    def mean_variance(self, z: ArrayLike) -> tuple[dict[str, Array], dict[str, Array]]:
        """Mean and variance of every learned stream at z (n,) or (member, n): {stream: (..., site, n_obs)} each."""
        outputs, variance = self.processes.predict(_inputs(jnp.asarray(z)))
        learned = {name: pattern for name, pattern in self.patterns.items() if name not in self.refused}

        def spread(pattern):
            own = variance[..., slice(*pattern.columns)]
            return pattern.truncated + jnp.tensordot(own, pattern.basis**2, 1)

        def middle(pattern):
            return pattern.centre + jnp.tensordot(outputs[..., slice(*pattern.columns)], pattern.basis, 1)

        return {name: middle(p) for name, p in learned.items()}, {name: spread(p) for name, p in learned.items()}

    def variance(self, theta: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Variance of every learned stream at theta, (site, n_obs)."""
        return self.mean_variance(self.space.whiten(theta))[1]

    def check(self) -> xr.Dataset:
        """What leaving out one run after the other says: is the emulator to be trusted?

        By `output` (a stream, its site, or a principal component "nee 1") and `run`: `run_value`, `predicted`, `deviation` and
        `standardised_error`; by `output`: `r2`, `coverage` of 95 % intervals, `spread` of the standardised errors (one if the
        variance is right) and `weight` in its stream; by `stream`: `stream_r2`, `truncated`, the share of the variance that its
        components leave out, and `learned`, false where it is refused. Attribute `verdict`: sentences.
        """
        labels, weights = _labels(self.patterns)
        mean, variance = self.processes.leave_one_out()
        error = (self.processes.y - mean) / np.sqrt(variance)
        both = ("run", "output")
        ds = xr.Dataset(
            {"run_value": (both, self.processes.y), "predicted": (both, mean), "deviation": (both, np.sqrt(variance)),
             "standardised_error": (both, error), "r2": ("output", _r2(self.processes.y, mean)),
             "coverage": ("output", np.mean(np.abs(error) < NORMAL_95, axis=0)),
             "spread": ("output", np.sqrt(np.mean(error**2, axis=0))), "weight": ("output", weights),
             "stream_r2": ("stream", [_stream_r2(self.processes, pattern) for pattern in self.patterns.values()]),
             "truncated": ("stream", [1.0 - float(jnp.sum(pattern.weights)) for pattern in self.patterns.values()]),
             "learned": ("stream", [name not in self.refused for name in self.patterns])},
            coords={"output": labels, "stream": list(self.patterns)})
        for name in ds.data_vars:
            ds[name].attrs["units"] = "1"
        ds.attrs = {"verdict": "\n".join(self._sentences(ds)), "model": self.model, "failed": self.failed}
        return ds

    def _sentences(self, ds: xr.Dataset) -> list[str]:
        lines = [f"{len(self.z)} runs of {self.space.size} parameters; {self.failed} more failed and are left out."]
        for name, reason in self.refused.items():
            lines.append(f"{name} is refused: {reason}.")
        for name, r2 in zip(ds["stream"].values, ds["stream_r2"].values, strict=True):
            if name not in self.refused:
                lines.append(f"{name}: leave-one-out R2 {r2:.4g}.")
        if not ds["learned"].any():
            lines.append("The emulator is refused: it learned nothing that its mean does not say.")
        bold = [str(name) for name in ds["output"].values[(ds["spread"] > 1.5).values]]
        if bold:
            lines.append(f"Errors are more than 1.5 times as large as the emulator says for {', '.join(bold)}.")
        return lines

    def caveats(self, theta):
        x, runs = np.asarray(self.inputs(theta)), self.processes.x
        outside = [label for label, value, low, high in zip(self.space.labels, x, runs.min(axis=0), runs.max(axis=0), strict=True)
                   if not low <= value <= high]
        return (f"The emulator extrapolates: {', '.join(outside)} outside of its {len(runs)} runs.",) if outside else ()

    @property
    def name(self):
        return f"emulator of {self.model}"

    @property
    def description(self):
        return f"emulator of {self.model}, {self.processes.scaled_y.shape[1]} Gaussian processes of {len(self.z)} runs"

    @property
    def output_units(self):
        return self.units

    def _require(self, streams) -> None:
        for name in streams:
            if name in self.refused:
                raise ValueError(complain(f"an emulator that learned {name}", self.refused[name],
                                          "more runs, other free parameters, or a problem without that stream"))
            if name not in self.patterns:
                raise ValueError(complain(f"a stream of the emulator: {', '.join(self.patterns)}", name, "emulate(problem, Z) again"))


def latin_hypercube(problem: Problem, runs: int, *, key: Array | int = 0) -> np.ndarray:
    """A design z (run, n) that fills the prior evenly: a Latin hypercube in Phi(z) of low discrepancy. Ten runs a parameter is usual
    (Loeppky, Sacks & Welch 2009, Technometrics 51, 366)."""
    seed = np.random.default_rng(np.asarray(jax.random.key_data(key_of(key))).ravel().tolist())
    return ndtri(qmc.LatinHypercube(problem.space.size, rng=seed, optimization="random-cd").random(runs))


def emulate(
    problem: Problem, Z: ArrayLike, values: Mapping[str, ArrayLike] | None = None, *, keep: float = 0.9999, components: int = 30,
    mean: str = "linear", kernel: str = "matern52", noise: ArrayLike | None = None, key: Array | int = 0,
) -> Emulator:
    """Learn every stream of `problem` from runs at Z (run, n) in z: made here, or given as `values` {stream: (run, site, n_obs)}.

    A series keeps the principal components that have the share `keep` of its variance, `components` at most. `mean`, `kernel`, `noise`
    (None: a fitted nugget) and `key` are those of `GaussianProcesses.fit`. Runs with NaN among observed values failed: they are
    left out and counted. Fixed parameters keep their values.
    Raises ValueError for values of other shapes, too few runs, and where no stream varies; TypeError where errors are parameters.
    """
    if problem.errors is not None:
        raise TypeError(complain("a problem whose R is given", f"free errors of {', '.join(problem.errors.streams)}",
                                 "emulate first: problem.with_forward(emulator).with_error_parameters(...)"))
    Z = np.asarray(Z, float)
    values = problem.ensemble(Z) if values is None else values
    values = {name: _values_of(name, stream, values, len(Z)) for name, stream in problem.observations.items()}
    sound = np.isfinite(Z).all(axis=1)
    for name, stream in problem.observations.items():
        sound &= np.isfinite(values[name][:, np.asarray(stream.mask)]).all(axis=1)
    if not sound.any():
        raise ValueError(complain("runs that succeed", f"none of {len(Z)}", f"look at one: {problem.forward.failure_words()}"))
    values, refused, patterns, columns = {name: array[sound] for name, array in values.items()}, {}, {}, []
    for name, stream in problem.observations.items():
        made = _pattern(stream, values[name], keep, components, sum(part.shape[1] for part in columns))
        if made is None:
            same = f"its {int(stream.count)} values are the same in all {sound.sum()} runs"
            refused[name] = same if stream.count else "none of it is observed"
        else:
            patterns[name] = made[0]
            columns.append(made[1])
    if not columns:
        raise ValueError(complain("streams that vary from run to run", "; ".join(f"{n}: {why}" for n, why in refused.items()),
                                  "free parameters that matter to them"))
    processes = GaussianProcesses.fit(
        np.asarray(_inputs(Z[sound])), np.concatenate(columns, axis=1), mean=mean, kernel=kernel, noise=noise, key=key)
    for name, pattern in patterns.items():
        r2 = _stream_r2(processes, pattern)
        if not r2 >= LEAST:
            refused[name] = f"leave-one-out R2 {r2:.2g}: its mean would do as well"
    kept, forward = {name: jnp.asarray(array) for name, array in values.items()}, problem.forward
    return Emulator(problem.space, processes, patterns, jnp.asarray(Z[sound]), kept, forward.name, forward.output_units, refused,
                    int((~sound).sum()))


def _inputs(z: ArrayLike) -> Array:
    return erf(jnp.asarray(z) / jnp.sqrt(2.0))


def _values_of(name: str, stream: Stream, values: Mapping[str, ArrayLike], runs: int) -> np.ndarray:
    shape = (runs, *stream.values.shape)
    if name not in values or np.shape(values[name]) != shape:
        got = f"shape {np.shape(values[name])}" if name in values else f"values of {', '.join(values)}"
        raise ValueError(complain(f"values of {name} of shape {shape} (run, site, n_obs)", got, "problem.ensemble(Z)"))
    return np.asarray(values[name], float)


def _pattern(stream: Stream, values: np.ndarray, keep: float, most: int, first: int) -> tuple[Pattern, np.ndarray] | None:
    """How a stream is expanded, and its outputs (run, k) for the processes; None where it does not vary."""
    runs, sites, n_obs = values.shape
    centre = values.mean(axis=0)
    anomalies = (values - centre).reshape(runs, -1)
    error = stream.with_model_error(stream.model_error.completed(jnp.nan_to_num(jnp.asarray(centre)))).standard_deviation
    seen = np.asarray(stream.mask).ravel()
    weighted = anomalies[:, seen] / np.asarray(error).ravel()[seen]
    vary = np.ptp(values.reshape(runs, -1), axis=0) > 1e-10 * np.abs(values).max(axis=0).ravel()
    if not vary[seen].any() or runs < 3:
        return None
    if n_obs == 1:
        chosen = seen & vary
        scores, basis = anomalies[:, chosen], np.eye(sites)[chosen]
        weights = (weighted**2).sum(axis=0)[vary[seen]]
        weights, truncated = weights / weights.sum(), np.zeros(sites)
    else:
        left, singular, _ = np.linalg.svd(weighted, full_matrices=False)
        weights = singular**2 / np.sum(singular**2)
        count = min(1 + int(np.searchsorted(np.cumsum(weights), keep)), most, runs - 2)
        scores, weights = left[:, :count] * np.sqrt(runs), weights[:count]
        # Days that nobody observed are regressed on the same components.
        basis = scores.T @ anomalies / runs
        truncated = np.sum((anomalies - scores @ basis) ** 2, axis=0) / (runs - 1 - count)
    shape = (sites, n_obs)
    # Where a run gave no number, and nothing was observed, the centre has none: of the basis it would come back in derivatives.
    lost = ~np.isfinite(centre).ravel()
    basis, truncated = np.where(lost, 0.0, basis), np.where(lost, 0.0, truncated)
    arrays = (centre, basis.reshape(-1, *shape), truncated.reshape(shape), weights)
    return Pattern(*map(jnp.asarray, arrays), (first, first + scores.shape[1]), n_obs > 1), scores


def _labels(patterns: Mapping[str, Pattern]) -> tuple[list[str], np.ndarray]:
    """Names of all outputs, and what share of its stream each is."""
    labels = []
    for name, pattern in patterns.items():
        count = len(pattern.weights)
        numbered = [f"{name} {1 + number}" for number in range(count)]
        labels += numbered if pattern.series or count > 1 else [name]
    return labels, np.concatenate([np.asarray(pattern.weights) for pattern in patterns.values()])


def _r2(y: np.ndarray, mean: np.ndarray) -> np.ndarray:
    return 1.0 - np.mean((y - mean) ** 2, axis=0) / np.var(y, axis=0)


def _stream_r2(processes: GaussianProcesses, pattern: Pattern) -> float:
    """Leave-one-out R2 of the observed values of a stream, in units of their errors; what was truncated counts as not explained."""
    columns = slice(*pattern.columns)
    mean, _ = processes.leave_one_out()
    return float(np.sum(np.asarray(pattern.weights) * _r2(processes.y[:, columns], mean[:, columns])))
