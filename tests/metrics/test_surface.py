"""The loss on lines and planes against float64 and the dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits, examples, forms, measured, one, trained
from jax.flatten_util import ravel_pytree

from mdjax import engine
from mdjax.errors import InputError
from mdjax.landscape import surfaces
from mdjax.landscape.loss_curvature import loss_curvature
from mdjax.metrics import Losses
from mdjax.metrics.surface import Surface
from mdjax.statuses import Status, StatusCode

FAMILIES = ["mlp", "cnn"]  # a ResNet-18 is measured in every form by test_execution.py
NAMES = ["a", "b", "c"]
NUM_SAMPLES = 64


def measure(metric, architecture, params, state, data=None, names=NAMES, **options):
    model = architecture.model("patches")
    return measured(metric, model, params, state, data or examples(), names, **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_plane_agrees_with_float64(family):
    architecture, params, state = trained(family)
    metric = Surface(dimensions=2, num_points=3, radius=0.5, num_samples=NUM_SAMPLES, batch_size=40)
    row = measure(metric, architecture, params, state)[1]
    assert row["surface_x"] == row["surface_y"] == [-0.5, 0, 0.5]
    key = engine.metric_key(0, metric.name, "b")
    directions = np.asarray(surfaces.filter_directions(one(params, 1), key, 2), np.float64)
    with jax.enable_x64(True):
        exact, statistics = jax.tree.map(lambda leaf: jnp.asarray(leaf[1], jnp.float64), (params, state))
        flat, unravel = ravel_pytree(exact)
        inputs, labels = jnp.asarray(digits().x_train[:NUM_SAMPLES], jnp.float64), digits().y_train[:NUM_SAMPLES]
        apply = jax.jit(lambda flat: architecture.model("lax").apply(unravel(flat), statistics, inputs))
        for i, x in enumerate(row["surface_x"]):
            for j, y in enumerate(row["surface_y"]):
                logits = np.asarray(apply(flat + x * directions[0] + y * directions[1]))
                scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
                loss = -scores[np.arange(NUM_SAMPLES), labels].mean()
                assert row["surface_loss"][i][j] == pytest.approx(loss, rel=2e-5)
                error = 100 * (logits.argmax(1) != labels).mean()
                assert row["surface_error"][i][j] == pytest.approx(error, abs=1e-3)
    hessian = dense_hessian(family, 1, NUM_SAMPLES)
    expected = [direction @ hessian @ direction for direction in directions]
    np.testing.assert_allclose(row["surface_curvature"], expected, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("directions", "draw"), [("filter", surfaces.filter_directions), ("random", surfaces.random_directions)]
)
def test_the_curvature_of_drawn_directions_is_that_of_the_hessians_product(family, directions, draw):
    architecture, params, state = trained(family)
    metric = Surface(directions, dimensions=2, num_points=3, num_samples=NUM_SAMPLES, batch_size=40)
    row = measure(metric, architecture, params, state)[1]
    assert "surface_residual" not in row
    model, data, key = architecture.model("patches"), examples(), engine.metric_key(0, metric.name, "b")

    @jax.jit
    def along(params, state):
        hessian = loss_curvature(model, params, state, data.train.first(NUM_SAMPLES), batch_size=40)
        return surfaces.directional_curvature(hessian, draw(params, key, 2)).values

    with jax.default_matmul_precision("highest"):
        expected = along(one(params, 1), one(state, 1))
    np.testing.assert_allclose(row["surface_curvature"], expected, rtol=1e-5)


@pytest.mark.parametrize("directions", ["filter", "random", "hessian"])
def test_the_centre_is_the_model_itself(directions):
    architecture, params, state = trained("mlp")
    data = examples(300)
    rows = measure(Surface(directions, num_points=5), architecture, params, state, data)
    for row, losses in zip(rows, measure(Losses(), architecture, params, state, data), strict=True):
        assert row["surface_x"] == [-1, -0.5, 0, 0.5, 1]
        assert row["surface_loss"][2] == pytest.approx(losses["train_loss"], rel=1e-5)
        assert row["surface_error"][2] == pytest.approx(losses["train_error"], abs=1e-3)
        assert "status" not in row


def test_a_model_in_company_has_the_surface_it_has_alone():
    metric = Surface("hessian", dimensions=2, num_points=3, radius=0.5, num_samples=NUM_SAMPLES)
    architecture, params, state = trained("mlp")
    stacked = measure(metric, architecture, params, state, plan=forms()["vmap"])
    alone = measure(metric, architecture, *jax.tree.map(lambda leaf: leaf[1:2], (params, state)), names=["b"])
    for column in alone[0].keys() - {"surface_residual"}:
        np.testing.assert_allclose(stacked[1][column], alone[0][column], rtol=1e-5, atol=1e-5, err_msg=column)


def test_the_surface_uses_only_a_models_own_examples():
    architecture, params, state = trained("mlp")
    few = measure(Surface(num_points=3, num_samples=1000), architecture, params, state, examples(60))
    same = measure(Surface(num_points=3, num_samples=60), architecture, params, state)
    for row, expected in zip(few, same, strict=True):
        for column in ("surface_loss", "surface_curvature"):
            np.testing.assert_allclose(row[column], expected[column], rtol=1e-4)


def test_failures_become_a_status():
    architecture, params, state = trained("mlp")
    broken = jax.tree.map(np.array, params)
    broken["linear"]["kernel"][1] = np.nan
    rows = measure(Surface("hessian", num_points=3, num_samples=60), architecture, broken, state)
    assert rows[1]["status"] == Status(StatusCode.NOT_FINITE, "surface_loss is not finite at the model")
    assert "status" not in rows[0]
    rows = measure(Surface("hessian", num_points=3, num_samples=60, max_steps=2), architecture, params, state)
    assert rows[0]["status"].code is StatusCode.NOT_CONVERGED
    assert rows[0]["status"].sentence == "surface directions are no eigenvectors after 2 Lanczos steps"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"directions": "gradient"}, "Unknown directions 'gradient'. Choose one of filter, random, hessian."),
        ({"dimensions": 3}, "dimensions is 3. Give 1 for a line or 2 for a plane."),
        ({"num_points": 4}, "num_points is 4. Give an odd number of at least 3"),
        ({"radius": 0.0}, "radius is 0.0. Give a finite number above 0."),
        ({"num_samples": 0}, "num_samples is 0. Give a whole number of at least 1."),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Surface(**settings)
