"""The report's picture of checkpoints along their training: features over epochs, each one's cause marked on it."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter

from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.trajectories import Categories, Trajectory, trajectories
from mdjax.escapes import printable
from mdjax.report.figures import MARKS, OVERVIEW, STYLE, feature_of, features

MOST = 8
"""Trajectories that are drawn."""

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")  # Okabe and Ito's
_MOST_FEATURES = 6


@matplotlib.rc_context(STYLE)
def training_figure(table: pd.DataFrame, causes: Categories | None = None) -> Figure | None:
    """Up to six features of a table's first trajectories over epochs; None where it has neither.

    table: one row per configuration.
    causes: of each row, keys of `MARKS`; None to mark none.
    """
    found = trajectories(table)[:MOST]
    there = features(table)
    names = [name for name in (*OVERVIEW, *there) if name in there and np.isfinite(numeric_column(table, name)).any()]
    names = list(dict.fromkeys(names))[:_MOST_FEATURES]
    if not found or not names:
        return None
    across = min(3, len(names))
    figure = Figure(figsize=(max(4.4, 3.1 * across), 2.3 * -(-len(names) // across) + 0.5), layout="constrained")
    panels = figure.subplots(-(-len(names) // across), across, squeeze=False)
    for number, axes in enumerate(panels.flat):
        if number >= len(names):
            axes.set_axis_off()
            continue
        values = numeric_column(table, names[number])
        for one, colour in zip(found, _COLOURS, strict=False):
            axes.plot(one.epochs, values[one.rows], color=colour, linewidth=1.2)
            _mark(axes, one, values, causes)
        feature = feature_of(names[number], table)
        axes.set_title(feature.label)
        positive = values[np.isfinite(values)].min() > 0
        if feature.log_colours and positive:
            axes.set_yscale("log")
            # Its own labels are formulae.
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        if number + across >= len(names):
            axes.set_xlabel("epochs")
    _legend(figure, found, causes)
    return figure


def _mark(axes: Any, one: Trajectory, values: np.ndarray, causes: Categories | None) -> None:
    for epochs, row in zip(one.epochs, one.rows, strict=True):
        mark = None if causes is None else MARKS.get(str(causes[row]))
        if mark is not None:
            axes.plot(
                epochs, values[row], mark.marker, color=mark.colour, markersize=5, markeredgecolor="#333333", mew=0.5
            )


def _legend(figure: Figure, found: Sequence[Trajectory], causes: Categories | None) -> None:
    handles = [
        Line2D([], [], color=colour, label=printable(one.name))
        for one, colour in zip(found, _COLOURS, strict=False)
        if len(found) > 1
    ]
    drawn = [] if causes is None else dict.fromkeys(str(causes[row]) for one in found for row in one.rows)
    handles += [
        Line2D([], [], linestyle="none", marker=MARKS[name].marker, color=MARKS[name].colour, mec="#333333", label=name)
        for name in drawn
        if name in MARKS
    ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
