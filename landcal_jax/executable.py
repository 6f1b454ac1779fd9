"""A program as a model: parameters written into its namelists and text files, one working directory a run, outputs read back.

    model = Executable(
        ["/models/jules.exe"], outputs=read_fluxes,
        namelists={"pft_params.nml": "templates/pft_params.nml"}, names={"neff": "jules_pftparm.neff_io"},
        inputs=["forcing.nc"], timeout=600)

The command is a list of arguments and is run without a shell. Templates are read when the model is made, so that a file that is
edited later does not mix two models in one ensemble.
"""

import contextlib
import functools
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xarray as xr

from landcal_jax.errors import complain
from landcal_jax.io.files import sha256
from landcal_jax.io.parameter_lists.namelists import patched
from landcal_jax.model_identity import Identity, identity_of

PLACEHOLDER = re.compile(r"\$\{(\w+)(?:\[(\d+)\])?\}")
OUT, ERR = "landcal.out", "landcal.err"


class RunFailed(RuntimeError):
    """One run of a model did not give what was asked for; the text is the sentence for its record."""


class Stopped(RuntimeError):
    """The ensemble was interrupted while a run was on its way; nothing is to be recorded of it."""


class Running:
    """The processes of one ensemble, so that an interruption ends them instead of leaving them behind."""

    def __init__(self) -> None:
        self.stopped, self._lock, self._processes = False, threading.Lock(), set()

    @contextlib.contextmanager
    def watched(self, process: subprocess.Popen):
        """The process can be ended by `stop` while the block runs."""
        with self._lock:
            self._processes.add(process)
            if self.stopped:
                end(process)
        try:
            yield
        finally:
            with self._lock:
                self._processes.discard(process)

    def stop(self) -> None:
        """End every process, now and from now on."""
        with self._lock:
            self.stopped = True
            for process in self._processes:
                end(process)


def end(process: subprocess.Popen) -> None:
    """Kill a process with all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class Executable:
    """A program that is run once a member: `command` is a list of arguments, run without a shell in the member's directory.

    `outputs`: a function of the member's directory (a `Path`) that returns {stream: array} or a Dataset with the streams as
    variables; or the name of a NetCDF file there with such variables.
    `namelists`: name of a file in the member's directory -> Fortran namelist to make it from. `names`: parameter -> "name",
    "group.name" or "group.name(3)" in it, by default the parameter's own name; with several namelists "FILE:group.name".
    `templates`: name -> text file with `${parameter}` or, for one element counted from 1, `${parameter[2]}`.
    `inputs`: files that the directory gets a link to (forcing), a list, or a mapping of name there -> file.
    `timeout`: seconds until a run is killed and counts as failed. `environment`: variables added to those of this process.

    Raises FileNotFoundError if the program, a template or an input is not there, ValueError for names that leave the directory.
    """

    def __init__(self, command: Sequence[str | Path], *, outputs: Callable[[Path], Any] | str,
                 namelists: Mapping[str, str | Path] | None = None, names: Mapping[str, str] | None = None,
                 templates: Mapping[str, str | Path] | None = None,
                 inputs: Sequence[str | Path] | Mapping[str, str | Path] = (), timeout: float = 3600.0,
                 environment: Mapping[str, str] | None = None):
        if isinstance(command, str) or not command:
            raise ValueError(complain("a command as a list of arguments", repr(command), "['./model', '-n', 'model.nml']"))
        if not (np.isfinite(timeout) and timeout > 0):
            raise ValueError(complain("a timeout above zero, in seconds", f"{timeout}", "timeout=600"))
        self.command = _found(command)
        self.outputs, self.names, self.timeout = outputs, dict(names or {}), float(timeout)
        self.environment = {str(name): str(value) for name, value in (environment or {}).items()}
        self.namelists = {_inside(name): _text(path) for name, path in (namelists or {}).items()}
        self.templates = {_inside(name): _text(path) for name, path in (templates or {}).items()}
        listed = inputs.items() if isinstance(inputs, Mapping) else [(Path(path).name, path) for path in inputs]
        self.inputs = {_inside(name): str(_there(path)) for name, path in listed}
        self._identity = self._fingerprint()

    @property
    def name(self) -> str:
        """Name of the program."""
        return Path(self.command[0]).name

    def identity(self) -> Identity:
        """SHA256 of the command, of the files that it names, of templates and inputs, and of the function that reads outputs.

        That of the function includes what it refers to, see `model_identity`.
        """
        return self._identity

    def _fingerprint(self) -> Identity:
        # The folder of the program is no part of what it computes, its content is.
        arguments = [sha256(part) if Path(part).is_absolute() and Path(part).is_file() else part for part in self.command]
        files = {name: sha256(path) for name, path in self.inputs.items()}
        reader = Identity(self.outputs) if isinstance(self.outputs, str) else identity_of(self.outputs)
        tables = [sorted(table.items()) for table in (self.namelists, self.templates, files, self.names, self.environment)]
        parts = (arguments, *tables, reader.text)
        return Identity(hashlib.sha256(repr(parts).encode()).hexdigest(), reader.unknown)

    def prepare(self, theta: Mapping[str, Any], folder: Path) -> None:
        """Write the files of a member into its directory.

        Raises ValueError for a parameter that no file takes, since its prior would come back as its posterior.
        """
        used: set[str] = set()
        for name, text in self.templates.items():
            _write(folder / name, PLACEHOLDER.sub(functools.partial(_filled, theta, used, name), text))
        for name, values in self._by_namelist(theta, used).items():
            _write(folder / name, patched(self.namelists[name], values, name))
        if set(theta) - used:
            raise ValueError(complain(f"a place for {', '.join(sorted(set(theta) - used))} in a template or namelist", "none",
                                      "${name} in a template, or names={parameter: 'FILE:group.name'}"))
        for name, path in self.inputs.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path)

    def _by_namelist(self, theta: Mapping[str, Any], used: set[str]) -> dict[str, dict[str, Any]]:
        """Values by namelist file; each parameter that no text file has goes to the only namelist under its own name."""
        values: dict[str, dict[str, Any]] = {name: {} for name in self.namelists}
        for parameter, value in theta.items():
            if parameter in used and parameter not in self.names:
                continue
            file, _, place = self.names.get(parameter, parameter).rpartition(":")
            if not file and len(self.namelists) == 1:
                file = next(iter(self.namelists))
            if file in values:
                values[file][place] = value
                used.add(parameter)
        return values

    def __call__(self, folder: Path, running: Running | None = None) -> dict[str, np.ndarray]:
        """One run in `folder`, which `prepare` has filled; returns {stream: array}. Raises RunFailed where it fails."""
        with (folder / OUT).open("wb") as out, (folder / ERR).open("wb") as err:
            try:
                process = subprocess.Popen(
                    [*_leash(), *self.command], cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                    env=os.environ | self.environment)
            except OSError as error:
                raise RunFailed(f"{self.name} did not start: {error.strerror or error}") from error
            running = running or Running()
            try:
                with running.watched(process):
                    code = process.wait(self.timeout)
            except BaseException as error:
                end(process)
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise RunFailed(f"{self.name} was killed after {self.timeout:g} seconds without an end") from None
                raise
        if running.stopped:
            raise Stopped(f"{self.name} was interrupted")
        if code:
            raise RunFailed(f"{self.name} ended with {_code(code)}{_last_words(folder)}")
        return self.read(folder)

    def once(self, theta: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """One run in a directory that is removed afterwards: {stream: array}. Raises RunFailed where it fails."""
        with tempfile.TemporaryDirectory(prefix="landcal-") as folder:
            self.prepare(theta, Path(folder))
            return self(Path(folder))

    def read(self, folder: Path) -> dict[str, np.ndarray]:
        """What a finished run has written; raises RunFailed if it cannot be read."""
        try:
            found = xr.load_dataset(folder / self.outputs) if isinstance(self.outputs, str) else self.outputs(folder)
        except FileNotFoundError as error:
            raise RunFailed(f"{self.name} ended well, but wrote no {Path(error.filename or 'output').name}") from error
        if isinstance(found, xr.Dataset):
            return {str(name): np.asarray(found[name].values, float) for name in found.data_vars
                    if np.issubdtype(found[name].dtype, np.number)}
        return found


@functools.cache
def _leash() -> tuple[str, ...]:
    """On Linux a prefix with which a model ends when the process that runs it is killed; nothing elsewhere."""
    program = shutil.which("setpriv")
    if program is None:
        return ()
    works = subprocess.run([program, "--pdeathsig", "KILL", "true"], capture_output=True, check=False).returncode == 0
    return (program, "--pdeathsig", "KILL") if works else ()


def _found(command: Sequence[str | Path]) -> list[str]:
    """The command with absolute paths: it is run in other directories than this one."""
    command = [str(part.absolute()) if isinstance(part, Path) else str(part) for part in command]
    program = shutil.which(command[0])
    if program is None:
        raise FileNotFoundError(complain(f"a program {command[0]} that can be run", "none", "its path, or build it first (chmod +x)"))
    return [str(Path(program).absolute()), *(str(Path(part).absolute()) if Path(part).is_file() else part for part in command[1:])]


def _there(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(complain(f"a file {path}", "no such file", f"check the name; the folder here is {Path.cwd()}"))
    return Path(path).absolute()


def _text(path: str | Path) -> str:
    return _there(path).read_bytes().decode("latin-1")


def _inside(name: str) -> str:
    """A name within the member's directory."""
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts or path.name in ("", OUT, ERR):
        raise ValueError(complain("the name of a file in the member's directory", repr(str(name)), "model.nml"))
    return str(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("latin-1"))


def _filled(theta: Mapping[str, Any], used: set[str], file: str, match: re.Match) -> str:
    name, index = match[1], match[2]
    values = np.atleast_1d(np.asarray(theta[name], float)).ravel() if name in theta else None
    if values is None or (index and not 1 <= int(index) <= values.size):
        raise ValueError(complain(f"a parameter for {match[0]} in {file}", ", ".join(theta), "check name and element, counted from 1"))
    used.add(name)
    return " ".join(repr(float(value)) for value in (values if index is None else values[int(index) - 1 : int(index)]))


def _code(code: int) -> str:
    if code > 0:
        return f"exit code {code}"
    names = {one.value: one.name for one in signal.Signals}
    return f"signal {names.get(-code, -code)}"


def _last_words(folder: Path) -> str:
    lines = [line.strip() for line in tail(folder / ERR).splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ", nothing in standard error"


def tail(path: Path, most: int = 2000) -> str:
    """The end of a text file, without control characters; empty if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - most))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "".join(character for character in text if character in "\n\t" or character.isprintable())
