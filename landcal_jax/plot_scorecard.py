"""The figure of a scorecard, in the manner of weather centres: a triangle a cell, up where the experiment is better.

`scorecard` takes the Dataset of `landcal_jax.scorecard.scorecard` and returns a matplotlib `Figure` that belongs to nobody.
"""

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, PRIOR, new_figure, tidy, variable

LARGEST, SMALLEST = 14.0, 4.5  # points across a triangle
SIDE, LABEL, GAP = 0.36, 1.3, 0.25  # inches: a cell, the names of variables, between regions
WIDEST = 9.6  # inches
GRID = "#e6e6e6"
SIZES = (0.02, 0.1, 0.3)
LOST = {"marker": "x", "markersize": 7, "color": PRIOR}


def scorecard(ds: xr.Dataset, *, full: float = 0.3) -> Figure:
    """One row a variable, one panel a region, one column a season or lead time.

    A blue triangle upwards: the experiment has the smaller error; an orange one downwards: the larger. The area grows with the size of
    the normalised difference up to `full`. Filled ones are significant at the level of the Dataset, hollow ones are not; a dot means that
    there are too few blocks to say, a cross that the measure is undefined for the experiment though not for the reference, an empty
    cell that there is nothing to compare.
    """
    variable(ds, "difference")
    regions, rows = ([str(label) for label in ds[dim].values] for dim in ("region", "variable"))
    columns = [f"{label:g}" if isinstance(label, float) else str(label) for label in ds["column"].values]
    panel = SIDE * len(columns) + GAP
    beside = min(len(regions), max(1, int((WIDEST - LABEL) / panel)))
    below = -(-len(regions) // beside)
    width = max(4.8, min(WIDEST, LABEL + beside * panel))
    figure = new_figure(width, 1.3 + below * (0.5 + SIDE * len(rows)))
    panels = figure.subplots(below, beside, sharex=True, sharey=True, squeeze=False)
    for axis in panels.flat[len(regions) :]:
        axis.set_visible(False)
    for number, (axis, region) in enumerate(zip(panels.flat, regions, strict=False)):
        _panel(axis, ds.sel(region=region), full)
        axis.set_xticks(range(len(columns)), columns, rotation=0 if max(map(len, columns)) < 4 else 90)
        axis.set_yticks(range(len(rows)), [name.replace("_", " ") for name in rows])
        tidy(axis, title=region)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        axis.tick_params(labelbottom=number + beside >= len(regions), labelleft=number % beside == 0)
    figure.supxlabel(_heading(ds), fontsize=8.5, color=INK, parse_math=False)
    figure.legend(handles=_legend(ds, full), loc="outside upper left", ncol=int(width / 1.85), fontsize=8, frameon=False,
                  handletextpad=0.3, columnspacing=1.2, borderaxespad=0.2)
    return figure


def _heading(ds: xr.Dataset) -> str:
    what = ds["column"].attrs.get("long_name", "column")
    overall, error = (100 * float(ds[name]) for name in ("overall", "overall_error"))
    spread = f" ± {error:.1f}" if np.isfinite(error) else ""
    if not np.isfinite(overall):
        return f"{what[:1].upper()}{what[1:]}\n{ds.attrs['score']} against the reference, all cells: not known"
    sign = "+" if overall > 0 else "−" if overall < 0 else ""
    return f"{what[:1].upper()}{what[1:]}\n{ds.attrs['score']} against the reference, all cells: {sign}{abs(overall):.1f}{spread} %"


def _across(size: float, full: float) -> float:
    """Points across a triangle, whose area grows with the size of the difference."""
    return max(SMALLEST, LARGEST * np.sqrt(min(abs(size) / full, 1.0)))


def _panel(axis: Axes, ds: xr.Dataset, full: float) -> None:
    difference, significant, error = (ds[name].transpose("variable", "column").values for name in ("difference", "significant", "error"))
    rows, columns = difference.shape
    for place in range(columns + 1):
        axis.axvline(place - 0.5, color=GRID, linewidth=0.8, zorder=0)
    for place in range(rows + 1):
        axis.axhline(place - 0.5, color=GRID, linewidth=0.8, zorder=0)
    for (row, column), value in np.ndenumerate(difference):
        if np.isfinite(value):
            axis.plot(column, row, linestyle="none", **_mark(value, significant[row, column], np.isfinite(error[row, column]), full))
    for row, column in np.argwhere(ds["lost"].transpose("variable", "column").values):
        axis.plot(column, row, linestyle="none", **LOST)
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)


def _mark(value: float, significant: bool, judged: bool, full: float) -> dict:
    colour = POSTERIOR if value < 0 else PRIOR
    if not judged:
        return {"marker": ".", "markersize": 4, "color": OBSERVED}
    return {"marker": "^" if value < 0 else "v", "markersize": _across(value, full), "markeredgecolor": colour, "markeredgewidth": 1.1,
            "markerfacecolor": colour if significant else "white", "color": colour}


def _legend(ds: xr.Dataset, full: float) -> list[Line2D]:
    percent = f"{100 * ds.attrs['level']:g} %"
    entries = [(-full, True, f"better, significant at {percent}"), (-full, False, "better, not significant"),
               (full, True, "worse, significant"), (full, False, "worse, not significant")]
    handles = [Line2D([], [], linestyle="none", label=label, **_mark(value, filled, True, 2 * full)) for value, filled, label in entries]
    handles += [Line2D([], [], linestyle="none", label=f"{100 * size:g} %{' or more' if size == full else ''}", marker="^",
                       markersize=_across(size, full), markeredgecolor=OBSERVED, markerfacecolor=OBSERVED, color=OBSERVED)
                for size in sorted({*(size for size in SIZES if size < full), full})]
    if not np.isfinite(ds["error"].values[np.isfinite(ds["difference"].values)]).all():
        handles.append(Line2D([], [], linestyle="none", label="too few blocks to say", **_mark(0.1, False, False, full)))
    if ds["lost"].any():
        handles.append(Line2D([], [], linestyle="none", label="undefined for the experiment", **LOST))
    return handles
