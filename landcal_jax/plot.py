"""Figures of a calibration, one function a figure.

Every function takes the Dataset that posterior.nc holds and returns a matplotlib `Figure` that belongs to nobody: no
pyplot state is touched and no global style is changed, so `figure.savefig("fit.pdf")` is all that is left to do.
"""

from itertools import cycle

import matplotlib.dates as mdates
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landcal_jax.errors import complain
from landcal_jax.plot_parameters import correlation as correlation
from landcal_jax.plot_parameters import parameters as parameters
from landcal_jax.plot_style import (
    HELD_OUT,
    INK,
    OBSERVED,
    POSTERIOR,
    PRIOR,
    SHADE,
    STREAM_COLOURS,
    new_figure,
    number_text,
    records,
    sites,
    stream_label,
    tidy,
    unit_text,
    variable,
    with_legend,
)
from landcal_jax.plot_style import streams as streams

DAILY_AT_MOST = 1100  # values: three years; a longer record is drawn as means with two years of daily values below
WINDOW = 15  # days of one mean
SERIES_ORDER = ("observed", "prior", "predictive", "calibrated", "90 % band, with", "90 % band", "held-out")


def cost(ds: xr.Dataset | xr.DataArray) -> Figure:
    """Cost and each of its terms against the iteration, on a logarithmic axis; the legend gives the ends of each."""
    table = variable(ds, "cost").transpose("iteration", "term")
    iteration = table["iteration"].values if "iteration" in table.coords else np.arange(table.sizes["iteration"])
    figure = new_figure(9.6, 3.6)
    axis = figure.subplots()
    lines = [("total", table.sum("term", skipna=False).values, INK, 2.0)]
    colours = cycle(STREAM_COLOURS)
    lines += [(str(name), table.sel(term=name).values, PRIOR if name == "prior" else next(colours), 1.3)
              for name in table["term"].values]
    for index, (name, values, colour, width) in enumerate(lines):
        label = f"{name.replace('_', ' ')}: {number_text(values[0], 4)} → {number_text(values[-1], 4)}"
        axis.plot(iteration, np.where(values > 0, values, np.nan), color=colour, linewidth=width, label=label,
                  marker="osD^vPX"[index % 7], markersize=3.5, markevery=max(1, len(values) // 30))
    axis.set_yscale("log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    tidy(axis, "Iteration", "Cost J (dimensionless)")
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.6)
    axis.legend(fontsize=8.5, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1), title="Term: first → last",
                title_fontsize=8.5, alignment="left")
    return figure


def series(ds: xr.Dataset, stream: str, site: str | None = None, period: tuple[str, str] | None = None) -> Figure:
    """Observations with their errors, the prior run, the predictive median and 90 % band of `stream` at one site.

    A record of more than three years is drawn whole as 15-day means, and below it, daily, the calibrated and the
    held-out year with most observations. `period` (first, last day, as "2006-05-01") restricts the figure.
    """
    if site is None and len(sites(ds)) > 1:
        raise ValueError(complain(f"site= one of {', '.join(sites(ds))}", "no site",
                                  "name the site; a series of several sites has one figure a site"))
    record = records(ds, stream, site)[0]
    if period is not None:
        record = record.loc[period[0]:period[1]]
        if record.empty:
            raise ValueError(complain(f"a period within the record of {stream}", f"{period[0]} to {period[1]}",
                                      "give the first and the last day as 'YYYY-MM-DD'"))
    if len(record) <= DAILY_AT_MOST:
        figure = new_figure(9.6, 3.6)
        axes = [figure.subplots()]
        _draw_series(axes[0], record, stream_label(ds, stream))
        return with_legend(figure, axes, SERIES_ORDER, columns=3)
    zooms = _zoom_years(record)
    figure = new_figure(9.6, 6.2)
    grid = figure.add_gridspec(2, len(zooms))
    axes = [figure.add_subplot(grid[0, :])]
    _draw_series(axes[0], record, stream_label(ds, stream), f"Whole record, {WINDOW}-day means", means=True)
    for column, (year, kind) in enumerate(zooms.items()):
        axes.append(figure.add_subplot(grid[1, column], sharey=axes[1] if column else None))
        days = record.loc[str(year)]
        _draw_series(axes[-1], days, "" if column else stream_label(ds, stream), f"{year}, daily ({kind})")
        axes[-1].tick_params(labelleft=not column)
    return with_legend(figure, axes, SERIES_ORDER, columns=3)


def fit(ds: xr.Dataset, stream: str, site: str | None = None) -> Figure:
    """The figure to show first: two years of daily values around the beginning of the held-out period.

    The last two years when nothing is held out. `series` shows the whole record.
    """
    record = records(ds, stream, site)[0]
    held = record.index[record["held_out"]]
    year = pd.Timedelta(days=365)
    middle = held[0] if len(held) else record.index[-1] - year
    first = max(record.index[0], min(middle - year, record.index[-1] - 2 * year))
    return series(ds, stream, site, (str(first.date()), str((first + 2 * year).date())))


def _zoom_years(record: pd.DataFrame) -> dict[int, str]:
    """The calendar years with most calibrated and with most held-out observations, in order of time."""
    seen = record["observed"].notna()
    chosen = {}
    for kind, days in (("calibrated", seen & ~record["held_out"]), ("held-out", seen & record["held_out"])):
        counts = days.groupby(record.index.year).sum()
        if counts.max() > 0:
            chosen.setdefault(int(counts.idxmax()), []).append(kind)
    if not chosen:
        return {int(record.index.year[-1]): "no observations"}
    return {year: f"{' and '.join(chosen[year])} days" for year in sorted(chosen)}


def _window_means(record: pd.DataFrame) -> pd.DataFrame:
    """Means over `WINDOW` days, model and observation over the same days, so that gaps do not bias the comparison.

    A window with fewer than three observations shows the mean of all modelled days and no observation.
    """
    window = pd.Grouper(freq=f"{WINDOW}D", origin="start")
    count = record["observed"].notna().astype(float).groupby(window).transform("sum")
    used = record.astype(float).where(record["observed"].notna() | (count < 3))
    variance = (used["observed_sd"] ** 2).groupby(window).sum()
    means = used.groupby(window).mean()
    number = count.groupby(window).first()
    means["observed"] = means["observed"].where(number >= 3)
    means["observed_sd"] = np.sqrt(variance) / number.where(number >= 3)
    means.index = means.index + pd.Timedelta(days=WINDOW / 2)
    return means


def _shade(axis: Axes, record: pd.DataFrame) -> None:
    """Shade the held-out days and label the longest run of them; the legend names the colour."""
    held = record["held_out"].to_numpy().astype(int)
    edges = np.diff(np.concatenate([[0], held, [0]]))
    step = pd.Timedelta(np.median(np.diff(record.index))) if len(record) > 1 else pd.Timedelta(days=1)
    runs = [(record.index[start], record.index[stop - 1] + step)
            for start, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)]
    for first, last in runs:
        axis.axvspan(first, last, color=SHADE, linewidth=0, zorder=0, label="held-out days")
    first, last = max(runs, key=lambda run: run[1] - run[0], default=record.index[[0, 0]])
    if last - first > 0.1 * (record.index[-1] - record.index[0]):  # in a narrower one the words would not fit
        axis.text(first + (last - first) / 2, 0.985, "held out", transform=axis.get_xaxis_transform(), ha="center",
                  va="top", fontsize=8, color=HELD_OUT, style="italic")


def _draw_series(axis: Axes, record: pd.DataFrame, y: str, title: str = "", means: bool = False) -> None:
    _shade(axis, record)
    table = _window_means(record) if means else record
    time = table.index.to_numpy()
    bands = [("model_lower", "model_upper", 0.38, "90 % band, parameters alone")]
    if not means:  # the mean of daily bands says nothing of the band of a mean when the errors are independent
        bands.insert(0, ("predictive_lower", "predictive_upper", 0.16, "90 % band, with observation error"))
    for lower, upper, alpha, label in bands:
        if table[lower].notna().any():
            axis.fill_between(time, table[lower], table[upper], color=POSTERIOR, alpha=alpha, linewidth=0, label=label)
    bars = table["observed_sd"].to_numpy() if table["observed_sd"].notna().any() else None
    axis.errorbar(time, table["observed"], yerr=bars, fmt="o", markersize=2.2, color=OBSERVED, ecolor="#bbbbbb",
                  elinewidth=0.6, zorder=2, label="observed ± measurement sd" if bars is not None else "observed")
    for column, colour, style, label in (("prior", PRIOR, (0, (4, 2)), "prior run"),
                                         ("predictive_median", POSTERIOR, "-", "predictive median")):
        if column == "predictive_median" and table[column].isna().all():
            column, label = "calibrated", "calibrated run (MAP)"
        if table[column].notna().any():
            axis.plot(time, table[column], color=colour, linestyle=style, linewidth=1.1, zorder=3, label=label)
    axis.set_xlim(record.index[0], record.index[-1] + pd.Timedelta(days=1))
    axis.margins(y=0.08)
    locator = mdates.AutoDateLocator(minticks=4, maxticks=10)
    axis.xaxis.set_major_locator(locator)
    axis.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator, show_offset=False))
    tidy(axis, y=y, title=title)


def _observed(ds: xr.Dataset, stream: str, site: str | None) -> list[pd.DataFrame]:
    """The tables of `records`, of which at least one must hold an observation."""
    tables = records(ds, stream, site)
    if not any(table["observed"].notna().any() for table in tables):
        raise ValueError(complain(f"at least one observation of {stream}", "none in the dataset",
                                  "draw `series`, which needs no observation"))
    return tables


def seasonal(ds: xr.Dataset, stream: str, site: str | None = None) -> Figure:
    """Mean seasonal cycle in bins of ten days, over the days with an observation; several sites are pooled.

    Bars are the standard deviation between years (and sites) of the observed means. Held-out days have their own panel.
    """
    tables = _observed(ds, stream, site)
    pooled = pd.concat(tables, keys=range(len(tables)), names=["site", "time"]).dropna(subset=["observed"])
    parts = [(kind, part) for kind, part in (("Calibrated days", pooled[~pooled["held_out"]]),
                                             ("Held-out days", pooled[pooled["held_out"]])) if len(part)]
    figure = new_figure(9.6, 3.4)
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    for axis, (kind, part) in zip(axes, parts, strict=True):
        time = part.index.get_level_values("time")
        bins = np.minimum((time.day_of_year - 1) // 10, 35)
        yearly = part.astype(float).groupby([part.index.get_level_values("site"), time.year, bins]).mean()
        mean, spread = yearly.groupby(level=2).mean(), yearly["observed"].groupby(level=2).std()
        day = mean.index.to_numpy() * 10 + 5.5
        if mean["model_lower"].notna().any():
            axis.fill_between(day, mean["model_lower"], mean["model_upper"], color=POSTERIOR, alpha=0.25, linewidth=0,
                              label="90 % band, parameters alone")
        axis.errorbar(day, mean["observed"], yerr=spread, fmt="o", markersize=3, color=OBSERVED, ecolor="#bbbbbb",
                      elinewidth=0.8, label="observed ± sd between years")
        axis.plot(day, mean["prior"], color=PRIOR, linestyle=(0, (4, 2)), linewidth=1.3, label="prior run")
        axis.plot(day, mean["calibrated"], color=POSTERIOR, linewidth=1.5, label="calibrated run (MAP)")
        starts = np.array([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334, 365])
        axis.set_xticks(starts, minor=True)
        axis.set_xticks((starts[1:] + starts[:-1]) / 2, list("JFMAMJJASOND"))
        axis.set_xlim(0, 366)
        years = sorted(set(time.year))
        tidy(axis, "Month", stream_label(ds, stream) if axis is axes[0] else "", f"{kind}, {years[0]} to {years[-1]}")
        axis.tick_params(which="major", axis="x", length=0)
        if kind == "Held-out days":
            axis.set_facecolor(SHADE)
    return with_legend(figure, axes, SERIES_ORDER)


def residuals(ds: xr.Dataset, stream: str, site: str | None = None) -> Figure:
    """Four views of observed minus calibrated (MAP) run: distribution, memory, against the model, by month.

    Residuals of the distribution are divided by the total error (measurement and model); several sites are pooled.
    """
    tables = _observed(ds, stream, site)
    for table in tables:
        table["residual"] = table["observed"] - table["calibrated"]
    pooled = pd.concat(tables).dropna(subset=["residual"])
    kinds = [("calibrated days", POSTERIOR, pooled[~pooled["held_out"]]),
             ("held-out days", HELD_OUT, pooled[pooled["held_out"]])]
    figure = new_figure(9.6, 6.4)
    axes = figure.subplots(2, 2)
    _draw_distribution(axes[0, 0], [kind for kind in kinds if len(kind[2])])
    _draw_memory(axes[0, 1], tables)
    unit = unit_text(ds[f"{stream}_observed"].attrs.get("units", "1"))
    _draw_against_model(axes[1, 0], pooled, unit)
    _draw_monthly(axes[1, 1], kinds, unit)
    return figure


def autocorrelation(values: np.ndarray, lags: int) -> tuple[np.ndarray, np.ndarray]:
    """Autocorrelation of `values` (time,) at lags 0 to `lags`, and the number of pairs; NaN values form no pair.

    NaN, with no pair, at lags as long as the record or longer.
    """
    anomaly = values - np.nanmean(values)
    products = [anomaly[: max(len(anomaly) - lag, 0)] * anomaly[lag:] for lag in range(lags + 1)]
    pairs = np.array([np.isfinite(product).sum() for product in products])
    covariance = np.array([np.nansum(product) for product in products]) / np.where(pairs, pairs, np.nan)
    return covariance / covariance[0], pairs


def _draw_distribution(axis: Axes, kinds: list[tuple[str, str, pd.DataFrame]]) -> None:
    grid = np.linspace(-5, 5, 201)
    drawn = False
    for label, colour, part in kinds:
        scaled = (part["residual"] / part["total_sd"].fillna(part["observed_sd"])).dropna()
        if len(scaled):
            drawn = True
            axis.hist(np.clip(scaled, -5, 5), bins=np.linspace(-5, 5, 41), density=True, linewidth=1.2, color=colour,
                      histtype="step" if label.startswith("held") else "stepfilled",
                      alpha=1 if label.startswith("held") else 0.35,
                      label=f"{label}: mean {scaled.mean():.2f}, sd {scaled.std():.2f}".replace("-0.", "−0."))
    if drawn:
        axis.plot(grid, np.exp(-grid**2 / 2) / np.sqrt(2 * np.pi), color=INK, linewidth=1, label="N(0, 1)")
        axis.set_ylim(0, 1.35 * axis.get_ylim()[1])
        axis.legend(fontsize=7.5, frameon=False, loc="upper left")
    else:
        axis.text(0.5, 0.5, "no error is known for this stream", transform=axis.transAxes, ha="center", fontsize=8)
    tidy(axis, "Residual / total error (dimensionless)", "Density", "a  Standardised residuals")


def _draw_memory(axis: Axes, tables: list[pd.DataFrame], lags: int = 60) -> None:
    sums, pairs = np.zeros(lags + 1), np.zeros(lags + 1)
    for table in tables:
        daily = table["residual"].where(~table["held_out"]).groupby(table.index.floor("D")).mean().asfreq("D")
        if daily.notna().sum() > 2:
            correlation, number = autocorrelation(daily.to_numpy(), lags)
            sums, pairs = sums + np.nan_to_num(correlation) * number, pairs + number
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation, noise = sums / pairs, 1.96 / np.sqrt(pairs)
    lag = np.arange(lags + 1)
    axis.fill_between(lag[1:], -noise[1:], noise[1:], color="#dddddd", linewidth=0, label="95 % range of white noise")
    axis.plot(lag[1:], correlation[1:], "o-", color=POSTERIOR, markersize=2.5, linewidth=0.8, label="calibrated days")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.legend(fontsize=7.5, frameon=False)
    tidy(axis, "Lag (days)", "Autocorrelation (dimensionless)", "b  Memory of the residuals")


def _draw_against_model(axis: Axes, pooled: pd.DataFrame, unit: str) -> None:
    axis.plot(pooled["calibrated"], pooled["residual"], ".", markersize=3.5, alpha=0.5, color=OBSERVED,
              markeredgewidth=0, rasterized=True, label="one value")
    if len(pooled) > 20:
        groups = pooled.groupby(pd.cut(pooled["calibrated"], 12), observed=True)
        enough = groups["residual"].count() >= 10
        mean, spread = groups[["calibrated", "residual"]].mean()[enough], groups["residual"].std()[enough]
        axis.errorbar(mean["calibrated"], mean["residual"], yerr=spread, fmt="o-", markersize=3.5, linewidth=1,
                      color=POSTERIOR, label="mean ± sd in a twelfth of the range")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.legend(fontsize=7.5, frameon=False)
    tidy(axis, f"Calibrated run ({unit})", f"Observed − calibrated ({unit})", "c  Against the modelled value")


def _draw_monthly(axis: Axes, kinds: list[tuple[str, str, pd.DataFrame]], unit: str) -> None:
    for offset, (label, colour, part) in zip((-0.12, 0.12), kinds, strict=True):
        if len(part):
            monthly = part["residual"].groupby([part.index.year, part.index.month]).mean().groupby(level=1)
            mean, spread = monthly.mean(), monthly.std()
            axis.errorbar(mean.index + offset, mean, yerr=spread, fmt="o", markersize=4, color=colour, elinewidth=0.9,
                          markerfacecolor=colour if offset < 0 else "white", label=f"{label} (± sd between years)")
    axis.axhline(0, color=INK, linewidth=0.8)
    axis.set_xticks(range(1, 13), list("JFMAMJJASOND"))
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + 0.2 * (high - low))
    axis.legend(fontsize=7.5, frameon=False, loc="upper left")
    tidy(axis, "Month", f"Mean residual ({unit})", "d  Mean by month")
