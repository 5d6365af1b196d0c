"""The command mdjax-convert: arguments → one call; no logic of its own."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mdjax.processes import run

if TYPE_CHECKING:
    from mdjax.parsers import Parser

_EPILOG = """\
example:

  mdjax-convert checkpoint --out zoo
  mdjax measure zoo --out table --data cifar10:cifar-10-batches-py

SRC is a checkpoint, or a folder of them at any height. Each file goes to the layout that knows it, and what names
and configs tell of its training goes with it:

  taxonomy           different_knobs_KIND_NN/bs_B/SCHEDULE/ResNet18_wK/net_exp_SEED[_best|_early_stopped_model].pkl
  modelzoos          TRIAL/params.json, TRIAL/result.json, TRIAL/checkpoint_N/checkpoints
  mode-connectivity  RUN/command.sh, RUN/checkpoint-EPOCH.pt
  cifar              checkpoint/ckpt.pth, checkpoint/NET/TIME/NET-EPOCH-{best|regular}.pth
  hugging-face       FOLDER/config.json, FOLDER/model.safetensors: as transformers saves a network
  files              CONFIGURATION/SEED.pt: any other; a folder is a configuration, its files are the seeds

Where names mean something else, say it: --name '{family}_width{width}_b{batch_size}_seed{seed}*' ("*" is anything, "/"
parts folders; fields become facts, those of names that no column has only tell configurations apart), or --facts
FILE.csv with a row per file. What is given wins over what layouts and files say. Equal weights in a configuration are
one model; different weights with one seed number in it are refused.

With --workers the zoo is the same, and a file at which processes die again and again, by a segmentation fault or for
lack of memory, is refused like any other that cannot be read.

Files may be .pt, .pth, .pkl, .ckpt, .tar and .bin of torch.save (a state_dict, alone or in a dictionary),
.safetensors, a sharded checkpoint's *.index.json, TorchScript, or .pt2. Nothing in them is run. A killed conversion
goes on where it stopped when the same command is given again. Exit status: 0, or 1 if any file was refused, or 2 if
nothing could be tried."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Convert, print what became of the files, and exit: 1 if any was refused, 2 for bad usage.

    Without `arguments` those of the process are taken; see `mdjax.processes.run` for how else it ends.
    """
    run("mdjax-convert", lambda: _convert(arguments), own_process=arguments is None)


def _parser() -> "Parser":
    # What takes time to import is imported here, where an interrupt finds the process prepared.
    import argparse
    from pathlib import Path

    from mdjax import __version__
    from mdjax.arguments import DATA_HELP, output
    from mdjax.parsers import Parser

    parser = Parser(
        "mdjax-convert",
        description="convert PyTorch checkpoints into a zoo",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mdjax-convert {__version__}")
    parser.add_argument("src", type=Path, metavar="SRC")
    parser.add_argument(
        "--out", type=output, metavar="ZOO", help="where the zoo goes; needed unless --dry-run is given"
    )
    parser.add_argument("--format", default="auto", metavar="auto|LAYOUT", help="see below (default: %(default)s)")
    parser.add_argument(
        "--data", metavar="NAME|PATH", help=f"what they were trained on: {DATA_HELP} (default: what the layout says)"
    )
    parser.add_argument(
        "--fact",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of all files, what nothing else tells, or tells otherwise: nonlinearity=relu, input_shape=28x28x1, "
        "max_pool=true, heads=12, specification=..., label_noise=0, batch_size=32 and other columns",
    )
    parser.add_argument(
        "--name",
        metavar="PATTERN",
        help="what files' names mean, like '{family}_width{width}_b{batch_size}_seed{seed}*'",
    )
    parser.add_argument(
        "--facts", metavar="FILE.csv", help="facts of each file: a column 'file', with paths below SRC, and others"
    )
    parser.add_argument(
        "--module", metavar="FILE.py:CLASS", help="code of a network of no known family: its torch.nn.Module"
    )
    parser.add_argument("--module-args", metavar="ARGS", default="", help="what CLASS is called with: '16, bias=False'")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights stored beside the others")
    parser.add_argument("--dry-run", action="store_true", help="read and recognise every file, and write nothing")
    parser.add_argument(
        "--trust", action="store_true", help="let files run code where they hold classes of their own (whole modules)"
    )
    parser.add_argument(
        "--workers",
        default="auto",
        metavar="N",
        help="read in N processes, each of which may die alone; 0: in this one (default: auto, one for each core where "
        "there are more than 1,000 files)",
    )
    return parser


def _convert(arguments: Sequence[str] | None) -> None:
    options = _parser().parse_args(arguments)
    # Not before, so that --help and usage errors answer at once.
    from converters.conversion import convert
    from mdjax.arguments import fact
    from mdjax.console import show, tell

    report = convert(
        options.src,
        options.out,
        format=options.format,
        data=options.data,
        facts=dict(map(fact, options.fact)),
        name=options.name,
        facts_file=options.facts,
        module=_module(options.module, options.module_args),
        ema=options.ema,
        trust=options.trust,
        dry_run=options.dry_run,
        workers=options.workers,
    )
    show(report.table())
    tell(*(note.to_text() for note in report.notes))
    sys.exit(report.exit_code)


def _module(text: str | None, arguments: str) -> str | None:
    from mdjax.errors import InputError

    if arguments and text is None:
        raise InputError(f"--module-args {arguments!r} are of no module. Give --module FILE.py:CLASS.")
    return f"{text}({arguments})" if text and arguments else text


if __name__ == "__main__":
    main()
