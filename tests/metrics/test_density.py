"""The metric of the spectral density against the dense Hessian."""

import numpy as np
import pytest
from helpers import dense_hessian, examples, measured, trained

from mdjax.errors import InputError
from mdjax.metrics.density import Density


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


def test_another_matrix_is_refused():
    with pytest.raises(InputError, match="Unknown curvature matrix 'fisher'. Choose one of hessian, gauss_newton"):
        Density(operator="fisher")


def test_one_run_is_refused():
    with pytest.raises(InputError, match="num_runs = 1. Take at least 2"):
        Density(num_runs=1)
