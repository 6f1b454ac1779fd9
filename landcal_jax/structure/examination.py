"""What is wrong with a calibrated model? A report that tests it against its own assumptions, and names what is wrong.

    findings = landcal_jax.structure.examine(calibration)      # or examine(problem, result, posterior)
    findings.quiet                                             # True: nothing stands out of chance
    findings.top.sentence                                      # what is most likely wrong
    findings.write("structure.html")

The cause comes first: the expansion of the model that explains best what its residuals hold (`signals` has the candidates, `score_tests`
the tests), calibrated anew; alternatives follow without an alarm of their own, since one error moves many candidates: mend the first and
examine again. At several sites a bias of one of them is a candidate too, and a site conflict that the cause leaves unexplained, and that
stands out far more, comes before it. Then the signs that something is wrong: residuals too large or too small, with memory or seasons,
streams and sites that disagree, priors that the data contradict, bounds. The same list answers why a calibration failed.

Alarms are rare by design: with a right model, and right R, one report in twenty has one (`alarm`), half of that for the causes, whose
threshold is simulated, half shared by all the tests of signs (Bonferroni). Apart from these tests stands how the calibration ended
(`endings`): a solve that is at no minimum, chains that disagree, runs that fail, an emulator out of its depth.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.calibration import Calibration
from landcal_jax.errors import complain
from landcal_jax.observations import Observations
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, point_of
from landcal_jax.structure import checks, endings, parameters, subsets
from landcal_jax.structure.findings import Examined, p_text
from landcal_jax.structure.findings import Finding as Finding
from landcal_jax.structure.predictive import predictive_checks
from landcal_jax.structure.score_tests import (
    Named,
    Scores,
    check_alarm,
    groups_of,
    refitted,
    residuals_of,
    score_tests,
    whitened_at,
    whitened_directions,
)
from landcal_jax.structure.signals import Candidate, signals_of
from landcal_jax.structure.tails import above
from landcal_jax.structure.tested import Tested

AS_GOOD = 3.0
"""Difference of log evidence, a factor of 20, below which another cause explains the data nearly as well."""
FAR_LOUDER = np.log(1e3)
"""Difference of log p by which a site conflict must stand out more than the likeliest cause to come before it."""
DRAWS = 400
"""Draws of the posterior for the predictive checks, at most."""


class Findings(Examined):
    """What `examine` found, which `write` makes a page of; see `findings.Examined` for all that it holds."""

    def write(self, path: str | Path) -> Path:
        """Write the report, one HTML file with its figures, and return its path."""
        from landcal_jax.structure import page  # here, because figures bring matplotlib

        return page.write(self, path)


def examine(
    calibrated: Calibration | Problem, result: Result | Array | None = None, posterior: Posterior | None = None, *,
    candidates: Mapping[str, Mapping[str, Any]] | None = None, more: Sequence[Finding] = (), diagnosis: Any = None, refits: bool = True,
    members: int | None = None, alarm: float = 0.05, seed: int = 0,
) -> Findings:
    """Examine a calibrated model; see the module.

    `calibrated`: a Calibration, or a Problem with its `result` (a Result, or z (n,)) and, if there is one, its `posterior`, which then
    gives the draws of the predictive checks and is examined too: its chains, importance weights, warnings. `candidates`: errors of your
    own to be tested, name -> {stream: direction (site, n_obs)}, the derivative of the predictions with respect to a coefficient. `more`:
    findings of others, to be ranked with these. `diagnosis`: that of the chains of a sampler outside of this package, anything with
    `sentences` and `passed`. `refits`: calibrate anew with the candidates that stand out and on parts of the data; without it their
    order is that of the tangent. `members`: runs over the prior, to see which fail; without it 200 of a model in JAX, and none of
    one that JAX cannot compile, which may take long; as many draws of a posterior that is no Gaussian are run with such a model for
    the predictive checks. `alarm`: the chance that a right model raises any alarm.

    Raises TypeError for a model without tangent-linear, ValueError if the run at z is not finite, if there is no result, for a posterior
    of other parameters, and for an `alarm` that is no chance.
    """
    problem, result, posterior, title = _given(calibrated, result, posterior, alarm)
    z = np.asarray(point_of(problem, result))
    observations = endings.in_force(problem, z)
    whitened = whitened_at(problem, z, observations)
    signals = signals_of(problem, jnp.asarray(z), candidates)
    directions = whitened_directions(observations, signals, problem.predict(jnp.asarray(z)), whitened)
    scores = score_tests(whitened, signals.candidates, directions, alarm=alarm / 2, seed=seed)
    named = refitted(scores, signals, observations, jnp.asarray(z), whitened) if refits else _loud(scores)
    tested = Tested.of(whitened, observations)
    said = [*_signs(problem, observations, tested, z, refits), *_predicted(problem, observations, tested, z, posterior, members, seed),
            *_failures(problem, result, members, seed)]
    signs = [each for each in said if isinstance(each, Finding)]
    tests = sum(each.tests for each in signs if not np.isnan(each.log_p))
    signs = [each.judged(alarm / 2, max(tests, 1)) for each in (*signs, *more)]
    solved = list(endings.of_solve(problem, result, z, whitened))
    of_posterior = list(endings.of_posterior(problem, posterior, diagnosis))
    emulated = list(endings.of_emulator(problem, problem.observations_at(problem.theta(jnp.asarray(z))), z))
    ended = [each for each in (*solved, *of_posterior, *emulated) if isinstance(each, Finding)]
    causes = list(_causes(scores, named))
    signs, louder = _louder(signs, causes, _explained(tested, observations, scores, named[0]) if named else tested, observations.sites)
    found = [*causes, *ended, *sorted(signs, key=_weight)]
    # A solve that failed comes before all; one that could go on a little does not hide what is wrong with the model.
    failed = endings.hides(solved, result, 0.5 * float(whitened.r @ whitened.r))
    found.sort(key=lambda each: (not each.alarm, not (failed and each.kind == "solver"), each is not louder, each.kind != "cause"))
    notes = [each[:1].upper() + each[1:] for each in (*signals.notes, *said, *of_posterior) if isinstance(each, str)]
    return Findings(tuple(found), problem, z, whitened, scores, tuple(named), observations, title, tuple(notes), alarm)


def _given(calibrated: Calibration | Problem, result: Result | Array | None, posterior: Posterior | None, alarm: float):
    """Problem, result, posterior and title of what is to be examined; see `examine` for what is refused."""
    check_alarm(alarm)
    title = "Structure of a calibrated model"
    if isinstance(calibrated, Calibration):
        problem, result, posterior = calibrated.experiment.problem, calibrated.result, calibrated.posterior
        title = f"Structure: {calibrated.experiment.title}"
    else:
        problem = calibrated
    if result is None:
        raise ValueError(complain("a Calibration, or a Problem with its result", "a Problem alone", "examine(problem, solve(problem, ...))")
                         )
    if posterior is not None and posterior.problem.space.labels != problem.space.labels:
        raise ValueError(complain(f"a posterior of the same parameters, {', '.join(problem.space.labels)}",
                                  ", ".join(posterior.problem.space.labels), "laplace(problem, result), or leave it out"))
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear, to see what its parameters take up", problem.forward.description,
                                 "problem.finite_difference(), or an emulator of it"))
    return problem, result, posterior, title


def _signs(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, refits: bool) -> Iterator[Finding | str]:
    """Signs that something is wrong, but those of replicates, and sentences about what could not be tested."""
    whitened = tested.whitened
    yield from (f"{name} was not tested: it has no value with a weight above zero."
                for name, rows in whitened.rows.items() if not len(rows))
    yield from checks.sizes(tested, observations.sites)
    yield from checks.memories(tested, observations.sites)
    yield from checks.seasons(tested)
    yield from subsets.parted(problem, observations, tested, z, refits and problem.least_squares)
    yield from parameters.prior_conflict(problem, tested, z)
    yield from parameters.moved(problem, z)
    yield from parameters.bounds(problem, whitened, z)
    yield from parameters.unseen(problem, whitened)


def _failures(problem: Problem, result: Result | Array, members: int | None, seed: int) -> Iterator[Finding | str]:
    """Runs over the prior that fail, or what the solve knows of them where such runs are not made unasked."""
    if problem.forward.traceable or members:
        return parameters.failures(problem, seed, parameters.MEMBERS if members is None else members)
    return parameters.not_run(problem, result)


def _explained(tested: Tested, observations: Observations, scores: Scores, cause: Named) -> Tested:
    """The residuals with a cause in the model: those of the calibration with it, or of the tangent where there is none."""
    unit, r = scores.projected[:, cause.best], tested.whitened.r
    r = r - unit * (unit @ r) if cause.refit is None else residuals_of(cause.refit, observations)
    return replace(tested, whitened=replace(tested.whitened, r=r))


def _louder(signs: list[Finding], causes: list[Finding], explained: Tested, sites: tuple[str, ...],
            ) -> tuple[list[Finding], Finding | None]:
    """The signs, and the site conflict among them that stands out far more than the likeliest cause, which says so.

    A cause that is the right one explains the conflicts that follow from it: only what is left of a conflict in the residuals with it,
    `explained`, is compared. The test of the cause itself is by the tangent, and may be weaker than its conflicts where it is far off.
    """
    conflicts = [each for each in signs if each.kind == "site conflict" and each.alarm]
    if not conflicts or not causes:
        return signs, None
    loudest = min(conflicts, key=lambda each: each.log_p)
    tests = sum(each.kind == "site conflict" for each in signs)
    _, statistic, degrees = subsets.own_optimum(explained, np.flatnonzero(explained.sites == sites.index(loudest.subject)))
    if max(loudest.log_p, above(statistic, degrees)) > causes[0].log_p - FAR_LOUDER - np.log(tests):
        return signs, None
    said = (f"{loudest.sentence} That stands out far more than the likeliest of the causes that were looked for "
            f"({p_text(causes[0].log_p)}), which does not explain it.")
    louder = replace(loudest, sentence=said)
    return [louder if each is loudest else each for each in signs], louder


def _weight(finding: Finding) -> tuple[bool, float]:
    # An alarm without a test stands among those with one, where a p-value of 1e-5 would be.
    return not finding.alarm, float(np.nan_to_num(finding.log_p, nan=np.log(1e-5)))


def _predicted(problem: Problem, observations: Observations, tested: Tested, z: np.ndarray, posterior: Posterior | None,
               members: int | None, seed: int) -> Iterator[Finding | str]:
    """Predictive checks by draws of the posterior, evenly from all of its chains; of the Gauss-Newton approximation where none is given.

    Draws that are no Gaussian's are run, of a model that JAX cannot compile as many as `members` says.
    """
    if posterior is None or posterior.gaussian:
        if posterior is None:
            root = np.linalg.cholesky(np.linalg.inv(tested.whitened.G.T @ tested.whitened.G))
            draws = z + np.asarray(jax.random.normal(jax.random.key(seed), (DRAWS, len(z)))) @ root.T
        else:
            draws = _thinned(posterior, DRAWS)
        return predictive_checks(problem, observations, tested, z, draws, True, seed)
    number = DRAWS if problem.forward.traceable else min(members or 0, DRAWS)
    if not number:
        return iter([f"Replicates of the observations were not made, since they need runs with draws of the posterior, and "
                     f"{problem.forward.description} may take long: examine(..., members=50) makes them."])
    return predictive_checks(problem, observations, tested, z, _thinned(posterior, number), False, seed)


def _thinned(posterior: Posterior, number: int) -> np.ndarray:
    return np.asarray(posterior.z)[np.unique(np.linspace(0, len(posterior.z) - 1, number).astype(int))]


def _loud(scores: Scores) -> list[Named]:
    """The groups of candidates that stand out, by the tangent alone: the likely ones, all if none is."""
    loud = [each for each in groups_of(scores) if each.alarm]
    return [each for each in loud if each.evidence > 0] or loud


def _causes(scores: Scores, named: Sequence[Named]) -> Iterator[Finding]:
    """The cause that explains the residuals best, with what else explains them as well, and the others as alternatives to it."""
    for place, each in enumerate(named):
        candidate = scores.candidates[each.best]
        sentence = _named(candidate, scores, each) + _unlikely(each) + ("" if place else _rank(scores, named))
        yield Finding("alternative" if place else "cause", sentence, _advice(candidate), float(scores.log_family[each.best]), cause=True,
                      alarm=not place, evidence=each.evidence,
                      figure="cause", subject=candidate.words,
                      numbers={"group": each.group, "candidate": candidate.name, "t": float(scores.t[each.best]),
                               "kept": float(scores.kept[each.best])})


def _unlikely(each: Named) -> str:
    """What is to be said of a candidate that stands out, but that its size and the number of candidates speak against."""
    if each.evidence >= 0:
        return ""
    return (f" It stands out of chance, but is unlikely a priori: the evidence is against it by a factor of {np.exp(-each.evidence):.2g}, "
            "its size and the number of candidates considered.")


def _rank(scores: Scores, named: Sequence[Named]) -> str:
    """How far the first of the causes is above the others, as a sentence."""
    if len(named) < 2 or named[0].refit is None:
        return ""
    alike = [scores.candidates[each.best].words for each in named[1:] if named[0].evidence - each.evidence < AS_GOOD]
    if alike:
        words = "; ".join(alike)
        return f" Nearly as well, and not to be told apart by these data: {words}."
    away = named[0].evidence - named[1].evidence
    times = f"{np.exp(away):.0f}" if away < 7 else f"10^{away / np.log(10):.0f}"
    return f" The next best explanation, {scores.candidates[named[1].best].words}, is less likely by a factor of {times}."


def _named(candidate: Candidate, scores: Scores, each: Named) -> str:
    """The sentence of a cause."""
    refit = each.refit
    c, spread = (scores.coefficient[each.best], scores.spread[each.best]) if refit is None else (refit.coefficient, refit.spread)
    t = (f"score test |t| = {abs(scores.t[each.best]):.1f}, alarm above {scores.thresholds[candidate.family]:.1f} among {len(scores.t)} "
         f"candidates, {p_text(float(scores.log_family[each.best]))}")
    fell = "" if refit is None else f" With it J falls from {refit.before:.1f} to {refit.after:.1f}"
    change = {
        "driver": f"{candidate.words[:1].upper()}{candidate.words[1:]}: the observations ask for {_amount(candidate, c, spread)}",
        "observation": f"{candidate.words[:1].upper()}{candidate.words[1:]}: against the model they have {_amount(candidate, c, spread)}",
        "process": f"{candidate.words[:1].upper()}{candidate.words[1:]} is not that of the model: the observations ask for "
                   f"{candidate.detail}, by exp({c:.2g} ± {spread:.2g}) for a standard deviation of it",
        "user": f"{candidate.words[:1].upper()}{candidate.words[1:]} is in the observations and not in the model, with the coefficient "
                f"{c:.3g} ± {spread:.2g}"}[candidate.kind]
    return f"{change}.{fell} ({t})." if fell else f"{change} ({t})."


def _amount(candidate: Candidate, c: float, spread: float) -> str:
    if candidate.name.endswith("_factor"):
        return f"{candidate.detail}, {1 + c:.3g} ± {spread:.2g}"
    return f"{candidate.detail}, {c:+.3g} ± {spread:.2g} {candidate.unit.strip().removeprefix('1 ')}".rstrip()


def _advice(candidate: Candidate) -> str:
    """What to do about a cause."""
    if candidate.kind == "driver":
        return ("Check the sensor, its gaps and units, against a reanalysis or a neighbour; then calibrate again with the driver "
                "corrected. Parameters take up what they can of it: biases that they take up as a whole are not seen at all.")
    if candidate.kind == "observation":
        return ("Check the instrument and its processing (energy balance closure, gap filling, units), or give the stream a parameter for "
                "its bias.")
    if candidate.kind == "user":
        return "Put it into the model and calibrate again."
    return (f"Look at the equation of this response, and give the model one with a free parameter for it ({candidate.name}); a process "
            "that is missing altogether looks the same. Then calibrate and examine again.")
