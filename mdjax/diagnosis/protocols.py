"""The evaluation protocols: dataset transfer, scale transfer, learning curves, and the gain of a one-step change.

A protocol grows a diagnosis method on few configurations of one zoo and scores it on all of another. Any method can
be scored: `factory(question)` returns an unfitted classifier; mdjax's own read whole frames, others need `features`.
`FACTORIES` knows methods by name: put a new one there, and `evaluate` runs it through all cases and curves.

Source: Zhou et al., "MD tree", ICML 2024, arXiv 2406.16988, sections 4 and 5; choices of rows follow its code.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdjax.diagnosis.baselines import BaselineTree, CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
from mdjax.diagnosis.checks import has_all
from mdjax.diagnosis.labels import STEPS, Axes, step_gains
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.questions import Question, named
from mdjax.errors import InputError

SEEDS = (42, 90, 38, 18, 72)  # of the published runs
MODES = ("random", "random_data", "random_width", "data_limit", "width_limit")

Factory = Callable[[str], Any]  # question -> unfitted classifier with fit(X, y), predict(X), maybe predict_proba(X)

FACTORIES: dict[str, Factory] = {
    "hyperparameter": HyperparameterTree,
    "validation": ValidationTree,
    "combined": CombinedTree,
    "landscape": LandscapeTree,
    "md_tree": MDTree,
    "default": lambda question: MDTree(question, method="default"),
    "md_tree_single": lambda question: MDTree(question, method="default", single=True),
}
"""The diagnosis methods by name; add your own."""


class Choice(NamedTuple):
    """How a protocol chooses the rows to grow on: `training_rows` tells the modes and sizes; once for each seed."""

    mode: str
    size: float
    seeds: Sequence[int] = SEEDS


@dataclass(frozen=True)
class Case:
    """One published experiment: which question, and how the training rows are chosen."""

    name: str
    question: str
    choice: Choice


CASES = (
    Case("1", "optimizer", Choice("random", 8)),
    Case("2", "optimizer", Choice("data_limit", 1)),
    Case("3", "optimizer", Choice("width_limit", 2)),
    Case("4", "width", Choice("random_data", 1)),
    Case("5", "width", Choice("data_limit", 1)),
    Case("6", "data", Choice("random_width", 1)),
    Case("7", "data", Choice("width_limit", 32)),
)
CURVES = (
    ("optimizer", "random", (1, 2, 4, 8, 16, 24)),
    ("optimizer", "data_limit", (1, 2, 4, 8, 10)),
    ("optimizer", "width_limit", (2, 6, 16, 45, 128)),
    ("width", "random_data", (1, 2, 4, 8, 10)),
    ("width", "data_limit", (1, 2, 4, 8, 10)),
)
"""(question, mode, sizes) of the published learning curves; amounts of data are in tenths of all."""


def choices(mode: str, sizes: Iterable[float], seeds: Sequence[int] = SEEDS) -> tuple[Choice, ...]:
    """The choices of one mode at several sizes, for a learning curve.

    A limit chooses the same rows whatever the seed, so that one seed tells all.
    """
    seeds = seeds[:1] if mode.endswith("limit") else seeds
    return tuple(Choice(mode, size, seeds) for size in sizes)


@dataclass(frozen=True)
class Transfer:
    """How well a method diagnoses another zoo, one value per seed.

    Accuracies in percent; training rows; expected calibration errors (ten bins of equal width of the probability of
    the answer, NaN for methods without probabilities); rows of the other zoo that the method did not answer, for want
    of a feature, and which do not count.
    """

    accuracies: np.ndarray
    num_rows: np.ndarray
    calibration_errors: np.ndarray
    num_left_out: np.ndarray

    @property
    def mean(self) -> float:
        """The mean accuracy over the seeds, in percent."""
        return float(self.accuracies.mean())

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds, in points; 0 for a single seed."""
        return float(self.accuracies.std(ddof=1)) if len(self.accuracies) > 1 else 0.0


def training_rows(
    table: pd.DataFrame, mode: str, size: float, seed: int = SEEDS[0], *, axes: Axes | None = None
) -> pd.DataFrame:
    """The rows of a zoo that a protocol grows on.

        table: a labelled sweep.
        mode: one of `MODES`.
        size: how much is chosen, in the unit of the mode.
        seed: of the draw.
        axes: names the columns of data and width in one's own sweep.

    `random`: `size` of the (data, width) cells with all their batch sizes, numbered data-major; `random_data` and
    `random_width`: `size` values of that axis; `data_limit` and `width_limit` (scale transfer): all rows where the
    axis is at most `size`. Draws are those of `np.random.seed(seed)` followed by one `choice` without replacement.
    `random` also takes a sweep without one of the axes.
    """
    axes = axes or Axes()
    named_axes = {"data": axes.data, "width": axes.width}
    axis = named_axes["data" if "data" in mode else "width"]
    read = [name for name in named_axes.values() if name is not None] if mode == "random" else [axis]
    for column in read:
        if mode in MODES and column not in table.columns:
            raise InputError(f"The table has no column {column}, which the protocols choose rows by. Add it.")
    if mode in ("data_limit", "width_limit"):
        chosen = (table[axis] <= size).to_numpy()
    elif mode in ("random_data", "random_width"):
        values = np.unique(table[axis].to_numpy())
        chosen = np.isin(table[axis].to_numpy(), values[_draw(len(values), size, seed, f"values of {axis}")])
    elif mode == "random":
        number, count = np.zeros(len(table), dtype=int), 1
        for name in read:
            values, position = np.unique(table[name].to_numpy(), return_inverse=True)
            number, count = number * len(values) + position, count * len(values)
        chosen = np.isin(number, _draw(count, size, seed, "cells"))
    else:
        raise InputError(f"There is no mode {mode!r}. Choose one of {', '.join(MODES)}.")
    if not chosen.any():
        raise InputError(f"No row of the table is chosen by mode {mode!r} with size {size:g}. Raise the size.")
    return table.loc[chosen]


def _draw(count: int, size: float, seed: int, what: str) -> np.ndarray:
    if not 1 <= size <= count or size != int(size):
        raise InputError(f"size must be a whole number from 1 to {count} {what}, got {size:g}.")
    return np.random.RandomState(seed).choice(count, int(size), replace=False)


def transfer(
    factory: Factory | str,
    question: str | Question,
    train: pd.DataFrame,
    test: pd.DataFrame,
    choice: Choice,
    *,
    features: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Transfer:
    """Grow on some rows of `train`, score on all of `test` (dataset transfer; scale transfer by the limit modes).

        factory: makes the classifier for a question, or its name in `FACTORIES`.
        question: of another least width it is `replace(named("data"), min_width=8)`.
        train, test: labelled sweeps (`mdjax.diagnosis.labels.failure_labels`); rows that are not asked do not count.
        choice: of the rows of `train`; the result has one value per seed.
        features: the columns that the classifier is given; None for the whole frame.
        axes: names the columns of data and width in one's own sweep.

    To test scale transfer within one zoo, pass its larger models as `test`. Rows that lack a feature which one of
    mdjax's own methods reads are left out on both sides, with a warning.
    """
    asked = named(question)
    pool, tested = asked.rows(train), asked.rows(test)
    truth = tested[asked.label].to_numpy(dtype=object)
    if not len(tested):
        raise InputError(f"The test table has no row that question {asked.name!r} is asked of. Give a larger one.")
    scores = []
    for seed in choice.seeds:
        rows = training_rows(pool, choice.mode, choice.size, seed, axes=axes)
        fitted = _fitted(factory, asked, rows, features)
        answered = _answered([fitted], tested)
        read, true = _read(tested.loc[answered], features), truth[answered]
        right = np.asarray(fitted.predict(read), dtype=object) == true
        error = np.nan
        if hasattr(fitted, "predict_proba"):
            error = calibration_error(fitted.predict_proba(read), fitted.classes_, true)
        scores.append((100 * np.mean(right), len(rows), error, np.sum(~answered)))
    return Transfer(*np.array(scores, dtype=float).T)


def calibration_error(probabilities: np.ndarray, classes: np.ndarray, truth: np.ndarray, num_bins: int = 10) -> float:
    """The expected calibration error: |confidence - accuracy| over bins of the likeliest class's probability.

    probabilities: of each class, [rows, classes].
    classes: their names, [classes].
    truth: the class of each row, [rows].
    num_bins: of equal width, over the probabilities from 0 to 1.
    """
    confidence = np.max(probabilities, axis=1)
    right = np.asarray(classes, dtype=object)[np.argmax(probabilities, axis=1)] == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return float(np.abs(np.bincount(bins, confidence - right)).sum() / len(truth))


def _fitted(factory: Factory | str, question: Question, rows: pd.DataFrame, features: Sequence[str] | None) -> Any:
    return factory_of(factory)(question.name).fit(_read(rows, features), rows[question.label])


def _answered(fitted: Iterable[Any], rows: pd.DataFrame) -> np.ndarray:
    """A mask of the rows that have what mdjax's own among these read; other classifiers see to it themselves."""
    own = [method for method in fitted if isinstance(method, MDTree | BaselineTree)]
    read = tuple(dict.fromkeys(name for method in own for name in method.features))
    answered = has_all(rows, read) if read else np.ones(len(rows), dtype=bool)
    if not answered.any():
        raise InputError(f"None of {len(rows)} test rows has all of {', '.join(read)}. Measure these features first.")
    if not answered.all():
        text = f"{(~answered).sum()} of {len(rows)} test rows lack one of {', '.join(read)} and do not count."
        warnings.warn(text, stacklevel=3)
    return answered


def factory_of(method: Factory | str) -> Factory:
    """The factory of that name, or the factory itself; InputError for a name that is not in `FACTORIES`."""
    if not isinstance(method, str):
        return method
    if method not in FACTORIES:
        raise InputError(
            f"There is no method {method!r}. Choose one of {', '.join(FACTORIES)}, or add it to FACTORIES."
        )
    return FACTORIES[method]


def _read(rows: pd.DataFrame, features: Sequence[str] | None) -> pd.DataFrame:
    return rows if features is None else rows[list(features)]


def learning_curve(
    factory: Factory | str,
    question: str | Question,
    train: pd.DataFrame,
    test: pd.DataFrame,
    chosen: Iterable[Choice],
    *,
    features: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> pd.DataFrame:
    """Accuracy in percent against the size of the training choice, one row per choice.

        factory, question, train, test, features, axes: as for `transfer`.
        chosen: the choices of the rows of `train`, as `choices` makes them.

    Columns: `size`, `rows` (mean over seeds), `accuracy` (mean), `spread` (standard deviation), `lowest`, `highest`.
    """
    points = []
    for choice in chosen:
        result = transfer(factory, question, train, test, choice, features=features, axes=axes)
        points.append(
            {
                "size": choice.size,
                "rows": float(result.num_rows.mean()),
                "accuracy": result.mean,
                "spread": result.spread,
                "lowest": float(result.accuracies.min()),
                "highest": float(result.accuracies.max()),
            }
        )
    return pd.DataFrame(points, columns=["size", "rows", "accuracy", "spread", "lowest", "highest"])


def evaluate(
    method: Factory | str, train: pd.DataFrame, test: pd.DataFrame, *, seeds: Sequence[int] = SEEDS
) -> dict[str, Any]:
    """One method on all published protocols, both ways round if called twice with the tables exchanged.

        method: a factory, or its name in `FACTORIES`.
        train, test: labelled sweeps with the published axes.
        seeds: of the choices of training rows.

    Returns plain values: `cases` (case -> mean accuracy in percent), `calibration` (case -> mean expected calibration
    error) and `curves` (question and mode -> the columns of `learning_curve` as lists).
    """
    results = {
        case.name: transfer(method, case.question, train, test, case.choice._replace(seeds=seeds)) for case in CASES
    }
    curves = {
        f"{question} {mode}": learning_curve(method, question, train, test, choices(mode, sizes, seeds)).to_dict("list")
        for question, mode, sizes in CURVES
    }
    return {
        "cases": {name: result.mean for name, result in results.items()},
        "calibration": {name: float(result.calibration_errors.mean()) for name, result in results.items()},
        "curves": curves,
    }


def one_step_change(
    question: str | Question,
    train: pd.DataFrame,
    test: pd.DataFrame,
    methods: Mapping[str, Factory | str],
    choice: Choice,
    *,
    axes: Axes | None = None,
) -> pd.DataFrame:
    """The mean test accuracy gained on `test` when each method picks what to change, in points.

        question: the one that is answered, or its name.
        train, test: labelled sweeps.
        methods: name in the result -> factory, or its name in `FACTORIES`.
        choice: of the rows of `train`.
        axes: names the columns of one's own sweep.

    A method's trees are grown on the same rows of `train`. A `batch` verdict asks the method's optimizer tree for the
    direction. Rows labelled `optimal` for the question, or for the optimizer question, are left out on both sides.
    Rows that lack a feature which one of mdjax's own methods reads are left out for all methods alike, with a warning.
    One row per method, after `optimal` (the labels decide) and `random guess` (each class is as likely); columns
    `STEPS`, means over the seeds.

    The published table draws its random steps and guesses; here they are expectations, which differ by up to 0.08.
    """
    axes = axes or Axes()
    asked, optimizer = named(question), named("optimizer")
    test = test.reset_index(drop=True)
    pool, tested = asked.rows(optimizer.rows(train)), asked.rows(optimizer.rows(test))
    chosen = [training_rows(pool, choice.mode, choice.size, seed, axes=axes) for seed in choice.seeds]
    fitted = {
        method: [[_fitted(factory, one, rows, None) for one in (optimizer, asked)] for rows in chosen]
        for method, factory in methods.items()
    }
    tested = tested.loc[_answered([one for runs in fitted.values() for run in runs for one in run], tested)]
    # Gains come from the whole grid: an optimal neighbour is the one to move to.
    gains = {
        direction: step_gains(test, direction, axes=axes).loc[tested.index].to_numpy()
        for direction in {*optimizer.classes, *asked.classes} & set(axes.directions)
    }

    def gained(answers: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Mean gains when rows follow their answer, and their direction where the answer is `batch`."""
        followed = np.where(answers == "batch", directions, answers)
        return np.sum([gains[name][followed == name].sum(axis=0) for name in gains], axis=0) / len(tested)

    guess = {"batch": (gains["small"] + gains["large"]) / 2, **gains}
    rows: dict[str, np.ndarray] = {
        "optimal": gained(tested[asked.label].to_numpy(dtype=object), tested[optimizer.label].to_numpy(dtype=object)),
        "random guess": np.mean([guess[name] for name in asked.classes], axis=0).mean(axis=0),
    }
    for method, runs in fitted.items():
        results = []
        for run in runs:
            directions, answers = (np.asarray(one.predict(tested), dtype=object) for one in run)
            results.append(gained(answers, directions))
        rows[method] = np.mean(results, axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(STEPS))
