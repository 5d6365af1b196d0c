"""Directions against their definitions, and the curvature along them against the dense Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import dense_hessian, digits, examples, one, trained
from jax.flatten_util import ravel_pytree

from mdjax.landscape import surfaces
from mdjax.landscape.batches import LabelledExamples
from mdjax.landscape.loss_curvature import loss_curvature
from mdjax.models import Architecture

FAMILIES = ["mlp", "cnn"]  # a ResNet-18 is measured in every form by test_execution.py
NUM_SAMPLES = 64


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
        hessian = loss_curvature(model, params, state, data.train.first(NUM_SAMPLES), batch_size=40)
        rows = surfaces.hessian_directions(hessian, jax.random.key(0), 2, tolerance=1e-5, max_steps=24)
        return rows, surfaces.directional_curvature(hessian, rows)

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
        sample = LabelledExamples(inputs, labels, NUM_SAMPLES)
        for index in (0, 1):
            points = jnp.zeros((3, 2)).at[:, index].set(jnp.array([-step, 0, step]))
            loss, _ = surfaces.loss_surface(architecture.model("lax"), *exact, jnp.asarray(rows), points, sample)
            assert (loss[0] - 2 * loss[1] + loss[2]) / step**2 == pytest.approx(values[index], rel=1e-3)
