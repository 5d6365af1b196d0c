"""CIFAR-10's and CIFAR-100's official folders, python or binary, read without running what a pickle may ask for."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.inputs import open_regular
from mdjax.pickled_values import VALUES
from mdjax.pickles import ForeignError, load

MEAN = (0.4914, 0.4822, 0.4465)
"""CIFAR-10's channel means on the scale [0, 1], as the published zoo was normalised."""

STD = (0.2023, 0.1994, 0.2010)
"""CIFAR-10's channel deviations on the scale [0, 1], as the published zoo was normalised."""

RECORDS = 10_000
"""Images in each of CIFAR-10's six files, in CIFAR-100's test file, and in a fifth of its training file."""

_PIXELS = 3 * 32 * 32


class Release(NamedTuple):
    """One of the two sets as it is published."""

    name: str
    folders: tuple[str, ...]
    """What its folders are called."""
    train: tuple[str, ...]
    test: str
    """Its files; those of binary folders end in .bin."""
    parts: int
    """How often `RECORDS` a training file holds."""
    labels: str
    """What the entry of labels is called."""
    label_bytes: int
    """Bytes before the pixels of a binary record, the last of which is the label."""
    num_classes: int

    def is_in(self, folder: Path) -> bool:
        """Whether a folder has its first file."""
        return (folder / self.train[0]).is_file() or (folder / f"{self.train[0]}.bin").is_file()

    def read(self, folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(x_train, y_train, x_test, y_test) in file order: images uint8 [n, 32, 32, 3], labels uint8 [n].

        Raises InputError, which names the file, for one that is missing, truncated, or none of this set, and for a
        pickle that refers to anything but numpy arrays.
        """
        suffix = ".bin" if (folder / f"{self.train[0]}.bin").is_file() else ""
        train = [self._read_batch(folder / (name + suffix), self.parts * RECORDS) for name in self.train]
        x_test, y_test = self._read_batch(folder / (self.test + suffix), RECORDS)
        x_train, y_train = (np.concatenate(parts) for parts in zip(*train, strict=True))
        return x_train, y_train, x_test, y_test

    def _read_batch(self, path: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
        most = max(2**20, 2 * count * (_PIXELS + 100))  # twice what an official file has, file names included
        try:
            if path.exists() and not (path.is_file() and path.stat().st_size <= most):
                raise InputError(
                    f"{path} is no file of at most {most} bytes, as {self.name}'s are. Unpack the archive again."
                )
            with open_regular(path) as file:
                content = file.read()
            read = self._from_binary if path.suffix else self._from_pickle
            pixels, labels = read(path, content, count)
        except FileNotFoundError:
            raise InputError(f"{path} is missing. Unpack the whole {self.name} archive into {path.parent}.") from None
        except OSError as error:
            raise InputError(f"Cannot read {path}: {first_line(error)}. Make it readable.") from None
        if pixels.shape != (count, _PIXELS) or pixels.dtype != np.uint8:
            raise InputError(
                f"{path} holds an array {pixels.dtype}{list(pixels.shape)}, but a {self.name} batch is "
                f"uint8[{count}, {_PIXELS}]. Unpack the archive again."
            )
        labels, last = np.asarray(labels), self.num_classes - 1
        if labels.shape != (count,) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() > last:
            raise InputError(f"{path} does not hold {count} labels from 0 to {last}. Unpack the archive again.")
        # Stored as three planes of 32 rows.
        images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        return images, labels.astype(np.uint8)

    def _from_binary(self, path: Path, content: bytes, count: int) -> tuple[np.ndarray, np.ndarray]:
        size = count * (self.label_bytes + _PIXELS)
        if len(content) != size:
            raise InputError(
                f"{path} has {len(content)} bytes, but a {self.name} batch has {size}. "
                "It is truncated or another file; unpack the archive again."
            )
        records = np.frombuffer(content, np.uint8).reshape(count, -1)
        return records[:, self.label_bytes :], records[:, self.label_bytes - 1]

    def _from_pickle(self, path: Path, content: bytes, count: int) -> tuple[np.ndarray, Any]:
        try:
            found = load(io.BytesIO(content), 2 * len(content), VALUES.get)
        except Exception as error:  # a damaged pickle can raise nearly anything
            unrun = ", which no batch needs and which was not run" if isinstance(error, ForeignError) else ""
            raise InputError(
                f"{path} is no readable {self.name} batch: {first_line(error)}{unrun}. "
                "It is truncated or another file; unpack the official archive again."
            ) from None
        if not isinstance(found, dict):
            raise InputError(
                f"{path} holds a {type(found).__name__}, not a {self.name} batch. Unpack the archive again."
            )
        fields = {key.decode(errors="replace") if isinstance(key, bytes) else key: found[key] for key in found}
        for name, kind in (("data", np.ndarray), (self.labels, (list, np.ndarray))):
            if not isinstance(fields.get(name), kind):
                raise InputError(f"{path} lacks the entry {name!r} of a {self.name} batch. Unpack the archive again.")
        labels = fields[self.labels]
        if isinstance(labels, list) and not all(isinstance(label, int | np.integer) for label in labels):
            raise InputError(f"{path} has labels that are no whole numbers. Unpack the archive again.")
        return fields["data"], labels


CIFAR10 = Release(
    name="CIFAR-10",
    folders=("cifar-10-batches-py", "cifar-10-batches-bin"),
    train=tuple(f"data_batch_{index}" for index in range(1, 6)),
    test="test_batch",
    parts=1,
    labels="labels",
    label_bytes=1,
    num_classes=10,
)

CIFAR100 = Release(
    name="CIFAR-100",
    folders=("cifar-100-python", "cifar-100-binary"),
    train=("train",),
    test="test",
    parts=5,
    labels="fine_labels",
    label_bytes=2,  # the coarse label, then the fine one
    num_classes=100,
)
