"""Named data, files, folders and objects → fixed train and test arrays: the one place that tells them apart."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mdjax.errors import InputError
from mdjax.files import expanded
from mdjax.zoo import examples
from mdjax.zoo.archives import read_npz
from mdjax.zoo.arrays import ARRAYS, Layout, layout_of
from mdjax.zoo.datasets import Dataset, Numbers, checked_dataset, dataset_from
from mdjax.zoo.digits import NAMES, digits
from mdjax.zoo.readers import PREFIXES, READERS, find, read_folder

__all__ = ["NAMES", "Data", "Dataset", "Numbers", "absolute", "dataset_of", "is_cifar10", "load", "split_layout"]

Data = Dataset | str | Path | Sequence[Any] | Mapping[str, Any]
"""What is accepted as data: a `Dataset`, a name or path as `load` takes it, examples, or the arrays themselves."""


def dataset_of(data: Data, layout: Layout | str | None = None) -> Dataset:
    """The data as a checked `Dataset`.

    data: a Dataset; what `load` takes; or arrays, as (x_train, y_train, x_test, y_test) or as a mapping with these
        keys, `num_classes` and `layout` too, which are read as those of an .npz are.
        Or (train, test), also as a mapping with these keys: data sets of torch, datasets or grain, loaders, lists,
        whatever gives (input, label) or dictionaries, as examples or batches (`mdjax.zoo.examples`). They are read
        once, as they come: without random augmentation, and in one order, equal sets give equal data.
    layout: as for `load`; not for a Dataset, whose inputs are as a network sees them.

    Raises InputError, which names the array, for lengths, types, labels or values that cannot be.
    """
    if isinstance(data, Dataset):
        if layout is not None:
            raise InputError(
                f"layout {layout} was given, but the inputs of a Dataset are as the network sees them. Leave it out, "
                "or give the arrays themselves."
            )
        return checked_dataset(data)
    if isinstance(data, str | os.PathLike):
        return load(Path(data) if isinstance(data, os.PathLike) else data, layout=layout)
    if (parts := examples.halves(data)) is not None:
        layout = layout_of(layout)
        return dataset_from("data", "the given data", examples.arrays_of(parts, layout), layout)
    if isinstance(data, Mapping):
        return dataset_from("data", "the given data", dict(data), layout_of(layout))
    if isinstance(data, Sequence) and len(data) == len(ARRAYS):
        return dataset_from("data", "the given data", dict(zip(ARRAYS, data, strict=True)), layout_of(layout))
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

    Floats are taken as they are. Bytes are scaled to [0, 1] and standardised by `mean` and `std` (one number, or one
    per channel, on that scale), which default to the train set's own, and to the published constants for CIFAR-10.
    Inputs without channels count as one channel.

    Raises InputError, which names the file and array, for anything missing, malformed or not finite.
    """
    if (mean is None) != (std is None):
        raise InputError("Only one of mean and std was given. Give both or neither.")
    told, text = split_layout(str(source))
    if layout is not None and told is not None and layout_of(layout) != told:
        raise InputError(
            f"layout {layout} was given for {str(source)!r}, which says {told} itself. Give one of the two."
        )
    layout = layout_of(layout if layout is not None else told)
    prefix, place = split_kind(text)
    path = expanded(place)
    if prefix:
        return read_folder(path, (PREFIXES[prefix],), layout, mean, std)
    if text in NAMES:
        if layout not in (None, Layout.NHWC):
            raise InputError(
                f"layout {layout} was given for {text!r}, but it says what an .npz file holds, or a folder. Leave it "
                "out."
            )
        return digits(text, mean, std)
    if path.is_file():
        if path.suffix != ".npz" and not zipfile.is_zipfile(path) and find(path.parent) is not None:
            raise InputError(f"{path} is only one of the files of its data. Give the folder {path.parent}.")
        return _npz(path, mean, std, layout)
    if f"{text}:" in PREFIXES and not path.exists():
        raise InputError(f"{text} has to be read from its official folder. Give {text}:PATH, with the path of it.")
    if path.is_dir():
        return read_folder(path, READERS, layout, mean, std)
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise InputError(f"There is no file or folder {path}. Give the path of an .npz or of a folder of data.")
    raise InputError(
        f"Unknown data {text!r}. Choose one of {', '.join(NAMES)}, or give the path of an .npz or of a folder of data."
    )


def split_layout(source: str) -> tuple[Layout | None, str]:
    """The layout that a source's name begins with, as in `nchw:my.npz`, and the rest."""
    prefix, colon, rest = source.partition(":")
    return (Layout(prefix), rest) if colon and prefix in list(Layout) else (None, source)


def split_kind(source: str) -> tuple[str, str]:
    """What a path begins with that says of which kind its data are, as in `cifar10:data`, and the rest."""
    prefix = next((prefix for prefix in PREFIXES if source.startswith(prefix)), "")
    return prefix, source.removeprefix(prefix)


def absolute(source: str) -> str:
    """The source, where it is the path of a file or folder that is there, as one that does not depend on the folder
    one is in."""
    layout, text = split_layout(source)
    if text in ("", *NAMES):
        return source
    kind, text = split_kind(text)
    prefix = (f"{layout}:" if layout else "") + kind
    return f"{prefix}{Path(text).resolve()}" if Path(text).exists() else source


def is_cifar10(source: Any) -> bool:
    """Whether `load` reads, or would read, CIFAR-10 from its official folder."""
    text = str(source)
    prefix, place = split_kind(text)
    if text == "cifar10" or prefix:
        return text == "cifar10" or prefix == "cifar10:"
    path = expanded(place)
    return path.is_dir() and find(path, (PREFIXES["cifar10:"],)) is not None


def _npz(path: Path, mean: Numbers | None, std: Numbers | None, layout: Layout | None) -> Dataset:
    return dataset_from(path.stem, str(path), read_npz(path), layout, mean, std)
