"""(model, params, examples) → cross-entropy and error, over as many examples as there are."""

from typing import Any

import jax
import jax.numpy as jnp

from mdjax.models import Model

PyTree = Any


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy in nats of each example: logits[b, c], labels[b] → [b]."""
    return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]


def mean_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Weighted mean cross-entropy in nats; weights[b] are 1, or 0 for padding."""
    return jnp.sum(weights * cross_entropy(logits, labels)) / jnp.sum(weights)


def slice_batch(array: jax.Array, start: jax.Array, num_examples: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Examples `start … start+size` of `array` and their weights: 0 from `num_examples` on.

    Indices past the end are clipped, so the last batch has the same shape as the others.
    """
    index = start + jnp.arange(size)
    weights = (index < num_examples).astype(jnp.float32)
    return array[jnp.minimum(index, array.shape[0] - 1)], weights


def evaluate(
    model: Model,
    params: PyTree,
    state: PyTree,
    inputs: jax.Array,
    labels: jax.Array,
    num_examples: jax.Array | int,
    *,
    batch_size: int = 512,
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy (nats) and error (percent) over the first `num_examples` of inputs[n, ...], labels[n].

    Evaluates with stored statistics. Cost: one forward pass over `num_examples`, in batches of `batch_size`.
    `num_examples` may be traced: one compiled program serves every share of the data.
    """
    size = min(batch_size, inputs.shape[0])
    num_examples = jnp.asarray(num_examples)

    def add_batch(batch: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        x, weights = slice_batch(inputs, batch * size, num_examples, size)
        y, _ = slice_batch(labels, batch * size, num_examples, size)
        logits = model.apply(params, state, x)
        loss = jnp.sum(weights * cross_entropy(logits, y))
        wrong = jnp.sum(weights * (jnp.argmax(logits, -1) != y))
        # A model with NaN weights must not look right by chance: argmax of NaN is class 0.
        return sums[0] + loss, sums[1] + jnp.where(jnp.isfinite(loss), wrong, jnp.nan)

    num_batches = -(-num_examples // size)
    loss, wrong = jax.lax.fori_loop(0, num_batches, add_batch, (jnp.zeros(()), jnp.zeros(())))
    return loss / num_examples, 100 * wrong / num_examples
