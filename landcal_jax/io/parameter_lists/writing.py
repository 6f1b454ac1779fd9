"""Writing a list of parameters: only what theta changes, everything else as it was read."""

import pprint
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from landcal_jax.errors import complain
from landcal_jax.io.parameter_lists.entries import INSIDE, Entry
from landcal_jax.io.parameter_lists.lavendar import dict_with, text_with
from landcal_jax.io.parameter_lists.namelists import patched, put_in_place
from landcal_jax.io.parameter_lists.sheets import Sheet, as_text, sheet_of_frame
from landcal_jax.io.parameter_lists.table import ParameterTable

if TYPE_CHECKING:
    from landcal_jax.parameters import ParameterSpace

# Names of columns, two of which mark the row of column names of a sheet.
WANTED = ("name", "prior", "param", "min", "max", "parameter", "value")
SHEETS = ("CLM", "ecLand", "landcal")


def write_parameters(
    table: "ParameterTable | ParameterSpace",
    path: str | Path,
    *,
    theta: Mapping[str, Any] | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write a list of parameters in the format it was read from, or a space or list as a table of landcal.

    Cells that do not change are written verbatim. With theta the defaults become those of theta; one that the space has
    only moved off its bound stays as it is. A factor on an unknown default is written in words.
    `format`: None for the format of the list, or "landcal". A sheet is CSV or, with the suffix .xlsx, a workbook.
    The file appears only when it is complete. Raises ValueError for a suffix that does not fit the format, FileExistsError if
    the file is there and `overwrite` is False.
    """
    path = Path(path)
    put_in_place(path, _content(table, path, theta, format), overwrite=overwrite)


def _content(table: "ParameterTable | ParameterSpace", path: Path, theta: Mapping[str, Any] | None, format: str | None) -> bytes:
    """What `write_parameters` writes."""
    if format not in (None, "landcal", getattr(table, "format", None)):
        raise ValueError(complain("the format of the list, or 'landcal'", repr(format), "leave format out"))
    if not isinstance(table, ParameterTable):
        return _landcal_content(table, theta, path)
    if format == "landcal" and table.format != "landcal":
        return _landcal_content(table.space, None if theta is None else table._complete(theta), path)
    moved = [] if theta is None else _moved(table, table._complete(theta))
    if table.format in SHEETS:
        _check_suffix(path, (".csv", ".txt", ".xlsx"), table.format)
        return table._origin.written(_changes(table, moved), path.suffix.lower())
    if table.format == "namelist":
        text = table._origin
        values = {entry.cells: np.where(changed, new, np.nan) for entry, new, changed in moved if changed.any()}
        return (patched(text, values, table.source) if values else text).encode("latin-1")
    _check_suffix(path, (".py", ".txt", ".json", ""), table.format)
    values = {entry.cells: _plain(new) for entry, new, changed in moved if changed.any()}
    if isinstance(table._origin, str):
        text = text_with(table._origin, values)
    else:
        given = dict_with(table._origin, {place.keys: value for place, value in values.items()})
        text = f"opt_params = {pprint.pformat(given, sort_dicts=False)}\n"
    return text.encode()


def _check_suffix(path: Path, suffixes: Sequence[str], format: str) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(complain(f"a file name that ends with {', '.join(filter(None, suffixes))} for a list of {format}", path.name,
                                  f"{path.stem}{suffixes[0]}"))


def _landcal_content(space: "ParameterSpace", theta: Mapping[str, Any] | None, path: Path) -> bytes:
    _check_suffix(path, (".csv", ".xlsx"), "landcal")
    frame = space.to_dataframe()
    if theta is not None:
        frame.loc[np.asarray(space.layout.free), "default"] = np.asarray(space.flatten(theta), float)
    if space.default.dtype == np.float32:  # the digits of the number that was meant, not those of its nearest neighbour in base 2
        numbers = list(frame.select_dtypes("number"))
        frame[numbers] = frame[numbers].map(lambda number: float(str(np.float32(number))))
    if path.suffix.lower() == ".csv":
        from landcal_jax import parameter_tables

        return parameter_tables.csv_text(frame).encode()
    return sheet_of_frame(frame, WANTED).written({}, ".xlsx")


def _moved(table: ParameterTable, theta: Mapping[str, Any]) -> list[tuple[Entry, np.ndarray, np.ndarray]]:
    """Entry, new value, which elements to write: those that theta moves, and those without a default in the list."""
    start = table._complete(None)
    fixed = {spec.name: spec.fixed for spec in table._resolved.specs}
    values, before = table.values(theta), table.values(None)
    result = []
    for entry in table.entries:
        if not entry.status.startswith(("free", "moves")) or entry.name not in values:
            continue
        own = entry.name if entry.name in start else entry.group
        new, old = np.asarray(values[entry.name]), np.asarray(before[entry.name])
        if new.shape != old.shape:
            raise ValueError(complain(f"one value for each element of {entry.name}, to write them", f"shape {new.shape}",
                                      "one member of theta"))
        untouched = _same(np.asarray(theta[own]), np.asarray(start[own])) & _nearly(entry, new)
        changed = ~np.broadcast_to(untouched, new.shape) & ~_same(new, np.broadcast_to(entry.default, new.shape))
        blank = ~np.isfinite(np.broadcast_to(entry.default, new.shape)) & np.isfinite(new)
        result.append((entry, new, (changed | blank) & ~np.broadcast_to(fixed.get(entry.name, False), new.shape)))
    return result


def _nearly(entry: Entry, new: np.ndarray) -> np.ndarray:
    """Whether the space has moved the default inside by no more than `INSIDE` of the range, and rounded it."""
    low, high, default = np.broadcast_arrays(entry.low, entry.high, entry.default)
    with np.errstate(invalid="ignore"):
        return np.abs(new - default) <= 1.01 * INSIDE * np.abs(high - low)


def _same(new: np.ndarray, old: np.ndarray) -> np.ndarray:
    return np.asarray((new == old) | ((new.dtype == np.float32) & (new == old.astype(np.float32))))


def _plain(value: Any) -> float:
    """A Python float; of a float32 the one with the fewest digits that is the same float32."""
    return float(str(value)) if np.asarray(value).dtype == np.float32 else float(value)


def _changes(table: ParameterTable, moved: Sequence[tuple[Entry, np.ndarray, np.ndarray]]) -> dict[tuple[int, int], str | float]:
    """Cells of the sheet that change. A list without a column for defaults gets one, `default`."""
    sheet: Sheet = table._origin
    added = len(sheet.rows[sheet.header])
    changes: dict[tuple[int, int], str | float] = {}
    for entry, new, changed in moved:
        if not changed.any():
            continue
        cells = [(row, added if column is None else column) for row, column in entry.cells]
        if any(column == added for _, column in cells):
            changes[sheet.header, added] = "default"
        if entry.description.startswith("factor on the default"):
            changes[cells[0]] = f"{as_text(_plain(new))} times the default"
        elif len(cells) == 1 and new.ndim:
            known = np.isfinite(np.broadcast_to(entry.default, new.shape))
            kept, default = known & ~changed, np.broadcast_to(entry.default, new.shape)
            old = entry.default_text.replace(";", ",").split(",")
            texts = [(old[i].strip() if len(old) == new.size else as_text(float(default[i]))) if kept[i] else as_text(_plain(new[i]))
                     for i in range(new.size)]
            changes[cells[0]] = ",".join(texts)
        else:
            flat, mask = np.ravel(new), np.ravel(changed)
            changes |= {cell: _plain(flat[i]) for i, cell in enumerate(cells) if mask[i]}
    return changes
