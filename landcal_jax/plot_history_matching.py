"""Figures of a history match: what is left by wave and by pairs of parameters, how targets were met, and the series of each wave.

`fractions` and `targets` take the Dataset of `History.to_xarray()`, `matrix` that of `History.matrix()`, `envelopes` that of
`History.envelopes(series)`. Each returns a matplotlib `Figure` that belongs to nobody.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, SHADE, TRUTH, check_name, new_figure, number_text, tidy, unit_text, variable

SHOWN_AT_MOST = 12  # parameters in one matrix
TICKS = (0.1, 0.5, 0.9)  # prior quantiles at which the axes of the matrix say the value


def fractions(ds: xr.Dataset) -> Figure:
    """The fraction of the prior that is left after each wave, with two standard errors; an arrow where nothing is left."""
    left, error, wave = (variable(ds, name).values for name in ("fraction", "fraction_error", "wave"))
    figure = new_figure(5.6, 3.2)
    axis, some = figure.subplots(), left > 0
    below = np.minimum(2 * error[some], 0.9 * left[some])
    axis.errorbar(np.append(0, wave[some]), np.append(1.0, left[some]), yerr=[np.append(0, below), np.append(0, 2 * error[some])],
                  color=POSTERIOR, marker="o", markersize=5, linewidth=1.4, capsize=3)
    if not some.all():
        axis.errorbar(wave[~some], error[~some], yerr=0.6 * error[~some], uplims=True, color=INK, marker="_", linestyle="none")
        axis.annotate("nothing is left", (wave[~some][0], error[~some][0]), (0, 8), textcoords="offset points", ha="center", fontsize=8)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    tidy(axis, "Wave", "Share of the prior left")
    axis.tick_params(axis="y", which="both", labelsize=8, labelcolor=INK)  # within a decade there are labels at minor ticks
    return figure


def matrix(ds: xr.Dataset, names: Sequence[str] | None = None, *, truth: Mapping[str, float] | None = None) -> Figure:
    """Pairs of parameters: above the diagonal the share of each bin that is left, below it the least implausibility in the bin.

    Axes are prior quantiles, with values at 10, 50 and 90 %. Bins whose least implausibility is above the cutoff are grey, those in which
    no point was looked at white. `names`: which parameters, the first 12 without it; `truth`: label -> value, a cross.
    """
    variable(ds, "density")
    labels = [str(name) for name in ds["parameter"].values]
    for name in [*(names or ()), *(truth or {})]:
        check_name(name, labels, "parameter")
    shown = list(names or labels[:SHOWN_AT_MOST])
    one = ds.sel(parameter=shown, other=shown)
    figure = new_figure(1.6 + 0.95 * len(shown), 1.2 + 0.95 * len(shown))
    axes = figure.subplots(len(shown), len(shown), squeeze=False)
    cutoff, positive = float(ds.attrs["cutoff"]), one["density"].values[one["density"].values > 0]
    lowest = max(positive.min(), 1e-3 * positive.max()) if positive.size else 0.1
    scales = LogNorm(lowest, max(positive.max(initial=0.0), 1.01 * lowest))
    images: list = [None, None]
    for (row, column), axis in np.ndenumerate(axes):
        _frame(axis, one["edges"].values[[column, row]], row == len(shown) - 1, column == 0)
        if row == column:
            # Long names are broken, get smaller letters, and do not push the panels apart.
            name = re.sub(r"(?<=[^_])_(?=[^_])", "_\n", shown[row])
            size = min(8.5, 75 / max(map(len, name.splitlines())))
            axis.text(0.5, 0.5, name, ha="center", va="center", fontsize=size, color=INK, parse_math=False).set_in_layout(False)
            continue
        above, kind = column > row, "density" if column > row else "least_implausibility"
        values = one[kind].values[row, column]
        image = axis.imshow(np.where(values > 0, values, np.nan) if above else values, origin="lower", extent=(0, 1, 0, 1), aspect="auto",
                            cmap="Blues" if above else _implausible(), **({"norm": scales} if above else {"vmin": 0, "vmax": cutoff}))
        images[int(above)] = image
        if truth and shown[row] in truth and shown[column] in truth:
            at = [_rank(one["edges"].values[place], truth[shown[place]]) for place in (column, row)]
            axis.plot(*at, "+", color=TRUTH, markersize=9, markeredgewidth=1.8)
    for image, label in zip(images, (f"Least implausibility (grey: above {cutoff:g})", "Share of the bin that is left"), strict=True):
        if image is not None:
            bar = figure.colorbar(image, ax=axes, location="right", shrink=0.45, aspect=25, pad=0.01)
            bar.set_label(label, fontsize=8, color=INK)
            bar.ax.tick_params(labelsize=7.5, which="both")
            bar.outline.set_visible(False)
    share = number_text(100 * ds.attrs["fraction"], 3)
    figure.suptitle(f"{share} % of the prior is left after {ds.attrs['waves']} waves", fontsize=10, x=0.01, ha="left", color=INK)
    return figure


def targets(ds: xr.Dataset) -> Figure:
    """What the runs of each wave gave for each target, and the band that its error and discrepancy allow (the cutoff times its spread)."""
    values, labels = variable(ds, "values").values, [str(name) for name in ds["target"].values]
    columns = min(3, len(labels))
    rows = -(-len(labels) // columns)
    figure = new_figure(2.6 * columns + 0.6, 2.0 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis in axes[len(labels):]:
        axis.set_visible(False)
    for number, (axis, label) in enumerate(zip(axes, labels, strict=False)):
        centre, width = float(ds["target_value"][number]), float(ds.attrs["cutoff"]) * float(ds["target_sd"][number])
        axis.axhspan(centre - width, centre + width, color=SHADE, linewidth=0)
        axis.axhline(centre, color=OBSERVED, linewidth=0.9)
        kept = [wave[np.isfinite(wave)] for wave in values[:, :, number]]
        axis.boxplot(kept, positions=ds["wave"].values, widths=0.55, flierprops={"markersize": 2, "markeredgecolor": POSTERIOR},
                     medianprops={"color": POSTERIOR}, boxprops={"color": POSTERIOR}, whiskerprops={"color": POSTERIOR},
                     capprops={"color": POSTERIOR}, manage_ticks=False)
        for wave, used in zip(ds["wave"].values, ds["used"].values[:, number], strict=True):
            if not used:
                axis.text(wave, 0.99, "unused", transform=axis.get_xaxis_transform(), rotation=90, fontsize=6.5, ha="center", va="top")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axis, "Wave" if number >= len(labels) - columns else "", unit_text(str(ds["target_units"].values[number])), label)
    return figure


def envelopes(ds: xr.Dataset, stream: str, site: str | None = None) -> Figure:
    """Bands of a series over the runs of each wave, the later ones darker, and what was observed."""
    streams = [str(name) for name in ds.data_vars if f"{name}_observed" in ds]
    check_name(stream, streams, "stream")
    sites = [str(name) for name in ds["site"].values]
    if site is not None:
        check_name(site, sites, "site")
    one = ds.isel(site=sites.index(site) if site else 0)
    x = one[f"{stream}_time"].values if f"{stream}_time" in ds else np.arange(one.sizes[f"{stream}_obs"])
    figure = new_figure(9.0, 3.4)
    axis, bands = figure.subplots(), one[stream].values
    for number, wave in enumerate(ds["wave"].values):
        strength = (number + 1) / ds.sizes["wave"]
        colour = tuple(1 - (0.2 + 0.8 * strength) * (1 - part) for part in to_rgb(POSTERIOR))
        axis.fill_between(x, bands[number, 0], bands[number, -1], color=colour, linewidth=0, label=f"wave {wave}")
    axis.plot(x, one[f"{stream}_observed"].values, ".", color=INK, markersize=2.5, label="observed")
    units = unit_text(str(ds[stream].attrs.get("units", "1")))
    low, high = ds["quantile"].values[[0, -1]]
    tidy(axis, "", f"{stream} ({units})", f"{sites[sites.index(site) if site else 0]}: runs of each wave, {low:.0%} to {high:.0%}")
    figure.legend(loc="outside upper right", ncol=min(6, ds.sizes["wave"] + 1), fontsize=8, frameon=False)
    return figure


def _implausible():
    from matplotlib import colormaps

    return colormaps["viridis_r"].with_extremes(over="#cccccc", bad="white")


def _rank(edges: np.ndarray, value: float) -> float:
    """The prior quantile of a value, between the edges of the bins."""
    return float(np.interp(value, edges, np.linspace(0, 1, len(edges))))


def _frame(axis: Axes, edges: np.ndarray, bottom: bool, left: bool) -> None:
    """Axes of one panel: prior quantiles, values at some of them where the panel is at the side."""
    ranks = np.linspace(0, 1, edges.shape[1])
    tidy(axis)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    texts = [[number_text(float(np.interp(tick, ranks, of_one)), 2) for tick in TICKS] for of_one in edges]
    axis.set_xticks(TICKS, texts[0] if bottom else [], fontsize=6.5, rotation=90)
    axis.set_yticks(TICKS, texts[1] if left else [], fontsize=6.5)
    axis.tick_params(length=2, labelsize=6.5)
