"""Which parameters move which output: one at a time, by Morris, by Sobol, and what to free after that.

    ds = morris(with_metrics(problem, {...}), runs=690, key=0)      # or of the series themselves, or of their means: mean="season"
    print("\\n".join(sentences(ds))); plot_sensitivity.morris_plane(ds)
    problem = dataclasses.replace(problem, space=screened(problem.space, ds))
    ds = sobol(problem, runs=10_000, key=0)

All three take any Problem, an external model too: they need runs alone, and their budget is a number of runs. Every Dataset has
the dimensions `parameter` (the label of an element of theta, or the name of a group) and `output` (see `sensitivity_runs`), so that
`ds.sel(output="nee_rmsd")` or `ds.sel(output=ds["stream"] == "nee")` takes a part. `attrs` hold the budget and what became of
it (`runs`, `failed_runs`), `sentences` (JSON) what is to be said.

Designs are those of SALib, over u = Phi(z), which is uniform in (0, 1) whatever the prior of a parameter: shares are of its prior.
`sensitivity_indices` has the statistics, for all outputs at once. `sensitivity_gradient` has measures from exact derivatives.

References: Kennedy et al. (2025), JAMES 17, e2024MS004715 (one at a time); Saltelli et al. (2008), Global Sensitivity Analysis: The
Primer; Iwanaga, Usher and Herman (2022), Socio-Environmental Systems Modelling 4, 18155 (SALib).
"""

import json

import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.special import ndtri

from landcal_jax.errors import complain
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sensitivity_indices import morris_statistics, sobol_indices
from landcal_jax.sensitivity_runs import (
    TOLD,
    Groups,
    Mean,
    about,
    described,
    factors,
    failures,
    largest,
    outputs,
    require_independent,
    require_runs,
    run,
    seed_of,
    unvarying,
    z_of,
)

# The variable that ranks, and whether it is a share of variance rather than of spread.
MEASURES = {"mu_star": False, "total": True, "range": False, "total_bound": True}


def one_at_a_time(problem: Problem, *, groups: Groups = None, tail: float = 0.025, mean: Mean = None) -> xr.Dataset:
    """The design of the CLM perturbed parameter ensemble: the defaults, and each parameter (or group) at its minimum and its maximum.

    These are the bounds of its prior; where it has none, the quantile `tail` or 1 - `tail`. All others keep their defaults, under a
    correlated prior too. Takes 2 runs a factor and one more.

    Variables by `output`: `default`; by `parameter` and `output`: `low` and `high`, changes from it [units of the output], and `range`,
    the largest difference among the three runs (NaN where an output does not vary by more than rounding); by element: `minimum`,
    `maximum`, `default_value` [units of the parameter].
    Raises ValueError for a tail outside 0 to 0.5.
    """
    if not 0 < tail < 0.5:
        raise ValueError(complain("a tail between 0 and 0.5", f"{tail}", "tail=0.025"))
    space, found = problem.space, factors(problem.space, groups)
    chosen, ds = outputs(problem.observations, mean)
    base = np.asarray(space.flatten(space.default_theta))
    ends = _ends(space, tail)
    theta = np.tile(base, (2 * len(found.names) + 1, 1))
    for number in range(len(found.names)):
        inside = found.of == number
        for side, end in enumerate(ends):
            theta[1 + 2 * number + side, inside] = end[inside]
    Z = np.asarray(space.whiten(space.unflatten(theta)))
    values = run(problem, Z, chosen)
    failed, said = failures(problem, Z, values, ds["output"].values)
    said = [*_without_default(values, ds["output"].values), *said]
    still, constant = unvarying(values, ds["output"].values)
    sides = values[1:].reshape(-1, 2, values.shape[1]) - values[0]
    with_base = np.concatenate([np.where(np.isfinite(values[0]), 0.0, np.nan) + np.zeros_like(sides[:, :1]), sides], axis=1)
    ds = ds.assign_coords(parameter=list(found.names), element=list(space.labels))
    ds["default"] = "output", values[0], about("output at the defaults", "of the output")
    for name, change in (("low", sides[:, 0]), ("high", sides[:, 1])):
        ds[name] = ("parameter", "output"), change, about(f"change with the parameter at its {name} end", "of the output")
    ds["range"] = ("parameter", "output"), np.where(still, np.nan, with_base.max(axis=1) - with_base.min(axis=1)), about(
        "largest difference among default, low and high", "of the output")
    for name, vector in (("minimum", ends[0]), ("maximum", ends[1]), ("default_value", base)):
        ds[name] = "element", vector, about(f"{name.partition('_')[0]} of the parameter", "of the parameter")
    said = [f"{len(Z)} runs: the defaults, and each of {len(found.names)} factors at both of its ends.", *said, *constant,
            *largest(ds, "range")]
    return described(ds, found, said, method="one at a time", measure="range", runs=len(Z), failed_runs=failed, tail=tail)


def _without_default(values: np.ndarray, labels: np.ndarray) -> list[str]:
    """A sentence if the run at the defaults, the first of (run, output), lacks what other runs have: all is compared with it."""
    lacking = np.isfinite(values[1:]).any(axis=0) & ~np.isfinite(values[0])
    if not lacking.any():
        return []
    what = f"has no {', '.join(labels[lacking][:TOLD])}" if np.isfinite(values[0]).any() else "failed"
    return [f"The run at the defaults {what}, and changes are those from it: they are not known. Mend the defaults, or take morris."]


def _ends(space: ParameterSpace, tail: float) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest value of each free element: a bound, or a quantile of its own prior where there is none."""
    ends = []
    for bound, u in zip(space.bounds(), (tail, 1 - tail), strict=True):
        z = np.full(space.size, ndtri(u))
        z = z if space.factor is None else np.linalg.solve(np.asarray(space.factor), z)
        quantile = np.asarray(space.flatten(space.physical(jnp.asarray(z))))
        ends.append(np.where(np.isfinite(bound), bound, quantile))
    return tuple(ends)


def morris(
    problem: Problem, *, runs: int, key: Array | int, groups: Groups = None, levels: int = 4, tail: float = 0.01, mean: Mean = None,
    resamples: int = 100, level: float = 0.95, keep_runs: bool = False,
) -> xr.Dataset:
    """Elementary effects of Morris: `mu_star` says how much a parameter moves an output, `sigma` how much that depends on the others.

    `runs`: the budget, of which whole trajectories of one run more than there are factors are made; ten to twenty of them serve for
    screening. `levels` (even): of the grid in u, which lies between `tail` and 1 - `tail`, as unbounded priors have no ends. `mean`:
    outputs are means over "season", "month", "year" or "record" instead of every value of a series. `groups`: name -> parameters that
    move in one step (each in its own direction). `keep_runs` adds `z` and `value` of all runs; `kept_runs` makes of them what `emulate`
    takes.

    Variables by `parameter` and `output` [units of the output, for a move over the whole grid]: `mu`, `mu_star` and
    `mu_star_interval`, half its interval of `level` by `resamples` resamples; `sigma` (NaN for a group); `effects`, how many count. An
    effect next to a failed run does not; below two there is NaN, and so for an output that does not vary by more than rounding.

    Raises ValueError for fewer runs than two trajectories, odd levels, a tail outside 0 to 0.5 and a correlated prior; RuntimeError if
    all runs fail.
    """
    from SALib.sample.morris import sample

    require_independent(problem.space, "Morris")
    require_runs(runs)
    _check_level(level, resamples)
    found = factors(problem.space, groups)
    trajectories = int(runs) // (len(found.names) + 1)
    if trajectories < 2 or levels < 2 or levels % 2 or not 0 < tail < 0.5:
        raise ValueError(complain(f"at least {2 * (len(found.names) + 1)} runs, an even number of levels and a tail in 0 to 0.5",
                                  f"{runs} runs, {levels} levels, tail {tail}", f"runs={20 * (len(found.names) + 1)}, 20 trajectories"))
    seed = seed_of(key)
    U = sample(found.salib(tail, 1 - tail), trajectories, num_levels=levels, seed=seed)
    Z = ndtri(U)
    values, still, ds, failed, said = _ran(problem, Z, mean, found)
    # SALib divides by the step of the grid from 0 to 1, wherever the ends are.
    each = morris_statistics(U, values, found, levels / (2 * (levels - 1)), seed=seed, resamples=resamples, level=level)
    across = "for a move over the whole grid"
    for name, of, words in (
            ("mu_star", each.mu_star, f"mean absolute elementary effect {across}"), ("mu", each.mu, f"mean elementary effect {across}"),
            ("sigma", each.sigma, "standard deviation of the elementary effects"),
            ("mu_star_interval", each.mu_star_interval, f"half the {level:.0%} interval of mu_star")):
        ds[name] = ("parameter", "output"), np.where(still, np.nan, of), about(words, "of the output")
    ds["effects"] = ("parameter", "output"), each.effects, about("elementary effects that count")
    said = [f"{len(Z)} of {runs} runs: {trajectories} trajectories for {len(found.names)} factors.", *said, *largest(ds, "mu_star")]
    said += _too_few(each.effects, "elementary effects")
    return described(_kept(ds, Z, values, keep_runs), found, said, method="Morris", measure="mu_star", runs=len(Z), budget=int(runs),
                     failed_runs=failed, trajectories=trajectories, levels=levels, tail=tail, seed=seed, resamples=resamples, level=level)


def sobol(
    problem: Problem, *, runs: int, key: Array | int, second_order: bool = True, groups: Groups = None, mean: Mean = None,
    resamples: int = 100, level: float = 0.95, keep_runs: bool = False,
) -> xr.Dataset:
    """Sobol indices: which share of the variance of an output is due to each parameter alone, in pairs, and in all.

    `runs`: the budget. The rows of the design are the largest power of two of which it allows 2 n + 2 runs each, or n + 2 without
    `second_order`, for n factors (Sobol points are balanced in powers of two only). `groups`: name -> parameters that count as
    one. The others are those of `morris`.

    Variables by `parameter` and `output`: `first` and `total`, `second` by `parameter`, `parameter_2` and `output`; `_interval` of
    each is half its interval of `level`, by `resamples` resamples of the rows; `rows`, how many count; by `output`: `alone`, the sum of
    `first`, and its interval. `total` - `first` is what a parameter does together with others. Estimates may lie a little outside 0 to
    1. A row with a failed run does not count for the indices in which that run appears. NaN for an output that does not vary by more
    than rounding.

    Raises ValueError for fewer runs than two rows and a correlated prior; RuntimeError if all runs fail.
    """
    from SALib.sample.sobol import sample

    require_independent(problem.space, "Sobol indices")
    require_runs(runs)
    _check_level(level, resamples)
    found = factors(problem.space, groups)
    a_row = (2 if second_order else 1) * len(found.names) + 2
    if runs < 2 * a_row:
        raise ValueError(complain(f"at least {2 * a_row} runs, and better {256 * a_row}", f"{runs}", "morris first, or groups"))
    rows, seed = 2 ** int(np.log2(runs // a_row)), seed_of(key)
    Z = z_of(sample(found.salib(), rows, calc_second_order=second_order, scramble=True, seed=seed))
    values, still, ds, failed, said = _ran(problem, Z, mean, found)
    each = sobol_indices(values, len(found.names), second_order=second_order, seed=seed, resamples=resamples, level=level)
    for name, index, interval, words in (("first", each.first, each.first_interval, "by the parameter alone"),
                                         ("total", each.total, each.total_interval, "by the parameter, alone and with others"),
                                         ("second", each.second, each.second_interval, "by the pair, beyond what each does alone")):
        if index is not None:
            dims = ("parameter", "parameter_2", "output") if name == "second" else ("parameter", "output")
            ds[name] = dims, np.where(still, np.nan, index), about(f"share of the variance {words}")
            ds[f"{name}_interval"] = dims, np.where(still, np.nan, interval), about(f"half the {level:.0%} interval of `{name}`")
    for name, of, words in (("alone", each.alone, "share of the variance by each parameter alone, over all of them"),
                            ("alone_interval", each.alone_interval, f"half the {level:.0%} interval of `alone`")):
        ds[name] = "output", np.where(still, np.nan, of), about(words)
    ds["rows"] = ("parameter", "output"), each.rows, about("rows of the design that count")
    ds = ds.assign_coords(parameter_2=list(found.names)) if second_order else ds
    said = [f"{len(Z)} of {runs} runs: {rows} rows for {len(found.names)} factors.", *said, *largest(ds, "total"), *_together(ds)]
    said += _too_few(each.rows, "rows")
    return described(_kept(ds, Z, values, keep_runs), found, said, method="Sobol", measure="total", runs=len(Z), budget=int(runs),
                     failed_runs=failed, design_rows=rows, second_order=int(second_order), seed=seed, resamples=resamples, level=level)


# ------------------------------------------------------------------------------------------------------------- screening


def influence(ds: xr.Dataset, *, upper: bool = False) -> xr.DataArray:
    """How far each parameter moves each output, over the parameter that moves it most: 0 to 1, (parameter, output).

    Of the measure of the Dataset: mu* of Morris, the range of one at a time, and the square roots of the Sobol total index and of its
    bound, which are shares of variance. NaN for an output that does not vary. `upper`: at the upper end of the interval of each, still
    over the largest estimate, so that it may be above 1: what is not known well is not ruled out.
    Raises ValueError for a Dataset that is none of these.
    """
    measure = ds.attrs.get("measure")
    if measure not in MEASURES or measure not in ds:
        raise ValueError(complain("a result of morris, sobol, one_at_a_time or gradient_sensitivity", f"measure {measure!r}",
                                  "keep its attrs (xarray.set_options(keep_attrs=True))"))
    half = ds[f"{measure}_interval"].fillna(0.0) if upper and f"{measure}_interval" in ds else 0.0
    of, largest = ds[measure] + half, ds[measure].max("parameter")
    share = of.clip(min=0.0) / largest.where(largest > 0)
    return (np.sqrt(share) if MEASURES[measure] else share).rename("influence").assign_attrs(
        about("influence on the output over that of the parameter that moves it most"))


def ranked(ds: xr.Dataset) -> list[str]:
    """Parameters (or groups), the most influential first: by the largest `influence` on any output."""
    most = influence(ds).max("output")
    order = np.argsort(-most.fillna(-1.0).values, kind="stable")
    return [str(name) for name in ds["parameter"].values[order]]


def screened(space: ParameterSpace, ds: xr.Dataset, *, least: float = 0.05, number: int | None = None) -> ParameterSpace:
    """`space` with those parameters free alone that matter for at least one output of `ds`; the others are fixed at their defaults.

    A parameter matters whose `influence` may be `least` or more (at the upper end of its interval), or that is among the first `number`
    of `ranked`. Influence is in terms of spread: 0.05 is 1 in 400 of the variance. A group is kept as a whole. A parameter about which
    `ds` says nothing at all (NaN for every output) is kept too: that it matters was not ruled out. So are all parameters of an
    output for which bounds by derivatives are disproved (`jumps` of `gradient_sensitivity`).
    Take a part of `ds` to screen for some outputs: `ds.sel(output=["nee_rmsd", "latent_heat_rmsd"])`.
    Raises ValueError if nothing is left, for a number below one, for parameters that `space` does not have, and for a number where bounds
    are disproved: there is no order.
    """
    most = influence(ds, upper=True).max("output")
    disproved = ds["output"].values[ds["jumps"].values] if "jumps" in ds else ()
    if number is None:
        kept = [str(name) for name in ds["parameter"].values[(most.isnull() | (most >= least)).values | bool(len(disproved))]]
    elif isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1:
        raise ValueError(complain("a number of parameters to keep, one or more", f"{number!r}", "number=8"))
    elif len(disproved):
        raise ValueError(complain("outputs without jumps, to keep a number of parameters by their bounds",
                                  f"jumps in {', '.join(map(str, disproved[:TOLD]))}",
                                  "morris or sobol, or ds.sel(output=[...]) without them"))
    else:
        kept = list(dict.fromkeys([*ranked(ds)[:number], *(str(name) for name in ds["parameter"].values[most.isnull().values])]))
    if not kept:
        raise ValueError(complain("at least one parameter that matters", f"none with an influence of {least}", "a smaller least"))
    members = json.loads(ds.attrs["members"])
    return space.only(*(label for name in kept for label in members[name]))


def kept_runs(problem: Problem, ds: xr.Dataset) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """z (run, n) and {stream: (run, site, n_obs)} of a Dataset made with `keep_runs`: `emulate(problem, *kept_runs(problem, ds))`.

    NaN where a run failed, and at places that are no outputs. Raises ValueError for a Dataset without its runs, of means, or of
    another problem.
    """
    chosen, coordinates = outputs(problem.observations, None)
    if "value" not in ds or not np.array_equal(ds["output"].values, coordinates["output"].values) or ds["z"].shape[1] != problem.space.size:
        raise ValueError(complain("runs of every output of this problem", "others, means of them, or none",
                                  "morris(problem, ..., keep_runs=True) without mean="))
    values, found, start = ds["value"].values, {}, 0
    for name, places in zip(chosen.names, chosen.places, strict=True):
        shape = problem.observations[name].values.shape
        flat = np.full((len(values), int(np.prod(shape))), np.nan)
        flat[:, np.asarray(places)] = values[:, start:start + places.size]
        found[name], start = flat.reshape(len(values), *shape), start + places.size
    return ds["z"].values, found


# --------------------------------------------------------------------------------------------------------------- helpers


def _ran(problem: Problem, Z: np.ndarray, mean: Mean, found) -> tuple[np.ndarray, np.ndarray, xr.Dataset, int, list[str]]:
    """Outputs of all runs, which of them do not vary, a Dataset with nothing but coordinates, how many runs failed, and sentences."""
    chosen, ds = outputs(problem.observations, mean)
    values = run(problem, Z, chosen)
    failed, said = failures(problem, Z, values, ds["output"].values)
    still, constant = unvarying(values, ds["output"].values)
    return values, still, ds.assign_coords(parameter=list(found.names), element=list(problem.space.labels)), failed, [*said, *constant]


def _kept(ds: xr.Dataset, Z: np.ndarray, values: np.ndarray, keep_runs: bool) -> xr.Dataset:
    if keep_runs:
        ds["z"] = ("run", "element"), Z, about("control vector of the run")
        ds["value"] = ("run", "output"), values, about("output of the run, NaN where it failed", "of the output")
    return ds


def _check_level(level: float, resamples: int) -> None:
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(complain("a level between 0 and 1 and at least two resamples", f"{level}, {resamples}",
                                  "level=0.95, resamples=100"))


def _too_few(counted: np.ndarray, what: str) -> list[str]:
    """A sentence about what is NaN because fewer than two of what counts are left."""
    few = int((counted < 2).sum())
    return [f"{few} of {counted.size} results are not a number: fewer than two {what} are left."] if few else []


def _together(ds: xr.Dataset) -> list[str]:
    """How much of the variance no parameter explains alone, where there are few outputs; silent where that may be nothing."""
    said = []
    for output in ds["output"].values if ds.sizes["output"] <= TOLD else ():
        alone, half = (float(ds[name].sel(output=output)) for name in ("alone", "alone_interval"))
        if 1 - alone > half:
            said.append(f"{output}: parameters alone explain {alone:.0%} ± {half:.0%} of the variance, the rest is what they do together.")
    return said
