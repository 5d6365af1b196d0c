"""The commands on zoos and checkpoints, `mdjax train`, `measure` and `check`: arguments → calls, no logic."""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdjax.arguments import fact, output, table_output, tell_beside
from mdjax.console import tell
from mdjax.errors import InputError
from mdjax.statuses import StatusCode
from mdjax.table_commands import TREE_HELP

if TYPE_CHECKING:
    from mdjax.table import Table

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

  data = "digits"                  # or a .npz file, or a CIFAR-10 folder
  architecture = "cnn"             # mlp, cnn or resnet18
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

  mdjax train grid.toml --out zoo
  mdjax train grid.toml --out zoo --workers auto

A killed run goes on where it stopped when the same command is given again. A zoo has one writer: a second mdjax train
into it, on this machine or another, is refused. --workers are processes of the one, for a machine's GPUs, and so that
what ends a process costs one group of at most 64 models; what ends three at one group is told, and the rest trained."""

_MEASURE_EXAMPLE = """\
example:

  mdjax measure zoo --out table
  mdjax measure zoo --out table --data my.npz --preset fast --metrics losses,hessian
  mdjax measure zoo --out table --data my.npz --layout nchw --label-noise 0
  mdjax measure zoo --out table --metrics density,surface --set surface.dimensions=2
  mdjax measure zoo --plan --devices 8
  mdjax measure zoo --plan --target tpu:v5e-16"""

_MEASURE_END = """\
What a metric can be set to is told by 'python -c "help(\'mdjax.metrics\')"' and by a wrong --set.

TABLE becomes a folder with models.parquet, pairs.parquet and configurations.parquet. Finished work is
kept there: the same command again measures only what is missing. ZOO and TABLE may be addresses in an
object store, such as s3://bucket/zoo (pip install 'mdjax[stores]').

--plan --target compiles for devices that are not here, with compilers of their own: pip install 'mdjax[plan-tpu]' for
tpu:v4-8, tpu:v5e-16, tpu:v5p-64, tpu:v6e-8 (v4 and v5p count TensorCores, two a chip; tpu:v5p-2x4x4 gives the chips),
'mdjax[plan-cuda]' for cuda:h100, cuda:h200, cuda:a100-80gb, ... (cuda:h100-8 is eight). memory is by that compiler's
account, of one call on each device; collectives counts the places where devices wait for each other; compile_seconds
passed here; least_seconds is a bound, not a forecast: products and convolutions at the device's highest rate, loops
that end when a result is good enough counted once."""

_SWEEP_EPILOG = """\
example:

  ray start --head                                         # on the first machine; it tells what to run on the others
  mdjax sweep /shared/zoo --out /shared/table --address 10.0.0.1:6379
  mdjax sweep s3://bucket/zoo --out s3://bucket/table --address auto --workers 64 --accelerator gpu
  mdjax sweep zoo --out table --address local --cpus-per-worker 2

Each worker is a process of its own, one for each accelerator or core. Nodes may come and go: what one was at is done by
others. All of them need mdjax (pip install 'mdjax[ray]') and see ZOO and TABLE under the same paths. The same command
again goes on where the last one stopped; the table is that of mdjax measure, which may work at it too. docs/ray.md says
more of GPUs, TPUs and clusters that scale themselves."""

_LAYOUT_HELP = (
    "what the inputs of an .npz are: images, other numbers, whole numbers (default: its array layout, or what types "
    "and shapes say)"
)
_NOISE_HELP = (
    "take the training labels as they are, or redraw them with the noise that models are known to have been trained "
    "with (default: known, and said where the data may be others)"
)


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parsers of these commands; `command` makes each of a name, what runs it, a summary and an epilog."""
    check = command("check", _check, "say why the network of one or several checkpoints underperforms", _CHECK_EPILOG)
    check.add_argument("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT")
    check.add_argument("--data", required=True, metavar="NAME|PATH", help="what they were trained on")
    check.add_argument("--layout", metavar="nhwc|nchw|features|tokens", help=_LAYOUT_HELP)
    check.add_argument("--label-noise", metavar="0|known", help=_NOISE_HELP)
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
    calibrate.add_argument("--data", required=True, metavar="NAME|PATH", help="what it is trained on")
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

    measure = command("measure", _measure, "measure the loss landscape of every model of a zoo", _measure_epilog)
    measure.add_argument("zoo", metavar="ZOO")
    measure.add_argument(
        "--out", type=table_output, metavar="TABLE", help="where the table goes; needed unless --plan is given"
    )
    _add_what(measure)
    measure.add_argument(
        "--plan",
        action="store_true",
        help="print how it would run and how much memory it takes, and stop; with --out also what is left of it there "
        "and about how long that takes",
    )
    measure.add_argument(
        "--distributed",
        metavar="auto|ADDRESS:PORT,COUNT,NUMBER",
        help="join the processes of a job on several hosts, each started with this same command (TPU slices, Slurm, "
        "Kubernetes, MPI: auto)",
    )
    measure.add_argument(
        "--workers",
        default="auto",
        metavar="N",
        help="measure in N processes, each of which may die alone; 0: in this one (default: auto, one for each GPU, "
        "else one, for zoos of more than 64 models)",
    )
    measure.add_argument(
        "--target",
        metavar="tpu:v5e-16|cuda:h100|...",
        help="plan for these devices, which are not here (default of --devices: all of them), see below",
    )

    sweep = command("sweep", _sweep, "measure by the machines of a Ray cluster", _SWEEP_EPILOG)
    sweep.add_argument("zoo", metavar="ZOO")
    sweep.add_argument("--out", type=table_output, required=True, metavar="TABLE", help="where the table goes")
    _add_what(sweep)
    sweep.add_argument(
        "--address",
        metavar="auto|local|ADDRESS",
        help="of the cluster: HOST:PORT, ray://HOST:PORT, auto (one that runs here), local (one that is started here "
        "and ended again); default: auto, and else local",
    )
    sweep.add_argument(
        "--workers",
        default="auto",
        metavar="N",
        help="ask for N workers, also where nodes have first to come (default: auto, those that there is room for)",
    )
    sweep.add_argument(
        "--cpus-per-worker", type=int, default=1, metavar="N", help="that each worker takes (default: %(default)s)"
    )
    sweep.add_argument(
        "--accelerator",
        default="auto",
        metavar="auto|cpu|gpu|tpu",
        help="of which each worker takes --devices (default: what the cluster has)",
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Add what a measurement is told of data and metrics, wherever it runs."""
    usual = "default: what the zoo was trained on, where that is data by name or an unchanged .npz"
    parser.add_argument("--data", metavar="NAME|PATH", help=usual)
    parser.add_argument("--layout", metavar="nhwc|nchw|features|tokens", help=_LAYOUT_HELP)
    parser.add_argument("--label-noise", metavar="0|known", help=_NOISE_HELP)
    parser.add_argument("--preset", default="default", help="default, reference or fast (default: %(default)s)")
    parser.add_argument(
        "--metrics", metavar="a,b", help="see the end of 'mdjax measure --help' (default: those the trees read)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="METRIC.SETTING=VALUE", help="change a setting; may be repeated"
    )
    parser.add_argument(
        "--devices", metavar="N|NxM", help="spread models over N devices, and each batch over M of them (default: 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="moves every random number (default: %(default)s)")


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

        like, recipe = like_checkpoint(like, options.data, recipe, facts)
    elif facts:
        raise InputError(f"--fact is for a checkpoint, and {like} is no file. Say it in --recipe, or leave it out.")
    found = calibrate(
        like,
        data=options.data,
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


def _measure(options: argparse.Namespace) -> None:
    from mdjax.engine import device_mesh
    from mdjax.sweeps.local import measure
    from mdjax.sweeps.previews import preview

    if options.target is not None and not options.plan:
        raise InputError(
            f"--target {options.target} is of devices that are not here, where nothing is measured. Add --plan to it."
        )
    arguments = _what(options)
    if options.target is not None:
        _plan_for(options.target, options.devices, options.zoo, arguments)
        return
    devices = options.devices or "1"
    if options.plan:
        plan = preview(options.zoo, mesh=device_mesh(devices), out=options.out, seed=options.seed, **arguments)
        for name in ("memory", "process_memory"):
            plan[name] = [f"{size / 2**20:.1f} MiB" for size in plan[name]]
        if "seconds" in plan:
            plan["seconds"] = ["unknown" if math.isnan(value) else f"{value:.3g}" for value in plan["seconds"]]
        tell(plan.to_string(index=False))
        return
    if options.out is None:
        raise InputError("No place for the table. Name it: --out TABLE (or ask for the plan alone: --plan).")
    running: Any = {"devices": devices, "workers": options.workers, "seed": options.seed}
    running["distributed"] = options.distributed
    table = measure(options.zoo, out=options.out, **running, **arguments)
    _tell_counts(options.out, table)


def _sweep(options: argparse.Namespace) -> None:
    from mdjax.sweeps.elastic import sweep

    running: Any = {
        "address": options.address,
        "workers": options.workers,
        "cpus_per_worker": options.cpus_per_worker,
        "accelerator": options.accelerator,
        "devices": options.devices or "1",
        "seed": options.seed,
    }
    _tell_counts(options.out, sweep(options.zoo, out=options.out, **running, **_what(options)))


def _what(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "data": options.data,
        "preset": options.preset,
        "metrics": options.metrics,
        "settings": options.set,
        "layout": options.layout,
        "label_noise": options.label_noise,
    }


def _tell_counts(out: object, table: "Table") -> None:
    bad = int((table.models["status_code"] != StatusCode.OK).sum())
    tell(
        f"{out}: {len(table.models)} models ({bad} not ok), {len(table.pairs)} pairs, "
        f"{len(table.configurations)} configurations"
    )


def _plan_for(target: str, devices: str | None, zoo: str, arguments: dict[str, Any]) -> None:
    import jax

    from mdjax.engine import target_of
    from mdjax.sweeps.previews import preview
    from mdjax.sweeps.target_plans import plan_text

    # Devices that are here are not needed, and looking for them takes time and locks.
    jax.config.update("jax_platforms", "cpu")
    chosen = target_of(target, devices)
    plan = preview(zoo, target=chosen, **arguments)
    tell(plan_text(plan, chosen))


def _measure_epilog() -> str:
    # The metrics describe themselves; asking them loads JAX.
    from mdjax.metrics.registry import help_text

    return f"{_MEASURE_EXAMPLE}\n\n{help_text()}\n\n{_MEASURE_END}"
