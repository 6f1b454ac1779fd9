"""How fast are a run of DALEC2 and its exact gradient, against compiled C and against each other?

Data: ten years of synthetic daily weather at 52 degrees north (seeded, made here, a fire on one day in a hundred), one
plausible parameter vector, and 256 vectors 5 % around it. The quantity is daily NEE; the gradient is that of half the
sum of its squares with respect to all 23 parameters. Through the public interface (`Dalec2`, `simulate`), in its
default and its published arithmetic (`Dalec2.reference()`), in float64, on one pinned core.

Against: our own C of the same model (`dalec400.c`, -O3 -march=native), which recomputes day length, phenology and the
temperature factors in each step, as the established C programs do; before anything is timed, NEE of both must agree to
1e-10. Beside it, without target, stands the best plain C can do for many runs at one site: driver-only terms prepared
once, no sine, no pow. It is 5 to 6 times faster than the plain C, and one run of it is faster than one run of ours: a
step of one vector is a dozen small XLA kernels, about 8 ns each. A batch of members is faster than either.

Clock: seconds of this core that the process itself used (see harness.py), interleaved, medians. Compile times include
tracing; no cache is used but in the last part, where a first and a second process compute their first gradient with a
cache folder that was empty before. What a second process pays is tracing (0.4 s), which no cache of JAX keeps.

Tried (ns per step and member; C in the same minutes 240-350, as the load of the machine went):

    forward                                                       one vector    256 members
    driver-only terms before the loop, the rest in the step       75-150        20-37       <- taken
    all that depends on time alone vectorised before the loop     150           91          memory: 3 arrays a member
    lax.map over batches of 8, 16, 32, 64 members                 -             50, 26, 21, 22
    unrolled twice, four times                                    same          +30 %, +60 %
    state as one stacked vector; drivers as one table             same          same
    every output kept, not only NEE                               +10 %         55-68       memory again
    without the XLA option of landcal_jax.configure()             2200-3800     +30 %

    value and gradient, in forward runs
    plain reverse mode                                            1.6-2.2       10-18
    jax.checkpoint on the step                                    1.6-1.9       4.7-6.7
    the same, 16 members at a time by lax.map                     -             3.4-3.7
    segments of 64 steps and the step checkpointed                1.8-2.8       3.3-3.9     <- taken, for both
    segments of 5 to 146 steps, the step checkpointed or not      same          same, within noise
    reverse mode unrolled four times                              4             25; 8-11 s to compile
    stacked state, plain reverse mode                             1.6           18
    without the XLA option: any of these                          4-6           4-13

The 6.5 of the checkpointed step is the price of fresh memory pages for 45 MB of saved pools: with an allocator that
keeps them (glibc.malloc.hugetlb=1) it falls to 3.5. Segments get there without touching the environment.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import compiled
import harness
import numpy as np

from landcal_jax.errors import complain

STEPS, MEMBERS, LATITUDE = 3650, 256, 52.0
MODES, MANY = ("default", "reference"), "members"
# A deciduous forest with living pools: CARDAMOM's order of model 400.
PARAMETERS = np.array([
    2e-3, 0.45, 0.18, 0.45, 1.15, 6e-5, 4e-3, 4e-3, 2.5e-5, 0.035, 18.0, 490.0, 0.3, 40.0, 660.0, 45.0, 60.0,
    120.0, 30.0, 130.0, 9000.0, 300.0, 12000.0])
COLUMNS = ("time", "temperature_min", "temperature_max", "shortwave", "co2", "doy", "burned_fraction")


def drivers(steps: int, seed: int = 20) -> np.ndarray:
    """Seasonal weather at 52 degrees north with a few small fires, as the (steps, 7) table of the C model."""
    rng = np.random.default_rng(seed)
    day = np.arange(steps) + 0.5
    season = -np.cos(2 * np.pi * (day - 15) / 365.25)
    spells = np.zeros(steps)  # weather lasts: an autoregressive series of a few days
    for i in range(1, steps):
        spells[i] = 0.8 * spells[i - 1] + rng.normal(0, 1.8)
    mean = 9 + 9 * season + spells
    half_range = np.abs(rng.normal(4.5, 1.5, steps)) + 0.5
    shortwave = (11 + 9 * season) * rng.uniform(0.3, 1.0, steps)
    burned = np.where(rng.random(steps) < 0.01, rng.uniform(0, 0.01, steps), 0.0)
    co2 = 380 + 2.2 * day / 365.25 + 3 * np.sin(2 * np.pi * day / 365.25)
    return np.stack([day, mean - half_range, mean + half_range, shortwave, co2, 1 + day % 365.25, burned], axis=1)


def members(count: int, seed: int = 21) -> np.ndarray:
    """`count` parameter vectors around PARAMETERS, 5 % apart."""
    spread = np.exp(0.05 * np.random.default_rng(seed).standard_normal((count, len(PARAMETERS))))
    vectors = PARAMETERS * spread
    vectors[:, 4] = 1.01 + (PARAMETERS[4] - 1.01) * spread[:, 4]  # a leaf lifespan stays above one year
    return vectors


def functions(mode: str, met: np.ndarray):
    """(forward, value_and_grad, forcing): NEE of a parameter vector, and half its sum of squares with the gradient."""
    import jax
    import jax.numpy as jnp

    from landcal_jax.model import simulate
    from landcal_jax.models import Dalec2
    from landcal_jax.models.dalec import make_forcing

    model = Dalec2() if mode == "default" else Dalec2.reference()
    names = model.parameter_names
    columns = dict(zip(COLUMNS, met.T, strict=True))
    forcing = make_forcing(columns, LATITUDE, columns["time"], columns["doy"], model.numerics.pi, False)

    def forward(vector, forcing):
        return simulate(model, dict(zip(names, vector, strict=True)), forcing, save=("nee",)).output.nee

    def cost(vector, forcing):
        return 0.5 * jnp.sum(forward(vector, forcing) ** 2)

    return forward, jax.value_and_grad(cost), forcing


def child(steps: int, count: int) -> None:
    """Body of a child process: write what its first gradients and its whole life took, in seconds."""
    harness.Benchmark("dalec_speed", None, cache=True, argv=[])
    import jax

    _, value_and_grad, forcing = functions("default", drivers(steps))
    seconds = {}
    for name, function, vectors in (
            ("one vector", value_and_grad, PARAMETERS), (MANY, jax.vmap(value_and_grad, (0, None)), members(count))):
        begin = time.process_time()
        jax.block_until_ready(jax.jit(function)(vectors, forcing))
        seconds[name] = time.process_time() - begin
    sys.stdout.write(json.dumps(seconds | {"process": time.process_time()}) + "\n")


def start_of_processes(steps: int, count: int) -> list[dict[str, float]]:
    """Seconds of a first and of a second process, with a cache folder that was empty before."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(steps), str(count)]
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": folder}
        runs = [subprocess.run(command, env=environment, capture_output=True, text=True) for _ in range(2)]
    for run in runs:
        if run.returncode:
            raise RuntimeError(complain(
                "a child process that ends", run.stderr[-4000:], f"dalec_speed.py {' '.join(command[2:])} by hand"))
    return [json.loads(run.stdout.splitlines()[-1]) for run in runs]


def collect(met: np.ndarray, count: int):
    """(calls for one vector, calls for `count` members, compile seconds), each by (mode, what)."""
    import jax

    one, many, seconds = {}, {}, {}
    vector, vectors = jax.numpy.asarray(PARAMETERS), jax.numpy.asarray(members(count))
    for mode in MODES:
        forward, value_and_grad, forcing = functions(mode, met)
        for what, function in (("forward", forward), ("gradient", value_and_grad)):
            single, seconds[mode, what, 1] = harness.compile_seconds(function, vector, forcing, clock=time.process_time)
            batch, seconds[mode, what, count] = harness.compile_seconds(
                jax.vmap(function, (0, None)), vectors, forcing, clock=time.process_time)
            one[mode, what] = functools.partial(single, vector, forcing)
            many[mode, what] = functools.partial(batch, vectors, forcing)
    return one, many, seconds


def check_agreement(one: dict, peer: compiled.Dalec400) -> None:
    """Refuse to compare the speed of two models that compute different things."""
    expected = peer(PARAMETERS).nee
    error = np.abs(np.asarray(one["reference", "forward"]()) - expected).max() / np.abs(expected).max()
    if not error < 1e-10:
        raise RuntimeError(complain(
            "NEE of the C model to 1e-10", f"a difference of {error:.2g}", "run tests/test_compiled.py"))


def report(bench: harness.Benchmark, single: dict, batch: dict, compile_times: dict, count: int) -> None:
    """The figures of the runs in this process."""
    bench.figure("C, one run", 1e3 * single["C"].median, "ms")
    bench.figure("C, driver-only terms prepared, one run", 1e3 * single["C, hoisted"].median, "ms")
    for mode in MODES:
        forward, gradient = single[mode, "forward"].median, single[mode, "gradient"].median
        bench.figure(f"{mode}: forward, one vector", 1e3 * forward, "ms")
        bench.figure(f"{mode}: C / forward, one vector", single["C"].median / forward, "1", "> 1")
        bench.figure(f"{mode}: gradient, one vector", 1e3 * gradient, "ms")
        bench.figure(f"{mode}: gradient / forward, one vector", gradient / forward, "1", "<= 3")
        forward, gradient = batch[mode, "forward"].median, batch[mode, "gradient"].median
        bench.figure(f"{mode}: forward, {count} members, each", 1e3 * forward / count, "ms")
        bench.figure(f"{mode}: C / forward, {count} members, each", batch["C"].median * count / forward, "1", ">= 5")
        bench.figure(f"{mode}: gradient, {count} members, each", 1e3 * gradient / count, "ms")
        bench.figure(f"{mode}: gradient / forward, {count} members", gradient / forward, "1", "<= 5")
        for size in (1, count):
            name = f"{mode}: compile gradient, {'one vector' if size == 1 else f'{size} members'}"
            bench.figure(name, compile_times[mode, "gradient", size], "s", "< 20")


def report_start(bench: harness.Benchmark, pairs: list, count: int) -> None:
    """The figures of first and second processes, medians over pairs."""
    def middle(name, which):
        return float(np.median([pair[which][name] for pair in pairs]))

    for name, words in (("one vector", "one vector"), (MANY, f"{count} members")):
        first, second = middle(name, 0), middle(name, 1)
        bench.figure(f"first gradient, {words}: first process", first, "s")
        bench.figure(f"first gradient, {words}: second process", second, "s")
        bench.figure(f"first gradient, {words}: second / first process", second / first, "1", "<= 0.25")
    bench.figure("first process with imports", middle("process", 0), "s")
    bench.figure("second process with imports", middle("process", 1), "s")


def main() -> None:
    """Measure and report."""
    if sys.argv[1:2] == ["--child"]:
        return child(*map(int, sys.argv[2:4]))
    bench = harness.Benchmark("dalec_speed", __doc__)
    steps, count = (365, 32) if bench.quick else (STEPS, MEMBERS)
    met = drivers(steps)
    peer, hoisted = (compiled.Dalec400(met, LATITUDE, 1.0, hoisted=choice) for choice in (False, True))
    one, many, compile_times = collect(met, count)
    check_agreement(one, peer)
    plain = {"C": functools.partial(peer, PARAMETERS), "C, hoisted": functools.partial(hoisted, PARAMETERS)}
    single = harness.interleave(plain | one, 3 if bench.quick else 101, clock=time.process_time)
    batch = harness.interleave(plain | many, 2 if bench.quick else 21, clock=time.process_time)
    report(bench, single, batch, compile_times, count)
    report_start(bench, [start_of_processes(steps, count) for _ in range(1 if bench.quick else 3)], count)
    bench.finish()


if __name__ == "__main__":
    main()
