"""`landcal calibrate`: a thin shell over `landcal_jax.experiment`, in a folder that survives."""

import contextlib
import enum
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from landcal_jax.cli.user_code import call, load_object, load_reader
from landcal_jax.errors import complain


class Solver(enum.StrEnum):
    """Names of solvers on the command line."""

    LEVENBERG_MARQUARDT = "levenberg-marquardt"
    GAUSS_NEWTON = "gauss-newton"
    LBFGS = "lbfgs"
    ADAM = "adam"
    ITERATIVE_4DENVAR = "iterative-4denvar"
    FOURDENVAR = "4denvar"
    EKI = "eki"
    ETKI = "etki"
    ESMDA = "esmda"
    UNSCENTED = "unscented"
    GENETIC = "ga"
    CMA_ES = "cma-es"


class Posterior(enum.StrEnum):
    """Posteriors on the command line."""

    GAUSS_NEWTON = "gauss-newton"
    HESSIAN = "hessian"
    LOW_RANK = "low-rank"
    NUTS = "nuts"
    SMC = "smc"


class Errors(enum.StrEnum):
    """How the model error is estimated on the command line."""

    CHI_SQUARE = "chi-square"
    MARGINAL = "marginal"
    CROSS_VALIDATION = "cross-validation"
    DESROZIERS = "desroziers"
    RESIDUALS = "residuals"


class Model(enum.StrEnum):
    """Shipped models on the command line."""

    DALEC = "dalec"
    DALEC_WATER = "dalec-water"


STRUCTURE = "structure.html"
OF_FILES = ("latitude", "longitude", "reader", "most_filled", "correlation_hours")
OF_SHIPPED = ("site", "forcing", "flux", "model", "held_out_years", "callmip", "constraints", "most_filled", "correlation_hours")


def calibrate(
    target: Annotated[str | None, typer.Argument(
        help="`FILE.py:problem`: a Problem or an Experiment (or a function that returns one) in a file of yours, which is run; such as "
        "an external model. Without it: a shipped model.")] = None,
    site: Annotated[str | None, typer.Option(
        help="Catalogue site, such as FR-Pue (`landcal sites` lists them), or the site to take from files that hold several. Without it "
        "and without files: a twin experiment.")] = None,
    forcing: Annotated[list[Path] | None, typer.Option(
        help="Drivers of your own site, with --flux (`landcal inspect FILE` says what it brings); again for each further file.",
        readable=False)] = None,
    flux: Annotated[list[Path] | None, typer.Option(
        help="Fluxes of your own site, with --forcing; it may be the same file.", readable=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder for posterior.nc, parameters.csv and report.html.")] = Path("landcal-out"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn; the same seed gives the same result.", min=0)] = 0,
    model: Annotated[Model | None, typer.Option(
        help="DALEC2 (NEE only) or DALEC with water (NEE and latent heat).", show_default="dalec-water")] = None,
    solver: Annotated[Solver | None, typer.Option(
        help="How J is minimised. All from iterative-4denvar on need no derivatives of the model. ga (a genetic algorithm) and cma-es "
        "search the whole prior and end with a point, without a posterior: levenberg-marquardt, or for a model without derivatives "
        "iterative-4denvar, goes on from there and brings one.",
        show_default="levenberg-marquardt, for a model without derivatives iterative-4denvar")] = None,
    starts: Annotated[int | None, typer.Option(
        help="Number of starting points; 1 starts from the first guess only, as an external model always does.", min=1,
        show_default="16")] = None,
    members: Annotated[int | None, typer.Option(
        help="Members of the ensemble, or of a generation of ga and cma-es, for the solvers that choose.", min=2,
        show_default="50 (4denvar) or as many as span the parameters, ga 30")] = None,
    posterior: Annotated[Posterior, typer.Option(
        help="gauss-newton, hessian, low-rank: the Gaussian of the curvature of J at its minimum, or the ensemble of a solver that has "
        "one. nuts: chains of the No-U-Turn sampler, for many minutes. smc: particles, for models without derivatives "
        "too.")] = Posterior.GAUSS_NEWTON,
    errors: Annotated[Errors | None, typer.Option(
        help="How the model error is estimated, of real data. chi-square: a constant. marginal: a season, a share of the flux and a "
        "memory too, by their likelihood. cross-validation: the same by years left out, for bands of years not seen. desroziers, "
        "residuals: by the diagnostics that the field uses.", show_default="chi-square")] = None,
    held_out_years: Annotated[int | None, typer.Option(
        help="Last years of the record that the calibration does not see.", min=0, show_default="3, in a twin 2")] = None,
    constraints: Annotated[bool, typer.Option("--constraints", help="Add the ecological constraints of DALEC to J.")] = False,
    latitude: Annotated[float | None, typer.Option(help="Latitude [degrees north] of --forcing, where the file does not say.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Longitude [degrees east] of --forcing, where the file does not say.")] = None,
    reader: Annotated[str | None, typer.Option(
        help="`FILE.py:function` that reads --forcing and --flux, for a format of your own; the file is run.")] = None,
    most_filled: Annotated[float | None, typer.Option(
        help="Largest share of a day of half-hours that may be gap-filled; the day is void above it.", min=0.0, max=1.0,
        show_default="0.25")] = None,
    correlation_hours: Annotated[float | None, typer.Option(
        help="E-folding time of the errors of half-hours; 0 takes them as independent.", min=0.0,
        show_default="fully correlated within a day")] = None,
    callmip: Annotated[str | None, typer.Option(
        help="Write the files of CalLMIP Phase 1b too, for a model with this name and version, such as DALEC.v1.")] = None,
    examine: Annotated[bool, typer.Option(
        "--examine", help="Test the calibrated model against its own assumptions, and write structure.html: what is wrong with it, or "
        "why the calibration failed.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --out, or begin one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results or an unfinished run in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Calibrate DALEC on daily net ecosystem exchange and latent heat, and write a report.

    With no option at all it runs a **twin experiment**: generated weather, a known truth, noisy observations, and the
    search for that truth. It needs no data and no network. Killed at any moment, it goes on with `--resume` and ends with
    the same result.
    """
    import landcal_jax

    landcal_jax.configure()
    from landcal_jax import calibration, output
    from landcal_jax import callmip as protocol
    from landcal_jax.io.files import sha256
    from landcal_jax.run_folder import RunFolder

    said = Console(quiet=quiet)
    choices = {
        "target": target, "members": members, "site": site,
        "forcing": list(forcing or ()), "flux": list(flux or ()), "seed": seed, "model": model, "solver": solver,
        "starts": starts, "posterior": posterior, "errors": errors,
        "held_out_years": held_out_years, "constraints": constraints, "latitude": latitude,
        "longitude": longitude, "reader": reader, "most_filled": most_filled, "correlation_hours": correlation_hours,
        "callmip": callmip, "examine": examine}
    _check_options(choices)
    choices["model"] = model or (None if target else Model.DALEC_WATER)
    # A file that was edited in between is another run.
    own = [Path(target.rpartition(":")[0])] if target else []
    inputs = {str(path): sha256(path) for path in (*choices["forcing"], *choices["flux"], *own) if path.is_file()}
    with _interruptible(out), RunFolder(
            out, overwrite=overwrite, resume=resume, results=(*output.FILES, *[STRUCTURE] * examine), options=choices | {"inputs": inputs},
            command=_command()) as run:
        if resume and run.finished:
            said.print(f"The run in {out} is finished: nothing to resume.", highlight=False, markup=False)
            return
        made = _experiment(choices, not quiet)
        _check_solver(choices, made.problem)
        if errors and not made.estimate_model_error:
            raise ValueError(complain("--errors with data whose model error is to be estimated", f"{made.title}, whose R is given",
                                      "leave it out, or --site or --forcing with --flux"))
        if callmip:
            protocol.check(made, **_model_names(callmip))
        _introduce(made, said)
        run.begin()
        done = calibration.calibrate(
            made, _solver(solver, starts or 16, members, made.problem), seed=seed, posterior=posterior.value, progress=not quiet,
            errors=None if errors is None else errors.value,
            about={"command": shlex.join(["landcal", *sys.argv[1:]])}, checkpoint=run.checkpoints)
        with said.status("running the posterior, drawing the report"):
            dataset = done.to_xarray()
            paths = run.publish(lambda folder: _write(done, dataset, folder, callmip, examine, said))
    _conclude(done, dataset, paths, said)


def _check_options(choices) -> None:
    """Refuse options that do not go together, or that nothing would come of, before anything is read."""
    site, forcing, flux, target = (choices[name] for name in ("site", "forcing", "flux", "target"))
    if bool(forcing) != bool(flux):
        given = [option for option, value in (("--site", site), ("--forcing", forcing), ("--flux", flux)) if value]
        raise ValueError(complain(
            "--site NAME, or --forcing FILE with --flux FILE, or none of them", " and ".join(given) + (" alone" if len(given) == 1 else ""),
            "landcal calibrate --help"))
    # Zero is a value.
    given = [_option(name) for name in OF_SHIPPED if choices[name] is not None and choices[name] is not False and choices[name] != []]
    if target and given:
        raise ValueError(complain(f"{target} alone, which brings its model and its data", f"{' and '.join(given)} too",
                                  "leave it out, or do it in the file"))
    given = [_option(name) for name in OF_FILES if choices[name] is not None]
    if given and not forcing:
        raise ValueError(complain(f"--forcing and --flux with {' and '.join(given)}", f"{' and '.join(given)} without files of yours",
                                  "add --forcing FILE --flux FILE, or leave it out"))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_solver(choices, problem) -> None:
    """Refuse options that the solver does nothing with."""
    from landcal_jax.solvers import AbstractEnsembleSolver

    solver = _solver(choices["solver"], choices["starts"] or 16, choices["members"], problem)
    name = choices["solver"] or (Solver.LEVENBERG_MARQUARDT if problem.has_tangent else Solver.ITERATIVE_4DENVAR)
    ensemble = isinstance(solver, AbstractEnsembleSolver)
    searches = name in (Solver.GENETIC, Solver.CMA_ES)
    if choices["members"] is not None and (not ensemble or name is Solver.UNSCENTED):
        why = "whose number of members follows from the parameters" if ensemble else "which has no ensemble"
        raise ValueError(complain("--members with a solver that chooses them", f"{name.value}, {why}", "leave it out, or --solver eki"))
    if choices["starts"] is not None and ensemble:
        raise ValueError(complain("--starts with a solver that starts from points", f"{name.value}, which draws an ensemble",
                                  "leave it out, or --members for the size of the ensemble"))
    if (choices["starts"] or 1) > 1 and not problem.forward.traceable:
        raise ValueError(complain("one start for an external model, which is too slow to choose among thousands of runs",
                                  f"--starts {choices['starts']}", "leave it out, or MultiStart in a script"))
    posterior = choices["posterior"]
    if posterior in (Posterior.HESSIAN, Posterior.LOW_RANK) and ensemble and not (searches and problem.has_tangent):
        raise ValueError(complain(f"--posterior {posterior} with a solver that uses derivatives",
                                  f"{name.value}, whose posterior is that of an ensemble", "leave it out, or --solver levenberg-marquardt"))
    if choices["examine"] and not problem.has_tangent:
        raise ValueError(complain("--examine with a model that has a tangent-linear", problem.forward.description, "leave it out"))
    if posterior is Posterior.NUTS and not (problem.differentiable and problem.forward.traceable):
        raise ValueError(complain("--posterior nuts with a model that JAX differentiates", problem.forward.description,
                                  "--posterior smc, which needs runs alone"))


def _introduce(made, said: Console) -> None:
    """Say what is about to be calibrated, on what, and whom to cite."""
    said.print(made.title, style="bold", highlight=False, markup=False)
    said.print(str(made.problem.observations), highlight=False, markup=False)
    for citation in dict.fromkeys(line for source in made.sources for line in source["citation"].splitlines()):
        said.print(f"Cite: {citation}", style="dim", highlight=False, markup=False)


def _conclude(done, dataset, paths, said: Console) -> None:
    """Say what was found, what a reader has to know, and where it is."""
    from landcal_jax import output

    said.print(_scores(dataset))
    said.print(str(done.result), highlight=False, markup=False)
    if done.experiment.estimate_model_error:
        errors = _model_errors(done.experiment.problem.observations)
        said.print(f"Model error, estimated: {errors}.", highlight=False, markup=False)
    for sentence in output.read_warnings(dataset):
        said.print(f"[yellow]Note:[/yellow] {escape(sentence)}", highlight=False)
    for name in ("report.html", *({STRUCTURE} & set(paths))):
        said.print(f"Report: {paths[name].resolve().as_uri()}", highlight=False, markup=False, soft_wrap=True)


def _command() -> str:
    return shlex.join(["landcal", *(argument for argument in sys.argv[1:] if argument not in ("--resume", "--overwrite"))])


@contextlib.contextmanager
def _interruptible(out: Path):
    """Ctrl-C and the signal with which batch systems end a job: the solver keeps its state, and a sentence says how to go on."""
    def stop(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        Console(stderr=True).print(
            f"Interrupted. Nothing in {out} was replaced. Go on where it stopped with:\n  {_command()} --resume", style="red",
            highlight=False, markup=False, soft_wrap=True)
        raise typer.Exit(130) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _experiment(choices, progress: bool):
    """The Experiment that the options ask for."""
    from landcal_jax import experiment as workflow
    from landcal_jax import models

    if choices["target"]:
        return _of_user(choices["target"])
    kind = {Model.DALEC: models.Dalec2, Model.DALEC_WATER: models.DalecWater}[choices["model"]]
    common = {"constraints": choices["constraints"], "model": kind()}
    if choices["held_out_years"] is not None:
        common["held_out_years"] = choices["held_out_years"]
    if choices["site"] and not choices["forcing"]:
        return workflow.site_experiment(choices["site"], progress=progress, **common)
    if choices["forcing"]:
        return _own_files(choices, common, kind)
    return workflow.twin_experiment(choices["seed"], **common)


def _of_user(target: str):
    """The Experiment that `FILE.py:name` holds, or makes of its Problem."""
    from landcal_jax.experiment import Experiment
    from landcal_jax.problem import Problem

    found = load_object(target, "a Problem or an Experiment in a Python file", "landcal calibrate mymodel.py:problem")
    if callable(found) and not isinstance(found, Problem | Experiment):
        found = call(found, target, "a Problem or an Experiment")
    if isinstance(found, Problem):
        name = found.forward.name
        # A function without a name of its own.
        name = f"{target.rpartition(':')[2]} of {Path(target.rpartition(':')[0]).name}" if name == "<lambda>" else name
        found = Experiment(found, title=f"{name} calibrated")
    if not isinstance(found, Experiment):
        raise ValueError(complain(f"a landcal_jax Problem or Experiment at {target}", f"a {type(found).__name__}",
                                  "problem = Problem(space, forward, observations)"))
    if all(stream.time is None for _, stream in found.problem.observations.items()):
        raise ValueError(complain("a stream with times, for the report", "none", "Stream(..., time=datetimes)"))
    if found.problem.differentiable and not found.problem.has_tangent:
        raise ValueError(complain("a model with a tangent-linear, for the Laplace posterior", "one with an adjoint only",
                                  "BlackBoxForward(tangent=), or solve(problem, LBFGS()) in a script"))
    return found


def _own_files(choices, common, kind):
    from landcal_jax import io
    from landcal_jax.experiment import dalec_for, observed_experiment
    from landcal_jax.io.files import sha256

    reader = choices["reader"] and load_reader(choices["reader"])
    place = {"reader": reader, "site": choices["site"], "latitude": choices["latitude"], "longitude": choices["longitude"]}
    drivers, fluxes = io.align(io.read_forcing(choices["forcing"], **place), io.read_flux(
        choices["flux"], most_filled=0.25 if choices["most_filled"] is None else choices["most_filled"],
        correlation_hours=choices["correlation_hours"], **place))
    sources = [
        {"file": path.name, "sha256": sha256(path), "source": "file of the user", "license": ds.attrs.get("license", ""),
         "citation": ds.attrs.get("references", "")}
        for paths, ds in ((choices["forcing"], drivers), (choices["flux"], fluxes)) for path in paths]
    return observed_experiment(drivers, fluxes, sources=sources, **(common | {"model": dalec_for(drivers, kind)}))


def _write(done, dataset, folder: Path, callmip: str | None, examine: bool, said: Console) -> None:
    """All files of the run into `folder`; those of CalLMIP and of the structural report where they were asked for."""
    from landcal_jax import callmip as protocol
    from landcal_jax import output, structure

    output.write_files(dataset, folder)
    if examine:
        try:
            findings = structure.examine(done, seed=int(done.about.get("seed", 0)))
            findings.write(folder / STRUCTURE)
            top = findings.top.sentence if findings.top else "nothing stands out of chance."
        except Exception as error:  # whatever it is: results of an hour are not thrown away with it
            top = f"no report, since it failed ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'})."
        said.print(f"Examined: {top}", highlight=False, markup=False)
    if callmip:
        written = protocol.write_files(protocol.planned(done, **_model_names(callmip)), folder)
        said.print(f"Files of CalLMIP Phase 1b:\n{written}", highlight=False, markup=False)


def _model_names(callmip: str) -> dict[str, str]:
    name, _, version = callmip.partition(".")
    if not name or not version:
        raise ValueError(complain("--callmip NAME.VERSION of the model", repr(callmip), "--callmip DALEC.v1"))
    return {"model_name": name, "model_version": version}


def _model_errors(observations) -> str:
    """The model error of each stream that has times, in its unit."""
    streams = [(name, stream) for name, stream in observations.items() if stream.time is not None]
    return ", ".join(f"{name} [{stream.units}] {stream.model_error}" for name, stream in streams)


def _solver(name: Solver | None, starts: int, members: int | None, problem):
    import optax

    from landcal_jax import ensemble, ensemble_iterated, ensemble_kalman, gradient, search
    from landcal_jax.calibration import default_solver

    if name is None:
        name = Solver.LEVENBERG_MARQUARDT if problem.has_tangent else Solver.ITERATIVE_4DENVAR
    ensembles = {Solver.ITERATIVE_4DENVAR: ensemble_iterated.IterativeFourDEnVar, Solver.FOURDENVAR: ensemble.FourDEnVar,
                 Solver.EKI: ensemble_kalman.EKI, Solver.ETKI: ensemble_kalman.ETKI, Solver.ESMDA: ensemble_kalman.ESMDA}
    searches = {Solver.GENETIC: search.GeneticAlgorithm, Solver.CMA_ES: search.CMAES}
    if name in ensembles:
        return ensembles[name](**({"size": members} if members else {}))
    if name in searches:
        return searches[name](**({"population": members} if members else {}))
    if name is Solver.UNSCENTED:
        return ensemble_kalman.UnscentedKalmanInversion()
    solver = {
        Solver.LEVENBERG_MARQUARDT: gradient.LevenbergMarquardt(), Solver.GAUSS_NEWTON: gradient.GaussNewton(),
        Solver.LBFGS: gradient.LBFGS(), Solver.ADAM: gradient.Optax(optax.adam(3e-2))}[name]
    # Several starts are chosen among thousands of runs, for which an external model is too slow.
    return solver if starts == 1 or not problem.forward.traceable else default_solver(solver, starts)


def _scores(dataset) -> Table:
    """RMSE before and after, by stream and period."""
    # Without lines between the columns it fits into a terminal of 80 characters.
    table = Table(
        "stream", "period", "days", "RMSE\nbefore", "RMSE\nafter", "r\nbefore", "r\nafter", "chi-\nsquare",
        box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in table.columns:
        column.no_wrap = True
    for stream in dataset["stream"].values:
        for period in dataset["period"].values:
            one = dataset["score"].sel(stream=stream, period=period).isel(site=0)
            value = {(stage, metric): float(one.sel(stage=stage, metric=metric))
                     for stage in ("prior", "posterior") for metric in one["metric"].values}
            if value["posterior", "n"] > 0:
                unit = dataset[f"{stream}_observed"].attrs["units"]
                table.add_row(
                    f"{stream} \\[{unit}]", str(period).replace("_", " "), f"{value['posterior', 'n']:.0f}",
                    *(f"{value[stage, 'rmse']:.3g}" for stage in ("prior", "posterior")),
                    *(f"{value[stage, 'r']:.2f}" for stage in ("prior", "posterior")),
                    f"{value['posterior', 'chi_square']:.2f}")
    return table
