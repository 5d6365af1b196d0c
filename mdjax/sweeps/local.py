"""A zoo × metrics → a table, in this process: work split into units, each done once and kept."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import jax
import pandas as pd
from jax.sharding import Mesh

from mdjax.console import warn
from mdjax.engine import Need, Plan, Programs, default_plan, is_shortage
from mdjax.engine import measure as measure_stack
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
from mdjax.errors import InputError, check_options, check_whole, first_line
from mdjax.files import place
from mdjax.memory import process_memory
from mdjax.metrics import Metric, select
from mdjax.models import Model
from mdjax.progress import progress
from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.aggregation import APPLIED_NOISE, are_rows_of, compose, member_row, with_status
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.noise import LabelNoise, applied_noise, is_certain, label_noise_of, notice, rise
from mdjax.sweeps.sources import (
    DeviceData,
    GivenModels,
    Loaded,
    Source,
    fitting,
    loaded,
    one_at_a_time,
    opened,
    runner,
    with_copies_named,
)
from mdjax.sweeps.units import Unit, unit_name, units
from mdjax.table import Table, read_table, write_table
from mdjax.zoo.data import Data, Dataset, dataset_of
from mdjax.zoo.recorded import recorded_data
from mdjax.zoo.store import Zoo

PyTree = Any


class PlanOptions(TypedDict, total=False):
    """On what devices and data a measurement runs.

    `mesh` spreads the models over its axis "models" and, where it has one, the examples of every batch over its axis
    "data". `layout` says what the inputs of the data are (`mdjax.zoo.data.load`). `label_noise` is "known" (the
    default): training labels are redrawn with the noise that each model was trained with, which is said where the data
    may be others than those it was trained on; or 0: the labels of the data are taken as they are. `facts` says of a
    list of models how they were trained, by the names of `mdjax.sweeps.facts.KNOWN`: they become columns of the table.
    With `data_share` they count as trained on that first part of the data, with `label_noise` on labels redrawn so,
    as those of a zoo do.
    """

    mesh: Mesh | None
    layout: str | None
    label_noise: LabelNoise | None
    facts: Mapping[str, Any] | None


class RunOptions(PlanOptions, total=False):
    """How a measurement runs: on what (`PlanOptions`); `seed` moves every random number (default 0); `show_progress`
    (default True) draws a bar."""

    seed: int
    show_progress: bool


MOST_SEED = 2**32 - 1
"""The greatest seed: JAX takes 32 bits of it, so that larger ones would be others in disguise."""

_UNIT_SIZE = 16
"""Models loaded together and kept as one unit of work, where a device takes no more at a time."""


@in_32_bits
def measure(
    source: Source,
    *,
    out: str | Path | None = None,
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
    data: a Dataset, a name, a path, or the arrays (x_train, y_train, x_test, y_test) as a tuple or a dictionary
        (default: what the zoo was trained on, where `mdjax.zoo.recorded` opens it).
    model: a pure `apply(params, state, inputs) -> logits`, or an object with `apply` and `batch_apply`
        (`mdjax.models.Model`).
    preset: "default", "reference" or "fast".
    metrics: names ("losses,hessian" or a list), or metric objects with settings of their own; the table holds what was
        asked for (default: what the trees read).
    settings: texts such as "hessian.num_samples=64" that change one setting each.
    options: `seed`, `mesh`, `layout`, `label_noise`, `facts` and `show_progress`, see `RunOptions`.
    """
    check_options("measure", options, RunOptions)
    seed = options.get("seed", 0)
    check_whole("seed", seed, 0, MOST_SEED)
    out = None if out is None else place(out)
    keep_compiled_programs()
    work = _prepared(source, data, select(preset, metrics, settings), model, options)
    # The folder is tried before anything is computed.
    commits = Commits(out / "shards") if out is not None else None
    if isinstance(work.collection, GivenModels):
        commits = None
    for reason in work.collection.damaged.values():
        warn(f"{reason} Its models are left out.")
    if work.collection.fingerprint not in (None, work.dataset.fingerprint) and data is None:
        warn(f"The data {work.collection.data} has changed since the models were trained on it.")
    for text in (*work.notes, *_copies(work.manifest), *_left_out(work)):
        warn(text)
    read_group = one_at_a_time(work.collection.read_group)
    programs, device_data = Programs(work.plan), DeviceData(work.dataset, work.plan)
    noisy = next((unit for unit in work.units if unit.label_noise > 0), None)
    if noisy is not None and not work.is_certain:
        models = loaded(noisy, runner(noisy.architecture, model, work.plan), read_group)
        if (text := rise(noisy, models, device_data, programs, seed)) is not None:
            warn(text)
    results: dict[Metric, list[pd.DataFrame]] = {metric: [] for metric in work.metrics}
    problems: dict[str, Status] = {}
    failures = _Failures()
    total, show = len(work.manifest) * len(work.metrics), options.get("show_progress", True)
    with progress("measuring", total, show=show) as advance:
        for unit in work.units:
            members: Loaded | None = None
            for metric in work.metrics:
                advance(0, title=f"measuring {metric.name}")
                name = unit_name(metric, unit, work.dataset, seed)
                rows = commits.read(name) if commits else None
                if commits and rows is not None and not _are_kept(rows, metric, unit):
                    commits.discard(name)
                    rows = None
                if rows is None:
                    try:
                        members = members or loaded(unit, runner(unit.architecture, model, work.plan), read_group)
                        problems.update(members.problems)
                        rows = _measured(metric, members, device_data, unit, programs, seed)
                    except Exception as error:  # of one metric, which must not cost the others
                        rows = failures.rows(metric, unit.rows if members is None else members.rows, error)
                    # What a damaged group hides may be there next time, as may what failed or did not fit.
                    if commits and members is not None and not members.problems:
                        commits.commit(name, rows)
                results[metric].append(rows)
                advance(len(unit.rows))
    failures.tell(results)
    recipe = {"preset": preset, "measure_seed": seed}
    table = compose(work.manifest, results, problems, recipe, num_train=len(work.dataset.x_train))
    if out is not None:
        for text in _narrowed(out, table):
            warn(text)
        return write_table(out, table)  # exactly what anyone else reads there
    return table


@in_32_bits
def preview(
    source: Source,
    *,
    data: Data | None = None,
    model: Model | Any = None,
    preset: str = "default",
    metrics: str | Sequence[str | Metric] | None = None,
    settings: Sequence[str] = (),
    **options: Unpack[PlanOptions],
) -> pd.DataFrame:
    """How `measure` would run: a row per architecture and metric, by compiling its programs and running none.

    Columns: `architecture`, `metric`, `members` (models or pairs that go through it), `devices`, `convolution`,
    `batching`, `per_call` (members of one call on each device), `calls`, `memory`, the bytes that a call takes on
    each device by the compiler's own account, and `process_memory`, the most that the process takes of the host's
    memory by then: what it holds now, code and data included, the models that are loaded together, and on CPUs the
    call (to within 15 % by `bench/memory.py`). The compiled programs are kept for the run to come. Arguments and
    errors are those of `measure`; options: `mesh`, `layout`, `label_noise` and `facts`, see `PlanOptions`.
    """
    check_options("preview", options, PlanOptions)
    keep_compiled_programs()
    work = _prepared(source, data, select(preset, metrics, settings), model, options)
    plan, rows, largest = work.plan, [], 0
    programs, device_data = Programs(plan), DeviceData(work.dataset, plan)
    by_architecture: dict[Any, list[Unit]] = {}
    for unit in work.units:
        by_architecture.setdefault(unit.architecture, []).append(unit)
    for architecture, members in by_architecture.items():
        if architecture is None:
            weights = jax.tree.map(lambda leaf: leaf[0], work.collection.read_group("given"))
        else:
            weights = architecture.abstract
        for metric in work.metrics:
            counts = [len(metric.runs(_members(metric, unit.rows))) for unit in members]
            if not sum(counts):
                continue
            called = runner(architecture, model, plan)
            need = programs.need(metric, called, weights, device_data.examples(members[0]), max(counts))
            per_call = need.chunk_size * plan.num_shards
            largest = max(largest, _process_bytes(work, members, weights, need))
            rows.append(
                {
                    "architecture": "given" if architecture is None else f"{architecture.family}-w{architecture.width}",
                    "metric": metric.name,
                    "members": sum(counts),
                    "devices": 1 if plan.mesh is None else plan.mesh.size,
                    "convolution": plan.convolution,
                    "batching": plan.batching_of(need.chunk_size),
                    "per_call": need.chunk_size,
                    "calls": sum(-(-count // per_call) for count in counts),
                    "memory": need.bytes,
                    "process_memory": largest,
                }
            )
    return pd.DataFrame(rows)


def _process_bytes(work: "_Work", members: Sequence[Unit], weights: PyTree, need: Need) -> int:
    """The most that the process takes of the host's memory while a program runs that has just been compiled.

    weights: arrays or shapes of one model of these units.
    """
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    groups = work.manifest["group"].value_counts()
    loaded_models = max(len(unit.rows) + max(groups[group] for group in set(unit.rows["group"])) for unit in members)
    memory = process_memory()
    if isinstance(work.collection, GivenModels):
        loaded_models = max(len(unit.rows) for unit in members)  # the list itself is there already
    call = need.added_bytes * (1 if work.plan.mesh is None else work.plan.mesh.size)
    if jax.default_backend() != "cpu":
        call = need.chunk_size * work.plan.num_shards * each
    return loaded_models * each + max(memory.now + call, memory.most)


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is to be measured, on what, in which order and how."""

    collection: Zoo | GivenModels
    dataset: Dataset
    manifest: pd.DataFrame
    metrics: tuple[Metric, ...]
    units: list[Unit]
    plan: Plan
    is_certain: bool  # that the models were trained on these labels, with the noise that is known of them
    notes: tuple[str, ...]  # what is to be said of the data


def _prepared(
    source: Source, data: Data | None, metrics: tuple[Metric, ...], model: Any, options: PlanOptions
) -> _Work:
    plan, noise = default_plan(options.get("mesh")), label_noise_of(options.get("label_noise"))
    collection = opened(source, model, metrics, options.get("facts"))
    if data is None and not collection.data:
        raise InputError("No data to measure on. Name it: --data NAME|PATH, or data= in Python.")
    layout = options.get("layout")
    if data is None and isinstance(collection, Zoo):
        dataset = recorded_data(collection, layout)
    else:
        dataset = dataset_of(collection.data if data is None else data, layout)
    manifest = with_copies_named(collection.manifest)
    if manifest.empty:
        raise InputError(f"{source} holds no model that can be read. Train or convert some into it first.")
    called = runner(None, model, plan) if isinstance(collection, GivenModels) else None
    dataset, notes = fitting(collection, called, dataset)
    applied = applied_noise(manifest, noise)
    known = is_certain(collection, data, dataset)
    if not known and (text := notice(applied, noise, dataset)) is not None:
        notes = (*notes, text)
    limit = max(_UNIT_SIZE, plan.models_per_call)
    members = list(units(manifest.assign(label_noise=applied), dataset, limit))
    manifest = manifest.assign(**{APPLIED_NOISE: applied})
    return _Work(collection, dataset, manifest, metrics, members, plan, known, notes)


class _Failures:
    """Metrics that raised: their rows say so, and where nothing else was measured the error is the user's."""

    def __init__(self) -> None:
        self._errors: dict[Metric, Exception] = {}

    def rows(self, metric: Metric, models: pd.DataFrame, error: Exception) -> pd.DataFrame:
        """The rows of a unit that failed: nothing but a status. `models` are those of the manifest."""
        if is_shortage(error):
            status = Status(StatusCode.TOO_LARGE, f"memory ran out: {_reason(error)}")
        else:
            self._errors.setdefault(metric, error)
            status = Status(StatusCode.FAILED, f"{metric.name} failed: {_reason(error)}")
        members = _members(metric, models)
        return pd.DataFrame([member_row(models, member) | with_status({"status": status}) for member in members])

    def tell(self, results: Mapping[Metric, Sequence[pd.DataFrame]]) -> None:
        """Warn of each metric that failed or lacked memory; raise the error where all rows of all metrics failed."""
        for metric, parts in results.items():
            count = sum(int((part["status_code"] == StatusCode.TOO_LARGE).sum()) for part in parts if len(part))
            if count:
                warn(
                    f"{metric.name} lacked memory for {count} of its {metric.frame}. Their rows say so; the same "
                    "command tries them again when there is more."
                )
        frames = [part for parts in results.values() for part in parts if len(part)]
        if self._errors and all((part["status_code"] == StatusCode.FAILED).all() for part in frames):
            error = next(iter(self._errors.values()))
            raise error if isinstance(error, InputError) else InputError(f"{_reason(error)}.") from error
        for metric, error in self._errors.items():
            warn(f"{metric.name} failed: {_reason(error)}. Its rows say so in their status.")


def _reason(error: Exception) -> str:
    return first_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"


def _copies(manifest: pd.DataFrame) -> Iterator[str]:
    """Which models have the weights of others of their configuration."""
    copies = manifest[manifest["status_code"] == StatusCode.COPY]
    if len(copies):
        listed = "; ".join(f"{name} is {text}" for name, text in zip(copies["model_id"][:3], copies["status"]))
        more = f"; and {len(copies) - 3} more" if len(copies) > 3 else ""
        yield f"Models with the same weights count once, not as seeds: {listed}{more}."


def _left_out(work: _Work) -> Iterator[str]:
    """Which configurations have more pairs of models than are compared."""
    for unit in work.units:
        for name, count in unit.rows["configuration"].value_counts(sort=False).items():
            hit = [metric.name for metric in work.metrics if metric.leaves_out_pairs(count)]
            if hit:
                yield (
                    f"{name} has {count:,} models, which make {math.comb(count, 2):,} pairs: {', '.join(hit)} compares "
                    "each model with the next ones only. If they are no seeds of each other, name their configurations."
                )


def _narrowed(out: Path, table: Table) -> Iterator[str]:
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


def _members(metric: Metric, rows: pd.DataFrame) -> list[tuple[int, ...]]:
    return metric.members(rows["configuration"].tolist(), rows["seed_index"].tolist())


def _are_kept(rows: pd.DataFrame, metric: Metric, unit: Unit) -> bool:
    """Whether rows that were kept are a metric's of a unit, whose models stand in the order of loading."""
    models = unit.rows.sort_values(["configuration", "seed"])
    return are_rows_of(rows, metric, models, _members(metric, models))


def _measured(
    metric: Metric, models: Loaded, data: DeviceData, unit: Unit, programs: Programs, seed: int
) -> pd.DataFrame:
    """The rows of one metric on one unit: of models, or of pairs."""
    members = _members(metric, models.rows)
    if not members:
        return pd.DataFrame()
    found = measure_stack(metric, models.stack, data.examples(unit), members, seed=seed, programs=programs, timed=True)
    rows = zip(members, found, strict=True)
    return pd.DataFrame([member_row(models.rows, member) | with_status(columns) for member, columns in rows])
