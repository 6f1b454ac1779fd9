"""Sites: the forcing of several places, and which row of each parameter belongs to which place.

Sites may have records of different lengths. The shorter ones are padded with their last step, so that the model stays
in ordinary weather there; no observation can fall on a padded step, so it changes neither J nor its gradient.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array
from jax.sharding import Mesh

from landcal_jax import devices
from landcal_jax.errors import complain
from landcal_jax.model import AbstractModel, Theta


class Sites(eqx.Module):
    """Forcing `(site, time)` with the names, the days and the parameter indices of the sites.

    `days`: (site, time) whole days since 1970-01-01, one label a step; padded steps repeat the last one.
    `lengths`: (site,) number of real steps. `index`: dim -> (site,) integer row of parameters with that dimension.
    `mesh`: the devices among which the sites are divided, see `spread`; None is one device.
    """

    forcing: Any
    days: Array
    lengths: Array
    index: dict[str, Array]
    names: tuple[str, ...] = eqx.field(static=True)
    mesh: Mesh | None = eqx.field(static=True, default=None)

    @classmethod
    def from_datasets(
        cls,
        datasets: xr.Dataset | Sequence[xr.Dataset],
        model: AbstractModel,
        *,
        rows: Mapping[str, Sequence[str]] | None = None,
        coords: Mapping[str, Sequence[str]] | None = None,
    ) -> "Sites":
        """Build from one Dataset a site in the normal form of `landcal_jax.io`.

        `coords`: dim -> its labels, as in the ParameterSpace (`{"pft": ["DBF", "ENF"]}`); `rows`: dim -> the label of
        each site in turn (`{"pft": ["DBF", "DBF", "ENF"]}`). The dim `site` is known by itself.
        Raises ValueError for drivers that `model` refuses, sites of the same name or an unknown label.
        """
        datasets = [datasets] if isinstance(datasets, xr.Dataset) else list(datasets)
        names = tuple(
            str(ds["site"].item()) if "site" in ds.coords else f"site {n + 1}" for n, ds in enumerate(datasets))
        if not datasets or len(set(names)) < len(names):
            raise ValueError(complain(
                "one Dataset a site, each with its own name", f"sites {names}", "rename the coordinate `site`"))
        forcings = _same_fields([model.forcing(dataset) for dataset in datasets])
        lengths = np.array([dataset.sizes["time"] for dataset in datasets])
        longest = int(lengths.max())

        def stack(*leaves):
            if np.ndim(leaves[0]) == 0:
                return jnp.stack(leaves)
            return jnp.stack([np.pad(leaf, (0, longest - len(leaf)), mode="edge") for leaf in leaves])

        days = [dataset.indexes["time"].values.astype("datetime64[D]").astype(int) for dataset in datasets]
        index = {"site": jnp.arange(len(names))}
        for dim, labels in (rows or {}).items():
            if len(labels) != len(names):
                raise ValueError(complain(
                    f"one {dim} for each of {len(names)} sites ({', '.join(names)})", f"{len(labels)}: {', '.join(labels)}",
                    f"correct rows[{dim!r}]"))
            known = (coords or {}).get(dim, ())
            index[dim] = jnp.asarray([_row(dim, label, known, name) for label, name in zip(labels, names, strict=True)])
        forcing = jax.tree.map(stack, *forcings)
        return cls(forcing=forcing, days=stack(*days), lengths=jnp.asarray(lengths), index=index, names=names)

    @property
    def time(self) -> np.ndarray:
        """Labels of the steps, (site, time) datetime64[D], NaT where a short site is padded."""
        return np.where(self.real, np.asarray(self.days).astype("datetime64[D]"), np.datetime64("NaT", "D"))

    @property
    def real(self) -> np.ndarray:
        """(site, time) true where a step is of the record, not padding."""
        return np.arange(self.days.shape[1]) < np.asarray(self.lengths)[:, None]

    def gather(self, theta: Theta, dims: Mapping[str, tuple[str, ...]]) -> Theta:
        """The value of each parameter at each site: name -> (site,) array.

        The only place where an index is used: `dims` declares the dimensions of each parameter; none is one value for all sites.
        """
        def at_sites(name, value):
            declared = dims.get(name, ())
            missing = [dim for dim in declared if dim not in self.index]
            if missing:
                raise ValueError(complain(
                    f"sites that know their {missing[0]}, since {name} has dims {declared}", f"indices for {sorted(self.index)}",
                    "give rows= and coords= to Sites.from_datasets"))
            value = jnp.asarray(value)
            if value.ndim != len(declared):
                raise ValueError(complain(
                    f"{name} with the dims {declared}", f"an array of shape {value.shape}",
                    "declare the dims of every parameter that has some: SiteForward(..., dims={name: parameter.dims})"))
            return value[tuple(self.index[dim] for dim in declared)] if declared else jnp.broadcast_to(value, (len(self.names),))

        return {name: at_sites(name, value) for name, value in theta.items()}

    def spread(self, mesh: Mesh) -> "Sites":
        """The same sites with the forcing divided among the devices of `mesh`, each of which holds that of its own sites.

        Behind the last site the forcing then has copies of it, up to a multiple of the devices; what they give is cut off.
        Raises ValueError for sites that are on several devices already.
        """
        if self.mesh is not None:
            raise ValueError(complain("sites that are on one device", f"sites on {self.mesh.size} devices", "spread the original once"))
        return dataclasses.replace(self, forcing=devices.place(self.forcing, mesh), mesh=mesh)

    def __str__(self) -> str:
        lines = []
        for name, days, real in zip(self.names, self.time, self.real, strict=True):
            lines.append(f"{name}: {real.sum()} steps, {days[real][0]} to {days[real][-1]}")
        return "\n".join(lines)


def _row(dim: str, label: str, labels: Sequence[str], site: str) -> int:
    if label not in labels:
        raise ValueError(complain(
            f"a {dim} among {', '.join(labels) or 'none'}", f"{label!r} for site {site}", f"add it to coords[{dim!r}]"))
    return list(labels).index(label)


def _same_fields(forcings: list) -> list:
    """Give every site the optional drivers that any site has; a driver that is None at some sites is zero there."""
    def fill(forcing):
        new = {
            name: jnp.zeros_like(forcing[0])
            for n, name in enumerate(forcing._fields) if forcing[n] is None and any(other[n] is not None for other in forcings)}
        return forcing._replace(**new)

    return [fill(forcing) for forcing in forcings]
