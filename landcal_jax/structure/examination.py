"""What is wrong with a calibrated model? A report that tests it against its own assumptions, and names what is wrong.

    findings = landcal_jax.structure.examine(calibration)      # or examine(problem, result, posterior)
    findings.quiet                                             # True: nothing stands out of chance
    findings.top.sentence                                      # what is most likely wrong
    findings.write("structure.html")

The cause comes first: the expansion of the model that explains best what its residuals hold (`signals` has the candidates,
`score_tests` the tests), calibrated anew; alternatives follow without an alarm of their own, since one error moves many candidates:
mend the first and examine again. Then the signs that something is wrong: residuals too large or too small, with memory
or seasons, streams and sites that disagree, priors that the data contradict, bounds. The same list answers why a calibration failed.

Alarms are rare by design: with a right model, and right R, one report in twenty has one (`alarm`), half of that for the causes, whose
threshold is simulated, half shared by all the tests of signs (Bonferroni).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.calibration import Calibration
from landcal_jax.errors import complain
from landcal_jax.information import point_of
from landcal_jax.posterior import Posterior
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, Status
from landcal_jax.structure import checks, parameters, subsets
from landcal_jax.structure.findings import Examined, p_text
from landcal_jax.structure.findings import Finding as Finding
from landcal_jax.structure.predictive import predictive_checks
from landcal_jax.structure.score_tests import Named, Scores, Whitened, groups_of, refitted, score_tests, whitened_at, whitened_directions
from landcal_jax.structure.signals import Candidate, signals_of

AS_GOOD = 3.0
"""Difference of log evidence, a factor of 20, below which another cause explains the data nearly as well."""
UNFINISHED = 1.0
"""Further fall of J, in the linear approximation, from which a solve that did not converge is said to be unfinished."""
KINKS = (Status.NO_DECREASE, Status.ANALYSIS, Status.SEARCHED)
"""Ends at which a gradient may be left: J has kinks there, or the method does not go to the minimum; no alarm, but said."""


class Findings(Examined):
    """What `examine` found, which `write` makes a page of; see `findings.Examined` for all that it holds."""

    def write(self, path: str | Path) -> Path:
        """Write the report, one HTML file with its figures, and return its path."""
        from landcal_jax.structure import page  # here, because figures bring matplotlib

        return page.write(self, path)


def examine(
    calibrated: Calibration | Problem, result: Result | Array | None = None, posterior: Posterior | None = None, *,
    candidates: Mapping[str, Mapping[str, Any]] | None = None, more: Sequence[Finding] = (), diagnosis: Any = None, refits: bool = True,
    alarm: float = 0.05, seed: int = 0,
) -> Findings:
    """Examine a calibrated model; see the module.

    `calibrated`: a Calibration, or a Problem with its `result` (a Result, or z (n,)) and, if there is one, its `posterior`, which then
    gives the draws of the predictive checks. `candidates`: errors of your own to be tested, name -> {stream: direction (site, n_obs)},
    the derivative of the predictions with respect to a coefficient. `more`: findings of others, such as of an emulator out of its depth,
    to be ranked with these. `diagnosis`: that of the chains of a sampler, anything with `sentences` and `passed`. `refits`: calibrate
    anew with the candidates that stand out and on parts of the data; without it their order is that of the tangent. `alarm`: the
    chance that a right model raises any alarm.

    Raises TypeError for a model without tangent-linear, ValueError if the run at z is not finite or there is no result.
    """
    title = "Structure of a calibrated model"
    if isinstance(calibrated, Calibration):
        problem, result, posterior = calibrated.experiment.problem, calibrated.result, calibrated.posterior
        title = f"Structure: {calibrated.experiment.title}"
    else:
        problem = calibrated
    if result is None:
        raise ValueError(complain("a Calibration, or a Problem with its result", "a Problem alone", "examine(problem, solve(problem, ...))")
                         )
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear, to see what its parameters take up", problem.forward.description,
                                 "problem.finite_difference(), or an emulator of it"))
    z = np.asarray(point_of(problem, result))
    observations = problem.observations_at(problem.theta(jnp.asarray(z)))
    whitened = whitened_at(problem, z, observations)
    signals = signals_of(problem, jnp.asarray(z), candidates)
    directions = whitened_directions(observations, signals, problem.predict(jnp.asarray(z)), whitened)
    scores = score_tests(whitened, signals.candidates, directions, alarm=alarm / 2, seed=seed)
    named = refitted(scores, signals, observations, jnp.asarray(z)) if refits else [
        each for each in groups_of(scores) if each.alarm and each.evidence > 0]
    draws = _draws(posterior, whitened, z, seed)
    signs = [*checks.sizes(whitened, observations.sites), *checks.memories(whitened, observations.sites),
             *checks.seasons(whitened, observations.sites),
             *subsets.parted(problem, observations, whitened, z, refits and problem.errors is None),
             *parameters.prior_conflict(problem, observations, whitened, z), *parameters.moved(problem, z),
             *parameters.bounds(problem, whitened, z), *parameters.unseen(problem, whitened),
             *predictive_checks(problem, observations, whitened, z, draws, seed)]
    if problem.forward.traceable:
        signs += parameters.failures(problem, seed)
    tests = sum(each.tests for each in signs if not np.isnan(each.log_p))
    signs = [each.judged(alarm / 2, max(tests, 1)) for each in (*signs, *more)]
    found = [*_ended(result, whitened), *_causes(scores, named), *_of_chains(diagnosis), *sorted(signs, key=_weight)]
    # A solve that failed comes before all; one that could go on a little does not hide what is wrong with the model.
    failed = isinstance(result, Result) and result.status < 0
    found.sort(key=lambda each: (not each.alarm, each.kind != ("solver" if failed else "cause")))
    return Findings(tuple(found), problem, z, whitened, scores, tuple(named), observations, title, signals.notes)


def _weight(finding: Finding) -> tuple[bool, float]:
    # An alarm without a test stands among those with one, where a p-value of 1e-5 would be.
    return not finding.alarm, float(np.nan_to_num(finding.log_p, nan=np.log(1e-5)))


def _draws(posterior: Posterior | None, whitened: Whitened, z: np.ndarray, seed: int) -> np.ndarray:
    """Draws of the posterior (draw, n); of the Gauss-Newton approximation where none is given."""
    if posterior is not None:
        return np.asarray(posterior.z)[:: max(1, len(posterior.z) // 400)]
    root = np.linalg.cholesky(np.linalg.inv(whitened.G.T @ whitened.G))
    return z + np.asarray(jax.random.normal(jax.random.key(seed), (400, len(z)))) @ root.T


def _ended(result: Result | Array, whitened: Whitened) -> Iterator[Finding]:
    """How the solve ended, and whether its starts agree."""
    if not isinstance(result, Result):
        return
    gradient = whitened.G.T @ whitened.r
    further = float(0.5 * gradient @ np.linalg.solve(whitened.G.T @ whitened.G, gradient))
    if result.status is not Status.CONVERGED and (result.status < 0 or further > UNFINISHED):
        yield Finding("solver", f"The solve may not have ended at a minimum: J could fall by {further:.1f} more, by the linearised model "
                      f"({result.status.sentence}).",
                      "Solve on from here (z0=result, more steps), or with Levenberg-Marquardt from several starts; all that follows is "
                      "about where it stands.", alarm=result.status < 0 or result.status not in KINKS, figure="starts",
                      numbers={"further": further})
    ends = np.sort(np.asarray(result.details.get("end_cost", ())))
    ends = ends[np.isfinite(ends)]
    if len(ends) > 2 and ends[1] - ends[0] > 2:
        yield Finding("solver", f"The best of {len(ends)} starts ends at J = {ends[0]:.1f}, the next best at {ends[1]:.1f}: one start "
                      "alone found it.",
                      "A lower minimum may be left: more starts (MultiStart(number=)), or other seeds.", figure="starts",
                      numbers={"end_cost": ends})


def _of_chains(diagnosis: Any) -> Iterator[Finding]:
    """What the diagnosis of chains says, if any."""
    if diagnosis is not None and not diagnosis.passed:
        for sentence in diagnosis.sentences:
            yield Finding("chains", str(sentence), "Run the chains longer or from the other side of what separates them.", alarm=True)


def _causes(scores: Scores, named: Sequence[Named]) -> Iterator[Finding]:
    """The cause that explains the residuals best, with what else explains them as well, and the others as alternatives to it."""
    for place, each in enumerate(named):
        candidate = scores.candidates[each.best]
        yield Finding("alternative" if place else "cause", _named(candidate, scores, each) + ("" if place else _rank(scores, named)),
                      _advice(candidate), float(scores.log_family[each.best]), cause=True, alarm=not place, evidence=each.evidence,
                      figure="cause", subject=candidate.words,
                      numbers={"group": each.group, "candidate": candidate.name, "t": float(scores.t[each.best]),
                               "kept": float(scores.kept[each.best])})


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
    t = (f"score test |t| = {abs(scores.t[each.best]):.1f}, alarm above {scores.thresholds[candidate.kind]:.1f} among {len(scores.t)} "
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
    return f"{candidate.detail}, {c:+.3g} ± {spread:.2g} {candidate.unit}".rstrip()


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
