"""Named data and files → fixed train and test arrays, with the published label noise and subsets."""

import dataclasses
import functools
import hashlib
import math
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.inputs import open_regular
from mdjax.memory import check_content
from mdjax.zoo import arrays as checks
from mdjax.zoo import cifar
from mdjax.zoo.archives import Archive
from mdjax.zoo.arrays import ARRAYS, FACTS, Assumption, Layout, layout_of

NAMES = ("digits", "digits32")
"""Data that comes with the package's dependencies and needs no file."""

_NOISE_SEED = 12345
_NUM_DIGITS_TRAIN = 1297
_CIFAR_PREFIX = "cifar10:"

Numbers = float | Sequence[float]
"""One number for all channels, or one per channel."""


class Reading(NamedTuple):
    """What was taken for granted of inputs whose layout nobody gave, and the same data read the other way."""

    assumption: Assumption
    otherwise: Callable[[], "Dataset"] | None


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs as a network sees them (float32, NHWC or flat; int32 tokens) and clean integer labels.

    `x_train` [n, h, w, c] or [n, d] or whatever the network reads, `y_train` [n] int32, and the same for the test
    set. Two of them are compared by `fingerprint`. `reading` says what `load` had to assume of them.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int
    reading: Reading | None = dataclasses.field(default=None, repr=False)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One example's shape: (height, width, channels), (features,), (length, features), (length,)."""
        return self.x_train.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex digest of all arrays and the number of classes: another value anywhere changes it."""
        digest = hashlib.blake2b(str(self.num_classes).encode(), digest_size=8)
        for name in ARRAYS:
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
            digest.update(array.data)
        return digest.hexdigest()

    def train_labels(self, label_noise: float) -> np.ndarray:
        """Train labels [n] int32, a fraction `label_noise` of them (chosen at random) redrawn over all classes.

        So about `label_noise · (1 - 1/num_classes)` change. The recipe and its seed are the published zoo's: the
        same labels for every model, noise before any subset is taken. Raises InputError outside [0, 1].
        """
        if not 0 <= label_noise <= 1:
            raise InputError(f"label_noise is {label_noise}. Give a fraction from 0 to 1.")
        labels = self.y_train.copy()
        if label_noise > 0:
            # The legacy generator is part of the recipe: a newer one would draw other labels.
            random = np.random.RandomState(_NOISE_SEED)
            mask = random.rand(len(labels)) <= label_noise
            labels[mask] = random.choice(self.num_classes, mask.sum())
        return labels

    def subset_size(self, data_share: float) -> int:
        """How many of the first training examples make up `data_share` of them: the published `int(n · data_share)`.

        The product is rounded to 1e-6 first, because 0.29 · 100 is 28.999999999999996 in floating point; for the
        published fractions of 50,000 images that changes nothing. Raises InputError for a fraction outside (0, 1] or so
        small that nothing is left.
        """
        if not 0 < data_share <= 1:
            raise InputError(f"data_share is {data_share}. Give a fraction above 0 and at most 1.")
        size = int(round(len(self.y_train) * data_share, 6))
        if size == 0:
            raise InputError(
                f"data_share is {data_share}, which leaves none of {len(self.y_train)} training examples. "
                f"Give at least {1 / len(self.y_train):g}."
            )
        return size


Data = Dataset | str | Path | Sequence[Any] | Mapping[str, Any]
"""What is accepted as data: a `Dataset`, a name or path as `load` takes it, or the arrays themselves."""


def dataset_of(data: Data, layout: Layout | str | None = None) -> Dataset:
    """The data as a checked `Dataset`.

    data: a Dataset; what `load` takes; or arrays, as (x_train, y_train, x_test, y_test) or as a mapping with these
        keys, `num_classes` and `layout` too, which are read as those of an .npz are.
    layout: as for `load`; not for a Dataset, whose inputs are as a network sees them.

    Raises InputError, which names the array, for lengths, types, labels or values that cannot be.
    """
    if isinstance(data, Dataset):
        if layout is not None:
            raise InputError(
                f"layout {layout} was given, but the inputs of a Dataset are as the network sees them. Leave it out, "
                "or give the arrays themselves."
            )
        return _checked_dataset(data)
    if isinstance(data, str | os.PathLike):
        return load(Path(data) if isinstance(data, os.PathLike) else data, layout=layout)
    if isinstance(data, Mapping):
        return _standardised("data", "the given data", dict(data), layout_of(layout))
    if isinstance(data, Sequence) and len(data) == len(ARRAYS):
        return _standardised("data", "the given data", dict(zip(ARRAYS, data, strict=True)), layout_of(layout))
    given = type(data).__name__ + (f" of {len(data)}" if isinstance(data, Sequence) else "")
    raise InputError(
        f"The data is a {given}. Give a name, a path, a Dataset, or ({', '.join(ARRAYS)}) as a tuple or a dictionary."
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
    - CIFAR-10's official `cifar-10-batches-py` or `-bin` folder, or `cifar10:PATH` of it or of its parent.

    `layout` says what the inputs of an .npz are, as does an array `layout` in it, or `LAYOUT:PATH` for the path: `nhwc`
    or `nchw` (images), `features` (numbers without an axis to add: [n, features], [n, length, features], ...) or
    `tokens` (whole numbers, kept). Without it, floats and bytes (uint8) are images [n, h, w, c] or [n, h, w], to which
    a channel is added, or flat [n, d], and other whole numbers [n, length] are tokens; what could be something else is
    remembered in `reading`, and `mdjax.measure` holds it against the model.

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
    path = Path(text.removeprefix(_CIFAR_PREFIX)).expanduser()
    if text not in NAMES and path.is_file() and not text.startswith(_CIFAR_PREFIX):
        return _npz(path, mean, std, layout)
    if layout not in (None, Layout.NHWC):
        raise InputError(f"layout {layout} was given for {text!r}, but it says what an .npz file holds. Leave it out.")
    if text in NAMES:
        return _digits(text, mean, std)
    if text == "cifar10" and not path.exists():
        raise InputError(
            f"CIFAR-10 has to be read from its official folder. Give {_CIFAR_PREFIX}PATH, with the path of "
            "cifar-10-batches-py or cifar-10-batches-bin."
        )
    if is_cifar10(text):
        return _cifar10(path, mean, std)
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise InputError(f"There is no file or folder {path}. Give the path of an .npz or of a CIFAR-10 folder.")
    raise InputError(
        f"Unknown data {text!r}. Choose one of {', '.join(NAMES)}, or give the path of an .npz or {_CIFAR_PREFIX}PATH."
    )


def split_layout(source: str) -> tuple[Layout | None, str]:
    """The layout that a source's name begins with, as in `nchw:my.npz`, and the rest."""
    prefix, colon, rest = source.partition(":")
    return (Layout(prefix), rest) if colon and prefix in list(Layout) else (None, source)


def absolute(source: str) -> str:
    """The source, where it is the path of a file or folder that is there, as one that does not depend on the folder
    one is in."""
    layout, text = split_layout(source)
    if text in ("", *NAMES):
        return source
    prefix = f"{layout}:" if layout else ""
    if text.startswith(_CIFAR_PREFIX):
        prefix, text = prefix + _CIFAR_PREFIX, text.removeprefix(_CIFAR_PREFIX)
    return f"{prefix}{Path(text).resolve()}" if Path(text).exists() else source


def is_cifar10(source: Any) -> bool:
    """Whether `load` reads, or would read, CIFAR-10 from its official folder."""
    text = str(source)
    return text == "cifar10" or text.startswith(_CIFAR_PREFIX) or Path(text).expanduser().is_dir()


def _digits(name: str, mean: Numbers | None, std: Numbers | None) -> Dataset:
    # Imported here: scikit-learn and scipy take a second to load, and no other data needs them.
    import scipy.ndimage
    import sklearn.datasets

    bunch = sklearn.datasets.load_digits()
    images = (bunch.images / 16).astype(np.float32)[..., np.newaxis]  # pyright: ignore[reportAttributeAccessIssue]
    labels = bunch.target.astype(np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    if name == "digits32":
        enlarged = scipy.ndimage.zoom(images, (1, 4, 4, 1), order=1, mode="nearest", grid_mode=True)
        images = np.repeat(enlarged, 3, axis=-1)  # pyright: ignore[reportCallIssue, reportArgumentType]
    order = np.random.RandomState(0).permutation(len(labels))
    train, test = order[:_NUM_DIGITS_TRAIN], order[_NUM_DIGITS_TRAIN:]
    x_train, x_test = images[train], images[test]
    _standardise(x_train, x_test, mean, std)
    return Dataset(name, x_train, labels[train], x_test, labels[test], 10)


def _cifar10(path: Path, mean: Numbers | None, std: Numbers | None) -> Dataset:
    folder = cifar.find_folder(path)
    if folder is None:
        raise InputError(
            f"There are no CIFAR-10 batches in {path}: neither data_batch_1 nor data_batch_1.bin. "
            "Give the folder cifar-10-batches-py or cifar-10-batches-bin of the official archive."
        )
    if mean is None:
        mean, std = cifar.MEAN, cifar.STD
    x_train, y_train, x_test, y_test = cifar.read_cifar10(folder)
    x_train, x_test = _unit_scale(x_train), _unit_scale(x_test)
    _standardise(x_train, x_test, mean, std)
    return Dataset("cifar10", x_train, y_train.astype(np.int32), x_test, y_test.astype(np.int32), 10)


def _npz(path: Path, mean: Numbers | None, std: Numbers | None, layout: Layout | None) -> Dataset:
    return _standardised(path.stem, str(path), _read_npz(path), layout, mean, std)


def _standardised(
    name: str,
    where: str,
    given: Mapping[str, Any],
    layout: Layout | None,
    mean: Numbers | None = None,
    std: Numbers | None = None,
) -> Dataset:
    """Arrays as a network sees them: bytes scaled and standardised, floats as they are, tokens as whole numbers."""
    found = checks.checked_arrays(where, given, layout)
    x_train, x_test = found.x_train, found.x_test
    if x_train.dtype == np.uint8:
        x_train, x_test = _unit_scale(x_train), _unit_scale(x_test)
        _standardise(x_train, x_test, mean, std)
    elif mean is not None:
        raise InputError(
            f"{where}: mean and std were given, but x_train is {x_train.dtype}, which is taken as it is. "
            "Leave them out, or save the inputs as uint8."
        )
    elif x_train.dtype.kind == "f":
        x_train, x_test = x_train.astype(np.float32, copy=False), x_test.astype(np.float32, copy=False)
    # The other way is read from the arrays anew where it is wanted: most never are.
    again = functools.partial(_standardised, name, where, given)
    readings = {
        None: None,
        Assumption.GREY: Reading(Assumption.GREY, lambda: again(Layout.FEATURES, mean, std)),
        Assumption.PIXELS: Reading(Assumption.PIXELS, lambda: again(Layout.TOKENS)),
        Assumption.TOKENS: Reading(Assumption.TOKENS, None),
    }
    reading = readings[found.assumption]
    return Dataset(name, x_train, found.y_train, x_test, found.y_test, found.num_classes, reading)


def _checked_dataset(data: Dataset) -> Dataset:
    """The same object, once its arrays fit together; a copy with numpy arrays where it has others."""
    where = f"Dataset {data.name!r}"
    arrays = {name: checks.as_array(where, name, getattr(data, name)) for name in ARRAYS}
    for split in ("train", "test"):
        inputs, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if inputs.ndim < 2 or inputs.size == 0:
            raise InputError(f"{where}: x_{split} has shape {list(inputs.shape)}. Give examples as [n, ...].")
        if inputs.dtype == np.uint8 and inputs.ndim > 2:
            raise InputError(
                f"{where}: x_{split} is {checks.form(inputs)}, but a Dataset holds inputs as the network sees them. "
                "Give floats, or the arrays as a tuple or dictionary, whose pixels are scaled and standardised."
            )
        checks.check_whole(where, f"x_{split}", inputs)
        checks.check_labels(where, f"y_{split}", labels, len(inputs))
        checks.check_finite(where, f"x_{split}", inputs)
    checks.check_alike(where, arrays["x_train"], arrays["x_test"])
    classes = np.asarray(data.num_classes)
    if classes.size != 1 or classes.dtype.kind not in "iu":
        raise InputError(f"{where}: num_classes is {data.num_classes!r}. Give a whole number.")
    checks.check_classes(where, int(classes.item()), arrays)
    if all(array is getattr(data, name) for name, array in arrays.items()):
        return data
    return dataclasses.replace(data, **arrays)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    name = ""
    try:
        with open_regular(path) as file:
            if not zipfile.is_zipfile(file):  # np.load would read a single array, or speak of pickles
                raise ValueError("it is no whole .npz file")
            content = Archive(file)
            for name in ARRAYS:
                if name not in content.names:
                    found = ", ".join(content.names)[:200] or "nothing"
                    raise InputError(f"{path} has no array {name}; it holds {found}. Save {', '.join(ARRAYS)}.")
            names = [*ARRAYS, *(fact for fact in FACTS if fact in content.names)]
            needed = 0
            for name in names:
                shape, dtype = content.form(name)
                needed += math.prod(shape) * max(4, dtype.itemsize)  # bytes become floats of four
            check_content(f"The arrays of {path}", needed, path.stat().st_size)
            for name in names:
                arrays[name] = content.read(name)
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        where = f"array {name} of {path}" if name else str(path)
        raise InputError(f"Cannot read {where}: {first_line(error)}. Save it again with numpy.savez.") from None
    return arrays


def _unit_scale(pixels: np.ndarray) -> np.ndarray:
    scaled = pixels.astype(np.float32)
    scaled /= 255
    return scaled


def _standardise(x_train: np.ndarray, x_test: np.ndarray, mean: Numbers | None, std: Numbers | None) -> None:
    """Subtract the mean and divide by the deviation of each channel, in place: CIFAR-10 is 0.7 GB as floats."""
    channels = x_train.shape[-1] if x_train.ndim == 4 else 1
    axes = tuple(range(x_train.ndim - 1)) if x_train.ndim == 4 else None
    means = x_train.mean(axes, dtype=np.float64) if mean is None else _per_channel("mean", mean, channels)
    for inputs in (x_train, x_test):
        inputs -= means.astype(np.float32)
    if std is None:
        deviations = np.sqrt(np.atleast_1d(np.square(x_train).mean(axes, dtype=np.float64)))
        deviations[deviations < 1e-6] = 1  # a constant channel becomes 0, not rounding noise
    else:
        deviations = _per_channel("std", std, channels)
        if not (deviations > 0).all():
            raise InputError(f"std is {std}. Give numbers above 0.")
    for inputs in (x_train, x_test):
        inputs /= deviations.astype(np.float32)


def _per_channel(name: str, numbers: Numbers, channels: int) -> np.ndarray:
    values = np.atleast_1d(np.asarray(numbers, np.float64))
    if values.shape not in ((1,), (channels,)) or not np.isfinite(values).all():
        raise InputError(f"{name} is {numbers}. Give one number, or one for each of {channels} channels.")
    return values
