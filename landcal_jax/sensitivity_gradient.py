"""Sensitivity from exact derivatives: bounds on Sobol's total index, active subspaces, and local sensitivity resolved in time.

    ds = gradient_sensitivity(problem, runs=256, key=0)              # the whole prior; ranks and screens like morris and sobol
    ds = local_sensitivity(problem, posterior)                       # where one chooses: one point, or draws with their spread

With h an output and u = Phi(z), uniform in (0, 1) under the prior, the derivative-based measure nu = E[(dh/du)^2] bounds the share of
variance that a parameter is part of, by the inequality of Poincare (Sobol and Kucherenko 2009; Roustant et al. 2014):

    S_total <= nu / (pi^2 Var h)            and with z, which is Gaussian,      S_total <= E[(dh/dz)^2] / Var h

The smaller is taken where a prior has two bounds. Without them only the second serves: dh/du grows without limit in the tails.
Both hold for outputs that are continuous in the parameters: there a bound of 0.01 rules a parameter out, which an estimate of a small
S_total does not do. An output with jumps, such as the day of the peak where another peak becomes the highest, has derivatives that
know nothing of them, and no bound. Total indices add up to one or more, so that bounds that add up to less are disproved: they are
NaN then, and said. Others are not proved by that: where an output may jump, take `morris` or `sobol`.

The active subspace (Constantine, Dow and Wang 2014) is spanned by the leading eigenvectors of C = E[dh/dz dh/dz']: along the others h
hardly changes, over the whole prior. Points are those of a Sobol sequence in u.

References: Sobol and Kucherenko (2009), Mathematics and Computers in Simulation 79, 3009; Roustant, Fruth, Iooss and Kuhnt (2014),
ibid. 105, 105; Constantine, Dow and Wang (2014), SIAM Journal on Scientific Computing 36, A1500.
"""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.stats import norm, qmc

from landcal_jax.errors import complain
from landcal_jax.problem import Problem
from landcal_jax.sensitivity_runs import (
    TOLD,
    Factors,
    Groups,
    Mean,
    Outputs,
    about,
    described,
    factors,
    failures,
    largest,
    listed,
    outputs,
    ratio,
    require_independent,
    require_runs,
    seed_of,
    unvarying,
    z_of,
)
from landcal_jax.solvers import Result

MOST_NUMBERS = 2**28  # derivatives that are held at once: 2 GiB
ADJOINT_IN_TANGENTS = 8  # what one adjoint costs, in tangents, where members run together
BATCH = 64  # members whose derivatives run together
SHARE = 0.9  # of the trace of C that the active directions hold
MARGIN = 1e-6  # by which bounds have to add up to less than one
BAND = (0.05, 0.5, 0.95)


def gradient_sensitivity(
    problem: Problem, *, runs: int, key: Array | int, groups: Groups = None, mean: Mean = None, resamples: int = 100, level: float = 0.95,
    subspace: bool | None = None,
) -> xr.Dataset:
    """Derivative-based global measures of every output, over the prior.

    `runs`: the largest power of two of them is made, each with its derivatives: one tangent a parameter, or one adjoint an
    output where that is less (`attrs["derivatives"]` says which). `groups`: name -> parameters that count as one: bounds add.
    `mean`, `resamples` and `level`: as in `sobol`.

    `subspace`: whether active subspaces are computed; without it, for twelve outputs at most.

    Variables by `parameter` and `output`: `total_bound`, with half its interval, the bound on the Sobol total index of an output without
    jumps; `poincare_uniform` and `poincare_normal`, the two of which it is the smaller. By `output`: `jumps`, whether the upper ends of the
    intervals of the bounds add up to less than one, which disproves them, and all three are NaN. By `element` and `output`:
    `derivative_measure`, nu [squared units of the output]; `sensitivity` with `sensitivity_lower` and `_upper`: median and 90 % band
    over the prior of dh/dz [units of the output, for one prior standard deviation]. By `mode`: `eigenvalue` with `eigenvalue_interval`,
    `eigenvector` (mode, element, output), and `active` (output,), the number of directions that hold 90 % of the trace of C.

    A point where run or derivatives fail is left out and counted. Raises TypeError for a model without derivatives, ValueError for a
    correlated prior, fewer than two runs, and more than 2^28 derivatives; RuntimeError if all runs fail.
    """
    require_independent(problem.space, "derivative-based measures")
    require_runs(runs)
    if runs < 2 or not 0 < level < 1 or resamples < 2:
        raise ValueError(complain("at least two runs and two resamples, and a level between 0 and 1", f"{runs}, {resamples}, {level}",
                                  "runs=256"))
    found, seed = factors(problem.space, groups), seed_of(key)
    number = int(np.log2(runs))
    Z = z_of(qmc.Sobol(problem.space.size, rng=np.random.default_rng(seed)).random_base2(number))
    values, slopes, ds, how = _derived(problem, Z, mean)
    ds = ds.assign_coords(parameter=list(found.names))
    failed, said = failures(problem, Z, _joined(values, slopes), ds["output"].values)
    rng = np.random.default_rng(seed)
    weights = np.vstack([np.ones(len(Z)), [np.bincount(rng.integers(len(Z), size=len(Z)), minlength=len(Z)) for _ in range(resamples)]])
    still, constant = unvarying(values, ds["output"].values)
    _add_bounds(ds, problem, found, Z, np.where(still, np.nan, values), slopes, weights, level)
    _add_band(ds, slopes)
    if subspace or (subspace is None and ds.sizes["output"] <= TOLD):
        _add_subspace(ds, np.where(still[:, None], np.nan, slopes), weights, level)
    said = [f"{len(Z)} of {runs} runs, each with its exact derivatives ({how}): the cost of about {_equivalents(len(Z), how)} runs.",
            *said, *constant, *_jumping(ds), *largest(ds, "total_bound")]
    return described(ds, found, said, method="derivatives", measure="total_bound", runs=len(Z), budget=int(runs), failed_runs=failed,
                     derivatives=how, run_equivalents=_equivalents(len(Z), how), seed=seed, resamples=resamples, level=level)


def _jumping(ds: xr.Dataset) -> list[str]:
    """A sentence about outputs whose bounds are disproved."""
    jumps = ds["jumps"].values
    return [f"Total indices add up to one or more, and these bounds do not: {listed(ds['output'].values, jumps)} has jumps, of which "
            "derivatives know nothing; take morris or sobol."] if jumps.any() else []


def _equivalents(runs: int, how: str) -> int:
    """Model runs that cost as much as so many runs with their derivatives."""
    number = int(how.split()[0])
    return runs * (1 + number * (ADJOINT_IN_TANGENTS if "adjoint" in how else 1))


def local_sensitivity(problem: Problem, at: Result | Array | None = None, *, mean: Mean = None) -> xr.Dataset:
    """How outputs respond to each parameter at a point, resolved in time: derivatives, exact, at the defaults or where `at` says.

    `at`: a Result, z (n,), a Posterior or draws (draw, n), whose spread is then shown. A prior may be correlated: a
    parameter moves and the others stay.

    Variables by `element` and `output`: `sensitivity`, with `sensitivity_lower` and `_upper` the median and 90 % band over the draws of
    the change of the output for one prior standard deviation of the whitened parameter [units of the output]; `derivative`, the median of
    that by physical theta [units of the output over those of the parameter].
    Raises TypeError for a model without derivatives, ValueError for a wrong shape; RuntimeError if all runs fail.
    """
    Z = problem.space.default_z if at is None else getattr(at, "z", at)
    if isinstance(Z, Mapping):
        raise TypeError(complain("a Result, a Posterior, or z", "values by name", "problem.space.whiten(theta)"))
    Z = np.atleast_2d(np.asarray(Z, float))
    if Z.ndim != 2 or Z.shape[1] != problem.space.size or not len(Z):
        raise ValueError(complain(f"z ({problem.space.size},) or draws (draw, {problem.space.size})", f"shape {Z.shape}", "result.z"))
    values, slopes, ds, how = _derived(problem, Z, mean)
    failed, said = failures(problem, Z, _joined(values, slopes), ds["output"].values)
    if problem.space.factor is not None:
        # dh/du of the whitened marginals u = L z: that of z times L^-1.
        slopes = slopes @ np.linalg.inv(np.asarray(problem.space.factor))
    _add_band(ds, slopes)
    ds["derivative"] = ("element", "output"), _quantiles(slopes / _stretch(problem, Z)[:, None], (0.5,))[0].T, about(
        "derivative of the output by the parameter, median", "of the output / of the parameter")
    flat = np.isfinite(slopes).any(axis=(0, 2)) & (np.nan_to_num(slopes) == 0).all(axis=(0, 2))
    if flat.any():
        said = [*said, f"All derivatives are zero, so that nothing is sensitive there: {listed(ds['output'].values, flat)}."]
    said = [f"Derivatives at {len(Z)} point{'s' * (len(Z) > 1)} ({how}).", *said]
    return described(ds, factors(problem.space, None), said, method="local", runs=len(Z), failed_runs=failed, derivatives=how,
                     run_equivalents=_equivalents(len(Z), how))


# ---------------------------------------------------------------------------------------------------------------- derivatives


def _derived(problem: Problem, Z: np.ndarray, mean: Mean) -> tuple[np.ndarray, np.ndarray, xr.Dataset, str]:
    """Outputs (run, output) and their derivatives by z (run, output, n), NaN where not finite; coordinates; and how they were made."""
    problem.require_gradient("sensitivity from derivatives")
    chosen, ds = outputs(problem.observations, mean)
    number, n = ds.sizes["output"], problem.space.size
    if len(Z) * number * n > MOST_NUMBERS:
        raise ValueError(complain(f"at most {MOST_NUMBERS} derivatives", f"{len(Z)} runs, {number} outputs, {n} parameters",
                                  'mean="month", or fewer runs'))
    forward = problem.has_tangent and not (problem.forward.has_adjoint and ADJOINT_IN_TANGENTS * number < n)
    parts = []
    for start in range(0, len(Z), BATCH):
        # The last batch is filled with copies, so that one compiled function serves all.
        batch = np.resize(Z[start:start + BATCH], (min(BATCH, len(Z)), n))
        part = _values_and_slopes(problem, chosen, jnp.asarray(batch), forward)
        parts.append([np.asarray(each)[: len(Z) - start] for each in part])
    values, slopes = (np.concatenate(each) for each in zip(*parts, strict=True))
    how = f"{n} tangents" if forward else f"{number} adjoint{'s' * (number > 1)}"
    ds = ds.assign_coords(element=list(problem.space.labels))
    return np.where(np.isfinite(values), values, np.nan), np.where(np.isfinite(slopes), slopes, np.nan), ds, how


@eqx.filter_jit
def _values_and_slopes(problem: Problem, chosen: Outputs, Z: Array, forward: bool) -> tuple[Array, Array]:
    def of(z):
        return chosen(problem.predict(z))

    def by_tangents(z):
        return jax.vmap(lambda v: jax.jvp(of, (z,), (v,)), out_axes=(None, 1))(jnp.eye(z.size, dtype=z.dtype))

    def by_adjoints(z):
        value, back = jax.vjp(of, z)
        return value, jax.vmap(lambda w: back(w)[0])(jnp.eye(value.size, dtype=value.dtype))

    return jax.vmap(by_tangents if forward else by_adjoints)(Z)


def _stretch(problem: Problem, Z: np.ndarray) -> np.ndarray:
    """d theta / d u of each element of its own whitened marginal u, (run, n)."""
    space = problem.space
    factor = jnp.eye(space.size) if space.factor is None else space.factor
    inverse = jnp.linalg.inv(factor)

    def along(z):
        # Each element depends on its own u alone, so that the Jacobian by u is diagonal.
        by_z = jax.jacfwd(lambda z: space.flatten(space.physical(z)))(z)
        return jnp.diagonal(by_z @ inverse)

    return np.asarray(jax.jit(jax.vmap(along))(jnp.asarray(Z)))


def _joined(values: np.ndarray, slopes: np.ndarray) -> np.ndarray:
    """Outputs (run, output), NaN too where any of their derivatives is not finite."""
    return np.where(np.isfinite(slopes).all(axis=2), values, np.nan)


# ----------------------------------------------------------------------------------------------------------------- measures


def _add_bounds(
    ds: xr.Dataset, problem: Problem, found: Factors, Z: np.ndarray, values: np.ndarray, slopes: np.ndarray, weights: np.ndarray,
    level: float,
) -> None:
    """Both bounds from the runs, each resample a row of `weights` (1 + resample, run) of which the first is ones."""
    low, high = (np.asarray(bound) for bound in problem.space.bounds())
    bounded = np.isfinite(low) & np.isfinite(high)
    density = np.exp(-0.5 * Z**2) / np.sqrt(2 * np.pi)
    known = np.isfinite(_joined(values, slopes))
    number = weights @ known
    number = np.where(number[0] > 1, number, np.nan)
    centred = np.where(known, values - np.nanmean(np.where(known.any(axis=0), values, 0.0), axis=0), 0.0)
    # Unbiased, so that the bound is not low where runs are few.
    variance = ratio(weights @ centred**2 - ratio((weights @ centred) ** 2, number), number - 1)
    shape = (len(weights), len(found.labels), values.shape[1])
    uniform, normal, nu = np.empty(shape), np.empty(shape), np.empty(shape[1:])
    for element in range(shape[1]):
        square = np.where(known, slopes[:, :, element] ** 2, 0.0)
        by_u = ratio(weights @ (square / density[:, element, None] ** 2), number)
        nu[element] = by_u[0]
        uniform[:, element] = ratio(by_u / np.pi**2, variance)
        normal[:, element] = ratio(ratio(weights @ square, number), variance)
    smaller = np.where(bounded[:, None], np.fmin(uniform, normal), normal)
    half = norm.ppf(0.5 + level / 2)
    together = np.stack([found.summed(each) for each in smaller])
    bound, interval = together[0], half * together[1:].std(axis=0, ddof=1)
    # Total indices add up to one or more.
    jumps = (bound + interval).sum(axis=0) < 1 - MARGIN
    for name, of, words in (
            ("total_bound", bound, "upper bound on the Sobol total index of an output without jumps"),
            ("total_bound_interval", interval, f"half the {level:.0%} interval of total_bound"),
            ("poincare_uniform", found.summed(np.where(bounded[:, None], uniform[0], np.nan)),
             "bound by derivatives in u, for priors with two bounds"),
            ("poincare_normal", found.summed(normal[0]), "bound by derivatives in z")):
        ds[name] = ("parameter", "output"), np.where(jumps, np.nan, of), about(words)
    ds["jumps"] = "output", jumps, about("whether bounds add up to less than one, which disproves them")
    ds["derivative_measure"] = ("element", "output"), nu, about("mean squared derivative by u", "of the output, squared")


def _add_band(ds: xr.Dataset, slopes: np.ndarray) -> None:
    """Median and band of the derivatives by z over the runs."""
    for name, of, words in zip(("sensitivity_lower", "sensitivity", "sensitivity_upper"), _quantiles(slopes, BAND), BAND, strict=True):
        ds[name] = ("element", "output"), of.T, about(
            f"change of the output for one prior standard deviation of the parameter, quantile {words:g}", "of the output")


def _quantiles(slopes: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the runs that finished, (level, output, n); NaN where none did."""
    if np.isfinite(slopes).all():
        return np.quantile(slopes, levels, axis=0)  # many times faster than the one that looks for NaN
    known = np.isfinite(slopes).any(axis=0)
    return np.where(known, np.nanquantile(np.where(known, slopes, 0.0), levels, axis=0), np.nan)


def _add_subspace(ds: xr.Dataset, slopes: np.ndarray, weights: np.ndarray, level: float) -> None:
    """Eigenvalues and -vectors of C = E[dh/dz dh/dz'] by output, and intervals of the eigenvalues by resampling."""
    runs, number, n = slopes.shape
    values, vectors = np.full((len(weights), n, number), np.nan), np.full((n, n, number), np.nan)
    for output in range(number):
        good = np.isfinite(slopes[:, output]).all(axis=1)
        if good.sum() < 2:
            continue
        rows, drawn = slopes[good, output], weights[:, good]
        products = (rows[:, :, None] * rows[:, None, :]).reshape(len(rows), -1)
        matrices = ratio(drawn @ products, drawn.sum(axis=1, keepdims=True)).reshape(-1, n, n)
        first, basis = np.linalg.eigh(matrices[0])
        of = np.vstack([first, np.linalg.eigvalsh(matrices[1:])])
        # C has no negative eigenvalues but those that rounding makes.
        values[:, :, output], vectors[:, :, output] = np.maximum(of[:, ::-1], 0.0), basis[:, ::-1].T
    ds.coords["mode"] = np.arange(1, n + 1)
    squared = "of the output, squared"
    ds["eigenvalue"] = ("mode", "output"), values[0], about("mean squared derivative of the output along the direction, in z", squared)
    ds["eigenvalue_interval"] = ("mode", "output"), norm.ppf(0.5 + level / 2) * values[1:].std(axis=0, ddof=1), about(
        f"half the {level:.0%} interval of the eigenvalue", squared)
    ds["eigenvector"] = ("mode", "element", "output"), vectors, about("active direction, in z")
    trace = values[0].sum(axis=0)
    share = ratio(np.cumsum(values[0], axis=0), trace)
    ds["active"] = "output", np.where(np.isfinite(share[0]), (share < SHARE).sum(axis=0) + 1.0, np.nan), about(
        f"directions that hold {SHARE:.0%} of the mean squared derivative")
