"""Several files of a folder that change together: readers find those of one writing, whatever becomes of the writer.

A new set is filled beside the old one and becomes the set by one rename, to FOLDER/.pending. From then on its files
count, and move to their places in FOLDER; whoever comes next moves those that a killed writer did not.
"""

import contextlib
import errno
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from mdjax.files import commit, flush, remove_leftovers, temporary_folder
from mdjax.inputs import open_regular

T = TypeVar("T")

PENDING = ".pending"
_TRIES = 50


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[Path]:
    """Yields a folder to fill with files; when the block ends well they become those of `folder`, all at once.

    Files of other names stay. Several processes may do so at a time: the set is that of the last. Raises OSError where
    the folder cannot be written, or has a folder where a file of the set would go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with temporary_folder(folder) as filled:
        yield filled
        for file in filled.iterdir():
            if _is_folder(folder / file.name):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(folder / file.name))
            flush(file)
        for attempt in range(_TRIES):
            _settle(folder)
            try:
                commit(filled, folder / PENDING)
                break
            except OSError:  # another writer's set is there by now: it goes first
                if attempt == _TRIES - 1 or not (folder / PENDING).is_dir():
                    raise
    _settle(folder)


def _settle(folder: Path) -> None:
    """Move the files of a committed set to their places, and remove what cannot be of one and would stay in the way.

    Each step may be another process's.
    """
    pending = folder / PENDING
    try:
        if not stat.S_ISDIR(pending.lstat().st_mode):
            pending.unlink()  # a link could lead to files of other folders
            return
        names = [file.name for file in pending.iterdir()]
    except FileNotFoundError:
        return
    for name in names:
        file = pending / name
        with contextlib.suppress(FileNotFoundError):
            if _is_folder(file):
                shutil.rmtree(file, ignore_errors=True)
            elif not stat.S_ISREG(file.lstat().st_mode) or _is_folder(folder / name):
                file.unlink()
            else:
                file.replace(folder / name)
    with contextlib.suppress(OSError):
        pending.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def open_newest(folder: Path, name: str) -> BinaryIO:
    """Open a file of the folder's newest set for reading; FileNotFoundError where there is none."""
    pending = folder / PENDING
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if not pending.is_symlink():
                return open_regular(pending / name)
        with contextlib.suppress(FileNotFoundError):
            return open_regular(folder / name)
        if not pending.exists():
            break  # else it moves just now
    return open_regular(folder / name)


def newest(folder: Path, name: str) -> Path:
    """The path of a file of the folder's newest set, for now: it may move at any time."""
    pending = folder / PENDING
    is_pending = not pending.is_symlink() and (pending / name).exists()
    return pending / name if is_pending else folder / name


def until_consistent(read: Callable[[], T | None], *, tries: int = _TRIES, pause: float = 0.001) -> T | None:
    """What `read` returns, once it is not None; None where it stays so, by default for a second or two.

    A reader of several files who comes while they change may find some of either set, and reads again.

    read: of all files.
    tries: how often at most.
    pause: seconds by which each pause between two tries is longer than the one before.
    """
    for attempt in range(tries):
        if (found := read()) is not None:
            return found
        time.sleep(pause * attempt)
    return None
