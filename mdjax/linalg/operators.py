"""A symmetric matrix known by its products alone."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from mdjax.linalg.vectors import Vectors

Matvec = Callable[[jax.Array], jax.Array]
"""v[p] → the product A v [p]."""

Matmat = Callable[[jax.Array], jax.Array]
"""V[k, p] → the k products A vᵢ [k, p]: vectors are rows."""


class LinearOperator(NamedTuple):
    """A symmetric matrix A[p, p] given by `matvec` and `matmat`, its products with one vector and with k; `size` is p.

    `vectors` say how those that it is multiplied with are drawn and kept (default: on one device).
    The k products of one `matmat` may share work that k calls of `matvec` would repeat.
    """

    matvec: Matvec
    matmat: Matmat
    size: int
    vectors: Vectors | None = None

    @property
    def space(self) -> Vectors:
        """The vectors that it is multiplied with."""
        return self.vectors or Vectors(self.size)
