"""What a stamp labels, in closed form, and amounts per step, month and year as rates."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landcal_jax.io.normal import normalise
from landcal_jax.io.readers.fluxnet import read_fluxnet
from landcal_jax.io.readers.tables import read_table
from landcal_jax.io.steps import step_starts

PATH = Path("made.csv")


def first(time, label: str, step: str | None = None, **options: bool) -> tuple[str, str]:
    starts, found = step_starts(time, label, step, PATH, **options)
    return f"{starts[0]:%Y-%m-%d}", found


def daily_stamps(count: int = 12, freq: str = "D", start: str = "2005-07-01 00:00") -> pd.DatetimeIndex:
    return pd.date_range(start, periods=count, freq=freq)


@pytest.mark.parametrize(("time", "label", "expected"), [
    (daily_stamps(), "end", "2005-06-30"),  # instants: midnight ends the day before
    (daily_stamps().strftime("%Y-%m-%d").to_numpy(object), "end", "2005-07-01"),  # dates: a day has its own name
    (daily_stamps().strftime("%Y-%m-%d 00:00").to_numpy(object), "end", "2005-06-30"),
    (daily_stamps().to_numpy("datetime64[D]"), "end", "2005-07-01"),
    (daily_stamps(start="2005-07-01 23:30"), "end", "2005-07-01"),
    (daily_stamps(start="2005-07-01 12:00"), "middle", "2005-07-01"),
    (daily_stamps(), "start", "2005-07-01"),
    (daily_stamps(freq="MS"), "end", "2005-06-01"),
    (daily_stamps(freq="MS").strftime("%Y-%m-%d").to_numpy(object), "end", "2005-07-01"),
    (daily_stamps(freq="MS").strftime("%Y-%m").to_numpy(object), "end", "2005-07-01"),
    (daily_stamps(freq="ME"), "end", "2005-07-01"),
    (daily_stamps(freq="MS").to_numpy("datetime64[M]"), "end", "2005-07-01"),
    (daily_stamps(freq="YS", start="2005-01-01"), "end", "2004-01-01"),
    (daily_stamps(freq="8D"), "start", "2005-07-01"),
    (daily_stamps(freq="8D"), "end", "2005-06-23"),  # eight days that end as July begins
    (daily_stamps(freq="8D").strftime("%Y-%m-%d").to_numpy(object), "end", "2005-06-24"),  # 1 July is the eighth
    (daily_stamps(freq="8D"), "middle", "2005-06-27"),
    (daily_stamps(freq="7D", start="2005-07-04 12:00"), "middle", "2005-07-01"),
    (daily_stamps(freq="7D", start="2005-07-04").strftime("%Y-%m-%d").to_numpy(object), "middle", "2005-07-01"),
    (daily_stamps(freq="8D", start="2005-07-08 23:59"), "end", "2005-07-01"),
])
def test_the_start_of_the_first_step(time, label: str, expected: str) -> None:
    assert first(time, label)[0] == expected
    assert first(pd.DatetimeIndex(pd.to_datetime(time)), label)[1] == first(time, label)[1]


def table(folder: Path, head: str, body: str) -> Path:
    (folder / "table.csv").write_text(head + "time,nee\n-,gC m-2 d-1\n" + body)
    return folder / "table.csv"


@pytest.mark.parametrize(("form", "expected"), [
    ("%Y-%m-%d", "2005-07-01"), ("%Y%m%d", "2005-07-01"), ("%Y%m%d%H%M", "2005-06-30"), ("%Y-%m-%d %H:%M", "2005-06-30")])
def test_dates_as_ends_in_a_table(tmp_path: Path, form: str, expected: str) -> None:
    made = read_table(table(tmp_path, "# label: end\n", "".join(f"{time.strftime(form)},{i}\n" for i, time in enumerate(daily_stamps()))))
    assert str(made["time"].values[0])[:10] == expected and float(made["nee"][0]) == 0.0
    named = "dates without an hour: each was taken as the day that it names" in made.attrs["history"]
    assert named == (expected == "2005-07-01") and ("Stamps at 00:00 end the day before" in made.attrs["history"]) != named


def test_months_as_ends_in_a_table(tmp_path: Path) -> None:
    made = read_table(table(tmp_path, "# label: end\n", "".join(f"{time:%Y%m},1\n" for time in daily_stamps(freq="MS"))))
    assert str(made["time"].values[0])[:10] == "2005-07-01" and made["time"].attrs["step"] == "P1M"
    assert "each was taken as the month that it names" in made.attrs["history"]


def test_a_daily_timestamp_end_of_fluxnet(tmp_path: Path) -> None:
    path = tmp_path / "FLX_XX-Abc_FLUXNET2015_FULLSET_DD_2005-2005.csv"
    path.write_text("TIMESTAMP_END,NEE_VUT_REF\n" + "".join(f"{time:%Y%m%d},1.0\n" for time in daily_stamps()))
    assert str(read_fluxnet(path)["time"].values[0])[:10] == "2005-07-01"


def test_weeks_say_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "FLX_XX-Abc_FLUXNET2015_FULLSET_WW_2005-2005.csv"
    path.write_text("TIMESTAMP_START,TIMESTAMP_END,NEE_VUT_REF\n20050101,20050107,1.0\n20050108,20050114,1.0\n")
    with pytest.raises(ValueError, match="(?s)half-hours, hours, days or months.*the weeks of WW.*read the DD file"):
        read_fluxnet(path)


def test_the_hour_24_is_the_next_midnight(tmp_path: Path) -> None:
    stamps = [f"20041231{hour:02d}00" for hour in range(1, 25)] + ["200501010100"]
    made = read_table(table(tmp_path, "# label: end\n", "".join(f"{stamp},1\n" for stamp in stamps)))
    assert made["time"].attrs["step"] == "PT1H" and str(made["time"].values[[0, 23, 24]].astype("datetime64[h]")) == (
        "['2004-12-31T00' '2004-12-31T23' '2005-01-01T00']")
    with pytest.raises(ValueError, match="(?s)YYYYMMDDHHMM.*'200412312430' in line 4"):
        read_table(table(tmp_path, "", "200412312300,1\n200412312430,1\n"))


# --- rates ---


def rate(units: str, time: pd.DatetimeIndex, folder: Path, value: float = 31.0, name: str = "nee", **options: object):
    (folder / "made.csv").write_text("made\n")
    return normalise({name: (np.full(len(time), value), units)}, time, path=folder / "made.csv", site="XX-Abc", **options)


@pytest.mark.parametrize("units", ["gC m-2 month-1", "gC m-2 mon-1", "gC/m2/month", "gC month-1 m-2", "gC m-2 per month", "gC m-2 month^-1",
                                   "gC m-2 per step"])
def test_months_have_their_own_length(tmp_path: Path, units: str) -> None:
    months = pd.date_range("2004-01-01", periods=14, freq="MS")
    made = rate(units, months, tmp_path)
    np.testing.assert_allclose(made["nee"][[0, 1, 3, 13]], 31.0 / np.array([31, 29, 30, 28]), rtol=1e-12)
    assert "divided by the 28 to 31 days of each it is" in made.attrs["history"] and made["nee"].attrs["units"] == "gC m-2 d-1"


def test_years_and_steps(tmp_path: Path) -> None:
    years = pd.date_range("2003-01-01", periods=3, freq="YS")
    np.testing.assert_allclose(rate("mm year-1", years, tmp_path, 365.0, "precipitation")["precipitation"], [1, 365 / 366, 1])
    np.testing.assert_allclose(rate("kg m-2 yr-1", years, tmp_path, 366.0, "precipitation")["precipitation"], [366 / 365, 1, 366 / 365])
    np.testing.assert_allclose(rate("mm per step", pd.date_range("2003", periods=9, freq="h"), tmp_path, 0.5, "rainfall")["rainfall"], 12)
    np.testing.assert_allclose(rate("mm/step", pd.date_range("2003", periods=9, freq="8D"), tmp_path, 16.0, "rainfall")["rainfall"], 2)
    kept = rate("mm d-1", pd.date_range("2003", periods=9, freq="D"), tmp_path, 0.5, "rainfall", fills=(0.5,))
    assert kept["rainfall"].isnull().all() and "sum over" not in kept.attrs["history"]


@pytest.mark.parametrize(("units", "freq", "part"), [
    ("gC m-2 month-1", "D", "only where the step is a month.*P1D; a month has no one length"),
    ("gC m-2 yr-1", "MS", "only where the step is a year.*P1M"), ("gC m-2 month-1", "YS", "only where the step is a month")])
def test_a_month_at_another_step_is_refused(tmp_path: Path, units: str, freq: str, part: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){part}"):
        rate(units, pd.date_range("2003-01-01", periods=9, freq=freq), tmp_path)


def test_rain_of_months_in_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rain.csv"
    path.write_text("time,precipitation\n-,mm per step\n2005-01,62\n2005-02,28\n2005-03,-9999\n2005-04,15\n")
    with pytest.raises(ValueError, match="like 2005-06-30"):
        read_table(path)
    path.write_text("time,precipitation\n-,mm per step\n200501,62\n200502,28\n200503,-9999\n200504,15\n")
    made = read_table(path)
    np.testing.assert_allclose(made["precipitation"], [2, 1, np.nan, 0.5])
    assert made["precipitation"].attrs["units_in_file"] == "mm per step"
