"""A list of parameters for people: what `landcal parameters FILE` prints."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from landcal_jax.io.parameter_lists.entries import NARROW, Entry, Resolved, is_head

PLACE = 60  # characters of a place: the name of a namelist is shown whole
LONGEST = 400  # characters of one sentence; `table.odd` has it whole


def in_words(
    source: str, kind: str, entries: Sequence[Entry], resolved: Resolved, coords: Mapping[str, Sequence[str]], prior: str, share: float,
    odd: Sequence[str],
) -> str:
    """Format and counts, one line a parameter, and what is odd."""
    free = sum(int((~spec.fixed).sum()) for spec in resolved.specs)
    left_out = sum(entry.status.startswith("left out") for entry in entries)
    heads = sum(is_head(entry) for entry in entries)
    counts = [f"{len(entries) - heads} parameters", f"{free} elements free", f"{len(resolved.specs)} parameters in the space"]
    counts += [f"{left_out} left out"] if left_out else []
    counts += [f"{dim}: {len(labels)}" for dim, labels in coords.items()]
    lines = [f"{source}: {kind}; {'; '.join(counts)}"]
    shared = {"uniform": "uniform", "truncated_normal": f"truncated normal, sd {share:g} of the range"}.get(prior)
    rows = [("name", "dims", "default", "bounds", "prior", "units", "place", "")]
    for entry in entries:
        if is_head(entry) and entry.name in resolved.members:
            continue
        place = "" if shared is None else _place(entry.place)
        narrow = entry.status.startswith("fixed") and _narrow(entry)
        own = (shared if entry.status.startswith(("free", "moves")) else "") if shared is not None else entry.place
        bounds, own = ("", "") if narrow else (_bounds(entry), own)
        rows.append((entry.name, ", ".join(entry.dims), _span(entry.default), bounds, own, entry.units[:24], place, entry.status))
    for group, members in resolved.members.items():
        spec = next(spec for spec in resolved.specs if spec.name == group)
        rows.append((group, "", f"{spec.default:.4g}", "0 to 1", shared or "", "1", "", f"group of {len(members)}"))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if odd:
        lines += ["What is odd:", *(f"  * {line if len(line) <= LONGEST else line[:LONGEST].rstrip() + ' ...'}" for line in odd)]
    return "\n".join(lines)


def _place(text: str) -> str:
    """A place on one line; a long remark ends in three dots, between words where it has some."""
    text = " ".join(text.split())
    return text if len(text) <= PLACE else textwrap.shorten(text, PLACE, placeholder=" ...") if " " in text else f"{text[:PLACE]}..."


def _span(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not known.size:
        return "?"
    low, high = f"{known.min():.6g}", f"{known.max():.6g}"
    return low if low == high else f"{low} to {high}"


def _narrow(entry: Entry) -> bool:
    """Whether the range of a fixed parameter is the one that stands for none, a hair to both sides of its value."""
    width, size = entry.high - entry.low, np.maximum(np.abs(entry.high), np.abs(entry.low))
    return bool(np.isfinite(width).all() and (width <= 4 * NARROW * np.maximum(size, size.max() if size.max() > 2 * NARROW else 1.0)).all())


def _bounds(entry: Entry) -> str:
    if not np.isfinite(entry.low).any() and not np.isfinite(entry.high).any():
        return ""
    if not entry.low.ndim and not entry.high.ndim:
        return f"{entry.low:.6g} to {entry.high:.6g}"
    low, high = (side[np.isfinite(side)] for side in (entry.low, entry.high))
    return f"{low.min() if low.size else np.nan:.6g} to {high.max() if high.size else np.nan:.6g}"
