"""The optimum of an expensive model by few runs: an emulator that is learned again and again where the optimum is.

    found = emulated(problem, key=0)                        # external models too
    found.z, found.runs, found.history                      # the MAP, how many runs of the model it took, turn by turn
    nuts(found.problem, found.z, ...)                       # its forward map is the emulator: J is differentiable and has its error

No emulator of the whole prior serves where some years of data leave a posterior a hundred times narrower. Here the first runs fill the
prior, and each turn learns from the runs of lowest J that there are, finds the MAP through the emulator, whose error is in J and keeps
it near to its runs, and adds a run there and some of the posterior around it. So the emulator follows the optimum and is exact
in the end where that lies, as the models of trust-region methods are (Conn, Scheinberg & Vicente 2009, Introduction to
Derivative-Free Optimization, chapter 10), with the error of the emulator in the place of the region.
"""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from jax.typing import ArrayLike

from landcal_jax import map_error
from landcal_jax.emulator import Emulator, emulate, latin_hypercube
from landcal_jax.errors import complain
from landcal_jax.gradient import LBFGS
from landcal_jax.keys import key_of
from landcal_jax.members import whitened
from landcal_jax.problem import Problem
from landcal_jax.solving import solve

FIRST, ADDED, LEARNED, MOST = 5, 1, 4, 50
"""Runs a parameter: of the first design, of each turn, those that are learned from, and all together."""
STARTS = 2
KEEP = 1.0 - 1e-9  # of the variance of a series: what its components leave out is not small against its errors far from the data


@dataclasses.dataclass(frozen=True)
class Emulated:
    """What `emulated` found.

    `problem`: the given one with the last emulator for its forward map. `z` (n,): the MAP through it, and `covariance` (n, n) in z:
    the inverse Hessian of its J there, with R and the error of the emulator as they are at z, no direction wider than the prior.
    `Z` (run, n) and `values` {stream: (run, site, n_obs)}: all runs that were made, NaN where one failed. `settled`: whether it ended
    because the MAP stood still, and not because the runs were spent.

    `history`, by `turn`: `runs` made before it, `lowest` J of them, `through`, J of the MAP through the emulator, `model`, J of the run
    there, `moved`, by how many posterior standard deviations it moved at most, and `z` (turn, parameter) itself; NaN in a turn
    whose emulator was refused. Attribute `verdict`: a sentence.
    """

    problem: Problem
    z: Array
    covariance: np.ndarray
    Z: np.ndarray
    values: dict[str, np.ndarray]
    history: xr.Dataset
    settled: bool

    @property
    def runs(self) -> int:
        """How many runs of the model it took."""
        return len(self.Z)

    @property
    def emulator(self) -> Emulator:
        """The last emulator."""
        return self.problem.forward


def emulated(
    problem: Problem, *, first: int | None = None, added: int | None = None, learned: int | None = None, most: int | None = None,
    tolerance: float = 0.1, key: Array | int = 0,
) -> Emulated:
    """The MAP of `problem` through an emulator of its model, by few runs and no derivative of the model.

    Of n parameters: `first` runs (5 n) are a Latin hypercube of the prior; each turn learns from the `learned` (4 n) runs of lowest J
    and adds the MAP and `added` (n) draws of the posterior through the emulator, until the MAP moves by less than `tolerance`
    posterior standard deviations of every parameter, or until `most` (50 n) runs are made. A turn whose emulator learned nothing
    of some stream learns from all runs, and where that is not enough adds another Latin hypercube instead. Runs that fail are
    not learned from; they count, see `history`.

    J may have several minima: this finds the one to which its best runs lead, and `first` is what it has seen of the others.
    Raises ValueError for numbers that leave nothing to learn from, and where no emulator was ever learned; TypeError where J of `problem`
    is no sum of squares.
    """
    problem.require_least_squares("emulated, which does not learn R")
    n = problem.space.size
    first, added, learned, most = (
        factor * n if number is None else number for number, factor in ((first, FIRST), (added, ADDED), (learned, LEARNED), (most, MOST)))
    if added < 1 or not n + 3 <= learned or not n + 3 <= first <= most or not tolerance > 0:
        raise ValueError(complain(f"added of 1 or more, learned and first of {n + 3} or more, first no more than most, a tolerance above 0",
                                  f"added={added}, learned={learned}, first={first}, most={most}, tolerance={tolerance:g}",
                                  "emulated(problem) has the defaults"))
    key = key_of(key)
    Z, J, values, rows, fast, z = np.zeros((0, n)), np.zeros(0), {}, [], None, None
    new = latin_hypercube(problem, first, key=key)
    while True:
        ran = problem.ensemble(new)
        there = costs_of(problem, new, ran)
        Z, J, values = np.concatenate([Z, new]), np.concatenate([J, there]), _joined(values, ran)
        turn = jax.random.fold_in(key, len(Z))
        if rows and "z" in rows[-1]:
            rows[-1]["model"] = there[0]
        settled = bool(rows) and rows[-1].get("moved", np.inf) < tolerance
        if settled or len(Z) >= most:
            break
        rows.append({"runs": len(Z), "lowest": J.min()})
        emulator = _learned(problem, Z, values, J, learned, turn)
        if emulator.refused and learned < len(Z):
            emulator = _learned(problem, Z, values, J, len(Z), turn)
        if emulator.refused:
            new = latin_hypercube(problem, first, key=turn)
            continue
        fast, before = problem.with_forward(emulator), z
        z, through = _map(fast, Z[np.argsort(J)[:STARTS]])
        root = _root(fast, z)
        moved = np.inf if before is None else float(np.max(np.abs(z - before) / np.sqrt(np.sum(root**2, axis=1))))
        rows[-1] |= {"through": through, "moved": moved, "z": np.asarray(z)}
        new = np.concatenate([z[None], z + np.asarray(jax.random.normal(turn, (added, n))) @ root.T])
    if fast is None:
        raise ValueError(complain("an emulator that learned every stream", "; ".join(f"{k}: {why}" for k, why in emulator.refused.items()),
                                  f"more runs than most={most}, other free parameters, or a problem without that stream"))
    return Emulated(fast, z, root @ root.T, Z, values, _history(problem, rows, J, settled, tolerance), settled)


def costs_of(problem: Problem, Z: ArrayLike, values: Mapping[str, ArrayLike]) -> np.ndarray:
    """J (run,) of runs that were made, Z (run, n) and values {stream: (run, site, n_obs)}; infinite where one failed."""
    residuals = whitened(problem, values)
    with np.errstate(over="ignore", invalid="ignore"):
        J = 0.5 * np.sum(np.asarray(Z) ** 2, axis=1) + sum(0.5 * np.sum(np.asarray(part) ** 2, axis=1) for part in residuals.values())
    return np.where(np.isfinite(J), J, np.inf)


def _joined(values: Mapping[str, np.ndarray], more: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([values[name], array]) if values else np.asarray(array) for name, array in more.items()}


def _learned(problem: Problem, Z: np.ndarray, values: Mapping[str, np.ndarray], J: np.ndarray, learned: int, key: Array) -> Emulator:
    """The emulator of the runs of lowest J. Always as many components, so that one compiled function serves all turns."""
    nearest = np.argsort(J)[:learned]
    nearest = nearest[np.isfinite(J[nearest])]
    near = {name: array[nearest] for name, array in values.items()}
    return emulate(problem, Z[nearest], near, keep=KEEP, components=2 * problem.space.size + 2, key=key)


def _map(fast: Problem, starts: np.ndarray) -> tuple[Array, float]:
    """The lowest minimum of J through the emulator from these starts, and J there."""
    ends = [solve(fast, LBFGS(), z0=jnp.asarray(z), throw=False, progress=False) for z in starts]
    costs = [sum(end.terms.values()) for end in ends]
    best = int(np.argmin(np.nan_to_num(costs, nan=np.inf)))
    return ends[best].z, costs[best]


def _root(problem: Problem, z: Array) -> np.ndarray:
    """A root (n, n) of the inverse curvature of J at z."""
    values, vectors = np.linalg.eigh(np.asarray(_curvature(problem, z)))
    # The prior alone has ones. What is less is of a J that is not yet convex where the emulator knows little.
    return vectors / np.sqrt(np.maximum(values, 1.0))


@eqx.filter_jit
def _curvature(problem: Problem, z: Array) -> Array:
    """The second derivative (n, n) of J with the error of the emulator as it is at z.

    That this error grows away from the runs curves J too, but says nothing of the posterior.
    """
    error = problem.error_of_map(z)

    def cost(z):
        modelled = problem.predict(z)
        return 0.5 * z @ z + sum(map_error.term(stream, modelled[name], error[name])[0] for name, stream in problem.observations.items())

    return jax.jacfwd(jax.grad(cost))(z)


def _history(problem: Problem, rows: list[dict], J: np.ndarray, settled: bool, tolerance: float) -> xr.Dataset:
    number = ("runs", "lowest", "through", "model", "moved")
    ds = xr.Dataset({name: ("turn", [row.get(name, np.nan) for row in rows]) for name in number},
                    coords={"turn": 1 + np.arange(len(rows)), "parameter": list(problem.space.labels)})
    nothing = np.full(problem.space.size, np.nan)
    ds["z"] = ("turn", "parameter"), np.stack([row.get("z", nothing) for row in rows])
    for name in ds.data_vars:
        ds[name].attrs["units"] = "1"
    failed = int((~np.isfinite(J)).sum())
    end = (f"the MAP moved by less than {tolerance:g} posterior standard deviations" if settled
           else "the runs were spent before the MAP stood still: ask for more (most=)")
    ds.attrs = {"verdict": f"{len(J)} runs, of which {failed} failed, in {len(rows)} turns; {end}.", "failed": failed}
    return ds
