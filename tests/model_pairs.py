"""Two models and examples for a curve between them, with BatchNorm and without."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from helpers import examples, one, trained

from mdjax.metrics import Examples
from mdjax.models import FlaxModel
from mdjax.models.layers import BatchNorm, dense


class NormalisedMLP(nn.Module):
    """The smallest network with BatchNorm."""

    @nn.compact
    def __call__(self, inputs, weights=None):
        hidden = nn.relu(BatchNorm(name="norm")(dense(6, inputs, "hidden"), weights))
        return dense(10, hidden, "linear")


def normalised(count: int = 3):
    """(model, stacked params, stacked state) with statistics that are nobody's true ones."""
    model = FlaxModel(NormalisedMLP())
    keys = jax.random.split(jax.random.key(5), count)
    variables = jax.vmap(lambda key: model.module.init(key, jnp.zeros((1, 64))))(keys)
    state = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    return model, variables["params"], state


def flat_examples(num_train: int, total: int | None = None) -> Examples:
    data = examples(num_train)
    total = total or len(data.x_train)
    flat = data.x_train[:total].reshape(total, -1)
    x_test = data.x_test.reshape(len(data.x_test), -1)
    return dataclasses.replace(data, x_train=flat, y_train=data.y_train[:total], x_test=x_test)


def pair(family: str):
    """(model, first, second, examples) of a family, or of the network with BatchNorm."""
    if family == "normalised":
        model, params, state = normalised()
        data = flat_examples(200, 300)
    else:
        architecture, params, state = trained(family)
        model, data = architecture.model("patches"), examples(200)
    return model, *(jax.tree.map(jnp.asarray, (one(params, i), one(state, i))) for i in (0, 1)), data
