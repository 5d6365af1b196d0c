"""The parser of a command line: what it prints goes the way of everything that commands say."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

from mdjax.console import OUTPUT, complain
from mdjax.escapes import printable


class Parser(argparse.ArgumentParser):
    """A parser whose epilog may be a function, called only where the help is printed."""

    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()

    def _print_message(self, message: str, file: Any = None) -> None:
        # The one place where argparse prints: helps and versions to standard output, all else to standard error.
        if file is not None and file is sys.stdout:
            OUTPUT.write(printable(message, lines=True))
            OUTPUT.flush()
        elif message:
            complain(message.removesuffix("\n"))
