"""Who is at work: locks that the system frees as soon as their owner ends, however it ends."""

import contextlib
import functools
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mdjax.console import warn
from mdjax.errors import InputError, first_line

try:
    import fcntl
except ImportError:  # of Unix alone
    fcntl = None

HAS_LOCKS = fcntl is not None
"""Whether this system has such locks; a file system may still lack them."""

LOCK = ".lock"  # the file that stands for a zoo or a calibration in `one_writer`
_TIME = "%Y-%m-%d %H:%M:%S"

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
    which names the other writer, where there is one (this process included), and where the file cannot be written.
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
            raise InputError(_refusal(what, _owner(descriptor)))
        time.sleep(0.02)
    if taken is None:
        _warn_of_no_locks(file.parent, what)


@functools.cache  # once for all that a process does there
def _warn_of_no_locks(folder: Path, what: str) -> None:
    warn(f"{folder} has no locks: let one process at a time write {what}.")


def _tell_owner(descriptor: int) -> None:
    owner = {"process": os.getpid(), "host": platform.node(), "since": time.strftime(_TIME)}
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(owner).encode())


class _Owner(NamedTuple):
    process: int
    host: str
    since: str


def _owner(descriptor: int) -> _Owner | None:
    """Who holds a lock, as its file says, which can say anything; None where it does not tell."""
    try:
        owner = json.loads(os.pread(descriptor, 1000, 0))
        since = time.strftime(_TIME, time.strptime(owner["since"], _TIME))
        return _Owner(int(owner["process"]), _plain(str(owner["host"])), since)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _plain(host: str) -> str:
    return re.sub(r"[^\w.-]", "", host)[:64]


def _refusal(what: str, owner: _Owner | None) -> str:
    if owner is not None and (owner.process, owner.host) == (os.getpid(), _plain(platform.node())):
        return (
            f"This process is already writing {what}, since {owner.since}. Write through the same object, or "
            "wait until that has ended."
        )
    who = f"process {owner.process} on {owner.host}, since {owner.since}" if owner else "it does not say which"
    return (
        f"Another process is writing {what}: {who}. Wait until it has ended, or choose another folder for --out (out=)."
    )
