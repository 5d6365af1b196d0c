"""Processes that train groups of models, as the process that writes the zoo sees them.

They hand over what they have trained through files; the zoo is written by its one writer.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mdjax.errors import InputError
from mdjax.files import temporary_folder, writing
from mdjax.handovers import read_arrays
from mdjax.pools import Pool
from mdjax.subprocesses import check_workers, gpus
from mdjax.zoo.data import Data
from mdjax.zoo.grids import Setting

_COMMAND = [sys.executable, "-m", "mdjax.zoo.trainer"]

_FEW = 64
"""Models that are quickly trained again: for so many nobody asks for processes."""


class Trainers(NamedTuple):
    """How many processes train, on which data: its name or path, and its digest."""

    num_workers: int
    data: str
    fingerprint: str


class Group(NamedTuple):
    """A group that was trained: its name, and the leaves of (params, state), stacked."""

    name: str
    leaves: list[np.ndarray]


def num_trainers(asked: int | str, num_models: int, data: Data) -> int:
    """How many processes train; 0 where this one does.

    asked: a number, or "auto": one for each GPU, else one, where there are more than a few dozen models.
    num_models: how many models the grid has.
    data: what they are trained on.

    InputError for anything else, and for data that other processes cannot be told.
    """
    is_named = isinstance(data, str | Path)
    if asked == "auto":
        return max(1, len(list(gpus()))) if is_named and num_models > _FEW else 0
    count = check_workers(asked)
    if count and not is_named:
        raise InputError("workers are other processes and need data by name or path. Give that, or workers=0.")
    return count


def trained_by(
    trainers: Trainers,
    groups: Mapping[str, Sequence[Setting]],
    folder: Path,
    advance: Callable[[float], None],
) -> Iterator[Group]:
    """Train groups in other processes; yields each as it is done.

    trainers: the processes.
    groups: the settings of each.
    folder: in which a temporary one is made for what they hand over.
    advance: told the work done, one model's whole training being 1.

    Raises InputError, in the end, for groups at which processes died again and again.
    """
    with contextlib.ExitStack() as stack:
        with writing(f"what is trained in {folder}"):
            handed_over = stack.enter_context(temporary_folder(folder))
        setup = {"data": trainers.data, "fingerprint": trainers.fingerprint}
        pool = stack.enter_context(Pool(_COMMAND, setup, trainers.num_workers, advance=advance))
        names: dict[int, str] = {}
        for name, settings in groups.items():
            told = [dataclasses.asdict(setting) for setting in settings]
            names[pool.submit({"settings": told, "file": str(handed_over / name)})] = name
        deaths: dict[str, str] = {}
        for _ in groups:
            number, answer = pool.next()
            name = names[number]
            if answer.death:
                deaths[name] = answer.death
                continue
            file = handed_over / name
            leaves = read_arrays(file, answer.content["places"])
            with contextlib.suppress(OSError):  # a system that keeps files that are mapped
                file.unlink()
            yield Group(name, leaves)
    if deaths:
        name, death = next(iter(deaths.items()))
        which = f"group {name}" if len(deaths) == 1 else f"{len(deaths)} groups, first {name}"
        raise InputError(
            f"Cannot train {which}: {death}. All else is in the zoo, and the same command tries again what is missing."
        )
