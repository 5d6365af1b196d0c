"""Processes on this machine that measure, each of which may die alone: started, watched, and replaced where they do."""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, Self

from mdjax.addresses import Address
from mdjax.subprocesses import IdleDeaths, Subprocess, check_workers, gpus
from mdjax.sweeps.signs import process_name
from mdjax.sweeps.worker import Assignment
from mdjax.sweeps.working import Sharing
from mdjax.zoo.store import Zoo

_COMMAND = [sys.executable, "-m", "mdjax.sweeps.worker"]

_GLANCE = 0.05
"""Seconds between two looks at the processes."""

_FEW = 64


class Workers:
    """Processes that work at a table, in a context that ends them.

    assignment: what each is told.
    sharing: of the table, where deaths are noted.
    count: how many there are at a time.
    """

    def __init__(self, assignment: Assignment, sharing: Sharing, count: int):
        self._assignment, self._count, self._claims = assignment, count, sharing.claims
        self._workers: dict[int, Subprocess] = {}
        self._names: dict[int, str] = {}
        self._idle = IdleDeaths("Measure in this process to see why: --workers 0 (workers=0).")

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    @property
    def num_alive(self) -> int:
        """How many are at work."""
        return len(self._workers)

    def tend(self) -> None:
        """Note who died and at what, and start who is missing; InputError where a worker says what is wrong."""
        for number in range(self._count):
            worker = self._workers.get(number)
            if worker is not None and worker.is_running():
                continue
            if worker is not None:
                del self._workers[number]
                how = worker.how_it_ended()
                for _ in worker.answers():  # of which there is one alone: what is wrong
                    continue
                worker.end()
                if how is None:
                    continue  # it found nothing left to do
                hit = self._claims.tell_death(self._names[number], how)
                if hit:
                    self._idle.end()
                else:
                    self._idle.add(how)
            self._workers[number] = Subprocess(_COMMAND, self._assignment._asdict(), number, self._count)
            self._names[number] = process_name(self._workers[number].pid)


class Crew(Protocol):
    """Those who do the work: `Workers`, or processes on other machines; a context that ends them."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def tend(self) -> None: ...
    @property
    def num_alive(self) -> int: ...


Recruit = Callable[[Assignment, Sharing], Crew]
"""Makes those who do the work of what each is told, which stands for the same units as what there is to do."""


def supervise(recruit: Recruit, assignment: Assignment, sharing: Sharing, advance: Callable[..., None]) -> None:
    """Have workers do units until all are settled.

    recruit: makes the workers.
    assignment: what each is told.
    sharing: what there is to do.
    advance: told how many more members are settled, by how many workers, at what rate.
    """
    sharing.look()
    start, first = time.monotonic(), sharing.num_open
    with recruit(assignment, sharing) as workers:
        while True:
            rate = (first - sharing.num_open) / max(time.monotonic() - start, 1.0)
            pace = f", {rate:.3g} a second" if rate > 0 else ""
            title = f"measuring, {_counted(workers.num_alive, 'worker')}{pace}"
            advance(sharing.newly_settled(), title=title)
            if not sharing.num_open:
                return
            while not sharing.is_due():
                workers.tend()
                _pause(_GLANCE)
            sharing.look()


_pause = time.sleep


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def recruiting(asked: int | str | Recruit, source: object) -> Recruit | None:
    """How workers are made; None where this process measures.

    asked: what makes them, or how many there are to be on this machine, as for `num_workers`.
    source: what is measured.
    """
    if callable(asked):
        return asked
    count = num_workers(asked, source)
    return functools.partial(Workers, count=count) if count else None


def num_workers(asked: int | str, source: object) -> int:
    """How many workers measure; 0 where this process does.

    asked: a number, or "auto": one for each GPU, else one, for a zoo of more models than are quickly measured again.
    source: what is measured.

    InputError for anything else.
    """
    if asked != "auto":
        return check_workers(asked)
    if not isinstance(source, Zoo | str | Path | Address):
        return 0
    zoo = source if isinstance(source, Zoo) else Zoo(source)
    return max(1, len(list(gpus()))) if len(zoo) > _FEW else 0
