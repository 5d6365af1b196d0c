"""Vector algebra on pytrees of models: stack, take, count, and numbers with their standard error."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


class Estimate(NamedTuple):
    """A value and its standard error, in the value's unit; an exact value has standard error 0."""

    value: jax.Array
    standard_error: jax.Array


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Put equal-shaped pytrees on a new leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)


def take(tree: PyTree, index: Sequence[int] | np.ndarray) -> PyTree:
    """The models at `index` of a stacked pytree, stacked in that order."""
    index = np.asarray(index, int)
    return jax.tree.map(lambda leaf: leaf[index], tree)


def count(tree: PyTree) -> int:
    """How many models a stacked pytree holds."""
    return len(jax.tree.leaves(tree)[0])


def interpolate(weights: Sequence[jax.Array], trees: Sequence[PyTree]) -> PyTree:
    """Σ weights[i] · trees[i] for scalar weights."""
    return jax.tree.map(lambda *leaves: sum(w * leaf for w, leaf in zip(weights, leaves, strict=True)), *trees)


def squared_norm(tree: PyTree) -> jax.Array:
    """The sum of squares of all entries."""
    return sum((jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(tree)), start=jnp.zeros(()))
