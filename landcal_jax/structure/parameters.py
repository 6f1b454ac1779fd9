"""What is wrong with the parameters: bounds they lean on, priors the data contradict, directions nobody sees, runs that fail.

u = L z is used for single parameters: u_i has the prior N(0, 1) and belongs to parameter i alone, also where the prior is correlated.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_ndtr

from landcal_jax.information import listed, root_of
from landcal_jax.members import draw_members, region_words
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result
from landcal_jax.structure.findings import Finding, count_text, p_text
from landcal_jax.structure.score_tests import Whitened
from landcal_jax.structure.signals import quantity_words
from landcal_jax.structure.tails import above, two_sided
from landcal_jax.structure.tested import Tested

FAR = 2.0
"""|u| from which a parameter is said to be far out in its prior, or to lean on a bound: the outer 2.3 % to either side."""
SEEN = 0.5  # share of the variance of a direction that the data must take away for it to be seen
MEMBERS = 200
VANISHES = 0.5
"""Power of the distance with which a prior density may vanish at a bound for the bound to be felt: it is 0 of a uniform prior."""
OUT = (6.0, 7.0)  # |u| at which that power is taken


def bounds(problem: Problem, whitened: Whitened, z: np.ndarray) -> Iterator[Finding]:
    """Parameters that lean on a bound, with the bound that the data would take without it.

    At the MAP the pull of the data balances that of the prior, u_i. With the information of the data alone, all other parameters free,
    the data's own optimum is u_i / information away, as the linearised model has it, along the physical parameter or its logarithm
    where its range is given by a positive low bound; the bound to try is two standard deviations beyond.
    """
    space, L = problem.space, root_of(problem.space)
    low, high = (np.asarray(side) for side in space.bounds())
    u, inverse = L @ z, np.linalg.inv(L)
    left = np.diag(np.linalg.inv(inverse.T @ (whitened.G.T @ whitened.G) @ inverse))
    values, slope = np.asarray(space.flatten(space.physical(z))), _slopes(problem, u)
    for i, upper in _leaning(problem, u, slope):
        bound, where = (high[i], "upper") if upper else (low[i], "lower")
        log_p = _of_any(u[i], len(u))
        word = (f"{space.labels[i]} leans on its {where} bound: {values[i]:.4g}, bound {bound:.4g}, {abs(u[i]):.1f} standard deviations of "
                f"the prior from its mean ({p_text(log_p)} for any of {len(u)} parameters)")
        numbers = {"parameter": space.labels[i], "value": values[i], "bound": bound, "u": u[i], "low": low[i], "high": high[i]}
        # 1 / (A^-1)_ii is the information about u_i with all others free; the prior of u_i itself brings 1 of it.
        information = max(1 / left[i] - 1.0, 0.0)
        if information < 1e-3:
            yield Finding("bound", f"{word}; the data hardly see it.", "It follows other parameters: look at what it is correlated with.",
                          log_p, figure="parameters", numbers=numbers | {"try": np.nan})
            continue
        step, spread = u[i] / information, 1 / np.sqrt(information)
        logarithmic = low[i] > 0
        unit = slope[i] / values[i] if logarithmic else slope[i]
        far = (abs(step) + 2 * spread) * abs(unit) * (1 if upper else -1)
        # A factor of 20 is further than any tangent is good for.
        tried = values[i] * np.exp(np.clip(far, -3, 3)) if logarithmic else values[i] + far
        tried = max(tried, bound) if upper else min(tried, bound)
        yield Finding("bound", f"{word}. Without it the data would take it further.",
                      f"If {tried:.3g} is physically possible, try it as the {where} bound; if not, a process makes up for something else: "
                      "see the causes.", log_p, figure="parameters", numbers=numbers | {"try": tried})


def _slopes(problem: Problem, u: np.ndarray) -> np.ndarray:
    """Derivatives (n,) of the physical parameters with respect to u, of which each depends on its own element alone."""
    space, L = problem.space, root_of(problem.space)
    along = [jnp.asarray(np.linalg.solve(L, each)) for each in (u, np.ones(len(u)))]
    return np.asarray(jax.jvp(lambda z: space.flatten(space.physical(z)), along[:1], along[1:])[1])


def _leaning(problem: Problem, u: np.ndarray, slope: np.ndarray) -> list[tuple[int, bool]]:
    """Places of parameters far out that lean on a bound, and whether it is the upper one.

    A bound is felt where the prior ends with a density. That of a log-normal vanishes towards zero faster than any power: there is no
    wider bound to try. With F ~ distance^k near the bound, F = Phi(-|u|), the density goes as distance^(k - 1); from slopes far out,
    since distances themselves are lost in rounding there.
    """
    low, high = (np.asarray(side) for side in problem.space.bounds())
    upper = u * slope > 0
    far = np.flatnonzero((np.abs(u) > FAR) & np.isfinite(np.where(upper, high, low)))
    if not len(far):
        return []
    near, nearer = (np.log(np.abs(_slopes(problem, np.sign(u) * at))) for at in OUT)
    mass = np.diff(log_ndtr(-np.array(OUT)))[0]
    hazard = np.diff([-0.5 * at**2 - log_ndtr(-at) for at in OUT])[0]
    # Nearer to the bound by this logarithm, of which the mass has fallen by `mass`.
    distance = nearer - near - hazard
    felt = ~(mass / distance > 1 + VANISHES)
    return [(int(i), bool(upper[i])) for i in far if felt[i]]


def _of_any(u: float, number: int) -> float:
    """Log of the chance that any of `number` parameters is so far out in its prior (Bonferroni)."""
    return min(two_sided(u) + float(np.log(number)), 0.0)


def prior_conflict(problem: Problem, tested: Tested, z: np.ndarray) -> Iterator[Finding]:
    """Whether the data push the parameters where the prior did not expect them, per stream and together.

    Linearised at the MAP, what stream s alone says of the control vector is z_s = -(I + G_s'G_s)^-1 G_s'r_s0, r_s0 the innovations at the
    prior mean. If prior, model and R are right, innovations have the covariance HBH' + R and z_s is N(0, I - (I + G_s'G_s)^-1): the part
    of their chi-square that lies in the directions that the stream sees (Evans and Moshonov 2006, Bayesian Anal. 1:893). With weights in
    J the covariance of z_s follows from that of the innovations, which knows no weights.
    """
    groups = {name: rows for name, rows in tested.whitened.rows.items() if len(rows)}
    if len(groups) > 1:
        groups["all streams together"] = np.flatnonzero(tested.sites >= 0)
    for name, rows in groups.items():
        G, root = tested.G[rows], np.sqrt(tested.weight[rows])[:, None]
        heavy, innovation = root * G, tested.r[rows] - G @ z
        values, vectors = np.linalg.eigh(heavy.T @ heavy)
        values = np.maximum(values, 0.0)
        seen = values / (1 + values) > SEEN
        if not seen.any():
            continue
        along = (root * heavy) @ (vectors[:, seen] / (1 + values[seen]))
        told = -along.T @ innovation
        statistic = float(told @ np.linalg.solve(along.T @ along + (along.T @ G) @ (along.T @ G).T, told))
        degrees, log_p = int(seen.sum()), above(statistic, int(seen.sum()))
        what = quantity_words(name) if name in tested.whitened.rows else name
        ratio = np.sqrt(statistic / degrees)
        full = float(innovation @ innovation - (G.T @ innovation) @ np.linalg.solve(np.eye(len(z)) + G.T @ G, G.T @ innovation))
        yield Finding(
            "prior conflict", f"What {what} says of the parameters lies {ratio:.2f} times as far from the prior mean as prior and errors "
            f"together let expect, in the {degrees} directions that it sees (chi-square {count_text(statistic)}; {p_text(log_p)}; "
            f"innovations under HBH' + R: {count_text(full)} for {len(rows)}).",
            "Look at the parameters that moved most: a prior that is too narrow, or a parameter that makes up for a process.", log_p,
            figure="parameters", subject=name if name in tested.whitened.rows else "",
            numbers={"stream": name, "statistic": statistic, "degrees": degrees, "innovations": full, "count": len(rows)})


def moved(problem: Problem, z: np.ndarray) -> Iterator[Finding]:
    """Parameters far out in their priors that do not lean on a bound, the five furthest."""
    space = problem.space
    u = root_of(space) @ z
    values = np.asarray(space.flatten(space.physical(z)))
    leaning = {i for i, _ in _leaning(problem, u, _slopes(problem, u))}
    for i in [i for i in np.argsort(-np.abs(u)) if abs(u[i]) > FAR and i not in leaning][:5]:
        log_p = _of_any(u[i], len(u))
        yield Finding("prior outlier", f"{space.labels[i]} = {values[i]:.4g} is {abs(u[i]):.1f} standard deviations from its prior mean "
                      f"({p_text(log_p)} for any of {len(u)} parameters).",
                      "Ask whether the value is possible; if not, it stands in for what the model lacks.", log_p,
                      figure="parameters", numbers={"parameter": space.labels[i], "u": u[i]})


def unseen(problem: Problem, whitened: Whitened) -> Iterator[Finding]:
    """How many directions of the control space the data see, and the parameters that they leave to the prior."""
    L = root_of(problem.space)
    A = whitened.G.T @ whitened.G
    share = 1 - 1 / np.linalg.eigvalsh(A)
    spread = np.sqrt(np.diag(L @ np.linalg.inv(A) @ L.T))
    blind = [label for label, sd in zip(problem.space.labels, spread, strict=True) if sd > 0.95]
    seen = int((share > SEEN).sum())
    if seen < len(share):
        yield Finding(
            "unseen", f"The data see {seen} of {len(share)} directions of the parameters; the others are as the prior has them."
            + (f" They say nearly nothing of {listed(blind)}." if blind else ""),
            "Their values and what follows from them (slow pools, projections) rest on the prior: fix them, observe more, or report the "
            "prior; identifiability(problem, result) says more.", figure="directions",
            numbers={"share": share, "blind": blind, "seen": seen})


def failures(problem: Problem, seed: int, members: int) -> Iterator[Finding]:
    """Runs of the model over its prior that fail, and where, by `members` draws."""
    Z = np.asarray(draw_members(problem, jax.random.key(seed), members, exact=False))
    predicted = problem.ensemble(jnp.asarray(Z))
    good = np.logical_and.reduce([
        np.isfinite(np.where(np.asarray(stream.mask), predicted[name], 0.0)).all(axis=(1, 2))
        for name, stream in problem.observations.items()])
    if good.all():
        return
    theta = np.asarray(jax.vmap(lambda z: problem.space.flatten(problem.space.physical(z)))(jnp.asarray(Z)))
    share = float((~good).mean())
    yield Finding("failed runs", f"{(~good).sum()} of {members} runs over the prior fail{region_words(problem, Z, good)}.",
                  "Narrow the prior there, or look at the messages of the model; solvers that draw members leave such runs out.",
                  alarm=share > 0.05, figure="failed", numbers={"theta": theta, "finished": good, "labels": problem.space.labels})


def not_run(problem: Problem, result: Result | Array) -> Iterator[Finding | str]:
    """What is known of failed runs of a model that is too slow to be run over its prior unasked."""
    lost = int(result.details.get("failed_runs", 0)) if isinstance(result, Result) else 0
    runs = int(result.counts["forward"]) if lost else 0
    ask = "examine(..., members=50), or landcal_jax.testing.check(problem)"
    if lost:
        yield Finding("failed runs", f"{lost} of {runs} runs of the solve failed.",
                      f"See where: {ask}; the messages of the model say why.", alarm=lost > 0.05 * runs)
    else:
        yield (f"Runs over the prior, some of which may fail, were not made, since {problem.forward.description} may take long: {ask} "
               "makes them.")
