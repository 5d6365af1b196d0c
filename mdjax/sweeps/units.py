"""A manifest → units of work: models that are loaded together, the pairs among them, and a name for each result."""

import dataclasses
import functools
import hashlib
import inspect
import itertools
import json
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from mdjax.errors import InputError
from mdjax.metrics import Metric
from mdjax.models import Architecture
from mdjax.models.architecture import parse_shape
from mdjax.zoo.data import Dataset

_RESULTS = 3
"""Raised by every change that moves a metric's values, so that a table never mixes old ones with new."""

_ARCHITECTURE = [field.name for field in dataclasses.fields(Architecture)]


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Whole configurations of one architecture that share their training data: what is loaded together."""

    rows: pd.DataFrame
    architecture: Architecture | None
    data_share: float
    label_noise: float


def chunks(manifest: pd.DataFrame, dataset: Dataset, limit: int) -> Iterator[Chunk]:
    """Split the models that can be measured into chunks of about `limit` models, whole configurations each."""
    # A model's place among its seeds decides its pairs: a broken one must not change those of the others.
    places = manifest.sort_values("seed").groupby("configuration").cumcount()
    rows = manifest.assign(place=places)[manifest["status"] == "ok"]
    for name, default in (("data_share", 1.0), ("label_noise", 0.0)):
        known = rows[name] if name in rows else pd.Series(np.nan, rows.index)
        rows[name] = pd.to_numeric(known).fillna(default)
    architectures = _ARCHITECTURE if "family" in rows else []
    if architectures:
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
        members: list[pd.DataFrame] = []
        for _, configuration in cell.groupby("configuration", sort=False):
            if members and sum(map(len, members)) + len(configuration) > limit:
                yield Chunk(pd.concat(members), architecture, share, noise)
                members = []
            members.append(configuration)
        yield Chunk(pd.concat(members), architecture, share, noise)


def _check_fit(architecture: Architecture, dataset: Dataset) -> None:
    if architecture.input_shape != dataset.input_shape:
        raise InputError(
            f"The zoo's models read inputs of shape {architecture.input_shape}, but {dataset.name} has "
            f"{dataset.input_shape}. Give the data they were trained on with --data."
        )
    if architecture.num_classes < dataset.num_classes:
        raise InputError(
            f"The zoo's models tell {architecture.num_classes} classes apart, but {dataset.name} has "
            f"{dataset.num_classes}. Give the data they were trained on with --data."
        )


def unit_name(metric: Metric, chunk: Chunk, dataset: Dataset, seed: int) -> str:
    models = chunk.rows[["model_id", "weights_hash"]].to_numpy().tolist()
    content = [_RESULTS, _described(metric), seed, dataset.fingerprint, chunk.data_share, chunk.label_noise, models]
    if chunk.architecture is not None and chunk.architecture.variant:
        # The same weights are another function with another nonlinearity.
        content.append(chunk.architecture.variant)
    return f"{metric.name}-{hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()}"


def _described(value: Any) -> str:
    """Settings as text that is the same in every process, whatever module a class or function stands in."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(
            f"{field.name}={_described(getattr(value, field.name))}" for field in dataclasses.fields(value)
        )
        return f"{type(value).__qualname__}({fields})"
    if isinstance(value, functools.partial):
        parts = (value.func, value.args, tuple(sorted(value.keywords.items())))
        return f"partial({', '.join(map(_described, parts))})"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_described, value))})"
    function = inspect.unwrap(value) if callable(value) else None
    if isinstance(function, types.FunctionType):
        body = _described_code(function.__code__, function.__doc__)
        # Two functions made by one `def` differ in what they close over.
        cells = [cell.cell_contents for cell in function.__closure__ or ()]
        body += _described([*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *cells])
        return f"{function.__qualname__}:{hashlib.blake2b(body.encode(), digest_size=8).hexdigest()}"
    return repr(value)


def _described_code(code: types.CodeType, doc: str | None = None) -> str:
    """What a function computes: its instructions, names and constants, but not its docstring."""

    def described(constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return _described_code(constant)
        # Sets of texts come in another order in each process.
        return repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)

    constants = [described(constant) for constant in code.co_consts if doc is None or constant != doc]
    return f"{code.co_code!r}{code.co_names!r}{constants!r}"


def pairs_of(rows: pd.DataFrame, which: str) -> list[tuple[int, int]]:
    """Positions of the pairs of models within each configuration; see `metrics.contract.PairMetric`."""
    found: list[tuple[int, int]] = []
    for _, members in rows.reset_index(drop=True).groupby("configuration", sort=False):
        places = members["place"].tolist()
        for first, second in itertools.combinations(range(len(members)), 2):
            place, other = places[first], places[second]
            disjoint = place % 2 == 0 and other == place + 1
            if which in ("all", "ordered") or (disjoint and (which == "disjoint" or place == 0)):
                found.append((int(members.index[first]), int(members.index[second])))
            if which == "ordered":
                found.append((found[-1][1], found[-1][0]))
    return found


def pair_row(rows: pd.DataFrame, pair: tuple[int, int]) -> dict[str, Any]:
    first, second = (rows.iloc[place] for place in pair)
    return {
        "configuration": first["configuration"],
        "model_a": first["model_id"],
        "model_b": second["model_id"],
    }
