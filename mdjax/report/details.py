"""What was measured of the single models and pairs of a configuration, as plain values for the page's scripts."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdjax.escapes import printable

BUDGET = 1_500_000
"""Bytes of a page for a small table; every configuration adds `PER_ROW`, so that a page of ten thousand has 6 MB."""

PER_ROW = 450

_DIGITS = 5
_MATRICES = ("hessian", "gauss_newton")
_OF_MODELS = ("test_error", "train_error", "test_loss", "train_loss", "hessian_eigenvalue", "hessian_trace")
_OF_PAIRS = ("CKA", "mode_connectivity", "mode_connectivity_peak", "linear_barrier", "agreement")


def details_of(
    models: pd.DataFrame | None, pairs: pd.DataFrame | None, labels: Sequence[str], order: Iterable[int]
) -> dict[str, Any]:
    """Spectra, densities, layers, surfaces and curves, by row of the configurations, as far as a page has room.

    models, pairs: the frames of a measured table, or None.
    labels: the configurations' names.
    order: rows, the most important first; those for which there is no room left are told by their number.
    """
    if models is None or "configuration" not in models.columns:
        return {"rows": {}, "left_out": 0}
    grouped = {name: frame for name, frame in models.groupby("configuration", sort=False)}
    paired: dict[Any, pd.DataFrame] = {}
    if pairs is not None and "configuration" in pairs.columns:
        paired = {name: frame for name, frame in pairs.groupby("configuration", sort=False)}
    room, found, left_out = BUDGET + PER_ROW * len(labels), {}, 0
    for row in order:
        if labels[row] not in grouped:
            continue
        told = {
            "models": [_model(one) for one in grouped[labels[row]].to_dict("records")],
            "pairs": [_pair(one) for one in paired[labels[row]].to_dict("records")] if labels[row] in paired else [],
        }
        size = len(json.dumps(told))
        if size > room:
            left_out += 1
            continue
        room -= size
        found[int(row)] = told
    return {"rows": found, "left_out": left_out}


def _model(row: Mapping[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"id": printable(str(row["model_id"])), "numbers": _numbers(row, _OF_MODELS)}
    if row.get("status") not in (None, "ok") and isinstance(row.get("status"), str):
        told["status"] = printable(row["status"])
    if (grid := _array(row, "density_grid")) is not None and (density := _array(row, "density")) is not None:
        told["density"] = {"grid": grid, "density": density, "error": _array(row, "density_se")}
    for matrix in _MATRICES:
        if (values := _array(row, f"{matrix}_eigenvalues")) is None or "spectrum" in told:
            continue
        told["spectrum"] = {
            "matrix": matrix.replace("_", "–"),
            "largest": values,
            "residuals": _array(row, f"{matrix}_eigenvalue_residuals"),
            "smallest": _array(row, f"{matrix}_smallest_eigenvalues"),
            "smallest_residuals": _array(row, f"{matrix}_smallest_residuals"),
        }
    for matrix in _MATRICES:
        names = row.get(f"{matrix}_layers")
        if names is None or np.ndim(names) == 0 or "layers" in told:
            continue
        told["layers"] = {
            "matrix": matrix.replace("_", "–"),
            "names": [printable(str(name)) for name in names],
            "trace": _array(row, f"{matrix}_layer_trace"),
            "error": _array(row, f"{matrix}_layer_trace_se"),
            "eigenvalue": _array(row, f"{matrix}_layer_eigenvalue"),
        }
    if (x := _array(row, "surface_x")) is not None:
        told["surface"] = {"x": x, "y": _array(row, "surface_y")}
        told["surface"] |= {name: _array(row, f"surface_{name}") for name in ("loss", "error")}
    return told


def _pair(row: Mapping[Any, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {name[-1]: printable(str(row[name])) for name in ("model_a", "model_b")}
    told["numbers"] = _numbers(row, _OF_PAIRS)
    if row.get("status") not in (None, "ok") and isinstance(row.get("status"), str):
        told["status"] = printable(row["status"])
    for kind in ("curve", "linear"):
        if (t := _array(row, f"{kind}_t")) is not None:
            told[kind] = {"t": t, **{name: _array(row, f"{kind}_{name}") for name in ("error", "loss")}}
    return told


def _numbers(row: Mapping[Any, Any], names: Sequence[str]) -> dict[str, float]:
    told = {name: row[name] for name in names if isinstance(row.get(name), int | float | np.number)}
    return {name: float(f"{value:.{_DIGITS}g}") for name, value in told.items() if np.isfinite(value)}


def _array(row: Mapping[Any, Any], name: str) -> list[Any] | None:
    """A column's list of numbers, rounded, None for what is not finite; None where the row has no list there."""
    value = row.get(name)
    if value is None or np.ndim(value) == 0:
        return None
    return [_rounded(each) for each in value]


def _rounded(value: Any) -> Any:
    if np.ndim(value):
        return [_rounded(each) for each in value]
    return float(f"{float(value):.{_DIGITS}g}") if value is not None and np.isfinite(float(value)) else None
