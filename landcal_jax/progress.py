"""How far a long run is: a live line in a terminal, a plain one now and then in a log. Nobody has to pass it on."""

import contextlib
import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MEMBERS: contextvars.ContextVar[Callable[[int, int], None] | None] = contextvars.ContextVar("members", default=None)


def members(done: int, total: int) -> None:
    """Say that `done` of `total` members of one batch have run; heard only inside of `display`."""
    hear = _MEMBERS.get()
    if hear is not None:
        hear(done, total)


@contextlib.contextmanager
def display(
    wanted: bool, doing: str = "solving", unit: str = "step", values: str = "J: ", patience: float = 2.0,
) -> Iterator[Callable[[int, int | None, Mapping[str, float]], None]]:
    """Show J by term, once something has run for `patience` seconds, and how many members of a batch are done.

    In a terminal that is a live line, elsewhere a plain one every ten seconds. The function that is given wants (iterations done,
    most iterations or None, J by term). `doing`, `unit` of what is counted, `values`, what stands before the terms: in words.
    """
    if not wanted:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[batch]}{task.fields[terms]}"), transient=True)
    task = bar.add_task("solve", terms="compiling", batch="", total=None)
    timer = threading.Timer(patience, bar.start)
    timer.daemon = True
    timer.start()
    said, last = time.perf_counter(), (f"{unit} 0", f"{values}nothing has run yet")

    def say(text: str) -> None:
        nonlocal said
        if not bar.console.is_terminal and time.perf_counter() - said > 10:
            said = time.perf_counter()
            bar.console.print(f"{doing}, {text}", highlight=False, markup=False)

    def show(done, total, terms):
        nonlocal last
        of_all = f" of {total}" if total else ""
        last = f"{unit} {done}{of_all}", values + ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
        bar.update(task, completed=done, total=total, terms=last[1], batch="")
        say(f"{last[0]}: {last[1]}")

    def show_members(done, total):
        bar.update(task, batch=f"member {done} of {total}; ")
        say(f"{last[0]}, member {done} of {total}: {last[1]}")

    heard = _MEMBERS.set(show_members)
    try:
        yield show
    finally:
        _MEMBERS.reset(heard)
        timer.cancel()
        timer.join()
        bar.stop()


def sampled(run: Any, begin: Callable[[], None], wanted: bool, unit: str) -> Any:
    """Begin the run of a sampler and advance it to its end, shown on the way if that is `wanted`; returns its posterior.

    It is saved at its end, and where it is interrupted. `unit`: of what `run.done` counts, in a word.
    """
    with display(wanted, "sampling", unit, "") as show:
        try:
            begin()
            while not run.finished:
                run.advance()
                show(*run.shown())
        except KeyboardInterrupt:
            run.save()
            raise
    run.save()
    return run.posterior()
