"""The methods that bench/verdicts.py compares: what each says of configurations that it was not grown on."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from mdjax.calibration.sweeps import smaller_cells
from mdjax.diagnosis.answers import Answers
from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.calibrations import likeliest_changes
from mdjax.diagnosis.causes import CAUSES, Weighed, weighed_causes
from mdjax.diagnosis.checks import has_all
from mdjax.diagnosis.growing import grow
from mdjax.diagnosis.labels import LABEL_COLUMNS, RFI_COLUMNS, Axes, failure_labels
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import OwnSweep
from mdjax.diagnosis.questions import QUESTIONS, Question
from mdjax.diagnosis.stages import Stage
from mdjax.diagnosis.surface import Points, Surface
from mdjax.diagnosis.treefiles import PUBLISHED, SHIPPED
from mdjax.diagnosis.trees import load_trees
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.errors import InputError

SMALL, LARGE = 0.05, 0.2
"""The budgets: fractions of the training cost of the whole zoo."""


class Verdicts(NamedTuple):
    """What one method says of rows; causes are indices in CAUSES, -1 where there is none."""

    answers: dict[str, np.ndarray]  # question -> its published class, [rows]; None without an answer
    likeliest: np.ndarray  # the cause whose change is followed, [rows]
    probability: np.ndarray  # of that cause, [rows]
    told: np.ndarray  # the cause that the verdict names, [rows]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A zoo's labelled table, what is grown on in it, and what is asked about."""

    table: pd.DataFrame
    axes: Axes

    def calibration(self, budget: float) -> np.ndarray:
        """A mask of the rows in the cells that the budget allows; where not even four fit, in the smallest four."""
        return smaller_cells(self.table, budget)

    @functools.cached_property
    def asked(self) -> pd.DataFrame:
        """The rows that neither budget's calibration holds, and whose own accuracy is known."""
        known = self.table[list(RFI_COLUMNS)].notna().all(axis=1).to_numpy()
        return self.table[known & ~self.calibration(SMALL) & ~self.calibration(LARGE)]

    def grown(self, budget: float) -> pd.DataFrame:
        """The calibration rows, labelled by what these alone show."""
        rows = self.table[self.calibration(budget)].drop(columns=[*RFI_COLUMNS, *LABEL_COLUMNS])
        return failure_labels(rows, **vars(self.axes))

    def temperature(self, table: pd.DataFrame) -> np.ndarray:
        """A number that rises with the training temperature, [rows]."""
        values = table[self.axes.batch].to_numpy(float)
        return values if self.axes.hotter == "larger" else 1 / values

    def further(self, table: pd.DataFrame, question: Question) -> np.ndarray:
        """A mask of the rows for which the table holds a larger width (or more data): all for the temperature."""
        return OwnSweep(table, self.axes).further(question.name)

    def asked_further(self, question: Question) -> np.ndarray:
        """A mask of the rows that are asked about for which the zoo holds a larger width (or more data)."""
        found = pd.Series(self.further(self.table, question), index=self.table.index)
        return found.loc[self.asked.index].to_numpy()

    def lessons(self, question: Question) -> pd.DataFrame:
        """The calibration rows of the large budget that teach a question: labelled, and with somewhere to go.

        At the end of an axis the label follows from the axis, whatever the network.
        """
        rows = self.grown(LARGE)
        labelled = rows[question.label].isin(question.classes).to_numpy()
        return rows[labelled & self.further(rows, question)]


def majority(sweep: Sweep) -> Verdicts:
    """The more frequent class among the calibration rows; its fraction there, smoothed, is the probability."""

    def first(question: Question) -> np.ndarray:
        firsts = sweep.lessons(question)[question.label] == question.classes[0]
        return np.full(len(sweep.asked), (firsts.sum() + 1) / (len(firsts) + 2))

    return _by_questions(sweep, first)


def validation_tree(sweep: Sweep) -> Verdicts:
    """A tree on training and test errors and losses; the fractions at its leaves are smoothed as those of MD trees."""

    def first(question: Question) -> np.ndarray:
        rows, found = sweep.lessons(question), np.full(len(sweep.asked), np.nan)
        rows = rows[has_all(rows, ValidationTree(question.name).features)]
        if not len(rows):
            return found
        tree = ValidationTree(question.name).fit(rows, rows[question.label])
        complete = has_all(sweep.asked, tree.features)
        asked = sweep.asked.loc[complete]
        fraction = dict(zip(tree.classes_, tree.predict_proba(asked).T)).get(question.classes[0], 0.0)
        leaves = tree.tree_.apply(asked[list(tree.features)].to_numpy(float))
        counts = tree.tree_.tree_.n_node_samples[leaves]
        found[complete] = (fraction * counts + 1) / (counts + 2)
        return found

    return _by_questions(sweep, first)


def _by_questions(sweep: Sweep, first: Callable[[Question], np.ndarray]) -> Verdicts:
    """The verdicts that follow from the probability of each question's first class, joined as those of trees are."""
    answers = {}
    for name, question in QUESTIONS.items():
        chance = first(question)
        label = np.where(chance >= 0.5, *question.classes).astype(object)
        label[np.isnan(chance)] = None
        answers[name] = Answers((), label, chance, np.maximum(chance, 1 - chance), np.zeros(len(chance), int))
    causes = _trees_alone(answers, len(sweep.asked))
    return _joined(answers, causes, causes)


def _trees_alone(answers: dict[str, Answers], num_rows: int) -> Weighed:
    """The causes that follow from the answers where no stage holds a row back."""
    return weighed_causes(answers, np.full(num_rows, Stage.TREES.value, dtype=object))


def _joined(answers: dict[str, Answers], causes: Weighed, told: Weighed) -> Verdicts:
    labels = {name: answer.label for name, answer in answers.items()}
    return Verdicts(labels, causes.likeliest, causes.probability, np.where(told.clear, told.likeliest, -1))


def packaged(name: str) -> Callable[[Sweep], Verdicts]:
    """Trees that come with the package.

    What is told is what the package tells. The answers and the change that is followed are those of the trees alone:
    whatever the stage, and of every width.
    """

    def verdicts(sweep: Sweep) -> Verdicts:
        trees = load_trees(name)
        wide = {key: MDTree.from_dict(tree.to_dict() | {"min_width": 0}) for key, tree in trees.items()}
        answers = Diagnosis.of(sweep.asked, wide).answers
        return _joined(answers, _trees_alone(answers, len(sweep.asked)), Diagnosis.of(sweep.asked, trees).causes)

    return verdicts


def md_tree(sweep: Sweep) -> Verdicts:
    """The default method's trees, grown on the calibration rows."""
    trees = {}
    for name, question in QUESTIONS.items():
        try:
            trees[name] = grow(sweep.lessons(question), name, axes=sweep.axes, min_width=0)
        except InputError:
            continue  # no row teaches this question
    found = Diagnosis.of(sweep.asked, trees)
    answers = {name: found.answers[name] for name in trees}
    return _joined(answers, _trees_alone(answers, len(sweep.asked)), found.causes)


def calibrated(budget: float) -> Callable[[Sweep], Verdicts]:
    """The surface of test accuracy over temperature, width and data that is learnt from the calibration rows."""

    def verdicts(sweep: Sweep) -> Verdicts:
        rows = sweep.grown(budget)
        rows = rows[rows[sweep.axes.accuracy].notna()]
        surface = Surface.fitted(_points(sweep, rows), rows[sweep.axes.accuracy].to_numpy(float))
        steps = {name: np.unique(values).tolist() for name, values in _points(sweep, sweep.table)._asdict().items()}
        asked = zip(*_points(sweep, sweep.asked), sweep.asked[sweep.axes.accuracy])
        gains = [
            surface.gains({"temperature": heat, "width": width, "data": data}, own, steps)
            for heat, width, data, own in asked
        ]
        answers = {
            name: np.where([gain.beats[name] >= 0.5 for gain in gains], *question.classes).astype(object)
            for name, question in QUESTIONS.items()
        }
        likeliest, probability, clear = likeliest_changes(
            np.array([gain.is_right for gain in gains]), np.array([gain.best for gain in gains])
        )
        return Verdicts(answers, likeliest, probability, np.where(clear, likeliest, -1))

    return verdicts


def _points(sweep: Sweep, table: pd.DataFrame) -> Points:
    return Points(sweep.temperature(table), table["width"].to_numpy(float), table["data_share"].to_numpy(float))


METHODS: dict[str, Callable[[Sweep], Verdicts]] = {
    "majority": majority,
    "validation tree": validation_tree,
    "published fit": packaged(PUBLISHED),
    "shipped trees": packaged(SHIPPED),
    "MD tree": md_tree,
    "calibrated 5 %": calibrated(SMALL),
    "calibrated 20 %": calibrated(LARGE),
}
"""Name -> the verdicts on the rows of a sweep that are asked about. Grown methods see the 20 % rows, unless named."""

DIRECTIONS = tuple(cause.label for cause in CAUSES)
"""The class that asks for each cause's change, by which `step_gains` knows it."""
