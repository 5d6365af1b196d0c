"""Processes on this machine that measure, each of which may die alone: started, watched, and replaced where they do."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import jax

from mdjax.addresses import Address
from mdjax.console import complain
from mdjax.errors import InputError, first_line
from mdjax.sweeps.claims import Claims, process_name
from mdjax.sweeps.worker import Assignment
from mdjax.sweeps.working import Sharing
from mdjax.zoo.store import Zoo

_COMMAND = [sys.executable, "-m", "mdjax.sweeps.worker"]

_GLANCE = 0.05
"""Seconds between two looks at the processes."""

_MOST_IDLE_DEATHS = 3
"""So many workers in a row that end before they take anything mean that none will."""

_FEW, _MOST_WORKERS = 64, 256

_GPUS = Path("/proc/driver/nvidia/gpus")


class Workers:
    """Processes that work at a table, in a context that ends them.

    assignment: what each is told.
    count: how many there are at a time.
    claims: of the table, where deaths are noted.
    """

    def __init__(self, assignment: Assignment, count: int, claims: Claims):
        self._assignment, self._count, self._claims = assignment, count, claims
        self._workers: dict[int, _Worker] = {}
        self._idle_deaths = 0

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()

    def tend(self) -> None:
        """Note who died and at what, and start who is missing; InputError where a worker says what is wrong."""
        for number in range(self._count):
            worker = self._workers.get(number)
            if worker is not None and worker.is_running():
                continue
            if worker is not None:
                del self._workers[number]
                if (how := worker.how_it_ended()) is None:
                    continue  # it found nothing left to do
                hit = self._claims.tell_death(worker.name, how)
                self._idle_deaths = 0 if hit else self._idle_deaths + 1
                if self._idle_deaths >= _MOST_IDLE_DEATHS:
                    raise InputError(
                        f"{self._idle_deaths} workers in a row ended before they took any work: {how}. Measure in this "
                        "process to see why: --workers 0 (workers=0)."
                    )
            self._workers[number] = _Worker(self._assignment, number, self._count)


def supervise(assignment: Assignment, count: int, sharing: Sharing, advance: Callable[..., None]) -> None:
    """Have workers do units until all are settled.

    assignment: what each is told; it stands for the same units as `sharing`.
    count: how many workers.
    sharing: what there is to do.
    advance: told how many more members are settled.
    """
    sharing.look()
    with Workers(assignment, count, sharing.claims) as workers:
        while True:
            advance(sharing.newly_settled())
            if not sharing.num_open:
                return
            while not sharing.is_due():
                workers.tend()
                _pause(_GLANCE)
            sharing.look()


_pause = time.sleep


class _Worker:
    """One process."""

    def __init__(self, assignment: Assignment, number: int, count: int):
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        if 1 < count <= len(cores):
            assignment = assignment._replace(cores=tuple(cores[number::count]))
        self._process = subprocess.Popen(
            _COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _device_of(number, count),
            text=True,
            errors="replace",
        )
        self.name = process_name(self._process.pid)
        self._said: deque[str] = deque(maxlen=5)
        self._told: list[str] = []
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._threads = [
            threading.Thread(target=self._hear, args=(self._process.stderr,), daemon=True),
            threading.Thread(target=self._told.extend, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        with contextlib.suppress(BrokenPipeError):  # it is dead already, which is seen soon
            self._process.stdin.write(json.dumps(assignment._asdict()) + "\n")
            self._process.stdin.flush()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def how_it_ended(self) -> str | None:
        """For people; None where it ended well. InputError where it said what is wrong."""
        for thread in self._threads:
            thread.join(1)
        for line in self._told:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                raise InputError(json.loads(line)["error"])
        status = self._process.returncode
        if status == 0:
            return None
        if status < 0:
            with contextlib.suppress(ValueError):
                name = signal.Signals(-status).name
                return f"{name}, as where memory runs out" if name == "SIGKILL" else name
        last = f": {self._said[-1]}" if self._said else ""
        return first_line(ValueError(f"exit status {status}{last}"))

    def end(self) -> None:
        """End it now: what it has not committed, the next run does."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()

    def _hear(self, stream: IO[str]) -> None:
        for line in stream:
            self._said.append(line.rstrip())
            complain(line.rstrip())


def _device_of(number: int, count: int) -> dict[str, str]:
    """The environment that gives a worker a GPU of its own, where there are several."""
    devices = list(_gpus())
    if len(devices) < 2 or count < 2:
        return {}
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}


def _gpus() -> Iterator[str]:
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        yield from filter(None, (name.strip() for name in told.split(",")))
    elif _GPUS.is_dir():
        yield from map(str, range(len(list(_GPUS.iterdir()))))


def num_workers(asked: int | str, source: object) -> int:
    """How many workers measure; 0 where this process does.

    asked: a number, or "auto": one for each GPU, else one, for a zoo of more models than are quickly measured again.
    source: what is measured.

    InputError for anything else.
    """
    if asked == "auto":
        if not isinstance(source, Zoo | str | Path | Address):
            return 0
        zoo = source if isinstance(source, Zoo) else Zoo(source)
        return max(1, len(list(_gpus()))) if len(zoo) > _FEW else 0
    try:
        count = int(asked)
    except (TypeError, ValueError):
        count = -1
    if isinstance(asked, bool) or not 0 <= count <= _MOST_WORKERS:
        raise InputError(f"workers is {asked!r}. Give a number from 0 to {_MOST_WORKERS}, or auto.")
    return count


def leave_accelerators_alone() -> None:
    """Keep this process, which only watches, from taking the memory of devices that workers are to use."""
    with contextlib.suppress(RuntimeError):  # a backend that is running stays
        jax.config.update("jax_platforms", "cpu")
