"""From a sweep's test accuracies to each configuration's room for improvement, failure labels and gains of a step.

A sweep trains one model per batch size, width and data amount. A configuration's *room for improvement* (RFI)
along one axis is the best test accuracy it could still reach by moving along that axis alone, minus its own,
in points of test accuracy. The labels compare those rooms (Zhou et al., ICML 2024, arXiv 2406.16988).

The published labels name the *temperature*, which falls as the batch size grows: `small` means that the
temperature is too low (smaller batches would help), `large` that it is too high (larger batches would help).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mdjax.errors import InputError

OPTIMAL = "optimal"
RFI_COLUMNS = ("rfi_inc_temp", "rfi_dec_temp", "rfi_width", "rfi_data")
LABEL_COLUMNS = ("bs_failure", "width_vs_batch", "data_vs_batch")


STEPS = ("one", "random", "best")


@dataclass(frozen=True)
class Axes:
    """Which columns of a sweep play the three parts, and which must agree for two rows to be compared.

    `batch` names what sets the training temperature and `hotter` the end at which it is high: "smaller" values (batch
    sizes) or "larger" ones (learning rate, weight decay). `width` names the model's size (width, depth, parameters),
    `data` the amount of data; None for a part that the sweep does not vary.
    """

    batch: str | None = "bs"
    width: str | None = "width"
    data: str | None = "data"
    accuracy: str = "test_acc"
    within: tuple[str, ...] = ()
    hotter: str = "smaller"

    def __post_init__(self) -> None:
        within = (self.within,) if isinstance(self.within, str) else tuple(self.within)
        object.__setattr__(self, "within", tuple(name for name in within if name not in self.varied))
        if self.hotter not in ("smaller", "larger"):
            raise InputError(
                f"hotter must be 'smaller' or 'larger', got {self.hotter!r}: smaller batches train hotter, and so do "
                "larger learning rates."
            )
        if not self.varied or len(set(self.varied)) < len(self.varied):
            raise InputError(
                f"The axes must be different columns, got batch={self.batch!r}, width={self.width!r}, "
                f"data={self.data!r}. Name each once; None for what the sweep does not vary."
            )

    @property
    def varied(self) -> tuple[str, ...]:
        """The columns of the axes that there are."""
        return tuple(name for name in (self.batch, self.width, self.data) if name is not None)

    @property
    def directions(self) -> dict[str, tuple[str | None, bool]]:
        """The published class that asks for it -> (the column to move along, whether to larger values)."""
        larger = self.hotter == "larger"
        return {
            "small": (self.batch, larger),
            "large": (self.batch, not larger),
            "width": (self.width, True),
            "data": (self.data, True),
        }


def room_for_improvement(
    table: pd.DataFrame,
    *,
    batch: str | None = "bs",
    width: str | None = "width",
    data: str | None = "data",
    accuracy: str = "test_acc",
    within: Sequence[str] = (),
    hotter: str = "smaller",
) -> pd.DataFrame:
    """The room for improvement of each row along each axis, in the units of `accuracy`; 0 where none is left.

        table: the sweep, one row per configuration.
        batch: the column that sets the training temperature; None where the sweep does not vary it.
        width: the column of the model's size; None likewise.
        data: the column of the amount of data; None likewise.
        accuracy: the column of the test accuracy, in points.
        within: columns (label noise, architecture) in which rows must agree to be compared.
        hotter: the end of `batch` at which the temperature is high, "smaller" or "larger" values.

    Costs one sort per axis. Grids may have holes: only rows that exist are compared. A
    row whose accuracy, axes or `within` columns are missing gets NaN throughout and does not count for other rows;
    an axis of None is NaN throughout.

    Returns the columns `rfi_inc_temp` (hotter: smaller batches), `rfi_dec_temp` (colder: larger batches), `rfi_width`
    (larger widths) and `rfi_data` (more data), with the index of `table`. Raises InputError for missing or
    non-numeric columns and for two rows of the same configuration.
    """
    axes = Axes(batch, width, data, accuracy, tuple(within) if not isinstance(within, str) else (within,), hotter)
    keys = (*axes.varied, *axes.within)
    _check_columns(table, axes)
    acc = table[accuracy].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(acc) & ~table[[*keys]].isna().to_numpy().any(axis=1)
    grid = table.loc[usable, [*keys]].reset_index(drop=True)
    _check_distinct(grid, keys)

    rooms = pd.DataFrame(np.nan, index=table.index, columns=list(RFI_COLUMNS))
    if not len(grid):
        return rooms
    own = acc[usable]
    for column, (axis, larger) in zip(RFI_COLUMNS, axes.directions.values()):
        if axis is None:
            continue
        held = [name for name in keys if name != axis]
        # Walked from the far end of the axis, the running maximum is the best that a row could reach.
        order = grid[axis].sort_values(ascending=not larger, kind="stable").index
        walked = pd.Series(own, index=grid.index).loc[order]
        best = (walked.groupby([grid.loc[order, name] for name in held], sort=False) if held else walked).cummax()
        rooms.loc[usable, column] = best.sort_index().to_numpy() - own
    return rooms


def failure_labels(
    table: pd.DataFrame,
    *,
    batch: str | None = "bs",
    width: str | None = "width",
    data: str | None = "data",
    accuracy: str = "test_acc",
    within: Sequence[str] = (),
    hotter: str = "smaller",
) -> pd.DataFrame:
    """A copy of `table` with the rooms for improvement and the three published label columns.

    `bs_failure`: `small` where raising the temperature leaves more room than lowering it, `large` where less.
    `width_vs_batch` and `data_vs_batch`: `width` (`data`) where that axis leaves more room than the batch
    size in either direction, `batch` where less. Ties are `optimal`; rows without rooms get no label (None).

        table, batch, width, data, accuracy, within, hotter: as for `room_for_improvement`, whose errors are raised.
    """
    rooms = room_for_improvement(
        table, batch=batch, width=width, data=data, accuracy=accuracy, within=within, hotter=hotter
    )
    warmer, colder, wider, more_data = rooms[list(RFI_COLUMNS)].to_numpy().T
    by_batch = np.maximum(warmer, colder)
    labels = {
        "bs_failure": _compare(warmer, colder, "small", "large"),
        "width_vs_batch": _compare(wider, by_batch, "width", "batch"),
        "data_vs_batch": _compare(more_data, by_batch, "data", "batch"),
    }
    return table.assign(**{name: rooms[name] for name in RFI_COLUMNS}, **labels)


def _compare(a: np.ndarray, b: np.ndarray, more: str, less: str) -> np.ndarray:
    """`more` where a > b, `less` where a < b, optimal where equal, None where unknown."""
    labels = np.full(len(a), None, dtype=object)
    labels[a > b], labels[a < b], labels[a == b] = more, less, OPTIMAL
    return labels


def step_gains(table: pd.DataFrame, direction: str, *, axes: Axes | None = None) -> pd.DataFrame:
    """The points of test accuracy gained by following one class's advice along its axis, all else equal.

    `direction` is the class that is acted on: `small` (hotter: smaller batches), `large`, `width` or `data`. Columns:
    `one`: to the next value; `random`: the expected gain of a uniformly drawn further value; `best`: to the best
    further value. Losses count as 0, and so does the end of the axis; rows without an accuracy get NaN.
    """
    axes = axes or Axes()
    if direction not in axes.directions:
        raise InputError(f"There is no direction {direction!r}. Choose one of {', '.join(axes.directions)}.")
    axis, larger = axes.directions[direction]
    keys = (*axes.varied, *axes.within)
    absent = [name for name in (*keys, axes.accuracy) if name not in table.columns]
    if absent or axis is None:
        what = ", ".join(absent) or f"for direction {direction!r}"
        raise InputError(f"The table has no column {what}, which gains are computed from. Add it.")
    held = [name for name in keys if name != axis]
    ordered = table.reset_index(drop=True).sort_values(axis, ascending=larger, kind="stable")
    own = ordered[axes.accuracy]
    groups = own.groupby([ordered[name] for name in held] if held else np.zeros(len(own)), sort=False)
    one, best, total, further = np.zeros((4, len(own)))
    for step in range(1, np.max(groups.cumcount().to_numpy(), initial=0) + 1):
        gain = np.asarray(groups.shift(-step) - own, dtype=float).clip(min=0)
        further += ~np.isnan(gain)
        gain = np.nan_to_num(gain)
        one = gain if step == 1 else one
        best, total = np.maximum(best, gain), total + gain
    columns = {"one": one, "random": total / further.clip(min=1), "best": best}
    gains = pd.DataFrame(columns, index=ordered.index).sort_index()
    return gains.where(table.reset_index(drop=True)[axes.accuracy].notna(), axis=0).set_index(table.index)


def _check_columns(table: pd.DataFrame, axes: Axes) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"A sweep must be a pandas DataFrame, got {type(table).__name__}. Load the table first.")
    missing = [name for name in (*axes.varied, *axes.within, axes.accuracy) if name not in table.columns]
    if missing:
        raise InputError(
            f"The sweep has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. "
            "Name the axes with batch=, width=, data= and the accuracy with accuracy=."
        )
    for name in (*axes.varied, axes.accuracy):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(
                f"Column {name} must hold numbers to be ordered, got dtype {table[name].dtype}. Convert it first."
            )


def _check_distinct(grid: pd.DataFrame, keys: Sequence[str]) -> None:
    repeated = grid.duplicated(keep=False)
    if repeated.any():
        first = grid[repeated].iloc[0]
        where = ", ".join(f"{name}={first[name]}" for name in keys)
        raise InputError(
            f"{int(repeated.sum())} rows share their configuration with another row, the first at {where}. "
            "Average the seeds first, or name in within= the columns that tell these rows apart."
        )
