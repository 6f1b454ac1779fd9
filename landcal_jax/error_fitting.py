"""Fitting the parameters of errors R by likelihood: the vector of what is free, and densities with theta integrated out.

The linear-Gaussian model d = F u + e with u ~ N(0, I) and e ~ N(0, R) has the density N(d; 0, R + F F'). With n columns in F it costs
O(m n^2): the columns are whitened one by one, in O(m) each, and

    log N(d; 0, R + F F') = -1/2 [m log 2 pi + log det R + log det A + w'w - b'A^-1 b],   w = R^(-1/2) d,  V = R^(-1/2) F,
    A = I + V'V,  b = V'w                                                           (Woodbury and Sylvester)

It is what restricted maximum likelihood (Patterson and Thompson 1971, Biometrika 58, 545) becomes with a prior on u.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize

from landcal_jax.errors import complain
from landcal_jax.observations import Observations, Stream

PARTS = ("constant", "proportional", "seasonal", "days")
STARTS = {"proportional": 0.1, "days": 5.0}
"""Middle of the priors of a share of the flux and of a memory in days, and where they start from."""
SPREADS = {"constant": 1.0, "proportional": 1.0, "seasonal": 0.5, "days": 1.0}
"""Standard deviations of the priors: of logarithms, and of the amplitudes of a season."""
REACH = 8.0  # standard deviations of the prior within which the search stays
BAND = 1.6449  # standard deviations that hold 90 % of a Gaussian on either side
DIFFERENCE = 1e-3  # step of the differences of gradients that give the curvature
FINISHED = 0.1  # standard errors: as far from the maximum a search may end
FLAT = 1e-6  # of the curvature: what is less is none
TANGENTS = 64  # at a time
LARGEST = 1e9  # bytes of the columns of all streams

Parts = Mapping[str, tuple[str, ...]]


class Terms(NamedTuple):
    """One linear-Gaussian density: what R is of, departures d (site, n_obs) and columns F (n, site, n_obs), by stream.

    `counting` (site,), by stream: how much each day counts in `log_score`, from zero to one.
    """

    observations: Observations
    departures: Mapping[str, Array]
    columns: Mapping[str, Array]
    counting: Mapping[str, Array]


class Fitted(NamedTuple):
    """The vector (k,) that a search ended with, the curvature (k, k) there, and why it is no maximum: empty where it is one."""

    values: np.ndarray
    curvature: np.ndarray
    unfinished: str


class ErrorVector(eqx.Module):
    """The free error parameters as one vector (k,): logarithms of what is positive, amplitudes of seasons as they are.

    `entries`: (stream, part, shape) in order, each with one number a site. The prior is normal about `centre` with `spread` (k,).
    """

    entries: tuple[tuple[str, str, tuple[int, ...]], ...] = eqx.field(static=True)
    centre: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, observations: Observations, parts: Parts) -> "ErrorVector":
        """For observations that were `prepared`: the prior is about their present errors, of all sites of a stream together."""
        entries, centre, spread = [], [], []
        for name, wanted in parts.items():
            error = observations[name].model_error
            for part in wanted:
                value = np.asarray(getattr(error, part))
                entries.append((name, part, value.shape))
                middle = np.zeros(value.shape) if part == "seasonal" else np.full(value.shape, np.log(value).mean())
                centre.append(middle.ravel())
                spread.append(np.full(value.size, SPREADS[part]))
        return cls(tuple(entries), np.concatenate(centre), np.concatenate(spread))

    def start(self, observations: Observations) -> np.ndarray:
        """The vector (k,) of the errors that these observations have."""
        values = [np.asarray(getattr(observations[name].model_error, part)) for name, part, _ in self.entries]
        return np.concatenate([(value if part == "seasonal" else np.log(value)).ravel()
                               for value, (_, part, _) in zip(values, self.entries, strict=True)])

    def split(self, vector: Array) -> dict[tuple[str, str], Array]:
        """(stream, part) -> the entries of a vector (k,), in the shape of the part."""
        ends = np.cumsum([int(np.prod(shape)) for _, _, shape in self.entries])
        pieces = (vector[end - int(np.prod(shape)) : end] for end, (_, _, shape) in zip(ends, self.entries, strict=True))
        return {(name, part): piece.reshape(shape) for piece, (name, part, shape) in zip(pieces, self.entries, strict=True)}

    def observations(self, observations: Observations, vector: Array) -> Observations:
        """The observations with the errors of `vector` (k,). Usable inside jit."""
        changed: dict[str, Stream] = {}
        for (name, part), piece in self.split(vector).items():
            stream = changed.get(name, observations[name])
            value = jnp.asarray(piece if part == "seasonal" else jnp.exp(piece), stream.sigma.dtype)
            changed[name] = stream.with_model_error(eqx.tree_at(lambda error, part=part: getattr(error, part), stream.model_error, value))
        return observations.with_streams(changed)


def checked_parts(observations: Observations, parts: Mapping[str, Sequence[str]], known: Sequence[str], method: str) -> Parts:
    """The parts to estimate, stream by stream.

    Raises KeyError for an unknown stream; ValueError for a stream without values, for parts that `method` cannot estimate, or that need
    times or the absence of another memory.
    """
    for name, wanted in parts.items():
        stream = observations[name]
        if not int(stream.count):
            raise ValueError(complain(f"observed values in the stream {name}", "none", f"leave {name} out of `parts`"))
        wrong = [part for part in wanted if part not in known]
        if wrong or isinstance(wanted, str) or "constant" not in wanted:
            raise ValueError(complain(f'"constant", and more of {", ".join(known)}, for {name} by {method}', f"{wanted!r}",
                                      f'parts={{"{name}": ("constant",)}}'))
        if "proportional" not in known and stream.model_error.proportional is not None:
            raise ValueError(complain(f"a model error of {name} without a share, of which {method} cannot tell the constant",
                                      f"{stream.model_error}", 'method="marginal", or stream.with_model_error of a constant'))
        if stream.minutes is None and {"seasonal", "days"} & set(wanted):
            raise ValueError(complain(f"times in the stream {name}, for an error with a season or a memory", "none",
                                      "pass time= to Stream"))
        if stream.correlation is not None and "days" in wanted:
            raise ValueError(complain(f"one memory of the errors of {name}", "`correlation` of the whole error, and days to be estimated",
                                      "leave `correlation` out of the stream"))
    if not parts:
        raise ValueError(complain("a stream whose error is to be estimated", "none", f'parts={{"{observations.names[0]}": ("constant",)}}'))
    return {name: tuple(part for part in PARTS if part in wanted) for name, wanted in parts.items()}


def prepared(observations: Observations, parts: Parts, modelled: Mapping[str, Array], *, first: bool = True) -> Observations:
    """Observations whose errors can be estimated at a run `modelled`: the level of a share is set to it.

    The `first` time what is zero or missing gets a start, and the constant that of the residuals at all sites together.
    """
    changed = {}
    for name, wanted in parts.items():
        stream = observations[name]
        error = stream.model_error
        run = jnp.where(jnp.isfinite(modelled[name]), modelled[name], 0.0)
        if first:
            square = jnp.where(stream.mask, (stream.values - run) ** 2, 0.0).sum() / jnp.maximum(stream.count, 1)
            # Never zero, of which a logarithm is taken: a perfect fit has the measurement error to go by.
            scale = jnp.sqrt(jnp.maximum(square, 1e-6 * jnp.mean(stream.sigma**2, where=stream.mask)))
            share = error.proportional
            if "proportional" in wanted:
                share = jnp.zeros_like(error.constant) if share is None else share
                share, scale = jnp.where(share > 0, share, STARTS["proportional"]), 0.5 * scale
            days = jnp.full_like(error.constant, STARTS["days"]) if "days" in wanted and error.days is None else error.days
            error = eqx.tree_at(lambda e: (e.constant, e.proportional, e.days), error,
                                (jnp.full_like(error.constant, scale), share, days), is_leaf=lambda node: node is None)
        changed[name] = stream.with_model_error(error.at(run) if "proportional" in wanted else error)
    return observations.with_streams(changed)


def log_marginal(terms: Terms) -> Array:
    """log N(d; 0, R + F F') without the constant, by the lines at the top; weights of streams multiply their part of it."""
    n = next(iter(terms.columns.values())).shape[0]
    matrix, vector, total = jnp.eye(n), jnp.zeros(n), 0.0
    for name, stream in terms.observations.items():
        def white(error, stream=stream):
            return stream.residuals(stream.values - error).ravel()

        w, V = white(terms.departures[name]), jax.vmap(white)(terms.columns[name])
        matrix, vector = matrix + V @ V.T, vector + V @ w
        total = total - 0.5 * jnp.sum(stream.weight * stream.log_determinant) - 0.5 * jnp.sum(w**2)
    root = jnp.linalg.cholesky(matrix)
    solved = jax.scipy.linalg.solve_triangular(root, vector, lower=True)
    return total - jnp.sum(jnp.log(jnp.diag(root))) + 0.5 * jnp.sum(solved**2)


def log_score(terms: Terms) -> Array:
    """Sum of log N(d_i; 0, sigma_i^2 + s_i^2 + (F F')_ii), day by day, without the constant: how good the predicted bands were.

    The logarithmic score (Gneiting and Raftery 2007, JASA 102, 359). Each day counts by `terms.counting`, see `counting`.
    """
    return sum(jnp.sum((stream.weight * terms.counting[name])[:, None] * day_scores(stream, terms.departures[name], terms.columns[name]))
               for name, stream in terms.observations.items())


def counting(observations: Observations) -> dict[str, Array]:
    """How much each day counts in the score of single days, (site,) by stream: all together as many as there are independent ones.

    With this factor the curvature of the score says how well a standard deviation is known (Pauli, Racugno and Ventura 2011, Statistica
    Sinica 21, 149), instead of promising too much. It is found once, by the errors that a search starts from: were it to change
    with those that are searched for, the memory that makes days count least would seem the best.
    """
    return {name: stream.effective_squares / jnp.maximum(jnp.sum(stream.mask, axis=1), 1) for name, stream in observations.items()}


def day_variances(stream: Stream, columns: Array) -> Array:
    """sigma_i^2 + s_i^2 + (F F')_ii, the variance of each predicted day, (site, n_obs); one where nothing was observed."""
    return jnp.where(stream.mask, stream.standard_deviation**2 + jnp.sum(columns**2, axis=0), 1.0)


def day_scores(stream: Stream, departures: Array, columns: Array) -> Array:
    """log N(d_i; 0, sigma_i^2 + s_i^2 + (F F')_ii) without the constant, (site, n_obs); zero where nothing was observed."""
    variance = day_variances(stream, columns)
    return jnp.where(stream.mask, -0.5 * (jnp.log(variance) + departures**2 / variance), 0.0)


def judged(stream: Stream, departures: Array, columns: Array) -> tuple[float, float]:
    """Of predicted days chi-square (mean of d_i^2 over the variance) and the share inside the 90 % band; NaN if there are none."""
    squares = np.asarray(departures**2 / day_variances(stream, columns))[np.asarray(stream.mask)]
    return (float(squares.mean()), float(np.mean(squares <= BAND**2))) if squares.size else (np.nan, np.nan)


@eqx.filter_jit
def _value_and_gradient(vector: ErrorVector, values: Array, terms: Terms, density: Callable[..., Array]):
    def value(values):
        return density(terms._replace(observations=vector.observations(terms.observations, values)))

    return jax.value_and_grad(value)(values)


def most_likely(
    vector: ErrorVector, start: np.ndarray, terms: Sequence[Terms], prior_weight: float, *, density: Callable[..., Array] = log_marginal,
    free: np.ndarray | None = None,
) -> Fitted:
    """The vector (k,) that maximises the sum of the densities and of `prior_weight` times the log prior, and the curvature (k, k) there.

    `free` (k,): which of its entries may move. By L-BFGS-B with exact gradients; the curvature is made of differences of them. Whether it
    is a maximum is judged by the Newton step from there, in standard errors, whatever the search says of itself.
    """
    free = np.ones(start.size, bool) if free is None else free
    reach = REACH * vector.spread
    start = np.clip(start, vector.centre - reach, vector.centre + reach)

    def objective(moved: np.ndarray) -> tuple[float, np.ndarray]:
        values = start.copy()
        values[free] = moved
        found = [_value_and_gradient(vector, jnp.asarray(values), each, density) for each in terms]
        departure = (values - vector.centre) / vector.spread
        total = 0.5 * prior_weight * np.sum(departure[free] ** 2) - sum(float(value) for value, _ in found)
        slope = prior_weight * departure / vector.spread - sum(np.asarray(gradient) for _, gradient in found)
        return total, slope[free]

    bounds = np.stack([vector.centre - reach, vector.centre + reach], axis=1)[free]
    found = minimize(objective, start[free], jac=True, method="L-BFGS-B", bounds=bounds,
                     options={"maxiter": 200, "ftol": 1e-12, "gtol": 1e-6})
    values, curvature = start.copy(), np.full((start.size, start.size), 0.0)
    values[free] = found.x
    block = curvature[np.ix_(free, free)] = _curvature(lambda moved: objective(moved)[1], found.x)
    return Fitted(values, curvature, _unfinished(found, block, bounds))


def _unfinished(found, curvature: np.ndarray, bounds: np.ndarray) -> str:
    """Why the end of a search is no maximum, in words; empty where it is one, or one on a bound.

    Judged by the length of the Newton step in standard errors, sqrt(g' H^-1 g), over the parameters that no bound holds.
    """
    low, high = bounds.T
    free = ~(((found.x <= low) & (found.jac > 0)) | ((found.x >= high) & (found.jac < 0)))
    where = f"the search ended after {found.nit} steps ({found.message})"
    if not free.any():
        return ""
    values, vectors = np.linalg.eigh(curvature[np.ix_(free, free)])
    if values[0] < -FLAT * max(values[-1], 1.0):
        return f"{where} where the density is no maximum"
    # Along what nothing is known of, not even by a prior, there is no curvature, and a gradient of rounding.
    left = float(np.sqrt(np.sum((vectors.T @ found.jac[free]) ** 2 / np.maximum(values, FLAT))))
    return "" if left <= FINISHED else f"{where} {left:.2g} standard errors from the maximum"


def _curvature(gradient: Callable[[np.ndarray], np.ndarray], at: np.ndarray) -> np.ndarray:
    steps = DIFFERENCE * np.eye(at.size)
    rows = np.stack([(gradient(at + step) - gradient(at - step)) / (2 * DIFFERENCE) for step in steps])
    return 0.5 * (rows + rows.T)


def tangents(problem, z: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """The run at z (n,), and its derivative (n, site, n_obs), by stream; zero where nothing was observed. In batches of tangents.

    Raises ValueError where the derivative would not fit in memory.
    """
    size = sum(stream.values.size * stream.values.dtype.itemsize for _, stream in problem.observations.items()) * z.size
    if size > LARGEST:
        raise ValueError(complain(
            f"derivatives of all observed values by all parameters in {LARGEST / 1e9:.1f} GB, which the errors are found with",
            f"{z.size} parameters: {size / 1e9:.1f} GB",
            'method="desroziers", which needs runs alone, or the errors of a problem with fewer sites, handed on by estimate.applied'))
    return _tangents(problem, z)


@eqx.filter_jit
def _tangents(problem, z: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    masks = {name: stream.mask for name, stream in problem.observations.items()}

    def along(direction):
        columns = jax.jvp(problem.predict, (z,), (direction,))[1]
        return {name: jnp.where(masks[name], column, 0.0) for name, column in columns.items()}

    return problem.predict(z), jax.lax.map(along, jnp.eye(z.size, dtype=z.dtype), batch_size=TANGENTS)


@eqx.filter_jit
def posterior_root(observations: Observations, columns: Mapping[str, Array]) -> Array:
    """L (n, n) with L L' = (I + G' R^-1 G)^-1, from columns G (n, site, n_obs) of the run at a minimum."""
    n = next(iter(columns.values())).shape[0]
    matrix = jnp.eye(n)
    for name, stream in observations.items():
        V = jax.vmap(lambda column, stream=stream: stream.residuals(stream.values - column).ravel())(columns[name])
        matrix = matrix + V @ V.T
    return jnp.linalg.inv(jnp.linalg.cholesky(matrix)).T
