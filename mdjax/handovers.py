"""Arrays handed from one process to another through a file, which the other maps and need not read."""

import math
import mmap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ALIGNED = 64


def write_arrays(path: Path, arrays: Sequence[np.ndarray]) -> list[list[Any]]:
    """Write arrays of numbers to a file; returns where each lies, as `read_arrays` and JSON take it."""
    places = []
    with path.open("wb") as file:
        for array in arrays:
            file.write(b"\0" * (-file.tell() % _ALIGNED))
            places.append([array.dtype.str, list(array.shape), file.tell()])
            file.write(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return places


def read_arrays(path: Path, places: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """The arrays in a file, which may be removed then; they cannot be written to.

    They are mapped: their memory is the file's. Raises ValueError for places that are not the file's, and OSError.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    return [_array(content, kind, tuple(shape), offset) for kind, shape, offset in places]


def _array(content: Any, kind: str, shape: tuple[int, ...], offset: int) -> np.ndarray:
    dtype = np.dtype(kind)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise ValueError(f"arrays of {dtype}{list(shape)} are not handed over")
    count = math.prod(shape)
    return np.frombuffer(content, dtype, count, offset).reshape(shape) if count else np.zeros(shape, dtype)
