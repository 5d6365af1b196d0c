"""The metric of the spectral density against the dense Hessian."""

import jax
import numpy as np
import pytest
from helpers import dense_hessian, determined, examples, forms, measured, trained

from mdjax.errors import InputError
from mdjax.metrics.density import Density
from mdjax.models import Architecture


def test_metric_agrees_with_the_dense_hessian():
    architecture, params, state = trained("mlp")
    metric = Density(num_samples=64, num_runs=8, num_steps=12, num_points=16)
    names = ["a", "b", "c"]
    rows = measured(metric, architecture.model(), params, state, examples(), names)
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


def test_where_directions_run_out_the_moments_and_the_smoothed_curve_are_the_same_in_every_form():
    """Of a network of one unit a layer few directions are not flat: Lanczos ends early, where rounding says."""
    architecture = Architecture("mlp", 1, (8, 8, 1))
    random = np.random.default_rng(0)
    params, state = jax.tree.map(lambda leaf: random.normal(size=(1, *leaf.shape)).astype("f4"), architecture.abstract)
    metric = Density(num_samples=64, num_runs=3, num_steps=32)
    plans = forms()["single"], forms()["sharded over models and data"]
    single, sharded = (
        measured(metric, architecture.model(), params, state, examples(), ["a"], plan=plan)[0] for plan in plans
    )
    assert single["density_weights"].count(0.0) > 3
    nodes, weights = np.asarray(single["density_nodes"]), np.asarray(single["density_weights"])
    for degree in (1, 2, 3):
        found, expected = (row["density_moments"][degree - 1] for row in (sharded, single))
        assert found == pytest.approx(expected, rel=0, abs=1e-5 * np.sum(weights * np.abs(nodes) ** degree))
    curves = [determined(row)["smoothed_density"] for row in (sharded, single)]
    np.testing.assert_allclose(curves[0], curves[1], rtol=0, atol=1e-5 * curves[1].max())


def test_another_matrix_is_refused():
    with pytest.raises(InputError, match="Unknown curvature matrix 'fisher'. Choose one of hessian, gauss_newton"):
        Density(operator="fisher")


def test_one_run_is_refused():
    with pytest.raises(InputError, match="num_runs = 1. Take at least 2"):
        Density(num_runs=1)
