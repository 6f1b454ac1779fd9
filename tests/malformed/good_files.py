"""Small right files of every format, made by code; a case changes one thing in one of them."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

YEAR = 366  # days of 2004
SEASON = np.sin(2 * np.pi * (np.arange(YEAR) - 80) / YEAR)
DAYS = pd.date_range("2004-01-01", periods=YEAR)
MONTH = 30.4375


def changed(ds: xr.Dataset, changes: dict) -> xr.Dataset:
    """`ds` with other variables; None deletes one, a function makes the new one of the old."""
    for name, change in changes.items():
        new = change(ds[name].variable.to_base_variable()) if callable(change) else change
        ds = ds.drop_vars(name) if change is None else ds.assign({name: new})
    return ds


def at(index: int, value: float) -> Callable[[xr.Variable], xr.Variable]:
    """A change of one value of a variable."""
    return of_values(lambda values: np.where(np.arange(values.shape[-1]) == index, value, values))


def of_values(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[xr.Variable], xr.Variable]:
    """A change of the values of a variable along its first dimension."""
    return lambda old: xr.Variable(old.dims, np.moveaxis(change(np.moveaxis(old.values, 0, -1)), -1, 0), old.attrs)


def attribute(**attrs: str | None) -> Callable[[xr.Variable], xr.Variable]:
    """A change of attributes; None takes one away."""
    def put(old: xr.Variable) -> xr.Variable:
        return xr.Variable(old.dims, old.values, {key: value for key, value in (old.attrs | attrs).items() if value is not None})
    return put


CALLMIP = "FI-Xxx_daily_aggregated_2004-2004_FLUXNET2015_Flux.nc"


def callmip(name: str = CALLMIP, start: str = "2004-01-01", site: str = "FI-Xxx", **changes) -> None:
    """Daily fluxes in the form of CalLMIP Phase 1."""
    ds = xr.Dataset()
    for flux, values, units in (("NEE", -3.0 * SEASON, "gC/m2/d"), ("Qle", 60 + 50 * SEASON, "W/m2"), ("Qh", 20 * SEASON, "W/m2")):
        ds[f"{flux}_daily"] = ("time", values.astype("f4"), {"units": units})
        ds[f"{flux}_uc_daily"] = ("time", np.full(YEAR, 0.3, "f4"), {"units": units})
    ds["time"] = ("time", 86400.0 * np.arange(YEAR), {"units": f"seconds since {start} 00:00:00", "calendar": "standard"})
    ds["latitude"], ds["longitude"] = ("y", [61.85]), ("x", [24.29])
    ds.attrs["site_code"] = site
    changed(ds, changes).to_netcdf(name)


def two_sites(name: str = CALLMIP) -> None:
    """The same with two sites in one file."""
    callmip("one.nc")
    with xr.open_dataset("one.nc", decode_times=False) as ds:
        ds["NEE_daily"] = (("time", "site"), np.stack([ds["NEE_daily"].values] * 2, axis=1), ds["NEE_daily"].attrs)
        ds.to_netcdf(name)


def differland(name: str = "FI-Xxx.nc", table: str | None = "FI-Xxx,24.29,61.85,2004,2004\n", **changes) -> None:
    """Daily drivers in the form of DifferLand, and its table of sites."""
    drivers = {"T2M_MIN": (8 * SEASON, "deg C"), "T2M_MAX": (8 * SEASON + 7, "deg C"), "SSRD": (12 + 9 * SEASON, "MJ/m2/d"),
               "VPD": (4 + 3 * SEASON, "hPA"), "CO2": (np.full(YEAR, 390.0), "ppm"), "TOTAL_PREC": (np.full(YEAR, 2.0), "mm/day")}
    ds = xr.Dataset({key: ("time", values, {"units": units}) for key, (values, units) in drivers.items()})
    for flux, values in (("GPP", 4 + 4 * SEASON), ("NBE", -2 * SEASON), ("ET", 1.5 + SEASON), ("LAI", 2 + SEASON)):
        ds[flux], ds[f"{flux}unc"] = ("time", values), ("time", np.full(YEAR, 0.2))
    ds["DOY"], ds["LAT"], ds["time"] = ("time", DAYS.day_of_year.to_numpy(float)), 61.85, ("time", np.arange(YEAR))
    changed(ds, changes).to_netcdf(name)
    if table is not None:
        Path("site_coords.csv").write_text("SITE_ID,lon,lat,start_year,end_year\n" + table)


def fluxdatakit(name: str = "DK-Xxx.rds", drop: int | None = None, record=None, **changes) -> None:
    """Daily drivers in the form of FluxDataKit; `drop`: the row that is left out; `record`: another object of R instead."""
    import rdata

    days = DAYS.drop("2004-02-29")
    table = pd.DataFrame({"date": (days - pd.Timestamp(0)).days.to_numpy(float), "tmin": 5.0, "tmax": 5.0, "ppfd": 3e-4, "vpd": 500.0,
                          "rain": 1e-5, "snow": 1e-5, "co2": 377.0})
    table = pd.DataFrame({key: changes.get(key, table[key]) for key in table if changes.get(key, 0) is not None})
    table = table.drop(index=[] if drop is None else [drop]).reset_index(drop=True)
    info = pd.DataFrame({"lat": [55.49], "lon": [11.64]})
    rdata.write_rds(name, {"sitename": "DK-Xxx", "forcing": table, "siteinfo": info} if record is None else record)


def cbf(name: str = "flux_site_2.cbf", header: dict | None = None, cut: int = 0, cells: dict | None = None) -> None:
    """Monthly drivers in the binary form of CARDAMOM. `header`, `cells`: place -> value; `cut`: bytes that are missing at the end."""
    head = np.full(300, -9999.0)
    head[:6] = [1005, 61.75, 24, 9, 11, 1]
    table = np.full((24, 20), -9999.0)
    table[:, 0] = (np.arange(24) + 0.5) * MONTH
    table[:, 5] = table[:, 0] % 365.25
    table[:, [1, 2, 3, 4, 6, 7, 8]] = [-5.0, 5.0, 10.0, 370.0, 0.0, 4.0, 2.0]
    table[:, 9], table[:, 11] = 1.5, -0.5
    for place, value in (header or {}).items():
        head[place] = value
    for place, value in (cells or {}).items():
        table[place] = value
    content = np.concatenate([head, table.ravel()]).astype("<f8").tobytes()
    Path(name).write_bytes(content[:len(content) - cut])


def cbf_netcdf(name: str = "FI-Xxx.cbf.nc", **changes) -> None:
    """The same as NetCDF."""
    fields = {"T2M_MIN": (-5.0, "deg C"), "T2M_MAX": (5.0, "deg C"), "SSRD": (10.0, "MJ m**-2 day**-1"), "VPD": (4.0, "VPD [hPa]"),
              "TOTAL_PREC": (2.0, "mm/day"), "BURNED_AREA": (0.01, "Burned area [m2/m2]"), "CO2": (370.0, "CO2 [ppm]")}
    ds = xr.Dataset({key: ("time", np.full(24, value), {"units": units}) for key, (value, units) in fields.items()})
    ds["NBE"], ds["LAT"], ds["LON"] = ("time", np.full(24, -0.5)), 61.85, 24.29
    ds["time"] = ("time", (np.arange(24) + 0.5) * MONTH, {"units": "days since 2001-01-01"})
    changed(ds, changes).to_netcdf(name)


PLUMBER2 = "FI-Xxx_2004-2004_FLUXNET2015_Flux.nc"
SUN = np.clip(np.sin(2 * np.pi * (np.arange(480) % 48 - 12) / 48), 0, None)


def plumber2(name: str = PLUMBER2, sites: int = 1, **changes) -> None:
    """Ten days of half-hours in the form of PLUMBER2."""
    fields = {"NEE": (3 - 20 * SUN, "umol/m2/s"), "Qle": (10 + 200 * SUN, "W/m2"), "Qh": (-20 + 150 * SUN, "W/m2"),
              "Rnet": (-50 + 500 * SUN, "W/m2"), "NEE_qc": (0 * SUN, "-")}
    ds = xr.Dataset({key: (("time", "y", "x"), np.tile(values[:, None, None], (1, 1, sites)), {"units": units})
                     for key, (values, units) in fields.items()})
    ds["time"] = ("time", 1800.0 * np.arange(480), {"units": "seconds since 2004-06-01 00:00:00", "calendar": "standard"})
    ds["latitude"], ds["longitude"] = (("y", "x"), [[61.85] * sites]), (("y", "x"), [[24.29] * sites])
    ds.attrs["site_code"] = "FI-Xxx"
    changed(ds, changes).to_netcdf(name)


def normal(name: str = "forcing.nc", days: int = YEAR, start: str = "2004-01-01", site: str = "FI-Xxx", **changes) -> None:
    """Daily drivers under the names of the normal form."""
    time, season = pd.date_range(start, periods=days), np.resize(SEASON, days)
    ds = xr.Dataset(
        {"temperature_min": ("time", 8 * season, {"units": "degC"}), "temperature_max": ("time", 8 * season + 7, {"units": "degC"}),
         "shortwave": ("time", 12 + 9 * season, {"units": "MJ m-2 d-1"}), "vpd": ("time", 4 + 3 * season, {"units": "hPa"}),
         "co2": ("time", np.full(days, 390.0), {"units": "ppm"}), "precipitation": ("time", np.full(days, 2.0), {"units": "mm d-1"})},
        coords={"time": time, "latitude": ((), 61.85), "longitude": ((), 24.29)}, attrs={"site_code": site})
    changed(ds, changes).to_netcdf(name)


def _fluxnet(minutes: int = 30, rows: int = 96) -> str:
    starts = pd.date_range("2005-06-01", periods=rows, freq=f"{minutes}min")
    lines = ["TIMESTAMP_START,TIMESTAMP_END,NEE_VUT_REF,NEE_VUT_REF_QC,LE_F_MDS,LE_F_MDS_QC,TA_F,TA_F_QC"]
    for number, start in enumerate(starts):
        end = start + pd.Timedelta(minutes=minutes)
        lines.append(f"{start:%Y%m%d%H%M},{end:%Y%m%d%H%M},{-5 + number % 7:.1f},0,100.0,1,{10 + number % 10}.5,0")
    return "\n".join(lines) + "\n"


FLUXNET_NAME = "FLX_FI-Xxx_FLUXNET2015_FULLSET_HH_2005-2005_1-4.csv"
FLUXNET = _fluxnet()

TABLE = ("# site: FI-Xxx\n# latitude: 61.85\n# longitude: 24.29\ndate,nee,soil_moisture,precipitation,temperature\n"
         "-,gC m-2 d-1,percent,mm d-1,degC\n"
         "2005-06-01,-1.5,30.5,0.0,12.5\n2005-06-02,-1.7,30.1,2.5,13.1\n2005-06-03,-1.9,29.8,0.0,14.2\n")

FSM = ("2005  10   1   1     0.0   283.1  1.0E-04  .000E+00   277.8    78.2     0.6   87480.\n"
       "2005  10   1   2     0.0   284.7  .000E+00  2.0E-04   278.0    98.2     0.0   87430.\n"
       "2005  10   1   3   100.0   285.8  .000E+00  .000E+00   277.7    76.1     1.0   87390.\n")

SMET = ("SMET 1.1 ASCII\n[HEADER]\nstation_id = XYZ\nlatitude = 46.8\nlongitude = 9.8\nnodata = -999\ntz = 1\nfields = timestamp TA RH HS\n"
        "[DATA]\n2010-01-01T01:00 270.1 0.8 1.2\n2010-01-01T02:00 270.3 0.8 1.2\n2010-01-01T03:00 270.5 0.9 1.3\n")

PICARRO = ("          -          -     -     -       co2       co2       co2\n"
           "          -          -     -     -       co2       co2       co2\n"
           "       date       time  type  port         C     stdev         N\n"
           "     140630     000030   air     1    400.12      0.10        20\n"
           "     140630     000130   air     1    400.32      0.11        20\n"
           "     140630     000230   air     1    400.22      0.12        20\n")

NOAA = ("# header_lines : 9\n#\n# dataset_name: made for a test by no one at GML\n# site_code : XYZ\n# site_latitude : 10.5\n"
        "# site_longitude : -20.25\n# dataset_parameter : co2\n# value:units : micromol mol-1\n"
        "site_code datetime value value_std_dev nvalue qcflag\n"
        "XYZ 2020-01-01T00:00:00Z 410.0 0.5 25 ...\nXYZ 2020-02-01T00:00:00Z 411.0 0.5 24 ...\nXYZ 2020-03-01T00:00:00Z 412.0 0.6 26 ...\n")

TRENDY = "Annee_1700=276.59\nAnnee_1701=276.62\nAnnee_1702=276.65\n"

REDDYPROC = ("Year\tDoY\tHour\tNEE\tTair\n--\t--\t--\tumolm-2s-1\tdegC\n"
             "1998\t1\t0.5\t1.2\t7.4\n1998\t1\t1.0\t1.3\t7.5\n1998\t1\t1.5\t1.1\t7.6\n")

CARDAMOM_VALIDATION = "ID,Date,GPP,NEE,ET\n84,200712,0.18,1.7,NaN\n85,200801,0.2,-9999,0.5\n86,200802,0.3,1.0,0.6\n"

SITES = "site,lat,lon\nFI-Xxx,61.85,24.29\nUS-Yyy,31.0,-110.0\n"


def text(name: str, content: str) -> Callable[[], object]:
    """A writer of a text file."""
    return functools.partial(Path(name).write_bytes, content.encode())


GOOD = {
    CALLMIP: callmip, "FI-Xxx.nc": differland, "DK-Xxx.rds": fluxdatakit, "flux_site_2.cbf": cbf, "FI-Xxx.cbf.nc": cbf_netcdf,
    PLUMBER2: plumber2, "forcing.nc": normal, FLUXNET_NAME: text(FLUXNET_NAME, FLUXNET), "table.csv": text("table.csv", TABLE),
    "met_Xyz_0506.txt": text("met_Xyz_0506.txt", FSM), "XYZ.smet": text("XYZ.smet", SMET),
    "tac.picarro.1minute.100m.dat": text("tac.picarro.1minute.100m.dat", PICARRO), "co2_xyz.txt": text("co2_xyz.txt", NOAA),
    "trendy.txt": text("trendy.txt", TRENDY), "Example_DETha98.txt": text("Example_DETha98.txt", REDDYPROC),
    "validation_FI-Xxx.csv": text("validation_FI-Xxx.csv", CARDAMOM_VALIDATION), "sites.csv": text("sites.csv", SITES),
    "array.npy": lambda: np.save("array.npy", np.arange(6.0))}
