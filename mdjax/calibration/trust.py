"""How far a calibration can be trusted: its smaller networks asked about its larger ones, whose truth it knows."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mdjax.diagnosis.baselines import ValidationTree
from mdjax.diagnosis.calibrations import Accuracy
from mdjax.diagnosis.labels import Axes, failure_labels
from mdjax.diagnosis.own_sweeps import balanced_accuracy
from mdjax.diagnosis.questions import QUESTIONS
from mdjax.diagnosis.surface import Points, Surface
from mdjax.errors import InputError

AXES = Axes(batch="temperature", width="width", data="data_share", hotter="larger")
"""Of a calibration's own table, which has a column `temperature`: learning rate over batch size."""

_LEAST_CELLS = 4
"""Cells of width and data that a surface needs before it is asked about a further one."""


class _Asked(NamedTuple):
    question: str
    truth: str
    surface: str
    validation: str
    majority: str


def surface_of(table: pd.DataFrame) -> Surface:
    """The surface of a calibration's table: columns `temperature`, `width`, `data_share` and `test_acc`."""
    return Surface.fitted(_points(table), table["test_acc"].to_numpy(float))


def accuracies(table: pd.DataFrame) -> dict[str, Accuracy]:
    """How often each question is answered right about a larger cell by the surface of all smaller ones.

    table: of the calibration, a row per configuration, with a column `cost` by which cells of equal width and data are
        ordered, and the losses and errors that the validation tree reads.

    A question is asked of rows for which the table holds a network further along its axis, so that the answer is known.
    Cost: one fit a cell.
    """
    asked = pd.DataFrame(list(_asked(failure_labels(table, **vars(AXES)))), columns=list(_Asked._fields))
    found = {}
    for name, rows in asked.groupby("question", sort=False):
        truth = rows["truth"].to_numpy(dtype=object)
        scores = {
            method: balanced_accuracy(truth, rows[method].to_numpy(dtype=object))
            for method in ("surface", "validation", "majority")
        }
        right = round(scores["surface"] / 100 * len(rows))
        interval = binomtest(right, len(rows)).proportion_ci(0.95, "wilson")
        limits = (100 * float(interval.low), 100 * float(interval.high))
        found[str(name)] = Accuracy(len(rows), scores["surface"], limits, scores["majority"], scores["validation"])
    return {name: found[name] for name in QUESTIONS if name in found}


def _asked(table: pd.DataFrame) -> Iterator[_Asked]:
    cells = list(table.groupby(["width", "data_share"])["cost"].first().sort_values(kind="stable").index)
    for number in range(_LEAST_CELLS, len(cells)):
        known = pd.MultiIndex.from_frame(table[["width", "data_share"]]).isin(cells[:number])
        smaller, larger = table.loc[known], table[(table["width"] == cells[number][0])]
        larger = larger[larger["data_share"] == cells[number][1]]
        if smaller["width"].nunique() < 2 or smaller["data_share"].nunique() < 2:
            continue
        surface = surface_of(smaller)
        within = failure_labels(smaller, **vars(AXES))
        for name, question in QUESTIONS.items():
            rows = larger[larger[question.label].isin(question.classes) & _has_further(table, larger, name)]
            if not len(rows):
                continue
            labels = within.loc[within[question.label].isin(question.classes), question.label]
            majority = labels.mode().iloc[0] if len(labels) else question.classes[1]
            validation = _validation(name, within, rows, majority)
            for (_, row), told in zip(rows.iterrows(), validation, strict=True):
                first = surface.gains(_place(row), float(row["test_acc"]), _steps(table, row)).beats[name]
                answer = question.classes[0] if first >= 0.5 else question.classes[1]
                yield _Asked(name, row[question.label], answer, told, majority)


def _validation(name: str, within: pd.DataFrame, rows: pd.DataFrame, majority: str) -> list[str]:
    question = QUESTIONS[name]
    try:
        kept = within[within[question.label].isin(question.classes)]
        features = list(ValidationTree(name).features)
        kept, complete = kept.dropna(subset=features), rows[features].notna().all(axis=1).to_numpy()
        told = np.full(len(rows), majority, dtype=object)
        if len(kept) and complete.any():
            told[complete] = ValidationTree(name).fit(kept, kept[question.label]).predict(rows[complete])
        return told.tolist()
    except InputError:  # one class alone
        return [majority] * len(rows)


def _has_further(table: pd.DataFrame, rows: pd.DataFrame, name: str) -> np.ndarray:
    """Whether the table holds a network that differs from a row by more width (or data) alone."""
    if name == "optimizer":
        return np.ones(len(rows), dtype=bool)
    axis, held = ("width", "data_share") if name == "width" else ("data_share", "width")
    most = table.groupby(["temperature", held])[axis].max()
    return np.array([row[axis] < most[row["temperature"], row[held]] for _, row in rows.iterrows()], dtype=bool)


def _place(row: pd.Series) -> dict[str, float]:
    return {"temperature": float(row["temperature"]), "width": float(row["width"]), "data": float(row["data_share"])}


def _steps(table: pd.DataFrame, row: pd.Series) -> dict[str, list[float]]:
    """The other values of each axis that the table holds beside a row."""
    names = {"temperature": "temperature", "width": "width", "data": "data_share"}
    steps = {}
    for axis, column in names.items():
        others = [other for other in names.values() if other != column]
        beside = table[(table[others] == row[others].astype(float)).all(axis=1)]
        steps[axis] = sorted(set(beside[column].astype(float)))
    return steps


def _points(table: pd.DataFrame) -> Points:
    return Points(*(table[name].to_numpy(float) for name in ("temperature", "width", "data_share")))
