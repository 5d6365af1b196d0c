"""The stacked weights of a group of models: saved and restored by Orbax, told apart by content, checked for NaN."""

import contextlib
import errno
import hashlib
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mdjax.errors import first_line
from mdjax.models import Architecture

PyTree = Any

_LATE = 0.1
"""Seconds in which the threads of a checkpoint that failed come to their ends."""


def weights_hash(params: PyTree, state: PyTree) -> list[str]:
    """One short digest per stacked model over all its arrays, names included: a model's identity by content."""
    leaves = sorted(
        (jax.tree_util.keystr(path), np.asarray(leaf))
        for path, leaf in jax.tree_util.tree_flatten_with_path((params, state))[0]
    )
    digests = [hashlib.blake2b(digest_size=12) for _ in range(len(leaves[0][1]))]
    for name, leaf in leaves:
        for digest, row in zip(digests, leaf, strict=True):
            digest.update(f"{name}{row.dtype.str}{row.shape}".encode())
            digest.update(np.ascontiguousarray(row).tobytes())
    return [digest.hexdigest() for digest in digests]


def save(folder: Path, params: PyTree, state: PyTree) -> None:
    """Save stacked weights in a new folder; OSError with the system's reason where it fails, as on a full disk."""
    try:
        with _quiet(), _checkpointer() as checkpointer:
            checkpointer.save(folder.absolute(), args=ocp.args.PyTreeSave({"params": params, "state": state}))
    except OSError:
        raise
    except Exception as error:  # TensorStore's are ValueErrors whose text holds the system's code, if any
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is not None:
            raise OSError(int(code[1]), os.strerror(int(code[1]))) from None
        raise OSError(errno.EIO, first_line(error)) from None


def restored(folder: Path, architecture: Architecture) -> tuple[PyTree, PyTree]:
    """The (params, state) in a folder as numpy arrays; any error of Orbax where its files are cut or missing."""
    params, state = architecture.abstract
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), {"params": params, "state": state})
    with _quiet(), _checkpointer() as checkpointer:
        tree = checkpointer.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=arguments))
    return tree["params"], tree.get("state") or {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps threads of Orbax and TensorStore from printing, as tracebacks, an error that reaches the caller anyway."""

    def is_news(record: logging.LogRecord) -> bool:
        return not record.exc_info

    def hook(unraisable: Any) -> None:
        # Other arrays of the same checkpoint, whose end nobody waits for any more.
        if "Event loop is closed" not in str(unraisable.exc_value):
            usual(unraisable)

    usual, logger = sys.unraisablehook, logging.getLogger("absl")
    logger.addFilter(is_news)
    sys.unraisablehook = hook
    try:
        yield
    except BaseException:
        time.sleep(_LATE)
        raise
    finally:
        sys.unraisablehook = usual
        logger.removeFilter(is_news)


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True))


def finite_models(params: PyTree, state: PyTree) -> np.ndarray:
    """Which of the stacked models have no NaN or infinity in any array, [models]."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((params, state))]
    return np.logical_and.reduce([np.isfinite(leaf).all(tuple(range(1, leaf.ndim))) for leaf in leaves])
