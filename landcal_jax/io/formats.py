"""Every format that can be read, in the order in which a file is tried: the particular before the general."""

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path

import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io import (
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
from landcal_jax.io.files import existing, open_netcdf, read_bytes
from landcal_jax.io.normal import merge, place, said
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
    raise ValueError(complain(
        f"a file in one of the formats {', '.join(format.name for format in FORMATS)}", f"{path.name}, {_look(head)}",
        "a reader of your own, one function (see landcal_jax.io.normal): --reader FILE.py:function"))


def _look(head: Head) -> str:
    """What a file of no known format looks like; ValueError where it is one that is damaged."""
    if head.is_netcdf and not head.variables:
        open_netcdf(head.path)  # says what is wrong with it
    if head.is_netcdf:
        return f"a NetCDF file with variables {', '.join(head.variables)[:300] or 'none'}"
    if not head.bytes:
        read_bytes(head.path)  # says why it cannot be unpacked
    return f"which begins {head.lines[0][:60]!r}" if head.text else f"which begins with the bytes {head.bytes[:8]!r}"


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
    ds.attrs.setdefault("format", name)
    given = {key: value for key, value in (("site", None if selects else site), ("latitude", latitude), ("longitude", longitude))
             if value is not None}
    if given and "kind" in ds.attrs:
        raise ValueError(complain(f"a series at one site, to which {' and '.join(given)} belong", f"{path.name}, a {ds.attrs['kind']}",
                                  "leave them out; a file of several sites takes site="))
    if given:
        now = {key: ds[key].item() if key in ds.coords else None for key in ("site", "latitude", "longitude")}
        ds = ds.assign_coords(place(**(now | given), path=path))
        ds = said(ds, *(f"{key} was given by the user as {value}; the file says {now[key]}." for key, value in given.items()))
    return ds
