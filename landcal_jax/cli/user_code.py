"""Code of the user, which runs by design: what `FILE.py:name` holds, and sentences for what goes wrong in it.

Nothing else that the command line is given is run. A mistake in code of the user is no fault of ours, so it becomes a
sentence with the line where it happened.
"""

import contextlib
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from landcal_jax.errors import complain, complaint_of


def load_object(target: str, what: str, example: str) -> Any:
    """What `FILE.py:name` holds. This runs the user's file, by design; no other option of the command line does."""
    path, _, name = target.rpartition(":")
    if not path.endswith(".py"):
        raise ValueError(complain(f"FILE.py:name, {what}", repr(target), example))
    if not Path(path).is_file():
        raise ValueError(complain(f"a Python file {path}", "no such file", f"check the name; the folder here is {Path.cwd()}"))
    spec = importlib.util.spec_from_file_location(f"_landcal_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    # Classes look their module up by its name, as dataclasses do for annotations that are text.
    sys.modules[spec.name] = module
    sys.path.insert(0, str(Path(path).resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        got = f"{type(error).__name__}: {error}{_line(error, path)}"
        raise ValueError(complain(f"a file {path} that runs", got, f"python {path}")) from error
    if not hasattr(module, name):
        there = ", ".join(each for each in vars(module) if not each.startswith("_"))
        raise ValueError(complain(f"{name!r} in {path}", there, "check the name after the colon"))
    return getattr(module, name)


def load_reader(target: str) -> Callable[..., Any]:
    """The function that `FILE.py:function` names, path -> Dataset; what goes wrong in it is told with file and line."""
    function = load_object(target, "a reader in a Python file", "--reader myreader.py:read")
    if not callable(function):
        raise ValueError(complain(f"a function at {target} that takes the path of a file", f"a {type(function).__name__}",
                                  "def read(path): return landcal_jax.io.normalise(...)"))

    @functools.wraps(function)
    def read(path: Path, **options: Any) -> Any:
        with told(target, f" with {path}"):
            return function(path, **options)

    return read


def call(function: Callable[[], Any], target: str, returns: str) -> Any:
    """What a function of the user without arguments returns."""
    try:
        needed = [name for name, one in inspect.signature(function).parameters.items()
                  if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    except (TypeError, ValueError):  # a function written in C has no signature to look at
        needed = []
    if needed:
        raise ValueError(complain(f"a function without arguments at {target} that returns {returns}", f"arguments {', '.join(needed)}",
                                  "give them defaults, or name another function"))
    with told(target):
        return function()


@contextlib.contextmanager
def told(target: str, doing: str = "") -> Iterator[None]:
    """What code of the user at `target` raises inside, as a sentence with its line; a fault of ours stays as it is."""
    path = target.rpartition(":")[0]
    try:
        yield
    except Exception as error:
        line = _line(error, path)
        if complaint_of(error) is not None or not line:
            raise
        reason = (str(error).splitlines() or [""])[0][:200]
        traced = "jax" in type(error).__module__
        advice = "compute with jax.numpy there, without float(), numpy or if on values that depend on parameters" if traced else \
            f"correct {path}"
        raise ValueError(complain(f"{target} that runs{doing}", f"{type(error).__name__}: {reason}{line}", advice)) from error


def _line(error: BaseException, path: str) -> str:
    """The last line of the user's file that the error went through; nothing if it did not."""
    wanted = Path(path).resolve()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).resolve() == wanted]
    return f" (line {lines[-1]} of {path})" if lines else ""
