"""Arrays as numpy.save writes them, alone or in an .npz: their types and sizes are known before any is expanded."""

import math
from typing import IO, NamedTuple

import numpy as np

_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_KINDS = "biufcSU"
_BLOCK = 2**22
"""Bytes that are read at a time."""


class Form(NamedTuple):
    """What the header of an array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def needed(self) -> int:
        """Bytes of memory that it takes: bytes become floats of four."""
        return math.prod(self.shape) * max(4, self.dtype.itemsize)


def read_form(file: IO[bytes], size: int) -> Form:
    """What the header at a file's position says, which is moved behind it.

    size: bytes of the array with its header.

    Raises ValueError, with the reason, for an array of objects, or one that is not whole.
    """
    start = file.tell()
    version = np.lib.format.read_magic(file)
    if version[0] not in _READERS:
        raise ValueError(f"it is of version {version}, which only names of fields need")
    shape, is_fortran, dtype = _READERS[version[0]](file)
    held = size - (file.tell() - start)
    if dtype.kind not in _KINDS or dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"it has type {dtype}; give numbers")
    if any(length < 0 for length in shape):
        raise ValueError(f"it has the shape {list(shape)}")
    if math.prod(shape) * dtype.itemsize != held:
        raise ValueError(f"{dtype}{list(shape)} does not fit its {held} bytes")
    return Form(shape, dtype, is_fortran)


def read_numbers(file: IO[bytes], form: Form, *, narrow: bool = False) -> np.ndarray:
    """The numbers behind a header, a block at a time: what they take in memory is hardly more than the array.

    narrow: keep floats of more than 32 bits as float32, as networks read them; beyond it they become infinite.

    Raises ValueError where the file ends too soon, and what reading raises.
    """
    dtype = np.dtype(np.float32) if narrow and form.dtype.kind == "f" and form.dtype.itemsize > 4 else form.dtype
    flat = np.empty(math.prod(form.shape), dtype)
    step = max(1, _BLOCK // form.dtype.itemsize)
    for start in range(0, flat.size, step):
        count = min(step, flat.size - start)
        content = file.read(count * form.dtype.itemsize)
        if len(content) != count * form.dtype.itemsize:
            raise ValueError("it ends too soon")
        with np.errstate(over="ignore"):
            flat[start : start + count] = np.frombuffer(content, form.dtype)
    return flat.reshape(form.shape, order="F" if form.is_fortran else "C")
