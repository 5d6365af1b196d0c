"""A model and directions in its parameter space → loss and error on the plane that they span.

Directions are rows of an array [k, p], with the p parameters in the order of `mdjax.landscape.split_vectors.raveled`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mdjax.landscape import losses
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.split_vectors import raveled
from mdjax.linalg.krylov import Wanted, block_lanczos, ritz_vectors
from mdjax.linalg.operators import LinearOperator
from mdjax.models import Model

PyTree = Any


def random_directions(params: PyTree, key: jax.Array, num_directions: int) -> jax.Array:
    """Gaussian directions [k, p], each as long as the parameters: a step of 1 moves the model by its own norm."""
    flat, _, _, vectors = raveled(params)
    directions = vectors.normal(key, num_directions)
    return directions * jnp.linalg.norm(flat) / jnp.linalg.norm(directions, axis=1, keepdims=True)


def filter_directions(params: PyTree, key: jax.Array, num_directions: int) -> jax.Array:
    """Gaussian directions [k, p] whose every filter is as long as the model's, so that its scale does not matter.

    A filter is what feeds one output: an entry of the last axis of an array with at least two. Arrays of one axis
    (biases, scales and shifts of a normalisation) stay as they are: their part of the direction is zero.
    Source: Li et al., "Visualizing the loss landscape of neural nets", NeurIPS 2018, section 4.
    """
    _, unravel, ravel, vectors = raveled(params)

    def normalized(direction: jax.Array, weights: jax.Array) -> jax.Array:
        if weights.ndim < 2:
            return jnp.zeros_like(weights)
        axes = tuple(range(weights.ndim - 1))
        length = jnp.sqrt(jnp.sum(jnp.square(direction), axes))
        return direction * (jnp.sqrt(jnp.sum(jnp.square(weights), axes)) / length)

    def one(key: jax.Array) -> jax.Array:
        return ravel(jax.tree.map(normalized, unravel(vectors.normal(key)), params))

    return jax.vmap(one)(jax.random.split(key, num_directions))


def hessian_directions(
    hessian: LinearOperator,
    key: jax.Array,
    num_directions: int,
    *,
    tolerance: float,
    max_steps: int,
    block_size: int = 4,
) -> jax.Array:
    """Unit eigenvectors [k, p] of the largest eigenvalues, in descending order; the longest component is positive.

        hessian: of the loss, on the raveled parameters [p].
        key: for the random vectors that the search begins with.
        num_directions: k.
        tolerance: residuals ‖Hv − λv‖ to be reached, in units of |λ|.
        max_steps: blocks of products to take at most.
        block_size: products in a block.

    Cost: up to `block_size`·`max_steps` products; memory as many vectors of p numbers.
    """
    krylov = block_lanczos(
        hessian,
        key,
        block_size=block_size,
        max_steps=max_steps,
        wanted=Wanted(num_largest=num_directions, tolerance=tolerance),
    )
    vectors = ritz_vectors(krylov, num_directions)
    vectors = vectors / jnp.linalg.norm(vectors, axis=1, keepdims=True)
    longest = jnp.take_along_axis(vectors, jnp.argmax(jnp.abs(vectors), axis=1)[:, None], axis=1)
    return vectors * jnp.where(longest < 0, -1.0, 1.0)


class DirectionalCurvature(NamedTuple):
    """Second derivatives dᵀHd [k] along directions d, and the norms ‖Hd − (dᵀHd/dᵀd) d‖ [k], 0 for eigenvectors."""

    values: jax.Array
    residuals: jax.Array


def directional_curvature(hessian: LinearOperator, directions: jax.Array) -> DirectionalCurvature:
    """The curvature of the loss along each of directions[k, p]. Cost: k products.

    Without the residuals `mdjax.landscape.quadratic_forms` gives the values for half of that.
    """
    images = hessian.matmat(directions)
    values = jnp.sum(directions * images, axis=1)
    quotients = values / jnp.sum(jnp.square(directions), axis=1)
    return DirectionalCurvature(values, jnp.linalg.norm(images - quotients[:, None] * directions, axis=1))


def loss_surface(
    model: Model,
    params: PyTree,
    state: PyTree,
    directions: jax.Array,
    coordinates: jax.Array,
    examples: LabelledExamples,
    *,
    batch_size: int = 512,
) -> tuple[jax.Array, jax.Array]:
    """Mean loss [m] and error (percent) [m], by the examples' task, at the points params + coordinates @ directions.

        model: its `apply` is used.
        params, state: one model's, with p parameters; statistics stay as stored.
        directions: [k, p], steps of 1.
        coordinates: [m, k], one row a point.
        examples: what the means are taken over.
        batch_size: examples in one forward pass.

    Cost: m forward passes over the examples.
    """
    flat, unravel, *_ = raveled(params)

    def at(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        moved = unravel(flat + point @ directions)
        return losses.evaluate(model, moved, state, examples, batch_size=batch_size)

    return jax.lax.map(at, coordinates)
