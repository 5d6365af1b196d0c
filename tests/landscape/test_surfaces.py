"""Directions against their definitions, and the loss on lines and planes against float64 and the dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits, examples, forms, one, trained
from jax.flatten_util import ravel_pytree

from mdjax import engine
from mdjax.errors import InputError
from mdjax.landscape import surfaces
from mdjax.metrics import Losses
from mdjax.metrics.surface import Surface
from mdjax.models import Architecture

FAMILIES = ["mlp", "cnn"]  # a ResNet-18 is measured in every form by test_execution.py
NAMES = ["a", "b", "c"]
NUM_SAMPLES = 64


def measure(metric, architecture, params, state, data=None, names=NAMES, **options):
    model = architecture.model("patches")
    return engine.measure_models(metric, model, params, state, data or examples(), names, **options)


@pytest.mark.parametrize("family", ["mlp", "cnn", "resnet18"])
def test_every_filter_is_as_long_as_the_models(family):
    random = np.random.default_rng(0)
    shapes, _ = Architecture(family, 3, (8, 8, 2)).abstract
    params = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape), jnp.float32), shapes)
    rows = surfaces.filter_directions(params, jax.random.key(1), 2)
    unravel = ravel_pytree(params)[1]
    for row in rows:
        for path, direction in jax.tree_util.tree_leaves_with_path(unravel(row)):
            weights = params
            for key in path:
                weights = weights[key.key]
            weights, direction = np.asarray(weights, np.float64), np.asarray(direction, np.float64)
            if path[-1].key == "kernel":
                lengths = [np.linalg.norm(array.reshape(-1, array.shape[-1]), axis=0) for array in (direction, weights)]
                np.testing.assert_allclose(*lengths, rtol=1e-5)
            else:
                assert (direction == 0).all()
    cosine = np.asarray(rows[0] @ rows[1] / jnp.linalg.norm(rows[0]) / jnp.linalg.norm(rows[1]))
    assert abs(cosine) < 0.3


def test_random_directions_are_as_long_as_the_model():
    params, _ = Architecture("cnn", 2, (8, 8, 1)).init(jax.random.key(0))
    rows = np.asarray(surfaces.random_directions(params, jax.random.key(1), 3), np.float64)
    length = np.linalg.norm(np.asarray(ravel_pytree(params)[0], np.float64))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), length, rtol=1e-6)
    # All parameters take part, biases included.
    assert np.linalg.matrix_rank(rows) == 3
    assert (rows != 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_hessian_directions_are_the_dense_hessians_eigenvectors(family):
    architecture, params, state = trained(family)
    dense = dense_hessian(family, 0, NUM_SAMPLES)
    values, vectors = np.linalg.eigh(dense)
    values, vectors = values[[-1, -2]], vectors[:, [-1, -2]].T
    data = examples()
    model = architecture.model("patches")

    @jax.jit
    def directions(params, state):
        products = surfaces.loss_products(
            model, params, state, data.x_train[:NUM_SAMPLES], data.y_train[:NUM_SAMPLES], NUM_SAMPLES, batch_size=40
        )
        rows = surfaces.hessian_directions(products, jax.random.key(0), 2, tolerance=1e-5, max_steps=24)
        return rows, surfaces.directional_curvature(products, rows)

    rows, curvature = directions(one(params), one(state))
    np.testing.assert_allclose(curvature.values, values, rtol=1e-5)
    assert (curvature.residuals <= 2e-5 * values[0]).all()
    rows = np.asarray(rows, np.float64)
    np.testing.assert_allclose(np.abs(np.sum(rows * vectors, axis=1)), 1, rtol=1e-6)
    assert all(row[np.abs(row).argmax()] > 0 for row in rows)

    # Short, since the loss of a ReLU network has kinks.
    step = 1e-5
    with jax.enable_x64(True):
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (one(params), one(state)))
        inputs = jnp.asarray(digits().x_train[:NUM_SAMPLES], jnp.float64)
        labels = jnp.asarray(digits().y_train[:NUM_SAMPLES])
        for place in (0, 1):
            points = jnp.zeros((3, 2)).at[:, place].set(jnp.array([-step, 0, step]))
            loss, _ = surfaces.loss_surface(
                architecture.model("lax"), *exact, jnp.asarray(rows), points, inputs, labels, NUM_SAMPLES
            )
            assert (loss[0] - 2 * loss[1] + loss[2]) / step**2 == pytest.approx(values[place], rel=1e-3)


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
    assert rows[1]["status"] == "surface_loss is not finite at the model"
    assert "status" not in rows[0]
    rows = measure(Surface("hessian", num_points=3, num_samples=60, max_steps=2), architecture, params, state)
    assert rows[0]["status"] == "surface directions are no eigenvectors after 2 Lanczos steps"


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
