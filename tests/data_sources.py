"""One small set of grey images, written as every kind of data that is read."""

import gzip
import io
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

_RANDOM = np.random.RandomState(3)
X = _RANDOM.randint(0, 256, (28, 6, 5)).astype(np.uint8)
Y = np.r_[np.repeat(np.arange(4), 5), np.repeat(np.arange(4), 2)].astype(np.uint8)
"""20 images for training, 8 for testing, in order of their classes."""

ARRAYS = {"x_train": X[:20], "y_train": Y[:20], "x_test": X[20:], "y_test": Y[20:]}
IDX = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


def idx_bytes(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder: Path, packed: bool = False) -> None:
    for name, file in IDX.items():
        content = idx_bytes(ARRAYS[name])
        path = folder / (f"{file}.gz" if packed else file)
        path.write_bytes(gzip.compress(content) if packed else content)


def write_raw(folder: Path) -> None:
    (folder / "raw").mkdir()
    write_idx(folder / "raw")


def write_npy(folder: Path, **more: Any) -> None:
    for name, array in (ARRAYS | more).items():
        np.save(folder / f"{name}.npy", array)


def png(pixels: np.ndarray, mode: str | None = None) -> bytes:
    content = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, "PNG")
    return content.getvalue()


def write_images(folder: Path, test: str = "test") -> None:
    for half, part in (("train", slice(0, 20)), (test, slice(20, 28))):
        for number, (image, label) in enumerate(zip(X[part], Y[part])):
            path = folder / half / "abcd"[label] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png(image))
    (folder / "train" / "a" / ".hidden.png").touch()
    (folder / "train" / "a" / "notes.txt").touch()


def write_tables(folder: Path, columns: Callable[[np.ndarray], dict[str, Any]]) -> None:
    for half, part in (("train", slice(0, 20)), ("test", slice(20, 28))):
        pq.write_table(pa.table({**columns(X[part]), "label": Y[part]}), folder / f"{half}.parquet")


def lists(images: np.ndarray) -> dict[str, Any]:
    return {"image": pa.array(images.tolist(), pa.list_(pa.list_(pa.uint8())))}


def fixed_lists(images: np.ndarray) -> dict[str, Any]:
    values = pa.FixedSizeListArray.from_arrays(pa.array(images.ravel()), 5)
    return {"image": pa.FixedSizeListArray.from_arrays(values, 6)}


def encoded(images: np.ndarray) -> dict[str, Any]:
    return {"image": [{"bytes": png(image), "path": None} for image in images]}


FOLDERS: dict[str, Callable[[Path], None]] = {
    "idx": write_idx,
    "packed idx": lambda folder: write_idx(folder, packed=True),
    "raw": write_raw,
    "npy": write_npy,
    "images": write_images,
    "validation images": lambda folder: write_images(folder, "val"),
    "lists": lambda folder: write_tables(folder, lists),
    "fixed lists": lambda folder: write_tables(folder, fixed_lists),
    "encoded images": lambda folder: write_tables(folder, encoded),
}
"""Kind -> writes it into a folder."""


def write_cifar100(folder: Path, records: int) -> None:
    """CIFAR-100 in both official forms, of as many test images and five times as many for training."""
    random = np.random.RandomState(5)
    for name in ("cifar-100-python", "cifar-100-binary"):
        (folder / name).mkdir(parents=True)
    for name, count in (("train", 5 * records), ("test", records)):
        pixels = random.randint(0, 256, (count, 3072)).astype(np.uint8)
        fine, coarse = (random.randint(0, most, count) for most in (100, 20))
        content = {b"data": pixels, b"fine_labels": fine.tolist(), b"coarse_labels": coarse.tolist()}
        written = pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
        (folder / "cifar-100-python" / name).write_bytes(written)
        binary = np.column_stack([coarse.astype(np.uint8), fine.astype(np.uint8), pixels])
        (folder / "cifar-100-binary" / f"{name}.bin").write_bytes(binary.tobytes())
