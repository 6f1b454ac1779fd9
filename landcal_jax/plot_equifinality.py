"""Equifinality in one figure: what several methods leave of the same parameters, pair by pair.

Where parameters make up for each other, many sets of them fit alike. A Gaussian about the minimum has that as a straight
ridge, samplers follow it where it bends, and history matching keeps all that is not ruled out.
"""

from collections.abc import Mapping, Sequence
from itertools import product

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
FLAT = 1e-10  # spread over size below which draws have none
REACH = 4.0  # widths of a kernel from a bound at which it is reflected there
CELLS = 60  # of the grid on which densities are drawn, in each direction
MOST_DRAWS = 2000  # of each posterior: densities by kernels cost draws times cells
TAILS = (0.002, 0.998)  # quantiles of all draws between which axes reach
COLOURS = ("#999999", STREAM_COLOURS[0], "#d55e00", STREAM_COLOURS[1], *STREAM_COLOURS[2:])


def matrix(posteriors: Mapping[str, Posterior], truth: Mapping[str, ArrayLike] | None = None, names: Sequence[str] | None = None) -> Figure:
    """Marginal densities on the diagonal, contours that hold 90 % of the draws below it, correlations above it.

    `posteriors`: label -> Posterior, of problems with the same parameters; the first is shown by its draws too, as what the others are
    compared with. `truth`: theta where it is known, marked by lines. `names`: labels of the parameters to show, all without it. A posterior
    of more than 2000 draws is shown by every so manieth of them; axes end where 0.2 % of all draws lie outside. Densities, by kernels,
    are reflected at the bounds of the priors, over which nothing goes. What has no spread is a line, or a point.
    Raises ValueError for labels that are not there, fewer than two parameters, no posterior or more than seven, and posteriors of
    different parameters or with draws that are not finite.
    """
    if not 0 < len(posteriors) <= len(COLOURS):
        raise ValueError(complain(f"from one to {len(COLOURS)} posteriors, by label", f"{len(posteriors)}", "several figures"))
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
    if lost := [label for label, values in draws.items() if not len(values) or not np.isfinite(values).all()]:
        raise ValueError(complain("draws that are finite", f"others in {', '.join(lost)}", "leave them out"))
    space = next(iter(posteriors.values())).problem.space
    true = None if truth is None else np.asarray(space.flatten(space.default_theta | dict(truth)))[columns]
    bounds = np.stack([np.asarray(side)[columns] for side in space.bounds()])
    return _drawn(draws, true, bounds, names, [_units(space, label) for label in names])


def _units(space, label: str) -> str:
    unit = dict(zip(space.layout.names, space.layout.units, strict=True))[label.split("[")[0]]
    return f"\n({unit_text(unit)})"


def _thinned(draws: np.ndarray) -> np.ndarray:
    return draws[:: -(-len(draws) // MOST_DRAWS)]


def _drawn(draws, true, bounds, names, units) -> Figure:
    number = len(names)
    figure = new_figure(1.2 + 1.75 * number, 1.2 + 1.6 * number)
    axes = figure.subplots(number, number, sharex="col", squeeze=False)
    everything = np.concatenate(list(draws.values()) + ([] if true is None else [true[None]]))
    low, high = np.quantile(everything, TAILS, axis=0)
    if true is not None:
        low, high = np.minimum(low, true), np.maximum(high, true)
    edge = np.where(high > low, 0.05 * (high - low), 0.05 * np.abs(low) + 1e-12)
    low, high = np.maximum(low - edge, bounds[0]), np.minimum(high + edge, bounds[1])
    for row in range(number):
        for column in range(number):
            axis = axes[row, column]
            if column > row:
                _correlations(axis, draws, row, column)
                continue
            axis.set_xlim(low[column], high[column])
            for which, ((_, values), colour) in enumerate(zip(draws.items(), COLOURS[: len(draws)], strict=True)):
                if column == row:
                    _marginal(axis, values[:, row], (low[row], high[row]), bounds[:, row], colour)
                else:
                    pair = [column, row]
                    _contour(axis, values[:, pair], (low[pair], high[pair]), bounds[:, pair], colour, cloud=which == 0)
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
    entries = [Line2D([], [], color=colour, linewidth=1.8) for _, colour in zip(draws, COLOURS[: len(draws)], strict=True)]
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


def _singular(draws: np.ndarray) -> bool:
    """Whether draws (draw, d) lie at a point or on a line, where there is no density."""
    away = draws - draws.mean(axis=0)
    spread = np.sqrt(np.mean(away**2, axis=0))
    if (spread <= FLAT * np.maximum(np.abs(draws).max(axis=0), np.finfo(float).tiny)).any():
        return True
    return np.linalg.matrix_rank(away / spread, tol=FLAT * np.sqrt(len(draws))) < draws.shape[1]


def _density(draws: np.ndarray, at: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Density of draws (draw, d) by Gaussian kernels at points (d, point), reflected at the bounds (2, d) and zero outside of them."""
    from scipy.stats import gaussian_kde

    kernels = gaussian_kde(draws.T)
    width = REACH * np.sqrt(np.diag(kernels.covariance))
    density = np.zeros(at.shape[1])
    inside = ((at >= bounds[0, :, None]) & (at <= bounds[1, :, None])).all(axis=0)
    # Each point itself, and its images in the bounds that kernels reach from there.
    for mirrors in product((None, 0, 1), repeat=len(at)):
        image, near = at.copy(), inside.copy()
        for k, mirror in enumerate(mirrors):
            if mirror is not None:
                near &= np.abs(at[k] - bounds[mirror, k]) < width[k]
                image[k] = 2 * bounds[mirror, k] - at[k]
        if near.any():
            density[near] += kernels(image[:, near])
    return density


def _marginal(axis: Axes, values: np.ndarray, ends, bounds: np.ndarray, colour: str) -> None:
    if _singular(values[:, None]):
        axis.axvline(values[0], color=colour, linewidth=1.5)
        return
    at = np.linspace(*ends, 200)
    density = _density(values[:, None], at[None], bounds[:, None])
    axis.plot(at, density / density.max(), color=colour, linewidth=1.5)


def _contour(axis: Axes, pair: np.ndarray, ends, bounds: np.ndarray, colour: str, *, cloud: bool) -> None:
    """The line inside of which the density, by kernels, is highest and holds `SHARE` of the draws."""
    if cloud:
        axis.plot(*pair[:500].T, ".", color=colour, markersize=1.5, alpha=0.5, zorder=0)
    if _singular(pair):
        axis.plot(*pair[np.lexsort(pair.T)].T, ".-", color=colour, markersize=3, linewidth=1.5)
        return
    level = np.quantile(_density(pair, pair.T, bounds), 1 - SHARE)
    x, y = (np.linspace(low, high, CELLS) for low, high in zip(*ends, strict=True))
    grid = np.stack(np.meshgrid(x, y)).reshape(2, -1)
    axis.contour(x, y, _density(pair, grid, bounds).reshape(CELLS, CELLS), levels=[level], colors=[colour], linewidths=1.5)


def _correlations(axis: Axes, draws: Mapping[str, np.ndarray], row: int, column: int) -> None:
    axis.axis("off")
    for line, (values, colour) in enumerate(zip(draws.values(), COLOURS[: len(draws)], strict=True)):
        flat = any(_singular(values[:, [which]]) for which in (row, column))
        words = "no spread" if flat else f"{np.corrcoef(values[:, row], values[:, column])[0, 1]:+.2f}".replace("-", "−")
        axis.text(0.5, 0.5 + 0.17 * ((len(draws) - 1) / 2 - line), words, color=colour, fontsize=10,
                  ha="center", va="center", transform=axis.transAxes)
