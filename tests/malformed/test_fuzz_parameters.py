"""Every reader of parameter lists against damaged files: a sentence, or the numbers of the file; never others in silence.

The oracle of sheets reads the damaged file with the csv module: each default and bound that the table gives as a plain number
stands in the row of that name, in its own column. For dicts and namelists, which have no rows, each number stands in the text.
"""

import atexit
import csv
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import flipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landcal_jax.errors import complaint_of
from landcal_jax.io.parameter_lists.reading import ParameterTable, read_parameters

FOLDER = Path(tempfile.mkdtemp(prefix="landcal_fuzz_parameters_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

CLM = (
    "param,loc,include,flag,min,max,precision,pft_mins,pft_maxs,default\n"
    'kmax,P,1,,pft,pft,.12f,"0.5,3e-09,4e-09","1.0,3.8e-08,5e-09",\n'
    "grperc,P,1,,0.05,0.3,.3f,,,0.11\nr_mort,P,1,,50percent,50percent,.4f,,,0.75\nunused,P,0,,0.8,0.9,.4f,,,0.82\n"
    "slope,P,1,,-4.5,-1.25,.4f,,,-2.5\nlight,P,1,,31.5,62.5,.4f,,,47.0\n"
)
ECLAND = (
    "Parameter,Value,Min,Max,Unit,Namelist\nRLWCSWEA,200.5,150.25,250.75,kg m-2,NAMPARSNOW\n"
    "RTF1,274.16,273.5,275.25,K,NAMPARSOIL\nRVCOV,0.9,0.625,0.975,1,NAMPARVEG\nRVLAI,3.25,1.5,6.5,m2 m-2,NAMPARVEG\n"
)
LANDCAL = (
    "name,prior,default,low,high,sd,fixed,units,description\nalpha,uniform,0.5,0.125,0.875,,,1,a share\n"
    "rate,log_uniform,0.03,0.002,0.25,,,d-1,a rate\nmass,uniform,151.5,12.25,625.75,,,gC m-2,a mass\n"
)
LAVENDAR = (
    "opt_params = {'pft_params': {'jules_pftparm': {'neff_io': [7, 6.24155e-04, (5e-05, 0.0015)],\n"
    "    'alpha_io': [7, 6.7e-02, (0.015625, 1.5)]}},\n"
    "  'crop_params': {'jules_cropparm': {'delta_io': [2, -0.297701647, (-2.25, 0.125)]}}}\n"
)
NAMELIST = "&jules_pftparm\n  neff_io = 3*0.0008,\n    8.5D-4, 5.25e-4\n  a_ws_io = 10.5, 11.5, 1.25\n  tlow_io(2:3) = -10.75 0.375\n/\n"
LISTS = {
    "CLM": ("list.csv", CLM, {}),
    "ecLand": ("list.csv", ECLAND, {}),
    "landcal": ("table.csv", LANDCAL, {}),
    "LAVENDAR": ("experiment_setup.py", LAVENDAR, {}),
    "namelist": ("pft_params.nml", NAMELIST, {"relative_range": 0.2}),
}
COLUMNS = {
    "CLM": ("param", "min", "max", "default"),
    "ecLand": ("Parameter", "Min", "Max", "Value"),
    "landcal": ("name", "low", "high", "default"),
}
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?", re.ASCII)
VALUES = st.sampled_from(b"0123456789.,;-+eE \t\n\r\"'#_=:/*&(){}[]NAan\0\xff\xa0") | st.integers(0, 255)
FLIPS = st.lists(st.tuples(st.integers(0, 2**20), VALUES), min_size=1, max_size=3)
COMMON = {"derandomize": True, "deadline": None, "database": None, "suppress_health_check": [HealthCheck.too_slow]}
each = pytest.mark.parametrize("kind", LISTS)


def outcome(kind: str, content: bytes) -> ParameterTable | str:
    """What reading the list gives; any error without a sentence passes through as a failure."""
    name, _, options = LISTS[kind]
    (FOLDER / name).write_bytes(content)
    try:
        return read_parameters(FOLDER / name, **options)
    except Exception as error:
        said = complaint_of(error)
        if said is None:
            raise AssertionError(f"no sentence for the user: {type(error).__name__}: {error}") from error
        return said


def relative(entry) -> bool:
    return entry.percent != (None, None) or entry.name.endswith("_factor")


def text_of(content: bytes) -> str:
    try:
        return re.sub(r"\r\n|\r", "\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return re.sub(r"\r\n|\r", "\n", content.decode("latin-1"))


def plain(text: str) -> float | None:
    return float(text.strip()) if NUMBER.fullmatch(text.strip()) and "d" not in text.lower() else None


def check(kind: str, content: bytes) -> ParameterTable | str:
    """Read and compare with the oracle."""
    table = outcome(kind, content)
    if isinstance(table, str):
        assert re.match(r"Expected: .+\nGot: .+\nTry: .+", table, re.DOTALL)
        return table
    text = text_of(content)
    numbers = [re.sub(r"(?<=[\d.])[dD](?=[+-]?\d)", "e", match.group()) for match in NUMBER.finditer(text)]
    known = {abs(float(part)) for part in numbers} | {0.0, 1.0}
    if kind == "namelist":  # Fortran writes 8.5-4 for 8.5e-4 too
        known |= {
            abs(float(f"{match[1]}e{match[2]}")) for match in re.finditer(r"([\d.]*\d[\d.]*)([+-]\d{1,2})", text) if match[1].count(".") < 2
        }
    for entry in table.entries:
        # Bounds of a namelist, and those in percent, are computed from the default.
        for name in ("default",) if kind == "namelist" or relative(entry) else ("low", "high", "default"):
            found = np.ravel(getattr(entry, name)).astype(float)
            for value in found[np.isfinite(found)]:
                assert any(np.isclose(abs(value), one, rtol=1e-12, atol=0) for one in known), (
                    f"{entry.name}: {name} {value!r} is not in the file"
                )
    if kind in COLUMNS and table.format == kind:
        in_their_row(kind, text, table)
    return table


def in_their_row(kind: str, text: str, table: ParameterTable) -> None:
    """Scalars of a sheet are in the row of their name, each in its column."""
    separator = max(",;\t", key=text.split("\n")[0].count)
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)]
    rows = [row for row in rows if any(row)]
    header = [cell.strip() for cell in rows[0]]
    places = [header.index(column) if column in header else None for column in COLUMNS[kind]]
    if places[0] is None:
        return
    for entry in table.entries:
        mine = [row for row in rows[1:] if len(row) > places[0] and row[places[0]] == entry.name]
        if len(mine) != 1 or len(mine[0]) != len(header):
            continue
        for name, place in zip(("low", "high", "default"), places[1:], strict=True):
            cell = plain(mine[0][place]) if place is not None else None
            value = np.ravel(getattr(entry, name)).astype(float)
            if name != "default" and relative(entry):
                continue
            if cell is not None and value.size == 1 and np.isfinite(value[0]):
                bounds = {plain(mine[0][other]) for other in places[1:3] if other is not None}  # a swapped pair is put right, and said
                assert np.isclose(value[0], cell, rtol=1e-12) or (name != "default" and value[0] in bounds and table.odd), (
                    f"{entry.name}: {name} is {value[0]!r}, the file says {cell!r}"
                )


@each
def test_as_made(kind: str) -> None:
    table = check(kind, LISTS[kind][1].encode())
    assert not isinstance(table, str) and table.format == kind and len(table.entries) >= 3


def test_underscore_in_a_number_of_a_dict() -> None:
    """Python reads 0.0156_5 as 0.01565; in a file it is a damaged digit."""
    assert "alpha_io" in outcome("LAVENDAR", LAVENDAR.replace("0.015625", "0.0156_5").encode())


@each
@settings(max_examples=60, **COMMON)
@given(flips=FLIPS)
def test_flipped_bytes(kind: str, flips) -> None:
    check(kind, flipped(LISTS[kind][1].encode(), flips))


@each
@settings(max_examples=25, **COMMON)
@given(place=st.integers(0, 2**20))
def test_cut_short(kind: str, place: int) -> None:
    """An error, or a list of which each parameter has the numbers of the whole list; a number that was cut is said."""
    content = LISTS[kind][1].encode()
    content = content[: 1 + place % (len(content) - 1)]
    table = check(kind, content)
    if isinstance(table, str) or content.endswith(b"\n"):
        return
    whole = {entry.name: entry for entry in check(kind, LISTS[kind][1].encode()).entries}
    for entry in table.entries:
        same = entry.name in whole and all(
            np.array_equal(getattr(entry, name), getattr(whole[entry.name], name), equal_nan=True) for name in ("low", "high", "default")
        )
        assert same or re.search("line end|cut", " ".join(table.odd)), f"{entry.name} was cut in silence: {table.odd}"


@each
@settings(max_examples=15, **COMMON)
@given(order=st.lists(st.integers(1, 3), min_size=1, max_size=5))
def test_rows_permuted_deleted_doubled(kind: str, order: list[int]) -> None:
    """A doubled row is an error; the order of the rows is that of the parameters."""
    if kind not in COLUMNS:
        return
    lines = LISTS[kind][1].splitlines()
    table = check(kind, "\n".join([lines[0], *(lines[place] for place in order), ""]).encode())
    if len(set(order)) < len(order):
        assert isinstance(table, str), "a parameter that is there twice"
    elif not isinstance(table, str):
        assert [entry.name for entry in table.entries] == [lines[place].split(",")[0] for place in order]
