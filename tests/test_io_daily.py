"""Days from half-hours: means, voids, time zones and errors, against closed forms."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io.aggregation import daily, error_of_mean, offset_hours
from landcal_jax.io.model_data import fluxes
from landcal_jax.io.normal import normalise

STEP = {48: "PT30M", 24: "PT1H"}


def half_hours(columns: dict, folder: Path, days: int = 3, per_day: int = 48, start: str = "2005-06-01", rows: slice = slice(None),
               **options: object) -> xr.Dataset:
    """A Dataset of the normal form; a value is a function of the fraction of the day [0, 1), or an array."""
    (folder / "tower.csv").write_text("made\n")
    times = pd.date_range(start, periods=days * per_day, freq=f"{1440 // per_day}min")
    hours = np.tile(np.arange(per_day) / per_day, days)
    made = {name: (np.array(values(hours) if callable(values) else np.broadcast_to(values, hours.shape), float)[rows], units)
            for name, (values, units) in columns.items()}
    place = {"site": "XX-Abc", "latitude": 50.0, "longitude": 10.0} | options
    return normalise(made, times[rows], path=folder / "tower.csv", step=STEP[per_day], **place)


def sentences(ds: xr.Dataset) -> str:
    return ds.attrs["history"]


@pytest.mark.parametrize("per_day", [48, 24])
def test_means_are_those_of_callmip(tmp_path: Path, per_day: int) -> None:
    seconds, n = 86400 / per_day, per_day
    flux = lambda day: -5.0 + 3.0 * np.cos(2 * np.pi * day)  # noqa: E731
    ds = half_hours({"nee": (flux, "umol m-2 s-1"), "nee_uncertainty": (0.8, "umol m-2 s-1"), "latent_heat": (lambda d: 100 * d, "W m-2"),
                     "latent_heat_uncertainty": (20.0, "W m-2")}, tmp_path, per_day=per_day)
    made = daily(ds, correlation_hours=0.0)
    assert made.sizes["time"] == 3 and made["time"].attrs["step"] == "P1D"
    # CalLMIP: the sum of umol m-2 s-1 x 1e-6 x 12 x 1800 (here with 12.011), root sums of squares, divided by n for heat
    callmip = 1e-6 * 12.011 * seconds
    np.testing.assert_allclose(made["nee"], np.sum(flux(np.arange(n) / n)) * callmip, rtol=1e-12)
    np.testing.assert_allclose(made["nee_uncertainty"], np.sqrt(n) * 0.8 * callmip, rtol=1e-12)
    np.testing.assert_allclose(made["latent_heat"], 50 * (1 - 1 / n), rtol=1e-12)
    np.testing.assert_allclose(made["latent_heat_uncertainty"], np.sqrt(n) * 20 / n, rtol=1e-12)
    assert "independent" in sentences(made) and "1 times that of independent steps" in sentences(made)


def test_a_quarter_filled_is_kept_and_more_is_void(tmp_path: Path) -> None:
    filled = np.zeros((4, 48))
    filled[1, :12], filled[2, :13], filled[3, :] = 1, 1, 1
    ds = half_hours({"nee": (2.0, "gC m-2 d-1"), "nee_filled": (filled.ravel(), "1")}, tmp_path, days=4)
    made = daily(ds)
    np.testing.assert_array_equal(np.isfinite(made["nee"]), [True, True, False, False])
    np.testing.assert_allclose(made["nee_filled"], [0, 0.25, 13 / 48, 1])
    assert "nee: 2 of 4 days; 2 are void, with more than 25 % of their steps gap-filled or missing." in sentences(made)
    assert np.isfinite(daily(ds, most_filled=0.3)["nee"]).sum() == 3


def test_missing_steps_count_as_filled_and_the_mean_is_of_the_others(tmp_path: Path) -> None:
    values = np.tile(np.arange(48.0), 3)
    values[48:96:4] = np.nan  # a quarter of the second day
    values[96:144:4], values[97] = np.nan, np.nan  # more than a quarter of the third
    made = daily(half_hours({"latent_heat": (values, "W m-2")}, tmp_path))
    np.testing.assert_allclose(made["latent_heat"], [23.5, 24.0, np.nan])
    assert "1 are the mean of the steps that are there" in sentences(made)
    # rows that are absent from the file are missing steps as well
    ds = half_hours({"latent_heat": (np.tile(np.arange(48.0), 3), "W m-2")}, tmp_path)
    np.testing.assert_allclose(daily(ds.isel(time=np.delete(np.arange(144), np.arange(48, 96, 4))))["latent_heat"], [23.5, 24.0, 23.5])


SUN = lambda day: 800.0 * np.maximum(0.0, np.sin(2 * np.pi * (day - 0.25)))  # noqa: E731
NIGHT = np.r_[0:12, 36:48]


@pytest.mark.parametrize("how", ["light", "photons", "sun", "clock"])
def test_a_day_without_its_nights_is_void(tmp_path: Path, how: str) -> None:
    """Uptake by day, respiration by night: half of the nights missing is a quarter of the day, and 1.5 gC m-2 d-1 of bias."""
    values = np.where(np.isin(np.tile(np.arange(48), 5), NIGHT), 3.0, -9.0).reshape(5, 48)
    values[1, :12] = np.nan  # half of the night: a quarter of the day, allowed by the rule of CalLMIP alone
    values[2, 24:36] = np.nan  # half of the light
    values[3, ::4] = np.nan  # a quarter of each
    values[4, [0, 1, 2]] = np.nan
    light = {"light": {"shortwave": (lambda d: SUN(d) + 3.0, "W m-2")}, "photons": {"ppfd": (lambda d: 2 * SUN(d), "umol m-2 s-1")}}
    place = {"latitude": None, "longitude": None} if how == "clock" else {"latitude": 0.0, "longitude": 15.0}
    ds = half_hours({"nee": (values.ravel(), "gC m-2 d-1")} | light.get(how, {}), tmp_path, days=5, start="2005-03-21", **place)
    made = daily(ds)
    np.testing.assert_allclose(made["nee"], [-3.0, np.nan, np.nan, -3.0, (21 * 3.0 - 24 * 9.0) / 45])
    assert ("nee: 3 of 5 days; 0 are void, with more than 25 % of their steps gap-filled or missing; 4 of the others have missing steps, "
            "of which 2 are void, since mostly nights (1) or mostly hours of light (1) are missing; "
            "2 are the mean of the steps that are there.") in sentences(made)
    assert np.isfinite(daily(ds, most_filled=0.5)["nee"]).all()
    filled = half_hours({"nee": (np.nan_to_num(values, nan=0.0).ravel(), "gC m-2 d-1"),
                         "nee_filled": (np.isnan(values).ravel().astype(float), "1")}, tmp_path, days=5, **place)
    assert np.isfinite(daily(filled)["nee"]).all(), "gap-filled nights are there: the rule of CalLMIP holds"


def test_fluxes_know_the_night_from_the_light_of_the_file(tmp_path: Path) -> None:
    values = np.full((2, 48), 2.0)
    values[1, 24:31] = np.nan  # 7 of the 24 dark steps of this file, whose clock is turned; 7 of 48 steps
    ds = half_hours({"nee": (values.ravel(), "gC m-2 d-1"), "shortwave": (lambda d: 800.0 * ((d < 0.25) | (d >= 0.75)), "W m-2")},
                    tmp_path, days=2)
    made = fluxes(ds)
    assert list(made.data_vars) == ["nee"] and np.isfinite(made["nee"]).values.tolist() == [True, False]
    assert "mostly nights (1)" in sentences(made)


def test_polar_summer_has_no_night(tmp_path: Path) -> None:
    values = np.full((2, 48), 2.0)
    values[1, :12] = np.nan
    ds = half_hours({"nee": (values.ravel(), "gC m-2 d-1")}, tmp_path, days=2, start="2005-06-20", latitude=78.0, longitude=15.0)
    np.testing.assert_allclose(daily(ds)["nee"], 2.0)


def test_meteorology_needs_every_step(tmp_path: Path) -> None:
    rain, temperature = np.zeros(144), np.tile(np.sin(2 * np.pi * np.arange(48) / 48), 3)
    rain[50] = 3.0  # mm in half an hour
    temperature[100] = np.nan
    ds = half_hours({"precipitation": (rain * 48, "mm d-1"), "temperature": (temperature, "degC"),
                     "shortwave": (lambda d: 800 * np.maximum(0, np.sin(2 * np.pi * (d - 0.25))), "W m-2"),
                     "temperature_filled": (np.r_[np.ones(12), np.zeros(132)], "1")}, tmp_path)
    made = daily(ds)
    np.testing.assert_allclose(made["precipitation"], [0, 3, 0])
    np.testing.assert_allclose(made["temperature_max"], [1, 1, np.nan])
    np.testing.assert_allclose(made["temperature_min"], [-1, -1, np.nan])
    np.testing.assert_allclose(made["temperature"], [0, 0, np.nan], atol=1e-12)
    np.testing.assert_allclose(made["shortwave"], 800 / np.pi * 0.0864, rtol=2e-3)
    np.testing.assert_allclose(made["temperature_filled"], [0.25, 0, 1 / 48])
    assert "temperature: 1 of 3 days are void, since a step is missing" in sentences(made)
    assert made["temperature_min"].attrs["units"] == "degC"


@pytest.mark.parametrize("hours", [None, 0.0, 0.5, 3.0, 100.0])
def test_error_of_a_mean_against_the_covariance(hours: float | None) -> None:
    rng = np.random.default_rng(1)
    errors = rng.uniform(0.1, 2.0, (5, 48))
    errors[2, :10] = np.nan
    for row in errors:
        there = np.flatnonzero(np.isfinite(row))
        distance = np.abs(there[:, None] - there) * 0.5
        rho = np.ones_like(distance) if hours is None else (distance == 0.0) if hours == 0 else np.exp(-distance / hours)
        weights = np.full(there.size, 1 / there.size)
        brute = np.sqrt(weights @ (rho * np.outer(row[there], row[there])) @ weights)
        assert error_of_mean(row[None], 0.5, hours)[0] == pytest.approx(brute, rel=1e-12)


def test_error_of_a_mean_against_drawn_errors() -> None:
    rng, n, hours = np.random.default_rng(2), 48, 3.0
    step = np.exp(-0.5 / hours)
    noise = np.empty((40000, n))  # an AR(1) series has exactly the exponential correlation
    noise[:, 0] = rng.standard_normal(40000)
    for i in range(1, n):
        noise[:, i] = step * noise[:, i - 1] + np.sqrt(1 - step**2) * rng.standard_normal(40000)
    sigma = np.linspace(0.5, 1.5, n)
    assert error_of_mean(sigma[None], 0.5, hours)[0] == pytest.approx((noise * sigma).mean(axis=1).std(), rel=0.02)


def test_default_error_is_the_upper_bound_and_its_factor_is_said(tmp_path: Path) -> None:
    ds = half_hours({"nee": (1.0, "gC m-2 d-1"), "nee_uncertainty": (0.5, "gC m-2 d-1")}, tmp_path)
    made = daily(ds)
    np.testing.assert_allclose(made["nee_uncertainty"], 0.5)
    assert "fully correlated (the upper bound)" in sentences(made)
    assert "the median daily error is 0.5 gC m-2 d-1, 6.93 times that of independent steps" in sentences(made)  # sqrt(48)
    between = float(daily(ds, correlation_hours=2.0)["nee_uncertainty"][0])
    assert 0.5 / np.sqrt(48) < between < 0.5


def test_days_without_any_uncertainty_are_void(tmp_path: Path) -> None:
    errors = np.full((3, 48), 0.4)
    errors[1], errors[2, 10:] = 0.0, np.nan
    ds = half_hours({"nee": (1.0, "gC m-2 d-1"), "nee_uncertainty": (errors.ravel(), "gC m-2 d-1")}, tmp_path)
    made = daily(ds, correlation_hours=0.0)
    np.testing.assert_array_equal(np.isfinite(made["nee"]), [True, False, True])
    np.testing.assert_allclose(made["nee_uncertainty"], [0.4 / np.sqrt(48), np.nan, 0.4 / np.sqrt(48)])
    assert "1 more days are void" in sentences(made) and "on 1 days some steps have no uncertainty" in sentences(made)
    ds["nee"].attrs["gap_filled"] = "included, not marked"
    assert np.isfinite(daily(ds)["nee"]).all()


def test_incomplete_first_and_last_day_are_dropped_and_said(tmp_path: Path) -> None:
    made = daily(half_hours({"nee": (1.0, "gC m-2 d-1")}, tmp_path, days=4, rows=slice(5, -7)))
    assert list(made["time"].values.astype("datetime64[D]").astype(str)) == ["2005-06-02", "2005-06-03"]
    assert "2005-06-01, the first day, has 43 of 48 steps and was dropped." in sentences(made)
    assert "2005-06-04, the last day, has 41 of 48 steps and was dropped." in sentences(made)
    with pytest.raises(ValueError, match="Expected: at least one whole day"):
        daily(half_hours({"nee": (1.0, "gC m-2 d-1")}, tmp_path, days=1, rows=slice(5, 40)))


@pytest.mark.parametrize(("longitude", "hours"), [(24.3, 2), (7.4, 0), (7.6, 1), (-112.0, -7), (248.0, -7), (180.0, -12), (149.1, 10)])
def test_utc_becomes_local_standard_time(tmp_path: Path, longitude: float, hours: int) -> None:
    assert offset_hours(longitude) == hours
    local = np.tile(np.arange(48.0) / 48, 4)
    ds = half_hours({"latent_heat": (np.roll(local, -2 * hours), "W m-2")}, tmp_path, days=4, longitude=longitude, time_zone="UTC")
    made = daily(ds)
    assert made.sizes["time"] == (4 if hours == 0 else 3)
    np.testing.assert_allclose(made["latent_heat"], local[:48].mean())
    assert f"shifted from UTC to local standard time, by {hours:+d} hours" in sentences(made)
    assert made["time"].attrs["time_zone"] == "local standard time"


def test_albedo_is_weighted_by_radiation(tmp_path: Path) -> None:
    sun = lambda d: 500.0 * ((d >= 0.25) & (d < 0.75))  # noqa: E731
    ds = half_hours({"albedo": (lambda d: np.where((d >= 0.25) & (d < 0.5), 0.8, np.where((d >= 0.5) & (d < 0.75), 0.6, 0.1)), "1"),
                     "shortwave": (sun, "W m-2")}, tmp_path)
    np.testing.assert_allclose(daily(ds)["albedo"], 0.7)
    np.testing.assert_allclose(daily(ds.drop_vars("shortwave"))["albedo"], 0.4)


@pytest.mark.parametrize(("change", "options", "part"), [
    (lambda ds: ds.assign_coords(longitude=np.nan), {}, "longitude of .*none in the file"),
    (lambda ds: ds, {"most_filled": 25}, "most_filled between 0 and 1.*25"),
    (lambda ds: ds, {"correlation_hours": -1.0}, "correlation_hours of 0.*-1"),
    (lambda ds: ds, {"correlation_hours": np.nan}, "correlation_hours.*nan"),
    (lambda ds: daily(ds), {}, "steps shorter than a day.*P1D"),
    (lambda ds: ds.assign_coords(time=("time", ds["time"].values + np.timedelta64(15, "m"), ds["time"].attrs)), {},
     "that begin at midnight.*01:15"),
])
def test_what_daily_refuses(tmp_path: Path, change, options: dict, part: str) -> None:
    ds = half_hours({"nee": (1.0, "gC m-2 d-1")}, tmp_path, time_zone="UTC")
    with pytest.raises(ValueError, match=f"(?s)Expected: .*{part}.*Try: "):
        daily(change(ds), **options)


def test_place_units_and_provenance_are_kept(tmp_path: Path) -> None:
    made = daily(half_hours({"nee": (1.0, "gC m-2 d-1")}, tmp_path))
    assert (made["site"].item(), float(made["latitude"])) == ("XX-Abc", 50.0)
    assert made["nee"].attrs["units"] == "gC m-2 d-1" and len(made.attrs["sha256"]) == 64
    assert sentences(made).splitlines()[1].startswith("3 days were made of steps of 0.5 hours")
