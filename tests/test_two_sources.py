"""The same towers from two sources, CalLMIP and DifferLand, and every CalLMIP file: real numbers agree or are corrected.

Slopes are of ordinary least squares with an intercept, CalLMIP (y) on DifferLand (x), over days on which both have a value. Both
are daily sums or means of half-hours of FLUXNET2015, so that most days are the same number and neither has an error of its
own. Two constants stand between them: CalLMIP takes 12 g mol-1 of carbon (12.011: slope 0.99908), and DifferLand made
evapotranspiration from latent heat with 2.4417 MJ kg-1, which `fluxes` undoes with the same number. At RU-Fyo a sixth of the days of NEE
comes from another processing (up to 0.9 gC m-2 d-1 apart), hence r = 0.9985 there and more than 0.999 elsewhere.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from landcal_jax.io import fluxes, read, read_callmip, read_differland

CARBON = 12.0 / 12.011
SITES = {  # file of CalLMIP, common days of NEE and of latent heat, least r of NEE
    "FI-Hyy": ("FI-Hyy_daily_aggregated_1996-2014", 523, 1586, 0.999),
    "FR-Pue": ("FR-Pue_daily_aggregated_2000-2014", 632, 1518, 0.999),
    "NL-Loo": ("NL-Loo_daily_aggregated_1997-2013", 527, 2306, 0.999),
    "RU-Fyo": ("RU-Fyo_daily_aggregated_2003-2014", 689, 2627, 0.998),
    "US-SRG": ("US-SRG_daily_aggregated_2009-2014", 690, 1920, 0.999),
}


def both(site: str, name: str, data_dir: Path) -> tuple[np.ndarray, np.ndarray]:
    """Values of DifferLand and of CalLMIP on the days that both have."""
    folder = data_dir / "flux_daily"
    ours = read_callmip(folder / "callmip_phase1" / f"{SITES[site][0]}_FLUXNET2015_Flux.nc")
    theirs = read_differland(folder / "differland" / f"{site}.nc")
    ours, theirs = xr.align(ours[name], fluxes(theirs)[name], join="inner")
    common = np.isfinite(ours.values) & np.isfinite(theirs.values)
    return theirs.values[common], ours.values[common]


@pytest.mark.parametrize("site", SITES)
def test_nee_agrees(site: str, data_dir: Path) -> None:
    x, y = both(site, "nee", data_dir)
    _, days, _, least = SITES[site]
    assert x.size == days
    assert np.polyfit(x, y, 1)[0] == pytest.approx(1.0, abs=0.005)
    assert np.corrcoef(x, y)[0, 1] > least
    # Day by day: half of the days or more are the same number, but for the molar mass of carbon.
    assert np.median(y[np.abs(x) > 0.5] / x[np.abs(x) > 0.5]) == pytest.approx(CARBON, abs=2e-3)


@pytest.mark.parametrize("site", SITES)
def test_latent_heat_agrees(site: str, data_dir: Path) -> None:
    x, y = both(site, "latent_heat", data_dir)
    assert x.size == SITES[site][2]
    assert np.polyfit(x, y, 1)[0] == pytest.approx(1.0, abs=2e-4)
    assert np.corrcoef(x, y)[0, 1] > 0.999
    assert np.median(y[x > 20] / x[x > 20]) == pytest.approx(1.0, abs=5e-5)


# --- every file of CalLMIP ---

# Site, first day, days, and days with NEE, latent heat, sensible heat, all three; literature.md 3.5 counts the same.
CALLMIP = [
    ("AU-How", "2003-01-01", 4383, (201, 2140, 2168, 132)), ("CH-Dav", "1997-01-01", 6574, (91, 2846, 3683, 65)),
    ("DE-Gri", "2004-01-01", 4018, (1076, 3052, 3506, 1024)), ("DE-Tha", "1998-01-01", 6209, (1649, 5720, 5573, 1484)),
    ("DK-Sor", "1997-01-01", 6574, (3051, 3126, 3267, 1661)), ("FI-Hyy", "1996-01-01", 6940, (1296, 1763, 1823, 407)),
    ("FR-Pue", "2000-01-01", 5479, (1006, 2205, 1461, 517)), ("IT-MBo", "2003-01-01", 3653, (362, 1487, 1806, 322)),
    ("IT-Noe", "2004-01-01", 4018, (289, 1365, 1524, 288)), ("NL-Loo", "1997-01-01", 6209, (1087, 3794, 4990, 888)),
    ("RU-Fyo", "2003-01-01", 4383, (959, 3282, 3646, 823)), ("US-SRG", "2009-01-01", 2191, (690, 1951, 2124, 656)),
    ("US-SRM", "2004-01-01", 4018, (637, 3532, 3881, 618)), ("US-Whs", "2008-01-01", 2557, (508, 2326, 2481, 505)),
    ("US-Wkg", "2005-01-01", 3652, (302, 3102, 3426, 298)),
]


def test_every_callmip_file(data_dir: Path) -> None:
    files = {file.name[:6]: file for file in sorted((data_dir / "flux_daily/callmip_phase1").glob("*.nc"))}
    assert sorted(files) == [site for site, *_ in CALLMIP]
    for site, first, days, counts in CALLMIP:
        ds = read(files[site])
        there = [ds[name].notnull() for name in ("nee", "latent_heat", "sensible_heat")]
        assert (str(ds["site"].values), str(ds["time"].values[0])[:10], ds.sizes["time"]) == (site, first, days)
        assert tuple(int(each.sum()) for each in (*there, there[0] & there[1] & there[2])) == counts, site
        assert "nee is positive to the atmosphere" in ds.attrs["history"] and "multiplied by 2" not in ds.attrs["history"]
        assert (ds["nee_uncertainty"].notnull() == ds["nee"].notnull()).all()


def test_both_phases_of_dk_sor_are_equal(data_dir: Path) -> None:
    folder = data_dir / "flux_daily/callmip_phase1"
    early = read_callmip(folder / "phase1a/DK-Sor_daily_aggregated_1997-2013_FLUXNET2015_Flux.nc")
    whole = read_callmip(folder / "DK-Sor_daily_aggregated_1997-2014_FLUXNET2015_Flux.nc")
    assert (early.sizes["time"], whole.sizes["time"]) == (6209, 6574)
    xr.testing.assert_equal(early, whole.sel(time=early["time"]))
    assert early.attrs["PFT_fraction"].startswith("80% broadleaved")


# --- the factor of two of US-MMS, on a tower made here ---


def aggregated(folder: Path, hours: float) -> Path:
    """What CalLMIP's script makes of a tower that records every `hours`: sums of NEE with 1800 s a step, whatever the step is."""
    steps, days = int(24 / hours), 120
    sun = np.clip(np.sin(2 * np.pi * (np.arange(steps) / steps - 0.25)), 0, None)
    season = 1.0 + 0.5 * np.sin(2 * np.pi * np.arange(days) / days)
    nee, heat = 3.0 - 20.0 * season[:, None] * sun, 10.0 + 200.0 * season[:, None] * sun
    folder_and_step = ("Hourly_qc_fixed", "HR") if hours == 1 else ("Halfhourly_qc_fixed", "HH")
    source = "{}/FLX_US-Xxx_FLUXNET2015_FULLSET_{}_1999".format(*folder_and_step)
    ds = xr.Dataset({"NEE_daily": ("time", (nee * 1e-6 * 12 * 1800).sum(axis=1), {"units": "gC/m2/d"}),
                     "NEE_uc_daily": ("time", np.full(days, np.sqrt(steps) * 2.0 * 1e-6 * 12 * 1800), {"units": "gC/m2/d"})})
    for name in ("Qle", "Qh"):
        ds[f"{name}_daily"] = ("time", heat.mean(axis=1), {"units": "W/m2"})
        ds[f"{name}_uc_daily"] = ("time", np.full(days, 5.0), {"units": "W/m2"})
    ds["time"] = ("time", 86400.0 * np.arange(days), {"units": "seconds since 1999-01-01 00:00:00", "calendar": "standard"})
    ds["latitude"], ds["longitude"] = ("y", [39.3]), ("x", [-86.4])
    ds.attrs = {"site_code": "US-Xxx", "Input_file": f"/srv/Original_data/{source}-2014_1-3.csv",
                "scaling_factor_NEE": "umolCO2/m2/s -> 1e-6 * 12 * 1800 gC/m2/half-hour -> half-hourly summed to daily"}
    ds.to_netcdf(folder / f"US-Xxx_{hours:g}h.nc")
    return folder / f"US-Xxx_{hours:g}h.nc"


def test_an_hourly_record_summed_as_half_hours_is_doubled(tmp_path: Path) -> None:
    hourly, half = read_callmip(aggregated(tmp_path, 1)), read_callmip(aggregated(tmp_path, 0.5))
    raw = xr.open_dataset(tmp_path / "US-Xxx_1h.nc")["NEE_daily"].values
    slope = np.polyfit(half["nee"].values, raw, 1)[0]
    assert slope == pytest.approx(0.5, abs=0.003), "the fault, as it stands in the file"
    assert np.polyfit(half["nee"].values, hourly["nee"].values, 1)[0] == pytest.approx(1.0, abs=0.005)
    np.testing.assert_allclose(hourly["nee"].values, 2.0 * raw)
    np.testing.assert_allclose(hourly["nee_uncertainty"] / half["nee_uncertainty"], np.sqrt(2))  # 24 steps of two half-hours each
    np.testing.assert_allclose(hourly["latent_heat"], half["latent_heat"], rtol=0.01)
    assert "nee and nee_uncertainty were multiplied by 2" in hourly.attrs["history"] and "multiplied" not in half.attrs["history"]
    assert list(hourly.indexes["time"]) == list(pd.date_range("1999-01-01", periods=120))
