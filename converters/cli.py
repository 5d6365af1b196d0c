"""The command mdjax-convert: arguments → one call; no logic of its own."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mdjax import __version__
from mdjax.errors import InputError

_EPILOG = """\
example:

  mdjax-convert checkpoint --out zoo
  mdjax measure zoo --out table --data cifar10:cifar-10-batches-py

SRC is a folder of the published ResNet-18 zoo, at any height of

  checkpoint/different_knobs_{subset|subset_noisy|random_label}_NN/bs_B/{normal|lr_decay}/ResNet18_wK/
             net_exp_SEED[_best|_early_stopped_model].pkl

Nothing in a checkpoint is run. A killed conversion goes on where it stopped when the same command is given
again. Exit status: 0, or 1 if any file was refused, or 2 if nothing could be tried."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, print what became of the files, and exit: 1 if any was refused, 2 for bad usage."""
    parser = argparse.ArgumentParser(
        "mdjax-convert",
        description="convert PyTorch checkpoints into a zoo",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mdjax-convert {__version__}")
    parser.add_argument("src", type=Path, metavar="SRC")
    parser.add_argument("--out", type=Path, required=True, metavar="ZOO")
    options = parser.parse_args(arguments)
    # Imported here, so that --help and usage errors answer at once.
    from rich.console import Console

    from converters.conversion import convert

    try:
        report = convert(options.src, options.out)
    except InputError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; give the same command again to go on from here", file=sys.stderr)
        sys.exit(130)
    console = Console()
    if not console.is_terminal:
        console.width = 10_000  # a file or pipe has no edge at which paths would have to be broken
    console.print(report.table())
    sys.exit(report.exit_code)
