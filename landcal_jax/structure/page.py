"""The page of a structural report: one HTML file, in the style of the report of a calibration, with its figures inside."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

from landcal_jax.report import STYLE, image
from landcal_jax.structure import figures
from landcal_jax.structure.endings import KINDS
from landcal_jax.structure.findings import Examined, Finding
from landcal_jax.structure.signals import quantity_words

HEADINGS = {
    "ended": "How the calibration ended", "cause": "What is most likely wrong", "alternative": "Other explanations of the same residuals",
    "sign": "What shows it", "candidate": "Candidates", "quiet": "Tested and quiet"}
SHOWN = 12  # signs without alarm that are listed
CAPTIONS = {
    "cause": "Left: residuals in bins of the signal of the candidate, both without what the calibrated parameters can make; a right model "
             "leaves no slope. Right: mean residual by month, before and after calibration with the candidate.",
    "consistency": "Size of the whitened residuals over what is expected after calibration. Circles: chi-square; diamonds: the ratio of "
                   "Desroziers et al. (2005), whose R is that of the residuals and innovations. Right errors lie at one.",
    "memory": "Autocorrelation of the whitened residuals; dashed: 95 % range of chance. Errors that are described right leave none.",
    "seasons": "Mean whitened residual by month and by year, with standard errors.",
    "predictive": "Statistics of replicated observations, drawn from the posterior and the errors R, and of the observed ones.",
    "conflict": "Left: where the calibration on this part alone would put the parameters. Right: chi-square per value of all parts, one if "
                "model and errors are right.",
    "parameters": "Where the parameters stand in their priors. What lies outside the shade was not expected; near the bounds of a "
                  "bounded prior distances grow without limit.",
    "directions": "Directions of the control space, from the best seen to the unseen. Below the dashed line the prior says more than the "
                  "data.",
    "failed": "Runs over the prior that failed, in the two parameters that tell them best from the others.",
    "starts": "J at the end of every start of the solver.",
}


def write(findings: Examined, path: str | Path) -> Path:
    """Write the report to `path`, an HTML file, and return that path."""
    path = Path(path)
    path.write_text(render(findings), encoding="utf-8")
    return path


def render(findings: Examined) -> str:
    """The report as one HTML document."""
    title = escape(findings.title)
    causes, others = ([each for each in findings if each.kind == kind] for kind in ("cause", "alternative"))
    ended = [each for each in findings if each.kind in KINDS]
    rest = [each for each in findings if not each.cause and each.kind not in KINDS]
    signs, quiet = ([each for each in rest if each.alarm == loud] for loud in (True, False))
    counter = _Figures(findings)
    sections = {
        "ended": _list(ended) + "".join(counter.of(ended)) if ended else "",
        "cause": _list(causes) + "".join(counter.of(causes)) if causes else "",
        "alternative": _alternatives(others) + "".join(counter.of(others[:1])) if others else "",
        "sign": _list(signs) + "".join(counter.of(signs)) if signs else "",
        "candidate": _candidates(findings, counter),
        "quiet": _quiet(quiet) + "".join(counter.rest())}
    sections = {name: body for name, body in sections.items() if body}
    links = "".join(f'<li><a href="#{name}">{HEADINGS[name]}</a></li>' for name in sections)
    main = "".join(f'<section id="{name}"><h2>{HEADINGS[name]}</h2>{body}</section>' for name, body in sections.items())
    notes = "".join(f"<p>{escape(note)}</p>" for note in findings.notes)
    return (f'<!DOCTYPE html><html lang="en-GB"><head><meta charset="utf-8"><title>{title}</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            f'style-src \'unsafe-inline\'"><style>{STYLE}{MORE}</style></head><body><header><h1>{title}</h1></header>'
            f'<main><section id="summary">{_summary(findings)}{notes}</section><nav aria-label="Contents"><ul>{links}</ul></nav>'
            f"{main}</main></body></html>\n")


MORE = """
ol.findings { padding-left: 1.4rem; max-width: 50rem; } ol.findings li { margin: .8rem 0; }
.next { display: block; color: #333; margin-top: .2rem; } .next b { font-weight: 600; }
.verdict { border-left: 5px solid #b34700; background: #fdf1e7; padding: .6rem 1rem; }
.verdict.quiet { border-color: #00714f; background: #edf6f2; }
"""


def _summary(findings: Examined) -> str:
    if findings.quiet:
        return f'<div class="verdict quiet"><p>{escape(findings.sentences[0])}</p></div>'
    number = len(findings.alarms)
    more = f" There {'are' if number > 2 else 'is'} {number - 1} further finding{'s' * (number > 2)} below." if number > 1 else ""
    top = findings.top
    return (f'<div class="verdict"><p><b>{escape(top.sentence)}</b></p><p>What to do next: {escape(top.advice)}{more}</p></div>'
            "<p>Causes are candidates for what the model lacks, tested against the residuals of the calibrated model and calibrated anew; "
            f"signs are what can be seen of it. Of right models with right errors {100 * findings.chance:.3g} % of the reports have an "
            "alarm of a test; what is said of the solve, of chains, emulators and failed runs is no test, and apart from this chance.</p>")


def _list(found: list[Finding]) -> str:
    items = "".join(f'<li>{escape(each.sentence)}<span class="next"><b>Next:</b> {escape(each.advice)}</span></li>' for each in found)
    return f'<ol class="findings">{items}</ol>'


def _alternatives(found: list[Finding]) -> str:
    items = "".join(f"<li>{escape(each.sentence)}</li>" for each in found)
    return ("<p>One error moves many candidates. These explain less of the residuals than the cause above; what is left of them is "
            f'seen when that is mended and the model examined again.</p><ol class="findings">{items}</ol>')


def _quiet(found: list[Finding]) -> str:
    shown, rest = found[:SHOWN], len(found) - SHOWN
    more = f"<p>And {rest} further tests without an alarm.</p>" if rest > 0 else ""
    items = "".join(f"<li>{escape(each.sentence)}</li>" for each in shown)
    return f"<p>No alarm, in the order of their p-values.</p><ul>{items}</ul>{more}" if shown else ""


def _candidates(findings: Examined, counter: "_Figures") -> str:
    scores = findings.scores
    if not len(scores.t):
        return "<p>No candidate could be told from the parameters.</p>"
    return (f"<p>{len(scores.t)} candidates can be told from what the parameters do: biases of drivers, responses of processes, biases of "
            "observations. Each is tested by its score at the optimum; t is N(0, 1) if the model is right.</p>"
            + counter.one(figures.evidence(findings), "Candidates by their test statistic.",
                          "The strongest candidate of each group, by the test before any calibration anew. If one exceeds its threshold, "
                          "the likely ones are calibrated anew, and the explanations above are ordered by what that gives."))


class _Figures:
    """Numbers the figures of the page and draws each once."""

    def __init__(self, findings: Examined):
        self.findings, self.number, self.drawn = findings, 0, set()

    def one(self, figure, alt: str, caption: str) -> str:
        self.number += 1
        return image(figure, alt, caption, self.number, 160)

    def of(self, found: list[Finding]) -> Iterator[str]:
        for each in found:
            own = each.figure in ("cause", "predictive", "conflict")
            key = (each.figure, each.subject if own else "")
            if not each.figure or key in self.drawn or (each.figure == "starts" and "end_cost" not in each.numbers):
                continue
            self.drawn.add(key)
            draw = getattr(figures, each.figure)
            words = quantity_words(each.subject)
            caption = f"{words[:1].upper()}{words[1:]}: {CAPTIONS[each.figure]}" if own else CAPTIONS[each.figure]
            yield self.one(draw(self.findings, each) if own else draw(self.findings), each.sentence, caption)

    def rest(self) -> Iterator[str]:
        """The figures of what was tested and is quiet, one of each kind."""
        kinds = {each.figure: each for each in reversed(self.findings.found) if each.figure not in ("", "cause")}
        yield from self.of([each for name, each in kinds.items() if name not in {drawn for drawn, _ in self.drawn}])
