"""Losses and calibration of a model that answers what it is told to, against the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from references import calibration_error
from sklearn.metrics import confusion_matrix

from mdjax.landscape import losses
from mdjax.landscape.batches import LabelledExamples
from mdjax.models import FunctionModel
from mdjax.tasks import cross_entropy

TABLE = FunctionModel(lambda logits, state, index: logits[index])
"""A model that looks its answers up: its parameters are the logits, its inputs are indices of them."""


@pytest.mark.parametrize("num_bins", [1, 2, 15])
@pytest.mark.parametrize("batch_size", [7, 64, 512])
def test_calibration_of_any_confidence_in_any_batches(num_bins, batch_size):
    """Confidences from 1/3 to 1, both ends of the range included, and an incomplete last batch."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(100, 3)) * random.uniform(0, 8, (100, 1))
    logits[0], logits[1] = 0, (200, 0, 0)
    labels = random.integers(0, 3, 100)
    table = jnp.asarray(logits, jnp.float32)
    examples = LabelledExamples(jnp.arange(100), jnp.asarray(labels), 80)
    options = {"num_bins": num_bins, "batch_size": batch_size}
    found = losses.evaluate_calibration(TABLE, table, {}, examples, **options)
    expected = calibration_error(logits[:80], labels[:80], num_bins)
    assert float(found.calibration_error) == pytest.approx(expected, abs=1e-4)
    assert np.array_equal(found.confusion, confusion_matrix(labels[:80], logits[:80].argmax(1), labels=range(3)))
    assert found[:2] == losses.evaluate(TABLE, table, {}, examples, batch_size=batch_size)


def test_broken_weights_give_no_calibration():
    examples = LabelledExamples(jnp.arange(4), jnp.zeros(4, int), 4)
    found = losses.evaluate_calibration(TABLE, jnp.full((4, 2), jnp.nan), {}, examples)
    assert all(np.isnan(value) for value in found[:3])


def test_many_classes_are_counted_together(monkeypatch):
    monkeypatch.setattr(losses, "MAX_CLASSES", 3)
    examples = LabelledExamples(jnp.arange(4), jnp.array([0, 1, 2, 4]), 4)
    found = losses.evaluate_calibration(TABLE, jnp.eye(5)[jnp.array([0, 4, 2, 3])], {}, examples)
    np.testing.assert_array_equal(found.confusion, [[1, 0, 0], [1, 1, 0], [0, 0, 1]])


def test_cross_entropy_agrees_with_float64_and_is_differentiated_without_scatters():
    logits = np.random.RandomState(0).randn(6, 5).astype(np.float32) * np.float32(30)
    labels = np.arange(6) % 5
    own = logits.astype(np.float64)
    expected = np.log(np.exp(own - own.max(1, keepdims=True)).sum(1)) + own.max(1) - own[np.arange(6), labels]
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-6, atol=1.2e-7)
    gradient = jax.grad(lambda logits: cross_entropy(logits, labels).sum())
    assert "scatter" not in str(jax.make_jaxpr(gradient)(logits))


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_has_no_loss(label):
    found = cross_entropy(jnp.zeros((2, 3)), jnp.array([0, label]))
    np.testing.assert_allclose(found, [np.log(3), np.nan], rtol=1e-6)
