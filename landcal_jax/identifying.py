"""Which observation constrains what: identifiability of parameters at the minimum of J, and what is said of it in words.

    ds = identifiability(problem, result)
    print("\\n".join(sentences(ds)))
    plot_identifiability.spectrum(ds), plot_identifiability.streams(ds), plot_identifiability.constrained(ds)

All of it is linear about one point (Gauss-Newton, the Laplace posterior) and counts in the whitened value u of each parameter, whose
prior is N(0, 1): a variance reduction of 0.75 halves the standard deviation of u. It says what the data can see if model and R are right,
never whether they are; and a parameter that is constrained at this point may not be so at another.

References: Rodgers (2000), Inverse Methods for Atmospheric Sounding, chapter 2 (degrees of freedom, information, averaging kernel);
Cardinali, Pezzulli and Andersson (2004), QJRMS 130, 2767 (influence of observations); Brun, Reichert and Kuensch (2001), WRR 37, 1015
(sensitivity and collinearity index). `information` has the algebra, `design` the same for observations that are not yet taken.
"""

import json
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
import pandas as pd
import xarray as xr
from jax import Array
from scipy.special import ndtri

from landcal_jax.errors import complain
from landcal_jax.findings import sentences as sentences
from landcal_jax.information import (
    ALL_DIRECTIONS_UP_TO,
    LEAST,
    Spectrum,
    collinearity_index,
    correlation_of,
    informed_by,
    listed,
    root_of,
    told_apart,
)
from landcal_jax.plot_parameters import near_bound
from landcal_jax.problem import Problem
from landcal_jax.solvers import Result, point_of

NATS_PER_BIT = np.log(2)
COLLINEAR = 10.0  # index above which data alone do not tell parameters apart (Brun et al. 2001: 10 to 15)
MOSTLY = 0.5  # variance reduction from which a parameter counts as constrained in the sentences about streams
MOVED = 1.0  # prior standard deviations from the median from which a parameter of a solved problem counts as moved
GROWS = 1.5  # factor on the standard deviation from which the sentences say that a stream is missed
OWN = 0.1  # by which a correlation differs from that of the prior, to be told as one that the data leave
PAIRS_TOLD = 6


def identifiability(
    problem: Problem, result: Result | Array, *, threshold: float | None = None, unconstrained: float = 0.1,
    correlated: float = 0.8,
) -> xr.Dataset:
    """What the observations of `problem` say about each parameter at `result` (a Result, or z (n,)).

    `threshold`: take only directions with an eigenvalue above it, which are found by products with the tangent-linear and adjoint alone;
    without it all directions of up to 300 parameters, and those above 0.01 of more. `unconstrained`: a variance reduction below it is
    flagged; `correlated`: an absolute posterior correlation above it makes a pair.

    Returns a Dataset over `parameter`, `stream` and `mode` (the directions, the best seen first), every variable with units and a
    `long_name`; `attrs` hold the totals (`degrees_of_freedom`, `information` [nats], `information_bits`) and the `sentences`. The main
    ones: `eigenvalue`, `eigenvector`, `variance_reduction`, `parameter_information`, `averaging_kernel`, `correlation`; by stream
    `reduction_alone` (this stream and the prior), `reduction_lost` and `sd_without` (without it), `stream_information_alone` and
    `_lost`, `stream_degrees_of_freedom`, `influence`; `collinearity_index` of pairs; `displacement` from the prior median (for a Result,
    what the data have moved); the flags `unconstrained`, `at_bound`, `told_apart`.
    Information is independent of the units and transforms of parameters, and never larger than the sum of that of the streams alone.

    R is taken as given: that its numbers were estimated is not counted. Raises TypeError for a model without tangent-linear and for a
    problem with free error parameters (take that of `estimate_errors`, with the errors found), ValueError for thresholds outside 0 to 1
    and derivatives that are not finite.
    """
    for name, value in (("unconstrained", unconstrained), ("correlated", correlated)):
        if not 0 < value < 1:
            raise ValueError(complain(f"a threshold `{name}` between 0 and 1", f"{value}", "leave it out"))
    z, n = point_of(problem, result), problem.space.size
    threshold = LEAST if threshold is None and n > ALL_DIRECTIONS_UP_TO else threshold
    of, names, root = informed_by(problem, z, threshold), problem.observations.names, root_of(problem.space)
    together = of(names)
    alone = {name: of([name]) for name in names}
    without = {name: of([other for other in names if other != name]) for name in names}
    inverse = np.linalg.inv(root)
    ds = xr.Dataset(coords={"parameter": list(problem.space.labels), "parameter_2": list(problem.space.labels),
                            "stream": list(names), "mode": np.arange(1, together.values.size + 1)})
    _add_modes(ds, together, root, inverse)
    _add_streams(ds, problem, together, alone, without, root)
    _add_collinearity(ds, {name: inverse.T @ part.matrix @ inverse for name, part in alone.items()})
    _add_values(ds, problem, z, root)
    ds["unconstrained"] = "parameter", ds["variance_reduction"].values < unconstrained, _about(
        f"the observations reduce the variance by less than {unconstrained:.0%}")
    ds.attrs = {
        "degrees_of_freedom": together.degrees_of_freedom, "information": together.information,
        "information_bits": together.information / NATS_PER_BIT, "unconstrained_below": unconstrained, "correlated_above": correlated,
        "solved": int(isinstance(result, Result)), "threshold": 0.0 if threshold is None else threshold,
        "comment": "linear (Gauss-Newton) about the point `map`, in whitened parameters, whose prior is N(0, 1)"}
    ds.attrs["sentences"] = json.dumps(_findings(ds))
    return ds


def table(ds: xr.Dataset) -> pd.DataFrame:
    """One row a parameter, for print: reductions (all streams, each alone, lost without each) and flags."""
    columns = {"parameter": ds["parameter"].values, "variance_reduction": ds["variance_reduction"].values,
               "information_bits": ds["parameter_information"].values / NATS_PER_BIT}
    for kind in ("alone", "lost"):
        for name in ds["stream"].values:
            columns[f"{kind}: {name}"] = ds[f"reduction_{kind}"].sel(stream=name).values
    kept = ("map", "prior_lower", "prior_upper", "lower", "upper", "unit", "unconstrained", "at_bound")
    return pd.DataFrame(columns | {name: ds[name].values for name in kept})


def _about(long_name: str, units: str = "1") -> dict[str, str]:
    return {"long_name": long_name, "units": units}


def _add_modes(ds: xr.Dataset, together: Spectrum, root: np.ndarray, inverse: np.ndarray) -> None:
    """The spectrum, and the posterior of all streams together by parameter."""
    ds["eigenvalue"] = "mode", together.values, _about(
        "eigenvalue of the prior-preconditioned Gauss-Newton Hessian of the observations: prior variance over error variance")
    ds["mode_degrees_of_freedom"] = "mode", together.values / (1 + together.values), _about("degrees of freedom for signal of the mode")
    ds["eigenvector"] = ("mode", "parameter"), (root @ together.vectors).T, _about(
        "direction of the mode, in prior standard deviations of each parameter")
    covariance = together.covariance(root)
    variance = np.diag(covariance)
    averaging = np.eye(len(root)) - covariance @ inverse.T @ inverse
    ds["variance_reduction"] = "parameter", 1 - variance, _about("share of the prior variance that the observations take away")
    ds["sd_ratio"] = "parameter", np.sqrt(variance), _about("posterior standard deviation over that of the prior")
    ds["parameter_information"] = "parameter", -0.5 * np.log(variance), _about(
        "information gained, minus half the logarithm of posterior over prior variance", "nat")
    ds["averaging_kernel"] = ("parameter", "parameter_2"), averaging, _about(
        "response of the estimate of `parameter` to the true value of `parameter_2`, both in prior standard deviations")
    ds["parameter_degrees_of_freedom"] = "parameter", np.diag(averaging), _about(
        "degrees of freedom for signal of the parameter, the diagonal of the averaging kernel")
    ds["correlation"] = ("parameter", "parameter_2"), correlation_of(covariance), _about("posterior correlation in whitened space")
    ds["prior_correlation"] = ("parameter", "parameter_2"), root @ root.T, _about("prior correlation in whitened space")


def _add_streams(
    ds: xr.Dataset, problem: Problem, together: Spectrum, alone: Mapping[str, Spectrum], without: Mapping[str, Spectrum], root: np.ndarray
) -> None:
    """What each stream says by itself, and what would be lost without it."""
    left = together.variance(root)
    by_parameter, by_stream = ("stream", "parameter"), "stream"
    counts = np.array([int(stream.count) for _, stream in problem.observations.items()])
    # tr(F_s C), the trace of the influence matrix R^-1/2 H C H' R^-1/2 of the stream (Cardinali et al. 2004, eq. 3.4).
    signal = np.array([np.sum(part.values * together.variance(part.vectors.T)) for part in alone.values()])
    ds["count"] = by_stream, counts, _about("observed values")
    ds["reduction_alone"] = by_parameter, np.stack([1 - part.variance(root) for part in alone.values()]), _about(
        "variance reduction by this stream alone")
    ds["reduction_lost"] = by_parameter, np.stack([part.variance(root) - left for part in without.values()]), _about(
        "variance reduction that is lost without this stream")
    ds["sd_without"] = by_parameter, np.sqrt(np.stack([part.variance(root) for part in without.values()]) / left), _about(
        "posterior standard deviation without this stream over that with all")
    ds["stream_information_alone"] = by_stream, [part.information for part in alone.values()], _about(
        "information that this stream brings alone, 1/2 log det (I + G'G)", "nat")
    ds["stream_information_lost"] = by_stream, [together.information - part.information for part in without.values()], _about(
        "information that is lost without this stream", "nat")
    ds["stream_degrees_of_freedom"] = by_stream, signal, _about(
        "share of this stream in the degrees of freedom for signal, the trace of its influence matrix")
    ds["influence"] = by_stream, signal / np.where(counts > 0, counts, np.nan), _about(
        "mean influence of one value of this stream on its own analysis, 0 to 1")


def _add_collinearity(ds: xr.Dataset, parts: Mapping[str, np.ndarray]) -> None:
    """Information about u by stream, and what follows from it without the prior."""
    stacked = np.stack(list(parts.values()))
    matrix, counts = stacked.sum(axis=0), np.maximum(ds["count"].values, 1)
    ds["sensitivity_product"] = ("stream", "parameter", "parameter_2"), stacked, _about(
        "G'G of the stream, G the derivative of whitened residuals in prior standard deviations of each parameter")
    ds["sensitivity"] = ("stream", "parameter"), np.sqrt(np.einsum("sii->si", stacked).clip(0) / counts[:, None]), _about(
        "root mean square change of a whitened value with one prior standard deviation of the parameter")
    length = np.sqrt(np.diag(matrix).clip(0))
    seen = np.outer(length, length) > 0
    cosine = np.divide(matrix, np.outer(length, length), out=np.ones_like(matrix), where=seen)
    # Two columns of length one have the eigenvalues 1 - |c| and 1 + |c|.
    gap = np.where(seen, 1 - np.abs(cosine), 0.0)
    np.fill_diagonal(gap, 1.0)
    index = np.where(gap > 2 * np.finfo(float).eps, 1 / np.sqrt(np.maximum(gap, np.finfo(float).eps)), np.inf)
    ds["collinearity_index"] = ("parameter", "parameter_2"), index, _about(
        "collinearity index of the pair by the data without the prior; above about 10 they are not told apart")
    ds["told_apart"] = "parameter", np.isin(np.arange(len(matrix)), told_apart(matrix, COLLINEAR)), _about(
        f"one of a largest set, by greedy choice, whose collinearity index stays below {COLLINEAR:.0f}")


def _add_values(ds: xr.Dataset, problem: Problem, z: Array, root: np.ndarray) -> None:
    """Where the parameters stand, in physical units: the point, 90 % intervals of prior and posterior, bounds that are near."""
    space = problem.space

    def physical(u: np.ndarray) -> np.ndarray:
        return np.asarray(space.flatten(space.physical(jnp.asarray(np.linalg.solve(root, u)))))

    u, step = root @ np.asarray(z), float(ndtri(0.95))
    names = [label.partition("[")[0] for label in space.labels]
    spread = ds["sd_ratio"].values
    columns = {"map": (physical(u), "the point about which all of this is taken"),
               "prior_lower": (physical(np.full_like(u, -step)), "5 % quantile of the prior"),
               "prior_upper": (physical(np.full_like(u, step)), "95 % quantile of the prior"),
               "lower": (physical(u - step * spread), "5 % quantile of the posterior (Gaussian in whitened space)"),
               "upper": (physical(u + step * spread), "95 % quantile of the posterior (Gaussian in whitened space)")}
    ds["displacement"] = "parameter", u, _about("distance of the point from the prior median, in prior standard deviations")
    for name, (values, words) in columns.items():
        ds[name] = "parameter", values, {"long_name": words, "units": "those of the parameter, see `unit`"}
    ds["unit"] = "parameter", [space.parameters[name].units for name in names], {"long_name": "units of the parameter"}
    low, high = (np.asarray(side) for side in space.bounds())
    ds["at_bound"] = "parameter", [near_bound(*place) for place in zip(columns["map"][0], low, high, strict=True)], {
        "long_name": "the bound within 1 % of whose range the point lies"}


def subset_index(ds: xr.Dataset, parameters: list[str], streams: list[str] | None = None) -> float:
    """Collinearity index (Brun et al. 2001) of any set of `parameters` by their labels, seen by `streams`, all without it."""
    for name in parameters:
        if name not in ds["parameter"].values:
            raise ValueError(complain(f"labels among {listed(ds['parameter'].values, 40)}", repr(name), "check the name"))
    product = ds["sensitivity_product"] if streams is None else ds["sensitivity_product"].sel(stream=streams)
    return collinearity_index(product.sum("stream").values, [list(ds["parameter"].values).index(name) for name in parameters])


def _findings(ds: xr.Dataset) -> list[str]:
    n, streams = ds.sizes["parameter"], [str(name) for name in ds["stream"].values]
    found = [f"{int(ds['count'].sum())} values of {listed(streams)} decide {ds.attrs['degrees_of_freedom']:.1f} of {n} directions of the "
             f"parameters (degrees of freedom for signal; the prior decides the others) and bring {ds.attrs['information_bits']:.0f} bits "
             "of information."]
    if ds.sizes["mode"] < n:
        limit = ds.attrs["threshold"]
        found.append(f"Only {ds.sizes['mode']} of {n} directions were taken, those with an eigenvalue above {limit:g}: each of the others "
                     f"would bring less than {0.5 * np.log1p(limit) / NATS_PER_BIT:.2g} bits.")
    found += _about_streams(ds, streams)
    labels, flagged = ds["parameter"].values, ds["unconstrained"].values
    # The MAP of what the data do not see at all is its prior median.
    moved = flagged & (np.abs(ds["displacement"].values) > MOVED) & bool(ds.attrs["solved"])
    limit, rest = ds.attrs["unconstrained_below"], labels[flagged & ~moved]
    if rest.size:
        found.append(f"Not seen by any stream (variance reduced by less than {limit:.0%}): {listed(rest, 40)}. Their posterior is their "
                     "prior: fix them, or add an observation that depends on them.")
    if moved.any():
        places = [f"{label} ({ds['displacement'].values[index]:+.1f})" for index, label in enumerate(labels) if moved[index]]
        found.append(f"Moved by the data far from the prior median, to where the model feels them little: {listed(places, 40)}, in prior "
                     "standard deviations. Their variance is hardly reduced there, yet the data speak against values nearer the median: "
                     "take their posterior from a sampler (nuts), and do not fix them at their default.")
    found += _about_pairs(ds, streams)
    bound = [f"{label} ({side})" for label, side in zip(labels, ds["at_bound"].values, strict=True) if side]
    if bound:
        found.append(f"At a bound: {listed(bound, 40)}. There the whitened parameter is far out in its prior and what is said about it "
                     "here holds least: look for what the model lacks, or widen the bound, before calling it constrained.")
    apart = labels[ds["told_apart"].values]
    example = f", for example {listed(apart, 40)}" if len(apart) else ""
    found.append(f"Without the prior the data tell apart {len(apart)} of {n} parameters at a time (collinearity index below "
                 f"{COLLINEAR:.0f}){example}.")
    return found


def _about_streams(ds: xr.Dataset, streams: list[str]) -> list[str]:
    found, labels = [], ds["parameter"].values
    for name in streams:
        one = ds.sel(stream=name)
        order = np.argsort(-one["reduction_alone"].values, kind="stable")
        seen = [f"{labels[index]} ({one['reduction_alone'].values[index]:.0%})" for index in order
                if one["reduction_alone"].values[index] >= MOSTLY]
        bits = float(one["stream_information_alone"]) / NATS_PER_BIT
        words = f"{name} alone brings {bits:.0f} bits and constrains {listed(seen)}" if seen else (
            f"{name} alone brings {bits:.0f} bits and constrains no single parameter by half of its variance")
        if len(streams) > 1:
            growth = one["sd_without"].values
            order = np.argsort(-growth, kind="stable")
            only = [f"{labels[index]} ({growth[index]:.1f} times)" for index in order if growth[index] >= GROWS]
            words += f"; without it {float(one['stream_information_lost']) / NATS_PER_BIT:.0f} bits are lost" + (
                f", and the spread grows for {listed(only)}" if only else f", and no spread grows {GROWS:g} times")
        found.append(words + ".")
    shared = float(ds["stream_information_alone"].sum()) - ds.attrs["information"]
    if len(streams) > 1:
        found.append(f"{max(shared, 0.0) / NATS_PER_BIT:.0f} bits are told by more than one stream.")
    return found


def _about_pairs(ds: xr.Dataset, streams: list[str]) -> list[str]:
    """Pairs of parameters that trade off against each other, the closest first."""
    labels, matrix = ds["parameter"].values, ds["correlation"].values
    rows, columns = np.triu_indices(len(labels), 1)
    values = matrix[rows, columns]
    # What the prior has is no word of the data.
    own = np.abs(values - ds["prior_correlation"].values[rows, columns]) > OWN
    told = own & (np.abs(values) > ds.attrs["correlated_above"])
    order = [index for index in np.argsort(-np.abs(values), kind="stable") if told[index]]
    found = []
    for index in order[:PAIRS_TOLD]:
        one, other, value = labels[rows[index]], labels[columns[index]], values[index]
        who = f"{streams[0]} does not tell {one} and {other} apart" if len(streams) == 1 else (
            f"{one} and {other} are told apart by " + ("neither stream" if len(streams) == 2 else "no stream"))
        trade = "raising both fits alike" if value > 0 else "raising one and lowering the other fits alike"
        found.append(f"{who}: correlation {value:.2f}, {trade}. Fix one of them, or add an observation that sees one alone.")
    if len(order) > PAIRS_TOLD:
        found.append(f"{len(order) - PAIRS_TOLD} more pairs have a correlation beyond {ds.attrs['correlated_above']:g}: see the figure of "
                     "correlations.")
    return found
