"""Files written in one step, and folders tried before anything is computed for them.

Whoever looks at a file sees its old content or its new one, whole. What a killed writer left behind lies under a name
that begins with `TEMPORARY` and is removed by a later writer.
"""

import collections
import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from mdjax.errors import InputError, first_line

TEMPORARY = ".writing-"
"""How the names of unfinished files and folders begin."""

_STALE_SECONDS = 3600

MAY_WRITE = "Choose a folder that you may write to."
"""The remedy where nothing better is known."""


_begun: collections.deque[Path] = collections.deque(maxlen=64)
"""The newest temporary names, which may be there still."""


def temporary_beside(path: Path) -> Path:
    """A fresh name in the folder of `path`, for content that becomes `path` by a rename."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    _begun.append(temporary.absolute())
    return temporary


def remove_unfinished() -> None:
    """Remove what this process has begun to write and not finished, because it ends here."""
    for path in list(_begun):
        _remove(path)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; when the block ends well it becomes `path` in one step, else it is removed.

    The folder of `path` is made where it is missing. Raises OSError where either cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        _remove(temporary)
        raise


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; when the block ends well it becomes `path` in one step, else it is removed.

    Raises FileExistsError where `path` is there by then, as when another writer was faster, and OSError where the
    folder of `path`, which has to exist, cannot be written.
    """
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        try:
            temporary.rename(path)
        except OSError:
            if path.exists():  # systems name this in several ways
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            raise
    except BaseException:
        _remove(temporary)
        raise


@contextlib.contextmanager
def writing(what: str, remedy: str = MAY_WRITE) -> Iterator[None]:
    """Turns an OSError inside into an InputError: "Cannot write {what}: {the system's reason}. {remedy}"."""
    try:
        yield
    except OSError as error:
        raise InputError(f"Cannot write {what}: {first_line(error)}. {remedy}") from None


def write_file(path: Path, content: bytes | str, remedy: str = MAY_WRITE) -> None:
    """Write a file whole or not at all, text as UTF-8; InputError where it cannot be written."""
    with writing(str(path), remedy), replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)


def expanded(path: str | PathLike[str]) -> Path:
    """The path with a leading ~ replaced by a home folder; as it is where that folder cannot be told."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and no such user
        return Path(path)


def refuse_irregular(*paths: Path) -> None:
    """InputError where a path, or what is at any depth in a folder, is neither file nor folder.

    To open a pipe is to wait for ever. Paths that are not there are nothing to refuse; links that lead out of a folder
    are not followed.
    """
    visited: set[tuple[int, int]] = set()
    pending = [(os.path.realpath(path), os.path.realpath(path)) for path in paths]
    while pending:
        path, top = pending.pop()
        with contextlib.suppress(OSError):
            status = os.stat(path)  # noqa: PTH116
            this = (status.st_dev, status.st_ino)
            if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
                raise InputError(f"{path} is neither a file nor a folder. Remove it.")
            if this in visited or not stat.S_ISDIR(status.st_mode):
                continue
            visited.add(this)
            if os.path.realpath(path).startswith(top):
                with os.scandir(path) as entries:
                    pending += [(entry.path, top) for entry in entries if not entry.is_file(follow_symlinks=False)]


def make_writable(folder: Path) -> None:
    """Make the folder if it is missing, and try it by a file; raises OSError where nothing can be written there.

    Done before work that takes hours, so that a bad choice of folder is told at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = temporary_beside(folder / "probe")
    probe.touch()
    probe.unlink()


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; a young one may belong to another writer that is at work."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - leftover.stat().st_mtime <= _STALE_SECONDS:
                continue
            _remove(leftover)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all in it; what cannot be removed stays."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(OSError):
        path.unlink()
