"""How a measurement would run and what it takes, by compiling its programs and running none."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack

import jax
import pandas as pd

from mdjax.addresses import Address
from mdjax.engine import Need, Programs, Target, target_of
from mdjax.engine.compilation import in_32_bits, keep_compiled_programs, keeping_no_programs
from mdjax.errors import InputError, check_options
from mdjax.files import table_place
from mdjax.memory import process_memory
from mdjax.metrics import Metric, select
from mdjax.models import Model
from mdjax.stores import store_of
from mdjax.sweeps.forecasts import Forecast
from mdjax.sweeps.plan_rows import plan_rows
from mdjax.sweeps.preparation import PlanOptions, Work, prepared
from mdjax.sweeps.sources import RECENT_BYTES, DeviceData, GivenModels, Source
from mdjax.sweeps.target_plans import target_rows
from mdjax.sweeps.units import Unit
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
    target: str | Target | None = None,
    out: str | Path | Address | None = None,
    seed: int = 0,
    **options: Unpack[PlanOptions],
) -> pd.DataFrame:
    """How `measure` would run: a row per architecture and metric, by compiling its programs and running none.

    Columns: `architecture`, `metric`, `members` (models or pairs that go through it), `units` (of work that they make,
    which processes share and which are kept), `devices`, `convolution`,
    `batching`, `per_call` (members of one call on each device), `calls`, `memory`, the bytes that a call takes on
    each device by the compiler's own account, and `process_memory`, the most that the process takes of the host's
    memory by then: what it holds now, code and data included, the models that are loaded together, and on CPUs the
    call (to within 15 % by `bench/memory.py`). The compiled programs are kept for the run to come. Arguments and
    errors are those of `measure`; options: `mesh`, `layout`, `label_noise` and `facts`, see `PlanOptions`.

    With `out`, a table that is read and not written, each row has `left` too, the members that are not measured there
    yet with this seed, and `seconds`, about how long one process takes for them by what is (`mdjax.sweeps.forecasts`).

    With a target, such as "tpu:v5e-16" or "cuda:h100" (`mdjax.engine.target_of`), programs are compiled for those
    devices, which are not here, and not kept. The columns after `calls` are then those of
    `mdjax.sweeps.target_plans.target_rows`: memory, whether it fits, collectives, compile time and least run time.
    """
    check_options("preview", options, PlanOptions)
    if target is not None and options.get("mesh") is not None:
        raise InputError(
            "Both mesh and target were given, and a target has a mesh of its own. Give its shape with it: "
            "target=mdjax.engine.target_of('tpu:v5e-16', '4x4')."
        )
    chosen = select(preset, metrics, settings)
    if target is None:
        keep_compiled_programs()
        forecast = None if out is None else Forecast(store_of(table_place(out)))
        return pd.DataFrame(_rows(prepared(source, data, chosen, model, options, seed), model, forecast))
    if out is not None:
        raise InputError(f"What is left in {out} was measured elsewhere than on {target}. Give out or target.")
    target = target if isinstance(target, Target) else target_of(target)
    with keeping_no_programs():
        work = prepared(source, data, chosen, model, options, target=target)
        return pd.DataFrame(target_rows(work, target, model))


def _rows(work: Work, model: Any, forecast: Forecast | None) -> Iterator[dict[str, Any]]:
    plan, largest = work.plan, 0
    programs, device_data = Programs(plan), DeviceData(work.dataset, plan)
    for row in plan_rows(work, model):
        data = device_data.examples(row.units[0].cell)
        need = programs.need(row.metric, row.model, row.weights, data, max(row.counts))
        largest = max(largest, _process_bytes(work, row.units, row.weights, need))
        columns = row.columns(plan, need.chunk_size) | {"memory": need.bytes, "process_memory": largest}
        yield columns | ({} if forecast is None else forecast.columns(row))


def _process_bytes(work: Work, members: Sequence[Unit], weights: PyTree, need: Need) -> int:
    """The most that the process takes of the host's memory while a program runs that has just been compiled.

    weights: arrays or shapes of one model of these units.
    """
    each = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    groups = work.manifest["group"].value_counts().to_dict()

    def loaded_models(unit: Unit) -> int:
        indices = {index for member in unit.members for index in member}
        if isinstance(work.collection, GivenModels):
            return len(indices)  # the list itself is there already
        return len(indices) + max(groups[group] for group in {unit.cell.groups[index] for index in indices})

    memory = process_memory()
    call = need.added_bytes * (1 if work.plan.mesh is None else work.plan.mesh.size)
    if work.plan.platform != "cpu":
        call = need.chunk_size * work.plan.num_groups * each
    kept = min(RECENT_BYTES, (len(work.manifest) - max(groups.values())) * each)
    return kept + max(map(loaded_models, members)) * each + max(memory.now + call, memory.most)
