"""Small valid files of every format for the fuzz, and an oracle for each that shares no code with the readers.

`Made` is a file as bytes with what is known of its form. `MAKERS` has at least one for every format of
`landcal_jax.io.formats.FORMATS`; a test asserts that. A `Truth` is what a (mutated) file says: the start of each row, and
the value that each quantity must have there.
"""

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
NO_NUMBER = {"", "na", "n/a", "nan", "-nan", "+nan", "null", "inf", "-inf", "+inf", "infinity", "-infinity", "+infinity"}
CARBON = 12.011e-6 * 86400  # gC m-2 d-1 in one umol m-2 s-1


class Unreadable(Exception):
    """The mutated file says nothing here; a reader that gives a value must have made it up."""


@dataclass(frozen=True)
class Truth:
    """What a file says: the start of each row and, for a variable of the result and its attributes, the value on each row."""

    times: Sequence[datetime]
    values: Callable[[str, Mapping], Sequence[float]]
    rows: int | None = None  # of a table without time


@dataclass(frozen=True)
class Made:
    """A valid file; `separator` of its cells (" " for any blanks, None for no text), and the line on which its rows begin."""

    format: str
    name: str
    content: bytes
    truth: Callable[[bytes, object], Truth]
    separator: str | None = None
    first: int = 0
    beside: Mapping[str, bytes] = field(default_factory=dict)
    netcdf: bool = False

    def written(self, folder: Path, content: bytes) -> Path:
        if self.netcdf:  # the HDF5 library knows an open file by its inode: each example has its own
            folder = Path(tempfile.mkdtemp(dir=folder))
        for name, other in self.beside.items():
            (folder / name).write_bytes(other)
        path = folder / self.name
        path.write_bytes(content)
        return path


def text_lines(content: bytes) -> list[str]:
    """Lines of a text with any line ends, without empty ones at its end."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    lines = re.split(r"\r\n|\r|\n", text)
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def number(text: str, decimal: str = ".", fills: Sequence[float] = (-9999.0,)) -> float:
    """A cell as a number, NaN if it is marked as missing; Unreadable for anything else."""
    text = text.strip()
    if text.lower() in NO_NUMBER:
        return float("nan")
    text = text.replace(decimal, ".")
    if not NUMBER.fullmatch(text):
        raise Unreadable(f"{text!r} is no number")
    value = float(text)
    return float("nan") if value in fills or abs(value) >= 1e19 else value


def moment(text: str) -> datetime:
    """A stamp in one of the forms of the formats: digits only, or ISO."""
    text = text.strip()
    digits = re.fullmatch(r"(\d{4})(\d\d)(\d\d)?(\d\d)?(\d\d)?", text, re.ASCII)
    iso = re.fullmatch(r"(\d{4})-(\d\d)(?:-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.0+)?)?Z?)?)?", text, re.ASCII)
    if not digits and not iso:
        raise Unreadable(f"{text!r} is no stamp")
    parts = [int(part) if part else None for part in (digits or iso).groups()]
    year, month, day, *clock = parts
    try:
        return datetime(year, month, day or 1, *(part or 0 for part in clock))
    except ValueError as error:
        raise Unreadable(text) from error


def ordinal(year: str, day: str, hour: str = "0") -> datetime:
    """A stamp of year, day of the year and hour."""
    values = [number(part) for part in (year, day, hour)]
    if not all(np.isfinite(values)) or values[0] % 1 or values[1] % 1:
        raise Unreadable(f"{year} {day} {hour}")
    return datetime(int(values[0]), 1, 1) + timedelta(days=values[1] - 1, minutes=round(values[2] * 60))


@dataclass(frozen=True)
class TextTruth:
    """The oracle of a text format.

    `header`: lines -> (names, index of the first row). `start`: row -> start of its step. `columns`: quantity -> (its columns in
    the made file, factor, offset). `special`: quantity -> function of the row, for what is no plain factor.
    """

    separator: str
    header: Callable[[list[str]], tuple[list[str], int]]
    start: Callable[[Mapping[str, str]], datetime] | None
    columns: Mapping[str, tuple[tuple[str, ...], float, float]]
    special: Mapping[str, Callable[[Mapping[str, str]], float]] = field(default_factory=dict)
    fills: Sequence[float] = (-9999.0,)
    flags: bool = True  # flags above 0 are filled; otherwise the flag is the share that is good
    end: Callable[[object], bool] = lambda ds: False  # whether `start` gives the end of each step, whose length the stamps tell
    table: Mapping[str, Callable[[Mapping[str, str]], float]] = field(default_factory=dict)  # where the result is a table

    def __call__(self, content: bytes, ds) -> Truth:
        lines = text_lines(content)
        names, first = self.header(lines)
        rows = []
        for line in lines[first:]:
            cells = self._cells(line)
            if len(cells) != len(names):
                raise Unreadable(f"{len(cells)} cells of {len(names)}: {line!r}")
            row: dict[str, str] = {}
            for name, cell in zip(names, cells, strict=True):
                row.setdefault(name, cell)
            rows.append(row)
        decimal = "," if self.separator == ";" and any("," in line for line in lines[first:]) else "."
        times = [self.start(row) for row in rows] if self.start else []
        if self.end(ds):
            times = started(times)
        return Truth(times, lambda name, attrs: [self._value(row, name, attrs, decimal) for row in rows], len(rows))

    def _cells(self, line: str) -> list[str]:
        if self.separator == " ":
            return line.split()
        import csv

        return [cell.strip() for cell in next(csv.reader([line], delimiter=self.separator, skipinitialspace=True), [])]

    def _value(self, row: Mapping[str, str], name: str, attrs: Mapping, decimal: str) -> float:
        if name in self.special:
            return self.special[name](row)
        if name in self.table and "name_in_file" not in attrs:
            return self.table[name](row)
        if "name_in_file" not in attrs and name in row:  # a table of settings
            return {"TRUE": 1.0, "FALSE": 0.0}[row[name]] if row[name] in ("TRUE", "FALSE") else number(row[name], decimal, ())
        theirs = attrs["name_in_file"]
        if name.endswith("_filled"):
            flag = number(row[theirs], decimal)
            return float(flag > 0) if self.flags and flag == flag else flag if self.flags else 1.0 - flag
        known, factor, offset = self.columns[name]
        others = {column for quantity, (columns, *_) in self.columns.items() if quantity != name for column in columns}
        assert theirs in known or theirs not in others, f"{name} was read from {theirs}"
        fills = self.fills
        return sum(number(row[part], decimal, fills) for part in theirs.split(" + ")) * factor + offset


def started(ends: list[datetime]) -> list[datetime]:
    """The starts of steps of which the ends are known: their length is the most frequent difference, of several the smallest."""
    apart = [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]
    length = min(apart, key=lambda one: (-apart.count(one), one))
    if length < timedelta(days=1):
        return [end - length for end in ends]
    midnight = all(end.hour == end.minute == end.second == 0 for end in ends)
    return [end.replace(hour=0, minute=0, second=0) - timedelta(days=1) * midnight for end in ends]


def named(separator: str, comment: str = "#", below: int = 0) -> Callable[[list[str]], tuple[list[str], int]]:
    """A header of names behind lines of comment, with `below` lines before the first row."""

    def header(lines: list[str]) -> tuple[list[str], int]:
        import csv

        top = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(comment)), None)
        if top is None:
            raise Unreadable("no header")
        cells = lines[top].split() if separator == " " else next(csv.reader([lines[top]], delimiter=separator, skipinitialspace=True))
        return [cell.strip() for cell in cells], top + 1 + below

    return header


def fixed(names: str, first: int = 0) -> Callable[[list[str]], tuple[list[str], int]]:
    """Names that the format knows and the file does not say."""
    return lambda lines: (names.split(), first)
