"""A zoo × metrics → a table, in this process: work split into units, each done once and kept."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeGuard, Unpack

from mdjax.addresses import Address
from mdjax.console import warn
from mdjax.engine import device_mesh, device_shape
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
from mdjax.engine.hosts import Host, join
from mdjax.errors import InputError, check_options, check_whole
from mdjax.files import table_place
from mdjax.metrics import Metric, select
from mdjax.models import Model
from mdjax.progress import progress
from mdjax.stores import store_of
from mdjax.subprocesses import leave_accelerators_alone
from mdjax.sweeps.aggregation import compose
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.independence import check_independent
from mdjax.sweeps.preparation import PlanOptions, prepared
from mdjax.sweeps.results import Results, collected
from mdjax.sweeps.running import Runner
from mdjax.sweeps.sources import GivenModels, Source
from mdjax.sweeps.sources import runner as given_model
from mdjax.sweeps.units import Unit, digest, kinds
from mdjax.sweeps.worker import Assignment
from mdjax.sweeps.workers import Recruit, recruiting, supervise
from mdjax.sweeps.working import Share, Sharing, work_through
from mdjax.table import Table, read_table, write_table
from mdjax.zoo.data import Data
from mdjax.zoo.store import Zoo


class RunOptions(PlanOptions, total=False):
    """How a measurement runs: on what (`PlanOptions`); `seed` moves every random number (default 0); `show_progress`
    (default True) draws a bar.

    `workers` are processes of their own that measure, each of which may die alone (default 0: this one measures;
    "auto": one for each GPU, else one, where the zoo has more than a few dozen models). They need a zoo and data by
    name or path, metrics by name, `out`, and `devices` in place of `mesh`: what each of them measures on, as the
    command line calls it (default "1"). JAX in this process then keeps to the CPU, unless it has begun on another
    device: accelerators are the workers'.

    `distributed` joins the processes of a job on several hosts (`mdjax.engine.hosts.join`): each measures its part of
    the units on its own devices, then what is left of the others', and one of them writes the table.
    """

    seed: int
    show_progress: bool
    workers: int | str | Recruit
    distributed: str | None
    devices: str | int


_MOST_ROUNDS = 5
"""So many times what was damaged is measured again before it is collected."""

MOST_SEED = 2**32 - 1
"""The greatest seed: JAX takes 32 bits of it, so that larger ones would be others in disguise."""


@in_32_bits
def measure(
    source: Source,
    *,
    out: str | Path | Address | None = None,
    data: Data | None = None,
    model: Model | Any = None,
    preset: str = "default",
    metrics: str | Sequence[str | Metric] | None = None,
    settings: Sequence[str] = (),
    **options: Unpack[RunOptions],
) -> Table:
    """Measure every model of a zoo; returns the table and, with `out`, keeps it there and resumes from it.

    A model with NaN weights, a damaged group or a diverged curve becomes a row whose `status` says so. A zoo's
    finished work is kept in `out` and looked up by its content (weights, data, settings), so that a killed run or a
    further metric costs only what is missing; a list of models is measured anew, since a function has no identity
    to look it up by. Raises InputError for bad arguments and for a folder that cannot be written. Cost: see the
    metrics; the table records each metric's seconds.

    source: a zoo (or its path), or a list of (params, state) pytrees of equal shapes together with `model`; the list
        counts as seeds of one configuration, trained on all of `data` unless `facts` say otherwise. Models with equal
        weights count once.
    out: the folder of the table.
    data: a Dataset, a name, a path, (train, test) data sets of examples or batches, or the arrays (x_train, y_train,
        x_test, y_test) as a tuple or a dictionary, see `mdjax.zoo.data.dataset_of` (default: what the zoo was trained
        on, where `mdjax.zoo.recorded` opens it).
    model: a pure `apply(params, state, inputs) -> logits`, or an object with `apply` and `batch_apply`
        (`mdjax.models.Model`).
    preset: "default", "reference" or "fast".
    metrics: names ("losses,hessian" or a list), or metric objects with settings of their own; the table holds what was
        asked for (default: what the trees read).
    settings: texts such as "hessian.num_samples=64" that change one setting each.
    options: `seed`, `mesh`, `num_examples`, `layout`, `label_noise`, `facts` and `show_progress`, see `RunOptions`.
    """
    check_options("measure", options, RunOptions)
    seed = options.get("seed", 0)
    check_whole("seed", seed, 0, MOST_SEED)
    out = None if out is None else table_place(out)
    chosen = select(preset, metrics, settings)
    if "devices" in options and options.get("mesh") is not None:
        raise InputError("Both mesh and devices were given, which say the same. Give one of them.")
    host = _joined(source, options, out)
    recruit, assignment = None if host else recruiting(options.get("workers", 0), source), None
    if recruit is not None:
        assignment = _assignment(source, out, data, preset, metrics, settings, options)
        leave_accelerators_alone()
    elif "devices" in options:
        options["mesh"] = device_mesh(options["devices"])
    keep_compiled_programs()
    work = prepared(source, data, chosen, model, options, seed)
    if assignment is not None:
        work = dataclasses.replace(work, num_groups=device_shape(assignment.devices)[0])
    if isinstance(work.collection, GivenModels):
        check_independent(work.collection, given_model(None, model, work.plan), work.dataset)
    # The folder is tried before anything is computed.
    commits = None if out is None else Commits(store_of(out))
    runner = Runner(work, model)
    if host is None or host.number == 0:
        for text in filter(None, (*work.notices(), runner.doubts())):
            warn(text)
    units = [unit for metric in work.metrics for unit in work.units(metric)]
    show = options.get("show_progress", True)

    def composed(results: Results) -> Table:
        for text in results.warnings(runner.errors):
            warn(text)
        recipe = {"preset": preset, "measure_seed": seed}
        facts = {"num_train": work.dataset.num_source, "unit": work.dataset.task.unit}
        table = compose(work.manifest, results.rows, results.problems, recipe, **facts)
        if out is None:
            return table
        for text in _narrowed(out, table):
            warn(text)
        return write_table(out, table)  # exactly what anyone else reads there

    if commits is None or out is None or isinstance(work.collection, GivenModels):
        return composed(_kept_in_memory(work.metrics, units, runner, show))
    run = functools.partial(work_through, runner)
    if recruit is not None and assignment is not None:
        told = assignment._replace(kinds=tuple(sorted(kinds(units))))
        run = functools.partial(supervise, recruit, told)
    claims = Claims(commits.store)
    claims.clear(say=warn)
    sharing = Sharing(units, commits, claims, None if host is None else Share(*host))
    deed = f"table-{digest([unit.name for unit in units])}"
    claims.undo(deed)
    with claims.beating(), progress("measuring", sharing.total, show=show) as advance:
        run(sharing, advance)
        table = claims.once(
            deed, lambda: composed(_settled(work.metrics, sharing, run, advance)), lambda: read_table(out)
        )
    claims.clear()
    return table


def _joined(source: Source, options: RunOptions, out: Path | Address | None) -> Host | None:
    """Where this process is one of several of a job, which; InputError for what such processes cannot share."""
    how = options.get("distributed")
    if how is None:
        return None
    if out is None:
        raise InputError("Processes of a job share their work in the table. Name its place: --out TABLE (out=).")
    if not _is_named(source):
        raise InputError("Processes of a job share the models of a zoo. Give one, or leave distributed out.")
    if options.get("workers", 0) not in (0, "0", "auto"):
        raise InputError(
            f"workers is {options.get('workers')!r}, but the processes of a job measure themselves. Leave workers or "
            "distributed out."
        )
    return join(how)


def _is_named(source: Source) -> TypeGuard[Zoo | str | Path | Address]:
    return isinstance(source, Zoo | str | Path | Address)


def _kept_in_memory(metrics: Sequence[Metric], units: Sequence[Unit], runner: Runner, show: bool) -> Results:
    results = Results(metrics)
    with progress("measuring", sum(len(unit.keys) for unit in units), show=show) as advance:
        for unit in units:
            advance(0, title=f"measuring {unit.metric.name}")
            results.add(unit.metric, *runner.run(unit))
            advance(len(unit.keys))
    return results


def _assignment(
    source: Source,
    out: Path | Address | None,
    data: Data | None,
    preset: str,
    metrics: str | Sequence[str | Metric] | None,
    settings: Sequence[str],
    options: RunOptions,
) -> Assignment:
    """What workers are told; InputError for what they cannot be told by names."""
    if out is None or options.get("mesh") is not None:
        given = "no place for the table" if out is None else "a mesh"
        raise InputError(f"workers were asked for with {given}. Give out=, and devices= in place of a mesh.")
    names = metrics if isinstance(metrics, str | None) else tuple(metrics)
    for what, fits in (
        ("a zoo", _is_named(source)),
        ("data", isinstance(data, str | Path | None)),
        ("the task", isinstance(options.get("task"), str | None)),
        ("metrics", not isinstance(names, tuple) or all(isinstance(name, str) for name in names)),
    ):
        if not fits:
            raise InputError(f"workers are other processes and need {what} by name or path. Give that, or workers=0.")
    return Assignment(
        zoo=str(source.path if isinstance(source, Zoo) else source),
        table=str(out),
        data=None if data is None else str(data),
        preset=preset,
        metrics=names if isinstance(names, str | None) else tuple(map(str, names)),
        settings=tuple(settings),
        seed=options.get("seed", 0),
        layout=options.get("layout"),
        num_examples=options.get("num_examples"),
        task=options.get("task"),  # pyright: ignore[reportArgumentType]
        label_noise=options.get("label_noise"),
        devices=str(options.get("devices", "1")),
    )


def _settled(
    metrics: Sequence[Metric],
    sharing: Sharing,
    run: Callable[[Sharing, Callable[..., None]], None],
    advance: Callable[..., None],
) -> Results:
    """All results, measured as far as others, and former runs, have not."""
    for _ in range(_MOST_ROUNDS):
        run(sharing, advance)
        if (results := collected(metrics, sharing.units, sharing.commits, sharing.claims)) is not None:
            sharing.commits.pack_all(sharing.units)
            return results
        # A file was damaged, and is gone.
    raise InputError(
        f"What was measured does not stay as it was written in {sharing.commits.store.address}. See to that place, or "
        "choose another for --out."
    )


def _narrowed(out: Path | Address, table: Table) -> Iterator[str]:
    """What the table in the folder holds and the new one does not."""
    try:
        old = read_table(out)
    except InputError:
        return
    before, now = (
        {str(name).removesuffix("_seconds") for name in (*one.models, *one.pairs) if str(name).endswith("_seconds")}
        for one in (old, table)
    )
    if before - now:
        yield (
            f"The table {out} held {', '.join(sorted(before - now))} too, which this run was not asked for and leaves "
            "out. Name them in --metrics: what was measured is kept and not measured again."
        )
    for column, what in (("preset", "preset"), ("measure_seed", "seed")):
        was = sorted({str(value) for frame in (old.models, old.pairs) if column in frame for value in frame[column]})
        new = {str(value) for value in table.models[column]}
        if was and not set(was) <= new:
            yield f"The table {out} held {what} {', '.join(was)}; it now holds {what} {', '.join(sorted(new))} alone."
