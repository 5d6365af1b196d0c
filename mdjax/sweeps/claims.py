"""Who is at work on which unit: claims that several processes, on several machines, make in the store of a table.

    run/workers/<worker>             a process at work; rewritten every few seconds, as long as it lives
    run/claims/<unit>.<try>          made by the worker that took a unit, which holds its name
    run/deaths/<unit>.<try>          how a worker died at it, told by who saw it
    run/failures/<unit>.parquet      what came of a unit in this run that another run may change
    run/done/<deed>                  what one process had to do for all, such as the table, and has done

A claim counts as long as its worker lives. The first to create the claim of the next try has the unit, so that no two
take one that has lapsed. Nothing depends on clocks that agree: a worker of another machine is gone when its file has
not changed for a lease by the observer's own clock; one of this machine, when its process is. A claim is no lock: what
two workers do twice all the same is committed once.
"""

import contextlib
import functools
import hashlib
import io
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import pandas as pd

from mdjax.files import writing
from mdjax.parquet import read_frame, write_frame
from mdjax.statuses import Status, StatusCode
from mdjax.stores import Store
from mdjax.sweeps.units import Unit

T = TypeVar("T")

LEASE = 60.0
"""Seconds after which a worker of another machine that gave no sign of life is taken for gone."""

_GLANCE = 0.2
"""Seconds between two looks at whether another has done something."""

_BEATS = 4
"""Signs of life in a lease."""

_FOLDERS = ("workers", "claims", "deaths", "failures", "done")
REMEDY = "See to that place, then run the same command again: finished work is kept."
_WORKERS, _CLAIMS, _DEATHS, _FAILURES, _DONE = (f"run/{name}" for name in _FOLDERS)
_SUFFIX = ".parquet"
_PROBLEMS, _KEYS = "problems", "keys"


class Tries(NamedTuple):
    """How often a unit was begun and not ended: its workers died, as who saw it told, or were not heard of again."""

    deaths: tuple[str, ...]
    lapses: int


class Failure(NamedTuple):
    """What came of a unit that another run may change: rows, why models could not be read, and of which keys."""

    rows: pd.DataFrame
    problems: dict[str, Status]
    keys: tuple[str, ...]


class _Told:
    """A store whose refusals are sentences."""

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
        return writing(f"the table {self._store.address}", REMEDY)


class Claims:
    """The claims of one worker, which is at work from `beating` on; `refresh` finds out about the others.

    store: of the table.
    lease: see `LEASE`.
    worker: its name (default: of this process).
    """

    def __init__(self, store: Store, *, lease: float = LEASE, worker: str | None = None):
        self.store = store
        self._told = _Told(store)
        self.lease = lease
        self.worker = worker or f"{process_name(os.getpid())}-{uuid.uuid4().hex[:6]}"
        self._tries: dict[str, list[int]] = {}
        self._deaths: dict[str, dict[int, str]] = {}
        self._owners: dict[str, str] = {}
        self._failures: set[str] = set()
        self._seen: dict[str, tuple[bytes | None, float]] = {}

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Gives signs of life until the block ends; its claims lapse with it."""
        stopped = threading.Event()
        name = f"{_WORKERS}/{self.worker}"

        def beat() -> None:
            count = 0
            while not stopped.wait(self.lease / _BEATS):
                count += 1
                with contextlib.suppress(OSError):  # the store refuses for a while: others may take over
                    self.store.write(name, str(count).encode())

        self._told.write(name, b"0")
        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join(self.lease / _BEATS)
            with contextlib.suppress(OSError):
                self.store.delete(name)

    def refresh(self) -> None:
        """Look at what others do."""
        self._tries, self._deaths = {}, {}
        for name in self._told.names(_CLAIMS):
            unit, _, number = name.rpartition(".")
            if number.isdigit():
                self._tries.setdefault(unit, []).append(int(number))
        for name in self._told.names(_DEATHS):
            unit, _, number = name.rpartition(".")
            if number.isdigit():
                self._deaths.setdefault(unit, {})[int(number)] = name
        self._failures = {name.removesuffix(_SUFFIX) for name in self._told.names(_FAILURES)}
        self._owners = {name: owner for name, owner in self._owners.items() if self._is_listed(name)}

    def is_busy(self, unit: str) -> bool:
        """Whether another worker that lives has claimed a unit."""
        numbers = self._tries.get(unit)
        if not numbers or max(numbers) in self._deaths.get(unit, {}):
            return False
        owner = self._owner(f"{unit}.{max(numbers)}")
        return owner is not None and owner != self.worker and not self._is_gone(owner)

    def take(self, unit: str) -> bool:
        """Claim a unit; False where another worker has it."""
        if self.is_busy(unit):
            return False
        number = max(self._tries.get(unit, [-1])) + 1
        taken = self._told.create(f"{_CLAIMS}/{unit}.{number}", self.worker.encode())
        # Another's, of which nothing was known: it counts as its owner lives.
        self._tries.setdefault(unit, []).append(number)
        if taken:
            self._owners[f"{unit}.{number}"] = self.worker
        return taken

    def drop(self, unit: str) -> None:
        """Give up all claims on a unit that is settled, or that this worker leaves to others."""
        for number in self._tries.pop(unit, []):
            with contextlib.suppress(OSError):
                self.store.delete(f"{_CLAIMS}/{unit}.{number}")

    def release(self, unit: str) -> None:
        """Give up the claim of this try alone: what is known of others stays."""
        numbers = self._tries.get(unit, [])
        if numbers:
            with contextlib.suppress(OSError):
                self.store.delete(f"{_CLAIMS}/{unit}.{max(numbers)}")

    def tries(self, unit: str) -> Tries:
        """How often others failed at a unit."""
        notes = self._deaths.get(unit, {})
        told = [self._told.read(f"{_DEATHS}/{name}") or b"" for _, name in sorted(notes.items())]
        lapses = [number for number in self._tries.get(unit, []) if number not in notes]
        if lapses and self._owner(f"{unit}.{max(lapses)}") == self.worker:
            lapses.remove(max(lapses))
        return Tries(tuple(text.decode("utf-8", "replace")[:80] for text in told), len(lapses))

    def tell_death(self, process: str, how: str) -> list[str]:
        """Note that a process died, and at which units: those that its workers had claimed; returns their names.

        process: as `process_name` called it while it lived.
        how: for people.
        """
        self.refresh()
        hit = []
        for unit, numbers in self._tries.items():
            last = max(numbers)
            owner = self._owner(f"{unit}.{last}")
            if last not in self._deaths.get(unit, {}) and owner is not None and owner.startswith(f"{process}-"):
                self._told.create(f"{_DEATHS}/{unit}.{last}", how.encode())
                hit.append(unit)
        self.tell_gone(process)
        return hit

    def tell_gone(self, process: str) -> None:
        """Note that a process is gone and not by a fault of what it did: others take its units at once.

        process: as `process_name` called it while it lived.
        """
        for worker in self._told.names(_WORKERS):
            if worker.startswith(f"{process}-"):
                self._told.delete(f"{_WORKERS}/{worker}")

    def knows(self, worker: str) -> bool:
        """Whether a worker by this name has given a sign of life in this store."""
        return self._told.read(f"{_WORKERS}/{worker}") is not None

    def fail(self, unit: Unit, rows: pd.DataFrame, problems: Mapping[str, Status]) -> None:
        """Note what came of a unit that another run may change.

        unit: what was not finished.
        rows: what is to stand in the table.
        problems: why models could not be read, by id.
        """
        noted = rows.copy(deep=False)
        hidden = {name: [status.code.value, status.sentence] for name, status in problems.items()}
        noted.attrs = {_PROBLEMS: hidden, _KEYS: list(unit.keys)}
        content = io.BytesIO()
        write_frame(noted, content)
        self._told.create(f"{_FAILURES}/{unit.name}{_SUFFIX}", content.getvalue())
        self._failures.add(unit.name)

    @property
    def failures(self) -> set[str]:
        """The units that are settled without being finished."""
        return self._failures

    def failure(self, unit: str) -> "Failure":
        """What `fail` noted of a unit."""
        content = self._told.read(f"{_FAILURES}/{unit}{_SUFFIX}")
        if content is None:
            return Failure(pd.DataFrame(), {}, ())
        rows = read_frame(io.BytesIO(content), f"{self.store.address}/{_FAILURES}/{unit}{_SUFFIX}")
        hidden = rows.attrs.get(_PROBLEMS, {})
        problems = {name: Status(StatusCode(code), text) for name, (code, text) in hidden.items()}
        keys = tuple(rows.attrs.get(_KEYS, ()))
        rows.attrs = {}
        return Failure(rows, problems, keys)

    def once(self, deed: str, do: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """What `do` returns, in one of the processes that are at work; in the others, once it is done, `otherwise`.

        deed: its name.
        """
        while True:
            self.refresh()
            if self._told.read(f"{_DONE}/{deed}") is not None:
                return otherwise()
            if self.take(deed):
                found = do()
                self._told.write(f"{_DONE}/{deed}", self.worker.encode())
                self.drop(deed)
                return found
            time.sleep(_GLANCE)

    def undo(self, deed: str) -> None:
        """Have a deed of `once` done again."""
        self._told.delete(f"{_DONE}/{deed}")

    def others(self) -> list[str]:
        """The other workers that live."""
        workers = [name for name in self._told.names(_WORKERS) if name != self.worker]
        return [name for name in workers if not self._is_gone(name)]

    def clear(self) -> None:
        """Remove all that is known of this run, where nobody else is at work."""
        if self.others():
            return
        for folder in (_CLAIMS, _DEATHS, _FAILURES, _DONE):
            for name in self._told.names(folder):
                self._told.delete(f"{folder}/{name}")
        for name in self._told.names(_WORKERS):
            if name != self.worker:
                self.store.delete(f"{_WORKERS}/{name}")
        self._tries, self._deaths, self._failures, self._owners = {}, {}, set(), {}

    def _owner(self, claim: str) -> str | None:
        if claim not in self._owners:
            content = self._told.read(f"{_CLAIMS}/{claim}")
            if content is None:
                return None
            self._owners[claim] = content.decode("utf-8", "replace")
        return self._owners[claim]

    def _is_listed(self, claim: str) -> bool:
        unit, _, number = claim.rpartition(".")
        return int(number) in self._tries.get(unit, [])

    def _is_gone(self, worker: str) -> bool:
        sign = self._told.read(f"{_WORKERS}/{worker}")
        if sign is None:
            return True  # it ended, or was seen to die
        machine, _, rest = worker.partition("-")
        if machine == _machine():
            process, _, started = rest.partition("-")
            return _start_of(process) != started.partition("-")[0]
        before, since = self._seen.get(worker, (None, 0.0))
        if sign != before:
            self._seen[worker] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > self.lease


@functools.cache
def _machine() -> str:
    """What tells processes by their numbers: this machine since its start, and what is seen of it from here."""
    facts = [platform.node()]
    for name in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with contextlib.suppress(OSError):
            facts.append(str(Path(name).readlink()) if name.endswith("pid") else Path(name).read_text())
    return hashlib.blake2b("\n".join(facts).encode(), digest_size=6).hexdigest()


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
