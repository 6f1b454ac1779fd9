"""What the fuzz has found, one test each: what the damaged file gave before stands in the name or the comment."""

import tempfile
import time
from pathlib import Path

import made_air
import made_binary
import made_netcdf
import made_snow
import made_text
import numpy as np
import pytest
from fuzzing import check, flipped, inserted, outcome

from landcal_jax.io.units import convert


def replaced(made, old: bytes, new: bytes) -> bytes:
    assert old in made.content
    return made.content.replace(old, new, 1)


@pytest.mark.parametrize("change", [(b"{'descr'", b"p'descr'"), (b"(6, 4)", b"(6, 4("), (b"{'descr'", b"{'des\0r'")])
def test_header_of_npy_that_python_cannot_parse(change, tmp_path: Path) -> None:
    made = made_binary.npy()
    assert "which cannot be read" in outcome(made, replaced(made, *change), tmp_path)


@pytest.mark.parametrize("change", [(b"(6, 4)", b"(6, 3)"), (b"'<f8'", b"'<f4'"), (b"(6, 4)", b"(5, 4)")])
def test_npy_with_more_numbers_than_its_header_says(change, tmp_path: Path) -> None:
    """numpy takes what the header says and leaves the rest: other numbers than were written."""
    made = made_binary.npy()
    assert "its header says" in outcome(made, replaced(made, *change), tmp_path)


def test_seventh_cell_in_global_co2_does_not_make_it_mauna_loa(tmp_path: Path) -> None:
    """The trend was read as a number of days, and the cell as an uncertainty."""
    made = made_air.co2_global()
    assert "header of Mauna Loa" in outcome(made, inserted(made, 6, b"1.5", None), tmp_path)


def test_header_that_lost_every_known_column(tmp_path: Path) -> None:
    """The result was a Dataset without a variable."""
    made = made_text.bigleaf()
    content = b"year,month,doy,hour,mystery\n2014,6,152,20.0,15.4\n2014,6,152,20.5,15.4\n"
    assert "at least one quantity" in outcome(made, content, tmp_path)


@pytest.mark.parametrize(
    "unit", [".g m-2", "g m-2.", "g. m-2", "m**9**9**9", "9**9**9**9*m", "9**(9**(9**9)) m", "((9**99)**99)**99 m", "W/02", "m" * 200]
)
def test_units_that_are_none(unit: str) -> None:
    """Points were dropped in silence, towers of exponents were computed for ever, and W/02 divided by zero."""
    began = time.perf_counter()
    with pytest.raises(ValueError, match="(?s)Expected: a unit that can become.*Try:"):
        convert(1.0, unit, "kg m-2")
    assert time.perf_counter() - began < 5


@pytest.mark.parametrize(
    ("unit", "wanted", "expected"), [("MJ m**-2 day**-1", "W m-2", 11.574074), ("kg (m**2)**-1", "g m-2", 1000.0), ("m^2/m", "m", 1.0)]
)
def test_units_with_exponents_that_are_some(unit: str, wanted: str, expected: float) -> None:
    assert float(convert(1.0, unit, wanted)) == pytest.approx(expected)


def test_damaged_unit_in_the_heading_of_pangaea(tmp_path: Path) -> None:
    """[.g/m**2/day] was read as g/m**2/day, a thousandth."""
    made = made_snow.pangaea()
    assert "runoff" in outcome(made, replaced(made, b"[kg/m**2/day]", b"[.g/m**2/day]"), tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        (b"station_id       =", b"station_id       :", "lines of key = value"),
        (b"units_multiplier =", b"units_multiplier !", "lines of key = value"),
        (b"nodata           =", b"nodata           #", None),
        (b"units_offset     =", b"units_offsat     =", None),
    ],
)
def test_smet_key_that_is_damaged(old: bytes, new: bytes, part: str | None, tmp_path: Path) -> None:
    """A key that is not known was passed over in silence, and with it its factors."""
    made = made_snow.smet()
    said = outcome(made, replaced(made, old, new), tmp_path)
    assert isinstance(said, str) and (part is None or part in said)


def test_smet_key_that_is_not_known_is_said(tmp_path: Path) -> None:
    made = made_snow.smet()
    ds = check(made, replaced(made, b"station_id       =", b"station_ix       ="), tmp_path)
    assert "Keys of the header that are not known, and were not heeded: station_ix." in ds.attrs["history"]


def test_count_of_attributes_that_the_library_would_believe(tmp_path: Path) -> None:
    """Recognition gave the file to the library, which took half a minute over 872 million attributes."""
    made = made_netcdf.plumber2_flux("NETCDF3_CLASSIC")
    began = time.perf_counter()
    said = outcome(made, flipped(made.content, [(756, 52)]), tmp_path)
    assert "is not whole" in said and time.perf_counter() - began < 2


@pytest.mark.parametrize("date", [b"2004-02;20", b"2004-02\n20", b"2004-02-2:", b"0004-02/20"])
def test_reference_of_time_that_is_damaged(date: bytes, tmp_path: Path) -> None:
    """pandas guessed at it."""
    made = made_netcdf.callmip("NETCDF3_CLASSIC")
    assert "units" in outcome(made, replaced(made, b"2004-02-20", date), tmp_path)
    made = made_netcdf.openghg("NETCDF3_CLASSIC")
    assert "units" in outcome(made, replaced(made, b"2014-07-01", b"2014-07;01"), tmp_path)


@pytest.mark.parametrize(
    ("source", "factor"),
    [
        ("x/Hal8hourly_qc_fixed/FLX.csv", 1),
        ("Half-hourly data", 1),
        ("half hourly", 1),
        ("x/Hourly_qc_fixed/FLX.csv", 2),
        ("FLX_HR_x.csv", 2),
    ],
)
def test_hourly_source_of_callmip(source: str, factor: int, tmp_path: Path) -> None:
    """A damaged or hyphened "half-hourly" was taken as hourly, and nee was doubled."""
    made = made_netcdf.callmip(source=source)
    ds = outcome(made, made.content, tmp_path)
    assert float(ds["nee"][0]) == pytest.approx(-3.0 * factor) and ("multiplied by 2" in ds.attrs["history"]) == (factor == 2)


def test_range_holds_after_the_factor_of_hourly_sources(tmp_path: Path) -> None:
    """nee was checked before it was doubled: 60 became 120, which is no flux of a day on Earth."""
    made = made_netcdf.callmip_hourly("NETCDF3_CLASSIC")
    high = np.array([-60.0], ">f4").tobytes()
    assert "nee" in outcome(made, replaced(made, np.array([-3.0], ">f4").tobytes(), high), tmp_path)


def test_flag_of_a_value_that_is_a_fill_of_another_kind(tmp_path: Path) -> None:
    """A value of 1e20 is missing, but its step counted as measured or filled."""
    made = made_netcdf.plumber2_flux("NETCDF3_CLASSIC")
    ds = check(made, replaced(made, np.array([50.02], ">f8").tobytes(), np.array([1e20], ">f8").tobytes()), tmp_path)
    assert np.isnan(ds["latent_heat"].values[2]) and np.isnan(ds["latent_heat_filled"].values[2])


def test_number_near_the_largest_in_rds(tmp_path: Path) -> None:
    """Its conversion overflowed with a warning."""
    made = made_binary.rds_plain()
    content = replaced(made, np.array([3e-4], ">f8").tobytes(), np.array([1e308], ">f8").tobytes())
    with tempfile.TemporaryDirectory() as folder, np.errstate(all="raise"):
        ds = check(made, content, Path(folder))
    assert np.isnan(ds["shortwave"].values[0]) and "1 fill values" in ds.attrs["history"]
