"""The report of a calibration: one HTML file that holds its figures, needs no network and runs no script.

`render` reads nothing but the Dataset of posterior.nc. What a dataset lacks (a held-out period, draws, errors) is said
in words where a reader would look for it.
"""

import base64
import io
import json
from collections.abc import Iterator, Sequence
from html import escape
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from landcal_jax import plot
from landcal_jax.errors import complain
from landcal_jax.plot_parameters import SHOWN_AT_MOST, near_bound
from landcal_jax.plot_style import decimals_of, fixed_text, logarithmic, number_text, spread_text, unit_text

METRICS = {"rmse": "RMSE", "bias": "Bias", "r": "r", "kge": "KGE", "chi_square": "χ²"}
PERIODS = {"calibrated": "calibrated", "held_out": "held out"}
UNCONSTRAINED = 0.9  # ratio of posterior to prior sd above which the data say nothing about a parameter
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 66rem; background: #fff; color: #1c1c1c;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .6rem; border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
h3 { font-size: 1.02rem; margin: 1.6rem 0 .4rem; } h4 { margin: 1rem 0 .2rem; }
p { max-width: 46rem; margin: .6rem 0; } a { color: #00558c; } small { font-weight: 400; color: #555; }
.made { color: #555; margin: 0 0 1.2rem; font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; font-size: .92rem; }
.warnings { border-left: 5px solid #b34700; background: #fdf1e7; padding: .6rem 1rem; margin: 1.2rem 0; }
.warnings h2 { border: 0; margin: 0; font-size: 1.05rem; color: #8a3600; }
.warnings ul { margin: .3rem 0; padding-left: 1.2rem; overflow-wrap: anywhere; }
figure { margin: 1.4rem 0 2rem; } figure img { display: block; max-width: 100%; height: auto; }
figcaption { font-size: .9rem; color: #333; max-width: 50rem; margin-top: .5rem; }
.wide { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .84rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .9rem; color: #333; padding-bottom: .4rem; }
caption span { position: sticky; left: 0; display: block; max-width: min(60rem, calc(100vw - 2rem)); }
th, td { padding: .25rem .45rem; text-align: right; white-space: nowrap; vertical-align: top; }
tr { border-bottom: 1px solid #e4e4e4; } .group { border-left: 1px solid #ccc; }
thead th { vertical-align: bottom; white-space: normal; } thead { border-bottom: 1px solid #555; }
.left, tbody th { text-align: left; }
tbody th { position: sticky; left: 0; background: #fff; white-space: normal; width: 12rem; min-width: 9rem; }
tbody th small { display: block; } .unit { font-weight: 400; } .held td, .held th { background: #faf6ea; }
td.text { white-space: normal; min-width: 8rem; text-align: left; } .flag { color: #8a3600; }
code, pre { font: .84rem/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
pre { background: #f6f6f6; padding: .8rem 1rem; overflow-x: auto; }
dl { margin: .4rem 0; } dt { font-weight: 600; margin-top: .5rem; font-size: .92rem; }
dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 45rem) { figure img { max-width: none; width: 44rem; } }
@media print { body { max-width: none; font-size: 10pt; padding: 0; } nav { display: none; }
  .wide { overflow: visible; } figure img { max-width: 100%; width: auto; }
  table { font-size: 7.5pt; } th, td { padding: 2px 4px; }
  tbody th { position: static; } h2, h3, h4 { break-after: avoid; } pre { white-space: pre-wrap; }
  figure, tr, .warnings { break-inside: avoid; } td.text { min-width: 0; } }
"""


def write(ds: xr.Dataset, path: str | Path) -> Path:
    """Write the report of `ds` to `path`, an HTML file, and return that path."""
    path = Path(path)
    path.write_text(render(ds), encoding="utf-8")
    return path


def render(ds: xr.Dataset) -> str:
    """Return the report of the calibration that `ds` (the content of posterior.nc) holds, as one HTML document."""
    title = escape(str(ds.attrs.get("title", "Calibration report")))
    # The figures come last: a dataset that cannot be reported on says so before they are drawn.
    summary, warnings = _summary(ds), _warnings(ds)
    sections = {"scores": ("Scores", _scores(ds)), "figures": ("Figures", ""),
                "parameters": ("Parameters", _parameters(ds)), "problem": ("Problem", _problem(ds)),
                "provenance": ("Provenance", _provenance(ds))}
    sections["figures"] = ("Figures", "".join(_figures(ds)))
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, (heading, _) in sections.items())
    main = "".join(f'<section id="{name}"><h2>{heading}</h2>{body}</section>'
                   for name, (heading, body) in sections.items())
    made = f'<p class="made">landcal_jax, {escape(str(ds.attrs.get("created", "date not recorded")))}</p>'
    return (f'<!DOCTYPE html><html lang="en-GB"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            f'style-src \'unsafe-inline\'"><style>{STYLE}</style></head><body><header><h1>{title}</h1>{made}</header>'
            f'<main><section id="summary">{summary}</section>{warnings}<nav aria-label="Contents"><ul>{links}'
            f"</ul></nav>{main}</main></body></html>\n")


# ---------------------------------------------------------------------------------------------------- numbers and words

def _join(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _attribute(ds: xr.Dataset, name: str, default: list | dict) -> list | dict:
    """An attribute that is kept as JSON text."""
    text = ds.attrs.get(name)
    if text is None:
        return default
    try:
        content = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(complain(f"JSON text in the attribute `{name}`", repr(text)[:80],
                                  f"write it with json.dumps; {error}")) from error
    if not isinstance(content, type(default)):
        raise ValueError(complain(f"a JSON {type(default).__name__} in the attribute `{name}`", repr(text)[:80],
                                  "look at the layout of posterior.nc in the documentation"))
    return content


def _units(ds: xr.Dataset, stream: str) -> str:
    return unit_text(str(ds[f"{stream}_observed"].attrs.get("units", "1")))


def _quantity(ds: xr.Dataset, stream: str) -> str:
    return str(ds[f"{stream}_observed"].attrs.get("long_name", stream.replace("_", " ")))


def _score(ds: xr.Dataset, stream: str, site: str, period: str) -> pd.DataFrame | None:
    """Scores of one row, index stage, columns metric; None when no observation stands behind them."""
    chosen = {"stream": stream, "site": site, "period": period}
    try:
        score = ds["score"].sel({name: value for name, value in chosen.items() if name in ds["score"].dims})
    except KeyError:
        return None
    table = score.transpose("stage", "metric").to_pandas().reindex(["prior", "posterior"])
    table = table.reindex(columns=["n", *METRICS])
    return table if table["n"].max() > 0 else None


# -------------------------------------------------------------------------------------------------------------- summary

def _summary(ds: xr.Dataset) -> str:
    attrs, size = ds.attrs, ds.sizes["parameter"]
    places = plot.sites(ds)
    where = f"at {_join(places)}" if len(places) < 5 else f"at {len(places)} sites"
    observed = []
    for stream in plot.streams(ds):
        seen = sum(int((table["observed"].notna() & ~table["held_out"]).sum()) for table in plot.records(ds, stream))
        observed.append(f"{_quantity(ds, stream)} ({fixed_text(seen)} values)")
    sentences = [f"{size} parameter{'s' * (size > 1)} of {attrs.get('model', 'the model')} "
                 f"{'were' if size > 1 else 'was'} calibrated {where} on {_join(observed)}."]
    sentences += [_held_out(ds), _cost_sentence(ds), *_score_sentences(ds)]
    status = str(attrs.get("status", "no status was kept")).rstrip(".")
    sentences.append(f"The solver ({attrs.get('solver', 'not recorded')}) reported “{status}”.")
    if attrs.get("posterior_method"):
        sentences.append(f"The posterior was estimated with the method “{attrs['posterior_method']}”.")
    seconds = _attribute(ds, "seconds", {})
    if seconds:
        parts = _join([f"{name.replace('_', ' ')} {number_text(value, 2)} s" for name, value in seconds.items()])
        sentences.append(f"The run took {number_text(sum(seconds.values()))} s ({parts}).")
    return f"<p>{escape(' '.join(filter(None, sentences)))}</p>"


def _held_out(ds: xr.Dataset) -> str:
    """One sentence on the days that were not used, or one for each stream where streams differ."""
    said = {}
    for stream in plot.streams(ds):
        tables = plot.records(ds, stream)
        held = pd.concat(tables)["held_out"].groupby(level=0).max().astype(bool)
        runs = held[held].groupby((~held).cumsum()[held])
        spans = [(_day(run.index[0]), _day(run.index[-1])) for _, run in runs]
        days = sum(int(table["held_out"].sum()) for table in tables)
        text = _join([f"{first} to {last}" for first, last in spans]) if len(spans) < 4 else (
            f"{len(spans)} periods between {spans[0][0]} and {spans[-1][1]}, {fixed_text(days)} days together")
        said.setdefault(text, []).append(_quantity(ds, stream))
    if set(said) <= {""}:
        return "No days were held out, so the scores describe the fit and not the skill on unseen days."
    if len(said) == 1:
        return f"Held out and never shown to the solver: {next(iter(said))}."
    return "Held out and never shown to the solver: " + "; ".join(
        f"{text or 'no days'} for {_join(names)}" for text, names in said.items()) + "."


def _day(date: pd.Timestamp) -> str:
    return f"{date.day} {date:%B %Y}"


def _cost_sentence(ds: xr.Dataset) -> str:
    if "cost" not in ds:
        return "No history of the cost was kept."
    total = ds["cost"].sum("term", skipna=False).values
    total = total[np.isfinite(total)]
    if not len(total):
        return "The cost was never finite."
    first, last = number_text(total[0], 4), number_text(total[-1], 4)
    return f"The cost went from {first} to {last} in {len(total) - 1} iterations."


def _score_sentences(ds: xr.Dataset) -> Iterator[str]:
    for stream in plot.streams(ds):
        for site in plot.sites(ds):
            unit = f" {_units(ds, stream)}".replace(" dimensionless", "").replace(" ", "\u00a0")
            name = _quantity(ds, stream) + (f" at {site}" if len(plot.sites(ds)) > 1 else "")
            parts = []
            for period, words in (("calibrated", "on calibrated days"), ("held_out", "on held-out days")):
                table = _score(ds, stream, site, period) if "score" in ds else None
                if table is not None:
                    before, after = table["rmse"]
                    parts.append(f"from {number_text(before)} to {number_text(after)}{unit} {words}")
            if parts and len(plot.sites(ds)) < 4:
                yield f"The RMSE of {name} went {_join(parts)}."


def _warnings(ds: xr.Dataset) -> str:
    found = _attribute(ds, "warnings", [])
    if not found:
        return "<p>The calibration raised no warnings.</p>" if "warnings" in ds.attrs else (
            "<p>No warnings were recorded with this calibration.</p>")
    items = "".join(f"<li>{escape(str(sentence))}</li>" for sentence in found)
    heading = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    return f'<aside class="warnings" role="note" aria-label="Warnings"><h2>{heading}</h2><ul>{items}</ul></aside>'


# --------------------------------------------------------------------------------------------------------------- scores

def _scores(ds: xr.Dataset) -> str:
    if "score" not in ds:
        return "<p>No scores were kept.</p>"
    rows, missing = [], []
    held = any(table["held_out"].any() for stream in plot.streams(ds) for table in plot.records(ds, stream))
    for stream, site in product(plot.streams(ds), plot.sites(ds)):
        for period in PERIODS if held else ["calibrated"]:
            table = _score(ds, stream, site, period)
            if table is None:
                missing.append(f"{_quantity(ds, stream)} at {site}, {PERIODS[period]}")
            else:
                rows.append(_score_row(ds, stream, site, period, table))
    heads = "".join(f'<th colspan="2" scope="colgroup" class="group">{name}</th>' for name in METRICS.values())
    pairs = '<th scope="col" class="group">before</th><th scope="col">after</th>' * len(METRICS)
    note = f"<p>No observations, and so no scores, for: {escape('; '.join(missing))}.</p>" if missing else ""
    if any("not known" in row for row in rows):
        note += "<p>“Not known” marks a score that cannot be computed, as χ² where no error is given.</p>"
    if not held:
        note += "<p>No days were held out: the table describes the calibrated days alone.</p>"
    if not rows:
        return note
    head = ('<tr><th rowspan="2" scope="col" class="left">Stream</th>'
            '<th rowspan="2" scope="col" class="left">Days</th>'
            f'<th rowspan="2" scope="col">n</th>{heads}</tr><tr>{pairs}</tr>')
    return (_table("Scores of the prior run (before) and of the calibrated run (after).", head, rows)
            + "<p><small>n: number of observed values. RMSE and bias (model minus observation): in the unit of the "
            "stream. r: correlation. KGE: Kling–Gupta efficiency, 1 is perfect; it says little where the "
            "observed mean is near zero. χ²: mean squared residual over the "
            f"total error variance; near 1 when the stated errors are right.</small></p>{note}")


def _table(caption: str, head: str, rows: Sequence[str]) -> str:
    return (f'<div class="wide" tabindex="0"><table><caption><span>{caption}</span></caption><thead>{head}</thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>")


def _score_row(ds: xr.Dataset, stream: str, site: str, period: str, table: pd.DataFrame) -> str:
    largest = np.nanmax([0, *table["rmse"]])
    decimals = {"rmse": decimals_of(largest, 3), "bias": decimals_of(largest, 3), "kge": 2, "chi_square": 2}
    cells = "".join(f'<td{" class=group" if stage == "prior" else ""}>'
                    f"{fixed_text(table.loc[stage, metric], decimals.get(metric, 3))}</td>"
                    for metric in METRICS for stage in ("prior", "posterior"))
    held = ' class="held"' if period == "held_out" else ""
    return (f'<tr{held}><th scope="row">{escape(_quantity(ds, stream))} <small>{escape(_units(ds, stream))}, '
            f'{escape(site)}</small></th><td class="left">{PERIODS[period]}</td><td>{fixed_text(table["n"].max())}</td>'
            f"{cells}</tr>")


# -------------------------------------------------------------------------------------------------------------- figures

def image(figure: Figure, alt: str, caption: str, index: int, dpi: int) -> str:
    """A figure with its caption as HTML, the picture inside."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    # Line art needs few colours: a palette keeps the file at a third of its size.
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(200, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "png", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    width, height = (round(100 * inches) for inches in figure.get_size_inches())
    return (f'<figure><div class="wide" tabindex="0"><img width="{width}" height="{height}" alt="{escape(alt)}" '
            f'src="data:image/png;base64,{data}"></div>'
            f"<figcaption><b>Figure {index}.</b> {escape(caption)}</figcaption></figure>")


def _figures(ds: xr.Dataset) -> Iterator[str]:
    # Twice the size on the page, unless many sites would make the file heavy.
    dpi = 200 if len(plot.streams(ds)) * len(plot.sites(ds)) <= 8 else 120
    groups = [(_quantity(ds, stream), _stream_figures(ds, stream)) for stream in plot.streams(ds)]
    index = 0
    for heading, drawn in [*groups, ("Parameters and cost", _parameter_figures(ds))]:
        yield f"<h3>{escape(heading[:1].upper() + heading[1:])}</h3>"
        for figure, alt, caption in drawn:
            index += 1
            yield image(figure, alt, caption, index, dpi)
    if "correlation" not in ds:
        yield "<p>No posterior correlation was kept.</p>"


def _stream_figures(ds: xr.Dataset, stream: str) -> Iterator[tuple[Figure, str, str]]:
    """Figures of one stream, each with its text for those who cannot see it and its caption."""
    name, pooled = _quantity(ds, stream), "" if len(plot.sites(ds)) == 1 else " All sites are pooled."
    for site in plot.sites(ds):
        yield (plot.series(ds, stream, site), f"Time series of observed and modelled {name} at {site}.",
               _series_caption(ds, stream, site))
    if not any(table["observed"].notna().any() for table in plot.records(ds, stream)):
        return
    yield (plot.seasonal(ds, stream), f"Mean seasonal cycle of observed and modelled {name}.",
           f"Mean seasonal cycle of {name} in bins of ten days, over the days with an observation. Bars: standard "
           f"deviation between the years of the observed means.{pooled}")
    yield (plot.residuals(ds, stream), f"Four diagnostics of the residuals of {name}.",
           f"Residuals of {name}: observed minus calibrated (MAP) run. (a) Divided by the total error; a right error "
           "follows N(0, 1), and values beyond ±5 are counted at the edges. (b) Autocorrelation; what stands above the "
           "grey range is memory that an uncorrelated error does not describe. (c) Against the modelled value. "
           f"(d) Mean by month.{pooled}")


def _series_caption(ds: xr.Dataset, stream: str, site: str) -> str:
    means = (f" Above: means over {plot.WINDOW} days, model and observation over the same days, with the standard "
             "error that independent measurement errors give. Below: the calibrated and the held-out year with most "
             "observations, daily.") if len(plot.records(ds, stream, site)[0]) > plot.DAILY_AT_MOST else ""
    return (f"Observed and modelled {_quantity(ds, stream)} at {site}: observations with their measurement error, the "
            f"run with prior parameters, and the predictive median with its 90 % bands.{means}")


def _parameter_figures(ds: xr.Dataset) -> Iterator[tuple[Figure, str, str]]:
    truth = " Dotted: the truth of this twin experiment." if "truth" in ds else ""
    some = "" if ds.sizes["parameter"] <= SHOWN_AT_MOST else (
        f" Shown are the {SHOWN_AT_MOST} parameters whose spread was reduced most.")
    yield (plot.parameters(ds), "Prior and posterior density of each parameter.",
           "Prior (dashed) and posterior (filled) density of each parameter, each scaled to its own peak. Axes are "
           "logarithmic, and the densities then per logarithm, where the bounds span more than a factor of 30. "
           f"Triangle: MAP.{truth}{some}")
    if "correlation" in ds and ds.sizes["parameter"] > 1:
        yield (plot.correlation(ds), "Matrix of the posterior correlation between parameters.",
               f"Posterior correlation between parameters. {_strongest(ds)}{some}")
    if "cost" in ds:
        yield (plot.cost(ds), "Cost and its terms against the iteration.",
               "Cost J and its terms against the iteration. A term of exactly zero (the prior term where it "
               "starts) has no place on the logarithmic axis.")


def _strongest(ds: xr.Dataset, pairs: int = 4) -> str:
    matrix = ds["correlation"].values
    rows, columns = np.tril_indices(len(matrix), -1)
    order = np.argsort(-np.nan_to_num(np.abs(matrix[rows, columns])))[:pairs]
    names = ds["parameter"].values
    return "Strongest: " + "; ".join(f"{names[column]} and {names[row]} ({number_text(matrix[row, column], 2)})"
                                     for row, column in zip(rows[order], columns[order], strict=True)) + "."


# ----------------------------------------------------------------------------------------------------------- parameters

def _parameters(ds: xr.Dataset) -> str:
    columns = ["Default", "Prior<br>median ± sd", "MAP", "Posterior<br>median ± sd", "Truth", "sd reduced<br>by"]
    columns = [name for name in columns if name != "Truth" or "truth" in ds]
    head = "".join(f'<th scope="col">{name}</th>' for name in columns)
    return _table("Parameters before and after calibration (sd: standard deviation). “sd reduced by” compares "
                  "posterior with prior in whitened space, where every prior is N(0, 1).",
                  f'<tr><th scope="col" class="left">Parameter</th>{head}'
                  '<th scope="col" class="left">Remarks</th></tr>',
                  [_parameter_row(ds.sel(parameter=name), str(name)) for name in ds["parameter"].values])


def _ratio(one: xr.Dataset, value: dict[str, float]) -> float:
    """Posterior over prior standard deviation of one parameter: in whitened space, where any prior has one, if known.

    Without it: a wide log-uniform prior has nearly all its variance in its top decade, where a posterior would look unconstrained
    however narrow it is; there the deviations of the logarithm are compared.
    """
    if "z_sd" in one:
        return float(one["z_sd"])
    if {"theta", "prior_theta"} <= set(one) and logarithmic(np.array(value["lower"]), np.array(value["upper"])):
        posterior, prior = (np.nanstd(np.log(one[name].values)) for name in ("theta", "prior_theta"))
    else:
        posterior, prior = value["posterior_sd"], value["prior_sd"]
    return posterior / prior if prior > 0 else np.nan


def _parameter_row(one: xr.Dataset, name: str) -> str:
    keys = ("default", "lower", "upper", "prior_median", "prior_sd", "map", "posterior_median", "posterior_sd", "truth")
    value = {key: float(one[key]) if key in one else np.nan for key in keys}
    ratio = _ratio(one, value)
    near = [near_bound(value[key], value["lower"], value["upper"]) for key in ("map", "posterior_median")]
    remarks = ["not constrained by these data"] if ratio > UNCONSTRAINED else []
    remarks += [f"near its {bound} bound, {number_text(value[bound])}" for bound in ("lower", "upper") if bound in near]
    unit = unit_text(str(one["unit"].values)).replace(" ", "\u00a0") if "unit" in one else "unit not recorded"
    words = f"<small>{escape(str(one['description'].values))}</small>" if "description" in one else ""
    cells = [number_text(value["default"]), spread_text(value["prior_median"], value["prior_sd"]),
             number_text(value["map"]), spread_text(value["posterior_median"], value["posterior_sd"]),
             *([number_text(value["truth"])] if "truth" in one else []),
             f"{fixed_text(100 * (1 - ratio), int(ratio < 0.01))} %" if np.isfinite(ratio) else "not known"]
    return (f'<tr><th scope="row">{escape(name)} <span class="unit">({escape(unit)})</span>{words}</th>'
            + "".join(f"<td>{cell}</td>" for cell in cells)
            + f'<td class="text flag">{escape("; ".join(remarks))}</td></tr>')


# ----------------------------------------------------------------------------------------------- problem and provenance

def _problem(ds: xr.Dataset) -> str:
    tree = ds.attrs.get("problem")
    return f"<pre>{escape(str(tree))}</pre>" if tree else "<p>The problem's tree was not recorded.</p>"


def _provenance(ds: xr.Dataset) -> str:
    attrs = ds.attrs
    facts = {"Command": f"<code>{escape(str(attrs['command']))}</code>" if "command" in attrs else "not recorded",
             "Seed": escape(str(attrs.get("seed", "not recorded")))}
    for name, heading in (("versions", "Versions"), ("counts", "Counts"), ("seconds", "Seconds")):
        content = _attribute(ds, name, {})
        facts[heading] = escape(", ".join(f"{key.replace('_', ' ') if name != 'versions' else key} {_plain(value)}"
                                          for key, value in content.items())) or "not recorded"
    history = [line for line in str(attrs.get("history", "")).splitlines() if line.strip()]
    facts["What was done to the data"] = "<br>".join(map(escape, history)) or "not recorded"
    listed = "".join(f"<dt>{heading}</dt><dd>{content}</dd>" for heading, content in facts.items())
    files = _attribute(ds, "data", [])
    data = "".join(map(_data_file, files)) or "<p>No data files were recorded.</p>"
    return f"<dl>{listed}</dl><h3>Data</h3>{data}"


def _plain(value: object) -> str:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int | float) else str(value)


def _data_file(file: dict) -> str:
    rows = []
    for key, heading in (("source", "Source"), ("license", "Licence"), ("citation", "Citation"), ("sha256", "SHA256")):
        text = escape(str(file.get(key) or "not recorded"))
        if text.startswith(("https://", "http://")):
            text = f'<a href="{text}" rel="noreferrer">{text}</a>'
        rows.append(f"<dt>{heading}</dt><dd>{f'<code class=hash>{text}</code>' if key == 'sha256' else text}</dd>")
    return f"<h4>{escape(str(file.get('file', 'unnamed file')))}</h4><dl>{''.join(rows)}</dl>"
