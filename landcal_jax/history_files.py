"""The waves of a history match on disk, one file each, so that it goes on later where it was and ends with the same bits."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from landcal_jax import checkpoint as checkpoints
from landcal_jax.errors import complain
from landcal_jax.nroy import Cloud

History = Any
"""A `history_matching.History`, which is above this module."""


def belongs_to(history: History, problem: Any = None, *options: Any) -> str:
    """The fingerprint of a history: its parameters, targets and options; and of the model and `options` of a run that knows them."""
    about = (history.problem.space, history.targets[:4], history.first.u, history.cutoff, history.valmax, history.mean, history.reuse,
             history.least)
    return checkpoints.fingerprint(problem, "history matching", *about, *options)


def file_of(folder: Path, number: int) -> Path:
    """Where wave `number`, from 1, is kept."""
    return folder / f"wave_{number:02d}.npz"


def save(history: History, folder: str | Path, owner: str) -> None:
    """Write the waves that are not in the folder, which is made where it is missing.

    Raises ValueError for a folder of another history (of another `owner`, see `belongs_to`), or with other runs in the same waves.
    """
    if not history.problem.speaks:
        return
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for number, wave in enumerate(history.waves, 1):
        path = file_of(folder, number)
        there = checkpoints.load(path, owner)
        if there is None:
            cloud = wave.cloud
            state = (wave.z, wave.values, cloud.u, cloud.fractions, np.array([cloud.least, cloud.lowest, cloud.evaluations]), wave.key)
            checkpoints.save(path, owner, wave.z.shape, state, number, cloud.steps, {})
        elif not all(np.array_equal(*pair, equal_nan=True) for pair in zip(there.leaves[:2], (wave.z, wave.values), strict=True)):
            raise ValueError(complain(f"the runs of wave {number} in {path}", "others", "another folder, or History.resumed(folder)"))


def waves(history: History, folder: str | Path, owner: str, most: int | None = None) -> History:
    """The history with the waves after its own that are in the folder, `most` in all; their emulators are fitted again, to the same bits.

    Raises ValueError for the folder of another history.
    """
    while most is None or len(history.waves) < most:
        saved = checkpoints.load(file_of(Path(folder), len(history.waves) + 1), owner, shared=history.problem.shared)
        if saved is None:
            break
        z, values, u, fractions, (least, lowest, evaluations), key = saved.leaves
        cloud = Cloud(u, fractions, float(least), float(lowest), int(evaluations), dict(saved.history))
        history = history.joined(dataclasses.replace(history.learned(z, values, key), cloud=cloud))
    return history
