"""The one exception a user can mend, other errors in one line of text, and the check of keyword arguments."""

from collections.abc import Mapping
from typing import Any

from mdjax.escapes import printable


class InputError(ValueError):
    """Bad input, told in one sentence: the value met, what was expected, and the remedy.

    The command line prints the message alone and exits with status 2; Python callers catch it as a ValueError. Names in
    it are shown, not obeyed: control characters, line feeds too, are spelled out.
    """

    def __init__(self, message: object = ""):
        super().__init__(printable(str(message)))


def first_line(error: BaseException) -> str:
    """What an error says, for use inside a sentence: its first line, at most 200 characters, no full stop.

    The reason alone for errors of the operating system, whose path the sentence names anyway; the type's name for an
    error that says nothing.
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200].rstrip(". ")


def check_options(function: str, options: Mapping[str, Any], kind: type) -> None:
    """Raise TypeError for a keyword argument that is none of a `TypedDict`'s, as Python does for a plain signature."""
    if unknown := sorted(options.keys() - kind.__annotations__.keys()):
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")
