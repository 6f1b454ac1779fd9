"""What all benchmarks share: their options, one pinned core, interleaved timing, and the table and JSON at the end.

A benchmark script reads

    import harness
    bench = harness.Benchmark("name", __doc__)      # first: it pins the process and sets JAX up, before JAX starts
    ...
    bench.figure("gradient / forward run", 2.1, "1", target="<= 3")
    bench.finish()

Options of every script: `--quick` (small sizes, few repeats; no target is claimed), `--json FILE`, `--figures DIR`.

Timing: the things to be compared are run in turn, again and again, and the median of each is taken. Where a process is
pinned to one core, `clock=time.process_time` counts the seconds of that core which the process itself used: on an idle
machine they equal the time on the wall, on a machine that others use they are what it would have been, nearly (the
others still share caches and memory). Ratios hold well; absolute times hold for this machine and its load.
"""

import argparse
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from landcal_jax.errors import complain

PACKAGES = (
    "landcal_jax", "jax", "jaxlib", "equinox", "numpy", "scipy", "optax", "optimistix", "numpyro", "blackjax", "xarray")
TARGET = re.compile(r"^(<=|>=|<|>) *([-+.\deE]+)$")
COMPARE = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b, "<": lambda a, b: a < b, ">": lambda a, b: a > b}


# Read when NumPy is imported, which has to be after this module. On one core, or on cores that others use, the threads of OpenBLAS wait
# for each other so long that an SVD takes 25 times as long.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

Clock = Callable[[], float]


class Timing(NamedTuple):
    """Seconds a call: the median and minimum of the interleaved repeats."""

    median: float
    minimum: float
    repeats: int


def interleave(
    calls: Mapping[str, Callable[[], Any]], repeats: int, *, warm: int = 1, clock: Clock = time.perf_counter
) -> dict[str, Timing]:
    """Time `calls` in turn, `repeats` times each, after `warm` calls that are not timed; wait for JAX's results."""
    import jax

    seconds = {name: [] for name in calls}
    for turn in range(warm + repeats):
        for name, call in calls.items():
            begin = clock()
            jax.block_until_ready(call())
            if turn >= warm:
                seconds[name].append(clock() - begin)
    return {name: Timing(statistics.median(each), min(each), len(each)) for name, each in seconds.items()}


def compile_seconds(
    function: Callable, *arguments: Any, clock: Clock = time.perf_counter
) -> tuple[Callable, float]:
    """Trace and compile `function` for `arguments` without any cache: (compiled function, seconds)."""
    import jax

    begin = clock()
    compiled = jax.jit(function).lower(*arguments).compile()
    return compiled, clock() - begin


def pin(core: int | None = None) -> int:
    """Bind this process to one core (the last that it may use, if None), where the system can; returns their number."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0)) if core is None else core})
        return 1
    return os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a figure may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What a figure may depend on of this machine; nothing that names it or its owner."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = re.findall(r"^model name\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)
        model = models[0] if models else model
    facts = {"cpu": model, "cores": os.cpu_count(), "system": f"{platform.system()} {platform.machine()}"}
    if hasattr(os, "getloadavg"):
        facts["load"] = round(os.getloadavg()[0], 2)
    return facts


class Benchmark:
    """One run of a benchmark: options, figures, and what is written at the end.

    `description` is the script's docstring. `cores=None` leaves the process unpinned. `cache=False` keeps the
    persistent compilation cache off, so that compile times are those of a compilation. `options` may add options of
    the script's own to the parser; they are in `arguments`. `quick`: take small sizes; `figures_folder`: draw into it,
    None: draw nothing.
    """

    def __init__(
        self,
        name: str,
        description: str | None,
        *,
        cores: int | None = 1,
        cache: bool = False,
        options: Callable[[argparse.ArgumentParser], None] | None = None,
        argv: list[str] | None = None,
    ):
        parser = argparse.ArgumentParser(
            prog=f"{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--quick", action="store_true", help="small sizes and few repeats; claims no target")
        parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
        parser.add_argument("--figures", type=Path, metavar="DIR", help="draw into DIR")
        if options is not None:
            options(parser)
        self.name = name
        self.arguments = parser.parse_args(argv)
        self.quick: bool = self.arguments.quick
        self.figures_folder: Path | None = self.arguments.figures
        self.figures: list[dict[str, Any]] = []
        self._machine = machine()
        self._machine["cores_used"] = pin() if cores == 1 else os.cpu_count()
        self._begin = time.perf_counter()

        import jax

        import landcal_jax

        landcal_jax.configure(cache=None)
        jax.config.update("jax_enable_compilation_cache", cache)
        if self.figures_folder is not None:
            self.figures_folder.mkdir(parents=True, exist_ok=True)

    def figure(self, name: str, value: float, unit: str, target: str | None = None) -> float:
        """Keep one figure; `target` is a comparison such as "<= 5", which a quick run leaves out. Returns the value."""
        match = TARGET.match(target) if target else None
        if target and not match:
            raise ValueError(complain("a target such as '<= 5'", repr(target), "one of <=, >=, <, > and a number"))
        value, holds = float(value), None
        if match and not self.quick:
            holds = math.isfinite(value) and COMPARE[match[1]](value, float(match[2]))
        self.figures.append({
            "name": name, "value": value if math.isfinite(value) else None, "unit": unit,
            "target": None if self.quick else target, "holds": holds})
        return value

    def result(self) -> dict[str, Any]:
        """What `--json` writes."""
        facts = self._machine | {"seconds": round(time.perf_counter() - self._begin, 1)}
        return {"benchmark": self.name, "versions": versions(), "machine": facts, "figures": self.figures}

    def finish(self) -> None:
        """Print the table and write the JSON that was asked for."""
        result = self.result()
        _print_table(result, self.quick)
        if self.arguments.json is not None:
            self.arguments.json.parent.mkdir(parents=True, exist_ok=True)
            self.arguments.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")


def _print_table(result: dict[str, Any], quick: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    facts = result["machine"]
    used = f"{facts['cores_used']} of {facts['cores']} cores, load {facts.get('load', '?')}"
    table = Table(
        title=f"{result['benchmark']}{' (quick: no targets)' if quick else ''}",
        caption=f"{facts['cpu']}, {used}; jax {result['versions'].get('jax')}; {facts['seconds']:.0f} s")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column("target")
    table.add_column("holds")
    for figure in result["figures"]:
        value = "not finite" if figure["value"] is None else f"{figure['value']:.4g}"
        holds = {True: "[green]yes", False: "[bold red]NO", None: ""}[figure["holds"]]
        table.add_row(figure["name"], value, figure["unit"], figure["target"] or "", holds)
    Console().print(table)
