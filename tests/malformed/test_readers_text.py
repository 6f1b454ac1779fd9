"""Malformed CSV and other text files, one fault each, as `landcal inspect` meets them; and readers of the user."""

import gzip
from pathlib import Path

import pytest
from good_files import CARDAMOM_VALIDATION, FLUXNET, FLUXNET_NAME, FSM, NOAA, PICARRO, REDDYPROC, SITES, SMET, TABLE, TRENDY
from malformed_case import Case, check, names, replaced


def case(name, file, source, old, new, expected, got, advice, count=1):
    """The case of a text in which `old` becomes `new`."""
    def write():
        Path(file).write_bytes(replaced(source, old, new, count).encode())
    return Case(name, f"inspect {file}", write, expected, got, advice)


def whole(name, file, content, expected, got, advice):
    """The case of another text altogether."""
    return Case(name, f"inspect {file}", lambda: Path(file).write_bytes(content), expected, got, advice)


def fluxnet(name, old, new, expected, got, advice, count=1):
    return case(f"fluxnet {name}", FLUXNET_NAME, FLUXNET, old, new, expected, got, advice, count)


def table(name, old, new, expected, got, advice, count=1):
    return case(f"table {name}", "table.csv", TABLE, old, new, expected, got, advice, count)


LINES = FLUXNET.split("\n")
DST = "200506010200,200506010230"  # an hour that daylight saving time repeats
HOURS = "\n".join(LINES[:50] + ["200506020030,200506020130,-4.0,0,100.0,1,10.5,0"] + [""])
CASES = [
    # FLUXNET
    fluxnet("stamp twice", LINES[6] + "\n", LINES[5] + "\n" + LINES[6] + "\n", f"increasing time stamps in {FLUXNET_NAME}, none twice",
            "2005-06-01 02:00:00 twice (value 6 of time)", "daylight saving time must not be used"),
    fluxnet("repeated hour", LINES[7] + "\n" + LINES[8] + "\n", LINES[5] + "\n" + LINES[6] + "\n",
            f"increasing time stamps in {FLUXNET_NAME}",
            "2005-06-01 02:00:00 after 2005-06-01 02:30:00 (value 7 of time)", "daylight saving time"),
    fluxnet("start and end apart", DST, "200506010200,200506010300",
            f"after TIMESTAMP_START by 0 days 00:30:00 on each row of {FLUXNET_NAME}",
            "by 0 days 01:00:00 in line 6", "daylight saving time"),
    whole("fluxnet hours after half-hours", FLUXNET_NAME, HOURS.encode(),
          f"TIMESTAMP_START by 0 days 00:30:00 on each row of {FLUXNET_NAME}",
          "by 0 days 01:00:00 in line 51", "correct the stamps"),
    fluxnet("text for a number", "-5.0,0", "low,0", f"numbers in column NEE_VUT_REF of {FLUXNET_NAME}", "'low' in line 2, and 0 more",
            "-9999"),
    fluxnet("no stamps", "TIMESTAMP_START,TIMESTAMP_END", "BEGIN,FINISH", "a file in one of the formats", FLUXNET_NAME, "--reader"),
    fluxnet("no value that is known", ",NEE_VUT_REF,NEE_VUT_REF_QC,LE_F_MDS,LE_F_MDS_QC,TA_F,TA_F_QC", ",A,B,C,D,E,F",
            f"values in {FLUXNET_NAME}, such as NEE_VUT_REF", "no such column", "which product"),
    whole("fluxnet header only", FLUXNET_NAME, LINES[0].encode(), f"rows of data in {FLUXNET_NAME}", "a header only", "download"),
    fluxnet("ragged row", LINES[10], LINES[10] + ",7", f"8 cells in each row of {FLUXNET_NAME}", "9 in line 11", "correct the row"),
    whole("fluxnet cut short", FLUXNET_NAME, FLUXNET.encode()[:-30], f"8 cells in each row of {FLUXNET_NAME}",
          "in line 97 (the last line: the file was cut short)", "download"),
    fluxnet("column twice", "LE_F_MDS_QC,TA_F,", "TA_F,TA_F,", f"one column of each name in {FLUXNET_NAME}", "TA_F twice",
            "rename or remove"),
    fluxnet("spreadsheet stamps", "200506010000,", "2.00506E+11,", f"of {FLUXNET_NAME} as YYYYMMDDHHMM", "'2.00506E+11' in line 2",
            "a spreadsheet has rounded the stamps"),
    fluxnet("thirteenth month", "200506010200,2", "200513010200,2", f"TIMESTAMP_START of {FLUXNET_NAME} as YYYYMMDDHHMM",
            "'200513010200' in line 6", "correct the row"),
    fluxnet("flag of another kind", "-5.0,0,", "-5.0,7,", f"NEE_VUT_REF_QC 0, 1, 2 or 3 in {FLUXNET_NAME}", "7 in line 2", "the step"),
    whole("fluxnet another step than its name", FLUXNET_NAME.replace("_HH_", "_HR_"), FLUXNET.encode(), "steps of HR in FLX_FI-Xxx",
          "steps of PT30M", "rename the file"),
    whole("fluxnet another site than its name", FLUXNET_NAME, b"# Site: US-Yyy\n# Version: 1\n" + FLUXNET.encode(),
          f"one site in {FLUXNET_NAME}",
          "US-Yyy in its comment, FI-Xxx in its name", "rename the file"),
    fluxnet("Kelvin", "10.5,0\n", "283.6,0\n", f"temperature between -95 and 60 degC in {FLUXNET_NAME}", "283.6 on 2005-06-01 00:00",
            "check the unit", -1),
    whole("fluxnet zero bytes", FLUXNET_NAME, FLUXNET.replace(",100.0,", ",\0\0\0\0\0,", 1).encode(),
          f"text without zero bytes in {FLUXNET_NAME}", "the first in line 2", "damaged"),
    whole("table in UTF-16", "table.csv", TABLE.encode("utf-16"), "text in UTF-8 in table.csv", "text in UTF-16", "save"),
    whole("fluxnet auxiliary file", "FLX_FI-Xxx_FLUXNET2015_AUXMETEO_1-4.csv",
          b"VARIABLE,PARAMETER,VALUE,TIMESTAMP\nTA,ERA_SLOPE,1.0,-9999\n",
          "series of fluxes or weather", "parameters of the processing (AUXMETEO or AUXNEE)", "the FULLSET"),
    # a plain table with units
    table("no units", "-,gC m-2 d-1,percent,mm d-1,degC\n", "", "the units in line 5 of table.csv, below the header",
          "data at once: 2005-06-01", "gC m-2 d-1"),
    table("unknown unit", "gC m-2 d-1", "wombats", "nee (nee) of table.csv in a unit that can become 'gC m-2 d-1'", "'wombats'",
          "correct the units"),
    table("missing unit", "-,gC m-2 d-1", "-,", "a unit of nee in line 5 of table.csv", "none", "'gC m-2 d-1'"),
    table("a unit too few", "percent,mm d-1,degC", "percent,mm d-1", "5 units in line 5 of table.csv", "4", "write -"),
    table("fraction under percent", "30.5,0.0,12.5\n2005-06-02,-1.7,30.1,2.5,13.1\n2005-06-03,-1.9,29.8",
          "0.3,0.0,12.5\n2005-06-02,-1.7,0.3,2.5,13.1\n2005-06-03,-1.9,0.3",
          "soil_moisture (soil_moisture) of table.csv in percent", "values from 0.3 to 0.3, which are fractions", "write 1"),
    table("percent under fraction", "percent", "1", "soil_moisture between 0 and 1", "30.5 on 2005-06-01, and 2 more", "unit"),
    table("sum for a rate", "mm d-1", "mm", "precipitation of table.csv as a rate", "'mm'", "mm per step"),
    table("no column that is known", "date,nee,soil_moisture,precipitation,temperature", "date,nee_daily,soil,rain,airtemp",
          "one of the formats",
          "table.csv, with columns date, nee_daily, soil, rain, airtemp", "rename columns (nee for nee_daily ... row of units"),
    table("a cell too many", "2.5,13.1", "2.5,13.1,7", "5 cells in each row of table.csv", "6 in line 7", "correct the row"),
    table("text for a number", "-1.7", "n.d.", "numbers in column nee of table.csv", "'n.d.' in line 7", "-9999 or blank"),
    table("American date", "2005-06-02", "06/02/2005", "date of table.csv like 2005-06-30", "'06/02/2005' in line 7", "year first"),
    table("no such day", "2005-06-02", "2005-06-31", "date of table.csv like 2005-06-30", "'2005-06-31' in line 7", "no such day"),
    table("rows not in order", "2005-06-02", "2005-05-02", "increasing time stamps in table.csv", "2005-05-02 00:00:00 after 2005-06-01",
          "sort"),
    table("latitude", "latitude: 61.85", "latitude: 912", "one latitude in degrees in table.csv", "[912.0]", "degrees"),
    table("latitude in words", "latitude: 61.85", "latitude: north", "# latitude: a number in table.csv", "'north'", "61.85"),
    table("label", "# site", "# label: noon\n# site", "# label: start, middle or end in table.csv", "'noon'", "label"),
    table("a word where a time zone offset is", "2005-06-02", "2005-06-02T00:00+02:00", "date of table.csv", "+02:00' in line 7",
          "time zone"),
    table("impossible value", "14.2", "1420", "temperature between -95 and 60 degC in table.csv", "1420 on 2005-06-03, and 0 more", "unit"),
    table("open quotes", "2005-06-02,-1.7", '2005-06-02,"-1.7', "5 cells in each row of table.csv",
          "2 in line 7 (a quotation mark is not closed)",
          "correct the row"),
    # snow and air
    case("fsm 11 columns", "met_Xyz_0506.txt", FSM, "     0.0   87430.", "   87430.", "12 cells on each row of met_Xyz_0506.txt",
         "11 on line 2",
         "correct the row"),
    case("fsm hour 25", "met_Xyz_0506.txt", FSM, "10   1   3", "10   1  25", "hours from 0 to 24 in column 4 of met_Xyz_0506.txt",
         "25 on line 3",
         "correct the row"),
    case("fsm text", "met_Xyz_0506.txt", FSM, "277.7", "mild", "numbers in column 9 (Ta) of met_Xyz_0506.txt", "'mild' on line 3",
         "correct the cell"),
    case("smet without data", "XYZ.smet", SMET, "[DATA]\n", "", "lines of key = value in the header of XYZ.smet",
         "'2010-01-01T01:00 270.1 0.8 1.2' on line 9", "[DATA] ends the header"),
    case("smet in degC", "XYZ.smet", SMET, "270.3", "-2.8", "TA of XYZ.smet in K", "-2.8", "units_offset"),
    case("smet row", "XYZ.smet", SMET, "270.3 0.8 1.2", "270.3 0.8", "4 cells on each row of XYZ.smet", "3 on line 11", "correct the row"),
    case("picarro row", "tac.picarro.1minute.100m.dat", PICARRO, "400.32      0.11", "400.32",
         "cells on each row of tac.picarro.1minute.100m.dat",
         "6 on line 5", "download"),
    case("noaa header", "co2_xyz.txt", NOAA, "header_lines : 9", "header_lines : 10", "10 lines of header in co2_xyz.txt", "9", "download"),
    case("noaa gas", "co2_xyz.txt", NOAA, "dataset_parameter : co2", "dataset_parameter : sf6", "CO2 or CH4 in co2_xyz.txt", "'sf6'",
         "no name in the normal form"),
    case("trendy", "trendy.txt", TRENDY, "276.62", "27b.62", "lines like Annee_1700=277.57 in trendy.txt", "'Annee_1701=27b.62' on line 2",
         "download"),
    case("trendy year twice", "trendy.txt", TRENDY, "Annee_1701", "Annee_1700", "increasing time stamps in trendy.txt",
         "1700-01-01 00:00:00 twice (value 2 of time)", "remove the repeated"),
    case("reddyproc unit", "Example_DETha98.txt", REDDYPROC, "umolm-2s-1", "umols", "nee (NEE) of Example_DETha98.txt", "'umols'",
         "correct"),
    case("reddyproc day 400", "Example_DETha98.txt", REDDYPROC, "1998\t1\t1.0", "1998\t400\t1.0",
         "a day of the year (1 to 366) ... of Example_DETha98.txt", "1998, 400 and 1 in line 4", "correct the row"),
    case("cardamom month", "validation_FI-Xxx.csv", CARDAMOM_VALIDATION, "85,200801", "87,200801",
         "ID of validation_FI-Xxx.csv counting the months",
         "ID 87 for 200801 in line 3", "correct the row"),
    case("site twice", "sites.csv", SITES, "US-Yyy", "FI-Xxx", "each site once in sites.csv", "FI-Xxx 2 times", "remove"),
    case("site off the globe", "sites.csv", SITES, "31.0", "131.0", "latitude in degrees on every row of sites.csv", "131.0 in row 2",
         "correct"),
    # files of any kind
    whole("gzip that is none", "table.csv.gz", b"no gzip", "a file of data", "table.csv.gz, which cannot be unpacked", "download"),
    whole("gzip cut short", "table.csv.gz", gzip.compress(TABLE.encode())[:-20], "a file of data",
          "table.csv.gz, which cannot be unpacked", "download"),
    whole("a picture", "table.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a file in one of the formats",
          "table.csv, which begins with the bytes", "--reader"),
]


@pytest.mark.parametrize("case", CASES, ids=names(CASES))
def test_one_fault_one_sentence(case):
    check(case)


def test_a_gzip_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setenv("LANDCAL_LARGEST_FILE_GB", "0.001")
    header, _, rows = TABLE.partition("2005-06-01")
    Path("table.csv.gz").write_bytes(gzip.compress(header.encode() + ("2005-06-01" + rows + "\n" * 30_000_000).encode(), 1))
    check(Case("bomb", "inspect table.csv.gz", lambda: None, "a CSV table, at most 1 MB once it is unpacked",
               "table.csv.gz, more than that from 0.131 MB", "LANDCAL_LARGEST_FILE_GB"))
