"""The residuals that signs are looked for in: without the weights of J, with the covariance that a right model leaves them.

J weighs the whitened residuals of a stream by a number w that is no statement about its errors: if model and R are right, the errors e are
N(0, I) whatever the weights are. Calibration with them leaves the residuals r = M e, M = I - A B', with A = W^-1/2 Q, B = W^1/2 Q and Q an
orthonormal basis of what the parameters can make of the weighted residuals; M M' = I - A B' - B A' + A (B'B) A', I - Q Q' without weights.

Where the errors have a memory that R does not know (`memory`), tests of their size and seasons allow for it: the memory itself is
one of the findings, and is not to be counted again in each of the others.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from landcal_jax.models.edc import EcologicalConstraints
from landcal_jax.observations import Observations
from landcal_jax.structure.findings import phase_of
from landcal_jax.structure.memory import Memory, fitted
from landcal_jax.structure.score_tests import Whitened

FEWEST = 20
"""Values for a test of a part of a stream, of its seasons, its memory and its extremes."""


@dataclass(frozen=True)
class Tested:
    """`whitened` as J has them, `weight` (m,) of each row, and `observed`, the streams that hold observations.

    Constraints on the parameters are no observations: their residuals are zero wherever they hold. Streams without a row are left out.
    """

    whitened: Whitened
    weight: np.ndarray
    observed: tuple[str, ...]

    @classmethod
    def of(cls, whitened: Whitened, observations: Observations) -> "Tested":
        """The residuals `whitened` of these observations."""
        weight = np.ones(len(whitened.r))
        for name, rows in whitened.rows.items():
            weight[rows] = np.asarray(observations[name].weight)[whitened.sites[rows]]
        observed = tuple(name for name, stream in observations.items()
                         if len(whitened.rows[name]) and not isinstance(stream.operator, EcologicalConstraints))
        return cls(whitened, weight, observed)

    @property
    def rows(self) -> dict[str, np.ndarray]:
        """Observed stream -> its rows."""
        return {name: self.whitened.rows[name] for name in self.observed}

    @property
    def times(self) -> np.ndarray:
        """Days (m,), NaN where there is none."""
        return self.whitened.times

    @property
    def sites(self) -> np.ndarray:
        """Place of the site (m,), -1 for the prior."""
        return self.whitened.sites

    @cached_property
    def r(self) -> np.ndarray:
        """Residuals (m,) without weights."""
        return self.whitened.r / np.sqrt(self.weight)

    @cached_property
    def G(self) -> np.ndarray:
        """Their Jacobian (m, n)."""
        return self.whitened.G / np.sqrt(self.weight)[:, None]

    @cached_property
    def A(self) -> np.ndarray:
        """W^-1/2 Q, (m, n)."""
        return self.whitened.root / np.sqrt(self.weight)[:, None]

    @cached_property
    def B(self) -> np.ndarray:
        """W^1/2 Q, (m, n)."""
        return self.whitened.root * np.sqrt(self.weight)[:, None]

    def low_rank(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """U (row, 2 n) and S of the covariance I + U S U' of these residuals."""
        n = self.A.shape[1]
        S = np.block([[self.B.T @ self.B, -np.eye(n)], [-np.eye(n), np.zeros((n, n))]])
        return np.concatenate([self.A[rows], self.B[rows]], axis=1), S

    def spectrum(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues above zero of the covariance of these residuals, and how often each is there."""
        U, S = self.low_rank(rows)
        R = np.linalg.qr(U, mode="r")
        values = np.linalg.eigvalsh(np.eye(len(R)) + R @ S @ R.T)
        values = values[values > 1e-9]
        ones = len(rows) - len(R)
        return (np.append(values, 1.0), np.append(np.ones(len(values)), ones)) if ones else (values, np.ones(len(values)))

    def taken_up(self, columns: np.ndarray) -> np.ndarray:
        """M' times columns (m, k): the score columns'r is (M'columns)'e."""
        return columns - self.B @ (self.A.T @ columns)

    def patterns(self, stream: str) -> dict[str, np.ndarray]:
        """What is looked for in time: two harmonics of the season, and the years, each (m, k) with zeros outside of the stream."""
        rows = self.rows[stream]
        times = self.times[rows]
        if len(rows) < FEWEST or not np.isfinite(times).all():
            return {}
        phase, year = phase_of(times), times.astype("datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
        found = {}
        for kind, columns in (("seasonality", [function(k * phase) for k in (1, 2) for function in (np.cos, np.sin)]),
                              ("years", [(year == one) - np.mean(year == one) for one in np.unique(year)])):
            found[kind] = np.zeros((len(self.r), len(columns)))
            found[kind][rows] = np.stack(columns, axis=1)
        return found

    @cached_property
    def memories(self) -> dict[str, Memory]:
        """The memory of every observed stream, with seasons and years taken out, which have tests of their own."""
        found = {}
        for name, rows in self.rows.items():
            patterns = self.patterns(name)
            together = np.concatenate([*patterns.values()], axis=1) if patterns else None
            found[name] = fitted(self, rows, together)
        return found

    def kept(self, stream: str) -> float:
        """By which the expected sum of squares of a stream is smaller with the memories of all streams than if all were white.

        Parameters take up slow errors as a whole: tr(M C M') over the rows of the stream, over tr(M M').
        """
        rows, A, B, memory = self.rows[stream], self.A, self.B, self.memories[stream]
        if memory.squares < 1.01:
            return 1.0
        rest = np.ones(len(self.r), bool)
        among = np.zeros((B.shape[1], B.shape[1]))
        for name, own in self.rows.items():
            among += self.memories[name].covariance(B[own]) / self.memories[name].variance
            rest[own] = False
        among += B[rest].T @ B[rest]
        n = B.shape[1]
        cross = (memory.covariance(np.concatenate([A[rows], B[rows]], axis=1)) / memory.variance)[:n, n:]
        gram = A[rows].T @ A[rows]
        white = len(rows) - 2 * np.sum(A[rows] * B[rows]) + np.sum(gram * (B.T @ B))
        return float((len(rows) - 2 * np.trace(cross) + np.sum(gram * among)) / white)
