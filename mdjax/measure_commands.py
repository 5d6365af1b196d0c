"""The commands that measure a zoo, `mdjax measure` and `sweep`: arguments → calls, no logic."""

import argparse
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mdjax.arguments import DATA_HELP, EXAMPLES_HELP, LAYOUT_HELP, NOISE_HELP, TASK_HELP, table_output
from mdjax.console import tell
from mdjax.errors import InputError
from mdjax.statuses import StatusCode

if TYPE_CHECKING:
    from mdjax.table import Table

_MEASURE_EXAMPLE = """\
example:

  mdjax measure zoo --out table
  mdjax measure zoo --out table --data my.npz --preset fast --metrics losses,hessian
  mdjax measure zoo --out table --data my.npz --layout nchw --label-noise 0
  mdjax measure zoo --out table --data path/to/MNIST/raw
  mdjax measure zoo --out table --data path/to/imagenet --examples 4096
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


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the parsers of these commands; `command` makes each of a name, what runs it, a summary and an epilog."""
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
    sweep.add_argument(
        "--gang",
        default="1",
        metavar="N|v5e-16|...",
        help="each worker is N processes, on nodes of their own, that begin and end together, or one on each host of "
        "such a TPU slice, with all of its chips (default: 1)",
    )


def _add_what(parser: argparse.ArgumentParser) -> None:
    """Add what a measurement is told of data and metrics, wherever it runs."""
    usual = "(default: what the zoo was trained on, where that is data by name or an unchanged .npz)"
    parser.add_argument("--data", metavar="NAME|PATH", help=f"{DATA_HELP} {usual}")
    parser.add_argument("--layout", metavar="nhwc|nchw|features|tokens", help=LAYOUT_HELP)
    parser.add_argument("--task", metavar="NAME", help=TASK_HELP)
    parser.add_argument("--examples", type=int, metavar="N", help=EXAMPLES_HELP)
    parser.add_argument("--label-noise", metavar="0|known", help=NOISE_HELP)
    parser.add_argument("--preset", default="default", help="default, reference or fast (default: %(default)s)")
    parser.add_argument(
        "--metrics", metavar="a,b", help="see the end of 'mdjax measure --help' (default: those the trees read)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="METRIC.SETTING=VALUE", help="change a setting; may be repeated"
    )
    parser.add_argument(
        "--devices",
        metavar="N|NxM|NxMxS",
        help="spread models over N devices, each batch over M of them, and the parameters of models that are too large "
        "for a device over S (default: 1)",
    )
    parser.add_argument("--seed", type=int, default=0, help="moves every random number (default: %(default)s)")


def _measure(options: argparse.Namespace) -> None:
    from mdjax.engine import device_mesh
    from mdjax.sweeps.local import measure
    from mdjax.sweeps.previews import preview

    if options.target is not None and not options.plan:
        raise InputError(
            f"--target {options.target} is of devices that are not here, where nothing is measured. Add --plan to it."
        )
    if options.plan and options.distributed is not None:
        raise InputError("A plan is made by one process. Leave --distributed out of it.")
    arguments = _what(options)
    if options.target is not None:
        _plan_for(options.target, options.devices, options.zoo, arguments | {"out": options.out})
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
        "gang": options.gang,
        **({} if options.devices is None else {"devices": options.devices}),
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
        "task": options.task,
        "num_examples": options.examples,
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
