"""Trees grown on a table's own sweep: the same as by hand, held-out accuracies that are what they say, refusals."""

import numpy as np
import pytest
from diagnosis_tables import sweep

from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS, Axes
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import balanced_accuracy
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.sweep_trees import grow_sweep
from mdjax.errors import InputError

UNLABELLED = sweep().drop(columns=[*RFI_COLUMNS, *LABEL_COLUMNS])


@pytest.mark.parametrize("method", ["default", "published"])
def test_the_trees_are_those_grown_by_hand(method, tmp_path):
    grown = grow_sweep(UNLABELLED, method=method)
    assert grown.axes == Axes()
    assert list(grown.trees) == list(QUESTIONS) and grown.not_grown == {}
    for name, tree in grown.trees.items():
        expected = grow(sweep(), name, method=method)
        assert tree.tree_ == expected.tree_ and tree.gains_ == expected.gains_
        tree.save(tmp_path / "tree.json")
        assert MDTree.load(tmp_path / "tree.json").provenance_["held_out"][0]["rows"] == grown.held_out[name][0].rows


def test_held_out_accuracies_by_hand():
    table = sweep()
    rows = QUESTIONS["optimizer"].rows(table)
    one, half = grow_sweep(UNLABELLED, ["optimizer"], method="published").held_out["optimizer"]
    assert one.way == "leaving out one width of 4 at a time"
    answers = np.full(len(rows), None, dtype=object)
    for width in rows["width"].unique():
        here = (rows["width"] == width).to_numpy()
        answers[here] = grow(rows[~here], "optimizer", method="published").predict(rows[here])
    truth = rows["bs_failure"].to_numpy(dtype=object)
    assert one.rows == len(rows)
    assert one.accuracy == pytest.approx(100 * np.mean(truth == answers))
    assert one.balanced_accuracy == pytest.approx(balanced_accuracy(truth, answers))
    assert half.way == "grown on width below 64, asked from there on"
    large = rows["width"] >= 64
    told = grow(rows[~large], "optimizer", method="published").predict(rows[large])
    assert half.accuracy == pytest.approx(100 * np.mean(told == rows.loc[large, "bs_failure"]))
    assert half.majority_accuracy == pytest.approx(100 * np.mean(rows.loc[large, "bs_failure"] == "large"))


def test_other_ways_to_leave_rows_out():
    by_data = UNLABELLED[UNLABELLED["width"] == 32]
    assert grow_sweep(by_data, ["optimizer"]).held_out["optimizer"][0].way == "leaving out one data of 3 at a time"
    alone = by_data[by_data["data"] == 10]
    found = grow_sweep(alone, ["optimizer"]).held_out["optimizer"]
    assert [one.way.split(",")[0] for one in found] == ["5-fold cross-validation over rows"]


def test_questions_without_two_classes_are_left_out_and_said():
    narrow = UNLABELLED[UNLABELLED["width"] < 32]
    grown = grow_sweep(narrow)
    assert list(grown.trees) == ["optimizer"]
    assert "needs a sweep over a size, which this one does not vary" in grown.not_grown["width"]
    assert (
        "no row is labelled from width 32 on. Widen the sweep or ask it of all widths (--min-width 0)"
        in (grown.not_grown["data"])
    )
    text = grown.to_text()
    assert "width: not grown. Question 'width' needs a sweep over a size" in text
    assert text.startswith("Axes of the sweep: temperature by bs (smaller is hotter), data by data.")
    assert "data" in grow_sweep(narrow, min_width=0).trees
    with pytest.raises(InputError, match="needs a sweep over a size"):
        grow_sweep(narrow, ["width"])


def test_tables_that_grow_nothing_are_refused():
    with pytest.raises(InputError, match="No question can be grown on the table.* needs a sweep over a temperature"):
        grow_sweep(UNLABELLED[UNLABELLED["bs"] == 16])
    with pytest.raises(InputError, match="No question can be grown on the table.* no column train_error"):
        grow_sweep(UNLABELLED[["bs", "width", "data", "test_acc"]])
    with pytest.raises(InputError, match="There is no method 'best'"):
        grow_sweep(UNLABELLED, ["width"], method="best")
    with pytest.raises(InputError, match="There is no question 'depth'"):
        grow_sweep(UNLABELLED, ["depth"])


def test_the_text_tells_rows_classes_accuracy_and_gains():
    grown = grow_sweep(UNLABELLED, ["width"])
    counts = QUESTIONS["width"].rows(sweep())["width_vs_batch"].value_counts()
    text = grown.to_text()
    for told in (
        f"{counts.sum()} rows: {counts['batch']} 'temperature rather than model size', ",
        f", {counts['width']} 'model too small'",
        grown.held_out["width"][0].to_text(),
        f"gained {grown.trees['width'].gains_['width']['one']:.1f} points of test accuracy by one step",
    ):
        assert told in text
