"""A process that grows the cells of a calibration, as the process that keeps them sees it."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from mdjax.calibration.design import Cell
from mdjax.calibration.targets import Target
from mdjax.errors import InputError
from mdjax.files import temporary_folder, writing
from mdjax.parquet import read_frame
from mdjax.pools import Pool
from mdjax.subprocesses import check_workers
from mdjax.zoo.data import Data, absolute

_COMMAND = [sys.executable, "-m", "mdjax.calibration.grower"]


class LostError(Exception):
    """A cell cannot be grown: its processes died; how, for people."""


def check_growers(asked: int | str, data: Data, target: Target, task: Any = None) -> bool:
    """Whether a process of its own grows cells, one after another, since their time is measured.

    InputError for a number other than 0, 1 and "auto" (1), and for what another process cannot be told.
    """
    count = 1 if asked == "auto" else check_workers(asked)
    if count > 1:
        raise InputError(
            f"workers is {count}, but a calibration measures the time of one cell after another. Give 0 or 1."
        )
    if count and not isinstance(task, str | None):
        raise InputError("workers are other processes and need a task by name. Give that, or workers=0.")
    if count and (not isinstance(data, str | Path) or target.build is not None):
        what = "networks by name" if target.build is not None else "data by name or path"
        raise InputError(f"workers are other processes and need {what}. Give that, or workers=0.")
    return bool(count)


class ApartGrower:
    """Grows cells in another process.

    pool: of the process.
    folder: where it hands over a cell's rows.
    """

    def __init__(self, pool: Pool, folder: Path):
        self._pool, self._file = pool, folder / "cell.parquet"

    def grown(self, cell: Cell) -> pd.DataFrame:
        """The rows of a cell; MemoryError where it does not fit the memory, LostError where its processes die."""
        answer = self._pool.result(self._pool.submit({"cell": list(cell), "file": str(self._file)}))
        if answer.death:
            raise LostError(answer.death)
        if shortage := answer.content.get("shortage"):
            raise MemoryError(shortage)
        return read_frame(self._file)


@contextlib.contextmanager
def growing_apart(
    data: str | Path, fingerprint: str, target: Target, options: tuple[str, int, bool], folder: Path
) -> Iterator[ApartGrower]:
    """What grows cells in another process, while the block lasts.

    data: its name or path.
    fingerprint: its digest.
    target: what the cells' networks are like.
    options: what varies, the seeds of each configuration, and whether the landscape is measured.
    folder: in which cells are handed over under a temporary name.
    """
    told: dict[str, Any] = {field.name: getattr(target, field.name) for field in dataclasses.fields(target)}
    told |= {"training": dict(target.training), "recipe": dataclasses.asdict(target.recipe)}
    setup = {"data": absolute(str(data)), "fingerprint": fingerprint, "target": told, "options": list(options)}
    with contextlib.ExitStack() as stack:
        with writing(f"what is grown in {folder}"):
            handed_over = stack.enter_context(temporary_folder(folder))
        yield ApartGrower(stack.enter_context(Pool(_COMMAND, setup, 1)), handed_over)
