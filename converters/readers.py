"""Files → their networks, here or in processes of which each may die alone."""

import contextlib
import dataclasses
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from converters.errors import RefusedError, UnknownFamilyError
from converters.identities import Identity, identity
from converters.naming import Given
from converters.own_modules import HINT, OwnModule
from converters.recognition import Recognised, recognised
from converters.state_dicts import Reading
from converters.tellings import found_of, told_given
from mdjax.errors import InputError
from mdjax.files import temporary_folder, writing
from mdjax.pools import Pool
from mdjax.subprocesses import check_workers

_COMMAND = [sys.executable, "-m", "converters.reader"]

_MANY, _MOST_PROCESSES = 1000, 8
"""Files for which it is worth while to start processes, which takes as long as reading some hundred; and how many."""

_DEPTH = 4
"""Files that each process has at hand, so that it need not wait for the next."""

_MOST_BYTES = 2**30
"""Of the files that are read ahead of what is done with them."""


class Found(NamedTuple):
    """A file's network, with its arrays or without, and who it is."""

    network: Recognised
    model: Any
    identity: Identity


class Refusal(NamedTuple):
    """Why a file is not taken, and whether that is because its network is of no known family."""

    reason: str
    is_unknown: bool = False


class Manner(NamedTuple):
    """How all files are read: the shape of an example of the data where it is known, and the networks' own code."""

    shape: tuple[int, ...] | None
    reading: Reading
    module: OwnModule | None


class Reader(Protocol):
    """Reads files one after another."""

    def expect(self, files: Iterable[tuple[Given, bool]]) -> None:
        """Be told which files are to be read, in their order, and of which the arrays are kept."""
        ...

    def read(self, given: Given, *, keep: bool) -> Found | Refusal:
        """The network of a file, its arrays only with `keep`."""
        ...


def read_here(given: Given, manner: Manner, *, keep: bool) -> Found | Refusal:
    """The network of a file, read by this process."""
    try:
        network = recognised(given, *manner)
    except RefusedError as error:
        is_unknown = isinstance(error, UnknownFamilyError)
        return Refusal(f"{error}{HINT if is_unknown and manner.module is None else ''}", is_unknown)
    found = identity(given.candidate, network.row["configuration"], network.model)
    return Found(dataclasses.replace(network, model=None), network.model if keep else None, found)


class OwnReader:
    """Reads in this process."""

    def __init__(self, manner: Manner):
        self._manner = manner

    def expect(self, files: Iterable[tuple[Given, bool]]) -> None:
        pass

    def read(self, given: Given, *, keep: bool) -> Found | Refusal:
        return read_here(given, self._manner, keep=keep)


class ProcessReader:
    """Reads in other processes, ahead of what is asked for.

    pool: of the processes.
    folder: where they hand over arrays.
    most: how many files are read ahead.
    """

    def __init__(self, pool: Pool, folder: Path, most: int):
        self._pool, self._folder, self._most = pool, folder, most
        self._expected: deque[tuple[Given, bool]] = deque()
        self._ahead: dict[tuple[Path, bool], tuple[int, int]] = {}
        self._count = 0

    def expect(self, files: Iterable[tuple[Given, bool]]) -> None:
        self._expected.extend(files)
        self._read_ahead()

    def read(self, given: Given, *, keep: bool) -> Found | Refusal:
        task = self._ahead.pop((given.candidate.path, keep), None)
        self._read_ahead()
        number = self._submit(given, keep, first=True) if task is None else task[0]
        answer = self._pool.result(number)
        if answer.death:
            return Refusal(answer.death)
        if "refused" in answer.content:
            return Refusal(str(answer.content["refused"]), bool(answer.content["is_unknown"]))
        network, model, digest = found_of(answer.content)
        return Found(network, model, Identity(given.candidate, network.row["configuration"], digest))

    def _read_ahead(self) -> None:
        while self._expected and len(self._ahead) < self._most:
            given, keep = self._expected[0]
            size = _size(given.candidate.path)
            if self._ahead and size + sum(size for _, size in self._ahead.values()) > _MOST_BYTES:
                return
            self._expected.popleft()
            self._ahead[given.candidate.path, keep] = self._submit(given, keep), size

    def _submit(self, given: Given, keep: bool, *, first: bool = False) -> int:
        self._count += 1
        file = str(self._folder / str(self._count)) if keep else None
        return self._pool.submit({"given": told_given(given), "file": file}, first=first)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # which is told when it is read
        return 0


def num_readers(asked: int | str, num_files: int, module: OwnModule | None) -> int:
    """How many processes read; 0 where this one does.

    asked: a number, or "auto": one for each core, at most eight, where there are more than a thousand files.
    num_files: how many there are.
    module: the networks' own code.

    InputError for anything else, and for a module that other processes cannot make.
    """
    can_tell = module is None or bool(module.code)
    if asked == "auto":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _MOST_PROCESSES) if can_tell and num_files > _MANY else 0
    count = check_workers(asked)
    if count and not can_tell:
        raise InputError("workers are other processes and need the module as FILE.py:CLASS. Give that, or workers=0.")
    return count


@contextlib.contextmanager
def readers(count: int, manner: Manner, folder: Path | None) -> Iterator[Reader]:
    """What reads files, while the block lasts.

    count: how many processes; 0: this one.
    manner: how all files are read.
    folder: in which they hand over arrays under temporary names (default: among the system's temporary files).
    """
    if not count:
        yield OwnReader(manner)
        return
    setup: Mapping[str, Any] = {
        "shape": manner.shape,
        "reading": manner.reading._asdict(),
        "module": None if manner.module is None else f"{manner.module.code}:{manner.module.construction}",
    }
    with contextlib.ExitStack() as stack:
        with writing("what is read"):
            handed_over = stack.enter_context(temporary_folder(folder))
        pool = stack.enter_context(Pool(_COMMAND, setup, count, depth=_DEPTH))
        yield ProcessReader(pool, handed_over, 2 * _DEPTH * count)
