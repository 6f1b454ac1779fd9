"""Time zones: what is understood, what is refused, and files of two clocks side by side."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.errors import complaint_of
from landcal_jax.io.aggregation import daily
from landcal_jax.io.clocks import clock, hours_ahead
from landcal_jax.io.merging import merge
from landcal_jax.io.normal import normalise
from landcal_jax.io.readers.netcdf_normal import read_netcdf_normal
from landcal_jax.io.readers.tables import read_table

DAYS = 4


def tower(folder: Path, name: str, zone: str, behind: float = 0.0, longitude: float | None = 24.3, step: str = "30min",
          **options: object) -> xr.Dataset:
    """A course of the sun with its noon at 12:00 local standard time, stamped `behind` hours earlier."""
    (folder / f"{name}.csv").write_text("made\n")
    times = pd.date_range("2005-06-01", periods=DAYS * 48 if step == "30min" else DAYS, freq=step)
    hours = np.asarray((times - times[0]) / pd.Timedelta("1h"))
    values = 100.0 * np.maximum(0.0, np.cos(2 * np.pi * (hours + behind - 12) / 24))
    return normalise({name: (values, "W m-2")}, times, path=folder / f"{name}.csv", site="XX-Abc", latitude=50.0, longitude=longitude,
                     time_zone=zone, source=f"{name}.csv", **options)


@pytest.mark.parametrize(("text", "zone"), [
    ("UTC", "UTC"), ("gmt", "UTC"), ("Z", "UTC"), ("UTC+0", "UTC"), ("UTC+1", "UTC+1"), ("GMT+1", "UTC+1"), ("UTC-08:00", "UTC-8"),
    ("+01:00", "UTC+1"), ("+0530", "UTC+5:30"), ("UTC+5.5", "UTC+5:30"), ("-3:30", "UTC-3:30"), ("UTC +2", "UTC+2"),
    ("local standard time", "local standard time"), ("LST", "local standard time"), ("Local_Standard_Time", "local standard time")])
def test_what_is_understood(text: str, zone: str) -> None:
    assert clock(text, "x.csv") == zone == clock(zone, "x.csv")


@pytest.mark.parametrize("text", ["CET", "CEST", "America/Denver", "Europe/Helsinki", "EST", "local time", "", "noon", "UTC+15", "UTC+1:10",
                                  "Etc/GMT-1", "1", "UTC++1", "UTC+1 or so", "+100"])
def test_what_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as caught:
        tower(tmp_path, "latent_heat", text)
    said = complaint_of(caught.value)
    assert said is not None and "the time zone of latent_heat.csv as UTC" in said and repr(text) in said and "in winter" in said


def test_a_table_in_a_fixed_offset(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    rows = "".join(f"{time:%Y-%m-%d %H:%M},{float(time.day)}\n" for time in pd.date_range("2005-06-01", periods=96, freq="30min"))
    for zone, longitude, first in (("+01:00", 14.0, "2005-06-01"), ("UTC-08:00", -120.0, "2005-06-01")):
        path.write_text(f"# time_zone: {zone}\n# latitude: 40\n# longitude: {longitude}\ntime,latent_heat\n-,W m-2\n{rows}")
        made = daily(read_table(path))
        assert made["latent_heat"].values.tolist() == [1.0, 2.0] and str(made["time"].values[0])[:10] == first
        assert "are local standard time here" in made.attrs["history"] and made["time"].attrs["time_zone"] == "local standard time"


def test_another_offset_is_shifted_by_the_hours_between(tmp_path: Path) -> None:
    ds = tower(tmp_path, "latent_heat", "UTC+1", behind=1.0)  # 24.3 degrees east: local standard time is UTC+2
    assert hours_ahead(ds) == 1.0 and hours_ahead(tower(tmp_path, "latent_heat", "LST")) == 2.0
    made, local = daily(ds), daily(tower(tmp_path, "latent_heat", "LST"))
    assert "shifted from UTC+1 to local standard time, by +1 hours (longitude 24.3 / 15, rounded)" in made.attrs["history"]
    np.testing.assert_allclose(made["latent_heat"], local["latent_heat"][1:])
    with pytest.raises(ValueError, match="(?s)longitude of .*whose times are UTC.1"):
        daily(tower(tmp_path, "latent_heat", "UTC+1", longitude=None))


def test_files_of_two_clocks_are_brought_to_one(tmp_path: Path) -> None:
    """Light in UTC and flux in local standard time have their noon at the same step after merging, and 2 hours apart before."""
    light, flux = tower(tmp_path, "sensible_heat", "UTC", behind=2.0), tower(tmp_path, "latent_heat", "local standard time")
    for both in (merge([light, flux]), merge([flux, light])):
        one = both.dropna("time")
        np.testing.assert_allclose(one["sensible_heat"], one["latent_heat"], atol=1e-9)
        assert one.sizes["time"] == DAYS * 48 - 4 and both.sizes["time"] == DAYS * 48 + 4
        assert both["time"].attrs["time_zone"] == "local standard time" and both["time"].attrs["step"] == "PT30M"
        assert "sensible_heat.csv: Times were shifted from UTC to local standard time, by +2 hours" in both.attrs["history"]
    known = merge([flux, tower(tmp_path, "sensible_heat", "UTC", behind=2.0, longitude=None)])
    np.testing.assert_allclose(known.dropna("time")["sensible_heat"], known.dropna("time")["latent_heat"], atol=1e-9)
    assert float(known["longitude"]) == 24.3
    same = merge([light, tower(tmp_path, "latent_heat", "GMT", behind=2.0)])
    assert same["time"].attrs["time_zone"] == "UTC" and "shifted" not in same.attrs["history"]


def test_two_clocks_that_cannot_be_made_one(tmp_path: Path) -> None:
    nowhere = {"longitude": None}
    with pytest.raises(ValueError, match="(?s)files of one clock.*sensible_heat.csv in UTC and latent_heat.csv in local.*longitude="):
        merge([tower(tmp_path, "sensible_heat", "UTC", **nowhere), tower(tmp_path, "latent_heat", "LST", **nowhere)])
    with pytest.raises(ValueError, match="(?s)Expected: days that begin at the same time.*in UTC and .*in local standard time"):
        merge([tower(tmp_path, "sensible_heat", "UTC", step="D"), tower(tmp_path, "latent_heat", "LST", step="D")])
    zones = {"sensible_heat": "UTC", "latent_heat": "LST"}
    greenwich = merge([tower(tmp_path, name, zone, step="D", longitude=2.0) for name, zone in zones.items()])
    assert greenwich.sizes["time"] == DAYS


@pytest.mark.parametrize(("units", "zone", "first"), [
    ("hours since 2005-06-01 00:00:00 +01:00", "UTC", "2005-05-31T23"), ("hours since 2005-06-01 00:00:00 -0800", "UTC", "2005-06-01T08"),
    ("hours since 2005-06-01 00:00:00 +00:00", "UTC", "2005-06-01T00"),
    ("hours since 2005-06-01 00:00:00 UTC", "UTC", "2005-06-01T00"), ("hours since 2005-06-01T00:00:00Z", "UTC", "2005-06-01T00"),
    ("hours since 2005-06-01", "local standard time", "2005-06-01T00")])
def test_an_offset_in_the_units_of_time_makes_utc(tmp_path: Path, units: str, zone: str, first: str) -> None:
    """xarray takes the offset off, so that the stamps are in UTC whatever else the file says."""
    ds = xr.Dataset({"nee": ("time", np.arange(48.0), {"units": "gC m-2 d-1"})}, attrs={"site_code": "XX-Abc"})
    ds["time"] = ("time", np.arange(48), {"units": units})
    ds.to_netcdf(tmp_path / "a.nc")
    made = read_netcdf_normal(tmp_path / "a.nc")
    assert made["time"].attrs["time_zone"] == zone and str(made["time"].values[0].astype("datetime64[h]")) == first
