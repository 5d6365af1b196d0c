"""The spectral density: its moments against dense Hessians, its smoothing against the published formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, examples, trained

from mdjax import engine
from mdjax.errors import InputError
from mdjax.linalg.density import Quadrature, binned, moments, quadrature, quadrature_runs, smoothed
from mdjax.metrics.density import Density


@functools.partial(jax.jit, static_argnames=("num_runs", "num_steps"))
def tridiagonals(matrix, key, num_runs=4, num_steps=16):
    return quadrature_runs(lambda rows: rows @ matrix, len(matrix), key, num_runs=num_runs, num_steps=num_steps)


def runs_of(dense, seed=0, **options):
    return quadrature(*tridiagonals(jnp.asarray(dense, jnp.float32), jax.random.key(seed), **options))


def test_each_run_has_its_vectors_moments_exactly():
    dense = dense_hessian("mlp", 0, 64)
    runs = runs_of(dense)
    # The same starting vectors: that is what the key stands for.
    starts = np.asarray(jax.random.normal(jax.random.key(0), (4, len(dense))), np.float64)
    starts /= np.linalg.norm(starts, axis=1, keepdims=True)
    scale = np.linalg.norm(dense, 2)
    image = starts
    for degree in range(10):
        found = np.sum(runs.weights * runs.nodes**degree, axis=1)
        np.testing.assert_allclose(found, np.sum(starts * image, axis=1), rtol=1e-4, atol=1e-5 * scale**degree)
        image = image @ dense


def test_moments_agree_with_the_dense_hessian_within_their_errors():
    dense = dense_hessian("mlp", 0, 64)
    eigenvalues = np.linalg.eigvalsh(dense)
    values, errors = moments(runs_of(dense, num_runs=64), 4)
    assert values[0] == pytest.approx(1, abs=1e-12)
    assert errors[0] == pytest.approx(0, abs=1e-12)
    for degree in range(1, 5):
        assert values[degree] == pytest.approx(np.mean(eigenvalues**degree), abs=4 * errors[degree])
        assert errors[degree] < 0.25 * values[degree]


def test_smoothing_is_as_published():
    runs = Quadrature(np.array([[0.0, 1.0, 9.0], [0.5, 2.0, 7.0]]), np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))
    found = smoothed(runs)
    grid = np.linspace(-0.01, 9.01, 10_000)
    variance = 1e-5 * 9
    expected = np.zeros((2, 10_000))
    for run in range(2):
        for node, weight in zip(runs.nodes[run], runs.weights[run]):
            expected[run] += weight * np.exp(-((grid - node) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    expected /= expected.sum(axis=1, keepdims=True) * (grid[1] - grid[0])
    np.testing.assert_allclose(found.grid, grid, rtol=1e-12)
    np.testing.assert_allclose(found.density, expected.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.standard_error, np.abs(expected[0] - expected[1]) / 2, rtol=1e-9, atol=1e-12)
    assert found.density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-12)


def test_bins_hold_the_fine_densitys_mass():
    runs = runs_of(dense_hessian("mlp", 0, 64))
    fine, coarse = smoothed(runs, num_bins=60_001), binned(runs, num_bins=20)
    width = coarse.grid[1] - coarse.grid[0]
    assert coarse.density.sum() * width == pytest.approx(1, abs=1e-12)
    edges = np.r_[coarse.grid - width / 2, coarse.grid[-1] + width / 2]
    mass = np.cumsum(fine.density) * (fine.grid[1] - fine.grid[0])
    expected = np.diff(np.interp(edges, fine.grid, mass)) / width
    np.testing.assert_allclose(coarse.density, expected, atol=2e-3 / width)


def test_a_run_that_ends_early_and_one_that_is_not_finite():
    matrix = np.zeros((50, 50))
    matrix[0, 0] = 2.0
    runs = runs_of(matrix, num_steps=8)
    np.testing.assert_allclose(runs.weights.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(runs.nodes.max(axis=1), 2, rtol=1e-5)
    assert (np.count_nonzero(runs.weights, axis=1) <= 3).all()
    broken = runs_of(matrix * np.nan)
    assert np.isnan(broken.nodes).all()
    assert np.isnan(smoothed(broken).density).all()
    assert np.isnan(binned(broken, num_bins=5).density).all()


def test_metric_agrees_with_the_dense_hessian():
    architecture, params, state = trained("mlp")
    metric = Density(num_samples=64, num_runs=8, num_steps=12, num_points=16)
    names = ["a", "b", "c"]
    rows = engine.measure_models(metric, architecture.model(), params, state, examples(), names)
    row = rows[0]
    eigenvalues = np.linalg.eigvalsh(dense_hessian("mlp", 0, 64))
    assert len(row["density_grid"]) == len(row["density"]) == len(row["density_se"]) == 16
    assert row["density_products"] == len(row["density_nodes"]) == len(row["density_weights"]) == 96
    assert sum(row["density_weights"]) == pytest.approx(1, abs=1e-9)
    assert max(row["density_nodes"]) == pytest.approx(eigenvalues[-1], rel=1e-4)
    for degree in (1, 2, 3):
        error = row["density_moments_se"][degree - 1]
        assert row["density_moments"][degree - 1] == pytest.approx(np.mean(eigenvalues**degree), abs=5 * error)
    assert "status" not in row


def test_one_run_is_refused():
    with pytest.raises(InputError, match="num_runs = 1. Take at least 2"):
        Density(num_runs=1)
