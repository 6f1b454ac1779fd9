"""`landcal check`: derivatives and numbers of a problem before hours of computing."""

from typing import Annotated

import typer
from rich.console import Console

from landcal_jax.cli.user_code import call, load_object, told
from landcal_jax.errors import complain


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

    console = Console()
    problems = shipped_problems() if target is None else {target: _load(target)}
    passed = True
    for name, problem in problems.items():
        with told(name):
            report = testing.check(problem, points, seed)
            scan = testing.scan(problem, scanned, seed)
        passed &= report.passed and scan.passed
        console.print(name, style="bold", highlight=False, markup=False)
        console.print(f"{report}\n{scan}", highlight=False, markup=False)
    raise typer.Exit(0 if passed else 1)


def shipped_problems() -> dict:
    """The problems that `landcal check` verifies: every shipped model on two years of generated weather."""
    from landcal_jax.experiment import twin_experiment
    from landcal_jax.models import Dalec2, DalecWater

    models = (Dalec2(), DalecWater())
    return {type(model).__name__: twin_experiment(0, years=2, held_out_years=1, model=model).problem for model in models}


def _load(target: str):
    """The Problem that `FILE.py:name` holds; a function is called."""
    from landcal_jax.problem import Problem

    found = load_object(target, "a Problem in a Python file", "landcal check mymodel.py:problem")
    found = call(found, target, "a Problem") if callable(found) and not isinstance(found, Problem) else found
    if not isinstance(found, Problem):
        raise ValueError(complain(
            f"a landcal_jax Problem at {target}", f"a {type(found).__name__}", "problem = Problem(space, forward, observations)"))
    return found
