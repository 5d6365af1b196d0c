"""Losses, errors and calibration against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, examples, one, trained

from mdjax import engine
from mdjax.errors import InputError
from mdjax.landscape import losses
from mdjax.metrics import Losses
from mdjax.models import FunctionModel

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]


def calibration_error(logits, labels, num_bins=15):
    """Guo et al., eq. 3, bin by bin as it is written: in percent."""
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    total = 0.0
    for number in range(num_bins):
        inside = (confidence > number / num_bins) & (confidence <= (number + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return 100 * total


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_train", [37, 700, None])
def test_losses_agree_with_float64(family, num_train):
    architecture, params, state = trained(family)
    row = engine.measure_models(Losses(), architecture.model(), params, state, examples(num_train), ["a", "b", "c"])[1]
    count = num_train or len(digits().x_train)
    with jax.enable_x64(True):
        weights = jax.tree.map(lambda leaf: jnp.asarray(leaf[1], jnp.float64), (params, state))
        for split, inputs, labels in (
            ("train", digits().x_train[:count], digits().y_train[:count]),
            ("test", digits().x_test, digits().y_test),
        ):
            logits = np.asarray(architecture.model().apply(*weights, jnp.asarray(inputs, jnp.float64)))
            scores = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            assert row[f"{split}_loss"] == pytest.approx(-scores[np.arange(len(labels)), labels].mean(), rel=1e-5)
            assert row[f"{split}_error"] == pytest.approx(100 * (logits.argmax(1) != labels).mean(), abs=1e-3)
            assert row[f"{split}_ece"] == pytest.approx(calibration_error(logits, labels), abs=1e-3)


TABLE = FunctionModel(lambda logits, state, index: logits[index])
"""A model that looks its answers up: its parameters are the logits, its inputs are places among them."""


@pytest.mark.parametrize("num_bins", [1, 2, 15])
@pytest.mark.parametrize("batch_size", [7, 64, 512])
def test_calibration_of_any_confidence_in_any_batches(num_bins, batch_size):
    """Confidences from 1/3 to 1, both ends of the range included, and an incomplete last batch."""
    random = np.random.default_rng(0)
    logits = random.normal(size=(100, 3)) * random.uniform(0, 8, (100, 1))
    logits[0], logits[1] = 0, (200, 0, 0)
    labels = random.integers(0, 3, 100)
    arrays = jnp.asarray(logits, jnp.float32), {}, jnp.arange(100), jnp.asarray(labels)
    options = {"num_bins": num_bins, "batch_size": batch_size}
    found = losses.evaluate_calibration(TABLE, *arrays, 80, **options)
    expected = calibration_error(logits[:80], labels[:80], num_bins)
    assert float(found.calibration_error) == pytest.approx(expected, abs=1e-4)
    assert found[:2] == losses.evaluate(TABLE, *arrays, 80, batch_size=batch_size)


def test_calibration_is_the_same_in_a_loop_and_under_vmap():
    architecture, params, state = trained("mlp")
    data = examples(500)

    def measure(params, state):
        return Losses().measure(architecture.model(), params, state, data, jax.random.key(0))

    stacked = jax.jit(jax.vmap(measure))(params, state)
    for index in range(3):
        alone = jax.jit(measure)(one(params, index), one(state, index))
        for name, value in alone.items():
            np.testing.assert_allclose(stacked[name][index], value, rtol=1e-5, err_msg=name)


def test_broken_weights_give_no_calibration():
    found = losses.evaluate_calibration(TABLE, jnp.full((4, 2), jnp.nan), {}, jnp.arange(4), jnp.zeros(4, int), 4)
    assert all(np.isnan(value) for value in found)


def test_no_bins_are_refused():
    with pytest.raises(InputError, match="num_bins is 0. Give at least one bin."):
        Losses(num_bins=0)
