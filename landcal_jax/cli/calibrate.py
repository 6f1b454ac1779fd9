"""The command `landcal`: a thin shell over `landcal_jax.experiment`, `testing` and `data`.

Imports that start JAX are inside the commands, so that `landcal --help` answers at once.
"""

import enum
import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from landcal_jax.errors import complain

app = typer.Typer(
    name="landcal", no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Calibrate land surface models with exact gradients, and say how far to trust the result.")
console = Console()


class Solver(enum.StrEnum):
    """Names of solvers on the command line."""

    LEVENBERG_MARQUARDT = "levenberg-marquardt"
    GAUSS_NEWTON = "gauss-newton"
    LBFGS = "lbfgs"
    ADAM = "adam"


class Curvature(enum.StrEnum):
    """Curvatures of the Laplace posterior on the command line."""

    GAUSS_NEWTON = "gauss-newton"
    HESSIAN = "hessian"


class Model(enum.StrEnum):
    """Shipped models on the command line."""

    DALEC = "dalec"
    DALEC_WATER = "dalec-water"


def _version(wanted: bool) -> None:
    if wanted:
        console.print(f"landcal_jax {importlib.metadata.version('landcal_jax')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    """Calibrate land surface models with exact gradients, and say how far to trust the result."""


@app.command()
def calibrate(
    site: Annotated[str | None, typer.Option(
        help="Catalogue site, such as FR-Pue (`landcal sites` lists them). Without it: a twin experiment.")] = None,
    forcing: Annotated[Path | None, typer.Option(
        help="File of daily drivers of your own site, with --flux.", exists=True, dir_okay=False)] = None,
    flux: Annotated[Path | None, typer.Option(
        help="File of daily fluxes of your own site, with --forcing.", exists=True, dir_okay=False)] = None,
    out: Annotated[Path, typer.Option(help="Folder for posterior.nc, parameters.csv and report.html.")] = Path("landcal-out"),
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn; the same seed gives the same result.", min=0)] = 0,
    model: Annotated[Model, typer.Option(help="DALEC2 (NEE only) or DALEC with water (NEE and latent heat).")] = Model.DALEC_WATER,
    solver: Annotated[Solver, typer.Option(help="How J is minimised.")] = Solver.LEVENBERG_MARQUARDT,
    starts: Annotated[int, typer.Option(help="Number of starting points; 1 starts from the first guess only.", min=1)] = 16,
    posterior: Annotated[Curvature, typer.Option(help="Curvature of J that the Laplace posterior takes.")] = Curvature.GAUSS_NEWTON,
    held_out_years: Annotated[int | None, typer.Option(
        help="Last years of the record that the calibration does not see.", min=0, show_default="3, in a twin 2")] = None,
    constraints: Annotated[bool, typer.Option("--constraints", help="Add the ecological constraints of DALEC to J.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace results that are in the folder.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Calibrate DALEC on daily net ecosystem exchange and latent heat, and write a report.

    With no option at all it runs a **twin experiment**: generated weather, a known truth, noisy observations, and the
    search for that truth. It needs no data and no network.
    """
    import landcal_jax

    landcal_jax.configure()
    from landcal_jax import experiment as workflow
    from landcal_jax import models, output

    said = Console(quiet=quiet)
    if (forcing is None) != (flux is None) or (site and forcing):
        given = [option for option, value in (("--site", site), ("--forcing", forcing), ("--flux", flux)) if value]
        raise ValueError(complain(
            "--site NAME, or --forcing FILE with --flux FILE, or none of them", " and ".join(given) + (" alone" if len(given) == 1 else ""),
            "landcal calibrate --help"))
    shipped = {Model.DALEC: models.Dalec2, Model.DALEC_WATER: models.DalecWater}
    choices = {"constraints": constraints, "model": shipped[model]()}
    if held_out_years is not None:
        choices["held_out_years"] = held_out_years
    if site:
        made = workflow.site_experiment(site, progress=not quiet, **choices)
    elif forcing:
        made = _own_files(forcing, flux, choices)
    else:
        made = workflow.twin_experiment(seed, **choices)
    _check_free(out, overwrite)
    said.print(made.title, style="bold", highlight=False)
    said.print(str(made.problem.observations), highlight=False, markup=False)
    for citation in dict.fromkeys(line for source in made.sources for line in source["citation"].splitlines()):
        said.print(f"Cite: {citation}", style="dim", highlight=False, markup=False)
    about = {"command": "landcal " + " ".join(sys.argv[1:])}
    done = workflow.calibrate(
        made, _solver(solver, starts), seed=seed, curvature=posterior.value, progress=not quiet, about=about)
    with said.status("running the posterior, drawing the report"):
        dataset = done.to_xarray()
        paths = output.write(dataset, out, overwrite=overwrite)
    said.print(_scores(dataset))
    said.print(str(done.result), highlight=False, markup=False)
    for sentence in output.read_warnings(dataset):
        said.print(f"[yellow]Note:[/yellow] {sentence}", highlight=False)
    said.print(f"Report: {paths['report.html'].resolve().as_uri()}", highlight=False, soft_wrap=True)


@app.command()
def check(
    target: Annotated[str | None, typer.Argument(
        help="`FILE.py:problem`: a Problem (or a function that returns one) in a file of yours, which is run. "
        "Without it: the shipped models.")] = None,
    points: Annotated[int, typer.Option(help="Random points of the prior for the Taylor and dot-product tests.", min=1)] = 8,
    scanned: Annotated[int, typer.Option("--scan", help="Points of the prior box in the NaN scan.", min=1)] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the points.")] = 0,
) -> None:
    """Verify derivatives before hours of computing: Taylor order, adjoint dot product, NaN scan over the prior box.

    Ends with status 1 if anything fails.
    """
    import landcal_jax

    landcal_jax.configure()
    from landcal_jax import testing

    problems = shipped_problems() if target is None else {target: _load(target)}
    passed = True
    for name, problem in problems.items():
        report = testing.check(problem, points, seed)
        scan = testing.scan(problem, scanned, seed)
        passed &= report.passed and scan.passed
        console.print(name, style="bold", highlight=False)
        console.print(f"{report}\n{scan}", highlight=False, markup=False)
    raise typer.Exit(0 if passed else 1)


@app.command()
def sites() -> None:
    """List the public sites of the catalogue with what their files are."""
    from landcal_jax import data

    table = Table("site", "land cover", "fluxes", "drivers", box=box.SIMPLE_HEAD)
    table.columns[2].overflow = "fold"
    for site in data.sites():
        table.add_row(site.name, site.igbp, Path(site.flux.path).name, "/".join(Path(site.forcing.path).parts[-2:]))
    console.print(table)
    for licence in dict.fromkeys(site.flux.licence for site in data.sites()):
        console.print(f"Licence of the fluxes: {licence}", highlight=False, markup=False)


def shipped_problems() -> dict:
    """The problems that `landcal check` verifies: every shipped model on two years of generated weather."""
    from landcal_jax.experiment import twin_experiment
    from landcal_jax.models import Dalec2, DalecWater

    models = (Dalec2(), DalecWater())
    return {type(model).__name__: twin_experiment(0, years=2, held_out_years=1, model=model).problem for model in models}


def _own_files(forcing: Path, flux: Path, choices: dict):
    from landcal_jax import io
    from landcal_jax.experiment import observed_experiment
    from landcal_jax.io.checks import sha256

    drivers, fluxes = io.align(io.read_forcing(forcing), io.read_flux(flux))
    sources = [
        {"file": path.name, "sha256": sha256(path), "source": "file of the user", "license": ds.attrs.get("license", ""),
         "citation": ds.attrs.get("references", "")} for path, ds in ((forcing, drivers), (flux, fluxes))]
    return observed_experiment(drivers, fluxes, sources=sources, **choices)


def _solver(name: Solver, starts: int):
    import optax

    from landcal_jax import gradient

    solver = {
        Solver.LEVENBERG_MARQUARDT: gradient.LevenbergMarquardt(), Solver.GAUSS_NEWTON: gradient.GaussNewton(),
        Solver.LBFGS: gradient.LBFGS(), Solver.ADAM: gradient.Optax(optax.adam(3e-2))}[name]
    if starts == 1:
        return solver
    explore = 15 if name in (Solver.LEVENBERG_MARQUARDT, Solver.GAUSS_NEWTON) else 100
    return gradient.MultiStart(solver, number=starts, explore=explore)


def _load(target: str):
    """The Problem that `FILE.py:name` holds; a function is called. This runs the user's file, by design."""
    from landcal_jax.problem import Problem

    path, _, name = target.rpartition(":")
    if not path.endswith(".py"):
        raise ValueError(complain("FILE.py:name, a Problem in a Python file", repr(target), "landcal check mymodel.py:problem"))
    if not Path(path).is_file():
        raise ValueError(complain(f"a Python file {path}", "no such file", f"check the name; the folder here is {Path.cwd()}"))
    spec = importlib.util.spec_from_file_location(f"_landcal_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    # Classes look their module up by its name, as dataclasses do for annotations that are text.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(complain(f"a file {path} that runs", f"{type(error).__name__}: {error}", f"python {path}")) from error
    if not hasattr(module, name):
        there = ", ".join(each for each in vars(module) if not each.startswith("_"))
        raise ValueError(complain(f"{name!r} in {path}", there, "check the name after the colon"))
    found = getattr(module, name)
    found = found() if callable(found) and not isinstance(found, Problem) else found
    if not isinstance(found, Problem):
        raise ValueError(complain(
            f"a landcal_jax Problem at {target}", f"a {type(found).__name__}", "problem = Problem(space, forward, observations)"))
    return found


def _check_free(out: Path, overwrite: bool) -> None:
    """Refuse before hours of computing what writing would refuse after them."""
    from landcal_jax import output

    output.check_folder(out, overwrite)


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


def main() -> None:
    """Entry point: mistakes of the user become sentences; a traceback is a fault of ours."""
    from landcal_jax.data import DataNotFound

    try:
        app()
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Files with their final names are whole.", style="red")
        raise SystemExit(130) from None
    except Exception as error:
        words = str(error.args[0]) if error.args else ""
        if not isinstance(error, DataNotFound | OSError) and "Expected:" not in words:
            raise
        sentence = words if "Expected:" in words else str(error)
        Console(stderr=True).print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(2) from None
