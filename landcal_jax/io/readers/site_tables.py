"""Reader of tables of sites: CARDAMOM's location_fluxnet.csv, DifferLand's site_coords.csv, and manifests of files.

Such a table is no series: the result has the dimension `row`, its own columns, and the attribute `kind` = "table".
"""

from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import sha256
from landcal_jax.io.readers.delimited import Sheet
from landcal_jax.io.recognition import Format, Head

KEYS = {"site": ("flux_name", "site_id", "site", "site_code", "sitename", "fluxnet_id"), "latitude": ("lat", "latitude"),
        "longitude": ("lon", "longitude", "long")}
UNITS = {"latitude": "degrees_north", "longitude": "degrees_east", "elev": "m", "elevation": "m", "map": "mm year-1", "mat": "degC"}


def read_site_table(path: str | Path) -> xr.Dataset:
    """Read a CSV table with one row a site (or a file), along the dimension `row`; site, latitude and longitude are coordinates.

    A column whose every cell is a number or blank becomes numbers, any other stays text. Attribute `kind` is "table".
    Raises FileNotFoundError, or ValueError for a row of another length, a position off the globe, or a site twice.
    """
    sheet = Sheet(path, what="a CSV table of sites")
    frame = sheet.read((), sheet.names)
    keys = _keys(sheet.names)
    ds = xr.Dataset(coords={"row": ("row", np.arange(1, len(frame) + 1), {"long_name": "row of the table, from 1"})})
    for name in sheet.names:
        ours = next((key for key, theirs in keys.items() if theirs == name), name)
        numbers = pd.to_numeric(frame[name].where(frame[name] != ""), errors="coerce")
        is_text = ours == "site" or (numbers.isna() & (frame[name] != "")).any()
        values = frame[name].to_numpy(dtype=str) if is_text else numbers.to_numpy(dtype=float)
        attrs = {"name_in_file": name} | ({"units": UNITS[ours.lower()]} if ours.lower() in UNITS and not is_text else {})
        ds[ours or "unnamed"] = ("row", values, attrs)
    _check(ds, Path(path))
    ds = ds.set_coords([key for key in keys if key in ds])
    ds.attrs = {"kind": "table", "title": f"Table of {len(frame)} rows", "source": Path(path).name, "sha256": sha256(path),
                "history": "\n".join([f"A table of {len(frame)} rows with columns {', '.join(sheet.names)}.", *sheet.history])}
    return ds


def row_of(ds: xr.Dataset, which: int | str, path: Path) -> tuple[str, float, float]:
    """Site, latitude and longitude of row number `which` (from 1), or of the site called so."""
    if not {"site", "latitude", "longitude"} <= set(ds.coords):
        raise ValueError(complain(f"columns of site, latitude and longitude in {path}", f"{', '.join(map(str, ds.variables))}",
                                  "name the table location_fluxnet.csv with locations="))
    rows = np.flatnonzero(ds["row"].values == which if isinstance(which, int) else ds["site"].values == which)
    if rows.size != 1:
        wanted = f"row {which}" if isinstance(which, int) else f"site {which!r}"
        raise ValueError(complain(f"{wanted} in {path}", f"{ds.sizes['row']} rows, none of them that",
                                  "name the table of the same collection with locations="))
    row = ds.isel(row=int(rows[0]))
    return str(row["site"].values), float(row["latitude"]), float(row["longitude"])


def _keys(names: list[str]) -> dict[str, str]:
    """site, latitude, longitude -> the column that is it."""
    lower = {name.lower(): name for name in names}
    found = {key: next((lower[each] for each in known if each in lower), None) for key, known in KEYS.items()}
    return {key: name for key, name in found.items() if name is not None}


def _check(ds: xr.Dataset, path: Path) -> None:
    for name, limit in (("latitude", 90.0), ("longitude", 360.0)):
        if name not in ds:
            continue
        values = ds[name].values
        wrong = ~(np.abs(values) <= limit) if values.dtype.kind == "f" else np.ones(values.size, dtype=bool)
        if wrong.any():
            row = int(np.argmax(wrong))
            raise ValueError(complain(f"{name} in degrees on every row of {path.name}", f"{values[row]} in row {row + 1}",
                                      "correct the row"))
    if "site" in ds:
        names, counts = np.unique(ds["site"].values, return_counts=True)
        if (counts > 1).any():
            raise ValueError(complain(f"each site once in {path.name}", f"{names[np.argmax(counts)]} {counts.max()} times",
                                      "remove the other rows"))


def _recognised(head: Head) -> bool:
    if not head.text or head.name.split(".")[-1] != "csv":
        return False
    names = head.columns()
    lower = {name.lower() for name in names}
    positions = set(_keys(names)) == set(KEYS) and len(names) < 60 and not {"time", "date"} & lower
    return positions or {"file", "sha256"} <= lower


FORMATS = (Format("table of sites, CSV", _recognised, read_site_table, "site, latitude, longitude and what else it has"),)
