"""PyTorch checkpoint files → the plain arrays of one network."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from converters import containers, folding, safetensors_files, wrappers
from mdjax.errors import InputError

_INSTALL = "Run pip install 'mdjax[torch]'."


class Reading(NamedTuple):
    """How a checkpoint file is read.

    `ema` takes the averaged weights that lie beside the others. `trust` loads files that hold classes of their own,
    such as whole modules, which runs whatever they say.
    """

    ema: bool = False
    trust: bool = False


USUAL = Reading()
"""The weights that were trained, from files in which nothing is run."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """One network's arrays by name, the training facts that its file holds beside them, and what was changed."""

    arrays: dict[str, np.ndarray]
    facts: Mapping[str, Any]
    notes: tuple[str, ...] = ()


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


def read_state_dict(path: str | Path, *, ema: bool = False, trust: bool = False) -> dict[str, np.ndarray]:
    """The arrays of the one network in a checkpoint file, by their PyTorch names, on the CPU.

    `path` is a file of torch.save (zip or older, bare or wrapped in a dict), TorchScript, an exported program (.pt2),
    safetensors, or a sharded checkpoint's `*.index.json`. Wrappers, shared prefixes and the criterion's and metrics'
    entries beside a network's are taken off, weight normalisation and pruning multiplied out, numbers of half and
    double precision turned into float32. What is tied in the file is one array under each of its names. `ema` takes
    the averaged weights beside the others. Nothing in the file is run, unless `trust` says so and it holds classes of
    its own.

    Raises InputError where torch is missing, and RefusedError, with the reason, for a file that cannot be taken.
    """
    require_torch()
    return read_checkpoint(Path(path), Reading(ema=ema, trust=trust)).arrays


def read_checkpoint(path: Path, reading: Reading = USUAL) -> Checkpoint:
    """As `read_state_dict`, with the training facts found in the file, and without looking for torch first."""
    if path.name.endswith(safetensors_files.INDEX_SUFFIX):
        containers.check_file(path)
        content = safetensors_files.read_shards(path, lambda shard: containers.read_content(shard, trust=reading.trust))
    else:
        content = containers.read_content(path, trust=reading.trust)
        if isinstance(content, safetensors_files.Tensors):
            content = safetensors_files.untied(content, content.aliases)
    entries, facts = wrappers.unwrap(content, ema=reading.ema)
    entries, left_out = wrappers.without_measures(entries)
    arrays, narrowed = folding.fold(entries)
    notes = [f"{left_out} left out"] if left_out else []
    return Checkpoint(arrays, facts, (*notes, *(["float64 narrowed to float32"] if narrowed else [])))
