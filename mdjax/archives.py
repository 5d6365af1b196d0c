"""Zip archives that nobody vouches for: an entry has one name, and no archive unpacks to far more than it is long."""

import unicodedata
import zipfile
from collections.abc import Sequence

from mdjax.memory import excess

MAX_ENTRIES = 100_000
"""Most entries of an archive, and of what lists tensors."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArchiveError(ValueError):
    """An archive is not to be read; the message is the reason, without the file's name."""


def check_names(names: Sequence[str]) -> None:
    """ArchiveError where two entries have one name, or names that differ in nothing but case.

    Readers of archives disagree about which of them counts, so that what one has checked another does not read.
    """
    if len(names) > MAX_ENTRIES:
        raise ArchiveError(f"it has {len(names)} entries, but at most {MAX_ENTRIES} are expected")
    found: dict[str, str] = {}
    for name in names:
        plain = unicodedata.normalize("NFKC", name).casefold()
        if plain in found:
            both = f"the name {name!r}" if found[plain] == name else f"the names {found[plain]!r} and {name!r}"
            raise ArchiveError(f"two of its entries have {both}, of which readers take one or the other")
        found[plain] = name


def check_entries(archive: zipfile.ZipFile, suffix: str = "") -> None:
    """ArchiveError unless names differ, with `suffix` or without, and entries are stored or deflated, by their list."""
    entries = archive.infolist()
    check_names([entry.filename.removesuffix(suffix) for entry in entries])
    for entry in entries:
        name, method = entry.filename, entry.compress_type
        if method not in _METHODS:
            raise ArchiveError(f"its entry {name} is compressed by method {method}, but stored or deflated is expected")
        if method == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise ArchiveError(f"its entry {name} is stored, but of two sizes")


def check_archive(archive: zipfile.ZipFile, size: int, most: int | None = None) -> None:
    """ArchiveError unless names are unique, sizes can be and every checksum is right. A pass over the whole file.

    archive: opened.
    size: of its file in bytes.
    most: bytes that it may unpack to; by default what any file may hold (`mdjax.memory`).
    """
    check_entries(archive)
    entries = archive.infolist()
    unpacked, packed = (sum(getattr(entry, part) for entry in entries) for part in ("file_size", "compress_size"))
    if packed > size:
        raise ArchiveError(f"its entries overlap: they take {packed} bytes, but it has {size}")
    if most is not None and unpacked > most:
        raise ArchiveError(f"its {size} bytes unpack to {unpacked}, but an archive in another one is not compressed")
    if most is None and (reason := excess("what is packed in it", unpacked, size)):
        raise ArchiveError(reason)
    if damaged := archive.testzip():
        raise ArchiveError(f"it is damaged: {damaged} does not fit its checksum")
