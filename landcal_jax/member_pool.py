"""Many runs of an external model at once: on threads of this machine, or on a `dask.distributed` client.

One function, `run_member`, does a member from its working directory to its record, wherever it runs; so what a worker has
finished is on disk even if the ensemble that asked for it is dead by then.
"""

import concurrent.futures
import contextlib
import functools
import importlib.util
import inspect
import os
import pickle
import queue
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.executable import ERR, Executable, RunFailed, Running, Stopped, tail
from landcal_jax.member_store import Member, MemberStore


@dataclass(frozen=True)
class Job:
    """One member to run: the model, its parameters, the streams and shapes it has to give, and where it is kept.

    `retries`: runs made again after a failure. `again`: run it once more though its record says that it failed.
    `keep`: whose working directories stay. `made`: runs made before, where no store has counted them.
    """

    key: str
    run: Callable | Executable
    theta: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    store: MemberStore | None
    retries: int = 0
    again: bool = False
    keep: Literal["none", "failed", "all"] = "failed"
    made: int = 0


def known(job: Job) -> Member | None:
    """The record of a member that need not run; None if it has to."""
    kept = None if job.store is None else job.store.load(job.key)
    if kept is None or (not kept.finished and (job.again or kept.attempts <= job.retries)):
        return None
    return kept


def run_member(job: Job, running: Running | None = None, begun: Callable[[int, str], None] | None = None) -> Member:
    """Run one member to its end, or find that it has been run; raises nothing for a run that fails, which is in its record.

    `begun` is called before each run with its number, from 1, and its working directory ("" if it has none).
    """
    kept = known(job)
    if kept is not None:
        return kept
    before = None if job.store is None or job.again else job.store.load(job.key)
    attempts = job.made if before is None else before.attempts
    while True:
        attempts += 1
        member = replace(_attempt(job, running, None if begun is None else functools.partial(begun, attempts)), attempts=attempts)
        if job.store is not None:
            job.store.save(member)
        if member.finished or attempts > job.retries:
            return member


def _attempt(job: Job, running: Running | None, begun: Callable[[str], None] | None) -> Member:
    start = time.perf_counter()
    if not all(np.isfinite(value).all() for value in job.theta.values()):
        return Member(job.key, "failed", job.theta, None, "parameters that are not finite")
    streams, message, errors, folder = None, "", "", None
    with contextlib.ExitStack() as stack:
        if isinstance(job.run, Executable) or _wants_folder(job.run):
            folder = _work_folder(job)
            stack.callback(_clear, job, folder, lambda: streams is not None)
        if isinstance(job.run, Executable):
            # A mistake in templates or names is one of all members: it is raised, and no member is said to have failed.
            job.run.prepare(job.theta, folder)
        if begun is not None:
            begun("" if folder is None else str(folder))
        try:
            found = job.run(folder, running) if isinstance(job.run, Executable) else \
                job.run(dict(job.theta), folder) if folder else job.run(dict(job.theta))
            streams = _checked(found, job.shapes)
        except RunFailed as error:
            message = str(error)
        except Stopped:
            raise
        except (Exception, SystemExit) as error:
            message = _told(error)
        errors = "" if folder is None else tail(folder / ERR)
    where = str(folder) if folder is not None and folder.exists() else ""
    return Member(job.key, "failed" if streams is None else "finished", job.theta, streams, message, 1,
                  time.perf_counter() - start, where, errors)


def _wants_folder(run: Callable) -> bool:
    try:
        return "folder" in inspect.signature(run).parameters
    except (TypeError, ValueError):
        return False


def _work_folder(job: Job) -> Path:
    """An empty directory for one run, never used before: a run of a killed ensemble may still be at work in its own."""
    parent = None if job.store is None else job.store.folder / "work"
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{job.key[:16]}-", dir=parent))


def _clear(job: Job, folder: Path, finished: Callable[[], bool]) -> None:
    """Remove the directory of a run, unless it is to be kept, and what killed runs of the same member have left."""
    stays = job.store is not None and (job.keep == "all" or (job.keep == "failed" and not finished()))
    for path in [folder] if job.store is None else folder.parent.glob(f"{job.key[:16]}-*"):
        if path != folder or not stays:
            shutil.rmtree(path, ignore_errors=True)


def _checked(found: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The streams that were asked for, in their shapes."""
    if isinstance(found, xr.Dataset):
        found = {str(name): found[name].values for name in found.data_vars}
    if not isinstance(found, Mapping) or set(shapes) - set(found):
        got = ", ".join(map(str, found)) or "nothing" if isinstance(found, Mapping) else f"a {type(found).__name__}"
        raise RunFailed(f"the run gave {got} instead of the streams {', '.join(shapes)}")
    streams = {}
    for name, shape in shapes.items():
        values = np.array(found[name], dtype=float)
        values = values[None] if values.ndim == 1 and len(shape) == 2 else values
        if values.shape != tuple(shape):
            raise RunFailed(f"the run gave {name} in the shape {values.shape} instead of {tuple(shape)} (site, n_obs)")
        streams[name] = values
    return streams


def _told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" (line {frames[-1].lineno} of {Path(frames[-1].filename).name})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}{where}"


# ---------------------------------------------------------------------- where members run


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_threads(jobs: Sequence[Job], workers: int) -> Iterator[Member]:
    """Run jobs on threads of this process; an interruption ends their programs and records nothing of them."""
    running = Running()
    with concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="landcal") as pool:
        ended: queue.SimpleQueue = queue.SimpleQueue()
        for job in jobs:
            pool.submit(run_member, job, running).add_done_callback(ended.put)
        try:
            for _ in jobs:
                yield _next(ended).result()
        except BaseException:
            running.stop()
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _next(ended: queue.SimpleQueue) -> concurrent.futures.Future:
    # Not one long wait: a signal that another thread has caught would not end it.
    while True:
        with contextlib.suppress(queue.Empty):
            return ended.get(timeout=0.5)


def on_dask(jobs: Sequence[Job], client: Any) -> Iterator[Member]:
    """Run jobs on a `dask.distributed.Client`; the workers must see the folder of the store. A lost worker's members run elsewhere."""
    from dask.distributed import as_completed

    for job in jobs[:1]:
        _by_value(job.run)
    futures = {client.submit(run_member, job, key=f"landcal-{job.key}", pure=False): job for job in jobs}
    try:
        for future in as_completed(list(futures)):
            if future.status == "error" and type(future.exception()).__name__ == "KilledWorker":
                yield lost(futures[future], "the workers that ran it were lost, more often than dask allows")
            else:
                yield future.result()
    except BaseException:
        client.cancel(list(futures))
        raise


def lost(job: Job, message: str, attempts: int = 1, folder: str = "", seconds: float = 0.0) -> Member:
    """The record of a member whose run has ended the process it was in, or was ended with it."""
    if folder:
        _clear(job, Path(folder), lambda: False)
    member = Member(job.key, "failed", job.theta, None, message, attempts, seconds, folder if folder and Path(folder).exists() else "")
    if job.store is not None:
        job.store.save(member)
    return member


def _by_value(run: Any) -> None:
    """Send functions of a single file of the user, which workers need not be able to import, by their code."""
    import cloudpickle

    for function in (run, getattr(run, "outputs", None), getattr(run, "func", None)):
        module = sys.modules.get(getattr(function, "__module__", None) or "__main__")
        file = getattr(module, "__file__", None) or ""
        installed = "site-packages" in file or file.startswith((sys.prefix, sys.base_prefix))
        if file and module.__name__ != "__main__" and not module.__package__ and not installed:
            cloudpickle.register_pickle_by_value(module)


def _importable(module: str) -> bool:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return False
    # A module that was loaded from a file under another name is known here, but to no other process.
    return spec is not None and not module.startswith("_landcal_")


def check_sendable(run: Any) -> None:
    """Raise ValueError if another process could not load the function `run`."""
    try:
        pickle.dumps(run)
        lost = not _importable(run.__module__) and run.__module__ != "__main__"
    except Exception:
        lost = True
    if lost:
        raise ValueError(complain("a model that another process can import, for processes=True", f"{getattr(run, '__qualname__', run)!r}",
                                  "a function at the top of a module that can be imported; or threads (processes=False)"))
