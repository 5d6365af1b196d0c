"""Label noise: whether the labels of the data are redrawn as they were for training, and what is to be said of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from mdjax.columns import RECIPE
from mdjax.engine import Programs
from mdjax.engine import measure as measure_stack
from mdjax.errors import InputError
from mdjax.metrics import Losses
from mdjax.sweeps.sources import DeviceData, GivenModels, Loaded
from mdjax.sweeps.units import Cell
from mdjax.zoo.data import Dataset, is_cifar10
from mdjax.zoo.grids import Setting
from mdjax.zoo.recipes import Recipe
from mdjax.zoo.store import Zoo

LabelNoise = Literal["known", 0]
"""Redraw labels with the noise that a model is known to have been trained with, or take those of the data."""

_ANY = "*"

_NOTICEABLE = 0.02
"""The least rise of a training loss that is told, in nats."""


def label_noise_of(value: Any) -> LabelNoise | None:
    """The option as it may be given, None where it is not; InputError for anything else."""
    if value is None or value == "known":
        return value
    if not isinstance(value, bool) and value in (0, "0"):
        return 0
    raise InputError(
        f"label_noise is {value!r}. Give 'known' (labels are redrawn with the noise that each model was trained with) "
        "or 0 (the labels of the data are taken as they are)."
    )


def applied_noise(manifest: pd.DataFrame, option: LabelNoise | None) -> pd.Series:
    """The label noise that each model of a manifest is measured with."""
    if option == 0 or "label_noise" not in manifest:
        return pd.Series(0.0, manifest.index)
    return pd.to_numeric(manifest["label_noise"]).fillna(0.0).astype(float)


def is_certain(collection: Zoo | GivenModels, data: Any, dataset: Dataset) -> bool:
    """Whether the models saw these very labels redrawn: mdjax trained them on these data, or a layout of checkpoints
    says so of CIFAR-10 and that is what is given."""
    if isinstance(collection, GivenModels):
        return False
    if is_cifar10(collection.data):
        return data is None or (not isinstance(data, Dataset | tuple | list | dict) and is_cifar10(data))
    return collection.fingerprint == dataset.whole_fingerprint and _grown(collection.manifest)


def _grown(manifest: pd.DataFrame) -> bool:
    """Whether mdjax trained the models: their names then are those of their settings."""
    kinds: dict[str, Any] = {
        field.name: field.type for field in dataclasses.fields(Setting) if field.name not in ("recipe", "variant")
    }
    if not set(kinds) <= set(manifest):
        return False
    first = manifest.iloc[0]
    # Zoos grown before there were others have the usual recipe, and do not name it.
    recipe = {name: first[name] for name in RECIPE if name in manifest and not pd.isna(first[name])}
    try:
        setting = Setting(**{name: kind(first[name]) for name, kind in kinds.items()}, recipe=Recipe(**recipe))
    except (TypeError, ValueError, InputError):  # what is not known of the training
        return False
    # A manifest holds the network's own depth, a setting 0 where nobody chose it; and of a variant only what was said.
    ids = [dataclasses.replace(setting, depth=depth, variant=_ANY).model_id for depth in (setting.depth, 0)]
    if first.get("variant"):
        start, end = ids[1].split(_ANY)
        return str(first["model_id"]).startswith(start) and str(first["model_id"]).endswith(end)
    return first["model_id"] in [model_id.replace(f"-{_ANY}", "") for model_id in ids]


def notice(noise: pd.Series, option: LabelNoise | None, dataset: Dataset) -> str | None:
    """What is applied to data of which it is not certain that the models were trained on them."""
    noisy = noise[noise > 0]
    if not len(noisy):
        return "No model is known to have been trained with label noise: none is applied." if option else None
    if option is not None:
        return None
    levels = ", ".join(f"{level:g}" for level in sorted(set(noisy)))
    return (
        f"The training labels of {dataset.name} are redrawn with the label noise that {len(noisy)} of {len(noise)} "
        f"models are said to have been trained with ({levels}). Where they are noisy already, or the models learned "
        "them as they are, give --label-noise 0 (in Python label_noise=0); --label-noise known says that it is right."
    )


def rise(cell: Cell, models: Loaded, data: DeviceData, programs: Programs, seed: int) -> str | None:
    """What the redrawn labels do to the training losses of a cell's models, where most of them jump.

    cell: one with label noise.
    models: some of its models, in memory.
    data, programs, seed: as they are measured.

    Cost: two forward passes over all data.
    """
    members = [(index,) for index in range(len(models.rows))]
    clean = dataclasses.replace(cell, label_noise=0.0)
    try:
        without, redrawn = (_train_fit(members, models, data, each, programs, seed) for each in (clean, cell))
    except Exception:  # the metrics will fail by the same, and say so in their rows
        return None
    jumps = redrawn.loss - without.loss > np.maximum(_NOTICEABLE, without.loss / 4)
    if not 2 * jumps.sum() > len(members):
        return None
    rises = (
        f"With the redrawn labels the training loss of {jumps.sum()} of the first {len(members)} models rises, in the "
        f"median from {np.median(without.loss):.3g} to {np.median(redrawn.loss):.3g} nats"
    )
    # Networks that learned noisy labels, but not by heart, lose here too; they are as unsure as the noise makes them.
    if np.median(redrawn.calibration_error) < np.median(without.calibration_error):
        return f"{rises}, but fits their confidence better, as where the noise was learned and not memorised."
    return (
        f"{rises}: these may not be the labels that they were trained on. If so, give --label-noise 0 (in Python "
        "label_noise=0)."
    )


class _Fit(NamedTuple):
    """How well models fit labels, each [models]."""

    loss: np.ndarray
    calibration_error: np.ndarray


def _train_fit(
    members: Sequence[tuple[int, ...]],
    models: Loaded,
    data: DeviceData,
    cell: Cell,
    programs: Programs,
    seed: int,
) -> _Fit:
    rows = measure_stack(Losses(), models.stack, data.examples(cell), members, seed=seed, programs=programs)
    return _Fit(*(np.array([row[name] for row in rows]) for name in ("train_loss", "train_ece")))
