"""Where the sun stands and what arrives at the top of the atmosphere: Spencer (1971), to check radiation and clocks."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

SOLAR_CONSTANT = 1361.0  # W m-2
MJ_A_DAY = 0.0864  # MJ m-2 d-1 for one W m-2


def _orbit(times: pd.DatetimeIndex) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Declination [rad], (mean distance / distance) squared [1], equation of time [h], by Spencer's Fourier series."""
    angle = 2 * np.pi * (np.asarray(times.day_of_year) - 1) / 365.25
    one, two, three = np.exp(1j * angle), np.exp(2j * angle), np.exp(3j * angle)
    declination = (0.006918 - 0.399912 * one.real + 0.070257 * one.imag - 0.006758 * two.real + 0.000907 * two.imag
                   - 0.002697 * three.real + 0.00148 * three.imag)
    nearness = 1.00011 + 0.034221 * one.real + 0.00128 * one.imag + 0.000719 * two.real + 0.000077 * two.imag
    minutes = 229.18 * (0.000075 + 0.001868 * one.real - 0.032077 * one.imag - 0.014615 * two.real - 0.040849 * two.imag)
    return declination, nearness, minutes / 60.0


def radiation_at(times: pd.DatetimeIndex, latitude: float, ahead: float = 0.0) -> np.ndarray:
    """Solar radiation on a horizontal plane at the top of the atmosphere at instants of a clock [MJ m-2 d-1].

    `latitude` [degrees north]; `ahead`: hours by which mean solar time is ahead of that clock (longitude / 15 for UTC).
    """
    declination, nearness, equation = _orbit(times)
    hours = np.asarray((times - times.normalize()) / pd.Timedelta("1h")) + ahead + equation
    phi, hour_angle = np.radians(latitude), np.pi * (hours - 12.0) / 12.0
    height = np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.cos(hour_angle)
    return SOLAR_CONSTANT * MJ_A_DAY * nearness * np.maximum(height, 0.0)


def radiation_of_day(days: pd.DatetimeIndex, latitude: float) -> np.ndarray:
    """Daily mean of solar radiation on a horizontal plane at the top of the atmosphere [MJ m-2 d-1]."""
    declination, nearness, _ = _orbit(days)
    phi = np.radians(latitude)
    sunset = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1.0, 1.0))
    height = sunset * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(sunset)
    return SOLAR_CONSTANT * MJ_A_DAY * nearness * np.maximum(height, 0.0) / np.pi


def highest_of_step(starts: pd.DatetimeIndex, step: pd.Timedelta, latitude: float, ahead: float = 0.0, margin: float = 0.0) -> np.ndarray:
    """The highest radiation at the top of the atmosphere within each step, widened by `margin` steps on both sides."""
    instants = np.linspace(-margin, 1.0 + margin, 5 if margin else 3)
    return np.max([radiation_at(starts + step * float(part), latitude, ahead) for part in instants], axis=0)


def clock_lag(starts: pd.DatetimeIndex, radiation: ArrayLike, step: pd.Timedelta, latitude: float, ahead: float = 0.0) -> pd.Series:
    """Hours by which the measured sun is later than the sun, for each month of the year with light enough.

    Compared are the centres of the daily courses: of the 95th percentile of radiation, which clouds of the afternoon
    do not shift, and of the radiation at the top of the atmosphere; stamps are starts of steps.
    """
    expected = radiation_at(starts + step / 2, latitude, ahead)
    table = pd.DataFrame({"month": starts.month, "slot": (starts - starts.normalize()) // step, "seen": np.asarray(radiation, float),
                          "expected": expected}).dropna()
    slots = table.groupby(["month", "slot"])
    courses = pd.DataFrame({"seen": slots["seen"].quantile(0.95), "expected": slots["expected"].mean()})
    turn = np.exp(2j * np.pi * np.asarray(courses.index.get_level_values("slot")) * (step / pd.Timedelta("1D")))
    months = courses.index.get_level_values("month")
    seen, sun = (pd.Series(courses[name].to_numpy() * turn).groupby(months).sum() for name in ("seen", "expected"))
    bright = (seen.abs() > 0) & (sun.abs() > 0) & (table.groupby("month").size() >= 5 * pd.Timedelta("1D") / step)
    return pd.Series(np.angle(seen / sun.where(sun.abs() > 0)) * 12 / np.pi, index=seen.index)[bright]
