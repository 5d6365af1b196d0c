"""What of a plan is still to do in a table, and about how long that takes by what is done there."""

import math
from typing import Any

import pandas as pd

from mdjax.stores import Store
from mdjax.sweeps.commits import KEY, Commits
from mdjax.sweeps.plan_rows import PlanRow
from mdjax.sweeps.results import are_kept


class Forecast:
    """Of the table in a store, which is read and not written.

    store: of the table; it may be empty, or missing.
    """

    def __init__(self, store: Store):
        self._commits = Commits(store, is_written=False)
        self._rates: dict[str, tuple[float, float]] = {}

    def columns(self, row: PlanRow) -> dict[str, Any]:
        """`left`, the members that are not measured yet, and `seconds`, one process's time for them.

        By the measured seconds of the architecture's finished members, else by those of the metric's, of the
        architectures asked about before, in proportion to their parameters; NaN where nothing is finished.
        """
        left = sum(len(unit.keys) for unit in self._commits.missing(row.units))
        done = self._commits.rows(row.units, are_kept)
        parameters = row.units[0].cell.num_params
        name = row.metric.name
        total, amount = self._rates.get(name, (0.0, 0.0))
        each = total / amount * parameters if amount else math.nan
        if len(done):
            seconds = pd.to_numeric(done.drop_duplicates(KEY)[f"{name}_seconds"])
            each = float(seconds.mean())
            self._rates[name] = (total + float(seconds.sum()), amount + parameters * len(seconds))
        return {"left": left, "seconds": each * left if left else 0.0}
