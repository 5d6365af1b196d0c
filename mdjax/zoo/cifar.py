"""CIFAR-10's official folders, python or binary, read without running what a pickle may ask for."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.pickled_values import VALUES
from mdjax.pickles import ForeignError, load

MEAN = (0.4914, 0.4822, 0.4465)
"""Channel means on the scale [0, 1], as the published zoo was normalised."""

STD = (0.2023, 0.1994, 0.2010)
"""Channel deviations on the scale [0, 1], as the published zoo was normalised."""

RECORDS = 10_000
"""Images in each of the six official files."""

_TRAIN = tuple(f"data_batch_{index}" for index in range(1, 6))
_TEST = "test_batch"
_PIXELS = 3 * 32 * 32
_MOST_BYTES = 2**26
"""Twice what an official file has."""


def find_folder(path: Path) -> Path | None:
    """The folder at `path`, or official subfolder of it, that holds CIFAR-10's batches; None if there is none."""
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        if (folder / _TRAIN[0]).is_file() or (folder / f"{_TRAIN[0]}.bin").is_file():
            return folder
    return None


def read_cifar10(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(x_train, y_train, x_test, y_test) in file order: images uint8 [n, 32, 32, 3], labels uint8 [n].

    Raises InputError, which names the file, for one that is missing, truncated, or no CIFAR-10 batch, and for a
    pickle that refers to anything but numpy arrays.
    """
    binary = (folder / f"{_TRAIN[0]}.bin").is_file()
    suffix, read = (".bin", _read_binary) if binary else ("", _read_pickle)
    train = [_read_batch(folder / (name + suffix), read) for name in _TRAIN]
    x_test, y_test = _read_batch(folder / (_TEST + suffix), read)
    x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
    return x_train, y_train, x_test, y_test


def _read_batch(path: Path, read: Callable[[Path], tuple[np.ndarray, Any]]) -> tuple[np.ndarray, np.ndarray]:
    try:
        if path.exists() and not (path.is_file() and path.stat().st_size <= _MOST_BYTES):
            raise InputError(
                f"{path} is no file of at most {_MOST_BYTES} bytes, as CIFAR-10's are. Unpack the archive again."
            )
        pixels, labels = read(path)
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Unpack the whole CIFAR-10 archive into {path.parent}.") from None
    except OSError as error:
        raise InputError(f"Cannot read {path}: {first_line(error)}. Make it readable.") from None
    if pixels.shape != (RECORDS, _PIXELS) or pixels.dtype != np.uint8:
        raise InputError(
            f"{path} holds an array {pixels.dtype}{list(pixels.shape)}, but a CIFAR-10 batch is "
            f"uint8[{RECORDS}, {_PIXELS}]. Unpack the archive again."
        )
    labels = np.asarray(labels)
    if labels.shape != (RECORDS,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > 9:
        raise InputError(f"{path} does not hold {RECORDS} labels from 0 to 9. Unpack the archive again.")
    # Stored as three planes of 32 rows.
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, labels.astype(np.uint8)


def _read_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    records = np.fromfile(path, np.uint8)
    if records.size != RECORDS * (1 + _PIXELS):
        raise InputError(
            f"{path} has {records.size} bytes, but a CIFAR-10 batch has {RECORDS * (1 + _PIXELS)}. "
            "It is truncated or another file; unpack the archive again."
        )
    records = records.reshape(RECORDS, 1 + _PIXELS)
    return records[:, 1:], records[:, 0]


def _read_pickle(path: Path) -> tuple[np.ndarray, Any]:
    content = path.read_bytes()
    try:
        found = load(io.BytesIO(content), 2 * len(content), VALUES.get)
    except Exception as error:  # a damaged pickle can raise nearly anything
        unrun = ", which no batch needs and which was not run" if isinstance(error, ForeignError) else ""
        raise InputError(
            f"{path} is no readable CIFAR-10 batch: {first_line(error)}{unrun}. "
            "It is truncated or another file; unpack the official archive again."
        ) from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a {type(found).__name__}, not a CIFAR-10 batch. Unpack the archive again.")
    fields = {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in found.items()}
    for name, kind in (("data", np.ndarray), ("labels", (list, np.ndarray))):
        if not isinstance(fields.get(name), kind):
            raise InputError(f"{path} lacks the entry {name!r} of a CIFAR-10 batch. Unpack the archive again.")
    labels = fields["labels"]
    if isinstance(labels, list) and not all(isinstance(label, int | np.integer) for label in labels):
        raise InputError(f"{path} has labels that are no whole numbers. Unpack the archive again.")
    return fields["data"], labels
