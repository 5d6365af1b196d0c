"""Where each configuration of a table stands in a picture: width × batch size, a panel for each share of the data."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION
from mdjax.diagnosis.checks import numeric_column

MAX_SHARES = 3
_ON_AXES = ("width", "num_params", "batch_size", "data_share")  # the number of parameters follows the width
_SLICED = tuple(name for name in CONFIGURATION if name not in _ON_AXES)
"""Settings that may vary beside the axes of a picture; one combination of them is drawn."""


@dataclass(frozen=True)
class PanelGrid:
    """Which rows of a table stand in which cell of which panel; axes are shared by all panels."""

    widths: np.ndarray  # ascending
    batches: np.ndarray  # batch sizes, ascending
    panels: tuple[tuple[str, np.ndarray], ...]  # (title, indices of the table's rows), from least to most data
    column: np.ndarray  # of each row of the table, its index in `widths`
    row: np.ndarray  # and in `batches`
    notes: tuple[str, ...]  # what of the table is not drawn

    def cells(self, values: np.ndarray, panel: int) -> np.ndarray:
        """One panel's cells, [batch sizes, widths], from the values of all rows; NaN where there are none."""
        cells = np.full((len(self.batches), len(self.widths)), np.nan)
        indices = self.panels[panel][1]
        cells[self.row[indices], self.column[indices]] = values[indices]
        return cells

    def drawn(self) -> np.ndarray:
        """The indices of all rows that are drawn."""
        return np.concatenate([indices for _, indices in self.panels])

    def last(self) -> "PanelGrid":
        """The same grid with the panel of most data alone."""
        return PanelGrid(self.widths, self.batches, self.panels[-1:], self.column, self.row, self.notes)


def axes_of(table: pd.DataFrame) -> dict[str, np.ndarray]:
    """The axes that a table has: `width`, `batch` (examples) and `share` (of the data, in percent)."""
    names = {
        "width": (("width", 1),),
        "batch": (("bs", 1), ("batch_size", 1)),
        "share": (("data", 10), ("data_share", 100)),
    }
    found = {}
    for axis, columns in names.items():
        for name, unit in columns:
            if name in table.columns:
                found[axis] = numeric_column(table, name) * unit
                break
    return found


def panel_grid(table: pd.DataFrame) -> PanelGrid | None:
    """How to lay out a table over width × batch size; None where it has fewer than two cells to draw."""
    axes = axes_of(table)
    if not {"width", "batch"} <= set(axes):
        return None
    width, batch = axes["width"], axes["batch"]
    share = axes.get("share", np.full(len(table), 100.0)).round(6)
    usable = np.isfinite(width) & np.isfinite(batch) & np.isfinite(share) & (width > 0) & (batch > 0)
    notes = []
    sliced = [name for name in _SLICED if name in table.columns and table.loc[usable, name].nunique() > 1]
    if sliced:
        settings = table.loc[usable, sliced].astype(str)
        chosen: Any = settings.value_counts(sort=False).idxmax()
        usable[usable] = (settings == list(chosen)).all(axis=1).to_numpy()
        told = ", ".join(f"{name} = {value}" for name, value in zip(sliced, chosen))
        notes.append(f"Drawn: the {usable.sum():,} configurations with {told}, the most frequent of several settings.")
    widths, batches = np.unique(width[usable]), np.unique(batch[usable])
    if len(widths) * len(batches) < 2:
        return None
    shares = np.unique(share[usable])
    if len(shares) > MAX_SHARES:
        kept = shares[[0, (len(shares) - 1) // 2, -1]]
        notes.append(f"{len(kept)} of {len(shares)} data shares are drawn: the smallest, a middle one and the largest.")
        shares = kept
    column, row, doubled = np.searchsorted(widths, width), np.searchsorted(batches, batch), 0
    panels = []
    for value in shares:
        here = np.flatnonzero(usable & (share == value))
        _, first = np.unique(row[here] * len(widths) + column[here], return_index=True)
        panels.append((f"{value:g} % of the data" if "share" in axes else "", here[np.sort(first)]))
        doubled += len(here) - len(first)
    if doubled:
        notes.append(f"{doubled:,} configurations share a cell with an earlier one, which is drawn.")
    return PanelGrid(widths, batches, tuple(panels), column, row, tuple(notes))
