"""Pickles of torch.save and of TorchScript → plain containers with tensors in them, by constructors of our own."""

import functools
import mmap
from collections.abc import Callable, Mapping
from typing import IO, Any, NamedTuple

from converters.tensors import MOST_NUMBERS, QUANTIZED, Storage, TensorError, Unplain, storage_dtypes, view
from mdjax.archives import MAX_ENTRIES
from mdjax.pickled_values import VALUES
from mdjax.pickles import Account, Constructor, PickleError, load

_TENSOR_STEPS = 10  # a tensor's own memory, in what one opcode may take
_UNTYPED = "bytes"
_COPIES = 4  # of a byte, from text to bytes to an array to a tensor
_SLACK = 2**20
_LONGEST = 40
_LONGEST_KEY = 1000


class Reference(NamedTuple):
    """A storage as a pickle names it.

    key: its name in the file.
    dtype: torch's type of its numbers, None where tensors tell it.
    size: in numbers; in bytes where it has no type.
    view: (offset, count) where it is part of the storage `key`, as old files have it.
    """

    key: str
    dtype: Any
    size: int
    view: tuple[int, int] | None

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 1 if self.dtype is None else self.dtype.itemsize


def read(
    file: IO[bytes] | mmap.mmap,
    size: int,
    storage: Callable[[Reference], Any],
    more: Callable[[str], Any] = lambda name: None,
) -> Any:
    """The value of a pickle with tensors.

        file: at the pickle's begin, in memory or mapped.
        size: of the pickle in bytes, or of the file where it is not known.
        storage: a storage's bytes as a tensor uint8 [bytes], or None while nobody knows where they are.
        more: further names that may be referred to, as for `mdjax.pickles.load`.

    Raises PickleError and TensorError with a reason, and nearly anything else for a damaged file.
    """
    names, found = _names(), dict[Reference, Storage]()

    def find(name: str) -> Any:
        value = names.get(name, VALUES.get(name))
        return more(name) if value is None else value

    def persistent(identifier: Any) -> Storage:
        reference, location = _reference(identifier)
        if reference not in found:
            flat = None if _is_text(location, "meta") else storage(reference)
            found[reference] = Storage(flat, reference.dtype)
        if len(found) > MAX_ENTRIES:
            raise PickleError(f"it has more than {MAX_ENTRIES} storages")
        return found[reference]

    return load(file, _COPIES * size + _SLACK, find, persistent=persistent, text=_text)


def _text(content: bytes) -> str | bytes:
    """Byte strings of Python 2: names, or the bytes of numpy's numbers."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


def _is_text(value: Any, text: str) -> bool:
    return type(value) is str and value == text


def _reference(identifier: Any) -> tuple[Reference, Any]:
    """What a persistent id says: the storage, and the device it was on."""
    import torch

    if type(identifier) is not tuple or len(identifier) not in (5, 6) or not _is_text(identifier[0], "storage"):
        raise PickleError("its pickle refers to something outside it that is no storage")
    _, dtype, key, location, count, *part = identifier
    dtype = None if _is_text(dtype, _UNTYPED) else dtype
    # Nothing but these is ever hashed, and each of them is small.
    if (
        type(key) is not str
        or len(key) > _LONGEST_KEY
        or type(count) is not int
        or not 0 <= count <= MOST_NUMBERS
        or not isinstance(dtype, torch.dtype | None)
    ):
        raise PickleError("its pickle refers to a storage without a name, a type or a size that can be")
    view = None
    if part and part[0] is not None:
        if type(part[0]) is not tuple or len(part[0]) != 3:
            raise PickleError("its pickle refers to a part of a storage that is none")
        _, offset, size = part[0]
        if type(offset) is not int or type(size) is not int or not 0 <= offset <= offset + size <= count:
            raise TensorError("a part of a storage lies beyond it")
        view = offset, size
    return Reference(key, dtype, count, view), location


@functools.cache
def _names() -> Mapping[str, Any]:
    """What torch's pickles refer to: full name → its `Constructor`, or what stands for it."""
    import torch

    dtypes = {f"torch.{name}": value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    storages = {
        f"{module}.{name}": dtype for module in ("torch", "torch.cuda") for name, dtype in storage_dtypes().items()
    }
    untyped = {f"{module}.UntypedStorage": _UNTYPED for module in ("torch", "torch.storage", "torch.cuda")}
    schemes = ("per_tensor_affine", "per_tensor_symmetric", "per_channel_affine", "per_channel_symmetric")
    kinds = ("torch.Tensor", "torch.nn.parameter.Parameter", *(f"torch.{scheme}" for scheme in schemes))
    return {
        **dtypes,
        **storages,
        **untyped,
        **{name: name for name in kinds},
        **{f"torch._utils.{name}": Constructor(function) for name, function in _TENSORS.items()},
        "torch._tensor._rebuild_from_type_v2": Constructor(_with_attributes),
        "torch.Size": Constructor(_size),
        "torch.device": Constructor(_device),
        "torch.serialization._get_layout": Constructor(_itself),
    }


def _typed(
    account: Account,
    storage: Any,
    offset: Any,
    sizes: Any,
    strides: Any,
    grad: Any = None,
    hooks: Any = None,
    *more: Any,
) -> Any:
    return _untyped(account, storage, offset, sizes, strides, grad, hooks, storage.dtype, *more)


def _untyped(
    account: Account,
    storage: Any,
    offset: Any,
    sizes: Any,
    strides: Any,
    grad: Any,
    hooks: Any,
    dtype: Any,
    bits: Any = None,
) -> Any:
    account.step(_TENSOR_STEPS)
    if not isinstance(storage, Storage) or type(sizes) is not tuple or type(strides) is not tuple:
        raise PickleError("its pickle has a tensor without a storage or a shape")
    return Unplain("negative or conjugate by a flag") if bits else view(storage, dtype, offset, sizes, strides)


def _itself(account: Account, tensor: Any, *_: Any) -> Any:
    return tensor


def _size(account: Account, sizes: Any = ()) -> tuple[Any, ...]:
    if type(sizes) not in (tuple, list):
        raise PickleError("its pickle has a shape that is none")
    account.step(len(sizes))
    return tuple(sizes)


def _device(account: Account, kind: Any, index: Any = None) -> str:
    if type(kind) is not str or len(kind) > _LONGEST:
        return ""
    return f"{kind}:{index}" if type(index) is int and 0 <= index < 1000 else kind


def _from_numpy(account: Account, array: Any, *_: Any) -> Any:
    import numpy as np
    import torch

    if not isinstance(array, np.ndarray):
        raise PickleError("its pickle has a tensor of something else than an array")
    account.copy(array.nbytes)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))


def _sparse(account: Account, layout: Any, parts: Any) -> Unplain:
    parts = parts[:_LONGEST] if type(parts) is tuple else ()
    kind = next((str(part.dtype) for part in reversed(parts) if hasattr(part, "dtype")), "numbers")
    layout = layout if type(layout) is str and len(layout) < _LONGEST else "sparse"
    return Unplain(f"{kind}, {layout}, on cpu".replace("torch.", ""))


def _without_storage(account: Account, dtype: Any, *_: Any) -> Unplain:
    import torch

    kind = str(dtype) if isinstance(dtype, torch.dtype) else "numbers"
    return Unplain(f"{kind}, strided, on meta".replace("torch.", ""))


def _with_attributes(account: Account, rebuild: Any, kind: Any, arguments: Any, state: Any) -> Any:
    """A tensor that has attributes beside its numbers, which tell nothing of weights."""
    if (
        not isinstance(rebuild, Constructor)
        or rebuild.function not in _TENSORS.values()
        or type(arguments) is not tuple
    ):
        raise PickleError("its pickle has a tensor that is made by something else than torch")
    return rebuild.function(account, *arguments)


_TENSORS: Mapping[str, Callable[..., Any]] = {
    "_rebuild_tensor": _typed,
    "_rebuild_tensor_v2": _typed,
    "_rebuild_tensor_v3": _untyped,
    "_rebuild_parameter": _itself,
    "_rebuild_parameter_with_state": _itself,
    "_rebuild_device_tensor_from_cpu_tensor": _itself,
    "_rebuild_device_tensor_from_numpy": _from_numpy,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_meta_tensor_no_storage": _without_storage,
    "_rebuild_qtensor": lambda account, *_: QUANTIZED,
    "_rebuild_nested_tensor": lambda account, *_: Unplain("nested"),
    "_rebuild_wrapper_subclass": lambda account, *_: Unplain("of a class of its own"),
}
"""How torch makes its tensors anew."""
