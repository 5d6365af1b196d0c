"""The one exception a user can mend, other errors in one line of text, and the check of keyword arguments."""

from collections.abc import Mapping
from numbers import Integral
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
    error that says nothing. An InputError is told whole, since its remedy comes last.
    """
    text = getattr(error, "strerror", None) or str(error)
    lines = str(text).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return (line if isinstance(error, InputError) else line[:200]).rstrip(". ")


def brief(value: Any) -> str:
    """A value as it is written in code, for use inside a sentence: at most 60 characters of it."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits
        text = f"a {type(value).__name__} that is too long to write"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_whole(name: str, value: Any, least: float, most: float) -> None:
    """InputError unless a value is a whole number within limits: "{name} is 1.5. Give a whole number of at least …"."""
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or not least <= int(value) <= most:
        raise InputError(f"{name} is {brief(value)}. Give a whole number of at least {least:,} and at most {most:,}.")


def check_options(function: str, options: Mapping[str, Any], kind: type) -> None:
    """Raise TypeError for a keyword argument that is none of a `TypedDict`'s, as Python does for a plain signature."""
    if unknown := sorted(options.keys() - kind.__annotations__.keys()):
        raise TypeError(f"{function}() got an unexpected keyword argument {unknown[0]!r}")
