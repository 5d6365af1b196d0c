"""Trees grown on a table's own sweep, and how often they are right about configurations that they were not grown on."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import KFold

from mdjax.diagnosis.answers import question_answers
from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import Axes
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import balanced_accuracy, sweep_fingerprint
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.sweep_axes import axes_text, labelled, sweep_axes
from mdjax.errors import InputError, brief

NUM_FOLDS = 5  # of a cross-validation over rows


class HeldOut(NamedTuple):
    """How often trees are right about rows that were left out when they were grown; accuracies in percent."""

    way: str  # how rows were left out, in words
    rows: int  # that were answered
    balanced_accuracy: float  # mean over the classes that occur
    accuracy: float
    majority_accuracy: float  # of the more frequent class of the rows grown on

    def to_text(self) -> str:
        """One sentence."""
        return (
            f"{self.way}: {self.balanced_accuracy:.1f} % balanced accuracy (a constant answer: 50), "
            f"{self.accuracy:.1f} % of {self.rows:,} rows right (the majority class: {self.majority_accuracy:.1f} %)"
        )


@dataclass(frozen=True)
class SweepTrees:
    """The trees that a sweep grew: question -> tree, and what is known of each.

    `held_out`: how often such trees were right about rows that were left out, in each of one or two ways; none where
    there are too few rows.
    `not_grown`: question -> why it has no tree.
    """

    axes: Axes
    trees: dict[str, MDTree]
    held_out: dict[str, tuple[HeldOut, ...]]
    not_grown: dict[str, str]

    def to_text(self) -> str:
        """A paragraph per question: rows, classes, accuracy on what was left out, gains."""
        lines = [axes_text(self.axes)]
        for name, tree in self.trees.items():
            question, counts = named(name), tree.leaf_counts_.sum(axis=0)
            classes = ", ".join(
                f"{count:,} '{question.meaning[label]}'" for label, count in zip(tree.classes_.tolist(), counts)
            )
            lines += ["", f"{name}: {question.text}", f"  {counts.sum():,} rows: {classes}"]
            lines += [f"  {found.to_text()}" for found in self.held_out[name]] or ["  too few rows to leave any out"]
            lines += [
                f"  rows answered '{question.meaning[label]}' gained {gain['one']:.1f} points of test accuracy by one "
                f"step of the change, {gain['best']:.1f} by the best, on average of {gain['rows']:,}"
                for label, gain in tree.gains_.items()
            ]
        for name, reason in self.not_grown.items():
            lines += ["", f"{name}: not grown. {reason}"]
        return "\n".join(lines)


def grow_sweep(
    table: pd.DataFrame,
    questions: Sequence[str] | None = None,
    *,
    axes: Axes | None = None,
    method: str = "default",
    min_width: float | None = None,
) -> SweepTrees:
    """Grow a tree for each question on a measured table, labelled by its own sweep.

        table: one row per configuration, with the features that the trees read and a test accuracy (`test_acc`, or
            `test_error`), over at least two values of an axis.
        questions: those to grow; an error where one cannot be (default: all that can).
        axes: of the sweep (default: those of `mdjax.diagnosis.sweep_axes.sweep_axes`).
        method: "default" or "published", a name in `fitting.METHODS`.
        min_width: the width from which the data question is asked (default: 32, as published; 0: of all rows).

    `held_out` leaves out one size at a time, and the larger half of the sizes together; amounts of data where the sizes
    do not vary, or a fifth of the rows. Costs one fit each, some 50 ms for a thousand rows. Raises
    InputError for a table without a sweep, without the features, or without two classes for any question.
    """
    if min_width is not None and not 0 <= min_width < math.inf:
        raise InputError(f"min_width is {brief(min_width)}. Give a width of at least 0.")
    axes = sweep_axes(table) if axes is None else axes
    table = labelled(table, axes)
    wanted = [named(name).name for name in (QUESTIONS if questions is None else questions)]
    provenance = {"sweep": sweep_fingerprint(table), "axes": {name: value for name, value in vars(axes).items()}}
    provenance["axes"]["within"] = list(axes.within)
    trees, held_out, not_grown = {}, {}, {}
    for name in wanted:
        settings: dict[str, Any] = {"method": method, "axes": axes}
        if name == "data" and min_width is not None:
            settings["min_width"] = min_width
        try:
            rows = _rows_of_two_classes(table, name, axes, settings.get("min_width"))
            tree = grow(table, name, provenance=provenance, **settings)
        except InputError as error:
            if questions is not None:
                raise
            not_grown[name] = str(error)
            continue
        trees[name] = tree
        held_out[name] = _held_out(lambda some, name=name, settings=settings: grow(some, name, **settings), rows, axes)
        tree.provenance_["held_out"] = [found._asdict() for found in held_out[name]]
    if not trees:
        raise InputError(f"No question can be grown on the table. {next(iter(not_grown.values()))}")
    return SweepTrees(axes, trees, held_out, not_grown)


def _rows_of_two_classes(table: pd.DataFrame, name: str, axes: Axes, min_width: float | None) -> pd.DataFrame:
    """The rows that a question's tree is grown on; InputError where they have fewer than two classes."""
    tree = MDTree(name) if min_width is None else MDTree(name, min_width=min_width)
    question = tree.asked_question
    rows = question.rows(table)
    found = rows[question.label].value_counts()
    if len(found) > 1:
        return rows
    part = {"optimizer": axes.batch, "width": axes.batch and axes.width, "data": axes.batch and axes.data}[name]
    if part is None:
        missing = "a temperature" if axes.batch is None else {"width": "a size", "data": "an amount of data"}[name]
        raise InputError(
            f"Question {name!r} needs a sweep over {missing}, which this one does not vary. "
            "Train configurations that differ in it, or name its column: --axes (axes= in Python)."
        )
    told = f"all {len(rows)} rows are labelled {found.index[0]!r}" if len(found) else "no row is labelled"
    wide = f" from width {question.min_width:g} on" if question.min_width else ""
    remedy = " or ask it of all widths (--min-width 0)" if question.min_width else ""
    raise InputError(
        f"Question {name!r} needs rows of both classes, {' and '.join(question.classes)}, but {told}{wide}. "
        f"Widen the sweep{remedy}."
    )


def _held_out(grown: Callable[[pd.DataFrame], MDTree], rows: pd.DataFrame, axes: Axes) -> tuple[HeldOut, ...]:
    """How often the trees that `grown` makes are right about rows that it was not given, in each way of `_folds`."""
    found = []
    for way, folds in _folds(rows, axes):
        truth, told, majority = [], [], []
        for left_out in folds:
            kept, asked = rows.loc[~left_out], rows.loc[left_out]
            try:
                tree = grown(kept)
            except InputError:  # nothing left that has the features
                continue
            label, answers = tree.asked_question.label, question_answers(tree, asked).label
            known = np.array([answer is not None for answer in answers])
            truth += asked[label].to_numpy(dtype=object)[known].tolist()
            told += answers[known].tolist()
            majority += [kept[label].mode()[0]] * int(known.sum())
        if truth:
            right, given, constant = (np.array(values, dtype=object) for values in (truth, told, majority))
            accuracies = [100 * float(np.mean(right == one)) for one in (given, constant)]
            found.append(HeldOut(way, len(right), balanced_accuracy(right, given), *accuracies))
    return tuple(found)


def _folds(rows: pd.DataFrame, axes: Axes) -> Iterator[tuple[str, list[np.ndarray]]]:
    """The ways in which rows are left out: in words, and the masks of those that are, one after another."""
    for axis in (axes.width, axes.data):
        if axis is None or (values := np.unique(own := rows[axis].to_numpy())).size < 2:
            continue
        name = axis.replace("_", " ")
        yield f"leaving out one {name} of {len(values)} at a time", [own == value for value in values]
        if len(values) > 2:
            least = values[len(values) // 2]
            yield f"grown on {name} below {least:g}, asked from there on", [own >= least]
        return
    if (count := min(NUM_FOLDS, len(rows))) > 1:
        splits = KFold(count, shuffle=True, random_state=0).split(rows)
        way = f"{count}-fold cross-validation over rows, whose neighbours in the sweep were grown on"
        yield way, [np.isin(np.arange(len(rows)), tested) for _, tested in splits]


def compare(grown: pd.DataFrame, asked: pd.DataFrame, trees: Mapping[str, MDTree]) -> pd.DataFrame:
    """Accuracy in percent on one labelled sweep of trees grown on another, beside the published fit and baselines.

        grown: the labelled table that the others are grown on.
        asked: the labelled table that all are asked about.
        trees: the "default method", as `grow` or `grow_sweep` grew them on `grown`, by question.

    "MD tree" is fitted as published. One row per question: question, rows (asked of), and one column per method. Rows
    that lack a feature (a network that died has none for some) are left out for all methods alike.
    """
    results = []
    for name, tree in trees.items():
        question = tree.asked_question
        published, baseline = MDTree(name), ValidationTree(name)
        features = list(dict.fromkeys([*tree.features, *published.features, *baseline.features]))
        train_rows, test_rows = (question.rows(table).dropna(subset=features) for table in (grown, asked))
        labels, truth = train_rows[question.label], test_rows[question.label].to_numpy()
        guesses = {
            "MD tree": published.fit(train_rows, labels).predict(test_rows),
            "default method": tree.predict(test_rows),
            "validation tree": baseline.fit(train_rows, labels).predict(test_rows),
            "majority class": np.full(len(truth), labels.mode()[0]),
        }
        shares = {method: 100 * float(np.mean(guess == truth)) for method, guess in guesses.items()}
        results.append({"question": name, "rows": len(truth), **shares})
    return pd.DataFrame(results)
