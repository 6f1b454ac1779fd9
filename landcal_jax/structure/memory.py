"""Memory that is left in whitened residuals, and how much wider it makes the sums that tests are made of.

Whitened residuals of a stream are white with variance one if R is right. Where they are not, they are taken as

    e ~ N(0, s^2 C),   C_ij = 1 - a on the diagonal + a exp(-|t_i - t_j| / tau) within a site,

an autoregressive part of share a and e-folding time tau with white noise on top, at any times, with gaps. Tests see the residuals after
calibration, from which the parameters have taken up what they could, slow parts above all; so the likelihood of (a, tau) is that of
the residuals with the parameters integrated out, with the prior and all other streams as their prior (restricted likelihood: Harville 1974,
Biometrika 61:383), and s^2 as well. It is computed on a grid: half of the prior chance is white noise, the other half is spread alike over
e-folding times from a step of the stream to a third of its record and over the shares; expectations are means over the grid, so that
what a short record leaves open widens a test as well. All lags of the record take part, not those below some number of days.
C^-1 = ((1 - a) T + a)^-1 T, T the inverse of the exponential part, which is tridiagonal: everything is O(n).

    memory = fitted(whitened, rows)                    # of the rows of one stream
    memory.covariance(columns)                         # columns' s^2 C columns, of scores columns' e
    memory.inflation(column)                           # by which memory and s widen the standard deviation of one score, at least 1
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.linalg import cho_factor, cho_solve, cholesky_banded, solveh_banded

SHARES = (0.15, 0.35, 0.55, 0.75, 0.9, 1.0)
FACTOR = 1.8
"""From one e-folding time of the grid to the next."""
FEWEST = 8
"""Values below which no memory can be told: they are taken as white."""
LONGEST = 3.0
"""The record is at least this many e-folding times long."""
APART = 1e-3
"""Least distance of two values of a site, in median steps: two at the same time have, with a memory, no inverse covariance."""
TOLD = 1e-9  # share of its square by which a direction must be seen by the other streams to have a prior from them


class Residuals(Protocol):
    """What is needed of `score_tests.Whitened`: residuals r (m,), their Jacobian G (m, n), sites (m,), times (m,) in days."""

    r: np.ndarray
    G: np.ndarray
    sites: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Memory:
    """The memory of one stream: grid points (tau [d], a), their `weights` and variances s^2, each (point, fit).

    There is one fit, or one for each of several candidates. `sites`, `times` (n,): those of the residuals. The first grid point is white.
    """

    days: np.ndarray
    shares: np.ndarray
    weights: np.ndarray
    variances: np.ndarray
    sites: np.ndarray
    times: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """Expected s^2, (fit,); 1 if R is right."""
        return np.sum(self.weights * self.variances, axis=0)

    def correlation(self, apart: np.ndarray) -> np.ndarray:
        """Expected correlation (lag,) of residuals that are `apart` days, > 0, from the first fit."""
        return (self.weights[:, 0] * self.shares) @ np.exp(-np.asarray(apart, float) / self.days[:, None])

    @property
    def e_folding(self) -> float:
        """Expected e-folding time [d] of what has a memory, in the first fit."""
        weight = self.weights[:, 0] * self.shares
        return float(weight @ self.days / weight.sum()) if weight.sum() > 0 else 0.0

    def covariance(self, columns: np.ndarray) -> np.ndarray:
        """Covariance (q, q) of the scores columns'e, columns (n, q), e the residuals of the stream, by the first fit."""
        white, slow = self._mixed()
        total = white[0] * columns.T @ columns
        for days in np.unique(self.days[self.shares > 0]):
            total += slow[self.days == days, 0].sum() * columns.T @ self._spread(days, columns)
        return 0.5 * (total + total.T)

    def added(self, columns: np.ndarray) -> np.ndarray:
        """What memory alone adds to the variance of each column'e, (k,), columns (n, k); one fit for all or one for each."""
        _, slow = self._mixed()
        total, own = np.zeros(columns.shape[1]), np.sum(columns**2, axis=0)
        for days in np.unique(self.days[self.shares > 0]):
            part = slow[self.days == days].sum(axis=0)
            if np.any(part > 0):
                total += part * (np.sum(columns * self._spread(days, columns), axis=0) - own)
        return total

    def inflation(self, column: np.ndarray) -> float:
        """Standard deviation of column'e, column (n,), over that of white residuals of variance one; at least 1."""
        own = float(column @ column)
        return float(np.sqrt(max(1.0, self.covariance(column[:, None])[0, 0] / own))) if own > 0 else 1.0

    @property
    def squares(self) -> float:
        """By which memory alone widens the variance of the sum of squares of the residuals: the mean of sum_j C_ij^2; at least 1."""
        ones, total = np.ones((len(self.times), 1)), 1.0
        for days, share, weight in zip(self.days, self.shares, self.weights[:, 0], strict=True):
            if share > 0 and weight > 1e-6:
                total += weight * share**2 * (float(np.mean(self._spread(days / 2, ones))) - 1)
        return total

    def _mixed(self):
        """Weights of white noise, (fit,), and of the memory of each grid point, (point, fit)."""
        weight = self.weights * self.variances
        return np.sum(weight * (1 - self.shares[:, None]), axis=0), weight * self.shares[:, None]

    def _spread(self, days: float, columns: np.ndarray) -> np.ndarray:
        """exp(-|dt| / days) times columns (n, k)."""
        order = np.lexsort((self.times, self.sites))
        out = np.empty_like(columns, dtype=float)
        out[order] = solveh_banded(_precision(self.times[order], self.sites[order], days)[0], columns[order], lower=True)
        return out


def fitted(whitened: Residuals, rows: np.ndarray, together: np.ndarray | None = None, each: np.ndarray | None = None,
           residuals: np.ndarray | None = None) -> Memory:
    """The memory of the residuals in `rows` of `whitened`, those of one stream at one or more sites.

    `together` (m, q): columns that the residuals may hold besides, such as a seasonal cycle that is tested: all are taken up like
    parameters without a prior. `each` (m, k, q): candidates that the residuals may hold, one fit for each, with its q columns taken up
    like those of `together`. `residuals` (m,): others than those of `whitened`; adding what is taken up to them changes nothing. Values
    without times and fewer than `FEWEST` are taken as white.
    """
    r = whitened.r if residuals is None else residuals
    G = whitened.G if together is None else np.concatenate([whitened.G, together], axis=1)
    U = np.zeros((len(r), 0, 1)) if each is None else each
    given, rows = rows, rows[np.lexsort((whitened.times[rows], whitened.sites[rows]))]
    times, sites = whitened.times[rows], whitened.sites[rows]
    others = np.ones(len(r), bool)
    others[rows] = False
    model = _Integrated(r[rows], G[rows], U[rows], r[others], G[others], U[others])
    points = [(1.0, 0.0)]
    if len(rows) >= FEWEST and np.isfinite(times).all():
        points += [(days, share) for days in _e_foldings(times, sites) for share in SHARES]
    logs, variances = zip(*(model.likelihood(*_inverse(times, sites, *point)) for point in points), strict=True)
    logs = np.array(logs) + np.where(np.arange(len(points)) > 0, -np.log(max(len(points) - 1, 1)), 0.0)[:, None]
    weights = np.exp(logs - logs.max(axis=0))
    days, shares = np.array(points).T
    return Memory(days, shares, weights / weights.sum(axis=0), np.array(variances), whitened.sites[given], whitened.times[given])


def _within(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Products (k, q, q) of the columns of each candidate, one and other (m, k, q)."""
    return np.einsum("mki,mkj->kij", one, other)


def _turned(matrices: np.ndarray, scores: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (k, q) of `matrices` (k, q, q) with columns scaled to `size` (k, q) = 1, and squares of `scores` (k, q) along them."""
    scale = np.sqrt(np.where(size > 0, size, 1.0))
    values, vectors = np.linalg.eigh(matrices / (scale[:, :, None] * scale[:, None, :]))
    return values, np.einsum("kq,kqi->ki", scores / scale, vectors) ** 2


class _Integrated:
    """Likelihood of a covariance of the residuals of one stream, parameters and variance integrated out."""

    def __init__(self, r, G, U, r_others, G_others, U_others):
        self.r, self.U, self.n = r, U, G.shape[1]
        self.columns = np.concatenate([r[:, None], G, U.reshape(len(r), -1)], axis=1)
        # What the prior and the other streams say of parameters and candidates.
        self.A, self.b = G_others.T @ G_others, G_others.T @ r_others
        self.x, self.y = np.tensordot(G_others, U_others, (0, 0)), np.tensordot(r_others, U_others, (0, 0))
        self.a = _within(U_others, U_others)
        inverse = np.linalg.pinv(self.A, hermitian=True)
        self.known = float(self.b @ inverse @ self.b)
        left = self.a - _within(self.x, np.tensordot(inverse, self.x, 1))
        score = self.y - np.tensordot(inverse @ self.b, self.x, 1)
        size = self.a.diagonal(axis1=1, axis2=2) + np.sum(U**2, axis=0)
        values, squares = _turned(left, score, size)
        seen = values > TOLD
        self.start = self.known + np.sum(np.where(seen, squares / np.where(seen, values, 1.0), 0.0), axis=1)

    def likelihood(self, weigh, log_determinant):
        """Logarithm of the likelihood, (fit,), and expected variance s^2 there; `weigh(columns)` is C^-1 times columns."""
        product = weigh(self.columns)
        gram = self.columns[:, :1 + self.n].T @ product
        S = cho_factor(self.A + gram[1:, 1:1 + self.n] + 1e-10 * np.eye(self.n))
        h, log_S = self.b + gram[1:, 0], 2 * np.sum(np.log(np.diag(S[0])))
        base = gram[0, 0] - h @ cho_solve(S, h)
        degrees = len(self.r)
        if not len(self.a):
            square, log_schur = np.array([base + self.known]), 0.0
        else:
            shape = self.x.shape
            cross = gram[1:, 1 + self.n:].reshape(shape) + self.x
            solved = cho_solve(S, cross.reshape(self.n, -1)).reshape(shape)
            own = _within(self.U, product[:, 1 + self.n:].reshape(self.U.shape)) + self.a
            score = gram[0, 1 + self.n:].reshape(shape[1:]) + self.y - np.tensordot(h, solved, 1)
            size = own.diagonal(axis1=1, axis2=2)
            values, squares = _turned(own - _within(cross, solved), score, size)
            values = np.maximum(values, 1e-12)
            square = base + self.start - np.sum(squares / values, axis=1)
            log_schur, degrees = np.sum(np.log(values) + np.log(size), axis=1), degrees - shape[2]
        square = np.maximum(square, 1e-12 * self.r @ self.r + 1e-300)
        return -0.5 * (degrees * np.log(square) + log_determinant + log_S + log_schur), square / max(degrees - 2, 1)


def _e_foldings(times: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """E-folding times [d] of the grid, `FACTOR` apart, from a step of the stream to a part of its record."""
    same = np.diff(sites) == 0
    steps = np.diff(times)[same]
    steps = steps[steps > 0]
    longest = max((np.ptp(times[sites == site]) for site in np.unique(sites)), default=0.0) / LONGEST
    if not len(steps) or longest <= 0:
        return np.zeros(0)
    step = min(float(np.median(steps)), longest)
    return np.geomspace(step, longest, 1 + int(np.ceil(np.log(longest / step) / np.log(FACTOR))))


def _precision(times: np.ndarray, sites: np.ndarray, days: float):
    """Inverse of exp(-|dt| / days) in the lower form of `scipy.linalg.solveh_banded`, (2, n), and the logarithm of its determinant."""
    apart, same = np.diff(times), np.diff(sites) == 0
    least = APART * float(np.median(apart[same])) if same.any() else 0.0
    phi = np.where(same, np.exp(-np.maximum(apart, max(least, 1e-9)) / days), 0.0)
    innovation = -np.expm1(2 * np.log(np.maximum(phi, 1e-300)))
    link = phi**2 / innovation
    band = np.zeros((2, len(times)))
    band[0] = 1 + np.append(link, 0.0) + np.insert(link, 0, 0.0)
    band[1, :-1] = -phi / innovation
    return band, -float(np.sum(np.log(innovation)))


def _inverse(times: np.ndarray, sites: np.ndarray, days: float, share: float):
    """The function columns -> C^-1 columns, and log |C|."""
    if share == 0:
        return (lambda columns: columns), 0.0
    band, log_T = _precision(times, sites, days)
    if share == 1:
        return (lambda columns: _banded(band, columns)), -log_T
    mixed = (1 - share) * band
    mixed[0] += share
    log_mixed = 2 * float(np.sum(np.log(cholesky_banded(mixed, lower=True)[0])))
    return (lambda columns: solveh_banded(mixed, _banded(band, columns), lower=True)), log_mixed - log_T


def _banded(band: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """A symmetric tridiagonal matrix times columns (n, k)."""
    out = band[0][:, None] * columns
    out[1:] += band[1, :-1, None] * columns[:-1]
    out[:-1] += band[1, :-1, None] * columns[1:]
    return out
