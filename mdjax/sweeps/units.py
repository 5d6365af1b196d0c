"""A manifest → units of work: members of one metric that are measured together, and names that tell them for good.

A unit's name and the keys of its rows are digests of all that decides their values. They depend neither on the order
in which models were added to the zoo nor on other models: a zoo that grows leaves the work that is done as it is.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from mdjax.errors import InputError
from mdjax.metrics import Metric
from mdjax.metrics.contract import Member
from mdjax.models import Architecture
from mdjax.models.architecture import parse_shape, shape_text
from mdjax.statuses import StatusCode
from mdjax.sweeps.descriptions import described
from mdjax.tasks import CLASSIFICATION, Classification
from mdjax.zoo.data import Dataset
from mdjax.zoo.fits import check_asked
from mdjax.zoo.store import shape_on

_VERSION = 8
"""Of the measurements. Raise it with every change that moves a metric's values or adds to its rows: what an earlier
version measured is then measured again, and a table never holds rows of two versions."""

_ARCHITECTURE = [field.name for field in dataclasses.fields(Architecture)]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """Models of one architecture that share their training data, whole configurations of them.

    `rows` are those of the manifest in the order of configurations and seeds, with each model's index among the seeds
    of its configuration in `seed_index`.
    """

    rows: pd.DataFrame
    architecture: Architecture | None
    data_share: float
    label_noise: float

    @functools.cached_property
    def models(self) -> list[tuple[str, str]]:
        """Each model's id and the digest of its weights."""
        return list(zip(self.rows["model_id"].tolist(), self.rows["weights_hash"].tolist()))

    @functools.cached_property
    def groups(self) -> list[str]:
        """Each model's group in the zoo."""
        return self.rows["group"].tolist()

    @functools.cached_property
    def configurations(self) -> list[str]:
        """Each model's configuration."""
        return self.rows["configuration"].tolist()

    @functools.cached_property
    def num_params(self) -> int:
        """Parameters of each of the models."""
        return int(self.rows["num_params"].iloc[0])

    def members(self, metric: Metric) -> list[Member]:
        """The members of a metric, as indices into the rows."""
        return metric.members(self.configurations, self.rows["seed_index"].tolist())


class Unit(NamedTuple):
    """Members of one metric that are measured together, whose rows are kept together."""

    metric: Metric
    cell: Cell
    members: tuple[Member, ...]  # indices into the cell's rows
    keys: tuple[str, ...]  # of their rows
    name: str

    def part(self, indices: Sequence[int]) -> "Unit":
        """Some of its members as a unit of their own."""
        keys = tuple(self.keys[index] for index in indices)
        prefix = self.name.rpartition("-")[0]
        return self._replace(
            members=tuple(self.members[index] for index in indices), keys=keys, name=_name(prefix, keys)
        )


def identity(cell: Cell, member: Member) -> tuple[str, ...]:
    """What the row of a member is about, in its frame's columns: a model, or a configuration and two models of it."""
    names = tuple(cell.models[index][0] for index in member)
    return names if len(names) == 1 else (cell.configurations[member[0]], *names)


def cells(manifest: pd.DataFrame, dataset: Dataset) -> list[Cell]:
    """The models that can be measured, by architecture and training data.

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
        parts = rows.groupby([*architectures, "data_share", "label_noise"], sort=False)
    else:
        parts = rows.groupby(["data_share", "label_noise"], sort=False)
    found: list[Cell] = []
    for _, cell in parts:
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
        found.append(Cell(cell, architecture, share, noise))
    return found


def _check_fit(architecture: Architecture, dataset: Dataset) -> None:
    if architecture.input_shape != dataset.input_shape:
        raise InputError(
            f"The zoo's models read inputs of shape {architecture.input_shape}, but {dataset.name} has "
            f"{dataset.input_shape}. Give the data they were trained on with --data."
        )
    if architecture.reads_tokens:
        if not 0 < dataset.num_tokens <= architecture.num_tokens:
            found = f", {dataset.num_tokens} tokens" if dataset.num_tokens else ""
            raise InputError(
                f"The zoo's models read {architecture.num_tokens} tokens, but the inputs of {dataset.name} are "
                f"{dataset.input_form}{found}. Give the data that they were trained on."
            )
    elif not dataset.reads_floats:
        raise InputError(
            f"The zoo's models read floats, but the inputs of {dataset.name} are {dataset.input_form}. "
            "Give pixels as uint8 in an .npz, or floats as they read them."
        )
    check_asked(architecture.family, dataset)
    if not isinstance(dataset.task, Classification):
        if dataset.num_classes and architecture.num_classes != dataset.num_classes:
            raise InputError(
                f"The zoo's models have {architecture.num_classes} outputs, but {dataset.name} takes "
                f"{dataset.num_classes} for {dataset.task.name}. Give the data and the task that they were trained on."
            )
    elif architecture.num_classes < dataset.num_classes:
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


def units(metric: Metric, cell: Cell, limit: int, dataset: Dataset, seed: int) -> Iterator[Unit]:
    """The units of a metric's members in a cell.

    metric: what is measured.
    cell: the models.
    limit: about how many of the metric's runs a unit takes.
    dataset, seed: with which its members are measured.
    """
    prefix = f"{metric.name}-{digest([_VERSION, described(metric), seed, dataset.fingerprint], 6)}"
    own: list[Any] = [prefix, cell.data_share, cell.label_noise]
    if cell.architecture is not None and cell.architecture.variant:
        # The same weights are another function with another nonlinearity.
        own.append(cell.architecture.variant)
    if dataset.task != CLASSIFICATION:
        own.append(described(dataset.task))
    start = hashlib.blake2b(json.dumps(own).encode(), digest_size=12)

    def key(member: Member) -> str:
        digest = start.copy()
        digest.update(json.dumps([cell.models[index] for index in member]).encode())
        return digest.hexdigest()

    for members in _blocks(metric, cell, limit):
        keys = tuple(map(key, members))
        yield Unit(metric, cell, tuple(members), keys, _name(prefix, keys))


def _blocks(metric: Metric, cell: Cell, limit: int) -> Iterator[list[Member]]:
    """Members in blocks of about `limit` runs, those together that are likely to come together into any other zoo.

    Models of a group of the zoo, pairs of a configuration: both change as a whole, if at all, so that the blocks of a
    zoo that grows are mostly those of before.
    """
    places = cell.groups if metric.frame == "models" else cell.configurations
    bundles: dict[str, list[Member]] = {}
    for member in cell.members(metric):
        bundles.setdefault(places[member[0]], []).append(member)
    block: list[Member] = []
    size = 0
    for place in sorted(bundles):
        bundle = bundles[place]
        # A model's pass that serves many pairs is made once, and they stay together.
        is_shared = metric.runs_of(bundle[0]) != (bundle[0],)
        parts = [bundle] if is_shared else [bundle[at : at + limit] for at in range(0, len(bundle), limit)]
        for part in parts:
            runs = len(metric.runs(part)) if is_shared else len(part)
            if block and size + runs > limit:
                yield block
                block, size = [], 0
            block, size = block + part, size + runs
    if block:
        yield block


def kinds(units: Iterable[Unit]) -> set[str]:
    """What all units of a metric share in their names: it tells the metric, its settings, the seed and the data."""
    return {unit.name.rpartition("-")[0] for unit in units}


def _name(prefix: str, keys: Sequence[str]) -> str:
    return f"{prefix}-{digest(list(keys), 12)}"


def digest(content: Any, size: int = 12) -> str:
    """A short name for what JSON can hold, in hexadecimal digits, two for each of `size` bytes."""
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=size).hexdigest()
