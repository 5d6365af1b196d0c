"""Files that are read: regular ones, opened without waiting, and JSON that is what JSON files of mdjax are."""

import errno
import json
import math
import os
import stat
from collections.abc import Iterable
from os import PathLike
from typing import Any, BinaryIO

from mdjax.errors import InputError, first_line

MOST_TEXT = 2**26
"""Most bytes of a file of text; the largest that mdjax writes, of trees with their population, has a few hundred kB."""

_DEEPEST = 64
"""How deep values may lie in each other; those that mdjax writes lie 8 deep."""


_OF_THE_FILE = {errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENODEV, errno.ENOENT, errno.ENOTDIR, errno.ENXIO}
"""Errors of the system that say that something else stands where a file is expected, or nothing."""


def is_passing(error: BaseException) -> bool:
    """Whether an error of reading says nothing of the file: memory or descriptors ran out, a right is missing.

    Of errors of the system those with a number: pyarrow's for damaged bytes are OSErrors without one.
    """
    if isinstance(error, OSError):
        return error.errno is not None and error.errno not in _OF_THE_FILE
    return isinstance(error, MemoryError)


def expect_damage(error: Exception, what: str) -> None:
    """Raises an error of reading that is none of `what` itself: MemoryError, and InputError with the system's reason.

    An InputError, as of the memory limit, which holds its own remedy, is raised as it is.
    """
    if isinstance(error, InputError | MemoryError):
        raise error
    if is_passing(error):
        raise InputError(
            f"Cannot read {what}: {first_line(error)}. It may be sound: see to that, then run the same command again."
        ) from None


def open_regular(path: str | PathLike[str]) -> BinaryIO:
    """Open a file for reading; OSError for anything but a regular file: a pipe would hang, a device never end."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_text(path: str | PathLike[str]) -> str:
    """The text of a file; OSError where it cannot be read, ValueError where it is too long or not UTF-8."""
    with open_regular(path) as file:
        return text_of(file)


def text_of(file: BinaryIO) -> str:
    """The text of an open file; ValueError where it is too long or not UTF-8."""
    content = file.read(MOST_TEXT + 1)
    if len(content) > MOST_TEXT:
        raise ValueError(f"it is longer than {MOST_TEXT} bytes")
    return content.decode("utf-8")


def read_json(path: str | PathLike[str]) -> Any:
    """The value in a JSON file; OSError where it cannot be read, ValueError, with the reason, where it is not sound."""
    return parse_json(read_text(path))


def parse_json(text: str) -> Any:
    """The value of a JSON text.

    ValueError, with the reason, for text that is none, values too deep in each other, a name that comes twice, numbers
    that are not finite or beyond 64 bits, and text that cannot be written again.
    """
    try:
        value = json.loads(
            text, parse_int=_whole, parse_float=_number, parse_constant=_number, object_pairs_hook=_object
        )
    except RecursionError:
        raise ValueError("its values lie too deep in each other") from None
    _check(value)
    return value


def _whole(text: str) -> int:
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"it holds the number {text[:24]}, which is beyond 64 bits")
    return int(text)


def _number(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"it holds the number {text[:24]}, which is not finite")
    return value


def _object(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it holds {name[:40]!r} twice")
        found[name] = value
    return found


def _check(value: Any) -> None:
    """ValueError for depth, and for halves of characters, which no file or terminal takes."""
    layer, depth = [value], 0
    while layer:
        if depth > _DEEPEST:
            raise ValueError("its values lie too deep in each other")
        inner: list[Any] = []
        for part in layer:
            if isinstance(part, str):
                part.encode()  # UnicodeEncodeError is a ValueError
            elif isinstance(part, dict):
                inner += [*part.keys(), *part.values()]
            elif isinstance(part, list):
                inner += part
        layer, depth = inner, depth + 1
