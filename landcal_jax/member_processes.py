"""Members of an ensemble on processes of this machine, for Python models that hold the interpreter, crash it, or hang.

A process that dies takes one member with it, and it is known which: each process has a pipe of its own. One that is at a run for
too long is killed with all that it has started. Then another process takes its place.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from landcal_jax.errors import complain
from landcal_jax.member_pool import Job, lost, run_member
from landcal_jax.member_store import Member

CRASHED = "the run ended the process it was in (a crash of compiled code, or no memory left)"


def on_processes(jobs: Sequence[Job], workers: int, timeout: float | None = None) -> Iterator[Member]:
    """Run jobs on fresh processes, in the order in which they end; those that crash, or take more than `timeout` seconds, have failed.

    An interruption ends all processes and records nothing of what they did. Raises RuntimeError if processes cannot start here.
    """
    waiting, busy = deque(jobs), []
    idle: list[_Worker] = []
    try:
        while waiting or busy:
            while waiting and len(busy) < workers:
                worker = idle.pop() if idle else _Worker.started()
                busy.append(worker)
                worker.take(waiting.popleft())
            # Not one long wait: a signal that another thread has caught would not end it.
            heard = wait([worker.pipe for worker in busy], 0.5 if timeout is None else min(0.5, timeout / 10))
            for worker in list(busy):
                member = worker.answer() if worker.pipe in heard else worker.overdue(timeout)
                if member is None:
                    continue
                busy.remove(worker)
                if worker.process.is_alive():
                    idle.append(worker)
                if not member.finished and not worker.alive and member.attempts <= worker.job.retries:
                    waiting.append(replace(worker.job, again=False, made=member.attempts))
                else:
                    yield member
        for worker in idle:
            worker.dismiss()
    finally:
        for worker in busy + idle:
            worker.kill()


@dataclass
class _Worker:
    """One process, its pipe, and what it is at: the run `attempt` of `job` in `folder`, since `start` (seconds of a clock).

    `served`: it has begun a run before.
    """

    process: BaseProcess
    pipe: Connection
    job: Job | None = None
    attempt: int = 0
    folder: str = ""
    start: float = 0.0
    served: bool = False
    alive: bool = True

    @classmethod
    def started(cls) -> "_Worker":
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(there,), name="landcal")
        process.start()
        # Only the process holds this end now, so that its death is heard.
        there.close()
        return cls(process, here)

    def take(self, job: Job) -> None:
        self.job, self.attempt, self.folder = job, 0, ""
        # A process that has died meanwhile is heard as such.
        with contextlib.suppress(BrokenPipeError):
            self.pipe.send(job)

    def answer(self) -> Member | None:
        """What the process says; None where a run has only begun."""
        try:
            kind, content = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return self._gone(CRASHED)
        if kind == "begun":
            self.attempt, self.folder, self.start, self.served = *content, time.monotonic(), True
            return None
        if kind == "raised":
            raise content
        return content

    def overdue(self, timeout: float | None) -> Member | None:
        """The failed member if its run takes too long; None while it may go on."""
        if timeout is None or not self.attempt or time.monotonic() - self.start < timeout:
            return None
        return self._gone(f"the run was killed after {timeout:g} seconds without an end")

    def kill(self) -> None:
        """End the process with all that it has started."""
        self.alive = False
        with contextlib.suppress(ProcessLookupError, PermissionError, AttributeError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def dismiss(self) -> None:
        """Let an idle process end by itself."""
        self.pipe.close()
        self.process.join(5.0)

    def _gone(self, message: str) -> Member:
        self.kill()
        if not self.served:
            raise RuntimeError(complain(
                "a process that takes members", f"one that ended with {self.process.exitcode} before its first run",
                'start the script below `if __name__ == "__main__":`, since processes import it; or processes=False'))
        return lost(self.job, message, max(self.attempt, 1), self.folder, time.monotonic() - self.start)


def _serve(pipe: Connection) -> None:
    """What a process does: take a job, run it, send its member, until there are no more."""
    if hasattr(os, "setsid"):
        os.setsid()  # a group of its own, which can be killed as a whole
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job = pipe.recv()
            answer = "ended", run_member(job, begun=lambda attempt, folder: pipe.send(("begun", (attempt, folder))))
        except (EOFError, BrokenPipeError):
            return
        except BaseException as error:
            answer = "raised", RuntimeError(f"{type(error).__name__}: {error}")
        pipe.send(answer)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    if hasattr(os, "killpg"):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)
