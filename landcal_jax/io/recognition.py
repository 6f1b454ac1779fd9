"""What a format is: how its files look from outside, and the function that reads them.

    def looks_like_mine(head: Head) -> bool:
        return head.path.suffix == ".dat" and head.text.startswith("# flux tower")

    FORMATS = (Format("my tower, .dat", looks_like_mine, read_mine, "nee, temperature"),)

A predicate looks at the first bytes, or at the names in a NetCDF header, and never raises.
"""

import functools
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import xarray as xr

from landcal_jax.io.files import HEAD
from landcal_jax.io.netcdf_classic import check_classic

NETCDF_SIGNATURES = (b"CDF\x01", b"CDF\x02", b"CDF\x05", b"\x89HDF\r\n\x1a\n")


class Head:
    """The outside of a file: path, first bytes (unpacked if gzip), first text, names in a NetCDF header."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with (gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")) as file:
                self.bytes = file.read(HEAD)
        except (OSError, EOFError, zlib.error):
            self.bytes = b""

    @property
    def name(self) -> str:
        """The file's name in lower case, without .gz."""
        name = self.path.name.lower()
        return name.removesuffix(".gz")

    @property
    def is_netcdf(self) -> bool:
        """Whether the first bytes are those of NetCDF 3 or 4."""
        return self.bytes.startswith(NETCDF_SIGNATURES)

    @functools.cached_property
    def text(self) -> str:
        """The first 64 kB as text with line ends as \\n; empty if they are no text."""
        if b"\0" in self.bytes:
            return ""
        text = self.bytes.decode("utf-8-sig", errors="replace")
        return text.replace("\r\n", "\n").replace("\r", "\n")

    @functools.cached_property
    def lines(self) -> list[str]:
        """The first whole lines of text."""
        lines = self.text.split("\n")
        return lines if len(self.bytes) < HEAD else lines[:-1]

    def columns(self, separator: str = ",", line: int = 0) -> list[str]:
        """The cells of one line, without blanks and quotes around them."""
        if line >= len(self.lines):
            return []
        return [cell.strip().strip('"') for cell in self.lines[line].split(separator)]

    @functools.cached_property
    def variables(self) -> dict[str, dict]:
        """Name -> attributes of every variable of a NetCDF file; empty if it cannot be opened."""
        return self._header[0]

    @functools.cached_property
    def attrs(self) -> dict:
        """Global attributes of a NetCDF file."""
        return self._header[1]

    @functools.cached_property
    def _header(self) -> tuple[dict, dict]:
        if not self.is_netcdf:
            return {}, {}
        try:
            check_classic(self.path)  # the library would believe a damaged count for half a minute
            import netCDF4  # here, because it sets an environment variable when it is imported

            with netCDF4.Dataset(self.path) as file:  # xarray would read the coordinates, however long they are
                return {name: _attributes(variable) for name, variable in file.variables.items()}, _attributes(file)
        except Exception:  # a damaged file is no format that we know; reading it will say what is wrong
            return {}, {}


def _attributes(thing: Any) -> dict:
    return {name: thing.getncattr(name) for name in thing.ncattrs()}


class Format(NamedTuple):
    """A kind of file: its name for people, whether a file looks like it, its reader, and what it brings."""

    name: str
    recognises: Callable[[Head], bool]
    read: Callable[[Path], xr.Dataset]
    brings: str
