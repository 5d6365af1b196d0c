"""What a metric is to the engine, to the table and to its readers: one base class for each thing a metric looks at.

A metric is a frozen dataclass of settings that subclasses `ModelMetric`, `PairMetric` or `FeatureMetric`, all in one
file. It says its `name`, its one-line `description` and the `features` that a configuration gets from it, and comes in
two halves: one is traced by JAX and returns arrays, the other turns them into numbers on the host, in float64. The base
class knows which models a row is about and how the traced half is called on them; nothing else asks what kind of
metric it has.
"""

import abc
import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax

from mdjax.columns import Feature
from mdjax.landscape.batches import LabelledExamples, count_of
from mdjax.models import Model
from mdjax.statuses import Status
from mdjax.tasks import CLASSIFICATION, Task

PyTree = Any
Raw = Mapping[str, Any]
"""What a metric's traced half returns: arrays by name."""

Weights = tuple[PyTree, PyTree]
"""One model's (params, state)."""

Member = tuple[int, ...]
"""What one row is about: the index of a model in its stack, or those of a pair."""

Pairs = Literal["disjoint", "first", "all", "ordered"]
"""Which pairs of a configuration's models: those of seeds 0 and 1, 2 and 3, ...; that of seeds 0 and 1; all; or all, in
both orders. Of more than `MAX_PAIRS` pairs, each model is compared with as many of the next ones, in a circle."""

MAX_PAIRS = 1000
"""The most pairs of one configuration that are compared, in one order; at least one for each model."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("x_train", "y_train", "num_train", "x_test", "y_test"),
    meta_fields=("task", "is_sample"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """The data a model is measured on: its own training examples are the first `num_train` of the train arrays.

    x_train, y_train, x_test, y_test: inputs and targets, pytrees of arrays [n, ...].
    task: what the model is asked for them; part of the pytree's structure, as is the next.
    is_sample: whether they were drawn from more of them.
    """

    x_train: PyTree
    y_train: PyTree
    num_train: jax.Array
    x_test: PyTree
    y_test: PyTree
    task: Task = CLASSIFICATION
    is_sample: bool = False

    @property
    def train(self) -> LabelledExamples:
        """The model's own training examples."""
        return LabelledExamples(self.x_train, self.y_train, self.num_train, self.task)

    @property
    def splits(self) -> dict[str, LabelledExamples]:
        """Both by name; without "test" where there are no test examples."""
        return {"train": self.train, **({"test": self.test} if count_of(self.x_test) else {})}

    @property
    def test(self) -> LabelledExamples:
        """All test examples."""
        return LabelledExamples(self.x_test, self.y_test, count_of(self.x_test), self.task)


class Metric(abc.ABC):
    """What all metrics have in common; subclass one of the three below."""

    name: ClassVar[str]
    """As `--metrics` and the columns of seconds call it; also seeds its random numbers."""

    description: ClassVar[str]
    """One line for the command line's help."""

    features: ClassVar[tuple[Feature, ...]] = ()
    """What a configuration gets from it, and how that is made from the rows of its models or pairs."""

    frame: ClassVar[Literal["models", "pairs"]]
    """Which of the table's frames its rows stand in."""

    weight: ClassVar[float] = 1.0
    """About how many times as long as the losses of a model one run takes: for the order of work, nothing else."""

    by_default: ClassVar[bool] = False
    """Whether it is measured where no metrics are named."""

    reestimates_statistics: ClassVar[bool] = False
    """Whether it needs a model's `batch_apply`."""

    draws_inputs: ClassVar[bool] = False
    """Whether its traced half sees inputs drawn once for all models in place of the data."""

    tpu_precision: ClassVar[Literal["highest", "high"]] = "highest"
    """Of float32 products on a TPU, which makes them of six in bfloat16 ("highest") or of three ("high"): then with a
    relative error of 7e-6 to 1.2e-5 in products with a Hessian and of 2e-7 to 8e-7 in a mean loss
    (`bench/precision.py`). Other devices compute in float32."""

    compiles_lightly: ClassVar[bool] = False
    """Whether a CPU's compiler is to leave out its fusion emitters: for a large program whose time is in products of
    matrices, which compiles faster and runs as fast. What is bound by elementwise work runs slower without them."""

    @classmethod
    def of_preset(cls, preset: str) -> "Metric":
        """The metric with the settings of a preset; as it is, unless it says otherwise."""
        return cls()

    def derived(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """Columns of configurations that follow from its features: name → series, given name → series."""
        return {}

    def leaves_out_pairs(self, num_models: int) -> bool:
        """Whether so many models of a configuration make more pairs than are compared."""
        return False

    @abc.abstractmethod
    def members(self, configurations: Sequence[str], seeds: Sequence[int]) -> list[Member]:
        """The members to measure in a stack, given each model's configuration and its index among the seeds there."""

    def runs(self, members: Sequence[Member]) -> list[Member]:
        """The models that the traced half is called on together, once each, for these members."""
        return list(members)

    def runs_of(self, member: Member) -> tuple[Member, ...]:
        """The runs whose results make the row of one member."""
        return (member,)

    def shared(self, data: Examples, key: jax.Array) -> PyTree:
        """What every run is given; traced where `draws_inputs` is set."""
        return data

    @abc.abstractmethod
    def run(self, model: Model, weights: tuple[Weights, ...], shared: PyTree, key: jax.Array) -> Raw:
        """Call the traced half on one run's models.

        model: the network, `apply(params, state, inputs)`.
        weights: (params, state) of each model of the run.
        shared: what `shared` returns.
        key: of this run alone.
        """

    def explained(self, status: Status, model: Model, weights: tuple[Weights, ...], data: Examples) -> Status:
        """A status of a row, with its cause where the models themselves can tell it; on the host, nothing is traced.

        status: what `row` says.
        model: the network.
        weights: (params, state) of each model that the row is about.
        data: the examples.
        """
        return status

    @abc.abstractmethod
    def row(self, raws: Sequence[Raw]) -> dict[str, Any]:
        """One member's columns, from the results of its runs.

        `status` may hold a `mdjax.statuses.Status`; without it a number that is not finite gives the row one.
        """


class ModelMetric(Metric):
    """A metric of one model: `measure` is traced, `columns` makes numbers of what it returns."""

    frame = "models"

    @abc.abstractmethod
    def measure(self, model: Model, params: PyTree, state: PyTree, data: Examples, key: jax.Array) -> Raw:
        """The traced half: arrays by name for one model.

        model: the network, `apply(params, state, inputs[b, ...]) -> outputs[b, ...]`.
        params, state: pytrees of its arrays, without a model axis.
        data: the examples; the model's own are the first `data.num_train` (traced) of the train arrays.
        key: random numbers of this model and metric.
        """

    @abc.abstractmethod
    def columns(self, raw: Raw) -> dict[str, Any]:
        """The model's columns, on the host."""

    def members(self, configurations: Sequence[str], seeds: Sequence[int]) -> list[Member]:
        return [(index,) for index in range(len(configurations))]

    def run(self, model: Model, weights: tuple[Weights, ...], shared: PyTree, key: jax.Array) -> Raw:
        ((params, state),) = weights
        return self.measure(model, params, state, shared, key)

    def row(self, raws: Sequence[Raw]) -> dict[str, Any]:
        return self.columns(raws[0])


class PairMetric(Metric):
    """A metric of two models of a configuration, each given as (params, state); `pairs` says which."""

    frame = "pairs"
    pairs: Pairs

    @abc.abstractmethod
    def measure(self, model: Model, first: Weights, second: Weights, data: Examples, key: jax.Array) -> Raw:
        """The traced half: arrays by name for one pair.

        model: the network, as in `ModelMetric.measure`.
        first, second: (params, state) of each.
        data: the examples.
        key: random numbers of this pair and metric.
        """

    @abc.abstractmethod
    def columns(self, raw: Raw) -> dict[str, Any]:
        """The pair's columns, on the host."""

    def leaves_out_pairs(self, num_models: int) -> bool:
        return self.pairs in ("all", "ordered") and math.comb(num_models, 2) > MAX_PAIRS

    def members(self, configurations: Sequence[str], seeds: Sequence[int]) -> list[Member]:
        return pairs_within(configurations, seeds, self.pairs)

    def run(self, model: Model, weights: tuple[Weights, ...], shared: PyTree, key: jax.Array) -> Raw:
        first, second = weights
        return self.measure(model, first, second, shared, key)

    def row(self, raws: Sequence[Raw]) -> dict[str, Any]:
        return self.columns(raws[0])


class FeatureMetric(Metric):
    """A metric of every two models of a configuration that needs one pass per model, not per pair.

    `inputs` are drawn once for all models; `features_of` is one model's pass over them, traced; `compare` is what the
    host makes of two models' results in float64.
    """

    frame = "pairs"
    draws_inputs = True

    @abc.abstractmethod
    def inputs(self, data: Examples, key: jax.Array) -> PyTree:
        """The inputs of all models, traced."""

    @abc.abstractmethod
    def features_of(self, model: Model, params: PyTree, state: PyTree, inputs: PyTree) -> Raw:
        """The traced half: arrays by name for one model.

        model: the network, as in `ModelMetric.measure`.
        params, state: pytrees of its arrays, without a model axis.
        inputs: what `inputs` returns.
        """

    @abc.abstractmethod
    def compare(self, first: Raw, second: Raw) -> dict[str, Any]:
        """The pair's columns, on the host."""

    def leaves_out_pairs(self, num_models: int) -> bool:
        return math.comb(num_models, 2) > MAX_PAIRS

    def members(self, configurations: Sequence[str], seeds: Sequence[int]) -> list[Member]:
        return pairs_within(configurations, seeds, "all")

    def runs(self, members: Sequence[Member]) -> list[Member]:
        return [(index,) for index in sorted({index for member in members for index in member})]

    def runs_of(self, member: Member) -> tuple[Member, ...]:
        return tuple((index,) for index in member)

    def shared(self, data: Examples, key: jax.Array) -> PyTree:
        return self.inputs(data, key)

    def run(self, model: Model, weights: tuple[Weights, ...], shared: PyTree, key: jax.Array) -> Raw:
        ((params, state),) = weights
        return self.features_of(model, params, state, shared)

    def row(self, raws: Sequence[Raw]) -> dict[str, Any]:
        first, second = raws
        return self.compare(first, second)


def pairs_within(configurations: Sequence[str], seeds: Sequence[int], which: Pairs) -> list[Member]:
    """The pairs of models within each configuration, as indices into the stack.

    configurations: of each model of the stack.
    seeds: each model's index among all seeds of its configuration, in ascending order within it; an index that is
        left out is a model that cannot be measured, and changes no other pair.
    which: see `Pairs`.
    """
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(configurations):
        groups.setdefault(name, []).append(index)
    found: list[Member] = []
    for own in groups.values():
        candidates = itertools.combinations(own, 2)
        if which in ("all", "ordered") and math.comb(len(own), 2) > MAX_PAIRS:
            steps = range(1, max(1, MAX_PAIRS // len(own)) + 1)
            candidates = ((own[k], own[(k + step) % len(own)]) for k in range(len(own)) for step in steps)
        for first, second in candidates:
            is_disjoint = seeds[first] % 2 == 0 and seeds[second] == seeds[first] + 1
            if which in ("all", "ordered") or (is_disjoint and (which == "disjoint" or seeds[first] == 0)):
                found.append((first, second))
            if which == "ordered":
                found.append((second, first))
    return found
