"""Processes on this machine that work for this one, each of which may die alone: started, watched, told what to do.

They are told by lines of JSON on standard input, and answer by lines of JSON on what was their standard output. One
ends with who started it, when its standard input does; whatever else it says is said here.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from mdjax.console import complain
from mdjax.errors import InputError, first_line

_MOST_IDLE_DEATHS, _MOST_IDLE_KILLS = 3, 10
"""So many processes in a row that end before they take any work mean that none will; more where others killed them."""

MOST_WORKERS = 256

_GPUS = Path("/proc/driver/nvidia/gpus")


class IdleDeaths:
    """Counts processes in a row that ended before they took any work.

    remedy: what a user can do where there are too many.
    """

    def __init__(self, remedy: str):
        self._remedy = remedy
        self.end()

    def add(self, how: str) -> None:
        """One more, by which end; InputError where they are too many."""
        self._number += 1
        self._own += not how.startswith(("SIGKILL", "SIGTERM"))
        if self._own >= _MOST_IDLE_DEATHS or self._number >= _MOST_IDLE_KILLS:
            raise InputError(f"{self._number} workers in a row ended before they took any work: {how}. {self._remedy}")

    def end(self) -> None:
        """One has taken work."""
        self._number = self._own = 0


class Subprocess:
    """One process.

    command: what starts it.
    message: the first line that it is told.
    number, count: which of how many it is; several share out the cores of the CPU, and the GPUs.
    heard: is set whenever it answers, and as it ends.
    """

    def __init__(
        self,
        command: Sequence[str],
        message: Mapping[str, Any],
        number: int,
        count: int,
        heard: threading.Event | None = None,
    ):
        self._heard = heard or threading.Event()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _device_of(number, count),
            text=True,
            errors="replace",
        )
        self.pid = self._process.pid
        _give_cores(self.pid, number, count)
        with contextlib.suppress(OSError):  # of Linux alone: where memory runs out, it goes before who started it
            Path(f"/proc/{self.pid}/oom_score_adj").write_text("500")
        self._said: deque[str] = deque(maxlen=5)
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._threads = [
            threading.Thread(target=self._hear, args=(self._process.stderr,), daemon=True),
            threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.tell(message)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Write a line to it; where it is dead already, that is seen soon."""
        assert self._process.stdin
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def answers(self) -> Iterator[dict[str, Any]]:
        """What it has answered since this was asked last; InputError where it says what is wrong."""
        with contextlib.suppress(queue.Empty):
            while True:
                line = self._told.get_nowait()
                try:
                    told = json.loads(line)
                except ValueError:  # cut off by its death
                    continue
                if not isinstance(told, dict):
                    continue
                if isinstance(told.get("error"), str):
                    raise InputError(told["error"])
                yield told

    def is_running(self) -> bool:
        return self._process.poll() is None

    def how_it_ended(self) -> str | None:
        """For people; None where it ended well. What it answered is complete then."""
        for thread in self._threads:
            thread.join(1)
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
        """End it now."""
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(1)
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.close()  # pyright: ignore[reportOptionalMemberAccess]

    def _hear(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._said.append(line.rstrip())
                complain(line.rstrip())

    def _listen(self, stream: IO[str]) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in stream:
                self._told.put(line)
                self._heard.set()
        self._heard.set()


def messages() -> Iterator[dict[str, Any]]:
    """In a process that was started: what it is told, a line after the other. It ends when standard input does."""
    # A terminal's interrupt goes to all its processes: who started this one ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What libraries, or code of a user's own, print must not come between the answers.
    _channel.append(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), name="input", daemon=True).start()
    while True:
        yield json.loads(lines.get())


def _read(lines: "queue.SimpleQueue[str]") -> None:
    while line := sys.stdin.readline():
        lines.put(line)
    if (files := sys.modules.get("mdjax.files")) is not None:  # else nothing was begun
        files.remove_unfinished()
    os._exit(0)


def answer(message: Mapping[str, Any]) -> None:
    """In a process that was started: a line to who started it."""
    _channel[-1].write(json.dumps(message) + "\n")
    _channel[-1].flush()


_channel: list[IO[str]] = []
"""What answers are written to."""


def _give_cores(pid: int, number: int, count: int) -> None:
    """Give one of several processes cores of its own, as long as there are enough; before it starts any thread."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if 1 < count <= len(cores):
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cores[number::count])


def _device_of(number: int, count: int) -> dict[str, str]:
    """The environment that gives a process a GPU of its own, where there are several."""
    devices = list(gpus())
    if len(devices) < 2 or count < 2:
        return {}
    return {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]}


def gpus() -> Iterator[str]:
    """The names of the GPUs that this process may use, as the system tells them, without asking any."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        yield from filter(None, (name.strip() for name in told.split(",")))
    elif _GPUS.is_dir():
        yield from map(str, range(len(list(_GPUS.iterdir()))))


def check_workers(asked: int | str) -> int:
    """How many processes were asked for, by number; InputError for anything else."""
    try:
        count = int(asked)
    except (TypeError, ValueError):
        count = -1
    if isinstance(asked, bool) or not 0 <= count <= MOST_WORKERS:
        raise InputError(f"workers is {asked!r}. Give a number from 0 to {MOST_WORKERS}, or auto.")
    return count


def leave_accelerators_alone() -> None:
    """Keep this process, which only watches, from taking the memory of devices that workers are to use."""
    import jax

    with contextlib.suppress(RuntimeError):  # a backend that is running stays
        jax.config.update("jax_platforms", "cpu")
