"""How far the work is, on standard error: a bar with the time left on a terminal, a line now and then in a file."""

import contextlib
import datetime
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from mdjax.console import ERRORS, complain, console_of, watching
from mdjax.escapes import printable

if TYPE_CHECKING:
    from rich.console import Console

_PAUSE, _PART = 30.0, 0.02
"""Between two lines of a file pass so many seconds, and so much of the time that went by: a day makes some 300."""


@contextlib.contextmanager
def progress(title: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Callable[..., None]]:
    """Tells how far the work is; yields `advance(units=1, title=None)`, which moves it and may change its title.

        title: what is being done, before the bar.
        total: how many units there are.
        done: how many of them were finished before.
        show: tell it at all.

    Where standard error is no terminal, there is a line at the start, one now and then, and one at the end.
    """
    if not show:
        yield lambda units=1, title=None: None
        return
    console = console_of(ERRORS)
    is_drawn = (console.is_terminal and not console.is_dumb_terminal) or console.is_jupyter
    with _bar(console, title, total, done) if is_drawn else _lines(title, total, done) as advance:
        yield advance


@contextlib.contextmanager
def ticking(advance: Callable[..., None], every: float = _PAUSE / 3) -> Iterator[None]:
    """While something takes long that cannot tell how far it is, lets a file have its line now and then.

    advance: as `progress` yields it.
    every: seconds between two looks at the clock.
    """
    is_over = threading.Event()

    def tick() -> None:
        while not is_over.wait(every):
            advance(0)

    thread = threading.Thread(target=tick, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


@contextlib.contextmanager
def _bar(console: "Console", title: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with watching(console), Progress(*columns, console=console, transient=False) as bar:
        task = bar.add_task(printable(title), total=total, completed=done)

        def advance(units: float = 1, title: str | None = None) -> None:
            bar.update(task, advance=units, description=None if title is None else printable(title))

        yield advance


@contextlib.contextmanager
def _lines(title: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    lines = _Lines(title, total, done)
    lines.say()
    try:
        yield lines.advance
    finally:
        if lines.has_moved:
            lines.say()


class _Lines:
    """What a bar would show, a line at a time."""

    def __init__(self, title: str, total: int, done: int):
        self._title, self._total, self._before = title, total, done
        self._done = float(done)
        self._started = self._said = time.monotonic()
        self.has_moved = False

    def advance(self, units: float = 1, title: str | None = None) -> None:
        self._done += units
        self._title = self._title if title is None else title
        self.has_moved = self.has_moved or units > 0
        now = time.monotonic()
        if now - self._said >= max(_PAUSE, _PART * (now - self._started)):
            self.say()

    def say(self) -> None:
        """The line of this moment."""
        self._said, self.has_moved = time.monotonic(), False
        elapsed, units = self._said - self._started, self._done - self._before
        line = f"{printable(self._title)} {self._done:.0f}/{self._total} {_clock(elapsed)}"
        if units > 0 and self._done < self._total:
            line += f" left {_clock(elapsed / units * (self._total - self._done))}"
        complain(line)


def _clock(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds)))
