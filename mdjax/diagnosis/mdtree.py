"""The MD tree as a scikit-learn classifier, of frames, from which it picks its features by name, or of arrays.

Labels are the published ones (`small`, `large`, `width`, `batch`, `data`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from mdjax.diagnosis.beliefs import at_most_probability, interval, leaf_memberships
from mdjax.diagnosis.checks import complete_rows, known_labels, quantity_columns
from mdjax.diagnosis.fitting import METHODS, method_named
from mdjax.diagnosis.leaf_weights import leaf_weights
from mdjax.diagnosis.populations import Population
from mdjax.diagnosis.questions import (
    SIMILARITY_TREE,
    Question,
    Tree,
    columns_of,
    features_of,
    leaf_indices,
    leaves,
    named,
    with_thresholds,
)
from mdjax.diagnosis.treefiles import (
    SHIPPED,
    check_fields,
    check_gains,
    check_leaves,
    check_tree,
    plain_splits,
    read_entries,
    splits_of,
    write_entries,
)
from mdjax.errors import InputError, first_line

T = TypeVar("T", bound="MDTree")


class MDTree(ClassifierMixin, BaseEstimator):
    """The MD tree of one question: a fixed, readable structure whose thresholds are fitted.

        question: "optimizer", "width" or "data".
        method: a key of `METHODS`: "published" fits sharp splits as published, "default" soft ones from their priors
            (`mdjax.diagnosis.beliefs`).
        single: take the tree that reads single models only, for want of pairs.
        similarity: read CKA in place of sharpness (published method, question "optimizer").
        starts: start thresholds of the first structure, in the order of its splits, which then is the only one.
        structure: a whole tree to start from.
        min_width: the least width that the question is asked of, in place of its own (0: of all rows).
        smoothing: added to both class counts of a leaf before their fractions are taken (1: Laplace's rule).

    Learned: `tree_` (the splits), `thresholds_`, `classes_` (sorted), `feature_names_in_` (the columns that arrays must
    hold), `n_features_in_`, `leaves_`, `leaf_counts_` (training rows at the leaves, [leaves, classes]), `shares_`
    (class probabilities at the leaves where the method gives them, else None), `feature_ranges_` (feature -> least
    and greatest value seen), `preset_` (how the features were measured, None if unknown), `provenance_`, what `grow`
    adds: `single_` (the tree for single models, or None) and `gains_` (class -> what its change brought); and
    `population_`, outside of which no cause is to be named: None, unless it is set.

    With the published method `predict` gives the class that the structure names at the leaf, and `predict_proba` each
    class's fraction of its training rows, which can contradict the structure. With soft splits a row belongs to several
    leaves, and `predict` gives the likelier class.
    """

    def __init__(
        self,
        question: str = "optimizer",
        *,
        method: str = "published",
        single: bool = False,
        similarity: bool = False,
        starts: Sequence[float] | None = None,
        structure: Tree | None = None,
        min_width: float | None = None,
        smoothing: float = 1.0,
    ):
        self.question = question
        self.method = method
        self.single = single
        self.similarity = similarity
        self.starts = starts
        self.structure = structure
        self.min_width = min_width
        self.smoothing = smoothing

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that the fitted tree reads; before the fit those of all structures that it may choose from.

        An array given to `fit` holds its columns in this order; one given to `predict` holds the same ones.
        """
        return columns_of(self.tree_) if hasattr(self, "tree_") else columns_of(*self._structures())

    @property
    def asked_question(self) -> Question:
        """The question, asked from this tree's own least width on."""
        question = named(self.question)
        return question if self.min_width is None else replace(question, min_width=self.min_width)

    @property
    def soft(self) -> bool:
        """Whether any split of the fitted tree is soft."""
        return any(split.spread > 0 for split in self.tree_)

    def candidates(self, table: pd.DataFrame) -> tuple[Tree, ...]:
        """The structures whose columns a table has, each with at least one value."""
        return tuple(
            tree
            for tree in self._structures()
            if all(name in table.columns and table[name].notna().to_numpy().any() for name in columns_of(tree))
        )

    def _structures(self) -> tuple[Tree, ...]:
        """The trees of splits, with start thresholds or priors, that `fit` chooses from; the first one is preferred.

        They are the parameter `structure`, the published variant that reads CKA (`similarity`), or the method's for
        the question; the parameter `starts` leaves the first alone, with other thresholds.
        """
        question, method = named(self.question), method_named(self.method)
        if self.structure is not None:
            trees = (tuple(self.structure),)
            try:
                check_tree(trees[0], question)
            except ValueError as error:
                raise InputError(f"structure must be a whole tree of splits, but {error}. Mend it.") from None
        elif self.similarity:
            if self.question != "optimizer" or self.method != "published" or self.single:
                raise InputError(
                    "similarity=True is defined for question 'optimizer' only, by method 'published' and of pairs, "
                    f"got {self.question!r} by {self.method!r}. Leave it out."
                )
            trees = (SIMILARITY_TREE,)
        elif self.single:
            if method.single_structures is None:
                known = ", ".join(name for name, other in METHODS.items() if other.single_structures)
                raise InputError(f"Method {self.method!r} has no tree for single models. Choose one of {known}.")
            trees = method.single_structures(question)
        else:
            trees = method.structures(question)
        if self.starts is None:
            return trees
        if len(self.starts) != len(tree := trees[0]) or not np.all(np.isfinite(self.starts)):
            raise InputError(
                f"starts must be {len(tree)} finite numbers for question {self.question!r}, "
                f"got {self.starts!r}. The usual ones are {[split.threshold for split in tree]}."
            )
        return (with_thresholds(tree, self.starts),)

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the thresholds to rows `X` with labels `y`; InputError for foreign labels, and for NaN in an array.

        Rows of a frame that lack a feature are left out, with a warning and in `provenance_["left_out"]`.
        """
        question, structures = named(self.question), self._structures()
        if not self.smoothing > 0:
            raise InputError(f"smoothing must be positive, got {self.smoothing!r}. Leave it at 1.")
        if isinstance(X, pd.DataFrame):
            # Where no structure has all its columns, the first one's absent columns are told in the error.
            structures = self.candidates(X) or structures[:1]
        read = columns_of(*structures)
        X, y, left_out = complete_rows(X, y, read, question)
        columns = quantity_columns(structures, X, read)
        labels = known_labels(y, len(next(iter(columns.values()))), question)
        fitted = method_named(self.method).fit(structures, columns, labels)
        self._set_tree(fitted.tree, None if isinstance(X, pd.DataFrame) else read)
        self.shares_ = None
        if fitted.reliability is not None:
            right = np.array([[leaf.label == name for name in self.classes_] for leaf in self.leaves_])
            self.shares_ = np.where(right, fitted.reliability[:, None], 1 - fitted.reliability[:, None])
        reached = leaf_indices(self.tree_, columns)
        self.leaf_counts_ = np.zeros((len(self.leaves_), 2), dtype=int)
        np.add.at(self.leaf_counts_, (reached, np.searchsorted(self.classes_, labels.astype(str))), 1)
        self.feature_ranges_ = {
            name: (float(columns[name].min()), float(columns[name].max())) for name in features_of(self.tree_)
        }
        presets = X["preset"].dropna().unique() if isinstance(X, pd.DataFrame) and "preset" in X else ()
        self.preset_ = str(presets[0]) if len(presets) == 1 else None
        self.provenance_: dict[str, Any] = {"method": self.method, "rows": len(labels), **left_out}
        self.single_: MDTree | None = None
        self.population_: Population | None = None
        self.gains_: dict[str, dict[str, float]] = {}
        return self

    def _set_tree(self, tree: Tree, read: Sequence[str] | None = None) -> None:
        self.tree_ = tree
        self.leaves_ = leaves(tree)
        self.thresholds_ = np.array([split.threshold for split in tree])
        self.classes_ = np.array(sorted(named(self.question).classes))
        self.feature_names_in_ = np.array(read or columns_of(tree), dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)

    def _columns(self, X: Any) -> dict[str, np.ndarray]:
        frame = isinstance(X, pd.DataFrame)
        return quantity_columns((self.tree_,), X, self.features if frame else list(self.feature_names_in_))

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, [rows] of str; InputError for NaN features."""
        check_is_fitted(self)
        if self.soft:
            return self.classes_[self.predict_proba(X).argmax(axis=1)]
        return np.array([leaf.label for leaf in self.leaves_])[self.apply(X)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, [rows, classes] in the order of `classes_`."""
        check_is_fitted(self)
        if not self.soft:
            return self.leaf_probabilities()[self.apply(X)]
        columns = self._columns(X)
        sides = [at_most_probability(split, columns[split.feature]) for split in self.tree_]
        return leaf_memberships(self.tree_, sides) @ self.leaf_probabilities()

    def apply(self, X: Any) -> np.ndarray:
        """The index in `leaves_` of the leaf that each row reaches if every split is taken as sharp, [rows]."""
        check_is_fitted(self)
        return leaf_indices(self.tree_, self._columns(X))

    def leaf_probabilities(self) -> np.ndarray:
        """The probability of each class at each leaf, [leaves, classes].

        That of the method (`shares_`), or else the smoothed fraction of the class among the leaf's training rows.
        """
        check_is_fitted(self)
        counts = self.leaf_counts_ + float(self.smoothing)
        return counts / counts.sum(axis=1, keepdims=True) if self.shares_ is None else self.shares_

    def leaf_weights(self, columns: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probability that each row's true feature values lead to each leaf, [rows, leaves]; rows add to one.

            columns: name → [rows], of the features that are split on; not finite where missing.
            errors: name → [rows], their standard errors; 0 where a value is exact.

        What error bars and missing values do is told in `mdjax.diagnosis.leaf_weights`.
        """
        check_is_fitted(self)
        return leaf_weights(self.tree_, columns, errors, leaf_counts=self.leaf_counts_, smoothing=float(self.smoothing))

    def export_text(self, *, decimals: int = 3) -> str:
        """The fitted tree as indented text, each leaf with its class and its training rows."""
        check_is_fitted(self)
        found = iter(range(len(self.leaves_)))

        def number(value: float) -> str:
            return f"{value:.{decimals}{'f' if abs(value) >= 0.1 else 'g'}}"

        def lines(child: int | str, depth: int) -> list[str]:
            bar = "|   " * depth + "|--- "
            if isinstance(child, str):
                counts = self.leaf_counts_[next(found)]
                rows = ", ".join(f"{n} {name}" for name, n in zip(self.classes_, counts))
                return [f"{bar}class: {child} ({named(self.question).meaning[child]}; rows: {rows})"]
            split = self.tree_[child]
            value, span = number(split.threshold), interval(split)
            if span is not None:
                value += f" ({number(span[0])} to {number(span[1])})"
            return [
                f"{bar}{split.feature} <= {value}",
                *lines(split.at_most, depth + 1),
                f"{bar}{split.feature} >  {value}",
                *lines(split.above, depth + 1),
            ]

        left_out = self.provenance_.get("left_out", 0)
        return "\n".join(lines(0, 0)) + f"\n(left out for want of a feature: {left_out} rows)" * bool(left_out) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write this tree alone to a JSON file; `trees.save_trees` keeps several together."""
        write_entries([self.to_dict()], path)

    @classmethod
    def load(cls, source: str | PathLike[str] = SHIPPED, question: str | None = None) -> Self:
        """One tree of the package ("shipped", "published") or of a JSON file; `question` picks among several."""
        trees = read_trees(cls, source)
        if question is None and len(trees) == 1:
            return next(iter(trees.values()))
        if question not in trees:
            raise InputError(
                f"{source} holds trees for {', '.join(trees)}; got question={question!r}. Name one of them."
            )
        return trees[question]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was learned, as plain JSON values."""
        check_is_fitted(self)
        return {
            "question": self.question,
            "method": self.method,
            "single": bool(self.single),
            "similarity": bool(self.similarity),
            "starts": None if self.starts is None else [float(start) for start in self.starts],
            "min_width": None if self.min_width is None else float(self.min_width),
            "smoothing": float(self.smoothing),
            "classes": self.classes_.tolist(),
            "splits": plain_splits(self.tree_),
            "leaf_counts": self.leaf_counts_.tolist(),
            "shares": None if self.shares_ is None else self.shares_.tolist(),
            "feature_ranges": {name: list(ends) for name, ends in self.feature_ranges_.items()},
            "preset": self.preset_,
            "gains": {name: dict(gain) for name, gain in self.gains_.items()},
            "provenance": dict(self.provenance_),
            "population": self.population_ and self.population_.to_dict(),
            "single_tree": None if self.single_ is None else self.single_.to_dict(),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """The tree that `to_dict` described; InputError where the description is not a whole tree."""
        try:
            check_fields(entry)
            method_named(entry["method"])
            tree = cls(
                entry["question"],
                method=entry["method"],
                single=bool(entry["single"]),
                similarity=entry["similarity"],
                starts=entry["starts"],
                min_width=None if entry["min_width"] is None else float(entry["min_width"]),
                smoothing=entry["smoothing"],
            )
            tree._set_tree(splits_of(entry["splits"], named(tree.question)))
            tree.leaf_counts_ = np.array(entry["leaf_counts"], dtype=int)
            tree.shares_ = None if entry["shares"] is None else np.array(entry["shares"], dtype=float)
            tree.feature_ranges_ = {
                name: (float(entry["feature_ranges"][name][0]), float(entry["feature_ranges"][name][1]))
                for name in features_of(tree.tree_)
            }
            tree.preset_ = entry["preset"]
            tree.gains_ = {name: {step: float(n) for step, n in gain.items()} for name, gain in entry["gains"].items()}
            tree.provenance_ = dict(entry["provenance"])
            tree.population_ = Population.from_dict(found) if (found := entry.get("population")) else None
            tree.single_ = None if entry["single_tree"] is None else cls.from_dict(entry["single_tree"])
            if (classes := tree.classes_.tolist()) != list(entry["classes"]):
                raise ValueError(f"classes are {entry['classes']}, expected {classes}")
            check_leaves(len(tree.leaves_), tree.leaf_counts_, tree.shares_)
            check_gains(tree.gains_, classes)
            if not np.isfinite(list(tree.feature_ranges_.values())).all():
                raise ValueError("its feature_ranges are not finite")
            if not tree.smoothing > 0:
                raise ValueError(f"smoothing is {tree.smoothing}")
        except KeyError as error:
            raise InputError(f"A tree lacks the field {error}. Grow and save it again.") from None
        except InputError:
            raise
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InputError(f"A tree cannot be understood: {first_line(error)}. Grow and save it again.") from None
        return tree


def read_trees(cls: type[T], source: str | PathLike[str]) -> dict[str, T]:
    """The trees of a file or of a name, by question, as estimators of that class; InputError for unreadable ones."""
    entries = read_entries(source)
    try:
        trees = [cls.from_dict(entry) for entry in entries]
    except InputError as error:
        raise InputError(f"In {source}: {error}") from None
    questions = [tree.question for tree in trees]
    if len(set(questions)) < len(questions):
        raise InputError(f"{source} holds two trees of one question: {', '.join(questions)}. Keep one of each.")
    return {tree.question: tree for tree in trees}
