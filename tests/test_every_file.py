"""Every file of the data folder reads through the public API: one row a file in every_file.csv, and what is no data is refused.

The facts of a row were computed from the raw file by other code than the readers. `coverage`: fraction of `variable`
that is not missing; `mean`: its mean, in `units`, which a wrong unit, sign or fill value would change.
"""

import csv
from pathlib import Path

import numpy as np
import pytest

import landcal_jax as lc

with Path(__file__).with_name("every_file.csv").open(newline="") as file:
    ROWS = {row["path"]: row for row in csv.DictReader(file)}
REFUSED = [path for path, row in ROWS.items() if row["kind"] == "refused"]


@pytest.fixture(scope="module")
def manifest(data_dir):
    """Checksums of the files, by the list that came with them."""
    with (data_dir / "MANIFEST.csv").open(newline="") as file:
        return {row["file"]: row["sha256"] for row in csv.DictReader(file)}


def present(data_dir, path):
    if not (data_dir / path).is_file():
        pytest.skip(f"{path} is not in LANDCAL_DATA")
    return data_dir / path


def test_no_file_lacks_a_row(data_dir):
    files = {path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*") if path.is_file()}
    assert sorted(files - set(ROWS)) == []


@pytest.mark.parametrize("path", [path for path in ROWS if path not in REFUSED])
def test_file_reads_as_its_row_says(data_dir, manifest, path):
    row, ds = ROWS[path], lc.io.read(present(data_dir, path))
    assert ds.attrs.get("kind", "series") == row["kind"]
    value = ds[row["variable"]]
    assert " ".join(f"{name}={size}" for name, size in value.sizes.items()) == row["shape"]
    if row["first"]:
        times = np.atleast_1d(ds["time"].values).astype("datetime64[m]").astype(str)
        assert (times[0], times[-1]) == (row["first"], row["last"])
    if row["kind"] == "series":
        assert ds["time"].attrs["step"] == row["step"]
    assert value.attrs.get("units", "") == row["units"]
    assert float(value.notnull().mean()) == pytest.approx(float(row["coverage"]), abs=6e-5)
    assert float(value.astype(float).mean()) == pytest.approx(float(row["mean"]), rel=1e-5)
    assert ds.attrs["history"] and ds.attrs["sha256"] == manifest.get(path, ds.attrs["sha256"])


@pytest.mark.parametrize("path", REFUSED)
def test_what_is_no_data_is_refused_with_a_sentence(data_dir, path):
    with pytest.raises(ValueError, match="Expected: a file in one of the formats"):
        lc.io.read(present(data_dir, path))


def test_series_have_the_normal_form(data_dir):
    """One file a format: units of the quantities, times that increase, a site, no value beyond its range."""
    from landcal_jax.io.normal import missing_steps
    from landcal_jax.io.quantities import quantity

    seen = set()
    for path, row in ROWS.items():
        kind = (Path(path).parent, Path(path).suffix)
        if row["kind"] != "series" or kind in seen:
            continue
        seen.add(kind)
        ds = lc.io.read(present(data_dir, path))
        daily = not row["step"].startswith("PT")
        assert ds["site"].ndim == 0 and ds["time"].dtype == "datetime64[ns]"
        assert missing_steps(ds.indexes["time"], row["step"]) >= 0 and (np.diff(ds["time"].values) > np.timedelta64(0)).all()
        for name in ds.data_vars:
            low, high = quantity(str(name)).limits(daily)
            assert ds[name].attrs["units"] == quantity(str(name)).units, (path, name)
            assert not ((ds[name] < low) | (ds[name] > high)).any(), (path, name)
    assert len(seen) > 12 or not ROWS
