"""The command `landcal`: a thin shell over the same calls as a script makes.

Imports that start JAX are inside the commands, so that `landcal --help` and the commands about files answer at once.
"""

import importlib.metadata
from typing import Annotated

import typer
from rich.console import Console

from landcal_jax.cli.calibrate import calibrate
from landcal_jax.cli.check import check
from landcal_jax.cli.files import inspect, parameters, sites, validate
from landcal_jax.cli.sentences import Commands, sentence_of

app = typer.Typer(
    name="landcal", cls=Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False,
    help="Calibrate land surface models with exact gradients, and say how far to trust the result.")
for command in (calibrate, inspect, parameters, validate, check, sites):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        Console().print(f"landcal_jax {importlib.metadata.version('landcal_jax')}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")] = False,
) -> None:
    """Calibrate land surface models with exact gradients, and say how far to trust the result."""


def main() -> None:
    """Entry point: mistakes of the user become sentences; a traceback is a fault of ours."""
    try:
        app()
    except KeyboardInterrupt:
        Console(stderr=True).print("Interrupted. Files with their final names are whole.", style="red")
        raise SystemExit(130) from None
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            raise
        Console(stderr=True).print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)
        raise SystemExit(2) from None
