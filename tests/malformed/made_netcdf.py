"""Small valid NetCDF files, each with its oracle: the library netCDF4 (see `made_files`)."""

import tempfile
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import netCDF4
import numpy as np
import xarray as xr
from made_files import CARBON, Made, Truth, Unreadable

N = 16
MONTH = 30.4375
MJ = 0.0864
HDF, CLASSIC = "NETCDF4", "NETCDF3_CLASSIC"


def _ramp(base: float, step: float = 0.01) -> np.ndarray:
    return base + step * np.arange(N)


def encoded(ds: xr.Dataset, format: str, fill: float | None = None, unlimited: bool = False) -> bytes:
    """A Dataset as the bytes of a NetCDF file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.nc"
        encoding = {
            name: {"_FillValue": fill if "time" in ds[name].dims else None}
            for name in ds.variables
            if ds[name].dtype.kind == "f" and "_FillValue" not in ds[name].attrs
        }
        ds.to_netcdf(path, format=format, engine="netcdf4", encoding=encoding, unlimited_dims=["time"] if unlimited else [])
        return path.read_bytes()


def decoded(content: bytes) -> xr.Dataset:
    """A NetCDF file as it stands, nothing decoded, to be permuted and written again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.nc"
        path.write_bytes(content)
        with xr.open_dataset(path, decode_cf=False, engine="netcdf4") as ds:
            return ds.load()


class NetcdfTruth:
    """The oracle of a NetCDF format: what the library netCDF4 gives, with `columns` quantity -> (variable, factor, offset).

    `start` turns times of the file into starts of steps; `flags`: quantity -> (variable, function of its values).
    """

    def __init__(self, columns: Mapping[str, tuple[str, float, float]], start=None, special=None, units: Mapping[str, str] | None = None):
        self.columns, self.start, self.special, self.units = columns, start or (lambda time, raw: time), special or {}, units or {}

    def __call__(self, content: bytes, ds) -> Truth:
        with tempfile.NamedTemporaryFile(suffix=".nc") as file:
            file.write(content)
            file.flush()
            with netCDF4.Dataset(file.name) as raw:
                raw.set_auto_maskandscale(False)
                return self._truth(raw, ds)

    def _truth(self, raw, ds) -> Truth:
        names = set(raw.variables)
        times = []
        if "time" in ds.dims:
            times = self.start(self._times(raw), raw)

        def value(name: str, attrs) -> np.ndarray:
            if name in self.special:
                return self.special[name](self, raw)
            theirs, factor, offset = self.columns[name]
            if theirs not in names:  # its name is damaged, and its standard name says what it is
                (theirs,) = names - {known for known, *_ in self.columns.values()} - {"time"}
                attrs = {}
            assert attrs.get("name_in_file", theirs) == theirs, f"{name} was read from {attrs['name_in_file']}"
            parts = theirs.split(" + ")
            assert set(parts) <= names
            given = getattr(raw.variables[parts[0]], "units", None)
            expected = self.units.get(parts[0])
            if given is not None and expected is not None and given != expected:
                factor, offset = _other_unit(given, ds[name].attrs["units"], name)
            return sum(self.numbers(raw, part) for part in parts) * factor + offset

        found = {str(name): value(str(name), ds[name].attrs) for name in ds.data_vars}
        return Truth(times, lambda name, attrs: found[name])

    @staticmethod
    def numbers(raw, name: str) -> np.ndarray:
        variable = raw.variables[name]
        with np.errstate(all="ignore"):
            values = np.asarray(variable[:]).ravel().astype(float)
            fills = [getattr(variable, key) for key in ("_FillValue", "missing_value") if hasattr(variable, key)]
            for fill in fills:
                fill = np.ravel(fill)
                if fill.dtype.kind in "fiu":
                    values = np.where(np.isin(values, fill.astype(float)), np.nan, values)
            scale, offset = getattr(variable, "scale_factor", 1.0), getattr(variable, "add_offset", 0.0)
            values = values * scale + offset
            return np.where((np.abs(values) >= 1e19) | (values == -9999.0), np.nan, values)

    @staticmethod
    def _times(raw) -> list[datetime]:
        variable = raw.variables["time"]
        try:
            found = netCDF4.num2date(
                np.asarray(variable[:]).astype(float),
                variable.units,
                getattr(variable, "calendar", "standard"),
                only_use_cftime_datetimes=False,
                only_use_python_datetimes=True,
            )
        except (ValueError, OverflowError, TypeError) as error:
            raise Unreadable(str(error)) from error
        return [_second(time) for time in found]


def _second(time: datetime) -> datetime:
    time = datetime(*time.timetuple()[:6], getattr(time, "microsecond", 0))
    return (time + timedelta(microseconds=500_000)).replace(microsecond=0)


def _other_unit(given: str, wanted: str, name: str) -> tuple[float, float]:
    """A damaged unit that is still one means what it says; the factors of units have their own tests."""
    from landcal_jax.io.units import convert

    zero, one = convert([0.0, 1.0], given, wanted, name)
    return float(one - zero), float(zero)


# ---------------------------------------------------------------------- NetCDF

CALLMIP = {"nee": ("NEE_daily", 1, 0), "latent_heat": ("Qle_daily", 1, 0), "sensible_heat": ("Qh_daily", 1, 0)}
CALLMIP |= {f"{name}_uncertainty": (theirs.replace("_daily", "_uc_daily"), 1, 0) for name, (theirs, _, _) in CALLMIP.items()}


def _both(name: str, factor: float):
    """A flux counts on days that have a positive uncertainty too."""

    def values(truth, raw) -> np.ndarray:
        theirs = CALLMIP[name][0]
        error = truth.numbers(raw, theirs.replace("_uc_", "_").replace("_daily", "_uc_daily"))
        value = truth.numbers(raw, theirs.replace("_uc_", "_"))
        source, scale = str(getattr(raw, "Input_file", "")), str(getattr(raw, "scaling_factor_NEE", ""))
        twice = ("_HR_" in source or "/hourly" in source.lower()) and "1800" in scale and name.startswith("nee")
        return np.where(np.isfinite(value) & (error > 0), truth.numbers(raw, theirs), np.nan) * factor * (2 if twice else 1)

    return values


def callmip(format: str = HDF, source: str = "x/Halfhourly_qc_fixed/FLX_HH.csv") -> Made:
    ds = xr.Dataset()
    for name, base, units in (("NEE", -3.0, "gC/m2/d"), ("Qle", 60.0, "W/m2"), ("Qh", 20.0, "W/m2")):
        ds[f"{name}_daily"] = ("time", _ramp(base).astype("f4"), {"units": units})
        ds[f"{name}_uc_daily"] = ("time", _ramp(0.3).astype("f4"), {"units": units})
    ds["NEE_daily"][3], ds["Qle_uc_daily"][5] = np.nan, 1e20
    ds["time"] = ("time", 86400.0 * np.arange(N), {"units": "seconds since 2004-02-20 00:00:00", "calendar": "standard"})
    ds["latitude"], ds["longitude"] = ("y", [61.85]), ("x", [24.29])
    ds.attrs = {"site_code": "FI-Xxx", "Input_file": source, "scaling_factor_NEE": "umolCO2/m2/s -> 1e-6 * 12 * 1800 gC/m2/half-hour"}
    truth = NetcdfTruth(
        CALLMIP, lambda times, raw: [time.replace(hour=0, minute=0, second=0) for time in times], {name: _both(name, 1) for name in CALLMIP}
    )
    return Made("CalLMIP Phase 1 fluxes, NetCDF", "FI-Xxx_daily.nc", encoded(ds, format, 1e20), truth, netcdf=True)


def callmip_hourly(format: str = HDF) -> Made:
    return callmip(format, "x/FLX_FI-Xxx_FULLSET_HR_2004.csv")


def _alma(variables: dict[str, tuple[np.ndarray, str]], name: str, truth: NetcdfTruth, format: str) -> Made:
    ds = xr.Dataset(
        {key: (("time", "y", "x"), values[:, None, None].astype(float), {"units": units}) for key, (values, units) in variables.items()}
    )
    ds["time"] = (
        "time",
        1800.0 * np.arange(N),
        {"units": "seconds since 2004-02-28 20:00:00", "calendar": "standard", "info": "Time stamp indicates start time"},
    )
    ds["latitude"], ds["longitude"] = (("y", "x"), [[61.85]]), (("y", "x"), [[24.29]])
    ds.attrs = {"site_code": "FI-Xxx"}
    truth.units = {key: units for key, (_, units) in variables.items()}
    return Made("PLUMBER2 / ALMA Met or Flux, NetCDF", name, encoded(ds, format, -9999.0), truth, netcdf=True)


def _marked(value: str, flag: str):
    def values(truth, raw) -> np.ndarray:
        there, marks = truth.numbers(raw, value), truth.numbers(raw, flag)
        return np.where(np.isfinite(there), np.where(np.isnan(marks) | (marks > 0), 1.0, 0.0), np.nan)

    return values


def plumber2_met(format: str = HDF) -> Made:
    flags = np.array([0, 1, 3, 5, 101, *[0] * (N - 5)])
    variables = {
        "Tair": (_ramp(280.15), "K"),
        "Tair_qc": (flags, "-"),
        "Qair": (_ramp(0.005, 1e-5), "kg/kg"),
        "Psurf": (_ramp(98500, 1), "Pa"),
        "SWdown": (_ramp(300, 3), "W/m2"),
        "Precip": (_ramp(1e-4, 1e-6), "kg/m2/s"),
        "CO2air": (_ramp(380), "ppm"),
    }
    columns = {
        "temperature": ("Tair", 1, -273.15),
        "specific_humidity": ("Qair", 1, 0),
        "pressure": ("Psurf", 0.01, 0),
        "shortwave": ("SWdown", MJ, 0),
        "precipitation": ("Precip", 86400, 0),
        "co2": ("CO2air", 1, 0),
    }
    return _alma(
        variables,
        "FI-Xxx_2004-2004_FLUXNET2015_Met.nc",
        NetcdfTruth(columns, special={"temperature_filled": _marked("Tair", "Tair_qc")}),
        format,
    )


def plumber2_flux(format: str = HDF) -> Made:
    flags = np.array([0, 1, 3, 5, 101, *[0] * (N - 5)])
    variables = {
        "NEE": (_ramp(-3), "umol/m2/s"),
        "NEE_qc": (flags, "-"),
        "NEE_uc": (np.where(np.arange(N) == 7, -9999, 1.5), "umol/m2/s"),
        "Qle": (_ramp(50), "W/m2"),
        "Qle_qc": (flags[::-1], "-"),
        "Qh": (_ramp(20, 1), "W/m2"),
        "Rnet": (_ramp(100, 5), "W/m2"),
    }
    columns = {
        "nee": ("NEE", CARBON, 0),
        "nee_uncertainty": ("NEE_uc", CARBON, 0),
        "latent_heat": ("Qle", 1, 0),
        "sensible_heat": ("Qh", 1, 0),
        "net_radiation": ("Rnet", 1, 0),
    }

    def positive(truth, raw) -> np.ndarray:
        error = truth.numbers(raw, "NEE_uc")
        return np.where(error > 0, error, np.nan) * CARBON

    special = {"nee_filled": _marked("NEE", "NEE_qc"), "latent_heat_filled": _marked("Qle", "Qle_qc"), "nee_uncertainty": positive}
    return _alma(variables, "FI-Xxx_2004-2004_FLUXNET2015_Flux.nc", NetcdfTruth(columns, special=special), format)


def cardamom_netcdf(format: str = HDF) -> Made:
    fields = {
        "T2M_MIN": (-5.0, "deg C"),
        "T2M_MAX": (5.0, "deg C"),
        "SSRD": (10.0, "MJ m**-2 day**-1"),
        "STRD": (25.92, "MJ m**-2 day**-1"),
        "VPD": (4.0, "VPD [hPa]"),
        "TOTAL_PREC": (2.0, "mm/day"),
        "BURNED_AREA": (0.01, "Burned area [m2/m2]"),
        "CO2": (370.0, "CO2 [ppm]"),
    }
    ds = xr.Dataset({key: ("time", _ramp(value), {"units": units}) for key, (value, units) in fields.items()})
    ds["GPP"] = ("time", np.where(np.arange(N) < 2, np.nan, _ramp(1.0)), {"single_unc": 1.25})
    ds["NBE"] = ("time", _ramp(-0.5))
    ds["LAT"], ds["LON"] = 61.85, 24.29
    ds["time"] = ("time", (np.arange(N) + 0.5) * MONTH, {"units": "days since 2001-01-01"})
    columns = {
        "temperature_min": ("T2M_MIN", 1, 0),
        "temperature_max": ("T2M_MAX", 1, 0),
        "shortwave": ("SSRD", 1, 0),
        "longwave": ("STRD", 1 / MJ, 0),
        "vpd": ("VPD", 1, 0),
        "precipitation": ("TOTAL_PREC", 1, 0),
        "co2": ("CO2", 1, 0),
        "burned_fraction": ("BURNED_AREA", 1, 0),
        "gpp": ("GPP", 1, 0),
        "nee": ("NBE", 1, 0),
        "snowfall": ("SNOWFALL", 1, 0),
        "methane": ("CH4", 1e-3, 0),
        "evapotranspiration": ("ET", 1, 0),
        "lai": ("LAI", 1, 0),
    }
    truth = NetcdfTruth(
        columns,
        lambda times, raw: [time.replace(day=1, hour=0, minute=0, second=0) for time in times],
        units={key: units for key, (_, units) in fields.items()},
    )
    return Made("CARDAMOM NetCDF, .cbf.nc", "fluxval_FI-Xxx_1100_GPP.cbf.nc", encoded(ds, format, -9999.0), truth, netcdf=True)


def differland(format: str = HDF) -> Made:
    fields = {
        "T2M_MIN": (-5.0, "deg C"),
        "T2M_MAX": (5.0, "deg C"),
        "SSRD": (12.0, "MJ/m2/d"),
        "VPD": (4.0, "hPA"),
        "CO2": (390.0, "ppm"),
        "TOTAL_PREC": (2.0, "mm/day"),
    }
    ds = xr.Dataset({key: ("time", _ramp(value), {"units": units}) for key, (value, units) in fields.items()})
    for flux, base in (("GPP", 4), ("NBE", -2), ("ET", 1.5), ("LAI", 2)):
        ds[flux], ds[f"{flux}unc"] = ("time", _ramp(base)), ("time", _ramp(0.2))
    ds["DOY"], ds["LAT"], ds["time"] = ("time", np.arange(N) + 1.0), 61.85, ("time", np.arange(N))
    columns = {
        "temperature_min": ("T2M_MIN", 1, 0),
        "temperature_max": ("T2M_MAX", 1, 0),
        "shortwave": ("SSRD", 1, 0),
        "vpd": ("VPD", 1, 0),
        "co2": ("CO2", 1, 0),
        "precipitation": ("TOTAL_PREC", 1, 0),
        "gpp": ("GPP", 1, 0),
        "nee": ("NBE", 1, 0),
        "evapotranspiration": ("ET", 1, 0),
        "lai": ("LAI", 1, 0),
    }

    class Counted(NetcdfTruth):
        @staticmethod
        def _times(raw) -> list[datetime]:
            return [datetime(2004, 1, 1) + timedelta(days=i) for i in range(len(raw.dimensions["time"]))]

    def positive(theirs: str):
        return lambda truth, raw: np.where((found := truth.numbers(raw, theirs)) == 0, np.nan, found)

    special = {f"{name}_uncertainty": positive(f"{columns[name][0]}unc") for name in ("gpp", "nee", "evapotranspiration", "lai")}
    beside = {"site_coords.csv": b"SITE_ID,lon,lat,start_year,end_year\nFI-Xxx,24.29,61.85,2004,2004\nUS-Yyy,-110.0,31.0,2001,2009\n"}
    truth = Counted(columns, special=special, units={key: units for key, (_, units) in fields.items()})
    return Made("DifferLand, NetCDF", "FI-Xxx.nc", encoded(ds, format), truth, beside=beside, netcdf=True)


def normal(format: str = HDF) -> Made:
    ds = xr.Dataset(
        {
            "tas": ("time", _ramp(280.0), {"units": "K", "standard_name": "air_temperature"}),
            "pr": ("time", _ramp(1e-5, 1e-7), {"units": "kg m-2 s-1", "standard_name": "precipitation_flux"}),
            "vpd": ("time", _ramp(500.0, 1), {"units": "Pa"}),
            "nee": ("time", np.where(np.arange(N) == 3, np.nan, _ramp(-2)), {"units": "umol m-2 s-1"}),
            "nee_filled": ("time", np.arange(N) % 2.0, {"units": "1"}),
        }
    )
    ds["time"] = ("time", 86400.0 * np.arange(N), {"units": "seconds since 2004-02-20", "step": "P1D"})
    columns = {
        "temperature": ("tas", 1, -273.15),
        "precipitation": ("pr", 86400, 0),
        "vpd": ("vpd", 0.01, 0),
        "nee": ("nee", CARBON, 0),
        "nee_filled": ("nee_filled", 1, 0),
    }

    def start(times, raw):
        step = getattr(raw.variables["time"], "step", "P1D")
        return [time.replace(hour=0, minute=0, second=0) for time in times] if step == "P1D" else times

    truth = NetcdfTruth(columns, start, units={"tas": "K", "pr": "kg m-2 s-1", "vpd": "Pa", "nee": "umol m-2 s-1", "nee_filled": "1"})
    return Made(
        "NetCDF with names or CF standard names of the normal form",
        "mine.nc",
        encoded(ds, format, np.nan, unlimited=format == CLASSIC),
        truth,
        netcdf=True,
    )


def openghg(format: str = HDF) -> Made:
    ds = xr.Dataset(
        {"fp": (("lat", "lon", "time"), np.linspace(0.1, 0.9, 6 * N).reshape(2, 3, N), {"units": "(mol/mol)/(mol/m2/s)"})},
        coords={
            "lat": [52.0, 52.5],
            "lon": [0.0, 0.5, 1.0],
            "time": ("time", np.arange(float(N)), {"units": "hours since 2014-07-01", "calendar": "standard"}),
        },
    )
    return Made("openghg NetCDF", "fp.nc", encoded(ds, format), NetcdfTruth({"fp": ("fp", 1, 0)}), netcdf=True)
