"""Files → what they hold, without running anything that a file may ask for.

Zip and older files of `torch.save`, TorchScript, exported programs (`.pt2`). The limits keep a hostile header from
claiming more memory than its file is long.
"""

import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from converters import safetensors_files
from converters.errors import RefusedError
from converters.safetensors_files import MAX_ENTRIES
from mdjax.errors import first_line

_INFLATION = 20
_INFLATION_SLACK = 2**24
"""An archive of n bytes may unpack to _INFLATION · n + _INFLATION_SLACK bytes; weights are not compressed at all."""

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
    open. Their checksums are verified first, which torch does not do. With `trust`, files that need their own classes
    are unpickled, which runs what they say. Raises RefusedError, with the reason, for a file that is unreadable,
    truncated, damaged, hostile or of another kind.
    """
    size = check_file(path)
    if path.suffix == ".safetensors" or safetensors_files.looks_like_one(path):
        return safetensors_files.read_tensors(path)
    try:
        if _is_tar(path):
            raise RefusedError("it is a tar archive; unpack it and convert the files in it")
        if not zipfile.is_zipfile(path):
            return _load(path, trust=trust, mapped=False)
        with zipfile.ZipFile(path) as archive:
            _check_archive(archive, size)
            names = archive.namelist()
            if any(name.endswith(_EXPORT_SUFFIX) for name in names) or _OLD_EXPORT in names:
                return _exported(archive)
            if any(name.endswith("/constants.pkl") for name in names):
                return _script(path, archive, trust=trust)
        return _load(path, trust=trust, mapped=True)
    except RefusedError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise RefusedError(_reason(error)) from None


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


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    entries = archive.infolist()
    if len(entries) > MAX_ENTRIES:
        raise RefusedError(f"it has {len(entries)} entries, but at most {MAX_ENTRIES} are expected")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > _INFLATION * size + _INFLATION_SLACK or sum(entry.compress_size for entry in entries) > size:
        raise RefusedError(f"its {size} bytes unpack to {unpacked}, which weights never do")
    if damaged := archive.testzip():
        raise RefusedError(f"it is damaged: {damaged} does not fit its checksum")


def _load(path: Path, *, trust: bool, mapped: bool) -> Any:
    import torch

    # Warnings are about odd pickles, which are refused anyway.
    with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(_numpy_globals()):
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
        except Exception as error:
            needed = _needed(path, error)
            if needed:
                reason = f"it refers to {', '.join(needed)}, which plain weights do not need"
            elif mapped and "Unsupported operand" in str(error):
                reason = "it is pickled by a protocol newer than torch's own, which cannot be read safely"
            else:
                raise
            if not trust:
                raise RefusedError(f"{reason}; nothing was run. {_TRUST}") from None
        try:
            return torch.load(path, map_location="cpu", weights_only=False, mmap=mapped)
        except Exception as error:
            raise RefusedError(f"{reason}, and loading it failed: {first_line(error)}") from None


def _needed(path: Path, error: Exception) -> list[str]:
    """The names that a pickle would import beyond those of plain weights; none where it is simply no checkpoint."""
    import torch

    try:
        found = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # files before torch 1.6, and all that are no checkpoints
        found = []
    return found or re.findall(r"GLOBAL ([\w.]+)", str(error))[:1]


def _numpy_globals() -> list[Any]:
    """What numpy's numbers and arrays refer to in a pickle, under the names of numpy 1 and 2; all of it inert."""
    multiarray = np._core.multiarray  # pyright: ignore[reportAttributeAccessIssue]
    kinds = {type(np.dtype(code)) for code in "?bBhHiIlLqQefdFD"}
    functions = [multiarray.scalar, multiarray._reconstruct]
    renamed = [
        (function, f"numpy.{core}.multiarray.{function.__name__}")
        for core in ("core", "_core")
        for function in functions
    ]
    return [*renamed, np.ndarray, np.dtype, *sorted(kinds, key=str)]


def _script(path: Path, archive: zipfile.ZipFile, *, trust: bool) -> Mapping[str, Any]:
    """The state_dict of a TorchScript file.

    Loading one runs code of its own only where a class restores itself by `__setstate__`, or through classes that
    are written in C++ (as quantized layers are); such files are refused.
    """
    import torch

    texts = [name for name in archive.namelist() if "/code/" in name and name.endswith(".py")]
    code = b"".join(archive.read(name) for name in texts)
    pickles = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".pkl"))
    for word in (b"__setstate__", b"torch.classes"):
        if not trust and word in code + pickles:
            raise RefusedError(
                f"it is TorchScript that refers to {word.decode()}, which would run code or is quantized; "
                f"nothing was run. {_TRUST}"
            )
    with warnings.catch_warnings(action="ignore"):  # that TorchScript is deprecated
        return torch.jit.load(str(path), map_location="cpu").state_dict()


def _exported(archive: zipfile.ZipFile) -> Mapping[str, Any]:
    """The state_dict of an exported program, read without torch.export.load, which unpickles whatever it finds."""
    import torch

    names = archive.namelist()
    if _OLD_EXPORT in names:
        return torch.load(io.BytesIO(archive.read(_OLD_EXPORT)), map_location="cpu", weights_only=True)
    configs = [name for name in names if name.endswith(_EXPORT_SUFFIX)]
    if len(configs) != 1:
        raise RefusedError(f"it holds {len(configs)} exported programs, not one")
    folder = configs[0].rpartition("/")[0]
    tensors, contents = {}, dict[str, bytearray]()
    for name, entry in json.loads(archive.read(configs[0]))["config"].items():
        place = f"{folder}/{entry['path_name']}"
        if place not in contents:  # what is tied is stored once, and stays one
            contents[place] = bytearray(archive.read(place))
        content = contents[place]
        if entry["use_pickle"]:
            tensors[name] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        else:
            tensors[name] = _raw_tensor(name, content, entry["tensor_meta"])
    return tensors


def _raw_tensor(name: str, content: bytearray, meta: Mapping[str, Any]) -> Any:
    import torch

    # The numbers of torch's exported schema.
    types = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64"}
    types |= {12: "bool", 13: "bfloat16"}
    if meta["dtype"] not in types:
        raise RefusedError(f"its entry {name} has the unexpected type number {meta['dtype']}")
    dtype = getattr(torch, types[meta["dtype"]])
    sizes, strides = ([int(size["as_int"]) for size in meta[key]] for key in ("sizes", "strides"))
    if math.prod(sizes) == 0:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(content, dtype=dtype)
    return flat.as_strided(sizes, strides, int(meta["storage_offset"]["as_int"]))  # refuses to leave the buffer


def _reason(error: Exception) -> str:
    """Why torch refused a file. Its own words are left out: they advise to load the file unsafely."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if names := re.findall(r"GLOBAL ([\w.]+)", str(error)):
        return f"it refers to {names[0]}, which plain weights do not need; nothing was run"
    return "it is truncated, damaged, or not written by torch.save"
