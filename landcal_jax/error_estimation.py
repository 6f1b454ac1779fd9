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
    Parts,
    Terms,
    checked_parts,
    day_scores,
    judged,
    log_score,
    most_likely,
    posterior_root,
    prepared,
    tangents,
)
from landcal_jax.error_moments import MOMENT_PARTS, SEASONS, common_correlation, moments
from landcal_jax.errors import complain
from landcal_jax.gradient import LevenbergMarquardt
from landcal_jax.members import FailedRuns
from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Result
from landcal_jax.solving import solve

ROUNDS = {"marginal": 10, "cross-validation": 4, "desroziers": 20, "residuals": 50}
TOLERANCE = 0.02  # of logarithms: two per cent
SETTLED = 1e-5  # of the sum of |dz|, as in adJULES
BLOCKS, LONGEST = 3, 3  # cross-validation leaves out a third of the years at most, and no more than three
LEANS = 0.1  # share of the prior in an estimate from which on it is said


@dataclass(frozen=True)
class ErrorEstimate:
    """What `estimate_errors` found.

    `problem` has the errors, and `result` is its last solve. `results`: those of all rounds, in the end of them `result`; `others`: those
    without a block of years. `table`: by (round, stream, site), the parts of the errors with their standard errors, `model_error` (root
    mean square over the days), number and effective number of values; by (round, stream), `chi_square` at the minimum, and by
    (round,) J and how far parameters moved. `converged`: errors and theta have settled. `sentences` say it in words.
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
        """Other observations on the same axes, such as those held out, with the errors that were estimated."""
        return observations.with_streams({
            name: observations[name].with_model_error(self.problem.observations[name].model_error)
            for name in self.parts if name in observations.names})

    def __str__(self) -> str:
        return "\n".join(self.sentences)


class _Found(NamedTuple):
    """One round: the vector of the errors, its standard errors, the share of the prior in each, and more for the table."""

    values: np.ndarray
    errors: np.ndarray
    leaning: np.ndarray
    more: dict[str, tuple]


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
    Raises ValueError for unknown methods and parts, or too few years; TypeError for a problem whose errors are parameters already,
    and for likelihoods of a model without tangent-linear.
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
    before, rows, results, converged = settings.vector.start(observations), [], [], False
    for number in range(settings.rounds):
        run = problem.predict(z)
        now = problem.with_observations(prepared(observations, wanted, run, first=False))
        found = _METHODS[method](now, z, before, settings, number)
        problem = now.with_observations(settings.vector.observations(now.observations, jnp.asarray(found.values)))
        results.append(settings.solved(problem, z, f"round_{number}"))
        moved = float(jnp.sum(jnp.abs(results[-1].z - z)))
        change = float(np.max(np.abs(found.values - before)))
        rows.append(_row(problem, results[-1], found, settings, change, moved))
        z, before, observations = results[-1].z, found.values, problem.observations
        converged = moved < SETTLED if method == "residuals" else number > 0 and change < TOLERANCE
        if converged:
            break
    table = xr.concat(rows, "round")
    sentences = tuple(_sentences(problem, found, settings, converged, len(rows), change))
    return ErrorEstimate(problem, results[-1], tuple(results), tuple(settings.others), table, method, wanted, converged, sentences)


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


def _marginal(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> _Found:
    run, columns = tangents(problem, z)
    departures = {name: stream.values - run[name] + jnp.tensordot(z, columns[name], 1) for name, stream in problem.observations.items()}
    terms = [Terms(problem.observations, _observed(problem.observations, departures), columns)]
    return _with_widths(*most_likely(settings.vector, before, terms, settings.prior_weight), settings)


def _observed(observations: Observations, departures: Mapping[str, Array]) -> dict[str, Array]:
    return {name: jnp.where(stream.mask, departures[name], 0.0) for name, stream in observations.items()}


def _scored(terms: Sequence[Terms], before: np.ndarray, settings: _Settings) -> _Found:
    """Standard deviations by the score of single days, for which memory does not matter; then the memory by the joint density."""
    memory = np.concatenate([np.full(int(np.prod(shape)), part == "days") for _, part, shape in settings.vector.entries])
    values, curvature = most_likely(settings.vector, before, terms, settings.prior_weight, density=log_score, free=~memory)
    if memory.any():
        values, of_memory = most_likely(settings.vector, values, terms, settings.prior_weight, free=memory)
        curvature = curvature + of_memory
    return _with_widths(values, curvature, settings)


def _with_widths(values: np.ndarray, curvature: np.ndarray, settings: _Settings) -> _Found:
    eigenvalues, vectors = np.linalg.eigh(curvature)
    # At a bound of the search the curvature may not be positive: no standard error there.
    inverse = (vectors / np.where(eigenvalues > 0, eigenvalues, np.nan)) @ vectors.T
    variance = np.diag(inverse)
    errors = np.sqrt(np.where(variance > 0, variance, np.nan))
    return _Found(values, errors, settings.prior_weight * variance / settings.vector.spread**2, {})


def _cross_validation(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> _Found:
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
        terms.append(Terms(left, departures, {name: jnp.tensordot(root.T, each, 1) for name, each in columns.items()}))
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


def _desroziers(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> _Found:
    background, analysis = (_residuals(problem, at) for at in (jnp.zeros_like(z), z))
    return _by_moments(problem, analysis, background, dict.fromkeys(settings.parts, 1.0), settings)


def _from_residuals(problem: Problem, z: Array, before: np.ndarray, settings: _Settings, number: int) -> _Found:
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


def _by_moments(problem: Problem, left, right, factors: Mapping[str, float], settings: _Settings) -> _Found:
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
    return _Found(values, np.concatenate(errors), np.zeros_like(values), more)


_METHODS = {"marginal": _marginal, "cross-validation": _cross_validation, "desroziers": _desroziers, "residuals": _from_residuals}


# ----------------------------------------------------------------------------------------------------------------- reporting


def _row(problem: Problem, result: Result, found: _Found, settings: _Settings, change: float, moved: float) -> xr.Dataset:
    """The table of one round: (stream, site), values and standard errors of the parts in their units."""
    names, sites = list(settings.parts), list(problem.observations.sites)
    columns = {name: np.full((len(names), len(sites)), np.nan) for part in PARTS for name in _columns(part)}
    columns |= {f"{name}_standard_error": array.copy() for name, array in columns.items()}
    values, errors = (settings.vector.split(vector) for vector in (found.values, found.errors))
    for (stream, part), value in values.items():
        error, place = errors[stream, part], names.index(stream)
        if part == "seasonal":
            parts = zip(_columns(part), value.T, error.T, strict=True)
        else:
            parts = [(part, np.exp(value), np.exp(value) * error)]
        for name, each, width in parts:
            columns[name][place], columns[f"{name}_standard_error"][place] = each, width
    streams = [problem.observations[name] for name in names]
    run = problem.predict(result.z)
    columns["number"] = np.stack([np.asarray(stream.mask).sum(axis=1) for stream in streams])
    columns["effective_number"] = np.stack([np.asarray(stream.effective_number) for stream in streams])
    columns["model_error"] = np.stack([np.asarray(stream.mean_model_error) for stream in streams])
    data = {name: (("stream", "site"), array) for name, array in columns.items()} | found.more
    data["chi_square"] = "stream", [float(problem.observations[name].chi_square(run[name])) for name in names]
    data |= {"cost": result.cost, "largest_change": change, "moved": moved}
    coords = {"stream": names, "site": sites, "units": ("stream", [stream.units for stream in streams])}
    coords |= {"other": names} if "correlation" in data else {}
    coords |= {"season": list(SEASONS)} if "variance_by_season" in data else {}
    return xr.Dataset(data, coords)


def _columns(part: str) -> tuple[str, ...]:
    return ("cosine", "sine") if part == "seasonal" else (part,)


def _sentences(problem: Problem, found: _Found, settings: _Settings, converged: bool, rounds: int, change: float):
    """What was found in words, stream by stream."""
    plural = "" if rounds == 1 else "s"
    yield f"Errors by {settings.method}, settled in {rounds} round{plural}." if converged else (
        f"Errors by {settings.method} have not settled in {rounds} round{plural}: in the last one a parameter moved by {change:.0%}. "
        "J may have kinks or several minima of nearly the same depth; compare the rounds in `table`.")
    sites = problem.observations.sites
    leaning = settings.vector.split(found.leaning)
    for name in settings.parts:
        stream = problem.observations[name]
        for site, label in enumerate(sites):
            number = int(np.asarray(stream.mask)[site].sum())
            where = f"{name} at {label}" if len(sites) > 1 else name
            if not number:
                yield f"{where}: nothing observed, so that its errors are the prior's."
                continue
            unseen = "unseen" in found.more and found.more["unseen"][1][list(settings.parts).index(name), site]
            error = stream.model_error
            words = f"{where}: model error {float(stream.mean_model_error[site]):.3g} {stream.units}".rstrip()
            season = float(np.exp(np.hypot(*np.asarray(error.seasonal)[site])))
            words += f", {season:.2g} times as large in its season" if "seasonal" in settings.parts[name] and not unseen else ""
            words += f", correlated over {float(error.days[site]):.2g} days" if error.days is not None and not unseen else ""
            yield f"{words}; {number} values tell as much of a mean as {float(stream.effective_number[site]):.0f} independent ones."
            share = float(leaning[name, "constant"][site])
            if share > LEANS:
                yield f"{where}: {share:.0%} of what is known of the constant is the prior, since there are few independent values."
            if unseen:
                yield (f"{where}: no model error is seen, departures are smaller than the measurement error allows; "
                       "it is set to a hundredth of the residuals.")
        if "chi_square_left_out" in found.more:
            yield _years_left_out(name, *(found.more[f"{what}_left_out"][1][:, list(settings.parts).index(name)]
                                          for what in ("chi_square", "inside")))
    yield from settings.left_out


def _years_left_out(name: str, chi_square: np.ndarray, inside: np.ndarray) -> str:
    """How well the bands held from one block of years to the next, which is how well they will hold in a new one."""
    low, high, least, most = (end(array) for array in (chi_square, inside) for end in (np.nanmin, np.nanmax))
    return (f"{name}: in years that were left out, block by block, chi-square was {low:.2f} to {high:.2f} and the 90 % band held "
            f"{least:.0%} to {most:.0%} of the values; in new years expect as wide a range.")
