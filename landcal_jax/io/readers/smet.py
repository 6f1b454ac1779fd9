"""Reader of SMET, the text format of MeteoIO, SNOWPACK and Alpine3D: a header of key = value, then columns in SI units.

Stamps are the end of each step (documentation of MeteoIO: PSUM is the sum since the stamp before). Values become SI with
`units_multiplier` first and `units_offset` after it, which is the order in which MeteoIO applies them.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import read_text
from landcal_jax.io.normal import Column, normalise, step_starts
from landcal_jax.io.readers.rows import Rows, is_number, split_rows
from landcal_jax.io.recognition import Format

# field -> name of the normal form, unit of the format
SMET_FIELDS = {"TA": ("temperature", "K"), "RH": ("relative_humidity", "1"), "VW": ("wind_speed", "m s-1"), "ISWR": ("shortwave", "W m-2"),
               "RSWR": ("shortwave_up", "W m-2"), "OSWR": ("shortwave_up", "W m-2"), "ILWR": ("longwave", "W m-2"),
               "PSUM": ("precipitation", "mm d-1"), "PINT": ("precipitation", "mm h-1"), "HS": ("snow_depth", "m"),
               "SWE": ("snow_water_equivalent", "kg m-2"), "TSS": ("surface_temperature", "K"), "P": ("pressure", "Pa")}
KEYS = ("station_id", "station_name", "latitude", "longitude", "altitude", "easting", "northing", "epsg", "nodata", "tz", "creation",
        "source", "history", "license", "comment", "fields", "units_offset", "units_multiplier")


def read_smet(path: str | Path) -> xr.Dataset:
    """Read a SMET 1.x ASCII file (MeteoIO, SNOWPACK): header of key = value, `fields`, units_multiplier and units_offset to SI.

    PSUM (mm a step) becomes a rate with the step of the file. Raises ValueError for a binary file, a header without
    fields, factors that do not match them, or a row of another width.
    """
    path = Path(path)
    lines = read_text(path, "a SMET file").split("\n")
    header, first = _smet_header(lines, path)
    fields = header.get("fields", "").split()
    names = [field.upper() for field in fields]
    if "TIMESTAMP" not in names:
        raise ValueError(complain(f"a field timestamp in the header of {path.name}", f"fields = {header.get('fields', '')[:80]!r}",
                                  "write dates as timestamp (ISO 8601)"))
    rows = split_rows(path, lines, first, len(fields), "a SMET file")
    stamps = rows.stamps(rows.text(names.index("TIMESTAMP")), "ISO8601", "1995-10-30T00:30")
    starts, step = step_starts(stamps, "end", None, path)
    said = [*rows.said]
    columns = _smet_columns(rows, names, header, step, said, path)
    unknown = [key for key in header if key not in KEYS and not key.startswith(("plot_", "acdd_", "view_", "slope_", "timeseries_"))]
    if unknown:
        said.append(f"Keys of the header that are not known, and were not heeded: {', '.join(unknown)}.")
    zone, named = header.get("tz", ""), header.get("station_id") or header.get("station_name") or path.stem
    if not zone:
        said.append("The header has no tz: times were taken as UTC, as the format says.")
    missing = _number(header, "nodata", path)
    ds = normalise(columns, stamps, path=path, site=named, latitude=_number(header, "latitude", path, missing), step=step,
                   longitude=_number(header, "longitude", path, missing), label="end", time_zone=_zone(zone, path),
                   title=f"Snow station {header.get('station_name', named)}", source=header.get("source", path.name), history=said)
    return ds


def _smet_header(lines: list[str], path: Path) -> tuple[dict[str, str], int]:
    """Keys and values of the header, and the index of the first row of data."""
    if not re.match(r"SMET\s+\d+(\.\d+)?\s+ASCII\b", lines[0]):
        raise ValueError(complain(f"'SMET 1.1 ASCII' on the first line of {path.name}", repr(lines[0][:60]),
                                  "export the file as SMET ASCII; the binary form is not read"))
    header: dict[str, str] = {}
    for number, line in enumerate(lines):
        text = re.split(r"[#;]", line)[0].strip() if "=" in line else line.strip()
        if text.upper() == "[DATA]":
            return header, number + 1
        key, equals, value = text.partition("=")
        if equals:
            header[key.strip().lower()] = value.strip()
        elif number and text.upper() != "[HEADER]" and re.split(r"[#;]", text)[0].strip():
            raise ValueError(complain(f"lines of key = value in the header of {path.name}", f"{line[:60]!r} on line {number + 1}",
                                      "correct the line; comments begin with #, and [DATA] ends the header"))
    raise ValueError(complain(f"a line [DATA] in {path.name}", "none", "download the file again: it is cut short"))


def _smet_columns(rows: Rows, names: list[str], header: dict[str, str], step: str, said: list[str], path: Path) -> dict[str, Column]:
    """Columns of the fields that the normal form knows, in SI units, nodata as NaN."""
    factors = {}
    for key, default in (("units_multiplier", 1.0), ("units_offset", 0.0)):
        texts = header[key].split() if key in header else [str(default)] * len(names)
        if len(texts) != len(names) or not all(map(is_number, texts)):
            raise ValueError(complain(f"{len(names)} numbers of {key} in {path.name}, one a field", f"{header[key][:80]!r}",
                                      "correct the header"))
        factors[key] = [float(text) for text in texts]
    nodata, columns, left = _number(header, "nodata", path), {}, []
    for place, field in enumerate(names):
        if field == "TIMESTAMP":
            continue
        name, units = SMET_FIELDS.get(field, ("", ""))
        if not name or name in columns or (field == "PINT" and "PSUM" in names):
            left.append(field)
            continue
        values, factor, offset = rows.numbers(place, field), factors["units_multiplier"][place], factors["units_offset"][place]
        values = np.where(values == nodata, np.nan, values * factor + offset)
        if (factor, offset) != (1.0, 0.0):
            said.append(f"{field} was multiplied by {factor:g} and {offset:g} was added, as the header says.")
        if field == "PSUM":
            values = values * (pd.Timedelta("1D") / pd.Timedelta(step))
            said.append(f"PSUM is a sum over each step of {step} in the file; it became a rate in mm d-1.")
        if name.endswith("temperature") and np.nanmin(values, initial=np.inf) < 150:
            raise ValueError(complain(f"{field} of {path.name} in K, the unit of the format", f"{np.nanmin(values):g}",
                                      "give units_offset (273.15 for degC) in the header"))
        columns[name] = Column(values, units, field)
    said.append(f"nodata is {nodata:g}.")
    if left:
        said.append(f"Fields without a name in the normal form, or of which another was taken: {', '.join(left)}; they were not taken.")
    return columns


def _number(header: dict[str, str], key: str, path: Path, missing: float | None = None) -> float:
    text = header.get(key, "")
    if text and not is_number(text):
        raise ValueError(complain(f"a number for {key} in the header of {path.name}", repr(text[:40]), "correct the header"))
    value = float(text) if text else np.nan
    return np.nan if value == missing else value


def _zone(text: str, path: Path) -> str:
    if text and (not is_number(text) or abs(float(text)) > 14):
        raise ValueError(complain(f"hours from UTC for tz in the header of {path.name}", repr(text[:40]), "correct the header"))
    return f"UTC{float(text):+g}" if text and float(text) != 0 else "UTC"


FORMATS = (Format("SMET", lambda head: head.text.startswith("SMET "), read_smet, "meteorology, snow depth, reflected shortwave"),)
