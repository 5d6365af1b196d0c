"""The MD tree as an estimator, beside the baselines: scikit-learn's contract, structures, and the messages."""

import pickle

import numpy as np
import pandas as pd
import pytest
from diagnosis_tables import BASELINES, default_tree, labelled, single_tree, sweep, zoo
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import check_estimator

from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import QUESTIONS, named, soft_split
from mdjax.errors import InputError


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


def test_probabilities_are_smoothed_shares_of_the_leaf():
    rows = pd.DataFrame({"train_error": [0.0] * 3 + [9.0] * 4, "mode_connectivity_peak": -1.0, "hessian_t": 5.0})
    tree = MDTree().fit(rows, ["small", "small", "large", "large", "large", "large", "small"])
    assert tree.classes_.tolist() == ["large", "small"]
    np.testing.assert_allclose(tree.predict_proba(rows[:1]), [[2 / 5, 3 / 5]])
    np.testing.assert_allclose(tree.predict_proba(rows[-1:]), [[4 / 6, 2 / 6]])
    empty = tree.leaf_counts_.sum(axis=1) == 0
    assert empty.sum() == 2
    np.testing.assert_allclose(tree.leaf_probabilities()[empty], 0.5)
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


def test_structures_may_be_given():
    rows = named("data").rows(sweep())
    tree = MDTree("data", method="default", structure=(soft_split("CKA", "batch", "data"),))
    assert tree.features == ("CKA",)
    with pytest.raises(InputError, match="no column CKA"):
        tree.fit(rows, rows["data_vs_batch"])
    with pytest.raises(InputError, match="structure must be a whole tree of splits, but a leaf is none of data, batch"):
        MDTree("data", structure=(soft_split("CKA", "small", "data"),)).fit(rows, rows["data_vs_batch"])
    with pytest.raises(InputError, match=r"'published' has no tree for single models\. Choose one of default"):
        MDTree(single=True).fit(rows, rows["data_vs_batch"])


def test_labels_choose_the_structure_and_few_leave_the_first():
    """Networks unlike the published ones: model size shows in the similarity, at losses where the first tree errs."""
    rng = np.random.default_rng(3)
    width = rng.random(300) < 0.5
    rows = pd.DataFrame(
        {
            "train_error": 0.0,
            "train_loss": 1e-5,
            "mode_connectivity_peak": -1e-3,
            "CKA": np.where(width, 0.1, 0.8),
        }
    )
    labels = np.where(width, "width", "batch").astype(object)
    many = MDTree("width", method="default").fit(rows, labels)
    assert "CKA" in many.features
    assert (many.predict(rows) == labels).all()
    one_of_each = [width.argmin(), width.argmax()]
    few = MDTree("width", method="default").fit(rows.iloc[one_of_each], labels[one_of_each])
    assert few.features == ("train_error", "mode_connectivity_peak", "train_loss")
    without = MDTree("width", method="default").fit(rows.drop(columns="CKA"), labels)
    assert without.features == few.features
    with pytest.raises(InputError, match="no column train_loss"):
        MDTree("width", method="default").fit(rows.drop(columns=["CKA", "train_loss"]), labels)
    loaded = MDTree.from_dict(many.to_dict())
    np.testing.assert_array_equal(loaded.predict_proba(rows), many.predict_proba(rows))
    assert loaded.features == many.features


def test_duplicated_rows_move_thresholds_but_not_past_the_classes():
    rows = pd.DataFrame({"hessian_t": [4.0] * 50 + [7.0] * 50})
    tree = MDTree("data", method="default").fit(rows, ["data"] * 50 + ["batch"] * 50)
    assert 4 < tree.thresholds_[0] < 7
    assert tree.predict(rows).tolist() == ["data"] * 50 + ["batch"] * 50
    reached = tree.leaf_probabilities().max(axis=1)
    assert (reached > 0.9).all()
    assert (reached < 1).all()


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
        holed = rows.assign(hessian_t=[np.nan, np.inf, *rows["hessian_t"][2:]])
        MDTree().fit(holed[list(MDTree().features)].to_numpy(), y)
    with pytest.raises(InputError, match=r"None of \d+ rows has all of train_error, .*Measure these features first"):
        MDTree().fit(rows.assign(hessian_t=np.inf), y)
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
