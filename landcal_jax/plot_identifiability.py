"""Figures of identifiability: the spectrum, which stream constrains what, what is constrained at all, and what new observations would do.

`spectrum`, `streams` and `constrained` take the Dataset of `identifying.identifiability`, `expected` that of
`design.expected_posterior`, `ranking` that of `design.rank_observations`. Each returns a matplotlib `Figure` that belongs to nobody.
Of more than 40 parameters, the 40 about which most is known are shown, unless `names` chooses.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, PRIOR, SHADE, STREAM_COLOURS, check_name, new_figure, tidy, variable

SHOWN_AT_MOST = 40  # parameters, or modes, in one figure
LEAST_EIGENVALUE = 1e-3  # what the axis of the spectrum still shows; far below one there is only the prior
WORST = 10.0  # factor on the standard deviation where the colours of `streams` end
SHARES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
MARKERS = "osDv^P"
NO_LABEL = {"length": 0, "labelsize": 8}


def spectrum(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Eigenvalues of the prior-preconditioned Hessian, and below them the parameters that make each direction.

    Above the line at one the data decide, below it the prior. Eigenvalues under 0.001 are left out, and their number is said.
    """
    values = variable(ds, "eigenvalue").values
    modes = int(np.clip(np.sum(values >= LEAST_EIGENVALUE), 1, SHOWN_AT_MOST))
    shown = _shown(ds, names, ds["variance_reduction"].values)
    figure = new_figure(max(5.5, min(9.6, 2.6 + 0.22 * modes)), 2.6 + max(1.2, 0.17 * len(shown)))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.0, max(1.2, 0.17 * len(shown))])
    number = np.arange(1, modes + 1)
    decided = values[:modes] >= 1
    above.axhline(1.0, color=INK, linewidth=0.8, linestyle="--")
    for where, colour, label in ((decided, POSTERIOR, "decided by the data"), (~decided, OBSERVED, "decided by the prior")):
        if where.any():
            above.vlines(number[where], LEAST_EIGENVALUE, values[:modes][where], color=colour, linewidth=1.6)
            above.plot(number[where], values[:modes][where], "o", markersize=4, color=colour, label=label)
    above.set_yscale("log")
    above.set_ylim(LEAST_EIGENVALUE, 3 * max(values[0], 1.0))
    figure.legend(loc="outside upper left", ncol=2, fontsize=8.5, frameon=False)
    title = f"{ds.attrs['degrees_of_freedom']:.1f} degrees of freedom for signal"
    for number_of, words in ((len(values) - modes, "too small to show"), (ds.sizes["parameter"] - len(values), "below the threshold")):
        title += f"; {number_of} more {words}" if number_of else ""
    tidy(above, "", "Prior over error variance\n(dimensionless)", title)
    above.tick_params(labelbottom=False)
    matrix = ds["eigenvector"].sel(parameter=shown).values[:modes].T
    image = below.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto", extent=(0.5, modes + 0.5, len(shown) - 0.5, -0.5))
    below.set_yticks(range(len(shown)), shown)
    below.set_xlim(0.4, modes + 0.6)
    below.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    tidy(below, "Direction, the best seen first")
    below.spines[["left", "bottom"]].set_visible(False)
    below.tick_params(**NO_LABEL)
    _bar(figure, image, below, "Share of the parameter in the direction (prior standard deviations)", "bottom")
    return figure


def streams(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Heat map of parameters by stream: variance reduction by all and by each alone, and how the spread grows without each.

    The spread is the posterior standard deviation; growth below 5 % is not written.
    """
    reduction = variable(ds, "variance_reduction")
    shown = _shown(ds, names, reduction.values, ordered=True)
    labels, one = [str(name) for name in ds["stream"].values], ds.sel(parameter=shown)
    alone = np.column_stack([one["variance_reduction"].values, one["reduction_alone"].values.T])
    figure = new_figure(min(9.6, 3.4 + 0.62 * (2 * len(labels) + 1)), 1.9 + 0.2 * len(shown))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[len(labels) + 1, len(labels)])
    seen = left.imshow(alone, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    missed = right.imshow(one["sd_without"].values.T.clip(1, WORST), cmap="Oranges", norm=LogNorm(1, WORST), aspect="auto")
    _cells(left, alone, alone > 0.6, lambda value: ">99" if value > 0.995 else f"{100 * abs(value):.0f}")
    growth = one["sd_without"].values.T
    _cells(right, growth, growth > 4, lambda value: "" if value < 1.05 else f"{value:.1f}" if value < 9.95 else f"{value:.0f}")
    for axis, columns, title in ((left, ["all", *labels], "Seen by the stream alone"), (right, labels, "Missed without the stream")):
        axis.set_xticks(range(len(columns)), columns, rotation=35, ha="right", rotation_mode="anchor")
        axis.set_yticks(range(len(shown)), shown)
        tidy(axis, title=title)
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.tick_params(**NO_LABEL)
    left.axvline(0.5, color="white", linewidth=3)
    right.tick_params(labelleft=False)
    _bar(figure, seen, left, "Variance reduction (%)", "bottom", ticks={0: "0", 0.5: "50", 1: "100"})
    _bar(figure, missed, right, "Spread grows (times)", "bottom", ticks={1: "1", 2: "2", 5: "5", 10: "≥ 10"})
    return figure


def constrained(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Posterior over prior standard deviation of every parameter, by all streams and by each alone; what is not constrained is shaded.

    A parameter whose point lies at a bound has the bound after its name.
    """
    shown = _shown(ds, names, variable(ds, "variance_reduction").values, ordered=True)
    one, labels = ds.sel(parameter=shown), [str(name) for name in ds["stream"].values]
    figure = new_figure(7.6, 1.4 + 0.2 * len(shown))
    axis, rows = figure.subplots(), np.arange(len(shown))
    limit = np.sqrt(1 - ds.attrs["unconstrained_below"])
    axis.axvspan(limit, 1.08, color=SHADE, linewidth=0, label="unconstrained")
    if len(labels) > 1:
        for number, name in enumerate(labels):
            ratio = np.sqrt(1 - one["reduction_alone"].sel(stream=name).values.clip(max=1.0))
            axis.plot(ratio, rows, MARKERS[1:][number % 5], markersize=4.5, markerfacecolor="white", markeredgewidth=1.2,
                      color=STREAM_COLOURS[1:][number % 4], label=f"{name} alone", linestyle="none")
    axis.hlines(rows, one["sd_ratio"].values, 1.0, color="#d5d5d5", linewidth=1.0, zorder=0)
    axis.plot(one["sd_ratio"].values, rows, "o", markersize=5.5, color=POSTERIOR, label="all streams", linestyle="none")
    _shares(axis, float(one["sd_ratio"].min()))
    _rows_of(axis, [f"{name} (at {side} bound)" if side else name for name, side in zip(shown, one["at_bound"].values, strict=True)])
    for text, side in zip(axis.get_yticklabels(), one["at_bound"].values, strict=True):
        text.set_color(PRIOR if side else INK)
    tidy(axis, "Posterior over prior standard deviation (%)")
    figure.legend(loc="outside upper left", ncol=4, fontsize=8.5, frameon=False)
    return figure


def expected(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Standard deviation of every parameter today and after the new observations; those that gain most are at the top."""
    gained = variable(ds, "information").values
    shown = _shown(ds, names, gained, ordered=True)
    one = ds.sel(parameter=shown)
    figure = new_figure(7.2, 1.4 + 0.2 * len(shown))
    axis, rows = figure.subplots(), np.arange(len(shown))
    before, after = one["sd_before"].values, one["sd_after"].values
    axis.hlines(rows, after, before, color=POSTERIOR, linewidth=1.6, alpha=0.5)
    axis.plot(before, rows, "o", markersize=5.5, color=OBSERVED, markerfacecolor="white", label="today")
    what = ", ".join(str(name) for name in ds["stream"].values)
    axis.plot(after, rows, "o", markersize=5.5, color=POSTERIOR, label=f"with {what}")
    _shares(axis, float(min(after.min(), before.min())))
    _rows_of(axis, shown)
    tidy(axis, "Posterior over prior standard deviation (%)")
    figure.legend(loc="outside upper left", ncol=2, fontsize=8.5, frameon=False)
    return figure


def ranking(ds: xr.Dataset) -> Figure:
    """What each candidate gains in the order in which they are taken, and what it would gain as the first."""
    names = [str(name) for name in variable(ds, "taken").values[1:]]
    information = ds.attrs["criterion"] == "D"
    factor = 1 / np.log(2) if information else 100.0
    first = ds["gain_of"].isel(step=1).sel(candidate=names).values * factor
    figure = new_figure(7.2, 1.4 + 0.34 * len(names))
    axis, rows = figure.subplots(), np.arange(len(names))
    axis.barh(rows, first, height=0.66, color="white", edgecolor=OBSERVED, linewidth=1.0, label="as the first")
    axis.barh(rows, ds["gain"].values[1:] * factor, height=0.66, color=POSTERIOR, label="beside those above it")
    _rows_of(axis, [f"{number}. {name}" for number, name in enumerate(names, 1)])
    axis.set_xlim(left=0)
    quantity = ds.attrs["target"]
    tidy(axis, f"{quantity[:1].upper()}{quantity[1:]} ({'bit' if information else '%'})")
    figure.legend(loc="outside upper left", ncol=2, fontsize=8.5, frameon=False)
    return figure


def _shown(ds: xr.Dataset, names: Sequence[str] | None, known: np.ndarray, ordered: bool = False) -> list[str]:
    """`names`, or the labels with most of `known` (parameter,); in that order, or in their own."""
    labels = [str(name) for name in ds["parameter"].values]
    for name in names or ():
        check_name(name, labels, "parameter")
    if names is not None:
        return list(names)
    first = np.argsort(-known, kind="stable")[:SHOWN_AT_MOST]
    return [labels[index] for index in (first if ordered else np.sort(first))]


def _cells(axis: Axes, values: np.ndarray, dark: np.ndarray, text) -> None:
    for (row, column), value in np.ndenumerate(values):
        axis.text(column, row, text(value), ha="center", va="center", fontsize=7, color="white" if dark[row, column] else INK)


def _rows_of(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)


def _shares(axis: Axes, least: float) -> None:
    """A logarithmic axis of standard deviations from a little below the least to the prior's, in percent."""
    axis.set_xscale("log")
    low = min(0.8 * least, 0.5)
    axis.set_xlim(low, 1.08)
    ticks = [share for share in SHARES if share >= low] if low > 0.5 * SHARES[-1] else [10.0**power for power in range(-9, 1)
                                                                                       if 10.0**power >= low]
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xticks(ticks, [f"{100 * share:g}" for share in ticks])


def _bar(figure: Figure, image, axis: Axes, label: str, location: str, ticks: dict[float, str] | None = None) -> None:
    bar = figure.colorbar(image, ax=axis, location=location, shrink=0.8, aspect=28, pad=0.02)
    if ticks:
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.ax.minorticks_off()
    bar.set_label(label, fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
