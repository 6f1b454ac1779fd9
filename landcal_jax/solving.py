"""One verb for every solver: `solve(problem, solver) -> Result`. The loop, the progress, the history, the clock, the checkpoints.

(The module is not called `solve`: the package loads its names late, and a module would hide the function.)
"""

import time
from collections.abc import Callable
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import checkpoint as checkpoints
from landcal_jax import progress as progress_line
from landcal_jax.errors import complain
from landcal_jax.members import FailedRuns, run_members
from landcal_jax.problem import Problem
from landcal_jax.solvers import AbstractEnsembleSolver, AbstractGradientSolver, Counts, Progress, Result, SolveError, Status


def solve(
    problem: Problem,
    solver: AbstractGradientSolver | AbstractEnsembleSolver,
    *,
    key: Array | int | None = None,
    z0: Array | Result | None = None,
    max_steps: int | None = None,
    throw: bool = True,
    progress: bool = True,
    checkpoint: str | Path | None = None,
    checkpoint_seconds: float = 5.0,
    failed: FailedRuns | None = None,
    watch: Callable[[Progress], bool | None] | None = None,
) -> Result:
    """Minimise J of `problem` with `solver`.

    `z0` (n,): first guess, the space's default without it; or the Result of another solve, so that what an ensemble or a global
    search has found is where a gradient solver begins. `key`: seed or JAX key for solvers that draw (multi-start).
    `max_steps` bounds the iterations. A failed solve raises `SolveError` unless `throw=False`, which returns it with
    its status. `progress` shows J by term for what takes more than two seconds.
    `checkpoint`: a file that keeps the state, written at most every `checkpoint_seconds` and at the end. If it is there, the
    solve goes on from it and ends with the same bits as one that was never interrupted; a finished one returns at once.
    Of several processes that share the problem (`Problem.spread`) the first one writes it, and all go on from what it finds.
    `failed`: what ensemble solvers, global search and multi-start do with members that fail; its limit does not hold for points that
    a solver only tries (see `FailedRuns`). `details["failed_runs"]` counts all of them.
    `watch`: a function that is called with the `Progress` after every iteration, and at the start where that has run; its `counts` are all
    the work so far. If it returns True the solve ends there, with the status STOPPED; several processes have to decide alike.
    Raises TypeError for a gradient solver on a forward map without derivatives, ValueError for a z0 of the wrong shape or a
    checkpoint of another run, RuntimeError when more runs fail than `failed` allows.
    """
    _check_types(problem, solver, failed)
    if isinstance(solver, AbstractGradientSolver):
        problem.require_gradient(type(solver).__name__)
    z0 = _first_guess(problem, z0)
    key = jax.random.key(int(key)) if isinstance(key, int | np.integer) else key
    max_steps = solver.default_max_steps if max_steps is None else max_steps
    with progress_line.display(progress and problem.speaks) as show:
        if isinstance(solver, AbstractGradientSolver):
            run = _GradientRun(problem, solver, z0, key, checkpoint, checkpoint_seconds, failed, watch)
        else:
            run = _EnsembleRun(problem, solver, z0, key, checkpoint, checkpoint_seconds, failed, watch)
        try:
            while run.done < max_steps and run.status is Status.RUNNING and not run.stopped:
                run.advance(max_steps - run.done)
                show(run.done, max_steps, run.shown.terms)
        except KeyboardInterrupt:
            run.save()
            raise
    run.save()
    result = run.result()
    if result.status < 0 and throw:
        raise SolveError(complain("a finite J with a finite gradient", result.status.sentence, result.status.advice), result)
    return result


class _Run:
    """One solve on its way: the state, what it shows, J by term so far, and the file that keeps them."""

    def __init__(self, problem, solver, z0, key, file, every, failed, watch):
        self.problem, self.solver, self.clock, self.every = problem, solver, Clock(), every
        self.failed, self.runs, self.failures = failed, 0, 0
        self.watch, self.stopped = watch, False
        self.file = None if file is None else Path(file)
        # The fingerprint of a run without checkpoint is never asked for.
        self.belongs_to = "" if file is None else checkpoints.fingerprint(problem, solver, z0, key)
        saved = None if file is None else checkpoints.load(self.file, self.belongs_to, shared=problem.shared)
        self.kept, self.saved_at = None, time.perf_counter()
        if saved is None:
            self.done, self.spent = 0, {}
            self.begin(z0, key)
            self.history = {name: self.first(value) for name, value in self.shown.terms.items()}
            self.save()
        else:
            self.done, self.spent, self.start_shape = saved.done, saved.seconds, saved.start_shape
            self.restore(saved, z0, key)
            self.history = {name: values.tolist() for name, values in saved.history.items()}
            self.kept = self.done

    @property
    def status(self) -> Status:
        return Status(int(self.shown.status))

    def advanced(self, number: int) -> None:
        """Note `number` iterations, let them be watched, and write the checkpoint when it is time."""
        self.done += number
        self.seen()
        if self.file is not None and time.perf_counter() - self.saved_at > self.every:
            self.save()

    def save(self) -> None:
        """Write the checkpoint if there is a file for it and something new to keep."""
        if self.file is not None and self.kept != self.done and self.problem.speaks:
            checkpoints.save(self.file, self.belongs_to, self.start_shape, self.keep(), self.done, self.history, self.seconds())
            self.kept, self.saved_at = self.done, time.perf_counter()

    def keep(self):
        """The pytree of arrays that a checkpoint holds."""
        return self.state, jnp.asarray(self.runs), jnp.asarray(self.failures)

    def seen(self) -> None:
        """Show the state to who watches."""
        if self.watch is not None:
            self.stopped = bool(self.watch(eqx.tree_at(lambda shown: shown.counts, self.shown, Counts.of(**self.counts()))))

    def first(self, value: Array) -> list[float]:
        """What the history of a term begins with: its value at the start."""
        return [float(value)]

    def seconds(self) -> dict[str, float]:
        now = self.clock.seconds()
        return {name: now[name] + self.spent.get(name, 0.0) for name in now}

    def result(self) -> Result:
        # Off the devices of the problem, so that the result goes with one that is on others.
        end = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), self.shown)
        theta = self.problem.space.physical(end.z)
        early = Status.STOPPED if self.stopped else Status.MAX_STEPS
        return Result(
            z=end.z, theta=theta, parameters=self.problem.space.to_dataset(theta),
            terms={name: float(value) for name, value in end.terms.items()},
            history={name: np.array(values) for name, values in self.history.items()},
            status=early if self.status is Status.RUNNING else self.status,
            counts=self.counts(), seconds=self.seconds(), details=self.details())

    def details(self) -> dict[str, np.ndarray]:
        return {"failed_runs": np.asarray(self.failures)} | self.solver.details(self.state)


class _GradientRun(_Run):
    """A solver that JAX traces, several iterations a call."""

    def begin(self, z0, key):
        start, self.runs, self.failures = self.solver.starts(self.problem, z0, key, self.failed)
        self.start_shape = start.shape
        self.state, self.shown = _init(self.problem, self.solver, start)
        self.seen()

    def restore(self, saved, z0, key):
        start = jax.ShapeDtypeStruct(saved.start_shape, z0.dtype)
        number = jnp.asarray(0)
        structure = eqx.filter_eval_shape(lambda problem, start: (self.solver.init(problem, start), number, number), self.problem, start)
        self.state, runs, failures = checkpoints.restore(structure, saved.leaves, self.file)
        self.runs, self.failures = int(runs), int(failures)
        self.shown = _show(self.solver, self.state)

    def advance(self, most: int) -> None:
        """Take up to `steps_per_call` steps; those after the end are not kept in the history."""
        # Who watches sees every iteration, and the state is that of the last one seen.
        number = 1 if self.watch is not None else min(self.solver.steps_per_call, most)
        state, trail = jax.block_until_ready(_advance(self.problem, self.solver, self.state, jnp.asarray(number)))
        running = np.asarray(trail.status)[:number] == Status.RUNNING
        kept = number if running.all() else int(np.argmin(running)) + 1
        for name, values in trail.terms.items():
            self.history[name] += np.asarray(values)[:kept].tolist()
        self.state, self.shown = state, jax.tree.map(lambda leaf: leaf[number - 1], trail)
        self.advanced(number)

    def counts(self) -> dict[str, int]:
        numbers = {name: int(number) for name, number in self.shown.counts._asdict().items()}
        if self.problem.difference_step is not None:
            # Derivatives were made of runs: a gradient of n + 1, a column of the Jacobian of one.
            numbers["forward"] += numbers["gradient"] * (self.problem.space.size + 1) + numbers["jvp"]
            numbers["gradient"] = numbers["jvp"] = 0
        elif self.problem.forward.differentiable and not self.problem.forward.has_adjoint:
            # A model with tangents alone is asked for its Jacobian, fixed elements of theta included, whatever the solver wants.
            elements = sum(np.size(value) for value in self.problem.theta(self.problem.space.default_z).values())
            numbers["forward"] += numbers["gradient"]
            numbers["jvp"] = (numbers["jvp"] // self.problem.space.size + numbers["gradient"]) * elements
            numbers["gradient"] = 0
        numbers["forward"] += self.runs
        return numbers


class _EnsembleRun(_Run):
    """A solver that asks for members and is told what they predict."""

    def __init__(self, problem, solver, z0, key, file, *options):
        if file is not None and not solver.resumable:
            raise ValueError(complain("a solver whose state can be kept for checkpoint=", type(solver).__name__,
                                      "leave it out; a BlackBoxForward keeps every finished member by itself"))
        super().__init__(problem, solver, z0, key, file, *options)

    def begin(self, z0, key):
        self.start_shape = z0.shape
        self.state = self.solver.init(self.problem, z0, key)
        self.shown = self.solver.progress(self.state)

    def first(self, value):
        # Nothing was run yet: the first members give the first J.
        return []

    def restore(self, saved, z0, key):
        fresh = (self.solver.init(self.problem, z0, key), jnp.asarray(0), jnp.asarray(0))
        structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf, fresh)
        self.state, runs, failures = checkpoints.restore(structure, saved.leaves, self.file)
        self.runs, self.failures = int(runs), int(failures)
        self.shown = self.solver.progress(self.state)

    def advance(self, most: int) -> None:
        """Ask, run, tell: one iteration."""
        failed = FailedRuns(limit=1.0) if self.solver.tries(self.state) else self.failed
        ran = run_members(self.problem, self.solver.ask(self.problem, self.state), failed)
        self.state = self.solver.tell(self.problem, self.state, ran)
        self.shown = self.solver.progress(self.state)
        self.runs, self.failures = self.runs + ran.runs, self.failures + ran.failures
        for name, value in self.shown.terms.items():
            self.history[name].append(float(value))
        self.advanced(1)

    def counts(self) -> dict[str, int]:
        return {"forward": self.runs, "gradient": 0, "jvp": 0}


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


def _check_types(problem, solver, failed) -> None:
    """Say what is given where something else is wanted: a class for a solver, a word for a rule."""
    if not isinstance(problem, Problem):
        raise TypeError(complain("a Problem", f"{problem!r}"[:80], "Problem(space, forward, observations)"))
    if not isinstance(solver, AbstractGradientSolver | AbstractEnsembleSolver):
        name = solver.__name__ if isinstance(solver, type) else f"{solver!r}"[:80]
        raise TypeError(complain("a solver", name, f"{name}()" if isinstance(solver, type) else "LevenbergMarquardt()"))
    if failed is not None and not isinstance(failed, FailedRuns):
        raise TypeError(complain("a rule for failed runs", f"{failed!r}", 'FailedRuns("leave out", limit=0.5)'))


def _first_guess(problem: Problem, z0) -> Array:
    z0 = z0.z if isinstance(z0, Result) else z0
    z0 = problem.space.default_z if z0 is None else jnp.asarray(z0, float)
    if not np.isfinite(z0).all():
        wrong = np.array(problem.space.labels)[~np.isfinite(np.asarray(z0))] if z0.shape == (problem.space.size,) else ["z0"]
        raise ValueError(complain("a finite first guess z0", f"NaN or infinity for {', '.join(wrong)}", "z0=None takes the default"))
    if z0.shape != (problem.space.size,):
        raise ValueError(complain(f"a first guess z0 of shape ({problem.space.size},)", f"shape {z0.shape}",
                                  "problem.space.whiten(theta) makes one from physical parameters"))
    return z0


class Clock:
    """Seconds of compiling (tracing included) and of running, apart."""

    _compiling: list[tuple[float, float]] = []
    _listening = False

    def __init__(self):
        # JAX reports the time of each compilation to listeners; one is enough for the life of the process.
        if not Clock._listening:
            jax.monitoring.register_event_duration_secs_listener(Clock._hear)
            Clock._listening = True
        self.start = time.perf_counter()

    @staticmethod
    def _hear(event: str, seconds: float, **_):
        if event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            # The parts of a compilation are reported before the whole, which takes their place.
            while Clock._compiling and Clock._compiling[-1][0] >= end - seconds:
                Clock._compiling.pop()
            Clock._compiling.append((end - seconds, end))

    def seconds(self) -> dict[str, float]:
        total = time.perf_counter() - self.start
        compiling = min(sum(end - start for start, end in Clock._compiling if start >= self.start), total)
        return {"compile": compiling, "run": total - compiling}
