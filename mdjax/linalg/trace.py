"""A symmetric linear operator → its trace and Frobenius norm, with standard errors.

Four methods: Hutchinson's, Hutch++, XTrace, and Hutchinson's deflated by a Krylov run, the cheapest where the spectrum
has outliers and its ends are wanted as well. The last also takes a trace that is known, and adds what else is asked.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mdjax.linalg.krylov import LARGEST, Krylov, Wanted, krylov_extend, krylov_start
from mdjax.linalg.operators import LinearOperator
from mdjax.linalg.vectors import Vectors


class Estimate(NamedTuple):
    """A value and its standard error, in the value's unit; an exact value has standard error 0."""

    value: jax.Array
    standard_error: jax.Array


class TraceResult(NamedTuple):
    """Estimates of tr A and of ‖A‖_F, and the products that they took."""

    trace: Estimate
    frobenius: Estimate
    num_products: jax.Array


class Sampling(NamedTuple):
    """How long to sample: until the trace's standard error is at most `tolerance`·max(|tr A|, ‖A‖_F).

    Where positive and negative eigenvalues nearly cancel, the trace is small beside the norm, and the error relative
    to it could ask for any number of probes; where all have one sign, |tr A| ≥ ‖A‖_F. In blocks of `block_size`, at
    least `min_probes` and, rounded up to whole blocks, at most `max_probes`.
    """

    tolerance: float = 0.02
    block_size: int = 1
    min_probes: int = 5
    max_probes: int = 100


DEFAULT_SAMPLING = Sampling()


class _Exact(NamedTuple):
    """What the products of a basis B[m, p] of orthonormal (or zero) rows settle exactly; P = BᵀB.

    trace of PAP; squares = ‖A‖_F² − ‖(1−P)A(1−P)‖_F².
    """

    trace: jax.Array
    squares: jax.Array


class _Probes(NamedTuple):
    """Running means over `number` Rademacher probes z of C = (1−P)A(1−P): trace of zᵀCz and squares of ‖Cz‖².

    `diagonal[p]` is the mean of z ⊙ Cz, an estimate of diag C. Two estimates of the variance of ‖Cz‖², for few probes
    leave each of them uncertain: `norm_spread` is the sum of squared deviations of ‖Cz‖², with number − 1 degrees of
    freedom; `crossed` is the sum of `num_crossed` terms 2(yᵀCz)²/k with y = `image_sum[p]`, the sum of Cz over the k
    probes of the blocks before: (zᵀC²z')² of independent probes has the mean ‖C²‖_F², and the variance is at most twice
    that.
    """

    number: jax.Array
    trace: jax.Array
    squares: jax.Array
    diagonal: jax.Array
    norm_spread: jax.Array
    crossed: jax.Array
    num_crossed: jax.Array
    image_sum: jax.Array

    def diagonal_squares(self) -> jax.Array:
        """‖diag C‖² as all pairs of two probes estimate it: without the pairs of one with itself, ‖Cz‖², no bias."""
        number = jnp.maximum(self.number, 1)
        pairs = number * jnp.sum(self.diagonal**2) - self.squares
        return jnp.where(self.number > 1, pairs / jnp.maximum(number - 1, 1), 0.0)


def hutchinson(operator: LinearOperator, key: jax.Array, sampling: Sampling = DEFAULT_SAMPLING) -> TraceResult:
    """Hutchinson's estimator with Rademacher probes.

    Cost: 2(‖A‖_F² − ‖diag A‖²)/(tolerance·tr A)² products, in blocks; memory (3·block_size + 1)·p floats. The standard
    error comes from that formula, with the norms estimated by the same products: for a Hessian it is far less noisy
    than the spread of a few samples. Source: Hutchinson, "A stochastic estimator of the trace of the influence
    matrix", Commun. Stat. Simul. Comput. 1990.
    """
    zero = jnp.zeros(())
    nothing = operator.space.zeros(0)
    return _sampled(operator, nothing, _Exact(zero, zero), key, sampling, jnp.zeros((), jnp.int32))


def hutch_pp(
    operator: LinearOperator, key: jax.Array, sampling: Sampling = DEFAULT_SAMPLING, *, sketch_size: int = 12
) -> TraceResult:
    """Hutch++: exact on the range of A Ω for random columns Ω, Hutchinson on its complement.

        operator: A[p, p].
        key: for Ω and the probes.
        sampling: of the complement's trace.
        sketch_size: columns of Ω; at most p are taken.

    Cost: 2·sketch_size products and those of the probes; memory 2·sketch_size·p floats.
    Source: Meyer, Musco, Musco & Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021, algorithm 1,
    with as many probes as the wanted error takes.
    """
    sketch_key, key = jax.random.split(key)
    rank = min(sketch_size, operator.size)

    def multiply(rows: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        products = operator.matmat(rows)
        return operator.space.factored(products).rows, (rows, products)

    # The same product twice: written as a loop it is compiled once.
    start = operator.space.normal(sketch_key, rank)
    _, (rows, products) = jax.lax.scan(multiply, start, None, length=2)
    basis, images = rows[1], products[1]
    exact = _exact(images @ basis.T, jnp.sum(images**2))
    return _sampled(operator, basis, exact, key, sampling, jnp.asarray(2 * rank, jnp.int32))


def deflated_trace(
    operator: LinearOperator,
    key: jax.Array,
    sampling: Sampling = DEFAULT_SAMPLING,
    *,
    min_steps: int = 12,
    max_steps: int = 64,
    wanted: Wanted = LARGEST,
    known_trace: jax.Array | None = None,
) -> tuple[Krylov, TraceResult]:
    """A Krylov run while it pays, then Hutchinson's estimator on the complement of its basis.

        operator: A[p, p].
        key: for the Krylov run and the probes.
        sampling: of the complement's trace; its `block_size` is also that of the Krylov run.
        min_steps, max_steps: of the Krylov run.
        wanted: the Ritz pairs that have to converge.
        known_trace: tr A, where it is known otherwise: then the run ends as soon as the wanted pairs have converged,
            and `min_probes` are taken for the Frobenius norm alone.

    Every product serves both: the basis holds the outliers, whose part of the trace is then exact. With C = (1−P)A(1−P)
    a further direction q lowers ‖C‖_F² by 2‖Cq‖² − (qᵀCq)², which the run's own coefficients give, and the probes that
    C needs by 2/(tolerance·tr A)² times that; a product as a probe saves one. So the run goes on until the wanted pairs
    have converged and its last directions (a running mean, the last counting half) save less than one probe each. One
    program holds the product once. Under `vmap` every model goes at its own pace. Cost: the products reported,
    `block_size`·max_steps + max_probes at most, and 8·m·p flops each; memory (block_size·(max_steps + 8) + 1)·p floats.
    Single vectors find an eigenvalue in the fewest products, blocks those that coincide.
    Sources: Golub & Van Loan, Matrix Computations, section 10.3.6; Meyer et al. 2021 (deflation of the probes); when to
    go on: as Persson, Cortinovis & Kressner, "Improved variants of the Hutch++ algorithm for trace estimation", SIAM J.
    Matrix Anal. Appl. 2022, section 3, balance the two, here for one Krylov run.
    """
    start_key, fresh_key, probe_key = jax.random.split(key, 3)
    size, vectors = operator.size, operator.space
    start = krylov_start(start_key, vectors, block_size=sampling.block_size, max_steps=max_steps)
    # A matrix that is no larger than the basis is taken whole; its probes come in blocks of the same size.
    width = start.next_block.shape[0]
    sampling = sampling._replace(block_size=width)
    if known_trace is not None:
        sampling = sampling._replace(max_probes=sampling.min_probes)

    def step(carry: tuple[Krylov, jax.Array, _Probes]) -> tuple[Krylov, jax.Array, _Probes]:
        krylov, gain, probes = carry
        signs = _signs(probe_key, probes, width, vectors)
        products = operator.matmat(jnp.where(krylov.finished, _deflated(signs, krylov.basis), krylov.next_block))

        def extend() -> tuple[Krylov, jax.Array, _Probes]:
            steps = {"min_steps": min_steps, "wanted": wanted, "vectors": vectors}
            extended = krylov_extend(krylov, products, fresh_key, **steps)
            if known_trace is not None:
                return extended, gain, probes
            inside = products @ krylov.next_block.T
            saved = (jnp.sum(inside**2) + 2 * jnp.sum(extended.off_diagonal**2)) / width
            mean = jnp.where(krylov.num_steps == 0, saved, (gain + saved) / 2)
            error = sampling.tolerance * _scale(_exact(extended.projected, extended.product_squares), probes)
            going_on = (2 * mean > error**2) & ((extended.num_steps + 1) * width <= len(krylov.basis))
            return extended._replace(finished=extended.finished & ~going_on), mean, probes

        def sample() -> tuple[Krylov, jax.Array, _Probes]:
            return krylov, gain, _updated(probes, signs, _deflated(products, krylov.basis))

        return jax.lax.cond(krylov.finished, sample, extend)

    def unfinished(carry: tuple[Krylov, jax.Array, _Probes]) -> jax.Array:
        krylov, _, probes = carry
        complete = krylov.num_products >= size
        exact = _exact(krylov.projected, krylov.product_squares)
        return ~krylov.finished | (~complete & _inaccurate(probes, exact, sampling))

    krylov, _, probes = jax.lax.while_loop(unfinished, step, (start, jnp.zeros(()), _no_probes(vectors)))
    result = _result(_exact(krylov.projected, krylov.product_squares), probes, krylov.num_products)
    if known_trace is not None:
        result = result._replace(trace=Estimate(known_trace, jnp.zeros_like(known_trace)))
    return krylov, result


def xtrace(operator: LinearOperator, key: jax.Array, *, num_probes: int = 16) -> TraceResult:
    """XTrace: every probe is estimated with the range of all the others deflated.

    Cost: 2·num_probes products, no more and no fewer; memory 4·num_probes·p floats. Frobenius norm by the same
    leave-one-out scheme. The standard errors are √2 times those of independent estimates: the error of probe i's
    estimate is a sum over the other probes of terms symmetric in the two, so each counts twice in the mean.
    Source: Epperly, Tropp & Webber, "XTrace: making the most of every sample in stochastic trace estimation", SIAM
    J. Matrix Anal. Appl. 2024, section 2 and equation (2.6).
    """
    size = operator.size
    number = min(num_probes, size)
    # The m = `number` probes ωᵢ are rows here; in the paper's notation Ω = startᵀ[p, m] and A Ω = Q R.
    start = operator.space.normal(key, number)

    def multiply(carry: tuple[jax.Array, jax.Array], _: None):
        rows, _triangle = carry
        products = operator.matmat(rows)
        columns, triangle = operator.space.factored(products)
        return (columns, triangle), (rows, products, triangle)

    _, (rows, products, triangles) = jax.lax.scan(multiply, (start, jnp.zeros((number, number))), None, length=2)
    basis, (images, basis_images), triangle = rows[1], products, triangles[0]  # Qᵀ, ((A Ω)ᵀ, (A Q)ᵀ), R
    projected = basis_images @ basis.T  # T = Qᵀ A Q, symmetric but for rounding
    projected = (projected + projected.T) / 2
    # Without probe i the range is that of Q but for one direction: Q₍ᵢ₎Q₍ᵢ₎ᵀ = Q (1 − sᵢsᵢᵀ) Qᵀ, where sᵢ is orthogonal
    # to all columns of R but the i-th: column i of R⁻ᵀ at unit length. The shift keeps the triangle of a matrix of
    # lower rank than num_probes invertible.
    shift = jnp.finfo(triangle.dtype).eps * jnp.max(jnp.abs(triangle)) + jnp.finfo(triangle.dtype).tiny
    left_out = jnp.linalg.inv(triangle + shift * jnp.eye(number)).T
    left_out = left_out / jnp.linalg.norm(left_out, axis=0)

    def without(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Probe i's estimates of tr A and ‖A‖_F², with P = Q₍ᵢ₎Q₍ᵢ₎ᵀ the projector that does not know it."""
        direction = left_out[:, i]  # sᵢ
        weights = basis @ start[i]  # Qᵀ ωᵢ
        weights = weights - direction * (direction @ weights)  # w = (1 − sᵢsᵢᵀ) Qᵀ ωᵢ, so that P ωᵢ = Q w
        probe = start[i] - weights @ basis  # ν = (1 − P) ωᵢ
        image = images[i] - weights @ basis_images  # A ν = A ωᵢ − A Q w
        # ν / ‖ν‖ is uniform on the unit sphere of a space of p − (m − 1) dimensions: νᵀBν·(p − m + 1)/‖ν‖² has the
        # mean tr B for every B on that space.
        scale = (size - number + 1) / jnp.sum(probe**2)
        turned = projected @ direction  # T sᵢ
        # tr PA + (the above for (1−P)A(1−P)) = tr T − sᵢᵀT sᵢ + scale·νᵀAν
        value = jnp.trace(projected) - direction @ turned + scale * (probe @ image)
        # ‖A‖_F² = 2‖A P‖_F² − ‖P A P‖_F² + ‖(1−P)A(1−P)‖_F², whose last term is estimated by scale·‖(1−P)Aν‖²:
        inside = basis @ image  # Qᵀ A ν
        # ‖(1−P)Aν‖² = ‖Aν‖² − ‖(1 − sᵢsᵢᵀ) Qᵀ A ν‖²
        outside = jnp.sum(image**2) - jnp.sum((inside - direction * (direction @ inside)) ** 2)
        # ‖A P‖_F² = ‖A Q‖_F² − ‖A Q sᵢ‖²
        basis_squares = jnp.sum(basis_images**2) - jnp.sum((direction @ basis_images) ** 2)
        # ‖P A P‖_F² = ‖(1 − sᵢsᵢᵀ) T (1 − sᵢsᵢᵀ)‖_F² = ‖T‖_F² − 2‖T sᵢ‖² + (sᵢᵀT sᵢ)²
        core_squares = jnp.sum(projected**2) - 2 * jnp.sum(turned**2) + (direction @ turned) ** 2
        return value, 2 * basis_squares - core_squares + scale * outside

    values, squares = jax.lax.map(without, jnp.arange(number))
    trace = Estimate(jnp.mean(values), jnp.std(values, ddof=1) * (2 / number) ** 0.5)
    square = Estimate(jnp.mean(squares), jnp.std(squares, ddof=1) * (2 / number) ** 0.5)
    return TraceResult(trace, _root(square), jnp.asarray(2 * number, jnp.int32))


def _exact(projected: jax.Array, product_squares: jax.Array) -> _Exact:
    """From T = B A Bᵀ and ‖A Bᵀ‖_F²: A = PA + AP − PAP + (1−P)A(1−P), so ‖A‖_F² = 2‖AP‖_F² − ‖T‖_F² + …"""
    return _Exact(jnp.trace(projected), 2 * product_squares - jnp.sum(projected**2))


def _sampled(
    operator: LinearOperator,
    basis: jax.Array,
    exact: _Exact,
    key: jax.Array,
    sampling: Sampling,
    num_products: jax.Array,
) -> TraceResult:
    """The result of a basis[m, p] whose `num_products` products are taken, and of probes on its complement."""

    def step(probes: _Probes) -> _Probes:
        signs = _signs(key, probes, sampling.block_size, operator.space)
        return _updated(probes, signs, _deflated(operator.matmat(_deflated(signs, basis)), basis))

    start = _no_probes(operator.space)
    probes = jax.lax.while_loop(lambda probes: _inaccurate(probes, exact, sampling), step, start)
    return _result(exact, probes, num_products)


def _deflated(vectors: jax.Array, basis: jax.Array) -> jax.Array:
    """(1 − P) of each of vectors[k, p], with P = BᵀB."""
    return vectors - (vectors @ basis.T) @ basis


def _signs(key: jax.Array, probes: _Probes, block_size: int, vectors: Vectors) -> jax.Array:
    """The next Rademacher probes [block_size, size], drawn by how many there were: ±1."""
    return vectors.signs(jax.random.fold_in(key, probes.number), block_size)


def _no_probes(vectors: Vectors) -> _Probes:
    zero = jnp.zeros(())
    none, vector = jnp.zeros((), jnp.int32), vectors.zeros()
    return _Probes(none, zero, zero, vector, zero, zero, none, vector)


def _updated(probes: _Probes, signs: jax.Array, images: jax.Array) -> _Probes:
    """With a block of probes z (rows of `signs`) and their images Cz."""
    count = len(signs)
    number = probes.number + count
    fraction = count / number
    diagonals = signs * images
    norms = jnp.sum(images**2, axis=1)
    # Chan's update: sums of squares would lose the variance of large, nearly equal samples.
    block_mean = jnp.mean(norms)
    within = jnp.sum((norms - block_mean) ** 2)
    shift = block_mean - probes.squares
    return _Probes(
        number=number,
        trace=probes.trace + fraction * (jnp.mean(jnp.sum(diagonals, axis=1)) - probes.trace),
        squares=probes.squares + fraction * shift,
        diagonal=probes.diagonal + fraction * (jnp.mean(diagonals, axis=0) - probes.diagonal),
        norm_spread=probes.norm_spread + within + fraction * probes.number * shift**2,
        crossed=probes.crossed + 2 * jnp.sum((images @ probes.image_sum) ** 2) / jnp.maximum(probes.number, 1),
        num_crossed=probes.num_crossed + jnp.where(probes.number > 0, count, 0),
        image_sum=probes.image_sum + jnp.sum(images, axis=0),
    )


def _standard_error(probes: _Probes) -> jax.Array:
    """Of the mean of zᵀCz, whose variance is 2(‖C‖_F² − ‖diag C‖²) for Rademacher z."""
    # The difference of two estimates: never taken for (almost) nothing.
    variance = 2 * jnp.maximum(probes.squares - probes.diagonal_squares(), probes.squares / 10)
    return jnp.sqrt(variance / jnp.maximum(probes.number, 1))


def _scale(exact: _Exact, probes: _Probes) -> jax.Array:
    """What a trace's error is compared with: the greater of |tr A| and ‖A‖_F, as far as they are known."""
    norm = jnp.sqrt(jnp.maximum(exact.squares + probes.squares, 0.0))
    return jnp.maximum(jnp.abs(exact.trace + probes.trace), norm)


def _inaccurate(probes: _Probes, exact: _Exact, sampling: Sampling) -> jax.Array:
    """Whether more probes are to be taken."""
    too_large = _standard_error(probes) > sampling.tolerance * _scale(exact, probes)
    return (probes.number < sampling.min_probes) | (too_large & (probes.number < sampling.max_probes))


def _result(exact: _Exact, probes: _Probes, num_products: jax.Array) -> TraceResult:
    # Where one direction dominates C, the crossed terms tell nothing new: they do not count as degrees of freedom.
    freedom = jnp.maximum(probes.number - 1, 1)
    # Student's t at 95 % over the normal quantile (Cornish & Fisher): ±2 standard errors of few samples cover 95 %.
    small_sample = 1 + 1.21 / freedom + 1.44 / freedom**2
    variance = (probes.norm_spread + probes.crossed) / jnp.maximum(probes.number - 1 + probes.num_crossed, 1)
    error = small_sample * jnp.sqrt(variance / jnp.maximum(probes.number, 1))
    return TraceResult(
        trace=Estimate(exact.trace + probes.trace, _standard_error(probes)),
        frobenius=_root(Estimate(exact.squares + probes.squares, error)),
        num_products=num_products + probes.number,
    )


def _root(square: Estimate) -> Estimate:
    """The square root of an estimate, its standard error by linearisation."""
    root = jnp.sqrt(jnp.maximum(square.value, 0.0))
    return Estimate(root, square.standard_error / jnp.maximum(2 * root, jnp.finfo(root.dtype).tiny))
