"""Lanczos on matrices with a prescribed spectrum: its defining equation, its stopping, its failures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse.linalg

from mdjax.krylov import lanczos, ritz_pairs

SIZE = 120


def symmetric(eigenvalues, seed=0):
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues), len(eigenvalues))))
    return jnp.asarray((basis * np.asarray(eigenvalues)) @ basis.T, jnp.float32)


SPECTRA = {
    "outliers": np.r_[np.linspace(0, 1, SIZE - 4), 10, 20, 40, 80],
    "indefinite": np.r_[np.linspace(-5, 1, SIZE - 2), 3, 9],
    "negative": np.linspace(-9, -1, SIZE),
    "close pair": np.r_[np.linspace(0, 1, SIZE - 2), 9.9, 10],
}


def run(matrix, seed=0, **options):
    options = {"min_steps": 5, "max_steps": 60, "tolerance": 1e-4} | options
    start = jax.random.normal(jax.random.key(seed), (len(matrix),))
    return lanczos(lambda v: matrix @ v, start, **options)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_defining_equation(spectrum):
    matrix = symmetric(SPECTRA[spectrum])
    krylov = run(matrix, min_steps=20, max_steps=20)
    basis, alpha, beta = map(np.asarray, krylov[:3])
    tridiagonal = np.diag(alpha) + np.diag(beta[:-1], 1) + np.diag(beta[:-1], -1)
    np.testing.assert_allclose(basis @ basis.T, np.eye(20), atol=2e-6)
    remainder = np.asarray(matrix) @ basis.T - basis.T @ tridiagonal
    scale = np.abs(SPECTRA[spectrum]).max()
    np.testing.assert_allclose(remainder[:, :-1], 0, atol=1e-5 * scale)
    np.testing.assert_allclose(np.linalg.norm(remainder[:, -1]), beta[-1], atol=1e-5 * scale)


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_top_eigenvalue_agrees_with_scipy(spectrum):
    matrix = symmetric(SPECTRA[spectrum])
    krylov = run(matrix)
    ritz = ritz_pairs(krylov.alpha, krylov.beta, int(krylov.num_steps))
    expected = scipy.sparse.linalg.eigsh(np.asarray(matrix, np.float64), 1, which="LA")[0][0]
    assert ritz.values[-1] == pytest.approx(expected, rel=1e-5)
    assert abs(ritz.values[-1] - expected) <= ritz.residuals[-1] + 1e-5 * abs(expected)
    assert int(krylov.num_steps) < 60


def test_ritz_values_interlace_and_weights_sum_to_one():
    krylov = run(symmetric(SPECTRA["outliers"]), min_steps=30, max_steps=30)
    ritz = ritz_pairs(krylov.alpha, krylov.beta, 30)
    assert ritz.weights.sum() == pytest.approx(1, abs=1e-12)
    assert ritz.values[0] >= -1e-5
    assert (np.diff(ritz.values) > 0).all()


def test_stops_at_an_invariant_subspace():
    matrix = symmetric(np.r_[np.zeros(SIZE - 3), 1, 2, 3])
    krylov = run(matrix, min_steps=20, max_steps=20)
    assert int(krylov.num_steps) == 4
    ritz = ritz_pairs(krylov.alpha, krylov.beta, 4)
    np.testing.assert_allclose(ritz.values, [0, 1, 2, 3], atol=1e-5)


def test_small_matrix_takes_at_most_its_size():
    krylov = run(symmetric([1.0, 2.0, 3.0]), min_steps=10)
    assert int(krylov.num_steps) == 3
    assert ritz_pairs(krylov.alpha, krylov.beta, 3).values[-1] == pytest.approx(3, rel=1e-5)


def test_models_stop_each_by_its_own_test_under_vmap():
    matrices = jnp.stack([symmetric(SPECTRA[name]) for name in SPECTRA])
    start = jax.random.normal(jax.random.key(0), (SIZE,))

    def run_one(matrix):
        return lanczos(lambda v: matrix @ v, start, min_steps=5, max_steps=60, tolerance=1e-4)

    together = jax.vmap(run_one)(matrices)
    for i, matrix in enumerate(matrices):
        alone = run_one(matrix)
        assert int(together.num_steps[i]) == int(alone.num_steps)
        np.testing.assert_allclose(together.alpha[i], alone.alpha, rtol=1e-4, atol=1e-4)
    assert len({int(steps) for steps in together.num_steps}) > 1


def test_nan_gives_nan_and_ends():
    krylov = run(jnp.full((SIZE, SIZE), jnp.nan))
    ritz = ritz_pairs(krylov.alpha, krylov.beta, int(krylov.num_steps))
    assert np.isnan(ritz.values).all()
    assert int(krylov.num_steps) <= 60
