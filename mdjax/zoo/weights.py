"""The stacked weights of a group of models: saved and restored by Orbax, told apart by content, checked for NaN."""

import contextlib
import errno
import hashlib
import logging
import math
import os
import re
import stat
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mdjax.errors import InputError, first_line
from mdjax.inputs import is_passing
from mdjax.memory import check_content
from mdjax.models import Architecture

PyTree = Any

_FORMAT = {"use_ocdbt": True, "use_zarr3": True}

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
        with _quiet(), checkpointer(**_FORMAT) as writer:
            writer.save(folder.absolute(), args=ocp.args.PyTreeSave({"params": params, "state": state}))
    except OSError:
        raise
    except Exception as error:  # TensorStore's are ValueErrors whose text holds the system's code, if any
        raise _told_by_the_system(error) or OSError(errno.EIO, first_line(error)) from None


def _told_by_the_system(error: Exception) -> OSError | None:
    """The error of the system that an error of TensorStore's tells of, if any."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return None if code is None else OSError(int(code[1]), os.strerror(int(code[1])))


def restored(folder: Path, architecture: Architecture, count: int) -> tuple[PyTree, PyTree]:
    """The (params, state) in a folder as numpy arrays of `count` models.

    Their names, shapes and types are compared with the architecture's before any is read. Raises ValueError, with the
    reason, where they are others, InputError where they would take more memory than the limit (`mdjax.memory`), the
    system's own OSError for a shortage, and any error of Orbax where files are cut or missing.
    """
    try:
        return _restored(folder, architecture, count)
    except Exception as error:
        if (system := _told_by_the_system(error)) is not None and is_passing(system):
            raise system from None
        raise


def _restored(folder: Path, architecture: Architecture, count: int) -> tuple[PyTree, PyTree]:
    try:
        params, state = architecture.abstract
    except InputError as error:  # of the group's own file, not of what the user has given
        raise ValueError(str(error)) from None
    tree = {"params": params, "state": state}
    size = size_of(folder)
    with _quiet(), checkpointer(**_FORMAT) as reader:
        metadata: Any = reader.metadata(folder.absolute())
        stored = stored_arrays(metadata)
        expected = {
            jax.tree_util.keystr(path): ((count, *leaf.shape), np.dtype(leaf.dtype))
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for name in sorted(expected.keys() ^ stored.keys()):
            raise ValueError(f"it {'lacks' if name in expected else 'has the unexpected'} array {name}")
        for name, (shape, kind) in expected.items():
            if (stored[name].shape, stored[name].dtype) != (shape, kind):
                found = f"{stored[name].dtype}{list(stored[name].shape)}"
                raise ValueError(f"its array {name} is {found}, but {kind}{list(shape)} was expected")
        check_stored("its arrays", stored, size)
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        found = reader.restore(folder.absolute(), args=ocp.args.PyTreeRestore(restore_args=arguments))
    return found["params"], found.get("state") or {}


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder; ValueError for what is neither file nor folder, where a reader could hang."""
    total = 0
    for path in folder.rglob("*"):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise ValueError(f"{path.name} is no regular file")
        total += path.stat().st_size if stat.S_ISREG(mode) else 0
    return total


def stored_arrays(metadata: Any) -> dict[str, Any]:
    """Name → what Orbax's metadata of a checkpoint say of an array; what is none is left out."""
    tree = getattr(metadata.item_metadata, "tree", metadata.item_metadata)
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda node: not isinstance(node, dict | list | tuple))
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if hasattr(leaf, "shape")}


def check_stored(what: str, stored: Mapping[str, Any], size: int) -> None:
    """ValueError where arrays, or the pieces in which they are stored, take more memory than the limit.

    what: how the sentence begins.
    stored: as `stored_arrays` gives them.
    size: bytes of the files.
    """
    total = 0
    for leaf in stored.values():
        pieces = tuple(getattr(getattr(leaf, "storage", None), "chunk_shape", None) or leaf.shape)
        # A piece is read whole, however little of it the array takes.
        padded = [-(-length // max(piece, 1)) * max(piece, 1) for length, piece in zip(leaf.shape, pieces)]
        total += np.dtype(leaf.dtype).itemsize * max(math.prod(leaf.shape), math.prod(padded))
    check_content(what, total, size)


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


def checkpointer(**options: Any) -> ocp.Checkpointer:
    """A reader and writer of checkpoints for this process alone.

    Else Orbax would wait, at every checkpoint, until all processes of a job (`mdjax.engine.hosts`) read one as well.

    options: of Orbax's `PyTreeCheckpointHandler`.
    """
    own = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(own, {own}, barrier_sync_key_prefix=f"process{own}")
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone, **options)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def finite_models(params: PyTree, state: PyTree) -> np.ndarray:
    """Which of the stacked models have no NaN or infinity in any array, [models]."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((params, state))]
    return np.logical_and.reduce([np.isfinite(leaf).all(tuple(range(1, leaf.ndim))) for leaf in leaves])


def check_shapes(group: str, architecture: Architecture, count: int, params: PyTree, state: PyTree) -> None:
    """InputError, which names the group, unless `count` stacked models are of the architecture's arrays and shapes."""
    expected = {
        jax.tree_util.keystr(path): (count, *leaf.shape)
        for path, leaf in jax.tree_util.tree_flatten_with_path(architecture.abstract)[0]
    }
    given = {
        jax.tree_util.keystr(path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path((params, state))[0]
    }
    for name in sorted(expected.keys() ^ given.keys()):
        verb = "lacks" if name in expected else "has the unexpected"
        raise InputError(
            f"Group {group} {verb} array {name} for a {architecture.family} of width {architecture.width}."
        )
    for name, shape in expected.items():
        if given[name] != shape:
            raise InputError(f"Group {group}: array {name} has shape {given[name]}, but {shape} was expected.")
