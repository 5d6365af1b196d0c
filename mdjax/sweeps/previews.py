"""How a measurement would run and what it takes, by compiling its programs and running none."""

from collections.abc import Sequence
from typing import Any, Unpack

import jax
import pandas as pd

from mdjax.engine import Need, Programs
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs
from mdjax.errors import check_options
from mdjax.memory import process_memory
from mdjax.metrics import Metric, select
from mdjax.models import Model
from mdjax.sweeps.preparation import PlanOptions, Work, prepared
from mdjax.sweeps.sources import RECENT_BYTES, DeviceData, GivenModels, Source, runner
from mdjax.sweeps.units import Cell, Unit
from mdjax.zoo.data import Data

PyTree = Any


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
    work = prepared(source, data, select(preset, metrics, settings), model, options)
    plan, rows, largest = work.plan, [], 0
    units: dict[tuple[Any, Metric], list[Unit]] = {}
    for metric in work.metrics:
        for unit in work.units(metric):
            units.setdefault((unit.cell.architecture, metric), []).append(unit)
    programs, device_data = Programs(plan), DeviceData(work.dataset, plan)
    by_architecture: dict[Any, list[Cell]] = {}
    for cell in work.cells:
        by_architecture.setdefault(cell.architecture, []).append(cell)
    for architecture, own in by_architecture.items():
        if architecture is None:
            weights = jax.tree.map(lambda leaf: leaf[0], work.collection.read_group("given"))
        else:
            weights = architecture.abstract
        for metric in work.metrics:
            if not (members := units.get((architecture, metric), [])):
                continue
            counts = [len(metric.runs(unit.members)) for unit in members]
            called = runner(architecture, model, plan)
            need = programs.need(metric, called, weights, device_data.examples(own[0]), max(counts))
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


def _process_bytes(work: Work, members: Sequence[Unit], weights: PyTree, need: Need) -> int:
    """The most that the process takes of the host's memory while a program runs that has just been compiled.

    weights: arrays or shapes of one model of these units.
    """
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    groups = work.manifest["group"].value_counts()

    def loaded_models(unit: Unit) -> int:
        indices = {index for member in unit.members for index in member}
        if isinstance(work.collection, GivenModels):
            return len(indices)  # the list itself is there already
        return len(indices) + max(groups[unit.cell.groups[index]] for index in indices)

    memory = process_memory()
    call = need.added_bytes * (1 if work.plan.mesh is None else work.plan.mesh.size)
    if jax.default_backend() != "cpu":
        call = need.chunk_size * work.plan.num_shards * each
    kept = min(RECENT_BYTES, (len(work.manifest) - int(groups.iloc[0])) * each)
    return kept + max(map(loaded_models, members)) * each + max(memory.now + call, memory.most)
