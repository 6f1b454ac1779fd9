"""Figures of a structural report, one function a figure; each takes what was examined and returns a Figure that belongs to nobody."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from landcal_jax.information import root_of
from landcal_jax.plot_style import INK, OBSERVED, POSTERIOR, PRIOR, SHADE, new_figure, number_text, tidy
from landcal_jax.structure.findings import MONTHS, Examined, Finding
from landcal_jax.structure.signals import quantity_words

BINS, MOST = 14, 15
ALARM = PRIOR  # one colour for what is above a threshold, on every figure
CLASS_WORDS = {"driver": "driver", "process": "process", "observation": "observations", "user": "own candidate"}


def evidence(findings: Examined) -> Figure:
    """The candidates that stand out most, by |t| with the thresholds of their classes, the best of each group."""
    scores = findings.scores
    best: dict[tuple[str, ...], int] = {}
    for index in np.argsort(-np.abs(scores.t)):
        best.setdefault(scores.candidates[index].group, int(index))
    shown = list(best.values())[:MOST][::-1]
    figure = new_figure(9.6, 1.1 + 0.27 * len(shown))
    axis = figure.subplots()
    size = np.abs(scores.t[shown])
    colours = [ALARM if scores.loud[index] else OBSERVED for index in shown]
    axis.barh(np.arange(len(shown)), size, color=colours, height=0.62)
    for place, index in enumerate(shown):
        limit = scores.thresholds[scores.candidates[index].family]
        axis.plot([limit, limit], [place - 0.42, place + 0.42], color=INK, linewidth=1.6)
    axis.set_yticks(np.arange(len(shown)), [_short(findings, index) for index in shown])
    tidy(axis, "|t| of the best candidate of the group (black: alarm threshold of its class)")
    axis.set_xlim(0, max(size.max() * 1.05 if len(size) else 1, max(scores.thresholds.values(), default=1) * 1.15))
    return figure


def _short(findings: Examined, index: int) -> str:
    candidate = findings.scores.candidates[index]
    words = candidate.words.replace("the response of ", "").replace("a bias of the ", "")
    return f"{words}  [{CLASS_WORDS[candidate.kind]}]"


def cause(findings: Examined, finding: Finding) -> Figure:
    """What a cause explains: residuals against its signal, both without what the parameters take up, and by month before and after.

    Of a bias at one site those of that site, since the others would hide them.
    """
    named = next(each for each in findings.named if each.group == finding.numbers["group"])
    scores, whitened = findings.scores, findings.whitened
    signal, r = scores.projected[:, named.best], whitened.r
    site = scores.candidates[named.best].site
    place = findings.observations.sites.index(site) if site else None
    chosen = {name: np.full(len(rows), True) if place is None else whitened.sites[rows] == place for name, rows in whitened.rows.items()}
    streams = [name for name in whitened.rows if chosen[name].any()]
    where = f" at {site}" if site else ""
    figure = new_figure(9.6, 3.0 * len(streams))
    panels = figure.subplots(len(streams), 2, squeeze=False)
    for row, name in enumerate(streams):
        rows = whitened.rows[name][chosen[name]]
        left, right = panels[row]
        _binned(left, signal[rows] * np.sqrt(len(r)), r[rows])
        slope = float(signal @ r) / np.sqrt(len(r))
        ends = np.quantile(signal[rows] * np.sqrt(len(r)), [0.005, 0.995])
        left.plot(ends, slope * ends, color=POSTERIOR, linewidth=1.4, label="what the candidate explains")
        _legend(left)
        tidy(left, "Signal of the candidate (its part that parameters cannot make)", "Whitened residual", f"{quantity_words(name)}{where}")
        series = {"calibrated": (r[rows], OBSERVED)}
        if named.refit is not None:
            stream = findings.observations[name]
            mask = np.asarray(stream.mask) & (np.asarray(stream.weight)[:, None] > 0)
            series["with the candidate"] = (named.refit.residuals[name][mask][chosen[name]], POSTERIOR)
        _monthly(right, whitened.times[rows], series)
        tidy(right, "Month", "Mean whitened residual", f"{quantity_words(name)}{where}")
    return figure


def _binned(axis: Axes, x: np.ndarray, y: np.ndarray) -> None:
    edges = np.unique(np.quantile(x, np.linspace(0, 1, BINS + 1)))
    place = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    kept = [n for n in range(max(len(edges) - 1, 1)) if (place == n).sum() > 3]
    middle = [x[place == n].mean() for n in kept]
    error = [y[place == n].std() / np.sqrt((place == n).sum()) for n in kept]
    axis.axhline(0, color="#bbbbbb", linewidth=0.8)
    axis.errorbar(middle, [y[place == n].mean() for n in kept], error, fmt="o", color=INK, markersize=4, linewidth=1,
                  label="mean of residuals, standard error")


def _legend(axis: Axes, room: float = 0.3) -> None:
    """A legend with room of its own at the top, a share of the axis, so that it hides nothing."""
    low, high = axis.get_ylim()
    axis.set_ylim(low, high + room * (high - low))
    axis.legend(fontsize=8, frameon=False, loc="upper right")


def _monthly(axis: Axes, times: np.ndarray, series: dict) -> None:
    axis.axhline(0, color="#bbbbbb", linewidth=0.8)
    if not np.isfinite(times).all():
        axis.text(0.5, 0.5, "This stream has no times", transform=axis.transAxes, ha="center", fontsize=9)
        return
    months = times.astype("datetime64[D]").astype("datetime64[M]").astype(int) % 12 + 1
    for shift, (label, (values, colour)) in enumerate(series.items()):
        found = [month for month in range(1, 13) if (months == month).sum() > 2]
        means = [values[months == month].mean() for month in found]
        error = [values[months == month].std() / np.sqrt((months == month).sum()) for month in found]
        axis.errorbar(np.array(found) + 0.18 * shift, means, error, fmt="o-", color=colour, markersize=4, linewidth=1.1, label=label)
    axis.set_xticks(range(1, 13), list("JFMAMJJASOND"))
    if len(series) > 1:
        _legend(axis)


def consistency(findings: Examined) -> Figure:
    """Size of the residuals against their errors, by stream, site and season, with the range of chance and Desroziers ratios."""
    found = [each.numbers for each in findings if each.kind == "chi-square"]
    order = {name: n for n, name in enumerate(("", *MONTHS))}
    found.sort(key=lambda each: (each["stream"], each["site"], order[each["season"]]))
    figure = new_figure(9.6, 1.1 + 0.28 * len(found))
    axis = figure.subplots()
    for place, each in enumerate(found[::-1]):
        half = 1.96 * np.sqrt(2 / each["degrees"])
        axis.barh(place, np.sqrt(1 + half) - np.sqrt(max(1 - half, 0)), left=np.sqrt(max(1 - half, 0)), height=0.7, color=SHADE)
        axis.plot(np.sqrt(each["ratio"]), place, "o", color=INK, markersize=5, label="chi-square" if not place else None)
        if each["desroziers"] > 0:
            axis.plot(np.sqrt(each["desroziers"]), place, "D", color=POSTERIOR, markersize=4, fillstyle="none",
                      label="Desroziers" if not place else None)
    words = [" ".join(filter(None, (quantity_words(each["stream"]), each["site"], each["season"] or "all year"))) for each in found[::-1]]
    axis.set_yticks(range(len(found)), words)
    axis.axvline(1, color="#999999", linewidth=0.8)
    axis.legend(fontsize=8, frameon=False)
    tidy(axis, "Size of the residuals over their stated error (shaded: 95 % range of chance)")
    return figure


def memory(findings: Examined) -> Figure:
    """Autocorrelation of the whitened residuals of every stream and site."""
    found = [each.numbers for each in findings if each.kind == "autocorrelation"]
    figure = new_figure(9.6, 2.4 * (-(-len(found) // 2)))
    axes = figure.subplots(-(-len(found) // 2), 2, squeeze=False).ravel()
    for axis, each in zip(axes, found, strict=False):
        width = 0.7 * each["lag_days"][0]
        axis.bar(each["lag_days"], each["correlation"], width=width, color=POSTERIOR)
        for sign in (-1, 1):
            axis.plot(each["lag_days"], sign * 1.96 * each["spread"], color=INK, linewidth=0.9, linestyle="--")
        axis.axhline(0, color="#999999", linewidth=0.8)
        tidy(axis, "Lag (d)", "Correlation", f"{quantity_words(each['stream'])}, {each['site']}")
    for axis in axes[len(found):]:
        axis.set_visible(False)
    return figure


def seasons(findings: Examined) -> Figure:
    """Mean whitened residual by month and by year, one row a stream."""
    whitened = findings.whitened
    streams = list(dict.fromkeys(each.subject for each in findings if each.figure == "seasons"))
    figure = new_figure(9.6, 2.4 * len(streams))
    panels = figure.subplots(len(streams), 2, squeeze=False)
    for (left, right), (name, rows) in zip(panels, ((name, whitened.rows[name]) for name in streams), strict=True):
        times, r = whitened.times[rows], whitened.r[rows]
        _monthly(left, times, {name: (r, INK)})
        tidy(left, "Month", "Mean whitened residual", quantity_words(name))
        right.axhline(0, color="#bbbbbb", linewidth=0.8)
        if np.isfinite(times).all():
            year = times.astype("datetime64[D]").astype("datetime64[Y]").astype(int) + 1970
            known = [one for one in np.unique(year) if (year == one).sum() > 2]
            right.errorbar(known, [r[year == one].mean() for one in known],
                           [r[year == one].std() / np.sqrt((year == one).sum()) for one in known], fmt="o", color=INK, markersize=4)
            right.xaxis.get_major_locator().set_params(integer=True)
        tidy(right, "Year", "", quantity_words(name))
    return figure


def predictive(findings: Examined, finding: Finding) -> Figure:
    """Replicated and observed statistics of one stream."""
    found = [each.numbers for each in findings if each.kind == "predictive" and each.subject == finding.subject][:12]
    rows = -(-len(found) // 3)
    figure = new_figure(9.6, 0.3 + 2.0 * rows)
    axes = figure.subplots(rows, 3, squeeze=False).ravel()
    for axis, each in zip(axes, found, strict=False):
        axis.hist(each["replicates"], bins=30, color=SHADE, edgecolor="#b9ad8f", linewidth=0.5)
        axis.axvline(each["observed"], color=PRIOR, linewidth=2)
        axis.set_yticks([])
        axis.locator_params(axis="x", nbins=4)
        tidy(axis, f"{each['statistic']}, {each['site']}")
    for axis in axes[len(found):]:
        axis.set_visible(False)
    figure.suptitle(f"{quantity_words(finding.subject)}: replicated by the calibrated model (shaded), observed (line)", fontsize=9, x=0.01,
                    ha="left")
    return figure


def conflict(findings: Examined, finding: Finding) -> Figure:
    """Where a stream or a site alone would put the parameters, in standard deviations of the prior, and what it costs the others."""
    numbers, labels = finding.numbers, findings.problem.space.labels
    order = np.argsort(-np.abs(numbers["shift"]))[:MOST][::-1]
    scored = bool(numbers["scores"])
    figure = new_figure(9.6, max(2.2, 1.0 + 0.26 * len(order)))
    axes = np.atleast_1d(figure.subplots(1, 1 + scored, width_ratios=[2, 1][: 1 + scored]))
    axes[0].barh(range(len(order)), numbers["shift"][order], color=POSTERIOR, height=0.62)
    axes[0].axvline(0, color="#999999", linewidth=0.8)
    axes[0].set_yticks(range(len(order)), [labels[n] for n in order])
    alone = f"fitted to {finding.subject.replace('_', ' ')} alone"
    tidy(axes[0], "Move of the parameter (standard deviations of the prior; linearised)", "", alone)
    if scored:
        places = np.arange(len(numbers["scores"]))
        for shift, label, colour in ((0, "fitted together", OBSERVED), (1, alone, PRIOR)):
            axes[1].bar(places + 0.36 * shift, [pair[shift] for pair in numbers["scores"].values()], width=0.34, color=colour, label=label)
        axes[1].set_xticks(places + 0.18, [name.replace("_", " ") for name in numbers["scores"]])
        axes[1].axhline(1, color="#999999", linewidth=0.8)
        _legend(axes[1], 0.5)
        tidy(axes[1], "", "Chi-square per value", "")
    return figure


def parameters(findings: Examined) -> Figure:
    """Where the parameters stand in their priors, those that are furthest out, with their posterior standard deviation."""
    space = findings.problem.space
    L = root_of(space)
    u = L @ findings.z
    spread = np.sqrt(np.diag(L @ np.linalg.inv(findings.whitened.G.T @ findings.whitened.G) @ L.T))
    order = np.argsort(-np.abs(u))[: 2 * MOST][::-1]
    figure = new_figure(9.6, 1.0 + 0.22 * len(order))
    axis = figure.subplots()
    axis.axvspan(-2, 2, color=SHADE)
    axis.errorbar(u[order], range(len(order)), xerr=spread[order], fmt="o", color=POSTERIOR, markersize=4, linewidth=1.2)
    values = np.asarray(space.flatten(space.physical(findings.z)))
    axis.set_yticks(range(len(order)), [f"{space.labels[n]} = {number_text(values[n])}" for n in order])
    tidy(axis, "Distance from the prior mean, in whitened space (shaded: 95 % of the prior)")
    return figure


def directions(findings: Examined) -> Figure:
    """How much of the variance of each direction of the control space the data take away."""
    finding = next(each for each in findings if each.kind == "unseen")
    share = np.sort(finding.numbers["share"])[::-1]
    figure = new_figure(9.6, 2.6)
    axis = figure.subplots()
    axis.bar(np.arange(1, len(share) + 1), share, color=[POSTERIOR if each > 0.5 else OBSERVED for each in share])
    axis.axhline(0.5, color=INK, linewidth=0.9, linestyle="--")
    tidy(axis, "Direction of the control space", "Share of the prior variance\nthat the data take away")
    return figure


def failed(findings: Examined) -> Figure:
    """Runs over the prior that failed and that did not, in the two parameters that tell them apart best."""
    numbers = next(each for each in findings if each.kind == "failed runs").numbers
    theta, good = numbers["theta"], numbers["finished"]
    ranks = np.argsort(np.argsort(theta, axis=0), axis=0) / len(theta)
    apart = np.abs(ranks[good].mean(axis=0) - ranks[~good].mean(axis=0)) if good.any() else np.ones(theta.shape[1])
    first, second = (np.argsort(-apart).tolist() * 2)[:2]
    figure = new_figure(6.4, 4.2)
    axis = figure.subplots()
    for chosen, colour, label, marker in ((good, OBSERVED, "ran", "o"), (~good, ALARM, "failed", "x")):
        axis.plot(theta[chosen, first], theta[chosen, second], marker, color=colour, markersize=4, linestyle="", label=label)
    if (theta > 0).all():
        axis.set_xscale("log")
        axis.set_yscale("log")
    axis.legend(fontsize=8.5, frameon=False)
    tidy(axis, numbers["labels"][first], numbers["labels"][second])
    return figure


def starts(findings: Examined) -> Figure:
    """J at the end of every start."""
    ends: Sequence[float] = next(each.numbers["end_cost"] for each in findings if "end_cost" in each.numbers)
    figure = new_figure(9.6, 2.4)
    axis = figure.subplots()
    axis.plot(np.arange(1, len(ends) + 1), ends, "o", color=POSTERIOR, markersize=5)
    axis.xaxis.get_major_locator().set_params(integer=True)
    tidy(axis, "Start, from the best", "J at its end")
    return figure
