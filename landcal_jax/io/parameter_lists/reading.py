"""Lists of parameters as model centres keep them: read as a ParameterSpace, and written back without loss.

    table = read_parameters("params.csv")             # CLM-PPE and CalLMIP, ecLand, LAVENDAR, namelists, landcal's own
    print(table)                                      # what `landcal parameters FILE` shows
    problem = ...(table.space)                        # the prior of a calibration
    table.values(theta)                               # what the model takes: groups resolved into their members
    write_parameters(table, "new.csv", theta=theta)   # the same list with new defaults
    patch_namelist("pft_params.nml", theta, "run/pft_params.nml")

| format     | recognised by                                   | described in                          |
|------------|-------------------------------------------------|---------------------------------------|
| `CLM`      | columns name (or param), min, max               | `landcal_jax.io.parameter_lists.clm`       |
| `ecLand`   | columns Parameter, Value, Min, Max              | `landcal_jax.io.parameter_lists.ecland`    |
| `LAVENDAR` | a dict, or a file with one (`opt_params = {..}`) | `landcal_jax.io.parameter_lists.lavendar`  |
| `namelist` | `&group`                                        | `landcal_jax.io.parameter_lists.namelists`            |
| `landcal`  | columns name, prior                             | `landcal_jax.parameter_tables`        |

Sheets are CSV (commas, semicolons, tabs), XLSX or a DataFrame. Nothing in a file is run: formulas are not evaluated,
dicts are read as literals, and 48*3600 is no number.

Rules. An excluded parameter stays in the space, fixed at its default; without a known default it is left out and the
model keeps its own. Bounds in percent of an unknown default become a factor on it, NAME_factor. Elements with a range
of zero width, or NaN (bare ground), are fixed. Parameters with one flag move together: the space has one element with
the name of the flag, the position between the bounds that all members share (0 all at their min, 1 all at their max),
and `values` gives the members. Whatever was decided is said in `odd`.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from landcal_jax.errors import complain
from landcal_jax.io.files import open_netcdf, read_bytes
from landcal_jax.io.parameter_lists import entries as parameter_entries
from landcal_jax.io.parameter_lists.clm import read_clm
from landcal_jax.io.parameter_lists.ecland import read_ecland
from landcal_jax.io.parameter_lists.entries import Entry, Odd, Resolved, Spec
from landcal_jax.io.parameter_lists.lavendar import read_dict, read_text
from landcal_jax.io.parameter_lists.namelists import patch_namelist as patch_namelist
from landcal_jax.io.parameter_lists.namelists import read_namelist, text_of
from landcal_jax.io.parameter_lists.sheets import Sheet, as_text, read_sheet, sheet_of_frame
from landcal_jax.io.parameter_lists.table import ParameterTable as ParameterTable
from landcal_jax.io.parameter_lists.writing import WANTED
from landcal_jax.io.parameter_lists.writing import write_parameters as write_parameters

PRIORS = ("uniform", "truncated_normal")


def read_parameters(
    source: str | Path | Mapping[str, Any] | pd.DataFrame,
    *,
    prior: str = "uniform",
    share: float = 0.4,
    relative_range: float | None = None,
    pft: Sequence[str] | None = None,
    only: Sequence[str] | None = None,
    defaults: Mapping[str, Any] | str | Path | None = None,
) -> ParameterTable:
    """Read a list of parameters: a file, a LAVENDAR dict or a DataFrame; the module says which formats there are.

    `prior`: "uniform" between the bounds, or "truncated_normal" about the default with a standard deviation of `share`
    times the range. Tables of landcal itself say their priors.
    `relative_range`: a range of this share of the default to both sides for included parameters without bounds.
    `pft`: labels of the plant functional types. `only`: the parameters (or flags) that are free; all others are fixed.
    `defaults`: defaults that a CLM list lacks, by name, or the NetCDF parameter file of the model; they go before those
    of the list.

    Raises FileNotFoundError, or ValueError with the row for what cannot be read or cannot be a space.
    """
    if prior not in PRIORS:
        raise ValueError(complain(f"a prior out of {', '.join(PRIORS)}", repr(prior), "a landcal table for other priors"))
    for name, number in (("share", share), ("relative_range", relative_range)):
        if number is not None and not (np.isfinite(number) and number > 0):
            raise ValueError(complain(f"{name} above 0", repr(number), f"{name}=0.2"))
    if pft is not None and (isinstance(pft, str) or len(set(map(str, pft))) < len(pft)):
        raise ValueError(complain("a list of different labels as pft", repr(pft), "one label a type"))
    odd = Odd()
    kind, origin, name = _opened(source)
    if isinstance(origin, Sheet) and isinstance(source, (str, Path)) and _without_end(Path(source)):
        odd.add("The last line has no line end: check that the file is whole")
    if kind == "landcal":
        if prior != "uniform" or relative_range is not None or defaults is not None:
            raise ValueError(complain("no prior=, relative_range= or defaults= for a table of landcal", name,
                                      "the table says its priors and defaults itself"))
        return _landcal_table(origin, name, only, odd)
    if defaults is not None and kind != "CLM":
        raise ValueError(complain("defaults= for a list of CLM", f"{name}, {kind}", "leave it out: the list has its defaults"))
    coords: dict[str, tuple[str, ...]] = {}
    if kind == "CLM":
        entries, coords = read_clm(origin, odd, pft, _defaults(defaults))
    elif kind == "ecLand":
        entries, coords = read_ecland(origin, odd, pft, relative_range)
    elif kind == "namelist":
        entries, coords = read_namelist(origin, name, odd, pft, relative_range)
    else:
        entries = read_text(origin, name, odd) if isinstance(origin, str) else read_dict(origin, name)
    _select(entries, only, name)
    parameter_entries.include_groups(entries, odd)
    if not entries:
        raise ValueError(complain(f"at least one parameter in {name}", "none",
                                  "a file with numbers below its column names, or in its groups"))
    frame = origin.frame if isinstance(origin, Sheet) else _frame_of(entries)
    return _table(name, kind, frame, entries, coords, odd, prior, share, relative_range, origin)


def _table(name, kind, frame, entries, coords, odd, prior, share, relative_range, origin) -> ParameterTable:
    resolved = parameter_entries.resolve(entries, odd, name, relative_range)
    for entry in entries:
        parameter_entries.check_name(entry.name, entry.where, coords)
    if all(spec.fixed.all() for spec in resolved.specs):
        odd.add("No parameter is free, so that there is no space to calibrate in")
    groups = {group: tuple(entry.name for entry in members) for group, members in resolved.members.items()}
    return ParameterTable(name, kind, frame, tuple(entries), groups, coords, odd.sentences, prior, share, resolved, origin)


def _opened(source: Any) -> tuple[str, Any, str]:
    """The format, what its reader takes (a Sheet, the text, the dict), and what errors call it."""
    if isinstance(source, pd.DataFrame):
        sheet = sheet_of_frame(source, WANTED)
        return _kind_of(sheet), sheet, "the DataFrame"
    if isinstance(source, Mapping):
        return "LAVENDAR", source, "the dict"
    if not isinstance(source, (str, Path)):
        raise TypeError(complain("a file, a dict or a DataFrame with parameters", type(source).__name__, "the name of the file"))
    path = Path(source)
    content = read_bytes(path, "a list of parameters")
    if path.suffix.lower() not in (".csv", ".tsv") and not content.startswith(b"PK\x03\x04") and b"\0" not in content:
        text = text_of(path)
        lines = [line.strip() for line in text.splitlines()]
        first = next((line for line in lines if line and line[0] not in "!#"), "")
        if path.suffix.lower() == ".nml" or first.startswith(("&", "$")):
            return "namelist", text, str(path)
        if path.suffix.lower() == ".py" or first.startswith("{") or any(line.startswith("opt_params") for line in lines):
            return "LAVENDAR", _utf8(text), str(path)
    sheet = read_sheet(path, WANTED)
    return _kind_of(sheet), sheet, str(path)


def _without_end(path: Path) -> bool:
    """Whether a text ends within a line: its last number may be cut."""
    content = read_bytes(path, "a list of parameters")
    return not content.startswith(b"PK\x03\x04") and not content.endswith((b"\n", b"\r"))


def _utf8(text: str) -> str:
    try:
        return text.encode("latin-1").decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        return text.replace("\r\n", "\n").replace("\r", "\n")


def _kind_of(sheet: Sheet) -> str:
    columns = set(sheet.columns)
    if {"name", "prior"} <= columns:
        return "landcal"
    return "ecLand" if "parameter" in columns else "CLM"


def _defaults(given: Mapping[str, Any] | str | Path | None) -> dict[str, np.ndarray]:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        return {str(name): np.asarray(value, float) for name, value in given.items()}
    dataset = open_netcdf(given, "a NetCDF file with the defaults of parameters")
    return {str(name): np.asarray(variable.values, float) for name, variable in dataset.variables.items()
            if variable.dtype.kind in "fiu"}


def _select(entries: list[Entry], only: Sequence[str] | None, source: str) -> None:
    if only is None:
        return
    only = [only] if isinstance(only, str) else list(only)
    names = {entry.name for entry in entries} | {entry.group for entry in entries if entry.group}
    for name in only:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=2)
            raise ValueError(complain(f"names of parameters of {source} in only=", repr(name), " or ".join(near) or "check the name"))
    for entry in entries:
        entry.included = entry.name in only or (bool(entry.group) and entry.group in only)


def _frame_of(entries: Sequence[Entry]) -> pd.DataFrame:
    def text(values: np.ndarray) -> str:
        return "" if np.isnan(values).all() else ",".join(as_text(float(value)) for value in np.ravel(values))

    return pd.DataFrame({"name": [entry.name for entry in entries], "place": [entry.place for entry in entries],
                         "value": [entry.default_text for entry in entries], "low": [text(entry.low) for entry in entries],
                         "high": [text(entry.high) for entry in entries]}, dtype=object)


def _landcal_table(sheet: Sheet, name: str, only: Sequence[str] | None, odd: Odd) -> ParameterTable:
    """A table of landcal itself: the space is read by `parameter_tables`, row numbers by the sheet.

    The numbers are those of the table with all their digits, whatever the precision that JAX computes in.
    """
    from landcal_jax import parameter_tables
    from landcal_jax.parameters import ParameterSpace
    from landcal_jax.transforms import table_values

    body = pd.DataFrame([sheet.rows[row] for row in sheet.body], columns=sheet.rows[sheet.header], dtype=object)
    pieces = parameter_tables.from_dataframe(body, name, [row + 1 for row in sheet.body])
    space = ParameterSpace._of(pieces)
    if only is not None:
        space = space.only(*([only] if isinstance(only, str) else only))
    entries, specs = [], []
    for part, parameter in pieces[0].items():
        elements, shape = space.layout.elements(part), space.parameters[part].default.shape
        fixed = ~np.asarray(space.layout.free[elements]).reshape(shape)
        labels = np.array(space.layout.labels[elements], object).reshape(shape)
        default, numbers = np.broadcast_to(parameter.default, shape), table_values(parameter.transform)
        low, high = (np.broadcast_to(np.asarray(numbers.get(side, getattr(parameter, side)), float), shape) for side in ("low", "high"))
        stated = {label: number for label, number in pieces[2].items() if number is not None}
        value = np.array([stated.get(str(label), number) for label, number in zip(labels.flat, default.flat, strict=True)]).reshape(shape)
        at = f" at {value.item():.6g}" if value.size == 1 and value.item() != default.item() else ""
        status = f"fixed{at}" if fixed.all() else f"free, {fixed.sum()} of {fixed.size} elements fixed" if fixed.any() else "free"
        cells = _landcal_cells(sheet, part, parameter.dims, space.coords)
        blank = all(column is None or not sheet.rows[row][column] for row, column in cells)
        entries.append(Entry(part, f"row {cells[0][0] + 1} of {name}", low, high, np.full(shape, np.nan) if blank else default,
                             dims=parameter.dims, units=parameter.units, description=parameter.description,
                             place=parameter_tables.in_words(parameter.transform), cells=cells, status=status))
        specs.append(Spec(part, low, high, default, fixed, value, parameter.dims, parameter.units, parameter.description))
    return ParameterTable(name, "landcal", sheet.frame, tuple(entries), {}, dict(space.coords), odd.sentences, "of the table", 0.0,
                          Resolved(tuple(specs), {}), sheet, space)


def _landcal_cells(sheet: Sheet, name: str, dims: Sequence[str], coords: Mapping[str, Sequence[str]]) -> list[tuple[int, int | None]]:
    """The cell of the default of every element, in the order of the space."""
    header = sheet.rows[sheet.header]
    default = header.index("default") if "default" in header else None
    place = {}
    for row in sheet.body:
        if sheet.rows[row][header.index("name")] == name:
            place[tuple(sheet.rows[row][header.index(dim)] for dim in dims)] = (row, default)
    return [place[tuple(coords[dim][i] for dim, i in zip(dims, index, strict=True))]
            for index in np.ndindex(*(len(coords[dim]) for dim in dims))]
