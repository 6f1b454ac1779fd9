"""On how much of a record something was observed: in each season, and by day and by night."""

import re

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.io.aggregation import is_subdaily
from landcal_jax.io.clocks import hours_ahead, is_utc
from landcal_jax.io.normal import step_of
from landcal_jax.io.quantities import COMPANIONS
from landcal_jax.io.sun import MJ_A_DAY, highest_of_step

SEASONS = {"DJF": (12, 1, 2), "MAM": (3, 4, 5), "JJA": (6, 7, 8), "SON": (9, 10, 11)}
LONG = re.compile(r"P\d+Y|P(?!1M)\d+M")  # steps longer than a month
DAY_LIGHT = 10.0 * MJ_A_DAY  # by radiation measured, where the place is not known


def series_of(ds: xr.Dataset) -> list[str]:
    """Names of the variables along time, without the companions of others."""
    return [str(name) for name in ds.data_vars if ds[name].dims == ("time",) and not str(name).endswith(COMPANIONS)]


def span_days(ds: xr.Dataset) -> float:
    """Days from the first to the last stamp; counted without pandas, whose spans end at 292 years."""
    time = ds.indexes["time"].values.astype("datetime64[h]")
    return float((time[-1] - time[0]) / np.timedelta64(24, "h")) if len(time) else 0.0


def ahead_of_clock(ds: xr.Dataset) -> float:
    """Hours by which mean solar time is ahead of the clock of `ds`; 0 where the longitude is not known."""
    longitude = float(ds["longitude"])
    if not np.isfinite(longitude):
        return 0.0
    east = (longitude + 180.0) % 360.0 - 180.0
    return east / 15.0 - hours_ahead(ds)


def coverage(ds: xr.Dataset) -> pd.DataFrame:
    """Share of the steps of the record, absent rows included, on which each variable was observed and not gap-filled.

    Columns DJF, MAM, JJA, SON (months, whatever the hemisphere), `all`, and for steps shorter than a day `day` and `night`. A step
    longer than a month has no season.
    """
    step = step_of(ds)
    time = ds.indexes["time"]
    if step not in ("P1M", "P1Y", "irregular") and len(time) > 1:
        time = pd.date_range(time[0], time[-1], freq=pd.Timedelta(step))
    elif step == "P1M":
        time = pd.date_range(time[0], time[-1], freq="MS")
    whole = ds.drop_vars([name for name in ds.data_vars if ds[name].dims != ("time",)]).reindex(time=time)
    groups = {} if LONG.fullmatch(step) else {season: np.isin(time.month, months) for season, months in SEASONS.items()}
    if is_subdaily(ds):
        night = _night(whole, time, pd.Timedelta(step))
        if night is not None:
            groups |= {"day": ~night, "night": night}
    groups["all"] = np.ones(len(time), bool)
    table = {}
    for name in series_of(ds):
        seen = np.isfinite(whole[name].values).astype(float)
        if f"{name}_filled" in whole:
            seen *= 1.0 - np.nan_to_num(whole[f"{name}_filled"].values, nan=1.0)
        table[name] = {group: float(seen[mask].mean()) if mask.any() else np.nan for group, mask in groups.items()}
    return pd.DataFrame.from_dict(table, orient="index", columns=list(groups))


def _night(ds: xr.Dataset, time: pd.DatetimeIndex, step: pd.Timedelta) -> np.ndarray | None:
    """Which steps have no sun at all: by its height where the place is known, otherwise by the radiation measured."""
    latitude, longitude = float(ds["latitude"]), float(ds["longitude"])
    if np.isfinite(latitude) and (np.isfinite(longitude) or not is_utc(ds)):
        return highest_of_step(time, step, latitude, ahead_of_clock(ds)) <= 0
    if "shortwave" in ds and np.isfinite(ds["shortwave"].values).any():
        return ~(ds["shortwave"].values > DAY_LIGHT)
    return None


VOID = re.compile(r"(?P<name>\w+): (\d+ of \d+ days; )?(?P<count>\d+) (are void, with|days of which) more than (?P<most>[\d.]+) %")


def void_days(ds: xr.Dataset) -> dict[str, tuple[int, float]]:
    """Name -> days that the rule of gap-filled shares made void, and its share in percent; from the history of `fluxes`."""
    found = (VOID.match(line) for line in str(ds.attrs.get("history", "")).splitlines())
    return {match["name"]: (int(match["count"]), float(match["most"])) for match in found if match and int(match["count"])}
