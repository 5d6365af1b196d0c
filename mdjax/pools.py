"""Tasks done by processes of which each may die alone: handed out, tried again where one dies, given up in the end.

What the processes run is `serve`; what they are told and answer is JSON, in which nothing can be run.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mdjax.errors import InputError
from mdjax.subprocesses import IdleDeaths, Subprocess, answer, messages

MOST_DEATHS = 3
"""How many processes may die at one task before it is given up."""

_GLANCE = 0.05
"""Seconds between two looks at the processes, where none of them answers."""

Work = Callable[[Mapping[str, Any], Callable[[float], None]], Mapping[str, Any]]
"""Does one task: what is to be done, and a function that is told how much of it is → what came of it."""


class Answer(NamedTuple):
    """What came of a task; where its processes died instead, how, for people."""

    content: Mapping[str, Any]
    death: str = ""


class _Task(NamedTuple):
    number: int
    what: Mapping[str, Any]
    deaths: list[str]


class Pool:
    """Processes that do tasks, in a context that ends them.

    command: what starts one, which is to call `serve`.
    setup: what each is told before its first task.
    count: how many there are at a time.
    depth: how many tasks each has at hand, so that it need not wait for the next.
    advance: told how much more of any task is done; less than nothing, where that was lost.
    """

    def __init__(
        self,
        command: list[str],
        setup: Mapping[str, Any],
        count: int,
        *,
        depth: int = 1,
        advance: Callable[[float], None] = lambda units: None,
    ):
        self._command, self._setup, self._count, self._depth = command, setup, count, depth
        self._advance = advance
        self._waiting: deque[_Task] = deque()
        self._answers: dict[int, Answer] = {}
        self._workers: dict[int, _Worker] = {}
        self._number = 0
        self._idle = IdleDeaths("Work in this process to see why: --workers 0 (workers=0).")
        self._heard = threading.Event()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.process.end()
        self._workers.clear()

    def submit(self, what: Mapping[str, Any], *, first: bool = False) -> int:
        """Have a task done, before all others that wait if it is to be `first`; returns its number."""
        self._number += 1
        task = _Task(self._number, what, [])
        if first:
            self._waiting.appendleft(task)
        else:
            self._waiting.append(task)
        self._tend()
        return task.number

    def result(self, number: int) -> Answer:
        """What came of a task, once it is done, and once; InputError where a process says what is wrong."""
        while number not in self._answers:
            self._wait()
        return self._answers.pop(number)

    def next(self) -> tuple[int, Answer]:
        """The number of any task that is done by now, and what came of it; as `result`."""
        while not self._answers:
            self._wait()
        number = next(iter(self._answers))
        return number, self._answers.pop(number)

    def _wait(self) -> None:
        self._heard.wait(_GLANCE)
        self._heard.clear()
        self._tend()

    def _tend(self) -> None:
        """Hear what is done, note who died and at what, start who is missing, hand out what waits."""
        for number, worker in list(self._workers.items()):
            is_running = worker.process.is_running()  # what it answered before is heard below
            how = None if is_running else worker.process.how_it_ended() or "exit status 0"
            self._hear(worker)
            if how is not None:
                worker.process.end()
                del self._workers[number]
                self._bury(worker, how)
        for number in range(self._count):
            if number not in self._workers and len(self._waiting) > self._room():
                process = Subprocess(self._command, self._setup, number, self._count, self._heard)
                self._workers[number] = _Worker(process)
        for depth in range(1, self._depth + 1):  # each gets one before any gets two
            for worker in self._workers.values():
                if worker.is_ready and len(worker.tasks) < depth and self._waiting:
                    task = self._waiting.popleft()
                    worker.tasks.append(task)
                    worker.process.tell({"task": task.number, "what": task.what})

    def _room(self) -> int:
        """How many tasks idle workers, those that are starting included, are about to take."""
        return sum(not worker.tasks for worker in self._workers.values())

    def _hear(self, worker: "_Worker") -> None:
        for told in worker.process.answers():
            if told.get("ready"):
                worker.is_ready = True
                self._idle.end()
            elif worker.tasks and told.get("task") == worker.tasks[0].number:
                if isinstance(told.get("advance"), float | int):
                    worker.done += told["advance"]
                    self._advance(told["advance"])
                elif isinstance(told.get("done"), dict):
                    self._answers[worker.tasks.popleft().number] = Answer(told["done"])
                    worker.done = 0.0

    def _bury(self, worker: "_Worker", how: str) -> None:
        if not worker.is_ready:
            self._idle.add(how)
        if worker.done:
            self._advance(-worker.done)
        if worker.tasks:
            worker.tasks[0].deaths.append(how)
            if len(deaths := worker.tasks[0].deaths) >= MOST_DEATHS:
                task = worker.tasks.popleft()
                self._answers[task.number] = Answer({}, f"its process ended {len(deaths)} times: {how}")
        self._waiting.extendleft(reversed(worker.tasks))


class _Worker:
    def __init__(self, process: Subprocess):
        self.process = process
        self.is_ready = False
        self.tasks: deque[_Task] = deque()
        self.done = 0.0  # of the first of them


_LEAST_PAUSE = 0.1


def serve(begin: Callable[[Mapping[str, Any]], Work]) -> None:
    """In a process of a pool: do tasks until there are no more, or who started it ends.

    begin: what the pool tells all → what does a task. InputErrors of either end the pool's work, with their words.
    """
    told = messages()
    setup = next(told)
    try:
        work = begin(setup)
        answer({"ready": True})
        for message in told:
            advance = _Advance(message["task"])
            done = work(message["what"], advance.tell)
            advance.flush()
            answer({"task": message["task"], "done": done})
    except InputError as error:
        answer({"error": str(error)})
        sys.exit(2)


class _Advance:
    """Tells the pool how much of a task is done, now and then."""

    def __init__(self, task: int):
        self._task, self._units, self._told = task, 0.0, time.monotonic()

    def tell(self, units: float) -> None:
        self._units += units
        if time.monotonic() - self._told >= _LEAST_PAUSE:
            self.flush()

    def flush(self) -> None:
        if self._units:
            answer({"task": self._task, "advance": self._units})
        self._units, self._told = 0.0, time.monotonic()
