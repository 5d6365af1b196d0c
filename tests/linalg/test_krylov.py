"""Lanczos on prescribed spectra and real Hessians: its defining equation, its stopping, its failures."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg
from helpers import dense_hessian

from mdjax.linalg import vectors as vectors_module
from mdjax.linalg.krylov import Wanted, block_lanczos, krylov_extend, krylov_start, lanczos, ritz_pairs, ritz_vectors
from mdjax.linalg.operators import LinearOperator
from mdjax.linalg.orthonormalization import gram_schmidt, orthonormal
from mdjax.linalg.vectors import Vectors

SIZE = 120
USUAL = Wanted(tolerance=1e-4)


def symmetric(eigenvalues, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues))))
    return jnp.asarray((basis * np.asarray(eigenvalues)) @ basis.T, jnp.float32)


def operator(matrix):
    return LinearOperator(lambda vector: vector @ matrix, lambda rows: rows @ matrix, len(matrix))


SPECTRA = {
    "outliers": np.r_[np.linspace(0, 1, SIZE - 4), 10, 20, 40, 80],
    "indefinite": np.r_[np.linspace(-5, 1, SIZE - 2), 3, 9],
    "negative": np.linspace(-9, -1, SIZE),
    "close pair": np.r_[np.linspace(0, 1, SIZE - 2), 9.9, 10],
    "coinciding": np.r_[np.linspace(0, 1, SIZE - 3), 5, 5, 5],
}


@functools.partial(jax.jit, static_argnames=("block_size", "min_steps", "max_steps", "wanted", "form"))
def run(matrix, block_size=4, min_steps=1, max_steps=20, wanted=USUAL, form=orthonormal):
    options = {"block_size": block_size, "min_steps": min_steps, "max_steps": max_steps, "wanted": wanted}
    with mock.patch.object(vectors_module, "orthonormal", form):
        return block_lanczos(operator(matrix), jax.random.key(0), **options)


FORMS = pytest.mark.parametrize("form", [orthonormal, gram_schmidt])
"""As on a CPU, and as elsewhere."""


def pairs(krylov):
    return ritz_pairs(krylov.projected, krylov.off_diagonal, krylov.dropped, krylov.num_steps)


@pytest.mark.parametrize(
    ("block_size", "form"), [(1, orthonormal), (4, orthonormal), (4, gram_schmidt)], ids=["1", "4", "4 elsewhere"]
)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_defining_equation(spectrum, block_size, form):
    matrix = symmetric(SPECTRA[spectrum])
    krylov = run(matrix, block_size=block_size, min_steps=5, max_steps=5, form=form)
    basis, projected, off_diagonal, following = (
        np.asarray(leaf, np.float64)
        for leaf in (krylov.basis, krylov.projected, krylov.off_diagonal, krylov.next_block)
    )
    scale = np.abs(SPECTRA[spectrum]).max()
    every = np.r_[basis, following]
    np.testing.assert_allclose(every @ every.T, np.eye(len(every)), atol=2e-6)
    remainder = np.asarray(matrix) @ basis.T - basis.T @ projected
    np.testing.assert_allclose(remainder[:, :-block_size], 0, atol=1e-5 * scale)
    np.testing.assert_allclose(remainder[:, -block_size:], following.T @ off_diagonal, atol=1e-5 * scale)
    images = basis @ np.asarray(matrix, np.float64)
    assert float(krylov.product_squares) == pytest.approx(np.sum(images**2), rel=1e-5)


@pytest.mark.parametrize("block_size", [1, 4])
@pytest.mark.parametrize("spectrum", [name for name in SPECTRA if name != "coinciding"])
def test_both_ends_agree_with_scipy(spectrum, block_size):
    matrix = symmetric(SPECTRA[spectrum])
    wanted = Wanted(num_largest=2, num_smallest=1, tolerance=1e-3)
    krylov = run(matrix, block_size=block_size, max_steps=100 // block_size, wanted=wanted)
    ritz = pairs(krylov)
    largest = scipy.sparse.linalg.eigsh(np.asarray(matrix, np.float64), 2, which="LA")[0]
    smallest = scipy.sparse.linalg.eigsh(np.asarray(matrix, np.float64), 1, which="SA")[0]
    scale = np.abs(SPECTRA[spectrum]).max()
    np.testing.assert_allclose(ritz.values[-2:], largest, atol=1e-5 * scale)
    np.testing.assert_allclose(ritz.values[:1], smallest, atol=1e-5 * scale)
    assert ritz.converged(1e-3)[[0, -2, -1]].all()


@pytest.mark.parametrize("family", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_converged_eigenvalues_of_a_real_hessian(family):
    dense = dense_hessian(family, 0, 64)
    expected, vectors = np.linalg.eigh(dense)
    krylov = run(jnp.asarray(dense, jnp.float32), wanted=Wanted(5, 2, 1e-3), max_steps=25)
    ritz = pairs(krylov)
    indices = [0, 1, -5, -4, -3, -2, -1]
    assert ritz.converged(1e-3)[indices].all()
    np.testing.assert_allclose(ritz.values[indices], expected[indices], rtol=1e-5, atol=1e-6 * expected[-1])
    found = np.asarray(ritz_vectors(krylov, 5))
    np.testing.assert_allclose(np.abs(np.sum(found * vectors[:, :-6:-1].T, axis=1)), 1, atol=1e-4)


def test_residuals_bound_the_error_before_convergence():
    matrix = symmetric(SPECTRA["indefinite"])
    ritz = pairs(run(matrix, min_steps=3, max_steps=3))
    exact = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    distance = np.abs(ritz.values[:, None] - exact).min(axis=1)
    assert (distance <= ritz.residuals + 1e-5).all()
    assert not ritz.converged(1e-4).all()


def test_multiplicity_is_found_by_a_block():
    ritz = pairs(run(symmetric(SPECTRA["coinciding"]), wanted=Wanted(4, tolerance=1e-4), max_steps=29))
    np.testing.assert_allclose(ritz.values[-4:], [1, 5, 5, 5], rtol=1e-4)


@FORMS
@pytest.mark.parametrize("block_size", [1, 3])
def test_goes_on_from_an_invariant_subspace_with_fresh_directions(block_size, form):
    # Rank 3: after a step or two single vectors and blocks alike have nothing left that is not rounding.
    matrix = symmetric(np.r_[np.zeros(SIZE - 5), 1, 2, 3, 3, 3])
    wanted = Wanted(3, tolerance=1e-6)
    krylov = run(matrix, block_size=block_size, min_steps=9, max_steps=9, wanted=wanted, form=form)
    basis = np.asarray(krylov.basis, np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(9 * block_size), atol=2e-6)
    ritz = pairs(krylov)
    np.testing.assert_allclose(ritz.values[-3:], [3, 3, 3], atol=1e-5)
    # What single vectors find of a multiple eigenvalue they find through the fresh directions.
    assert (ritz.residuals[-2:] < 1e-3).all()


def test_block_diagonal_matrix_is_found_from_a_start_in_one_block():
    first, second = symmetric(np.linspace(0, 1, 20)), symmetric(np.linspace(0, 3, 20), seed=1)
    matrix = jnp.zeros((40, 40)).at[:20, :20].set(first).at[20:, 20:].set(second)
    krylov = krylov_start(jax.random.key(0), Vectors(40), block_size=2, max_steps=18)
    start = jnp.zeros((2, 40)).at[0, 0].set(1).at[1, 1].set(1)
    krylov = krylov._replace(next_block=start)
    extend = jax.jit(functools.partial(krylov_extend, min_steps=17, wanted=Wanted()))
    for _ in range(17):
        krylov = extend(krylov, krylov.next_block @ matrix, jax.random.key(1))
    ritz = pairs(krylov)
    assert 2 < ritz.values[-1] < 3.001
    assert 3 - ritz.values[-1] <= ritz.residuals[-1] + 1e-5


@FORMS
@pytest.mark.parametrize("size", [3, 40])
def test_small_matrix_is_taken_whole(size, form):
    values = np.linspace(1, 3, size)
    krylov = run(symmetric(values), max_steps=10, form=form)
    assert int(krylov.num_products) == size
    np.testing.assert_allclose(pairs(krylov).values, values, rtol=1e-5)
    assert pairs(krylov).converged(1e-4).all()


def test_models_stop_each_by_its_own_test_under_vmap_and_map():
    matrices = jnp.stack([symmetric(SPECTRA[name]) for name in SPECTRA])

    def run_one(matrix):
        wanted = Wanted(tolerance=1e-4)
        return block_lanczos(operator(matrix), jax.random.key(0), max_steps=20, wanted=wanted)

    together, mapped = jax.jit(jax.vmap(run_one))(matrices), jax.jit(lambda m: jax.lax.map(run_one, m))(matrices)
    for i, matrix in enumerate(matrices):
        alone = jax.jit(run_one)(matrix)
        expected = pairs(alone)
        for form in (together, mapped):
            found = jax.tree.map(lambda leaf, i=i: leaf[i], form)
            assert int(found.num_steps) == int(alone.num_steps)
            np.testing.assert_allclose(pairs(found).values[-1], expected.values[-1], rtol=1e-5)
    assert len({int(steps) for steps in together.num_steps}) > 1


@FORMS
def test_zero_and_nan_matrices_end(form):
    zero = pairs(run(jnp.zeros((SIZE, SIZE)), form=form))
    np.testing.assert_array_equal(zero.values, 0)
    krylov = run(jnp.full((SIZE, SIZE), jnp.nan), form=form)
    assert np.isnan(pairs(krylov).values).all()
    assert int(krylov.num_steps) == 1
    assert np.isnan(ritz_vectors(krylov, 1)).all()


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_single_vector_runs_keep_the_three_term_recurrence(spectrum):
    matrix = symmetric(SPECTRA[spectrum])
    starts = jax.random.normal(jax.random.key(0), (3, SIZE))
    runs = jax.jit(lambda starts: lanczos(operator(matrix), starts, num_steps=12))(starts)
    dense = np.asarray(matrix, np.float64)
    for start, alpha, beta in zip(starts, np.asarray(runs.alpha), np.asarray(runs.beta)):
        vector, before = np.asarray(start, np.float64) / np.linalg.norm(start), 0.0
        # Beyond the first steps float32 and float64 take different, equally good, vectors.
        for j in range(4):
            product = dense @ vector
            np.testing.assert_allclose(alpha[j], vector @ product, rtol=1e-3, atol=1e-4)
            remainder = product - (vector @ product) * vector - before
            np.testing.assert_allclose(beta[j], np.linalg.norm(remainder), rtol=1e-3, atol=1e-4)
            before, vector = np.linalg.norm(remainder) * vector, remainder / np.linalg.norm(remainder)


def test_single_vector_runs_end_at_an_invariant_subspace():
    matrix = symmetric(np.r_[np.zeros(SIZE - 3), 1, 2, 3])
    runs = lanczos(operator(matrix), jax.random.normal(jax.random.key(0), (2, SIZE)), num_steps=10)
    np.testing.assert_array_equal(runs.beta[:, 4:], 0)
    assert (runs.beta[:, :2] > 0).all()


@FORMS
@pytest.mark.parametrize("scale", [2.0**-66, 2.0**50])
def test_the_matrix_unit_does_not_matter(scale, form):
    matrix = symmetric(SPECTRA["indefinite"])
    usual, scaled = run(matrix, form=form), run(scale * matrix, form=form)
    assert int(scaled.num_steps) == int(usual.num_steps)
    np.testing.assert_allclose(pairs(scaled).values, scale * pairs(usual).values, rtol=1e-5, atol=1e-6 * scale)
    np.testing.assert_allclose(pairs(scaled).residuals[-1], scale * pairs(usual).residuals[-1], rtol=1e-2)
