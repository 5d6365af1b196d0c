"""A measured table and its diagnosis as one HTML page, and as one picture.

The page carries its plots, styles and scripts with it, and is read without the scripts, too; whatever a table names is
escaped.
"""

from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mdjax.diagnosis.answers import has_features
from mdjax.diagnosis.calibrations import Calibration, calibration_of
from mdjax.diagnosis.causes import CAUSES, CLEAR
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.own_sweeps import own_sweep
from mdjax.diagnosis.trees import SHIPPED, Trees, as_trees
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.errors import InputError
from mdjax.escapes import printable
from mdjax.files import place, write_file
from mdjax.report.comparison import Comparison, compare_methods, compare_tables
from mdjax.report.details import details_of
from mdjax.report.explorer import explorer_data
from mdjax.report.figures import MARKS, OVERVIEW, feature_of, features, overview_figure, rendered
from mdjax.report.headline import count, headline, number
from mdjax.report.metric_figures import metric_figures
from mdjax.report.panels import panel_grid
from mdjax.report.scripts import json_text, policy, scripts, styles
from mdjax.report.sections import (
    accuracies_section,
    agreement,
    embedded,
    phases,
    rows_section,
    summary,
    training,
    tree_section,
)
from mdjax.report.story import expected_gains, order_of, story
from mdjax.table import Table

PICTURES = ("png", "svg", "pdf")
_TEMPLATES = Path(__file__).with_name("templates")
_REMEDY = "Choose a file in a folder that you may write to."


def write_report(
    path: str | PathLike[str],
    table: pd.DataFrame | Table,
    *,
    trees: Trees | Calibration = SHIPPED,
    title: str = "Why do these networks underperform?",
    highlight: str | None = None,
    accuracies: pd.DataFrame | None = None,
    source: str | None = None,
    compare: tuple[str, Any] | None = None,
) -> None:
    """Write one self-contained HTML page on a table of configurations: what was measured, and the diagnosis.

        path: of the page.
        table: one row per configuration, as `mdjax measure` or the published dataset has; what it lacks is left out. Of
            a whole measured table spectra, surfaces, curves and similarities are drawn, too.
        trees: what `mdjax.diagnose` takes.
        title: the page's heading.
        highlight: a configuration ("row 3" where the table names none) to explain in full, its path drawn in the trees.
        accuracies: percentages, one row per question; columns named like "rows" are counts.
        source: where readers find the whole table.
        compare: a name, and what goes by it: another table (a frame, or a whole measured one), or other trees (what
            `mdjax.diagnose` takes) for the same table.

    The page is read without scripts; with them, which it carries, readers choose axes, sort, filter, select, look at
    one configuration and save what they selected. Nothing is fetched. Costs about a quarter of a second per feature,
    and some milliseconds per configuration. The same input gives the same bytes. Raises InputError for a table that is
    empty or has no feature to draw or diagnose, an unknown `highlight`, tables that have nothing to compare, and a path
    that cannot be written.
    """
    path = place(path)
    measured = table if isinstance(table, Table) else None
    frame = table.configurations if isinstance(table, Table) else table
    _check(frame)
    calibration = calibration_of(trees)
    trees = fitted_trees(calibration or trees)
    _check_told(frame, trees)
    labels = names(frame)
    row = _row_index(labels, highlight)
    frame = frame.reset_index(drop=True)
    diagnosis = diagnosis_of(frame, calibration or trees)
    reading = own_sweep(frame) if diagnosis is None else diagnosis.own_sweep
    known = frame if reading.sweep is None else reading.sweep.table  # with the labels of its own sweep
    expected, told = expected_gains(diagnosis, reading.sweep), story(frame, labels, diagnosis, reading.sweep)
    order = order_of(expected) if len(expected.points) else range(len(frame))
    compared = None if compare is None else _comparison(frame, diagnosis, calibration or trees, *compare)
    subject = _subject(labels, row, order, measured)
    details = details_of(
        None if measured is None else measured.models,
        None if measured is None else measured.pairs,
        labels,
        dict.fromkeys([*([] if row is None else [row]), *map(int, order)]),
    )
    context = {
        "title": title,
        "source": source,
        "headline": headline(frame, diagnosis),
        "calibrated": calibration is not None,
        "story": told,
        "summary": None if diagnosis is None else summary(diagnosis),
        "phases": phases(known, diagnosis),
        "trees": [tree_section(tree, diagnosis, row) for tree in trees.values()],
        "highlight": None if row is None else labels[row],
        "verdict": None if row is None or diagnosis is None else diagnosis.verdict(row),
        "rows": rows_section(frame, labels, diagnosis, row, order),
        "accuracies": None if accuracies is None else accuracies_section(accuracies),
        "sweep": agreement(reading, diagnosis),
        "training": training(frame, diagnosis),
        "measured": _measured(measured, subject, labels),
        "compared": None if compared is None else _compared_section(compared),
        "present": set(features(frame)),
        "marks": MARKS,
        "clear": CLEAR,
        "causes": [cause.meaning for cause in CAUSES],
        "policy": policy(),
        "scripts": scripts(),
        "styles": styles(),
        "data": json_text(
            explorer_data(frame, labels, diagnosis, reading.sweep, expected, details, compared)
            | {"top": [] if told is None else [entry["row"] for entry in told.top], "title": printable(title)}
        ),
    }
    write_file(path, render("report.html", context), _REMEDY)


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page of a template; whatever is not markup by our own hand is escaped, and made printable."""
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
    return environment.get_template(template).render(context)


def _comparison(
    frame: pd.DataFrame,
    diagnosis: Diagnosis | None,
    trees: Trees | Calibration,
    title: str,
    other: Any,
) -> Comparison:
    """What the table is held against: another one by the same trees, or other trees."""
    if isinstance(other, Table):
        other = other.configurations
    if isinstance(other, pd.DataFrame):
        _check(other)
        other = other.reset_index(drop=True)
        return compare_tables(frame, diagnosis, other, diagnosis_of(other, trees), title)
    found = diagnosis_of(frame, other)
    if diagnosis is None or found is None:
        raise InputError(
            f"The verdicts of {title} cannot be compared: the table has none of the features that the trees read. "
            "Measure the losses and the Hessian first."
        )
    return compare_methods(frame, diagnosis, found, title)


def _compared_section(found: Comparison) -> dict[str, Any]:
    cross = found.cross
    titles = [] if cross is None else ["Verdict here", *map(str, cross.columns)]
    rows = (
        []
        if cross is None
        else [[str(name), *map(str, map(int, counts))] for name, counts in zip(cross.index, cross.to_numpy())]
    )
    return {"title": found.title, "lines": found.lines, "titles": titles, "rows": rows}


def _subject(labels: Sequence[str], row: int | None, order: Iterable[int], measured: Table | None) -> str | None:
    """The configuration whose models and pairs are drawn: the one to explain, else that with most to gain."""
    if measured is None or "configuration" not in measured.models:
        return None
    there = set(measured.models["configuration"].astype(str))
    candidates = ([] if row is None else [row]) + list(map(int, order))
    return next((labels[k] for k in candidates if labels[k] in there), None)


def _measured(measured: Table | None, subject: str | None, labels: Sequence[str]) -> dict[str, Any]:
    """The pictures of one configuration's models and pairs; of all whose curves, spectra or surfaces the table has."""
    if measured is None or subject is None:
        return {"figures": [], "subject": None, "others": 0}
    found = [
        embedded(figure, title, f"{title}: {printable(subject)}.")
        for title, figure in metric_figures(measured.models, measured.pairs, subject)
    ]
    return {"figures": found, "subject": subject, "others": len(labels) - 1}


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
    diagnosis = diagnosis_of(table, trees)
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


def diagnosis_of(table: pd.DataFrame, trees: Trees | Calibration) -> Diagnosis | None:
    """The diagnosis of a table; None where it has no feature that the trees read, and there is no calibration."""
    calibration = calibration_of(trees)
    if calibration is not None:
        return Diagnosis.of(table, calibration)
    fitted = fitted_trees(trees)
    return Diagnosis.of(table, fitted) if has_features(table, fitted) else None


def _row_index(labels: list[str], highlight: str | None) -> int | None:
    """Which row to explain in full; the only one of a table of one."""
    if highlight is None:
        return 0 if len(labels) == 1 else None
    if highlight not in labels:
        some = ", ".join(labels[:5]) + (", …" if len(labels) > 5 else "")
        raise InputError(f"There is no configuration {highlight!r} in the table. Choose one of {some}.")
    return labels.index(highlight)
