"""The metric of losses, errors and calibration against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import digits, examples, measured, one, trained
from references import calibration_error
from sklearn.metrics import confusion_matrix

from mdjax.errors import InputError
from mdjax.metrics import Losses
from mdjax.metrics.losses import label_columns

FAMILIES = ["mlp", "cnn", pytest.param("resnet10", marks=pytest.mark.slow)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("num_train", [37, 700, None])
def test_losses_agree_with_float64(family, num_train):
    architecture, params, state = trained(family)
    row = measured(Losses(), architecture.model(), params, state, examples(num_train), ["a", "b", "c"])[1]
    count = num_train or len(digits().x_train)
    confusions = []
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
            wrong = confusion_matrix(labels, logits.argmax(1), labels=range(10))
            confusions.append(wrong)
            assert row[f"{split}_ece"] == pytest.approx(calibration_error(logits, labels), abs=1e-3)

    frequencies = np.bincount(digits().y_train[:count]) / count
    assert row["chance_error"] == pytest.approx(100 - 100 * frequencies.max(), abs=1e-6)
    assert row["chance_loss"] == pytest.approx(-(frequencies * np.log(frequencies)).sum(), abs=1e-6)
    for name, value in label_columns(*confusions).items():
        assert row[name] == pytest.approx(value, abs=1e-6)


def counts(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    return confusion_matrix(labels, predictions, labels=range(5))


def test_renumbered_classes_and_shifted_predictions_are_told():
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 4000)
    predictions = np.where(random.random(4000) < 0.8, labels, random.integers(0, 5, 4000))
    train, test = counts(labels[:3000], predictions[:3000]), counts(labels[3000:], predictions[3000:])
    same = label_columns(train, test)
    assert same["relabelling_gain"] == 0
    assert abs(same["prediction_shift"]) < 3
    swapped = np.array([1, 0, 2, 3, 4])[labels[3000:]]
    told = label_columns(train, counts(swapped, predictions[3000:]))
    assert told["relabelling_gain"] == pytest.approx(100 * np.mean(predictions[3000:] == labels[3000:]) * 0.4, abs=5)
    assert told["prediction_shift"] == same["prediction_shift"]
    collapsed = np.where(predictions[3000:] == 4, 3, predictions[3000:])
    shifted = label_columns(train, counts(labels[3000:], collapsed))
    assert shifted["prediction_shift"] == pytest.approx(20, abs=4)
    assert shifted["relabelling_gain"] < 5  # the empty number goes to whatever it fits a little


def test_a_shift_is_zero_on_average_where_there_is_none():
    random = np.random.default_rng(1)
    frequencies = np.array([0.5, 0.2, 0.15, 0.1, 0.05])

    def drawn(size: int) -> np.ndarray:
        return np.diag(random.multinomial(size, frequencies))

    shifts = [label_columns(drawn(1000), drawn(200))["prediction_shift"] for _ in range(300)]
    assert abs(np.mean(shifts)) < 5 * np.std(shifts) / np.sqrt(300)
    one_class = label_columns(np.diag([50, 0]), np.diag([20, 0]))
    assert one_class == {"chance_error": 0, "chance_loss": 0, "relabelling_gain": 0, "prediction_shift": 0}


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
