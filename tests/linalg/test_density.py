"""The spectral density: its moments against dense Hessians, its smoothing against the published formula."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian

from mdjax.linalg.density import Quadrature, binned, moments, quadrature, quadrature_runs
from mdjax.linalg.operators import LinearOperator


@functools.partial(jax.jit, static_argnames=("num_runs", "num_steps"))
def tridiagonals(matrix, key, num_runs=4, num_steps=16):
    operator = LinearOperator(lambda vector: vector @ matrix, lambda rows: rows @ matrix, len(matrix))
    return quadrature_runs(operator, key, num_runs=num_runs, num_steps=num_steps)


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


def published(runs, num_points):
    """PyHessian's grid, its density of each run, and the step between points."""
    lowest, highest = runs.nodes.min(), runs.nodes.max()
    grid, variance = np.linspace(lowest - 0.01, highest + 0.01, num_points), 1e-5 * max(1, highest - lowest)
    curves = np.zeros((len(runs.nodes), num_points))
    for nodes, weights, curve in zip(runs.nodes, runs.weights, curves):
        for node, weight in zip(nodes, weights):
            curve += weight * np.exp(-((grid - node) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
        curve /= curve.sum() * (grid[1] - grid[0])
    return grid, curves, grid[1] - grid[0]


def of_a_hessian():
    return runs_of(dense_hessian("mlp", 0, 64))


def by_hand():
    nodes = np.array([[0.0, 1.0, 9.0], [0.5, 2.0, 7.0]])
    return Quadrature(nodes, np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]))


@pytest.mark.parametrize("make", [of_a_hessian, by_hand])
def test_bins_hold_the_mass_of_the_published_density(make):
    runs = make()
    grid, curves, step = published(runs, 60_001)
    found = binned(runs, num_bins=20)
    width = found.grid[1] - found.grid[0]
    assert found.density.sum() * width == pytest.approx(1, abs=1e-12)
    edges = np.r_[found.grid - width / 2, found.grid[-1] + width / 2]
    assert edges[[0, -1]] == pytest.approx(grid[[0, -1]], rel=1e-12)
    expected = np.stack([np.diff(np.interp(edges, grid, np.cumsum(curve) * step)) / width for curve in curves])
    np.testing.assert_allclose(found.density, expected.mean(axis=0), atol=2e-3 / width)
    errors = expected.std(axis=0, ddof=1) / len(expected) ** 0.5
    np.testing.assert_allclose(found.standard_error, errors, atol=2e-3 / width)


def test_a_run_that_ends_early_and_one_that_is_not_finite():
    matrix = np.zeros((50, 50))
    matrix[0, 0] = 2.0
    runs = runs_of(matrix, num_steps=8)
    np.testing.assert_allclose(runs.weights.sum(axis=1), 1, atol=1e-9)
    np.testing.assert_allclose(runs.nodes.max(axis=1), 2, rtol=1e-5)
    assert (np.count_nonzero(runs.weights, axis=1) <= 3).all()
    broken = runs_of(matrix * np.nan)
    assert np.isnan(broken.nodes).all()
    assert np.isnan(binned(broken, num_bins=5).density).all()
