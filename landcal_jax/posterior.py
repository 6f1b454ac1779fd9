"""Posterior uncertainty: one type, whatever made it.

`laplace` takes the curvature of J at the MAP in whitened space and draws from that Gaussian; its draws, mapped to
physical parameters, cannot leave the bounds of the priors.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from scipy.special import ndtri

from landcal_jax.errors import complain
from landcal_jax.members import draw_members
from landcal_jax.observations import Stream
from landcal_jax.problem import Problem, costs
from landcal_jax.solvers import Result


class Posterior(eqx.Module):
    """Draws from a posterior, with labels and units.

    `z`: (draw, n) in whitened space. `centre` (n,): the MAP. `covariance`: (n, n) of z. `gaussian`: whether centre
    and covariance are the posterior, of which the draws are a sample. `method`: how it was made, in words. `chains`: the number of
    Markov chains among the draws, which are ordered chain by chain; 1 for draws that are independent. `details`: what the method tells of
    itself, by name: arrays with one value a draw (`log_density`, `diverging`, ...), model runs (`forward`, `gradient`), seconds.
    """

    problem: Problem
    z: Array
    centre: Array
    covariance: Array
    method: str = eqx.field(static=True)
    gaussian: bool = eqx.field(static=True, default=False)
    chains: int = eqx.field(static=True, default=1)
    details: dict = eqx.field(default_factory=dict)

    def theta(self) -> dict[str, Array]:
        """Draws of the physical parameters: name -> (draw, *dims)."""
        return jax.vmap(self.problem.space.physical)(self.z)

    def matrix(self) -> np.ndarray:
        """Draws of the free physical parameters, (draw, n) in the order of `space.labels`."""
        return np.asarray(jax.vmap(lambda z: self.problem.space.flatten(self.problem.space.physical(z)))(self.z))

    def predictive(self, key: Array | int = 0, *, quantiles=(0.05, 0.5, 0.95), draws: int | None = None) -> xr.Dataset:
        """Uncertainty propagated to every observed quantity.

        Returns for each stream `<stream>` (quantile, site, <stream>_obs), with parameter uncertainty only, and
        `<stream>_total`, with observation and model error added: what a new observation should fall into.

        A Gaussian approximation is propagated through the tangent-linear model at its centre, H B' H' of the
        textbooks, for one tangent a parameter. Running its draws through the model instead would be wrong where the
        model is not linear: they lie where J is far too high (see `excess_cost`; Immer et al. 2021, AISTATS 130, 703).
        A model without tangent-linear is run at its centre and one standard deviation to either side along each principal axis
        of the covariance, 2 n + 1 runs: the slopes between them take the place of tangents.
        Draws of any other posterior, or of this one if a number of `draws` is given, are run; `key` draws their
        observation errors. Members that fail are left out and counted in the attribute `failed`; where both sides of an axis
        fail, the band is too narrow by what is along it.
        """
        if self.gaussian and draws is None:
            propagated = self._by_tangents() if self.problem.has_tangent else self._by_runs()
            bands = self._linear_bands(np.asarray(quantiles), *propagated)
        else:
            bands = self._sampled_bands(jax.random.key(key) if isinstance(key, int) else key, quantiles, draws)
        out = xr.Dataset(coords={"quantile": list(quantiles)})
        for name, (parameters, total, failed) in bands.items():
            dims = ("quantile", "site", f"{name}_obs")
            attrs = {"units": self.problem.observations[name].units, "failed": failed}
            out[name], out[f"{name}_total"] = (dims, parameters, attrs), (dims, total, attrs)
        return out

    def _linear_bands(self, quantiles, centre, variance, failed):
        steps = ndtri(quantiles)[:, None, None]
        bands = {}
        for name, stream in self.problem.observations.items():
            mean, spread = np.asarray(centre[name]), np.asarray(variance[name])
            total = np.sqrt(spread + np.asarray(stream.standard_deviation) ** 2)
            bands[name] = mean + steps * np.sqrt(spread), mean + steps * total, failed.get(name, 0)
        return bands

    def _by_tangents(self):
        """Predictions at the centre by stream, their variance, and no runs that failed."""
        return *_propagate(self.problem, self.centre, jnp.asarray(_root(self.covariance)).T), {}

    def _by_runs(self):
        """The same from runs on either side of the centre."""
        axes = _root(self.covariance).T
        axes = axes[np.any(axes != 0, axis=1)]
        members = np.asarray(self.centre) + np.concatenate([np.zeros((1, self.centre.size)), axes, -axes])
        centre, variance, failed = {}, {}, {}
        for name, values in self.problem.ensemble(jnp.asarray(members)).items():
            good = _finished(self.problem.observations[name], values)
            if not good[0]:
                raise ValueError(complain(f"a run at the centre of the posterior that gives finite {name}", "one that fails",
                                          "predictive(draws=200), by runs elsewhere"))
            # One side stands for both where the other one failed.
            above, below = np.split(np.where(good[1:, None, None], values[1:] - values[0], np.nan), 2)
            above, below = np.where(np.isnan(above), -below, above), np.where(np.isnan(below), -above, below)
            lost = ~good[1 : len(axes) + 1] & ~good[len(axes) + 1 :]
            centre[name], variance[name] = values[0], np.sum((0.5 * (above - below)[~lost]) ** 2, axis=0)
            failed[name] = int((~good).sum())
        return centre, variance, failed

    def _sampled_bands(self, key, quantiles, draws):
        bands = {}
        keys = jax.random.split(key, len(self.problem.observations))
        for (name, members), subkey in zip(self.problem.ensemble(self.z[:draws]).items(), keys, strict=True):
            stream = self.problem.observations[name]
            good = _finished(stream, members)
            if not good.any():
                raise ValueError(complain(
                    f"a draw whose run gives finite {name}", f"{len(good)} runs that all fail", "landcal_jax.testing.check(problem)"))
            noise = np.asarray(jax.random.normal(subkey, members.shape)) * np.asarray(stream.standard_deviation)
            both = (np.quantile(values[good], quantiles, axis=0) for values in (members, members + noise))
            bands[name] = *both, int((~good).sum())
        return bands

    def excess_cost(self, draws: int | None = None) -> float:
        """Median rise of J from the centre to the draws, over n/2, what it is for a Gaussian: near 1 is right.

        `draws`: how many are run, 200 without it; 50 of an external model, whose runs may take minutes.
        Far above 1 the posterior is not Gaussian in z. Intervals of single parameters may still hold, but a draw is then no
        credible set of parameters: run a sampler on `problem.log_density` where you need such sets.
        """
        draws = (200 if self.problem.forward.traceable else 50) if draws is None else draws
        rise = costs(self.problem, np.asarray(self.z[:draws])) - float(self.problem.cost(self.centre))
        return float(np.median(np.where(np.isfinite(rise), rise, np.inf)) / (0.5 * self.z.shape[1]))

    def to_xarray(self) -> xr.Dataset:
        """Draws as a Dataset: one variable a parameter, (draw, *dims), with units."""
        parameters = self.problem.space.parameters
        data = {
            name: (("draw", *parameters[name].dims), np.asarray(values),
                   {"units": parameters[name].units, "long_name": parameters[name].description or name})
            for name, values in self.theta().items()}
        coords = {dim: list(labels) for dim, labels in self.problem.space.coords.items()}
        return xr.Dataset(data, coords=coords, attrs={"posterior_method": self.method})


def laplace(
    problem: Problem, result: Result | Array, *, curvature: str = "gauss-newton", draws: int = 1000, key: Array | int = 0
) -> Posterior:
    """Gaussian approximation of the posterior at the MAP: N(z_map, A^-1), A the curvature of J in z.

    `curvature`: "gauss-newton", I + G'G, always positive definite (B' = (H'R^-1 H + B^-1)^-1 of the textbooks), or
    "hessian", the full second derivative, which also sees how G changes. `result`: a Result, or z itself (n,).

    Raises ValueError for another curvature, or where the full Hessian is not positive definite: there z is not a minimum;
    TypeError for a model without tangent-linear.
    """
    if not problem.has_tangent:
        raise TypeError(complain("a model with a tangent-linear for laplace", problem.forward.description,
                                 "from_ensemble(problem, solve(problem, IterativeFourDEnVar(), z0=result, key=0)), by runs alone"))
    z = result.z if isinstance(result, Result) else jnp.asarray(result)
    matrices = {"gauss-newton": _gauss_newton, "hessian": _hessian}
    if curvature not in matrices:
        raise ValueError(complain('curvature "gauss-newton" or "hessian"', repr(curvature), "one of the two"))
    values, vectors = np.linalg.eigh(np.asarray(matrices[curvature](problem, z)))
    if not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError(complain(
            "a positive definite Hessian at the MAP", f"smallest eigenvalue {values[0]:.3g}",
            'solve on to a minimum (smaller tolerance, other starts), or curvature="gauss-newton"'))
    root = vectors / np.sqrt(values)
    key = jax.random.key(key) if isinstance(key, int) else key
    noise = jax.random.normal(key, (draws, z.size), dtype=z.dtype)
    return Posterior(problem, z + noise @ root.T, z, jnp.asarray(root @ root.T), f"Laplace ({curvature})", gaussian=True)


def from_ensemble(problem: Problem, result: Result, *, draws: int = 1000, key: Array | int = 0) -> Posterior:
    """The posterior that an ensemble solver ended with: 4DEnVar, ES-MDA, EKI or ETKI at t = 1, unscented.

    Where the method ends with an ensemble, its members are the draws; the centre is the analysis, the covariance that of the method
    or of the members. Where it ends with a Gaussian (iterated 4DEnVar, the unscented inversion), that is drawn from: `draws` of
    second order exactly, with `key`; methods that have members have no use for either.
    Raises ValueError where the theory of the method gives no posterior ensemble, or fewer than two members have a z.
    """
    details = result.details
    if "posterior_z" not in details:
        method = str(details.get("method", "a solver of another kind"))
        why = f" ({details['no_posterior']})" if "no_posterior" in details else ""
        raise ValueError(complain(
            "a solver that ends with a posterior ensemble", f"{method}{why}, {result.status.sentence}",
            'FourDEnVar(), IterativeFourDEnVar(), ESMDA(), ETKI() or EKI() with to="posterior"; laplace() at the minimum of any solver'))
    if details.get("posterior_gaussian", False):
        covariance = np.asarray(details["posterior_covariance"])
        noise = draw_members(problem, jax.random.key(key) if isinstance(key, int) else key, draws)
        z = result.z + noise @ jnp.asarray(_root(covariance)).T
        return Posterior(problem, z, result.z, jnp.asarray(covariance), f"Gaussian ({details['method']})", gaussian=True)
    members, outside = np.asarray(details["posterior_z"]), int(details.get("posterior_outside", 0))
    if len(members) < 2:
        raise ValueError(complain("two or more posterior members inside the bounds", f"{len(members)}, {outside} outside",
                                  'FourDEnVar(space="z"), which cannot leave them'))
    covariance = (members - result.z).T @ (members - result.z) / (len(members) - 1)
    if "posterior_covariance" in details and str(details.get("posterior_space", "z")) == "z":
        covariance = details["posterior_covariance"]
    left_out = f", {outside} of {len(members) + outside} members outside the bounds left out" if outside else ""
    return Posterior(problem, jnp.asarray(members), result.z, jnp.asarray(covariance), f"ensemble ({details['method']}{left_out})")


def _root(covariance: Array) -> np.ndarray:
    """root root' = covariance (n, n), by principal axes; an ensemble that does not span the space leaves it singular."""
    values, vectors = np.linalg.eigh(np.asarray(covariance))
    # What rounding leaves of directions without variance may be negative.
    return vectors * np.sqrt(np.where(values > len(values) * np.finfo(float).eps * values[-1], values, 0.0))


def _finished(stream: Stream, members: np.ndarray) -> np.ndarray:
    """Which members (member, site, n_obs) of a stream ran to their end."""
    finite = np.isfinite(members)
    # A place that no member fills and nobody observed, such as a window without steps, is no failure.
    return (finite | ~(finite.any(axis=0) | np.asarray(stream.mask))).all(axis=(1, 2))


@eqx.filter_jit
def _propagate(problem: Problem, z: Array, directions: Array):
    """Predictions at z by stream, and the sum of squares of their derivatives along each row of `directions`."""
    def along(direction):
        return jax.jvp(problem.predict, (z,), (direction,))[1]

    # A batch at a time, and only the sum is kept: hundreds of parameters times a long record need not fit in memory.
    squares = jax.lax.map(lambda row: jax.tree.map(jnp.square, along(row)), directions, batch_size=min(64, len(directions)))
    return problem.predict(z), jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), squares)


@eqx.filter_jit
def _gauss_newton(problem: Problem, z: Array) -> Array:
    jacobian = problem.jacobian(z)[1]
    return jacobian.T @ jacobian


@eqx.filter_jit
def _hessian(problem: Problem, z: Array) -> Array:
    return jax.hessian(problem.cost)(z)
