"""Centred kernel alignment of two models' features: on inputs common to all models, and as published."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.columns import Feature
from mdjax.errors import InputError
from mdjax.landscape.batches import LabelledExamples, count_of, over_data
from mdjax.landscape.losses import fitting_batches
from mdjax.landscape.similarity import gram_cka, linear_cka
from mdjax.metrics.contract import Examples, FeatureMetric, Metric, PairMetric, Pairs, PyTree, Raw, Weights
from mdjax.models import Model
from mdjax.statuses import Status, StatusCode

_UNDEFINED = Status(StatusCode.UNDEFINED, "CKA is undefined: a model answers the same to every input")
_FEATURE = Feature("CKA", "CKA similarity", "0 to 1")


@dataclasses.dataclass(frozen=True)
class CKA(FeatureMetric):
    """Linear CKA of one layer of every two models of a configuration, on mixed-up training inputs.

    `layer` is "softmax" (class probabilities, as published; of other tasks what `Task.features` says: the outputs of a
    regression, probabilities of labels or tokens), "logits", or a layer of the network by name, as
    `FlaxModel.layer_outputs` takes it, its outputs flattened to d features per example. Columns: `CKA`, biased as
    published, and `CKA_debiased` (`similarity.linear_cka`).
    Inputs: n = `num_batches` × `batch_size` training examples, each batch mixed with a permutation of itself by one
    λ ~ Beta(`mixup`, `mixup`), unless some of an input are whole numbers, such as tokens, which do not mix; drawn once
    for a data set, so the same for all models and both of a pair.
    Cost: one forward pass a model, n·min(d, n) numbers brought to the host for each, and there for a pair what
    `linear_cka` says; memory on the device: n·d numbers a model.
    """

    name: ClassVar[str] = "cka"
    description: ClassVar[str] = "centred kernel alignment of any layer, biased and debiased"
    features: ClassVar[tuple[Feature, ...]] = (_FEATURE,)
    by_default: ClassVar[bool] = True

    num_batches: int = 5
    batch_size: int = 128
    mixup: int = 16
    layer: str = "softmax"

    def __post_init__(self) -> None:
        _check(self.num_batches, self.batch_size, self.mixup)

    @classmethod
    def of_preset(cls, preset: str) -> Metric:
        presets = {"reference": PublishedCKA(), "fast": cls(num_batches=2)}
        return presets.get(preset, cls())

    def inputs(self, data: Examples, key: jax.Array) -> LabelledExamples:
        """The mixed-up inputs [batches, batch, ...] with their task; fewer examples than needed are repeated."""
        return _mixed_inputs(data, key, self.num_batches, self.batch_size, self.mixup)

    def features_of(self, model: Model, params: PyTree, state: PyTree, inputs: LabelledExamples) -> Raw:
        features = _features(model, params, state, inputs, self.layer)
        count, width = features.shape
        constant = _is_constant(features)
        if width <= count:
            return {"features": features, "constant": constant}
        # Centred before the product, and from values near zero: a Gram matrix of an offset has no digits left.
        features = features - features[0]
        features = features - jnp.mean(features, 0)
        return {"gram": features @ features.T, "constant": constant}

    def compare(self, first: Raw, second: Raw) -> dict[str, Any]:
        if first["constant"] or second["constant"]:
            return {"CKA": np.nan, "CKA_debiased": np.nan, "status": _UNDEFINED}
        if "gram" in first:
            found = gram_cka(first["gram"], second["gram"])
        else:
            found = linear_cka(first["features"], second["features"])
        return {"CKA": found.biased, "CKA_debiased": found.debiased}


@dataclasses.dataclass(frozen=True)
class PublishedCKA(PairMetric):
    """Linear CKA as it was measured for the published trees: biased, of softmax outputs, inputs drawn for each pair.

    Six batches of 128 training examples, where five were asked for, mixed up as in `CKA` and drawn anew for every
    *ordered* pair, so that the two orders differ; the published feature is the mean over all ordered pairs.
    Cost: two forward passes a pair.
    """

    name: ClassVar[str] = "cka"
    description: ClassVar[str] = CKA.description
    features: ClassVar[tuple[Feature, ...]] = (_FEATURE,)

    num_batches: int = 6
    batch_size: int = 128
    mixup: int = 16
    pairs: Pairs = "ordered"

    def __post_init__(self) -> None:
        _check(self.num_batches, self.batch_size, self.mixup)

    def measure(self, model: Model, first: Weights, second: Weights, data: Examples, key: jax.Array) -> Raw:
        inputs = _mixed_inputs(data, key, self.num_batches, self.batch_size, self.mixup)
        features, other = (_features(model, *weights, inputs, "softmax") for weights in (first, second))
        return {"first": features, "second": other, "constant": _is_constant(features) | _is_constant(other)}

    def columns(self, raw: Raw) -> dict[str, Any]:
        if raw["constant"]:
            return {"CKA": np.nan, "status": _UNDEFINED}
        return {"CKA": linear_cka(raw["first"], raw["second"]).biased}


def _check(num_batches: int, batch_size: int, mixup: int) -> None:
    for name, value in (("num_batches", num_batches), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"{name} is {value}. Give a whole number of at least 1.")
    if num_batches * batch_size < 4:
        raise InputError(f"CKA of {num_batches * batch_size} examples has no debiased value. Give at least 4.")
    if mixup < 1 or mixup != int(mixup):
        raise InputError(f"mixup is {mixup}. Give the parameter of Beta(mixup, mixup), a whole number of at least 1.")


def _mixed_inputs(data: Examples, key: jax.Array, num_batches: int, batch_size: int, mixup: int) -> LabelledExamples:
    """Batches [batches, batch, ...] of a model's own examples, each mixed with a permutation of itself."""
    order_key, mix_key, share_key = jax.random.split(key, 3)
    size = count_of(data.x_train)
    ranks = jnp.where(jnp.arange(size) < data.num_train, jax.random.uniform(order_key, (size,)), jnp.inf)
    wanted = jnp.arange(num_batches * batch_size) % data.num_train
    index = jnp.argsort(ranks)[wanted].reshape(num_batches, batch_size)
    partner = jax.vmap(jax.random.permutation)(jax.random.split(mix_key, num_batches), index)
    leaves = jax.tree.leaves(data.x_train)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        drawn = jax.tree.map(lambda leaf: leaf[index], data.x_train)
        return LabelledExamples(drawn, None, index.size, data.task)
    # Beta(a, a) is the law of the median of 2a − 1 uniform numbers: no rejection loop to compile.
    shares = jnp.median(jax.random.uniform(share_key, (num_batches, 2 * int(mixup) - 1)), axis=1)

    def mixed(leaf: jax.Array) -> jax.Array:
        share = shares.reshape(-1, *[1] * leaf.ndim)
        return share * leaf[index] + (1 - share) * leaf[partner]

    return LabelledExamples(jax.tree.map(mixed, data.x_train), None, index.size, data.task)


def _features(model: Model, params: PyTree, state: PyTree, inputs: LabelledExamples, layer: str) -> jax.Array:
    """A layer's outputs for inputs [batches, batch, ...], flattened to [n, d]."""

    def of_batch(x: PyTree) -> jax.Array:
        x = over_data(x)
        if layer not in ("softmax", "logits"):
            return _layer_outputs(model)(params, state, x, layer)
        outputs = model.apply(params, state, x)
        return inputs.task.features(outputs) if layer == "softmax" else outputs

    outputs = jax.lax.map(of_batch, fitting_batches(model, params, state, inputs.inputs))
    return outputs.reshape(outputs.shape[0] * outputs.shape[1], -1)


def _layer_outputs(model: Any) -> Any:
    if not hasattr(model, "layer_outputs"):
        raise InputError(
            "Cannot take the features of a layer of a model without named layers. Set cka.layer to softmax or logits, "
            "or give the model a method layer_outputs(params, state, inputs, layer)."
        )
    return model.layer_outputs


def _is_constant(features: jax.Array) -> jax.Array:
    """Whether the rows of features[n, d] differ by no more than rounding."""
    rounding = 4 * jnp.finfo(features.dtype).eps
    return jnp.linalg.norm(features - features[0]) <= rounding * jnp.linalg.norm(features)
