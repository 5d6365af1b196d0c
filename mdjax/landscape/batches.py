"""Examples → batches: slices of equal shape, random orders, and the split over a mesh's "data" axis."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

PyTree = Any


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


def slice_batch(array: jax.Array, start: jax.Array, num_examples: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Examples `start … start+size` of `array` and their weights: 0 from `num_examples` on.

    Indices past the end are clipped, so the last batch has the same shape as the others.
    """
    index = start + jnp.arange(size)
    weights = (index < num_examples).astype(jnp.float32)
    return over_data((array[jnp.minimum(index, array.shape[0] - 1)], weights))


def random_order(key: jax.Array, size: int, num_examples: jax.Array) -> jax.Array:
    """A random order of 0 … num_examples−1 in the first places of an array of static `size`."""
    ranks = jnp.where(jnp.arange(size) < num_examples, jax.random.uniform(key, (size,)), jnp.inf)
    return jnp.argsort(ranks)
