"""The property of the fuzz, and the mutations: a clear error, or a correct read; never a wrong number in silence."""

import re
from pathlib import Path

import made_air
import made_binary
import made_netcdf
import made_snow
import made_text
import numpy as np
import xarray as xr
from made_files import Made
from made_netcdf import decoded, encoded

from landcal_jax.errors import complaint_of
from landcal_jax.io import read
from landcal_jax.io.quantities import quantity

TEXT = (
    made_text.fluxnet_half_hours,
    made_text.fluxnet_days,
    made_text.ameriflux_base,
    made_text.plain_table,
    made_text.plain_table_decimal_comma,
    made_text.canveg_forcings,
    made_text.canveg_fluxes,
    made_text.bigleaf,
    made_text.reddyproc,
    made_text.rsofun_drivers,
    made_text.rsofun_validation,
    made_text.rsofun_settings,
    made_text.peprmt_one_site,
    made_text.peprmt_two_sites,
    made_snow.fsm_met,
    made_snow.fsm_met_13,
    made_snow.fsm_observations,
    made_snow.promice,
    made_snow.smet,
    made_snow.pangaea,
    made_snow.geotop,
    made_air.noaa_insitu,
    made_air.noaa_flask,
    made_air.co2_mauna_loa,
    made_air.co2_global,
    made_air.co2_annual,
    made_air.trendy,
    made_air.picarro,
    made_air.cardamom_validation,
    made_air.site_table,
)
NETCDF = (
    made_netcdf.callmip,
    made_netcdf.callmip_hourly,
    made_netcdf.plumber2_met,
    made_netcdf.plumber2_flux,
    made_netcdf.cardamom_netcdf,
    made_netcdf.differland,
    made_netcdf.normal,
    made_netcdf.openghg,
)
BYTES = (made_binary.cbf, made_binary.npy, made_binary.rds, made_binary.rds_plain)
CUT = re.compile(r"no line end|cut short|has no end")
MASKED = re.compile(r"masked|left out")


def outcome(made: Made, content: bytes, folder: Path) -> xr.Dataset | str:
    """What reading the file gives: a Dataset, or the sentence of its error. Any other error is a fault of ours and passes through."""
    path = made.written(folder, content)
    try:
        return read(path)
    except Exception as error:
        said = complaint_of(error)
        if said is None:
            raise AssertionError(f"no sentence for the user: {type(error).__name__}: {error}") from error
        return said


def check(made: Made, content: bytes, folder: Path) -> xr.Dataset | str:
    """Read `content` and assert the property; the Dataset or the sentence."""
    ds = outcome(made, content, folder)
    if isinstance(ds, str):
        assert re.match(r"Expected: .+\nGot: .+\nTry: .+", ds, re.DOTALL)
        return ds
    assert ds.attrs["format"] == made.format, f"read as {ds.attrs['format']}"
    invariants(ds)
    true(made, content, ds)
    if made.separator is not None and not content.rstrip(b" \t").endswith((b"\n", b"\r")):
        assert CUT.search(ds.attrs["history"]), "the last line has no line end and nothing is said"
    return ds


def invariants(ds: xr.Dataset) -> None:
    """What every result must be, whatever the file."""
    assert ds.attrs["history"].strip() and len(ds.attrs["sha256"]) == 64
    if "kind" in ds.attrs:
        return
    times = ds["time"].values
    assert times.dtype == "datetime64[ns]" and (np.diff(times) > np.timedelta64(0, "ns")).all() and times.size
    daily = not ds["time"].attrs["step"].startswith("PT")
    assert {"site", "latitude", "longitude"} <= set(ds.coords) and not abs(float(ds["latitude"])) > 90
    assert ds.data_vars, "an empty result"
    for name, variable in ds.data_vars.items():
        about = quantity(str(name))
        assert variable.dims == ("time",) and variable.dtype == np.float64 and variable.attrs["units"] == about.units
        assert not np.isinf(variable.values).any()
        low, high = about.limits(daily)
        found = variable.values[np.isfinite(variable.values)]
        assert (found >= low).all() and (found <= high).all(), f"{name} outside {low} to {high}"


def true(made: Made, content: bytes, ds: xr.Dataset) -> None:
    """Every value is what the oracle finds in the file at that stamp, no row is lost, and what is masked is said."""
    truth = made.truth(content, ds)
    history = ds.attrs["history"]
    if "time" in ds.dims:
        expected = np.array(truth.times, dtype="datetime64[ns]")
        if ds["time"].attrs.get("step") in ("P1M", "P1Y"):
            expected = expected.astype("datetime64[M]" if ds["time"].attrs["step"] == "P1M" else "datetime64[Y]").astype("datetime64[ns]")
        assert expected.shape == ds["time"].shape, f"{len(ds['time'])} steps of {len(expected)} rows"
        # Times of NetCDF are fractions of days or seconds in float64.
        apart = np.abs(ds["time"].values - expected)
        assert (apart <= np.timedelta64(1 if made.netcdf else 0, "s")).all(), (
            f"{ds['time'].values[np.argmax(apart)]} is no time of the file"
        )
    if truth.rows is not None:
        assert len(next(iter(ds.data_vars.values()))) == truth.rows, "rows were lost"
    for name in ds.data_vars if ds.attrs.get("kind") != "table" else ds.variables:
        if name in ("time", "row") or (name == "site" and "name_in_file" not in ds[name].attrs):
            continue
        expected, found = np.ravel(truth.values(str(name), ds[name].attrs)), np.ravel(ds[name].values)
        if found.dtype.kind in "OUST":
            assert list(found) == list(expected), name
            continue
        expected = np.where(np.abs(expected) >= 1e19, np.nan, expected) if ds.attrs.get("kind") is None else expected
        made_up = np.isfinite(found) & ~np.isfinite(expected)
        assert not made_up.any(), f"{name}: {found[made_up][0]} where the file has none"
        lost = np.isnan(found) & np.isfinite(expected)
        assert not lost.any() or MASKED.search(history), f"{name}: {expected[lost][0]} was lost in silence"
        both = np.isfinite(found) & np.isfinite(expected)
        wrong = both & ~np.isclose(found, expected, rtol=1e-9, atol=1e-9)
        zero = wrong & (found == 0) & (expected < 0) & (expected > -3)
        assert not zero.any() or "set to zero" in history, f"{name}: {expected[zero][0]} became zero in silence"
        wrong &= ~zero
        assert not wrong.any(), f"{name}: {found[wrong][0]!r} where the file says {expected[wrong][0]!r}"


# ---------------------------------------------------------------------- mutations


def lines_of(made: Made) -> tuple[list[bytes], bytes]:
    """The lines of a made text with their end, which is one kind in each."""
    end = next(end for end in (b"\r\n", b"\n", b"\r") if end in made.content)
    return made.content.split(end), end


def flipped(content: bytes, flips: list[tuple[int, int]]) -> bytes:
    """`content` with bytes replaced; places are taken modulo its length."""
    changed = bytearray(content)
    for place, value in flips:
        changed[place % len(changed)] = value
    return bytes(changed)


def rows_taken(made: Made, order: list[int]) -> bytes:
    """The file with its rows (or, in NetCDF, its steps of time) in this order; some may be absent or repeated."""
    if made.netcdf:
        raw = decoded(made.content)
        classic = made.content[:3] == b"CDF"
        return encoded(raw.isel(time=[place % raw.sizes["time"] for place in order]), "NETCDF3_CLASSIC" if classic else "NETCDF4")
    lines, end = lines_of(made)
    head, rows, tail = lines[: made.first], [line for line in lines[made.first :] if line], lines[-1:] if not lines[-1] else []
    return end.join([*head, *(rows[place % len(rows)] for place in order), *tail])


def cells_changed(made: Made, change) -> bytes:
    """The file with the cells of its rows changed by `change(row number, cells) -> cells`."""
    lines, end = lines_of(made)
    separator = made.separator.encode()
    rows = []
    for place, line in enumerate(lines[made.first :]):
        cells = line.split() if separator == b" " else line.split(separator)
        rows.append(separator.join(change(place, cells)) if line.strip() else line)
    return end.join([*lines[: made.first], *rows])


def swapped(made: Made, first: int, second: int, only: int | None) -> bytes:
    """Two columns in each other's place, in all rows or in one."""

    def change(place: int, cells: list[bytes]) -> list[bytes]:
        if only is not None and place != only:
            return cells
        a, b = first % len(cells), second % len(cells)
        cells[a], cells[b] = cells[b], cells[a]
        return cells

    return cells_changed(made, change)


def inserted(made: Made, where: int, cell: bytes, only: int | None) -> bytes:
    """One more cell in all rows or in one."""
    return cells_changed(
        made,
        lambda place, cells: (
            cells if only is not None and place != only else [*cells[: where % (len(cells) + 1)], cell, *cells[where % (len(cells) + 1) :]]
        ),
    )


def same(one: xr.Dataset, other: xr.Dataset) -> bool:
    """Whether two results have the same times and values."""
    return set(one.variables) == set(other.variables) and all(
        np.array_equal(one[name].values, other[name].values, equal_nan=one[name].dtype.kind == "f") for name in one.variables
    )
