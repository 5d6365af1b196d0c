"""A manifest → units of work: models that are loaded together, and a name for the result of each metric on them."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mdjax.errors import InputError
from mdjax.metrics import Metric
from mdjax.models import Architecture
from mdjax.models.architecture import parse_shape, shape_text
from mdjax.statuses import StatusCode
from mdjax.sweeps.descriptions import described
from mdjax.zoo.data import Dataset
from mdjax.zoo.store import shape_on

_VERSION = 6
"""Of the measurements. Raise it with every change that moves a metric's values or adds to its rows: what an earlier
version measured is then measured again, and a table never holds rows of two versions."""

_ARCHITECTURE = [field.name for field in dataclasses.fields(Architecture)]


@dataclasses.dataclass(frozen=True)
class Unit:
    """Whole configurations of one architecture that share their training data: what is loaded and kept together.

    `rows` are those of the manifest, with each model's index among the seeds of its configuration in `seed_index`.
    """

    rows: pd.DataFrame
    architecture: Architecture | None
    data_share: float
    label_noise: float


def units(manifest: pd.DataFrame, dataset: Dataset, limit: int) -> Iterator[Unit]:
    """Split the models that can be measured into units of about `limit` models, whole configurations each.

    Raises InputError for models that do not read the data.
    """
    # A model's index among its seeds decides its pairs: a broken one must not change those of the others.
    manifest = manifest[manifest["status_code"] != StatusCode.COPY]
    indices = manifest.sort_values("seed").groupby("configuration").cumcount()
    rows = manifest.assign(seed_index=indices)[manifest["status_code"] == StatusCode.OK]
    for name, default in (("data_share", 1.0), ("label_noise", 0.0)):
        known = rows[name] if name in rows else pd.Series(np.nan, rows.index)
        rows[name] = pd.to_numeric(known).fillna(default)
    architectures = _ARCHITECTURE if "family" in rows else []
    if architectures:
        texts = rows["input_shape"]
        rows["input_shape_told"] = texts
        rows["input_shape"] = [shape_text(shape_on(text, dataset.input_shape)) for text in texts]
        rows = rows.sort_values([*architectures, "data_share", "label_noise", "configuration", "seed"])
        cells = rows.groupby([*architectures, "data_share", "label_noise"], sort=False)
    else:
        cells = rows.groupby(["data_share", "label_noise"], sort=False)
    for _, cell in cells:
        first = {str(name): value for name, value in cell.iloc[0].items()}
        share, noise = first["data_share"], first["label_noise"]
        architecture = None
        if architectures:
            fields = {name: first[name] for name in architectures}
            fields["input_shape"] = parse_shape(first["input_shape"])
            architecture = Architecture(**fields)
        if architecture is not None:
            _check_fit(architecture, dataset)
            _check_weights(architecture, first, set(cell["input_shape_told"]))
        members: list[pd.DataFrame] = []
        for _, configuration in cell.groupby("configuration", sort=False):
            if members and sum(map(len, members)) + len(configuration) > limit:
                yield Unit(pd.concat(members), architecture, share, noise)
                members = []
            members.append(configuration)
        yield Unit(pd.concat(members), architecture, share, noise)


def _check_fit(architecture: Architecture, dataset: Dataset) -> None:
    if architecture.input_shape != dataset.input_shape:
        raise InputError(
            f"The zoo's models read inputs of shape {architecture.input_shape}, but {dataset.name} has "
            f"{dataset.input_shape}. Give the data they were trained on with --data."
        )
    if dataset.x_train.dtype.kind != "f":
        raise InputError(
            f"The zoo's models read floats, but the inputs of {dataset.name} are {dataset.x_train.dtype}. "
            "Give pixels as uint8 in an .npz, or floats as they read them."
        )
    if architecture.num_classes < dataset.num_classes:
        raise InputError(
            f"The zoo's models tell {architecture.num_classes} classes apart, but {dataset.name} has "
            f"{dataset.num_classes}. Give the data they were trained on with --data."
        )


def _check_weights(architecture: Architecture, row: dict[str, Any], told: set[str]) -> None:
    """A shape that the data told makes the network that was saved; where the zoo told it the group is checked."""
    if told == {shape_text(architecture.input_shape)}:
        return
    if architecture.num_params != row.get("num_params", architecture.num_params):
        raise InputError(
            f"The zoo's models have {row['num_params']} parameters, but would have {architecture.num_params} if they "
            f"read inputs of shape {architecture.input_shape}. Give the data they were trained on with --data."
        )


def unit_name(metric: Metric, unit: Unit, dataset: Dataset, seed: int) -> str:
    """The name under which a metric's rows of a unit are kept: a digest of all that decides their values.

    metric: its class and settings (and, for a user's own class, its code: `mdjax.sweeps.descriptions`).
    unit: the models' ids and weights, the share of the data and the label noise.
    dataset: the content of its arrays.
    seed: of the random numbers.
    """
    models = unit.rows[["model_id", "weights_hash"]].to_numpy().tolist()
    content = [_VERSION, described(metric), seed, dataset.fingerprint, unit.data_share, unit.label_noise, models]
    if unit.architecture is not None and unit.architecture.variant:
        # The same weights are another function with another nonlinearity.
        content.append(unit.architecture.variant)
    return f"{metric.name}-{hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()}"
