"""Small valid text files of air, tables of sites and CARDAMOM's validation, each with its oracle (see `made_files`)."""

import re
from datetime import datetime, timedelta

from made_files import Made, TextTruth, Truth, Unreadable, fixed, moment, named, number, text_lines
from made_text import N, _at, _csv

NOAA_FILLS = (-999.99, -999.999, -99.99, -9.99)


def _months(i: int, first: int = 2020 * 12) -> tuple[int, int]:
    return (first + i) // 12, (first + i) % 12 + 1


def noaa_insitu() -> Made:
    head = (
        "# header_lines : 9\n#\n# dataset_name: made for a test by no one at GML\n# site_code : XYZ\n# site_latitude : 10.5\n"
        "# site_longitude : -20.25\n# dataset_parameter : co2\n# value:units : micromol mol-1"
    )
    names = "site_code year month day hour minute second datetime time_decimal midpoint_time value value_std_dev nvalue qcflag"
    flags = ["...", "...", "*..", ".S.", "A.."] + ["..."] * N
    rows = []
    for i in range(N):
        year, month = _months(i)
        rows.append(
            [
                "XYZ",
                year,
                month,
                1,
                0,
                0,
                0,
                f"{year}-{month:02d}-01T00:00:00Z",
                _at(i, 2020, 0.08),
                1,
                -999.99 if i == 2 else _at(i, 410),
                _at(i, 0.5),
                25 + i,
                flags[i],
            ]
        )
    gone = (*NOAA_FILLS, -9.0)

    def value(row, column="value", fills=NOAA_FILLS) -> float:
        main = number(row["value"], fills=NOAA_FILLS)
        found = number(row[column], fills=fills)
        return found if row["qcflag"][0] == "." and main == main else float("nan")

    special = {
        "co2_mole_fraction": value,
        "co2_mole_fraction_variability": lambda row: value(row, "value_std_dev", gone),
        "co2_mole_fraction_number": lambda row: value(row, "nvalue", gone),
        "co2_mole_fraction_uncertainty": lambda row: value(row, "value_unc", gone),
    }

    def header(lines):
        first = next((i for i, line in enumerate(lines) if not line.startswith("#")), None)
        if first is None:
            raise Unreadable("no rows")
        return lines[first].split(), first + 1

    return Made(
        "NOAA GML text",
        "co2_xyz_surface-insitu_1_ccgg_MonthlyData.txt",
        _csv("", [names.split(), *rows], " ", head),
        TextTruth(" ", header, lambda row: moment(row["datetime"]), {}, special),
        " ",
        9,
    )


def noaa_flask() -> Made:
    rows = [["SPO", *_months(i, 1969 * 12 + 7), _at(i, 322.5)] for i in range(N)]
    head = "# number_of_header_lines: 3\n# USE OF GML DATA\n# data_fields: site year month value"
    truth = TextTruth(
        " ",
        lambda lines: ("site year month value".split(), 3),
        lambda row: _month(row["year"], row["month"]),
        {"co2_mole_fraction": (("value",), 1, 0)},
        fills=NOAA_FILLS,
    )
    return Made("NOAA GML text", "co2_spo_surface-flask_1_ccgg_month.txt", _csv("", rows, "  ", head), truth, " ", 3)


def _month(year: str, month: str) -> datetime:
    if not re.fullmatch(r"\d{4}", year) or not re.fullmatch(r"\d\d?", month):
        raise Unreadable(f"{year} {month}")
    try:
        return datetime(int(year), int(month), 1)
    except ValueError as error:
        raise Unreadable(f"{year} {month}") from error


def co2_mauna_loa() -> Made:
    rows = []
    for i in range(N):
        year, month = _months(i, 1973 * 12 + 9)
        rows.append(
            [
                f"{year}-{month:02d}",
                f"{year + (month - 0.5) / 12:.4f}",
                _at(i, 333.1),
                _at(i, 330),
                "-01" if i < 4 else 13 + i,
                -9.99 if i < 4 else _at(i, 0.36),
                -0.99 if i < 4 else 0.0 if i == 8 else _at(i, 0.2),
            ]
        )
    co2 = "co2_mole_fraction"

    def days(row) -> float:
        return number(row["days"], fills=(-1.0,))

    def columns(lines):
        """Seven cells below the header of an older edition, or six, which its names fit."""
        width = len(lines[1].split(",")) if len(lines) > 1 else 0
        return ("date decimal mean adjusted days sd unc" if width == 7 else "date decimal mean adjusted trend days").split(), 1

    special = {
        co2: lambda row: number(row["mean"], fills=(-99.99,)),
        f"{co2}_variability": lambda row: number(row["sd"], fills=(-9.99, -99.99)),
        f"{co2}_uncertainty": lambda row: number(row["unc"], fills=(-0.99, 0.0, -99.99)),
        f"{co2}_number": days,
        f"{co2}_filled": lambda row: float(not days(row) > 0 and moment(row["date"]) >= datetime(1974, 5, 1)),
    }
    content = _csv("", [["Date", "Decimal Date", "Average", "Interpolated", "Trend", "Number of Days"], *rows])
    return Made("co2-ppm CSV", "co2-mm-mlo.csv", content, TextTruth(",", columns, lambda row: moment(row["date"]), {}, special), ",", 1)


def co2_global() -> Made:
    rows = []
    for i in range(N):
        year, month = _months(i, 1979 * 12)
        rows.append([f"{year}-{month:02d}", f"{year + (month - 0.5) / 12:.3f}", _at(i, 336.5), _at(i, 0.11), _at(i, 335.9), 0.09])
    special = {
        "co2_mole_fraction": lambda row: number(row["mean"], fills=(-99.99,)),
        "co2_mole_fraction_uncertainty": lambda row: number(row["unc"], fills=(-0.99, -99.99)),
    }
    return Made(
        "co2-ppm CSV",
        "co2-mm-gl.csv",
        _csv("", [["Date", "Decimal Date", "Average", "Trend"], *rows]),
        TextTruth(",", fixed("date decimal mean unc trend trend_unc", 1), lambda row: moment(row["date"]), {}, special),
        ",",
        1,
    )


def co2_annual() -> Made:
    rows = [[1979 + i, _at(i, 336.85, 1.5), _at(i, 0.1)] for i in range(N)]
    special = {
        "co2_mole_fraction": lambda row: number(row["mean"], fills=(-99.99,)),
        "co2_mole_fraction_uncertainty": lambda row: number(row["unc"], fills=(-0.99, -99.99)),
    }
    return Made(
        "co2-ppm CSV",
        "co2-annmean-gl.csv",
        _csv("Year Mean Uncertainty", rows),
        TextTruth(",", fixed("year mean unc", 1), lambda row: _month(row["year"], "1"), {}, special),
        ",",
        1,
    )


def trendy() -> Made:
    content = "\n".join(f"Annee_{1700 + i}={_at(i, 277.57)}" for i in range(N)).encode()

    def truth(content: bytes, ds) -> Truth:
        lines = [line.strip() for line in text_lines(content)]
        found = [re.fullmatch(r"Annee_(\d{4})=(\S+)", line, re.ASCII) for line in lines]
        if not all(found):
            raise Unreadable("a line of another form")
        return Truth([_month(match[1], "1") for match in found], lambda name, attrs: [number(match[2]) for match in found])

    return Made("TRENDY annual CO2", "CO2.txt", content, truth, "=", 0)


def picarro() -> Made:
    names = "date time type port ch4_C ch4_stdev ch4_N co2_C co2_stdev co2_N co_C"
    head = (
        "Created:  6 Jan 22 08:30 GMT\n     -      -         -    -       ch4     ch4   ch4       co2     co2   co2        co\n"
        "  date   time      type port         C   stdev     N         C   stdev     N         C"
    )
    rows = [
        [
            f"{datetime(2014, 6, 30, 23, 52, 30) + i * timedelta(minutes=1):%y%m%d %H%M%S}",
            "std" if i == 4 else "air",
            9,
            "nan" if i == 1 else _at(i, 1888),
            _at(i, 0.1),
            19,
            _at(i, 396.8),
            _at(i, 0.04),
            18,
            100.0,
        ]
        for i in range(N)
    ]

    def start(row) -> datetime:
        if not re.fullmatch(r"\d{6}", row["date"]) or not re.fullmatch(r"\d{6}", row["time"]):
            raise Unreadable(str(row))
        try:
            return datetime.strptime(row["date"] + row["time"], "%y%m%d%H%M%S")
        except ValueError as error:
            raise Unreadable(str(row)) from error

    class Stamped(TextTruth):
        def __call__(self, content: bytes, ds) -> Truth:
            lines = text_lines(content)
            gases, what = lines[1].split(), lines[2].split()
            columns = [*what[:4], *(f"{gas}_{part}" for gas, part in zip(gases[4:], what[4:], strict=True))]
            truth = TextTruth(" ", lambda lines: (columns, 3), start, {}, special)(content, ds)
            middle = ds["time"].attrs["label_in_file"] == "middle"
            return Truth([time - middle * timedelta(seconds=30) for time in truth.times], truth.values)

    def air(theirs: str):
        return lambda row: number(row[theirs]) if row["type"] == "air" else float("nan")

    special = {
        f"{gas}_mole_fraction{suffix}": air(f"{gas}_{part}")
        for gas in ("co2", "ch4")
        for suffix, part in (("", "C"), ("_variability", "stdev"), ("_number", "N"))
    }
    return Made(
        "Picarro .dat of GCWerks",
        "tac.picarro.1minute.100m.201407.dat",
        _csv("", rows, "  ", head),
        Stamped(" ", fixed(names, 3), start, {}, special),
        " ",
        3,
    )


# ---------------------------------------------------------------------- tables


def cardamom_validation() -> Made:
    rows = [
        [
            84 + i,
            "{}{:02d}".format(*_months(i, 2007 * 12 + 11)),
            _at(i, 0.18),
            -9999 if i == 3 else _at(i, 1.7),
            "NaN" if i == 1 else _at(i, 0.5),
        ]
        for i in range(N)
    ]
    columns = {"gpp": (("GPP",), 1, 0), "nee": (("NEE",), 1, 0), "evapotranspiration": (("ET",), 1, 0)}
    truth = TextTruth(",", named(","), lambda row: moment(next(cell for name, cell in row.items() if name.startswith("Date"))), columns)
    return Made("CARDAMOM-FLUXVAL validation, CSV", "validation_FI-Xxx.csv", _csv("ID Date GPP NEE ET", rows), truth, ",", 1)


def site_table() -> Made:
    rows = [[f"FI-X{i:02d}", "ENF", _at(i, 61.85), _at(i, 24.29), _at(i, 300, 1)] for i in range(6)]

    def truth(content: bytes, ds) -> Truth:
        lines = text_lines(content)
        names, first = named(",")(lines)
        rows = [[cell.strip() for cell in line.split(",")] for line in lines[first:]]
        if '"' in content.decode("latin-1"):
            import csv

            rows = [[cell.strip() for cell in next(csv.reader([line], skipinitialspace=True))] for line in lines[first:]]
        if any(len(row) != len(names) for row in rows):
            raise Unreadable("a row of another width")

        def values(name: str, attrs) -> list:
            place = names.index(attrs["name_in_file"])
            cells = [row[place] for row in rows]
            return cells if ds[name].dtype.kind in "OUST" else [number(cell, fills=()) for cell in cells]

        return Truth([], values, len(rows))

    return Made("table of sites, CSV", "location_fluxnet.csv", _csv("Flux_name LC Lat lon elevation", rows), truth, ",", 1)
