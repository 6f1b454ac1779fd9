"""A calibration from data to posterior, in two calls: set it up, run it.

    experiment = site_experiment("FR-Pue")          # or twin_experiment(), or your own Experiment(problem=...)
    calibration = calibrate(experiment, seed=0)
    calibration.write("out")                        # posterior.nc, parameters.csv, report.html

`landcal calibrate` is a thin shell over these. Everything in here is made of the public pieces (`Problem`, `solve`,
`laplace`), so a script that outgrows it can go on with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from landcal_jax.ensemble_iterated import IterativeFourDEnVar
from landcal_jax.error_estimation import ROUNDS, ErrorEstimate, estimate_errors
from landcal_jax.errors import complain
from landcal_jax.experiment import Experiment
from landcal_jax.gradient import GaussNewton, LevenbergMarquardt, MultiStart
from landcal_jax.laplace import check_draws, laplace
from landcal_jax.members import FailedRuns
from landcal_jax.posterior import Posterior, from_ensemble
from landcal_jax.problem import Problem
from landcal_jax.sampling import nuts
from landcal_jax.search import CMAES, GeneticAlgorithm
from landcal_jax.smc import smc
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Result
from landcal_jax.solving import solve

MODEL_ERROR_ROUNDS = 2
POSTERIORS = ("gauss-newton", "hessian", "low-rank", "nuts", "smc")
FEWEST, FEWEST_OF_CHAINS = 2, 4
"""Draws without which the output has no spread, and of each chain without which none can be compared with another."""
CHI_SQUARE = "chi-square"
"""The word for a constant model error with which chi-square of the calibrated days is one."""


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


def calibrate(
    experiment: Experiment,
    solver: AbstractGradientSolver | AbstractEnsembleSolver | None = None,
    *,
    seed: int = 0,
    posterior: str = "gauss-newton",
    errors: str | None = None,
    draws: int | None = None,
    progress: bool = True,
    about: Mapping[str, object] | None = None,
    checkpoint: str | Path | None = None,
    failed: FailedRuns | None = None,
) -> Calibration:
    """Solve, estimate the model error where the experiment asks for it, and take the posterior.

    The default solver is that of `solver_for`: many starts of Levenberg-Marquardt, and iterated 4DEnVar for a model without
    derivatives. A solver that ends without a posterior (a genetic algorithm, CMA-ES) is followed from its result by
    Levenberg-Marquardt, or by iterated 4DEnVar where the model has no derivatives.

    `posterior`: "gauss-newton", "hessian" or "low-rank", the curvature of a Laplace approximation; "nuts", chains that are started
    from it and need a model that JAX differentiates; or "smc", particles, for any model: from a Gaussian half-way between the prior
    and Laplace where there is a tangent-linear, from the prior where there is none. Where the solver ends with an ensemble,
    "gauss-newton" means the posterior of that. `draws`: of the Gaussian (1000), of each of four chains (1000), or the particles.

    `errors`: how the model error is estimated where the experiment asks for it, "chi-square" without it: a constant, with which that
    of each stream is one (`with_estimated_model_error`), which is quick and says how far the fit is from what it was fitted to. The
    methods of `estimate_errors` estimate a season, a share of the flux and a memory too; "cross-validation" is the one for bands
    of years that were not seen, at the price of some dozen more solves.

    `about`: more to record in the output, such as the command line. `checkpoint`: a folder for the state of each solve and of the
    sampler; a call with the same arguments that finds them there goes on from them, and ends with the same bits (see `solve` and
    `run_folder.RunFolder`). `failed`: the rule for runs that fail; how many did is said in the warnings of the output.

    Raises ValueError and TypeError, before anything runs, for words that are none and for what does not go together.
    """
    solver = solver_for(experiment.problem) if solver is None else solver
    _check(experiment, solver, posterior, errors, draws)
    experiment = with_levels(experiment)
    folder = None if checkpoint is None else Path(checkpoint)

    def solved(name, *args, **kwargs):
        file = None if folder is None else folder / f"solve_{name}.npz"
        return solve(*args, key=seed, progress=progress, checkpoint=file, failed=failed, **kwargs)

    result = solved(0, experiment.problem, solver)
    polish, words = solver.solver if isinstance(solver, MultiStart) else solver, solver_in_words(solver)
    if isinstance(solver, AbstractEnsembleSolver) and "posterior_z" not in result.details:
        # A search ends near the minimum; its curvature, which is the posterior, is that of the minimum itself.
        polish = LevenbergMarquardt() if experiment.problem.has_tangent else IterativeFourDEnVar()
        words = f"{words}, then {solver_in_words(polish)}"
        result = _joined(result, solved("polish", experiment.problem, polish, z0=result))
    if experiment.estimate_model_error and errors in (None, CHI_SQUARE):
        for number in range(1, 1 + MODEL_ERROR_ROUNDS):
            experiment = with_estimated_model_error(experiment, result)
            result = _joined(result, solved(number, experiment.problem, polish, z0=result))
    elif experiment.estimate_model_error:
        estimate = estimate_errors(
            experiment.problem, result, method=errors, solver=polish, key=seed, progress=progress, checkpoint=checkpoint, failed=failed)
        experiment, result = with_errors(experiment, estimate), _with_rounds(result, estimate)
    sampling = {"key": seed, "progress": progress, "checkpoint": None if folder is None else folder / f"{posterior}.npz"}
    experiment, found = _with_posterior(experiment, result, polish, posterior, draws, sampling, failed)
    return Calibration(experiment, result, found, {"seed": seed, "solver": words} | dict(about or {}))


def _check(experiment: Experiment, solver, posterior: str, errors: str | None, draws: int | None) -> None:
    """Refuse what does not go together before hours are spent on the solve."""
    problem, known = experiment.problem, (CHI_SQUARE, *ROUNDS)
    if draws is not None:
        check_draws(draws, FEWEST_OF_CHAINS if posterior == "nuts" else FEWEST)
    if posterior not in POSTERIORS:
        raise ValueError(complain(f"a posterior of {', '.join(POSTERIORS)}", f"{posterior!r}", 'posterior="gauss-newton"'))
    if posterior == "nuts" and not (problem.differentiable and problem.forward.traceable):
        raise TypeError(complain('a model that JAX differentiates for posterior="nuts"', problem.forward.description,
                                 'posterior="smc", which needs runs alone'))
    ensemble = isinstance(solver, AbstractEnsembleSolver) and not (isinstance(solver, GeneticAlgorithm | CMAES) and problem.has_tangent)
    if posterior in ("hessian", "low-rank") and ensemble:
        raise ValueError(complain(f'a solver that uses derivatives for posterior="{posterior}"',
                                  f"{solver_in_words(solver)}, whose posterior is that of an ensemble", "leave the posterior out"))
    if errors not in (None, *known):
        raise ValueError(complain(f"errors by {', '.join(known)}", f"{errors!r}", f'errors="{CHI_SQUARE}"'))
    if errors and not experiment.estimate_model_error:
        raise ValueError(complain("an experiment whose model error is to be estimated, with `errors`",
                                  f"{experiment.title}, whose R is given", "Experiment(..., estimate_model_error=True), or leave it out"))
    if errors in ("marginal", "cross-validation") and not problem.has_tangent:
        raise TypeError(complain(f'a model with a tangent-linear for errors="{errors}"', problem.forward.description, 'errors="residuals"'))
    rich = [name for name, stream in problem.observations.items() if not stream.model_error.plain]
    if experiment.estimate_model_error and errors in (None, CHI_SQUARE) and rich:
        raise ValueError(complain("a constant model error, which is what chi-square can estimate",
                                  f"a share, a season or a memory in that of {', '.join(rich)}", 'errors="marginal", which keeps them'))


def _with_posterior(
    experiment: Experiment, result: Result, polish, posterior: str, draws: int | None, sampling: Mapping[str, Any],
    failed: FailedRuns | None,
) -> tuple[Experiment, Posterior]:
    """The posterior, and the experiment with a note where it had to be another one."""
    problem, number = experiment.problem, {} if draws is None else {"draws": draws}
    if posterior == "nuts":
        return experiment, nuts(problem, result, **number, **sampling)
    if posterior == "smc":
        # From all over the prior it took ten times the gradients at a real site, and missed the deepest of several modes.
        return experiment, smc(problem, near=result if problem.has_tangent else None, particles=draws, failed=failed, **sampling)
    if isinstance(polish, AbstractEnsembleSolver):
        return experiment, from_ensemble(problem, result, key=sampling["key"], **number)
    try:
        return experiment, laplace(problem, result, curvature=posterior, key=sampling["key"], **number)
    except ValueError as error:
        if posterior != "hessian":
            raise
        # Minutes of solving are not thrown away because the Hessian at a kink is indefinite; the output says what it has.
        found = str(error).splitlines()[1].removeprefix("Got:").strip()
        note = f"Posterior by Gauss-Newton curvature instead of {posterior}: {found}."
        return replace(experiment, notes=[note, *experiment.notes]), laplace(problem, result, key=sampling["key"], **number)


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


def with_levels(experiment: Experiment) -> Experiment:
    """The experiment with a level for model errors that grow with the flux and have none: the modelled one of the first guess."""
    observations, held_out = experiment.problem.observations, experiment.held_out
    if all(stream.model_error.complete for part in (observations, held_out or {}) for _, stream in part.items()):
        return experiment
    run = experiment.problem.predict(experiment.problem.space.default_z)

    def completed(part):
        return part.with_streams({name: stream.with_model_error(stream.model_error.completed(run[name])) for name, stream in part.items()})

    return replace(experiment, problem=experiment.problem.with_observations(completed(observations)),
                   held_out=None if held_out is None else completed(held_out))


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
