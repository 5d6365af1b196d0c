"""Who is at work: locks that the system frees as soon as their owner ends, however it ends."""

import contextlib
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path

from mdjax.console import warn
from mdjax.errors import InputError, first_line

try:
    import fcntl
except ImportError:  # of Unix alone
    fcntl = None

HAS_LOCKS = fcntl is not None
"""Whether this system has such locks; a file system may still lack them."""

LOCK = ".lock"  # the file that stands for a zoo or a calibration in `one_writer`
_PATIENCE = 1.0
"""Seconds that a lock is waited for: its owner may have been killed just now, and take a moment to be gone."""


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file or folder: True for its only owner, False where another has it, None where there are no locks.

    The lock lasts until the descriptor is closed; it keeps nobody from reading or writing who does not ask for it.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def one_writer(file: Path, what: str) -> Iterator[None]:
    """Makes this the only writer of `what`, which `file` stands for, until the block ends or the process does.

    The file is made where it is missing, and stays. Where there are no locks a warning says so. Raises InputError,
    which names the other writer, where there is one, and where the file cannot be written.
    """
    try:
        descriptor = _opened(file)
    except OSError as error:
        raise InputError(f"Cannot write {what}: {first_line(error)}. Choose a folder that you may write to.") from None
    try:
        _wait(descriptor, file, what)
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
            _tell_owner(descriptor)
        yield
    finally:
        if fcntl is not None:
            with contextlib.suppress(OSError):  # a child of this process may have the descriptor, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _opened(file: Path) -> int:
    flags = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | flags, 0o666)
    except PermissionError:  # another user's, who lets others write beside it
        return os.open(file, os.O_RDONLY | flags)


def _wait(descriptor: int, file: Path, what: str) -> None:
    until = time.monotonic() + _PATIENCE
    while (taken := try_lock(descriptor)) is False:
        if time.monotonic() > until:
            raise InputError(
                f"Another process is writing {what}: {_owner(descriptor)}. Wait until it has ended, or choose another "
                "folder for --out (out=)."
            )
        time.sleep(0.02)
    if taken is None:
        warn(f"{file.parent} has no locks: let one process at a time write {what}.")


def _tell_owner(descriptor: int) -> None:
    owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(owner).encode())


def _owner(descriptor: int) -> str:
    """Who holds a lock, as its file says; a file can say anything."""
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        since = time.strptime(owner["since"], "%Y-%m-%d %H:%M:%S")
        host = re.sub(r"[^\w.-]", "", str(owner["host"]))[:64]
        return f"process {int(owner['process'])} on {host}, since {time.strftime('%Y-%m-%d %H:%M:%S', since)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "it does not say which"
