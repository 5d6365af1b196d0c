"""A symmetric linear operator → Krylov bases, Ritz pairs with residual bounds.

`block_lanczos` finds the ends of the spectrum; `lanczos` makes the tridiagonal matrices of a spectral density. The
block method is also given in parts (`krylov_start`, `krylov_extend`), for a loop that spends the same product now on
a Krylov step and now on something else.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from mdjax.linalg.operators import LinearOperator
from mdjax.linalg.orthonormalization import row_lengths
from mdjax.linalg.vectors import Vectors

_KEPT, _EXHAUSTED = 1e-4, 1e-6
"""A new direction at least `_KEPT`·‖A‖ long is kept, one below `_EXHAUSTED`·‖A‖ is rounding and is replaced."""


class Wanted(NamedTuple):
    """Which Ritz pairs have to converge: the `num_largest` and `num_smallest`, to residuals of `tolerance`·|θ|.

    An eigenvalue's error is about its residual² over the gap to the next one (Kato & Temple), so at most
    10·`tolerance`²·|θ| for gaps from a tenth of it on; where the next Ritz value is closer, the residual has to be so
    much smaller that this holds.
    """

    num_largest: int = 1
    num_smallest: int = 0
    tolerance: float = 1e-3


LARGEST = Wanted()


class Krylov(NamedTuple):
    """A block Lanczos run of blocks of b vectors on A[p, p]: A Bᵀ = Bᵀ T + Nᵀ C E + (an error of norm `dropped`).

    E[b, m] picks the last block of rows of the basis; all the other symbols are fields:

        basis: B[m, p], orthonormal rows, which are zero from `num_steps`·b on.
        projected: T[m, m] = B A Bᵀ, whose eigenvalues are the Ritz values.
        off_diagonal: C[b, b], the next off-diagonal block of T; each row's norm is the length of a new direction.
        next_block: N[b, p], the new directions at unit length, to be multiplied next; where a direction was so short
            that only rounding had made it, a random one stands in its place.
        dropped: Frobenius norm of all directions that were replaced so.
        norm_bound: the length of the longest product so far, a lower bound of ‖A‖.
        product_squares: Σᵢ ‖A Bᵢ‖².
        num_steps: blocks multiplied so far.
        finished: whether no further step is needed.
    """

    basis: jax.Array
    projected: jax.Array
    off_diagonal: jax.Array
    next_block: jax.Array
    dropped: jax.Array
    norm_bound: jax.Array
    product_squares: jax.Array
    num_steps: jax.Array
    finished: jax.Array

    @property
    def num_products(self) -> jax.Array:
        """Products so far: rows of the basis that are in use."""
        return self.num_steps * self.next_block.shape[0]


def krylov_start(key: jax.Array, vectors: Vectors, *, block_size: int, max_steps: int) -> Krylov:
    """An empty run that begins at random orthonormal vectors.

        key: for the random vectors.
        vectors: those of p numbers, p being the rows of the matrix.
        block_size: b, vectors multiplied in one step.
        max_steps: steps that the basis has room for: block_size·max_steps rows.

    Of a matrix of at most block_size·max_steps rows all vectors are taken at once: its one step is exact.
    """
    size = vectors.size
    rows = min(block_size * max_steps, size)
    block_size = rows if rows == size else block_size
    zero = jnp.zeros(())
    return Krylov(
        basis=vectors.zeros(rows),
        projected=jnp.zeros((rows, rows)),
        off_diagonal=jnp.zeros((block_size, block_size)),
        next_block=vectors.orthonormal(vectors.normal(key, block_size)).rows,
        dropped=zero,
        norm_bound=zero,
        product_squares=zero,
        num_steps=jnp.zeros((), jnp.int32),
        finished=jnp.zeros((), bool),
    )


def krylov_extend(
    krylov: Krylov,
    products: jax.Array,
    key: jax.Array,
    *,
    min_steps: int,
    wanted: Wanted,
    vectors: Vectors | None = None,
) -> Krylov:
    """One step of block Lanczos.

        krylov: the run so far.
        products: A `krylov.next_block` [b, p].
        key: for the random directions.
        min_steps: steps to take at least.
        wanted: the Ritz pairs that have to converge.
        vectors: those that the matrix is multiplied with (default: on one device).

    Orthogonalised twice against the whole basis. Directions in which the products bring nothing new (an invariant
    subspace) give way to random ones, gradually over two decades of their length: a sharp threshold would let
    rounding decide between two different runs. Finished after at least `min_steps` when the wanted pairs have
    converged, when the basis is full, or at a product that is not finite. Cost: 8·b·m·p flops for a basis of m rows.
    """
    block = krylov.next_block
    num_rows, (width, length) = len(krylov.basis), block.shape
    vectors = vectors or Vectors(length)
    row = krylov.num_steps * width
    basis = vectors.placed(jax.lax.dynamic_update_slice(krylov.basis, block, (row, 0)))
    finite = jnp.all(jnp.isfinite(products))
    replaced = row_lengths(krylov.off_diagonal)
    replaced = (1 - _kept(replaced, krylov.norm_bound)) * replaced
    dropped = jnp.hypot(krylov.dropped, row_lengths(replaced[None])[0])
    overlap = basis @ products.T
    remainder = products - overlap.T @ basis
    projected = jax.lax.dynamic_update_slice(krylov.projected, overlap, (0, row))
    projected = jax.lax.dynamic_update_slice(projected, overlap.T, (row, 0))

    rows, triangle = vectors.orthonormal(remainder)
    # The products are what the basis and the new rows make of these columns.
    norm_bound = jnp.maximum(krylov.norm_bound, jnp.max(row_lengths(jnp.concatenate([overlap, triangle]).T)))
    # LAPACK may iterate for ever on NaN.
    left, lengths, right = _svd(jnp.where(finite, triangle, 0.0))
    kept = _kept(lengths, norm_bound)
    fresh = vectors.normal(jax.random.fold_in(key, krylov.num_steps), width) / vectors.size**0.5
    rows = kept[:, None] * (left.T @ rows) + (1 - kept)[:, None] * fresh
    rows = vectors.orthonormal(rows - (rows @ basis.T) @ basis).rows

    num_steps = krylov.num_steps + 1
    off_diagonal = lengths[:, None] * right
    converged = _converged(jnp.where(finite, projected, 0.0), off_diagonal, dropped, num_steps * width, wanted)
    full = (num_steps + 1) * width > num_rows
    return Krylov(
        basis=basis,
        projected=jnp.where(finite, projected, jnp.nan),
        off_diagonal=off_diagonal,
        next_block=rows,
        dropped=dropped,
        norm_bound=norm_bound,
        product_squares=krylov.product_squares + jnp.sum(products**2),
        num_steps=num_steps,
        finished=((num_steps >= min_steps) & converged) | full | ~finite,
    )


def block_lanczos(
    operator: LinearOperator,
    key: jax.Array,
    *,
    block_size: int = 4,
    min_steps: int = 1,
    max_steps: int = 16,
    wanted: Wanted = LARGEST,
) -> Krylov:
    """Block Lanczos from random vectors until the wanted ends of the spectrum of A[p, p] have converged.

        operator: A.
        key: for the first block and for directions that replace exhausted ones.
        block_size: b, products taken together in a step.
        min_steps, max_steps: steps to take at least and at most.
        wanted: the Ritz pairs that have to converge.

    Blocks find eigenvalues that lie close together, or coincide, in fewer products than single vectors, and a block
    of products costs less than as many single ones. Cost: b products a step and 8·b·m·p flops to orthogonalise, with
    m ≤ `max_steps`·b; memory (m + 4·b)·p floats. Under `vmap` every model stops by its own test.
    Source: Golub & Van Loan, Matrix Computations, section 10.3.6; twice is enough (Parlett).
    """
    start_key, fresh_key = jax.random.split(key)
    vectors = operator.space
    start = krylov_start(start_key, vectors, block_size=block_size, max_steps=max_steps)

    def step(krylov: Krylov) -> Krylov:
        products = operator.matmat(krylov.next_block)
        return krylov_extend(krylov, products, fresh_key, min_steps=min_steps, wanted=wanted, vectors=vectors)

    return jax.lax.while_loop(lambda krylov: ~krylov.finished, step, start)


def ritz_vectors(krylov: Krylov, num_largest: int) -> jax.Array:
    """Unit eigenvector estimates [k, p] of the k = `num_largest` largest Ritz values, in descending order of these.

    NaN after a run on a matrix that is not finite.
    """
    finite = jnp.all(jnp.isfinite(krylov.projected))
    _, vectors = _padded_eigh(jnp.where(finite, krylov.projected, 0.0), krylov.num_products)
    index = krylov.num_products - 1 - jnp.arange(num_largest)
    return jnp.where(finite, vectors[:, index].T @ krylov.basis, jnp.nan)


class RitzPairs(NamedTuple):
    """Ritz values[m] in ascending order and, for each, a bound on its distance to an eigenvalue of the matrix."""

    values: np.ndarray
    residuals: np.ndarray

    def converged(self, tolerance: float) -> np.ndarray:
        """Which residuals[m] are at most `tolerance`·|θ|, or as small as the rounding of float32 lets them be."""
        return self.residuals <= np.maximum(tolerance * np.abs(self.values), _rounding(np.abs(self.values).max()))


def ritz_pairs(projected: np.ndarray, off_diagonal: np.ndarray, dropped: float, num_steps: int) -> RitzPairs:
    """The Ritz pairs of one run, from fields of its `Krylov`, in float64 on the host.

        projected: T[m, m].
        off_diagonal: C[b, b].
        dropped: a norm, in the matrix's unit.
        num_steps: blocks in use: the leading num_steps·b rows of T count.

    The residual of T's eigenvector s is ‖C s_last‖ + dropped, with s_last its last b entries. Input that is not
    finite gives NaN.
    """
    width = len(off_diagonal)
    size = max(int(num_steps), 1) * width
    active = np.asarray(projected, np.float64)[:size, :size]
    if not (np.isfinite(active).all() and np.isfinite(off_diagonal).all()):
        return RitzPairs(np.full(size, np.nan), np.full(size, np.nan))
    values, vectors = scipy.linalg.eigh((active + active.T) / 2)
    residuals = np.linalg.norm(np.asarray(off_diagonal, np.float64) @ vectors[size - width :], axis=0) + float(dropped)
    return RitzPairs(values, residuals)


class Tridiagonal(NamedTuple):
    """Lanczos runs from k starting vectors: diagonals alpha[k, m], off-diagonals beta[k, m].

    beta[:, m−1] are the norms of the last residuals. Where a run has met an invariant subspace, beta is 0 and what
    follows has no weight.
    """

    alpha: jax.Array
    beta: jax.Array


def lanczos(operator: LinearOperator, starts: jax.Array, *, num_steps: int) -> Tridiagonal:
    """Independent Lanczos runs from starts[k, p], side by side, each re-orthogonalised against all of its own vectors.

    Cost: `num_steps` = m products with blocks of k, and 8·k·m·p flops each; memory k·m·p floats for the bases.
    Source: Golub & Van Loan, Matrix Computations, section 10.3; twice is enough (Parlett).
    """
    num_runs, space = len(starts), operator.space
    num_steps = min(num_steps, operator.size)

    def step(carry: tuple[jax.Array, ...], j: jax.Array) -> tuple[tuple[jax.Array, ...], Tridiagonal]:
        bases, vectors, norm_bound = carry
        bases = space.placed(bases.at[:, j].set(vectors))
        products = operator.matmat(vectors)
        alpha = jnp.sum(vectors * products, axis=1)
        remainder = products
        for _ in range(2):
            remainder = remainder - jnp.einsum("kmp,km->kp", bases, jnp.einsum("kmp,kp->km", bases, remainder))
        beta = jnp.linalg.norm(remainder, axis=1)
        # What rounding leaves of an exhausted subspace is noise: it must not become a direction.
        norm_bound = jnp.maximum(norm_bound, jnp.linalg.norm(products, axis=1))
        going_on = ~(beta <= 100 * jnp.finfo(beta.dtype).eps * norm_bound)
        beta = jnp.where(going_on, beta, 0.0)
        vectors = jnp.where(going_on[:, None], remainder / jnp.where(going_on, beta, 1.0)[:, None], 0.0)
        return (bases, vectors, norm_bound), Tridiagonal(alpha, beta)

    first = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    start = space.zeros(num_runs, num_steps).astype(starts.dtype), first, jnp.zeros(num_runs, starts.dtype)
    _, steps = jax.lax.scan(step, start, jnp.arange(num_steps))
    return Tridiagonal(steps.alpha.T, steps.beta.T)


def _svd(triangle: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The singular value decomposition of a triangle with a diagonal ≥ 0; of a single number it is that number."""
    if len(triangle) > 1:
        return tuple(jnp.linalg.svd(triangle))
    return jnp.ones_like(triangle), triangle[0], jnp.ones_like(triangle)


def _kept(lengths: jax.Array, norm_bound: jax.Array) -> jax.Array:
    """How much of each new direction is kept: 0 to 1, smoothly in the logarithm of its length, see `_KEPT`."""
    tiny = jnp.finfo(lengths.dtype).tiny
    fraction = jnp.log(jnp.maximum(lengths, tiny) / jnp.maximum(_EXHAUSTED * norm_bound, tiny))
    fraction = jnp.clip(jnp.where(lengths > 0, fraction, 0.0) / np.log(_KEPT / _EXHAUSTED), 0, 1)
    return fraction * fraction * (3 - 2 * fraction)


def _rounding(norm: Any) -> Any:
    """The length of a residual that float32 cannot tell from zero, for a matrix of that norm."""
    return 32 * np.finfo(np.float32).eps * norm


def _padded_eigh(projected: jax.Array, size: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenpairs of the leading `size` rows, in ascending order; what fills up the array comes after them."""
    used = jnp.arange(len(projected)) < size
    # Of the matrix's own scale: an eigenvalue far above it would be all that rounding leaves of the others.
    above_all = 2 * jnp.sum(jnp.abs(projected))
    above_all = jnp.where(above_all > 0, above_all, 1.0)
    return jnp.linalg.eigh(projected + jnp.diag(jnp.where(used, 0.0, above_all)))


def _converged(
    projected: jax.Array, off_diagonal: jax.Array, dropped: jax.Array, size: jax.Array, wanted: Wanted
) -> jax.Array:
    """Whether the wanted Ritz pairs have converged, in the working precision: good enough to decide when to stop."""
    values, vectors = _padded_eigh(projected, size)
    width = len(off_diagonal)
    last = jax.lax.dynamic_slice(vectors, (size - width, 0), (width, len(vectors)))
    residuals = row_lengths((off_diagonal @ last).T) + dropped
    index = jnp.arange(len(values))
    is_wanted = (index < wanted.num_smallest) | ((index >= size - wanted.num_largest) & (index < size))
    largest = jnp.max(jnp.where(index < size, jnp.abs(values), 0.0))
    steps = jnp.diff(values, prepend=-jnp.inf, append=jnp.inf)
    gaps = jnp.minimum(steps[:-1], steps[1:])
    errors = jnp.minimum(residuals, residuals**2 / jnp.maximum(gaps, jnp.finfo(gaps.dtype).tiny))
    small = residuals <= jnp.maximum(wanted.tolerance * jnp.abs(values), _rounding(largest))
    small &= errors <= jnp.maximum(10 * wanted.tolerance**2 * jnp.abs(values), _rounding(largest))
    enough = size >= wanted.num_largest + wanted.num_smallest
    return enough & jnp.all(small | ~is_wanted)
