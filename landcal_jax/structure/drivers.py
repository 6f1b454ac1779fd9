"""What a process may respond to otherwise than in the model: the drivers of `SiteForward`, their memory, dryness, season and time.

A `Response` is a series (site, time) of mean zero and variance one over the record of each site. Structural tests let every parameter of
the model vary with every response in turn (`signals`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from landcal_jax.forward import SiteForward
from landcal_jax.io.quantities import METEOROLOGY

MEMORY_DAYS = 30.0
"""E-folding time of the recent past: a month, in which a soil dries and a plant acclimates."""
BUCKET = 100.0
"""Water [mm] that the soil of the dryness index holds, what roots commonly reach (Thornthwaite and Mather 1955 take 100 to 300)."""
ALIKE = 0.98  # correlation above which two responses cannot be told apart, and the later one is left out
EVAPORATION_HEAT = 2.45  # MJ kg-1


@dataclass(frozen=True)
class Driver:
    """One driver: the `fields` of the forcing that belong to it (minimum and maximum of temperature), what it is in words, its unit."""

    name: str
    fields: tuple[str, ...]
    means: tuple[str, ...]
    words: str
    units: str


@dataclass(frozen=True)
class Response:
    """`values` (site, time) of something that a process may respond to; `theme`: what responses of one kind share; `words` for both."""

    name: str
    theme: str
    words: str
    values: np.ndarray


def drivers_of(forward: SiteForward) -> list[Driver]:
    """The drivers among the fields of the forcing, those that are quantities of the normal form; what varies nowhere is left out.

    Fields of one standard name are one driver, such as the minimum and the maximum of temperature, and `mean_` fields, means over the
    record that a model uses, follow the driver whose name they hold.
    """
    forcing, real = forward.sites.forcing, forward.sites.real
    groups: dict[str, list[str]] = {}
    for name in forcing._fields:
        about, values = METEOROLOGY.get(name), getattr(forcing, name)
        if about is not None and values is not None and np.asarray(values)[real].std() > 0:
            groups.setdefault(about.standard_name or name, []).append(name)
    drivers = []
    for standard, fields in groups.items():
        name = fields[0] if len(fields) == 1 else fields[0].split("_")[0]
        words = METEOROLOGY[fields[0]].long_name if len(fields) == 1 else standard.replace("_", " ")
        means = tuple(mean for mean in (f"mean_{name}",) if getattr(forcing, mean, None) is not None)
        drivers.append(Driver(name, tuple(fields), means, words, METEOROLOGY[fields[0]].units))
    return drivers


def series_of(forward: SiteForward, driver: Driver) -> np.ndarray:
    """The driver (site, time): the mean of its fields."""
    return np.mean([np.asarray(getattr(forward.sites.forcing, name), float) for name in driver.fields], axis=0)


def responses_of(forward: SiteForward, stores: Mapping[str, np.ndarray] | None = None) -> list[Response]:
    """All responses of these sites, each (site, time), standardised; those that others stand for already are left out.

    `stores`: name -> (site, time) content of the modelled stores of water, whose lack is dryness too.
    """
    days, real = np.asarray(forward.sites.days, float), forward.sites.real
    drivers = drivers_of(forward)
    series = {driver.name: series_of(forward, driver) for driver in drivers}
    words = {driver.name: driver.words for driver in drivers}
    angle = 2 * np.pi * (days % 365.25) / 365.25
    found = [(name, name, words[name], values) for name, values in series.items()]
    if {"precipitation", "shortwave", "temperature"} <= set(series):
        dry = soil_dryness(series["precipitation"], series["shortwave"], series["temperature"], days)
        found += [("dryness", "dryness", "dryness of the soil", dry), ("dryness_strong", "dryness", "strong dryness of the soil", dry**4)]
    for name, values in (stores or {}).items():
        half = np.median(np.where(real, values, np.nan)[real])
        found += [(name, "dryness", f"dryness of the soil (by the modelled {name.replace('_', ' ')})", -values),
                  (f"{name}_low", "dryness", f"dryness of the soil (by lack of modelled {name.replace('_', ' ')})",
                   np.maximum(1 - values / half, 0.0) if half > 0 else np.zeros_like(values))]
    for name, values in series.items():
        # What is recent rain is dryness too, and said so.
        theme, said = ("dryness", "dryness of the soil") if name in ("precipitation", "rainfall") else (name, words[name])
        found.append((f"{name}_memory", theme, f"{said} (by {words[name]} of the last month)", memory(values, days)))
    for name, values in series.items():
        found.append((f"{name}_curved", name, f"{words[name]} (its square)", _standard(values, real) ** 2))
    found += [("season_cosine", "season", "the season", np.cos(angle)), ("season_sine", "season", "the season", np.sin(angle)),
              ("trend", "time", "time, as a trend", days)]
    kept: list[Response] = []
    for name, theme, said, values in found:
        standard = _standard(values, real)
        if standard[real].std() > 0.5 and not any(_alike(standard, other.values, real) for other in kept):
            kept.append(Response(name, theme, said, standard))
    return kept


def memory(values: np.ndarray, days: np.ndarray, memory_days: float = MEMORY_DAYS) -> np.ndarray:
    """Mean of the past with weights exp(-age / memory_days), (site, time); it begins with the mean of the record."""
    out, keep = np.empty_like(values), np.exp(-np.diff(days, axis=1, prepend=days[:, :1] - 1) / memory_days)
    state = values.mean(axis=1)
    for step in range(values.shape[1]):
        state = keep[:, step] * state + (1 - keep[:, step]) * values[:, step]
        out[:, step] = state
    return out


def soil_dryness(rain: np.ndarray, shortwave: np.ndarray, temperature: np.ndarray, days: np.ndarray) -> np.ndarray:
    """What a bucket of `BUCKET` mm lacks, as a share of it (site, time), from rain [mm d-1], shortwave [MJ m-2 d-1] and degC.

    Evaporation is the water content's share of the potential one of Jensen and Haise (1963, J. Irrig. Drain. 89:15),
    Rs (0.025 T + 0.08) / lambda. It runs over the record twice, so that it has forgotten its start.
    """
    demand = np.maximum(shortwave * (0.025 * temperature + 0.08) / EVAPORATION_HEAT, 0.0)
    length = np.maximum(np.diff(days, axis=1, prepend=days[:, :1] - 1), 1.0)
    water, out = np.full(len(rain), BUCKET), np.empty_like(rain)
    for _ in range(2):
        for step in range(rain.shape[1]):
            dried = water * np.exp(-demand[:, step] * length[:, step] / BUCKET)
            water = np.minimum(dried + rain[:, step] * length[:, step], BUCKET)
            out[:, step] = 1 - water / BUCKET
    return out


def _standard(values: np.ndarray, real: np.ndarray) -> np.ndarray:
    mean, spread = (np.array([function(row[kept]) for row, kept in zip(values, real, strict=True)]) for function in (np.mean, np.std))
    return np.where(real, (values - mean[:, None]) / np.where(spread > 0, spread, 1.0)[:, None], 0.0)


def _alike(one: np.ndarray, other: np.ndarray, real: np.ndarray) -> bool:
    return abs(np.mean((one * other)[real])) > ALIKE
