"""NetCDF in the normal form: written and read back without loss, CF standard names, labels, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io import Column, normalise, read, read_forcing
from landcal_jax.io.normal import step_of
from landcal_jax.io.readers.netcdf_normal import read_netcdf_normal

N = 48


def says(*parts: str) -> str:
    """A pattern for pytest.raises: the three lines of an error, with these parts in this order."""
    return "(?s)Expected: .*" + ".*".join(parts) + ".*Try: "


def made(folder: Path, step: str = "PT30M", **options: object) -> xr.Dataset:
    """A Dataset of the normal form as a reader makes it, with gaps, companions and attributes of several kinds."""
    (folder / "source.csv").write_text("a,b\n")
    time = {"PT30M": pd.date_range("2004-02-29", periods=N, freq="30min"), "P1D": pd.date_range("2004-02-20", periods=N),
            "P1M": pd.date_range("2004-01-01", periods=N, freq="MS"), "irregular": pd.date_range("2004-01-01", periods=N, freq="7h")}[step]
    values = np.sin(np.arange(N) / 3.0)
    gaps = np.where(np.arange(N) % 7 == 3, np.nan, values)
    ds = normalise(
        {"nee": Column(gaps, "umol m-2 s-1", "Fc"), "nee_uncertainty": (np.full(N, 0.1), "umol m-2 s-1"),
         "nee_filled": (np.arange(N) % 2, "1"), "temperature": Column(values, "degC", "T"), "vpd": (np.abs(values), "kPa")},
        time, path=folder / "source.csv", site="FI-Xxx", latitude=61.85, longitude=24.29, step=step, label="start",
        title="A title", source="a source", references="Somebody (2026)", license="CC0", history=["What the reader said."])
    ds["nee"].attrs["gap_filled"] = "included, not marked"
    return ds.assign_attrs(igbp="ENF", priors=np.array([np.nan, 0.5, 17.5]), format="a format", **options)


@pytest.mark.parametrize("step", ["PT30M", "P1D", "P1M", "irregular"])
def test_round_trip_without_loss(step: str, tmp_path: Path) -> None:
    ds = made(tmp_path, step)
    ds.to_netcdf(tmp_path / "normal.nc")
    again = read(tmp_path / "normal.nc")
    assert step_of(again) == step and again.attrs["history"] == ds.attrs["history"]
    assert again.attrs["source"] == "a source; read from normal.nc" and again.attrs["sha256"] != ds.attrs["sha256"]
    own = {"source": "a source", "sha256": ds.attrs["sha256"], "format": "a format"}
    np.testing.assert_array_equal(again.attrs.pop("priors"), ds.attrs.pop("priors"))
    xr.testing.assert_identical(again.assign_attrs(own), ds)
    again.to_netcdf(tmp_path / "sub.nc")
    (tmp_path / "other").mkdir()
    (tmp_path / "sub.nc").rename(tmp_path / "other" / "normal.nc")
    assert read(tmp_path / "other" / "normal.nc").attrs["source"] == again.attrs["source"]


def test_label_in_the_original_file_is_kept(tmp_path: Path) -> None:
    ds = made(tmp_path)
    ds["time"].attrs["label_in_file"] = "end"
    ds.to_netcdf(tmp_path / "normal.nc")
    again = read(tmp_path / "normal.nc")
    assert again["time"].attrs == ds["time"].attrs and (again["time"] == ds["time"]).all()


def foreign(folder: Path, time: np.ndarray | None = None, attrs: dict | None = None, **changes: object) -> Path:
    """A CF file that somebody else has made: standard names, Kelvin, kg m-2 s-1, stamps at noon."""
    t = np.arange(N)
    ds = xr.Dataset({
        "tas": ("time", 280.0 + t / 10, {"units": "K", "standard_name": "air_temperature"}),
        "rsds": ("time", np.full(N, 200.0), {"units": "W m-2", "standard_name": "surface_downwelling_shortwave_flux_in_air"}),
        "pr": ("time", np.full(N, 1e-5), {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}),
        "vpd": ("time", np.full(N, 500.0), {"units": "Pa"}), "ta_flag": ("time", np.zeros(N), {"units": "1"})})
    ds["time"] = ("time", t + 0.5 if time is None else time, {"units": "days since 2004-02-01"} | (attrs or {}))
    ds = ds.assign({name: change for name, change in changes.items() if change is not None})
    ds.drop_vars([name for name, change in changes.items() if change is None]).to_netcdf(folder / "mine.nc")
    return folder / "mine.nc"


def test_standard_names_and_units(tmp_path: Path) -> None:
    ds = read_netcdf_normal(foreign(tmp_path, lat=((), 61.0), lon=((), 24.0)))
    assert set(ds.data_vars) == {"temperature", "shortwave", "precipitation", "vpd"} and step_of(ds) == "P1D"
    assert [float(ds[name][0]) for name in ("temperature", "shortwave", "precipitation", "vpd")] == pytest.approx([6.85, 17.28, 0.864, 5.0])
    assert str(ds["time"].values[0])[:16] == "2004-02-01T00:00" and str(ds["time"].values[28])[:10] == "2004-02-29"
    assert ds["temperature"].attrs["name_in_file"] == "tas" and ds["temperature"].attrs["units_in_file"] == "K"
    assert (float(ds["latitude"]), float(ds["longitude"]), str(ds["site"].values)) == (61.0, 24.0, "mine")
    for sentence in ("Recognised by standard names: tas as temperature, rsds as shortwave, pr as precipitation.",
                     "Left out, without a name in the normal form: ta_flag.", "the name of the file was taken, mine"):
        assert sentence in ds.attrs["history"]


def test_what_the_file_does_not_say_is_given_by_the_user(tmp_path: Path) -> None:
    ds = read(foreign(tmp_path), site="FI-Xxx", latitude=61.0)
    assert str(ds["site"].values) == "FI-Xxx" and float(ds["latitude"]) == 61.0 and np.isnan(float(ds["longitude"]))


def test_bounds_and_labels(tmp_path: Path) -> None:
    hours = np.arange(N) / 24.0
    bounds = (("time", "nv"), np.stack([hours, hours + 1 / 24], axis=1))
    ds = read_netcdf_normal(foreign(tmp_path, hours + 0.5 / 24, {"bounds": "time_bnds"}, time_bnds=bounds))
    assert step_of(ds) == "PT1H" and str(ds["time"].values[1])[:16] == "2004-02-01T01:00"
    ds = read_netcdf_normal(foreign(tmp_path, hours + 1 / 24, {"label": "end"}))
    assert str(ds["time"].values[1])[:16] == "2004-02-01T01:00" and ds["time"].attrs["label_in_file"] == "end"
    with pytest.raises(ValueError, match=says("label of `time`", "'centre'")):
        read_netcdf_normal(foreign(tmp_path, hours, {"label": "centre"}))


@pytest.mark.parametrize(("changes", "parts"), [
    ({"vpd": ("time", np.zeros(N))}, ("units attribute on 'vpd' of mine.nc", "none")),
    ({"vpd": ("time", np.zeros(N), {"units": 7})}, ("units attribute on 'vpd' of mine.nc", "7")),
    ({"vpd": ("time", np.zeros(N), {"units": "hPa \u200b"})}, ("vpd .vpd. of mine.nc in a unit that can become 'hPa'", "u200b")),
    ({"vpd": ("time", np.full(N, "x"), {"units": "hPa"})}, ("numbers in 'vpd' of mine.nc", "type")),
    ({"vpd": (("time", "z"), np.zeros((N, 3)), {"units": "hPa"})}, ("'vpd' of mine.nc along time only", "'z': 3")),
    ({"attrs": {"calendar": "360_day"}}, ("standard calendar", "'360_day'")),
    ({"attrs": {"units": "parsecs since 2004-01-01"}}, ("time stamps in mine.nc", "parsecs")),
    ({"attrs": {"units": "days since the flood"}}, ("time stamps in mine.nc", "the flood")),
    ({"lat": ((), 99.0)}, ("one latitude in degrees in mine.nc", "99")),
    ({"vpd": ("time", np.full(N, 1e6), {"units": "Pa"})}, ("vpd between 0 and 150 hPa in mine.nc", "10000 on 2004-02-01")),
])
def test_refuses(changes: dict[str, object], parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says(*parts)):
        read_netcdf_normal(foreign(tmp_path, **changes))


def test_a_step_that_the_file_claims_is_checked(tmp_path: Path) -> None:
    ds = made(tmp_path)
    for claimed in ("P1D", "PT1H"):
        ds["time"].attrs["step"] = claimed
        ds.to_netcdf(tmp_path / "normal.nc")
        with pytest.raises(ValueError, match=says("one stamp a day" if claimed == "P1D" else "stamps in steps of PT1H", "normal.nc")):
            read(tmp_path / "normal.nc")
    for odd in ("PT0M", "a while", "P99999999D"):
        ds["time"].attrs["step"] = odd
        ds.to_netcdf(tmp_path / "normal.nc")
        assert step_of(read(tmp_path / "normal.nc")) == "PT30M"


def test_a_driver_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says("co2", "mine.nc")):
        read_forcing(foreign(tmp_path, lat=((), 61.0)))


def test_nothing_of_the_normal_form(tmp_path: Path) -> None:
    xr.Dataset({"a": 1}).to_netcdf(tmp_path / "other.nc")
    with pytest.raises(ValueError, match=says("variables in other.nc with names of the normal form", "variables a")):
        read_netcdf_normal(tmp_path / "other.nc")
