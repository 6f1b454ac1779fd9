"""A calibration from data to posterior, in two calls: set it up, run it.

    experiment = site_experiment("FR-Pue")          # or twin_experiment(), or your own Experiment(problem=...)
    calibration = calibrate(experiment, seed=0)
    calibration.write("out")                        # posterior.nc, parameters.csv, report.html

`landcal calibrate` is a thin shell over these. Everything in here is made of the public pieces (`Problem`, `solve`,
`laplace`), so a script that outgrows it can go on with them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax import data, testing
from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.error_estimation import ROUNDS, ErrorEstimate, estimate_errors
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.gradient import GaussNewton, LevenbergMarquardt, MultiStart
from landcal_jax.io.coverage import void_days
from landcal_jax.io.normal import step_of
from landcal_jax.io.suspicion import equal_extremes
from landcal_jax.laplace import laplace
from landcal_jax.members import FailedRuns
from landcal_jax.model import AbstractModel, Theta
from landcal_jax.models import Dalec2, DalecWater
from landcal_jax.models.edc import EcologicalConstraints
from landcal_jax.observations import Observations, StreamSpec
from landcal_jax.parameters import ParameterSpace
from landcal_jax.posterior import Posterior, from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.sites import Sites
from landcal_jax.smc import smc
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Result
from landcal_jax.solving import solve
from landcal_jax.weather import TEMPERATE_FOREST, Climate, weather

FIRE_PARAMETERS = ("foliar_combustion", "ligneous_combustion", "dom_combustion", "fire_resilience")
STREAMS = ("nee", "latent_heat")
MODEL_ERROR_ROUNDS = 2
POSTERIORS = ("gauss-newton", "hessian", "low-rank", "nuts", "smc")
CHI_SQUARE = "chi-square"
"""The word for a constant model error with which chi-square of the calibrated days is one."""

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


@dataclass(frozen=True)
class Calibration:
    """A finished calibration: the experiment (with the model error that was estimated), result and posterior."""

    experiment: Experiment
    result: Result
    posterior: Posterior
    about: Mapping[str, object] = field(default_factory=dict)

    def to_xarray(self) -> xr.Dataset:
        """Everything in one Dataset, the content of posterior.nc; see `landcal_jax.output`."""
        from landcal_jax import output  # here, because figures bring matplotlib

        return output.dataset(self.experiment, self.result, self.posterior, self.about)

    def write(self, folder: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
        """Write posterior.nc, parameters.csv and report.html into `folder`; returns their paths.

        Raises FileExistsError if results are there and `overwrite` is False.
        """
        from landcal_jax import output

        return output.write(self.to_xarray(), folder, overwrite=overwrite)


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


def calibrate(
    experiment: Experiment,
    solver: AbstractGradientSolver | AbstractEnsembleSolver | None = None,
    *,
    seed: int = 0,
    posterior: str = "gauss-newton",
    draws: int = 1000,
    progress: bool = True,
    about: Mapping[str, object] | None = None,
    checkpoint: str | Path | None = None,
    failed: FailedRuns | None = None,
    errors: str = CHI_SQUARE,
) -> Calibration:
    """Solve, estimate the model error where the experiment asks for it, and take the posterior.

    A solver that ends without a posterior (a genetic algorithm, CMA-ES) is followed from its result by Levenberg-Marquardt, or by
    iterated 4DEnVar where the model has no derivatives.

    The default solver is that of `solver_for`: many starts of Levenberg-Marquardt, and iterated 4DEnVar for a model without
    derivatives. `about`: more to record in the output, such as the command line. `checkpoint`: a folder for the state of each
    solve and of the sampler; a call with the same arguments that finds them there goes on from them, and ends with the same bits
    (see `solve` and `run_folder.RunFolder`). `failed`: the rule for runs that fail; how many did is said in the warnings of the output.

    `posterior`: "gauss-newton", "hessian" or "low-rank", the curvature of a Laplace approximation; "nuts", chains that are started
    from it and need a model with derivatives; or "smc", particles, for any model: from a Gaussian half-way between the prior and
    Laplace where there is a tangent-linear, from the prior where there is none. Where the solver ends with an ensemble, the first
    three mean the posterior of that. `draws`: see `laplace`; of each of the four chains of "nuts".

    `errors`: how the model error is estimated where the experiment asks for it. "chi-square" makes that of each stream one by a constant
    (`with_estimated_model_error`), which is quick and says how far the fit is from what it was fitted to. The methods of
    `estimate_errors` estimate a season, a share of the flux and a memory too; "cross-validation" is the one for bands that hold in
    years that were not seen, at the price of some dozen more solves.
    Raises ValueError for other words, and what `estimate_errors` and the posterior raise.
    """
    if posterior not in POSTERIORS:
        raise ValueError(complain(f"a posterior of {', '.join(POSTERIORS)}", f"{posterior!r}", 'posterior="gauss-newton"'))
    if errors not in (CHI_SQUARE, *ROUNDS):
        raise ValueError(complain(f"errors by {', '.join((CHI_SQUARE, *ROUNDS))}", f"{errors!r}", f'errors="{CHI_SQUARE}"'))

    def solved(round_number, *args, **kwargs):
        file = None if checkpoint is None else Path(checkpoint) / f"solve_{round_number}.npz"
        return solve(*args, key=seed, progress=progress, checkpoint=file, failed=failed, **kwargs)

    solver = solver_for(experiment.problem) if solver is None else solver
    result = solved(0, experiment.problem, solver)
    polish, words = solver.solver if isinstance(solver, MultiStart) else solver, solver_in_words(solver)
    if isinstance(solver, AbstractEnsembleSolver) and "posterior_z" not in result.details:
        # A search ends near the minimum; its curvature, which is the posterior, is that of the minimum itself.
        polish = LevenbergMarquardt() if experiment.problem.has_tangent else IterativeFourDEnVar()
        words = f"{words}, then {solver_in_words(polish)}"
        result = _joined(result, solved("polish", experiment.problem, polish, z0=result))
    if experiment.estimate_model_error and errors == CHI_SQUARE:
        for round_number in range(1, 1 + MODEL_ERROR_ROUNDS):
            experiment = with_estimated_model_error(experiment, result)
            result = _joined(result, solved(round_number, experiment.problem, polish, z0=result))
    elif experiment.estimate_model_error:
        estimate = estimate_errors(
            experiment.problem, result, method=errors, solver=polish, key=seed, progress=progress, checkpoint=checkpoint, failed=failed)
        experiment, result = with_errors(experiment, estimate), _with_rounds(result, estimate)
    about = {"seed": seed, "solver": words} | dict(about or {})
    sampling = {"key": seed, "progress": progress, "checkpoint": None if checkpoint is None else Path(checkpoint) / f"{posterior}.npz"}
    if posterior == "nuts":
        return Calibration(experiment, result, nuts(experiment.problem, result, draws=draws, **sampling), about)
    if posterior == "smc":
        # From all over the prior it took ten times the gradients at a real site, and missed the deepest of several modes.
        near = result if experiment.problem.has_tangent else None
        return Calibration(experiment, result, smc(experiment.problem, near=near, failed=failed, **sampling), about)
    if isinstance(polish, AbstractEnsembleSolver):
        return Calibration(experiment, result, from_ensemble(experiment.problem, result, draws=draws, key=seed), about)
    return Calibration(*_with_laplace(experiment, result, posterior, draws, seed), about)


def _with_laplace(
    experiment: Experiment, result: Result, curvature: str, draws: int, seed: int
) -> tuple[Experiment, Result, Posterior]:
    """The Laplace posterior, and the experiment with a note where the curvature had to be another one."""
    try:
        return experiment, result, laplace(experiment.problem, result, curvature=curvature, draws=draws, key=seed)
    except ValueError as error:
        if curvature != "hessian":
            raise
        # Minutes of solving are not thrown away because the Hessian at a kink is indefinite; the output says what it has.
        posterior = laplace(experiment.problem, result, draws=draws, key=seed)
        found = str(error).splitlines()[1].removeprefix("Got:").strip()
        note = f"Posterior by Gauss-Newton curvature instead of {curvature}: {found}."
        return replace(experiment, notes=[note, *experiment.notes]), result, posterior


def solver_for(problem: Problem) -> AbstractGradientSolver | AbstractEnsembleSolver:
    """What `calibrate` takes without `solver`, by the derivatives that the problem has.

    `default_solver()` for a model in JAX. For an external model `LevenbergMarquardt()` from one start, since it is too slow to choose
    among thousands of runs; `IterativeFourDEnVar()` if it has no tangent-linear, which Levenberg-Marquardt and the posterior need.
    """
    if not problem.has_tangent:
        return IterativeFourDEnVar()
    return default_solver() if problem.forward.traceable else LevenbergMarquardt()


def default_solver(solver: AbstractGradientSolver | None = None, number: int = 16) -> MultiStart:
    """Levenberg-Marquardt (or `solver`) from many starts, since phenology gives J several minima.

    The starts are the best of 2048 points of the prior, and 30 iterations (150 of a solver that sees gradients only) decide
    which three go to the end: on the real sites of the benchmarks fewer leave the minimum to the seed.
    """
    solver = LevenbergMarquardt() if solver is None else solver
    explore = 30 if isinstance(solver, LevenbergMarquardt | GaussNewton) else 150
    return MultiStart(solver, number=number, candidates=2048, explore=explore)


def with_estimated_model_error(experiment: Experiment, result: Result) -> Experiment:
    """The experiment with the model error of each stream that makes its chi-square one at `result`.

    The same error is given to the held-out part. Streams without time, such as constraints, keep theirs. See
    `Stream.estimate_model_error`.
    """
    predicted = experiment.problem.predict(result.z)
    calibrated, held_out = experiment.problem.observations, experiment.held_out
    errors = {name: stream.estimate_model_error(predicted[name]) for name, stream in calibrated.items() if stream.time is not None}

    def updated(observations):
        return observations.with_streams({name: observations[name].with_model_error(error) for name, error in errors.items()})

    return replace(
        experiment, problem=experiment.problem.with_observations(updated(calibrated)),
        held_out=None if held_out is None else updated(held_out))


def with_errors(experiment: Experiment, estimate: ErrorEstimate) -> Experiment:
    """The experiment with the errors that `estimate_errors` found, in its held-out part too, and with the sentences as notes."""
    held_out = None if experiment.held_out is None else estimate.applied(experiment.held_out)
    return replace(experiment, problem=estimate.problem, held_out=held_out, notes=[*estimate.sentences, *experiment.notes])


def _with_rounds(result: Result, estimate: ErrorEstimate) -> Result:
    """`result` and the rounds that followed it as one result, with the work of the years left out."""
    for other in estimate.others:
        added = _joined(result, other)
        result = result._replace(counts=added.counts, seconds=added.seconds)
    for each in estimate.results:
        result = _joined(result, each)
    return result


def solver_in_words(solver: AbstractGradientSolver | AbstractEnsembleSolver) -> str:
    """A solver for people: its name, and what it starts from."""
    if isinstance(solver, MultiStart):
        return f"{solver_in_words(solver.solver)} from {solver.number} starts"
    return type(solver).__name__


def _joined(first: Result, then: Result) -> Result:
    """One result of two solves in a row; the history goes on, with J under the errors in force at the time."""
    history = {name: np.concatenate([first.history[name], values]) for name, values in then.history.items()}
    failed = {"failed_runs": first.details["failed_runs"] + then.details["failed_runs"]}

    def added(one, other):
        return {name: one[name] + other[name] for name in one}

    return then._replace(
        history=history, counts=added(first.counts, then.counts), seconds=added(first.seconds, then.seconds),
        details=first.details | then.details | failed)
