"""Figures of a comparison of solvers, one function a figure: what the papers draw of it.

Every function takes the Dataset of `landcal_jax.comparison.compare`, of one case (`ds.sel(case=...)`), and returns a matplotlib
`Figure` that belongs to nobody. Lines are medians over the first guesses, bands, bars and boxes quartiles; a solver looks the same in all
figures of a Dataset. What a solver has no value for is left out, and where some of its solves failed their number is said.
"""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from landcal_jax.comparison import quartiles, root_mean_square
from landcal_jax.errors import complain
from landcal_jax.plot_style import INK, TRUTH, check_name, fixed_text, new_figure, number_text, tidy, unit_text

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")
LINES, MARKERS = ("-", (0, (4, 1.5)), (0, (1, 1.2))), "osD^vPX"
BANDS_AT_MOST, BESIDE = 6, 1.012  # of more solvers quartiles are bars, each this factor beside the next
ABOUT = {  # what can be drawn against work: axis label, whether the axis is logarithmic
    "cost": ("Cost J", True), "rmse": ("RMSE to the observations", True), "rmse_truth": ("RMSE to the noise-free truth", True),
    "reduction": ("Reduction of RMSE to the observations", False),
    "reduction_truth": ("Reduction of RMSE to the noise-free truth", False),
    "parameter_error": ("Parameter error, root mean square", True),
    "parameter_error_posterior": ("Parameter error, root mean square", True)}
WORST_LINE, WORST_BOX = -25.0, -100.0  # %, where the axis of a reduction ends: what made things worse would leave no room


def against_runs(ds: xr.Dataset, quantity: str = "cost", solvers: Sequence[str] | None = None) -> Figure:
    """Median and quartiles over the first guesses of `quantity` against work, a line a solver, a panel a stream.

    Solves without a value count as the worst: there is no median where more than half have none. The axis of a reduction ends at -25 %.
    `quantity`: one of `ABOUT`; J at the truth is shown where it is known. `solvers`: these alone.
    """
    values, label, logarithmic = _quantity(ds, quantity)
    panels, names = _panels(values), _chosen(ds, solvers)
    figure = new_figure(3.0 + 4.2 * len(panels), 4.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, panel) in zip(axes, panels, strict=True):
        for number, solver in enumerate(names):
            worst = -np.inf if quantity.startswith("reduction") else np.inf
            low, middle, high = quartiles(panel.sel(solver=solver), worst).values
            there = np.isfinite(middle)
            colour, line, marker = _look(ds, solver)
            work = ds["budget"].values[there]
            if len(names) <= BANDS_AT_MOST:
                axis.fill_between(work, low[there], high[there], color=colour, alpha=0.13, linewidth=0)
            else:
                beside = work * BESIDE ** (number - 0.5 * (len(names) - 1))
                axis.vlines(beside, low[there], high[there], color=colour, alpha=0.45, linewidth=1.1)
            axis.plot(work, middle[there], color=colour, linestyle=line, marker=marker, markersize=3.5, linewidth=1.4, label=solver)
        if quantity == "cost" and "truth_cost" in ds:
            axis.axhline(float(ds["truth_cost"]), color=TRUTH, linestyle=":", linewidth=1.4, label="J at the truth")
        axis.set_xscale("log")
        _ticks_at(axis, ds["budget"].values)
        if logarithmic:
            axis.set_yscale("log")
            _plain_logarithm(axis.yaxis)
        else:
            axis.set_ylim(max(axis.get_ylim()[0], WORST_LINE), 102.0)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
        tidy(axis, f"Work (model-run equivalents: {ds.attrs['work']})", label if axis is axes[0] else "", title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8.5, frameon=False, handlelength=3.0)
    return figure


def spread(ds: xr.Dataset, quantity: str | None = None, budget: float | None = None, solvers: Sequence[str] | None = None) -> Figure:
    """Boxes of `quantity` over the first guesses, one a solver, a panel a stream, at `budget` (the largest without it).

    Boxes are quartiles with the median, whiskers reach to the extremes. Without a quantity it is the reduction of RMSE, to the
    noise-free truth where that is known; the axis of a reduction ends at -100 %.
    """
    quantity = quantity or ("reduction_truth" if "reduction_truth" in ds else "reduction")
    budget = ds["budget"].values[-1] if budget is None else budget
    values, label, logarithmic = _quantity(ds.sel(budget=[budget]), quantity)
    panels, names = _panels(values), _chosen(ds, solvers)
    figure = new_figure(2.2 + 4.0 * len(panels), 1.0 + 0.3 * len(names))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, panel) in zip(axes, panels, strict=True):
        for row, solver in enumerate(names):
            found = panel.sel(solver=solver).values.ravel()
            found = found[np.isfinite(found)]
            if not len(found):
                axis.text(0.02, row, "none", transform=axis.get_yaxis_transform(), va="center", fontsize=7.5, color="#888888")
                continue
            colour = _look(ds, solver)[0]
            line = {"color": colour, "linewidth": 1.2}
            axis.boxplot(found, positions=[row], orientation="horizontal", widths=0.55, whis=(0, 100), patch_artist=True,
                         boxprops={"facecolor": colour, "alpha": 0.3, "edgecolor": colour}, medianprops={"color": INK, "linewidth": 1.6},
                         whiskerprops=line, capprops=line, manage_ticks=False)
        if logarithmic:
            axis.set_xscale("log")
            _plain_logarithm(axis.xaxis)
        else:
            axis.set_xlim(max(axis.get_xlim()[0], WORST_BOX), 105.0)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
        tidy(axis, label, "", title)
    axes[0].set_yticks(range(len(names)), [_with_failures(ds, solver, budget) for solver in names])
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    figure.suptitle(f"{ds.sizes['guess']} first guesses, {fixed_text(float(budget))} model-run equivalents", fontsize=9.5, color=INK,
                    x=0.01, ha="left")
    return figure


def recovery(ds: xr.Dataset, budget: float | None = None, solvers: Sequence[str] | None = None) -> Figure:
    """True against found parameters in prior standard deviations, a panel a solver: medians and quartiles over the first guesses.

    A parameter with several values that cannot be told apart is shown at its distance from the nearest. In the title the error over
    all parameters, as in `comparison.table`, of the solves that have a value. Raises ValueError
    without a known truth.
    """
    if "truth_z" not in ds:
        raise ValueError(complain("a comparison with a known truth", "none", "compare(testing.twin(problem, ...), ...)"))
    at, names = ds.sel(budget=ds["budget"].values[-1] if budget is None else budget), _chosen(ds, solvers)
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(2.5 * columns + 0.4, 2.6 * rows + 0.3)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis in axes[len(names):]:
        axis.set_visible(False)
    truth = at["truth_z"].values
    reach = 1.15 * max(2.0, np.abs(truth).max())
    for number, (axis, solver) in enumerate(zip(axes, names, strict=False)):
        one = at.sel(solver=solver).dropna("guess", subset=["cost"])
        axis.plot([-reach, reach], [-reach, reach], color=TRUTH, linewidth=1.2, linestyle=":")
        error, outside = np.nan, 0
        if one.sizes["guess"]:
            away = one["z"] - one["same_truth_z"]
            nearest = away.isel(same=abs(away).argmin("same"))
            low, middle, high = truth + nearest.quantile([0.25, 0.5, 0.75], "guess").values
            colour = _look(ds, solver)[0]
            axis.vlines(truth, low, high, color=colour, linewidth=0.9, alpha=0.6)
            axis.plot(truth, middle, "o", color=colour, markersize=3.2)
            error, outside = float(root_mean_square(one["parameter_error"], "parameter").median()), int((abs(middle) > reach).sum())
        axis.set_xlim(-reach, reach)
        axis.set_ylim(-reach, reach)
        lowest = number + columns >= len(names)
        tidy(axis, "True (prior sd)" if lowest else "", "Found (prior sd)" if number % columns == 0 else "",
             f"{solver}: {number_text(error, 2)} sd" if np.isfinite(error) else f"{solver}: none")
        axis.tick_params(labelbottom=lowest)
        if outside:
            axis.text(0.97, 0.03, f"{outside} outside", transform=axis.transAxes, ha="right", fontsize=7.5, color="#666666")
    return figure


def seconds(ds: xr.Dataset, solvers: Sequence[str] | None = None) -> Figure:
    """Seconds on the wall of one solve to the largest budget (median, quartiles), and of compiling, once for all solves."""
    at, names = ds.isel(budget=-1), _chosen(ds, solvers)
    figure = new_figure(9.6, 1.0 + 0.28 * len(names))
    axes = figure.subplots(1, 2, sharey=True)
    for row, solver in enumerate(names):
        one, colour = at["seconds"].sel(solver=solver).dropna("guess"), _look(ds, solver)[0]
        if not one.sizes["guess"]:
            continue
        low, middle, high = one.sel(part="run").quantile([0.25, 0.5, 0.75], "guess").values
        axes[0].plot([low, high], [row, row], color=colour, linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes[0].plot(middle, row, "o", color=colour, markersize=5)
        axes[1].barh(row, float(one.sel(part="compile").sum("guess")), height=0.55, color=colour, alpha=0.6)
    axes[0].set_xscale("log")
    _plain_logarithm(axes[0].xaxis)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(len(names) - 0.4, -0.6)
    for axis, title in zip(axes, (f"One solve, {fixed_text(float(at['budget']))} run equivalents", "Compiling, all solves together"),
                           strict=True):
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.6)
        axis.set_axisbelow(True)
        tidy(axis, "Time (s)", "", title)
    return figure


def _quantity(ds: xr.Dataset, name: str) -> tuple[xr.DataArray, str, bool]:
    check_name(name, [known for known in ABOUT if known in ds], "quantity")
    words, logarithmic = ABOUT[name]
    values = ds[name]
    unit = values.attrs.get("units", "")
    values = root_mean_square(values, "parameter") if "parameter" in values.dims else values
    return values, f"{words} ({unit_text(unit)})" if unit else words, logarithmic


def _panels(values: xr.DataArray) -> list[tuple[str, xr.DataArray]]:
    """Title and values of each panel."""
    if "stream" not in values.dims:
        return [("", values)]
    own = "units" not in values.attrs  # those of the stream
    titles = [f"{name} ({unit_text(str(values['units'].sel(stream=name).item()))})" if own else name for name in values["stream"].values]
    return [(str(title).replace("_", " "), values.isel(stream=number)) for number, title in enumerate(titles)]


def _chosen(ds: xr.Dataset, solvers: Sequence[str] | None) -> list[str]:
    if "case" in ds.dims:
        raise ValueError(complain("a comparison of one case", f"{ds.sizes['case']} cases", "draw each: ds.sel(case=name)"))
    known = [str(name) for name in ds["solver"].values]
    for name in solvers or ():
        check_name(name, known, "solver")
    return known if solvers is None else list(solvers)


def _look(ds: xr.Dataset, solver: str):
    """Colour, line and marker of a solver, the same in all figures."""
    index = [str(name) for name in ds["solver"].values].index(solver)
    return COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)], MARKERS[index % len(MARKERS)]


def _with_failures(ds: xr.Dataset, solver: str, budget: float) -> str:
    missing = int(ds["cost"].sel(solver=solver, budget=budget).isnull().sum())
    return f"{solver} ({missing} of {ds.sizes['guess']} without)" if missing else solver


def _plain_logarithm(axis: Axis) -> None:
    """Numbers instead of powers of ten, and between them where the axis spans less than two decades and a half."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}" if 1e-3 <= value < 1e3 else number_text(value, 1))
    axis.set_minor_formatter(NullFormatter())


def _ticks_at(axis: Axes, budgets: np.ndarray) -> None:
    """Ticks at the budgets, as far as their numbers have room."""
    kept = [budgets[-1]]
    for budget in budgets[-2::-1]:
        if kept[-1] / budget > (budgets[-1] / budgets[0]) ** 0.08:
            kept.append(budget)
    axis.set_xticks(kept[::-1], [fixed_text(float(budget)) for budget in kept[::-1]])
    axis.set_xticks(budgets, minor=True)
    axis.xaxis.set_minor_formatter(NullFormatter())
