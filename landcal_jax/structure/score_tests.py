"""Score tests of expansions of a calibrated model: which candidate explains what the residuals still hold?

At the MAP the whitened residuals of prior and data are r, their Jacobian G (m, n), and -d the derivative of r with respect to the
coefficient c of a candidate. The parameters take up what they can of d; what is left is P d, P = I - G (G'G)^-1 G'. Then

    t = d'P r / sqrt(d'P d)        is N(0, 1) if model, prior and R are right and the model is linear over the posterior,
    c = d'P r / (d'P d)            is the coefficient to expect, and t^2 twice the fall of J with it

(Rao's score test, the Lagrange multiplier test of Silvey 1959, Ann. Math. Statist. 30:389, with the prior as further data). Where
residuals are autocorrelated or R is too small, the variance of d'P r is that of Newey and West (1987, Econometrica 55:703), with the
residuals that the candidate leaves, if it is above one. The threshold of the largest |t| of a class of candidates is simulated, since their
t are correlated; the classes share the chance of an alarm alike, so that few candidates need not stand out among many.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_ndtr

from landcal_jax.errors import complain
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.expansions import Refit, refit
from landcal_jax.structure.signals import Candidate, Signals

LAGS_DAYS = 30.0
"""Reach of the autocorrelation that Newey and West's variance takes in."""
FELT = 1e-6
"""Size of a signal in standard deviations of the observations, for c = 1, below which it is rounding."""
LOOKED_AT = 2.5  # |t| from which autocorrelation is taken into account
EACH = 2  # candidates of a group that are calibrated anew
LEFT = 1e-4
"""Share of d'd that must be left after projection: below it the parameters can do all that the candidate does."""


@dataclass(frozen=True)
class Whitened:
    """Whitened residuals of the data by stream at the MAP, r (m,), Jacobian G (m, n), with the prior's rows first.

    `rows`: stream -> the rows of its observed values; `sites`, `times` (m,): site and day of each, -1 and NaN for the prior.
    """

    r: np.ndarray
    G: np.ndarray
    rows: dict[str, np.ndarray]
    sites: np.ndarray
    times: np.ndarray
    root: np.ndarray

    def project(self, columns: np.ndarray) -> np.ndarray:
        """P times `columns` (m, k)."""
        columns = columns - self.root @ (self.root.T @ columns)
        return columns - self.root @ (self.root.T @ columns)


def whitened_at(problem: Problem, z: Array, observations: Observations) -> Whitened:
    """The residuals of `problem` with `observations` at z (n,), and their Jacobian, rows only where something was observed.

    Raises ValueError if they are not finite.
    """
    residuals, jacobian = _linearised(problem, observations, jnp.asarray(z))
    lost = {name: int((~np.isfinite(np.asarray(values))).sum()) for name, values in residuals.items()}
    if any(lost.values()):
        raise ValueError(complain("a calibrated model whose run is finite where something was observed", f"values that are not: {lost}",
                                  "examine another z; testing.check(problem) scans the prior for runs that fail"))
    n = len(z)
    r, G, rows, sites, times = [np.asarray(z)], [np.eye(n)], {}, [np.full(n, -1)], [np.full(n, np.nan)]
    start = n
    for name, stream in observations.items():
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        r.append(np.asarray(residuals[name])[mask])
        G.append(np.asarray(jacobian[name])[:, mask].T)
        rows[name] = np.arange(start, start := start + int(mask.sum()))
        sites.append(np.nonzero(mask)[0])
        times.append(np.asarray(stream.minutes, float)[mask] / 1440 if stream.minutes is not None else np.full(int(mask.sum()), np.nan))
    r, G = np.concatenate(r), np.concatenate(G)
    return Whitened(r, G, rows, np.concatenate(sites), np.concatenate(times), np.linalg.qr(G)[0])


@eqx.filter_jit
def slopes_of(problem: Problem, z: Array) -> dict[str, Array]:
    """Derivatives of the predictions by stream, (n, site, n_obs)."""
    return jax.vmap(lambda v: jax.jvp(problem.predict, (z,), (v,))[1])(jnp.eye(z.size, dtype=z.dtype))


@eqx.filter_jit
def _linearised(problem: Problem, observations: Observations, z: Array):
    def residuals(z):
        return observations.residuals(problem.predict(z))

    slopes = jax.vmap(lambda v: jax.jvp(residuals, (z,), (v,))[1])(jnp.eye(z.size, dtype=z.dtype))
    return residuals(z), slopes


def whitened_directions(observations: Observations, signals: Signals, base: dict[str, Array], whitened: Whitened) -> np.ndarray:
    """The directions of all candidates in whitened space, (m, candidate), the sign that of the prediction."""
    D = np.zeros((len(whitened.r), len(signals.candidates)))
    for name, stream in observations.items():
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        at = np.where(mask, np.asarray(base[name]), 0.0)
        moved = np.asarray(_whiten_many(stream, jnp.asarray(at), jnp.asarray(np.where(mask, signals.directions[name], 0.0))))
        D[whitened.rows[name]] = moved[:, mask].T
    return D


@eqx.filter_jit
def _whiten_many(stream, base, directions):
    # By a tangent and not by a difference: what is zero stays so, and a candidate without any effect is known as one.
    return jax.lax.map(lambda d: -jax.jvp(stream.residuals, (base,), (d,))[1], directions, batch_size=64)


@dataclass(frozen=True)
class Scores:
    """Tests of the candidates that can be told from the parameters, each array (candidate,).

    `t`: robust test statistic; `inflation`: by which autocorrelation widened its standard deviation, where |t| is large without it;
    `coefficient` and its standard error `spread`; `kept`: share of the signal that the parameters do not take up; `log_p`: logarithm of
    the two-sided p-value of one test; `thresholds`: class -> the |t| above which one is an alarm; `projected` (m, candidate): P d
    normalised.
    """

    candidates: tuple[Candidate, ...]
    t: np.ndarray
    inflation: np.ndarray
    coefficient: np.ndarray
    spread: np.ndarray
    kept: np.ndarray
    log_p: np.ndarray
    thresholds: dict[str, float]
    projected: np.ndarray

    @property
    def log_family(self) -> np.ndarray:
        """Log of the p-values for all tests together: the classes share alike, and the members of each (Bonferroni; at most 0)."""
        kinds = [candidate.kind for candidate in self.candidates]
        shared = np.array([np.log(kinds.count(kind) * len(self.thresholds)) for kind in kinds])
        return np.minimum(self.log_p + shared, 0.0)

    @property
    def loud(self) -> np.ndarray:
        """Which candidates are above the threshold of their class, (candidate,)."""
        return np.abs(self.t) > np.array([self.thresholds[candidate.kind] for candidate in self.candidates])


def score_tests(whitened: Whitened, candidates: tuple[Candidate, ...], D: np.ndarray, *, alarm: float = 0.025, draws: int = 4000,
                seed: int = 0) -> Scores:
    """Test candidates with whitened directions D (m, candidate); `alarm`: chance of any |t| above the threshold in a right model."""
    size = np.sqrt(np.sum(D**2, axis=0))
    left = whitened.project(D)
    remain = np.sqrt(np.sum(left**2, axis=0))
    told = (size > FELT) & (remain**2 > LEFT * size**2)
    unit = left[:, told] / remain[told]
    score = unit.T @ whitened.project(whitened.r[:, None])[:, 0]
    # Autocorrelation can only widen: what is quiet without it need not be looked at.
    inflation, large = np.ones(len(score)), np.abs(score) > LOOKED_AT
    inflation[large] = np.sqrt(np.maximum(1.0, _newey_west(whitened, unit[:, large], score[large])))
    t = score / inflation
    log_p = np.log(2) + log_ndtr(-np.abs(t))
    chosen = tuple(candidate for candidate, good in zip(candidates, told, strict=True) if good)
    kinds = np.array([candidate.kind for candidate in chosen])
    thresholds = {kind: threshold_of(unit[:, kinds == kind], alarm / len(set(kinds)), draws, seed) for kind in sorted(set(kinds))}
    return Scores(chosen, t, inflation, score / remain[told], inflation / remain[told], (remain / np.where(size > 0, size, 1))[told],
                  log_p, thresholds, unit)


def threshold_of(unit: np.ndarray, alarm: float, draws: int, seed: int) -> float:
    """The |t| that the largest of all candidates exceeds with the chance `alarm`, by draws of white residuals."""
    values, vectors = np.linalg.eigh(unit.T @ unit)
    strong = values > 1e-10 * values[-1]
    root = vectors[:, strong] * np.sqrt(values[strong])
    white = np.random.default_rng(seed).standard_normal((int(strong.sum()), draws))
    return float(np.quantile(np.abs(root @ white).max(axis=0), 1 - alarm))


def _newey_west(whitened: Whitened, unit: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Variance of u'e for each column u of `unit`, e the residuals that it leaves, with Bartlett weights over `LAGS_DAYS`."""
    product = unit * (whitened.r[:, None] - unit * score)
    # The prior's rows are one draw each: what they bring is taken as their variance is stated.
    prior = whitened.sites < 0
    total = np.sum(unit[prior] ** 2, axis=0) + np.sum(product[~prior] ** 2, axis=0)
    for rows in whitened.rows.values():
        values, times, sites = product[rows], whitened.times[rows], whitened.sites[rows]
        lag = 1
        while np.isfinite(times).all() and lag < len(rows):
            apart = times[lag:] - times[:-lag]
            near = (sites[lag:] == sites[:-lag]) & (apart < LAGS_DAYS)
            if not near.any():
                break
            weight = 2.0 * (1 - apart[near] / LAGS_DAYS)
            total += np.einsum("i,ik,ik->k", weight, values[lag:][near], values[:-lag][near])
            lag += 1
    return total


@dataclass(frozen=True)
class Named:
    """A group of candidates that name the same error, the most likely of them, and what the model does with it.

    `best`: index into the candidates of `Scores`; `evidence`: log Bayes factor against the model as it is, of the best, with the prior of
    its class; `refit`: the calibration with it, None where it was not made; `alarm`: whether some |t| of the group is above the threshold.
    """

    group: tuple[str, str]
    best: int
    evidence: float
    alarm: bool
    refit: Refit | None = None


def log_evidence(scores: Scores) -> np.ndarray:
    """Log Bayes factors (candidate,) of the expansions in the linear approximation, with the prior chances of candidates.

    c is N(0, size^2) and its estimate N(c, s^2), so 2 log BF = c^2/s^2 - c^2/(size^2 + s^2) - log(1 + size^2/s^2). Each class has the same
    prior chance, which its members share: neither many candidates nor absurd coefficients win because something must.
    """
    kinds = [candidate.kind for candidate in scores.candidates]
    size = np.array([candidate.size for candidate in scores.candidates])
    s, c = scores.spread / scores.inflation, scores.coefficient
    return 0.5 * (c**2 / s**2 - c**2 / (size**2 + s**2) - np.log1p(size**2 / s**2)) - np.log([kinds.count(kind) for kind in kinds])


def groups_of(scores: Scores) -> list[Named]:
    """Groups of candidates, the most likely first, by `log_evidence`."""
    if not scores.candidates:
        return []
    evidence, loud = log_evidence(scores), scores.loud
    members: dict[tuple[str, str], list[int]] = {}
    for index, candidate in enumerate(scores.candidates):
        members.setdefault(candidate.group, []).append(index)
    named = [Named(group, best := max(indices, key=lambda i: evidence[i]), float(evidence[best]), bool(loud[indices].any()))
             for group, indices in members.items()]
    return sorted(named, key=lambda each: -each.evidence)


def refitted(scores: Scores, signals: Signals, observations: Observations, z: Array, number: int = 10) -> list[Named]:
    """If any candidate raises an alarm: the `number` most likely, `EACH` at most of a group, calibrated anew; the likely groups first.

    A model far from right is not linear between its optimum and that of the right one, so that the tangent alone would name the wrong
    one of similar candidates. The log evidence is then the fall of J, with the prior of c in it, less half of log(1 + size^2/s^2).
    Groups whose evidence is against them are left out.
    """
    groups = {each.group: each for each in groups_of(scores)}
    if not any(each.alarm for each in groups.values()):
        return []
    names = [candidate.name for candidate in signals.candidates]
    kinds = [candidate.kind for candidate in scores.candidates]
    chosen: list[int] = []
    for index in np.argsort(-log_evidence(scores), kind="stable"):
        group = scores.candidates[index].group
        if len(chosen) < number and sum(scores.candidates[other].group == group for other in chosen) < EACH:
            chosen.append(int(index))
    best: dict[tuple[str, str], Named] = {}
    for index in chosen:
        candidate = scores.candidates[index]
        expansion = signals.expansion(names.index(candidate.name))
        found = refit(signals.expanded, observations, z, expansion, candidate.size, scores.coefficient[index])
        gain = float(found.before - found.after + np.log(found.spread / candidate.size) - np.log(kinds.count(candidate.kind)))
        if gain > 0 and (candidate.group not in best or gain > best[candidate.group].evidence):
            best[candidate.group] = replace(groups[candidate.group], best=index, refit=found, evidence=gain)
    return sorted(best.values(), key=lambda each: -each.evidence)
