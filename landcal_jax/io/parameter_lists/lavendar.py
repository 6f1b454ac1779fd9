"""The parameter dict of LAVENDAR: {namelist file: {group: {parameter: [index, prior, (low, high)]}}}.

`index` counts from 0, as f90nml does; 'None' or None: the parameter is one number, no list. The forms
{parameter: [prior, (low, high)]} and any depth of dicts are read too. A file holds the dict alone, or as the value of
`opt_params` among other lines of Python. It is looked at with `ast` and never run: the dict has to be a literal.
"""

import ast
import dataclasses
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from landcal_jax.errors import complain
from landcal_jax.io.parameter_lists.entries import Entry, Odd, check_name

LARGEST = 2_000_000  # characters: the parser of Python takes some hundred times as much memory
NAME = "opt_params"
FORM = "[index, prior, (low, high)] or [prior, (low, high)]"
Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one prior stands: the keys that lead to it, its index, and the span of its text (line, column) in a file."""

    keys: Path
    index: int | None
    span: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        """How `patch_namelist` calls it: group.name or group.name(i), counted from 1."""
        return ".".join(self.keys[-2:]) + ("" if self.index is None else f"({self.index + 1})")


def read_text(text: str, source: str, odd: Odd) -> list[Entry]:
    """The entries of a file; ValueError if it is no Python text, or if the dict is no literal."""
    if len(text) > LARGEST:
        raise ValueError(complain(f"a dict of parameters of at most {LARGEST / 1e6:g} MB in {source}", f"{len(text) / 1e6:.3g} MB",
                                  "a file with the dict alone"))
    try:
        with warnings.catch_warnings():  # of escapes in strings that are none of ours
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise ValueError(complain(f"a dict {{file: {{group: {{name: {FORM}}}}}}} in {source}",
                                  f"text that is no Python{line}", "compare with the setup of a LAVENDAR experiment")) from error
    node = _dict_node(tree, source)
    starts = _line_starts(text)
    entries = [entry for keys, value in _leaves(node, (), source) for entry in [_entry_of_node(keys, value, source, starts, text)]]
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and getattr(statement.targets[0], "id", "") == "prior_err":
            odd.add("prior_err in the file (standard deviation as a share of the prior) is not used; "
                    "prior= and share= say what the prior is")
    return _named(entries, source)


def read_dict(given: Mapping[str, Any], source: str) -> list[Entry]:
    """The entries of a dict."""
    def leaves(part: Mapping[Any, Any], keys: Path) -> Iterator[tuple[Path, Any]]:
        for key, value in part.items():
            if isinstance(value, Mapping):
                yield from leaves(value, (*keys, str(key)))
            else:
                yield (*keys, str(key)), value

    return _named([_entry(keys, value, f"{'/'.join(keys)} of {source}", None) for keys, value in leaves(given, ())], source)


def _dict_node(tree: ast.Module, source: str) -> ast.Dict:
    """The last assignment to opt_params, else the only dict of the file."""
    dicts = []
    for statement in tree.body:
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Dict):
            names = [getattr(target, "id", "") for target in getattr(statement, "targets", [])]
            dicts.append((NAME in names, value))
    named = [value for is_named, value in dicts if is_named]
    if named:
        return named[-1]
    if len(dicts) == 1:
        return dicts[0][1]
    raise ValueError(complain(f"one dict, or one with the name {NAME}, in {source}", f"{len(dicts)} dicts without that name"
                              if dicts else "none that is written out as a literal", f"{NAME} = {{...}}"))


def _leaves(node: ast.Dict, keys: Path, source: str) -> Iterator[tuple[Path, ast.expr]]:
    for key, value in zip(node.keys, node.values, strict=True):
        if not isinstance(key, ast.Constant):
            raise ValueError(complain(f"names in quotes as keys of the dict in {source}, line {value.lineno}",
                                      "something else", "write the dict out"))
        here = (*keys, str(key.value))
        if isinstance(value, ast.Dict):
            yield from _leaves(value, here, source)
        else:
            yield here, value


def _entry_of_node(keys: Path, node: ast.expr, source: str, starts: list[int], text: str) -> Entry:
    where = f"line {node.lineno} of {source}"
    try:
        value = ast.literal_eval(node)
        if re.search(r"\d_\d", ast.get_source_segment(text, node) or ""):  # 5_3 is 53 in Python, and 5.3 with a damaged byte in a file
            raise ValueError
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        code = (ast.get_source_segment(text, node) or "")[:60]
        raise ValueError(complain(f"numbers, {FORM}, for {keys[-1]} in {where}", f"{code!r}, which is not run",
                                  "write the numbers out")) from error
    entry = _entry(keys, value, where, None)
    prior = node.elts[-2]
    span = (starts[prior.lineno - 1] + _characters(text, starts, prior.lineno, prior.col_offset),
            starts[prior.end_lineno - 1] + _characters(text, starts, prior.end_lineno, prior.end_col_offset))
    entry.cells = dataclasses.replace(entry.cells, span=span)
    entry.default_text = text[span[0]:span[1]]
    return entry


def _line_starts(text: str) -> list[int]:
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    return starts


def _characters(text: str, starts: list[int], line: int, column: int) -> int:
    """Columns of `ast` count bytes of UTF-8."""
    return len(text[starts[line - 1]:starts[line] - 1].encode()[:column].decode(errors="ignore"))


def _entry(keys: Path, value: Any, where: str, span: tuple[int, int] | None) -> Entry:
    name = keys[-1]
    check_name(name, where)
    fits = isinstance(value, (list, tuple)) and len(value) in (2, 3) and isinstance(value[-1], (list, tuple)) and len(value[-1]) == 2
    index = value[0] if fits and len(value) == 3 else None
    index = None if index == "None" else index
    numbers = (value[-2], *value[-1]) if fits else ()
    fits = fits and all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    if not fits or not (index is None or (type(index) is int and index >= 0)):
        raise ValueError(complain(f"{FORM} for {name} in {where}", repr(value)[:80], "index counts from 0; finite numbers"))
    prior, low, high = (np.asarray(float(number)) for number in numbers)
    place = "/".join(keys[:-1]) + ("" if index is None else f"[{index}]")
    return Entry(name, where, low, high, prior, place=place, default_text=repr(value[-2]), cells=Place(keys, index, span))


def _named(entries: list[Entry], source: str) -> list[Entry]:
    """Names that stand in several groups get the group in front."""
    if not entries:
        raise ValueError(complain(f"at least one parameter {FORM} in {source}", "an empty dict", "fill it"))
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            entry.name = ".".join(entry.cells.keys)
    return entries


def text_with(text: str, values: Mapping[Place, float]) -> str:
    """The text of a file with other priors; everything else stays as it is."""
    for place, value in sorted(values.items(), key=lambda item: item[0].span, reverse=True):
        text = text[:place.span[0]] + repr(value) + text[place.span[1]:]
    return text


def dict_with(given: Mapping[str, Any], values: Mapping[Path, float]) -> dict[str, Any]:
    """A copy of the dict with other priors."""
    def copied(part: Mapping[Any, Any], keys: Path) -> dict[str, Any]:
        result = {}
        for key, value in part.items():
            here = (*keys, str(key))
            if isinstance(value, Mapping):
                result[key] = copied(value, here)
            elif here in values:
                result[key] = type(value)([*value[:-2], values[here], value[-1]])
            else:
                result[key] = value
        return result

    return copied(given, ())
