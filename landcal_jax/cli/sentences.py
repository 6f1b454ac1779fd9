"""What goes wrong, in sentences; and code of the user, which runs by design."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from landcal_jax.errors import complain, complaint_of


def sentence_of(error: BaseException) -> str | None:
    """The sentence for a mistake that the user can mend; None for a fault of ours."""
    found = complaint_of(error)
    if found is not None:
        return found
    if isinstance(error, OSError):
        where = f" {error.filename}" if error.filename else ""
        reason = (error.strerror or str(error)).lower()
        return complain(f"a file or folder{where} that can be used", reason, "check the name, the rights and the room on the disk")
    if isinstance(error, MemoryError):
        return complain("data that fit into memory", str(error) or "no memory left", "a shorter period, fewer sites or fewer members")
    return None


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
        raise ValueError(complain(f"a file {path} that runs", f"{type(error).__name__}: {error}", f"python {path}")) from error
    if not hasattr(module, name):
        there = ", ".join(each for each in vars(module) if not each.startswith("_"))
        raise ValueError(complain(f"{name!r} in {path}", there, "check the name after the colon"))
    return getattr(module, name)
