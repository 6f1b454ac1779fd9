"""One malformed input and its sentence: how a case is written down, and how it is run through the command line."""

import contextlib
import io
import re
import shlex
import sys
from collections.abc import Callable
from typing import NamedTuple

from landcal_jax import cli

SENTENCE = re.compile(r"Expected: (.+?)\nGot:      (.+?)\nTry:      (.+)", re.DOTALL)


class Case(NamedTuple):
    """One fault. `write` makes the input in the folder at hand; `command` is what follows `landcal`.

    `expected`, `got`, `advice`: what the three lines of the sentence hold; " ... " stands for whatever is between.
    """

    name: str
    command: str
    write: Callable[[], object]
    expected: str
    got: str
    advice: str


def landcal(command: str) -> tuple[int, str, str]:
    """Exit status, output and error output of `landcal COMMAND`, run in this process."""
    said, complained = io.StringIO(), io.StringIO()
    before, path = sys.argv, list(sys.path)
    sys.argv = ["landcal", *shlex.split(command)]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            cli.main()
    except SystemExit as end:
        return end.code or 0, said.getvalue(), complained.getvalue()
    finally:
        sys.argv, sys.path[:] = before, path
    return 0, said.getvalue(), complained.getvalue()


def check(case: Case) -> None:
    """The command ends with status 2, prints nothing but one sentence of the house form, and that sentence says what it has to."""
    case.write()
    status, said, complained = landcal(case.command)
    assert "Traceback" not in complained
    assert (status, said) == (2, ""), (status, said, complained)
    found = SENTENCE.fullmatch(complained.rstrip("\n"))
    assert found and complained.count("Expected:") == 1, complained
    for part, wanted in zip(found.groups(), case[3:], strict=True):
        pattern = ".*".join(map(re.escape, wanted.split(" ... ")))
        assert wanted and re.search(pattern, part, re.DOTALL), f"{wanted!r} is not in {part!r} of\n{complained}"


def names(cases: list[Case]) -> list[str]:
    """The names of the cases, each once: two cases of one name would hide each other."""
    found = [case.name for case in cases]
    assert len(set(found)) == len(found), sorted(name for name in found if found.count(name) > 1)
    return found


def replaced(text: str, old: str, new: str, count: int = 1) -> str:
    """`text` with one thing changed, which has to be there."""
    assert old in text, old
    return text.replace(old, new, count)
