"""A zoo's files in a folder, or fetched from an object store: one at a time, for as long as each is read."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from mdjax.addresses import Address
from mdjax.files import temporary_folder
from mdjax.memory import check_needed
from mdjax.object_stores import ObjectStore


class Folder(Protocol):
    """The files of a zoo, by their names in its folder. All raise OSError where the system, or the service, refuses."""

    def file(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The path of a file while the block lasts; FileNotFoundError, there or in the block, where it is missing."""
        ...

    def tree(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The path of a folder with all in it while the block lasts.

        Raises InputError for one that takes more than the memory limit (`mdjax.memory`), and ValueError for one with
        names that lead elsewhere.
        """
        ...

    def groups(self) -> list[str]:
        """The names of the groups, sorted."""
        ...


def folder_of(place: Path | Address) -> Folder:
    """The files of the zoo at a path or an address; InputError where a package is missing."""
    return _StoredFolder(place) if isinstance(place, Address) else _LocalFolder(place)


class _LocalFolder:
    def __init__(self, path: Path):
        self._path = path

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        yield self._path / name

    tree = file

    def groups(self) -> list[str]:
        folder = self._path / "groups"
        if not folder.is_dir():
            return []
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))


class _StoredFolder:
    """Of a zoo that nobody writes: its groups are those that it has when they are first asked for."""

    def __init__(self, address: Address):
        self._store = ObjectStore(address)
        self._groups: list[str] | None = None

    @contextlib.contextmanager
    def file(self, name: str) -> Iterator[Path]:
        content = self._store.read(name)
        if content is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"{self._store.address}/{name}")
        with temporary_folder() as folder:
            path = folder / name.rpartition("/")[2]
            path.write_bytes(content)
            yield path

    @contextlib.contextmanager
    def tree(self, name: str) -> Iterator[Path]:
        sizes = self._store.sizes(name)
        check_needed(f"{self._store.address}/{name}", sum(sizes.values()), "Measure a copy of the zoo in a folder")
        with temporary_folder() as folder:
            path = folder / name.rpartition("/")[2]
            path.mkdir()
            self._store.fetch(name, sizes, path)
            yield path

    def groups(self) -> list[str]:
        if self._groups is None:
            self._groups = sorted(self._store.names("groups"))
        return self._groups
