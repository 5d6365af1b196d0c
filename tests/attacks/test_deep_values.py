"""Every place of a pickle that takes a value, fed with tuples in tuples: refused, or read past, never followed."""

import contextlib
import functools
import io

import pytest
from hostile_pickles import PROTOCOL, latin, name, numpy_dtype, text, whole

from converters.pickled_tensors import _names, read
from mdjax.pickled_values import VALUES
from mdjax.pickles import Constructor

_HOSTILE = name("hostile", "value")
_PLAIN = [b"N", text("f4"), b"K\x01", b"K\x01\x85", latin(b"abcd"), numpy_dtype("f4")]
"""Arguments that are often what is expected, so that those behind them are looked at."""


def places() -> list[tuple[bytes, bytes]]:
    """The opcodes before a value and behind it, for every argument of constructors, every state and every name."""
    found = {**VALUES, **_names()}
    made = [name(*place.rsplit(".", 1)) for place, value in found.items() if isinstance(value, Constructor)]
    lists = [
        (function + b"(", [plain] * count, b"tR") for function in made for plain in _PLAIN for count in (1, 2, 4, 8)
    ]
    state = [b"K\x03", text("<"), b"N", b"N", b"N", whole(-1), whole(-1), b"K\x00"]
    array = [b"K\x01", b"K\x01\x85", numpy_dtype("f4"), b"\x89", latin(b"abcd")]
    stored = [text("storage"), name("torch", "FloatStorage"), text("0"), text("cpu"), b"K\x01", b"(NK\x00K\x01t"]
    lists += [
        (numpy_dtype("f4") + b"(", state, b"tb"),
        (name("numpy._core.multiarray", "_reconstruct") + b")R(", array, b"tb"),
        (b"(", stored, b"tQ"),
        (b"(" + b"".join(stored[:5]) + b"(", [b"N", b"K\x00", b"K\x01"], b"ttQ"),
        (b"", [text("x"), text("x")], b"\x93"),
        (b"}", [b"N", b"N"], b"s"),
        (name("collections", "OrderedDict"), [b")", b"}"], b"\x92"),
        (b"", [b"}", b")"], b"R"),
        (b"", [b"}", b"N"], b"b"),
    ]
    return [
        (begin + b"".join(slots[:k]), b"".join(slots[k + 1 :]) + end)
        for begin, slots, end in lists
        for k in range(len(slots))
    ]


@pytest.mark.parametrize("kind", ["deep", "shared", "large"])
def test_no_value_of_a_file_is_hashed_spelled_out_or_computed_with_before_its_type_is_known(kind):
    value = 2**4_000_000 if kind == "large" else None
    for _ in range({"deep": 400_000, "shared": 200, "large": 0}[kind]):
        value = (value, value) if kind == "shared" else (value,)
    fed = 0
    for before, behind in places():
        with contextlib.suppress(ValueError, TypeError, AttributeError, IndexError, KeyError, OverflowError):
            file = io.BytesIO(PROTOCOL + before + _HOSTILE + behind + b".")
            read(file, 10**6, lambda reference: None, functools.partial({"hostile.value": value}.get))
        fed += 1
    assert fed > 500
