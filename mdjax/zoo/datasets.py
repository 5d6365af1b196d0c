"""Train and test arrays as networks see them, with the published label noise and subsets."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mdjax.errors import InputError
from mdjax.tasks import CLASSIFICATION, TASKS, Classification, NextToken, Task, task_of
from mdjax.zoo import arrays as checks
from mdjax.zoo.arrays import ARRAYS, Assumption, Layout
from mdjax.zoo.draws import DRAWN, Choice, Draw, Drawn, Sampling, Slice, drawn_rows
from mdjax.zoo.scaling import Numbers, scaled

PyTree = Any

_NOISE_SEED = 12345


class Reading(NamedTuple):
    """What was taken for granted of inputs whose layout nobody gave, and the same data read the other way."""

    assumption: Assumption
    otherwise: Callable[[], "Dataset"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs as a network sees them (float32, NHWC or flat; int32 tokens) and clean targets.

    `x_train` [n, h, w, c] or [n, d] or whatever the network reads, a dictionary of arrays too, `y_train` [n] int32, or
    what else `task` asks of a model, and the same for the test set. `num_classes`: of other tasks how many outputs a
    network of this package needs, 0 where that is not known. Two of them are compared by `fingerprint`. `reading` says
    what `load` had to assume of them, and `drawn` of what they are a sample.
    """

    name: str
    x_train: PyTree
    y_train: PyTree
    x_test: PyTree
    y_test: PyTree
    num_classes: int
    reading: Reading | None = dataclasses.field(default=None, repr=False)
    task: Task = CLASSIFICATION
    drawn: Drawn | None = dataclasses.field(default=None, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One example's shape: (height, width, channels), (features,), (length, features), (length,).

        Raises InputError for inputs that are a dictionary of arrays.
        """
        if isinstance(self.x_train, Mapping):
            raise InputError(
                f"The inputs of {self.name} are {self.input_form}, but the networks of a zoo read one array. "
                "Give models in Python, with model=apply."
            )
        return self.x_train.shape[1:]

    @property
    def reads_floats(self) -> bool:
        """Whether the inputs are one array of floats, as the networks of this package read them."""
        return not isinstance(self.x_train, Mapping) and self.x_train.dtype.kind == "f"

    @property
    def input_form(self) -> str:
        """Type and shape of the inputs, as errors tell them."""
        return checks.form(self.x_train)

    @functools.cached_property
    def num_tokens(self) -> int:
        """How many tokens there are, from 0 to the greatest in any array; 0 where the inputs are no tokens."""
        if isinstance(self.x_train, Mapping) or self.x_train.dtype.kind not in "iu":
            return 0
        arrays = [self.x_train, self.x_test]
        arrays += [self.y_train, self.y_test] if isinstance(self.task, NextToken) else []
        return 1 + max(int(array.max()) for array in arrays if array.size)

    @property
    def num_train(self) -> int:
        """How many training examples there are."""
        return len(jax.tree.leaves(self.x_train)[0])

    @property
    def num_source(self) -> int:
        """How many training examples there are where these were drawn from; `num_train` where all were taken."""
        return self.num_train if self.drawn is None else self.drawn.total

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex digest of all arrays and the number of classes: another value anywhere changes it."""
        digest = hashlib.blake2b(str(self.num_classes).encode(), digest_size=8)
        if self.task != CLASSIFICATION:
            digest.update(self.task.name.encode())
            if type(self.task) not in map(type, TASKS.values()):
                digest.update(repr(self.task).encode())
        for array_name in ARRAYS:
            for name, array in checks.named(array_name, getattr(self, array_name)):
                array = np.ascontiguousarray(array)
                digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
                digest.update(array.data)
        if self.drawn is not None:
            digest.update(f"{self.drawn.total} {self.drawn.test_total}".encode())
            digest.update(np.ascontiguousarray(self.drawn.rows, np.int64).data)
        return digest.hexdigest()

    @property
    def whole_fingerprint(self) -> str:
        """Of what these were drawn from, "" where that is not known; their own where all were taken."""
        return self.fingerprint if self.drawn is None else self.drawn.whole

    def sample(self, draw: Choice | None) -> "Dataset":
        """What is drawn from these data, or a slice; themselves where that is all of them, or nothing is to be drawn.

        Raises InputError for what has been drawn already.
        """
        counts = {name: len(jax.tree.leaves(getattr(self, name))[0]) for name in ARRAYS}
        if self.drawn is not None:
            if isinstance(draw, Draw) and draw.num_examples < self.num_train:
                raise InputError(f"{self.name} is a sample already, of {self.num_train} examples. Draw once.")
            return self
        rows, drawn = drawn_rows(self.name, draw, counts)
        if drawn is None:
            return self
        taken = {name: jax.tree.map(lambda leaf: leaf[found], getattr(self, name)) for name, found in rows.items()}
        if isinstance(draw, Draw):
            drawn = drawn._replace(whole=self.fingerprint, again=self.sample)
        return dataclasses.replace(self, drawn=drawn, reading=None, **taken)

    def train_labels(self, label_noise: float) -> np.ndarray:
        """Train labels [n] int32, a fraction `label_noise` of them (chosen at random) redrawn over all classes.

        So about `label_noise · (1 - 1/num_classes)` change. The recipe and its seed are the published zoo's: the
        same labels for every model, noise before any subset is taken. Raises InputError outside [0, 1].
        """
        if not 0 <= label_noise <= 1:
            raise InputError(f"label_noise is {label_noise}. Give a fraction from 0 to 1.")
        if not isinstance(self.task, Classification):
            if label_noise > 0:
                raise InputError(
                    f"label_noise is {label_noise:g}, but the targets of {self.name} are no classes to be redrawn "
                    f"(task {self.task.name}). Give 0."
                )
            return self.y_train
        labels = self.y_train.copy()
        if label_noise > 0:
            # The legacy generator is part of the recipe: a newer one would draw other labels.
            random = np.random.RandomState(_NOISE_SEED)
            mask = random.rand(self.num_source) <= label_noise
            redrawn = random.choice(self.num_classes, mask.sum())
            if self.drawn is None:
                labels[mask] = redrawn
            else:  # each gets what it got among all
                own = mask[self.drawn.rows]
                labels[own] = redrawn[np.cumsum(mask)[self.drawn.rows[own]] - 1]
        return labels

    def subset_size(self, data_share: float) -> int:
        """How many of the first training examples make up `data_share` of them: the published `int(n · data_share)`.

        Of a sample: how many examples in it are among these, the first in `subset_order`.
        The product is rounded to 1e-6 first, because 0.29 · 100 is 28.999999999999996 in floating point; for the
        published fractions of 50,000 images that changes nothing. Raises InputError for a fraction outside (0, 1] or so
        small that nothing is left.
        """
        size = self.source_subset(data_share)
        if self.drawn is None:
            return size
        count = int((self.drawn.rows < size).sum())
        if count == 0:
            raise InputError(
                f"None of the {self.num_train} examples drawn of {self.num_source} is among the first {size}, on which "
                f"models of data_share {data_share} were trained. Draw more (--examples, num_examples=)."
            )
        return count

    def source_subset(self, data_share: float) -> int:
        """The same of all that a sample was drawn from."""
        if not 0 < data_share <= 1:
            raise InputError(f"data_share is {data_share}. Give a fraction above 0 and at most 1.")
        size = int(round(self.num_source * data_share, 6))
        if size == 0:
            raise InputError(
                f"data_share is {data_share}, which leaves none of {self.num_source} training examples. "
                f"Give at least {1 / self.num_source:g}."
            )
        return size

    def subset_order(self, data_share: float) -> np.ndarray | None:
        """An order of a sample's training examples in which those that make up `data_share` come first.

        None where they do as they stand: of all data, or of the whole of it.
        """
        if self.drawn is None or data_share == 1:
            return None
        return np.argsort(self.drawn.rows >= self.source_subset(data_share), kind="stable")


def dataset_from(
    name: str,
    where: str,
    given: Mapping[str, Any],
    layout: Layout | None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    task: Task | None = None,
    sampling: Sampling | None = None,
) -> Dataset:
    """Arrays as a network sees them: bytes scaled and standardised, floats as they are, tokens as whole numbers.

    A draw that a reader has not heeded (`DRAWN`) is made from what it read.
    """
    found = checks.checked_arrays(where, given, layout, task)
    x_train, x_test, scale = scaled(where, given, found, mean, std)
    drawn: Drawn | None = given.get(DRAWN)
    # The other way is read from the arrays anew where it is wanted: most never are.
    again = functools.partial(dataset_from, name, where, given, task=task, sampling=sampling)
    readings = {
        None: None,
        Assumption.GREY: Reading(Assumption.GREY, lambda: again(Layout.FEATURES, mean, std)),
        Assumption.PIXELS: Reading(Assumption.PIXELS, lambda: again(Layout.TOKENS)),
        Assumption.TOKENS: Reading(Assumption.TOKENS, None),
    }
    reading = readings[found.assumption]
    fitted = found.task.fitted(found.y_train)
    arrays = x_train, found.y_train, x_test, found.y_test
    if drawn is None:
        whole = Dataset(name, *arrays, found.num_classes, reading, fitted)
        return dataclasses.replace(whole.sample(None if sampling is None else sampling.draw), reading=reading)
    facts = {"num_classes": found.num_classes} if isinstance(found.task, Classification) else {}

    def sliced(read: Callable[[Slice], Mapping[str, Any]], part: Slice) -> Dataset:
        told = {**given, **read(part), **facts}
        own = (None, None) if scale is None else scale[:2]
        return dataclasses.replace(dataset_from(name, where, told, layout, *own, task), task=fitted)

    if sampling is not None and sampling.again is not None:
        drawn = drawn._replace(again=functools.partial(sliced, sampling.again))
    drawn = drawn._replace(own_scale=scale is not None and not scale.is_told)
    return Dataset(name, *arrays, found.num_classes, reading, fitted, drawn)


def checked_dataset(data: Dataset) -> Dataset:
    """The same object, once its arrays fit together; a copy with numpy arrays where it has others."""
    where = f"Dataset {data.name!r}"
    arrays = {name: checks.as_arrays(where, name, getattr(data, name)) for name in ARRAYS}
    for split in ("train", "test"):
        for name, inputs in checks.named(f"x_{split}", arrays[f"x_{split}"]):
            is_entry = name != f"x_{split}"
            no_test = split == "test" and len(inputs) == 0
            if inputs.ndim < (1 if is_entry else 2) or (inputs.size == 0 and not no_test):
                raise InputError(f"{where}: {name} has shape {list(inputs.shape)}. Give examples as [n, ...].")
            if inputs.dtype == np.uint8 and inputs.ndim > 2:
                raise InputError(
                    f"{where}: {name} is {checks.form(inputs)}, but a Dataset holds inputs as the network sees them. "
                    "Give floats, or the arrays as a tuple or dictionary, whose pixels are scaled and standardised."
                )
            if no_test:
                continue
            checks.check_whole(where, name, inputs)
            checks.check_finite(where, name, inputs)
    x_train, y_train, x_test, y_test = (arrays[name] for name in ARRAYS)
    checked = checks.checked_targets(where, task_of(data.task), x_train, y_train, x_test, y_test)
    task = data.task.fitted(checked[0])
    classes = np.asarray(data.num_classes)
    if classes.size != 1 or classes.dtype.kind not in "iu":
        raise InputError(f"{where}: num_classes is {data.num_classes!r}. Give a whole number.")
    if isinstance(task, Classification):
        checks.check_classes(where, int(classes.item()), arrays)
    else:
        known = checks.num_outputs(task, checked[0])
        if known and classes.item() != known:
            raise InputError(
                f"{where}: num_classes is {data.num_classes}, but its targets are {known} numbers each. Give {known}."
            )
        arrays |= dict(zip(("y_train", "y_test"), checked, strict=True))
    if task is data.task and all(array is getattr(data, name) for name, array in arrays.items()):
        return data
    return dataclasses.replace(data, task=task, **arrays)
