"""Named data and files → fixed train and test arrays, with the published label noise and subsets."""

import dataclasses
import functools
import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.zoo import cifar

NAMES = ("digits", "digits32")
"""Data that comes with the package's dependencies and needs no file."""

_ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_NOISE_SEED = 12345
_NUM_DIGITS_TRAIN = 1297
_MOST_CLASSES = 100_000
_FORMS = "[n, height, width, channels], [n, height, width] or [n, features]"
_CIFAR_PREFIX = "cifar10:"

Numbers = float | Sequence[float]
"""One number for all channels, or one per channel."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs as a network sees them (float32, NHWC or flat) and clean integer labels.

    `x_train` [n, h, w, c] or [n, d], `y_train` [n] int32, and the same for the test set. Two of them are compared
    by `fingerprint`.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One example's shape: (height, width, channels), or (features,)."""
        return self.x_train.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A short hex digest of all arrays and the number of classes: another value anywhere changes it."""
        digest = hashlib.blake2b(str(self.num_classes).encode(), digest_size=8)
        for name in _ARRAYS:
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


def load(source: str | Path, *, mean: Numbers | None = None, std: Numbers | None = None) -> Dataset:
    """Load data by name or path; equal sources give equal arrays in equal order.

    - `digits`: scikit-learn's 1,797 handwritten digits, 8×8×1, shuffled by `RandomState(0)`, the first 1,297 for
      training and 500 for testing. `digits32`: the same, enlarged bilinearly to 32×32 and repeated over three
      channels, for networks of the published geometry.
    - a path to an `.npz` with x_train, y_train, x_test and y_test, images [n, h, w, c] or [n, h, w], or flat inputs
      [n, d]; a whole number `num_classes` beside them is heeded, else it is the largest train label plus one.
      Float inputs are taken as they are; its `name` is the file's stem.
    - CIFAR-10's official `cifar-10-batches-py` or `-bin` folder, or `cifar10:PATH` of it or of its parent.

    Whole-number pixels are scaled to [0, 1] and standardised by `mean` and `std` (one number, or one per channel, on
    that scale), which default to the train set's own, and to the published constants for CIFAR-10. Flat inputs count
    as one channel.

    Raises InputError, which names the file and array, for anything missing, malformed or not finite.
    """
    if (mean is None) != (std is None):
        raise InputError("Only one of mean and std was given. Give both or neither.")
    text = str(source)
    if text in NAMES:
        return _digits(text, mean, std)
    path = Path(text.removeprefix(_CIFAR_PREFIX)).expanduser()
    if text == "cifar10" and not path.exists():
        raise InputError(
            f"CIFAR-10 has to be read from its official folder. Give {_CIFAR_PREFIX}PATH, with the path of "
            "cifar-10-batches-py or cifar-10-batches-bin."
        )
    if text.startswith(_CIFAR_PREFIX) or path.is_dir():
        return _cifar10(path, mean, std)
    if path.is_file():
        return _npz(path, mean, std)
    if path.suffix == ".npz" or len(path.parts) > 1:
        raise InputError(f"There is no file or folder {path}. Give the path of an .npz or of a CIFAR-10 folder.")
    raise InputError(
        f"Unknown data {text!r}. Choose one of {', '.join(NAMES)}, or give the path of an .npz or {_CIFAR_PREFIX}PATH."
    )


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


def _npz(path: Path, mean: Numbers | None, std: Numbers | None) -> Dataset:
    arrays = _read_npz(path)
    x_train, x_test = (_checked_inputs(path, name, arrays[name]) for name in ("x_train", "x_test"))
    for split, inputs in (("train", x_train), ("test", x_test)):
        labels = arrays[f"y_{split}"]
        _check_labels(path, f"y_{split}", labels)
        if len(labels) != len(inputs):
            raise InputError(
                f"{path}: x_{split} has {len(inputs)} examples, but y_{split} has {len(labels)} labels. "
                "Give one label per example."
            )
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype.kind != x_test.dtype.kind:
        raise InputError(
            f"{path}: x_train is {_form(x_train)}, but x_test is {_form(x_test)}. Save both in the same form and type."
        )
    num_classes = _num_classes(path, arrays)
    if x_train.dtype == np.uint8:
        x_train, x_test = _unit_scale(x_train), _unit_scale(x_test)
        _standardise(x_train, x_test, mean, std)
    elif mean is not None:
        raise InputError(
            f"{path}: mean and std were given, but x_train is {x_train.dtype}, which is taken as it is. "
            "Leave them out, or save the inputs as uint8."
        )
    x_train, x_test = _finite_floats(path, "x_train", x_train), _finite_floats(path, "x_test", x_test)
    y_train, y_test = arrays["y_train"].astype(np.int32), arrays["y_test"].astype(np.int32)
    return Dataset(path.stem, x_train, y_train, x_test, y_test, num_classes)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    name = ""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):  # np.load would read a single array, or speak of pickles
                raise ValueError("it is no whole .npz file")
            file.seek(0)
            content = np.load(file, allow_pickle=False)
            for name in _ARRAYS:
                if name not in content.files:
                    found = ", ".join(content.files) or "nothing"
                    raise InputError(f"{path} has no array {name}; it holds {found}. Save {', '.join(_ARRAYS)}.")
            for name in (*_ARRAYS, *({"num_classes"} & set(content.files))):
                arrays[name] = content[name]
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        where = f"array {name} of {path}" if name else str(path)
        raise InputError(f"Cannot read {where}: {first_line(error)}. Save it again with numpy.savez.") from None
    return arrays


def _checked_inputs(path: Path, name: str, inputs: np.ndarray) -> np.ndarray:
    if inputs.dtype != np.uint8 and inputs.dtype.kind != "f":
        raise InputError(
            f"{path}: {name} has type {inputs.dtype}. Save pixels of 0 to 255 as uint8, "
            "or floats as the network reads them."
        )
    if inputs.ndim not in (2, 3, 4):
        raise InputError(f"{path}: {name} has shape {list(inputs.shape)}. Save it as {_FORMS}.")
    if inputs.size == 0:
        raise InputError(f"{path}: {name} is empty, of shape {list(inputs.shape)}. Give at least one example.")
    if inputs.ndim == 4 and inputs.shape[1] in (1, 3, 4) and inputs.shape[3] > 4 and inputs.shape[2] > inputs.shape[1]:
        raise InputError(
            f"{path}: {name} has shape {list(inputs.shape)}, which looks like channels first. "
            f"Save {name}.transpose(0, 2, 3, 1), with the channels last."
        )
    return inputs[..., np.newaxis] if inputs.ndim == 3 else inputs


def _check_labels(path: Path, name: str, labels: np.ndarray) -> None:
    if labels.ndim != 1:
        raise InputError(f"{path}: {name} has shape {list(labels.shape)}. Save one whole number per example, as [n].")
    if labels.dtype.kind not in "iu":
        raise InputError(f"{path}: {name} has type {labels.dtype}. Save labels as whole numbers from 0.")
    if len(labels) and labels.min() < 0:
        raise InputError(f"{path}: {name} holds {labels.min()}. Number the classes 0, 1, 2, ...")


def _num_classes(path: Path, arrays: dict[str, np.ndarray]) -> int:
    given = arrays.get("num_classes")
    if given is not None and (given.size != 1 or given.dtype.kind not in "iu"):
        raise InputError(f"{path}: num_classes is {given.dtype}{list(given.shape)}. Save a single whole number.")
    num_classes = int(arrays["y_train"].max()) + 1 if given is None else int(given.item())
    if not 2 <= num_classes <= _MOST_CLASSES:
        raise InputError(
            f"{path}: the labels make {num_classes} classes, but 2 to {_MOST_CLASSES} are expected. "
            "Number the classes 0, 1, 2, ..."
        )
    for name in ("y_train", "y_test"):
        if arrays[name].max() >= num_classes:
            raise InputError(
                f"{path}: {name} holds {arrays[name].max()}, but with {num_classes} classes the largest label is "
                f"{num_classes - 1}. Correct it, or save the array num_classes too."
            )
    return num_classes


def _finite_floats(path: Path, name: str, inputs: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # a value beyond float32 becomes inf, which the check reports
        inputs = inputs.astype(np.float32, copy=False)
    broken = ~np.isfinite(inputs)
    if broken.any():
        first = int(np.argmax(broken.reshape(len(inputs), -1).any(1)))
        raise InputError(
            f"{path}: {name} holds {broken.sum()} values that are NaN, infinite or beyond float32, the first in "
            f"example {first}. Remove those examples."
        )
    return inputs


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


def _form(inputs: np.ndarray) -> str:
    return f"{inputs.dtype}{['n', *inputs.shape[1:]]}".replace("'", "")
