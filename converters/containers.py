"""Files → what they hold, without running anything that a file may ask for.

Zip and older files of `torch.save`, TorchScript, exported programs (`.pt2`), all read by readers of our own: torch's
would run what it finds. The limits keep a hostile file from taking much more memory than it is long.
"""

import json
import mmap
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from converters import safetensors_files
from converters.errors import RefusedError
from converters.scripts import SCRIPT, read_script
from converters.tensors import Storage, TensorError, view
from converters.torch_files import Records, read_old, read_saved
from mdjax.archives import ArchiveError, check_archive
from mdjax.errors import InputError, first_line
from mdjax.pickles import ForeignError, PickleError

_EXPORT_SUFFIX = "_weights_config.json"
_OLD_EXPORT = "serialized_state_dict.pt"
"""Entries by which archives of torch.export are known, since torch 2.8 and before."""

_TRUST = "Pass --trust (in Python: trust=True) to load it all the same, which runs whatever the file says"


_LFS = b"version https://git-lfs"
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_DISTRIBUTED = (
    "it is part of a checkpoint of torch.distributed.checkpoint, which lies in pieces in its folder. Make one file of "
    "it: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(FOLDER, FILE)"
)


def read_content(path: Path, *, trust: bool = False) -> Any:
    """What a checkpoint file holds, its tensors on the CPU: a mapping, or whatever else was saved.

    Files of torch.save in today's (zip) format are mapped, not copied: the tensors are views that keep the mapping
    open. Their checksums are verified first, which torch does not do. With `trust`, files that need more than
    plain weights do are loaded by torch, which runs what they say. Raises RefusedError, with the reason, for a file
    that is unreadable, truncated, damaged, hostile or of another kind.
    """
    check_file(path)
    if path.suffix == ".safetensors" or safetensors_files.looks_like_one(path):
        return safetensors_files.read_tensors(path)
    try:
        if _is_tar(path):
            raise RefusedError("it is a tar archive; unpack it and convert the files in it")
        with path.open("rb") as file:
            # Private: what is written into a tensor never reaches the file.
            return _read(file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except InputError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        if not isinstance(error, PickleError):
            raise RefusedError(_reason(error)) from None
        reason = f"{error}, which plain weights do not need" if isinstance(error, ForeignError) else str(error)
        if not trust:
            raise RefusedError(f"{reason}; nothing was run. {_TRUST}") from None
        return _trusted(path, reason)


def _read(file: BinaryIO, buffer: mmap.mmap) -> Any:
    if not zipfile.is_zipfile(file):
        return read_old(buffer)
    with zipfile.ZipFile(file) as archive:
        check_archive(archive, len(buffer))
        records = Records(archive, buffer)
        if any(name.endswith(_EXPORT_SUFFIX) for name in records.names) or _OLD_EXPORT in records.names:
            return _exported(records)
        if any(name.endswith("/constants.pkl") for name in records.names):
            return read_script(records)
        return records.saved()


def check_file(path: Path) -> int:
    """The size in bytes of a file that may be opened.

    Raises RefusedError where it is none, or empty, or stands for a file that was not fetched.
    """
    try:
        if path.suffix == ".distcp" or (path / ".metadata").is_file():
            raise RefusedError(_DISTRIBUTED)
        if not path.is_file():
            raise RefusedError("it is no regular file" if path.exists() else "it does not exist")
        with path.open("rb") as file:
            beginning = file.read(256)
        size = path.stat().st_size
    except OSError as error:
        raise RefusedError(f"it cannot be read: {first_line(error)}") from None
    if not beginning:
        raise RefusedError("it is empty")
    if beginning.startswith(_LFS):
        raise RefusedError("it is a Git LFS pointer, not the weights that it stands for. Fetch them: git lfs pull")
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGES):
        raise RefusedError("it is a web page, as a failed download leaves it, not a checkpoint. Download it again")
    return size


def _is_tar(path: Path) -> bool:
    """A real archive, whatever its ending: torch would unpack it. Many `.tar` checkpoints are none."""
    with path.open("rb") as file:
        return file.read(262)[257:] == b"ustar"


def _trusted(path: Path, reason: str) -> Any:
    """What torch makes of a file, which runs what it says."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # that TorchScript is deprecated
            if reason.startswith(SCRIPT):
                return torch.jit.load(str(path), map_location="cpu").state_dict()
            return torch.load(path, map_location="cpu", weights_only=False, mmap=zipfile.is_zipfile(path))
    except Exception as error:
        raise RefusedError(f"{reason}, and loading it failed: {first_line(error)}") from None


def _exported(records: Records) -> Mapping[str, Any]:
    """The state_dict of an exported program, read without torch.export.load, which unpickles whatever it finds."""
    if _OLD_EXPORT in records.names:
        return read_saved(records.content(_OLD_EXPORT))
    configs = [name for name in records.names if name.endswith(_EXPORT_SUFFIX)]
    if len(configs) != 1:
        raise RefusedError(f"it holds {len(configs)} exported programs, not one")
    folder = configs[0].rpartition("/")[0]
    tensors, known = {}, dict[tuple[str, bool], Any]()
    for name, entry in json.loads(records.content(configs[0], safetensors_files.MAX_HEADER))["config"].items():
        place, pickled = f"{folder}/{entry['path_name']}", bool(entry["use_pickle"])
        if (place, pickled) not in known:  # what is tied is stored once, and stays one
            known[place, pickled] = read_saved(records.content(place)) if pickled else records.flat(place)
        found = known[place, pickled]
        tensors[name] = found if pickled else _raw_tensor(name, found, entry["tensor_meta"])
    return tensors


def _raw_tensor(name: str, flat: Any, meta: Mapping[str, Any]) -> Any:
    import torch

    # The numbers of torch's exported schema.
    types = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
    types |= {12: "bool", 13: "bfloat16"}
    if meta["dtype"] not in types:
        raise RefusedError(f"its entry {name} has the unexpected type number {meta['dtype']}")
    sizes, strides = (tuple(size["as_int"] for size in meta[key]) for key in ("sizes", "strides"))
    dtype = getattr(torch, types[meta["dtype"]])
    return view(Storage(flat, dtype), dtype, meta["storage_offset"]["as_int"], sizes, strides)


def _reason(error: Exception) -> str:
    """Why a file is refused that is none of those known, or damaged."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, ArchiveError):
        return str(error)
    reason = f": {error}" if isinstance(error, TensorError) else ""
    return f"it is truncated, damaged, or not written by torch.save{reason}"
