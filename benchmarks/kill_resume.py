"""Does a calibration that is killed end with the same result as one that is not?

One run of `landcal calibrate` is left alone. Then, again and again in a folder of its own, the same command is killed
(SIGKILL, which no program can catch) at a random moment of that duration: while it imports, compiles, searches, solves,
estimates the model error, draws or writes. After each kill the folder may hold no file that looks like a result unless
all do; then `--resume` runs to the end, and every variable of posterior.nc and every attribute but the time of creation, the
seconds spent and the command line have to equal those of the unbroken run to the last bit, and so has parameters.csv.

`--kills N` (20), `--site NAME` calibrates a site of the catalogue instead of the twin experiment. A quick run takes two kills.
"""

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness

OWN = ("created", "seconds", "command")
RESULTS = ("posterior.nc", "parameters.csv", "report.html")


def options(parser) -> None:
    """Options of this script."""
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--site", help="a site of the catalogue instead of the twin experiment")


def command(folder: Path, site: str | None, *more: str) -> list[str]:
    """The command line of one run."""
    given = ["--site", site] if site else []
    return [sys.executable, "-c", "from landcal_jax.cli import main; main()", "calibrate", "--quiet", *given, "--out", str(folder), *more]


def same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same result to the last bit."""
    import xarray as xr

    first, second = (xr.load_dataset(folder / "posterior.nc") for folder in (one, other))
    for ds in (first, second):
        for name in OWN:
            ds.attrs.pop(name, None)
    return first.identical(second) and (one / "parameters.csv").read_bytes() == (other / "parameters.csv").read_bytes()


def killed(folder: Path, site: str | None, after: float) -> tuple[list[str], bool]:
    """Begin a run, kill it after some seconds; the results that are then there, and whether a checkpoint is."""
    process = subprocess.Popen(command(folder, site), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    return [name for name in RESULTS if (folder / name).exists()], any(folder.glob("unfinished/solve_*.npz"))


def main() -> None:
    """Kill, resume, compare."""
    bench = harness.Benchmark("kill_resume", __doc__, cores=None, options=options)
    kills, site = 2 if bench.quick else bench.arguments.kills, bench.arguments.site
    root, rng = Path(tempfile.mkdtemp(prefix="kill_resume_")), random.Random(0)
    try:
        # The first run fills the compile cache, so that the kills fall on the run as it usually is.
        subprocess.run(command(root / "first", site), check=True)
        begin = time.perf_counter()
        subprocess.run(command(root / "unbroken", site), check=True)
        duration = time.perf_counter() - begin
        equal = whole = with_checkpoint = 0
        for number in range(kills):
            folder, after = root / f"killed_{number}", rng.uniform(0, duration)
            present, checkpoint = killed(folder, site, after)
            # The move of results that are all whole may be cut in the middle; the mark of it is then there.
            whole += len(present) in (0, len(RESULTS)) or (folder / "unfinished" / "complete").exists()
            with_checkpoint += checkpoint
            subprocess.run(command(folder, site, "--resume"), check=True)
            equal += same(folder, root / "unbroken")
            print(f"killed after {after:.1f} of {duration:.1f} s, {'a checkpoint' if checkpoint else 'no checkpoint'} there; "
                  f"{equal} of {number + 1} the same", flush=True)
            shutil.rmtree(folder)
        bench.figure("resumed runs that equal the unbroken one", equal / kills, "1", target=">= 1")
        bench.figure("kills that left no half result", whole / kills, "1", target=">= 1")
        bench.figure("kills that found a checkpoint", with_checkpoint / kills, "1")
        bench.figure("the two unbroken runs are equal", float(same(root / "first", root / "unbroken")), "1", target=">= 1")
        bench.figure("unbroken run", duration, "s")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    bench.finish()


if __name__ == "__main__":
    main()
