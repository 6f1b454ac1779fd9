"""Mistakes of unit that pass every limit one value at a time: each is found, and the sentence says what it would be otherwise."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from landcal_jax.io.inspection import Inspection, inspect
from landcal_jax.io.normal import normalise
from landcal_jax.io.sun import radiation_of_day

LATITUDE = 50.0
DAYS = pd.date_range("2004-01-01", "2005-12-31")
N = len(DAYS)
SEASON = np.sin(2 * np.pi * (DAYS.day_of_year.to_numpy() - 80) / 365.25)
NOISE = np.random.default_rng(0).standard_normal((8, N))
WARMTH = 9 + 9 * SEASON + 2 * NOISE[0]
SUN = radiation_of_day(DAYS, LATITUDE) * (0.45 + 0.05 * NOISE[1])
VPD = 6.108 * np.exp(17.27 * WARMTH / (WARMTH + 237.3)) * np.clip(0.3 + 0.1 * NOISE[2], 0.02, 0.9)
RAIN = np.where(NOISE[3] > 0.5, 6.0, 0.0)
RIGHT = {"temperature": (WARMTH, "degC"), "shortwave": (SUN, "MJ m-2 d-1"), "ppfd": (SUN / 0.0864 * 2.04, "umol m-2 s-1"),
         "vpd": (VPD, "hPa"),
         "precipitation": (RAIN, "mm d-1"), "co2": (378 + 3 * NOISE[4], "ppm"), "pressure": (985 + 8 * NOISE[5], "hPa"),
         "wind_speed": (3 + 0.5 * NOISE[6], "m s-1"), "longwave": (310 + 20 * NOISE[6], "W m-2"),
         "latent_heat": (45 + 35 * SEASON + 5 * NOISE[7], "W m-2"), "nee": (-1 - 3 * SEASON + NOISE[2], "gC m-2 d-1"),
         "snow_depth": (np.clip(-0.5 * SEASON, 0, None), "m"), "snow_water_equivalent": (np.clip(-150 * SEASON, 0, None), "kg m-2")}


def made(folder: Path, columns: dict, times: pd.DatetimeIndex = DAYS, latitude: float | None = LATITUDE) -> Inspection:
    (folder / "site.csv").write_text("made\n")
    return inspect(normalise({name: (np.array(values, float), units, name) for name, (values, units) in columns.items()}, times,
                             path=folder / "site.csv", site="XX-Abc", latitude=latitude, longitude=11.0))


def unusual(found: Inspection) -> list[str]:
    return [each for each in found.suspicious if "usual" in each or "it would be" in each or "look" in each]


def test_a_right_file_has_no_such_sentence(tmp_path: Path) -> None:
    assert unusual(made(tmp_path, RIGHT)) == []
    summer = DAYS[152:182]
    july = {name: (values[152:182], units) for name, (values, units) in RIGHT.items()}
    assert unusual(made(tmp_path, july, summer)) == []


MISTAKES = {
    # the column as it stands in the file, with the label it has; the words that must be there
    "vpd in kPa": ("vpd", VPD / 10, "hPa",
                   ("vpd: its median is 0.", "labelled hPa; it would be ", f"{np.median(VPD):.3g} hPa if they are kPa")),
    "sunlight in W m-2": ("shortwave", SUN, "W m-2",
                          ("shortwave: its mean is", "3.9 % of what arrives", "The figures are labelled W m-2",
                           "MJ m-2 d-1 if they are MJ m-2 d-1")),
    "more light than there is": ("shortwave", np.minimum(SUN * 2.3, 47), "MJ m-2 d-1",
                                 ("103 % of what arrives at the top of the atmosphere", "25 to 75 % is usual")),
    "light in mol": ("ppfd", SUN * 0.0864 / 0.0864**2 * 2.04e-6 * 86400, "umol m-2 s-1", ("ppfd: its mean is", "if they are mol m-2 d-1")),
    "rain in mm s-1": ("precipitation", RAIN / 86400, "mm d-1", ("adds up to 0.0", "mm a year, as little as in the driest deserts",
                                                                "mm a year if they are mm s-1 (kg m-2 s-1)")),
    "no rain": ("precipitation", RAIN * 0, "mm d-1", ("precipitation: it is 0 throughout 730 days", "placeholder")),
    "rain of a month as of a day": ("precipitation", RAIN * 30.4375, "mm d-1",
                                    ("more than falls at the wettest sites", "if they are mm a month")),
    "Fahrenheit": ("temperature", np.clip(WARMTH * 1.8 + 32, None, 59), "degC", ("above 27.2 degC", "degrees Fahrenheit")),
    "air of 1800": ("co2", np.full(N, 281.0) + NOISE[0], "ppm", ("its median is 281 ppm, while the air of 2004 had about 377 ppm",)),
    "mg of CO2": ("co2", (378 + NOISE[0]) / 0.55, "ppm", ("If the figures are mg m-3, it would be 378 ppm",)),
    "mm of mercury": ("pressure", (985 + NOISE[0]) / 1.33322, "hPa", ("mm of mercury: 985 hPa",)),
    "km h-1": ("wind_speed", 3.6 * (4 + NOISE[6]), "m s-1", ("its median is 14", "4 m s-1 if they are km h-1")),
    "longwave in MJ": ("longwave", (310 + 20 * NOISE[6]) * 0.0864, "W m-2", ("its median is 26", "if they are MJ m-2 d-1")),
    "evaporation as heat": ("latent_heat", RIGHT["latent_heat"][0] / 28.4, "W m-2", ("95th percentile is 2.", "if they are mm d-1")),
    "nee in kgC m-2 s-1": ("nee", RIGHT["nee"][0] / 8.64e7, "gC m-2 d-1", ("standard deviation is ", "if they are kgC m-2 s-1")),
    "snow in dm": ("snow_depth", 14 * np.clip(-SEASON, 0, None), "m",
                   ("95th percentile is 13", "1.3", "m if they are dm", "m if they are cm")),
    "snow density": ("snow_water_equivalent", np.clip(-0.15 * SEASON, 0, None), "kg m-2",
                     ("median density of 0.3 kg m-3", "water in m")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_of_unit_is_found_and_named(tmp_path: Path, mistake: str) -> None:
    name, values, units, words = MISTAKES[mistake]
    found = unusual(made(tmp_path, RIGHT | {name: (values, units)}))
    about = [each for each in found if name in each.split(":")[0]]
    assert about, found
    assert any(all(word in each for word in words) for each in about), about
    assert [each for each in found if each not in about] == [] or mistake == "Fahrenheit", found


def test_vpd_alone_and_without_a_place(tmp_path: Path) -> None:
    found = unusual(made(tmp_path, {"vpd": (VPD / 10, "hPa")}, latitude=None))
    assert len(found) == 1 and "95th percentile is 0.7" in found[0] and "hPa if they are kPa" in found[0]
    assert unusual(made(tmp_path, {"vpd": (VPD, "hPa")}, latitude=None)) == []
