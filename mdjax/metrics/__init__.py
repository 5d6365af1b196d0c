"""The metrics: frozen settings with what they measure, and the names of their columns.

A metric sees one model (or pair); the engine adds the model axis, compiles and shards. Each comes in two halves: one
is traced by JAX and returns arrays, the other turns them into numbers on the host in float64 (see `contract`). To add
one, write a frozen dataclass that keeps one of the contracts and put it into `METRICS`.
"""

from mdjax.metrics.cka import CKA, PublishedCKA
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity, PublishedModeConnectivity
from mdjax.metrics.contract import Examples, FeatureMetric, Metric, ModelMetric, PairMetric, Raw
from mdjax.metrics.density import Density
from mdjax.metrics.hessian import Hessian, PublishedHessian
from mdjax.metrics.losses import Losses
from mdjax.metrics.registry import METRICS, PRESETS, select
from mdjax.metrics.similarity import Similarity
from mdjax.metrics.surface import Surface

__all__ = [
    "CKA",
    "METRICS",
    "PRESETS",
    "Density",
    "Examples",
    "FeatureMetric",
    "Hessian",
    "LinearConnectivity",
    "Losses",
    "Metric",
    "ModeConnectivity",
    "ModelMetric",
    "PairMetric",
    "PublishedCKA",
    "PublishedHessian",
    "PublishedModeConnectivity",
    "Raw",
    "Similarity",
    "Surface",
    "select",
]
