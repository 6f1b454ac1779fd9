"""Opening files that somebody else has made: never run what is in them, never take more memory than was agreed.

Every reader goes through here. Sizes are looked at before memory is taken: of the file, of what a compressed file
becomes, and of the arrays that a NetCDF header announces (a few kilobytes may announce terabytes). Nothing is unpickled.
"""

import gzip
import hashlib
import io
import os
import zlib
from pathlib import Path

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.netcdf_classic import check_classic

# A century of half-hours of forty variables in float64 is 560 MB; forms of the field stay below this.
LARGEST = int(float(os.environ.get("LANDCAL_LARGEST_FILE_GB", "2")) * 1e9)
HEAD = 65536


def _too_large(path: Path, what: str, size: int) -> str:
    return complain(f"{what} of at most {LARGEST / 1e9:g} GB", f"{path}, {size / 1e9:.3g} GB once it is read",
                    "select a site and a period first; or set LANDCAL_LARGEST_FILE_GB if the file is trusted")


def existing(path: str | Path, what: str = "a file of data") -> Path:
    """Return `path` as a Path; raise FileNotFoundError if there is no such file, ValueError if it is empty or too large."""
    path = Path(path)
    if not path.is_file():
        found = f"{path}, which is a folder" if path.is_dir() else f"no file {path}"
        raise FileNotFoundError(complain(what, found, "check the name of the file and its folder"))
    size = path.stat().st_size
    if size == 0:
        raise ValueError(complain(what, f"{path}, which is empty", "download or copy the file again"))
    if size > LARGEST:
        raise ValueError(_too_large(path, what, size))
    return path


def sha256(path: str | Path) -> str:
    """Return the SHA256 checksum of a file as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | Path, what: str = "a file of data") -> bytes:
    """The content of a file, unpacked if it is gzip; never more than `LARGEST` bytes."""
    path = existing(path, what)
    if path.suffix.lower() != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(complain(what, f"{path}, which cannot be unpacked ({error})", "download the file again")) from error
    if len(content) > LARGEST:
        raise ValueError(_too_large(path, what, len(content)))
    return content


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

    Raises ValueError when the file is no NetCDF, is cut short, or announces more than `LARGEST` bytes.
    """
    path = existing(path, what)
    check_classic(path, what)
    try:
        with xr.open_dataset(path, decode_times=False, engine="netcdf4") as dataset:
            announced = sum(variable.size * max(variable.dtype.itemsize, 8) for variable in dataset.variables.values())
            if announced > LARGEST:
                raise ValueError(_too_large(path, what, announced))
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
        announced = np.load(path, allow_pickle=False, mmap_mode="r")
        return np.array(announced)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(complain(what, f"{path}, which cannot be read ({str(error).splitlines()[0][:120]})",
                                  "save it with numpy.save(path, array, allow_pickle=False)")) from error
