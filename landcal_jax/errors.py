"""One form for every error a user meets: what was expected, what was got, what to try."""


class Complaint(str):
    """The text of an error that a user can act on. The command line shows it as it is; anything else is a fault of ours."""

    __slots__ = ()


def complain(expected: str, got: str, try_: str) -> Complaint:
    """Return the text of an error in the house form.

    The exception is raised by the caller, so that its type says what kind of mistake it is and its traceback
    starts where the mistake was made.

    >>> print(complain("a latitude in degrees", "912.0", "check the units of `latitude`"))
    Expected: a latitude in degrees
    Got:      912.0
    Try:      check the units of `latitude`
    """
    return Complaint(f"Expected: {expected}\nGot:      {got}\nTry:      {try_}")


def complaint_of(error: BaseException) -> str | None:
    """The sentence that `error` carries for a user; None if it is not one of ours."""
    return next((str(part) for part in error.args if isinstance(part, Complaint)), None)
