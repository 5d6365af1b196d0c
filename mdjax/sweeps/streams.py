"""Losses over all that a sample was drawn from: piece by piece, the next one read while the device is at work."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from mdjax.engine import Plan, Programs, Stack
from mdjax.engine import measure as measure_stack
from mdjax.errors import InputError
from mdjax.metrics import Examples, Losses, Metric
from mdjax.metrics.contract import Member
from mdjax.metrics.losses import LossSums
from mdjax.sweeps.sources import on_devices
from mdjax.sweeps.units import Cell
from mdjax.zoo.data import Dataset
from mdjax.zoo.draws import Slice

PyTree = Any

_PIECE = 2**26
"""Bytes of inputs that are read together, about."""


def goes_through_all(metric: Metric, dataset: Dataset) -> bool:
    """Whether a metric wants more of the data than the sample in memory."""
    return isinstance(metric, Losses) and metric.num_examples == "all" and dataset.drawn is not None


def check_can_go_through(metrics: Sequence[Metric], dataset: Dataset) -> None:
    """InputError where a metric wants all of data that are given only once, or in one piece."""
    if not any(goes_through_all(metric, dataset) for metric in metrics):
        return
    if dataset.drawn is None or dataset.drawn.again is None:
        raise InputError(
            f"losses.num_examples is all, but {dataset.name} cannot be read in pieces: an archive is unpacked from its "
            "start, a stream gives its examples once. Give a folder of .npy, Parquet or image files, or a data set "
            "that is looked up by index."
        )
    dataset.drawn.again(Slice("train", 0, 1))


def over_all(
    metric: Losses,
    stack: Stack,
    members: Sequence[Member],
    found: Sequence[Mapping[str, Any]],
    dataset: Dataset,
    cell: Cell,
    seed: int,
    programs: Programs,
) -> list[dict[str, Any]]:
    """The rows of models over all the data, made from those over the sample.

    metric: with its settings.
    stack, members: the models, as they were measured on the sample.
    found: their rows on it.
    dataset: the sample, which knows of what it is one.
    cell: says on which part of the data, and with which labels, the models were trained.
    seed, programs: as they were measured.

    Sums are added up in float64. Cost: one forward pass over all, beside which two pieces of the data are in memory.
    """
    assert dataset.drawn is not None
    sums: list[dict[str, dict[str, Any]]] = [{} for _ in members]
    problems: dict[int, Any] = {}
    for split, total in (("train", dataset.source_subset(cell.data_share)), ("test", dataset.drawn.test_total)):
        for piece in _pieces(dataset, split, total, cell.label_noise, programs.plan):
            partial = LossSums(metric.num_bins, metric.precision)
            rows = measure_stack(partial, stack, piece, members, seed=seed, programs=programs)
            for number, row in enumerate(rows):
                if "status" in row:  # it did not fit, and stays without a part
                    problems[number] = row["status"]
                    continue
                before = sums[number].get(split, {})
                sums[number][split] = {name: value + before.get(name, 0) for name, value in row.items()}
    return [
        {**row, "status": problems[number]} if number in problems else metric.over(row, sums[number])
        for number, row in enumerate(found)
    ]


def _pieces(dataset: Dataset, split: str, total: int, label_noise: float, plan: Plan) -> Iterator[Examples]:
    """The examples of a split, on the devices, equally many each time: in the last one some do not count."""
    assert dataset.drawn is not None and dataset.drawn.again is not None
    read = dataset.drawn.again
    row = sum(leaf[0].nbytes for leaf in jax.tree.leaves(dataset.x_train))
    size = max(1, min(total, dataset.num_train, _PIECE // max(1, row)))

    def piece(start: int) -> tuple[PyTree, PyTree, int]:
        part: Dataset = read(Slice(split, start, min(start + size, total)))
        arrays = (part.x_train, part.train_labels(label_noise)) if split == "train" else (part.x_test, part.y_test)
        count = len(jax.tree.leaves(arrays[0])[0])
        if count < size:
            rows = np.minimum(np.arange(size), count - 1)
            arrays = jax.tree.map(lambda leaf: leaf[rows], arrays)
        return arrays[0], arrays[1], count

    with ThreadPoolExecutor(1, "mdjax-read") as reader:
        ahead = reader.submit(piece, 0) if total else None
        for start in range(0, total, size):
            assert ahead is not None
            x, y, count = ahead.result()
            ahead = reader.submit(piece, start + size) if start + size < total else None
            put = on_devices(plan)
            inputs, targets = jax.tree.map(put, (x, y))
            no_inputs, no_targets = jax.tree.map(lambda leaf: leaf[:0], (inputs, targets))
            yield Examples(inputs, targets, put(np.int32(count)), no_inputs, no_targets, dataset.task)
