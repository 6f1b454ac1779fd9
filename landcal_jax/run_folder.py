"""The folder of a run: one run at a time, nothing that looks finished and is not, nothing lost.

    with RunFolder("out", resume=True) as run:
        calibration = calibrate(experiment, checkpoint=run.checkpoints)
        run.publish(lambda folder: output.write_files(calibration.to_xarray(), folder))

What is not finished stands in the folder `unfinished` inside: checkpoints, the options of the run, and results while they are
written. Results are moved to their names when all of them are whole. A process that dies between two moves has left a mark,
and the next run that opens the folder ends the move before it does anything else.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

from landcal_jax.checkpoint import whole
from landcal_jax.errors import complain, complaint_of

UNFINISHED, OPTIONS, NEW, COMPLETE, LOCK = "unfinished", "options.json", "new", "complete", ".landcal.lock"
RECORD = ".landcal.json"  # the options of the run that made the results of a folder
# Errors about the place and its rights, which more room would not mend.
PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)


class RunFolder:
    """A folder that holds the results of one run, opened for writing (use it in a `with` statement).

    `results`: names of files that count as results. `options`: what makes two runs the same, kept for `resume`.
    `command`: how the run is started, for the sentences.
    Entering raises FileExistsError if results or an unfinished run are there and neither `overwrite` nor `resume` is
    given, ValueError if `resume` meets a run with other options, BlockingIOError if another run has the folder,
    OSError if it cannot be made or written to.
    """

    def __init__(self, folder: str | Path, *, overwrite: bool = False, resume: bool = False, results: Sequence[str] = (),
                 options: Mapping[str, Any] | None = None, command: str = "") -> None:
        self.folder, self.results = Path(folder), tuple(results)
        self.overwrite, self.resume, self.command = overwrite, resume, command
        # As JSON gives them back, so that a tuple equals the list that it becomes.
        self.options = json.loads(json.dumps(dict(options or {}), default=str))
        self._lock = filelock.FileLock(self.folder / LOCK, blocking=False)

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints of this run."""
        return self.folder / UNFINISHED

    @property
    def finished(self) -> bool:
        """Whether all results are there and no run is unfinished."""
        return all((self.folder / name).is_file() for name in self.results) and not self.checkpoints.exists()

    @property
    def interrupted(self) -> bool:
        """Whether there is something of this run to go on from."""
        return (self.checkpoints / OPTIONS).is_file()

    def __enter__(self) -> "RunFolder":
        with told(self.folder):
            self._made = not self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            self._take()
        try:
            self._end_move()
            self._check()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        # A mistake before anything was begun leaves not even an empty folder.
        if self._made and all(path.name == LOCK for path in self.folder.iterdir()):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self) -> None:
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise BlockingIOError(complain(f"a folder {self.folder} that no other run is using", "another run at work in it",
                                           "wait for its end, or another folder (--out)")) from error
        if not os.access(self.folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _check(self) -> None:
        present = [name for name in self.results if (self.folder / name).is_file()]
        unfinished = self.checkpoints.exists()
        if self.overwrite and not self.resume and unfinished:
            shutil.rmtree(self.checkpoints)
        elif unfinished and not self.resume:
            raise FileExistsError(complain(
                f"a folder without an unfinished run at {self.folder}", f"one in {self.checkpoints}, begun by `{self._begun_by()}`",
                "go on with it (--resume), discard it (--overwrite), or another folder (--out)"))
        elif present and not self.overwrite and not self.resume:
            raise FileExistsError(complain(f"a folder without results at {self.folder}", f"{', '.join(present)} in it",
                                           "another folder (--out), or overwrite (--overwrite)"))
        elif self.resume and (self.interrupted or (present and not unfinished)):
            self._check_options()

    def _check_options(self) -> None:
        """Going on with a run, or taking its results for one's own, is for the same options only."""
        state, file = ("unfinished", self.checkpoints / OPTIONS) if self.interrupted else ("finished", self.folder / RECORD)
        kept = self._kept("options", Mapping)
        if kept is None:
            raise ValueError(complain(f"the options of the {state} run in {file}, as landcal wrote them",
                                      "a file that cannot be read" if file.exists() else "no such file",
                                      "discard the run and begin again (--overwrite), or another folder (--out)"))
        other = [name for name in kept.keys() | self.options.keys() if kept.get(name) != self.options.get(name)]
        if other:
            told_of = ", ".join(f"{name} {_said(kept.get(name))} then, {_said(self.options.get(name))} now" for name in sorted(other))
            raise ValueError(complain(f"the options of the {state} run in {self.folder}", told_of,
                                      f"{self._begun_by()} --resume; another folder (--out); or --overwrite, which discards it"))

    def _begun_by(self) -> str:
        return self._kept("command", str) or "landcal"

    def _kept(self, name: str, kind: type) -> Any:
        """What the run of this folder has written down about itself; None where that is not there, or is damaged."""
        file = self.checkpoints / OPTIONS if self.checkpoints.exists() else self.folder / RECORD
        try:
            found = json.loads(file.read_text(encoding="utf-8"))[name]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, kind) else None

    def begin(self) -> None:
        """Make the place for checkpoints; what a run that is resumed has left stays in it."""
        with told(self.folder):
            self.checkpoints.mkdir(exist_ok=True)
            if not self.interrupted:
                with whole(self.checkpoints / OPTIONS) as path:
                    path.write_text(json.dumps({"options": self.options, "command": self.command}, indent=1))

    def publish(self, write: Callable[[Path], Any]) -> dict[str, Path]:
        """Let `write(folder)` make all results in a folder of their own, then move them; returns {name: path}."""
        staged = self.checkpoints / NEW
        with told(self.folder), self._cleared_after_failure(staged):
            self.checkpoints.mkdir(exist_ok=True)
            shutil.rmtree(staged, ignore_errors=True)
            staged.mkdir()
            write(staged)
            names = sorted(path.name for path in staged.iterdir())
            for name in names:
                with (staged / name).open("rb+") as file:
                    os.fsync(file.fileno())
            with whole(self.checkpoints / COMPLETE) as path:
                path.write_text("\n".join(names))
            self._end_move()
        return {name: self.folder / name for name in names}

    @contextlib.contextmanager
    def _cleared_after_failure(self, staged: Path) -> Iterator[None]:
        """Half-written results go; the checkpoints of a run that has some stay."""
        try:
            yield
        except BaseException:
            if not (self.checkpoints / COMPLETE).is_file():
                shutil.rmtree(staged if self.interrupted else self.checkpoints, ignore_errors=True)
            raise

    def _end_move(self) -> None:
        """Move results that are whole to their names, and clear the rest; does nothing before they are complete."""
        if (self.checkpoints / COMPLETE).is_file():
            for path in sorted((self.checkpoints / NEW).iterdir()):
                path.replace(self.folder / path.name)
            if self.interrupted:
                (self.checkpoints / OPTIONS).replace(self.folder / RECORD)
            # The mark goes first with its folder's name, so that a death in the middle leaves no half-cleared run.
            cleared = self.folder / f".{UNFINISHED}"
            shutil.rmtree(cleared, ignore_errors=True)
            self.checkpoints.rename(cleared)
            shutil.rmtree(cleared, ignore_errors=True)


@contextlib.contextmanager
def told(folder: Path) -> Iterator[None]:
    """What the operating system refuses inside, as a sentence that names the folder and says that nothing is lost."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # netCDF4 raises RuntimeError for what the disk refuses
        if complaint_of(error) is not None or (isinstance(error, RuntimeError) and "NetCDF" not in str(error)):
            raise
        number = getattr(error, "errno", None)
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        if number in PLACES and _free(folder) > 1 << 20:
            raise type(error)(number, complain(
                f"a folder that can be written to at {folder}", reason, "another folder (--out)")) from error
        # The libraries of NetCDF and HDF report a full disk as an error of their own, with no number to know it by.
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or _free(folder) < 1 << 20
        raise OSError(errno.ENOSPC if full else errno.EIO, complain(
            f"files of the run that can be written in {folder}", f"a full disk or quota ({reason})" if full else reason,
            f"{'free some space' if full else 'look whether the disk is full, over quota or broken'}, and go on with --resume: what was "
            "whole is untouched, and the last checkpoint is kept")) from error


def _free(folder: Path) -> int:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 1 << 40


def _said(option: object) -> str:
    """An option in words: one that was not given is the default."""
    return "the default" if option is None else repr(option)
