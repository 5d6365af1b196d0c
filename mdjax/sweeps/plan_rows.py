"""A sweep → the rows of its plan: an architecture and a metric each, with the units that they are measured in."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from mdjax.engine import Plan
from mdjax.metrics import Metric
from mdjax.models import Model
from mdjax.sweeps.preparation import Work
from mdjax.sweeps.sources import runner
from mdjax.sweeps.units import Unit

PyTree = Any


class PlanRow(NamedTuple):
    """An architecture and a metric.

    architecture: as plans name it, such as "resnet18-w8".
    metric: what is measured.
    model: what the weights are called with.
    weights: arrays or shapes of one model.
    units: in which it is measured.
    counts: how many runs (models or pairs) each of them has.
    """

    architecture: str
    metric: Metric
    model: Model
    weights: PyTree
    units: list[Unit]
    counts: list[int]

    def calls(self, plan: Plan, chunk_size: int) -> list[int]:
        """How many calls each unit takes, of so many runs on each device."""
        return [-(-count // (chunk_size * plan.num_groups)) for count in self.counts]

    def columns(self, plan: Plan, chunk_size: int) -> dict[str, Any]:
        """What stands in the plan whatever devices it is for."""
        return {
            "architecture": self.architecture,
            "metric": self.metric.name,
            "members": sum(self.counts),
            "units": len(self.units),
            "devices": 1 if plan.mesh is None else plan.mesh.size,
            **({"shards": plan.num_shards} if plan.num_shards > 1 else {}),
            "convolution": plan.convolution,
            "batching": plan.batching_of(chunk_size),
            "per_call": chunk_size,
            "calls": sum(self.calls(plan, chunk_size)),
        }


def plan_rows(work: Work, model: Any) -> Iterator[PlanRow]:
    """The rows of a sweep's plan; `model` is how models given in Python are called."""
    units: dict[tuple[Any, Metric], list[Unit]] = {}
    for metric in work.metrics:
        for unit in work.units(metric):
            units.setdefault((unit.cell.architecture, metric), []).append(unit)
    for architecture in dict.fromkeys(cell.architecture for cell in work.cells):
        if architecture is None:
            weights = jax.tree.map(lambda leaf: leaf[0], work.collection.read_group("given"))
        else:
            weights = architecture.abstract
        name = "given" if architecture is None else f"{architecture.family}-w{architecture.width}"
        for metric in work.metrics:
            if own := units.get((architecture, metric)):
                counts = [len(metric.runs(unit.members)) for unit in own]
                yield PlanRow(name, metric, runner(architecture, model, work.plan), weights, own, counts)
