"""What a metric is to the engine: three contracts, by what a metric looks at."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import jax

from mdjax.landscape.batches import LabelledExamples
from mdjax.models import Model

PyTree = Any
Raw = Mapping[str, Any]
"""What a metric's traced half returns for one model or pair: arrays by name."""


class Examples(NamedTuple):
    """The data a model is measured on: its own training examples are the first `num_train` of the train arrays."""

    x_train: jax.Array
    y_train: jax.Array
    num_train: jax.Array
    x_test: jax.Array
    y_test: jax.Array

    @property
    def train(self) -> LabelledExamples:
        """The model's own training examples."""
        return LabelledExamples(self.x_train, self.y_train, self.num_train)

    @property
    def test(self) -> LabelledExamples:
        """All test examples."""
        return LabelledExamples(self.x_test, self.y_test, len(self.x_test))


class ModelMetric(Protocol):
    """A metric of one model; `scope` is "model"."""

    name: ClassVar[str]
    scope: ClassVar[str]

    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw: ...

    def columns(self, raw: Raw) -> dict[str, Any]: ...


class PairMetric(Protocol):
    """A metric of two models of a configuration, each given as (params, state); `scope` is "pair".

    `pairs` says which: "disjoint" (places 0 and 1, 2 and 3, ...), "first" (places 0 and 1), "all", or "ordered"
    (all, in both orders).
    """

    name: ClassVar[str]
    scope: ClassVar[str]

    @property
    def pairs(self) -> str: ...

    def measure(
        self,
        model: Model,
        first: tuple[PyTree, PyTree],
        second: tuple[PyTree, PyTree],
        data: Examples,
        key: jax.Array,
    ) -> Raw: ...

    def columns(self, raw: Raw) -> dict[str, Any]: ...


class FeatureMetric(Protocol):
    """A metric of every two models of a configuration that needs one pass per model; `scope` is "features".

    `inputs` are drawn once for all models; `features` is one model's pass over them, `compare` what the host makes
    of two models' features in float64.
    """

    name: ClassVar[str]
    scope: ClassVar[str]

    def inputs(self, data: Examples, key: jax.Array) -> PyTree: ...

    def features(self, model: Model, params: PyTree, state: PyTree, inputs: PyTree) -> Raw: ...

    def compare(self, first: Raw, second: Raw) -> dict[str, Any]: ...


Metric = ModelMetric | PairMetric | FeatureMetric
