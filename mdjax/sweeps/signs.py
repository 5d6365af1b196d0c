"""Who is at work at a table: a sign of life of each process in its store, renewed every few seconds while it lives.

    run/workers/<worker>             a number that changes

Nothing depends on clocks that agree. A worker of another machine is gone when its sign has not changed for a lease by
the observer's own clock; one of this machine, when its process is; either, when it has taken its sign away.
"""

import contextlib
import functools
import hashlib
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mdjax.files import writing
from mdjax.processes import when_ended
from mdjax.stores import Store

LEASE = 60.0
"""Seconds after which a worker of another machine that gave no sign of life is taken for gone."""

_BEATS = 4
"""Signs of life in a lease."""

_WORKERS = "run/workers"
_REMEDY = "See to that place, then run the same command again: finished work is kept."


class Told:
    """A store of a table whose refusals are sentences: InputError in place of OSError."""

    def __init__(self, store: Store):
        self._store = store

    def read(self, name: str) -> bytes | None:
        with self._reached():
            return self._store.read(name)

    def create(self, name: str, content: bytes) -> bool:
        with self._reached():
            return self._store.create(name, content)

    def write(self, name: str, content: bytes) -> None:
        with self._reached():
            self._store.write(name, content)

    def delete(self, name: str) -> None:
        with self._reached():
            self._store.delete(name)

    def names(self, folder: str) -> list[str]:
        with self._reached():
            return self._store.names(folder)

    def _reached(self) -> contextlib.AbstractContextManager[None]:
        return writing(f"the table {self._store.address}", _REMEDY)


class _Seen(NamedTuple):
    """A sign of life, since when it has been seen, and whether it has ever been seen to change."""

    sign: bytes
    since: float
    has_changed: bool


class Signs:
    """The signs of life in a store, as one worker gives and sees them; each is looked at once between two `refresh`.

    store: of the table.
    lease: see `LEASE`.
    worker: its name (default: of this process).
    """

    def __init__(self, store: Store, *, lease: float = LEASE, worker: str | None = None):
        self._store, self._told = store, Told(store)
        self._lease = lease
        self.worker = worker or f"{process_name(os.getpid())}-{uuid.uuid4().hex[:6]}"
        self._seen: dict[str, _Seen] = {}
        self._known: dict[str, bool] = {}

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Gives signs of life until the block ends, or a signal ends the process."""
        stopped, name = threading.Event(), f"{_WORKERS}/{self.worker}"

        def beat() -> None:
            count = 0
            while not stopped.wait(self._lease / _BEATS):
                count += 1
                with contextlib.suppress(OSError):  # the store refuses for a while: others may take over
                    self._store.write(name, str(count).encode())

        def leave() -> None:
            stopped.set()
            thread.join(self._lease / _BEATS)
            with contextlib.suppress(OSError):
                self._store.delete(name)

        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        self._told.write(name, b"0")
        thread.start()
        try:
            with when_ended(leave):  # others, on other machines too, need not wait for the lease
                yield
        finally:
            leave()

    def refresh(self) -> None:
        """Look at each again when it is asked about next."""
        self._known = {}

    def is_gone(self, worker: str) -> bool:
        """Whether a worker has ended, or given no sign of life for a lease."""
        if worker not in self._known:
            self._known[worker] = self._is_gone(worker)
        return self._known[worker]

    def is_proven(self, worker: str) -> bool:
        """Whether a worker that is not gone is known to live: it is of this machine, or its sign was seen to change."""
        return _is_of_here(worker) or (worker in self._seen and self._seen[worker].has_changed)

    def others(self) -> list[str]:
        """The other workers that are not gone."""
        return [name for name in self._told.names(_WORKERS) if name != self.worker and not self.is_gone(name)]

    def forget(self, process: str) -> None:
        """Take away the signs of a process that has ended, as `process_name` called it."""
        for worker in self._told.names(_WORKERS):
            if worker.startswith(f"{process}-"):
                self._told.delete(f"{_WORKERS}/{worker}")
                self._known[worker] = True

    def forget_all(self) -> None:
        """Take away the signs of all other workers."""
        for worker in self._told.names(_WORKERS):
            if worker != self.worker:
                self._told.delete(f"{_WORKERS}/{worker}")

    def _is_gone(self, worker: str) -> bool:
        sign = self._told.read(f"{_WORKERS}/{worker}")
        if sign is None:
            return True
        if _is_of_here(worker):
            _, process, started, *_ = worker.split("-")
            return _start_of(process) != started
        seen, now = self._seen.get(worker), time.monotonic()
        if seen is None or seen.sign != sign:
            self._seen[worker] = _Seen(sign, now, seen is not None)
            return False
        return now - seen.since > self._lease


@functools.cache
def _machine() -> str:
    """What tells processes by their numbers: this machine since its start, and what is seen of it from here."""
    facts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            facts.append(str(Path(name).readlink()) if name.endswith("pid") else Path(name).read_text())
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()


def _is_of_here(worker: str) -> bool:
    return worker.startswith(f"{_machine()}-") and worker.count("-") >= 3


def process_name(process: int) -> str:
    """A process of this machine, by its number and when it began: how the names of its workers begin."""
    return f"{_machine()}-{process}-{_start_of(str(process)) or '0'}"


def _start_of(process: str) -> str | None:
    """When a process began, by the system's account; None where it has ended, "0" where the system does not tell."""
    try:
        fields = Path(f"/proc/{int(process)}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, ValueError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return None
    except PermissionError:
        pass
    return "0"
