"""From a sweep's test accuracies to each configuration's room for improvement and failure labels.

A sweep trains one model per batch size, width and data amount. A configuration's *room for improvement* (RFI)
along one axis is the best test accuracy it could still reach by moving along that axis alone, minus its own,
in points of test accuracy. The labels compare those rooms (Zhou et al., ICML 2024, arXiv 2406.16988).

The published labels name the *temperature*, which falls as the batch size grows: `small` means that the
temperature is too low (smaller batches would help), `large` that it is too high (larger batches would help).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdjax.errors import InputError

OPTIMAL = "optimal"
RFI_COLUMNS = ("rfi_inc_temp", "rfi_dec_temp", "rfi_width", "rfi_data")
LABEL_COLUMNS = ("bs_failure", "width_vs_batch", "data_vs_batch")


def room_for_improvement(
    table: pd.DataFrame,
    *,
    batch: str = "bs",
    width: str = "width",
    data: str = "data",
    accuracy: str = "test_acc",
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """The room for improvement of each row along each axis, in the units of `accuracy`; 0 where none is left.

    Costs one sort per axis. `batch`, `width` and `data` name the axes; `within` names further columns (label
    noise, architecture) in which rows must agree to be compared. Grids may have holes: only rows that exist
    are compared. A row whose accuracy, axes or `within` columns are missing gets NaN throughout and does not
    count for other rows.

    Returns the columns `rfi_inc_temp` (smaller batches), `rfi_dec_temp` (larger batches), `rfi_width` (larger
    widths) and `rfi_data` (more data), with the index of `table`. Raises InputError for missing or
    non-numeric columns and for two rows of the same configuration.
    """
    axes = (batch, width, data)
    within = (within,) if isinstance(within, str) else tuple(within)
    within = tuple(name for name in within if name not in axes)
    _check_columns(table, (*axes, *within), accuracy)
    acc = table[accuracy].to_numpy(dtype=float, na_value=np.nan)
    usable = np.isfinite(acc) & ~table[[*axes, *within]].isna().to_numpy().any(axis=1)
    grid = table.loc[usable, [*axes, *within]].reset_index(drop=True)
    _check_distinct(grid, axes, within)

    rooms = pd.DataFrame(np.nan, index=table.index, columns=list(RFI_COLUMNS))
    if not len(grid):
        return rooms
    own = acc[usable]
    for column, axis, descending in (
        ("rfi_inc_temp", batch, False),
        ("rfi_dec_temp", batch, True),
        ("rfi_width", width, True),
        ("rfi_data", data, True),
    ):
        held = [name for name in (*axes, *within) if name != axis]
        # Walked from the far end of the axis, the running maximum is the best that a row could reach.
        order = grid[axis].sort_values(ascending=not descending, kind="stable").index
        walked = pd.Series(own, index=grid.index).loc[order]
        best = walked.groupby([grid.loc[order, name] for name in held], sort=False).cummax()
        rooms.loc[usable, column] = best.sort_index().to_numpy() - own
    return rooms


def failure_labels(
    table: pd.DataFrame,
    *,
    batch: str = "bs",
    width: str = "width",
    data: str = "data",
    accuracy: str = "test_acc",
    within: Sequence[str] = (),
) -> pd.DataFrame:
    """A copy of `table` with the rooms for improvement and the three published label columns.

    `bs_failure`: `small` where raising the temperature leaves more room than lowering it, `large` where less.
    `width_vs_batch` and `data_vs_batch`: `width` (`data`) where that axis leaves more room than the batch
    size in either direction, `batch` where less. Ties are `optimal`; rows without rooms get no label (None).
    Arguments and errors are those of `room_for_improvement`.
    """
    rooms = room_for_improvement(table, batch=batch, width=width, data=data, accuracy=accuracy, within=within)
    hotter, colder, wider, more_data = rooms[list(RFI_COLUMNS)].to_numpy().T
    by_batch = np.maximum(hotter, colder)
    labels = {
        "bs_failure": _compare(hotter, colder, "small", "large"),
        "width_vs_batch": _compare(wider, by_batch, "width", "batch"),
        "data_vs_batch": _compare(more_data, by_batch, "data", "batch"),
    }
    return table.assign(**{name: rooms[name] for name in RFI_COLUMNS}, **labels)


def _compare(a: np.ndarray, b: np.ndarray, more: str, less: str) -> np.ndarray:
    """`more` where a > b, `less` where a < b, optimal where equal, None where unknown."""
    labels = np.full(len(a), None, dtype=object)
    labels[a > b], labels[a < b], labels[a == b] = more, less, OPTIMAL
    return labels


def _check_columns(table: pd.DataFrame, keys: Sequence[str], accuracy: str) -> None:
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"A sweep must be a pandas DataFrame, got {type(table).__name__}. Load the table first.")
    missing = [name for name in (*keys, accuracy) if name not in table.columns]
    if missing:
        raise InputError(
            f"The sweep has no column {', '.join(missing)}; it has {', '.join(map(str, table.columns))}. "
            "Name the axes with batch=, width=, data= and the accuracy with accuracy=."
        )
    for name in (*keys[:3], accuracy):
        if len(table) and not pd.api.types.is_numeric_dtype(table[name]):
            raise InputError(
                f"Column {name} must hold numbers to be ordered, got dtype {table[name].dtype}. Convert it first."
            )


def _check_distinct(grid: pd.DataFrame, axes: Sequence[str], within: Sequence[str]) -> None:
    repeated = grid.duplicated(keep=False)
    if repeated.any():
        first = grid[repeated].iloc[0]
        where = ", ".join(f"{name}={first[name]}" for name in (*axes, *within))
        raise InputError(
            f"{int(repeated.sum())} rows share their configuration with another row, the first at {where}. "
            "Average the seeds first, or name in within= the columns that tell these rows apart."
        )
