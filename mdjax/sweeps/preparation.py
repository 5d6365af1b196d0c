"""Arguments of a measurement → what is to be measured, on what, in which units: the same for a run and for its plan."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypedDict

import pandas as pd
from jax.sharding import Mesh

from mdjax.columns import EXAMPLES, TASK
from mdjax.engine import Plan, Target, default_plan
from mdjax.errors import InputError
from mdjax.metrics import Metric
from mdjax.statuses import StatusCode
from mdjax.sweeps.aggregation import APPLIED_NOISE
from mdjax.sweeps.noise import LabelNoise, applied_noise, is_certain, label_noise_of, notice
from mdjax.sweeps.sources import GivenModels, Source, fitting, opened, runner, with_copies_named
from mdjax.sweeps.streams import check_can_go_through
from mdjax.sweeps.units import Cell, Unit, cells, units
from mdjax.tasks import CLASSIFICATION, Task
from mdjax.zoo.data import Data, Dataset, dataset_of
from mdjax.zoo.draws import draw_of
from mdjax.zoo.recorded import recorded_data
from mdjax.zoo.store import Zoo

_UNIT_SIZE = 32
"""Models or pairs of a unit of work, for each device that they are spread over: whatever the device, so that processes
on different machines name the same units."""


class PlanOptions(TypedDict, total=False):
    """On what devices and data a measurement runs.

    `mesh` spreads the models over its axis "models" and, where it has one, the examples of every batch over its axis
    "data". `num_examples` measures on as many of the training and of the test examples at most, drawn by `seed`, the
    same for all models (`mdjax.zoo.draws`); all where it is not given. `layout` says what the inputs of the data are
    (`mdjax.zoo.data.load`), `task` what the models are asked, by name or as a `mdjax.tasks.Task` (default: which
    class). `label_noise` is "known" (the default): training labels are redrawn with the noise that each model was
    trained with, which is said where the data may be others than those it was trained on; or 0: the labels of the data
    are taken as they are. `facts` says of a list of models how they were trained, by the names of
    `mdjax.sweeps.facts.KNOWN`: they become columns of the table. With `data_share` they
    count as trained on that first part of the data, with `label_noise` on labels redrawn so, as those of a zoo do.
    """

    mesh: Mesh | None
    num_examples: int | None
    layout: str | None
    task: Task | str | None
    label_noise: LabelNoise | None
    facts: Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be measured, on what and how."""

    collection: Zoo | GivenModels
    dataset: Dataset
    manifest: pd.DataFrame
    metrics: tuple[Metric, ...]
    cells: list[Cell]
    plan: Plan
    seed: int
    num_groups: int  # devices over which the models of a unit are spread
    is_certain: bool  # that the models were trained on these labels, with the noise that is known of them
    notes: tuple[str, ...]  # what is to be said of the data

    def units(self, metric: Metric) -> list[Unit]:
        """The units of a metric, cell by cell."""
        limit = _UNIT_SIZE * self.num_groups
        return [unit for cell in self.cells for unit in units(metric, cell, limit, self.dataset, self.seed)]

    def notices(self) -> Iterator[str]:
        """What is to be said before it begins."""
        for reason in self.collection.damaged.values():
            yield f"{reason} Its models are left out."
        yield from self.notes
        yield from _copies(self.manifest)
        for cell in self.cells:
            yield from _left_out(cell, self.metrics)


def prepared(
    source: Source,
    data: Data | None,
    metrics: tuple[Metric, ...],
    model: Any,
    options: PlanOptions,
    seed: int = 0,
    target: Target | None = None,
) -> Work:
    """The work that the arguments of `mdjax.sweeps.local.measure` stand for, checked; InputError for what is wrong.

    With a `target` it is for devices that are not here: to be planned, not to be run.
    """
    plan, noise = default_plan(options.get("mesh"), target), label_noise_of(options.get("label_noise"))
    collection = opened(source, model, metrics, options.get("facts"))
    if data is None and not collection.data:
        raise InputError("No data to measure on. Name it: --data NAME|PATH, or data= in Python.")
    told = options.get("layout"), options.get("task"), draw_of(options.get("num_examples"), seed)
    if data is None and isinstance(collection, Zoo):
        dataset = recorded_data(collection, *told)
    else:
        dataset = dataset_of(collection.data if data is None else data, *told)
    manifest = with_copies_named(collection.manifest)
    if manifest.empty:
        raise InputError(f"{source} holds no model that can be read. Train or convert some into it first.")
    called = runner(None, model, plan) if isinstance(collection, GivenModels) else None
    dataset, notes = fitting(collection, called, dataset)
    applied = applied_noise(manifest, noise)
    known = is_certain(collection, data, dataset)
    if collection.fingerprint not in (None, "", dataset.whole_fingerprint) and data is None:
        notes = (f"The data {collection.data} has changed since the models were trained on it.", *notes)
    if not known and (text := notice(applied, noise, dataset)) is not None:
        notes = (*notes, text)
    check_can_go_through(metrics, dataset)
    notes = (*notes, *_sampled(dataset))
    parts = cells(manifest.assign(label_noise=applied), dataset)
    manifest = manifest.assign(**{APPLIED_NOISE: applied})
    if dataset.task != CLASSIFICATION:
        manifest = manifest.assign(**{TASK: dataset.task.name})
    if dataset.drawn is not None:
        manifest = manifest.assign(**{EXAMPLES: dataset.num_train})
    return Work(collection, dataset, manifest, metrics, parts, plan, seed, plan.num_groups, known, notes)


def _sampled(dataset: Dataset) -> Iterator[str]:
    """What is to be said of a sample."""
    if dataset.drawn is not None and dataset.drawn.own_scale:
        yield (
            f"The pixels of {dataset.name} are standardised by the mean and deviation of the "
            f"{dataset.num_train} examples drawn, not by those of all {dataset.num_source}. Where the models were "
            "trained with others, put them beside the arrays (mean and std of an .npz or a folder of .npy), or give "
            "mdjax.zoo.data.load(..., mean=, std=) in Python."
        )


def _copies(manifest: pd.DataFrame) -> Iterator[str]:
    """Which models have the weights of others of their configuration."""
    copies = manifest[manifest["status_code"] == StatusCode.COPY]
    if len(copies):
        listed = "; ".join(f"{name} is {text}" for name, text in zip(copies["model_id"][:3], copies["status"]))
        more = f"; and {len(copies) - 3} more" if len(copies) > 3 else ""
        yield f"Models with the same weights count once, not as seeds: {listed}{more}."


def _left_out(cell: Cell, metrics: Sequence[Metric]) -> Iterator[str]:
    """Which configurations have more pairs of models than are compared."""
    for name, count in cell.rows["configuration"].value_counts(sort=False).items():
        hit = [metric.name for metric in metrics if metric.leaves_out_pairs(count)]
        if hit:
            yield (
                f"{name} has {count:,} models, which make {math.comb(count, 2):,} pairs: {', '.join(hit)} compares "
                "each model with the next ones only. If they are no seeds of each other, name their configurations."
            )
