"""What the arguments of all commands have in common: texts → values, refused as argparse refuses."""

import argparse
from pathlib import Path

from mdjax.console import complain, tell
from mdjax.errors import InputError
from mdjax.files import is_standard_output, place


def output(text: str) -> Path:
    """The path of an --out or --report."""
    try:
        return place(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None


def fact(text: str) -> tuple[str, str]:
    """The name and the value of a --fact."""
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"Cannot read the fact {text!r}. Write name=value, like nonlinearity=relu.")
    return name, value


def tell_beside(out: Path | None, *texts: str) -> None:
    """Print texts on standard output, or on standard error where `out`, already written, went to standard output."""
    if out is None or not is_standard_output(out):
        tell(*texts)
        return
    for text in texts:
        complain(text)
