"""The table on disk: shards written once, the Parquet files a person opens, seeds aggregated to configurations.

TABLE/models.parquet           one row per model
TABLE/pairs.parquet            one row per pair of models of a configuration
TABLE/configurations.parquet   one row per configuration, under the published feature names
TABLE/shards/                  finished units of work, for resuming
"""

import contextlib
import dataclasses
import math
import os
import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mdjax.errors import InputError

_STALE_SECONDS = 3600

SMALLEST_CURVATURE = 1e-3
"""Where the logarithm of a curvature turns linear, so that zero and negative values keep a place."""

_FACTS = [
    "family",
    "variant",
    "width",
    "depth",
    "num_classes",
    "num_params",
    "batch_size",
    "data_share",
    "label_noise",
    "learning_rate",
    "momentum",
    "weight_decay",
    "epochs",
    "preset",
]
"""Columns that all models of a configuration share."""


@dataclasses.dataclass(frozen=True)
class Table:
    """A measured zoo: three frames, of models, pairs and configurations."""

    models: pd.DataFrame
    pairs: pd.DataFrame
    configurations: pd.DataFrame


class Shards:
    """A folder of finished units of work; the first writer of a name wins, and nothing half-written is seen."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(".writing-*"):
                # A younger one may belong to another writer that is at work.
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
                        leftover.unlink()
            probe = folder / f".writing-{uuid.uuid4().hex}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"Cannot write the table {folder.parent}: {error.strerror or error}. "
                "Choose a folder that you may write to."
            ) from None

    def read(self, name: str) -> pd.DataFrame | None:
        """The rows of a finished unit, or None where it has still to be done."""
        path = self.folder / f"{name}.parquet"
        if not path.exists():
            return None
        try:
            return pd.read_parquet(path)
        except Exception:  # pyarrow raises many types for a cut file; the unit is simply done again
            path.unlink(missing_ok=True)
            return None

    def commit(self, name: str, rows: pd.DataFrame) -> None:
        """Store a unit's rows for good, all or nothing."""
        path = self.folder / f"{name}.parquet"
        temporary = self.folder / f".writing-{uuid.uuid4().hex}"
        try:
            rows.to_parquet(temporary, index=False)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)
                temporary.unlink()
            except FileExistsError:
                temporary.unlink()
            except OSError:
                # No hard links on this file system. Names tell the content, so that either writer is right.
                temporary.replace(path)
        except OSError as error:
            raise InputError(
                f"Cannot write {path}: {error.strerror or error}. Free space, then run the same command again: "
                "finished work is kept."
            ) from None


def write_table(path: Path, table: Table) -> None:
    """Write the three Parquet files, each replaced in one step."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        for name in ("models", "pairs", "configurations"):
            temporary = path / f".writing-{uuid.uuid4().hex}"
            getattr(table, name).to_parquet(temporary, index=False)
            temporary.replace(path / f"{name}.parquet")
    except OSError as error:
        raise InputError(
            f"Cannot write the table {path}: {error.strerror or error}. Choose a folder that you may write to."
        ) from None


def read_table(path: str | Path) -> Table:
    """Read a table written by `mdjax measure`."""
    path = Path(path)
    return Table(*(_read_parquet(path / f"{name}.parquet", path) for name in ("models", "pairs", "configurations")))


def read_configurations(path: str | Path) -> pd.DataFrame:
    """The configurations of a table folder, or the rows of one .parquet or .csv file with the published columns."""
    path = Path(path)
    if path.is_dir():
        return _read_parquet(path / "configurations.parquet", path)
    if path.suffix == ".csv" and path.is_file():
        try:
            return pd.read_csv(path)
        except (ValueError, OSError) as error:
            raise InputError(f"Cannot read {path}: {error}. Give a CSV file with a header line.") from None
    return _read_parquet(path, path)


def _read_parquet(path: Path, asked: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise InputError(f"{asked} is no table: {path} does not exist. Make one with 'mdjax measure'.") from None
    except Exception as error:  # pyarrow raises many types for a cut file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"Cannot read {path}: {reason}. Run 'mdjax measure' again: finished work is kept.") from None


def signed_log(value: Any) -> Any:
    """asinh(x / 2ε) + ln ε with ε = 1e-3: the natural logarithm above about 10 ε, and finite and ordered below.

    The published features are ln of a mean, which a negative trace turns into NaN; this agrees with it to 1e-4
    from x = 0.1 on.
    """
    return np.arcsinh(np.asarray(value) / (2 * SMALLEST_CURVATURE)) + math.log(SMALLEST_CURVATURE)


def aggregate(models: pd.DataFrame, pairs: pd.DataFrame, *, num_train: int) -> pd.DataFrame:
    """Aggregate the seeds of each configuration into the published features, each with a standard error `<name>_se`.

    Errors and accuracies in percent, losses in nats; `hessian_e` and `hessian_t` are the logarithm of the mean
    over the seeds (`signed_log`); connectivity and CKA are means over pairs. `data` is the data share in tenths
    and `data_amount` the number of examples of `num_train`, as in the published dataset. Every feature is taken
    over the models or pairs that have it; a configuration of which none has it keeps its row with NaN there, and
    `status` gives the first thing that went wrong with any of its models or pairs.
    """
    facts = [name for name in _FACTS if name in models]
    grouped = models.groupby("configuration", sort=False)
    table = grouped[facts].first()
    table["num_models"] = grouped.size()
    table["status"] = _status(table.index, models, pairs)
    for name in ("train_loss", "test_loss", "train_error", "test_error"):
        if name in models:
            table[name], table[f"{name}_se"] = _mean_and_se(table.index, models, name)
    for name in ("train", "test"):
        if f"{name}_error" in table:
            table[f"{name}_acc"] = 100 - table[f"{name}_error"]
    if {"train_acc", "test_acc"} <= set(table):
        table["generalization_gap"] = table["train_acc"] - table["test_acc"]
    for name, column, own_error in (
        ("hessian_e", "hessian_eigenvalue", "hessian_eigenvalue_residual"),
        ("hessian_t", "hessian_trace", "hessian_trace_se"),
    ):
        if column in models:
            mean, error = _mean_and_se(table.index, models, column, own_error)
            table[name] = signed_log(mean)
            # d asinh(x/2ε)/dx
            table[f"{name}_se"] = error / np.sqrt(mean**2 + 4 * SMALLEST_CURVATURE**2)
    for name in ("mode_connectivity", "mode_connectivity_peak", "CKA"):
        if name in pairs:
            mean, error = _mean_and_se(table.index, pairs, name)
            shared = _jackknife_se(pairs, name).reindex(table.index)
            table[name], table[f"{name}_se"] = mean, shared.fillna(error)

    share = pd.to_numeric(table["data_share"]).fillna(1.0) if "data_share" in table else pd.Series(1.0, table.index)
    table["data"] = share * 10
    table["data_amount"] = (num_train * share).round(6).astype(int)
    table["log_data_amount"] = np.log(table["data_amount"])
    table["para_amount"] = table["num_params"]
    table["log_para_amount"] = np.log(table["para_amount"].astype(float))
    if "batch_size" in table:
        table["bs"] = table["batch_size"]
        table["log_bs"] = np.log(table["bs"].astype(float))
    return table.reset_index()


def _mean_and_se(
    index: pd.Index, rows: pd.DataFrame, column: str, own_error: str | None = None
) -> tuple[pd.Series, pd.Series]:
    """Mean over a configuration's rows that have the column, and its standard error from their spread."""
    values = rows.groupby("configuration")[column]
    mean = values.mean().reindex(index)
    error = (values.std() / np.sqrt(values.count())).reindex(index)
    if own_error is not None:
        # One model shows no spread between seeds; its estimator's own error is what is known.
        error = error.fillna(rows.groupby("configuration")[own_error].mean().reindex(index))
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


def _status(index: pd.Index, models: pd.DataFrame, pairs: pd.DataFrame) -> pd.Series:
    rows = pd.concat(
        [frame[["configuration", "status"]].assign(kind=kind) for frame, kind in ((models, "models"), (pairs, "pairs"))]
    )
    found: dict[Any, str] = {}
    for (name, kind), members in rows.groupby(["configuration", "kind"]):
        bad = members.loc[members["status"] != "ok", "status"]
        if len(bad) and name not in found:
            found[name] = f"{len(bad)} of {len(members)} {kind}: {bad.iloc[0]}"
    return pd.Series([found.get(name, "ok") for name in index], index, dtype="str")
