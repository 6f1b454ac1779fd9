"""Figures of emulators: what leaving out one run after the other says of each output."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from landcal_jax.plot_style import INK, POSTERIOR, PRIOR, check_name, new_figure, tidy, variable

SHOWN_AT_MOST = 12
COLUMNS = 4


def leave_one_out(ds: xr.Dataset, names: Sequence[str] | None = None) -> Figure:
    """Each run as it was against what the emulator says of it without it, with 95 % intervals; runs outside of theirs are orange.

    `ds` is `Emulator.check()`. `names` chooses outputs; by default the first twelve, those of most weight in their streams.
    """
    weight = variable(ds, "weight").values
    labels = [str(name) for name in ds["output"].values]
    for name in names or ():
        check_name(name, labels, "output")
    shown = list(names or [labels[index] for index in np.sort(np.argsort(-weight, kind="stable")[:SHOWN_AT_MOST])])
    rows = -(-len(shown) // COLUMNS)
    columns = min(COLUMNS, len(shown))
    figure = new_figure(0.4 + 2.3 * columns, 0.3 + 2.4 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        one = ds.sel(output=name)
        value, middle, half = one["run_value"].values, one["predicted"].values, 1.96 * one["deviation"].values
        outside = np.abs(value - middle) > half
        for which, colour in ((~outside, POSTERIOR), (outside, PRIOR)):
            axis.errorbar(value[which], middle[which], half[which], fmt="o", markersize=2.5, linewidth=0.8, color=colour, alpha=0.8)
        ends = [value.min(), value.max()]
        axis.plot(ends, ends, color=INK, linewidth=0.8, zorder=0)
        tidy(axis, title=f"{name}: R² {float(one['r2']):.3f}, {100 * float(one['coverage']):.0f} % inside")
    for axis in axes[len(shown):]:
        axis.set_visible(False)
    figure.supxlabel("Run", fontsize=9)
    figure.supylabel("Predicted without it", fontsize=9)
    return figure
