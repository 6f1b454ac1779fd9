"""A linear map that is given by two functions outside of JAX, itself and its transpose, as an operation of JAX.

An external model with a tangent-linear and an adjoint has both. JAX then takes the one in forward mode and the other in reverse
mode, for one vector or a batch (`jax.custom_derivatives.linear_call` has no rule for batches).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from landcal_jax.errors import complain

Named = Mapping[str, Array]
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


def product(function: Callable, transposed: Callable, at: Named, vector: Named, shapes: Shapes) -> dict[str, Array]:
    """A(at) vector: `function(at, vector)` gives it, `transposed(at, weights)` gives A(at)' weights.

    Both take and give dicts of NumPy arrays with one leading axis of members; `at` and `vector` have the same names, `shapes` are
    those of the result, without it. Deriving it once more with respect to `at` raises TypeError.
    """
    inner = tuple((name, tuple(np.shape(value))) for name, value in vector.items())
    leaves = [*(at[name] for name, _ in inner), *vector.values()]
    return dict(zip(dict(shapes), _product.bind(
        *leaves, functions=(function, transposed), at=inner, of=inner, to=tuple(shapes)), strict=True))


_product = Primitive("landcal_product")
_product.multiple_results = True


def _lead(leaves, shapes: Shapes) -> tuple[int, ...]:
    """Leading dimensions, which vmap has added to all operands alike."""
    return tuple(leaves[0].shape[: leaves[0].ndim - len(shapes[0][1])])


def _run(*leaves: Array, functions, at: Shapes, of: Shapes, to: Shapes) -> list[Array]:
    lead, dtype = _lead(leaves, at), leaves[0].dtype

    def call(*leaves: Any) -> list[np.ndarray]:
        rows = [np.asarray(leaf).reshape((-1, *shape)) for leaf, (_, shape) in zip(leaves, (*at, *of), strict=True)]
        found = functions[0](dict(zip(dict(at), rows[: len(at)], strict=True)), dict(zip(dict(of), rows[len(at):], strict=True)))
        return [np.asarray(found[name], dtype).reshape((*lead, *shape)) for name, shape in to]

    return jax.pure_callback(call, [jax.ShapeDtypeStruct((*lead, *shape), dtype) for _, shape in to], *leaves)


def _abstract(*leaves, functions, at, of, to):
    return [leaves[0].update(shape=(*_lead(leaves, at), *shape)) for _, shape in to]


def _batched(leaves, axes, **settings):
    size = next(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    leaves = [batching.bdim_at_front(leaf, axis, size) for leaf, axis in zip(leaves, axes, strict=True)]
    found = _product.bind(*leaves, **settings)
    return found, [0] * len(found)


def _along(primals, tangents, *, at, **settings):
    where, along = tangents[: len(at)], tangents[len(at):]
    if not all(isinstance(tangent, ad.Zero) for tangent in where):
        raise TypeError(complain("first derivatives of an external model", "second ones, of its tangent-linear or adjoint",
                                 'curvature="gauss-newton", or a solver that needs no Hessian'))
    along = [ad.instantiate_zeros(tangent) for tangent in along]
    return [_product.bind(*leaves, at=at, **settings) for leaves in (primals, [*primals[: len(at)], *along])]


def _transposed(weights, *leaves, functions, at, of, to):
    weights = [ad.instantiate_zeros(weight) for weight in weights]
    found = _product.bind(*leaves[: len(at)], *weights, functions=functions[::-1], at=at, of=to, to=of)
    return [None] * len(at) + found


_product.def_impl(_run)
_product.def_abstract_eval(_abstract)
batching.primitive_batchers[_product] = _batched
ad.primitive_jvps[_product] = _along
ad.primitive_transposes[_product] = _transposed
mlir.register_lowering(_product, mlir.lower_fun(_run, multiple_results=True))
