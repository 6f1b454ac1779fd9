"""Several files of one site side by side: meteorology here, fluxes there."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.clocks import same_clock
from landcal_jax.io.normal import said, step_of


def merge(datasets: Sequence[xr.Dataset]) -> xr.Dataset:
    """Put series of one site, read from several files, side by side; steps that one file lacks are NaN there, and counted.

    Files in UTC and in local standard time are both shifted to the latter, where the longitude is known, and said.
    Raises ValueError for other sites, places or steps, clocks that cannot be made one, or a variable that stands in two files
    with different values.
    """
    merged, *rest = datasets
    for ds in rest:
        _same_place(merged, ds)
        merged, ds, lines = same_clock(merged, ds, step_of(ds))
        for name in set(merged.data_vars) & set(ds.data_vars):
            ours, theirs = xr.align(merged[name], ds[name], join="inner")
            if not np.array_equal(ours.values, theirs.values, equal_nan=True):
                sources = f"{merged.attrs['source']} and {ds.attrs['source']}"
                raise ValueError(complain(f"{name} in one of the files", f"different values in {sources}", "leave it out of one of them"))
        before = merged.sizes["time"], ds.sizes["time"]
        attrs = {key: _both(merged.attrs.get(key, ""), ds.attrs.get(key, "")) for key in merged.attrs.keys() | ds.attrs.keys()}
        merged = xr.merge([merged, ds], join="outer", compat="no_conflicts", combine_attrs="override").assign_attrs(attrs)
        merged = said(merged, *lines)
        if merged.sizes["time"] > max(before):
            merged = said(merged, f"The files have {before[0]} and {before[1]} steps, together {merged.sizes['time']}.")
    return merged


def _same_place(one: xr.Dataset, other: xr.Dataset) -> None:
    for ds in (one, other):
        if "kind" in ds.attrs or "time" not in ds.dims:
            raise ValueError(complain("files of series at one site to put side by side",
                                      f"{ds.attrs.get('source')}, a {ds.attrs.get('kind', 'Dataset without time')}", "leave it out"))
    here, there = (f"{ds['site'].item()} in steps of {step_of(ds)}" for ds in (one, other))
    if here != there:
        raise ValueError(complain(f"files of one site and one step: {here}", f"{there} in {other.attrs['source']}",
                                  "files of one site; aggregate them to the same step first"))
    for axis in ("latitude", "longitude"):
        first, second = float(one[axis]), float(other[axis])
        if abs(first - second) > 1e-6:  # false where one does not say
            raise ValueError(complain(f"files of one place, {axis} {first:g}", f"{second:g} in {other.attrs['source']}",
                                      f"give {axis}= for both"))


def _both(one: str, other: str) -> str:
    """Two attributes as lines, each line once."""
    return "\n".join(dict.fromkeys(line for text in (one, other) for line in str(text).split("\n") if line))
