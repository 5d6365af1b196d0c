"""The parts of the page that need no scripts: summaries, pictures and short tables, as values for the template."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mdjax.diagnosis.answers import joined_flags
from mdjax.diagnosis.causes import CHANGES, OTHER_CAUSES
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import Reading
from mdjax.diagnosis.questions import QUESTIONS, named
from mdjax.diagnosis.sentences import flag_text
from mdjax.diagnosis.trajectories import training_lines
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.report.figures import category_figure, feature_figure, feature_of, features, rendered
from mdjax.report.headline import MAX_LINES, MISSING, count, ends, number, span
from mdjax.report.panels import PanelGrid, axes_of, panel_grid
from mdjax.report.training import training_figure
from mdjax.report.tree_figures import tree_figure
from mdjax.statuses import StatusCode

_PLAIN = " ,;:=/.()*!$?@+-_~"
"""Signs that stand for themselves in an address of data, and in an attribute."""

MAX_ROWS = 50  # of a table on the page
_LISTED = ("test_error", "train_error", "hessian_t", "mode_connectivity_peak")


def summary(diagnosis: Diagnosis) -> dict[str, Any]:
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


def agreement(reading: Reading, diagnosis: Diagnosis | None) -> dict[str, Any]:
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
    return {"agreement": accuracies_section(shown) if len(shown) else None, "notes": notes}


def training(table: pd.DataFrame, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """What becomes of checkpoints along their training: lines, and a picture; nothing where the table has none."""
    causes = None if diagnosis is None else diagnosis.causes.names()
    figure = training_figure(table, causes)
    lines = [] if causes is None else list(training_lines(table, causes))
    alt = "Features over epochs, a line for each training."
    return {"lines": lines, "figures": [] if figure is None else [embedded(figure, "Over training", alt)]}


def phases(table: pd.DataFrame, diagnosis: Diagnosis | None) -> dict[str, Any]:
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
        figures.append(embedded(category_figure({"": causes}, grid), "Diagnosed cause", f"Cause {where}. {told}."))
    labelled = {
        question.text: np.array([_label(question.name, value) for value in table[question.label]], dtype=object)
        for question in QUESTIONS.values()
        if question.label in table.columns and table[question.label].notna().any()
    }
    if labelled:
        figure = category_figure(labelled, grid)
        figures.append(embedded(figure, "Known labels: what the sweep itself shows", f"Labels {where}."))
    for name, feature in features(table).items():
        if (found := ends(numeric_column(table, name)[grid.drawn()])) is None:
            continue
        alt = f"{feature.label} {where}, from {span(found)}."
        figures.append(embedded(feature_figure(table, name, grid, causes), feature.label, alt))
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


def tree_section(tree: MDTree, diagnosis: Diagnosis | None, row: int | None) -> dict[str, Any]:
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
        **embedded(tree_figure(tree, leaf), question.text, alt),
        "text": tree.export_text(),
        "answers": told,
        "rows": int(tree.leaf_counts_.sum()),
        "preset": tree.preset_,
        "data": tree.provenance_.get("data"),
    }


def embedded(figure: Figure, caption: str, alt: str) -> dict[str, Any]:
    """A picture for the page: its text in its address, its width in CSS pixels."""
    width = round(figure.get_figwidth() * 100)
    return {"src": _address(rendered(figure).decode()), "width": width, "caption": caption, "alt": alt}


def _address(svg: str) -> str:
    """An SVG file as an address, which takes a fifth less than in base64."""
    return "data:image/svg+xml," + quote(" ".join(svg.split()), safe=_PLAIN)


def rows_section(
    table: pd.DataFrame,
    labels: Sequence[str],
    diagnosis: Diagnosis | None,
    highlighted: int | None,
    order: Iterable[int],
) -> dict[str, Any]:
    """Rows with their verdicts, as text: all as they stand in the table, or of many those first in `order`."""
    columns: list[tuple[str, list[str]]] = []
    shown_rows = list(range(len(table))) if len(table) <= MAX_ROWS else [int(row) for row in order][:MAX_ROWS]
    head = table.iloc[shown_rows]
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
    for place, k in enumerate(shown_rows):
        notes = ""
        if told is not None:
            status = [] if told["status_code"].iloc[k] == StatusCode.OK else [told["status"].iloc[k]]
            notes = "; ".join(status + [flag_text(flag) for flag, mask in shown.items() if mask[k]])
        rows.append(
            {
                "name": labels[k],
                "cells": [cells[place] for _, cells in columns],
                "cause": None if told is None else told["cause"].iloc[k],
                "probability": None if told is None else told["probability"].iloc[k],
                "notes": notes,
                "highlighted": k == highlighted,
            }
        )
    return {"titles": [title for title, _ in columns], "rows": rows, "total": len(table), "shown": len(head)}


def accuracies_section(frame: pd.DataFrame) -> dict[str, Any]:
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
