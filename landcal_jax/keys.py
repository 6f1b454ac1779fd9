"""Seeds and keys: every function that draws takes one `key=`, a whole number or a key of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax.errors import complain


def key_of(key: Array | int) -> Array:
    """A JAX key from a seed, or the key as it is.

    Raises TypeError for anything else, such as 1.5 or None.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or (key.dtype == jnp.uint32 and key.shape == (2,))):
        return key
    raise TypeError(complain("a whole number or a key of jax.random.key", f"{key!r}", "key=0"))
