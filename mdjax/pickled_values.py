"""What pickles of numbers refer to, made anew from plain parts: containers, bytes, numpy's numbers and arrays.

No constructor of numpy's is handed what a file says: `ndarray` and `dtype` take pointers, objects and any size.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from mdjax.pickles import Account, Constructor, PickleError, Unfinished, checked_key

_CODES = frozenset(["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"])
"""The types of numbers, as numpy writes them; there are no others here."""

_ORDERS: dict[str, Literal["<", ">", "="]] = {"<": "<", ">": ">", "|": "=", "=": "="}
_MOST_AXES = 32
_MOST_NUMBERS = 2**60
_LONGEST_WORD = 20  # of what is compared with names that are known


class _Type(Unfinished):
    """A type of numbers whose byte order may follow as its state."""

    def __init__(self, code: str):
        self.dtype = np.dtype(code)

    def finished(self, account: Account, state: Any) -> np.dtype:
        # (version, byte order, then nothing but None, -1 and 0 for a plain type: no fields, no objects, no flags)
        order = _as_text(state[1]) if type(state) is tuple and 2 < len(state) < 10 else None
        # Nothing but text is looked up: the hash of a tuple in tuples goes as deep as they do.
        if type(order) is not str or order not in _ORDERS or not all(_is_nothing(part) for part in state[2:]):
            raise PickleError("its pickle has a numpy type that is none of plain numbers")
        return self.dtype.newbyteorder(_ORDERS[order])


class _Array(Unfinished):
    """An array whose type, shape and bytes follow as its state."""

    def finished(self, account: Account, state: Any) -> np.ndarray:
        if type(state) is not tuple or len(state) not in (4, 5):
            raise PickleError("its pickle has a numpy array without a shape, a type and bytes")
        shape, dtype, fortran, content = state[-4:]
        return _array(account, content, dtype, shape, "F" if fortran is True else "C")


def _is_nothing(part: Any) -> bool:
    return part is None or (type(part) is int and part in (-1, 0))


def _as_text(value: Any) -> Any:
    return value.decode("latin-1") if type(value) is bytes and len(value) <= _LONGEST_WORD else value


def _is_word(value: Any, *words: str) -> bool:
    text = _as_text(value)
    return type(text) is str and text in words


def _type(account: Account, code: Any, *_: Any) -> _Type:
    code = _as_text(code)
    if type(code) is not str or code not in _CODES:
        raise PickleError("its pickle has a numpy type that is none of plain numbers")
    return _Type(code)


def _array(account: Account, content: Any, dtype: Any, shape: Any, order: str = "C") -> np.ndarray:
    dtype = dtype.dtype if isinstance(dtype, _Type) else dtype
    if type(content) is str:
        content = content.encode("latin-1")
    if (
        not isinstance(dtype, np.dtype)
        or type(content) not in (bytes, bytearray)
        or type(shape) is not tuple
        or len(shape) > _MOST_AXES
        or not all(type(size) is int and 0 <= size < _MOST_NUMBERS for size in shape)
        or math.prod(shape) * dtype.itemsize != len(content)
    ):
        raise PickleError("its pickle has a numpy array whose shape and type do not fit its bytes")
    account.copy(len(content))
    return np.ndarray(shape, dtype, bytearray(content), order="F" if _is_word(order, "F") else "C")


def _buffered(account: Account, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    """How protocol 5 writes arrays; those whose axes changed places by the order in which their numbers lie, "K"."""
    if not _is_word(order, "C", "F", "K"):
        raise PickleError("its pickle has a numpy array whose numbers lie in no known order")
    if axes is None or not _is_word(order, "K"):
        return _array(account, content, dtype, shape, order)
    array = _array(account, content, dtype, shape)
    if type(axes) is not tuple or not all(type(axis) is int for axis in axes) or sorted(axes) != [*range(array.ndim)]:
        raise PickleError("its pickle has a numpy array whose axes change places with none of its own")
    return array.transpose(axes)


def _scalar(account: Account, dtype: Any, content: Any) -> Any:
    return _array(account, content, dtype, ())[()]


def _unfilled(account: Account, *_: Any) -> _Array:
    return _Array()


def _encoded(account: Account, text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes by protocol 2."""
    if type(text) is not str or not _is_word(encoding, "latin1", "latin-1"):
        raise PickleError("its pickle has bytes that are written as no text of latin-1")
    account.copy(len(text))
    return text.encode("latin-1")


def _bytearray(account: Account, content: Any = b"", *encoding: Any) -> bytearray:
    if type(content) is not bytes:
        return bytearray(_encoded(account, content, *encoding))
    account.copy(len(content))
    return bytearray(content)


def _ordered(account: Account, items: Any = ()) -> OrderedDict[Any, Any]:
    pairs = list(items.items()) if isinstance(items, dict) else items
    if type(pairs) not in (tuple, list) or not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
        raise PickleError("its pickle has a dictionary of something else than pairs")
    account.step(len(pairs))
    return OrderedDict((checked_key(account, key), value) for key, value in pairs)


def _counted(account: Account, counts: Any = ()) -> dict[Any, Any]:
    return dict(_ordered(account, counts))


def _set(account: Account, items: Any = ()) -> set[Any]:
    if type(items) not in (tuple, list, set, frozenset):
        raise PickleError(f"its pickle has a set of a {type(items).__name__}")
    account.step(len(items))
    return {checked_key(account, item) for item in items}


def _complex(account: Account, real: Any, imaginary: Any = 0.0) -> complex:
    if type(real) not in (int, float) or type(imaginary) not in (int, float):
        raise PickleError("its pickle has a complex number that is none of two numbers")
    return complex(real, imaginary)


def _frozen(account: Account, items: Any = ()) -> frozenset[Any]:
    return frozenset(_set(account, items))


def _no_bytes(account: Account) -> bytes:
    """How Python 3 writes b"" by protocol 2."""
    return b""


_BUILTINS: Mapping[str, Any] = {
    "bytearray": _bytearray,
    "bytes": _no_bytes,
    "complex": _complex,
    "frozenset": _frozen,
    "set": _set,
}
_MODULES = ("numpy.core", "numpy._core")  # as numpy 1 and numpy 2 name it

VALUES: Mapping[str, Any] = {
    "numpy.dtype": Constructor(_type),
    "numpy.ndarray": "numpy.ndarray",  # named beside _reconstruct, never called
    **{f"{module}.multiarray._reconstruct": Constructor(_unfilled) for module in _MODULES},
    **{f"{module}.multiarray.scalar": Constructor(_scalar) for module in _MODULES},
    **{f"{module}.numeric._frombuffer": Constructor(_buffered) for module in _MODULES},
    "_codecs.encode": Constructor(_encoded),
    "collections.OrderedDict": Constructor(_ordered),
    "collections.Counter": Constructor(_counted),
    **{f"builtins.{name}": Constructor(function) for name, function in _BUILTINS.items()},
    **{f"__builtin__.{name}": Constructor(function) for name, function in _BUILTINS.items()},
}
"""Full name → its `Constructor`, or what stands for it."""
