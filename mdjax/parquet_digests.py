"""A digest of all of a Parquet file, inside it: a changed byte is known before anything in the file is believed.

Checksums of pages leave out what says where pages lie and what they mean, the file's footer and the pages' headers.
The digest stands between the pages and the footer, as indices of pages do, where no reader looks that was not told to:

    pages, MARK, digest of all that is not the digest, footer, the footer's length, PAR1

A file without MARK was written by another program, or rewritten by one, which leaves out what it does not know.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

MARK = b"\xffmdjax-blake2b\r\n"
"""Announces the digest; no text in UTF-8 holds it."""

_SIZE = 16
_END = b"PAR1"
_TAIL = 8
"""Bytes of the footer's length and of `_END`."""

_SEARCHED = 2**24
"""Bytes at the end of a file in which `MARK` is looked for, so that damage to the footer's length is told, too."""

_CHUNK = 2**20


def with_digest(content: bytes) -> bytes:
    """The content of a Parquet file with its digest. Costs one pass of blake2b and a copy."""
    footer = _start_of_footer(content[-_TAIL:], len(content))
    pages, rest = memoryview(content)[:footer], memoryview(content)[footer:]
    digest = _blake2b([pages, MARK, rest])
    return b"".join([pages, MARK, digest, rest])


def check_digest(source: BinaryIO) -> None:
    """ValueError where a file, open for reading, has a digest that it does not fit, or is cut at its end.

    Costs one pass of blake2b, of a file without a digest only over its last 16 MiB. Leaves the position anywhere.
    """
    size = source.seek(0, 2)
    source.seek(max(0, size - _SEARCHED))
    end = source.read()
    if not end.endswith(_END):
        raise ValueError("it is no Parquet file, or its end is missing")
    if MARK not in end:
        return
    start = _start_of_footer(end[-_TAIL:], size) - _SIZE
    if start >= len(MARK):
        source.seek(start)
        digest = source.read(_SIZE)
        if digest == _blake2b(_chunks(source, (0, start), (start + _SIZE, size))):
            return
    raise ValueError("it is damaged: its bytes do not fit their digest")


def _start_of_footer(tail: bytes, size: int) -> int:
    return size - _TAIL - int.from_bytes(tail[:4], "little")


def _chunks(source: BinaryIO, *parts: tuple[int, int]) -> Iterator[bytes]:
    for start, end in parts:
        source.seek(start)
        while start < end and (chunk := source.read(min(_CHUNK, end - start))):
            yield chunk
            start += len(chunk)


def _blake2b(parts: Iterable[bytes | memoryview]) -> bytes:
    digest = hashlib.blake2b(digest_size=_SIZE)
    for part in parts:
        digest.update(part)
    return digest.digest()
