"""The state of a long solve on disk, so that a killed run goes on where it was and ends with the same bits.

A checkpoint is one .npz file without pickled objects: the arrays of the solver's state, J by term so far, and a
fingerprint of problem, solver and first guess. It is written under a temporary name, flushed to the disk and moved, so a
file with its name is whole whenever the process dies.
"""

import hashlib
import importlib.metadata
import io
import json
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from landcal_jax import devices
from landcal_jax.errors import complain

VERSION = 1


class Saved(NamedTuple):
    """What a checkpoint holds: shape of the start, arrays of the state, iterations done, J by term, seconds spent."""

    start_shape: tuple[int, ...]
    leaves: list[np.ndarray]
    done: int
    history: dict[str, np.ndarray]
    seconds: dict[str, float]


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # Without the flush a crash of the machine could leave the name of a file whose content never reached the disk.
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def fingerprint(problem: Any, solver: Any, *parts: Any) -> str:
    """SHA256 of what a solve depends on, the same in each process.

    That is every bit of the arrays, the structure with its static fields, the program that computes J (a function that was
    edited, or has captured another constant, is another program), and the versions of landcal_jax and jax. An external model
    is known by its key: see `blackbox`.
    """
    leaves, structure = jax.tree.flatten((problem, solver, parts))
    digest = hashlib.sha256(_without_addresses(str(structure)).encode())
    for leaf in leaves:
        if eqx.is_array(leaf) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if eqx.is_array_like(leaf):
            array = devices.gathered(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        else:
            digest.update(_without_addresses(repr(leaf)).encode())
    if problem is not None and problem.forward.traceable:
        program = eqx.filter_jit(lambda problem, z: problem.cost(z)).lower(problem, problem.space.default_z).as_text()
        digest.update(_without_addresses(program).encode())
    for package in ("landcal_jax", "jax", "jaxlib"):
        digest.update(importlib.metadata.version(package).encode())
    return digest.hexdigest()


def _without_addresses(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+", "", text)


def save(path: Path, belongs_to: str, start_shape: tuple[int, ...], state: Any, done: int, history: dict[str, list[float]],
         seconds: dict[str, float]) -> None:
    """Write the state after `done` iterations; `belongs_to` is the fingerprint of what is solved, `history` J by term."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(state, eqx.is_array))]
    about = {"version": VERSION, "fingerprint": belongs_to, "start_shape": start_shape, "done": done, "seconds": seconds,
             "terms": list(history)}
    arrays = {f"leaf_{n}": leaf for n, leaf in enumerate(leaves)} | {f"history_{n}": np.array(v) for n, v in enumerate(history.values())}
    with whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def load(path: str | Path, belongs_to: str, *, shared: bool = False) -> Saved | None:
    """What `save` wrote; None if there is no file, whose folder is then made.

    `shared`: several processes go on from the file that the first of them sees.

    Raises ValueError if the file is damaged, or belongs to another problem, solver, first guess or seed.
    """
    path = Path(path)
    # Before the work, not after it: a folder that cannot be made would lose all of it.
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path if path.is_file() else None
    if shared:
        # Each of them reading for itself, one could find a file that another did not, and they would no longer do the same.
        read = devices.from_first(None if content is None or jax.process_index() else path.read_bytes())
        content = None if read is None else io.BytesIO(read)
    if content is None:
        return None
    try:
        with np.load(content, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            leaves = [file[f"leaf_{n}"] for n in range(sum(name.startswith("leaf_") for name in file.files))]
            history = {term: file[f"history_{n}"] for n, term in enumerate(about["terms"])}
            saved = Saved(tuple(about["start_shape"]), leaves, int(about["done"]), history, dict(about["seconds"]))
            found = about["fingerprint"] if about["version"] == VERSION else f"version {about['version']}"
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(complain(f"a checkpoint of landcal_jax at {path}", f"a damaged file, or another one ({type(error).__name__})",
                                  "remove the file to start from the beginning")) from error
    if found != belongs_to:
        raise ValueError(complain(f"a checkpoint of this problem, solver, first guess and seed at {path}",
                                  "one of another run, or of another version of the model, of landcal_jax or of jax",
                                  "what that run was made with, another file, or remove it to start from the beginning"))
    return saved


def restore(structure: Any, leaves: list[np.ndarray], path: str | Path) -> Any:
    """The state whose shapes are `structure` (see `equinox.filter_eval_shape`), with the arrays of a checkpoint."""
    shapes, treedef = jax.tree.flatten(structure)
    arrays = [n for n, shape in enumerate(shapes) if isinstance(shape, jax.ShapeDtypeStruct)]
    fits = len(arrays) == len(leaves) and all(
        shapes[n].shape == leaf.shape and shapes[n].dtype == leaf.dtype for n, leaf in zip(arrays, leaves, strict=True))
    if not fits:
        raise ValueError(complain(f"a checkpoint of this version of the solver at {path}", "arrays of other shapes",
                                  "remove the file to start from the beginning"))
    for n, leaf in zip(arrays, leaves, strict=True):
        shapes[n] = jax.numpy.asarray(leaf)
    return jax.tree.unflatten(treedef, shapes)
