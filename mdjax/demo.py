"""The whole path on embedded real data: two zoos grown, measured, labelled, diagnosed and reported."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from rich.table import Table as RichTable

from mdjax.calibration.sweeps import calibration_of_sweep, smaller_cells
from mdjax.console import cell, show, tell
from mdjax.diagnosis.labels import RFI_COLUMNS
from mdjax.diagnosis.sweep_axes import labelled
from mdjax.diagnosis.sweep_trees import compare, grow_sweep
from mdjax.diagnosis.trees import save_trees
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.report.page import phase_plot, write_report
from mdjax.sweeps.local import measure
from mdjax.table import Table
from mdjax.zoo.data import load
from mdjax.zoo.grids import Grid
from mdjax.zoo.training import train

AXES = {
    "data": "digits",
    "family": "mlp",
    "width": (2, 4, 8, 16, 32, 64),
    "batch_size": (8, 16, 32, 64, 128, 256),
    "data_share": (0.25, 0.5, 1.0),
    "seeds": 3,
    "epochs": 40,
}
"""Wide enough for every failure to occur: from too small to ample in width, data and temperature."""

ZOOS = {"clean": 0.0, "noisy": 0.1}
"""Zoo → its label noise; trees are grown on the first and asked about the second."""

CALIBRATED_ON = 0.2
"""A fraction of the noisy zoo's training cost: verdicts on its larger networks are learnt from the small ones in it."""


def run_demo(out: str | Path = "runs/demo") -> None:
    """Run the demo into `out`; a second run finds everything there and takes seconds.

    Leaves `<zoo>-zoo`, `<zoo>-table`, `trees.json`, `calibration`, `report.html` and `phase.png`. Two to three minutes
    on two cores.
    """
    out = Path(out)
    started = time.monotonic()
    dataset = load(str(AXES["data"]))
    tables: dict[str, Table] = {}
    for name, noise in ZOOS.items():
        grid = Grid(**AXES, label_noise=(noise,))  # pyright: ignore[reportArgumentType]
        tell(f"{name} zoo: {len(grid.settings())} networks, label noise {noise:.0%}")
        zoo = train(grid, out / f"{name}-zoo", dataset=dataset)
        measured = measure(zoo, out=out / f"{name}-table", data=dataset)
        tables[name] = Table(measured.models, measured.pairs, labelled(measured.configurations))

    grown, asked = (table.configurations for table in tables.values())
    trees = grow_sweep(grown).trees
    save_trees(trees.values(), out / "trees.json")
    small = smaller_cells(asked, CALIBRATED_ON)
    calibration = calibration_of_sweep(asked[small], trees)
    calibration.save(out / "calibration")
    diagnosis = Diagnosis.of(asked, calibration)
    accuracies = compare(grown, asked, trees)
    tell("")
    show(_as_rich(accuracies))

    subject = _most_to_gain(asked, diagnosis.frame, small if small.all() else ~small)
    tell("", *diagnosis.sweep_lines(), "", diagnosis.verdict(subject).to_text())
    name = str(asked["configuration"].iloc[subject])
    write_report(
        out / "report.html",
        tables["noisy"],
        trees=calibration,
        title="Why do these networks underperform? Digits with 10 % label noise",
        highlight=name,
        accuracies=accuracies,
        source=str(out / "noisy-table"),
    )
    phase_plot(asked, out / "phase.png", trees=calibration)
    seconds = time.monotonic() - started
    tell("", f"The whole story: {out / 'report.html'}  ({seconds:.0f} s)")


def _as_rich(accuracies: pd.DataFrame) -> RichTable:
    table = RichTable(title="trees grown on the clean zoo, asked about the noisy one: accuracy in %")
    for column in accuracies:
        table.add_column(str(column), justify="left" if column == "question" else "right")
    for row in accuracies.itertuples(index=False):
        table.add_row(*(cell(f"{value:.1f}" if isinstance(value, float) else str(value)) for value in row))
    return table


def _most_to_gain(table: pd.DataFrame, verdicts: pd.DataFrame, rows: np.ndarray) -> int:
    """The index of the row with the most room for improvement among the asked `rows` whose features are all there."""
    rooms = table[list(RFI_COLUMNS)].max(axis=1).where((verdicts["status"] == "ok").to_numpy() & rows)
    return int(np.nanargmax(rooms.to_numpy()))
