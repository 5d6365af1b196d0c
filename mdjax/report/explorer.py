"""What the page's scripts read: every configuration with its settings, features, verdict and evidence, as plain values.

Columns are lists [rows]; texts that repeat are told once and counted from there. Texts of unknown origin are made
printable here, and are put on the page as texts, never as markup.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION, described
from mdjax.diagnosis.answers import Answers, joined_flags
from mdjax.diagnosis.beliefs import interval
from mdjax.diagnosis.calibrations import NAMES
from mdjax.diagnosis.causes import CAUSES, CHANGES
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import OwnSweep
from mdjax.diagnosis.quantities import QUANTITIES, quantity
from mdjax.diagnosis.questions import named
from mdjax.diagnosis.sentences import answer_statuses, flag_text
from mdjax.diagnosis.stages import Stage
from mdjax.diagnosis.surface import CHANGES as DIRECTIONS
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.escapes import printable
from mdjax.report.comparison import Comparison
from mdjax.report.figures import MARKS, feature_of
from mdjax.report.story import Expected
from mdjax.report.tree_figures import layout

DIGITS = 7  # significant ones of a number on the page
_SETTINGS = tuple(dict.fromkeys((*CONFIGURATION, "bs", "data", "data_amount")))
_SAME = {"bs": "batch_size", "data": "data_share", "data_amount": "data_share"}
"""Setting → what tells the same, and is shown in its place."""
_FIRST = (("width", "depth"), ("batch_size", "bs", "learning_rate"))
"""What is shown across and up at first, where it varies."""
_MOST_LEVELS = 100
"""Texts that a setting may have and still be an axis."""


def explorer_data(
    table: pd.DataFrame,
    labels: Sequence[str],
    diagnosis: Diagnosis | None,
    sweep: OwnSweep | None,
    expected: Expected,
    details: Mapping[str, Any],
    comparison: Comparison | None,
) -> dict[str, Any]:
    """The page's data, for JSON. Costs a few passes over the columns, and the stages' sentences row by row."""
    columns = [*_settings(table)]
    axes = [column["key"] for column in columns if column["axis"]]
    columns += _features(table)
    if diagnosis is not None:
        columns += _verdict_columns(diagnosis, expected)
    if sweep is not None:
        columns += [
            _number_column(f"sweep:{label}", f"In the sweep: {words}", sweep.points(label), "sweep", "points")
            for label, words in sweep.changes().items()
            if label in sweep.gains
        ]
    if comparison is not None:
        columns += _compared(comparison)
    return {
        "names": [printable(name) for name in labels],
        "columns": columns,
        "axes": axes,
        "first": _first(axes, columns),
        "marks": {name: {"colour": mark.colour, "glyph": mark.glyph} for name, mark in MARKS.items()},
        "changes": dict(CHANGES),
        "causes": [{"name": cause.meaning, "key": f"p:{cause.key}"} for cause in CAUSES],
        "calibration": _calibration(diagnosis),
        "sweep": None if sweep is None else _sweep(sweep, diagnosis),
        "source": expected.source,
        "comparison": None if comparison is None else comparison.title,
        "details": details,
        **_tree_data(diagnosis, table),
    }


def values_of(values: np.ndarray, digits: int = DIGITS) -> list[float | int | None]:
    """Numbers for JSON, to so many significant digits; None for what is not finite."""
    return [_value(value, digits) for value in np.asarray(values, dtype=float).tolist()]


def _value(value: float, digits: int) -> float | int | None:
    if not math.isfinite(value):
        return None
    if value == int(value) and abs(value) < 2**53:
        return int(value)
    return float(f"{value:.{digits}g}")


def _number_column(key: str, title: str, values: np.ndarray, group: str, unit: str = "", **more: Any) -> dict[str, Any]:
    own = {"key": key, "title": printable(title), "unit": unit, "group": group, "kind": "number", "axis": False}
    return {**own, "values": values_of(values), **more}


def _level_column(key: str, title: str, texts: Iterable[str | None], group: str, **more: Any) -> dict[str, Any]:
    texts = [None if text is None else printable(text) for text in texts]
    levels = list(dict.fromkeys(text for text in texts if text is not None))
    index = {level: k for k, level in enumerate(levels)}
    own = {"key": key, "title": printable(title), "unit": "", "group": group, "kind": "level", "axis": False}
    return {**own, "levels": levels, "values": [None if text is None else index[text] for text in texts], **more}


def _settings(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """The settings of a sweep; those that vary are axes."""
    for name in _SETTINGS:
        if name not in table.columns or _SAME.get(name) in table.columns:
            continue
        title = "data (tenths)" if name == "data" else name.replace("_", " ")
        there = table[name].notna().to_numpy()
        if not there.any():
            continue
        if pd.api.types.is_numeric_dtype(table[name]) and not pd.api.types.is_bool_dtype(table[name]):
            numbers = numeric_column(table, name)
            # The number of parameters follows the others.
            axis = name != "num_params" and len(np.unique(numbers[np.isfinite(numbers)])) > 1
            yield _number_column(name, title, numbers, "setting", axis=axis)
        else:
            texts = [str(value) if here else None for value, here in zip(table[name], there, strict=True)]
            axis = 1 < len(set(texts) - {None}) <= _MOST_LEVELS
            yield _level_column(name, title, texts, "setting", axis=axis)


def _first(axes: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> list[str]:
    """The two columns that are shown across and up at first."""
    chosen = [name for names in _FIRST if (name := next((one for one in names if one in axes), None)) is not None]
    chosen += [name for name in axes if name not in chosen]
    chosen += [column["key"] for column in columns if column["group"] == "feature"]
    return list(dict.fromkeys(chosen))[:2]


def _features(table: pd.DataFrame) -> Iterable[dict[str, Any]]:
    for name in dict.fromkeys((*QUANTITIES, *described(table))):
        if name not in table.columns:
            continue
        feature = feature_of(name, table)
        column = _number_column(name, feature.title, numeric_column(table, name), "feature", printable(feature.unit))
        if f"{name}_se" in table.columns and any(errors := values_of(numeric_column(table, f"{name}_se"), 3)):
            column["errors"] = errors
        yield {**column, "log": bool(feature.log_colours), "drawn": bool(feature.drawn)}


def _verdict_columns(diagnosis: Diagnosis, expected: Expected) -> Iterable[dict[str, Any]]:
    frame = diagnosis.frame
    yield _level_column("cause", "Verdict", frame["cause"], "verdict")
    yield _number_column("probability", "Probability", frame["probability"].to_numpy(float), "verdict")
    if expected.kind != "none":
        yield _number_column("expected", "Gain to expect", expected.points, "verdict", "points")
    for k, cause in enumerate(CAUSES):
        title = f"Probability: {cause.meaning}"
        yield _number_column(f"p:{cause.key}", title, diagnosis.causes.probabilities[:, k], "probability")
    yield _level_column("status", "Status", frame["status"], "note")
    yield _level_column("flags", "Caution", [text or None for text in frame["flags"]], "note")


def _compared(comparison: Comparison) -> Iterable[dict[str, Any]]:
    if comparison.causes is not None:
        title = f"Verdict of {comparison.title}"
        yield _level_column("other:cause", title, comparison.causes, "compared", marked=True)
        same = ["same" if same else "another" for same in comparison.agrees]
        told = [text if cause is not None else None for text, cause in zip(same, comparison.causes, strict=True)]
        yield _level_column("other:same", f"Against {comparison.title}", told, "compared")
    for name, values in comparison.differences.items():
        feature = feature_of(name, comparison.table)
        title = f"{feature.title} less that of {comparison.title}"
        yield _number_column(f"other:{name}", title, values, "compared", printable(feature.unit), diverging=True)


def _calibration(diagnosis: Diagnosis | None) -> dict[str, Any] | None:
    if diagnosis is None or diagnosis.calibrated is None or diagnosis.calibration is None:
        return None
    found = diagnosis.calibrated
    spoken = diagnosis.stages.rows(Stage.CALIBRATION)
    why_not = [None if here else str(text) or None for here, text in zip(spoken, found.why_not, strict=True)]
    arrays = {name: getattr(found, name) for name in ("one", "one_se", "best", "best_se")}
    return {
        "text": diagnosis.calibration.to_text(),
        "steps": [NAMES[name] for name in DIRECTIONS],
        **{
            name: [values_of(np.where(spoken, column, np.nan), 4) for column in array.T]
            for name, array in arrays.items()
        },
        "why_not": _level_column("", "", why_not, ""),
    }


def _sweep(sweep: OwnSweep, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """The changes that the sweep varies, and where a verdict disagrees with what they gained."""
    told = {}
    causes = [] if diagnosis is None else diagnosis.causes.names()
    for row, cause in enumerate(causes):
        evidence = sweep.evidence(row, cause)
        if evidence is not None and evidence.disagreement is not None:
            told[row] = evidence.disagreement.to_text()
    words = sweep.changes()
    accuracy = None if sweep.axes is None else values_of(numeric_column(sweep.table, sweep.axes.accuracy))
    axes = [] if sweep.axes is None else [_SAME.get(name, name) for name in sweep.axes.varied]
    return {
        "changes": [{"key": f"sweep:{label}", "text": words[label]} for label in sweep.gains],
        "disagreements": told,
        "accuracy": accuracy,
        "axes": axes,
    }


def _tree_data(diagnosis: Diagnosis | None, table: pd.DataFrame) -> dict[str, Any]:
    if diagnosis is None:
        return {"trees": [], "answers": [], "quantities": {}, "flags": [], "stages": {}}
    trees: list[dict[str, Any]] = []
    answers = [_answers(found, diagnosis, trees) for found in diagnosis.answers.values()]
    stages = {
        int(row): [printable(step.text) for step in diagnosis.verdict(int(row)).stage_evidence]
        for row in np.flatnonzero(~np.isin(diagnosis.stages.stage, (Stage.TREES, Stage.CALIBRATION)))
    }
    flags = [
        {"feature": flag.feature, "text": flag_text(flag), "rows": np.flatnonzero(mask).tolist()}
        for flag, mask in joined_flags(diagnosis.answers).items()
        if mask.any()
    ]
    return {
        "trees": trees,
        "answers": answers,
        "quantities": _quantities(diagnosis, table),
        "flags": flags,
        "stages": stages,
    }


def _answers(found: Answers, diagnosis: Diagnosis, trees: list[dict[str, Any]]) -> dict[str, Any]:
    """One question's answers to all rows; the trees that gave them join the list of trees."""
    spoke = np.full(len(found.label), -1)
    for answers, rows in found.speakers:
        if rows.any():
            spoke[rows] = len(trees)
            trees.append(_tree(answers.tree))
    # Where a calibration gives the verdict, its trees have an answer all the same.
    held_back = diagnosis.stages.before_trees & ~diagnosis.stages.rows(Stage.CALIBRATION)
    silent = held_back | pd.isna(found.label)
    question = named(found.main_tree.question)
    meanings = [None if text is None else question.meaning[text] for text in found.label]
    return {
        "question": question.name,
        "text": question.text,
        "tree": spoke.tolist(),
        "leaf": np.where(silent, -1, found.leaf).tolist(),
        "meaning": _level_column("", "", meanings, ""),
        "probability": values_of(np.where(silent, np.nan, found.probability), 4),
        "status": _level_column("", "", [str(text) for text in answer_statuses(found)], ""),
        "held_back": np.flatnonzero(held_back).tolist(),
        "overruled": np.flatnonzero(diagnosis.stages.rows(Stage.CALIBRATION)).tolist(),
    }


def _tree(tree: MDTree) -> dict[str, Any]:
    spots, question = layout(tree), named(tree.question)
    nodes = []
    for i, split in enumerate(tree.tree_):
        feature, between = feature_of(split.feature), interval(split)
        nodes.append(
            {
                "x": spots["split", i][0],
                "y": spots["split", i][1],
                "feature": split.feature,
                "title": feature.label if feature.unit == "ln" else feature.title,
                "threshold": _value(split.threshold, DIGITS),
                "interval": None if between is None else values_of(np.array(between), 4),
            }
        )
    leaves = [
        {
            "x": spots["leaf", k][0],
            "y": spots["leaf", k][1],
            "label": leaf.label,
            "meaning": question.meaning[leaf.label],
            "counts": dict(zip(map(str, tree.classes_), map(int, tree.leaf_counts_[k]), strict=True)),
            "path": [[i, side] for i, side in leaf.path],
        }
        for k, leaf in enumerate(tree.leaves_)
    ]
    return {"question": tree.question, "single": bool(tree.single), "nodes": nodes, "leaves": leaves}


def _quantities(diagnosis: Diagnosis, table: pd.DataFrame) -> dict[str, Any]:
    """What the trees split on: a column of the table, or what is computed from several."""
    found: dict[str, Any] = {}
    for answers in diagnosis.answers.values():
        for speaker, _ in answers.speakers:
            for name in dict.fromkeys(split.feature for split in speaker.tree.tree_):
                this, feature = quantity(name), feature_of(name, table)
                told = {"title": feature.label, "text": "" if this.reads == (name,) else this.text}
                if name not in table.columns or this.reads != (name,):
                    errors = np.where(speaker.errors[name] > 0, speaker.errors[name], np.nan)
                    told |= {"values": values_of(speaker.values[name]), "errors": values_of(errors, 3)}
                found.setdefault(name, told)
    return found
