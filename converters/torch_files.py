"""Files of torch.save, of today (zip) and of before torch 1.6 → what they hold, its tensors as views of the file."""

import io
import mmap
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from converters.errors import RefusedError
from converters.pickled_tensors import Reference, read
from converters.tensors import TensorError, flat_bytes
from mdjax.archives import check_archive
from mdjax.pickles import load

_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
"""With what files of before torch 1.6 begin."""

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PICKLE = "data.pkl"
_LONGEST_LINE = 2**22


class Records:
    """The entries of an archive in memory or mapped, each as bytes that tensors may share.

    archive: opened and checked (`mdjax.archives.check_archive`).
    buffer: the whole file, writable; private to this process.
    """

    def __init__(self, archive: zipfile.ZipFile, buffer: Any):
        self.names = archive.namelist()
        self._archive, self._buffer = archive, buffer

    def content(self, name: str, most: int | None = None) -> bytes:
        """An entry's bytes, a copy. Raises KeyError where there is no such entry, RefusedError for more than `most`."""
        size = self._archive.getinfo(name).file_size
        if most is not None and size > most:
            raise RefusedError(f"its entry {name} has {size} bytes, but at most {most} are expected")
        return self._archive.read(name)

    def lines(self, name: str) -> Iterator[str]:
        """The lines of an entry of text, one at a time: a list of them would take many times the entry.

        Raises RefusedError where one is longer than any.
        """
        with self._archive.open(name) as file:
            while line := file.readline(_LONGEST_LINE):
                if len(line) == _LONGEST_LINE:
                    raise RefusedError(f"its entry {name} has a line of more than {_LONGEST_LINE} letters")
                yield line.decode(errors="replace").removesuffix("\n")

    def flat(self, name: str) -> Any:
        """An entry as a tensor uint8 [bytes]: mapped where it is stored as it is, a copy where it is compressed."""
        entry = self._archive.getinfo(name)
        if entry.compress_type != zipfile.ZIP_STORED:
            content = bytearray(self._archive.read(entry))
            return flat_bytes(content, 0, len(content))
        # The local header has its own lengths; its name was compared when the checksum was.
        start = entry.header_offset
        _, *lengths = _LOCAL_HEADER.unpack(self._buffer[start : start + _LOCAL_HEADER.size])
        return flat_bytes(self._buffer, start + _LOCAL_HEADER.size + sum(lengths), entry.file_size)

    def folder(self, entry: str) -> str:
        """The one top folder that holds an entry of this name. Raises RefusedError where there is none."""
        folders = [name.removesuffix(f"/{entry}") for name in self.names if name.endswith(f"/{entry}")]
        folders = [name for name in folders if "/" not in name]
        if len(folders) != 1:
            raise RefusedError("it is truncated, damaged, or not written by torch.save")
        return folders[0]

    def saved(self) -> Any:
        """What torch.save wrote. Raises RefusedError where it was something else."""
        return self.read(self.folder(_PICKLE))

    def read(self, folder: str, more: Callable[[str], Any] = lambda name: None) -> Any:
        """What the pickle of a top folder holds, its storages in the folder's `data`.

        `more` knows further names that it may refer to. Raises as `converters.pickled_tensors.read`.
        """
        swapped = sys.byteorder != self._byteorder(folder)
        flats: dict[tuple[str, int], Any] = {}

        def storage(reference: Reference) -> Any:
            if reference.view is not None or PurePosixPath(reference.key).name != reference.key:
                raise TensorError("a storage has a name that is none")
            # A storage is swapped once for each width, however many parts of it are named.
            place = reference.key, _width(reference.dtype) if swapped else 1
            if place not in flats:
                flat = self.flat(f"{folder}/data/{reference.key}")
                flats[place] = _swapped(flat, place[1]) if swapped else flat
            flat, size = flats[place], reference.size * reference.itemsize
            if size > len(flat):
                raise TensorError("a storage is shorter than its tensors say")
            return flat[:size]

        content = self.content(f"{folder}/{_PICKLE}")
        return read(io.BytesIO(content), len(content), storage, more)

    def _byteorder(self, folder: str) -> str:
        name = f"{folder}/byteorder"
        if name not in self.names:
            return "little"
        order = next((order for order in ("little", "big") if self.content(name) == order.encode()), None)
        if order is None:
            raise RefusedError("its byte order is neither little nor big")
        return order


def _width(dtype: Any) -> int:
    """Bytes that change places in a number of the other byte order."""
    if dtype is None:
        raise RefusedError("it was written by a machine of the other byte order, without the types of its numbers")
    return dtype.itemsize // (2 if dtype.is_complex else 1)


def _swapped(flat: Any, width: int) -> Any:
    """A copy of a storage in the other byte order; without what is left of a number at its end."""
    import torch

    whole = flat[: len(flat) // width * width]
    return torch.from_numpy(whole.numpy().view(f"u{width}").byteswap().view(np.uint8))


def read_saved(content: bytes) -> Any:
    """What a file of torch.save inside another file holds. Nothing in it may be compressed once more.

    Raises RefusedError, PickleError, TensorError, ArchiveError, and nearly anything else for a damaged file.
    """
    file, buffer = io.BytesIO(content), bytearray(content)
    if not zipfile.is_zipfile(file):
        return read_old(buffer)
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, len(buffer), len(buffer))
        return Records(archive, buffer).saved()


def read_old(buffer: bytearray | mmap.mmap) -> Any:
    """A file of before torch 1.6: pickles one after another, then the storages in the order of a list of their names.

    buffer: the file in memory or mapped, writable and private.
    """
    size, file = len(buffer), io.BytesIO(buffer) if isinstance(buffer, bytearray) else buffer
    file.seek(0)

    def plain() -> Any:
        return load(file, 0, lambda name: None, text=bytes.decode)

    if (plain(), plain()) != (_MAGIC, _PROTOCOL):
        raise ValueError("no file of torch.save")
    plain()  # about the machine that wrote it
    begin = file.tell()
    needed: dict[str, Reference] = {}

    def unknown(reference: Reference) -> None:
        known = needed.setdefault(reference.key, reference)
        if known.itemsize != reference.itemsize:
            raise TensorError("a storage has numbers of two types")

    # Where the storages lie follows from what the pickle says of them: it is read twice.
    read(file, size, unknown)
    keys = plain()
    flats: dict[str, Any] = {}
    position = file.tell()
    for key in keys:
        if type(key) is not str:  # nothing else is looked up: its hash may never end
            raise TensorError("a storage has a name that is none")
        width = needed[key].itemsize
        (count,) = struct.unpack("<q", buffer[position : position + 8])
        if count != needed[key].size:
            raise TensorError("a storage is of another size than its tensors say")
        flats[key] = flat_bytes(buffer, position + 8, count * width)
        position += 8 + count * width

    def storage(reference: Reference) -> Any:
        offset, count = reference.view or (0, reference.size)
        return flats[reference.key][offset * reference.itemsize : (offset + count) * reference.itemsize]

    file.seek(begin)
    return read(file, size, storage)
