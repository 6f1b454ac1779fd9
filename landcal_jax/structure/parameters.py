"""What is wrong with the parameters: bounds they lean on, priors the data contradict, directions nobody sees, runs that fail.

u = L z is used for single parameters: u_i has the prior N(0, 1) and belongs to parameter i alone, also where the prior is correlated.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import chi2

from landcal_jax.information import listed, root_of
from landcal_jax.members import draw_members, region_words
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.checks import two_sided
from landcal_jax.structure.findings import Finding, p_text
from landcal_jax.structure.score_tests import Whitened
from landcal_jax.structure.signals import quantity_words

LEANS = 2.0
"""|u| from which a parameter of a bounded prior leans on its bound: the outer 2.3 % of the prior."""
SEEN = 0.5  # share of the variance of a direction that the data must take away for it to be seen
MEMBERS = 200


def bounds(problem: Problem, whitened: Whitened, z: np.ndarray) -> Iterator[Finding]:
    """Parameters that lean on a bound, with the bound that the data would take without it.

    At the MAP the pull of the data balances that of the prior, u_i. With the information of the data alone, all other parameters free,
    the data's own optimum is u_i / information away, as the linearised model has it, along the physical parameter or its logarithm
    where its range is given by a positive low bound; the bound to try is two standard deviations beyond.
    """
    space = problem.space
    low, high = (np.asarray(side) for side in space.bounds())
    L = root_of(space)
    u, A = L @ z, np.linalg.inv(L).T @ (whitened.G.T @ whitened.G) @ np.linalg.inv(L)
    values = np.asarray(space.flatten(space.physical(z)))
    slope = np.diag(np.asarray(jax.jacfwd(lambda u: space.flatten(space.physical(jnp.linalg.solve(jnp.asarray(L), u))))(jnp.asarray(u))))
    for i in np.flatnonzero(np.abs(u) > LEANS):
        bound = high[i] if u[i] * slope[i] > 0 else low[i]
        if not np.isfinite(bound):
            continue
        # 1 / (A^-1)_ii is the information about u_i with all others free; the prior of u_i itself brings 1 of it.
        information = max(1 / np.linalg.inv(A)[i, i] - 1.0, 0.0)
        where = "upper" if bound == high[i] else "lower"
        word = (f"{space.labels[i]} leans on its {where} bound: {values[i]:.4g}, bound {bound:.4g}, {abs(u[i]):.1f} standard deviations of "
                "the prior from its mean")
        numbers = {"parameter": space.labels[i], "value": values[i], "bound": bound, "u": u[i], "low": low[i], "high": high[i]}
        if information < 1e-3:
            yield Finding("bound", f"{word}; the data hardly see it.", "It follows other parameters: look at what it is correlated with.",
                          figure="parameters", numbers=numbers | {"try": np.nan})
            continue
        step, spread = u[i] / information, 1 / np.sqrt(information)
        logarithmic = low[i] > 0
        unit = slope[i] / values[i] if logarithmic else slope[i]
        far = (abs(step) + 2 * spread) * abs(unit) * (1 if where == "upper" else -1)
        tried = values[i] * np.exp(np.clip(far, -3, 3)) if logarithmic else values[i] + far
        tried = max(tried, bound) if where == "upper" else min(tried, bound)
        yield Finding("bound", f"{word}. Without it the data would take it further.",
                      f"If {tried:.3g} is physically possible, try it as the {where} bound; if not, a process makes up for something else: "
                      "see the causes.", figure="parameters", alarm=bool(abs(u[i]) > 3.5), numbers=numbers | {"try": tried})


def prior_conflict(problem: Problem, observations: Observations, whitened: Whitened, z: np.ndarray) -> Iterator[Finding]:
    """Whether the data push the parameters where the prior did not expect them, per stream and together.

    Linearised at the MAP, what stream s alone says of the control vector is z_s = -(I + G_s'G_s)^-1 G_s'r_s0, r_s0 the innovations at the
    prior mean. If prior, model and R are right, innovations have the covariance HBH' + R and z_s is N(0, I - (I + G_s'G_s)^-1): the part
    of their chi-square that lies in the directions that the stream sees (Evans and Moshonov 2006, Bayesian Anal. 1:893).
    """
    data = whitened.sites >= 0
    groups = {name: whitened.rows[name] for name in observations}
    if len(groups) > 1:
        groups["all streams together"] = np.flatnonzero(data)
    for name, rows in groups.items():
        G = whitened.G[rows]
        innovation = whitened.r[rows] - G @ z
        values, vectors = np.linalg.eigh(G.T @ G)
        values = np.maximum(values, 0.0)
        told = -(vectors.T @ (G.T @ innovation)) / (1 + values)
        share = values / (1 + values)
        seen = share > SEEN
        statistic, degrees = float(np.sum(told[seen] ** 2 / share[seen])), int(seen.sum())
        if not degrees:
            continue
        log_p = float(chi2.logsf(statistic, degrees))
        what = quantity_words(name) if name in whitened.rows else name
        full = float(innovation @ innovation - np.sum((vectors.T @ (G.T @ innovation)) ** 2 / (1 + values)))
        yield Finding(
            "prior conflict", f"What {what} says of the parameters lies {np.sqrt(statistic / degrees):.2f} prior standard deviations from "
            f"the prior mean in the {degrees} directions that it sees (chi-square {statistic:.1f}; {p_text(log_p)}; innovations under "
            f"HBH' + R: {full:.0f} for {len(rows)}).",
            "Look at the parameters that moved most: a prior that is too narrow, or a parameter that makes up for a process.", log_p,
            figure="parameters", subject=name if name in whitened.rows else "",
            numbers={"stream": name, "statistic": statistic, "degrees": degrees, "innovations": full, "count": len(rows)})


def moved(problem: Problem, z: np.ndarray) -> Iterator[Finding]:
    """Parameters far out in their priors, one test each of |u_i| against its prior."""
    space = problem.space
    u = root_of(space) @ z
    values = np.asarray(space.flatten(space.physical(z)))
    for i in np.argsort(-np.abs(u))[:5]:
        if abs(u[i]) < 2:
            return
        log_p = two_sided(u[i])
        yield Finding("prior outlier", f"{space.labels[i]} = {values[i]:.4g} is {abs(u[i]):.1f} standard deviations from its prior mean "
                      f"({p_text(log_p)} before a look at {len(u)} parameters).",
                      "Ask whether the value is possible; if not, it stands in for what the model lacks.", log_p, tests=len(u),
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


def failures(problem: Problem, seed: int, members: int = MEMBERS) -> Iterator[Finding]:
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
