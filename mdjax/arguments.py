"""What the arguments of all commands have in common: texts → values, refused as argparse refuses."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mdjax.addresses import Address, located
from mdjax.console import complain, tell
from mdjax.errors import InputError
from mdjax.files import is_standard_output, place, table_place

T = TypeVar("T")

DATA_HELP = (
    "digits, an .npz, or a folder of CIFAR-10 or CIFAR-100, MNIST's idx files, x_train.npy and its like, train.parquet "
    "and test.parquet, or images as train/CLASS/*.png"
)
LAYOUT_HELP = (
    "what the inputs of an .npz, .npy, idx or Parquet file are: images, other numbers, whole numbers (default: its "
    "array layout, or what types and shapes say)"
)
TASK_HELP = (
    "what the models are asked: classification, regression, multi-label or next-token (default: what the data say, by "
    "an array task or as NAME:PATH; else classification)"
)
EXAMPLES_HELP = (
    "measure on at most N of the training and N of the test examples, drawn by --seed, the same for all models; of "
    "files no more is held in memory (default: all)"
)
NOISE_HELP = (
    "take the training labels as they are, or redraw them with the noise that models are known to have been trained "
    "with (default: known, and said where the data may be others)"
)
"""Of options that several commands have."""


def output(text: str) -> Path:
    """The path of an --out or --report."""
    return _read(place, text)


def table_output(text: str) -> Path | Address:
    """The path or the address of the --out of a table."""
    return _read(table_place, text)


def source(text: str) -> Path | Address:
    """The path or the address of a zoo or a table that is read."""
    return _read(located, text)


def _read(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
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
