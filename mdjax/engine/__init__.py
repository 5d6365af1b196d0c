"""Stacked models × one metric → rows: batched, spread over devices, compiled once a shape. Nothing else compiles."""

from mdjax.engine.plan import Plan, default_plan, device_mesh
from mdjax.engine.programs import compare_models, measure_models, measure_pairs, memory_need, metric_key

__all__ = [
    "Plan",
    "compare_models",
    "default_plan",
    "device_mesh",
    "measure_models",
    "measure_pairs",
    "memory_need",
    "metric_key",
]
