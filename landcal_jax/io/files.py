"""Opening files that somebody else has made: never run what is in them, never take more memory than was agreed.

Every reader goes through here. Sizes are looked at before memory is taken: of the file, of what a compressed file
becomes, and of the arrays that a NetCDF header announces (a few kilobytes may announce terabytes). Nothing is unpickled.
"""

import gzip
import hashlib
import io
import math
import os
import struct
import tokenize
import warnings
import zlib
from pathlib import Path

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.netcdf_classic import check_classic

# A century of half-hours of forty variables in float64 is 560 MB; forms of the field stay below this.
LARGEST_GB = "2"
BOUND = "LANDCAL_LARGEST_FILE_GB"
HEAD = 65536
UNPACKED = 500_000_000  # bytes of a packed file, where the user has not set BOUND
FOLDED = 100  # times larger than packed: no table of numbers is, above `SMALL`
SMALL, CHUNK = 20_000_000, 1 << 22


def largest() -> int:
    """The most bytes that a file may have, or announce: 2 GB, or what the environment variable LANDCAL_LARGEST_FILE_GB says.

    Raises ValueError when that is no number above 0.
    """
    given = os.environ.get(BOUND, LARGEST_GB)
    try:
        size = float(given)
    except ValueError:
        size = 0.0
    if not 0 < size < 1e9:
        raise ValueError(complain(f"a number above 0 in the environment variable {BOUND} (GB)", repr(given), f"{BOUND}=8, or unset it"))
    return int(size * 1e9)


def _too_large(path: Path, what: str, size: int) -> str:
    limit, shown = (next(text for digits in (3, 6, 10, 17) if (text := f"{each / 1e9:.{digits}g} GB") != f"{other / 1e9:.{digits}g} GB")
                    for each, other in ((largest(), size), (size, largest())))
    return complain(f"{what} of at most {limit}", f"{path}, {shown} once it is read",
                    f"select a site and a period first; or set {BOUND} if the file is trusted")


def existing(path: str | Path, what: str = "a file of data") -> Path:
    """Return `path` as a Path; raise FileNotFoundError or PermissionError, or ValueError if it is empty or too large."""
    path = Path(path)
    if not path.is_file():
        found = f"{path}, which is a folder" if path.is_dir() else f"no file {path}"
        raise FileNotFoundError(complain(what, found, "check the name of the file and its folder"))
    if not os.access(path, os.R_OK):
        raise PermissionError(complain(what, f"{path}, which this user may not read", f"ask its owner for the right (chmod a+r {path})"))
    size = path.stat().st_size
    if size == 0:
        raise ValueError(complain(what, f"{path}, which is empty", "download or copy the file again"))
    if size > largest():
        raise ValueError(_too_large(path, what, size))
    return path


def sha256(path: str | Path) -> str:
    """Return the SHA256 checksum of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path, what: str = "a file of data") -> bytes:
    """The content of a file, unpacked if it is gzip: never more than 500 MB, or what LANDCAL_LARGEST_FILE_GB says where it is set.

    A file that becomes more than 20 MB and more than 100 times as large as it was is refused as soon as it does, unless that is set.
    """
    path = existing(path, what)
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    chunks, size, packed, trusted = [], 0, path.stat().st_size, BOUND in os.environ
    most = largest() if trusted else UNPACKED
    try:
        with gzip.open(path) as file:
            while chunk := file.read(CHUNK):
                chunks.append(chunk)
                size += len(chunk)
                folded = not trusted and size > max(SMALL, FOLDED * packed)
                if size > most or folded:
                    break
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(complain(what, f"{path}, which cannot be unpacked ({error})", "download the file again")) from error
    if chunk:
        limit = f"at most {FOLDED} times as large as it is packed" if folded else f"at most {most / 1e6:g} MB"
        raise ValueError(complain(f"{what}, {limit} once it is unpacked", f"{path}, more than that from {packed / 1e6:.3g} MB",
                                  f"select a site and a period first; or unpack it, or set {BOUND} (GB), if the file is trusted"))
    return b"".join(chunks)


def read_text(path: str | Path, what: str = "a text file of data") -> str:
    r"""The text of a file with line ends as \n, whether it has them of Unix, Windows or the old Macintosh (CR only)."""
    content = read_bytes(path, what)
    if b"\0" in content[:HEAD]:
        raise ValueError(complain(what, f"{path}, which is no text", "export it as CSV"))
    for encoding in ("utf-8-sig", "latin-1"):
        try:
            text = content.decode(encoding)
            break
        except UnicodeDecodeError:
            continue
    return io.IncrementalNewlineDecoder(None, translate=True).decode(text, final=True)


def open_netcdf(path: str | Path, what: str = "a NetCDF file") -> xr.Dataset:
    """Load a NetCDF file whole, fill values as NaN and times undecoded; `what` says which kind of file is meant.

    Raises ValueError when the file is no NetCDF, is cut short, or announces more than `largest()` bytes.
    """
    path = existing(path, what)
    check_classic(path, what)
    try:
        # xarray reads the coordinates when it opens a file; the bare library reads its header only.
        import netCDF4  # here, because it sets an environment variable when it is imported

        with netCDF4.Dataset(path) as header:
            announced = sum(math.prod(variable.shape) * max(np.dtype(variable.dtype).itemsize, 8) for variable in header.variables.values())
        if announced > largest():
            raise ValueError(_too_large(path, what, announced))
        with xr.open_dataset(path, decode_times=False, engine="netcdf4") as dataset:
            return dataset.load()
    except (OSError, ValueError, RuntimeError, AttributeError, KeyError, TypeError) as error:
        if error.args and "Expected:" in str(error.args[0]):
            raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(complain(what, f"{path}, which cannot be read as NetCDF ({reason[:120]})",
                                  "download the file again; `ncdump -h` shows whether it is whole")) from error


def read_npy(path: str | Path, what: str = "a .npy file of numbers") -> np.ndarray:
    """The array of a .npy file; one that holds Python objects, which could run code, is refused."""
    path = existing(path, what)
    try:
        with warnings.catch_warnings():  # a damaged header looks to numpy like one of Python 2
            warnings.simplefilter("ignore")
            announced = np.load(path, allow_pickle=False, mmap_mode="r")
        # numpy takes what the header says and leaves the rest, which is then no array that anybody wrote.
        if (whole := announced.offset + announced.nbytes) != path.stat().st_size:
            raise ValueError(f"its header says {whole} bytes, it has {path.stat().st_size}")
        return np.array(announced)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, AttributeError, KeyError, OverflowError, MemoryError,
            struct.error, tokenize.TokenError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(complain(what, f"{path}, which cannot be read ({reason[:120]})",
                                  "save it with numpy.save(path, array, allow_pickle=False)")) from error
