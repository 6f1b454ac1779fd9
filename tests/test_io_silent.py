"""Numbers that once were wrong in silence: clocks, extremes, marks of gap-filling, spreads of temperature."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax import io

HEAD = "# site: XX-Abc\n# latitude: 50\n# longitude: -120\n"


def netcdf(path: Path, **variables) -> Path:
    """A year of days with one variable each: name -> (value, standard name, cell methods)."""
    ds = xr.Dataset({name: ("time", np.full(365, value), {"units": "K", "standard_name": standard, "cell_methods": methods})
                     for name, (value, standard, methods) in variables.items()}, attrs={"site_code": "XX-Abc"})
    ds["time"] = ("time", np.arange(365), {"units": "days since 2005-01-01"})
    ds.to_netcdf(path)
    return path


def test_cell_methods_tell_the_extremes_from_the_mean(tmp_path):
    ds = io.read(netcdf(
        tmp_path / "a.nc", tasmax=(290.0, "air_temperature", "time: maximum"), tasmin=(280.0, "air_temperature", "time: minimum"),
        tas=(284.0, "air_temperature", "time: mean")))
    found = [round(float(ds[name][0]), 2) for name in ("temperature_max", "temperature_min", "temperature")]
    assert found == [16.85, 6.85, 10.85]
    assert "local standard time was assumed" in ds.attrs["history"]


def test_two_variables_of_one_standard_name_are_refused(tmp_path):
    path = netcdf(tmp_path / "a.nc", upper=(290.0, "air_temperature", ""), lower=(280.0, "air_temperature", ""))
    with pytest.raises(ValueError, match="(?s)one variable of a.nc that is temperature.*upper and lower"):
        io.read(path)


@pytest.mark.parametrize("values", [["", "-9999"], ["-9999", ""]])
def test_a_day_without_a_mark_counts_as_filled(tmp_path, values):
    rows = [f"2005-01-{day:02d},1.0,{0.0 if day < 11 else values[day % 2]}" for day in range(1, 31)]
    (tmp_path / "a.csv").write_text(HEAD + "time,nee,nee_filled\n,gC m-2 d-1,1\n" + "\n".join(rows) + "\n")
    fluxes = io.fluxes(io.read(tmp_path / "a.csv"))
    assert int(fluxes["nee"].notnull().sum()) == 10
    assert "20 days have a value but no mark" in fluxes.attrs["history"]


def test_quality_columns_of_fluxnet_count_in_a_plain_table(tmp_path):
    times = pd.date_range("2005-01-01", periods=96, freq="30min")
    rows = [f"{time:%Y%m%d%H%M},1.0,{2 if n < 48 else 0}" for n, time in enumerate(times)]
    (tmp_path / "a.csv").write_text(
        HEAD + "TIMESTAMP_START,NEE_VUT_REF,NEE_VUT_REF_QC\n,umol m-2 s-1,-\n" + "\n".join(rows) + "\n")
    fluxes = io.fluxes(io.read(tmp_path / "a.csv"))
    np.testing.assert_allclose(fluxes["nee"], [np.nan, 1.0377504])


def test_a_spread_of_temperature_has_no_origin(tmp_path):
    (tmp_path / "a.csv").write_text(HEAD + "time,temperature,temperature_uncertainty\n,K,K\n2005-01-01,280,1\n2005-01-02,281,1.5\n")
    np.testing.assert_allclose(io.read(tmp_path / "a.csv")["temperature_uncertainty"], [1.0, 1.5])


def test_days_of_utc_are_not_put_on_days_of_local_time(tmp_path):
    def table(name, zone, column, unit):
        rows = "\n".join(f"2005-01-{day:02d},1.0" for day in range(1, 31))
        (tmp_path / name).write_text(f"{HEAD}# time_zone: {zone}\ntime,{column}\n,{unit}\n{rows}\n")
        return io.read(tmp_path / name)

    forcing = table("met.csv", "UTC", "temperature", "degC")
    flux = table("flux.csv", "local standard time", "nee", "gC m-2 d-1")
    with pytest.raises(ValueError, match="days that begin at the same time in both files"):
        io.align(forcing, flux)
