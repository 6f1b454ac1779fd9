"""What a model gets: complete drivers, derived where exact; observed fluxes; both on the same days."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io.model_data import align, drivers, fluxes, saturation_pressure
from landcal_jax.io.normal import normalise

N = 60
MET = {"temperature_min": (5.0, "degC"), "temperature_max": (15.0, "degC"), "shortwave": (12.0, "MJ m-2 d-1"), "co2": (390.0, "ppm"),
       "vpd": (4.0, "hPa"), "precipitation": (2.0, "mm d-1")}
NORMAL = [*MET, "burned_fraction"]


def series(folder: Path, columns: dict, *, times=None, without: tuple[str, ...] = (), **options: object) -> xr.Dataset:
    """A Dataset of the normal form; constants become series."""
    (folder / "XX-Abc.csv").write_text("made\n")
    times = pd.date_range("2004-01-01", periods=N) if times is None else times
    made = {name: (np.array(np.broadcast_to(values, len(times)), float), units)
            for name, (values, units) in columns.items() if name not in without}
    place = {"site": "XX-Abc", "latitude": 50.0, "longitude": 10.0} | options
    return normalise(made, times, path=folder / "XX-Abc.csv", **place)


def at(index: int, value: float, other: float) -> np.ndarray:
    return np.where(np.arange(N) == index, value, other)


# --- drivers ---


def test_drivers_of_a_daily_file(tmp_path: Path) -> None:
    made = drivers(series(tmp_path, MET | {"wind_speed": (2.0, "m s-1"), "nee": (1.0, "gC m-2 d-1")}))
    assert list(made.data_vars) == NORMAL and made.sizes["time"] == N and len(made.attrs["sha256"]) == 64
    assert float(made["burned_fraction"].sum()) == 0 and "burned_fraction is not in the file and was set to 0." in made.attrs["history"]
    assert {name: made[name].attrs["units"] for name in ("vpd", "shortwave")} == {"vpd": "hPa", "shortwave": "MJ m-2 d-1"}
    assert list(drivers(series(tmp_path, MET), needs=("shortwave", "temperature_max")).data_vars) == ["shortwave", "temperature_max"]


def test_drivers_are_taken_in_the_units_of_the_normal_form(tmp_path: Path) -> None:
    ds = series(tmp_path, MET)
    ds["vpd"] = (ds["vpd"] * 100).assign_attrs(units="Pa")
    np.testing.assert_allclose(drivers(ds)["vpd"], 4.0)
    ds["vpd"].attrs["units"] = "K"
    with pytest.raises(ValueError, match="(?s)Expected: vpd of .*XX-Abc.csv in a unit that can become 'hPa'.*'K'"):
        drivers(ds)


def test_rain_and_snow_make_precipitation(tmp_path: Path) -> None:
    ds = series(tmp_path, MET | {"rainfall": (1e-5, "kg m-2 s-1"), "snowfall": (0.5, "mm d-1")}, without=("precipitation",))
    made = drivers(ds)
    np.testing.assert_allclose(made["precipitation"], 0.864 + 0.5)
    assert "precipitation is the sum of rainfall and snowfall." in made.attrs["history"]
    with pytest.raises(ValueError, match="(?s)Got: +no precipitation.*rename it"):
        drivers(ds.drop_vars("snowfall"))


@pytest.mark.parametrize(("humidity", "expected"), [
    ({"vapour_pressure": (8.0, "hPa")}, lambda saturated: saturated - 8.0),
    ({"relative_humidity": (60.0, "%")}, lambda saturated: 0.4 * saturated),
    ({"specific_humidity": (0.005, "kg kg-1"), "pressure": (95.0, "kPa")},
     lambda saturated: saturated - 0.005 * 950 / (0.622 + 0.378 * 0.005)),
])
def test_vpd_from_humidity(tmp_path: Path, humidity: dict, expected) -> None:
    # FAO-56, table 2.3: 12.28 hPa at 10 degC; the mean of 8.72 at 5 degC and 17.05 at 15 degC
    assert saturation_pressure(np.array([5.0, 10.0, 15.0])) == pytest.approx([8.72, 12.28, 17.05], abs=0.01)
    made = drivers(series(tmp_path, MET | humidity, without=("vpd",)))
    saturated = 0.5 * saturation_pressure(np.array([5.0, 15.0])).sum()
    np.testing.assert_allclose(made["vpd"], expected(saturated), rtol=1e-12)
    assert "vpd was derived from the daily extremes of temperature and" in made.attrs["history"]
    mean = drivers(series(tmp_path, MET | humidity | {"temperature": (283.15, "K")}, without=("vpd", "temperature_min", "temperature_max")))
    np.testing.assert_allclose(mean["vpd"], expected(saturation_pressure(np.array(10.0))), rtol=1e-12)


def test_supersaturation_is_set_to_zero_and_counted(tmp_path: Path) -> None:
    made = drivers(series(tmp_path, MET | {"relative_humidity": (at(3, 1.05, 0.9), "1")}, without=("vpd",)))
    assert float(made["vpd"][3]) == 0 and "1 values below zero, down to -0.64 hPa, were set to zero." in made.attrs["history"]


def test_mean_temperature_stands_for_both_extremes(tmp_path: Path) -> None:
    made = drivers(series(tmp_path, MET | {"temperature": (8.0, "degC")}, without=("temperature_min", "temperature_max")))
    np.testing.assert_array_equal(made["temperature_min"], made["temperature_max"])
    assert "both are the mean temperature" in made.attrs["history"]


def test_half_hours_become_daily_drivers(tmp_path: Path) -> None:
    times = pd.date_range("2004-01-01", periods=48 * 3, freq="30min")
    warm = 10 + 5 * np.sin(2 * np.pi * np.arange(144) / 48)
    columns = {"temperature": (warm, "degC"), "shortwave": (200.0, "W m-2"), "co2": (400.0, "ppm"), "precipitation": (1.0, "mm d-1"),
               "relative_humidity": (0.5, "1"), "temperature_filled": (np.r_[np.ones(36), np.zeros(108)], "1")}
    made = drivers(series(tmp_path, columns, times=times))
    assert list(made.data_vars) == NORMAL and made["time"].attrs["step"] == "P1D"
    assert "temperature: 25 % of it was gap-filled in the file." in made.attrs["history"]
    assert (float(made["temperature_min"][0]), float(made["temperature_max"][0])) == pytest.approx((5.0, 15.0))
    # vapour pressure deficit is not linear in temperature: the mean of the steps, not that of the mean temperature
    np.testing.assert_allclose(made["vpd"], 0.5 * saturation_pressure(warm).mean(), rtol=1e-12)
    gap = series(tmp_path, columns | {"co2": (np.where(np.arange(144) == 70, np.nan, 400.0), "ppm")}, times=times)
    with pytest.raises(ValueError, match="(?s)co2 on every day in XX-Abc.csv.*1 missing values, the first on 2004-01-02"):
        drivers(gap)


def test_monthly_drivers(tmp_path: Path) -> None:
    months = pd.date_range("2001-01-15", periods=24, freq="MS")
    made = drivers(series(tmp_path, MET, times=months, step="P1M"))
    assert made.sizes["time"] == 24 and made["time"].attrs["step"] == "P1M"
    with pytest.raises(ValueError, match="(?s)drivers on every month.*1 months absent, the first 2001-06"):
        drivers(series(tmp_path, MET, times=months.delete(4), step="P1M"))


def test_oddities_are_counted_and_kept(tmp_path: Path) -> None:
    made = drivers(series(tmp_path, MET | {"co2": (at(3, 541.0, 390.0), "ppm"), "temperature_min": (at(2, 15.0005, 5.0), "degC")}))
    history = made.attrs["history"]
    assert "co2: 1 days outside 330 to 450 ppm look suspicious (the most extreme 541) and were kept." in history
    assert "temperature_max: 1 days below temperature_min by rounding, raised to it." in history
    assert float(made["co2"][3]) == 541 and float(made["temperature_max"][2]) == 15.0005


@pytest.mark.parametrize(("columns", "options", "part"), [
    ({"latitude": None}, {"latitude": None}, "latitude of XX-Abc.csv.*latitude=61.85.*--latitude"),
    ({"shortwave": None}, {}, "drivers temperature_min.*XX-Abc.csv.*no shortwave"),
    ({"vpd": None}, {}, "no vpd.*relative_humidity"),
    ({"co2": (at(6, np.nan, 390.0), "ppm")}, {}, "co2 on every day.*1 missing values, the first on 2004-01-07"),
    ({"temperature_min": (at(8, 40.0, 5.0), "degC")}, {}, "temperature_max of at least.*15 below 40 degC on 2004-01-09, 1 such"),
    ({}, {"times": pd.date_range("2004-01-01", periods=N + 1).delete(9)}, "drivers on every day.*1 days absent, the first 2004-01-10"),
    ({}, {"times": pd.date_range("2004-01-01", periods=N, freq="8D")}, "a day or a month.*P8D"),
])
def test_drivers_refuse(tmp_path: Path, columns: dict, options: dict, part: str) -> None:
    ds = series(tmp_path, {name: value for name, value in (MET | columns).items() if value is not None}, **options)
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{part}"):
        drivers(ds)


def test_an_impossible_value_is_refused(tmp_path: Path) -> None:
    ds = series(tmp_path, MET)
    ds["shortwave"][4] = 200.0
    with pytest.raises(ValueError, match="(?s)shortwave between 0 and 48.*200 on 2004-01-05, and 0 more"):
        drivers(ds)


def test_a_field_is_no_series(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="(?s)Expected: drivers of one site.*a field with dimensions.*'lat': 3"):
        drivers(xr.Dataset({"fp": (("lat", "time"), np.zeros((3, 2)))}, attrs={"kind": "field", "source": "fp.nc"}))


# --- fluxes ---


def test_fluxes_and_the_rule_for_uncertainties(tmp_path: Path) -> None:
    columns = {"nee": (-2.0, "gC m-2 d-1"), "nee_uncertainty": (at(4, 0.0, 0.3), "gC m-2 d-1"), "gpp": (5.0, "gC m-2 d-1"),
               "temperature": (5.0, "degC")}
    made = fluxes(series(tmp_path, columns))
    assert set(made.data_vars) == {"nee", "nee_uncertainty", "gpp"}
    assert int(made["nee"].notnull().sum()) == int(made["nee_uncertainty"].notnull().sum()) == N - 1
    assert "nee: 1 days masked for want of a positive uncertainty." in made.attrs["history"]
    assert f"gpp: {N} days, none with an uncertainty." in made.attrs["history"]
    marked = series(tmp_path, columns)
    marked["nee"].attrs["gap_filled"] = "included, not marked"
    kept = fluxes(marked)
    assert int(kept["nee"].notnull().sum()) == N and int(kept["nee_uncertainty"].notnull().sum()) == N - 1
    assert f"nee: 1 of {N} days have no positive uncertainty and were kept." in kept.attrs["history"]


def test_filled_days_are_masked_also_in_daily_files(tmp_path: Path) -> None:
    ds = series(tmp_path, {"nee": (-2.0, "gC m-2 d-1"), "nee_filled": (np.linspace(0, 1, N), "1")})
    made = fluxes(ds)
    assert list(made.data_vars) == ["nee"] and int(made["nee"].notnull().sum()) == 15
    assert "nee: 45 days of which more than 25 % was gap-filled are masked." in made.attrs["history"]
    assert int(fluxes(ds, most_filled=1.0)["nee"].notnull().sum()) == N
    months = pd.date_range("2001-01-01", periods=N, freq="MS")
    monthly = fluxes(series(tmp_path, {"nee": (-2.0, "gC m-2 d-1"), "nee_filled": (0.6, "1")}, times=months, step="P1M"))
    assert int(monthly["nee"].notnull().sum()) == N and "(median 60 %)" in monthly.attrs["history"]


def test_latent_heat_from_evapotranspiration(tmp_path: Path) -> None:
    columns = {"evapotranspiration": (2.0, "mm d-1"), "evapotranspiration_uncertainty": (0.2, "mm d-1")}
    made = fluxes(series(tmp_path, columns))
    np.testing.assert_allclose(made["latent_heat"], 2.0 * 2.45e6 / 86400, rtol=1e-12)
    np.testing.assert_allclose(made["latent_heat_uncertainty"], 0.2 * 2.45e6 / 86400, rtol=1e-12)
    assert made["latent_heat"].attrs["units"] == "W m-2" and "2.45 MJ kg-1" in made.attrs["history"]
    both = fluxes(series(tmp_path, columns | {"latent_heat": (50.0, "W m-2")}))
    np.testing.assert_allclose(both["latent_heat"], 50.0)


def test_half_hourly_fluxes(tmp_path: Path) -> None:
    times = pd.date_range("2004-01-01", periods=96, freq="30min")
    filled = np.r_[np.zeros(48), np.ones(13), np.zeros(35)]
    made = fluxes(series(tmp_path, {"nee": (1.0, "umol m-2 s-1"), "nee_filled": (filled, "1")}, times=times))
    np.testing.assert_allclose(made["nee"], [1e-6 * 12.011 * 86400, np.nan])
    assert list(made.data_vars) == ["nee"]
    noisy = series(tmp_path, {"nee": (1.0, "gC m-2 d-1"), "nee_uncertainty": (0.7, "gC m-2 d-1")}, times=times)
    np.testing.assert_allclose(fluxes(noisy)["nee_uncertainty"], 0.7)
    np.testing.assert_allclose(fluxes(noisy, correlation_hours=0.0)["nee_uncertainty"], 0.7 / np.sqrt(48))


def test_fluxes_refuse_a_file_without_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="(?s)Expected: fluxes in XX-Abc.csv: any of nee, gpp.*variables temperature_min"):
        fluxes(series(tmp_path, MET))


# --- align ---


def test_align(tmp_path: Path) -> None:
    forcing = drivers(series(tmp_path, MET))
    late = pd.date_range("2004-02-01", periods=N)
    flux = fluxes(series(tmp_path, {"nee": (at(0, np.nan, -1.0), "gC m-2 d-1"), "nee_uncertainty": (0.3, "gC m-2 d-1")}, times=late))
    ours, aligned = align(forcing, flux)
    assert ours is forcing and aligned.sizes["time"] == N
    assert int(aligned["nee"].notnull().sum()) == 28
    history = aligned.attrs["history"]
    assert "nee: 28 observed days inside the forcing, 31 outside were dropped." in history
    assert "on the days of the forcing, 2004-01-01 to 2004-02-29." in history
    unknown = flux.assign_coords(latitude=np.nan, longitude=370.0)
    assert align(forcing, unknown)[1].sizes["time"] == N


def test_align_months(tmp_path: Path) -> None:
    months = pd.date_range("2001-01-01", periods=24, freq="MS")
    forcing = drivers(series(tmp_path, MET, times=months, step="P1M"))
    flux = fluxes(series(tmp_path, {"nee": (-1.0, "gC m-2 d-1")}, times=months[6:] + pd.Timedelta("14D"), step="P1M", latitude=50.24))
    history = align(forcing, flux)[1].attrs["history"]
    assert "nee: 18 observed months inside the forcing, 0 outside were dropped." in history
    assert "on the months of the forcing, 2001-01 to 2002-12." in history and "0.24 degrees apart" in history


@pytest.mark.parametrize(("change", "part"), [
    (lambda ds: ds.assign_coords(site="YY-Def"), "fluxes of XX-Abc, the site of the forcing.*YY-Def"),
    (lambda ds: ds.assign_coords(latitude=50.2), "at the same place.*0.20 degrees apart"),
    (lambda ds: ds.assign_coords(time=ds["time"] + np.timedelta64(365, "D")), "2004-01-01 to 2004-02-29.*none"),
    (lambda ds: ds.assign_coords(time=("time", ds["time"].values, {"step": "P1M"})), "same step.*P1D and P1M"),
])
def test_align_refuses(tmp_path: Path, change, part: str) -> None:
    forcing = drivers(series(tmp_path, MET))
    flux = fluxes(series(tmp_path, {"nee": (-1.0, "gC m-2 d-1")}))
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{part}"):
        align(forcing, change(flux))


# --- light from photons, and leap days ---


def test_shortwave_from_photons(tmp_path: Path) -> None:
    """2.04 umol J-1: 408 umol m-2 s-1 are 200 W m-2, 17.28 MJ m-2 d-1."""
    made = drivers(series(tmp_path, MET | {"ppfd": (408.0, "umol m-2 s-1")}, without=("shortwave",)))
    np.testing.assert_allclose(made["shortwave"], 200 * 0.0864, rtol=1e-12)
    assert "shortwave was derived from ppfd by 2.04 umol J-1" in made.attrs["history"] and "ppfd" not in made
    both = drivers(series(tmp_path, MET | {"ppfd": (408.0, "umol m-2 s-1")}))
    np.testing.assert_allclose(both["shortwave"], 12.0)
    times = pd.date_range("2004-01-01", periods=96, freq="30min")
    half = series(tmp_path, {"temperature": (8.0, "degC"), "co2": (390.0, "ppm"), "vpd": (4.0, "hPa"), "precipitation": (2.0, "mm d-1"),
                             "ppfd": (408.0, "umol m-2 s-1"), "ppfd_filled": (0.5, "1")}, times=times)
    made = drivers(half)
    np.testing.assert_allclose(made["shortwave"], 200 * 0.0864, rtol=1e-12)
    assert "shortwave: 50 % of it was gap-filled in the file." in made.attrs["history"]


def test_only_leap_days_are_inserted(tmp_path: Path) -> None:
    times = pd.date_range("2004-01-01", periods=N + 1).drop("2004-02-29")
    made = drivers(series(tmp_path, MET | {"co2": (np.arange(N) + 390.0, "ppm")}, times=times))
    assert made.sizes["time"] == N + 1 and float(made["co2"].sel(time="2004-02-29")) == 390 + 58.5
    assert "29 February is missing in the file: 1 days inserted, each the mean of its neighbours." in made.attrs["history"]
    with pytest.raises(ValueError, match="(?s)2 days absent, the first 2004-02-28"):
        drivers(series(tmp_path, MET, times=pd.date_range("2004-01-01", periods=N + 2).drop(["2004-02-28", "2004-02-29"])))


@pytest.mark.parametrize(("folder", "pattern", "place"), [
    ("bigleaf", "DE_Tha_Jun_2014.csv", {"latitude": 50.96, "longitude": 13.57}), ("rsofun", "*drivers_forcing*.csv", {})])
def test_files_with_photons_only_drive_a_model(data_dir: Path, folder: str, pattern: str, place: dict) -> None:
    from landcal_jax.io import read

    path = next(iter(sorted(data_dir.rglob(pattern))), None)
    if path is None:
        pytest.skip(f"{pattern} is not in LANDCAL_DATA")
    ds = read(path, **place)
    if folder == "bigleaf":
        with pytest.raises(ValueError, match="(?s)shortwave on every day.*1 missing values, the first on 2014-06-10"):
            drivers(ds, needs=("shortwave",))  # one half-hour without light
        ds = ds.sel(time=slice(None, "2014-06-09"))
    made = drivers(ds, needs=("temperature_min", "shortwave", "vpd", "precipitation"))
    assert 3 < float(made["shortwave"].mean()) < 30 and "2.04 umol J-1" in made.attrs["history"]


def test_the_heat_of_vaporisation_of_a_file_is_undone_with_its_own(tmp_path: Path) -> None:
    ds = series(tmp_path, {"evapotranspiration": (2.0, "mm d-1"), "evapotranspiration_uncertainty": (0.2, "mm d-1")})
    ds["evapotranspiration"].attrs["vaporisation_heat"] = 2.5e6
    made = fluxes(ds)
    np.testing.assert_allclose(made["latent_heat"], 2.0 * 2.5e6 / 86400, rtol=1e-12)
    np.testing.assert_allclose(made["latent_heat_uncertainty"], 0.2 * 2.5e6 / 86400, rtol=1e-12)
    assert "times 2.5 MJ kg-1, with which" in made.attrs["history"]
