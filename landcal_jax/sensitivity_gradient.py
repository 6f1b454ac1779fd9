"""Sensitivity from exact derivatives: bounds on Sobol's total index, active subspaces, and local sensitivity resolved in time.

    ds = gradient_sensitivity(problem, runs=256, key=0)              # the whole prior; ranks and screens like morris and sobol
    ds = local_sensitivity(problem, posterior.draws)                 # where one chooses: one point, or draws with their spread

With h an output and u = Phi(z), uniform in (0, 1) under the prior, the derivative-based measure nu = E[(dh/du)^2] bounds the share of
variance that a parameter is part of, by the inequality of Poincare (Sobol and Kucherenko 2009; Roustant et al. 2014):

    S_total <= nu / (pi^2 Var h)            and with z, which is Gaussian,      S_total <= E[(dh/dz)^2] / Var h

Both hold; the smaller is taken where a prior has two bounds. Without them only the second serves: dh/du grows without limit in the tails.
A parameter with a bound of 0.01 is ruled out, which an estimate of a small S_total does not do.

The active subspace (Constantine, Dow and Wang 2014) is spanned by the leading eigenvectors of C = E[dh/dz dh/dz']: along the others h
hardly changes, over the whole prior. Points are those of a Sobol sequence in u.

References: Sobol and Kucherenko (2009), Mathematics and Computers in Simulation 79, 3009; Roustant, Fruth, Iooss and Kuhnt (2014),
ibid. 105, 105; Constantine, Dow and Wang (2014), SIAM Journal on Scientific Computing 36, A1500.
"""

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
    Factors,
    Groups,
    Mean,
    Outputs,
    about,
    described,
    factors,
    failures,
    largest,
    outputs,
    require_independent,
    seed_of,
    z_of,
)
from landcal_jax.solvers import Result

MOST_NUMBERS = 2**28  # derivatives that are held at once: 2 GiB
ADJOINT_IN_TANGENTS = 8  # what one adjoint costs, in tangents, where members run together
BATCH = 64  # members whose derivatives run together
SHARE = 0.9  # of the trace of C that the active directions hold
BAND = (0.05, 0.5, 0.95)


def gradient_sensitivity(
    problem: Problem, *, runs: int, key: Array | int, groups: Groups = None, mean: Mean = None, resamples: int = 100, level: float = 0.95,
) -> xr.Dataset:
    """Derivative-based global measures of every output, over the prior.

    `runs`: the largest power of two of them is made, each with its derivatives: one tangent a parameter, or one adjoint an
    output where that is less (`attrs["derivatives"]` says which). `groups`: name -> parameters that count as one: bounds add.
    `mean`, `resamples` and `level`: as in `sobol`.

    Variables by `parameter` and `output`: `total_bound`, with half its interval, the bound on the Sobol total index; `poincare_uniform`
    and `poincare_normal`, the two of which it is the smaller. By `element` and `output`: `derivative_measure`, nu [squared units of the
    output]; `sensitivity` with `sensitivity_lower` and `_upper`: median and 90 % band over the prior of dh/dz [units of the output, for one
    prior standard deviation]. By `mode`: `eigenvalue` with `eigenvalue_interval`, `eigenvector` (mode, element, output), and `active`
    (output,), the number of directions that hold 90 % of the trace of C.

    A point where run or derivatives fail is left out and counted. Raises TypeError for a model without derivatives, ValueError for a
    correlated prior, fewer than two runs, and more than 2^28 derivatives; RuntimeError if all runs fail.
    """
    require_independent(problem.space, "derivative-based measures")
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
    _add_bounds(ds, problem, found, Z, values, slopes, weights, level)
    _add_band(ds, slopes)
    _add_subspace(ds, slopes, weights, level)
    said = [f"{len(Z)} of {runs} runs, each with its exact derivatives ({how}).", *said, *largest(ds, "total_bound")]
    return described(ds, found, said, method="derivatives", measure="total_bound", runs=len(Z), budget=int(runs), failed_runs=failed,
                     derivatives=how, seed=seed, resamples=resamples, level=level)


def local_sensitivity(problem: Problem, at: Result | Array | None = None, *, mean: Mean = None) -> xr.Dataset:
    """How outputs respond to each parameter at a point, resolved in time: derivatives, exact, at the defaults or where `at` says.

    `at`: a Result, z (n,), or draws (draw, n) such as those of a posterior, whose spread is then shown. A prior may be correlated: a
    parameter moves and the others stay.

    Variables by `element` and `output`: `sensitivity`, with `sensitivity_lower` and `_upper` the median and 90 % band over the draws of
    the change of the output for one prior standard deviation of the whitened parameter [units of the output]; `derivative`, the median of
    that by physical theta [units of the output over those of the parameter].
    Raises TypeError for a model without derivatives, ValueError for a wrong shape; RuntimeError if all runs fail.
    """
    Z = problem.space.default_z if at is None else at.z if isinstance(at, Result) else at
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
    said = [f"Derivatives at {len(Z)} point{'s' * (len(Z) > 1)} ({how}).", *said]
    return described(ds, factors(problem.space, None), said, method="local", runs=len(Z), failed_runs=failed, derivatives=how)


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
    variance = _over(weights @ centred**2 - _over((weights @ centred) ** 2, number), number - 1)
    shape = (len(weights), len(found.labels), values.shape[1])
    uniform, normal, nu = np.empty(shape), np.empty(shape), np.empty(shape[1:])
    for element in range(shape[1]):
        square = np.where(known, slopes[:, :, element] ** 2, 0.0)
        by_u = _over(weights @ (square / density[:, element, None] ** 2), number)
        nu[element] = by_u[0]
        uniform[:, element] = _over(by_u / np.pi**2, variance)
        normal[:, element] = _over(_over(weights @ square, number), variance)
    smaller = np.where(bounded[:, None], np.fmin(uniform, normal), normal)
    half = norm.ppf(0.5 + level / 2)
    together = np.stack([found.summed(each) for each in smaller])
    by_factor = ("parameter", "output")
    ds["total_bound"] = by_factor, together[0], about("upper bound on the Sobol total index")
    ds["total_bound_interval"] = by_factor, half * together[1:].std(axis=0, ddof=1), about(f"half the {level:.0%} interval of total_bound")
    ds["poincare_uniform"] = by_factor, found.summed(np.where(bounded[:, None], uniform[0], np.nan)), about(
        "bound by derivatives in u, for priors with two bounds")
    ds["poincare_normal"] = by_factor, found.summed(normal[0]), about("bound by derivatives in z")
    ds["derivative_measure"] = ("element", "output"), nu, about("mean squared derivative by u", "of the output, squared")


def _add_band(ds: xr.Dataset, slopes: np.ndarray) -> None:
    """Median and band of the derivatives by z over the runs."""
    for name, of, words in zip(("sensitivity_lower", "sensitivity", "sensitivity_upper"), _quantiles(slopes, BAND), BAND, strict=True):
        ds[name] = ("element", "output"), of.T, about(
            f"change of the output for one prior standard deviation of the parameter, quantile {words:g}", "of the output")


def _quantiles(slopes: np.ndarray, levels: tuple[float, ...]) -> np.ndarray:
    """Quantiles over the runs that finished, (level, output, n); NaN where none did."""
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
        matrices = _over(drawn @ products, drawn.sum(axis=1, keepdims=True)).reshape(-1, n, n)
        of, basis = np.linalg.eigh(matrices)
        # C has no negative eigenvalues but those that rounding makes.
        values[:, :, output], vectors[:, :, output] = np.maximum(of[:, ::-1], 0.0), basis[0][:, ::-1].T
    ds.coords["mode"] = np.arange(1, n + 1)
    squared = "of the output, squared"
    ds["eigenvalue"] = ("mode", "output"), values[0], about("mean squared derivative of the output along the direction, in z", squared)
    ds["eigenvalue_interval"] = ("mode", "output"), norm.ppf(0.5 + level / 2) * values[1:].std(axis=0, ddof=1), about(
        f"half the {level:.0%} interval of the eigenvalue", squared)
    ds["eigenvector"] = ("mode", "element", "output"), vectors, about("active direction, in z")
    trace = values[0].sum(axis=0)
    share = _over(np.cumsum(values[0], axis=0), trace)
    ds["active"] = "output", np.where(np.isfinite(share[0]), (share < SHARE).sum(axis=0) + 1.0, np.nan), about(
        f"directions that hold {SHARE:.0%} of the mean squared derivative")


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, NaN where below is not above zero."""
    below = np.broadcast_to(below, above.shape)
    return np.divide(above, below, out=np.full(above.shape, np.nan), where=below > 0)
