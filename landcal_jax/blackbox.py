"""External models: a Python function or a program outside of JAX as a forward map.

    forward = BlackBoxForward(Executable(["./model"], outputs=read, namelists={"model.nml": "template.nml"}),
                              observations=observations, store="runs")
    problem = Problem(space, forward, observations)

All members of an ensemble run at once, on local threads or processes or on a `dask.distributed` client. Each ends on disk under a
key made of its parameters, so that an ensemble that was killed goes on where it was and nothing runs twice. A member that fails
(an exception, an exit code, a timeout, no output) is NaN, with a sentence in its record.
"""

import contextlib
import logging
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from landcal_jax import linear_product, member_pool, member_processes, progress
from landcal_jax.errors import complain
from landcal_jax.executable import Executable
from landcal_jax.forward import AbstractForward
from landcal_jax.member_store import Member, MemberStore, key_of, rounded
from landcal_jax.model_identity import identity_of
from landcal_jax.observations import Observations

LOG = logging.getLogger(__name__)


class _Members:
    """Runs members where they are to run, and remembers what became of them."""

    def __init__(self, run, shapes, store, options, place):
        self.run, self.shapes, self.options, self.place = run, shapes, options, place
        self.store = None if store is None else MemberStore(store)
        self.identity = _known(run, options.pop("version"), kept=store is not None)
        self.rerun = options.pop("rerun_failed")
        self.counts, self.seen, self.failures = Counter(), set(), {}

    def __repr__(self) -> str:
        # What a checkpoint knows the model by: the same in every process, and another one for another model.
        return f"members of {self.identity} giving {self.shapes}"

    def __call__(self, thetas: list[dict[str, Any]]) -> list[Member]:
        """One record a member, in order; the same parameters run once."""
        thetas = [rounded(theta) for theta in thetas]
        keys = [key_of(theta, self.identity, self.shapes) for theta in thetas]
        jobs = {}
        for key, theta in zip(keys, thetas, strict=True):
            again = self.rerun and key not in self.seen
            jobs[key] = member_pool.Job(key, self.run, theta, self.shapes, self.store, again=again, **self.options)
        ended = {}
        for key, job in list(jobs.items()):
            kept = member_pool.known(job)
            if kept is not None:
                ended[key] = kept
                self.counts["found"] += 1
                del jobs[key]
        total = len(ended) + len(jobs)
        # Closed at once when something is raised here, and not when nobody holds the traceback any more.
        with contextlib.closing(self.place(list(jobs.values()))) as members:
            for member in members if jobs else ():
                ended[member.key] = member
                self.counts["run"] += 1
                progress.members(len(ended), total)
                if not member.finished:
                    LOG.info("member %s failed: %s", member.key[:16], member.message)
        self.seen |= set(keys)
        self.failures |= {key: member for key, member in ended.items() if not member.finished}
        self.counts["failed"] = len(self.failures)
        return [ended[key] for key in keys]


class BlackBoxForward(AbstractForward):
    """A model outside of JAX: `run` is a function theta -> {stream: array}, or an `Executable`.

    theta is a dict of floats and arrays (with 13 significant digits); arrays of streams are (site, n_obs), or (n_obs,) at one
    site, in the shapes of `observations`. A function with an argument `folder` is given a directory of its own.

    `store`: folder that keeps every finished member. Failed ones are kept too; they run again only while they have had fewer than
    1 + `retries` runs, or with `rerun_failed=True`. `keep`: whose working directories stay in the store. The key of a member knows
    the program and its files, or a function: the file in which it stands, and all that it refers to (globals, helpers, captured
    variables, modules of yours) as it is when this forward map is made. Say what it cannot know (a data file that the function
    reads, an installed package) in `version`; an open file, a lock or the like among what it refers to needs one. An object with a
    method `identity()`, which returns a text, is known by that.
    `workers`: members at a time, the number of cores without it. `processes=True` runs a function on processes instead of threads, if
    it holds the interpreter or may crash it. `client`: a `dask.distributed.Client` that runs members instead of this machine.

    `timeout`: seconds until the run of a function is killed with its process and counts as failed; it needs `processes=True`,
    since nothing ends a thread, and there is none with `client`, whose workers may start no processes. An `Executable` has a timeout
    of its own, wherever it runs.

    A model with derivatives of its own serves gradient solvers. `tangent(theta, direction) -> {stream: array}` is the product of its
    Jacobian with a dict like theta, and `adjoint(theta, weights) -> dict like theta` that of the transpose with a dict of streams.
    With both, each solver calls the one that it needs: LevenbergMarquardt a tangent a parameter, LBFGS an adjoint a gradient. A
    tangent alone serves all of them, at one call an element of theta for a gradient; an adjoint alone those that need no
    tangent-linear, such as LBFGS.
    Raises ValueError for a function that `processes=True` cannot send, a timeout without it, or a store of a model whose content
    cannot be known; OSError for a store that cannot be written to.
    """

    members: _Members = eqx.field(static=True)
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = eqx.field(static=True)
    tangent: Callable | None = eqx.field(static=True)
    adjoint: Callable | None = eqx.field(static=True)
    differentiable: bool = eqx.field(static=True)
    title: str = eqx.field(static=True)

    def __init__(self, run: Callable | Executable, *, observations: Observations, store: str | Path | None = None,
                 workers: int | None = None, processes: bool = False, client: Any = None, retries: int = 0, rerun_failed: bool = False,
                 keep: Literal["none", "failed", "all"] = "failed", version: str = "", timeout: float | None = None,
                 tangent: Callable | None = None, adjoint: Callable | None = None, name: str | None = None):
        if keep not in ("none", "failed", "all") or retries < 0 or (workers is not None and workers < 1):
            raise ValueError(complain('keep "none", "failed" or "all", retries of 0 or more, workers of 1 or more',
                                      f"{keep!r}, {retries}, {workers}", "leave them out for the defaults"))
        apart = processes and not isinstance(run, Executable) and client is None
        if timeout is not None and not (apart and np.isfinite(timeout) and timeout > 0):
            raise ValueError(complain(
                "a timeout above zero, of a function on processes of this machine", f"{timeout:g} s on {_place(run, processes, client)}",
                "processes=True, timeout=600; for a program Executable(timeout=)"))
        if apart:
            member_pool.check_sendable(run)
        workers = workers or member_pool.cores()
        self.shapes = tuple((name, tuple(stream.values.shape)) for name, stream in observations.items())
        place = partial(member_pool.on_dask, client=client) if client is not None else partial(
            member_processes.on_processes, workers=workers, timeout=timeout) if apart else partial(member_pool.on_threads, workers=workers)
        options = {"retries": retries, "rerun_failed": rerun_failed, "keep": keep, "version": version}
        self.members = _Members(run, dict(self.shapes), store, options, place)
        self.tangent, self.adjoint, self.differentiable = tangent, adjoint, tangent is not None or adjoint is not None
        self.title = name or getattr(run, "name", None) or getattr(run, "__name__", type(run).__name__)

    @property
    def traceable(self):
        return False

    @property
    def has_tangent(self):
        return self.tangent is not None

    @property
    def has_adjoint(self):
        return self.adjoint is not None

    def failure_words(self):
        """The most frequent message of the runs that failed since this forward map was made, and where one of them can be looked at."""
        if not self.failures:
            return ""
        (message, number), = Counter(member.message for member in self.failures).most_common(1)
        folders = [member.folder for member in self.failures if member.message == message and member.folder]
        kept = f", one of them kept in {folders[0]}" if folders else ""
        return f"; the model most often said {message!r} ({number} of {len(self.failures)} failed runs{kept})"

    @property
    def name(self):
        return self.title

    @property
    def description(self):
        own = [words for words, function in (("tangent-linear", self.tangent), ("adjoint", self.adjoint)) if function is not None]
        derivatives = f"its own {' and '.join(own)}" if own else "no derivatives"
        return f"external model {self.name} ({derivatives})"

    @property
    def counts(self) -> dict[str, int]:
        """Members since this forward map was made: `run`, `found` (in the store), `failed` (different ones)."""
        return {name: self.members.counts[name] for name in ("run", "found", "failed")}

    @property
    def failures(self) -> list[Member]:
        """Records of the members that failed since this forward map was made, with `message`, `errors` and `folder`."""
        return list(self.members.failures.values())

    def __call__(self, theta, operators):
        self._check(operators)
        theta = {name: jnp.asarray(value, jnp.result_type(float)) for name, value in theta.items()}
        if self.tangent is not None:
            return _with_tangent(self, theta, tuple(operators))
        return (_underived if self.adjoint is None else _with_adjoint)(self, theta, tuple(operators))

    def many(self, theta, operators):
        """All members at once, outside of JAX: arrays (member, *dims) -> {stream: (member, site, n_obs)}, NaN for those that fail."""
        self._check(operators)
        theta = {name: np.asarray(value, float) for name, value in theta.items()}
        number = len(next(iter(theta.values())))
        members = self.members([{name: value[n] for name, value in theta.items()} for n in range(number)])
        lost = {name: np.full(shape, np.nan) for name, shape in self.shapes}
        return {name: np.stack([(member.streams or lost)[name] for member in members]) for name in operators}

    def _check(self, operators: Mapping[str, Callable | None]) -> None:
        """Refuse streams that the runs do not give."""
        given = [name for name, operator in operators.items() if operator is not None]
        if given:
            raise ValueError(complain("streams without operator: an external model returns what was observed itself",
                                      f"an operator for {', '.join(given)}", "apply it where outputs are read, and operator=None"))
        unknown = [name for name in operators if name not in dict(self.shapes)]
        if unknown:
            raise ValueError(complain(f"the streams {', '.join(dict(self.shapes))}", ", ".join(unknown),
                                      "BlackBoxForward(observations=) with all of them"))


def _known(run: Any, version: str, kept: bool) -> str:
    """What tells the model from another one; a store may not mix two, so that it needs all of it, or a version."""
    text, unknown = identity_of(run)
    if unknown and kept and not version:
        raise ValueError(complain(
            "a model whose content can be known, so that its store never gives the runs of another one", "; ".join(unknown[:5]),
            'version="1", and another one whenever that changes; or make it inside the function; or leave store= out'))
    # Without a store only a checkpoint asks, of which none may be taken for that of this model.
    return f"{text}{version}{uuid.uuid4().hex if unknown and not version else ''}"


def _place(run: Any, processes: bool, client: Any) -> str:
    """Where members run, in words."""
    if isinstance(run, Executable):
        return "a program"
    return "a dask client" if client is not None else "processes" if processes else "threads"


# ---------------------------------------------------------------------- inside of JAX


def _called(forward: BlackBoxForward, theta: dict[str, Array], names: tuple[str, ...]) -> dict[str, Array]:
    """A run inside of jit; under vmap all members in one call."""
    def runs(theta):
        return forward.many(theta, dict.fromkeys(names))

    return _outside(forward, runs, _shaped(forward, names), theta)


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _underived(forward, theta, names):
    return _called(forward, theta, names)


@_underived.defjvp
def _refuse(forward, names, primals, tangents):
    raise TypeError(complain("a model with derivatives", forward.description,
                             "problem.finite_difference(), BlackBoxForward(tangent=, adjoint=), or a solver that needs none"))


def _outside(forward: BlackBoxForward, function: Callable, shapes: Any, *arguments: Any) -> Any:
    """`function` of NumPy arrays with one leading axis of members, called from inside of JAX."""
    dims = [leaf.ndim for leaf in jax.tree.leaves(arguments)]
    structure = jax.tree.structure(arguments)

    def call(*arguments):
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(arguments)]
        batch = leaves[0].shape[: leaves[0].ndim - dims[0]]
        rows = [leaf.reshape((-1, *leaf.shape[leaf.ndim - dim :])) for leaf, dim in zip(leaves, dims, strict=True)]
        out = function(*jax.tree.unflatten(structure, rows))
        return jax.tree.map(lambda shape, values: np.asarray(values, shape.dtype).reshape((*batch, *shape.shape)), shapes, out)

    return jax.pure_callback(call, shapes, *arguments, vmap_method="broadcast_all")


def _shaped(forward: BlackBoxForward, names: tuple[str, ...], *leading: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((*leading, *dict(forward.shapes)[name]), jnp.result_type(float)) for name in names}


@partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _with_tangent(forward, theta, names):
    return _called(forward, theta, names)


@_with_tangent.defjvp
def _tangent_rule(forward, names, primals, tangents):
    (theta,), (along,) = primals, tangents
    value = _with_tangent(forward, theta, names)
    if forward.adjoint is not None:
        shapes = tuple((name, dict(forward.shapes)[name]) for name in names)
        return value, linear_product.product(partial(_tangents, forward), partial(_adjoints, forward), theta, along, shapes)
    size = sum(leaf.size for leaf in theta.values())
    # The whole Jacobian, so that JAX can transpose what follows: gradients come from tangents too.
    matrix = _outside(forward, partial(_jacobians, forward, names), _shaped(forward, names, size), theta)
    direction = jnp.concatenate([jnp.ravel(along[name]) for name in theta])
    return value, {name: jnp.tensordot(direction, matrix[name], 1) for name in names}


def _jacobians(forward: BlackBoxForward, names: tuple[str, ...], theta: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """(member, element of theta, site, n_obs) by stream, one tangent an element."""
    found: dict[str, list] = {name: [] for name in names}
    for member in _members_of(theta):
        products = [_product(forward.tangent, member, direction, dict(forward.shapes)) for direction in _unit_vectors(member)]
        for name in names:
            found[name].append(np.stack([product[name] for product in products]))
    return {name: np.stack(rows) for name, rows in found.items()}


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def _with_adjoint(forward, theta, names):
    return _called(forward, theta, names)


def _adjoint_forward(forward, theta, names):
    return _called(forward, theta, names), theta


def _adjoint_backward(forward, names, theta, weights):
    shapes = {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for name, leaf in theta.items()}
    return (_outside(forward, partial(_adjoints, forward), shapes, theta, weights),)


_with_adjoint.defvjp(_adjoint_forward, _adjoint_backward)


def _tangents(forward: BlackBoxForward, theta: dict[str, np.ndarray], along: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    products = [_product(forward.tangent, member, direction, dict(forward.shapes))
                for member, direction in zip(_members_of(theta), _members_of(along), strict=True)]
    return {name: np.stack([product[name] for product in products]) for name, _ in forward.shapes}


def _adjoints(forward: BlackBoxForward, theta: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    products = []
    for member, weight in zip(_members_of(theta), _members_of(weights), strict=True):
        # Streams that were not asked for have no weight.
        weight = {name: np.zeros(shape) for name, shape in forward.shapes} | weight
        products.append(_product(forward.adjoint, member, weight, {name: np.shape(value) for name, value in member.items()}))
    return {name: np.stack([product[name] for product in products]) for name in theta}


def _members_of(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    number = len(next(iter(arrays.values())))
    return [{name: value[n] if value.ndim > 1 else float(value[n]) for name, value in arrays.items()} for n in range(number)]


def _unit_vectors(theta: Mapping[str, Any]):
    for name in theta:
        for element in range(np.size(theta[name])):
            direction = {other: np.zeros(np.shape(value)) for other, value in theta.items()}
            direction[name].flat[element] = 1.0
            yield {other: value if value.ndim else float(value) for other, value in direction.items()}


def _product(function: Callable, theta: dict, other: dict, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """What a tangent or an adjoint gives, in its shapes; NaN where it fails, as a run does."""
    try:
        found = function(rounded(theta), other)
        return {name: np.asarray(found[name], float).reshape(shape) for name, shape in shapes.items()}
    except Exception as error:
        LOG.info("%s failed: %s", getattr(function, "__name__", "derivative"), error)
        return {name: np.full(shape, np.nan) for name, shape in shapes.items()}
