"""What a structural report is made of: findings, sentences with a number and what to do next."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MONTHS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
"""Meteorological seasons of the northern hemisphere by their months; for sites south of the equator they are only names of months."""


@dataclass(frozen=True)
class Finding:
    """One finding: what it is about (`kind`), its sentence, and `advice`, what to do next.

    `log_p`: natural logarithm of the p-value of its test, NaN where there is none; `tests`: how many tests of this kind were made, of
    which this is one. `cause`: it names what is wrong, and is not only a sign of it. `alarm`: whether it stands out of chance, for all
    tests of the report together; findings without a test that need attention set it themselves. `numbers`: what the sentence is made
    of. `figure`: the name of its figure in `landcal_jax.plot_structure`, with `subject`, the stream, group or site that it shows.
    """

    kind: str
    sentence: str
    advice: str
    log_p: float = np.nan
    tests: int = 1
    cause: bool = False
    alarm: bool = False
    evidence: float = np.nan
    figure: str = ""
    subject: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def p(self) -> float:
        """The p-value of its one test; it may underflow to zero, where `log_p` does not."""
        return float(np.exp(self.log_p))

    def judged(self, alarm: float, tests: int) -> "Finding":
        """The same with `alarm` set if its p-value is below `alarm` shared by `tests` (Bonferroni)."""
        return self if np.isnan(self.log_p) else dataclasses.replace(self, alarm=bool(self.log_p < np.log(alarm / tests)))


def p_text(log_p: float) -> str:
    """A p-value for people, from its logarithm: "p = 0.03", "p = 2e-31"."""
    if log_p > np.log(1e-3):
        return f"p = {np.exp(log_p):.2g}"
    power = int(np.floor(log_p / np.log(10)))
    return f"p = {np.exp(log_p - power * np.log(10)):.0f}e{power}"


def season_of(days: np.ndarray) -> np.ndarray:
    """The season of each day since 1970-01-01, by name; "" where there is no time."""
    known = np.isfinite(days)
    months = np.where(known, days, 0).astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1
    names = np.select([np.isin(months, found) for found in MONTHS.values()], list(MONTHS), "")
    return np.where(known, names, "")


def phase_of(days: np.ndarray) -> np.ndarray:
    """The place in the year of days since 1970-01-01, as an angle."""
    return 2 * np.pi * (days % 365.25) / 365.25
