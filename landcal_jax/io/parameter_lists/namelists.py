"""Fortran namelists of JULES, ecLand and others: what is in them, and the same file with other values.

Values are read with f90nml. Writing does not go through it, since it loses repeat counts (9*0.5) and comments:
`patch_namelist` replaces the characters of the values that change and nothing else, reads the result again, and
compares every value of the file before the result is put in place.
"""

import contextlib
import dataclasses
import difflib
import io
import os
import re
import tempfile
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import f90nml
import numpy as np

from landcal_jax.errors import complain
from landcal_jax.io.files import read_bytes
from landcal_jax.io.parameter_lists.entries import Entry, Odd

LARGEST = 20_000_000
MOST = 100_000  # elements of one array: a repeat count may announce any number of them
# The dim of the lists of a group, where the model gives it a meaning.
DIMS = {"jules_pftparm": "pft", "jules_triffid": "pft", "jules_cropparm": "crop", "jules_nvegparm": "surface"}
OUTSIDE = re.compile(r"[!#][^\n\r]*|[&$](?P<group>[A-Za-z_]\w*)|[^!#&$]+|.", re.DOTALL)
INSIDE = re.compile(
    r"""(?P<blank>\s+|[!#][^\n\r]*)|(?P<string>'(?:[^']|'')*'|"(?:[^"]|"")*")|(?P<end>/|[&$]end\b)|(?P<equals>=)|(?P<comma>,)
    |(?P<name>[A-Za-z_][\w%]*+\s*+(?:\((?P<index>[^()='"!]*+)\)(?:%\w+)*+\s*+)?(?==))|(?P<value>(?:\d+\*)?(?:'(?:[^']|'')*'|"(?:[^"]|"")*"|\([^()]*\)|[^\s,/='"!()&$]+)?)""",
    re.VERBOSE | re.IGNORECASE | re.DOTALL)
KIND = re.compile(r"[+-]?[\d.]+(?:[eEdD][+-]?\d+)?_\w+")
KEY = re.compile(r"(?:(?P<group>\w+)\.)?(?P<name>[A-Za-z_]\w*)(?:\((?P<index>\d+)\))?")


@dataclasses.dataclass
class Item:
    """One value of an assignment: its span in the text, how often it is repeated, its text ('' for a null value)."""

    start: int
    end: int
    repeat: int
    text: str


@dataclasses.dataclass
class Assignment:
    """name = items; `first` is the index of the first element, None where the index is not a simple one."""

    group: str
    name: str
    first: int | None
    items: list[Item]

    @property
    def size(self) -> int:
        return sum(item.repeat for item in self.items)


# ---------------------------------------------------------------------- reading


def text_of(path: str | Path) -> str:
    """The characters of a namelist file, byte by byte (latin-1), so that it can be written again as it was."""
    content = read_bytes(path, "a Fortran namelist")
    if len(content) > LARGEST or b"\0" in content:
        got = f"{path}, {len(content) / 1e6:.3g} MB" if len(content) > LARGEST else f"{path}, which is no text"
        raise ValueError(complain(f"a Fortran namelist, text of at most {LARGEST / 1e6:g} MB", got, "check the name of the file"))
    return content.decode("latin-1")


def parsed(text: str, source: str) -> f90nml.Namelist:
    """The groups of a namelist by f90nml; ValueError for what is none, or announces huge arrays."""
    for announced in re.finditer(r"(\d{6,})\s*\*|\(\s*[^()]*?(\d{6,})[^()]*\)\s*=", text):
        if int(announced[1] or announced[2]) > MOST:
            line = text.count("\n", 0, announced.start()) + 1
            raise ValueError(complain(f"at most {MOST} elements of an array in line {line} of {source}", announced[0][:40],
                                      "correct the count"))
    try:
        # The parser prints its state when it fails, and drops values that it cannot place with no more than a warning.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("error")
            groups = f90nml.reads(text.replace("\r\n", "\n").replace("\r", "\n"))
    except Exception as error:  # whatever the parser says of text that is no namelist
        _assignments(text, source)  # names the line, if it is one where no assignment can be read
        reason = f" ({str(error).splitlines()[0][:100]})" if str(error) else ""
        raise ValueError(complain(f"Fortran namelists &group name = value ... / in {source}", f"text that is none{reason}",
                                  "check quotes, and the / at the end of each group")) from error
    if not len(groups):
        raise ValueError(complain(f"at least one &group in {source}", "none", "check the name of the file"))
    for assignment in _assignments(text, source)[0]:
        for item in assignment.items:
            if KIND.fullmatch(item.text):  # no Fortran reads it from a namelist, and Python takes 1.5_8 for 1.58
                line = text.count("\n", 0, item.start) + 1
                raise ValueError(complain(f"numbers without a kind in line {line} of {source} ({assignment.name})", item.text,
                                          item.text.split("_")[0]))
    return groups


def read_namelist(
    text: str, source: str, odd: Odd, pft: Sequence[str] | None, relative_range: float | None
) -> tuple[list[Entry], dict[str, tuple[str, ...]]]:
    """The numbers of a namelist as entries. Reals are included where `relative_range` gives them bounds."""
    groups, coords = parsed(text, source), {}
    entries: list[Entry] = []
    skipped: list[str] = []
    seen: dict[str, int] = {}
    repeated = Counter(str(group) for group in groups)
    for group, variables in groups.items():
        if repeated[str(group)] > 1:
            skipped.append(f"&{group} (more than once in the file)")
            continue
        for name, value in variables.items():
            entry = _entry(str(group), str(name), value, variables, source)
            if entry is None:
                skipped.append(f"{group}.{name}")
                continue
            _dims(entry, str(group), variables.start_index.get(name), pft, coords)
            seen[entry.name] = seen.get(entry.name, 0) + 1
            entries.append(entry)
    for entry in entries:
        if seen[entry.name] > 1:
            entry.name = f"{entry.place}.{entry.name}"
    if skipped:
        odd.add("No numbers, or arrays of several dimensions: left out", ", ".join(dict.fromkeys(skipped)))
    whole = [entry.name for entry in entries if entry.whole]
    if whole and relative_range is not None:
        odd.add("Whole numbers, which may be switches: fixed (name them in only= to free them)", ", ".join(whole))
    for entry in entries:
        entry.included = relative_range is not None and not entry.whole
    if relative_range is None:
        odd.add("A namelist has no bounds: all fixed at their values (relative_range=0.2 gives each real number a range)")
    return entries, coords


def _entry(group: str, name: str, value: Any, variables: Mapping[str, Any], source: str) -> Entry | None:
    listed = value if isinstance(value, list) else [value]
    if not listed or not all(type(item) in (int, float) for item in listed):
        return None
    numbers = np.array(listed, float)
    if not np.isfinite(numbers).all():
        return None
    default = numbers if isinstance(value, list) else numbers[0]
    return Entry(name, f"&{group} of {source}", default=np.asarray(default), place=group,
                 whole=all(type(item) is int for item in listed), default_text=", ".join(map(repr, listed)), cells=f"{group}.{name}")


def _dims(entry: Entry, group: str, start: Any, pft: Sequence[str] | None, coords: dict[str, tuple[str, ...]]) -> None:
    """Lists of the length of `pft`, or of a group that is known, get a dim by its meaning; others one by their length."""
    if not entry.default.ndim:
        return
    count, first = entry.default.size, start[0] if start and start[0] is not None else 1
    if pft is not None and count == len(pft):
        dim, labels = "pft", tuple(map(str, pft))
    else:
        dim, labels = DIMS.get(group.lower(), f"index_{count}"), tuple(str(first + i) for i in range(count))
    if coords.setdefault(dim, labels) != labels:
        dim = f"{dim}_{labels[0]}_to_{labels[-1]}"
        coords[dim] = labels
    entry.dims = (dim,)


# ---------------------------------------------------------------------- writing


def patch_namelist(template: str | Path, values: Mapping[str, Any], out: str | Path, *, overwrite: bool = False) -> None:
    """Write the namelist file `template` to `out` with other values; all other characters stay as they are.

    `values` maps "name", "group.name" or, for one element counted as in Fortran, "group.name(3)" to a number, an array
    of all elements, True, False or a text; theta of a table that was read from the file will do. NaN keeps the value.
    "group.name" that is not there yet is added to its group. `out` appears only when it is complete.

    Raises ValueError for a name or element that is not there, a wrong number of values, or when `out` is `template`;
    FileExistsError if `out` is there and `overwrite` is False.
    """
    template, out = Path(template), Path(out)
    if out.exists() and template.exists() and out.resolve() == template.resolve():
        raise ValueError(complain("another file than the template to write to", str(out), "another name or folder for out"))
    put_in_place(out, patched(text_of(template), values, str(template)).encode("latin-1"), overwrite=overwrite)


def put_in_place(out: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file under a temporary name and move it: nothing half written ever has its name.

    Raises FileExistsError if it is there and `overwrite` is False.
    """
    if not overwrite and (out.exists() or out.is_symlink()):
        raise FileExistsError(complain(f"no file {out} yet, since nothing is replaced unasked", "one that is there",
                                       "another name, or overwrite=True"))
    if not out.parent.is_dir():
        raise FileNotFoundError(complain(f"a folder for {out.name}", f"no folder {out.parent}", "make the folder first"))
    handle, temporary = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def patched(text: str, values: Mapping[str, Any], source: str) -> str:
    """The text with other values; see `patch_namelist`."""
    before = parsed(text, source)
    assignments, ends = _assignments(text, source)
    edits: list[tuple[int, int, str]] = []
    wanted: dict[tuple[str, str, int | None], Any] = {}
    for key, value in values.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ValueError(complain("names like neff_io, jules_pftparm.neff_io or jules_pftparm.neff_io(8)", repr(key),
                                      "one index, counted from 1"))
        group, name = _place(match, assignments, ends, key, source)
        index = int(match["index"]) if match["index"] else None
        found = [assignment for assignment in assignments if (assignment.group, assignment.name) == (group, name)]
        wanted[group, name, index] = value
        if found:
            edits += _edits(found, index, value, key, source)
        else:
            edits.append((ends[group][0], ends[group][0], _addition(text, ends[group][0], match, value, key, source)))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    _check(before, parsed(text, source), wanted, source)
    return text


def _place(match: re.Match, assignments: Sequence[Assignment], ends: Mapping[str, list[int]], key: str, source: str) -> tuple[str, str]:
    name = match["name"].lower()
    if match["group"]:
        group = match["group"].lower()
        if group not in ends:
            near = difflib.get_close_matches(group, ends, n=1)
            raise ValueError(complain(f"a group of {source} for {key}: {', '.join(list(ends)[:12])}", f"&{group}",
                                      f"{near[0]}.{name}" if near else "add the group to the template"))
    else:
        groups = sorted({assignment.group for assignment in assignments if assignment.name == name})
        if len(groups) != 1:
            names = sorted({assignment.name for assignment in assignments})
            near = [f"{part}.{name}" for part in groups] or difflib.get_close_matches(name, names, n=2)
            raise ValueError(complain(f"{key} in one group of {source}", f"it stands in {len(groups)}",
                                      " or ".join(near) if near else "group.name, which is added to its group"))
        group = groups[0]
    if len(ends[group]) > 1:
        raise ValueError(complain(f"&{group} once in {source}, to set {key}", f"{len(ends[group])} of them",
                                  "set it by hand: which of them is meant is not clear"))
    return group, name


def _assignments(text: str, source: str) -> tuple[list[Assignment], dict[str, list[int]]]:
    """Every assignment with the spans of its values; and for each group where it ends."""
    found: list[Assignment] = []
    ends: dict[str, list[int]] = {}
    position, group, current, after_value = 0, None, None, False
    while position < len(text):
        match = (OUTSIDE if group is None else INSIDE).match(text, position)
        if match is None or match.end() == position:
            line = text.count("\n", 0, position) + 1
            raise ValueError(complain(f"name = values in line {line} of {source}", repr(text[position:position + 30]),
                                      "check quotes and brackets"))
        position = match.end()
        if group is None:
            group = match["group"].lower() if match["group"] else None
            current = None
            continue
        if match["end"]:
            ends.setdefault(group, []).append(match.start())
            group = None
        elif match["name"]:
            name = re.split(r"[\s(]", match["name"], maxsplit=1)[0].lower()
            current = Assignment(group, name, _first(match), [])
            found.append(current)
            after_value = False
        elif match["blank"] or match["equals"]:
            continue
        elif current is None:
            line = text.count("\n", 0, match.start()) + 1
            raise ValueError(complain(f"name = values in &{group}, line {line} of {source}", f"{match[0][:30]!r} without a name",
                                      "name the variable"))
        elif match["comma"]:
            if not after_value:
                current.items.append(Item(match.start(), match.start(), 1, ""))
            after_value = False
        else:
            repeat, _, word = match[0].partition("*") if re.match(r"\d+\*", match[0]) else ("1", "", match[0])
            current.items.append(Item(match.start(), match.end(), int(repeat), word))
            after_value = True
    return found, ends


def _first(match: re.Match) -> int | None:
    if match["index"] is None:
        return None if "%" in match["name"] else 1
    simple = re.fullmatch(r"\s*(\d+)\s*(?::\s*\d*\s*)?", match["index"])
    return int(simple[1]) if simple and ")%" not in match["name"] else None


def _edits(found: Sequence[Assignment], index: int | None, value: Any, key: str, source: str) -> list[tuple[int, int, str]]:
    """The replacements of text that give a variable its new values."""
    if any(assignment.first is None for assignment in found):
        raise ValueError(complain(f"a number or a list for {key} in {source}", "an array of several dimensions or a structure",
                                  "set it by hand"))
    size = sum(assignment.size for assignment in found)
    new: dict[int, Any] = {}
    if index is not None:
        new[index] = value if isinstance(value, (bool, str)) else _single(value, key)
    elif isinstance(value, (bool, str)) or np.ndim(value) == 0:
        if size != 1:
            raise ValueError(complain(f"{size} values for {key}, as in {source}", f"one, {value!r}",
                                      f"a list, or {key}(1) for one element"))
        new[found[0].first] = value if isinstance(value, (bool, str)) else _single(value, key)
    else:
        array = np.asarray(value)
        indices = [assignment.first + i for assignment in found for i in range(assignment.size)]
        if array.shape != (size,):
            raise ValueError(complain(f"{size} values for {key}, as in {source}", f"shape {array.shape}", "one value an element"))
        new = dict(zip(indices, array, strict=True))
    edits = []
    for assignment in found:
        at = assignment.first
        for item in assignment.items:
            part = [new.pop(i, None) for i in range(at, at + item.repeat)]
            at += item.repeat
            edits += _edit(item, part, key)
    if new:
        raise ValueError(complain(f"an element of {key} that {source} has a value for", f"element {next(iter(new))} of {size}",
                                  "complete the list in the template"))
    return edits


def _single(value: Any, key: str) -> Any:
    if np.size(value) != 1:
        raise ValueError(complain(f"one value for {key}", f"shape {np.shape(value)}", "one number"))
    return np.asarray(value).reshape(())[()]


def _edit(item: Item, part: Sequence[Any], key: str) -> list[tuple[int, int, str]]:
    texts = [item.text if value is None else _text(value, item.text, key) for value in part]
    if all(text == item.text for text in texts):
        return []
    if len(set(texts)) == 1 and len(texts) > 1:
        return [(item.start, item.end, f"{len(texts)}*{texts[0]}")]
    return [(item.start, item.end, (" " if item.text == "" else "") + ", ".join(texts))]


def _text(value: Any, old: str, key: str) -> str:
    """A value as Fortran reads it; the old text where it says the same."""
    if isinstance(value, (bool, np.bool_)):
        return ".true." if value else ".false."
    if isinstance(value, str):
        if any(ord(character) < 32 or ord(character) > 126 for character in value):
            raise ValueError(complain(f"one line of plain text for {key}", repr(value[:60]), "letters, digits and signs of ASCII"))
        return "'" + value.replace("'", "''") + "'"
    number = float(value)
    if np.isnan(number):
        return old
    if not np.isfinite(number):
        raise ValueError(complain(f"a finite value for {key}", repr(number), "check theta"))
    before = _number(old)
    single = np.asarray(value).dtype == np.float32
    if before is not None and (before == number or (single and np.float32(before) == value)):
        return old
    if re.fullmatch(r"[+-]?\d+", old) and number.is_integer():
        return str(int(number))
    return str(value) if single else repr(number)


def _says(read: Any, value: Any) -> bool:
    """Whether what was read is the value that was to be written; NaN asked for nothing."""
    if isinstance(value, (bool, np.bool_, str)):
        return type(read) in (bool, str) and read == value
    new = np.ravel(np.asarray(value))
    old = np.array([np.nan if part is None else part for part in (read if isinstance(read, list) else [read])], float).astype(new.dtype)
    return old.shape == new.shape and bool(((old == new) | np.isnan(new.astype(float))).all())


def _number(text: str) -> float | None:
    match = re.fullmatch(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?)", text)
    return float(match[1].lower().replace("d", "e")) if match else None


def _addition(text: str, end: int, match: re.Match, value: Any, key: str, source: str) -> str:
    """A new line before the end of a group."""
    if match["index"]:
        raise ValueError(complain(f"a list for {key} in {source}", "no such variable in the group",
                                  f"{key.split('(')[0]} with all its values"))
    values = [value] if isinstance(value, (bool, str)) or np.ndim(value) == 0 else list(np.asarray(value))
    if any(not isinstance(part, (bool, str)) and np.isnan(float(part)) for part in values):
        raise ValueError(complain(f"a value for {key}, which {source} does not have yet", "NaN", "check theta"))
    line = "\r\n" if "\r\n" in text else "\n"
    begins = text[:end].rstrip(" \t").endswith(("\n", "\r"))
    words = ", ".join(_text(part, "", key) for part in values)
    return f"{'' if begins else line}  {match['name']} = {words}{line}"


def _check(before: f90nml.Namelist, after: f90nml.Namelist, wanted: Mapping[tuple, Any], source: str) -> None:
    """Nothing but what was named has changed, and that has its new values."""
    touched = {(group, name) for group, name, _ in wanted}
    one, two = before.todict(), after.todict()
    for (group, name, index), value in wanted.items():
        read, start = two[group][name], (two[group].get("_start_index", {}).get(name) or [1])[0]
        read = read if index is None else read[index - start] if isinstance(read, list) else read
        if not _says(read, value):
            raise ValueError(complain(f"{group}.{name} of {source} to become {value!r}", f"{read!r}", "set the value by hand"))
    for group in one.keys() | two.keys():
        old, new = dict(one.get(group, {})), dict(two.get(group, {}))
        for name in old.keys() | new.keys():
            if name != "_start_index" and (group, name) not in touched and repr(old.get(name)) != repr(new.get(name)):
                raise ValueError(complain(f"only {', '.join(name for _, name in touched)} of {source} to change",
                                          f"{group}.{name} would change too", "report it; set the values by hand"))
