"""Small valid files of snow stations, each with its oracle (see `made_files`)."""

import math
import re
from datetime import datetime, timedelta

from made_files import Made, TextTruth, Unreadable, fixed, moment, named, number, text_lines
from made_text import DAY, HALF, HOUR, MJ, N, _at, _csv

FSM = "SW LW Sf Rf Ta RH Ua Ps"
FSM_UNITS = {
    "shortwave": (("SW",), MJ, 0),
    "longwave": (("LW",), 1, 0),
    "snowfall": (("Sf",), 86400, 0),
    "rainfall": (("Rf",), 86400, 0),
    "precipitation": (("Sf + Rf",), 86400, 0),
    "temperature": (("Ta",), 1, -273.15),
    "relative_humidity": (("RH",), 0.01, 0),
    "specific_humidity": (("Qa",), 1, 0),
    "wind_speed": (("Ua",), 1, 0),
    "pressure": (("Ps",), 0.01, 0),
}
SNOW_FILLS = (-99.0, -9999.0)


def _calendar(row) -> datetime:
    parts = [number(row[name]) for name in ("year", "month", "day", *(["hour"] if "hour" in row else []))]
    if not all(math.isfinite(part) for part in parts) or any(part % 1 for part in parts[:3]):
        raise Unreadable(str(parts))
    try:
        return datetime(*(int(part) for part in parts[:3])) + timedelta(minutes=round(60 * parts[3]) if len(parts) > 3 else 0)
    except ValueError as error:
        raise Unreadable(str(parts)) from error


def _fsm(names: str, cells, name: str) -> Made:
    stamps = [datetime(2005, 12, 31, 18) + i * HOUR for i in range(N)]
    rows = [
        [f"{(stamp - HOUR).year}  {(stamp - HOUR).month:2d}  {(stamp - HOUR).day:2d}  {(stamp - HOUR).hour + 1:2d}", *cells(i)]
        for i, stamp in enumerate(stamps)
    ]
    truth = TextTruth(" ", fixed("year month day hour " + names), _calendar, FSM_UNITS, fills=SNOW_FILLS, end=lambda ds: True)
    return Made("FSM driving data, 12 or 13 columns", name, _csv("", rows, "   "), truth, " ", 0)


def fsm_met() -> Made:
    return _fsm(
        FSM,
        lambda i: (
            _at(i, 10, 7),
            _at(i, 283.1),
            f"{1e-4 + i * 1e-6:.3E}",
            ".000E+00" if i % 2 else "2.0E-04",
            _at(i, 277.8),
            _at(i, 78.2),
            _at(i, 0.6),
            f"{87480 + i}.",
        ),
        "met_CdP_0506.txt",
    )


def fsm_met_13() -> Made:
    return _fsm(
        "SW LW Rf Sf Ta Qa RH Ua Ps",
        lambda i: (
            _at(i, 10, 7),
            _at(i, 283.1),
            f"{1e-4 + i * 1e-6:.3E}",
            "0.0",
            _at(i, 277.8),
            _at(i, 0.004, 0.0001),
            _at(i, 78.2),
            _at(i, 0.6),
            f"{87480 + i}.",
        ),
        "met_Sod_1314.txt",
    )


def fsm_observations() -> Made:
    days = [datetime(2005, 12, 25) + i * DAY for i in range(N)]
    rows = [
        [day.year, day.month, day.day, _at(i, 0.17), _at(i, 1.2), _at(i, 0.3), _at(i, 72), -99.0 if i == 3 else _at(i, -3), _at(i, 8)]
        for i, day in enumerate(days)
    ]
    names = "year month day albedo runoff depth SWE Tsurf Tsoil20"
    columns = {
        "albedo": (("albedo",), 1, 0),
        "runoff": (("runoff",), 1, 0),
        "snow_depth": (("depth",), 1, 0),
        "snow_water_equivalent": (("SWE",), 1, 0),
        "surface_temperature": (("Tsurf",), 1, 0),
        "soil_temperature": (("Tsoil20",), 1, 0),
    }
    return Made(
        "FSM observations, 9 columns",
        "obs_CdP_0506.txt",
        _csv("", rows, " "),
        TextTruth(" ", fixed(names), _calendar, columns, fills=SNOW_FILLS),
        " ",
        0,
    )


def promice() -> Made:
    names = "time_utc tair swd lwd albedo wspd rh psfc ppt wdir tsfc cfrac shf lhf"
    rows = [
        [
            f"{datetime(2012, 7, 1, 20) + i * HOUR:%Y-%m-%d %H:%M:%S}",
            _at(i, 271, 0.02),
            _at(i, 0, 9),
            _at(i, 250),
            _at(i, 0.5),
            _at(i, 5),
            _at(i, 90),
            _at(i, 86000, 1),
            0,
            100,
            _at(i, 272),
            0.5,
            _at(i, 3),
            _at(i, -12),
        ]
        for i in range(N)
    ]
    columns = {
        "temperature": (("tair",), 1, -273.15),
        "shortwave": (("swd",), MJ, 0),
        "longwave": (("lwd",), 1, 0),
        "albedo": (("albedo",), 1, 0),
        "wind_speed": (("wspd",), 1, 0),
        "relative_humidity": (("rh",), 0.01, 0),
        "pressure": (("psfc",), 0.01, 0),
        "surface_temperature": (("tsfc",), 1, -273.15),
        "sensible_heat": (("shf",), -1, 0),
        "latent_heat": (("lhf",), -1, 0),
    }
    special = {"albedo_filled": lambda row: float(number(row["swd"], fills=()) <= 0)}
    return Made(
        "PROMICE hourly CSV of icemodel",
        "kanm_2012_hourly.csv",
        _csv(names, rows),
        TextTruth(",", named(",", "\0"), lambda row: moment(row["time_utc"]), columns, special),
        ",",
        1,
    )


def smet() -> Made:
    head = (
        "SMET 1.1 ASCII\n[HEADER]\nstation_id       = ABC1\nlatitude         = 46.83\nlongitude        = 9.81\nnodata           = -999\n"
        "tz               = 1\nfields           = timestamp TA RH HS RSWR PSUM TS1\nunits_offset     = 0 273.15 0 0 0 0 0\n"
        "units_multiplier = 1 1 0.01 0.01 1 1 1\n[DATA]"
    )
    rows = [
        [
            f"{datetime(1995, 10, 30, 20) + i * HALF:%Y-%m-%dT%H:%M}",
            -999 if i == 2 else _at(i, -1),
            _at(i, 95),
            _at(i, 10),
            _at(i, 11),
            _at(i, 0.5),
            -999,
        ]
        for i in range(N)
    ]
    return Made("SMET", "abc.smet", _csv("", rows, " ", head), _smet_truth, " ", 11)


def _days(ds) -> float:
    """The length of a step in days."""
    step = ds["time"].attrs["step"]
    number = float(re.sub(r"\D", "", step))
    return number / {"M": 1440, "H": 24, "D": 1}[step[-1]]


def _smet_truth(content: bytes, ds):
    """The oracle reads the keys that the format has; a key that is damaged takes its meaning along, which must be said."""
    lines = text_lines(content)
    top = next((i for i, line in enumerate(lines) if line.strip().upper() == "[DATA]"), None)
    if top is None:
        raise Unreadable("no [DATA]")
    keys = {}
    for line in lines[:top]:
        key, equals, value = line.partition("=")
        if equals:
            keys[key.strip().lower()] = value.split("#")[0].split(";")[0].strip()
    known = {"station_id", "latitude", "longitude", "nodata", "tz", "fields", "units_offset", "units_multiplier"}
    if not set(keys) <= known:
        assert "not known" in ds.attrs["history"], f"{set(keys) - known} passed in silence"
    names = [name.upper() for name in keys["fields"].split()]
    factor, offset = (
        [float(part) for part in keys[key].split()] if key in keys else [default] * len(names)
        for key, default in (("units_multiplier", 1.0), ("units_offset", 0.0))
    )
    known = {
        "temperature": ("TA", 1, -273.15),
        "relative_humidity": ("RH", 1, 0),
        "snow_depth": ("HS", 1, 0),
        "shortwave_up": ("RSWR", MJ, 0),
        "precipitation": ("PSUM", 1 / _days(ds), 0),
        "wind_speed": ("VW", 1, 0),
        "surface_temperature": ("TSS", 1, -273.15),
        "snow_water_equivalent": ("SWE", 1, 0),
        "pressure": ("P", 0.01, 0),
    }
    nodata = float(keys["nodata"]) if keys.get("nodata") else float("nan")

    def special(name: str):
        theirs, scale, shift = known[name]

        def value(row) -> float:
            place, found = names.index(theirs), number(row[theirs], fills=())
            found = float("nan") if found == nodata else found * factor[place] + offset[place]
            return float("nan") if found == -9999 else found * scale + shift

        return value

    truth = TextTruth(
        " ",
        lambda lines: (names, top + 1),
        lambda row: moment(row["TIMESTAMP"]),
        {},
        {name: special(name) for name in known},
        end=lambda ds: True,
    )
    return truth(content, ds)


def pangaea() -> Made:
    head = (
        "/* DATA DESCRIPTION:\nCitation:\tMorin, Samuel (2012): Daily snow.\nEvent(s):\tCDP (Col de Porte) * LATITUDE: 45.300000 * "
        "LONGITUDE: 5.770000 * ELEVATION: 1325.0 m\nLicense:\tCreative Commons\n*/"
    )
    names = ["Date/Time", "Snow thick [m] (Ultra-sound)", "SWE [kg/m**2] (pit)", "Runoff [kg/m**2/day] (5 m)", "Albedo [%]"]
    rows = [
        [f"{datetime(1993, 12, 25) + i * DAY:%Y-%m-%d}", _at(i, 0.24), "" if i == 3 else _at(i, 72), _at(i, 3), _at(i, 71)]
        for i in range(N)
    ]
    columns = {
        "snow_depth": ((names[1],), 1, 0),
        "snow_water_equivalent": ((names[2],), 1, 0),
        "runoff": ((names[3],), 1, 0),
        "albedo": ((names[4],), 0.01, 0),
    }

    def header(lines):
        top = next((i for i, line in enumerate(lines) if line.startswith("Date/Time\t")), None)
        if top is None:
            raise Unreadable("no heading")
        return [cell.strip(" ") for cell in lines[top].split("\t")], top + 1

    return Made(
        "PANGAEA .tab of snow",
        "CDP_daily_eval.tab",
        _csv("", [names, *rows], "\t", head),
        TextTruth("\t", header, lambda row: moment(row["Date/Time"]), columns),
        "\t",
        6,
    )


def geotop() -> Made:
    rows = [
        [
            f"{datetime(2001, 2, 1, 19) + i * HOUR:%d/%m/%Y %H:%M}",
            -9999 if i == 2 else _at(i, 1),
            _at(i, 0.6),
            _at(i, 91),
            _at(i, 8.5),
            0.0,
            _at(i, 10, 5),
            _at(i, 328),
        ]
        for i in range(N)
    ]
    columns = {
        "precipitation": (("Prec",), 24, 0),
        "wind_speed": (("Ws",), 1, 0),
        "relative_humidity": (("RH",), 0.01, 0),
        "temperature": (("Tair",), 1, 0),
        "shortwave": (("SW",), MJ, 0),
        "longwave": (("LW",), 1, 0),
    }

    def start(row) -> datetime:
        match = re.fullmatch(r"(\d\d?)/(\d\d?)/(\d{4})\s+(\d\d?):(\d\d?)", next(iter(row.values())), re.ASCII)
        if not match:
            raise Unreadable(str(row))
        day, month, year, hour, minute = map(int, match.groups())
        try:
            return datetime(year, month, day, hour, minute)
        except ValueError as error:
            raise Unreadable(str(row)) from error

    return Made(
        "GEOtop meteorological file",
        "meteo0001.txt",
        _csv("Date Prec Ws RH Tair SWdir SW LW", rows),
        TextTruth(",", named(",", "\0"), start, columns, end=lambda ds: True),
        ",",
        1,
    )
