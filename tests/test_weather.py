"""The weather generator: physical limits, seasons, and the statistics it promises."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

from landcal_jax.weather import (
    BOREAL,
    CLEAR_SKY_TRANSMISSIVITY,
    CLIMATES,
    MEDITERRANEAN,
    SAVANNA,
    TEMPERATE_FOREST,
    WGEN_CORRELATION,
    WGEN_LAG,
    WGEN_SPREAD,
    extraterrestrial_radiation,
    saturation_vapour_pressure,
    weather,
)

YEARS = 50


@pytest.fixture(scope="module", params=list(CLIMATES.values()), ids=list(CLIMATES))
def long_record(request):
    return request.param, weather(request.param, start="1971-01-01", years=YEARS, seed=1)


def annual(values: xr.DataArray, how: str) -> np.ndarray:
    return getattr(values.groupby("time.year"), how)().values


def lag_one(values: np.ndarray) -> float:
    return float(np.corrcoef(values[1:], values[:-1])[0, 1])


def deseasonalised(values: xr.DataArray) -> np.ndarray:
    """Values less the annual cycle, as two harmonics: a mean by day of year would take noise with it."""
    angle = 2 * np.pi * values["time.dayofyear"].values / 365.25
    design = np.stack([np.ones_like(angle)] + [f(k * angle) for k in (1, 2) for f in (np.sin, np.cos)], axis=1)
    return values.values - design @ np.linalg.lstsq(design, values.values, rcond=None)[0]


def test_normal_form_of_forcing():
    forcing = weather(years=4, start="2003-01-01")
    assert list(forcing) == ["temperature_min", "temperature_max", "shortwave", "co2", "vpd", "precipitation",
                             "burned_fraction"]
    assert forcing.sizes == {"time": 4 * 365 + 1}
    assert np.datetime64("2004-02-29") in forcing.time.values
    assert forcing.time.dtype == "datetime64[ns]"
    assert set(np.diff(forcing.time.values)) == {np.timedelta64(1, "D")}
    assert forcing.site == "temperate_forest"
    assert forcing.latitude == 51.0
    for name in forcing:
        assert set(forcing[name].attrs) == {"units", "long_name"}
        assert forcing[name].dtype == float
        assert np.isfinite(forcing[name]).all()
    assert {"title", "source", "references", "license", "history", "sha256"} <= set(forcing.attrs)
    assert forcing.attrs["source"].startswith("synthetic")
    assert "seed 0" in forcing.attrs["history"]


def test_physical_limits(long_record):
    climate, forcing = long_record
    assert (forcing.temperature_max > forcing.temperature_min).all()
    assert (forcing.vpd >= 0).all()
    # The air cannot lack more vapour than it can hold at the mean of the two saturation pressures.
    assert (forcing.vpd < 0.5 * (saturation_vapour_pressure(forcing.temperature_min)
                                 + saturation_vapour_pressure(forcing.temperature_max))).all()
    above = extraterrestrial_radiation(climate.latitude, forcing["time.dayofyear"].values)
    assert (forcing.shortwave > 0).all()
    assert (forcing.shortwave < CLEAR_SKY_TRANSMISSIVITY * above).all()
    assert (forcing.precipitation >= 0).all()
    assert (forcing.burned_fraction == 0).all()
    assert (np.diff(forcing.co2) > 0).all()


def test_annual_means_are_those_of_the_climate(long_record):
    climate, forcing = long_record
    precipitation = annual(forcing.precipitation, "sum")
    temperature = annual(0.5 * (forcing.temperature_min + forcing.temperature_max), "mean")
    wet = annual(forcing.precipitation > 0, "mean")
    for found, wanted in ((precipitation, climate.precipitation), (temperature, climate.temperature),
                          (wet, climate.wet_fraction)):
        assert abs(found.mean() - wanted) < 3 * found.std(ddof=1) / np.sqrt(YEARS)


def test_wet_days_persist_and_are_duller(long_record):
    climate, forcing = long_record
    wet = (forcing.precipitation > 0).values
    probability = climate.wet_fraction * (1 + climate.wet_seasonality * np.cos(
        2 * np.pi * (forcing["time.dayofyear"].values - (172 if climate.latitude > 0 else 355) - climate.wet_season)
        / 365.25))
    departure = wet - probability
    persistence = np.mean(departure[1:] * departure[:-1]) / np.mean(departure**2)
    assert abs(persistence - climate.wet_persistence) < 4 / np.sqrt(wet.size)
    for name in ("shortwave", "vpd"):
        assert forcing[name].values[wet].mean() < forcing[name].values[~wet].mean()
    diurnal = (forcing.temperature_max - forcing.temperature_min).values
    # The standard error of the logarithm of a median is below 1 % here.
    np.testing.assert_allclose(np.median(diurnal[wet]), climate.diurnal_range_wet, rtol=0.03)
    np.testing.assert_allclose(np.median(diurnal[~wet]), climate.diurnal_range_dry, rtol=0.03)


def test_amounts_are_gamma_distributed(long_record):
    climate, forcing = long_record
    amounts = forcing.precipitation.values[forcing.precipitation.values > 0]
    # A gamma distribution has mean^2 / variance equal to its shape.
    np.testing.assert_allclose(amounts.mean() ** 2 / amounts.var(), climate.amount_shape, rtol=0.12)


def test_anomalies_follow_the_autoregression_of_wgen(long_record):
    climate, forcing = long_record
    mean = deseasonalised(0.5 * (forcing.temperature_min + forcing.temperature_max))
    # What WGEN's matrices imply for the sum of the two temperature anomalies.
    correlation = np.eye(3)
    for _ in range(200):
        correlation = WGEN_LAG @ correlation @ WGEN_LAG.T + WGEN_SPREAD @ WGEN_SPREAD.T
    both = np.array([1.0, 1.0, 0.0])
    expected = both @ WGEN_LAG @ correlation @ both / (both @ correlation @ both)
    np.testing.assert_allclose(correlation[0, 1], WGEN_CORRELATION, atol=5e-4)
    np.testing.assert_allclose(np.diag(correlation), 1.0, atol=1e-3)
    assert abs(lag_one(mean) - expected) < 0.03
    # On dry days a clear sky and a large daily range go together.
    dry = (forcing.precipitation == 0).values
    clear = (forcing.shortwave / extraterrestrial_radiation(climate.latitude, forcing["time.dayofyear"].values)).values
    diurnal = np.log((forcing.temperature_max - forcing.temperature_min).values)
    assert 0.3 < np.corrcoef(clear[dry], diurnal[dry])[0, 1] < 0.5


def test_spread_is_larger_in_winter():
    forcing = weather(BOREAL, years=30, seed=2)
    mean = deseasonalised(0.5 * (forcing.temperature_min + forcing.temperature_max))
    month = forcing["time.month"].values
    np.testing.assert_allclose(mean[month == 6].std(), BOREAL.temperature_sd_summer, rtol=0.1)
    np.testing.assert_allclose(mean[month == 12].std(), BOREAL.temperature_sd_winter, rtol=0.1)


def test_same_seed_same_weather_and_longer_records_extend_shorter_ones():
    first, again, other = weather(seed=3, years=2), weather(seed=3, years=2), weather(seed=4, years=2)
    xr.testing.assert_identical(first, again)
    assert first.attrs["sha256"] != other.attrs["sha256"]
    assert not np.allclose(first.temperature_max, other.temperature_max)
    longer = weather(seed=3, years=5)
    xr.testing.assert_equal(longer.isel(time=slice(0, first.sizes["time"])), first)


def test_seasons_follow_the_hemisphere():
    north = weather(TEMPERATE_FOREST, years=10, seed=5)
    south = weather(dataclasses.replace(TEMPERATE_FOREST, latitude=-51.0), years=10, seed=5)
    for forcing, warm, cold in ((north, 7, 1), (south, 1, 7)):
        for name in ("temperature_max", "shortwave", "vpd"):
            by_month = forcing[name].groupby("time.month").mean()
            assert by_month.sel(month=warm) > 1.5 * by_month.sel(month=cold)
    rain = weather(MEDITERRANEAN, years=20).precipitation.groupby("time.month").mean()
    assert rain.sel(month=12) > 2 * rain.sel(month=7)
    rain = weather(SAVANNA, years=20).precipitation.groupby("time.month").mean()
    assert rain.sel(month=1) > 10 * rain.sel(month=7)


@pytest.mark.parametrize("latitude", [90.0, 78.0, 0.0, -78.0, -90.0])
def test_any_latitude_is_possible(latitude):
    forcing = weather(dataclasses.replace(BOREAL, latitude=latitude, temperature=-8.0), years=2)
    assert np.isfinite(forcing.to_array()).all()
    assert (forcing.shortwave >= 0).all()
    if abs(latitude) > 70:
        dark = forcing.shortwave.sel(time="2001-12-21" if latitude > 0 else "2001-06-21")
        assert dark == 0.0
        assert forcing.shortwave.max() > 10.0


def test_extraterrestrial_radiation_is_that_of_fao_56():
    # FAO-56, example 8: 20 degrees south, 3 September.
    np.testing.assert_allclose(extraterrestrial_radiation(-20.0, 246), 32.2, atol=0.05)
    # FAO-56, example 3: 24.5 and 15 degrees Celsius have 3.075 and 1.705 kPa.
    np.testing.assert_allclose(saturation_vapour_pressure(np.array([24.5, 15.0])), [30.75, 17.05], rtol=1e-3)


def test_co2_is_near_what_was_observed(data_dir):
    lines = (data_dir / "flux_daily/callmip_phase1/CO2_1700_2024_TRENDYv2025.txt").read_text().split()
    observed = {int(line[6:10]): float(line[11:]) for line in lines}
    drawn = weather(start="1980-01-01", years=45).co2.groupby("time.year").mean()
    for year in drawn.year.values:
        assert abs(float(drawn.sel(year=year)) - observed[int(year)]) < 1.5


@pytest.mark.parametrize(("change", "word"), [
    ({"latitude": 912.0}, "latitude"),
    ({"wet_persistence": 1.0}, "wet_persistence"),
    ({"transmissivity_dry": 0.9}, "transmissivity_dry"),
    ({"temperature": float("nan")}, "temperature"),
    ({"wet_fraction": 0.8, "wet_seasonality": 0.5}, "wettest"),
])
def test_an_impossible_climate_is_refused(change, word):
    with pytest.raises(ValueError, match=rf"(?s)Expected: .*{word}.*Got: .*Try: "):
        dataclasses.replace(TEMPERATE_FOREST, **change)


def test_impossible_records_are_refused():
    with pytest.raises(ValueError, match="years=0"):
        weather(years=0)
    with pytest.raises(ValueError, match="midnight"):
        weather(start="2001-01-01T12:00")
