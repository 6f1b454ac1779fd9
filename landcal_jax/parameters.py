"""Parameters of a model: their priors, and the map between physical values theta and the control vector z.

Every inference method works on z, whose prior is N(0, I); every model works on `theta`, a dict of arrays shaped by
the dims of each parameter. `ParameterSpace` holds the map between them:

    z --(correlation)--> u = L z --(whitening map of each prior)--> theta = T(u)

With Gaussian priors and a covariance B this is x = x_b + B^{1/2} z; with bounded priors it is a Gaussian copula.
Structure (names, dims, families of priors, which ones are free) is static, numbers are leaves: other prior values
never recompile a function that takes the space as an argument.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from landcal_jax import parameter_layout, parameter_tables
from landcal_jax.errors import complain
from landcal_jax.parameter_layout import Layout
from landcal_jax.priors import Parameter as Parameter
from landcal_jax.transforms import AbstractTransform, QuantileTransform

if TYPE_CHECKING:
    import pandas
    import xarray

Theta = dict[str, jax.Array]


class ParameterSpace(eqx.Module):
    """Named parameters with their priors, and the map between theta and the control vector z with prior N(0, I).

    `coords` names the labels of each dim, e.g. `{"pft": ["DBF", "ENF"]}` (labels are text).
    `correlation` is the correlation matrix of the whitened parameters, in the order of `labels`: a Gaussian copula for
    bounded priors. `covariance` is B in physical units for priors that are all Gaussian without bounds: it replaces
    their standard deviations, and theta = x_b + L z with L the Cholesky factor of B.
    `fixed` maps names or labels to the value they keep, None for the default.

    Fixed parameters stay in theta as constants and leave z; with a correlation, their rows and columns are dropped, so
    that every other parameter keeps the prior it was given.
    All maps take leading axes: z of shape (members, size) gives theta arrays of shape (members, *dims).
    """

    transforms: tuple[AbstractTransform, ...]
    default: jax.Array
    constant: jax.Array
    correlation: jax.Array | None
    factor: jax.Array | None
    layout: Layout = eqx.field(static=True)

    # By identity, so that `jax.jit(space.physical)` is possible (arrays have no hash).
    __hash__ = object.__hash__

    def __init__(
        self,
        parameters: Mapping[str, Parameter],
        coords: Mapping[str, Sequence[str]] | None = None,
        covariance: ArrayLike | None = None,
        correlation: ArrayLike | None = None,
        fixed: Mapping[str, ArrayLike | None] | None = None,
    ):
        labels = {str(dim): tuple(str(label) for label in np.asarray(values).tolist())
                  for dim, values in (coords or {}).items()}
        parameter_layout.check_structure(parameters, labels)
        layout = Layout(
            names=tuple(parameters), dims=tuple(p.dims for p in parameters.values()),
            units=tuple(p.units for p in parameters.values()),
            descriptions=tuple(p.description for p in parameters.values()),
            coords=tuple(labels.items()), groups=(), free=(),
        )
        expanded = [parameter_layout.expand(parameter, shape, name)
                    for (name, parameter), shape in zip(parameters.items(), layout.shapes, strict=True)]
        default = np.concatenate([value for _, value in expanded])
        groups, self.transforms = parameter_layout.group([transform for transform, _ in expanded], layout)
        if covariance is not None:
            if correlation is not None:
                raise ValueError(complain("covariance or correlation", "both", "leave one of them out"))
            correlation, self.transforms = parameter_layout.from_covariance(covariance, self.transforms, layout)
        self.layout = dataclasses.replace(layout, groups=groups, free=(True,) * len(default))
        support = tuple(np.asarray(side) for side in self._support())
        free, constant = parameter_layout.fix(layout, default, fixed or {}, support)
        self.layout = dataclasses.replace(self.layout, free=tuple(free.tolist()))
        self.default, self.constant = jnp.asarray(default), jnp.asarray(constant)
        self.correlation = self.factor = None
        if correlation is not None:
            matrix = parameter_layout.check_matrix(correlation, "correlation", layout.labels)
            self.correlation = jnp.asarray(matrix)
            self.factor = jnp.asarray(np.linalg.cholesky(matrix[np.ix_(free, free)]))

    # ------------------------------------------------------------------ structure

    @property
    def size(self) -> int:
        """Length of z: the number of free elements."""
        return len(self.layout.free_index)

    @property
    def labels(self) -> tuple[str, ...]:
        """One label for each entry of z: "k", "lma[DBF]", "lma[DBF,FR-Hes]"."""
        return tuple(self.layout.labels[i] for i in self.layout.free_index)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of which at least one element is free."""
        return tuple(name for name in self.layout.names if any(self.layout.free[self.layout.elements(name)]))

    @property
    def coords(self) -> dict[str, tuple[str, ...]]:
        """The labels of every dim."""
        return dict(self.layout.coords)

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Every parameter, the fixed ones too, with one prior value for each element."""
        offsets = {element: (t, i) for t, group in enumerate(self.layout.groups) for i, element in enumerate(group)}
        result = {}
        for i, (name, shape) in enumerate(zip(self.layout.names, self.layout.shapes, strict=True)):
            part = self.layout.elements(name)
            which, start = offsets[part.start]
            stop, transform = start + part.stop - part.start, self.transforms[which]
            if not isinstance(transform, QuantileTransform):
                transform = jax.tree.map(
                    lambda leaf, a=start, b=stop, s=shape: np.asarray(leaf)[a:b].reshape(s), transform)
            result[name] = Parameter(transform, self.layout.dims[i], self.layout.units[i], self.layout.descriptions[i],
                                     np.asarray(self.default)[part].reshape(shape))
        return result

    @property
    def dims(self) -> dict[str, tuple[str, ...]]:
        """Dimensions by parameter, the form that `SiteForward(dims=...)` takes; () is one value for all."""
        return {name: parameter.dims for name, parameter in self.parameters.items()}

    @property
    def fixed(self) -> dict[str, np.ndarray]:
        """Name -> value of every fixed parameter; label -> value where only some elements are fixed."""
        free, constant, result = np.asarray(self.layout.free), np.asarray(self.constant), {}
        for name, shape in zip(self.layout.names, self.layout.shapes, strict=True):
            part = self.layout.elements(name)
            if not free[part].any():
                result[name] = constant[part].reshape(shape)
            else:
                result |= {self.layout.labels[i]: constant[i] for i in range(part.start, part.stop) if not free[i]}
        return result

    def fix(self, *names: str, **values: ArrayLike) -> "ParameterSpace":
        """Fix parameters (or single elements, by label) at their default, or at the value given: `fix("k", lma=90.0)`.

        A label is no keyword: `fix(**{"lma[DBF]": 90.0})`. What is fixed already stays fixed.
        """
        return self._rebuilt(self.fixed | dict.fromkeys(names) | values)

    def free(self, *names: str) -> "ParameterSpace":
        """Free fixed parameters (or elements, by label) again; the others stay as they are. See also `only`.

        Raises TypeError for anything but names, such as a result of `morris`: `screened(space, ds)` takes that.
        """
        if wrong := [name for name in names if not isinstance(name, str)]:
            raise TypeError(complain("names of parameters", f"{type(wrong[0]).__name__}",
                                     "screened(space, ds) for a sensitivity Dataset, only(*ranked(ds)[:8]), or free(*names) for a list"))
        wanted = {label for name in names for label in self._labels_of(name)}
        free = wanted.union(self.labels)
        return self._rebuilt(self._fixed_labels(lambda label: label not in free))

    def only(self, *names: str) -> "ParameterSpace":
        """Free exactly these parameters (or elements, by label), and fix all others."""
        wanted = {label for name in names for label in self._labels_of(name)}
        return self._rebuilt(self._fixed_labels(lambda label: label not in wanted))

    def _fixed_labels(self, keep) -> dict[str, float]:
        constant = np.asarray(self.constant)
        return {label: constant[i] for i, label in enumerate(self.layout.labels) if keep(label)}

    def _labels_of(self, name: str) -> tuple[str, ...]:
        return tuple(self.layout.labels[i] for i in parameter_layout.elements_of(self.layout, name))

    def _rebuilt(self, fixed: Mapping[str, ArrayLike | None]) -> "ParameterSpace":
        return ParameterSpace(self.parameters, self.coords, correlation=self.correlation, fixed=fixed)

    # ------------------------------------------------------------------ theta <-> z

    def physical(self, z: ArrayLike) -> Theta:
        """theta = T(z): every parameter, the fixed ones too, in its units and shaped by its dims."""
        return self._split(self._values(self._checked(z)))

    def whiten(self, theta: Mapping[str, ArrayLike]) -> jax.Array:
        """z with physical(z) = theta.

        A value outside of its bounds is an error; inside jit, where values are not known, it gives NaN. A value on its
        bound gets a finite z, that of the last number before the bound.
        """
        values = self._joined(theta)
        low, high = self._support()
        parameter_layout.check_inside(self.layout, values, low, high)
        return self._whitened(values, low, high)

    def flatten(self, theta: Mapping[str, ArrayLike]) -> jax.Array:
        """The free elements of theta in the order of `labels`, in physical units."""
        return self._joined(theta)[..., self.layout.free_index]

    def unflatten(self, vector: ArrayLike) -> Theta:
        """theta from its free elements in the order of `labels`; the fixed ones are added."""
        return self._split(self._filled(self._checked(vector)))

    def sample(self, key: jax.Array, n: int) -> jax.Array:
        """n draws of z from the prior N(0, I), shape (n, size); `physical` of them are draws of theta."""
        return jax.random.normal(key, (n, self.size))

    @property
    def default_theta(self) -> Theta:
        """The values that the model uses today (fixed parameters: the value they are fixed at)."""
        return self._split(self._filled(self.default[self.layout.free_index]))

    @property
    def default_z(self) -> jax.Array:
        """z of `default_theta`."""
        return self.whiten(self.default_theta)

    @property
    def prior_median(self) -> Theta:
        """theta at z = 0."""
        return self.physical(jnp.zeros(self.size))

    @property
    def prior_sd(self) -> Theta:
        """Standard deviation of each parameter under its prior (0 for fixed ones), by quadrature over z."""
        nodes = jnp.linspace(-9.0, 9.0, 361)
        weight = jnp.exp(-0.5 * nodes**2)[:, None] / jnp.sum(jnp.exp(-0.5 * nodes**2))
        values = self._map(jnp.broadcast_to(nodes[:, None], nodes.shape + self.default.shape))
        variance = jnp.sum(weight * (values - jnp.sum(weight * values, axis=0)) ** 2, axis=0)
        return self._split(jnp.sqrt(variance) * np.asarray(self.layout.free))

    def bounds(self) -> tuple[jax.Array, jax.Array]:
        """Lower and upper bounds of the free elements in the order of `labels`, physical units, infinite where none."""
        low, high = self._support()
        return low[self.layout.free_index], high[self.layout.free_index]

    def _checked(self, vector: ArrayLike) -> jax.Array:
        vector = jnp.asarray(vector)
        # A weak type, as of jnp.full(n, 0.1), would go down to single precision where it meets that; converted, it is weak no more.
        whole = not jnp.issubdtype(vector.dtype, jnp.floating)
        vector = jax.lax.convert_element_type(vector, jnp.result_type(float) if whole else vector.dtype)
        if vector.ndim == 0 or vector.shape[-1] != self.size:
            raise ValueError(complain(f"a vector (or members x vector) with {self.size} entries, one for each free "
                                      "element", f"an array of shape {vector.shape}", "space.labels shows the order"))
        return vector

    # The maps are compiled also when the user calls them outside of jit: operation by operation they take seconds.
    @eqx.filter_jit
    def _whitened(self, values: jax.Array, low: jax.Array, high: jax.Array) -> jax.Array:
        parts = [transform.whiten(values[..., np.asarray(group)])
                 for transform, group in zip(self.transforms, self.layout.groups, strict=True)]
        u = jnp.concatenate(parts, axis=-1)[..., self.layout.order]
        u = jnp.where((values >= low) & (values <= high), u, jnp.nan)[..., self.layout.free_index]
        if self.factor is None:
            return u
        solved = jax.scipy.linalg.solve_triangular(self.factor, u.reshape(-1, self.size).T, lower=True)
        return solved.T.reshape(u.shape)

    @eqx.filter_jit
    def _values(self, z: jax.Array) -> jax.Array:
        u = z if self.factor is None else z @ self.factor.T
        if self.size == len(self.layout.free):
            return self._map(u)
        everywhere = jnp.zeros(z.shape[:-1] + self.default.shape, u.dtype).at[..., self.layout.free_index].set(u)
        return jnp.where(np.asarray(self.layout.free), self._map(everywhere), self.constant)

    @eqx.filter_jit
    def _filled(self, vector: jax.Array) -> jax.Array:
        full = jnp.broadcast_to(self.constant, vector.shape[:-1] + self.constant.shape)
        return full.astype(jnp.result_type(vector, full)).at[..., self.layout.free_index].set(vector)

    @eqx.filter_jit
    def _map(self, u: jax.Array) -> jax.Array:
        parts = [transform.physical(u[..., np.asarray(group)])
                 for transform, group in zip(self.transforms, self.layout.groups, strict=True)]
        return jnp.concatenate(parts, axis=-1)[..., self.layout.order]

    def _split(self, values: jax.Array) -> Theta:
        # NumPy where values are known: hundreds of single operations of JAX outside of jit are slow.
        known = not isinstance(values, jax.core.Tracer)
        parts = (np if known else jnp).split(np.asarray(values) if known else values, self.layout.ends[:-1], axis=-1)
        shapes = (values.shape[:-1] + shape for shape in self.layout.shapes)
        return {name: jnp.asarray(part.reshape(shape))
                for name, part, shape in zip(self.layout.names, parts, shapes, strict=True)}

    def _joined(self, theta: Mapping[str, ArrayLike]) -> jax.Array:
        arrays = parameter_layout.check_theta(self.layout, theta, self.constant)
        parts = [array.reshape(array.shape[:array.ndim - len(shape)] + (-1,))
                 for array, shape in zip(arrays, self.layout.shapes, strict=True)]
        leading = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        numpy = np if all(isinstance(part, np.ndarray) for part in parts) else jnp
        parts = [numpy.broadcast_to(part, leading + part.shape[-1:]) for part in parts]
        return jnp.asarray(numpy.concatenate(parts, axis=-1))

    def _support(self) -> tuple[jax.Array, jax.Array]:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self.transforms))
        numpy = jnp if traced else np
        both = []
        for side in (0, 1):
            parts = [numpy.broadcast_to(numpy.ravel(transform.support()[side]), (len(group),))
                     for transform, group in zip(self.transforms, self.layout.groups, strict=True)]
            both.append(jnp.asarray(numpy.concatenate(parts)[self.layout.order]))
        return both[0], both[1]

    # ------------------------------------------------------------------ in and out

    def to_dataset(self, z_or_theta: ArrayLike | Mapping[str, ArrayLike] | None = None) -> "xarray.Dataset":
        """One variable a parameter with its dims, units, bounds and prior; values of theta, the default if None."""
        if z_or_theta is None:
            theta = self.default_theta
        elif isinstance(z_or_theta, Mapping):
            theta = self.unflatten(self.flatten(z_or_theta))
        else:
            theta = self.physical(jnp.asarray(z_or_theta).reshape(self.size))
        return parameter_tables.to_dataset(self.parameters, self.layout, self.constant, theta, self.correlation)

    @classmethod
    def from_dataset(cls, dataset: "xarray.Dataset") -> "ParameterSpace":
        """The space that `to_dataset` has written, whatever the values of the parameters in it."""
        return cls._of(parameter_tables.from_dataset(dataset))

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row an element; the columns are described in `landcal_jax.parameter_tables`."""
        if self.correlation is not None:
            raise ValueError(complain("a space without correlation or covariance for a table", "a correlated prior",
                                      "to_dataset(), which keeps it"))
        return parameter_tables.to_dataframe(self.parameters, self.layout, self.constant)

    @classmethod
    def from_dataframe(cls, frame: "pandas.DataFrame") -> "ParameterSpace":
        """The space of a table, e.g. of a spreadsheet read with pandas."""
        return cls._of(parameter_tables.from_dataframe(frame))

    def to_csv(self, path: str | Path) -> None:
        """Write the table of `to_dataframe` with every digit."""
        parameter_tables.to_csv(self.to_dataframe(), path)

    @classmethod
    def from_csv(cls, path: str | Path) -> "ParameterSpace":
        """Read a parameter table; the columns are described in `landcal_jax.parameter_tables`."""
        return cls._of(parameter_tables.from_csv(path))

    @classmethod
    def _of(cls, pieces: parameter_tables.Pieces) -> "ParameterSpace":
        parameters, coords, fixed, correlation = pieces
        return cls(parameters, coords, correlation=correlation, fixed=fixed)

    def __str__(self) -> str:
        coords = [f"{dim}: {len(labels)} ({', '.join(labels[:4])}{', ...' if len(labels) > 4 else ''})"
                  for dim, labels in self.layout.coords]
        parts = [f"{len(self.layout.names)} parameters, {self.size} of {len(self.layout.free)} elements free", *coords]
        if self.correlation is not None:
            parts.append("correlated prior")
        return f"ParameterSpace: {'; '.join(parts)}\n{parameter_tables.printed(self.parameters, self._fixed_in_words)}"

    def _fixed_in_words(self, name: str) -> str:
        part = self.layout.elements(name)
        fixed = ~np.asarray(self.layout.free[part])
        values = np.asarray(self.constant)[part][fixed]
        if not fixed.any():
            return ""
        low, high = f"{values.min():.6g}", f"{values.max():.6g}"
        count = "" if fixed.all() else f" ({fixed.sum()} of {fixed.size})"
        return f"fixed at {low if low == high else f'{low} to {high}'}{count}"
