"""The vectors that a matrix is multiplied with: how they are drawn, kept and made orthonormal, on one device."""

import dataclasses

import jax
import jax.numpy as jnp

from mdjax.linalg.orthonormalization import Orthonormal, orthonormal


@dataclasses.dataclass(frozen=True)
class Vectors:
    """Vectors of `size` numbers, the last axis of arrays [..., size].

    Others keep them in another order and split over devices (`mdjax.landscape.split_vectors`): of these the last axis
    may be longer, by entries that are zero in every vector and in every product, and what is drawn with one key is the
    same vector in that order.
    """

    size: int

    def placed(self, array: jax.Array) -> jax.Array:
        """The array [..., size], kept where such vectors lie."""
        return array

    def zeros(self, *leading: int) -> jax.Array:
        """[*leading, size] of zeros."""
        return jnp.zeros((*leading, self.size))

    def normal(self, key: jax.Array, count: int | None = None) -> jax.Array:
        """`count` vectors [count, size] of independent N(0, 1), or without a count one [size]."""
        return jax.random.normal(key, (self.size,) if count is None else (count, self.size))

    def signs(self, key: jax.Array, count: int | None = None) -> jax.Array:
        """Likewise of independent signs ±1 (Rademacher)."""
        return jax.random.rademacher(key, (self.size,) if count is None else (count, self.size), jnp.float32)

    def orthonormal(self, rows: jax.Array) -> Orthonormal:
        """Orthonormal rows of the span of rows[b, size], and the triangle between them, ≥ 0 on its diagonal."""
        return orthonormal(rows)

    def factored(self, rows: jax.Array) -> Orthonormal:
        """Likewise, with a diagonal of any sign."""
        columns, triangle = jnp.linalg.qr(rows.T)
        return Orthonormal(columns.T, triangle)
