"""Bytes → bytes with faults as they happen, and as somebody would put them there."""

import re
import struct
from collections.abc import Callable

import numpy as np

NUMBERS = (
    b"0", b"-1", b"0.5", b"1e999", b"-1e308", b"NaN", b"Infinity", b"9223372036854775808", b"4294967296", b"100000",
    b"9" * 400, b"null", b"true", b'"x"', b"[]", b"{}", b"99999999",
)  # fmt: skip
"""What a number in a text becomes."""

_WORDS = (0, 1, 2**31 - 1, 2**32 - 1, 2**16, 2**24)

Random = np.random.RandomState


def _flip(content: bytearray, random: Random) -> bytes:
    for _ in range(random.choice([1, 1, 2, 8, 64])):
        content[random.randint(len(content))] ^= 1 << random.randint(8)
    return bytes(content)


def _truncate(content: bytearray, random: Random) -> bytes:
    return bytes(content[: random.randint(len(content))])


def _cut(content: bytearray, random: Random) -> bytes:
    start = random.randint(len(content))
    del content[start : start + random.randint(1, 65)]
    return bytes(content)


def _splice(content: bytearray, random: Random) -> bytes:
    """One part of the file over another."""
    size = random.randint(1, max(2, len(content) // 4))
    source, target = random.randint(len(content), size=2)
    part = content[source : source + size]
    content[target : target + len(part)] = part
    return bytes(content)


def _duplicate(content: bytearray, random: Random) -> bytes:
    start = random.randint(len(content))
    part = content[start : start + random.randint(1, max(2, len(content) // 4))]
    return bytes(content[:start] + part * random.choice([2, 2, 3, 20]) + content[start + len(part) :])


def _noise(content: bytearray, random: Random) -> bytes:
    start, size = random.randint(len(content)), random.randint(1, 33)
    return bytes(content[:start] + random.bytes(size) + content[start + size :])


def _word(content: bytearray, random: Random) -> bytes:
    """A number of four bytes replaced, where a header could hold it."""
    start = random.randint(max(1, len(content) - 4))
    content[start : start + 4] = struct.pack("<I", _WORDS[random.randint(len(_WORDS))])
    return bytes(content)


def _number(content: bytearray, random: Random) -> bytes:
    """A number of a text replaced."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", bytes(content[:200_000])))
    if not found:
        return _flip(content, random)
    at = found[random.randint(len(found))]
    content[at.start() : at.end()] = NUMBERS[random.randint(len(NUMBERS))]
    return bytes(content)


MUTATIONS: tuple[Callable[[bytearray, Random], bytes], ...] = (
    _flip, _flip, _truncate, _cut, _splice, _duplicate, _noise, _word, _number, _number,
)  # fmt: skip


def mutated(content: bytes, random: Random) -> bytes:
    """The content with one or two faults, another one than it was."""
    found = content
    while found == content:
        for _ in range(random.choice([1, 1, 2])):
            if found:
                found = MUTATIONS[random.randint(len(MUTATIONS))](bytearray(found), random)
    return found
