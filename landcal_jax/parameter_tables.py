"""Parameter tables: one row an element, for CSV files and spreadsheets; and Datasets with the priors in attributes.

Columns of a table, in any order; a cell that does not apply is left blank:

    name            the parameter
    pft, site, ...  every column that is not named here holds the labels of a dim; blank: the parameter lacks that dim
    default         the value that the model uses today; blank in all rows of a parameter: the prior median
    prior           normal (mean, sd), truncated_normal (mean, sd, low, high; the mean and sd before the cut, a blank
                    bound is infinite), log_normal (median, sd_of_log), uniform (low, high), log_uniform (low, high)
    mean, sd, median, sd_of_log, low, high      the numbers that the prior needs, no others
    units, description
    fixed           yes or no; blank: no
    fixed_at        the value of a fixed element; blank: its default

Numbers are written with all their digits, so that a table read back gives the same space.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import xarray as xr
from jax.typing import ArrayLike

from landcal_jax.errors import Complaint, complain
from landcal_jax.parameter_layout import Layout
from landcal_jax.priors import Parameter
from landcal_jax.transforms import TABLE_KINDS, check_transform, in_words, table_values

NUMBERS = ("mean", "sd", "median", "sd_of_log", "low", "high")
COLUMNS = ("name", "default", "prior", *NUMBERS, "units", "description", "fixed", "fixed_at")
CORRELATION = "prior_correlation"
# What ParameterSpace is made of: parameters, coords, fixed (label -> value or None), correlation.
Pieces = tuple[dict[str, Parameter], dict[str, tuple[str, ...]], dict[str, Any], np.ndarray | None]


# ---------------------------------------------------------------------- tables


def to_dataframe(parameters: Mapping[str, Parameter], layout: Layout, constant: ArrayLike) -> pd.DataFrame:
    """One row an element. A prior that is not in the list above, or dims in contradicting orders, is refused."""
    dims = _order_of_dims(layout)
    rows, constant = [], np.asarray(constant)
    for name, shape in zip(layout.names, layout.shapes, strict=True):
        parameter, part = parameters[name], layout.elements(name)
        _check_kind(parameter, name, "a table")
        numbers = table_values(parameter.transform)
        for position, index in enumerate(np.ndindex(shape), part.start):
            labels = {dim: dict(layout.coords)[dim][i] for dim, i in zip(parameter.dims, index, strict=True)}
            row: dict[str, Any] = {"name": name, **labels, "default": float(parameter.default[index]),
                                   "prior": parameter.transform.kind}
            row |= {key: float(values[index]) for key, values in numbers.items() if np.isfinite(values[index])}
            row |= {"units": parameter.units, "description": parameter.description,
                    "fixed": "no" if layout.free[position] else "yes"}
            if not layout.free[position]:
                row["fixed_at"] = float(constant[position])
            rows.append(row)
    columns = ["name", *dims, *COLUMNS[1:]]
    frame = pd.DataFrame(rows, columns=columns)
    text = ["name", *dims, "prior", "units", "description", "fixed"]
    frame[text] = frame[text].astype(object).where(frame[text].notna(), "")
    return frame


def to_csv(frame: pd.DataFrame, path: str | Path) -> None:
    """Write a table with every digit of its numbers."""
    Path(path).write_text(csv_text(frame), encoding="utf-8", newline="")


def csv_text(frame: pd.DataFrame) -> str:
    """A table as CSV with every digit of its numbers."""
    def cell(value: Any) -> str:
        return ("" if np.isnan(value) else repr(float(value))) if isinstance(value, float) else str(value)

    texts = pd.DataFrame({column: [cell(value) for value in frame[column]] for column in frame})
    return texts.to_csv(index=False, lineterminator="\n")


def from_csv(path: str | Path) -> Pieces:
    """Read a table that `to_csv`, a person or a spreadsheet has written."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skipinitialspace=True)
    return from_dataframe(frame, str(path))


def from_dataframe(frame: pd.DataFrame, source: str = "the table", lines: Sequence[int] | None = None) -> Pieces:
    """The pieces of a ParameterSpace from a table; `source` and `lines` are what errors call it and its rows."""
    dims = _check_columns([str(column) for column in frame.columns], source)
    rows: dict[str, list[dict[str, Any]]] = {}
    for line, record in zip(lines or range(2, len(frame) + 2), frame.to_dict("records"), strict=True):
        row = {str(key).strip(): _clean(value) for key, value in record.items()} | {"line": f"line {line} of {source}"}
        if row["name"] == "":
            raise ValueError(complain(f"a parameter name in {row['line']}", "a blank cell",
                                      "fill it, or remove the line"))
        rows.setdefault(str(row["name"]), []).append(row)
    coords = {dim: tuple(dict.fromkeys(_text(row[dim]) for part in rows.values() for row in part if row[dim] != ""))
              for dim in dims}
    coords = {dim: labels for dim, labels in coords.items() if labels}
    parameters: dict[str, Parameter] = {}
    fixed: dict[str, Any] = {}
    for name, part in rows.items():
        parameters[name], fixed_part = _parameter_of_rows(name, part, coords)
        fixed |= fixed_part
    return parameters, coords, fixed, None


def _order_of_dims(layout: Layout) -> list[str]:
    dims = list(dict.fromkeys(dim for dims in layout.dims for dim in dims))
    dims = [dim for dim, _ in layout.coords if dim in dims]
    for name, own in zip(layout.names, layout.dims, strict=True):
        if [dim for dim in dims if dim in own] != list(own):
            raise ValueError(complain(f"dims in the order of coords, {dims}, for a table", f"{own} for {name!r}",
                                      "to_dataset(), which keeps any order, or reorder the coords"))
        clash = sorted(set(own) & set(COLUMNS))
        if clash:
            raise ValueError(complain(f"dims of {name!r} that are no columns of a parameter table", f"{clash}",
                                      "rename the dim, or to_dataset()"))
    return dims


def _check_kind(parameter: Parameter, name: str, where: str) -> None:
    if parameter.transform.kind not in TABLE_KINDS:
        raise ValueError(complain(f"a prior out of {', '.join(TABLE_KINDS)} to write {name!r} to {where}",
                                  type(parameter.prior).__name__, "one of these priors, or keep the space in a script"))


def _check_columns(columns: list[str], source: str) -> list[str]:
    columns = [column.strip() for column in columns]
    missing = [column for column in ("name", "prior") if column not in columns]
    if missing or len(set(columns)) < len(columns):
        raise ValueError(complain(f"the columns name and prior, and each column once, in {source}", ", ".join(columns),
                                  f"add {' and '.join(missing)}" if missing else "remove the repeated column"))
    dims = [column for column in columns if column not in COLUMNS]
    for dim in dims:
        near = difflib.get_close_matches(dim.lower(), COLUMNS, n=1, cutoff=0.75)
        if near or not dim:
            raise ValueError(complain(f"the columns {', '.join(COLUMNS)}, or the name of a dim, in {source}", repr(dim),
                                      f"rename it to {near[0]!r}" if near else "name or remove the column"))
    return dims


def _parameter_of_rows(
    name: str, rows: list[dict[str, Any]], coords: Mapping[str, Sequence[str]]
) -> tuple[Parameter, dict[str, Any]]:
    """A parameter from its rows, and the labels of those that are fixed."""
    first = rows[0]
    dims = tuple(dim for dim in coords if first[dim] != "")
    for column in ("prior", "units", "description"):
        differing = [row for row in rows if row.get(column, "") != first.get(column, "")]
        if differing:
            raise ValueError(complain(f"one {column} for all rows of {name!r}: {first[column]!r}",
                                      f"{differing[0][column]!r} in {differing[0]['line']}", "make them equal"))
    kind = str(first["prior"])
    if kind not in TABLE_KINDS:
        raise ValueError(complain(f"a prior out of {', '.join(TABLE_KINDS)} in {first['line']} ({name})", repr(kind),
                                  (difflib.get_close_matches(kind, TABLE_KINDS, n=1) or ["truncated_normal"])[0]))
    rows = _in_order(name, rows, dims, coords)
    shape = tuple(len(coords[dim]) for dim in dims)
    used = _numbers_of(kind)
    for row in rows:
        extra = [column for column in NUMBERS if column not in used and row.get(column, "") != ""]
        if extra:
            raise ValueError(complain(f"only {', '.join(used)} for the {kind} prior of {name!r} in {row['line']}",
                                      f"also {', '.join(extra)}", "blank them, or another prior (truncated_normal)"))
    values = {column: np.array([_prior_number(row, column, kind) for row in rows]).reshape(shape) for column in used}
    transform = TABLE_KINDS[kind](**values)
    check_transform(transform, f"parameter {name!r} ({first['line']})")
    default = None
    if any(row.get("default", "") != "" for row in rows):
        default = np.array([_number(row, "default") for row in rows]).reshape(shape)
    units, description = str(first.get("units", "") or "1"), str(first.get("description", ""))
    try:
        parameter = Parameter(transform, dims, units, description, default)
    except ValueError as error:
        raise ValueError(Complaint(f"{error}\n(parameter {name!r}, from {first['line']})")) from error
    fixed = {_label(name, row, dims): _fixed_at(row) for row in rows if _is_fixed(row)}
    return parameter, fixed


def _in_order(
    name: str, rows: list[dict[str, Any]], dims: tuple[str, ...], coords: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """The rows of one parameter in the order of its elements: each combination of labels exactly once."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        own = tuple(dim for dim in coords if row[dim] != "")
        if own != dims:
            raise ValueError(complain(f"labels along {dims or 'no dim'} in all rows of {name!r}",
                                      f"labels along {own or 'no dim'} in {row['line']}", "fill or blank the cells"))
        key = tuple(_text(row[dim]) for dim in dims)
        if key in found:
            raise ValueError(complain(f"one row for {_label(name, row, dims)}",
                                      f"{found[key]['line']} and {row['line']}", "remove one of them"))
        found[key] = row
    wanted = [tuple(coords[dim][i] for dim, i in zip(dims, index, strict=True))
              for index in np.ndindex(tuple(len(coords[dim]) for dim in dims))]
    missing = [key for key in wanted if key not in found]
    if missing:
        raise ValueError(complain(f"a row of {name!r} for every label of {', '.join(dims)}",
                                  f"none for {','.join(missing[0])} ({len(missing)} missing)",
                                  "add the rows; they may be fixed"))
    return [found[key] for key in wanted]


def _numbers_of(kind: str) -> tuple[str, ...]:
    return tuple(name for name in NUMBERS if name in TABLE_KINDS[kind].__dataclass_fields__)


def _prior_number(row: Mapping[str, Any], column: str, kind: str) -> float:
    if kind == "truncated_normal" and column in ("low", "high") and row.get(column, "") == "":
        return -np.inf if column == "low" else np.inf
    return _number(row, column)


def _number(row: Mapping[str, Any], column: str) -> float:
    cell = row.get(column, "")
    try:
        # float() takes 1_000 for 1000; nobody means that in a table.
        return float(str(cell).replace("_", "?"))
    except (ValueError, TypeError) as error:
        raise ValueError(complain(f"a number in column {column!r}, {row['line']} ({row['name']})",
                                  "a blank cell" if cell == "" else repr(cell),
                                  "write it like 0.05 or 5e-2")) from error


def _is_fixed(row: Mapping[str, Any]) -> bool:
    cell = str(row.get("fixed", "")).lower()
    if cell not in ("", "yes", "no", "true", "false"):
        raise ValueError(complain(f"yes or no in column 'fixed', {row['line']} ({row['name']})", repr(row["fixed"]),
                                  "yes here, and the value in column 'fixed_at'"))
    is_fixed = cell in ("yes", "true")
    if not is_fixed and row.get("fixed_at", "") != "":
        raise ValueError(complain(f"fixed = yes beside the value in 'fixed_at', {row['line']} ({row['name']})",
                                  f"fixed = {cell or 'blank'}", "write yes, or blank 'fixed_at'"))
    return is_fixed


def _fixed_at(row: Mapping[str, Any]) -> float | None:
    return None if row.get("fixed_at", "") == "" else _number(row, "fixed_at")


def _label(name: str, row: Mapping[str, Any], dims: tuple[str, ...]) -> str:
    return f"{name}[{','.join(_text(row[dim]) for dim in dims)}]" if dims else name


def _clean(cell: Any) -> Any:
    """A cell without blanks around it; an empty one of any kind as ''."""
    if isinstance(cell, str):
        return cell.strip()
    return "" if cell is None or cell != cell or cell is pd.NA else cell


def _text(cell: Any) -> str:
    # A spreadsheet makes the labels 1, 2, 3 floats when other cells of the column are blank.
    return str(int(cell)) if isinstance(cell, float) and cell.is_integer() else str(cell)


# ---------------------------------------------------------------------- Datasets


def to_dataset(
    parameters: Mapping[str, Parameter],
    layout: Layout,
    constant: ArrayLike,
    theta: Mapping[str, jax.Array],
    correlation: ArrayLike | None,
) -> xr.Dataset:
    """One variable a parameter with the values of theta; priors, defaults and what is fixed are attributes."""
    variables, constant = {}, np.asarray(constant)
    for name in layout.names:
        parameter, part = parameters[name], layout.elements(name)
        attrs: dict[str, Any] = {"units": parameter.units, "long_name": parameter.description or name,
                                 "description": parameter.description, "prior": in_words(parameter.transform),
                                 "prior_kind": parameter.transform.kind, "default": _attribute(parameter.default)}
        if parameter.transform.kind in TABLE_KINDS:
            attrs |= {key: _attribute(values) for key, values in table_values(parameter.transform).items()}
        attrs |= {"low": _attribute(parameter.low), "high": _attribute(parameter.high)}
        attrs["fixed"] = " ".join("no" if free else "yes" for free in layout.free[part])
        if "yes" in attrs["fixed"]:
            attrs["fixed_at"] = _attribute(constant[part])
        variables[name] = (parameter.dims, np.asarray(theta[name]), attrs)
    coords = {dim: list(labels) for dim, labels in layout.coords}
    dataset = xr.Dataset(variables, coords=coords)
    if correlation is not None:
        labels = list(layout.labels)
        dataset = dataset.assign_coords(parameter=labels, parameter_2=labels)
        dataset[CORRELATION] = (("parameter", "parameter_2"), np.asarray(correlation),
                                {"units": "1", "long_name": "prior correlation of the whitened parameters"})
    return dataset


def from_dataset(dataset: xr.Dataset) -> Pieces:
    """The pieces of a ParameterSpace from the attributes that `to_dataset` has written."""
    parameters, fixed = {}, {}
    correlation = np.asarray(dataset[CORRELATION].values) if CORRELATION in dataset else None
    if correlation is not None:
        dataset = dataset.drop_vars([CORRELATION, *dataset[CORRELATION].dims], errors="ignore")
    coords = {str(dim): tuple(str(label) for label in dataset[dim].values.tolist())
              for dim in dataset.dims if dim in dataset.coords}
    for name, variable in dataset.data_vars.items():
        name, attrs, dims = str(name), variable.attrs, tuple(str(dim) for dim in variable.dims)
        kind = attrs.get("prior_kind")
        if kind not in TABLE_KINDS:
            raise ValueError(complain(f"an attribute prior_kind out of {', '.join(TABLE_KINDS)} on variable {name!r}",
                                      repr(kind), "a Dataset of ParameterSpace.to_dataset() with the usual priors"))
        values = {key: _from_attribute(attrs, key, variable.shape, name) for key in _numbers_of(kind)}
        transform = TABLE_KINDS[kind](**values)
        check_transform(transform, f"parameter {name!r}")
        default = _from_attribute(attrs, "default", variable.shape, name)
        parameters[name] = Parameter(transform, dims, attrs.get("units", "1"), attrs.get("description", ""), default)
        flags = [_is_fixed({"fixed": flag, "name": name, "line": "the attributes"})
                 for flag in str(attrs.get("fixed", "")).split()]
        if any(flags):
            constant = _from_attribute(attrs, "fixed_at", variable.shape, name)
            for flag, index in zip(flags, np.ndindex(variable.shape), strict=True):
                row = {dim: coords[dim][i] for dim, i in zip(dims, index, strict=True)}
                fixed |= {_label(name, row, dims): float(constant[index])} if flag else {}
    return parameters, coords, fixed, correlation


def _attribute(values: ArrayLike) -> float | list[float]:
    """A float where all elements agree, else a flat list: what a NetCDF attribute can hold."""
    flat = np.asarray(values, float).ravel()
    return float(flat[0]) if flat.size and (flat == flat[0]).all() else flat.tolist()


def _from_attribute(attrs: Mapping[Any, Any], key: str, shape: tuple[int, ...], name: str) -> np.ndarray:
    flat = np.asarray(attrs.get(key, []), float).ravel()
    if flat.size not in (1, int(np.prod(shape))):
        raise ValueError(complain(f"an attribute {key!r} with 1 or {int(np.prod(shape))} numbers on {name!r}",
                                  f"{attrs.get(key)!r}", "a Dataset that ParameterSpace.to_dataset() has written"))
    return np.full(shape, flat[0]) if flat.size == 1 else flat.reshape(shape)


# ---------------------------------------------------------------------- for people


def printed(parameters: Mapping[str, Parameter], fixed: Callable[[str], str]) -> str:
    """The rows of a printed space: name, dims, default, prior in words, units, what is fixed; columns aligned."""
    rows = []
    for name, parameter in parameters.items():
        low, high = np.min(parameter.default), np.max(parameter.default)
        default = f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"
        prior = in_words(parameter.transform)
        rows.append((name, ", ".join(parameter.dims), default, parameter.units, prior, fixed(name)))
    rows = [("name", "dims", "default", "units", "prior", ""), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    return "\n".join("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)
