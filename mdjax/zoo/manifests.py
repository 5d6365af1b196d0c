"""What a zoo's rows must be: the columns and their types, ids, positions, and the networks that they name."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import LIMITS, RECIPE, TRAINING
from mdjax.errors import InputError
from mdjax.models import Architecture
from mdjax.models.architecture import parse_shape
from mdjax.statuses import StatusCode

_TEXTS = ("model_id", "configuration", "group", "family", "input_shape", "weights_hash", "status")
_ARCHITECTURE = ("family", "width", "input_shape", "num_classes", "depth", "variant")
_COUNTS = ("width", "num_classes", "depth", "num_params")
_IDENTITY = ("model_id", "configuration", "seed", "position", "weights_hash", "num_params")


def check_rows(rows: pd.DataFrame) -> None:
    """ValueError, with the reason, unless these can be the rows of a zoo's groups, `group` among their columns."""
    columns = [str(name) for name in rows.columns]
    if len(set(columns)) < len(columns):
        raise ValueError(f"its columns {', '.join(columns)} are not each of another name")
    for name in (*_TEXTS, *_COUNTS, "seed", "position"):
        if name not in columns:
            raise ValueError(f"it lacks the column {name}")
    for name in columns:
        _check_plain(name, rows[name])
    for name in _TEXTS:
        _check(name, rows[name], lambda value: isinstance(value, str) and value != "", "a text")
    for name in _COUNTS:
        _check(name, rows[name], lambda value: _is_whole(value) and value >= 1, "a whole number of at least 1")
    _check("seed", rows["seed"], _is_whole, "a whole number")
    _check("position", rows["position"], lambda value: _is_whole(value) and value >= 0, "a whole number of at least 0")
    _check_known(rows)
    if rows["model_id"].duplicated().any():
        raise ValueError(f"the model {rows['model_id'][rows['model_id'].duplicated()].iloc[0]!r} comes twice in it")
    for group, members in rows.groupby("group", sort=False):
        if sorted(members["position"]) != list(range(len(members))):
            raise ValueError(f"the positions of {group!r} are not 0 to {len(members) - 1}, each once")
    for fields in rows[list(_ARCHITECTURE)].drop_duplicates().to_dict("records"):
        if not fields["input_shape"].startswith("?"):
            architecture_of({str(name): value for name, value in fields.items()})


def architecture_of(fields: Mapping[str, Any]) -> Architecture:
    """The architecture of a row whose input shape is known; ValueError for what none has."""
    whole = {name: int(fields[name]) for name in ("width", "num_classes", "depth")}
    try:
        shape = parse_shape(fields["input_shape"])
        return Architecture(
            fields["family"], whole["width"], shape, whole["num_classes"], whole["depth"], fields["variant"]
        )
    except InputError as error:  # of a file here, not of what the user has given
        raise ValueError(str(error)) from None


def _check_known(rows: pd.DataFrame) -> None:
    """ValueError for facts of the training that cannot be; those that nobody told are missing."""
    codes = [code.value for code in StatusCode]
    _check("status_code", rows["status_code"], lambda value: value in codes, f"one of {', '.join(codes)}")
    _check("variant", rows["variant"], lambda value: isinstance(value, str), "a text")
    for name in TRAINING:
        if name in rows:
            kind, least, most = LIMITS[name]
            form = f"{'a whole number' if kind is int else 'a number'} from {least:g} to {most:g}"
            known = rows[name][rows[name].notna()]
            _check(name, known, lambda value: _is_within(value, kind, least, most), form)
    for name in RECIPE:
        if name in rows and name != "warmup":
            _check(name, rows[name][rows[name].notna()], lambda value: isinstance(value, str), "a text")
    if "warmup" in rows:
        _check("warmup", rows["warmup"].dropna(), lambda value: _is_within(value, float, 0, 1), "a number from 0 to 1")
    if "data_share" in rows and (rows["data_share"] == 0).any():
        raise ValueError("its data_share is 0, which is no part of any data")


def _is_whole(value: Any) -> bool:
    return (
        isinstance(value, Real) and not isinstance(value, bool | np.bool_) and _is_within(value, int, -(2**63), 2**63)
    )


def _is_within(value: Any, kind: type, least: float, most: float) -> bool:
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real) or not math.isfinite(value):
        return False
    return least <= float(value) <= most and (kind is not int or float(value).is_integer())


def _check(name: str, values: pd.Series, fits: Any, form: str) -> None:
    for value in values.unique():
        if not fits(value):
            raise ValueError(f"its {name} is {str(value)[:40]!r}, not {form}")


def _check_plain(name: str, values: pd.Series) -> None:
    """ValueError for lists, bytes and the like in a column: facts are numbers and texts."""
    if values.dtype != object:
        return
    for value in values:
        if not (value is None or isinstance(value, str | Real) or value is pd.NA):
            raise ValueError(f"its column {name} holds a {type(value).__name__}")


def differing(rows: pd.DataFrame, others: pd.DataFrame) -> str | None:
    """The first column by which two tellings of the same models, each in the order of positions, differ, if any.

    Compared are the columns that decide what is measured, and those that tell how the models were trained.
    """
    for name in (*_IDENTITY, *_ARCHITECTURE, *TRAINING, *RECIPE):
        first, second = ([_plain(value) for value in frame.get(name, [None] * len(frame))] for frame in (rows, others))
        if first != second:
            return name
    return None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return None if pd.isna(value) else float(value)


def concatenated(frames: list[pd.DataFrame]) -> pd.DataFrame:
    """The rows in one order, whatever the order in which groups arrived."""
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        identity = ["model_id", "configuration", "seed", "group", "position", "family", "weights_hash"]
        return pd.DataFrame(columns=[*identity, "status", "status_code"])
    return completed(pd.concat(frames).sort_values(["group", "position"], ignore_index=True))


def completed(manifest: pd.DataFrame) -> pd.DataFrame:
    """The columns that zoos written by earlier versions lack: they hold usual variants, and a status as text alone."""
    if "status" not in manifest:
        raise ValueError("it lacks the column status")
    missing = pd.Series(None, manifest.index, dtype=object)
    variants, codes = (manifest.get(name, missing) for name in ("variant", "status_code"))
    told = np.where(manifest["status"] == "ok", StatusCode.OK.value, StatusCode.WEIGHTS_NOT_FINITE.value)
    return manifest.assign(
        variant=variants.fillna("").astype(str),
        status_code=codes.fillna(pd.Series(told, manifest.index)).astype(str),
    )
