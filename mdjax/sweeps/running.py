"""A unit of work → its rows, here: models read, measured, and what went wrong put into a status."""

import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from mdjax.engine import Programs, is_shortage
from mdjax.engine import measure as measure_stack
from mdjax.errors import InputError, first_line
from mdjax.metrics import Losses
from mdjax.statuses import Status, StatusCode
from mdjax.sweeps.aggregation import identity_columns, with_status
from mdjax.sweeps.commits import KEY
from mdjax.sweeps.noise import rise
from mdjax.sweeps.preparation import Work
from mdjax.sweeps.sources import DeviceData, Loaded, loaded, recent_groups, runner
from mdjax.sweeps.streams import goes_through_all, over_all
from mdjax.sweeps.units import Unit, identity


class Outcome(NamedTuple):
    """What came of a unit: its rows, and why models that are not in them could not be read, by id."""

    rows: pd.DataFrame
    problems: dict[str, Status]


class Runner:
    """Runs the units of a piece of work one after another, with the data on the device and programs kept.

    work: what is measured.
    model: how the models of a list are called.
    """

    def __init__(self, work: Work, model: Any = None):
        self._work, self._model = work, model
        self._read_group = recent_groups(work.collection.read_group)
        self._programs = Programs(work.plan)
        self.errors: dict[str, Exception] = {}
        """The first error that each metric raised, by its name."""

    @functools.cached_property
    def _data(self) -> DeviceData:
        """On the device once they are needed: never where workers measure."""
        return DeviceData(self._work.dataset, self._work.plan)

    def doubts(self) -> str | None:
        """What the training losses say of the label noise that is applied, where it is not certain."""
        noisy = next((cell for cell in self._work.cells if cell.label_noise > 0), None)
        if noisy is None or self._work.is_certain:
            return None
        models = self._loaded(noisy.rows.iloc[:_FIRST], noisy.architecture)
        return rise(noisy, models, self._data, self._programs, self._work.seed)

    def run(self, unit: Unit) -> Outcome:
        """Measure a unit. Errors of the metric are rows with a status; what ends the process is raised."""
        indices = sorted({index for member in unit.members for index in member})
        rows = unit.cell.rows.iloc[indices]
        try:
            models = self._loaded(rows, unit.cell.architecture)
            place = {name: number for number, name in enumerate(models.rows["model_id"])}
            ids = [name for name, _ in unit.cell.models]
            is_read = [all(ids[index] in place for index in member) for member in unit.members]
            if not any(is_read):
                return Outcome(pd.DataFrame(), models.problems)
            part = unit.part([number for number, there in enumerate(is_read) if there])
            found = measure_stack(
                unit.metric,
                models.stack,
                self._data.examples(unit.cell),
                [tuple(place[ids[index]] for index in member) for member in part.members],
                seed=self._work.seed,
                programs=self._programs,
                timed=True,
            )
            if isinstance(unit.metric, Losses) and goes_through_all(unit.metric, self._work.dataset):
                found = self._over_all(unit, part, models, place, found)
            return Outcome(_rows(part, found), models.problems)
        except Exception as error:  # of one metric, which must not cost the others
            return Outcome(self._failed(unit, error), {})

    def _over_all(
        self, unit: Unit, part: Unit, models: Loaded, place: Mapping[str, int], found: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        assert isinstance(unit.metric, Losses)
        ids = [name for name, _ in unit.cell.models]
        members = [tuple(place[ids[index]] for index in member) for member in part.members]
        start, work = time.perf_counter(), self._work
        rows = over_all(unit.metric, models.stack, members, found, work.dataset, unit.cell, work.seed, self._programs)
        share = (time.perf_counter() - start) / len(rows)
        return [{**row, "losses_seconds": row.get("losses_seconds", 0.0) + share} for row in rows]

    def _loaded(self, rows: pd.DataFrame, architecture: Any) -> Loaded:
        return loaded(rows, runner(architecture, self._model, self._work.plan), self._read_group)

    def _failed(self, unit: Unit, error: Exception) -> pd.DataFrame:
        if is_shortage(error):
            status = Status(StatusCode.TOO_LARGE, f"memory ran out: {reason_of(error)}")
        else:
            self.errors.setdefault(unit.metric.name, error)
            status = Status(StatusCode.FAILED, f"{unit.metric.name} failed: {reason_of(error)}")
        return rows_with(unit, status)


_FIRST = 16
"""Models that tell whether labels are right."""


def rows_with(unit: Unit, status: Status) -> pd.DataFrame:
    """A unit's rows with nothing but a status."""
    return _rows(unit, [{"status": status}] * len(unit.members))


def _rows(unit: Unit, found: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A unit's rows: what each is about, and a metric's columns."""
    names = identity_columns(unit.metric)
    rows = [
        dict(zip(names, identity(unit.cell, member), strict=True)) | with_status(columns)
        for member, columns in zip(unit.members, found, strict=True)
    ]
    return pd.DataFrame(rows).assign(**{KEY: list(unit.keys)})


def reason_of(error: Exception) -> str:
    """An error in one line, with its type unless it is a sentence of mdjax's own."""
    return first_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {first_line(error)}"
