"""Reader of NetCDF files whose variables carry the names of the normal form, or CF standard names, with units.

What `ds.to_netcdf(path)` wrote of a Dataset of the normal form is read back without loss: values, attributes, step and history.
Only the checksum is that of the file which was read, and `source` names it too.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import open_netcdf
from landcal_jax.io.normal import STEP, Column, normalise, said
from landcal_jax.io.quantities import COMPANIONS, QUANTITIES, quantity
from landcal_jax.io.readers.netcdf import decoded_clock, number, series, site_code, stamps
from landcal_jax.io.recognition import Format, Head

PROVENANCE = ("title", "source", "references", "license")
# Two extremes of one quantity share its standard name; such a file has to use the names of the normal form.
STANDARD_NAMES = {about.standard_name: name for name, about in reversed(QUANTITIES.items()) if about.standard_name}


def read_netcdf_normal(path: str | Path) -> xr.Dataset:
    """Read a NetCDF file of one site whose variables are named as in `landcal_jax.io.quantities`, or by CF standard names.

    Each variable needs units that can become those of the normal form. Time is labelled by the start of each step, unless `time`
    has bounds (`time_bnds`) or an attribute `label` that says "middle" or "end". What has no name of the normal form is left
    out, and said. Raises FileNotFoundError, or ValueError for a fault of the file.
    """
    raw = open_netcdf(path, "a NetCDF file with variables of the normal form")
    path = Path(path)
    names = found_names({str(name): raw[name].attrs for name in raw.data_vars})
    if not names:
        raise ValueError(complain(
            f"variables in {path.name} with names of the normal form (nee, latent_heat, temperature, ...) or CF standard names",
            f"variables {', '.join(sorted(map(str, raw.variables)))[:400] or 'none'}", "rename the variables of the file"))
    for ours, theirs in _claims({str(name): raw[name].attrs for name in raw.data_vars}).items():
        if len(theirs) > 1:
            raise ValueError(complain(f"one variable of {path.name} that is {ours} by its standard name", " and ".join(theirs),
                                      f"rename the one to be read to {ours}, or take the standard name off the others"))
    columns = {name: _column(raw, name, theirs, path) for name, theirs in names.items()}
    attrs = raw["time"].attrs if "time" in raw.variables else {}
    time, label = _labelled(raw, path)
    step = str(attrs.get("step", ""))
    site = site_code(raw, path)
    ds = normalise(
        columns, time, path=path, site=site or path.stem, latitude=_position(raw, "latitude"), longitude=_position(raw, "longitude"),
        label=label, step=step if STEP.fullmatch(step) else None,
        time_zone=decoded_clock(raw, str(attrs.get("time_zone", "local standard time"))))
    ours = "sha256" in raw.attrs and "history" in raw.attrs and bool(STEP.fullmatch(step))
    new = _news(ds, ours, names, site, path)
    if "time_zone" not in attrs and decoded_clock(raw, "") == "":
        new.append("The file does not say in which time zone its stamps are: local standard time was assumed.")
    left = [str(name) for name in raw.data_vars if name not in names.values() and raw[name].ndim]
    if left:
        new.append(f"Left out, without a name in the normal form: {', '.join(left)}.")
    return _with_attributes(ds, raw, names, new)


def found_names(variables: dict[str, dict[str, Any]]) -> dict[str, str]:
    """Name of the normal form -> name in the file, for those variables that have one: by name first, then by standard name."""
    return {ours: theirs[0] for ours, theirs in _claims(variables).items()}


def _claims(variables: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """Name of the normal form -> every variable that is it by its standard name, or the one that has the name itself."""
    claims = {name: [name] for name in variables if _is_ours(name)}
    for name, attrs in variables.items():
        ours = STANDARD_NAMES.get(str(attrs.get("standard_name", "")))
        if ours == "temperature":
            # The extremes of a day share the standard name of its mean; the cell methods tell them apart.
            extreme = next((end for end in ("maximum", "minimum") if end in str(attrs.get("cell_methods", ""))), "")
            ours += {"maximum": "_max", "minimum": "_min"}.get(extreme, "")
        if ours and name not in claims and claims.get(ours) != [ours]:
            claims.setdefault(ours, []).append(name)
    return claims


def _is_ours(name: str) -> bool:
    base = next((name.removesuffix(end) for end in COMPANIONS if name.endswith(end)), name)
    return base in QUANTITIES


def _column(raw: xr.Dataset, name: str, theirs: str, path: Path) -> Column:
    column = series(raw, theirs, path)
    return column._replace(name="") if name == theirs and column.units == quantity(name).units else column


def _labelled(raw: xr.Dataset, path: Path) -> tuple[Any, str]:
    """Time stamps and their label: the start of each step, or what bounds or an attribute of `time` say."""
    time = stamps(raw, path)
    attrs = raw["time"].attrs
    bounds = str(attrs.get("bounds", ""))
    if bounds in raw.variables and raw.variables[bounds].shape == (len(time), 2) and raw.variables[bounds].dtype.kind in "fiu":
        reference = {key: attrs[key] for key in ("units", "calendar") if key in attrs}
        lower = xr.Dataset(coords={"time": ("time", raw.variables[bounds].values[:, 0], reference)})
        return stamps(lower, path), "start"
    label = str(attrs.get("label", "start"))
    if label not in ("start", "middle", "end"):
        raise ValueError(complain(f"the label of `time` in {path.name} as start, middle or end", repr(label),
                                  "correct the attribute `label`"))
    return time, label


def _position(raw: xr.Dataset, name: str) -> np.ndarray | None:
    """Latitude or longitude, by name or the short name of CF; None where the file has none."""
    found = next((number(raw, each) for each in (name, name[:3]) if each in raw.variables), None)
    return found


def _news(ds: xr.Dataset, ours: bool, names: dict[str, str], site: str | None, path: Path) -> list[str]:
    """What reading has to say: of a file that we wrote, only what was changed."""
    lines = ds.attrs["history"].split("\n")
    if ours:
        counted = re.compile(r"\w+(?: \(\S+\))?: \d+ values on \d+ steps")
        lines = [line for line in lines if not counted.match(line) and "are absent from the file" not in line]
    renamed = [f"{theirs} as {name}" for name, theirs in names.items() if name != theirs]
    if renamed:
        lines.append(f"Recognised by standard names: {', '.join(renamed)}.")
    if site is None:
        lines.append(f"The file does not say its site; the name of the file was taken, {path.stem}.")
    return lines


def _with_attributes(ds: xr.Dataset, raw: xr.Dataset, names: dict[str, str], new: list[str]) -> xr.Dataset:
    """`ds` with the attributes that the file has beyond those of the normal form, and its earlier history first."""
    for name, theirs in names.items():
        ds[name].attrs = {key: value for key, value in raw[theirs].attrs.items() if name == theirs} | ds[name].attrs
    kept = {key: value for key, value in raw["time"].attrs.items() if key in ("label_in_file",)}
    ds["time"].attrs |= kept
    earlier = str(raw.attrs.get("history", ""))
    stated = {key: str(raw.attrs.get(key, "not stated")) for key in PROVENANCE}
    if stated["title"] == "not stated":
        stated["title"] = ds.attrs["title"]
    if stated["source"] == "not stated":
        stated["source"] = ds.attrs["source"]
    elif ds.attrs["source"] not in stated["source"]:
        stated["source"] += f"; read from {ds.attrs['source']}"
    others = {key: value for key, value in raw.attrs.items() if key not in (*PROVENANCE, "sha256", "history")}
    ds.attrs = stated | {"sha256": ds.attrs["sha256"], "history": earlier} | others
    return said(ds, *new)


def _recognised(head: Head) -> bool:
    return head.is_netcdf and "time" in head.variables and bool(found_names(head.variables))


FORMATS = (Format("NetCDF with names or CF standard names of the normal form", _recognised, read_netcdf_normal,
                  "whatever of landcal_jax.io.quantities it holds"),)
