"""Which columns of a measured table are the axes of its own sweep: chosen by what varies, or named by the user."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION
from mdjax.diagnosis.labels import Axes, failure_labels
from mdjax.errors import InputError

ACCURACY, ERROR = "test_acc", "test_error"

TEMPERATURES = {"batch_size": "smaller", "bs": "smaller", "learning_rate": "larger"}
"""What sets the training temperature, in the order of preference -> the end at which it is high."""

SIZES = ("width", "depth")
AMOUNTS = ("data_share", "data", "data_amount")
"""What sets a model's size and the amount of data, in the order of preference; the amounts name the same thing."""

_PARTS = ("batch", "hotter", "width", "data", "accuracy", "within")
_EXAMPLE = "batch=learning_rate,hotter=larger,width=depth,data=data_share,within=weight_decay+momentum"


def with_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """The table with its test accuracy in percent in `test_acc`, from `test_error` where it has that alone.

    Raises InputError for a table with neither, and for columns of one name.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"A sweep must be a pandas DataFrame, got {type(table).__name__}. Load the table first.")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise InputError(f"The table has several columns named {repeated[0]}. Keep one of them.")
    if ACCURACY in table.columns:
        return table
    if ERROR not in table.columns:
        raise InputError(
            f"The table has neither {ACCURACY} nor {ERROR}, which a sweep is labelled by. Measure the losses "
            f"(--metrics losses,...), or add {ACCURACY}, the test accuracy in percent."
        )
    return table.assign(**{ACCURACY: 100 - pd.to_numeric(table[ERROR], errors="coerce")})


def sweep_axes(table: pd.DataFrame, named: Mapping[str, Any] | None = None) -> Axes:
    """The axes of the sweep that a table holds.

        table: one row per configuration, as `mdjax measure` or the published dataset has.
        named: parts of `Axes` by name ("batch", "hotter", "width", "data", "accuracy", "within"), which win over what
            would be chosen; a part of None is left out.

    Temperature: the batch size where it varies, or else the learning rate; size: the width, or else the depth; data:
    the amount of data. Every other setting that varies (`mdjax.columns.CONFIGURATION`) has to agree for two
    rows to be compared (`within`). An axis along which no two rows differ alone is none. Only rows with a test
    accuracy count. Costs a few passes over the columns.

    Raises InputError where there is no test accuracy, where nothing varies that could be an axis, or where no
    two rows differ in one axis alone; and for names that are no parts or no columns.
    """
    table = with_accuracy(table)
    named = dict(named or {})
    if unknown := sorted(named.keys() - set(_PARTS)):
        raise InputError(f"Sweeps have no part {unknown[0]!r}. Name some of {', '.join(_PARTS)}: {_EXAMPLE}.")
    accuracy = named.get("accuracy", ACCURACY)
    _check_named(table, named, accuracy)
    values = pd.to_numeric(table[accuracy], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    known = table.loc[np.isfinite(values)]
    varying = [
        name
        for name in dict.fromkeys((*CONFIGURATION, *TEMPERATURES, *AMOUNTS))
        if name in table.columns and known[name].nunique(dropna=False) > 1 and not _follows_size(known, name)
    ]
    parts: dict[str, str | None] = {
        part: named[part] if part in named else next((name for name in candidates if name in varying), None)
        for part, candidates in (("batch", tuple(TEMPERATURES)), ("width", SIZES), ("data", AMOUNTS))
    }
    if not any(parts.values()):
        raise InputError(_nothing_varies(known, table))
    within = tuple(named["within"] or ()) if "within" in named else _others(varying, parts)
    walked: dict[str, str | None] = {}
    for part, name in parts.items():
        held = [other for other in (*parts.values(), *within) if other not in (None, name)]
        walked[part] = name if name is None or part in named or _is_walked(known, name, held) else None
        if name is not None and walked[part] is None:
            within = (*within, name)  # it tells rows apart all the same
    if not any(walked.values()):
        raise InputError(
            f"No two configurations of the table differ in {' or '.join(filter(None, parts.values()))} alone, so none "
            "can be compared. Train a grid, or name the axes that are one: --axes width=COLUMN (axes= in Python)."
        )
    hotter = named.get("hotter") or _hotter(walked["batch"])
    return Axes(**walked, accuracy=accuracy, within=within, hotter=hotter)


def parse_axes(text: str) -> dict[str, Any]:
    """The parts that a text names, for `sweep_axes`: "batch=learning_rate,hotter=larger,within=weight_decay+depth".

    `none` leaves a part out. Raises InputError for anything else.
    """
    named: dict[str, Any] = {}
    for item in filter(None, (piece.strip() for piece in text.split(","))):
        part, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not value or part not in _PARTS or part in named:
            raise InputError(f"Cannot read the axes {text!r} at {item!r}. Write part=column, like {_EXAMPLE}.")
        if part == "within":
            named[part] = () if value == "none" else tuple(filter(None, value.split("+")))
        else:
            named[part] = None if value == "none" else value
    return named


def labelled(table: pd.DataFrame, axes: Axes | None = None) -> pd.DataFrame:
    """A copy of the table with the rooms for improvement and the labels of its own sweep; see `failure_labels`.

    `axes`: those of `sweep_axes` by default, whose errors are raised.
    """
    axes = sweep_axes(table) if axes is None else axes
    return failure_labels(with_accuracy(table), **vars(axes))


def axes_text(axes: Axes) -> str:
    """The axes in one sentence."""
    parts = []
    if axes.batch is not None:
        parts.append(f"temperature by {axes.batch} ({axes.hotter} is hotter)")
    parts += [f"{what} by {name}" for what, name in (("size", axes.width), ("data", axes.data)) if name is not None]
    held = f"; compared where {', '.join(axes.within)} agree" if axes.within else ""
    return f"Axes of the sweep: {', '.join(parts)}{held}."


def _check_named(table: pd.DataFrame, named: Mapping[str, Any], accuracy: Any) -> None:
    columns = [named.get(part) for part in ("batch", "width", "data")] + [accuracy, *(named.get("within") or ())]
    for name in columns:
        if name is not None and name not in table.columns:
            raise InputError(
                f"The table has no column {name}, named as an axis; it has {', '.join(map(str, table.columns))}. "
                "Name one of these."
            )
    if named.get("batch") is not None and named["batch"] not in TEMPERATURES and not named.get("hotter"):
        raise InputError(
            f"Whether smaller or larger values of {named['batch']} train hotter is not known. "
            "Add hotter=smaller or hotter=larger."
        )


def _others(varying: list[str], parts: Mapping[str, str | None]) -> tuple[str, ...]:
    """The settings that vary beside the axes, each once: what an axis tells under another name is none of them."""
    told, others = {name for name in parts.values() if name is not None}, []
    for name in varying:
        names = next((same for same in (AMOUNTS, ("batch_size", "bs")) if name in same), (name,))
        if not told & set(names):
            others.append(name)
            told.add(name)
    return tuple(others)


def _follows_size(rows: pd.DataFrame, name: str) -> bool:
    """Whether a setting says again what the size says: the number of parameters, and the layers of plain networks that
    are alike but for their numbers, one list of layers a width."""
    if name != "variant" or "family" not in rows or "width" not in rows:
        return name == "num_params"
    kinds = rows[name].astype(str).str.replace(r"\d+", "", regex=True).nunique()
    return bool(
        (rows["family"] == "sequence").all() and kinds == 1 and (rows.groupby("width")[name].nunique() == 1).all()
    )


def _hotter(batch: str | None) -> str:
    return "smaller" if batch is None else TEMPERATURES[batch]


def _is_walked(rows: pd.DataFrame, name: str, held: list[str]) -> bool:
    """Whether any two rows differ in one column while they agree in the others."""
    groups = rows.dropna(subset=[name, *held])
    counts = groups.groupby(held)[name].nunique() if held else pd.Series([groups[name].nunique()])
    return bool((counts > 1).any())


def _nothing_varies(known: pd.DataFrame, table: pd.DataFrame) -> str:
    remedy = "Train configurations that differ in one of them, or name another column: --axes width=COLUMN."
    if len(known) < 2:
        return (
            f"The table is no sweep: {len(known)} of its {len(table)} rows have a test accuracy, and a sweep compares "
            f"two or more. {remedy.replace('one of them', 'batch size, learning rate, width, depth or data')}"
        )
    candidates = (*TEMPERATURES, *SIZES, *AMOUNTS)
    found = [f"{name} {known[name].iloc[0]}" for name in candidates if name in known and known[name].notna().all()]
    told = f"each has one value ({', '.join(found)})" if found else "the table has none of them"
    return f"The table is no sweep: of batch size, learning rate, width, depth and amount of data {told}. {remedy}"
