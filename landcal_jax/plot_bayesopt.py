"""Figures of a Bayesian search: how it came to its best run, and where it has looked.

Both take what `bayesopt` has found (an `Optimum`), and return a matplotlib `Figure` that belongs to nobody.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import ndtr

from landcal_jax.bayesian_optimum import Optimum
from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, PRIOR, TRUTH, new_figure, tidy, unit_text

COLUMNS = 4  # panels of parameters beside each other
SPREAD = 100.0  # ratio of the largest to the smallest value from which the axis of values is logarithmic


def convergence(found: Optimum, truth: float | None = None, label: str = "Objective") -> Figure:
    """Values of the runs and the best so far with its 95 % interval; below it, what the next run was expected to gain.

    `truth`: the lowest value there is, where it is known. Failed runs stand as crosses at the top: they have no value.
    """
    runs, trace = found.runs, found.convergence
    figure = new_figure(7.2, 4.6)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2.4, 1.0])
    proposed = np.isfinite(runs["gain"].values)
    for which, face, text in ((~proposed, "white", "run of the design"), (proposed, OBSERVED, "proposed run")):
        above.plot(runs["run"].values[which], runs["value"].values[which], "o", markersize=4, color=OBSERVED, markerfacecolor=face,
                   markeredgewidth=0.8, linestyle="none", label=text)
    failed = runs["run"].values[runs["failed"].values]
    if failed.size:
        above.plot(failed, np.full(failed.size, 0.97), "x", color=PRIOR, markersize=5, transform=above.get_xaxis_transform(),
                   linestyle="none", label="failed run", clip_on=False)
    at = trace["runs"].values
    above.fill_between(at, trace["low"], trace["high"], step="post", color=POSTERIOR, alpha=0.2, linewidth=0)
    above.step(at, trace["best"], where="post", color=POSTERIOR, linewidth=1.6, label="best by the posterior mean, with 95 %")
    if truth is not None:
        above.axhline(truth, color=TRUTH, linewidth=1.0, linestyle="--", label="lowest there is")
    _values_axis(above, runs["value"].values)
    tidy(above, "", label)
    above.tick_params(labelbottom=False)
    gains = trace["gain"].values
    below.plot(at[np.isfinite(gains)], gains[np.isfinite(gains)], "o-", color=POSTERIOR, markersize=3, linewidth=1.0)
    if np.isfinite(gains).any():
        below.set_yscale("log")
    tidy(below, "Runs", "Expected gain of\nthe next run" + (" (log)" if "logarithm" in trace["gain"].attrs["long_name"] else ""))
    below.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    figure.legend(loc="outside upper left", ncol=3, fontsize=8.5, frameon=False)
    return figure


def explored(found: Optimum, label: str = "Objective") -> Figure:
    """Value against every parameter, a point a run, coloured by when it was made; the best run is ringed."""
    runs = found.runs
    names = [str(name) for name in runs["parameter"].values]
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(0.9 + 2.1 * columns, 0.9 + 1.9 * rows)
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    best = int(np.flatnonzero((runs["z"].values == np.asarray(found.z)).all(axis=1))[0])
    colours = Normalize(1, runs.sizes["run"])
    for index, axis in enumerate(axes.flat):
        if index >= len(names):
            axis.set_visible(False)
            continue
        theta = runs["theta"].values[:, index]
        points = axis.scatter(theta, runs["value"].values, c=runs["run"].values, cmap="viridis_r", norm=colours, s=14, linewidths=0)
        failed = theta[runs["failed"].values]
        axis.plot(failed, np.full(failed.size, 0.97), "x", color=PRIOR, markersize=4, transform=axis.get_xaxis_transform(),
                  linestyle="none", clip_on=False)
        axis.plot(theta[best], runs["value"].values[best], "o", markersize=9, markerfacecolor="none", color=PRIOR, markeredgewidth=1.4)
        if _even_in_logarithm(theta, runs["z"].values[:, index]):
            axis.set_xscale("log")
        _values_axis(axis, runs["value"].values)
        unit = found.parameters[names[index]].attrs.get("units", "") if names[index] in found.parameters else ""
        tidy(axis, f"{names[index]}" + (f" ({unit_text(unit)})" if unit else ""), label if index % columns == 0 else "")
    bar = figure.colorbar(points, ax=axes, location="right", shrink=0.8, aspect=28, pad=0.02)
    bar.set_label("Run", fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _even_in_logarithm(theta: np.ndarray, z: np.ndarray) -> bool:
    """Whether quantiles of the prior are nearer to a line in the logarithm of theta than in theta."""
    if theta.min() <= 0 or np.ptp(theta) == 0:
        return False
    straight = [np.corrcoef(ndtr(z), values)[0, 1] for values in (theta, np.log(theta))]
    return straight[1] > straight[0]


def _values_axis(axis: Axes, values: np.ndarray) -> None:
    """Logarithmic, where positive values spread over orders of magnitude."""
    values = values[np.isfinite(values)]
    if values.min() > 0 and values.max() > SPREAD * values.min():
        axis.set_yscale("log")
