"""Figures of sensitivity: bars, Morris' plane, interactions, outputs by parameters, time, one at a time, and active directions.

They take the Datasets of `sensitivity` and `sensitivity_gradient`; each returns a matplotlib `Figure` that belongs to nobody. `names`
chooses parameters, `output` or `stream` and `site` what is shown. Of more parameters than fit, the most influential are shown.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landcal_jax.errors import complain
from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, PRIOR, SHADE, STREAM_COLOURS, check_name, new_figure, tidy, unit_text
from landcal_jax.sensitivity import influence

SHOWN_AT_MOST = 30  # parameters of bars and maps
IN_PAIRS = 16  # parameters of the map of pairs
PANELS = 4  # outputs side by side
LINES = 5  # parameters in a figure over time
NAMED = 10  # points of the plane that get a name
LOW, HIGH, LIGHT = "#56b4e9", "#d55e00", "#9ecae1"
BARS = {"total": (("total", LIGHT, "in all (total)"), ("first", POSTERIOR, "alone (first order)")),
        "mu_star": (("mu_star", POSTERIOR, "mean absolute elementary effect, μ*"),),
        "total_bound": (("total_bound", LIGHT, "upper bound on the total index"),)}
NO_LABEL = {"length": 0, "labelsize": 8}


def bars(ds: xr.Dataset, outputs: Sequence[str] | None = None, names: Sequence[str] | None = None) -> Figure:
    """Bars of Sobol's indices, of mu* or of the bound, with their intervals; one panel an output, four at most unless chosen."""
    measure = ds.attrs.get("measure")
    if measure not in BARS:
        raise ValueError(complain("a result of sobol, morris or gradient_sensitivity", f"measure {measure!r}",
                                  "butterfly(ds) of one_at_a_time, over_time(ds, stream) of local_sensitivity"))
    chosen, shown = _outputs(ds, outputs), _shown(ds, names)
    figure = new_figure(min(9.6, 2.6 + 2.4 * len(chosen)), 1.3 + 0.21 * len(shown))
    axes, rows = np.atleast_1d(figure.subplots(1, len(chosen), sharey=True)), np.arange(len(shown))
    for axis, output in zip(axes, chosen, strict=True):
        one = ds.sel(output=output, parameter=shown)
        for place, (name, colour, label) in enumerate(BARS[measure]):
            offset, height = (0.0, 0.7) if len(BARS[measure]) == 1 else ((place - 0.5) * 0.38, 0.36)
            axis.barh(rows + offset, one[name], height=height, color=colour, label=label)
            axis.errorbar(one[name], rows + offset, xerr=one[f"{name}_interval"], fmt="none", ecolor=INK, elinewidth=0.9, capsize=1.8)
        axis.set_xlim(left=min(0.0, axis.get_xlim()[0]))
        _rows_of(axis, shown)
        unit = "share of the variance" if measure != "mu_star" else unit_text(str(one["units"].values))
        tidy(axis, f"({unit})" if measure == "mu_star" else unit.capitalize(), title=output)
    _legend(figure, axes[0])
    return figure


def morris_plane(ds: xr.Dataset, output: str | None = None, least: float = 0.05) -> Figure:
    """mu* and sigma of every parameter: to the right it matters, above the line what it does depends on the others.

    `screened` with `least` leaves out those whose bar ends in the shade. The most influential of the others have their names.
    """
    [output] = _outputs(ds, None if output is None else [output])[:1]
    one = ds.sel(output=output)
    star, sigma, labels = _variable(one, "mu_star", "morris").values, one["sigma"].values, [str(name) for name in ds["parameter"].values]
    _require_known(star, output)
    if not np.isfinite(sigma).any():
        raise ValueError(complain("a parameter that is in no group, which has a sigma", "groups alone", "bars(ds)"))
    figure = new_figure(6.4, 5.0)
    axis = figure.subplots()
    reach = star + one["mu_star_interval"].values
    top = 1.1 * max(np.nanmax(reach), np.nanmax(sigma), np.finfo(float).tiny)
    # Screening takes the upper end of the bar, which lies to the right of the shade for what is kept.
    axis.axvspan(0, least * np.nanmax(star), color=SHADE, linewidth=0, label=f"bar ends here: left out by screening at {least:g}")
    axis.plot([0, top], [0, top], color=OBSERVED, linewidth=0.9, linestyle="--", label="σ = μ*")
    axis.errorbar(star, sigma, xerr=one["mu_star_interval"], fmt="o", markersize=4.5, color=POSTERIOR, ecolor=LIGHT, elinewidth=1.0)
    for n in np.argsort(-np.where(np.isfinite(star), star, -1.0), kind="stable")[:NAMED]:
        if np.isfinite(sigma[n]) and reach[n] >= least * np.nanmax(star):
            axis.annotate(labels[n], (star[n], sigma[n]), xytext=(4, 4), textcoords="offset points", fontsize=7.5, color=INK)
    axis.set_xlim(0, 1.12 * np.nanmax(reach))
    axis.set_ylim(0, 1.12 * max(np.nanmax(sigma), 0.3 * np.nanmax(star)))
    unit = unit_text(str(one["units"].values))
    tidy(axis, f"Mean absolute elementary effect, μ* ({unit})", f"Standard deviation of the effects, σ ({unit})", output)
    _legend(figure, axis)
    return figure


def interactions(ds: xr.Dataset, output: str | None = None, names: Sequence[str] | None = None) -> Figure:
    """Heat map of Sobol's second order indices of pairs, with the first order on the diagonal.

    A pair whose interval holds zero is left white; so is one that is not known.
    """
    [output] = _outputs(ds, None if output is None else [output])[:1]
    shown = _shown(ds.sel(output=[output]), names, IN_PAIRS)
    one = ds.sel(output=output, parameter=shown)
    pairs = _variable(one, "second", "sobol(..., second_order=True)").sel(parameter_2=shown).values
    sure = np.abs(pairs) > one["second_interval"].sel(parameter_2=shown).values
    matrix = np.where(sure, pairs, np.nan)
    np.fill_diagonal(matrix, one["first"].values)
    matrix[np.triu_indices(len(shown), 1)] = np.nan
    figure = new_figure(2.6 + 0.26 * len(shown), 2.0 + 0.24 * len(shown))
    axis, top = figure.subplots(), np.nanmax(np.abs(matrix), initial=0.01)
    image = axis.imshow(matrix, cmap="RdBu_r", vmin=-top, vmax=top)
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value) and abs(value) >= 0.01:
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=6.5,
                      color="white" if abs(value) > 0.6 * top else INK)
    _both_axes(axis, shown, shown)
    tidy(axis, title=f"{output}: alone (diagonal) and in pairs (%)")
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(**NO_LABEL)
    _bar(figure, image, axis, "Share of the variance")
    return figure


def by_output(ds: xr.Dataset, outputs: Sequence[str] | None = None, names: Sequence[str] | None = None) -> Figure:
    """Heat map of the influence of parameters (rows) on outputs (columns): metrics, sites, seasons.

    Raises ValueError for more outputs than can be shown unless `outputs` chooses.
    """
    chosen, shown = _outputs(ds, outputs, at_most=SHOWN_AT_MOST), _shown(ds, names)
    matrix = influence(ds).sel(output=chosen, parameter=shown).values
    figure = new_figure(3.0 + 0.42 * len(chosen), 2.2 + 0.2 * len(shown))
    axis = figure.subplots()
    image = axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(matrix):
        if np.isfinite(value) and value >= 0.005:
            axis.text(column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color="white" if value > 0.6 else INK)
    _both_axes(axis, shown, chosen)
    tidy(axis)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(**NO_LABEL)
    _bar(figure, image, axis, "Influence over that of the strongest (%)", {0: "0", 0.5: "50", 1: "100"})
    return figure


def over_time(ds: xr.Dataset, stream: str, site: str | None = None, names: Sequence[str] | None = None, smooth: int = 1) -> Figure:
    """A series resolved in time: Sobol's indices or mu* with their intervals, or derivatives with their band over the points.

    Of `stream` at `site` (the first, if None), for the five parameters with the largest mean. `smooth`: outputs in a running mean, such
    as 30 for daily values of a month; intervals are smoothed as the values are.
    """
    check_name(stream, list(dict.fromkeys(ds["stream"].values.tolist())), "stream")
    of_stream = ds.sel(output=ds["stream"] == stream)
    site = str(of_stream["site"].values[0]) if site is None else site
    check_name(site, list(dict.fromkeys(of_stream["site"].values.tolist())), "site")
    one = of_stream.sel(output=of_stream["site"] == site).sortby("time")
    if pd.isna(one["time"].values).any() or one.sizes["output"] < 3:
        raise ValueError(complain("a series with times", f"{one.sizes['output']} outputs of {stream}", "mean=None, or mean=\"year\""))
    middle, low, high, dim, label = _bands(one)
    mean = np.abs(middle).mean("output")
    labels = [str(name) for name in ds[dim].values]
    for name in names or ():
        check_name(name, labels, "parameter")
    chosen = list(names) if names else [labels[n] for n in np.argsort(-mean.fillna(-1.0).values, kind="stable")[:LINES]]
    figure = new_figure(9.0, 3.8)
    axis, time = figure.subplots(), one["time"].values
    for name, colour in zip(chosen, _colours(len(chosen)), strict=True):
        each = [pd.Series(part.sel({dim: name}).values).rolling(smooth, center=True, min_periods=1).mean() for part in (middle, low, high)]
        axis.fill_between(time, each[1], each[2], color=colour, alpha=0.2, linewidth=0)
        axis.plot(time, each[0], color=colour, linewidth=1.3, label=name)
    axis.axhline(0, color="#bbbbbb", linewidth=0.7, zorder=0)
    axis.margins(x=0)
    tidy(axis, "", label, f"{stream} at {site}" + (f", running mean of {smooth} values" if smooth > 1 else ""))
    _legend(figure, axis)
    return figure


def butterfly(ds: xr.Dataset, output: str | None = None, names: Sequence[str] | None = None) -> Figure:
    """One at a time: what each parameter does to an output at its minimum and at its maximum, the largest at the top."""
    [output] = _outputs(ds, None if output is None else [output])[:1]
    _variable(ds, "range", "one_at_a_time")
    one = ds.sel(output=output)
    order = np.argsort(-one["range"].fillna(-1.0).values, kind="stable")[:SHOWN_AT_MOST]
    for name in names or ():
        check_name(name, [str(label) for label in ds["parameter"].values], "parameter")
    shown = list(names) if names else [str(ds["parameter"].values[n]) for n in order]
    figure = new_figure(6.6, 1.5 + 0.21 * len(shown))
    axis, rows, base = figure.subplots(), np.arange(len(shown)), float(one["default"])
    part = one.sel(parameter=shown)
    axis.barh(rows, part["low"], left=base, height=0.7, color=LOW, label="at its minimum")
    axis.barh(rows, part["high"], left=base, height=0.45, color=HIGH, label="at its maximum")
    axis.axvline(base, color=INK, linewidth=0.9)
    _rows_of(axis, shown)
    tidy(axis, f"{output} ({unit_text(str(one['units'].values))}); the line is at the defaults")
    _legend(figure, axis)
    return figure


def subspace(ds: xr.Dataset, output: str | None = None, modes: int = 10) -> Figure:
    """Eigenvalues of the mean product of gradients with their intervals, and what the first two directions are made of."""
    [output] = _outputs(ds, None if output is None else [output])[:1]
    _variable(ds, "eigenvalue", "gradient_sensitivity(..., subspace=True)")
    one = ds.sel(output=output)
    _require_known(one["eigenvalue"].where(one["eigenvalue"] > 0).values, output)
    number = min(modes, one.sizes["mode"])
    strength = np.abs(one["eigenvector"].values[:2]).max(axis=0)
    inside = np.argsort(-strength, kind="stable")[: SHOWN_AT_MOST // 2]
    figure = new_figure(8.6, 1.6 + 0.22 * max(len(inside), 8))
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.2])
    share = one["eigenvalue"].values / one["eigenvalue"].values.sum()
    half = one["eigenvalue_interval"].values / one["eigenvalue"].values.sum()
    place, least = np.arange(1, number + 1), max(share[number - 1], 1e-8)
    low = np.maximum(share - half, 0.3 * least)[:number]
    left.errorbar(place, share[:number], yerr=[np.maximum(share[:number] - low, 0.0), half[:number]], fmt="o", markersize=4.5,
                  color=POSTERIOR, ecolor=LIGHT)
    left.axvline(float(one["active"]) + 0.5, color=PRIOR, linewidth=0.9, linestyle="--", label="90 % of the sum to the left")
    left.set_yscale("log")
    left.set_ylim(0.2 * least, 1.5)
    left.legend(fontsize=8, frameon=False, loc="upper right")
    tidy(left, "Direction", "Share of the sum of eigenvalues", output)
    rows = np.arange(len(inside))
    for mode, colour in zip(range(min(2, one.sizes["mode"])), (POSTERIOR, LIGHT), strict=False):
        right.barh(rows + (mode - 0.5) * 0.38, one["eigenvector"].values[mode, inside], height=0.36, color=colour,
                   label=f"direction {mode + 1}")
    _rows_of(right, [str(ds["element"].values[n]) for n in inside])
    right.axvline(0, color=INK, linewidth=0.7)
    right.legend(fontsize=8, frameon=False, loc="best")
    tidy(right, "Share of the parameter in the direction, in z")
    return figure


# --------------------------------------------------------------------------------------------------------------- helpers


def _variable(ds: xr.Dataset, name: str, maker: str) -> xr.DataArray:
    """A variable that only results of `maker` have; ValueError for others."""
    if name not in ds:
        raise ValueError(complain(f"a result of {maker}", f"one of {ds.attrs.get('method', 'something else')}, without `{name}`", maker))
    return ds[name]


def _require_known(values: np.ndarray, output: str) -> None:
    """Raise ValueError if nothing is known of an output, as of one that does not vary."""
    if not np.isfinite(values).any():
        raise ValueError(complain("an output that varies from run to run", f"{output}, of which nothing is known",
                                  "sentences(ds) says why"))


def _outputs(ds: xr.Dataset, outputs: Sequence[str] | None, at_most: int = PANELS) -> list[str]:
    """`outputs`, or the first ones; ValueError for unknown names and where there are more than a map can show."""
    known = [str(name) for name in ds["output"].values]
    for name in outputs or ():
        check_name(name, known, "output")
    if outputs is None and at_most > PANELS and len(known) > at_most:
        raise ValueError(complain(f"at most {at_most} outputs", f"{len(known)}", 'outputs=[...], or mean="season"'))
    return list(outputs) if outputs is not None else known[:at_most]


def _shown(ds: xr.Dataset, names: Sequence[str] | None, at_most: int = SHOWN_AT_MOST) -> list[str]:
    """`names`, or the parameters with the largest influence on any output, the largest first."""
    if "parameter" not in ds.dims:
        raise ValueError(complain("a result of morris, sobol, one_at_a_time or gradient_sensitivity", "one without influence of parameters",
                                  "over_time(ds, stream) of local_sensitivity"))
    labels = [str(name) for name in ds["parameter"].values]
    for name in names or ():
        check_name(name, labels, "parameter")
    most = influence(ds).max("output").fillna(-1.0).values
    return list(names) if names is not None else [labels[n] for n in np.argsort(-most, kind="stable")[:at_most]]


def _bands(one: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray, xr.DataArray, str, str]:
    """Middle, lower and upper line of a Dataset, the dimension of its parameters, and what is on the axis."""
    measure, unit = one.attrs.get("measure"), unit_text(str(one["units"].values[0]))
    if measure in ("total", "mu_star"):
        half = one[f"{measure}_interval"]
        label = "Total index (share of the variance)" if measure == "total" else f"Mean absolute elementary effect\n({unit})"
        return one[measure], one[measure] - half, one[measure] + half, "parameter", label
    middle = _variable(one, "sensitivity", "sobol, morris, gradient_sensitivity or local_sensitivity")
    return middle, one["sensitivity_lower"], one["sensitivity_upper"], "element", f"Change for one prior\nstandard deviation ({unit})"


def _colours(number: int) -> list[str]:
    return [(*STREAM_COLOURS, PRIOR, OBSERVED)[n % 7] for n in range(number)]


def _rows_of(axis: Axes, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axis.set_axisbelow(True)


def _both_axes(axis: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor")


def _legend(figure: Figure, axis: Axes) -> None:
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncol=5, fontsize=8.5, frameon=False)


def _bar(figure: Figure, image, axis: Axes, label: str, ticks: dict[float, str] | None = None) -> None:
    bar = figure.colorbar(image, ax=axis, location="right", shrink=0.8, aspect=28, pad=0.02)
    if ticks:
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
    bar.set_label(label, fontsize=8.5, color=INK)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
