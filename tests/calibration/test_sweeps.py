"""What the small networks of a sweep say of its larger ones."""

import numpy as np
import pandas as pd
import pytest

from mdjax.calibration.sweeps import calibration_of_sweep, smaller_cells
from mdjax.diagnosis.calibrations import likeliest_changes
from mdjax.diagnosis.sweep_axes import labelled
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.errors import InputError


@pytest.fixture(scope="module")
def sweep() -> pd.DataFrame:
    """Width, data and batch size; errors fall with the first two, and the best batch is 32."""
    axes = [(w, b, d) for w in (2, 4, 8, 16, 32) for b in (8, 32, 128) for d in (0.25, 0.5, 1.0)]
    table = pd.DataFrame(axes, columns=["width", "batch_size", "data_share"])
    error = 40 * table["width"] ** -0.4 * table["data_share"] ** -0.3 + 6 * np.log2(table["batch_size"] / 32).abs()
    shared = {"learning_rate": 0.05, "epochs": 5, "num_models": 2, "family": "mlp", "num_classes": 10}
    losses = {"train_error": error / 2, "test_loss": error / 30, "train_loss": error / 60}
    return table.assign(test_error=error, num_params=64 * table["width"] ** 2, **losses, **shared)


def test_smaller_cells_stay_within_the_budget(sweep):
    small = smaller_cells(sweep, 0.2)
    cost = sweep["num_params"] * sweep["data_share"]
    assert 0 < cost[small].sum() <= 0.2 * cost.sum()
    assert sweep[small].groupby(["width", "data_share"]).size().eq(3).all()  # whole cells
    assert sweep[smaller_cells(sweep, 1e-9)][["width", "data_share"]].drop_duplicates().to_numpy().tolist() == [
        [2, 0.25],
        [2, 0.5],
        [4, 0.25],
        [4, 0.5],
    ]


def test_larger_networks_are_answered_and_the_rows_it_learnt_from_do_not_count(sweep):
    small = smaller_cells(sweep, 0.2)
    table = labelled(sweep)
    calibration = calibration_of_sweep(table[small], {})
    assert calibration.facts == {"family": "mlp", "num_classes": 10}
    assert calibration.num_models == 2 * small.sum()
    np.testing.assert_array_equal(calibration.has_seen(table), small)
    diagnosis = Diagnosis.of(table, calibration)
    assert (diagnosis.frame["stage"] == "calibration").all()
    found = diagnosis.agreement(diagnosis.own_sweep.sweep).set_index("question")
    assert found.loc["optimizer", "rows"] == (table["bs_failure"].isin(["small", "large"]) & ~small).sum()
    assert found.loc["optimizer", "balanced_accuracy"] > 90
    assert diagnosis.sweep_lines()[-1] == "The configurations that the calibration was learnt from are not counted."


@pytest.mark.parametrize("missing", ["epochs", "learning_rate", "test_error"])
def test_a_table_that_lacks_a_column_is_told(sweep, missing):
    with pytest.raises(InputError, match=missing):
        calibration_of_sweep(sweep.drop(columns=missing), {})


@pytest.mark.parametrize(
    ("right", "best", "expected"),
    [
        ([0.9, 0.1, 0.2, 0.0], [3.0, 0.1, 0.5, np.nan], (0, 0.9, True)),
        ([0.6, 0.1, 0.5, 0.0], [3.0, 0.1, 2.5, np.nan], (0, 0.6, False)),
        ([1.0, 1.0, 1.0, 0.0], [0.1, 0.2, 0.3, np.nan], (2, 1.0, False)),  # nothing would bring half a point
    ],
)
def test_a_change_is_named_where_it_is_right_and_brings_something(right, best, expected):
    index, probability, clear = likeliest_changes(np.array([right]), np.array([best]))
    assert (int(index[0]), float(probability[0]), bool(clear[0])) == expected
