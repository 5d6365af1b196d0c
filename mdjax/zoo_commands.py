"""The commands on networks, `mdjax train`, `check` and `calibrate`: arguments → calls, no logic."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mdjax.arguments import DATA_HELP, EXAMPLES_HELP, LAYOUT_HELP, NOISE_HELP, TASK_HELP, fact, output, tell_beside
from mdjax.console import tell
from mdjax.errors import InputError
from mdjax.table_commands import TREE_HELP

_CHECK_EPILOG = """\
example:

  mdjax check net.pt --data digits --nonlinearity relu
  mdjax check run0/model.safetensors run1/model.safetensors --data my.npz --report why.html
  mdjax check net.pt --data my.npz --module mynet.py:MyNet
  mdjax check checkpoint.msgpack --data my.npz --module mynet.py:MyFlaxNet

CHECKPOINT is a file that PyTorch wrote, as mdjax-convert takes it, a .safetensors, a folder with the checkpoints of one
configuration, or what Flax wrote (Orbax or msgpack). Several are seeds of one configuration: two say more than one.
A plain network and a network of a known family are recognised; for any other, and for Flax, give its code with
--module (for PyTorch: pip install 'mdjax[torchax]'). CLASS may be a function that makes it, and may have arguments:
'mynet.py:MyNet(16)'. The file of --module is run; nothing in a checkpoint is, unless --trust says so.

With --out the zoo and the table are kept there; the same command again resumes. Exit status: 0, or 1 if any file could
not be taken, or 2 if there is no verdict."""

_CALIBRATE_EPILOG = """\
example:

  mdjax calibrate --like zoo --data digits --out cal
  mdjax calibrate --like mlp-w64 --data my.npz --out cal --budget 5m --recipe learning_rate=0.1,epochs=20
  mdjax calibrate --like resnet18-w16 --data my.npz --out cal --recipe optimizer=adamw,schedule=cosine --plan
  mdjax calibrate --like net.pt --data my.npz --out cal --fact nonlinearity=relu --recipe learning_rate=0.1
  mdjax diagnose table --tree cal

Grows small networks of the kind that is to be diagnosed, of less width and on less data, at learning rates (or batch
sizes) around yours, and learns from them what more width, more data or another temperature would bring to larger ones,
and how often it is right about the larger ones among them. --like names a zoo, whose architecture and recipe are taken,
a checkpoint of a network that mdjax knows, as mdjax check takes it, with what it tells of its training, or an
architecture with its width: mlp-w64, cnn-w16, resnet18-w8. A recipe has batch_size, learning_rate, momentum,
weight_decay, epochs, label_noise, data_share, optimizer (sgd, adamw), schedule (constant, step, cosine), warmup and
augmentation; what neither it nor the zoo says is usual. Verdicts by it need to know a network's width, batch_size,
learning_rate and data_share, as zoos do, and models in Python by facts={...}.

A killed run goes on where it stopped when the same command is given again; a larger --budget grows more."""

_TRAIN_EPILOG = """\
example grid (every axis may be a number or a list):

  data = "digits"                  # or an .npz file, or a folder: see --data of 'mdjax measure --help'
  architecture = "cnn"             # mlp, cnn, resnet18, encoder or decoder
  width = [2, 4, 8, 16]
  batch_size = [16, 64, 256]
  data_share = [0.25, 1.0]
  label_noise = 0.0
  learning_rate = 0.05
  epochs = 50
  seeds = 3
  optimizer = "sgd"                # or adamw
  schedule = "cosine"              # constant, step or cosine; warmup = 0.1 rises over a tenth first
  augmentation = "none"            # flip, crop or flip+crop of images
  variant = "h4 rms rotary"        # of an encoder or decoder alone: its heads and other parts

  mdjax train grid.toml --out zoo
  mdjax train grid.toml --out zoo --workers auto

An encoder reads tokens (whole numbers [n, length]) or images, as patches; a decoder reads tokens and says the next,
with data = "next-token:text.npz". A variant's words: h4 kv2 mlp64 rms rotary swiglu nobias ... (docs/tasks.md).

A killed run goes on where it stopped when the same command is given again. A zoo has one writer: a second mdjax train
into it, on this machine or another, is refused. --workers are processes of the one, for a machine's GPUs, and so that
what ends a process costs one group of at most 64 models; what ends three at one group is told, and the rest trained."""


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parsers of these commands; `command` makes each of a name, what runs it, a summary and an epilog."""
    check = command("check", _check, "say why the network of one or several checkpoints underperforms", _CHECK_EPILOG)
    check.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    check.add_argument("--data", required=True, metavar="NAME|PATH", help=f"what they were trained on: {DATA_HELP}")
    check.add_argument("--layout", metavar="nhwc|nchw|features|tokens", help=LAYOUT_HELP)
    check.add_argument("--task", metavar="NAME", help=TASK_HELP)
    check.add_argument("--examples", type=int, metavar="N", help=EXAMPLES_HELP)
    check.add_argument("--label-noise", metavar="0|known", help=NOISE_HELP)
    check.add_argument("--module", metavar="FILE.py:CLASS", help="code of the network: its torch or Flax module")
    check.add_argument("--nonlinearity", metavar="NAME", help="of a plain network, whose weights do not tell it: tanh")
    check.add_argument(
        "--fact",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="what else weights do not tell: batch_size=32, max_pool=true, specification=...",
    )
    check.add_argument("--ema", action="store_true", help="take the averaged weights stored beside the others")
    check.add_argument("--trust", action="store_true", help="let files run code where they hold classes of their own")
    check.add_argument("--tree", default="shipped", metavar="shipped|published|FILE|CAL", help=TREE_HELP)
    check.add_argument(
        "--calibrate",
        metavar="TIME",
        help="grow small networks of this kind on these data for so long, like 10m, and ask those (with --out they are "
        "kept); needs --fact batch_size= and --fact learning_rate= where files do not tell",
    )
    check.add_argument("--report", type=output, metavar="FILE.html", help="write the page with plots, too")
    check.add_argument("--out", type=output, metavar="DIR", help="keep the zoo and the table here (default: nowhere)")
    check.add_argument("--preset", default="default", help="default, reference or fast (default: %(default)s)")
    check.add_argument("--seed", type=int, default=0, help="moves every random number (default: %(default)s)")

    calibrate = command(
        "calibrate", _calibrate, "learn from small networks of your own task what would help", _CALIBRATE_EPILOG
    )
    calibrate.add_argument("--like", required=True, metavar="ZOO|FILE|ARCHITECTURE", help="what is to be diagnosed")
    calibrate.add_argument(
        "--fact", action="append", default=[], metavar="NAME=VALUE", help="of a checkpoint, as for check"
    )
    calibrate.add_argument("--data", required=True, metavar="NAME|PATH", help=f"what it is trained on: {DATA_HELP}")
    calibrate.add_argument("--task", metavar="NAME", help=TASK_HELP)
    calibrate.add_argument("--out", type=output, required=True, metavar="CAL", help="where the calibration goes")
    calibrate.add_argument("--budget", default="10m", metavar="TIME", help="like 90s or 10m (default: %(default)s)")
    calibrate.add_argument("--recipe", default="", metavar="NAME=VALUE,...", help="of the training, see below")
    calibrate.add_argument(
        "--vary", default="learning_rate", help="learning_rate or batch_size, by temperature (default: %(default)s)"
    )
    calibrate.add_argument("--seeds", type=int, default=2, help="of each configuration (default: %(default)s)")
    calibrate.add_argument(
        "--no-landscape", action="store_true", help="measure losses alone: more networks, no trees for unknown settings"
    )
    calibrate.add_argument(
        "--workers",
        default=0,
        metavar="0|1",
        help="1: train and measure in a process of its own, which may die alone (default: %(default)s)",
    )
    calibrate.add_argument("--plan", action="store_true", help="time the smallest networks, say what would be grown")

    train = command("train", _train, "grow a zoo of models over a grid of settings", _TRAIN_EPILOG)
    train.add_argument("grid", type=Path, metavar="GRID.toml")
    train.add_argument("--out", type=output, required=True, metavar="ZOO")
    train.add_argument(
        "--workers",
        default=0,
        metavar="N",
        help="train in N processes, each of which may die alone (default: 0, in this one; auto: one for each GPU, else "
        "one, for grids of more than 64 models)",
    )


def _check(options: argparse.Namespace) -> None:
    from mdjax.checking import check

    facts = dict(map(fact, options.fact))
    if options.nonlinearity is not None:
        facts["nonlinearity"] = options.nonlinearity
    found = check(
        options.checkpoints,
        data=options.data,
        module=options.module,
        out=options.out,
        report=options.report,
        trees=options.tree,
        facts=facts,
        layout=options.layout,
        task=options.task,
        num_examples=options.examples,
        label_noise=options.label_noise,
        ema=options.ema,
        trust=options.trust,
        preset=options.preset,
        seed=options.seed,
        calibrate=options.calibrate,
    )
    tell_beside(options.report, found.to_text())
    if found.refused:
        sys.exit(1)


def _calibrate(options: argparse.Namespace) -> None:
    from mdjax.calibration.growing import calibrate
    from mdjax.calibration.targets import parse_recipe

    like, recipe, facts = options.like, parse_recipe(options.recipe), dict(map(fact, options.fact))
    if Path(like).is_file():
        from mdjax.checking import like_checkpoint

        like, recipe = like_checkpoint(like, options.data, recipe, facts, options.task)
    elif facts:
        raise InputError(f"--fact is for a checkpoint, and {like} is no file. Say it in --recipe, or leave it out.")
    found = calibrate(
        like,
        data=options.data,
        task=options.task,
        out=options.out,
        budget=options.budget,
        recipe=recipe,
        vary=options.vary,
        seeds=options.seeds,
        landscape=not options.no_landscape,
        workers=options.workers,
        plan_only=options.plan,
    )
    tell(found.to_text())


def _train(options: argparse.Namespace) -> None:
    from mdjax.zoo.grids import load_grid
    from mdjax.zoo.training import train

    tell(str(train(load_grid(options.grid), options.out, workers=options.workers)))
