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

from landcal_jax.errors import complain
from landcal_jax.problem import Problem, costs
from landcal_jax.solve import Result


class Posterior(eqx.Module):
    """Draws from a posterior, with labels and units.

    `z`: (draw, n) in whitened space. `centre` (n,): the MAP. `covariance`: (n, n) of z, exact for a Gaussian
    approximation and of the sample otherwise. `method`: how it was made, in words.
    """

    problem: Problem
    z: Array
    centre: Array
    covariance: Array
    method: str = eqx.field(static=True)

    def theta(self) -> dict[str, Array]:
        """Draws of the physical parameters: name -> (draw, *dims)."""
        return jax.vmap(self.problem.space.physical)(self.z)

    def matrix(self) -> np.ndarray:
        """Draws of the free physical parameters, (draw, n) in the order of `space.labels`."""
        return np.asarray(jax.vmap(lambda z: self.problem.space.flatten(self.problem.space.physical(z)))(self.z))

    def predictive(self, key: Array | int, *, quantiles=(0.05, 0.5, 0.95), draws: int | None = None) -> xr.Dataset:
        """Uncertainty propagated to every observed quantity.

        Returns for each stream `<stream>` (quantile, site, <stream>_obs), with parameter uncertainty only, and
        `<stream>_total`, with observation and model error added: what a new observation should fall into. `draws`
        bounds the number of model runs. Members that fail are left out and counted in the attribute `failed`.
        """
        key = jax.random.key(key) if isinstance(key, int) else key
        Z = self.z if draws is None else self.z[:draws]
        out = xr.Dataset(coords={"quantile": list(quantiles)})
        keys = jax.random.split(key, len(self.problem.observations))
        for (name, members), subkey in zip(self.problem.ensemble(Z).items(), keys, strict=True):
            stream = self.problem.observations[name]
            good = np.isfinite(members).all(axis=(1, 2))
            noise = np.asarray(jax.random.normal(subkey, members.shape)) * np.asarray(stream.standard_deviation)
            dims = ("quantile", "site", f"{name}_obs")
            attrs = {"units": stream.units, "failed": int((~good).sum())}
            out[name] = dims, np.quantile(members[good], quantiles, axis=0), attrs
            out[f"{name}_total"] = dims, np.quantile(members[good] + noise[good], quantiles, axis=0), attrs
        return out

    def excess_cost(self, draws: int = 200) -> float:
        """Median rise of J of the draws above the centre, over n/2, what it is for a Gaussian: near 1 is right.

        Far above 1 the draws lie where J is high: the posterior is not Gaussian in z, and the draws are too wide.
        """
        rise = costs(self.problem, np.asarray(self.z[:draws])) - float(self.problem.cost(jnp.asarray(self.centre)))
        return float(np.median(np.where(np.isfinite(rise), rise, np.inf)) / (0.5 * self.z.shape[1]))

    def to_xarray(self) -> xr.Dataset:
        """Draws as a Dataset: one variable a parameter, (draw, *dims), with units."""
        parameters = self.problem.space.parameters
        data = {
            name: (("draw", *parameters[name].dims), np.asarray(values),
                   {"units": parameters[name].units, "long_name": parameters[name].description or name})
            for name, values in self.theta().items()}
        return xr.Dataset(data, coords=self.problem.space.coords, attrs={"posterior_method": self.method})


def laplace(
    problem: Problem, result: Result | Array, *, curvature: str = "gauss-newton", widths: str = "curvature",
    draws: int = 1000, key: Array | int = 0,
) -> Posterior:
    """Gaussian approximation of the posterior at the MAP: N(z_map, A^-1), A the curvature of J in z.

    `curvature`: "gauss-newton", I + G'G, always positive definite (B' = (H'R^-1 H + B^-1)^-1 of the textbooks), or
    "hessian", the full second derivative, which also sees how G changes. `result`: a Result, or z itself (n,).

    `widths`: "curvature" draws from that Gaussian. "measured" draws from a split normal (Geweke 1989, Econometrica 57,
    1317): along each axis of A, to either side, the width is such that J rises by 1/2 one of them away, for 2n runs
    more. Where J is quadratic both are the same. Where it is not, as for models with thresholds and bounds, draws of the
    plain Gaussian can fit far worse than the posterior allows; `Posterior.excess_cost` measures it.

    Raises ValueError for another word, or where the full Hessian is not positive definite: there z is not a minimum.
    """
    z = result.z if isinstance(result, Result) else jnp.asarray(result)
    matrices = {"gauss-newton": _gauss_newton, "hessian": _hessian}
    if curvature not in matrices or widths not in ("curvature", "measured"):
        raise ValueError(complain(
            'curvature "gauss-newton" or "hessian", widths "curvature" or "measured"', f"{curvature!r}, {widths!r}", "one of these"))
    values, vectors = np.linalg.eigh(np.asarray(matrices[curvature](problem, z)))
    if not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError(complain(
            "a positive definite Hessian at the MAP", f"smallest eigenvalue {values[0]:.3g}",
            'solve on to a minimum (smaller tolerance, other starts), or curvature="gauss-newton"'))
    axes = (vectors / np.sqrt(values)).T
    scale = np.ones((2, z.size)) if widths == "curvature" else _measured_widths(problem, np.asarray(z), axes)
    key = jax.random.key(key) if isinstance(key, int) else key
    noise = np.asarray(jax.random.normal(key, (draws, z.size), dtype=z.dtype))
    spread = np.sqrt(0.5 * (scale**2).sum(axis=0))[:, None] * axes
    method = f"Laplace ({curvature}" + (")" if widths == "curvature" else ", widths measured on J)")
    return Posterior(
        problem, jnp.asarray(np.asarray(z) + np.where(noise > 0, scale[0] * noise, scale[1] * noise) @ axes), z,
        jnp.asarray(spread.T @ spread), method)


def _measured_widths(problem: Problem, z: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Factor on each axis (row) to either side, (2, n): one over the square root of twice the rise of J at its end."""
    ends = np.concatenate([z + axes, z - axes])
    rise = costs(problem, ends) - costs(problem, z[None])
    # A failed run is as far as one can be from the posterior; a flat or falling J is bounded by three widths.
    rise = np.where(np.isfinite(rise), rise, np.inf)
    return np.clip(1 / np.sqrt(2 * np.maximum(rise, 1e-3)), 1e-3, 3.0).reshape(2, -1)


@eqx.filter_jit
def _gauss_newton(problem: Problem, z: Array) -> Array:
    jacobian = problem.jacobian(z)[1]
    return jacobian.T @ jacobian


@eqx.filter_jit
def _hessian(problem: Problem, z: Array) -> Array:
    return jax.hessian(problem.cost)(z)
