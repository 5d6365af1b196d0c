"""PyTorch state_dict files → numpy arrays, without running anything that a file may ask for."""

import re
import warnings
import zipfile
from pathlib import Path

import numpy as np

from mdjax.errors import InputError

_INSTALL = "Run pip install 'mdjax[torch]'."


class RefusedError(InputError):
    """One checkpoint file cannot be taken; the message is the reason, without the file's name."""


def require_torch() -> None:
    """Raise InputError unless torch is there and new enough to read untrusted files."""
    try:
        import torch
    except ImportError:
        raise InputError(f"Reading PyTorch checkpoints needs torch, which is not installed. {_INSTALL}") from None
    # Before 2.10 weights_only=True could be broken out of (CVE-2025-32434, CVE-2026-24747).
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        raise InputError(
            f"torch is {torch.__version__}, but before 2.10 a hostile checkpoint could run code. {_INSTALL}"
        )


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All entries of the bare state_dict in `path`, on the CPU, as they are stored.

    Files in today's (zip) format are mapped, not copied: the arrays are views that keep the mapping open. Their
    checksums are verified first, which torch does not do. Raises RefusedError, with the reason, for a file that is
    unreadable, truncated, damaged, hostile, or holds anything but dense tensors by name.
    """
    import torch

    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise RefusedError(f"it cannot be read: {error.strerror or error}") from None
    if empty:
        raise RefusedError("it is empty")
    damaged = None
    try:
        mapped = zipfile.is_zipfile(path)
        if mapped:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
        with warnings.catch_warnings(action="ignore"):  # about odd pickles, which are refused anyway
            content = None if damaged else torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # a damaged file can raise nearly anything
        raise RefusedError(_reason(error)) from None
    if damaged:
        raise RefusedError(f"it is damaged: {damaged} does not fit its checksum")
    if not isinstance(content, dict):
        raise RefusedError(f"it holds a {type(content).__name__}, not a state_dict")
    return {str(name): _array(name, value) for name, value in content.items()}


def _array(name: object, value: object) -> np.ndarray:
    import torch

    if not isinstance(value, torch.Tensor):
        raise RefusedError(f"its entry {name} is a {type(value).__name__}, not a tensor")
    try:
        return value.detach().numpy()
    except (TypeError, RuntimeError):
        kind = f"{value.dtype}, {value.layout}, on {value.device}".replace("torch.", "")
        raise RefusedError(f"its entry {name} is no plain array ({kind})") from None


def _reason(error: Exception) -> str:
    """Why torch refused a file. Its own words are left out: they advise to load the file unsafely."""
    reference = re.search(r"GLOBAL ([\w.]+)", str(error))
    if reference:
        return f"it refers to {reference[1]}, which plain weights do not need; nothing was run"
    return "it is truncated, damaged, or not written by torch.save"
