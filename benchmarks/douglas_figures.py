"""Figures of the comparison on the cases of Douglas et al. (2025)."""

from pathlib import Path
from typing import Any

import numpy as np
from douglas_cases import POOLS, experiment
from douglas_methods import SIZES, Noisy, as_published, physical

from landcal_jax.plot_style import INK, POSTERIOR, PRIOR, new_figure, tidy
from landcal_jax.solvers import Result
from landcal_jax.solving import solve

ENVAR = "#cc79a7"


def trajectories(names: list[str], results: dict[str, Result], path: Path) -> None:
    """Truth, prior, 4DEnVar and 4DVar of both pools, one row a case."""
    figure = new_figure(11.0, 1.0 + 1.9 * len(names))
    axes = figure.subplots(len(names), 2, sharex=True, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        case = experiment(name)
        x_a = solve(case.problem, as_published(case), progress=False, throw=False).details["analysis"]
        lines: list[tuple[str, Any, dict[str, Any]]] = [
            ("truth, observed", case.truth, {"color": "#b5b5b5", "linewidth": 4.0}),
            ("prior mean", case.trajectory(case.x_b), {"color": PRIOR, "linewidth": 1.0, "linestyle": "--"}),
            ("4DEnVar", case.trajectory(x_a), {"color": ENVAR, "linewidth": 1.2}),
            ("4DVar", case.trajectory(physical(results[name])), {"color": POSTERIOR, "linewidth": 1.0})]
        both = case.reduction(x_a), case.reduction(physical(results[name]))
        for column, (axis, pool) in enumerate(zip(row, POOLS, strict=True)):
            for label, series, style in lines:
                axis.plot(series[:, column], label=label, **style)
            less = f"RMSE less by {both[0][column]:.1f} % (4DEnVar), {both[1][column]:.2f} % (4DVar)"
            tidy(axis, "time step" if name == names[-1] else "", f"{pool}, pool units", f"{name}: {less}")
    _legend(figure, axes[0, 0], 4)
    figure.savefig(path, dpi=150)


def sizes(found: dict[str, np.ndarray], results: dict[str, Result], path: Path) -> None:
    """RMSE of 4DEnVar against the size of its ensemble, and that of exact 4DVar, one column a case, one row a pool."""
    figure = new_figure(max(1.2 + 2.4 * len(found), 9.0), 5.6)
    axes = figure.subplots(2, len(found), sharex=True, squeeze=False)
    for column, (name, rmse) in enumerate(found.items()):
        case = experiment(name)
        prior, exact = case.rmse(case.x_b), case.rmse(physical(results[name]))
        for row, pool in enumerate(POOLS):
            axis, values = axes[row, column], rmse[:, :, row]
            top = 10 * prior[row]
            above = int((values > top).sum())
            values = np.minimum(values, 2 * top)  # what has blown up would spoil the scale of the axis
            low, middle, high = (np.quantile(values, q, axis=1) for q in (0.25, 0.5, 0.75))
            axis.fill_between(SIZES, low, high, color=ENVAR, alpha=0.25, linewidth=0, label="4DEnVar, quartiles")
            axis.plot(np.repeat(SIZES, values.shape[1]), values.ravel(), ".", color=ENVAR, alpha=0.45, markersize=3,
                      label="4DEnVar, each ensemble")
            axis.plot(SIZES, middle, color=ENVAR, linewidth=1.6, label="4DEnVar, median")
            axis.axhline(prior[row], color=PRIOR, linewidth=1.0, linestyle="--", label="prior mean")
            axis.axhline(exact[row], color=POSTERIOR, linewidth=1.4, label="exact 4DVar")
            axis.set_yscale("log")
            axis.set_ylim(0.5 * exact[row], top)
            title = name if row == 0 else ""
            off = f"{above} of {values.size} are above" if above else ""
            tidy(axis, "members" if row else "", f"RMSE of {pool}, pool units" if column == 0 else "",
                 ": ".join(filter(None, (title, off))))
    _legend(figure, axes[0, 0], 5)
    figure.savefig(path, dpi=150)


def noise(found: dict[str, dict[str, Noisy]], path: Path) -> None:
    """With noise: RMSE of both pools to the truth, squared Mahalanobis distance of the true parameters, and model runs with derivatives
    charged; every method, a dot a seed and the median.
    """
    figure = new_figure(1.6 + 2.4 * len(found), 9.0)
    axes = figure.subplots(4, len(found), sharex="col", sharey="row", squeeze=False)
    for column, (name, methods) in enumerate(found.items()):
        for number, noisy in enumerate(methods.values()):
            parts = (noisy.rmse[:, 0], noisy.rmse[:, 1], noisy.distance, noisy.runs)
            for axis, values in zip(axes[:, column], parts, strict=True):
                seen = values[np.isfinite(values)]
                aside = np.linspace(-0.25, 0.25, len(seen)) if len(seen) > 1 else np.zeros(len(seen))
                axis.plot(number + aside, seen, ".", color=POSTERIOR if number == 0 else INK, alpha=0.4, markersize=3)
                if len(seen):
                    axis.plot([number - 0.35, number + 0.35], [np.median(seen)] * 2, color=POSTERIOR if number == 0 else INK, linewidth=1.8)
        axes[2, column].axhline(1.0, color="#888888", linewidth=0.8, linestyle=":")
        labels = (f"RMSE of {POOLS[0]}", f"RMSE of {POOLS[1]}", "distance² of the truth\n(1 is right)", "model runs")
        for row, label in enumerate(labels):
            axes[row, column].set_yscale("log")
            tidy(axes[row, column], "", label if column == 0 else "", name if row == 0 else "")
        axes[-1, column].set_xticks(range(len(methods)), list(methods), rotation=90)
    figure.savefig(path, dpi=150)


def _legend(figure, axis, columns: int) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncol=columns, fontsize=9, frameon=False)
