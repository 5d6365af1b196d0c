"""What the arguments of all commands have in common: texts → values, refused as argparse refuses."""

import argparse
from pathlib import Path

from mdjax.errors import InputError
from mdjax.files import place


def output(text: str) -> Path:
    """The path of an --out or --report."""
    try:
        return place(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error).rstrip(".")) from None
