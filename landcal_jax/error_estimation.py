"""Estimation of R: how far observations and model may be apart, found together with theta.

    estimate = estimate_errors(problem, result)              # method="marginal"
    estimate.problem, estimate.result                        # with the errors found, solved again
    print(estimate)

Four methods. Each alternates: errors from where the model stands, then theta again under these errors, until both settle.

* "marginal": the errors e that maximise p(y | e), theta integrated out in the linear model at the MAP, y - H(z) + G z ~ N(0, R(e) + G G').
  Parameters that fit noise do not make the noise look small (restricted maximum likelihood).
* "cross-validation": years are left out in blocks, theta is found without them, and the errors are those with which the bands
  predicted for what was left out score best: each y - H(z_k) against sigma^2 + s(e)^2 + diag(G_k P_k G_k'), with P_k the posterior without
  block k; a memory is taken from the joint density. Where a model errs in its form, other years find errors that a fit hides,
  so that this is the one for predictions of other years (Roberts et al. 2017, Ecography 40, 913).
* "desroziers" and "residuals": products of departures, see `landcal_jax.error_moments`.

The prior of the error parameters, which a short stream leans on: the constant log-normal by a factor of e about the residuals of
all sites, a share of the flux about 0.1, a memory about 5 days, amplitudes of the season normal with 0.5.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.error_fitting import (
    PARTS,
    ErrorVector,
    Fitted,
    Parts,
    Terms,
    checked_parts,
    counting,
    day_scores,
    judged,
    log_score,
    most_likely,
    posterior_root,
    prepared,
    tangents,
)
from landcal_jax.error_moments import MOMENT_PARTS, common_correlation, moments
from landcal_jax.error_reporting import Found, row, sentences
from landcal_jax.error_transfer import handed_on, same_axis
from landcal_jax.errors import complain
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Result, Status
from landcal_jax.solving import solve

ROUNDS = {"marginal": 10, "cross-validation": 4, "desroziers": 20, "residuals": 50}
TOLERANCE = 0.02  # of logarithms: two per cent
REACHED = (Status.CONVERGED, Status.NO_DECREASE, Status.ANALYSIS, Status.SEARCHED, Status.SUBSPACE)
"""How a calibration under the last errors may have ended, for these to be called settled."""
SETTLED = 1e-5  # of the sum of |dz|, as in adJULES
BLOCKS, LONGEST = 3, 3  # cross-validation leaves out a third of the years at most, and no more than three


@dataclass(frozen=True)
class ErrorEstimate:
    """What `estimate_errors` found.

    `problem` has the errors, and `result` is its last solve. `results`: those of all rounds, in the end of them `result`; `others`: those
    without a block of years. `table`: by (round, stream, site), the parts of the errors with their standard errors, `model_error` (root
    mean square over the days), number and effective number of values; by (round, stream), `chi_square` at the minimum, and by
    (round,) J and how far parameters moved. `converged`: errors and theta have settled, and the errors
    are where their density has its maximum. `sentences` say it in words.
    """

    problem: Problem
    result: Result
    results: tuple[Result, ...]
    others: tuple[Result, ...]
    table: xr.Dataset
    method: str
    parts: Parts
    converged: bool
    sentences: tuple[str, ...]

    def applied(self, observations: Observations) -> Observations:
        """Other observations with the errors that were estimated: those held out, or of other sites and periods.

        Sites go by their names; one that was not calibrated gets the errors of all that were together, see `error_transfer`. The level
        of a share stays where the times are the same; elsewhere the error is to grow with a run, as `Posterior.predictive` lets it. What is
        not simply the same is said in `observations.notes`. Raises ValueError for an error with a season and a stream without times.
        """
        streams, notes, own = {}, [], self.problem.observations
        for name in self.parts:
            if name in observations.names:
                error, said = handed_on(own[name], own.sites, observations[name], observations.sites,
                                        level=same_axis(own[name], observations[name]))
                if error is None:
                    raise ValueError(complain(f"times in the stream {name}, whose error has a season", "none", "pass time= to Stream"))
                streams[name] = observations[name].with_model_error(error)
                notes += [f"model error of {name}: {said}"] * bool(said)
        return Observations({**dict(observations.items()), **streams}, sites=observations.sites, notes=[*observations.notes, *notes])

    def __str__(self) -> str:
        return "\n".join(self.sentences)


class _Settings(NamedTuple):
    """What all rounds share."""

    method: str
    parts: Parts
    solver: AbstractGradientSolver | AbstractEnsembleSolver
    rounds: int
    prior_weight: float
    block_years: int | None
    key: Array | int | None
    progress: bool
    checkpoint: str | Path | None
    failed: FailedRuns | None
    vector: ErrorVector | None = None
    name: str = ""
    others: list[Result] | None = None
    left_out: tuple[str, ...] = ()

    def solved(self, problem: Problem, z: Array, name: str) -> Result:
        file = None if self.checkpoint is None else Path(self.checkpoint) / f"errors_{self.name}{name}.npz"
        return solve(problem, self.solver, key=self.key, z0=z, progress=self.progress, checkpoint=file, failed=self.failed)


def estimate_errors(
    problem: Problem, result: Result | Array, *, method: str = "marginal", parts: Mapping[str, Sequence[str]] | None = None,
    solver: AbstractGradientSolver | AbstractEnsembleSolver | None = None, rounds: int | None = None, prior_weight: float = 1.0,
    block_years: int | None = None, key: Array | int | None = None, progress: bool = False, checkpoint: str | Path | None = None,
    failed: FailedRuns | None = None,
) -> ErrorEstimate:
    """Estimate the model errors of streams together with theta; see the top of the module for the methods.

    `result`: a solve of the problem (or its z), from which it starts. `parts`: stream -> parts of its `ModelError` that are estimated, of
    "constant", "proportional" (to the modelled value), "seasonal" and "days"; the others stay. Without it `default_parts`, which
    leave out streams without values, and of which cross-validation keeps the memory only if years left out are predicted better with it:
    where a model is wrong for weeks, a long memory lets the fit drift away from what was observed. Each site has errors of its own.
    `solver`: of theta in every round; without it Levenberg-Marquardt, or for a model without tangent-linear `IterativeFourDEnVar` (with
    seed 0 if there is no `key`). `rounds`: the most that are made. `prior_weight`: of the prior of error parameters, 0 for the
    likelihood alone. `block_years`: cross-validation leaves out so many years at a time (in order, all of them once), without it a third of
    those observed, three at most. `checkpoint`: a folder for the
    states of the solves. `key`, `progress` and `failed` go to `solve`.

    "residuals" counts the parameters that each stream determines (the degrees of freedom for signal) where adJULES counts all, and
    stops as adJULES does, when theta moves by less than 1e-5 in all; the others when no error moves by more than 2 %.
    Raises ValueError for unknown methods and parts, too few years, or so many parameters that the derivatives of all values by them do not
    fit in a gigabyte; TypeError for a problem whose errors are parameters already, and for likelihoods of a model without tangent-linear.
    """
    _check(problem, method, prior_weight, block_years, rounds)
    z = result.z if isinstance(result, Result) else jnp.asarray(result)
    known = PARTS if method in ("marginal", "cross-validation") else MOMENT_PARTS
    wanted = checked_parts(problem.observations, default_parts(problem.observations, method) if parts is None else parts, known, method)
    if solver is None:
        solver, key = (LevenbergMarquardt(), key) if problem.has_tangent else (IterativeFourDEnVar(), 0 if key is None else key)
    settings = _Settings(method, wanted, solver, ROUNDS[method] if rounds is None else rounds, prior_weight, block_years, key, progress,
                         checkpoint, failed, left_out=_left_out(problem.observations, wanted) if parts is None else ())
    whole = {name: tuple(part for part in each if part != "days") for name, each in wanted.items()}
    if method != "cross-validation" or parts is not None or whole == wanted:
        return _estimate(problem, z, settings, "")
    without = _estimate(problem, z, settings._replace(parts=whole), "without_memory_")
    remembering = _estimate(problem, z, settings, "with_memory_")
    return _better(without, remembering)


def _better(without: ErrorEstimate, remembering: ErrorEstimate) -> ErrorEstimate:
    """Of two estimates the one that predicts the years left out better, with a sentence that says so."""
    # Each stream counts alike, so that one with more days does not decide alone.
    scores = [float(each.table["score_left_out"][-1].mean("stream")) for each in (without, remembering)]
    keep = scores[1] > scores[0]
    left, chosen = (without, remembering) if keep else (remembering, without)
    said = (f"Years left out are predicted with a mean log score of {scores[0]:.3f} by errors without memory and {scores[1]:.3f} by errors "
            f"with it, which {'is kept' if keep else 'is not'}.")
    table = chosen.table.assign_attrs(score_without_memory=scores[0], score_with_memory=scores[1])
    return replace(chosen, table=table, results=(*left.results, *chosen.results), others=(*left.others, *chosen.others),
                   sentences=(*chosen.sentences, said))


def _estimate(problem: Problem, z: Array, settings: "_Settings", name: str) -> ErrorEstimate:
    """The rounds of one estimation; `name` is of the files of its solves."""
    method, wanted = settings.method, settings.parts
    observations = prepared(problem.observations, wanted, problem.predict(z))
    settings = settings._replace(vector=ErrorVector.of(observations, wanted), name=name, others=[])
    vector = settings.vector
    before, rows, changes, results, converged = vector.start(observations), [], [], [], False
    for number in range(settings.rounds):
        run = problem.predict(z)
        now = problem.with_observations(prepared(observations, wanted, run, first=False))
        found = _METHODS[method](now, z, before, settings, number)
        problem = now.with_observations(vector.observations(now.observations, jnp.asarray(found.values)))
        results.append(settings.solved(problem, z, f"round_{number}"))
        moved = float(jnp.sum(jnp.abs(results[-1].z - z)))
        changes.append(float(np.max(np.abs(found.values - before))))
        rows.append(row(problem, results[-1], found, vector, wanted, changes[-1], moved))
        z, before, observations = results[-1].z, found.values, problem.observations
        converged = moved < SETTLED if method == "residuals" else number > 0 and changes[-1] < TOLERANCE
        if converged:
            break
    reached, short = results[-1].status in REACHED, ()
    if not reached:
        short = (f"The calibration under the last errors has not reached its minimum ({results[-1].status.sentence}): errors and theta do "
                 "not belong together yet. Solve on, with another solver or more steps, and estimate again from there.",)
    converged = converged and not found.unfinished and reached
    said = (*sentences(problem, found, vector, wanted, method, changes, converged, settings.prior_weight), *short)
    return ErrorEstimate(problem, results[-1], tuple(results), tuple(settings.others), xr.concat(rows, "round"), method, wanted, converged,
                         (*said, *settings.left_out))


def default_parts(observations: Observations, method: str) -> dict[str, tuple[str, ...]]:
    """What is estimated unless something else is asked for, of every stream that has times and values: all that `method` can.

    A stream whose whole error is correlated keeps that memory. Where no stream has times, it is the constant of all.
    """
    known = PARTS if method in ("marginal", "cross-validation") else MOMENT_PARTS
    seen = {name: stream for name, stream in observations.items() if int(stream.count)}
    timed = {name: tuple(part for part in known if part != "days" or stream.correlation is None)
             for name, stream in seen.items() if stream.minutes is not None}
    return timed or dict.fromkeys(seen, ("constant",))


def _left_out(observations: Observations, parts: Parts) -> tuple[str, ...]:
    """A sentence on each stream that the defaults leave out."""
    why = {name: "nothing observed" if not int(stream.count) else f'no times; `parts` with {{"{name}": ("constant",)}} would estimate it'
           for name, stream in observations.items() if name not in parts}
    return tuple(f"{name}: its errors are left as they are, since it has {reason}." for name, reason in why.items())


def _check(problem: Problem, method: str, prior_weight: float, block_years: int | None, rounds: int | None) -> None:
    if method not in _METHODS:
        raise ValueError(complain(f"a method of {', '.join(_METHODS)}", f"{method!r}", 'method="marginal"'))
    problem.require_least_squares("an estimation of its errors")
    if method in ("marginal", "cross-validation") and not problem.has_tangent:
        raise TypeError(complain(f'a model with a tangent-linear for method="{method}"', problem.forward.description,
                                 'method="residuals", or problem.finite_difference()'))
    if rounds is not None and rounds < 1:
        raise ValueError(complain("one round or more", f"rounds={rounds!r}", "leave it out"))
    if not prior_weight >= 0:
        raise ValueError(complain("a prior_weight of zero or more", f"{prior_weight!r}", "1.0"))
    if block_years is not None and (method != "cross-validation" or block_years < 1):
        raise ValueError(complain('block_years of one or more, with method="cross-validation"', f"{block_years!r} with {method!r}",
                                  "leave it out"))


# ------------------------------------------------------------------------------------------------------------ by likelihood


def _marginal(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> Found:
    run, columns = tangents(problem, z)
    departures = {name: stream.values - run[name] + jnp.tensordot(z, columns[name], 1) for name, stream in problem.observations.items()}
    terms = [Terms(problem.observations, _observed(problem.observations, departures), columns, {})]
    return _with_widths(most_likely(settings.vector, before, terms, settings.prior_weight), settings)


def _observed(observations: Observations, departures: Mapping[str, Array]) -> dict[str, Array]:
    return {name: jnp.where(stream.mask, departures[name], 0.0) for name, stream in observations.items()}


def _scored(terms: Sequence[Terms], before: np.ndarray, settings: _Settings) -> Found:
    """Standard deviations by the score of single days, for which memory does not matter; then the memory by the joint density."""
    memory = np.concatenate([np.full(int(np.prod(shape)), part == "days") for _, part, shape in settings.vector.entries])
    found = most_likely(settings.vector, before, terms, settings.prior_weight, density=log_score, free=~memory)
    if memory.any():
        later = most_likely(settings.vector, found.values, terms, settings.prior_weight, free=memory)
        found = Fitted(later.values, found.curvature + later.curvature, found.unfinished or later.unfinished)
    return _with_widths(found, settings)


def _with_widths(found: Fitted, settings: _Settings) -> Found:
    eigenvalues, vectors = np.linalg.eigh(found.curvature)
    # At a bound of the search the curvature may not be positive: no standard error there.
    inverse = (vectors / np.where(eigenvalues > 0, eigenvalues, np.nan)) @ vectors.T
    variance = np.diag(inverse)
    errors = np.sqrt(np.where(variance > 0, variance, np.nan))
    return Found(found.values, errors, settings.prior_weight * variance / settings.vector.spread**2, {}, found.unfinished)


def _cross_validation(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> Found:
    terms, squares = [], dict.fromkeys(settings.parts, 0.0)
    blocks = blocks_of_years(problem.observations, settings.block_years)
    for block, years in enumerate(blocks):
        kept, left = problem.observations.split({
            name: True if stream.minutes is None else ~np.isin(stream.time.astype("datetime64[Y]"), years)
            for name, stream in problem.observations.items()})
        settings.others.append(settings.solved(problem.with_observations(kept), z, f"round_{number}_block_{block}"))
        there = settings.others[-1].z
        run, columns = tangents(problem, there)
        root = posterior_root(kept, columns)
        departures = _observed(left, {name: stream.values - run[name] for name, stream in left.items()})
        days = counting(settings.vector.observations(left, jnp.asarray(before)))
        terms.append(Terms(left, departures, {name: jnp.tensordot(root.T, each, 1) for name, each in columns.items()}, days))
        squares = {name: value + np.asarray(jnp.sum(departures[name] ** 2, axis=1)) for name, value in squares.items()}
    counts = {name: np.asarray(jnp.sum(problem.observations[name].mask, axis=1)) for name in squares}
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse = np.stack([np.sqrt(np.where(counts[name] > 0, value / counts[name], np.nan)) for name, value in squares.items()])
    found = _scored(terms, before, settings)
    scores, bands = np.zeros(len(squares)), []
    for each in terms:
        fitted = settings.vector.observations(each.observations, jnp.asarray(found.values))
        days = [(fitted[name], each.departures[name], each.columns[name]) for name in squares]
        scores += [float(jnp.sum(day_scores(*day))) for day in days]
        bands.append([judged(*day) for day in days])
    means, bands = scores / np.array([count.sum() for count in counts.values()]), np.array(bands)
    return found._replace(more={
        "rmse_left_out": (("stream", "site"), rmse), "score_left_out": ("stream", means), "first_year_left_out": (
            "block", [int(str(years[0])) for years in blocks]),
        "chi_square_left_out": (("block", "stream"), bands[..., 0]), "inside_left_out": (("block", "stream"), bands[..., 1])})


def blocks_of_years(observations: Observations, block_years: int | None = None) -> list[np.ndarray]:
    """The years that cross-validation leaves out together, in order: blocks of `block_years`, or of a third of them, three at most.

    Raises ValueError where fewer than two blocks have something observed.
    """
    streams = [stream for _, stream in observations.items() if stream.minutes is not None]
    seen = [stream.time[np.asarray(stream.mask)].astype("datetime64[Y]") for stream in streams]
    years = np.unique(np.concatenate(seen)) if seen else np.zeros(0, "datetime64[Y]")
    length = int(np.clip(len(years) // BLOCKS, 1, LONGEST)) if block_years is None else block_years
    number = len(years) // length
    if number < 2:
        raise ValueError(complain("two blocks of years or more to leave out in turn", f"{len(years)} years in blocks of {length}",
                                  'method="marginal", or fewer block_years'))
    return np.array_split(years, number)


# --------------------------------------------------------------------------------------------------------------- by moments


def _desroziers(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> Found:
    background, analysis = (_residuals(problem, at) for at in (jnp.zeros_like(z), z))
    return _by_moments(problem, analysis, background, dict.fromkeys(settings.parts, 1.0), settings)


def _from_residuals(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> Found:
    residuals = _residuals(problem, z)
    counts = {name: int(problem.observations[name].count) for name in settings.parts}
    signal = _signal(problem, z)
    factors = {name: counts[name] / max(counts[name] - signal[name], 1.0) for name in counts}
    return _by_moments(problem, residuals, residuals, factors, settings)


def _signal(problem: Problem, z: Array) -> dict[str, float]:
    """Degrees of freedom for signal of each stream: how many parameters it determines; in proportion to counts without tangents."""
    if not problem.has_tangent:
        total = int(problem.observations.count)
        return {name: z.size * int(stream.count) / total for name, stream in problem.observations.items()}
    columns = tangents(problem, z)[1]
    root = posterior_root(problem.observations, columns)
    parts = {}
    for name, stream in problem.observations.items():
        each = jnp.tensordot(root.T, columns[name], 1)
        parts[name] = float(sum(jnp.sum(stream.residuals(stream.values - column) ** 2) for column in each))
    return parts


def _residuals(problem: Problem, z: Array) -> dict[str, np.ndarray]:
    run = problem.predict(z)
    return {name: np.asarray(jnp.where(stream.mask, stream.values - run[name], 0.0)) for name, stream in problem.observations.items()}


def _by_moments(problem: Problem, left, right, factors: Mapping[str, float], settings: _Settings) -> Found:
    found = {name: moments(problem.observations[name], left[name], right[name], factors[name], parts, settings.prior_weight)
             for name, parts in settings.parts.items()}
    pieces, errors = [], []
    for name, part, shape in settings.vector.entries:
        value = getattr(found[name], part)
        pieces.append((value if part == "seasonal" else np.log(value)).ravel())
        errors.append(found[name].standard_error if part == "constant" else np.full(int(np.prod(shape)), np.nan))
    streams = {name: problem.observations[name] for name in settings.parts}
    more = {
        "variance": (("stream", "site"), np.stack([each.variance for each in found.values()])),
        "variance_by_season": (("stream", "site", "season"), np.stack([each.by_season for each in found.values()])),
        "unseen": (("stream", "site"), np.stack([each.negative for each in found.values()])),
        "correlation": (("stream", "other"), common_correlation(streams, left))}
    values = np.concatenate(pieces)
    return Found(values, np.concatenate(errors), np.zeros_like(values), more)


_METHODS = {"marginal": _marginal, "cross-validation": _cross_validation, "desroziers": _desroziers, "residuals": _from_residuals}
