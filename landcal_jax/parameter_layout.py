"""How the elements of all parameters are laid out in one flat vector, and the checks of that structure."""

import dataclasses
import difflib
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.priors import Parameter
from landcal_jax.transforms import AbstractTransform, NormalTransform, QuantileTransform


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is static in a ParameterSpace: hashable, so that equal structure means the same compiled function."""

    names: tuple[str, ...]
    dims: tuple[tuple[str, ...], ...]
    units: tuple[str, ...]
    descriptions: tuple[str, ...]
    coords: tuple[tuple[str, tuple[str, ...]], ...]
    groups: tuple[tuple[int, ...], ...]  # for each transform the elements (flat indices) that it maps
    free: tuple[bool, ...]

    @functools.cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        lengths = {dim: len(labels) for dim, labels in self.coords}
        return tuple(tuple(lengths[dim] for dim in dims) for dims in self.dims)

    @functools.cached_property
    def ends(self) -> np.ndarray:
        return np.cumsum([int(np.prod(shape)) for shape in self.shapes], dtype=int)

    @functools.cached_property
    def labels(self) -> tuple[str, ...]:
        coords, labels = dict(self.coords), []
        for name, dims, shape in zip(self.names, self.dims, self.shapes, strict=True):
            for index in np.ndindex(shape):
                where = ",".join(coords[dim][i] for dim, i in zip(dims, index, strict=True))
                labels.append(f"{name}[{where}]" if dims else name)
        return tuple(labels)

    @functools.cached_property
    def free_index(self) -> np.ndarray:
        return np.flatnonzero(self.free)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """Where element i stands in the concatenation of the groups."""
        return np.argsort(np.concatenate([np.asarray(group, int) for group in self.groups]))

    @functools.cached_property
    def position_of_label(self) -> dict[str, int]:
        return {label: position for position, label in enumerate(self.labels)}

    def elements(self, name: str) -> slice:
        position = self.names.index(name)
        end = int(self.ends[position])
        return slice(end - int(np.prod(self.shapes[position])), end)


def check_structure(parameters: Mapping[str, Parameter], coords: Mapping[str, tuple[str, ...]]) -> None:
    """Names, dims and coords must fit together."""
    if not parameters:
        raise ValueError(complain("at least one parameter", "none",
                                  "ParameterSpace({'lma': Parameter.normal(90.0, 20.0)})"))
    for dim, labels in coords.items():
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice or not labels:
            raise ValueError(complain(f"at least one label along {dim!r}, each once", f"{list(labels)}",
                                      f"remove the repeated {twice}" if twice else "name the labels"))
    for name, parameter in parameters.items():
        if not isinstance(name, str) or not name or set(name) & set("[],") or name in coords:
            raise ValueError(complain("a parameter name that is text without '[', ']' or ',' and is not a dim",
                                      repr(name), "rename the parameter"))
        if not isinstance(parameter, Parameter):
            raise ValueError(complain(f"a Parameter for {name!r}", f"{type(parameter).__name__}: {parameter!r}",
                                      f"{name}=Parameter(prior) or Parameter.bounded(...)"))
        unknown = [dim for dim in parameter.dims if dim not in coords]
        if unknown:
            raise ValueError(complain(f"coords for the dims {parameter.dims} of parameter {name!r}",
                                      f"coords for {sorted(coords)}", f"coords={{{unknown[0]!r}: [labels]}}"))
        if len(set(parameter.dims)) < len(parameter.dims):
            raise ValueError(complain(f"each dim of parameter {name!r} once", f"{parameter.dims}",
                                      "remove one of them"))


def expand(parameter: Parameter, shape: tuple[int, ...], name: str) -> tuple[AbstractTransform, np.ndarray]:
    """The whitening map and the default of one parameter with one flat entry for each element."""
    prior_shape = parameter.prior_shape
    generic = isinstance(parameter.transform, QuantileTransform)
    for what, given in (("prior", prior_shape), ("default", parameter.default.shape)):
        fits = len(given) in (0, len(shape)) and all(n in (1, m) for n, m in zip(given, shape, strict=False))
        if not fits or (generic and what == "prior" and given not in ((), shape)):
            raise ValueError(complain(f"one number, or shape {shape} = lengths of {parameter.dims}, for {name!r}",
                                      f"a {what} of shape {given}", "one value for each label of the coords"))
    default = np.broadcast_to(parameter.default, shape).ravel()
    if generic:
        return parameter.transform, default
    flat = jax.tree.map(lambda leaf: np.broadcast_to(np.asarray(leaf, float), shape).ravel(), parameter.transform)
    return flat, default


def group(transforms: list[AbstractTransform], layout: Layout) -> tuple[tuple, tuple[AbstractTransform, ...]]:
    """Join the elements of one family of priors, so that hundreds of parameters cost a handful of operations."""
    members: dict[object, list[int]] = {}
    for position, transform in enumerate(transforms):
        key = position if isinstance(transform, QuantileTransform) else type(transform)
        members.setdefault(key, []).append(position)
    groups, joined = [], []
    for positions in members.values():
        parts = [layout.elements(layout.names[position]) for position in positions]
        groups.append(tuple(i for part in parts for i in range(part.start, part.stop)))
        first = transforms[positions[0]]
        if isinstance(first, QuantileTransform):
            first = jax.tree.map(jnp.asarray, first)
        else:
            alike = [transforms[position] for position in positions]
            first = jax.tree.map(lambda *leaves: jnp.asarray(np.concatenate(leaves)), *alike)
        joined.append(first)
    return tuple(groups), tuple(joined)


def elements_of(layout: Layout, name: str) -> range:
    """Flat indices of a parameter or of one element, by name or label."""
    if name in layout.names:
        part = layout.elements(name)
        return range(part.start, part.stop)
    if name in layout.position_of_label:
        position = layout.position_of_label[name]
        return range(position, position + 1)
    near = difflib.get_close_matches(name, layout.names + layout.labels, n=3)
    raise ValueError(complain(f"the name of a parameter or the label of an element: {_some(layout.names)}", repr(name),
                              f"{' or '.join(near)}" if near else "space.parameters lists them all"))


def fix(
    layout: Layout, default: np.ndarray, fixed: Mapping[str, ArrayLike | None], support: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Which elements are free, and the value that every fixed element keeps."""
    free, constant = np.ones(default.shape, bool), default.copy()
    for name, value in fixed.items():
        index = np.asarray(elements_of(layout, name))
        free[index] = False
        constant[index] = default[index]
        if value is None:
            continue
        shape = layout.shapes[layout.names.index(name)] if name in layout.names else ()
        try:
            constant[index] = np.broadcast_to(np.asarray(value, float), shape).ravel()
        except (ValueError, TypeError) as error:
            raise ValueError(complain(f"a number or an array of shape {shape} to fix {name!r} at", repr(value),
                                      "one value for each label of the coords")) from error
    low, high = support
    wrong = ~free & ~((constant >= low) & (constant <= high) & np.isfinite(constant))
    if wrong.any():
        i = int(np.argmax(wrong))
        raise ValueError(complain(f"{layout.labels[i]} fixed inside its bounds {low[i]:g} and {high[i]:g}",
                                  f"{float(constant[i])!r}", "another value, or wider bounds"))
    if not free.any():
        raise ValueError(complain("at least one free parameter", "all of them fixed", "leave one of them free"))
    return free, constant


def check_matrix(matrix: ArrayLike, what: str, labels: tuple[str, ...]) -> np.ndarray:
    """A symmetric positive definite matrix over all elements, with a diagonal of 1 when it is a correlation."""
    matrix, n = np.asarray(matrix, float), len(labels)
    if matrix.shape != (n, n):
        raise ValueError(complain(f"a {what} matrix of shape {(n, n)}, one row for each of {_some(labels)}",
                                  f"shape {matrix.shape}", "the fixed parameters count too; dense arrays only"))
    scale = np.sqrt(np.abs(np.outer(np.diag(matrix), np.diag(matrix))))
    uneven = ~(np.abs(matrix - matrix.T) <= 1e-10 * scale)
    if uneven.any():
        i, j = (int(k) for k in np.unravel_index(np.argmax(uneven), uneven.shape))
        raise ValueError(complain(f"a finite and symmetric {what} matrix",
                                  f"{matrix[i, j]:g} for ({labels[i]}, {labels[j]}) and {matrix[j, i]:g} the other way",
                                  "(B + B.T) / 2"))
    if what == "correlation" and np.abs(np.diag(matrix) - 1).max() > 1e-10:
        i = int(np.argmax(np.abs(np.diag(matrix) - 1)))
        raise ValueError(complain("a correlation matrix with 1 on its diagonal", f"{matrix[i, i]!r} for {labels[i]}",
                                  "covariance= for a matrix in physical units"))
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError as error:
        lowest = np.linalg.eigvalsh(matrix)[0]
        raise ValueError(complain(f"a positive definite {what} matrix", f"a smallest eigenvalue of {lowest:.3g}",
                                  "weaker correlations, or add a small number to the diagonal")) from error
    return matrix


def from_covariance(
    covariance: ArrayLike, transforms: tuple[AbstractTransform, ...], layout: Layout
) -> tuple[np.ndarray, tuple[AbstractTransform, ...]]:
    """B as a correlation matrix and Gaussian priors with the standard deviations of B."""
    if len(transforms) != 1 or not isinstance(transforms[0], NormalTransform):
        families = sorted({transform.kind for transform in transforms} - {"normal"})
        raise ValueError(complain("Gaussian priors without bounds for a covariance B in physical units",
                                  f"also {', '.join(families)} priors", "correlation= (a Gaussian copula) instead"))
    matrix = check_matrix(covariance, "covariance", layout.labels)
    sd = np.sqrt(np.diag(matrix))
    correlation = matrix / np.outer(sd, sd)
    np.fill_diagonal(correlation, 1.0)
    return correlation, (NormalTransform(transforms[0].mean, jnp.asarray(sd)),)


def check_theta(layout: Layout, theta: Mapping[str, ArrayLike], constant: jax.Array) -> list[np.ndarray | jax.Array]:
    """The arrays of theta in the order of the layout, as NumPy arrays outside of jit.

    Fixed parameters may be left out and are put in.
    """
    unknown = sorted(set(theta) - set(layout.names))
    if unknown:
        raise ValueError(complain(f"the parameters {_some(layout.names)}", f"also {', '.join(map(repr, unknown))}",
                                  "remove or rename them"))
    arrays, constant = [], _known(constant)
    for name, dims, shape in zip(layout.names, layout.dims, layout.shapes, strict=True):
        part = layout.elements(name)
        free = layout.free[part]
        if name not in theta:
            if any(free):
                raise ValueError(complain(f"a value for parameter {name!r}", "none", "add it to theta, or fix it"))
            arrays.append(constant[part].reshape(shape))
            continue
        array = _known(theta[name])
        if array.shape[max(array.ndim - len(shape), 0):] != shape:
            raise ValueError(complain(f"parameter {name!r} with the dims {dims} of lengths {shape} (members may lead)",
                                      f"shape {array.shape}", "one value for each label of the coords"))
        if not all(free) and isinstance(array, np.ndarray) and isinstance(constant, np.ndarray):
            _check_constant(layout, part, array, constant)
        arrays.append(array)
    return arrays


def _known(value: ArrayLike) -> np.ndarray | jax.Array:
    """A NumPy array of the value, unless it is traced."""
    return value if isinstance(value, jax.core.Tracer) else np.asarray(value, float)


def _check_constant(layout: Layout, part: slice, array: np.ndarray, constant: np.ndarray) -> None:
    fixed = ~np.asarray(layout.free[part])
    flat = array.reshape(-1, part.stop - part.start)[:, fixed]
    wrong = ~np.isclose(flat, constant[part][fixed], rtol=1e-6, atol=0.0).all(axis=0)
    if wrong.any():
        i = part.start + int(np.flatnonzero(fixed)[np.argmax(wrong)])
        got = flat[0, np.argmax(wrong)]
        raise ValueError(complain(f"the fixed {layout.labels[i]} at its value {constant[i]!r}", f"{got!r}",
                                  f"leave it out of theta, or space.free({layout.labels[i]!r})"))


def check_inside(layout: Layout, values: jax.Array, low: jax.Array, high: jax.Array) -> None:
    """Raise for a free value outside of its bounds; traced values have none yet and pass."""
    if any(isinstance(array, jax.core.Tracer) for array in (values, low, high)):
        return
    values, low, high = np.asarray(values).reshape(-1, len(layout.free)), np.asarray(low), np.asarray(high)
    wrong = ~((values >= low) & (values <= high) & np.isfinite(values)) & np.asarray(layout.free)
    if wrong.any():
        member, i = (int(k) for k in np.unravel_index(np.argmax(wrong), wrong.shape))
        where = f" (member {member})" if len(values) > 1 else ""
        raise ValueError(complain(f"{layout.labels[i]} between its bounds {low[i]:g} and {high[i]:g}",
                                  f"{values[member, i]!r}{where}", "correct the value, or widen the bounds"))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f", ... ({len(names)} in all)" if len(names) > 8 else "")
