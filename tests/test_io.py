"""Units, and the readers of CalLMIP and DifferLand: what they give on small made files and on real ones, and what they refuse."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io import align, convert, drivers, read_callmip, read_differland, read_flux, read_forcing
from landcal_jax.io.normal import step_of

N = 366  # 2004, a leap year


def says(*parts: str) -> str:
    """A pattern for pytest.raises: the three lines of an error, with these parts in this order."""
    return "(?s)Expected: .*" + ".*".join(parts) + ".*Try: "


# --- units ---


@pytest.mark.parametrize(("value", "given", "wanted", "expected"), [
    (1.0, "umol m-2 s-1", "gC m-2 d-1", 1e-6 * 12.011 * 86400),
    (1.0, "umolCO2 m-2 s-1", "gC m-2 d-1", 1e-6 * 12.011 * 86400),
    (2.0, "kgC m-2", "gC m-2", 2000.0),
    (1.0, "gC/m2/d", "gC m-2 d-1", 1.0),
    (1.0, "kg m-2 s-1", "mm d-1", 86400.0),
    (86400.0, "mm/day", "kg m-2 s-1", 1.0),
    (0.0, "deg C", "K", 273.15),
    (11.574074, "W/m2", "MJ m-2 d-1", 1.0),
    (1500.0, "Pa", "hPa", 15.0),
    (15.0, "hPA", "Pa", 1500.0),
    (400.0, "umol mol-1", "ppm", 400.0),
    (2.0, "m**2", "m2", 2.0),
    (50.0, "%", "1", 0.5),
])
def test_convert(value: float, given: str, wanted: str, expected: float) -> None:
    assert convert(value, given, wanted) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("given", "wanted", "part"), [
    ("gC m-2 d-1", "mm d-1", "another kind of quantity"),
    ("kg m-2 s-1", "gC m-2 d-1", "another kind of quantity"),
    ("umol m-2 s-1", "mm d-1", "another kind of quantity"),
    ("furlongs_of_rain", "mm", "furlongs_of_rain"),
    ("gC m-2!", "gC m-2", "integer exponents"),
])
def test_convert_refuses(given: str, wanted: str, part: str) -> None:
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{part}"):
        convert([1.0], given, wanted)


# --- CalLMIP fluxes ---


def callmip(**changes: object) -> xr.Dataset:
    """A file of CalLMIP as xarray sees it undecoded; `changes` replace variables (None deletes them)."""
    t = np.arange(N)
    season = np.sin(2 * np.pi * (t - 80) / N)
    fields = {"NEE": (-3.0 * season, "gC/m2/d"), "Qle": (60.0 + 50.0 * season, "W/m2"), "Qh": (20.0 * season, "W/m2")}
    ds = xr.Dataset()
    for name, (values, units) in fields.items():
        ds[f"{name}_daily"] = ("time", values.astype("f4"), {"units": units})
        ds[f"{name}_uc_daily"] = ("time", np.full(N, 0.3, "f4"), {"units": units})
    for name in ("NEE_daily", "NEE_uc_daily"):
        ds[name][10] = np.nan
        ds[name][11] = 1e20
    ds["NEE_daily"].attrs["standard_name"] = "surface_net_downward_mass_flux_of_carbon_dioxide_expressed_as_carbon"
    ds["time"] = ("time", 86400.0 * t, {"units": "seconds since 2004-01-01 00:00:00", "calendar": "standard"})
    ds["latitude"], ds["longitude"] = ("y", [61.85]), ("x", [24.29])
    ds.attrs = {"site_code": "FI-Xxx", "site_name": "Nowhere", "Input_file": "x/Halfhourly_qc_fixed/FLX_HH.csv",
                "scaling_factor_NEE": "umolCO2/m2/s -> 1e-6 * 12 * 1800 gC/m2/half-hour"}
    for name, change in changes.items():
        ds = ds.drop_vars(name) if change is None else ds.assign({name: change})
    return ds


def written(ds: xr.Dataset, folder: Path, name: str = "FI-Xxx_daily.nc") -> Path:
    encoding = {v: {"_FillValue": 1e20} for v in ds.data_vars if str(v).endswith("daily") and ds[v].dtype.kind == "f"}
    ds.to_netcdf(folder / name, encoding=encoding)
    return folder / name


def test_callmip_normal_form(tmp_path: Path) -> None:
    flux = read_flux(written(callmip(), tmp_path))
    assert set(flux.data_vars) == {f"{name}{end}" for name in ("nee", "latent_heat", "sensible_heat")
                                   for end in ("", "_uncertainty")}
    assert flux["time"].dtype == "datetime64[ns]" and str(flux["time"].values[59])[:10] == "2004-02-29"
    assert (str(flux["site"].values), float(flux["latitude"])) == ("FI-Xxx", 61.85)
    assert {name: flux[name].attrs["units"] for name in ("nee", "latent_heat")} == {
        "nee": "gC m-2 d-1", "latent_heat": "W m-2"}
    assert int(flux["nee"].notnull().sum()) == int(flux["nee_uncertainty"].notnull().sum()) == N - 2
    history = flux.attrs["history"].split("\n")
    assert f"nee: {N - 2} observed days of {N}." in history
    assert f"nee (NEE_daily): {N - 2} values on {N} steps; 2 blank or NaN are missing." in history
    assert any("correlation with latent heat is -1.00" in line and "standard_name" in line for line in history)
    assert "standard_name" not in flux["nee"].attrs and len(flux.attrs["sha256"]) == 64 and step_of(flux) == "P1D"


def test_callmip_fills_side_by_side(tmp_path: Path) -> None:
    """1e20 as the fill value, 1e20 without being declared, NaN and -9999 in one series all mean missing."""
    ds = callmip()
    ds["Qle_daily"][20:23] = [-9999.0, np.nan, 1e20]
    path = tmp_path / "FI-Xxx_daily.nc"
    ds.to_netcdf(path, encoding={"Qle_daily": {"_FillValue": None}})
    flux = read_callmip(path)
    assert np.isnan(flux["latent_heat"].values[20:23]).all() and int(flux["latent_heat"].notnull().sum()) == N - 3
    assert "latent_heat (Qle_daily): 363 values on 366 steps; 2 fill values and 1 blank or NaN are missing." in flux.attrs["history"]


def test_callmip_units_are_converted(tmp_path: Path) -> None:
    ds = callmip()
    for name in ("NEE_daily", "NEE_uc_daily"):
        ds[name] = (ds[name] / (1e-6 * 12.011 * 86400)).assign_attrs(units="umol m-2 s-1")
    np.testing.assert_allclose(read_callmip(written(ds, tmp_path))["nee"],
                               read_callmip(written(callmip(), tmp_path, "FI-Xxx_2.nc"))["nee"], rtol=1e-6)


def test_callmip_value_without_uncertainty_is_masked_and_counted(tmp_path: Path) -> None:
    ds = callmip()
    ds["Qle_uc_daily"][5] = 0.0
    ds["Qle_uc_daily"][6] = np.nan
    flux = read_callmip(written(ds, tmp_path))
    assert np.isnan(flux["latent_heat"].values[5:7]).all()
    assert "2 more masked for want of a positive uncertainty" in flux.attrs["history"]


def test_callmip_hourly_record_summed_as_half_hours(tmp_path: Path) -> None:
    ds = callmip()
    ds.attrs["Input_file"] = "x/Hourly_qc_fixed/FLX_US-MMS_FLUXNET2015_FULLSET_HR_1999-2014.csv"
    flux = read_callmip(written(ds, tmp_path))
    plain = read_callmip(written(callmip(), tmp_path, "FI-Xxx_2.nc"))
    for name in ("nee", "nee_uncertainty"):
        np.testing.assert_allclose(flux[name], 2.0 * plain[name])
    np.testing.assert_allclose(flux["latent_heat"], plain["latent_heat"])
    assert "multiplied by 2" in flux.attrs["history"] and "multiplied" not in plain.attrs["history"]


def test_callmip_absent_days_and_noon_stamps(tmp_path: Path) -> None:
    ds = callmip().isel(time=np.r_[0:100, 103:N])
    ds["time"] = ds["time"] + 43200.0
    ds["time"].attrs = callmip()["time"].attrs
    flux = read_callmip(written(ds, tmp_path))
    assert "3 steps between the first and the last are absent" in flux.attrs["history"]
    assert (flux["time"].dt.hour == 0).all()


def test_callmip_site_from_the_file_name(tmp_path: Path) -> None:
    ds = callmip()
    del ds.attrs["site_code"]
    assert str(read_callmip(written(ds, tmp_path))["site"].values) == "FI-Xxx"


def _at(name: str, index: int, value: float) -> dict[str, object]:
    changed = callmip()[name].copy()
    changed[index] = value
    return {name: changed}


def _time(values: np.ndarray, **attrs: str) -> dict[str, object]:
    return {"time": ("time", values, callmip()["time"].attrs | attrs)}


DAYS = 86400.0 * np.arange(N)


@pytest.mark.parametrize(("changes", "parts"), [
    ({"Qh_uc_daily": None}, ("variable 'Qh_uc_daily' in FI-Xxx_daily.nc", "only .*NEE_daily")),
    ({"NEE_daily": ("time", np.zeros(N))}, ("units attribute on 'NEE_daily' of FI-Xxx_daily.nc", "none")),
    ({"NEE_daily": ("time", np.zeros(N), {"units": "mm d-1"})}, ("nee .NEE_daily. of FI-Xxx_daily.nc .* 'gC m-2 d-1'", "'mm d-1'")),
    (_at("NEE_daily", 40, 5000.0), ("nee between -100 and 100", "5000 on 2004-02-10")),
    (_at("Qle_daily", 0, -8888.0), ("latent_heat", "-8888 on 2004-01-01")),
    (_at("Qle_uc_daily", 3, -2.0), ("latent_heat_uncertainty between 0", "-2 on 2004-01-04")),
    ({"NEE_daily": -callmip()["NEE_daily"].assign_attrs(units="gC/m2/d")}, ("positive to the atmosphere", r"\+1.00")),
    (_time(np.where(np.arange(N) == 7, DAYS[6], DAYS)), ("increasing time stamps in FI-Xxx_daily", "2004-01-07 00:00:00 twice .value 8")),
    (_time(DAYS[::-1].copy()), ("increasing", "2004-12-30 00:00:00 after 2004-12-31")),
    (_time(30 * DAYS), ("one stamp a month in FI-Xxx_daily.nc", "a second one, 2004-01-31")),
    (_time(3 * DAYS), ("one time stamp a day", "steps of P3D")),
    (_time(DAYS / 24), ("one time stamp a day", "steps of PT1H")),
    (_time(DAYS + 3600.0 * (np.arange(N) == 9)), ("one stamp a day", "2 different hours")),
    (_time(np.where(np.arange(N) == 5, np.nan, DAYS)), ("time stamps in FI-Xxx_daily.nc", "1 of its values missing")),
    (_time(1e300 * (1.0 + DAYS)), ("time stamps in FI-Xxx_daily.nc", "values from 1e.300")),
    (_time(DAYS, units="days"), ("time stamps in", "no variable `time` with units")),
    (_time(DAYS, calendar="noleap"), ("standard calendar", "'noleap'")),
    ({"latitude": ("y", [912.0])}, ("one latitude in degrees", "912")),
    ({"longitude": None}, ("one longitude in degrees", r"\[\]")),
    ({"NEE_daily": (("time", "site"), np.zeros((N, 2)), {"units": "gC/m2/d"})}, ("along time only", "'site': 2")),
])
def test_callmip_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        read_callmip(written(callmip(**changes), tmp_path))
    assert caught.match(says(*parts))
    assert "FI-Xxx_daily.nc" in str(caught.value)


def test_flux_files_that_are_not_there_or_not_netcdf(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=says("no file .*gone.nc")):
        read_callmip(tmp_path / "gone.nc")
    (tmp_path / "broken.nc").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match=says("broken.nc, which cannot be read as NetCDF")):
        read_callmip(tmp_path / "broken.nc")
    with pytest.raises(ValueError, match=says("one site a file", "'FI-Xxx'")):
        read_callmip(written(callmip(), tmp_path, "FI-Hyy_daily.nc"))
    anonymous = callmip()
    del anonymous.attrs["site_code"]
    with pytest.raises(ValueError, match=says("the site of x.nc", "no attribute site_code")):
        read_callmip(written(anonymous, tmp_path, "x.nc"))
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=says("one of the formats CalLMIP", "other.nc")):
        read_flux(tmp_path / "other.nc")


# --- DifferLand ---


def differland(folder: Path, name: str = "FI-Xxx.nc", start: int = 2004, days: int = N, **changes: object) -> Path:
    """Write a DifferLand file and its table of sites; `changes` replace variables (None deletes them)."""
    t, season = np.arange(days), np.sin(2 * np.pi * (np.arange(days) - 80) / 365.25)
    drivers = {"T2M_MIN": (8 * season, "deg C"), "T2M_MAX": (8 * season + 7, "deg C"),
               "SSRD": (12 + 9 * season, "MJ/m2/d"), "VPD": (4 + 3 * season, "hPA"),
               "CO2": (np.full(days, 390.0), "ppm"), "TOTAL_PREC": (np.full(days, 2.0), "mm/day")}
    ds = xr.Dataset({k: ("time", v, {"units": u}) for k, (v, u) in drivers.items()})
    for flux, values in (("GPP", 4 + 4 * season), ("NBE", -2 * season), ("ET", 1.5 + season), ("LAI", 2 + season)):
        ds[flux], ds[f"{flux}unc"] = ("time", values), ("time", np.full(days, 0.2))
    ds["DOY"] = ("time", pd.date_range("2004-01-01", periods=days).day_of_year.to_numpy(float))
    ds["LAT"], ds["time"] = 61.85, ("time", t)
    for key, change in changes.items():
        ds = ds.drop_vars(key) if change is None else ds.assign({key: change})
    ds.to_netcdf(folder / name)
    table = pd.DataFrame({"SITE_ID": ["FI-Xxx", "US-Yyy"], "lon": [24.29, -110.0], "lat": [61.85, 31.0],
                          "start_year": [start, 2001], "end_year": [start, 2009]})
    table.to_csv(folder / "site_coords.csv", index=False)
    return folder / name


def _series(index: int, value: float, units: str, fill: float = 5.0) -> tuple[str, np.ndarray, dict[str, str]]:
    return "time", np.where(np.arange(N) == index, value, fill), {"units": units}


def test_differland_normal_form(tmp_path: Path) -> None:
    forcing = read_forcing(differland(tmp_path))
    assert list(forcing.data_vars) == ["temperature_min", "temperature_max", "shortwave", "co2", "vpd", "precipitation",
                                       "burned_fraction"]
    assert all({"units", "long_name"} <= set(forcing[name].attrs) for name in forcing.data_vars)
    assert str(forcing["time"].values[59])[:10] == "2004-02-29" and forcing.sizes["time"] == N
    assert float(forcing["longitude"]) == 24.29 and "start_year of site_coords.csv" in forcing.attrs["history"]
    assert not forcing.isnull().to_array().any()
    elsewhere = tmp_path / "sub"
    elsewhere.mkdir()
    moved = (tmp_path / "FI-Xxx.nc").rename(elsewhere / "FI-Xxx.nc")
    again = drivers(read_differland(moved, coordinates=tmp_path / "site_coords.csv"))
    xr.testing.assert_equal(again, forcing)
    assert again.attrs["history"] == forcing.attrs["history"]


def test_differland_corrections_are_counted(tmp_path: Path) -> None:
    highest = 8 * np.sin(2 * np.pi * (np.arange(N) - 80) / 365.25) + 7
    path = differland(tmp_path, CO2=_series(3, 541.0, "ppm", 390.0), VPD=_series(9, -1e-4, "hPa"), days=N,
                      T2M_MIN=("time", np.where(np.arange(N) == 2, highest + 1e-4, highest - 5), {"units": "deg C"}))
    forcing = drivers(read_differland(path))
    history = forcing.attrs["history"]
    assert "co2: 1 days outside 330 to 450 ppm look suspicious (the most extreme 541) and were kept." in history
    assert "vpd: 1 negative values down to -0.0001 hPa were set to zero." in history
    assert "temperature_max: 1 days below temperature_min by rounding" in history
    assert float(forcing["co2"][3]) == 541.0 and float(forcing["vpd"][9]) == 0.0
    assert (forcing["temperature_max"] >= forcing["temperature_min"]).all()


def test_differland_short_last_year_is_said(tmp_path: Path) -> None:
    forcing = read_differland(differland(tmp_path, days=N - 1))
    assert "365 days of the 366 from 2004-01-01 to 2004-12-31; its last is 2004-12-30" in forcing.attrs["history"]


def test_differland_flux(tmp_path: Path) -> None:
    path = differland(tmp_path, NBEunc=("time", np.where(np.arange(N) == 4, 0.0, 0.2)),
                      GPP=("time", np.where(np.arange(N) < 3, -9999.0, 1.0)))
    flux = read_flux(path)
    assert {"gpp", "nee", "evapotranspiration", "latent_heat", "lai", "nee_uncertainty"} <= set(flux.data_vars)
    assert int(flux["gpp"].notnull().sum()) == N - 3 and flux["gpp"].attrs["units"] == "gC m-2 d-1"
    assert flux["gpp"].attrs["gap_filled"] == "included, not marked" and flux["gpp"].attrs["units_in_file"] == "not stated"
    assert int(flux["nee"].notnull().sum()) == N and int(flux["nee_uncertainty"].notnull().sum()) == N - 1
    assert "gpp (GPP): 363 values on 366 steps; 3 fill values are missing." in flux.attrs["history"]
    assert "Gap-filled days are included and not marked in gpp, nee, evapotranspiration, lai." in flux.attrs["history"]
    assert "nee: 366 values on 366 days, gap-filled days included; 1 of them" in flux.attrs["history"]
    whole = read_differland(path)
    np.testing.assert_allclose(flux["latent_heat"], whole["evapotranspiration"] * 2.4417e6 / 86400)
    assert whole["evapotranspiration"].attrs["vaporisation_heat"] == 2.4417e6
    assert "evapotranspiration times 2.4417 MJ kg-1, with which the file's evapotranspiration was made" in flux.attrs["history"]
    assert {"temperature_min", "nee"} <= set(whole.data_vars)


def test_differland_soil_moisture_and_pressure(tmp_path: Path) -> None:
    moisture = np.where(np.arange(N) < 111, -9999.0, 25.0)
    ds = read_differland(differland(tmp_path, SWC=("time", moisture), PA=("time", np.full(N, 98.5), {"units": "kPa"}),
                                    RECO=("time", np.full(N, 3.0)), RECOunc=("time", np.full(N, 0.1)), EF=("time", np.ones(N))))
    assert float(ds["soil_moisture"][200]) == 0.25 and int(ds["soil_moisture"].isnull().sum()) == 111
    assert float(ds["pressure"][0]) == 985.0 and float(ds["reco_uncertainty"][0]) == 0.1
    assert "Left out, without a name in the normal form or without a value: EF." in ds.attrs["history"]


def test_differland_time_counts_days_since_2001(tmp_path: Path) -> None:
    """In the files of the authors; where they do not agree with start_year, one of the two is wrong."""
    path = differland(tmp_path, time=("time", 1095 + np.arange(N)))
    assert "day 0 is 2004-01-01, the start_year of site_coords.csv, as its column time says" in read_differland(path).attrs["history"]
    with pytest.raises(ValueError, match=says("days since 2001-01-01 beginning with 1095", "730 at index 0")):
        read_differland(differland(tmp_path, time=("time", 730 + np.arange(N))))


@pytest.mark.parametrize(("changes", "parts"), [
    ({"SSRD": None}, ("variable 'SSRD' in FI-Xxx.nc",)),
    ({"SSRD": _series(5, -9999.0, "MJ/m2/d")}, ("shortwave on every day", "1 missing values, the first on 2004-01-06")),
    ({"CO2": _series(6, np.nan, "ppm", 390.0)}, ("co2 on every day", "2004-01-07")),
    ({"VPD": _series(31, -2.0, "hPa")}, ("vpd between 0 and 150 hPa", "-2 on 2004-02-01")),
    ({"VPD": _series(0, 5.0, "K")}, ("vpd .VPD. of FI-Xxx.nc in a unit that can become 'hPa'", "'K'")),
    ({"T2M_MIN": _series(8, 60.0, "deg C", -20.0)}, ("temperature_max of at least", "60 degC on 2004-01-09, 1 such")),
    ({"SSRD": _series(0, 200.0, "MJ/m2/d")}, ("shortwave between 0 and 48", "200 on 2004-01-01")),
    ({"CO2": _series(0, 0.0, "ppm", 390.0)}, ("co2 between 150 and 2000", "0 on 2004-01-01")),
    ({"start": 2003}, ("DOY of FI-Xxx.nc counting the days from 2003-01-01", "which is 2004-01-01")),
    ({"LAT": 12.0}, ("LAT of FI-Xxx.nc", "12")),
    ({"name": "ZZ-Zzz.nc"}, ("of ZZ-Zzz in ", "FI-Xxx, US-Yyy")),
])
def test_differland_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        drivers(read_differland(differland(tmp_path, **changes)))
    assert caught.match(says(*parts))


def test_differland_without_table(tmp_path: Path) -> None:
    path = differland(tmp_path)
    (tmp_path / "site_coords.csv").unlink()
    with pytest.raises(FileNotFoundError, match=says("site_coords.csv with the start_year of FI-Xxx")):
        read_differland(path)


# --- pairs of files ---


def test_align(tmp_path: Path) -> None:
    forcing, flux = read_forcing(differland(tmp_path)), read_flux(written(callmip(), tmp_path))
    same, aligned = align(forcing.isel(time=slice(100, 200)), flux)
    assert aligned.sizes["time"] == same.sizes["time"] == 100
    np.testing.assert_array_equal(aligned["nee"], flux["nee"][100:200])
    assert f"nee: 100 observed days inside the forcing, {N - 102} outside were dropped." in aligned.attrs["history"]
    later = forcing.assign_coords(time=forcing["time"] + np.timedelta64(3650, "D"))
    with pytest.raises(ValueError, match=says("observed days of FI-Xxx in the period of the forcing, 2013", "none")):
        align(later, flux)
    with pytest.raises(ValueError, match=says("fluxes of FI-Yyy", "fluxes of FI-Xxx")):
        align(forcing.assign_coords(site="FI-Yyy"), flux)
    with pytest.raises(ValueError, match=says("at the same place", "1.00 degrees apart")):
        align(forcing.assign_coords(latitude=62.85), flux)
