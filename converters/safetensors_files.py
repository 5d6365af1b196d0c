"""safetensors files, and checkpoints in several files (shards) that an index lists."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from converters.errors import RefusedError
from mdjax.archives import MAX_ENTRIES
from mdjax.errors import first_line

MAX_HEADER = 2**25
"""Most bytes of a header or an index; 32 MiB list over 200,000 tensors."""

_LONGEST_CHAIN = 10  # of names that stand for names

INDEX_SUFFIX = ".index.json"


class Tensors(dict[str, Any]):
    """Tensors by name, and what other names the file says some of them have: it holds one copy of what is tied."""

    aliases: Mapping[str, str]

    def __init__(self, tensors: Mapping[str, Any], aliases: Mapping[str, str]):
        super().__init__(tensors)
        self.aliases = aliases


def looks_like_one(path: Path) -> bool:
    """Whether a file of any name starts as a safetensors file does: a length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def read_tensors(path: Path) -> Tensors:
    """The tensors of one safetensors file by name. Raises RefusedError for a header that is not sound."""
    try:
        from safetensors import safe_open
    except ImportError:
        raise RefusedError("reading it needs safetensors; run pip install 'mdjax[torch]'") from None
    _check_header(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = file.keys()
            if len(names) > MAX_ENTRIES:
                raise RefusedError(f"it has {len(names)} entries, but at most {MAX_ENTRIES} are expected")
            return Tensors({name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except RefusedError:
        raise
    except Exception as error:  # the library's own errors, and torch's for a type it lacks
        raise RefusedError(f"it is no sound safetensors file: {first_line(error)}") from None


def untied(tensors: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The tensors with those that were left out as aliases of others, the same tensor under each of its names.

    `aliases` is a file's metadata, name left out → name kept, whatever else it says. Raises RefusedError where two
    tensors that it calls one differ.
    """
    found = dict(tensors)
    for name in aliases:
        kept = aliases[name]
        for _ in range(_LONGEST_CHAIN):
            if kept in tensors or kept not in aliases:
                break
            kept = aliases[kept]
        if kept not in tensors or kept == name:
            continue  # metadata of another kind
        if name in tensors and not _equal(tensors[name], tensors[kept]):
            raise RefusedError(f"it says that its entry {name} is its entry {kept}, but they differ")
        found[name] = tensors[kept]
    return found


def _equal(first: Any, second: Any) -> bool:
    import torch

    return torch.equal(first, second)


def _check_header(path: Path) -> None:
    """Before the library parses it: the header fits its file and the limit."""
    with path.open("rb") as file:
        size, length = path.stat().st_size, int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise RefusedError(f"it is cut off: its header says {length} bytes, but {max(size - 8, 0)} follow")
    if length > MAX_HEADER:
        raise RefusedError(f"its header has {length} bytes, but at most {MAX_HEADER} are expected")


def shards(path: Path) -> dict[Path, list[str]]:
    """The files that an index names, each with the entries it should hold.

    Raises RefusedError for an index that is malformed, too long, or names a file outside its own folder.
    """
    if path.exists() and not path.is_file():
        raise RefusedError("it is no regular file")
    try:
        if (size := path.stat().st_size) > MAX_HEADER:
            raise RefusedError(f"it has {size} bytes, but at most {MAX_HEADER} are expected of an index")
        names = json.loads(path.read_bytes())["weight_map"]
        if not names or not all(isinstance(name, str) for name in names.values()):
            raise TypeError
    except RefusedError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RefusedError("it is no index of shards: no weight_map from entries to files") from None
    if len(names) > MAX_ENTRIES:
        raise RefusedError(f"it has {len(names)} entries, but at most {MAX_ENTRIES} are expected")
    found: dict[Path, list[str]] = {}
    for entry, name in names.items():
        if {PurePosixPath(name).name, PureWindowsPath(name).name} != {name} or name == "..":
            raise RefusedError(f"it names the file {name!r}, which is not simply the name of one in its folder")
        found.setdefault(path.parent / name, []).append(entry)
    return found


def shards_exist(path: Path) -> bool:
    """Whether a file is an index of shards that are all there, beside the name it was given."""
    try:
        return all(shard.exists() for shard in shards(path))
    except RefusedError:
        return False


def read_shards(path: Path, read: Callable[[Path], Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of a sharded checkpoint, each in the file that the index says, and no other.

    With those that the index or a shard says are others under another name.
    """
    listed, found = shards(path), dict[str, Any]()
    metadata = json.loads(path.read_bytes()).get("metadata")
    aliases = (
        {name: kept for name, kept in metadata.items() if isinstance(kept, str)} if isinstance(metadata, dict) else {}
    )
    for shard, names in listed.items():
        try:
            content = read(shard)
        except RefusedError as error:
            raise RefusedError(f"of its shard {shard.name}: {error}") from None
        if not isinstance(content, Mapping) or content.keys() != set(names):
            raise RefusedError(f"its shard {shard.name} does not hold the entries that the index says")
        found.update(content)
        aliases |= content.aliases if isinstance(content, Tensors) else {}
    return untied(found, aliases)
