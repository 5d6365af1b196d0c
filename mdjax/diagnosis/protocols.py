"""The evaluation protocols: dataset transfer, scale transfer, learning curves, and the gain of a one-step change.

A protocol grows a diagnosis method on few configurations of one zoo and scores it on all of another. Any method can
be scored: `factory(question)` returns an unfitted classifier; mdjax's own read whole frames, others need `features`.
`FACTORIES` knows methods by name: put a new one there, and `evaluate` runs it through all cases and curves.

Source: Zhou et al., "MD tree", ICML 2024, arXiv 2406.16988, sections 4 and 5; choices of rows follow its code.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdjax.diagnosis.baselines import CombinedTree, HyperparameterTree, LandscapeTree, ValidationTree
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


@dataclass(frozen=True)
class Case:
    """One published experiment: which question, and how the training rows are chosen."""

    name: str
    question: str
    mode: str
    size: float


CASES = (
    Case("1", "optimizer", "random", 8),
    Case("2", "optimizer", "data_limit", 1),
    Case("3", "optimizer", "width_limit", 2),
    Case("4", "width", "random_data", 1),
    Case("5", "width", "data_limit", 1),
    Case("6", "data", "random_width", 1),
    Case("7", "data", "width_limit", 32),
)
# (question, mode, sizes) of the published learning curves; data shares are in tenths.
CURVES = (
    ("optimizer", "random", (1, 2, 4, 8, 16, 24)),
    ("optimizer", "data_limit", (1, 2, 4, 8, 10)),
    ("optimizer", "width_limit", (2, 6, 16, 45, 128)),
    ("width", "random_data", (1, 2, 4, 8, 10)),
    ("width", "data_limit", (1, 2, 4, 8, 10)),
)


@dataclass(frozen=True)
class Transfer:
    """How well a method diagnoses another zoo, one value per seed.

    Accuracies in percent; training rows; expected calibration errors (ten bins of equal width of the probability of
    the answer, NaN for methods without probabilities).
    """

    accuracies: np.ndarray
    num_rows: np.ndarray
    calibration_errors: np.ndarray

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

    `random`: `size` of the (data, width) cells with all their batch sizes, numbered data-major; `random_data` and
    `random_width`: `size` values of that axis; `data_limit` and `width_limit` (scale transfer): all rows where the
    axis is at most `size`. Draws are those of `np.random.seed(seed)` followed by one `choice` without replacement.
    `axes` names the columns of data and width in one's own sweep; `random` also takes a sweep without one of them.
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
    *,
    mode: str,
    size: float,
    seeds: Sequence[int] = SEEDS,
    features: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> Transfer:
    """Grow on some rows of `train`, score on all of `test` (dataset transfer; scale transfer by the limit modes).

    `factory` is one, or a name in `FACTORIES`. A question of another least width is `replace(named("data"),
    min_width=8)`. Both tables hold labels (`mdjax.diagnosis.labels.failure_labels`); only rows of
    which the question is asked count. To test scale transfer within one zoo, pass its larger models as `test`.
    """
    asked = named(question)
    pool, tested = asked.rows(train), asked.rows(test)
    truth = tested[asked.label].to_numpy(dtype=object)
    if not len(tested):
        raise InputError(f"The test table has no row that question {asked.name!r} is asked of. Give a larger one.")
    scores = []
    for seed in seeds:
        rows = training_rows(pool, mode, size, seed, axes=axes)
        fitted = _fitted(factory, asked, rows, features)
        right = np.asarray(fitted.predict(_read(tested, features)), dtype=object) == truth
        error = np.nan
        if hasattr(fitted, "predict_proba"):
            error = calibration_error(fitted.predict_proba(_read(tested, features)), fitted.classes_, truth)
        scores.append((100 * np.mean(right), len(rows), error))
    return Transfer(*np.array(scores, dtype=float).T)


def calibration_error(probabilities: np.ndarray, classes: np.ndarray, truth: np.ndarray, num_bins: int = 10) -> float:
    """The expected calibration error: |confidence - accuracy| over bins of the likeliest class's probability."""
    confidence = np.max(probabilities, axis=1)
    right = np.asarray(classes, dtype=object)[np.argmax(probabilities, axis=1)] == truth
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    return float(np.abs(np.bincount(bins, confidence - right)).sum() / len(truth))


def _fitted(factory: Factory | str, question: Question, rows: pd.DataFrame, features: Sequence[str] | None) -> Any:
    return factory_of(factory)(question.name).fit(_read(rows, features), rows[question.label])


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
    *,
    mode: str,
    sizes: Iterable[float],
    seeds: Sequence[int] = SEEDS,
    features: Sequence[str] | None = None,
    axes: Axes | None = None,
) -> pd.DataFrame:
    """Accuracy in percent against the size of the training choice, one row per size.

    Columns: `size`, `rows` (mean over seeds), `accuracy` (mean), `spread` (standard deviation), `lowest`, `highest`.
    Arguments are those of `transfer`.
    """
    points = []
    for size in sizes:
        result = transfer(
            factory, question, train, test, mode=mode, size=size, seeds=seeds, features=features, axes=axes
        )
        points.append(
            {
                "size": size,
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

    Returns plain values: `cases` (case -> mean accuracy in percent), `calibration` (case -> mean expected calibration
    error) and `curves` (question and mode -> the columns of `learning_curve` as lists). Both tables are labelled
    sweeps with the published axes.
    """
    results = {
        case.name: transfer(method, case.question, train, test, mode=case.mode, size=case.size, seeds=seeds)
        for case in CASES
    }
    curves = {
        f"{question} {mode}": learning_curve(
            method, question, train, test, mode=mode, sizes=sizes, seeds=seeds[:1] if mode.endswith("limit") else seeds
        ).to_dict("list")
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
    *,
    mode: str,
    size: float,
    seeds: Sequence[int] = SEEDS,
    axes: Axes | None = None,
) -> pd.DataFrame:
    """The mean test accuracy gained on `test` when each method picks what to change, in points.

    A method's trees are grown on the same rows of `train`. A `batch` verdict asks the method's optimizer tree for the
    direction. Rows labelled `optimal` for the question, or for the optimizer question, are left out on both sides.
    One row per method, after `optimal` (the labels decide) and `random guess` (each class is as likely); columns
    `STEPS`, means over the seeds.

    The published table draws its random steps and guesses; here they are expectations, which differ by up to 0.08.
    """
    axes = axes or Axes()
    asked, optimizer = named(question), named("optimizer")
    test = test.reset_index(drop=True)
    pool, tested = asked.rows(optimizer.rows(train)), asked.rows(optimizer.rows(test))
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
    for method, factory in methods.items():
        results = []
        for seed in seeds:
            chosen = training_rows(pool, mode, size, seed, axes=axes)
            directions, answers = (
                np.asarray(_fitted(factory, one, chosen, None).predict(tested), dtype=object)
                for one in (optimizer, asked)
            )
            results.append(gained(answers, directions))
        rows[method] = np.mean(results, axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(STEPS))
