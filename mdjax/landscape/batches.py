"""Examples → batches: slices of equal shape, random orders, and the split over a mesh's "data" axis."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mdjax.tasks import CLASSIFICATION, Task

PyTree = Any


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=("inputs", "targets", "num_examples"), meta_fields=("task",)
)
@dataclasses.dataclass(frozen=True, eq=False)
class LabelledExamples:
    """The first `num_examples` (may be traced) of inputs and targets; those after them do not count.

    inputs, targets: pytrees of arrays [n, ...].
    task: what a model is asked for them; part of the pytree's structure.

    A traced count lets one compiled program serve every amount of data.
    """

    inputs: PyTree
    targets: PyTree
    num_examples: jax.Array | int
    task: Task = CLASSIFICATION

    @property
    def capacity(self) -> int:
        """How many there are, those that do not count included."""
        return count_of(self.inputs)

    @property
    def total_weight(self) -> jax.Array | int:
        """What the weights of all that count add up to: their number, unless the task weighs them."""
        own = self.task.weights(self.targets)
        if own is None:
            return self.num_examples
        return jnp.sum(jnp.where(jnp.arange(self.capacity) < self.num_examples, own, 0.0))

    def first(self, number: int) -> "LabelledExamples":
        """The first `number` of them; all, where there are fewer."""
        number = min(number, self.capacity)
        inputs, targets = jax.tree.map(lambda leaf: leaf[:number], (self.inputs, self.targets))
        return LabelledExamples(inputs, targets, jnp.minimum(self.num_examples, number), self.task)


def weighed(task: Task, targets: PyTree, mask: jax.Array) -> jax.Array:
    """The weights [b] of a batch's examples in the means, given which of them count, as 1 or 0."""
    own = task.weights(targets)
    return mask if own is None else mask * own


def count_of(arrays: PyTree) -> int:
    """How many examples arrays [n, ...] are of."""
    return len(jax.tree.leaves(arrays)[0])


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


def summed_over_data(function: Callable[..., PyTree], constants: PyTree, batch: PyTree) -> PyTree:
    """Σ over examples of function(constants, example), an example on each device of the mesh's "data" axis.

        function: of arrays and one example, without an axis of examples.
        constants: arrays that it is given each time.
        batch: as many examples as that axis has devices.

    Each device runs its own program, which the compiler need not split: XLA (jaxlib 0.10) gives wrong numbers for
    convolutions that are batched over examples and kernels at once where it does.
    """

    def own(constants: PyTree, batch: PyTree) -> PyTree:
        found = function(constants, jax.tree.map(lambda leaf: leaf[0], batch))
        return jax.tree.map(lambda leaf: jax.lax.psum(leaf, "data"), found)

    specs = PartitionSpec(), PartitionSpec("data")
    mapped = jax.shard_map(own, axis_names={"data"}, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return mapped(constants, batch)


def over_data_multiple(number: int) -> int:
    """The least multiple of the devices of the mesh's "data" axis that is at least `number`."""
    mesh = jax.sharding.get_abstract_mesh()
    size = 1 if mesh.empty or "data" not in mesh.axis_names else mesh.shape["data"]
    return -(-number // size) * size


def slice_batch(arrays: PyTree, start: jax.Array, num_examples: jax.Array | int, size: int) -> tuple[PyTree, jax.Array]:
    """A batch of consecutive examples, and their weights [size]: 1, or 0 for what does not count.

        arrays: a pytree of examples [n, ...].
        start: index of the batch's first example.
        num_examples: how many of them count; from this index on weights are 0.
        size: examples in a batch.

    Indices past the end are clipped, so the last batch has the same shape as the others.
    """
    return over_data(_slice(arrays, start, num_examples, size))


def all_batches(arrays: PyTree, num_examples: jax.Array | int, size: int) -> tuple[PyTree, jax.Array]:
    """All examples in batches [k, size, ...], and their weights [k, size]: 1, or 0 for what does not count.

        arrays: a pytree of examples [n, ...].
        num_examples: how many of them count.
        size: examples in a batch; the last one is filled up.

    Of each batch, and not of the batches, a device of the mesh's "data" axis has its part.
    """
    count = -(-count_of(arrays) // size)
    found = _slice(arrays, jnp.zeros((), int), num_examples, count * size)
    batches = jax.tree.map(lambda leaf: leaf.reshape(count, size, *leaf.shape[1:]), found)
    return over_data(batches, axis=1)


def _slice(arrays: PyTree, start: jax.Array, num_examples: jax.Array | int, size: int) -> tuple[PyTree, jax.Array]:
    index = start + jnp.arange(size)
    weights = (index < num_examples).astype(jnp.float32)
    index = jnp.minimum(index, count_of(arrays) - 1)
    return jax.tree.map(lambda leaf: leaf[index], arrays), weights


def random_order(key: jax.Array, size: int, num_examples: jax.Array | int) -> jax.Array:
    """A random order of 0 … num_examples−1 as the first entries of an array of static `size`."""
    ranks = jnp.where(jnp.arange(size) < num_examples, jax.random.uniform(key, (size,)), jnp.inf)
    return jnp.argsort(ranks)
