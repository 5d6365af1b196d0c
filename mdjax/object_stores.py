"""A store (`mdjax.stores`) in an object store such as S3, by fsspec, whose packages are imported here alone.

Every object is put in one request, so that it is there whole or not at all, and `create` lets the service itself decide
who was first: by a put that it has to refuse where there is an object (If-None-Match: * of S3, ifGenerationMatch=0 of
Google Cloud Storage).
"""

import contextlib
import errno
import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mdjax.addresses import Address
from mdjax.errors import InputError, first_line
from mdjax.memory import SETTING, limit, readable
from mdjax.patience import PATIENCE, Patience, status

T = TypeVar("T")

_S3, _GS = ("s3", "s3a"), ("gs", "gcs")
_CREATING = (*_S3, *_GS, "memory")
"""Where a put can be told to replace nothing."""

_PROBE = ".probe"
"""The object by which `prepare` tries a store. It stays, so that several may try at a time."""

_ONE_PUT: dict[str, Any] = {"chunksize": 5 * 2**30}
"""Up to what size the packages put an object in one request; S3 takes no larger one."""

_PACKAGES = {"s3": "'mdjax[stores]'", "s3a": "'mdjax[stores]'", "gs": "gcsfs", "gcs": "gcsfs"}

_in_memory = threading.Lock()
"""memory:// looks whether an object is there, and puts it, in two steps."""


class ObjectStore:
    """Objects under an address; its names are their keys after that and a slash.

    What the service refuses for the moment is asked again for a while (`mdjax.patience`). InputError where a package
    is missing, or nothing is known of the address's protocol.

    address: as `mdjax.addresses.located` made it.
    patience: seconds for which the service is asked again.
    """

    def __init__(self, address: Address, patience: float = PATIENCE):
        self.address = str(address)
        self._protocol = address.protocol
        self._patience = Patience(self.address, patience)
        _check_package(address)
        # What it would print of an error, with a traceback, reaches the caller anyway.
        logging.getLogger("gcsfs").addHandler(logging.NullHandler())

    def prepare(self) -> None:
        if self._protocol not in _CREATING:
            raise OSError(
                errno.ENOTSUP, f"{self._protocol}:// has no put that leaves an object alone; s3:// and gs:// do"
            )
        self.write(_PROBE, b"written")
        if self.create(_PROBE, b"created"):
            raise OSError(
                errno.ENOTSUP, "it replaces objects that it is told to leave (If-None-Match), as old services do"
            )

    def read(self, name: str) -> bytes | None:
        """Raises OSError, too, where the object has more bytes than the limit (`mdjax.memory`)."""
        most = limit()

        def read(files: Any, root: str) -> bytes:
            try:
                return files.cat_file(f"{root}/{name}", start=0, end=most + 1)
            except Exception as error:
                if status(error) == 416:  # an empty object has not even a first byte
                    return b""
                raise

        try:
            content = self._asked(read)
        except FileNotFoundError:
            return None
        if len(content) > most:
            raise OSError(errno.EFBIG, f"it has more than the {readable(most)} that are read, unless {SETTING} is more")
        return content

    def create(self, name: str, content: bytes) -> bool:
        """Of two writers of the same content both may be told that they were the first."""
        tries = 0

        def put(files: Any, root: str) -> bool:
            nonlocal tries
            tries += 1
            with _in_memory if self._protocol == "memory" else contextlib.nullcontext():
                try:
                    files.pipe_file(f"{root}/{name}", content, mode="create", **self._how())
                except Exception as error:
                    if isinstance(error, FileExistsError) or status(error) == 412:
                        return False
                    raise
            return True

        if self._protocol not in _CREATING:
            raise OSError(errno.ENOTSUP, f"{self._protocol}:// has no put that leaves an object alone")
        if self._written(put):
            return True
        # An earlier try may have put it, though its answer was lost. gcsfs tries again by itself, without a word.
        return (tries > 1 or self._protocol in _GS) and self.read(name) == content

    def write(self, name: str, content: bytes) -> None:
        self._written(lambda files, root: files.pipe_file(f"{root}/{name}", content, **self._how()))

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._asked(lambda files, root: files.rm_file(f"{root}/{name}"))

    def names(self, folder: str) -> list[str]:
        def names(files: Any, root: str) -> list[str]:
            files.invalidate_cache()
            path = f"{root}/{folder}".rstrip("/")
            found = [PurePosixPath(entry.rstrip("/")) for entry in files.ls(path, detail=False)]
            return [entry.name for entry in found if entry.parent == PurePosixPath(path)]

        try:
            return sorted({name for name in self._asked(names) if name and not name.startswith(".")})
        except FileNotFoundError:
            return []

    def sizes(self, folder: str) -> dict[str, int]:
        """The names of all objects in a folder and the folders in it, without the folder, with their bytes.

        FileNotFoundError where there are none.
        """

        def sizes(files: Any, root: str) -> dict[str, int]:
            files.invalidate_cache()
            path = f"{root}/{folder}"
            found = files.find(path, detail=True).items()
            return {name.removeprefix(f"{path}/"): int(entry["size"]) for name, entry in found if name != path}

        if found := self._asked(sizes):
            return found
        raise FileNotFoundError(errno.ENOENT, "there is no object in it", f"{self.address}/{folder}")

    def fetch(self, folder: str, names: Iterable[str], into: Path) -> None:
        """Copy objects of a folder into one that is there, under the same names.

        ValueError for a name that would lie elsewhere, OSError, too, where the system refuses.
        """
        names = list(names)
        targets = [_inside(into, name) for name in names]

        def fetch(files: Any, root: str) -> None:
            files.get([f"{root}/{folder}/{name}" for name in names], [str(target) for target in targets])

        self._asked(fetch)

    def _how(self) -> dict[str, Any]:
        return {} if self._protocol == "memory" else _ONE_PUT

    def _written(self, call: Callable[[Any, str], T]) -> T:
        try:
            return self._asked(call)
        except FileNotFoundError as error:  # of an object that is put nothing can be missing but its bucket
            raise OSError(errno.EIO, f"there is no such bucket ({first_line(error)})") from None

    def _asked(self, call: Callable[[Any, str], T]) -> T:
        return self._patience.ask(lambda: call(*_opened(self.address, self._protocol)))


def _opened(address: str, protocol: str) -> tuple[Any, str]:
    """fsspec's file system of an address, which fsspec keeps for each process, and the address as that writes it."""
    from fsspec.config import conf
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in _S3:
        # All tries are counted here: a create that was tried once has no answer that was lost.
        told: Any = {name: value for own in _S3 for name, value in conf.get(own, {}).items()}
        options["config_kwargs"] = {**told.get("config_kwargs", {}), "retries": {"total_max_attempts": 1}}
    files, root = url_to_fs(address, **options)
    if protocol in _S3:
        files.retries = 1
    return files, root.rstrip("/")


def _check_package(address: Address) -> None:
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(address.protocol)
    except ImportError as error:
        package = _PACKAGES.get(address.protocol)
        remedy = f"Install it: pip install {package}." if package else f"{first_line(error)}."
        raise InputError(f"Cannot open {address}: a package for {address.protocol}:// is missing. {remedy}") from None
    except ValueError:
        raise InputError(
            f"Cannot open {address}: nothing is known of {address.protocol}://. Give s3://, gs://, another address of "
            "fsspec's, or a folder."
        ) from None


def _inside(folder: Path, name: str) -> Path:
    parts = name.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part or Path(part).drive for part in parts):
        raise ValueError(f"it holds the name {name[:80]!r}, which is none of a file in a folder")
    return folder.joinpath(*parts)
