"""What commands say: the one place that writes to standard output and standard error.

Whatever is said is shown, not obeyed (`mdjax.escapes`), in signs that the stream can take. Standard error never stands
in the way of the work: where it is closed or full, what would be said there is lost. Results that do not reach
standard output are an `OutputError`.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mdjax.errors import first_line
from mdjax.escapes import encodable, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NARROWEST, _USUAL = 40, 80
"""Columns below which a table holds no words, and those of a terminal that does not tell."""

_NO_EDGE = 10_000
"""Columns of a file or a pipe, which has no edge at which a line would have to be broken."""


class OutputError(Exception):
    """Standard output does not take what a command has to say; `closed`: because its reader has gone."""

    def __init__(self, error: Exception):
        super().__init__(first_line(error))
        self.closed = isinstance(error, BrokenPipeError)


class Stream:
    """Standard output or standard error, whichever object that is at the time, as a file to write text to."""

    def __init__(self, name: str, *, must_arrive: bool):
        self._name, self._must_arrive = name, must_arrive

    @property
    def _stream(self) -> Any:
        stream = getattr(sys, self._name)  # None: closed before the start
        return getattr(stream, "rich_proxied_file", stream)  # a bar stands before it, which draws here

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        try:
            return bool(self._stream.isatty())
        except (AttributeError, ValueError):  # closed
            return False

    def fileno(self) -> int:
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write a text as it is, but for signs that the stream cannot take."""
        stream = self._stream
        if not _muted:
            with self._handled():
                if stream is None:
                    raise OSError("it is closed")
                stream.write(encodable(text, self.encoding))
        return len(text)

    def flush(self) -> None:
        stream = self._stream
        if stream is not None:
            with self._handled():
                stream.flush()

    @contextlib.contextmanager
    def _handled(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: it was closed since the start
            if self._must_arrive:
                raise OutputError(error) from None


OUTPUT = Stream("stdout", must_arrive=True)
ERRORS = Stream("stderr", must_arrive=False)

_muted: list[bool] = []

_watched: list[Any] = []
"""The consoles on which a bar moves: what is said meanwhile goes above it."""


def silence() -> None:
    """Say nothing more in this process."""
    _muted.append(True)


def tell(*texts: str) -> None:
    """Print texts on standard output, as long as they are; OutputError where they cannot be written."""
    for text in texts:
        OUTPUT.write(printable(text, lines=True) + "\n")
    OUTPUT.flush()


def complain(text: str) -> None:
    """Print a text on standard error, above a bar that moves there."""
    if _watched:
        _watched[-1].print(cell(text, lines=True), soft_wrap=True)
        return
    ERRORS.write(printable(text, lines=True) + "\n")
    ERRORS.flush()


def warn(text: str) -> None:
    """Say on standard error, in one line, what the user should know of the work that goes on."""
    complain(f"warning: {printable(text)}")


def show(renderable: Any) -> None:
    """Print what rich can draw on standard output; its texts have to be `cell`s. OutputError as `tell`."""
    console_of(OUTPUT).print(renderable)
    OUTPUT.flush()


def cell(text: str, *, lines: bool = False, **how: Any) -> "Text":
    """A text for rich to draw, shown and not obeyed; `how` as rich's own Text takes it."""
    from rich.text import Text

    return Text(printable(text, lines=lines), **how)


def console_of(stream: Stream) -> "Console":
    """A console that draws on a stream, of a width in which there is room for words."""
    from rich.console import Console

    console = Console(file=stream, markup=False, emoji=False, highlight=False)  # pyright: ignore[reportArgumentType]
    if not console.is_terminal and not console.is_jupyter:
        console.width = _NO_EDGE
    elif console.width < _NARROWEST:  # COLUMNS=0 says nothing, and less than this cannot be meant
        console.width = _NARROWEST if console.width > 0 else _USUAL
    if console.height < 1:
        console.height = 25
    return console


@contextlib.contextmanager
def watching(console: "Console") -> Iterator[None]:
    """While a bar moves on the console, what is said goes above it."""
    _watched.append(console)
    try:
        yield
    finally:
        _watched.remove(console)
