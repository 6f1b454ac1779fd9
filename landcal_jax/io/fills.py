"""Marks of missing values that nobody has declared: -99.99 in NEE, -999 in latent heat.

Most fill values lie outside the range of their quantity and are refused there. Some lie inside, and would be believed.
A number of `MARKS` is taken for one when it stands at least twice, to the last digit, far outside of all other values.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# As tower teams, loggers and archives write them; -9999 is a fill value everywhere unless a format has another.
MARKS = (-66.0, -88.8, -99.0, -99.9, -99.99, -99.999, -777.0, -888.0, -999.0, -999.9, -999.99, -999.999, -6999.0, -7777.0, -7999.0, -8888.0,
         -9999.0, -9999.9, -9999.99, -99999.0, -32767.0, -32768.0, 99.99, 999.0, 999.9, 999.99, 999.999, 6999.0, 7777.0, 9999.0,
         9999.9, 9999.99, 99999.0, 32767.0, 65535.0)
SPREADS = 5.0  # interquartile ranges beyond the quartiles
ALONE = 0.25  # of its distance to the median a mark is away from the nearest other value


class Mark(NamedTuple):
    """A value that looks like a mark: how often it stands, where first, and the range of all others."""

    value: float
    where: np.ndarray
    low: float
    high: float

    def __str__(self) -> str:
        count = int(self.where.sum())
        return f"{self.value:g} {count} times, far from the other values ({self.low:.4g} to {self.high:.4g})"


def undeclared_marks(values: ArrayLike) -> list[Mark]:
    """The marks among `values` (as they stand in a file; NaN where missing), with where they stand."""
    values = np.asarray(values, dtype=float)
    there = values[np.isfinite(values)]
    if there.size < 3:
        return []
    low, high = there.min(), there.max()
    # Files in single precision have -99.99 with its first seven digits.
    candidates = {mark: np.isclose(values, mark, rtol=2e-7, atol=0.0) for mark in MARKS if low - 1 <= mark <= high + 1}
    candidates = {mark: where for mark, where in candidates.items() if where.sum() >= 2}
    if not candidates:
        return []
    others = values[np.isfinite(values) & ~np.any(list(candidates.values()), axis=0)]
    if others.size < 2:
        return []
    first, median, third = np.percentile(others, (25, 50, 75))
    reach, found = SPREADS * (third - first), []
    for mark, where in candidates.items():
        nearest = others.min() if mark < median else others.max()
        beyond = mark < first - reach if mark < median else mark > third + reach
        if beyond and abs(mark - median) - abs(nearest - median) >= ALONE * abs(mark - median):
            found.append(Mark(mark, where, float(others.min()), float(others.max())))
    return found


def without_marks(values: ArrayLike, name: str, said: list[str]) -> np.ndarray:
    """`values` with undeclared marks as NaN, counted in `said`: for formats whose files are known to carry marks of their own."""
    values = np.asarray(values, dtype=float)
    for mark in undeclared_marks(np.where((values == -9999.0) | (np.abs(values) > 1e19), np.nan, values)):
        said.append(f"{name}: {mark}, was taken as missing.")
        values = np.where(mark.where, np.nan, values)
    return values
