"""A symmetric matrix-vector product → the trace, with a standard error."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mdjax.trees import Estimate


class TraceEstimate(NamedTuple):
    """The estimate and the number of products it took (those of the deflating basis not counted)."""

    estimate: Estimate
    num_products: jax.Array


def deflated_trace(
    matvec: Callable[[jax.Array], jax.Array],
    basis: jax.Array,
    exact: jax.Array,
    key: jax.Array,
    *,
    min_probes: int,
    max_probes: int,
    tolerance: float,
) -> TraceEstimate:
    """Trace of A = `exact` on the span of basis[m, p] plus Hutchinson on its orthogonal complement.

    basis has orthonormal (or zero) rows and `exact` is Σ qᵢᵀ A qᵢ over them, which a Lanczos run knows as the sum
    of its diagonal. Rademacher probes are projected off the basis and averaged until the standard error is at
    most `tolerance` of the trace's magnitude (after `min_probes`, so that the error itself is known), or until
    `max_probes`. With the large eigenvalues deflated the variance that is left is small: tens of products where
    plain Hutchinson takes hundreds. Cost: one product and 4·m·p flops a probe.
    Sources: Hutchinson 1990; Meyer, Musco, Musco & Woodruff, "Hutch++", SOSA 2021 (the deflation).
    """
    size = basis.shape[1]

    def probe(carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        number, mean, squares = carry
        vector = jax.random.rademacher(jax.random.fold_in(key, number), (size,), basis.dtype)
        vector = vector - basis.T @ (basis @ vector)
        sample = jnp.vdot(vector, matvec(vector))
        # Welford's update: a sum of squares would lose the variance of large, nearly equal samples.
        step = sample - mean
        mean = mean + step / (number + 1)
        return number + 1, mean, squares + step * (sample - mean)

    def standard_error(number: jax.Array, squares: jax.Array) -> jax.Array:
        return jnp.sqrt(squares / (jnp.maximum(number - 1, 1) * jnp.maximum(number, 1)))

    def unfinished(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        number, mean, squares = carry
        inaccurate = standard_error(number, squares) > tolerance * jnp.abs(exact + mean)
        return (number < min_probes) | (inaccurate & (number < max_probes))

    zero = jnp.zeros((), basis.dtype)
    number, mean, squares = jax.lax.while_loop(unfinished, probe, (jnp.zeros((), jnp.int32), zero, zero))
    return TraceEstimate(Estimate(exact + mean, standard_error(number, squares)), number)
