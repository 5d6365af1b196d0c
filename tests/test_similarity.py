"""CKA against its Gram form, and the inputs it is taken on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import examples, trained

from mdjax import engine
from mdjax.metrics import CKA


def test_cka_agrees_with_the_gram_form():
    architecture, params, state = trained("cnn")
    metric = CKA(num_batches=3, batch_size=64)
    features = engine.measure_features(metric, architecture.model(), params, state, examples())
    x, y = (np.asarray(features[i], np.float64) for i in (0, 1))
    assert x.shape == (192, 10)
    center = np.eye(len(x)) - 1 / len(x)
    gram_x, gram_y = center @ x @ x.T @ center, center @ y @ y.T @ center
    expected = (gram_x * gram_y).sum() / np.linalg.norm(gram_x) / np.linalg.norm(gram_y)
    assert metric.compare(features[0], features[1])["CKA"] == pytest.approx(expected, abs=1e-10)
    assert metric.compare(features[0], features[0])["CKA"] == pytest.approx(1)
    inputs = metric.inputs(examples(), engine.metric_key(0, metric.name)).reshape(-1, 8, 8, 1)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[0], jnp.float64), (params, state))
        exact = jax.nn.softmax(architecture.model().apply(*weights, jnp.asarray(inputs, jnp.float64)))
    assert metric.compare(np.asarray(exact), features[1])["CKA"] == pytest.approx(expected, abs=1e-5)


def test_cka_inputs_are_mixtures_of_the_models_own_examples():
    metric = CKA(num_batches=2, batch_size=32)
    data = examples(20)
    inputs = np.asarray(metric.inputs(data, jax.random.key(0))).reshape(64, -1)
    own = np.asarray(data.x_train[:20]).reshape(20, -1)
    # Each mixed input lies in the span of the 20 examples, and not all are examples themselves.
    residual = inputs - np.linalg.lstsq(own.T, inputs.T, rcond=None)[0].T @ own
    np.testing.assert_allclose(residual, 0, atol=1e-4)
    distances = np.linalg.norm(inputs[:, None] - own[None], axis=-1).min(1)
    assert (distances > 0.1).mean() > 0.5
