"""Models stacked on the leading axis of pytrees: put together, picked from, counted."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mdjax.models import Model

PyTree = Any


class Stack(NamedTuple):
    """Models of one architecture, on axis 0 of every array of `params` and `state`.

    `ids` name them: they seed the models' random numbers, so a model's row does not depend on its place.
    """

    model: Model
    params: PyTree
    state: PyTree
    ids: Sequence[str]


def stack(models: Sequence[PyTree]) -> PyTree:
    """Put pytrees of equal shapes on a new leading axis. ValueError where structures or shapes differ."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *models)


def take(stacked: PyTree, indices: Sequence[int] | np.ndarray) -> PyTree:
    """The models at `indices` of a stacked pytree, stacked in that order."""
    chosen = np.asarray(indices, int)
    return jax.tree.map(lambda leaf: leaf[chosen], stacked)


def one(stacked: PyTree, index: int) -> PyTree:
    """One model of a stacked pytree."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def count(stacked: PyTree) -> int:
    """How many models a stacked pytree holds."""
    return len(jax.tree.leaves(stacked)[0])
