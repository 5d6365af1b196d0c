"""A measured table and its diagnosis as one HTML page, and as one picture.

The page carries its plots and its style with it and runs no scripts; whatever a table names is escaped.
"""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

from mdjax.diagnosis.answers import has_features, joined_flags
from mdjax.diagnosis.calibrations import Calibration, calibration_of
from mdjax.diagnosis.causes import CAUSES, CHANGES, CLEAR, OTHER_CAUSES
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import Reading, own_sweep
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.sentences import flag_text
from mdjax.diagnosis.trajectories import training_lines
from mdjax.diagnosis.trees import SHIPPED, Trees, as_trees
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.errors import InputError
from mdjax.escapes import printable
from mdjax.files import place, write_file
from mdjax.report.figures import (
    MARKS,
    OVERVIEW,
    category_figure,
    feature_figure,
    feature_of,
    features,
    overview_figure,
    rendered,
)
from mdjax.report.headline import MAX_LINES, MISSING, count, ends, headline, number, span
from mdjax.report.panels import PanelGrid, axes_of, panel_grid
from mdjax.report.training import training_figure
from mdjax.report.tree_figures import tree_figure
from mdjax.statuses import StatusCode

MAX_ROWS = 50  # of a table on the page
PICTURES = ("png", "svg", "pdf")
_TEMPLATES = Path(__file__).with_name("templates")
_LISTED = ("test_error", "train_error", "hessian_t", "mode_connectivity_peak")
_REMEDY = "Choose a file in a folder that you may write to."


def write_report(
    path: str | PathLike[str],
    table: pd.DataFrame,
    *,
    trees: Trees | Calibration = SHIPPED,
    title: str = "Why do these networks underperform?",
    highlight: str | None = None,
    accuracies: pd.DataFrame | None = None,
    source: str | None = None,
) -> None:
    """Write one self-contained HTML page on a table of configurations: what was measured, and the diagnosis.

        path: of the page.
        table: one row per configuration, as `mdjax measure` or the published dataset has; what it lacks is left out.
        trees: what `mdjax.diagnose` takes.
        title: the page's heading.
        highlight: a configuration ("row 3" where the table names none) to explain in full, its path drawn in the trees.
        accuracies: percentages, one row per question; columns named like "rows" are counts.
        source: where readers find the whole table.

    Costs about a quarter of a second per feature. The same input gives the same bytes. Raises InputError for a table
    that is empty or has no feature to draw or diagnose, an unknown `highlight` and a path that cannot be written.
    """
    path = place(path)
    _check(table)
    calibration = calibration_of(trees)
    trees = fitted_trees(calibration or trees)
    _check_told(table, trees)
    labels = names(table)
    row = _row_index(labels, highlight)
    table = table.reset_index(drop=True)
    diagnosis = _diagnosis(table, trees, calibration)
    reading = own_sweep(table) if diagnosis is None else diagnosis.own_sweep
    known = table if reading.sweep is None else reading.sweep.table  # with the labels of its own sweep
    context = {
        "title": title,
        "source": source,
        "headline": headline(table, diagnosis),
        "summary": None if diagnosis is None else _summary(diagnosis),
        "phases": _phases(known, diagnosis),
        "trees": [_tree(tree, diagnosis, row) for tree in trees.values()],
        "calibration": None if calibration is None else calibration.to_text().split("\n"),
        "highlight": None if row is None else labels[row],
        "verdict": None if row is None or diagnosis is None else diagnosis.verdict(row),
        "rows": _rows(table, labels, diagnosis, row),
        "accuracies": None if accuracies is None else _accuracies(accuracies),
        "sweep": _own_sweep(reading, diagnosis),
        "training": _training(table, diagnosis),
        "present": set(features(table)),
        "marks": MARKS,
        "clear": CLEAR,
        "causes": [cause.meaning for cause in CAUSES],
    }
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )
    environment.filters.update(number=number, count=count, label=lambda name: feature_of(name).label)
    page = environment.get_template("report.html").render(context)
    write_file(path, page, _REMEDY)


def _shown(value: Any) -> Any:
    """What stands on the page for a value: a browser obeys marks that turn the direction of writing, too."""
    return value if hasattr(value, "__html__") or not isinstance(value, str) else printable(value, lines=True)


def phase_plot(
    table: pd.DataFrame,
    path: str | PathLike[str],
    *,
    trees: Trees | Calibration = SHIPPED,
    columns: Sequence[str] | None = None,
) -> None:
    """Save one picture (.png, .svg or .pdf): features over width × batch size at full data, causes marked on the cells.

        table: one row per configuration, with widths and batch sizes.
        path: of the picture.
        trees: what `mdjax.diagnose` takes.
        columns: up to six features (default: those of `OVERVIEW` that the table has).

    Raises InputError for an empty table, one without a grid of widths and batch sizes, columns it lacks and a path
    that cannot be written.
    """
    _check(table)
    path = place(path)
    kind = path.suffix[1:].lower()
    if kind not in PICTURES:
        raise InputError(f"Cannot draw {path}: the ending must be one of .{', .'.join(PICTURES)}.")
    asked = OVERVIEW if columns is None else columns
    found = [name for name in asked if name in table.columns]
    if not found or (columns is not None and len(found) < len(columns)):
        absent = ", ".join(name for name in asked if name not in found)
        raise InputError(f"The table has no column {absent}; it has {', '.join(map(str, table.columns))}.")
    grid = panel_grid(table)
    if grid is None:
        raise InputError(
            "The table has no grid to draw: it needs columns width and bs (or batch_size) with two or more different "
            "settings. Use write_report, which leaves out what is missing."
        )
    calibration = calibration_of(trees)
    diagnosis = _diagnosis(table, fitted_trees(calibration or trees), calibration)
    causes = None if diagnosis is None else diagnosis.causes.names()
    write_file(path, rendered(overview_figure(table, found, grid, causes), kind), _REMEDY)


def names(table: pd.DataFrame) -> list[str]:
    """What each row is called: its configuration, or "row N" counted from 1 where it has none."""
    given = table["configuration"].tolist() if "configuration" in table.columns else [None] * len(table)
    return [f"row {k}" if pd.isna(name) else str(name) for k, name in enumerate(given, 1)]


def _check(table: pd.DataFrame) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"The table must be a pandas DataFrame, got {type(table).__name__}. Load it first.")
    if not len(table):
        raise InputError("The table has no rows, so there is nothing to report. Measure one or more models first.")


def _check_told(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> None:
    if not features(table) and not has_features(table, trees):
        raise InputError(
            f"The table has no feature to report on; it has {', '.join(map(str, table.columns))}. Measure some first, "
            "for instance with --metrics losses,hessian."
        )


def fitted_trees(trees: Trees | Calibration) -> dict[str, MDTree]:
    """The trees as they are given, or those of a calibration, which may have none."""
    calibration = calibration_of(trees)
    if calibration is not None:
        return dict(calibration.trees)
    return as_trees(trees)  # pyright: ignore[reportArgumentType]


def _diagnosis(table: pd.DataFrame, trees: Mapping[str, MDTree], calibration: Calibration | None) -> Diagnosis | None:
    """The diagnosis of a table; None where it has no feature that the trees read, and there is no calibration."""
    if calibration is not None:
        return Diagnosis.of(table, calibration)
    return Diagnosis.of(table, trees) if has_features(table, trees) else None


def _row_index(labels: list[str], highlight: str | None) -> int | None:
    """Which row to explain in full; the only one of a table of one."""
    if highlight is None:
        return 0 if len(labels) == 1 else None
    if highlight not in labels:
        some = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
        raise InputError(f"There is no configuration {highlight!r} in the table. Choose one of {some}.")
    return labels.index(highlight)


def _summary(diagnosis: Diagnosis) -> dict[str, Any]:
    """How many configurations have each cause, and the reasons for caution that most of them share."""
    verdicts = diagnosis.frame
    counts = verdicts["cause"].value_counts()
    causes = [
        {
            "name": name,
            "count": int(counts.get(name, 0)),
            "percent": 100 * int(counts.get(name, 0)) / len(verdicts),
            "change": change,
        }
        for name, change in CHANGES.items()
        if name not in OTHER_CAUSES or counts.get(name, 0)
    ]
    once = [(text, len(verdicts)) for text in verdicts.attrs["cautions"]]
    flags = {flag: mask for flag, mask in joined_flags(diagnosis.answers).items() if mask.any()}
    # The most frequent first; of equals the one that is met first.
    often = sorted(flags, key=lambda flag: (-flags[flag].sum(), flags[flag].argmax()))
    cautions = [(flag_text(flag), int(flags[flag].sum())) for flag in often[:MAX_LINES]]
    return {"causes": causes, "cautions": [*once, *cautions], "total": len(verdicts)}


def _own_sweep(reading: Reading, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """How often the answers agree with what the table's own sweep shows, and what is to be said of that."""
    notes = [] if reading.problem is None else [reading.problem]
    if reading.sweep is None or diagnosis is None:
        return {"agreement": None, "notes": notes}
    found = diagnosis.agreement(reading.sweep)
    notes += diagnosis.agreement_notes()
    shown = pd.DataFrame(
        {
            "Question": [named(name).text for name in found["question"]],
            "Rows": found["rows"],
            "Right (%)": 100 * found["right"] / found["rows"],
            "Balanced accuracy (%)": found["balanced_accuracy"],
            "Majority class": [
                named(name).meaning[label] for name, label in zip(found["question"], found["majority"], strict=True)
            ],
            "Right (%), always that": 100 * found["majority_right"] / found["rows"],
            "Rows without an answer": found["unanswered"],
        }
    )
    return {"agreement": _accuracies(shown) if len(shown) else None, "notes": notes}


def _training(table: pd.DataFrame, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """What becomes of checkpoints along their training: lines, and a picture; nothing where the table has none."""
    causes = None if diagnosis is None else diagnosis.causes.names()
    figure = training_figure(table, causes)
    lines = [] if causes is None else list(training_lines(table, causes))
    alt = "Features over epochs, a line for each training."
    return {"lines": lines, "figures": [] if figure is None else [_embedded(figure, "Over training", alt)]}


def _phases(table: pd.DataFrame, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """The pictures over width × batch size; none where the table has no such grid."""
    grid = panel_grid(table)
    if grid is None:
        return {"figures": [], "notes": ()}
    where = _where(grid)
    causes = None if diagnosis is None else diagnosis.causes.names()
    figures = []
    if causes is not None:
        drawn = Counter(causes[grid.drawn()])
        told = ", ".join(f"{name}: {num}" for name, num in drawn.most_common())
        figures.append(_embedded(category_figure({"": causes}, grid), "Diagnosed cause", f"Cause {where}. {told}."))
    labelled = {
        question.text: np.array([_label(question.name, value) for value in table[question.label]], dtype=object)
        for question in QUESTIONS.values()
        if question.label in table.columns and table[question.label].notna().any()
    }
    if labelled:
        figure = category_figure(labelled, grid)
        figures.append(_embedded(figure, "Known labels: what the sweep itself shows", f"Labels {where}."))
    for name, feature in features(table).items():
        if (found := ends(numeric_column(table, name)[grid.drawn()])) is None:
            continue
        alt = f"{feature.label} {where}, from {span(found)}."
        figures.append(_embedded(feature_figure(table, name, grid, causes), feature.label, alt))
    return {"figures": figures, "notes": grid.notes}


def _label(question: str, value: Any) -> str | None:
    """A published label as the pictures name it."""
    if value == "batch":
        return "temperature"
    return named(question).meaning.get(value, "optimal" if value == "optimal" else None)


def _where(grid: PanelGrid) -> str:
    width, batch = (f"{number(values[0])} to {number(values[-1])}" for values in (grid.widths, grid.batches))
    shares = ", ".join(title for title, _ in grid.panels if title)
    return f"over width ({width}) and batch size ({batch})" + (f", at {shares}" if shares else "")


def _tree(tree: MDTree, diagnosis: Diagnosis | None, row: int | None) -> dict[str, Any]:
    """A tree's picture, its text, and what it answers for the table; the path of one row is drawn in colour."""
    question = named(tree.question)
    leaf, told = None, None
    if diagnosis is not None:
        answers = diagnosis.answers[tree.question]
        counts = Counter(answers.label)
        found = [f"{question.meaning[label]}: {counts[label]:,}" for label in question.classes]
        told = "; ".join([*found, *([f"not asked or no answer: {counts[None]:,}"] if counts[None] else [])])
        tree = answers.main_tree if row is None else answers.speaker(row).tree
        if row is not None and answers.label[row] is not None and not diagnosis.stages.before_trees[row]:
            leaf = int(answers.leaf[row])
    alt = f"Decision tree with {count(len(tree.leaves_), 'leaf', 'leaves')}; the same as text is below."
    if leaf is not None:
        steps = ", ".join(
            f"{tree.tree_[i].feature} {'≤' if side else '>'} {number(tree.tree_[i].threshold)}"
            for i, side in tree.leaves_[leaf].path
        )
        alt += f" Path drawn in colour: {steps}, hence {question.meaning[tree.leaves_[leaf].label]}."
    return {
        **_embedded(tree_figure(tree, leaf), question.text, alt),
        "text": tree.export_text(),
        "answers": told,
        "rows": int(tree.leaf_counts_.sum()),
        "preset": tree.preset_,
        "data": tree.provenance_.get("data"),
    }


def _embedded(figure: Figure, caption: str, alt: str) -> dict[str, Any]:
    """A picture for the page: its bytes in its address, its width in CSS pixels."""
    image = base64.b64encode(rendered(figure)).decode("ascii")
    width = round(figure.get_figwidth() * 100)
    return {"src": f"data:image/svg+xml;base64,{image}", "width": width, "caption": caption, "alt": alt}


def _rows(
    table: pd.DataFrame, labels: list[str], diagnosis: Diagnosis | None, highlighted: int | None
) -> dict[str, Any]:
    """The first rows of the table with their verdicts, as text."""
    columns: list[tuple[str, list[str]]] = []
    head = table.iloc[:MAX_ROWS]
    for axis, title in (("width", "Width"), ("batch", "Batch size"), ("share", "Data (%)")):
        if axis in (axes := axes_of(head)):
            columns.append((title, [number(value) for value in axes[axis]]))
    for name in _LISTED:
        if name in table.columns:
            columns.append((feature_of(name, table).label, [number(value, 3) for value in numeric_column(head, name)]))
    told = None if diagnosis is None else diagnosis.frame
    flags = {} if diagnosis is None else joined_flags(diagnosis.answers)
    # A caution that every row shares is told once, in the summary.
    shown = {flag: mask for flag, mask in flags.items() if len(table) == 1 or not mask.all()}
    rows = []
    for k in range(len(head)):
        notes = ""
        if told is not None:
            status = [] if told["status_code"].iloc[k] == StatusCode.OK else [told["status"].iloc[k]]
            notes = "; ".join(status + [flag_text(flag) for flag, mask in shown.items() if mask[k]])
        rows.append(
            {
                "name": labels[k],
                "cells": [cells[k] for _, cells in columns],
                "cause": None if told is None else told["cause"].iloc[k],
                "probability": None if told is None else told["probability"].iloc[k],
                "notes": notes,
                "highlighted": k == highlighted,
            }
        )
    return {"titles": [title for title, _ in columns], "rows": rows, "total": len(table), "shown": len(head)}


def _accuracies(frame: pd.DataFrame) -> dict[str, Any]:
    """Any small frame as text: percentages with one decimal, columns named like "rows" as counts."""
    frame = frame if isinstance(frame.index, pd.RangeIndex) and frame.index.name is None else frame.reset_index()

    def cell(name: str, value: Any) -> str:
        if isinstance(value, str):
            return value
        if value is None or value is pd.NA or value != value:
            return MISSING
        return f"{value:,.0f}" if "rows" in name.lower() else f"{value:.1f}"

    titles = [str(name).replace("_", " ") for name in frame.columns]
    cells = [[cell(name, value) for name, value in zip(titles, row)] for row in frame.itertuples(index=False)]
    return {"titles": titles, "rows": cells}
