"""Arrays as numpy.save writes them, alone or in an .npz: their types and sizes are known before any is expanded."""

import math
from typing import IO, NamedTuple

import numpy as np

_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_KINDS = "biufcSU"
_BLOCK = 2**22
"""Bytes that are read at a time."""
_PIECE = 2**16
"""Where most is skipped."""


class Form(NamedTuple):
    """What the header of an array says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool

    @property
    def length(self) -> int:
        """Of its first axis; 0 of a single number."""
        return self.shape[0] if self.shape else 0

    @property
    def needed(self) -> int:
        """Bytes of memory that it takes: bytes become floats of four."""
        return self.needed_by(None)

    def needed_by(self, rows: np.ndarray | None) -> int:
        """Of these rows alone, of all where there are none to choose."""
        shape = self.shape if rows is None else (len(rows), *self.shape[1:])
        return math.prod(shape) * max(4, self.dtype.itemsize)


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
    dtype = _narrowed(form) if narrow else form.dtype
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


def read_rows(file: IO[bytes], form: Form, rows: np.ndarray, *, narrow: bool = False, skip: bool = False) -> np.ndarray:
    """Rows of the numbers behind a header, in the order given, a block at a time; `narrow` as for `read_numbers`.

    skip: whether what lies between is left unread where a file may be moved in; else all is read, so that a checksum is
        compared at its end.

    Raises ValueError where the file ends too soon, for rows that do not lie in one piece each (Fortran's order), and
    what reading raises.
    """
    dtype = _narrowed(form) if narrow else form.dtype
    found = np.empty((len(rows), *form.shape[1:]), dtype)
    places = np.argsort(rows, kind="stable")
    wanted = rows[places]
    start, step = file.tell(), _rows_of(form, _PIECE if skip else _BLOCK)
    numbers = np.unique(wanted // step) if skip else range(-(-form.length // step))
    for first in (int(number) * step for number in numbers):
        if skip:
            file.seek(start + first * _row_bytes(form))
        values = _block(file, form, min(step, form.length - first))
        low, high = np.searchsorted(wanted, (first, first + len(values)))
        with np.errstate(over="ignore"):
            found[places[low:high]] = values[wanted[low:high] - first]
    return found


def largest(file: IO[bytes], form: Form) -> int | None:
    """The greatest of whole numbers [n] behind a header, a block at a time; None of anything else, which is not read.

    Errors are those of `read_rows`.
    """
    if len(form.shape) != 1 or form.dtype.kind not in "iu" or not form.shape[0]:
        return None
    step = _rows_of(form, _BLOCK)
    return max(int(_block(file, form, min(step, form.length - first)).max()) for first in range(0, form.length, step))


def _narrowed(form: Form) -> np.dtype:
    return np.dtype(np.float32) if form.dtype.kind == "f" and form.dtype.itemsize > 4 else form.dtype


def _row_bytes(form: Form) -> int:
    return form.dtype.itemsize * math.prod(form.shape[1:])


def _rows_of(form: Form, size: int) -> int:
    """How many rows are read together: about so many bytes."""
    if form.is_fortran and len(form.shape) > 1:
        raise ValueError(
            "its columns come first (Fortran's order), so that no rows can be drawn from it; save what "
            "numpy.ascontiguousarray makes of it"
        )
    return max(1, size // max(1, _row_bytes(form)))


def _block(file: IO[bytes], form: Form, count: int) -> np.ndarray:
    """The next rows."""
    content = file.read(count * _row_bytes(form))
    if len(content) != count * _row_bytes(form):
        raise ValueError("it ends too soon")
    return np.frombuffer(content, form.dtype).reshape(count, *form.shape[1:])
