"""What goes wrong, in sentences."""

import sys
from typing import Any

from typer.core import TyperGroup

from landcal_jax.errors import complain, complaint_of


class Commands(TyperGroup):
    """Commands whose misuse (an unknown option, a value of another kind) is told in the form of every other mistake."""

    def main(self, args=None, prog_name=None, complete_var=None, standalone_mode=True, **extra: Any) -> Any:
        """Run the command of the command line. Raises ValueError for misuse, SystemExit at the end."""
        given, prog_name = sys.argv[1:] if args is None else list(args), prog_name or "landcal"
        if not given:  # the help, which is no mistake
            return super().main(args, prog_name, complete_var, standalone_mode, **extra)
        try:
            status = super().main(given, prog_name, complete_var, False, **extra)
        except Exception as error:
            # By its attributes: typer has had the class from click, and now has one of its own.
            if not hasattr(error, "format_message") or not hasattr(error, "ctx"):
                raise
            path = error.ctx.command_path if error.ctx else prog_name
            expected = f"a command line such as `{path} --help` describes"
            raise ValueError(complain(expected, error.format_message(), f"{path} --help")) from error
        if standalone_mode:
            raise SystemExit(status or 0)
        return status


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
