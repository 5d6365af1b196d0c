"""Models stacked on the leading axis of pytrees: stack, take, count."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

PyTree = Any


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
