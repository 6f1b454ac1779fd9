"""Every reader against damaged files: a clear error or a correct read, never a wrong number in silence.

Files are made in memory, damaged (bytes, truncation, rows permuted, deleted, doubled, columns swapped, cells inserted), read
through the public `read`, and compared with an oracle that shares no code with the readers (`made_files`, `fuzzing`).
"""

import atexit
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from fuzzing import BYTES, NETCDF, TEXT, cells_changed, check, flipped, inserted, rows_taken, same, swapped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from landcal_jax.io import read
from landcal_jax.io.formats import FORMATS

FOLDER = Path(tempfile.mkdtemp(prefix="landcal_fuzz_"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)

TEXTS = [maker() for maker in TEXT]
OTHERS = [maker() for maker in BYTES]
NETCDFS = [maker(format) for maker in NETCDF for format in ("NETCDF4", "NETCDF3_CLASSIC")]
MADE = [*TEXTS, *OTHERS, *NETCDFS]
NAMES = [f"{maker.__name__}" for maker in (*TEXT, *BYTES)] + [
    f"{maker.__name__}_{format}" for maker in NETCDF for format in ("netcdf4", "classic")
]
COMMON = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
}
PLACES = st.integers(0, 2**20)
# Bytes that mean something in a text, and any.
VALUES = st.sampled_from(b"0123456789.,;-+eE \t\n\r\"'#_=:/NAan\0\xff\xa0") | st.integers(0, 255)
FLIPS = st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=4)
ORDERS = (
    st.permutations(range(14))
    | st.lists(st.integers(0, 13), min_size=1, max_size=18)
    | st.integers(0, 13).flatmap(
        lambda place: st.sampled_from([[i for i in range(14) if i != place], [i for j in range(14) for i in [j] * (1 + (j == place))]])
    )
)
ROWS = st.none() | st.integers(0, 13)


def each(mades: list, names: list[str]):
    return pytest.mark.parametrize("made", mades, ids=names)


def test_every_format_has_a_maker() -> None:
    made = {made.format for made in MADE}
    assert made == {format.name for format in FORMATS}, "a new format needs a maker and an oracle in tests/malformed"


@each(MADE, NAMES)
def test_as_made(made) -> None:
    ds = check(made, made.content, FOLDER)
    assert not isinstance(ds, str), ds
    assert ds.sizes and all(np.isfinite(ds[name]).any() for name in ds.data_vars if ds[name].dtype.kind == "f")


@each(MADE, NAMES)
@settings(max_examples=25, **COMMON)
@given(flips=FLIPS)
def test_flipped_bytes(made, flips) -> None:
    check(made, flipped(made.content, flips), FOLDER)


@each(MADE, NAMES)
@settings(max_examples=12, **COMMON)
@given(place=PLACES)
def test_cut_short(made, place) -> None:
    """An error, or the first steps of the whole file; a last row that was cut within its line is said (in `check`)."""
    content = made.content[: 1 + place % (len(made.content) - 1)]
    ds = check(made, content, FOLDER)
    if isinstance(ds, str) or "time" not in ds.dims:
        return
    assert made.separator is not None, "a binary file that is cut short must be refused"
    whole = check(made, made.content, FOLDER)
    steps = ds.sizes["time"]
    # A last row that was cut in its last cell stands with what is left, and is said.
    exact = steps if content.endswith((b"\n", b"\r")) else steps - 1
    assert (ds["time"].values[:exact] == whole["time"].values[:exact]).all()
    for name in ds.data_vars:
        np.testing.assert_array_equal(ds[name].values[:exact], whole[name].values[:exact], str(name))


@each([*TEXTS, *NETCDFS], NAMES[: len(TEXTS)] + NAMES[len(TEXTS) + len(OTHERS) :])
@settings(max_examples=10, **COMMON)
@given(order=ORDERS)
def test_rows_permuted_deleted_doubled(made, order) -> None:
    ds = check(made, rows_taken(made, order), FOLDER)
    if isinstance(ds, str) or "time" not in ds.dims or sorted(order) != list(range(14)):
        return
    path = made.written(FOLDER, rows_taken(made, sorted(order)))
    assert same(ds, read(path)), "permuted rows must be refused, or give what the sorted file gives"


@each(TEXTS, NAMES[: len(TEXTS)])
@settings(max_examples=12, **COMMON)
@given(first=st.integers(0, 15), second=st.integers(0, 15), only=ROWS)
def test_columns_swapped(made, first, second, only) -> None:
    check(made, swapped(made, first, second, only), FOLDER)


@each(TEXTS, NAMES[: len(TEXTS)])
@settings(max_examples=12, **COMMON)
@given(where=st.integers(0, 15), cell=st.sampled_from([b"", b"1.5", b"0", b"x", b'"', b"-9999", b"nan"]), only=ROWS)
def test_cells_inserted(made, where, cell, only) -> None:
    check(made, inserted(made, where, cell, only), FOLDER)


@each(TEXTS, NAMES[: len(TEXTS)])
@settings(max_examples=8, **COMMON)
@given(where=st.integers(0, 15), only=ROWS)
def test_cells_deleted(made, where, only) -> None:
    def without(place: int, cells: list[bytes]) -> list[bytes]:
        where_here = where % len(cells)
        return cells if only is not None and place != only else cells[:where_here] + cells[where_here + 1 :]

    check(made, cells_changed(made, without), FOLDER)


@each([*TEXTS, *NETCDFS], NAMES[: len(TEXTS)] + NAMES[len(TEXTS) + len(OTHERS) :])
@settings(max_examples=3, **COMMON)
@given(order=ORDERS, flips=FLIPS)
def test_two_faults(made, order, flips) -> None:
    check(made, flipped(rows_taken(made, order), flips), FOLDER)
