"""Model errors handed on: from streams that were calibrated to those of other sites and periods, by the names of streams and sites.

An error belongs to its site. A site that was not calibrated gets what the calibrated ones have together: the root mean square of
their constants and of their shares, so that its variance is their mean one, the geometric mean of their memories, and the mean season.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from landcal_jax.error_model import ModelError
from landcal_jax.observations import Stream


def same_axis(one: Stream, other: Stream) -> bool:
    """Whether two streams have the same operator on the same times, so that a run of one model gives the same for both."""
    return one.values.shape == other.values.shape and bool(eqx.tree_equal((one.operator, one.minutes), (other.operator, other.minutes)))


def has_error(error: ModelError) -> bool:
    """Whether there is any model error: a constant or a share above zero."""
    return error.proportional is not None or bool(np.any(np.asarray(error.constant) > 0))


def handed_on(own: Stream, sites: Sequence[str], other: Stream, others: Sequence[str], *, level: bool) -> tuple[ModelError | None, str]:
    """The model error that `other`, at the sites `others`, has by that of `own` at `sites`, and what is to be said of it.

    `level`: whether the level of a share is that of the other stream too; without it the error is incomplete, to grow with a run there.
    None, with the reason, for an error with a season where there are no times. What is said is empty where sites and axes are the same.
    """
    error, said = own.model_error, []
    season = bool(np.any(np.asarray(error.seasonal)))
    if season and other.minutes is None:
        return None, "none, though the calibrated stream has one: its season needs times, which are not given here"
    rows = np.array([list(sites).index(site) if site in sites else -1 for site in others])
    new = [site for site, row in zip(others, rows, strict=True) if row < 0]
    observed = np.asarray(own.mask).any(axis=1)
    together = {"constant": _square, "proportional": _square, "seasonal": _mean, "days": _geometric}
    fields = {name: _by_rows(getattr(error, name), rows, observed, pooled) for name, pooled in together.items()}
    if new:
        said.append(f"at {', '.join(new)}, not calibrated, that of the {int(observed.sum())} calibrated sites together")
    if fields["days"] is not None and (other.minutes is None or other.correlation is not None):
        fields["days"] = None
        said.append(f"without its memory, since there {'are no times' if other.minutes is None else 'is a correlation of the whole error'}")
    fields["level"] = error.level if level and not new and np.array_equal(rows, np.arange(len(sites))) else None
    if error.proportional is not None and error.level is not None and fields["level"] is None:
        said.append("its share is of the run there")
    names = list(fields)
    handed = eqx.tree_at(lambda error: [getattr(error, name) for name in names], error, list(fields.values()),
                         is_leaf=lambda node: node is None)
    return handed, "; ".join(said)


def _by_rows(values, rows: np.ndarray, observed: np.ndarray, pooled):
    """Values (site, ...) of the rows, `pooled` from those that were observed where a row is -1."""
    if values is None:
        return None
    values = np.asarray(values)
    return jnp.asarray(np.concatenate([values, pooled(values[observed])[None]])[rows])


def _square(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean(values**2, axis=0))


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=0)


def _geometric(values: np.ndarray) -> np.ndarray:
    return np.exp(np.log(values).mean(axis=0))
