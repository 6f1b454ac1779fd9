"""Runs of a model that were made elsewhere, on a cluster or for a paper, as a forward map that looks them up.

    runs = RecordedRuns({"vcmax": vcmax}, {"nee_rmsd": nee_rmsd})       # (run,) and (run, site, n_obs)
    problem = Problem(space, BlackBoxForward(runs, observations=observations), observations)

What needs runs at points that are given is served: sensitivity from a design, `emulate(problem, Z)`, a wave of history matching
(`History.told(z, problem.ensemble(z))`). A run that nobody made counts as one that failed, with its reason, and no other stands in for it.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from landcal_jax.errors import complain

SAME = 1e-9
"""By what parameters may differ from those of their run, relative to the spread of all runs: files keep some ten digits."""


class RecordedRuns:
    """A function theta -> {stream: (site, n_obs)} for `BlackBoxForward`, of runs that are there already.

    `theta`: name -> (run, *dims) in physical units, of all parameters that differ between runs; others are not looked at, so that a
    space may have more of them fixed. `streams`: name -> (run, site, n_obs), or (run,) for one value at one site; NaN in those of
    runs that failed.
    Raises ValueError for lengths that differ, parameters that are not finite, and two runs at one point with different values.
    """

    def __init__(self, theta: Mapping[str, ArrayLike], streams: Mapping[str, ArrayLike]):
        self.theta = {str(name): np.asarray(values, float) for name, values in theta.items()}
        arrays = {str(name): np.asarray(values, float) for name, values in streams.items()}
        self.streams = {name: array[:, None, None] if array.ndim == 1 else array for name, array in arrays.items()}
        shapes = {name: array.shape for name, array in (self.theta | self.streams).items()}
        if not self.theta or not self.streams or len({shape[:1] for shape in shapes.values()}) != 1 or () in shapes.values():
            raise ValueError(complain("parameters and streams with one row for each run", f"{shapes}", "one array each, (run, ...)"))
        self._points = np.concatenate([array.reshape(len(self), -1) for array in self.theta.values()], axis=1)
        if not len(self) or not np.isfinite(self._points).all():
            raise ValueError(complain("finite parameters of one run or more", f"{len(self)} runs, "
                                      f"{(~np.isfinite(self._points)).any(axis=1).sum()} of them with NaN or infinity", "leave these out"))
        self._scale = np.maximum(np.ptp(self._points, axis=0), SAME * np.abs(self._points).max(axis=0))
        self._scale = np.where(self._scale > 0, self._scale, 1.0)
        self._refuse_two_answers()

    def __len__(self) -> int:
        return len(next(iter(self.theta.values())))

    def __call__(self, theta: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """The streams of the run at theta. KeyError for parameters that are not there, LookupError where nobody made a run."""
        point = np.concatenate([np.ravel(np.asarray(theta[name], float)) for name in self.theta])
        distance = np.abs((self._points - point) / self._scale).max(axis=1)
        nearest = int(np.argmin(distance))
        if not distance[nearest] <= SAME:
            raise LookupError(f"no run was made at these parameters: the nearest of {len(self)} is run {nearest}, off by "
                              f"{distance[nearest]:.2g} of the spread of all runs")
        return {name: values[nearest] for name, values in self.streams.items()}

    def joined(self, theta: Mapping[str, ArrayLike], streams: Mapping[str, ArrayLike]) -> "RecordedRuns":
        """With more runs, such as those of the next wave. Raises as a new one does, KeyError for other parameters or streams."""
        more = RecordedRuns(theta, streams)
        if set(more.theta) != set(self.theta) or set(more.streams) != set(self.streams):
            raise KeyError(complain(f"the parameters {', '.join(self.theta)} and the streams {', '.join(self.streams)}",
                                    f"{', '.join(more.theta)} and {', '.join(more.streams)}", "the same names in every wave"))
        return RecordedRuns({name: np.concatenate([values, more.theta[name]]) for name, values in self.theta.items()},
                            {name: np.concatenate([values, more.streams[name]]) for name, values in self.streams.items()})

    def identity(self) -> str:
        """What a store or a checkpoint knows these runs by."""
        digest = hashlib.sha256()
        for name, array in (self.theta | self.streams).items():
            digest.update(f"{name}{array.shape}".encode() + array.tobytes())
        return f"{len(self)} recorded runs {digest.hexdigest()}"

    def _refuse_two_answers(self) -> None:
        order = np.lexsort(self._points.T)
        same = (np.abs(np.diff(self._points[order], axis=0)) <= SAME * self._scale).all(axis=1)
        for place in np.flatnonzero(same):
            one, other = order[place], order[place + 1]
            if not all(np.array_equal(values[one], values[other], equal_nan=True) for values in self.streams.values()):
                raise ValueError(complain(
                    "one answer at one point", f"runs {min(one, other)} and {max(one, other)} with the same parameters and other values",
                    "leave one of them out, or give what differs as a parameter"))
