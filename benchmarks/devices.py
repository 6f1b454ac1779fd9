"""Members on several devices: time of ensembles of a land model on one CPU device and on two, in one process.

DALEC at one site with synthetic weather. What is given is the ratio of the times, members on one device over members on
two: at most 2 on two idle cores, and less where others use them. Sites on two devices are timed for J and its gradient.
"""

import time

import harness

bench = harness.Benchmark("devices", __doc__, cores=None)

import jax  # noqa: E402
import numpy as np  # noqa: E402

import landcal_jax as lc  # noqa: E402
from landcal_jax.models import Dalec2  # noqa: E402
from landcal_jax.operators import Pick  # noqa: E402

jax.config.update("jax_num_cpu_devices", 2)

from landcal_jax.problem import evaluate  # noqa: E402
from landcal_jax.weather import BOREAL, SAVANNA, weather  # noqa: E402

YEARS, SITES = (2, 4) if bench.quick else (10, 8)
MEMBERS = (256,) if bench.quick else (256, 1024)
REPEATS = 3 if bench.quick else 5


def problem(number: int) -> lc.Problem:
    """NEE of every day at `number` sites, boreal and savanna in turn."""
    sets = [weather((BOREAL, SAVANNA)[n % 2], years=YEARS, seed=n).assign_coords(site=f"site {n}") for n in range(number)]
    model = Dalec2()
    sites = lc.Sites.from_datasets(sets, model)
    observed = lc.Observations({"nee": lc.Stream(np.zeros(sites.days.shape), 1.0, Pick("nee"))})
    return lc.Problem(lc.ParameterSpace(model.parameters()), lc.SiteForward(model, sites), observed)


def ratio(name: str, one, two) -> None:
    """Times of both, in turn, and how many times quicker the second is."""
    timing = harness.interleave({"one": one, "two": two}, REPEATS, clock=time.perf_counter)
    bench.figure(f"{name}, one device", timing["one"].minimum, "s")
    bench.figure(f"{name}, one device / two", timing["one"].minimum / timing["two"].minimum, "1")


single, several = problem(1), problem(SITES)
spread = single.spread()
for members in MEMBERS:
    Z = np.asarray(single.space.sample(jax.random.key(0), members))
    same = np.nanmax(np.abs(single.ensemble(Z)["nee"] / spread.ensemble(Z)["nee"] - 1))
    ratio(f"{members} members, {YEARS} years", lambda Z=Z: single.ensemble(Z), lambda Z=Z: spread.ensemble(Z))
    bench.figure(f"{members} members, largest relative difference", same, "1", target="<= 1e-12")
z, divided = several.space.default_z, several.spread("sites")
ratio(f"J and gradient, {SITES} sites", lambda: evaluate(several, z), lambda: evaluate(divided, z))
bench.finish()
