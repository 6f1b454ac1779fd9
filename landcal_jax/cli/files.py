"""Commands about files: what is in them, before anything is computed. None of them needs JAX."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from landcal_jax.cli.sentences import sentence_of
from landcal_jax.cli.user_code import load_reader

# readable=False: typer would look at the rights itself, and give no advice.
File = Annotated[list[Path], typer.Argument(help="One or more files.", readable=False)]


def inspect(
    files: File,
    reader: Annotated[str | None, typer.Option(
        help="`FILE.py:function`, a reader of your own format, path to Dataset; the file is run.")] = None,
    site: Annotated[str | None, typer.Option(help="Site, where a file holds several or does not say.")] = None,
    latitude: Annotated[float | None, typer.Option(help="Latitude [degrees north], where the file does not say.")] = None,
    longitude: Annotated[float | None, typer.Option(help="Longitude [degrees east], where the file does not say.")] = None,
) -> None:
    """Say what a file of data is: format, variables, coverage, what is suspicious, what was corrected, what a model lacks.

    Ends with status 2 if any file cannot be read.
    """
    from landcal_jax import io

    function = None if reader is None else load_reader(reader)
    _each(files, lambda path: io.inspect(path, reader=function, site=site, latitude=latitude, longitude=longitude))


def parameters(
    files: File,
    relative_range: Annotated[float | None, typer.Option(
        help="Half-width of the range relative to the default, for lists without bounds (0.3 is 30 %).", min=0.0)] = None,
) -> None:
    """Show a list of parameters (CLM-PPE, ecLand, LAVENDAR, namelists, our own CSV): defaults, bounds, priors, what is odd.

    Ends with status 2 if any file cannot be read.
    """
    from landcal_jax.io.parameter_lists.reading import read_parameters

    _each(files, lambda path: read_parameters(path, relative_range=relative_range))


def validate(
    files: File,
    flux: Annotated[Path | None, typer.Option(
        help="CalLMIP flux file of the site, whose days the file has to have.", readable=False)] = None,
) -> None:
    """Check output files against the protocol of CalLMIP Phase 1: names, attributes, units, signs, days.

    Ends with status 1 if any file has a fault, 2 if any cannot be read.
    """
    from landcal_jax.io.callmip.validator import validate as validated

    found = _each(files, lambda path: validated(path, flux=flux))
    raise typer.Exit(0 if all(one.passed for one in found) else 1)


def sites() -> None:
    """List the public sites of the catalogue with what their files are."""
    from landcal_jax import data

    console = Console()
    table = Table("site", "land cover", "fluxes", "drivers", box=box.SIMPLE_HEAD)
    table.columns[2].overflow = "fold"
    for site in data.sites():
        table.add_row(site.name, site.igbp, Path(site.flux.path).name, "/".join(Path(site.forcing.path).parts[-2:]))
    console.print(table)
    for licence in dict.fromkeys(site.flux.licence for site in data.sites()):
        console.print(f"Licence of the fluxes: {licence}", highlight=False, markup=False)


def _each(files: list[Path], look) -> list:
    """Print what `look` finds in each file; go on after a bad one, and end with status 2 if there was any."""
    console, failed, found = Console(), False, []
    for number, path in enumerate(files):
        try:
            found.append(look(path))
            console.print(("\n" if number else "") + str(found[-1]), highlight=False, markup=False, soft_wrap=True)
        except Exception as error:
            sentence = sentence_of(error)
            if sentence is None:
                raise
            failed = True
            Console(stderr=True).print(("\n" if number else "") + sentence, style="red", highlight=False, markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(2)
    return found
