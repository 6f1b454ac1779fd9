"""Files that read well and cannot be calibrated against: gaps, drivers that are missing, fluxes of another site or time."""

from pathlib import Path

import numpy as np
import pytest
from good_files import CALLMIP, FLUXNET, FLUXNET_NAME, at, attribute, callmip, differland, normal, of_values
from malformed_case import Case, check, names

YEARS = 2 * 366 + 2 * 365


def case(name, forcing, flux, expected, got, advice, options=""):
    """The case of two files, one of which `forcing` or `flux` makes with a fault."""
    def write():
        forcing()
        flux()
    return Case(name, f"calibrate --quiet --forcing forcing.nc --flux {CALLMIP} {options}", write, expected, got, advice)


def drivers(name, expected, got, advice, **changes):
    return case(name, lambda: normal(**changes), callmip, expected, got, advice)


def without(row):
    """Drivers from which one day is missing."""
    def write():
        import xarray as xr

        normal("whole.nc")
        with xr.open_dataset("whole.nc") as ds:
            ds.drop_isel(time=[row]).to_netcdf("forcing.nc")
    return write


CASES = [
    drivers("no driver", "drivers temperature_min ... in forcing.nc", "no vpd", "add vpd, or temperature with vapour_pressure", vpd=None),
    drivers("no co2", "drivers ... in forcing.nc", "no co2", "add a column co2 [ppm]", co2=None),
    drivers("no latitude", "the latitude of forcing.nc", "none in the file", "--latitude 61.85", latitude=None),
    drivers("a missing value", "shortwave on every day in forcing.nc", "1 missing values, the first on 2004-03-02", "fill the gap",
            shortwave=at(61, np.nan)),
    drivers("minimum above maximum", "temperature_max of at least temperature_min in forcing.nc", "on 2004-04-10, 1 such days",
            "not exchanged", temperature_max=at(100, -30.0)),
    drivers("an impossible driver", "vpd between 0 and ... hPa in forcing.nc", "500 on 2004-01-06, and 0 more", "unit", vpd=at(5, 500.0)),
    drivers("rain in m", "precipitation (precipitation) of forcing.nc in a unit that can become 'mm d-1'", "'m'", "correct the units",
            precipitation=attribute(units="m")),
    case("a missing day", without(100), callmip, "drivers on every day in forcing.nc", "1 days absent, the first 2004-04-10",
         "fill the gap"),
    case("another site", normal, lambda: callmip(site="US-Yyy", name=CALLMIP.replace("FI-Xxx", "US-Yyy")),
         "fluxes of FI-Xxx, the site of the forcing",
         "fluxes of US-Yyy", "site=") ._replace(command=f"calibrate --forcing forcing.nc --flux {CALLMIP.replace('FI-Xxx', 'US-Yyy')}"),
    case("another place", normal, lambda: callmip(latitude=("y", [31.0])), "forcing and fluxes of FI-Xxx at the same place",
         "positions 30.85 degrees apart", "check latitude"),
    case("another time", normal, lambda: callmip(start="1996-01-01"),
         "observed days of FI-Xxx in the period of the forcing, 2004-01-01 to 2004-12-31",
         "none", "overlap in time"),
    case("fluxes without fluxes", normal, lambda: normal(CALLMIP), f"fluxes in {CALLMIP}: any of nee", "variables temperature_min",
         "name the file"),
    case("fluxes without a value", normal, lambda: callmip(NEE_daily=of_values(lambda values: values * np.nan),
         Qle_daily=of_values(lambda values: values * np.nan), Qh_daily=of_values(lambda values: values * np.nan)),
         "observed days of FI-Xxx in the period", "none", "overlap"),
    case("only sensible heat", normal, lambda: callmip(NEE_daily=of_values(lambda values: values * np.nan),
         Qle_daily=of_values(lambda values: values * np.nan)), "observed nee or latent_heat for DalecWater",
         "latent_heat on none of 366 steps", "another model", "--held-out-years 0"),
    case("a year too short", normal, callmip, "a record longer than the 3 years held out", "2004-01-01 to 2004-12-31",
         "hold out fewer years"),
    case("observed in the held-out years only", lambda: normal(days=YEARS, start="2001-01-01"), callmip, "observed nee before 2003-01-01",
         "none",
         "hold out fewer years"),
    case("latitude of an option", normal, callmip, "one latitude in degrees in forcing.nc", "[912.0]", "degrees", "--latitude 912"),
    Case("a file that is not there", f"calibrate --forcing nothing.nc --flux {CALLMIP}", callmip, "a file of data", "no file nothing.nc",
         "check the name"),
    Case("half-hours without weather", f"calibrate --forcing {FLUXNET_NAME} --flux {FLUXNET_NAME} --latitude 61.85 --longitude 24.29",
         lambda: Path(FLUXNET_NAME).write_text(FLUXNET), f"drivers ... in FLUXNET, {FLUXNET_NAME}", "no shortwave", "reanalysis"),
    Case("two files that contradict", "calibrate --forcing forcing.nc --forcing other.nc --flux forcing.nc",
         lambda: (normal(), normal("other.nc", co2=at(0, 391.0))), "co2 in one of the files", "different values in", "leave it out of one"),
    Case("two files of two sites", "calibrate --forcing forcing.nc --forcing FI-Xxx.nc --flux forcing.nc",
         lambda: (normal(site="US-Yyy"),
                  differland()), "files of one site and one step: US-Yyy in steps of P1D", "FI-Xxx in steps of P1D in",
         "one site"),
    Case("a table for a series", "calibrate --forcing sites.csv --flux sites.csv",
         lambda: Path("sites.csv").write_text("site,lat,lon\nA,1,2\n"),
         "drivers of one site, a series along time", "sites.csv, a table", "a file of one site"),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)
    assert not Path("landcal-out").exists()
