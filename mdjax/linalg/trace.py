"""A symmetric matrix known by its products → trace, Frobenius norm and diagonal, with standard errors.

Four methods: Hutchinson's, Hutch++, XTrace, and Hutchinson's deflated by a block Krylov run, the cheapest where the
spectrum has outliers and its ends are wanted as well. All take products in blocks, as `block(V[k, p])` → A V [k, p].
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mdjax.linalg.krylov import LARGEST, Block, Krylov, Wanted, krylov_extend, krylov_start


class Estimate(NamedTuple):
    """A value and its standard error, in the value's unit; an exact value has standard error 0."""

    value: jax.Array
    standard_error: jax.Array


class TraceResult(NamedTuple):
    """Estimates of tr A, of ‖A‖_F and (where the method gives it) of A's diagonal[p], and the products they took."""

    trace: Estimate
    frobenius: Estimate
    diagonal: Estimate | None
    num_products: jax.Array


class Sampling(NamedTuple):
    """How long to sample: in blocks, until the trace's standard error is at most `tolerance`·|trace|.

    At least `min_probes` and, rounded up to whole blocks of `block_size`, at most `max_probes`.
    """

    tolerance: float = 0.02
    block_size: int = 4
    min_probes: int = 8
    max_probes: int = 100


DEFAULT_SAMPLING = Sampling()


class _Exact(NamedTuple):
    """What a basis B[m, p] of orthonormal (or zero) rows and its products settle exactly; P = BᵀB.

    trace of PAP; squares = ‖A‖_F² − ‖(1−P)A(1−P)‖_F²; diagonal[p] of A − (1−P)A(1−P).
    """

    trace: jax.Array
    squares: jax.Array
    diagonal: jax.Array


class _Probes(NamedTuple):
    """Running means over Rademacher probes z of C = (1−P)A(1−P): of zᵀCz, ‖Cz‖² and z ⊙ Cz, with their spread.

    `diagonal_squares` is the mean of ‖diag C‖² as pairs of probes in the same block estimate it;
    `norm_spread` and `spread`[p] are the sums of squared deviations of ‖Cz‖² and z ⊙ Cz.
    """

    number: jax.Array
    trace: jax.Array
    squares: jax.Array
    norm_spread: jax.Array
    diagonal_squares: jax.Array
    diagonal: jax.Array
    spread: jax.Array


def hutchinson(block: Block, size: int, key: jax.Array, sampling: Sampling = DEFAULT_SAMPLING) -> TraceResult:
    """Hutchinson's estimator with Rademacher probes; p = `size`.

    Cost: 2(‖A‖_F² − ‖diag A‖²)/(tolerance·tr A)² products, in blocks; memory 3·block_size·p floats. The standard
    error comes from that formula, with the norms estimated by the same products: for a Hessian it is far less noisy
    than the spread of a few samples. Sources: Hutchinson 1990; Bekas, Kokiopoulou & Saad 2007 (the diagonal).
    """
    zero = jnp.zeros(())
    exact = _Exact(zero, zero, jnp.zeros(size))
    return _sampled(block, jnp.zeros((0, size)), exact, key, sampling, jnp.zeros((), jnp.int32))


def hutch_pp(
    block: Block, size: int, key: jax.Array, sampling: Sampling = DEFAULT_SAMPLING, *, sketch_size: int = 12
) -> TraceResult:
    """Hutch++: exact on the range of A Ω for `sketch_size` random columns Ω, Hutchinson on its complement.

    Cost: 2·sketch_size products and those of the probes; memory 2·sketch_size·p floats.
    Source: Meyer, Musco, Musco & Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021, algorithm 1,
    with as many probes as the wanted error takes.
    """
    sketch_key, key = jax.random.split(key)
    rank = min(sketch_size, size)

    def multiply(rows: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        products = block(rows)
        return jnp.linalg.qr(products.T)[0].T, (rows, products)

    # The same product twice: written as a loop it is compiled once.
    start = jax.random.normal(sketch_key, (rank, size))
    _, (rows, products) = jax.lax.scan(multiply, start, None, length=2)
    basis, images = rows[1], products[1]
    exact = _exact(basis, images @ basis.T, jnp.sum(images**2), jnp.sum(basis * images, axis=0))
    return _sampled(block, basis, exact, key, sampling, jnp.asarray(2 * rank, jnp.int32))


def deflated_trace(
    block: Block,
    size: int,
    key: jax.Array,
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    min_steps: int = 5,
    max_steps: int = 16,
    wanted: Wanted = LARGEST,
) -> tuple[Krylov, TraceResult]:
    """A block Krylov run until the wanted eigenvalues have converged, then Hutchinson on the basis's complement.

    Every product serves both: the basis holds the outliers and a good part of the bulk after `min_steps` blocks, so
    few probes are left to take, and one program holds the product once. Under `vmap` every model goes at its own
    pace. Cost: the products reported, `block_size`·max_steps + max_probes at most, and 8·m·p flops each; memory
    (block_size·(max_steps + 8))·p floats.
    Unlike single-vector Lanczos, whose late vectors are nearly undetermined, a few steps of a block are a
    well-conditioned basis: rounding moves the trace by a small part of its standard error.
    Sources: Golub & Van Loan, Matrix Computations, section 10.3.6; Meyer et al. 2021 (deflation of the probes).
    """
    start_key, fresh_key, probe_key = jax.random.split(key, 3)
    start = krylov_start(start_key, size, block_size=sampling.block_size, max_steps=max_steps)
    # A matrix that is no larger than the basis is taken whole; its probes come in blocks of the same size.
    sampling = sampling._replace(block_size=start.next.shape[0])

    def step(carry: tuple[Krylov, _Probes]) -> tuple[Krylov, _Probes]:
        krylov, probes = carry
        signs = _signs(probe_key, probes, sampling.block_size)
        products = block(jnp.where(krylov.finished, _deflated(signs, krylov.basis), krylov.next))

        def extend() -> tuple[Krylov, _Probes]:
            return krylov_extend(krylov, products, fresh_key, min_steps=min_steps, wanted=wanted), probes

        def sample() -> tuple[Krylov, _Probes]:
            return krylov, _updated(probes, signs, _deflated(products, krylov.basis))

        return jax.lax.cond(krylov.finished, sample, extend)

    def unfinished(carry: tuple[Krylov, _Probes]) -> jax.Array:
        krylov, probes = carry
        complete = krylov.num_products >= size
        return ~krylov.finished | (~complete & _inaccurate(probes, jnp.trace(krylov.projected), sampling))

    krylov, probes = jax.lax.while_loop(unfinished, step, (start, _no_probes(size)))
    exact = _exact(krylov.basis, krylov.projected, krylov.image_squares, krylov.diagonal)
    return krylov, _result(exact, probes, krylov.num_products)


def xtrace(block: Block, size: int, key: jax.Array, *, num_probes: int = 16) -> TraceResult:
    """XTrace: every probe is estimated with the range of all the others deflated.

    Cost: 2·num_probes products, no more and no fewer; memory 4·num_probes·p floats. Frobenius norm by the same
    leave-one-out scheme; no diagonal. The standard errors are √2 times those of independent estimates: the error of
    probe i's estimate is a sum over the other probes of terms symmetric in the two, so each counts twice in the mean.
    Source: Epperly, Tropp & Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM
    J. Matrix Anal. Appl. 2024, section 2 and equation (2.6).
    """
    number = min(num_probes, size)
    start = jax.random.normal(key, (number, size))

    def multiply(carry: tuple[jax.Array, jax.Array], _: None):
        rows, _triangle = carry
        products = block(rows)
        columns, triangle = jnp.linalg.qr(products.T)
        return (columns.T, triangle), (rows, products, triangle)

    _, (rows, products, triangles) = jax.lax.scan(multiply, (start, jnp.zeros((number, number))), None, length=2)
    basis, (images, basis_images), triangle = rows[1], products, triangles[0]
    projected = basis_images @ basis.T
    projected = (projected + projected.T) / 2
    # Column i of `left_out` is the one direction of the basis that leaving probe i out removes. The shift keeps the
    # triangle of a matrix of lower rank than num_probes invertible.
    shift = jnp.finfo(triangle.dtype).eps * jnp.max(jnp.abs(triangle)) + jnp.finfo(triangle.dtype).tiny
    left_out = jnp.linalg.inv(triangle + shift * jnp.eye(number)).T
    left_out = left_out / jnp.linalg.norm(left_out, axis=0)

    def without(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        direction = left_out[:, i]
        weights = basis @ start[i]
        weights = weights - direction * (direction @ weights)
        probe = start[i] - weights @ basis
        image = images[i] - weights @ basis_images
        scale = (size - number + 1) / jnp.sum(probe**2)
        turned = projected @ direction
        value = jnp.trace(projected) - direction @ turned + scale * (probe @ image)
        inside = basis @ image
        outside = jnp.sum(image**2) - jnp.sum((inside - direction * (direction @ inside)) ** 2)
        basis_squares = jnp.sum(basis_images**2) - jnp.sum((direction @ basis_images) ** 2)
        core_squares = jnp.sum(projected**2) - 2 * jnp.sum(turned**2) + (direction @ turned) ** 2
        return value, 2 * basis_squares - core_squares + scale * outside

    values, squares = jax.lax.map(without, jnp.arange(number))
    trace = Estimate(jnp.mean(values), jnp.std(values, ddof=1) * (2 / number) ** 0.5)
    square = Estimate(jnp.mean(squares), jnp.std(squares, ddof=1) * (2 / number) ** 0.5)
    return TraceResult(trace, _root(square), None, jnp.asarray(2 * number, jnp.int32))


def _exact(basis: jax.Array, projected: jax.Array, image_squares: jax.Array, diagonal: jax.Array) -> _Exact:
    """From B, T = B A Bᵀ, ‖A Bᵀ‖_F² and Σ Bᵢ ⊙ A Bᵢ: with A = PA + AP − PAP + (1−P)A(1−P)."""
    inner = jnp.sum(basis * (projected @ basis), axis=0)
    return _Exact(jnp.trace(projected), 2 * image_squares - jnp.sum(projected**2), 2 * diagonal - inner)


def _sampled(
    block: Block, basis: jax.Array, exact: _Exact, key: jax.Array, sampling: Sampling, num_products: jax.Array
) -> TraceResult:
    def step(probes: _Probes) -> _Probes:
        signs = _signs(key, probes, sampling.block_size)
        return _updated(probes, signs, _deflated(block(_deflated(signs, basis)), basis))

    start = _no_probes(basis.shape[1])
    probes = jax.lax.while_loop(lambda probes: _inaccurate(probes, exact.trace, sampling), step, start)
    return _result(exact, probes, num_products)


def _deflated(vectors: jax.Array, basis: jax.Array) -> jax.Array:
    return vectors - (vectors @ basis.T) @ basis


def _signs(key: jax.Array, probes: _Probes, block_size: int) -> jax.Array:
    key = jax.random.fold_in(key, probes.number)
    return jax.random.rademacher(key, (block_size, probes.diagonal.size), probes.diagonal.dtype)


def _no_probes(size: int) -> _Probes:
    zero = jnp.zeros(())
    return _Probes(jnp.zeros((), jnp.int32), zero, zero, zero, zero, jnp.zeros(size), jnp.zeros(size))


def _updated(probes: _Probes, signs: jax.Array, images: jax.Array) -> _Probes:
    """With a block of probes z (rows of `signs`) and their images Cz."""
    count = len(signs)
    number = probes.number + count
    share = count / number
    diagonals = signs * images
    norms = jnp.sum(images**2, axis=1)
    # Σ over pairs a ≠ b of (z ⊙ Cz)_a · (z ⊙ Cz)_b: independent estimates of the diagonal, so no bias.
    pairs = (jnp.sum(jnp.sum(diagonals, axis=0) ** 2) - jnp.sum(norms)) / max(count * (count - 1), 1)
    pairs = pairs if count > 1 else jnp.zeros(())

    def moved(mean: jax.Array, spread: jax.Array, samples: jax.Array) -> tuple[jax.Array, jax.Array]:
        # Chan's update: sums of squares would lose the variance of large, nearly equal samples.
        block_mean = jnp.mean(samples, axis=0)
        within = jnp.sum((samples - block_mean) ** 2, axis=0)
        return mean + share * (block_mean - mean), spread + within + share * probes.number * (block_mean - mean) ** 2

    squares, norm_spread = moved(probes.squares, probes.norm_spread, norms)
    diagonal, spread = moved(probes.diagonal, probes.spread, diagonals)
    return _Probes(
        number=number,
        trace=probes.trace + share * (jnp.mean(jnp.sum(diagonals, axis=1)) - probes.trace),
        squares=squares,
        norm_spread=norm_spread,
        diagonal_squares=probes.diagonal_squares + share * (pairs - probes.diagonal_squares),
        diagonal=diagonal,
        spread=spread,
    )


def _standard_error(probes: _Probes) -> jax.Array:
    """Of the mean of zᵀCz, whose variance is 2(‖C‖_F² − ‖diag C‖²) for Rademacher z."""
    # The difference of two estimates: never taken for (almost) nothing.
    variance = 2 * jnp.maximum(probes.squares - probes.diagonal_squares, probes.squares / 10)
    return jnp.sqrt(variance / jnp.maximum(probes.number, 1))


def _inaccurate(probes: _Probes, exact_trace: jax.Array, sampling: Sampling) -> jax.Array:
    too_large = _standard_error(probes) > sampling.tolerance * jnp.abs(exact_trace + probes.trace)
    return (probes.number < sampling.min_probes) | (too_large & (probes.number < sampling.max_probes))


def _result(exact: _Exact, probes: _Probes, num_products: jax.Array) -> TraceResult:
    freedom = jnp.maximum(probes.number - 1, 1)
    # Student's t at 95 % over the normal quantile (Cornish & Fisher): ±2 standard errors of few samples cover 95 %.
    small_sample = (1 + 1.21 / freedom + 1.44 / freedom**2) / jnp.sqrt(freedom * jnp.maximum(probes.number, 1))
    return TraceResult(
        trace=Estimate(exact.trace + probes.trace, _standard_error(probes)),
        frobenius=_root(Estimate(exact.squares + probes.squares, small_sample * jnp.sqrt(probes.norm_spread))),
        diagonal=Estimate(exact.diagonal + probes.diagonal, small_sample * jnp.sqrt(probes.spread)),
        num_products=num_products + probes.number,
    )


def _root(square: Estimate) -> Estimate:
    """The square root of an estimate, its standard error by linearisation."""
    root = jnp.sqrt(jnp.maximum(square.value, 0.0))
    return Estimate(root, square.standard_error / jnp.maximum(2 * root, jnp.finfo(root.dtype).tiny))
