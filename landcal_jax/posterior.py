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
from landcal_jax.problem import Problem
from landcal_jax.solve import Result


class Posterior(eqx.Module):
    """Draws from a posterior, with labels and units.

    `z`: (draw, n) in whitened space. `covariance`: (n, n) of z, exact for a Gaussian approximation and of the sample
    otherwise. `method`: how it was made, in words.
    """

    problem: Problem
    z: Array
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
        for (name, members), subkey in zip(self.problem.ensemble(Z).items(), jax.random.split(key, len(self.problem.observations)), strict=True):
            stream = self.problem.observations[name]
            good = np.isfinite(members).all(axis=(1, 2))
            noise = np.asarray(jax.random.normal(subkey, members.shape)) * np.asarray(stream.standard_deviation)
            dims = ("quantile", "site", f"{name}_obs")
            attrs = {"units": stream.units, "failed": int((~good).sum())}
            out[name] = dims, np.quantile(members[good], quantiles, axis=0), attrs
            out[f"{name}_total"] = dims, np.quantile(members[good] + noise[good], quantiles, axis=0), attrs
        return out

    def to_xarray(self) -> xr.Dataset:
        """Draws as a Dataset: one variable a parameter, (draw, *dims), with units."""
        parameters = self.problem.space.parameters
        data = {
            name: (("draw", *parameters[name].dims), np.asarray(values),
                   {"units": parameters[name].units, "long_name": parameters[name].description or name})
            for name, values in self.theta().items()}
        return xr.Dataset(data, coords=self.problem.space.coords, attrs={"posterior_method": self.method})


def laplace(
    problem: Problem, result: Result | Array, *, curvature: str = "gauss-newton", draws: int = 1000, key: Array | int = 0
) -> Posterior:
    """Gaussian approximation of the posterior at the MAP: N(z_map, A^-1), A the curvature of J in z.

    `curvature`: "gauss-newton", I + G'G, always positive definite (B' = (H'R^-1 H + B^-1)^-1 of the textbooks), or
    "hessian", the full second derivative, which also sees how G changes. `result`: a Result, or z itself (n,).

    Raises ValueError for another curvature, or where the full Hessian is not positive definite: there z is not a minimum.
    """
    z = result.z if isinstance(result, Result) else jnp.asarray(result)
    if curvature == "gauss-newton":
        matrix = _gauss_newton(problem, z)
    elif curvature == "hessian":
        matrix = _hessian(problem, z)
    else:
        raise ValueError(complain('curvature "gauss-newton" or "hessian"', repr(curvature), "one of the two"))
    values, vectors = np.linalg.eigh(np.asarray(matrix))
    if not np.isfinite(values).all() or values[0] <= 0:
        raise ValueError(complain(
            "a positive definite Hessian at the MAP", f"smallest eigenvalue {values[0]:.3g}",
            'solve on to a minimum (smaller tolerance, other starts), or curvature="gauss-newton"'))
    root = vectors / np.sqrt(values)
    key = jax.random.key(key) if isinstance(key, int) else key
    noise = jax.random.normal(key, (draws, z.size), dtype=z.dtype)
    return Posterior(problem, z + noise @ root.T, jnp.asarray(root @ root.T), f"Laplace ({curvature})")


@eqx.filter_jit
def _gauss_newton(problem: Problem, z: Array) -> Array:
    jacobian = problem.jacobian(z)[1]
    return jacobian.T @ jacobian


@eqx.filter_jit
def _hessian(problem: Problem, z: Array) -> Array:
    return jax.hessian(problem.cost)(z)
