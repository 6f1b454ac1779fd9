"""PLUMBER2 / ALMA Met and Flux files: names, units, flags, signs, and what is refused. Files are made here with the names and
attributes that FluxnetLSM writes."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from landcal_jax.io import fluxes, read, read_plumber2
from landcal_jax.io.normal import step_of

DAYS, N = 4, 4 * 48
MOLE = 1e-6 * 12.011 * 86400  # gC m-2 d-1 in one umol m-2 s-1


def says(*parts: str) -> str:
    """A pattern for pytest.raises: the three lines of an error, with these parts in this order."""
    return "(?s)Expected: .*" + ".*".join(parts) + ".*Try: "


def alma(variables: dict[str, tuple[object, str]], step: int = 1800, **attrs: object) -> xr.Dataset:
    """A Dataset along (time, y, x) with what FluxnetLSM writes around the variables; `variables`: name -> (values, units)."""
    ds = xr.Dataset()
    for name, (values, units) in variables.items():
        values = np.broadcast_to(np.asarray(values, dtype=float), (N,))
        ds[name] = (("time", "y", "x"), values[:, None, None].copy(), {"units": units, "long_name": name})
    ds["time"] = ("time", float(step) * np.arange(N), {
        "units": "seconds since 2004-02-28 00:00:00", "calendar": "standard", "info": "Time stamp indicates start time",
        "time_zone": "Europe/Helsinki", "standard_name": "time"})
    for name, value, units in (("latitude", 61.85, "degrees_north"), ("longitude", 24.29, "degrees_east"), ("elevation", 181.0, "m"),
                               ("canopy_height", 14.0, "m"), ("reference_height", 23.0, "m")):
        ds[name] = (("y", "x"), [[value]], {"units": units})
    ds["IGBP_veg_short"] = ("nchar", np.array(list("ENF".ljust(200)), "S1"), {"units": "-"})
    ds.attrs = {"site_code": "FI-Xxx", "site_name": "Nowhere", "country": "Finland", "QC_flag_descriptions":
                "Measured: 0, Good-quality gapfilling: 1, Medium-quality gapfilling: 2, Poor-quality gapfilling: 3, "
                "ERA-Interim gapfilling: 4, Statistical gapfilling: 5, Post-processed: 101"} | attrs
    return ds


SUN = np.clip(np.sin(2 * np.pi * (np.arange(N) % 48 - 12) / 48), 0, None)
FLAGS = np.concatenate([[0, 1, 3, 5, 101], np.zeros(N - 5)])


def met(**changes: tuple[object, str] | None) -> xr.Dataset:
    variables = {
        "Tair": (280.15 + 5 * SUN, "K"), "Tair_qc": (FLAGS, "-"), "Qair": (0.005, "kg/kg"), "Wind": (3.0, "m/s"), "Psurf": (98500.0, "Pa"),
        "SWdown": (800 * SUN, "W/m2"), "SWdown_qc": (0, "-"), "LWdown": (300.0, "W/m2"), "Precip": (1e-4, "kg/m2/s"),
        "CO2air": (380.0, "ppm"),
        "VPD": (4.0, "hPa"), "RH": (60.0, "%"), "LAI": (2.5, "-"), "LAI_alternative": (3.0, "-")}
    return alma({name: value for name, value in (variables | changes).items() if value is not None})


def flux(**changes: tuple[object, str] | None) -> xr.Dataset:
    variables = {
        "NEE": (3.0 - 20 * SUN, "umol/m2/s"), "NEE_qc": (FLAGS, "-"), "NEE_uc": (np.where(np.arange(N) == 7, -9999, 1.5), "umol/m2/s"),
        "NEE_uc_qc": (FLAGS, "-"), "GPP": (20 * SUN, "umol/m2/s"), "GPP_se": (0.5, "umol/m2/s"), "GPP_DT": (21 * SUN, "umol/m2/s"),
        "Resp": (3.0, "umol/m2/s"), "Qle": (10 + 200 * SUN, "W/m2"), "Qle_qc": (0, "-"), "Qle_cor": (12 + 240 * SUN, "W/m2"),
        "Qle_cor_uc": (20.0, "W/m2"), "Qh": (-20 + 150 * SUN, "W/m2"), "Qh_qc": (2, "-"), "Qh_cor": (-24 + 180 * SUN, "W/m2"),
        "Qh_cor_uc": (15.0, "W/m2"), "Rnet": (-50 + 500 * SUN, "W/m2"), "Qg": (5.0, "W/m2"), "Ustar": (0.4, "m/s")}
    ds = alma({name: value for name, value in (variables | changes).items() if value is not None})
    if "NEE" in ds:
        ds["NEE"].attrs["standard_name"] = "surface_net_downward_mass_flux_of_carbon_dioxide_expressed_as_carbon"
    return ds


def written(ds: xr.Dataset, folder: Path, name: str = "FI-Xxx_2004-2004_FLUXNET2015_Flux.nc") -> Path:
    ds.to_netcdf(folder / name, encoding={each: {"_FillValue": -9999.0} for each in ds.data_vars if ds[each].dtype.kind == "f"})
    return folder / name


def test_met(tmp_path: Path) -> None:
    ds = read(written(met(), tmp_path, "FI-Xxx_2004-2004_FLUXNET2015_Met.nc"))
    assert step_of(ds) == "PT30M" and str(ds["time"].values[0]) == "2004-02-28T00:00:00.000000000" and ds.sizes["time"] == N
    assert str(ds["time"].values[48])[:10] == "2004-02-29" and str(ds["time"].values[96])[:10] == "2004-03-01"
    assert ds["time"].attrs["time_zone"] == "local standard time" and ds["time"].attrs["label_in_file"] == "start"
    assert (str(ds["site"].values), float(ds["latitude"]), float(ds["longitude"])) == ("FI-Xxx", 61.85, 24.29)
    first = {name: float(ds[name][24]) for name in ds.data_vars if not str(name).endswith("_filled")}
    assert first == pytest.approx({
        "temperature": 12.0, "specific_humidity": 0.005, "wind_speed": 3.0, "pressure": 985.0, "shortwave": 800 * 0.0864, "longwave": 300.0,
        "precipitation": 8.64, "co2": 380.0, "vpd": 4.0, "relative_humidity": 0.6, "lai": 2.5})
    assert ds["temperature_filled"].values[:6].tolist() == [0, 1, 1, 1, 1, 0] and float(ds["shortwave_filled"].max()) == 0.0
    assert "vpd_filled" not in ds
    history = ds.attrs["history"]
    assert "temperature: 188 measured, 1 well filled, 1 poorly filled, 1 statistically filled, 1 post-processed (Tair_qc)." in history
    assert "Left out: LAI_alternative." in history
    assert ds.attrs["igbp"] == "ENF" and ds.attrs["canopy_height"] == 14.0 and ds.attrs["time_zone_of_place"] == "Europe/Helsinki"


def test_flux(tmp_path: Path) -> None:
    ds = read(written(flux(), tmp_path))
    assert float(ds["nee"][0]) == pytest.approx(3.0 * MOLE) and float(ds["nee_uncertainty"][0]) == pytest.approx(1.5 * MOLE)
    assert np.isnan(ds["nee_uncertainty"].values[7]) and ds["nee_filled"].values[:6].tolist() == [0, 1, 1, 1, 1, 0]
    assert float(ds["gpp_uncertainty"][0]) == pytest.approx(0.5 * MOLE) and float(ds["reco"][0]) == pytest.approx(3.0 * MOLE)
    assert float(ds["latent_heat"][24]) == 210.0 and float(ds["latent_heat_uncertainty"][0]) == 20.0
    assert float(ds["sensible_heat"][0]) == -20.0 and float(ds["sensible_heat_filled"].min()) == 1.0
    assert float(ds["net_radiation"][24]) == 450.0 and float(ds["ground_heat"][0]) == 5.0 and float(ds["friction_velocity"][0]) == 0.4
    history = ds.attrs["history"]
    for sentence in ("latent_heat_uncertainty is Qle_cor_uc, that of the flux closed to the energy balance", "says downward; that is wrong",
                     "sensible_heat is positive to the atmosphere", "Left out: NEE_uc_qc, GPP_DT, Qle_cor, Qh_cor."):
        assert sentence in history
    assert "standard_name" not in ds["nee"].attrs


def test_flux_closed_to_the_energy_balance(tmp_path: Path) -> None:
    ds = read_plumber2(written(flux(), tmp_path), corrected=True)
    assert float(ds["latent_heat"][24]) == 252.0 and float(ds["latent_heat_uncertainty"][0]) == 20.0 and "latent_heat_filled" in ds
    assert "that of the flux closed" not in ds.attrs["history"] and "Left out: NEE_uc_qc, GPP_DT, Qle, Qh." in ds.attrs["history"]
    only = read_plumber2(written(flux(Qle=None), tmp_path))
    assert float(only["latent_heat"][24]) == 252.0 and "latent_heat is Qle_cor, closed to the energy balance" in only.attrs["history"]
    with pytest.raises(ValueError, match=says("variable 'Qle_cor' in FI-Xxx", "only 'Qle'")):
        read_plumber2(written(flux(Qle_cor=None), tmp_path), corrected=True)


def test_daily_by_the_rule_of_callmip(tmp_path: Path) -> None:
    """A day with more than a quarter of its half-hours filled is void; the others are means of the rate."""
    flags = np.where(np.arange(N) < 13, 1, 0)
    ds = fluxes(read(written(flux(NEE_qc=(flags, "-")), tmp_path)))
    assert step_of(ds) == "P1D" and ds.sizes["time"] == DAYS
    assert np.isnan(ds["nee"].values[0]) and ds["nee"].values[1] == pytest.approx((3.0 - 20 * SUN[:48].mean()) * MOLE)
    assert np.isnan(ds["sensible_heat"]).all() and ds["latent_heat"].values[0] == pytest.approx(10 + 200 * SUN[:48].mean())


def test_a_missing_value_is_neither_measured_nor_filled(tmp_path: Path) -> None:
    nee = np.where(np.arange(N) == 3, -9999.0, 3.0 - 20 * SUN)
    flags = np.where(np.arange(N) == 9, -9999.0, 0.0)
    ds = read_plumber2(written(flux(NEE=(nee, "umol/m2/s"), NEE_qc=(flags, "-")), tmp_path))
    assert np.isnan(ds["nee"].values[3]) and np.isnan(ds["nee_filled"].values[3]) and ds["nee_filled"].values[9] == 1.0
    assert "nee: 1 values without a flag were taken as filled." in ds.attrs["history"]
    ds = read_plumber2(written(flux(NEE_qc=(-9999.0, "-")), tmp_path))
    assert "nee_filled" not in ds and "NEE_qc has no value, so that filled steps are not known" in ds.attrs["history"]


def test_rain_and_snow(tmp_path: Path) -> None:
    old = read_plumber2(written(met(Precip=None, Rainf=(1e-4, "kg/m2/s")), tmp_path))
    assert float(old["precipitation"][0]) == pytest.approx(8.64) and "rain and snow together" in old.attrs["history"]
    both = read_plumber2(written(met(Precip=None, Rainf=(1e-4, "kg/m2/s"), Snowf=(2e-4, "kg/m2/s")), tmp_path))
    assert "precipitation" not in both and float(both["rainfall"][0] + both["snowfall"][0]) == pytest.approx(25.92)


def test_hourly_files_and_end_labels(tmp_path: Path) -> None:
    ds = met()
    ds["time"] = ("time", 3600.0 * np.arange(1, N + 1), ds["time"].attrs | {"info": "Time stamp indicates end time"})
    hourly = read_plumber2(written(ds, tmp_path))
    assert step_of(hourly) == "PT1H" and str(hourly["time"].values[0])[:16] == "2004-02-28T00:00"
    assert "The stamps of the file are the end of each step" in hourly.attrs["history"]


@pytest.mark.parametrize(("made", "parts"), [
    (lambda: flux(NEE=(-3.0 + 20 * SUN, "umol/m2/s")), ("NEE of FI-Xxx.* positive to the atmosphere", "as if uptake were positive")),
    (lambda: flux(Qle=(-10 - 200 * SUN, "W/m2"), NEE=None), ("Qle of FI-Xxx.* positive to the atmosphere", "a mean of -73.* W m-2")),
    (lambda: flux(Qh=(20 - 150 * SUN, "W/m2")), ("Qh of FI-Xxx.* rising with Rnet", "correlation of -1.00")),
    (lambda: flux(NEE_qc=(0.75, "-")), ("flags 0, 1, 2, 3, 4, 5, 101 in NEE_qc", "0.75")),
    (lambda: flux(NEE=(3.0 - 20 * SUN, "kg/m2/s")), ("nee .NEE. of FI-Xxx", "kg/m2/s")),
    (lambda: met(Tair=(12.0, "K")), ("temperature between -95 and 60", "-261.15")),
    (lambda: met(SWdown=(3000 * SUN, "W/m2")), ("shortwave between 0 and 140", "2004-02-28 0")),
    (lambda: alma({"Tair": (280.0, "K"), "SWdown": (0.0, "W/m2")}).isel(y=[0, 0]), ("'Tair' of FI-Xxx.* one site a file", "'y': 2")),
    (lambda: alma({"Albedo": (0.2, "-")}), ("ALMA variables such as Tair", "Albedo")),
    (lambda: met().isel(time=np.r_[0:40, 39:N]), ("increasing time stamps", "2004-02-28 19:30:00 twice")),
    (lambda: met().isel(time=np.arange(N)[::-1]), ("increasing time stamps", "after 2004-03-02 23:30")),
])
def test_refuses(made, parts: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says(*parts)):
        read_plumber2(written(made(), tmp_path))


@pytest.mark.parametrize(("info", "label"), [
    ("Time stamp indicates start time", "start"), ("time in the standard calendar", "start"), ("Time stamp is the END of the step", "end"),
    ("stamps the middle of the averaging period", "middle"), ("weekend and legend", "start")])
def test_the_label_is_found_by_words(tmp_path: Path, info: str, label: str) -> None:
    ds = alma({"Tair": (280.0, "K"), "SWdown": (100.0, "W/m2")})
    ds["time"].attrs["info"] = info
    ds.to_netcdf(tmp_path / "FI-Xxx_Met.nc")
    read_in = read_plumber2(tmp_path / "FI-Xxx_Met.nc")
    assert read_in["time"].attrs["label_in_file"] == label
    ahead = {"start": 0, "middle": 15, "end": 30}[label]
    assert read_in["time"].values[0] == np.datetime64("2004-02-28") - np.timedelta64(ahead, "m")


def test_a_sentence_on_start_and_end_is_the_start_and_said(tmp_path: Path) -> None:
    ds = alma({"Tair": (280.0, "K"), "SWdown": (100.0, "W/m2")})
    ds["time"].attrs["info"] = "start of the step, not its end"
    ds.to_netcdf(tmp_path / "FI-Xxx_Met.nc")
    made = read_plumber2(tmp_path / "FI-Xxx_Met.nc")
    assert made["time"].attrs["label_in_file"] == "start" and "speaks of start and of end" in made.attrs["history"]


@pytest.mark.parametrize(("zone", "clock"), [("UTC", "UTC"), ("UTC+2", "UTC+2"), ("Europe/Helsinki", "local standard time")])
def test_the_clock_of_the_file(tmp_path: Path, zone: str, clock: str) -> None:
    ds = alma({"Tair": (280.0, "K"), "SWdown": (100.0, "W/m2")})
    ds["time"].attrs["time_zone"] = zone
    ds.to_netcdf(tmp_path / "FI-Xxx_Met.nc")
    made = read_plumber2(tmp_path / "FI-Xxx_Met.nc")
    assert made["time"].attrs["time_zone"] == clock and made.attrs["time_zone_of_place"] == zone
