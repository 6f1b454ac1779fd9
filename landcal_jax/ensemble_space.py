"""What the ensemble solvers share: the quadratic in the space of the ensemble, its control vectors, and what it reaches.

"Control vectors" are z, or physical parameters in the order of `space.labels` where a method works in these.
"""

from collections.abc import Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain
from landcal_jax.members import Ran
from landcal_jax.problem import Problem

OUTSIDE_LIMIT = 0.05  # of the observed values more than two standard deviations beyond all members
MEASURES = ("outside_envelope", "span_chi_square", "distance", "farthest_member", "predicted_cost")
FARTHEST = 1e8  # times as far from the observations as the median member: its rounding would bury what the others tell
UNEXPLAINED_LIMIT = 2.0  # mean square of what no combination of the members explains, in standard deviations


class Weights(NamedTuple):
    """Minimum of J(w): `w` (member,); `root` (member, member), root root' = (damping I + Y'Y)^-1, symmetric."""

    w: np.ndarray
    root: np.ndarray


def weights(Y: np.ndarray, d: np.ndarray, damping: float = 1.0) -> Weights:
    """The minimum of damping/2 w'w + 1/2 |d - Y w|^2 with Y (m, member), in closed form."""
    U, s, Vt = np.linalg.svd(Y, full_matrices=len(Y) < Y.shape[1])
    s = np.concatenate([s, np.zeros(len(Vt) - len(s))])
    number = min(U.shape[1], len(s))
    w = Vt[:number].T @ (s[:number] / (damping + s[:number] ** 2) * (U[:, :number].T @ d))
    return Weights(w, (Vt.T / np.sqrt(damping + s**2)) @ Vt)


def near(D: np.ndarray, finished: np.ndarray, usual: float | None = None) -> np.ndarray:
    """Which members ran to their end and not beyond all measure, from their whitened residuals D (member, m).

    A model that blows up may do so without an overflow. Its member says no more than that it is far away; but the decomposition of
    all members is exact to rounding of the largest, and nothing of the others would be left. `usual`: the largest residual of a
    member that is no such, that of the median without it.
    """
    if not finished.any():
        return finished
    away = np.abs(D).max(axis=1, initial=0.0)
    usual = np.median(away[finished]) if usual is None else usual
    return finished & (away <= FARTHEST * max(usual, 1.0))


def reach(problem: Problem, ran: Ran, kept: np.ndarray, X: np.ndarray, Y: np.ndarray, d: np.ndarray, increment: np.ndarray):
    """What the ensemble reaches of the observations: the `MEASURES` that `FourDEnVar` explains, but the last.

    `kept` (member,) ran, after the run of the mean; X (member, n) and Y (m, member) are their anomalies, `d` (m,) the innovation.
    """
    outside = number = 0
    for name, stream in problem.observations.items():
        mask, members = np.asarray(stream.mask), ran.predicted[name][1:][kept]
        below, above = members.min(axis=0)[mask], members.max(axis=0)[mask]
        value, margin = np.asarray(stream.values)[mask], 2 * np.asarray(stream.standard_deviation)[mask]
        outside += ((value < below - margin) | (value > above + margin)).sum()
        number += mask.sum()
    U, s, _ = np.linalg.svd(Y, full_matrices=False)
    U = U[:, s > 1e-10 * s.max(initial=0.0)]
    freedom = len(d) - U.shape[1]
    unexplained = np.sum((d - U @ (U.T @ d)) ** 2) / freedom if freedom > 0 else np.nan
    # In standard deviations of the ensemble, by its own covariance.
    inverse = np.linalg.pinv(X, rcond=1e-10)
    rank = max(np.linalg.matrix_rank(X), 1)
    members = np.sum((np.sqrt(len(X) - 1) * X @ inverse) ** 2, axis=1).max() / rank
    return {"outside_envelope": outside / max(number, 1), "span_chi_square": unexplained,
            "distance": np.sum((increment @ inverse) ** 2) / rank, "farthest_member": members}


def spanned(anomalies: np.ndarray) -> int:
    """Directions that anomalies (member, n) span, each parameter in the size of its own."""
    size = np.abs(anomalies).max(axis=0)
    return int(np.linalg.matrix_rank(anomalies / np.where(size > 0, size, 1.0), tol=1e-10 * np.sqrt(len(anomalies))))


def reached_span(members: int, rank: int, number: int) -> str:
    """How many of `number` directions so many members span, in words."""
    return f"{members} members span {rank} of {number} directions" if rank < number else "the members span all directions"


def doubts(measures: Mapping[str, Array]) -> list[str]:
    """What speaks against the analysis, one sentence each."""
    m, doubts = {name: float(value) for name, value in measures.items()}, []
    if m["outside_envelope"] > OUTSIDE_LIMIT:
        doubts.append(f"{m['outside_envelope']:.0%} of the observed values are beyond all members by two standard deviations or more")
    if m["span_chi_square"] > UNEXPLAINED_LIMIT:
        doubts.append(f"no combination of the members explains the observations: chi-square {m['span_chi_square']:.3g} where one is right")
    if m["distance"] > m["farthest_member"]:
        doubts.append(f"the analysis is farther out than every member: mean square {m['distance']:.3g} standard deviations, "
                      f"the farthest member {m['farthest_member']:.3g}")
    return doubts


def changed(state: eqx.Module, **fields) -> eqx.Module:
    """`state` with these fields, as arrays of the kind that were there (a checkpoint expects the same)."""
    old = {name: getattr(state, name) for name in fields}
    new = jax.tree.map(lambda now, value: jnp.asarray(value, now.dtype), old, dict(fields))
    return eqx.tree_at(lambda state: [getattr(state, name) for name in new], state, list(new.values()))


def given_members(problem: Problem, members: Array) -> Array:
    """Members (member, n) that the user gives; raises ValueError for another shape, or NaN."""
    members, number = jnp.asarray(members, float), problem.space.size
    if members.ndim != 2 or members.shape[1] != number or len(members) < 2:
        raise ValueError(complain(f"members (member, {number}), two or more", f"shape {members.shape}", "one row a member"))
    if not np.isfinite(members).all():
        raise ValueError(complain("finite members", f"{(~np.isfinite(members)).any(axis=1).sum()} with NaN or infinity", "leave these out"))
    return members


def flat(problem: Problem, Z: Array) -> Array:
    """Physical control vectors (member, n) of z."""
    return problem.space.flatten(problem.space.physical(Z))


def to_z(problem: Problem, vectors: Array, space: str) -> Array:
    """z of control vectors; an error where a physical one is outside its bounds."""
    return jnp.asarray(vectors) if space == "z" else problem.space.whiten(problem.space.unflatten(vectors))


def nearest_z(problem: Problem, vectors: np.ndarray, space: str) -> tuple[Array, np.ndarray]:
    """z of the nearest points inside the bounds, and which of the vectors are inside themselves."""
    if space == "z":
        return jnp.asarray(vectors), np.ones(np.shape(vectors)[:-1], bool)
    low, high = map(np.asarray, problem.space.bounds())
    return to_z(problem, np.clip(vectors, low, high), space), ((vectors >= low) & (vectors <= high)).all(axis=-1)


def where_they_ran(problem: Problem, ran: Ran, asked: Array, vectors: Array, space: str) -> np.ndarray:
    """Control vectors where the members ran: those of the rule "pull in" are not where they were asked for."""
    vectors, moved = np.array(vectors), np.asarray((ran.z != asked).any(axis=1))
    if moved.any():
        vectors[moved] = ran.z[moved] if space == "z" else flat(problem, ran.z[moved])
    return vectors


def tapers_of(problem: Problem, localisation: Mapping[str, Array] | None) -> np.ndarray | None:
    """Tapers of all observed values (n, m), in the order of `whitened`."""
    if localisation is None:
        return None
    unknown = set(localisation) - set(problem.observations.names)
    if unknown:
        raise ValueError(complain(f"streams {', '.join(problem.observations.names)}", f"tapers of {', '.join(sorted(unknown))}", "rename"))
    parts = []
    for name, stream in problem.observations.items():
        taper, shape = np.asarray(localisation.get(name, 1.0), float), (problem.space.size, *stream.values.shape)
        if taper.ndim > 0 and taper.shape != shape or not ((taper >= 0) & (taper <= 1)).all():
            raise ValueError(complain(f"a taper of {name} of shape {shape} (parameter, site, n_obs) in 0 to 1",
                                      f"shape {taper.shape}, {taper.min():g} to {taper.max():g}", "1 lets an observation act in full"))
        parts.append(np.broadcast_to(taper, shape)[:, np.asarray(stream.mask)])
    return np.concatenate(parts, axis=1)
