"""The reader of plain tables with a row of units: conversions, labels, refusals."""

import numpy as np
import pandas as pd
import pytest

from landcal_jax.errors import complaint_of
from landcal_jax.io.readers.tables import FORMATS, read_table
from landcal_jax.io.recognition import Head

HEADER = "# site: XX-Abc\n# latitude: 61.8\n# longitude: 24.3\n# time_zone: UTC\n"


def write(folder, text, name="table.csv"):
    path = folder / name
    path.write_text(text)
    return path


def refused(path, **options):
    with pytest.raises(ValueError) as caught:
        read_table(path, **options)
    text = complaint_of(caught.value)
    assert text is not None, caught.value
    return text


def test_values_units_and_place(tmp_path):
    path = write(tmp_path, HEADER + "time,nee,temperature,soil_moisture,co2,mystery\n-,umol m-2 s-1,K,percent,ppm,-\n"
                 "2005-06-30 00:00,1.0,273.15,31.0,400,x\n2005-06-30 00:30,-9999,283.15,32.0,,y\n2005-06-30 01:00,-2.0,293.15,33.0,402,z\n")
    ds = read_table(path)
    np.testing.assert_allclose(ds.nee, [1.0377504, np.nan, -2.0755008], rtol=1e-6)
    np.testing.assert_allclose(ds.temperature, [0.0, 10.0, 20.0], atol=1e-9)
    np.testing.assert_allclose(ds.soil_moisture, [0.31, 0.32, 0.33])
    assert ds.site.item() == "XX-Abc" and ds.latitude.item() == 61.8 and ds.longitude.item() == 24.3
    assert ds.time.attrs["time_zone"] == "UTC" and ds.time.attrs["step"] == "PT30M"
    assert ds.nee.attrs["units_in_file"] == "umol m-2 s-1"
    assert "Columns that are not read: mystery." in ds.attrs["history"]
    assert "nee (nee): 2 values on 3 steps; 1 fill values are missing." in ds.attrs["history"]
    assert "taken as the start" in ds.attrs["history"]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_and_label(tmp_path, separator):
    text = "# label: end\ntime,nee\n-,gC m-2 d-1\n2005-06-30 00:30,1.5\n2005-06-30 01:00,2.5\n".replace(",", separator)
    ds = read_table(write(tmp_path, text))
    assert ds.time.values[0] == np.datetime64("2005-06-30T00:00") and ds.time.attrs["label_in_file"] == "end"
    np.testing.assert_allclose(ds.nee, [1.5, 2.5])
    assert ds.site.item() == "unknown" and "give site=" in ds.attrs["history"] and np.isnan(ds.latitude)


def test_decimal_comma(tmp_path):
    ds = read_table(write(tmp_path, "date;nee\n-;gC m-2 d-1\n2005-06-30;-1,5\n2005-07-01;2\n"))
    np.testing.assert_allclose(ds.nee, [-1.5, 2.0])
    assert "Decimals are written with a comma" in ds.attrs["history"]


def test_fluxnet_names_and_sums(tmp_path):
    rows = "".join(f"2005063000{minute:02d},2005063000{minute + 30:02d},0.5,{i}\n" for i, minute in enumerate((0,)))
    rows += "200506300030,200506300100,-9999,1\n200506300100,200506300130,0.25,2\n"
    ds = read_table(write(tmp_path, "TIMESTAMP_START,TIMESTAMP_END,P_F,NEE_VUT_REF\n-,-,mm per step,umol m-2 s-1\n" + rows))
    np.testing.assert_allclose(ds.precipitation, [24.0, np.nan, 12.0])
    np.testing.assert_allclose(ds.nee, np.array([0, 1, 2]) * 1.0377504, rtol=1e-6)
    assert "times 48 it is mm d-1" in ds.attrs["history"] and "start" in ds.time.attrs["label_in_file"]


def test_without_units_shows_the_row(tmp_path):
    text = refused(write(tmp_path, "time,nee,mystery,albedo\n2005-06-30,1,2,0.5\n2005-07-01,1,2,0.4\n"))
    assert "-,gC m-2 d-1,-,1" in text and "line 2 of table.csv" in text


def test_fraction_under_percent(tmp_path):
    text = refused(write(tmp_path, "time,albedo\n-,%\n2005-06-30,0.5\n2005-07-01,0.99\n"))
    assert "0.5 to 0.99" in text and "write 1 for its unit" in text
    ds = read_table(write(tmp_path, "time,albedo\n-,%\n2005-06-30,50\n2005-07-01,99\n"))
    np.testing.assert_allclose(ds.albedo, [0.5, 0.99])
    assert "albedo between 0 and 1" in refused(write(tmp_path, "time,albedo\n-,1\n2005-06-30,50\n2005-07-01,99\n"))


@pytest.mark.parametrize(("body", "words"), [
    ("time,precipitation\n-,mm\n2005-06-30,1\n2005-07-01,2\n", "mm per step"),
    ("time,nee\n-,\n2005-06-30,1\n2005-07-01,2\n", "a unit of nee in line 2"),
    ("time,nee\n-,W m-2\n2005-06-30,1\n2005-07-01,2\n", "gC m-2 d-1"),
    ("time,nee\n-,-\n2005-06-30,1\n2005-07-01,2\n", "gC m-2 d-1"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2x\n", "'2x' in line 4"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01\n", "1 in line 4"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2,3\n", "3 in line 4"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,1\n01/07/2005,2\n", "'01/07/2005' in line 4"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30T00:00Z,1\n2005-07-01T00:00+01:00,2\n", "offset"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-06-30,2\n", "twice"),
    ("time,nee\n-,gC m-2 d-1\n9999-06-30,1\n9999-07-01,2\n", "9999-06-30"),
    ("time,nee,nee\n-,gC m-2 d-1,-\n2005-06-30,1,2\n2005-07-01,2,1\n", "nee twice"),
    ("# label: noon\ntime,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2\n", "start, middle or end"),
    ("# latitude: north\ntime,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2\n", "latitude"),
    ("# latitude: 161\ntime,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2\n", "latitude in degrees"),
    ("# step: half an hour\ntime,nee\n-,gC m-2 d-1\n2005-06-30,1\n2005-07-01,2\n", "ISO 8601"),
    ("time,nee\n-,gC m-2 d-1\n", "units only"),
    ("time,temperature\n-,K\n2005-06-30,15\n2005-07-01,16\n", "temperature between"),
    ("time,nee\n-,gC m-2 d-1\n2005-06-30,\"1\n2005-07-01,2\n2005-07-02,2\n", "table.csv"),
    ("# label: start\nTIMESTAMP_END,nee\n-,gC m-2 d-1\n200506300030,1\n200506300100,2\n", "TIMESTAMP_END"),
    ("foo,bar\n-,-\n1,2\n", "a column of time"),
])
def test_refusals(tmp_path, body, words):
    assert words in refused(write(tmp_path, body))


def test_several_sites(tmp_path):
    path = write(tmp_path, "site,time,nee\n-,-,gC m-2 d-1\nA,2005-06-30,1\nA,2005-07-01,2\nB,2005-06-30,3\nB,2005-07-01,4\n")
    assert "2 sites: A, B" in refused(path)
    assert "one site" in refused(path, site="C")
    ds = read_table(path, site="B")
    assert ds.site.item() == "B" and ds.nee.values.tolist() == [3.0, 4.0] and "this is B" in ds.attrs["history"]


def test_centimetres_and_missing_value(tmp_path):
    ds = read_table(write(tmp_path, "# missing: -99\ntime,snow_depth,snow_depth_filled\n-,cm,1\n2005-01-30,120,0\n2005-01-31,-99,1\n"))
    np.testing.assert_allclose(ds.snow_depth, [1.2, np.nan])
    np.testing.assert_allclose(ds.snow_depth_filled, [0, 1])
    ds = read_table(write(tmp_path, "time,snow_depth\n-,cm\n2005-01-30,1.2\n2005-01-31,1.1\n"))
    assert "check whether it is in m" in ds.attrs["history"]


def test_recognition(tmp_path):
    recognises = FORMATS[0].recognises
    assert recognises(Head(write(tmp_path, "# a\ntime;nee\n-;gC m-2 d-1\n2005-06-30;1\n")))
    assert recognises(Head(write(tmp_path, "time,nee\n2005-06-30,1\n")))  # to be refused with the row to add
    assert not recognises(Head(write(tmp_path, "a,b\n1,2\n")))
    assert not recognises(Head(write(tmp_path, "time,b\n1,2\n")))


def test_monthly_and_daily_steps(tmp_path):
    months = pd.period_range("2001-01", periods=4, freq="M")
    ds = read_table(write(tmp_path, "time,nee\n-,gC m-2 d-1\n" + "".join(f"{month}-15,1\n" for month in months)))
    assert ds.time.attrs["step"] == "P1M" and ds.time.values[1] == np.datetime64("2001-02-01")


def moisture(folder, values, unit="percent"):
    days = pd.date_range("2005-01-01", periods=len(values))
    rows = "".join(f"{day:%Y-%m-%d},{value:g}\n" for day, value in zip(days, values, strict=True))
    return write(folder, f"time,soil_moisture\n-,{unit}\n{rows}")


def test_percent_is_told_by_most_values_and_not_by_the_largest(tmp_path):
    fractions = np.linspace(0.05, 0.45, 50)
    text = refused(moisture(tmp_path, np.r_[fractions, 31.0]))  # one spike does not make percent of it
    assert "values from 0.05 to 0.45, which are fractions but for 1 up to 31" in text and "write 1 for its unit" in text
    text = refused(moisture(tmp_path, np.r_[fractions, 100 * fractions, 100 * fractions]))  # the sensor was changed
    assert "50 values from 0.05 to 0.45, as fractions are, and 100 from 5 to 45" in text and "one unit" in text
    desert = np.r_[np.linspace(0.4, 1.0, 20), np.linspace(1.1, 6.0, 80)]
    np.testing.assert_allclose(read_table(moisture(tmp_path, desert))["soil_moisture"], desert / 100, rtol=1e-5)
    np.testing.assert_allclose(read_table(moisture(tmp_path, np.r_[0.0, 0.0, 0.9, 20.0, 30.0]))["soil_moisture"][-1], 0.3)


def test_time_zones_and_hours_of_a_table(tmp_path):
    body = "time,nee\n-,gC m-2 d-1\n2005-06-30 00:00,1\n2005-06-30 01:00,2\n"
    assert "'CET'" in refused(write(tmp_path, "# time_zone: CET\n" + body))
    assert read_table(write(tmp_path, "# time_zone: GMT+1\n" + body)).time.attrs["time_zone"] == "UTC+1"
