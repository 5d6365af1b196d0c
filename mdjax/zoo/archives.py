"""Arrays in an .npz, whose types and sizes are known before any is expanded."""

import math
import zipfile
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from mdjax.archives import check_entries
from mdjax.errors import InputError, first_line
from mdjax.inputs import open_regular
from mdjax.memory import check_content
from mdjax.zoo.arrays import ARRAYS, FACTS

_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_KINDS = "biufcSU"


class Archive:
    """An open .npz; `names` are those of its arrays.

    ValueError, with the reason, for what `mdjax.archives.check_entries` refuses, such as an array that comes twice.
    """

    def __init__(self, file: BinaryIO):
        self._archive = zipfile.ZipFile(file)
        check_entries(self._archive, ".npy")
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in self._archive.infolist()}
        self.names = list(self._entries)

    def form(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and type of an array, by its header; ValueError for one of objects, or that is not whole."""
        entry = self._entries[name]
        with self._archive.open(entry) as file:
            shape, _, dtype = self._header(file)
            start = file.tell()
        if dtype.kind not in _KINDS or dtype.hasobject or dtype.itemsize == 0:
            raise ValueError(f"it has type {dtype}; give numbers")
        if any(length < 0 for length in shape):
            raise ValueError(f"it has the shape {list(shape)}")
        if math.prod(shape) * dtype.itemsize != entry.file_size - start:
            raise ValueError(f"{dtype}{list(shape)} does not fit its {entry.file_size - start} bytes")
        return shape, dtype

    def read(self, name: str) -> np.ndarray:
        """An array; errors as numpy and zipfile raise them, of a checksum that does not fit for one."""
        with self._archive.open(self._entries[name]) as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            file.read(1)  # the checksum is compared at the end
        return array

    @staticmethod
    def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
        version = np.lib.format.read_magic(file)
        if version[0] not in _READERS:
            raise ValueError(f"it is of version {version}, which only names of fields need")
        return _READERS[version[0]](file)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of data in an .npz, and the facts beside them; InputError, which names the file and the array."""
    arrays = {}
    name = ""
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):  # np.load would read a single array, or speak of pickles
                raise ValueError("it is no whole .npz file")
            content = Archive(file)
            for name in ARRAYS:
                if name not in content.names:
                    found = ", ".join(content.names)[:200] or "nothing"
                    raise InputError(f"{path} has no array {name}; it holds {found}. Save {', '.join(ARRAYS)}.")
            names = [*ARRAYS, *(fact for fact in FACTS if fact in content.names)]
            needed = 0
            for name in names:
                shape, dtype = content.form(name)
                needed += math.prod(shape) * max(4, dtype.itemsize)  # bytes become floats of four
            check_content(f"The arrays of {path}", needed, path.stat().st_size)
            for name in names:
                arrays[name] = content.read(name)
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        where = f"array {name} of {path}" if name else str(path)
        raise InputError(f"Cannot read {where}: {first_line(error)}. Save it again with numpy.savez.") from None
    return arrays
