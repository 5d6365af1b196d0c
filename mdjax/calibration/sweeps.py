"""What the small networks of a sweep say of its larger ones: a calibration without any further training."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from mdjax.calibration.design import Cell, cells
from mdjax.calibration.trust import accuracies, surface_of
from mdjax.diagnosis.calibrations import SHARED, Calibration
from mdjax.diagnosis.mdtree import MDTree
from mdjax.diagnosis.sweep_axes import with_accuracy
from mdjax.errors import InputError

SETTINGS = ("batch_size", "learning_rate", "width", "data_share", "epochs", "num_params", "num_models")
"""What a table needs besides the errors and losses that are asked about, as the tables of zoos have it."""


def training_costs(table: pd.DataFrame) -> np.ndarray:
    """What training each configuration cost, [rows]: networks × fraction of the data × parameters × epochs.

    Raises InputError for a table that lacks one of `SETTINGS`.
    """
    if missing := [name for name in SETTINGS if name not in table]:
        raise InputError(f"The table has no {missing[0]}. Calibrate on a table of a zoo, with {', '.join(SETTINGS)}.")
    return table[["num_models", "data_share", "num_params", "epochs"]].to_numpy(float).prod(axis=1)


def smaller_cells(table: pd.DataFrame, fraction: float) -> np.ndarray:
    """A mask of the rows that `mdjax calibrate` would grow for a fraction of the training cost of a whole sweep.

    table: a row per configuration, with the columns `SETTINGS`. Where not even four cells fit, those are the smallest.
    """
    costs = training_costs(table)
    places = pd.MultiIndex.from_frame(table[["width", "data_share"]])
    cost = pd.Series(costs).groupby(places.to_numpy()).sum()
    widths, shares = (table[name].unique().tolist() for name in ("width", "data_share"))
    try:
        chosen = cells(widths, shares, lambda cell: float(cost.get(tuple(cell), 0.0)), fraction * costs.sum())
    except InputError:
        chosen = [Cell(width, share) for width in sorted(widths)[:2] for share in sorted(shares)[:2]]
    return np.array([Cell(*place) in chosen for place in places])


def calibration_of_sweep(table: pd.DataFrame, trees: Mapping[str, MDTree]) -> Calibration:
    """What the configurations of a table say of others of the same sweep that are larger or saw more data.

        table: some of a sweep's rows, with `SETTINGS`, `test_acc` (or `test_error`) and the losses, such as those of
            `smaller_cells`.
        trees: for rows whose settings are not known.

    Raises InputError for a table that lacks a column, and for fewer than four rows with a test accuracy.
    """
    table = with_accuracy(table.assign(cost=training_costs(table)))
    rows = table.assign(temperature=table["learning_rate"] / table["batch_size"])
    rows = rows[rows["test_acc"].notna()]
    shared = {name: table[name].iloc[0] for name in SHARED if name in table and table[name].nunique(dropna=False) == 1}
    facts = {name: value.item() if isinstance(value, np.generic) else value for name, value in shared.items()}
    return Calibration(surface_of(rows), facts, accuracies(rows), int(rows["num_models"].sum()), trees)
