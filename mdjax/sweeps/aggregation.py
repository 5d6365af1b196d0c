"""The rows of units → the table's three frames: models, pairs, and the features of configurations."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mdjax.columns import CONFIGURATION, UNIT_OF_LOSS, Feature, describe
from mdjax.diagnosis.trajectories import along_training
from mdjax.metrics import Metric
from mdjax.statuses import OK, Status, StatusCode
from mdjax.table import Table

SMALLEST_CURVATURE = 1e-3
"""Where the logarithm of a curvature turns linear, so that zero and negative values keep a place."""

APPLIED_NOISE = "applied_label_noise"
"""The column of models and configurations that says with which label noise they were measured."""

_KEYS = {"models": ("model_id",), "pairs": ("configuration", "model_a", "model_b")}
"""What identifies a row of each frame."""


def identity_columns(metric: Metric) -> tuple[str, ...]:
    """The columns that tell what the rows of a metric are about."""
    return _KEYS[metric.frame]


def with_status(columns: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's columns with its status as a sentence and a code; a number that is not finite gives it one."""
    status: Status = columns.get("status", OK)
    if status.code is StatusCode.OK:
        bad = [name for name, value in columns.items() if isinstance(value, float) and not np.isfinite(value)]
        status = Status(StatusCode.NOT_FINITE, f"{bad[0]} is not finite") if bad else OK
    return {**columns, "status": status.sentence, "status_code": status.code.value}


def compose(
    manifest: pd.DataFrame,
    results: Mapping[Metric, Sequence[pd.DataFrame]],
    problems: Mapping[str, Status],
    recipe: Mapping[str, Any],
    *,
    num_train: int,
    unit: str = "nats",
) -> Table:
    """Join the units into the three frames; every model of the manifest keeps its row, in the manifest's order.

    manifest: one row per model, with `status` and `status_code`.
    results: the rows of every unit, by metric in the order in which columns are to stand.
    problems: model id → why it could not be read.
    recipe: columns that all rows of models and pairs get, such as the preset.
    num_train: how many training examples the data have.
    unit: of losses, as the task has it.
    """
    models = manifest.copy()
    for name, status in problems.items():
        models.loc[models["model_id"] == name, ["status", "status_code"]] = [status.sentence, status.code.value]
    models = models.assign(**recipe)
    columns = [*_KEYS["pairs"], "status", "status_code"]
    frames = {"models": models, "pairs": pd.DataFrame({name: [] for name in columns}, dtype=str)}
    for metric, parts in results.items():
        parts = [part for part in parts if len(part)]
        if parts:
            found = pd.concat(parts, ignore_index=True)
            how = "left" if metric.frame == "models" else "outer"
            frames[metric.frame] = _join(frames[metric.frame], found, [*_KEYS[metric.frame]], how)
    models, pairs = frames["models"], frames["pairs"]
    # An outer join sorts by id; models keep the manifest's order, and pairs get that of their first model.
    index = {name: number for number, name in enumerate(models["model_id"])}
    pairs = pairs.sort_values(
        ["model_a", "model_b"], key=lambda column: column.map(index), ignore_index=True, kind="stable"
    )
    pairs = pairs.assign(**recipe)
    return Table(models, pairs, aggregate(models, pairs, tuple(results), num_train=num_train, unit=unit))


def _join(left: pd.DataFrame, right: pd.DataFrame, keys: list[str], how: Any) -> pd.DataFrame:
    """Merge, and keep the first status that is not ok."""
    merged = left.merge(right, on=keys, how=how, suffixes=("", "_new"))
    if "status_code_new" in merged:
        is_new = merged["status_code"].fillna(StatusCode.OK.value) == StatusCode.OK.value
        for name, ok in (("status", OK.sentence), ("status_code", OK.code.value)):
            merged[name] = merged[name].where(~is_new, merged[f"{name}_new"].fillna(ok))
        merged = merged.drop(columns=["status_new", "status_code_new"])
    return merged


def signed_log(value: Any) -> Any:
    """asinh(x / 2ε) + ln ε with ε = 1e-3: the natural logarithm above about 10 ε, and finite and ordered below.

    The published features are ln of a mean, which a negative trace turns into NaN; this agrees with it to 1e-4
    from x = 0.1 on.
    """
    return np.arcsinh(np.asarray(value) / (2 * SMALLEST_CURVATURE)) + math.log(SMALLEST_CURVATURE)


def aggregate(
    models: pd.DataFrame, pairs: pd.DataFrame, metrics: Sequence[Metric], *, num_train: int, unit: str = "nats"
) -> pd.DataFrame:
    """Aggregate the seeds of each configuration into the metrics' features, each with a standard error `<name>_se`.

    What a feature is made from is told by the metric (`Feature`). `data` is the data share in tenths and `data_amount`
    the number of examples, as in the published dataset. Every feature is taken over the models or pairs that have it;
    a configuration of which none has it keeps its row with NaN there, and `status` gives the first thing that went
    wrong with any of its models or pairs.

    models, pairs: the frames of the table.
    metrics: those whose features are wanted; one whose columns the frames lack gives none.
    num_train: how many training examples the data have.
    unit: of losses, as the task has it.
    """
    facts = [name for name in CONFIGURATION if name in models]
    grouped = models.groupby("configuration", sort=False)
    table = grouped[facts].first()
    if APPLIED_NOISE in models:
        table[APPLIED_NOISE] = grouped[APPLIED_NOISE].first()
    table["num_models"] = (models["status_code"] != StatusCode.COPY).groupby(models["configuration"]).sum()
    table["status"], table["status_code"] = _statuses(table.index, models, pairs)
    frames, found = {"models": models, "pairs": pairs}, []
    for metric in metrics:
        # Without a second seed what takes pairs is missing, and says so; another operator gives other columns.
        is_missing = metric.frame == "pairs" and not len(pairs)
        own = [feature for feature in metric.features if is_missing or feature.source in frames[metric.frame]]
        for feature in own:
            table[feature.name], table[f"{feature.name}_se"] = _feature(table.index, frames[metric.frame], feature)
        if own:
            for name, column in metric.derived({feature.name: table[feature.name] for feature in own}).items():
                table[name] = column
        found += [dataclasses.replace(each, unit=unit) if each.unit == UNIT_OF_LOSS else each for each in own]

    share = pd.to_numeric(table["data_share"]).fillna(1.0) if "data_share" in table else pd.Series(1.0, table.index)
    table["data"] = share * 10
    table["data_amount"] = (num_train * share).round(6).astype(int)
    table["log_data_amount"] = np.log(table["data_amount"])
    table["para_amount"] = table["num_params"]
    table["log_para_amount"] = np.log(table["para_amount"].astype(float))
    if "batch_size" in table:
        table["bs"] = table["batch_size"]
        table["log_bs"] = np.log(table["bs"].astype(float))
    table = table.reset_index()
    # Checkpoints of a training follow each other.
    return describe(table.iloc[along_training(table)].reset_index(drop=True), found)


def _feature(index: pd.Index, rows: pd.DataFrame, feature: Feature) -> tuple[pd.Series, pd.Series]:
    """A feature of every configuration, and its standard error; NaN where no row has it."""
    if feature.source not in rows:
        return pd.Series(np.nan, index), pd.Series(np.nan, index)
    mean, error = _mean_and_se(index, rows, feature)
    if "model_a" in rows:
        error = _jackknife_se(rows, feature.source).reindex(index).fillna(error)
    if feature.scale == "signed_log":
        # d asinh(x/2ε)/dx = 1/√(x² + 4ε²)
        return signed_log(mean), error / np.sqrt(mean**2 + 4 * SMALLEST_CURVATURE**2)
    return mean, error


def _mean_and_se(index: pd.Index, rows: pd.DataFrame, feature: Feature) -> tuple[pd.Series, pd.Series]:
    """Mean over a configuration's rows that have the column, and its standard error from their spread."""
    values = rows.groupby("configuration")[feature.source]
    mean = values.mean().reindex(index)
    error = (values.std() / np.sqrt(values.count())).reindex(index)
    if feature.own_error in rows:
        # One model shows no spread between seeds; its estimator's own error is what is known.
        error = error.fillna(rows.groupby("configuration")[feature.own_error].mean().reindex(index))
    return mean, error


def _jackknife_se(pairs: pd.DataFrame, column: str) -> pd.Series:
    """Standard error of a configuration's mean over pairs that share models: leaving out one model at a time.

    Such pairs are not independent, and their plain standard error is too small (by 2.6 for five models whose
    differences add up). Configurations whose pairs share no model are left out.
    """
    errors: dict[Any, float] = {}
    for name, rows in pairs.dropna(subset=[column]).groupby("configuration"):
        first, second, values = (rows[key].to_numpy() for key in ("model_a", "model_b", column))
        models = sorted({*first, *second})
        if len(models) == 2 * len(rows) or len(models) < 3:
            continue
        without = [values[(first != model) & (second != model)] for model in models]
        left = np.array([rest.mean() for rest in without if len(rest)])
        errors[name] = float(np.sqrt((len(left) - 1) * left.var()))
    return pd.Series(errors, dtype=float)


def _statuses(index: pd.Index, models: pd.DataFrame, pairs: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    """The sentence and the code of the first thing that went wrong in each configuration."""
    found: dict[Any, Status] = {}
    for kind, frame in (("models", models), ("pairs", pairs)):
        for name, members in frame.groupby("configuration"):
            bad = members[members["status_code"] != StatusCode.OK.value]
            # A copy is the least that can be wrong.
            bad = bad.iloc[(bad["status_code"] == StatusCode.COPY).to_numpy().argsort(kind="stable")]
            if len(bad) and (name not in found or found[name].code is StatusCode.COPY):
                sentence = f"{len(bad)} of {len(members)} {kind}: {bad['status'].iloc[0]}"
                found[name] = Status(StatusCode(bad["status_code"].iloc[0]), sentence)
    statuses = [found.get(name, OK) for name in index]
    sentences = pd.Series([status.sentence for status in statuses], index, dtype="str")
    return sentences, pd.Series([status.code.value for status in statuses], index, dtype="str")
