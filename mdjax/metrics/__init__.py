"""The metrics: frozen settings with what they measure, each in one file.

A metric sees one model (or pair); the engine adds the model axis, compiles and shards. To add one, subclass one of the
base classes of `contract` and put the class into `registry.METRICS`; `docs/metrics.md` has a whole one.
"""

from mdjax.metrics.cka import CKA, PublishedCKA
from mdjax.metrics.connectivity import LinearConnectivity, ModeConnectivity, PublishedModeConnectivity
from mdjax.metrics.contract import Examples, FeatureMetric, Metric, ModelMetric, PairMetric, Raw
from mdjax.metrics.density import Density
from mdjax.metrics.hessian import Hessian
from mdjax.metrics.losses import Losses
from mdjax.metrics.published_hessian import PublishedHessian
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
