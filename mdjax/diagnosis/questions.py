"""The three diagnostic questions: rows, classes, wording, and their trees as tables of splits.

Which word means what, once and for all. The published label `small` is given where smaller batches would
raise the test accuracy; noise grows as batches shrink, so `small` says that the training *temperature* is too
low, and `large` that it is too high. Users read the causes below; data and files keep the published names.

Source: Zhou et al., "MD tree", ICML 2024, arXiv 2406.16988.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mdjax.diagnosis.labels import OPTIMAL
from mdjax.diagnosis.quantities import Columns, inputs_of, quantity
from mdjax.errors import InputError

MIN_WIDTH_FOR_DATA = 32
"""The published question about data is asked of networks of this width (channels of the first stage) and wider."""


@dataclass(frozen=True)
class Split:
    """One node: rows with `feature <= threshold` go to `at_most`, the others to `above`.

    A child is the index of another split in the tree, or the name of the class that a leaf answers. `feature`
    names a measured column or one of `quantities.QUANTITIES`. A split with a `spread` is soft: its threshold is
    uncertain, normally distributed on the quantity's scale, `threshold` being the mean (in the quantity's own unit)
    and `spread` the standard deviation (on the scale). With spread 0 it is sharp.
    """

    feature: str
    threshold: float
    bounds: tuple[float, float]  # between which the published fit searches the threshold
    at_most: int | str
    above: int | str
    spread: float = 0.0


Tree = tuple[Split, ...]  # the root comes first


@dataclass(frozen=True)
class Leaf:
    """Where a path ends: the class it answers, and the (split, went to at_most) pairs that lead there."""

    label: str
    path: tuple[tuple[int, bool], ...]


@dataclass(frozen=True)
class Question:
    """What is asked, of which rows, and what each answer means and asks for."""

    name: str
    text: str
    label: str  # the column of the published label
    classes: tuple[str, str]
    tree: Tree  # the published structure with its start thresholds
    # The structures that the default method chooses from, their thresholds and spreads being the priors: first the
    # one of greatest prior probability, then what to fall back on where the labels contradict it.
    default_trees: tuple[Tree, ...]
    single_trees: tuple[Tree, ...]  # the same for single models, without features of pairs
    hyperparameters: tuple[str, ...]  # the features of the hyperparameter baseline
    meaning: dict[str, str]  # class -> what the answer says of the network
    change: dict[str, str]  # class -> what it asks to change
    # The question is asked of rows whose `width` is at least this, or is not known; None or 0: of all.
    min_width: float | None = None

    def asked(self, table: pd.DataFrame) -> np.ndarray:
        """A mask of the rows that the question is asked of, labelled or not: all but those known to be too narrow.

        Only `min_width` and the column `width` decide.
        """
        if not self.min_width or "width" not in table.columns:
            return np.ones(len(table), dtype=bool)
        return ~(self._widths(table) < self.min_width)

    def width_unknown(self, table: pd.DataFrame) -> np.ndarray:
        """A mask of the rows that are asked although the width, which decides whether they are, is not known."""
        if not self.min_width or "width" not in table.columns:
            return np.full(len(table), bool(self.min_width))
        return np.isnan(self._widths(table))

    def _widths(self, table: pd.DataFrame) -> np.ndarray:
        widths = pd.Series(pd.to_numeric(table["width"], errors="coerce"))
        return widths.to_numpy(dtype=float, na_value=np.nan)

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows on which the question is grown and scored: asked, and labelled with one of its classes."""
        if self.label not in table.columns:
            raise InputError(
                f"The table has no column {self.label}, the labels of question {self.name!r}. "
                "Add it with mdjax.diagnosis.labels.failure_labels(table)."
            )
        labels = table[self.label]
        strange = [value for value in labels.dropna().unique() if value not in (*self.classes, OPTIMAL)]
        if strange:
            raise InputError(
                f"Column {self.label} holds {strange[0]!r}; expected {', '.join(self.classes)} or {OPTIMAL}. "
                "Recompute it with mdjax.diagnosis.labels.failure_labels(table)."
            )
        return table.loc[labels.isin(self.classes).to_numpy() & self.asked(table)]


_TRAIN, _PEAK, _SHARP, _CKA = "train_error", "mode_connectivity_peak", "hessian_t", "CKA"
_TRAIN_BOUNDS, _PEAK_BOUNDS, _SHARP_BOUNDS = (0.0, 1.0), (-30.0, 0.0), (4.0, 9.0)

LANDSCAPE = (_TRAIN, _PEAK, _CKA, _SHARP)
VALIDATION = ("train_error", "train_loss", "test_loss", "test_error")

# The priors of the default method's thresholds where a structure does not give its own: the mean in the quantity's
# unit, and the standard deviation on its scale.
_PRIORS = {
    "train_error": (0.25, 1.0),
    "barrier": (1.5, 0.5),
    "mode_connectivity_peak": (-0.7, 0.7),
    "train_loss": (0.0007, 0.25),
    "hessian_t": (5.5, 0.5),
    "hessian_e": (3.5, 0.5),
    "CKA": (0.4, 0.15),
    "trace_for_loss": (5.7, 0.35),
    "eigenvalue_for_loss": (3.3, 0.25),
}


def soft_split(
    feature: str, at_most: int | str, above: int | str, *, threshold: float | None = None, spread: float | None = None
) -> Split:
    """A split of the default method, with its quantity's usual prior or the one given.

    feature, at_most, above: as in `Split`.
    threshold: the prior's mean, in the quantity's unit.
    spread: the prior's standard deviation, on the quantity's scale.
    """
    usual = _PRIORS.get(feature, (0.0, 1.0))
    threshold = usual[0] if threshold is None else threshold
    spread = usual[1] if spread is None else spread
    this = quantity(feature)
    low, high = (float(this.from_scale(this.to_scale(np.array(threshold)) + way * 2 * spread)) for way in (-1, 1))
    return Split(feature, threshold, (low, high), at_most, above, spread)


_LOSS, _BARRIER, _EIGENVALUE = "train_loss", "barrier", "eigenvalue_for_loss"

# Thresholds are fitted in the order of the splits, which is the published one and not that of depth.
QUESTIONS: dict[str, Question] = {
    question.name: question
    for question in (
        Question(
            name="optimizer",
            text="Is the training temperature too low or too high?",
            label="bs_failure",
            classes=("small", "large"),
            tree=(
                Split(_TRAIN, 0.5, _TRAIN_BOUNDS, "small", 1),
                Split(_PEAK, -10.0, _PEAK_BOUNDS, 2, "large"),
                Split(_SHARP, 7.0, _SHARP_BOUNDS, "large", "small"),
            ),
            # Of networks that do not fit their data, two runs trained too cold mostly have a barrier between them, two
            # runs trained too hot have none. Those trained too cold that have none either are sharp for their loss.
            default_trees=(
                (
                    soft_split(_TRAIN, "small", 1, threshold=0.1, spread=0.5),
                    soft_split(_BARRIER, "large", 2),
                    soft_split(_EIGENVALUE, "large", "small", threshold=2.5, spread=0.35),
                ),
                (
                    soft_split(_TRAIN, "small", 1),
                    soft_split(_PEAK, 2, "large", threshold=-1.0, spread=1.0),
                    soft_split(_EIGENVALUE, "large", "small", spread=0.7),
                ),
            ),
            # At the same temperature sharpness grows with the amount of data, so that labels from a few data amounts
            # alone would put the threshold wrongly for all others: the first prior is narrow, to hold it.
            single_trees=(
                (
                    soft_split(_TRAIN, "small", 1, threshold=0.1, spread=0.5),
                    soft_split("trace_for_loss", "large", "small", threshold=5.7, spread=0.2),
                ),
                (
                    soft_split(_TRAIN, "small", 1),
                    soft_split("trace_for_loss", "large", "small", threshold=5.3, spread=1.4),
                ),
            ),
            hyperparameters=("log_data_amount", "log_para_amount"),
            meaning={"small": "temperature too low", "large": "temperature too high"},
            change={
                "small": "raise the temperature: reduce the batch size or raise the learning rate",
                "large": "lower the temperature: increase the batch size or lower the learning rate",
            },
        ),
        Question(
            name="width",
            text="Is the model too small, or is it the optimizer's temperature?",
            label="width_vs_batch",
            classes=("width", "batch"),
            tree=(
                Split(_TRAIN, 0.5, _TRAIN_BOUNDS, 1, 2),
                Split(_PEAK, -10.0, _PEAK_BOUNDS, "width", "batch"),
                Split(_PEAK, -10.0, _PEAK_BOUNDS, "width", "batch"),
            ),
            # The published tree and one split more: of networks that fit their data and are connected, those that are
            # large enough have less training loss left.
            default_trees=(
                (
                    soft_split(_TRAIN, 1, 2),
                    soft_split(_PEAK, "width", 3),
                    soft_split(_PEAK, "width", "batch"),
                    soft_split(_LOSS, "batch", "width"),
                ),
                (
                    soft_split(_TRAIN, 1, 2),
                    soft_split(_CKA, "width", "batch"),
                    soft_split(_PEAK, "width", "batch", threshold=-10.0, spread=0.8),
                ),
            ),
            single_trees=(
                (
                    soft_split(_TRAIN, 1, 2, threshold=1.0, spread=0.6),
                    soft_split(_LOSS, "batch", "width", threshold=0.0007, spread=0.35),
                    soft_split(_EIGENVALUE, "batch", "width", threshold=3.3, spread=0.15),
                ),
                (
                    soft_split(_TRAIN, 1, 2),
                    soft_split(_LOSS, "batch", "width", threshold=0.002, spread=0.7),
                    soft_split(_EIGENVALUE, "batch", "width", threshold=3.3, spread=1.0),
                ),
            ),
            hyperparameters=("log_data_amount",),
            meaning={"width": "model too small", "batch": "temperature rather than model size"},
            change={"width": "use a larger model: widen its layers", "batch": "change the temperature"},
        ),
        Question(
            name="data",
            text="Is the data too little, or is it the optimizer's temperature?",
            label="data_vs_batch",
            classes=("data", "batch"),
            tree=(
                Split(_TRAIN, 0.5, _TRAIN_BOUNDS, 1, 3),
                Split(_PEAK, -10.0, _PEAK_BOUNDS, 4, 2),
                Split(_SHARP, 7.0, _SHARP_BOUNDS, "data", "batch"),
                Split(_PEAK, -10.0, _PEAK_BOUNDS, "batch", 5),
                Split(_SHARP, 7.0, _SHARP_BOUNDS, "data", "batch"),
                Split(_SHARP, 7.0, _SHARP_BOUNDS, "data", "batch"),
            ),
            # Nearly every path of the published tree ends in a split by sharpness; alone that split carries over best
            # between similar networks.
            default_trees=(
                (soft_split(_SHARP, "data", "batch"),),
                (
                    soft_split(_CKA, "batch", 1),
                    soft_split(_SHARP, "data", "batch", threshold=6.0, spread=1.0),
                ),
            ),
            single_trees=(
                (soft_split(_SHARP, "data", "batch"),),
                (soft_split(_TRAIN, 1, "batch"), soft_split(_SHARP, "data", "batch")),
            ),
            hyperparameters=("log_para_amount",),
            meaning={"data": "too little data", "batch": "temperature rather than data"},
            change={"data": "train on more data", "batch": "change the temperature"},
            min_width=MIN_WIDTH_FOR_DATA,
        ),
    )
}

# The optimizer question with the similarity of two runs in place of sharpness.
SIMILARITY_TREE: Tree = (
    *QUESTIONS["optimizer"].tree[:2],
    Split(_CKA, 0.5, (0.2, 0.8), "small", "large"),
)


def named(question: str | Question) -> Question:
    """The question of that name, or the question itself; InputError for anything else."""
    if isinstance(question, Question):
        return question
    if not isinstance(question, str) or question not in QUESTIONS:
        raise InputError(f"There is no question {question!r}. Choose one of {', '.join(QUESTIONS)}.")
    return QUESTIONS[question]


def features_of(*trees: Tree) -> tuple[str, ...]:
    """The features that trees split on, each once, in the order in which the splits first name them."""
    return tuple(dict.fromkeys(split.feature for tree in trees for split in tree))


def columns_of(*trees: Tree) -> tuple[str, ...]:
    """The measured columns that the trees' features are computed from, each once."""
    return inputs_of(features_of(*trees))


def with_thresholds(tree: Tree, thresholds: Sequence[float]) -> Tree:
    """The same tree with other thresholds, in the order of its splits."""
    return tuple(replace(split, threshold=float(value)) for split, value in zip(tree, thresholds, strict=True))


def leaves(tree: Tree) -> tuple[Leaf, ...]:
    """The leaves from left (at most) to right (above), each with the path that leads to it."""

    def below(child: int | str, path: tuple[tuple[int, bool], ...]) -> Iterator[Leaf]:
        if isinstance(child, str):
            yield Leaf(child, path)
        else:
            yield from below(tree[child].at_most, (*path, (child, True)))
            yield from below(tree[child].above, (*path, (child, False)))

    return tuple(below(0, ()))


def leaf_indices(tree: Tree, columns: Columns) -> np.ndarray:
    """For each row, the index in `leaves(tree)` of the leaf that it reaches from the root, [rows]."""
    low = [columns[split.feature] <= split.threshold for split in tree]
    indices = np.zeros(len(low[0]), dtype=int)
    for k, leaf in enumerate(leaves(tree)):
        indices[np.logical_and.reduce([low[i] == side for i, side in leaf.path])] = k
    return indices


def classes_below(tree: Tree, child: int | str, columns: Columns) -> np.ndarray:
    """The class that each row would get if it started at `child` instead of at the root, [rows] of str."""
    if isinstance(child, str):
        return np.full(len(next(iter(columns.values()))), child, dtype=object)
    split = tree[child]
    return np.where(
        columns[split.feature] <= split.threshold,
        classes_below(tree, split.at_most, columns),
        classes_below(tree, split.above, columns),
    )
