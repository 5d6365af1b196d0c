"""The MD tree as a scikit-learn classifier, kept in JSON files.

It takes pandas frames, from which it picks its features by name, or arrays whose columns follow
`MDTree.features`. Labels are the published ones (`small`, `large`, `width`, `batch`, `data`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pandas as pd
from scipy.special import ndtr
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from mdjax.errors import InputError
from mdjax.features import feature_columns, finite, known_labels
from mdjax.fitting import METHODS
from mdjax.questions import (
    SIMILARITY_TREE,
    Question,
    Split,
    Tree,
    features_of,
    leaf_positions,
    leaves,
    named,
    with_thresholds,
)

PUBLISHED_TREES = Path(__file__).with_name("published_trees.json")
T = TypeVar("T", bound="MDTree")
_FORMAT, _VERSION = "mdjax-trees", 1


class MDTree(ClassifierMixin, BaseEstimator):
    """The MD tree of one question: a fixed, readable structure whose thresholds are fitted.

    `question` is "optimizer", "width" or "data"; `method` a key of `METHODS`. `similarity=True` (optimizer
    only) reads CKA in place of sharpness. `starts` replaces the start thresholds, in the order of the splits.
    `smoothing` is added to both class counts of a leaf before shares are taken (1: Laplace).

    Learned: `tree_` (the splits), `thresholds_`, `classes_` (sorted), `feature_names_in_`, `n_features_in_`,
    `leaves_`, `leaf_counts_` (leaves, classes), `feature_ranges_` (feature -> least and greatest value seen),
    `preset_` (how the features were measured, None if unknown) and `provenance_`.

    `predict` gives the class that the structure names at the leaf, as published; `predict_proba` the share of
    each class among the training rows of that leaf, so it can be below one half where they contradict the
    structure.
    """

    def __init__(
        self,
        question: str = "optimizer",
        *,
        method: str = "published",
        similarity: bool = False,
        starts: Sequence[float] | None = None,
        smoothing: float = 1.0,
    ):
        self.question = question
        self.method = method
        self.similarity = similarity
        self.starts = starts
        self.smoothing = smoothing

    @property
    def features(self) -> tuple[str, ...]:
        """The features that are read, in the order in which arrays must hold them."""
        return features_of(self.tree_ if hasattr(self, "tree_") else self._structure())

    def _structure(self) -> Tree:
        tree = named(self.question).tree
        if self.similarity:
            if self.question != "optimizer":
                raise InputError(
                    f"similarity=True is defined for question 'optimizer' only, got {self.question!r}. Leave it out."
                )
            tree = SIMILARITY_TREE
        if self.starts is None:
            return tree
        if len(self.starts) != len(tree) or not np.all(np.isfinite(self.starts)):
            raise InputError(
                f"starts must be {len(tree)} finite numbers for question {self.question!r}, "
                f"got {self.starts!r}. The published ones are {[split.threshold for split in tree]}."
            )
        return with_thresholds(tree, self.starts)

    def fit(self, X: Any, y: Any) -> Self:
        """Fit the thresholds to rows `X` with labels `y`; InputError for NaN features and foreign labels."""
        question, start = named(self.question), self._structure()
        if self.method not in METHODS:
            raise InputError(f"There is no method {self.method!r}. Choose one of {', '.join(METHODS)}.")
        if not self.smoothing > 0:
            raise InputError(f"smoothing must be positive, got {self.smoothing!r}. Leave it at 1.")
        columns = finite(feature_columns(X, features_of(start)))
        labels = known_labels(y, len(next(iter(columns.values()))), question)
        self._set_tree(METHODS[self.method](start, columns, labels))
        positions = leaf_positions(self.tree_, columns)
        self.leaf_counts_ = np.zeros((len(self.leaves_), 2), dtype=int)
        np.add.at(self.leaf_counts_, (positions, np.searchsorted(self.classes_, labels.astype(str))), 1)
        self.feature_ranges_ = {
            name: (float(columns[name].min()), float(columns[name].max())) for name in self.features
        }
        presets = X["preset"].dropna().unique() if isinstance(X, pd.DataFrame) and "preset" in X else ()
        self.preset_ = str(presets[0]) if len(presets) == 1 else None
        self.provenance_: dict[str, Any] = {"method": self.method, "rows": len(labels)}
        return self

    def _set_tree(self, tree: Tree) -> None:
        self.tree_ = tree
        self.leaves_ = leaves(tree)
        self.thresholds_ = np.array([split.threshold for split in tree])
        self.classes_ = np.array(sorted(named(self.question).classes))
        self.feature_names_in_ = np.array(features_of(tree), dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)

    def predict(self, X: Any) -> np.ndarray:
        """The class of each row, (rows,) of str; InputError for NaN features."""
        positions = self.apply(X)
        return np.array([leaf.label for leaf in self.leaves_])[positions]

    def predict_proba(self, X: Any) -> np.ndarray:
        """The smoothed class shares of each row's leaf, (rows, classes) in the order of `classes_`."""
        return self.leaf_shares()[self.apply(X)]

    def apply(self, X: Any) -> np.ndarray:
        """The position in `leaves_` of the leaf that each row reaches."""
        check_is_fitted(self)
        return leaf_positions(self.tree_, finite(feature_columns(X, self.features)))

    def leaf_shares(self) -> np.ndarray:
        """The smoothed share of each class among the training rows of each leaf, (leaves, classes)."""
        check_is_fitted(self)
        counts = self.leaf_counts_ + float(self.smoothing)
        return counts / counts.sum(axis=1, keepdims=True)

    def leaf_weights(self, columns: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray]) -> np.ndarray:
        """The probability that each row belongs to each leaf, (rows, leaves), rows adding to one.

        `columns` holds the measured features and `errors` their standard errors (0: exact), taken as
        independent and normal. At a missing (non-finite) feature a row goes both ways, weighted as the
        training rows went (the rule of Quinlan's C4.5).
        """
        check_is_fitted(self)
        num_rows = len(next(iter(columns.values())))
        weights = np.ones((num_rows, len(self.leaves_)))
        for k, leaf in enumerate(self.leaves_):
            for name in features_of(self.tree_):
                steps = [(i, side) for i, side in leaf.path if self.tree_[i].feature == name]
                if not steps:
                    continue
                low = max((self.tree_[i].threshold for i, side in steps if not side), default=-np.inf)
                high = min((self.tree_[i].threshold for i, side in steps if side), default=np.inf)
                x, se = columns[name], errors[name]
                with np.errstate(divide="ignore", invalid="ignore"):
                    spread = ndtr((high - x) / se) - ndtr((low - x) / se)
                inside = np.where(se > 0, np.maximum(spread, 0.0), (x > low) & (x <= high))
                weights[:, k] *= np.where(np.isfinite(x), inside, self._share_of_steps(steps))
        return weights / weights.sum(axis=1, keepdims=True)

    def _share_of_steps(self, steps: Sequence[tuple[int, bool]]) -> float:
        """The smoothed share of training rows that took these steps among those that could have."""
        share = 1.0
        for i, side in steps:
            went = [
                sum(self.leaf_counts_[k].sum() for k, leaf in enumerate(self.leaves_) if (i, way) in leaf.path)
                for way in (side, not side)
            ]
            share *= (went[0] + self.smoothing) / (sum(went) + 2 * self.smoothing)
        return share

    def export_text(self, *, decimals: int = 3) -> str:
        """The fitted tree as indented text, each leaf with its class and its training rows."""
        check_is_fitted(self)
        found = iter(range(len(self.leaves_)))

        def lines(child: int | str, depth: int) -> list[str]:
            bar = "|   " * depth + "|--- "
            if isinstance(child, str):
                counts = self.leaf_counts_[next(found)]
                rows = ", ".join(f"{n} {name}" for name, n in zip(self.classes_, counts))
                return [f"{bar}class: {child} ({named(self.question).meaning[child]}; rows: {rows})"]
            split = self.tree_[child]
            value = f"{split.threshold:.{decimals}f}"
            return [
                f"{bar}{split.feature} <= {value}",
                *lines(split.at_most, depth + 1),
                f"{bar}{split.feature} >  {value}",
                *lines(split.above, depth + 1),
            ]

        return "\n".join(lines(0, 0)) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Write this tree alone to a JSON file; `save_trees` keeps several together."""
        save_trees([self], path)

    @classmethod
    def load(cls, path: str | PathLike[str] | None = None, question: str | None = None) -> Self:
        """Read one tree from a JSON file (default: the shipped trees); `question` picks among several."""
        trees = _read_trees(cls, path)
        if question is None and len(trees) == 1:
            return next(iter(trees.values()))
        if question not in trees:
            raise InputError(
                f"{path or PUBLISHED_TREES} holds trees for {', '.join(trees)}; got question={question!r}. "
                "Name one of them."
            )
        return trees[question]

    def to_dict(self) -> dict[str, Any]:
        """Everything that was learned, as plain JSON values."""
        check_is_fitted(self)
        return {
            "question": self.question,
            "method": self.method,
            "similarity": bool(self.similarity),
            "starts": None if self.starts is None else [float(start) for start in self.starts],
            "smoothing": float(self.smoothing),
            "classes": self.classes_.tolist(),
            "splits": [{**vars(split), "bounds": list(split.bounds)} for split in self.tree_],
            "leaf_counts": self.leaf_counts_.tolist(),
            "feature_ranges": {name: list(ends) for name, ends in self.feature_ranges_.items()},
            "preset": self.preset_,
            "provenance": dict(self.provenance_),
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """The tree that `to_dict` described; InputError where the description is not a whole tree."""
        try:
            tree = cls(
                entry["question"],
                method=entry["method"],
                similarity=entry["similarity"],
                starts=entry["starts"],
                smoothing=entry["smoothing"],
            )
            splits = tuple(
                Split(
                    str(split["feature"]),
                    float(split["threshold"]),
                    (float(split["bounds"][0]), float(split["bounds"][1])),
                    split["at_most"],
                    split["above"],
                )
                for split in entry["splits"]
            )
            _check_tree(splits, named(tree.question))
            tree._set_tree(splits)
            tree.leaf_counts_ = np.array(entry["leaf_counts"], dtype=int)
            tree.feature_ranges_ = {
                name: (float(entry["feature_ranges"][name][0]), float(entry["feature_ranges"][name][1]))
                for name in tree.features
            }
            tree.preset_ = entry["preset"]
            tree.provenance_ = dict(entry["provenance"])
            if tree.classes_.tolist() != list(entry["classes"]):
                raise ValueError(f"classes are {entry['classes']}, expected {tree.classes_.tolist()}")
            if tree.leaf_counts_.shape != (len(tree.leaves_), 2) or (tree.leaf_counts_ < 0).any():
                raise ValueError(f"leaf_counts do not fit {len(tree.leaves_)} leaves")
            if not tree.smoothing > 0:
                raise ValueError(f"smoothing is {tree.smoothing}")
        except KeyError as error:
            raise InputError(f"A tree lacks the field {error}. Grow and save it again.") from None
        except (TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"A tree cannot be understood: {error}. Grow and save it again.") from None
        return tree


def _check_tree(tree: Tree, question: Question) -> None:
    """Raise ValueError unless the splits make one finite tree whose leaves are classes of the question."""
    children = [child for split in tree for child in (split.at_most, split.above)]
    inner = [child for child in children if not isinstance(child, str)]
    if not all(type(child) is int for child in inner) or sorted(inner) != list(range(1, len(tree))):
        raise ValueError("its splits do not form one tree")
    reached, todo = set(), [0]
    while todo:
        position = todo.pop()
        reached.add(position)
        split = tree[position]
        todo += [child for child in (split.at_most, split.above) if not isinstance(child, str)]
    if len(reached) != len(tree):
        raise ValueError("its splits do not form one tree")
    if not {child for child in children if isinstance(child, str)} <= set(question.classes):
        raise ValueError(f"a leaf is none of {', '.join(question.classes)}")
    if not np.all(np.isfinite([split.threshold for split in tree])):
        raise ValueError("a threshold is not finite")


def grow(
    table: pd.DataFrame,
    question: str,
    *,
    preset: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    **settings: Any,
) -> MDTree:
    """An MD tree fitted on those rows of a labelled table of which the question is asked.

    `settings` go to MDTree. `preset` says how the features were measured where the table has no such column.
    """
    rows = named(question).rows(table)
    tree = MDTree(question, **settings).fit(rows, rows[named(question).label])
    tree.preset_ = preset or tree.preset_
    tree.provenance_ |= dict(provenance or {})
    return tree


def save_trees(trees: Iterable[MDTree], path: str | PathLike[str]) -> None:
    """Write fitted trees, one per question, to one JSON file."""
    entries = [tree.to_dict() for tree in trees]
    questions = [entry["question"] for entry in entries]
    if len(set(questions)) < len(questions):
        raise InputError(f"A file keeps one tree per question, got {', '.join(questions)}. Use several files.")
    text = json.dumps({"format": _FORMAT, "version": _VERSION, "trees": entries}, indent=1)
    Path(path).write_text(text + "\n", encoding="utf-8")


def load_trees(path: str | PathLike[str] | None = None) -> dict[str, MDTree]:
    """The trees of a JSON file by question; without a path those shipped with the package.

    Raises InputError for a missing, foreign, damaged or newer file.
    """
    return _read_trees(MDTree, path)


def _read_trees(cls: type[T], path: str | PathLike[str] | None) -> dict[str, T]:
    path = PUBLISHED_TREES if path is None else Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the trees in {path}: {error.strerror}. Give a file that exists.") from None
    except ValueError:
        raise InputError(f"{path} is not a JSON file of trees. Save it again with MDTree.save.") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise InputError(f"{path} is no file of MD trees. Give one that MDTree.save wrote.")
    if content.get("version") != _VERSION:
        raise InputError(
            f"{path} has version {content.get('version')!r}, expected {_VERSION}. Grow and save its trees again."
        )
    entries = content.get("trees")
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path} holds no trees. Grow and save them again.")
    try:
        trees = [cls.from_dict(entry) for entry in entries]
    except InputError as error:
        raise InputError(f"In {path}: {error}") from None
    return {tree.question: tree for tree in trees}
