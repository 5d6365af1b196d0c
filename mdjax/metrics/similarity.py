"""How similarly two models answer, and how far apart their parameters are."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.errors import InputError
from mdjax.landscape import similarity
from mdjax.landscape.batches import LabelledExamples, count_of, over_data, slice_batch
from mdjax.landscape.losses import fitting_batches
from mdjax.metrics.contract import Examples, FeatureMetric, PyTree, Raw
from mdjax.models import Model
from mdjax.tasks import Classification


@dataclasses.dataclass(frozen=True)
class Similarity(FeatureMetric):
    """Agreement, divergence and distance of every two models of a configuration.

    On the first `num_samples` training examples (all, where there are fewer), stored statistics: `agreement`, the
    share of equal classes in percent; `js_divergence`, the mean Jensen–Shannon divergence of the class probabilities
    in nats; `logit_cosine`, the cosine of all logits taken as one vector. Of other tasks than classification in their
    place `output_cosine`, the cosine of what the task compares (`Task.features`). Of the parameters: `l2_distance`, and
    `l2_by_layer` for the top-level modules named by `l2_layers`; statistics do not count.
    Cost: one forward pass a model; every model's logits and parameters are brought to the host.
    """

    name: ClassVar[str] = "similarity"
    description: ClassVar[str] = "agreement, Jensen–Shannon divergence, cosine of logits, distances"

    num_samples: int = 1024
    batch_size: int = 512

    def __post_init__(self) -> None:
        for name in ("num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}. Give a whole number of at least 1.")

    def inputs(self, data: Examples, key: jax.Array) -> LabelledExamples:
        """Inputs [batches, batch, ...] with their task, as targets their weights [batches, batch], 0 for padding."""
        total = min(self.num_samples, count_of(data.x_train))
        size = min(self.batch_size, total)
        num_batches = -(-total // size)
        count = jnp.minimum(data.num_train, total)
        inputs, weights = slice_batch(data.x_train, jnp.zeros((), int), count, num_batches * size)
        inputs = jax.tree.map(lambda leaf: leaf.reshape(num_batches, size, *leaf.shape[1:]), inputs)
        return LabelledExamples(inputs, weights.reshape(num_batches, size), count, data.task)

    def features_of(self, model: Model, params: PyTree, state: PyTree, inputs: LabelledExamples) -> Raw:
        is_of_classes = isinstance(inputs.task, Classification)

        def outputs(x: PyTree) -> jax.Array:
            found = model.apply(params, state, over_data(x))
            return found if is_of_classes else inputs.task.features(found)

        weights = inputs.targets.reshape(-1)
        batches = fitting_batches(model, params, state, inputs.inputs)
        found = jax.lax.map(outputs, batches).reshape(weights.size, -1)
        return {"logits" if is_of_classes else "outputs": found, "weights": weights, "params": params}

    def compare(self, first: Raw, second: Raw) -> dict[str, Any]:
        own = first["weights"] > 0
        compared = "logits" if "logits" in first else "outputs"
        logits, other = (np.asarray(raw[compared], np.float64)[own] for raw in (first, second))
        distance = similarity.parameter_distance(first["params"], second["params"])
        # argmax of NaN is class 0: two broken models must not agree.
        finite = np.isfinite(logits).all() and np.isfinite(other).all()
        if compared == "logits":
            answers = {
                "agreement": similarity.agreement(logits, other) if finite else np.nan,
                "js_divergence": similarity.jensen_shannon(logits, other) if finite else np.nan,
                "logit_cosine": similarity.cosine(logits, other) if finite else np.nan,
            }
        else:
            answers = {"output_cosine": similarity.cosine(logits, other) if finite else np.nan}
        return answers | {
            "l2_distance": distance.total,
            "l2_by_layer": list(distance.by_layer),
            "l2_layers": list(distance.layers),
        }
