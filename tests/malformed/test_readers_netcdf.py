"""Malformed NetCDF, .rds, .cbf and .npy files, one fault each, as `landcal inspect` meets them."""

import gzip
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr
from good_files import (
    CALLMIP,
    PLUMBER2,
    at,
    attribute,
    callmip,
    cbf,
    cbf_netcdf,
    differland,
    fluxdatakit,
    normal,
    of_values,
    plumber2,
    two_sites,
)
from malformed_case import Case, check, names


def case(name, file, write, expected, got, advice):
    return Case(name, f"inspect {file}", write, expected, got, advice)


def cut(name, write, share=0.6):
    """`write` makes a file, of which the end is then lost."""
    def made():
        write()
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[:int(share * len(content))])
    return made


def announcing(values):
    """A NetCDF file of some kilobytes whose header says that it holds that many."""
    with netCDF4.Dataset(CALLMIP, "w") as file:
        file.createDimension("time", values)
        file.createVariable("NEE_daily", "f8", ("time",), chunksizes=(1000,)).units = "gC/m2/d"


def classic(name):
    """A NetCDF 3 file whose header announces more days than the file has bytes for."""
    with netCDF4.Dataset(name, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", 1000)
        for each in ("time", "nee"):
            file.createVariable(each, "f8", ("time",))[:] = np.arange(1000.0)


CASES = [
    # CalLMIP
    case("callmip units", CALLMIP, lambda: callmip(NEE_daily=attribute(units="W/m2")),
         f"nee (NEE_daily) of {CALLMIP} in a unit that can become 'gC m-2 d-1'", "'W/m2'", "correct the units"),
    case("callmip no units", CALLMIP, lambda: callmip(Qle_daily=attribute(units=None)),
         f"a units attribute on 'Qle_daily' of {CALLMIP}", "none", "ncatted"),
    case("callmip no NEE", CALLMIP, lambda: callmip(NEE_daily=None), f"variable 'NEE_daily' in {CALLMIP}", "only NEE_uc_daily", "the kind"),
    case("callmip no uncertainty", CALLMIP, lambda: callmip(Qh_uc_daily=None), "variable 'Qh_uc_daily'", "Qh_daily", "the kind"),
    case("callmip two sites", CALLMIP, two_sites, f"'NEE_daily' of {CALLMIP} along time only, one site a file", "'site': 2", "one site"),
    case("callmip sign of NEE", CALLMIP, lambda: callmip(NEE_daily=of_values(np.negative)),
         f"NEE_daily of {CALLMIP} positive to the atmosphere", "correlation of +1.00 over 366 days", "multiply NEE_daily by -1"),
    case("callmip day twice", CALLMIP, lambda: callmip(time=at(100, 99 * 86400.0)),
         f"increasing time stamps in {CALLMIP}, none twice", "2004-04-09 00:00:00 twice (value 101 of time)", "remove the repeated ones"),
    case("callmip decreasing time", CALLMIP, lambda: callmip(time=of_values(lambda seconds: seconds[::-1])),
         f"increasing time stamps in {CALLMIP}", "2004-12-30 00:00:00 after 2004-12-31 00:00:00 (value 2 of time)", "sort the rows"),
    case("callmip no units of time", CALLMIP, lambda: callmip(time=attribute(units=None)),
         f"time stamps in {CALLMIP}", "no variable `time` with units", "add the units attribute to `time`"),
    case("callmip noleap", CALLMIP, lambda: callmip(time=attribute(calendar="noleap")),
         f"time stamps in {CALLMIP}, in the standard calendar", "calendar 'noleap'", "insert the missing days"),
    case("callmip time out of range", CALLMIP, lambda: callmip(time=attribute(units="days since 2004-01-01")),
         f"time stamps in {CALLMIP}", "units 'days since 2004-01-01' with values from 0 to 3.15", "correct the units of `time`"),
    case("callmip missing stamp", CALLMIP, lambda: callmip(time=at(7, np.nan)), f"time stamps in {CALLMIP}",
         "1 of its values missing, the first at position 8", "one number a step"),
    case("callmip half-hours", CALLMIP, lambda: callmip(time=of_values(lambda seconds: seconds / 48)),
         f"one time stamp a day in {CALLMIP}", "steps of PT30M", "the daily file"),
    case("callmip impossible value", CALLMIP, lambda: callmip(NEE_daily=at(40, 4000.0)), f"gC m-2 d-1 in {CALLMIP}",
         "4000 on 2004-02-10, and 0 more", "the unit and the fill value"),
    case("callmip latitude", CALLMIP, lambda: callmip(latitude=("y", [912.0])), f"one latitude in degrees in {CALLMIP}", "[912.0]",
         "one site"),
    case("callmip two latitudes", CALLMIP, lambda: callmip(latitude=("y", [61.0, 62.0])), "one latitude in degrees", "[61.0, 62.0]",
         "one file holds one site"),
    case("callmip site of another name", "US-Yyy_daily.nc", lambda: callmip("US-Yyy_daily.nc"), "one site a file",
         "US-Yyy_daily.nc ... 'FI-Xxx'",
         "rename the file"),
    case("callmip no site", "fluxes.nc", lambda: callmip("fluxes.nc", site=""), "the site of fluxes.nc", "no attribute site_code",
         "set the global attribute site_code"),
    case("callmip text in a variable", CALLMIP, lambda: callmip(Qh_daily=("time", np.array(["warm"] * 366), {"units": "W/m2"})),
         f"numbers in 'Qh_daily' of {CALLMIP}", "type", "convert"),
    case("callmip cut short", CALLMIP, cut(CALLMIP, callmip), "a NetCDF file", f"{CALLMIP}, which cannot be read as NetCDF",
         "download the file again"),
    # NetCDF of any kind
    case("text called .nc", "a.nc", lambda: Path("a.nc").write_text("no numbers\n"), "a file in one of the formats",
         "a.nc, which begins 'no numbers'",
         "--reader FILE.py:function"),
    case("an empty file", "a.nc", lambda: Path("a.nc").touch(), "a file of data", "a.nc, which is empty", "download or copy"),
    case("a folder", "a.nc", lambda: Path("a.nc").mkdir(), "a file of data", "a.nc, which is a folder", "the name of the file"),
    case("no such file", "b.nc", lambda: None, "a file of data", "no file b.nc", "the name of the file and its folder"),
    case("10^12 values announced", CALLMIP, lambda: announcing(10**12), "CalLMIP ... of at most 2 GB",
         f"{CALLMIP}, 8e+03 GB once it is read",
         "LANDCAL_LARGEST_FILE_GB"),
    case("netcdf 3 cut short", "short.nc", cut("short.nc", lambda: classic("short.nc")), "a NetCDF file",
         "short.nc, which is not whole: it has ... bytes of", "download or copy the file again"),
    case("no variable that is known", "x.nc", lambda: xr.Dataset({"a": 1}).to_netcdf("x.nc"), "one of the formats CalLMIP",
         "x.nc, a NetCDF file with variables a",
         "--reader FILE.py:function"),
    # the normal form
    case("normal without units", "forcing.nc", lambda: normal(vpd=attribute(units=None)), "a units attribute on 'vpd' of forcing.nc",
         "none",
         "set it"),
    case("normal in a unit of another kind", "forcing.nc", lambda: normal(co2=attribute(units="mm d-1")),
         "co2 (co2) of forcing.nc in a unit that can become 'ppm'", "'mm d-1'", "correct the units"),
    case("normal in Kelvin under degC", "forcing.nc", lambda: normal(temperature_min=of_values(lambda values: values + 273.15)),
         "temperature_min between ... degC in forcing.nc", "on 2004-01-01, and 365 more", "the unit"),
    case("normal with another label", "forcing.nc", lambda: normal(time=attribute(label="noon")),
         "the label of `time` in forcing.nc as start, middle or end", "'noon'", "attribute `label`"),
    # DifferLand
    case("differland DOY", "FI-Xxx.nc", lambda: differland(DOY=at(59, 61.0)), "DOY of FI-Xxx.nc counting the days from 2004-01-01",
         "DOY 61 at index 59, which is 2004-02-29", "start_year in site_coords.csv"),
    case("differland without a table", "FI-Xxx.nc", lambda: differland(table=None), "site_coords.csv with the start_year of FI-Xxx",
         "no file site_coords.csv", "check the name"),
    case("differland site not in the table", "FI-Xxx.nc", lambda: differland(table="US-Yyy,-110,31,2004,2004\n"),
         "one row ... of FI-Xxx in",
         "sites US-Yyy", "coordinates="),
    case("differland text in the table", "FI-Xxx.nc", lambda: differland(table="FI-Xxx,24.29,61.85,soon,2004\n"),
         "numbers for lat, lon, start_year, end_year of FI-Xxx in site_coords.csv", "soon", "site_coords.csv"),
    case("differland at another latitude", "FI-Xxx.nc", lambda: differland(LAT=31.0), "LAT of FI-Xxx.nc equal ... FI-Xxx ... 61.85", "31",
         "the name of its site"),
    case("differland without a driver", "FI-Xxx.nc", lambda: differland(VPD=None), "variable 'VPD' in FI-Xxx.nc", "only CO2", "the kind"),
    case("differland wrong unit", "FI-Xxx.nc", lambda: differland(SSRD=attribute(units="kg")), "shortwave (SSRD) of FI-Xxx.nc in a unit",
         "'kg'", "correct the units"),
    # FluxDataKit
    case("rds not gz", "DK-Xxx.rds", lambda: Path("DK-Xxx.rds").write_bytes(b"not R"), "an .rds file", "DK-Xxx.rds, which cannot be read",
         "download"),
    case("rds bomb", "DK-Xxx.rds", lambda: Path("DK-Xxx.rds").write_bytes(gzip.compress(b"X\n" + bytes(51_000_000), 1)),
         "an .rds file ... at most 50 MB", "DK-Xxx.rds, more than that from", "do not trust"),
    case("rds cut short", "DK-Xxx.rds", cut("DK-Xxx.rds", fluxdatakit), "an .rds file", "DK-Xxx.rds, which cannot be read", "download"),
    case("rds of another object", "DK-Xxx.rds", lambda: fluxdatakit(record=np.arange(3.0)),
         "a table with sitename, forcing and siteinfo in DK-Xxx.rds", "a ndarray", "FluxDataKit"),
    case("rds without a column", "DK-Xxx.rds", lambda: fluxdatakit(ppfd=None), "columns date ... of DK-Xxx.rds", "no ppfd",
         "p_model_drivers"),
    case("rds with a gap", "DK-Xxx.rds", lambda: fluxdatakit(drop=200), "drivers on every day in DK-Xxx.rds",
         "1 days absent, the first 2004-07-20", "fill the gap"),
    case("rds impossible", "DK-Xxx.rds", lambda: fluxdatakit(vpd=-300.0), "vpd between 0 and ... hPa in DK-Xxx.rds", "-3 on 2004-01-01",
         "unit"),
    # CARDAMOM
    case("cbf other number of rows", "flux_site_2.cbf", lambda: cbf(header={2: 25}),
         "in flux_site_2.cbf, as its header says (25 rows of 20)",
         f"{8 * (300 + 24 * 20)} bytes", "cut short or changed"),
    case("cbf absurd header", "flux_site_2.cbf", lambda: cbf(header={2: 1e9}), "flux_site_2.cbf as a CARDAMOM binary file", "nodays 1e+09",
         "little-endian"),
    case("cbf cut within a number", "flux_site_2.cbf", lambda: cbf(cut=3), "flux_site_2.cbf as a CARDAMOM binary file", "6237 bytes",
         "download"),
    case("cbf not a number", "flux_site_2.cbf", lambda: cbf(cells={(3, 7): np.nan}), "numbers in flux_site_2.cbf", "nan in row 4, column 8",
         "download"),
    case("cbf not monthly", "flux_site_2.cbf", lambda: cbf(cells={(5, 0): 180.0}), "mid-months in the first column of flux_site_2.cbf",
         "180 in row 6", "monthly"),
    case("cbf.nc wrong unit", "FI-Xxx.cbf.nc", lambda: cbf_netcdf(CO2=attribute(units="CO2 [degC]")), "co2 (CO2) of FI-Xxx.cbf.nc",
         "'degC'",
         "correct"),
    case("cbf.nc impossible", "FI-Xxx.cbf.nc", lambda: cbf_netcdf(SSRD=at(3, 900.0)), "shortwave between ... in FI-Xxx.cbf.nc",
         "900 on 2001-04-01", "unit"),
    case("cbf.nc cut short", "FI-Xxx.cbf.nc", cut("FI-Xxx.cbf.nc", cbf_netcdf), "a NetCDF file",
         "FI-Xxx.cbf.nc, which cannot be read as NetCDF",
         "download"),
    # PLUMBER2
    case("plumber2 several sites", PLUMBER2, lambda: plumber2(sites=2), f"'NEE' of {PLUMBER2} along time only, one site", "'x': 2",
         "one site"),
    case("plumber2 units", PLUMBER2, lambda: plumber2(Qle=attribute(units="K")), f"latent_heat (Qle) of {PLUMBER2}", "'K'", "correct"),
    case("plumber2 sign of heat", PLUMBER2, lambda: plumber2(Qle=of_values(np.negative), NEE=None, NEE_qc=None),
         f"Qle of {PLUMBER2} positive to the atmosphere", "W m-2, as if evaporation were negative", "multiply Qle (and Qh) by -1"),
    case("plumber2 flag", PLUMBER2, lambda: plumber2(NEE_qc=of_values(lambda values: values + 0.5)), f"in NEE_qc of {PLUMBER2}", "0.5",
         "convert them"),
    case("plumber2 uneven steps", PLUMBER2, lambda: plumber2(time=at(100, 1800.0 * 100 + 60)), f"stamps in steps of PT30M in {PLUMBER2}",
         "2004-06-03 02:01:00 off that grid (value 101 of time)", "equal steps"),
    # arrays
    case("pickled objects", "a.npy", lambda: np.save("a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True),
         "a .npy file of numbers",
         "a.npy, which cannot be read", "allow_pickle=False"),
    case("npy cut short", "a.npy", cut("a.npy", lambda: np.save("a.npy", np.arange(600.0))), "a .npy file of numbers", "a.npy",
         "numpy.save"),
    case("npy of text", "a.npy", lambda: np.save("a.npy", np.array(["x", "y"])), "whole or real numbers in a.npy", "2 values of type <U1",
         "float64"),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)
