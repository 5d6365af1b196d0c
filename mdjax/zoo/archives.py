"""Arrays in an .npz, whose types and sizes are known before any is expanded."""

import math
import zipfile
from typing import IO, BinaryIO

import numpy as np

_READERS = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_KINDS = "biufcSU"


class Archive:
    """An open .npz; `names` are those of its arrays.

    ValueError, with the reason, for an archive that holds a name twice, whatever the case of its letters: of two
    entries programs take one or the other.
    """

    def __init__(self, file: BinaryIO):
        self._archive = zipfile.ZipFile(file)
        entries = self._archive.infolist()
        seen = [entry.filename.removesuffix(".npy").lower() for entry in entries]
        if len(set(seen)) < len(seen):
            twice = next(name for name in seen if seen.count(name) > 1)
            raise ValueError(f"it holds {twice[:80]!r} twice")
        self._entries = {entry.filename.removesuffix(".npy"): entry for entry in entries}
        self.names = list(self._entries)

    def form(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        """The shape and type of an array, by its header; ValueError for one of objects, or that is not whole."""
        entry = self._entries[name]
        if entry.compress_type not in _METHODS:
            raise ValueError(f"it is compressed by method {entry.compress_type}, which numpy does not write")
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
