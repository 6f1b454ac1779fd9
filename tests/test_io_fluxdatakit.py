"""FluxDataKit's .rds: what the reader gives, the inserted leap day, and files that would take more memory than there is."""

import bz2
import gzip
import lzma
import struct
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rdata

from landcal_jax.io import read_differland, read_fluxdatakit, read_forcing
from landcal_jax.io.readers.fluxdatakit import LARGEST_UNPACKED

N = 366  # 2004, a leap year


def says(*parts: str) -> str:
    """A pattern for pytest.raises: the three lines of an error, with these parts in this order."""
    return "(?s)Expected: .*" + ".*".join(parts) + ".*Try: "


def fluxdatakit(folder: Path, **changes: object) -> Path:
    """Write drivers in the form of FluxDataKit for 2004 without 29 February; `changes` replace columns."""
    days = pd.date_range("2004-01-01", "2004-12-31").drop("2004-02-29")
    temperature = 8.0 + 10.0 * np.sin(2 * np.pi * (days.day_of_year.to_numpy() - 100) / 366)
    table = pd.DataFrame({
        "date": (days - pd.Timestamp(0)).days.to_numpy(float), "tmin": temperature, "tmax": temperature, "ppfd": 3e-4,
        "vpd": 500.0, "rain": np.where(days == "2004-02-28", 2e-5, 0.0), "snow": 1e-5, "co2": 377.0})
    table = pd.DataFrame({name: changes.get(name, table[name]) for name in table if changes.get(name, 0) is not None})
    table = table[~table["date"].isin(changes.get("drop", []))].reset_index(drop=True)
    info = pd.DataFrame({"lat": [55.49], "lon": [11.64]})
    rdata.write_rds(folder / "DK-Xxx.rds", {"sitename": "DK-Xxx", "forcing": table, "siteinfo": info})
    return folder / "DK-Xxx.rds"


def test_fluxdatakit_normal_form(tmp_path: Path) -> None:
    forcing = read_forcing(fluxdatakit(tmp_path))
    assert forcing.sizes["time"] == N and str(forcing["site"].values) == "DK-Xxx"
    leap = forcing.sel(time="2004-02-29")
    assert float(leap["precipitation"]) == pytest.approx(86400 * 2e-5)  # mean of 3e-5 and 1e-5 kg m-2 s-1
    assert float(leap["temperature_min"]) == pytest.approx(
        0.5 * float(forcing["temperature_min"][58] + forcing["temperature_min"][60]))
    assert float(forcing["shortwave"][0]) == pytest.approx(3e-4 / 2.04e-6 * 0.0864)
    assert float(forcing["vpd"][0]) == pytest.approx(5.0)
    light = read_fluxdatakit(tmp_path / "DK-Xxx.rds")["shortwave"].attrs
    assert (light["name_in_file"], light["units_in_file"], light["units"]) == ("ppfd", "mol m-2 s-1", "MJ m-2 d-1")
    for sentence in ("1 days inserted", "both are the daily mean", "not tower data", "2.04 umol J-1", "was set to 0"):
        assert sentence in forcing.attrs["history"]


@pytest.mark.parametrize(("changes", "parts"), [
    ({"ppfd": None}, ("columns date, tmin", "no ppfd")),
    ({"drop": [12500.0, 12501.0]}, ("drivers on every day", "2 days absent, the first 2004-03-23")),
    ({"vpd": -300.0}, ("vpd between", "-3 on 2004-01-01", "365 more")),
    ({"date": np.nan}, ("a date on every row", "nan")),
    ({"date": 12500.0}, ("increasing dates in DK-Xxx.rds", "2004-03-23 after 2004-03-23 .row 2")),
    ({"rain": "wet"}, ("numbers in column rain", "wet")),
])
def test_fluxdatakit_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_fluxdatakit(fluxdatakit(tmp_path, **changes))
    assert caught.match(says(*parts))


def test_fluxdatakit_missing_value_is_not_filled_with_the_leap_day(tmp_path: Path) -> None:
    vpd = np.full(365, 500.0)
    vpd[200] = np.nan
    with pytest.raises(ValueError, match=says("vpd on every day", "1 missing values")):
        read_forcing(fluxdatakit(tmp_path, vpd=vpd))


def test_fluxdatakit_files_that_are_something_else(tmp_path: Path) -> None:
    (tmp_path / "DK-Bad.rds").write_bytes(b"not R")
    with pytest.raises(ValueError, match=says("DK-Bad.rds, which cannot be read")):
        read_fluxdatakit(tmp_path / "DK-Bad.rds")
    rdata.write_rds(tmp_path / "DK-Vec.rds", np.arange(3.0))
    with pytest.raises(ValueError, match=says("sitename, forcing and siteinfo in DK-Vec.rds", "ndarray")):
        read_fluxdatakit(tmp_path / "DK-Vec.rds")


# --- files that are made to do harm ---


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_refused_before_it_is_unpacked_whole(packed, tmp_path: Path) -> None:
    path = tmp_path / "DK-Xxx.rds"
    path.write_bytes(packed(b"X\n" + bytes(LARGEST_UNPACKED + 1_000_000)))
    assert path.stat().st_size < 300_000
    began = time.monotonic()
    with pytest.raises(ValueError, match=says("at most 50 MB once it is unpacked", "more than that from")):
        read_fluxdatakit(path)
    assert time.monotonic() - began < 5


def test_packed_twice_and_cut_short(tmp_path: Path) -> None:
    path = fluxdatakit(tmp_path)
    content = gzip.decompress(path.read_bytes()) if path.read_bytes()[:2] == b"\x1f\x8b" else path.read_bytes()
    path.write_bytes(gzip.compress(gzip.compress(content)))
    with pytest.raises(ValueError, match=says("DK-Xxx.rds, which cannot be read .packed twice")):
        read_fluxdatakit(path)
    for whole in (content, gzip.compress(content), bz2.compress(content), lzma.compress(content)):
        path.write_bytes(whole)
        assert read_fluxdatakit(path).sizes["time"] == N
        for cut in (10, len(whole) // 2, len(whole) - 5):
            path.write_bytes(whole[:cut])
            with pytest.raises(ValueError, match=says("which cannot be read")):
                read_fluxdatakit(path)
    damaged = bytearray(gzip.compress(content))
    damaged[len(damaged) // 2:len(damaged) // 2 + 64] = bytes(64)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=says("DK-Xxx.rds, which cannot be read")):
        read_fluxdatakit(path)


def test_a_sequence_of_a_billion_is_not_expanded(tmp_path: Path) -> None:
    """R stores 1:n as three numbers (ALTREP compact_intseq); the parser would make n of them."""
    def symbol(name: bytes) -> bytes:
        return struct.pack(">i", 1) + struct.pack(">ii", 0x00040009, len(name)) + name

    state = struct.pack(">ii3d", 14, 3, 2e9, 1.0, 1.0)
    pairs = (struct.pack(">i", 2) + symbol(b"compact_intseq") + struct.pack(">i", 2) + symbol(b"base")
             + struct.pack(">i", 2) + struct.pack(">iii", 13, 1, 13) + struct.pack(">i", 254))
    header = b"X\n" + struct.pack(">iii", 3, 0x00040000, 0x00030500) + struct.pack(">i", 5) + b"UTF-8"
    path = tmp_path / "DK-Xxx.rds"
    path.write_bytes(header + struct.pack(">i", 238) + pairs + state + struct.pack(">i", 254))
    with pytest.raises(ValueError, match=says("a sequence of 2000000000.0 numbers")):
        read_fluxdatakit(path)


# --- real files ---


def test_real_photon_constant(data_dir: Path) -> None:
    """Reanalysis and tower agree on mean shortwave at FR-Pue within 2 %, so the photon constant is the right one."""
    folder = data_dir / "flux_daily"
    tower = read_differland(folder / "differland/FR-Pue.nc")["shortwave"]
    reanalysis = read_fluxdatakit(folder / "fluxdatakit/FR-Pue.rds")["shortwave"].sel(time=tower["time"])
    assert float(reanalysis.mean() / tower.mean()) == pytest.approx(1.0, abs=0.02)
    assert np.corrcoef(tower, reanalysis)[0, 1] > 0.9
