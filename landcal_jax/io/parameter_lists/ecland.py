"""The parameter sheet of ecLand: Parameter, Value, Min, Max, Unit, Namelist, Precision, Definition (XLSX or CSV).

Value, Min and Max are numbers, or numbers joined by commas for what depends on vegetation or soil type. A row with both
bounds is calibrated; a row without bounds stays at its value. A column Include (1 or 0), if there is one, decides too.
Cells with text or a formula as value are no parameters: formulas are not evaluated.
"""

import re
from collections.abc import Sequence

import numpy as np

from landcal_jax.errors import complain
from landcal_jax.io.parameter_lists.entries import Entry, Odd, check_name, numbers_of
from landcal_jax.io.parameter_lists.sheets import Sheet

DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
YES, NO = ("1", "1.0", "yes", "true"), ("0", "0.0", "no", "false")


def read_ecland(
    sheet: Sheet, odd: Odd, pft: Sequence[str] | None, relative_range: float | None
) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    """The entries of a sheet and the labels of its dims."""
    find = sheet.column
    columns = {"name": find("parameter"), "value": find("value"), "min": find("min"), "max": find("max"),
               "units": find("unit", "units"), "place": find("namelist"), "description": find("definition"),
               "include": find("include")}
    missing = [name for name in ("name", "value", "min", "max") if columns[name] is None]
    if missing:
        raise ValueError(complain(f"the columns Parameter, Value, Min and Max in {sheet.source}",
                                  f"no {' or '.join(missing)} among {', '.join(sheet.columns)[:200]}", "add or rename the column"))
    entries, headings = [], 0
    for row in sheet.body:
        name = sheet.rows[row][columns["name"]]
        if not name and (sheet.rows[row][columns["value"]] or sheet.rows[row][columns["min"]]):
            raise ValueError(complain(f"a name in the column Parameter, {sheet.where(row)}", "a blank cell", "fill it in"))
        if not name or not any(sheet.rows[row][columns[part]] for part in ("value", "min", "max")):
            headings += 1
            continue
        entry = _entry(sheet, row, columns, odd, relative_range)
        if entry is not None:
            entries.append(entry)
    if headings:
        odd.add(f"{headings} row{'s' * (headings > 1)} without a parameter (headings, remarks), kept and passed over")
    return entries, _dims(entries, pft)


def _entry(sheet: Sheet, row: int, columns, odd: Odd, relative_range: float | None) -> Entry | None:
    def cell(column: str) -> str:
        return "" if columns[column] is None else sheet.rows[row][columns[column]]

    name, where = cell("name"), sheet.where(row)
    check_name(name, where)
    entry = Entry(name, where, default=numbers_of(cell("value")), units=cell("units"), description=cell("description"),
                  place=cell("place"), default_text=cell("value"), cells=[(row, columns["value"])])
    if cell("value") and not entry.known and not (cell("min") or cell("max")):
        odd.add("The value is no number: left out", f"{entry.who} has {cell('value')[:40]!r}")
        return None
    include = cell("include").lower()
    if include not in ("", *YES, *NO):
        raise ValueError(complain(f"1 or 0 in the column Include, {where} ({name})", repr(include[:40]), "write 1 or 0"))
    bounded = bool(cell("min") or cell("max")) or relative_range is not None
    entry.included = include in YES or (include == "" and bounded)
    if not entry.included and include == "":
        odd.add("Without bounds: fixed at the value of the sheet", name)
    for part in ("value", "min", "max"):
        text = cell(part)
        if (sheet.separator == ";" and DECIMAL_COMMA.fullmatch(text)) or (part == "value" and _thousands(text, cell("min"), cell("max"))):
            raise ValueError(complain(f"a number as {part} of {name} in {where}", f"{text!r}, which may be one number or several",
                                      "decimal points and no marks for thousands; several numbers joined by ', '"))
        numbers = numbers_of(text)
        if text and not np.isfinite(numbers).all() and (entry.included or part == "value"):
            got = f"the formula {text[:40]!r}, which is not evaluated" if text.startswith("=") else repr(text[:60])
            raise ValueError(complain(f"a number as {part} of {name} in {where}", got,
                                      "paste the number itself; decimal points, not commas, in a CSV"))
        if part != "value":
            setattr(entry, "low" if part == "min" else "high", numbers)
    return entry


def _thousands(text: str, low: str, high: str) -> bool:
    """1,500 between single bounds."""
    return bool(re.fullmatch(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d*)?", text)) and bool(low or high) and not ("," in low or "," in high)


def _dims(entries: Sequence[Entry], pft: Sequence[str] | None) -> dict[str, tuple[str, ...]]:
    """Vectors of the length of `pft` get the dim pft, others a dim named by their length, with labels from 1."""
    coords: dict[str, tuple[str, ...]] = {}
    for entry in entries:
        lengths = {array.size for array in (entry.low, entry.high, entry.default) if array.ndim}
        if not lengths:
            continue
        if len(lengths) > 1:
            raise ValueError(complain(f"as many values in Value, Min and Max of {entry.name} in {entry.where}",
                                      ", ".join(map(str, sorted(lengths))), "complete the lists"))
        count = lengths.pop()
        dim = "pft" if pft is not None and count == len(pft) else f"type_{count}"
        coords[dim] = tuple(map(str, pft)) if dim == "pft" else tuple(str(i + 1) for i in range(count))
        entry.dims = (dim,)
    return coords
