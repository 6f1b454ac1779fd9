"""What `estimate_errors` found, as the table of a round and in sentences."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from landcal_jax.error_fitting import PARTS, SPREADS, ErrorVector, Parts
from landcal_jax.error_moments import SEASONS
from landcal_jax.observations import Stream
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result

LEANS = 0.1  # share of the prior in an estimate from which on it is said
SEEN = 0.5  # of the measurement error: a smaller model error that leans on its prior is not seen


class Found(NamedTuple):
    """One round: the vector of the errors, its standard errors, the share of the prior in each, more for the table, and what is wrong."""

    values: np.ndarray
    errors: np.ndarray
    leaning: np.ndarray
    more: dict[str, tuple]
    unfinished: str = ""


def row(problem: Problem, result: Result, found: Found, vector: ErrorVector, parts: Parts, change: float, moved: float) -> xr.Dataset:
    """The table of one round: (stream, site), values and standard errors of the parts in their units."""
    names, sites = list(parts), list(problem.observations.sites)
    columns = {name: np.full((len(names), len(sites)), np.nan) for part in PARTS for name in _columns(part)}
    columns |= {f"{name}_standard_error": array.copy() for name, array in columns.items()}
    values, errors = (vector.split(each) for each in (found.values, found.errors))
    for (stream, part), value in values.items():
        error, place = errors[stream, part], names.index(stream)
        if part == "seasonal":
            written = zip(_columns(part), value.T, error.T, strict=True)
        else:
            written = [(part, np.exp(value), np.exp(value) * error)]
        for name, each, width in written:
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


def sentences(problem: Problem, found: Found, vector: ErrorVector, parts: Parts, method: str, rounds: Sequence[float], converged: bool,
              prior_weight: float) -> Iterator[str]:
    """What was found in words, stream by stream; `rounds`: by how much the errors moved in each."""
    number, plural = len(rounds), "" if len(rounds) == 1 else "s"
    if converged:
        yield f"Errors by {method}, settled in {number} round{plural}."
    elif found.unfinished:
        yield (f"Errors by {method} are no maximum: {found.unfinished}. Do not use them; try fewer `parts`, or another method, or start "
               "from streams with its errors.")
    else:
        yield (f"Errors by {method} have not settled in {number} round{plural}: in the last one a parameter moved by {rounds[-1]:.0%}. "
               "J may have kinks or several minima of nearly the same depth; compare the rounds in `table`.")
    sites, leaning = problem.observations.sites, vector.split(found.leaning)
    for place, name in enumerate(parts):
        stream = problem.observations[name]
        for site, label in enumerate(sites):
            where = f"{name} at {label}" if len(sites) > 1 else name
            unseen = "unseen" in found.more and bool(found.more["unseen"][1][place, site])
            own = {part: float(np.max(leaning[name, part][site])) for part in parts[name]}
            yield from _of_site(where, stream, site, own, unseen, prior_weight)
        if "chi_square_left_out" in found.more:
            yield _years_left_out(name, *(found.more[f"{what}_left_out"][1][:, place] for what in ("chi_square", "inside")))


def _of_site(where: str, stream: Stream, site: int, leaning: dict[str, float], unseen: bool, prior_weight: float) -> Iterator[str]:
    """Of one stream at one site; `leaning`: part -> the share of the prior in it."""
    number = int(np.asarray(stream.mask)[site].sum())
    if not number:
        yield f"{where}: nothing observed, so that its errors are the prior's."
        return
    error, size = stream.model_error, float(stream.mean_model_error[site])
    words = f"{where}: model error {size:.3g} {stream.units}".rstrip()
    season = float(np.exp(np.hypot(*np.asarray(error.seasonal)[site])))
    words += f", {season:.2g} times as large in its season" if "seasonal" in leaning and not unseen else ""
    words += f", correlated over {float(error.days[site]):.2g} days" if error.days is not None and not unseen else ""
    yield f"{words}; {number} values tell as much of a mean as {float(stream.effective_number[site]):.0f} independent ones."
    if unseen:
        yield (f"{where}: no model error is seen, departures are smaller than the measurement error allows; "
               "it is set to a hundredth of the residuals.")
        return
    if leaning["constant"] > LEANS:
        yield f"{where}: {_why_constant(stream, site, size, leaning['constant'], prior_weight)}"
    for part, what in {"proportional": "share of the flux in", "seasonal": "season of", "days": "memory of"}.items():
        if leaning.get(part, 0.0) > LEANS:
            yield f"{where}: {min(leaning[part], 1.0):.0%} of what is known of the {what} its error is the prior."


def _why_constant(stream: Stream, site: int, size: float, share: float, prior_weight: float) -> str:
    """Why the prior has this share in a constant, by what the values would tell of an error with nothing beside it."""
    sigma = float(np.sqrt(np.mean(np.asarray(stream.sigma)[site][np.asarray(stream.mask)[site]] ** 2)))
    known = f"{min(share, 1.0):.0%} of what is known of the constant is the prior"
    if size < SEEN * sigma:
        return f"no model error is seen beside the measurement error of {sigma:.3g}; {known}."
    prior = prior_weight / SPREADS["constant"] ** 2
    # The logarithm of a standard deviation is known from n values with the variance 1 / 2n.
    if prior / (prior + 2.0 * float(stream.effective_squares[site])) > 0.5 * LEANS:
        return f"{known}, since there are few independent values."
    return f"{known}, since it is small beside the rest of the error."


def _years_left_out(name: str, chi_square: np.ndarray, inside: np.ndarray) -> str:
    """How well the bands held from one block of years to the next, which is how well they will hold in a new one."""
    low, high, least, most = (end(array) for array in (chi_square, inside) for end in (np.nanmin, np.nanmax))
    return (f"{name}: in years that were left out, block by block, chi-square was {low:.2f} to {high:.2f} and the 90 % band held "
            f"{least:.0%} to {most:.0%} of the values; in new years expect as wide a range.")
