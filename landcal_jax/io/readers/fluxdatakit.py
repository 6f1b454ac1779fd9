"""Reader of FluxDataKit's drivers of the P-model: an .rds file of R, read without R and without running anything in it."""

import bz2
import gzip
import lzma
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import existing
from landcal_jax.io.normal import Column, normalise, said
from landcal_jax.io.recognition import Format, Head
from landcal_jax.io.units import PHOTONS_PER_JOULE

FLUXDATAKIT = ("Hufkens, K. and Stocker, B.: FluxDataKit, drivers of the P-model, state of 28 February 2022. "
               "https://github.com/geco-bern/FluxDataKit; later releases https://doi.org/10.5281/zenodo.12092555")
FLUXDATAKIT_LICENCE = "none stated for the data (repository AGPL-3.0); derived from WFDEI and WorldClim"
WFDEI = ("Weedon, G. P. et al. (2014): The WFDEI meteorological forcing data set: WATCH Forcing Data methodology "
         "applied to ERA-Interim reanalysis data. Water Resources Research 50, 7505-7514. "
         "https://doi.org/10.1002/2014WR015638")

NEEDED = ("date", "tmin", "tmax", "ppfd", "vpd", "rain", "snow", "co2")
OTHERS = {"temperature": ("temp", "degC"), "pressure": ("patm", "Pa"), "specific_humidity": ("qair", "kg kg-1"),
          "vapour_pressure": ("vapr", "Pa")}
LARGEST_UNPACKED = 50_000_000  # bytes: a century of daily drivers is 5 MB
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
WHAT = "an .rds file with the P-model drivers of one site"


def read_fluxdatakit(path: str | Path) -> xr.Dataset:
    """Read the P-model drivers of one site from an `.rds` file of FluxDataKit (state of February 2022), in the normal form.

    These drivers are not tower data: they are the grid cell of the reanalysis WFDEI (0.5 degrees), with its monthly
    means corrected towards WorldClim, and CO2 is a global annual mean. They hold a daily mean temperature only, and no
    29 February; that day is inserted as the mean of its neighbours, as the protocol of CalLMIP allows.
    Raises FileNotFoundError, or ValueError for a damaged file, one that becomes too large, a gap or an impossible value.
    """
    path = existing(path, WHAT)
    site, table, info = _read_rds(path)
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise ValueError(complain(f"columns {', '.join(NEEDED)} in the drivers of {path.name}", f"no {', '.join(missing)}",
                                  "use the files of FluxDataKit's data/p_model_drivers of February 2022"))
    days = _days(table, path)
    given = {name: _numbers(table[name], name, path) for name in (*NEEDED[1:], *(theirs for theirs, _ in OTHERS.values())) if name in table}
    history: list[str] = []
    days, given = _with_leap_days(days, given, path, history)
    columns = {
        "temperature_min": Column(given["tmin"], "degC", "tmin"), "temperature_max": Column(given["tmax"], "degC", "tmax"),
        "shortwave": Column(_light(given["ppfd"]), "W m-2", "ppfd"), "co2": Column(given["co2"], "ppm", "co2"),
        "vpd": Column(given["vpd"], "Pa", "vpd"),
        "precipitation": Column(given["rain"] + given["snow"], "kg m-2 s-1", "rain and snow"),
        "rainfall": Column(given["rain"], "kg m-2 s-1", "rain"), "snowfall": Column(given["snow"], "kg m-2 s-1", "snow")}
    columns |= {name: Column(given[theirs], units, theirs) for name, (theirs, units) in OTHERS.items() if theirs in given}
    ds = normalise(columns, days, path=path, site=site, step="P1D", latitude=_first(info, "lat", path), longitude=_first(info, "lon", path),
                   title=f"Daily meteorological drivers at {site}, from a reanalysis", source=f"FluxDataKit, {path.name}",
                   references="\n".join((FLUXDATAKIT, WFDEI)), license=FLUXDATAKIT_LICENCE, history=history)
    ds["shortwave"].attrs["units_in_file"] = "mol m-2 s-1"
    ds = said(ds, "The drivers are not tower data: they are the grid cell of a reanalysis (WFDEI, 0.5 degrees) with its monthly means "
              "corrected towards WorldClim; co2 is a global annual mean.",
              f"shortwave was derived from the photon flux density by {PHOTONS_PER_JOULE * 1e6:g} umol J-1.")
    if np.array_equal(given["tmin"], given["tmax"]):
        ds = said(ds, "temperature_min and temperature_max both are the daily mean: the file has no others.")
    left = [str(name) for name in table if name not in (*NEEDED, *given)]
    return said(ds, f"Left out: {', '.join(left)}.") if left else ds


def _light(photons: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a damaged number may be as large as there are numbers; it is then refused or missing
        return photons / PHOTONS_PER_JOULE


def _days(table: pd.DataFrame, path: Path) -> pd.DatetimeIndex:
    """The column date, R's days since 1970-01-01, as the start of each day."""
    count = _numbers(table["date"], "date", path)
    if not count.size or not (np.abs(count) < 1e5).all():  # also where one is NaN
        raise ValueError(complain(f"a date on every row of {path.name}, as days since 1970-01-01",
                                  f"{count[np.argmin(np.abs(count) < 1e5)]:g}" if count.size else "no row", "download the file again"))
    days = pd.DatetimeIndex(pd.to_datetime(np.floor(count), unit="D")).as_unit("ns")
    wrong = np.diff(days.values) <= np.timedelta64(0)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(complain(f"increasing dates in {path.name}, none twice",
                                  f"{days[first + 1]:%Y-%m-%d} after {days[first]:%Y-%m-%d} (row {first + 2})", "sort the rows by date"))
    return days


def _numbers(column: pd.Series, name: str, path: Path) -> np.ndarray:
    try:
        values = np.asarray(column, dtype=float)
    except (TypeError, ValueError) as error:
        raise ValueError(complain(f"numbers in column {name} of {path.name}", str(error)[:120], "download the file again")) from error
    if values.ndim != 1:
        raise ValueError(complain(f"one number a day in column {name} of {path.name}", f"shape {values.shape}", "download the file again"))
    return values


def _first(info: pd.DataFrame, name: str, path: Path) -> float:
    try:
        return float(np.ravel(info[name])[0])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(complain(f"{name} in siteinfo of {path.name}", "none",
                                  "use the files of FluxDataKit's data/p_model_drivers")) from error


def _unpacked(path: Path) -> bytes:
    """The content of an .rds file, unpacked from gzip, bzip2 or xz, and never more than `LARGEST_UNPACKED` bytes.

    The parser would unpack whatever it is given: a few kilobytes can become gigabytes.
    """
    with path.open("rb") as file:
        start = file.read(8)
    opened = next((function for magic, function in COMPRESSED.items() if start.startswith(magic)), open)
    try:
        with opened(path, "rb") as file:
            content = file.read(LARGEST_UNPACKED + 1)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ValueError(_damaged(path, error)) from error
    if len(content) > LARGEST_UNPACKED:
        raise ValueError(complain(f"{WHAT}, at most {LARGEST_UNPACKED / 1e6:g} MB once it is unpacked",
                                  f"{path}, more than that from {path.stat().st_size} bytes", "do not trust the file: download it again"))
    if content.startswith(tuple(COMPRESSED)):
        raise ValueError(_damaged(path, "packed twice"))
    return content


def _damaged(path: Path, reason: object) -> str:
    text = str(reason).splitlines()[0][:120] if str(reason) else type(reason).__name__
    return complain(WHAT, f"{path}, which cannot be read ({text})", "download the file again")


def _read_rds(path: Path) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Return (site, drivers, information) of an .rds file: a table of one row with nested tables, or a list of them."""
    import rdata

    # R's dates and tibbles, which rdata would otherwise report as unknown.
    classes = dict(rdata.conversion.DEFAULT_CLASS_MAP) | {
        "Date": lambda value, attributes: value,
        "tbl_df": rdata.conversion.dataframe_constructor, "tbl": rdata.conversion.dataframe_constructor}
    sequences = dict(rdata.parser.DEFAULT_ALTREP_MAP)
    sequences |= {name: _bounded(sequences[name]) for name in (b"compact_intseq", b"compact_realseq")}
    content = _unpacked(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parsed = rdata.parser.parse_data(content, altrep_constructor_dict=sequences, extension=".rds")
            record = rdata.conversion.convert(parsed, constructor_dict=classes)
    except Exception as error:  # the parser has no exception of its own: whatever it meets means a damaged file
        raise ValueError(_damaged(path, error)) from error
    names = ("sitename", "forcing", "siteinfo")
    if isinstance(record, pd.DataFrame) and set(names) <= set(record) and len(record) == 1:
        record = {name: record[name].iloc[0] for name in names}
    if not isinstance(record, dict) or not set(names) <= set(record) or not isinstance(record["forcing"], pd.DataFrame):
        raise ValueError(complain(f"a table with sitename, forcing and siteinfo in {path.name}",
                                  f"a {type(record).__name__} without them, or of several sites",
                                  "use the files of FluxDataKit's data/p_model_drivers of February 2022"))
    return str(np.ravel(record["sitename"])[0]), record["forcing"], record["siteinfo"]


def _bounded(constructor):
    """R writes 1:n as three numbers; the parser makes n of them, so n is looked at first."""

    def construct(state):
        if not 0 <= float(state.value[0]) <= 1e7:
            raise ValueError(f"a sequence of {state.value[0]} numbers")
        return constructor(state)

    return construct


def _with_leap_days(days: pd.DatetimeIndex, columns: Mapping[str, np.ndarray], path: Path,
                    history: list[str]) -> tuple[pd.DatetimeIndex, dict[str, np.ndarray]]:
    """Insert 29 February, where it alone is missing, as the mean of its neighbours; any other gap is an error."""
    gaps = pd.date_range(days[0], days[-1], unit="ns").difference(days)
    other = gaps[(gaps.month != 2) | (gaps.day != 29)]
    if len(other):
        raise ValueError(complain(f"drivers on every day in {path.name}", f"{len(other)} days absent, the first {other[0]:%Y-%m-%d}",
                                  "fill the gap from a reanalysis, or cut the record before it"))
    table = pd.DataFrame(dict(columns), index=days).reindex(days.union(gaps))
    # Only the inserted days are filled: a missing value of the file itself has to stay visible.
    table.loc[gaps] = table.interpolate(method="linear").loc[gaps]
    history.append(f"29 February is missing in the file: {len(gaps)} days inserted, each the mean of its neighbours.")
    return pd.DatetimeIndex(table.index), {str(name): table[name].to_numpy() for name in table}


def _recognised(head: Head) -> bool:
    return head.name.endswith(".rds")


FORMATS = (Format("FluxDataKit drivers, .rds", _recognised, read_fluxdatakit, "daily drivers from a reanalysis"),)
