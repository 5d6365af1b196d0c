"""A loss summed over batches → its Hessian as a product with a flat vector."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

PyTree = Any
Matvec = Callable[[jax.Array], jax.Array]


def hessian_matvec(
    loss: Callable[[PyTree, PyTree], jax.Array],
    params: PyTree,
    batches: PyTree,
    *,
    max_bytes: float = 2**30,
) -> tuple[Matvec, int]:
    """The product v[p] → Hv[p] with H = Σ_b ∇² loss(params, batch_b), and the dimension p.

    `batches` is a pytree with the batches on axis 0; `loss(params, batch)` is one batch's *contribution* to the
    total loss, so the batches' Hessians add up. Where the intermediates of one backward pass over all batches
    fit `max_bytes`, the gradient is linearised once and a product is one linear pass over them; else every product
    recomputes the gradient batch by batch and holds one batch's intermediates.
    Source: Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994.
    """
    flat, unravel = ravel_pytree(params)
    num_batches = len(jax.tree.leaves(batches)[0])

    def gradient(flat: jax.Array, batch: PyTree) -> jax.Array:
        return jax.grad(lambda flat: loss(unravel(flat), batch))(flat)

    def linearized(flat: jax.Array) -> Matvec:
        # One linear map for each batch rather than a scan: its intermediates are then plain constants of the
        # loops over probes, which XLA need not carry through them.
        singles = [jax.tree.map(lambda leaf: leaf[i], batches) for i in range(num_batches)]
        parts = [jax.linearize(functools.partial(gradient, batch=batch), flat)[1] for batch in singles]
        return jax.tree_util.Partial(lambda parts, v: sum(part(v) for part in parts), parts)

    residuals = jax.tree.leaves(jax.eval_shape(linearized, flat))
    if sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in residuals) <= max_bytes:
        return linearized(flat), flat.size

    def recomputed(vector: jax.Array) -> jax.Array:
        def add_batch(total: jax.Array, batch: PyTree) -> tuple[jax.Array, None]:
            product = jax.jvp(lambda flat: gradient(flat, batch), (flat,), (vector,))[1]
            return total + product, None

        return jax.lax.scan(add_batch, jnp.zeros_like(flat), batches)[0]

    return recomputed, flat.size
