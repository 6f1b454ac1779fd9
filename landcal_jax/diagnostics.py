"""Whether draws of a sampler can be trusted, in numbers and in sentences that say what to do.

    found = diagnose(nuts(problem, result))
    print(found)                        # the table, and a sentence for each finding
    found.passed                        # whether there is none

R-hat and effective sample sizes are those of ArviZ: rank-normalised R-hat of the halves of chains, bulk and tail (Vehtari et al. 2021,
Bayesian Analysis 16, 667).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.posterior import Posterior

LIMIT_RHAT = 1.01
LEAST_ESS = 400
"""Vehtari et al. 2021: below 100 draws for each of four chains R-hat and the quantiles are not reliable themselves."""
LIMIT_SATURATED = 0.05
"""Share of draws whose tree was as deep as it may be."""
UNORDERED = ("log_evidence", "effective")
"""Details that particles and draws by weights have, and chains have not."""
NAMED = 5


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found: `table`, a Dataset over `parameter`; `sentences`; `passed`, whether there is nothing to mend.

    `table` has `rhat`, `ess_bulk`, `ess_tail` (5 % and 95 % quantiles), `mean`, `sd` and `mcse_mean` (Monte Carlo standard error), the last
    three in units of the parameter, and in its attributes `chains`, `draws` of each, `divergences` and `saturated`, the share of draws
    whose tree was as deep as it may be.
    """

    table: xr.Dataset
    sentences: tuple[str, ...]
    passed: bool

    def to_dataframe(self) -> pd.DataFrame:
        """The table by parameter, the slowest one first."""
        return self.table.to_dataframe().sort_values("ess_bulk")

    def __str__(self) -> str:
        table = self.to_dataframe()[["mean", "sd", "rhat", "ess_bulk", "ess_tail"]]
        formats = {"mean": "{:.4g}".format, "sd": "{:.2g}".format, "rhat": "{:.3f}".format,
                   "ess_bulk": "{:.0f}".format, "ess_tail": "{:.0f}".format}
        return "\n".join([table.to_string(formatters=formats), "", *self.sentences])


def diagnose(posterior: Posterior) -> Diagnosis:
    """R-hat, effective sample sizes, divergences and tree depths of the chains of a posterior, and what its sampler warned of.

    A parameter that does not move has no R-hat and no effective sample size: its figures are NaN, and a sentence names it.
    Raises ValueError for a posterior without chains, such as a Gaussian, particles and draws by weights, for fewer than four draws in each
    chain, and where draws are not finite.
    """
    number = len(posterior.z) // posterior.chains
    if posterior.chains == 1 and any(name in posterior.details for name in UNORDERED):
        note = str(posterior.details.get("note", ""))
        raise ValueError(complain("draws of Markov chains", f"{posterior.method}, whose draws have no order and no memory",
                                  "posterior.details[\"note\"], which says whether they can be trusted" + (f": {note}" if note else "")))
    if posterior.gaussian or "log_density" not in posterior.details and posterior.chains == 1:
        raise ValueError(complain("draws of Markov chains", posterior.method, "nuts(problem, result), or importance() of a Gaussian"))
    # Turns of periodic parameters are independent draws, which would hide how the chains themselves moved.
    z = np.asarray(posterior.details.get("z_one_turn", posterior.z)).reshape(posterior.chains, number, -1)
    if number < 4 or not np.isfinite(z).all():
        raise ValueError(complain("four or more finite draws of each chain", f"{number}, {(~np.isfinite(z)).sum()} values not finite",
                                  "more draws"))
    table = _table(posterior, z)
    details = posterior.details
    diverging = np.asarray(details.get("diverging", np.zeros(len(posterior.z), bool)))
    deepest = int(details["max_tree_depth"]) if "max_tree_depth" in details else None
    saturated = 0.0 if deepest is None else float(np.mean(np.asarray(details["tree_depth"]) >= deepest))
    table.attrs = {"chains": posterior.chains, "draws": number, "divergences": int(diverging.sum()), "saturated": saturated,
                   "method": posterior.method}
    wrong = [*_of_sampler(details), *_of_movement(z, table), *_of_agreement(table), *_of_length(table),
             *_of_divergences(posterior, diverging), *_of_depth(saturated, deepest)]
    largest, bulk, tail = float(table["rhat"].max()), float(table["ess_bulk"].min()), float(table["ess_tail"].min())
    good = (f"{posterior.chains} chains of {number} draws agree: the largest R-hat is {largest:.3f}, the smallest effective sample size "
            f"{bulk:.0f} (bulk) and {tail:.0f} (tail).")
    return Diagnosis(table, (*(wrong or [good]), *_of_starts(details)), not wrong)


def _table(posterior: Posterior, z: np.ndarray) -> xr.Dataset:
    from arviz_stats.base import array_stats  # here, because most users of the package never sample

    labels = list(posterior.problem.space.labels)
    axes = {"chain_axis": 0, "draw_axis": 1}
    theta = posterior.matrix().reshape(z.shape)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        # A parameter that does not move is divided by its spread of zero; `_of_movement` says so in a sentence.
        warnings.simplefilter("ignore", RuntimeWarning)
        columns = {
            # Of z and not of theta: ranks are the same where parameters are independent a priori, and z has no bounds.
            "rhat": array_stats.rhat(z, **axes) if len(z) > 1 else np.full(z.shape[2], np.nan),
            "ess_bulk": array_stats.ess(z, method="bulk", **axes), "ess_tail": array_stats.ess(z, method="tail", prob=(0.05, 0.95), **axes),
            "mcse_mean": array_stats.mcse(theta, method="mean", **axes)}
    columns = {name: np.where(_stuck(z), np.nan, np.asarray(values)) for name, values in columns.items()}
    columns |= {"mean": theta.mean(axis=(0, 1)), "sd": theta.std(axis=(0, 1), ddof=1)}
    return xr.Dataset({name: ("parameter", values) for name, values in columns.items()}, {"parameter": labels})


def _stuck(z: np.ndarray) -> np.ndarray:
    """Parameters (n,) that have one value in all of a chain, of z (chain, draw, n)."""
    return (np.ptp(z, axis=1) == 0).any(axis=0)


def _named(table: xr.Dataset, name: str, wrong: np.ndarray, worst: int) -> str:
    """The worst of these parameters with their figures; `worst` is 1 where large is bad, -1 where small is."""
    values = table[name].values
    order = [i for i in np.argsort(-worst * values) if wrong[i]]
    text = ", ".join(f"{table['parameter'].values[i]} {values[i]:.{3 if name == 'rhat' else 0}f}" for i in order[:NAMED])
    return text + (f" and {len(order) - NAMED} more" if len(order) > NAMED else "")


def _of_sampler(details: Mapping) -> list[str]:
    """What the sampler itself warned of."""
    return [str(details["warning"])] if "warning" in details else []


def _of_starts(details: Mapping) -> list[str]:
    """What no agreement of chains can show: it is said whatever else was found."""
    if "starts" not in details:
        return []
    return [f"All chains began {details['starts']}: that they agree says nothing of other modes. smc(problem) looks for these."]


def _of_movement(z: np.ndarray, table: xr.Dataset) -> list[str]:
    still, labels = (np.ptp(z, axis=1) == 0), table["parameter"].values
    found = []
    stuck = np.flatnonzero(still.any(axis=0))
    if stuck.size:
        names = ", ".join(labels[stuck[:NAMED]]) + (f" and {stuck.size - NAMED} more" if stuck.size > NAMED else "")
        where = "all chains" if still[:, stuck].all() else f"{int(still[:, stuck].any(axis=1).sum())} of {len(z)} chains"
        found.append(f"Parameters did not move: {names} had one value in {where}. Nothing is known of their posterior: start from "
                     "another result, or look at the acceptance and the step of the sampler.")
    odd = ~still.any(axis=0) & ~np.isfinite(table["ess_bulk"].values + table["ess_tail"].values)
    if len(z) > 1:
        odd |= ~still.any(axis=0) & ~np.isfinite(table["rhat"].values)
    if odd.any():
        found.append(f"Parameters moved too little to be judged: R-hat or the effective sample size of {', '.join(labels[odd][:NAMED])} "
                     "is not finite. Run more draws, and plot them by chain.")
    return found


def _of_agreement(table: xr.Dataset) -> list[str]:
    if table.attrs["chains"] == 1:
        return ["One chain cannot be compared with others: run four, nuts(problem, result, chains=4)."]
    values = table["rhat"].values
    wrong = values > LIMIT_RHAT
    if not wrong.any():
        return []
    said = f"Chains disagree: R-hat is above {LIMIT_RHAT} for {_named(table, 'rhat', wrong, 1)}."
    if np.nanmax(values) > 1.2:
        return [f"{said} They sit in different places, such as separate modes: plot the draws by chain, compare with smc(problem), which "
                "visits all modes, and look whether the prior lets a parameter have the same effect twice."]
    return [f"{said} They are too short: twice as many draws, or more."]


def _of_length(table: xr.Dataset) -> list[str]:
    found = []
    for name, what, use in (("ess_bulk", "bulk", "means and medians"), ("ess_tail", "tail", "the ends of 90 % intervals")):
        wrong = table[name].values < LEAST_ESS
        if wrong.any():
            least = max(float(table[name].min()), 1.0)
            draws = int(np.ceil(1.2 * table.attrs["draws"] * LEAST_ESS / least / 100) * 100)
            found.append(f"Few independent draws ({what}): the effective sample size is below {LEAST_ESS} for "
                         f"{_named(table, name, wrong, -1)}; {use} of these are uncertain. Some draws={draws} would do.")
    return found


def _of_divergences(posterior: Posterior, diverging: np.ndarray) -> list[str]:
    if not diverging.any():
        return []
    z, labels = np.asarray(posterior.z), posterior.problem.space.labels
    # Where they begin is where chains do not get in: the parameters whose values there differ most from the others.
    away = np.abs(np.median(z[diverging], axis=0) - np.median(z, axis=0)) / np.maximum(z.std(axis=0), 1e-300)
    where = ", ".join(labels[i] for i in np.argsort(-away)[:3])
    share = diverging.mean()
    advice = ("target_accept=0.95" if share < 0.02 else
              "target_accept=0.95 first, and if they stay, narrower priors there, or a smoothed kink of the model")
    number = f"{int(diverging.sum())} of {len(diverging)} draws diverged ({share:.1%})"
    return [f"{number}, mostly away from the others in {where}: regions there may be missing from the posterior. Try {advice}."]


def _of_depth(saturated: float, deepest: int | None) -> list[str]:
    if saturated <= LIMIT_SATURATED:
        return []
    return [f"{saturated:.0%} of the draws used the deepest tree that is allowed (max_tree_depth={deepest}): they are correlated, not "
            f"wrong. Allow {deepest + 2}, or give nuts a longer warm-up (warmup=64)."]
