"""A zoo × metrics → a table, by as many processes as a Ray cluster has room for, while nodes come and go."""

import contextlib
import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Unpack

from mdjax.addresses import located
from mdjax.engine import device_shape
from mdjax.errors import InputError, check_options, check_whole, first_line
from mdjax.sweeps.clusters import joined
from mdjax.sweeps.gangs import Needs, Slice, parse_gang
from mdjax.sweeps.local import RunOptions, measure
from mdjax.sweeps.ray_crew import RayCrew
from mdjax.table import Table
from mdjax.zoo.data import Data
from mdjax.zoo.store import Zoo

ACCELERATORS = ("auto", "cpu", "gpu", "tpu")

_MOST_WORKERS, _MOST_CPUS = 100_000, 4096

_OWN = {"address", "cpus_per_worker", "accelerator", "gang", "distributed"}
"""Options that a measurement is not told."""


class SweepOptions(RunOptions, total=False):
    """How a sweep runs: as a measurement does (`RunOptions`), without `mesh`, and on which workers.

    `address` is that of the cluster (`mdjax.sweeps.clusters.joined`). `workers`, by default "auto", are as many as the
    cluster has room for at any time; a number is how many are asked for: those for which there is no room wait, and a
    cluster that scales itself starts nodes for them. Each takes `cpus_per_worker` (default 1) and `devices` (default 1)
    of an accelerator, "gpu", "tpu", or none, "cpu"; "auto" is what the cluster has.

    `gang` (default 1) makes each worker that many processes on nodes of their own, which begin and end together, joined
    by `jax.distributed`; or, as a TPU slice like "v5e-16", a process on each of its hosts, with all of their chips.
    """

    address: str | None
    cpus_per_worker: int
    accelerator: str
    gang: int | str


def sweep(
    source: str | Path | Zoo,
    *,
    out: str | Path,
    data: Data | None = None,
    preset: str = "default",
    metrics: str | Sequence[str] | None = None,
    settings: Sequence[str] = (),
    **options: Unpack[SweepOptions],
) -> Table:
    """Measure every model of a zoo on a Ray cluster: the same table as by `mdjax.sweeps.local.measure`, and resumed so.

    Each worker is a process that shares the table with all others, wherever they run. Where one dies, the others take
    over; a model at which workers die again and again becomes a row that says so. Several sweeps, and `measure`, may
    fill one table at a time.

    source: a zoo, or its path or address, as all nodes see it.
    out: where the table goes, as all nodes see it.
    data, preset, metrics, settings: as for `measure`, by names and paths.
    options: see `SweepOptions`.

    InputError as of `measure`, where there is no such cluster, and where its nodes do not see zoo and table.
    """
    check_options("sweep", options, SweepOptions)
    if options.get("distributed") is not None:
        raise InputError("distributed was given for a sweep, whose processes Ray starts. Leave it out, or use measure.")
    taken = _taken(options)
    rest: Any = {name: value for name, value in options.items() if name not in _OWN}
    # Workers have other working folders.
    places = {"source": _absolute(source.path if isinstance(source, Zoo) else source), "out": _absolute(out)}
    with joined(options.get("address")) as ray:
        needs = _needs(taken, ray)
        rest.setdefault("devices", str(taken.devices))
        rest["workers"] = functools.partial(RayCrew, ray=ray, needs=needs, count=taken.num_workers)
        try:
            return measure(**places, data=data, preset=preset, metrics=metrics, settings=settings, **rest)
        except (ConnectionError, ray.exceptions.RaySystemError) as error:
            raise InputError(
                f"The Ray cluster is not reached any more: {first_line(error)}. Give the same command again to go on "
                "from here."
            ) from error


class _Taken(NamedTuple):
    """What each worker takes of the cluster, and how many there are to be; None: as many as there is room for."""

    cpus: int
    devices: int
    accelerator: str
    num_processes: int
    slice: Slice | None
    num_workers: int | None


def _taken(options: SweepOptions) -> _Taken:
    cpus, accelerator = options.get("cpus_per_worker", 1), options.get("accelerator", "auto")
    check_whole("cpus_per_worker", cpus, 1, _MOST_CPUS)
    if accelerator not in ACCELERATORS:
        raise InputError(f"Unknown accelerator {accelerator!r}. Choose from {', '.join(ACCELERATORS)}.")
    asked = options.get("workers", "auto")
    count = None
    if asked != "auto":
        with contextlib.suppress(TypeError, ValueError):
            count = int(asked)  # pyright: ignore[reportArgumentType]
        check_whole("workers", asked if count is None else count, 1, _MOST_WORKERS)
    number, of_slice, chips = parse_gang(options.get("gang", 1))
    devices = math.prod(device_shape(options.get("devices", chips)))
    if of_slice is not None and (accelerator not in ("auto", "tpu") or devices != chips):
        raise InputError(
            f"A gang on the slice {options.get('gang')} takes all {chips} chips of each host, not {devices} of "
            f"{accelerator!r}. Leave out accelerator, and devices unless it says how batches are split."
        )
    return _Taken(cpus, devices, accelerator if of_slice is None else "tpu", number, of_slice, count)


def _needs(taken: _Taken, ray: Any) -> Needs:
    kind = taken.accelerator
    if kind == "auto":
        there = ray.cluster_resources()
        kind = next((name for name in ("tpu", "gpu") if there.get(name.upper(), 0) >= 1), "cpu")
    resources: dict[str, float] = {"CPU": taken.cpus}
    if kind != "cpu":
        resources[kind.upper()] = taken.devices
    return Needs(resources, taken.num_processes, taken.slice)


def _absolute(place: Any) -> Any:
    found = located(place)
    return found.absolute() if isinstance(found, Path) else str(found)
