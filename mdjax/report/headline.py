"""What a report says first: what was measured, what went wrong with it, and how numbers are written."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd

from mdjax.diagnosis.answers import status_codes, troubles
from mdjax.diagnosis.checks import numeric_column
from mdjax.diagnosis.verdicts import Diagnosis
from mdjax.report.figures import feature_of
from mdjax.report.panels import axes_of
from mdjax.statuses import StatusCode

MAX_LINES = 8  # of a list of statuses or cautions
MISSING = "–"

_BROKEN = {StatusCode.WEIGHTS_NOT_FINITE, StatusCode.GROUP_DAMAGED}
_INCOMPLETE = {StatusCode.FEATURES_MISSING, StatusCode.UNDEFINED}
_PROBLEMS = {
    "with a damaged model": _BROKEN,
    "with a failed measurement": set(StatusCode) - _BROKEN - _INCOMPLETE - {StatusCode.OK, StatusCode.COPY},
    "not fully measured": _INCOMPLETE,
    "with copies of one model": {StatusCode.COPY},
}
"""What configurations are called whose measurement was not whole → their status codes: what is wrong, and what was not
measured or has no value for these networks."""


def number(value: Any, digits: int = 4) -> str:
    """A number for people: `digits` significant digits, a true minus sign, a dash where there is none."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return ("0" if float(value) == 0 else text).replace("-", "−")


def count(value: int, noun: str = "", plural: str | None = None) -> str:
    """A count with its noun in the right number: "1,690 configurations"."""
    return f"{value:,} {noun if value == 1 else plural or noun + 's'}" if noun else f"{value:,}"


def headline(table: pd.DataFrame, diagnosis: Diagnosis | None) -> dict[str, Any]:
    """What was measured, and what went wrong with it."""
    models = None
    if "num_models" in table.columns:
        models = int(np.nansum(numeric_column(table, "num_models")))
    presets = sorted({str(name) for name in table["preset"].dropna()}) if "preset" in table.columns else []
    spans = []
    for axis, what, unit in (("width", "widths", ""), ("batch", "batch sizes", ""), ("share", "data shares", " %")):
        values = axes_of(table).get(axis, np.empty(0)).round(6)
        values = np.unique(values[np.isfinite(values)])
        if len(values) > 1:
            spans.append(f"{len(values)} {what} from {number(values[0])} to {number(values[-1])}{unit}")
        elif len(values):
            spans.append(f"{what[:-1]} {number(values[0])}{unit}")
    errors = []
    for name in ("test_error", "train_error"):
        if name in table.columns and (found := ends(numeric_column(table, name))):
            errors.append(f"{feature_of(name, table).title}: {span(found, 3)} %.")
    return {
        "models": models,
        "configurations": len(table),
        "presets": presets,
        "problems": None if diagnosis is None and "status" not in table.columns else _problems(table, diagnosis),
        "spans": spans,
        "errors": errors,
    }


def _problems(table: pd.DataFrame, diagnosis: Diagnosis | None) -> list[dict[str, Any]]:
    """The kinds of problems that configurations have, told by their status codes; a configuration has one of them."""
    codes = status_codes(table, {} if diagnosis is None else diagnosis.answers)
    told = troubles(table) if diagnosis is None else diagnosis.frame["status"].to_numpy(dtype=object)
    found = []
    for kind, members in _PROBLEMS.items():
        statuses = Counter(str(text) for text in told[np.isin(codes, list(members))])
        found.append(
            {
                "kind": kind,
                "count": sum(statuses.values()),
                "statuses": statuses.most_common(MAX_LINES),
                "more": max(0, len(statuses) - MAX_LINES),
            }
        )
    return found


def ends(values: np.ndarray) -> tuple[float, float] | None:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if len(finite) else None


def span(ends: tuple[float, float], digits: int = 4) -> str:
    low, high = (number(end, digits) for end in ends)
    return low if low == high else f"{low} to {high}"
