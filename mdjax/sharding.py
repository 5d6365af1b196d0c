"""A batch of examples → the same batch, split over a mesh's "data" axis where there is one."""

from typing import Any

import jax
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
