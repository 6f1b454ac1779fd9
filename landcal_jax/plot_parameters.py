"""Figures of the parameters: densities before and after, and the correlations of the posterior."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landcal_jax.plot_style import (
    INK,
    POSTERIOR,
    PRIOR,
    TRUTH,
    check_name,
    logarithmic,
    new_figure,
    tidy,
    unit_text,
    variable,
    with_legend,
)

SHOWN_AT_MOST = 40  # parameters in one figure
NEAR_BOUND = 0.01  # share of the range of a parameter


def _shown(ds: xr.Dataset, names: Sequence[str] | None) -> list[str]:
    """The parameters to show: `names`, or all, or the `SHOWN_AT_MOST` whose spread the data reduced most."""
    labels = [str(name) for name in ds["parameter"].values]
    if names is not None:
        for name in names:
            check_name(name, labels, "parameter")
        return list(names)
    if len(labels) <= SHOWN_AT_MOST:
        return labels
    ratio = (ds["posterior_sd"] / ds["prior_sd"]).values
    return [labels[index] for index in np.sort(np.argsort(ratio)[:SHOWN_AT_MOST])]


def near_bound(value: float, lower: float, upper: float) -> str:
    """Name the bound within 1 % of the range of `value`, in the logarithm where the axis is logarithmic; else ""."""
    if not np.isfinite(value) or (np.isfinite(lower) and np.isfinite(upper) and upper <= lower):
        return ""
    if logarithmic(np.array(lower), np.array(upper)):
        value, lower, upper = np.log([max(value, lower), lower, upper])
    width = upper - lower if np.isfinite(upper - lower) else np.nan
    return "lower" if value - lower <= NEAR_BOUND * width else "upper" if upper - value <= NEAR_BOUND * width else ""


def parameters(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Prior and posterior density of every parameter, each scaled to its peak, with bounds, MAP and (if known) truth.

    Densities are those on the axis shown, which is logarithmic where the bounds span more than a factor of 30. Of more
    than 40 parameters, the 40 whose spread was reduced most are shown, unless `names` chooses.
    """
    shown = _shown(ds, names)
    columns = min(5, len(shown))
    rows = -(-len(shown) // columns)
    figure = new_figure(9.6, 0.5 + 1.35 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(shown):]:
        axis.set_visible(False)
    for axis, name in zip(axes, shown, strict=False):
        _draw_parameter(axis, ds.sel(parameter=name), name)
    return with_legend(figure, axes[: len(shown)], ("prior", "posterior", "MAP", "truth", "bound"))


def _draw_parameter(axis: Axes, one: xr.Dataset, name: str) -> None:
    known = ("lower", "upper", "map", "truth", "prior_median", "prior_sd", "posterior_median", "posterior_sd")
    value = {key: float(one[key]) if key in one else np.nan for key in known}
    log = bool(logarithmic(np.array(value["lower"]), np.array(value["upper"])))
    scale = np.log10 if log else np.asarray
    bounds = scale(value["lower"]), scale(value["upper"])
    samples = {}
    for kind, source in (("prior", "prior_theta"), ("posterior", "theta")):
        draws = one[source].values if source in one else np.array([])
        if not np.isfinite(draws).any():  # no draws were kept: the normal distribution of the two moments
            quantiles = [NormalDist().inv_cdf((index + 0.5) / 200) for index in range(200)]
            draws = value[f"{kind}_median"] + value[f"{kind}_sd"] * np.array(quantiles)
            draws = np.fmin(np.fmax(draws, value["lower"]), value["upper"])  # bounds that are NaN do not bound
        samples[kind] = scale(draws[np.isfinite(draws)])
    points = [scale(value[key]) for key in ("map", "truth") if np.isfinite(value[key])]
    span = np.concatenate([*samples.values(), points])
    low, high = (span.min(), span.max()) if len(span) else (0.0, 1.0)
    pad = 0.04 * (high - low) or 0.5
    grid = np.linspace(max(low - pad, bounds[0]) if np.isfinite(bounds[0]) else low - pad,
                       min(high + pad, bounds[1]) if np.isfinite(bounds[1]) else high + pad, 300)
    back = (lambda x: 10.0**x) if log else np.asarray
    for kind, colour, alpha in (("prior", PRIOR, 0.14), ("posterior", POSTERIOR, 0.35)):
        density = _density(samples[kind], grid, bounds)
        axis.fill_between(back(grid), density, color=colour, alpha=alpha, linewidth=0)
        style = "--" if kind == "prior" else "-"
        axis.plot(back(grid), density, color=colour, linewidth=1.1, linestyle=style, label=kind)
    for edge in ("lower", "upper"):
        if low - pad <= scale(value[edge]) <= high + pad:
            axis.axvline(value[edge], color="#555555", linewidth=1.4, label="bound")
    if np.isfinite(value["map"]):
        axis.plot(value["map"], 0, "^", markersize=6, color=INK, clip_on=False, zorder=5, label="MAP")
    if np.isfinite(value["truth"]):
        axis.axvline(value["truth"], color=TRUTH, linewidth=1.4, linestyle=":", label="truth")
    axis.set_xscale("log" if log else "linear")
    axis.set_xlim(back(low - pad), back(high + pad))
    axis.set_ylim(0, 1.08)
    tidy(axis, unit_text(str(one["unit"].values)) if "unit" in one else "", title=name)
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.tick_params(labelsize=7)
    axis.xaxis.label.set_size(7.5)
    axis.minorticks_off()


def _density(draws: np.ndarray, grid: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Kernel density of `draws` on `grid`, reflected at finite bounds so that no mass leaks out, scaled to peak 1."""
    draws = draws[:: max(1, len(draws) // 2000)]
    if len(draws) < 2 or np.ptp(draws) == 0:
        return np.full(grid.shape, np.nan)
    quartiles = np.subtract(*np.percentile(draws, [75, 25])) / 1.34
    width = 0.9 * (min(draws.std(), quartiles) or draws.std()) * len(draws) ** -0.2
    mirrored = np.concatenate([draws, *(2 * bound - draws for bound in bounds if np.isfinite(bound))])
    density = np.exp(-0.5 * ((grid[:, None] - mirrored) / width) ** 2).sum(axis=1)
    return density / density.max()


def correlation(ds: xr.Dataset | xr.DataArray, names: Sequence[str] | None = None) -> Figure:
    """Posterior correlation of the parameters, lower triangle; at most 40 of them, chosen as `parameters` does."""
    matrix = variable(ds, "correlation")
    shown = _shown(ds, names) if isinstance(ds, xr.Dataset) else [str(name) for name in matrix["parameter"].values]
    values = matrix.sel(parameter=shown, parameter_2=shown).values
    size = max(4.5, 1.6 + 0.2 * len(shown))
    figure = new_figure(min(size * 1.05, 9.6), size)
    axis = figure.subplots()
    image = axis.imshow(np.where(np.tri(len(shown), k=-1, dtype=bool), values, np.nan), cmap="RdBu_r", vmin=-1, vmax=1)
    axis.set_xticks(range(len(shown) - 1), shown[:-1], rotation=90)
    axis.set_yticks(range(1, len(shown)), shown[1:])
    axis.set_ylim(len(shown) - 0.5, 0.5)
    axis.set_xlim(-0.5, len(shown) - 1.5)
    tidy(axis)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0, labelsize=8)
    if len(shown) <= 12:
        for row, column in zip(*np.tril_indices(len(shown), -1), strict=True):
            axis.text(column, row, f"{values[row, column]:.2f}".replace("-", "−"), ha="center", va="center", fontsize=7,
                      color="white" if abs(values[row, column]) > 0.6 else INK)
    if len(shown) < 15:
        bar = figure.colorbar(image, ax=axis, location="top", shrink=0.6, aspect=30)
    else:  # the empty upper triangle has room
        bar = figure.colorbar(image, cax=axis.inset_axes([0.52, 0.93, 0.42, 0.022]), orientation="horizontal")
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    bar.set_label("Posterior correlation (dimensionless)", fontsize=9, color=INK)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure
