"""Folders of images: `train/CLASS/*.png`, and the same below `test` or `val`."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mdjax.errors import InputError, first_line
from mdjax.inputs import expect_damage, open_regular
from mdjax.memory import check_content
from mdjax.zoo import images
from mdjax.zoo.arrays import Layout
from mdjax.zoo.draws import DRAWN, Choice, drawn_rows

_TEST = ("test", "val")


class _Split(NamedTuple):
    """The image files of one half with their labels, class by class, and the classes' names."""

    files: list[Path]
    labels: list[int]
    classes: list[str]

    def taken(self, rows: np.ndarray | None) -> "_Split":
        """With these files alone; all where there are none to choose."""
        if rows is None:
            return self
        return _Split([self.files[row] for row in rows], [self.labels[row] for row in rows], self.classes)


def is_in(folder: Path) -> bool:
    """Whether a folder has a folder `train` with folders in it."""
    train = folder / "train"
    return train.is_dir() and any(entry.is_dir() for entry in train.iterdir())


def read(folder: Path, draw: Choice | None = None) -> dict[str, Any]:
    """Images uint8 [n, height, width, channels] and labels [n], in sorted order of classes and of files.

    Classes are the folders below `train`, by their sorted names; `test`, or else `val`, may lack some, but have no
    others. Files of other suffixes than an image's (`images.SUFFIXES`) and hidden ones are left out; of those that
    `draw` leaves out only the names are read. Cost: every header and every file are read once.

    Raises InputError, which names the file, for images of different sizes or kinds, for what is no image, and where all
    together would take more than the memory limit, before the second one is decoded.
    """
    test = next((name for name in _TEST if (folder / name).is_dir()), None)
    if test is None:
        raise InputError(f"{folder} has a folder train, but neither test nor val. Put the test images into test/CLASS.")
    train = _split(folder / "train", None)
    parts = train, held_out = train, _split(folder / test, train.classes)
    counts = {f"{array}_{half}": len(part.files) for array in "xy" for half, part in zip(("train", "test"), parts)}
    rows, drawn = drawn_rows(str(folder), draw, counts)
    parts = train.taken(rows.get("x_train")), held_out.taken(rows.get("x_test"))
    files = [file for part in parts for file in part.files]
    height, width, channels = shape = _attempt(files[0], images.shape_of)
    size = sum(_attempt(file) for file in files)
    check_content(f"The images of {folder}", 4 * len(files) * height * width * channels, size)
    x_train, x_test = (_pixels(part.files, files[0], shape) for part in parts)
    y_train, y_test = (np.array(part.labels, np.int32) for part in parts)
    return {
        **{"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test},
        "num_classes": len(train.classes),
        "layout": Layout.NHWC,
        **({} if drawn is None else {DRAWN: drawn}),
    }


def _split(folder: Path, known: list[str] | None) -> _Split:
    """The files below a folder of classes; `known` are the classes that may be there."""
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if others := [name for name in classes if known is not None and name not in known]:
        raise InputError(f"{folder} has the class {others[0]!r}, which the training images lack. Name both alike.")
    files, labels = [], []
    for name in classes:
        found = [
            path
            for path in sorted((folder / name).iterdir())
            if path.suffix.lower() in images.SUFFIXES and not path.name.startswith(".")
        ]
        if not found:
            raise InputError(
                f"{folder / name} has no images. Put files of its class into it ({', '.join(images.SUFFIXES)}), or "
                "remove it."
            )
        files += found
        labels += [(known or classes).index(name)] * len(found)
    if not files:
        raise InputError(f"{folder} has no folders of images. Give each class one.")
    return _Split(files, labels, classes)


def _pixels(files: list[Path], first: Path, shape: tuple[int, int, int]) -> np.ndarray:
    found = np.empty((len(files), *shape), np.uint8)
    for row, file in enumerate(files):
        found[row] = _attempt(file, lambda image: _alike(image, file, first, shape))
    return found


def _alike(image: Any, file: Path, first: Path, shape: tuple[int, int, int]) -> np.ndarray:
    other = images.shape_of(image)
    if other != shape:
        raise InputError(
            f"{file} is {images.form(other)}, but {first} is {images.form(shape)}. Give all images one size and one "
            "number of channels."
        )
    return images.pixels(image)


def _attempt(path: Path, read: Any = None) -> Any:
    """What `read` makes of the opened image; without it the size of the file in bytes."""
    try:
        with open_regular(path) as file:
            if read is None:
                return os.fstat(file.fileno()).st_size
            with images.open_image(file) as image:
                return read(image)
    except Exception as error:  # Pillow raises nearly anything for damaged files
        expect_damage(error, str(path))
        raise InputError(f"Cannot read {path}: {first_line(error)}. Save it again, or remove it.") from None
