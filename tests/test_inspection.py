"""The report on a file: coverage, clocks, suspicious values, what a model lacks; made series with one fault each, and real files."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.errors import complaint_of
from landcal_jax.io.inspection import MODELS, Inspection, inspect
from landcal_jax.io.normal import normalise
from landcal_jax.io.sun import clock_lag, highest_of_step, radiation_at, radiation_of_day

LATITUDE, LONGITUDE = 50.0, 11.0  # mean solar time is 16 minutes behind UTC+1
STEP = {30: "PT30M", 60: "PT1H"}


def sun(times: pd.DatetimeIndex, step: str, longitude: float = LONGITUDE) -> np.ndarray:
    """Radiation below clouds that shade the afternoon [MJ m-2 d-1]; `times`: starts of steps in UTC."""
    clear = radiation_at(times + pd.Timedelta(step) / 2, LATITUDE, longitude / 15)
    rng = np.random.default_rng(3)
    cloudy = rng.random(len(times)) < np.where((times.hour + longitude / 15) % 24 > 12, 0.6, 0.3)
    return 0.75 * clear * np.where(cloudy, 0.4, 1.0)


def tower(folder: Path, columns: dict, times: pd.DatetimeIndex, **options: object) -> xr.Dataset:
    (folder / "tower.csv").write_text("made\n")
    made = {name: (np.array(np.broadcast_to(values, len(times)), float), units) for name, (values, units) in columns.items()}
    place = {"site": "XX-Abc", "latitude": LATITUDE, "longitude": LONGITUDE} | options
    return normalise(made, times, path=folder / "tower.csv", **place)


def noisy(n: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_normal(n)


def about(found: Inspection, *words: str) -> str:
    """The one suspicious sentence that has these words."""
    fitting = [each for each in found.suspicious if all(word in each for word in words)]
    assert len(fitting) == 1, found.suspicious
    return fitting[0]


# --- the sun ---


def test_sun_at_the_equinox_and_the_solstice() -> None:
    days = pd.DatetimeIndex(["2005-03-20", "2005-06-21", "2005-12-21"])
    noon = radiation_at(days + pd.Timedelta("12h"), 0.0) / 0.0864
    # at noon on the equator: 1361 W m-2 times (mean distance / distance) squared times the cosine of the declination
    assert noon == pytest.approx([1361 * 1.0081, 1361 * 0.9676 * 0.9174, 1361 * 1.0326 * 0.9174], rel=3e-3)
    # tables of daily extraterrestrial radiation (Allen et al. 1998, annex 2, middle of the month): 50 N, June 41.2, December 7.1
    assert radiation_of_day(pd.DatetimeIndex(["2005-06-15", "2005-12-15"]), 50.0) == pytest.approx([41.4, 7.2], abs=0.4)
    assert radiation_of_day(days, 85.0)[2] == 0 and radiation_of_day(days, -85.0)[1] == 0


def test_the_mean_of_instants_is_that_of_the_day() -> None:
    times = pd.date_range("2005-01-01", periods=48 * 365, freq="30min")
    instants = radiation_at(times + pd.Timedelta("15min"), 61.8, 24.3 / 15 - 2)
    np.testing.assert_allclose(instants.reshape(365, 48).mean(axis=1), radiation_of_day(times[::48], 61.8), atol=0.05)
    assert (highest_of_step(times, pd.Timedelta("30min"), 61.8, 24.3 / 15 - 2) >= instants - 1e-9).all()


@pytest.mark.parametrize("shift", [0, 1, -1, 14, -20])
@pytest.mark.parametrize("minutes", [30, 60])
def test_clock_lag_finds_a_shift_in_spite_of_clouds(shift: int, minutes: int) -> None:
    step = pd.Timedelta(minutes=minutes)
    times = pd.date_range("2005-01-01", periods=365 * 1440 // minutes, freq=step)
    shift = shift if minutes == 30 else shift // 2
    lag = clock_lag(times, np.roll(sun(times, f"{minutes}min"), shift), step, LATITUDE, LONGITUDE / 15)
    assert np.abs((lag - shift * minutes / 60 + 12) % 24 - 12).max() < 0.15 and len(lag) == 12


# --- clocks ---


def clocked(folder: Path, hours: float, *, minutes: int = 30, zone: str = "local standard time", longitude: float = LONGITUDE,
            days: int = 120) -> Inspection:
    """A file whose stamps are `hours` later than the start of the steps in UTC."""
    times = pd.date_range("2005-04-01", periods=days * 1440 // minutes, freq=f"{minutes}min")
    columns = {"shortwave": (sun(times, f"{minutes}min", longitude), "MJ m-2 d-1")}
    return inspect(tower(folder, columns, times + pd.Timedelta(hours=hours), time_zone=zone, longitude=longitude, step=STEP[minutes]))


@pytest.mark.parametrize(("hours", "options"), [
    (1, {}), (0, {"zone": "UTC"}), (-8, {"longitude": -121.5}), (1, {"minutes": 60}), (0, {"zone": "UTC", "longitude": -47.0})])
def test_a_right_clock_is_not_suspicious(tmp_path: Path, hours: float, options: dict) -> None:
    assert not [each for each in clocked(tmp_path, hours, **options).suspicious if "solar noon" in each or "atmosphere" in each]


@pytest.mark.parametrize(("hours", "options", "words"), [
    (1.5, {}, ("after solar noon", "an end label taken as the start")),
    (2, {"minutes": 60}, ("after solar noon", "an end label", "one hour ahead of the sun")),
    (0.5, {}, ("before solar noon", "a start label taken as the end")),
    (0, {"longitude": -121.5}, ("after solar noon of local standard time", "UTC, not local standard time (UTC-8)")),
    (-8, {"longitude": -121.5, "zone": "UTC"}, ("solar noon of UTC", "local standard time (UTC-8), not UTC")),
    (4.5, {}, ("hours after solar noon", "Check the label of the steps and the time zone")),
])
def test_a_wrong_clock_is_found(tmp_path: Path, hours: float, options: dict, words: tuple[str, ...]) -> None:
    about(clocked(tmp_path, hours, **options), "solar noon", *words)


def test_daylight_saving_time(tmp_path: Path) -> None:
    times = pd.date_range("2005-01-01", periods=365 * 24, freq="60min")
    radiation = sun(times, "60min")
    summer = (times.month >= 4) & (times.month <= 10)
    saved = np.where(summer, np.roll(radiation, 2), np.roll(radiation, 1))
    found = inspect(tower(tmp_path, {"shortwave": (saved, "MJ m-2 d-1")}, times))
    about(found, "later from April to October", "daylight saving time")


# --- radiation, albedo ---


def test_values_above_the_top_of_the_atmosphere(tmp_path: Path) -> None:
    times = pd.date_range("2005-06-01", periods=48 * 20, freq="30min")
    values = sun(times - pd.Timedelta("1h"), "30min")
    values[48 * 3 + 24], values[48 * 5 + 2] = 1500 * 0.0864, 100 * 0.0864  # at noon, and at one in the night
    sentence = about(inspect(tower(tmp_path, {"shortwave": (values, "MJ m-2 d-1")}, times)), "top of the atmosphere")
    assert "2 values above" in sentence and "the worst on 2005-06-04 12:00: 1500 W m-2 against 1" in sentence
    days = pd.date_range("2005-01-01", periods=365)
    daily = np.where(np.arange(365) == 200, 45.0, 0.6 * radiation_of_day(days, LATITUDE))
    sentence = about(inspect(tower(tmp_path, {"shortwave": (daily, "MJ m-2 d-1")}, days)), "top of the atmosphere")
    assert "1 value above" in sentence and "on 2005-07-20: 521 W m-2" in sentence


def test_albedo_held_at_night(tmp_path: Path) -> None:
    times = pd.date_range("2005-06-01", periods=24 * 20, freq="60min")
    radiation = sun(times - pd.Timedelta("1h"), "60min")
    albedo = pd.Series(np.where(radiation > 0, 0.6 + noisy(len(times), 0.02), np.nan)).ffill().bfill()
    sentence = about(inspect(tower(tmp_path, {"shortwave": (radiation, "MJ m-2 d-1"), "albedo": (albedo, "1")}, times)), "albedo", "held")
    assert "weight albedo by shortwave" in sentence and "2005-06-01 01:00" in sentence


# --- values ---

DAYS = pd.date_range("2004-01-01", periods=2 * 365 + 1)
N = len(DAYS)
SEASON = np.sin(2 * np.pi * (DAYS.day_of_year.to_numpy() - 80) / 365.25)
WARMTH = 8 + 10 * SEASON + noisy(N, 2.0)
HEAT = 50 + 40 * SEASON + noisy(N, 8.0, 1)
UPTAKE = -1 - 3 * SEASON + noisy(N, 0.5, 2)


def test_a_clean_series_has_nothing_suspicious(tmp_path: Path) -> None:
    seen = np.random.default_rng(5).random(N) < 0.6
    columns = {"temperature": (WARMTH, "degC"), "nee": (np.where(seen, UPTAKE, np.nan), "gC m-2 d-1"),
               "nee_uncertainty": (np.where(seen, 0.3, np.nan), "gC m-2 d-1"), "latent_heat": (np.where(seen, HEAT, np.nan), "W m-2")}
    found = inspect(tower(tmp_path, columns, DAYS))
    assert found.suspicious == () and "Nothing that the checks look for." in str(found)


FAULTS = {
    "run": ({"temperature": (np.where((np.arange(N) >= 100) & (np.arange(N) < 112), 4.25, WARMTH), "degC")},
            ("The same value for 10 days or more", "\ntemperature  1 such run, the longest from 2004-04-10 for 12 days: 4.25 degC")),
    "spike": ({"temperature": (np.where(np.arange(N) == 300, 55.0, WARMTH), "degC")},
              ("Spikes", "\ntemperature  1 by more than ", "on 2004-10-27: 55 against")),
    "sign": ({"nee": (np.where(np.arange(N) % 3 > 0, -UPTAKE, np.nan), "gC m-2 d-1"), "latent_heat": (HEAT, "W m-2")},
             ("as if uptake were positive", "net ecosystem production", "r = +0.9")),
    "complete": ({"nee": (UPTAKE, "gC m-2 d-1")}, ("nee: 100 % of the 731 steps", "no mark")),
    "error": ({"gpp": (3 + 3 * SEASON + noisy(N, 0.3), "gC m-2 d-1"),
               "gpp_uncertainty": (np.where(np.arange(N) == 9, 0.001, 0.02), "gC m-2 d-1")},
              ("gpp_uncertainty: its median, 0.02,", "the smallest, 0.001, on 2004-01-10")),
    "percent": ({"relative_humidity": (0.007 + 0.002 * SEASON, "1")}, ("relative_humidity", "divided by 100")),
    "co2": ({"co2": (np.where(np.arange(N) == 3, 541.0, 390 + noisy(N)), "ppm")},
            ("co2: 1 values outside 330 to 450 ppm", "2004-01-04: 541")),
    "winter": ({"nee": (np.where((SEASON > -0.3) & (np.arange(N) % 2 == 0), UPTAKE, np.nan), "gC m-2 d-1")},
               ("nee: observed on", "in JJA but", "in DJF", "not missing at random")),
    "closure": ({"latent_heat": (np.where(np.arange(N) % 2, HEAT, np.nan), "W m-2"),
                 "sensible_heat": (np.where(np.arange(N) % 2, 20, np.nan), "W m-2"),
                 "net_radiation": ((HEAT + 20) / 0.7, "W m-2")}, ("Energy balance", "are 70 % of net radiation (there is no ground heat)")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_has_its_sentence(tmp_path: Path, fault: str) -> None:
    columns, words = FAULTS[fault]
    about(inspect(tower(tmp_path, columns, DAYS)), *words)


def test_percent_in_a_dataset_that_normalise_has_not_seen(tmp_path: Path) -> None:
    ds = tower(tmp_path, {"relative_humidity": (0.7 + 0.1 * SEASON, "1")}, DAYS)
    ds["relative_humidity"] = ds["relative_humidity"] * 100
    about(inspect(ds), "relative_humidity: values up to 80", "look like percent")


def test_the_calendar(tmp_path: Path) -> None:
    no_leap = pd.date_range("2003-01-01", "2008-12-30")
    no_leap = no_leap[~((no_leap.month == 2) & (no_leap.day == 29))]
    found = inspect(tower(tmp_path, {"temperature": (noisy(len(no_leap)), "degC")}, no_leap))
    about(found, "29 February is absent in every one of the 2 leap years, 2004 first.")
    about(found, "ends on 2008-12-30", "its last day is missing")
    assert int(found.variables["missing"].iloc[0]) == 2
    hours = pd.date_range("2005-01-01", periods=100, freq="60min")
    about(inspect(tower(tmp_path, {"temperature": (noisy(100), "degC")}, hours)), "The last day, 2005-01-05, has 4 of 24 steps.")


def test_uncertainties_that_would_dominate(tmp_path: Path) -> None:
    errors = np.full(N, 0.3)
    errors[[5, 70, 300]] = 1e-3, 2e-4, 4e-3
    found = inspect(tower(tmp_path, {"reco": (UPTAKE, "gC m-2 d-1"), "reco_uncertainty": (errors, "gC m-2 d-1")}, DAYS))
    title, row = about(found, "Uncertainties below 1 %").split("\n")
    assert "dominate J" in title
    assert row == "reco  3 of 731, the smallest on 2004-03-11: 0.0002 gC m-2 d-1, with the weight of 2,200,000 median ones (0.3)"


def test_days_far_from_their_season(tmp_path: Path) -> None:
    """A fault that lasts three days is no spike; one in winter that summer would have is found too."""
    heat = np.where(np.isin(np.arange(N), (390, 391, 392)), 115.0, HEAT)
    found = inspect(tower(tmp_path, {"latent_heat": (np.where(np.arange(N) % 5, heat, np.nan), "W m-2")}, DAYS))
    title, row = about(found, "robust standard deviations from the median of their season").split("\n")
    assert row.startswith("latent_heat  2 of 584, the farthest on 2005-01-26: 115 W m-2, where the season has 1")
    assert not [each for each in found.suspicious if each.startswith("Spikes")]


def test_a_table_of_spikes_has_a_line_a_variable(tmp_path: Path) -> None:
    spiky = {name: (np.where(np.arange(N) == day, 58.0, WARMTH), "degC") for name, day in (("temperature", 300), ("soil_temperature", 9))}
    found = inspect(tower(tmp_path, spiky, DAYS))
    rows = about(found, "Spikes").split("\n")
    assert [row.split()[0] for row in rows] == ["Spikes,", "temperature", "soil_temperature"]
    assert "\n      soil_temperature  1 by more than " in str(found)


def test_one_temperature_for_both_extremes(tmp_path: Path) -> None:
    columns = {"temperature_min": (WARMTH, "degC"), "temperature_max": (WARMTH, "degC"), "shortwave": (10 + SEASON, "MJ m-2 d-1"),
               "co2": (390 + noisy(N), "ppm")}
    found = inspect(tower(tmp_path, columns, DAYS))
    about(found, "temperature_min equals temperature_max on every day (731)")
    assert "equals" in found.missing_for["Dalec2"].notes[0] and "equals" in str(found).split("For a model")[1]
    columns["temperature_max"] = (WARMTH + 8, "degC")
    assert inspect(tower(tmp_path, columns, DAYS)).missing_for["Dalec2"].notes == ()


def test_nights_that_are_filled_void_every_day(tmp_path: Path) -> None:
    times = pd.date_range("2005-05-01", periods=48 * 30, freq="30min")
    dark = (times.hour < 5) | (times.hour >= 19)  # 20 of 48 steps, 42 %
    ds = tower(tmp_path, {"nee": (noisy(len(times)), "gC m-2 d-1"), "nee_filled": (dark, "1")}, times)
    found = inspect(ds)
    assert found.missing_for["Dalec2"].fluxes == ("nee",)
    assert found.missing_for["Dalec2"].notes == (
        "nee is there, but 30 of 30 days are void by the rule that at most 25 % of a day may be gap-filled or missing: "
        "--most-filled 0.5 would keep 30 days, filled values in them.",)


# --- coverage ---


def test_coverage_by_season_counts_absent_and_filled_steps(tmp_path: Path) -> None:
    times = pd.date_range("2005-01-01", "2005-12-31")
    values = np.where(times.month.isin([6, 7, 8]) & (times.day <= 15), 1.0, np.nan)
    filled = np.where(times.month == 7, 1.0, 0.0)
    ds = tower(tmp_path, {"nee": (values, "gC m-2 d-1"), "nee_filled": (filled, "1"), "gpp": (1.0, "gC m-2 d-1")}, times)
    table = inspect(ds.isel(time=np.flatnonzero(times.month != 10))).coverage
    assert table.loc["nee", "JJA"] == pytest.approx(30 / 92) and table.loc["nee", "DJF"] == 0
    assert table.loc["gpp", "SON"] == pytest.approx(60 / 91) and table.loc["gpp", "all"] == pytest.approx(334 / 365)
    assert list(table.columns) == ["DJF", "MAM", "JJA", "SON", "all"] and list(table.index) == ["nee", "gpp"]


def test_nights_that_are_never_observed(tmp_path: Path) -> None:
    times = pd.date_range("2005-03-10", periods=48 * 20, freq="30min")
    lit = radiation_at(times + pd.Timedelta("15min"), LATITUDE, LONGITUDE / 15 - 1) > 2.0
    found = inspect(tower(tmp_path, {"nee": (np.where(lit, noisy(len(times)), np.nan), "gC m-2 d-1")}, times))
    assert found.coverage.loc["nee", "night"] == 0 and 0.85 < found.coverage.loc["nee", "day"] < 1
    about(found, "nee: observed on", "by day and 0.0 % by night")
    nowhere = inspect(tower(tmp_path, {"nee": (1.0, "gC m-2 d-1")}, times, latitude=None, longitude=None, time_zone="UTC"))
    assert "night" not in nowhere.coverage and nowhere.place[0] != nowhere.place[0]


def test_years_have_no_seasons(tmp_path: Path) -> None:
    years = pd.date_range("1700-01-01", periods=323, freq="YS")
    found = inspect(tower(tmp_path, {"co2_mole_fraction": (np.linspace(277, 418, 323), "ppm")}, years, step="P1Y"))
    assert list(found.coverage.columns) == ["all"] and found.step == "yearly" and found.period[0] == "1700-01-01"
    text = str(found)
    assert "DJF" not in text and "Dalec" not in text


def test_steps_in_words(tmp_path: Path) -> None:
    times = pd.date_range("2005-03-10", periods=3000, freq="1min")
    found = inspect(tower(tmp_path, {"co2_mole_fraction": (380 + noisy(3000), "ppm")}, times))
    assert found.step == "1-minute" and found.what.startswith("1-minute series at one site")


def test_what_was_seen_throughout_shares_a_line(tmp_path: Path) -> None:
    half = np.where(np.arange(N) % 2, 1.0, np.nan)
    columns = {"temperature": (WARMTH, "degC"), "vpd": (5 + SEASON, "hPa"), "soil_temperature": (WARMTH, "degC"),
               "nee": (half * UPTAKE, "gC m-2 d-1")}
    text = str(inspect(tower(tmp_path, columns, DAYS)))
    assert "  100 throughout: temperature, vpd, soil_temperature\n" in text and "\n  nee   50   50   50   50   50\n" in text


# --- models, text ---


def test_what_a_model_lacks(tmp_path: Path) -> None:
    columns = {"temperature": (WARMTH, "degC"), "shortwave": (10.0, "MJ m-2 d-1"), "relative_humidity": (0.6, "1"),
               "co2": (np.where(np.arange(N) == 40, np.nan, 390.0), "ppm"), "nee": (UPTAKE, "gC m-2 d-1")}
    lacks = inspect(tower(tmp_path, columns, DAYS)).missing_for
    assert lacks["Dalec2"][:2] == (("co2 on 1 of 731 steps, the first 2004-02-10",), ())
    assert lacks["DalecWater"][:2] == (("precipitation", "co2 on 1 of 731 steps, the first 2004-02-10"), ("latent_heat",))
    assert lacks["Dalec2"].notes[0].startswith("temperature_min equals temperature_max on every day (731)"), "made of the daily mean"
    columns |= {"co2": (390.0, "ppm"), "precipitation": (1.0, "mm d-1"), "evapotranspiration": (1.0, "mm d-1")}
    whole = inspect(tower(tmp_path, columns, DAYS))
    assert whole.missing_for["DalecWater"][:2] == ((), ())
    assert "DalecWater has every driver; it can be calibrated against nee and latent_heat." in str(whole)
    nowhere = tower(tmp_path, columns, DAYS, latitude=None)
    assert inspect(nowhere).missing_for["Dalec2"].drivers == ("the latitude",)
    assert inspect(nowhere, latitude=50.0).missing_for["Dalec2"].drivers == ()


def test_the_needs_are_those_of_the_models() -> None:
    from landcal_jax import models
    from landcal_jax.models.dalec import DRIVERS

    assert set(MODELS["DalecWater"][0]) == set(DRIVERS)
    assert set(MODELS["Dalec2"][0]) == set(DRIVERS) - {"vpd", "precipitation"}
    for name, (_, streams) in MODELS.items():
        assert set(streams) == {"nee", "latent_heat"} & set(getattr(models, name)().output_units)


def test_the_text(tmp_path: Path) -> None:
    times = pd.date_range("2005-01-01 00:30", periods=48 * 365, freq="30min")
    shown = {"nee": (np.where(np.arange(len(times)) % 4, noisy(len(times)), -9999.0), "umol m-2 s-1", "NEE_VUT_REF")}
    (tmp_path / "tower.csv").write_text("made\n")
    ds = normalise(shown, times, path=tmp_path / "tower.csv", site="XX-Abc", latitude=-50, longitude=11, label="end", source="my tower")
    text = str(inspect(ds))
    assert text.startswith("my tower: normal form\n\nHalf-hourly series at one site: fluxes (nee).\n")
    assert "Site XX-Abc (50 S, 11 E), 2005-01-01 00:00 to 2005-12-31 23:30, half-hourly." in text
    assert "the file stamps the end of each step, here each has the stamp of its start." in text
    assert "nee  gC m-2 d-1  NEE_VUT_REF [umol m-2 s-1]   13140     4380" in text
    assert "DJF  MAM  JJA  SON  day  night  all" in text and "\n  nee   75   75   75   75   " in text
    assert "4380 fill values" in text and "Dalec2 finds none of its drivers here" in text
    assert max(map(len, text.splitlines())) <= 140


def test_a_field_gets_a_shorter_report() -> None:
    field = xr.Dataset({"fp": (("lat", "time"), np.array([[0.0, 2.0], [np.nan, 4.0]]), {"units": "mol mol-1"})},
                       attrs={"kind": "field", "source": "fp.nc", "history": "Two cells."})
    found = inspect(field)
    assert found.what == "A field with dimensions lat 2, time 2; variables fp." and found.period is None
    row = found.variables.iloc[0]
    assert (row["values"], row["missing"], row["min"], row["median"], row["max"]) == (3, 1, 0.0, 2.0, 4.0)
    assert found.missing_for == {} and found.coverage.empty and "Two cells." in str(found)


def test_snow_and_ice_are_no_matter_for_a_model_of_vegetation(tmp_path: Path) -> None:
    ice = {"temperature": (WARMTH - 20, "degC"), "albedo": (0.7 + 0.01 * noisy(N), "1"), "latent_heat": (HEAT, "W m-2")}
    assert inspect(tower(tmp_path, ice, DAYS)).missing_for == {}
    assert set(inspect(tower(tmp_path, ice | {"nee": (UPTAKE, "gC m-2 d-1")}, DAYS)).missing_for) == {"Dalec2", "DalecWater"}


def test_many_variables_of_a_field_do_not_fill_a_line() -> None:
    field = xr.Dataset({f"variable_number_{i}": ("x", np.ones(2)) for i in range(30)}, attrs={"kind": "field", "source": "f.nc"})
    found = inspect(field)
    assert found.what.endswith("variable_number_11 and 18 more.") and max(map(len, str(found).splitlines())) <= 140
    assert "Not checked" in str(found)


def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="(?s)Expected: .*no file .*gone.csv"):
        inspect(tmp_path / "gone.csv")
    (tmp_path / "noise.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match="(?s)Expected: .*noise.bin.*Try: "):
        inspect(tmp_path / "noise.bin")


def test_a_reader_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "mine.dat"
    path.write_text("mine\n")

    def read_mine(path: Path) -> xr.Dataset:
        return normalise({"nee": (UPTAKE, "gC m-2 d-1")}, DAYS, path=path, site="XX-Abc")

    found = inspect(path, reader=read_mine, latitude=50.0, longitude=10.0)
    assert (found.name, found.format, found.place) == ("mine.dat", "reader of the user", (50.0, 10.0))
    assert "latitude was given by the user as 50.0; the file does not say." in found.corrected


# --- real files ---


def test_callmip_files(data_dir: Path) -> None:
    folder = data_dir / "flux_daily/callmip_phase1"
    found = inspect(folder / "DK-Sor_daily_aggregated_1997-2014_FLUXNET2015_Flux.nc")
    assert (found.site, found.step, found.period) == ("DK-Sor", "daily", ("1997-01-01", "2014-12-31"))
    winter, summer = found.coverage.loc["nee", ["DJF", "JJA"]]
    with xr.open_dataset(folder / found.name) as raw:
        seen = raw["NEE_daily"].notnull().groupby(raw["time"].dt.season).mean()
    assert (winter, summer) == pytest.approx((float(seen.sel(season="DJF")), float(seen.sel(season="JJA")))) and winter > summer + 0.1
    assert found.coverage.loc["nee", "all"] == pytest.approx(3051 / 6574)  # literature: 3051 valid days
    assert found.missing_for["DalecWater"].fluxes == () and "shortwave" in found.missing_for["DalecWater"].drivers
    davos = inspect(folder / "CH-Dav_daily_aggregated_1997-2014_FLUXNET2015_Flux.nc")
    about(davos, "nee: observed on 1.4 % of the steps only.")


def test_half_hourly_and_hourly_files(data_dir: Path) -> None:
    found = inspect(data_dir / "flux_halfhourly/jax_canveg/US-Bi1-fluxes.csv", latitude=38.0992, longitude=-121.4993)
    about(found, "latent and sensible heat are 76 % of net radiation less ground heat")
    about(found, "nee", "included, not marked")
    assert not [each for each in found.suspicious if "solar noon" in each]  # its end labels were read as such
    upper = inspect(data_dir / "snow/greenland_promice/derived/kanu_2012_2015_hourly.csv.gz")
    about(upper, "shortwave: 2 values above", "the worst on 2012-05-02 17:00: 1234 W m-2 against 784")
    stuck = about(upper, "The same value for 3 days or more").splitlines()
    assert len(stuck) == 9 and stuck[1].startswith("temperature ")
    assert stuck[1].endswith("  1 such run, the longest from 2012-01-01 00:00 for 20.79 days: -36.1 degC")
    about(upper, "albedo: 10505 of 13940 values without sun repeat the value before")


@pytest.mark.slow
def test_every_file_of_the_data_folder(data_dir: Path) -> None:
    """A text for each file, or a sentence for what is no data."""
    refused = []
    for path in sorted(each for each in data_dir.rglob("*") if each.is_file()):
        try:
            text = str(inspect(path))
        except ValueError as error:
            assert complaint_of(error), path
            refused.append(path.name)
        else:
            assert text.startswith(path.name) and "Traceback" not in text and "nan" not in text.split("On reading")[0].split(), path
            assert max(map(len, text.splitlines())) <= 200, path
    assert set(refused) <= {"README.md"}


@pytest.mark.parametrize(("path", "words"), [
    ("callmip_phase1/DK-Sor_daily_aggregated_1997-2014_FLUXNET2015_Flux.nc", ("latent_heat ", "2009-11-26: -54.19", "2006-11-06: -209.8")),
    ("differland/AU-How.nc", ("reco ", "0.00015 gC m-2 d-1", "dominate J")),
    ("differland/US-SRG.nc", ("reco ", "8e-05 gC m-2 d-1")),
    ("fluxdatakit/FR-Pue.rds", ("temperature_min equals temperature_max on every day (5479)",))])
def test_what_is_known_to_be_odd_is_found(data_dir: Path, path: str, words: tuple[str, ...]) -> None:
    text = str(inspect(data_dir / "flux_daily" / path)).split("On reading")[0]
    assert all(word in text for word in words), text


@pytest.mark.slow
def test_no_real_series_is_taken_for_another_unit(data_dir: Path) -> None:
    for path in sorted((data_dir / "flux_daily").rglob("*.*")):
        if path.suffix in (".nc", ".rds") or path.name == "p_model_drivers_forcing.csv":
            assert not [each for each in inspect(path).suspicious if "is usual" in each or "figures" in each], path
