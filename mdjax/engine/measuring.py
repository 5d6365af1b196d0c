"""A stack of models × one metric → a row for each model or pair. No files here."""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mdjax.engine import stacks
from mdjax.engine.compilation import in_32_bits
from mdjax.engine.programs import Need, Programs, drawn_inputs, is_shortage, metric_key, shapes_of
from mdjax.engine.stacks import Stack
from mdjax.metrics import Examples, Metric
from mdjax.metrics.contract import Member, Raw
from mdjax.statuses import Status, StatusCode

PyTree = Any

TOO_LARGE = Status(StatusCode.TOO_LARGE, "does not fit the device's memory, not even alone")


@in_32_bits
def measure(
    metric: Metric,
    stack: Stack,
    data: Examples,
    members: Sequence[Member] | None = None,
    *,
    seed: int = 0,
    programs: Programs | None = None,
    timed: bool = False,
) -> list[dict[str, Any]]:
    """One dict of columns for each member: a model of the stack, or a pair.

    A row depends on its own models alone beyond float rounding, 1e-5 of each value that the models determine (of a
    density its moments and smoothed curve, see `mdjax.metrics.Density`): neither on how the programs batch and shard
    them nor on the other models. Where the device lacks memory, fewer go together; a model that does not fit
    alone gets a `status` that says so.

    metric: what is measured.
    stack: models on axis 0, and their names.
    data: the examples they are measured on.
    members: indices into the stack, one (a model) or two (a pair) for each row; default: all that the metric takes
        of one configuration whose seeds these models are.
    seed: moves every random number.
    programs: where the programs come from and how they run (default: as suits the backend).
    timed: whether to add `<metric>_seconds`, the member's part of the calls' run time, compiling left out.
    """
    programs = programs or Programs()
    if members is None:
        count = len(stack.ids)
        members = metric.members([""] * count, range(count))
    if not members:
        return []
    runs = metric.runs(members)
    raws, seconds = _results(metric, stack, runs, data, seed, programs)
    indices = {run: index for index, run in enumerate(runs)}
    used = np.bincount([indices[run] for member in members for run in metric.runs_of(member)], minlength=len(runs))
    rows = []
    for member in members:
        start = time.perf_counter()
        own = [indices[run] for run in metric.runs_of(member)]
        found = [raw for raw in (raws[index] for index in own) if raw is not None]
        row: dict[str, Any] = {"status": TOO_LARGE}
        if len(found) == len(own):
            row = metric.row(found)
            if "status" in row:
                weights = tuple(stacks.one((stack.params, stack.state), index) for index in member)
                row["status"] = metric.explained(row["status"], stack.model, weights, data)
        if timed:
            # A run that serves several members is split between them.
            share = sum(seconds[index] / used[index] for index in own)
            row[f"{metric.name}_seconds"] = share + time.perf_counter() - start
        rows.append(row)
    return rows


def _results(
    metric: Metric, stack: Stack, runs: Sequence[Member], data: Examples, seed: int, programs: Programs
) -> tuple[list[Raw | None], list[float]]:
    """Each run's arrays (None: too large for the device) and its part of the run time in seconds."""
    identities = ["|".join(stack.ids[index] for index in run) for run in runs]
    keys = jnp.stack([metric_key(seed, metric.name, identity) for identity in identities])
    shared = drawn_inputs(metric, data, metric_key(seed, metric.name)) if metric.draws_inputs else data
    one = (
        jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), ((stack.params, stack.state),) * len(runs[0])
        ),
        jax.ShapeDtypeStruct(keys.shape[1:], keys.dtype),
    )

    def fitting() -> tuple[Any, Need]:
        return programs.fitting(metric, stack.model, one, shapes_of(shared), len(runs))

    raws: list[Raw | None] = []
    seconds: list[float] = []
    try:
        program, need = fitting()
    except jax.errors.JaxRuntimeError as error:  # the compiler knows that not even one fits
        if not is_shortage(error):
            raise
        return [None] * len(runs), [0.0] * len(runs)
    while len(raws) < len(runs):
        size = need.chunk_size * programs.plan.num_groups
        members = range(len(raws), min(len(raws) + size, len(runs)))
        # The last one fills the places that are left, so that every call has the same shape.
        places = [min(place, len(runs) - 1) for place in range(members.start, members.start + size)]
        try:
            weights = _weights(stack, [runs[place] for place in places])
            start = time.perf_counter()
            found = jax.tree.map(np.asarray, _call(program, (weights, keys[np.asarray(places)]), shared))
            del weights  # before the next ones are copied
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if not is_shortage(error):
                raise
            if need.chunk_size == 1:
                raws.extend([None] * len(members))
                seconds.extend([0.0] * len(members))
                continue
            programs.take_at_most(metric, stack.model, need.chunk_size // 2)
            program, need = fitting()
            continue
        taken = (time.perf_counter() - start) / len(members)
        raws.extend(jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in range(len(members)))
        seconds.extend([taken] * len(members))
    return raws, seconds


def _weights(stack: Stack, runs: Sequence[Member]) -> tuple[PyTree, ...]:
    """Stacked (params, state) of the first model of each run, of the second, ...; no more than these are copied."""
    return tuple(
        stacks.take((stack.params, stack.state), [run[place] for run in runs]) for place in range(len(runs[0]))
    )


def _call(program: Any, stacked: PyTree, shared: PyTree) -> PyTree:
    return program(stacked, shared)
