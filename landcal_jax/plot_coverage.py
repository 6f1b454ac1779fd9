"""Figures of what `testing.coverage` returns: ranks beside their uniform band, and coverage of several methods beside each other."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landcal_jax.errors import complain
from landcal_jax.plot_style import INK, POSTERIOR, SHADE, STREAM_COLOURS, new_figure, number_text, tidy
from landcal_jax.rank_statistics import UniformBand, number_of_bins

COLUMNS = 5
PROBABILITY = 0.99
FAILED = "#d55e00"
MARKERS = "osD^v"


def ranks(ds: xr.Dataset) -> Figure:
    """A histogram of ranks for each quantity, on the band in which 99 % of the bins of uniform ranks lie; p in the title.

    Heaps at both ends: draws too narrow; in the middle: too wide; at one end: draws to one side of the truth. Orange where p < 0.01.
    """
    from scipy.stats import binom  # here, because scipy.stats takes a second to import

    table = _ranks(ds)
    number, bins, names = len(table), number_of_bins(len(table)), ds["quantity"].values
    rows = -(-len(names) // COLUMNS)
    figure = new_figure(2.0 * COLUMNS, 1.5 * rows + 0.4)
    axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    low, high = binom.ppf([0.5 - 0.5 * PROBABILITY, 0.5 + 0.5 * PROBABILITY], number, 1 / bins)
    for axis, name, column in zip(axes, names, table.T, strict=False):
        p = float(ds["p_chi_square"].sel(quantity=name))
        axis.axhspan(low, high, color=SHADE, linewidth=0, zorder=0)
        axis.axhline(number / bins, color=INK, linewidth=0.6, zorder=1)
        axis.hist(column, bins, range=(0, 1), color=FAILED if p < 0.01 else POSTERIOR, rwidth=0.9, zorder=2)
        tidy(axis, title=f"{name}\np = {number_text(p, 2)}")
        axis.title.set_fontsize(7.5)
    for axis in axes[len(names):]:
        axis.remove()
    figure.supxlabel("Rank of the truth among the draws", fontsize=9, color=INK)
    figure.supylabel(f"Twins (of {number})", fontsize=9, color=INK)
    return figure


def ecdf(ds: xr.Dataset) -> Figure:
    """Empirical distribution functions of the ranks less that of uniform ones, in the band that holds 95 % of whole curves.

    Curves that leave it (p < 0.05) are named. Above zero: ranks too low, that is draws above the truth.
    """
    table = _ranks(ds)
    band = UniformBand(len(table))
    low, high = band.limits()
    figure = new_figure(6.4, 3.6)
    axis = figure.subplots()
    axis.fill_between(band.points, low - band.points, high - band.points, step="mid", color=SHADE, linewidth=0,
                      label="95 % of uniform ranks")
    colours = iter(STREAM_COLOURS * len(table.T))
    for name, column in zip(ds["quantity"].values, table.T, strict=True):
        p = float(ds["p_ecdf"].sel(quantity=name))
        curve = np.searchsorted(np.sort(column), band.points, side="right") / len(column) - band.points
        style = {"color": next(colours), "linewidth": 1.6, "label": f"{name} (p = {number_text(p, 2)})"} if p < 0.05 else {
            "color": POSTERIOR, "linewidth": 0.7, "alpha": 0.5}
        axis.plot(band.points, curve, **style)
    tidy(axis, "Rank of the truth among the draws", "ECDF − uniform")
    axis.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def chart(results: Mapping[str, xr.Dataset]) -> Figure:
    """Coverage of intervals by several methods: name -> what `coverage` returned for it, with the same levels and streams.

    One panel for the parameters, one for the truth of each stream and one for its new observations. A dot is the share that intervals
    of one level hold, with two standard errors over twins to either side; the line of its colour is the level.
    """
    if not results:
        raise ValueError(complain("at least one Dataset of testing.coverage", "none", 'chart({"NUTS": ds})'))
    first = next(iter(results.values()))
    panels = [("parameters_coverage", None, "True parameters")]
    for stream in first["stream"].values if "predicted_coverage" in first else ():
        words = str(stream).replace("_", " ")
        panels += [("predicted_coverage", stream, f"True {words}"), ("observed_coverage", stream, f"New {words}")]
    figure = new_figure(1.6 + 2.1 * len(panels), 0.9 + 0.32 * len(results))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    rows = np.arange(len(results))[::-1]
    for axis, (name, stream, title) in zip(axes, panels, strict=True):
        for n, level in enumerate(first["level"].values):
            colour = STREAM_COLOURS[n % len(STREAM_COLOURS)]
            where = {"level": level} | ({} if stream is None else {"stream": stream})
            share, error = (np.array([float(ds[f"{name}{end}"].sel(where)) for ds in results.values()]) for end in ("", "_error"))
            axis.axvline(100 * level, color=colour, linewidth=0.8, zorder=0)
            axis.errorbar(100 * share, rows, xerr=200 * error, fmt=MARKERS[n % len(MARKERS)], color=colour, markersize=4, linewidth=1.2)
        axis.set_xlim(0, 100)
        axis.set_ylim(-0.6, len(results) - 0.4)
        axis.set_yticks(rows, list(results))
        tidy(axis, "Held [%]", title=title)
    return figure


def _ranks(ds: xr.Dataset) -> np.ndarray:
    """Ranks (twin, quantity) of the twins that did not fail."""
    table = ds["rank"].transpose("twin", "quantity").values
    return table[np.isfinite(table).all(axis=1)]
