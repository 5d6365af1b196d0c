"""Examples → batches: slices of equal shape, random orders, and the split over a mesh's "data" axis."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

PyTree = Any


class LabelledExamples(NamedTuple):
    """The first `num_examples` (may be traced) of inputs[n, ...] and labels[n]; those after them do not count.

    A traced count lets one compiled program serve every amount of data.
    """

    inputs: jax.Array
    labels: jax.Array
    num_examples: jax.Array | int

    def first(self, number: int) -> "LabelledExamples":
        """The first `number` of them; all, where there are fewer."""
        number = min(number, len(self.inputs))
        return LabelledExamples(self.inputs[:number], self.labels[:number], jnp.minimum(self.num_examples, number))


def over_data(batch: PyTree, axis: int = 0) -> PyTree:
    """Ask the compiler to split `axis` (the examples) of every array over the devices of the mesh's "data" axis.

    Values are those of the whole batch as before: sums over it become collectives by themselves. Without a mesh, or
    where the axis does not divide evenly, nothing happens.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or "data" not in mesh.axis_names:
        return batch
    size = mesh.shape["data"]

    def split(leaf: jax.Array) -> jax.Array:
        if leaf.shape[axis] % size:
            return leaf
        return jax.lax.with_sharding_constraint(leaf, PartitionSpec(*[None] * axis, "data"))

    return jax.tree.map(split, batch)


def splits_batches() -> bool:
    """Whether there is a mesh whose "data" axis splits each batch's examples over devices."""
    return over_data_multiple(1) > 1


def over_data_multiple(number: int) -> int:
    """The least multiple of the devices of the mesh's "data" axis that is at least `number`."""
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty or "data" not in mesh.axis_names else mesh.shape["data"]
    return -(-number // size) * size


def slice_batch(
    array: jax.Array, start: jax.Array, num_examples: jax.Array | int, size: int
) -> tuple[jax.Array, jax.Array]:
    """A batch of consecutive examples, and their weights [size]: 1, or 0 for what does not count.

        array: examples [n, ...].
        start: index of the batch's first example.
        num_examples: how many of the array count; from this index on weights are 0.
        size: examples in a batch.

    Indices past the end are clipped, so the last batch has the same shape as the others.
    """
    return over_data(_slice(array, start, num_examples, size))


def all_batches(array: jax.Array, num_examples: jax.Array | int, size: int) -> tuple[jax.Array, jax.Array]:
    """All examples in batches [k, size, ...], and their weights [k, size]: 1, or 0 for what does not count.

        array: examples [n, ...].
        num_examples: how many of the array count.
        size: examples in a batch; the last one is filled up.

    Of each batch, and not of the batches, a device of the mesh's "data" axis has its part.
    """
    count = -(-array.shape[0] // size)
    found = _slice(array, jnp.zeros((), int), num_examples, count * size)
    batches = jax.tree.map(lambda leaf: leaf.reshape(count, size, *leaf.shape[1:]), found)
    return over_data(batches, axis=1)


def _slice(array: jax.Array, start: jax.Array, num_examples: jax.Array | int, size: int) -> tuple[jax.Array, jax.Array]:
    index = start + jnp.arange(size)
    weights = (index < num_examples).astype(jnp.float32)
    return array[jnp.minimum(index, array.shape[0] - 1)], weights


def random_order(key: jax.Array, size: int, num_examples: jax.Array | int) -> jax.Array:
    """A random order of 0 … num_examples−1 as the first entries of an array of static `size`."""
    ranks = jnp.where(jnp.arange(size) < num_examples, jax.random.uniform(key, (size,)), jnp.inf)
    return jnp.argsort(ranks)
