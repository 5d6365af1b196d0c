"""Progress bars with time left, silent where nobody watches."""

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True)


@contextlib.contextmanager
def progress(title: str, total: int, *, done: int = 0, show: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on standard error; yields `advance(units=1, title=None)`, which moves it and may change its title.

        title: what is being done, before the bar.
        total: how many units there are.
        done: how many of them were finished before.
        show: draw it at all.

    Where standard error is no terminal, only the finished bar is printed.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not show, transient=False) as bar:
        task = bar.add_task(title, total=total, completed=done)

        def advance(units: float = 1, title: str | None = None) -> None:
            bar.update(task, advance=units, description=title)

        yield advance
