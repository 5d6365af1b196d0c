"""What trees answer to every row of a table, as arrays: classes, probabilities, and what to know about each answer.

Rows that lack what needs pairs of models (connectivity, CKA) are answered by the question's tree for single models,
where there is one. Standard errors (columns `<feature>_se`) and other missing features are carried into the
probabilities, see `MDTree.leaf_weights`. Everything here is a value; `mdjax.diagnosis.sentences` puts it into words.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.quantities import Columns, quantity, with_errors, with_quantities
from mdjax.diagnosis.questions import features_of, leaf_indices
from mdjax.errors import InputError
from mdjax.statuses import StatusCode

NUM_ERRORS = 2
"""A threshold within this many standard errors of the measured value is flagged."""


class AnswerState(enum.Enum):
    """Whether a row got an answer to a question, or why not."""

    ANSWERED = enum.auto()
    ANSWERED_WIDTH_UNKNOWN = enum.auto()  # which decides whether the question is asked
    ROOT_MISSING = enum.auto()  # the feature that the tree splits on first
    WIDTH_BELOW_LEAST = enum.auto()  # of those that the question is asked of


class FlagKind(enum.Enum):
    """A reason to doubt an answer."""

    BELOW_RANGE = enum.auto()  # of the feature's values in the rows that the tree was grown on
    ABOVE_RANGE = enum.auto()
    NEAR_THRESHOLD = enum.auto()  # on the row's path through the tree, at most NUM_ERRORS standard errors away


class Flag(NamedTuple):
    """A reason to doubt an answer, and the feature that it is about."""

    feature: str
    kind: FlagKind


class PresetMismatch(NamedTuple):
    """Rows were measured by another preset than those that a tree was grown on."""

    measured: str
    grown: str


@dataclass(frozen=True)
class TreeAnswers:
    """One tree's own answers to all rows of a table; arrays of shape [rows]."""

    tree: MDTree
    values: Columns  # what the tree reads and splits on, NaN where missing
    errors: Columns  # their standard errors, 0 where unknown
    label: np.ndarray  # the class answered; None without an answer
    first: np.ndarray  # the probability of the question's first class; NaN without an answer
    probability: np.ndarray  # that of `label`
    state: np.ndarray  # of AnswerState
    leaf: np.ndarray  # index of the likeliest leaf in `tree.leaves_`
    missing: dict[str, np.ndarray]  # column the tree reads -> whether an asked row lacks it
    flags: dict[Flag, np.ndarray]  # -> whether the flag is up on an answered row


class Speaker(NamedTuple):
    """A tree's answers, and the rows in which they count."""

    answers: TreeAnswers
    rows: np.ndarray  # a mask


@dataclass(frozen=True)
class Answers:
    """One question's answers to all rows: its tree's, or in rows without pairs those of the tree for single models."""

    speakers: tuple[Speaker, ...]  # each row counts for one of them; the question's own tree is the first
    label: np.ndarray
    first: np.ndarray
    probability: np.ndarray
    leaf: np.ndarray  # index in the leaves of the tree that speaks for the row

    def speaker(self, row: int) -> TreeAnswers:
        """The answers that count in a row."""
        return next(speaker.answers for speaker in self.speakers if speaker.rows[row])

    @property
    def main_tree(self) -> MDTree:
        """The tree that speaks: that for single models where it does so in all rows, else the question's own."""
        full = self.speakers[0]
        return full.answers.tree if full.rows.any() else self.speakers[-1].answers.tree

    @property
    def single(self) -> np.ndarray:
        """A mask of the rows that a tree for single models answers."""
        return np.logical_or.reduce([rows & bool(answers.tree.single) for answers, rows in self.speakers])


def answers_to(trees: Mapping[str, MDTree], table: pd.DataFrame) -> dict[str, Answers]:
    """The answers to all rows of a table by question; InputError for a table without any of the trees' features."""
    _check_table(table, trees)
    return {name: question_answers(tree, table) for name, tree in trees.items()}


def question_answers(tree: MDTree, table: pd.DataFrame) -> Answers:
    """The answers to all rows, each by the tree or, where pairs are missing, by its tree for single models."""
    full = tree_answers(tree, table)
    single = np.zeros(len(table), dtype=bool)
    if tree.single_ is not None:
        for name in tree.features:
            if quantity(name).of_pairs:
                single |= np.isnan(full.values[name])
    if tree.single_ is None or not single.any():
        everywhere = np.ones(len(table), dtype=bool)
        return Answers((Speaker(full, everywhere),), full.label, full.first, full.probability, full.leaf)
    other = tree_answers(tree.single_, table)
    return Answers(
        speakers=(Speaker(full, ~single), Speaker(other, single)),
        label=np.where(single, other.label, full.label),
        first=np.where(single, other.first, full.first),
        probability=np.where(single, other.probability, full.probability),
        leaf=np.where(single, other.leaf, full.leaf),
    )


def tree_answers(tree: MDTree, table: pd.DataFrame) -> TreeAnswers:
    """One tree's own answers to all rows of a table, whatever is missing.

    Trees with soft splits answer the likelier class; with sharp ones an answer is the class that the values lead to,
    and its probability counts the error bars, so it can be below one half.
    """
    question = tree.asked_question
    columns, errors = _measured(tree, table)
    asked = question.asked(table)
    absent = {name: np.isnan(columns[name]) for name in tree.features}
    incomplete = np.logical_or.reduce(list(absent.values()))
    # Every tree asks its root first; where that is missing, the rest says nothing about this row.
    rooted = ~np.isnan(columns[tree.tree_[0].feature])
    answered = asked & rooted

    weights = tree.leaf_weights(columns, errors)
    weighed = incomplete | tree.soft
    leaf = np.where(weighed, weights.argmax(axis=1), leaf_indices(tree.tree_, columns))
    proba = weights @ tree.leaf_probabilities()
    first = proba[:, list(tree.classes_).index(question.classes[0])]
    label = np.array([found.label for found in tree.leaves_], dtype=object)[leaf]
    likelier = np.where(first >= 0.5, *question.classes).astype(object)
    label = np.where(weighed, likelier, label)
    label[~answered] = None
    probability = np.where(label == question.classes[0], first, 1 - first)

    state = np.full(len(table), AnswerState.ANSWERED, dtype=object)
    state[question.width_unknown(table)] = AnswerState.ANSWERED_WIDTH_UNKNOWN
    state[~rooted] = AnswerState.ROOT_MISSING
    state[~asked] = AnswerState.WIDTH_BELOW_LEAST
    return TreeAnswers(
        tree=tree,
        values=columns,
        errors=errors,
        label=label,
        first=np.where(answered, first, np.nan),
        probability=np.where(answered, probability, np.nan),
        state=state,
        leaf=leaf,
        missing={name: gone & asked for name, gone in absent.items()},
        flags={flag: mask & answered for flag, mask in _flags(tree, columns, errors, leaf).items()},
    )


def has_features(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> bool:
    """Whether a table has any of the features that the trees, or those for single models beside them, read."""
    return any(name in table.columns for name in _read_by(trees))


def _read_by(trees: Mapping[str, MDTree]) -> list[str]:
    heard = [one for tree in trees.values() for one in (tree, tree.single_) if one is not None]
    return list(dict.fromkeys(name for tree in heard for name in tree.features))


def _check_table(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"The table must be a pandas DataFrame, got {type(table).__name__}. Load it first.")
    if not has_features(table, trees):
        raise InputError(
            f"The table has none of the features {', '.join(_read_by(trees))}; it has "
            f"{', '.join(map(str, table.columns)) or 'no columns'}. Measure the models first."
        )


def _measured(tree: MDTree, table: pd.DataFrame) -> tuple[Columns, Columns]:
    """What the tree reads and splits on, and the standard errors; NaN for what is missing, 0 for unknown errors."""
    columns, errors = {}, {}
    for name in tree.features:
        values = numeric_column(table, name) if name in table.columns else np.full(len(table), np.nan)
        columns[name] = np.where(np.isfinite(values), values, np.nan)
        spread = numeric_column(table, f"{name}_se") if f"{name}_se" in table.columns else np.zeros(len(table))
        errors[name] = np.where(np.isfinite(spread) & (spread > 0), spread, 0.0)
    features = features_of(tree.tree_)
    return with_quantities(features, columns), with_errors(features, columns, errors)


def _flags(tree: MDTree, columns: Columns, errors: Columns, leaf: np.ndarray) -> dict[Flag, np.ndarray]:
    masks = {}
    for name, (least, greatest) in tree.feature_ranges_.items():
        masks[Flag(name, FlagKind.BELOW_RANGE)] = columns[name] < least
        masks[Flag(name, FlagKind.ABOVE_RANGE)] = columns[name] > greatest
        near_any = np.zeros(len(leaf), dtype=bool)
        for i, split in enumerate(tree.tree_):
            if split.feature == name:
                on_path = np.array([i in dict(found.path) for found in tree.leaves_])[leaf]
                near = np.abs(columns[name] - split.threshold) <= NUM_ERRORS * errors[name]
                near_any |= on_path & (errors[name] > 0) & near
        masks[Flag(name, FlagKind.NEAR_THRESHOLD)] = near_any
    return masks


def joined_flags(answers: Mapping[str, Answers]) -> dict[Flag, np.ndarray]:
    """The flags of all questions' answers -> the rows in which they are up."""
    masks: dict[Flag, np.ndarray] = {}
    for answer in answers.values():
        for found, rows in answer.speakers:
            for flag, mask in found.flags.items():
                masks[flag] = masks.get(flag, False) | (mask & rows)
    return masks


def status_codes(table: pd.DataFrame, answers: Mapping[str, Answers]) -> np.ndarray:
    """How each row's measurement went, [rows] of str: the table's own code, or whether features are missing.

    A row whose `status` tells of a problem, but without a `status_code`, gets `other`.
    """
    codes = np.full(len(table), StatusCode.OK.value, dtype=object)
    for answer in answers.values():
        for found, rows in answer.speakers:
            for mask in found.missing.values():
                codes[mask & rows] = StatusCode.FEATURES_MISSING.value
    codes[troubles(table) != ""] = StatusCode.OTHER.value
    if "status_code" in table.columns:
        own = table["status_code"].astype(object)
        given = (own.notna() & (own != StatusCode.OK)).to_numpy()
        codes[given] = own[given].astype(str)
    return codes


def troubles(table: pd.DataFrame) -> np.ndarray:
    """What a table's column `status` says went wrong, [rows] of str; empty where nothing did or nothing is said."""
    if "status" not in table.columns:
        return np.full(len(table), "", dtype=object)
    told = table["status"].astype(object).where(table["status"].notna(), "").astype(str).to_numpy(dtype=object)
    return np.where(told == StatusCode.OK.value, "", told)


def preset_mismatches(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> dict[PresetMismatch, np.ndarray]:
    """Where a table's presets differ from those that the trees were grown on -> a mask of the rows."""
    if "preset" not in table.columns:
        return {}
    presets = table["preset"].astype(object)
    return {
        PresetMismatch(measured, grown): (presets == measured).to_numpy()
        for grown in dict.fromkeys(tree.preset_ for tree in trees.values() if tree.preset_ is not None)
        for measured in presets.value_counts().index
        if measured != grown
    }
