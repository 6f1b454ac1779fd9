"""Marks of missing values that nobody has declared: found where they repeat far from all other values, and nowhere else."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io.fills import MARKS, undeclared_marks, without_marks
from landcal_jax.io.normal import normalise
from landcal_jax.io.readers.fluxnet import read_fluxnet
from landcal_jax.io.readers.netcdf_normal import read_netcdf_normal
from landcal_jax.io.readers.tables import read_table

N = 480
TIMES = pd.date_range("2005-06-01", periods=N, freq="30min")
NOISE = np.random.default_rng(3)
NEE, LE, RAIN = NOISE.normal(-2, 8, N), NOISE.gamma(1.0, 80.0, N), np.where(NOISE.random(N) < 0.05, NOISE.gamma(1, 3, N), 0.0)


def marked(values: np.ndarray, mark: float, count: int = 3) -> np.ndarray:
    values = values.copy()
    values[100:100 + count] = mark
    return values


def normal(folder: Path, values: np.ndarray, name: str = "nee", units: str = "umol m-2 s-1", **options: object) -> xr.Dataset:
    (folder / "tower.csv").write_text("made\n")
    return normalise({name: (values, units)}, TIMES, path=folder / "tower.csv", site="XX-Abc", step="PT30M", **options)


@pytest.mark.parametrize(("name", "values", "mark"), [
    ("nee", NEE, -99.99), ("nee", NEE, -99.0), ("nee", NEE.astype("f4"), np.float32(-99.99)), ("latent_heat", LE, -999.0),
    ("latent_heat", LE, 999.0), ("sensible_heat", NEE, -999.9), ("temperature", NEE + 15, -88.8), ("precipitation", RAIN, 999.0)])
def test_a_mark_within_the_range_is_refused_and_can_be_declared(tmp_path: Path, name: str, values: np.ndarray, mark: float) -> None:
    units = {"nee": "umol m-2 s-1", "temperature": "degC", "precipitation": "mm d-1"}.get(name, "W m-2")
    with pytest.raises(ValueError, match=rf"(?s){name} in tower.csv.*Got: +{mark:g} 3 times, far from .*first on 2005-06-03 02:00.*"
                                         rf"# missing: {mark:g}.*fills=\(-9999, {mark:g}\)"):
        normal(tmp_path, marked(values, mark), name, units)
    made = normal(tmp_path, marked(values, mark), name, units, fills=(-9999.0, mark))
    assert int(made[name].isnull().sum()) == 3 and "3 fill values are missing" in made.attrs["history"]
    assert int(normal(tmp_path, values, name, units)[name].isnull().sum()) == 0


def test_what_is_no_mark() -> None:
    assert all(not undeclared_marks(values) for values in (NEE, LE, RAIN, NEE + 950))
    assert not undeclared_marks(marked(NEE, -99.99, 1)), "once may be chance"
    pressure = 990.0 + np.round(NOISE.normal(0, 10, N))
    assert (pressure == 999.0).sum() > 2 and not undeclared_marks(pressure), "999 hPa is the weather"
    snow = np.r_[np.zeros(300), np.arange(970.0, 1000.0).repeat(6)]
    assert not undeclared_marks(snow), "a snow cover that grew to 999 mm"
    spikes = np.r_[NEE, -60.0, -75.0, -85.0, -95.0, -99.0, -99.0]
    assert not undeclared_marks(spikes), "the longest of many spikes"
    assert not undeclared_marks(np.full(N, -99.0)) and not undeclared_marks(np.full(5, np.nan))
    assert [mark.value for mark in undeclared_marks(marked(marked(NEE, -99.0, 9), -999.0, 4))] == [-99.0, -999.0]
    assert len(set(MARKS)) == len(MARKS)


def test_a_table_declares_them(tmp_path: Path) -> None:
    rows = "".join(f"{time:%Y-%m-%d %H:%M},{nee:.3f},{heat:.2f}\n"
                   for time, nee, heat in zip(TIMES, marked(NEE, -99.99), marked(LE, -999.0, 5), strict=True))
    path = tmp_path / "table.csv"
    path.write_text("time,nee,latent_heat\n-,umol m-2 s-1,W m-2\n" + rows)
    with pytest.raises(ValueError, match=r"(?s)-99.99 3 times.*# missing: -99.99"):
        read_table(path)
    path.write_text("# missing: -99.99, -999\ntime,nee,latent_heat\n-,umol m-2 s-1,W m-2\n" + rows)
    made = read_table(path)
    assert (int(made["nee"].isnull().sum()), int(made["latent_heat"].isnull().sum())) == (3, 5)
    path.write_text("# missing: none\ntime,nee,latent_heat\n-,umol m-2 s-1,W m-2\n" + rows)
    with pytest.raises(ValueError, match="(?s)# missing: a number in table.csv.*'none'"):
        read_table(path)


def test_a_netcdf_file_declares_them(tmp_path: Path) -> None:
    ds = xr.Dataset({"nee": ("time", marked(NEE, -99.99).astype("f4"), {"units": "umol m-2 s-1"})}, coords={"time": TIMES})
    ds.attrs["site_code"] = "XX-Abc"
    ds.to_netcdf(tmp_path / "a.nc", encoding={"nee": {"_FillValue": None}})
    with pytest.raises(ValueError, match="(?s)-99.99 3 times.*missing_value"):
        read_netcdf_normal(tmp_path / "a.nc")
    ds.to_netcdf(tmp_path / "b.nc", encoding={"nee": {"_FillValue": np.float32(-99.99)}})
    assert int(read_netcdf_normal(tmp_path / "b.nc")["nee"].isnull().sum()) == 3


def test_towers_have_marks_of_their_own_which_are_masked_and_counted(tmp_path: Path) -> None:
    start, end = (TIMES + pd.Timedelta(minutes=minutes) for minutes in (0, 30))
    rows = [f"{a:%Y%m%d%H%M},{b:%Y%m%d%H%M},{nee:.3f},{heat:.2f},{rain:.1f}" for a, b, nee, heat, rain in zip(
        start, end, marked(marked(NEE, -9999.0, 20), -99.99), marked(LE, -999.0, 5), marked(RAIN, 999.0, 2), strict=True)]
    path = tmp_path / "AMF_XX-Abc_BASE_HH_1-1.csv"
    path.write_text("\n".join(["TIMESTAMP_START,TIMESTAMP_END,NEE,LE,P", *rows]) + "\n")
    made = read_fluxnet(path)
    assert [int(made[name].isnull().sum()) for name in ("nee", "latent_heat", "precipitation")] == [20, 5, 2]
    for sentence in ("NEE: -99.99 3 times, far from the other values", "LE: -999 5 times", "P: 999 2 times", "was taken as missing",
                     "P is a sum over the step in mm; times 48 it is mm d-1."):
        assert sentence in made.attrs["history"]
    np.testing.assert_allclose(made["precipitation"][0], 48 * round(RAIN[0], 1))
    said: list[str] = []
    np.testing.assert_array_equal(without_marks(marked(NEE, -9999.0), "NEE", said), marked(NEE, -9999.0))
    assert not said, "-9999 is left to the counts of normalise"


@pytest.mark.parametrize(("name", "value"), [("latent_heat", -450.0), ("latent_heat", 850.0), ("sensible_heat", 900.0)])
def test_heat_of_a_day_has_the_range_of_days(tmp_path: Path, name: str, value: float) -> None:
    (tmp_path / "tower.csv").write_text("made\n")
    with pytest.raises(ValueError, match=f"{name} between -400 and 800 W m-2"):
        normalise({name: (np.r_[np.zeros(9), value], "W m-2")}, TIMES[:10].normalize()[0] + pd.to_timedelta(np.arange(10), "D"),
                  path=tmp_path / "tower.csv", site="XX-Abc")
    assert float(normal(tmp_path, np.r_[np.zeros(N - 1), value], name, "W m-2")[name][-1]) == value
