"""A look at the header of a classic NetCDF file before the library sees it.

The C library takes memory by the counts in the header, gigabytes for a file of kilobytes with one wrong byte, and it reads
what lies behind the end of a file that was cut short as zeros; a count of records that is too small leaves the rest of the file
unread. `check_classic` follows the header (the format is specified in the NetCDF User's Guide: CDF-1, CDF-2 and CDF-5) and
refuses all three. Files of NetCDF-4, which are HDF5, pass untouched.
"""

import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

from landcal_jax.errors import complain

BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 4, 6: 8, 7: 1, 8: 2, 9: 4, 10: 8, 11: 8}  # of one value, by the number of its type
PADDING = 3  # the last variable may lack the bytes that fill it up to four


class _Variable(NamedTuple):
    record: bool
    size: int
    begin: int


class _Broken(Exception):
    """The header says something that cannot be; the text says what."""


class _Header:
    """Reads big-endian numbers and lists, and never believes a count that the file has no room for."""

    def __init__(self, file: BinaryIO, version: int, size: int) -> None:
        self.file, self.version, self.size = file, version, size
        self.count = 8 if version == 5 else 4

    def number(self, width: int) -> int:
        found = self.file.read(width)
        if len(found) < width:
            raise _Broken("its header ends in the middle")
        return int.from_bytes(found, "big")

    def many(self, least: int, what: str) -> int:
        """A count of things of at least so many bytes each."""
        found = self.number(self.count)
        if found * least > self.size - self.file.tell():
            raise _Broken(f"its header announces {found} {what}, more than there is room for")
        return found

    def skip(self, size: int) -> None:
        if self.file.tell() + size > self.size:
            raise _Broken("its header ends in the middle")
        self.file.seek(-(-size // 4) * 4, 1)

    def name(self) -> None:
        self.skip(self.many(1, "letters of a name"))

    def items(self, tag: int, what: str) -> int:
        found, number = self.number(4), self.many(self.count, what)
        if found not in (0, tag) or (found == 0 and number):
            raise _Broken(f"its list of {what} is damaged")
        return number

    def kind(self) -> int:
        found = self.number(4)
        if found not in BYTES:
            raise _Broken(f"its header names a type {found} that does not exist")
        return BYTES[found]

    def attributes(self) -> None:
        for _ in range(self.items(12, "attributes")):
            self.name()
            width = self.kind()
            self.skip(width * self.many(width, "values of an attribute"))

    def dimensions(self) -> list[int]:
        lengths = []
        for _ in range(self.items(10, "dimensions")):
            self.name()
            lengths.append(self.number(self.count))
        return lengths

    def variables(self, lengths: list[int]) -> list[_Variable]:
        found = []
        for _ in range(self.items(11, "variables")):
            self.name()
            dims = [self.number(self.count) for _ in range(self.many(self.count, "dimensions of a variable"))]
            if any(dim >= len(lengths) for dim in dims):
                raise _Broken("a variable has a dimension that does not exist")
            self.attributes()
            width = self.kind()
            self.number(self.count)  # the size as the file states it: computed below, since it may overflow
            begin = self.number(4 if self.version == 1 else 8)
            record = bool(dims) and lengths[dims[0]] == 0
            found.append(_Variable(record, width * math.prod(lengths[dim] for dim in dims[record:]), begin))
        return found


def check_classic(path: str | Path, what: str = "a NetCDF file") -> None:
    """Raise ValueError if a classic NetCDF file is cut short or its header announces what the file has no room for."""
    path = Path(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        magic = file.read(4)
        if magic[:3] != b"CDF" or magic[3:] not in (b"\x01", b"\x02", b"\x05"):
            return
        header = _Header(file, magic[3], size)
        try:
            records = header.number(header.count)
            lengths = header.dimensions()
            header.attributes()
            variables, written = header.variables(lengths), records == 256**header.count - 1
            end = _end(variables, None if written else records)
            if end > size + PADDING:
                raise _Broken(f"it has {size} bytes of {end}: it was cut short, or its header is damaged")
            # A record that was begun and not counted may follow; two cannot.
            if size > end + _step(variables) + PADDING and not written:
                raise _Broken(f"it has {size} bytes, {size - end} more than its header says: records are not counted, or it is damaged")
        except _Broken as error:
            raise ValueError(complain(what, f"{path}, which is not whole: {error}", "download or copy the file again")) from error


def _end(variables: list[_Variable], records: int | None) -> int:
    """Where the last value ends; `records` None is a file still being written."""
    fixed = [one.begin + one.size for one in variables if not one.record]
    grown = [one for one in variables if one.record]
    if records:
        fixed += [one.begin + (records - 1) * _step(variables) + one.size for one in grown]
    return max(fixed, default=0)


def _step(variables: list[_Variable]) -> int:
    """Bytes of one record. A file with one record variable has its records unpadded, side by side."""
    grown = [one for one in variables if one.record]
    return grown[0].size if len(grown) == 1 else sum(-(-one.size // 4) * 4 for one in grown)
