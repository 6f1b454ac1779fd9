"""One verb for every solver: `solve(problem, solver) -> Result`. This file knows no concrete solver.

A solver is a value with `init(problem, z, key)` and `step(problem, state)`, both pure and traced by JAX; the loop,
the progress, the history and the clock are here. The state that a solver carries has to offer the fields of
`Progress`. (The module is not called `solve`: the package loads its names late, and a module would hide the function.)
"""

import abc
import contextlib
import enum
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import Array

from landcal_jax import checkpoint as checkpoints
from landcal_jax.errors import complain
from landcal_jax.model import Theta
from landcal_jax.problem import Problem


class Status(enum.IntEnum):
    """How a solve ended; `sentence` says it in words. Negative is a failure, zero is still running."""

    RUNNING = 0
    CONVERGED = 1
    NO_DECREASE = 2
    MAX_STEPS = 3
    LEFT = 4
    NOT_FINITE = -1

    @property
    def sentence(self) -> str:
        """The status in words."""
        return {
            Status.RUNNING: "still running",
            Status.CONVERGED: "converged: the expected further decrease of J is below the tolerance",
            Status.NO_DECREASE: "stopped: no step that was tried decreases J, as happens at kinks and at the limit of rounding",
            Status.LEFT: "left: other starts were lower",
            Status.MAX_STEPS: "stopped at the largest number of steps before it converged",
            Status.NOT_FINITE: "failed: J is NaN or infinite at the start, or its gradient is where the solver stands",
        }[self]


class Counts(NamedTuple):
    """Work done: forward runs of the map, reverse-mode gradients, tangent-linear (or adjoint) products."""

    forward: Array
    gradient: Array
    jvp: Array

    @classmethod
    def of(cls, forward=0, gradient=0, jvp=0) -> "Counts":
        """Counts from whole numbers."""
        return cls(*(jnp.asarray(number, jnp.int64 if jax.config.jax_enable_x64 else jnp.int32) for number in (forward, gradient, jvp)))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))


class Progress(eqx.Module):
    """What every solver shows of its state: the best point so far, J by term there, status code and work done."""

    z: Array
    terms: dict[str, Array]
    status: Array
    counts: Counts


class AbstractGradientSolver(eqx.Module):
    """A solver that uses derivatives of the problem: `init` and `step` are traced by JAX.

    `default_max_steps` bounds the loop when the caller does not; `steps_per_call` iterations run between two looks.
    """

    default_max_steps: eqx.AbstractVar[int]
    steps_per_call: eqx.AbstractVar[int]

    @abc.abstractmethod
    def starts(self, problem: Problem, z0: Array | None, key: Array | None) -> Array:
        """The first point (n,), or points (start, n)."""

    @abc.abstractmethod
    def init(self, problem: Problem, z: Array) -> Any:
        """State at the start."""

    @abc.abstractmethod
    def step(self, problem: Problem, state: Any) -> Any:
        """State after one iteration; a state whose status is not RUNNING must be returned as it is."""

    @abc.abstractmethod
    def progress(self, state: Any) -> Progress:
        """What `state` shows; a multi-start shows its best member, RUNNING while any member runs."""

    def details(self, state: Any) -> dict[str, np.ndarray]:
        """More to keep in `Result.details`, such as the end of every start."""
        return {}


class Result(NamedTuple):
    """What a solve returns.

    `z` (n,): MAP in whitened space; `theta`: the same in physical units by name; `parameters`: a Dataset with units;
    `terms`: J by term; `history`: term -> (iteration,) with the start first; `status`; `counts`: forward runs,
    gradients and tangent products; `seconds`: {"compile", "run"}; `details`: more from the solver, by name.
    """

    z: Array
    theta: Theta
    parameters: xr.Dataset
    terms: dict[str, float]
    history: dict[str, np.ndarray]
    status: Status
    counts: dict[str, int]
    seconds: dict[str, float]
    details: dict[str, np.ndarray]

    @property
    def cost(self) -> float:
        """J at the solution."""
        return sum(self.terms.values())

    def __str__(self) -> str:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in self.terms.items())
        return f"J = {self.cost:.6g} ({terms}) after {len(self.history['prior']) - 1} iterations; {self.status.sentence}"


class SolveError(RuntimeError):
    """A solve failed; `result` holds what there is."""

    def __init__(self, message: str, result: Result):
        super().__init__(message)
        self.result = result


def solve(
    problem: Problem,
    solver: AbstractGradientSolver,
    *,
    key: Array | int | None = None,
    z0: Array | None = None,
    max_steps: int | None = None,
    throw: bool = True,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
) -> Result:
    """Minimise J of `problem` with `solver`.

    `z0` (n,): first guess, the space's default without it. `key`: seed or JAX key for solvers that draw (multi-start).
    `max_steps` bounds the iterations. A failed solve raises `SolveError` unless `throw=False`, which returns it with
    its status. `progress` shows J by term for what takes more than two seconds.
    `checkpoint`: a file that keeps the state, written at most every `checkpoint_seconds` and at the end. If it is there, the
    solve goes on from it and ends with the same bits as one that was never interrupted; a finished one returns at once.
    Raises TypeError for a forward map without derivatives, ValueError for a z0 of the wrong shape or a checkpoint of
    another run.
    """
    problem.require_gradient(type(solver).__name__)
    z0 = _first_guess(problem, z0)
    key = jax.random.key(key) if isinstance(key, int) else key
    max_steps = solver.default_max_steps if max_steps is None else max_steps
    with _display(progress) as show:
        run = _Run(problem, solver, z0, key, checkpoint, checkpoint_seconds)
        try:
            while run.done < max_steps and run.status is Status.RUNNING:
                run.advance(min(solver.steps_per_call, max_steps - run.done))
                show(run.done, max_steps, run.shown.terms)
        except KeyboardInterrupt:
            run.save()
            raise
    run.save()
    result = run.result()
    if result.status < 0 and throw:
        raise SolveError(complain("a finite J with a finite gradient", result.status.sentence,
                                  "problem.terms(z0) shows the term; `landcal check` scans the prior box"), result)
    return result


class _Run:
    """One solve on its way: the state, what it shows, J by term so far, and the file that keeps them."""

    def __init__(self, problem, solver, z0, key, file, every):
        self.problem, self.solver, self.clock, self.every = problem, solver, _Clock(), every
        self.file = None if file is None else Path(file)
        # A JAX key is hashed by its data; the fingerprint of a run without checkpoint is never asked for.
        self.belongs_to = "" if file is None else checkpoints.fingerprint(problem, solver, z0, key)
        saved = None if file is None else checkpoints.load(self.file, self.belongs_to)
        if saved is None:
            start = solver.starts(problem, z0, key)
            self.start_shape, self.done, self.spent = start.shape, 0, {}
            self.state, self.shown = _init(problem, solver, start)
            self.history = {name: [float(value)] for name, value in self.shown.terms.items()}
            self.save()
        else:
            self.start_shape, self.done, self.spent = saved.start_shape, saved.done, saved.seconds
            start = jax.ShapeDtypeStruct(saved.start_shape, z0.dtype)
            structure = eqx.filter_eval_shape(lambda problem, start: solver.init(problem, start), problem, start)
            self.state = checkpoints.restore(structure, saved.leaves, self.file)
            self.shown = _show(solver, self.state)
            self.history = {name: values.tolist() for name, values in saved.history.items()}
            self.kept, self.saved_at = self.done, time.perf_counter()

    @property
    def status(self) -> Status:
        return Status(int(self.shown.status))

    def advance(self, number: int) -> None:
        """Take `number` steps; those after the end are not kept in the history."""
        state, trail = jax.block_until_ready(_advance(self.problem, self.solver, self.state, jnp.asarray(number)))
        running = np.asarray(trail.status)[:number] == Status.RUNNING
        kept = number if running.all() else int(np.argmin(running)) + 1
        for name, values in trail.terms.items():
            self.history[name] += np.asarray(values)[:kept].tolist()
        self.state, self.shown = state, jax.tree.map(lambda leaf: leaf[number - 1], trail)
        self.done += number
        if self.file is not None and time.perf_counter() - self.saved_at > self.every:
            self.save()

    def save(self) -> None:
        """Write the checkpoint if there is a file for it and something new to keep."""
        if self.file is not None and getattr(self, "kept", None) != self.done:
            checkpoints.save(self.file, self.belongs_to, self.start_shape, self.state, self.done, self.history, self.seconds())
            self.kept, self.saved_at = self.done, time.perf_counter()

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def result(self) -> Result:
        end, theta = self.shown, self.problem.space.physical(self.shown.z)
        return Result(
            z=end.z, theta=theta, parameters=self.problem.space.to_dataset(theta),
            terms={name: float(value) for name, value in end.terms.items()},
            history={name: np.array(values) for name, values in self.history.items()},
            status=Status.MAX_STEPS if self.status is Status.RUNNING else self.status,
            counts=_counts(self.problem, end.counts), seconds=self.seconds(), details=self.solver.details(self.state))


@eqx.filter_jit
def _show(solver, state):
    return solver.progress(state)


@eqx.filter_jit
def _init(problem, solver, start):
    state = solver.init(problem, start)
    return state, solver.progress(state)


@eqx.filter_jit
def _advance(problem, solver, state, number):
    """Up to `steps_per_call` steps in one compiled call, with what each one shows; those beyond `number` do nothing."""
    def one(state, n):
        state = jax.lax.cond(n < number, lambda state: solver.step(problem, state), lambda state: state, state)
        return state, solver.progress(state)

    return jax.lax.scan(one, state, jnp.arange(solver.steps_per_call))


def _first_guess(problem: Problem, z0) -> Array:
    z0 = problem.space.default_z if z0 is None else jnp.asarray(z0, float)
    if not np.isfinite(z0).all():
        wrong = np.array(problem.space.labels)[~np.isfinite(np.asarray(z0))] if z0.shape == (problem.space.size,) else ["z0"]
        raise ValueError(complain("a finite first guess z0", f"NaN or infinity for {', '.join(wrong)}", "z0=None takes the default"))
    if z0.shape != (problem.space.size,):
        raise ValueError(complain(f"a first guess z0 of shape ({problem.space.size},)", f"shape {z0.shape}",
                                  "problem.space.whiten(theta) makes one from physical parameters"))
    return z0


def _counts(problem: Problem, counts: Counts) -> dict[str, int]:
    numbers = {name: int(number) for name, number in counts._asdict().items()}
    if problem.difference_step is not None:
        # Derivatives were made of runs: a gradient of n + 1, a column of the Jacobian of one.
        numbers["forward"] += numbers["gradient"] * (problem.space.size + 1) + numbers["jvp"]
        numbers["gradient"] = numbers["jvp"] = 0
    return numbers


class _Clock:
    """Seconds of compiling (tracing included) and of running, apart."""

    _compiling: list[tuple[float, float]] = []
    _listening = False

    def __init__(self):
        # JAX reports the time of each compilation to listeners; one is enough for the life of the process.
        if not _Clock._listening:
            jax.monitoring.register_event_duration_secs_listener(_Clock._hear)
            _Clock._listening = True
        self.start = time.perf_counter()

    @staticmethod
    def _hear(event: str, seconds: float, **_):
        if event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            # The parts of a compilation are reported before the whole, which takes their place.
            while _Clock._compiling and _Clock._compiling[-1][0] >= end - seconds:
                _Clock._compiling.pop()
            _Clock._compiling.append((end - seconds, end))

    def seconds(self) -> dict[str, float]:
        total = time.perf_counter() - self.start
        compiling = min(sum(end - start for start, end in _Clock._compiling if start >= self.start), total)
        return {"compile": compiling, "run": total - compiling}


@contextlib.contextmanager
def _display(wanted: bool, patience: float = 2.0):
    """J by term, once something has run for `patience` seconds: a live line, or in a log a plain one every ten seconds."""
    if not wanted:
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(TextColumn("solving"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TextColumn("{task.fields[terms]}"), transient=True)
    task = bar.add_task("solve", terms="compiling", total=None)
    timer = threading.Timer(patience, bar.start)
    timer.daemon = True
    timer.start()

    said = time.perf_counter()

    def show(done, total, terms):
        nonlocal said
        text = ", ".join(f"{name} {float(value):.4g}" for name, value in terms.items())
        bar.update(task, completed=done, total=total, terms=f"J: {text}")
        if not bar.console.is_terminal and time.perf_counter() - said > 10:
            said = time.perf_counter()
            bar.console.print(f"solving, step {done}: J: {text}", highlight=False, markup=False)

    try:
        yield show
    finally:
        timer.cancel()
        timer.join()
        bar.stop()
