"""A symmetric matrix-vector product → Lanczos basis → Ritz values with residual bounds."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg


class Krylov(NamedTuple):
    """A Lanczos run: A Qᵀ = Qᵀ T + q eᵀ, with T tridiagonal of diagonal `alpha` and off-diagonal `beta`.

    basis[m, p] has orthonormal rows, zero from `num_steps` on; alpha[m]; beta[m], whose entry num_steps−1 is the
    norm of the residual vector q; num_steps is the number of products used.
    """

    basis: jax.Array
    alpha: jax.Array
    beta: jax.Array
    num_steps: jax.Array


class _Carry(NamedTuple):
    krylov: Krylov
    vector: jax.Array
    done: jax.Array


def lanczos(
    matvec: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    min_steps: int,
    max_steps: int,
    tolerance: float,
) -> Krylov:
    """Lanczos from start[p], fully re-orthogonalised, until the largest Ritz value has converged.

    Stops after at least `min_steps` products once the residual bound of the largest Ritz value θ is at most
    `tolerance`·|θ|, at `max_steps`, at an invariant subspace, or at a product that is not finite. Cost: one product
    a step and 4·m·p flops for orthogonalisation; memory m·p floats for the basis. Under `vmap` every model stops by
    its own test. Source: Golub & Van Loan, Matrix Computations, section 10.3; twice is enough (Parlett).
    """
    max_steps = min(max_steps, start.size)
    min_steps = min(min_steps, max_steps)
    zeros = jnp.zeros(max_steps, start.dtype)
    krylov = Krylov(jnp.zeros((max_steps, start.size), start.dtype), zeros, zeros, jnp.zeros((), jnp.int32))

    def step(carry: _Carry) -> _Carry:
        basis, alpha, beta, j = carry.krylov
        basis = basis.at[j].set(carry.vector)
        product = matvec(carry.vector)
        alpha = alpha.at[j].set(jnp.vdot(carry.vector, product))
        remainder = product
        for _ in range(2):
            remainder = remainder - basis.T @ (basis @ remainder)
        norm = jnp.linalg.norm(remainder)
        beta = beta.at[j].set(norm)
        # What rounding leaves of an exhausted subspace is noise: going on would add directions of no meaning.
        scale = jnp.linalg.norm(product)
        exhausted = norm <= 100 * jnp.finfo(norm.dtype).eps * jnp.maximum(scale, jnp.max(jnp.abs(alpha)))
        finite = jnp.isfinite(norm) & jnp.isfinite(alpha[j])
        # LAPACK may iterate for ever on NaN.
        value, residual = _top_ritz(jnp.where(finite, alpha, 0.0), jnp.where(finite, beta, 0.0), j + 1)
        converged = (j + 1 >= min_steps) & (residual <= tolerance * jnp.abs(value))
        vector = jnp.where(exhausted, 0.0, remainder / jnp.where(norm > 0, norm, 1.0))
        return _Carry(Krylov(basis, alpha, beta, j + 1), vector, exhausted | converged | ~finite)

    first = start / jnp.linalg.norm(start)
    final = jax.lax.while_loop(
        lambda carry: ~carry.done & (carry.krylov.num_steps < max_steps),
        step,
        _Carry(krylov, first, jnp.zeros((), bool)),
    )
    return final.krylov


def _top_ritz(alpha: jax.Array, beta: jax.Array, num_steps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The largest Ritz value and its residual bound in the working precision, good enough to decide when to stop."""
    size = len(alpha)
    index = jnp.arange(size)
    below_all = -(1 + jnp.sum(jnp.abs(alpha)) + 2 * jnp.sum(jnp.abs(beta)))
    diagonal = jnp.where(index < num_steps, alpha, below_all)
    off_diagonal = jnp.where(index[:-1] < num_steps - 1, beta[:-1], 0.0)
    values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1))
    return values[-1], beta[num_steps - 1] * jnp.abs(vectors[num_steps - 1, -1])


class RitzPairs(NamedTuple):
    """Ritz values[m] in ascending order, the norm of each residual[m], and the squared first components[m]."""

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray


def ritz_pairs(alpha: np.ndarray, beta: np.ndarray, num_steps: int) -> RitzPairs:
    """The tridiagonal eigenproblem of one Lanczos run, in float64 on the host.

    Every residual bounds the distance from its value to an eigenvalue of the matrix. Non-finite input gives NaN.
    """
    alpha = np.asarray(alpha, np.float64)[:num_steps]
    beta = np.asarray(beta, np.float64)[:num_steps]
    if not (np.isfinite(alpha).all() and np.isfinite(beta).all()):
        return RitzPairs(*(np.full(max(int(num_steps), 1), np.nan) for _ in range(3)))
    values, vectors = scipy.linalg.eigh_tridiagonal(alpha, beta[:-1])
    return RitzPairs(values, beta[-1] * np.abs(vectors[-1]), vectors[0] ** 2)
