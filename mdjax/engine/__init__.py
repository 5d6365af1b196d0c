"""Stacked models × one metric → rows: batched, spread over devices, compiled once a shape. Nothing else compiles."""

from mdjax.engine.measuring import is_shortage, measure
from mdjax.engine.plan import Plan, default_plan, device_mesh, device_shape
from mdjax.engine.programs import Need, Programs, metric_key
from mdjax.engine.stacks import Stack

__all__ = [
    "Need",
    "Plan",
    "Programs",
    "Stack",
    "default_plan",
    "device_mesh",
    "device_shape",
    "is_shortage",
    "measure",
    "metric_key",
]
