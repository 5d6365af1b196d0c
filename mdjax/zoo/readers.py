"""Folders of data → their arrays: which kinds there are, and which one a folder is of."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage
from mdjax.tasks import Task
from mdjax.zoo import cifar, idx, image_folders, npy_folders, tables
from mdjax.zoo.arrays import ARRAYS, Layout
from mdjax.zoo.datasets import Dataset, Numbers, dataset_from
from mdjax.zoo.draws import Choice, Draw, Sampling, Slice


class Reader(NamedTuple):
    """A kind of folder."""

    kind: str
    """As errors name it."""
    is_in: Callable[[Path], bool]
    """Whether a folder has files of it."""
    read: Callable[[Path, Layout | None, Choice | None], Mapping[str, Any]]
    """Its arrays, or what is drawn from them, and facts, as an .npz holds them; InputError, which names the file."""
    below: tuple[str, ...] = ()
    """Names of folders that it usually lies in: then the one above may be given, too."""
    name: str = ""
    """What the data are called; by default as the folder."""
    takes_layout: bool = True
    """Whether its inputs can be something else than images with their channels last."""
    scale: tuple[Numbers, Numbers] | None = None
    """Mean and deviation of its channels, as published; by default the train set's own."""


def _cifar(release: cifar.Release, name: str, scale: tuple[Numbers, Numbers] | None = None) -> Reader:
    def read(folder: Path, layout: Layout | None, draw: Choice | None) -> Mapping[str, Any]:
        # All of it is little; what is to be drawn is drawn from what is read.
        facts = {"num_classes": release.num_classes, "layout": Layout.NHWC}
        return {**dict(zip(ARRAYS, release.read(folder), strict=True)), **facts}

    return Reader(f"{release.name}'s batches", release.is_in, read, release.folders, name, False, scale)


READERS = (
    _cifar(cifar.CIFAR10, "cifar10", (cifar.MEAN, cifar.STD)),
    _cifar(cifar.CIFAR100, "cifar100"),
    Reader("MNIST's idx files", idx.is_in, lambda folder, _, draw: idx.read(folder, draw), ("raw",)),
    Reader("x_train.npy and its like", npy_folders.is_in, lambda folder, _, draw: npy_folders.read(folder, draw)),
    Reader("train.parquet and test.parquet", tables.is_in, tables.read),
    Reader(
        "images as train/CLASS/*.png",
        image_folders.is_in,
        lambda folder, _, draw: image_folders.read(folder, draw),
        takes_layout=False,
    ),
)
"""All kinds."""

PREFIXES = {f"{reader.name}:": reader for reader in READERS if reader.name}
"""What a path may begin with that says of which kind it is."""


def find(path: Path, readers: tuple[Reader, ...] = READERS) -> tuple[Reader, Path] | None:
    """The kind of a folder, and the folder itself or the usual one below it; None where it is of no kind.

    Raises InputError for a folder of several kinds, or one that cannot be looked into.
    """
    try:
        found = [(reader, path) for reader in readers if reader.is_in(path)] or [
            (reader, path / name) for reader in readers for name in reader.below if reader.is_in(path / name)
        ]
    except OSError as error:
        expect_damage(error, str(path))
        return None
    kinds = {reader.kind for reader, _ in found}
    if len(kinds) > 1:
        below = " or ".join(sorted({str(folder) for _, folder in found} - {str(path)})) or "a folder of one"
        raise InputError(f"{path} holds data of several kinds: {' and '.join(sorted(kinds))}. Give {below}.")
    return found[0] if found else None


def read_folder(
    path: Path,
    readers: tuple[Reader, ...],
    layout: Layout | None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    task: Task | None = None,
    draw: Draw | None = None,
) -> Dataset:
    """The data in a folder, of one of some kinds; raises InputError as their readers and `find` do."""
    found = find(path, readers)
    if found is None:
        if len(readers) == 1:
            named = " or ".join(readers[0].below)
            raise InputError(f"There are none of {readers[0].kind} in {path}. Give the folder {named} of the archive.")
        kinds = ", ".join(reader.kind for reader in readers)
        raise InputError(f"There are no data in {path}. Give the path of a folder that holds one of: {kinds}.")
    reader, folder = found
    if layout not in (None, Layout.NHWC) and not reader.takes_layout:
        raise InputError(f"layout {layout} was given for {path}, but {reader.kind} are images (nhwc). Leave it out.")
    if mean is None and reader.scale is not None:
        mean, std = reader.scale
    name = reader.name or (folder.parent if folder.name in reader.below else folder).absolute().name
    try:
        given = reader.read(folder, layout, draw)
    except OSError as error:  # of a folder: of files the readers tell
        raise InputError(f"Cannot read {folder}: {first_line(error)}. Make it readable.") from None

    def again(part: Slice) -> Mapping[str, Any]:
        return reader.read(folder, layout, part)

    told = draw if draw is None else Sampling(draw, again)
    return dataset_from(name, str(folder), given, layout, mean, std, task, told)
