"""Rows of cells whose meaning the format fixes: text without a header, or with one that cannot be trusted.

The readers of snow and air files split their lines here. Each row has the agreed number of cells, each cell of a column
of numbers is a number, and what is not is named with its line in the file. (Text with a header of names: `delimited`.)
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from landcal_jax.errors import complain

FIRST_YEAR, LAST_YEAR = 1680, 2260  # what a time stamp in nanoseconds can hold


class Rows(NamedTuple):
    """Cells of the rows of a file, the line of the file on which each stands, counted from 1, and what is to be said of them."""

    path: Path
    cells: list[list[str]]
    lines: list[int]
    said: list[str]

    def text(self, index: int) -> list[str]:
        """The cells of one column as they stand."""
        return [row[index] for row in self.cells]

    def numbers(self, index: int, name: str, blank: float | None = None) -> np.ndarray:
        """One column as float64. An empty cell becomes `blank`; without one it is refused, as is everything that is no number.

        Raises ValueError naming file, column and line.
        """
        texts = self.text(index)
        if blank is not None:
            texts = [text or str(blank) for text in texts]
        try:
            if any("_" in text for text in texts):  # 5_3 is 53 in Python, and 5.3 with a damaged byte in a file
                raise ValueError
            return np.array(texts, dtype=np.float64)
        except ValueError:
            wrong = next(place for place, text in enumerate(texts) if not is_number(text))
            raise ValueError(complain(f"numbers in column {index + 1} ({name}) of {self.path.name}",
                                      f"{texts[wrong][:40]!r} on line {self.lines[wrong]}",
                                      "correct the cell, or mark it as missing in the way of this format")) from None

    def days(self, first: int = 0) -> pd.Series:
        """Dates of three columns year, month, day that begin at `first`; ValueError names the line of one that is no date."""
        year, month, day = (self.numbers(first + place, name) for place, name in enumerate(("year", "month", "day")))
        with np.errstate(invalid="ignore"):
            whole = (year % 1 == 0) & (month % 1 == 0) & (day % 1 == 0) & (year >= FIRST_YEAR) & (year <= LAST_YEAR)
            whole &= (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
        parts = {name: np.where(whole, part, 0).astype(int) for name, part in (("year", year), ("month", month), ("day", day))}
        days = pd.to_datetime(pd.DataFrame(parts), errors="coerce")
        if days.isna().any():
            wrong = int(np.argmax(days.isna()))
            raise ValueError(complain(f"year, month and day in columns {first + 1} to {first + 3} of {self.path.name}",
                                      f"{' '.join(self.cells[wrong][first:first + 3])!r} on line {self.lines[wrong]}", "correct the row"))
        return days

    def stamps(self, texts: Sequence[str], form: str, shown: str) -> pd.DatetimeIndex:
        """Time stamps written in the `form` of strptime ("ISO8601" for any of that standard); ValueError names the first wrong one."""
        found = pd.to_datetime(pd.Series(texts, dtype=str), format=form, errors="coerce")
        unfit = found.isna() | (found.dt.year < FIRST_YEAR) | (found.dt.year > LAST_YEAR)
        if unfit.any():
            wrong = int(np.argmax(unfit))
            raise ValueError(complain(f"time stamps like {shown} in {self.path.name}", f"{texts[wrong][:40]!r} on line {self.lines[wrong]}",
                                      "correct the stamp; the file may have been opened in a spreadsheet"))
        return pd.DatetimeIndex(found)


def is_number(text: str) -> bool:
    """Whether a cell is a number; "nan" is one."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def split_rows(path: Path, lines: Sequence[str], first: int, width: int, what: str, separator: str | None = None) -> Rows:
    """Split `lines` from index `first` on into rows of `width` cells each; blank lines at the end are no rows.

    `separator`: None for blanks and tabs. Raises ValueError naming the line of a row of another width, or if there is no row.
    """
    last = len(lines)
    while last > first and not lines[last - 1].strip():
        last -= 1
    cells = [[cell.strip() for cell in line.split(separator)] if separator else line.split() for line in lines[first:last]]
    if not cells:
        raise ValueError(complain(f"{what} with rows of data", f"{path.name}, which has none below line {first}",
                                  "download the file again"))
    wrong = next((place for place, row in enumerate(cells) if len(row) != width), None)
    if wrong is not None:
        cut = " (the last line: the file may be cut short)" if wrong == len(cells) - 1 else ""
        raise ValueError(complain(f"{what}: {width} cells on each row of {path.name}",
                                  f"{len(cells[wrong])} on line {first + wrong + 1}{cut}", "download the file again, or correct the row"))
    said = [f"The last line ({len(lines)}) has no line end: check that the file is whole."] if lines[-1].strip() else []
    return Rows(path, cells, list(range(first + 1, first + len(cells) + 1)), said)
