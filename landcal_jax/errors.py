"""One form for every error a user meets: what was expected, what was got, what to try."""


def complain(expected: str, got: str, try_: str) -> str:
    """Return the text of an error in the house form.

    The exception is raised by the caller, so that its type says what kind of mistake it is and its traceback
    starts where the mistake was made.

    >>> print(complain("a latitude in degrees", "912.0", "check the units of `latitude`"))
    Expected: a latitude in degrees
    Got:      912.0
    Try:      check the units of `latitude`
    """
    return f"Expected: {expected}\nGot:      {got}\nTry:      {try_}"
