"""What came of all units of a run: the rows of every metric, and what is to be said of them."""

from collections.abc import Mapping, Sequence

import pandas as pd

from mdjax.errors import InputError
from mdjax.metrics import Metric
from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.aggregation import identity_columns
from mdjax.sweeps.claims import Claims
from mdjax.sweeps.commits import KEY, Commits, Place
from mdjax.sweeps.units import Unit, identity


class Results:
    """The rows of every metric, and why models could not be read.

    metrics: in the order in which their columns are to stand.
    """

    def __init__(self, metrics: Sequence[Metric]):
        self.rows: dict[Metric, list[pd.DataFrame]] = {metric: [] for metric in metrics}
        self.problems: dict[str, Status] = {}

    def add(self, metric: Metric, rows: pd.DataFrame, problems: Mapping[str, Status]) -> None:
        """Take in rows of some units of a metric."""
        if len(rows):
            self.rows[metric].append(rows.drop(columns=KEY))
        self.problems.update(problems)

    def warnings(self, errors: Mapping[str, Exception]) -> list[str]:
        """What is to be said of metrics that failed; InputError where all rows of all metrics did.

        errors: what metrics raised in this process, by name.
        """
        texts, failed = [], {}
        for metric, parts in self.rows.items():
            rows = pd.concat([part[["status", "status_code"]] for part in parts]) if parts else pd.DataFrame()
            counts = rows["status_code"].value_counts() if len(rows) else {}
            if count := counts.get(StatusCode.TOO_LARGE, 0):
                texts.append(
                    f"{metric.name} lacked memory for {count} of its {metric.frame}. Their rows say so; the same "
                    "command tries them again when there is more."
                )
            if count := counts.get(StatusCode.DIED, 0):
                first = rows.loc[rows["status_code"] == StatusCode.DIED, "status"].iloc[0]
                texts.append(
                    f"{metric.name} ended its process for {count} of its {metric.frame}: {first}. Their rows say so; "
                    "the same command tries them again."
                )
            if counts.get(StatusCode.FAILED, 0):
                failed[metric.name] = rows.loc[rows["status_code"] == StatusCode.FAILED, "status"].iloc[0]
        parts = [part for parts in self.rows.values() for part in parts]
        if failed and all((part["status_code"] == StatusCode.FAILED).all() for part in parts):
            name, text = next(iter(failed.items()))
            error = errors.get(name)
            if isinstance(error, InputError):
                raise error
            raise InputError(f"{text.removeprefix(f'{name} failed: ')}.") from error
        return [*texts, *(f"{text}. Its rows say so in their status." for text in failed.values())]


def collected(metrics: Sequence[Metric], units: Sequence[Unit], commits: Commits, claims: Claims) -> Results | None:
    """The results of units that are all settled; None where one turns out not to be, since its file is damaged.

    metrics: in the order in which their columns are to stand.
    units: of all of them.
    commits, claims: of the table.
    """
    results = Results(metrics)
    for metric in metrics:
        own = [unit for unit in units if unit.metric == metric]
        if not own:
            continue
        keys = [key for unit in own for key in unit.keys]
        rows = commits.rows(own, are_kept)
        left = set(keys).difference(rows[KEY]) if len(rows) else set(keys)
        results.add(metric, rows, {})
        if not left:
            continue
        for name in sorted(claims.failures):
            if name.startswith(own[0].name.rpartition("-")[0]):
                failure = claims.failure(name)
                rows = failure.rows[failure.rows[KEY].isin(left)] if len(failure.rows) else failure.rows
                results.add(metric, rows, failure.problems)
                left.difference_update(failure.keys)
        if left:
            return None
    return results


def are_kept(places: Sequence[Place], rows: pd.DataFrame) -> bool:
    """Whether rows that were kept are those of the members whose keys they have."""
    metric = places[0].unit.metric
    names = identity_columns(metric)
    if not {*names, "status", "status_code", f"{metric.name}_seconds"} <= set(rows.columns):
        return False
    if not rows["status"].map(lambda value: isinstance(value, str)).all():
        return False
    if not rows["status_code"].isin([code.value for code in StatusCode]).all():
        return False
    expected = [identity(place.unit.cell, place.unit.members[place.member]) for place in places]
    return [tuple(row) for row in rows[[*names]].astype(str).to_numpy().tolist()] == expected
