"""What all figures share: reading the streams out of the dataset, units in print, colours and axes.

Colours are those of Okabe and Ito, which stay distinct for colour-blind readers: observations grey, the prior run
orange and dashed, the calibrated run blue. Held-out days lie on a shaded ground.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landcal_jax.errors import complain

INK, OBSERVED, PRIOR, POSTERIOR, TRUTH, HELD_OUT = "#222222", "#6b6b6b", "#d55e00", "#0072b2", "#009e73", "#8a6d1b"
SHADE, STREAM_COLOURS = "#f6f0df", ("#0072b2", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
RAISED = str.maketrans("-0123456789.", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹·")
COLUMNS = ("observed", "observed_sd", "total_sd", "prior", "map", "predictive_median", "predictive_lower",
           "predictive_upper", "model_lower", "model_upper", "held_out")


def streams(ds: xr.Dataset) -> list[str]:
    """Names of the streams in `ds`."""
    return [str(name)[: -len("_observed")] for name in ds.data_vars if str(name).endswith("_observed")]


def sites(ds: xr.Dataset) -> list[str]:
    """Names of the sites in `ds`; one name from the attributes when there is no dimension `site`."""
    return [str(name) for name in np.atleast_1d(ds["site"].values)] if "site" in ds.coords else [
        str(ds.attrs.get("site", "site"))]


def records(ds: xr.Dataset, stream: str, site: str | None = None) -> list[pd.DataFrame]:
    """One table a site of everything `ds` knows of `stream`: index time, columns `COLUMNS` (NaN where it lacks one).

    `site` keeps that site alone. Days outside a site's record, which several sites in one array bring, are dropped.
    """
    check_name(stream, streams(ds), "stream")
    if site is not None:
        check_name(site, sites(ds), "site")
    tables = []
    for index, name in enumerate(sites(ds)):
        if site in (None, name):
            table = pd.DataFrame(np.nan, index=pd.DatetimeIndex(ds[f"{stream}_time"].values), columns=list(COLUMNS))
            for column in COLUMNS:
                if f"{stream}_{column}" in ds:
                    array = ds[f"{stream}_{column}"]
                    table[column] = (array.isel(site=index) if "site" in array.dims else array).values.astype(float)
            table["held_out"] = table["held_out"].fillna(0).astype(bool)
            table["calibrated"] = table["map"].fillna(table["predictive_median"])
            known = table[table.index.notna()][["observed", "calibrated", "prior"]].notna().any(axis=1)
            first, last = (known.idxmax(), known[::-1].idxmax()) if known.any() else (None, None)
            tables.append(table[table.index.notna()].loc[first:last])
    return tables


def unit_text(unit: str) -> str:
    """Return a unit as print has it: "gC m-2 d-1" becomes "gC m⁻² d⁻¹", "degC" becomes "°C"."""
    if unit.strip() in ("", "1", "-"):
        return "dimensionless"
    unit = re.sub(r"\bdegC", "°C", unit)
    return re.sub(r"(?<=[A-Za-z)])(-\d[\d.]*|\d\.\d+|(?<=\bm)[23]\b)", lambda match: match[0].translate(RAISED), unit)


def number_text(value: float, digits: int = 3) -> str:
    """Return `value` to `digits` significant digits as print has it: "−1.23", "4.5 × 10⁻⁵", "12 345", "not known"."""
    if not np.isfinite(value):
        return "not known"
    if value and not 1e-3 <= abs(value) < 1e6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa} × 10{str(int(exponent)).translate(RAISED)}".replace("-", "−")
    return fixed_text(value, decimals_of(value, digits))


def fixed_text(value: float, decimals: int = 0) -> str:
    """Return `value` with `decimals` digits after the point, thousands apart and a true minus; "not known" for NaN."""
    if not np.isfinite(value):
        return "not known"
    value = round(value, decimals) or 0.0  # never "−0.00"
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def decimals_of(value: float, digits: int) -> int:
    """Digits after the point that show `digits` significant ones; six at most."""
    return int(np.clip(digits - 1 - np.floor(np.log10(abs(value))), 0, 6)) if value else 0


def spread_text(value: float, sd: float) -> str:
    """Return "value ± sd" with the digits that sd (to two) allows, and one power of ten for both."""
    if not (np.isfinite(value) and np.isfinite(sd) and sd > 0):
        return number_text(value)
    largest = int(np.floor(np.log10(max(abs(value), sd))))
    power = largest if largest < -3 or largest >= 6 else 0
    value, sd = value / 10.0**power, sd / 10.0**power
    text = f"{fixed_text(value, max(decimals_of(value, 2), decimals_of(sd, 2)))} ± {fixed_text(sd, decimals_of(sd, 2))}"
    return f"({text}) × 10{str(power).translate(RAISED)}" if power else text


def logarithmic(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Say for which bounds an axis (and a distance to a bound) has to be logarithmic: positive, a factor over 30."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.isfinite(upper) & (lower > 0) & (upper / np.where(lower > 0, lower, 1) > 30)


def check_name(name: str, known: Sequence[str], kind: str) -> None:
    """Raise ValueError if `name` is none of the `known` names of this kind."""
    if name not in known:
        raise ValueError(complain(f"a {kind} of this dataset: {', '.join(known)}", repr(name),
                                  f"choose one of these names, or look at the dataset's variables for the {kind}"))


def variable(ds: xr.Dataset | xr.DataArray, name: str) -> xr.DataArray:
    """The variable `name` of a Dataset, or the DataArray itself; ValueError if it is not there."""
    if isinstance(ds, xr.DataArray):
        return ds
    if name not in ds:
        raise ValueError(complain(f"a variable `{name}` in the dataset", f"{', '.join(map(str, ds.data_vars))}",
                                  "use the dataset that Posterior.to_xarray() or posterior.nc gives"))
    return ds[name]


def stream_label(ds: xr.Dataset, stream: str) -> str:
    """Axis label of a stream: its quantity and its unit."""
    attrs = ds[f"{stream}_observed"].attrs
    quantity = attrs.get("long_name", stream.replace("_", " "))
    return f"{quantity[:1].upper()}{quantity[1:]}\n({unit_text(attrs.get('units', '1'))})"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size [inches] that belongs to no window."""
    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


def tidy(axis: Axes, x: str = "", y: str = "", title: str = "") -> None:
    """The house style of one panel: two grey spines, small labels, the title at the left."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color("#888888")
    axis.tick_params(labelsize=8, length=3, color="#888888", labelcolor=INK, which="major")
    axis.tick_params(length=2, color="#888888", which="minor")
    axis.set_xlabel(x, fontsize=9, color=INK, parse_math=False)
    axis.set_ylabel(y, fontsize=9, color=INK, parse_math=False)
    axis.set_title(title, fontsize=9, color=INK, loc="left", parse_math=False)


def with_legend(figure: Figure, axes: Sequence[Axes], order: Sequence[str], columns: int = 6) -> Figure:
    """Put one legend above the panels, each entry once, sorted by the beginnings of labels in `order`."""
    entries = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    labels = sorted(entries, key=lambda label: [label.startswith(start) for start in order].index(True))
    figure.legend([entries[label] for label in labels], labels, loc="outside upper left", ncol=columns, fontsize=8.5,
                  frameon=False, handlelength=1.8, columnspacing=1.8, borderaxespad=0.2)
    return figure
