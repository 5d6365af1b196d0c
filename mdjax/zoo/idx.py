"""MNIST's idx files, packed or not, and those of sets that are published under its names (Fashion-MNIST, KMNIST).

A file is two zero bytes, the type of its numbers (8: unsigned bytes), the number of axes, each axis' length as a
big-endian word, and the numbers (yann.lecun.com/exdb/mnist).
"""

import gzip
import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.zoo.draws import DRAWN, Choice, Draw, drawn_rows
from mdjax.zoo.npy import Form, read_rows

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


def read(folder: Path, draw: Choice | None = None) -> dict[str, Any]:
    """Images uint8 [n, height, width] and labels uint8 [n] of the four files, each unpacked or as .gz.

    draw: which of them are kept; of packed files what lies between them is read, but not held.

    Raises InputError, which names the file, for one that is missing, cut, longer than it says, of another kind, or
    that would take more than the memory limit, before it is unpacked.
    """
    shapes = {name: _attempt(folder, name, lambda file, path, axes, _: _shape(file, axes)) for name in _STEMS}
    rows, drawn = drawn_rows(str(folder), draw, {name: shape[0] for name, shape in shapes.items()})
    arrays = {
        name: _attempt(folder, name, lambda file, path, axes, size: _array(file, str(path), axes, size, rows.get(name)))
        for name in _STEMS
    }
    if drawn is None:
        return arrays
    if not isinstance(draw, Draw):
        return arrays | {DRAWN: drawn}
    labels = _attempt(folder, "y_train", lambda file, path, axes, size: _array(file, str(path), axes, size))
    return arrays | {DRAWN: drawn._replace(largest_label=int(labels.max()))}


def _attempt(folder: Path, name: str, read: Callable[..., Any]) -> Any:
    """What `read` makes of a file, unpacked, of its path, its axes and its size."""
    stem, axes = _STEMS[name]
    path = _file(folder, stem, axes)
    if path is None:
        raise InputError(
            f"{folder} has no file {stem}-idx{axes}-ubyte, nor with .gz. Put all four files of the set into it."
        )
    try:
        with open_regular(path) as file:
            size = file.seek(0, 2)
            file.seek(0)
            if path.suffix != ".gz":
                return read(file, path, axes, size)
            with gzip.GzipFile(fileobj=file) as unpacked:
                return read(unpacked, path, axes, size)
    except Exception as error:  # packed bytes that are damaged raise several
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Download it again.") from None


def _file(folder: Path, stem: str, axes: int) -> Path | None:
    for name in (f"{stem}-idx{axes}-ubyte", f"{stem}.idx{axes}-ubyte"):
        for suffix in ("", ".gz"):
            if os.path.lexists(path := folder / f"{name}{suffix}"):
                return path
    return None


def _shape(file: IO[bytes] | gzip.GzipFile, axes: int) -> tuple[int, ...]:
    magic = file.read(4)
    if magic != bytes([0, 0, _BYTES, axes]):
        begins = magic.hex() or "nothing"
        raise ValueError(f"it begins with {begins}, but an idx file of {axes} axes with 00000{_BYTES}0{axes}")
    head = file.read(4 * axes)
    if len(head) < 4 * axes:
        raise ValueError("it ends within its header")
    return struct.unpack(f">{axes}I", head)


def _array(
    file: IO[bytes] | gzip.GzipFile, name: str, axes: int, size: int, rows: np.ndarray | None = None
) -> np.ndarray:
    shape = _shape(file, axes)
    count = math.prod(shape)
    kept = count if rows is None else len(rows) * math.prod(shape[1:])
    check_content(f"The numbers of {name}", 4 * kept, size)  # bytes become floats of four
    told = f"it says that it holds {'x'.join(map(str, shape))} bytes, but it holds"
    if rows is not None:
        is_packed = isinstance(file, gzip.GzipFile)
        if not is_packed and size != 4 + 4 * axes + count:
            raise ValueError(f"{told} {'more' if size > 4 + 4 * axes + count else size - 4 - 4 * axes}")
        numbers: Any = file
        try:
            found = read_rows(numbers, Form(shape, np.dtype(np.uint8), False), rows, skip=not is_packed)
        except ValueError:
            raise ValueError(f"{told} less") from None
        if is_packed and file.read(1):  # it has to be the end, where the checksum is compared
            raise ValueError(f"{told} more")
        return found
    content = file.read(count + 1)
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content)}"
        raise ValueError(f"{told} {more}")
    return np.frombuffer(content, np.uint8).reshape(shape)
