"""What a list of parameters says, whatever its format, and how it becomes the elements of a ParameterSpace.

A reader makes one `Entry` a row; `resolve` turns the entries into `Spec`s (what is in the space) and keeps a list of
sentences about what is odd. What cannot be a space is an error that names the row.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from landcal_jax.errors import complain

# A default on its bound has no finite z: it is moved inside by this share of the range.
INSIDE = 1e-3
# Half-width, relative to the value, of the prior that a fixed element without a range carries: freed, it hardly moves.
NARROW = 1e-6
DECADES = 3.0


def nan() -> np.ndarray:
    """No number."""
    return np.asarray(np.nan)


@dataclasses.dataclass
class Entry:
    """One parameter as its list has it; NaN where the list gives no number.

    `percent`: bounds relative to the default, (below, above) in percent, None where they are numbers. `where` is the
    row in words, `place` the location or namelist. `cells` says where its default stands: one (row, column) of a sheet
    for all elements or for each, column None where there is no such column yet; or whatever the format needs.
    `whole`: written as whole numbers, which may be a switch. `status` is filled in by `resolve`.
    """

    name: str
    where: str
    low: np.ndarray = dataclasses.field(default_factory=nan)
    high: np.ndarray = dataclasses.field(default_factory=nan)
    default: np.ndarray = dataclasses.field(default_factory=nan)
    percent: tuple[float | None, float | None] = (None, None)
    dims: tuple[str, ...] = ()
    units: str = ""
    description: str = ""
    place: str = ""
    group: str = ""
    included: bool = True
    default_text: str = ""
    cells: Any = None
    whole: bool = False
    status: str = ""

    @property
    def who(self) -> str:
        """Name and row for a sentence."""
        return f"{self.name} ({self.where.split(' of ')[0]})"

    @property
    def known(self) -> bool:
        """Whether the list gives the default of at least one element."""
        return bool(np.isfinite(self.default).any())


@dataclasses.dataclass(frozen=True)
class Spec:
    """One parameter of the space: finite numbers for every element, and which elements are fixed at `value`."""

    name: str
    low: np.ndarray
    high: np.ndarray
    default: np.ndarray
    fixed: np.ndarray
    value: np.ndarray
    dims: tuple[str, ...]
    units: str
    description: str


class Odd:
    """Sentences about a list, one a kind of oddity, naming every parameter that it concerns."""

    def __init__(self) -> None:
        self.kinds: dict[str, list[str]] = {}

    def add(self, kind: str, *about: str) -> None:
        self.kinds.setdefault(kind, []).extend(about)

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(f"{kind}: {'; '.join(about)}." if about else f"{kind}." for kind, about in self.kinds.items())


@dataclasses.dataclass(frozen=True)
class Resolved:
    """What `resolve` makes of the entries; `members` are the entries that move with each group."""

    specs: tuple[Spec, ...]
    members: dict[str, tuple[Entry, ...]]


def resolve(entries: list[Entry], odd: Odd, source: str, relative_range: float | None) -> Resolved:
    """The elements of the space; fills in bounds and `status` of the entries, and the odd things.

    Raises ValueError for an included parameter without usable bounds, reversed bounds, or a name used twice.
    """
    for entry in entries:
        entry.status = "group" if entry.included else "group, not included"
    entries = [entry for entry in entries if not is_head(entry)]
    for entry in entries:
        entry.status = ""
        _relative(entry, relative_range, odd)
        _ordered(entry, odd)
    kept = _once(entries, odd, source)
    specs, members = [], {}
    for entry in kept:
        if entry.included and entry.group and _movable(entry, odd):
            members.setdefault(entry.group, []).append(entry)
            entry.status = f"moves with {entry.group}"
            continue
        spec = _free_spec(entry, odd, source) if entry.included else _fixed_spec(entry, odd)
        if spec is not None:
            specs.append(spec)
    for group, part in members.items():
        if any(spec.name == group for spec in specs):
            raise ValueError(complain(f"a flag in {source} that is no parameter of its own", f"{group!r} is both",
                                      "rename the flag"))
        specs.append(_group_spec(group, part, odd))
    _describe(kept, odd)
    return Resolved(tuple(specs), {group: tuple(part) for group, part in members.items()})


def is_head(entry: Entry) -> bool:
    """Whether the row names a group (param = flag), e.g. KCN: its own bounds are dummies."""
    return bool(entry.group) and entry.name == entry.group


def include_groups(entries: list[Entry], odd: Odd) -> None:
    """Set `included` of the members of a group: by the row that names the group, if there is one.

    In lists with such a row, 0 in the row of a member means that it is not perturbed on its own.
    """
    heads = {entry.group: entry for entry in entries if is_head(entry)}
    for entry in entries:
        head = heads.get(entry.group)
        if head is None or entry is head:
            continue
        if entry.included and not head.included:
            odd.add("Included on its own although the row of its group is not: it moves with the included members alone", entry.who)
        entry.included = head.included or entry.included
    for group, head in heads.items():
        if head.included and not any(entry.group == group for entry in entries if entry is not head):
            raise ValueError(complain(f"members of the group {group!r}: rows with the flag {group}", f"none, in {head.where}",
                                      "fill in the column flag of its members"))


def _relative(entry: Entry, relative_range: float | None, odd: Odd) -> None:
    """Bounds that are given relative to the default; with an unknown default the parameter becomes a factor on it."""
    below, above = entry.percent
    if below is None and above is None:
        blank = np.isnan(entry.low).all() and np.isnan(entry.high).all()
        if blank and relative_range is not None and entry.known and entry.included:
            ends = entry.default * (1 - relative_range), entry.default * (1 + relative_range)
            entry.low, entry.high = np.minimum(*ends), np.maximum(*ends)
            odd.add(f"Without bounds; the range is {relative_range:.6g} times the default to both sides", entry.who)
        return
    if not entry.known:
        if not entry.included:
            return
        if below is None or above is None:
            raise ValueError(complain(f"both bounds in percent, or both as numbers, for {entry.name} in {entry.where}: "
                                      "its default is not in the list", "one of each",
                                      "give the default, or defaults= when reading"))
        odd.add("Bounds in percent of a default that the list does not give; the space has a factor on the default, "
                "NAME_factor, and values() too", f"{entry.who}{_quote(entry.default_text)}")
        entry.name, entry.units, entry.dims, entry.percent = f"{entry.name}_factor", "1", (), (None, None)
        entry.description = f"factor on the default: {entry.description}"
        entry.low, entry.high, entry.default = np.asarray(1 - below / 100), np.asarray(1 + above / 100), np.asarray(1.0)
        return
    low = entry.low if below is None else entry.default * (1 - below / 100)
    high = entry.high if above is None else entry.default * (1 + above / 100)
    if below is not None and above is not None and not entry.group:
        low, high = np.minimum(low, high), np.maximum(low, high)
    entry.low, entry.high = low, high
    zero = np.isfinite(entry.default) & (entry.default == 0)
    if zero.any() and entry.included:
        count = f", {zero.sum()} of {zero.size} elements" if zero.ndim else ""
        odd.add("Bounds in percent of a default of 0, which is no range: fixed at 0", f"{entry.who}{count}")


def _quote(text: str) -> str:
    text = " ".join(text.split())
    return f" has {text[:40] + ('...' if len(text) > 40 else '')!r}" if text else ""


def _ordered(entry: Entry, odd: Odd) -> None:
    """Swap bounds of negative quantities that are ordered by their size (-0.64 and -0.96); others are an error.

    In a group min above max has a meaning: fractions that sum to 1 cannot all rise.
    """
    with np.errstate(invalid="ignore"):
        wrong = entry.low > entry.high
    if not wrong.any():
        return
    if entry.group:
        odd.add("In a group, with min above max: falls where the others rise", entry.who)
        return
    low, high = np.broadcast_arrays(entry.low, entry.high)
    negative = bool((high[wrong] <= 0).all() and (low[wrong] <= 0).all())
    if negative:
        entry.low, entry.high = np.minimum(low, high), np.maximum(low, high)
        odd.add("Negative, with min above max; taken as max and min", entry.who)
        return
    first = tuple(int(axis) for axis in np.argwhere(wrong)[0])
    got = f"{low[first]:g} and {high[first]:g}{f' in element {first[0]}' if first else ''}"
    if entry.included:
        raise ValueError(complain(f"min below max for {entry.name} in {entry.where}", got, "swap or correct the bounds"))
    odd.add("Excluded, with min above max", f"{entry.who}: {got}")
    entry.low = entry.high = np.full_like(low, np.nan)


def _once(entries: list[Entry], odd: Odd, source: str) -> list[Entry]:
    """Each name once: an included row before excluded ones, else the first."""
    found: dict[str, Entry] = {}
    for entry in entries:
        other = found.get(entry.name)
        if other is None:
            found[entry.name] = entry
            continue
        if other.included and entry.included:
            raise ValueError(complain(f"{entry.name} once among the included parameters of {source}",
                                      f"{other.where.split(' of ')[0]} and {entry.where.split(' of ')[0]}",
                                      "exclude one of the rows, or rename it"))
        kept, dropped = (entry, other) if entry.included else (other, entry)
        dropped.status = "left out: listed twice"
        odd.add("Listed twice", f"{entry.name}: {kept.where.split(' of ')[0]} is used, {dropped.where.split(' of ')[0]} is not")
        found[entry.name] = kept
    return list(found.values())


def _movable(entry: Entry, odd: Odd) -> bool:
    """Whether a member of a group has bounds to move between."""
    if np.isfinite(entry.low).any() and np.isfinite(entry.high).any():
        return True
    odd.add(f"In the group {entry.group} but without bounds: not moved, it keeps its default", entry.who)
    entry.included = False
    return False


def _free_spec(entry: Entry, odd: Odd, source: str) -> Spec | None:
    low, high, default = (np.array(part, float) for part in np.broadcast_arrays(entry.low, entry.high, entry.default))
    with np.errstate(invalid="ignore"):
        free = low < high
    if not np.isfinite(low).any() and not np.isfinite(high).any():
        raise ValueError(complain(f"min and max of the included {entry.name} in {entry.where}", "none",
                                  "fill them in, exclude the row, or give relative_range=0.2 when reading"))
    half = np.isfinite(low) != np.isfinite(high)
    if half.any():
        raise ValueError(complain(f"both min and max, or neither, for {entry.name} in {entry.where}",
                                  f"one of them{_of(half)}", "fill in the other"))
    start = _starting_values(entry, low, high, default, free, odd)
    value = np.where(free, start, np.where(np.isfinite(default), default, low))
    fixed = ~free
    if fixed.any():
        _say_fixed(entry, fixed, value, odd)
    entry.status = "free" if free.all() else f"free, {fixed.sum()} of {fixed.size} elements fixed" if free.any() else "fixed"
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = free & (low > 0) & (np.log10(high / low) > DECADES)
    if wide.any():
        ratio = float((high[wide] / low[wide]).max())
        odd.add(f"A range over more than {DECADES:g} decades (a log-uniform prior may be meant)", f"{entry.who}: {ratio:.2g} fold")
    return _spec(entry, low, high, start, fixed, value)


def _of(mask: np.ndarray) -> str:
    return f" in element {int(np.argmax(mask))}" if mask.ndim else ""


def _starting_values(entry, low, high, default, free, odd: Odd) -> np.ndarray:
    """The default where it lies inside of the bounds; said where it does not."""
    middle = low + 0.5 * (high - low)
    unknown = free & ~np.isfinite(default)
    with np.errstate(invalid="ignore"):
        outside = free & ((default < low) | (default > high))
        on_low, on_high = free & (default == low), free & (default == high)
    if unknown.any():
        odd.add("Default not in the list; the space takes the prior median",
                f"{entry.who}{_count(unknown)}{_quote(entry.default_text) if not entry.known else ''}")
    if outside.any():
        first = int(np.argmax(outside)) if outside.ndim else ()
        odd.add("Default outside of its bounds; the space takes the prior median",
                f"{entry.who}{_count(outside)}: {default[first]:.6g} outside {low[first]:.6g} and {high[first]:.6g}")
    if on_low.any() or on_high.any():
        odd.add(f"Default on its bound; moved inside by {INSIDE:g} of the range", f"{entry.who}{_count(on_low | on_high)}")
    inside = INSIDE * (high - low)
    start = np.where(on_low, low + inside, np.where(on_high, high - inside, default))
    return np.where(unknown | outside, middle, start)


def _count(mask: np.ndarray) -> str:
    return "" if mask.all() else f" ({mask.sum()} of {mask.size} elements)"


def _say_fixed(entry: Entry, fixed: np.ndarray, value: np.ndarray, odd: Odd) -> None:
    void = fixed & ~np.isfinite(value)
    if void.any():
        odd.add("NaN, as for bare ground: fixed, and NaN again in values()", f"{entry.who}{_count(void)}")
    if (fixed & ~void).any():
        odd.add("A range of zero width: fixed", f"{entry.who}{_count(fixed & ~void)}")


def _fixed_spec(entry: Entry, odd: Odd) -> Spec | None:
    """An excluded parameter stays in the space at its default, if the list has one for every element."""
    if not np.isfinite(entry.default).all():
        entry.status = entry.status or "left out: default not in the list"
        odd.add("Excluded, with a default that is not in the list: left out, the model keeps its own", entry.name)
        return None
    entry.status = "fixed"
    low, high, default = (np.array(part, float) for part in np.broadcast_arrays(entry.low, entry.high, entry.default))
    with np.errstate(invalid="ignore"):
        usable = (low < default) & (default < high)
    low, high = np.where(usable, low, np.nan), np.where(usable, high, np.nan)
    return _spec(entry, low, high, default, np.ones(default.shape, bool), default)


def _spec(entry: Entry, low, high, default, fixed, value) -> Spec:
    """Finite numbers everywhere: an element without a range of its own gets a narrow one about its value."""
    value = np.where(np.isfinite(value), value, 0.0)
    sizes = np.concatenate([np.abs(array[np.isfinite(array)]).ravel() for array in (low, high, value)])
    size = np.maximum(np.abs(value), sizes.max() or 1.0)
    with np.errstate(invalid="ignore"):
        narrow = fixed & ~(low < high)
    return Spec(entry.name, np.where(narrow, value - NARROW * size, low), np.where(narrow, value + NARROW * size, high),
                np.where(fixed & narrow, value, default), fixed, value, entry.dims, entry.units or "1", entry.description)


def _group_spec(group: str, members: Sequence[Entry], odd: Odd) -> Spec:
    positions = []
    for entry in members:
        low, high, default = np.broadcast_arrays(entry.low, entry.high, entry.default)
        with np.errstate(invalid="ignore", divide="ignore"):
            inside = (low != high) & (default >= np.minimum(low, high)) & (default <= np.maximum(low, high))
            place = ((default - low) / (high - low))[inside]
        if np.isfinite(default).any() and not inside.any() and not (low == high).any():
            odd.add("Default outside of its bounds; the group starts where its other members are", entry.who)
        positions.append(place)
    known = np.concatenate([np.ravel(place) for place in positions])
    position = float(np.median(known)) if known.size else 0.5
    if not known.size:
        odd.add("A group whose members have no defaults in the list starts in the middle of its ranges", group)
    elif np.ptp(known) > 1e-3:
        odd.add("The defaults of a group stand at different positions in their ranges; it starts at the median position",
                f"{group}: {known.min():.3g} to {known.max():.3g}, start {position:.3g}")
    names = ", ".join(entry.name for entry in members)
    if known.size and not 0 < position < 1:
        odd.add(f"Default on its bound; moved inside by {INSIDE:g} of the range", f"{group} (group)")
    one = np.asarray(min(max(position, INSIDE), 1 - INSIDE))
    return Spec(group, np.asarray(0.0), np.asarray(1.0), one, np.asarray(False), one, (), "1",
                f"position of {names} between their bounds (0 min, 1 max)")


def _describe(entries: Iterable[Entry], odd: Odd) -> None:
    blank = [entry.name for entry in entries if not entry.units and entry.status != "left out: default not in the list"]
    if blank:
        odd.add(*(("Without units", ", ".join(blank)) if any(entry.units for entry in entries) else ("The list has no units",)))
    hard = [entry.who for entry in entries if entry.included and entry.place.upper().startswith("H")]
    if hard:
        odd.add("Hard-coded in the model (location H): a run needs another build", *hard)


def check_name(name: str, where: str, dims: Iterable[str] = ()) -> None:
    """Raise ValueError for a name that a ParameterSpace cannot have."""
    if not name or set(name) & set("[],") or name in dims:
        raise ValueError(complain(f"a parameter name without '[', ']' or ',' that is no dim, in {where}", repr(name),
                                  "rename the parameter"))


def number_of(text: str) -> float:
    """The number of a cell; NaN where it is none. Nothing is evaluated: 48*3600 is no number."""
    try:
        return float(text.replace("\u2212", "-")) if "_" not in text else np.nan
    except ValueError:
        return np.nan


def numbers_of(text: str) -> np.ndarray:
    """The numbers of a cell, one or joined by commas or semicolons; one NaN where there is anything else."""
    if not any(mark in text for mark in ",;"):
        return np.asarray(number_of(text))
    parts = text.replace(";", ",").strip().removesuffix(",").split(",")
    numbers = np.array([number_of(part.strip()) for part in parts])
    readable = all(np.isfinite(number) or part.strip().lower() == "nan" for number, part in zip(numbers, parts, strict=True))
    return numbers if readable else nan()


def values_of(resolved: Resolved, theta: Mapping[str, Any], void: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Physical value of every parameter: groups are resolved into their members, NaN elements restored."""
    values = {}
    for spec in resolved.specs:
        if spec.name not in resolved.members:
            value = theta[spec.name] if hasattr(theta[spec.name], "ndim") else np.asarray(theta[spec.name], float)
            values[spec.name] = value + void[spec.name] if spec.name in void else value
    for group, members in resolved.members.items():
        position = theta[group] if hasattr(theta[group], "ndim") else np.asarray(theta[group], float)
        for entry in members:
            low, high, default = np.broadcast_arrays(entry.low, entry.high, entry.default)
            along = position[(..., *(None,) * low.ndim)] if low.ndim else position
            # Where a range has no width the default goes before it, as for parameters outside of groups.
            values[entry.name] = np.where((low == high) & np.isfinite(default), default, low) + along * (high - low)
    return values
