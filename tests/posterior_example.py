"""A synthetic calibration in exactly the layout of posterior.nc, for the tests of the figures and of the report.

Nothing is calibrated here. The numbers only look like a DALEC calibration: 37 log-uniform parameters of which some are
well constrained, some correlated, one at its bound and some not constrained; daily streams with a seasonal cycle, gaps,
autocorrelated residuals and a held-out last third of the record.
"""

import json
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

PARAMETERS = [  # label, lower, upper, unit, description
    ("litter_to_som", 1e-5, 0.01, "d-1", "decomposition rate of litter to soil organic matter at the reference"),
    ("f_auto", 0.2, 0.8, "1", "fraction of GPP respired by plants"),
    ("f_fol", 0.01, 0.5, "1", "fraction of NPP to foliage"),
    ("f_roo", 0.01, 1, "1", "fraction of the remaining NPP to fine roots"),
    ("leaf_lifespan", 1.001, 8, "yr", "leaf lifespan"),
    ("wood_turnover", 2.5e-5, 1e-3, "d-1", "turnover rate of wood"),
    ("root_turnover", 1e-4, 0.01, "d-1", "turnover rate of fine roots"),
    ("litter_mineralisation", 1e-4, 0.01, "d-1", "mineralisation rate of litter"),
    ("som_mineralisation", 1e-7, 1e-3, "d-1", "mineralisation rate of soil organic matter"),
    ("temperature_exponent", 0.018, 0.08, "degC-1", "temperature exponent of respiration"),
    ("canopy_efficiency", 5, 50, "gC m-2 d-1", "canopy photosynthetic efficiency"),
    ("onset_day", 365.25, 1461, "d", "day of labile release"),
    ("f_lab", 0.01, 0.5, "1", "fraction of the remaining NPP to labile carbon"),
    ("onset_period", 30.4375, 100, "d", "length of the labile release"),
    ("fall_day", 365.25, 1461, "d", "day of leaf fall"),
    ("fall_period", 30.4375, 150, "d", "length of the leaf fall"),
    ("lma[DBF]", 5, 200, "gC m-2", "leaf carbon mass per area"),
    ("initial_labile", 1, 2000, "gC m-2", "labile carbon at the start"),
    ("initial_foliar", 1, 2000, "gC m-2", "foliar carbon at the start"),
    ("initial_root", 1, 2000, "gC m-2", "fine root carbon at the start"),
    ("initial_wood", 1, 1e5, "gC m-2", "wood carbon at the start"),
    ("initial_litter", 1, 2000, "gC m-2", "litter carbon at the start"),
    ("initial_som", 1, 2e5, "gC m-2", "soil organic carbon at the start"),
    ("uwue", 0.5, 30, "gC hPa0.5 kg-1", "underlying water-use efficiency"),
    ("runoff_focus", 1, 1e5, "mm", "plant-available water where runoff saturates"),
    ("wilting_point", 1, 1e4, "mm", "plant-available water below which GPP is limited"),
    ("initial_water", 1, 1e4, "mm", "plant-available water at the start"),
    ("foliar_combustion", 0.01, 1, "1", "combustion completeness of foliage"),
    ("wood_combustion", 0.01, 1, "1", "combustion completeness of wood"),
    ("litter_combustion", 0.01, 1, "1", "combustion completeness of litter and soil"),
    ("resilience", 0.01, 1, "1", "fraction of unburned biomass that survives fire"),
    ("labile_lifespan", 1.001, 8, "yr", "lifespan of labile carbon"),
    ("moisture_factor", 0.01, 1, "1", "sensitivity of decomposition to precipitation"),
    ("deep_fraction", 0.01, 1, "1", "fraction of drainage to the unavailable store"),
    ("deep_runoff_focus", 1, 1e5, "mm", "unavailable water where runoff saturates"),
    ("initial_deep_water", 1, 1e4, "mm", "unavailable water at the start"),
    ("boese_r", 0.01, 0.3, "mm d-1 (MJ m-2 d-1)-1", "evaporation per unit of radiation"),
]
STREAMS = {  # unit, quantity, winter level, summer amplitude, error of one day
    "nee": ("gC m-2 d-1", "net ecosystem exchange", 1.6, -7.5, 0.8),
    "latent_heat": ("W m-2", "latent heat flux", 24.0, 85.0, 14.0),
}
METRICS = ["rmse", "bias", "r", "kge", "chi_square", "n"]


def example(sites: Sequence[str] = ("XX-Syn",), years: int = 6, held_out: bool = True, truth: bool = True,
            draws: int = 400, seed: int = 0) -> xr.Dataset:
    """Build the Dataset; without `held_out` every day is calibrated, the scores of that period are NaN and n = 0."""
    rng = np.random.default_rng(seed)
    ds = xr.Dataset(coords={"site": list(sites), "stream": list(STREAMS), "period": ["calibrated", "held_out"],
                            "stage": ["prior", "posterior"], "metric": METRICS})
    _add_parameters(ds, rng, draws, truth)
    score = np.full((len(STREAMS), len(sites), 2, 2, len(METRICS)), np.nan)
    for index, stream in enumerate(STREAMS):
        score[index] = _add_stream(ds, rng, stream, len(sites), years, held_out)
    ds["score"] = (("stream", "site", "period", "stage", "metric"), score)
    _add_cost(ds, rng)
    _add_provenance(ds, sites, years, held_out)
    return ds


def _add_parameters(ds: xr.Dataset, rng: np.random.Generator, draws: int, truth: bool) -> None:
    labels, lower, upper, units, descriptions = (list(column) for column in zip(*PARAMETERS, strict=True))
    lower, upper, size = np.array(lower, float), np.array(upper, float), len(labels)

    def physical(z: np.ndarray) -> np.ndarray:
        uniform = 0.5 * (1 + np.vectorize(math.erf)(z / np.sqrt(2)))
        return lower * (upper / lower) ** uniform

    spread = rng.choice([0.05, 0.12, 0.3, 0.6, 0.97], size)
    loadings = rng.normal(size=(size, 6)) * rng.choice([0.1, 1.5], (size, 6), p=[0.75, 0.25])
    covariance = loadings @ loadings.T + np.eye(size)
    scale = spread / np.sqrt(np.diag(covariance))
    covariance = covariance * scale[:, None] * scale
    z_true = np.clip(rng.normal(size=size), -1.6, 1.6)
    z_map = z_true + np.linalg.cholesky(covariance) @ rng.normal(size=size)
    z_map[1], spread[1] = 3.2, 0.3
    z = z_map + rng.multivariate_normal(np.zeros(size), covariance, size=draws)
    theta, prior = physical(z), physical(rng.normal(size=(draws, size)))
    ds.coords["parameter"], ds.coords["parameter_2"] = ("parameter", labels), ("parameter_2", labels)
    columns = {"default": physical(np.zeros(size)), "lower": lower, "upper": upper, "prior_median": np.median(prior, 0),
               "prior_sd": prior.std(0), "map": physical(z_map), "posterior_mean": theta.mean(0),
               "posterior_median": np.median(theta, 0), "posterior_sd": theta.std(0), "unit": units,
               "description": descriptions}
    if truth:
        columns["truth"] = physical(z_true)
    ds.update({name: ("parameter", values) for name, values in columns.items()})
    ds["theta"], ds["prior_theta"] = (("draw", "parameter"), theta), (("draw", "parameter"), prior)
    ds["correlation"] = (("parameter", "parameter_2"), np.corrcoef(z.T))


def _autoregressive(rng: np.random.Generator, shape: tuple[int, int], memory: float) -> np.ndarray:
    noise = rng.normal(size=shape)
    for day in range(1, shape[1]):
        noise[:, day] = memory * noise[:, day - 1] + np.sqrt(1 - memory**2) * noise[:, day]
    return noise


def _add_stream(ds: xr.Dataset, rng: np.random.Generator, stream: str, sites: int, years: int,
                held: bool) -> np.ndarray:
    unit, quantity, level, amplitude, error = STREAMS[stream]
    time = pd.date_range("2004-01-01", periods=round(365.25 * years), freq="D")
    shape = (sites, len(time))
    phase = 2 * np.pi * (time.day_of_year.to_numpy() - 185) / 365.25
    season = np.clip(np.cos(phase) + 0.25 * np.cos(2 * phase), -0.2, None)
    weather = 1 + 0.25 * _autoregressive(rng, shape, 0.8)
    model = level + amplitude * season * weather * (1 + 0.15 * np.arange(sites)[:, None])
    late = level * 1.7 + 0.62 * amplitude * np.clip(np.cos(phase - 0.25), -0.3, None) * weather
    measurement = error * (0.5 + 0.4 * np.abs(season)) * np.ones(shape)
    total = np.hypot(measurement, 0.8 * error)
    observed = model + total * (0.75 * _autoregressive(rng, shape, 0.75) + 0.65 * rng.normal(size=shape))
    gap = (rng.random(shape) < 0.18) | (_autoregressive(rng, shape, 0.97) > 1.9)
    spread = 0.06 * np.abs(model - level) + 0.1 * error
    mask = np.zeros(len(time), bool)
    if held:
        mask[round(len(time) * 2 / 3):] = True
    observed = np.where(gap, np.nan, observed)
    wide = 1.645 * np.hypot(spread, total)
    values = {"observed": observed, "observed_sd": measurement, "total_sd": total, "prior": late, "map": model,
              "predictive_median": model + 0.1 * spread, "predictive_lower": model - wide,
              "predictive_upper": model + wide, "model_lower": model - 1.645 * spread,
              "model_upper": model + 1.645 * spread}
    dims = ("site", f"{stream}_time")
    attrs = {"units": unit, "long_name": quantity}
    ds.coords[f"{stream}_time"] = (dims[1], time)
    ds.update({f"{stream}_{name}": (dims, array, attrs) for name, array in values.items()})
    ds[f"{stream}_held_out"] = (dims[1], mask)
    return np.array([[[_score(observed[site], run[site], total[site], days) for run in (late, model)]
                      for days in (~mask, mask)] for site in range(sites)])


def _score(observed: np.ndarray, model: np.ndarray, sd: np.ndarray, days: np.ndarray) -> list[float]:
    used = days & np.isfinite(observed)
    if not used.any():
        return [np.nan] * 5 + [0]
    y, h = observed[used], model[used]
    r = np.corrcoef(y, h)[0, 1]
    kge = 1 - np.sqrt((r - 1) ** 2 + (h.std() / y.std() - 1) ** 2 + (h.mean() / y.mean() - 1) ** 2)
    chi_square = np.mean(((y - h) / sd[used]) ** 2)
    return [np.sqrt(np.mean((y - h) ** 2)), np.mean(h - y), r, kge, chi_square, used.sum()]


def _add_cost(ds: xr.Dataset, rng: np.random.Generator, iterations: int = 14) -> None:
    step = np.arange(iterations)
    decay = np.exp(-0.9 * step) * (1 + 0.05 * rng.random(iterations))
    terms = {"prior": 34 * (1 - np.exp(-0.7 * step))}
    for stream in STREAMS:
        score = ds["score"].sel(stream=stream, period="calibrated")
        misfit = 0.5 * (score.sel(metric="n") * score.sel(metric="chi_square")).sum("site")
        before, after = (float(misfit.sel(stage=stage)) for stage in ("prior", "posterior"))
        terms[stream] = after + (before - after) * decay
    ds.coords["iteration"], ds.coords["term"] = ("iteration", step), ("term", list(terms))
    ds["cost"] = (("iteration", "term"), np.stack(list(terms.values()), axis=1))


def _add_provenance(ds: xr.Dataset, sites: Sequence[str], years: int, held_out: bool) -> None:
    files = [{"file": f"{site}_daily.nc", "sha256": f"{index:064x}", "source": "https://example.org/flux/10.1234/syn",
              "license": "CC BY 4.0", "citation": "Nobody, A. & Person, B. (2020). Synthetic fluxes, version 1."}
             for index, site in enumerate(sites, start=11)]
    warnings = ["f_auto: the MAP lies within 1 % of its upper bound (0.8).",
                "latent_heat: chi-square of the held-out days is 1.4; the stated errors are too small for them."]
    ds.attrs.update(
        title=f"Calibration of DALEC at {', '.join(sites)}", site=", ".join(sites),
        model="DALEC (8 pools, water-coupled)", solver="LevenbergMarquardt", posterior_method="laplace",
        status="converged: the relative change of the cost stayed below 1e-8 in two iterations",
        seed=7, command=f"landcal calibrate --site {sites[0]} --solver lm --posterior laplace --out out --seed 7",
        created="2025-11-22T11:40:00Z",
        history="flux: 41 values marked as filled were masked\nforcing: nothing corrected",
        versions=json.dumps({"python": "3.12.4", "landcal_jax": "0.1.0", "jax": "0.10.2", "numpy": "2.4.6"}),
        data=json.dumps(files), warnings=json.dumps(warnings if held_out else []),
        counts=json.dumps({"forward_runs": 61, "gradients": 0, "jvps": 37 * 14}),
        seconds=json.dumps({"compile": 9.6, "solve": 4.2, "posterior": 6.1}),
        problem=f"Problem\n├─ parameters: {len(PARAMETERS)} (log-uniform)\n├─ streams\n"
                f"│  ├─ nee: {years} years, daily\n│  └─ latent_heat: {years} years, daily\n"
                f"└─ forward: SiteForward(DALEC, {len(sites)} site)")
