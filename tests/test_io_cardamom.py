"""CARDAMOM's .cbf, .cbf.nc, validation data and tables of sites: made files decoded to the last number, faults, real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io import read, read_cbf, read_cbf_netcdf
from landcal_jax.io.normal import step_of
from landcal_jax.io.readers.cardamom import MONTH, read_cardamom_validation
from landcal_jax.io.readers.netcdf_normal import read_netcdf_normal
from landcal_jax.io.readers.site_tables import read_site_table

N = 24  # months


def says(*parts: str) -> str:
    """A pattern for pytest.raises: the three lines of an error, with these parts in this order."""
    return "(?s)Expected: .*" + ".*".join(parts) + ".*Try: "


def contents(months: int = N, nomet: int = 9, noobs: int = 11) -> tuple[np.ndarray, np.ndarray]:
    """Header and table of a .cbf file; every number tells its place."""
    header = np.full(300, -9999.0)
    header[:6] = [1005, 61.75, months, nomet, noobs, 1]
    header[[13, 15, 16, 20, 21, 22]] = [2.0, 1.0, 3.0, 3.5, 0.1, 0.2]
    header[[101, 110, 151]] = [0.5, 17.5, 1.5]
    header[251] = 1.05
    table = np.full((months, nomet + noobs), -9999.0)
    time = (np.arange(months) + 0.5) * MONTH
    table[:, 0], table[:, 5] = time, time % 365.25
    for column, base in ((1, -5.0), (2, 5.0), (3, 10.0), (4, 370.0), (7, 4.0), (8, 2.0)):
        table[:, column] = base + np.arange(months) / 10
    table[:, 6] = 0.0
    table[:12, 9], table[:12, 11], table[3, 12], table[:12, 13] = 1.5, -0.5, 7000.0, 2.5
    return header, table


def cbf(folder: Path, header: np.ndarray | None = None, table: np.ndarray | None = None, name: str = "flux_site_2.cbf") -> Path:
    (folder / "cbf_files").mkdir(exist_ok=True)
    given = contents()
    header, table = given[0] if header is None else header, given[1] if table is None else table
    path = folder / "cbf_files" / name
    path.write_bytes(np.concatenate([header, table.ravel()]).astype("<f8").tobytes())
    return path


def locations(folder: Path, rows: str = "AR-SLu,MF,-33.46,-66.46,AR-SLu\nFI-Xxx,ENF,61.85,24.29,FI-Xxx\n") -> Path:
    (folder / "location_fluxnet.csv").write_text("Flux_name,LC,Lat,lon,flux_site\n" + rows)
    return folder / "location_fluxnet.csv"


def test_cbf(tmp_path: Path) -> None:
    locations(tmp_path)
    ds = read(cbf(tmp_path))
    assert (str(ds["site"].values), float(ds["latitude"]), float(ds["longitude"])) == ("FI-Xxx", 61.85, 24.29)
    assert step_of(ds) == "P1M" and list(ds.indexes["time"]) == list(pd.date_range("2001-01-01", periods=N, freq="MS"))
    first = {name: float(ds[name][1]) for name in ds.data_vars if np.isfinite(ds[name][1])}
    assert first == pytest.approx({"temperature_min": -4.9, "temperature_max": 5.1, "shortwave": 10.1, "co2": 370.1, "burned_fraction": 0.0,
                                   "vpd": 4.1, "precipitation": 2.1, "gpp": 1.5, "nee": -0.5, "evapotranspiration": 2.5})
    assert int(ds["gpp"].notnull().sum()) == 12 and float(ds["biomass"].max()) == 7000.0 and "lai" not in ds
    assert ds["nee"].attrs["single_unc"] == 1.0 and ds["nee"].attrs["single_annual_unc"] == 2.0
    assert ds["gpp"].attrs["single_unc"] == 3.5 and ds["evapotranspiration"].attrs["min_threshold"] == 0.1
    assert ds["biomass"].attrs["single_unc"] == 1.05 and ds["gpp"].attrs["units"] == "gC m-2 d-1"
    assert ds.attrs["parameter_priors"][[1, 10]].tolist() == [0.5, 17.5] and ds.attrs["parameter_prior_uncertainties"][1] == 1.5
    assert ds.attrs["other_prior_uncertainties"][1] == 1.05 and ds.attrs["static"][0] == 1005 and ds.attrs["latitude_of_grid_cell"] == 61.75
    for sentence in ("it is FI-Xxx, row 2 of location_fluxnet.csv", "nee is NBE of the file", "a cell of a grid", "middle of each step",
                     "gpp (GPP): 12 values on 24 steps; 12 fill values are missing."):
        assert sentence in ds.attrs["history"]


def test_cbf_without_a_table_of_sites(tmp_path: Path) -> None:
    ds = read_cbf(cbf(tmp_path))
    assert (str(ds["site"].values), float(ds["latitude"])) == ("flux_site_2", 61.75) and np.isnan(float(ds["longitude"]))
    assert "no table location_fluxnet.csv was found" in ds.attrs["history"]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert str(read_cbf(cbf(tmp_path), locations=locations(elsewhere))["site"].values) == "FI-Xxx"


def test_cbf_survives_a_round_trip_with_its_priors(tmp_path: Path) -> None:
    ds = read_cbf(cbf(tmp_path))
    ds.to_netcdf(tmp_path / "normal.nc")
    again = read_netcdf_normal(tmp_path / "normal.nc")
    assert step_of(again) == "P1M" and again["nee"].attrs["single_unc"] == 1.0
    np.testing.assert_array_equal(again.attrs["parameter_priors"], ds.attrs["parameter_priors"])
    xr.testing.assert_equal(again, ds)


def _header(**places: float) -> dict[str, np.ndarray]:
    header = contents()[0]
    for place, value in places.items():
        header[int(place[1:])] = value
    return {"header": header}


def _table(row: int, column: int, value: float) -> dict[str, np.ndarray]:
    table = contents()[1]
    table[row, column] = value
    return {"table": table}


@pytest.mark.parametrize(("changes", "parts"), [
    (_header(_2=1e15), ("nodays 1e.15",)),
    (_header(_2=1e300), ("nodays 1e.300",)),
    (_header(_2=25), ("6400 bytes in flux_site_2.cbf, as its header says .25 rows of 20", "6240 bytes")),
    (_header(_2=-24), ("nodays -24",)),
    (_header(_2=24.5), ("nodays 24.5",)),
    (_header(_2=np.nan), ("nodays nan",)),
    (_header(_3=5), ("nomet 5",)),
    (_header(_4=1e9), ("noobs 1e.09",)),
    (_header(_1=12.0), ("latitude of flux_site_2.cbf within half a degree of FI-Xxx, 61.85", "12")),
    (_table(3, 4, np.nan), ("numbers in flux_site_2.cbf", "nan in row 4, column 5")),
    (_table(3, 4, np.inf), ("numbers in flux_site_2.cbf", "inf in row 4, column 5")),
    (_table(3, 0, 15.0), ("mid-months in the first column", "15 in row 4")),
    (_table(3, 0, -9999.0), ("mid-months in the first column", "-9999 in row 4")),
    (_table(3, 5, 300.0), ("day of the year in column 6", "day 300 at 106.531 days, row 4")),
    (_table(3, 9, 4000.0), ("gpp between", "4000 on 2001-04-01")),
    (_table(0, 7, -4.0), ("vpd between 0", "-4 on 2001-01-01")),
    ({"name": "flux_site_9.cbf"}, ("row 9", "2 rows")),
])
def test_cbf_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    locations(tmp_path)
    with pytest.raises(ValueError, match=says(*parts)):
        read_cbf(cbf(tmp_path, **changes))


def test_cbf_cut_short_or_something_else(tmp_path: Path) -> None:
    path = cbf(tmp_path)
    whole = path.read_bytes()
    for cut in (7, 2399, 2400, len(whole) - 8, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=says("flux_site_2.cbf", "bytes")):
            read_cbf(path)
    path.write_bytes(np.frombuffer(whole, "<f8").astype(">f8").tobytes())
    with pytest.raises(ValueError, match=says("flux_site_2.cbf", "nodays 7") + ".*little-endian"):
        read_cbf(path)
    with pytest.raises(ValueError, match=says("a CARDAMOM binary", "which is empty")):
        path.write_bytes(b"")
        read_cbf(path)


def test_cbf_with_more_columns_than_have_a_name(tmp_path: Path) -> None:
    header, table = contents(nomet=10, noobs=14)
    table[:, 9] = 0.3
    table[:, 10:] = -9999.0
    table[:4, 15], table[:4, 22], table[0, 23] = 30.0, 0.4, 1.0
    ds = read_cbf(cbf(tmp_path, header, table))
    assert float(ds["snow_cover"][0]) == 0.4 and "gpp" not in ds
    assert "Left out, without a name in the normal form: MET column 10, EWT, observation column 14." in ds.attrs["history"]


# --- .cbf.nc ---


def cbf_netcdf(folder: Path, name: str = "fluxval_FI-Xxx_1100_GPP.cbf.nc", **changes: object) -> Path:
    time = (np.arange(N) + 0.5) * MONTH
    fields = {"T2M_MIN": (-5.0, "deg C"), "T2M_MAX": (5.0, "deg C"), "SSRD": (10.0, "MJ m**-2 day**-1"),
              "STRD": (25.92, "MJ m**-2 day**-1"),
              "SKT": (1.0, "C"), "VPD": (4.0, "VPD [hPa]"), "TOTAL_PREC": (2.0, "mm/day"), "SNOWFALL": (1.0, "mm/day"),
              "BURNED_AREA": (0.01, "Burned area [m2/m2]"), "CO2": (370.0, "CO2 [ppm]")}
    ds = xr.Dataset({key: ("time", np.full(N, value), {"units": units}) for key, (value, units) in fields.items()})
    ds["GPP"] = ("time", np.where(np.arange(N) < 2, np.nan, 1.0), {"single_unc": 1.25, "opt_unc_type": 1.0, "min_threshold": 0.5})
    ds["NBE"] = ("time", np.full(N, -0.5), {"single_unc": 1.0, "opt_unc_type": 0.0})
    ds["GPP_val"] = ("time", np.full(N, np.nan))
    ds["PEQ_CUE"], ds["LAT"], ds["LON"] = ((), 0.5, {"unc": 1.5}), 61.85, 24.29
    ds["time"] = ("time", time, {"units": "days since 2001-01-01"})
    ds = ds.assign({key: change for key, change in changes.items() if change is not None})
    ds = ds.drop_vars([key for key, change in changes.items() if change is None])
    ds.to_netcdf(folder / name, encoding={key: {"_FillValue": -9999.0} for key in ds.data_vars if ds[key].dims})
    return folder / name


def test_cbf_netcdf(tmp_path: Path) -> None:
    ds = read(cbf_netcdf(tmp_path))
    assert (str(ds["site"].values), float(ds["latitude"]), float(ds["longitude"])) == ("FI-Xxx", 61.85, 24.29)
    assert step_of(ds) == "P1M" and str(ds["time"].values[-1])[:10] == "2002-12-01"
    assert float(ds["longwave"][0]) == pytest.approx(300.0) and float(ds["surface_temperature"][0]) == 1.0
    assert float(ds["vpd"][0]) == 4.0 and float(ds["co2"][0]) == 370.0 and float(ds["burned_fraction"][0]) == 0.01
    assert int(ds["gpp"].notnull().sum()) == N - 2 and ds["gpp"].attrs["single_unc"] == 1.25 and ds["gpp"].attrs["opt_unc_type"] == 1.0
    assert ds["gpp"].attrs["units_in_file"] == "not stated" and ds["nee"].attrs["units"] == "gC m-2 d-1"
    assert ds.attrs["PEQ_CUE"] == 0.5 and ds.attrs["PEQ_CUE_unc"] == 1.5
    assert "Left out, without a name in the normal form or without a value: GPP_val." in ds.attrs["history"]


@pytest.mark.parametrize(("changes", "parts"), [
    ({"time": ("time", np.arange(N) * MONTH)}, ("time stamps in", "no variable `time` with units")),
    ({"SSRD": ("time", np.full(N, 10.0), {"units": "K"})}, ("shortwave .SSRD. of", "'K'")),
    ({"SSRD": ("time", np.full(N, 400.0), {"units": "W m-2 day"})}, ("shortwave .SSRD. of",)),
    ({"GPP": (("time", "member"), np.ones((N, 2)))}, ("'GPP' of .* along time only", "'member': 2")),
    ({"LAT": ((), 95.0)}, ("one latitude in degrees", "95")),
])
def test_cbf_netcdf_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says(*parts)):
        read_cbf_netcdf(cbf_netcdf(tmp_path, **changes))


# --- validation and tables ---


def validation(folder: Path, rows: str = "84,200712,0.18,1.7,NaN\n85,200801,0.2,-9999,0.5\n", head: str = "ID,Date,GPP,NEE,ET") -> Path:
    (folder / "validation_FI-Xxx.csv").write_text(f"{head}\n{rows}")
    return folder / "validation_FI-Xxx.csv"


def test_validation(tmp_path: Path) -> None:
    locations(tmp_path)
    ds = read(validation(tmp_path))
    assert [str(time)[:10] for time in ds["time"].values] == ["2007-12-01", "2008-01-01"] and step_of(ds) == "P1M"
    assert str(ds["site"].values) == "FI-Xxx" and float(ds["longitude"]) == 24.29
    assert float(ds["nee"][0]) == 1.7 and np.isnan(ds["nee"].values[1]) and np.isnan(ds["evapotranspiration"].values[0])
    assert read_cardamom_validation(validation(tmp_path, head="ID,Date(YYYYMM),GPP,NEE,ET")).sizes["time"] == 2


@pytest.mark.parametrize(("rows", "parts"), [
    ("83,200712,0.18,1.7,0.1\n", ("ID of validation_FI-Xxx.csv counting the months from January 2001", "ID 83 for 200712 in line 2")),
    ("84,200713,0.18,1.7,0.1\n", ("YYYYMM", "'200713' in line 2")),
    ("84,200712,0.18,1.7,0.1\n84,200712,0.18,1.7,0.1\n", ("none twice", "2007-12-01")),
    ("84,200712,0.18,1.7\n", ("5 cells in each row", "4 in line 2")),
    ("84,200712,much,1.7,0.1\n", ("numbers in column GPP", "'much' in line 2")),
])
def test_validation_refuses(rows: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says(*parts)):
        read_cardamom_validation(validation(tmp_path, rows))


def test_tables_of_sites(tmp_path: Path) -> None:
    ds = read(locations(tmp_path))
    assert ds.attrs["kind"] == "table" and ds["site"].values.tolist() == ["AR-SLu", "FI-Xxx"] and ds["LC"].values[1] == "ENF"
    assert ds["latitude"].values.tolist() == [-33.46, 61.85] and ds["latitude"].attrs["units"] == "degrees_north"
    for rows, parts in (("AR-SLu,MF,-133.46,-66.46,x\n", ("latitude in degrees on every row", "-133.46 in row 1")),
                        ("AR-SLu,MF,-33.46,,x\n", ("longitude in degrees on every row", "nan in row 1")),
                        ("AR-SLu,MF,-33.46,1,x\nAR-SLu,MF,-33.46,1,x\n", ("each site once", "AR-SLu 2 times")),
                        ("AR-SLu,MF,-33.46\n", ("5 cells in each row", "3 in line 2"))):
        with pytest.raises(ValueError, match=says(*parts)):
            read_site_table(locations(tmp_path, rows))


# --- real files ---


@pytest.fixture
def fluxval(data_dir: Path) -> Path:
    folder = data_dir / "flux_monthly/cardamom_fluxval"
    if not folder.is_dir():
        pytest.skip("the files of CARDAMOM-FLUXVAL are not in LANDCAL_DATA")
    return folder


def test_real_cbf_files(fluxval: Path) -> None:
    """Every file of the selection decodes: site by its number, 192 months, the grid cell within a quarter of a degree."""
    table = read_site_table(fluxval / "location_fluxnet.csv")
    files = sorted((fluxval / "cbf_files").glob("flux_site_*.cbf"))
    assert len(files) >= 100 and table.sizes["row"] == 204
    for file in files:
        ds = read_cbf(file)
        row = int(file.stem.rsplit("_", 1)[1])
        assert str(ds["site"].values) == table["site"].values[row - 1] and ds.sizes["time"] == 192
        assert abs(float(ds["latitude"]) - ds.attrs["latitude_of_grid_cell"]) <= 0.25
        assert 368 < float(ds["co2"].mean()) < 390 and float((ds["temperature_max"] - ds["temperature_min"]).min()) > -1e-6


def test_real_fi_hyy(fluxval: Path) -> None:
    ds = read_cbf(fluxval / "cbf_files/flux_site_76.cbf")
    assert str(ds["site"].values) == "FI-Hyy" and str(ds["time"].values[-1])[:10] == "2016-12-01"
    assert [int(ds[name].notnull().sum()) for name in ("gpp", "lai", "nee", "evapotranspiration", "biomass")] == [75, 71, 75, 75, 1]
    assert float(ds["gpp"][0]) == pytest.approx(0.0662, abs=1e-4) and ds["nee"].attrs["single_unc"] == 1.0


def test_real_us_nr1(fluxval: Path) -> None:
    ds = read_cbf_netcdf(next(fluxval.glob("*.cbf.nc")))
    assert str(ds["site"].values) == "US-NR1" and ds.sizes["time"] == 36 and float(ds["longitude"]) == pytest.approx(-105.5464)
    assert [int(ds[name].notnull().sum()) for name in ("gpp", "nee", "evapotranspiration", "lai", "snow_cover")] == [33, 33, 33, 34, 36]
    assert float(ds["longwave"].mean()) == pytest.approx(250, abs=60) and ds["evapotranspiration"].attrs["min_threshold"] == 0.5
