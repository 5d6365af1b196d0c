"""Checkpoints along a training: rows that differ in how far they were trained alone, and where their verdict settles.

A trajectory is three or more rows of a table that share everything known of their networks and training but `epochs`,
each with another number of them: checkpoints of one run, or runs of several lengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION

EPOCHS = "epochs"
Categories = Sequence[Any] | np.ndarray
"""One of each row of a table."""

_LEAST = 3
_TOLD = 8  # trajectories that are told in lines


@dataclass(frozen=True)
class Trajectory:
    """Rows of a table in the order of their training.

    rows: positions in the table.
    epochs: of each.
    shared: what they have in common that tells them from other rows of the table.
    """

    rows: np.ndarray
    epochs: np.ndarray
    shared: dict[str, Any]

    @property
    def name(self) -> str:
        """What they have in common, as text."""
        return ", ".join(f"{name} {value}" for name, value in self.shared.items()) or "the networks"

    def settled(self, verdicts: Categories) -> int:
        """The position in `rows` from which on the verdict is the last one.

        verdicts: of every row of the table.
        """
        own = [verdicts[row] for row in self.rows]
        changes = [number for number in range(1, len(own)) if own[number - 1] != own[-1]]
        return changes[-1] if changes else 0

    def to_text(self, causes: Categories) -> str:
        """One sentence: the last verdict, and since when it holds."""
        first = self.settled(causes)
        span = f"{self.epochs[0]:g} to {self.epochs[-1]:g} epochs, {len(self.rows)} checkpoints"
        last = causes[self.rows[-1]]
        if first == 0:
            return f"Over training ({self.name}; {span}): '{last}' at every checkpoint."
        earlier = list(dict.fromkeys(str(causes[row]) for row in self.rows[:first]))
        told = ", ".join(f"'{cause}'" for cause in earlier)
        return (
            f"Over training ({self.name}; {span}): '{last}' from {self.epochs[first]:g} epochs on; before that {told}."
        )


def trajectories(table: pd.DataFrame) -> list[Trajectory]:
    """The trajectories of a table, in the order of their first rows. Costs a few passes over the columns.

    table: one row per configuration. Rows whose epochs are not known, and those of which several agree in everything,
        are in none.
    """
    if EPOCHS not in table.columns:
        return []
    epochs = pd.to_numeric(table[EPOCHS], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    names = [name for name in CONFIGURATION if name in table.columns and name != EPOCHS]
    known = np.flatnonzero(np.isfinite(epochs))
    # Texts, so that what is not known agrees with itself.
    keys = table[names].astype(object).where(table[names].notna(), "").map(str) if names else None
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in known:
        key = () if keys is None else tuple(keys.iloc[row])
        groups.setdefault(key, []).append(int(row))
    varying = [k for k in range(len(names)) if len({key[k] for key in groups}) > 1]
    found = []
    for key, rows in groups.items():
        order = np.array(rows)[np.argsort(epochs[rows], kind="stable")]
        if len(order) >= _LEAST and len(np.unique(epochs[order])) == len(order):
            found.append(Trajectory(order, epochs[order], {names[k]: key[k] for k in varying}))
    return found


def along_training(table: pd.DataFrame) -> np.ndarray:
    """Positions of the table's rows in an order in which those of a trajectory follow each other, by epochs."""
    place = np.arange(len(table))
    order = place.astype(float)
    for found in trajectories(table):
        # Beside the first of them, in the order of training.
        order[found.rows] = found.rows.min() + np.arange(len(found.rows)) / (len(found.rows) + 1)
    return np.argsort(order, kind="stable")


def training_lines(table: pd.DataFrame, causes: Categories) -> Iterator[str]:
    """What is said of each trajectory: where the last verdict settles; of many the first few.

    table: one row per configuration.
    causes: the verdict on each.
    """
    found = trajectories(table)
    for trajectory in found[:_TOLD]:
        yield trajectory.to_text(causes)
    if len(found) > _TOLD:
        yield f"And {len(found) - _TOLD} more trajectories over training."
