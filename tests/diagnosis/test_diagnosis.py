"""Diagnosis: the published trees and their fit, files, verdicts on broken and uncertain rows, and the messages."""

import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.causes import CAUSES, CLEAR
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.trees import load_trees, save_trees
from mdjax.diagnosis.verdicts import diagnose, explain
from mdjax.errors import InputError


def default_tree(question: str = "optimizer") -> MDTree:
    return MDTree(question, method="default")


def single_tree(question: str = "optimizer") -> MDTree:
    return MDTree(question, method="default", single=True)


BASELINES = (HyperparameterTree, ValidationTree, CombinedTree, LandscapeTree)


def zoo(num_rows: int = 400, seed: int = 0) -> pd.DataFrame:
    """A labelled table in which the published structures hold, up to one row in ten."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "train_error": np.where(rng.random(num_rows) < 0.5, 0.6, 30) * rng.random(num_rows),
            "mode_connectivity_peak": -30 * rng.random(num_rows),
            "hessian_t": 4 + 5 * rng.random(num_rows),
            "hessian_e": 2 + 5 * rng.random(num_rows),
            "CKA": rng.random(num_rows),
            "test_error": 40 * rng.random(num_rows),
            "train_loss": rng.random(num_rows),
            "test_loss": 2 * rng.random(num_rows),
            "log_data_amount": rng.choice([8.5, 9.2, 10.8], num_rows),
            "log_para_amount": rng.choice([9.3, 13.4, 17.6], num_rows),
            "width": rng.choice([2, 8, 32, 64], num_rows),
            "data": rng.choice([1, 5, 10], num_rows),
            "bs": rng.choice([16, 128, 1024], num_rows),
        }
    )
    table["configuration"] = [f"c{i}" for i in range(num_rows)]
    for question in QUESTIONS.values():
        label = by_hand(question.name, table, [split.threshold for split in question.tree])
        other = np.where(label == question.classes[0], question.classes[1], question.classes[0])
        drawn = rng.random(num_rows)
        table[question.label] = np.where(drawn < 0.1, other, np.where(drawn > 0.95, "optimal", label))
    return table


def by_hand(question: str, table: pd.DataFrame, t: list[float]) -> np.ndarray:
    """The published rules written out one by one, to hold the tables of splits against."""
    error, peak, sharp = (table[name] for name in ("train_error", "mode_connectivity_peak", "hessian_t"))
    answers = []
    for e, p, h in zip(error, peak, sharp):
        if question == "optimizer":
            if e <= t[0]:
                answers.append("small")
            elif p <= t[1]:
                answers.append("large" if h <= t[2] else "small")
            else:
                answers.append("large")
        elif question == "width":
            answers.append("width" if p <= (t[1] if e <= t[0] else t[2]) else "batch")
        elif e <= t[0]:
            answers.append("data" if h <= (t[4] if p <= t[1] else t[2]) else "batch")
        else:
            answers.append("batch" if p <= t[3] else "data" if h <= t[5] else "batch")
    return np.array(answers, dtype=object)


@pytest.fixture(scope="module")
def trees() -> dict[str, MDTree]:
    return {name: grow(zoo(), name, method="published", preset="reference") for name in QUESTIONS}


# --- the estimators


@pytest.mark.parametrize("name", QUESTIONS)
def test_fit_and_predict_follow_the_published_rules(name):
    question, rows = named(name), named(name).rows(zoo())
    labels = rows[question.label].to_numpy()
    thresholds = [split.threshold for split in question.tree]
    for i, split in enumerate(question.tree):

        def negative_accuracy(x, i=i):
            return -np.mean(by_hand(name, rows, [*thresholds[:i], x, *thresholds[i + 1 :]]) == labels)

        thresholds[i] = minimize_scalar(negative_accuracy, bounds=split.bounds, method="bounded").x
    tree = MDTree(name).fit(rows, labels)
    np.testing.assert_array_equal(tree.thresholds_, thresholds)
    fresh = zoo(seed=1)
    np.testing.assert_array_equal(tree.predict(fresh), by_hand(name, fresh, thresholds).astype(str))


@pytest.mark.parametrize("name", QUESTIONS)
def test_frames_and_arrays_agree(name):
    question, rows = named(name), named(name).rows(zoo())
    for make in (MDTree, default_tree, single_tree, *BASELINES):
        by_frame = make(name).fit(rows[rows.columns[::-1]], rows[question.label])
        matrix = rows[list(make(name).features)].to_numpy()
        by_array = make(name).fit(matrix, rows[question.label].to_numpy())
        np.testing.assert_array_equal(by_frame.predict(rows), by_array.predict(matrix.tolist()))
        np.testing.assert_array_equal(
            by_frame.predict(rows[list(by_frame.features)].to_numpy()), by_frame.predict(rows)
        )
        assert by_array.n_features_in_ == matrix.shape[1]
        proba = by_frame.predict_proba(rows)
        np.testing.assert_allclose(proba.sum(axis=1), 1)
        assert proba.shape == (len(rows), 2)
        assert by_frame.classes_.tolist() == sorted(question.classes)
        assert tuple(by_frame.feature_names_in_) == by_frame.features
        assert by_frame.n_features_in_ == len(by_frame.features)


def test_baselines_read_the_published_features():
    assert HyperparameterTree("optimizer").features == ("log_data_amount", "log_para_amount")
    assert HyperparameterTree("width").features == ("log_data_amount",)
    assert HyperparameterTree("data").features == ("log_para_amount",)
    assert ValidationTree("data").features == ("train_error", "train_loss", "test_loss", "test_error")
    assert CombinedTree("width").features == ("log_data_amount", *ValidationTree().features)
    assert LandscapeTree().features == ("train_error", "mode_connectivity_peak", "CKA", "hessian_t")
    assert "log_para_amount" in HyperparameterTree("data").fit(*labelled("data")).export_text()


def labelled(name: str) -> tuple[pd.DataFrame, pd.Series]:
    rows = named(name).rows(zoo())
    return rows, rows[named(name).label]


def test_probabilities_are_smoothed_shares_of_the_leaf():
    rows = pd.DataFrame({"train_error": [0.0] * 3 + [9.0] * 4, "mode_connectivity_peak": -1.0, "hessian_t": 5.0})
    tree = MDTree().fit(rows, ["small", "small", "large", "large", "large", "large", "small"])
    assert tree.classes_.tolist() == ["large", "small"]
    np.testing.assert_allclose(tree.predict_proba(rows[:1]), [[2 / 5, 3 / 5]])
    np.testing.assert_allclose(tree.predict_proba(rows[-1:]), [[4 / 6, 2 / 6]])
    empty = tree.leaf_counts_.sum(axis=1) == 0
    assert empty.sum() == 2
    np.testing.assert_allclose(tree.leaf_shares()[empty], 0.5)
    assert tree.leaf_counts_.sum() == 7


def test_one_class_alone_can_be_fitted():
    rows, _ = labelled("width")
    assert set(MDTree("width").fit(rows, ["width"] * len(rows)).predict(rows)) <= {"width", "batch"}
    with pytest.raises(InputError, match="0 rows"):
        MDTree("width").fit(rows[:0], [])


def test_similarity_variant_reads_cka():
    rows, y = labelled("optimizer")
    tree = MDTree(similarity=True).fit(rows, y)
    assert tree.features == ("train_error", "mode_connectivity_peak", "CKA")
    assert 0.2 <= tree.thresholds_[2] <= 0.8
    row = pd.DataFrame({"train_error": [50.0], "mode_connectivity_peak": [-29.9], "CKA": [0.0]})
    assert tree.predict(row).tolist() == ["small"]
    assert tree.predict(row.assign(CKA=1.0)).tolist() == ["large"]
    with pytest.raises(InputError, match="similarity=True is defined for question 'optimizer' only.*got 'width'"):
        MDTree("width", similarity=True).fit(rows, y)


def test_starts_replace_the_start_thresholds():
    rows, y = labelled("optimizer")
    MDTree(starts=(0.5, -10.0, 5.0)).fit(rows, y)
    with pytest.raises(InputError, match=r"starts must be 3 finite numbers .* got \[1\.0\]"):
        MDTree(starts=[1.0]).fit(rows, y)


def test_export_text_names_features_classes_and_rows():
    tree = MDTree().fit(*labelled("optimizer"))
    text = tree.export_text()
    assert text.startswith(f"|--- train_error <= {tree.thresholds_[0]:.3f}\n|   |--- class: small (temperature too low")
    assert text.count("class:") == 4
    assert "hessian_t >" in text


@pytest.mark.parametrize("make", [MDTree, default_tree, single_tree, *BASELINES])
def test_estimator_contract(make):
    """What scikit-learn's data checks ask of every estimator, on the features that these ones take."""
    rows, y = labelled("optimizer")
    before = rows.copy()
    estimator = make()
    with pytest.raises(NotFittedError):
        estimator.predict(rows)
    parameters = estimator.get_params()
    assert estimator.fit(rows, y) is estimator
    assert estimator.get_params() == parameters
    pd.testing.assert_frame_equal(rows, before)
    learned = dict(vars(estimator))
    predicted, proba = estimator.predict(rows), estimator.predict_proba(rows)
    assert set(vars(estimator)) == set(learned)
    np.testing.assert_array_equal(clone(estimator).fit(rows, y).predict(rows), predicted)
    np.testing.assert_array_equal(estimator.fit(rows, y).predict_proba(rows), proba)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(estimator)).predict_proba(rows), proba)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_allclose(estimator.predict_proba(rows.iloc[order]), proba[order], rtol=1e-12)
    np.testing.assert_array_equal(estimator.predict(rows[:1]), predicted[:1])


ARRAYS_OF_OTHER_WIDTH = (
    "the check fits arrays with other numbers of columns or other classes than the question has; "
    "test_estimator_contract asks the same of its own features"
)
GENERIC_DATA_CHECKS = """
    check_classifier_data_not_an_array check_classifiers_classes check_classifiers_one_label
    check_classifiers_regression_target check_classifiers_train check_dict_unchanged check_dont_overwrite_parameters
    check_dtype_object check_estimators_dtypes check_estimators_fit_returns_self check_estimators_nan_inf
    check_estimators_overwrite_params check_estimators_pickle check_f_contiguous_array_estimator
    check_fit2d_1feature check_fit2d_1sample check_fit2d_predict1d check_fit_check_is_fitted check_fit_idempotent
    check_fit_score_takes_y check_methods_sample_order_invariance check_methods_subset_invariance
    check_n_features_in check_n_features_in_after_fitting check_pipeline_consistency
    check_positive_only_tag_during_fit check_readonly_memmap_input check_requires_y_none check_supervised_y_2d
"""


@pytest.mark.parametrize("make", [MDTree, default_tree, ValidationTree])
def test_scikit_learn_checks(make):
    """All checks of the official list: those that bring their own data fail at its shape, all others pass."""
    results = check_estimator(
        make(),
        expected_failed_checks=dict.fromkeys(GENERIC_DATA_CHECKS.split(), ARRAYS_OF_OTHER_WIDTH),
        on_fail=None,
        on_skip=None,
    )
    failed = {result["check_name"]: result["exception"] for result in results if result["status"] == "failed"}
    assert failed == {}
    passed = {result["check_name"] for result in results if result["status"] == "passed"}
    assert len(passed) >= 15
    assert {"check_no_attributes_set_in_init", "check_get_params_invariance", "check_estimators_unfitted"} <= passed


def test_bad_training_input_is_refused():
    rows, y = labelled("optimizer")
    with pytest.raises(InputError, match=r"no question 'size'\. Choose one of optimizer, width, data"):
        MDTree("size").fit(rows, y)
    with pytest.raises(InputError, match="no method 'joint'"):
        MDTree(method="joint").fit(rows, y)
    with pytest.raises(InputError, match="smoothing must be positive, got 0"):
        MDTree(smoothing=0).fit(rows, y)
    with pytest.raises(InputError, match=r"no column hessian_t; it has train_error"):
        MDTree().fit(rows.drop(columns="hessian_t"), y)
    with pytest.raises(InputError, match=r"hessian_t contains NaN or inf in 2 of \d+ rows.*Drop these rows"):
        MDTree().fit(rows.assign(hessian_t=[np.nan, np.inf, *rows["hessian_t"][2:]]), y)
    with pytest.raises(InputError, match="Column hessian_t must hold numbers"):
        MDTree().fit(rows.assign(hessian_t="sharp"), y)
    with pytest.raises(InputError, match="2 columns named hessian_t"):
        MDTree().fit(pd.concat([rows, rows["hessian_t"]], axis=1), y)
    with pytest.raises(InputError, match=r"y holds 'optimal'; question 'optimizer' knows small, large"):
        MDTree().fit(rows, ["optimal"] * len(rows))
    with pytest.raises(InputError, match="one label for each of"):
        MDTree().fit(rows, y[:-1])
    with pytest.raises(InputError, match="requires y to be passed"):
        MDTree().fit(rows, None)
    with pytest.raises(InputError, match="X has 2 columns, but 3 features"):
        MDTree().fit(rows[["train_error", "hessian_t"]].to_numpy(), y)
    with pytest.raises(InputError, match="contains NaN or inf"):
        MDTree().fit(rows, y).predict(rows.assign(train_error=np.nan))
    with pytest.raises(InputError, match=r"no column bs_failure.*failure_labels"):
        named("optimizer").rows(rows.drop(columns="bs_failure"))
    with pytest.raises(InputError, match="Column bs_failure holds 'huge'"):
        named("optimizer").rows(rows.assign(bs_failure="huge"))


def test_questions_are_asked_of_their_rows():
    table = zoo()
    rows = named("data").rows(table)
    assert rows["width"].min() >= 32
    assert set(rows["data_vs_batch"]) == {"data", "batch"}
    assert not named("data").asked(table.drop(columns="width")).any()
    assert len(named("width").rows(table.assign(width_vs_batch=None))) == 0


# --- files


def test_trees_survive_their_file(trees, tmp_path):
    path = tmp_path / "trees.json"
    save_trees(trees.values(), path)
    table = zoo(seed=2)
    for name, loaded in load_trees(path).items():
        np.testing.assert_array_equal(loaded.predict_proba(table), trees[name].predict_proba(table))
        assert loaded.to_dict() == trees[name].to_dict()
        assert loaded.feature_ranges_ == trees[name].feature_ranges_
    pd.testing.assert_frame_equal(diagnose(table, path), diagnose(table, trees))
    assert MDTree.load(path, "width").question == "width"
    with pytest.raises(InputError, match=r"holds trees for optimizer, width, data; got question=None"):
        MDTree.load(path)
    trees["data"].save(path)
    assert MDTree.load(path).question == "data"
    with pytest.raises(InputError, match="one tree per question, got data, data"):
        save_trees([trees["data"], trees["data"]], path)


def damaged(text: str, **changes: object) -> str:
    content = json.loads(text)
    content["trees"][0] |= changes
    return json.dumps(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "not a JSON file of trees"),
        (lambda text: "[1, 2]", "no file of MD trees"),
        (lambda text: text.replace('"version": 2', '"version": 1'), "has version 1, expected 2.*Grow and save"),
        (lambda text: text.replace('"version": 2', '"version": 9'), "has version 9, expected 2"),
        (lambda text: text.replace('"spread": 0.0', '"spread": -1'), "spread is not a finite positive number"),
        (lambda text: damaged(text, shares=[[0.5, 0.5]]), "shares do not fit 4 leaves"),
        (lambda text: damaged(text, gains=[1]), "cannot be understood"),
        (lambda text: damaged(text, single_tree={"question": "width"}), "lacks the field 'method'"),
        (lambda text: "[" * 100_000, "not a JSON file of trees"),
        (lambda text: json.dumps({**json.loads(text), "trees": []}), "holds no trees"),
        (lambda text: text.replace('"preset"', '"presets"'), "lacks the field 'preset'"),
        (lambda text: damaged(text, question="size"), "no question 'size'"),
        (lambda text: damaged(text, splits=[]), "its splits do not form one tree|cannot be understood"),
        (lambda text: text.replace('"above": 1', '"above": 0'), "its splits do not form one tree"),
        (lambda text: text.replace('"above": 1', '"above": 7'), "its splits do not form one tree"),
        (lambda text: text.replace('"at_most": "small"', '"at_most": "tiny"'), "a leaf is none of small, large"),
        (lambda text: damaged(text, leaf_counts=[[1, 2]]), "leaf_counts do not fit 4 leaves"),
        (lambda text: damaged(text, classes=["a", "b"]), "classes are"),
        (lambda text: damaged(text, feature_ranges={}), "lacks the field 'train_error'"),
        (lambda text: damaged(text, smoothing=0), "smoothing is 0"),
    ],
)
def test_foreign_and_damaged_files_are_refused(trees, tmp_path, spoil, message):
    path = tmp_path / "trees.json"
    trees["optimizer"].save(path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message):
        load_trees(path)


def test_missing_and_binary_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"Cannot read the trees in .*absent\.json"):
        load_trees(tmp_path / "absent.json")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not a JSON file"):
        load_trees(tmp_path / "binary")


# --- verdicts


def test_every_row_gets_a_verdict_that_agrees_with_the_trees(trees):
    table = zoo(seed=3).sample(frac=1, random_state=0)
    verdicts = diagnose(table, trees)
    assert verdicts.index.equals(table.index)
    assert verdicts["configuration"].tolist() == table["configuration"].tolist()
    assert set(verdicts["status"]) == {"ok"}
    assert verdicts["optimizer_answer"].tolist() == trees["optimizer"].predict(table).tolist()
    wide = table["width"] >= 32
    assert verdicts.loc[wide, "data_answer"].tolist() == trees["data"].predict(table[wide]).tolist()
    assert verdicts.loc[~wide, "data_answer"].isna().all()
    assert set(verdicts.loc[~wide, "data_status"]) == {"not asked: width below 32"}
    proba = trees["width"].predict_proba(table)[:, trees["width"].classes_.tolist().index("width")]
    answered = np.where(verdicts["width_answer"] == "width", proba, 1 - proba)
    np.testing.assert_allclose(verdicts["width_probability"], answered)


def test_causes_join_the_answers_as_odds(trees):
    table = zoo(seed=4)
    verdicts = diagnose(table, trees)
    low, high, width, data = verdicts[[f"p_{cause.key}" for cause in CAUSES]].to_numpy().T
    np.testing.assert_allclose(low + high + width + np.nan_to_num(data), 1)
    proba = {
        name: tree.predict_proba(table)[:, tree.classes_.tolist().index(named(name).classes[0])]
        for name, tree in trees.items()
    }
    np.testing.assert_allclose(width / (low + high), proba["width"] / (1 - proba["width"]))
    np.testing.assert_allclose(low / (low + high), proba["optimizer"])
    wide = (table["width"] >= 32).to_numpy()
    np.testing.assert_allclose((data / (low + high))[wide], (proba["data"] / (1 - proba["data"]))[wide])
    assert np.isnan(data[~wide]).all()
    told = verdicts[verdicts["cause"] != "no clear failure"]
    assert (told["probability"] >= CLEAR).all()
    assert (verdicts.loc[verdicts["cause"] == "no clear failure", "probability"] < CLEAR).all()
    for cause in CAUSES:
        chosen = told[told["cause"] == cause.meaning]
        assert len(chosen)
        assert set(chosen["recommendation"]) == {cause.change}
        np.testing.assert_array_equal(chosen["probability"], chosen[f"p_{cause.key}"])


def test_wording_says_what_to_do_about_the_temperature():
    wording = {cause.key: (cause.meaning, cause.change) for cause in CAUSES}
    low, high = wording["temperature_low"], wording["temperature_high"]
    assert low[0] == "temperature too low"
    assert "reduce the batch size or raise the learning rate" in low[1]
    assert high[0] == "temperature too high"
    assert "increase the batch size or lower the learning rate" in high[1]
    assert named("optimizer").meaning["small"] == low[0]


def one_row(**features: object) -> pd.DataFrame:
    measured = {"train_error": 20.0, "mode_connectivity_peak": -2.0, "hessian_t": 5.0, "width": 64}
    return pd.DataFrame([measured | features])


def test_missing_features_are_told_and_weighed(trees):
    whole = diagnose(one_row(), trees).iloc[0]
    assert whole["status"] == "ok"
    gone = diagnose(one_row(hessian_t=np.nan), trees).iloc[0]
    assert gone["status"] == gone["optimizer_status"] == "missing hessian_t"
    assert gone["width_status"] == "ok"
    # The optimizer's path does not come to sharpness here, so that nothing is lost.
    assert gone["optimizer_answer"] == whole["optimizer_answer"] == "large"
    assert gone["optimizer_probability"] == pytest.approx(whole["optimizer_probability"])
    no_peak = diagnose(one_row().drop(columns="mode_connectivity_peak"), trees).iloc[0]
    assert no_peak["status"] == "missing mode_connectivity_peak"
    shares, counts = trees["width"].leaf_shares(), trees["width"].leaf_counts_.sum(axis=1) + 1
    expected = (counts[2:] / counts[2:].sum()) @ shares[2:, trees["width"].classes_.tolist().index("width")]
    assert no_peak["p_width"] / (no_peak["p_temperature_low"] + no_peak["p_temperature_high"]) == pytest.approx(
        expected / (1 - expected)
    )


def test_a_broken_row_is_unknown_and_harms_nobody(trees):
    table = pd.concat([one_row(), one_row(), one_row()], ignore_index=True)
    table.loc[1, ["train_error", "mode_connectivity_peak", "hessian_t"]] = [np.nan, np.inf, np.nan]
    table["status"] = ["ok", "weights are NaN", "curve diverged"]
    verdicts = diagnose(table, trees)
    broken = verdicts.iloc[1]
    assert broken["cause"] == "unknown"
    assert np.isnan(broken["probability"])
    assert broken["recommendation"] == "measure what is missing first"
    assert broken["status"] == "weights are NaN; missing train_error, mode_connectivity_peak, hessian_t"
    assert pd.isna(broken["optimizer_answer"])
    assert broken["flags"] == ""
    assert verdicts["status"].tolist()[::2] == ["ok", "curve diverged"]
    alone = diagnose(one_row(), trees).iloc[0]
    columns = ["cause", "probability", "optimizer_answer", "p_data"]
    assert verdicts.loc[0, columns].tolist() == verdicts.loc[2, columns].tolist() == alone[columns].tolist()


def test_error_bars_soften_the_verdict_and_flag_the_threshold(trees):
    tree = trees["optimizer"]
    peak = tree.thresholds_[1] + 0.3
    sure = diagnose(one_row(mode_connectivity_peak=peak), trees).iloc[0]
    vague = diagnose(one_row(mode_connectivity_peak=peak, mode_connectivity_peak_se=0.6), trees).iloc[0]
    assert sure["flags"] == ""
    assert vague["flags"] == "mode_connectivity_peak within 2 standard errors of its threshold"
    assert vague["optimizer_answer"] == "large"
    shares = tree.leaf_shares()[:, tree.classes_.tolist().index("large")]
    leaf = 1 if tree.thresholds_[2] >= 5.0 else 2
    expected = norm.cdf(0.5) * shares[3] + norm.cdf(-0.5) * shares[leaf]
    assert vague["optimizer_probability"] == pytest.approx(expected)
    near_nothing = one_row(mode_connectivity_peak=peak, mode_connectivity_peak_se=np.nan, hessian_t_se=-1)
    assert diagnose(near_nothing, trees)["optimizer_probability"].iloc[0] == sure["optimizer_probability"]


def test_rows_unlike_the_training_rows_are_flagged(trees):
    table = pd.concat([one_row(), one_row(train_error=99.0), one_row(hessian_t=-3.0)], ignore_index=True)
    table["preset"] = ["reference", "reference", "default"]
    assert diagnose(table, trees)["flags"].tolist() == [
        "",
        "train_error above the range seen",
        "hessian_t below the range seen",
    ]


def test_another_preset_is_told_once(trees):
    table = pd.concat([one_row()] * 3, ignore_index=True)
    assert diagnose(table, trees).attrs["cautions"] == []
    table["preset"] = ["reference", "default", "default"]
    assert diagnose(table, trees).attrs["cautions"] == [
        "2 of 3 rows measured with preset default, tree grown on preset reference: the features mean the same, "
        "but probabilities near a threshold are less sure"
    ]
    table["preset"] = "default"
    verdicts = diagnose(table, trees)
    assert [text.split(":")[0] for text in verdicts.attrs["cautions"]] == [
        "measured with preset default, tree grown on preset reference"
    ]
    assert set(verdicts["flags"]) == {""}
    assert explain(table.iloc[0], trees).flags == tuple(verdicts.attrs["cautions"])


def test_no_clear_failure_when_the_probability_is_thin(trees):
    thin = {name: MDTree.from_dict({**tree.to_dict(), "smoothing": 1e9}) for name, tree in trees.items()}
    verdict = diagnose(one_row(), thin).iloc[0]
    assert verdict["cause"] == "no clear failure"
    assert verdict["recommendation"] == "no single change stands out"
    assert explain(one_row(), thin).to_text().startswith("Cause: no clear failure\n")


def test_fewer_trees_answer_fewer_questions(trees):
    verdicts = diagnose(one_row(), {"optimizer": trees["optimizer"]})
    assert verdicts["cause"].tolist() == ["temperature too high"]
    assert np.isnan(verdicts["p_width"]).all()
    assert "width_answer" not in verdicts
    undirected = diagnose(one_row(mode_connectivity_peak=0.0), {"width": trees["width"]}).iloc[0]
    assert undirected["width_answer"] == "batch"
    assert undirected["cause"] == "unknown"


def test_unknown_width_leaves_the_data_question_out(trees):
    for row in (one_row().drop(columns="width"), one_row(width=np.nan)):
        assert diagnose(row, trees)["data_status"].tolist() == ["not asked: width unknown"]


def test_an_empty_table_gives_no_verdicts(trees):
    verdicts = diagnose(one_row()[:0], trees)
    assert len(verdicts) == 0
    assert list(verdicts.columns) == list(diagnose(one_row(), trees).columns)


def test_tables_and_trees_that_cannot_be_used_are_refused(trees):
    with pytest.raises(InputError, match=r"none of the features train_error.*it has a\. Measure"):
        diagnose(pd.DataFrame({"a": [1]}), trees)
    with pytest.raises(InputError, match="must be a pandas DataFrame, got dict"):
        diagnose({"train_error": 1}, trees)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"trees\['width'\] must be a fitted MDTree of that question"):
        diagnose(one_row(), {"width": MDTree("width")})
    with pytest.raises(InputError, match="trees is empty"):
        diagnose(one_row(), {})
    with pytest.raises(InputError, match="explain takes one row, got 2"):
        explain(pd.concat([one_row()] * 2), trees)


def test_shipped_trees_are_the_default():
    measured = {"train_error": 0.0, "train_loss": 1e-5, "mode_connectivity_peak": 0.0, "hessian_t": 6.0}
    verdict = diagnose(one_row(**measured, hessian_e=4.0, width=16)).iloc[0]
    assert verdict["cause"] == "temperature too low"
    assert verdict["recommendation"].startswith("raise the temperature: reduce the batch size")


def test_explanations_hold_the_evidence(trees):
    row = one_row(configuration="run7", hessian_t_se=0.2, mode_connectivity_peak=-29.0, preset="default")
    verdict = explain(row, trees)
    told = diagnose(row, trees).iloc[0]
    assert (verdict.cause, verdict.probability, verdict.status) == (told["cause"], told["probability"], "ok")
    optimizer = verdict.answers[0]
    assert [step.feature for step in optimizer.evidence] == ["train_error", "mode_connectivity_peak", "hessian_t"]
    sharp = optimizer.evidence[2]
    assert (sharp.value, sharp.standard_error, sharp.threshold) == (5.0, 0.2, trees["optimizer"].thresholds_[2])
    assert sharp.distance == pytest.approx(5.0 - sharp.threshold)
    assert sharp.at_most
    text = verdict.to_text()
    assert text.startswith(f"run7: {verdict.cause}\nWhat to change: {verdict.recommendation}.\nCauses weighed: ")
    assert "hessian_t = 5 ± 0.2 is at or below the threshold" in text
    assert "Caution: measured with preset default" in text
    assert str(verdict) == text
    assert json.loads(json.dumps(verdict.to_dict(), allow_nan=False))["answers"][0]["evidence"][2]["value"] == 5.0


def test_explanations_of_series_mappings_and_broken_rows(trees):
    row = one_row(hessian_t=np.nan, width=8)
    verdict = explain(row.iloc[0], trees)
    assert verdict == explain(row.iloc[0].to_dict(), trees)
    assert "Status: missing hessian_t." in verdict.to_text()
    assert "No answer: not asked: width below 32." in verdict.to_text()
    no_peak = explain(one_row(mode_connectivity_peak=None), trees).to_text()
    assert "mode_connectivity_peak was not measured; training rows mostly lie" in no_peak
    broken = explain({"train_error": np.nan, "width": 64}, trees)
    assert broken.cause == "unknown"
    assert broken.probability is None
    assert "No answer: missing train_error mode_connectivity_peak hessian_t." in broken.to_text()
    json.dumps(broken.to_dict(), allow_nan=False)


def test_a_hundred_thousand_rows_are_quick():
    table = pd.concat([zoo(1000)] * 100, ignore_index=True)
    table["hessian_t_se"] = 0.1
    start = time.process_time()
    verdicts = diagnose(table)
    assert time.process_time() - start < 5
    assert len(verdicts) == 100_000


def test_diagnosing_never_loads_jax():
    loaded = "print(sorted({'jax', 'flax', 'torch'} & set(sys.modules)))"
    code = f"import sys, mdjax.diagnosis.protocols, mdjax.report.page; {loaded}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
