"""MNIST's idx files, packed or not, and those of sets that are published under its names (Fashion-MNIST, KMNIST).

A file is two zero bytes, the type of its numbers (8: unsigned bytes), the number of axes, each axis' length as a
big-endian word, and the numbers (yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content

_STEMS = {
    "x_train": ("train-images", 3),
    "y_train": ("train-labels", 1),
    "x_test": ("t10k-images", 3),
    "y_test": ("t10k-labels", 1),
}
"""Array → what its file's name begins with, and its axes."""

_BYTES = 8


def is_in(folder: Path) -> bool:
    """Whether a folder has one of the four files."""
    return any(_file(folder, *told) is not None for told in _STEMS.values())


def read(folder: Path) -> dict[str, Any]:
    """Images uint8 [n, height, width] and labels uint8 [n] of the four files, each unpacked or as .gz.

    Raises InputError, which names the file, for one that is missing, cut, longer than it says, of another kind, or
    that would take more than the memory limit, before it is unpacked.
    """
    arrays = {}
    for name, (stem, axes) in _STEMS.items():
        path = _file(folder, stem, axes)
        if path is None:
            raise InputError(
                f"{folder} has no file {stem}-idx{axes}-ubyte, nor with .gz. Put all four files of the set into it."
            )
        try:
            arrays[name] = _read(path, axes)
        except Exception as error:  # packed bytes that are damaged raise several
            expect_damage(error, str(path))
            raise InputError(f"Cannot read {path}: {first_line(error)}. Download it again.") from None
    return arrays


def _file(folder: Path, stem: str, axes: int) -> Path | None:
    for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):
        for suffix in ("", ".gz"):
            if os.path.lexists(path := folder / f"{name}{suffix}"):
                return path
    return None


def _read(path: Path, axes: int) -> np.ndarray:
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        if path.suffix != ".gz":
            return _array(file, str(path), axes, size)
        with gzip.GzipFile(fileobj=file) as unpacked:
            return _array(unpacked, str(path), axes, size)


def _array(file: IO[bytes] | gzip.GzipFile, name: str, axes: int, size: int) -> np.ndarray:
    magic = file.read(4)
    if magic != bytes([0, 0, _BYTES, axes]):
        begins = magic.hex() or "nothing"
        raise ValueError(f"it begins with {begins}, but an idx file of {axes} axes with 00000{_BYTES}0{axes}")
    head = file.read(4 * axes)
    if len(head) < 4 * axes:
        raise ValueError("it ends within its header")
    shape = struct.unpack(f">{axes}I", head)
    count = math.prod(shape)
    check_content(f"The numbers of {name}", 4 * count, size)  # bytes become floats of four
    content = file.read(count + 1)  # one more: it has to be the end, where a packed file's checksum is compared
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content)}"
        raise ValueError(f"it says that it holds {'x'.join(map(str, shape))} bytes, but it holds {more}")
    return np.frombuffer(content, np.uint8).reshape(shape)
