"""Metrics × stacked models → one row each: how they are batched and compiled. No files here.

The only place, beside training, that compiles. A metric sees one model; here it gets the model axis, by `vmap`
or by calling one compiled program model after model, whichever the backend runs faster.
"""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from mdjax import trees
from mdjax.metrics import Examples, FeatureMetric, ModelMetric, PairMetric, Raw
from mdjax.models import Model
from mdjax.models.layers import Convolution

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Plan:
    """How stacked models are run: how they are batched, how a convolution is computed, how many go together."""

    batching: Literal["vmap", "loop"]
    convolution: Convolution
    chunk_size: int


def plan() -> Plan:
    """The plan for the default backend.

    CPU: one compiled program, model after model, convolutions as patches. Batched over models a convolution becomes
    a grouped one, many times slower; matrix networks gain from batching only at mini-batches far smaller than those
    measured with here; and a model's row is then the same to the last bit whatever else is measured. Accelerators
    batch, since small models are bound by launches there; that choice has not been measured yet.
    """
    if jax.default_backend() == "cpu":
        return Plan("loop", "patches", 16)
    return Plan("vmap", "lax", 32)


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
    batching: Literal["vmap", "loop"] = "vmap",
    pad_to: int = 0,
) -> list[dict[str, Any]]:
    """One dict of columns for each of the models stacked on axis 0 of `params` and `state`.

    `identities` name the models and seed their random numbers. Under "vmap", `pad_to` repeats the last model up to
    that count, so that stacks of different length share one compiled program.

    A model's row does not depend on the others beyond float rounding. Eigenvalues agree to 1e-5; a
    trace may move by a share of its standard error between "loop" and "vmap", because late Lanczos vectors amplify
    rounding and with it draw another, equally good sample.
    """
    keys = jnp.stack([metric_key(seed, metric.name, identity) for identity in identities])
    run = functools.partial(_run_model, metric, model)
    raw = _run(run, batching, (params, state, keys), data, len(identities), pad_to)
    return [metric.columns(row) for row in raw]


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
    batching: Literal["vmap", "loop"] = "vmap",
    pad_to: int = 0,
) -> list[dict[str, Any]]:
    """One dict of columns for each pair of positions in the stack; otherwise as `measure_models`."""
    if not pairs:
        return []
    keys = jnp.stack([metric_key(seed, metric.name, identity) for identity in identities])
    first, second = (trees.take((params, state), [pair[side] for pair in pairs]) for side in (0, 1))
    run = functools.partial(_run_pair, metric, model)
    raw = _run(run, batching, (first, second, keys), data, len(pairs), pad_to)
    return [metric.columns(row) for row in raw]


def measure_features(
    metric: FeatureMetric,
    model: Model,
    params: PyTree,
    state: PyTree,
    data: Examples,
    *,
    seed: int = 0,
    batching: Literal["vmap", "loop"] = "vmap",
    pad_to: int = 0,
) -> list[Raw]:
    """The features of each stacked model, on the same inputs for all of them."""
    inputs = _draw_inputs(metric, data, metric_key(seed, metric.name))
    run = functools.partial(_run_features, metric, model)
    return _run(run, batching, (params, state), inputs, trees.count(params), pad_to)


def _run(
    run: Callable[..., PyTree],
    batching: Literal["vmap", "loop"],
    stacked: tuple[PyTree, ...],
    data: Examples | jax.Array,
    count: int,
    pad_to: int,
) -> list[Any]:
    # TF32 and bf16 silently spoil second derivatives.
    with jax.default_matmul_precision("highest"):
        if batching == "loop":
            rows = [run(False, *trees.take(stacked, [i]), data) for i in range(count)]
            return [jax.tree.map(lambda leaf: np.asarray(leaf)[0], row) for row in rows]
        padded = trees.take(stacked, [min(i, count - 1) for i in range(max(count, pad_to))])
        raw = jax.tree.map(np.asarray, run(True, *padded, data))
    return [jax.tree.map(lambda leaf: leaf[i], raw) for i in range(count)]


def _over_models(function: Callable[..., PyTree], batched: bool, stacked: tuple[PyTree, ...]) -> PyTree:
    if batched:
        return jax.vmap(function)(*stacked)
    single = jax.tree.map(lambda leaf: leaf[0], stacked)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], function(*single))


@functools.partial(jax.jit, static_argnames=("metric", "model", "batched"))
def _run_model(metric, model, batched: bool, params, state, keys, data):
    def one(params, state, key):
        return metric.measure(model, params, state, data, key)

    return _over_models(one, batched, (params, state, keys))


@functools.partial(jax.jit, static_argnames=("metric", "model", "batched"))
def _run_pair(metric, model, batched: bool, first, second, keys, data):
    def one(first, second, key):
        return metric.measure(model, first, second, data, key)

    return _over_models(one, batched, (first, second, keys))


@functools.partial(jax.jit, static_argnames=("metric", "model", "batched"))
def _run_features(metric, model, batched: bool, params, state, inputs):
    def one(params, state):
        return metric.features(model, params, state, inputs)

    return _over_models(one, batched, (params, state))


@functools.partial(jax.jit, static_argnames="metric")
def _draw_inputs(metric, data, key):
    return metric.inputs(data, key)
