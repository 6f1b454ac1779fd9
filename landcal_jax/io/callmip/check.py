"""What the checks of output files of CalLMIP share: the file as it stands on disk, and the findings.

Part of `callmip_validator`.
"""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.callmip.output import SCENARIOS, STAGES, UNCERTAINTY, VARIABLES, FileName

UNDECLARED = 1e19  # nothing physical comes near; a fill value of 1e20 that is not declared does


class Fault(NamedTuple):
    """One finding: severity "fault" or "remark", where in the file, and the sentence Expected / Got / Try."""

    severity: str
    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.severity.capitalize()} in {self.where}\n" + "\n".join(f"  {line}" for line in self.sentence.splitlines())

    @property
    def short(self) -> str:
        """The finding in one line: where, what is there, what was expected, what to do."""
        expected, got, advice = (line.partition(":")[2].strip() for line in self.sentence.splitlines()[:3])
        return f"{self.where}: {got}. Expected {expected}. Try: {advice}."


@dataclass(frozen=True)
class Validation:
    """All findings about one file; iterates over them, faults first. Printing it shows faults in full, then a line for each remark."""

    path: Path
    findings: tuple[Fault, ...]

    @property
    def faults(self) -> list[Fault]:
        """What is against the protocol."""
        return [found for found in self.findings if found.severity == "fault"]

    @property
    def remarks(self) -> list[Fault]:
        """What deserves a look."""
        return [found for found in self.findings if found.severity == "remark"]

    @property
    def passed(self) -> bool:
        """Whether there is no fault."""
        return not self.faults

    def __iter__(self) -> Iterator[Fault]:
        return iter((*self.faults, *self.remarks))

    def __len__(self) -> int:
        return len(self.findings)

    def __str__(self) -> str:
        verdict = "keeps the rules of CalLMIP Phase 1b" if self.passed else "is against the rules of CalLMIP Phase 1b"
        counts = ", ".join(f"{len(found)} {word}{'' if len(found) == 1 else 's'}"
                           for found, word in ((self.faults, "fault"), (self.remarks, "remark")))
        lines = [f"{self.path.name} {verdict}: {counts}", *map(str, self.faults)]
        lines += ["Remarks"] * bool(self.remarks)
        lines += [textwrap.fill(found.short, 118, initial_indent="  - ", subsequent_indent="    ", break_long_words=False,
                                break_on_hyphens=False) for found in self.remarks]
        return "\n".join(lines)


class Found(NamedTuple):
    """A variable as it stands in the file: dimensions, attributes, type, raw values (None where they are no numbers)."""

    dims: tuple[str, ...]
    attrs: dict[str, Any]
    dtype: Any
    raw: np.ndarray | None

    @property
    def values(self) -> np.ndarray:
        """Values as an array of float64, NaN where a declared fill value stands."""
        values = np.array(self.raw, np.float64)
        for key in ("_FillValue", "missing_value"):
            if key in self.attrs:
                with np.errstate(over="ignore"):
                    values[np.isin(self.raw, np.asarray(self.attrs[key]).astype(self.raw.dtype))] = np.nan
        return values * float(self.attrs.get("scale_factor", 1.0)) + float(self.attrs.get("add_offset", 0.0))


class Check:
    """The file that is being checked, with what is known about it and the findings so far."""

    def __init__(self, path: Path, scenario: int | None, flux: xr.Dataset | None) -> None:
        self.path, self.flux, self.findings = path, flux, []
        self.dims: dict[str, int] = {}
        self.attrs: dict[str, Any] = {}
        self.variables: dict[str, Found] = {}
        self.groups: tuple[str, ...] = ()
        self.name = FileName.parse(path.name)
        self.scenario = scenario or (self.name.scenario if self.name else None)
        self.asked = scenario

    def fault(self, where: str, expected: str, got: str, try_: str) -> None:
        """Add a fault."""
        self.findings.append(Fault("fault", where, complain(expected, got, try_)))

    def remark(self, where: str, expected: str, got: str, try_: str) -> None:
        """Add a remark."""
        self.findings.append(Fault("remark", where, complain(expected, got, try_)))

    @property
    def stage(self) -> str | None:
        """Prior or Posterior, by the name of the file or else its attribute."""
        stage = self.name.stage if self.name else self.attrs.get("Calibration_stage")
        return stage if stage in STAGES else None

    @property
    def optimised(self) -> tuple[str, ...]:
        """Variables that the scenario calibrates against."""
        return SCENARIOS.get(self.scenario, ())

    @property
    def fluxes(self) -> dict[str, Found]:
        """Variables of the protocol that can be looked into: numbers, one a time step."""
        length = self.dims.get("time")
        return {name: found for name, found in self.variables.items()
                if name.removesuffix(UNCERTAINTY) in VARIABLES and found.raw is not None and found.raw.size == length}


def shown(value: Any) -> str:
    """A value of an attribute for a sentence, with nothing invisible in it."""
    return "none" if value is None else ascii(value)[:80]
