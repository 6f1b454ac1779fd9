"""What a `Stream` is checked for before it is built: numbers that are finite, in order, and of the right shape."""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from landcal_jax import operators
from landcal_jax.error_model import Chain
from landcal_jax.errors import complain


def by_site(value: ArrayLike, sites: int, name: str) -> Array:
    """One number a site, (site,), of a scalar or of such an array; ValueError for one below zero, not finite or of another shape."""
    array = np.asarray(value, float)
    if array.shape not in ((), (sites,)) or not (np.isfinite(array) & (array >= 0)).all():
        raise ValueError(complain(f"a `{name}` of zero or more: a scalar or one number for each of {sites} sites",
                                  f"{array.tolist()}", "give a finite standard deviation or weight"))
    return jnp.asarray(np.broadcast_to(array, (sites,)))


def check_stream(name: str, values: np.ndarray, sigma: np.ndarray, observed: np.ndarray,
                 minutes: np.ndarray | None) -> None:
    """Raise ValueError with the first bad place, unless observed values, sigma (site, n_obs) and times in minutes make a stream."""
    if values.ndim != 2 or not observed.any():
        raise ValueError(complain(f"values (site, n_obs) of {name}, some of them observed",
                                  f"shape {values.shape}, {observed.sum()} observed", "check the mask and fill values"))
    rules = [(np.isfinite(values), "finite values", "declare fill values with fill="),
             (np.isfinite(sigma) & (sigma > 0), "a sigma above zero", "mask these values, or give a sigma")]
    if minutes is not None:
        gap = np.asarray(Chain(minutes, observed).gap)
        rules += [(minutes != operators.NO_TIME, "a time", "mask the padding of short sites"),
                  (gap > 0, "a time after that of the one before", "sort the values and drop duplicates")]
    for holds, expected, try_ in rules:
        wrong = observed & ~holds
        if wrong.any():
            site, place = np.argwhere(wrong)[0]
            when = "" if minutes is None else f" ({operators.from_minutes(minutes)[site, place]})"
            first = f"site {site}, value {place}{when}: {values[site, place]} +- {sigma[site, place]}"
            raise ValueError(complain(f"{expected} at every observed place of {name}",
                                      f"{wrong.sum()} without, first at {first}", try_))
