"""Small valid files of the binary formats besides NetCDF, each with its oracle: numpy.frombuffer, rdata (see `made_files`)."""

import gzip
import struct
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from made_files import Made, Truth
from made_netcdf import MJ, MONTH, N, _ramp


def cbf() -> Made:
    header = np.full(300, -9999.0)
    header[:6] = [1005, 61.75, N, 9, 11, 1]
    header[[13, 15, 251]] = [2.0, 1.0, 1.05]
    table = np.full((N, 20), -9999.0)
    time = (np.arange(N) + 0.5) * MONTH
    table[:, 0], table[:, 5], table[:, 6] = time, time % 365.25, 0.0
    places = {
        "temperature_min": 1,
        "temperature_max": 2,
        "shortwave": 3,
        "co2": 4,
        "burned_fraction": 6,
        "vpd": 7,
        "precipitation": 8,
        "gpp": 9,
        "lai": 10,
        "nee": 11,
        "biomass": 12,
        "evapotranspiration": 13,
        "soil_carbon": 19,
    }
    for name, base in (
        ("temperature_min", -5),
        ("temperature_max", 5),
        ("shortwave", 10),
        ("co2", 370),
        ("vpd", 4),
        ("precipitation", 2),
        ("gpp", 1.5),
        ("nee", -0.5),
        ("biomass", 7000),
        ("evapotranspiration", 2.5),
    ):
        table[:, places[name]] = _ramp(base)
    table[3, 11] = -9999.0

    def truth(content: bytes, ds) -> Truth:
        numbers = np.frombuffer(content, "<f8")
        nodays, nomet, noobs = (int(each) for each in numbers[2:5])
        rows = numbers[300:].reshape(nodays, nomet + noobs)
        times = [datetime(2001, 1, 1) + timedelta(days=float(day)) for day in rows[:, 0]]

        def values(name: str, attrs) -> np.ndarray:
            place = places[name] if places[name] < 9 else places[name] - 9 + nomet
            found = rows[:, place]
            return np.where((found == -9999) | (np.abs(found) >= 1e19), np.nan, found)

        return Truth([datetime(time.year, time.month, 1) for time in times], values)

    return Made("CARDAMOM binary, .cbf", "flux_site_2.cbf", np.concatenate([header, table.ravel()]).astype("<f8").tobytes(), truth)


def npy() -> Made:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.linspace(-1.0, 2.0, 24).reshape(6, 4))

    def truth(content: bytes, ds) -> Truth:
        import ast

        wide = struct.unpack("<H", content[8:10])[0] if content[6] == 1 else struct.unpack("<I", content[8:12])[0]
        first = (10 if content[6] == 1 else 12) + wide
        about = ast.literal_eval(content[first - wide : first].decode("latin-1"))
        body = content[first:]
        dtype = np.dtype(about["descr"])
        assert len(body) == dtype.itemsize * int(np.prod(about["shape"])), "the header says fewer numbers than the file has"
        array = np.frombuffer(body, dtype).reshape(about["shape"], order="F" if about["fortran_order"] else "C")
        return Truth([], lambda name, attrs: array.ravel())

    return Made("NumPy array, .npy", "forcing.npy", buffer.getvalue(), truth)


def rds(packed: bool = True) -> Made:
    import pandas as pd
    import rdata

    table = pd.DataFrame(
        {
            "date": 12472.0 + np.arange(N),
            "tmin": _ramp(2),
            "tmax": _ramp(9),
            "ppfd": _ramp(3e-4, 1e-6),
            "vpd": _ramp(500, 1),
            "rain": _ramp(2e-5, 1e-7),
            "snow": _ramp(1e-5, 1e-7),
            "co2": _ramp(377),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.rds"
        rdata.write_rds(path, {"sitename": "DK-Xxx", "forcing": table, "siteinfo": pd.DataFrame({"lat": [55.49], "lon": [11.64]})})
        content = path.read_bytes()
    plain = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content

    def truth(content: bytes, ds) -> Truth:
        record = rdata.conversion.convert(rdata.parser.parse_data(content, extension=".rds"))
        frame = record["forcing"]
        times = [datetime(1970, 1, 1) + timedelta(days=int(np.floor(day))) for day in frame["date"]]
        series = {
            "temperature_min": frame["tmin"],
            "temperature_max": frame["tmax"],
            "shortwave": frame["ppfd"] / 2.04e-6 * MJ,
            "vpd": frame["vpd"] / 100,
            "precipitation": (frame["rain"] + frame["snow"]) * 86400,
            "rainfall": frame["rain"] * 86400,
            "snowfall": frame["snow"] * 86400,
            "co2": frame["co2"],
        }

        def values(name: str, attrs) -> np.ndarray:
            found = np.asarray(series[name], dtype=float)
            return np.where((np.abs(found) >= 1e19) | (found == -9999), np.nan, found)

        return Truth(times, values)

    return Made("FluxDataKit drivers, .rds", "DK-Xxx.rds", content if packed else plain, truth)


def rds_plain() -> Made:
    return rds(packed=False)
