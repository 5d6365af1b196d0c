"""Rows of a table that lack a feature, as a dead network's do: left out where trees are fitted and scored, and said."""

import re
import warnings

import numpy as np
import pytest
from diagnosis_tables import BASELINES, default_tree, labelled, single_tree, sweep

from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.protocols import Choice, one_step_change, transfer
from mdjax.diagnosis.verdicts import diagnose
from mdjax.errors import InputError


def known(seed=0):
    """A sweep with what the baseline of hyperparameters reads, too."""
    table = sweep(seed)
    return table.assign(log_data_amount=np.log(table["data"]), log_para_amount=np.log(table["width"]))


CHOICE = Choice("random", 4, (42,))


def holed(rows, features, every=5):
    """Each of the features missing in a row of its own, now and then."""
    rows = rows.copy()
    for number, name in enumerate(features):
        rows.iloc[number::every, rows.columns.get_loc(name)] = (np.nan, np.inf, -np.inf)[number % 3]
    return rows


@pytest.mark.parametrize("question", ["optimizer", "width", "data"])
@pytest.mark.parametrize("make", [MDTree, default_tree, single_tree, *BASELINES])
def test_a_fit_is_that_of_the_complete_rows(make, question):
    rows, y = labelled(question)
    read = make(question).features
    broken = holed(rows, read[:2])
    kept = np.isfinite(broken[list(read)].to_numpy(dtype=float)).all(axis=1)
    assert 0 < (~kept).sum() < len(rows)
    with pytest.warns(UserWarning, match=rf"{(~kept).sum()} of {len(rows)} rows lack one of {read[0]}.* are left out"):
        fitted = make(question).fit(broken, y)
    expected = make(question).fit(rows[kept], np.asarray(y)[kept])
    np.testing.assert_array_equal(fitted.predict_proba(rows), expected.predict_proba(rows))
    with pytest.raises(InputError, match=r"contains NaN or inf in \d+ of \d+ rows.*mdjax.diagnose keeps them"):
        fitted.predict(broken)
    with pytest.raises(InputError, match="contains NaN or inf"):
        make(question).fit(broken[list(read)].to_numpy(), y)
    if isinstance(fitted, MDTree):
        assert fitted.provenance_["left_out"] == (~kept).sum()
        assert f"(left out for want of a feature: {(~kept).sum()} rows)" in fitted.export_text()
        assert MDTree.from_dict(fitted.to_dict()).export_text() == fitted.export_text()
        assert "left_out" not in expected.provenance_ and "left out" not in expected.export_text()


def test_growing_says_how_many_rows_it_could_not_use():
    table = sweep()
    table.loc[:9, "train_loss"] = np.nan
    table.loc[5:14, "mode_connectivity_peak"] = np.inf
    tree = grow(table, "width")
    rows = table[table["width_vs_batch"].isin(["width", "batch"])]
    lack = ~np.isfinite(rows[["train_loss", "mode_connectivity_peak"]]).all(axis=1)
    assert tree.provenance_["left_out"] == lack.sum() > 0
    assert re.search(rf"left out for want of a feature: {lack.sum()} rows", tree.export_text())
    assert len(diagnose(table, {"width": tree})) == len(table)


def test_transfer_counts_the_rows_that_have_what_the_method_reads():
    train, test = known(), known(1)
    broken = holed(test, ["mode_connectivity_peak"])
    with pytest.warns(UserWarning, match=r"test rows lack one of train_error.* and do not count"):
        found = transfer("md_tree", "optimizer", train, broken, CHOICE)
    expected = transfer("md_tree", "optimizer", train, broken[np.isfinite(broken["mode_connectivity_peak"])], CHOICE)
    np.testing.assert_array_equal(found.accuracies, expected.accuracies)
    np.testing.assert_array_equal(found.calibration_errors, expected.calibration_errors)
    assert found.num_left_out[0] > 0 and expected.num_left_out[0] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert transfer("hyperparameter", "optimizer", train, broken, CHOICE).num_left_out[0] == 0
    with pytest.warns(UserWarning, match="rows lack one of train_error.* and are left out"):
        transfer("md_tree", "optimizer", holed(train, ["hessian_t"]), test, CHOICE)
    with pytest.raises(InputError, match=r"None of \d+ test rows has all of"):
        transfer("md_tree", "optimizer", train, test.assign(hessian_t=np.nan), CHOICE)


def test_a_change_is_compared_on_the_rows_that_all_methods_can_answer():
    train, test = known(), known(1)
    broken = holed(test, ["hessian_t"])
    with pytest.warns(UserWarning, match="do not count"):
        found = one_step_change("width", train, broken, {"tree": "md_tree", "known": "hyperparameter"}, CHOICE)
    assert found.notna().all(axis=None)
    alone = one_step_change("width", train, broken, {"known": "hyperparameter"}, CHOICE)
    assert not np.allclose(found.loc["optimal"], alone.loc["optimal"])
