"""Files for CalLMIP Phase 1b from a finished calibration: the prior and the posterior run of every site, and the table about them.

    calibration = calibrate(site_experiment("DK-Sor"))
    files = write_callmip(calibration, "callmip", model_name="DALEC", model_version="1005")
    print(files)                    # what was written, what the model does not have, what only the group can say

The prior run is that of the default parameters, the posterior run that of the MAP. What a model has is taken from its output
and its pools by name, converted to the units of the protocol; what it does not have is left out, and said. `<variable>_post_unc`
is the standard deviation of the run by the posterior of the parameters, propagated by the tangent-linear model where the
posterior is Gaussian; the model error, which the calibration estimates, stands in its comment and is not in it.
"""

import datetime
import importlib.metadata
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import numpy as np
from scipy.special import ndtr

from landcal_jax import callmip_information as about_run
from landcal_jax.calibration import Calibration
from landcal_jax.errors import complain
from landcal_jax.experiment import Experiment
from landcal_jax.forward import SiteForward
from landcal_jax.io.callmip.output import (
    SCENARIOS,
    SITES,
    STAGES,
    UNCERTAINTY,
    VARIABLES,
    FileName,
    check_names,
    record_days,
    scenario_in_words,
    write_file,
)
from landcal_jax.io.callmip.validator import validate
from landcal_jax.io.units import convert
from landcal_jax.observations import Observations, Stream
from landcal_jax.operators import Pick
from landcal_jax.posterior import Posterior
from landcal_jax.run_folder import RunFolder
from landcal_jax.sites import Sites

# Variable of the protocol: field of the model's output, and the factor of its sign.
FLUXES = {
    "nep": ("nee", -1.0), "hfls": ("latent_heat", 1.0), "hfss": ("sensible_heat", 1.0), "gpp": ("gpp", 1.0),
    "reco": ("respiration", 1.0), "tran": ("transpiration", 1.0), "evspsblsoi": ("soil_evaporation", 1.0),
    "hfg": ("ground_heat_flux", 1.0), "ts": ("surface_temperature", 1.0), "lai": ("lai", 1.0)}
# What an observed stream must compare with to count as one of the three targets of the protocol.
TARGETS = {"nep": ("nee",), "hfls": ("latent_heat", "evapotranspiration"), "hfss": ("sensible_heat",)}


class Store(NamedTuple):
    """A variable that is the sum of pools: their names in the state, their unit, and what to say about it."""

    pools: tuple[str, ...]
    units: str
    comment: str


STORES = {
    "cLiveBioAbove": Store(("foliar", "wood"), "gC m-2", "foliar and wood pools, mean of start and end of the day; the wood pool "
                           "includes coarse roots, the labile pool is left out"),
    "cSoil": Store(("litter", "som"), "gC m-2", "litter and soil organic matter pools, mean of start and end of the day"),
    "mrso": Store(("available_water", "unavailable_water"), "mm", "plant-available and unavailable water, mean of start and end of the "
                  "day")}
COMMENTS = {
    "nep": "gross primary production minus respiration and fire emissions",
    "reco": "autotrophic and heterotrophic respiration, without fire", "lai": "leaf area at the start of the day"}


class CallmipFiles(dict[str, Path]):
    """{file name: path} of what was written, with `remarks`, sentences about it, and `open_items`, what only the group can say."""

    remarks: list[str]
    open_items: list[str]

    def __init__(self, files: Mapping[str, Path], remarks: Sequence[str], open_items: Sequence[str]) -> None:
        super().__init__(files)
        self.remarks, self.open_items = list(remarks), list(open_items)

    def __str__(self) -> str:
        said = [f"To be said by the group in the model information: {', '.join(self.open_items)}."] if self.open_items else []
        return "\n".join([*self, *self.remarks, *said])


class Plan(NamedTuple):
    """What is to be written: the calibration, the parts of the file names, the sites with their places."""

    calibration: Calibration
    model_name: str
    model_version: str
    scenario: int
    period: str
    forward: SiteForward
    places: dict[str, tuple[float, float]]
    remarks: list[str]

    def name(self, site: str, stage: str) -> FileName:
        """The name of the file of a site."""
        return FileName(self.model_name, self.model_version, self.scenario, _file_site(site), self.period, stage)

    @property
    def files(self) -> list[str]:
        """Names of the output files."""
        return [str(self.name(site, stage)) for site in self.forward.sites.names for stage in STAGES]

    @property
    def stem(self) -> str:
        """What the names of the tables begin with."""
        return f"{self.model_name}.{self.model_version}_Phase1b_Scen{self.scenario}"

    @property
    def results(self) -> list[str]:
        """Names of everything that is written."""
        return [*self.files, *(self.stem + end for end in about_run.ENDINGS)]


def write_callmip(
    calibration: Calibration, folder: str | Path, *, model_name: str, model_version: str, scenario: int | None = None,
    cal_val: str = "Cal", sites: Sites | None = None, places: Mapping[str, tuple[float, float]] | None = None,
    information: Mapping[str, str] | None = None, overwrite: bool = False,
) -> CallmipFiles:
    """Write prior and posterior files of every site, and the model information (.md, .json, parameters as .csv), into `folder`.

    `scenario`: that of the protocol, 1 to 6, None for the one that the streams make. `cal_val`: "Cal", or "Val" with the
    `sites` of a validation, which are then run with the calibrated parameters. `places`: site -> (latitude, longitude), needed
    for sites that neither the protocol nor the experiment knows. `information`: answers of the group, by the
    keys of `callmip_information.QUESTIONS`. They get their names when all are whole; faults that
    the validator finds in them are remarks.

    Raises ValueError for a scenario that the streams do not make, a site of the other part of the protocol, a name that no
    file can have, or a step other than a day; TypeError for a forward map that is no model at sites; FileExistsError if files
    are there and `overwrite` is False.
    """
    plan = planned(calibration, model_name=model_name, model_version=model_version, scenario=scenario, cal_val=cal_val, sites=sites,
                   places=places)
    about_run.check(information or {})
    written: list[CallmipFiles] = []
    with RunFolder(folder, overwrite=overwrite, results=plan.results) as run:
        files = run.publish(lambda staged: written.append(write_files(plan, staged, information=information)))
    return CallmipFiles(files, written[0].remarks, written[0].open_items)


def planned(
    calibration: Calibration, *, model_name: str, model_version: str, scenario: int | None = None, cal_val: str = "Cal",
    sites: Sites | None = None, places: Mapping[str, tuple[float, float]] | None = None,
) -> Plan:
    """What `write_files` needs; raises as `write_callmip`, before anything is run."""
    checked = check(calibration.experiment, model_name=model_name, model_version=model_version, scenario=scenario, cal_val=cal_val,
                    sites=sites, places=places)
    return Plan(calibration, model_name, model_version, checked.scenario, cal_val, checked.forward, checked.places, checked.remarks)


class Checked(NamedTuple):
    """What `check` has found out: the scenario of the streams, the runs to be written, their places, remarks."""

    scenario: int
    forward: SiteForward
    places: dict[str, tuple[float, float]]
    remarks: list[str]


def check(
    experiment: Experiment, *, model_name: str, model_version: str, scenario: int | None = None, cal_val: str = "Cal",
    sites: Sites | None = None, places: Mapping[str, tuple[float, float]] | None = None,
) -> Checked:
    """Whether files can be written once this experiment is calibrated, for those who would rather know before; see `write_callmip`."""
    check_names(model_name, model_version)
    forward = experiment.problem.forward
    if not isinstance(forward, SiteForward):
        raise TypeError(complain("a model at sites, whose run gives daily series", forward.description,
                                 "calibrate with SiteForward, or write files with landcal_jax.io.callmip.output.write_file"))
    right, remarks = scenario_of(experiment.problem.observations)
    if scenario is not None and scenario != right:
        given = scenario_in_words(scenario) if scenario in SCENARIOS else f"scenario {scenario}"
        raise ValueError(complain(f"{scenario_in_words(right)}, which is what the calibrated streams make", given, f"scenario={right}"))
    if sites is not None:
        forward = replace(forward, sites=sites)
    elif cal_val == "Val":
        raise ValueError(complain("the sites of the validation", "those of the calibration", "give sites=Sites.from_datasets(...)"))
    remarks += [remark for site in forward.sites.names if (remark := _check_site(site, cal_val))]
    known = {site: (place.latitude, place.longitude) for site, place in SITES.items() if place.latitude is not None}
    known |= dict(experiment.places) | dict(places or {})
    for site, days in zip(forward.sites.names, forward.sites.time, strict=True):
        if site not in known:
            raise ValueError(complain(f"latitude and longitude of {site}", "none", f"places={{{site!r}: (latitude, longitude)}}"))
        if (np.diff(days[~np.isnat(days)]) != np.timedelta64(1, "D")).any():
            raise ValueError(complain(f"daily steps at {site}", "another step, or a gap", "run the model with daily forcing"))
    return Checked(right, forward, {site: known[site] for site in forward.sites.names}, remarks)


def scenario_of(observations: Observations) -> tuple[int, list[str]]:
    """The scenario of the protocol that the calibrated streams make, and remarks on streams that are in none.

    Raises ValueError if they make none.
    """
    seen, others = set(), []
    for name, stream in observations.items():
        fields = getattr(stream.operator, "variables", (name,))
        targets = [target for target, known in TARGETS.items() if set(known) & set(fields)]
        if int(stream.count):
            seen.update(targets)
            others += [] if targets else [name]
    for scenario, targets in SCENARIOS.items():
        if set(targets) == seen:
            beside = f"Beside the targets of {scenario_in_words(scenario)}, {' and '.join(others)} entered the cost."
            return scenario, [beside] if others else []
    raise ValueError(complain(f"streams of one of {', '.join(map(scenario_in_words, SCENARIOS))}",
                              f"{', '.join(observations.names)}", "calibrate nee, latent_heat or sensible_heat"))


def _check_site(site: str, period: str) -> str:
    """A remark on a site that the protocol does not have; ValueError for one of its other part."""
    if period not in ("Cal", "Val"):
        raise ValueError(complain('cal_val "Cal" or "Val"', repr(period), "one of the two"))
    if site not in SITES:
        return f"{site} is no site of CalLMIP Phase 1: its files have the form of the protocol, but cannot be handed in."
    if SITES[site].period != period:
        part = {"Cal": "a calibration site", "Val": "a validation site"}[SITES[site].period]
        raise ValueError(complain(f"{'calibration' if period == 'Cal' else 'validation'} sites of the protocol", f"{site}, {part}",
                                  f"leave it out of the calibration, and write it with sites= and cal_val={SITES[site].period!r}"))
    return ""


def _file_site(site: str) -> str:
    """The site as it can stand in a file name."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", site)


def write_files(plan: Plan, folder: Path, *, information: Mapping[str, str] | None = None) -> CallmipFiles:
    """Write all files of `plan` into a folder that has none of them."""
    problem = plan.calibration.experiment.problem
    thetas = {"Prior": problem.theta(problem.space.default_z), "Posterior": plan.calibration.result.theta}
    spreads = _spreads(plan)
    remarks = list(plan.remarks)
    for stage in STAGES:
        series = _series(plan, thetas[stage])
        comments = {name: store.comment for name, store in STORES.items()} | COMMENTS
        if stage == "Posterior":
            series |= {name + UNCERTAINTY: values for name, values in spreads.items()}
            comments |= {name + UNCERTAINTY: _about_spread(plan, name) for name in spreads}
        for index, site in enumerate(plan.forward.sites.names):
            _write_site(plan, folder, stage, index, site, {name: values[index] for name, values in series.items()}, comments)
    absent = [name for name, about in VARIABLES.items() if name not in series and not about.optional]
    if absent:
        remarks.append(f"{type(plan.forward.model).__name__} has no {', '.join(absent)}: left out.")
    remarks += [remark for site, days in zip(plan.forward.sites.names, plan.forward.sites.time, strict=True)
                if (remark := _about_days(site, days[~np.isnat(days)]))]
    # A run may break a rule that no writer can keep for it, such as a leaf area that no land has.
    remarks += [f"{name} is against the rules: {fault.short}" for name in plan.files for fault in validate(folder / name).faults]
    items = about_run.items(plan.calibration, plan.forward, plan.scenario, information or {})
    about_run.write(items, plan.calibration, folder, plan.stem, remarks)
    return CallmipFiles({name: folder / name for name in plan.results}, remarks, [item.key for item in items if item.open])


def _series(plan: Plan, theta) -> dict[str, np.ndarray]:
    """Variables of the protocol that the model has, (site, time) each, from one run."""
    model = plan.forward.model
    fields = {name: field for name, (field, _) in FLUXES.items() if field in model.output_units}
    run = _run(plan.forward, theta, tuple(sorted(set(fields.values()))))
    series = {}
    for name, field in fields.items():
        values = convert(np.asarray(getattr(run.output, field)), model.output_units[field], VARIABLES[name].units[0], field)
        series[name] = FLUXES[name][1] * values
    for name, store in STORES.items():
        if all(hasattr(run.state, pool) for pool in store.pools):
            total = sum(np.asarray(getattr(run.state, pool), float) for pool in store.pools)
            # CF writes carbon mass as kg m-2; to the unit library carbon is a kind of its own.
            series[name] = convert(0.5 * (total[:, 1:] + total[:, :-1]), store.units, "kgC m-2" if "gC" in store.units else "kg m-2")
    real = plan.forward.sites.real
    for name, values in series.items():
        bad = int((~np.isfinite(values[real])).sum())
        if bad:
            raise ValueError(complain(f"finite {name} in the run that is written", f"{bad} values that are not",
                                      "landcal_jax.testing.check(problem)"))
    return series


@eqx.filter_jit
def _run(forward: SiteForward, theta, fields: tuple[str, ...]):
    return forward.run(theta, save=(*fields, "state"))


def _spreads(plan: Plan) -> dict[str, np.ndarray]:
    """Posterior standard deviation of each optimised variable, (site, time), by the parameters alone."""
    model, posterior = plan.forward.model, plan.calibration.posterior
    names = [name for name in SCENARIOS[plan.scenario] if FLUXES[name][0] in model.output_units]
    where = {name: _stream_of(plan, FLUXES[name][0]) for name in names}
    if not all(where.values()):
        where = {name: FLUXES[name][0] for name in names}
        posterior = _elsewhere(posterior, plan.forward, list(where.values()))
    predicted = posterior.predictive(int(plan.calibration.about.get("seed", 0)), quantiles=ndtr([-1.0, 1.0]).tolist())
    spreads = {}
    for name, stream in where.items():
        low, high = predicted[stream].values
        # Half of what lies between the quantiles at -1 and +1 standard deviation: exact for a Gaussian, robust otherwise.
        spreads[name] = convert(0.5 * (high - low), predicted[stream].attrs["units"], VARIABLES[name].units[0], FLUXES[name][0])
    return spreads


def _stream_of(plan: Plan, field: str) -> str:
    """The calibrated stream that is this output of the model on every step at the sites to be written; "" if there is none."""
    problem = plan.calibration.posterior.problem
    if plan.forward is not problem.forward:
        return ""
    return next((name for name, stream in problem.observations.items() if isinstance(stream.operator, Pick)
                 and stream.operator.variable == field and stream.values.shape == plan.forward.sites.days.shape), "")


def _elsewhere(posterior: Posterior, forward: SiteForward, fields: Sequence[str]) -> Posterior:
    """The same posterior of parameters, whose predictions are `fields` on every step of `forward`."""
    sites = forward.sites
    streams = {field: Stream(np.zeros(sites.days.shape), 1.0, Pick(field), mask=sites.real, units=forward.model.output_units[field],
                             time=sites.time) for field in fields}
    problem = posterior.problem.with_forward(forward).with_observations(Observations(streams, sites=sites.names))
    return Posterior(problem, posterior.z, posterior.centre, posterior.covariance, posterior.method, posterior.gaussian)


def _about_spread(plan: Plan, name: str) -> str:
    observations = plan.calibration.experiment.problem.observations
    errors = [stream.mean_model_error for _, stream in observations.items()
              if set(TARGETS[name]) & set(getattr(stream.operator, "variables", ()))]
    text = "standard deviation by the posterior of the parameters alone"
    if errors and plan.period == "Cal":
        field, units = FLUXES[name][0], plan.forward.model.output_units[FLUXES[name][0]]
        values = convert(np.asarray(errors[0]), units, VARIABLES[name].units[0], field)
        numbers = ", ".join(f"{value:.3g}" for value in values)
        text += (f"; not in it: the model error of the calibration, a standard deviation of {numbers} "
                 f"{VARIABLES[name].units[0]} at {', '.join(observations.sites)}")
    return text


def _write_site(plan, folder, stage, index, site, series, comments) -> None:
    days = plan.forward.sites.time[index]
    real = ~np.isnat(days)
    axis = record_days(site)
    axis = days[real] if axis is None else axis
    _, there, here = np.intersect1d(axis, days[real], return_indices=True)
    columns = {}
    for name, values in series.items():
        columns[name] = np.full(axis.shape, np.nan)
        columns[name][there] = values[real][here]
    name, (latitude, longitude) = plan.name(site, stage), plan.places[site]
    write_file(folder / str(name), name, axis, columns, latitude=latitude, longitude=longitude, comments=comments,
               attributes=_attributes(plan, site, stage))


def _about_days(site: str, days: np.ndarray) -> str:
    """A sentence about days of the protocol's record on which the model was not run, or the other way round."""
    axis = record_days(site)
    if axis is None:
        return f"The record of {site} is not known here: its files have the {len(days)} days of the forcing." if site in SITES else ""
    lost, more = len(np.setdiff1d(axis, days)), len(np.setdiff1d(days, axis))
    said = [f"{lost} of {len(axis)} days of the record of {site} are outside the forcing and missing in its files"] * bool(lost)
    said += [f"{more} days of the forcing of {site} are outside its record and left out"] * bool(more)
    return "; ".join(said) + "." if said else ""


def _attributes(plan: Plan, site: str, stage: str) -> dict[str, str]:
    problem, result = plan.calibration.experiment.problem, plan.calibration.result
    model = type(plan.forward.model).__name__
    run = {"Prior": "default parameters", "Posterior": f"MAP of {len(problem.space.labels)} parameters, {result.status.sentence}"}[stage]
    return {
        "title": f"{model} at {site}, {stage.lower()} run of {scenario_in_words(plan.scenario)}", "site": site,
        "source": f"{model} of landcal_jax {importlib.metadata.version('landcal_jax')}",
        "history": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}: run with {run}",
        "comment": "fluxes are daily means" + (f"; posterior by {plan.calibration.posterior.method}" if stage == "Posterior" else "")}
