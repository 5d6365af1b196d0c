"""Arguments → calls; no logic of its own."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mdjax import __version__
from mdjax.errors import InputError
from mdjax.files import replacing, writing
from mdjax.statuses import StatusCode

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

A killed run goes on where it stopped when the same command is given again."""

_MEASURE_EXAMPLE = """\
example:

  mdjax measure zoo --out table
  mdjax measure zoo --out table --data my.npz --preset fast --metrics losses,hessian
  mdjax measure zoo --out table --data my.npz --layout nchw --label-noise 0
  mdjax measure zoo --out table --metrics density,surface --set surface.dimensions=2
  mdjax measure zoo --plan --devices 8"""

_MEASURE_END = """\
What a metric can be set to is told by 'python -c "help(\'mdjax.metrics\')"' and by a wrong --set.

TABLE becomes a folder with models.parquet, pairs.parquet and configurations.parquet. Finished work is
kept there: the same command again measures only what is missing."""

_DIAGNOSE_EPILOG = """\
example:

  mdjax diagnose table
  mdjax diagnose table --configuration mlp-w4-bs256-data1-noise0-lr0.05-m0.9-wd0.0005-e50
  mdjax diagnose table --out verdicts.csv

TABLE is a folder made by 'mdjax measure', or a .parquet or .csv file with the published columns. Where it
holds a sweep with its own test accuracies, what the sweep itself shows is told beside the verdicts, and written
with them: sweep_<question>, the label, and gain_inc_temp, gain_dec_temp, gain_width and gain_data, the points of
test accuracy that the change gained at best."""

_GROW_EPILOG = """\
example:

  mdjax grow table --out trees.json
  mdjax grow table --out trees.json --axes batch=learning_rate,width=depth,within=weight_decay+momentum
  mdjax grow table --out trees.json --questions optimizer,width --method published
  mdjax diagnose other-table --tree trees.json

TABLE holds one row per configuration with a test accuracy, over at least two values of an axis: what sets the
training temperature (batch), the model's size (width) and the amount of data (data). Without --axes they are
chosen by what varies: batch size, or else learning rate; width, or else depth; the amount of data; whatever else
varies has to agree for two configurations to be compared (within). For another column that sets the temperature
say which end is hot: --axes batch=weight_decay,hotter=larger. 'none' leaves a part out: --axes data=none."""

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


class _Command(argparse.ArgumentParser):
    """A parser whose epilog may be a function, called only where the help is printed."""

    late_epilog: Callable[[], str] | None = None

    def format_help(self) -> str:
        if self.late_epilog is not None:
            self.epilog = self.late_epilog()
        return super().format_help()


def _measure_epilog() -> str:
    # The metrics describe themselves; asking them loads JAX.
    from mdjax.metrics.registry import help_text

    return f"{_MEASURE_EXAMPLE}\n\n{help_text()}\n\n{_MEASURE_END}"


_LAYOUT_HELP = (
    "what the inputs of an .npz are: images, other numbers, whole numbers (default: its array layout, or what types "
    "and shapes say)"
)
_NOISE_HELP = (
    "take the training labels as they are, or redraw them with the noise that models are known to have been trained "
    "with (default: known, and said where the data may be others)"
)
_TREE_HELP = "trees of the default method, of the paper's fit, or those in a file (default: %(default)s)"


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

    def command(name: str, run, summary: str, epilog: str = "") -> _Command:
        added = commands.add_parser(name, help=summary, description=summary, epilog=epilog, formatter_class=raw)
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "the whole path on real data: train, measure, diagnose, report")
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")

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
    check.add_argument("--tree", default="shipped", metavar="shipped|published|FILE", help=_TREE_HELP)
    check.add_argument("--report", type=Path, metavar="FILE.html", help="write the page with plots, too")
    check.add_argument("--out", type=Path, metavar="DIR", help="keep the zoo and the table here (default: nowhere)")
    check.add_argument("--preset", default="default", help="default, reference or fast (default: %(default)s)")
    check.add_argument("--seed", type=int, default=0, help="moves every random number (default: %(default)s)")

    train = command("train", _train, "grow a zoo of models over a grid of settings", _TRAIN_EPILOG)
    train.add_argument("grid", type=Path, metavar="GRID.toml")
    train.add_argument("--out", type=Path, required=True, metavar="ZOO")

    measure = command("measure", _measure, "measure the loss landscape of every model of a zoo")
    measure.late_epilog = _measure_epilog
    measure.add_argument("zoo", type=Path, metavar="ZOO")
    measure.add_argument(
        "--out", type=Path, metavar="TABLE", help="where the table goes; needed unless --plan is given"
    )
    measure.add_argument("--data", metavar="NAME|PATH", help="default: the data the zoo was trained on")
    measure.add_argument(
        "--layout",
        metavar="nhwc|nchw|features|tokens",
        help=_LAYOUT_HELP,
    )
    measure.add_argument(
        "--label-noise",
        metavar="0|known",
        help=_NOISE_HELP,
    )
    measure.add_argument("--preset", default="default", help="default, reference or fast (default: %(default)s)")
    measure.add_argument("--metrics", metavar="a,b", help="see below (default: those the trees read)")
    measure.add_argument(
        "--set", action="append", default=[], metavar="METRIC.SETTING=VALUE", help="change a setting; may be repeated"
    )
    measure.add_argument(
        "--devices", default="1", metavar="N|NxM", help="spread models over N devices, and each batch over M of them"
    )
    measure.add_argument(
        "--plan", action="store_true", help="print how it would run and how much memory it takes, and stop"
    )
    measure.add_argument("--seed", type=int, default=0, help="moves every random number (default: %(default)s)")

    diagnose = command("diagnose", _diagnose, "say why each configuration of a table underperforms", _DIAGNOSE_EPILOG)
    diagnose.add_argument("table", type=Path, metavar="TABLE")
    diagnose.add_argument("--tree", default="shipped", metavar="shipped|published|FILE", help=_TREE_HELP)
    diagnose.add_argument("--configuration", metavar="NAME", help="explain this one in full")
    diagnose.add_argument("--out", type=Path, metavar="FILE", help="write all verdicts as .csv, .json or .parquet")

    grow = command("grow", _grow, "grow trees on a table's own sweep, and say how often they are right", _GROW_EPILOG)
    grow.add_argument("table", type=Path, metavar="TABLE")
    grow.add_argument("--out", type=Path, required=True, metavar="FILE.json", help="where the trees go")
    grow.add_argument("--axes", default="", metavar="PART=COLUMN,...", help="see below (default: by what varies)")
    grow.add_argument("--method", default="default", metavar="default|published", help="default: %(default)s")
    grow.add_argument("--questions", metavar="a,b", help="optimizer, width, data (default: all that can be grown)")
    grow.add_argument(
        "--min-width", type=float, metavar="N", help="ask the data question from this width on (default: 32; 0: of all)"
    )

    report = command("report", _report, "draw a table as one HTML page with plots and diagnosis")
    report.add_argument("table", type=Path, metavar="TABLE")
    report.add_argument("--tree", default="shipped", metavar="shipped|published|FILE", help=_TREE_HELP)
    report.add_argument("--configuration", metavar="NAME", help="explain this one in full, its path drawn in the trees")
    report.add_argument("--out", type=Path, default=Path("report.html"), help="default: %(default)s")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from mdjax.demo import run_demo

    run_demo(options.out)


def _check(options: argparse.Namespace) -> None:
    from mdjax.checking import check

    facts = dict(map(_fact, options.fact))
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
    )
    _tell([found.to_text()])
    if found.refused:
        sys.exit(1)


def _fact(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise InputError(f"Cannot read the fact {text!r}. Write name=value, like nonlinearity=relu.")
    return name, value


def _train(options: argparse.Namespace) -> None:
    from mdjax.zoo.grids import load_grid
    from mdjax.zoo.training import train

    print(train(load_grid(options.grid), options.out))


def _measure(options: argparse.Namespace) -> None:
    from mdjax.engine import device_mesh
    from mdjax.sweeps.local import measure, preview

    arguments: dict[str, Any] = {
        "data": options.data,
        "preset": options.preset,
        "metrics": options.metrics,
        "settings": options.set,
        "mesh": device_mesh(options.devices),
        "layout": options.layout,
        "label_noise": options.label_noise,
    }
    if options.plan:
        plan = preview(options.zoo, **arguments)
        plan["memory"] = [f"{size / 2**20:.1f} MiB" for size in plan["memory"]]
        print(plan.to_string(index=False))
        return
    if options.out is None:
        raise InputError("No place for the table. Name it: --out TABLE (or ask for the plan alone: --plan).")
    table = measure(options.zoo, out=options.out, seed=options.seed, **arguments)
    bad = int((table.models["status_code"] != StatusCode.OK).sum())
    print(
        f"{options.out}: {len(table.models)} models ({bad} not ok), {len(table.pairs)} pairs, "
        f"{len(table.configurations)} configurations"
    )


def _diagnose(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.verdicts import Diagnosis
    from mdjax.table import read_configurations

    table = read_configurations(options.table)
    diagnosis = Diagnosis.of(table, options.tree)
    if options.configuration is not None:
        lines = [diagnosis.verdict(_pick(table, options)).to_text()]
    else:
        lines = [*_summary(diagnosis.frame), *diagnosis.frame.attrs["cautions"], *diagnosis.sweep_lines()]
        lines += [diagnosis.verdict(0).to_text()] if len(table) == 1 else []
    _tell(lines)
    if options.out is not None:
        _write_frame(diagnosis.frame_with_sweep(), options.out)


def _grow(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.sweep_axes import parse_axes, sweep_axes
    from mdjax.diagnosis.sweep_trees import grow_sweep
    from mdjax.diagnosis.trees import save_trees
    from mdjax.table import read_configurations

    table = read_configurations(options.table)
    grown = grow_sweep(
        table,
        None if options.questions is None else [name.strip() for name in options.questions.split(",")],
        axes=sweep_axes(table, parse_axes(options.axes)),
        method=options.method,
        min_width=options.min_width,
    )
    save_trees(grown.trees.values(), options.out)
    print(f"{grown.to_text()}\n\n{options.out}")


def _tell(texts: Sequence[str]) -> None:
    from rich.console import Console

    console = Console()
    for text in texts:
        console.print(text, highlight=False, markup=False, soft_wrap=True)


def _report(options: argparse.Namespace) -> None:
    from mdjax.diagnosis.trees import as_trees
    from mdjax.report.page import is_readable, write_report
    from mdjax.table import read_configurations

    table = read_configurations(options.table)
    write_report(
        options.out,
        table,
        trees=options.tree,
        highlight=options.configuration,
        source=str(options.table),
    )
    if not is_readable(table, as_trees(options.tree)):
        print(f"{options.table} has none of the features that the trees read: no diagnosis.", file=sys.stderr)
    print(options.out)


def _pick(table, options: argparse.Namespace) -> int:
    # Rows without a name are called as the report calls them.
    numbered = [f"row {number}" for number in range(1, len(table) + 1)]
    names = table["configuration"].tolist() if "configuration" in table else numbered
    rows = [row for row, name in enumerate(names) if name == options.configuration]
    if len(rows) != 1:
        raise InputError(
            f"{len(rows)} configurations of {options.table} are named {options.configuration!r}. "
            f"Give one of its {len(table)} names, for instance {names[0]!r}."
        )
    return rows[0]


def _summary(verdicts) -> list[str]:
    counts = verdicts["cause"].value_counts()
    width = max((len(cause) for cause in counts.index), default=0)
    lines = [f"{len(verdicts)} configurations"]
    for cause, count in counts.items():
        change = verdicts.loc[verdicts["cause"] == cause, "recommendation"].iloc[0]
        lines.append(f"  {count:6d}  {cause:<{width}}  → {change}")
    return lines


def _write_frame(frame, path: Path) -> None:
    writers = {
        ".csv": lambda file: frame.to_csv(file, index=False),
        ".json": lambda file: frame.to_json(file, orient="records", indent=1),
        ".parquet": lambda file: frame.to_parquet(file, index=False),
    }
    if path.suffix not in writers:
        raise InputError(f"Cannot write {path}: its ending is {path.suffix!r}. Use .csv, .json or .parquet.")
    with writing(str(path)), replacing(path) as temporary:
        writers[path.suffix](temporary)
