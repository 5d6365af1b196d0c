"""The command line: the parser, put together from the commands; arguments → calls, no logic."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mdjax.processes import run

if TYPE_CHECKING:
    import argparse

    from mdjax.parsers import Parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command, that of the process unless `arguments` are given; see `mdjax.processes.run` for how it ends."""

    def command() -> None:
        # What takes time to import is imported here, where an interrupt finds the process prepared.
        options = _parser().parse_args(arguments)
        options.run(options)

    run("mdjax", command, own_process=arguments is None)


def _parser() -> "Parser":
    import argparse
    from pathlib import Path

    from mdjax import __version__, measure_commands, table_commands, zoo_commands
    from mdjax.arguments import output
    from mdjax.parsers import Parser

    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser("mdjax", description="Why does a trained network underperform?")
    parser.add_argument("--version", action="version", version=f"mdjax {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, epilog: str | Callable[[], str] = ""
    ) -> Parser:
        added = commands.add_parser(name, help=summary, description=summary, formatter_class=raw)
        added.late_epilog = epilog if callable(epilog) else lambda: epilog
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "the whole path on real data: train, measure, diagnose, report")
    demo.add_argument("--out", type=output, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    zoo_commands.add(command)
    measure_commands.add(command)
    table_commands.add(command)
    return parser


def _demo(options: "argparse.Namespace") -> None:
    from mdjax.demo import run_demo

    run_demo(options.out)
