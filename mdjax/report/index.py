"""A folder of reports: one page for each table of a project, and an index that leads to them."""

from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from mdjax.diagnosis.calibrations import Calibration, calibration_of
from mdjax.diagnosis.own_sweeps import own_sweep
from mdjax.diagnosis.trees import SHIPPED, Trees
from mdjax.errors import InputError
from mdjax.files import place, write_file
from mdjax.report.figures import MARKS
from mdjax.report.headline import headline
from mdjax.report.page import diagnosis_of, names, render, write_report
from mdjax.report.scripts import STILL, styles
from mdjax.report.story import expected_gains, order_of
from mdjax.table import Table

INDEX = "index.html"
_REMEDY = "Choose a folder that you may write to."


class Source(NamedTuple):
    """A table of a project, and where it was read from."""

    table: pd.DataFrame | Table
    source: str


def write_reports(
    folder: str | PathLike[str], tables: Mapping[str, Source], *, trees: Trees | Calibration = SHIPPED
) -> None:
    """Write `index.html` and a page `<name>.html` for each table of a project into a folder, made where it is missing.

        folder: where they go; pages of these names that lie there are replaced.
        tables: by name, in the order in which the index shows them.
        trees: what `mdjax.diagnose` takes.

    Costs what `write_report` does for each. Raises InputError for what that does, for no tables, and for a name that is
    none of a file, or "index".
    """
    folder = place(folder)
    if not tables:
        raise InputError("There are no tables to report on. Give one or more.")
    for name in tables:
        if not name or name.lower() == "index" or Path(name).name != name or name.startswith("."):
            raise InputError(f"A report cannot be called {name!r}. Give the table's folder another name.")
    calibration = calibration_of(trees)
    entries = []
    for name, (table, source) in tables.items():
        write_report(folder / f"{name}.html", table, trees=calibration or trees, source=source, title=name)
        frame = table.configurations if isinstance(table, Table) else table
        entries.append(_entry(name, frame.reset_index(drop=True), source, calibration or trees))
    page = render("index.html", {"entries": entries, "marks": MARKS, "policy": STILL, "styles": styles()})
    write_file(folder / INDEX, page, _REMEDY)


def _entry(name: str, frame: pd.DataFrame, source: str, trees: Trees | Calibration) -> dict[str, Any]:
    """What the index says of a table."""
    diagnosis = diagnosis_of(frame, trees)
    reading = own_sweep(frame) if diagnosis is None else diagnosis.own_sweep
    expected, most = expected_gains(diagnosis, reading.sweep), None
    if expected.kind != "none":
        row = int(order_of(expected)[0])
        most = {"name": names(frame)[row], "points": float(expected.points[row])}
    causes = [] if diagnosis is None else Counter(diagnosis.causes.names()).most_common(3)
    return {"name": name, "source": source, "headline": headline(frame, diagnosis), "causes": causes, "most": most}
