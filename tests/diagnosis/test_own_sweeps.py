"""A table's own sweep beside the verdicts: columns, agreement by hand, gains and where they contradict."""

import json

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row, sweep, zoo

from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS
from mdjax.diagnosis.own_sweeps import IN_SAMPLE, agreement_lines, balanced_accuracy, own_sweep
from mdjax.diagnosis.sweep_axes import labelled
from mdjax.diagnosis.sweep_trees import grow_sweep
from mdjax.diagnosis.verdicts import Diagnosis, diagnose

UNLABELLED = sweep().drop(columns=[*RFI_COLUMNS, *LABEL_COLUMNS])


def small(*accuracies: float) -> pd.DataFrame:
    """A 2 x 2 grid of widths 32, 64 and batches 16, 32 with these accuracies."""
    grid = pd.DataFrame([(w, b) for w in (32, 64) for b in (16, 32)], columns=["width", "batch_size"])
    return grid.assign(test_acc=accuracies, train_error=5.0, mode_connectivity_peak=-5.0, hessian_t=5.0)


def test_a_table_without_a_sweep_has_none(published_trees):
    for table in (one_row(), zoo().drop(columns=["test_error", *LABEL_COLUMNS]), small(1, 2, 3, 4).iloc[[0, 3]]):
        assert own_sweep(table) == (None, None)
        assert Diagnosis.of(table, published_trees).sweep_lines() == []
        assert Diagnosis.of(table, published_trees).verdict(0).sweep is None
        assert list(Diagnosis.of(table, published_trees).frame_with_sweep()) == list(diagnose(table, published_trees))


def test_a_sweep_that_cannot_be_compared_says_why(published_trees):
    doubled = pd.concat([UNLABELLED, UNLABELLED])
    assert own_sweep(doubled).sweep is None
    (line,) = Diagnosis.of(doubled, published_trees).sweep_lines()
    assert line.startswith("What the table's own sweep shows cannot be told: 144 rows share their configuration")


@pytest.mark.parametrize(
    "spoilt",
    [
        UNLABELLED.assign(test_acc="high"),
        UNLABELLED.assign(width="w4"),
        UNLABELLED.assign(bs="w4", width="x", data="y"),
        UNLABELLED.assign(test_error="n/a").drop(columns="test_acc"),
        UNLABELLED.set_axis([*UNLABELLED.columns[:-1], "bs"], axis=1),
        sweep().assign(rfi_width="much"),
        UNLABELLED.iloc[:0],
        UNLABELLED.assign(test_acc=np.nan),
    ],
)
def test_spoilt_columns_never_cost_the_verdicts(spoilt, published_trees):
    """What is no sweep, or none that can be read, leaves the diagnosis as it is."""
    diagnosis = Diagnosis.of(spoilt.assign(width=64.0), published_trees)
    assert len(diagnosis.frame_with_sweep()) == len(spoilt)
    assert all(isinstance(line, str) for line in diagnosis.sweep_lines())
    if len(spoilt):
        assert isinstance(diagnosis.verdict(0).to_text(), str)
    own_sweep(spoilt)


def test_columns_are_the_labels_and_rooms(default_trees):
    expected = sweep()
    for table in (
        UNLABELLED,
        expected,
        UNLABELLED.assign(test_error=100 - UNLABELLED["test_acc"]).drop(columns="test_acc"),
    ):
        frame = Diagnosis.of(table, default_trees).frame_with_sweep()
        for column, label in zip(("sweep_optimizer", "sweep_width", "sweep_data"), LABEL_COLUMNS, strict=True):
            assert frame[column].tolist() == expected[label].tolist()
        gains = ["gain_inc_temp", "gain_dec_temp", "gain_width", "gain_data"]
        np.testing.assert_allclose(frame[gains], expected[list(RFI_COLUMNS)], atol=1e-9)
        assert frame["cause"].tolist() == diagnose(table, default_trees)["cause"].tolist()


def test_labels_that_a_table_brings_are_taken_as_they_are():
    other = sweep().assign(bs_failure="large")
    found = own_sweep(other).sweep
    assert found is not None
    assert set(found.columns()["sweep_optimizer"]) == {"large"}
    bare = own_sweep(other.drop(columns=["bs", "width", "data"])).sweep
    assert bare is not None and bare.axes is None
    told = bare.evidence(0, "model too small")
    assert told is not None
    assert list(told.gains) == ["more width", "more data", "a higher temperature", "a lower temperature"]


def test_agreement_by_hand():
    found = own_sweep(small(50.0, 60.0, 70.0, 65.0)).sweep
    assert found is not None
    assert found.table["bs_failure"].tolist() == ["large", "optimal", "optimal", "small"]
    assert found.table["width_vs_batch"].tolist() == ["width", "width", "optimal", "batch"]
    verdicts = pd.DataFrame(
        {
            "optimizer_answer": ["small", "large", "small", None],
            "width_answer": ["width", "batch", "batch", "batch"],
            "data_answer": ["data"] * 4,
        }
    )
    told = found.agreement(verdicts)
    assert told.to_dict("records") == [
        {
            "question": "optimizer",
            "rows": 1,
            "right": 0,
            "balanced_accuracy": 0.0,
            "majority": "large",
            "majority_right": 1,
            "majority_balanced_accuracy": 100.0,
            "unanswered": 1,
        },
        {
            "question": "width",
            "rows": 2,
            "right": 1,
            "balanced_accuracy": 50.0,
            "majority": "width",
            "majority_right": 2,
            "majority_balanced_accuracy": 100.0,
            "unanswered": 0,
        },
    ]
    heading, optimizer, width = agreement_lines(told)
    assert heading == "How often the answers agree with what the table's own sweep shows:"
    assert optimizer.strip() == (
        "optimizer  0.0 % balanced accuracy, 0 of 1 right; always 'temperature too high': 100.0 %, 1 right; "
        "1 more not asked or without an answer"
    )
    assert "50.0 % balanced accuracy, 1 of 2 right; always 'model too small': 100.0 %, 2 right" in width
    assert agreement_lines(told.iloc[:0]) == []
    assert balanced_accuracy(np.array(["a", "a", "b"]), np.array(["a", "b", "b"])) == 75


def test_gains_end_where_the_sweep_does():
    found = own_sweep(small(50.0, 60.0, 70.0, 65.0)).sweep
    assert found is not None
    first, last = found.evidence(0, "model too small"), found.evidence(3, "temperature too low")
    assert first is not None and last is not None
    assert first.gains == {"more width": 20.0, "a smaller batch": None, "a larger batch": 10.0}
    assert first.to_text() == (
        "What the sweep itself shows, points of test accuracy gained at best by: more width 20.0, a smaller batch –, "
        "a larger batch 10.0 (–: the sweep goes no further that way)."
    )
    assert last.gains == {"more width": None, "a smaller batch": 5.0, "a larger batch": None}


@pytest.mark.parametrize(
    ("row", "cause", "sentence"),
    [
        (0, "model too small", None),
        (
            0,
            "temperature too high",
            "Verdict and sweep disagree: a larger batch, as the verdict asks for, gained 10.0 points in the sweep, and "
            "more width gained 20.0 points.",
        ),
        (
            0,
            "temperature too low",
            "The sweep holds nothing with a smaller batch to hold the verdict against, while more width gained 20.0 "
            "points.",
        ),
        (0, "no clear failure", "The verdict names no change, but more width gained 20.0 points in the sweep."),
        (0, "unknown", None),
        (0, "too little data", None),  # which this sweep does not vary
        (2, "no clear failure", None),
        (
            2,
            "temperature too high",
            "Verdict and sweep disagree: the verdict asks for a larger batch, but no change gained 1 point in the "
            "sweep.",
        ),
        (2, "model too small", "The sweep holds nothing with more width to hold the verdict against."),
    ],
)
def test_contradictions_are_told_in_a_sentence(row, cause, sentence):
    found = own_sweep(small(50.0, 60.0, 70.0, 65.0)).sweep
    assert found is not None
    told = found.evidence(row, cause)
    assert told is not None
    assert (None if told.disagreement is None else told.disagreement.to_text()) == sentence
    assert told.to_text().endswith("." if sentence is None else sentence)


def test_small_differences_are_no_contradiction():
    found = own_sweep(small(50.0, 59.5, 60.0, 60.2)).sweep
    assert found is not None
    told = found.evidence(0, "temperature too high")
    assert told is not None and told.disagreement is None


def test_a_row_without_an_accuracy_is_told_nothing():
    found = own_sweep(small(50.0, np.nan, 70.0, 65.0)).sweep
    assert found is not None
    assert found.evidence(1, "model too small") is None


def test_other_axes_have_their_own_words():
    table = small(50.0, 60.0, 70.0, 65.0).rename(columns={"width": "depth", "batch_size": "learning_rate"})
    found = own_sweep(table).sweep
    assert found is not None
    assert found.changes() == {
        "width": "more depth",
        "small": "a larger learning rate",
        "large": "a smaller learning rate",
    }
    told = found.evidence(0, "temperature too low")
    assert told is not None and told.gains["a larger learning rate"] == 10


def test_verdicts_carry_the_sweep(default_trees):
    diagnosis = Diagnosis.of(UNLABELLED, default_trees)
    verdict = diagnosis.verdict(5)
    assert verdict.sweep is not None
    assert verdict.to_text().endswith(verdict.sweep.to_text())
    kept = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert set(kept["sweep"]) == {"gains", "disagreement"}


def test_trees_of_the_sweep_itself_are_said_to_be(default_trees):
    own = grow_sweep(UNLABELLED).trees
    assert Diagnosis.of(UNLABELLED.sample(frac=1, random_state=0), own).sweep_lines()[-1] == IN_SAMPLE
    assert IN_SAMPLE not in Diagnosis.of(UNLABELLED, default_trees).sweep_lines()
    assert IN_SAMPLE not in Diagnosis.of(labelled(sweep(1)), own).sweep_lines()
