"""The population that trees were grown on, and how far other networks lie outside of it.

A network is *outside* where it is further from the rows seen than nearly all of those are from each other: a conformal
test (Vovk et al., "Algorithmic learning in a random world", 2005; the score is that of Angiulli and Pizzuti, "Fast
outlier detection in high dimensional spaces", PKDD 2002).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from mdjax.columns import CLASSES, TASK
from mdjax.diagnosis.checks import known_numbers, numeric_column, tasks
from mdjax.diagnosis.labels import LABEL_COLUMNS
from mdjax.diagnosis.quantities import quantity
from mdjax.errors import InputError

FEATURES = (
    "train_error",
    "train_loss",
    "test_error",
    "test_loss",
    "hessian_t",
    "hessian_e",
    "mode_connectivity_peak",
    "CKA",
)
"""The columns that make up a population: those that trees read, and how well its networks do on other data."""

FACTS = ("family", "num_classes", TASK)
"""Columns that decide what the features mean: with a value that was not seen a network is outside, whatever these."""

Fact = str | float

MAX_ROWS = 845  # of a population: a quarter of both published sweeps
NUM_NEIGHBOURS = 5
TAIL = 0.01
"""The fraction of the population itself that its test takes for outside."""

ALLOWANCE = 1.25
"""By how much the distances of other sweeps may exceed those inside the population; see docs/diagnosis.md."""

_LEAST_FEATURES = 2  # of a row that is tested
_DECIMALS = 4  # of the values kept

_LARGEST = 1e100
"""Larger values are in no population, and count as this many standard deviations: squares of distances are numbers."""


class Distances(NamedTuple):
    """How far rows lie from a population."""

    p_value: np.ndarray  # of a row's distance among the population's own, [rows]; NaN where it cannot be told
    nearest: np.ndarray  # indices in the population of the nearest rows, [rows, neighbours]; -1 likewise
    furthest: np.ndarray  # index in `features` of what sets a row apart from those the most, [rows]; -1 likewise
    foreign: dict[str, np.ndarray]  # fact -> whether a row's differs from all that were seen


@dataclass(frozen=True)
class Population:
    """Rows of the sweep that trees were grown on, each feature on its quantity's scale.

    features: columns, in the order of `values`.
    values: [rows, features], on the scales of `quantities.QUANTITIES`.
    ranges: feature -> least and greatest value in the whole sweep, in its own unit.
    labels: label column -> [rows] of published classes.
    facts: column -> the values that it had.
    """

    features: tuple[str, ...]
    values: np.ndarray
    ranges: dict[str, tuple[float, float]]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    facts: dict[str, tuple[Fact, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, table: pd.DataFrame, *, facts: Mapping[str, Sequence[Fact]] | None = None) -> Self:
        """The population of a table: its rows that have all of its features, at most MAX_ROWS of them, drawn evenly.

        table: one row per configuration, with two or more of `FEATURES`.
        facts: column -> values, for a table that lacks the column; those of `FACTS` count.

        Raises InputError for a table without the features, or with too few rows to tell distances by.
        """
        features = tuple(name for name in FEATURES if name in table.columns and table[name].notna().to_numpy().any())
        if len(features) < _LEAST_FEATURES:
            raise InputError(
                f"The table has {', '.join(features) or 'none'} of {', '.join(FEATURES)}; a population takes two or "
                "more. Measure them first."
            )
        columns = np.column_stack([numeric_column(table, name) for name in features])
        whole = np.flatnonzero((np.abs(columns) <= _LARGEST).all(axis=1))
        if len(whole) < 1 / TAIL:
            raise InputError(
                f"{len(whole)} rows have all of {', '.join(features)} in numbers up to {_LARGEST:g}; a population "
                f"takes {1 / TAIL:.0f} or more. Grow a larger sweep."
            )
        ends = zip(features, columns[whole].min(axis=0), columns[whole].max(axis=0))
        drawn = np.sort(np.random.default_rng(0).permutation(whole)[:MAX_ROWS])
        scaled = [quantity(name).to_scale(columns[drawn, k]) for k, name in enumerate(features)]
        known = {name: sorted(set(table[name].iloc[whole].dropna())) for name in FACTS if name in table.columns}
        return cls(
            features=features,
            values=np.column_stack(scaled).round(_DECIMALS),
            ranges={name: (float(low), float(high)) for name, low, high in ends},
            labels={
                name: table[name].iloc[drawn].astype(object).to_numpy()
                for name in LABEL_COLUMNS
                if name in table.columns and table[name].notna().to_numpy().all()
            },
            facts={name: _plain(values) for name, values in (known | dict(facts or {})).items()},
        )

    def distances(self, table: pd.DataFrame) -> Distances:
        """How far the rows of a table lie outside. What a row lacks does not count; one feature alone tells nothing.

        A row's distance is the mean of those to its NUM_NEIGHBOURS nearest rows of the population, each feature in
        units of its standard deviation there. Its p-value is the fraction of the population's rows whose own distance,
        to their nearest others, is ALLOWANCE times smaller at most. Costs one look-up of neighbours per row.
        """
        num_rows = len(table)
        rows = np.full((num_rows, len(self.features)), np.nan)
        for k, name in enumerate(self.features):
            values = known_numbers(table, name)
            rows[:, k] = quantity(name).to_scale(np.where(np.isfinite(values), values, np.nan))
        spread = self.values.std(axis=0)
        spread[spread == 0] = 1.0
        seen, rows = self.values / spread, np.clip(rows, -_LARGEST * spread, _LARGEST * spread) / spread
        found = Distances(
            p_value=np.full(num_rows, np.nan),
            nearest=np.full((num_rows, NUM_NEIGHBOURS), -1),
            furthest=np.full(num_rows, -1),
            foreign={name: _foreign(table, name, self.seen(name)) for name in dict.fromkeys((TASK, *self.facts))},
        )
        patterns, which = np.unique(np.isfinite(rows), axis=0, return_inverse=True)
        for number, has in enumerate(patterns):
            if has.sum() < _LEAST_FEATURES:
                continue
            here = np.flatnonzero(which.ravel() == number)
            tree = KDTree(seen[:, has])
            own = np.sort(tree.query(seen[:, has], k=NUM_NEIGHBOURS + 1)[0][:, 1:].mean(axis=1))
            distance, nearest = tree.query(rows[np.ix_(here, has)], k=NUM_NEIGHBOURS)
            at_least = len(own) - np.searchsorted(own, distance.mean(axis=1) / ALLOWANCE)
            found.p_value[here] = (1 + at_least) / (1 + len(own))
            found.nearest[here] = nearest
            apart = np.abs(rows[here] - seen[nearest].mean(axis=1))
            found.furthest[here] = np.nanargmax(apart, axis=1)
        return found

    def seen(self, name: str) -> tuple[Fact, ...]:
        """The values that a fact had; of a population that says nothing of a task, classes were asked for."""
        return self.facts.get(name, (CLASSES,) if name == TASK else ())

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for populations that tell the same rows outside."""
        return self.features, self.values.tobytes(), tuple(self.facts.items())

    def near(self, feature: str, nearest: np.ndarray) -> tuple[float, float]:
        """The least and greatest value, in its own unit, of a feature in the rows of these indices."""
        values = quantity(feature).from_scale(self.values[nearest, self.features.index(feature)])
        return float(values.min()), float(values.max())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values."""
        return {
            "features": list(self.features),
            "values": {name: self.values[:, k].tolist() for k, name in enumerate(self.features)},
            "ranges": {name: list(ends) for name, ends in self.ranges.items()},
            "labels": {name: labels.tolist() for name, labels in self.labels.items()},
            "facts": {name: list(values) for name, values in self.facts.items()},
        }

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Self:
        """The population that `to_dict` described; KeyError, TypeError or ValueError where it is not a whole one."""
        features = tuple(map(str, entry["features"]))
        values = np.array([entry["values"][name] for name in features], dtype=float).T
        labels = {str(name): np.array(found, dtype=object) for name, found in entry["labels"].items()}
        if values.ndim != 2 or not (np.abs(values) <= _LARGEST).all() or len(values) <= NUM_NEIGHBOURS:
            raise ValueError("its population is not whole")
        if any(found.shape != (len(values),) for found in labels.values()):
            raise ValueError("its population's labels do not fit its rows")
        return cls(
            features=features,
            values=values,
            ranges={name: (float(entry["ranges"][name][0]), float(entry["ranges"][name][1])) for name in features},
            labels=labels,
            facts={str(name): _plain(found) for name, found in entry["facts"].items()},
        )


def _plain(values: Iterable[Any]) -> tuple[Fact, ...]:
    return tuple(value if isinstance(value, str) else float(value) for value in values)


def _foreign(table: pd.DataFrame, name: str, seen: Sequence[Fact]) -> np.ndarray:
    """A mask of the rows that have a value which was not seen; one that is missing is not known to be foreign."""
    if name == TASK:
        return ~tasks(table).isin(seen).to_numpy()
    if name not in table.columns or not seen:
        return np.zeros(len(table), dtype=bool)
    return (table[name].notna() & ~table[name].isin(seen)).to_numpy()
