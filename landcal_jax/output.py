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
from landcal_jax.caveats import caveats
from landcal_jax.observations import METRICS, Observations, Stream
from landcal_jax.run_folder import RunFolder

FILES = ("posterior.nc", "parameters.csv", "report.html")
LEVELS = (0.05, 0.5, 0.95)
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
    ds.attrs = _attributes(experiment, result, posterior, about, caveats(experiment, result, posterior, runs, predictive))
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
