"""Stacked models × one metric → rows: batched, spread over devices, compiled once a shape. Nothing else compiles."""

from mdjax.engine.measuring import measure
from mdjax.engine.plan import Plan, default_plan, device_mesh
from mdjax.engine.programs import Need, Programs, is_shortage, metric_key
from mdjax.engine.stacks import Stack
from mdjax.engine.targets import Target, device_shape, target_of, tpu_slice

__all__ = [
    "Need",
    "Plan",
    "Programs",
    "Stack",
    "Target",
    "default_plan",
    "device_mesh",
    "device_shape",
    "is_shortage",
    "measure",
    "metric_key",
    "target_of",
    "tpu_slice",
]
