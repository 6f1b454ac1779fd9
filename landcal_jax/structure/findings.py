"""What a structural report is made of: findings, sentences with a number and what to do next."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from landcal_jax.observations import Observations
from landcal_jax.problem import Problem
from landcal_jax.structure.score_tests import Named, Scores, Whitened

MONTHS = {"December to February": (12, 1, 2), "March to May": (3, 4, 5), "June to August": (6, 7, 8),
          "September to November": (9, 10, 11)}
"""Parts of the year, called by their months, which are the same in both hemispheres."""


@dataclass(frozen=True)
class Finding:
    """One finding: what it is about (`kind`), its sentence, and `advice`, what to do next.

    `log_p`: natural logarithm of the p-value of its test, NaN where there is none; `tests`: how many tests of this kind were made, of
    which this is one. `cause`: it names what is wrong, and is not only a sign of it. `alarm`: whether it stands out of chance, for all
    tests of the report together; findings without a test that need attention set it themselves. `numbers`: what the sentence is made
    of. `figure`: the name of its figure in `landcal_jax.structure.figures`, with `subject`, the stream, group or site that it shows.
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
    """A p-value for people, from its logarithm: "p = 0.03", "p = 2e-31", also where it underflows; "no p-value" where there is none."""
    if np.isnan(log_p):
        return "no p-value"
    if log_p > np.log(1e-3):
        return f"p = {np.exp(log_p):.2g}"
    if np.isinf(log_p):
        return "p = 0"
    power = int(np.floor(log_p / np.log(10)))
    digit = round(np.exp(log_p - power * np.log(10)))
    return f"p = 1e{power + 1}" if digit == 10 else f"p = {digit}e{power}"


def count_text(value: float) -> str:
    """A chi-square or what is expected of it, for people: whole numbers from 10 on."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.2g}"


def season_of(days: np.ndarray) -> np.ndarray:
    """The part of the year of each day since 1970-01-01, see `MONTHS`; "" where there is no time."""
    known = np.isfinite(days)
    months = np.where(known, days, 0).astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1
    names = np.select([np.isin(months, found) for found in MONTHS.values()], list(MONTHS), "")
    return np.where(known, names, "")


def phase_of(days: np.ndarray) -> np.ndarray:
    """The place in the year of days since 1970-01-01, as an angle."""
    return 2 * np.pi * (days % 365.25) / 365.25


@dataclass(frozen=True)
class Examined:
    """Findings in the order of their weight: alarms before the others; the cause, how the solve ended, signs by their p-value.

    `problem`, `z`: what was examined; `whitened`: its residuals and their Jacobian; `scores`: the tests of all candidates; `named`: the
    groups of candidates that explain the residuals; `notes`: what could not be tested; `observations`: with the errors that were in force;
    `chance`: that of any alarm in a right model, as it was asked for. Iterating gives `Finding` after `Finding`.
    """

    found: tuple[Finding, ...]
    problem: Problem
    z: np.ndarray
    whitened: Whitened
    scores: Scores
    named: tuple[Named, ...]
    observations: Observations
    title: str = "Structure of a calibrated model"
    notes: tuple[str, ...] = ()
    chance: float = 0.05

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.found)

    def __len__(self) -> int:
        return len(self.found)

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """The findings that stand out of chance or need attention."""
        return tuple(each for each in self.found if each.alarm)

    @property
    def quiet(self) -> bool:
        """Whether there is no alarm."""
        return not self.alarms

    @property
    def top(self) -> Finding | None:
        """The first alarm, None if there is none."""
        return next(iter(self.alarms), None)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The sentences of all alarms in their order; one that says so if there is none, with what weakens it without an alarm."""
        if self.quiet:
            limits = "".join(f" But: {each.sentence}" for each in self.found if each.kind == "posterior")
            return (f"Nothing stands out of chance: {len(self.scores.t)} candidates for an error of the model and "
                    f"{sum(not np.isnan(each.log_p) for each in self.found)} tests of its residuals and parameters are quiet.{limits}",)
        return tuple(each.sentence for each in self.alarms)

    def __str__(self) -> str:
        return "\n".join(self.sentences)

    def to_xarray(self) -> xr.Dataset:
        """Findings as a Dataset: by `finding` sentence, advice, kind, log p and so on; by `candidate` t, coefficient and so on."""
        rows, scores = self.found, self.scores
        data: dict[str, Any] = {
            name: ("finding", np.array([getattr(row, name) for row in rows], dtype=object if kind is str else kind))
            for name, kind in (("kind", str), ("sentence", str), ("advice", str), ("log_p", float), ("evidence", float), ("alarm", bool),
                               ("cause", bool))}
        about = {"t": scores.t, "inflation": scores.inflation, "coefficient": scores.coefficient, "coefficient_sd": scores.spread,
                 "kept": scores.kept, "candidate_log_p": scores.log_p}
        data |= {name: ("candidate", values) for name, values in about.items()}
        data["candidate_threshold"] = "candidate", np.array([scores.thresholds[each.family] for each in scores.candidates])
        data |= {f"candidate_{name}": ("candidate", np.array([getattr(each, name) for each in scores.candidates], dtype=object))
                 for name in ("kind", "site", "words", "detail", "unit")}
        coords = {"candidate": [each.name for each in scores.candidates]}
        return xr.Dataset(data, coords, {"title": self.title, "quiet": int(self.quiet),
                                         "notes": "\n".join(self.notes)})
