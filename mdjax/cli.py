"""The command line: the parser, put together from the commands; arguments → calls, no logic."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mdjax import __version__, table_commands, zoo_commands
from mdjax.arguments import output
from mdjax.errors import InputError


class _Command(argparse.ArgumentParser):
    """A parser whose epilog may be a function, called only where the help is printed."""

    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; an InputError is printed as one sentence with exit status 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; give the same command again to go on from here", file=sys.stderr)
        sys.exit(130)


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("mdjax", description="Why does a trained network underperform?")
    parser.add_argument("--version", action="version", version=f"mdjax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Command)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, epilog: str | Callable[[], str] = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=summary, formatter_class=raw)
        added.late_epilog = epilog if callable(epilog) else lambda: epilog
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "the whole path on real data: train, measure, diagnose, report")
    demo.add_argument("--out", type=output, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    zoo_commands.add(command)
    table_commands.add(command)
    return parser


def _demo(options: argparse.Namespace) -> None:
    from mdjax.demo import run_demo

    run_demo(options.out)
