"""What the processes of bench/kills.py do to a zoo or a table; what they leave, held to an undisturbed run."""

import os
import sys
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pandas as pd
import torch

from converters import convert, groups
from mdjax.errors import InputError
from mdjax.file_sets import PENDING
from mdjax.files import TEMPORARY
from mdjax.metrics.losses import Losses
from mdjax.models import Architecture
from mdjax.stores import LocalStore
from mdjax.sweeps.commits import Commits
from mdjax.sweeps.local import measure
from mdjax.sweeps.units import Cell, Unit
from mdjax.table import FRAMES, Table, read_table, write_table
from mdjax.zoo.grids import Grid
from mdjax.zoo.store import Zoo
from mdjax.zoo.training import train

GRID = Grid(width=(2, 3), batch_size=(64, 128), epochs=1, seeds=2)
"""Four groups of two networks, trained in a moment."""

CHECKPOINTS = [f"c{number // 2}/seed{number % 2}.pt" for number in range(8)]
SMALL = Architecture("mlp", 2, (2, 2, 1), 2)
APPENDED = 6
"""Groups that every appending writer has, each in an order of its own."""

REFUSED = "refused"
"""The answer of a process that was told that another is writing."""


class Trouble(NamedTuple):
    """Rows or files that a folder should not have, or lacks."""

    lost: int = 0
    doubled: int = 0
    mixed: int = 0
    leftovers: int = 0

    def __add__(self, other: "Trouble") -> "Trouble":
        return Trouble(*(mine + its for mine, its in zip(self, other)))


def write_checkpoints(folder: Path) -> None:
    """Plain networks on the digits, each with weights of its own."""
    generator = torch.Generator().manual_seed(0)
    for name in CHECKPOINTS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shapes = {"0.weight": (4, 64), "0.bias": (4,), "2.weight": (10, 4), "2.bias": (10,)}
        torch.save({entry: torch.randn(shape, generator=generator) for entry, shape in shapes.items()}, folder / name)


def serve(orders: Connection, source: Path) -> None:
    """A process that does one order after another, (action, folder, number of the writer), until none can come.

    Answers each with "" where it is done, `REFUSED` where another process was writing, or what went wrong.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    while True:
        try:
            action, out, number = orders.recv()
        except EOFError:
            return
        try:
            ACTIONS[action](source, out, number)
            orders.send("")
        except InputError as error:
            orders.send(REFUSED if str(error).startswith("Another process is writing") else str(error))
        except Exception:
            orders.send(traceback.format_exc())


def _train(source: Path, out: Path, number: int) -> None:
    train(GRID, out, show_progress=False)


def _convert(source: Path, out: Path, number: int) -> None:
    groups.MAX_SECONDS, groups._MAX_FRACTION = 0.0, 1e9  # each model is written as soon as the next is there
    convert(source / "checkpoints", out, data="digits", facts={"nonlinearity": "relu"}, show_progress=False)


def _measure(source: Path, out: Path, number: int) -> None:
    measure(source / "train", out=out, metrics="losses,similarity", preset="fast", show_progress=False)


def _append(source: Path, out: Path, number: int) -> None:
    """All groups, of which each writer has the same; and one of its own name whose models are those of another."""
    order = np.random.RandomState(number).permutation(APPENDED)
    zoo = Zoo.create(out, data="digits")
    for group in order:
        zoo.append(f"g{group}", SMALL, *appended(group))
    try:
        zoo.append(f"of-{number}", SMALL, *appended(order[0]))
    except InputError as error:
        if not str(error).startswith("Model ids occur twice"):
            raise


def appended(group: int) -> tuple[list[dict], dict, dict]:
    """Rows, parameters and state of a group of two models."""
    random = np.random.RandomState(group)
    params, state = jax.tree.map(lambda leaf: random.randn(2, *leaf.shape).astype(np.float32), SMALL.abstract)
    return [{"model_id": f"g{group}-{k}", "configuration": f"g{group}", "seed": k} for k in range(2)], params, state


def _write(source: Path, out: Path, number: int) -> None:
    """Tables of this writer, one after another, and units that all writers finish."""
    commits = Commits(LocalStore(out))
    for turn in range(10):
        rows = pd.DataFrame({"unit": [turn], "status_code": ["ok"], "key": [f"key-{turn}"]})
        unit = Unit(Losses(), Cell(rows, None, 1.0, 0.0), ((0,),), (f"key-{turn}",), f"losses-0-{turn}")
        commits.commit(unit, rows)
        frame = pd.DataFrame({"writer": [number] * 50, "turn": [turn] * 50})
        write_table(out, Table(frame, frame, frame))


ACTIONS = {"train": _train, "convert": _convert, "measure": _measure, "append": _append, "write": _write}


def trouble_of_zoo(out: Path, expected: dict[str, str]) -> Trouble:
    """What a zoo holds, by its groups' own files, beside the models and weights that it should."""
    frames = [pd.read_parquet(path) for path in sorted(out.glob("groups/*/models.parquet"))]
    rows = pd.concat(frames) if frames else pd.DataFrame({"model_id": [], "weights_hash": []})
    trouble = _trouble(rows["model_id"].tolist(), list(expected))
    wrong = sum(expected.get(name) != value for name, value in zip(rows["model_id"], rows["weights_hash"]))
    if trouble == Trouble():
        zoo = Zoo(out)  # which refuses models that are there twice
        wrong += len(zoo) != len(expected)
        for group in zoo.groups:
            zoo.read_group(group)  # whose weights have to fit their hashes
    return trouble + Trouble(mixed=wrong, leftovers=_leftovers(out))


def trouble_of_table(out: Path, expected: Table) -> Trouble:
    """What a measured table holds beside what it should."""
    found, trouble = read_table(out), Trouble(leftovers=_leftovers(out))
    for name in FRAMES:
        mine, its = (_untimed(getattr(table, name)) for table in (found, expected))
        key = ["model_id"] if name == "models" else ["configuration", *(["model_a", "model_b"] * (name == "pairs"))]
        rows = [frame[key].astype(str).agg(" ".join, axis=1).tolist() for frame in (mine, its)]
        trouble += _trouble(*rows)
        if rows[0] == rows[1]:
            try:
                pd.testing.assert_frame_equal(mine, its, rtol=1e-5, atol=1e-6)
            except AssertionError:
                trouble += Trouble(mixed=1)
    return trouble


def trouble_of_written(out: Path) -> Trouble:
    """What a table that `_write` wrote holds beside one writer's last frames and all units."""
    units = sorted(path.name for path in (out / "shards").iterdir())
    trouble = _trouble(units, [f"losses-0-{turn}.parquet" for turn in range(10)])
    table = read_table(out)
    rows = {tuple(row) for name in FRAMES for row in getattr(table, name).to_numpy().tolist()}
    last = len(rows) == 1 and next(iter(rows))[1] == 9
    return trouble + Trouble(mixed=not last, leftovers=_leftovers(out))


def is_mixed(out: Path) -> bool:
    """Whether a reader who comes now finds files of several writings, by what they hold."""
    if not (out / "configurations.parquet").exists():
        return False
    try:
        table = read_table(out)
    except InputError:
        return True
    return len({tuple(row) for name in FRAMES for row in getattr(table, name).to_numpy().tolist()}) != 1


def _untimed(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=[name for name in frame if str(name).endswith("_seconds")])


def _trouble(found: list[str], expected: list[str]) -> Trouble:
    counts = Counter(found)
    return Trouble(
        lost=len(set(expected) - set(counts)), doubled=len(found) - len(counts), mixed=len(set(counts) - set(expected))
    )


def _leftovers(out: Path) -> int:
    names = [path.name for path in out.rglob("*")]
    return sum(name.startswith(TEMPORARY) or name == PENDING or "checkpoint-tmp" in name for name in names)
