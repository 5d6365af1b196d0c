"""Centred kernel alignment of two models' outputs."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.metrics.contract import Examples, PyTree, Raw
from mdjax.models import Model
from mdjax.similarity import linear_cka


@dataclasses.dataclass(frozen=True)
class CKA:
    """Linear CKA of the softmax outputs of every two models of a configuration, on mixed-up training inputs.

    Inputs: `num_batches` × `batch_size` training examples, each batch mixed with a permutation of itself by one
    λ ~ Beta(16, 16); drawn once for a data set, so the same for all models and both of a pair. Cost: one forward
    pass a model.
    """

    name: ClassVar[str] = "cka"
    scope: ClassVar[str] = "features"

    num_batches: int = 5
    batch_size: int = 128
    mixup: float = 16.0

    def features(self, model: Model, params: PyTree, state: PyTree, inputs: jax.Array) -> Raw:
        logits = jax.lax.map(lambda x: model.apply(params, state, x), inputs)
        return {"outputs": jax.nn.softmax(logits.reshape(-1, logits.shape[-1]))}

    def inputs(self, data: Examples, key: jax.Array) -> jax.Array:
        """The mixed-up inputs [batches, batch, ...]; fewer examples than needed are repeated."""
        order_key, mix_key, share_key = jax.random.split(key, 3)
        size = len(data.x_train)
        ranks = jnp.where(jnp.arange(size) < data.num_train, jax.random.uniform(order_key, (size,)), jnp.inf)
        wanted = jnp.arange(self.num_batches * self.batch_size) % data.num_train
        index = jnp.argsort(ranks)[wanted].reshape(self.num_batches, self.batch_size)
        partner = jax.vmap(jax.random.permutation)(jax.random.split(mix_key, self.num_batches), index)
        share = jax.random.beta(share_key, self.mixup, self.mixup, (self.num_batches, 1))
        share = share.reshape(-1, *[1] * data.x_train.ndim)
        return share * data.x_train[index] + (1 - share) * data.x_train[partner]

    def compare(self, first: Raw, second: Raw) -> dict[str, Any]:
        features, other = first["outputs"], second["outputs"]
        value = linear_cka(features, other)
        if np.isnan(value) and np.isfinite(features).all() and np.isfinite(other).all():
            return {"CKA": value, "status": "CKA is undefined: a model answers the same to every input"}
        return {"CKA": value}
