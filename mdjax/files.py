"""Files and folders written in one step, and places tried before anything is computed for them. Whatever mdjax writes
goes through here.

Whoever looks at a file sees its old content or its new one, whole. What is being written lies under a name that begins
with `TEMPORARY` and is locked; what a killed writer left there is removed by the next one that writes beside it.
"""

import contextlib
import errno
import hashlib
import os
import platform
import re
import shutil
import stat
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from os import PathLike
from pathlib import Path

from mdjax.addresses import Address, located
from mdjax.errors import InputError, first_line
from mdjax.locks import HAS_LOCKS, try_lock

TEMPORARY = ".writing-"
"""How the names of unfinished files and folders begin; the machine they are written on and a random number follow."""

_HOST = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_NAME = re.compile(re.escape(TEMPORARY) + "(?:([0-9a-f]{8})-)?[0-9a-f]{32}")

_STALE_SECONDS = 3600
"""How old unfinished work must be to count as abandoned where no lock tells."""

MAY_WRITE = "Choose a folder that you may write to."
"""The remedy where nothing better is known."""


_begun: set[Path] = set()
"""The temporary names that this process is writing under."""

_naming = threading.RLock()
"""Held while a temporary name is made or becomes a lasting one; who ends the process keeps it."""

_NAMING_SECONDS = 10
"""How long the end of the process waits for such a step, which a file system may keep from returning."""


def remove_unfinished() -> None:
    """Remove what this process has begun to write and not finished, because it ends here.

    From then on no thread of it can give anything a name: half of what was begun is never taken for the whole.
    """
    if not _naming.acquire(timeout=_NAMING_SECONDS):
        return  # the next writer beside it removes it
    for path in list(_begun):
        _remove(path)


def _begin_anew() -> None:
    """In a child that is forked: what was begun is its parent's, and so is a lock that was held just then."""
    global _naming
    _begun.clear()
    _naming = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


def commit(temporary: Path, path: Path) -> None:
    """Give what was written under a temporary name its own, in one step, unless the process is ending."""
    with _naming:
        temporary.replace(path)


def place(out: str | PathLike[str] | Address) -> Path:
    """The path of an output; InputError for an empty one, which would mean the working folder, and for an address."""
    found = table_place(out)
    if isinstance(found, Address):
        raise InputError(
            f"Cannot write {found}: of what mdjax makes, only measured tables are put into object stores. Name a "
            "folder or a file for --out (out=), then copy it there, for one with 'aws s3 sync'."
        )
    return found


def table_place(out: str | PathLike[str] | Address) -> Path | Address:
    """The path or the address of a table that is written, as `place`."""
    if not isinstance(out, Address) and not os.fspath(out):
        raise InputError("The output has an empty name. Name a file or a folder for --out (out=).")
    return located(out)


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """Yields a new empty file in a folder that is there; what is still under its name afterwards is removed."""
    yield from _temporary(folder, is_folder=False)


@contextlib.contextmanager
def temporary_folder(folder: Path | None = None) -> Iterator[Path]:
    """Yields a new folder in one that is there; what is still under its name afterwards is removed.

    By default it is made among the system's temporary files, for this user alone.
    """
    parent = Path(tempfile.gettempdir()) if folder is None else folder
    if folder is None:
        remove_leftovers(parent)
    yield from _temporary(parent, is_folder=True, mode=0o700 if folder is None else 0o777)


def _temporary(folder: Path, *, is_folder: bool, mode: int = 0o666) -> Iterator[Path]:
    path, descriptor = _created(folder, is_folder=is_folder, mode=mode)
    try:
        yield path
    finally:
        _remove(path)
        _begun.discard(path.absolute())
        if descriptor is not None:
            os.close(descriptor)


def _created(folder: Path, *, is_folder: bool, mode: int) -> tuple[Path, int | None]:
    """A new file or folder, and the descriptor that holds its lock, where there are locks."""
    while True:
        path = folder / f"{TEMPORARY}{_HOST}-{uuid.uuid4().hex}"
        with _naming:
            if is_folder:
                path.mkdir(mode)
            else:
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode))
            _begun.add(path.absolute())
        if not HAS_LOCKS:
            return path, None
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
            try:
                if try_lock(descriptor) is not False and os.path.samestat(os.fstat(descriptor), path.stat()):
                    return path, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        _begun.discard(path.absolute())
        # Another process took it for abandoned before it was locked: once more.


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path to write to; when the block ends well it becomes `path` in one step, else it is removed.

    For files of mdjax's own folders, where a link or a device is replaced like anything else: what a user names is for
    `write_file`. The folder of `path` is made where it is missing. Raises OSError where either cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    with temporary_file(path.parent) as temporary:
        yield temporary
        flush(temporary)
        commit(temporary, path)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder to fill; when the block ends well it becomes `path` in one step, else it is removed.

    Raises FileExistsError where `path` is there by then, as when another writer was faster, and OSError where the
    folder of `path`, which has to exist, cannot be written.
    """
    with temporary_folder(path.parent) as temporary:
        yield temporary
        try:
            commit(temporary, path)
        except OSError:
            if path.exists():  # systems name this in several ways
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
            raise


@contextlib.contextmanager
def writing(what: str, remedy: str = MAY_WRITE) -> Iterator[None]:
    """Turns an OSError inside into an InputError: "Cannot write {what}: {the system's reason}. {remedy}"."""
    try:
        yield
    except OSError as error:
        # Arrow's own words for it hold the system's number.
        number = re.search(r"\[errno (\d+)\]", str(error.strerror))
        reason = first_line(error) if number is None else os.strerror(int(number[1]))
        raise InputError(f"Cannot write {what}: {reason}. {remedy}") from None


def write_file(path: Path, content: bytes | str, remedy: str = MAY_WRITE, what: str | None = None) -> None:
    """Write a file that a user has named, whole or not at all, text as UTF-8.

        path: a link is written through, and stays; a file that is replaced keeps its permissions; a terminal, another
            character device or a pipe that is read is written to.
        content: of the whole file.
        remedy: what a user can do where it fails.
        what: how an error calls it (default: by its path).

    InputError where it cannot be written, and for a folder, a disk, a socket, or a pipe that nobody reads.
    """
    content = content.encode("utf-8", "replace") if isinstance(content, str) else content
    with writing(str(path) if what is None else what, remedy):
        if (descriptor := _stream(path)) is not None:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            return
        target = Path(os.path.realpath(path))
        with replacing(target) as temporary:
            temporary.write_bytes(content)
            if target.is_file():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))


def is_stream(path: Path) -> bool:
    """Whether what is written to `path` goes elsewhere than into a file: a device, a pipe, standard output."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return _open_number(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def is_standard_output(path: Path) -> bool:
    """Whether `path` stands for this process's standard output, by any of the names that systems give it."""
    return _open_number(path) == 1


def _open_number(path: Path) -> int | None:
    """The number of the open file that a path such as /dev/stdout stands for."""
    if found := re.fullmatch(r"(?:/dev|/proc/self)/fd/(\d{1,6})", str(path)):
        return int(found[1])
    return {"/dev/stdout": 1, "/dev/stderr": 2}.get(str(path))


def _stream(path: Path) -> int | None:
    """An open descriptor of a path that is no file; None for one that is to be replaced, a missing one included."""
    if (number := _open_number(path)) is not None:
        streams = {1: sys.stdout, 2: sys.stderr}
        if number in streams and streams[number] is None:
            raise OSError(errno.EBADF, "it is closed")
        for stream in filter(None, streams.values()):
            stream.flush()
        return os.dup(number)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return None
    if stat.S_ISCHR(mode):
        return os.open(path, os.O_WRONLY)
    if not stat.S_ISFIFO(mode):
        raise OSError(errno.EINVAL, "it is a disk" if stat.S_ISBLK(mode) else "it is a socket")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        raise OSError(errno.ENXIO, "it is a pipe that nobody reads") if error.errno == errno.ENXIO else error from None
    os.set_blocking(descriptor, True)
    return descriptor


def expanded(path: str | PathLike[str]) -> Path:
    """The path with a leading ~ replaced by a home folder; as it is where that folder cannot be told."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no HOME, and no such user
        return Path(path)


def make_writable(folder: Path) -> None:
    """Make the folder if it is missing, and try it by a file; raises OSError where nothing can be written there.

    Done before work that takes hours, so that a bad choice of folder is told at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    with temporary_file(folder):
        pass


def make_file_writable(path: Path) -> None:
    """Try the folder of a file that a user has named, as `make_writable` does; a device or a pipe is left alone.

    Raises OSError for a folder, too.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not is_stream(path):
        make_writable(Path(os.path.realpath(path)).parent)


def flush(path: Path) -> None:
    """Have a file's content on the disk, so that the name it gets next never stands for less than all of it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; what belongs to a writer that is at work stays.

    Its lock tells which; where there are no locks, or of another machine's work, its age.
    """
    for leftover in list(folder.glob(f"{TEMPORARY}*")):
        name = _NAME.fullmatch(leftover.name)
        if name is None:
            continue
        with contextlib.suppress(OSError):  # another process removes it, too, or may and this one may not
            _remove_abandoned(leftover, is_own=name[1] == _HOST)


def _remove_abandoned(leftover: Path, *, is_own: bool) -> None:
    found = leftover.lstat()
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):
        return
    taken: bool | None = None
    descriptor = None
    try:
        if HAS_LOCKS:
            flags = os.O_RDONLY if stat.S_ISDIR(found.st_mode) else os.O_RDWR
            descriptor = os.open(leftover, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            taken = try_lock(descriptor)
        is_old = time.time() - found.st_mtime > _STALE_SECONDS
        if taken is not False and (is_old or (taken and is_own)):
            _remove(leftover)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder with all in it; what cannot be removed stays."""
    if path.is_dir():
        for pause in (0.0, 0.05, 0.2, 0.5):  # a thread of a writer that failed may still add to it
            time.sleep(pause)
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
        return
    with contextlib.suppress(OSError):
        path.unlink()
