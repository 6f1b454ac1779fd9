"""Every format that can be read, in the order in which a file is tried: the particular before the general."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import existing, open_netcdf, read_bytes
from landcal_jax.io.merging import merge
from landcal_jax.io.normal import place, said
from landcal_jax.io.quantities import QUANTITIES
from landcal_jax.io.readers import (
    atmosphere,
    callmip_flux,
    cardamom,
    differland,
    fluxdatakit,
    fluxnet,
    netcdf_normal,
    plumber2,
    snow_files,
    tables,
    towers,
)
from landcal_jax.io.recognition import Format, Head

FORMATS: tuple[Format, ...] = (
    *callmip_flux.FORMATS, *plumber2.FORMATS, *cardamom.FORMATS, *differland.FORMATS, *fluxdatakit.FORMATS, *atmosphere.FORMATS,
    *netcdf_normal.FORMATS, *fluxnet.FORMATS, *towers.FORMATS, *snow_files.FORMATS, *tables.FORMATS)


def recognise(path: str | Path) -> Format:
    """The format of a file, from its name and its first bytes.

    Raises FileNotFoundError, or ValueError when it is none of `FORMATS`.
    """
    path = existing(path)
    head = Head(path)
    for format in FORMATS:
        if format.recognises(head):
            return format
    raise ValueError(complain(f"a file in one of the formats {', '.join(format.name for format in FORMATS)}", *_unknown(head)))


def _unknown(head: Head) -> tuple[str, str]:
    """What a file of no known format looks like, and what to do; ValueError where it is one that is damaged."""
    own, name = "a reader of your own, one function (see landcal_jax.io.normal): --reader FILE.py:function", head.path.name
    if head.is_netcdf and not head.variables:
        open_netcdf(head.path)  # says what is wrong with it
    if head.is_netcdf:
        return f"{name}, a NetCDF file with variables {', '.join(head.variables)[:300] or 'none'}", own
    if not head.bytes:
        read_bytes(head.path)  # says why it cannot be unpacked
    _check_text(head)
    header = next((line for line in head.lines if line.strip() and not line.startswith("#")), "")
    cells = [[cell.strip().strip('"') for cell in header.split(separator)] for separator in tables.SEPARATORS]
    columns = max(cells, key=len)
    if len(columns) < 2:
        return f"{name}, which begins {header[:60]!r}" if head.text else f"{name}, which begins with the bytes {head.bytes[:8]!r}", own
    known = (*QUANTITIES, *tables.TIMES)
    close = {column: next((match for text in (column.lower(), column.lower().split("_")[0])
                           if (match := difflib.get_close_matches(text, known, 1))), []) for column in columns}
    meant = ", ".join(f"{match[0]} for {column}" for column, match in close.items() if match and match[0] != column)
    return (f"{name}, with columns {', '.join(columns)[:300]}",
            f"rename columns{f' ({meant[:200]}?)' if meant else ''} as in landcal_jax.io.quantities and say the units "
            f"in a row of units (see landcal_jax.io.readers.tables); or {own}")


def _check_text(head: Head) -> None:
    """Raise ValueError for text in another encoding, and for text with zero bytes, which a crash or a full disk leaves."""
    if head.bytes.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError(complain(f"text in UTF-8 in {head.path.name}", "text in UTF-16", "save or export it as UTF-8, or as plain CSV"))
    shown = sum(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head.bytes)
    if b"\0" in head.bytes and shown > 0.9 * len(head.bytes):
        line = head.bytes[:head.bytes.index(b"\0")].count(b"\n") + 1
        got = f"{head.bytes.count(0)} of them, the first in line {line}"
        raise ValueError(complain(f"text without zero bytes in {head.path.name}", got, "copy or export the file again: it was damaged"))


def read(
    path: str | Path | Sequence[str | Path], *, reader: Callable[[Path], xr.Dataset] | None = None, site: str | None = None,
    latitude: float | None = None, longitude: float | None = None,
) -> xr.Dataset:
    """Read a file of any known format into the normal form (see `landcal_jax.io.normal`).

    `path`: one file, or several of one site, such as meteorology here and fluxes there, which are put side by side.
    `reader`: a function of your own, path -> Dataset of the normal form, instead of what the file looks like. `site`, `latitude`,
    `longitude`: what the file does not say, or says wrongly; the history tells. A file of several sites is read at `site`.
    Raises FileNotFoundError, or ValueError for an unknown format or a file with a fault.
    """
    if not isinstance(path, str | Path):
        return merge([read(one, reader=reader, site=site, latitude=latitude, longitude=longitude) for one in path])
    path = existing(path)
    name, function = ("reader of the user", reader) if reader else (recognise(path).name, recognise(path).read)
    selects = site is not None and "site" in inspect.signature(function).parameters  # a file of several sites
    ds = function(path, site=site) if selects else function(path)
    if reader:
        _check_normal(ds, reader, path)
    ds.attrs.setdefault("format", name)
    given = {key: value for key, value in (("site", None if selects else site), ("latitude", latitude), ("longitude", longitude))
             if value is not None}
    if given and "kind" in ds.attrs:
        raise ValueError(complain(f"a series at one site, to which {' and '.join(given)} belong", f"{path.name}, a {ds.attrs['kind']}",
                                  "leave them out; a file of several sites takes site="))
    if given:
        now = {key: ds[key].item() if key in ds.coords else None for key in ("site", "latitude", "longitude")}
        ds = ds.assign_coords(place(**(now | given), path=path))
        ds = said(ds, *(f"{key} was given by the user as {value}; {_stated(now[key])}." for key, value in given.items()))
    return ds


def _stated(value: Any) -> str:
    return "the file does not say" if value is None or value != value else f"the file says {value}"


def _check_normal(ds: Any, reader: Callable[[Path], xr.Dataset], path: Path) -> None:
    """Raise ValueError unless a reader of the user gave a Dataset of the normal form (or one that says its `kind`)."""
    time = ds.indexes.get("time") if isinstance(ds, xr.Dataset) else None
    lacking = [name for name in ("site", "latitude", "longitude") if time is not None and (name not in ds.coords or ds[name].ndim)]
    if not isinstance(ds, xr.Dataset):
        got = f"a {type(ds).__name__}"
    elif "kind" in ds.attrs or (isinstance(time, pd.DatetimeIndex) and not lacking):
        return
    elif not isinstance(time, pd.DatetimeIndex):
        got = f"a Dataset with dimensions {', '.join(map(str, ds.dims)) or 'none'}" if time is None else f"times of type {time.dtype}"
    else:
        got = f"a Dataset without the scalar coordinate {lacking[0]}"
    named = getattr(reader, "__name__", "of the user")
    raise ValueError(complain(f"a Dataset of the normal form from the reader {named} for {path.name}", got,
                              "return landcal_jax.io.normalise(columns, time, path=path, site=...)"))
