"""What a calibration leaves on disk: posterior.nc, parameters.csv and report.html.

posterior.nc holds everything that the report shows, so a report can be made again from it. Dimensions: `parameter`
(labels such as "lma" or "lma[DBF]"), `draw`, `iteration`, `term`, `stream`, `site`, `period`, `stage`, `metric` and one time
axis a stream. Draws are there twice, as `theta(draw, parameter)` for figures and as one variable a parameter with its own
dimensions and units (called "map_draws" where a parameter has the name of something else in the file, such as "map").
"""

import datetime
import importlib.metadata
import json
import platform
import sys
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import xarray as xr

from landcal_jax import report
from landcal_jax.diagnostics import diagnose
from landcal_jax.observations import METRICS, Observations, Stream
from landcal_jax.plot_parameters import near_bound
from landcal_jax.problem import evaluate
from landcal_jax.run_folder import RunFolder
from landcal_jax.solvers import Status

FILES = ("posterior.nc", "parameters.csv", "report.html")
LEVELS = (0.05, 0.5, 0.95)
FEW_MEMBERS = 50  # the 5 % quantile of fewer is the second or third member
STANDARD_NAMES = {"latent_heat": "surface_upward_latent_heat_flux", "sensible_heat": "surface_upward_sensible_heat_flux"}
LONG_NAMES = {
    "nee": "net ecosystem exchange", "latent_heat": "latent heat flux", "gpp": "gross primary production",
    "lai": "leaf area index", "evapotranspiration": "evapotranspiration"}
PACKAGES = ("landcal_jax", "jax", "jaxlib", "equinox", "optax", "numpyro", "xarray", "numpy")


def dataset(experiment, result, posterior, about) -> xr.Dataset:
    """The content of posterior.nc for a finished calibration (see `calibration.Calibration`)."""
    problem, seed = experiment.problem, int(about.get("seed", 0))
    runs = {"prior": problem.predict(problem.space.default_z), "map": problem.predict(result.z)}
    held_out = experiment.held_out
    observed = {name: stream for name, stream in problem.observations.items() if stream.time is not None}
    predictive = posterior.predictive(seed, quantiles=LEVELS)
    parts = [_parameters(problem, result, posterior, experiment.truth, seed), _cost(result),
             _scores(problem.observations, held_out, runs, tuple(observed))]
    for name, stream in observed.items():
        held = None if held_out is None else held_out[name]
        parts.append(_series(name, stream, held, runs, predictive, problem.observations.sites, _boundary(held_out)))
    draws = posterior.to_xarray()
    taken = {name for part in parts for name in (*part.variables, *part.dims)}
    parts.append(draws.rename({name: f"{name}_draws" for name in draws.data_vars if name in taken}))
    ds = xr.merge(parts, combine_attrs="override", compat="no_conflicts", join="outer")
    ds = ds.assign_coords(site=list(problem.observations.sites))
    ds.attrs = _attributes(experiment, result, posterior, about, warnings(experiment, result, posterior, runs, predictive))
    return ds


def _parameters(problem, result, posterior, truth, seed) -> xr.Dataset:
    space, draws = problem.space, posterior.matrix()
    prior_draws = np.asarray(jax.vmap(lambda z: space.flatten(space.physical(z)))(space.sample(jax.random.key(seed), len(draws))))
    low, high = (np.asarray(bound) for bound in space.bounds())
    names = [label.partition("[")[0] for label in space.labels]
    columns = {
        "default": space.flatten(space.default_theta), "lower": low, "upper": high,
        "prior_median": space.flatten(space.prior_median), "prior_sd": _free(space, space.prior_sd),
        "map": space.flatten(result.theta), "posterior_mean": draws.mean(axis=0), "posterior_median": np.median(draws, axis=0),
        "posterior_sd": draws.std(axis=0), "posterior_lower": np.quantile(draws, 0.05, axis=0),
        "posterior_upper": np.quantile(draws, 0.95, axis=0),
        "z_map": result.z, "z_sd": np.sqrt(np.diag(posterior.covariance))}
    if truth is not None:
        columns["truth"] = space.flatten(truth)
    ds = xr.Dataset({name: ("parameter", np.asarray(values)) for name, values in columns.items()})
    ds["unit"] = "parameter", [space.parameters[name].units for name in names]
    ds["description"] = "parameter", [space.parameters[name].description for name in names]
    ds["theta"], ds["prior_theta"] = (("draw", "parameter"), draws), (("draw", "parameter"), prior_draws)
    sd = columns["z_sd"]
    ds["correlation"] = ("parameter", "parameter_2"), np.asarray(posterior.covariance) / np.outer(sd, sd)
    ds["z_map"].attrs["long_name"] = "MAP in whitened space, where the prior is N(0, 1)"
    ds["z_sd"].attrs["long_name"] = "posterior standard deviation in whitened space, where that of the prior is 1"
    ds["correlation"].attrs["long_name"] = "posterior correlation in whitened space"
    for name in ("posterior_lower", "posterior_upper"):
        ds[name].attrs["long_name"] = f"{'5' if name.endswith('lower') else '95'} % quantile of the posterior"
    return ds.assign_coords(parameter=list(space.labels), parameter_2=list(space.labels))


def _free(space, values) -> np.ndarray:
    """Elements of the free parameters from a mapping of all, in the order of the labels."""
    return np.concatenate([np.ravel(value) for value in values.values()])[np.asarray(space.layout.free_index)]


def _cost(result) -> xr.Dataset:
    history = result.history
    values = np.stack(list(history.values()), axis=1)
    ds = xr.Dataset({"cost": (("iteration", "term"), values, {"units": "1", "long_name": "J by term"})})
    return ds.assign_coords(iteration=np.arange(len(values)), term=list(history))


def _scores(calibrated: Observations, held_out: Observations | None, runs, names) -> xr.Dataset:
    table = np.full((len(names), len(calibrated.sites), 2, 2, len(METRICS)), np.nan)
    table[..., METRICS.index("n")] = 0
    for index, name in enumerate(names):
        for period, observations in enumerate((calibrated, held_out)):
            for stage, run in enumerate(runs.values()):
                if observations is not None:
                    scores = observations[name].scores(run[name])
                    table[index, :, period, stage] = np.stack([scores[metric] for metric in METRICS], axis=-1)
    dims = ("stream", "site", "period", "stage", "metric")
    note = {"long_name": "scores of the run at the first guess and at the MAP; bias is model minus observation"}
    return xr.Dataset({"score": (dims, table, note)}, coords={
        "stream": list(names), "site": list(calibrated.sites), "period": ["calibrated", "held_out"],
        "stage": ["prior", "posterior"], "metric": list(METRICS)})


# What the series of a stream are: how their long name goes on, and whether they are the quantity itself (and have its
# standard name) or a spread of it.
SERIES = {
    "observed": ("", True), "observed_sd": (", measurement error (standard deviation)", False),
    "total_sd": (", measurement and model error (standard deviation)", False), "prior": (", run at the first guess", True),
    "map": (", run at the MAP", True), "predictive_lower": (", 5 % quantile with observation error", True),
    "predictive_median": (", median", True), "predictive_upper": (", 95 % quantile with observation error", True),
    "model_lower": (", 5 % quantile by parameters alone", True), "model_upper": (", 95 % quantile by parameters alone", True)}


def _series(name: str, stream: Stream, held: Stream | None, runs, predictive: xr.Dataset, sites, boundary) -> xr.Dataset:
    """Observed and modelled series of one stream, each site at its own dates; NaN where there is nothing."""
    seen = np.asarray(stream.mask) | (False if held is None else np.asarray(held.mask))
    band, total = predictive[name], predictive[f"{name}_total"]
    low, middle, high = LEVELS
    values = {
        "observed": np.where(seen, stream.values, np.nan), "observed_sd": np.where(seen, stream.sigma, np.nan),
        "total_sd": np.where(seen, stream.standard_deviation, np.nan), "prior": runs["prior"][name], "map": runs["map"][name],
        "predictive_lower": total.sel(quantile=low), "predictive_median": total.sel(quantile=middle),
        "predictive_upper": total.sel(quantile=high), "model_lower": band.sel(quantile=low), "model_upper": band.sel(quantile=high)}
    quantity, axis = LONG_NAMES.get(name, stream.description or name), f"{name}_time"
    parts = []
    for index, time in enumerate(stream.time):
        real = ~np.isnat(time)  # a short site is padded, and what the model makes of the padding is nothing
        columns = {f"{name}_{kind}": (axis, np.asarray(array)[index][real]) for kind, array in values.items()}
        parts.append(xr.Dataset(columns, coords={axis: time[real].astype("datetime64[ns]")}))
    ds = xr.concat(parts, dim=xr.Variable("site", list(sites)), join="outer")
    for kind, (words, itself) in SERIES.items():
        ds[f"{name}_{kind}"].attrs = {"units": stream.units, "long_name": quantity + words}
        if itself and name in STANDARD_NAMES:
            ds[f"{name}_{kind}"].attrs["standard_name"] = STANDARD_NAMES[name]
    late = ds[axis].values >= boundary if boundary is not None else np.zeros(ds.sizes[axis], bool)
    ds[f"{name}_held_out"] = axis, late, {"long_name": "step of the held-out period"}
    ds[axis].attrs = {"standard_name": "time", "long_name": f"start of the step of {name}", "axis": "T"}
    return ds


def _boundary(held_out: Observations | None) -> np.datetime64 | None:
    """The first held-out time of any stream; None if nothing is held out."""
    times = [] if held_out is None else [
        stream.time[np.asarray(stream.mask)].min() for _, stream in held_out.items() if stream.time is not None and stream.count]
    return min(times) if times else None


def warnings(experiment, result, posterior, runs, predictive) -> list[str]:
    """What a reader must know before using the numbers, in sentences."""
    problem, found = experiment.problem, list(experiment.cautions)
    observed = sum(int(stream.count) for _, stream in problem.observations.items() if stream.time is not None)
    if observed < problem.space.size:
        found.append(f"{observed} observed values constrain {problem.space.size} parameters: most of the posterior is the prior.")
    if result.status not in (Status.CONVERGED, Status.NO_DECREASE, Status.ANALYSIS):
        found.append(f"The solver has not reached the minimum ({result.status.sentence}): solve on from this point.")
    span = str(result.details.get("span", ""))
    if span and result.status in (Status.SUBSPACE, Status.OUT_OF_SPAN):
        found.append(f"Of the ensemble: {span}.")
    found += lonely_minimum(result)
    lost = int(result.details.get("failed_runs", 0))
    if lost:
        found.append(f"{lost} of {result.counts['forward']} runs failed and were left out, or moved and run again: the result knows "
                     "nothing of that part of the prior.")
    beyond = int(result.details.get("left_out", 0))
    if beyond:
        found.append(f"{beyond} members failed, or ran to results beyond all measure, and have no part in the analysis.")
    if posterior.chains > 1:
        diagnosis = diagnose(posterior)
        found += [] if diagnosis.passed else [f"Of the chains: {sentence}" for sentence in diagnosis.sentences]
    if len(posterior.z) < FEW_MEMBERS:
        found.append(f"The posterior has {len(posterior.z)} members: its quantiles are rough, and its intervals too narrow.")
    # A model without derivatives cannot say whether its J is stationary, and to draws it does not matter; zero is then no finding.
    gradient = np.asarray(evaluate(problem, result.z)[1]) if problem.differentiable and posterior.gaussian else np.zeros(problem.space.size)
    shift = np.asarray(posterior.covariance) @ gradient
    if 0.5 * gradient @ shift > 0.1:
        far = np.max(np.abs(shift) / np.sqrt(np.diag(posterior.covariance)))
        found.append(f"The end of the solver is not stationary: a Newton step would still move parameters by up to {far:.1f} posterior "
                     f"standard deviations and lower J by {0.5 * gradient @ shift:.2g}. More starts may end at a lower J.")
    excess = posterior.excess_cost() if posterior.gaussian else 0.0
    sampler = "nuts" if problem.differentiable and problem.forward.traceable else "smc"
    if excess > 2:
        found.append(f"The posterior is not Gaussian: its draws raise J {excess:.0f} times as much as they should. Intervals of single "
                     "parameters and the bands (propagated by the tangent-linear model) are approximate, and a draw is no credible "
                     f'set of parameters; the posterior "{sampler}" samples it.')
    low, high = (np.asarray(bound) for bound in problem.space.bounds())
    values = np.asarray(problem.space.flatten(result.theta))
    at = [f"{label} = {value:.4g} ({which})"
          for label, value, lower, upper in zip(problem.space.labels, values, low, high, strict=True)
          if (which := near_bound(value, lower, upper))]
    if at:
        found.append(f"The MAP lies within 1 % of the prior range from a bound for {', '.join(at)}: the data ask for more than "
                     "the prior allows, or the model makes up for something that it lacks.")
    for name, stream in problem.observations.items():
        if stream.time is None:
            continue
        chi_square = float(stream.chi_square(runs["map"][name]))
        if not experiment.estimate_model_error and abs(np.log(chi_square)) > np.log(1.3):
            side = "smaller" if chi_square > 1 else "larger"
            found.append(f"Chi-square of {name} is {chi_square:.2f}: its errors R are {side} than the residuals.")
        memory = residual_memory(stream, runs["map"][name])
        if stream.chain is None and memory > 1.5:
            found.append(f"Residuals of {name} are correlated over about {memory:.0f} days, but R takes errors as independent: "
                         "the posterior is too narrow, by a factor of up to "
                         f"{np.sqrt(memory_inflation(memory)):.1f} in standard deviation; errors=\"marginal\" estimates it.")
        failed = int(predictive[name].attrs.get("failed", 0))
        if failed:
            found.append(f"{failed} posterior runs of {name} failed and are not in its band.")
    return found


def lonely_minimum(result) -> list[str]:
    """A sentence if, of several starts that went to the end, only one reached the lowest J."""
    if "end_cost" not in result.details:
        return []
    ends = np.sort(result.details["end_cost"][result.details["end_status"] != Status.LEFT])
    # Ends within one unit of J are as likely as each other, whether or not they are the same minimum.
    if len(ends) < 2 or ends[1] < ends[0] + 1:
        return []
    return [f"Only one of the {len(ends)} starts that went to the end reached the lowest J (the next is {ends[1] - ends[0]:.3g} higher): "
            "J has several minima, and another seed or more starts may find a lower one."]


def residual_memory(stream: Stream, modelled) -> float:
    """E-folding time of whitened residuals from their correlation between successive observed steps; 0 if none.

    In days, or in steps where the stream has no times.
    """
    residual, mask, time = np.asarray(stream.whitened(modelled)), np.asarray(stream.mask), stream.time
    pairs = mask[:, 1:] & mask[:, :-1]
    if pairs.sum() < 30:
        return 0.0
    days = 1.0 if time is None else np.median((time[:, 1:] - time[:, :-1])[pairs] / np.timedelta64(1, "D"))
    correlation = np.corrcoef(residual[:, :-1][pairs], residual[:, 1:][pairs])[0, 1]
    return float(-days / np.log(min(correlation, 0.999))) if correlation > 0 else 0.0


def memory_inflation(memory: float) -> float:
    """Factor on the variance of a mean when errors of e-folding time `memory` steps are taken as independent."""
    correlation = np.exp(-1 / memory)
    return (1 + correlation) / (1 - correlation)


def _attributes(experiment, result, posterior, about, found) -> dict[str, object]:
    problem = experiment.problem
    versions = {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
    now = datetime.datetime.now(datetime.UTC)
    attrs = {
        "Conventions": "CF-1.11", "title": experiment.title, "site": ", ".join(problem.observations.sites),
        "model": problem.forward.name, "solver": "", "posterior_method": posterior.method,
        "status": result.status.sentence, "seed": 0, "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "created": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "versions": json.dumps(versions),
        "data": json.dumps([dict(source) for source in experiment.sources]), "counts": json.dumps(result.counts),
        "seconds": json.dumps({name: round(value, 2) for name, value in result.seconds.items()}),
        "history": "\n".join(experiment.notes), "problem": str(problem), "warnings": json.dumps(found),
        "source": f"landcal_jax {versions['landcal_jax']}", "institution": "", "references": "",
        "comment": "MAP and Laplace posterior are taken in whitened space z; see the attribute `problem` for priors and errors"}
    return {name: value for name, value in (attrs | dict(about)).items() if value != ""}


def write(ds: xr.Dataset, folder: str | Path, *, overwrite: bool = False) -> dict[str, Path]:
    """Write posterior.nc, parameters.csv and report.html of `ds` into `folder`; returns {file name: path}.

    They get their names when all are whole. Raises FileExistsError if one of them is there and `overwrite` is False.
    """
    with RunFolder(folder, overwrite=overwrite, results=FILES) as run:
        return run.publish(lambda staged: write_files(ds, staged))


def write_files(ds: xr.Dataset, folder: Path) -> None:
    """Write the three files of `ds` into a folder that has none of them."""
    packed = {
        name: {"zlib": True, "complevel": 4} for name, variable in ds.data_vars.items() if variable.ndim and variable.dtype.kind == "f"}
    ds.to_netcdf(folder / "posterior.nc", engine="netcdf4", encoding=packed)
    parameter_table(ds).to_csv(folder / "parameters.csv", index=False)
    report.write(ds, folder / "report.html")


def read_warnings(ds: xr.Dataset) -> list[str]:
    """The sentences of warning that a calibration Dataset carries."""
    return json.loads(ds.attrs.get("warnings", "[]"))


def parameter_table(ds: xr.Dataset) -> pd.DataFrame:
    """One row a parameter: unit, default, bounds, prior, MAP and posterior, in physical units."""
    columns = ("unit", "default", "lower", "upper", "prior_median", "prior_sd", "map", "posterior_mean", "posterior_median",
               "posterior_sd", "posterior_lower", "posterior_upper", "z_map", "z_sd", "truth", "description")
    return pd.DataFrame({"parameter": ds["parameter"].values} | {name: ds[name].values for name in columns if name in ds})
