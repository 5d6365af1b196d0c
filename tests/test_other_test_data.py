"""From weights and data to the verdict: test data that are not of the training data's kind are told so."""

import numpy as np
import pytest
from helpers import digits, one, setting

import mdjax
from mdjax.zoo.training import architecture_of, train_stack


@pytest.fixture(scope="module")
def networks():
    settings = [setting("mlp", seed, width=32, data_share=1.0, epochs=20) for seed in range(2)]
    params, state = train_stack(settings, digits())
    return architecture_of(settings[0], digits()).model(), [(one(params, k), one(state, k)) for k in range(2)]


def diagnosed(networks, inputs: np.ndarray, labels: np.ndarray):
    model, weights = networks
    data = (digits().x_train, digits().y_train, inputs, labels)
    table = mdjax.measure(weights, model=model, data=data, metrics="losses", show_progress=False)
    return table.configurations.iloc[0], mdjax.explain(table.configurations.iloc[0])


def test_the_datas_own_test_set_is_none_of_it(networks):
    row, verdict = diagnosed(networks, digits().x_test, digits().y_test)
    assert row["train_error"] < 5
    assert row["relabelling_gain"] == 0
    assert verdict.stage != "mismatch"


@pytest.mark.parametrize(
    ("spoilt", "evidence"),
    [
        (lambda x, y: (x, (y + 1) % 10), {"test_error", "relabelling_gain"}),
        (lambda x, y: (x, np.select([y == 3, y == 4], [4, 3], y)), {"relabelling_gain"}),
        (lambda x, y: (x, np.random.default_rng(0).permutation(y)), {"test_error"}),
        (lambda x, y: (np.roll(x, 2, axis=2), y), {"prediction_shift"}),
        (lambda x, y: (x.swapaxes(1, 2), y), {"prediction_shift"}),
    ],
    ids=["numbered from one", "two swapped", "shuffled", "moved", "transposed"],
)
def test_other_labels_and_other_inputs_are_told(networks, spoilt, evidence):
    inputs, labels = spoilt(digits().x_test, digits().y_test)
    _, verdict = diagnosed(networks, np.ascontiguousarray(inputs), labels)
    assert (verdict.stage, verdict.cause) == ("mismatch", "training and test data differ")
    assert evidence <= {step.feature for step in verdict.stage_evidence}
