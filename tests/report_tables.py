"""A made table with what reports draw, for the tests of pages and pictures."""

import itertools

import numpy as np
import pandas as pd

from mdjax.table import Table

HOSTILE = "</script><img src=x onerror=\"document.title='taken'\"><!-- =cmd|'/C calc'!A0"


def sweep(num: int = 4) -> Table:
    """Configurations over width, batch size and learning rate, with the models and pairs of one of them."""
    rng = np.random.default_rng(1)
    axes = itertools.product(2 ** np.arange(4, 4 + num), 2 ** np.arange(5, 5 + num), (0.01, 0.1))
    found = pd.DataFrame(axes, columns=["width", "batch_size", "learning_rate"])
    size = len(found)
    found.insert(0, "configuration", [f"net-{k}" for k in range(size)])
    found.loc[3, "configuration"] = HOSTILE
    found["train_error"] = np.where(rng.random(size) < 0.5, 0.0, 40 * rng.random(size))
    found["train_error_se"] = 0.5
    found["test_error"] = 5 + 40 * rng.random(size)
    found["hessian_t"], found["hessian_t_se"] = 4 + 5 * rng.random(size), 0.01
    found["mode_connectivity_peak"] = -30 * rng.random(size)
    found["num_models"], found["preset"], found["status"] = 2, "default", "ok"
    line = np.linspace(-1, 1, 5)
    model = {
        "configuration": "net-5",
        "hessian_eigenvalues": [3.0, 2.0, 1.0],
        "hessian_eigenvalue_residuals": [0.1, 0.2, 0.3],
        "density_grid": list(line),
        "density": [0.1, 1.0, 5.0, 1.0, 0.1],
        "density_se": [0.01] * 5,
        "hessian_layers": ["in", "out"],
        "hessian_layer_trace": [2.0, 3.0],
        "hessian_layer_trace_se": [0.1, 0.1],
        "hessian_layer_eigenvalue": [1.0, 2.0],
        "surface_x": list(line),
        "surface_y": list(line),
        "surface_loss": [[float(x * x + y * y) for y in line] for x in line],
        "status": "ok",
    }
    pair = {
        "configuration": "net-5",
        "model_a": "a",
        "model_b": "b",
        "CKA": 0.75,
        "curve_t": [0.0, 0.5, 1.0],
        "curve_error": [1.0, 3.0, 1.0],
        "curve_loss": [0.1, 0.3, 0.1],
        "status": "ok",
    }
    models = pd.DataFrame([{"model_id": name, **model} for name in ("a", "b")])
    return Table(models, pd.DataFrame([pair]), found)
