"""Functions of a vector, one for each batch → their sum, for one vector and for several, within `ProductLimits`.

A curvature matrix of a loss that is a sum over batches is such a sum: of each batch's product, or quadratic form.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mdjax.landscape.limits import ProductLimits, current_limits

PyTree = Any
VectorFunction = Callable[[jax.Array], jax.Array]
"""v[p] → an array, the same shape for every vector."""

_MOST_LINEARIZED = 4
"""Batches that keep their residuals, at most: each adds its own linear map to the program, and compile time, or, where
they are taken as one, its examples to the memory of a pass."""


def summed_over_batches(
    linearized: Callable[[PyTree], VectorFunction],
    batches: PyTree,
    limits: ProductLimits | None = None,
    *,
    mergeable: bool = False,
) -> tuple[VectorFunction, VectorFunction]:
    """Σ_b linearized(batch_b), as a function of one vector v[p] and as one of V[k, p] that stacks its results.

        linearized: a batch → its function of a vector, a `jax.tree_util.Partial` whose arrays are the residuals.
        batches: arrays with the batches on axis 0.
        limits: default, those that hold where this is called.
        mergeable: whether a batch's function is a sum over its examples, of which any number make a batch.

    Where there are at most four batches (any number of them, where the limits ask for a loop) and their residuals fit
    the limits, these are computed once, here, mergeable batches as one; else every call of the sum computes them anew,
    batch by batch, once for all of its vectors. Side by side at most `vectors_at_once`: on CPU one at a time is the
    fastest, since side by side the patches of a convolution leave the caches.
    """
    limits = current_limits() if limits is None else limits
    count = len(jax.tree.leaves(batches)[0])

    def batch_of(index: int) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[index], batches)

    def over_vectors(function: VectorFunction, vectors: jax.Array) -> jax.Array:
        together = min(limits.vectors_at_once, len(vectors))
        return jax.lax.map(function, vectors, batch_size=together if together > 1 else None)

    residuals = jax.tree.leaves(jax.eval_shape(lambda: linearized(batch_of(0))))
    needed_bytes = count * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in residuals)
    is_kept = needed_bytes <= limits.residual_bytes
    if is_kept and limits.loops_over_batches and count > 1:
        # The program holds one linear map, and its residuals are arrays of those of all batches.
        kept = jax.lax.map(linearized, batches)

        def looped(vector: jax.Array) -> jax.Array:
            def add_part(total: jax.Array, part: VectorFunction) -> tuple[jax.Array, None]:
                return total + part(vector), None

            first = jax.eval_shape(lambda: linearized(batch_of(0))(vector))
            return jax.lax.scan(add_part, jnp.zeros(first.shape, first.dtype), kept)[0]

        return looped, functools.partial(over_vectors, looped)
    if is_kept and count <= _MOST_LINEARIZED:
        # One linear map for each batch rather than a scan: its residuals are then plain constants of the loops over
        # vectors, which XLA need not carry through them. The program grows by each of them.
        if mergeable:
            batches, count = jax.tree.map(lambda leaf: leaf.reshape(1, -1, *leaf.shape[2:]), batches), 1
        parts = [linearized(batch_of(index)) for index in range(count)]

        def single(vector: jax.Array) -> jax.Array:
            return functools.reduce(jnp.add, [part(vector) for part in parts])

        return single, functools.partial(over_vectors, single)

    def total(apply: Callable[[VectorFunction, jax.Array], jax.Array], vectors: jax.Array) -> jax.Array:
        def contribution(batch: PyTree) -> jax.Array:
            return apply(linearized(batch), vectors)

        def add_batch(total: jax.Array, batch: PyTree) -> tuple[jax.Array, None]:
            return total + contribution(batch), None

        first = jax.eval_shape(contribution, jax.tree.map(lambda leaf: leaf[0], batches))
        return jax.lax.scan(add_batch, jnp.zeros(first.shape, first.dtype), batches)[0]

    return functools.partial(total, lambda part, vector: part(vector)), functools.partial(total, over_vectors)
