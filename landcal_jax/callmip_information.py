"""The model information that CalLMIP asks of every group (section 12 of the protocol), filled from the run.

Fourteen questions. What the calibration knows is written from it; what only the group can say is marked as such, never
guessed. The group answers by key: `write_callmip(..., information={"operational_set": "..."})`; such an answer takes the
place of what the run says.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from landcal_jax.calibration import Calibration
from landcal_jax.errors import complain
from landcal_jax.forward import SiteForward
from landcal_jax.io.callmip.output import IN_WORDS, SCENARIOS, scenario_in_words

OPEN = "to be said by the group"
ENDINGS = ("_model_information.md", "_model_information.json", "_parameters.csv")
QUESTIONS = {
    "model": "The model, its version and references",
    "processes": "Nitrogen cycle, fire, dynamic vegetation",
    "nitrogen_input": "Nitrogen deposition and fertilisation, if there is a nitrogen cycle",
    "method": "Method of parameter estimation, with equations and set-up",
    "parameter_selection": "How parameters were selected, and how many of how many",
    "parameters": "Table of the calibrated parameters",
    "spin_up": "Spin-up beyond that of the protocol",
    "initial_conditions": "How biased initial conditions are dealt with",
    "several_streams": "How several data streams are combined",
    "operational_set": "How one set of parameters for global runs is made",
    "pfts": "All plant functional types of a site, or the dominant one",
    "other_uncertainties": "Other sources of uncertainty in the calibration",
    "scenarios": "Optional scenarios",
    "lai": "Leaf area prescribed or prognostic",
}
# What is true of every run of a model of this package, by class.
_DALEC = {
    "processes": "No nitrogen cycle. No dynamic vegetation.", "nitrogen_input": "Not applicable: the model has no nitrogen cycle.",
    "pfts": "The model has no plant functional types: one vegetation a site, whose parameters are calibrated.",
    "lai": "Prognostic: the foliar carbon pool over the leaf mass per area."}
FACTS = {
    "Dalec2": _DALEC | {"model": "DALEC2, model 400 of CARDAMOM: six carbon pools (Bloom and Williams 2015, Biogeosciences 12, 1299)."},
    "DalecWater": _DALEC | {"model": "DALEC with water, model 1005 of CARDAMOM: six carbon pools and two water stores (Bloom and Williams "
                                     "2015, Biogeosciences 12, 1299; Yang et al. 2022, Geoscientific Model Development 15, 1789)."}}


class Item(NamedTuple):
    """One question with its answer; `open`: only the group can say it, or a part of it."""

    number: int
    key: str
    question: str
    answer: str
    open: bool


def check(information: Mapping[str, str]) -> None:
    """Raise ValueError for an answer to no question."""
    unknown = sorted(set(information) - set(QUESTIONS))
    if unknown:
        raise ValueError(complain(f"answers by the keys {', '.join(QUESTIONS)}", ", ".join(unknown), "correct the keys of information="))


def items(calibration: Calibration, forward: SiteForward, scenario: int, information: Mapping[str, str]) -> list[Item]:
    """The fourteen questions, answered by the group, else by the run, else open."""
    check(information)
    said = FACTS.get(type(forward.model).__name__, {}) | _from_run(calibration, forward, scenario)
    found = []
    for number, (key, question) in enumerate(QUESTIONS.items(), 1):
        answer = information.get(key, said.get(key, OPEN))
        found.append(Item(number, key, question, answer, OPEN in answer))
    return found


def _from_run(calibration: Calibration, forward: SiteForward, scenario: int) -> dict[str, str]:
    problem, model = calibration.experiment.problem, type(forward.model).__name__
    facts = FACTS.get(model, {})
    return {
        "model": facts.get("model", f"{model}, {_first_line(forward.model)} References: {OPEN}."),
        "processes": f"{facts.get('processes', f'Nitrogen cycle and dynamic vegetation: {OPEN}.')} {_fire(forward)}",
        "method": _method(calibration), "parameter_selection": _selection(problem.space),
        "parameters": f"{problem.space.size} parameters; their table follows, and is in the file that ends with {ENDINGS[2]}. "
                      "No sensitivity analysis was part of this run.",
        "spin_up": _spin_up(forward), "initial_conditions": _initial_conditions(problem.space, forward),
        "several_streams": _streams(problem.observations, scenario), "operational_set": _operational(problem.observations.sites),
        "other_uncertainties": _uncertainties(calibration),
        "scenarios": f"{scenario_in_words(scenario)} is that of this run. Others: {OPEN}."}


def _first_line(model) -> str:
    return (type(model).__doc__ or "a model of the user.").strip().splitlines()[0]


def _fire(forward: SiteForward) -> str:
    if not hasattr(forward.sites.forcing, "burned_fraction"):
        return f"Fire: {OPEN}."
    if forward.sites.forcing.burned_fraction is None:
        return "Fire is not active: the forcing has no burned area."
    return "Fire is driven by the burned area of the forcing, with its emissions in nep."


def _method(calibration: Calibration) -> str:
    result, solver = calibration.result, calibration.about.get("solver", "")
    kinds = {"forward": "forward runs", "gradient": "gradients", "jvp": "tangent-linear products"}
    counts = ", ".join(f"{number} {kinds.get(name, name)}" for name, number in result.counts.items())
    how = (", B' = (G'G + I)^-1 in z with G the Jacobian of whitened residuals where the curvature is that of Gauss-Newton; variances of "
           "the fluxes by the tangent-linear model" if calibration.posterior.gaussian else "; variances of the fluxes by runs of its draws")
    return (
        "Variational: the MAP minimises J(z) = 1/2 z'z + 1/2 (y - H(x))' R^-1 (y - H(x)), x = T(z), where z is the control vector in "
        "whitened space with prior N(0, I), T maps it to bounded physical parameters, H is the model run and its observation operators, "
        "and R holds measurement and model error. Gradients are exact, by automatic differentiation. "
        f"Solver: {solver or OPEN}; {len(result.history['prior']) - 1} iterations; {result.status.sentence}; J = {result.cost:.6g} "
        f"({', '.join(f'{name} {value:.4g}' for name, value in result.terms.items())}); {counts}. "
        f"Posterior: {calibration.posterior.method}{how}.")


def _selection(space) -> str:
    fixed, total = sorted(space.fixed), len(space.layout.labels)
    text = f"{space.size} of {total} parameters of the model are calibrated."
    return f"{text} Fixed at their default: {', '.join(fixed)}." if fixed else f"{text} None was selected or screened."


def _spin_up(forward: SiteForward) -> str:
    if forward.spin_up:
        return ("Each run starts from its equilibrium with the forcing of the record, found as a fixed point for each set of parameters. "
                "No transient run from 1850.")
    return "None: runs start from initial pools that are parameters. No transient run from 1850."


def _initial_conditions(space, forward: SiteForward) -> str:
    pools = [name for name in space.names if name.endswith("_0")]
    if forward.spin_up:
        return "Pools start at equilibrium with the calibrated parameters; no bias of the equilibrium is corrected."
    if not pools:
        return OPEN
    return f"Initial pools are calibrated together with the other parameters: {', '.join(pools)}."


def _streams(observations, scenario: int) -> str:
    lines = []
    for name, stream in observations.items():
        weights = ", ".join(f"{value:.3g}" for value in np.unique(np.asarray(stream.weight)))
        memory = "" if stream.correlation is None else f", errors correlated over {float(stream.correlation.days):.3g} days"
        memory = ", independent errors" if stream.chain is None else memory
        lines.append(f"{name}: {int(stream.count)} values, model error [{stream.units}] {stream.model_error}{memory}, weight {weights}")
    many = "simultaneously, as a sum of terms in J, each by its own part of R" if len(SCENARIOS[scenario]) > 1 else "alone"
    return f"{' and '.join(IN_WORDS[name] for name in SCENARIOS[scenario])} {many}. {'; '.join(lines)}."


def _operational(sites: Sequence[str]) -> str:
    if len(sites) == 1:
        return f"This run calibrates {sites[0]} alone, which makes no operational set: {OPEN}."
    return f"The sites {', '.join(sites)} are calibrated together. How global runs take their parameters from it: {OPEN}."


def _uncertainties(calibration: Calibration) -> str:
    how = "estimated from the residuals" if calibration.experiment.estimate_model_error else "prescribed"
    return (f"Measurement error as provided; model error {how}. Initial conditions as far as they are parameters. Not propagated: errors "
            f"of drivers, boundary conditions and process noise. Any other: {OPEN}.")


def parameter_rows(calibration: Calibration) -> list[dict[str, object]]:
    """One row a calibrated parameter: units, prior, standard deviations, MAP, posterior; in physical units."""
    space, result = calibration.experiment.problem.space, calibration.result
    draws = calibration.posterior.matrix()
    low, high = (np.asarray(side) for side in space.bounds())
    sd = np.concatenate([np.ravel(value) for value in space.prior_sd.values()])[np.asarray(space.layout.free_index)]
    default, middle, found = (np.asarray(space.flatten(theta)) for theta in (space.default_theta, space.prior_median, result.theta))
    families = space.to_dataframe()
    prior = dict(zip(families["name"], families["prior"], strict=True)) if "name" in families else {}
    rows = []
    for index, label in enumerate(space.labels):
        name = label.partition("[")[0]
        about = space.parameters[name]
        rows.append({
            "parameter": label, "description": about.description, "units": about.units, "default": default[index],
            "prior": prior.get(label, prior.get(name, "")), "lower": low[index], "upper": high[index], "prior_median": middle[index],
            "prior_sd": sd[index], "map": found[index], "posterior_mean": draws[:, index].mean(), "posterior_sd": draws[:, index].std()})
    return [{key: float(value) if isinstance(value, np.generic) else value for key, value in row.items()} for row in rows]


def write(found: Sequence[Item], calibration: Calibration, folder: Path, stem: str, remarks: Sequence[str]) -> None:
    """Write the three files `<stem>` + `ENDINGS`: text, the same as JSON, and the parameters as CSV."""
    rows = parameter_rows(calibration)
    (folder / (stem + ENDINGS[0])).write_text(_markdown(found, rows, stem, remarks), encoding="utf-8")
    content = {"files": stem, "items": [item._asdict() for item in found], "parameters": rows, "remarks": list(remarks)}
    (folder / (stem + ENDINGS[1])).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
    with (folder / (stem + ENDINGS[2])).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def _markdown(found: Sequence[Item], rows: Sequence[Mapping[str, object]], stem: str, remarks: Sequence[str]) -> str:
    def cell(value: object) -> str:
        return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")

    left = [item.key for item in found if item.open]
    lines = [f"# Model information of {stem}", "", "Filled from the run by landcal_jax. "
             + (f"Still {OPEN}, in whole or in part: {', '.join(left)}." if left else "Every question is answered."), ""]
    lines += ["| | question | answer |", "|---|---|---|"]
    lines += [f"| {item.number} | {item.question} | {cell(item.answer).replace(OPEN, f'**{OPEN}**')} |" for item in found]
    heads = list(rows[0])
    lines += ["", "## Parameters", "", "| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell(row[head]) for head in heads) + " |" for row in rows]
    if remarks:
        lines += ["", "## Remarks", "", *(f"- {remark}" for remark in remarks)]
    return "\n".join(lines) + "\n"
