"""Calibrations to be done: a problem, what is held out of it, and what a report has to know about the data.

    experiment = site_experiment("FR-Pue")          # or twin_experiment(), or your own Experiment(problem=...)

`landcal_jax.calibration.calibrate` does them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax import data, testing
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.io.coverage import void_days
from landcal_jax.io.normal import step_of
from landcal_jax.io.suspicion import equal_extremes
from landcal_jax.model import AbstractModel, Theta
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.models.edc import EcologicalConstraints
from landcal_jax.observations import Observations, StreamSpec
from landcal_jax.parameters import ParameterSpace
from landcal_jax.problem import Problem
from landcal_jax.sites import Sites
from landcal_jax.weather import TEMPERATE_FOREST, Climate, weather

FIRE_PARAMETERS = ("foliar_combustion", "ligneous_combustion", "dom_combustion", "fire_resilience")
STREAMS = ("nee", "latent_heat")

# A temperate deciduous forest: what the twin tries to find again. It gives a yearly NEE of -0.3 kgC m-2 or so.
TRUTH = {
    "decomposition_rate": 4e-4, "autotrophic_fraction": 0.47, "foliar_fraction": 0.18, "root_fraction": 0.3,
    "leaf_lifespan": 1.15, "wood_turnover": 8e-5, "root_turnover": 2.5e-3, "litter_turnover": 4e-3, "som_turnover": 8e-5,
    "temperature_exponent": 0.035, "canopy_efficiency": 20.0, "onset_day": 853.0, "labile_fraction": 0.22,
    "onset_period": 45.0, "fall_day": 1020.0, "fall_period": 60.0, "lma": 60.0, "labile_0": 200.0, "foliar_0": 40.0,
    "root_0": 150.0, "wood_0": 9000.0, "litter_0": 200.0, "som_0": 9000.0, "water_use_efficiency": 9.0,
    "paw_focal_point": 4e4, "wilting_point": 80.0, "paw_0": 250.0, "labile_lifespan": 1.3, "moisture_factor": 0.1,
    "unavailable_share": 0.3, "puw_focal_point": 4e4, "puw_0": 300.0, "radiation_evaporation": 0.05}
TWIN_ERRORS = {"nee": 0.6, "latent_heat": 10.0}
TWIN_OBSERVED = 0.6


@dataclass(frozen=True)
class Experiment:
    """A problem with what a report has to know about it.

    `problem` holds the calibrated observations, `held_out` the others on the same time axis (or None). `truth` is
    theta where it is known. `estimate_model_error`: set the model error of the streams from their residuals while
    solving. `sources`: one record a data file (see `data.Source.record`); `notes`: sentences about the data. `places`: site ->
    (latitude, longitude) [degrees], where known. `cautions`: what a reader of the results must know about the data.
    """

    problem: Problem
    held_out: Observations | None = None
    title: str = "Calibration"
    truth: Theta | None = None
    estimate_model_error: bool = False
    sources: Sequence[Mapping[str, str]] = ()
    notes: Sequence[str] = ()
    places: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    cautions: Sequence[str] = ()


def dalec_problem(
    forcing: xr.Dataset | Sequence[xr.Dataset], observations: Observations, model: AbstractModel, *, constraints: bool = False
) -> Problem:
    """A Problem for DALEC at the sites of `forcing`, with CARDAMOM's priors.

    Fire parameters are fixed where the record has no fire, since no observation can see them. `constraints` adds the
    ecological constraints to the observations, as the stream `edc`.
    """
    sites = Sites.from_datasets(forcing, model)
    space = ParameterSpace(model.parameters())
    if sites.forcing.burned_fraction is None:
        space = space.fix(*(name for name in FIRE_PARAMETERS if name in space.names))
    if constraints:
        observations = _with_constraints(observations, model, sites)
    return Problem(space, SiteForward(model, sites), observations)


def _with_constraints(observations: Observations, model: AbstractModel, sites: Sites) -> Observations:
    return observations.with_streams({"edc": EcologicalConstraints.of(model, sites).stream()})


def site_experiment(
    name: str, *, held_out_years: int = 3, model: AbstractModel | None = None, constraints: bool = False, progress: bool = False
) -> Experiment:
    """Daily NEE and latent heat of a catalogue site (see `data.sites()`), its last years held out.

    Raises ValueError for an unknown site, `data.DataNotFound` if its files are neither here nor to be downloaded.
    """
    forcing, flux, sources = data.load_site(name, progress=progress)
    records = [source.record() for source in sources]
    return observed_experiment(
        forcing, flux, held_out_years=held_out_years, model=model, constraints=constraints, sources=records)


def observed_experiment(
    forcing: xr.Dataset, flux: xr.Dataset, *, held_out_years: int = 3, model: AbstractModel | None = None,
    constraints: bool = False, sources: Sequence[Mapping[str, str]] = (),
) -> Experiment:
    """Calibrate on forcing and flux Datasets in the normal form of `landcal_jax.io`, one site.

    The last `held_out_years` calendar years of the forcing are held out. Model error is estimated from residuals. The default
    model is DALEC with water in the step of the forcing (see `dalec_for`). A flux without uncertainties is taken with a negligible
    one, so that its whole error is the estimated model error.
    Raises ValueError if the record is not longer than that, if no stream of the model was observed, or if one was
    observed in the held-out years only.
    """
    model = dalec_for(forcing) if model is None else model
    time = forcing.indexes["time"]
    first_held_out = _first_held_out(time, held_out_years)
    known = [name for name in STREAMS if name in model.output_units]
    present = [name for name in known if name in flux and np.isfinite(flux[name].values).any()]
    if not present:
        raise ValueError(complain(f"observed {' or '.join(known)} for {type(model).__name__}", *_unobserved(flux, known)))
    # The first guess of the model error is of the calibrated days too: nothing of what is held out may enter J.
    seen = flux.sel(time=(flux["time"] >= time[0]) & (flux["time"] < first_held_out))
    for name in present:
        if not np.isfinite(seen[name].values).any():
            got, advice = _unobserved(seen, [name])
            raise ValueError(complain(f"observed {name} before {first_held_out}", got, f"hold out fewer years, or {advice}"))
    spread = {name: float(np.nanstd(seen[name].values)) for name in present}
    flux, cautions = _with_uncertainties(flux, spread)
    cautions += [sentence] if (sentence := equal_extremes(forcing)) else []
    specs = {name: StreamSpec(name, model_error=0.5 * spread[name]) for name in present}
    observations = Observations.from_dataset(flux, specs, time=np.asarray(time.values, "datetime64[D]"))
    calibrated, held_out = observations.split(first_held_out)
    site = str(flux["site"].item())
    unused = [name for name in flux.data_vars if name not in present and not name.endswith("_uncertainty")]
    notes = [f"Not used for calibration: {', '.join(unused)}."] if unused else []
    notes += observations.notes
    for what, ds in (("forcing", forcing), ("flux", flux)):
        notes += [f"{ds.attrs.get('title', what)}: {line}" for line in ds.attrs.get("history", "").splitlines()]
    problem = dalec_problem(forcing, calibrated, model, constraints=constraints)
    return Experiment(
        problem, held_out if held_out_years else None, f"{type(model).__name__} calibrated at {site}", None, True, sources, notes,
        _place(site, forcing), cautions)


def _place(site: str, forcing: xr.Dataset) -> dict[str, tuple[float, float]]:
    """The position of the site, where its forcing says it."""
    position = tuple(float(forcing[axis]) if axis in forcing.coords else np.nan for axis in ("latitude", "longitude"))
    return {site: position} if np.isfinite(position).all() else {}


def dalec_for(forcing: xr.Dataset, kind: type[DalecWater] | type[Dalec2] = DalecWater) -> DalecWater | Dalec2:
    """DALEC in the step of a Dataset of drivers: days, or months of 30.4375 days as in CARDAMOM."""
    step = step_of(forcing)
    days = 30.4375 if step == "P1M" else pd.Timedelta(step) / pd.Timedelta("1D")
    return kind(step_days=days)


def _unobserved(flux: xr.Dataset, names: Sequence[str]) -> tuple[str, str]:
    """Why none of these fluxes has a value, and what to try."""
    void, days = void_days(flux), flux.sizes["time"]
    reasons = []
    for name in (each for each in names if each in flux):
        rule = " ({} days are void: more than {:g} % of each was gap-filled or missing)".format(*void[name]) if name in void else ""
        reasons.append(f"{name} on none of {days} steps{rule}")
    if any(name in void for name in names):
        return "; ".join(reasons), "--most-filled 0.5, or most_filled=0.5 for read_flux, which keeps more filled values, or another site"
    there = ", ".join(str(name) for name in flux.data_vars if not str(name).endswith("_uncertainty")) or "nothing"
    return "; ".join(reasons) or f"values of {there}", "check the names of the variables (see landcal_jax.io), or take another model"


def _with_uncertainties(flux: xr.Dataset, spread: Mapping[str, float]) -> tuple[xr.Dataset, list[str]]:
    """Fluxes whose values all have an uncertainty, and what has to be said about them."""
    cautions = []
    for name in spread:
        companion, about = f"{name}_uncertainty", flux[name].attrs
        if "gap_filled" in about:
            cautions.append(f"{name} is gap-filled, and its file does not mark where: {int(flux[name].notnull().sum())} values count as "
                            "observed, of which some were made by another model.")
        if companion not in flux:
            flux = flux.assign({companion: xr.full_like(flux[name], 1e-3 * spread[name]).where(flux[name].notnull())})
            cautions.append(f"{name} has no uncertainties: its whole error is the estimated model error.")
            continue
        without = flux[name].notnull() & ~(flux[companion] > 0)
        if without.any():
            flux = flux.assign({name: flux[name].where(~without)})
            cautions.append(f"{name}: {int(without.sum())} values without an uncertainty are not used.")
    return flux, cautions


def _first_held_out(time, years: int) -> np.datetime64:
    """The first day of the last `years` calendar years; something of the record must lie before it."""
    first = np.datetime64(f"{time[-1].year + 1 - years}-01-01")
    if first <= time[0]:
        raise ValueError(complain(
            f"a record longer than the {years} years held out", f"{time[0]:%Y-%m-%d} to {time[-1]:%Y-%m-%d}", "hold out fewer years"))
    return first


def twin_experiment(
    seed: int = 0, *, years: int = 6, held_out_years: int = 2, climate: Climate = TEMPERATE_FOREST,
    model: AbstractModel | None = None, constraints: bool = False,
) -> Experiment:
    """A twin: DALEC driven by generated weather, a known truth, and noisy observations of it; needs no data.

    Daily NEE and latent heat with errors of 0.6 gC m-2 d-1 and 10 W m-2 (standard deviations), 60 % of the days
    observed. `seed` draws weather, gaps and noise. The truth is `TRUTH`, a temperate deciduous forest.
    Raises ValueError if as many years are held out as there are.
    """
    model = DalecWater() if model is None else model
    forcing = weather(climate, years=years, seed=seed)
    first_held_out = _first_held_out(forcing.indexes["time"], held_out_years)
    time = np.asarray(forcing.indexes["time"].values, "datetime64[D]")
    rng = np.random.default_rng(seed)
    empty = {}
    for name, error in TWIN_ERRORS.items():
        if name not in model.output_units:
            continue
        values = np.where(rng.random(time.size) < TWIN_OBSERVED, 0.0, np.nan)
        empty[name] = StreamSpec(name, uncertainty=error), (("time",), values, {"units": model.output_units[name]})
    flux = xr.Dataset({name: column for name, (_, column) in empty.items()}, coords={"time": forcing["time"], "site": forcing["site"]})
    observations = Observations.from_dataset(flux, {name: spec for name, (spec, _) in empty.items()}, time=time)
    problem = dalec_problem(forcing, observations, model)
    truth = problem.space.default_theta | {name: jnp.asarray(TRUTH[name]) for name in problem.space.names if name in TRUTH}
    made = testing.twin(problem, problem.space.whiten(truth), key=seed)
    calibrated, held_out = made.problem.observations.split(first_held_out)
    if constraints:
        calibrated = _with_constraints(calibrated, model, problem.forward.sites)
    return Experiment(
        made.problem.with_observations(calibrated), held_out if held_out_years else None,
        f"Twin experiment: {type(model).__name__}, {climate.name} weather", made.theta, False, [], [forcing.attrs["title"]])
