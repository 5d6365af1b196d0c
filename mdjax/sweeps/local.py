"""A zoo × metrics → a table: work split into units, each done once and kept, whatever happens in between."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdjax.engine import programs as engine
from mdjax.engine import stacks
from mdjax.engine.compilation import keep_compiled_programs
from mdjax.engine.plan import Plan, default_plan
from mdjax.errors import InputError
from mdjax.metrics import Examples, Metric, select
from mdjax.models import Architecture, FunctionModel, Model
from mdjax.progress import console, progress
from mdjax.sweeps.units import Chunk, chunks, pair_row, pairs_of, unit_name
from mdjax.table import Shards, Table, aggregate, read_table, write_table
from mdjax.zoo.data import Dataset, load
from mdjax.zoo.store import DamagedGroupError, Zoo

PyTree = Any
Source = Zoo | str | Path | Sequence[tuple[PyTree, PyTree]]

_UNIT_SIZE = 16
"""Models loaded together and kept as one unit of work, where a device takes no more at a time."""


def measure(
    source: Source,
    *,
    out: str | Path | None = None,
    data: Dataset | str | Path | None = None,
    preset: str = "default",
    metrics: str | Sequence[str | Metric] | None = None,
    settings: Sequence[str] = (),
    seed: int = 0,
    model: Model | Any = None,
    mesh: Mesh | None = None,
    show_progress: bool = True,
) -> Table:
    """Measure every model of a zoo; returns the table and, with `out`, keeps it there and resumes from it.

    `source` is a zoo (or its path), or a list of (params, state) pytrees of equal shapes together with `model`:
    a pure `apply(params, state, inputs) -> logits`, or an object with `apply` and `batch_apply`
    (`mdjax.models.Model`). The list counts as seeds of one configuration, trained on all of `data`.
    `data` is a Dataset, a name or a path (default: what the zoo was trained on). `preset`, `metrics` (names or metric
    objects) and `settings` ("metric.setting=value") choose what is measured and how accurately; `seed` moves every
    random number. The table holds what was asked for. `mesh` spreads the models over its axis "models" and, where
    it has one, the examples of every batch over its axis "data".

    A model with NaN weights, a damaged group or a diverged curve becomes a row whose `status` says so. A zoo's
    finished work is kept in `out` and looked up by its content (weights, data, settings), so that a killed run or a
    further metric costs only what is missing; a list of models is measured anew, since a function has no identity
    to look it up by. Raises InputError for bad arguments and for a folder that cannot be written. Cost: see the
    metrics; the table records each metric's seconds.
    """
    keep_compiled_programs()
    work = _prepare(source, data, select(preset, metrics, settings), model, default_plan(mesh))
    # The folder is tried before anything is computed.
    shards = Shards(Path(out) / "shards") if out is not None else None
    if isinstance(work.collection, _InMemory):
        shards = None
    for reason in work.collection.damaged.values():
        _warn(f"{reason} Its models are left out.")
    if work.collection.fingerprint not in (None, work.dataset.fingerprint) and data is None:
        _warn(f"The data {work.collection.data} has changed since the models were trained on it.")
    read_group = functools.lru_cache(maxsize=1)(work.collection.read_group)
    results: dict[str, list[pd.DataFrame]] = {metric.name: [] for metric in work.metrics}
    device_data = _DeviceData(work.dataset, work.plan)
    notes: dict[str, str] = {}
    with progress("measuring", len(work.manifest) * len(work.metrics), show=show_progress) as advance:
        for chunk in work.chunks:
            loaded: _Loaded | None = None
            for metric in work.metrics:
                advance(0, title=f"measuring {metric.name}")
                name = unit_name(metric, chunk, work.dataset, seed)
                rows = shards.read(name) if shards else None
                if rows is None:
                    loaded = loaded or _load(read_group, chunk, model, work.plan)
                    rows = _measure_unit(metric, chunk, loaded, device_data, seed, work.plan)
                    notes.update(loaded.problems)
                    # What a damaged group hides may be there next time: such a unit is not finished.
                    if shards and not loaded.problems:
                        shards.commit(name, rows)
                results[metric.name].append(rows)
                advance(len(chunk.rows))
    table = _compose(work.manifest, work.metrics, results, notes, preset, seed, len(work.dataset.x_train))
    if out is not None:
        write_table(Path(out), table)
        return read_table(out)  # exactly what anyone else reads there
    return table


def preview(
    source: Source,
    *,
    data: Dataset | str | Path | None = None,
    preset: str = "default",
    metrics: str | Sequence[str | Metric] | None = None,
    settings: Sequence[str] = (),
    model: Model | Any = None,
    mesh: Mesh | None = None,
) -> pd.DataFrame:
    """How `measure` would run: a row per architecture and metric, by compiling its programs and running none.

    Columns: `architecture`, `metric`, `members` (models or pairs to measure), `devices`, `convolution`, `batching`,
    `per_call` (members of one call on each device), `calls`, and `memory`, the bytes a call takes on each device by
    the compiler's own account. The compiled programs are kept for the run to come. Raises what `measure` raises.
    """
    keep_compiled_programs()
    work = _prepare(source, data, select(preset, metrics, settings), model, default_plan(mesh))
    plan, rows = work.plan, []
    device_data = _DeviceData(work.dataset, plan)
    by_architecture: dict[Any, list[Chunk]] = {}
    for chunk in work.chunks:
        by_architecture.setdefault(chunk.architecture, []).append(chunk)
    for architecture, members in by_architecture.items():
        examples = device_data.examples(members[0].data_share, members[0].label_noise)
        if architecture is None:
            params, state = jax.tree.map(lambda leaf: leaf[0], work.collection.read_group("given"))
        else:
            params, state = architecture.abstract
        for metric in work.metrics:
            counts = [_num_members(metric, chunk) for chunk in members]
            if not sum(counts):
                continue
            runner = _runner(architecture, model, plan)
            need = engine.memory_need(metric, runner, params, state, examples, max(counts), plan)
            per_call = need.chunk_size * plan.num_shards
            rows.append(
                {
                    "architecture": "given" if architecture is None else f"{architecture.family}-w{architecture.width}",
                    "metric": metric.name,
                    "members": sum(counts),
                    "devices": 1 if plan.mesh is None else plan.mesh.size,
                    "convolution": plan.convolution,
                    "batching": plan.batching_of(need.chunk_size),
                    "per_call": need.chunk_size,
                    "calls": sum(-(-count // per_call) for count in counts),
                    "memory": need.bytes,
                }
            )
    return pd.DataFrame(rows)


def _num_members(metric: Metric, chunk: Chunk) -> int:
    return len(pairs_of(chunk.rows, metric.pairs)) if metric.scope == "pair" else len(chunk.rows)  # pyright: ignore[reportAttributeAccessIssue]


@dataclasses.dataclass(frozen=True)
class _Work:
    """What is to be measured, on what, in which order and how."""

    collection: "Zoo | _InMemory"
    dataset: Dataset
    manifest: pd.DataFrame
    metrics: tuple[Metric, ...]
    chunks: list[Chunk]
    plan: Plan


def _prepare(source: Source, data: Any, metrics: tuple[Metric, ...], model: Any, plan: Plan) -> _Work:
    collection = source if isinstance(source, Zoo) else _open(source, model, metrics)
    dataset = data if isinstance(data, Dataset) else load(data if data is not None else _trained_on(collection))
    manifest = collection.manifest
    if manifest.empty:
        raise InputError(f"{source} holds no model that can be read. Train or convert some into it first.")
    limit = max(_UNIT_SIZE, plan.models_per_call)
    return _Work(collection, dataset, manifest, metrics, list(chunks(manifest, dataset, limit)), plan)


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
                stacks.stack(models),
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
    if not isinstance(model, Model) and has_state and any(metric.scope == "pair" for metric in metrics):
        raise InputError(
            "Cannot re-estimate the statistics of a model given as a function with state. Give an object with apply "
            "and batch_apply (mdjax.models.Model), or leave mode_connectivity out of metrics."
        )
    return _InMemory(source)


def _trained_on(collection: Zoo | _InMemory) -> str:
    if not collection.data:
        raise InputError("No data to measure on. Name it: --data NAME|PATH, or data= in Python.")
    return collection.data


class _DeviceData:
    """The data on the device, once; labels once per noise level."""

    def __init__(self, dataset: Dataset, plan: Plan):
        self._dataset = dataset
        # On every device of a mesh from the start, or each call would send them there again.
        self._place = None if plan.mesh is None else NamedSharding(plan.mesh, PartitionSpec())
        self._inputs = tuple(map(self._put, (dataset.x_train, dataset.x_test, dataset.y_test)))
        self._labels: dict[float, jax.Array] = {}

    def examples(self, data_share: float, label_noise: float) -> Examples:
        if label_noise not in self._labels:
            self._labels[label_noise] = self._put(self._dataset.train_labels(label_noise))
        x_train, x_test, y_test = self._inputs
        count = self._put(self._dataset.subset_size(data_share))
        return Examples(x_train, self._labels[label_noise], count, x_test, y_test)

    def _put(self, array: Any) -> jax.Array:
        return jax.device_put(jnp.asarray(array), self._place)


@dataclasses.dataclass(frozen=True)
class _Loaded:
    """A chunk's models in memory: those that could be read, and why the others could not."""

    rows: pd.DataFrame
    params: PyTree
    state: PyTree
    model: Model
    problems: dict[str, str]


def _load(read_group: Callable[[str], tuple[PyTree, PyTree]], chunk: Chunk, model: Any, plan: Plan) -> _Loaded:
    pieces: list[PyTree] = []
    kept: list[pd.DataFrame] = []
    problems: dict[str, str] = {}
    for group, members in chunk.rows.groupby("group", sort=False):
        try:
            pieces.append(stacks.take(read_group(str(group)), members["position"].to_numpy()))
            kept.append(members)
        except DamagedGroupError as error:
            problems.update(dict.fromkeys(members["model_id"], str(error)))
    model = _runner(chunk.architecture, model, plan)
    rows = pd.concat(kept) if kept else chunk.rows.iloc[:0]
    if not kept:
        return _Loaded(rows, {}, {}, model, problems)
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *pieces)
    order = rows.reset_index(drop=True).sort_values(["configuration", "seed"]).index.to_numpy()
    params, state = stacks.take(stacked, order)
    return _Loaded(rows.iloc[order], params, state, model, problems)


def _runner(architecture: Architecture | None, model: Any, plan: Plan) -> Model:
    if architecture is not None:
        return architecture.model(plan.convolution)
    return model if isinstance(model, Model) else FunctionModel(model)


def _measure_unit(metric: Any, chunk: Chunk, loaded: _Loaded, data: _DeviceData, seed: int, plan: Plan) -> pd.DataFrame:
    """The rows of one metric on one chunk: of models, or of pairs."""
    names = loaded.rows["model_id"].tolist()
    if not names:
        return pd.DataFrame()
    examples = data.examples(chunk.data_share, chunk.label_noise)
    options: dict[str, Any] = {"seed": seed, "plan": plan, "timed": True}
    arrays = (loaded.model, loaded.params, loaded.state)
    if metric.scope == "model":
        rows = [{"model_id": name} for name in names]
        columns = engine.measure_models(metric, *arrays, examples, names, **options)
    else:
        pairs = pairs_of(loaded.rows, getattr(metric, "pairs", "all"))
        rows = [pair_row(loaded.rows, pair) for pair in pairs]
        if metric.scope == "features":
            columns = engine.compare_models(metric, *arrays, pairs, examples, **options)
        else:
            identities = [f"{row['model_a']}|{row['model_b']}" for row in rows]
            columns = engine.measure_pairs(metric, *arrays, pairs, examples, identities, **options)
    return pd.DataFrame([row | _with_status(found) for row, found in zip(rows, columns, strict=True)])


def _with_status(columns: dict[str, Any]) -> dict[str, Any]:
    status = columns.get("status", "ok")
    if status == "ok":
        bad = [name for name, value in columns.items() if isinstance(value, float) and not np.isfinite(value)]
        status = f"{bad[0]} is not finite" if bad else "ok"
    return {**columns, "status": status}


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
