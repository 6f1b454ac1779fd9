"""Readers of snow stations: values, units, labels and what they say, on files made here and on real ones where present."""

import gzip

import numpy as np
import pandas as pd
import pytest

from landcal_jax.io.readers.smet import read_smet
from landcal_jax.io.readers.snow_files import FORMATS, read_fsm_met, read_fsm_observations, read_geotop, read_promice, read_snow_tab
from landcal_jax.io.recognition import Head
from landcal_jax.io.suspicion import suspicions

HOUR = np.timedelta64(1, "h")


def written(folder, name, text):
    path = folder / name
    if name.endswith(".gz"):
        with gzip.open(path, "wt") as file:
            file.write(text)
    else:
        path.write_text(text)
    return path


def recognised(path):
    return [format.name for format in FORMATS if format.recognises(Head(path))]


def complaint(reader, path, *parts):
    with pytest.raises(ValueError, match="Expected:") as error:
        reader(path)
    for part in (path.name, *parts):
        assert part in str(error.value), (part, str(error.value))


# ---------------------------------------------------------------------- FSM

MET = ["2005  10   1  22     0.0   283.1  1.0E-04  .000E+00   277.8    78.2     0.6   87480.",
       "2005  10   1  23     0.0   284.7  .000E+00  2.0E-04   278.0   102.2     0.0   87430.",
       "2005  10   1  24   100.0   285.8  .000E+00  .000E+00   277.7    76.1     1.0   87390."]


def test_fsm_hour_24_ends_the_same_day_and_rates_are_a_day(tmp_path):
    path = written(tmp_path, "met_Xyz_0506.txt", "\n".join(MET) + "\n")
    ds = read_fsm_met(path)
    assert recognised(path) == ["FSM driving data, 12 or 13 columns"]
    assert list(ds["time"].values) == list(np.array(["2005-10-01T21", "2005-10-01T22", "2005-10-01T23"], dtype="datetime64[ns]"))
    assert ds["time"].attrs["label_in_file"] == "end" and ds["time"].attrs["time_zone"] == "UTC"
    np.testing.assert_allclose(ds["snowfall"], [8.64, 0, 0])
    np.testing.assert_allclose(ds["precipitation"], [8.64, 17.28, 0])
    np.testing.assert_allclose(ds["shortwave"], [0, 0, 8.64])
    np.testing.assert_allclose(ds["temperature"], [4.65, 4.85, 4.55])
    np.testing.assert_allclose(ds["pressure"], [874.8, 874.3, 873.9])
    assert ds["relative_humidity"].values[1] == pytest.approx(1.022)
    assert "has no line end" not in ds.attrs["history"]
    cut = read_fsm_met(written(tmp_path, "met_cut.txt", "\n".join(MET)[:-1]))
    assert "The last line (3) has no line end: check that the file is whole." in cut.attrs["history"]
    assert "1 values are above 100 %, up to 102.2; they were kept" in ds.attrs["history"]
    assert "hour 24 (1 times)" in ds.attrs["history"]
    assert ds["site"].item() == "met_Xyz_0506" and np.isnan(ds["latitude"].item())


def test_fsm_13_columns_have_rain_before_snow(tmp_path):
    rows = [f"2005 10 1 {hour} 10.0 280.0 1.0E-04 0.0 280.0 0.005 80.0 1.0 90000" for hour in (1, 2, 3)]
    ds = read_fsm_met(written(tmp_path, "met_Sod_1314.txt", "\n".join(rows)))
    np.testing.assert_allclose(ds["rainfall"], 8.64)
    np.testing.assert_allclose(ds["snowfall"], 0.0)
    np.testing.assert_allclose(ds["specific_humidity"], 0.005)
    assert ds["site"].item() == "Sod" and ds["latitude"].item() == 67.37


@pytest.mark.parametrize(("row", "parts"), [
    ("2005 10 2 25 0 283 0 0 277 78 0.6 87480", ("25", "line 4", "hours from 0 to 24")),
    ("2005 13 2 1 0 283 0 0 277 78 0.6 87480", ("2005 13 2", "line 4")),
    ("2005 10 2 1 0 283 0 0 277 78 0.6", ("11 on line 4", "cut short")),
    ("2005 10 2 1 0 ***** 0 0 277 78 0.6 87480", ("'*****'", "line 4", "LW")),
    ("2005 10 1 23 0 283 0 0 277 78 0.6 87480", ("increasing",)),
    ("2005 10 2 1 0 283 0 0 4.2 78 0.6 87480", ("temperature", "2005-10-02 00:00")),
    ("8005 10 2 1 0 283 0 0 277 78 0.6 87480", ("8005 10 2", "line 4")),
    ("2005 10 2 1 0 28_3 0 0 277 78 0.6 87480", ("'28_3'", "line 4")),
])
def test_fsm_faults_have_a_sentence(tmp_path, row, parts):
    complaint(read_fsm_met, written(tmp_path, "met_CdP_0506.txt", "\n".join([*MET, row]) + "\n"), *parts)


def test_fsm_observations_mask_99_and_count_warm_surfaces(tmp_path):
    text = "2005 10 1 0.17 1.20 0.00 0.00 -99.00 10.72\n2005 10 2 0.29 39.30 0.10 20.0 1.15 9.92\n2005 10 3 -99.00 18.70 0.2 30 -3 8\n"
    path = written(tmp_path, "obs_CdP_0506.txt", text)
    ds = read_fsm_observations(path)
    assert recognised(path) == ["FSM observations, 9 columns"] and ds["time"].attrs["step"] == "P1D"
    np.testing.assert_array_equal(np.isnan(ds["surface_temperature"]), [True, False, False])
    np.testing.assert_allclose(ds["runoff"], [1.2, 39.3, 18.7])
    assert np.isnan(ds["albedo"].values[2]) and "1 days are above 0 degC, up to 1.15" in ds.attrs["history"]
    assert ds["latitude"].item() == 45.30 and "CC-BY-3.0" in ds.attrs["license"]


def test_col_de_porte_is_that_of_the_science_notes(data_dir):
    met, seen = (data_dir / "snow" / "fsm_col_de_porte" / name for name in ("met_CdP_0506.txt", "obs_CdP_0506.txt"))
    ds = read_fsm_met(met)
    assert ds.sizes["time"] == 6552
    assert round(float(ds["snowfall"].sum()) / 24) == 506 and round(float(ds["rainfall"].sum()) / 24) == 390
    days = read_fsm_observations(seen)
    counts = {name: int(days[name].notnull().sum()) for name in days}
    assert (counts["surface_temperature"], counts["snow_water_equivalent"], counts["albedo"]) == (134, 253, 249)
    assert float(days["surface_temperature"].max()) == 1.15


@pytest.mark.parametrize(("file", "longitude"), [("fsm2/met_Alptal_0405.txt", 8.72), ("fsm_col_de_porte/met_CdP_0506.txt", 5.77)])
def test_fsm_light_is_centred_on_noon(data_dir, file, longitude):
    ds = read_fsm_met(data_dir / "snow" / file)
    middle = (ds["time"].values - ds["time"].values.astype("datetime64[D]")) / HOUR + 0.5
    centre = float((middle * ds["shortwave"]).sum() / ds["shortwave"].sum())
    assert abs(centre - (12 - longitude / 15)) < 0.35  # mountains and afternoon clouds move it; a wrong label would by 0.5 or 1


# ---------------------------------------------------------------------- PROMICE


def promice(folder, name="kanm_2012_hourly.csv.gz", **changes):
    time = pd.date_range("2012-07-01", periods=48, freq="h")
    sun = np.clip(500 * np.sin((time.hour - 9) / 24 * 2 * np.pi), -0.9, None)
    table = pd.DataFrame({
        "time_utc": time, "tair": 271.0 + np.arange(48) % 5, "swd": sun, "lwd": 250.0,
        "albedo": np.where(sun > 0, 0.5 + 0.01 * (np.arange(48) % 7), 0.8),
        "wspd": 5.0, "rh": 90.0, "psfc": 86000.0, "ppt": 0, "wdir": 100, "tsfc": 272.0, "cfrac": 0.5, "shf": 0.0, "lhf": -12.0})
    table["shf"] = 3.0 * (table["tair"] - table["tsfc"])
    for column, values in changes.items():
        table[column] = values
    return written(folder, name, table.to_csv(index=False))


def test_promice_turns_heat_marks_dark_albedo_and_leaves_out_the_placeholder(tmp_path):
    path = promice(tmp_path)
    ds = read_promice(path)
    assert recognised(path) == ["PROMICE hourly CSV of icemodel"]
    assert ds["site"].item() == "KAN_M" and ds["time"].values[0] == np.datetime64("2012-07-01T00:00")
    np.testing.assert_allclose(ds["latent_heat"], 12.0)
    assert ds["sensible_heat"].values[0] == pytest.approx(3.0)  # air of 271 K over 272 K warms the air
    assert "precipitation" not in ds and "placeholder" in ds.attrs["history"]
    dark = ds["shortwave"].values == 0
    np.testing.assert_array_equal(ds["albedo_filled"], dark.astype(float))
    assert f"{int((pd.read_csv(path)['swd'] < 0).sum())} negative values" in ds.attrs["history"]
    assert ds["temperature"].attrs["gap_filled"] == "included, not marked" and "cfrac, wdir" in ds.attrs["history"]
    assert float(ds["relative_humidity"].mean()) == pytest.approx(0.9)


def test_promice_spikes_are_kept_and_counted(tmp_path):
    swd, psfc = pd.read_csv(promice(tmp_path))["swd"].to_numpy(copy=True), np.full(48, 86000.0)
    swd[15], psfc[20] = 1241.0, 103564.0
    ds = read_promice(promice(tmp_path, swd=swd, psfc=psfc))
    assert float(ds["shortwave"].max()) == pytest.approx(1241 * 0.0864) and float(ds["pressure"].max()) == pytest.approx(1035.64)
    assert "top of the atmosphere" not in ds.attrs["history"], "one check says it, that of inspect"
    assert [each for each in suspicions(ds) if "1 value above what arrives at the top of the atmosphere" in each and "1241 W m-2" in each]
    assert "1 hours are more than 80 hPa from the median, up to 103564 Pa" in ds.attrs["history"]


def test_promice_with_turned_heat_is_refused(tmp_path):
    table = pd.read_csv(promice(tmp_path))
    complaint(read_promice, promice(tmp_path, shf=-table["shf"]), "shf", "multiply shf and lhf by -1")
    complaint(read_promice, promice(tmp_path, tair=["x", *table["tair"][1:]]), "'x'", "line 2", "tair")


@pytest.mark.parametrize(("file", "site", "albedo"), [
    ("kanl_2012_2015_hourly.csv.gz", "KAN_L", 0.46), ("kanu_2012_2015_hourly.csv.gz", "KAN_U", 0.67)])
def test_promice_real_melt_of_july_2012(data_dir, file, site, albedo):
    ds = read_promice(data_dir / "snow" / "greenland_promice" / "derived" / file)
    july = ds.sel(time="2012-07")
    assert ds["site"].item() == site and ds.sizes["time"] == 35064
    assert float((july["albedo"] * july["shortwave"]).sum() / july["shortwave"].sum()) == pytest.approx(albedo, abs=0.005)
    assert float(ds["surface_temperature"].max()) <= 1e-9


# ---------------------------------------------------------------------- SMET

SMET = """SMET 1.1 ASCII
[HEADER]
station_id       = ABC1
station_name     = Somewhere
latitude         = 46.83
longitude        = 9.81
nodata           = -999
tz               = 1
fields           = timestamp TA RH HS RSWR ISWR PSUM TS1
units_offset = 0 273.15 0 0 0 0 0 0 # a comment
units_multiplier = 1 1 0.01 1 1 1 1 1
[DATA]
1995-10-30T00:30   -1.0   95   0.10   10   100 0.5 -999
1995-10-30T01:00   -999   96   0.12   11   110 0.0 -999
1995-10-30T01:30   -2.0   97   0.12   0     0  1.0 -999
"""


def test_smet_applies_factors_nodata_and_makes_rates(tmp_path):
    path = written(tmp_path, "abc.smet", SMET)
    ds = read_smet(path)
    assert recognised(path) == ["SMET"] and ds["site"].item() == "ABC1" and ds["time"].attrs["time_zone"] == "UTC+1"
    assert ds["time"].values[0] == np.datetime64("1995-10-30T00:00") and ds["time"].attrs["step"] == "PT30M"
    np.testing.assert_allclose(ds["temperature"], [-1.0, np.nan, -2.0])
    np.testing.assert_allclose(ds["relative_humidity"], [0.95, 0.96, 0.97])
    np.testing.assert_allclose(ds["precipitation"], [24.0, 0.0, 48.0])
    np.testing.assert_allclose(ds["shortwave_up"], np.array([10, 11, 0]) * 0.0864)
    for part in ("TS1", "nodata is -999", "TA was multiplied by 1 and 273.15", "sum over each step of PT30M"):
        assert part in ds.attrs["history"]


def test_smet_without_time_zone_is_utc_and_said(tmp_path):
    ds = read_smet(written(tmp_path, "abc.smet", SMET.replace("tz               = 1\n", "")))
    assert ds["time"].attrs["time_zone"] == "UTC" and "no tz" in ds.attrs["history"]


@pytest.mark.parametrize(("old", "new", "parts"), [
    ("units_offset = 0 273.15 0", "units_offset = 0 0 0", ("TA", "in K")),
    ("units_multiplier = 1 1 0.01", "units_multiplier = 1 0.01", ("units_multiplier", "8 numbers")),
    ("fields           = timestamp", "fields           = julian", ("timestamp",)),
    ("[DATA]", "DATA", ("[DATA]",)),
    ("SMET 1.1 ASCII", "SMET 1.1 BINARY", ("SMET 1.1 ASCII",)),
    ("1995-10-30T01:00 ", "30.10.1995T01:00 ", ("30.10.1995", "line 14")),
    ("   97   0.12", "   0.12", ("7 on line 15",)),
    ("latitude         = 46.83", "latitude         = north", ("latitude", "north")),
    ("tz               = 1", "tz               = CET", ("tz", "CET")),
])
def test_smet_faults_have_a_sentence(tmp_path, old, new, parts):
    assert old in SMET
    complaint(read_smet, written(tmp_path, "abc.smet", SMET.replace(old, new)), *parts)


# ---------------------------------------------------------------------- PANGAEA and GEOtop

TAB = """/* DATA DESCRIPTION:
Citation:\tMorin, Samuel (2012): Daily snow. PANGAEA, https://doi.org/10.1594/PANGAEA.774237
Event(s):\tCDP (Col de Porte) * LATITUDE: 45.300000 * LONGITUDE: 5.770000 * ELEVATION: 1325.0 m
License:\tCreative Commons Attribution 3.0 Unported (CC-BY-3.0)
*/
Date/Time\tSnow thick [m] (Ultra-sound)\tSnow thick [m] (pit)\tSWE [kg/m**2] (Cosmic Ray Counter)\tSWE [kg/m**2] (pit)\t\
Runoff [kg/m**2/day] (5 m)\tAlbedo [%]
1993-12-07\t0.24\t\t\t\t3.0\t0.82
1993-12-08\t0.36\t0.40\t\t72\t22.2\t0.87
1993-12-10\t0.21\t\t70\t\t13.2\t
"""


def test_tab_albedo_headed_percent_is_a_fraction(tmp_path):
    path = written(tmp_path, "CDP_daily_eval.tab", TAB)
    ds = read_snow_tab(path)
    assert recognised(path) == ["PANGAEA .tab of snow"] and ds["site"].item() == "CdP" and ds["longitude"].item() == 5.77
    np.testing.assert_allclose(ds["albedo"], [0.82, 0.87, np.nan])
    np.testing.assert_allclose(ds["snow_water_equivalent"], [np.nan, np.nan, 70])
    assert "headed [%] but lies between 0.82 and 0.87" in ds.attrs["history"] and "SWE [kg/m**2] (pit)" in ds.attrs["history"]
    assert "1 steps between the first and the last are absent" in ds.attrs["history"]
    assert ds.attrs["license"].endswith("(CC-BY-3.0)") and "774237" in ds.attrs["references"]
    percent = read_snow_tab(written(tmp_path, "percent.tab", TAB.replace("0.82", "82").replace("0.87", "87")))
    np.testing.assert_allclose(percent["albedo"], [0.82, 0.87, np.nan])


def test_tab_series_are_chosen_by_their_heading(tmp_path):
    path = written(tmp_path, "CDP_daily_eval.tab", TAB)
    ds = read_snow_tab(path, {"snow_water_equivalent": "(pit)"})
    np.testing.assert_allclose(ds["snow_water_equivalent"], [np.nan, 72, np.nan])
    complaint(lambda path: read_snow_tab(path, {"albedo": "hourly"}), path, "'hourly'")
    complaint(read_snow_tab, written(tmp_path, "cut.tab", TAB.replace("Date/Time\t", "Date,")), "Date/Time")
    complaint(read_snow_tab, written(tmp_path, "short.tab", TAB + "1993-12-11\t0.2"), "2 on line 10")


def test_geotop_dates_begin_with_the_day(tmp_path):
    rows = ["Date,Prec,Ws,RH,Tair,SWdir,SWdif,SW,LW", "01/02/2001 01:00,1.0,0.6,101.0,8.48,0.0,0.0,0.0,328.3",
            "01/02/2001 02:00,-9999,1.2,97.8,7.11,0.0,0.0,10.0,351.4", "01/02/2001 03:00,0,1.2,97.8,7.11,0.0,0.0,20.0,351.4"]
    path = written(tmp_path, "meteo0001.txt", "\n".join(rows))
    ds = read_geotop(path)
    assert recognised(path) == ["GEOtop meteorological file"]
    assert ds["time"].values[0] == np.datetime64("2001-02-01T00:00")  # not the 2nd of January
    np.testing.assert_allclose(ds["precipitation"], [24.0, np.nan, 0.0])
    np.testing.assert_allclose(ds["temperature"], [8.48, 7.11, 7.11])
    assert "SWdir, SWdif" in ds.attrs["history"]
    wrong = "\n".join([*rows, "13/13/2001 04:00,0,1,1,1,0,0,0,300"])
    complaint(read_geotop, written(tmp_path, "meteo0002.txt", wrong), "13/13/2001", "line 5")
