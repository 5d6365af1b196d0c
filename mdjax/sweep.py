"""A zoo × metrics → a table: work split into units, each done once and kept, whatever happens in between."""

import dataclasses
import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from mdjax import engine, trees
from mdjax.data import Dataset, load
from mdjax.errors import InputError
from mdjax.metrics import Examples, Metric, ModeConnectivity, select
from mdjax.models import Architecture, FunctionModel, Model
from mdjax.progress import console, progress
from mdjax.table import Shards, Table, aggregate, read_table, write_table
from mdjax.zoo import DamagedGroupError, Zoo

PyTree = Any

_RESULTS = 1
"""Raised by every change that moves a metric's values, so that a table never mixes old ones with new."""

_ARCHITECTURE = [field.name for field in dataclasses.fields(Architecture)]


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """Whole configurations of one architecture that share their training data: what is loaded together."""

    rows: pd.DataFrame
    architecture: Architecture | None
    data_share: float
    label_noise: float


def measure(
    source: Zoo | str | Path | Sequence[tuple[PyTree, PyTree]],
    *,
    out: str | Path | None = None,
    data: Dataset | str | Path | None = None,
    preset: str = "default",
    metrics: str | list[str] | None = None,
    seed: int = 0,
    model: Model | Any = None,
    show_progress: bool = True,
) -> Table:
    """Measure every model of a zoo; returns the table and, with `out`, keeps it there and resumes from it.

    `source` is a zoo (or its path), or a list of (params, state) pytrees of equal shapes together with `model`:
    a pure `apply(params, state, inputs) -> logits`, or an object with `apply` and `batch_apply`
    (`mdjax.models.Model`). The list counts as seeds of one configuration, trained on all of `data`.
    `data` is a Dataset, a name or a path (default: what the zoo was trained on). `preset` and `metrics` choose
    what is measured and how accurately; `seed` moves every random number. The table holds what was asked for.

    A model with NaN weights, a damaged group or a diverged curve becomes a row whose `status` says so. A zoo's
    finished work is kept in `out` and looked up by its content (weights, data, settings), so that a killed run or a
    further metric costs only what is missing; a list of models is measured anew, since a function has no identity
    to look it up by. Raises InputError for bad arguments and for a folder that cannot be written. Cost: see the
    metrics.
    """
    chosen = select(preset, metrics)
    collection = source if isinstance(source, Zoo) else _open(source, model, chosen)
    # The folder is tried before anything is computed.
    shards = Shards(Path(out) / "shards") if out is not None else None
    if isinstance(collection, _InMemory):
        shards = None
    dataset = data if isinstance(data, Dataset) else load(data if data is not None else _trained_on(collection))
    for reason in collection.damaged.values():
        _warn(f"{reason} Its models are left out.")
    if collection.fingerprint not in (None, dataset.fingerprint) and data is None:
        _warn(f"The data {collection.data} has changed since the models were trained on it.")
    manifest = collection.manifest
    if manifest.empty:
        raise InputError(f"{source} holds no model that can be read. Train or convert some into it first.")
    chunks = list(_chunks(manifest, dataset))
    read_group = functools.lru_cache(maxsize=1)(collection.read_group)
    results: dict[str, list[pd.DataFrame]] = {metric.name: [] for metric in chosen}
    device_data = _DeviceData(dataset)
    notes: dict[str, str] = {}
    with progress("measuring", len(manifest) * len(chosen), show=show_progress) as advance:
        for chunk in chunks:
            loaded: _Loaded | None = None
            for metric in chosen:
                advance(0, title=f"measuring {metric.name}")
                name = _unit_name(metric, chunk, dataset, seed)
                rows = shards.read(name) if shards else None
                if rows is None:
                    loaded = loaded or _load(read_group, chunk, model)
                    rows = _measure_unit(metric, chunk, loaded, device_data, seed)
                    notes.update(loaded.problems)
                    # What a damaged group hides may be there next time: such a unit is not finished.
                    if shards and not loaded.problems:
                        shards.commit(name, rows)
                results[metric.name].append(rows)
                advance(len(chunk.rows))
    table = _compose(manifest, chosen, results, notes, preset, seed, len(dataset.x_train))
    if out is not None:
        write_table(Path(out), table)
        return read_table(out)  # exactly what anyone else reads there
    return table


def _warn(text: str) -> None:
    console.print(f"warning: {text}", highlight=False, markup=False)


class _InMemory:
    """A list of models with the interface of a zoo, as far as measuring needs it."""

    def __init__(self, models: Sequence[tuple[PyTree, PyTree]]):
        self.damaged: dict[str, str] = {}
        self.data = ""
        self.fingerprint = None
        try:
            # Curvature is taken in float32, whatever the weights were stored as.
            self._stacked = jax.tree.map(
                lambda leaf: leaf.astype(np.float32) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
                trees.stack(models),
            )
        except ValueError as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise InputError(
                f"The models differ in structure or shape and do not stack ({reason}). Measure each shape on its own."
            ) from None
        leaves = jax.tree.leaves(self._stacked)
        finite = np.logical_and.reduce([np.isfinite(leaf).reshape(len(models), -1).all(1) for leaf in leaves])
        self.manifest = pd.DataFrame(
            {
                "model_id": [f"model{i}" for i in range(len(models))],
                "configuration": "given",
                "seed": range(len(models)),
                "num_params": sum(leaf[0].size for leaf in jax.tree.leaves(self._stacked[0])),
                "status": np.where(finite, "ok", "weights are not finite"),
                "weights_hash": "",
                "group": "given",
                "position": range(len(models)),
            }
        )

    def read_group(self, group: str) -> tuple[PyTree, PyTree]:
        return self._stacked


def _open(source: Any, model: Any, metrics: Sequence[Metric]) -> Zoo | _InMemory:
    if isinstance(source, str | Path):
        return Zoo(source)
    if not isinstance(source, Sequence) or not source or model is None:
        given = "an empty list" if source == [] else repr(type(source).__name__)
        raise InputError(f"Cannot measure {given}. Give a zoo, or a list of (params, state) with model=apply.")
    if not isinstance(model, Model) and not callable(model):
        raise InputError(
            f"model is {type(model).__name__!r}. Give a function apply(params, state, inputs) -> logits, or an object "
            "with the methods apply and batch_apply (mdjax.models.Model)."
        )
    has_state = bool(jax.tree.leaves(source[0][1]))
    if not isinstance(model, Model) and has_state and any(isinstance(metric, ModeConnectivity) for metric in metrics):
        raise InputError(
            "Cannot re-estimate the statistics of a model given as a function with state. Give an object with apply "
            "and batch_apply (mdjax.models.Model), or leave mode_connectivity out of metrics."
        )
    return _InMemory(source)


def _trained_on(collection: Zoo | _InMemory) -> str:
    if not collection.data:
        raise InputError("No data to measure on. Name it: --data NAME|PATH, or data= in Python.")
    return collection.data


def _chunks(manifest: pd.DataFrame, dataset: Dataset) -> Iterator[_Chunk]:
    """Split the models that can be measured into chunks; the split depends on the manifest alone."""
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
    limit = engine.plan().chunk_size
    for _, cell in cells:
        first = {str(name): value for name, value in cell.iloc[0].items()}
        share, noise = first["data_share"], first["label_noise"]
        architecture = None
        if architectures:
            fields = {name: first[name] for name in architectures}
            fields["input_shape"] = tuple(int(size) for size in first["input_shape"].split("x"))
            architecture = Architecture(**fields)
        if architecture is not None:
            _check_fit(architecture, dataset)
        members: list[pd.DataFrame] = []
        for _, configuration in cell.groupby("configuration", sort=False):
            if members and sum(map(len, members)) + len(configuration) > limit:
                yield _Chunk(pd.concat(members), architecture, share, noise)
                members = []
            members.append(configuration)
        yield _Chunk(pd.concat(members), architecture, share, noise)


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


def _unit_name(metric: Metric, chunk: _Chunk, dataset: Dataset, seed: int) -> str:
    models = chunk.rows[["model_id", "weights_hash"]].to_numpy().tolist()
    content = [_RESULTS, repr(metric), seed, dataset.fingerprint, chunk.data_share, chunk.label_noise, models]
    return f"{metric.name}-{hashlib.blake2b(json.dumps(content).encode(), digest_size=12).hexdigest()}"


class _DeviceData:
    """The data on the device, once; labels once per noise level."""

    def __init__(self, dataset: Dataset):
        self._dataset = dataset
        self._inputs = jnp.asarray(dataset.x_train), jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test)
        self._labels: dict[float, jax.Array] = {}

    def examples(self, data_share: float, label_noise: float) -> Examples:
        if label_noise not in self._labels:
            self._labels[label_noise] = jnp.asarray(self._dataset.train_labels(label_noise))
        x_train, x_test, y_test = self._inputs
        count = jnp.asarray(self._dataset.subset_size(data_share))
        return Examples(x_train, self._labels[label_noise], count, x_test, y_test)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A chunk's models in memory: those that could be read, and why the others could not."""

    rows: pd.DataFrame
    params: PyTree
    state: PyTree
    model: Model
    problems: dict[str, str]


def _load(read_group: Callable[[str], tuple[PyTree, PyTree]], chunk: _Chunk, model: Any) -> _Loaded:
    pieces: list[PyTree] = []
    kept: list[pd.DataFrame] = []
    problems: dict[str, str] = {}
    for group, members in chunk.rows.groupby("group", sort=False):
        try:
            pieces.append(trees.take(read_group(str(group)), members["position"].to_numpy()))
            kept.append(members)
        except DamagedGroupError as error:
            problems.update(dict.fromkeys(members["model_id"], str(error)))
    if chunk.architecture is not None:
        model = chunk.architecture.model(engine.plan().convolution)
    elif not isinstance(model, Model):
        model = FunctionModel(model)
    rows = pd.concat(kept) if kept else chunk.rows.iloc[:0]
    if not kept:
        return _Loaded(rows, {}, {}, model, problems)
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    order = rows.reset_index(drop=True).sort_values(["configuration", "seed"]).index.to_numpy()
    params, state = trees.take(stacked, order)
    return _Loaded(rows.iloc[order], params, state, model, problems)


def _measure_unit(metric: Metric, chunk: _Chunk, loaded: _Loaded, data: _DeviceData, seed: int) -> pd.DataFrame:
    """The rows of one metric on one chunk: of models, or of pairs."""
    names = loaded.rows["model_id"].tolist()
    if not names:
        return pd.DataFrame()
    examples = data.examples(chunk.data_share, chunk.label_noise)
    plan = engine.plan()
    options: dict[str, Any] = {"seed": seed, "batching": plan.batching, "pad_to": plan.chunk_size}
    arrays = (loaded.model, loaded.params, loaded.state)
    if metric.scope != "model":
        pairs = _pairs(loaded.rows, getattr(metric, "pairs", "all"))
        rows = [_pair_row(loaded.rows, pair) for pair in pairs]
        if metric.scope == "features":
            features = engine.measure_features(metric, *arrays, examples, **options)
            columns = [metric.compare(features[i], features[j]) for i, j in pairs]
        else:
            identities = [f"{row['model_a']}|{row['model_b']}" for row in rows]
            options["pad_to"] = plan.chunk_size // 2
            columns = engine.measure_pairs(metric, loaded.model, *arrays[1:], pairs, examples, identities, **options)
    else:
        rows = [{"model_id": name} for name in names]
        columns = engine.measure_models(metric, *arrays, examples, names, **options)
    return pd.DataFrame([row | _with_status(found) for row, found in zip(rows, columns, strict=True)])


def _with_status(columns: dict[str, Any]) -> dict[str, Any]:
    status = columns.get("status", "ok")
    if status == "ok":
        bad = [name for name, value in columns.items() if isinstance(value, float) and not np.isfinite(value)]
        status = f"{bad[0]} is not finite" if bad else "ok"
    return {**columns, "status": status}


def _pairs(rows: pd.DataFrame, which: str) -> list[tuple[int, int]]:
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
                found.append(found[-1][::-1])
    return found


def _pair_row(rows: pd.DataFrame, pair: tuple[int, int]) -> dict[str, Any]:
    first, second = (rows.iloc[place] for place in pair)
    return {
        "configuration": first["configuration"],
        "model_a": first["model_id"],
        "model_b": second["model_id"],
    }


def _compose(
    manifest: pd.DataFrame,
    chosen: Sequence[Metric],
    results: dict[str, list[pd.DataFrame]],
    notes: dict[str, str],
    preset: str,
    seed: int,
    num_train: int,
) -> Table:
    """Join the units into the three frames; every model of the manifest keeps its row, in the manifest's order."""
    models = manifest.copy()
    models["status"] = [
        notes.get(name, status) for name, status in zip(models["model_id"], models["status"], strict=True)
    ]
    models["preset"] = preset
    models["measure_seed"] = seed
    pairs = pd.DataFrame({"configuration": [], "model_a": [], "model_b": [], "status": []}, dtype=str)
    for metric in chosen:
        parts = [part for part in results[metric.name] if len(part)]
        if not parts:
            continue
        found = pd.concat(parts, ignore_index=True)
        if metric.scope == "model":
            models = _join(models, found, ["model_id"], "left")
        else:
            pairs = _join(pairs, found, ["configuration", "model_a", "model_b"], "outer")
    # An outer join sorts by id; models keep the manifest's order, and pairs get that of their first model.
    place = {name: number for number, name in enumerate(models["model_id"])}
    pairs = pairs.sort_values(
        ["model_a", "model_b"], key=lambda column: column.map(place), ignore_index=True, kind="stable"
    )
    pairs["preset"] = preset
    pairs["measure_seed"] = seed
    return Table(models, pairs, aggregate(models, pairs, num_train=num_train))


def _join(left: pd.DataFrame, right: pd.DataFrame, keys: list[str], how: Any) -> pd.DataFrame:
    """Merge, and keep the first status that is not "ok"."""
    merged = left.merge(right, on=keys, how=how, suffixes=("", "_new"))
    if "status_new" in merged:
        old = merged["status"].fillna("ok")
        merged["status"] = old.where(old != "ok", merged["status_new"].fillna("ok"))
        merged = merged.drop(columns="status_new")
    return merged
