"""The metric of losses, errors and calibration against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, examples, measured, one, trained
from references import calibration_error

from mdjax.errors import InputError
from mdjax.metrics import Losses

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_train", [37, 700, None])
def test_losses_agree_with_float64(family, num_train):
    architecture, params, state = trained(family)
    row = measured(Losses(), architecture.model(), params, state, examples(num_train), ["a", "b", "c"])[1]
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


def test_no_bins_are_refused():
    with pytest.raises(InputError, match="num_bins is 0. Give at least one bin."):
        Losses(num_bins=0)
