"""The evaluation protocols: dataset transfer, scale transfer, learning curves, and the gain of a one-step change.

A protocol grows a diagnosis method on few configurations of one zoo and scores it on all of another. Any method can
be scored: `factory(question)` returns an unfitted classifier; mdjax's own read whole frames, others need `features`.

Source: Zhou et al., "MD tree", ICML 2024, arXiv 2406.16988, sections 4 and 5; choices of rows follow its code.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdjax.errors import InputError
from mdjax.questions import Question, named

SEEDS = (42, 90, 38, 18, 72)  # of the published runs
MODES = ("random", "random_data", "random_width", "data_limit", "width_limit")

Factory = Callable[[str], Any]  # question -> unfitted classifier with fit(X, y) and predict(X)


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
    """How well a method diagnoses another zoo: accuracies in percent, and training rows, one per seed."""

    accuracies: np.ndarray
    num_rows: np.ndarray

    @property
    def mean(self) -> float:
        """The mean accuracy over the seeds, in percent."""
        return float(self.accuracies.mean())

    @property
    def spread(self) -> float:
        """The standard deviation over the seeds, in points; 0 for a single seed."""
        return float(self.accuracies.std(ddof=1)) if len(self.accuracies) > 1 else 0.0


def training_rows(table: pd.DataFrame, mode: str, size: float, seed: int = SEEDS[0]) -> pd.DataFrame:
    """The rows of a zoo that a protocol grows on.

    `random`: `size` of the (data, width) cells with all their batch sizes, numbered data-major; `random_data` and
    `random_width`: `size` values of that axis; `data_limit` and `width_limit` (scale transfer): all rows where the
    axis is at most `size`. Draws are those of `np.random.seed(seed)` followed by one `choice` without replacement.
    """
    for column in ("data", "width"):
        if column not in table.columns:
            raise InputError(f"The table has no column {column}, which the protocols choose rows by. Add it.")
    axis = "data" if "data" in mode else "width"
    if mode in ("data_limit", "width_limit"):
        chosen = (table[axis] <= size).to_numpy()
    elif mode in ("random_data", "random_width"):
        values = np.unique(table[axis].to_numpy())
        chosen = np.isin(table[axis].to_numpy(), values[_draw(len(values), size, seed, f"values of {axis}")])
    elif mode == "random":
        data, row = np.unique(table["data"].to_numpy(), return_inverse=True)
        width, column = np.unique(table["width"].to_numpy(), return_inverse=True)
        drawn = _draw(len(data) * len(width), size, seed, "cells")
        chosen = np.isin(row * len(width) + column, drawn)
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
    factory: Factory,
    question: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    mode: str,
    size: float,
    seeds: Sequence[int] = SEEDS,
    features: Sequence[str] | None = None,
) -> Transfer:
    """Grow on some rows of `train`, score on all of `test` (dataset transfer; scale transfer by the limit modes).

    Both tables hold labels (`mdjax.labels.failure_labels`); only rows of which the question is asked count. To test
    scale transfer within one zoo, pass its larger models as `test`.
    """
    asked = named(question)
    pool, tested = asked.rows(train), asked.rows(test)
    accuracies, num_rows = [], []
    for seed in seeds:
        rows = training_rows(pool, mode, size, seed)
        predicted = _predictions(factory, asked, rows, tested, features)
        accuracies.append(100 * np.mean(predicted == tested[asked.label].to_numpy(dtype=object)))
        num_rows.append(len(rows))
    return Transfer(np.array(accuracies), np.array(num_rows))


def _predictions(
    factory: Factory,
    question: Question,
    rows: pd.DataFrame,
    tested: pd.DataFrame,
    features: Sequence[str] | None,
) -> np.ndarray:
    columns = list(tested.columns if features is None else features)
    fitted = factory(question.name).fit(rows[columns], rows[question.label])
    return np.asarray(fitted.predict(tested[columns]), dtype=object)


def learning_curve(
    factory: Factory,
    question: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    *,
    mode: str,
    sizes: Iterable[float],
    seeds: Sequence[int] = SEEDS,
    features: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Accuracy in percent against the size of the training choice, one row per size.

    Columns: `size`, `rows` (mean over seeds), `accuracy` (mean), `spread` (standard deviation), `lowest`, `highest`.
    """
    points = []
    for size in sizes:
        result = transfer(factory, question, train, test, mode=mode, size=size, seeds=seeds, features=features)
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


STEPS = ("one", "random", "best")
# The direction that each published class asks for: (axis, towards larger values).
DIRECTIONS = {"small": ("bs", False), "large": ("bs", True), "width": ("width", True), "data": ("data", True)}


def step_gains(table: pd.DataFrame, direction: str, *, accuracy: str = "test_acc") -> pd.DataFrame:
    """The points of test accuracy gained by following one class's advice along its axis, all else equal.

    `direction` is the class that is acted on: `small` (smaller batches), `large`, `width` or `data`. Columns: `one`:
    to the next value; `random`: the expected gain of a uniformly drawn further value; `best`: to the best further
    value. Losses count as 0, and so does the end of the axis.
    """
    if direction not in DIRECTIONS:
        raise InputError(f"There is no direction {direction!r}. Choose one of {', '.join(DIRECTIONS)}.")
    axis, larger = DIRECTIONS[direction]
    held = [name for name in ("bs", "width", "data") if name != axis]
    absent = [name for name in (axis, *held, accuracy) if name not in table.columns]
    if absent:
        raise InputError(f"The table has no column {', '.join(absent)}, which gains are computed from. Add it.")
    ordered = table.reset_index(drop=True).sort_values(axis, ascending=larger, kind="stable")
    own = ordered[accuracy]
    groups = own.groupby([ordered[name] for name in held], sort=False)
    one, best, total, further = np.zeros((4, len(own)))
    for step in range(1, np.max(groups.cumcount().to_numpy(), initial=0) + 1):
        gain = np.asarray(groups.shift(-step) - own, dtype=float).clip(min=0)
        further += ~np.isnan(gain)
        gain = np.nan_to_num(gain)
        one = gain if step == 1 else one
        best, total = np.maximum(best, gain), total + gain
    columns = {"one": one, "random": total / further.clip(min=1), "best": best}
    gains = pd.DataFrame(columns, index=ordered.index).sort_index()
    return gains.set_index(table.index)


def one_step_change(
    question: str,
    train: pd.DataFrame,
    test: pd.DataFrame,
    methods: dict[str, Factory],
    *,
    mode: str,
    size: float,
    seeds: Sequence[int] = SEEDS,
) -> pd.DataFrame:
    """The mean test accuracy gained on `test` when each method picks what to change, in points.

    A method's trees are grown on the same rows of `train`. A `batch` verdict asks the method's optimizer tree for the
    direction. Rows labelled `optimal` for the question, or for the optimizer question, are left out on both sides.
    One row per method, after `optimal` (the labels decide) and `random guess` (each class is as likely); columns
    `STEPS`, means over the seeds.

    The published table draws its random steps and guesses; here they are expectations, which differ by up to 0.08.
    """
    asked, optimizer = named(question), named("optimizer")
    test = test.reset_index(drop=True)
    pool, tested = asked.rows(optimizer.rows(train)), asked.rows(optimizer.rows(test))
    # Gains come from the whole grid: an optimal neighbour is the one to move to.
    gains = {
        direction: step_gains(test, direction).loc[tested.index].to_numpy()
        for direction in {*optimizer.classes, *asked.classes} & set(DIRECTIONS)
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
            chosen = training_rows(pool, mode, size, seed)
            directions = _predictions(factory, optimizer, chosen, tested, None)
            answers = directions if asked is optimizer else _predictions(factory, asked, chosen, tested, None)
            results.append(gained(answers, directions))
        rows[method] = np.mean(results, axis=0)
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(STEPS))
