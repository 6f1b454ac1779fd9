"""Scorecards: whether an experiment is better than a reference, by variable, region and season or lead time.

    card = scorecard(problem.observations, problem.predict(z_map), problem.predict(z_first_guess), regions={"boreal": ["FI-Hyy"], ...})
    plot_scorecard.scorecard(card)

    score = scorecard_objective(problem.observations, problem.predict(z_first_guess))
    bayesopt(problem, score=score, runs=60)

The error of a run is |m(h, y) - m(y, y)| of a measure m: of `rmsd` the RMSD itself, of `bias` its size, of `nse` 1 - NSE, of `peak` how far
the peak is off. Each cell is the normalised difference of the errors, experiment / reference - 1: below zero the experiment is better, as
a fall of the error by so much. Errors of the sites of a region are averaged first, over the sites with values, each with the same weight.

Significance is that of blocks of days, taken at all sites and in all variables together, because errors of neighbouring days and sites are
no independent evidence: the standard error is that of the jackknife, which leaves out one block after the other (Efron and Tibshirani
1993, An Introduction to the Bootstrap, eq. 11.5), and the interval that of Student's t with as many degrees of freedom as
blocks but one. That blocks are long enough to be independent is an assumption, which `block_correlation` looks at: Geer (2016), Tellus A
68:30229, shows on forecast scores how far intervals are too narrow without it.
"""

import json
from collections.abc import Callable, Mapping, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from numpy.typing import ArrayLike
from scipy import stats

from landcal_jax.errors import complain
from landcal_jax.findings import sentences as sentences
from landcal_jax.measures import Measure, Series, name_of, rmsd
from landcal_jax.observations import Observations
from landcal_jax.scorecard_cells import By, Card, card_of, checked, season_of
from landcal_jax.scorecard_cells import Leads as Leads
from landcal_jax.scorecard_cells import days_since as days_since

CELL = ("variable", "region", "column")
LEAST_BLOCKS = 5  # for a standard error
NAMED = 6  # cells in a sentence
CORRELATED = 0.2  # of neighbouring blocks, from which on the sentences say so
Weights = Mapping[str, float] | xr.DataArray | None


def scorecard(
    observations: Observations, experiment: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike], *,
    regions: Mapping[str, Sequence[str]] | None = None, by: By = season_of, score: Measure | Callable[[Series], Array] = rmsd,
    block_days: float = 30.0, level: float = 0.95, weights: Weights = None,
) -> xr.Dataset:
    """Normalised differences of the errors of an experiment against a reference, with dimensions (variable, region, column).

    `experiment` and `reference`: {stream: (site, n_obs)}, as `problem.predict(z)` gives them; streams of the observations that neither
    has are left out. `regions`: names of sites by region, all sites as one without it; they may overlap. `by`: what the columns are:
    "season", "month" or "year"; a function from times (site, n_obs) to labels (`season_of`, `days_since(...)`); such labels by
    stream, where "" and NaN are no column; `Leads`; or None for one column. `score`: the measure of which the error is taken.
    `block_days`: length of the blocks [d], longer than the memory of the errors. `level`: of the intervals. `weights` of the cells in
    `overall`: by variable, or a DataArray with some of the three dimensions; one each without it.

    Variables: `difference` [1], its standard error `error`, `lower`, `upper`, `p_value` (two-sided, of no difference), `significant`;
    errors of both runs, `experiment` and `reference`, in `units(variable)`; `number` of values, `sites`, `blocks`; `block_correlation`
    of neighbouring blocks; `overall` and `overall_error`. Cells without values are NaN, and their significance where there are fewer
    than five blocks. `lost` (variable, region, column): the reference has an error there and the experiment none, since its measure
    is undefined (the correlation of a flat series); with a weight on such a cell `overall` is NaN, as it cannot be said how much worse
    that is. `sentences(ds)` says it in words.

    Raises KeyError for unknown streams, sites and weights; TypeError for a measure that cannot be called and text where names are
    to be listed; ValueError for runs that are not finite where something was observed or have
    other shapes, for streams without times, for columns, regions, weights or levels that leave nothing, and for a card without a cell
    in which the reference has an error.
    """
    if not 0 < level < 1 or not block_days > 0:
        raise ValueError(complain("a level between 0 and 1, and blocks longer than 0 days", f"{level}, {block_days}",
                                  "level=0.95, block_days=30"))
    names = [name for name in observations if name in experiment or name in reference]
    card, starts = card_of(observations, names, regions, by, score, block_days)
    runs = [checked(observations, names, run, what) for run, what in ((experiment, "experiment"), (reference, "reference"))]
    present = _present(card)
    whole = [np.asarray(values) for values in _of_runs(card, *runs, jnp.array([-1]))]
    without = [np.asarray(values) for values in _of_runs(card, *runs, jnp.arange(card.blocks))]
    difference, each = (_difference(*values) for values in (whole, without))
    weight = _weights(card, weights)
    _require_a_cell(whole[1][0], weight)
    lost = _lost(*whole)[0]
    ds = _assembled(card, observations, names, [values[0] for values in whole], difference[0], present)
    error, correlated, number = _jackknife(difference[0], each, present, starts)
    _add_significance(ds, difference[0], error, correlated, number, level)
    overall, overall_each = (
        _overall(differences, _lost(*errors), weight) for differences, errors in ((difference, whole), (each, without)))
    overall = overall[0]
    ds["lost"] = CELL, lost, _about("whether the reference has an error and the experiment none")
    ds["without"] = CELL, (present.any(axis=0) & ~(whole[1][0] > 0)), _about("whether there are values but no error of the reference")
    ds["overall"] = (), overall, _about("weighted mean of the normalised differences")
    ds["overall_error"] = (), _jackknife(overall, overall_each, np.isfinite(overall_each), starts)[0], _about("its standard error")
    ds.attrs |= {"score": name_of(score), "level": level, "block_days": block_days}
    ds.attrs["sentences"] = json.dumps(_findings(ds))
    return ds


class Objective(eqx.Module):
    """The weighted mean of the normalised differences of a scorecard, as a function of a run: see `scorecard_objective`."""

    card: Card
    reference: Array
    weight: Array

    def __call__(self, predicted: Mapping[str, ArrayLike]) -> Array:
        """{stream: (site, n_obs)} -> a scalar, or {stream: (member, site, n_obs)} -> (member,); NaN for a run that failed."""
        predicted = {name: jnp.asarray(predicted[name]) for name in self.card.parts}
        if all(values.ndim == 3 for values in predicted.values()):
            return _of_members(self, predicted)
        return self.of_run(predicted)

    @eqx.filter_jit
    def of_run(self, predicted: Mapping[str, Array]) -> Array:
        """Of one run, {stream: (site, n_obs)}; traceable and differentiable where the measure is."""
        experiment, reference = self.card.of_regions(self.card.errors(predicted), self.reference)
        there = jnp.isfinite(reference) & (reference > 0) & (self.weight > 0)
        difference = jnp.where(there, experiment / jnp.where(there, reference, 1.0) - 1.0, 0.0)
        weight = jnp.where(there, self.weight, 0.0)
        return jnp.sum(weight * difference) / jnp.sum(weight)


def scorecard_objective(
    observations: Observations, reference: Mapping[str, ArrayLike], *, regions: Mapping[str, Sequence[str]] | None = None,
    by: By = season_of, score: Measure | Callable[[Series], Array] = rmsd, weights: Weights = None,
) -> Objective:
    """The `overall` of `scorecard` against this reference, as a function of the predictions of an experiment, to be minimised.

    It is 0 for the reference itself and -1 for a perfect run, and NaN, as a run that failed, where the measure is undefined for the run in
    a cell in which it is defined for the reference. Arguments as of `scorecard`; the result is what `bayesopt(score=)` takes.
    Raises as `scorecard`.
    """
    names = [name for name in observations if name in reference]
    card, _ = card_of(observations, names, regions, by, score, None)
    errors = card.errors(checked(observations, names, reference, "reference"))
    objective = Objective(card, errors, jnp.asarray(_weights(card, weights)))
    _require_a_cell(np.asarray(card.of_regions(errors, errors)[0]), np.asarray(objective.weight))
    return objective


def _require_a_cell(reference: np.ndarray, weight: np.ndarray) -> None:
    """Raise ValueError if there is no cell to judge, from errors of the reference (variable, region, column)."""
    if not (np.isfinite(reference) & (reference > 0) & (weight > 0)).any():
        raise ValueError(complain("a cell with a weight in which the reference has an error", "none",
                                  "check weights=, regions= and by=; score= may need whole years, as peak() does: by=None"))


@eqx.filter_jit
def _of_members(objective: Objective, predicted: Mapping[str, Array]) -> Array:
    return jax.lax.map(objective.of_run, predicted, batch_size=32)


@eqx.filter_jit
def _of_runs(card: Card, experiment: Mapping[str, Array], reference: Mapping[str, Array], without: Array) -> tuple[Array, Array]:
    """Errors (block, variable, region, column) of both runs, each without one of these blocks."""
    def one(block):
        return card.of_regions(card.errors(experiment, block), card.errors(reference, block))

    return jax.lax.map(one, without)


# ---------------------------------------------------------------------- differences and their errors


def _difference(experiment: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """experiment / reference - 1; NaN where the reference has no error."""
    above = reference > 0
    return np.where(above, experiment / np.where(above, reference, 1.0) - 1.0, np.nan)


def _lost(experiment: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Where the reference has an error and the experiment has none."""
    return (np.nan_to_num(reference) > 0) & ~np.isfinite(experiment)


def _overall(differences: np.ndarray, lost: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Weighted means (block,) of differences (block, variable, region, column) over the cells that have one; NaN if one is lost."""
    judged = ~(lost & (weight > 0)).any(axis=(1, 2, 3))
    weight = np.where(np.isfinite(differences), weight, 0.0)
    total = weight.sum(axis=(1, 2, 3))
    known = judged & (total > 0)
    return np.where(known, np.sum(weight * np.nan_to_num(differences), axis=(1, 2, 3)) / np.where(known, total, 1.0), np.nan)


def _weights(card: Card, weights: Weights) -> np.ndarray:
    """Weights (variable, region, column), zero or more."""
    ones = xr.DataArray(np.ones((len(card.variables), len(card.regions), len(card.columns))), dims=CELL, coords=_coordinates(card))
    if isinstance(weights, Mapping):
        if unknown := sorted(set(weights) - set(card.variables)):
            raise KeyError(complain(f"weights of the variables {', '.join(card.variables)}", ", ".join(unknown), "correct the names"))
        weights = xr.DataArray([float(weights.get(name, 1.0)) for name in card.variables], dims="variable",
                               coords={"variable": list(card.variables)})
    if weights is None:
        return ones.values
    try:
        weight = (ones * xr.align(weights, ones, join="exact", copy=False)[0]).transpose(*CELL).values
    except ValueError as error:
        raise ValueError(complain(f"weights with some of the dimensions and the labels of {dict(ones.coords)}", f"{error}",
                                  "by variable, {variable: weight}, or a DataArray")) from error
    if not (np.isfinite(weight).all() and (weight >= 0).all() and weight.sum() > 0):
        raise ValueError(complain("weights of zero or more, some above", f"from {weight.min()} to {weight.max()}", "correct them"))
    return weight


def _present(card: Card) -> np.ndarray:
    """Which blocks have values in each cell, (block, variable, region, column)."""
    by_site = np.zeros((card.blocks, len(card.variables), len(card.columns), card.shares.shape[1]), bool)
    for part in card.parts.values():
        counts = np.asarray(part.series.mask) & (np.asarray(part.column) >= 0)
        site, place = np.nonzero(counts)
        by_site[np.asarray(part.block)[site, place], part.row, np.asarray(part.column)[site, place], site] = True
    return np.einsum("rs,bvcs->bvrc", np.asarray(card.shares), by_site) > 0


def _jackknife(value: np.ndarray, each: np.ndarray, present: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Standard error of `value`, correlation of neighbouring blocks, and the number of blocks.

    `each` (block, ...): the value without each block; only those `present` count. NaN for fewer than five blocks.
    """
    number = present.sum(axis=0)
    many = np.maximum(number, 2)
    mean = np.sum(np.where(present, each, 0.0), axis=0) / many
    away = np.where(present, each - mean, 0.0)
    square = np.sum(away**2, axis=0)
    error = np.where(number >= LEAST_BLOCKS, np.sqrt((many - 1) / many * square), np.nan)
    # The share of one block in the value is proportional to what the value lacks without it.
    pair = present[1:] & present[:-1] & (np.diff(starts) == 1).reshape((-1,) + (1,) * value.ndim)
    pairs = pair.sum(axis=0)
    product = np.sum(np.where(pair, away[1:] * away[:-1], 0.0), axis=0) / np.maximum(pairs, 1)
    known = (pairs >= LEAST_BLOCKS) & (square > 0)
    return error, np.where(known, product / np.where(square > 0, square / many, 1.0), np.nan), number


# ---------------------------------------------------------------------- as a Dataset


def _coordinates(card: Card) -> dict[str, list]:
    return {"variable": list(card.variables), "region": list(card.regions), "column": list(card.columns)}


def _assembled(card: Card, observations: Observations, names: Sequence[str], errors: Sequence[np.ndarray], difference: np.ndarray,
               present: np.ndarray) -> xr.Dataset:
    """The Dataset without what is known of significance."""
    units = {card.variables[part.row]: _units(card.score, observations[name].units) for name, part in card.parts.items()}
    sites = np.zeros((len(card.variables), len(card.columns), card.shares.shape[1]), int)
    for part in card.parts.values():
        for column in range(len(card.columns)):
            sites[part.row, column] += (np.asarray(part.series.mask) & (np.asarray(part.column) == column)).sum(axis=1)
    shares = np.asarray(card.shares)
    ds = xr.Dataset(coords=_coordinates(card) | {"units": ("variable", list(units.values()))})
    ds["column"].attrs["long_name"] = card.kind
    ds["difference"] = CELL, difference, _about("normalised difference of errors, experiment / reference - 1; below zero is better")
    for what, values in zip(("experiment", "reference"), errors, strict=True):
        ds[what] = CELL, values, {"long_name": f"error of the {what}", "units": "those of `units(variable)`"}
    ds["number"] = CELL, np.einsum("rs,vcs->vrc", shares, sites).astype(int), _about("observed values")
    ds["sites"] = CELL, np.einsum("rs,vcs->vrc", shares, sites > 0).astype(int), _about("sites with values")
    ds.attrs["streams"] = ", ".join(names)
    return ds


def _add_significance(ds: xr.Dataset, difference: np.ndarray, error: np.ndarray, correlated: np.ndarray, number: np.ndarray,
                      level: float) -> None:
    freedom = np.maximum(number - 1, 1)
    half = stats.t.ppf(0.5 + 0.5 * level, freedom) * error
    with np.errstate(divide="ignore", invalid="ignore"):
        p_value = 2.0 * stats.t.sf(np.abs(difference) / error, freedom)
    percent = f"{100 * level:g} %"
    ds["error"] = CELL, error, _about("standard error of the difference, by the jackknife over blocks")
    ds["lower"] = CELL, difference - half, _about(f"lower end of the {percent} interval")
    ds["upper"] = CELL, difference + half, _about(f"upper end of the {percent} interval")
    ds["p_value"] = CELL, p_value, _about("probability of a difference as large as this, were there none")
    ds["significant"] = CELL, np.isfinite(half) & (np.abs(difference) > half), _about(f"whether the {percent} interval leaves out zero")
    ds["blocks"] = CELL, number, _about("blocks with values")
    ds["block_correlation"] = CELL, correlated, _about("correlation of what neighbouring blocks add to the difference")


def _findings(ds: xr.Dataset) -> list[str]:
    difference, significant = ds["difference"].values, ds["significant"].values
    judged, cells = int(np.isfinite(ds["error"].values).sum()), int(np.isfinite(difference).sum())
    better, worse = int((significant & (difference < 0)).sum()), int((significant & (difference > 0)).sum())
    level, overall, error = ds.attrs["level"], float(ds["overall"]), float(ds["overall_error"])
    said = [f"Error of the experiment against that of the reference, over all cells: {100 * overall:+.1f} %"
            + (f" (standard error {100 * error:.1f} %)." if np.isfinite(error) else " (too few blocks for a standard error).")
            if np.isfinite(overall) else "No error of the experiment over all cells: it has none in some of them.",
            f"Of {cells} cells with values, {better} are better and {worse} are worse at a level of {100 * level:g} %; "
            f"about {(1 - level) * judged:.1f} would be one or the other by chance."]
    if judged < cells:
        said.append(f"{cells - judged} cells have fewer than {LEAST_BLOCKS} blocks of {ds.attrs['block_days']:g} days: "
                    "nothing is said about their significance.")
    score = ds.attrs["score"]
    for name, words in (("lost", f"{score} is undefined for the experiment, though not for the reference"),
                        ("without", f"the reference has no error of {score}, which is undefined or zero, and nothing is compared")):
        if number := int(ds[name].sum()):
            said.append(f"In {number} cell{'s' * (number > 1)} {words}: {_named(ds, ds[name].values)}.")
    correlation = ds["block_correlation"].values[np.isfinite(ds["block_correlation"].values)]
    if correlation.size and (median := float(np.median(correlation))) > CORRELATED:
        said.append(f"Neighbouring blocks are not independent (correlation {median:.2f} in the median cell): intervals are too narrow; "
                    "take longer blocks with block_days=.")
    return said


def _named(ds: xr.Dataset, where: np.ndarray) -> str:
    """Cells in words, the first few."""
    names = [", ".join(str(ds[dim].values[place]) for dim, place in zip(CELL, cell, strict=True)) for cell in np.argwhere(where)]
    return "; ".join(names[:NAMED]) + (f"; and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _units(score: Callable, units: str) -> str:
    return score.units_of(units) if isinstance(score, Measure) else ""


def _about(long_name: str) -> dict[str, str]:
    return {"long_name": long_name, "units": "1"}
