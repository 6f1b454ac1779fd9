"""`Parameter`: one parameter of a model and what is believed about it before the data."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
import numpyro.distributions as dist
from jax.typing import ArrayLike

from landcal_jax.errors import complain
from landcal_jax.transforms import (
    AbstractTransform,
    LogNormalTransform,
    LogUniformTransform,
    NormalTransform,
    QuantileTransform,
    TruncatedNormalTransform,
    UniformTransform,
    check_transform,
    median_of,
    transform_of,
)


class Parameter(eqx.Module):
    """One parameter of a model: what is believed about it before the data.

    `prior` is a numpyro distribution, of one number for all elements or of one number an element (batch shape = lengths
    of `dims`, e.g. a default for each PFT). `default` is the value that the model uses today, the prior median if None.
    The constructors `normal`, `bounded`, `share_of_range`, `uniform`, `log_uniform`, `log_normal` say a prior in words;
    they take `dims`, `units` and `description` too, and arrays for numbers that differ by element.
    """

    transform: AbstractTransform
    default: np.ndarray
    dims: tuple[str, ...] = eqx.field(static=True)
    units: str = eqx.field(static=True)
    description: str = eqx.field(static=True)

    def __init__(
        self,
        prior: dist.Distribution | AbstractTransform,
        dims: str | Sequence[str] = (),
        units: str = "1",
        description: str = "",
        default: ArrayLike | None = None,
    ):
        who = f"the parameter with the description {description!r}" if description else "the parameter"
        self.dims = (dims,) if isinstance(dims, str) else tuple(dims)
        self.units, self.description = str(units), str(description)
        self.transform = transform_of(prior)
        check_transform(self.transform, who)
        if default is None:
            default = median_of(self.transform)
        self.default = np.asarray(default, float)
        self._check_shape(who)
        low, high = self.low, self.high
        wrong = ~((low < self.default) & (self.default < high) & np.isfinite(self.default))
        if wrong.any():
            value, low, high = (np.broadcast_to(array, wrong.shape)[wrong][0] for array in (self.default, low, high))
            raise ValueError(complain(f"a default inside the bounds {low:g} and {high:g} for {who}", f"{float(value)!r}",
                                      "correct the default, widen the bounds, or leave the default out"))

    @property
    def prior_shape(self) -> tuple[int, ...]:
        """() for one prior shared by all elements, or one length for each dim."""
        if isinstance(self.transform, QuantileTransform):
            return self.transform.prior.batch_shape
        return np.broadcast_shapes(*(np.shape(leaf) for leaf in jax.tree.leaves(self.transform)))

    def _check_shape(self, who: str) -> None:
        for what, shape in (("prior", self.prior_shape), ("default", self.default.shape)):
            if shape and len(shape) != len(self.dims):
                raise ValueError(complain(f"one number, or an array with the dims {self.dims}, for {who}",
                                          f"a {what} of shape {shape}", "name the dims, e.g. dims=('pft',)"))

    @property
    def prior(self) -> dist.Distribution:
        """The prior as a numpyro distribution."""
        return self.transform.distribution()

    @property
    def low(self) -> np.ndarray:
        """Lower bound in the units of the parameter, -inf where there is none."""
        return np.asarray(self.transform.support()[0])

    @property
    def high(self) -> np.ndarray:
        """Upper bound in the units of the parameter, inf where there is none."""
        return np.asarray(self.transform.support()[1])

    @classmethod
    def normal(cls, default: ArrayLike, sd: ArrayLike, **about: Any) -> "Parameter":
        """Gaussian with mean `default` and standard deviation `sd`, without bounds."""
        return cls(_family(NormalTransform, default, sd), default=default, **about)

    @classmethod
    def bounded(cls, default: ArrayLike, sd: ArrayLike, low: ArrayLike, high: ArrayLike, **about: Any) -> "Parameter":
        """Gaussian with mean `default` and standard deviation `sd`, cut at `low` and `high` (one may be infinite)."""
        return cls(_family(TruncatedNormalTransform, default, sd, low, high), default=default, **about)

    @classmethod
    def share_of_range(
        cls, default: ArrayLike, low: ArrayLike, high: ArrayLike, share: ArrayLike = 0.4, **about: Any
    ) -> "Parameter":
        """`bounded` with a standard deviation of `share` times the range: B = (40 % of the range)^2 by default."""
        low, high = np.asarray(low, float), np.asarray(high, float)
        return cls.bounded(default, np.asarray(share, float) * (high - low), low, high, **about)

    @classmethod
    def uniform(cls, low: ArrayLike, high: ArrayLike, default: ArrayLike | None = None, **about: Any) -> "Parameter":
        """Every value between `low` and `high` equally likely; the default is the middle."""
        return cls(_family(UniformTransform, low, high), default=default, **about)

    @classmethod
    def log_uniform(
        cls, low: ArrayLike, high: ArrayLike, default: ArrayLike | None = None, **about: Any
    ) -> "Parameter":
        """Every order of magnitude between `low` > 0 and `high` equally likely; the default is the geometric mean."""
        return cls(_family(LogUniformTransform, low, high), default=default, **about)

    @classmethod
    def log_normal(cls, median: ArrayLike, sd_of_log: ArrayLike, **about: Any) -> "Parameter":
        """Positive: log(theta) is Gaussian about log(`median`) with standard deviation `sd_of_log`."""
        return cls(_family(LogNormalTransform, median, sd_of_log), **{"default": median, **about})


def _family(family: type[AbstractTransform], *values: ArrayLike) -> AbstractTransform:
    try:
        return family(*np.broadcast_arrays(*(np.asarray(value, float) for value in values)))
    except ValueError as error:
        raise ValueError(complain(f"numbers or arrays of one shape for the {family.kind} prior",
                                  ", ".join(repr(value) for value in values), "check their lengths")) from error
