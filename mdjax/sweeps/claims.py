"""Who is at work on which unit: claims that several processes, on several machines, make in the store of a table.

    run/workers/<worker>             a process at work (`mdjax.sweeps.signs`)
    run/claims/<unit>.<try>          made by the worker that took a unit, which holds its name
    run/deaths/<unit>.<try>          how a worker died at it, told by who saw it
    run/failures/<unit>.parquet      what came of a unit in this run that another run may change
    run/done/<deed>                  what one process had to do for all, such as the table, and has done

A claim counts as long as its worker lives. The first to create the claim of the next try has the unit, so that no two
take one that has lapsed. A claim is no lock: what two workers do twice all the same is committed once.
"""

import contextlib
import io
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

import pandas as pd

from mdjax.parquet import read_frame, write_frame
from mdjax.statuses import Status, StatusCode
from mdjax.stores import Store
from mdjax.sweeps.signs import LEASE, Signs, Told
from mdjax.sweeps.units import Unit

T = TypeVar("T")

_GLANCE = 0.2
"""Seconds between two looks at whether another has done something."""

_CLAIMS, _DEATHS, _FAILURES, _DONE = (f"run/{name}" for name in ("claims", "deaths", "failures", "done"))
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


class Claims:
    """The claims of one worker, which is at work from `beating` on; `refresh` finds out about the others.

    store: of the table.
    lease: see `LEASE`.
    worker: its name (default: of this process).
    """

    def __init__(self, store: Store, *, lease: float = LEASE, worker: str | None = None):
        self.store = store
        self._told = Told(store)
        self._signs = Signs(store, lease=lease, worker=worker)
        self._tries: dict[str, list[int]] = {}
        self._deaths: dict[str, dict[int, str]] = {}
        self._owners: dict[str, str] = {}
        self._failures: set[str] = set()

    @property
    def worker(self) -> str:
        """This worker's name."""
        return self._signs.worker

    def beating(self) -> contextlib.AbstractContextManager[None]:
        """Gives signs of life until the block ends; its claims lapse with it."""
        return self._signs.beating()

    def others(self) -> list[str]:
        """The other workers that live."""
        return self._signs.others()

    def refresh(self) -> None:
        """Look at what others do."""
        self._signs.refresh()
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
        return owner is not None and owner != self.worker and not self._signs.is_gone(owner)

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
        self._signs.forget(process)

    def knows(self, worker: str) -> bool:
        """Whether a worker by this name has given a sign of life in this store."""
        return self._told.read(f"run/workers/{worker}") is not None

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

    def clear(self, say: Callable[[str], None] | None = None) -> None:
        """Remove all that is known of this run, where nobody else is at work.

        say: told, where it takes a while, what is waited for: whether workers of other machines of which there are
            signs live, or were ended with a run that left failures behind, which would count as those of this run
            (default: they count as alive).
        """
        self._signs.refresh()
        while others := self._signs.others():
            has_left = any(self._told.names(folder) for folder in (_DEATHS, _FAILURES))
            if say is None or not has_left or any(map(self._signs.is_proven, others)):
                return
            say(f"Another worker left what failed in {self.store.address}. It is waited for whether it is at work.")
            say = _say_nothing
            time.sleep(_GLANCE)
            self._signs.refresh()
        for folder in (_CLAIMS, _DEATHS, _FAILURES, _DONE):
            for name in self._told.names(folder):
                self._told.delete(f"{folder}/{name}")
        self._signs.forget_all()
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


def _say_nothing(text: str) -> None:
    pass
