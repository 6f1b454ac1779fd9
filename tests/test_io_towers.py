"""Readers of tower data in files of models and packages: made files for what they must do, published ones for what they are."""

import numpy as np
import pandas as pd
import pytest

from landcal_jax.errors import complaint_of
from landcal_jax.io.formats import read
from landcal_jax.io.readers.delimited import light_centroid
from landcal_jax.io.readers.towers import (
    FORMATS,
    read_bigleaf,
    read_jax_canveg,
    read_peprmt,
    read_reddyproc,
    read_rsofun,
    saturation_vapour_pressure,
)
from landcal_jax.io.recognition import Head

CARBON = 1e-6 * 12.011 * 86400  # umol m-2 s-1 -> gC m-2 d-1


def refused(read, path, **options):
    with pytest.raises(ValueError) as caught:
        read(path, **options)
    text = complaint_of(caught.value)
    assert text is not None, caught.value
    return text


def write(path, frame):
    path.write_text(frame.to_csv(index=False))
    return path


def recognised(path):
    return [format.read for format in FORMATS if format.recognises(Head(path))]


# ---------------------------------------------------------------------- JAX-CanVeg


def canveg(days=10, noon=12.25, **columns):
    ends = pd.date_range("2018-07-01", periods=48 * days, freq="30min")
    hour = np.asarray(ends.hour + ends.minute / 60.0)
    return pd.DataFrame({"TIMESTAMP_END": ends.strftime("%Y-%m-%d %H:%M:%S"), "TA_F": 20.0, "eair": 1.0,
                         "SW_IN_F": np.clip(800 * np.cos((hour - noon) / 6 * np.pi / 2), 0, None) * (np.abs(hour - noon) < 6),
                         "TS_F_MDS_4": 17.0, "SWC_F_MDS_1": 0.2, "PA_F": 101.0, "LAI": 1.5, "veg_ht": 0.8} | columns)


def test_canveg_forcings(tmp_path):
    path = write(tmp_path / "US-Bi1-forcings.csv", canveg())
    ds = read_jax_canveg(path)
    assert recognised(path) == [read_jax_canveg] and ds.site.item() == "US-Bi1"
    assert ds.time.values[0] == np.datetime64("2018-06-30T23:30") and ds.time.attrs["label_in_file"] == "end"
    np.testing.assert_allclose(ds.vapour_pressure, 10.0)
    np.testing.assert_allclose(ds.vpd, 23.383 - 10.0, atol=2e-3)  # FAO 56, table 2.3: 2.338 kPa at 20 degC
    np.testing.assert_allclose(ds.soil_moisture, 0.2)
    np.testing.assert_allclose(ds.pressure, 1010.0)
    np.testing.assert_allclose(ds.soil_temperature, 17.0)
    assert "FAO 56" in ds.attrs["history"] and "on 12.25 h of the stamps, so on 12.00 h in the middle" in ds.attrs["history"]
    assert ds.temperature.attrs["gap_filled"] == "included, not marked"


def test_canveg_air_above_saturation(tmp_path):
    vapour = np.where(np.arange(480) == 5, 2.6, np.where(np.arange(480) == 6, 2.4, 1.0))  # saturation is 2.338 kPa
    ds = read_jax_canveg(write(tmp_path / "US-Me2-forcings.csv", canveg(eair=vapour)))
    assert np.isnan(ds.vpd.values[5]) and ds.vpd.values[6] == 0.0 and ds.vapour_pressure.values[5] == 26.0
    assert "1 steps with air above saturation by more than 1 hPa were masked" in ds.attrs["history"]


def test_canveg_fluxes(tmp_path):
    frame = canveg()[["TIMESTAMP_END"]].assign(P_F=0.5, LE_F_MDS=50.0, LE_MODIS=565.0, H_F_MDS=10.0, NETRAD=70.0, G_F_MDS=2.0,
                                              NEE_VUT_REF=-4.0)
    ds = read_jax_canveg(write(tmp_path / "US-Whs-fluxes.csv", frame))
    np.testing.assert_allclose(ds.precipitation, 24.0)
    np.testing.assert_allclose(ds.nee, -4.0 * CARBON)
    np.testing.assert_allclose(ds.latent_heat, 50.0)
    assert "LE_MODIS was not read" in ds.attrs["history"] and ds.nee.attrs["gap_filled"] == "included, not marked"


def test_canveg_faults(tmp_path):
    path = tmp_path / "US-Bi1-forcings.csv"
    assert "light centred on 4." in refused(read_jax_canveg, write(path, canveg(noon=4.25)))
    assert "no TA_F" in refused(read_jax_canveg, write(path, canveg().drop(columns="TA_F")))
    assert "vpd between" in refused(read_jax_canveg, write(path, canveg(eair=5.0)))
    assert "'1 July 2018'" in refused(read_jax_canveg, write(path, canveg(TIMESTAMP_END="1 July 2018")))


def test_saturation_vapour_pressure():
    np.testing.assert_allclose(saturation_vapour_pressure(np.array([0.0, 20.0, 40.0])), [6.108, 23.38, 73.75], atol=0.02)


def test_us_bi1(data_dir):
    folder = data_dir / "flux_halfhourly" / "jax_canveg"
    met, flux = (read_jax_canveg(folder / f"US-Bi1-{kind}.csv") for kind in ("forcings", "fluxes"))
    assert met.sizes["time"] == flux.sizes["time"] == 35088 and (met.time.values == flux.time.values).all()
    assert met.time.values[0] == np.datetime64("2018-06-30T23:30") and met.time.values[-1] == np.datetime64("2020-06-30T23:00")
    middle = pd.DatetimeIndex(met.time.values) + pd.Timedelta("15min")
    assert light_centroid(middle, met.shortwave.values) == pytest.approx(12.08, abs=0.01)
    assert "Light is centred on 12.33 h of the stamps" in met.attrs["history"]
    assert float(flux.nee.sum()) / 48 == pytest.approx(-615.4, abs=0.1)
    closure = (flux.latent_heat + flux.sensible_heat).sum() / (flux.net_radiation - flux.ground_heat).sum()
    assert float(closure) == pytest.approx(0.7553, abs=2e-4)
    assert float(flux.precipitation.sum()) / 48 == pytest.approx(702.5, abs=0.1)
    assert float(met.vpd.min()) > 0 and float(met.vpd.max()) < 70 and float(met.vapour_pressure.mean()) == pytest.approx(10.07, abs=0.01)


# ---------------------------------------------------------------------- bigleaf


def bigleaf(**columns):
    i = np.arange(96)
    return pd.DataFrame({"year": 2014, "month": 6, "doy": 152 + i // 48, "hour": i % 48 / 2, "Tair": 15.0, "Tair_qc": i % 4, "VPD": 0.5,
                         "pressure": 97.5, "precip": 0.25, "NEE": -3.0, "NEE_qc": np.where(i < 24, 0, 2), "GPP": -1.0, "Reco": 2.0,
                         "ustar": 0.3, "LW_up": 300.0} | columns)


def test_bigleaf(tmp_path):
    path = write(tmp_path / "DE_Tha_Jun_2014.csv", bigleaf())
    ds = read_bigleaf(path)
    assert recognised(path) == [read_bigleaf] and ds.site.item() == "DE-Tha"
    assert ds.time.values[0] == np.datetime64("2014-06-01T00:00") and ds.time.values[-1] == np.datetime64("2014-06-02T23:30")
    np.testing.assert_allclose(ds.vpd, 5.0)
    np.testing.assert_allclose(ds.pressure, 975.0)
    np.testing.assert_allclose(ds.precipitation, 12.0)
    np.testing.assert_allclose(ds.gpp, -CARBON)
    np.testing.assert_allclose(ds.nee_filled.mean(), 0.75)
    np.testing.assert_allclose(ds.temperature_filled[:4], [0, 1, 1, 1])
    assert "gpp can be negative" in ds.attrs["history"] and "Columns that are not read: LW_up." in ds.attrs["history"]


def test_bigleaf_faults(tmp_path):
    path = tmp_path / "DE_Tha_Jun_2014.csv"
    assert "month 7 and doy 152" in refused(read_bigleaf, write(path, bigleaf(month=7)))
    assert "NEE_qc 0, 1, 2 or 3" in refused(read_bigleaf, write(path, bigleaf(NEE_qc=5)))
    assert "day of the year" in refused(read_bigleaf, write(path, bigleaf(hour=25.0)))


def test_de_tha(data_dir):
    ds = read_bigleaf(data_dir / "flux_halfhourly" / "bigleaf" / "derived" / "DE_Tha_Jun_2014.csv")
    assert ds.sizes["time"] == 1440 and ds.time.values[0] == np.datetime64("2014-06-01T00:00") and ds.site.item() == "DE-Tha"
    closure = (ds.latent_heat + ds.sensible_heat).sum() / (ds.net_radiation - ds.ground_heat).sum()
    assert float(closure) == pytest.approx(0.703, abs=5e-4)
    assert float(ds.nee_filled.mean()) == pytest.approx(0.408, abs=0.01)
    assert float(ds.nee.mean()) == pytest.approx(-4.918047 * CARBON, rel=1e-5)
    assert int(ds.ppfd.isnull().sum()) == 1 and int(ds.friction_velocity.isnull().sum()) == 19
    assert light_centroid(pd.DatetimeIndex(ds.time.values) + pd.Timedelta("15min"), ds.ppfd.values) == pytest.approx(12.05, abs=0.01)


# ---------------------------------------------------------------------- REddyProc


def reddyproc(end="\r", units="umolm-2s-1", days=365):
    n = 48 * days
    ends = pd.date_range("1998-01-01 00:30", periods=n, freq="30min")
    doy, hour = np.asarray(ends.day_of_year), np.asarray(ends.hour + ends.minute / 60)
    doy = np.where(ends.year == 1999, 366, doy)
    lines = ["Year\tDoY\tHour\tNEE\tLE\tTair\trH\tVPD\tUstar", f"-\t-\t-\t{units}\tWm-2\tdegC\t%\thPa\tms-1"]
    lines += [f"1998\t{doy[i]}\t{hour[i]:g}\t{-9999 if i == 3 else -1.5}\t20\t5\t85\t1.2\t0.4" for i in range(n)]
    return (end.join(lines) + end).encode()


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_reddyproc(tmp_path, end):
    path = tmp_path / "Example_DETha98.txt"
    path.write_bytes(reddyproc(end))
    ds = read_reddyproc(path)
    assert recognised(path) == [read_reddyproc] and ds.site.item() == "DE-Tha"
    assert ds.sizes["time"] == 17520 and ds.time.values[0] == np.datetime64("1998-01-01T00:00")
    assert ds.time.values[-1] == np.datetime64("1998-12-31T23:30")
    assert np.isnan(ds.nee.values[3]) and int(ds.nee.isnull().sum()) == 1
    np.testing.assert_allclose(ds.nee.values[4], -1.5 * CARBON)
    np.testing.assert_allclose(ds.relative_humidity, 0.85)
    assert "1 rows on day 366 of a common year" in ds.attrs["history"]


def test_reddyproc_hour_24_and_unit(tmp_path):
    path = tmp_path / "tower.txt"
    path.write_bytes(reddyproc("\n", days=2).replace(b"1998\t2\t0\t", b"1998\t1\t24\t"))
    assert read_reddyproc(path).time.values[47] == np.datetime64("1998-01-01T23:30")
    path.write_bytes(reddyproc("\n", units="furlong", days=2))
    assert "'furlong'" in refused(read_reddyproc, path)


# ---------------------------------------------------------------------- rsofun


def test_rsofun(tmp_path):
    folder = tmp_path / "rsofun_FR-Pue"
    folder.mkdir()
    days = pd.date_range("2008-02-27", "2008-03-02")
    days = days[~((days.month == 2) & (days.day == 29))].strftime("%Y-%m-%d")
    path = write(folder / "p_model_drivers_forcing.csv", pd.DataFrame({
        "date": days, "temp": 10.0, "vpd": 500.0, "ppfd": 4e-4, "patm": 98000.0, "snow": 1e-5, "rain": 2e-5, "tmin": 5.0, "tmax": 15.0,
        "fapar": 0.6, "co2": 385.0, "ccov": 0}))
    assert np.isnan(read_rsofun(path).latitude)
    table = write(folder / "p_model_drivers_site_info.csv", pd.DataFrame({"lon": [3.6], "lat": [43.7], "elv": [270], "whc": [432.4]}))
    ds = read_rsofun(path)
    assert ds.site.item() == "FR-Pue" and ds.latitude.item() == 43.7 and ds.longitude.item() == 3.6
    np.testing.assert_allclose(ds.vpd, 5.0)
    np.testing.assert_allclose(ds.ppfd, 400.0)
    np.testing.assert_allclose(ds.pressure, 980.0)
    np.testing.assert_allclose([ds.rainfall[0], ds.snowfall[0], ds.precipitation[0]], [1.728, 0.864, 2.592])
    assert "29 February is absent from the file in 2008." in ds.attrs["history"] and "1 steps between" in ds.attrs["history"]
    sites = read_rsofun(table)
    assert sites.attrs["kind"] == "table" and sites.elv.attrs["units"] == "m" and sites.whc.item() == 432.4
    assert recognised(path) == recognised(table) == [read_rsofun]
    flags = folder / "p_model_drivers_params_siml.csv"
    flags.write_text("spinup,spinupyears,recycle,ltre\nTRUE,10,1,FALSE\n")
    assert (read_rsofun(flags).spinup.item(), read_rsofun(flags).spinupyears.item(), read_rsofun(flags).ltre.item()) == (1.0, 10.0, 0.0)
    flags.write_text("spinup,spinupyears,recycle,ltre\nTRUE,ten,1,FALSE\n")
    assert "'ten' in column spinupyears, line 2" in refused(read_rsofun, flags)


def test_rsofun_validation_of_two_sites(tmp_path):
    frame = pd.DataFrame({"sitename": ["FR-Pue", "FR-Pue"], "date": ["2007-01-01", "2007-01-02"], "gpp": [2.0, None], "gpp_unc": 0.1})
    ds = read_rsofun(write(tmp_path / "validation.csv", frame))
    assert ds.gpp.values[0] == 2.0 and np.isnan(ds.gpp.values[1]) and ds.gpp_uncertainty.values.tolist() == [0.1, 0.1]
    assert "FR-Pue, NL-Loo" in refused(read_rsofun, write(tmp_path / "two.csv", frame.assign(sitename=["FR-Pue", "NL-Loo"])))


def test_fr_pue(data_dir):
    folder = data_dir / "flux_daily" / "rsofun_FR-Pue"
    ds, gpp = read_rsofun(folder / "p_model_drivers_forcing.csv"), read_rsofun(folder / "p_model_validation.csv")
    assert ds.sizes["time"] == gpp.sizes["time"] == 2190 and ds.site.item() == gpp.site.item() == "FR-Pue"
    assert "29 February is absent from the file in 2008, 2012." in ds.attrs["history"]
    assert float(ds.vpd.mean()) == pytest.approx(8.2228, abs=1e-3) and float(ds.ppfd.max()) == pytest.approx(762, abs=1)
    assert float(gpp.gpp.notnull().mean()) == pytest.approx(0.826, abs=1e-3)
    assert float(gpp.gpp_uncertainty.median()) == pytest.approx(0.022, abs=1e-3)
    assert ds.latitude.item() == 43.7413 and ds.longitude.item() == 3.5957


# ---------------------------------------------------------------------- PEPRMT


def peprmt(**columns):
    n = 6
    return pd.DataFrame({"DOY": np.arange(n), "DOY_disc": [364, 365, 1, 1, 2, 3], "Year": [2017] * 2 + [2018] * 4, "TA_C": 12.0,
                         "WTD_cm": [-10.0, 0, 10, 1, 2, 30], "PAR_umol_m2_day": 400.0, "LAI": np.nan, "EVI": 0.2,
                         "Salinity_daily_ave_ppt": 30.0, "CO2_gC_m2_day": [1.0] * 3 + [np.nan] * 3, "GPP_gC_m2_day": -3.0,
                         "Reco_gC_m2_day": 2.0, "CH4_gC_m2_day": 0.01, "site_char": ["US_EDN"] * 3 + ["US_LA1"] * 3} | columns)


def test_peprmt(tmp_path):
    path = write(tmp_path / "All_sites_master.csv", peprmt())
    assert recognised(path) == [read_peprmt]
    table = read_peprmt(path)
    assert table.attrs["kind"] == "table" and table.sizes["row"] == 6 and table.nee.attrs["units"] == "gC m-2 d-1"
    assert table.site.values.tolist() == ["US_EDN"] * 3 + ["US_LA1"] * 3 and 'site="US_EDN"' in table.attrs["history"]
    np.testing.assert_allclose(table.water_table[:3], [-0.1, 0.0, 0.1])
    ds = read_peprmt(path, site="US-EDN")
    assert ds.site.item() == "US-EDN"
    assert ds.time.values[0] == np.datetime64("2017-12-30") and ds.time.values[2] == np.datetime64("2018-01-01")
    np.testing.assert_allclose(ds.gpp, 3.0)
    np.testing.assert_allclose(ds.nee, 1.0)
    np.testing.assert_allclose(ds.ppfd, 400.0)
    assert "lai" not in ds and "this is US_EDN" in ds.attrs["history"] and ds.nee.attrs["gap_filled"]
    other = read_peprmt(path, site="us_la1")
    assert "nee" not in other and "nee (CO2_gC_m2_day) holds no values" in other.attrs["history"]
    assert "US_EDN, US_LA1" in refused(read_peprmt, path, site="US_SRR")


def test_read_selects_a_site(tmp_path):
    path = write(tmp_path / "All_sites_master.csv", peprmt())
    assert read(path).attrs["kind"] == "table"
    ds = read(path, site="US_EDN", latitude=37.6)
    assert ds.site.item() == "US-EDN" and ds.latitude.item() == 37.6 and ds.attrs["format"] == "PEPRMT CSV"
    assert "latitude was given by the user as 37.6" in ds.attrs["history"]
    assert "a series at one site" in refused(read, path, latitude=37.6)


def test_peprmt_odd_values(tmp_path):
    frame = peprmt(site_char="US_STJ", DOY_disc=np.arange(1, 7), Year=2018, WTD_cm=[-0.3, -0.2, -0.1, 0.0, 0.1, 0.2],
                   PAR_umol_m2_day=[400, 1600, 400, 400, 400, 400.0])
    ds = read_peprmt(write(tmp_path / "one.csv", frame))  # one site needs no name
    assert ds.site.item() == "US-STJ" and np.isnan(ds.ppfd.values[1]) and int(ds.ppfd.isnull().sum()) == 1
    assert "1 daily means above 1000" in ds.attrs["history"] and "as if it were in m" in ds.attrs["history"]


def test_tidal_marshes(data_dir):
    path = data_dir / "ch4" / "peprmt_tidal" / "All_sites_master.csv"
    assert read_peprmt(path).sizes["row"] == 4593
    days = {"US_EDN": 1217, "US_LA1": 426, "US_PLM": 200, "US_SRR": 1654, "US_STJ": 1096}
    read = {site: read_peprmt(path, site=site) for site in days}
    assert {site: ds.sizes["time"] for site, ds in read.items()} == days
    assert {site for site, ds in read.items() if "nee" not in ds} == {"US_LA1", "US_PLM"}
    assert int(read["US_EDN"].ppfd.isnull().sum()) == 7 and read["US_EDN"].time.values[0] == np.datetime64("2018-02-16")
    assert float(read["US_STJ"].methane.max()) == pytest.approx(0.3209, abs=1e-3)
    assert "as if it were in m" in read["US_STJ"].attrs["history"]
    assert float(read["US_SRR"].gpp.mean()) > 0
