"""Where finished work lies: a folder, or an object store, by the few operations that both do in one step.

A store maps names such as "shards/losses-0f3a.parquet" to bytes. What is read under a name is whole; of several writers
that create one name the first wins, on whatever machines they run.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Protocol

from mdjax.addresses import Address, located
from mdjax.files import commit, flush, make_writable, remove_leftovers, temporary_file
from mdjax.inputs import open_regular
from mdjax.object_stores import ObjectStore


class Store(Protocol):
    """Bytes by name under one address. All raise OSError where the system, or the service, refuses."""

    address: str
    """As messages name it."""

    def prepare(self) -> None:
        """Make the store if it is missing, and try that it can be written; removes what killed writers left."""
        ...

    def read(self, name: str) -> bytes | None:
        """What is under a name; None where nothing is."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Put content under a new name for good; False, and nothing is changed, where there is some."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Put content under a name in place of what is there."""
        ...

    def delete(self, name: str) -> None:
        """Remove a name, if it is there."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names in a folder of the store, without the folder, in no order; none where there is no such folder."""
        ...


def store_of(address: str | PathLike[str] | Address) -> Store:
    """The store at a folder's path, or at an address such as s3://bucket/folder.

    Raises InputError for an address that cannot be one, or whose package is missing.
    """
    place = located(address)
    return ObjectStore(place) if isinstance(place, Address) else LocalStore(place)


class LocalStore:
    """A store in a folder of a file system, which several machines may share.

    Where that has no hard links, two writers of one name at the same moment may both be told that they were the first.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.address = str(folder)
        self._made: set[Path] = set()

    def prepare(self) -> None:
        make_writable(self.folder)

    def read(self, name: str) -> bytes | None:
        try:
            with open_regular(self.folder / name) as file:
                return file.read()
        except FileNotFoundError:
            return None

    def create(self, name: str, content: bytes) -> bool:
        path = self._path(name)
        with _written(path.parent, content) as temporary:
            try:
                os.link(temporary, path)
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT):
                    raise
                # No hard links on this file system.
                if path.exists():
                    return False
                commit(temporary, path)
                return True

    def write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        with _written(path.parent, content) as temporary:
            commit(temporary, path)

    def delete(self, name: str) -> None:
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():  # of others: nothing here makes one
            shutil.rmtree(path, ignore_errors=True)
            return
        with contextlib.suppress(FileNotFoundError):
            path.unlink()

    def names(self, folder: str) -> list[str]:
        try:
            with os.scandir(self.folder / folder) as found:
                return [entry.name for entry in found if not entry.name.startswith(".")]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _path(self, name: str) -> Path:
        path = self.folder / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            self._made.add(path.parent)
        return path


@contextlib.contextmanager
def _written(folder: Path, content: bytes) -> Iterator[Path]:
    """Yields a new file in a folder, with its content on the disk; what is still under its name is removed."""
    with temporary_file(folder) as temporary:
        temporary.write_bytes(content)
        flush(temporary)
        yield temporary
