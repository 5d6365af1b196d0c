"""The baselines that the MD tree is measured against: Gini trees on hyperparameters, validation or landscape.

Source: Zhou et al., "MD tree", ICML 2024, arXiv 2406.16988.
"""

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.tree import DecisionTreeClassifier, export_text
from sklearn.utils.validation import check_is_fitted

from mdjax.diagnosis.checks import complete_rows, feature_columns, finite, known_labels
from mdjax.diagnosis.questions import LANDSCAPE, VALIDATION, Question, named


class BaselineTree(ClassifierMixin, BaseEstimator):
    """A Gini decision tree of bounded depth on the features that the question's baseline reads, as published.

    The published runs give every tree the first seed of the run (42) as `random_state`. Learned: `tree_`
    (the DecisionTreeClassifier), `classes_`, `feature_names_in_`, `n_features_in_`.
    """

    _reads: Callable[[Question], tuple[str, ...]]

    def __init__(self, question: str = "optimizer", *, max_depth: int = 4, random_state: int | None = 42):
        self.question = question
        self.max_depth = max_depth
        self.random_state = random_state

    @property
    def features(self) -> tuple[str, ...]:
        """The features that are read, in the order in which arrays must hold them."""
        return type(self)._reads(named(self.question))

    def fit(self, X: Any, y: Any) -> Self:
        """Grow the tree on rows `X` with labels `y`; InputError for foreign labels, and for NaN in an array.

        Rows of a frame that lack a feature are left out, with a warning.
        """
        X, y, _ = complete_rows(X, y, self.features, named(self.question))
        columns = finite(feature_columns(X, self.features))
        labels = known_labels(y, len(next(iter(columns.values()))), named(self.question)).astype(str)
        self.tree_ = DecisionTreeClassifier(
            criterion="gini", max_depth=self.max_depth, random_state=self.random_state
        ).fit(np.column_stack(list(columns.values())), labels)
        self.classes_ = self.tree_.classes_
        self.feature_names_in_ = np.array(self.features, dtype=object)
        self.n_features_in_ = len(self.features)
        return self

    def _matrix(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return np.column_stack(list(finite(feature_columns(X, self.features)).values()))

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, [rows] of str; InputError for NaN features."""
        matrix = self._matrix(X)
        return self.tree_.predict(matrix)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The fractions of the classes among the training rows of each row's leaf, [rows, classes] as in `classes_`."""
        matrix = self._matrix(X)
        return np.asarray(self.tree_.predict_proba(matrix))

    def export_text(self, *, decimals: int = 3) -> str:
        """The grown tree as indented text."""
        check_is_fitted(self)
        return str(export_text(self.tree_, feature_names=list(self.features), decimals=decimals))


class HyperparameterTree(BaselineTree):
    """The baseline that reads the logs of data and parameter amounts: what is known before training."""

    _reads = staticmethod(lambda question: question.hyperparameters)


class ValidationTree(BaselineTree):
    """The baseline that reads training and test errors and losses: what is usually looked at afterwards."""

    _reads = staticmethod(lambda _: VALIDATION)


class CombinedTree(BaselineTree):
    """The baseline that reads hyperparameters and validation together."""

    _reads = staticmethod(lambda question: (*question.hyperparameters, *VALIDATION))


class LandscapeTree(BaselineTree):
    """A free decision tree on the loss-landscape features, without the MD tree's fixed structure."""

    _reads = staticmethod(lambda _: LANDSCAPE)
