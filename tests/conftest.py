"""Settings shared by all tests: float64, native loops, a compile cache, and where real data are."""

import gc
import os
from pathlib import Path

import jax
import pytest

import landcal_jax

landcal_jax.configure(cache=Path(__file__).parent / ".xla_cache")

MOST_MAPS = 20_000


@pytest.fixture(scope="module", autouse=True)
def room_for_compiled_code():
    """Drop what was compiled once a process holds very much of it.

    Each compiled function takes several memory maps; a process may have 65530 on Linux, and what comes after ends in a segmentation fault.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.is_file() and len(maps.read_text().splitlines()) > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real observations, named by the environment variable LANDCAL_DATA."""
    folder = os.environ.get("LANDCAL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real data are not on this machine: set LANDCAL_DATA to their folder to run this test")
    return Path(folder)


@pytest.fixture(scope="session")
def golden_dir(data_dir: Path) -> Path:
    """Folder of reference trajectories, beside the data."""
    folder = data_dir.parent / "golden"
    if not folder.is_dir():
        pytest.skip("the reference trajectories are not beside LANDCAL_DATA")
    return folder
