"""Classic NetCDF files that are damaged: refused by their header, before the library takes memory or reads zeros."""

import time

import netCDF4
import numpy as np
import pytest
import xarray as xr

from landcal_jax.io.files import open_netcdf
from landcal_jax.io.netcdf_classic import check_classic

FORMATS = ("NETCDF3_CLASSIC", "NETCDF3_64BIT_OFFSET", "NETCDF3_64BIT_DATA")


def made(path, format, *, unlimited, odd=False):
    with netCDF4.Dataset(path, "w", format=format) as file:
        file.title = "a title of odd length"
        file.createDimension("time", None if unlimited else 50)
        file.createDimension("x", 3)
        file.createVariable("time", "f8", ("time",))[:] = np.arange(50)
        for name in ("a",) if odd else ("a", "b"):
            one = file.createVariable(name, "i2" if odd else "f4", ("time", "x"), fill_value=-9999)
            one.units = "W m-2"
            one[:] = np.arange(150).reshape(50, 3)
        file.createVariable("site", "S1", ("x",))[:] = np.array([b"X", b"Y", b"Z"])
    return path


@pytest.mark.parametrize("unlimited", [False, True])
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("format", FORMATS)
def test_whole_files_pass_and_shorter_ones_do_not(tmp_path, format, unlimited, odd):
    path = made(tmp_path / "a.nc", format, unlimited=unlimited, odd=odd)
    check_classic(path)
    assert open_netcdf(path)["a"].shape == (50, 3)
    whole = path.read_bytes()
    for length in (len(whole) - 9, len(whole) // 2, 200, 40, 6):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="not whole"):
            open_netcdf(path)


def test_one_record_variable_lies_unpadded(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", None)
        file.createDimension("x", 3)
        file.createVariable("a", "i1", ("time", "x"))[:] = np.arange(21).reshape(7, 3)
    check_classic(tmp_path / "a.nc")


def test_the_library_alone_reads_zeros_behind_the_end(tmp_path):
    """Why the check is there. Should this fail one day, the library has learned to refuse such files itself."""
    path = made(tmp_path / "a.nc", "NETCDF3_64BIT_OFFSET", unlimited=False)
    path.write_bytes(path.read_bytes()[:-300])
    with xr.open_dataset(path, decode_times=False, engine="netcdf4") as ds:
        assert (ds["b"].values[-5:] == 0).all()


def test_other_files_are_not_looked_at(tmp_path):
    for name, content in (("a.nc", b"\x89HDF\r\n\x1a\n"), ("b.nc", b""), ("c.nc", b"CDF\x07"), ("d.nc", b"text")):
        (tmp_path / name).write_bytes(content)
        check_classic(tmp_path / name)


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_changed_at_random_cost_no_time_and_no_memory(tmp_path, format):
    path = made(tmp_path / "a.nc", format, unlimited=True)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    start, refused = time.perf_counter(), 0
    for _ in range(500):
        broken = bytearray(whole)
        for place in rng.integers(4, 400, 2):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            check_classic(path)
        except ValueError as error:
            refused += 1
            assert str(error).startswith("Expected: a NetCDF file")
    assert refused > 150 and time.perf_counter() - start < 5


def test_every_classic_file_of_the_data_is_whole(data_dir):
    files = [path for path in data_dir.rglob("*.nc") if path.open("rb").read(3) == b"CDF"]
    assert len(files) >= 15
    for path in files:
        check_classic(path)


@pytest.mark.parametrize("format", FORMATS)
def test_records_that_the_header_does_not_count_are_no_silent_end(tmp_path, format):
    path = made(tmp_path / "a.nc", format, unlimited=True)
    whole, record = path.read_bytes(), 8 + 12 + 12
    width = 8 if format.endswith("DATA") else 4
    path.write_bytes(whole[:4] + (49).to_bytes(width, "big") + whole[4 + width:])
    check_classic(path)  # one more record may have been begun by whoever wrote the file
    path.write_bytes(whole[:4] + (30).to_bytes(width, "big") + whole[4 + width:])
    with pytest.raises(ValueError, match=f"(?s){20 * record} more than its header says: records are not counted"):
        open_netcdf(path)
    fixed = made(tmp_path / "b.nc", format, unlimited=False)
    fixed.write_bytes(fixed.read_bytes() + b"\0" * 2)  # and one that fills up the last variable
    check_classic(fixed)
    fixed.write_bytes(fixed.read_bytes() + b"\0" * 8)
    with pytest.raises(ValueError, match="more than its header says"):
        check_classic(fixed)
