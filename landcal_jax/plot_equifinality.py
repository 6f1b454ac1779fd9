"""Equifinality in one figure: what several methods leave of the same parameters, pair by pair.

Where parameters make up for each other, many sets of them fit alike. A Gaussian about the minimum has that as a straight
ridge, samplers follow it where it bends, and history matching keeps all that is not ruled out.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jax.typing import ArrayLike
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from landcal_jax.errors import complain
from landcal_jax.plot_style import INK, STREAM_COLOURS, check_name, new_figure, tidy, unit_text
from landcal_jax.posterior import Posterior

SHARE = 0.9  # of the draws inside of a contour
CELLS = 60  # of the grid on which densities are drawn, in each direction
MOST_DRAWS = 2000  # of each posterior: densities by kernels cost draws times cells
TAILS = (0.002, 0.998)  # quantiles of all draws between which axes reach
COLOURS = ("#999999", STREAM_COLOURS[0], "#d55e00", STREAM_COLOURS[1], *STREAM_COLOURS[2:])


def matrix(posteriors: Mapping[str, Posterior], truth: Mapping[str, ArrayLike] | None = None, names: Sequence[str] | None = None) -> Figure:
    """Marginal densities on the diagonal, contours that hold 90 % of the draws below it, correlations above it.

    `posteriors`: label -> Posterior, of problems with the same parameters; the first is shown by its draws too, as what the others are
    compared with. `truth`: theta where it is known, marked by lines. `names`: labels of the parameters to show, all without it. A posterior
    of more than 2000 draws is shown by every so manieth of them; axes end where 0.2 % of all draws lie outside.
    Raises ValueError for labels that are not there, fewer than two parameters, and posteriors of different parameters.
    """
    labels = tuple(next(iter(posteriors.values())).problem.space.labels)
    for name, posterior in posteriors.items():
        if tuple(posterior.problem.space.labels) != labels:
            raise ValueError(complain(f"posteriors of the parameters {', '.join(labels)}",
                                      f"{name}: {', '.join(posterior.problem.space.labels)}", "the same space for all of them"))
    names = list(labels if names is None else names)
    for name in names:
        check_name(name, labels, "parameter")
    if len(names) < 2:
        raise ValueError(complain("two parameters or more", ", ".join(names), "names=None shows all"))
    columns = [labels.index(name) for name in names]
    draws = {label: _thinned(posterior.matrix()[:, columns]) for label, posterior in posteriors.items()}
    space = next(iter(posteriors.values())).problem.space
    true = None if truth is None else np.asarray(space.flatten(space.default_theta | dict(truth)))[columns]
    return _drawn(draws, true, names, [_units(space, label) for label in names])


def _units(space, label: str) -> str:
    unit = dict(zip(space.layout.names, space.layout.units, strict=True))[label.split("[")[0]]
    return f"\n({unit_text(unit)})"


def _thinned(draws: np.ndarray) -> np.ndarray:
    return draws[:: -(-len(draws) // MOST_DRAWS)]


def _drawn(draws, true, names, units) -> Figure:
    number = len(names)
    figure = new_figure(1.2 + 1.75 * number, 1.2 + 1.6 * number)
    axes = figure.subplots(number, number, sharex="col", squeeze=False)
    everything = np.concatenate(list(draws.values()) + ([] if true is None else [true[None]]))
    low, high = np.quantile(everything, TAILS, axis=0)
    if true is not None:
        low, high = np.minimum(low, true), np.maximum(high, true)
    low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
    for row in range(number):
        for column in range(number):
            axis = axes[row, column]
            if column > row:
                _correlations(axis, draws, row, column)
                continue
            axis.set_xlim(low[column], high[column])
            for which, ((_, values), colour) in enumerate(zip(draws.items(), COLOURS, strict=False)):
                if column == row:
                    _marginal(axis, values[:, row], (low[row], high[row]), colour)
                else:
                    _contour(axis, values[:, [column, row]], (low[[column, row]], high[[column, row]]), colour, cloud=which == 0)
            if column == row:
                axis.set_yticks([])
                axis.set_ylim(bottom=0)
            else:
                axis.set_ylim(low[row], high[row])
            if true is not None:
                axis.axvline(true[column], color=INK, linewidth=0.9, linestyle=":")
                if column < row:
                    axis.axhline(true[row], color=INK, linewidth=0.9, linestyle=":")
            _labelled(axis, row, column, names, units)
    entries = [Line2D([], [], color=colour, linewidth=1.8) for _, colour in zip(draws, COLOURS, strict=False)]
    words = list(draws)
    if true is not None:
        entries, words = [*entries, Line2D([], [], color=INK, linewidth=0.9, linestyle=":")], [*words, "truth"]
    figure.legend(entries, words, loc="outside upper left", ncol=3, fontsize=8.5, frameon=False)
    return figure


def _labelled(axis: Axes, row: int, column: int, names, units) -> None:
    last = row == len(names) - 1
    tidy(axis, names[column] + units[column] if last else "", names[row] + units[row] if column == 0 and row else "")
    axis.xaxis.set_major_locator(MaxNLocator(3))
    axis.tick_params(labelbottom=last, labelleft=column == 0 and row > 0)
    if row != column:
        axis.yaxis.set_major_locator(MaxNLocator(3))


def _marginal(axis: Axes, values: np.ndarray, ends, colour: str) -> None:
    from scipy.stats import gaussian_kde

    at = np.linspace(*ends, 200)
    density = gaussian_kde(values)(at)
    axis.plot(at, density / density.max(), color=colour, linewidth=1.5)


def _contour(axis: Axes, pair: np.ndarray, ends, colour: str, *, cloud: bool) -> None:
    """The line inside of which the density, by kernels, is highest and holds `SHARE` of the draws."""
    from scipy.stats import gaussian_kde

    if cloud:
        axis.plot(*pair[:500].T, ".", color=colour, markersize=1.5, alpha=0.5, zorder=0)
    density = gaussian_kde(pair.T)
    level = np.quantile(density(pair.T), 1 - SHARE)
    x, y = (np.linspace(low, high, CELLS) for low, high in zip(*ends, strict=True))
    grid = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    axis.contour(x, y, density(grid).reshape(CELLS, CELLS), levels=[level], colors=[colour], linewidths=1.5)


def _correlations(axis: Axes, draws: Mapping[str, np.ndarray], row: int, column: int) -> None:
    axis.axis("off")
    for line, (values, colour) in enumerate(zip(draws.values(), COLOURS, strict=False)):
        r = np.corrcoef(values[:, row], values[:, column])[0, 1]
        axis.text(0.5, 0.5 + 0.17 * ((len(draws) - 1) / 2 - line), f"{r:+.2f}".replace("-", "−"), color=colour, fontsize=10,
                  ha="center", va="center", transform=axis.transAxes)
