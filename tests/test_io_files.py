"""Files that would take more memory or time than was agreed: refused by their header, or as soon as they have grown too large."""

import gzip
import os
import time
import tracemalloc
from pathlib import Path

import netCDF4
import numpy as np
import pytest

from landcal_jax.io import read
from landcal_jax.io.files import BOUND, SMALL, open_netcdf, read_bytes
from landcal_jax.io.recognition import Head
from landcal_jax.io.units import convert


def announcing(path: Path, length: int, name: str = "time") -> Path:
    """An HDF5 file of a few kilobytes with a coordinate of so many numbers, none of them written."""
    with netCDF4.Dataset(path, "w") as file:
        file.createDimension(name, length)
        one = file.createVariable(name, "f8", (name,), chunksizes=(1 << 20,), zlib=True)
        one.units = "days since 2001-01-01"
        file.createVariable("nee", "f4", (name,), chunksizes=(1 << 20,), zlib=True).units = "gC m-2 d-1"
    return path


@pytest.mark.parametrize("name", ["time", "x"])
def test_a_coordinate_of_eight_gigabytes_in_eight_kilobytes(tmp_path: Path, name: str) -> None:
    path = announcing(tmp_path / "huge.nc", 10**9, name)
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    begun = time.perf_counter()
    head = Head(path)
    assert set(head.variables) == {name, "nee"} and head.variables["nee"] == {"units": "gC m-2 d-1"} and head.attrs == {}
    with pytest.raises(ValueError, match="(?s)Expected: a NetCDF file of at most 2 GB.*huge.nc, 16 GB once it is read"):
        open_netcdf(path)
    with pytest.raises(ValueError, match="(?s)Expected: "):
        read(path)
    assert time.perf_counter() - begun < 5 and tracemalloc.get_traced_memory()[1] < 5e7
    tracemalloc.stop()


def test_bound_and_size_are_not_the_same_number(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(BOUND, "0.001")
    (tmp_path / "a.csv").write_bytes(b"x" * 1_000_001)
    with pytest.raises(ValueError, match=r"(?s)at most 0.001 GB.*a.csv, 0.001000001 GB"):
        read_bytes(tmp_path / "a.csv")


def test_a_gzip_bomb_costs_no_time_and_no_memory(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv(BOUND, raising=False)
    path = tmp_path / "bomb.csv.gz"
    piece = gzip.compress(b"2005-01-01,1.0\n" * 2_000_000, 1)
    path.write_bytes(piece * 20)  # 600 MB in a megabyte or two
    tracemalloc.start()
    begun = time.perf_counter()
    with pytest.raises(ValueError, match=f"(?s)at most 100 times as large as it is packed.*bomb.csv.gz, more than that from.*{BOUND}"):
        read_bytes(path)
    assert time.perf_counter() - begun < 5 and tracemalloc.get_traced_memory()[1] < 3 * max(SMALL, 100 * path.stat().st_size)
    tracemalloc.stop()
    monkeypatch.setenv(BOUND, "0.05")
    with pytest.raises(ValueError, match="(?s)at most 50 MB once it is unpacked"):
        read_bytes(path)


def test_what_packs_well_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.csv.gz", "wb") as file:
        file.write(b"-9999," * 1_000_000)  # 500 times smaller, and small
    assert read_bytes(tmp_path / "a.csv.gz") == b"-9999," * 1_000_000
    noise = os.urandom(100_000)
    (tmp_path / "b.gz").write_bytes(gzip.compress(noise))
    assert read_bytes(tmp_path / "b.gz") == noise


@pytest.mark.parametrize("unit", ["9**9**9**9 gC m-2 d-1", "m**9**9**9", "m999999999", "(9**99)**99 m", "9 ** 9 ** 9 ** 9", "m**-(9**9)",
                                  "10^999", "5" * 90, "9e999999999 m", "(" * 90 + "m", "((9**9)**9)**9 m", "km-99999999"])
def test_no_unit_takes_for_ever(unit: str) -> None:
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="Expected: a unit that can become"):
        convert(np.ones(3), unit, "gC m-2 d-1")
    assert time.perf_counter() - begun < 10
