"""Metrics × stacked models → one row each: batched, split over devices, compiled once a shape. No files here.

The only place, beside training, that compiles and shards. A metric sees one model; here it gets the model axis.
"""

import functools
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mdjax.engine import stacks
from mdjax.engine.plan import MODELS, Plan, default_plan, memory_budget
from mdjax.landscape.limits import ProductLimits, limited
from mdjax.metrics import Examples, FeatureMetric, Metric, ModelMetric, PairMetric, Raw
from mdjax.models import Model

PyTree = Any

_fitting: dict[Any, int] = {}
"""(metric, model, plan) → models per device and call that the memory took, where it is fewer than planned."""


class Need(NamedTuple):
    """What one compiled call takes: models on each device, and bytes on each device by the compiler's account."""

    chunk_size: int
    bytes: int


def metric_key(seed: int, metric: str, identity: str = "") -> jax.Array:
    """The random key of a metric for one model or pair: from the seed, the metric's name and the identity alone."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(metric.encode()))
    return jax.random.fold_in(key, zlib.crc32(identity.encode())) if identity else key


def measure_models(
    metric: ModelMetric,
    model: Model,
    params: PyTree,
    state: PyTree,
    data: Examples,
    identities: Sequence[str],
    *,
    seed: int = 0,
    plan: Plan | None = None,
    timed: bool = False,
) -> list[dict[str, Any]]:
    """One dict of columns for each of the models stacked on axis 0 of `params` and `state`.

    `identities` name the models and seed their random numbers. The models run as `plan` says (default: what suits
    the backend); a model's row does not depend on the plan or on the other models beyond float rounding, 1e-5 of
    each value. Where the device lacks memory, fewer go together; a model that does not fit alone gets a `status`
    that says so. `timed` adds a column `<metric>_seconds`: its share of the calls' run time, compiling left out.
    """
    keys = _keys(seed, metric, identities)
    raw, seconds = _run(metric, model, (params, state, keys), data, len(identities), plan or default_plan())
    return _rows(metric, raw, seconds, timed)


def measure_pairs(
    metric: PairMetric,
    model: Model,
    params: PyTree,
    state: PyTree,
    pairs: Sequence[tuple[int, int]],
    data: Examples,
    identities: Sequence[str],
    *,
    seed: int = 0,
    plan: Plan | None = None,
    timed: bool = False,
) -> list[dict[str, Any]]:
    """One dict of columns for each pair of positions in the stack; otherwise as `measure_models`."""
    if not pairs:
        return []
    keys = _keys(seed, metric, identities)
    first, second = (stacks.take((params, state), [pair[side] for pair in pairs]) for side in (0, 1))
    raw, seconds = _run(metric, model, (first, second, keys), data, len(pairs), plan or default_plan())
    return _rows(metric, raw, seconds, timed)


def compare_models(
    metric: FeatureMetric,
    model: Model,
    params: PyTree,
    state: PyTree,
    pairs: Sequence[tuple[int, int]],
    data: Examples,
    *,
    seed: int = 0,
    plan: Plan | None = None,
    timed: bool = False,
) -> list[dict[str, Any]]:
    """One dict of columns for each pair of positions, from one pass of every model over the same inputs."""
    if not pairs:
        return []
    inputs = _draw_inputs(metric, data, metric_key(seed, metric.name))
    count = stacks.count(params)
    raw, seconds = _run(metric, model, (params, state), inputs, count, plan or default_plan())
    rows = []
    for i, j in pairs:
        start = time.perf_counter()
        first, second = raw[i], raw[j]
        columns: dict[str, Any] = {"status": _TOO_LARGE}
        if first is not None and second is not None:
            columns = metric.compare(first, second)
        if timed:
            # Every forward pass serves all pairs of its model.
            share = sum(seconds) / len(pairs)
            columns[f"{metric.name}_seconds"] = share + time.perf_counter() - start
        rows.append(columns)
    return rows


def memory_need(
    metric: Metric,
    model: Model,
    params: PyTree,
    state: PyTree,
    data: Examples,
    num_members: int,
    plan: Plan,
) -> Need:
    """What measuring one model (or pair) like `params`, `state` takes, by compiling it; nothing is run.

    `params` and `state` may be shapes without a model axis; `num_members` models or pairs are to be measured.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    if metric.scope == "model":
        member: PyTree = (params, state, key)
    elif metric.scope == "pair":
        member = ((params, state), (params, state), key)
    else:
        member = (params, state)
    shared = jax.eval_shape(metric.inputs, data, key) if metric.scope == "features" else data  # pyright: ignore[reportAttributeAccessIssue]
    return _fit(metric, model, _shapes(member), _shapes(shared), num_members, plan)[1]


_TOO_LARGE = "does not fit the device's memory, not even alone"


def _rows(metric: Any, raw: list[Raw | None], seconds: list[float], timed: bool) -> list[dict[str, Any]]:
    rows = [{"status": _TOO_LARGE} if row is None else metric.columns(row) for row in raw]
    return [row | {f"{metric.name}_seconds": taken} for row, taken in zip(rows, seconds)] if timed else rows


def _keys(seed: int, metric: Any, identities: Sequence[str]) -> jax.Array:
    return jnp.stack([metric_key(seed, metric.name, identity) for identity in identities])


def _run(
    metric: Metric, model: Model, stacked: PyTree, shared: PyTree, count: int, plan: Plan
) -> tuple[list[Raw | None], list[float]]:
    """Each member's raw result (None: too large for the device) and its share of the run time in seconds."""
    member = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stacked)
    raw: list[Raw | None] = []
    seconds: list[float] = []
    program, need = _fit(metric, model, member, _shapes(shared), count, plan)
    while len(raw) < count:
        size = need.chunk_size * plan.num_shards
        members = range(len(raw), min(len(raw) + size, count))
        # The last model fills the places that are left, so that every call has the same shape.
        chunk = stacks.take(stacked, [min(place, count - 1) for place in range(members.start, members.start + size)])
        start = time.perf_counter()
        try:
            found = jax.tree.map(np.asarray, _call(program, chunk, shared))
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            if need.chunk_size == 1:
                raw.extend([None] * len(members))
                seconds.extend([0.0] * len(members))
                continue
            _fitting[metric, model, plan] = need.chunk_size // 2
            program, need = _fit(metric, model, member, _shapes(shared), count, plan)
            continue
        taken = (time.perf_counter() - start) / len(members)
        raw.extend(jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(members)))
        seconds.extend([taken] * len(members))
    return raw, seconds


def _call(program: Any, stacked: PyTree, shared: PyTree) -> PyTree:
    return program(stacked, shared)


def _fit(metric: Metric, model: Model, member: PyTree, shared: PyTree, count: int, plan: Plan) -> tuple[Any, Need]:
    """The compiled program for as many models at a time as are planned, needed and fit the memory."""
    limit = min(plan.chunk_size, _fitting.get((metric, model, plan), plan.chunk_size))
    # Powers of two, so that stacks of different length share a few programs.
    chunk = min(limit, 2 ** (-(-count // plan.num_shards) - 1).bit_length())
    budget = memory_budget(plan)
    while True:
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((chunk * plan.num_shards, *leaf.shape), leaf.dtype), member
        )
        leaves, structure = jax.tree.flatten((stacked, shared))
        how = plan.batching_of(chunk), plan.limits_of(chunk), plan.mesh
        program = _compiled(metric, model, *how, structure, tuple(leaves))
        account = program.memory_analysis()
        need = Need(chunk, account.temp_size_in_bytes + account.argument_size_in_bytes + account.output_size_in_bytes)
        if need.bytes <= budget or chunk == 1:
            return program, need
        chunk = max(1, min(chunk // 2, chunk * budget // need.bytes))
        _fitting[metric, model, plan] = chunk


@functools.lru_cache(maxsize=256)
def _compiled(
    metric: Metric,
    model: Model,
    batching: str,
    limits: ProductLimits,
    mesh: Mesh | None,
    structure: Any,
    shapes: tuple[Any, ...],
) -> Any:
    stacked, shared = jax.tree.unflatten(structure, shapes)
    # TF32 and bf16 silently spoil second derivatives.
    with jax.default_matmul_precision("highest"), limited(limits):
        if mesh is None:
            return jax.jit(_over_models(metric, model, batching)).lower(stacked, shared).compile()
        split, whole = PartitionSpec(MODELS), PartitionSpec()
        program = jax.shard_map(
            _over_models(metric, model, batching),
            mesh=mesh,
            # Devices go through their models' loops independently of each other; a "data" axis is left to the
            # compiler, which sees whole batches (`sharding.over_data`) and adds the sums over devices itself.
            axis_names={MODELS},
            in_specs=(split, whole),
            out_specs=split,
            check_vma=False,
        )
        placed = NamedSharding(mesh, split), NamedSharding(mesh, whole)
        with jax.set_mesh(mesh):
            return jax.jit(program, in_shardings=placed).lower(stacked, shared).compile()


def _over_models(metric: Any, model: Model, batching: str) -> Callable[[PyTree, PyTree], PyTree]:
    def one(member: Any, shared: Any) -> PyTree:
        if metric.scope == "features":
            return metric.features(model, *member, shared)
        return metric.measure(model, *member[:2], shared, member[2])

    def many(stacked: PyTree, shared: PyTree) -> PyTree:
        if batching == "vmap":
            return jax.vmap(one, (0, None))(stacked, shared)
        if batching == "map":
            return jax.lax.map(lambda member: one(member, shared), stacked)
        single = one(jax.tree.map(lambda leaf: leaf[0], stacked), shared)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], single)

    return many


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@functools.partial(jax.jit, static_argnames="metric")
def _draw_inputs(metric: FeatureMetric, data: Examples, key: jax.Array) -> PyTree:
    return metric.inputs(data, key)
