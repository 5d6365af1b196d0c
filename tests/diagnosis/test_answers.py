"""Answers: which tree speaks, what is missing or flagged, and what error bars do."""

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import one_row, sweep, zoo
from scipy.stats import norm

from mdjax.diagnosis.answers import AnswerState, Flag, FlagKind, answers_to, joined_flags, status_codes, tree_answers
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError
from mdjax.statuses import StatusCode


def test_answers_are_the_likelier_class(default_trees):
    fresh = sweep(1)
    for tree in default_trees.values():
        p = tree.predict_proba(fresh)
        np.testing.assert_allclose(p.sum(axis=1), 1)
        assert tree.predict(fresh).tolist() == tree.classes_[p.argmax(axis=1)].tolist()
        answers = tree_answers(tree, fresh)
        asked = tree.asked_question.asked(fresh)
        assert answers.label[asked].tolist() == tree.predict(fresh[asked]).tolist()
        assert (answers.probability[asked] >= 0.5).all()


def test_the_tree_for_single_models_speaks_where_pairs_are_missing(default_trees):
    table = sweep(2)
    table.loc[::2, "mode_connectivity_peak"] = np.nan
    verdicts = diagnose(table, default_trees)
    alone = (np.arange(len(table)) % 2 == 0).tolist()
    for name in ("optimizer", "width"):
        assert (verdicts[f"{name}_tree"] == "single").tolist() == alone
        single = default_trees[name].single_
        assert single is not None
        told = verdicts.loc[alone, f"{name}_answer"].tolist()
        assert told == single.predict(table[alone]).tolist()
        assert verdicts.loc[[not one for one in alone], f"{name}_answer"].tolist() == (
            default_trees[name].predict(table[[not one for one in alone]]).tolist()
        )
    assert default_trees["data"].single_ is None  # it reads no pairs
    assert set(verdicts["status"]) == {"ok"}
    gone = diagnose(table.drop(columns=["mode_connectivity_peak"]), default_trees)
    pd.testing.assert_frame_equal(gone[alone], verdicts[alone])


def test_missing_features_are_told_and_weighed(published_trees):
    whole = diagnose(one_row(), published_trees).iloc[0]
    assert whole["status"] == "ok"
    gone = diagnose(one_row(hessian_t=np.nan), published_trees).iloc[0]
    assert gone["status"] == gone["optimizer_status"] == "missing hessian_t"
    assert gone["width_status"] == "ok"
    # The optimizer's path does not come to sharpness here, so that nothing is lost.
    assert gone["optimizer_answer"] == whole["optimizer_answer"] == "large"
    assert gone["optimizer_probability"] == pytest.approx(whole["optimizer_probability"])
    no_peak = diagnose(one_row().drop(columns="mode_connectivity_peak"), published_trees).iloc[0]
    assert no_peak["status"] == "missing mode_connectivity_peak"
    shares, counts = (
        published_trees["width"].leaf_probabilities(),
        published_trees["width"].leaf_counts_.sum(axis=1) + 1,
    )
    expected = (counts[2:] / counts[2:].sum()) @ shares[2:, published_trees["width"].classes_.tolist().index("width")]
    assert no_peak["p_width"] / (no_peak["p_temperature_low"] + no_peak["p_temperature_high"]) == pytest.approx(
        expected / (1 - expected)
    )


def test_the_data_question_is_asked_where_the_width_is_unknown(published_trees):
    known = diagnose(one_row(), published_trees)
    although = "asked although the width is not known; the published sweeps ask it from width 32 on"
    for row in (one_row().drop(columns="width"), one_row(width=np.nan), one_row(width=None)):
        told = diagnose(row, published_trees)
        assert told["data_status"].tolist() == [although]
        pd.testing.assert_frame_equal(told.drop(columns="data_status"), known.drop(columns="data_status"))
        assert f"; {although})" in explain(row, published_trees).to_text()
    gone = diagnose(one_row(width=np.nan, hessian_t=np.nan), published_trees)
    assert gone["data_status"].tolist() == [f"missing hessian_t; {although}"]
    everywhere = {"data": grow(zoo(), "data", method="published", min_width=0)}
    assert diagnose(one_row(width=np.nan), everywhere)["data_status"].tolist() == ["ok"]


def test_error_bars_soften_the_verdict_and_flag_the_threshold(published_trees):
    tree = published_trees["optimizer"]
    peak = tree.thresholds_[1] + 0.3
    sure = diagnose(one_row(mode_connectivity_peak=peak), published_trees).iloc[0]
    vague = diagnose(one_row(mode_connectivity_peak=peak, mode_connectivity_peak_se=0.6), published_trees).iloc[0]
    assert sure["flags"] == ""
    assert vague["flags"] == "mode_connectivity_peak within 2 standard errors of its threshold"
    assert vague["optimizer_answer"] == "large"
    shares = tree.leaf_probabilities()[:, tree.classes_.tolist().index("large")]
    leaf = 1 if tree.thresholds_[2] >= 5.0 else 2
    expected = norm.cdf(0.5) * shares[3] + norm.cdf(-0.5) * shares[leaf]
    assert vague["optimizer_probability"] == pytest.approx(expected)
    near_nothing = one_row(mode_connectivity_peak=peak, mode_connectivity_peak_se=np.nan, hessian_t_se=-1)
    assert diagnose(near_nothing, published_trees)["optimizer_probability"].iloc[0] == sure["optimizer_probability"]


def test_error_bars_of_a_computed_quantity_are_flagged(default_trees):
    tree = default_trees["optimizer"]
    assert [split.feature for split in tree.tree_] == ["train_error", "barrier", "eigenvalue_for_loss"]
    row = sweep().iloc[[1]].assign(train_error=20.0, mode_connectivity_peak=-20 - tree.thresholds_[1] - 0.5)
    vague = row.assign(train_error_se=0.3, mode_connectivity_peak_se=0.4)
    assert "barrier within 2 standard errors of its threshold" in diagnose(vague, default_trees)["flags"].iloc[0]
    assert "barrier within" not in diagnose(row, default_trees)["flags"].iloc[0]
    step = explain(vague, default_trees).answers[0].evidence[1]
    assert step.standard_error == pytest.approx(0.5)
    assert step.crossed
    assert step.interval is not None
    assert step.interval[0] < step.threshold < step.interval[1]
    assert "which is believed to lie from" in step.to_text()
    assert "rises above their own training error" in step.to_text()
    assert not explain(row, default_trees).answers[0].evidence[1].crossed


def test_rows_unlike_the_training_rows_are_flagged(published_trees):
    table = pd.concat([one_row(), one_row(train_error=99.0), one_row(hessian_t=-3.0)], ignore_index=True)
    table["preset"] = ["reference", "reference", "default"]
    assert diagnose(table, published_trees)["flags"].tolist() == [
        "",
        "train_error above the range seen",
        "hessian_t below the range seen",
    ]


def test_tables_and_trees_that_cannot_be_used_are_refused(published_trees):
    with pytest.raises(InputError, match=r"none of the features train_error.*it has a\. Measure"):
        diagnose(pd.DataFrame({"a": [1]}), published_trees)
    with pytest.raises(InputError, match="must be a pandas DataFrame, got dict"):
        diagnose({"train_error": 1}, published_trees)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"trees\['width'\] must be a fitted MDTree of that question"):
        diagnose(one_row(), {"width": MDTree("width")})
    with pytest.raises(InputError, match="trees is empty"):
        diagnose(one_row(), {})
    with pytest.raises(InputError, match="explain takes one row, got 2"):
        explain(pd.concat([one_row()] * 2), published_trees)


def test_states_flags_and_missing_features_are_values(published_trees):
    table = pd.concat([one_row(), one_row(width=8), one_row(width=np.nan), one_row(train_error=np.nan)])
    table = pd.concat([table, one_row(train_error=99.0, hessian_t=np.nan)], ignore_index=True)
    answers = answers_to(published_trees, table)
    data = answers["data"].speaker(0)
    assert data.state.tolist() == [
        AnswerState.ANSWERED,
        AnswerState.WIDTH_BELOW_LEAST,
        AnswerState.ANSWERED_WIDTH_UNKNOWN,
        AnswerState.ROOT_MISSING,
        AnswerState.ANSWERED,
    ]
    assert [label is None for label in data.label] == [False, True, False, True, False]
    assert data.missing["hessian_t"].tolist() == [False] * 4 + [True]
    assert data.missing["train_error"].tolist() == [False] * 3 + [True, False]
    up = {flag: mask.tolist() for flag, mask in joined_flags(answers).items() if mask.any()}
    assert up == {Flag("train_error", FlagKind.ABOVE_RANGE): [False] * 4 + [True]}
    assert status_codes(table, answers).tolist() == ["ok"] * 3 + ["features_missing"] * 2


def test_status_codes_are_the_tables_own_where_it_has_any(published_trees):
    table = pd.concat([one_row(), one_row(), one_row(hessian_t=np.nan), one_row(hessian_t=np.nan)], ignore_index=True)
    table["status"] = ["ok", "curve diverged", "ok", "weights are NaN"]
    told = diagnose(table, published_trees)["status_code"].tolist()
    assert told == ["ok", StatusCode.OTHER, StatusCode.FEATURES_MISSING, StatusCode.OTHER]
    table["status_code"] = ["ok", StatusCode.DIVERGED.value, "ok", StatusCode.WEIGHTS_NOT_FINITE.value]
    verdicts = diagnose(table, published_trees)
    assert verdicts["status_code"].tolist() == ["ok", "diverged", "features_missing", "weights_not_finite"]
    assert verdicts["status"].tolist()[2:] == ["missing hessian_t", "weights are NaN; missing hessian_t"]
    table["status_code"] = None
    assert diagnose(table, published_trees)["status_code"].tolist() == told


def test_what_is_said_of_a_row_depends_on_it_alone(published_trees):
    rows = [one_row(hessian_t=np.nan), one_row(train_error=np.nan, hessian_t=np.nan, width=4)]
    together = diagnose(pd.concat(rows, ignore_index=True), published_trees)
    assert together["status"].tolist() == ["missing hessian_t", "missing train_error, hessian_t"]
    for k, row in enumerate(rows):
        assert diagnose(row, published_trees)["status"].tolist() == [together["status"][k]]
