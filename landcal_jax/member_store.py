"""Every finished run of an external model on disk, under a key made of its parameters and of the model.

A member is two files, `KEY.npz` (its streams, no pickled objects) and `KEY.json` (what became of it). Each is written under a
temporary name and moved; the json comes last, so a member that has one is whole. What a killed ensemble has finished is found
again by its key, and two ensembles that share members run them once.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from landcal_jax.checkpoint import whole
from landcal_jax.errors import Complaint, complain

VERSION = 1
DIGITS = 13


@dataclass(frozen=True)
class Member:
    """What became of one member: `status` "finished" or "failed", with the sentence of a failure in `message`.

    `theta`: its parameters; `streams`: what it gave, None if it failed; `attempts`: runs made for it; `seconds`: of the last one;
    `folder`: its working directory where that was kept; `errors`: the end of what it wrote to standard error.
    """

    key: str
    status: str
    theta: Mapping[str, Any]
    streams: Mapping[str, np.ndarray] | None = field(default=None, compare=False)
    message: str = ""
    attempts: int = 1
    seconds: float = 0.0
    folder: str = ""
    errors: str = ""

    @property
    def finished(self) -> bool:
        """Whether it ran to its end and gave what was asked for."""
        return self.status == "finished"


class MemberStore:
    """A folder of members; any number of threads, processes and machines that see the folder may write to it.

    Raises OSError if there cannot be such a folder, or nothing may be written to it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()
        try:
            # Now, and not after the first run has been made in vain.
            (self.folder / "members").mkdir(parents=True, exist_ok=True)
            writable = os.access(self.folder / "members", os.W_OK)
        except OSError as error:
            raise OSError(_no_folder(self.folder, error.strerror or str(error))) from error
        if not writable:
            raise PermissionError(_no_folder(self.folder, "a folder without the right to write"))

    def path(self, key: str, suffix: str) -> Path:
        """Where a file of a member is; a few hundred folders instead of one with all members."""
        return self.folder / "members" / key[:2] / f"{key}{suffix}"

    def load(self, key: str) -> Member | None:
        """The member with this key; None if it never came to an end, or its files are damaged and it has to run again."""
        try:
            about = json.loads(self.path(key, ".json").read_text(encoding="utf-8"))
            if about.pop("version") != VERSION or about["key"] != key:
                return None
            streams = None
            if about["status"] == "finished":
                with np.load(self.path(key, ".npz"), allow_pickle=False) as file:
                    streams = {name: file[f"stream_{n}"] for n, name in enumerate(about.pop("names"))}
            else:
                about.pop("names")
            return Member(streams=streams, **about)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def save(self, member: Member) -> None:
        """Write a member; the json last, since it says that the rest is whole."""
        self.path(member.key, "").parent.mkdir(parents=True, exist_ok=True)
        streams = dict(member.streams or {})
        if member.finished:
            with whole(self.path(member.key, ".npz")) as temporary, temporary.open("wb") as file:
                np.savez(file, **{f"stream_{n}": values for n, values in enumerate(streams.values())})
        about = asdict(member) | {"version": VERSION, "names": list(streams)}
        about["theta"] = {name: np.asarray(value).tolist() for name, value in member.theta.items()}
        about.pop("streams")
        with whole(self.path(member.key, ".json")) as temporary:
            temporary.write_text(json.dumps(about, indent=1), encoding="utf-8")

    def members(self) -> Iterator[Member]:
        """All members of the store, in the order of their keys."""
        for path in sorted((self.folder / "members").glob("*/[!.]*.json")):
            member = self.load(path.stem)
            if member is not None:
                yield member


def _no_folder(folder: Path, got: str) -> Complaint:
    return complain(f"a folder {folder} for the store of runs, which can be written to", got, 'store="runs", or another folder of yours')


def rounded(theta: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as a model is given them: floats, or float64 arrays, with 13 significant digits.

    Another processor or another number of members in a batch may change the last bits of theta; a killed ensemble that goes on
    elsewhere would then not know its own members.
    """
    def short(value: float) -> float:
        return float(f"{value:.{DIGITS - 1}e}")

    def of(value: Any) -> Any:
        array = np.asarray(value, float)
        return short(float(array)) if array.ndim == 0 else np.array([short(each) for each in array.ravel()]).reshape(array.shape)

    return {name: of(value) for name, value in theta.items()}


def key_of(theta: Mapping[str, Any], identity: str, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """SHA256 of the parameters, of what the model is (`identity`) and of the streams that are asked of it."""
    digest = hashlib.sha256(f"{identity}{sorted(shapes.items())}".encode())
    for name in sorted(theta):
        array = np.asarray(theta[name], float)
        digest.update(f"{name}{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()
