"""Several devices for one problem: the CPU devices of a laptop, the GPUs of a node, the processes of a cluster.

`problem.spread()` gives the same problem, whose ensembles are divided among all devices, a share of the members to each;
`problem.spread("sites")` divides the sites instead, for one run of many sites and its derivatives. Everything that
takes a problem takes it as before.

* A laptop. JAX sees one CPU device; `jax.config.update("jax_num_cpu_devices", 4)`, before the first computation,
  makes four. A land model is a long loop that one core runs, so that members on as many devices as there are cores pay.
* A node with four GPUs. JAX sees four devices, and there is nothing to set.
* Several processes, such as the tasks of SLURM (`srun -n 4 python script.py`, one GPU to a task): every one runs the same
  script, which begins with `import jax; jax.distributed.initialize()`. JAX finds the others from the variables of SLURM or Open
  MPI; elsewhere give it `coordinator_address="host:port"`, `num_processes=` and `process_id=`. The devices are then those of all
  processes, and every process gets every result. Data, seeds and calls have to be the same in all; functions of your own
  that are compiled take the problem as an argument. `solve` shows its progress and writes its checkpoint in the first process alone;
  do so with what you write yourself: `if jax.process_index() == 0: ...`. Processes that calibrate apart, each a place of its own,
  spread over `jax.local_devices()` and share nothing.

Results are those of one device to rounding (1e-12 of a prediction, of J or of its gradient; a search for an equilibrium, to its
tolerance). Often they are the same bits, but not always: XLA may compile the batch of a share to other vector instructions than that of
the whole. Of sites that are spread, the devices run the model and its derivatives and nothing else: predictions are then
gathered, and operators, J and the algebra of a solver follow on each device alike, so that no sum depends on how many there are.
A checkpoint belongs to the number of devices it was written with.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from landcal_jax.errors import complain

ROWS, EVERYWHERE = PartitionSpec("rows"), PartitionSpec()


def line_of(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of one axis over these devices, all of every process without them.

    Raises ValueError for none, for one named twice, and for those of some processes but not of all.
    """
    devices = jax.devices() if devices is None else list(devices)
    if not devices or len(set(devices)) < len(devices):
        raise ValueError(complain("at least one device, each of them once", f"{[str(device) for device in devices]}",
                                  "jax.devices() has all there are; leave `devices` out to take them"))
    processes = {device.process_index for device in devices}
    if len(processes) not in (1, jax.process_count()):
        raise ValueError(complain("devices of every process, or of one alone", f"of {len(processes)} of {jax.process_count()} processes",
                                  "jax.devices() has those of all, jax.local_devices() those of this one"))
    # Said in full: with the axes that jax makes by default an index by plant functional type is refused inside of them.
    return Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))


def fill(tree: Any, multiple: int) -> Any:
    """Every array with copies of its last row behind it, up to a multiple of so many rows."""
    def filled(leaf):
        missing = -len(leaf) % multiple
        module = np if isinstance(leaf, np.ndarray) else jnp
        return leaf if not missing else module.concatenate([leaf, module.repeat(leaf[-1:], missing, axis=0)])

    return jax.tree.map(filled, tree)


def place(tree: Any, mesh: Mesh) -> Any:
    """Every array with its rows, filled up to a multiple of the devices, divided among them; each holds its own alone."""
    def placed(leaf):
        rows = fill(np.asarray(leaf), mesh.size)
        # Not device_put, which has all processes compare the whole array first.
        return jax.make_array_from_callback(rows.shape, NamedSharding(mesh, ROWS), lambda part: rows[part])

    return jax.tree.map(placed, tree)


def by_rows(function: Callable, mesh: Mesh) -> Callable:
    """`function` of arrays with rows, as one that each device runs for its own rows; their number is a multiple of the devices.

    The devices never wait for each other inside: a loop that ends early on one, such as a search for an equilibrium, ends there.
    """
    def divided(*arrays):
        share = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((len(leaf) // mesh.size, *leaf.shape[1:]), leaf.dtype), arrays)
        # Traced before it is divided, because lineax and optimistix, which a model may use, cannot be traced inside of shard_map.
        program, shape = jax.make_jaxpr(function, return_shape=True)(*share)

        def one_device(*leaves):
            return jax.core.eval_jaxpr(program.jaxpr, program.consts, *leaves)

        # check_vma would ask of a model which of its values vary between devices: a constant start of a loop does not.
        run = jax.shard_map(one_device, mesh=mesh, in_specs=ROWS, out_specs=ROWS, check_vma=False)
        return jax.tree.unflatten(jax.tree.structure(shape), run(*jax.tree.leaves(arrays)))

    return divided


def divided(function: Callable, mesh: Mesh) -> Callable:
    """Inside jit: `by_rows` for any number of rows, with the whole result on every device."""
    def filled(*arrays):
        return whole(by_rows(function, mesh)(*fill(arrays, mesh.size)), mesh, len(jax.tree.leaves(arrays)[0]))

    return filled


def along(tree: Any, mesh: Mesh) -> Any:
    """Inside jit: every array, filled up as in `place`, with its rows on the devices. What is computed from it row by row stays there.

    Unlike `by_rows` it can be differentiated whatever the model uses: XLA divides the derivatives as well.
    """
    # First the whole on each device, so that both the filling and, in derivatives, the sums over rows stay within a device.
    return _constrain(_constrain(fill(tree, mesh.size), mesh, EVERYWHERE), mesh, ROWS)


def whole(tree: Any, mesh: Mesh, rows: int) -> Any:
    """Inside jit: the first `rows` of every array on each device."""
    return jax.tree.map(lambda leaf: leaf[:rows], _constrain(tree, mesh, EVERYWHERE))


def _constrain(tree, mesh, where):
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, where)), tree)


def gathered(array: jax.Array) -> np.ndarray:
    """The whole array in every process, wherever its parts lie; to be called by all of them."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # here, because only several processes need it

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def shared(mesh: Mesh | None) -> bool:
    """Whether the devices are those of several processes, which then all have to do the same."""
    return mesh is not None and len({device.process_index for device in mesh.devices.flat}) > 1


def from_first(content: bytes | None) -> bytes | None:
    """What the first process gives, in all of them; to be called by all."""
    from jax.experimental import multihost_utils

    size = int(multihost_utils.broadcast_one_to_all(np.int64(-1 if content is None else len(content))))
    if size <= 0:
        return None if size < 0 else b""
    mine = np.frombuffer(content, np.uint8) if jax.process_index() == 0 else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(mine)).astype(np.uint8).tobytes()
