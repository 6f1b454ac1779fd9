"""Parameter lists of CLM: the sheet of the CLM-PPE and its short form for CalLMIP.

Columns that are read (any order, any case; everything else is kept as it is):

    name | param            the parameter
    location | loc          P parameter file, N namelist, H hard-coded
    include | final         1 or 0; without such a column every row is included. `test` is not looked at
    min, max                a number; `30percent` (below min: default * 0.7, above max: default * 1.3); or `pft`
    pft_mins, pft_maxs      values joined by commas, one a PFT, where min or max is `pft`
    flag                    parameters with one flag move together; a row whose name is its flag stands for the group
    CLM5 Default Value(s) | default    a number, or numbers joined by commas; text ("varies: 0.1 to 0.34") is unknown
    units, description
    columns named by PFT after `default`    the defaults by PFT

A second line with explanations, and lines that only have a heading, are kept and passed over.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from landcal_jax.errors import complain
from landcal_jax.io.parameter_lists.entries import Entry, Odd, check_name, number_of, numbers_of
from landcal_jax.io.parameter_lists.sheets import Sheet

LOCATION = re.compile(r"\s*[PNH]?(\s*[,/ ]\s*[PNH])*\s*", re.IGNORECASE)
PERCENT = re.compile(r"(\d+(?:\.\d*)?)\s*(?:percent|%)", re.IGNORECASE)
# Natural PFTs of CLM5 in the order of its parameter file, by the abbreviations of its technical note.
PFTS = ("not vegetated", "NET temperate", "NET boreal", "NDT boreal", "BET tropical", "BET temperate", "BDT tropical",
        "BDT temperate", "BDT boreal", "BES temperate", "BDS temperate", "BDS boreal", "C3 arctic grass", "C3 grass",
        "C4 grass", "C3 crop", "C3 irrigated")
YES, NO = ("1", "1.0", "yes", "true"), ("0", "0.0", "no", "false", "")


def read_clm(
    sheet: Sheet, odd: Odd, pft: Sequence[str] | None, defaults: Mapping[str, np.ndarray]
) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    """The entries of a sheet and the labels of its PFTs; `defaults` go before those of the sheet."""
    columns = _columns(sheet)
    by_pft = _columns_by_pft(sheet, columns)
    rows = [row for row in sheet.body if not _is_heading(sheet, row, columns)]
    skipped = [row for row in sheet.body if row not in set(rows)]
    if skipped:
        many = "s" * (len(skipped) > 1)
        odd.add(f"{len(skipped)} row{many} without a parameter (headings, explanations, rows without a name), kept and passed over")
    labels = _labels(sheet, rows, columns, pft, by_pft)
    entries = []
    for row in rows:
        entry = _entry(sheet, row, columns, by_pft)
        if columns["location"] is not None and not LOCATION.fullmatch(entry.place):
            odd.add("A location that is none of P (parameter file), N (namelist), H (hard-coded)", f"{entry.who}: {entry.place[:20]!r}")
        if entry.name in defaults:
            given = np.asarray(defaults[entry.name], float)
            if given.ndim > 1:
                odd.add("The default from elsewhere has several dimensions; not used", f"{entry.who}: shape {given.shape}")
            else:
                # Parameter files of CLM have 79 PFTs where a list may have the first 17.
                entry.default = given.reshape(()) if given.size == 1 else given[:len(labels)] if labels else given
                entry.default_text = ""
        _shape(entry, labels, odd)
        check_name(entry.name, entry.where, ("pft",))
        entries.append(entry)
    used = any(entry.dims for entry in entries)
    return entries, {"pft": labels} if used else {}


def _columns(sheet: Sheet) -> dict[str, int | None]:
    find = sheet.column
    columns = {"name": find("param", "name"), "location": find("location", "loc"), "include": find("include", "final"),
               "min": find("min"), "max": find("max"), "flag": find("flag"), "pft_mins": find("pft_mins"),
               "pft_maxs": find("pft_maxs"), "default": find("default", "default value", "clm5 default*"),
               "units": find("units", "unit"), "description": find("description", "long_name")}
    missing = [name for name in ("name", "min", "max") if columns[name] is None]
    if missing:
        raise ValueError(complain(f"the columns name (or param), min and max in {sheet.source}",
                                  f"no {' or '.join(missing)} among {', '.join(sheet.columns)[:200]}", "add or rename the column"))
    return columns


def _columns_by_pft(sheet: Sheet, columns: Mapping[str, int | None]) -> list[int]:
    """The columns after `default` when every one of them is unknown: defaults by PFT."""
    default = columns["default"]
    if default is None or sheet.columns[default] != "default" or columns["pft_mins"] is not None:
        return []
    after = list(range(default + 1, len(sheet.columns)))
    return after if len(after) > 1 and not set(after) & set(columns.values()) else []


def _cell(sheet: Sheet, row: int, column: int | None) -> str:
    return "" if column is None else sheet.rows[row][column]


def _is_heading(sheet: Sheet, row: int, columns: Mapping[str, int | None]) -> bool:
    """A line of explanations below the column names, a heading, or a line of remarks."""
    name, include = _cell(sheet, row, columns["name"]), _cell(sheet, row, columns["include"]).lower()
    bounds = _cell(sheet, row, columns["min"]) + _cell(sheet, row, columns["max"])
    if row == sheet.header + 1 and columns["include"] is not None and " " in include:
        return True
    if include in YES and columns["include"] is not None:
        return False
    if name == "" and bounds and columns["include"] is None:
        return False
    return name == "" or not (bounds or _cell(sheet, row, columns["location"]) or _cell(sheet, row, columns["default"]))


def _entry(sheet: Sheet, row: int, columns: Mapping[str, int | None], by_pft: Sequence[int]) -> Entry:
    def cell(column: str) -> str:
        return _cell(sheet, row, columns[column])

    where, name = sheet.where(row), cell("name")
    include = cell("include").lower()
    if include not in YES + NO:
        raise ValueError(complain(f"1 or 0 in the column include, {where} ({name})", repr(include[:40]), "write 1 or 0"))
    included = columns["include"] is None or include in YES
    entry = Entry(name, where, units=cell("units"), description=cell("description"), place=cell("location"),
                  group=cell("flag"), included=included, default_text=cell("default"), cells=[(row, columns["default"])])
    check_name(name, where)
    entry.default = numbers_of(entry.default_text)
    if by_pft and any(_cell(sheet, row, column) for column in by_pft):
        entry.default = np.array([number_of(_cell(sheet, row, column) or "nan") for column in by_pft])
        entry.cells = [(row, column) for column in by_pft]
    is_head = bool(entry.group) and entry.group == name  # its bounds are dummies
    if not is_head:
        entry.low, below = _bound(sheet, row, columns, entry, "min")
        entry.high, above = _bound(sheet, row, columns, entry, "max")
        entry.percent = (below, above)
    return entry


def _bound(sheet: Sheet, row: int, columns, entry: Entry, side: str) -> tuple[np.ndarray, float | None]:
    """A bound as numbers, or relative to the default in percent."""
    text = _cell(sheet, row, columns[side])
    if text == "":
        return np.asarray(np.nan), None
    percent = PERCENT.fullmatch(text)
    if percent:
        return np.asarray(np.nan), float(percent[1])
    if text.lower() == "pft":
        return _vector(sheet, row, columns[f"pft_{side}s"], entry, f"pft_{side}s"), None
    number = number_of(text)
    if np.isfinite(number) or not entry.included:
        return np.asarray(number if np.isfinite(number) else np.nan), None
    raise ValueError(complain(f"a number, 30percent or pft as {side} of {entry.name} in {entry.where}", _said(text),
                              "correct the cell, or exclude the row"))


def _vector(sheet: Sheet, row: int, column: int | None, entry: Entry, name: str) -> np.ndarray:
    text = _cell(sheet, row, column)
    numbers = np.atleast_1d(numbers_of(text))
    if entry.included and (text == "" or (numbers.size == 1 and np.isnan(numbers[0]))):
        raise ValueError(complain(f"numbers joined by commas in {name} of {entry.name} in {entry.where}", _said(text),
                                  "one number a PFT, or exclude the row"))
    return numbers if text and not (numbers.size == 1 and np.isnan(numbers[0])) else np.asarray(np.nan)


def _said(text: str) -> str:
    if text.startswith("="):
        return f"the formula {text[:40]!r}, which is not evaluated"
    return repr(text[:60]) if text else "a blank cell"


def _labels(sheet: Sheet, rows: Sequence[int], columns, pft: Sequence[str] | None, by_pft: Sequence[int]) -> tuple[str, ...]:
    """The labels of the PFTs: those given, names of columns, or numbers for the most common length of the vectors."""
    if pft is not None:
        return tuple(str(label) for label in pft)
    if by_pft:
        return tuple(sheet.rows[sheet.header][column] for column in by_pft)
    lengths = Counter(np.size(numbers_of(_cell(sheet, row, columns[side]))) for row in rows for side in ("pft_mins", "pft_maxs")
                      if _cell(sheet, row, columns[side]))
    lengths.pop(1, None)
    count = lengths.most_common(1)[0][0] if lengths else 0
    return (*PFTS[:count], *(str(i) for i in range(len(PFTS), count)))


def _shape(entry: Entry, labels: tuple[str, ...], odd: Odd) -> None:
    """Vectors get the dim pft; one of another length is an error where it is included."""
    if entry.default.ndim and entry.default.size != len(labels) and not entry.low.ndim and not entry.high.ndim:
        odd.add(f"A default with another number of values than the {len(labels)} PFTs; not used",
                f"{entry.who}: {entry.default.size}")
        entry.default = np.asarray(np.nan)
    for what, values in (("pft_mins", entry.low), ("pft_maxs", entry.high), ("default", entry.default)):
        if not values.ndim or values.size == len(labels):
            continue
        if entry.included or entry.group:
            raise ValueError(complain(f"{len(labels)} values, one a PFT, in {what} of {entry.name} in {entry.where}",
                                      f"{values.size}", "complete the list; pft= names the PFTs when reading"))
        odd.add(f"Excluded, with another number of values than the {len(labels)} PFTs", f"{entry.who}: {values.size}")
        entry.low = entry.high = entry.default = np.asarray(np.nan)
        return
    if entry.low.ndim or entry.high.ndim or entry.default.ndim:
        entry.dims = ("pft",)
