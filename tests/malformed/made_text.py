"""Small valid files of the text formats, each with its oracle (see `made_files`)."""

import math
from datetime import datetime, timedelta

from made_files import CARBON, Made, TextTruth, moment, named, number, ordinal

N = 14
HALF = timedelta(minutes=30)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MJ = 0.0864


def _csv(names: str, rows: list[list], separator: str = ",", head: str = "", end: str = "\n") -> bytes:
    """Lines of cells; a number of rows is what the functions below make."""
    lines = [*head.splitlines(), *([separator.join(names.split())] if names else []), *(separator.join(map(str, row)) for row in rows)]
    return (end.join(lines) + end).encode()


def _at(i: int, base: float, step: float = 0.01) -> float:
    """A value that tells its row."""
    return round(base + step * i, 4)


# ---------------------------------------------------------------------- FLUXNET, tables

FLUXNET_COLUMNS = {
    "nee": (("NEE_VUT_REF",), CARBON, 0),
    "nee_uncertainty": (("NEE_VUT_REF_RANDUNC",), CARBON, 0),
    "temperature": (("TA_F",), 1, 0),
    "shortwave": (("SW_IN_F",), MJ, 0),
    "precipitation": (("P_F",), 48, 0),
    "pressure": (("PA_F",), 10, 0),
    "vpd": (("VPD_F",), 1, 0),
    "latent_heat": (("LE_F_MDS",), 1, 0),
    "relative_humidity": (("RH",), 0.01, 0),
    "gpp": (("GPP_NT_VUT_REF",), CARBON, 0),
    "wind_speed": (("WS",), 1, 0),
    "net_radiation": (("NETRAD",), 1, 0),
    "reco": (("RECO",), CARBON, 0),
}


def _stamp(row) -> datetime:
    return moment(row["TIMESTAMP_START"]) if "TIMESTAMP_START" in row else moment(row["TIMESTAMP_END"]) - HALF


def fluxnet_half_hours() -> Made:
    names = (
        "TIMESTAMP_START TIMESTAMP_END TA_F TA_F_QC SW_IN_F SW_IN_F_QC P_F PA_F VPD_F RH NEE_VUT_REF NEE_VUT_REF_QC "
        "NEE_VUT_REF_RANDUNC LE_F_MDS LE_F_MDS_QC GPP_NT_VUT_REF"
    )
    start = datetime(2001, 2, 28, 22)
    rows = [
        [
            f"{start + i * HALF:%Y%m%d%H%M}",
            f"{start + (i + 1) * HALF:%Y%m%d%H%M}",
            _at(i, 11),
            i % 3,
            _at(i, 310, 1.5),
            i % 2,
            _at(i, 0.5),
            _at(i, 98.5),
            _at(i, 5),
            _at(i, 71),
            -9999 if i == 5 else _at(i, -2),
            i % 4,
            _at(i, 0.4),
            _at(i, 51),
            0,
            _at(i, 4),
        ]
        for i in range(N)
    ]
    return Made(
        "FLUXNET, AmeriFlux or ICOS CSV",
        "FLX_XX-Abc_FLUXNET2015_FULLSET_HH_2001-2001_1-4.csv",
        _csv(names, rows),
        TextTruth(",", named(","), _stamp, FLUXNET_COLUMNS),
        ",",
        1,
    )


def fluxnet_days() -> Made:
    names = "TIMESTAMP TA_F TA_F_QC P_F NEE_VUT_REF NEE_VUT_REF_QC LE_F_MDS LE_F_MDS_QC"
    rows = [
        [f"{datetime(2004, 2, 23) + i * DAY:%Y%m%d}", _at(i, 11), _at(i, 0.5), _at(i, 3), _at(i, -2), _at(i, 0.7), _at(i, 51), 1]
        for i in range(N)
    ]
    columns = FLUXNET_COLUMNS | {"nee": (("NEE_VUT_REF",), 1, 0), "precipitation": (("P_F",), 1, 0)}
    return Made(
        "FLUXNET, AmeriFlux or ICOS CSV",
        "FLX_XX-Abc_FLUXNET2015_FULLSET_DD_2004-2004_1-4.csv",
        _csv(names, rows),
        TextTruth(",", named(","), lambda row: moment(row["TIMESTAMP"]), columns, flags=False),
        ",",
        1,
    )


def ameriflux_base() -> Made:
    names = "TIMESTAMP_START TIMESTAMP_END FC_1_1_1 SC_1_1_1 LE_1_1_1 TA_1_1_1 P_1_1_1 RH_1_1_1 CO2_1_1_1 FCH4_1_1_1"
    start = datetime(2001, 12, 31, 20)
    rows = [
        [
            f"{start + i * HALF:%Y%m%d%H%M}",
            f"{start + (i + 1) * HALF:%Y%m%d%H%M}",
            _at(i, -2),
            -9999 if i == 5 else _at(i, 0.5),
            _at(i, 31),
            _at(i, 9),
            _at(i, 0.2),
            _at(i, 81),
            _at(i, 402),
            _at(i, 105),
        ]
        for i in range(N)
    ]
    columns = {
        "nee": (("FC_1_1_1 + SC_1_1_1", "FC_1_1_1"), CARBON, 0),
        "latent_heat": (("LE_1_1_1",), 1, 0),
        "temperature": (("TA_1_1_1",), 1, 0),
        "precipitation": (("P_1_1_1",), 48, 0),
        "relative_humidity": (("RH_1_1_1",), 0.01, 0),
        "co2": (("CO2_1_1_1",), 1, 0),
        "methane": (("FCH4_1_1_1",), CARBON / 1000, 0),
    } | {name: (("-",), factor, 0) for name, factor in (("sensible_heat", 1), ("ground_heat", 1), ("pressure", 10), ("wind_speed", 1))}
    return Made(
        "FLUXNET, AmeriFlux or ICOS CSV",
        "AMF_US-Xyz_BASE_HH_3-5.csv",
        _csv(names, rows, head="# Site: US-Xyz\n# Version: 3-5"),
        TextTruth(",", named(","), _stamp, columns),
        ",",
        3,
    )


TABLE = {
    "nee": (("nee",), CARBON, 0),
    "temperature": (("temperature",), 1, -273.15),
    "soil_moisture": (("soil_moisture",), 0.01, 0),
    "co2": (("co2",), 1, 0),
    "gpp": (("gpp",), 1, 0),
    "reco": (("reco",), 1, 0),
}


def plain_table() -> Made:
    rows = [
        [f"{datetime(2005, 6, 30, 20) + i * HALF:%Y-%m-%d %H:%M}", _at(i, 1), _at(i, 285.4), _at(i, 31), "" if i == 4 else _at(i, 400)]
        for i in range(N)
    ]
    head = "# site: XX-Abc\n# latitude: 61.8\n# longitude: 24.3\n# label: end\n# time_zone: UTC\n"
    content = _csv(
        "", [["time", "nee", "temperature", "soil_moisture", "co2"], ["-", "umol m-2 s-1", "K", "percent", "ppm"], *rows], head=head
    )
    return Made("plain table with a row of units (CSV)", "table.csv", content, _table(","), ",", 7)


def plain_table_decimal_comma() -> Made:
    rows = [
        [f"{datetime(2005, 6, 30) + i * DAY:%Y-%m-%d}", *(f"{_at(i, base)}".replace(".", ",") for base in (1.5, 4.5, 2.25))]
        for i in range(N)
    ]
    content = _csv("", [["time", "nee", "gpp", "reco"], ["-", *["gC m-2 d-1"] * 3], *rows], ";", end="\r\n")
    return Made("plain table with a row of units (CSV)", "comma.csv", content, _table(";", nee=(("nee",), 1, 0)), ";", 2)


def _table(separator: str, **changes) -> TextTruth:
    """The label is taken from the result: a damaged comment takes it away, and the history says what was taken then."""

    def end(ds) -> bool:
        label = ds["time"].attrs["label_in_file"]
        assert label == ("start" if separator == ";" else "end") or "does not say what its stamps label" in ds.attrs["history"]
        return label == "end"

    return TextTruth(separator, named(separator, below=1), lambda row: moment(row["time"]), TABLE | changes, end=end)


# ---------------------------------------------------------------------- towers


def canveg_forcings() -> Made:
    ends = [datetime(2018, 7, 1, 9) + i * HALF for i in range(N)]
    rows = [
        [f"{end:%Y-%m-%d %H:%M:%S}", _at(i, 20), _at(i, 1.1), _at(i, 500, 3), _at(i, 0.2, 0.001), _at(i, 101), _at(i, 1.5), _at(i, 400)]
        for i, end in enumerate(ends)
    ]
    columns = {
        "temperature": (("TA_F",), 1, 0),
        "vapour_pressure": (("eair",), 10, 0),
        "shortwave": (("SW_IN_F",), MJ, 0),
        "soil_moisture": (("SWC_F_MDS_1",), 1, 0),
        "pressure": (("PA_F",), 10, 0),
        "lai": (("LAI",), 1, 0),
        "co2": (("CO2_F_MDS",), 1, 0),
    }

    def deficit(row) -> float:
        t = number(row["TA_F"])
        found = 6.108 * math.exp(17.27 * t / (t + 237.3)) - 10 * number(row["eair"])
        return 0.0 if -1 <= found < 0 else found

    return Made(
        "JAX-CanVeg CSV (forcings or fluxes)",
        "US-Bi1-forcings.csv",
        _csv("TIMESTAMP_END TA_F eair SW_IN_F SWC_F_MDS_1 PA_F LAI CO2_F_MDS", rows),
        TextTruth(",", named(","), lambda row: moment(row["TIMESTAMP_END"]) - HALF, columns, {"vpd": deficit}),
        ",",
        1,
    )


def canveg_fluxes() -> Made:
    ends = [datetime(2018, 7, 1) + i * HALF for i in range(N)]
    rows = [
        [f"{end:%Y-%m-%d %H:%M:%S}", _at(i, 0.5), _at(i, 51), _at(i, 565), _at(i, 12), _at(i, 70), _at(i, 2), _at(i, -4)]
        for i, end in enumerate(ends)
    ]
    columns = {
        "precipitation": (("P_F",), 48, 0),
        "latent_heat": (("LE_F_MDS",), 1, 0),
        "sensible_heat": (("H_F_MDS",), 1, 0),
        "net_radiation": (("NETRAD",), 1, 0),
        "ground_heat": (("G_F_MDS",), 1, 0),
        "nee": (("NEE_VUT_REF",), CARBON, 0),
    }
    return Made(
        "JAX-CanVeg CSV (forcings or fluxes)",
        "US-Whs-fluxes.csv",
        _csv("TIMESTAMP_END P_F LE_F_MDS LE_MODIS H_F_MDS NETRAD G_F_MDS NEE_VUT_REF", rows),
        TextTruth(",", named(","), lambda row: moment(row["TIMESTAMP_END"]) - HALF, columns),
        ",",
        1,
    )


def bigleaf() -> Made:
    rows = [
        [2014, 6, 152 + i // 48, i % 48 / 2, _at(i, 15), i % 4, _at(i, 0.5), _at(i, 97.5), _at(i, 0.2), _at(i, -3), i % 3, _at(i, 2)]
        for i in range(40, 40 + N)
    ]
    columns = {
        "temperature": (("Tair",), 1, 0),
        "vpd": (("VPD",), 10, 0),
        "pressure": (("pressure",), 10, 0),
        "precipitation": (("precip",), 48, 0),
        "nee": (("NEE",), CARBON, 0),
        "reco": (("Reco",), CARBON, 0),
        "gpp": (("GPP",), CARBON, 0),
        "latent_heat": (("LE",), 1, 0),
        "sensible_heat": (("H",), 1, 0),
        "ground_heat": (("G",), 1, 0),
    }
    return Made(
        "bigleaf CSV",
        "DE_Tha_Jun_2014.csv",
        _csv("year month doy hour Tair Tair_qc VPD pressure precip NEE NEE_qc Reco", rows),
        TextTruth(",", named(","), lambda row: ordinal(row["year"], row["doy"], row["hour"]), columns),
        ",",
        1,
    )


def reddyproc() -> Made:
    ends = [datetime(1998, 12, 31, 20) + i * HALF for i in range(N)]
    rows = [
        [
            1998,
            366 if end.year == 1999 else end.timetuple().tm_yday,
            f"{end.hour + end.minute / 60:g}",
            -9999 if i == 3 else _at(i, -1.5),
            _at(i, 20),
            _at(i, 5),
            _at(i, 85),
            _at(i, 1.2),
            _at(i, 0.4),
        ]
        for i, end in enumerate(ends)
        if end < datetime(1999, 1, 1, 0, 30)
    ]
    columns = {
        "nee": (("NEE",), CARBON, 0),
        "latent_heat": (("LE",), 1, 0),
        "temperature": (("Tair",), 1, 0),
        "relative_humidity": (("rH",), 0.01, 0),
        "vpd": (("VPD",), 1, 0),
        "friction_velocity": (("Ustar",), 1, 0),
        "sensible_heat": (("H",), 1, 0),
    }
    units = ["-", "-", "-", "umolm-2s-1", "Wm-2", "degC", "%", "hPa", "ms-1"]
    return Made(
        "REddyProc text",
        "Example_DETha98.txt",
        _csv("", ["Year DoY Hour NEE LE Tair rH VPD Ustar".split(), units, *rows], "\t", end="\r"),
        TextTruth("\t", named("\t", below=1), lambda row: ordinal(row["Year"], row["DoY"], row["Hour"]), columns, end=lambda ds: True),
        "\t",
        2,
    )


def rsofun_drivers() -> Made:
    days = [day for i in range(N + 1) if (day := datetime(2008, 2, 23) + i * DAY) != datetime(2008, 2, 29)]
    rows = [
        [
            f"{day:%Y-%m-%d}",
            _at(i, 10),
            _at(i, 500, 1),
            f"{4e-4 + i * 1e-6:.6g}",
            _at(i, 98000, 1),
            "1e-05",
            f"{2e-5 + i * 1e-7:.4g}",
            _at(i, 5),
            _at(i, 15),
            _at(i, 0.6),
            _at(i, 385),
            0,
        ]
        for i, day in enumerate(days)
    ]
    columns = {
        "temperature": (("temp",), 1, 0),
        "vpd": (("vpd",), 0.01, 0),
        "ppfd": (("ppfd",), 1e6, 0),
        "pressure": (("patm",), 0.01, 0),
        "snowfall": (("snow",), 86400, 0),
        "rainfall": (("rain",), 86400, 0),
        "precipitation": (("rain + snow",), 86400, 0),
        "temperature_min": (("tmin",), 1, 0),
        "temperature_max": (("tmax",), 1, 0),
        "fapar": (("fapar",), 1, 0),
        "co2": (("co2",), 1, 0),
    }
    return Made(
        "rsofun CSV",
        "p_model_drivers_forcing.csv",
        _csv("date temp vpd ppfd patm snow rain tmin tmax fapar co2 ccov", rows),
        TextTruth(",", named(","), lambda row: moment(row["date"]), columns),
        ",",
        1,
    )


def rsofun_validation() -> Made:
    rows = [["FR-Pue", f"{datetime(2008, 2, 23) + i * DAY:%Y-%m-%d}", "NA" if i == 4 else _at(i, 2), _at(i, 0.1)] for i in range(N)]
    columns = {"gpp": (("gpp",), 1, 0), "gpp_uncertainty": (("gpp_unc",), 1, 0)}
    return Made(
        "rsofun CSV",
        "p_model_validation.csv",
        _csv("sitename date gpp gpp_unc", rows),
        TextTruth(",", named(","), lambda row: moment(row["date"]), columns),
        ",",
        1,
    )


def rsofun_settings() -> Made:
    names = "spinup spinupyears recycle outdt ltre"
    rows = [["TRUE" if i % 2 else "FALSE", 10 + i, 1, 2, "FALSE"] for i in range(4)]
    return Made("rsofun CSV", "p_model_drivers_params_siml.csv", _csv(names, rows), TextTruth(",", named(","), None, {}), ",", 1)


PEPRMT = {
    "temperature": (("TA_C",), 1, 0),
    "water_table": (("WTD_cm",), 0.01, 0),
    "ppfd": (("PAR_umol_m2_day",), 1, 0),
    "evi": (("EVI",), 1, 0),
    "salinity": (("Salinity_daily_ave_ppt",), 1, 0),
    "nee": (("CO2_gC_m2_day",), 1, 0),
    "gpp": (("GPP_gC_m2_day",), -1, 0),
    "reco": (("Reco_gC_m2_day",), 1, 0),
    "methane": (("CH4_gC_m2_day",), 1, 0),
    "lai": (("LAI",), 1, 0),
}
PEPRMT_NAMES = (
    "DOY_disc Year TA_C WTD_cm PAR_umol_m2_day EVI Salinity_daily_ave_ppt CO2_gC_m2_day GPP_gC_m2_day Reco_gC_m2_day "
    "CH4_gC_m2_day site_char"
)


def _peprmt(sites: list[str]) -> Made:
    rows = []
    for k, site in enumerate(sites):
        days = [datetime(2017, 12, 27) + i * DAY for i in range(8)]
        rows += [
            [
                day.timetuple().tm_yday,
                day.year,
                _at(i, 12 + k),
                _at(i, -10, 2),
                _at(i, 400 + k),
                _at(i, 0.2),
                _at(i, 30),
                _at(i, 1),
                _at(i, -3),
                _at(i, 2),
                _at(i, 0.1),
                site,
            ]
            for i, day in enumerate(days)
        ]
    # A table of several sites has no names of the file in its attributes.
    table = {
        name: (lambda row, theirs=columns[0], factor=factor: number(row[theirs], fills=()) * factor)
        for name, (columns, factor, _) in PEPRMT.items()
    }
    truth = TextTruth(",", named(","), lambda row: ordinal(row["Year"], row["DOY_disc"]), PEPRMT, table=table)
    return Made("PEPRMT CSV", "All_sites_master.csv", _csv(PEPRMT_NAMES, rows), truth, ",", 1)


def peprmt_one_site() -> Made:
    return _peprmt(["US_EDN"])


def peprmt_two_sites() -> Made:
    return _peprmt(["US_EDN", "US_LA1"])
