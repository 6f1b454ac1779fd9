"""Score tests of expansions of a calibrated model: which candidate explains what the residuals still hold?

At the MAP the whitened residuals of prior and data are r, their Jacobian G (m, n), and -d the derivative of r with respect to the
coefficient c of a candidate. The parameters take up what they can of d; what is left is P d, P = I - G (G'G)^-1 G'. Then

    t = d'P r / sqrt(d'P d)        is N(0, 1) if model, prior and R are right and the model is linear over the posterior,
    c = d'P r / (d'P d)            is the coefficient to expect, and t^2 twice the fall of J with it

(Rao's score test, the Lagrange multiplier test of Silvey 1959, Ann. Math. Statist. 30:389, with the prior as further data). Where
residuals are autocorrelated or R is too small, the variance of d'P r is taken from the residuals that the candidate leaves, if it is
above one: their squares (White 1980, Econometrica 48:817) and, between different times, the memory fitted to them (`memory`); t, the
standard error of c and the evidence all have it. The threshold of the largest |t| of a class of candidates is simulated, since their t are
correlated; the classes share the chance of an alarm alike, so that few candidates need not stand out among many.

A direction that depends on the parameters depends on the data as well, through the estimate: d = H(z), what a factor does, is least where
the prior pulls z towards its mean, and t would be about the square root of the number of parameters in a right model. Along the columns
of G that dependence is taken away (`whitened_directions`), after which E d'P r = 0 over truths drawn from the prior.
"""

from dataclasses import dataclass, replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import log_ndtr, ndtri_exp

from landcal_jax.errors import complain
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.expansions import Refit, refit
from landcal_jax.structure.local import local_directions
from landcal_jax.structure.memory import fitted
from landcal_jax.structure.signals import Candidate, Signals

FELT = 1e-6
"""Size of a signal in standard deviations of the observations, for c = 1, below which it is rounding."""
LOOKED_AT = 2.5  # |t| from which autocorrelation is taken into account, or the threshold where that is lower
TOGETHER = 64  # candidates whose memory is fitted at once
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
    """The directions of all candidates in whitened space, (m, candidate), the sign that of the prediction.

    Where `signals` knows how a direction d changes with the parameters along z, x = (dd/dz) z, it is d - G S^-1 G'x with S = G'G of
    data and prior: in a model that is linear in z and in c that is a direction whose score has mean zero over truths of the prior. With
    x left in, the mean of d'P r is -tr(S^-1 G' dd/dz).
    """
    D = _whitened(observations, signals.directions, base, whitened)
    D = local_directions(D, signals.places, whitened.sites)
    if signals.slopes:
        data = whitened.sites >= 0
        x = local_directions(_whitened(observations, signals.slopes, base, whitened), signals.places, whitened.sites)
        changing = np.flatnonzero(x.any(axis=0))
        taken = np.linalg.solve(whitened.G.T @ whitened.G, whitened.G[data].T @ x[np.ix_(data, changing)])
        D[np.ix_(data, changing)] -= whitened.G[data] @ taken
    return D


def _whitened(observations: Observations, directions: dict[str, np.ndarray], base: dict[str, Array], whitened: Whitened) -> np.ndarray:
    number = len(next(iter(directions.values())))
    D = np.zeros((len(whitened.r), number))
    for name, stream in observations.items():
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        if number and mask.any():
            at = np.where(mask, np.asarray(base[name]), 0.0)
            moved = np.asarray(_whiten_many(stream, jnp.asarray(at), jnp.asarray(np.where(mask, directions[name], 0.0))))
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
        families = [candidate.family for candidate in self.candidates]
        shared = np.array([np.log(families.count(family) * len(self.thresholds)) for family in families])
        return np.minimum(self.log_p + shared, 0.0)

    @property
    def loud(self) -> np.ndarray:
        """Which candidates are above the threshold of their class, (candidate,)."""
        return np.abs(self.t) > np.array([self.thresholds[candidate.family] for candidate in self.candidates])


def score_tests(whitened: Whitened, candidates: tuple[Candidate, ...], D: np.ndarray, *, alarm: float = 0.025, draws: int = 4000,
                seed: int = 0) -> Scores:
    """Test candidates with whitened directions D (m, candidate); `alarm`: chance of any |t| above the threshold in a right model.

    Raises ValueError if `alarm` is no chance above 0 and below 1.
    """
    check_alarm(alarm)
    size = np.sqrt(np.sum(D**2, axis=0))
    left = whitened.project(D)
    remain = np.sqrt(np.sum(left**2, axis=0))
    told = (size > FELT) & (remain**2 > LEFT * size**2)
    unit = left[:, told] / remain[told]
    score = unit.T @ whitened.project(whitened.r[:, None])[:, 0]
    chosen = tuple(candidate for candidate, good in zip(candidates, told, strict=True) if good)
    families = [candidate.family for candidate in chosen]
    thresholds = {family: threshold_of(unit[:, [other == family for other in families]], alarm / len(set(families)), draws, seed)
                  for family in sorted(set(families))}
    # Autocorrelation can only widen: what is quiet without it need not be looked at.
    inflation, large = np.ones(len(score)), np.abs(score) > min([LOOKED_AT, *thresholds.values()])
    alike: dict[int, list[int]] = {}
    for index in np.flatnonzero(large):
        alike.setdefault(len(beside_of(chosen, index)), []).append(int(index))
    for indices in (own[start : start + TOGETHER] for own in alike.values() for start in range(0, len(own), TOGETHER)):
        beside = np.stack([unit[:, beside_of(chosen, index)] for index in indices], axis=1)
        inflation[indices] = inflations(whitened, unit[:, indices], whitened.r[:, None] - unit[:, indices] * score[indices], beside)
    t = score / inflation
    return Scores(chosen, t, inflation, score / remain[told], inflation / remain[told], (remain / np.where(size > 0, size, 1))[told],
                  np.log(2) + log_ndtr(-np.abs(t)), thresholds, unit)


def check_alarm(alarm: float) -> None:
    """Raise ValueError if `alarm` is no chance above 0 and below 1."""
    if not 0 < alarm < 1:
        raise ValueError(complain("a chance of an alarm above 0 and below 1", f"alarm={alarm!r}",
                                  "alarm=0.05: a right model raises one in one report of twenty"))


def threshold_of(unit: np.ndarray, alarm: float, draws: int, seed: int) -> float:
    """The |t| that the largest of k candidates, `unit` (m, k), exceeds with the chance `alarm` in white residuals, however small that is.

    The chance is k P(|t| > u) E[1 / N], N how many exceed u where one drawn from all does (Adler, Blanchet and Liu 2012, Ann. Appl.
    Probab. 22:1167, whose estimate keeps its relative error in the far tail); u by bisection, between the thresholds of one and of k
    independent candidates.
    """
    number, rng = unit.shape[1], np.random.default_rng(seed)
    correlation = unit.T @ unit
    values, vectors = np.linalg.eigh(correlation)
    strong = values > 1e-10 * values[-1]
    t = (vectors[:, strong] * np.sqrt(values[strong])) @ rng.standard_normal((int(strong.sum()), draws))
    one, tail = rng.integers(number, size=draws), np.log(rng.random(draws))
    slope = correlation[:, one]
    rest = t - slope * t[one, np.arange(draws)]
    low, high = (-float(ndtri_exp(np.log(alarm) - np.log(2 * count))) for count in (1, number))
    while high - low > 1e-3:
        u = 0.5 * (low + high)
        beyond = -ndtri_exp(tail + log_ndtr(-u))
        exceed = np.maximum(np.sum(np.abs(rest + slope * beyond) > u, axis=0), 1)
        if np.log(2 * number) + log_ndtr(-u) + np.log(np.mean(1 / exceed)) > np.log(alarm):
            low = u
        else:
            high = u
    return 0.5 * (low + high)


def beside_of(candidates: tuple[Candidate, ...], index: int) -> list[int]:
    """The other shapes of the same bias: its offset, its factor and its drift come together.

    Two of them in the residuals would each count as the memory of what the other leaves. None for processes, whose groups are large.
    """
    of = candidates[index]
    return [other for other, each in enumerate(candidates) if each.group == of.group and other != index and of.kind != "process"]


def inflations(whitened: Whitened, unit: np.ndarray, errors: np.ndarray, beside: np.ndarray, residuals: np.ndarray | None = None,
               ) -> np.ndarray:
    """By which the standard deviation of u'e is above one, (k,), for columns u of `unit` (m, k) and the residuals `errors` (m, k) of each.

    `beside` (m, k, q): what the residuals may hold beside u. `residuals` (m,): those that `errors` are what is left of, where they are not
    those of `whitened`.
    """
    # The prior's rows are one draw each: what they bring is taken as their variance is stated.
    prior = whitened.sites < 0
    if beside.shape[2]:
        errors = np.stack([each - own @ np.linalg.lstsq(own, each, rcond=None)[0]
                           for each, own in zip(errors.T, beside.transpose(1, 0, 2), strict=True)], axis=1)
    blocks = np.concatenate([unit[:, :, None], beside], axis=2)
    total = np.sum(unit[prior] ** 2, axis=0) + np.sum((unit[~prior] * errors[~prior]) ** 2, axis=0)
    for rows in whitened.rows.values():
        if len(rows) and unit.shape[1]:
            total += fitted(whitened, rows, each=blocks, residuals=residuals).added(unit[rows])
    return np.sqrt(np.maximum(1.0, total))


@dataclass(frozen=True)
class Named:
    """A group of candidates that name the same error, the most likely of them, and what the model does with it.

    `best`: index into the candidates of `Scores`; `evidence`: log Bayes factor against the model as it is, of the best, with the prior of
    its class; `refit`: the calibration with it, None where it was not made; `alarm`: whether some |t| of the group is above the threshold.
    """

    group: tuple[str, ...]
    best: int
    evidence: float
    alarm: bool
    refit: Refit | None = None


def log_evidence(scores: Scores) -> np.ndarray:
    """Log Bayes factors (candidate,) of the expansions in the linear approximation, with the prior chances of candidates.

    c is N(0, size^2) and its estimate N(c, s^2), so 2 log BF = c^2/s^2 - c^2/(size^2 + s^2) - log(1 + size^2/s^2). Each class has the same
    prior chance, which its members share: neither many candidates nor absurd coefficients win because something must.
    """
    families = [candidate.family for candidate in scores.candidates]
    size = np.array([candidate.size for candidate in scores.candidates])
    s, c = scores.spread, scores.coefficient
    shared = np.log([families.count(family) for family in families])
    return 0.5 * (c**2 / s**2 - c**2 / (size**2 + s**2) - np.log1p(size**2 / s**2)) - shared


def groups_of(scores: Scores) -> list[Named]:
    """Groups of candidates, the most likely first, by `log_evidence`."""
    if not scores.candidates:
        return []
    evidence, loud = log_evidence(scores), scores.loud
    members: dict[tuple[str, ...], list[int]] = {}
    for index, candidate in enumerate(scores.candidates):
        members.setdefault(candidate.group, []).append(index)
    named = [Named(group, best := max(indices, key=lambda i: evidence[i]), float(evidence[best]), bool(loud[indices].any()))
             for group, indices in members.items()]
    return sorted(named, key=lambda each: -each.evidence)


def refitted(scores: Scores, signals: Signals, observations: Observations, z: Array, whitened: Whitened, number: int = 10) -> list[Named]:
    """If any candidate raises an alarm: the `number` most likely, `EACH` at most of a group, calibrated anew; the likely groups first.

    A model far from right is not linear between its optimum and that of the right one, so that the tangent alone would name the wrong
    one of similar candidates. Groups whose evidence is against them are left out, unless there is no other: a candidate that stands
    out keeps its alarm, however unlikely it is a priori.
    """
    groups = {each.group: each for each in groups_of(scores)}
    if not any(each.alarm for each in groups.values()):
        return []
    names = [candidate.name for candidate in signals.candidates]
    families = [candidate.family for candidate in scores.candidates]
    chosen: list[int] = []
    for index in np.argsort(-log_evidence(scores), kind="stable"):
        group = scores.candidates[index].group
        if len(chosen) < number and sum(scores.candidates[other].group == group for other in chosen) < EACH:
            chosen.append(int(index))
    best: dict[tuple[str, ...], Named] = {}
    for index in chosen:
        candidate = scores.candidates[index]
        expansion = signals.expansion(names.index(candidate.name))
        found = refit(signals.expanded, observations, z, expansion, candidate.size, scores.coefficient[index])
        beside = scores.projected[:, beside_of(scores.candidates, index)][:, None]
        found, gain = _robust(found, candidate.size, scores.projected[:, [index]], beside, observations, whitened)
        gain -= np.log(families.count(candidate.family))
        if candidate.group not in best or gain > best[candidate.group].evidence:
            best[candidate.group] = replace(groups[candidate.group], best=index, refit=found, evidence=gain)
    likely = [each for each in best.values() if each.evidence > 0]
    loud = [best.get(group, each) for group, each in groups.items() if each.alarm]
    return sorted(likely or loud, key=lambda each: -each.evidence)


def residuals_of(found: Refit, observations: Observations) -> np.ndarray:
    """Whitened residuals (m,) of a refit, the prior's rows first, in the order of `Whitened`."""
    rest = [np.asarray(found.z)]
    for name, stream in observations.items():
        mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
        rest.append(np.asarray(found.residuals[name])[mask])
    return np.concatenate(rest)


def _robust(
    found: Refit, size: float, unit: np.ndarray, beside: np.ndarray, observations: Observations, whitened: Whitened,
) -> tuple[Refit, float]:
    """The refit with the standard error that the memory of its residuals leaves, and its log Bayes factor before the chance of its class.

    The fall of J, with the prior of c in it, over the inflation of the variance; less half of log(1 + size^2 / s^2); and half of what the
    log determinant of the curvature in z falls, by which parameters that are scaled down (or up) to please their prior gain nothing.
    """
    errors = residuals_of(found, observations)[:, None]
    # The prior of c holds it back: what it leaves of the candidate is no sign of larger errors.
    inflation = float(inflations(whitened, unit, errors - unit * (unit.T @ errors), beside, errors[:, 0])[0])
    # The spread has the prior of c in it: 1 / spread^2 = 1 / s^2 + 1 / size^2.
    told = max(1 / found.spread**2 - 1 / size**2, 0.0) / inflation**2
    curvature = np.linalg.slogdet(whitened.G.T @ whitened.G)[1] - found.log_curvature
    gain = (found.before - found.after) / inflation**2 - 0.5 * np.log1p(size**2 * told) + 0.5 * curvature
    return replace(found, spread=float(1 / np.sqrt(told + 1 / size**2))), float(gain)
