"""Pickles written opcode by opcode, that no honest program writes: name → the bytes, and what their refusal says."""

import io
import struct
import warnings
import zipfile
from collections.abc import Sequence

PROTOCOL = b"\x80\x02"


def text(value: str) -> bytes:
    """The opcode that pushes a text."""
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def whole(value: int) -> bytes:
    """The opcode that pushes a whole number of 32 bits."""
    return b"J" + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
    """The opcode that pushes a class or function."""
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    """The opcodes that call a function."""
    return function + b"(" + b"".join(arguments) + b"tR"


def entry(key: bytes, value: bytes) -> bytes:
    """A pickle of a dictionary with one entry."""
    return PROTOCOL + b"}" + key + value + b"s."


def latin(content: bytes) -> bytes:
    """The opcodes that push bytes, as protocol 2 has them."""
    return call(name("_codecs", "encode"), text(content.decode("latin-1")), text("latin1"))


def zipped(entries: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of these entries, names that occur twice included."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive, warnings.catch_warnings(action="ignore"):
        for place, content in entries:
            archive.writestr(place, content)
    return file.getvalue()


def saved(pickled: bytes) -> bytes:
    """A file of torch.save around a pickle, without storages."""
    return zipped([("m/data.pkl", pickled), ("m/version", b"3"), ("m/byteorder", b"little")])


def numpy_dtype(code: str, *state: bytes) -> bytes:
    """The opcodes that push a numpy type, with the state that a file gives it."""
    made = call(name("numpy", "dtype"), text(code), b"\x89", b"\x88")
    return made + (b"(" + b"".join(state) + b"tb" if state else b"")


def numpy_array(dtype: bytes, shape: bytes, content: bytes) -> bytes:
    """The opcodes that push a numpy array."""
    made = call(name("numpy._core.multiarray", "_reconstruct"), name("numpy", "ndarray"), b"(K\x00t", latin(b"b"))
    return made + b"(K\x01" + shape + dtype + b"\x89" + content + b"tb"


def storage(dtype: bytes, key: bytes) -> bytes:
    """The opcodes that push a storage of one number."""
    return b"(" + text("storage") + dtype + key + text("cpu") + b"K\x01tQ"


_HUGE = b"\x8b" + struct.pack("<i", 10**5) + b"\x11" * 10**5
_NDARRAY = name("numpy", "ndarray")
_POINTER = latin(struct.pack("<Q", 0x0000414141414140))
_ORDER, _NONE, _LESS = text("|"), b"N", whole(-1)
_KEY = text("weight")
_OBJECTS = numpy_dtype("O8", b"K\x03", _ORDER, _NONE, _NONE, _NONE, _LESS, _LESS, b"K\x3f")
_FLAGGED = numpy_dtype("u8", b"K\x03", _ORDER, _NONE, _NONE, _NONE, _LESS, _LESS, b"K\x3f")
_FIELDS = numpy_dtype("V8", b"K\x03", _ORDER, _NONE, b"(" + text("a") + b"t", b"}", whole(8), whole(1), b"K\x00")
_BYTES = numpy_dtype("u1", b"K\x03", _ORDER, _NONE, _NONE, _NONE, _LESS, _LESS, b"K\x00")
_DEEP = 100_000  # several times what exhausts a process's stack


HOSTILE: dict[str, tuple[bytes, str]] = {
    # The call's arguments are what is read at the pointer.
    "pointer": (
        entry(_KEY, name("torch", "Size") + call(_NDARRAY, b"(K\x01t", text("O"), _POINTER) + b"R"),
        "its pickle calls a str, which is no function",
    ),
    "pointer-by-state": (entry(_KEY, numpy_array(_OBJECTS, b"(K\x01t", _POINTER)), "none of plain numbers"),
    "flags": (entry(_KEY, numpy_array(_FLAGGED, b"(K\x01t", _POINTER)), "a numpy type that is none of plain numbers"),
    "fields": (entry(_KEY, numpy_array(_FIELDS, b"(K\x01t", _POINTER)), "a numpy type that is none of plain numbers"),
    "three-gibibytes": (
        entry(_KEY, call(_NDARRAY, b"(" + whole(400_000_000) + b"t", text("O"))),
        "which is no function",
    ),
    "shape": (entry(_KEY, numpy_array(_BYTES, b"(" + whole(2**31 - 1) + b"t", latin(b"abc"))), "do not fit its bytes"),
    "negative": (
        entry(_KEY, numpy_array(_BYTES, b"(" + whole(-3) + whole(-1) + b"t", latin(b"abc"))),
        "do not fit its",
    ),
    "key-deep": (entry(b")" + b"\x85" * _DEEP, b"N"), "its pickle has a tuple in a key"),
    "key-deep-by-marks": (entry(b"(" * _DEEP + b"N" + b"t" * _DEEP, b"N"), "its pickle has a tuple in a key"),
    "item-deep": (entry(_KEY, b"\x8f(" + b")" + b"\x85" * _DEEP + b"\x90"), "its pickle has a tuple in a key"),
    "values-deep": (
        entry(b"N", b"]" * _DEEP + b"a" * (_DEEP - 1) + b")" + b"\x85" * _DEEP + b"a"),
        "it holds no state_dict",
    ),
    "dictionaries-deep": (PROTOCOL + (b"}" + _KEY) * _DEEP + b"N" + b"s" * _DEEP + b".", "it holds no state_dict"),
    "key-list": (entry(b"]", b"N"), "its pickle has a list in a key"),
    "key-equal-hashes": (
        PROTOCOL
        + b"}("
        + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N" for k in range(99, 999))
        + b"u.",
        "its pickle has a whole number of",
    ),
    "copies": (
        PROTOCOL
        + b"]"
        + text("a" * 2**20)
        + b"q\x000"
        + (call(name("_codecs", "encode"), b"h\x00", text("latin1")) + b"a") * 999
        + b".",
        "its pickle copies the same bytes again and again",
    ),
    "names": (
        PROTOCOL + text("a" * 2**20) + b"q\x00" + (b"h\x00h\x00\x930") * 2000 + b".",
        "its pickle refers to a name that is longer than any",
    ),
    "arguments": (
        PROTOCOL
        + b"("
        + b"N" * 10**5
        + b"tq\x000"
        + (name("torch._utils", "_rebuild_parameter") + b"h\x00R0") * 100
        + b"N.",
        "its pickle takes more than 5000000 steps",
    ),
    "axes": (entry(_KEY, numpy_array(_BYTES, b"(" + _HUGE * 30 + b"t", latin(b"abc"))), "do not fit its bytes"),
    "storage-type": (
        entry(_KEY, storage(b")" + b"\x85" * _DEEP, text("0"))),
        "refers to a storage without a name, a type",
    ),
    "storage-name": (
        entry(_KEY, storage(name("torch", "FloatStorage"), b")" + b"\x85" * _DEEP)),
        "without a name, a type",
    ),
    "extension": (PROTOCOL + b"\x82\x01.", "its pickle uses EXT1"),
    "attributes": (entry(_KEY, name("torch", "Tensor") + b"}" + text("x") + b"Nsb"), "gives a str a state"),
    "system": (entry(_KEY, call(name("posix", "system"), text("touch ran"))), "it refers to posix.system"),
    "getattr": (
        entry(_KEY, call(call(name("builtins", "getattr"), name("os", "path"), text("os")), text("system"))),
        "it refers to builtins.getattr, os.path",
    ),
    "storage-elsewhere": (
        entry(
            _KEY,
            call(
                name("torch._utils", "_rebuild_tensor_v2"),
                b"(" + text("storage") + name("torch", "FloatStorage") + text("../version") + text("cpu") + b"K\x01tQ",
                b"K\x00(K\x01t(K\x01t\x89N",
            ),
        ),
        "a storage has a name that is none",
    ),
}
