"""Text in columns: the one way in which readers of CSV, semicolon, tab and blank separated files get at their cells.

Nothing is guessed about a row: each has as many cells as the header, each cell of a column of numbers is a number or
marked as missing, and what is wrong is named by its line in the file. Nothing in a file is evaluated.
"""

import csv
import io
import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from landcal_jax.errors import complain
from landcal_jax.io.files import read_text

MISSING = ("NA", "N/A", "NaN", "nan", "-nan", "NULL", "null", "")
YEARS = (1700, 2250)


class Sheet:
    """The lines of a delimited text file: leading comments, the header, and the rows below it.

    `header_lines`: lines between the header and the first row (a row of units).
    """

    def __init__(self, path: str | Path, separator: str = ",", comment: str = "#", header_lines: int = 0, what: str = "a CSV file of data"):
        self.path, self.separator = Path(path), separator
        self.history: list[str] = []
        lines = read_text(path, what).split("\n")
        self.cut = bool(lines[-1].strip())
        while lines and not lines[-1].strip():
            lines.pop()
        top = 0
        while top < len(lines) and (not lines[top].strip() or (comment and lines[top].startswith(comment))):
            top += 1
        self.comments = [line[len(comment):].strip() for line in lines[:top] if line.strip()]
        if top >= len(lines):
            raise ValueError(complain(what, f"{self.path.name}, which has no header", "download or export the file again"))
        self.names = self.cells(lines[top])
        self.below = [self.cells(line) for line in lines[top + 1:top + 1 + header_lines]]
        self.first = top + 1 + header_lines  # index of the first row of data; its number in the file is one more
        self.rows = lines[self.first:]
        if not self.rows:
            raise ValueError(complain(f"rows of data in {self.path.name}", "a header only", "download or export the file again"))
        twice = sorted({name for name in self.names if name and self.names.count(name) > 1})
        if twice:
            raise ValueError(complain(f"one column of each name in {self.path.name}", f"{', '.join(twice[:5])} twice",
                                      "rename or remove one of them"))

    def cells(self, line: str) -> list[str]:
        """The cells of one line, without quotes and blanks around them."""
        try:
            return [cell.strip() for cell in next(csv.reader([line], delimiter=self.separator, skipinitialspace=True), [])]
        except csv.Error as error:
            raise ValueError(complain(f"lines of plain text in {self.path.name}", f"{error}, in {line[:40]!r} ...",
                                      "export the file again as plain CSV")) from error

    def take_units(self) -> list[str]:
        """The first row below the header as cells, which is then no row of data any more."""
        units, self.rows, self.first = self.cells(self.rows[0]), self.rows[1:], self.first + 1
        if not self.rows:
            raise ValueError(complain(f"rows of data in {self.path.name}", "a header and units only", "export the file again"))
        return units

    def _check_widths(self) -> None:
        width = len(self.names)
        for number, line in enumerate(self.rows, self.first + 1):
            found = line.count(self.separator) + 1 if '"' not in line else len(self.cells(line))
            if found != width or not line.strip():
                got = f"{found} in line {number}" if line.strip() else f"line {number}, which is empty"
                cut = " (the last line: the file was cut short)" if number == self.first + len(self.rows) else ""
                quotes = " (a quotation mark is not closed)" if line.count('"') % 2 else ""
                raise ValueError(complain(f"{width} cells in each row of {self.path.name}, as in its header", got + quotes + cut,
                                          "download or export the file again, or correct the row"))

    def read(self, numbers: Iterable[str], texts: Collection[str] = ()) -> pd.DataFrame:
        """Columns `numbers` as float64 and `texts` as they stand, indexed by the line of the file.

        Raises ValueError naming line and column for a row of another width or a cell that is no number.
        """
        self._check_widths()
        wanted = [*dict.fromkeys([*texts, *numbers])]
        places = [self.names.index(name) for name in wanted]
        decimal = "," if self.separator == ";" and any("," in row for row in self.rows[:1000]) else "."
        body = io.BytesIO("\n".join(self.rows).encode())  # StringIO takes four bytes a character
        try:
            frame = pd.read_csv(body, sep=self.separator, header=None, usecols=sorted(places), decimal=decimal, skipinitialspace=True,
                                dtype={self.names.index(name): str for name in texts}, keep_default_na=False, na_values=list(MISSING),
                                low_memory=False, skip_blank_lines=False)
        except (ValueError, pd.errors.ParserError, OverflowError) as error:
            raise ValueError(complain(f"columns of {self.path.name} separated by {self.separator!r}", str(error).splitlines()[0][:160],
                                      "export the file again as plain CSV")) from error
        if len(frame) != len(self.rows):
            raise ValueError(complain(f"{len(self.rows)} rows of data in {self.path.name}", f"{len(frame)}: a quotation mark is not closed",
                                      "remove the quotation marks, or export the file again"))
        frame = frame[places].set_axis(wanted, axis=1)
        frame.index = pd.RangeIndex(self.first + 1, self.first + 1 + len(frame), name="line")
        for name in wanted:
            frame[name] = frame[name].fillna("").str.strip() if name in texts else self._numbers(frame[name], decimal)
        if decimal == ",":
            self.history.append("Decimals are written with a comma in the file.")
        if self.cut:
            self.history.append(f"The last line ({frame.index[-1]}) has no line end: check that the file is whole.")
        return frame

    def _numbers(self, column: pd.Series, decimal: str) -> pd.Series:
        if column.dtype.kind in "iuf":
            return column.astype(float)
        text = column.astype(str).str.strip().str.replace(decimal, ".", regex=False)
        values = pd.to_numeric(text.where(~column.isna() & ~text.isin(MISSING)), errors="coerce")
        bad = values.isna() & ~column.isna() & ~text.isin(MISSING)
        if bad.any():
            raise ValueError(complain(f"numbers in column {column.name} of {self.path.name}",
                                      f"{text[bad].iloc[0][:40]!r} in line {bad.idxmax()}, and {bad.sum() - 1} more such cells",
                                      "correct the cell, or mark it as missing (-9999 or blank)"))
        return values.astype(float)


def compact_stamps(column: pd.Series, path: Path, digits: int) -> pd.DatetimeIndex:
    """Stamps written as digits only, YYYYMMDDHHMM (12), YYYYMMDD (8) or YYYYMM (6), of a column indexed by line.

    The hour 2400 is 0000 of the next day. Raises ValueError naming the line of the first that is none.
    """
    form = {12: "%Y%m%d%H%M", 8: "%Y%m%d", 6: "%Y%m"}[digits]
    shown = {12: "YYYYMMDDHHMM", 8: "YYYYMMDD", 6: "YYYYMM"}[digits]
    good = column.str.fullmatch(rf"\d{{{digits}}}")
    midnight = good & column.str.fullmatch(r"\d{8}2400")
    stamps = pd.to_datetime(column.where(~midnight, column.str[:8] + "0000").where(good), format=form, errors="coerce")
    stamps += pd.to_timedelta(midnight.astype(int), unit="D")
    wrong = stamps.isna() | ~stamps.dt.year.between(*YEARS)
    if wrong.any():
        line = wrong.idxmax()
        advice = ("a spreadsheet has rounded the stamps: export the original file again" if "E+" in str(column[line]).upper()
                  else "correct the row, or download the file again")
        raise ValueError(complain(f"{column.name} of {path.name} as {shown}", f"{column[line]!r} in line {line}", advice))
    return pd.DatetimeIndex(stamps)


def iso_stamps(column: pd.Series, path: Path) -> pd.DatetimeIndex:
    """Stamps like 2014-06-01 or 2014-06-01 23:30 of a column indexed by line; ValueError names the first that is none."""
    good = column.str.fullmatch(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}(\.0+)?)?)?")
    stamps = pd.to_datetime(column.where(good), format="ISO8601", errors="coerce")
    wrong = stamps.isna() | ~stamps.dt.year.between(*YEARS)
    if wrong.any():
        line = wrong.idxmax()
        advice = ("take the offset away and say it once as the time zone" if re.search(r"(Z|[+-]\d\d:?\d\d)$", column[line][10:])
                  else "correct the row: there is no such day or hour (24:00 is 00:00 of the next day)" if good[line]
                  else "write the year first, then month and day, with leading zeros")
        raise ValueError(complain(f"{column.name} of {path.name} like 2005-06-30 or 2005-06-30 23:30", f"{column[line]!r} in line {line}",
                                  advice))
    return pd.DatetimeIndex(stamps)


def ordinal_stamps(year: pd.Series, day: pd.Series, hour: pd.Series | None, path: Path) -> pd.DatetimeIndex:
    """Stamps from year, day of the year (from 1) and hour (0 to 24, fractions allowed); day 366 of a common year passes into the next.

    Raises ValueError naming the line of the first that is none.
    """
    hour = pd.Series(0.0, index=year.index) if hour is None else hour
    wrong = ((year % 1 != 0) | ~year.between(*YEARS) | (day % 1 != 0) | (day < 1) | (day > 366) | (hour < 0) | (hour > 24)
             | ((hour * 60) % 1 > 1e-6) & ((hour * 60) % 1 < 1 - 1e-6) | year.isna() | day.isna() | hour.isna())
    if wrong.any():
        line = wrong.idxmax()
        raise ValueError(complain(f"a year, a day of the year (1 to 366) and an hour (0 to 24) on each row of {path.name}",
                                  f"{year[line]:g}, {day[line]:g} and {hour[line]:g} in line {line}", "correct the row"))
    stamps = pd.to_datetime({"year": year.astype(int), "month": 1, "day": 1}) + pd.to_timedelta(day - 1, unit="D") \
        + pd.to_timedelta(np.round(hour * 60), unit="min")
    return pd.DatetimeIndex(stamps)


def light_centroid(times: pd.DatetimeIndex, light: np.ndarray) -> float:
    """Hour of the day on which light is centred: the mean of the stamps' hours, weighted by light."""
    hours = np.asarray((times - times.normalize()) / pd.Timedelta("1h"), dtype=float)
    light = np.where(np.isfinite(light) & (light > 0), light, 0.0)
    return float((hours * light).sum() / light.sum()) if light.sum() > 0 else float("nan")
