"""Two tables, or two ways to diagnose one, side by side: which configurations are the same, and how they differ."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.errors import InputError
from mdjax.report.figures import features
from mdjax.report.headline import count


@dataclass(frozen=True)
class Comparison:
    """What another table, or another way to diagnose the same one, says of each row of a table.

    table: the one that is compared.
    title: of the other.
    rows: of the other that stands against each row, [rows]; -1 where there is none.
    causes: the other's verdict on each row, None where there is none; None where either has no diagnosis.
    agrees: whether the verdicts are the same, [rows].
    differences: feature → the row's value less the other's, [rows]; none between two ways to diagnose.
    cross: counts of the rows with each pair of verdicts, own ones down, the other's across; or None.
    lines: what is to be said.
    """

    table: pd.DataFrame
    title: str
    rows: np.ndarray
    causes: Sequence[str | None] | None
    agrees: np.ndarray
    differences: dict[str, np.ndarray]
    cross: pd.DataFrame | None
    lines: tuple[str, ...]


def compare_methods(table: pd.DataFrame, own: Diagnosis, other: Diagnosis, title: str) -> Comparison:
    """The verdicts of another way to diagnose the same table, which is called `title`."""
    rows = np.arange(len(table))
    causes = list(other.causes.names())
    return _comparison(table, own, rows, causes, {}, title)


def compare_tables(
    table: pd.DataFrame, own: Diagnosis | None, other: pd.DataFrame, diagnosis: Diagnosis | None, title: str
) -> Comparison:
    """A table against another, which is called `title`, row by row: of the same name, else of the same settings.

    diagnosis: of the other.

    Settings are those that vary in either table. Raises InputError where no configuration of one is found in the other.
    """
    rows, by = _matched(table, other)
    met = rows >= 0
    if not met.any():
        raise InputError(
            f"No configuration of the table is found in {title}: neither a name nor the settings that vary "
            f"({', '.join(_varied(table, other)) or 'none'}) are the same. Compare tables of one sweep, or of two that "
            "share their settings."
        )
    differences = {}
    for name in features(table):
        if name in other.columns:
            theirs = np.where(met, numeric_column(other, name)[np.maximum(rows, 0)], np.nan)
            differences[name] = numeric_column(table, name) - theirs
    causes = None
    if own is not None and diagnosis is not None:
        names = diagnosis.causes.names()
        causes = [str(names[row]) if row >= 0 else None for row in rows]
    found = _comparison(table, own, rows, causes, differences, title)
    told = f"{count(int(met.sum()), 'configuration')} of {count(len(table))} have one of the same {by} in {title}."
    return replace(found, lines=(told, *found.lines))


def _comparison(
    table: pd.DataFrame,
    own: Diagnosis | None,
    rows: np.ndarray,
    causes: list[Any] | None,
    differences: dict[str, np.ndarray],
    title: str,
) -> Comparison:
    agrees, cross, lines = np.zeros(len(table), dtype=bool), None, ()
    if own is not None and causes is not None:
        mine = own.causes.names()
        there = np.array([cause is not None for cause in causes])
        agrees = there & np.array([one == cause for one, cause in zip(mine, causes, strict=True)])
        theirs = pd.Series(causes, dtype=object)[there]
        cross = pd.crosstab(pd.Series(mine, dtype=object)[there], theirs)
        lines = (
            f"The verdicts are the same for {count(int(agrees.sum()))} of {count(int(there.sum()), 'configuration')}.",
        )
    return Comparison(table, title, rows, causes, agrees, differences, cross, lines)


def _matched(table: pd.DataFrame, other: pd.DataFrame) -> tuple[np.ndarray, str]:
    """The other's row for each row, -1 where there is none; and what the two have in common."""
    if "configuration" in table.columns and "configuration" in other.columns:
        rows = _found(table["configuration"].astype(str), other["configuration"].astype(str))
        if (rows >= 0).any():
            return rows, "name"
    names = _varied(table, other)
    if not names:
        return np.full(len(table), -1), "settings"
    return _found(
        _settings(table, names), _settings(other, names)
    ), f"settings ({', '.join(name.replace('_', ' ') for name in names)})"


def _settings(table: pd.DataFrame, names: list[str]) -> pd.Series:
    """The settings of each row as a tuple; those that are not known are None, and so agree with each other."""
    known = table[names].astype(object).where(table[names].notna(), None)
    return pd.Series(list(known.itertuples(index=False, name=None)))


def _varied(table: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    """The settings that vary in either table, and that both have."""
    shared = [name for name in (*CONFIGURATION, "bs", "data") if name in table.columns and name in other.columns]
    return [name for name in shared if max(table[name].nunique(), other[name].nunique()) > 1]


def _found(keys: pd.Series, others: pd.Series) -> np.ndarray:
    """Where each key stands among the others; -1 for one that is not there, or several times on either side."""
    single = ~others.duplicated(keep=False)
    places = {key: row for row, (key, one) in enumerate(zip(others, single, strict=True)) if one}
    repeated = keys.duplicated(keep=False)
    return np.array([-1 if twice else places.get(key, -1) for key, twice in zip(keys, repeated, strict=True)])
