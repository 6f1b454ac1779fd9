"""The twin experiment of `many_parameters`: a continent of six plant functional types, seen by stations that see integrals only.

24 sites, four of each of six plant functional types (PFTs), have generated daily weather of their own over three years and run
DALEC2. Nine parameters of each PFT, 54 in all, are to be found: three of photosynthesis and the canopy (canopy_efficiency, lma,
foliar_fraction), three of phenology (leaf_lifespan, onset_day, fall_day) and three of respiration (autotrophic_fraction,
temperature_exponent, som_turnover). These make up the kinds of parameters that are calibrated on CO2 (photosynthesis,
phenology, respiration with its soil stock; a stock and its turnover rate cannot be told apart by NEE, so only the rate is free).
What is left of DALEC2 is fixed, and so are the pools at the start: the equilibrium of each site at the default
parameters, with wood and soil carbon below it, so that forests take carbon up.

Ten stations observe weekly CO2 [ppm] above a background: a footprint of weights over all sites and the last four weeks, which
comes from the west, grows with age and is ventilated. The weights are made up, but have what matters of transport:
no observation belongs to one site or one PFT, and the signals of sites mix in space and time. Noise is drawn from R.
"""

import functools
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import testing
from landcal_jax.experiment import TRUTH
from landcal_jax.forward import FunctionForward, SiteForward
from landcal_jax.model import Theta, equilibrium
from landcal_jax.models import Dalec2
from landcal_jax.models.dalec import INITIAL_POOLS
from landcal_jax.observations import Observations, Stream
from landcal_jax.parameters import Parameter, ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.weather import BOREAL, MEDITERRANEAN, TEMPERATE_FOREST, Climate, weather

# PFT -> climate, mean latitude [degrees_north] and mean place from west to east [km] of its sites
PFTS: dict[str, tuple[Climate, float, float]] = {
    "TeBD": (TEMPERATE_FOREST, 49.0, 800.0), "TeNE": (TEMPERATE_FOREST, 52.0, 1800.0), "MeBE": (MEDITERRANEAN, 42.0, 900.0),
    "BoNE": (BOREAL, 62.0, 2000.0), "BoBD": (BOREAL, 58.0, 1400.0), "C3gr": (TEMPERATE_FOREST, 46.0, 1500.0)}
"""Temperate broadleaf deciduous, temperate needleleaf evergreen, mediterranean broadleaf evergreen, boreal needleleaf
evergreen, boreal broadleaf deciduous, C3 grass."""
# parameter -> units, default by PFT (the middle of the range), half of the range: relative to the default, or absolute for days
TABLE = {
    "canopy_efficiency": ("gC m-2 d-1", (20.0, 14.0, 14.0, 11.0, 17.0, 20.0), 0.5),
    "lma": ("gC m-2", (60.0, 110.0, 90.0, 110.0, 45.0, 35.0), 0.5),
    "foliar_fraction": ("1", (0.18, 0.18, 0.18, 0.18, 0.18, 0.30), 0.5),
    "leaf_lifespan": ("yr", (1.25, 3.0, 2.2, 4.0, 1.25, 1.3), 0.18),
    "onset_day": ("d", (487.0, 492.0, 462.0, 505.0, 505.0, 472.0), 45.0),
    "fall_day": ("d", (655.0, 660.0, 640.0, 640.0, 635.0, 650.0), 45.0),
    "autotrophic_fraction": ("1", (0.47, 0.50, 0.48, 0.50, 0.47, 0.45), 0.3),
    "temperature_exponent": ("degC-1", (0.045, 0.045, 0.045, 0.045, 0.045, 0.045), 0.5),
    "som_turnover": ("d-1", (8e-5, 7e-5, 8e-5, 6e-5, 7e-5, 9e-5), 0.8)}
# Stems of grass live for a season, not for decades [d-1].
GRASS_WOOD = np.array([TRUTH["wood_turnover"]] * 5 + [5e-3])
SITES_PER_PFT, YEARS, STATIONS, LAGS, WEEK = 4, 3, 10, 4, 7
KM_PER_DEGREE = 111.2
PPM_PER_CARBON = 1e6 / 12.0 * 28.97e-3 / 1.033e4
"""What 1 gC m-2 makes of a column of air of 1.033e4 kg m-2 [ppm], 0.234."""
SIGMA = 1.0  # ppm: transport, representation and measurement of a weekly mean at a continental station
PRIOR_SHARE = 0.25  # standard deviation of the priors before they are cut at their bounds, share of the range


class Footprints(eqx.Module):
    """CO2 at stations as footprint-weighted integrals of the NEE of all sites: the function of a `FunctionForward`.

    `weights` (station, lag, site): weight of the NEE of each site `lag` weeks ago. The stations are what the `Observations`
    call sites, their leading axis; the sites of the model are inside.
    """

    land: SiteForward
    weights: Array

    def __call__(self, theta: Theta) -> dict[str, Array]:
        """{"co2": (station, week)} [ppm], from the first week whose footprint lies within the run."""
        nee = self.weekly(theta)
        weeks = nee.shape[1] - LAGS + 1
        lagged = jnp.stack([nee[:, LAGS - 1 - lag : LAGS - 1 - lag + weeks] for lag in range(LAGS)])
        return {"co2": WEEK * PPM_PER_CARBON * jnp.einsum("tls,lsw->tw", self.weights, lagged)}

    def weekly(self, theta: Theta) -> Array:
        """Weekly mean NEE of every site, (site, week) [gC m-2 d-1]: what no station sees by itself."""
        nee = self.land.run(theta, save=["nee"]).output.nee
        weeks = nee.shape[1] // WEEK
        return nee[:, : weeks * WEEK].reshape(len(nee), weeks, WEEK).mean(axis=2)


class Design(NamedTuple):
    """The twin without its truth: `problem` with empty observations, and the `footprints` inside of it."""

    problem: Problem
    footprints: Footprints


@functools.cache
def design(*, sites_per_pft: int = SITES_PER_PFT, years: int = YEARS, stations: int = STATIONS, share: float = PRIOR_SHARE) -> Design:
    """The continent, the same for every truth. `share`: standard deviation of the priors, share of the range."""
    climates, pfts, places = _places(sites_per_pft)
    model = Dalec2()
    datasets = [weather(climate, years=years, seed=number) for number, climate in enumerate(climates)]
    sites = Sites.from_datasets(datasets, model, rows={"pft": pfts}, coords={"pft": list(PFTS)})
    names = [str(dataset["site"].values) for dataset in datasets]
    space = _space(model, sites, names, share)
    footprints = Footprints(SiteForward(model, sites, space.dims), jnp.asarray(_weights(places, stations)))
    weeks = len(datasets[0]["time"]) // WEEK - LAGS + 1
    time = datasets[0]["time"].values[:: WEEK][LAGS - 1 : LAGS - 1 + weeks]
    stream = Stream(np.zeros((stations, weeks)), SIGMA, units="ppm", description="weekly CO2 above background", time=time)
    observations = Observations({"co2": stream}, sites=[f"station {n + 1}" for n in range(stations)])
    return Design(Problem(space, FunctionForward(footprints), observations), footprints)


def twin(design: Design, seed: int) -> testing.Twin:
    """A truth drawn from the prior, and what the stations see of it with noise."""
    return testing.twin(design.problem, key=seed)


@eqx.filter_jit
def clean(design: Design, z: Array) -> tuple[Array, Array]:
    """Integrals (station, week) [ppm] and weekly NEE of every site (site, week) [gC m-2 d-1] at z, without noise."""
    theta = design.problem.space.physical(z)
    return design.footprints(theta)["co2"], design.footprints.weekly(theta)


@eqx.filter_jit
def clean_many(design: Design, Z: Array) -> tuple[Array, Array]:
    """`clean` of many members, Z (member, n)."""
    return jax.vmap(lambda z: clean(design, z))(Z)


def _places(sites_per_pft: int) -> tuple[list[Climate], list[str], np.ndarray]:
    """Climate, PFT and place (site, 2) [km east, km north] of every site, scattered about the middle of its PFT."""
    rng = np.random.default_rng(0)
    climates, pfts, places = [], [], []
    for pft, (climate, middle, east) in PFTS.items():
        for number in range(sites_per_pft):
            latitude = middle + rng.uniform(-3.0, 3.0)
            x = east + rng.uniform(-600.0, 600.0)
            climates.append(replace(
                climate, name=f"{pft}-{number + 1}", latitude=latitude,
                # Colder to the north, more continental to the east, and something of the place itself.
                temperature=climate.temperature - 0.6 * (latitude - climate.latitude) + rng.normal(),
                temperature_amplitude=climate.temperature_amplitude + 1.5e-3 * (x - 1400.0)))
            pfts.append(pft)
            places.append((x, KM_PER_DEGREE * latitude))
    return climates, pfts, np.array(places)


def _weights(places: np.ndarray, stations: int) -> np.ndarray:
    """Footprints (station, lag, site): air of `lag` weeks ago came from farther west, from a wider region, and is ventilated."""
    rng = np.random.default_rng(1)
    low, high = places.min(axis=0), places.max(axis=0)
    # Stations all over the continent: cells of a Latin square, so that none lies beside another.
    cells = np.stack([np.arange(stations), rng.permutation(stations)], axis=1)
    at = low + (high - low) * (cells + 0.5) / stations
    weights = []
    for lag in range(LAGS):
        centre = at - np.array([250.0 * (lag + 0.5), 0.0])
        square = np.sum((places[None] - centre[:, None]) ** 2, axis=2)
        near = np.exp(-0.5 * square / (350.0**2 * (lag + 1)))
        share = 0.9 * near / near.sum(axis=1, keepdims=True) + 0.1 / len(places)
        weights.append(np.exp(-lag / 2) * share)
    return np.stack(weights, axis=1)


def _space(model: Dalec2, sites: Sites, names: list[str], share: float) -> ParameterSpace:
    """54 free parameters, nine by PFT; what is left of DALEC2 fixed, and the pools at the start fixed by site."""
    parameters = {}
    for name, known in model.parameters().items():
        if name in TABLE:
            units, default, half = TABLE[name]
            default = np.array(default)
            width = half if units == "d" else half * default
            parameters[name] = Parameter.share_of_range(
                default, default - width, default + width, share, dims=("pft",), units=units, description=known.description)
        elif name not in INITIAL_POOLS:
            default = GRASS_WOOD if name == "wood_turnover" else np.array(TRUTH[name])
            dims = ("pft",) if default.ndim else ()
            parameters[name] = Parameter.log_normal(default, 1.0, dims=dims, units=known.units, description=known.description)
    stocks = _stocks(model, sites, parameters)
    for name, values in stocks.items():
        about = {"units": "gC m-2", "description": model.parameters()[name].description}
        parameters[name] = Parameter.log_normal(values, 1.0, dims=("site",), **about)
    space = ParameterSpace(parameters, {"pft": list(PFTS), "site": names})
    return space.only(*TABLE)


def _stocks(model: Dalec2, sites: Sites, parameters: Mapping[str, Parameter]) -> dict[str, np.ndarray]:
    """Pools at the start of each site (site,): equilibrium of the defaults, wood and soil carbon at 70 and 85 % of it."""
    theta = {name: jnp.asarray(parameter.default) for name, parameter in parameters.items()}
    start = {name: jnp.asarray(TRUTH[name]) for name in INITIAL_POOLS}
    local = sites.gather(theta | start, {name: parameter.dims for name, parameter in parameters.items()})
    pools = jax.jit(jax.vmap(lambda theta, forcing: equilibrium(model, theta, forcing)))(local, sites.forcing)
    share = dict.fromkeys(INITIAL_POOLS, 1.0) | {"wood_0": 0.7, "som_0": 0.85}
    return {name: share[name] * np.asarray(pool) for name, pool in zip(INITIAL_POOLS, pools, strict=True)}
