"""Tensors as files describe them: storages of bytes, and views of them that never leave their storage."""

import math
from typing import Any, NamedTuple

_MOST_AXES = 64
MOST_NUMBERS = 2**60
"""Most numbers of a storage or a tensor."""


class TensorError(ValueError):
    """A tensor is not as its file says; the message is the reason, without the file's name."""


class Unplain(NamedTuple):
    """Stands for a tensor that is no plain array of numbers: quantized, sparse, without numbers."""

    kind: str


QUANTIZED = Unplain("quantized")


class Storage(NamedTuple):
    """A run of bytes in a file that tensors are views of.

    flat: uint8 [bytes], in memory or mapped; None while nobody knows where in the file it lies, or where it is nowhere.
    dtype: torch's type of its numbers, or None where each tensor tells its own.
    """

    flat: Any
    dtype: Any


def storage_dtypes() -> dict[str, Any]:
    """The names of torch's typed storages → the type of their numbers, those of quantized networks included."""
    import torch

    plain = {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "QInt8": torch.qint8,
        "QUInt8": torch.quint8,
        "QInt32": torch.qint32,
        "QUInt4x2": torch.quint4x2,
        "QUInt2x4": torch.quint2x4,
    }
    return {f"{name}Storage": dtype for name, dtype in plain.items()}


def flat_bytes(buffer: Any, start: int, count: int) -> Any:
    """`count` bytes of a writable buffer as a tensor uint8 [count] that shares them, where numbers may lie there.

    A copy where they would lie askew. Raises TensorError for bytes that the buffer does not have.
    """
    import torch

    if not 0 <= start <= start + count <= len(buffer):
        raise TensorError("its numbers lie beyond its end")
    if count == 0:
        return torch.empty(0, dtype=torch.uint8)
    if start % 16:
        buffer, start = bytearray(buffer[start : start + count]), 0
    return torch.frombuffer(buffer, dtype=torch.uint8, count=count, offset=start)


def view(storage: Storage, dtype: Any, offset: Any, sizes: Any, strides: Any) -> Any:
    """A tensor of numbers `dtype` as a view of a storage.

        dtype: torch's type.
        offset: of its first number, in numbers.
        sizes, strides: of its axes, in numbers.

    `Unplain` where the storage is nowhere, `QUANTIZED` for such a type. Raises TensorError where the view leaves the
    storage.
    """
    import torch

    if not isinstance(dtype, torch.dtype):
        raise TensorError("a tensor's type of numbers is none")
    if len(sizes) != len(strides) or len(sizes) > _MOST_AXES:
        raise TensorError("a tensor's shape is none")
    axes = (offset, *sizes, *strides)
    if not all(type(number) is int and number >= 0 for number in axes):
        raise TensorError("a tensor's shape is none")
    if max(axes) > MOST_NUMBERS or math.prod(max(size, 1) for size in sizes) > MOST_NUMBERS:
        raise TensorError("a tensor claims more numbers than there can be")
    if dtype in (torch.qint8, torch.quint8, torch.qint32, torch.quint4x2, torch.quint2x4):
        return QUANTIZED
    if storage.flat is None:
        return Unplain(f"{dtype}, strided, on meta".replace("torch.", ""))
    if 0 in sizes:
        return torch.empty(tuple(sizes), dtype=dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    whole = len(storage.flat) // dtype.itemsize
    if last >= whole:
        raise TensorError("a tensor claims numbers beyond its storage")
    return storage.flat[: whole * dtype.itemsize].view(dtype).as_strided(tuple(sizes), tuple(strides), offset)
