"""Data sets as Python has them → arrays: whatever gives examples or batches, one after the other, read once.

Of torch, datasets, grain and Pillow nothing is imported: their objects are told by what they can do.
"""

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.memory import check_needed
from mdjax.tasks import CLASSIFICATION, Classification, NextToken, Task
from mdjax.zoo import images
from mdjax.zoo.arrays import LABELS, Layout
from mdjax.zoo.draws import DRAWN, Choice, Draw, Drawn, Reservoir, Slice, reorder

INPUTS = ("image", "img", "x", "input", "inputs", "pixel_values")
"""What the inputs may be called in examples that are dictionaries."""

_CHANNELS = (1, 3, 4)
_FIRST = 64
"""Rows that are made room for where nobody says how many there are."""


class Halves(NamedTuple):
    """Training and test examples."""

    train: Any
    test: Any


def halves(data: Any) -> Halves | None:
    """The two sets of examples in (train, test) or {"train": ..., "test": ...}; None for anything else."""
    if isinstance(data, Mapping):
        return Halves(data["train"], data["test"]) if "train" in data and "test" in data else None
    if isinstance(data, tuple | list) and len(data) == 2 and all(_gives_examples(part) for part in data):
        return Halves(*data)
    return None


def arrays_of(
    data: Halves, layout: Layout | None, task: Task = CLASSIFICATION, draw: Choice | None = None
) -> dict[str, Any]:
    """The arrays that two sets of examples make up, as an .npz holds them.

    data: each with `__len__` and `__getitem__` or to be iterated, of (input, label) or of dictionaries with one of
        `INPUTS` and one of `LABELS`; one example each, or batches of them (labels [b]); or all of them at once,
        as a tuple of two arrays or a dictionary.
        Inputs are arrays, tensors of torch, lists, or images of Pillow.
    task: what the labels, or targets, are.
    layout: of the inputs, as for `mdjax.zoo.data.load`; it has to be said where channels may come first or last.
    draw: how many of them are kept. Of what has a length and is looked up by index only those are asked for; anything
        else is gone through once, and holds no more than these.

    Each example is read once, in order. Cost: the memory of the arrays; at most three times that where no length is
    given.

    Raises InputError, which names the half and the example, for what cannot be read, for examples that differ in shape
    or type, and for more than the memory limit.
    """
    given: dict[str, Any] = {}
    drawn: dict[str, _Taken] = {}
    for half, source in data._asdict().items():
        where = f"the given {half} data"
        if is_pair_of_arrays(source):
            given[f"x_{half}"], given[f"y_{half}"], drawn[half] = _pair_of_arrays(where, source, half, draw)
            continue
        batched = _gives_batches(source)
        chosen = None if draw is None else _chosen(source, where, half, draw, task)
        if isinstance(draw, Slice) and chosen is None:
            raise InputError(f"{where} can only be gone through, not looked up by index. Give a data set that can be.")
        passing = draw.reservoir(half) if isinstance(draw, Draw) and chosen is None else None
        number = _length(source) if chosen is None else len(chosen.rows)
        gathered = _Gathered(where, number, task, batched, passing)
        for number, item in enumerate(_items(source, where, None if chosen is None else chosen.rows)):
            gathered.add(number, item)
        given[f"x_{half}"], given[f"y_{half}"] = gathered.arrays()
        drawn[half] = chosen or gathered.taken()
        if gathered.of_images:
            if layout not in (None, Layout.NHWC):
                raise InputError(f"layout {layout} was given, but {where} are images with channels last. Leave it out.")
            given["layout"] = Layout.NHWC
        elif layout is None:
            _check_order(where, given[f"x_{half}"].shape)
    if any(len(taken.rows) < taken.total for taken in drawn.values()):
        largest = drawn["train"].largest_label
        given[DRAWN] = Drawn(drawn["train"].rows, drawn["train"].total, drawn["test"].total, largest_label=largest)
    return given


class _Taken(NamedTuple):
    """Which rows were taken of how many, and the largest whole number among all labels where these were seen."""

    rows: np.ndarray
    total: int
    largest_label: int | None = None


def _pair_of_arrays(where: str, pair: Any, half: str, draw: Choice | None) -> tuple[Any, Any, _Taken]:
    """Inputs and labels that are arrays, or dictionaries of them, or what is drawn from them."""
    inputs, targets = pair
    leaves = jax.tree.leaves(pair)
    total = len(leaves[0])
    rows = None if draw is None else draw.rows(half, total)
    if rows is None:
        return inputs, targets, _Taken(np.arange(total), total)
    if odd := [len(leaf) for leaf in leaves if len(leaf) != total]:
        raise InputError(f"{where} hold arrays of {total} and of {odd[0]} examples. Give one target for each.")
    inputs, targets = jax.tree.map(lambda leaf: leaf[rows], pair)
    labels = np.asarray(pair[1]) if not isinstance(pair[1], Mapping) else np.empty(0)
    is_whole = labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size
    return inputs, targets, _Taken(rows, total, int(labels.max()) if is_whole else None)


def _chosen(source: Any, where: str, half: str, draw: Choice, task: Task) -> _Taken | None:
    """Which rows are looked up in a data set; None where that cannot be, or where it gives batches."""
    count = _length(source)
    if not (hasattr(source, "__getitem__") and hasattr(source, "__len__")) or isinstance(source, Mapping) or not count:
        return None
    if _gives_batches(source) is not False and not isinstance(source, list | tuple):
        return None
    first = _Gathered(where, 1, task, _gives_batches(source), None)
    try:
        item = source[0]
    except Exception as error:  # as of torch's iterable ones, which have an index that fails
        if isinstance(source, Iterable):
            return None
        raise _unreadable(0, where, error) from None
    if first.is_batch(item):
        return None
    rows = draw.rows(half, count)
    return _Taken(np.arange(count) if rows is None else rows, count, _largest_told(source))


def _largest_told(source: Any) -> int | None:
    """The largest label by what a data set says of its classes, as those of torchvision and of datasets do."""
    classes, features = getattr(source, "classes", None), getattr(source, "features", None)
    if isinstance(classes, list | tuple) and classes:
        return len(classes) - 1
    found = [features[name] for name in LABELS if name in features] if isinstance(features, Mapping) else []
    number = getattr(found[0], "num_classes", None) if found else None
    return number - 1 if isinstance(number, int) else None


def _gives_examples(part: Any) -> bool:
    return not isinstance(part, str | bytes) and (hasattr(part, "__iter__") or hasattr(part, "__getitem__"))


def is_pair_of_arrays(part: Any) -> bool:
    """Whether it is (inputs, labels), as keras.datasets gives them; examples would be pairs themselves.

    Either may be a dictionary of arrays, unless it has inputs and labels itself.
    """

    def is_array(value: Any) -> bool:
        if isinstance(value, Mapping):
            is_set = any(name in value for name in INPUTS) and any(name in value for name in LABELS)
            return bool(value) and not is_set and all(map(is_array, value.values()))
        is_one = hasattr(value, "dtype") or hasattr(value, "__array__")
        return is_one and len(getattr(value, "shape", ())) > 0

    return isinstance(part, tuple) and len(part) == 2 and all(map(is_array, part))


def _length(source: Any) -> int:
    """How many examples or batches a data set says that it gives; 0 where it does not say."""
    try:
        return 0 if isinstance(source, Mapping) else operator.length_hint(source)
    except Exception:  # such as a loader's over a data set without a length
        return 0


def _items(source: Any, where: str, rows: np.ndarray | None = None) -> Iterator[Any]:
    """What a data set gives, one after the other, or for these indices; InputError where it raises."""
    number = 0
    try:
        if rows is not None:
            for number in map(int, rows):
                yield source[number]
            return
        # Torch's data sets are indexed, and end nowhere by themselves; its iterable ones have an index that fails.
        if isinstance(source, Mapping):  # of whole arrays: one batch
            source = [source]
        for item in source if isinstance(source, Iterable) else (source[k] for k in range(len(source))):
            yield item
            number += 1
    except InputError:
        raise
    except Exception as error:  # the code of whoever made the data set: it can raise anything
        raise _unreadable(number, where, error) from None


def _unreadable(number: int, where: str, error: Exception) -> InputError:
    return InputError(f"Cannot read example {number} of {where}: {first_line(error)}. Mend the data set.")


class _Gathered:
    """Examples, or batches of them, as they come."""

    def __init__(self, where: str, num_items: int, task: Task, batched: bool | None, passing: Reservoir | None):
        self.of_images = False
        self._passing, self._largest = passing, None
        self._num_items = num_items
        self._where = where
        self._task, self._batched = task, batched
        self._inputs: np.ndarray | None = None
        self._labels: list[np.ndarray] = []
        self._taken = 0

    def add(self, number: int, item: Any) -> None:
        """Take the example or batch of that number."""
        name = f"example {number} of {self._where}"
        inputs, labels = self._values(item, name)
        if labels.ndim == 0 or self._is_one(inputs, labels, name):
            inputs, labels = inputs[np.newaxis], labels[np.newaxis]
        elif not isinstance(self._task, Classification) and inputs.ndim and len(inputs) == len(labels):
            pass  # the task itself looks at them
        elif labels.ndim > 1 or inputs.ndim == 0 or len(inputs) != len(labels):
            raise InputError(
                f"{name} has inputs {list(inputs.shape)} and labels {list(labels.shape)}. Give one whole number as the "
                "label of an example, or [b] for a batch of b."
            )
        if self._passing is not None:
            self._pass(self._passing, inputs, labels, name)
            return
        room = self._room(inputs, name)
        room[self._taken : self._taken + len(inputs)] = inputs
        self._labels.append(labels.copy())
        self._taken += len(inputs)

    def is_batch(self, item: Any) -> bool:
        """Whether it is one of several examples."""
        inputs, labels = self._values(item, f"example 0 of {self._where}")
        return labels.ndim > 0 and not self._is_one(inputs, labels, f"example 0 of {self._where}")

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs [n, ...] and labels [n]."""
        if self._inputs is None:
            raise InputError(f"{self._where.capitalize()} are empty. Give at least one example.")
        inputs, labels = self._inputs[: self._taken], np.concatenate(self._labels)
        if self._passing is not None and (order := self._passing.order()) is not None:
            reorder(order, inputs, labels, self._passing.rows)
        return inputs, labels

    def taken(self) -> "_Taken":
        """What was taken of what passed, once it has: in the order of `arrays`."""
        if self._passing is None:
            return _Taken(np.arange(self._taken), self._taken)
        return _Taken(self._passing.rows[: self._taken], self._passing.taken, self._largest)

    def _values(self, item: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        value, label = _pair(item, name)
        self.of_images = self.of_images or images.is_image(value)
        return _array(value, name), _array(label, name)

    def _pass(self, passing: Reservoir, inputs: np.ndarray, labels: np.ndarray, name: str) -> None:
        """Keep of a batch what the reservoir has places for."""
        if labels.ndim == 1 and labels.dtype.kind in "iu" and labels.size:
            self._largest = max(int(labels.max()), -1 if self._largest is None else self._largest)
        for row in range(len(inputs)):
            place = passing.place()
            if place is None:
                continue
            one = slice(row, row + 1)
            if place == self._taken:
                self._room(inputs[one], name)[place] = inputs[row]
                self._labels.append(labels[one].copy())
                self._taken += 1
            else:
                self._room(inputs[:0], name)[place] = inputs[row]
                self._labels[place] = labels[one].copy()

    def _is_one(self, inputs: np.ndarray, targets: np.ndarray, name: str) -> bool:
        """Whether targets with axes are those of a single example, not of a batch."""
        if isinstance(self._task, Classification):
            return False
        if isinstance(self._task, NextToken):
            return targets.ndim == 1
        if self._batched is not None:
            return not self._batched
        if inputs.ndim < 2 or len(inputs) != len(targets):
            return True
        if targets.ndim == 1 and inputs.ndim > 2:
            raise InputError(
                f"{name} has inputs {list(inputs.shape)} and targets {list(targets.shape)}: one example or a batch of "
                f"{len(targets)}? Give a data set that is looked up by index, a loader, or all at once as two arrays."
            )
        return False

    def _room(self, inputs: np.ndarray, name: str) -> np.ndarray:
        """The array that the inputs go into, with room for them."""
        kept = self._inputs
        if kept is not None and (kept.shape[1:] != inputs.shape[1:] or kept.dtype != inputs.dtype):
            form, first = (f"{array.dtype}{list(array.shape[1:])}" for array in (inputs, kept))
            raise InputError(f"{name} is {form}, but the first is {first}. Give all in one shape and type.")
        count = self._taken + len(inputs)
        if kept is not None and count <= len(kept):
            return kept
        size = max(_FIRST, 2 * count)
        if self._passing is not None:
            size = min(size, self._passing.size)
        elif kept is None and self._num_items:
            count = size = self._num_items * len(inputs)
        one = inputs.dtype.itemsize * inputs[0].size if len(inputs) else 0
        floats = 4 if inputs.dtype == np.uint8 else 1
        what = f"{count} examples of {self._where}"
        check_needed(what, count * one * floats, "Give fewer")
        # What is not written yet takes no memory.
        self._inputs = np.empty((size, *inputs.shape[1:]), inputs.dtype)
        if kept is not None:
            self._inputs[: self._taken] = kept[: self._taken]
        return self._inputs


def _gives_batches(source: Any) -> bool | None:
    """Whether a data set gives batches: loaders do, what is looked up by index gives examples; of others None."""
    if getattr(source, "batch_size", None) is not None:
        return True
    return False if hasattr(source, "__getitem__") and not isinstance(source, list | tuple | Mapping) else None


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    """The input and the label of an example or a batch."""
    if isinstance(item, Mapping):
        found = [[key for key in keys if key in item] for keys in (INPUTS, LABELS)]
        if any(len(keys) != 1 for keys in found):
            raise InputError(
                f"{name} has the entries {', '.join(map(str, item))[:200]}. Call its input one of {', '.join(INPUTS)}, "
                f"and its label one of {', '.join(LABELS)}."
            )
        return item[found[0][0]], item[found[1][0]]
    if isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    size = f" of {len(item)}" if isinstance(item, tuple | list) else ""
    raise InputError(f"{name} is a {type(item).__name__}{size}. Give (input, label), or a dictionary.")


def _array(value: Any, name: str) -> np.ndarray:
    """Pixels of an image, or what numpy makes of a value."""
    try:
        if images.is_image(value):
            return images.pixels(value)
        if hasattr(value, "detach"):  # a tensor of torch, which may be on an accelerator or hold a gradient
            value = value.detach().cpu()
        array = np.asarray(value)
    except Exception as error:  # ragged lists, damaged images: anything
        raise InputError(f"Cannot read {name}: {first_line(error)}. Give arrays, tensors or images.") from None
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} has type {array.dtype}. Give numbers.")
    return array


def _check_order(where: str, shape: tuple[int, ...]) -> None:
    """InputError for images whose channels may come first as well as last, or that have neither."""
    if len(shape) == 4 and (shape[1] in _CHANNELS or shape[3] not in _CHANNELS):
        raise InputError(
            f"The inputs of {where} have shape [n, {', '.join(map(str, shape[1:]))}]. Say what the axes are: layout "
            "nchw (channels first, as torch has them), nhwc (channels last) or features (neither), by layout=."
        )
