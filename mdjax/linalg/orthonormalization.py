"""Rows → orthonormal rows of the same span, and the triangle between them, by programs that are small to compile."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Orthonormal(NamedTuple):
    """Rows W[b, p] as Wᵀ = Qᵀ R: orthonormal `rows` Q[b, p] and the upper `triangle` R[b, b], ≥ 0 on its diagonal."""

    rows: jax.Array
    triangle: jax.Array


def orthonormal(rows: jax.Array) -> Orthonormal:
    """Orthonormal rows of the span of rows[b, p]: on a CPU by Householder's QR, elsewhere as `gram_schmidt`.

    On a CPU LAPACK's is as fast and a third of the program to compile. On a TPU it is a large program, four times as
    long to compile, whose columns are padded to 128. Cost: as there.
    """
    return jax.lax.platform_dependent(rows, cpu=householder, default=gram_schmidt)


def householder(rows: jax.Array) -> Orthonormal:
    """Orthonormal rows by Householder's QR, whatever the rank of rows[b, p]: those beyond it are any that fit."""
    columns, triangle = jnp.linalg.qr(rows.T)
    signs = jnp.where(jnp.diag(triangle) < 0, -1.0, 1.0)
    return Orthonormal(signs[:, None] * columns.T, signs[:, None] * triangle)


def gram_schmidt(rows: jax.Array) -> Orthonormal:
    """Orthonormal rows by Gram–Schmidt in the order of rows[b, p], each orthogonalised twice.

    A row that depends on those before it but for rounding gives what rounding left of it at unit length, which is still
    orthogonal to them, or, where nothing is left, a row of zeros; the triangle tells by its diagonal: at most a few
    roundings of the row's length. Rows may be of any finite length, down to the smallest normal number. What is not
    finite makes its row and those after it NaN.

    Products with the whole block, as Cholesky's method makes them, lose what is shorter than the square root of the
    rounding, take a third round for it, and are larger programs.
    Cost: 8·b²·p flops in b steps; memory 2·b·p floats.
    Source: Giraud, Langou, Rozložník & van den Eshof, "Rounding error analysis of the classical Gram–Schmidt
    orthogonalization process", Numer. Math. 2005: twice is enough.
    """
    scaled, largest = _scaled(rows)

    def step(found: jax.Array, numbered: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        index, row = numbered
        first = found @ row
        row = row - first @ found
        second = found @ row
        row = row - second @ found
        length = jnp.sqrt(row @ row)
        unit = row / jnp.where(length > 0, length, 1.0)
        return jax.lax.dynamic_update_slice(found, unit[None], (index, 0)), (first + second, length)

    found, (overlaps, lengths) = jax.lax.scan(step, jnp.zeros_like(rows), (jnp.arange(len(rows)), scaled))
    return Orthonormal(found, (overlaps.T + jnp.diag(lengths)) * largest[:, 0])


def row_lengths(rows: jax.Array) -> jax.Array:
    """The Euclidean length [b] of each of rows[b, p], whatever its scale: no square leaves the range of the numbers."""
    scaled, largest = _scaled(rows)
    return jnp.linalg.norm(scaled, axis=1) * largest[:, 0]


def _scaled(rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Each row divided by its largest entry, and these [b, 1]; 1 for a row of zeros."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    largest = jnp.where(largest > 0, largest, 1.0)
    return rows / largest, largest
