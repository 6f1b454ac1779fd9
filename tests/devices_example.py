"""A small problem of five sites, and what `test_devices` computes of it on one device, on four, and in two processes."""

import jax
import numpy as np
import xarray as xr
from test_model import MODEL, THETA

import landcal_jax as lc
from landcal_jax.operators import Pick
from landcal_jax.problem import costs, evaluate

LENGTHS = (24, 20, 24, 22, 15)
NAMES = tuple("ABCDE")
PFT = ("grass", "tree", "grass", "tree", "tree")


def problem(spin_up=False):
    """Two pools at five sites with records of different lengths; parameters of all, of two PFTs and of each site."""
    rng = np.random.default_rng(0)
    sets = []
    for name, steps in zip(NAMES, LENGTHS, strict=True):
        time = np.datetime64("2001-01-01", "ns") + np.arange(steps) * np.timedelta64(1, "D")
        sets.append(xr.Dataset({"season": ("time", 1 + 0.3 * rng.standard_normal(steps))}, coords={"time": time, "site": name}))
    coords = {"pft": ["tree", "grass"], "site": list(NAMES)}
    sites = lc.Sites.from_datasets(sets, MODEL, rows={"pft": PFT}, coords=coords)
    space = lc.ParameterSpace(
        {name: lc.Parameter.log_normal(float(value), 0.3) for name, value in THETA.items() if name not in ("share", "fast_0")}
        | {"share": lc.Parameter.uniform([0.1, 0.2], [0.8, 0.9], dims="pft"),
           "fast_0": lc.Parameter.log_normal([40.0] * len(NAMES), 0.3, dims="site")}, coords=coords)
    lost = np.where(sites.real & (np.arange(max(LENGTHS)) % 3 > 0), 2.0 + 0.3 * rng.standard_normal(sites.real.shape), np.nan)
    observed = lc.Observations({"lost": lc.Stream(lost, 0.3, Pick("lost"))}, sites=NAMES)
    return lc.Problem(space, lc.SiteForward(MODEL, sites, space.dims, spin_up), observed)


def members(problem, number=6):
    return 0.5 * np.random.default_rng(1).standard_normal((number, problem.space.size))


def ensembles(problem):
    """What ensembles give: predictions and J of members."""
    return {"ensemble": problem.ensemble(members(problem))["lost"], "costs": costs(problem, members(problem))}


def searches(problem):
    """Solvers that divide their members or their starts: an ensemble Kalman inversion, three starts of the best of six candidates."""
    kalman = lc.solve(problem, lc.EKI(size=8), key=0, max_steps=2, progress=False, throw=False)
    starts = lc.MultiStart(lc.LevenbergMarquardt(), number=3, candidates=6)
    return {"kalman": np.asarray(kalman.z), "starts": lc.solve(problem, starts, key=0, progress=False).details["end_cost"]}


def derivatives(problem):
    """J with its gradient."""
    cost, gradient, _ = evaluate(problem, members(problem)[0])
    return {"cost": np.asarray(cost), "gradient": np.asarray(gradient)}


def solved(problem, **options):
    """The end of Levenberg-Marquardt."""
    result = lc.solve(problem, lc.LevenbergMarquardt(), progress=False, **options)
    return {"z": np.asarray(result.z), "J": np.asarray(result.cost)}


def named(kind, found):
    return {f"{kind} {name}": value for name, value in found.items()}


def parts(problem):
    """Shapes of the parts of the forcing that lie on the devices of this process."""
    return np.array([part.data.shape for part in problem.forward.sites.forcing.season.addressable_shards])


def on_devices():
    """Members, and then the sites, on four devices: neither six members nor five sites fill them evenly."""
    whole = problem()
    members, sites = whole.spread(), whole.spread("sites")
    found = named("members", ensembles(members) | searches(members)) | named("sites", ensembles(sites) | derivatives(sites) | solved(sites))
    return found | {"parts": parts(sites), "devices": np.array(len(jax.devices()))}


def in_processes(folder):
    """Members and sites on the devices of all processes; and a solve that is done already, says the file of the first."""
    whole, file = problem(), folder / "solve.npz"
    sites = whole.spread("sites")
    found = {"members ensemble": whole.spread().ensemble(members(whole))["lost"]} | named("sites", solved(sites, checkpoint=file))
    again = named("again", solved(sites, checkpoint=file))
    return found | again | {"parts": parts(sites), "written": np.array(file.exists())}
