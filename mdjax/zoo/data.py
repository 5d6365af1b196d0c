"""Named data, files, folders and objects → fixed train and test arrays: the one place that tells them apart."""

import dataclasses
import functools
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mdjax.errors import InputError
from mdjax.files import expanded
from mdjax.tasks import CLASSIFICATION, TASKS, Task, task_of
from mdjax.zoo import examples
from mdjax.zoo.archives import read_npz
from mdjax.zoo.arrays import ARRAYS, Layout, layout_of, num_outputs
from mdjax.zoo.datasets import Dataset, Numbers, checked_dataset, dataset_from
from mdjax.zoo.digits import NAMES, digits
from mdjax.zoo.draws import Draw, Sampling
from mdjax.zoo.readers import PREFIXES, READERS, find, read_folder

__all__ = ["NAMES", "Data", "Dataset", "Draw", "Numbers", "absolute", "dataset_of", "is_cifar10", "load", "split_told"]

Data = Dataset | str | Path | Sequence[Any] | Mapping[str, Any]
"""What is accepted as data: a `Dataset`, a name or path as `load` takes it, examples, or the arrays themselves."""


def dataset_of(
    data: Data, layout: Layout | str | None = None, task: Task | str | None = None, draw: Draw | None = None
) -> Dataset:
    """The data as a checked `Dataset`.

    data: a Dataset; what `load` takes; or arrays, as (x_train, y_train, x_test, y_test) or as a mapping with these
        keys, `num_classes`, `layout` and `task` too, which are read as those of an .npz are. Inputs may be a
        dictionary of arrays, which the model is called with as they are.
        Or (x, y): training data alone, without any to test on.
        Or (train, test), also as a mapping with these keys: data sets of torch, datasets or grain, loaders, lists,
        whatever gives (input, label) or dictionaries, as examples or batches (`mdjax.zoo.examples`). They are read
        once, as they come: without random augmentation, and in one order, equal sets give equal data.
    layout: as for `load`; not for a Dataset, whose inputs are as a network sees them.
    task: what the models are asked (`mdjax.tasks`), by name or as an object; by default the class. Not for a Dataset,
        which has its own.
    draw: how many examples are taken, chosen at random; by default all. Of files, and of data sets that are looked up
        by index, nothing else is read into memory; what can only be gone through is gone through once.

    Raises InputError, which names the array, for lengths, types, labels or values that cannot be.
    """
    if isinstance(data, Dataset):
        if layout is not None:
            raise InputError(
                f"layout {layout} was given, but the inputs of a Dataset are as the network sees them. Leave it out, "
                "or give the arrays themselves."
            )
        if task is not None and task_of(task).fitted(data.y_train) != data.task:
            raise InputError(
                f"The task {task_of(task).name} was given for a Dataset of the task {data.task.name}. Leave it out, or "
                "give it to the Dataset."
            )
        return checked_dataset(data).sample(draw)
    if isinstance(data, str | os.PathLike):
        return load(Path(data) if isinstance(data, os.PathLike) else data, layout=layout, task=task, draw=draw)
    own = None if task is None else task_of(task)
    read = functools.partial(dataset_from, "data", "the given data", layout=layout_of(layout), task=own)
    told = None if draw is None else Sampling(draw)
    if examples.is_pair_of_arrays(data):
        none = jax.tree.map(lambda leaf: leaf[:0], data)  # to test on
        return read(dict(zip(ARRAYS, (*data, *none), strict=True)), sampling=told)
    if (parts := examples.halves(data)) is not None:
        arrays = functools.partial(examples.arrays_of, parts, layout_of(layout), own or CLASSIFICATION)
        return read(arrays(draw), sampling=None if draw is None else Sampling(draw, arrays))
    if isinstance(data, Mapping):
        return read(dict(data), sampling=told)
    if isinstance(data, Sequence) and len(data) == len(ARRAYS):
        return read(dict(zip(ARRAYS, data, strict=True)), sampling=told)
    given = type(data).__name__ + (f" of {len(data)}" if isinstance(data, Sequence) else "")
    raise InputError(
        f"The data is a {given}. Give a name, a path, a Dataset, (train, test) of examples, or ({', '.join(ARRAYS)}) "
        "as a tuple or a dictionary."
    )


def load(
    source: str | Path,
    *,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    layout: Layout | str | None = None,
    task: Task | str | None = None,
    draw: Draw | None = None,
) -> Dataset:
    """Load data by name or path; equal sources give equal arrays in equal order.

    - `digits`: scikit-learn's 1,797 handwritten digits, 8×8×1, shuffled by `RandomState(0)`, the first 1,297 for
      training and 500 for testing. `digits32`: the same, enlarged bilinearly to 32×32 and repeated over three
      channels, for networks of the published geometry.
    - a path to an `.npz` with x_train, y_train, x_test and y_test; a whole number `num_classes` beside them is
      heeded, else it is the largest train label plus one. Its `name` is the file's stem.
    - a folder, of one of these kinds (`mdjax.zoo.readers`): CIFAR-10's `cifar-10-batches-py` or `-bin`, CIFAR-100's
      `cifar-100-python` or `-binary` (fine labels), or `cifar10:PATH` and `cifar100:PATH` of them or of their parent;
      MNIST's four idx files, packed or not, under the names that Fashion-MNIST and KMNIST have too; x_train.npy,
      y_train.npy, x_test.npy and y_test.npy; train.parquet and test.parquet; images as train/CLASS/*.png and
      test/CLASS/*.png. Its `name` is the folder's.

    `layout` says what the inputs are of an .npz, or of a folder of .npy, Parquet or idx files, as does an array
    `layout` in it, or `LAYOUT:PATH` for the path: `nhwc` or `nchw` (images), `features` (numbers without an axis to
    add: [n, features], [n, length, features], ...) or `tokens` (whole numbers, kept). Without it, floats and bytes
    (uint8) are images [n, h, w, c] or [n, h, w], to which a channel is added, or flat [n, d], and other whole numbers
    [n, length] are tokens; what could be something else is remembered in `reading`, and `mdjax.measure` holds it
    against the model.

    `task` says what the models are asked: `classification` (the default), `regression`, `multi-label`, `next-token` or
    a task of one's own (`mdjax.tasks`), which decides what targets y are. An array `task` in it says so too, or
    `TASK:PATH` for the path.

    Floats are taken as they are. Bytes are scaled to [0, 1] and standardised by `mean` and `std` (one number, or one
    per channel, on that scale), which default to arrays `mean` and `std` beside bytes, else to the train set's own, and
    to the published constants for CIFAR-10.
    Inputs without channels count as one channel.

    `draw` says how many examples are taken, as for `dataset_of`. Bytes drawn from .npz, .npy, idx, Parquet and image
    files are standardised by the sample's own mean and deviation where neither is told.

    Raises InputError, which names the file and array, for anything missing, malformed or not finite.
    """
    if (mean is None) != (std is None):
        raise InputError("Only one of mean and std was given. Give both or neither.")
    told, text = split_told(str(source))
    task_name = task.name if isinstance(task, Task) else task
    for name, given, own in (("layout", layout_of(layout), told.layout), ("task", task_name, told.task)):
        if given is not None and own is not None and given != own:
            raise InputError(
                f"{name} {given} was given for {str(source)!r}, which says {own} itself. Give one of the two."
            )
    layout, own = layout_of(layout) or told.layout, task if task is not None else told.task
    task = None if own is None else task_of(own)
    prefix, place = split_kind(text)
    path = expanded(place)
    if prefix:
        return read_folder(path, (PREFIXES[prefix],), layout, mean, std, task, draw)
    if text in NAMES:
        if layout not in (None, Layout.NHWC):
            raise InputError(
                f"layout {layout} was given for {text!r}, but it says what an .npz file holds, or a folder. Leave it "
                "out."
            )
        found = digits(text, mean, std)
        if task is None:
            return found.sample(draw)
        num_classes = num_outputs(task, found.y_train) or found.num_classes
        return checked_dataset(dataclasses.replace(found, task=task, num_classes=num_classes)).sample(draw)
    if path.is_file():
        if path.suffix != ".npz" and not zipfile.is_zipfile(path) and find(path.parent) is not None:
            raise InputError(f"{path} is only one of the files of its data. Give the folder {path.parent}.")
        sampling = None if draw is None else Sampling(draw)
        return dataset_from(path.stem, str(path), read_npz(path, draw), layout, mean, std, task, sampling)
    if f"{text}:" in PREFIXES and not path.exists():
        raise InputError(f"{text} has to be read from its official folder. Give {text}:PATH, with the path of it.")
    if path.is_dir():
        return read_folder(path, READERS, layout, mean, std, task, draw)
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise InputError(f"There is no file or folder {path}. Give the path of an .npz or of a folder of data.")
    raise InputError(
        f"Unknown data {text!r}. Choose one of {', '.join(NAMES)}, or give the path of an .npz or of a folder of data."
    )


class Told(NamedTuple):
    """What a source's name says of the data, by what it begins with; None for what it does not."""

    layout: Layout | None = None
    task: str | None = None

    @property
    def prefix(self) -> str:
        """What it begins with."""
        return "".join(f"{told}:" for told in (self.task, self.layout) if told)


def split_told(source: str) -> tuple[Told, str]:
    """The task and layout that a source's name begins with, as in `regression:features:my.npz`, and the rest."""
    told = Told()
    while True:
        prefix, colon, rest = source.partition(":")
        if colon and prefix in list(Layout) and told.layout is None:
            told, source = told._replace(layout=Layout(prefix)), rest
        elif colon and prefix in TASKS and told.task is None:
            told, source = told._replace(task=prefix), rest
        else:
            return told, source


def split_kind(source: str) -> tuple[str, str]:
    """What a path begins with that says of which kind its data are, as in `cifar10:data`, and the rest."""
    prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), "")
    return prefix, source.removeprefix(prefix)


def absolute(source: str) -> str:
    """The source, where it is the path of a file or folder that is there, as one that does not depend on the folder
    one is in."""
    told, text = split_told(source)
    if text in ("", *NAMES):
        return source
    kind, text = split_kind(text)
    return f"{told.prefix}{kind}{Path(text).resolve()}" if Path(text).exists() else source


def is_cifar10(source: Any) -> bool:
    """Whether `load` reads, or would read, CIFAR-10 from its official folder."""
    text = str(source)
    prefix, place = split_kind(text)
    if text == "cifar10" or prefix:
        return text == "cifar10" or prefix == "cifar10:"
    path = expanded(place)
    return path.is_dir() and find(path, (PREFIXES["cifar10:"],)) is not None
