"""Where things lie: the paths of folders and files, and the addresses of object stores, such as s3://bucket/folder."""

import dataclasses
import os
import re
from os import PathLike
from pathlib import Path, PurePosixPath

from mdjax.errors import InputError

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_SHORTENED = re.compile(r"(s3a?|gs|gcs|memory):/[^/]")
"""What pathlib makes of an address: it takes one slash of two."""


@dataclasses.dataclass(frozen=True)
class Address:
    """The address of something in an object store, PROTOCOL://BUCKET/NAME; `located` makes it of a text."""

    text: str

    @property
    def protocol(self) -> str:
        return self.text.partition("://")[0]

    @property
    def name(self) -> str:
        """The last name, as of a path; "" for a bucket."""
        return self.text.partition("://")[2].partition("/")[2].rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the last name: ".csv"."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "Address":
        return Address(self.text.removesuffix(f"/{self.name}"))

    def __truediv__(self, name: str) -> "Address":
        return Address(f"{self.text}/{name}")

    def __str__(self) -> str:
        return self.text


def located(place: str | PathLike[str] | Address) -> Path | Address:
    """The path or the address that a user has named; of a file:// address the path.

    Raises InputError for an address that names no bucket, and for one that has been a path and lost a slash.
    """
    if isinstance(place, Address):
        return place
    text = os.fspath(place)
    if (found := _ADDRESS.fullmatch(text)) is None:
        if _SHORTENED.match(text) and not Path(text).exists():
            raise InputError(
                f"{text} is an address that lost a slash as a path. Give it as a text, {_restored(text)!r}."
            )
        return Path(place)
    protocol, rest = found[1].lower(), found[2].rstrip("/")
    if protocol == "file":
        return Path(rest or "/")
    if not rest.strip("/"):
        raise InputError(f"{text} names no bucket. Give {protocol}://BUCKET/FOLDER.")
    return Address(f"{protocol}://{rest}")


def _restored(text: str) -> str:
    return text.replace(":/", "://", 1)
